"""How an answer is scored: strings in, floats out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def exact_match(prediction: str, reference: str) -> float:
    """1.0 when both are the same string, character for character, as the assignment scores it."""
    return float(prediction == reference)


def f1(prediction: str, reference: str) -> float:
    """Harmonic mean of precision and recall over characters, each counted as often as it occurs.

    Chinese has no spaces to split words at, so SQuAD's word overlap (Rajpurkar et al. 2016, section 6.1)
    is taken over characters.

    >>> round(f1("1970年代後", "1970年代"), 3)
    0.923
    """
    common = (Counter(prediction) & Counter(reference)).total()
    return 2 * common / (len(prediction) + len(reference)) if common else 0.0


def mean_scores(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """`exact_match` and `f1` averaged over pairs, both between 0 and 1."""
    pairs = list(zip(predictions, references, strict=True))
    return {
        "exact_match": sum(exact_match(p, r) for p, r in pairs) / len(pairs),
        "f1": sum(f1(p, r) for p, r in pairs) / len(pairs),
    }
