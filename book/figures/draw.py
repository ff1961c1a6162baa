"""Draw the diagrams of chapters 03 and 03b: ``python book/figures/draw.py``. Text and lines show on light and dark pages."""

from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from rlbook_utils import plots

HERE = Path(__file__).parent
INK, (INVERSE, FORWARD) = plots.INK, plots.COLOURS[:2]


def draw(axes: Axes, texts: Iterable[tuple], arrows: Iterable[tuple]) -> None:
    """texts: (x, y, text, colour), in frames. arrows: (from, to, colour, line style)."""
    for x, y, text, colour in texts:
        frame = {"boxstyle": "round,pad=0.5", "facecolor": "none", "edgecolor": colour}
        axes.text(x, y, text, ha="center", va="center", fontsize=9, bbox=frame)
    for start, end, colour, style in arrows:
        look = {"arrowstyle": "->", "color": colour, "linestyle": style, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", end, start, arrowprops=look)
    axes.set_axis_off()


def icm() -> None:
    """Three networks, two losses: solid what is computed, dashed how far each loss is felt."""
    figure, axes = plt.subplots(figsize=(8.0, 2.9))
    texts = [
        (0, 3, "$s_t$", INK), (0, 1, "$s_{t+1}$", INK),
        (2, 3, "encoder $\\phi$", INVERSE), (2, 1, "encoder $\\phi$", INVERSE),
        (5.5, 3.6, "forward model $f$", FORWARD), (9.5, 3.6, "$L_{\\mathrm{fwd}}$: the surprise", FORWARD),
        (5.5, 0.4, "inverse model $g$", INVERSE), (9.5, 0.4, "$L_{\\mathrm{inv}}$: was it $a_t$?", INVERSE),
    ]  # fmt: skip
    solid = [
        ((0.5, 3), (1.1, 3)), ((0.5, 1), (1.1, 1)), ((2.9, 3.05), (4.1, 3.5)), ((2.9, 0.95), (4.1, 0.5)),
        ((2.9, 2.85), (4.1, 0.75)), ((2.9, 1.15), (8.1, 3.3)), ((6.9, 3.6), (8.0, 3.6)), ((6.9, 0.4), (8.0, 0.4)),
        ((5.5, 4.6), (5.5, 4.1)),
    ]  # fmt: skip
    dashed = [
        ((8.0, 3.85), (6.9, 3.85), FORWARD), ((4.1, 3.75), (3.6, 3.56), FORWARD), ((8.1, 3.05), (7.6, 2.85), FORWARD),
        ((8.0, 0.15), (6.9, 0.15), INVERSE), ((4.1, 0.25), (2.9, 0.7), INVERSE), ((4.0, 0.65), (2.7, 2.6), INVERSE),
    ]  # fmt: skip
    computed = [(*arrow, INK, "-") for arrow in solid]
    draw(axes, texts, [*computed, *((*arrow, "--") for arrow in dashed)])
    axes.text(5.5, 4.7, "$a_t$", ha="center")
    axes.vlines((3.5, 7.5), (3.05, 2.6), (3.75, 3.3), color=FORWARD, linewidth=4)
    axes.set(xlim=(-0.4, 10.9), ylim=(0, 5))
    figure.savefig(HERE / "icm.svg")


def channel() -> None:
    """Message, channel, what arrives: in Shannon's words above, in an agent's below."""
    figure, axes = plt.subplots(figsize=(8.0, 2.0))
    columns = [
        (1.2, "message $x$", "$n$ actions $a_1 \\dots a_n$", INVERSE),
        (5.2, "channel $p(y \\mid x)$", "the world, from $s_t$ on", INK),
        (9.2, "what arrives, $y$", "the state $s_{t+n}$", FORWARD),
    ]
    texts = [(x, y, text, colour) for x, *both, colour in columns for y, text in zip((2, 0.5), both, strict=True)]  # fmt: skip
    arrows = [((x, y), (x + 1.3, y), INK, "-") for x in (2.6, 6.7) for y in (2, 0.5)]
    draw(axes, texts, [*arrows, ((5.2, 3.1), (5.2, 2.45), INK, "-")])  # fmt: skip
    axes.text(5.2, 3.15, "noise: flips, slips", ha="center", va="bottom", fontsize=9)
    axes.set(xlim=(-0.3, 10.7), ylim=(0, 3.6))
    figure.savefig(HERE / "channel.svg")


def mario() -> None:
    """Who plays, who pays, who learns from what: solid what is computed, dashed who learns."""
    figure, axes = plt.subplots(figsize=(8.6, 3.1))
    texts = [
        (0.7, 2.4, "32 games", INK), (3.2, 2.4, "rollout: 64\ndecisions of each", INK),
        (6.0, 4.2, "curiosity", FORWARD), (8.3, 4.2, "surprise", FORWARD), (7.0, 2.4, "game's reward", INK),
        (10.3, 2.4, "advantages:\nbetter than expected?", INVERSE), (6.0, 0.5, "eyes, policy, two values", INVERSE),
    ]  # fmt: skip
    solid = [
        ((1.45, 2.4), (2.0, 2.4)), ((4.4, 2.4), (5.9, 2.4)), ((3.9, 3.1), (5.2, 4.0)), ((6.75, 4.3), (7.6, 4.3)),
        ((8.8, 3.75), (9.7, 3.1)), ((8.1, 2.4), (8.8, 2.4)), ((4.4, 0.5), (0.9, 1.9)), ((3.5, 1.75), (4.6, 0.95)),
        ((7.3, 0.95), (9.1, 1.75)),
    ]  # fmt: skip
    dashed = [((7.6, 4.05), (6.75, 4.05), FORWARD), ((10.3, 1.7), (7.65, 0.4), INVERSE)]
    computed = [(*arrow, INK, "-") for arrow in solid]
    draw(axes, texts, [*computed, *((*arrow, "--") for arrow in dashed)])
    for x, y, word in ((2.0, 0.75, "plays"), (7.2, 3.55, "one pass"), (9.6, 0.6, "four passes")):
        axes.text(x, y, word, ha="center", fontsize=8)
    axes.set(xlim=(-0.2, 12.0), ylim=(0, 4.8))
    figure.savefig(HERE / "mario.svg")


if __name__ == "__main__":
    plots.use_style()
    plt.rcParams["svg.hashsalt"] = "rlbook"  # equal drawings, equal files
    icm()
    channel()
    mario()
