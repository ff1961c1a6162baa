"""Oracles of chapter 05's exercises."""

import itertools

import numpy as np
import torch

from rlbook_utils.exercises import Wrong


def heard(answer):
    """A1.1: who has heard of whom, against a search from node to node."""
    rng = np.random.default_rng(0)
    for nodes, rounds in ((6, 0), (6, 1), (7, 2), (9, 4), (30, 25)):
        matrix = np.eye(nodes)
        for n in range(nodes - 1):  # a path, and a few edges more
            matrix[n, n + 1] = matrix[n + 1, n] = 1
        for n, m in rng.integers(nodes, size=(nodes // 4, 2)):
            matrix[n, m] = 1
        expected = np.zeros((nodes, nodes), int)
        for start in range(nodes):
            known = {start}
            for _ in range(rounds):
                known |= {m for n in known for m in range(nodes) if matrix[n, m]}
            expected[start, list(known)] = 1
        found = np.asarray(answer(torch.tensor(matrix, dtype=torch.float32), rounds)).astype(float)
        if found.shape != expected.shape:
            raise Wrong(f"It has to be [{nodes}, {nodes}]; yours has the shape {found.shape}.")
        if np.array_equal(found, expected):
            continue
        if np.array_equal(found > 0, expected > 0):
            raise Wrong("The right pairs; but it has to be a table of 0 and 1.")
        if np.array_equal(found, expected.T):
            raise Wrong("Rows are those who hear, columns those who are heard of.")
        raise Wrong(f"After {rounds} rounds a node knows of those at most {rounds} edges away.")


def relative(answer):
    """A1.2: steps from each cell to each other, by loops."""
    for height, width in ((3, 4), (2, 2)):
        count = height * width
        expected = np.zeros((count, count, 2))
        for one, other in itertools.product(range(count), repeat=2):
            expected[one, other] = (other % width - one % width, other // width - one // width)
        found = np.asarray(answer(height, width), float)
        if found.shape != expected.shape:
            raise Wrong(
                f"For {height} x {width} cells it has to be {expected.shape}; yours is {found.shape}."
            )
        if np.array_equal(found, expected):
            continue
        if np.array_equal(found, -expected):
            raise Wrong("It is the way from the first to the second: second minus first.")
        if np.array_equal(found, expected[..., ::-1]):
            raise Wrong("The step to the right comes first, then the step down.")
        raise Wrong(
            "Cells are listed row by row: cell n stands in row n // width, column n % width."
        )


def expected_gradient(answer):
    """A2.1: the gradient of the expected reward, against finite differences."""
    rng = np.random.default_rng(1)

    def expected_reward(logits, rewards):
        shares = np.exp(logits - logits.max())
        return (shares / shares.sum() * rewards).sum()

    for _ in range(3):
        logits, rewards = rng.standard_normal(9), rng.choice([-1.0, 1.0], 9)
        slopes = np.array([
            (expected_reward(logits + step, rewards) - expected_reward(logits - step, rewards)) / 2e-5
            for step in 1e-5 * np.eye(9)
        ])  # fmt: skip
        found = np.asarray(answer(torch.tensor(logits), torch.tensor(rewards)), float)
        if found.shape != (9,):
            raise Wrong(f"Nine logits have nine slopes; yours has the shape {found.shape}.")
        if np.allclose(found, slopes, atol=1e-5):
            continue
        if np.allclose(found, -slopes, atol=1e-5):
            raise Wrong("The sign: this is the gradient of the reward, not of a loss.")
        shares = np.exp(logits) / np.exp(logits).sum()
        if np.allclose(found, shares * rewards, atol=1e-5):
            raise Wrong(
                "If one cell becomes likelier, the others become less likely: the mean reward is missing."
            )
        raise Wrong(
            "Derive the softmax: each cell's probability times how much better than the mean it is."
        )


def attend_to_best(answer):
    """A3.1: attention to the k best keys, by loops."""
    rng = torch.Generator().manual_seed(2)
    for shape, k in (((), 2), ((3,), 1), ((2, 2), 5)):
        queries, keys = (
            torch.randn(*shape, 4, 3, generator=rng),
            torch.randn(*shape, 5, 3, generator=rng),
        )
        values = torch.randn(*shape, 5, 2, generator=rng)
        expected, unscaled = torch.zeros(*shape, 4, 2), torch.zeros(*shape, 4, 2)
        for at in itertools.product(*map(range, shape)):
            for q in range(4):
                scores = [float(queries[at][q] @ keys[at][n]) for n in range(5)]
                best = sorted(range(5), key=lambda n: -scores[n])[:k]
                for target, scale in ((expected, 3**0.5), (unscaled, 1.0)):
                    loud = np.exp([(scores[n] - max(scores)) / scale for n in best])
                    for n, weight in zip(best, loud / loud.sum(), strict=True):
                        target[at][q] += weight * values[at][n]
        found = answer(queries.clone(), keys.clone(), values.clone(), k)
        if found.shape != expected.shape:
            raise Wrong(f"It has to be {tuple(expected.shape)}; yours is {tuple(found.shape)}.")
        if torch.allclose(found, expected, atol=1e-5):
            continue
        if torch.allclose(found, unscaled, atol=1e-5):
            raise Wrong(
                "Divide the scores by the root of their number of features before the softmax."
            )
        raise Wrong(
            "What is not among the k best gets weight 0, and the other weights of a row still add up to 1."
        )


def projected(answer):
    """A4.1: an einsum expression, against loops."""
    nodes, matrices = torch.randn(2, 3, 4), torch.randn(5, 4, 6)
    expected = torch.zeros(2, 5, 3, 6)
    for b, h, n, d, f in itertools.product(range(2), range(5), range(3), range(6), range(4)):
        expected[b, h, n, d] += nodes[b, n, f] * matrices[h, f, d]
    if not isinstance(answer, str):
        raise Wrong('It is a string, such as "ij,jk->ik".')
    found = torch.einsum(answer, nodes, matrices)
    if found.shape == expected.shape and torch.allclose(found, expected, atol=1e-5):
        return
    if found.numel() == expected.numel():
        raise Wrong("The right numbers in another order: the output is batch, head, node, feature.")
    raise Wrong("Only the letter of the features that are projected is missing behind the arrow.")


EXERCISES = {
    "A1.1": heard,
    "A1.2": relative,
    "A2.1": expected_gradient,
    "A3.1": attend_to_best,
    "A4.1": projected,
}
