"""Oracles of chapter 04's exercises."""

from itertools import product

import numpy as np
import torch

from rlbook_utils.exercises import Wrong


def expected(answer):
    """M1.1: the expected reward against two others, against a loop over everything they may do."""
    rng = np.random.default_rng(0)
    for actions, size in ((2, 1), (3, 5)):
        rewards = rng.normal(size=(actions,) * 3)
        second, third = rng.dirichlet(np.ones(actions), (2, size))
        found = np.asarray(answer(rewards.copy(), second.copy(), third.copy()))
        if found.shape != (size, actions):
            raise Wrong(
                f"For {size} policies of {actions} actions it has to be {(size, actions)}; yours has the shape {found.shape}."
            )
        slow = np.zeros((size, actions))
        for i, a, b, c in product(range(size), *[range(actions)] * 3):
            slow[i, a] += rewards[a, b, c] * second[i, b] * third[i, c]
        swapped = np.einsum("abc,sb,sc->sa", rewards, third, second)
        if np.allclose(found, swapped) and not np.allclose(found, slow):
            raise Wrong("The second index of the rewards belongs to the second player.")
        if not np.allclose(found, slow):
            raise Wrong(
                "Weigh every entry by the probability that both others do what it stands for: a product."
            )


def place(answer):
    """M2.1: the place of the one, by listing all combinations in order."""
    for count, k in ((2, 2), (4, 2), (3, 4)):
        combinations = list(product(range(count), repeat=k))
        found = torch.as_tensor(answer(torch.tensor(combinations), count))
        if found.shape != (len(combinations),):
            raise Wrong(
                f"{len(combinations)} joint actions have as many places; yours have the shape {tuple(found.shape)}."
            )
        if sorted(found.tolist()) != list(range(len(combinations))):
            raise Wrong("Different joint actions need different places, from 0 to count ** k - 1.")
        if found.tolist() != list(range(len(combinations))):
            raise Wrong("Which neighbour's action changes fastest? The last one's.")
        if answer(torch.tensor([combinations[-1]] * 6).reshape(2, 3, k), count).shape != (2, 3):
            raise Wrong("It should take any number of axes before the neighbours'.")


def count_domains(answer):
    """M3.1: domains of a ring, by walking round it."""
    rng = np.random.default_rng(0)
    rings = [np.ones(6), -np.ones(5), np.array([1, -1]), np.array([1, 1, -1, 1])]
    for ring in [*rings, *rng.choice([-1, 1], (30, 9))]:
        ring = ring.astype(np.int8)
        starts = [i for i in range(len(ring)) if ring[i] != ring[i - 1]]
        found = answer(ring.copy())
        if not starts and found != 1:
            raise Wrong("A ring without a border is one domain.")
        if starts and found == len(starts) + 1:
            raise Wrong("It is a ring: the last spin and the first are neighbours.")
        if found != max(1, len(starts)):
            raise Wrong(f"The ring {ring.tolist()} has {max(1, len(starts))} domains, not {found}.")


def shared(answer):
    """M3.2: the gradient of a shared network, by autograd through one weight."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 5, 4, generator=generator)
    common = torch.randn(3, 1, 4, 2, generator=generator, requires_grad=True)
    own = common.detach().expand(3, 5, 4, 2).clone().requires_grad_()
    loss = lambda weight: ((inputs[..., None] * weight).sum(-2).tanh() - 0.3).square().sum()
    (wanted,) = torch.autograd.grad(loss(common), common)
    (slopes,) = torch.autograd.grad(loss(own), own)
    found = answer([slopes, slopes])
    if len(found) != 2:
        raise Wrong("There is one gradient for each of the weights.")
    if found[0].shape != wanted.shape:
        raise Wrong(
            f"From a gradient {tuple(slopes.shape)} it has to make {tuple(wanted.shape)}, not {tuple(found[0].shape)}."
        )
    if torch.allclose(found[0], wanted / 5, atol=1e-5):
        raise Wrong("The losses are summed, so that every agent counts in full.")
    if not all(torch.allclose(one, wanted, atol=1e-5) for one in found):
        raise Wrong("A weight that several agents use gets the gradient of each of them.")


EXERCISES = {"M1.1": expected, "M2.1": place, "M3.1": count_domains, "M3.2": shared}
