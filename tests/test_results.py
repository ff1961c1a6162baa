"""Measured results: provenance, what is out of date, a reader's seeds, and headlines that follow from stored runs."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from rlbook_utils import front, results
from rlbook_utils.definitions import CHAPTERS, ROOT
from rlbook_utils.results import Measurement, Metric


def results_cli(*arguments):
    command = [sys.executable, "-m", "rlbook_utils.results", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=results.RESULTS.parent)


@pytest.mark.slow
def test_results_command_explains_bad_input():
    done = results_cli("--row", "Z9")
    assert done.returncode and done.stdout == ""
    assert "no row 'Z9'; there are: " in done.stderr and ", E1, " in done.stderr
    done = results_cli("--row", "E1", "--seeds", "one")
    assert done.returncode and "SEEDS is 'one'" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_results_command_measures_without_writing():
    before = {path: path.read_bytes() for path in results.RESULTS.rglob("*.json")}
    done = results_cli("--row", "E1", "--seeds", "101,102")
    (line,) = map(json.loads, done.stdout.splitlines())
    assert set(line) == {"row", "metric", "chapter", "statistic", "value", "low", "high", "spread", "unit", "seeds",
                         "values", "baseline", "source_says", "wall_clock_s", "cores"}  # fmt: skip
    assert (line["row"], line["metric"], line["seeds"]) == ("E1", "seconds_to_target", [101, 102])
    assert before == {path: path.read_bytes() for path in results.RESULTS.rglob("*.json")}


def test_stored_runs_belong_to_the_configs_and_make_the_headlines():
    lines = json.loads(results.HEADLINES.read_text())
    stored = {(line["row"], line["metric"]): line for line in lines}
    for measurement in results.all_measurements():
        runs = results.runs(measurement.row, measurement.name)
        assert [run["seed"] for run in runs] == list(measurement.seeds), measurement.name
        for run in runs:
            assert run["config"] == results.describe(measurement.config), measurement.name
            assert run["commit"] and run["versions"] and run["wall_clock_s"] > 0
            assert "definitions" in run and run["clean"] in (True, None), measurement.name
        for line in results.headlines(measurement, runs):
            assert stored.pop((line["row"], line["metric"])) == line
    assert {row for row, metric in stored if metric == "shown"} == set(results.shown_rows())
    assert all(metric == "shown" for _, metric in stored), "a headline without a measurement"


def test_no_headline_of_the_readme_is_out_of_date():
    measurements = {
        (m.row, metric.name): m for m in results.all_measurements() for metric in m.metrics
    }
    for script in sorted(CHAPTERS.glob("ch*.py")):
        named = front.FIELD.findall(front.template(script))
        assert named, f"{script.stem} has no HEADLINE"
        for row, metric in named:
            measurement = measurements[row, metric]
            assert not measurement.out_of_date(), f"{row} {measurement.name}: its code has changed"


def test_what_is_called_equivalent_says_why():
    current = {m.definitions for m in results.all_measurements()}
    for pair in json.loads(results.EQUIVALENT.read_text()):
        assert set(pair) == {"row", "name", "from", "to", "because"} and len(pair["because"]) > 20
        assert pair["to"] in current, f"{pair['row']} {pair['name']}: it no longer applies"


TOY = """# %% [markdown]
# # 99 · Toy: a chapter of a test
#
# <!-- card: Nothing at all. -->

# %%
from dataclasses import dataclass
from rlbook_utils.config import knob
from rlbook_utils.results import Measured, Measurement, Metric
from rlbook_utils.rollout import spread


@dataclass(frozen=True)
class ToyConfig:
    '''A toy.'''

    size: int = knob(3, 1, 10, "how large")


# %%
def first(seed):
    '''Its first number.'''
    return spread(seed, 1)[0]


def measure_toy(config, seed):
    return Measured({"value": config.size * first(seed)}, curves={"line": [1, 2, seed]})


