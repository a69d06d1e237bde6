"""The float32 chain: acc = fl(acc + fl(a_k * b_k)), k ascending; in NumPy, and compiled where numba is.

Both versions do the same IEEE operations in the same order, so they have the same bits; a test holds them
equal.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.cast import to_float32
from reference.numerics.dot_orders import by_blocks

Array = NDArray[Any]
Loop = Callable[[Array, Array, Array], None]


def chain_dot(a: Any, b: Any, *, start: Any = None, fast: bool = True) -> Array:
    """Dot product over K in float32, row 0 to row K-1, each product and each sum rounded; [..., M, N].

    IEEE float32 at NaN, infinity, overflow and subnormals. The register starts from `start`, or from +0, so
    that a sum of -0 products is +0. Products of 16-bit operands are exact unless they leave the range.

    Args:
        a: [..., K, M] in any float storage dtype; leading axes broadcast against those of `b`.
        b: [..., K, N].
        start: float32 [..., M, N].
        fast: use compiled loops where numba is importable; the bits are the same.
    """
    left, right = np.asarray(a), np.asarray(b)
    if left.ndim < 2 or right.ndim < 2 or left.shape[-2] != right.shape[-2]:
        raise ValueError(f"chain_dot: expects [..., K, M] and [..., K, N], got {left.shape} and {right.shape}")
    loop = (compiled_loop() if fast else None) or numpy_loop

    def fill(a_block: Array, b_block: Array, begin: Array | None) -> Array:
        register = np.zeros((len(a_block), a_block.shape[2], b_block.shape[2]), np.float32)
        if begin is not None:
            register[...] = begin
        # NumPy's `take` may give arrays of any layout; the compiled loop is typed for C order.
        loop(register, *(np.ascontiguousarray(to_float32(x)) for x in (a_block, b_block)))
        return register

    return by_blocks(fill, left, right, start)


def numpy_loop(register: Array, a: Array, b: Array) -> None:
    """register [B, M, N] += the rows of a [B, K, M] and b [B, K, N], one after the other."""
    product = np.empty_like(register)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for k in range(a.shape[1]):
            np.multiply(a[:, k, :, None], b[:, k, None, :], out=product)
            np.add(register, product, out=register)


@cache
def compiled_loop() -> Loop | None:
    """`numpy_loop` compiled by numba, or None where numba is not installed (`pip install .[fast]`)."""
    try:
        import numba  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return None
    # Without fastmath LLVM neither reorders the sum nor fuses multiply and add.
    compiled: Loop = numba.njit(fastmath=False, cache=False)(_rows)
    return compiled


def _rows(register: Array, a: Array, b: Array) -> None:
    for batch in range(register.shape[0]):
        for m in range(register.shape[1]):
            for k in range(a.shape[1]):
                factor = a[batch, k, m]
                for n in range(register.shape[2]):
                    register[batch, m, n] += factor * b[batch, k, n]
