"""The report: what the page says of right and wrong results, and that it stands alone and trusts no text."""

from __future__ import annotations

import html.parser
import json
from typing import Any

import pytest

from conformance.grades import Grade
from conformance.registry import kernel
from conformance.report import Sources, document, misfit, page
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
    assert not document(Sources(checked(row(0)), mutants=planted(passed=False)))["passed"]
    assert document(Sources(checked(row(0)), mutants=planted(passed=True)))["passed"]


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


def values(index: int) -> set[tuple[str, str]]:
    """The options of one of the cases, by the flags of its subject."""
    config = CASES[index].config
    found = ((flag, flag.index(config)) for flag in SUBJECT.flags)
    texts = (flag.text(place).partition("=") for flag, place in found if place is not None)
    return {(name, value) for name, _, value in texts}


def test_options_count_the_cases_that_have_them() -> None:
    found = {(one["option"], one["value"]): one for one in options([row(0), row(1)])}
    assert found.keys() == values(0) | values(1)
    assert {one["passed"] for one in found.values()} == {True}
    shared = values(0) & values(1)
    assert {key for key, one in found.items() if len(one["cases"]) == 2} == shared
    assert shared != found.keys(), "the cases have to differ in an option"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_failing_case_turns_the_options_that_it_has_and_no_others(order: tuple[int, int]) -> None:
    rows = {0: row(0), 1: failing()}
    found = {(one["option"], one["value"]): one for one in options([rows[index] for index in order])}
    assert {key for key, one in found.items() if not one["passed"]} == values(1)
    assert all((found[key]["grade"], found[key]["case"]) == ("F", CASES[1].id) for key in values(1))
    assert all((found[key]["grade"], found[key]["case"]) == ("A", CASES[0].id) for key in values(0) - values(1))


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
        "id": name, "kernel": KERNEL, "class": "clamp", "title": f"<b>{name}</b>", "case": "plain", "killed": True,
        "hardware": True, "outputs": True, "stops": False, "refused": "", "tolerance": False,
        "tolerance_on_normal": False, "gates": dict.fromkeys(asked, True),
        "point": "sum", "survives": [], "complaints": [],
        "sights": [{"lane": lane, "faults": faults, "asked": asked}],
    }  # fmt: skip
    return plain | more


def planted(*rows: dict[str, Any], variants: tuple[dict[str, Any], ...] = (), **more: Any) -> dict[str, Any]:
    """The JSON of `mutants`."""
    plain = {"command": "mutants", "version": 1, "passed": True, "mutants": list(rows), "variants": list(variants)}
    return plain | {"gates": dict.fromkeys(("exact", "C", "D"), "a gate"), "summary": {"margins": []}} | more


def test_the_kill_table_counts_judges_gates_and_lanes() -> None:
    rows = [
        mutant("one", "exact", {"exact": "x"}, ["exact", "D"], outputs=False, stops=True, refused="no such address"),
        mutant("two", "normal", {"C": "y", "D": "z"}, ["C", "D"], tolerance=True, tolerance_on_normal=True),
        mutant("three", "normal", {}, ["C", "D"], hardware=False, outputs=False, survives=["in no value"]),
    ]
    made = document(Sources(checked(row(0)), mutants=planted(*rows)))
    totals = {"killed": 3, "hardware": 2, "outputs": 1, "tolerance": 1, "tolerance_on_normal": 1}
    assert made["faults"]["totals"] == totals
    assert [row["id"] for row in made["faults"]["refused"]] == ["one"]
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
    assert "in no value" in text
    assert "no such address" in text
    assert "<b>one</b>" not in text


def test_the_document_is_json_and_names_every_open_question() -> None:
    made = document(Sources(checked(row(0))))
    assert json.loads(json.dumps(made))["questions"] == made["questions"]
    text = page(made)
    assert all(f"<b>{one['id']}</b>" in text for one in made["questions"])


# --------------------------------------------------------------------------------------- what is wrong

OTHER = "qkv"


def told(made: dict[str, Any]) -> str:
    """What the verdict box says."""
    text = page(made)
    return text[text.index('<div class="verdict') : text.index("<nav>")]


def test_rows_decide_and_not_what_the_file_says_of_itself() -> None:
    """A failed case under a top that says passed, and an output that misses its grade in a case that says passed."""
    for wrong in (failing(), row(1, output(grade=Grade.C))):
        made = document(Sources(checked(row(0), wrong) | {"passed": True}))
        assert made["reasons"] == ["1 of 2 cases fail"]
        assert [one["case"] for one in made["failures"]] == [CASES[1].id]


