"""SBUF as a stack of scopes: explicit addresses whose tiles live until their scope closes.

A scope may be cut in equal sections that are used in turn: what was allocated two `next_section` calls ago, with two
sections, may be overwritten now. That is double buffering, stated as placement.
"""

import nki.language as nl

from kernels.item_size import item_size

#: Tiles start at multiples of this many bytes unless the caller says otherwise.
ALIGNMENT = 32
#: What every start must be a multiple of: 2-byte starts made neighbouring tiles share a word, and writes race.
SMALLEST_ALIGNMENT = 4


class SbufScope(nl.NKIObject):
    """Bytes [start, limit) of every partition, `sections` pieces of `section_bytes` (one piece: up to the limit)."""

    name: str = ""
    start: int = 0
    limit: int = 0
    top: int = 0
    section_limit: int = 0
    sections: int = 1
    section_bytes: int = 0
    turn: int = -1


class SbufManager(nl.NKIObject):
    """Allocates SBUF tiles in bytes [lower, upper) of every partition; upper = 0 leaves placement to the compiler.

    A stack: `alloc` takes from the innermost open scope, `close_scope` frees all of it. Nothing here is executed on
    the device; a manager only decides addresses. `peak` is the highest byte ever used, for reports.
    """

    def __init__(self, lower=0, upper=0):
        self.lower = lower
        self.upper = upper
        self.peak = lower
        self.scopes = []

    def is_automatic(self):
        """Whether the compiler places the tiles."""
        return self.upper == 0

    def next_free(self):
        """First byte above everything that open scopes hold."""
        if len(self.scopes) == 0:
            return self.lower
        scope = self.scopes[len(self.scopes) - 1]
        if scope.sections > 1:
            return scope.limit
        return scope.top

    def free_bytes(self):
        """Bytes per partition that a scope opened now could have."""
        return self.upper - self.next_free()

    def open_scope(self, name="", sections=1, section_bytes=0):
        """Begin a scope; with sections > 1 it reserves sections * section_bytes, and `next_section` chooses one."""
        if self.is_automatic():
            return
        start = round_up(self.next_free(), ALIGNMENT)
        limit = self.upper
        if sections > 1:
            section_bytes = round_up(section_bytes, ALIGNMENT)
            limit = start + sections * section_bytes
        assert start <= limit and limit <= self.upper, (
            f"SBUF scope '{name}' needs bytes {start} to {limit}, the manager ends at {self.upper}"
        )
        self.scopes.append(
            SbufScope(
                name=name, start=start, limit=limit, top=start, section_limit=limit, sections=sections,
                section_bytes=section_bytes,
            )
        )

    def next_section(self):
        """Go on to the scope's next section, whose tiles are given up; the first call takes section 0."""
        if self.is_automatic():
            return
        scope = self.innermost("next_section")
        assert scope.sections > 1, f"SBUF scope '{scope.name}' was opened without sections"
        scope.turn = (scope.turn + 1) % scope.sections
        scope.top = scope.start + scope.turn * scope.section_bytes
        scope.section_limit = scope.top + scope.section_bytes

    def close_scope(self):
        """End the innermost scope; its bytes are free again."""
        if self.is_automatic():
            return
        self.innermost("close_scope")
        self.scopes = self.scopes[0 : len(self.scopes) - 1]

    def alloc(self, shape, dtype, name="", align=ALIGNMENT):
        """An unwritten tile of `shape` (partitions first) from the innermost scope; `align` in bytes."""
        if self.is_automatic():
            return nl.ndarray(shape, dtype=dtype, buffer=nl.sbuf, name=name)
        assert align % SMALLEST_ALIGNMENT == 0, f"SBUF tile '{name}': align must be a multiple of 4 bytes, not {align}"
        scope = self.innermost("alloc")
        assert scope.sections == 1 or scope.turn >= 0, f"SBUF scope '{scope.name}' needs next_section before alloc"
        size = bytes_per_partition(shape, dtype)
        start = round_up(scope.top, align)
        assert start + size <= scope.section_limit, (
            f"SBUF scope '{scope.name}' overflows: tile '{name}' takes bytes {start} to {start + size}, "
            f"the scope ends at {scope.section_limit}"
        )
        scope.top = start + size
        self.peak = max(self.peak, scope.top)
        return nl.ndarray(shape, dtype=dtype, buffer=nl.sbuf, name=name, address=(0, start))

    def innermost(self, what):
        """The scope that `what` acts on."""
        assert len(self.scopes) > 0, f"SBUF manager: {what} without an open scope"
        return self.scopes[len(self.scopes) - 1]


def manager_or_automatic(sbm):
    """A manager of one's own over what `sbm` has free; an automatic one for None.

    A kernel takes its own so that a manager made on the host is not moved by two cores at once.
    """
    if sbm == None:
        return SbufManager()
    return SbufManager(lower=sbm.next_free(), upper=sbm.upper)


def bytes_per_partition(shape, dtype):
    """Bytes that a tile takes in each partition."""
    elements = 1
    for i in range(1, len(shape)):
        elements = elements * shape[i]
    return elements * item_size(dtype)


def round_up(value, step):
    """The smallest multiple of `step` that is not below `value`."""
    return (value + step - 1) // step * step
