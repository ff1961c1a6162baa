"""Oracles of chapter 05c's exercises."""

import numpy as np

from rlbook_utils.exercises import Wrong


def some_world(seed, keys=3, doors=4):
    """Tokens of a world in which one key fits one door: [N, 5], and the rows of the two."""
    rng = np.random.default_rng(seed)
    colours = rng.permutation(6)
    tokens = np.zeros((2 + keys + doors, 5), np.uint8)
    tokens[:, 0] = [0, *[1] * keys, *[2] * doors, 3]
    tokens[1 : 1 + keys, 1] = colours[rng.integers(1, 3, keys)]
    tokens[1 + keys : -1, 1] = colours[rng.integers(3, 6, doors)]
    key, door = 1 + rng.integers(keys), 1 + keys + rng.integers(doors)
    tokens[[key, door], 1] = colours[0]
    tokens[-1, 1] = colours[0]  # the goal may have any colour
    return tokens, (int(key), int(door))


def swap(answer):
    """A6.4: entry by entry, whom each token looks at after the exchange."""
    rng = np.random.default_rng(0)
    for i, j in ((1, 2), (0, 4), (3, 1)):
        weights = rng.dirichlet(np.ones(5), 5)
        other = {i: j, j: i}
        expected = np.array([
            [weights[other[a], other.get(b, b)] if a in other else weights[a, b] for b in range(5)] for a in range(5)
        ])  # fmt: skip
        found = np.asarray(answer(weights.copy(), i, j), float)
        if found.shape != (5, 5):
            raise Wrong(f"It stays a matrix of 5 x 5; yours has the shape {found.shape}.")
        if np.allclose(found, expected):
            continue
        rest = [row for row in range(5) if row not in other]
        if not np.allclose(found[rest], weights[rest]):
            raise Wrong("Only the rows of the two tokens change; all others look as before.")
        if np.allclose(found[i], weights[j]):
            raise Wrong(
                "The row as it was: then i looks at j where j looked at itself. Exchange columns i and j as well."
            )
        raise Wrong("Row i becomes row j, with columns i and j exchanged; and the other way round.")


def by_hand(answer):
    """A6.5: the softmax of agreement in colour, entry by entry."""
    for seed, sharpness in enumerate((0.0, 1.0, 3.0)):
        tokens, _ = some_world(seed)
        count = len(tokens)
        found = np.asarray(answer(tokens.copy(), sharpness), float)
        if found.shape != (count, count):
            raise Wrong(
                f"For {count} tokens it has the shape ({count}, {count}); yours has {found.shape}."
            )
        expected = np.zeros((count, count))
        for i in range(count):
            for j in range(count):
                expected[i, j] = np.exp(sharpness if tokens[i, 1] == tokens[j, 1] else 0.0)
            expected[i] /= expected[i].sum()
        if np.allclose(found, expected):
            continue
        if sharpness == 0:
            raise Wrong(
                "At a sharpness of 0 all scores are equal, and the weights of a row are equal too and add up to 1."
            )
        raise Wrong(
            "The score is the sharpness where two colours agree, and 0 where not; then the softmax along a row."
        )


def steps_away(answer):
    """A6.7: distances, found by letting them settle."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        free = rng.random((7, 7)) < 0.7
        x, y = (int(part) for part in rng.integers(7, size=2))
        free[y, x] = True
        expected = np.full((7, 7), 999)
        expected[y, x] = 0
        for _ in range(49):
            for row in range(7):
                for column in range(7):
                    near = [
                        expected[row + i, column + j]
                        for i, j in ((0, 1), (0, -1), (1, 0), (-1, 0))
                        if 0 <= row + i < 7 and 0 <= column + j < 7
                    ]
                    if free[row, column]:
                        expected[row, column] = min(expected[row, column], 1 + min(near))
        expected[expected >= 999] = -1
        found = np.asarray(answer(free.copy(), (x, y)))
        if found.shape != (7, 7):
            raise Wrong(f"For a room of 7 x 7 it has the shape (7, 7); yours has {found.shape}.")
        if (found == expected).all():
            continue
        if found[y, x] != 0:
            raise Wrong("The start is 0 steps away; x is the column, y the row: free[y, x].")
        if (found[expected < 0] != -1).any():
            raise Wrong("Where one cannot get, and in walls, it has to be -1.")
        raise Wrong(
            "Count cells from the start: how far is a cell that touches it with a side, and one beyond?"
        )


def seen_by(answer):
    """A10.2: every node's block, pixel by pixel."""
    for row in range(0, 84, 3):
        for column in range(0, 60, 3):
            right = [
                5 * i + j
                for i in range(7)
                for j in range(5)
                if 0 <= row - 12 * i < 16 and 0 <= column - 12 * j < 16
            ]
            found = [int(node) for node in answer(row, column)]
            if found == right:
                continue
            if sorted(found) == right:
                raise Wrong("In ascending order, please.")
            if len(right) > len(found):
                raise Wrong(
                    f"Blocks overlap: pixel ({row}, {column}) is seen by more than one node."
                )
            raise Wrong(
                f"Look at pixel ({row}, {column}): which blocks of 16 x 16, 12 apart, hold it?"
            )


EXERCISES = {"A6.4": swap, "A6.5": by_hand, "A6.7": steps_away, "A10.2": seen_by}
