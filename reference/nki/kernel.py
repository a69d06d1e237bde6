"""`nki.jit` and `nki.simulate`: how a Python function becomes a launch."""

from __future__ import annotations

import functools
import inspect
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from reference.neuroncore.errors import NkiValidationError
from reference.neuroncore.launch import Call, Result, is_active, launch_ranks
from reference.neuroncore.options import Options, active_options

#: Suffix by which callers mark an in-place argument.
ALIAS_SUFFIX = ".must_alias_input"


@dataclass(frozen=True)
class Kernel:
    """A jitted kernel. `kernel[lnc](...)` launches it on 1 or 2 cores; `kernel(...)` on one.

    Called inside a running kernel it is a plain function call. Schedule and address-rotation settings belong
    to the compiler; they are kept and have no effect here.
    """

    func: Callable[..., Any]
    lnc: int = 1
    schedule: tuple[Any, ...] = ()
    address_rotation: bool = True
    barrier_check: bool = False
    grid: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        # A frozen dataclass keeps its __dict__ writable from within: the wrapped function's name, docstring
        # and signature stay visible, which callers and third-party tools read.
        for name in (*functools.WRAPPER_ASSIGNMENTS, "__wrapped__"):
            value = self.func if name == "__wrapped__" else getattr(self.func, name, None)
            object.__setattr__(self, name, value)

    def __getitem__(self, lnc: Any) -> Kernel:
        if isinstance(lnc, tuple) and len(lnc) == 1:
            warnings.warn("kernel[(n,)]: write kernel[n]", stacklevel=2)
            (lnc,) = lnc
        if not isinstance(lnc, int) or isinstance(lnc, bool) or lnc not in (1, 2):
            raise NkiValidationError(
                f"NKI only supports LNC 1 or 2, but got {lnc!r}; write kernel[1] or kernel[2]"
            )
        return replace(self, lnc=lnc, grid=True)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if is_active():
            return self.func(*args, **kwargs)
        return self.launch(args, kwargs, active_options()).outputs

    def launch(self, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options) -> Result:
        """Launch on one rank and return outputs together with the trace."""
        call, chosen = self._bind(args, kwargs, options)
        return launch_ranks(self.func, self.lnc, [call], chosen, self.grid)[0]

    def launch_ranks(
        self, calls: Sequence[tuple[tuple[Any, ...], dict[str, Any]]], options: Options | None = None
    ) -> list[Result]:
        """Launch one rank per (args, kwargs), all at once, so that nki.collectives meet; results in rank
        order."""
        bound = [self._bind(args, kwargs, options or active_options()) for args, kwargs in calls]
        return launch_ranks(self.func, self.lnc, [call for call, _ in bound], bound[0][1], self.grid)

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options) -> tuple[Call, Options]:
        """Arguments in the order of the signature; defaults are left to Python. A keyword that ends in
        `.must_alias_input` declares its argument in-place."""
        named = {name.removesuffix(ALIAS_SUFFIX): value for name, value in kwargs.items()}
        signature = inspect.signature(self.func)
        try:
            bound = signature.bind(*args, **named)
        except TypeError as error:
            raise TypeError(f"{getattr(self, '__name__', 'kernel')}: {error}") from None
        aliased = {name.removesuffix(ALIAS_SUFFIX) for name in kwargs if name.endswith(ALIAS_SUFFIX)}
        if options.in_place is not None and aliased:
            options = options.but(in_place=options.in_place | aliased)
        if os.environ.get("NKI_PRECISE_FP", "1") == "0":
            options = options.but(precise_fp=False)
        return Call(bound.args, bound.kwargs, _names(signature, len(bound.args))), options

    def with_schedule(self, edges: Any) -> Kernel:
        """A copy with compiler scheduling edges [(name, name or names), ...]."""
        for edge in edges:
            if not (isinstance(edge, tuple) and len(edge) == 2 and isinstance(edge[0], str)):
                raise TypeError(f"with_schedule needs (str, str or list of str) pairs, got {edge!r}")
        return replace(self, schedule=tuple(edges))

    def enable_address_rotation(self) -> Kernel:
        """A copy with compiler address rotation on."""
        return replace(self, address_rotation=True)

    def disable_address_rotation(self) -> Kernel:
        """A copy with compiler address rotation off."""
        return replace(self, address_rotation=False)

    def enable_core_barrier_checker(self) -> Kernel:
        """A copy with the compiler's barrier checker on (the simulator's race detector is always on)."""
        return replace(self, barrier_check=True)

    def disable_core_barrier_checker(self) -> Kernel:
        """A copy with the compiler's barrier checker off."""
        return replace(self, barrier_check=False)


def _names(signature: inspect.Signature, count: int) -> tuple[str, ...]:
    """Parameter names of positional arguments; those of *args are numbered."""
    names: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}[{i}]" for i in range(count - len(names))]
        names.append(parameter.name)
    return tuple(names[:count])


def jit(fn: Callable[..., Any] | None = None, **kwargs: Any) -> Any:
    """Decorator: `@nki.jit`, `@nki.jit()` or `nki.jit(f)`. Compiler keywords are accepted and ignored, but
    `platform_target`, which NKI 0.3 removed, is a TypeError."""
    if "platform_target" in kwargs:
        raise TypeError("nki.jit: platform_target was removed; set NEURON_PLATFORM_TARGET_OVERRIDE")
    if fn is None:
        return jit
    return fn if isinstance(fn, Kernel) else Kernel(fn)


def simulate(kernel: Any) -> Callable[..., Any]:
    """A callable that runs `kernel` (a Kernel, `kernel[2]`, or a plain function) in the simulator."""
    return kernel if isinstance(kernel, Kernel) else Kernel(kernel)
