"""One module per kernel, each exposing SUBJECT; found by conformance.registry."""
