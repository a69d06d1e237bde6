"""How a kernel is simulated, as one immutable record."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from reference.numerics.profile import DEFAULT, NumericsProfile

#: What a violated rule does.
SEVERITIES = ("error", "warn", "off")


@dataclass(frozen=True)
class Options:
    """Options of one simulated launch."""

    #: Shadow memory, capacity and shape rules that official tools leave unchecked: error, warn, or off (fastest;
    #: fresh memory then holds the sentinels NaN / 4 of the official simulator).
    checks: str = "error"
    #: Same HBM bytes touched by both cores between two barriers, one of them writing.
    races: str = "error"
    #: Open numeric questions.
    profile: NumericsProfile = DEFAULT
    #: Instructions one core executes before the other gets its turn (LNC2).
    quantum: int = 4
    #: None: fixed turns. A number: legal interleavings drawn from this seed; a failure prints it.
    seed: int | None = None
    #: Keep one record per instruction (counters are always kept).
    trace: bool = False
    #: Keep the values of named tiles and who wrote them, and who wrote what to HBM.
    taps: bool = False
    #: Names of the array arguments a kernel may write; None allows every one.
    in_place: frozenset[str] | None = None
    #: False keeps every low-precision tensor in fp32 (NKI_PRECISE_FP=0), to part algorithm from precision.
    precise_fp: bool = True
    #: Extra facts for reports; not read by the machine.
    labels: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("checks", "races"):
            if getattr(self, name) not in SEVERITIES:
                raise ValueError(f"Options.{name}={getattr(self, name)!r}: use one of {', '.join(SEVERITIES)}")
        if self.quantum < 1:
            raise ValueError(f"Options.quantum={self.quantum}: a core executes at least 1 instruction in its turn")

    def but(self, **changes: Any) -> Options:
        """A copy with some fields changed."""
        return replace(self, **changes)


_active: contextvars.ContextVar[Options | None] = contextvars.ContextVar("nki_oracle_options", default=None)


def active_options() -> Options:
    """The options that `using` set, else the defaults."""
    return _active.get() or Options()


@contextlib.contextmanager
def using(options: Options) -> Iterator[Options]:
    """Launches inside the block run under `options`."""
    token = _active.set(options)
    try:
        yield options
    finally:
        _active.reset(token)
