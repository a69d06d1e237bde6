"""Coverage of what the published pages promise: page by page, promise by promise, with the test that holds it."""

from __future__ import annotations

import functools
import importlib

from conformance.claims.claim import Claim, Page, complaints
from conformance.registry import kernel_names

__all__ = ["Claim", "Page", "complaints", "page", "pages"]


@functools.cache
def page(kernel: str) -> Page | None:
    """The page of a kernel, `conformance/claims/<kernel>.py`; None where a kernel has no published page."""
    name = f"conformance.claims.{kernel}"
    try:
        found: Page = importlib.import_module(name).PAGE
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None
    return found


def pages() -> tuple[Page, ...]:
    """The pages of all kernels, in alphabetical order."""
    found = (page(name) for name in kernel_names())
    return tuple(one for one in found if one is not None)
