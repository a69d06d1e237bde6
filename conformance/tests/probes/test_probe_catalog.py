"""Claim: every open question has a probe that asks all its parts, with a kernel that would compile; and tables
tell every candidate from every other, but for those declared inseparable. No machine takes part."""

from __future__ import annotations

import ast
import inspect
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance.probes import catalog, inseparable
from conformance.probes.probe import Band, Expected, Probe, Setting
from reference.numerics.profile import CHAIN, DEFAULT, PARTS, QUESTIONS
from tools.kernel_lint import check_targets

KERNELS = Path(catalog.__file__).parent / "kernels"
GEN4 = Setting("gen4")


def by_name(probe: Probe) -> str:
    return probe.name


def test_every_part_of_every_question_is_asked() -> None:
    asked = {name for probe in catalog.PROBES for name in probe.fields}
    assert asked == set(PARTS)
    assert {probe.question for probe in catalog.PROBES} == set(QUESTIONS) == set(catalog.ORDER)


@pytest.mark.parametrize("probe", catalog.PROBES, ids=by_name)
def test_a_probe_asks_parts_of_its_question_and_needs_parts_of_others_or_itself(probe: Probe) -> None:
    own = {part.field for part in QUESTIONS[probe.question].parts}
    assert set(probe.fields) <= own
    assert set(probe.needs) <= set(PARTS)
    assert not set(probe.needs) & set(probe.fields)
    assert not any(set(values) & set(PARTS[name].candidates) for name, values in probe.others.items())


def test_names_of_probes_are_unique() -> None:
    names = [probe.name for probe in catalog.PROBES]
    assert len(set(names)) == len(names)


def test_asking_one_question_asks_what_it_needs() -> None:
    assert {probe.question for probe in catalog.chosen(["U7"])} == {"U7", "U1", "U2", "U12"}
    assert {probe.question for probe in catalog.chosen(["V1"])} == {"V1"}
    assert catalog.chosen([]) == list(catalog.PROBES)
    with pytest.raises(ValueError, match=r"no question 'X1'.*U1"):
        catalog.chosen(["X1"])


# --- kernels ------------------------------------------------------------------------------------------------


def kernels() -> Iterator[tuple[str, ast.FunctionDef]]:
    for path in sorted(KERNELS.glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.decorator_list:
                yield f"{path.stem}.{node.name}", node


def test_kernels_would_compile() -> None:
    findings, count = check_targets([str(KERNELS)])
    assert findings == []
    assert count == len(list(kernels())) > 30


def test_a_kernel_is_short() -> None:
    sizes = {name: (node.end_lineno or 0) - node.lineno for name, node in kernels()}
    assert {name for name, size in sizes.items() if size > 40} == set()


def test_every_engine_is_pinned_where_there_is_a_choice() -> None:
    """dma_copy has no engine to pin but for hardware descriptors; everything else must say which one it means."""
    import nki.isa

    loose = [
        f"{name}: {call.func.attr}"
        for name, node in kernels()
        for call in ast.walk(node)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr != "dma_copy"
        and "engine" in _parameters(getattr(nki.isa, call.func.attr, None))
        and not any(keyword.arg == "engine" for keyword in call.keywords)
    ]
    assert loose == []


def _parameters(function: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters) if inspect.isfunction(function) else ()


def test_every_kernel_is_launched_by_some_probe() -> None:
    launched = {
        f"{call.function.func.__module__.rpartition('.')[2]}.{call.function.func.__name__}"  # type: ignore[attr-defined]
        for probe in catalog.PROBES
        for call in probe.launches(GEN4).values()
    }
    assert launched == {name for name, _ in kernels()}


# --- independence -------------------------------------------------------------------------------------------


def test_tables_share_nothing_with_the_arithmetic_under_test() -> None:
    """Of the reference they know the profile, which is data; of the machine nothing."""
    imported = {
        module
        for path in KERNELS.parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for module in _imports(node)
        if module.split(".")[0] == "reference"
    }
    assert imported == {"reference.numerics.profile"}


def _imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []


# --- tables -------------------------------------------------------------------------------------------------

#: Answers to what a probe needs, under which every candidate is tried. Sums that are exact hide the order of a
#: pair, of blocks and of the registers, so the chain is tried, too.
BASES = {"default": DEFAULT, "chain": CHAIN}


def same(one: Expected, other: Expected) -> bool:
    return all(_ends(one[name]) == _ends(other[name]) for name in one)


def _ends(expected: Any) -> tuple[bytes, bytes]:
    low, high = (expected.low, expected.high) if isinstance(expected, Band) else (expected, expected)
    return np.asarray(low, np.float64).tobytes(), np.asarray(high, np.float64).tobytes()


def tables(probe: Probe, base: Mapping[str, Any]) -> list[tuple[dict[str, Any], Expected]]:
    """Assignments to the probe's own fields, with their tables."""
    options = [(*PARTS[name].candidates, *catalog.others(name)) for name in probe.fields]
    needs = {name: base[name] for name in probe.needs}
    found = [dict(zip(probe.fields, values, strict=True)) for values in itertools.product(*options)]
    return [(one, probe.table({**needs, **one}, GEN4)) for one in found]


@pytest.mark.parametrize("base", list(BASES))
@pytest.mark.parametrize("probe", catalog.PROBES, ids=by_name)
def test_tables_tell_candidates_apart(probe: Probe, base: str) -> None:
    answers = {name: getattr(BASES[base], name) for name in PARTS}
    alike = [
        (one, other)
        for (one, first), (other, second) in itertools.combinations(tables(probe, answers), 2)
        if same(first, second) and not _declared({**answers, **one}, other)
    ]
    # One launch of the exponential tells how many registers there are, not in which order a chain runs.
    if probe.name == "V3.accum_order.gen4":
        alike = [pair for pair in alike if {one["accum_order"] for one in pair} != {"exact", "tree"}]
    assert alike == []


def _declared(answers: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return any(value in inseparable.values(name, answers) and value != answers[name] for name, value in other.items())


@pytest.mark.parametrize("row", inseparable.ROWS, ids=lambda row: f"{row.field}: {row.reason}")
def test_what_is_declared_inseparable_looks_alike(row: inseparable.Inseparable) -> None:
    """Under some answers that the row applies to, all its values give one table in every probe of the field."""
    answers = next(one for one in _many_answers() if row.when(one) and one[row.field] in row.values)
    for probe in catalog.PROBES:
        if row.field in probe.fields:
            found = [probe.table({**answers, row.field: value}, GEN4) for value in row.values]
            assert all(same(found[0], other) for other in found[1:])


def _many_answers() -> Iterator[dict[str, Any]]:
    base = {name: part.default for name, part in PARTS.items()}
    fields = (
        "matmul_order",
        "acc_round",
        "psum_entry",
        "psum_add_round",
        "mx_dot",
        "double_row_pair",
        "mx_scale_overflow",
    )
    for values in itertools.product(*(PARTS[name].candidates for name in fields)):
        yield {**base, **dict(zip(fields, values, strict=True)), "subnormals_alu": "ftz"}
