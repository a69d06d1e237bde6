"""NKI kernels of the probes: the language subset, documented calls, every engine pinned."""
