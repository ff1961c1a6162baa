"""What chapter 03b says about its stored runs."""

import numpy as np
from scipy.stats import ttest_ind

from rlbook_utils import results
from rlbook_utils.definitions import load_chapter

CHAPTER = load_chapter("ch03b_mario")
ROWS = {name: reward.row for name, reward in CHAPTER.REWARDS.items()}


def _of(name: str, what: str = "mean_reach", row: str = "C5", seeds: int = 3) -> np.ndarray:
    """A number of a reward's agents, of a coin's runs, or of another run of ``row``: [S]."""
    row = "C4" if name.startswith("coin") else ROWS.get(name, row)
    found = results.metric(row, name, what)
    assert len(found) >= seeds
    return found


def _lead(name: str, other: str = "icm", what: str = "mean_reach") -> tuple[float, float]:
    """The ends of the 95 % interval of how far one is ahead of the other."""
    found = ttest_ind(_of(name, what), _of(other, what), equal_var=False).confidence_interval(0.95)
    return found.low, found.high


def _ends(name: str, curve: str) -> np.ndarray:
    """A training curve's last ten reports, their mean: [S]."""
    return results.curves("C5", name, curve)[:, -10:].mean(1)


# Coins


def coins() -> None:
    """To the right more than twice as far; one in six jumps the first pit; the best is the best."""
    means = {name: _of(f"coin_{name}").mean() for name in CHAPTER.COINS}
    assert all(means[name] > 2 * means["all"] for name in means if name != "all")
    assert max(means, key=means.get) == CHAPTER.BEST_COIN
    assert 1 / 7 < _of("coin_run_jump", "past_first_pit").mean() < 1 / 5


def fallen() -> None:
    """Counted at the pit's end, a coin jumps it more than twice as often."""
    reach = results.curves("C4", "coin_right_jump", "reach")
    assert (reach > 1136).mean() > 2 * (reach > 1168).mean() > 0


def replayed_coin() -> None:
    """One of 500 episodes of the best coin touched the flag."""
    assert results.curves("C4", "coin_run_jump", "flags").sum() == 1


# Is it curiosity?


def carried_far() -> list[float]:
    """ICM's agents, each seed far above the best coin; the issue's goals; where the others end."""
    reach, pit, flag = (_of("icm", what, seeds=5) for what in ("mean_reach", "past_first_pit", "flag"))  # fmt: skip
    assert reach.mean() > 2000 and np.median(pit) > 0.75 and np.median(flag) > 0.25
    assert reach.min() > 1500 and reach.min() > 2.5 * _of("coin_run_jump").max()
    ended = results.curves("C5", "icm", "reach")[results.curves("C5", "icm", "flags") < 0.5]
    assert len(ended) == 500 - round(500 * flag.mean())
    places = ((1750, 1800), (1950, 2050), (2450, 2500), (2750, 2800))
    assert sum(((low <= ended) & (ended < high)).mean() for low, high in places) > 0.5
    coin = 100 * _of("coin_run_jump", "flag").sum()
    found = [pit.mean(), pit.min(), flag.mean(), _of("coin_run_jump", "past_first_pit").mean()]
    return [reach.mean(), *(100 * share for share in found), coin]


def paid_for_change() -> list[float]:
    """What never learns is not behind, nor does it learn slower; the lead is in one of two scores only."""
    for name in ("frozen_icm", "motion"):
        assert _of(name).mean() > _of("icm").mean()
        assert _of(name).min() > 2.5 * _of("coin_run_jump").max()
    curves = {name: results.curves("C5", name, "mean_reach") for name in ("icm", "frozen_icm", "motion")}  # fmt: skip
    early = [curve[:, 48].mean() for curve in curves.values()]
    assert max(early) < 1.15 * min(early)
    fresh, last = _lead("motion"), ttest_ind(curves["motion"][:, -1], curves["icm"][:, -1], equal_var=False)  # fmt: skip
    last = last.confidence_interval(0.95)
    assert fresh[0] > 0 > last.low
    paid = [_ends(name, "surprise").mean() for name in ("icm", "frozen_icm")]
    return [_of("frozen_icm").mean(), _of("motion").mean(), *fresh, last.low, last.high, *paid]


