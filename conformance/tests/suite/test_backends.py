"""Which backend runs where, with reasons; and how launches become named outputs."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance import backends
from conformance.backends import detection
from conformance.backends.official import Device, OfficialSimulator
from conformance.backends.outputs import OutputError, fresh_arguments, named_outputs
from conformance.subject import Call
from reference import dropin


class _Package:
    """A finder that knows one package named nki, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "nki":
            return None
        spec = ModuleSpec("nki", None, origin=str(self.folder / "__init__.py"), is_package=True)
        spec.submodule_search_locations = [str(self.folder)]
        return spec


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is found as the package nki; empty, hence a placeholder."""
    monkeypatch.setattr(sys, "meta_path", [_Package(tmp_path), *sys.meta_path])
    return tmp_path


def test_a_placeholder_does_not_count_as_the_official_package(official: Path) -> None:
    assert dropin.official_spec() is None
    assert backends.available("sim").here
    assert backends.available("nki-sim") == (False, "no package nki with instructions (nki.isa) is installed")


def test_a_package_with_instructions_is_official_and_shuts_out_the_machine(official: Path) -> None:
    (official / "isa.py").write_text("")
    assert backends.available("nki-sim").here
    assert not backends.available("sim").here
    with pytest.raises(RuntimeError, match="backend sim cannot run here: the official package answers"):
        backends.backend("sim")


@pytest.mark.parametrize(
    ("machine", "wanted", "here", "reason"),
    [
        ("trn2.48xlarge\n", "trn2", True, "trn2.48xlarge through the official nki package"),
        ("trn2u.48xlarge\n", "trn2", True, "trn2u.48xlarge through the official nki package"),
        ("trn2.48xlarge\n", "trn3", False, "this instance is trn2.48xlarge, not trn3"),
        (None, "trn2", False, "this instance is of unknown type, not trn2"),
    ],
)
def test_a_device_needs_package_driver_and_the_right_chip(
    official: Path, monkeypatch: pytest.MonkeyPatch, machine: str | None, wanted: str, here: bool, reason: str
) -> None:
    kind, device = official / "product_name", official / "neuron0"
    monkeypatch.setattr(detection, "INSTANCE_TYPE", kind)
    monkeypatch.setattr(detection, "DEVICE", device)
    assert backends.available(wanted).reason == "no package nki with instructions (nki.isa) is installed"
    (official / "isa.py").write_text("")
    assert backends.available(wanted).reason == f"no Neuron device ({device} does not exist)"
    device.write_text("")
    if machine is not None:
        kind.write_text(machine)
    assert backends.available(wanted) == (here, reason)


def test_an_unknown_backend_lists_the_known_ones() -> None:
    with pytest.raises(KeyError, match="no backend 'gpu'; known: sim, nki-sim, trn2, trn3"):
        backends.available("gpu")


def _call(returns: tuple[str, ...] = ("y",), **more: Any) -> Call:
    return Call(lambda **_: None, {"x": np.zeros(3, np.float32), "k": 2, **more}, returns)


def test_returned_tensors_are_named_in_order_through_nested_tuples() -> None:
    one, two, three = (np.full(2, value) for value in (1, 2, 3))
    outputs = named_outputs(_call(("a", "b", "c")), (one, (two, three)), {})
    assert {name: int(value[0]) for name, value in outputs.items()} == {"a": 1, "b": 2, "c": 3}


def test_an_output_that_a_config_does_not_have_keeps_its_place() -> None:
    assert set(named_outputs(_call(("out", "k_out")), (np.ones(2), None), {})) == {"out"}


@pytest.mark.parametrize("returned", [None, (np.ones(1), np.ones(1))])
def test_another_number_of_tensors_is_an_error(returned: Any) -> None:
    with pytest.raises(OutputError, match=r"returned [012] tensors, expected a, b, c"):
        named_outputs(_call(("a", "b", "c")), returned, {})


def test_only_arguments_in_place_are_copied() -> None:
    call = Call(lambda **_: None, {"x": np.zeros(3), "cache": np.zeros(3), "k": 2}, (), in_place={"out": "cache"})
    arguments = fresh_arguments(call)
    assert arguments["x"] is call.arguments["x"]
    arguments["cache"][0] = 5
    assert call.arguments["cache"][0] == 0
    assert named_outputs(call, None, arguments)["out"][0] == 5


class _Kernel:
    """Answers as a jitted kernel does: indexed by the number of cores, then called."""

    lnc = 0

    def __getitem__(self, lnc: int) -> _Kernel:
        self.lnc = lnc
        return self

    def __call__(self, x: Any, cache: Any) -> Any:
        cache += x
        return x * 2


def test_the_device_backend_launches_on_the_asked_cores_and_reads_arguments_back() -> None:
    kernel = _Kernel()
    call = Call(kernel, {"x": np.ones(2), "cache": np.ones(2)}, ("y",), lnc=2, in_place={"cache": "cache"})
    outputs = Device("trn2").run(call)
    assert kernel.lnc == 2
    assert (outputs["y"][0], outputs["cache"][0], call.arguments["cache"][0]) == (2, 2, 1)


def test_the_official_simulator_is_called_through_the_packages_own_entry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import nki

    simulated: list[Any] = []

    def simulate(kernel: Any) -> Any:
        simulated.append(kernel)
        return kernel

    monkeypatch.setattr(nki, "simulate", simulate)
    kernel = _Kernel()
    outputs = OfficialSimulator().run(Call(kernel, {"x": np.ones(2), "cache": np.ones(2)}, ("y",)))
    assert simulated == [kernel]
    assert outputs["y"].tolist() == [2, 2]
