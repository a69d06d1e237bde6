"""`neuronxcc`, as far as kernels of today import it: the annotations of `neuronxcc.nki.typing`.

Loaded under the name `neuronxcc` only where no compiler of that name is installed.
"""
