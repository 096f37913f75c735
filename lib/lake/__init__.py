"""The Delta tables: schemas, the idempotent writer, readers, compaction.

May use: `settings`, `errors`; no Kafka, no running query.
"""
