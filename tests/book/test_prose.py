"""No number that the study measures is typed in prose; other numbers are listed with a reason.

Parsed are the Markdown cells of the notebooks, the sentences that their code shows, the
hand-written pages, README.md and CONTRIBUTING.md. A number that comes from no result and is not
listed fails: compute it, or, if it is a setting, a name or a figure that others published, list the
phrase with its reason.
"""

import ast
import re
from collections.abc import Iterator

import nbformat
import pytest

from nanorecsys.study.layout import layout

ROOT = layout().root

# Phrases that may hold a typed number, as regular expressions over the prose that is left, each
# with its reason.
ALLOWED = {
    r"(HitRate|NDCG|HR|[Rr]ecall)@\d+": "a metric by its cutoff",
    r"\b95 % (bootstrap )?intervals?\b|intervals over users, at 95 %": "the level of intervals",
    r"most popular 1 % of the items": "where the share is cut; the share itself is computed",
    r"MovieLens 20M": "the name of a data set",
    r"For orientation only.*?\.343/\.203": "what others published, with references",
    r"Which index at 27 thousand items": "the size in the chapter's title",
    r"which index at (27 thousand|3 million) items": "the sizes that the questions ask about",
    r"RFC 9457": "a standard's number",
    r"answer is 503|gets 503 with": "a status code of HTTP",
    r"median of the latest 15 batches": "a constant of the server",
    r"at most 250 rejections a second": "a constant of the server",
    r"latest 1,000 (events of each user|of them)": "a constant of the server",
    r"Limits\.\*\* is at most 100, a posted has at most 10,000 items": "limits of the server",
    r"a body 256 KiB": "a default of the server's settings",
    r"more than 1 % (are slower|late)": "the protocol's rules for a run",
    r"at least 100 requests .*? 10,000 for P99": "the protocol's rule for percentiles",
    r"PyTorch server had 16 cores": "what the original's document says",
    r"[Ss]ection \d(\.\d)?": "a section of the chapter or of the original's document",
    r"allows only 128\b": "a setting of aiohttp's worker",
    r"\(\d+ s by default": "a default of the server's settings",
    r"Python 3\.11": "the oldest version that the packages take",
    r"package index, and 2 cores": "what a run asks of the machine",
    r"at most (1\.25 times apart|0\.02 away)": "bounds of the comparison, tested by its own test",
    r"about 2\.6 GB|brings CUDA, 3 GB more": "the size of the installation",
}
# Directives whose content is prose; that of all others, and of code, is not.
_PROSE = ("glue:figure", "figure", "note", "warning", "tip", "admonition", "glossary")


