"""Is the lake right: reconciliation, oracle, expected lake, evaluation.

May use: `streaming`, `lake`, `kafka`, `detectors`. Nothing that runs uses it to decide.
"""
