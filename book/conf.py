"""Sphinx configuration of the static book; `book/build.py` runs it."""

import json
import re
from pathlib import Path

from rlbook_utils.plots import number

BOOK = Path(__file__).parent
HEADLINES = BOOK.parent / "results" / "headlines.json"
# First letter of a row -> the chapter that measures it.
CHAPTER_OF_ROW = {
    "C": "ch03_curiosity",
    "D": "ch02_distributional_dqn",
    "E": "ch01_evolution",
    "F": "ch00_foundations",
    "P": "ch06_policy_optimisation",
}

CITATION = re.compile(r"\[(?P<text>[^\[\]]+)\]\(\.\./book/bibliography\.md#(?P<key>\w+)\)")

project = "Deep Reinforcement Learning, Live"
extensions = ["myst_nb", "sphinx_design", "sphinxcontrib.bibtex"]
language = "en"

# Pages come from the stored outputs. A widget goes before the PNG that stands beside it for other viewers.
nb_execution_mode = "off"
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", 1)]
nb_code_prompt_show, nb_code_prompt_hide = "Show the {type}", "Hide the {type}"
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "plain"
bibtex_reference_style = "author_year"

html_theme = "sphinx_book_theme"
html_title = project
html_logo = html_favicon = "_static/mark.svg"
html_static_path = ["_static"]
html_css_files = ["book.css"]
# The theme turns icons into drawings; the widgets' icons must stay as they are, because Play looks for its own.
html_js_files = [
    (None, {"body": "window.FontAwesomeConfig = {observeMutations: false}", "priority": 10})
]
html_copy_source = html_show_sourcelink = html_show_copyright = False
html_show_search_summary = False  # a page opened from a file may not fetch the others
html_context = {"default_mode": "auto"}
html_theme_options = {
    "logo": {"text": project},
    "footer_content_items": [],
    "home_page_in_toc": True,
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "github-dark",
}

# What build.py fetched. Without it the defaults of Sphinx and MyST-NB hold, which load from a CDN.
if (BOOK / "_build" / "javascript" / "js" / "package.json").exists():
    html_static_path.append("_build/javascript")
    mathjax_path = "js/tex-svg-full.js"
    nb_ipywidgets_js = {
        "js/require.js": {},
        "js/embed-amd.js": {
            "data-jupyter-widgets-cdn": "./"
        },  # an unknown widget is not looked for elsewhere
    }
mathjax_config_path = "mathjax_config.js"
mathjax3_config = {"options": {"enableMenu": False}, "svg": {"fontCache": "local"}}


def headline_table() -> str:
    """The table of measured results, as Markdown."""
    lines = json.loads(HEADLINES.read_text()) if HEADLINES.exists() else []
    rows = [_headline(line) for line in lines if line["metric"] != "shown"]
    if not rows:
        return "Nothing is measured yet; `make results` fills this table."
    head = "| Row | Quantity | The source says | This book measures | 95 % interval | Baseline | Seeds |\n"
    return head + "|---|---|---|--:|:-:|--:|--:|\n" + "\n".join(rows)


def _headline(line: dict) -> str:
    row, chapter = line["row"], CHAPTER_OF_ROW.get(line["row"][0])
    unit = {"ratio": "×"}.get(line["unit"], line["unit"])
    interval = (
        f"{number(line['low'])} to {number(line['high'])}" if line["low"] != line["high"] else "–"
    )
    cells = [
        f"[{row}](chapters/{chapter}.ipynb)"
        if chapter and (BOOK.parent / "chapters" / f"{chapter}.ipynb").exists()
        else row,
        line["metric"].replace("_", " "),
        (line["source_says"] or "–").replace("|", "\\|"),
        f"**{number(line['value'])}** {unit}",
        interval,
        number(line["baseline"]) if line["baseline"] is not None else "–",
        str(len(line["seeds"])),
    ]
    return f"| {' | '.join(cells)} |"


def prepare_source(app: object, name: str, source: list[str]) -> None:
    """Fill in the table; turn a notebook's links to the book's pages into citations and links inside the book."""
    if name == "index":
        source[0] = source[0].replace("<!-- headlines -->", headline_table())
    if name.startswith("chapters/"):
        source[0] = CITATION.sub(_citation, source[0]).replace("](../book/", "](../")


def _citation(match: re.Match) -> str:
    """[Mania et al. (2018)](../book/bibliography.md#mania2018) cites in the text; in brackets, [(Mania …)], beside it."""
    return f"{{cite:{'p' if match['text'].startswith('(') else 't'}}}`{match['key']}`"


def setup(app: object) -> None:
    app.connect("source-read", prepare_source)
