"""Chances of what is worth drawing now and then and too costly, or too special, to be drawn often."""

from __future__ import annotations

from hypothesis import strategies as st


def rarely(draw: st.DrawFn, chance: int) -> bool:
    """True about once in `chance` draws, three at least; what fails shrinks to False."""
    # A value in the middle: those at the ends are drawn more often.
    return draw(st.integers(0, chance - 1)) == chance // 2
