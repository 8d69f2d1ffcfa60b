"""A worker of a pool ends with the process that started it. 1 s."""

from tests.orphans import child_ends


def test_a_worker_ends_with_its_parent():
    assert child_ends(
        "import concurrent.futures, multiprocessing, os, time\n"
        "from nanorecsys.system.processes import watch_parent\n"
        "context = multiprocessing.get_context('spawn')\n"
        "pool = concurrent.futures.ProcessPoolExecutor(1, context, watch_parent)\n"
        "print(pool.submit(os.getpid).result(), flush=True)\n"
        "time.sleep(60)"
    )
