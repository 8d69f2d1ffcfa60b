"""`python -m server`: read the settings, and serve."""

import logging
import os
import sys
import tempfile

from nanorecsys.errors import NanorecsysError
from server.settings import parse


def main() -> int:
    """Serve until a signal ends it; the exit status."""
    logging.basicConfig(format="%(asctime)s %(process)d %(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("faiss").setLevel(logging.WARNING)
    try:
        settings = parse(sys.argv[1:])
        with tempfile.TemporaryDirectory(prefix="nanorecsys-metrics-") as folder:
            # the workers' metrics meet in files; prometheus_client looks for the folder when it is first imported
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
            from server.supervisor import Server

            Server(settings).run()
    except NanorecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
