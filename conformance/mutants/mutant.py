"""One faulty kernel as data."""

from __future__ import annotations

from dataclasses import dataclass

from conformance.mutants.kinds import KINDS


class PatchError(ValueError):
    """A patch does not apply to the kernel as it is now."""


@dataclass(frozen=True)
class Patch:
    """Replace `find`, which stands `count` times in kernels/`file`, by `replace`."""

    file: str
    find: str
    replace: str
    count: int = 1

    def apply(self, source: str) -> str:
        """The patched source; PatchError where the text is not there as often as it should be."""
        found = source.count(self.find)
        if found != self.count:
            raise PatchError(
                f"kernels/{self.file}: {self.find!r} stands {found} times, not {self.count}; the kernel has moved on, "
                "rewrite the patch"
            )
        return source.replace(self.find, self.replace)


@dataclass(frozen=True)
class Mutant:
    """One fault of one kernel.

    id        unique, kernel-independent, lower-case words
    kernel    the subject it is a fault of
    fault     what is wrong, in one sentence
    patches   how to make it from the real kernel
    case      id (catalog or 'cfg:' text) of a case that reveals it
    point     rounding point at which its trace first parts from the model's in that case; '' where it
              parts in an output only, or where the machine itself stops it
    source    where such a fault was seen, or the class of fault it stands for
    kind      its row in `KINDS`
    also      ids of further cases on which it is run: those on which a gate of hardware sees what the first
              case hides from it
    seen_in   lane of data with which the revealing config shows it to a gate of hardware; '' where the revealing case
              does, or one of `also`
    unseen    why no gate that hardware has can see it, '' where one does
    refused   where a device's own compiler or runtime is documented to stop it, as the embedded machine does; '' for
              a fault that has to show in what is returned
    """

    id: str
    kernel: str
    fault: str
    patches: tuple[Patch, ...]
    case: str
    point: str = ""
    source: str = ""
    kind: str = ""
    also: tuple[str, ...] = ()
    unseen: str = ""
    refused: str = ""
    seen_in: str = ""

    def __post_init__(self) -> None:
        if self.kind and self.kind not in KINDS:
            raise ValueError(f"mutant {self.id}: kind {self.kind!r} is none of {', '.join(KINDS)}")
