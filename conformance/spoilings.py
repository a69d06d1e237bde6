"""Ways to take a legal call past one rule about its arguments: what fuzzing does to be refused at the door.

Rules about a Config are met by drawing illegal configs. Those about the tensors beside it (missing, of another shape
or dtype, an index out of range) need a legal config and inputs that are spoiled. Such a call is a case like any other,
of lane `spoiled_<rule>`: its inputs are those of lane 'normal' for the same seed, spoiled as the seed says.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from conformance.randomness import Stream

Arrays = Mapping[str, NDArray[Any]]
#: Arguments by name; None takes one away. Options of the call that no Config can say wrongly may stand among them.
Changes = Mapping[str, Any]

T = TypeVar("T")

_PREFIX = "spoiled_"


def _every(config: Any) -> bool:
    return True


@dataclass(frozen=True)
class Spoiling:
    """How one rule is violated.

    rule    its id
    spoil   (config, inputs, stream) -> the arguments that are others now; writes to none of the inputs
    fits    the configs whose calls can violate the rule
    """

    rule: str
    spoil: Callable[[Any, Arrays, Stream], Changes]
    fits: Callable[[Any], bool] = _every

    def spoiled(self, config: Any, inputs: Arrays, stream: Stream) -> dict[str, Any]:
        """All arguments of the call that is to be refused; those that are not spoiled are the same objects."""
        given = dict(inputs) | dict(self.spoil(config, inputs, stream))
        return {name: value for name, value in given.items() if value is not None}


def lane_of(rule: str) -> str:
    """The lane of calls that this rule has to refuse."""
    return f"{_PREFIX}{rule}"


def rule_of(lane: str) -> str:
    """The rule that has to refuse calls of a lane, '' where they are legal."""
    return lane.removeprefix(_PREFIX) if lane.startswith(_PREFIX) else ""


# ---- parts of spoilings ------------------------------------------------------------------------------------------


def pick(stream: Stream, values: Sequence[T]) -> T:
    """One of them."""
    return values[int(stream.integers(0, len(values)))]


def with_value(array: NDArray[Any], place: Any, value: Any) -> NDArray[Any]:
    """A copy with another value at one place."""
    found = array.copy()
    found[place] = value
    return found


def any_place(stream: Stream, array: NDArray[Any]) -> tuple[int, ...]:
    """An index of some element."""
    return tuple(int(stream.integers(0, size)) for size in array.shape)


def other_shape(stream: Stream, array: NDArray[Any]) -> NDArray[Any]:
    """One row fewer, one column fewer, or one axis more."""
    return pick(stream, (array[:-1], array[..., :-1], array[None], array[..., None]))


def other_dtype(array: NDArray[Any]) -> NDArray[Any]:
    """The same shape in a dtype that no argument of these kernels has."""
    return np.zeros(array.shape, np.complex64)


# ---- the rules about tensors that kernels share ------------------------------------------------------------------


def missing() -> Spoiling:
    """A tensor that the call reads is not given."""
    return Spoiling("tensors_given", lambda config, inputs, stream: {pick(stream, sorted(inputs)): None})


def unused(tensors: Callable[[Any], Collection[str]], *names: str) -> Spoiling:
    """One of these tensors is given to a call that does not read it; `tensors` names those that a call reads."""

    def absent(config: Any) -> list[str]:
        return sorted(set(names) - set(tensors(config)))

    return Spoiling(
        "tensors_unused",
        lambda config, inputs, stream: {pick(stream, absent(config)): np.ones((1, 1), np.float32)},
        lambda config: bool(absent(config)),
    )


def misshapen() -> Spoiling:
    """A tensor of another shape or dtype than the config says."""

    def spoil(config: Any, inputs: Arrays, stream: Stream) -> Changes:
        name = pick(stream, sorted(inputs))
        kept = stream.child("shape").integers(0, 2)
        return {name: other_shape(stream.child("how"), inputs[name]) if kept else other_dtype(inputs[name])}

    return Spoiling("tensor_shapes", spoil)
