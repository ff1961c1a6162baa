"""Measured results: one file a run with its provenance, and the headlines computed from them.

A chapter lists what it measures in ``MEASUREMENTS``. ``make results`` runs what is missing and may be stopped
and started again; it names the stored runs whose code has changed since, and ``STALE=1`` measures those anew.
``make results ROW=E2 SEEDS=101,102`` measures a row with other seeds and changes no file; ``WRITE=1`` stores them
beside the row's own.
"""

import argparse
import dataclasses
import datetime
import functools
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlbook_utils.checkpoint import save_checkpoint
from rlbook_utils.definitions import CHAPTERS, fingerprint, load_chapter
from rlbook_utils.numbers import spread_of

RESULTS = CHAPTERS.parent / "results"
HEADLINES = RESULTS / "headlines.json"
EQUIVALENT = RESULTS / "equivalent.json"
VERSIONED = (
    "torch", "numpy", "gymnasium", "ale-py", "magent2", "mujoco", "ray", "stable-baselines3"
)  # fmt: skip


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

    @property
    def chapter(self) -> str:
        return Path(getattr(self.measure, "func", self.measure).__code__.co_filename).stem

    @functools.cached_property
    def definitions(self) -> str:
        """The hash of the code that it reaches, as it stood when this was first asked for."""
        return fingerprint(self.measure, self.config)

    def path(self, seed: int) -> Path:
        """Where a run is stored; those of a reader's seeds stand apart, and are not summed up."""
        own = run_path(self.row, self.name, seed)
        return own if seed in self.seeds else own.parent / "extra" / own.name

    def stored(self, seed: int) -> dict | None:
        """The stored run of this very config; None, after a sentence if its file is torn, where there is none."""
        try:
            run = read_run(self.path(seed))
        except FileNotFoundError:
            return None
        except ResultError as error:
            print(f"{error} It is measured again.", file=sys.stderr)
            return None
        return run if run["config"] == describe(self.config) else None

    def out_of_date(self) -> list[int]:
        """The seeds whose stored run was made by code that has changed since, or that nobody recorded.

        A change that leaves what is measured as it was is named, with its reason, in ``equivalent.json``.
        """
        pairs = json.loads(EQUIVALENT.read_text())
        same = {self.definitions, *(p["from"] for p in pairs if p["to"] == self.definitions)}
        runs = {seed: self.stored(seed) for seed in self.seeds}
        return [seed for seed, run in runs.items() if run and run.get("definitions") not in same]


class ResultError(ValueError):
    """A result file that cannot be read."""


def run_path(row: str, name: str, seed: int) -> Path:
    return RESULTS / row / f"{name}_seed{seed}.json"


def read_run(path: Path) -> dict:
    """A stored run. Raises FileNotFoundError, or ResultError for a file that was not written to its end."""
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except json.JSONDecodeError:
        raise ResultError(f"{path.relative_to(RESULTS.parent)} is not a whole JSON file.") from None


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    draft.write_text(text, encoding="utf8")
    draft.replace(path)


def runs(row: str, name: str) -> list[dict]:
    """The stored runs of a measurement, by seed. Raises FileNotFoundError saying how to make them."""
    found = sorted(
        (RESULTS / row).glob(f"{name}_seed*.json"), key=lambda p: int(p.stem.rpartition("seed")[2])
    )
    if not found:
        raise FileNotFoundError(
            f"There are no results for {row} ({name}) yet: run `make results ROW={row} WRITE=1`."
        )
    return [read_run(path) for path in found]


def metric(row: str, name: str, metric: str) -> np.ndarray:
    """One stored number of a measurement over its seeds: [S]."""
    return np.array([run["metrics"][metric] for run in runs(row, name)])


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
        "definitions": measurement.definitions,
        **provenance(),
    }
    return run, found.state


