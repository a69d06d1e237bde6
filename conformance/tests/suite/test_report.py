"""The report: what the page says of right and wrong results, and that it stands alone and trusts no text."""

from __future__ import annotations

import html.parser
import json
from typing import Any

import pytest

from conformance.grades import Grade
from conformance.registry import kernel
from conformance.report import Sources, document, page
from conformance.report.grades_reached import matrices, options, tally
from conformance.report.histograms import histograms
from conformance.report.page import _percent
from conformance.results import CaseResult, OutputResult
from conformance.subject import config_to_dict

KERNEL = "output_projection_tkg"
SUBJECT = kernel(KERNEL)
CASES = [case for case in SUBJECT.catalog if "ci" in case.tags][:3]


def output(rung: str = "sim", grade: Grade = Grade.A, required: Grade = Grade.A, **more: Any) -> OutputResult:
    return OutputResult(rung, "out", "bfloat16", grade, required, "a reason", "", elements=4, **more)


def row(index: int = 0, *outputs: OutputResult, status: str = "passed", error: str = "") -> dict[str, Any]:
    case = CASES[index]
    result = CaseResult(
        KERNEL, case.id, config_to_dict(case.config), case.lane, 0, "sim", {}, "nki-oracle check", status,
        outputs or (output(),), error=error,
    )  # fmt: skip
    return result.to_dict()


def checked(*rows: dict[str, Any], backend: str = "sim") -> dict[str, Any]:
    passed = all(one["status"] in ("passed", "unfit") for one in rows)
    return {"command": "check", "version": 1, "backend": backend, "passed": passed, "results": list(rows)}


FAILED = ("failed", "8 <script>alert('x')</script> elements")


def failing() -> dict[str, Any]:
    return row(1, output(grade=Grade.F), status=FAILED[0], error=FAILED[1])


