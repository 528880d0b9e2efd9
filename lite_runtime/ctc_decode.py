"""CTC output → text: best label a step, repeats merged, blanks dropped (Graves et al. 2006, best path decoding)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def greedy(probs: np.ndarray, labels: Sequence[str], blank: int = 0) -> list[tuple[str, float]]:
    """Best path of each line.

    probs: (N, T, C) softmax over classes; labels: C strings, the blank's one is never used.
    Returns N pairs (text, mean probability of the kept steps); ("", 0.0) when every step is blank.
    Raises ValueError when probs is not (N, T, C) with C labels.
    """
    if probs.ndim != 3 or probs.shape[2] != len(labels):
        raise ValueError(f"expected probabilities (N, T, {len(labels)}), one class a label, found {probs.shape}")
    best = probs.argmax(axis=2)  # (N, T)
    peak = probs.max(axis=2)  # (N, T)
    kept = best != blank
    kept[:, 1:] &= best[:, 1:] != best[:, :-1]
    lines = []
    for ids, scores, keep in zip(best, peak, kept, strict=True):
        text = "".join(labels[index] for index in ids[keep])
        lines.append((text, float(scores[keep].mean()) if text else 0.0))
    return lines
