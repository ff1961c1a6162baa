"""Figures in one style: colours that colour-blind readers tell apart and that stand on light and dark pages."""

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from rlbook_utils.numbers import spread_of

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


def to_png(figure: Figure) -> bytes:
    """The figure as PNG bytes, in 256 colours, which makes it a third of the size."""
    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png")
    Image.open(full).quantize(256, method=Image.Quantize.FASTOCTREE).save(
        small, "PNG", optimize=True
    )
    return small.getvalue()


def bands(
    axes: Axes,
    x: Sequence[float],
    curves: np.ndarray,
    label: str,
    statistic: str = "mean",
    **line: object,
) -> None:
    """The mean over seeds as a line, each seed as a thin one, and their 95 % interval or range as a band.

    curves: [S, T]. statistic: "mean", or "median", which suits a logarithmic axis. ``spread_of`` says what the band is.
    """
    curves = np.atleast_2d(curves)
    middle = getattr(np, statistic)(curves, axis=0)
    (drawn,) = axes.plot(x, middle, label=f"{label} ({len(curves)} seeds)", **line)
    look = {"color": drawn.get_color(), "zorder": drawn.zorder - 0.1}
    spread = spread_of(curves, statistic)
    axes.fill_between(x, spread.low, spread.high, alpha=0.15, linewidth=0, **look)
    axes.plot(x, curves.T, alpha=0.35, linewidth=0.7, **look)


def bars(axes: Axes, values: Mapping[str, Sequence[float]]) -> None:
    """One horizontal bar per name: the mean over seeds, their 95 % interval or range, and each seed as a dot."""
    for row, seeds in enumerate(values.values()):
        mean, spread = np.mean(seeds), spread_of(seeds)
        axes.barh(row, mean, height=0.6, color=COLOURS[row % len(COLOURS)], alpha=0.75)
        # Where all seeds are equal, rounding may take a difference below 0.
        away = np.abs([[mean - spread.low], [spread.high - mean]])
        axes.errorbar(mean, row, xerr=away, color=INK, capsize=3)
        axes.plot(
            seeds, np.full(len(seeds), row), "o", color=INK, markersize=4, markerfacecolor="none"
        )
    axes.set_yticks(range(len(values)), list(values))
    axes.yaxis.set_inverted(True)  # for panels that share the axis, too
    axes.grid(axis="y", visible=False)