class Tags(html.parser.HTMLParser):
    """Every element, and every address that a browser would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]


def test_right_results_are_told_as_right() -> None:
    made = document(Sources(checked(row(0), row(1))))
    assert made["passed"]
    assert (made["cases"], made["failures"]) == (2, [])
    text = page(made)
    assert "Every output reaches the grade it must have" in text
    assert 'id="failures"' not in text


def test_a_failure_is_told_first_with_its_command_and_counts_as_wrong() -> None:
    made = document(Sources(checked(row(0), failing())))
    assert not made["passed"]
    assert [one["case"] for one in made["failures"]] == [CASES[1].id]
    text = page(made)
    assert "1 of 2 cases fail" in text
    assert text.index('id="failures"') < text.index(f'<h2 id="{KERNEL}"')


def test_other_commands_that_found_something_make_the_whole_wrong() -> None:
    survivors = {"command": "mutants", "version": 1, "passed": False, "mutants": []}
    assert not document(Sources(checked(row(0)), mutants=survivors))["passed"]
    assert document(Sources(checked(row(0)), mutants=survivors | {"passed": True}))["passed"]


def test_what_does_not_fit_a_lane_is_no_case() -> None:
    made = document(Sources(checked(row(0), row(1, status="unfit"))))
    assert made["passed"]
    assert made["cases"] == 1


def test_the_page_has_no_script_and_loads_nothing() -> None:
    tags = Tags(page(document(Sources(checked(row(0), failing())))))
    assert "script" not in tags.names
    assert not {"link", "img", "iframe", "object"} & set(tags.names)
    assert all(address.startswith("#") for address in tags.addresses)


def test_text_of_results_is_escaped() -> None:
    text = page(document(Sources(checked(failing()))))
    assert "<script>" not in text
    assert "&lt;script&gt;alert(" in text


@pytest.mark.parametrize("backend", ["sim", "nki-sim", "stand-in", "trn9"])
def test_only_a_device_counts_as_hardware(backend: str) -> None:
    made = document(Sources(checked(row(0), backend=backend)))
    assert not made["hardware"]
    assert "no hardware was involved" in page(made)


def test_a_device_counts_as_hardware() -> None:
    made = document(Sources(checked(row(0), backend="trn2")))
    assert made["hardware"]
    assert "no hardware was involved" not in page(made)


def test_a_cell_shows_the_output_with_the_least_margin() -> None:
    rows = [row(0, output(grade=Grade.C, required=Grade.C)), row(0, output(grade=Grade.D, required=Grade.D)),
            row(0, output(grade=Grade.B, required=Grade.A))]  # fmt: skip
    for one, name in zip(rows, "xyz", strict=True):
        one["case"] = name
    (cell,) = (cell for line in matrices(rows)[0]["rows"] for cell in line["cells"])
    assert (cell["case"], cell["grade"], cell["required"], cell["passed"]) == ("z", "B", "A", False)
    assert (cell["outputs"], cell["cases"]) == (3, ["x", "y", "z"])


def test_lanes_and_formats_without_a_case_stay_empty() -> None:
    lanes = {case.lane for case in SUBJECT.catalog}
    rows = [row(0), row(1)]
    rows[1]["lane"] = next(lane for lane in sorted(lanes) if lane != rows[0]["lane"])
    (table,) = matrices(rows)
    assert [line["lane"] for line in table["rows"]] == ["normal", rows[1]["lane"]]
    assert all(cell is not None for line in table["rows"] for cell in line["cells"]) == (len(table["formats"]) == 1)


def test_options_count_the_cases_that_have_them() -> None:
    found = options([row(0), row(1)])
    assert found
    assert {one["passed"] for one in found} == {True}
    assert all(1 <= len(one["cases"]) <= 2 for one in found)


def test_grades_are_counted_per_rung() -> None:
    rows = [row(0, output("model", Grade.C, Grade.C), output()), row(1)]
    assert tally(rows) == {"model": dict.fromkeys("ABDF", 0) | {"C": 1}, "sim": dict.fromkeys("BCDF", 0) | {"A": 2}}


def test_histograms_of_cases_are_added() -> None:
    rows = [row(0, output(ulp_histogram={"0": 3, "1": 1})), row(1, output(ulp_histogram={"0": 4, "1": 0})), row(2)]
    assert histograms(rows) == [{"rung": "sim", "output": "out", "elements": 8, "buckets": {"0": 7, "1": 1}}]


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (0.004, "<1 %"), (0.5, "50 %"), (0.996, ">99 %"), (1.0, "100 %"), (None, "-"), (-0.25, "-25 %")],
)
def test_a_share_that_is_not_quite_nothing_or_all_says_so(share: float | None, text: str) -> None:
    assert _percent(share) == text


def test_the_largest_share_of_a_bound_is_kept_with_its_case() -> None:
    rows = [row(0, output(share_of_bound=0.25)), row(1, output(share_of_bound=0.75)), row(2, output())]
    (worst,) = document(Sources(checked(*rows)))["kernels"][0]["worst"]
    assert (worst["share"], worst["case"]) == (0.75, CASES[1].id)


def mutant(name: str, lane: str, faults: dict[str, str], asked: list[str], **more: Any) -> dict[str, Any]:
    plain = {
        "id": name, "kernel": "k", "class": "clamp", "title": f"<b>{name}</b>", "case": "plain", "killed": True,
        "hardware": True, "tolerance": False, "tolerance_on_normal": False, "gates": dict.fromkeys(asked, True),
        "point": "sum", "survives": [], "complaints": [],
        "sights": [{"lane": lane, "faults": faults, "asked": asked}],
    }  # fmt: skip
    return plain | more


def test_the_kill_table_counts_judges_gates_and_lanes() -> None:
    rows = [
        mutant("one", "exact", {"exact": "x"}, ["exact", "D"]),
        mutant("two", "normal", {"C": "y", "D": "z"}, ["C", "D"], tolerance=True, tolerance_on_normal=True),
        mutant("three", "normal", {}, ["C", "D"], hardware=False, survives=["it shows in no value"]),
    ]
    planted = {"command": "mutants", "version": 1, "passed": True, "mutants": rows, "variants": [{"passed": True}]}
    planted |= {"gates": dict.fromkeys(("exact", "C", "D"), "a gate"), "summary": {"margins": []}}
    made = document(Sources(checked(row(0)), mutants=planted))
    assert made["faults"]["totals"] == [3, 2, 1, 1]
    table = made["faults"]["gates"]
    cells = {
        (line["lane"], gate): cell
        for line in table["rows"]
        for gate, cell in zip(table["gates"], line["cells"], strict=True)
    }
    assert cells == {
        ("normal", "exact"): [0, 0], ("normal", "C"): [1, 2], ("normal", "D"): [1, 2],
        ("exact", "exact"): [1, 1], ("exact", "C"): [0, 0], ("exact", "D"): [0, 1],
    }  # fmt: skip
    text = page(made)
    assert "3 of 3 planted faults caught, 2 of them by what a device can be held to" in text
    assert "it shows in no value" in text
    assert "<b>one</b>" not in text


def test_the_document_is_json_and_names_every_open_question() -> None:
    made = document(Sources(checked(row(0))))
    assert json.loads(json.dumps(made))["questions"] == made["questions"]
    text = page(made)
    assert all(f"<b>{one['id']}</b>" in text for one in made["questions"])