def as_published() -> list[float]:
    """No further than the coin, still rising; learning counts there; untrained, below all buttons."""
    whole, still = _of("whole", seeds=2), _of("frozen_whole", seeds=1)
    coin = _of("coin_run_jump")
    assert abs(whole.mean() - coin.mean()) < 150 and still.max() < _of("coin_all").mean()
    assert whole.min() > 2 * still.max()
    curve = results.curves("C5", "whole", "mean_reach")
    assert (curve[:, -10:].mean(1) > curve[:, -40:-30].mean(1)).all()
    loss = results.curves("C5", "whole", "forward")
    assert (_ends("whole", "forward") < 0.5 * loss[:, :3].mean(1)).all()
    paid = results.curves("C5", "frozen_whole", "surprise")
    assert (paid.std(1) < 0.02 * paid.mean(1)).all()
    drift = results.curves("C5", "frozen_whole", "mean_reach")[:, 59:].mean()
    assert drift < _of("coin_all").mean()
    share = [100 * whole.mean() / 3161, 100 * _of("whole", "past_first_pit", seeds=2).mean()]
    return [whole.mean(), *share, still.mean(), drift]


def shuffled_nowhere() -> list[float]:
    """No further than all buttons; hardly ever past the first pit."""
    assert _of("shuffled").mean() < _of("coin_all").mean() + 30
    assert _of("shuffled", "past_first_pit").max() < 0.05
    return [_of("shuffled").mean(), _of("coin_all").mean()]


def other_curiosities() -> list[float]:
    """Random features and pixels far above the coin; RND not."""
    for name in ("random_features", "pixels"):
        assert _of(name).min() > 2 * _of("coin_run_jump").max()
    assert _of("rnd").max() < _of("coin_run_jump").mean()
    return [_of(name).mean() for name in ("random_features", "pixels", "rnd")]


def the_games_reward() -> list[float]:
    """The issue's goals, and both."""
    for name in ("game", "both"):
        assert _of(name).mean() > 1700 and _of(name, "past_first_pit").mean() > 0.75
    found = [(_of(name).mean(), 100 * _of(name, "past_first_pit").mean()) for name in ("game", "both")]  # fmt: skip
    return [*found[0], *found[1]]


# What pays where, and what carried it


def what_is_paid() -> None:
    """Less before the flag than elsewhere, but for pixels, whose pay alone goes with change."""
    for name in ("icm", "frozen_icm", "motion", "random_features", "pixels"):
        paid, visits = (results.curves(ROWS[name], name, curve).sum(0) for curve in ("paid", "visits"))  # fmt: skip
        last = (paid[29:32].sum() / visits[29:32].sum()) / (paid.sum() / visits.sum())
        assert last > 1.1 if name == "pixels" else last < 0.75, name
        correlation = _of(name, "change_correlation").mean()
        assert correlation > 0.7 if name == "pixels" else correlation < 0.3, name
        if name == "pixels":
            paid_rnd, seen = (results.curves("C7", "rnd", curve).sum(0) for curve in ("paid", "visits"))  # fmt: skip
            drawn = np.flatnonzero(seen >= 50)
            assert (paid_rnd[drawn] / seen[drawn]).argmax() == len(drawn) - 1
            assert _of("rnd", "change_correlation").mean() > 0.25
            thirds = [paid[i : i + 10].sum() / visits[i : i + 10].sum() for i in (0, 10, 20)]
            assert thirds == sorted(thirds)


