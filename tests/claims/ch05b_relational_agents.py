"""What chapter 05b says about its world and its stored runs."""

import numpy as np
from scipy import stats

from rlbook_utils import results
from rlbook_utils.definitions import load_chapter

CHAPTER = load_chapter("ch05b_relational_agents")
_a6 = lambda name, metric: results.metric("A6", name, metric)
_a9 = lambda name, metric: results.metric("A9", name, metric)


def speed():
    """A thousand worlds: above a million steps a second, each for a few steps of one; MiniGrid blind: nearly 40 times."""
    one, thousand, theirs, blind = (
        _a6("speed", name) for name in ("worlds_1", "worlds_1024", "minigrid", "minigrid_blind")
    )
    assert (thousand > 1e6).all() and 0.5 < np.median(one) / np.median(theirs) < 3
    assert 1 < 1024 * np.median(one) / np.median(thousand) < 6
    assert (blind > 10 * theirs).all() and (blind < 100 * theirs).all()
    assert 35 < np.median(blind / theirs) < 40
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
    for name in ("own", "even"):  # of the two controls' caption
        assert 0.7 < seconds[name] / seconds["dot"] < 0.85
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
    assert abs(_price(0.05, CHAPTER.RoomsConfig().discount) - 0.013) < 0.0005
    return (last["little_5"].mean(),)


def prices():
    """What play at ε = 0.05 earns less than is expected, and what ε costs the best player."""
    owns = [results.metric("A7", way, "over_own").mean() for way in ("single_1", "double_1")]
    return (*owns, _price(0.05, CHAPTER.RoomsConfig().discount))


def _price(epsilon, discount):
    """What a share of random actions costs the best player, on average over states of random play."""
    states = CHAPTER.some_states(5, 300, 1)
    tokens = states.tokens.reshape(len(states.tokens), -1)
    _, once, number = np.unique(tokens, axis=0, return_index=True, return_inverse=True)
    follows, best = CHAPTER.all_states(CHAPTER.select(states, once)), []
    for share in (0, epsilon):
        value = np.zeros(len(follows) + 1)
        for _ in range(500):
            ahead = np.where(follows < 0, 1, discount * value[follows])
            value[:-1] = (1 - share) * ahead.max(1) + share * ahead.mean(1)
        best.append(value[number.ravel()])
    return (best[0] - best[1]).mean()


_epsilon = lambda e, what: results.metric("A8", f"epsilon_{e:g}", what)


def chance():
    """An inverted U after 500 and 1,000 updates, its top at 0.5, not told from 0.2 and 0.8; after 250 the top is at 0.95."""
    early, half, end = (
        {e: 100 * _epsilon(e, f"score_{updates}").mean() for e in CHAPTER.EPSILONS}
        for updates in (250, 500, 1_000)
    )
    assert (_epsilon(0.01, "score_1000") == 0).all() and half[0.01] == 0
    assert (_epsilon(0.1, "score_1000") > 0.5).sum() == 3
    assert (_epsilon(0.5, "score_1000") > 0.5).all()
    assert max(half, key=half.get) == max(end, key=end.get) == 0.5
    assert max(early, key=early.get) == 0.95
    assert half[0.5] - half[0.95] > 20 and end[0.5] - end[0.95] < 5
    for e in (0.2, 0.8):
        for updates in (500, 1_000):
            apart, width = _lead(_epsilon(0.5, f"score_{updates}"), _epsilon(e, f"score_{updates}"))
            assert 0 < apart < width
    return half[0.05], half[0.5], half[0.95]


def disturbed():
    """With three of five actions by lot those who learned at 0.5 are ahead and near the best player; below and above less."""
    noise = {}
    for e in CHAPTER.EPSILONS[2:]:
        learned = _epsilon(e, "score_1000") > 0.9
        noise[e] = 100 * results.curves("A8", f"epsilon_{e:g}", "by_noise")[learned]
    assert [len(seeds) for seeds in noise.values()] == [3, 4, 5, 5, 5]
    at, quiet = CHAPTER.NOISES.index(0.6), {e: seeds.mean(0)[:3] for e, seeds in noise.items()}
    means = {e: seeds[:, at].mean() for e, seeds in noise.items()}
    assert max(means, key=means.get) == 0.5 and means[0.1] < means[0.2]
    for e in (0.8, 0.95):
        assert (noise[e].mean(0)[:5] < noise[0.5].mean(0)[:5]).all()
        assert (np.diff(quiet[e]) > 5).all()
    for e in (0.1, 0.2):
        apart, width = _lead(noise[0.5][:, at], noise[e][:, at])
        assert 0 < apart < width
    stock = CHAPTER.Rooms(CHAPTER.doorkey, 2_000, 5, np.random.default_rng(3))
    _, once = np.unique(stock.tokens.reshape(2_000, -1), axis=0, return_index=True)
    follows = CHAPTER.all_states(CHAPTER.select(stock, once))
    best = 100 * CHAPTER.perfect(follows, 0.6, 50)[: len(once)].mean()
    return *means.values(), best


