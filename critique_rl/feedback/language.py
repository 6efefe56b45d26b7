"""Which script a text is written in.

Owns: counting letters by script. It tells scripts, not languages: French and English look alike to it, and Japanese,
whose characters are partly Chinese, counts as one family with Chinese. Must not know: critics, directives.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache

MIN_LETTERS = 8
DOMINANT_SHARE = 0.6
PRESENT_SHARE = 0.2
MAX_COUNTED_CHARS = 20_000
_NOTATION = re.compile(r"\\[A-Za-z]{1,30}|\b[A-Za-z]\b")
_FAMILIES = {"CJK": "HAN", "HIRAGANA": "HAN", "KATAKANA": "HAN", "BOPOMOFO": "HAN", "IDEOGRAPHIC": "HAN"}


def is_foreign(text: str, *others: str) -> bool:
    """True if most letters of `text` are of a script that hardly occurs in any of `others`.

    False where there is too little to tell: fewer than 8 letters in `text`, or in all of `others` (a bare sum).
    LaTeX commands and single letters count as notation.
    """
    if text.isascii() and all(other.isascii() for other in others):
        return False  # all of it is Latin: most of what is ever asked, and five hundred letters less to look up
    counts = _letters(text)
    total = sum(counts.values())
    if total < MIN_LETTERS:
        return False
    script, number = counts.most_common(1)[0]
    if number < DOMINANT_SHARE * total:
        return False
    known = [seen for seen in map(_letters, [*others, " ".join(others)]) if sum(seen.values()) >= MIN_LETTERS]
    return bool(known) and all(seen[script] < PRESENT_SHARE * sum(seen.values()) for seen in known)


def _letters(text: str) -> Counter[str]:
    plain = _NOTATION.sub(" ", text[:MAX_COUNTED_CHARS])
    return Counter(_script(character) for character in plain if character.isalpha())


@lru_cache(maxsize=4096)
def _script(character: str) -> str:
    first = unicodedata.name(unicodedata.normalize("NFKC", character)[:1], "UNKNOWN").split()[0].split("-")[0]
    return _FAMILIES.get(first, first)
