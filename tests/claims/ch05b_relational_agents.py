"""What chapter 05b says about its world and its stored runs."""

import numpy as np
from scipy import stats

from rlbook_utils import results
from rlbook_utils.definitions import load_chapter

CHAPTER = load_chapter("ch05b_relational_agents")
_a6 = lambda name, metric: results.metric("A6", name, metric)


def speed():
    """A thousand worlds: above a million steps a second, each for a few steps of one; MiniGrid without its view: 30 times."""
    one, thousand, theirs, blind = (
        _a6("speed", name) for name in ("worlds_1", "worlds_1024", "minigrid", "minigrid_blind")
    )
    assert (thousand > 1e6).all() and 0.5 < np.median(one) / np.median(theirs) < 3
    assert 1 < 1024 * np.median(one) / np.median(thousand) < 6
    assert (blind > 10 * theirs).all() and (blind < 100 * theirs).all()
    assert 20 < np.median(blind) / np.median(theirs) < 45
    assert (thousand > 5 * blind).all()


def reflexes():
    """Random play: above a third at every side; the reflex: above four of five; the agent: a ninth of its steps."""
    random = {side: _a6("floors", f"random_{side}").mean() for side in CHAPTER.SIDES}
    reflex = {side: _a6("floors", f"score_{side}") for side in CHAPTER.SIDES}
    assert min(random.values()) > 1 / 3 and max(random.values()) < 0.45
    for side, score in reflex.items():
        assert score.min() > 0.8 and score.mean() > 2 * random[side]
    share = _a6("dot", "judged_steps").mean() / _a6("floors", "steps_5").mean()
    assert 1 / 9.5 < share < 1 / 8.5
    return 100 * reflex[5].mean(), 100 * reflex[16].mean()


def rivals():
    """Everybody solves DoorKey; the row of tokens is the fastest, pictures take the most updates."""
    judged = {name: _a6(name, "judged") for name in CHAPTER.NETS}
    assert (judged["dot"] == 1).all()
    assert [name for name, found in judged.items() if (found < 0.99).any()] == ["even"]
    steps, fewest = _a6("dot", "judged_steps").mean(), _a6("floors", "fewest").mean()
    first = {}
    for name in CHAPTER.NETS:
        reached = results.curves("A6", name, "reached") >= 0.99
        assert reached.any(1).all()
        first[name] = CHAPTER.UPDATES * (1 + reached.argmax(1))
    pictures = first.pop("picture")
    others = np.concatenate(list(first.values()))
    seconds = {name: np.median(_a6(name, "seconds")) for name in CHAPTER.NETS}
    assert 2 * seconds.pop("flat") < min(seconds.values())
    worst = judged["even"].min()
    spans = [end for first in (others, pictures) for end in (first.min(), first.max())]
    longest = [
        _a6(name, "judged_steps").max() for name in ("dot", "flat", "own", "additive", "even")
    ]
    return steps, fewest, 100 * worst, *spans, *longest


def premise():
    """At 16 x 16 play with all actions alike hardly wins, play with better odds as often as at 5 x 5."""
    good = {side: _a6("floors", f"random_{side}").mean() for side in (5, 16)}
    assert good[16] > 0.9 * good[5]
    return (100 * _a6("floors", "even_16").mean(),)


def bets():
    """Single Q-learning takes the losing table for a good one, and most go there; double Q-learning does not."""
    found = {}
    for double in (False, True):
        value, share = CHAPTER.value_of_left(double, 300, 10_000, np.random.default_rng(0))
        found[double] = value, share
    assert found[False][0].max() > 0.1 and found[True][0].max() < 0.01
    assert found[False][1].max() > 0.9 and found[True][1][50:].max() < 0.5