def test_complaints_are_a_reason_by_their_own_words() -> None:
    made = document(Sources(checked(row(0)) | {"passed": False, "complaints": ["waiver old matches no case"]}))
    assert made["reasons"] == ["waiver old matches no case"]
    assert "waiver old matches no case" in told(made)
    assert "No case fails, and something else is wrong" in told(made)


def test_half_a_run_is_a_reason() -> None:
    made = document(Sources(checked(row(0)) | {"incomplete": "run incomplete: 1 of 9 cases"}))
    assert (made["passed"], made["reasons"]) == (False, ["run incomplete: 1 of 9 cases"])
    assert "run incomplete: 1 of 9 cases" in told(made)


def test_a_file_that_says_no_without_a_row_that_shows_it_is_no_pass() -> None:
    assert not document(Sources(checked(row(0)) | {"passed": False}))["passed"]


def test_nothing_but_cases_that_fit_no_data_is_no_pass() -> None:
    made = document(Sources(checked(row(0, status="unfit"))))
    assert made["reasons"] == ["no case was judged: none has room for its data"]


def of_other(one: dict[str, Any]) -> dict[str, Any]:
    return one | {"kernel": OTHER}


def test_a_page_of_one_kernel_is_red_for_that_kernel_alone() -> None:
    whole = checked(row(0), of_other(failing()))
    made = document(Sources(whole, kernels=[KERNEL]))
    assert (made["passed"], made["cases"], made["failures"]) == (True, 1, [])
    made = document(Sources(checked(failing(), of_other(row(0))), kernels=[KERNEL]))
    assert made["reasons"] == ["1 of 1 cases fail"]


def fuzzed(kernel: str, *findings: str) -> dict[str, Any]:
    """A row of the JSON of `fuzz`."""
    return {
        "kernel": kernel, "passed": not findings, "examples": 9, "refusals": 9, "seconds": 1.0, "failure": "",
        "findings": [{"report": "far off", "repro": one} for one in findings], "worst": [],
        "coverage": {"pairs": 4, "covered": 4},
    }  # fmt: skip


def moved(kernel: str, fails: bool) -> dict[str, Any]:
    """A row of the JSON of `drift`."""
    return {
        "change": "out", "kernel": kernel, "case": "plain", "output": "out", "rung": "sim", "grades": ["A", "F"],
        "apart": "", "first": "sum", "why": "far off", "fails": fails,
    }  # fmt: skip


