"""The two sides of a comparison, in one form: runs of a ledger, folders of goldens, and what the models say now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from conformance import golden_store
from conformance.digests import digest_text
from conformance.golden_manifest import GoldenEntry, Manifest
from conformance.golden_store import Golden
from conformance.ledger import Ledger, Row, Run
from conformance.repeat import RUNG as REPEAT
from conformance.results import CaseResult, OutputResult

MODEL, KERNEL = "model", "kernel"
#: What the names of facts about the answers of a profile begin with.
PROFILE = "profile "


@dataclass(frozen=True)
class Output:
    """One output on one side. `kind` is model, kernel or repeat, so that backends can be compared with one another;
    a ledger knows what came of it (`result`), goldens hold its `values`."""

    kind: str
    name: str
    digest: str
    result: OutputResult | None = None
    values: NDArray[Any] | None = None

    @property
    def rung(self) -> str:
        """The name of the rung in a report: model, or the backend."""
        return self.result.rung if self.result is not None else self.kind


@dataclass(frozen=True)
class Record:
    """One case on one side. `points` holds per kind the digest of every rounding point, in their order."""

    kernel: str
    case: str
    config: dict[str, Any]
    lane: str
    seed: int
    profile: dict[str, Any]
    outputs: tuple[Output, ...]
    points: Mapping[str, Mapping[str, str]]
    task: str = "check"
    backend: str = MODEL
    status: str = "passed"
    error: str = ""

    def output(self, kind: str, name: str) -> Output | None:
        """One output, or None."""
        return next((one for one in self.outputs if (one.kind, one.name) == (kind, name)), None)


@dataclass(frozen=True)
class Side:
    """A name for people, what is known of how the records came about, and the records.

    `facts` are versions, backend and the answers of the profile. `has_kernels` is False for goldens, which hold what
    models said. `lacking` says how far a run came that did not come to its end.
    """

    label: str
    facts: dict[str, str]
    records: tuple[Record, ...]
    has_kernels: bool = True
    lacking: str = ""


# ------------------------------------------------------------------------------------------- ledgers


def side_of_run(ledger: Ledger, name: str = "") -> Side:
    """A run of a ledger, the latest for ''. LedgerError where there is none."""
    run = ledger.run(name)
    # A case that was tried again counts as it came out last.
    last = {(*row.key[:5], row.result.case): row for row in ledger.rows(run.id)}
    records = tuple(_of_row(row) for row in last.values())
    lacking = ledger.progress(run.id).lacking
    return Side(f"{ledger.path}@{run.id}", _facts(run, records_of=last.values()), records, lacking=lacking)


def _facts(run: Run, records_of: Iterable[Row]) -> dict[str, str]:
    kernels = sorted({row.result.implementation for row in records_of} - {""})
    # One run of the whole project names every kernel of its own; what matters is when they are somebody else's.
    foreign = [one for one in kernels if not one.startswith("kernels.")]
    return {"backend": run.backend, "kernels": ", ".join(foreign) or "own"} | run.versions | _answers(run.profile)


def _answers(profile: Mapping[str, Any]) -> dict[str, str]:
    return {f"{PROFILE}{name}": str(value) for name, value in profile.items() if name != "evidence"}


def _of_row(row: Row) -> Record:
    one = row.result
    return Record(
        kernel=one.kernel,
        case=one.case,
        config=one.config,
        lane=one.lane,
        seed=one.seed,
        profile=one.profile,
        outputs=tuple(Output(_kind(out.rung, one), out.name, out.digest, out) for out in one.outputs),
        points={_kind(rung, one): points for rung, points in one.points.items()},
        task=row.task,
        backend=one.backend,
        status=one.status,
        error=one.error,
    )


def _kind(rung: str, result: CaseResult) -> str:
    return rung if rung in (MODEL, REPEAT) else KERNEL


# ------------------------------------------------------------------------------------------- goldens


def side_of_goldens(label: str, goldens: Iterable[Golden]) -> Side:
    """Goldens that are at hand: read from a folder, or computed just now."""
    records = tuple(map(record_of, goldens))
    answers = [set(_answers(record.profile).items()) for record in records]
    # Where cases have profiles of their own, each tells its own differences.
    shared = sorted(set.intersection(*answers)) if answers else []
    return Side(label, dict(shared), records, has_kernels=False)


def side_of_folder(directory: Path) -> Side:
    """A golden folder, every byte of it checked. GoldenError for a damaged one."""
    manifest = golden_store.verify_files(directory)
    return side_of_goldens(str(directory), [stored(directory, manifest, entry) for entry in manifest.entries])


def stored(directory: Path, manifest: Manifest, entry: GoldenEntry) -> Golden:
    """The golden of one entry of a folder."""
    return Golden(
        kernel=entry.kernel,
        case=entry.case,
        config=entry.config,
        lane=entry.lane,
        seed=entry.seed,
        profile=manifest.profiles[entry.profile],
        profile_digest=entry.profile,
        outputs=golden_store.read(directory, entry),
        points=entry.points,
    )


def record_of(golden: Golden) -> Record:
    """A golden as a record of the model."""
    outputs = [Output(MODEL, name, digest_text(one), values=one) for name, one in golden.outputs.items()]
    return Record(
        kernel=golden.kernel,
        case=golden.case,
        config=golden.config,
        lane=golden.lane,
        seed=golden.seed,
        profile=golden.profile,
        outputs=tuple(outputs),
        points={MODEL: {point.name: point.digest for point in golden.points}},
    )
