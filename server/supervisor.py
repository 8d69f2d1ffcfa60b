"""Workers under gunicorn: one that dies is replaced, SIGTERM drains, SIGHUP takes up a new bundle in place.

Nothing here imports FAISS or ONNX Runtime: their threads would not survive the fork into workers.
"""

import asyncio
import ctypes
import logging
import signal
import socket
import struct
import sys
import time
from types import FrameType

from aiohttp import web
from aiohttp.worker import GunicornUVLoopWebWorker
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from prometheus_client import multiprocess

from nanorecsys.system.errors import NanorecsysError
from server.events import EventLog
from server.settings import Settings

log = logging.getLogger("server")
CLOSE_AFTER_S = (
    0.5  # how long workers still take up connections that were made before the end was known
)
KILL_AFTER_S = 5.0  # what gunicorn grants a worker beyond the time that it takes to drain
SO_ATTACH_FILTER, SYN = 26, 0x02  # of asm-generic/socket.h and of the TCP header
HEARTBEAT_S = 60  # a worker without a sign of life for so long is replaced


class Worker(GunicornUVLoopWebWorker):
    """aiohttp's worker with our application, a drain that loses no request, and reloading."""

    def load_wsgi(self) -> None:
        """Where gunicorn looks for the application."""
        self.wsgi = self._runner
        self.service = None

    async def _runner(self) -> web.AppRunner:
        from server.app import SERVICE, create_app

        settings = self.app.settings
        app = create_app(settings)
        self.service = app[SERVICE]
        self.loop.add_signal_handler(
            signal.SIGHUP, lambda: self.loop.create_task(self.service.reload())
        )
        self.runner = web.AppRunner(
            app,
            access_log=None,  # it would cost a fifth of the rate
            keepalive_timeout=settings.keepalive_s,
            shutdown_timeout=settings.drain_s,
        )
        return self.runner

    def run(self) -> None:
        """Serve. A worker that cannot start ends the server, unless it replaces one that could."""
        try:
            super().run()
        except NanorecsysError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            if self.age <= self.cfg.workers:
                sys.exit(Arbiter.APP_LOAD_ERROR)
            time.sleep(1)  # gunicorn starts the next one at once
            sys.exit(1)

    def notify(self) -> None:
        """The sign of life, each second; with it as many connections may wait as gunicorn says, not aiohttp's 128.

        One more than may wait is dropped, and its client asks again after a whole second:
        https://github.com/aio-libs/aiohttp/issues/5283.
        """
        super().notify()
        if not self.service.draining:
            for listener in self.sockets:
                listener.listen(self.cfg.backlog)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Accept no new connection, let clients leave those that they have, then end as aiohttp does.

        A connection that is closed just when its client uses it again would cost that client a
        request. So for a while every answer says that it is the connection's last.
        """
        if self.service is None:
            self._end()
        elif not self.service.draining:
            self.service.draining = True
            self.draining = self.loop.create_task(self._drain())

    async def _drain(self) -> None:
        for site in list(self.runner.sites):
            await site.stop()
        for listener in self.sockets:
            listener.close()
        await asyncio.sleep(self.service.settings.lame_duck_s)
        self._end()

    def _end(self) -> None:
        self.alive = False
        self._notify_waiter_done()


class Supervisor(Arbiter):
    """gunicorn's, but a SIGHUP replaces no worker: each takes up the new bundle by itself."""

    def handle_hup(self) -> None:
        """Pass the signal on. Replacing workers would close connections, and a broken bundle would end them all."""
        self.kill_workers(signal.SIGHUP)

    def stop(self, graceful: bool = True) -> None:
        """End the workers. Before that no connection is made any more, and those that wait are taken up.

        Closing the sockets alone would reset connections that are made and that no worker has
        accepted yet.
        """
        if (
            graceful and self.LISTENERS
        ):  # gunicorn ends them once more, after SIGQUIT too: none is left then
            for listener in self.LISTENERS:
                _refuse_connections(listener.sock)
            time.sleep(CLOSE_AFTER_S)
        super().stop(graceful)


class Server(BaseApplication):
    """gunicorn configured from our settings."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        super().__init__()

    def load_config(self) -> None:
        """What gunicorn asks for."""
        s = self.settings
        values = {
            "bind": f"{s.host}:{s.port}",
            "workers": s.workers,
            "worker_class": f"{Worker.__module__}.{Worker.__qualname__}",
            "graceful_timeout": int(s.lame_duck_s + s.drain_s + KILL_AFTER_S),
            "timeout": HEARTBEAT_S,
            "control_socket_disable": True,
            "loglevel": "warning",
            "when_ready": _listening,
            "child_exit": _forget_metrics,
        }
        for name, value in values.items():
            self.cfg.set(name, value)

    def run(self) -> None:
        """Serve until a signal ends it.

        Raises:
            SettingsError: there is no place for events.
        """
        EventLog(self.settings.events_path).close()  # made once, before workers would race for it
        Supervisor(self).run()


def _refuse_connections(listener: socket.socket) -> None:
    """Drop segments that ask for a connection: a filter of classic BPF, as in Linux's socket(7) and filter.txt.

    Whoever asks is not told, asks again a second later, and finds the socket closed or another
    server there.
    """
    load_flags, if_set, give = (
        0x30,
        0x45,
        0x06,
    )  # BPF_LD+BPF_B+BPF_ABS, BPF_JMP+BPF_JSET+BPF_K, BPF_RET+BPF_K
    program = [
        (load_flags, 0, 0, 13),
        (if_set, 0, 1, SYN),
        (give, 0, 0, 0),
        (give, 0, 0, 0xFFFFFFFF),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    listener.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(code))
    )


def _listening(arbiter: Arbiter) -> None:
    settings = arbiter.app.settings
    log.info(
        "serving %s on %s, engine %s, %d worker%s; /readyz says when it can answer",
        settings.bundle,
        ", ".join(str(listener) for listener in arbiter.LISTENERS),
        settings.engine,
        settings.workers,
        "s" * (settings.workers > 1),
    )


def _forget_metrics(arbiter: Arbiter, worker: Worker) -> None:
    multiprocess.mark_process_dead(worker.pid)
