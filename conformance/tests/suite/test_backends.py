"""Which backend runs where, with reasons; and how launches become named outputs."""

from __future__ import annotations

import re
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance import backends
from conformance.backends import device, official, settings
from conformance.backends.errors import SettingsError
from conformance.backends.outputs import OutputError, fresh_arguments, named_outputs
from conformance.subject import Call
from reference import dropin

ROOT = Path(__file__).parents[3]
#: A file per part of a machine that has all.
WHOLE = ("isa.py", "libnrt.so.1", "driver", "neuron0")


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
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is found as the package nki; empty, hence without instructions."""
    monkeypatch.setattr(sys, "meta_path", [_Package(tmp_path), *sys.meta_path])
    return tmp_path


@pytest.fixture
def instance(package: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of whose Neuron parts nothing is there but the compiler, until a test writes the file of that part."""
    monkeypatch.setattr(official, "version", lambda asked: {"neuronx-cc": "2.27.1"}.get(asked, ""))
    monkeypatch.setattr(device, "RUNTIME", package / "libnrt.so.1")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(package / "elsewhere"))
    monkeypatch.setattr(device, "DRIVER", package / "driver")
    monkeypatch.setattr(device, "DEVICE", package / "neuron0")
    monkeypatch.setattr(device, "INSTANCE_TYPES", (package / "product_name", package / "instance_type"))
    monkeypatch.delenv(settings.TARGET, raising=False)
    return package


def _give(folder: Path, *names: str, text: str = "") -> None:
    for name in names:
        (folder / name).write_text(text)


def test_a_package_without_instructions_does_not_count_as_the_official_one(package: Path) -> None:
    assert dropin.official_spec() is None
    assert backends.available("sim").here
    assert backends.available("nki-sim") == (
        False,
        "missing: package nki (no package of that name with instructions, nki.isa, is installed); "
        "install from AWS's own Neuron package index, see the Neuron SDK setup guide",
    )


@pytest.mark.parametrize(("name", "version"), [("nki", "0.0.1"), ("neuronx-cc", "1.0.post1")])
def test_a_placeholder_of_the_public_index_is_named_and_not_taken_for_the_real_thing(
    package: Path, monkeypatch: pytest.MonkeyPatch, name: str, version: str
) -> None:
    _give(package, "isa.py")
    monkeypatch.setattr(official, "version", lambda asked: version if asked == name else "2.30")
    told = f"package {name} {version} is the placeholder of the public index, not the real one"
    for backend in ("trn2", "trn3"):
        assert told in backends.available(backend).reason
    # The simulator is the package nki alone.
    assert backends.available("nki-sim").here == (name == "neuronx-cc")
    monkeypatch.setattr(official, "version", lambda asked: "2.30")
    assert backends.available("nki-sim").here
    assert "placeholder" not in backends.available("trn2").reason


def test_a_device_needs_the_compiler_and_the_simulator_does_not(
    instance: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _give(instance, *WHOLE)
    _give(instance, "product_name", text="trn2.48xlarge\n")
    assert backends.available("trn2").here
    monkeypatch.setattr(official, "version", lambda asked: "0.7.0" if asked == "nki" else "")
    told = "missing: package neuronx-cc (none is installed; a launch on a device compiles with it). "
    assert backends.available("trn2").reason.startswith(told)
    assert backends.available("nki-sim").here


@pytest.mark.parametrize(("version", "here"), [("0.5.9", False), ("0.6.0+abc", True), ("0.10.1", True), ("", True)])
def test_kernels_need_the_version_that_brought_their_loops(
    package: Path, monkeypatch: pytest.MonkeyPatch, version: str, here: bool
) -> None:
    _give(package, "isa.py")
    monkeypatch.setattr(official, "version", lambda asked: version)
    found = backends.available("nki-sim")
    assert found.here is here
    assert here or f"package nki 0.6 or newer (this is {version}" in found.reason


def test_the_runtime_may_lie_where_the_loader_looks(instance: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _give(instance, *(name for name in WHOLE if name != "libnrt.so.1"))
    _give(instance, "product_name", text="trn2.48xlarge\n")
    assert backends.available("trn2").reason.startswith("missing: Neuron runtime (")
    (instance / "elsewhere").mkdir()
    _give(instance / "elsewhere", "libnrt.so.1")
    assert backends.available("trn2").here


@pytest.mark.parametrize(
    ("version", "told"),
    [("0.6.0", ""), ("0.7.3+x", ""), ("", ""), ("0.8.0", "nki 0.8.0 is not read about"), ("1.0", "nki 1.0 is")],
)
def test_a_version_beyond_what_was_read_about_is_named(version: str, told: str) -> None:
    assert official.unread(version).startswith(told)
    assert bool(official.unread(version)) == bool(told)


def test_a_package_with_instructions_is_official_and_shuts_out_the_machine(package: Path) -> None:
    _give(package, "isa.py")
    assert backends.available("nki-sim").here
    assert not backends.available("sim").here
    with pytest.raises(RuntimeError, match="backend sim cannot run here: the official package answers"):
        backends.backend("sim")


def test_all_that_a_device_lacks_is_told_at_once_in_one_line(instance: Path) -> None:
    found = backends.available("trn2")
    assert not found.here
    assert "\n" not in found.reason
    assert "trn2 instance (this is a machine of unknown type)" in found.reason
    for part in ("package nki", "Neuron runtime", "Neuron driver", "Neuron device"):
        assert part in found.reason
    assert found.reason.endswith("install from AWS's own Neuron package index, see the Neuron SDK setup guide")
    # No address of any index: where it lies is for the guide to say.
    assert "://" not in found.reason
    assert ".com" not in found.reason


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (("isa.py",), "missing: Neuron runtime"),
        (("isa.py", "libnrt.so.1"), "missing: Neuron driver"),
        (("isa.py", "libnrt.so.1", "driver"), "missing: Neuron device"),
        (("driver", "neuron0"), "missing: package nki"),
    ],
)
def test_what_is_there_is_not_missed(instance: Path, given: tuple[str, ...], missing: str) -> None:
    _give(instance, "product_name", text="trn2.48xlarge\n")
    _give(instance, *given)
    assert backends.available("trn2").reason.startswith(missing)
    assert "instance" not in backends.available("trn2").reason


