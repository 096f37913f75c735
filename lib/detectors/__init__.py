"""The fraud rules: to read one event at a time, and vectorised with state.

May use: `events`, numpy. Pure: nothing here knows of Spark, Kafka or files.
"""
