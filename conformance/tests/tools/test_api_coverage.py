"""Claim: the drop-in has every name of the API, and the tool that says so would notice a missing one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import api_coverage


def test_every_name_is_there() -> None:
    coverage = api_coverage.measure()
    assert coverage.missing == ()
    assert sum(coverage.total.values()) == 274
    assert coverage.share == 1.0


def test_missing_names_are_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = tmp_path / "names.txt"
    names.write_text("isa nc_matmul\nisa no_such_thing\nisa-enum engine.none_such\nNkiTensor ap\n")
    coverage = api_coverage.measure(names)
    assert coverage.missing == ("isa no_such_thing", "isa-enum engine.none_such")
    assert coverage.share == 0.5
    assert api_coverage.main([str(names)]) == 1
    assert "missing: isa no_such_thing" in capsys.readouterr().out
    assert api_coverage.main([]) == 0


@pytest.mark.parametrize("line", ["isa", "nonsense nc_matmul"])
def test_malformed_lists_are_refused(line: str, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text(line)
    with pytest.raises(ValueError, match=r"names\.txt:1"):
        api_coverage.measure(names)
