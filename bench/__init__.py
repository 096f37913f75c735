"""Benchmarks: measured, never asserted on."""
