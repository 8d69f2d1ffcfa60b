"""The interface over real sockets: answers, caching, events and bad requests. 10 s."""

import json
import socket
import struct
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, urlsplit

import numpy as np
import pytest

from nanorecsys.serving.bundle import open_bundle
from tests.server.conftest import N_ITEMS, WINDOW, Small
from tests.server.films import Running, serving
from tests.server.test_engine import directly

pytestmark = pytest.mark.timed


@pytest.fixture(scope="module")
def server(small, tmp_path_factory):
    """A server of one worker; its log has no traceback in the end."""
    folder = tmp_path_factory.mktemp("served")
    arguments = [
        "--events",
        str(folder / "events.sqlite"),
        "--read-timeout-s",
        "0.5",
        "--max-body",
        "20000",
    ]
    with serving(small.bundle, folder, *arguments) as running:
        yield running
    assert "Traceback" not in running.log.read_text()


def call(
    server: Running,
    path: str,
    body: object = None,
    content_type: str = "application/json",
    method: str = "",
):
    """Send a request; status, headers and JSON (or text) of the response."""
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        server.url + path,
        data,
        {"Content-Type": content_type} if data is not None else {},
        method=method or None,
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            status, headers, text = answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        status, headers, text = error.code, error.headers, error.read()
    return status, headers, json.loads(text) if "json" in headers["Content-Type"] else text.decode()


def recommend(server: Running, **asked):
    status, headers, answer = call(server, "/recommend", asked)
    assert status == 200, answer
    return headers, answer


def stages(headers) -> dict[str, float]:
    """Milliseconds by stage, and CPU time as `encode-cpu`."""
    found = {}
    for part in headers["Server-Timing"].split(", "):
        name, took, *cpu = part.split(";")
        found |= {name: float(took.removeprefix("dur="))}
        found |= {f"{name}-cpu": float(ms.removeprefix("cpu=")) for ms in cpu}
    return found


def metric(server: Running, name: str) -> float:
    lines = call(server, "/metrics")[2].splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@pytest.mark.parametrize("k", [1, 10, 100])
def test_answers_what_a_direct_computation_gives(small: Small, server, k):
    _, answer = recommend(server, user_id=1007, k=k)
    items, scores = directly(small, small.histories[7])
    assert [item["score"] for item in answer["items"]] == pytest.approx(
        scores[:k].tolist(), abs=1e-3
    )
    assert {item["item_id"] for item in answer["items"]} <= {5 + i for i in items}
    assert answer["items"][0]["title"] == f"Film {answer['items'][0]['item_id'] - 5} (1990)"


def test_a_history_and_the_user_who_has_it_get_the_same(small, server):
    history = [5 + int(i) for i in small.histories[8]]
    by_history = recommend(server, history=history, k=20)[1]["items"]
    assert by_history == recommend(server, user_id=1008, k=20)[1]["items"]


def test_the_second_answer_comes_from_the_cache_for_any_k(server):
    first_headers, first = recommend(server, user_id=1011)
    second_headers, second = recommend(server, user_id=1011, k=50, include_titles=False)
    assert (first["source"], second["source"]) == ("model", "cache")
    times = stages(first_headers)
    computing = ["encode", "encode-cpu", "retrieve", "retrieve-cpu", "rank", "rank-cpu"]
    assert list(times) == ["cache", "queue", *computing, "total"]
    assert list(stages(second_headers)) == ["cache", "total"]
    assert (
        sum(times[stage] for stage in ("cache", "queue", "encode", "retrieve", "rank"))
        <= times["total"]
    )
    assert [i["item_id"] for i in second["items"][:10]] == [i["item_id"] for i in first["items"]]
    assert "title" not in second["items"][0]
    assert int(second_headers["X-Worker"]) > 0


def test_without_a_ranker_the_retriever_answers(small, unranked, tmp_path):
    with serving(unranked, tmp_path) as server:
        bundle = open_bundle(unranked)
        recent = small.histories[7][None, -WINDOW:].astype(np.int64)
        user = bundle.encoder(recent + 1, np.array([recent.shape[1]]))[0]
        headers, answer = recommend(server, user_id=1007, k=20)
        products = bundle.item_vectors @ user
        products[small.histories[7]] = -np.inf
        assert [i["score"] for i in answer["items"]] == pytest.approx(np.sort(products)[:-21:-1])
        assert answer["source"] == "model"
        assert list(stages(headers)) == [
            *("cache", "queue", "encode", "encode-cpu", "retrieve", "retrieve-cpu", "total")
        ]
        again = recommend(server, user_id=1007, k=20)[1]
        assert (again["source"], again["items"]) == ("cache", answer["items"])
        assert recommend(server, user_id=1001)[1]["source"] == "fallback"
        shown = call(server, "/metrics")[2]
        assert 'stage="retrieve"' in shown
        assert 'stage="rank"' not in shown


def test_seen_items_can_be_included(small, server):
    seen = {5 + int(i) for i in small.histories[12]}
    fresh = {i["item_id"] for i in recommend(server, user_id=1012, k=100)[1]["items"]}
    everything = {
        i["item_id"] for i in recommend(server, user_id=1012, k=100, exclude_seen=False)[1]["items"]
    }
    assert not fresh & seen
    assert everything & seen


