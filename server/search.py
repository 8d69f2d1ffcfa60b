"""Find items by words of their titles, without a look at every title."""

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
import polars as pl

from nanorecsys.system.errors import NanorecsysError

_LAST = "\U0010ffff"  # after every character that a word can hold
_FEW = 4096  # titles; so many are cheaper to look up than to hope for among the popular ones
# letters that Unicode does not take apart into a plain one and an accent
_PLAIN = {
    "ß": "ss",
    "æ": "ae",
    "œ": "oe",
    "ø": "o",
    "ł": "l",
    "đ": "d",
    "ð": "d",
    "þ": "th",
    "ς": "\u03c3",
    "\u0131": "i",
}
_TRANSLATION = str.maketrans(_PLAIN)
_APOSTROPHES = "'`\u2019\u02bc"
_NO_APOSTROPHE = str.maketrans("", "", _APOSTROPHES)
_WORD = re.compile(r"[^\W_]+")


class TitleSearch:
    """Items whose titles hold every word of a query, as a word or as its beginning, the most popular first.

    Case, accents and punctuation do not count. Titles are numbered from the most popular on; the
    words are sorted, so those that begin alike lie side by side, and so do their postings. A query
    takes its rarest word. If few titles have it, all of these are looked at; otherwise the popular
    titles are, until enough are found, and no more of them than have the rarest word. What a query
    costs is thus bounded by how many titles have its rarest word.

    Memory: 8 bytes a word of a title, 16 a title, and the different words once.

    Args:
        titles: n texts, one an item; an item with an empty title, or None, is never found.
        popularity: int64 (n,), events by item; of items with as many, the first comes first.

    Raises:
        NanorecsysError: there are not as many counts as titles.

    >>> search = TitleSearch(["Alien (1979)", "Aliens (1986)", "Amélie (2001)"], np.array([1, 5, 3]))
    >>> search.find("alien", 10), search.find("AMELIE", 10), search.find("ali 19", 1), search.find("?", 10)
    ([1, 0], [2], [1], [])
    """

    def __init__(self, titles: Sequence[str | None], popularity: np.ndarray) -> None:
        if popularity.shape != (len(titles),):
            raise NanorecsysError(
                f"expected the popularity of {len(titles)} titles, found {popularity.shape}",
                "Take both from the same bundle.",
            )
        self._items = np.argsort(-popularity, kind="stable")  # int64 (n,), by place in popularity
        words = words_of_all(pl.Series(titles, dtype=pl.String).fill_null("").gather(self._items))
        lengths = words.list.len().to_numpy().astype(np.int64)
        flat = words.filter(words.list.len() > 0).explode()
        vocabulary = flat.unique().sort()
        self._vocabulary: list[str] = vocabulary.to_list()
        # int32 (words of all titles,): the number of each, title by title
        self._words = flat.cast(pl.Enum(vocabulary)).to_physical().to_numpy().astype(np.int32)
        self._starts = np.concatenate([[0], np.cumsum(lengths)])  # int64 (n + 1,), into _words
        titles_of = np.repeat(np.arange(len(titles), dtype=np.int32), lengths)
        self._postings = titles_of[np.argsort(self._words, kind="stable")]  # int32, word by word
        counts = np.bincount(self._words, minlength=len(self._vocabulary))
        self._postings_starts = np.concatenate([[0], np.cumsum(counts)]).tolist()

    def find(self, query: str, limit: int) -> list[int]:
        """Item numbers, at most `limit` of them; none where the query has no letter and no digit."""
        ranges = self._ranges(query)
        if not ranges or limit < 1:
            return []
        first, last = (self._postings_starts[word] for word in ranges[0])
        if (
            last - first > _FEW
            and len(found := self._among_popular(ranges, limit, last - first)) == limit
        ):
            return self._items[found].tolist()
        having = np.unique(self._postings[first:last])
        return self._items[self._having(having, ranges[1:])[:limit]].tolist()

    def _ranges(self, query: str) -> list[tuple[int, int]]:
        """For each word of the query the words that begin with it, `first` to `last` (excluded), the rarest first.

        None at all where a word begins none.
        """
        words = sorted(set(words_of(query)))
        # a title with "thing" has "th": of words that begin alike the longest, which is sorted
        # last, says it all
        telling = [
            w for w, after in zip(words, [*words[1:], ""], strict=False) if not after.startswith(w)
        ]
        ranges = [
            (bisect_left(self._vocabulary, w), bisect_left(self._vocabulary, w + _LAST))
            for w in telling
        ]
        if any(first == last for first, last in ranges):
            return []
        return sorted(
            ranges, key=lambda r: self._postings_starts[r[1]] - self._postings_starts[r[0]]
        )

    def _among_popular(self, ranges: list[tuple[int, int]], limit: int, most: int) -> np.ndarray:
        """The first `limit` titles with all words, or fewer, among the `most` popular."""
        found: list[np.ndarray] = []
        start, step, missing = 0, _FEW // 4, limit
        while missing > 0 and start < min(most, len(self._items)):
            stop = min(start + step, len(self._items))
            found.append(self._having(np.arange(start, stop), ranges)[:missing])
            missing -= len(found[-1])
            start, step = stop, 2 * step
        return np.concatenate(found)

    def _having(self, titles: np.ndarray, ranges: list[tuple[int, int]]) -> np.ndarray:
        """Those of `titles` that have a word of each range, in the order given."""
        for first, last in ranges:
            starts = self._starts[titles]
            lengths = self._starts[titles + 1] - starts
            ends = np.cumsum(lengths)
            places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(
                starts - ends + lengths, lengths
            )
            words = self._words[places]
            hits = np.concatenate([[0], np.cumsum((words >= first) & (words < last))])
            titles = titles[hits[ends] > hits[ends - lengths]]
        return titles


def words_of_all(texts: pl.Series) -> pl.Series:
    """Folded words of each text: letters and digits, without accents; an apostrophe does not part a word."""
    plain = (
        texts.str.normalize("NFKD")
        .str.to_lowercase()
        .str.replace_all(rf"[\p{{M}}{_APOSTROPHES}]", "")
    )
    return plain.str.replace_many(_PLAIN).str.extract_all(r"[\p{L}\p{N}]+")


def words_of(text: str) -> list[str]:
    """The same of one text, for which polars takes longer than the search: 10 microseconds against 600."""
    plain = unicodedata.normalize("NFKD", text).lower()
    if not plain.isascii():
        plain = "".join(c for c in plain if not unicodedata.category(c).startswith("M")).translate(
            _TRANSLATION
        )
    return _WORD.findall(plain.translate(_NO_APOSTROPHE))
