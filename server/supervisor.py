"""Workers under gunicorn: a dead one is replaced, SIGTERM drains, SIGHUP reloads the bundle.

Nothing here imports FAISS or ONNX Runtime: their threads would not survive the fork into workers.
"""

import logging
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click
from aiohttp import web
from aiohttp.worker import GunicornUVLoopWebWorker
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from prometheus_client import multiprocess

from nanorecsys.serving.errors import ServingError
from server.events import open_log
from server.settings import Settings, is_redis

if TYPE_CHECKING:
    from server.service import Service

log = logging.getLogger("server")
KILL_AFTER_S = 5.0  # grace beyond the time to drain, before gunicorn kills a worker
HEARTBEAT_S = 60  # gunicorn replaces a worker without a heartbeat for so long


class Worker(GunicornUVLoopWebWorker):
    """aiohttp's worker with the application of this server."""

    def load_wsgi(self) -> None:
        """Name what makes the application; gunicorn calls this."""
        self.wsgi = self._make_runner
        self.service: Service | None = None

    async def _make_runner(self) -> web.AppRunner:
        from server.app import SERVICE, create_app
        from server.web import Runner

        settings = self.app.settings
        app = create_app(settings)
        self.service = service = app[SERVICE]
        self.loop.add_signal_handler(signal.SIGHUP, lambda: self.loop.create_task(service.reload()))
        return Runner(
            app,
            auto_decompress=False,
            lingering_time=settings.read_timeout_s,
            access_log=None,  # it costs a fifth of the rate
            keepalive_timeout=settings.keepalive_s,
            # aiohttp waits for so long twice: for handlers, then for those that are left, whose
            # unread bodies it ends.
            shutdown_timeout=settings.drain_s / 2,
        )

    def run(self) -> None:
        """Serve. A worker that cannot start ends the server, unless it replaces one that could."""
        try:
            super().run()
        except Exception as error:  # gunicorn would end all workers for one that cannot start
            if isinstance(error, ServingError):
                print(f"error: {error}", file=sys.stderr, flush=True)
            else:
                log.exception("a worker ends")
            if self.age <= self.cfg.workers and not self.booted:
                sys.exit(Arbiter.APP_LOAD_ERROR)
            # Those that fail one after the other would fill the folder, and its memory.
            for file in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob(f"*_{os.getpid()}.db"):
                file.unlink()
            time.sleep(1)  # gunicorn starts the next one at once
            sys.exit(1)

    def notify(self) -> None:
        """Send the heartbeat, each second. It also sets gunicorn's backlog, for aiohttp's 128.

        A connection beyond the backlog is dropped, and its client retries after a whole second:
        https://github.com/aio-libs/aiohttp/issues/5283.
        """
        super().notify()
        for listener in self.sockets:
            listener.listen(self.cfg.backlog)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain on SIGTERM: /readyz fails, requests are still served, then the listener closes."""
        lame_duck_s = 0.0
        if self.service is not None:
            self.service.draining = True
            lame_duck_s = self.service.settings.lame_duck_s
        self.loop.call_later(lame_duck_s, self.handle_quit, sig, frame)


class Supervisor(Arbiter):
    """gunicorn's arbiter, which passes SIGHUP on: each worker opens the new bundle."""

    def handle_hup(self) -> None:
        """Keep the workers. New ones would close connections, and a broken bundle would end all."""
        self.kill_workers(signal.SIGHUP)


class Server(BaseApplication):
    """gunicorn with this server's settings."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        super().__init__()

    def load_config(self) -> None:
        """Translate the settings; gunicorn calls this."""
        s = self.settings
        values = {
            "bind": f"[{s.host.strip('[]')}]:{s.port}" if ":" in s.host else f"{s.host}:{s.port}",
            "workers": s.workers,
            "worker_class": f"{Worker.__module__}.{Worker.__qualname__}",
            "graceful_timeout": int(s.lame_duck_s + s.drain_s + KILL_AFTER_S),
            "timeout": HEARTBEAT_S,
            # A worker touches a file here each second, on its event loop: no disk may hold it up.
            "worker_tmp_dir": os.environ.get("PROMETHEUS_MULTIPROC_DIR"),
            "control_socket_disable": True,
            "loglevel": "warning",
            "when_ready": _log_address,
            "child_exit": _forget_metrics,
        }
        for name, value in values.items():
            self.cfg.set(name, value)

    def run(self) -> None:
        """Serve until a signal ends it.

        Raises:
            click.BadParameter: There is no place for events.
        """
        try:
            if not is_redis(place := self.settings.events_place):
                open_log(Path(place)).close()  # before several workers would race to make it
        except ServingError as error:
            raise click.BadParameter(str(error), param_hint="--events") from error
        Supervisor(self).run()


def _log_address(arbiter: Arbiter) -> None:
    addresses = ", ".join(str(listener) for listener in arbiter.LISTENERS)
    log.info(
        "serving %s on %s as soon as /readyz answers 200", arbiter.app.settings.bundle, addresses
    )


def _forget_metrics(arbiter: Arbiter, worker: Worker) -> None:
    multiprocess.mark_process_dead(worker.pid)
