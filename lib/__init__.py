"""Real-time fraud signals: Kafka to Spark to Delta to dbt to a dashboard."""
