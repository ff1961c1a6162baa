"""What chapter 05b says about its world and its stored runs."""

import numpy as np

from rlbook_utils import results
from rlbook_utils.definitions import load_chapter

CHAPTER = load_chapter("ch05b_relational_agents")
A6 = lambda name, metric: results.metric("A6", name, metric)


def speed():
    """A thousand worlds make at least a million steps a second on one core; one alone is no faster than MiniGrid's."""
    assert (A6("speed", "worlds_1024") > 1e6).all()
    assert np.median(A6("speed", "worlds_1")) < 2 * np.median(A6("speed", "minigrid"))


def rivals():
    """Everybody solves DoorKey; the row of tokens is the fastest, pictures take the most updates."""
    judged = {name: A6(name, "judged") for name in CHAPTER.NETS}
    assert (judged["dot"] == 1).all()
    assert [name for name, found in judged.items() if (found < 0.99).any()] == ["even"]
    steps, fewest = A6("dot", "judged_steps").mean(), A6("floors", "fewest").mean()
    first = {}
    for name in CHAPTER.NETS:
        reached = results.curves("A6", name, "reached") >= 0.99
        assert reached.any(1).all()
        first[name] = CHAPTER.UPDATES * (1 + reached.argmax(1))
    pictures = first.pop("picture")
    others = np.concatenate(list(first.values()))
    assert others.min() > 300 and others.max() <= 500
    assert pictures.min() >= 550 and pictures.max() < 700
    seconds = {name: np.median(A6(name, "seconds")) for name in CHAPTER.NETS}
    assert 2 * seconds.pop("flat") < min(seconds.values())
    worst = judged["even"].min()
    return f"{steps:.1f}", f"{fewest:.1f}", f"{100 * worst:.1f}"
