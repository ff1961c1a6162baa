"""What chapter 07d says about its stored runs."""

import numpy as np

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
    ppo, a2c = _of("baseline"), _of("a2c")
    assert spread_of(ppo).low > left and ppo.min() > a2c.max()
    assert follower > 2 * ppo.max()
    return [ppo.mean(), ppo.min(), ppo.max(), a2c.mean(), a2c.min(), a2c.max(), left, follower]


def model() -> list[float]:
    """What the models find, and a copy; bricks and lost balls over all tests; what it costs."""
    found = [100 * _of("model", f"{name}_{k}").mean() for k in (1, 5) for name in ("ball", "ball_copy")]  # fmt: skip
    bricks = _of("model", "brick_count").sum()
    assert (
        (_of("model", "brick_foreseen") == 1).all() and found[0] > 90 and found[2] > 10 * found[3]
    )
    lost, warned = _of("model", "lost_count"), _of("model", "lost_true")
    seen = (lost * _of("model", "lost_foreseen")).sum()
    warnings = (lost * _of("model", "lost_foreseen") / warned).sum()
    seconds = [_of("model", name).mean() for name in ("seconds", "player_seconds")]
    return [*found, bricks, lost.sum(), seen, warnings, *seconds]


def auxiliary() -> list[float]:
    """With and without the task."""
    return [_of(name).mean() for name in ("baseline_short", "auxiliary")]


def batched() -> list[float]:
    """How many times as long one by one takes."""
    return [_of("films", f"ratio_{depth}").mean() for depth in (1, 3, 5)]


WITHOUT, IMAGINING = ("baseline_short", "i2a_empty"), ("i2a_1", "i2a_3", "i2a_5")


def by_decisions() -> list[float]:
    """A small lead at equal decisions of the agent's own, with overlapping seeds; none for the empty films."""
    means = {name: _of(name).mean() for name in (*WITHOUT, *IMAGINING)}
    assert min(means[name] for name in IMAGINING) > max(means[name] for name in WITHOUT) + 0.3
    best = max(_of(name).max() for name in WITHOUT)
    assert abs(means["i2a_empty"] - means["baseline_short"]) < 0.5
    assert _of("i2a_1").min() < best and len(_of("i2a_5")) == 2
    return [*means.values(), _of("i2a_1").min(), _of("i2a_1").max(), best]


def by_all() -> list[float]:
    """What the model cost, counted in decisions and in seconds."""
    steps, score = (results.curves("R10", "baseline", name) for name in ("steps", "score"))
    same = score[:, (steps[0] <= 192_000).nonzero()[0][-1]].mean()
    last = results.curves("R10", "i2a_1", "score")[:, -1].mean()
    seconds = [_of(name, "seconds").mean() for name in IMAGINING]
    model = sum(_of("model", name).mean() for name in ("seconds", "player_seconds"))
    baseline_seconds = _of("baseline", "seconds").mean()
    assert same > last and baseline_seconds < seconds[0] + model
    return [last, same, *seconds, model, baseline_seconds, _of("baseline").mean()]


def in_short() -> None:
    """Above the blind after 60,000 decisions, below the rule after 300,000."""
    left, follower = _of("floors", "left").mean(), _of("floors", "follower").mean()
    assert spread_of(_of("baseline_short")).low > left and _of("baseline").max() < follower / 2


def ball_in_short() -> None:
    """About two in three; a copy next to none."""
    assert 0.6 < _of("model", "ball_5").mean() < 0.72 and _of("model", "ball_copy_5").mean() < 0.02


def spent_in_short() -> None:
    """The two counts go opposite ways."""
    by_decisions()
    by_all()
