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
