"""Where things lie in a clone: one object, so that tests can point the whole study at another folder."""

import os
from dataclasses import dataclass
from pathlib import Path

from nanorecsys.system.errors import NanorecsysError


@dataclass(frozen=True)
class Layout:
    """The folders of the study, all below the repository's root."""

    root: Path

    @property
    def notebooks(self) -> Path:
        """Parameterized sources, without outputs."""
        return self.root / "notebooks"

    @property
    def profiles(self) -> Path:
        """One YAML file of parameters a profile."""
        return self.notebooks / "profiles"

    @property
    def runs(self) -> Path:
        """One folder a profile, ignored by git."""
        return self.root / "data" / "runs"

    @property
    def published(self) -> Path:
        """Executed notebooks and result files that are committed."""
        return self.root / "book" / "results"

    @property
    def build(self) -> Path:
        """Assembled sources and rendered pages of the book, ignored by git."""
        return self.root / "_build"

    def run(self, name: str) -> Path:
        """Folder of the run called `name`."""
        return self.runs / name

    def relative(self, path: Path) -> str:
        """`path` as seen from the root, for messages and records; unchanged where it lies elsewhere."""
        path = path.resolve()
        return (
            path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)
        )


def layout() -> Layout:
    """The clone that holds this package, or the folder that `NANORECSYS_ROOT` names.

    Raises:
        NanorecsysError: there is no `notebooks` folder there (the package was installed away from
            its clone).
    """
    root = Path(os.environ.get("NANORECSYS_ROOT") or Path(__file__).parents[2]).resolve()
    if not (root / "notebooks").is_dir():
        raise NanorecsysError(
            f"expected the study's notebooks under {root}, found none",
            "run from a clone of the repository (make study), or set NANORECSYS_ROOT to one",
        )
    return Layout(root)
