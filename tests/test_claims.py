"""Sentences that compare, and numbers in prose, are held to the stored runs.

A sentence that claims something about stored data carries a mark that no page shows, ``<!-- held: name -->``, at the
end of its paragraph or bullet. ``tests/claims/<file>.py`` has a function of that name: it asserts the claim from ``results/``,
and may return the numbers that the paragraph quotes, each of which has to stand there, to the digits written.
"""

import importlib.util
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlbook_utils.definitions import CHAPTERS, ROOT

MARK = re.compile(r"<!-- held: (\w+) -->")
NUMBER = re.compile(r"[-−]?\d+(?:,\d{3})*(?:\.\d+)?")
TEXTS = [
    *sorted(CHAPTERS.glob("ch*.py")),
    ROOT / "README.md",
    *sorted((ROOT / "book").glob("*.md")),
]


def claims_of(path: Path) -> dict[str, Callable]:
    """The functions that hold a text's sentences; those of a page of the book stand in book.py."""
    file = ROOT / "tests" / "claims" / (path.name if path.suffix == ".py" else "book.py")
    if not file.exists():
        return {}
    spec = importlib.util.spec_from_file_location(f"claims_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {
        name: value
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", "") == spec.name and name[0] != "_"
    }


def marked_paragraphs(path: Path) -> Iterator[tuple[str, str]]:
    """Each mark's name, and the paragraph it closes."""
    text = path.read_text(encoding="utf8")
    if path.suffix == ".py":
        text = "\n".join(
            line.removeprefix("#").strip() if line.startswith("#") else ""
            for line in text.splitlines()
        )
    for paragraph in re.split(r"\n\s*\n", text):
        for name in MARK.findall(paragraph):
            yield name, paragraph


def quotes(paragraph: str, value: float) -> bool:
    """Whether a number of the paragraph is ``value``, rounded to the digits that are written there."""
    for written in NUMBER.findall(MARK.sub("", paragraph)):
        digits = written.replace(",", "").replace("−", "-")
        decimals = len(digits.partition(".")[2])
        if abs(float(digits) - value) <= 0.5 * 10**-decimals * (1 + 1e-9):
            return True
        if float(digits) and abs(float(digits) + value) <= 0.5 * 10**-decimals:
            return True  # a dash before a number is not always a minus
    return False


MARKED = [(path, *found) for path in TEXTS for found in marked_paragraphs(path)]


@pytest.mark.parametrize(
    ("path", "name", "paragraph"), MARKED, ids=[f"{path.stem}-{name}" for path, name, _ in MARKED]
)
def test_the_stored_runs_say_what_the_text_says(path, name, paragraph):
    claims = claims_of(path)
    assert name in claims, f"tests/claims has no {name} for {path.name}"
    for value in claims[name]() or ():
        assert quotes(paragraph, value), f"{value} does not stand in: {paragraph}"


def test_every_claim_is_made_somewhere():
    marked = {
        (claims_file, name)
        for path, name, _ in MARKED
        for claims_file in [path.name if path.suffix == ".py" else "book.py"]
    }
    for path in [*CHAPTERS.glob("ch*.py"), ROOT / "README.md"]:
        file = path.name if path.suffix == ".py" else "book.py"
        for name in claims_of(path):
            assert (file, name) in marked, (
                f"tests/claims/{file}: nothing in the text is held by {name}"
            )


def test_a_number_that_is_not_there_is_noticed():
    paragraph = "It scores 4,874 (−151.5 before), in 3 % of 12.3 games. <!-- held: x -->"
    assert all(quotes(paragraph, value) for value in (4873.6, -151.46, 3.4, 12.34))
    assert not any(quotes(paragraph, value) for value in (4875, -151.6, 2.4, 12.2, 7))
