"""`python -m server`: read the settings and serve."""

import logging
import os
import tempfile

from server.settings import Settings, make_command

# FAISS and BLAS read these when they are first imported. The server's own threads are its
# parallelism: more threads in each search would spin while they wait for work.
THREAD_POOLS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def serve(settings: Settings) -> None:
    """Serve until a signal ends it."""
    logging.basicConfig(
        format="%(asctime)s %(process)d %(levelname)s %(message)s", level=logging.INFO
    )
    logging.getLogger("faiss").setLevel(logging.WARNING)
    os.environ.update(THREAD_POOLS)
    with tempfile.TemporaryDirectory(prefix="nanorecsys-metrics-") as folder:
        # Workers exchange their metrics in files. prometheus_client looks for this on its import.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        from server.supervisor import Server

        Server(settings).run()


if __name__ == "__main__":
    make_command(serve)()
