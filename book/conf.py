"""Sphinx configuration of the static book; `book/build.py` runs it."""

import re
from pathlib import Path

from rlbook_utils.front import cards, results_table

BOOK = Path(__file__).parent
# Chapters to come, until they are there: number -> title and card.
PLANNED = {
    "08": ("Review and roadmap", "What was learned, and a taste of what comes next."),
}

CITATION = re.compile(r"\[(?P<text>[^\[\]]+)\]\(\.\./book/bibliography\.md#(?P<key>\w+)\)")
# The references spelt out for JupyterLab (lab/pages.py); the book sets its own.
REFERENCES = re.compile(r"<!-- list -->.*<!-- /list -->", re.S)

project = "Deep Reinforcement Learning, Live"
extensions = ["myst_nb", "sphinx_design", "sphinxcontrib.bibtex"]
language = "en"

# Pages come from the stored outputs. A widget goes before the PNG that stands beside it for other viewers.
nb_execution_mode = "off"
nb_render_markdown_format = "myst"  # a cell that prints links prints links of the book
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


def prepare_source(app: object, name: str, source: list[str]) -> None:
    """Fill in cards and table; turn links, which fit the repository, into citations and links inside the book."""
    if name == "index":
        source[0] = source[0].replace("<!-- headlines -->", results_table())
        source[0] = source[0].replace("<!-- cards -->", cards(PLANNED))
    if name == "bibliography":
        source[0] = REFERENCES.sub("```{bibliography}\n:all:\n```", source[0])
    source[0] = CITATION.sub(_citation, source[0])
    if name.startswith("chapters/"):
        source[0] = source[0].replace("](../book/", "](../")
    else:
        source[0] = source[0].replace("](../chapters/", "](chapters/")


def _citation(match: re.Match) -> str:
    """[Mania et al. (2018)](../book/bibliography.md#mania2018) cites in the text; in brackets, [(Mania …)], beside it."""
    return f"{{cite:{'p' if match['text'].startswith('(') else 't'}}}`{match['key']}`"


def setup(app: object) -> None:
    app.connect("source-read", prepare_source)
