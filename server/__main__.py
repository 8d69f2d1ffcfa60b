"""`python -m server`: read the settings, and serve."""

import logging
import os
import sys
import tempfile

from nanorecsys.system.errors import NanorecsysError
from server.settings import parse

# Of FAISS and the linear algebra, read when they are first imported. The server's own threads are
# the parallelism: a second one under each search would wait for work spinning, at several times the
# processor time of the request.
THREAD_POOLS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def main() -> int:
    """Serve until a signal ends it; the exit status."""
    logging.basicConfig(
        format="%(asctime)s %(process)d %(levelname)s %(message)s", level=logging.INFO
    )
    logging.getLogger("faiss").setLevel(logging.WARNING)
    try:
        settings = parse(sys.argv[1:])
        os.environ.update(THREAD_POOLS)
        with tempfile.TemporaryDirectory(prefix="nanorecsys-metrics-") as folder:
            # the workers' metrics meet in files; prometheus_client looks for the folder when it is
            # first imported
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
            from server.supervisor import Server

            Server(settings).run()
    except NanorecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
