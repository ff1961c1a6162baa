"""A chapter in the real JupyterLab: opened in a browser, run from its menu, its panel used."""

import inspect
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Browser, Locator, Page, TimeoutError, expect

from rlbook_utils.definitions import CHAPTERS

TOKEN = "a-token-for-this-test"
MINUTE = 60_000  # ms
NOTEBOOK = "ch01_evolution.ipynb"

# JavaScript, with the application that --expose-app-in-browser shows.
BOOK = "window.jupyterapp?.shell.currentWidget"
IDLE = f"{BOOK}.sessionContext.session?.kernel?.status === 'idle'"
CELLS = f"""Array.from({BOOK}.content.model.cells, cell => cell.toJSON())
    .filter(cell => cell.cell_type === 'code' && ''.concat(cell.source).trim())"""
FAILED = f"{CELLS}.some(cell => cell.outputs.some(output => output.output_type === 'error'))"


def toy() -> None:
    import time
    from dataclasses import dataclass

    from rlbook_utils.config import knob
    from rlbook_utils.run import Progress
    from rlbook_utils.widgets import panel

    @dataclass(frozen=True)
    class Config:
        generations: int = knob(600, 10, 900, "how long to train")
        rate: float = knob(0.5, 0.0, 1.0, "how fast it learns")

    def train(config, seed, state=None):
        value = 0.0
        for generation in range(1, config.generations + 1):
            time.sleep(0.1)
            value += config.rate
            progress = Progress(
                generation,
                config.generations,
                {"fitness": value},
                lambda: {"done": True},
                "generation",
            )
            yield progress

    panel(train, Config())


@pytest.fixture(scope="module", params=["toy", "chapter"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """JupyterLab's address, serving a copy of the chapters, or a toy chapter in their place, at the smoke budget."""
    root = tmp_path_factory.mktemp(request.param)
    chapters = root / "chapters"
    if request.param == "chapter":
        if not (CHAPTERS / NOTEBOOK).exists():
            pytest.skip(f"chapters/{NOTEBOOK} has not been executed yet.")
        shutil.copytree(CHAPTERS, chapters)
    else:
        chapters.mkdir()
        cells = [
            nbformat.v4.new_markdown_cell(f"# Prose {i}\n\n" + "One more line.\n\n" * 20)
            for i in range(3)
        ]
        cells.append(
            nbformat.v4.new_code_cell(inspect.cleandoc(inspect.getsource(toy).partition("\n")[2]))
        )
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(
            nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}),
            chapters / NOTEBOOK,
        )
    yield from serve(root)


def serve(root: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folders = {f"JUPYTER{name}": str(root / name.strip("_").lower()) for name in
               ("_CONFIG_DIR", "_RUNTIME_DIR", "LAB_SETTINGS_DIR", "LAB_WORKSPACES_DIR")}  # fmt: skip
    quiet = (
        Path(folders["JUPYTERLAB_SETTINGS_DIR"])
        / "@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    )
    quiet.parent.mkdir(parents=True)
    quiet.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser",
               f"--ServerApp.root_dir={root}", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
               f"--IdentityProvider.token={TOKEN}"]  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    with (root / "server.log").open("wb") as log:
        environment = {**os.environ, **folders, "RLBOOK_BUDGET": "smoke"}
        server = subprocess.Popen(
            command, cwd=root, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
        try:
            wait_for(address, server, root / "server.log")
            yield address
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()


def wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    for _ in range(240):
        try:
            urllib.request.urlopen(f"{address}/api/status?token={TOKEN}", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            assert server.poll() is None, f"JupyterLab ended at once:\n{log.read_text()[-2000:]}"
            time.sleep(0.25)
    pytest.fail(f"JupyterLab did not answer within a minute:\n{log.read_text()[-2000:]}")


@pytest.fixture
def page(browser: Browser, lab: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(f"{lab}/lab/tree/chapters/{NOTEBOOK}?token={TOKEN}")
    page.wait_for_function(f"() => {BOOK}?.context?.isReady && {IDLE}", timeout=2 * MINUTE)
    yield page
    context.close()


def test_reader_runs_a_chapter_and_trains_with_its_panel(
    page: Page, request: pytest.FixtureRequest
):
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    assert not any(cell["execution_count"] for cell in page.evaluate(CELLS))
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(
        f"() => {IDLE} && {CELLS}.every(cell => cell.execution_count) || {FAILED}",
        timeout=3 * MINUTE,
    )
    errors = [
        output
        for cell in page.evaluate(CELLS)
        for output in cell["outputs"]
        if output["output_type"] == "error"
    ]
    assert not errors, "\n".join(errors[0]["traceback"])

    panel = find_panel(page)
    status, picture = (
        panel.locator(".widget-html").last,
        panel.locator("xpath=..").locator("img").first,
    )
    expect(status).to_have_text("Ready.")
    before = picture.get_attribute("src")
    panel.get_by_role("button", name="Train").click()
    expect(status).to_contain_text(re.compile(r"generation \d+ of \d+"), timeout=MINUTE)
    page.wait_for_function("([image, before]) => image.src !== before && image.naturalWidth > 100",
                           arg=[picture.element_handle(), before], timeout=MINUTE)  # fmt: skip

    number, slider = panel.locator(".widget-readout").first, panel.get_by_role("slider").first
    shown = number.inner_text()
    at_end = slider.get_attribute("aria-valuenow") == slider.get_attribute("aria-valuemax")
    slider.press("ArrowLeft" if at_end else "ArrowRight")
    expect(number).not_to_have_text(shown, timeout=5000)

    toy = "[toy]" in request.node.name
    try:
        panel.get_by_role("button", name="Stop").click(timeout=MINUTE if toy else 2000)
    except TimeoutError:  # a chapter's smoke run may end before the click
        assert not toy
    over = "Stopped" if toy else "Stopped|Done"
    expect(status).to_contain_text(re.compile(over), timeout=MINUTE)
    expect(panel.get_by_role("button", name="Train")).to_be_enabled()


def find_panel(page: Page) -> Locator:
    """The first training panel. JupyterLab draws only the cells near the view, so each code cell is scrolled to in turn."""
    panel = page.locator(".rlbook-live").first
    sources = page.evaluate(
        f"Array.from({BOOK}.content.model.cells, cell => cell.sharedModel.source)"
    )
    for index, source in enumerate(sources):
        if "panel(" in source:
            page.evaluate(f"{BOOK}.content.scrollToItem({index}, 'start')")
            page.wait_for_timeout(1000)
        if panel.count():
            break
    expect(panel).to_be_visible(timeout=MINUTE)
    return panel
