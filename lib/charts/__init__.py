"""Plotly figures: pure functions of data frames.

May use: `streaming.progress` for the names of stages; no Spark, no table.
"""
