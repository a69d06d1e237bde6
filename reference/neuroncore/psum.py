"""What PSUM remembers of matmuls: which elements accumulate, and whether adding to them can be meant.

Per PSUM tensor object there are three byte masks, made at its first matmul:

- `matmul_written`: a matmul has written here since the tensor was allocated. With accumulate=None such
  elements accumulate, all others are overwritten. Transposes and accumulate=False overwrite and set it, too.
- `matmul_read`: read since the last matmul wrote it. Adding to it by accumulate=None would continue a sum
  that was taken for finished, so it is refused; accumulate=True says that it is meant.
- `foreign`: another instruction wrote it after the last matmul. NeuronCore-v2 and v3 leave it undefined to
  accumulate onto such data.

Sources: API fact sheet D2 and section 2.1; numerics fact sheet 3.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .bytemask import ByteMask
from .errors import MachineError
from .tensor import Tensor

if TYPE_CHECKING:
    from .core import Core

Mask = NDArray[np.bool_]


def accumulating(core: Core, target: Tensor, accumulate: bool | None) -> bool | Mask:
    """Which elements of `target` the instruction adds to: none, all, or where the mask (its shape) is set."""
    storage = target.storage
    if accumulate is True:
        if core.checked:
            _check_explicit(core, target)
        return True
    written = storage.matmul_written
    if accumulate is False or written is None or not written.any(target):
        return False
    where: bool | Mask = True if written.all(target) else written.elements(target)
    if core.checked:
        _check_silent(core, target, where)
    return where


def matmul_wrote(target: Tensor) -> None:
    """Note that a matmul or a transpose has just written `target`."""
    storage = target.storage
    if storage.matmul_written is None or storage.matmul_read is None or storage.foreign is None:
        storage.matmul_written, storage.matmul_read, storage.foreign = (
            ByteMask(storage.parts, storage.row_bytes) for _ in range(3)
        )
    storage.matmul_written.set(target)
    storage.matmul_read.set(target, False)
    storage.foreign.set(target, False)


def _check_explicit(core: Core, target: Tensor) -> None:
    """accumulate=True needs data there, on gen2 and gen3 data of a matmul."""
    core.check_readable("dst", target)
    written, foreign = target.storage.matmul_written, target.storage.foreign
    if core.generation.level >= 4:
        return
    if written is None or foreign is None or not written.all(target) or foreign.any(target):
        core.violate(
            MachineError(
                "psum.foreign",
                f"accumulates onto elements of {target.storage.label()} that no matmul wrote last, which is "
                f"undefined on {core.generation.chip}",
                operand="dst",
                remedy="start the group with accumulate=False, or let the first matmul overwrite",
            )
        )


def _check_silent(core: Core, target: Tensor, where: bool | Mask) -> None:
    """accumulate=None must not add to what was taken out, or to what others wrote."""
    storage = target.storage
    core.check_clobbered("dst", target)
    for mask, rule, what in (
        (storage.matmul_read, "psum.open_group", "was read since the last matmul wrote it"),
        (storage.foreign, "psum.foreign", "another instruction wrote after the last matmul"),
    ):
        if mask is None or mask.empty or not mask.any(target) or not _meets(mask, target, where):
            continue
        if rule == "psum.foreign" and core.generation.level >= 4:
            continue
        core.violate(
            MachineError(
                rule,
                f"accumulate=None would silently add to data of {storage.label()} that {what}",
                operand="dst",
                remedy="allocate a fresh tile, or say accumulate=False (new sum) or accumulate=True (go on)",
            )
        )


def _meets(mask: ByteMask, target: Tensor, where: bool | Mask) -> bool:
    return where is True or bool((mask.elements(target) & where).any())


def check_bank(core: Core, target: Tensor) -> None:
    """A matmul destination lies inside one 2 KiB bank on gen2 and gen3 (architecture guides, PSUM banks)."""
    if core.generation.level >= 4:
        return
    bank = core.generation.psum_bank_bytes
    first = target.start_byte
    reach = sum(
        abs(step) * (count - 1) for step, count in zip(target.strides[1:], target.shape[1:], strict=True)
    )
    last = first + (reach + 1) * target.itemsize - 1
    if first // bank != last // bank:
        raise MachineError(
            "psum.bank",
            f"bytes {first}..{last} of a partition span PSUM banks {first // bank} and {last // bank}",
            operand="dst",
            remedy="let each matmul write inside one 2 KiB bank (512 float32)",
        )
