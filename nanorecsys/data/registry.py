"""The data sets known by name: their checksums and published sizes, and their download."""

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pooch

from nanorecsys.data.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
BASE_URL = "https://files.grouplens.org/datasets/movielens/"
DEFAULT_DATASET, SECOND_DATASET = "ml-latest-small-2016", "ml-latest-2023-head"
ATTEMPTS = 3  # a failed download starts again from the beginning: pooch cannot resume
TIMEOUT_S = 30  # without a byte


@dataclass(frozen=True)
class Registered:
    """A data set that is fetched by name, as NAME.zip at the base URL, or in data/ where bundled.

    Args:
        checksum: algorithm:hex, the form that pooch takes.
        ratings: Number of ratings that its README publishes.
        bundled: Whether the file is in the repository.
    """

    checksum: str
    ratings: int
    bundled: bool = False


DATASETS = {
    # The release of October 2016 lists 9,125 movies; the bundled file lists the 9,066 that have a
    # rating.
    "ml-latest-small-2016": Registered(
        "sha256:1eeb0beb42db9308da2fc9cc8fe5b66edd7115983e52646c3cdfb319a2add47c", 100_004, True
    ),
    # The first 2,148 users of the release of July 2023, and the movies that they rated.
    "ml-latest-2023-head": Registered(
        "sha256:579f38f036187398ae45d13e9d50a0d6eed90d735004969b11335e2af2ff79c0", 206_423, True
    ),
    # The release of September 2018. GroupLens publishes no fixed checksum of this file; TensorFlow
    # Datasets pins this one (tensorflow_datasets/url_checksums/movielens.txt, 978,202 bytes).
    "ml-latest-small": Registered(
        "sha256:696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436", 100_836
    ),
    "ml-1m": Registered("md5:c4d9eecfca2ab87c1945afe126590906", 1_000_209),
    "ml-20m": Registered("md5:cd245b17a1ae2cc31bb14903e1204af3", 20_000_263),
    "ml-25m": Registered("md5:6b51fb2759a8657d3bfcbfc42b592ada", 25_000_095),
    "ml-32m": Registered("md5:d472be332d4daa821edc399621853b57", 32_000_204),
}


def fetch(name: str) -> Path:
    """The checked zip of a registered data set, downloaded unless it is bundled or in the cache.

    A download gets its final name in the cache only once its checksum is right, so a failed or
    killed one is never taken for the data set. NANORECSYS_DATA_URL names a mirror to use in place
    of GroupLens' server, and NANORECSYS_DOWNLOADS a folder in place of data/cache.

    Raises:
        DataError: no network, refused, dropped, wrong checksum, cache not writable; with the
            remedy.
    """
    registered, file = DATASETS[name], f"{name}.zip"
    if registered.bundled:
        return _bundled(file, registered.checksum)
    base_url = (os.environ.get("NANORECSYS_DATA_URL") or BASE_URL).rstrip("/") + "/"
    url = base_url + file
    cache = Path(os.environ.get("NANORECSYS_DOWNLOADS") or ROOT / "data" / "cache")
    pooch.get_logger().setLevel("WARNING")  # the progress bar says the rest
    repository = pooch.create(
        cache, base_url, registry={file: registered.checksum}, retry_if_failed=ATTEMPTS - 1
    )
    download = pooch.HTTPDownloader(
        progressbar=sys.stderr.isatty(), chunk_size=2**16, timeout=TIMEOUT_S
    )
    try:
        return Path(repository.fetch(file, downloader=download))
    except (OSError, ValueError) as error:  # pooch raises ValueError for a wrong checksum
        raise DataError(
            f"{url}: no whole download in {ATTEMPTS} attempts ({_cause(error)})",
            f"Check the network and the space for {cache}, and run again. Or get {file} by other "
            "means and put it there, or set NANORECSYS_DATA_URL to a mirror.",
        ) from error


def _bundled(file: str, checksum: str) -> Path:
    path = ROOT / "data" / file
    content = path.read_bytes() if path.is_file() else b""
    if "sha256:" + hashlib.sha256(content).hexdigest() != checksum:
        raise DataError(
            f"{path}: the bundled data set is not there, or its checksum is wrong",
            f"Restore it from the repository: git checkout -- data/{file}",
        )
    return path


def _cause(error: BaseException) -> str:
    """The innermost reason, such as "Connection refused": requests wraps it in three layers."""
    while error.__context__:
        error = error.__context__
    return str(error)
