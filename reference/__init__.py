"""What the hardware is documented to compute: numerics, the machine, the models of the kernels.

Importing this package does one thing: it makes `import nki` work where no official `nki` is
installed (see `reference.dropin`). It is imported at every start of the interpreter through
`nki_oracle.pth`, so it stays light: nothing here, and nothing it imports, may pull in NumPy.
"""

from reference.dropin import install

install()
