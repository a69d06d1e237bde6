"""nki.language."""
from reference.neuroncore.instruction import kernel_location
from reference.neuroncore.launch import current_core
from reference.neuroncore.region import MemoryRegion
from reference.neuroncore.tensor import Slice as ds
from reference.neuroncore.tensor import Tensor as NkiTensor
sbuf, psum, shared_hbm, private_hbm = MemoryRegion.sbuf, MemoryRegion.psum, MemoryRegion.shared_hbm, MemoryRegion.private_hbm
hbm = private_hbm
float32, bfloat16 = "float32", "bfloat16"
def ndarray(shape, dtype, buffer=sbuf, name="", address=None):
    return current_core().allocate(shape, dtype, buffer, name, address, "%s:%d" % kernel_location())
def program_id(axis=0): return current_core().index
