"""Run control: training generators, watching them, and their checkpoints.

A training function is a generator, ``def train(config, seed, state=None)``, that yields a ``Progress`` after
every unit of work. ``watch`` drives it in a notebook, the panel in the background, the results runner and the
tests in a plain loop.
"""

import dataclasses
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import HTML, DisplayHandle, Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rlbook_utils import plots

torch.set_num_threads(1)  # the book's networks are small: a second thread costs more than it brings


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
                    Image(
                        plots.to_png(plots.live_curve(run, metric, floor, floor_label=floor_label))
                    ),
                )
                drawn = time.perf_counter()
            if save_to and (last or now - saved > 30):
                save_checkpoint(save_to, progress.state(), config=config, seed=seed, history=run)
                saved = now
            if last:
                break
    progresses.close()
    if progress is not None:
        run.state = progress.state()
    return run


def _continue_history(run: Run, earlier: dict, step: int) -> None:
    keep = sum(s < step for s in earlier["steps"])
    run.steps = list(earlier["steps"][:keep])
    run.metrics = {name: list(values[:keep]) for name, values in earlier["metrics"].items()}


def _bar(run: Run, stopped: bool) -> str:
    numbers = " · ".join(
        f"{name.replace('_', ' ')} {plots.number(values[-1])}"
        for name, values in run.metrics.items()
    )
    done = run.steps[-1] / max(run.total, 1)
    word = "stopped at" if stopped else "done:" if run.finished else ""
    return (
        f'<progress value="{done:.3f}" max="1" style="width:16em;vertical-align:middle"></progress> '
        f"{word} {run.steps[-1]} / {run.total} · {run.seconds:.1f} s · {numbers}"
    )


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: it is missing, corrupt, or belongs to something else."""


def save_checkpoint(
    path: str | Path,
    state: dict,
    *,
    config: Any = None,
    seed: int | None = None,
    history: Run | None = None,
) -> None:
    """Write a nested dict of arrays, tensors and plain values as one safetensors file, atomically.

    Arrays become tensors in the file; everything else, the config and the history stand in its JSON header.
    """
    arrays: dict[str, torch.Tensor] = {}
    header = {
        "state": _pull(state, arrays),
        "owner": _describe(config, seed),
        "history": {"steps": history.steps, "metrics": history.metrics} if history else None,
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    save_file(arrays, draft, metadata={"rlbook": json.dumps(header)})
    draft.replace(path)


def load_checkpoint(path: str | Path, config: Any = None, seed: int | None = None) -> dict:
    """Read what ``save_checkpoint`` wrote: {"state", "history"}; arrays come back as NumPy arrays.

    config, seed: when given, a checkpoint written for others is refused. Raises CheckpointError.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"There is no checkpoint at {path}.")
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})["rlbook"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except KeyError:
        raise CheckpointError(
            f"{path} is a safetensors file, but not one that this book wrote."
        ) from None
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({error}); delete it to start afresh."
        ) from None
    wanted, stored = _describe(config, seed), header["owner"]
    others = [name for name, value in wanted.items() if stored.get(name) != value]
    if others:
        said = ", ".join(
            f"{name}: {stored.get(name)!r} there, {wanted[name]!r} here" for name in others
        )
        raise CheckpointError(f"{path} belongs to another run ({said}); delete it to start afresh.")
    return {"state": _push(header["state"], arrays), "history": header["history"]}


def resume(path: str | Path, config: Any = None, seed: int | None = None) -> dict | None:
    """The state in the checkpoint at ``path``, or None where there is none yet. Raises CheckpointError."""
    return load_checkpoint(path, config, seed)["state"] if Path(path).exists() else None


def as_tensors(state: Any) -> Any:
    """A nested state with its arrays as tensors, as ``load_state_dict`` wants them."""
    if isinstance(state, np.ndarray):
        return torch.from_numpy(state)
    if isinstance(state, dict):
        return {key: as_tensors(item) for key, item in state.items()}
    return [as_tensors(item) for item in state] if isinstance(state, list) else state


def _describe(config: Any, seed: int | None) -> dict:
    fields = {"seed": seed} if seed is not None else {}
    if config is not None:
        fields |= {"config": type(config).__name__, **dataclasses.asdict(config)}
    return json.loads(json.dumps(fields))


def _pull(value: Any, arrays: dict[str, torch.Tensor]) -> Any:
    """Replace each array in a nested value by a reference to its place in the file."""
    if isinstance(value, torch.Tensor | np.ndarray):
        name = f"{len(arrays):04d}"
        tensor = value if isinstance(value, torch.Tensor) else torch.from_numpy(np.array(value))
        arrays[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"__array__": name}
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            return {"__items__": [[_pull(k, arrays), _pull(v, arrays)] for k, v in value.items()]}
        return {key: _pull(item, arrays) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_pull(item, arrays) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _push(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        if "__array__" in value:
            return arrays[value["__array__"]]
        if "__items__" in value:
            return {_push(k, arrays): _push(v, arrays) for k, v in value["__items__"]}
        return {key: _push(item, arrays) for key, item in value.items()}
    return [_push(item, arrays) for item in value] if isinstance(value, list) else value
