"""The static book, built and then read in a real browser from ``file://``, as a reader on a train would."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
LOCAL = ("file:", "data:", "blob:", "about:")
VIEWS = 'script[type="application/vnd.jupyter.widget-view+json"]'
STACK = ".widget-box:not(.widget-hbox, .widget-vbox):has(> .widget-image)"  # it holds the one picture that is shown
SHOWN = "stack => [...stack.querySelectorAll('img')].filter(i => i.checkVisibility()).map(i => i.src).join()"


def contents(path):
    """What a chapter's stored outputs hold of each kind; its page has to show as much."""
    notebook = json.loads(path.read_text())
    data = [o.get("data", {}) for cell in notebook["cells"] for o in cell.get("outputs", [])]
    prose = "".join("".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "markdown")
    models = notebook["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    notes = [
        str(m["state"].get("value", "")) for m in models.values() if m["model_name"] == "HTMLModel"
    ]
    return {
        "equations": prose.count("$$") // 2,
        "widgets": sum("application/vnd.jupyter.widget-view+json" in d for d in data),
        "sliders": sum("rlbook-book-only" in note and "Pre-computed:" in note for note in notes),
        "videos": sum("".join(d.get("text/html", "")).count("<video") for d in data),
    }


EXPECTED = {path.stem: contents(path) for path in sorted((ROOT / "chapters").glob("*.ipynb"))}


@pytest.fixture(scope="session")
def book(tmp_path_factory):
    """The folder of the built book. The build treats every warning as an error."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed, and without it the book cannot carry its JavaScript.")
    folder = tmp_path_factory.mktemp("book") / "html"
    done = subprocess.run(
        [sys.executable, ROOT / "book" / "build.py", folder], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "npm" not in done.stderr, done.stderr
    return folder


class Visit:
    """A page of the book, open and settled, and all that went wrong on it."""

    def __init__(self, browser, path, *, theme="light", query=""):
        self.troubles = []
        self.page = browser.new_page(color_scheme=theme, viewport={"width": 1280, "height": 900})
        self.page.on(
            "request",
            lambda request: self._note(
                not request.url.startswith(LOCAL), f"asks for {request.url}"
            ),
        )
        self.page.on(
            "requestfailed", lambda request: self._note(True, f"does not find {request.url[:200]}")
        )
        self.page.on(
            "console",
            lambda message: self._note(message.type == "error", f"logs {message.text[:200]}"),
        )
        self.page.on("pageerror", lambda error: self._note(True, f"throws {error}"))
        self.page.goto(path.as_uri() + query, wait_until="load")
        self.page.wait_for_function("!window.MathJax || !!MathJax.typesetPromise")
        self.page.evaluate("window.MathJax && MathJax.startup.promise")
        drawn = "view => view.matches('.widget-subarea:has(*) + *')"
        self.page.wait_for_function(f"[...document.querySelectorAll('{VIEWS}')].every({drawn})")

    def _note(self, wrong, what):
        if wrong:
            self.troubles.append(what)

    def count(self, selector):
        return self.page.locator(selector).count()


@pytest.mark.parametrize("name", EXPECTED)
def test_every_chapter_has_something_of_each_kind(name):
    assert all(count >= 1 for count in EXPECTED[name].values()), EXPECTED[name]


@pytest.fixture(scope="module", params=EXPECTED)
def chapter(request, book, browser):
    visit = Visit(browser, book / "chapters" / f"{request.param}.html")
    visit.name, visit.expected = request.param, EXPECTED[request.param]
    yield visit
    visit.page.close()


def test_every_page_is_whole_and_needs_no_network(book, browser):
    pages = sorted(book.rglob("*.html"))
    pages = [path for path in pages if "_static" not in path.parts]
    assert {"index.html", "notation.html", "errata.html", "bibliography.html", "search.html"} <= {
        p.name for p in pages
    }
    wrong = {}
    for path in pages:
        visit = Visit(browser, path)
        visit.page.mouse.wheel(0, 20_000)
        broken = visit.page.evaluate(
            "[...document.images].filter(i => i.checkVisibility() && !i.naturalWidth).map(i => i.src.slice(0, 80))"
        )
        unset = visit.page.evaluate(
            "[...document.querySelectorAll('.math')].filter(m => !m.querySelector('mjx-container')).length"
        )
        faulty = visit.count("[data-mjx-error], mjx-merror")
        spilled = visit.page.evaluate(
            """[...document.querySelectorAll('article :is(p, li, dd, td, h1, h2, h3)')].map(e => {
                const copy = e.cloneNode(true);
                copy.querySelectorAll('code, pre, .math, mjx-container').forEach(c => c.remove());
                return copy.textContent;
            }).filter(text => text.includes('$')).map(text => text.trim().slice(0, 80))"""
        )
        visit.troubles += [f"spills mathematics into the text: {text}" for text in spilled]
        visit.troubles += [f"does not show {src}" for src in broken]
        visit.troubles += [
            f"leaves {n} equations {how}"
            for n, how in ((unset, "unset"), (faulty, "with an error"))
            if n
        ]
        if visit.troubles:
            wrong[str(path.relative_to(book))] = visit.troubles
        visit.page.close()
    assert not wrong, json.dumps(wrong, indent=1)


def test_pages_are_wide_enough_for_a_phone(book, browser):
    for name in ("index.html", *(f"chapters/{name}.html" for name in EXPECTED)):
        visit = Visit(browser, book / name)
        visit.page.set_viewport_size({"width": 390, "height": 800})
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390, (
            f"{name} scrolls sideways"
        )
        visit.page.close()


def test_equations_are_set(chapter):
    assert chapter.count(".math mjx-container svg") >= chapter.expected["equations"]


def test_each_widget_is_shown_instead_of_its_png(chapter):
    shown = chapter.count(f".widget-subarea:has(.jupyter-widgets) + {VIEWS}")
    assert chapter.count(VIEWS) == shown == chapter.expected["widgets"]


def _groups(chapter, *, with_play):
    """The pre-computed sliders, or the scrubbers: each a box with a stack of pictures."""
    groups = [
        group
        for group in chapter.page.locator(".widget-subarea").all()
        if group.locator(STACK).count()
    ]
    return [g for g in groups if bool(g.locator(".widget-play").count()) == with_play]


def _moves(chapter, group, act):
    """Whether the group's picture becomes another one, soon after ``act``."""
    stack = group.locator(STACK).first
    before = stack.evaluate(SHOWN)
    assert before and "," not in before, "a stack shows exactly one picture"
    act()
    for _ in range(40):
        if stack.evaluate(SHOWN) not in (before, ""):
            return True
        chapter.page.wait_for_timeout(50)
    return False