def estimates():
    """One step: within a hundredth of the best; five steps: 0.12 below, either way; 0.07 with little random play."""
    last = {
        way: results.metric("A7", way, "last")
        for way in ("single_1", "double_1", "single_5", "double_5", "little_5")
    }
    largest = results.metric("A7", "single_1", "largest")
    assert largest.min() > 0 and largest.max() < 0.01 and last["single_1"].mean() > 0
    assert (last["double_1"] > -0.01).all() and last["double_1"].mean() < 0
    for way in ("single_1", "double_1"):
        own = results.metric("A7", way, "over_own")
        assert own.min() > 0.005 and own.max() < 0.035
    five = np.array([last["single_5"].mean(), last["double_5"].mean()])
    assert (abs(five + 0.12) < 0.01).all()
    return (last["little_5"].mean(),)


_epsilon = lambda e, what: results.metric("A8", f"epsilon_{e:g}", what)


def chance():
    """An inverted U: nothing at 0.01, the top at 0.5 after 500 and 1,000 updates, less at 0.95."""
    half, end = (
        {e: 100 * _epsilon(e, f"score_{updates}").mean() for e in CHAPTER.EPSILONS}
        for updates in (500, 1_000)
    )
    assert (_epsilon(0.01, "score_1000") == 0).all() and half[0.01] == 0
    assert (
        (_epsilon(0.1, "score_1000") > 0.5).sum(),
        (_epsilon(0.5, "score_1000") > 0.5).all(),
    ) == (
        3,
        True,
    )
    assert max(half, key=half.get) == max(end, key=end.get) == 0.5
    assert half[0.5] - half[0.95] > 20 and end[0.5] - end[0.95] < 5
    return half[0.05], half[0.5], half[0.95]


def disturbed():
    """Trained at 0.8 or 0.95 nowhere better than at 0.5, up to ε = 0.6 in play; a little chance in play helps them."""
    means = {
        e: results.curves("A8", f"epsilon_{e:g}", "by_noise").mean(0) for e in CHAPTER.EPSILONS
    }
    for e in (0.8, 0.95):
        assert (means[e][:5] < means[0.5][:5]).all() and means[e][0] < means[e][1] < means[e][2]


def frames():
    """On the grid attention is ahead after 1,200 updates, and not clearly of its copy after 3,000; all below the reflex."""
    short = {name: 100 * _a6(f"grid_{name}", "score_8") for name in ("own", "even", "flat")}
    dot = 100 * _a6("apart_grid", "score_8")
    long = {
        name: 100 * results.metric("A9", f"size_8_grid_{name}", "score_8")
        for name in ("dot", "own", "even")
    }
    framed = [
        _a6(name, "score_8") for name in ("apart_all", "eight_own", "eight_even", "eight_flat")
    ]
    assert min(scores.min() for scores in framed) > 0.96
    for other in short.values():
        apart, half = _lead(dot, other)
        assert apart > half
    apart, half = _lead(long["dot"], long["own"])
    assert (
        abs(apart) < half
        and _lead(long["dot"], long["even"])[0] > _lead(long["dot"], long["even"])[1]
    )
    assert (
        max(scores.max() for scores in (dot, *long.values()))
        < 100 * _a6("floors", "score_8").mean() - 10
    )
    others = max(short["even"].max(), short["flat"].max())
    ends = [end for name in long for end in (long[name].min(), long[name].max())]
    return dot.min(), dot.max(), short["own"].max(), others, *ends


_a9 = lambda name, metric: results.metric("A9", name, metric)


def curriculum():
    """It works, and nothing of it needs a curriculum."""
    at = {side: 100 * _a9("curriculum", f"score_{side}") for side in CHAPTER.SIDES}
    assert _a9("curriculum", "seconds").min() > 34 and _a9("curriculum", "seconds").max() <= 40.5
    assert (
        at[11].min() > 99.4
        and _a9("size_8", "score_8").min() >= 0.996
        and (_a9("size_11", "score_11") == 1).all()
    )
    apart, half = _lead(at[16], 100 * _a9("size_11", "score_16"))
    assert abs(apart) < half and _a6("apart_all", "score_11").min() > 0.965
    reflex, steps = 100 * _a6("floors", "score_16").mean(), _a6("floors", "steps_16").mean()
    return at[8].min(), at[16].min(), reflex, _a9("curriculum", "steps_16").mean(), steps


