"""Widgets: the training panel, the pre-computed slider and the scrubber.

The slider and the scrubber are joined in the browser (``jslink``), so they work in the static book without a
kernel. Each is shown together with a PNG, for pages that show no widgets.
"""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ipywidgets as widgets
from IPython.display import display

from rlbook_utils import plots
from rlbook_utils.run import Progress, Run, live_curve

_WIDE = {"description_width": "9em"}
_BOOK_NOTE = '<div class="rlbook-book-only" style="display:none">{}</div>'


def show(widget: widgets.Widget, png: bytes) -> None:
    """Display a widget, and beside it a PNG for viewers that cannot run widgets."""
    bundle = widget._repr_mimebundle_()
    display({**bundle, "image/png": png}, raw=True)


def image_slider(images: Mapping[str, bytes], label: str, *, start: int = 0) -> widgets.VBox:
    """A slider over pre-computed PNGs, one per named value; moves without a kernel.

    images: the value as the reader sees it -> PNG bytes, in slider order. Raises ValueError for no images or
    a ``start`` outside them.
    """
    _check_start(images, start)
    slider = widgets.SelectionSlider(
        options=[(name, i) for i, name in enumerate(images)],
        value=start,
        description=label,
        tooltip=label,
        continuous_update=True,
        style={"description_width": "initial"},
        layout=widgets.Layout(width="26em"),
    )
    stack = _stack(list(images.values()), start)
    widgets.jslink((slider, "index"), (stack, "selected_index"))
    return widgets.VBox(
        [
            slider,
            stack,
            widgets.HTML(_BOOK_NOTE.format("Pre-computed: every position was made beforehand.")),
        ]
    )


def scrubber(
    images: Sequence[bytes], label: str, *, start: int = 0, interval: int = 100
) -> widgets.VBox:
    """Step or play through PNGs of successive instants; moves without a kernel. interval: milliseconds a picture."""
    _check_start(images, start)
    last = len(images) - 1
    play = widgets.Play(min=0, max=last, value=start, interval=interval, repeat=True)
    slider = widgets.IntSlider(min=0, max=last, value=start, description=label, style={"description_width": "initial"},
                               layout=widgets.Layout(width="26em"))  # fmt: skip
    stack = _stack(images, start)
    widgets.jslink((play, "value"), (slider, "value"))
    widgets.jslink((slider, "value"), (stack, "selected_index"))
    return widgets.VBox([widgets.HBox([play, slider]), stack])


def _check_start(images: Sequence | Mapping, start: int) -> None:
    if not 0 <= start < len(images):
        raise ValueError(
            f"start is {start}, but there are {len(images)} pictures, numbered from 0."
        )


def _stack(images: Sequence[bytes], start: int) -> widgets.Stack:
    pictures = [
        widgets.Image(value=png, format="png", layout=widgets.Layout(max_width="100%"))
        for png in images
    ]
    return widgets.Stack(pictures, selected_index=start)


