"""What chapter 07d says about its stored runs."""

import numpy as np
from scipy.stats import ttest_ind

from rlbook_utils import results
from rlbook_utils.numbers import spread_of


def _of(name: str, what: str = "score") -> np.ndarray:
    """Of a stored measurement, by seed."""
    return results.metric("R10", name, what)


def floors() -> list[float]:
    """Always left is the best of the blind, and the follower far above."""
    found = [_of("floors", name).mean() for name in ("random", "left", "right", "stay", "follower")]
    assert found[1] == max(found[:4]) and found[4] > 10 * found[1]
    return found[:3] + found[4:]


def baseline() -> list[float]:
    """PPO above always left by its interval, and A2C; the follower far above both."""
    left, follower = _of("floors", "left").mean(), _of("floors", "follower").mean()
    ppo, a2c, short = _of("baseline"), _of("a2c"), spread_of(_of("baseline_short"))
    assert short.covers and short.low > left and ppo.min() > a2c.max()
    assert follower > 2 * ppo.max()
    found = [ppo.mean(), ppo.min(), ppo.max(), left, short.low, short.high, follower]
    return [*found, a2c.mean(), a2c.min(), a2c.max()]


def model() -> list[float]:
    """What the models find, and a copy; bricks and lost balls over all tests; what it costs."""
    names = (("model", "ball"), ("line", "line"), ("model", "ball_copy"))
    found = [100 * _of(name, f"{what}_{k}").mean() for k in (1, 5) for name, what in names]
    bricks = _of("model", "brick_count").sum()
    for name in ("brick_foreseen", "brick_true"):
        assert (_of("model", name) == 1).all()
    leads = [_of("model", f"ball_{k}").mean() - _of("line", f"line_{k}").mean() for k in range(1, 6)]  # fmt: skip
    assert 0.08 < max(leads) < 0.105 and abs(found[3] - found[4]) < 5
    lost, warned = _of("model", "lost_count"), _of("model", "lost_true")
    seen = (lost * _of("model", "lost_foreseen")).sum()
    warnings = (lost * _of("model", "lost_foreseen") / warned).sum()
    seconds = [_of("model", name).mean() for name in ("seconds", "player_seconds")]
    return [*found, bricks, lost.sum(), seen, warnings, *seconds]


def auxiliary() -> list[float]:
    """With and without the task, on equal seeds: the ranges overlap."""
    without, task = _of("baseline_short")[:3], _of("auxiliary")
    assert task.mean() < without.mean() < task.max()
    return [without.mean(), task.mean(), task.min(), task.max()]


def batched() -> list[float]:
    """How many times as long one by one takes."""
    return [_of("films", f"ratio_{depth}").mean() for depth in (1, 3, 5)]


WITHOUT, IMAGINING = ("baseline_short", "i2a_empty"), ("i2a_1", "i2a_3", "i2a_5")


def by_decisions() -> list[float]:
    """A small lead at equal decisions of the agent's own, with overlapping seeds; none for the empty films."""
    means = {name: _of(name).mean() for name in (*IMAGINING, *WITHOUT)}
    assert min(means[name] for name in IMAGINING) > max(means[name] for name in WITHOUT) + 0.3
    best = max(_of(name).max() for name in WITHOUT)
    assert _of("i2a_1").min() < best
    return [*means.values(), _of("i2a_1").min(), _of("i2a_1").max(), best, *_lead()]


def _lead() -> list[float]:
    """Mean leads over empty films with 95 % intervals (Welch's): one step's, which holds 0, and all depths'."""
    empty, found = _of("i2a_empty"), []
    for ours in (_of("i2a_1"), np.concatenate([_of(name) for name in IMAGINING])):
        interval = ttest_ind(ours, empty, equal_var=False).confidence_interval()
        found += [ours.mean() - empty.mean(), interval.low, interval.high]
    assert found[1] < 0 < found[2] and len(empty) == 5 and found[4] > 0
    return found


def which_part() -> list[float]:
    """Without rewards, and with three films alike, no order among seeds."""
    unpaid, alike = _of("i2a_unpaid"), _of("i2a_alike")
    full, empty = _of("i2a_1"), _of("i2a_empty")
    assert min(unpaid.mean(), alike.mean()) > empty.mean()
    for part in (unpaid, alike):
        assert part.min() < full.max() and full.min() < part.max() and part.min() < empty.max()
    same = [part[:3].mean() for part in (full, empty, _of("baseline_short"))]
    return [
        unpaid.mean(),
        unpaid.min(),
        unpaid.max(),
        alike.mean(),
        alike.min(),
        alike.max(),
        *same,
    ]


def by_all() -> list[float]:
    """What the model cost, counted in decisions and in seconds."""
    same, player, ours = _of("baseline_same"), _of("player"), _of("i2a_1")
    seconds = [_of(name, "seconds").mean() for name in IMAGINING]
    model = sum(_of("model", name).mean() for name in ("seconds", "player_seconds"))
    longest, last = _of("baseline", "seconds").mean(), _of("baseline")
    assert (
        min(player.mean(), same.mean()) > ours.mean() and min(player.min(), same.min()) < ours.max()
    )
    assert longest < seconds[0] + model and last.min() > ours.max()
    found = [same.mean(), same.min(), same.max(), ours.mean(), ours.max(), player.mean()]
    return [*found, *seconds, model, longest, last.mean()]


def in_short() -> None:
    """Above the blind after 60,000 decisions, below the rule after 300,000."""
    left, follower = _of("floors", "left").mean(), _of("floors", "follower").mean()
    assert spread_of(_of("baseline_short")).low > left and _of("baseline").max() < follower / 2


def ball_in_short() -> None:
    """Nearly two in three, and a straight line as many."""
    model, line = _of("model", "ball_5").mean(), _of("line", "line_5").mean()
    assert 0.6 < model < 2 / 3 and abs(model - line) < 0.05


def spent_in_short() -> None:
    """The two counts go opposite ways."""
    by_decisions()
    by_all()
