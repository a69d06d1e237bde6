"""The operators an instruction may take, as one table: class, arity, where they reduce, since which
generation.

Kernels pass `nki.language` functions (`nl.add`); the machine needs only their names. Source: the table of
math operators in the API's common fields, and the generation gates of the API fact sheet (2.0 and 2.8).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from reference.numerics.elementary import FUNCTIONS

from .core import Core
from .errors import MachineError


@dataclass(frozen=True)
class Operator:
    """One ALU operator. `since` is the first generation that has it (`since_op0`: as op0 of a two-op
    instruction).
    """

    name: str
    kind: str  # "bitvec", "arithmetic", "unary" (arithmetic on one operand), "token" (bypass, average)
    reduces: bool = False
    since: int = 2

    @property
    def unary(self) -> bool:
        """Takes one operand: its partner must be None or 0."""
        return self.kind == "unary" or self.name == "invert"

    @property
    def bitvec(self) -> bool:
        """Works on bit patterns of integers, without any cast."""
        return self.kind == "bitvec"


def _table(*rows: Operator) -> Mapping[str, Operator]:
    return MappingProxyType({row.name: row for row in rows})


OPERATORS: Mapping[str, Operator] = _table(
    Operator("invert", "bitvec"),
    Operator("left_shift", "bitvec"),
    Operator("right_shift", "bitvec"),
    Operator("bitwise_and", "bitvec", reduces=True),
    Operator("bitwise_or", "bitvec", reduces=True),
    Operator("bitwise_xor", "bitvec", reduces=True),
    Operator("add", "arithmetic", reduces=True),
    Operator("subtract", "arithmetic", reduces=True),
    Operator("multiply", "arithmetic", reduces=True),
    Operator("maximum", "arithmetic", reduces=True),
    Operator("minimum", "arithmetic", reduces=True),
    Operator("equal", "arithmetic"),
    Operator("not_equal", "arithmetic"),
    Operator("greater_equal", "arithmetic"),
    Operator("greater", "arithmetic"),
    Operator("less_equal", "arithmetic"),
    Operator("less", "arithmetic"),
    Operator("logical_and", "arithmetic", reduces=True),
    Operator("logical_or", "arithmetic", reduces=True),
    Operator("logical_xor", "arithmetic", reduces=True),
    Operator("power", "arithmetic"),
    Operator("abs_max", "arithmetic", reduces=True, since=4),
    Operator("abs_min", "arithmetic", reduces=True, since=4),
    Operator("abs", "unary"),
    Operator("rsqrt", "unary"),
    Operator("reciprocal", "unary"),
    Operator("square", "unary", since=4),
    Operator("relu", "unary", since=4),
    Operator("bypass", "token", since=4),
    Operator("average", "token"),
)

COMPARISONS = frozenset({"equal", "not_equal", "greater", "greater_equal", "less", "less_equal"})

#: What people reach for, and what the hardware has instead.
_INSTEAD = {
    "divide": "multiply by nisa.reciprocal of the divisor",
    "mod": "there is no remainder on the hardware",
    "fmod": "there is no remainder on the hardware",
    "logical_not": "compare with 0 (nl.equal), or nl.logical_xor with 1 for 0/1 data",
    "max": "nl.maximum is the operator; nl.max is a function",
    "min": "nl.minimum is the operator; nl.min is a function",
    "sum": "nl.add is the operator; nl.sum is a function",
}


def operator_name(op: Any) -> str:
    """The name of the operator that `op` stands for: its `nki_op`, else its `__name__`; a string is
    itself.
    """
    if isinstance(op, str):
        return op
    name = getattr(op, "nki_op", None) or getattr(op, "__name__", None)
    if not isinstance(name, str):
        raise MachineError(
            "operator.type",
            f"{op!r} names no operator",
            operand="op",
            remedy="pass an nki.language function, e.g. nl.add",
        )
    return name


def operator_of(core: Core, op: Any, operand: str = "op") -> Operator:
    """The ALU operator that `op` names, available on the target; MachineError otherwise."""
    name = operator_name(op)
    known = OPERATORS.get(name)
    if known is None:
        remedy = _INSTEAD.get(name) or _where_to(name)
        raise MachineError("operator.unknown", f"'{name}' is no ALU operator", operand=operand, remedy=remedy)
    if core.generation.level < known.since:
        raise MachineError(
            "operator.generation",
            f"nl.{name} needs NeuronCore-v{known.since} or newer as an ALU operator, the target is "
            f"{core.generation.chip} (NeuronCore-v{core.generation.level})",
            operand=operand,
            remedy="set NEURON_PLATFORM_TARGET_OVERRIDE, or take another operator",
        )
    return known


def _where_to(name: str) -> str:
    if name in FUNCTIONS:
        return "it is a function of the scalar engine: use nisa.activation"
    return f"use one of {', '.join(f'nl.{known}' for known in OPERATORS)}"


def arithmetic(core: Core, op: Any, operand: str = "op", *, unary: bool = True) -> Operator:
    """An operator on fp32 values (not bit patterns, not a token); `unary=False` wants two operands."""
    known = operator_of(core, op, operand)
    if known.kind not in ("arithmetic", "unary") or (known.kind == "unary" and not unary):
        wanted = "an arithmetic operator" if unary else "a binary arithmetic operator"
        raise MachineError(
            "operator.class",
            f"nl.{known.name} is {_article(known)}, this takes {wanted}",
            operand=operand,
            remedy="use e.g. nl.add, nl.multiply, nl.maximum",
        )
    return known


def one_of(core: Core, op: Any, allowed: Collection[str], operand: str = "op") -> Operator:
    """An operator out of a short list."""
    known = operator_of(core, op, operand)
    if known.name not in allowed:
        raise MachineError(
            "operator.class",
            f"nl.{known.name} is not supported here",
            operand=operand,
            remedy=f"use {', '.join(f'nl.{name}' for name in allowed)}",
        )
    return known


def same_class(first: Operator, second: Operator) -> None:
    """Both operators of an instruction work on bit patterns, or both on fp32 values."""
    if first.bitvec != second.bitvec:
        raise MachineError(
            "operator.class",
            f"nl.{first.name} and nl.{second.name}: one bit-vector, one arithmetic",
            operand="op1",
            remedy="issue two instructions",
        )


def _article(known: Operator) -> str:
    return {"bitvec": "a bit-vector operator", "unary": "a unary operator"}.get(known.kind, f"a {known.kind}")
