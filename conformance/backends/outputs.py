"""From what a launch returned to named outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from conformance.subject import Arrays, Call
from reference.numerics.ulp import same_bytes


class OutputError(ValueError):
    """A kernel returned something else than its case module says it returns."""


def fresh_arguments(call: Call) -> dict[str, Any]:
    """Keyword arguments of one launch: in-place arrays are copies, so that inputs keep their bytes."""
    in_place = set(call.in_place.values())
    return {name: np.array(value) if name in in_place else value for name, value in call.arguments.items()}


def named_outputs(call: Call, returned: Any, arguments: Mapping[str, Any], prefer_returned: bool = False) -> Arrays:
    """Outputs by name: returned tensors in the order of `call.returns`, in-place arguments as they are now.

    Nested tuples count in reading order; None (an output that this config does not have) holds its place
    and is left out. An output that comes both ways must be the same in both, unless what was returned is preferred:
    on a device arguments may keep their bytes. OutputError where that or the number of tensors does not hold.
    """
    values = list(_flat(returned))
    if call.returns and len(values) != len(call.returns):
        raise OutputError(f"the kernel returned {len(values)} tensors, expected {', '.join(call.returns)}")
    outputs = {name: np.asarray(value) for name, value in zip(call.returns, values, strict=False) if value is not None}
    kept = {output: np.asarray(arguments[name]) for output, name in call.in_place.items()}
    if prefer_returned:
        return kept | outputs
    for name, argument in call.in_place.items():
        if name in outputs and not same_bytes(outputs[name], kept[name]):
            raise OutputError(f"the kernel returned another {name} than {argument}, which it updates in place")
    return outputs | kept


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from _flat(item)
    else:
        yield value
