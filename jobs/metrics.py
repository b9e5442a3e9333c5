"""How an answer is scored: strings in, floats out.

A profile is one community's definition of exact match and F1: `strict` is the assignment's, `drcd` and
`cmrc2018` are those that published scores are given in.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import NamedTuple

from jobs.wording import unknown_name


class Score(NamedTuple):
    em: float
    f1: float


@dataclass(frozen=True)
class Profile:
    """normalise: text to the text that is compared; units: that text to what F1 counts; shared: how many
    units two texts have in common."""

    normalise: Callable[[str], str]
    units: Callable[[str], Sequence[str]]
    shared: Callable[[Sequence[str], Sequence[str]], int]

    def score(self, prediction: str, reference: str) -> Score:
        """Exact match, and the harmonic mean of precision and recall over units; both 0.0 to 1.0."""
        left, right = self.normalise(prediction), self.normalise(reference)
        given, wanted = self.units(left), self.units(right)
        common = self.shared(given, wanted)
        return Score(float(left == right), 2 * common / (len(given) + len(wanted)) if common else 0.0)


def bag_overlap(left: Sequence[str], right: Sequence[str]) -> int:
    """Units in common, each as often as it occurs in both."""
    return (Counter(left) & Counter(right)).total()


def longest_run(left: Sequence[str], right: Sequence[str]) -> int:
    """Length of the longest contiguous stretch of units that stands in both."""
    return SequenceMatcher(None, left, right, autojunk=False).find_longest_match().size


# `drcd`. Its makers published no script, but said what they changed in SQuAD's evaluate-v1.1.py: these eight
# marks are removed as well, and F1 is over characters (github.com/DRCKnowledgeTeam/DRCD/issues/6).
DRCD_MARKS = str.maketrans("", "", string.punctuation + "《》？，。、；：")
ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def drcd_normal(text: str) -> str:
    """Lower-cased, without ASCII punctuation and DRCD's eight full-width marks, without English articles,
    white space made single spaces. Other full-width marks, such as 「」, stay.

    >>> drcd_normal("《The  Wall》, 1979年")
    'wall 1979年'
    """
    return " ".join(ARTICLES.sub(" ", text.lower().translate(DRCD_MARKS)).split())


# `cmrc2018`. After data/cmrc2018_evaluate.py, version v5, of github.com/ymcui/cmrc2018. Its list of marks
# holds …… as one entry of two characters, which no single character equals: an ellipsis is not removed.
CMRC_MARKS = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")

# The script leaves what is not Chinese to NLTK's Penn Treebank tokenizer. This does without the package, and
# cuts as that does in all 14,034 questions and answers of DRCD's development and test sets; English
# contractions other than 's are the known difference.
CMRC_UNIT = re.compile(
    r"""[\u4e00-\u9fa5]                             # a Chinese character
    | \.{2,}                                        # dots in a row
    | (?: [^\s\u4e00-\u9fa5.,';@#$%&?!()\[\]{}<>"«»“”‘’„–—]
        | ,(?=\d)                                   # 1,024
        | \.(?![.\u4e00-\u9fa5]|$)                  # 3.5, and no full stop
        | '(?!s\b|\s|[\u4e00-\u9fa5]|$)             # o'neill
      )+
    | 's\b
    | \S""",
    re.VERBOSE,
)


def cmrc_normal(text: str) -> str:
    """Lower-cased and stripped, then without the marks of the script's list; most ASCII marks stay.

    >>> cmrc_normal(" 《Wall-E》, 2008 ")
    'walle, 2008'
    """
    return text.lower().strip().translate(CMRC_MARKS)


def cmrc_units(text: str) -> list[str]:
    """Chinese characters one by one, anything else by words, numbers and marks.

    >>> cmrc_units("ios 9.3版")
    ['ios', '9.3', '版']
    """
    return CMRC_UNIT.findall(text)


PROFILES = {
    "strict": Profile(normalise=str, units=str, shared=bag_overlap),
    "drcd": Profile(drcd_normal, units=str, shared=bag_overlap),
    "cmrc2018": Profile(cmrc_normal, cmrc_units, longest_run),
}


def get_profile(name: str) -> Profile:
    """The profile called `name`. Raises ValueError, with the nearest name, when there is none."""
    if name not in PROFILES:
        raise ValueError(unknown_name("metric profile", name, PROFILES))
    return PROFILES[name]


def best_score(prediction: str, references: Sequence[str], profile: str = "strict") -> Score:
    """The best exact match and the best F1 of a prediction over its references, each between 0.0 and 1.0.

    >>> score("日月潭。", ["湖", "日月潭"], "drcd")
    Score(em=1.0, f1=1.0)

    Raises ValueError for an unknown profile and when there is no reference.
    """
    scores = [get_profile(profile).score(prediction, reference) for reference in references]
    return Score(max(one.em for one in scores), max(one.f1 for one in scores))


def exact_match(prediction: str, reference: str) -> float:
    """1.0 when both are the same string, character for character, as the assignment scores it."""
    return PROFILES["strict"].score(prediction, reference).em


def f1(prediction: str, reference: str) -> float:
    """Harmonic mean of precision and recall over characters, each counted as often as it occurs.

    Chinese has no spaces to split words at, so SQuAD's word overlap (Rajpurkar et al. 2016, section 6.1)
    is taken over characters.

    >>> round(f1("1970年代後", "1970年代"), 3)
    0.923
    """
    return PROFILES["strict"].score(prediction, reference).f1


def mean_scores(
    predictions: Sequence[str], references: Sequence[str | Sequence[str]], profile: str = "strict"
) -> dict[str, float]:
    """`exact_match` and `f1` averaged over questions, both between 0 and 1; a question has one reference or
    several. Raises ValueError when there is not one entry of `references` for each prediction."""
    pairs = zip(predictions, references, strict=True)
    scores = [best_score(p, [r] if isinstance(r, str) else r, profile) for p, r in pairs]
    return {
        "exact_match": sum(one.em for one in scores) / len(scores),
        "f1": sum(one.f1 for one in scores) / len(scores),
    }
