"""The producer's remembered choice of a partition is Kafka's own."""

from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import DefaultPartitioner

from lib.kafka.producer import _Remembering


class Cluster:
    """What a partitioner asks a cluster's metadata for."""

    def __init__(self, partitions: int) -> None:
        self.partitions = set(range(partitions))

    def topics(self) -> set[str]:
        return {"a", "b"}

    def partitions_for_topic(self, topic: str) -> set[int]:
        return self.partitions

    available_partitions_for_topic = partitions_for_topic


KEYS = st.lists(st.tuples(st.sampled_from("ab"), st.binary(), st.integers(1, 9)))


@given(KEYS)
def test_a_key_goes_where_kafkas_own_hash_sends_it(sends):
    remembering = _Remembering()
    for topic, key, partitions in sends * 2:
        arguments = topic, key, key, b"", b"", Cluster(partitions)
        expected = DefaultPartitioner().partition(*arguments)
        assert remembering.partition(*arguments) == expected


def test_a_record_without_a_key_goes_anywhere():
    remembering = _Remembering()
    arguments = "a", None, None, b"", b"", Cluster(4)
    assert {remembering.partition(*arguments) for _ in range(200)} == {0, 1, 2, 3}
