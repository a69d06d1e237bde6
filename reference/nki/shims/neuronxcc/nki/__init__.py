"""neuronxcc.nki: the older name of the API. Only its annotations are here; kernels import `nki`."""
