"""nki.typing: names for annotations, `tensor[128, 512]` and `mutable_tensor`. They mean nothing at run
time."""

from __future__ import annotations

from typing import Any


class tensor:
    """Annotation of a tensor; an index, e.g. its shape, is kept for readers only."""

    def __class_getitem__(cls, item: Any) -> type[tensor]:
        return cls


class mutable_tensor(tensor):
    """Annotation of a tensor that the kernel writes."""


__all__ = ["mutable_tensor", "tensor"]
