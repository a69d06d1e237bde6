"""The one exception for bad arguments to a kernel."""

from __future__ import annotations

from typing import Any


class KernelArgumentError(ValueError, AssertionError):
    """Arguments that a kernel's contract refuses; raised before anything is written.

    Both a ValueError and an AssertionError, since the public documents name both. The message is one line:
    kernel, argument, the violated condition with the id of its rule, the value received, the remedy.
    The parts are also attributes, so that a test can tell one refusal from another without parsing prose.
    """

    def __init__(
        self, kernel: str, argument: str, rule: str, condition: str, got: object, remedy: str
    ) -> None:
        self.kernel = kernel
        self.argument = argument
        self.rule = rule
        self.condition = condition
        self.got = _one_line(got)
        self.remedy = remedy
        super().__init__(f"{kernel}: {argument}: {condition} [{rule}]; got {self.got}; {remedy}")

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are rebuilt from `args`, which holds the message alone; test workers send them by pickle.
        return type(self), (self.kernel, self.argument, self.rule, self.condition, self.got, self.remedy)


def _one_line(value: object) -> str:
    return " ".join(str(value).split())
