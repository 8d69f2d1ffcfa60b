"""`python -m server`: read the settings and serve."""

import logging
import os
import shutil
import tempfile

import click

from server.settings import Settings, make_command

SHARED_MEMORY = "/dev/shm"
# FAISS and BLAS read these when they are first imported. The server's own threads are its
# parallelism: more threads in each search would spin while they wait for work.
THREAD_POOLS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def serve(settings: Settings) -> None:
    """Serve recommendations over HTTP from a bundle.

    The page at / tries the server, and /docs documents its interface.

    \b
    Examples:
      python -m server --bundle data/runs/quick/bundle
      python -m server --workers 4 --cache redis://127.0.0.1:6379/0
      NANORECSYS_PORT=9000 python -m server --host 0.0.0.0

    Every setting can also come from the environment: NANORECSYS_MAX_QUEUE=32 for --max-queue 32.
    The command line wins.

    After SIGTERM /readyz fails, and the server takes requests for --lame-duck-s more. Then it ends
    when those are answered, at the latest after --drain-s. After SIGHUP every worker opens the
    bundle again. No request fails for the reload itself. It takes processor time, so a server that
    is almost full rejects some. If the new bundle is broken, the old one stays.
    """
    logging.basicConfig(
        format="%(asctime)s %(process)d %(levelname)s %(message)s", level=logging.INFO
    )
    logging.getLogger("faiss").setLevel(logging.WARNING)
    os.environ.update(THREAD_POOLS)
    # Workers exchange their metrics in mapped files. On a full disk the system would end a worker
    # that maps one (SIGBUS). prometheus_client looks for the folder on its import.
    memory = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
    try:
        folder = tempfile.mkdtemp(prefix="nanorecsys-metrics-", dir=memory)
    except OSError as error:
        raise click.ClickException(f"expected a folder for metrics, TMPDIR: {error}") from error
    os.environ["PROMETHEUS_MULTIPROC_DIR"], supervisor = folder, os.getpid()
    try:
        from server.supervisor import Server

        Server(settings).run()
    finally:
        if os.getpid() == supervisor:  # a worker that cannot start comes by here as well
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    make_command(serve)()
