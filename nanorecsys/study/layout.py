"""The folders of a clone as one object, so that tests can use another folder for the study."""

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
        """One YAML file of parameters per profile."""
        return self.notebooks / "profiles"

    @property
    def runs(self) -> Path:
        """One folder per run, ignored by git."""
        return self.root / "data" / "runs"

    @property
    def published(self) -> Path:
        """Executed notebooks and result files that are committed."""
        return self.root / "book" / "results"

    @property
    def protocol(self) -> Path:
        """Definitions of the findings, see `nanorecsys.study.protocol`."""
        return self.root / "nanorecsys" / "study" / "protocol.yaml"

    @property
    def build(self) -> Path:
        """Assembled sources and rendered pages of the book, ignored by git."""
        return self.root / "_build"

    def run(self, name: str) -> Path:
        """Folder of the run called `name`."""
        return self.runs / name

    def relative(self, path: Path) -> str:
        """`path` relative to the root, for messages; unchanged if it lies outside."""
        path = path.resolve()
        if path.is_relative_to(self.root):
            return path.relative_to(self.root).as_posix()
        return str(path)


def layout() -> Layout:
    """The clone that holds this package, or the folder that `NANORECSYS_ROOT` names.

    Raises:
        NanorecsysError: The folder has no `notebooks`, as when the package is installed elsewhere.
    """
    root = Path(os.environ.get("NANORECSYS_ROOT") or Path(__file__).parents[2]).resolve()
    if not (root / "notebooks").is_dir():
        raise NanorecsysError(
            f"expected the study's notebooks under {root}, found none",
            "run from a clone of the repository (make study), or set NANORECSYS_ROOT to one",
        )
    return Layout(root)
