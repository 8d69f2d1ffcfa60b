"""Named errors of the export."""

from nanorecsys.system.errors import NanorecsysError


class ExportError(NanorecsysError):
    """A model cannot be exported, or an export is not what it should be."""
