"""The data sets known by name: their files, checksums and published counts, and their download."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests

from nanorecsys.data.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
BASE_URL = "https://files.grouplens.org/datasets/movielens/"
DEFAULT_DATASET, SECOND_DATASET = "ml-latest-small-2016", "ml-latest-2023-head"
BOTH_DATASETS = {DEFAULT_DATASET, SECOND_DATASET}  # of the findings that name both
ATTEMPTS = 3  # a failed download starts again from the beginning: pooch cannot resume
TIMEOUT_S = 30  # without a byte


@dataclass(frozen=True)
class Registered:
    """A data set that is fetched by name: NAME.zip at the base URL, or in data/ where bundled."""

    checksum: str  # algorithm:hex, the form that pooch takes
    ratings: int  # as its README says
    bundled: bool = False


DATASETS = {
    # The release of October 2016, with the 9,066 of its 9,125 movies that have a rating.
    "ml-latest-small-2016": Registered(
        "sha256:1eeb0beb42db9308da2fc9cc8fe5b66edd7115983e52646c3cdfb319a2add47c",
        ratings=100_004,
        bundled=True,
    ),
    # The first 2,148 users of the release of July 2023, and the movies that they rated.
    "ml-latest-2023-head": Registered(
        "sha256:579f38f036187398ae45d13e9d50a0d6eed90d735004969b11335e2af2ff79c0",
        ratings=206_423,
        bundled=True,
    ),
    # The release of September 2018. GroupLens publishes no fixed checksum of this file; TensorFlow
    # Datasets pins this one (tensorflow_datasets/url_checksums/movielens.txt, 978,202 bytes).
    "ml-latest-small": Registered(
        "sha256:696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
        ratings=100_836,
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
    of GroupLens' server, NANORECSYS_DOWNLOADS a cache in place of data/cache of the repository.

    Raises:
        DataError: no network, refused, dropped, wrong checksum, cache not writable; with the
            remedy.
    """
    registered, file = DATASETS[name], f"{name}.zip"
    if registered.bundled:
        return _bundled(file, registered.checksum)
    cache = Path(os.environ.get("NANORECSYS_DOWNLOADS") or ROOT / "data" / "cache")
    base_url = (os.environ.get("NANORECSYS_DATA_URL") or BASE_URL).rstrip("/") + "/"
    url = base_url + file
    by_hand = (
        f"Get {file} by other means and put it into {cache}, "
        "or set NANORECSYS_DATA_URL to a mirror."
    )
    pooch.get_logger().setLevel("WARNING")  # the progress bar says the rest
    show = sys.stderr.isatty()
    downloader = pooch.HTTPDownloader(progressbar=show, chunk_size=1 << 16, timeout=TIMEOUT_S)
    repository = pooch.create(
        cache,
        base_url,
        registry={file: registered.checksum},
        retry_if_failed=ATTEMPTS - 1,
    )
    try:
        return Path(repository.fetch(file, downloader=downloader))
    except requests.HTTPError as error:
        reason = str(error).partition(" for url")[0]
        raise DataError(f"{url}: the server answered {reason}", by_hand) from error
    except requests.RequestException as error:
        raise DataError(
            f"{url}: no complete download in {ATTEMPTS} attempts ({_cause(error)})",
            f"Check the network and run again. {by_hand}",
        ) from error
    except ValueError as error:  # what pooch raises for a wrong checksum
        raise DataError(
            f"{url}: the checksum of the download is not {registered.checksum}",
            f"The file has changed, or was damaged on its way: run again. {by_hand}",
        ) from error
    except OSError as error:
        raise DataError(
            f"{cache}: cannot keep {file} there: {error.strerror or error}",
            "Free space there, or set NANORECSYS_DOWNLOADS to another folder.",
        ) from error


def _bundled(file: str, checksum: str) -> Path:
    path = ROOT / "data" / file
    restore = f"Restore it from the repository: git checkout -- data/{file}"
    if not path.is_file():
        raise DataError(f"{path}: the bundled data set is not there", restore)
    found = f"sha256:{pooch.file_hash(str(path))}"
    if found != checksum:
        raise DataError(f"{path}: checksum {found}, expected {checksum}", restore)
    return path


def _cause(error: BaseException) -> str:
    """The innermost reason, such as "Connection refused": requests wraps it in three layers."""
    while error.__context__:
        error = error.__context__
    return str(error)
