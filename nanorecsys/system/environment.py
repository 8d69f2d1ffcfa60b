"""Environment variables for processes that start inside a block."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, and restore them at the end.

    >>> with environment({"NANORECSYS_EXAMPLE": "1"}):
    ...     os.environ["NANORECSYS_EXAMPLE"]
    '1'
    >>> "NANORECSYS_EXAMPLE" in os.environ
    False
    """
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
