"""Problems of built pages: wrong numbers, dead links, requests to other hosts."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec
from bs4 import BeautifulSoup

from nanorecsys.study.claims import JudgedClaim
from nanorecsys.study.pages import figure


def check_html(html: Path, results: Path) -> list[str]:
    """Problems of the pages in a folder.

    Args:
        html: Folder of the built pages.
        results: Result files that they were built from.
    """
    paths = (path for path in sorted(html.rglob("*.html")) if "_static" not in path.parts)
    pages = {path: BeautifulSoup(path.read_text(), "html.parser") for path in paths}
    problems = list(_check_claims(pages[html / "book" / "claims.html"], results))
    anchors = {
        path: {str(tag["id"]) for tag in page.find_all(id=True)} for path, page in pages.items()
    }
    for path, page in pages.items():
        name = path.relative_to(html)
        problems += (f"{name}: {problem}" for problem in _check_links(path, page, anchors, html))
    return problems


def _check_claims(page: BeautifulSoup, results: Path) -> Iterator[str]:
    """The row of each claim, which has its id, must show the figures and verdict of claims.json."""
    content = (results / "07_summary" / "claims.json").read_bytes()
    for claim in msgspec.json.decode(content, type=list[JudgedClaim]):
        row = page.find("tr", id=claim.id)
        if row is None:
            yield f"claims.html: no row for {claim.id}"
            continue
        shown = [cell.get_text(" ", strip=True) for cell in row.find_all("td")]
        figures = [set(text.split("; ")) for text in shown]  # data sets may come in any order
        if claim.verdict not in shown or set(figure(claim).split("; ")) not in figures:
            wanted = f"{figure(claim)} ({claim.verdict})"
            yield f"claims.html: {claim.id} shows {shown}, claims.json has {wanted}"


def _check_links(
    path: Path, page: BeautifulSoup, anchors: dict[Path, set[str]], html: Path
) -> Iterator[str]:
    """Links that lead nowhere, and files that a reader without a network would lack."""
    for tag in page.find_all(["a", "img", "script", "link", "source", "iframe"]):
        target = str(tag.get("href" if tag.name in ("a", "link") else "src") or "")
        if not target or target.startswith(("mailto:", "data:", "javascript:")):
            continue
        url = urlsplit(target)
        if url.scheme or url.netloc:
            if tag.name != "a":
                yield f"asks another host for {target}"
            continue
        file = (path.parent / unquote(url.path)).resolve() if url.path else path
        file = file / "index.html" if file.is_dir() else file
        if not file.is_relative_to(html.resolve()) or not file.exists():
            yield f"dead link {target}"
        elif url.fragment and file in anchors and unquote(url.fragment) not in anchors[file]:
            yield f"dead anchor {target}"
