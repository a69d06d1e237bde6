"""What kernels assert of single operands before anything is allocated: shapes, dtypes, and numbers that float32 has."""

import nki.language as nl

#: Half a step above the largest float32: from here on a number becomes infinite.
FLOAT32_END = 3.4028235677973366e38
#: Rows of a scale that is repeated on every partition.
P = 128


def is_float(dtype):
    """Whether a dtype is one of those that operands may have which are not multiplied on the tensor engine."""
    return dtype == nl.float32 or dtype == nl.bfloat16 or dtype == nl.float16


def is_number(value):
    """Whether a number is finite in float32; not so NaN."""
    return value > -FLOAT32_END and value < FLOAT32_END


def check_operand(tensor, shape, name):
    """An operand that may be left out has this shape and a float dtype."""
    if tensor != None:
        assert tensor.shape == shape, f"{name} must be of shape {shape}"
        assert is_float(tensor.dtype), f"{name} must be float32, bfloat16 or float16"


def check_scale(scale, columns, one_row, name):
    """A scale has these columns and the same row for every partition or, with one_row, that row alone."""
    fits = scale.shape == (P, columns) or (one_row and scale.shape == (1, columns))
    rows = "1 or 128" if one_row else "128"
    assert fits, f"{name} must have {rows} rows of {columns}"


def check_flags(flags):
    """Versions of an API order its arguments differently: what is no flag was meant for another place."""
    for flag in flags:
        assert flag == True or flag == False, "the flags must be bool"


def check_eps(eps, name):
    """A number that keeps the root of a sum of squares away from 0."""
    assert is_number(eps) and eps >= 0, f"{name} must be finite in float32 and at least 0"
