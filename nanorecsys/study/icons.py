"""The icons of the pages: the theme's file without the two thousand that no page shows, nine tenths of a page's weight.

`python -m nanorecsys.study.icons` writes it anew from the installed theme, where Sphinx takes it in
place of the theme's own; do so when the theme's version changes or a page shows another icon.
"""

import re
from importlib import resources

from nanorecsys.study.layout import layout

FILE = "scripts/fontawesome.js"  # below _static, as the theme has it
SHOWN = {
    *(
        "angle-left",
        "angle-right",
        "angles-right",
        "arrow-up",
        "bars",
        "check",
        "chevron-down",
        "circle-half-stroke",
    ),
    *(
        "circle-info",
        "circle-xmark",
        "download",
        "expand",
        "file",
        "file-code",
        "file-pdf",
        "info",
        "link",
        "list",
    ),
    *("magnifying-glass", "moon", "print", "sun", "triangle-exclamation", "xmark"),
}
LICENCE = (
    "/*! Font Awesome Free 6.5.2, the icons of these pages alone - https://fontawesome.com/license/free "
    "(Icons: CC BY 4.0, Code: MIT License) - Copyright 2024 Fonticons, Inc. */"
)
_ICON = re.compile(
    r'"?(?P<name>[\w-]+)"?:\[\d+,\d+,\[[^\]]*\],"[0-9a-f]+",(?:"[^"]*"|\[[^\]]*\])\],?'
)
_PACKS = re.compile(r'd\("(?P<pack>fa[bsr])",p\)')  # ends the definitions of a pack


def slim(script: str) -> str:
    """FontAwesome's SVG script with the solid icons of `SHOWN` alone.

    Args:
        script: the theme's, all packs of it; brands come first, then regular, then solid.
    """
    parts, begin = [], 0
    for end in _PACKS.finditer(script):
        kept = SHOWN if end["pack"] == "fas" else set()
        part = _ICON.sub(
            lambda m, kept=kept: m[0] if m["name"] in kept else "", script[begin : end.start()]
        )
        parts.append(part)
        begin = end.start()
    kept = re.sub(r"//# sourceMappingURL=.*", "", "".join(parts) + script[begin:])
    return f"{LICENCE}\n{kept.split(chr(10), 1)[1].strip()}\n"


def theme_script() -> str:
    """The script of the installed theme."""
    static = resources.files("pydata_sphinx_theme") / "theme" / "pydata_sphinx_theme" / "static"
    return (static / FILE).read_text()


if __name__ == "__main__":
    target = layout().root / "book" / "_static" / FILE
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(slim(theme_script()))
