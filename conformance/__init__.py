"""Conformance: cases, lanes, grades, backends and fuzzing of every kernel."""
