"""The fraud rules, one module each (`Detector`), and their engine with state.

May use: `events`, numpy. Pure: nothing here knows of Spark, Kafka or files.
"""
