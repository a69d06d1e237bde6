"""A bump allocator over the bytes of an SBUF partition: addresses go up until the caller puts them back."""

import nki.language as nl

from kernels.sbuf_manager import ALIGNMENT, SMALLEST_ALIGNMENT, bytes_per_partition, round_up


class ModularAllocator(nl.NKIObject):
    """Places SBUF tiles one behind the other, from byte `initial_address` of every partition upwards.

    Nothing is executed on the device. `set_current_address` gives tiles up: what is allocated next may share their
    bytes. The end of SBUF is for the compiler to check.
    """

    def __init__(self, initial_address=0):
        assert initial_address >= 0, f"ModularAllocator: initial_address must be at least 0, not {initial_address}"
        self.address = initial_address

    def get_current_address(self):
        """The first byte that the next tile may take."""
        return self.address

    def set_current_address(self, address):
        """Go back, or on, to a byte; tiles at or above it are given up."""
        assert address >= 0, f"ModularAllocator: an address must be at least 0, not {address}"
        self.address = address

    def alloc_sbuf_tensor(self, shape, dtype, align_to=None, name=None):
        """An unwritten tile of `shape` (partitions first) at the next multiple of `align_to` bytes (None: 32)."""
        step = ALIGNMENT if align_to == None else align_to
        assert step > 0 and step % SMALLEST_ALIGNMENT == 0, (
            f"ModularAllocator: align_to must be a multiple of 4 bytes, not {align_to}"
        )
        start = round_up(self.address, step)
        self.address = start + bytes_per_partition(shape, dtype)
        label = "" if name == None else name
        return nl.ndarray(shape, dtype=dtype, buffer=nl.sbuf, name=label, address=(0, start))


def sbuf_tile(allocator, shape, dtype):
    """An unnamed tile from `allocator`, or placed by the compiler for None."""
    if allocator == None:
        return nl.ndarray(shape, dtype=dtype, buffer=nl.sbuf)
    return allocator.alloc_sbuf_tensor(shape, dtype)


def address_of(allocator):
    """Where `restore` goes back to; 0 for None."""
    if allocator == None:
        return 0
    return allocator.get_current_address()


def restore(allocator, address):
    """Give up all tiles since `address_of` returned `address`."""
    if allocator != None:
        allocator.set_current_address(address)
