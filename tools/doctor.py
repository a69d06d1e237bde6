"""`nki-oracle doctor`: what can run here and what is missing; with a backend, one known launch on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from conformance.backends import BACKENDS, TIME_LIMIT, available, in_child, is_hardware
from conformance.backends.child import ChildBackend
from conformance.backends.errors import SettingsError
from conformance.backends.official import unread
from conformance.backends.preflight import preflight_call, verdict
from conformance.backends.settings import Setting, device_settings
from conformance.runner import named_backend
from conformance.versions import versions
from tools import selection
from tools.output import console, require_folder, write_json

_CORES = (1, 2)


def doctor(
    backend: Annotated[str | None, typer.Option(help="Launch a known kernel there, on one core and two.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds per launch, compilation included.", min=0.1)] = TIME_LIMIT,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write it here; - for stdout.")] = None,
) -> int:
    """Tell what each backend needs and the versions there are; exit 1 where a known launch comes out wrong."""
    require_folder(json_file)
    if backend is not None:
        selection.usable_backend(backend)
    document = _findings(backend, timeout)
    if json_file is not None:
        write_json(json_file, document)
    if json_file != Path("-"):
        _show(document)
    return 0 if all(told == "right" for told in document["preflight"].values()) else 1


def _findings(backend: str | None, timeout: float) -> dict[str, Any]:
    flights, facts = ({}, {}) if backend is None else _flights(backend, timeout)
    stated = device_settings(backend, 2, os.environ) if backend is not None and is_hardware(backend) else ()
    return {
        "command": "doctor",
        "version": 1,
        "backends": {name: available(name)._asdict() for name in BACKENDS},
        "versions": versions(),
        "remarks": [told for told in {unread(versions()["nki"]), unread(facts.get("nki", ""))} if told],
        "settings": [{"setting": str(one), "why": one.why, "remark": _remark(one)} for one in stated],
        "backend": backend or "",
        "place": facts,
        "preflight": flights,
    }


def _flights(name: str, timeout: float) -> tuple[dict[str, str], dict[str, str]]:
    """The verdict per number of cores, and what the place told of itself."""
    on = named_backend(name, timeout=timeout if in_child(name) else None)
    if not isinstance(on, ChildBackend):
        return {f"{lnc} core(s)": verdict(on.run(preflight_call(lnc))) or "right" for lnc in _CORES}, {}
    try:
        return {f"{lnc} core(s)": _flown(on, lnc) for lnc in _CORES}, dict(on.facts)
    finally:
        on.close()


def _flown(on: ChildBackend, lnc: int) -> str:
    try:
        return on.fly(lnc) or "right"
    except SettingsError as error:
        return str(error)


def _remark(setting: Setting) -> str:
    """Where the caller's environment says otherwise: launches do not inherit it."""
    found = os.environ.get(setting.name)
    return f"{found} in this shell, which launches do not inherit" if found not in (None, setting.value) else ""


# ---- showing -------------------------------------------------------------------------------------------------------


def _show(document: dict[str, Any]) -> None:
    for table in _tables(document):
        console().print(table)
    for remark in document["remarks"]:
        console().print(remark, markup=False, highlight=False, soft_wrap=True)
    for cores, told in document["preflight"].items():
        line = f"known launch on {document['backend']}, {cores}: {told}"
        console().print(line, markup=False, highlight=False, soft_wrap=True)


def _tables(document: dict[str, Any]) -> Iterator[Table]:
    backends = _table("backend", "here", "")
    for name, found in document["backends"].items():
        backends.add_row(name, "yes" if found["here"] else "no", found["reason"])
    yield backends
    known = _table("version of", "")
    for name, told in {**document["versions"], **document["place"]}.items():
        known.add_row(name, told or "-")
    yield known
    if document["settings"]:
        settings = _table("setting of a launch", "why", "")
        for one in document["settings"]:
            settings.add_row(one["setting"], one["why"], one["remark"])
        yield settings


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    return table