@pytest.mark.parametrize(
    ("machine", "wanted", "here", "reason"),
    [
        ("trn2.48xlarge\n", "trn2", True, "trn2.48xlarge through the official nki package"),
        ("trn2u.48xlarge\n", "trn2", True, "trn2u.48xlarge through the official nki package"),
        ("trn2.48xlarge\n", "trn3", False, "trn3 instance (this is trn2.48xlarge)"),
        ("trn1.2xlarge\n", "trn2", False, "trn2 instance (this is trn1.2xlarge)"),
    ],
)
def test_the_instance_has_to_be_of_the_chip(
    instance: Path, machine: str, wanted: str, here: bool, reason: str
) -> None:
    _give(instance, *WHOLE)
    _give(instance, "product_name", text=machine)
    found = backends.available(wanted)
    assert found.here is here
    assert reason in found.reason


def test_where_the_machine_does_not_say_its_type_the_driver_or_the_caller_may(
    instance: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _give(instance, *WHOLE)
    assert "if it is trn2, say so: NEURON_PLATFORM_TARGET_OVERRIDE=trn2" in backends.available("trn2").reason
    monkeypatch.setenv(settings.TARGET, "trn2")
    assert backends.available("trn2").here
    assert not backends.available("trn3").here
    monkeypatch.delenv(settings.TARGET)
    _give(instance, "instance_type", text="trn2.3xlarge")
    assert backends.available("trn2").here


def test_no_dependency_or_extra_of_ours_pulls_a_placeholder_in() -> None:
    wanted = (ROOT / "pyproject.toml").read_text().partition("\ndependencies = [")[2].partition("[project.scripts]")[0]
    assert "ml_dtypes" in wanted
    assert "[project.optional-dependencies]" in wanted
    assert re.findall(r'"(?:nki|neuronx[-_]cc)\b', wanted) == []
    assert re.findall(r"^(?:deps|extras).*(?:nki|neuronx)", (ROOT / "tox.ini").read_text(), re.MULTILINE) == []


def test_an_unknown_backend_lists_the_known_ones() -> None:
    with pytest.raises(KeyError, match="no backend 'gpu'; known: sim, nki-sim, trn2, trn3"):
        backends.available("gpu")


def test_only_chips_count_as_hardware() -> None:
    assert [name for name in backends.BACKENDS if backends.is_hardware(name)] == ["trn2", "trn3"]
    assert not backends.is_hardware("stand-in")


# ---- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lnc", [1, 2])
def test_a_device_launch_states_chip_cores_and_rounding(lnc: int) -> None:
    inherited = {
        "NEURON_RT_STOCHASTIC_ROUNDING_EN": "1",
        "NKI_SIMULATOR": "1",
        "NEURON_CC_FLAGS": "--lnc=1",
        "NKI_COMPILER_FRONTEND": "custom",
        "HOME": "/here",
    }
    stated = settings.device_settings("trn2", lnc, inherited)
    found = settings.environment(stated, inherited)
    assert found["NEURON_PLATFORM_TARGET_OVERRIDE"] == "trn2"
    assert found["NEURON_LOGICAL_NC_CONFIG"] == str(lnc)
    assert found["NEURON_RT_STOCHASTIC_ROUNDING_EN"] == "0"
    assert not {"NKI_SIMULATOR", "NEURON_CC_FLAGS", "NKI_COMPILER_FRONTEND"} & found.keys()
    assert found["HOME"] == "/here"
    settings.require(stated, found)


def test_a_process_takes_one_core_unless_it_was_given_a_share() -> None:
    alone = settings.environment(settings.device_settings("trn2", 2, {}), {})
    assert alone["NEURON_RT_NUM_CORES"] == "1"
    share = {"NEURON_RT_VISIBLE_CORES": "3"}
    assert settings.environment(settings.device_settings("trn2", 2, share), share) == {
        **share,
        "NEURON_PLATFORM_TARGET_OVERRIDE": "trn2",
        "NEURON_LOGICAL_NC_CONFIG": "2",
        "NEURON_RT_STOCHASTIC_ROUNDING_EN": "0",
    }


def test_another_share_of_cores_is_another_setting() -> None:
    """By which a child that holds the cores of an earlier task is told from one that may be kept."""
    one, same, other = (
        settings.device_settings("trn2", 2, {"NEURON_RT_VISIBLE_CORES": cores}) for cores in ("3", "3", "1")
    )
    assert one == same
    assert one != other


@pytest.mark.parametrize(
    ("lent", "lnc", "core"), [("0,1", 1, "0"), ("0,1", 2, "0"), ("6,7", 1, "6"), ("7,6", 2, "3"), ("1,2,3", 2, "1")]
)
def test_physical_cores_that_a_cluster_lends_become_one_logical_core(lent: str, lnc: int, core: str) -> None:
    # What Ray itself sets counts physical cores, and must not reach a runtime that counts in groups.
    inherited = {settings.LENT: lent, "NEURON_RT_VISIBLE_CORES": lent, "NEURON_RT_NUM_CORES": "2"}
    found = settings.environment(settings.device_settings("trn2", lnc, inherited), inherited)
    assert found["NEURON_RT_VISIBLE_CORES"] == core
    assert "NEURON_RT_NUM_CORES" not in found


@pytest.mark.parametrize("lent", ["1,2", "3"])
def test_lent_cores_of_two_groups_are_no_logical_core(lent: str) -> None:
    with pytest.raises(SettingsError, match=f"of the physical cores {lent}, .* no 2 make up a logical core"):
        settings.device_settings("trn2", 2, {settings.LENT: lent})
    assert settings.device_settings("trn2", 1, {settings.LENT: lent})


def test_what_departs_from_the_statement_is_told_with_the_reason() -> None:
    stated = settings.device_settings("trn2", 2, {})
    found = settings.environment(stated, {}) | {"NEURON_RT_STOCHASTIC_ROUNDING_EN": "1", "NKI_SIMULATOR": "1"}
    assert settings.departures(stated, found) == [
        "NEURON_RT_STOCHASTIC_ROUNDING_EN is 1, it must be 0: models round to nearest even",
        "NKI_SIMULATOR is 1, it must be unset: else the official package answers from its simulator",
    ]


def test_what_the_package_may_set_for_its_own_programs_is_looked_at_before_it_is_there_alone() -> None:
    stated = settings.device_settings("trn2", 2, {})
    found = settings.environment(stated, {}) | {"NEURON_CC_FLAGS": "--lnc=1"}
    assert settings.departures(settings.lasting(stated), found) == []
    with pytest.raises(SettingsError, match="NEURON_CC_FLAGS is --lnc=1, it must be unset"):
        settings.require(stated, found)
    with pytest.raises(SettingsError, match="STOCHASTIC_ROUNDING"):
        settings.require(settings.lasting(stated), found | {settings.ROUNDING: "1"})


def test_the_official_simulator_has_as_many_cores_as_the_launch() -> None:
    for lnc in (1, 2):
        stated = settings.simulator_settings(Call(lambda: None, {}, (), lnc))
        assert settings.environment(stated, {settings.CORES: "7"})[settings.CORES] == str(lnc)


def test_the_official_simulator_plays_the_generation_of_the_models() -> None:
    stated = settings.simulator_settings(_call())
    assert settings.environment(stated, {})["NEURON_PLATFORM_TARGET_OVERRIDE"] == "trn2"
    asked = settings.simulator_settings(Call(lambda: None, {}, (), target="trn3"))
    assert settings.environment(asked, {})["NEURON_PLATFORM_TARGET_OVERRIDE"] == "trn3"


# ---- outputs ------------------------------------------------------------------------------------------------------


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


def test_an_output_that_comes_both_ways_is_one_or_what_was_returned() -> None:
    call = Call(lambda **_: None, {}, ("out", "cache"), in_place={"cache": "k_cache", "alone": "v_cache"})
    arguments = {"k_cache": np.zeros((1, 1)), "v_cache": np.full(1, 3)}
    assert named_outputs(call, (np.ones(1), np.zeros((1, 1))), arguments)["cache"] is arguments["k_cache"]
    for other in (np.full((1, 1), 2.0), np.zeros(1), np.zeros((1, 1), np.float32)):
        returned = (np.ones(1), other)
        with pytest.raises(OutputError, match="returned another cache than k_cache"):
            named_outputs(call, returned, arguments)
        preferred = named_outputs(call, returned, arguments, prefer_returned=True)
        assert preferred["cache"] is other
        assert {name: int(preferred[name][0]) for name in ("out", "alone")} == {"out": 1, "alone": 3}
