"""What a single number does: formats, casts, functions, sums, block formats, metrics, the profile.

The names below are the public ones. Two more live in their modules only, because they share a name:
`dot.accumulate` (a matmul onto PSUM) and `reduce.accumulate` (values into a running register). The elementary
functions one by one are in `elementary`; `FUNCTIONS` holds them by name.
"""

from reference.numerics.alu import BINARY, BITWISE, INTEGER, UNARY, multiply_add, store_integer
from reference.numerics.bn import bn_aggr, bn_stats
from reference.numerics.cast import cast, to_float32
from reference.numerics.certify import round_certified
from reference.numerics.dot import (
    chain_dot,
    double_row_pass,
    exact_dot,
    exact_dot_passes,
    matmul_pass,
    matmul_passes,
    mx_pass,
    psum_add,
)
from reference.numerics.elementary import FUNCTIONS, Function, activate, prelu, sin_engine, with_accuracy
from reference.numerics.formats import FORMATS, LANE_FORMATS, Format, format_of
from reference.numerics.metrics import (
    Mismatch,
    Summary,
    absolute_error,
    compare,
    max_abs,
    max_ulp,
    relative_l2,
    ulp_histogram,
)
from reference.numerics.mx import (
    MxOperand,
    encode_scale,
    gather_scales,
    quantize_mx,
    scale_rows,
    scale_values,
    scatter_scales,
)
from reference.numerics.power import power
from reference.numerics.profile import (
    CHAIN,
    DEFAULT,
    PARTS,
    QUESTIONS,
    NumericsProfile,
    Part,
    Question,
    question_of,
    variants,
)
from reference.numerics.reduce import (
    REDUCTIONS,
    reduce_abs_max,
    reduce_abs_min,
    reduce_add,
    reduce_logical_and,
    reduce_logical_or,
    reduce_logical_xor,
    reduce_max,
    reduce_min,
    reduce_multiply,
    reduce_subtract,
)
from reference.numerics.subnormals import read_operand, write_result
from reference.numerics.ulp import same_bits, ulp_distance, ulp_size

__all__ = [
    "BINARY",
    "BITWISE",
    "CHAIN",
    "DEFAULT",
    "FORMATS",
    "FUNCTIONS",
    "INTEGER",
    "LANE_FORMATS",
    "PARTS",
    "QUESTIONS",
    "REDUCTIONS",
    "UNARY",
    "Format",
    "Function",
    "Mismatch",
    "MxOperand",
    "NumericsProfile",
    "Part",
    "Question",
    "Summary",
    "absolute_error",
    "activate",
    "bn_aggr",
    "bn_stats",
    "cast",
    "chain_dot",
    "compare",
    "double_row_pass",
    "encode_scale",
    "exact_dot",
    "exact_dot_passes",
    "format_of",
    "gather_scales",
    "matmul_pass",
    "matmul_passes",
    "max_abs",
    "max_ulp",
    "multiply_add",
    "mx_pass",
    "power",
    "prelu",
    "psum_add",
    "quantize_mx",
    "question_of",
    "read_operand",
    "reduce_abs_max",
    "reduce_abs_min",
    "reduce_add",
    "reduce_logical_and",
    "reduce_logical_or",
    "reduce_logical_xor",
    "reduce_max",
    "reduce_min",
    "reduce_multiply",
    "reduce_subtract",
    "relative_l2",
    "round_certified",
    "same_bits",
    "scale_rows",
    "scale_values",
    "scatter_scales",
    "sin_engine",
    "store_integer",
    "to_float32",
    "ulp_distance",
    "ulp_histogram",
    "ulp_size",
    "variants",
    "with_accuracy",
    "write_result",
]
