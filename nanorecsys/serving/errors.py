"""Named errors of what is served: bundles, models and indexes."""

from nanorecsys.system.errors import NanorecsysError


class ServingError(NanorecsysError):
    """A model or an index that cannot be served."""


class BundleError(ServingError):
    """A serving bundle that is missing, damaged, incomplete or of another format."""


class SpecificationError(ServingError):
    """An index that cannot be built on these vectors, or that cannot be searched as asked."""


class SettingError(SpecificationError):
    """A search setting that the index does not have."""


class LibraryError(ServingError):
    """An index of a library that is not installed on this host."""


class RetrievalError(ServingError):
    """A remote index that does not answer."""


class CollectionError(RetrievalError):
    """A remote index that is missing, or does not hold all vectors of a bundle."""
