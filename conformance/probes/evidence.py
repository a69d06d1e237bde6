"""What the launches of a probe gave: all that a backend has to say, from which everything else can be judged again.

As a row of a ledger it outlives an interruption, and a campaign's workers send it to where the session is held.
"""

from __future__ import annotations

import base64
import time
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from conformance.backends.errors import BackendError
from conformance.probes.probe import Array, Outputs, Probe, Setting, digest
from conformance.results import CaseResult
from conformance.subject import Arrays, Backend, Call

#: What a ledger calls the kernel and the lane of a probe.
PROBE = "probe"


@dataclass(frozen=True)
class Evidence:
    """Outputs of the first of `repeats` runs, and whether all had the same bits.

    `status` is 'passed', 'failed' where the bits changed, or else what a launch came to, with `error` in a line and no
    outputs. `inputs` is the digest of what was launched.
    """

    inputs: str
    outputs: Outputs = field(default_factory=dict)
    repeats: int = 0
    seconds: float = 0.0
    status: str = "passed"
    error: str = ""


def gather(backend: Backend, setting: Setting, probe: Probe, repeat: int) -> Evidence:
    """Launches a probe `repeat` times. Never raises for what a compiler, a runtime or a device does."""
    started = time.perf_counter()
    found = _gathered(backend, setting, probe, repeat)
    return replace(found, seconds=time.perf_counter() - started)


def _gathered(backend: Backend, setting: Setting, probe: Probe, repeat: int) -> Evidence:
    launches = probe.launches(setting)
    inputs = digest(launches)
    try:
        runs = [_outputs(backend, setting, launches, probe.optional) for _ in range(repeat)]
    except Exception as error:
        status = error.status if isinstance(error, BackendError) else "crashed"
        return Evidence(inputs, status=status, error=one_line(error))
    same = all(_same_bytes(runs[0], other) for other in runs[1:])
    return Evidence(inputs, runs[0], repeat, status="passed" if same else "failed")


def config(probe: Probe, setting: Setting, inputs: str) -> dict[str, Any]:
    """What stands for the config of a probe in a ledger: its digest tells one probe's evidence from another's."""
    return {"probe": probe.name, "target": setting.target, "tables": setting.tables, "inputs": inputs}


def row(probe: Probe, setting: Setting, backend: str, profile: dict[str, Any], found: Evidence) -> CaseResult:
    """Evidence as a row of a ledger."""
    chip = "" if backend == setting.target else f" --target {setting.target}"
    return CaseResult(
        PROBE, probe.name, config(probe, setting, found.inputs), PROBE, 0, backend, profile,
        f"nki-oracle probe --question {probe.question} --backend {backend}{chip}", found.status,
        seconds={"probe": found.seconds}, error=found.error or _changed(found), repeats=found.repeats,
        evidence=_to_dict(found),
    )  # fmt: skip


def _changed(found: Evidence) -> str:
    return "" if found.status == "passed" else "repeated launches differed"


def _to_dict(found: Evidence) -> dict[str, Any]:
    packed = {name: {key: pack(array) for key, array in arrays.items()} for name, arrays in found.outputs.items()}
    return {**vars(found), "outputs": packed}


def of_result(result: CaseResult) -> Evidence | None:
    """The evidence that a row holds; None where it has none that stands, or of dtypes that NumPy does not know."""
    plain = dict(result.evidence)
    if not plain.get("outputs"):
        return None
    try:
        outputs = {
            name: {key: unpack(raw, np.dtype(raw["dtype"])) for key, raw in arrays.items()}
            for name, arrays in plain.pop("outputs").items()
        }
    except TypeError:
        return None
    return Evidence(outputs=outputs, **plain)


def pack(array: Array) -> dict[str, Any]:
    """Every bit of an array: base64 of zlib of the little-endian bytes, row-major."""
    packed = zlib.compress(np.ascontiguousarray(array).tobytes(), 9)
    return {"dtype": str(array.dtype), "shape": list(array.shape), "zlib": base64.b64encode(packed).decode()}


def unpack(raw: Mapping[str, Any], dtype: Any = None) -> Array:
    """An array that was packed; of `dtype`, or of unsigned storage bytes of the size of its elements."""
    data = zlib.decompress(base64.b64decode(raw["zlib"]))
    shape = tuple(raw["shape"])
    count = int(np.prod(shape))
    return np.frombuffer(data, dtype or np.dtype(f"u{len(data) // max(count, 1)}")).reshape(shape)


def one_line(error: Exception) -> str:
    """An error as a line of a report."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def _outputs(
    backend: Backend, setting: Setting, launches: Mapping[str, Call], optional: Sequence[str]
) -> dict[str, Arrays]:
    found: dict[str, Arrays] = {}
    for name, call in launches.items():
        try:
            found[name] = _launched(backend, replace(call, target=setting.target))
        except Exception:
            if name not in optional:
                raise
    return found


def _launched(backend: Backend, call: Call) -> Arrays:
    with warnings.catch_warnings():
        # Arguments outside the documented range of a table are what some probes are about.
        warnings.simplefilter("ignore")
        return backend.run(call)


def _same_bytes(one: Outputs, other: Outputs) -> bool:
    return one.keys() == other.keys() and all(
        array.tobytes() == np.asarray(other[launch][name]).tobytes()
        for launch, arrays in one.items()
        for name, array in arrays.items()
    )
