"""Oracles of chapter 04c's exercises."""

import numpy as np

from rlbook_utils.exercises import Wrong


def mean_of_neighbours(answer):
    """M6.1: mean actions of comrades within reach, soldier by soldier."""
    rng = np.random.default_rng(0)
    for soldiers, side, reach in ((1, 5, 3), (2, 20, 1), (12, 8, 4), (30, 12, 6)):
        cells = rng.permutation(side * side)[:soldiers]
        positions = np.stack(np.divmod(cells, side), -1)
        actions = rng.integers(21, size=soldiers)
        found = np.asarray(answer(positions.copy(), actions.copy(), reach), float)
        if found.shape != (soldiers, 21):
            raise Wrong(
                f"For {soldiers} soldiers it has to be {(soldiers, 21)}; yours has the shape {found.shape}."
            )
        slow = {"right": [], "with itself": [], "in the square": [], "not on the edge": []}
        for j in range(soldiers):
            counts = {kind: np.zeros(21) for kind in slow}
            for k in range(soldiers):
                apart = [
                    abs(int(a) - int(b)) for a, b in zip(positions[j], positions[k], strict=True)
                ]
                counts["right"][actions[k]] += j != k and sum(apart) <= reach
                counts["with itself"][actions[k]] += sum(apart) <= reach
                counts["in the square"][actions[k]] += j != k and max(apart) <= reach
                counts["not on the edge"][actions[k]] += j != k and sum(apart) < reach
            for kind, count in counts.items():
                slow[kind].append(count / max(count.sum(), 1))
        if np.allclose(found, slow["right"]):
            continue
        if not np.isfinite(found).all():
            raise Wrong("A soldier without comrades in reach gets zeros; yours divides by nothing.")
        if np.allclose(found, slow["with itself"]):
            raise Wrong("A soldier is not its own comrade.")
        if np.allclose(found, slow["in the square"]):
            raise Wrong("Reach is counted in moves of one cell: |dx| + |dy|.")
        if np.allclose(found, slow["not on the edge"]):
            raise Wrong("Comrades exactly `reach` moves away count too.")
        raise Wrong("Add up the comrades' one-hot actions, and divide by how many they are.")


# Where the engine's actions lead, (x, y) with y downwards, written down anew.
WAYS = [
    (0, -2),
    *((x, -1) for x in (-1, 0, 1)),
    *((x, 0) for x in (-2, -1, 0, 1, 2)),
    *((x, 1) for x in (-1, 0, 1)),
    (0, 2),
    *((x, y) for y in (-1, 0, 1) for x in (-1, 0, 1) if (x, y) != (0, 0)),
]


def quarter(answer):
    """M6.2: a quarter turn to the left, by way of complex numbers."""
    actions = np.arange(21)
    found = np.asarray(answer(actions.copy()))
    if found.shape != (21,):
        raise Wrong(f"For 21 actions it has to return 21; yours have the shape {found.shape}.")
    if sorted(found.tolist()) != list(range(21)):
        raise Wrong("Different actions have to become different actions, all of them from 0 to 20.")
    if ((found < 13) != (actions < 13)).any():
        raise Wrong("A move becomes a move, and a hit a hit.")
    as_complex = [complex(x, -y) for x, y in WAYS]  # with the imaginary part upwards
    for turn, hint in (
        (1j, None),
        (-1j, "That is a turn to the right."),
        (-1, "That is half a turn."),
    ):
        kinds = {way: i for i, way in enumerate(as_complex[:13])}
        hits = {way: 13 + i for i, way in enumerate(as_complex[13:])}
        expected = [kinds[turn * way] for way in kinds] + [hits[turn * way] for way in hits]
        if found.tolist() == expected:
            if hint:
                raise Wrong(hint)
            again = answer(np.array([4, 4, 20]))
            if np.asarray(again).tolist() != [expected[4], expected[4], expected[20]]:
                raise Wrong("It has to work for any list of actions, in any order.")
            return
    raise Wrong(
        "What was at the right, (1, 0), comes to be above, (0, -1); what was above, at the left."
    )


def weakest_in_reach(answer):
    """M6.3: the weakest enemy in one of the eight cells around, enemy by enemy."""
    rng = np.random.default_rng(0)
    for trial in range(200):
        enemies = rng.permutation([(x, y) for x in range(7) for y in range(7) if (x, y) != (3, 3)])
        enemies = enemies[: rng.integers(1, 12)]
        health = rng.integers(1, 8, size=len(enemies)) * 12
        if trial == 0:
            enemies, health = np.array([(0, 0), (5, 3)]), np.array([10, 20])
        best = -1
        for i, (x, y) in enumerate(enemies):
            near = abs(int(x) - 3) <= 1 and abs(int(y) - 3) <= 1
            if near and (best < 0 or health[i] < health[best]):
                best = i
        found = answer(np.array([3, 3]), enemies.copy(), health.copy())
        if found == best:
            continue
        if best < 0:
            raise Wrong("Where nobody is in reach it has to be -1.")
        x, y = enemies[int(found)] if 0 <= int(found) < len(enemies) else (9, 9)
        if max(abs(x - 3), abs(y - 3)) > 1:
            raise Wrong("A hit reaches the eight cells around the soldier, corners included.")
        raise Wrong("Of those in reach it has to be the weakest, and of equals the first.")


EXERCISES = {
    "M6.1": mean_of_neighbours,
    "M6.2": quarter,
    "M6.3": weakest_in_reach,
}
