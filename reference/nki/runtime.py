"""nki.runtime: kernels run in the simulator, so there is no runtime to speak to. The name can be imported."""
