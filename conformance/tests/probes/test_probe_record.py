"""Claim: a session is written down whole, its profile loads back, and only a chip makes an answer measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance.probes import catalog, record
from conformance.probes.evidence import pack
from conformance.probes.probe import Setting, digest
from conformance.probes.session import Report
from conformance.tests.probes.blind import probed
from reference.numerics.profile import DEFAULT, NumericsProfile
from tools.output import write_json
from tools.profile_option import profile_of

pytestmark = pytest.mark.sim

PLAYED = DEFAULT.replace(matmul_order="chain", acc_round="rz", fma_vector=True, scan_state="rounded")
QUESTIONS = ("U1", "U3", "V1", "V8", "U8")
VERSIONS = {"nki_oracle": "1", "nki": ""}


@pytest.fixture(scope="module")
def report() -> Report:
    return probed(PLAYED, "gen3", QUESTIONS, repeat=2)


def test_the_profile_of_a_chip_is_measured_and_loads_back(report: Report, tmp_path: Path) -> None:
    write_json(tmp_path / "measured.json", record.profile_document(report, True, VERSIONS))
    loaded = profile_of(str(tmp_path / "measured.json"))
    assert loaded.changed() == PLAYED.changed()
    assert loaded.generation == "gen3"
    assert loaded.status("V1") == "measured"
    assert loaded.status("V2") == DEFAULT.status("V2")
    assert loaded.status("U8") == DEFAULT.status("U8") != "measured"
    assert dict(loaded.evidence)["V1"].startswith("probed on sim, inputs ")
    document = json.loads((tmp_path / "measured.json").read_text())
    assert NumericsProfile.from_dict(document["profile"]) == loaded
    assert document["measurements"]["V1"]["status"] == "measured"
    assert document["measurements"]["U8"]["status"] == "not on trn2"


def test_what_a_simulator_plays_is_not_measured(report: Report) -> None:
    document = record.profile_document(report, False, VERSIONS)
    assert document["profile"]["evidence"] == []
    assert document["measurements"]["V1"]["status"] == "played by sim, not measured"
    assert NumericsProfile.from_dict(document["profile"]).changed() == PLAYED.changed()


def test_evidence_holds_every_bit(report: Report) -> None:
    document = json.loads(json.dumps(record.document(report, VERSIONS), default=str))
    row = next(one for one in document["questions"] if one["id"] == "V8")
    (evidence,) = row["evidence"]
    assert evidence["status"] == "ran"
    assert evidence["launches"] == 2
    (probe,) = [probe for probe in catalog.PROBES if probe.question == "V8"]
    assert evidence["inputs"] == digest(probe.launches(Setting()))
    stored = record.unpacked(evidence["outputs"]["scan/out"])
    played = report.finding("V8").probes[0].outputs["scan"]["out"]
    assert stored.tobytes() == played.tobytes()
    assert stored.shape == played.shape
    assert evidence["readings"][0]["cells"] == [1.0] * 16
    assert evidence["readings"][0]["fits"] == {"scan_state": ["rounded"]}


def test_the_document_follows_the_form_of_the_others(report: Report) -> None:
    document = record.document(report, VERSIONS)
    assert (document["command"], document["version"], document["backend"]) == ("probe", 1, "sim")
    for row in document["questions"]:
        assert {"id", "question", "verdict", "candidates_left", "evidence"} <= set(row)
    rows: dict[str, Any] = {row["id"]: row for row in document["questions"]}
    assert rows["U1"]["verdict"] == "decided"
    assert rows["U1"]["candidates_left"] == ["matmul_order=chain"]
    assert rows["U8"]["verdict"] == "not on trn2"
    assert "mx_dot=fused24" in rows["U8"]["candidates_left"]


def test_an_open_field_says_why() -> None:
    seen = probed(DEFAULT, "gen3", ("U2",))
    row = record.document(seen, VERSIONS)["questions"]
    fields = next(one for one in row if one["id"] == "U2")["fields"]
    assert fields["acc_round"]["left"] == ["rne", "wide28"]
    assert fields["acc_round"]["reason"] == "the sum of an instruction is rounded once, at its end"


def test_a_digest_depends_on_inputs_and_kernels() -> None:
    launches = {probe.name: probe.launches(Setting("gen4")) for probe in catalog.PROBES}
    digests = {name: digest(calls) for name, calls in launches.items()}
    # bn_stats is launched alike for both parts of its question.
    assert len(set(digests.values())) == len(digests) - 1
    again = {probe.name: digest(probe.launches(Setting("gen4"))) for probe in catalog.PROBES}
    assert again == digests


def test_raw_outputs_of_formats_that_numpy_does_not_know_keep_their_bytes() -> None:
    import ml_dtypes

    values = np.array([[1.5, -2.0]], ml_dtypes.bfloat16)
    packed = record.unpacked(pack(values))
    assert packed.tobytes() == values.tobytes()
    assert packed.shape == values.shape
