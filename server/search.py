"""Find items by words of their titles, in an SQLite full-text index in memory."""

import re
import sqlite3
import threading
import unicodedata
from collections.abc import Sequence

import numpy as np

# Apostrophes do not part a word; NFKD does not take the other letters apart.
_SPELLING = str.maketrans(
    {"'": "", "`": "", "\u2019": "", "\u02bc": ""}
    | {"æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "\u0131": "i"}
)


class TitleSearch:
    """Items whose titles have every word of a query, whole or as a prefix, the most popular first.

    Case, accents and punctuation do not count.

    Args:
        titles: One text per item; an item without a title is never found.
        popular: All item numbers, the most popular first.

    >>> search = TitleSearch(["Alien (1979)", "Aliens (1986)", "Amélie"], np.array([1, 2, 0]))
    >>> search.find("alien", 10), search.find("AMELIE", 10), search.find("ali 19", 1)
    ([1, 0], [2], [1])
    """

    def __init__(self, titles: Sequence[str], popular: np.ndarray) -> None:
        self._popular = [item for item in popular.tolist() if titles[item]]
        # A row's number is its popularity rank, so the index finds the most popular items first.
        # The tokenizer only has to split at the blanks between words.
        self._index = sqlite3.connect(":memory:", check_same_thread=False)
        # A second search on the connection would wait for SQLite's own lock, and keep Python's
        # interpreter lock meanwhile: no thread of the process could run.
        self._one_at_a_time = threading.Lock()
        self._index.execute(
            "CREATE VIRTUAL TABLE titles USING fts5"
            "(words, content='', detail='none', tokenize='ascii', prefix='1 2 3')"
        )
        self._index.executemany(
            "INSERT INTO titles (rowid, words) VALUES (?, ?)",
            ((rank, " ".join(_words(titles[item]))) for rank, item in enumerate(self._popular)),
        )

    def find(self, query: str, limit: int) -> list[int]:
        """Find at most `limit` item numbers; none if the query has no letter and no digit.

        Any number of threads may call it. They search one after the other.
        """
        words = dict.fromkeys(_words(query))
        if not words:
            return []
        matched = " ".join(f'"{word}"*' for word in words)
        with self._one_at_a_time:
            found = self._index.execute(
                "SELECT rowid FROM titles WHERE titles MATCH ? ORDER BY rowid LIMIT ?",
                (matched, limit),
            ).fetchall()
        return [self._popular[rank] for (rank,) in found]


def _words(text: str) -> list[str]:
    """Split into words of letters and digits, in lower case and without accents."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return re.findall(r"[^\W_]+", plain.translate(_SPELLING))
