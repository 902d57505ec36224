"""Bucket sizes of agents.fusion.padding."""

from agents.fusion.padding import bucket_size


def test_buckets_are_few_and_at_most_a_quarter_too_large() -> None:
    sizes = [bucket_size(count) for count in range(2000)]
    assert all(count <= size <= max(count, 1.25 * count) for count, size in enumerate(sizes))
    assert sorted(set(sizes))[:15] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24]
    assert len(set(sizes)) < 45
    assert all(bucket_size(size) == size for size in sizes)
