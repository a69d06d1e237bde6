"""Claims about the contract of `output_projection_tkg`: limits accept their edge and refuse the next step."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from enum import Enum
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from reference.contracts.output_projection_tkg import (
    CALL_RULES,
    CONTRACT,
    Call,
    Config,
    call_refusal,
    refusal,
    validate,
    validate_call,
)
from reference.errors import KernelArgumentError

PLAIN = Config(4, 8, 2, 128, 1024)
TRANSPOSED = replace(PLAIN, transpose_out=True)
STATIC = replace(PLAIN, weight_dtype="float8_e4m3", quantization="STATIC")
ROW = replace(STATIC, quantization="ROW")

#: rule id: (a config at the edge that is legal, the same config one step past it).
EDGES = {
    "flags_are_bool": [
        (PLAIN, replace(PLAIN, transpose_out=0)),
        (TRANSPOSED, replace(PLAIN, transpose_out="STATIC")),
        (replace(PLAIN, out_in_sb=True), replace(PLAIN, out_in_sb=1)),
    ],
    "quantization_kind": [
        (STATIC, replace(STATIC, quantization="MX")),
        (ROW, replace(ROW, quantization="row")),
    ],
    "sizes_positive": [
        *((replace(PLAIN, **{n: 1}), replace(PLAIN, **{n: 0})) for n in "BNSD"),
        (PLAIN, replace(PLAIN, H=0)),
        (PLAIN, replace(PLAIN, N=-8)),
        (PLAIN, replace(PLAIN, B=4.0)),
    ],
    "lnc": [(replace(PLAIN, lnc=2), replace(PLAIN, lnc=3)), (PLAIN, replace(PLAIN, lnc=0))],
    "attention_dtype": [
        (replace(PLAIN, dtype="float16"), replace(PLAIN, dtype="float8_e4m3")),
        (STATIC, replace(STATIC, dtype="float64")),
    ],
    "weight_dtype": [
        (PLAIN, replace(PLAIN, weight_dtype="float8_e4m3")),
        (STATIC, replace(STATIC, weight_dtype="bfloat16")),
        (ROW, replace(ROW, weight_dtype="float8_e5m2")),
        (STATIC, replace(STATIC, weight_dtype="float8_e4m3fn")),
    ],
    "bias_dtype": [(replace(PLAIN, bias="float32"), replace(PLAIN, bias="int32"))],
    "pe_float32": [
        (replace(PLAIN, dtype="float32", weight_dtype="float32"), replace(PLAIN, dtype="float32")),
        (replace(PLAIN, weight_dtype="float16"), replace(PLAIN, weight_dtype="float32")),
        (replace(STATIC, dtype="float32"), replace(ROW, dtype="float32")),
    ],
    "h_multiple_of_lnc": [(replace(PLAIN, H=1024, lnc=2), replace(PLAIN, H=1025, lnc=2))],
    "tokens_at_most_128": [
        (replace(PLAIN, B=64, S=2), replace(PLAIN, B=129, S=1)),
        (replace(TRANSPOSED, B=128, S=1), replace(TRANSPOSED, B=43, S=3)),
    ],
    "head_size_at_most_128": [(PLAIN, replace(PLAIN, D=129)), (TRANSPOSED, replace(TRANSPOSED, D=160))],
    "h_multiple_of_512_lnc": [
        (replace(PLAIN, H=512), replace(PLAIN, H=513)),
        (replace(PLAIN, H=1536), replace(PLAIN, H=1536, lnc=2)),
        (replace(PLAIN, H=5120, lnc=2), replace(PLAIN, H=5378, lnc=2)),
    ],
    "h_multiple_of_128_lnc": [
        (replace(TRANSPOSED, H=128), replace(TRANSPOSED, H=129)),
        (replace(TRANSPOSED, H=384), replace(TRANSPOSED, H=384, lnc=2)),
        (replace(TRANSPOSED, H=512, lnc=2), replace(TRANSPOSED, H=602, lnc=2)),
    ],
    "nh_limit": [
        (replace(TRANSPOSED, N=10, H=16384), replace(TRANSPOSED, N=10, H=16384 + 128)),
        (replace(PLAIN, N=11, H=16384), replace(TRANSPOSED, N=11, H=16384)),
        (
            replace(STATIC, N=10, H=16384, dtype="float32", transpose_out=True),
            replace(STATIC, N=1, H=163968, transpose_out=True),
        ),
        (
            replace(TRANSPOSED, N=5, H=16384, dtype="float32", weight_dtype="float32"),
            replace(TRANSPOSED, N=5, H=16384 + 128, dtype="float32", weight_dtype="float32"),
        ),
    ],
}  # fmt: skip


def test_every_rule_has_an_edge() -> None:
    assert list(EDGES) == [rule.id for rule in CONTRACT.rules]


@pytest.mark.parametrize(
    ("rule", "row"), [(rule, i) for rule, rows in EDGES.items() for i in range(len(rows))]
)
def test_limit_accepts_its_edge_and_refuses_the_next_step_op22(rule: str, row: int) -> None:
    legal, illegal = EDGES[rule][row]
    assert refusal(legal) is None
    validate(legal)
    found = refusal(illegal)
    assert found is not None
    assert found.rule == rule
    with pytest.raises(KernelArgumentError) as caught:
        validate(illegal)
    assert caught.value.rule == rule
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"output_projection_tkg: {found.argument}: ")
    for part in (found.condition, found.got, found.remedy):
        assert part
        assert part in message


def test_refusal_tells_the_value_it_received() -> None:
    found = refusal(replace(PLAIN, B=43, S=3))
    assert found is not None
    assert found.got == "B*S=129"


def test_first_violated_rule_is_named() -> None:
    found = refusal(replace(PLAIN, B=1000, D=1000, H=7))
    assert found is not None
    assert found.rule == "tokens_at_most_128"


@pytest.mark.parametrize("config", [PLAIN, TRANSPOSED, STATIC, ROW, replace(ROW, bias="float16")])
def test_config_survives_json(config: Config) -> None:
    assert Config(**json.loads(json.dumps(asdict(config)))) == config


# --- rules about the arguments of a call ------------------------------------------------------------------


class Kind(Enum):
    NONE = 0
    STATIC = 1
    ROW = 2
    MX = 3


class Tensor:
    """Shape and dtype, as a tensor of any framework has them."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape, self.dtype = shape, dtype


