"""Bytes that one element of a dtype takes in memory."""

import nki.language as nl


def item_size(dtype):
    """1, 2 or 4; unpacked dtypes only."""
    if dtype == nl.float32 or dtype == nl.int32 or dtype == nl.uint32 or dtype == nl.tfloat32:
        return 4
    if dtype == nl.bfloat16 or dtype == nl.float16 or dtype == nl.int16 or dtype == nl.uint16:
        return 2
    return 1
