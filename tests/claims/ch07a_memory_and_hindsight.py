"""What chapter 07a says about its stored agents: bits, an arm, and bandits."""

import functools

import numpy as np
import torch

from rlbook_utils import results
from rlbook_utils.checkpoint import load_checkpoint
from rlbook_utils.definitions import load_chapter

CHAPTER = load_chapter("ch07a_memory_and_hindsight")
EPISODES = 64  # of a cycle of bit-flip


def _solved(name: str) -> np.ndarray:
    """Fresh worlds solved at the end, in per cent, by seed."""
    return 100 * results.metric("R5", name, "success")


def _half(name: str) -> np.ndarray:
    """The first cycle, counted from 1, after which each seed solves half of the fresh worlds."""
    curve = results.curves("R5", name, "success")
    assert (curve.max(1) >= 0.5).all()
    return 1 + (curve >= 0.5).argmax(1)


def _once_in(bits: int) -> float:
    """Episodes of random flips for one success."""
    return 1 / CHAPTER.chance_of_success(bits)


# Bit-flip


def forty() -> list[float]:
    """Forty bits: the worlds solved; own goals met early; how long chance would take."""
    early = EPISODES * results.curves("R5", "her_40", "in training")[:, :20].sum(1)
    assert early.max() <= 1 + 1e-9 and early.sum() >= 1
    solved = _solved("her_40")
    return [_once_in(40) / 1e9, 20 * EPISODES, solved.mean(), solved.min()]


def flips() -> list[float]:
    """Without hindsight up to ten bits and no further; with it every world up to 30."""
    for bits in CHAPTER.BITS:
        without = _solved(f"plain_{bits}")
        assert without.min() == 100 if bits <= 10 else without.max() < 0.15
        assert _solved(f"her_{bits}").min() == 100 or bits == 40
        assert len(without) == len(_solved(f"her_{bits}")) == 5
    best = _solved("plain_13").max()
    assert best <= 100 * CHAPTER.chance_of_success(13)
    assert max(_solved(f"plain_{bits}").max() for bits in CHAPTER.BITS if bits > 13) <= best
    return [_once_in(10), _once_in(13), best]


def plain_tried() -> list[float]:
    """The best of four settings without hindsight at 13 bits, and chance."""
    tried = ("plain_13", *(f"plain_13_{name}" for name in CHAPTER.TRIED_AT_13))
    means = {name: _solved(name).mean() for name in tried}
    assert len(means) == 4 and max(means, key=means.get) == "plain_13_wild" == tried[-1]
    return [means["plain_13_wild"], 100 * CHAPTER.chance_of_success(13)]


def flips_others() -> list[float]:
    """Others' goals: solved at 10 bits, as without any, but sooner; not at 15 or 20."""
    assert _solved("others_10").min() == _solved("plain_10").min() == 100
    assert _solved("others_20").max() == 0
    for name in ("others_10", "plain_10"):
        assert (results.curves("R5", name, "in training")[:, :20].sum(1) > 0).all()
    others, plain, future = (_half(f"{name}_10") for name in ("others", "plain", "her"))
    assert set(future) == {5}
    rng = np.random.default_rng(0)
    film = CHAPTER.play_flips(CHAPTER.random_flips(rng), 20_000, 10, rng)
    arrives = CHAPTER.as_rows(film, CHAPTER.others_goals(film, rng)).terminated.mean()
    assert 0.0008 < arrives < 0.0012
    found = [others.min(), others.max(), plain.min(), plain.max(), future[0]]
    return [_solved("others_15").mean(), *found]


def flips_final() -> list[float]:
    """The last state for a goal, 20 bits: all solved, half of them a few cycles later; fewer arrivals."""
    assert _solved("final_20").min() == 100
    last, future = _half("final_20"), _half("her_20")
    rng = np.random.default_rng(0)
    film = CHAPTER.play_flips(CHAPTER.random_flips(rng), 2_000, 20, rng)
    shares = [
        CHAPTER.as_rows(film, CHAPTER.RELABEL[name](film, rng)).terminated.mean()
        for name in ("final", "future")
    ]
    assert shares[0] < 0.5 * shares[1]
    return [last.min(), last.max(), future.min(), future.max()]


