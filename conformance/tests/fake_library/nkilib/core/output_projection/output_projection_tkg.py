"""Signature of the reference page: quantisation stands before the layout."""

import nki
import nkilib
from nkilib.core.utils.common_types import QuantizationType, ours

from kernels.output_projection_tkg import output_projection_tkg as our_projection


@nki.jit
def output_projection_tkg(
    attention,
    weight,
    bias=None,
    quantization_type=QuantizationType.NONE,
    weight_scale=None,
    input_scale=None,
    TRANSPOSE_OUT=False,
    OUT_IN_SB=False,
    sbm=None,
):
    return our_projection(
        attention,
        weight,
        None if "output_projection_tkg" in nkilib.broken else bias,
        TRANSPOSE_OUT=TRANSPOSE_OUT,
        OUT_IN_SB=OUT_IN_SB,
        quantization_type=ours(quantization_type),
        weight_scale=weight_scale,
        input_scale=input_scale,
    )
