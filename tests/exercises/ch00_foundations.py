"""Oracles of chapter 00's exercises."""

import numpy as np

from rlbook_utils.exercises import Wrong


def targets(answer):
    """F2.1: the targets of a DQN, against a slow loop."""
    rng = np.random.default_rng(0)
    for size, discount in ((1, 0.9), (40, 0.99), (40, 0.5)):
        rewards, values = rng.normal(size=size), rng.normal(size=(size, 3))
        terminated, truncated = rng.random(size) < 0.3, rng.random(size) < 0.3
        found = np.asarray(
            answer(rewards.copy(), terminated.copy(), truncated.copy(), values.copy(), discount)
        )
        if found.shape != (size,):
            raise Wrong(
                f"For a batch of {size} it has to return {size} targets; yours have the shape {found.shape}."
            )
        expected = []
        for reward, over, following in zip(rewards, terminated, values, strict=True):
            expected.append(reward if over else reward + discount * max(following))
        wrong = ~np.isclose(found, expected)
        if wrong[terminated].any():
            raise Wrong("Look at the rows where the world ended: nothing follows them.")
        if wrong[truncated].any() and not wrong[~truncated].any():
            raise Wrong("Look at the rows that the clock cut short: they would have gone on.")
        if wrong.any():
            raise Wrong("Look at what follows s': the best action's value, row by row, discounted.")


EXERCISES = {"F2.1": targets}
