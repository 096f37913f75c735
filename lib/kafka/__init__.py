"""The embedded broker, Kafka clients, the idempotent producer, security.

May use: `setup` (Java and jars) and `events` (an event's key); no Spark, no Delta.
"""
