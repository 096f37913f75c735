"""The fault laboratory: processes that are killed on purpose, and counted.

May use: `verify`, and all that it kills.
"""