def _gap(ends: bool, bits: int = 20) -> float:
    """How far a right and a wrong flip lie apart with one wrong bit, if the goal ends all or nothing; nearer is better."""
    value, discount = np.zeros(bits + 1), CHAPTER.FlipConfig().discount
    for _ in range(3_000):
        value[1:] = discount * value[:-1] - (np.arange(1, bits + 1) > 1)
        value[0] = 0 if ends else discount * value[1] - 1
    assert (np.diff(value[1:]) < 0).all()
    return discount * value[0] - (discount * value[2] - 1)


def faults() -> list[float]:
    """What each fault leaves of 20 bits; the last action's false rows; the old end's half values and its time."""
    found = {
        name: _solved(f"{name}_20")
        for name in ("still_target", "as_printed", "last_action", "live_start", "old_end")
    }
    assert max(found["still_target"].max(), found["as_printed"].max()) < 2
    assert _solved("her_20").min() == found["old_end"].min() == 100
    rising = results.curves("R5", "last_action_20", "success")
    assert (rising[:, -20:].mean(1) > rising[:, -60:-40].mean(1) + 0.03).all()
    rng = np.random.default_rng(0)
    for act in (CHAPTER.random_flips(rng), CHAPTER.first_wrong):
        film = CHAPTER.play_flips(act, 5_000, 20, rng)
        wrong = (CHAPTER.with_last_action(film).actions != film.actions)[film.alive].mean()
        assert 0.7 < wrong * 4 / 5 < 0.8
    assert 0.48 < _gap(ends=False) / _gap(ends=True) < 0.52
    late, sound = _half("old_end_20"), _half("her_20")
    times = [late.min(), late.max(), sound.min(), sound.max()]
    means = [found[name].mean() for name in list(found)[:4]]
    return [*means, *times]


# The arm


def _reached(name: str, who: str = "reached") -> np.ndarray:
    """Of a hundred fresh episodes, by seed."""
    return 100 * results.metric("R5", name, who)


@functools.cache
def _met() -> dict[str, float]:
    """Of a hundred random episodes, the share of transitions with reward 0 under each kind of goal."""
    film, rng = CHAPTER.play_arms(CHAPTER.flailing(3), 100, 5), np.random.default_rng(0)
    goals = {name: pick(film, rng) for name, pick in CHAPTER.PLACES.items()} | {"own": film.goals}
    return {
        name: (CHAPTER.rewards_of(film.achieved[1:], goal) == 0).mean()
        for name, goal in goals.items()
    }


def reach() -> list[float]:
    """With hindsight nearly everything; without and with others' places less in every seed; others' against without."""
    her, plain, others = (_reached(f"reach_{name}") for name in ("her", "plain", "others"))
    random = _reached("reach_her", "random")
    assert len(her) == 5 and her.min() > max(plain.max(), others.max()) + 20
    assert sorted(others > plain) == [False] + [True] * 4
    assert _reached("reach_her", "pushing").min() == 100
    met = _met()
    assert 0.005 < met["own"] < 0.015 and 0.025 < met["others"] < 0.035
    assert 0.3 < met["future"] < 0.37
    config = CHAPTER.ReachConfig()
    ranges = [pick(part) for part in (her, plain, random, others) for pick in (np.min, np.max)]
    return [config.cycles * config.arms, *ranges]


def arm_in_short() -> list[float]:
    """The arm with hindsight, and how many decisions it had."""
    reach()
    config = CHAPTER.ReachConfig()
    return [_reached("reach_her").mean(), config.cycles * config.arms * CHAPTER.DECISIONS]


# Bandits


def _regret(run: str, rule: str) -> np.ndarray:
    """The total regret of a rule, or of RL² ("regret"), by seed."""
    return results.metric("R3", run, rule)


def _against_least(rule: str, horizon: int) -> float:
    """How many times the least regret of two arms a rule has."""
    run = f"bandits_2_{horizon}"
    return _regret(run, rule).mean() / _regret(run, "least").mean()


