"""The door to a kernel: refuse what the contract refuses, before anything is launched or written."""

from __future__ import annotations

from typing import Any

from conformance.subject import Arrays, Backend, Subject
from reference.contract import raise_refusal


def launch(subject: Subject, config: Any, inputs: Arrays, backend: Backend) -> Arrays:
    """Named outputs of the implementation under test; `inputs` keep their bytes, in-place arguments too.

    KernelArgumentError for the first rule that `config`, or the arguments beside it, violate: shapes, dtypes, and
    values that the contract looks at. Then the backend was not asked, and nothing was written. Whatever a backend
    raises passes through.
    """
    raise_refusal(subject.legal(config) or subject.call_refusal(config, inputs))
    return subject.kernel(config, inputs, backend)
