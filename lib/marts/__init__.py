"""The dbt project on the lake: catalog, run, report.

May use: `streaming` for its Spark session, and `lake`.
"""
