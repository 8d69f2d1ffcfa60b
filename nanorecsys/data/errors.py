"""The error of every bad input of the data chapter."""

from nanorecsys.system.errors import NanorecsysError


class DataError(NanorecsysError):
    """Data that cannot be fetched, read, split or loaded; names the file and, if any, the line."""
