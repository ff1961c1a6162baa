"""Oracles of chapter 07b's exercises."""

import functools

import numpy as np

from rlbook_utils.definitions import load_chapter
from rlbook_utils.exercises import Wrong

# (step, food, pill, ghost, caught): all that one step can bring, written out by hand.
PAID = {
    (0, 1, 2, 5, 0): [0, 1, 3, 5, 6, 8],
    (0.1, -0.1, -5, -10, -20): [-20, -19.9, -15, -10, -9.9, -5, 0, 0.1],
    (0, 0, 1, 10, -20): [-20, 0, 1, 10, 11],
    (0, -0.1, 0, 10, -20): [-20.1, -20, -0.1, 0, 9.9, 10],
    (0, -0.1, 10, 0, 0): [-0.1, 0, 9.9],
}


class Pays(tuple):
    """The five rewards of a mode, by name and by number."""

    step, food, pill, ghost, caught = (property(lambda self, i=i: self[i]) for i in range(5))


def rewards(answer):
    """R6.1: every sum of events that a step can bring."""
    for pays, wanted in PAID.items():
        found = [float(reward) for reward in answer(Pays(pays))]
        if len(found) == len(wanted) and np.allclose(sorted(found), wanted):
            continue
        if (
            round(pays[0] + pays[2], 1) in np.round(found, 1)
            and round(pays[0] + pays[2], 1) not in wanted
        ):
            raise Wrong("Food lies under a pill: who eats a pill eats food in the same step.")
        if round(sum(pays), 1) in np.round(found, 1) and round(sum(pays), 1) not in wanted:
            raise Wrong("A step with a pill has no dangerous ghost any more.")
        raise Wrong(
            f"With step, food, pill, ghost, caught = {pays} there are {len(wanted)} rewards, from {wanted[0]} to {wanted[-1]}."
        )


def forks(answer):
    """R6.2: count ways around every free cell, in loops."""
    rng = np.random.default_rng(0)
    for height, width in ((5, 5), (7, 9), (4, 12)):
        walls = rng.random((height, width)) < 0.3
        wanted = 0
        for y in range(height):
            for x in range(width):
                around = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
                ways = sum(
                    0 <= b < height and 0 <= a < width and not walls[b, a] for b, a in around
                )
                wanted += int(not walls[y, x] and ways > 2)
        found = int(answer(walls))
        if found != wanted:
            raise Wrong(
                f"In a maze of {height} × {width} there are {wanted} forks, not {found}. Beyond the edge there is no way."
            )


def returns(answer):
    """R7.1: each target by its own sum."""
    rng = np.random.default_rng(1)
    for steps in (1, 5, 12):
        rewards, done = rng.normal(size=steps), rng.random(steps) < 0.3
        wanted = []
        for t in range(steps):
            ends = [k for k in range(t, steps) if done[k]]
            last = ends[0] if ends else steps - 1
            total = sum(0.9 ** (k - t) * rewards[k] for k in range(t, last + 1))
            wanted.append(total + (0 if ends else 0.9 ** (steps - t) * 4.0))
        found = np.asarray(answer(rewards, done, 4.0, 0.9), float)
        if found.shape != (steps,):
            raise Wrong(f"{steps} rewards have {steps} targets.")
        if not np.allclose(found, wanted):
            raise Wrong(
                "Nothing that follows a death belongs to the return; what follows the last step does, unless it was one."
            )


@functools.cache
def careful_return() -> float:
    """The careful eater's mean return in the games that ``better`` plays."""
    chapter = load_chapter("ch07b_minipacman")
    rng = np.random.default_rng(7)
    return chapter.play(chapter.PLAYERS["careful eater"](), chapter.MODES["regular"], 96, rng).returns.mean()  # fmt: skip


def better(answer):
    """R6.3: ninety-six games of the regular mode, and the careful eater's mean."""
    chapter = load_chapter("ch07b_minipacman")
    world = chapter.MiniPacman(chapter.MODES["regular"], 3, np.random.default_rng(8))
    actions = np.asarray(answer(world.frames(), np.random.default_rng(9)))
    if actions.shape != (3,) or not np.isin(actions, range(5)).all():
        raise Wrong("Three frames want three actions, each a number from 0 to 4.")
    found = chapter.play(answer, chapter.MODES["regular"], 96, np.random.default_rng(7)).returns
    if not found.mean() >= careful_return() + 40:
        raise Wrong(
            f"It gets {found.mean():.0f} points, the careful eater {careful_return():.0f}. What makes ghosts harmless?"
        )


def targets(answer):
    """R7.2: world by world, each target by its own sum."""
    rng = np.random.default_rng(2)
    for steps, worlds in ((1, 1), (6, 4), (9, 30)):
        rewards, after = rng.normal(size=(2, steps, worlds))
        terminated = rng.random((steps, worlds)) < 0.15
        truncated = ~terminated & (rng.random((steps, worlds)) < 0.15)
        wanted = np.zeros((steps, worlds))
        for n in range(worlds):
            for t in range(steps):
                total, weight, k = 0.0, 1.0, t
                while True:
                    total, weight = total + weight * rewards[k, n], 0.9 * weight
                    if terminated[k, n] or truncated[k, n] or k == steps - 1:
                        break
                    k += 1
                wanted[t, n] = total + (0 if terminated[k, n] else weight * after[k, n])
        found = answer(rewards.copy(), terminated.copy(), truncated.copy(), after.copy(), 0.9)
        if np.shape(found) != (steps, worlds):
            raise Wrong(f"The targets should be {(steps, worlds)}, not {np.shape(found)}.")
        if not np.allclose(found, wanted):
            dead = np.allclose(np.asarray(found)[terminated], wanted[terminated])
            raise Wrong(
                "Where the clock has cut an episode the critic's value still counts, and nothing of the next episode does."
                if dead
                else "Nothing that follows a death belongs to the return."
            )


def lucky(answer):
    """R7.3: many random games of hunt, played here."""
    chapter = load_chapter("ch07b_minipacman")
    found = float(answer(4_000, np.random.default_rng(3)))
    world = chapter.MiniPacman(chapter.MODES["hunt"], 4_000, np.random.default_rng(4))
    ate, over, rng = np.zeros(4_000, bool), np.zeros(4_000, bool), np.random.default_rng(5)
    while not over.all():
        step = world.step(rng.integers(5, size=4_000))
        ate |= ~over & (step.events[:, chapter.ATE_GHOST] > 0)
        over |= step.terminated | step.truncated
    share = ate.mean()
    if not abs(found - share) <= 6 * (share / 4_000) ** 0.5:
        more = (
            "Count each episode once, and nothing that follows its end. " if found > share else ""
        )
        raise Wrong(f"{more}Of 4,000 random episodes about {4_000 * share:.0f} have a ghost eaten.")


EXERCISES = {
    "R6.1": rewards, "R6.2": forks, "R6.3": better, "R7.1": returns, "R7.2": targets, "R7.3": lucky,
}  # fmt: skip
