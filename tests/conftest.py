"""What the tests share: a real browser."""

import shutil
from collections.abc import Iterator

import pytest
import torch
from playwright.sync_api import Browser, Error, sync_playwright

torch.set_num_threads(1)  # as in the book: its networks are small
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
             "--no-first-run")  # fmt: skip


# No longer than a module: an open playwright keeps an event loop running, which other tests' kernels trip over.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The machine's Chromium, or else its Chrome; without either, the test is skipped and says so."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(
                executable_path=path, channel=None if path else "chrome", args=ARGUMENTS
            )
        except Error as error:
            pytest.skip(
                f"This test needs Chromium or Chrome, and neither starts here: {error.message.splitlines()[0]}"
            )
        yield chromium
        chromium.close()