def frames():
    """On the grid attention is ahead after 1,200 updates, not clearly of its copy after 3,000; loops hide skill."""
    nets = ("dot", "own", "even", "flat")
    short = dict(
        zip(nets, (f"apart_grid {' '.join(f'grid_{n}' for n in nets[1:])}").split(), strict=True)
    )
    long = {name: f"size_8_grid_{name}" for name in nets[:3]}
    score = {n: 100 * _a6(run, "score_8") for n, run in short.items()}
    later = {n: 100 * _a9(run, "score_8") for n, run in long.items()}
    told = {n: _ending("A6", run) for n, run in short.items()}
    told_later = {n: _ending("A9", run) for n, run in long.items()}
    framed = ("apart_all", "eight_own", "eight_even", "eight_flat")
    assert min(_a6(run, "score_8").min() for run in framed) > 0.96
    for seeds in (score, told):
        for other in nets[1:]:
            apart, half = _lead(seeds["dot"], seeds[other])
            assert apart > half
    for seeds in (later, told_later):
        apart, half = _lead(seeds["dot"], seeds["own"])
        assert 0 < apart < half
        apart, half = _lead(seeds["dot"], seeds["even"])
        assert apart > half
    floor = 100 * _a6("floors", "score_8").mean()
    assert max(seeds.max() for seeds in (*score.values(), *later.values())) < floor - 10
    assert told_later["dot"].min() > floor
    first = []
    for run in ("size_8_grid_dot", "size_8"):
        reached = results.curves("A9", run, "reached") >= 0.9
        assert reached.any(1).all()
        first.append(CHAPTER.UPDATES * (1 + reached.argmax(1)))
    random = [100 * _a6("floors", f"{odds}_8").mean() for odds in ("even", "random")]
    few = sum((seeds > random[1]).sum() for seeds in score.values())
    assert few == 1  # of the scores at 0.05 after 1,200 updates, twenty agents
    spans = [*later.values(), *told_later.values(), *told.values(), *first]
    ends = [end for seeds in spans for end in (seeds.min(), seeds.max())]
    return floor, random[1], *ends


def _ending(row, run):
    """Goals in the last five reports of a training, in percent: [S]."""
    return 100 * results.curves(row, run, "reached")[:, -5:].mean(1)


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
    assert abs(apart) < half
    reflex, steps = 100 * _a6("floors", "score_16").mean(), _a6("floors", "steps_16").mean()
    scratch = 100 * _a9("size_16", "score_16")
    assert scratch.max() == 100
    return (
        at[8].min(),
        at[16].min(),
        reflex,
        _a9("curriculum", "steps_16").mean(),
        steps,
        scratch.min(),
    )


def carries():
    """Without attention the curriculum ends as high; with it three of five do not master their first room."""
    dot = 100 * _a9("curriculum", "score_16")
    for name in ("own", "even"):
        apart, half = _lead(dot, 100 * _a9(f"curriculum_{name}", "score_16"))
        assert abs(apart) < half
    first = np.sort(100 * _a9("curriculum", "score_5"))
    assert (first[3:] == 100).all() and first[2] < 95
    alone = np.sort(100 * _a9("size_8", "score_5"))
    assert (alone[1:] == 100).all() and _a9("size_11", "score_5").max() == 1
    return first[0], first[2], 100 * _a9("size_11", "score_5").min(), alone[0]


def in_short():
    """The numbers of the summary."""
    assert 17 < np.median(_a6("dot", "seconds")) < 24
    frames()
    return (100 * _a6("floors", "score_5").mean(),)


def loops():
    """The same agents at two epsilons."""
    share = _a6("loose_dot", "steps_8").mean() / _a6("floors", "steps_8").mean()
    assert 0.45 < share < 0.55
    runs = ("dot", "loose_dot", "own", "loose_own")
    return tuple(100 * _a6(run, "score_8").mean() for run in runs)


def grid_loops():
    """The curriculum on the grid: goals at the end of its training at 11 × 11, and scores there."""
    scores, trained = 100 * _a9("curriculum_grid", "score_11"), _ending("A9", "curriculum_grid")
    return trained.min(), trained.max(), scores.min(), scores.max()


