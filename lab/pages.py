"""Write the two pages that JupyterLab shows beside the notebooks: ``python lab/pages.py``.

chapters/README.md lists the chapters; ``make lab`` opens it. book/bibliography.md spells out references.bib, so that
a citation leads to its reference; the static book puts its own bibliography in the place of that list.
"""

import re
from pathlib import Path
from types import MappingProxyType

from pybtex.backends.markdown import Backend
from pybtex.database import Entry, parse_file
from pybtex.plugin import find_plugin

from rlbook_utils import front
from rlbook_utils.definitions import CHAPTERS, ROOT
from rlbook_utils.results import write

CONTENTS = CHAPTERS / "README.md"
BIBLIOGRAPHY = ROOT / "book" / "bibliography.md"
BEGIN, END = "<!-- list -->\n", "<!-- /list -->"


class Markdown(Backend):
    """pybtex's, less the backslashes that Markdown can do without."""

    symbols = MappingProxyType({"ndash": "–", "newblock": " ", "nbsp": " "})

    def format_str(self, text: str) -> str:
        return re.sub(r"([\\`*_\[\]<])", r"\\\1", text)

    def format_href(self, url: str, text: str, external: bool = False) -> str:
        return f"[{text}]({url})"


def chapters() -> str:
    """A table with one line per executed chapter."""
    lines = ["| Chapter | What it is about | Time |", "|---|---|--:|"]
    for path, notebook in front.notebooks().items():
        card = front.CARD.search(front.first_cell(notebook))
        about = " ".join(card[1].split()) if card else ""
        minutes = f"{max(1, round(notebook.metadata.rlbook.seconds / 60))} min"
        lines.append(f"| [{front.title(notebook)}]({path.name}) | {about} | {minutes} |")
    return "\n".join(lines) + "\n"


def references() -> str:
    """Every entry of references.bib under an anchor that bears its key, in the book's style and order."""
    bib = parse_file(BIBLIOGRAPHY.with_name("references.bib"))
    plain = find_plugin("pybtex.style.formatting", "plain")()
    return "".join(
        f'- <a id="{entry.key}"></a>**{label(bib.entries[entry.key])}.** {entry.text.render(Markdown())}\n'
        for entry in plain.format_entries(bib.entries.values())
    )


def label(entry: Entry) -> str:
    """How the chapters cite an entry, as "Burda et al. (2019b)"; a key ends in the year."""
    names = [" ".join((*p.prelast_names, *p.last_names)) for p in entry.persons["author"]]
    who = f"{names[0]} et al." if len(names) > 2 else " and ".join(names)
    return f"{Markdown().format_str(who.strip('{}'))} ({re.search(r'[0-9]+[a-z]?$', entry.key)[0]})"


def made() -> dict[Path, str]:
    """The two pages as they should be."""
    pages = {}
    for path, entries in ((CONTENTS, chapters()), (BIBLIOGRAPHY, references())):
        before, rest = path.read_text(encoding="utf8").split(BEGIN)
        pages[path] = before + BEGIN + entries + END + rest.split(END)[1]
    return pages


if __name__ == "__main__":
    for path, text in made().items():
        write(path, text)