def prose(markdown: str) -> str:
    """Markdown without code, maths, roles, link targets, options, heading and list numbers.

    An `:alt:` is prose.
    """
    text = re.sub(r"^(`{3,}|~{3,})([^\n]*)\n(.*?)^\1`*[ \t]*$", _block, markdown, flags=re.M | re.S)
    text = re.sub(r"^:(?!alt:)[\w-]+:.*$", "", text, flags=re.M)
    text = re.sub(r"\{[\w:.-]+\}`[^`]*`", "", text)
    text = re.sub(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)", "", text, flags=re.S)
    text = re.sub(r"\$[^$\n]+\$", "", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    text = re.sub(r"https?://\S+", "", text)
    text = re.sub(r"^(#+ |\s*)\d+\. ", r"\1", text, flags=re.M)
    return re.sub(r"\s+", " ", text)


def _block(found: re.Match[str]) -> str:
    directive = re.match(r"\{([\w:-]+)\}", found[2])
    return found[3] if directive and directive[1] in _PROSE else ""


def typed(markdown: str) -> Iterator[str]:
    """Every number of the prose that no listed phrase covers, with the words around it.

    A number that is part of a word (int8, P99, `04_ann`) is part of a name.
    """
    text = prose(markdown)
    covered = [m.span() for phrase in ALLOWED for m in re.finditer(phrase, text)]
    for found in re.finditer(r"(?<![A-Za-z\d])\.?\d+([.,]\d+)*", text):
        if not any(low <= found.start() and found.end() <= high for low, high in covered):
            yield text[max(0, found.start() - 40) : found.end() + 30]


def sentences(code: str) -> str:
    """The texts of a cell that shows Markdown; a value that the code computes is left out."""
    if "Markdown(" not in code:
        return ""
    tree = ast.parse(code)
    formats = [n.format_spec for n in ast.walk(tree) if isinstance(n, ast.FormattedValue)]
    left_out = {id(n) for spec in formats if spec for n in ast.walk(spec)}
    texts = (
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if id(node) not in left_out
    )
    return "\n\n".join(text for text in texts if " " in text)


def sources() -> dict[str, str]:
    """All prose: Markdown cells and pages, by name."""
    found = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
            text = cell.source if cell.cell_type == "markdown" else sentences(cell.source)
            if text:
                found[f"{path.stem}, cell {number}"] = text
    for path in (
        # the protocol sets bounds before any run, so its numbers are no results
        *sorted(p for p in (ROOT / "book").glob("*.md") if p.stem != "protocol"),
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
    ):
        found[path.name] = path.read_text()
    return found


SOURCES = sources()


@pytest.mark.parametrize("name", SOURCES)
def test_no_number_is_typed_that_the_study_measures(name):
    assert list(typed(SOURCES[name])) == []


def test_every_listed_phrase_is_still_needed():
    everything = [prose(text) for text in SOURCES.values()]
    assert [
        phrase for phrase in ALLOWED if not any(re.search(phrase, text) for text in everything)
    ] == []


@pytest.mark.parametrize(
    "text",
    [
        "An encode takes 37 ms.",
        "It is 3.5x as fast, with recall@10 of .95.",
        "A table: | rate | 1,000 |",
        "```{glue:figure} knee\n:alt: The knee at 900 requests.\n\nA caption.\n```",
        "```{glue:figure} knee\n:name: k\n\nThe knee is at 900 requests.\n```",
        "```{note}\nIt takes 37 ms.\n```",
        "{glue:text}`p50:.1f` ms, not 37 ms.",
        "## 3. It takes 37 ms",
        "95 % intervals, and 37 % of the users",
    ],
)
def test_a_typed_number_fails(text):
    assert len(list(typed(f"Before.\n\n{text}\n\nAfter."))) >= 1


@pytest.mark.parametrize("name", SOURCES)
def test_a_number_typed_into_any_source_fails(name):
    assert [t for t in typed(SOURCES[name] + "\n\nA request takes 37 ms.") if "takes 37 ms" in t]


@pytest.mark.parametrize(
    "text",
    [
        "{glue:text}`p50:.1f` ms at {glue:text}`results/06_loadtest.ipynb::rate_99:,.0f`",
        "`-p n_items=50000`, ``nprobe=16`` and $2^{10}$",
        "```bash\nmake study 37\n```",
        "```python\nx = 37\n```",
        "```{glue} table_37\n:doc: results/07_summary.ipynb\n```",
        "[a page](https://example.org/37) and https://example.org/37",
        "## 3. The ladder\n\n1. First.\n2. Second.",
        "int8, P99, IVF256 and {cite}`ji2023leakage`",
        "HitRate@10 with its 95 % interval.",
    ],
)
def test_what_is_no_prose_or_listed_passes(text):
    assert list(typed(f"Before.\n\n{text}\n\nAfter.")) == []


def test_a_number_typed_into_a_sentence_of_a_cell_fails():
    cell = 'display(Markdown(f"An encode takes {ms:.2f} ms, and not 37 ms."))'
    assert [text for text in typed(sentences(cell)) if "37" in text]
    assert list(typed(sentences(cell.replace("37", "{other}")))) == []
