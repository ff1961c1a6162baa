"""Figures in one style: colours that colour-blind readers tell apart and that stand on light and dark pages."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

if TYPE_CHECKING:
    from rlbook_utils.run import Run

# Okabe and Ito (2008), reordered: the first five keep a contrast of 3:1 on white and on a dark page.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#B5559B", "#8A6D00", "#4D8FCC", "#7A7A7A")
INK = "#767676"

STYLE = {
    "figure.figsize": (7.2, 3.4),
    "figure.dpi": 100,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "none",
    "savefig.bbox": "tight",
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=COLOURS),
    "grid.color": INK,
    "grid.alpha": 0.18,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 2.0,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.size": 10,
}


def use_style() -> None:
    """Make every figure of this notebook look like the book's."""
    mpl.rcParams.update(STYLE)


def number(value: float) -> str:
    """A number as a reader would write it: four digits, thousands separated."""
    if not np.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"


def to_png(figure: Figure) -> bytes:
    """The figure as PNG bytes, in 256 colours, which makes it a third of the size."""
    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png")
    Image.open(full).quantize(256, method=Image.Quantize.FASTOCTREE).save(
        small, "PNG", optimize=True
    )
    return small.getvalue()


def live_curve(
    run: "Run",
    metric: str | None = None,
    floor: float | None = None,
    earlier: Sequence["Run"] = (),
    floor_label: str = "random policy",
) -> Figure:
    """One metric of a run so far, over the whole width of the run.

    floor: a value to beat. earlier: runs to draw faintly behind it.
    """
    metric = metric or next(iter(run.metrics))
    figure = Figure(figsize=(7.2, 2.6))
    axes = figure.subplots()
    for other in earlier:
        axes.plot(other.steps, other[metric], color=INK, alpha=0.4, linewidth=1.2)
    axes.plot(run.steps, run[metric], marker="." if len(run.steps) < 60 else "")
    if floor is not None:
        axes.axhline(floor, color=INK, linestyle=":", label=floor_label)
        axes.legend(loc="best")
    axes.set(xlim=(0, max(run.total, 1)), xlabel=run.unit, ylabel=metric.replace("_", " "))
    return figure


def bands(axes: Axes, x: Sequence[float], curves: np.ndarray, label: str, **line: object) -> None:
    """The mean over seeds as a line, and its 95 % bootstrap interval as a band. curves: [S, T]."""
    curves = np.atleast_2d(curves)
    (drawn,) = axes.plot(x, curves.mean(0), label=f"{label} ({len(curves)} seeds)", **line)
    low, high = bootstrap(curves)
    axes.fill_between(x, low, high, color=drawn.get_color(), alpha=0.2, linewidth=0)


def bars(axes: Axes, values: Mapping[str, Sequence[float]]) -> None:
    """One horizontal bar per name: the mean over seeds, its 95 % interval, and each seed as a dot."""
    for row, seeds in enumerate(values.values()):
        mean, (low, high) = np.mean(seeds), bootstrap(np.asarray(seeds, float)[:, None])
        axes.barh(row, mean, height=0.6, color=COLOURS[row % len(COLOURS)], alpha=0.75)
        axes.errorbar(mean, row, xerr=[[mean - low[0]], [high[0] - mean]], color=INK, capsize=3)
        axes.plot(
            seeds, np.full(len(seeds), row), "o", color=INK, markersize=4, markerfacecolor="none"
        )
    axes.set_yticks(range(len(values)), list(values))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)


def bootstrap(
    samples: np.ndarray, statistic: str = "mean", repeats: int = 2000
) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % percentile bootstrap interval of the mean or median over seeds. samples: [S, ...] -> two [...]."""
    rng = np.random.default_rng(0)
    draws = samples[rng.integers(len(samples), size=(repeats, len(samples)))]  # [R, S, ...]
    low, high = np.percentile(getattr(np, statistic)(draws, axis=1), [2.5, 97.5], axis=0)
    return low, high