def carries():
    """Without attention the curriculum ends as high; with it three of five forget some of their first room."""
    dot = 100 * _a9("curriculum", "score_16")
    for name in ("own", "even"):
        apart, half = _lead(dot, 100 * _a9(f"curriculum_{name}", "score_16"))
        assert abs(apart) < half
    first = np.sort(100 * _a9("curriculum", "score_5"))
    assert (first[3:] == 100).all() and first[2] < 95
    return first[0], first[2]


def in_short():
    """The numbers of the summary."""
    assert 17 < np.median(_a6("dot", "seconds")) < 24
    frames()
    return (100 * _a6("floors", "score_5").mean(),)


def apart():
    """Steps before a goal and the frame decide; random play decides whether a run begins; the rest costs little."""
    score = {name: 100 * _a6(f"apart_{name}", "score_8") for name in CHAPTER.APART}
    floor = 100 * _a6("floors", "score_8").mean()
    assert (score["all"] > 99).all() and score["no_near"].max() <= 10 and score["grid"].max() < 40
    assert np.sort(score["shifted"])[1] > 96 and score["shifted"].min() < 90
    none, some = np.sort(score["no_random"])[:2], np.sort(score["no_random"])[2:]
    assert (none == 0).all() and (some > 98).all()
    for name in ("one_step", "slow_target"):
        assert score["all"].min() > score[name].max() and score[name].mean() > 90
    for name in ("single", "far_sighted"):
        assert np.sort(score[name])[1] > 99.5
    return (floor,)


def _needs(name, what):
    """A measure of row A10 by object and phase, in percent: [S] each."""
    return {
        (thing, phase): 100 * results.metric("A10", f"needs_{name}", f"{what}_{thing}_{phase}")
        for thing in ("key", "door", "goal")
        for phase in range(3)
    }


def _lead(ahead, behind):
    """How far apart two means are, and half the width of a 95 % interval (Welch)."""
    test = stats.ttest_ind(ahead, behind, equal_var=False).confidence_interval()
    return ahead.mean() - behind.mean(), (test.high - test.low) / 2


def sides():
    """In rooms not seen: below the reflex; attention ahead of all alike and the row, not clearly of itself only."""
    score = {name: 100 * _a6(name, "score_8") for name in ("dot", "own", "even", "flat")}
    reflex = 100 * _a6("floors", "score_8").mean()
    assert max(found.mean() for found in score.values()) < reflex
    for name, clear in (("own", False), ("even", True), ("flat", True)):
        apart, half = _lead(score["dot"], score[name])
        assert (apart > half) == clear and apart > 0
    return *(score[name].mean() for name in ("dot", "own", "even", "flat")), reflex


def hidden():
    """First the look at the key, then at the door; all alike need everything; weight without need; not the agent's row."""
    flips, even = _needs("dot", "hide"), _needs("even", "hide")
    key, door = flips["key", 0], flips["door", 1]
    assert max(flips["door", 0].max(), flips["goal", 0].max()) < 3.5
    assert max(flips["key", 1].max(), flips["goal", 1].max()) < 7.5
    assert min(even[thing, 0].mean() for thing in ("key", "door", "goal")) > 15
    weight, alone = _needs("dot", "weight")["door", 0], _needs("dot", "hide_by_agent")["key", 0]
    ends = [end for seeds in (key, door, weight, alone) for end in (seeds.min(), seeds.max())]
    assert alone.mean() < key.mean() / 2
    return (*ends, 3)


def played():
    """Without its looks the agent loses, without any the other network does not."""
    dot, own = (
        {
            thing: 100 * results.metric("A10", f"needs_{name}", f"played_{thing}")
            for thing in CHAPTER.HIDDEN
        }
        for name in ("dot", "own")
    )
    assert dot["nothing"].min() > 99 and all((seeds > 99).all() for seeds in own.values())
    return dot["door"].max(), dot["key"].max(), *dot["goal"]


def covered():
    """Covering the key changes the actions of the network that never looks as often."""
    own, dot = _needs("own", "cover")["key", 0], _needs("dot", "cover")["key", 0]
    assert (_needs("own", "hide")["key", 0] == 0).all() and abs(own.mean() - dot.mean()) < 5
    return own.min(), own.max()