def rules() -> list[float]:
    """Against the least: Thompson at three lengths, alike; greed ahead at 30, 100, behind at 200; UCB1; chosen UCB; index."""
    lengths = (30, 100, 200)
    thompson = [_against_least("thompson", pulls) for pulls in lengths]
    greedy = [_against_least("greedy", pulls) for pulls in lengths]
    assert max(thompson) - min(thompson) < 0.05
    for pulls, ahead in ((30, True), (100, True), (200, False)):
        pair = [_regret(f"bandits_2_{pulls}", rule) for rule in ("greedy", "thompson")]
        assert (pair[0] < pair[1]).all() == ahead and (pair[0] > pair[1]).all() != ahead
    assert abs(greedy[1] - thompson[1]) < 0.06
    assert [round(value, 1) for value in thompson] == [1.6] * 3
    for pulls in lengths:  # what is played is what is computed
        played = _regret(f"bandits_2_{pulls}", "bayes")
        assert abs(played.mean() / _regret(f"bandits_2_{pulls}", "least")[0] - 1) < 0.01
    others = [_against_least(rule, 100) for rule in ("ucb1", "ucb_tuned", "index")]
    return [thompson[1], *greedy, *others]


def rules_in_short() -> list[float]:
    return [_against_least("thompson", 100)]


def rl2() -> list[float]:
    """Five arms: below greed, Thompson and UCB1 in every seed, a little below the chosen UCB; two: above the last."""
    five, two = _regret("rl2", "regret"), _regret("rl2_two", "regret")
    at_five = {rule: _regret("bandits_5_100", rule) for rule in CHAPTER.SHOWN_RULES}
    at_two = {rule: _regret("bandits_2_100", rule) for rule in CHAPTER.SHOWN_RULES}
    assert len(five) == len(two) == 5
    assert five.max() < min(at_five[rule].min() for rule in ("greedy", "thompson", "ucb1")) - 1
    assert two.max() < min(at_two[rule].min() for rule in ("greedy", "thompson", "ucb1")) - 0.2
    assert five.max() < at_five["ucb_tuned"].min()
    assert 0.01 < 1 - five.max() / at_five["ucb_tuned"].mean() < 0.015
    assert two.min() > at_two["ucb_tuned"].max() and five.min() > at_five["index"].max()
    means = [at_five[rule].mean() for rule in ("greedy", "thompson", "ucb1", "index", "ucb_tuned")]
    above = 100 * (five.mean() / at_five["index"].mean() - 1)
    least = _regret("bandits_2_100", "least")[0]
    return [five.min(), five.max(), *means, above, two.min(), two.max(), least, at_two["ucb_tuned"].mean()]  # fmt: skip


def rl2_effort() -> None:
    """The practice of five arms: bandits and pulls; seed 1 the best of the five; UCB's widths and their bandits."""
    config = CHAPTER.RL2Config()
    assert config.updates * config.bandits == 87_040 and config.horizon == 100
    assert _regret("rl2", "regret").argmin() == 0 and len(CHAPTER.UCB_WIDTHS) == 6
    assert CHAPTER.BanditConfig().bandits == 20_000


def rl2_when() -> list[float]:
    """Five arms: the first ten pulls as good as the index's and no better than greed's, the last fifty between the two."""
    lost = results.curves("R3", "rl2", "by_pull")
    index = results.curves("R3", "bandits_5_100", "index").mean(0)
    early, late = lost[:, :10].sum(1), lost[:, 50:].sum(1)
    greed = results.curves("R3", "bandits_5_100", "greedy").mean(0)
    told = [early.min(), early.max(), index[:10].sum(), late.min(), late.max(), index[50:].sum()]
    return [*told, greed[:10].sum(), greed[50:].sum()]


def _shifting(arms: int, horizon: int = 100, bandits: int = 200_000) -> float:
    """The regret of staying after a win and changing to any other arm after a loss, over bandits, exact for each."""
    means = np.random.default_rng(0).random((bandits, arms))
    share, lost = np.full((bandits, arms), 1 / arms), 0.0
    for _ in range(horizon):
        lost += means.max(1).mean() - (share * means).sum(1).mean()
        leaving = share * (1 - means)
        share = share * means + (leaving.sum(1, keepdims=True) - leaving) / (arms - 1)
    return lost


