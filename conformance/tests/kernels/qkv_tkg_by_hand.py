"""The rounding points of `qkv` in token generation for single elements, in rational arithmetic.

Written from the contract's table alone; shares no code with `reference` but the config.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache
from typing import Any

from conformance.tests.kernels import by_hand
from conformance.tests.kernels.by_hand import add, multiply, to
from reference.contracts.qkv import Config


def inverse_root(x: float) -> float:
    """Correctly rounded float32 of 1/sqrt(x) for finite x > 0."""
    # The integer root of 1/x with 200 fraction bits; a float32 midpoint is no such root but by design.
    scaled = (Fraction(1) / Fraction(x)) * Fraction(4) ** 200
    return by_hand.rounded(Fraction(math.isqrt(scaled.numerator // scaled.denominator), 2**200), "float32")


def total(values: Any) -> float:
    """Exact sum rounded once to float32."""
    return by_hand.dot((value, 1.0) for value in values)


class Table:
    """One call; token t = b*S + s."""

    def __init__(self, config: Config, inputs: dict[str, Any]) -> None:
        self.config, self.io, self.n = config, config.dtype, config.lnc
        self.width = config.H // 128 // config.lnc
        self.inputs = {name: by_hand.values(value) for name, value in inputs.items() if value is not None}

    def hidden_index(self, core: int, p: int, j: int) -> int:
        return core * (self.config.H // self.n) + p * self.width + j

    def _token(self, name: str, t: int, h: int) -> float:
        return float(self.inputs[name][t // self.config.S][t % self.config.S][h])

    def x(self, t: int, h: int) -> float:
        value = self._token("input", t, h)
        if not self.config.fused_residual_add:
            return value
        residual = add(add(value, self._token("attention_prev", t, h)), self._token("mlp_prev", t, h))
        return to(residual, self.io)

    def columns(self, p: int) -> list[int]:
        return [self.hidden_index(core, p, j) for core in range(self.n) for j in range(self.width)]

    @cache  # noqa: B019  (tables are small and live for one test)
    def statistic(self, name: str, t: int) -> float:
        if name == "norm_total":
            return total(self.part(t, p) for p in range(128))
        if name in ("norm_mean_square", "norm_mean"):
            share = to(1 / self.config.H, "float32")
            sums = self.part if name == "norm_mean_square" else self.sum
            return by_hand.dot((share, sums(t, p)) for p in range(128))
        if name == "norm_mean_squared":
            return multiply(self.statistic("norm_mean", t), self.statistic("norm_mean", t))
        if name == "norm_spread":
            return add(self.statistic("norm_mean_square", t), -self.statistic("norm_mean_squared", t))
        if name == "norm_variance":
            return max(self.statistic("norm_spread", t), 0.0)
        assert name == "norm_rsqrt"
        eps = to(self.config.norm_eps, "float32")
        if self.config.norm == "LAYER_NORM":
            return inverse_root(add(self.statistic("norm_variance", t), eps))
        share = to(1 / (self.config.hidden_actual or self.config.H), "float32")
        return inverse_root(add(multiply(self.statistic("norm_total", t), share), eps))

    @cache  # noqa: B019  (tables are small and live for one test)
    def part(self, t: int, p: int) -> float:
        return total(multiply(self.x(t, h), self.x(t, h)) for h in self.columns(p))

    @cache  # noqa: B019  (tables are small and live for one test)
    def sum(self, t: int, p: int) -> float:
        return total(self.x(t, h) for h in self.columns(p))

    def norm_centred(self, t: int, h: int) -> float:
        return to(add(self.x(t, h), -self.statistic("norm_mean", t)), self.io)

    def norm_gamma(self, t: int, h: int) -> float:
        gamma = self.inputs["gamma_norm_weights"][0][h]
        if self.config.norm == "RMS_NORM":
            return multiply(self.x(t, h), gamma)
        return to(multiply(self.norm_centred(t, h), gamma), self.io)

    def y(self, t: int, h: int) -> float:
        if self.config.norm == "NO_NORM":
            return self.x(t, h)
        scaled = to(multiply(self.norm_gamma(t, h), self.statistic("norm_rsqrt", t)), self.io)
        if self.config.beta is None:
            return scaled
        return to(add(scaled, self.inputs["layer_norm_bias"][0][h]), self.io)

    def scaled(self, t: int, h: int) -> float:
        inverse = by_hand.reciprocal(self.inputs["qkv_in_scale"][0][0])
        return to(multiply(self.y(t, h), inverse), self.io)

    @cache  # noqa: B019  (tables are small and live for one test)
    def operand(self, t: int, h: int) -> float:
        if self.config.quantization != "STATIC":
            return self.y(t, h)
        return to(max(min(self.scaled(t, h), 240.0), -240.0), "float8_e4m3")

    def group_of(self, j: int) -> int:
        tokens = self.config.B * self.config.S
        F = 4 if tokens <= 32 else 2 if tokens <= 64 else 1
        blocks, rest = divmod(self.width, 16)
        if j < 16 * blocks:
            return (j % 16) % F
        return (j - 16 * blocks) % (F if rest % F == 0 else 1)

    def group_count(self) -> int:
        return 1 + max(self.group_of(j) for j in range(self.width))

    def psum(self, core: int, t: int, i: int, group: int) -> float:
        accumulated = None
        for j in (j for j in range(self.width) if self.group_of(j) == group):
            rows = [self.hidden_index(core, p, j) for p in range(128)]
            weight = self.inputs["fused_qkv_weights"]
            tile = by_hand.dot((self.operand(t, h), weight[h][i]) for h in rows)
            accumulated = tile if accumulated is None else add(accumulated, tile)
        assert accumulated is not None
        return accumulated

    def partial(self, core: int, t: int, i: int, group: int) -> float:
        out = self.inputs["bias"][0][i] if self._biased(core) and self.config.quantization == "NONE" else 0.0
        for g in range(group + 1):
            out = to(add(out, self.psum(core, t, i, g)), self.io)
        return float(out)

    def _biased(self, core: int) -> bool:
        return core == 0 and "bias" in self.inputs

    def factor(self, i: int) -> float:
        scale = self.inputs["qkv_w_scale"][0]
        if self.config.quantization == "ROW":
            return float(scale[i])
        d, q, kv = self.config.d_head or 0, self.config.num_q_heads or 0, self.config.num_kv_heads or 0
        segment = 0 if i < q * d else 1 if i < (q + kv) * d else 2
        return multiply(scale[segment], self.inputs["qkv_in_scale"][0][0])

    def dequant(self, core: int, t: int, i: int) -> float:
        return to(multiply(self.partial(core, t, i, self.group_count() - 1), self.factor(i)), self.io)

    def share(self, core: int, t: int, i: int) -> float:
        if self.config.quantization == "NONE":
            return self.partial(core, t, i, self.group_count() - 1)
        out = self.dequant(core, t, i)
        return to(add(out, self.inputs["bias"][0][i]), self.io) if self._biased(core) else out

    def out(self, t: int, i: int) -> float:
        first = self.share(0, t, i)
        return first if self.n == 1 else to(add(first, self.share(1, t, i)), self.io)
