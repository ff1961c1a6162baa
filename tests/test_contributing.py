"""A tiny chapter, added to a copy of the book by CONTRIBUTING.md: its own files are all that is written by hand."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from rlbook_utils.definitions import ROOT

CHAPTER = '''# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 99 · Tiny: a chapter of a test
#
# <!-- card: A walk to the right. -->
#
# It cites [Student (1908)](../book/bibliography.md#student1908) and shows $x$.

# %%
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rlbook_utils import plots, results
from rlbook_utils.config import by_budget, check_config, knob
from rlbook_utils.exercises import check
from rlbook_utils.results import Measured, Measurement, Metric
from rlbook_utils.run import Progress, watch


# %%
@dataclass(frozen=True)
class WalkConfig:
    """A walk."""

    steps: int = knob(20, 1, 100, "how far")

    def __post_init__(self) -> None:
        check_config(self)


def train(config: WalkConfig, seed: int, state: dict | None = None) -> Iterator[Progress]:
    """Steps of one, or of two."""
    rng, place = np.random.default_rng(seed), 0
    for step in range(1, config.steps + 1):
        place += int(rng.integers(1, 3))
        yield Progress(step, config.steps, {"place": place}, dict)


# %% tags=["Z1"]
run = watch(train(by_budget(WalkConfig(5), WalkConfig()), seed=1), floor=20)

# %% [markdown]
# Every seed comes further than 20, the least possible. <!-- held: far_enough -->
#
# **1.** Write `double(x)`.

# %%
check("Z1.1", lambda x: 2 * x)


# %%
def measure_walk(config: WalkConfig, seed: int) -> Measured:
    *_, progress = train(config, seed)
    return Measured(progress.metrics, {"place": 20})


HEADLINE = "A walk to {Z1.place}"
MEASUREMENTS = [Measurement("Z1", "walk", measure_walk, WalkConfig(), (1, 2, 3), (Metric("place", "steps"),))]
'''
CLAIMS = """from rlbook_utils import results


def far_enough():
    assert all(run["metrics"]["place"] > 20 for run in results.runs("Z1", "walk"))
    return [20]
"""
EXERCISES = """from rlbook_utils.exercises import Wrong


def double(answer):
    if answer(3) != 6:
        raise Wrong("Twice three is six.")


EXERCISES = {"Z1.1": double}
"""
FAULTS = """[[fault]]
name = "tiny: a walk that stands"
file = "chapters/ch99_tiny.py"
old = 'place += int(rng.integers(1, 3))'
new = 'place = int(rng.integers(1, 3))'
tests = ["tests/test_ch99_tiny.py"]
"""
TESTS = """from rlbook_utils.definitions import load_chapter


def test_it_walks():
    ch = load_chapter("ch99_tiny")
    assert all(list(ch.train(ch.WalkConfig(), seed))[-1].metrics["place"] > 20 for seed in range(3))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The book, committed, without its executed notebooks and its stored runs; then the files of a tiny chapter."""
    folder = tmp_path_factory.mktemp("copy") / "book"
    leave = shutil.ignore_patterns(
        ".git", ".venv", "_build", "node_modules", "__pycache__", "runs", "*.ipynb", "*_seed*"
    )
    shutil.copytree(ROOT, folder, ignore=leave)
    for path in folder.glob("chapters/ch*.py"):  # so that only the tiny one is measured and built
        path.unlink()
    (folder / "results" / "equivalent.json").write_text("[]")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "the book before")
    own = {
        "chapters/ch99_tiny.py": CHAPTER,
        "tests/claims/ch99_tiny.py": CLAIMS,
        "tests/exercises/ch99_tiny.py": EXERCISES,
        "tests/faults/ch99.toml": FAULTS,
        "tests/test_ch99_tiny.py": TESTS,
    }
    for name, text in own.items():
        (folder / name).write_text(text)
    return folder


def git(folder, *arguments):
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


def run(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(folder), "RLBOOK_BUDGET": "laptop"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_tiny_chapter_needs_no_file_but_its_own(copy):
    (line,) = map(
        json.loads, run(copy, "-m", "rlbook_utils.results", "--row", "Z1", "--write").splitlines()
    )
    assert line["chapter"] == "ch99_tiny" and line["seeds"] == [1, 2, 3]
    assert "executed in" in run(copy, "-m", "rlbook_utils.notebooks", "ch99_tiny")
    run(copy, "-m", "rlbook_utils.front")
    row = re.search(r"^\| \[99 · Tiny.*$", (copy / "README.md").read_text(), re.M)[0]
    assert f"A walk to **{line['value']:.4g}** (" in row and "range of 3 seeds" in row
    notebook = json.loads((copy / "chapters" / "ch99_tiny.ipynb").read_text())
    assert "Z1.1: right." in json.dumps(notebook)
    assert "1 of 1 faults seen" in run(copy, "tests/faults.py", "ch99")
    assert "passed" in run(
        copy, "-m", "pytest", "-q", "tests/test_claims.py", "tests/test_ch99_tiny.py", "-k", "tiny"
    )
    pages = run(
        copy, "-c", "from rlbook_utils import front; print(front.cards({}), front.results_table())"
    )
    assert "99 · Tiny\n:link: chapters/ch99_tiny" in pages and "A walk to the right." in pages
    assert "| [Z1](chapters/ch99_tiny.ipynb) | place |" in pages
    touched = {line[3:] for line in git(copy, "status", "--porcelain", "-uall").splitlines()}
    ours = re.compile(
        r"chapters/ch99|tests/(\w+/)?(test_)?ch99|results/(Z1/|headlines\.json)|README\.md|html/"
    )
    assert not [name for name in touched if not ours.match(name)]
