"""Lines of faulty kernels that several catalogs put in: whole lines of text, indented by `indent` spaces."""

from __future__ import annotations


def truncated(wide: str, dst: str, indent: int) -> str:
    """dst (bfloat16) := the float32 tile `wide`, its lower half cut off instead of rounded."""
    return _lines(
        indent,
        f"bits = {wide}.view(nl.int32)",
        "nisa.tensor_scalar(dst=bits, data=bits, op0=nl.bitwise_and, operand0=-65536, engine=nisa.vector_engine)",
        f"nisa.tensor_copy(dst={dst}, src={wide}, engine=nisa.vector_engine)",
    )


def one_step_off(tile: str, indent: int) -> str:
    """Every element of a 16-bit tile is the number after it."""
    return _lines(
        indent,
        f"steps = {tile}.view(nl.uint16)",
        "nisa.tensor_scalar(dst=steps, data=steps, op0=nl.add, operand0=1, engine=nisa.vector_engine)",
    )


def narrowed(tile: str, shape: str, indent: int) -> str:
    """A float32 tile (or view) of `shape` passes bfloat16 on its way."""
    return _lines(
        indent,
        f"narrow = nl.ndarray({shape}, dtype=nl.bfloat16)",
        f"nisa.tensor_copy(dst=narrow, src={tile}, engine=nisa.vector_engine)",
        f"nisa.tensor_copy(dst={tile}, src=narrow, engine=nisa.vector_engine)",
    )


def rows_swapped(tile: str, indent: int) -> str:
    """The first two partitions of a tile change places."""
    return _lines(
        indent,
        f"swapped = nl.ndarray((2, *{tile}.shape[1:]), dtype={tile}.dtype)",
        f"nisa.dma_copy(dst=swapped[0:1], src={tile}[1:2])",
        f"nisa.dma_copy(dst=swapped[1:2], src={tile}[0:1])",
        f"nisa.dma_copy(dst={tile}[0:2], src=swapped)",
    )


def _lines(indent: int, *lines: str) -> str:
    return "".join(f"{' ' * indent}{line}\n" for line in lines)
