"""Chapter 03's training loops, whole, in a small world with the emulators' interface: what reaches the optimiser, and when."""

import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode, VectorEnv

from rlbook_utils.definitions import load_chapter

ch = load_chapter("ch03_curiosity")


class Stairs(VectorEnv):
    """A way of 40 places behind ``MarioEnvs``' interface; how to get on is to be read from the picture.

    Every place has a picture of its own, bright on its left or on its right half. Bright on the left: the first six
    actions lead to the next place; on the right: the other six. A wrong action leaves everything as it is, and the
    third in a row ends the episode. A player that does not look passes a place with chance 7/8 at best, and so comes
    7 places far on average.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012
    PLACES = 40

    def __init__(self, num_envs: int, *_: object, **__: object) -> None:
        self.num_envs, self.single_action_space = num_envs, Discrete(12)
        rng = np.random.default_rng(0)
        self.right = rng.permutation(np.arange(self.PLACES) % 2).astype(bool)  # [places]
        side = (np.arange(42) >= 21) == self.right[:, None]  # [places, 42]
        textures = rng.integers(100, size=(self.PLACES, 42, 42))
        self.pictures = (textures + 150 * side[:, None]).astype(np.uint8)

    def reset(self, *, seed=None, options=None):
        self.x, self.failed = np.zeros((2, self.num_envs), int)
        self.furthest = self.x.copy()
        self.obs = np.repeat(self.pictures[self.x][:, None], 3, axis=1)  # [N, 3, 42, 42]
        return self.obs.copy(), {}

    def step(self, actions):
        on = ((actions >= 6) == self.right[self.x]) & (actions >= 0)
        self.x = self.x + on
        self.furthest, self.failed = self.x.copy(), np.where(on, 0, self.failed + 1)
        terminated, truncated = self.x == self.PLACES - 1, self.failed == 3
        self.obs = np.concatenate([self.obs[:, 1:], self.pictures[self.x][:, None]], axis=1)
        final, done = np.full(self.num_envs, None, object), terminated | truncated
        for n in np.flatnonzero(done):
            final[n] = self.obs[n].copy()
        self.x, self.failed = np.where(done, 0, self.x), np.where(done, 0, self.failed)
        self.obs[done] = self.pictures[0]
        return self.obs.copy(), on.astype(float), terminated, truncated, {"final_obs": final}
