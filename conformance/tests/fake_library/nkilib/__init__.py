"""A package with the names and call signatures of the public kernel library, over this project's kernels.

`broken` names kernels whose result comes out wrong. Written from the published reference pages, to test the adapter
of conformance/providers/public_library.py; put on sys.path by the tests.
"""

broken = set()