class Panel:
    """Dials for a config, and *Train*, *Stop*, *Reset*; training runs in a thread, so the page stays alive.

    train: ``train(config, seed, state=None)``, a training generator. config: a frozen dataclass whose ``knob``
    fields become sliders, ``choice`` fields menus and true-or-false fields boxes to tick. *Stop* keeps what was
    learned; *Train* with the same settings continues it.
    The finished curves of earlier settings stay behind the new one, for comparison. curve: metric, floor and
    floor_label of ``live_curve``.
    """

    def __init__(
        self,
        train: Callable[..., Iterator[Progress]],
        config: Any,
        *,
        preview: bytes = b"",
        **curve: Any,
    ) -> None:
        self.train, self.default, self.curve = train, config, curve
        self.run = Run()
        self.earlier: list[Run] = []
        self._trained: tuple | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.dials = {
            f.name: _dial(f, getattr(config, f.name))
            for f in dataclasses.fields(config)
            if f.metadata or isinstance(getattr(config, f.name), bool)
        }
        self.seed = widgets.BoundedIntText(
            value=0, min=0, max=2**31 - 1, description="seed", style=_WIDE
        )
        self.train_button = widgets.Button(description="Train", icon="play", button_style="primary")
        self.stop_button = widgets.Button(description="Stop", icon="stop", disabled=True)
        self.reset_button = widgets.Button(description="Reset", icon="refresh")
        self.status = widgets.HTML("Ready.")
        self.picture = widgets.Image(
            value=preview, format="png", layout=widgets.Layout(max_width="100%")
        )
        self.train_button.on_click(lambda _: self.start())
        self.stop_button.on_click(lambda _: self.stop())
        self.reset_button.on_click(lambda _: self.reset())
        buttons = widgets.HBox([self.train_button, self.stop_button, self.reset_button])
        live = widgets.VBox([*self.dials.values(), self.seed, buttons, self.status])
        live.add_class("rlbook-live")
        note = widgets.HTML(
            _BOOK_NOTE.format(
                "Live in the notebook: this panel trains there. Below, the pre-computed curve."
            )
        )
        self.widget = widgets.VBox([live, note, self.picture])

    def config(self) -> Any:
        """The config that the dials say."""
        return dataclasses.replace(
            self.default, **{name: dial.value for name, dial in self.dials.items()}
        )

    def start(self) -> None:
        """Train with the dials' settings, from where a stopped run of the same settings ended."""
        if self._thread and self._thread.is_alive():
            return
        wanted = (self.config(), self.seed.value)
        state = self.run.state if wanted == self._trained and not self.run.finished else None
        if not state:
            if self.run.steps:
                self.earlier = [*self.earlier[-3:], self.run]
            self.run = Run()
        self._trained = wanted
        self._stop.clear()
        self._thread = threading.Thread(target=self._work, args=(*wanted, state), daemon=True)
        self._buttons(training=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask the training to stop after the unit of work in hand; nothing learned is lost."""
        self._stop.set()

    def wait(self, timeout: float | None = None) -> None:
        """Block until training has ended."""
        if self._thread:
            self._thread.join(timeout)

    def reset(self) -> None:
        """Stop, forget all runs and put every dial back."""
        self.stop()
        self.wait()
        self.run, self.earlier, self._trained = Run(), [], None
        for name, dial in self.dials.items():
            dial.value = getattr(self.default, name)
        self.status.value, self.picture.value = "Ready.", b""

    def _work(self, config: Any, seed: int, state: dict | None) -> None:
        drawn = 0.0
        try:
            for progress in self.train(config, seed, **({"state": state} if state else {})):
                self.run.add(progress)
                last = self._stop.is_set() or progress.step >= progress.total
                if last or time.perf_counter() - drawn > 0.7:
                    self.picture.value = plots.to_png(
                        live_curve(self.run, earlier=self.earlier, **self.curve)
                    )
                    drawn = time.perf_counter()
                word = "" if not last else "Done: " if self.run.finished else "Stopped: "
                self.status.value = f"{word}{progress.unit} {progress.step} of {progress.total}"
                if last:
                    self.run.state = progress.state()
                    break
        except Exception as error:  # shown to the reader; the last run is still there
            self.status.value = f"<b>{type(error).__name__}</b>: {error}"
        finally:
            self._buttons(training=False)

    def _buttons(self, training: bool) -> None:
        self.train_button.disabled, self.stop_button.disabled = training, not training


def panel(train: Callable[..., Iterator[Progress]], config: Any, *, preview: bytes = b"", **curve: Any) -> Panel:  # fmt: skip
    """Show a ``Panel`` and return it. preview: a PNG to show before the first training, and in the static book."""
    made = Panel(train, config, preview=preview, **curve)
    show(made.widget, preview)
    return made


def _dial(field: dataclasses.Field, value: float | str) -> widgets.Widget:
    common = {"description": field.name.replace("_", " "), "tooltip": field.metadata.get("help", ""),
              "style": _WIDE, "layout": widgets.Layout(width="30em")}  # fmt: skip
    if "options" in field.metadata:
        return widgets.Dropdown(options=tuple(field.metadata["options"]), value=value, **common)
    if isinstance(value, bool):
        return widgets.Checkbox(value=value, indent=False, **common)
    low, high, step = field.metadata["low"], field.metadata["high"], field.metadata["step"]
    if isinstance(value, int):
        return widgets.IntSlider(value=value, min=low, max=high, step=step or 1, **common)
    return widgets.FloatSlider(
        value=value,
        min=low,
        max=high,
        step=step or (high - low) / 100,
        readout_format=".3g",
        **common,
    )
