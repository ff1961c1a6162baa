"""What the front pages say: the README's table, the book's table of results and its cards, from notebooks and headlines.

A chapter names its headline in a constant, ``HEADLINE = "CartPole champion {E2.champion_return} of 500"``, where the
braces hold a row and a metric of headlines.json, and its card in its first cell, ``<!-- card: one sentence -->``.
"""

import ast
import json
import re
from pathlib import Path

import nbformat

from rlbook_utils.definitions import CHAPTERS, ROOT
from rlbook_utils.numbers import number
from rlbook_utils.results import HEADLINES, write

README = ROOT / "README.md"
BEGIN, END = "<!-- chapters -->\n", "<!-- /chapters -->"
FIELD = re.compile(r"\{(\w+)\.(\w+)\}")
CARD = re.compile(r"<!-- card: (.+?) -->", re.S)


def stored_headlines() -> list[dict]:
    return json.loads(HEADLINES.read_text(encoding="utf8")) if HEADLINES.exists() else []


def spread(line: dict) -> str:
    """How far a headline's seeds lie apart, as "713–827, range of 3 seeds"."""
    seeds = f"{len(line['seeds'])} seeds"
    what = f"range of {seeds}" if line["spread"] == "range" else f"{line['spread']}, {seeds}"
    return f"{number(line['low'])}–{number(line['high'])}, {what}"


def template(script: Path) -> str:
    """The chapter's HEADLINE, or an empty text."""
    for node in ast.parse(script.read_text(encoding="utf8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "HEADLINE":
            return ast.literal_eval(node.value)
    return ""


def headline(script: Path) -> str:
    """The chapter's HEADLINE with its numbers, or a dash where something is not measured yet."""
    lines = {(line["row"], line["metric"]): line for line in stored_headlines()}
    wanted = template(script)
    if not wanted or any(field not in lines for field in FIELD.findall(wanted)):
        return "—"

    def stated(field: re.Match) -> str:
        line = lines[field.groups()]
        return f"**{number(line['value'])}** ({spread(line)})"

    return FIELD.sub(stated, wanted)


def notebooks() -> dict[Path, nbformat.NotebookNode]:
    """The executed chapters, in the book's order."""
    return {path: nbformat.read(path, as_version=4) for path in sorted(CHAPTERS.glob("ch*.ipynb"))}


def first_cell(notebook: nbformat.NotebookNode) -> str:
    return next(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def title(notebook: nbformat.NotebookNode) -> str:
    """As "02 · Distributional DQN: more than the mean"."""
    return first_cell(notebook).splitlines()[0].lstrip("# ")


def readme_table() -> str:
    """One line per executed chapter."""
    lines = ["| Chapter | Time | Memory | Headline result |", "|---|---|---|---|"]
    for path, notebook in notebooks().items():
        ran = notebook.metadata.get("rlbook", {})
        memory = f"{ran['peak_mb'] / 1000:.1f} GB" if "peak_mb" in ran else "—"
        time = f"{max(1, round(ran['seconds'] / 60))} min" if "seconds" in ran else "—"
        link = f"[{title(notebook)}](chapters/{path.name})"
        lines.append(f"| {link} | {time} | {memory} | {headline(path.with_suffix('.py'))} |")
    return "\n".join(lines) + "\n"


def with_table(readme: str) -> str:
    """The README's text, its table made anew."""
    before, rest = readme.split(BEGIN)
    return before + BEGIN + readme_table() + END + rest.split(END)[1]


def results_table() -> str:
    """The book's table of measured results, as Markdown."""
    rows = [_result(line) for line in stored_headlines() if line["metric"] != "shown"]
    if not rows:
        return "Nothing is measured yet; `make results` fills this table."
    head = "| Row | Quantity | The source says | This book measures | The seeds | Baseline | Each seed |\n"
    return head + "|---|---|---|--:|:-:|--:|---|\n" + "\n".join(rows)


def _result(line: dict) -> str:
    executed = (CHAPTERS / f"{line['chapter']}.ipynb").exists()
    same = line["low"] == line["high"]
    unit = {"ratio": "×"}.get(line["unit"], line["unit"])
    cells = [
        f"[{line['row']}](chapters/{line['chapter']}.ipynb)" if executed else line["row"],
        line["metric"].replace("_", " "),
        (line["source_says"] or "–").replace("|", "\\|"),
        f"**{number(line['value'])}** {unit} ({line['statistic']})",
        f"all {len(line['seeds'])} alike" if same else spread(line),
        number(line["baseline"]) if line["baseline"] is not None else "–",
        "–" if same else ", ".join(number(value) for value in line["values"]),
    ]
    return f"| {' | '.join(cells)} |"


def cards(planned: dict[str, tuple[str, str]]) -> str:
    """One card per chapter, as MyST; ``planned`` (number -> title, text) where there is no such chapter yet."""
    made = {}
    for path, notebook in notebooks().items():
        whole = title(notebook)
        chapter, name = whole.split(" · ")
        text = CARD.search(first_cell(notebook))
        options = f":link: chapters/{path.stem}\n:link-type: doc\n:class-card: rlbook-ready"
        shown = f"{chapter.removeprefix('0')} · {name.partition(':')[0]}"
        made[chapter] = _card(shown, options, " ".join(text[1].split()) if text else "")
    for chapter, (name, text) in planned.items():
        if chapter not in made:
            shown = f"{chapter.removeprefix('0')} · {name}"
            made[chapter] = _card(shown, ":class-card: rlbook-planned", text)
    return "\n\n".join(made[chapter] for chapter in sorted(made))


def _card(shown: str, options: str, text: str) -> str:
    return f":::{{grid-item-card}} {shown}\n{options}\n\n{text}\n:::"


if __name__ == "__main__":
    write(README, with_table(README.read_text(encoding="utf8")))
