"""What a launch on the stand-in does: the right thing, or what NKI_ORACLE_STAND_IN lists."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from nki import kernel as machine
from nki import language
from nki.isa import NkiValidationError

from reference.neuroncore.launch import is_active
from reference.neuroncore.options import Options
from reference.numerics.profile import DEFAULT

#: What the last launch of this process returned.
_last = []


class Kernel(machine.Kernel):
    """As the official package's: outside a launch, a call compiles and runs."""

    def __call__(self, *args, **kwargs):
        if is_active():
            return self.func(*args, **kwargs)
        _require_runtime(self.lnc)
        return _play(self, args, kwargs)


class CompilationError(Exception):
    """Stands for whatever class a compiler raises."""


def jit(fn=None, **kwargs):
    if fn is None:
        return jit
    return fn if isinstance(fn, Kernel) else Kernel(fn)


def simulate(kernel):
    kernel = jit(kernel)
    return lambda *args, **kwargs: _play(kernel, args, kwargs)


def _require_runtime(lnc):
    """The official runtime refuses a kernel for another number of cores than it was started for."""
    if os.environ.get("NEURON_LOGICAL_NC_CONFIG") != str(lnc):
        raise RuntimeError("NRT Error NRT_INVALID(2): the kernel is for another logical core size")
    if os.environ.get("NEURON_PLATFORM_TARGET_OVERRIDE") != "trn2":
        raise CompilationError("no target")


def _play(kernel, args, kwargs):
    if kernel.__name__ == "preflight":
        return _act(os.environ.get("NKI_ORACLE_STAND_IN_PREFLIGHT", "right"), kernel, args, kwargs)
    plan = os.environ["NKI_ORACLE_STAND_IN"].split(",")
    return _act(plan[min(_count(), len(plan) - 1)], kernel, args, kwargs)


def _count():
    """How many launches there were before, in this process or another."""
    file = os.environ.get("NKI_ORACLE_STAND_IN_COUNT")
    if not file:
        return 0
    before = int(Path(file).read_text()) if Path(file).exists() else 0
    Path(file).write_text(str(before + 1))
    return before


def _act(name, kernel, args, kwargs):
    name, _, detail = name.partition(":")
    if name in _INSTEAD:
        _INSTEAD[name](detail)
    options = Options()
    if name == "variant":
        options = Options(profile=DEFAULT.replace(**dict([detail.split("=")])))
    if name == "lacks":
        with _without(detail):
            return kernel.launch(args, kwargs, options).outputs
    if name == "keeps-arguments":
        kwargs = {key: np.array(value) if isinstance(value, np.ndarray) else value for key, value in kwargs.items()}
    value = kernel.launch(args, kwargs, options).outputs
    changed = _AFTER[name](value, kernel) if name in _AFTER else value
    _last[:] = [value]
    return changed


@contextlib.contextmanager
def _without(name):
    """A version of nki.language that does not have a name: kernels meet it while they are traced."""
    held = getattr(language, name)
    delattr(language, name)
    try:
        yield
    finally:
        setattr(language, name, held)


# ---- instead of a result ------------------------------------------------------------------------------------------


def _hang(file):
    """Leaves a file, where one is named, once it hangs."""
    if file:
        Path(file).touch()
    time.sleep(3600)


def _hang_with_a_compiler(file):
    """A compiler of its own goes on while the launch hangs; its process id is left in a file."""
    compiler = subprocess.Popen(["sleep", "3600"])
    Path(file).write_text(str(compiler.pid))
    time.sleep(3600)


def _exit(detail):
    print("the last words of the process", flush=True)
    os._exit(3)


def _segv(detail):
    os.kill(os.getpid(), signal.SIGSEGV)


def _raise(error):
    def raises(detail):
        raise error

    return raises


def _violate(detail):
    raise AssertionError("partition dimension 256 exceeds maximum 128")


def _set_rounding(detail):
    os.environ["NEURON_RT_STOCHASTIC_ROUNDING_EN"] = "1"


def _print_rubbish(detail):
    print("nkio" * 50, flush=True)
    os.write(1, bytes(range(256)) * 400)
    os.write(2, b"[INFO] compiling\n" * 100)
    sys.stdout.write("no end of line")


_INSTEAD = {
    "hang": _hang,
    "hang-with-a-compiler": _hang_with_a_compiler,
    "exit": _exit,
    "segv": _segv,
    "compile-error": _raise(CompilationError("NCC_EVRF066: the kernel is not for this compiler")),
    "compiler-exit": _raise(subprocess.CalledProcessError(70, ["neuronx-cc", "compile"])),
    "refuses": _raise(AssertionError("[INTERNAL_ERROR] [NCC_INKI016] Kernel validation exception: d must be 128")),
    "validation": _raise(NkiValidationError("dst must be in PSUM")),
    "violates": _violate,
    "raises": _raise(ZeroDivisionError("in the package")),
    "no-attribute": _raise(AttributeError("in the package, no kernel on the stack")),
    "busy": _raise(RuntimeError("NRT Error NRT_EXEC_NC_BUSY(1005)")),
    "no-init": _raise(RuntimeError("Check failed: status == NRT_SUCCESS NEURONPOC : nrt_init failed.")),
    "numbered": _raise(RuntimeError("Failed to execute the model status=101 message=Unrecoverable")),
    "bad-input": _raise(RuntimeError("NRT Error NRT_EXEC_BAD_INPUT(1002)")),
    "device-lost": _raise(RuntimeError("NRT Error NRT_EXEC_UNIT_UNRECOVERABLE(101)")),
    "runtime-timeout": _raise(RuntimeError("NRT Error NRT_TIMEOUT(5)")),
    "sets-rounding": _set_rounding,
    "rubbish": _print_rubbish,
}


# ---- instead of the right result ----------------------------------------------------------------------------------


def _each(change):
    def changed(value, kernel):
        if isinstance(value, (tuple, list)):
            return tuple(changed(one, kernel) for one in value)
        return None if value is None else change(np.array(value))

    return changed


def _nan(array):
    array[...] = np.nan
    return array


def _stale(value, kernel):
    return _last[0] if _last else value


def _unsteady(array):
    """The bits of the first element depend on the time."""
    array.view(np.uint8).reshape(-1)[0] = time.monotonic_ns() // 1000 % 251
    return array


def _stochastic(array):
    array.reshape(-1)[::4] = 1 + 2.0**-7
    return array


def _half(array):
    array[array.shape[0] // 2 :] = 0
    return array


_AFTER = {
    "zeros": _each(np.zeros_like),
    "nan": _each(_nan),
    "wrong-dtype": _each(lambda array: array.astype(np.float64)),
    "wrong-shape": _each(lambda array: array[:-1]),
    "one-more": lambda value, kernel: (value, value),
    "stale": _stale,
    "unsteady": _each(_unsteady),
    "stochastic": _each(_stochastic),
    "half": _each(_half),
}
