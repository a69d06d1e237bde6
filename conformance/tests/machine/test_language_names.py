"""Claim: the names of nki.language are what kernels take them for: strings, tokens, regions, sizes,
annotations."""

from __future__ import annotations

from typing import Any, Optional

import ml_dtypes
import numpy as np
import pytest

from conformance.tests.machine.bench import out, run, target, tile

import nki.dtype  # isort: skip
import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip

X = np.array([[-3.75, 0.0, 2.5]], np.float32)


def test_dtypes_are_their_names() -> None:
    assert nl.bfloat16 == "bfloat16"
    assert str(nl.float32) == "float32"
    assert {nl.float8_e4m3: 1}["float8_e4m3"] == 1
    assert np.dtype(nl.float8_e4m3) == ml_dtypes.float8_e4m3
    assert nki.dtype.int8 is nl.int8
    assert run(lambda x: tuple(str(tile(x).dtype)), X) == tuple("float32")


@pytest.mark.parametrize(
    "spelling",
    ["bfloat16", "nki.language.bfloat16", ml_dtypes.bfloat16, np.dtype(ml_dtypes.bfloat16), nl.bfloat16],
)
def test_dtype_spellings(spelling: Any) -> None:
    assert run(lambda x: nl.ndarray((1, 1), spelling).dtype == nl.bfloat16, X)


def test_buffers_and_predicates() -> None:
    assert nl.hbm is nl.private_hbm
    assert nl.sbuf is nl.MemoryRegion.sbuf
    seen = [
        (nl.is_sbuf(b), nl.is_psum(b), nl.is_hbm(b), nl.is_on_chip(b))
        for b in (nl.sbuf, nl.psum, nl.shared_hbm)
    ]
    assert seen == [(True, False, False, True), (False, True, False, True), (False, False, True, False)]
    with pytest.warns(UserWarning, match=r"write nl\.psum"):
        run(lambda x: nl.ndarray((1, 1), nl.float32, "psum") and None, X)


def test_tile_size_follows_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for generation in ("gen2", "gen3", "gen4"):
        with target(generation):
            size = nl.tile_size
            seen.append((size.sbuf_size_bytes >> 20, size.total_available_sbuf_size, size.sbuf_fmax * 4))
    assert seen == [(24, 180224, 180224), (28, 212984, 212984), (32, 245752, 245752)]
    fixed = nl.tile_size
    assert (fixed.pmax, fixed.psum_fmax, fixed.psum_bank_fmax_bytes, fixed.psum_num_banks) == (
        128,
        512,
        2048,
        8,
    )
    monkeypatch.setenv("NKI_DMA_TRANSPOSE_AS_PE_TRANSPOSE", "true")
    assert nl.tile_size.psum_num_banks == 7


@pytest.mark.parametrize(("generation", "version"), [("gen2", 2), ("gen3", 3), ("gen4", 4)])
def test_versions_order_against_ints_and_each_other(generation: str, version: int) -> None:
    with target(generation):
        assert nisa.get_nc_version() == version
        assert (nisa.get_nc_version() >= nisa.nc_version.gen3) == (version >= 3)
    assert run(lambda x: nisa.get_nc_version() is nisa.nc_version[generation], X, generation=generation)
    assert nisa.get_nc_sub_version() == 0


def test_ndarray_serves_annotations() -> None:
    def helper(x: nl.ndarray | None, y: Optional[nl.ndarray] = None) -> nl.NkiTensor:  # noqa: UP045  (the old spelling is what is asked)
        assert isinstance(x, nl.ndarray)
        assert isinstance(x, nl.NkiTensor)
        return x

    assert (run(lambda x: out(helper(tile(x))), X) == X).all()
    assert not isinstance(X, nl.ndarray)


def test_constants_module_has_the_same_objects() -> None:
    import nki.isa.constants as constants

    for name in constants.__all__:
        assert getattr(constants, name) is getattr(nisa, name)


def test_operator_tokens_carry_their_name() -> None:
    assert (nl.add.nki_op, nl.add.__name__, nl.average.nki_op) == ("add", "add", "average")
    assert {nl.add: 1}[nl.add] == 1
    assert nl.add != nl.subtract