BF16, FP8, F32 = np.dtype(ml_dtypes.bfloat16), np.dtype(ml_dtypes.float8_e4m3), np.dtype(np.float32)
SCALE = Tensor((128, 1), F32)


def call(**changes: Any) -> Call:
    """A legal unquantised call with some arguments changed."""
    legal = {"attention": Tensor((16, 2, 3, 4), BF16), "weight": Tensor((48, 512), BF16), "bias": None}
    return Call(**{**legal, **changes})


def static_call(**changes: Any) -> Call:
    quantized = {
        "weight": Tensor((48, 512), FP8), "quantization_type": Kind.STATIC,
        "weight_scale": SCALE, "input_scale": SCALE,
    }  # fmt: skip
    return call(**{**quantized, **changes})


def row_call(**changes: Any) -> Call:
    return static_call(
        **{
            "quantization_type": Kind.ROW,
            "weight_scale": Tensor((128, 512), F32),
            "input_scale": None,
            **changes,
        }
    )


#: rule id: (a legal call, one step past the rule).
CALLS = {
    "call_quantization_kind": [
        (call(quantization_type=Kind.NONE), call(quantization_type=Kind.MX)),
        (static_call(quantization_type="STATIC"), static_call(quantization_type=True)),
    ],
    "sbm_none": [(call(), call(sbm=object()))],
    "attention_rank": [(call(), call(attention=Tensor((16, 2, 12), BF16)))],
    "weight_rows": [
        (call(), call(weight=Tensor((47, 512), BF16))),
        (call(), call(weight=Tensor((3, 16, 512), BF16))),
        (call(), call(weight=Tensor((64, 512), BF16))),
    ],
    "bias_shape": [
        (call(bias=Tensor((1, 512), BF16)), call(bias=Tensor((512,), BF16))),
        (call(bias=Tensor((1, 512), F32)), call(bias=Tensor((1, 511), F32))),
    ],
    "weight_scale": [
        (call(), call(weight_scale=SCALE)),
        (static_call(), static_call(weight_scale=None)),
        (static_call(), static_call(weight_scale=Tensor((1, 1), F32))),
        (static_call(), static_call(weight_scale=Tensor((128, 1), BF16))),
        (row_call(), row_call(weight_scale=SCALE)),
        (row_call(), row_call(weight_scale=Tensor((1, 512), F32))),
    ],
    "input_scale": [
        (call(), call(input_scale=SCALE)),
        (static_call(), static_call(input_scale=None)),
        (static_call(), static_call(input_scale=Tensor((128,), F32))),
        (row_call(), row_call(input_scale=SCALE)),
    ],
}


def test_every_rule_about_calls_has_an_edge() -> None:
    assert list(CALLS) == [rule.id for rule in CALL_RULES]


@pytest.mark.parametrize(
    ("rule", "row"), [(rule, i) for rule, rows in CALLS.items() for i in range(len(rows))]
)
def test_call_is_accepted_or_refused_by_the_named_rule(rule: str, row: int) -> None:
    legal, illegal = CALLS[rule][row]
    assert call_refusal(legal) is None
    with pytest.raises(KernelArgumentError, match=rf"\[{rule}\]"):
        validate_call(illegal)


def test_call_becomes_the_config_it_describes() -> None:
    found = validate_call(
        row_call(TRANSPOSE_OUT=True, OUT_IN_SB=True, bias=Tensor((1, 512), F32), attention_in_sb=True, lnc=2)
    )
    assert found == Config(
        2, 3, 4, 16, 512, "bfloat16", "float8_e4m3", "float32", True, True, True, quantization="ROW", lnc=2
    )


def test_a_dtype_that_nki_does_not_have_is_refused_by_its_own_name() -> None:
    with pytest.raises(KernelArgumentError, match="got 'float64'"):
        validate_call(call(attention=Tensor((16, 2, 3, 4), np.dtype(np.float64))))


def test_shifted_positional_arguments_are_refused_op21() -> None:
    # The order of later public versions: quantization, weight_scale, input_scale before the flags.
    attention, weight = Tensor((16, 2, 3, 4), BF16), Tensor((48, 512), FP8)
    with pytest.raises(KernelArgumentError):
        validate_call(Call(attention, weight, None, Kind.STATIC, SCALE, SCALE, True))
    with pytest.raises(KernelArgumentError, match="flags_are_bool"):
        validate_call(call(TRANSPOSE_OUT=Kind.NONE))


# --- the record -------------------------------------------------------------------------------------------


def test_signature_keeps_the_published_order_and_appends_quantization() -> None:
    assert CONTRACT.signature == (
        "output_projection_tkg(attention, weight, bias, TRANSPOSE_OUT=False, OUT_IN_SB=False, "
        "quantization_type=QuantizationType.NONE, weight_scale=None, input_scale=None, sbm=None)"
    )


def test_defects_are_complete() -> None:
    assert [defect.id for defect in CONTRACT.defects] == [f"OP{i}" for i in range(1, 25)]
