"""Claim: classes derived from nl.NKIObject work in every style that kernels write them in."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass
from enum import Enum
from typing import Any

import numpy as np
import pytest

from conformance.tests.machine.bench import out, run, tile

import nki.language as nl  # isort: skip

X = np.array([[-3.75, 0.0, 2.5]], np.float32)


class Plain(nl.NKIObject):
    x: int
    y: int = 5
    z = 7


class Derived(Plain):
    w: str = "w"


@dataclass
class Data(nl.NKIObject):
    x: int
    y: Any = None
    z = 7


@dataclass(frozen=True)
class Frozen(nl.NKIObject):
    x: int
    y: nl.ndarray | None = None


class Own(nl.NKIObject):
    def __init__(self, x: int) -> None:
        super().__init__()
        self.x = x


class After(nl.NKIObject):
    x: int = 1

    def __post_init__(self) -> None:
        self.y = self.x + 1


class Kind(Enum):
    one = 1


def test_objects_without_decorator() -> None:
    assert vars(Plain(3)) == {"x": 3, "y": 5, "z": 7}
    assert vars(Derived(1, 2, w="v")) == {"x": 1, "y": 2, "z": 7, "w": "v"}
    assert Plain(1, z=2) == Plain(x=1, y=5, z=2)
    assert Plain(1) != Derived(1)
    assert Plain().x is None
    assert After(4).y == 5
    with pytest.raises(TypeError, match="unexpected field 'q'"):
        Plain(q=1)


def test_dataclass_objects_and_own_constructors() -> None:
    assert (Data(1, z=3).z, Data().x, Own(4).x) == (3, None, 4)
    frozen = Frozen(x=2)
    assert frozen == Frozen(2)
    with pytest.raises(FrozenInstanceError):
        frozen.x = 3  # type: ignore[misc]
    assert len({Plain(1), Plain(1), Plain(2)}) == 2


def test_arrays_inside_objects_become_tensors() -> None:
    def kernel(config: Any, kind: Any) -> Any:
        assert kind == Kind.one
        return out(tile(config.y))

    given = Data(x=1, y=X)
    assert (run(kernel, given, Kind.one) == X).all()
    assert given.y is X