def drifted(*rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The JSON of `drift`."""
    plain = {"command": "drift", "version": 1, "old": "a", "new": "b", "differs": [], "changes": list(rows)}
    counts = {"out": len(rows), "same bits": 5}
    return plain | {"passed": not any(one["fails"] for one in rows), "counts": counts} | more


def parts(kernel: str) -> dict[str, Any]:
    """Parts that are wrong about one kernel."""
    survivor = mutant("one", "exact", {}, ["exact"], kernel=kernel, complaints=["nobody sees it"])
    variant = {"kernel": kernel, "case": "plain", "profile": "order=chain", "passed": False, "missed": "out: D for C"}
    fuzz = {"command": "fuzz", "version": 1, "passed": False, "results": [fuzzed(kernel, "nki-oracle check again")]}
    return {
        "mutants": planted(survivor, variants=(variant,), passed=False),
        "fuzz": fuzz,
        "drift": drifted(moved(kernel, fails=True)),
    }


def test_every_part_that_is_wrong_is_named_in_the_verdict() -> None:
    made = document(Sources(checked(row(0)), **parts(KERNEL)))
    assert made["reasons"] == [
        f"planted fault one of {KERNEL}: nobody sees it",
        f"legal variant order=chain of {KERNEL} plain is rejected: out: D for C",
        f"fuzzing {KERNEL}: findings: 1, the first: nki-oracle check again",
        f"drift: {KERNEL} plain out sim out: far off",
    ]
    assert all(reason in told(made) for reason in made["reasons"])


@pytest.mark.parametrize("kernels", [(), (KERNEL,)])
def test_what_is_wrong_about_a_kernel_that_is_not_shown_is_a_remark(kernels: tuple[str, ...]) -> None:
    rows = (row(0), of_other(row(1))) if kernels else (row(0),)
    made = document(Sources(checked(*rows), **parts(OTHER), kernels=kernels))
    assert (made["passed"], made["reasons"]) == (True, [])
    assert made["faults"]["count"] == len(made["fuzz"]["results"]) == len(made["drift"]["changes"]) == 0
    why = "the page is of other kernels" if kernels else "the check has no result of them"
    remarks = [one for one in made["remarks"] if one.startswith("left out")]
    names = ("planted faults", "fuzzing", "drift rows")
    assert remarks == [f"left out: {name} of {OTHER} (1): {why}" for name in names]
    assert all(remark in told(made) for remark in remarks)


def test_a_drift_between_runs_that_are_not_whole_is_a_reason() -> None:
    made = document(Sources(checked(row(0)), drift=drifted(lacking=["b: run incomplete: 1 of 9 cases"], passed=False)))
    assert made["reasons"] == ["drift: b: run incomplete: 1 of 9 cases"]


# ------------------------------------------------------------------------------------------- versions

VERSIONS = {"nki_oracle": "1.0", "commit": "abc", "numpy": "2.1"}


def test_parts_of_the_same_versions_need_no_remark() -> None:
    made = document(Sources(checked(row(0)) | {"versions": VERSIONS}, mutants=planted(versions=VERSIONS)))
    assert (made["remarks"], made["apart"]) == ([], {})


@pytest.mark.parametrize(
    ("versions", "text"),
    [
        (VERSIONS | {"commit": "def"}, "made by other versions than the check: commit def (check: abc)"),
        ({}, "by what versions is not known: its file does not tell them"),
    ],
)
def test_a_part_of_other_versions_is_flagged_where_it_stands(versions: dict[str, str], text: str) -> None:
    made = document(Sources(checked(row(0)) | {"versions": VERSIONS}, mutants=planted(versions=versions)))
    assert made["remarks"] == [f"planted faults: {text}"]
    shown = page(made)
    assert text in shown[shown.index('<h2 id="faults">') : shown.index('<h2 id="fuzzing">')]


# ----------------------------------------------------------------------------------------------- forms

WHOLE = {
    "check": checked(row(0, output(ulp_histogram={"0": 3}))),
    "mutants": planted(mutant("one", "exact", {"exact": "x"}, ["exact"])),
    "fuzz": {"command": "fuzz", "version": 1, "passed": True, "results": [fuzzed(KERNEL, "again")]},
    "drift": drifted(moved(KERNEL, fails=False)),
}


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every name in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    own = [way] if way and isinstance(way[-1], str) else []
    return own + [found for name, one in inner for found in places(one, (*way, name))]


@pytest.mark.parametrize("command", WHOLE)
def test_what_a_command_writes_fits_and_without_any_of_it_the_report_is_made_or_the_place_is_told(command: str) -> None:
    assert misfit(WHOLE[command], command) == ""
    for way in places(WHOLE[command]):
        spoiled = json.loads(json.dumps(WHOLE[command]))
        *outer, last = way
        holder = spoiled
        for step in outer:
            holder = holder[step]
        del holder[last]
        if wrong := misfit(spoiled, command):
            assert f"{last} is missing" in wrong
        elif command != "check":
            page(document(Sources(checked(row(0)), **{command: spoiled})))


@pytest.mark.parametrize(
    ("command", "change", "wrong"),
    [
        ("mutants", {"mutants": {}}, "mutants is {}"),
        ("fuzz", {"results": [3]}, "results[0] is 3"),
        ("drift", {"counts": {"out": "many"}}, "counts.out is 'many'"),
    ],
)
def test_what_is_of_another_type_is_told_with_its_place(command: str, change: dict[str, Any], wrong: str) -> None:
    assert misfit(WHOLE[command] | change, command) == wrong


def test_figures_that_are_no_numbers_are_shown_as_words() -> None:
    fuzz = {"command": "fuzz", "version": 1, "passed": True, "results": [fuzzed(KERNEL)]}
    fuzz["results"][0]["worst"] = [{"output": "out", "family": "none", "share": "inf", "repro": "again"}]
    assert ">inf<" in page(document(Sources(checked(row(0)), fuzz=fuzz)))


def test_of_what_fuzzing_came_nearest_to_the_page_shows_the_worst_of_each_output() -> None:
    fuzz = {"command": "fuzz", "version": 1, "passed": True, "results": [fuzzed(KERNEL)]}
    fuzz["results"][0]["worst"] = [
        {"output": "out", "family": "none", "share": 0.25, "repro": "the lesser"},
        {"output": "out", "family": "fp8-kv", "share": 0.75, "repro": "the greater"},
        {"output": "k_out", "family": "none", "share": 0.125, "repro": "another output"},
    ]
    made = document(Sources(checked(row(0)), fuzz=fuzz))
    shown = page(made)
    assert [name in shown for name in ("the greater", "another output", "the lesser")] == [True, True, False]
    assert len(made["fuzz"]["results"][0]["worst"]) == 3
