"""Coverage of the published pages: every kernel has one, and what its claims name exists."""

from __future__ import annotations

import pytest

from conformance import claims
from conformance.claims import Claim, Page
from conformance.claims.claim import SPEED
from conformance.registry import kernel, kernel_names


@pytest.mark.parametrize("name", kernel_names())
def test_every_test_and_rule_that_a_page_names_exists(name: str) -> None:
    page = claims.page(name)
    assert page is not None
    assert page.kernel == name
    assert claims.complaints(page, frozenset(rule.id for rule in kernel(name).contract.rules)) == []


def test_a_test_that_is_gone_and_a_rule_that_is_gone_are_told() -> None:
    gone = Claim("API", "a promise", ("test_all_kernels::test_that_never_was", "test_nowhere::test_x"), ("no_rule",))
    told = claims.complaints(Page("k", "K", (gone,)), frozenset({"rule"}))
    assert [text.split(" names ")[1] for text in told] == [
        "test_all_kernels::test_that_never_was, which does not exist",
        "test_nowhere::test_x, which does not exist",
        "the rule no_rule, which the contract lacks",
    ]


def test_a_claim_is_held_or_says_why_not_and_never_both() -> None:
    assert Claim("API", "x", open=SPEED).held is False
    assert Claim("API", "x", rules=("sizes",)).held
    for fields in ({}, {"tests": ("a::b",), "open": SPEED}):
        with pytest.raises(ValueError, match="either tests or rules"):
            Claim("API", "x", **fields)


def test_a_kernel_without_a_page_has_none() -> None:
    assert claims.page("no_such_kernel") is None


def test_most_promises_are_held() -> None:
    rows = [claim for page in claims.pages() for claim in page.claims]
    assert len(rows) > 120
    assert {claim.open for claim in rows if not claim.held} <= {SPEED, claims.claim.COMPILER}
