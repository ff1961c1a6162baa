"""Oracles of chapter 05b's exercises."""

import numpy as np
from scipy import integrate, stats

from rlbook_utils.exercises import Wrong


def seen_from(answer):
    """A6.1: walk ahead and to the right, cell by cell, and compare where that leads."""
    ways = ((1, 0), (0, 1), (-1, 0), (0, -1))
    for heading in range(4):
        for ahead, right in ((1, 0), (0, 1), (2, -3), (-4, 1), (0, 0)):
            agent = (0, 0, heading, 9, 8)
            x = 9 + ahead * ways[heading][0] + right * ways[(heading + 1) % 4][0]
            y = 8 + ahead * ways[heading][1] + right * ways[(heading + 1) % 4][1]
            found = tuple(int(v) for v in answer(agent, (1, 4, 0, x, y)))
            if found == (ahead, right):
                continue
            if found == (ahead, -right):
                raise Wrong("The second number is negative to the right; y grows downwards.")
            if found == (right, ahead):
                raise Wrong("Cells ahead come first, cells to the right second.")
            raise Wrong(
                f"With heading {heading}, a thing {(x - 9, y - 8)} away in (x, y) is {(ahead, right)}, not {found}."
            )


def double(answer):
    """A6.2: one set chooses, the other tells."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        now, slow = rng.normal(size=(2, 5))
        reward, discount = rng.normal(), rng.choice([0.0, 0.9])
        best = max(range(5), key=lambda a: now[a])
        found = float(answer(now, slow, reward, discount))
        if np.isclose(found, reward + discount * slow[best]):
            continue
        if np.isclose(found, reward + discount * slow.max()):
            raise Wrong("The network chooses the action, not the target network.")
        if np.isclose(found, reward + discount * now.max()):
            raise Wrong("The target network says what the choice is worth, not the network itself.")
        if np.isclose(found, reward + discount * now[slow.argmax()]):
            raise Wrong("The other way round: the network chooses, the target network tells.")
        raise Wrong(
            "It is the reward plus the discounted value, by the one, of the other's choice."
        )


def split_heads(answer):
    """A6.3: entry by entry."""
    for batch, count, heads, width in ((2, 3, 4, 5), (1, 2, 2, 2)):
        rows = np.arange(batch * count * heads * width).reshape(batch, count, heads * width)
        found = np.asarray(answer(rows, heads))
        if found.shape != (batch, heads, count, width):
            raise Wrong(f"It has to be {(batch, heads, count, width)}; yours is {found.shape}.")
        for b, h, n, d in np.ndindex(batch, heads, count, width):
            if found[b, h, n, d] != rows[b, n, h * width + d]:
                raise Wrong(
                    "A head has consecutive features of each node; reshape, then move axes."
                )


def surplus(answer):
    """A7.1: the mean of the largest of n normal numbers, by integration."""
    for count, spread in ((2, 1.0), (10, 1.0), (100, 1.0), (10, 2.0)):
        density = lambda x: x * count * stats.norm.pdf(x) * stats.norm.cdf(x) ** (count - 1)
        expected = spread * integrate.quad(density, -9, 9)[0]
        found = float(answer(count, spread))
        if not abs(found - expected) <= 0.02 * spread:
            raise Wrong(
                f"With {count} actions and a spread of {spread} it is {expected:.2f}; yours is {found:.2f}."
            )


def without(answer):
    """A10.1: row by row."""
    rng = np.random.default_rng(0)
    for count, hidden in ((4, 1), (6, 5), (2, 0)):
        weights = rng.dirichlet(np.ones(count), size=count)
        before = weights.copy()
        found = np.asarray(answer(weights, hidden), float)
        if not np.array_equal(weights, before):
            raise Wrong("Your answer changes the weights that it is given; work on a copy.")
        if found.shape != weights.shape:
            raise Wrong(f"It has to be {weights.shape}; yours is {found.shape}.")
        for row, old in zip(found, before, strict=True):
            left = 1 - old[hidden]
            expected = [0 if n == hidden else old[n] / left for n in range(count)]
            if not np.isclose(row.sum(), 1):
                raise Wrong("Each row has to add up to 1 again.")
            if not np.allclose(row, expected):
                raise Wrong("What the hidden one got is shared among the others in proportion.")


EXERCISES = {
    "A6.1": seen_from,
    "A6.2": double,
    "A6.3": split_heads,
    "A7.1": surplus,
    "A10.1": without,
}
