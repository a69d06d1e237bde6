"""Grade B: the values that the model spans when open questions take their other answers.

One question at a time leaves the base profile, as far as the question concerns the kernel and its candidates
differ by accumulation noise only; a question outside that class (U12: rounded products) takes part when asked
for by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.subject import Arrays, Subject
from reference.numerics.cast import to_float32
from reference.numerics.formats import Format, format_of
from reference.numerics.profile import DEFAULT, KERNELS, NumericsProfile, question_of, variants
from reference.numerics.ulp import ulp_size


@dataclass(frozen=True)
class Envelope:
    """Per element the smallest and largest model value, float64, and the profiles that were played."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    profiles: tuple[str, ...]


def values64(array: NDArray[Any]) -> NDArray[np.float64]:
    """Values of a storage array as float64; exact, 32-bit integers included."""
    exact = array if array.dtype.kind in "iu" else to_float32(array)
    return exact.astype(np.float64)


def envelopes(
    subject: Subject,
    config: Any,
    inputs: Arrays,
    base: NumericsProfile = DEFAULT,
    include: Iterable[str] = (),
) -> dict[str, Envelope]:
    """The envelope of every output, `base` among its profiles. Runs the model once per candidate."""
    spans: dict[str, Envelope] = {}
    for name, profile in _profiles(subject, base, include):
        for output, array in subject.model(config, inputs, profile=profile).items():
            spans[output] = _widened(spans.get(output), values64(array), name)
    return spans


def envelope_faults(got: NDArray[Any], span: Envelope) -> list[str]:
    """Why `got` is not inside the envelope widened by one ULP of its dtype, [] where it is.

    Infinities are inside where the envelope reaches them; NaN never is.
    """
    fmt, values = format_of(got.dtype), values64(got)
    low, high = span.low - _step(span.low, fmt), span.high + _step(span.high, fmt)
    outside = ~((values >= low) & (values <= high))
    if not outside.any():
        return []
    where = tuple(int(i) for i in np.argwhere(outside)[0])
    return [
        f"{int(outside.sum())} elements outside the envelope of {len(span.profiles)} profiles, the first at "
        f"{list(where)}: {values[where]:.9g} not in [{low[where]:.9g}, {high[where]:.9g}]"
    ]


def _profiles(
    subject: Subject, base: NumericsProfile, include: Iterable[str]
) -> Iterator[tuple[str, NumericsProfile]]:
    yield "base", base
    for name, profile in variants(base, include):
        known = question_of(name.partition("=")[0]).kernels
        # A kernel that the table of questions has never heard of may meet any of them.
        if subject.name in known or subject.name not in KERNELS:
            yield name, profile


def _step(values: NDArray[np.float64], fmt: Format) -> NDArray[np.float64]:
    """One ULP; none where there is no finite value to widen."""
    step: NDArray[np.float64] = np.nan_to_num(ulp_size(values, fmt), nan=0.0)
    return step


def _widened(span: Envelope | None, values: NDArray[np.float64], profile: str) -> Envelope:
    if span is None:
        return Envelope(values, values, (profile,))
    return Envelope(np.fmin(span.low, values), np.fmax(span.high, values), (*span.profiles, profile))
