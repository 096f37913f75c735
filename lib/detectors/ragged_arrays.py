"""Array algorithms over segments: many sorted runs laid end to end in one array.

A segment is `values[start:stop]`; here it holds one account's events. All functions
are pure and take and return one-dimensional numpy arrays.
"""

from __future__ import annotations

import numpy as np


def ranges(starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """All the indices start..stop−1 of each pair, one after another.

    >>> ranges(np.array([2, 9]), np.array([5, 10])).tolist()
    [2, 3, 4, 9]
    """
    lengths = stops - starts
    before = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts - before, lengths)


def first_at_least(
    values: np.ndarray, starts: np.ndarray, stops: np.ndarray, targets: np.ndarray
) -> np.ndarray:
    """For each query, the first index in its segment whose value is >= the target.

    `values` ascend within each segment; the answer is `stop` where none is so great.
    A binary search by all queries at once: a composite key for `np.searchsorted`
    would have to fit account and time in one int64, and year-1 timestamps do not.
    """
    low, high = np.array(starts), np.array(stops)
    if not len(low) or not len(values):
        return low
    for _ in range(int((high - low).max()).bit_length()):
        middle = (low + high) >> 1
        # an empty range has middle == stop, possibly outside: clip, then ignore
        below = values.take(middle, mode="clip") < targets
        below &= low < high
        low = np.where(below, middle + 1, low)
        high = np.where(below, high, middle)
    return low


def overtaken(groups: np.ndarray, arrival: np.ndarray) -> np.ndarray:
    """For each row, how many rows before it in its group arrived after it.

    Rows stand in their final order, `groups` is constant over contiguous rows and
    `arrival` (distinct within a group) says when each came. Only groups that are out
    of order cost more than a comparison.
    """
    counts = np.zeros(len(arrival), np.int64)
    falls = (arrival[1:] < arrival[:-1]) & (groups[1:] == groups[:-1])
    if not falls.any():
        return counts
    number = np.cumsum(np.diff(groups, prepend=groups[:1]) != 0)
    disordered = np.zeros(number[-1] + 1, bool)
    disordered[number[1:][falls]] = True
    rows = np.flatnonzero(disordered[number])
    counts[rows] = _greater_to_the_left(np.lexsort((arrival[rows], number[rows])))
    return counts


def _greater_to_the_left(by_value: np.ndarray) -> np.ndarray:
    """For each position of a permutation, the greater values on its left.

    `by_value[k]` is the position of the k-th smallest value. Merge sort's way of
    counting inversions, each level at once: in a pair of neighbouring blocks, a
    position in the right block is passed by those of the left block that are greater.
    O(n log² n), where comparing all pairs would be O(n²) for an account that sends
    100,000 events in one instant.

    Example: values 3 1 2 0, so `by_value` is [3, 1, 2, 0]. Blocks of one: 3|1 and 2|0,
    the 1 and the 0 are passed once. Blocks of two: 3 1|2 0, the 2 is passed by 3 and
    the 0 by 3 and 1. Together 0 1 1 3.
    """
    counts = np.zeros(len(by_value), np.int64)
    width = 1
    while width < len(by_value):
        pair = by_value // (2 * width)
        position = by_value[np.argsort(pair, kind="stable")]  # by value in each pair
        on_left = (position // width) % 2 == 0
        left_until_here = np.cumsum(on_left)
        # pairs before this one are full, and so is a left block that has a right one
        left_until_end = (position // (2 * width) + 1) * width
        counts[position] += np.where(on_left, 0, left_until_end - left_until_here)
        width *= 2
    return counts
