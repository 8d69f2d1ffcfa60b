"""A worker of a pool ends with the process that started it. 1 s."""

import subprocess
import sys

import psutil


def test_a_worker_ends_with_its_parent():
    script = (
        "import concurrent.futures, multiprocessing, os, time\n"
        "from nanorecsys.system.processes import watch_parent\n"
        "context = multiprocessing.get_context('spawn')\n"
        "pool = concurrent.futures.ProcessPoolExecutor(1, context, watch_parent)\n"
        "print(pool.submit(os.getpid).result(), flush=True)\n"
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        assert child in psutil.wait_procs([child], timeout=10)[0]
