"""Claim: the bits of the goldens do not depend on the processor, on the BLAS kernel, or on threads.

Each environment makes one machine act like another: without the instructions NumPy dispatches to, with
the BLAS kernels of an older processor, with one thread or two. Every golden is recomputed there. The
twin shows that these environments do change the last bits of plain NumPy, so that agreement means something.

By hand: `NPY_DISABLE_CPU_FEATURES="..." nki-oracle golden verify --jobs 1`.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import conformance

PROJECT = Path(conformance.__file__).parents[1]

#: What NumPy can switch off: the dispatched features that this processor has. Empty on a plain one.
DISPATCHED = np.show_config(mode="dicts").get("SIMD Extensions", {}).get("found", [])
WITHOUT_DISPATCH = {"NPY_DISABLE_CPU_FEATURES": " ".join(DISPATCHED)}
#: Known to every OpenBLAS of this architecture; others do not read the variable.
OLD_BLAS = {"OPENBLAS_CORETYPE": "Nehalem" if platform.machine() in ("x86_64", "AMD64") else "ARMV8"}

ENVIRONMENTS = {
    "one-thread": {"OPENBLAS_NUM_THREADS": "1"},
    "two-threads": {"OPENBLAS_NUM_THREADS": "2"},
    "without-dispatch": WITHOUT_DISPATCH,
    "old-blas-kernels": OLD_BLAS,
}


def _run(words: list[str], changes: dict[str, str]) -> subprocess.CompletedProcess[str]:
    # What tox sets for its own processes must not hide what is asked for here.
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    command = [sys.executable, *words]
    return subprocess.run(
        command, env=environment | changes, cwd=PROJECT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("changes", ENVIRONMENTS.values(), ids=ENVIRONMENTS.keys())
def test_goldens_have_the_same_bits(changes: dict[str, str]) -> None:
    # In one process: with several, the tool gives each of them one thread.
    done = _run(["-m", "tools.cli", "golden", "verify", "--jobs", "1"], changes)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 with drift" in done.stdout
    assert not done.stdout.startswith("0 goldens")


#: Last bits that no result may rest on.
PLAIN_NUMPY = """
import hashlib, numpy as np
a = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
print(hashlib.sha256((a @ a).tobytes() + np.exp(a).tobytes()).hexdigest())
"""


@pytest.mark.skipif(not DISPATCHED, reason="NumPy dispatches to nothing on this processor: no bits to change")
def test_plain_numpy_does_not_have_the_same_bits() -> None:
    here = _run(["-c", PLAIN_NUMPY], {})
    elsewhere = {_run(["-c", PLAIN_NUMPY], changes).stdout for changes in ENVIRONMENTS.values()}
    assert here.returncode == 0
    assert len({here.stdout} | elsewhere) > 1
