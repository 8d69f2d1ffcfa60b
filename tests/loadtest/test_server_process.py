"""A server that is started, measured and stopped. 8 s."""

import shutil
import signal
import subprocess
import sys

import psutil
import pytest

from nanorecsys.loadtest import server_process
from nanorecsys.loadtest.errors import LoadTestError
from nanorecsys.loadtest.server_process import ServerProcess

pytestmark = pytest.mark.timed

# Answers /readyz on the port after --port.
SERVES = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def command(before: str = "", serves: str = SERVES) -> list[str]:
    return [sys.executable, "-c", f"{before}\n{serves}"]


@pytest.fixture
def log(tmp_path):
    return tmp_path / "deep" / "server.log"


def test_a_server_runs_until_the_block_ends(log):
    sleeps = "[sys.executable, '-c', 'import time; time.sleep(60)']"
    child = f"import subprocess, sys; subprocess.Popen({sleeps})"
    with ServerProcess(["--some", 1], log, command=command(child)) as server:
        assert server.ready()
        assert server.pids()[0] == server.process.pid
        assert server.rss_mib() > 5
        family = server.processes()
        assert len(family) == 2
    assert not psutil.wait_procs(family, timeout=5)[1]
    assert server.process.returncode == -signal.SIGTERM
    assert (server.processes(), server.rss_mib()) == ([], 0.0)


def test_arguments_and_signals_reach_it(log):
    told = "import sys; print(*sys.argv[1:3], flush=True)"
    with ServerProcess(["--workers", 2], log, command=command(told)) as server:
        assert server.printed().strip() == "--workers 2"
        server.signal(signal.SIGUSR1)
        assert server.process.wait(5) == -signal.SIGUSR1


def test_a_server_that_ends_at_once_shows_its_output(log):
    broken = command("import sys; sys.exit('no bundle there')", "")
    with (
        pytest.raises(LoadTestError, match=r"(?s)ended with status 1 .*no bundle there"),
        ServerProcess([], log, command=broken),
    ):
        pass


def test_a_server_that_is_not_ready_in_time_is_ended(log, monkeypatch):
    monkeypatch.setattr(server_process, "START_S", 0.3)
    server = ServerProcess([], log, command=command("import time; time.sleep(60)"))
    with pytest.raises(LoadTestError, match="was not ready after"), server:
        pass
    assert server.process.returncode is not None


def test_a_server_that_ignores_sigterm_is_killed(log, monkeypatch):
    monkeypatch.setattr(server_process, "STOP_S", 0.2)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    with ServerProcess([], log, command=command(deaf)) as server:
        assert server.stop() == -signal.SIGKILL


@pytest.mark.skipif(not shutil.which("setpriv"), reason="no setpriv, as outside Linux")
def test_a_server_ends_with_the_process_that_started_it(log):
    starter = (
        "import pathlib, time\n"
        "from nanorecsys.loadtest.server_process import ServerProcess\n"
        f"log = pathlib.Path({str(log)!r})\n"
        f"with ServerProcess([], log, command={command()!r}) as server:\n"
        "    print(server.process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True
    ) as process:
        server = psutil.Process(int(process.stdout.readline()))
        process.kill()
        assert server in psutil.wait_procs([server], timeout=10)[0]