def test_an_event_changes_the_next_answer(small, server):
    before = recommend(server, user_id=1013, k=100)[1]
    assert recommend(server, user_id=1013)[1]["source"] == "cache"
    watched = before["items"][0]["item_id"]
    assert call(server, "/events", {"user_id": 1013, "item_id": watched})[::2] == (
        201,
        {"user_id": 1013, "events": 1},
    )
    after = recommend(server, user_id=1013, k=100)[1]
    assert after["source"] == "model"
    assert watched not in {i["item_id"] for i in after["items"]}
    history = [5 + int(i) for i in small.histories[13]] + [watched]
    assert after["items"] == recommend(server, history=history, k=100)[1]["items"]


def test_without_a_history_popular_items_are_the_answer(server):
    for asked in ({"user_id": 1001}, {"history": []}):
        answer = recommend(server, **asked)[1]
        assert answer["source"] == "fallback"
        scores = [i["score"] for i in answer["items"]]
        assert scores == sorted(scores, reverse=True)
    call(server, "/events", {"user_id": 1001, "item_id": 5})
    assert recommend(server, user_id=1001)[1]["source"] == "model"


def test_equal_requests_in_flight_are_computed_once(server):
    before = metric(server, "nanorecsys_batch_size_sum")
    history = list(range(5, 5 + N_ITEMS, 2))
    with ThreadPoolExecutor(16) as pool:
        answers = list(
            pool.map(lambda _: recommend(server, history=history)[1]["items"], range(16))
        )
    assert all(answer == answers[0] for answer in answers)
    assert metric(server, "nanorecsys_batch_size_sum") == before + 1


def test_items_are_found_by_title(server):
    found = call(server, f"/items/search?q={quote('film 29')}&limit=3")[2]["items"]
    assert len(found) == 3
    assert all(item["title"].startswith("Film 29") for item in found)
    assert found[0].keys() == {"item_id", "title", "year", "genres"}


def test_health_and_metrics(server):
    assert call(server, "/healthz")[0] == 200
    status, _, ready = call(server, "/readyz")
    assert (status, ready["status"], len(ready["bundle"])) == (200, "ready", 12)
    recommend(server, user_id=1020)
    text = call(server, "/metrics")[2]
    for name in (
        'requests_total{route="/recommend",status="200"}',
        'answers_total{source="model"}',
        'stage_seconds_bucket{le="0.0016",stage="encode"}',
        "queue_depth",
        "batch_size_count",
    ):
        assert f"nanorecsys_{name}" in text