def forgets() -> list[float]:
    """The control: more than twice RL²'s regret, and above Thompson; staying and shifting by hand."""
    found = [_regret(name, "regret") for name in ("rl2_two_forgets", "rl2_forgets")]
    for lost, remembers, rules in zip(found, ("rl2_two", "rl2"), ("2", "5"), strict=True):
        assert lost.min() > 2 * _regret(remembers, "regret").max()
        assert lost.min() > _regret(f"bandits_{rules}_100", "thompson").max()
    two, five = found
    assert len(two) == len(five) == 5 and two.max() < 1.03 * _shifting(2)
    return [two.mean(), _shifting(2), _shifting(5), five.min(), five.max()]


def other_lengths() -> list[float]:
    """The same weights at thirty and two hundred pulls, and rules made or good for these."""
    short, long = (_regret("rl2", f"regret_{pulls}") for pulls in CHAPTER.OTHER_HORIZONS)
    assert CHAPTER.OTHER_HORIZONS == (30, 200)
    index = [_regret(f"bandits_5_{pulls}", "index") for pulls in (30, 200)]
    assert short.min() > index[0].max() and long.min() > index[1].max()
    assert long.max() < _regret("bandits_5_200", "thompson").min()
    greedy = _regret("bandits_5_30", "greedy").mean()
    assert short.max() < greedy
    tuned = _regret("bandits_5_200", "ucb_tuned")
    assert long.min() > tuned.max()
    means = [index[0].mean(), index[1].mean(), tuned.mean()]
    return [short.min(), short.max(), greedy, long.min(), long.max(), *means]


@functools.cache
def _nets() -> tuple:
    """The stored agents of two arms."""
    paths = [results.run_path("R3", "rl2_two", seed) for seed in CHAPTER.FIVE]
    states = [load_checkpoint(path.with_suffix(".safetensors"))["state"] for path in paths]
    return tuple(CHAPTER.rl2_net(state, CHAPTER.TWO_ARMS) for state in states)


def memory() -> list[float]:
    """A win more raises, a loss more lowers the policy; five won and two lost: the best rule leaves, no agent does."""
    _, second = CHAPTER.bayes_two(CHAPTER.TWO_ARMS.horizon)
    assert second[7][5, 2, 0] and not second[7][5, 1, 0]
    found, even = [], []
    for net in _nets():
        asked = np.array([[CHAPTER.probe(net, won, lost) for lost in range(9)] for won in range(9)])
        assert (np.diff(asked, axis=0) > -0.05).all() and (np.diff(asked, axis=1) < 0.12).all()
        assert np.diff(asked, axis=0).mean() > 0.05 and np.diff(asked, axis=1).mean() < -0.05
        found.append(asked[5, 2])
        even.append(asked[range(1, 5), range(1, 5)].mean())
    assert len(found) == 5 and sorted(value > 0.45 for value in even) == [False] * 2 + [True] * 3
    assert all(0.45 < value < 0.65 or value < 0.25 for value in even)
    return [min(found), max(found)]


def settles() -> list[float]:
    """How often each stored agent stays after a loss, at its second and at its last pull."""
    early, late = [], []
    for net in _nets():
        torch.manual_seed(4)
        trial = CHAPTER.play_trial(net, 2, CHAPTER.TWO_ARMS.horizon, 5_000)
        stays, lost = trial.arms[1:] == trial.arms[:-1], trial.rewards[:-1] == 0
        share = (stays & lost).sum(1) / lost.sum(1)
        early.append(100 * share[0].item())
        late.append(100 * share[-1].item())
        assert share[0] < share[9] < share[49]
    assert max(early) < 25 and min(late) > 88
    return []


# The summary


def in_short() -> list[float]:
    """What the summary says is what the chapter says."""
    flips(), flips_others()
    config = CHAPTER.FlipConfig()
    assert config.cycles * config.worlds == 12_800
    return [_solved("her_40").mean()]


def rl2_in_short() -> None:
    """What the summary says is what the chapter says."""
    rl2(), settles(), forgets()
