"""Plotly figures: pure functions of data frames.

May use: `detectors` for their colours, `streaming.progress` for the names of stages;
no Spark, no table.
"""
