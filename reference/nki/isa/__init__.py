"""nki.isa: the instructions."""
from reference.neuroncore.dma_engine import dma_copy
from reference.neuroncore.errors import NkiValidationError
from reference.neuroncore.instruction import NkiInstruction
from reference.neuroncore.registers import VirtualRegister
from reference.neuroncore.vector_engine import tensor_copy

__all__ = ["NkiInstruction", "NkiValidationError", "VirtualRegister", "dma_copy", "tensor_copy"]
