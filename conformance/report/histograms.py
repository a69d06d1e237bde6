"""ULP histograms over all cases of a kernel, per rung and output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def histograms(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per rung and output the number of elements by distance; outputs without a histogram take no part."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    for row in rows:
        for output in row["outputs"]:
            buckets = found.setdefault((output["rung"], output["name"]), {})
            for bucket, count in (output.get("ulp_histogram") or {}).items():
                buckets[bucket] = buckets.get(bucket, 0) + count
    return [
        {"rung": rung, "output": name, "elements": sum(buckets.values()), "buckets": buckets}
        for (rung, name), buckets in found.items()
        if buckets
    ]
