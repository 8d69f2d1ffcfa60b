"""Search by title finds what a look at every title finds, without one. 6 s."""

import re
import sys
import unicodedata

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanorecsys.system.errors import NanorecsysError
from server import search as module
from server.search import TitleSearch, words_of, words_of_all

TITLES = [
    "Toy Story (1995)",
    "Toy Story 2 (1999)",
    "Misérables, Les (1995)",
    "Léon: The Professional (1994)",
    "Ocean's Eleven (2001)",
    "Das weiße Band (2009)",
    "Smørrebrød",
    "ΟΔΥΣΣΕΥΣ",
    "千と千尋の神隠し",
    "!!!",
    "",
    None,
]
POPULARITY = np.array([5, 7, 3, 3, 1, 0, 0, 0, 0, 9, 9, 9])


@pytest.fixture(scope="module")
def search() -> TitleSearch:
    return TitleSearch(TITLES, POPULARITY)


def naive(titles: list[str], popularity: np.ndarray, query: str, limit: int) -> list[int]:
    """By a look at every title."""
    asked = words_of(query)
    found = [
        number
        for number in np.argsort(-popularity, kind="stable").tolist()
        if asked
        and all(any(word.startswith(q) for word in words_of(titles[number])) for q in asked)
    ]
    return found[:limit]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("toy", [1, 0]),
        ("TOY sto", [1, 0]),
        ("story toy", [1, 0]),
        ("story, 1995!", [0]),
        ("199", [1, 0, 2, 3]),
        ("miserables", [2]),
        ("MISÉRABLES", [2]),
        ("mise\u0301rables", [2]),
        ("leon pro", [3]),
        ("oceans", [4]),
        ("ocean's", [4]),
        ("ocean\u2019s", [4]),
        ("WEISSE", [5]),
        ("weiße", [5]),
        ("smorre", [6]),
        ("οδυσσευς", [7]),
        ("千と", [8]),
        ("tory", []),
        ("toy toy t", [1, 0]),
        ("toy x", []),
        ("", []),
        (" \t\n", []),
        ("!!!", []),
        ("\x00", []),
        ("\U0010ffff", []),
        ("\ud800", []),
        ("💥", []),
        ("toy " * 50, [1, 0]),
        ("t" * 200, []),
    ],
)
def test_words_are_found(search: TitleSearch, query: str, found: list[int]) -> None:
    assert search.find(query, 10) == found


def test_the_limit_holds(search: TitleSearch) -> None:
    assert search.find("199", 2) == [1, 0]
    assert search.find("199", 0) == search.find("199", -1) == []
    assert all(type(number) is int for number in search.find("199", 2))


def test_without_titles_nothing_is_found() -> None:
    for titles in ([], ["", "?"], [None]):
        assert TitleSearch(titles, np.zeros(len(titles), np.int64)).find("a", 5) == []


def test_counts_must_fit_the_titles() -> None:
    with pytest.raises(NanorecsysError, match="popularity of 2 titles"):
        TitleSearch(["a", "b"], np.zeros(3, np.int64))


# few letters, so that words begin alike and titles share them
LETTERS = st.text("abcé' -", max_size=12)


@settings(max_examples=150)
@given(
    data=st.data(),
    titles=st.lists(LETTERS, min_size=1, max_size=40),
    few=st.sampled_from([1, 4, 4096]),
)
def test_it_finds_what_a_look_at_every_title_finds(
    data: st.DataObject, titles: list[str], few: int
) -> None:
    popularity = np.array(
        data.draw(st.lists(st.integers(0, 5), min_size=len(titles), max_size=len(titles)))
    )
    query, limit = data.draw(LETTERS), data.draw(st.integers(1, 50))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_FEW", max(few, 4))  # both ways to search
        assert TitleSearch(titles, popularity).find(query, limit) == naive(
            titles, popularity, query, limit
        )


def test_both_foldings_agree_on_every_character() -> None:
    """Titles are folded by polars, queries by Python: a difference would hide titles."""
    assigned = (chr(code) for code in range(sys.maxunicode + 1))
    texts = [f"a{c}b Σ{c}Σ" for c in assigned if unicodedata.category(c) not in ("Cn", "Co", "Cs")]
    theirs = words_of_all(pl.Series(texts)).to_list()
    assert [
        text for text, words in zip(texts, theirs, strict=True) if words_of(text) != words
    ] == []


class Counting(np.ndarray):
    """Counts the words that are looked up."""

    looked_up = 0

    def __getitem__(self, key: object) -> np.ndarray:
        found = super().__getitem__(key)
        if isinstance(found, np.ndarray):
            Counting.looked_up += found.size
        return found


@pytest.mark.parametrize(
    "query", ["f", "film", "film 1", "film rare", "rare", "odd even", "film odd", "none"]
)
def test_a_search_looks_at_few_of_many_titles(query: str) -> None:
    n, few = 200_000, 60
    titles = [
        f"Film {'odd' if i % 2 else 'even'} number{i}" + (" rare" if i % (n // few) == 0 else "")
        for i in range(n)
    ]
    search = TitleSearch(titles, np.arange(n)[::-1].copy())
    search._words = search._words.view(Counting)
    Counting.looked_up = 0
    found = search.find(query, 10)
    assert found == naive(titles[:2000], np.arange(2000)[::-1], query, 10) or re.search(
        "rare|odd even", query
    )
    assert len(found) == {"odd even": 0, "none": 0, "film 1": 0}.get(query, 10)
    # "odd" and "even" are the worst that can be: both common, and never together
    assert Counting.looked_up < len(search._words) * (3 if query == "odd even" else 0.05)
