"""Oracles of chapter 03b's exercises."""

from itertools import pairwise

import numpy as np
import torch
from scipy.stats import t as student

from rlbook_utils.exercises import Wrong

# Furthest x of clocks (period, held), played with the chapter's own emulator: the game is always the same.
CLOCKS = {(2, 1): 311, (6, 3): 1129, (7, 4): 1528, (10, 9): 681, (11, 5): 1435}


def clocks(answer):
    """C4.1: five clocks."""
    periods, held = np.array([*CLOCKS]).T
    found = np.asarray(answer(periods, held))
    wanted = np.array([*CLOCKS.values()])
    if found.shape != wanted.shape:
        raise Wrong(f"One furthest x for each clock: {wanted.shape}, not {found.shape}.")
    if (found != wanted).any():
        which = int(np.flatnonzero(found != wanted)[0])
        raise Wrong(
            f"Period {periods[which]}, held {held[which]}, comes to x = {wanted[which]}, not {found[which]}. "
            "Decision 0 is the first that jumps; a game that has ended must rest."
        )


def given_up(answer):
    """C4.2: counted as the environment counts."""
    rng = np.random.default_rng(31)
    for limit in (1, 3, 8):
        for _ in range(40):
            gained = rng.integers(1, 20, size=60) * (rng.random(60) < rng.choice([0.1, 0.4, 0.9]))
            trace = 40 + np.concatenate([[0], np.cumsum(gained)])
            waited, wanted = 0, trace[-1]
            for before, after in pairwise(trace):
                waited = 0 if after > before else waited + 1
                if waited >= limit:
                    wanted = after
                    break
            found = int(answer(trace.copy(), limit))
            if found != wanted:
                raise Wrong(f"With a limit of {limit} and the trace {trace} it should be {wanted}, not {found}.")  # fmt: skip


def paid(answer):
    """C5.1: pair by pair."""
    rng = np.random.default_rng(32)
    obs, latest = rng.normal(size=(6, 4, 3)), rng.normal(size=(4, 3))
    actions, done = rng.integers(5, size=(6, 4)), rng.random((6, 4)) < 0.3
    done[-1, 0], done[0, 1] = True, True
    rate = lambda before, action, after: ((before - 2 * after) ** 2).sum(-1) + action  # [B]
    wanted = np.zeros((6, 4))
    crossed = np.zeros((6, 4))
    for t in range(6):
        for n in range(4):
            after = obs[t + 1, n] if t < 5 else latest[n]
            crossed[t, n] = rate(obs[t, n], actions[t, n], after)
            wanted[t, n] = 0 if done[t, n] else crossed[t, n]
    given = (torch.from_numpy(np.array(part)) for part in (obs, actions, latest, done))
    obs, actions, latest, done = given
    found = np.asarray(answer(rate, obs, actions, latest, done), float)
    if found.shape != wanted.shape:
        raise Wrong(f"One reward for each decision, {wanted.shape}, not {found.shape}.")
    if np.allclose(found, crossed):
        raise Wrong("The step that ends an episode is paid for the picture of the next game.")
    if not np.allclose(found[:-1], wanted[:-1]):
        raise Wrong("What follows row t is row t + 1 of the same game.")
    if not np.allclose(found, wanted):
        raise Wrong("What follows the last row is `latest`.")


def counted(answer):
    """C5.2: one picture at a time."""
    rng = np.random.default_rng(33)
    before = rng.integers(0, 5, size=16)
    for _ in range(3):
        numbers, after, once = rng.integers(8, size=24), before.copy(), before.copy()
        for number in numbers:
            after[number] += 1
            once[number] = before[number] + 1
        counts = torch.tensor(before, dtype=torch.float32)
        found = np.asarray(answer(torch.from_numpy(numbers), counts), float)
        with np.errstate(divide="ignore"):
            if np.allclose(found, before[numbers] ** -0.5):
                raise Wrong(
                    "What is seen now counts as well: a picture seen for the first time pays 1."
                )
        if np.array_equal(counts, before):
            raise Wrong("The counts stand where they stood: write into `counts` itself.")
        if np.array_equal(counts, once):
            raise Wrong("Seen twice counts two: `counts[numbers] += 1` counts a number once.")  # fmt: skip
        if not np.array_equal(counts, after):
            raise Wrong(f"After the numbers {numbers} the counts {before} are {after}, not {counts.numpy()}.")  # fmt: skip
        if found.shape != numbers.shape or not np.allclose(found, after[numbers] ** -0.5):
            raise Wrong("Each picture pays 1 over the root of its count, all of them counted.")
        before = after


def priced(answer):
    """C5.3: every advantage as a sum of weighted errors up to the first end."""
    rng = np.random.default_rng(34)
    rewards, values = rng.random(12), rng.random(13)
    done = np.zeros(12, bool)
    done[[4, 9]] = True
    start, discount, lam, price = 3.0, 0.9, 0.8, 6.5
    after = lambda t, cost: discount**cost * start if done[t] else discount * values[t + 1]

    def sums(cost, across):
        errors = [rewards[t] + after(t, cost) - values[t] for t in range(12)]
        wanted = np.zeros(12)
        for t in range(12):
            for k in range(t, 12):
                wanted[t] += (discount * lam) ** (k - t) * errors[k]
                if done[k] and not across:
                    break
        return wanted

    given = (torch.from_numpy(part.copy()) for part in (rewards, values, done))
    rewards_, values_, done_ = given
    found = np.asarray(answer(rewards_, values_, start, done_, discount, lam, price), float)
    if found.shape != (12,):
        raise Wrong(f"One advantage for each decision: (12,), not {found.shape}.")
    if np.allclose(found, sums(price + 1, False)):
        raise Wrong(
            "The price is charged once too often: it counts from the decision that ended the episode."
        )
    if np.allclose(found, sums(price, True)):
        raise Wrong("The sum goes on across an end.")
    if np.allclose(found, sums(np.inf, False)):
        raise Wrong("An end is not the end of everything: play resumes.")
    if not np.allclose(found, sums(price, False)):
        raise Wrong(f"The last five should be {np.round(sums(price, False)[-5:], 3)}.")


def lead(answer):
    """C7.1: Welch's interval from its formulas."""
    rng = np.random.default_rng(35)
    for spread, few in ((1.0, 5), (8.0, 3)):
        ours, theirs = 10 + rng.normal(size=5), 9 + spread * rng.normal(size=few)
        parts = [x.var(ddof=1) / len(x) for x in (ours, theirs)]
        freedom = sum(parts) ** 2 / sum(p**2 / (len(x) - 1) for p, x in zip(parts, (ours, theirs), strict=True))  # fmt: skip
        middle, half = (
            ours.mean() - theirs.mean(),
            student.ppf(0.975, freedom) * np.sqrt(sum(parts)),
        )
        found = np.asarray(answer(ours.copy(), theirs.copy()), float)
        if found.shape != (3,):
            raise Wrong("Three numbers: the difference, and the two ends of its interval.")
        if not np.isclose(found[0], middle):
            raise Wrong(f"The difference of the means is {middle:.3f}, not {found[0]:.3f}.")
        if not np.allclose(found[1:], (middle - half, middle + half)):
            low, high = middle - half, middle + half
            raise Wrong(f"It should be {low:.3f} to {high:.3f}: variances and numbers may differ.")


EXERCISES = {
    "C4.1": clocks,
    "C4.2": given_up,
    "C5.1": paid,
    "C5.2": counted,
    "C5.3": priced,
    "C7.1": lead,
}
