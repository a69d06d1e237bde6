"""output_projection_tkg with operands on chip, as a fused kernel calls it: HBM in, SBUF between, HBM out."""

import nki
import nki.isa as nisa
import nki.language as nl

from kernels.common_types import QuantizationType
from kernels.lnc import program_sharding
from kernels.output_projection_tkg import output_projection_tkg


@nki.jit
def output_projection_tkg_on_chip(
    attention,
    weight,
    bias,
    TRANSPOSE_OUT=False,
    OUT_IN_SB=False,
    attention_in_sb=False,
    quantization_type=QuantizationType.NONE,
    weight_scale=None,
    input_scale=None,
    project=output_projection_tkg,
):
    """Load attention into SBUF if asked, project, and store a result that stayed in SBUF as [LNC, ...] in HBM.

    With attention_in_sb the second result is each core's attention tile after the call: it must be unchanged.
    """
    n_prgs, prg = program_sharding()
    source = attention
    if attention_in_sb:
        source = nl.ndarray(attention.shape, dtype=attention.dtype, name="caller_attention")
        nisa.dma_copy(dst=source, src=attention)
    result = project(
        source,
        weight,
        bias,
        TRANSPOSE_OUT=TRANSPOSE_OUT,
        OUT_IN_SB=OUT_IN_SB,
        quantization_type=quantization_type,
        weight_scale=weight_scale,
        input_scale=input_scale,
    )
    if OUT_IN_SB:
        stacked = nl.ndarray((n_prgs,) + result.shape, dtype=result.dtype, buffer=nl.shared_hbm, name="stacked")
        nisa.dma_copy(dst=stacked[prg], src=result)
        result = stacked
    if not attention_in_sb:
        return result
    kept = nl.ndarray((n_prgs,) + source.shape, dtype=source.dtype, buffer=nl.shared_hbm, name="kept")
    nisa.dma_copy(dst=kept[prg], src=source)
    return result, kept
