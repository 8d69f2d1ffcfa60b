"""Named errors of the export and of the serving bundle."""

from nanorecsys.errors import NanorecsysError


class ExportError(NanorecsysError):
    """A model cannot be exported as asked, or an export is not what it should be."""


class BundleError(NanorecsysError):
    """A serving bundle that is missing, damaged, incomplete or of another format."""
