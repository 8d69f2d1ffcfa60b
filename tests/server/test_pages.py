"""The try-it page and the documentation, in a real browser over a real server. 25 s."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from server import web as pages
from server.app import ROUTES
from server.openapi import document
from tests.server.films import HOSTILE, ITEM_IDS, TITLES, Running, build, serving

PATHS = ["/", "/docs", *(f"/static/{name}" for name in pages.STATIC)]

PATIENCE_MS = 30_000  # it ends with what is waited for; a loaded machine takes long
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder: Path = tmp_path_factory.mktemp("pages")
    with serving(build(folder), folder) as running:
        yield running


@dataclass
class Window:
    """A page of the browser, and what went wrong in it."""

    page: Page
    problems: list[str] = field(default_factory=list)

    def titles(self) -> list[str]:
        """Those recommended."""
        return self.page.locator("#items li > span:first-child").all_inner_texts()

    def picked(self) -> list[str]:
        """The films picked."""
        return self.page.locator("#picked li > span").all_inner_texts()

    def find(self, words: str) -> None:
        """Type words into the search box, and wait for what is found."""
        self.page.fill("#title", words)
        self.page.wait_for_selector("#found li")

    def answer(self, act: Callable[[], object]) -> dict[str, Any]:
        """The body of the next answer to a recommendation that `act` leads to."""
        with self.page.expect_response("**/recommend") as got:
            act()
        return got.value.json()


@pytest.fixture
def opened(browser: Browser, server: Running) -> Iterator[Callable[..., Window]]:
    """Opens a path of the server; at the end nothing may have gone wrong in the page."""
    contexts, windows = [], []

    def go(path: str, width: int = 1280, scheme: str = "light") -> Window:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        window = Window(context.new_page())
        windows.append(window)
        note, page = window.problems.append, window.page
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda m: note(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: note(str(e)))
        page.on(
            "request", lambda r: None if r.url.startswith((server.url, "data:")) else note(r.url)
        )
        page.goto(server.url + path)
        if path == "/docs":
            page.wait_for_selector(
                "#schema-Problem"
            )  # it is made from the document, this is its end
        return window

    yield go
    for context in contexts:
        context.close()
    assert [window.problems for window in windows] == [[] for _ in windows]


def fits(page: Page) -> bool:
    """Whether nothing sticks out of the window sideways."""
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


# What is served


def get(url: str, **headers: str) -> tuple[int, Any, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


@pytest.mark.parametrize("path", PATHS)
def test_pages_forbid_other_hosts_and_are_sent_once(server: Running, path: str) -> None:
    status, headers, content = get(server.url + path)
    assert status == 200
    assert content
    policy = dict(rule.split(" ", 1) for rule in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert {source for rule in policy.values() for source in rule.split()} == {
        "'none'",
        "'self'",
        "data:",
    }
    assert headers["X-Content-Type-Options"] == "nosniff"
    again, kept, nothing = get(server.url + path, **{"If-None-Match": headers["ETag"]})
    assert (again, nothing, kept["ETag"]) == (304, b"", headers["ETag"])
    assert get(server.url + path, **{"If-None-Match": '"other"'})[0] == 200


def test_the_document_served_is_the_document_made(server: Running) -> None:
    _, headers, content = get(f"{server.url}/openapi.json")
    assert headers["Content-Type"] == "application/json"
    assert json.loads(content) == document(ROUTES)


def test_nothing_else_is_served(server: Running) -> None:
    for path in (
        "/static/",
        "/static/index.html",
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/favicon.ico",
    ):
        status, headers, content = get(server.url + path)
        assert status == 404
        assert headers["Content-Type"] == "application/problem+json"
        assert json.loads(content)["detail"]


def test_pages_name_no_other_host() -> None:
    """Nor hold a script or a style, which their policy would stop."""
    assert {path.name for path in pages.FOLDER.iterdir()} == {
        "index.html",
        "docs.html",
        *pages.STATIC,
    }
    for path in pages.FOLDER.iterdir():
        text = path.read_text()
        assert "://" not in text.replace("http://www.w3.org/", ""), path
        assert "innerHTML" not in text, path
        for inline in ("<style", " style=", " onclick", "javascript:", "<script>"):
            assert inline not in text, (path, inline)


# In the browser


@pytest.mark.parametrize("path", ["/", "/docs"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_fits_and_can_be_read(
    opened: Callable[..., Window], path: str, width: int, scheme: str
) -> None:
    page = opened(path, width, scheme).page
    assert fits(page)
    assert len(page.locator("h1").all()) == 1
    nameless = """[...document.querySelectorAll('input, textarea, select, button')].filter(
        e => !e.labels?.length && !e.ariaLabel && !e.textContent.trim()).map(e => e.outerHTML)"""
    assert page.evaluate(nameless) == []
    # 4.5 to 1 is what text of this size needs to be read by all (WCAG 2.1, 1.4.3)
    assert page.evaluate(CONTRAST, ["body", "body"]) >= 4.5
    assert page.evaluate(CONTRAST, [".quiet", "body"]) >= 4.5
    assert page.evaluate(CONTRAST, ["a", "body"]) >= 4.5
    assert (
        page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(251, 250, 248)"
    ) is (scheme == "light")


CONTRAST = """([front, back]) => {
    const light = (colour) => {
        const [r, g, b] = colour.match(/[\\d.]+/g).map(v => v / 255).map(
            v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const of = (at, what) => light(getComputedStyle(document.querySelector(at))[what]);
    const [a, b] = [of(front, "color"), of(back, "backgroundColor")].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
}"""


@pytest.mark.parametrize(
    ("width", "scheme", "other"), [(1280, "light", "episode 5"), (390, "dark", "episode 7")]
)
def test_films_are_picked_by_keyboard_and_recommended(
    opened: Callable[..., Window], width: int, scheme: str, other: str
) -> None:
    window = opened("/", width, scheme)
    page = window.page
    window.find("TOY sto")
    box = page.get_by_role("combobox", name="Find a film by words of its title")
    assert box.get_attribute("aria-expanded") == "true"
    found = page.locator("#found li > span").all_inner_texts()
    assert found == ["Toy Story 2 (1999)", "Toy Story (1995)"]  # the most popular first
    page.keyboard.press("ArrowDown")
    marked = page.locator("#found li[aria-selected=true]")
    assert marked.get_attribute("id") == box.get_attribute("aria-activedescendant")
    window.answer(lambda: page.keyboard.press("Enter"))
    assert window.picked() == ["Toy Story (1995)"]
    assert page.input_value("#title") == ""

    window.find(other)
    answer = window.answer(lambda: page.keyboard.press("Enter"))
    expect(page.locator("#items li > span:first-child")).to_have_text(
        [item["title"] for item in answer["items"]]
    )
    assert len(window.titles()) == 10
    assert len(window.picked()) == 2
    assert set(window.picked()).isdisjoint(window.titles())
    assert page.inner_text("#source") == "model"

    stages = page.locator("#stages dt").all_inner_texts()
    assert stages == ["cache", "queue", "encode", "retrieve", "rank", "rest"]
    assert all(text.endswith(" ms") for text in page.locator("#stages dd").all_inner_texts())
    widths = page.eval_on_selector_all(
        "#bar span", "parts => parts.map(part => part.getBoundingClientRect().width)"
    )
    assert len(widths) == len(stages)
    assert sum(widths) > 0.9 * page.locator("#bar").bounding_box()["width"]
    assert "encode" in page.get_attribute("#bar", "aria-label")
    assert fits(page)


def test_films_are_removed(opened: Callable[..., Window]) -> None:
    window = opened("/")
    page = window.page
    for words in ("toy story 1995", "amelie", "toy story 2"):
        window.find(words)
        window.answer(lambda: page.locator("#found li").first.click())
    assert len(window.picked()) == 3
    window.answer(lambda: page.get_by_role("button", name=f"Remove {TITLES[2]}").click())
    assert window.picked() == [TITLES[0], TITLES[1]]
    page.focus("#title")
    window.answer(lambda: page.keyboard.press("Backspace"))
    assert window.picked() == [TITLES[0]]
    empty = window.answer(lambda: page.get_by_role("button", name="Remove all").click())
    assert window.picked() == []
    assert empty["source"] == "fallback"
    expect(page.locator("#source")).to_have_text("fallback")


def test_the_same_question_comes_from_the_cache(opened: Callable[..., Window]) -> None:
    window = opened("/")
    page = window.page
    window.find("toy story 2")
    window.answer(lambda: page.keyboard.press("Enter"))
    assert window.answer(lambda: page.click("#recommend"))["source"] == "cache"
    expect(page.locator("#source")).to_have_text("cache")
    assert page.locator("#stages dt").all_inner_texts() == ["cache", "rest"]


def test_options_are_sent(opened: Callable[..., Window]) -> None:
    window = opened("/")
    page = window.page
    page.uncheck("#at-once")
    window.find("toy story 1995")
    page.keyboard.press("Enter")
    page.wait_for_timeout(400)
    assert page.locator("#answer").is_hidden()  # it waits to be asked
    page.fill("#k", "20")
    page.uncheck("#exclude")
    answer = window.answer(lambda: page.keyboard.press("Enter") or page.click("#recommend"))
    assert len(answer["items"]) == 20
    assert ITEM_IDS[0] in {item["item_id"] for item in answer["items"]}
    page.wait_for_selector("#items li:nth-child(20)")
    page.get_by_role("button", name=f"Add {TITLES[1]} to the films seen").click()
    assert window.picked() == [TITLES[0], TITLES[1]]


def test_a_user_instead_of_films(opened: Callable[..., Window]) -> None:
    window = opened("/")
    page = window.page
    page.check("input[value=user]")
    answer = window.answer(lambda: page.fill("#user", "11"))
    expect(page.locator("#items li > span:first-child")).to_have_text(
        [item["title"] for item in answer["items"]]
    )


def test_titles_are_text(opened: Callable[..., Window]) -> None:
    window = opened("/")
    page = window.page
    window.find("sons")
    assert page.locator("#found li > span").all_inner_texts() == [HOSTILE]
    window.answer(lambda: page.keyboard.press("Enter"))
    page.fill("#k", "100")
    page.uncheck("#exclude")
    expect(page.locator("#items")).to_contain_text(HOSTILE)
    assert window.picked() == [HOSTILE]
    assert page.title() == "nanorecsys: try it"
    assert page.locator("main img").count() == 0
    assert fits(page)


FAILURES = [
    ("nobody", None, "The server answered 404: this bundle has no user 'nobody'."),
    ("", None, "A user id is missing."),
    (
        "11",
        (503, {"detail": "64 requests wait already"}),
        "The server answered 503: 64 requests wait already. Try again in 2 s.",
    ),
    ("11", (502, "<b>Bad</b>"), "The server answered 502: Bad Gateway."),
    ("11", "abort", "The server cannot be reached. It may be starting or stopped; try again."),
]


@pytest.mark.parametrize(
    ("user", "failure", "told"), FAILURES, ids=[str(f[1] or f[0]) for f in FAILURES]
)
def test_a_failure_is_told_and_got_over(
    opened: Callable[..., Window], user: str, failure: Any, told: str
) -> None:
    window = opened("/")
    page = window.page
    if failure == "abort":
        page.route("**/recommend", lambda route: route.abort())
    elif failure:
        status, body = failure
        content = body if isinstance(body, str) else json.dumps(body)
        headers = {"Retry-After": "2"} if status == 503 else {}
        page.route(
            "**/recommend",
            lambda route: route.fulfill(status=status, body=content, headers=headers),
        )
    page.uncheck("#at-once")
    page.check("input[value=user]")
    page.fill("#user", user)
    page.click("#recommend")
    page.get_by_role("alert").wait_for()
    assert page.inner_text("#problem") == told
    assert page.locator("#answer").is_hidden()
    window.problems[:] = [
        p for p in window.problems if not p.startswith("Failed to load resource")
    ]  # as it must
    page.unroute("**/recommend")
    page.fill("#user", "11")
    page.click("#recommend")
    page.wait_for_selector("#items li")
    assert page.locator("#problem").is_hidden()


def test_a_question_sent_while_typing_is_answered(opened: Callable[..., Window]) -> None:
    """The pause after the last key must not take back what the button sent."""
    window = opened("/")
    page = window.page
    page.uncheck("#at-once")
    page.check("input[value=user]")
    page.route("**/recommend", lambda route: (page.wait_for_timeout(400), route.continue_()))
    page.fill("#user", "11")
    page.evaluate("document.getElementById('recommend').click()")
    page.wait_for_selector("#items li")
    page.fill("#user", "22")
    expect(page.locator("#answer")).to_have_class("stale")  # it answers another question now


def test_how_many_is_checked(opened: Callable[..., Window]) -> None:
    page = opened("/").page
    for wrong in ("0", "101", "2.5", ""):
        page.fill("#k", wrong)
        page.click("#recommend")
        expect(page.get_by_role("alert")).to_contain_text("from 1 to 100")


def test_nothing_found_is_told(opened: Callable[..., Window]) -> None:
    page = opened("/").page
    page.fill("#title", "no such film")
    expect(page.locator("#none-found")).to_have_text("No film has all these words in its title.")
    assert page.get_attribute("#title", "aria-expanded") == "false"
    page.keyboard.press("Escape")
    assert page.inner_text("#none-found") == ""


def test_links_lead_to_pages(opened: Callable[..., Window], server: Running) -> None:
    for path in ("/", "/docs"):
        links = opened(path).page.eval_on_selector_all(
            "header a", "links => links.map(link => link.href)"
        )
        assert len(links) == 3
        for link in links:
            assert get(link)[0] == 200


# The documentation


def test_the_documentation_shows_the_document(opened: Callable[..., Window]) -> None:
    page = opened("/docs").page
    text = page.inner_text("main")
    for path, methods in document(ROUTES)["paths"].items():
        for operation in methods.values():
            card = page.locator(f"section#{operation['operationId']}")
            assert path in card.inner_text()
            assert operation["summary"] in card.inner_text()
            statuses = card.locator("dl.fields > div > dt > code").all_inner_texts()
            assert set(operation["responses"]) <= set(statuses)
    for name in document(ROUTES)["components"]["schemas"]:
        assert page.locator(f"[id=schema-{name}]").count() == 1
    assert "Exactly one of: user_id" in text
    assert "integer, 1 to 100; 10 by default" in text
    assert "[object" not in text
    assert "undefined" not in text
    dead = """[...document.querySelectorAll('a[href^="#"]')].filter(
        a => !document.querySelector(a.hash)).map(a => a.href)"""
    assert page.evaluate(dead) == []


def test_requests_are_sent_from_the_documentation(opened: Callable[..., Window]) -> None:
    window = opened("/docs", 390)
    page = window.page
    recommend = page.locator("section#recommend")
    recommend.get_by_text("Send a request").click()
    recommend.get_by_label("Body").fill('{"user_id": 11, "k": 2}')
    recommend.get_by_role("button", name="Send POST /recommend").click()
    recommend.get_by_role("status").get_by_text("200 OK after").wait_for()
    assert '"source": "' in recommend.get_by_role("status").inner_text()
    assert "Server-Timing: cache;dur=" in recommend.get_by_role("status").inner_text()
    search = page.locator("section#search_items")
    search.get_by_text("Send a request").click()
    search.get_by_label("q").fill("amélie")
    search.get_by_role("button").click()
    search.get_by_text('"Amélie (Fabuleux').wait_for()
    recommend.get_by_label("Body").fill("{")
    recommend.get_by_role("button", name="Send POST /recommend").click()
    recommend.get_by_text("400 Bad Request").wait_for()
    assert "Malformed JSON" in recommend.get_by_role("status").inner_text()
    window.problems.clear()  # Chromium logs the 400
    assert fits(page)


def test_the_document_missing_is_told(
    opened: Callable[..., Window], browser: Browser, server: Running
) -> None:
    page = browser.new_page()
    page.route("**/openapi.json", lambda route: route.abort())
    page.goto(f"{server.url}/docs")
    page.get_by_role("alert").get_by_text("cannot be read").wait_for()
    page.close()