# %%
HEADLINE = "Toy: {X1.value}"
MEASUREMENTS = [Measurement("X1", "toy", measure_toy, ToyConfig(), (1, 2, 3), (Metric("value", "units"),))]
"""


@pytest.fixture
def toy(tmp_path):
    """A book of one toy chapter, whose code a test may edit: (its folder, the chapter, its command line)."""
    shutil.copytree(ROOT / "rlbook_utils", tmp_path / "rlbook_utils")
    for folder in ("chapters", "results"):
        (tmp_path / folder).mkdir()
    (tmp_path / "results" / "equivalent.json").write_text("[]")
    chapter = tmp_path / "chapters" / "ch99_toy.py"
    chapter.write_text(TOY)

    def run(*arguments):
        command = [sys.executable, "-m", "rlbook_utils.results", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done

    return tmp_path, chapter, run


def stored_value(folder, seed):
    return json.loads((folder / "results" / "X1" / f"toy_seed{seed}.json").read_text())["metrics"][
        "value"
    ]


@pytest.mark.slow
def test_only_what_is_missing_is_measured_and_a_torn_file_is_measured_again(toy):
    folder, _, run = toy
    assert run().stderr.count("seed ") == 3
    assert run().stderr == ""
    torn = folder / "results" / "X1" / "toy_seed2.json"
    whole = json.loads(torn.read_text())
    torn.write_text(torn.read_text()[:100])
    said = run().stderr
    assert "toy_seed2.json is not a whole JSON file. It is measured again." in said
    assert "Traceback" not in said and "X1 toy, seed 1" not in said
    assert json.loads(torn.read_text())["metrics"] == whole["metrics"]
    assert not list(folder.rglob("*.part"))


@pytest.mark.slow
def test_changed_code_is_named_and_measured_again_on_request(toy):
    folder, chapter, run = toy
    run()
    before = stored_value(folder, 1)
    harmless = TOY.replace("Its first number.", "The first of them.").replace(
        '1, 10, "how large', '0, 99, "the size'
    )
    chapter.write_text(harmless.replace("def first(seed):", "def first(seed):  # a comment"))
    assert run().stderr == "", "prose, comments and ranges do not count"
    chapter.write_text(TOY.replace("spread(seed, 1)[0]", "spread(seed, 2)[1]"))
    said = run().stderr
    assert "X1 toy, seeds 1, 2, 3" in said and "STALE=1" in said
    assert stored_value(folder, 1) == before
    run("--stale")
    assert stored_value(folder, 1) != before and run().stderr == ""
    package = folder / "rlbook_utils" / "rollout.py"
    package.write_text(package.read_text().replace("spawn_key=(np.size(seed),)", "spawn_key=(7,)"))
    assert "X1 toy, seeds 1, 2, 3" in run().stderr, "what the package does counts too"


@pytest.mark.slow
def test_a_change_that_changes_nothing_is_named_with_its_reason(toy):
    folder, chapter, run = toy
    run()
    old = json.loads((folder / "results" / "X1" / "toy_seed1.json").read_text())["definitions"]
    chapter.write_text(
        TOY.replace("return spread(seed, 1)[0]", "seeds = spread(seed, 1)\n    return seeds[0]")
    )
    assert "seeds 1, 2, 3" in run().stderr
    run("--row", "X1", "--seeds", "9", "--write")
    new = json.loads((folder / "results" / "X1" / "extra" / "toy_seed9.json").read_text())[
        "definitions"
    ]
    pair = {
        "row": "X1",
        "name": "toy",
        "from": old,
        "to": new,
        "because": "a value was given a name",
    }
    (folder / "results" / "equivalent.json").write_text(json.dumps([pair]))
    assert run().stderr == ""


@pytest.mark.slow
def test_a_readers_seeds_leave_the_headline_alone(toy):
    folder, _, run = toy
    run()
    files = {path: path.read_bytes() for path in (folder / "results").rglob("*.json")}
    (line,) = map(
        json.loads, run("--row", "X1", "--seeds", "101,102", "--write").stdout.splitlines()
    )
    assert line["seeds"] == [101, 102]
    assert files == {path: path.read_bytes() for path in files}
    extra = folder / "results" / "X1" / "extra"
    assert {path.name for path in extra.iterdir()} == {"toy_seed101.json", "toy_seed102.json"}
    run("--row", "X1", "--seeds", "2", "--write")
    (line,) = json.loads((folder / "results" / "headlines.json").read_text())
    assert line["seeds"] == [1, 2, 3] and line["chapter"] == "ch99_toy"


def test_a_headline_says_what_its_seeds_are():
    metric = Metric("seconds", "s", "median")
    values = (1.0, 2.0, 9.0)
    runs = [{"seed": i, "metrics": {"seconds": v}, "baselines": {"seconds": 2 * v}, "wall_clock_s": 1, "cores": 2}
            for i, v in enumerate(values)]  # fmt: skip
    (line,) = results.headlines(
        Measurement("E1", "x", stored_value, None, (0, 1, 2), (metric,)), runs
    )
    assert (line["value"], line["baseline"], line["wall_clock_s"]) == (2.0, 8.0, 3)
    assert (line["low"], line["high"], line["spread"]) == (1.0, 9.0, "range")
    assert line["values"] == list(values)
    assert front.spread(line) == "1–9, range of 3 seeds"


def test_a_package_that_is_missing_stops_no_measurement(monkeypatch):
    monkeypatch.setattr(results, "VERSIONED", ("numpy", "no-such-package"))
    versions = results.provenance.__wrapped__()["versions"]
    assert versions == {"numpy": np.__version__, "no-such-package": None}


def test_a_stored_number_comes_back_over_its_seeds():
    stored = results.runs("F2", "dqn")
    assert results.metric("F2", "dqn", "return").tolist() == [
        r["metrics"]["return"] for r in stored
    ]
