"""The named error of training."""

from collections.abc import Collection, Iterable

from nanorecsys.system.errors import NanorecsysError


class TrainingError(NanorecsysError):
    """A model or a baseline cannot be trained as asked, or training cannot continue."""


def check_names(kind: str, names: Iterable[str], known: Collection[str]) -> None:
    """Check that there is something of each name.

    Raises:
        TrainingError: a name is unknown; the error lists those that exist.
    """
    for name in names:
        if name not in known:
            raise TrainingError(f"there is no {kind} {name!r}", f"Use any of {', '.join(known)}.")
