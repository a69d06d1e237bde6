"""`nki-oracle explain`: the first rounding point at which two traces of a case part."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from conformance.backends.errors import Unfit
from conformance.explain import Explanation, first_difference, profile_difference
from conformance.explain_golden import GoldenExplanation, golden_difference, store_difference
from conformance.mutants import implementation, mutants
from conformance.subject import Case, Subject
from reference.neuroncore.errors import NkiValidationError
from tools import profile_option, selection
from tools.errors import BadInput
from tools.output import console, require_folder, write_json


def explain(
    name: Annotated[str, typer.Argument(metavar="KERNEL")],
    case: Annotated[
        str | None, typer.Option(help="Id of a case, or its 'cfg:' text; of a mutant the one that reveals it.")
    ] = None,
    kernel: Annotated[str | None, typer.Option(help="Another implementation: module:attribute.")] = None,
    provider: Annotated[str | None, typer.Option(help="Somebody's kernels: module:attribute.")] = None,
    mutant: Annotated[
        str | None, typer.Option(help="A faulty kernel; `nki-oracle mutants --list` names all.")
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            help=f"The model under this profile against the default, or under the two given. {profile_option.HELP}"
        ),
    ] = None,
    golden: Annotated[
        list[Path] | None,
        typer.Option(help="The model against the golden in this store, or one store against the other of two given."),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write what was found here; - for stdout.")] = None,
) -> int:
    """Pair the traces of model and simulated kernel, of two profiles or two goldens; exit 1 where they part."""
    require_folder(json_file)
    _require_one_question(kernel or provider, mutant, profile, golden)
    found: Explanation | GoldenExplanation | None
    if mutant:
        found = _of_mutant(name, case, mutant)
    elif case is None:
        raise BadInput("--case ID is missing: which case is to be explained")
    elif golden:
        found = _of_goldens(name, case, golden)
    elif profile:
        found = _of_profiles(*_legal(selection.subject(name), case), profile)
    else:
        found = _of_kernel(name, case, kernel, provider)
    if found is None:
        return 1
    if json_file is not None:
        write_json(json_file, {"command": "explain", "version": 1, **found.to_dict()})
    if json_file != Path("-"):
        console().print(found.text(), markup=False, highlight=False, soft_wrap=True)
    return 0 if found.agrees else 1


def _require_one_question(
    judged: str | None, mutant: str | None, profile: list[str] | None, golden: list[Path] | None
) -> None:
    if sum(map(bool, (judged, mutant, profile, golden))) > 1:
        options = "--kernel or --provider, --mutant, --profile, --golden"
        raise BadInput(f"give one of {options}: each is a comparison of its own")
    for option, values in (("--profile", profile), ("--golden", golden)):
        if values and len(values) > 2:
            raise BadInput(f"{option} can be given twice, not {len(values)} times: two sides are compared")


def _legal(subject: Subject, name: str) -> tuple[Subject, Case]:
    (chosen,) = selection.named(subject, [name])
    if (refusal := subject.legal(chosen.config)) is not None:
        raise BadInput(f"this config is refused: {refusal.error()}")
    return subject, chosen


def _of_kernel(name: str, case: str, kernel: str | None, provider: str | None) -> Explanation | None:
    selection.usable_backend("sim")
    (judged,) = selection.judged([name], kernel, provider).subjects
    subject, chosen = _legal(judged, case)
    try:
        return _unless_stopped(subject, chosen)
    except Unfit as error:
        raise BadInput(f"{name} {chosen.id} cannot be asked of {provider}: {error}") from None


def _of_mutant(name: str, case: str | None, identifier: str) -> Explanation | None:
    """Of a faulty kernel on the case that reveals it, or on another."""
    selection.usable_backend("sim")
    subject = selection.subject(name)
    chosen = next((one for one in mutants() if (one.kernel, one.id) == (name, identifier)), None)
    if chosen is None:
        raise BadInput(f"no mutant '{identifier}' of {name}; `nki-oracle mutants {name} --list` names all")
    faulty = subject.with_implementation(implementation(chosen, subject.implementation))
    found = _unless_stopped(*_legal(faulty, case or chosen.case))
    # The module of a mutant is made in this process and is gone with it.
    again = f"nki-oracle explain {name}{f' --case {case}' if case else ''} --mutant {identifier}"
    return found and dataclasses.replace(found, repro=again)


def _unless_stopped(subject: Subject, case: Case) -> Explanation | None:
    """None, and the reason told, where the machine or an assertion of its own stops the kernel."""
    try:
        return first_difference(subject, case)
    except (NkiValidationError, AssertionError) as error:
        told = f"{subject.name} {case.id}: the kernel stopped: {error}"
        console().print(told, markup=False, highlight=False, soft_wrap=True)
        return None


def _of_profiles(subject: Subject, case: Case, names: list[str]) -> Explanation:
    first, second = names if len(names) == 2 else ("default", names[0])
    profiles = profile_option.profile_of(first), profile_option.profile_of(second)
    return profile_difference(subject, case, profiles, (first, second))


def _of_goldens(name: str, case: str, stores: list[Path]) -> GoldenExplanation:
    subject = selection.subject(name)
    if len(stores) == 2:
        return store_difference(subject, case, (stores[0], stores[1]))
    try:
        return golden_difference(subject, case, stores[0])
    except (ValueError, TypeError) as error:
        raise BadInput(f"--golden {stores[0]}: the config of {case} is none of {name} any more: {error}") from None
