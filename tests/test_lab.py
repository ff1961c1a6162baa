"""The real JupyterLab, as ``make lab`` starts it: a browser follows links, runs a chapter from its menu and uses its panel."""

import inspect
import os
import re
import runpy
import shlex
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

from rlbook_utils import notebooks
from rlbook_utils.definitions import CHAPTERS, ROOT

TOKEN = "a-token-for-this-test"
MINUTE = 60_000  # ms; waits allow for a machine that is busy with something else
NOTEBOOK = "ch01_evolution.ipynb"
LINKED = "ch02_distributional_dqn.ipynb"  # its first cell cites a book and links to another chapter
LINK = re.compile(r"\[(?P<text>[^\[\]]+)\]\((?P<path>[^()#:\s]*)(?:#(?P<key>\w+))?\)")

# JavaScript, with the application that --expose-app-in-browser shows.
BOOK = "window.jupyterapp?.shell.currentWidget"
IDLE = f"{BOOK}.sessionContext?.session?.kernel?.status === 'idle'"
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
        generations: int = knob(6000, 10, 9000, "how long to train")
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


@pytest.fixture(scope="module", params=["toy", "chapters"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """JupyterLab's address, serving a copy of the book, or a toy chapter in its place, at the smoke budget."""
    root = tmp_path_factory.mktemp(request.param)
    shutil.copytree(ROOT / "lab", root / "lab")
    chapters = root / "chapters"
    if request.param == "chapters":
        if not (CHAPTERS / NOTEBOOK).exists():
            pytest.skip(f"chapters/{NOTEBOOK} has not been executed yet.")
        shutil.copytree(CHAPTERS, chapters)
        shutil.copytree(ROOT / "book", root / "book", ignore=lambda *_: ["_build"])
        for path in chapters.glob("*.ipynb"):  # as if executed on another machine
            notebook = nbformat.read(path, as_version=4)
            notebook.metadata.language_info.version = "3.0.0"
            nbformat.write(notebook, path)
            shutil.copystat(
                CHAPTERS / path.name, path
            )  # the younger of a pair decides what is shown
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


def command_of_make_lab(arguments: str) -> list[str]:
    """What ``make lab`` would run, with this Python."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    said = subprocess.run(
        ["make", "-n", "lab", f"VENV={shlex.quote(sys.executable)}", f"LAB_ARGS={arguments}"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return ["env", *shlex.split(said.stdout.splitlines()[-1])]


def serve(root: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folders = {f"JUPYTER{name}": str(root / name.strip("_").lower()) for name in
               ("_CONFIG_DIR", "_DATA_DIR", "_RUNTIME_DIR", "LAB_SETTINGS_DIR", "LAB_WORKSPACES_DIR")}  # fmt: skip
    command = command_of_make_lab(
        f"--no-browser --allow-root --expose-app-in-browser --port={port} --ServerApp.port_retries=0 "
        f"--IdentityProvider.token={TOKEN}"
    )
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
    over = time.monotonic() + 180
    while time.monotonic() < over:
        try:
            urllib.request.urlopen(f"{address}/api/status?token={TOKEN}", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            assert server.poll() is None, f"JupyterLab ended at once:\n{log.read_text()[-2000:]}"
            time.sleep(0.25)
    pytest.fail(f"JupyterLab did not answer within three minutes:\n{log.read_text()[-2000:]}")


@pytest.fixture
def page(browser: Browser, lab: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(2 * MINUTE)
    yield context.new_page()
    context.close()


def wait_until_open(page: Page, name: str) -> None:
    """Wait until a chapter is the current tab, its kernel idle, and JupyterLab done with what it does at opening."""
    opened = f"{BOOK}?.context?.path === 'chapters/{name}' && {BOOK}.context.isReady && {IDLE}"
    dialog = page.locator(".jp-Dialog")
    page.wait_for_function(
        f"() => {opened} || document.querySelector('.jp-Dialog')", timeout=4 * MINUTE
    )
    assert not dialog.count(), dialog.inner_text()
    page.evaluate(
        f"async () => {{ const {{kernel}} = {BOOK}.sessionContext.session; await kernel.info; await kernel.spec; }}"
    )
    page.wait_for_timeout(1000)


def assert_unchanged(page: Page) -> None:
    assert page.evaluate(f"{BOOK}.context.model.dirty") is False
    assert page.locator(".jp-NotebookPanel").count() and not page.locator(".jp-mod-dirty").count()


@pytest.mark.slow
@pytest.mark.parametrize("lab", ["chapters"], indirect=True)
def test_reader_finds_a_chapter_a_reference_and_another_chapter(page: Page, lab: str):
    books = {
        path.name: nbformat.read(path, as_version=4) for path in sorted(CHAPTERS.glob("*.ipynb"))
    }
    titles = [book.cells[0].source.splitlines()[0].lstrip("# ") for book in books.values()]
    links = list(LINK.finditer(books[LINKED].cells[0].source))
    citation = next(link for link in links if link["path"] == "../book/bibliography.md")
    elsewhere = next(link for link in links if link["path"] in books)

    page.goto(f"{lab}/?token={TOKEN}")
    listed = page.locator(".jp-MarkdownViewer td a")
    expect(listed).to_have_text(titles, timeout=2 * MINUTE)
    listed.nth(list(books).index(LINKED)).click()
    wait_until_open(page, LINKED)
    assert_unchanged(page)

    page.locator(".jp-Notebook a", has_text=citation["text"]).first.click()
    reference = page.locator(
        ".jp-MarkdownViewer li", has=page.locator(f"[data-jupyter-id={citation['key']}]")
    )
    expect(reference).to_be_in_viewport(timeout=MINUTE)
    expect(reference).to_contain_text("Zai and Brown (2020). Alexander Zai and Brandon Brown. Deep")

    page.get_by_role("tab", name=LINKED).click()
    page.locator(".jp-Notebook a", has_text=elsewhere["text"]).first.click()
    wait_until_open(page, elsewhere["path"])
    assert_unchanged(page)

    expect(page.get_by_text("Jupyter news")).to_have_count(0)


PAGES = [*(ROOT / "book").glob("*.md"), CHAPTERS / "README.md", *CHAPTERS.glob("ch*.py")]


@pytest.mark.parametrize("path", sorted(PAGES), ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path):
    """Seen from the repository, as JupyterLab sees them; index.md is a page of the static book alone."""
    text = path.read_text(encoding="utf8")
    if path.suffix == ".py":
        cells = notebooks.read_script(path).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    bibliography = (ROOT / "book" / "bibliography.md").read_text(encoding="utf8")
    links = [link for link in LINK.finditer(text) if link["path"]]
    if path.name != "index.md":
        assert not [link[0] for link in links if not (path.parent / link["path"]).exists()]
    for link in links:
        if link["path"].endswith("bibliography.md") and link["key"]:
            assert f'<a id="{link["key"]}">' in bibliography, link[0]


def test_pages_of_the_lab_are_up_to_date():
    for path, text in runpy.run_path(str(ROOT / "lab" / "pages.py"))["made"]().items():
        assert path.read_text(encoding="utf8") == text, "run .venv/bin/python lab/pages.py"


@pytest.mark.slow
def test_reader_runs_a_chapter_and_trains_with_its_panel(
    page: Page, lab: str, request: pytest.FixtureRequest
):
    page.goto(f"{lab}/lab/tree/chapters/{NOTEBOOK}?token={TOKEN}")
    wait_until_open(page, NOTEBOOK)
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    assert not any(cell["execution_count"] for cell in page.evaluate(CELLS))
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(
        f"() => {IDLE} && {CELLS}.every(cell => cell.execution_count) || {FAILED}",
        timeout=10 * MINUTE,
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
    expect(status).to_have_text("Ready.", timeout=MINUTE)
    before = picture.get_attribute("src")
    panel.get_by_role("button", name="Train").click()
    expect(status).to_contain_text(re.compile(r"generation \d+ of \d+"), timeout=MINUTE)
    page.wait_for_function("([image, before]) => image.src !== before && image.naturalWidth > 100",
                           arg=[picture.element_handle(), before], timeout=MINUTE)  # fmt: skip

    number, slider = panel.locator(".widget-readout").first, panel.get_by_role("slider").first
    shown = number.inner_text()
    at_end = slider.get_attribute("aria-valuenow") == slider.get_attribute("aria-valuemax")
    slider.press("ArrowLeft" if at_end else "ArrowRight")
    expect(number).not_to_have_text(shown, timeout=MINUTE)

    toy = "[toy]" in request.node.name
    try:
        panel.get_by_role("button", name="Stop").click(timeout=MINUTE if toy else 2000)
    except TimeoutError:  # a chapter's smoke run may end before the click
        assert not toy
    over = "Stopped" if toy else "Stopped|Done"
    expect(status).to_contain_text(re.compile(over), timeout=MINUTE)
    expect(panel.get_by_role("button", name="Train")).to_be_enabled(timeout=MINUTE)


def find_panel(page: Page) -> Locator:
    """The first training panel. JupyterLab draws only the cells near the view, so its cell is scrolled to until it is drawn."""
    panel = page.locator(".rlbook-live").first
    sources = page.evaluate(
        f"Array.from({BOOK}.content.model.cells, cell => cell.sharedModel.source)"
    )
    index = next(i for i, source in enumerate(sources) if "panel(" in source)
    for _ in range(60):
        page.evaluate(f"{BOOK}.content.scrollToItem({index}, 'start')")
        page.wait_for_timeout(1000)
        if panel.count():
            break
    expect(panel).to_be_visible(timeout=MINUTE)
    return panel
