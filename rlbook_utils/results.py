"""Measured results: one file a run with its provenance, and the headlines computed from them.

A chapter lists what it measures in ``MEASUREMENTS``. ``make results`` runs what is missing and may be stopped
and started again; ``make results ROW=E2 SEEDS=101,102`` measures a row anew and changes no file.
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlbook_utils.checkpoint import save_checkpoint
from rlbook_utils.definitions import CHAPTERS, load_chapter
from rlbook_utils.numbers import spread_of

RESULTS = CHAPTERS.parent / "results"
HEADLINES = RESULTS / "headlines.json"
VERSIONED = ("torch", "numpy", "gymnasium", "ale-py", "mujoco", "ray", "stable-baselines3")


@dataclasses.dataclass(frozen=True)
class Metric:
    """A headline: its name and unit, how seeds are summed up, and what the source text reports."""

    name: str
    unit: str
    statistic: str = "mean"
    source_says: str | None = None


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one run of a measurement found.

    metrics, baselines: headline name -> number. curves: name -> list of numbers, for the figures.
    state: what to keep as a checkpoint, or None.
    """

    metrics: dict[str, float]
    baselines: dict[str, float] = dataclasses.field(default_factory=dict)
    curves: dict[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    state: dict | None = None


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A row's experiment: ``measure(config, seed) -> Measured``, the seeds it is run with and its headlines."""

    row: str
    name: str
    measure: Callable[[Any, int], Measured]
    config: Any
    seeds: tuple[int, ...]
    metrics: tuple[Metric, ...] = ()


def run_path(row: str, name: str, seed: int) -> Path:
    return RESULTS / row / f"{name}_seed{seed}.json"


def runs(row: str, name: str) -> list[dict]:
    """The stored runs of a measurement, by seed. Raises FileNotFoundError saying how to make them."""
    found = sorted(
        (RESULTS / row).glob(f"{name}_seed*.json"), key=lambda p: int(p.stem.rpartition("seed")[2])
    )
    if not found:
        raise FileNotFoundError(
            f"There are no results for {row} ({name}) yet: run `make results ROW={row} WRITE=1`."
        )
    return [json.loads(path.read_text()) for path in found]


def curves(row: str, name: str, curve: str) -> np.ndarray:
    """One stored curve of a measurement over its seeds: [S, T], cut to the shortest seed."""
    stored = [run["curves"][curve] for run in runs(row, name)]
    shortest = min(map(len, stored))
    return np.array([values[:shortest] for values in stored])


def run_once(measurement: Measurement, seed: int) -> tuple[dict, dict | None]:
    """Measure one seed: the run with its provenance, and the state to keep as a checkpoint."""
    began = time.perf_counter()
    found = measurement.measure(measurement.config, seed)
    run = {
        "row": measurement.row,
        "name": measurement.name,
        "seed": seed,
        "metrics": {name: float(value) for name, value in found.metrics.items()},
        "baselines": {name: float(value) for name, value in found.baselines.items()},
        "curves": {
            name: [float(f"{value:.6g}") for value in np.asarray(values)]
            for name, values in found.curves.items()
        },
        "config": describe(measurement.config),
        "wall_clock_s": round(time.perf_counter() - began, 3),
        **provenance(),
    }
    return run, found.state


def describe(config: Any) -> dict:
    """A config as plain JSON values; what decides whether a stored run is still the one asked for."""
    return json.loads(json.dumps(dataclasses.asdict(config))) if config is not None else {}


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def provenance() -> dict:
    """Where and with what a run was made."""
    git = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"],
        cwd=RESULTS.parent,
        capture_output=True,
        text=True,
    )
    return {
        "cores": cores(),
        "date": datetime.date.today().isoformat(),
        "commit": git.stdout.strip() or None,
        "platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: importlib.metadata.version(name) for name in VERSIONED},
    }


def headlines(measurement: Measurement, found: Sequence[dict]) -> list[dict]:
    """One line per metric: the statistic over the runs' seeds and its 95 % bootstrap interval."""
    lines = []
    for metric in measurement.metrics:
        values = np.array([run["metrics"][metric.name] for run in found])
        low, high = spread_of(values, metric.statistic)[:2]
        baselines = [
            run["baselines"][metric.name] for run in found if metric.name in run["baselines"]
        ]
        lines.append(
            {
                "row": measurement.row,
                "metric": metric.name,
                "value": _short(getattr(np, metric.statistic)(values)),
                "low": _short(low[0]),
                "high": _short(high[0]),
                "unit": metric.unit,
                "seeds": [run["seed"] for run in found],
                "baseline": _short(np.mean(baselines)) if baselines else None,
                "source_says": metric.source_says,
                "wall_clock_s": round(sum(run["wall_clock_s"] for run in found), 1),
                "cores": max(run["cores"] for run in found),
            }
        )
    return lines


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def all_measurements() -> list[Measurement]:
    """What every chapter measures, in the book's order."""
    found = []
    for path in sorted(CHAPTERS.glob("ch*.py")):
        found += getattr(load_chapter(path.stem), "MEASUREMENTS", [])
    return found