def describe(config: Any) -> dict:
    """A config as plain JSON values; what decides whether a stored run is still the one asked for."""
    return json.loads(json.dumps(dataclasses.asdict(config))) if config is not None else {}


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache  # what runs is the code of the process's start
def provenance() -> dict:
    """Where and with what a run was made. clean: whether all but the results was as committed."""

    def git(*command: str) -> str | None:
        done = subprocess.run(["git", *command], cwd=RESULTS.parent, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!results")
    return {
        "cores": cores(),
        "date": datetime.date.today().isoformat(),
        "commit": git("rev-parse", "--short=12", "HEAD"),
        "clean": None if changed is None else not changed,
        "platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: _version(name) for name in VERSIONED},
    }


def _version(package: str) -> str | None:
    """The installed version, or None: what a measurement does not use may be missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def headlines(measurement: Measurement, found: Sequence[dict]) -> list[dict]:
    """One line per metric: the statistic over the runs' seeds, and how far they lie apart (``spread_of``)."""
    lines = []
    for metric in measurement.metrics:
        values = np.array([run["metrics"][metric.name] for run in found])
        spread = spread_of(values, metric.statistic)
        baselines = [
            run["baselines"][metric.name] for run in found if metric.name in run["baselines"]
        ]
        lines.append(
            {
                "row": measurement.row,
                "metric": metric.name,
                "chapter": measurement.chapter,
                "statistic": metric.statistic,
                "value": _short(getattr(np, metric.statistic)(values)),
                "low": _short(spread.low),
                "high": _short(spread.high),
                "spread": spread.name,
                "unit": metric.unit,
                "seeds": [run["seed"] for run in found],
                "values": [_short(value) for value in values],
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


def collect(
    measurement: Measurement, seeds: Sequence[int] = (), *, store: bool = True, stale: bool = False
) -> list[dict]:
    """The runs of a measurement, by seed.

    seeds: these are measured anew; without any, the row's own, of which stored ones are taken as they are (with
    ``stale``, unless their code has changed since). store: write what is measured to files.
    """
    anew = measurement.out_of_date() if stale else []
    found = []
    for seed in seeds or measurement.seeds:
        stored = None if seeds or not store or seed in anew else measurement.stored(seed)
        if stored is None:
            print(
                f"{measurement.row} {measurement.name}, seed {seed} …", file=sys.stderr, flush=True
            )
            stored, state = run_once(measurement, seed)
            if store:
                path = measurement.path(seed)
                if state is not None:
                    checkpoint = path.with_suffix(".safetensors")
                    save_checkpoint(checkpoint, state, config=measurement.config, seed=seed)
                write(path, json.dumps(stored, indent=1) + "\n")
        found.append(stored)
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
        "--write", action="store_true", help="store the runs and renew headlines.json"
    )
    parser.add_argument(
        "--stale", action="store_true", help="measure anew what changed code has measured"
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
    store = arguments.write or arguments.stale or not (arguments.row or seeds)
    lines_out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries and worker processes print is not among the lines

    chosen = [m for m in measurements if arguments.row in ("", m.row) and (m.metrics or store)]
    provenance()
    for measurement in chosen:  # its code is that of now, even if its turn comes in hours
        _ = measurement.definitions
    if store and not arguments.stale:
        _name_stale(chosen)
    for measurement in chosen:
        runs = collect(measurement, seeds, store=store, stale=arguments.stale)
        for line in headlines(measurement, runs):
            print(json.dumps(line), file=lines_out, flush=True)
        if store:  # at once, so that a stop loses nothing
            _update(measurements, shown)
    for row, chapter in shown.items():
        if arguments.row in ("", row):
            _run_cells(chapter, row)
            line = {"row": row, "metric": "shown", "chapter": chapter, "value": 1}
            print(json.dumps(line), file=lines_out, flush=True)
    if store:
        _update(measurements, shown)


def _name_stale(measurements: Sequence[Measurement]) -> None:
    """Say which stored runs were made by code that has changed since."""
    stale = {f"{m.row} {m.name}": seeds for m in measurements if (seeds := m.out_of_date())}
    if stale:
        print(
            "Measured by code that has changed since (STALE=1 measures them anew):", file=sys.stderr
        )
        for name, seeds in stale.items():
            print(f"  {name}, seeds {', '.join(map(str, seeds))}", file=sys.stderr)


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


def _update(measurements: Sequence[Measurement], shown: dict[str, str]) -> None:
    """Write headlines.json anew from the stored runs of every measurement that has all its seeds."""
    lines = [
        {"row": row, "metric": "shown", "chapter": chapter, "value": 1}
        for row, chapter in shown.items()
    ]
    for measurement in measurements:
        runs = (
            [measurement.stored(seed) for seed in measurement.seeds] if measurement.metrics else []
        )
        if all(runs):
            lines += headlines(measurement, runs)
    lines.sort(key=lambda line: (line["row"], line["metric"]))
    write(HEADLINES, "[\n" + ",\n".join(json.dumps(line) for line in lines) + "\n]\n")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(
            "Stopped. Finished runs that were to be stored are stored; the same command goes on from there."
        )
