"""Probes: small kernels that settle the open questions of the numerics profile on whatever executes them.

A probe is data (`probe.Probe`): launches, how to read their outputs, and a table that says what each candidate
would give. The tables come from `host`, whole-number arithmetic that shares nothing with `reference.numerics`,
so that a probe on the embedded machine tests that machine too. `session` runs them in an order in which later
tables may rest on earlier answers, and `fprev` turns masked sums into the tree of an accumulation.
"""