def shown_rows() -> dict[str, str]:
    """Rows without a number -> the chapter whose cells carry the row's tag."""
    rows = {}
    for path in sorted(CHAPTERS.glob("ch*.py")):
        rows |= dict.fromkeys(getattr(load_chapter(path.stem), "SHOWN", ()), path.stem)
    return rows


def collect(measurement: Measurement, seeds: Iterable[int] | None, write: bool) -> list[dict]:
    """The runs of a measurement: fresh ones for named seeds or without ``write``, else only the missing ones are run."""
    found = []
    for seed in seeds or measurement.seeds:
        path = run_path(measurement.row, measurement.name, seed)
        if write and not seeds and path.exists():
            stored = json.loads(path.read_text())
            if stored["config"] == describe(measurement.config):
                found.append(stored)
                continue
        print(f"{measurement.row} {measurement.name}, seed {seed} …", file=sys.stderr, flush=True)
        run, state = run_once(measurement, seed)
        if write:
            path.parent.mkdir(parents=True, exist_ok=True)
            if state is not None:
                checkpoint = path.with_suffix(".safetensors")
                save_checkpoint(checkpoint, state, config=measurement.config, seed=seed)
            path.write_text(json.dumps(run, indent=1) + "\n")
        found.append(run)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="make results", description="Measure the book's headlines."
    )
    parser.add_argument("--row", default="", help="a row of the book, such as E2 (default: all)")
    parser.add_argument(
        "--seeds", default="", help="whole numbers separated by commas (default: the row's own)"
    )
    parser.add_argument(
        "--write", action="store_true", help="store the runs and update headlines.json"
    )
    arguments = parser.parse_args()
    try:
        seeds = [int(seed) for seed in arguments.seeds.split(",") if seed.strip()]
    except ValueError:
        sys.exit(
            f"SEEDS is {arguments.seeds!r}; it takes whole numbers separated by commas, such as 101,102."
        )
    measurements, shown = all_measurements(), shown_rows()
    known = sorted({m.row for m in measurements} | set(shown))
    if arguments.row and arguments.row not in known:
        sys.exit(f"There is no row {arguments.row!r}; there are: {', '.join(known)}.")
    write = arguments.write or not (arguments.row or seeds)
    lines_out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries and worker processes print is not among the lines

    lines = []
    for measurement in measurements:
        if arguments.row in ("", measurement.row) and (measurement.metrics or write):
            new = headlines(measurement, collect(measurement, seeds, write))
            for line in new:
                print(json.dumps(line), file=lines_out, flush=True)
            lines += new
    for row, chapter in shown.items():
        if arguments.row in ("", row):
            _run_cells(chapter, row)
            lines.append({"row": row, "metric": "shown", "value": 1})
            print(json.dumps(lines[-1]), file=lines_out, flush=True)
    if write:
        _update(lines)


def _run_cells(chapter: str, row: str) -> None:
    """Run a chapter at the smoke budget up to the last cell tagged with the row; an error ends the program."""
    import jupytext
    from nbclient import NotebookClient

    notebook = jupytext.read(CHAPTERS / f"{chapter}.py")
    tagged = [i for i, cell in enumerate(notebook.cells) if row in cell.metadata.get("tags", [])]
    if not tagged:
        sys.exit(f"No cell of {chapter} is tagged {row}.")
    notebook.cells = notebook.cells[: tagged[-1] + 1]
    os.environ["RLBOOK_BUDGET"] = "smoke"
    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": CHAPTERS}}).execute()


def _update(lines: list[dict]) -> None:
    stored = json.loads(HEADLINES.read_text()) if HEADLINES.exists() else []
    fresh = {(line["row"], line["metric"]) for line in lines}
    kept = [line for line in stored if (line["row"], line["metric"]) not in fresh]
    merged = sorted([*kept, *lines], key=lambda line: (line["row"], line["metric"]))
    HEADLINES.write_text("[\n" + ",\n".join(json.dumps(line) for line in merged) + "\n]\n")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(
            "Stopped. Finished runs that were to be stored are stored; the same command goes on from there."
        )
