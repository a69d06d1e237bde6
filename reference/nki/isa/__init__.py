"""nki.isa: the instructions, by the engine that executes them, with their enumerations."""

from reference.neuroncore.enums import (
    dge_mode,
    dma_engine,
    engine,
    matmul_perf_mode,
    nc_version,
    oob_mode,
    reduce_cmd,
)
from reference.neuroncore.errors import NkiValidationError
from reference.neuroncore.instruction import NkiInstruction
from reference.neuroncore.registers import VirtualRegister

from . import constants
from .dma import dma_compute, dma_copy, dma_transpose
from .registers import (
    get_nc_sub_version,
    get_nc_version,
    register_alloc,
    register_load,
    register_move,
    register_store,
)
from .sync import core_barrier, sendrecv
from .tensor import nc_matmul, nc_transpose

tensor_engine = engine.tensor
vector_engine = engine.vector
scalar_engine = engine.scalar
gpsimd_engine = engine.gpsimd
unknown_engine = engine.unknown

# Still being built: vector, scalar and gpsimd instructions appear as their modules do.
try:
    from .vector import *  # noqa: F403
    from .scalar import *  # noqa: F403
    from .gpsimd import *  # noqa: F403
except ImportError:
    from reference.neuroncore.vector_engine import tensor_copy  # noqa: F401
