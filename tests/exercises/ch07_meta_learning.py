"""Oracles of chapter 07's exercises."""

import math

import numpy as np

from rlbook_utils.exercises import Wrong


def recall(answer):
    """R1.1: memory by memory, in plain Python."""
    rng = np.random.default_rng(0)
    for count in (1, 3, 5):
        x, keys, values = rng.normal(), rng.normal(size=count), rng.normal(size=count)
        found = float(answer(x, keys.copy(), values.copy()))
        likeness = [math.exp(-((x - key) ** 2)) for key in keys]
        read = sum(w * v for w, v in zip(likeness, values, strict=True))
        if math.isclose(found, read / sum(likeness), rel_tol=1e-6, abs_tol=1e-9):
            continue
        if math.isclose(found, read, rel_tol=1e-6):
            raise Wrong("The weights of a softmax sum to 1.")
        raise Wrong(f"With {count} memories it reads {read / sum(likeness):.4f}, not {found:.4f}.")


def reptile(answer):
    """R2.1: number by number, in plain Python."""
    rng = np.random.default_rng(0)
    for count, size, epsilon in ((3, 4, 0.25), (1, 2, 1.0), (5, 1, 0.1)):
        theta, tuned = rng.normal(size=size), rng.normal(size=(count, size))
        found = np.asarray(answer(theta.copy(), tuned.copy(), epsilon), float)
        hand, back, summed = [], [], []
        for i in range(size):
            way = sum(tuned[k][i] - theta[i] for k in range(count))
            hand.append(theta[i] + epsilon * way / count)
            back.append(theta[i] - epsilon * way / count)
            summed.append(theta[i] + epsilon * way)
        if found.shape == theta.shape and np.allclose(found, hand):
            continue
        if found.shape == theta.shape and np.allclose(found, back):
            raise Wrong("It walks away from the tuned networks.")
        if found.shape == theta.shape and np.allclose(found, summed):
            raise Wrong("It is the mean over tasks, not the sum.")
        raise Wrong("Each number moves the part epsilon of the way to the mean of the tuned ones.")


def meta_slope(answer):
    """R2.2: finite differences of the loss after a step; the first order at the tuned number."""
    rng = np.random.default_rng(0)
    for _ in range(3):
        theta, rate = rng.normal(), rng.uniform(0.1, 0.5)
        middles, heights = rng.normal(size=4), rng.uniform(0.5, 3.0, size=4)

        def loss(start, moved=None, rate=rate, middles=middles, heights=heights):
            total = 0.0
            for c, h in zip(middles, heights, strict=True):
                tuned = (start if moved is None else moved) - rate * h * (
                    (start if moved is None else moved) - c
                )
                total += 0.5 * h * (tuned + (0 if moved is None else start - moved) - c) ** 2
            return total / len(middles)

        second = (loss(theta + 1e-5) - loss(theta - 1e-5)) / 2e-5
        # First order: the tuned numbers move as one with the start.
        first = (loss(theta + 1e-5, theta) - loss(theta - 1e-5, theta)) / 2e-5
        for first_order, right, other in ((False, second, first), (True, first, second)):
            found = float(answer(theta, middles, heights, rate, first_order))
            if math.isclose(found, right, rel_tol=1e-5, abs_tol=1e-7):
                continue
            if math.isclose(found, other, rel_tol=1e-5, abs_tol=1e-7):
                raise Wrong(
                    "The two versions are exchanged: the first order leaves a factor 1 - rate · h out."
                )
            raise Wrong(
                "The tuned number is θ - rate · h · (θ - c); its loss depends on θ through it."
            )


def step(answer):
    """R4.1: finite differences of the loss."""
    rng = np.random.default_rng(0)
    for std in (0.1, 1.0, 2.5):
        mean, rate, actions, advantages = rng.normal(), 0.3, rng.normal(size=7), rng.normal(size=7)

        def loss(m, std=std, actions=actions, advantages=advantages):
            density = -0.5 * ((actions - m) / std) ** 2 - math.log(std)
            return -np.mean(density * advantages)

        slope = (loss(mean + 1e-5) - loss(mean - 1e-5)) / 2e-5
        found = float(answer(mean, std, rate, actions, advantages))
        if math.isclose(found, mean - rate * slope, rel_tol=1e-4, abs_tol=1e-6):
            continue
        if math.isclose(found, mean + rate * slope, rel_tol=1e-4, abs_tol=1e-6):
            raise Wrong(
                "It goes the wrong way: an action with a positive advantage attracts the mean."
            )
        if math.isclose(found - mean, -rate * slope * 7, rel_tol=1e-4):
            raise Wrong("The loss is a mean over the actions, not a sum.")
        raise Wrong(
            f"With standard deviation {std}, the slope of log π in the mean is (action - mean) / std²."
        )


def noise(answer):
    """R4.2: by simulation."""
    rng = np.random.default_rng(0)
    for std, count, rate in ((1.0, 10, 0.1), (0.5, 10, 0.1), (0.1, 40, 0.02)):
        actions = std * rng.standard_normal((20_000, count))
        advantages = rng.standard_normal((20_000, count))
        simulated = (rate * (actions * advantages).mean(1) / std**2).std()
        if not math.isclose(float(answer(std, count, rate)), simulated, rel_tol=0.03):
            raise Wrong(
                f"At σ = {std}, {count} actions and rate {rate}, twenty thousand simulated steps have {simulated:.4f}."
            )


EXERCISES = {
    "R1.1": recall,
    "R2.1": reptile,
    "R2.2": meta_slope,
    "R4.1": step,
    "R4.2": noise,
}
