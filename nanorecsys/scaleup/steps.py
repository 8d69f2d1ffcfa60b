"""Work in steps that each leave one file: a run that was killed takes up after the last whole one."""

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from nanorecsys.system.files import atomic_path

LEDGER = "steps.json"


class Steps:
    """Steps in one folder, with the seconds that each took.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     steps = Steps(Path(folder))
    ...     path = steps.do("greeting.txt", lambda path: path.write_text("hello"))
    ...     again = Steps(Path(folder)).do("greeting.txt", lambda path: path.write_text("never called"))
    ...     path.read_text(), steps.seconds("greeting") >= 0
    ('hello', True)
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._path = folder / LEDGER
        self._seconds: dict[str, float] = {}
        if self._path.exists():
            self._seconds = msgspec.json.decode(self._path.read_bytes(), type=dict[str, float])

    def do(self, name: str, make: Callable[[Path], object]) -> Path:
        """Let `make` write the file `name` of the folder, unless it is there; it is whole or not there.

        Args:
            name: of the file.
            make: called with the path that it writes to.
        """
        path = self.folder / name
        if not path.exists():
            with atomic_path(path) as part:
                start = time.perf_counter()
                make(part)
                # noted before the file is in its place: a step that was killed in between is done
                # and noted anew
                self._seconds[name] = time.perf_counter() - start
                with atomic_path(self._path) as ledger:
                    ledger.write_bytes(msgspec.json.encode(self._seconds))
        return path

    def seconds(self, prefix: str) -> float:
        """Seconds of all steps whose names begin so."""
        return sum(s for name, s in self._seconds.items() if name.startswith(prefix))
