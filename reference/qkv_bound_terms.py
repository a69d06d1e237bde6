"""What the error bounds of both modes of `qkv` have in common: tokens, their norms, and errors that a token shares.

The statistics of a norm are one number per token, so their errors are the same for all its elements and pass
through the projection with it: an error of 1/sqrt(...) is one share of the projected token, an error of the mean is
one multiple of the projected gamma. Carried beside the errors of single elements, they are not added up over H.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reference.contracts.qkv_config import Config
from reference.error_terms import UNIT, Known, Matrix, apart, dot, each, exact, inverse_root, off, plus, rounded, scaled
from reference.numerics.cast import to_float32
from reference.qkv_truth import hidden_states

Array = NDArray[Any]
Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class Tokens:
    """Normalised tokens: elements with errors of their own, and what all elements of a token share.

    The kernel's y is y + a (y - fixed) + b slope with |a| <= ratio and |b| <= shift, one pair per token.
    """

    y: Known  # [T, H]
    ratio: Known | None = None  # [T, 1], value unused
    shift: Known | None = None  # [T, 1], value unused
    fixed: Array | None = None  # [H]
    slope: Array | None = None  # [H]

    def rows(self, tokens: slice) -> Tokens:
        """Some tokens."""
        y, ratio, shift = (x if x is None else each(x, lambda a: a[tokens]) for x in (self.y, self.ratio, self.shift))
        assert y is not None
        return Tokens(y, ratio, shift, self.fixed, self.slope)

    @property
    def settled(self) -> Known:
        """All errors as those of single elements, for steps that are not linear."""
        return self.shared(Projected(self.y, self._turning(self.y.value), self.slope), self.y)

    def _turning(self, y: Array) -> Array:
        return y if self.fixed is None else y - self.fixed

    def times(self, weight: Matrix, columns: slice | Array, terms: int) -> Projected:
        """The dot of some hidden columns with the weight's rows of these."""
        own = dot(each(self.y, lambda a: a[:, columns]), weight, terms)
        turning, slope = own.value, None
        if self.ratio is not None and self.fixed is not None:
            turning = turning - apart(self.fixed[None, columns], weight.value) * weight.unit
        if self.shift is not None and self.slope is not None:
            slope = apart(self.slope[None, columns], weight.value) * weight.unit
        return Projected(own, turning, slope)

    def shared(self, where: Projected, own: Known) -> Known:
        """`own` with the shared errors as they are in `where`."""
        for amplitude, direction in ((self.ratio, where.turning), (self.shift, where.slope)):
            if amplitude is not None and direction is not None:
                own = off(own, amplitude.error * np.abs(direction), amplitude.variance * np.square(direction))
        return own


class Projected(NamedTuple):
    """A linear image of tokens: own errors, and the images of the directions in which tokens err as a whole."""

    own: Known
    turning: Array
    slope: Array | None

    def plus(self, other: Projected) -> Projected:
        """Sum of two, unrounded."""
        slope = self.slope if other.slope is None else other.slope if self.slope is None else self.slope + other.slope
        return Projected(plus(self.own, other.own), self.turning + other.turning, slope)

    def scaled(self, factor: Array) -> Projected:
        """Times exact factors."""
        slope = None if self.slope is None else self.slope * factor
        return Projected(scaled(self.own, factor), self.turning * factor, slope)

    def rounded(self, tokens: Tokens, dtype: str, operations: int = 1) -> Projected:
        """After float32 operations and a cast, of what the kernel's value may be with all its errors."""
        whole = tokens.shared(self, self.own)
        return self._replace(own=rounded(self.own, dtype, operations, whole=whole))

    def settled(self, tokens: Tokens) -> Known:
        """With all errors, as those of single elements."""
        return tokens.shared(self, self.own)


def wide(tensor: Any) -> Array:
    """Values in float64."""
    return np.asarray(to_float32(tensor), np.float64)


def hidden(config: Config, inputs: Inputs, dtype: str) -> Known:
    """input + attention_prev + mlp_prev as they enter the norm, [T, H]: one float32 sum, one rounding to `dtype`."""
    value = hidden_states(config, inputs).reshape(config.tokens, config.H)
    if not config.fused_residual_add:
        return exact(value) if dtype == config.dtype else rounded(exact(value), dtype, operations=0)
    sizes = sum(np.abs(wide(inputs[name])) for name in ("input", "attention_prev", "mlp_prev"))
    # A partial sum may be larger than the sum.
    return rounded(off(exact(value), 2 * UNIT * np.asarray(sizes).reshape(value.shape)), dtype, operations=0)


def shared_root(mean: Known, eps: float, eps_error: float = 0.0) -> tuple[Array, Known]:
    """1 / sqrt(mean + eps) [T, 1], and its relative error as an amplitude: worst case and variance."""
    root, worst = inverse_root(mean.value, mean.error, eps, eps_error)
    _, likely = inverse_root(mean.value, np.minimum(np.sqrt(mean.variance), mean.error), eps, eps_error)
    return root, Known(root, worst, np.square(likely))


def factors(config: Config, inputs: Inputs) -> tuple[Array, Array | None]:
    """gamma (ones without) and beta, [H]."""
    gamma = wide(inputs["gamma_norm_weights"])[0] if config.gamma_applied else np.ones(config.H)
    return gamma, None if config.beta is None else wide(inputs["layer_norm_bias"])[0]
