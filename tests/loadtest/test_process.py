"""Processes that are measured, and a server that is started and stopped."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from nanorecsys.loadtest.errors import ServerStartError
from nanorecsys.loadtest.process import ServerProcess, free_port, memory_mib, tree, tree_cpu_s

pytestmark = pytest.mark.timed

# Answers /readyz on the port after --port; what else it does is put before.
SERVES = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""
BURN = "import time\nwhile time.process_time() < 0.4: pass"


def command(before: str = "", serves: str = SERVES) -> list[str]:
    return [sys.executable, "-c", before + serves]


def test_a_server_runs_until_the_block_ends(tmp_path: Path) -> None:
    child = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    with ServerProcess(
        ["--some", 1], command=command(child), log=tmp_path / "server.log"
    ) as server:
        assert server.ready()
        assert server.url == f"http://127.0.0.1:{server.port}"
        assert server.pids()[0] == server.pid
        assert len(server.workers()) == 1
        assert server.rss_mib() > 5
        family = tree([server.pid])
        assert len(family) == 2
    assert not psutil.wait_procs(family, timeout=5)[1]
    assert server.process.returncode == -signal.SIGTERM


def test_environment_and_arguments_reach_it(tmp_path: Path) -> None:
    told = "import os, sys; print(os.environ['MORE'], *sys.argv[1:3], flush=True)"
    log = tmp_path / "deep" / "server.log"
    with ServerProcess(["--workers", 2], {"MORE": "yes"}, command=command(told), log=log) as server:
        assert server.printed().strip() == "yes --workers 2"
        server.signal(signal.SIGUSR1)
        assert server.process.wait(5) == -signal.SIGUSR1


def test_one_that_ends_at_once_shows_what_it_printed() -> None:
    broken = command("import sys; sys.exit('no bundle there')", "")
    with (
        pytest.raises(ServerStartError, match="status 1: no bundle there"),
        ServerProcess([], command=broken),
    ):
        pass


def test_one_that_is_not_ready_in_time_is_ended() -> None:
    server = ServerProcess([], command=command("import time; time.sleep(60)"), start_s=0.3)
    with pytest.raises(ServerStartError, match="not ready in"), server:
        pass
    assert server.process.returncode is not None
    assert not server.log.exists()


def test_one_that_ignores_sigterm_is_killed() -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    with ServerProcess([], command=command(deaf)) as server:
        assert server.stop(within_s=0.2) == -signal.SIGKILL


@pytest.mark.skipif(not shutil.which("setpriv"), reason="no setpriv, as outside Linux")
def test_a_server_ends_with_the_process_that_started_it() -> None:
    starter = (
        "import time\n"
        "from nanorecsys.loadtest.process import ServerProcess\n"
        f"with ServerProcess([], command={command('')!r}) as server:\n"
        "    print(server.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True
    ) as process:
        server = psutil.Process(int(process.stdout.readline()))
        process.kill()
        assert server in psutil.wait_procs([server], timeout=10)[0]


def test_cpu_of_children_counts_while_they_live_and_after() -> None:
    parent = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {BURN + chr(10) + 'input()'!r}], stdin=subprocess.PIPE)\n"
        "print('started', flush=True); input()\n"
        "child.communicate(b'\\n'); print('waited', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=-1, stdout=-1, text=True, bufsize=1
    ) as process:
        try:
            process.stdout.readline()
            deadline = time.monotonic() + 20
            while (alive := tree_cpu_s([process.pid])) < 0.35 and time.monotonic() < deadline:
                time.sleep(0.02)
            assert alive >= 0.35
            process.stdin.write("\n")
            process.stdout.readline()
            assert len(tree([process.pid])) == 1
            assert tree_cpu_s([process.pid]) >= alive
        finally:
            process.kill()


def test_processes_that_are_gone_count_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert (tree_cpu_s([process.pid]), memory_mib([process.pid]), tree([process.pid])) == (
        0.0,
        0.0,
        [],
    )


def test_a_process_named_twice_counts_once() -> None:
    me = psutil.Process()
    assert len(tree([me.pid, me.pid])) == 1 + len(me.children(recursive=True))


def test_a_port_is_free() -> None:
    assert 1024 < free_port() < 65536
