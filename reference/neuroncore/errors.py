"""What the machine says when a kernel breaks one of its rules.

A violation is raised where the rule is known (deep in an engine, with operand, rule, value and remedy) and
enriched once at the border of the instruction with the instruction's name and the kernel's file and line, so
that one line tells where, which rule, what came and what to do.
"""

from __future__ import annotations


class NkiValidationError(Exception):
    """The class that the NKI API names for violated hardware constraints (nki.isa.NkiValidationError)."""


class MachineError(NkiValidationError, AssertionError):
    """A violated rule of the machine.

    Also an AssertionError, since most checks of the official simulator raise that class; callers that expect
    either are served. Fields: `rule` (short id such as "partition.start"), `operand` (role in the instruction or
    None), `got`, `remedy`, and, once known, `instruction` and `location` ("file:line").
    """

    def __init__(
        self,
        rule: str,
        message: str,
        *,
        operand: str | None = None,
        remedy: str | None = None,
        instruction: str | None = None,
        location: str | None = None,
    ) -> None:
        super().__init__(message)
        self.rule = rule
        self.message = message
        self.operand = operand
        self.remedy = remedy
        self.instruction = instruction
        self.location = location

    def __str__(self) -> str:
        where = " ".join(part for part in (self.instruction, self.operand) if part)
        head = f"{where}: " if where else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        place = f" ({self.location})" if self.location else ""
        return f"{head}{self.message} [{self.rule}]{remedy}{place}"


class OutOfBounds(MachineError, IndexError):
    """An index or an access pattern reaches past the end of a tensor."""


class RaceError(MachineError):
    """Both cores touched the same HBM bytes between two barriers, at least one of them writing."""


class DeadlockError(MachineError):
    """Every core that has not finished waits for something that can no longer happen."""


class MachineWarning(UserWarning):
    """A rule that was turned from an error into a warning for other people's kernels."""
