"""Write the README's table of chapters: time and memory from the notebooks, headline results from headlines.json.

A chapter names its headline in a constant, ``HEADLINE = "CartPole champion {E2.champion_return} of 500"``: the
braces hold a row and a metric of headlines.json.
"""

import ast
import json
from pathlib import Path

import nbformat

from rlbook_utils.definitions import CHAPTERS
from rlbook_utils.plots import number
from rlbook_utils.results import HEADLINES

README = CHAPTERS.parent / "README.md"
BEGIN, END = "<!-- chapters -->\n", "<!-- /chapters -->"


def headline(script: Path) -> str:
    """The chapter's HEADLINE with its numbers: value (95 % interval), or a dash where nothing is measured yet."""
    constants = [
        node
        for node in ast.parse(script.read_text(encoding="utf8")).body
        if isinstance(node, ast.Assign)
    ]
    template = next(
        (ast.literal_eval(c.value) for c in constants if ast.unparse(c.targets[0]) == "HEADLINE"),
        "—",
    )
    for line in json.loads(HEADLINES.read_text(encoding="utf8")) if HEADLINES.exists() else []:
        if (field := f"{{{line['row']}.{line['metric']}}}") in template:
            text = f"**{number(line['value'])}** ({number(line['low'])}–{number(line['high'])})"
            template = template.replace(field, text)
    return "—" if "{" in template else template


def table() -> str:
    """One line per executed chapter."""
    lines = [
        "| Chapter | Time | Memory | Headline result (95 % interval over seeds) |",
        "|---|---|---|---|",
    ]
    for path in sorted(CHAPTERS.glob("ch*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        title = (
            next(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
            .splitlines()[0]
            .lstrip("# ")
        )
        ran = notebook.metadata.get("rlbook", {})
        memory = f"{ran['peak_mb'] / 1000:.1f} GB" if "peak_mb" in ran else "—"
        time = f"{ran['seconds'] / 60:.0f} min" if "seconds" in ran else "—"
        lines.append(
            f"| [{title}](chapters/{path.name}) | {time} | {memory} | {headline(path.with_suffix('.py'))} |"
        )
    return "\n".join(lines) + "\n"


def with_table(readme: str) -> str:
    """The README's text, its table made anew."""
    before, rest = readme.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf8")), encoding="utf8")
