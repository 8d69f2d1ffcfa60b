"""Exporters and quantizers without their logs: a line a node, and advice to do what has been done."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing below an error is logged, no warning shown; some of these modules also configure the root logger."""
    root = logging.getLogger()
    handlers, level, disabled = root.handlers[:], root.level, root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.handlers[:], root.level = handlers, level
        logging.disable(disabled)