def watching() -> list[float]:
    """The trained ICM's tie to change is gone over its own agent's play, motion's halved; variation."""
    minds = ("ICM, trained", "motion")
    players = ("all buttons", "best coin", "trained agent")
    told = {mind: [_of("watching", f"{player}, {mind}").mean() for player in players] for mind in minds}  # fmt: skip
    assert min(told["ICM, trained"][:2]) > 0.5 and abs(told["ICM, trained"][2]) < 0.15
    assert min(told["motion"][:2]) > 0.6 and 0.1 < told["motion"][2] < 0.6 * told["motion"][0]
    published = [_of("watching", f"{player}, published, untrained").mean() for player in players]
    assert np.abs(published).max() < 0.3
    spread = [_of("watching", f"{player}, variation of change").mean() for player in players]
    assert spread[0] > 2.5 * spread[2]
    return [*told["ICM, trained"], *told["motion"], spread[0], spread[2]]


def what_pays() -> None:
    """Over an agent's own play: motion's pay not, ICM's a little."""
    assert abs(_of("motion", "change_correlation").mean()) < 0.1
    assert 0.1 < _of("icm", "change_correlation").mean() < 0.3


def ends_rule() -> list[float]:
    """Without the hint he jumps, and seldom arrives; the longer view is worse under either rule."""
    none, cost = (_of(name, seeds=1) for name in ("none_95", "icm"))
    flags = [_of(name, "flag", seeds=1).mean() for name in ("none_95", "icm")]
    assert _of("none_95", "past_first_pit", seeds=1).mean() > 0.7 and flags[0] < flags[1] / 2
    longer = [_of(name, seeds=1).mean() for name in ("none_99", "cost_99")]
    assert longer[0] < none.mean() and longer[1] < cost.mean() and longer[0] < longer[1]
    pits = [100 * _of(name, "past_first_pit", seeds=1).mean() for name in ("none_95", "icm")]
    return [none.mean(), cost.mean(), *longer, *pits, *(100 * flag for flag in flags)]


def rate() -> list[float]:
    """A reward that moves ten times as fast."""
    fast = _of("rate_5e-4", seeds=1)
    assert fast.max() < _of("icm").min()
    paid = [_ends(name, "surprise").mean() for name in ("rate_5e-4", "icm")]
    assert paid[0] < paid[1] < _ends("frozen_icm", "surprise").mean()
    return [fast.mean(), _of("icm").mean(), *paid]


# The source's agent


def losses() -> list[float]:
    """The inverse loss falls; the forward loss rises first and ends where it began; shuffled, it falls."""
    forward = results.curves("C5", "icm", "forward")
    start, top, end = forward[:, 0].mean(), forward.mean(0).max(), _ends("icm", "forward").mean()
    assert top > 1.2 * start and abs(end - start) < 0.1
    assert (_ends("shuffled", "forward") < 0.75 * _ends("icm", "forward").min()).all()
    guess = np.log(len(CHAPTER.ACTIONS))
    return [guess, _ends("icm", "inverse").mean(), start, top, end, _ends("shuffled", "forward").mean()]  # fmt: skip


def the_dqn() -> list[float]:
    """Less than the coin, with a fifth of PPO's decisions."""
    found = _of("dqn_icm", seeds=1)
    assert found.max() < _of("coin_run_jump").min()
    assert 4 < CHAPTER.FULL.steps / CHAPTER.CuriousDQNConfig().steps < 6
    return [found.mean()]


def summary() -> None:
    """Nine of ten, half, one of six; what never learns is not behind."""
    pits = [_of("icm", what, seeds=5).mean() for what in ("past_first_pit", "past_second_pit")]
    assert min(pits) > 0.88 and max(pits) < 0.95 and 0.44 < _of("icm", "flag").mean() < 0.56
    assert 1 / 7 < _of("coin_run_jump", "past_first_pit").mean() < 1 / 5
    assert _of("icm", "cpu_seconds").max() < 12.2 * 60
    for name in ("frozen_icm", "motion"):
        assert _lead(name)[1] > 0 and _of(name).mean() > _of("icm").mean()
