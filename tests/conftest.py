"""What tests of several folders share: a real browser, and patience on a shared machine."""

import shutil

import pytest
from hypothesis import settings

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium, ended with its module: while it runs, no other event loop can."""
    executable = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if executable is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    options = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
    ]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=executable, args=options)
        yield running
        running.close()
