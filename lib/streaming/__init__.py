"""The Spark session and the one query: parse, score, checkpoint, recovery.

May use: `lake`, `kafka`, `setup`, `detectors`, `events`.
"""
