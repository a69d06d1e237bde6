"""The contract of `qkv`: fused query, key and value projection, in token generation (TKG) and in context
encoding (CTE).

Names, argument order and limits follow the published API page of release 2.28, the arithmetic release 2.29.
`Config` describes a call, `mode` tells which implementation serves it, `Call` holds raw arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reference.contract import Contract, Refusal, RoundingPoint, first_refusal, raise_refusal
from reference.contracts.qkv_arguments import ARGUMENTS, RESULTS
from reference.contracts.qkv_call import CALL_RULES, Call, call_of
from reference.contracts.qkv_config import Config, mode
from reference.contracts.qkv_cte_points import POINTS as CTE_POINTS
from reference.contracts.qkv_history import DECISIONS, DEFECTS
from reference.contracts.qkv_rules import RULES
from reference.contracts.qkv_tkg_points import POINTS as TKG_POINTS
from reference.contracts.tensor_call import other_config

__all__ = [
    "CALL_RULES",
    "CONTRACT",
    "Call",
    "Config",
    "call_of",
    "call_refusal",
    "inputs_refusal",
    "mode",
    "refusal",
    "validate",
    "validate_call",
]

KERNEL = "qkv"


def _joined(first: RoundingPoint, second: RoundingPoint) -> RoundingPoint:
    """One row of two modes that use the same name."""
    return RoundingPoint(
        first.name,
        _either(first.dtype, second.dtype),
        _either(first.memory, second.memory),
        _either(first.shape, second.shape),
        max(first.index, second.index, key=len),
        _either(first.produced, second.produced),
        first.exact and second.exact,
        _either(first.when, second.when),
    )


def _either(first: str, second: str) -> str:
    return first if first == second else f"TKG: {first}; CTE: {second}"


def _points() -> tuple[RoundingPoint, ...]:
    """The rows of both modes, token generation first; a name of both modes has one row."""
    rows = {row.name: row for row in TKG_POINTS}
    for row in CTE_POINTS:
        rows[row.name] = _joined(rows[row.name], row) if row.name in rows else row
    return tuple(rows.values())


CONTRACT: Contract[Config] = Contract(
    kernel=KERNEL,
    summary="norm(input + attention_prev + mlp_prev) @ fused_qkv_weights + bias, RoPE, quantized KV cache.",
    arguments=ARGUMENTS,
    results=RESULTS,
    rules=RULES,
    points=_points(),
    decisions=DECISIONS,
    defects=DEFECTS,
)

refusal, validate = CONTRACT.refusal, CONTRACT.validate


def call_refusal(call: Call) -> Refusal | None:
    """The first rule, about the arguments or about the Config they make, that a call violates."""
    return first_refusal(KERNEL, CALL_RULES, call) or refusal(call.config())


def inputs_refusal(config: Config, tensors: Mapping[str, Any]) -> Refusal | None:
    """The first rule that the call which `config` describes with these tensors violates, or that they tell another."""
    call = call_of(config, tensors)
    found = call_refusal(call)
    if found is not None:
        return found
    told = call.config()
    if config.quantization not in ("STATIC", "ROW"):
        # No argument tells the rows of scales that are not there.
        told = replace(told, scale_rows=config.scale_rows)
    return other_config(KERNEL, told, config)


def validate_call(call: Call) -> Config:
    """The Config of a legal call; raises KernelArgumentError before anything is launched otherwise."""
    raise_refusal(call_refusal(call))
    return call.config()
