"""What the server takes and returns: structs that JSON is checked against, and errors."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

MAX_K = 100
MAX_HISTORY = 10_000

Id = int | Annotated[str, Meta(max_length=200)]
History = Annotated[list[Id], Meta(max_length=MAX_HISTORY)]
Source = Literal["model", "cache", "fallback"]


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for the best items of a user, or after a history of item ids, oldest first.

    Exactly one of `user_id` and `history` is given. `k` is the number of items. `exclude_seen`
    leaves out items of the history, and `include_titles` adds titles. With `degrade` the popular
    items are the answer instead of 503, marked `fallback`: under overload, or without retrieval.
    """

    user_id: Id | None = None
    history: History | None = None
    k: Annotated[int, Meta(ge=1, le=MAX_K)] = 10
    exclude_seen: bool = True
    include_titles: bool = True
    degrade: bool = False

    def __post_init__(self) -> None:
        if (self.user_id is None) == (self.history is None):
            raise ValueError("Expected either `user_id` or `history`")


class Item(msgspec.Struct, frozen=True):
    """A recommended item.

    Its score is the ranker's; the retriever's inner product where the bundle has no ranker; the
    number of events in a fallback.
    """

    item_id: int | str
    score: float
    title: str | UnsetType = UNSET


class Answer(msgspec.Struct, frozen=True):
    """The best items first, where they come from, and the id of the bundle that answered.

    `events_unread` is there, and true, when Redis could not say which events were posted for the
    user. The answer then depends on the bundle's history alone.
    """

    items: list[Item]
    source: Source
    bundle: str
    events_unread: bool | UnsetType = UNSET


class Event(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A user of the bundle interacts with an item of the bundle now."""

    user_id: Id
    item_id: Id


class Accepted(msgspec.Struct, frozen=True):
    """The event is stored; `events` is the number of this user's events that count."""

    user_id: int | str
    events: int


class Search(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A search for items: words of the title, and the largest number of items."""

    q: Annotated[str, Meta(min_length=1, max_length=200, pattern=r"\S", examples=["toy sto"])]
    limit: Annotated[int, Meta(ge=1, le=50)] = 10


class FoundItem(msgspec.Struct, frozen=True):
    """An item whose title has every word of the query."""

    item_id: int | str
    title: str
    year: int | None
    genres: list[str]


class Found(msgspec.Struct, frozen=True):
    """Items found by title, the most popular first."""

    items: list[FoundItem]


class Health(msgspec.Struct, frozen=True):
    """The process lives."""

    status: Literal["ok"] = "ok"


class Ready(msgspec.Struct, frozen=True):
    """The worker can answer, with this bundle and this engine.

    `events_failure` is there when Redis cannot store an event now, and says why.
    """

    bundle: str
    engine: str
    status: Literal["ready"] = "ready"
    events_failure: str | UnsetType = UNSET


class Problem(msgspec.Struct, frozen=True):
    """What is wrong with a request (RFC 9457)."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"


class ProblemError(Exception):
    """A request that fails with a problem description.

    Args:
        status: HTTP status.
        title: Kind of problem.
        detail: What was expected and what came.
        headers: Further headers, such as Retry-After.
    """

    def __init__(
        self, status: int, title: str, detail: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail, self.headers = status, title, detail, headers or {}


class OverloadedError(ProblemError):
    """The queue is full, or a request waited in it beyond the deadline.

    Args:
        reason: Label of the metric that counts rejections: early, queue or deadline.
        detail: Text for the client.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(503, "Overloaded", detail, {"Retry-After": "1"})
        self.reason = reason
