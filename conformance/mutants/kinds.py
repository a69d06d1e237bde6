"""The classes of faults that mutants stand for: one row each, with what they have in common."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "rounding": "a rounding dropped, doubled, truncated, or to another dtype",
        "clamp": "a clamp missing, one-sided, at another limit, or after the cast",
        "accumulator": "a sum kept in a narrow dtype, or begun from something else than nothing",
        "order": "a sum or a product taken in another order",
        "maximum": "the maximum of a softmax stale, of a part only, or not subtracted",
        "rescale": "an earlier part not brought to the later maximum, or not divided",
        "sink": "the sink dropped, counted twice, or of another head",
        "tail": "the last token, page, tile or pass lost",
        "rows": "rows, pages, tiles, heads or segments from the wrong place",
        "mask": "a mask ignored, of the wrong place, or off by one",
        "norm": "a norm skipped, done twice, or over the wrong elements",
        "eps": "eps of another value, or in the wrong place",
        "scale": "a scale missing, applied twice, inverted, or its neighbour",
        "term": "a bias or another term missing or added twice",
        "core": "the wrong half of a core, or an exchange missing",
        "barrier": "two cores at the same memory with nothing between them",
        "rope": "a rotation with the wrong sign, pairs, table or position",
        "slot": "new rows in the wrong slots of a cache, or in none",
        "batch": "the cache of the wrong batch",
        "layout": "results stored in another layout",
        "memory": "memory read that nobody wrote, left unwritten, or written that is the caller's",
        "dispatch": "the way for another size taken",
    }
)
