"""A full service rejects whole requests before they are handled, and no others. 1 s."""

import asyncio
from types import SimpleNamespace

import pytest
from aiohttp import web

from server.admission import REJECTION, Runner

BODY = b'{"user_id": 5}'


def post(body: bytes = BODY, path: str = "/recommend", fields: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{fields}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def exchange(parts: list[bytes], *, full: bool = True, draining: bool = False) -> bytes:
    """Send the parts of one connection one by one, return all that comes back."""

    async def handle(request: web.Request) -> web.Response:
        return web.Response(text=f"handled {len(await request.read())}")

    async def main() -> bytes:
        app = web.Application()
        for path in ("/recommend", "/events"):
            app.router.add_post(path, handle)
        batcher = SimpleNamespace(is_full=lambda: full)
        service = SimpleNamespace(batcher=batcher, draining=draining)
        runner = Runner(app, service=service, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        reader, writer = await asyncio.open_connection(*runner.addresses[0])
        came = b""
        try:
            for part in parts:
                writer.write(part)
                await asyncio.sleep(0.05)
            writer.write_eof()
            came = await asyncio.wait_for(reader.read(), 10)
        finally:
            writer.close()
            await runner.cleanup()
        return came

    return asyncio.run(main())


def test_a_whole_request_is_rejected_and_the_connection_goes_on():
    assert exchange([post(), post()]) == 2 * REJECTION
    assert REJECTION.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"\r\nRetry-After: 1\r\n" in REJECTION


@pytest.mark.parametrize(
    "parts",
    [
        [post()[:-5], post()[-5:]],
        [post(b'{"user_id": 5, "degrade": true}')],
        [post(fields="Connection: close\r\n")],
        [post(path="/events")],
    ],
    ids=["body in pieces", "degrade", "close", "another path"],
)
def test_other_requests_are_handled(parts):
    came = exchange(parts)
    assert came.count(b"HTTP/1.1 200") == came.count(b"handled") == 1
    assert b"503" not in came


def test_a_request_is_rejected_once_its_end_has_come():
    assert exchange([post()[:30], post()[30:]]) == REJECTION


def test_requests_at_once_are_handled_in_order():
    came = exchange([post(b"{}") + post(b"{ }")])
    assert came.count(b"HTTP/1.1 200") == 2
    assert came.index(b"handled 2") < came.index(b"handled 3")


def test_a_request_that_is_not_http_gets_400():
    assert b" 400 Bad Request\r\n" in exchange([b"nonsense\r\n\r\n"])


def test_where_there_is_room_or_the_worker_drains_requests_are_handled():
    assert b"handled" in exchange([post()], full=False)
    assert b"handled" in exchange([post()], draining=True)
