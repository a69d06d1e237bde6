"""Faulty kernels, by small patches of the real ones: what the suite is graded by.

`mutants()` lists all, `implementation(mutant)` names the faulty kernel in the form that
`Subject.with_implementation` takes. A patch that no longer applies is an error, never a silent pass.
"""

from conformance.mutants.mutant import Mutant, Patch, PatchError
from conformance.mutants.patched import implementation
from conformance.mutants.registry import mutants

__all__ = ["Mutant", "Patch", "PatchError", "implementation", "mutants"]