def _step(handle):
    """Move a slider by one place, back from its end."""
    at_end = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax")
    handle.press("ArrowLeft" if at_end else "ArrowRight")


def test_precomputed_sliders_move(chapter):
    groups = _groups(chapter, with_play=False)
    assert len(groups) == chapter.expected["sliders"]
    for group in groups:
        handle, readout = (
            group.locator(".noUi-handle").first,
            group.locator(".widget-readout").first,
        )
        first = readout.inner_text()
        assert _moves(chapter, group, lambda: _step(handle)), (
            f"the slider at {first!r} does not move its picture"
        )
        assert readout.inner_text() != first
        assert group.locator(".rlbook-book-only").first.is_visible(), (
            "the book says that the slider is pre-computed"
        )


def test_scrubber_steps_and_plays(chapter):
    groups = _groups(chapter, with_play=True)
    assert groups
    for group in groups:
        handle, play = (
            group.locator(".noUi-handle").first,
            group.locator(".widget-play button").first,
        )
        assert _moves(chapter, group, lambda: _step(handle)), "the slider does not move the picture"
        assert _moves(chapter, group, play.click), "the play button does not move the picture"
        play.click()
    assert not chapter.troubles, chapter.troubles


def test_videos_play(chapter):
    videos = chapter.page.locator("video").all()
    assert len(videos) == chapter.expected["videos"]
    for video in videos:
        handle = video.element_handle()
        video.scroll_into_view_if_needed()
        video.evaluate("v => { v.muted = true; v.play() }")
        chapter.page.wait_for_function(
            "v => v.error || (v.readyState >= 2 && v.currentTime > 0)", arg=handle
        )
        assert video.evaluate("v => v.error === null && v.duration > 0 && v.videoWidth > 0")
        video.evaluate("v => v.pause()")


def test_what_needs_a_kernel_is_hidden(chapter):
    live = chapter.page.locator(".rlbook-live").all()
    assert live
    assert not any(control.is_visible() for control in live)
    assert all(note.is_visible() for note in chapter.page.locator(".rlbook-book-only").all())


@pytest.mark.parametrize("name", EXPECTED)
def test_dark_pages_leave_figures_as_they_are(book, browser, name):
    visit = Visit(browser, book / "chapters" / f"{name}.html", theme="dark")
    assert visit.page.evaluate("document.documentElement.dataset.theme") == "dark"
    styles = visit.page.evaluate(
        """[...document.querySelectorAll('.cell_output :is(img, video, .jupyter-widgets), .text_html')].map(e => {
            const style = getComputedStyle(e);
            return style.backgroundColor + ' ' + style.filter;
        })"""
    )
    assert set(styles) == {"rgba(0, 0, 0, 0) none"}
    luminance = visit.page.evaluate(
        """[...document.querySelectorAll('.widget-label, .widget-readout')].filter(e => e.checkVisibility())
            .map(e => Math.max(...getComputedStyle(e).color.match(/\\d+/g).slice(0, 3).map(Number)))"""
    )
    assert luminance and min(luminance) > 150, "the widgets' text is legible on the dark page"
    visit.page.close()


def test_search_finds_the_chapter(book, browser):
    visit = Visit(browser, book / "search.html", query="?q=evolution")
    visit.page.wait_for_selector("#search-results li a")
    links = [a.get_attribute("href") for a in visit.page.locator("#search-results li a").all()]
    assert any("ch01_evolution" in link for link in links)
    assert not visit.troubles
    visit.page.close()


def test_front_page_evolves_and_shows_the_results(book, browser):
    visit = Visit(browser, book / "index.html")
    visit.page.click("#rlbook-demo [data-do=run]")
    visit.page.wait_for_function(
        "/Generation/.test(document.querySelector('#rlbook-demo output').textContent)"
    )
    stored = ROOT / "results" / "headlines.json"
    lines = (
        [line for line in json.loads(stored.read_text()) if line["metric"] != "shown"]
        if stored.exists()
        else []
    )
    assert visit.count("table tbody tr") == len(lines)
    assert visit.count('table tbody a[href^="chapters/"]') == len(lines)
    assert not visit.troubles
    visit.page.close()


def _build_script():
    spec = importlib.util.spec_from_file_location("book_build", ROOT / "book" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_npm_one_sentence_says_what_is_lost(tmp_path, monkeypatch, capsys):
    script = _build_script()
    monkeypatch.setattr(script, "JAVASCRIPT", tmp_path / "js")
    monkeypatch.setattr(script.shutil, "which", lambda name: None)
    assert script.fetch_javascript() is False
    assert capsys.readouterr().err.count("\n") == 1


def test_javascript_versions_are_exact():
    versions = json.loads((ROOT / "book" / "package.json").read_text())["dependencies"]
    assert set(versions) == set(_build_script().WANTED)
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in versions.values())
