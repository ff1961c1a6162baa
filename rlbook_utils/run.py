"""Run control: training generators, and watching them.

A training function is a generator, ``def train(config, seed, state=None)``, that yields a ``Progress`` after
every unit of work. ``watch`` drives it in a notebook, the panel in the background, the results runner and the
tests in a plain loop.
"""

import ctypes
import dataclasses
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import HTML, DisplayHandle, Image
from matplotlib.figure import Figure

from rlbook_utils import plots
from rlbook_utils.checkpoint import as_tensors, load_checkpoint, resume, save_checkpoint  # noqa: F401
from rlbook_utils.numbers import number

torch.set_num_threads(1)  # the book's networks are small: a second thread costs more than it brings
if platform.libc_ver()[0] == "glibc":
    # Freed pages stay with us: to map large arrays anew at every update costs a third of its time.
    libc = ctypes.CDLL(None)
    libc.mallopt(-3, 1 << 28), libc.mallopt(-1, 1 << 30)  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD


class Progress(NamedTuple):
    """What a training generator yields: how far it is and what it knows.

    step, total: finished and planned units of work (generations, updates), whole numbers.
    metrics: name -> number, drawn as curves; the same names at every yield.
    state: call it for a nested dict of arrays, tensors and plain values from which the run continues exactly.
    unit: what one step is called on an axis.
    """

    step: int
    total: int
    metrics: dict[str, float]
    state: Callable[[], dict]
    unit: str = "step"


@dataclasses.dataclass
class Run:
    """A watched run: ``run["name"]`` is a metric's history [T], ``run.state`` what has been learned so far."""

    steps: list[int] = dataclasses.field(default_factory=list)
    metrics: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    total: int = 0
    unit: str = "step"
    seconds: float = 0.0
    state: dict = dataclasses.field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return bool(self.steps) and self.steps[-1] >= self.total

    def __getitem__(self, metric: str) -> np.ndarray:
        return np.asarray(self.metrics[metric])

    def history(self) -> dict:
        """What a checkpoint keeps of the curve."""
        return {"steps": self.steps, "metrics": self.metrics}

    def add(self, progress: Progress) -> None:
        self.steps.append(progress.step)
        self.total, self.unit = progress.total, progress.unit
        for name, value in progress.metrics.items():
            self.metrics.setdefault(name, []).append(float(value))


@contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C (or JupyterLab's stop button) into a set event; the second one interrupts at once.

    Work between two looks at the event is therefore never torn. Outside the main thread it does nothing.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(signum: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def watch(
    progresses: Iterator[Progress],
    metric: str | None = None,
    *,
    save_to: str | Path | None = None,
    config: Any = None,
    seed: int | None = None,
    floor: float | None = None,
    floor_label: str = "random policy",
    every: float = 1.0,
) -> Run:
    """Drive a training generator to its end, with a progress bar and a curve that grows.

    metric: the metric to draw (default: the first). floor: a value to beat, drawn as a line, and its name.
    save_to: a checkpoint, written every 30 seconds and at the end with ``config`` and ``seed``; a run that
    continues it also continues its curve. every: seconds between two drawings.

    The first interrupt stops after the unit of work in hand; everything learned until then is in the result.
    """
    run, began, drawn, saved = Run(), time.perf_counter(), 0.0, time.perf_counter()
    earlier = None
    if (
        save_to and Path(save_to).exists()
    ):  # a file of another run is refused before it is overwritten
        earlier = load_checkpoint(save_to, config, seed)["history"]
    bar, curve = DisplayHandle(), DisplayHandle()
    visible = InteractiveShell.initialized()
    with deferred_interrupt() as stop:
        progress = None
        for progress in progresses:
            if earlier and progress.step > 0 and not run.steps:
                _continue_history(run, earlier, progress.step)
            run.add(progress)
            now = time.perf_counter()
            run.seconds = now - began
            last = stop.is_set() or progress.step >= progress.total
            if visible and (last or now - drawn > every):
                show = DisplayHandle.update if drawn else DisplayHandle.display
                show(bar, HTML(_bar(run, stop.is_set() and not run.finished)))
                show(
                    curve,
                    Image(plots.to_png(live_curve(run, metric, floor, floor_label=floor_label))),
                )
                drawn = time.perf_counter()
            if save_to and (last or now - saved > 30):
                save_checkpoint(
                    save_to, progress.state(), config=config, seed=seed, history=run.history()
                )
                saved = now
            if last:
                break
    progresses.close()
    if progress is not None:
        run.state = progress.state()
    return run


def live_curve(
    run: Run,
    metric: str | None = None,
    floor: float | None = None,
    earlier: Sequence[Run] = (),
    floor_label: str = "random policy",
) -> Figure:
    """One metric of a run so far, over the whole width of the run.

    floor: a value to beat. earlier: runs to draw faintly behind it.
    """
    metric = metric or next(iter(run.metrics))
    figure = Figure(figsize=(7.2, 2.6))
    axes = figure.subplots()
    for other in earlier:
        axes.plot(other.steps, other[metric], color=plots.INK, alpha=0.4, linewidth=1.2)
    axes.plot(run.steps, run[metric], marker="." if len(run.steps) < 60 else "")
    if floor is not None:
        axes.axhline(floor, color=plots.INK, linestyle=":", label=floor_label)
        axes.legend(loc="best")
    axes.set(xlim=(0, max(run.total, 1)), xlabel=run.unit, ylabel=metric.replace("_", " "))
    return figure


def _continue_history(run: Run, earlier: dict, step: int) -> None:
    keep = sum(s < step for s in earlier["steps"])
    run.steps = list(earlier["steps"][:keep])
    run.metrics = {name: list(values[:keep]) for name, values in earlier["metrics"].items()}


def _bar(run: Run, stopped: bool) -> str:
    numbers = " · ".join(
        f"{name.replace('_', ' ')} {number(values[-1])}" for name, values in run.metrics.items()
    )
    done = run.steps[-1] / max(run.total, 1)
    word = "stopped at" if stopped else "done:" if run.finished else ""
    return (
        f'<progress value="{done:.3f}" max="1" style="width:16em;vertical-align:middle"></progress> '
        f"{word} {run.steps[-1]} / {run.total} · {run.seconds:.1f} s · {numbers}"
    )