JSON = "application/json"
HALF_A_REQUEST = (
    b"POST /recommend HTTP/1.1\r\nHost: x\r\n"
    b'Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"user'
)
BAD = {
    "malformed": ("/recommend", b'{"user_id": ', JSON, 400),
    "no unicode": ("/recommend", b'{"user_id": "\xff"}', JSON, 400),
    "empty": ("/recommend", b"", JSON, 400),
    "a list": ("/recommend", [1], JSON, 422),
    "neither": ("/recommend", {"k": 3}, JSON, 422),
    "both": ("/recommend", {"user_id": 1002, "history": [5]}, JSON, 422),
    "k 0": ("/recommend", {"user_id": 1002, "k": 0}, JSON, 422),
    "k 101": ("/recommend", {"user_id": 1002, "k": 101}, JSON, 422),
    "k text": ("/recommend", {"user_id": 1002, "k": "3"}, JSON, 422),
    "k true": ("/recommend", {"user_id": 1002, "k": True}, JSON, 422),
    "user null in a list": ("/recommend", {"history": [None]}, JSON, 422),
    "misspelt": ("/recommend", {"user_id": 1002, "kk": 3}, JSON, 422),
    "unknown user": ("/recommend", {"user_id": 7}, JSON, 404),
    "a huge number": ("/recommend", {"user_id": 10**40}, JSON, 404),
    "user as text": ("/recommend", {"user_id": "1002"}, JSON, 404),
    "unknown item": ("/recommend", {"history": [5, 1]}, JSON, 404),
    "long history": ("/recommend", {"history": [5] * 9000}, JSON, 413),
    "a form": ("/recommend", b"user_id=5", "application/x-www-form-urlencoded", 415),
    "event of nobody": ("/events", {"user_id": 7, "item_id": 5}, JSON, 404),
    "event of nothing": ("/events", {"user_id": 1002, "item_id": 1}, JSON, 404),
    "half an event": ("/events", {"user_id": 1002}, JSON, 422),
    "get": ("/recommend", None, JSON, 405),
    "nowhere": ("/recommendations", None, JSON, 404),
    "no words": ("/items/search?q=", None, JSON, 422),
    "too many words": (f"/items/search?q={'a' * 201}", None, JSON, 422),
    "a limit of 5,000 digits": (f"/items/search?q=a&limit={'9' * 5000}", None, JSON, 422),
    "k of 5,000 digits": ("/recommend", b'{"user_id": 1002, "k": %s}' % (b"9" * 5000), JSON, 422),
    "a user of 5,000 digits": ("/recommend", b'{"user_id": %s}' % (b"9" * 5000), JSON, 422),
    "half a character": ("/recommend", b'{"user_id": "\\ud800"}', JSON, 400),
    "a misspelt parameter": ("/items/search?q=a&limt=3", None, JSON, 422),
    "a bad limit": ("/items/search?q=a&limit=x", None, JSON, 422),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_a_problem_description(server, name):
    path, body, content_type, expected = BAD[name]
    status, headers, problem = call(server, path, body, content_type)
    assert status == expected
    assert headers["Content-Type"].startswith("application/problem+json")
    assert problem.keys() == {"type", "title", "status", "detail"}
    assert problem["status"] == expected
    assert len(problem["detail"]) > 10


def test_a_slow_client_gets_408_and_blocks_nobody(server):
    with socket.create_connection(
        (urlsplit(server.url).hostname, urlsplit(server.url).port)
    ) as slow:
        slow.sendall(HALF_A_REQUEST)
        start = time.monotonic()
        recommend(server, user_id=1021)
        assert time.monotonic() - start < 0.5
        slow.settimeout(5)
        assert slow.recv(100).startswith(b"HTTP/1.1 408")


def connect(server: Running) -> socket.socket:
    address = urlsplit(server.url)
    return socket.create_connection((address.hostname, address.port), 5)


@pytest.mark.parametrize("before", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"])
@pytest.mark.parametrize("begun", [b"GET /hea", b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: b"])
def test_slow_headers_end_the_connection(server, before, begun):
    """On a new connection, and on one that has had an answer."""
    with connect(server) as slow:
        if before:
            slow.sendall(before)
            assert slow.recv(9999).startswith(b"HTTP/1.1 200")
        slow.sendall(begun)
        assert slow.recv(100) == b""  # aiohttp alone holds it for --keepalive-s, 75 s


def test_headers_that_trickle_end_the_connection_too(server):
    with connect(server) as slow:
        slow.settimeout(0.1)
        for letter in b"GET /healthz HTTP/1.1\r\nX-A: " + b"b" * 60:
            try:
                slow.sendall(bytes([letter]))
                assert slow.recv(100) == b""
                return
            except TimeoutError:
                pass
            except ConnectionError:  # a letter sent as the server closed: answered by a reset
                return
    raise AssertionError("the connection is still open")


def test_an_idle_connection_and_a_slow_body_are_no_slow_headers(server):
    whole = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with connect(server) as idle:
        for _ in range(2):
            idle.sendall(whole[:9])
            time.sleep(0.1)
            idle.sendall(whole[9:])
            assert idle.recv(9999).startswith(b"HTTP/1.1 200")
            time.sleep(0.7)  # longer than --read-timeout-s


def test_a_body_that_nobody_reads_is_not_waited_for_longer(server):
    with connect(server) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
        assert slow.recv(9999).startswith(b"HTTP/1.1 200")
        assert slow.recv(9999) == b""  # aiohttp alone waits for 10 s


@pytest.mark.parametrize("coding", ["gzip", "br"])
def test_a_compressed_body_is_refused(server, coding):
    """Its decompression may fail in the middle, or need what is not installed."""
    request = urllib.request.Request(
        f"{server.url}/recommend",
        b'{"user_id": 1002}',
        {"Content-Type": JSON, "Content-Encoding": coding},
    )
    with pytest.raises(urllib.error.HTTPError, match="415"):
        urllib.request.urlopen(request)


def test_what_is_no_http_gets_400_and_no_traceback(server):
    """The fixture looks for tracebacks at the end."""
    for noise in (
        b"\x16\x03\x01\x02\x00\x01",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nA\r\n\r\n",
    ):
        with connect(server) as client:
            client.sendall(noise)
            answer = b"".join(iter(lambda: client.recv(1000), b""))
            assert answer.startswith(b"HTTP/1.0 400")
            assert b"Content-Type: text/plain" in answer


def test_clients_that_leave_during_a_request_leave_no_traceback(server):
    """The fixture looks for tracebacks at the end."""
    for _ in range(20):
        with socket.create_connection(
            (urlsplit(server.url).hostname, urlsplit(server.url).port)
        ) as client:
            client.sendall(HALF_A_REQUEST)
            time.sleep(0.01)
            client.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )  # closing resets
    recommend(server, user_id=1022)
    assert metric(server, 'nanorecsys_requests_total{route="/recommend",status="500"}') == 0


def test_it_listens_on_the_loopback_alone(server):
    port = urlsplit(server.url).port
    addresses = {a[4][0] for a in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in addresses - {"127.0.0.1"}:
        if not address.startswith("127."):
            with pytest.raises(OSError, match="refused"):
                socket.create_connection((address, port), timeout=1)
    with open("/proc/net/tcp") as table:
        listening = {
            line.split()[1] for line in table if f":{port:04X} " in line and " 0A " in line
        }
    assert listening == {f"0100007F:{port:04X}"}
