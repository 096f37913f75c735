"""What a card event is: its fields, quarantine reasons, JSON form and masks.

May use: the standard library. No Kafka, no Spark, no file but its own code lists.
"""
