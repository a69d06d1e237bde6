"""Rounding points of `qkv` in context encoding."""

from __future__ import annotations

from reference.contract import RoundingPoint

POINTS: tuple[RoundingPoint, ...] = ()
