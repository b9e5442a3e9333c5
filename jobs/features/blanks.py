"""Tell text from what shows as nothing. An answer begins and ends with text.

Blank is what `str.isspace` accepts (U+0020, U+00A0, U+3000, line ends, …), and what a reader does not see either:

- control characters, and format characters without a form of their own: zero-width spaces and joiners, the soft
  hyphen, marks of writing direction, the byte order mark. An emoji sequence has joiners inside, never at its ends.
- letters and symbols that are drawn as nothing: the Hangul fillers and the Braille pattern without dots.

Variation selectors, combining marks and the tags of flags are no blanks: they change the character before them.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

INVISIBLE = frozenset(
    chr(code)
    for first, last in (
        (0x00AD, 0x00AD),  # soft hyphen
        (0x061C, 0x061C),  # a mark of writing direction
        (0x180E, 0x180E),  # Mongolian vowel separator
        (0x200B, 0x200F),  # zero-width space and joiners, marks of writing direction
        (0x202A, 0x202E),  # writing direction
        (0x2060, 0x206F),  # word joiner, invisible operators, writing direction
        (0x2800, 0x2800),  # Braille pattern without dots
        (0x3164, 0x3164),  # Hangul filler
        (0xFEFF, 0xFEFF),  # byte order mark
        (0xFFA0, 0xFFA0),  # half-width Hangul filler
        (0xFFF9, 0xFFFB),  # marks around annotations
    )
    for code in range(first, last + 1)
)


@lru_cache(maxsize=2**16)
def is_blank(character: str) -> bool:
    """Return True for a character that shows as nothing."""
    return character.isspace() or character in INVISIBLE or unicodedata.category(character) == "Cc"


def text_span(text: str, first: int, last: int) -> tuple[int, int]:
    """Return the characters [first, last) without blanks at both ends; an empty range at `last` if all are blank."""
    while first < last and is_blank(text[first]):
        first += 1
    while first < last and is_blank(text[last - 1]):
        last -= 1
    return first, last


def has_text(text: str) -> bool:
    """Return True if a text has a character that is not blank."""
    return not all(map(is_blank, text))


def opening(text: str, most: int) -> tuple[int, int]:
    """Return the range of a text's first `most` characters from the first visible one on, without blanks at its end.

    It answers where nothing tells the answer. It is short, because every wrong character costs some of F1.
    """
    first, last = text_span(text, 0, len(text))
    return text_span(text, first, min(last, first + most)) if first < last else (0, 0)
