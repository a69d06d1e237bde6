"""The running softmax of a row between segments: flash update, merge of independent results, normalisation.

`n` is the negated row maximum, `sum` the sum of exponentials, `o` the weighted values before they are normalised.
"""

import nki.isa as nisa
import nki.language as nl

from kernels.paged_load import P

#: A sum below this is of a row that saw nothing; the quotient stays finite.
SMALLEST_SUM = 2.0**-126


class RowState(nl.NKIObject):
    """One row's queries and running values; column g of `n` and `sum` belongs to group g of 128 queries."""

    row: int = 0
    groups: int = 0
    query: nl.ndarray = None
    #: fp32 [128, 1], the row's sink in every partition; None without one.
    sink: nl.ndarray = None
    n: nl.ndarray = None
    sum: nl.ndarray = None
    o: nl.ndarray = None


class GroupResult(nl.NKIObject):
    """One segment's n and sum [128, 1] and output [128, d] for a group; the output may be in PSUM."""

    n: nl.ndarray = None
    sum: nl.ndarray = None
    o: nl.ndarray = None


def allocate_state(state, d):
    """Unwritten running values for all groups of a row."""
    state.n = nl.ndarray((P, state.groups), dtype=nl.float32)
    state.sum = nl.ndarray((P, state.groups), dtype=nl.float32)
    state.o = nl.ndarray((P, state.groups, d), dtype=nl.float32)


def group_state(state, g):
    """The running values of group g, as views that can be written."""
    return GroupResult(n=state.n[:, g : g + 1], sum=state.sum[:, g : g + 1], o=state.o[:, g, :])


def vector(shape, name):
    """A named fp32 tile."""
    return nl.ndarray(shape, dtype=nl.float32, buffer=nl.sbuf, name=name)


def put(state, g, n, total, o):
    """The running values of group g := n, total, o."""
    before = group_state(state, g)
    nisa.tensor_copy(dst=before.n, src=n, engine=nisa.vector_engine)
    nisa.tensor_copy(dst=before.sum, src=total, engine=nisa.vector_engine)
    nisa.tensor_copy(dst=before.o, src=o, engine=nisa.vector_engine)


def product(dst, first, second):
    """dst := first * second, `second` one value per partition."""
    nisa.tensor_scalar(dst=dst, data=first, op0=nl.multiply, operand0=second, engine=nisa.vector_engine)


def multiply_add(dst, data, factor, term):
    """dst := data * factor + term, `factor` one value per partition."""
    nisa.scalar_tensor_tensor(dst=dst, data=data, op0=nl.multiply, operand0=factor, op1=nl.add, operand1=term)


def flash_update(state, g, new):
    """Take a segment whose maximum already includes the running one: only what is there is rescaled."""
    before = group_state(state, g)
    name = f"{state.row}_{g}"
    corr = vector((P, 1), f"corr_{name}")
    nisa.activation(dst=corr, op=nl.exp, data=before.n, scale=-1.0, bias=new.n)
    total = vector((P, 1), f"run_sum_{name}")
    multiply_add(total, before.sum, corr, new.sum)
    o = vector(before.o.shape, f"run_out_{name}")
    multiply_add(o, before.o, corr, new.o)
    put(state, g, new.n, total, o)


def factor(top, n, name):
    """exp(top - n), the difference stored in between."""
    shift = nl.ndarray((P, 1), dtype=nl.float32)
    nisa.tensor_tensor(dst=shift, data1=top, data2=n, op=nl.subtract, engine=nisa.vector_engine)
    result = vector((P, 1), name)
    nisa.activation(dst=result, op=nl.exp, data=shift)
    return result


def merge(state, g, kind, new):
    """Take a segment with a maximum of its own: both sides are rescaled to the larger one."""
    before = group_state(state, g)
    name = f"{state.row}_{kind}_{g}"
    top = vector((P, 1), f"merged_top_{name}")
    nisa.tensor_tensor(dst=top, data1=before.n, data2=new.n, op=nl.minimum, engine=nisa.vector_engine)
    old_factor = factor(top, before.n, f"old_factor_{name}")
    new_factor = factor(top, new.n, f"new_factor_{name}")
    old_sum = vector((P, 1), f"old_sum_{name}")
    product(old_sum, before.sum, old_factor)
    new_sum = vector((P, 1), f"new_sum_{name}")
    product(new_sum, new.sum, new_factor)
    total = vector((P, 1), f"merged_sum_{name}")
    nisa.tensor_tensor(dst=total, data1=old_sum, data2=new_sum, op=nl.add, engine=nisa.vector_engine)
    old_out = vector(before.o.shape, f"old_out_{name}")
    product(old_out, before.o, old_factor)
    o = vector(before.o.shape, f"merged_out_{name}")
    multiply_add(o, new.o, new_factor, old_out)
    put(state, g, top, total, o)


def normalise(row, g, total, o, v_scale):
    """(reciprocal of the sum fp32 [128, 1], output bf16 [128, d]): rounded before the product and after it.

    v_scale is fp32 [128, d], the same row in every partition, or None.
    """
    name = f"{row}_{g}"
    divisor = nl.ndarray((P, 1), dtype=nl.float32)
    nisa.tensor_scalar(
        dst=divisor, data=total, op0=nl.maximum, operand0=SMALLEST_SUM, engine=nisa.vector_engine
    )
    recip = vector((P, 1), f"recip_{name}")
    nisa.reciprocal(dst=recip, data=divisor)
    rounded = nl.ndarray(o.shape, dtype=nl.bfloat16, name=f"rounded_{name}")
    nisa.tensor_copy(dst=rounded, src=o, engine=nisa.vector_engine)
    out = nl.ndarray(o.shape, dtype=nl.bfloat16, name=f"out_{name}")
    if v_scale == None:
        product(out, rounded, recip)
    else:
        norm = vector(o.shape, f"norm_{name}")
        product(norm, rounded, recip)
        nisa.tensor_tensor(dst=out, data1=norm, data2=v_scale, op=nl.multiply, engine=nisa.vector_engine)
    return recip, out
