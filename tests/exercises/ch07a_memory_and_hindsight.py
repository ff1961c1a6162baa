"""Oracles of chapter 07a's exercises."""

import itertools
import math

import numpy as np

from rlbook_utils.exercises import Wrong


def relabel(answer):
    """R5.1: the goal, the reward and the end change; nothing else does."""
    before = ((0, 1, 0), 2, -1.0, (0, 1, 1), False, (1, 1, 1))
    for goal in ((0, 1, 1), (0, 0, 0), (1, 1, 1)):
        state, action, reward, following, done, kept = answer(before, goal)
        if (tuple(state), action, tuple(following)) != (before[0], before[1], before[3]):
            raise Wrong("State, action and next state are what happened; they stay.")
        if tuple(kept) != goal:
            raise Wrong("The last entry is the new goal.")
        if float(reward) != (0.0 if goal == (0, 1, 1) else -1.0):
            raise Wrong("The reward is 0 where the next state is the new goal, and -1 elsewhere.")
        if bool(done) != (goal == (0, 1, 1)):
            raise Wrong("The end follows the new goal too.")
    won = ((0, 1, 0), 2, 0.0, (0, 1, 1), True, (0, 1, 1))
    if bool(answer(won, (1, 1, 1))[4]) or float(answer(won, (1, 1, 1))[2]) == 0:
        raise Wrong("What reached its own goal need not have reached the new one.")


def chance(answer):
    """R5.2: all sequences of flips."""
    for bits, steps in ((1, 1), (2, 2), (2, 4), (3, 5), (3, 2), (4, 6)):
        solved = 0
        for flips in itertools.product(range(bits), repeat=steps):
            state = [0] * bits
            for flip in flips:
                state[flip] ^= 1
                if all(state):
                    solved += 1
                    break
        found = float(answer(bits, steps))
        if not math.isclose(found, solved / bits**steps, rel_tol=1e-6, abs_tol=1e-12):
            raise Wrong(
                f"With {bits} bits and {steps} steps, {solved} of {bits**steps} sequences pass the goal; yours: {found:.4f}."
            )


def arriving(answer):
    """R5.3: every step of the episode and every state of its future, counted."""
    for steps in (1, 2, 3, 7, 40):
        shares = [np.mean([later == step + 1 for later in range(step + 1, steps + 1)]) for step in range(steps)]  # fmt: skip
        right, found = float(np.mean(shares)), float(answer(steps))
        if math.isclose(found, right, rel_tol=1e-6):
            continue
        if math.isclose(found, 2 / (steps + 1), rel_tol=1e-6):
            raise Wrong("It is a mean over steps of shares, not one share of all pairs.")
        raise Wrong(
            f"Of {steps} steps {right:.4f} arrive: the last one surely, the one before it with 1/2, and so on."
        )


def belief(answer):
    """R3.1: by integration over a grid."""
    p = (np.arange(200_000) + 0.5) / 200_000
    for won, lost in ((0, 0), (1, 0), (0, 3), (7, 2)):
        weight = p**won * (1 - p) ** lost
        right = (weight * p).sum() / weight.sum()
        found = float(answer(won, lost))
        if math.isclose(found, right, rel_tol=1e-4):
            continue
        if won + lost and math.isclose(found, won / (won + lost), rel_tol=1e-4):
            raise Wrong(
                "One win does not make certain. What did you believe before the first pull?"
            )
        raise Wrong(f"After {won} wins and {lost} losses it is {right:.4f}.")


def trying(answer):
    """R3.2: by integration: the arm's chance p is drawn from what is known, then both pulls are weighed."""
    p = (np.arange(100_000) + 0.5) / 100_000
    for won, lost, sure in ((0, 0, 0.5), (0, 0, 0.6), (3, 1, 0.7), (1, 4, 0.2), (0, 0, 0.9)):
        weight = p**won * (1 - p) ** lost
        weight /= weight.sum()
        win = (weight * p).sum()
        after = [(weight * p * p).sum() / win, (weight * (1 - p) * p).sum() / (1 - win)]
        right = win * (1 + max(sure, after[0])) + (1 - win) * max(sure, after[1])
        found = float(answer(won, lost, sure))
        if math.isclose(found, right, rel_tol=1e-4):
            continue
        if math.isclose(found, win + max(sure, win), rel_tol=1e-4):
            raise Wrong("After the try you know more: what it pays decides about the second pull.")
        raise Wrong(f"After {won} wins and {lost} losses, beside a sure {sure}, it is {right:.4f}.")


def shifting(answer):
    """R3.3: all sequences of outcomes."""
    for one, two, pulls in ((0.8, 0.3, 1), (0.8, 0.3, 2), (0.2, 0.9, 5), (0.5, 0.5, 4)):
        right = 0.0
        for start in (0, 1):
            for outcome in itertools.product((0, 1), repeat=pulls):
                arm, odds = start, 0.5
                for pays in outcome:
                    p = (one, two)[arm]
                    odds *= p if pays else 1 - p
                    arm = arm if pays else 1 - arm
                right += odds * sum(outcome)
        found = float(answer(one, two, pulls))
        if math.isclose(found, right, rel_tol=1e-6):
            continue
        if math.isclose(found, pulls * (one + two) / 2, rel_tol=1e-6):
            raise Wrong("That is a coin flip at every pull. After a win it stays.")
        raise Wrong(
            f"With {one} and {two}, {pulls} pulls earn {right:.4f}; yours says {found:.4f}."
        )


EXERCISES = {
    "R5.1": relabel,
    "R5.2": chance,
    "R5.3": arriving,
    "R3.1": belief,
    "R3.2": trying,
    "R3.3": shifting,
}
