"""`nki-oracle report`: what the suite found, as one HTML page and the same as JSON."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from conformance.config_codec import config_from_dict
from conformance.ledger import Ledger, LedgerError, Row
from conformance.registry import kernel, kernel_names
from conformance.report import Sources, document, misfit, page
from conformance.results import CaseResult
from tools import check as checking
from tools.errors import BadInput
from tools.output import note, require_folder, write_json

#: Reasons that a terminal is told.
_SHOWN = 8

Kernels = Annotated[list[str] | None, typer.Argument(metavar="[KERNEL]...")]
Given = Annotated[Path | None, typer.Option(help="JSON that this command wrote.")]


def report(
    kernels: Kernels = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page; its JSON stands beside it.")] = Path(
        "nki-oracle-report.html"
    ),
    check: Annotated[Path | None, typer.Option(help="JSON of `check`; without it the check cases are run.")] = None,
    ledger: Annotated[
        str | None, typer.Option(metavar="FILE[@RUN]", help="Take the results of a run from a ledger.")
    ] = None,
    mutants: Given = None,
    fuzz: Given = None,
    probe: Given = None,
    drift: Given = None,
    budget: Annotated[list[Path] | None, typer.Option(help="JSON of `budget`; may come several times.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes.", min=1)] = 2,
) -> int:
    """Write one self-contained page and its JSON; exit 0 if everything it shows is right, else 1."""
    beside = output.with_suffix(".json")
    _require_page(output, beside, [check, mutants, fuzz, probe, drift, *(budget or [])])
    require_folder(output)
    sources = Sources(
        check=_checked(check, ledger, kernels or [], jobs),
        mutants=_read(mutants, "mutants"),
        fuzz=_read(fuzz, "fuzz"),
        probe=_read(probe, "probe"),
        drift=_read(drift, "drift"),
        budgets=tuple(_all(budget or [], "budget")),
        kernels=kernels or (),
    )
    made = document(sources)
    _write(output, page(made))
    write_json(beside, made)
    verdict = "everything right" if made["passed"] else "not everything is right:"
    lines = [f"{output} and {beside} written: {verdict}", *(f"  {reason}" for reason in _few(made["reasons"]))]
    note("\n".join([*lines, *(f"remark: {remark}" for remark in made["remarks"])]))
    return 0 if made["passed"] else 1


def _require_page(output: Path, beside: Path, inputs: list[Path | None]) -> None:
    """BadInput where page or JSON cannot have their names."""
    if output == Path("-"):
        raise BadInput("--output -: page and JSON are two files; name the page")
    if beside == output:
        raise BadInput(f"--output {output}: the page cannot have the name of its JSON")
    taken = {path.absolute() for path in inputs if path is not None}
    for path in (output, beside):
        if path.absolute() in taken:
            raise BadInput(f"--output {output}: {path} is read, and would be overwritten")


def _few(lines: list[str]) -> list[str]:
    more = len(lines) - _SHOWN
    return [*lines[:_SHOWN], *([f"... and {more} more on the page"] if more > 0 else [])]


def _checked(path: Path | None, ledger: str | None, kernels: list[str], jobs: int) -> dict[str, Any]:
    """The document of `check`: read, told by a ledger, or made now."""
    if path is not None and ledger is not None:
        raise BadInput("--check and --ledger: name one place to take the results from")
    if path is None and ledger is None:
        return _run_now(kernels, jobs)
    found = _required(path, "check") if path is not None else _from_ledger(str(ledger), kernels)
    place = path or ledger
    if not found["results"]:
        raise BadInput(f"{place} holds no result")
    for name in kernels:
        if all(row["kernel"] != name for row in found["results"]):
            raise BadInput(f"{place} holds no result of {name}")
    results = [_legible(row, f"{place}: results[{number}]") for number, row in enumerate(found["results"])]
    return found | {"results": results}


def _legible(row: dict[str, Any], place: str) -> dict[str, Any]:
    """A row as this release writes it; BadInput where it is of a kernel or a config that it does not know."""
    try:
        result = CaseResult.from_dict(row)
        if result.kernel not in kernel_names():
            raise ValueError(f"there is no kernel '{result.kernel}' here")
        subject = kernel(result.kernel)
        subject.quantization(config_from_dict(subject.config_type, result.config))
    except KeyError as error:
        raise BadInput(f"{place}: it lacks or does not know {error}; another release wrote it") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{place}: {' '.join(str(error).split())}; another release wrote it") from None
    return result.to_dict()


def _from_ledger(place: str, kernels: list[str]) -> dict[str, Any]:
    """The results of one run as `check` would have written them; the latest of a case that was tried again."""
    name, _, run = place.rpartition("@") if "@" in place else (place, "", "")
    book = Ledger(Path(name))
    try:
        chosen = book.run(run)
        rows, progress = book.rows(chosen.id), book.progress(chosen.id)
    except LedgerError as error:
        raise BadInput(str(error)) from None
    latest = list({row.key._replace(repetition=0): row for row in rows}.values())
    results = [row.result for row in latest if row.task == "check"]
    others = [row for row in latest if row.task != "check" and (not kernels or row.result.kernel in kernels)]
    return {
        "command": "check",
        "version": 1,
        "backend": chosen.backend,
        "versions": chosen.versions,
        "passed": all(map(_is_right, results)),
        "incomplete": progress.of(kernels).lacking,
        "complaints": [*progress.complaints, *(_told(row) for row in others if not _is_right(row.result))],
        "results": [one.to_dict() for one in results],
    }


def _is_right(result: CaseResult) -> bool:
    return result.tolerated or result.status == "unfit"


def _told(row: Row) -> str:
    """What a run did beside its checks and found wrong."""
    one = row.result
    return f"{row.task} {one.kernel} {one.case}: {one.status}{f' ({one.error})' if one.error else ''}"


def _run_now(kernels: list[str], jobs: int) -> dict[str, Any]:
    """`check` of the named kernels, whose table is shown as it would be alone."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "check.json"
        checking.check(kernels, jobs=jobs, json_file=path)
        return _required(path, "check")


def _all(paths: Iterable[Path], command: str) -> Iterable[dict[str, Any]]:
    return (_required(path, command) for path in paths)


def _read(path: Path | None, command: str) -> dict[str, Any] | None:
    return None if path is None else _required(path, command)


def _required(path: Path, command: str) -> dict[str, Any]:
    """The document that `command` wrote; BadInput where the file is anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise BadInput(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict) or found.get("command") != command or found.get("version") != 1:
        raise BadInput(f"{path} was not written by `nki-oracle {command} --json`, version 1")
    if wrong := misfit(found, command):
        raise BadInput(f"{path}: {wrong}; another release of `nki-oracle {command}` wrote it")
    return found


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}") from None
