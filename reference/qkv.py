"""Truth and bit-faithful model of `qkv` (contract: the module of that name in contracts).

`inputs` holds the tensors by argument name, those that the config does not have absent or None. Results are
{"out"}: the projection in the layout asked for, [B, S, I] or [I/d, B, S, d]; with a KV cache the query part
[B, S, num_q_heads * d] and beside it "k_cache" and "v_cache" as they are after the call; in token generation
with fused_residual_add also "fused_hidden" [B, S, H], the sum before the norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from reference import qkv_cte, qkv_tkg
from reference.contract import raise_refusal
from reference.contracts.qkv import Config, inputs_refusal, mode
from reference.numerics import DEFAULT, NumericsProfile
from reference.qkv_truth import truth_of
from reference.recorder import NO_RECORD, Recorder
from reference.rounding import is_study

Array = NDArray[Any]
Inputs = Mapping[str, Any]


def truth(config: Config, inputs: Inputs) -> dict[str, Array]:
    """The projection in float64 without any rounding of intermediates, for both modes.

    Quantized operands are what their codes and scales say; the input of STATIC divided by its scale, and K and
    V divided by theirs, are clamped but not rounded. NaN and infinities propagate as in float64.

    The last float64 bits depend on the machine's BLAS: compare within bounds, never store.

    Raises:
        KernelArgumentError: the contract refuses the config or the inputs.
    """
    require(config, inputs)
    return truth_of(config, inputs)


def model(
    config: Config, inputs: Inputs, profile: NumericsProfile = DEFAULT, record: Recorder = NO_RECORD
) -> dict[str, Array]:
    """The kernel's own numbers, rounding point by rounding point, of the mode that serves the call.

    Overflow becomes infinity, NaN stays within its token. The inputs are never written.

    Raises:
        KernelArgumentError: the contract refuses the config or the inputs.
    """
    if not is_study(profile):
        require(config, inputs)
    served_by = qkv_tkg.model if mode(config) == "TKG" else qkv_cte.model
    return served_by(config, inputs, profile, record)


def require(config: Config, inputs: Inputs) -> None:
    """Refuses what the contract refuses, and inputs that are not those of the config."""
    raise_refusal(inputs_refusal(config, inputs))
