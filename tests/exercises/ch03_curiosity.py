"""Oracles of chapter 03's exercises."""

import itertools

import numpy as np
from scipy.optimize import minimize_scalar

from rlbook_utils.exercises import Wrong


def copies(answer):
    """C1.1: shrink a value, copy by copy."""
    for discount, n, share in ((0.95, 5, 0.01), (0.99, 1, 0.5), (0.9, 3, 0.2), (0.5, 1, 0.26)):
        left, wanted = 1.0, 0
        while left >= share:
            left, wanted = left * discount**n, wanted + 1
        found = answer(discount, n, share)
        if found != wanted:
            raise Wrong(
                f"With γ = {discount}, n = {n} it takes {wanted} copies to less than {share}, not {found}. "
                "Each copy shrinks by γ to the power n; and less than is not at most."
            )


def lure(answer):
    """C2.1: draw the noise, and predict its mean."""
    rng = np.random.default_rng(0)
    for values, chances, screen, picture in (
        ([0.0, 1.0], [0.5, 0.5], 49, 98),
        ([0.1, 0.4, 0.9], [0.2, 0.5, 0.3], 10, 40),
        ([0.3], [1.0], 5, 10),
    ):
        values, chances = np.array(values), np.array(chances)
        noise = rng.choice(values, 400_000, p=chances)
        wanted = np.sum((noise - noise.mean()) ** 2) / len(noise) * screen / picture
        found = float(answer(values, chances, screen, picture))
        if not abs(found - wanted) <= 0.01 * wanted + 1e-9:
            raise Wrong(
                f"Values {values} with chances {chances} on {screen} of {picture} pixels pay {wanted:.4f}, not {found:.4f}. "
                "What remains when the mean is predicted, averaged over the whole picture?"
            )


def bribe(answer):
    """C2.2: both walks, step by step."""
    for r, discount, d in ((1.0, 0.9, 1), (0.04, 0.9, 6), (2.0, 0.5, 3)):
        found, steps = float(answer(r, discount, d)), 4_000
        stay = sum(r * discount**t for t in range(steps))
        leave = sum(
            (found if t == d - 1 else r if t >= 2 * d - 1 else 0.0) * discount**t
            for t in range(steps)
        )
        if not np.isclose(stay, leave):
            raise Wrong(
                f"With r = {r}, γ = {discount}, d = {d} staying is worth {stay:.4f}, leaving for {found:.4f} {leave:.4f}. "
                "The first step of the way is not discounted; the step that comes home pays r again."
            )


def lowest(answer):
    """C3.1: Bayes in every cell, pair by pair."""
    rng = np.random.default_rng(1)
    row = np.arange(7)
    corridor = np.stack([np.maximum(row - 1, 0), np.minimum(row + 1, 6), row], 1)
    for table in (corridor, rng.integers(4, size=(5, 6)), np.zeros((3, 4), int)):
        cells, actions = table.shape
        for chances in (np.full(actions, 1 / actions), rng.dirichlet(np.ones(actions))):
            wanted = 0.0
            for cell, action in itertools.product(range(cells), range(actions)):
                alike = [b for b in range(actions) if table[cell, b] == table[cell, action]]
                told = chances[action] / sum(chances[b] for b in alike)
                wanted -= chances[action] * np.log(told) / cells
            found = float(answer(table, chances))
            if not np.isclose(found, wanted):
                raise Wrong(
                    f"Where {actions} actions, taken with chances {chances.round(3).tolist()}, lead to {table.tolist()}, "
                    f"the best is {wanted:.3f}, not {found:.3f}. "
                    "Which actions explain what was seen, and how likely is each of them?"
                )


def brute(answer):
    """C8.1: the top of the curve by a search along it."""
    rng = np.random.default_rng(2)
    for channel in (*rng.dirichlet(np.ones(4), (3, 2)), np.array([[1.0, 0.0], [0.5, 0.5]]), np.full((2, 2), 0.5)):  # fmt: skip

        def lost(p, channel=channel):
            inputs = np.array([p, 1 - p])
            arrives = inputs @ channel
            told = np.where(
                channel > 0, channel * np.log2(np.maximum(channel, 1e-300) / arrives), 0
            )
            return -(inputs @ told.sum(1))

        wanted = -minimize_scalar(lost, bounds=(1e-9, 1 - 1e-9), method="bounded").fun
        found = float(answer(channel))
        if not abs(found - wanted) <= 1e-4:
            raise Wrong(f"{channel.round(3).tolist()} carries {wanted:.4f} bits, not {found:.4f}. Bits, not nats?")  # fmt: skip


EXERCISES = {"C1.1": copies, "C2.1": lure, "C2.2": bribe, "C3.1": lowest, "C8.1": brute}
