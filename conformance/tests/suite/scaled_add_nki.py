"""The toy subject of `scaled_add` as an NKI kernel on the machine: one right, the others wrong as named."""

import nki
import nki.isa as nisa
import nki.language as nl

from conformance.tests.standin.opaque import Opaque


@nki.jit
def scaled_add(a, b, total, scale):
    """y = a * scale + b in the dtype of a; total += a * scale in place."""
    return _scaled_add(a, b, total, scale)


opaque = Opaque.of(scaled_add)


@nki.jit
def uses_a_larger_tile(a, b, total, scale):
    """Right: the tile of the product has more room than is used."""
    return _scaled_add(a, b, total, scale, spare=32)


@nki.jit
def rounds_the_product(a, b, total, scale):
    return _scaled_add(a, b, total, scale, held_dtype=nl.bfloat16)


@nki.jit
def adds_b_twice(a, b, total, scale):
    return _scaled_add(a, b, total, scale, additions=2)


@nki.jit
def holds_the_product_in_float16(a, b, total, scale):
    return _scaled_add(a, b, total, scale, product_dtype=nl.float16)


@nki.jit
def stores_a_row_late(a, b, total, scale):
    return _scaled_add(a, b, total, scale, row_shift=1)


@nki.jit
def forgets_a_name(a, b, total, scale):
    return _scaled_add(a, b, total, scale, sum_name=None)


@nki.jit
def has_a_tile_of_its_own(a, b, total, scale):
    return _scaled_add(a, b, total, scale, sum_name="sum_1")


@nki.jit
def reads_what_it_never_wrote(a, b, total, scale):
    tile = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.sbuf)
    y = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=y, src=tile)
    return y


def _scaled_add(
    a,
    b,
    total,
    scale,
    spare=0,
    held_dtype=nl.float32,
    product_dtype=nl.float32,
    additions=1,
    row_shift=0,
    sum_name="sum_0",
):
    rows, cols = a.shape
    y = nl.ndarray((rows, cols), dtype=a.dtype, buffer=nl.shared_hbm)
    a_tile = load(a)
    b_tile = load(b)
    held = nl.ndarray((rows, cols), dtype=held_dtype, buffer=nl.sbuf)
    nisa.tensor_scalar(dst=held, data=a_tile, op0=nl.multiply, operand0=scale, engine=nisa.engine.vector)
    room = nl.ndarray((rows, cols + spare), dtype=product_dtype, buffer=nl.sbuf, name="product_0")
    product = room[:, 0:cols]
    nisa.tensor_copy(dst=product, src=held, engine=nisa.engine.vector)
    sum_tile = nl.ndarray((rows, cols), dtype=nl.float32, buffer=nl.sbuf, name=sum_name)
    nisa.tensor_tensor(dst=sum_tile, data1=product, data2=b_tile, op=nl.add, engine=nisa.engine.vector)
    for _ in range(additions - 1):
        nisa.tensor_tensor(dst=sum_tile, data1=sum_tile, data2=b_tile, op=nl.add, engine=nisa.engine.vector)
    if row_shift:
        nisa.dma_copy(dst=y[0:row_shift, :], src=sum_tile[rows - row_shift : rows, :])
    nisa.dma_copy(dst=y[row_shift:rows, :], src=sum_tile[0 : rows - row_shift, :])
    total_tile = load(total)
    nisa.tensor_tensor(dst=total_tile, data1=total_tile, data2=product, op=nl.add, engine=nisa.engine.vector)
    nisa.dma_copy(dst=total, src=total_tile)
    return y


def load(tensor):
    tile = nl.ndarray(tensor.shape, dtype=tensor.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=tensor)
    return tile


@nki.jit
def never_ends(a, b, total, scale):
    tile = load(a)
    while scale:
        nisa.tensor_copy(dst=tile, src=tile, engine=nisa.engine.vector)


@nki.jit
def asserts(a, b, total, scale):
    assert a.shape[0] > 100, "one row too few"
