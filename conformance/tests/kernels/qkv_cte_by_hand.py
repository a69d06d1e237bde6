"""The rounding points of `qkv` in context encoding for single elements, in rational arithmetic.

Written from the contract's table alone; shares no code with `reference` but the config. Token t = b*S + s.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache
from typing import Any

from conformance.tests.kernels import by_hand
from conformance.tests.kernels.by_hand import add, multiply, to
from conformance.tests.kernels.qkv_tkg_by_hand import inverse_root, total
from reference.contracts.qkv import Config


def divide(x: float, y: float) -> float:
    """float32 quotient of a finite x and a finite nonzero y."""
    return x / y if x == 0 else by_hand.rounded(Fraction(x) / Fraction(y), "float32")


def clamped(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


class CteTable:
    """One call, MX weights as numbers [H][I] with their scales multiplied in by `unpacked`."""

    def __init__(self, config: Config, inputs: dict[str, Any]) -> None:
        self.config = config
        self.C = "bfloat16" if config.dtype == "float32" else config.dtype
        self.E = "bfloat16" if config.quantization == "STATIC" else self.C
        raw = {"k_cache", "v_cache"} | ({"fused_qkv_weights", "qkv_w_scale"} if config.quantization == "MX" else set())
        self.inputs = {name: by_hand.values(value) for name, value in inputs.items() if name not in raw}
        self.weight = self.unpacked(inputs) if config.quantization == "MX" else self.inputs["fused_qkv_weights"]

    def unpacked(self, inputs: dict[str, Any]) -> list[list[Fraction]]:
        """Rows of the MX weight: packed row r, byte k is row 4 r + k; scale row h // 32."""
        items, scales = inputs["fused_qkv_weights"].tolist(), inputs["qkv_w_scale"].tolist()
        return [
            [
                e4m3fn((items[h // 4][i] >> (8 * (h % 4))) & 255) * Fraction(2) ** (scales[h // 32][i] - 127)
                for i in range(self.config.I)
            ]
            for h in range(self.config.H)
        ]

    def _token(self, name: str, t: int, h: int) -> float:
        return float(self.inputs[name][t // self.config.S][t % self.config.S][h])

    def stored_column(self, h: int) -> int:
        """Where a swizzled input has column h."""
        if not self.config.is_input_swizzled:
            return h
        return (h % 4) * (self.config.H // 4) + (h // 512) * 128 + h % 512 // 4

    def hidden(self, t: int, h: int) -> float:
        value = self._token("input", t, self.stored_column(h))
        if self.config.fused_residual_add:
            value = add(add(value, self._token("mlp_prev", t, h)), self._token("attention_prev", t, h))
        return to(value, self.C)

    def eps(self) -> float:
        eps = to(self.config.norm_eps, "float32")
        return eps if self.config.quantization == "STATIC" else to(eps, self.C)

    @cache  # noqa: B019  (tables are small and live for one test)
    def root(self, t: int) -> float:
        if self.config.norm == "LAYER_NORM":
            return inverse_root(add(self.moments(t)[1], self.eps()))
        squares = total(multiply(self.hidden(t, h), self.hidden(t, h)) for h in range(self.config.H))
        share = to(1 / (self.config.hidden_actual or self.config.H), "float32")
        return inverse_root(add(multiply(squares, share), self.eps()))

    @cache  # noqa: B019  (tables are small and live for one test)
    def moments(self, t: int) -> tuple[float, float]:
        """Mean and variance out of halves of 512 columns, every operation rounded to float32."""
        parts = []
        for start in range(0, self.config.H, 512):
            for parity in (0, 1):
                row = [self.hidden(t, h) for h in range(start + parity, min(start + 512, self.config.H), 2)]
                mean = divide(total(row), float(len(row)))
                deviations = [add(x, -mean) for x in row]
                parts.append((float(len(row)), mean, total(multiply(d, d) for d in deviations)))
        count = total(c for c, _, _ in parts)
        centre = divide(total(multiply(c, mean) for c, mean, _ in parts), count)
        spread = []
        for c, mean, m2 in parts:
            away = add(mean, -centre)
            spread.append(add(m2, multiply(c, multiply(away, away))))
        return centre, divide(total(spread), count)

    def normalized(self, t: int, h: int) -> float:
        value = self.hidden(t, h)
        if self.config.norm == "NO_NORM":
            return value
        if self.config.norm == "LAYER_NORM":
            value = add(value, -self.moments(t)[0])
        return to(multiply(value, self.root(t)), self.C)

    @cache  # noqa: B019  (tables are small and live for one test)
    def operand(self, t: int, h: int) -> float:
        value = self.normalized(t, h)
        if self.config.gamma is None:
            return value
        value = multiply(value, self.inputs["gamma_norm_weights"][0][h])
        if self.config.beta is not None:
            value = add(value, self.inputs["layer_norm_bias"][0][h])
        return to(value, self.C)

    @cache  # noqa: B019  (tables are small and live for one test)
    def factor(self, t: int, h: int) -> Fraction:
        """What the PE multiplies the weight with."""
        if self.config.quantization == "NONE":
            return Fraction(self.operand(t, h))
        if self.config.quantization == "STATIC":
            inverse = by_hand.reciprocal(self.inputs["qkv_in_scale"][0][0])
            value = multiply(self.operand(t, h), inverse)
            return Fraction(to(max(min(value, 240.0), -240.0), "float8_e4m3"))
        group = [self.operand(t, 32 * (h // 32) + i) for i in range(32)]
        byte, codes = mx_group(group)
        return codes[h % 32] * Fraction(2) ** (byte - 127)

    @cache  # noqa: B019  (tables are small and live for one test)
    def product(self, t: int, i: int) -> float:
        depth = {"NONE": 128, "STATIC": 256, "MX": 512}[self.config.quantization]
        accumulated = None
        for start in range(0, self.config.H, depth):
            rows = range(start, min(start + depth, self.config.H))
            exact = sum((self.factor(t, h) * self.exact_weight(h, i) for h in rows), Fraction(0))
            tile = by_hand.rounded(exact, "float32")
            accumulated = tile if accumulated is None else add(accumulated, tile)
        assert accumulated is not None
        return accumulated

    def exact_weight(self, h: int, i: int) -> Fraction:
        value = self.weight[h][i]
        return Fraction(to(value, self.C)) if self.config.quantization == "NONE" else Fraction(value)

    @cache  # noqa: B019  (tables are small and live for one test)
    def projected(self, t: int, i: int) -> float:
        value = self.product(t, i)
        if self.config.quantization == "STATIC":
            if not self.config.fused_rope:
                value = to(value, "bfloat16")
            value = multiply(value, self.segment_scale(i))
        if self.config.bias is not None:
            value = add(value, to(self.inputs["bias"][0][i], self.E))
        return to(value, self.E)

    def segment_scale(self, i: int) -> float:
        head, q, kv = i // (self.config.d_head or 1), self.config.num_q_heads or 0, self.config.num_kv_heads or 0
        segment = 0 if head < q else 1 if head < q + kv else 2
        return multiply(self.inputs["qkv_w_scale"][0][segment], self.inputs["qkv_in_scale"][0][0])

    def y(self, t: int, i: int) -> float:
        """The finished projection, rotated where it has to be."""
        d = self.config.d_head or 1
        rotated = (self.config.num_q_heads or 0) + (self.config.num_kv_heads or 0)
        if not self.config.fused_rope or i // d >= rotated:
            return self.projected(t, i)
        start, c = i - i % d, i % d
        cos = to(self._token("cos_cache", t, c), self.E)
        sin = to(self._token("sin_cache", t, c % (d // 2)), self.E)
        partner = self.projected(t, start + (c + d // 2) % d)
        crossed = to(multiply(partner, sin), self.E)
        straight = to(multiply(self.projected(t, i), cos), self.E)
        return to(add(straight, -crossed if c < d // 2 else crossed), self.E)

    def cached(self, name: str, t: int, column: int) -> float:
        """An element of the K ('k') or V ('v') row of a token."""
        start = self.config.q_dim + (0 if name == "k" else self.config.kv_dim)
        inverse = by_hand.reciprocal(self.inputs[f"{name}_scale"][0][0])
        value = multiply(self.y(t, start + column), inverse)
        return to(clamped(value, self.config.kv_min, self.config.kv_max), str(self.config.kv_dtype))


def e4m3fn(code: int) -> Fraction:
    """Value of a float8_e4m3fn byte: 1 sign, 4 exponent bits with bias 7, 3 fraction bits; 0x7F is NaN."""
    assert code & 127 != 127
    exponent, fraction = (code >> 3) & 15, code & 7
    size = Fraction(fraction, 8) if exponent == 0 else 1 + Fraction(fraction, 8)
    return (-1 if code & 128 else 1) * size * Fraction(2) ** (max(exponent, 1) - 7)


def mx_group(group: list[float]) -> tuple[int, list[Fraction]]:
    """Scale byte and element values of a finite group: 2^(floor(log2 amax) - 7), elements to nearest even."""
    largest = max(abs(value) for value in group)
    byte = 0 if largest == 0 else max(127 + math.frexp(largest)[1] - 1 - 7, 0)
    scaled = [Fraction(value) / Fraction(2) ** (byte - 127) for value in group]
    return byte, [Fraction(by_hand.rounded(value, "float8_e4m3fn")) for value in scaled]
