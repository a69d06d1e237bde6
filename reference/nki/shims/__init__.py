"""Stand-ins for packages of the older SDK that kernels still import."""
