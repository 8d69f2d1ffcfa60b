"""Title search finds what a look at every title finds, also for several threads at once. 4 s."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.search import TitleSearch, _words

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
]
POPULAR = np.array([9, 10, 1, 0, 2, 3, 4, 5, 6, 7, 8])


@pytest.fixture(scope="module")
def search() -> TitleSearch:
    return TitleSearch(TITLES, POPULAR)


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
        ('"!!!" OR * NEAR', []),
        ("\x00", []),
        ("\U0010ffff", []),
        ("\ud800", []),
        ("💥", []),
        ("toy " * 50, [1, 0]),
        (" ".join("abcdefghijklmnopqrstuvwxyz0123456789"), []),
        ("t" * 200, []),
    ],
)
def test_words_are_found(search: TitleSearch, query: str, found: list[int]) -> None:
    assert search.find(query, 10) == found


def test_the_limit_holds(search: TitleSearch) -> None:
    assert search.find("199", 2) == [1, 0]


def test_without_titles_nothing_is_found() -> None:
    for titles in ([], ["", "?"]):
        assert TitleSearch(titles, np.arange(len(titles))).find("a", 5) == []


def naive(titles: list[str], popular: list[int], query: str, limit: int) -> list[int]:
    """Search by a look at every title."""
    asked = _words(query)
    found = [
        item
        for item in popular
        if asked and all(any(word.startswith(q) for word in _words(titles[item])) for q in asked)
    ]
    return found[:limit]


# Few letters, so that words begin alike and titles share them.
LETTERS = st.text("abcé' -ßλ7", max_size=12)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), titles=st.lists(LETTERS, min_size=1, max_size=40))
def test_it_finds_what_a_look_at_every_title_finds(data: st.DataObject, titles: list[str]) -> None:
    popular = data.draw(st.permutations(range(len(titles))))
    query, limit = data.draw(LETTERS), data.draw(st.integers(1, 50))
    found = TitleSearch(titles, np.array(popular)).find(query, limit)
    assert found == naive(titles, popular, query, limit)


def test_threads_that_search_at_once_find_their_own_words() -> None:
    words = [f"word{number}" for number in range(8)]
    titles = [f"{word} film {i}" for i in range(500) for word in words]
    search = TitleSearch(titles, np.arange(len(titles)))
    with ThreadPoolExecutor(len(words)) as threads:
        found = list(threads.map(lambda word: search.find(word, 300), words * 50))
    for number, items in enumerate(found):
        first = number % len(words)
        assert items == list(range(first, first + 300 * len(words), len(words)))


SLOW_SEARCHES = """
import time
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from server.search import TitleSearch

search = TitleSearch(["Alien", "Aliens", "Brazil", "Brazil 2"], np.arange(4))
# SQLite calls this in the middle of a search, and keeps its own lock meanwhile.
search._index.set_progress_handler(lambda: time.sleep(0.001), 1)
with ThreadPoolExecutor(4) as threads:
    print(*threads.map(lambda word: search.find(word, 2), ["alien", "brazil"] * 8))
"""


def test_a_search_that_waits_for_another_does_not_stop_the_interpreter() -> None:
    """In a process of its own: a thread that waits with the interpreter's lock stops it for ever.

    The search that it waits for needs that lock in order to go on.
    """
    command = [sys.executable, "-c", SLOW_SEARCHES]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.stderr == ""
    assert ended.stdout.split() == ["[0,", "1]", "[2,", "3]"] * 8
