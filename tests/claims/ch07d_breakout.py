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
    assert (_of("model", "brick_foreseen") == 1).all() and found[0] > 90 and found[2] > 10 * found[3]
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


