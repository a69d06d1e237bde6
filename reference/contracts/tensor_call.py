"""A call whose Config is known: the tensors beside it, and the rules that hold each to the Config's description."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from reference.contract import Refusal, Rule
from reference.numerics.formats import format_of

C = TypeVar("C")


@dataclass(frozen=True)
class Tensor:
    """What an argument of a legal call looks like."""

    shape: tuple[int, ...]
    dtype: str
    memory: str = "hbm"


@dataclass(frozen=True)
class TensorCall(Generic[C]):
    """A legal Config and the tensors passed with it: anything with `shape` and `dtype`, by argument name."""

    config: C
    #: None counts as not given.
    tensors: Mapping[str, Any]
    #: What the call must be given, and what it may be given to write to.
    read: Mapping[str, Tensor]
    written: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def given(self) -> set[str]:
        """Names of the tensors that are there."""
        return {name for name, tensor in self.tensors.items() if tensor is not None}

    @property
    def missing(self) -> str:
        """Names of tensors that are not there, '' for none."""
        return ", ".join(sorted(set(self.read) - self.given))

    @property
    def unused(self) -> str:
        """Names of tensors that the call has no use for, '' for none."""
        return ", ".join(sorted(self.given - set(self.read) - set(self.written)))

    @property
    def misshapen(self) -> str:
        """The first tensor of another shape or dtype than the Config says, in words; '' for none."""
        for name, wanted in (dict(self.read) | dict(self.written)).items():
            tensor = self.tensors.get(name)
            if tensor is None:
                continue
            got = Tensor(tuple(tensor.shape), dtype_name(tensor), wanted.memory)
            if got != wanted:
                return f"{name} {got.dtype} {got.shape}, expected {wanted.dtype} {wanted.shape}"
        return ""

    def values(self, name: str) -> NDArray[Any] | None:
        """The tensor where its values are at hand, which on a device they are not."""
        tensor = self.tensors.get(name)
        return tensor if isinstance(tensor, np.ndarray) else None


def dtype_name(tensor: Any) -> str:
    """The NKI name of a tensor's dtype; a dtype that NKI does not have keeps its own, for the message."""
    try:
        return format_of(tensor.dtype).name
    except ValueError:
        return str(tensor.dtype)


def other_config(kernel: str, found: C, config: C) -> Refusal | None:
    """For kernels whose tensors tell their Config: the refusal of tensors that tell another than `config`."""
    if found == config:
        return None
    told = {name: value for name, value in vars(found).items() if value != vars(config)[name]}
    asked = {name: vars(config)[name] for name in told}
    shapes = next(rule for rule in TENSOR_RULES if rule.id == "tensor_shapes")
    got = f"inputs are those of {told}, not of {asked}"
    return Refusal(kernel, shapes.id, shapes.argument, shapes.condition, got, shapes.remedy)


#: Tried after the rules about the Config, before those about values.
TENSOR_RULES: tuple[Rule[TensorCall[Any]], ...] = (
    Rule(
        "tensors_given", "tensors", "every tensor that the call reads must be given",
        lambda c: not c.missing, lambda c: f"no {c.missing}", "pass them", "published API page",
    ),
    Rule(
        "tensors_unused", "tensors", "a tensor that the call does not read must be None",
        lambda c: not c.unused, lambda c: c.unused, "leave them out, or turn their option on",
        "an option that is not honoured must not be ignored in silence",
    ),
    Rule(
        "tensor_shapes", "tensors", "tensors must have the shape and dtype of the config",
        lambda c: not c.misshapen, lambda c: c.misshapen, "see the layouts of the contract", "published API page",
    ),
)  # fmt: skip
