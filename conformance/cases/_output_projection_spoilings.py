"""What is done to the arguments of output_projection_tkg so that a rule about calls refuses them."""

from __future__ import annotations

import numpy as np

from conformance.randomness import Stream
from conformance.spoilings import Arrays, Changes, Spoiling, other_dtype, other_shape, pick
from reference.contracts.output_projection_tkg import Config
from reference.numerics.cast import cast

_SCALE = np.ones((128, 1), np.float32)


def _attention_rank(config: Config, inputs: Arrays, stream: Stream) -> Changes:
    x = inputs["attention"]
    return {"attention": pick(stream, (x[0], x[None], x[..., None], x.reshape(-1)))}


def _scale(name: str, *kinds: str) -> Spoiling:
    """Left out, of another shape or dtype where the kind of quantization wants it, given where it does not."""

    def spoil(config: Config, inputs: Arrays, stream: Stream) -> Changes:
        if config.quantization not in kinds:
            return {name: _SCALE}
        scale = inputs[name]
        bad = (None, scale[:1], scale[:, :-1], scale[0], cast(scale, "bfloat16"), other_dtype(scale))
        return {name: pick(stream, bad)}

    return Spoiling(name, spoil)


def _another_call(config: Config, inputs: Arrays, stream: Stream) -> Changes:
    """Tensors that are legal among themselves, and tell of a token fewer, or of a bias of another dtype."""
    x = inputs["attention"]
    changes: list[Changes] = [{"attention": x[:, :-1]}] if config.B > 1 else []
    changes += [{"attention": x[..., :-1]}] if config.S > 1 else []
    if config.bias is not None:
        changes.append({"bias": cast(inputs["bias"], "float32" if config.bias != "float32" else "bfloat16")})
    return pick(stream, changes)


SPOILINGS = (
    Spoiling(
        "call_quantization_kind",
        lambda config, inputs, stream: {"quantization_type": pick(stream, ("INT8", "MX", 8))}
    ),
    Spoiling("sbm_none", lambda config, inputs, stream: {"sbm": object()}),
    Spoiling("attention_rank", _attention_rank),
    Spoiling(
        "weight_rows",
        lambda config, inputs, stream: {"weight": pick(stream, (inputs["weight"][:-1], inputs["weight"][None]))}
    ),
    Spoiling(
        "bias_shape",
        lambda config, inputs, stream: {"bias": other_shape(stream, inputs["bias"])},
        lambda config: config.bias is not None,
    ),
    _scale("weight_scale", "STATIC", "ROW"),
    _scale("input_scale", "STATIC"),
    Spoiling("tensor_shapes", _another_call, lambda config: config.B > 1 or config.S > 1 or config.bias is not None),
)
