"""neuronxcc.nki.typing: the annotations of nki.typing."""

from nki.typing import mutable_tensor, tensor

__all__ = ["mutable_tensor", "tensor"]
