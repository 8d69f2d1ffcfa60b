"""A generated ratings.csv of ML-20M's size and shape, for benchmarks.

MovieLens 20M itself may not be redistributed. The counts, history lengths, popularity tail, id
gaps, bursts and ties in time, and the bytes per row are realistic. Items are drawn independently of
the user and of each other, so no model can learn from the file: use it to measure time and memory.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv_files

from nanorecsys.data.errors import DataError
from nanorecsys.system.files import atomic_path

MIN_HISTORY = 20  # as in MovieLens
# 1995-01-09 to 2015-03-31, the first and last second of ML-20M.
START, END = 789_652_009, 1_427_784_002
USERS_PER_BLOCK = 4_096  # about 600k rows, which take 200 MB

# Roughly ML-20M's rank-frequency curve (its first movie has 67,310 ratings, its median one 18),
# interpolated in log-log space between these ranks.
_RANK = np.array([1, 10, 100, 1_000, 3_000, 5_000, 10_000, 13_372, 20_000, 26_744])
_RATINGS = np.array([67_310, 50_000, 26_000, 4_700, 1_150, 420, 65, 18, 3, 1])
_STARS = pa.array([f"{half_stars / 2}" for half_stars in range(1, 11)])
_STAR_SHARES = np.array([0.012, 0.034, 0.014, 0.072, 0.044, 0.215, 0.110, 0.278, 0.077, 0.144])


def write_ratings_csv(
    path: Path | str,
    n_ratings: int = 20_000_263,
    n_users: int = 138_493,
    n_items: int = 26_744,
    seed: int = 0,
) -> None:
    """Write userId,movieId,rating,timestamp, sorted by user, then movie, as GroupLens does.

    The file has exactly `n_ratings` rows, in which every user and every item occurs, and no (user,
    item) pair occurs twice. Every user has 20 events or more, if `n_ratings` allows it. The same
    arguments give the same bytes. The default size is that of ML-20M, 541 MB; memory does not grow
    with `n_ratings`.

    Args:
        path: File to write.
        n_ratings: Number of rows.
        n_users: Number of users.
        n_items: Number of items.
        seed: Random seed.

    Raises:
        DataError: counts that cannot be met together.
    """
    if not (
        0 < n_users <= n_ratings
        and 0 < n_items <= n_ratings
        and n_ratings <= n_users * (n_items // 3)
    ):
        raise DataError(
            f"{n_ratings} ratings by {n_users} users of {n_items} items: no such table",
            "Give at least one rating per user and per item, "
            "and no user more than a third of the items.",
        )
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(_history_lengths(rng, n_ratings, n_users, n_items))])
    # Every item gets one of the rows before the rest is drawn, so none is left out.
    sown_at = np.sort(rng.choice(n_ratings, n_items, replace=False))
    sown_item = rng.permutation(n_items).astype(np.int32)
    movie_ids = np.sort(rng.choice(np.arange(1, 5 * n_items), n_items, replace=False))
    log_rank = np.log(1 + np.arange(n_items) * ((_RANK[-1] - 1) / max(n_items - 1, 1)))
    popularity = np.exp(np.interp(log_rank, np.log(_RANK), np.log(_RATINGS)))[
        rng.permutation(n_items)
    ]

    with atomic_path(Path(path)) as part, part.open("wb") as stream:
        for first in range(0, n_users, USERS_PER_BLOCK):
            last = min(first + USERS_PER_BLOCK, n_users)
            lengths = np.diff(offsets[first : last + 1])
            begin, end = np.searchsorted(sown_at, (offsets[first], offsets[last]))
            sown_user = (
                np.searchsorted(offsets[first : last + 1], sown_at[begin:end], side="right") - 1
            )
            user, item = _draw_items(rng, lengths, popularity, sown_user, sown_item[begin:end])
            stars = rng.choice(len(_STARS), len(user), p=_STAR_SHARES).astype(np.int32)
            table = pa.table(
                {
                    "userId": user + (first + 1),
                    "movieId": movie_ids[item],
                    "rating": _STARS.take(pa.array(stars)),
                    "timestamp": _draw_times(rng, lengths),
                }
            )
            options = csv_files.WriteOptions(include_header=first == 0, quoting_style="none")
            csv_files.write_csv(table, stream, options)


def _history_lengths(
    rng: np.random.Generator, n_ratings: int, n_users: int, n_items: int
) -> np.ndarray:
    """Events of each user, int64 (n_users,), with the sum `n_ratings`: log-normal above a minimum.

    ML-20M has median 68, mean 144 and maximum 9,254, which is a third of its items.
    """
    shortest, longest = min(MIN_HISTORY, n_ratings // n_users), n_items // 3
    shape = rng.lognormal(0, 1.4, n_users)

    def lengths(scale: float) -> np.ndarray:
        return np.minimum(shortest + shape * scale, longest).astype(np.int64)

    low, high = 0.0, float(n_ratings) / shape.min()
    for _ in range(100):  # bisection to the last bit
        middle = (low + high) / 2
        low, high = (middle, high) if lengths(middle).sum() <= n_ratings else (low, middle)
    result = lengths(low)
    result[np.flatnonzero(result < longest)[: n_ratings - result.sum()]] += 1
    return result


def _draw_items(
    rng: np.random.Generator,
    lengths: np.ndarray,
    popularity: np.ndarray,
    sown_user: np.ndarray,
    sown_item: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Distinct items for each user of a block, drawn by popularity, with those already sown.

    Both methods below sample without replacement (Efraimidis and Spirakis 2006). For a short
    history, draw the missing items, drop repeats, and draw again. For a long history that would
    take too many rounds: draw an exponential waiting time for every item, with its popularity as
    the rate, and take the items with the shortest times.

    Args:
        rng: Random generator.
        lengths: Events of each user of the block.
        popularity: Relative frequency of each item.
        sown_user, sown_item: User (in the block) and item of the events that are fixed already.

    Returns:
        user (in the block) and item, int64 (lengths.sum(),), sorted by user, then item.
    """
    n_items = len(popularity)
    is_long = lengths > n_items // 50
    place = np.cumsum(is_long) - 1
    waits = rng.standard_exponential((is_long.sum(), n_items)) / popularity
    sown_long = is_long[sown_user]
    waits[place[sown_user[sown_long]], sown_item[sown_long]] = 0
    latest = np.take_along_axis(np.sort(waits), lengths[is_long, None] - 1, axis=1)
    user, item = np.nonzero(waits <= latest)
    long_pairs = np.flatnonzero(is_long)[user] * n_items + item

    pairs = np.sort(sown_user[~sown_long] * n_items + sown_item[~sown_long])
    cumulative = np.cumsum(popularity) / popularity.sum()
    wanted = np.where(is_long, 0, lengths)
    while (missing := wanted - np.bincount(pairs // n_items, minlength=len(lengths))).any():
        user = np.repeat(np.arange(len(lengths)), missing)
        item = np.searchsorted(cumulative[:-1], rng.random(len(user)), side="right")
        pairs = np.sort(np.concatenate([pairs, user * n_items + item]))
        pairs = pairs[np.diff(pairs, prepend=-1) > 0]  # np.unique is ten times slower here
    return np.divmod(np.sort(np.concatenate([pairs, long_pairs])), n_items)


def _draw_times(rng: np.random.Generator, lengths: np.ndarray) -> np.ndarray:
    """Timestamps of a block's events, int64 (lengths.sum(),), by user, unordered within a user.

    A user rates in sessions that are hours to months apart; within a session the events are seconds
    apart or in the same second.
    """
    n = lengths.sum()
    gaps = np.where(rng.random(n) < 0.22, 0, np.exp(rng.normal(2.7, 1.2, n)).astype(np.int64))
    sessions = np.flatnonzero(rng.random(n) < 0.045)
    gaps[sessions] = 10 ** rng.uniform(4, 7, len(sessions))
    starts = np.cumsum(lengths) - lengths
    elapsed = np.cumsum(gaps)
    elapsed -= np.repeat(elapsed[starts], lengths)
    span = elapsed[starts + lengths - 1]
    squeeze = np.minimum(1, (END - START) / np.maximum(span, 1))
    begin = START + rng.random(len(lengths)) * (END - START - span * squeeze)
    times = (np.repeat(begin, lengths) + elapsed * np.repeat(squeeze, lengths)).astype(np.int64)
    # The file is sorted by movie, so the times of a user's rows are in random order.
    return times[np.argsort(np.repeat(np.arange(len(lengths)), lengths) + rng.random(n))]
