"""What the server takes and gives, as typed structs: JSON is checked against them, and OpenAPI is made from them."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

MAX_K = 100
MAX_HISTORY = 10_000
MAX_QUERY, MAX_FOUND = 200, 50  # characters of a search, items that it finds

Id = int | Annotated[str, Meta(max_length=200)]


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for the best items of a user by id, or of a history of item ids, oldest first. One of the two is given."""

    user_id: Annotated[Id | None, Meta(description="A user of the bundle.")] = None
    history: Annotated[
        Annotated[list[Id], Meta(max_length=MAX_HISTORY)] | None,
        Meta(
            description="Item ids, oldest first; the last ones count, as many as the bundle says."
        ),
    ] = None
    k: Annotated[int, Meta(ge=1, le=MAX_K, description="How many items.")] = 10
    exclude_seen: Annotated[bool, Meta(description="Leave items of the history out.")] = True
    include_titles: Annotated[bool, Meta(description="Add the title of each item.")] = True
    degrade: Annotated[
        bool,
        Meta(
            description="Under overload answer with the popular items, marked as fallback, instead of 503."
        ),
    ] = False

    def __post_init__(self) -> None:
        if (self.user_id is None) == (self.history is None):
            raise ValueError("Expected either `user_id` or `history`")


class Item(msgspec.Struct, frozen=True):
    """One recommended item. Scores are the ranker's, comparable within one answer; of a fallback, events so far."""

    item_id: int | str
    score: float
    title: str | UnsetType = UNSET


class Answer(msgspec.Struct, frozen=True):
    """The best items first. `source` says where they come from, `bundle` which bundle answered."""

    items: list[Item]
    source: Literal["model", "cache", "fallback"]
    bundle: str


class Event(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A user interacted with an item, now."""

    user_id: Annotated[Id, Meta(description="A user of the bundle.")]
    item_id: Annotated[Id, Meta(description="An item of the bundle.")]


class Accepted(msgspec.Struct, frozen=True):
    """The event is stored. `events` is how many of this user are stored since the bundle was made."""

    user_id: int | str
    events: int


class FoundItem(msgspec.Struct, frozen=True):
    """An item whose title has every word asked for."""

    item_id: int | str
    title: str
    year: int | None
    genres: list[str]


class Found(msgspec.Struct, frozen=True):
    """Items found by title, the most popular first."""

    items: list[FoundItem]


class Problem(msgspec.Struct, frozen=True):
    """What is wrong with a request (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
