"""Claim: a profile on the command line is a name, a list of answers, or a file; anything else is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reference.numerics.profile import CHAIN, DEFAULT
from tools.errors import BadInput
from tools.profile_option import profile_of


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("default", {}),
        ("chain", CHAIN.changed()),
        ("U1=chain", {"matmul_order": "chain"}),
        ("matmul_order=tree", {"matmul_order": "tree"}),
        ("U1=chain, V1=true", {"matmul_order": "chain", "fma_vector": True}),
    ],
)
def test_names_and_answers(text: str, changed: dict[str, object]) -> None:
    assert profile_of(text).changed() == changed


@pytest.mark.parametrize("inside", [False, True])
def test_file_of_a_profile_or_with_one_in_it(tmp_path: Path, inside: bool) -> None:
    path = tmp_path / "measured.json"
    plain = DEFAULT.replace(matmul_order="chain", evidence=(("U1", "probe"),)).to_dict()
    path.write_text(json.dumps({"command": "probe", "profile": plain} if inside else plain))
    assert profile_of(str(path)).matmul_order == "chain"
    assert profile_of(str(path)).status("U1") == "measured"


@pytest.mark.parametrize(
    ("content", "message"),
    [("[1]", "no JSON object"), ("{", "property name"), ('{"order": 1}', "no field 'order'")],
)
def test_file_that_holds_no_profile(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(content)
    with pytest.raises(BadInput, match=message):
        profile_of(str(path))
