"""What a published page promises of a kernel, and what here holds it to that."""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests" / "kernels"

#: Hold for every kernel and every legal or illegal config that is drawn: model against kernel, and refusals.
EVERY_BIT = "test_all_kernels::test_the_machine_gives_the_models_bits_and_the_model_is_near_truth"
EVERY_CONFIG = "test_all_kernels::test_drawn_configs_give_the_models_bits"
EVERY_REFUSAL = "test_all_kernels::test_illegal_configs_are_refused_by_their_rule_with_nothing_written"

#: Why a promise has no test: what would have to be there to hold it.
SPEED = "about speed: a profile on a device would tell"
COMPILER = "about placement that the compiler decides: only a device build would tell"


@dataclass(frozen=True)
class Claim:
    """One promise, in our words.

    `tests` are 'module::function' in conformance/tests/kernels; `rules` ids of the contract's rules, each drawn
    and refused by `EVERY_REFUSAL`. A promise that nothing holds says so in `open`; `decided` tells how a
    promise was read where the page contradicts itself or cannot be had.
    """

    section: str
    says: str
    tests: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    decided: str = ""
    open: str = ""

    def __post_init__(self) -> None:
        if not self.says or not self.section:
            raise ValueError("a claim needs a section and words")
        if bool(self.tests or self.rules) == bool(self.open):
            raise ValueError(f"claim '{self.says}': either tests or rules hold it, or `open` says why none does")

    @property
    def held(self) -> bool:
        """Whether some test holds it."""
        return not self.open

    @property
    def holders(self) -> tuple[str, ...]:
        """Test by test, what holds it; rules by the test that draws their violations."""
        return self.tests + tuple(f"rule {rule} ({EVERY_REFUSAL})" for rule in self.rules)


@dataclass(frozen=True)
class Page:
    """The published page of one kernel and its promises in the order in which they stand there."""

    kernel: str
    title: str
    claims: tuple[Claim, ...]


@functools.cache
def functions(module: str) -> frozenset[str]:
    """Names of the test functions of a module of conformance/tests/kernels; none where there is no such file."""
    path = TESTS / f"{module}.py"
    if not path.is_file():
        return frozenset()
    nodes = ast.walk(ast.parse(path.read_text()))
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef))


def complaints(page: Page, rules: frozenset[str]) -> list[str]:
    """Tests and rules that claims name and that do not exist; `rules` are those of the kernel's contract."""
    missing = [
        f"'{claim.says}' names {test}, which does not exist"
        for claim in page.claims
        for test in claim.tests
        if test.partition("::")[2] not in functions(test.partition("::")[0])
    ]
    unknown = [
        f"'{claim.says}' names the rule {rule}, which the contract lacks"
        for claim in page.claims
        for rule in claim.rules
        if rule not in rules
    ]
    return missing + unknown
