"""Virtual registers: 32-bit scalars that exist at run time only."""

from __future__ import annotations

import warnings
from typing import Any

from .errors import MachineError


class VirtualRegister:
    """A 32-bit register (nki.isa.VirtualRegister).

    Holds a Python int in [-2^31, 2^32). Its value is not known while a kernel is traced, so using it as a Python
    int or operand raises TypeError, as the tracing front end of the compiler does. Its truth value is that of
    `while reg:` (deprecated since 0.6 in favour of nl.while_loop): not zero. `frozen` marks the induction register
    of a dynamic loop: writing to it is an error.
    """

    __slots__ = ("frozen", "state")

    def __init__(self, state: int | None = None, frozen: bool = False) -> None:
        self.state = 0 if state is None else _checked(state)
        self.frozen = frozen

    def set(self, value: int) -> None:
        """Store a value; refused on a frozen register and outside 32 bits."""
        if self.frozen:
            raise MachineError(
                "register.frozen",
                "the induction register of a dynamic loop cannot be written",
                remedy="copy it into a register of your own",
            )
        self.state = _checked(value)

    def _untraceable(self, *_: Any) -> Any:
        raise TypeError(
            "a VirtualRegister has no value in Python control flow: branch with nl.fori_loop / nl.while_loop, "
            "index with .ap(scalar_offset=...) or nl.ds"
        )

    def __bool__(self) -> bool:
        warnings.warn("`while reg:` is deprecated; use nl.while_loop", DeprecationWarning, stacklevel=2)
        return self.state != 0

    __int__ = __index__ = __float__ = _untraceable
    __lt__ = __le__ = __gt__ = __ge__ = _untraceable
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __neg__ = _untraceable
    __floordiv__ = __mod__ = __and__ = __or__ = __lshift__ = __rshift__ = _untraceable

    def __repr__(self) -> str:
        return f"VirtualRegister({'frozen' if self.frozen else 'free'})"


def _checked(value: int) -> int:
    number = int(value)
    if not -(2**31) <= number < 2**32:
        raise MachineError("register.range", f"{number} does not fit a 32-bit register")
    return number
