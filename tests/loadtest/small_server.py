"""Small servers on 127.0.0.1 with delays and failures that a test chooses."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

Answer = Callable[[web.Request, dict, int], Awaitable[web.Response]]


class SmallServer:
    """Serves POST /recommend in a thread until the block ends.

    Args:
        answer: Coroutine that takes the request, its JSON and its number from 0.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[dict] = []
        self.peers: list[int] = []  # client port of each request
        self.in_flight = self.most_in_flight = 0

    def __enter__(self) -> "SmallServer":
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)))
        self._thread.start()
        started.wait()
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application()
        app.router.add_post("/recommend", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        started.set()
        await self._stop.wait()
        await asyncio.sleep(0.05)  # accept the last connections, so that they are closed as well
        await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        number = len(self.requests)
        body = msgspec.json.decode(await request.read())
        self.requests.append(body)
        self.peers.append(request.transport.get_extra_info("peername")[1])
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self.answer(request, body, number)
        finally:
            self.in_flight -= 1


def fine(source: str = "model", status: int = 200, **headers: str) -> web.Response:
    """Make an answer like the server's."""
    body = msgspec.json.encode(
        {"items": [{"item_id": 1, "score": 0.5}], "source": source, "bundle": "0123456789ab"}
    )
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


def serial(service_s: float) -> Answer:
    """Answer one request at a time, each after `service_s` seconds."""
    lock = asyncio.Lock()

    async def answer(request: web.Request, body: dict, number: int) -> web.Response:
        async with lock:
            await asyncio.sleep(service_s)
        return fine()

    return answer


async def at_once(request: web.Request, body: dict, number: int) -> web.Response:
    """Answer without a delay."""
    return fine()