def apart():
    """Steps before a goal and the frame decide; random play decides whether a run begins; the rest costs little."""
    score = {name: 100 * _a6(f"apart_{name}", "score_8") for name in CHAPTER.APART}
    floor = 100 * _a6("floors", "score_8").mean()
    assert (score["all"] > 99).all() and score["no_near"].max() <= 10 and score["grid"].max() < 40
    assert np.sort(score["shifted"])[1] > 96 and score["shifted"].min() < 90
    none, some = np.sort(score["no_random"])[:2], np.sort(score["no_random"])[2:]
    assert (none == 0).all() and (some > 98).all()
    blind, grid = _ending("A6", "apart_no_near"), _ending("A6", "apart_grid")
    for name in ("one_step", "slow_target"):
        assert score["all"].min() > score[name].max() and score[name].mean() > 90
    for name in ("single", "far_sighted"):
        assert np.sort(score[name])[1] > 99.5
    return floor, score["no_near"].max(), blind.max(), grid.min(), grid.max()


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
    """In rooms not seen: at 0.05 below the reflex in goals; at 0.2 level or above, in half of its steps."""
    nets = ("dot", "additive", "own", "even")
    floor = {s: 100 * _a6("floors", f"score_{s}").mean() for s in (6, 8, 16)}
    walk = _a6("floors", "steps_8")
    tight = {name: 100 * _a6(name, "score_8") for name in (*nets, "flat")}
    loose = {name: {s: 100 * _a6(f"loose_{name}", f"score_{s}") for s in floor} for name in nets}
    steps = {name: _a6(f"loose_{name}", "steps_8") for name in nets}
    assert max(found.mean() for found in tight.values()) < floor[8]
    for name in nets:
        assert (loose[name][8] > tight[name]).all() and (steps[name] < _a6(name, "steps_8")).all()
        more = loose[name][8].mean() - tight[name].mean()
        assert more > (100 - tight[name].mean()) / 2  # "most"
    for name in nets[:3]:
        apart, half = _lead(walk, steps[name])
        assert apart > half
        apart, half = _lead(loose[name][6], 100 * _a6("floors", "score_6"))
        assert apart > half
        apart, half = _lead(loose[name][16], 100 * _a6("floors", "score_16"))
        assert apart < half
    for name, clear in (("own", False), ("even", True), ("flat", True)):
        apart, half = _lead(tight["dot"], tight[name])
        assert (apart > half) == clear and apart > 0
    for name in ("own", "even"):
        for side in (6, 8, 16):
            apart, half = _lead(loose["dot"][side], loose[name][side])
            assert (apart > half) == ((name, side) == ("even", 6))
    return (
        *(found.mean() for found in tight.values()),
        *(loose[name][8].mean() for name in nets),
        *(steps[name].mean() for name in nets[:3]),
        *(loose[name][6].mean() for name in nets[:3]),
        floor[8], walk.mean(), floor[6],
    )  # fmt: skip


def hidden():
    """First the look at the key, then at the door; all alike need the door at once; not the agent's row alone."""
    flips, even, additive = (_needs(name, "hide") for name in ("dot", "even", "additive"))
    key, door = flips["key", 0], flips["door", 1]
    assert max(flips["door", 0].max(), flips["goal", 0].max()) < 3.5
    assert max(flips["key", 1].max(), flips["goal", 1].max()) < 7.5
    told = (additive["key", 0] > 35) & (additive["door", 0] < 3.5) & (additive["goal", 0] < 3.5)
    told &= (additive["door", 1] > additive["key", 1]) & (additive["door", 1] > additive["goal", 1])
    assert told.sum() == 4
    early = np.sort(even["door", 0])
    assert early[0] < 3.5
    weight = _needs("dot", "weight")["door", 0]
    alone = [_needs("dot", "hide_by_agent")[what].mean() for what in (("key", 0), ("door", 1))]
    ends = [end for seeds in (key, door, weight, early[1:]) for end in (seeds.min(), seeds.max())]
    return (*ends, 3, *alone, key.mean(), door.mean())


def played():
    """Without its looks the agent loses, without any the other network does not."""
    dot, own = (
        {
            thing: 100 * results.metric("A10", f"needs_{name}", f"played_{thing}")
            for thing in CHAPTER.HIDDEN
        }
        for name in ("dot", "own")
    )
    assert dot["nothing"].min() > 99
    for seeds in own.values():
        assert sorted(seeds) == [99.5, 100, 100, 100, 100]
    return dot["door"].max(), dot["key"].max(), *dot["goal"]


def covered():
    """Covering the key changes the actions of the network that never looks as often."""
    own, dot = _needs("own", "cover")["key", 0], _needs("dot", "cover")["key", 0]
    assert (_needs("own", "hide")["key", 0] == 0).all() and abs(own.mean() - dot.mean()) < 5
    return own.min(), own.max()
