"""Workers of a Ray cluster: one machine in-process, or the nodes of a cluster that is running already.

Ray is optional (`pip install .[cluster]`) and imported when first used. Tasks are at-least-once: a task whose
worker or node was lost is done again elsewhere, so what takes the results must know them by a key.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Generic, TypeVar

from conformance.backends.settings import LENT

T = TypeVar("T")
R = TypeVar("R")

#: How often work is given to a worker when the ones before were lost.
ATTEMPTS = 3
#: Tasks in flight per CPU: enough to keep workers busy, few enough that a lost driver loses little.
_AHEAD = 4
#: How long the head of a cluster may take to answer.
_PATIENCE_SECONDS = 10.0
#: Ray's name for cores of Neuron devices. It adds up `nc_count` of neuron-ls, which nothing public explains; the tool's
#: table tells eight cores and four logical ones of a Trainium2, so they are taken for physical. Were they logical, half
#: of the cores would stay idle, and none would be given to two tasks.
NEURON_CORES = "neuron_cores"
#: One BLAS thread per worker: workers share the processors already.
_ENVIRONMENT = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class ClusterError(RuntimeError):
    """The cluster cannot be used: one line that says why."""


class Lost(Exception):
    """Every attempt at a task ended with its worker."""


class Cluster(Generic[T, R]):
    """Workers that do `work` of tasks; a context, left by Ctrl-C too.

    `address` is that of a running cluster ('auto' for the one of this machine), None for one of `cpus` workers
    in this process's charge. `work` and the tasks must be importable and picklable there; `neuron_cores` is how
    many physical cores every task asks of a device node. ClusterError where Ray is missing, or the cluster does not
    answer or has no such node.

    All tasks ask for the same number: Ray gives the first that are free, so that with two each the pairs stay whole
    (0 and 1, 2 and 3 ...), as a logical core of two needs them.
    """

    def __init__(
        self,
        work: Callable[[T], R],
        cpus: int = 2,
        address: str | None = None,
        neuron_cores: int = 0,
    ) -> None:
        self._work, self._cpus, self._address = work, cpus, address
        self._neuron_cores = neuron_cores
        self._ray: Any = None

    def __enter__(self) -> Cluster[T, R]:
        self._ray = _ray()
        if self._address not in (None, "auto"):
            _require_answer(str(self._address))
        try:
            self._ray.init(**self._settings())
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ClusterError(f"no Ray cluster: {' '.join(str(error).split())}") from None
        try:
            self._remote = self._ready()
        except BaseException:
            self._ray.shutdown()
            raise
        return self

    def _ready(self) -> Any:
        """The work as Ray does it; ClusterError where it never would."""
        if not self._neuron_cores:
            return self._ray.remote(max_retries=0, num_cpus=1)(self._work)
        most = max(node["Resources"].get(NEURON_CORES, 0) for node in self._ray.nodes() if node["Alive"])
        if most < self._neuron_cores:
            raise ClusterError(
                f"no node of the Ray cluster offers {self._neuron_cores} {NEURON_CORES} (the most is {most:g}); "
                f"where neuron-ls does not tell Ray: ray start --resources='{{\"{NEURON_CORES}\": 8}}'"
            )
        wanted = {NEURON_CORES: self._neuron_cores}
        return self._ray.remote(max_retries=0, num_cpus=1, resources=wanted)(_on_lent_cores(self._work))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ray.shutdown()

    def results(self, tasks: Sequence[T]) -> Iterator[tuple[T, R | Exception]]:
        """Each task with its result in the order in which they end; `Lost`, or what `work` raised, for some."""
        waiting = [(task, 1) for task in reversed(tasks)]
        running: dict[Any, tuple[T, int]] = {}
        while waiting or running:
            while waiting and len(running) < _AHEAD * self._slots():
                task, attempt = waiting.pop()
                running[self._remote.remote(task)] = (task, attempt)
            for reference in self._ray.wait(list(running), num_returns=1)[0]:
                task, attempt = running.pop(reference)
                found = self._outcome(reference)
                if isinstance(found, Lost) and attempt < ATTEMPTS:
                    waiting.append((task, attempt + 1))
                else:
                    yield task, found

    def _outcome(self, reference: Any) -> R | Exception:
        exceptions = self._ray.exceptions
        try:
            found: R = self._ray.get(reference)
            return found
        except exceptions.RayTaskError as error:
            return error.cause if isinstance(error.cause, Exception) else RuntimeError(str(error))
        except exceptions.RayError as error:
            return Lost(" ".join(str(error).split())[:300])

    def _slots(self) -> int:
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def _settings(self) -> dict[str, Any]:
        quiet = {"log_to_driver": False, "logging_level": "ERROR", "runtime_env": {"env_vars": _ENVIRONMENT}}
        if self._address is not None:
            return quiet | {"address": self._address}
        return quiet | {"num_cpus": self._cpus, "include_dashboard": False}


def _on_lent_cores(work: Callable[[T], R]) -> Callable[[T], R]:
    """`work` in an environment that tells the physical cores that Ray gave to the task. Ray itself writes their ids to
    the variable of the runtime, which counts in logical cores; conformance/backends/settings.py translates."""

    def done(task: T) -> R:
        lent = importlib.import_module("ray").get_runtime_context().get_accelerator_ids()[NEURON_CORES]
        os.environ[LENT] = ",".join(lent)
        try:
            return work(task)
        finally:
            del os.environ[LENT]

    return done


def _require_answer(address: str) -> None:
    """ClusterError where nobody listens; Ray itself would try for minutes."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE_SECONDS).close()
    except (OSError, ValueError) as error:
        raise ClusterError(f"no Ray cluster at {address}: {error}") from None


def _ray() -> Any:
    # Its own telemetry and log files are not wanted from a test run; set before the import reads them.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with contextlib.suppress(ModuleNotFoundError):
        return importlib.import_module("ray")
    raise ClusterError("the package ray is not installed; it comes with this project's extra: pip install '.[cluster]'")
