"""nki.compiler.target: the target is chosen by NEURON_PLATFORM_TARGET_OVERRIDE."""
