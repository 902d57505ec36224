"""Sizes that come again."""

from agents.fusion.padding import repeating_size


def test_sizes_are_enough_few_and_not_far_above() -> None:
    sizes = [repeating_size(count) for count in range(2000)]
    assert all(count <= size <= max(count, 1.25 * count) for count, size in enumerate(sizes))
    assert sorted(set(sizes))[:15] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24]
    assert len(set(sizes)) < 45
    assert all(repeating_size(size) == size for size in sizes)
