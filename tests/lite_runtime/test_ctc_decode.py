"""Best-path decoding: what is merged, what is dropped, which steps count for the score."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lite_runtime.ctc_decode import greedy

LABELS = ["", "a", "b", " "]


def path(*steps: tuple[int, float]) -> np.ndarray:
    """(1, T, 4): at each step `index` has probability p, the rest is shared equally."""
    probs = np.array([[(1 - p) / 3] * 4 for _, p in steps], np.float32)
    for row, (index, p) in zip(probs, steps, strict=True):
        row[index] = p
    return probs[None]


@pytest.mark.parametrize(
    ("steps", "text", "score"),
    [
        ([(0, 0.9), (0, 0.9)], "", 0.0),
        ([(1, 0.9)], "a", 0.9),
        ([(1, 0.9), (1, 0.5), (1, 0.5)], "a", 0.9),  # a run counts once, with its first step
        ([(1, 0.9), (0, 0.9), (1, 0.7)], "aa", 0.8),  # the blank parts a double letter
        ([(0, 0.9), (1, 0.6), (2, 0.8), (0, 0.5)], "ab", 0.7),
        ([(1, 0.9), (3, 0.8), (2, 0.7)], "a b", 0.8),  # the space is a class like the others
        ([(1, 0.9), (2, 0.9), (1, 0.9)], "aba", 0.9),
    ],
)
def test_table(steps, text, score):
    [(found, found_score)] = greedy(path(*steps), LABELS)
    assert found == text
    assert found_score == pytest.approx(score)


def test_each_line_of_a_batch_is_decoded_alone():
    probs = np.concatenate([path((1, 0.9), (1, 0.9)), path((0, 0.9), (1, 0.8)), path((2, 0.9), (0, 0.9))])
    assert [text for text, _ in greedy(probs, LABELS)] == ["a", "a", "b"]


def test_another_blank():
    assert greedy(path((0, 0.9), (3, 0.9), (1, 0.9)), ["x", "a", "b", ""], blank=3) == [("xa", pytest.approx(0.9))]


def test_no_lines_and_no_steps():
    assert greedy(np.zeros((0, 5, 4), np.float32), LABELS) == []
    assert greedy(np.zeros((2, 0, 4), np.float32), LABELS) == [("", 0.0), ("", 0.0)]


@pytest.mark.parametrize("shape", [(1, 5, 3), (5, 4)])
def test_labels_must_fit(shape):
    with pytest.raises(ValueError, match="one class a label"):
        greedy(np.zeros(shape, np.float32), LABELS)


@given(st.lists(st.integers(0, 3), max_size=12))
def test_equals_the_definition(ids):
    [(text, score)] = greedy(np.eye(4, dtype=np.float32)[None, ids].reshape(1, len(ids), 4), LABELS)
    assert text == "".join(LABELS[index] for index, _ in itertools.groupby(ids))
    assert score == (1.0 if text else 0.0)
