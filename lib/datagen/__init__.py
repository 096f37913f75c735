"""Synthetic events: population, injected fraud, delivery faults, labels.

May use: `events`, `detectors`, numpy. The same seed makes the same bytes.
"""
