"""Chapter 02: distributions and their loss, the projection, replay, the agent and its game, against independent oracles."""

import contextlib
from collections import Counter
from dataclasses import replace
from itertools import groupby, islice, pairwise
from multiprocessing import Pipe
from pathlib import Path
from threading import Thread

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from ipywidgets import FloatSlider
from scipy import stats
from torch.nn import functional

from rlbook_utils.checkpoint import load_checkpoint, save_checkpoint
from rlbook_utils.definitions import load_chapter

ch = load_chapter("ch02_distributional_dqn")


def random_probs(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(2 * torch.randn(*shape, ch.ATOMS, generator=generator), -1)


# Trials and beliefs


def test_the_mean_prefers_a_and_a_patient_in_need_prefers_x():
    rng = np.random.default_rng(5)
    x, a = ch.measured_changes(ch.DRUG_X, rng), ch.measured_changes(ch.DRUG_A, rng)
    assert a.mean() < x.mean() - 1 and a.std() < x.std()
    assert (x <= -20).mean() > (a <= -20).mean() + 0.2
    assert (np.abs(x - x.mean()) < 3).mean() < 0.03


def test_groups_have_the_means_and_modes_of_the_source():
    rng = np.random.default_rng(6)
    control, treatment = (ch.measured_changes(k, rng) for k in (ch.CONTROL, ch.TREATMENT))
    assert control.mean() == pytest.approx(-3, abs=0.3)
    assert treatment.mean() == pytest.approx(-13, abs=0.8)
    assert treatment[treatment > -12].mean() == pytest.approx(-2.5, abs=0.4)
    assert treatment[treatment < -12].mean() == pytest.approx(-22.3, abs=0.4)


def test_expectation_and_variance_of_the_forecasts():
    assert ch.expectation(ch.FORECASTS, ch.TRUST) == pytest.approx(18.4)
    dice = np.arange(1, 7), np.array([0.1, 0.1, 0.1, 0.1, 0.2, 0.4])
    assert ch.expectation(*dice) == pytest.approx(4.4)
    drawn = stats.rv_discrete(values=dice)
    assert ch.variance(*dice) == pytest.approx(drawn.var())


def test_densities_are_those_of_scipy():
    x, inside = np.linspace(-5, 5, 41), np.linspace(0.01, 0.99, 41)
    np.testing.assert_allclose(ch.normal_density(x, 1, 2), stats.norm(1, 2).pdf(x), rtol=1e-10)
    for u, v in ((2, 5), (0.5, 0.5), (1, 1), (190, 110)):
        np.testing.assert_allclose(
            ch.beta_density(inside, u, v), stats.beta(u, v).pdf(inside), rtol=1e-8
        )
    for shape, scale in ((1, 2), (9, 0.5)):
        np.testing.assert_allclose(
            ch.gamma_density(inside, shape, scale),
            stats.gamma(shape, scale=scale).pdf(inside),
            rtol=1e-9,
        )


def test_posteriors_of_candidates_and_of_a_coin():
    news = np.array([0.6, 0.3, 0.2, 0.1])
    np.testing.assert_allclose(ch.posterior(np.full(4, 0.25), news), news / 1.2)
    prior = stats.beta(3, 3).pdf(ch.CHANCES)  # Bayes' rule on a fine grid against mere counting
    grid = ch.posterior(prior, ch.CHANCES**7 * (1 - ch.CHANCES) ** 2) * len(ch.CHANCES)
    np.testing.assert_allclose(grid, ch.beta_density(ch.CHANCES, 10, 5), atol=1e-3)
    np.testing.assert_allclose(
        ch.beta_density(ch.CHANCES, 10, 5), stats.beta(10, 5).pdf(ch.CHANCES), rtol=1e-8
    )


# The click panel


def test_the_panel_adds_values_resets_and_follows_its_slider():
    drawn = []

    def draw(values, setting):
        drawn.append((tuple(values), setting))
        return b"%d" % len(drawn)

    slider = FloatSlider(0.5, min=0, max=1)
    box = ch.click_panel({"+1": 1.0, "+5": 5.0}, slider, draw, [2.0])
    live, note, picture = box.children
    plus_one, plus_five, reset = live.children[0].children
    plus_one.click()
    plus_five.click()
    slider.value = 0.25
    reset.click()
    plus_five.click()
    expected = [(2,), (2, 1), (2, 1, 5), (2, 1, 5), (), (5,)]
    assert [values for values, _ in drawn] == expected
    assert [setting for _, setting in drawn] == [0.5, 0.5, 0.5, 0.25, 0.25, 0.25]
    assert picture.value == b"6"
    assert "rlbook-live" in live._dom_classes and "rlbook-book-only" in note.value


def test_pictures_are_drawn_for_empty_and_long_histories():
    for rewards in ((), (5.0,), (-10.0, 10.0) * 10):
        assert ch.smear_picture(rewards, 0.5).startswith(b"\x89PNG")
    for flips in ((), (1, 0, 1) * 20):
        assert ch.belief_picture(flips, 1).startswith(b"\x89PNG")


# The smear


def listing(reward, probs, gamma, *, lowest=0):
    """Listing 7.2 of the source, atom by atom. The printed loop ends at atom 2 on the left: lowest=1."""
    bj = int(np.clip(np.round((reward + 10) / 0.4), 0, 50))
    moved = probs.copy()
    for j, i in enumerate(range(bj, lowest, -1), start=1):
        moved[i] += gamma**j * moved[i - 1]
    for j, i in enumerate(range(bj, 50, 1), start=1):
        moved[i] += gamma**j * moved[i + 1]
    return moved / moved.sum()


@pytest.mark.parametrize("reward", [-12, -10, -9.6, -9.3, -1, 0, 1, 3.3, 5, 9.7, 10, 40])
@pytest.mark.parametrize("pull", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_smear_is_the_listing(reward, pull):
    probs = random_probs().double()
    moved = ch.smear(probs, reward, pull)
    np.testing.assert_allclose(moved, listing(reward, probs.numpy(), pull), atol=1e-12)
    printed = listing(reward, probs.numpy(), pull, lowest=1)
    rest = np.arange(ch.ATOMS) != 1  # the printed loop forgets atom 1, and only that
    np.testing.assert_allclose(
        moved[rest] / moved[rest].sum(), printed[rest] / printed[rest].sum(), atol=1e-12
    )


def test_smear_of_a_batch_is_that_of_its_rows_and_keeps_its_input():
    probs, rewards = random_probs(5, 3), torch.tensor([[-10.0, 3, 7]] * 5)
    before = probs.clone()
    moved = ch.smear(probs, rewards, 0.6)
    assert torch.equal(probs, before)
    torch.testing.assert_close(moved.sum(-1), torch.ones(5, 3))
    for row in range(5):
        for column in range(3):
            alone = ch.smear(probs[row, column], rewards[row, column].item(), 0.6)
            torch.testing.assert_close(moved[row, column], alone)


def test_smear_treats_both_ends_alike():
    probs = random_probs(seed=1)
    mirrored = ch.smear(probs.flip(0), -3.6, 0.7).flip(0)
    torch.testing.assert_close(ch.smear(probs, 3.6, 0.7), mirrored)


def test_the_sources_sequence_makes_four_peaks():
    probs = ch.smear_all(ch.REWARDS, 0.5)[-1]
    padded = functional.pad(probs, (1, 1))
    peaks = ch.SUPPORT[(probs > padded[:-2]) & (probs > padded[2:])]
    torch.testing.assert_close(peaks, torch.tensor([-10.0, 0.0, 1.2, 10.0]), atol=1e-5, rtol=0)
    assert probs.argmax() == 50


def test_repetition_shrinks_the_variance_every_time():
    history = ch.smear_all([5.0] * 20, 0.7)
    torch.testing.assert_close(history.sum(-1), torch.ones(21))
    means = history @ ch.SUPPORT
    variances = (history * (ch.SUPPORT - means[:, None]) ** 2).sum(-1)
    assert (variances.diff() < 0).all() and variances[-1] < 0.1 * variances[0]
    assert means[-1] == pytest.approx(5, abs=0.1)


def test_a_larger_pull_moves_more_until_it_is_too_wide():
    moved = [(ch.smear(ch.uniform(), -2.0, g) - ch.uniform()).abs().sum() for g in (0.1, 0.5, 0.85)]
    assert moved[0] < moved[1] < moved[2]
    assert (ch.smear(ch.uniform(), -2.0, 0.99) - ch.uniform()).abs().sum() < moved[2] / 2


# Divergences and the loss


def test_five_steps_are_those_of_the_source():
    steps = ch.five_steps(torch.tensor([0.1, 0.1]), torch.tensor([0.6, 0.5]))
    assert steps == {
        "likelihood ratio": pytest.approx(1 / 30, abs=1e-3),
        "log ratio": pytest.approx(np.log(1 / 30), abs=1e-3),
        "weighted log ratio": pytest.approx(0.6 * np.log(1 / 6) + 0.5 * np.log(1 / 5), abs=1e-3),
        "KL divergence": pytest.approx(-0.6 * np.log(1 / 6) - 0.5 * np.log(1 / 5), abs=1e-3),
        "cross-entropy": pytest.approx(-1.1 * np.log(0.1), abs=1e-3),
    }


def test_divergence_is_that_of_scipy_and_allows_zeros():
    q, p = (random_probs(7, seed=seed).double() for seed in (0, 1))
    q, p = q / q.sum(-1, keepdim=True), p / p.sum(-1, keepdim=True)
    oracle = stats.entropy(q.numpy(), p.numpy(), axis=-1)
    np.testing.assert_allclose(ch.kl_divergence(q, p), oracle, rtol=1e-9)
    assert (ch.kl_divergence(q, p) > 0).all() and ch.kl_divergence(q, q).abs().max() < 1e-12
    half, whole = torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])
    assert ch.kl_divergence(whole, half) == pytest.approx(np.log(2))
    assert ch.kl_divergence(half, whole) == float("inf")


def test_cross_entropy_is_torchs_with_soft_targets():
    logits = torch.randn(6, ch.ATOMS, generator=torch.Generator().manual_seed(2))
    target = random_probs(6, seed=3)
    oracle = functional.cross_entropy(logits, target, reduction="none")
    torch.testing.assert_close(ch.cross_entropy(logits, target), oracle)


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e8])
def test_cross_entropy_and_its_gradient_stay_finite(scale):
    logits = torch.zeros(4, ch.ATOMS)
    logits[:, 7] = scale
    logits.requires_grad_()
    target = torch.zeros(4, ch.ATOMS)
    target[:2, 7], target[2:, 30] = 1, 1  # right and wrong, both certain
    loss = ch.cross_entropy(logits, target)
    loss.sum().backward()
    assert loss.isfinite().all() and logits.grad.isfinite().all()
    torch.testing.assert_close(logits.grad, torch.softmax(logits.detach(), -1) - target)
    assert logits.grad[2, 30] == -1  # the worst mistake still teaches


def test_the_faulty_losses_fail_as_shown():
    logits = torch.tensor([[0.0, 120.0]], requires_grad=True)
    target = torch.tensor([[1.0, 0.0]])
    naive = ch.LOSSES["log of softmax"](logits, target)
    assert not naive.isfinite().any()
    hidden = ch.LOSSES["log of (softmax + 1e-8)"](logits, target)
    (gradient,) = torch.autograd.grad(hidden.sum(), logits)
    assert hidden.isfinite().all() and gradient.abs().max() < 1e-6


def test_one_bell_covers_or_chooses():
    def bell(mean, std):
        return ch.bell_on_atoms(torch.tensor(mean).double(), torch.tensor(std).double())

    target = 0.6 * bell(-4.0, 1.0) + 0.4 * bell(5.0, 1.0)
    wide, narrow = bell(-0.5, 5.2), bell(-4.0, 1.0)
    assert ch.kl_divergence(target, wide) < ch.kl_divergence(target, narrow)
    assert ch.kl_divergence(narrow, target) < ch.kl_divergence(wide, target)
    assert target.sum() == pytest.approx(1)


# ---- the projection, quantiles, and the targets of the agent ----------------------------------------------------------


def triangular(returns: np.ndarray, probs: np.ndarray, support: np.ndarray) -> np.ndarray:
    """The projection as its formula says, a matrix of hat functions: an oracle without floor or scatter."""
    spacing = (support[-1] - support[0]) / (len(support) - 1)
    place = (np.clip(returns, support[0], support[-1]) - support[0]) / spacing
    hats = np.clip(1 - np.abs(place[:, :, None] - np.arange(len(support))), 0, 1)  # [B, K, A]
    return np.einsum("bk,bka->ba", probs, hats)


REWARDS_TRIED = {
    "on atoms": [-10.0, -0.4, 0.0, 0.4, 8.0, 10.0],
    "between": [-9.9, -0.123, 0.2, 0.3001, 7.77, 9.999],
    "beyond": [-1000.0, -10.001, 10.001, 37.0, 1e6, -11.0],
}


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("where", REWARDS_TRIED)
def test_the_projection_agrees_with_its_formula_and_keeps_all_mass(
    where: str, discount: float
) -> None:
    rewards = torch.tensor(REWARDS_TRIED[where])
    probs = torch.distributions.Dirichlet(torch.ones(ch.ATOMS)).sample((len(rewards),))
    returns = rewards[:, None] + discount * ch.SUPPORT
    projected = ch.project(returns, probs, ch.SUPPORT)
    oracle = triangular(
        returns.double().numpy(), probs.double().numpy(), ch.SUPPORT.double().numpy()
    )
    np.testing.assert_allclose(projected.numpy(), oracle, atol=1e-6)
    np.testing.assert_allclose(projected.sum(1), 1, atol=1e-6)
    assert (projected >= 0).all()
    double = ch.project(returns.double(), probs.double(), ch.SUPPORT.double())
    np.testing.assert_allclose(double.numpy(), oracle, atol=1e-6)
    np.testing.assert_allclose(
        double, ch.project_loop(returns.double(), probs.double(), ch.SUPPORT.double()), atol=1e-9
    )


def test_the_projection_keeps_the_mean_while_nothing_is_clipped() -> None:
    probs = torch.distributions.Dirichlet(torch.ones(ch.ATOMS)).sample((64,)).double()
    support = torch.linspace(ch.V_MIN, ch.V_MAX, ch.ATOMS, dtype=torch.float64)
    returns = torch.linspace(-1, 1, 64).double()[:, None] + 0.9 * support
    means = (ch.project(returns, probs, support) * support).sum(1)
    np.testing.assert_allclose(means, (probs * returns).sum(1), atol=1e-9)


def test_the_quantile_loss_agrees_with_a_loop() -> None:
    rng, kappa = np.random.default_rng(0), 0.3
    quantiles, targets = rng.normal(size=(3, 5)), rng.normal(size=(3, 4))
    wanted = np.zeros(3)
    for b in range(3):
        for i in range(5):
            for target in targets[b]:
                u, level = target - quantiles[b, i], (2 * i + 1) / 10
                huber = 0.5 * u * u if abs(u) <= kappa else kappa * (abs(u) - 0.5 * kappa)
                wanted[b] += abs(level - (u < 0)) * huber / kappa / 4
    found = ch.quantile_loss(torch.from_numpy(quantiles), torch.from_numpy(targets), kappa)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_descent_on_the_quantile_loss_finds_the_quantiles() -> None:
    samples = torch.distributions.Normal(3.0, 2.0).sample((4000,))
    quantiles = torch.zeros(9, requires_grad=True)
    descent = torch.optim.Adam([quantiles], lr=0.05)
    for _ in range(400):
        descent.zero_grad()
        ch.quantile_loss(quantiles[None], samples[None], kappa=0.05).sum().backward()
        descent.step()
    wanted = stats.norm(3, 2).ppf((np.arange(9) + 0.5) / 9)
    np.testing.assert_allclose(quantiles.detach(), wanted, atol=0.2)


class Table(torch.nn.Module):
    """A network that looks its outputs up: row ``obs[:, 0]`` of ``outputs`` [S, 3, K]."""

    def __init__(self, outputs: torch.Tensor) -> None:
        super().__init__()
        self.outputs = torch.nn.Parameter(outputs)

    def forward(self, ram: torch.Tensor) -> torch.Tensor:
        return self.outputs[ram[:, 0].long()]


def one_row(action: int, reward: float, discount: float) -> ch.Experience:
    obs, following = torch.zeros(1, 128), torch.zeros(1, 128)
    following[0, 0] = 1
    return ch.Experience(
        obs, torch.tensor([action]), torch.tensor([reward]), torch.tensor([discount]), following
    )


def means_config(**fields: object) -> ch.AgentConfig:
    return ch.AgentConfig(returns="mean", **fields)


@pytest.mark.parametrize(("double", "following"), [(True, 1.0), (False, 5.0)])
def test_the_target_takes_the_greedy_action_of_the_next_state(
    double: bool, following: float
) -> None:
    online = torch.tensor([[[0.0], [0.0], [0.0]], [[9.0], [2.0], [3.0]]])  # greedy at s': action 0
    target = torch.tensor([[[0.0], [0.0], [0.0]], [[1.0], [2.0], [5.0]]])  # there: action 2
    losses = ch.losses_of(
        Table(online), Table(target), one_row(1, 0.25, 0.5), means_config(double=double)
    )
    error = 0.25 + 0.5 * following
    wanted = 0.5 * error**2 if error < 1 else error - 0.5
    assert losses.item() == pytest.approx(wanted, rel=1e-5)


def means_of(outputs: np.ndarray, support: np.ndarray | None) -> np.ndarray:
    """The mean that outputs [..., K] stand for: of quantiles, or of atoms with these logits."""
    if support is None:
        return outputs.mean(-1)
    weights = np.exp(outputs - outputs.max(-1, keepdims=True))
    return (weights * support).sum(-1) / weights.sum(-1)


@pytest.mark.parametrize("returns", ["categorical", "quantile"])
def test_the_mean_of_a_distribution_is_taken_over_its_atoms(returns: str) -> None:
    outputs = np.random.default_rng(0).normal(scale=3, size=(4, 3, ch.ATOMS))
    support = ch.atoms_of(ch.AgentConfig(returns=returns))
    found = ch.expected(torch.from_numpy(outputs).float(), support)
    wanted = means_of(outputs, None if support is None else support.numpy())
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("returns", ["categorical", "quantile"])
def test_targets_of_distributions_take_the_greedy_action_of_the_next_state(
    returns: str, double: bool
) -> None:
    rng, states = np.random.default_rng(1), 24
    online, target = rng.normal(scale=2, size=(2, states, 3, ch.ATOMS)).astype(np.float32)
    config = ch.AgentConfig(returns=returns, double=double)
    atoms = None if returns == "quantile" else np.linspace(-0.5, 1.5, ch.ATOMS)
    here, there = np.arange(states), np.roll(np.arange(states), -1)
    rows = ch.Experience(
        np.tile(here[:, None], 128), rng.integers(3, size=states), rng.normal(size=states).astype(np.float32),
        rng.choice(np.float32([0.9, 0.59, 0.0]), states), np.tile(there[:, None], 128),
    )  # fmt: skip
    of_online, of_target = (means_of(table[there], atoms).argmax(1) for table in (online, target))
    greedy = of_online if double else of_target
    assert (of_online != of_target).any() and (greedy != rows.actions).any()
    following = target[there, greedy].astype(float)  # [B, K]
    outputs = online[here, rows.actions].astype(float)
    returned = rows.rewards[:, None] + rows.discounts[:, None] * (
        following if atoms is None else atoms
    )
    if atoms is None:
        errors = returned[:, None] - outputs[:, :, None]  # [B, K, targets]
        levels = ((np.arange(ch.ATOMS) + 0.5) / ch.ATOMS)[:, None]
        huber = np.where(abs(errors) <= 0.05, errors**2 / 2, 0.05 * (abs(errors) - 0.025)) / 0.05
        wanted = (abs(levels - (errors < 0)) * huber).mean(2).sum(1)
    else:
        probs, predicted = (
            np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (following, outputs)
        )
        wanted = stats.entropy(triangular(returned, probs, atoms), predicted, axis=1)
    tensors = ch.Experience(*map(torch.from_numpy, rows))
    tables = (Table(torch.from_numpy(table)) for table in (online, target))
    found = ch.losses_of(*tables, tensors, config)
    np.testing.assert_allclose(found.detach(), wanted, rtol=1e-4)


@pytest.mark.parametrize("returns", ["categorical", "quantile", "mean", "smear"])
def test_only_the_action_taken_gets_a_gradient_and_the_target_network_none(returns: str) -> None:
    config = ch.AgentConfig(returns=returns, n_step=1)
    outputs = 1 if returns == "mean" else ch.ATOMS
    torch.manual_seed(0)
    online, target = Table(torch.randn(2, 3, outputs)), Table(torch.randn(2, 3, outputs))
    ch.losses_of(online, target, one_row(1, 10.0, 0.9), config).sum().backward()
    moved = online.outputs.grad.abs().sum(-1) > 0
    assert moved.tolist() == [[False, True, False], [False, False, False]]
    assert target.outputs.grad is None


def test_a_terminal_row_does_not_look_at_the_next_state() -> None:
    torch.manual_seed(0)
    online = Table(torch.randn(2, 3, ch.ATOMS))
    losses = [
        ch.losses_of(
            online, Table(torch.randn(2, 3, ch.ATOMS)), one_row(0, 0.5, 0.0), ch.AgentConfig()
        )
        for _ in range(2)
    ]
    torch.testing.assert_close(*losses)
    logits = online.outputs[0, 0].log_softmax(-1)
    support = ch.atoms_of(ch.AgentConfig())
    on_atoms = triangular(np.full((1, 1), 0.5), np.ones((1, 1)), support.numpy())[0]
    entropy = -(on_atoms[on_atoms > 0] * np.log(on_atoms[on_atoms > 0])).sum()
    assert losses[0].item() == pytest.approx(
        -(on_atoms @ logits.detach().numpy()) - entropy, rel=1e-4
    )


def test_the_source_target_is_a_smear_or_certain() -> None:
    probs = torch.distributions.Dirichlet(torch.ones(ch.ATOMS)).sample((3,))
    target = ch.source_target(probs, torch.tensor([-1.0, 10.0, -10.0]))
    torch.testing.assert_close(target[0], ch.smear(probs[0], -1.0, 0.1))
    assert target[1, -1] == 1 and target[2, 0] == 1


# ---- the first agent, on invented data --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_the_first_agent_meets_its_target_and_spikes_at_every_renewal(seed: int) -> None:
    curves, probs = ch.fit_toy(ch.ToyConfig(), seed)
    divergence, every = np.array(curves["divergence"]), ch.ToyConfig().sync_every
    assert divergence[-1] < 0.01
    jumps = divergence[every::every] / divergence[every - 1 : -1 : every]
    assert jumps.min() > 1.1  # the first renewals come before the network has met its target
    assert jumps[4:].min() > 20
    peaks = ch.SUPPORT[probs.argmax(-1)]
    assert abs(peaks[0, 0]) < 0.5 and abs(peaks[1, 2] - 8) < 0.5
    untaken = probs[[0, 0, 1, 1], [1, 2, 0, 1]]
    taken = probs[[0, 1], [0, 2]].max(-1).values
    assert untaken.max() < 0.75 * taken.min()  # moved only by the hidden layer, which all share


def test_gradients_that_are_never_cleared_do_not_converge() -> None:
    curves, _ = ch.fit_toy(ch.ToyConfig(clear_gradients=False), seed=11)
    assert not curves["divergence"][-1] < 0.1


# ---- prioritised replay -----------------------------------------------------------------------------------------------


def test_the_sum_tree_agrees_with_running_sums() -> None:
    rng, tree = np.random.default_rng(0), ch.SumTree(1000)
    weights = np.zeros(1000)
    for _ in range(20):
        places = rng.integers(1000, size=50)
        values = rng.random(50) * (rng.random(50) < 0.8)
        for place, value in zip(places, values, strict=True):
            weights[place] = value
        tree.set(places, weights[places])
    assert tree.sums[1] == pytest.approx(weights.sum())
    amounts = rng.random(5000) * weights.sum()
    np.testing.assert_array_equal(
        tree.find(amounts), np.searchsorted(weights.cumsum(), amounts, side="right")
    )


def filled_replay(priorities: np.ndarray, exponent: float = 0.6) -> ch.PrioritisedReplay:
    replay = ch.PrioritisedReplay(len(priorities), exponent)
    replay.add(ch.Row(np.arange(len(priorities))))
    replay.set_priorities(np.arange(len(priorities)), priorities)
    return replay


def test_rows_are_drawn_in_proportion_to_priority_to_the_exponent() -> None:
    rng = np.random.default_rng(0)
    priorities = rng.gamma(0.5, size=100)
    replay = filled_replay(priorities)
    # a single draw per call: one share of the total is the whole total, so draws are independent
    draws = np.concatenate([replay.draw(1, 1.0, rng)[0] for _ in range(40_000)])
    counts = np.bincount(draws, minlength=100)
    wanted = priorities**0.6 / (priorities**0.6).sum()
    assert stats.chisquare(counts, wanted * counts.sum()).pvalue > 0.001
    uniform = np.full(100, counts.sum() / 100)
    assert stats.chisquare(counts, uniform).pvalue < 1e-12  # the test can tell the two apart


def test_batches_follow_the_priorities_more_closely_than_chance() -> None:
    rng = np.random.default_rng(1)
    priorities = rng.random(64)
    replay = filled_replay(priorities, exponent=1.0)
    counts = np.bincount(
        np.concatenate([replay.draw(256, 1.0, rng)[0] for _ in range(400)]), minlength=64
    )
    np.testing.assert_allclose(counts / counts.sum(), priorities / priorities.sum(), atol=2e-3)


@pytest.mark.parametrize("exponent", [0.0, 0.6])
def test_a_priority_of_zero_is_never_drawn(exponent: float) -> None:
    replay = filled_replay(np.array([0.0, 1.0, 0.0, 2.0]), exponent)
    drawn, _ = replay.draw(1000, 0.5, np.random.default_rng(0))
    assert set(drawn) == {1, 3}


def test_importance_weights_undo_the_uneven_draws() -> None:
    rng, values = np.random.default_rng(0), np.arange(50.0)
    priorities = np.linspace(0.02, 1, 50)
    replay = filled_replay(priorities)
    chances = priorities**0.6 / (priorities**0.6).sum()
    drawn, weights = replay.draw(4000, 0.5, rng)
    raw = (50 * chances[drawn]) ** -0.5
    np.testing.assert_allclose(weights, raw / raw.max(), rtol=1e-5)
    drawn, weights = replay.draw(4000, 1.0, rng)
    assert np.average(values[drawn], weights=weights) == pytest.approx(values.mean(), abs=1.0)
    assert abs(values[drawn].mean() - values.mean()) > 1.5  # without weights it is biased


def test_new_rows_get_the_largest_priority_and_replace_the_oldest() -> None:
    replay = filled_replay(np.array([1.0, 9.0, 1.0, 1.0]), exponent=1.0)
    assert replay.add(ch.Row(np.array([77]))).tolist() == [0]
    leaves = replay.tree.sums[replay.tree.leaves :][:4]
    assert leaves.tolist() == [9.0, 9.0, 1.0, 1.0]
    assert replay.rows(np.array([0])).number.tolist() == [77]


# ---- networks ---------------------------------------------------------------------------------------------------------


def test_noisy_layers_are_noisy_only_while_training_and_learn_their_noise() -> None:
    torch.manual_seed(0)
    layer, x, rng = ch.NoisyLinear(8, 4), torch.randn(3, 8), np.random.default_rng(0)
    plain = torch.nn.functional.linear(x, layer.weight, layer.bias)
    layer.draw(rng)
    torch.testing.assert_close(layer.eval()(x), plain)
    layer.train()
    assert torch.equal(layer(x), layer(x))  # the noise stays until the next draw
    draws = []
    for _ in range(4000):
        ch.draw_noise(layer, rng)
        draws.append(layer(x).detach())
    draws = torch.stack(draws)
    torch.testing.assert_close(draws.mean(0), plain.detach(), atol=0.05, rtol=0)
    # with f(e) = sign(e) sqrt|e|, Var f(e) = E|e| = sqrt(2 / pi): squared for a weight, once for a bias
    scale = 0.5 / np.sqrt(8)
    wanted = scale**2 * ((2 / np.pi) * (x**2).sum(1) + np.sqrt(2 / np.pi))
    torch.testing.assert_close(
        draws.var(0), wanted[:, None].float().expand(3, 4), rtol=0.15, atol=0
    )
    layer(x).sum().backward()
    assert layer.weight_std.grad.abs().sum() > 0 and layer.bias_std.grad.abs().sum() > 0


def test_the_dueling_network_ignores_what_all_advantages_share() -> None:
    network = ch.ValueNet("phases", 5, dueling=True, noisy=False)
    ram = torch.randint(0, 256, (4, 128), dtype=torch.uint8)
    before = network(ram)
    with torch.no_grad():
        network.advantages[-1].bias += 3.0
    torch.testing.assert_close(network(ram), before)
    with torch.no_grad():
        network.value[-1].bias += 3.0
    torch.testing.assert_close(network(ram), before + 3.0)


@pytest.mark.parametrize("sees", ["raw", "chosen", "phases"])
def test_what_the_network_sees_has_the_promised_width(sees: str) -> None:
    ram = torch.randint(0, 256, (7, 128), dtype=torch.uint8)
    assert ch.encode(ram, sees).shape == (7, ch.SEES[sees])


def test_phases_put_the_two_ends_of_the_road_together() -> None:
    ram = torch.zeros(3, 128, dtype=torch.uint8)
    ram[0, ch.CARS], ram[1, ch.CARS], ram[2, ch.CARS] = 0, 159, 80
    seen = ch.encode(ram, "phases")
    assert (seen[0] - seen[1]).norm() < 0.2 * (seen[0] - seen[2]).norm()
    for byte in set(range(128)) - {ch.HEIGHT, ch.LANE, ch.STUN, *range(108, 118)}:
        changed = ram.clone()
        changed[:, byte] = 200
        assert torch.equal(ch.encode(changed, "phases"), seen)


# ---- Freeway ----------------------------------------------------------------------------------------------------------


def test_freeway_is_the_game_the_chapter_describes() -> None:
    envs = ch.make_freeway(1)
    spec = envs.envs[0].spec.kwargs
    assert spec["repeat_action_probability"] == 0.25 and spec["frameskip"] == 4
    assert envs.envs[0].unwrapped.get_action_meanings() == ["NOOP", "UP", "DOWN"]
    steps = islice(ch.transitions(envs, lambda ram: np.full(1, ch.UP), 0), ch.EPISODE + 1)
    ended = [i for i, step in enumerate(steps) if step.terminated[0] or step.truncated[0]]
    assert ended == [ch.EPISODE - 1]
    envs.close()


@pytest.mark.slow
def test_holding_up_is_the_floor_to_beat_and_random_play_never_crosses() -> None:
    rng = np.random.default_rng(0)
    assert 19 <= ch.play_freeway(lambda ram: np.full(len(ram), ch.UP), 2, seed=0).mean() <= 23
    assert ch.play_freeway(lambda ram: rng.integers(3, size=len(ram)), 2, seed=0).max() == 0


PERIODS = (200, 160, 120, 80, 40, 40, 80, 120, 160, 200)  # of the ten cars, in decisions


def cars_of(envs, seed: int, decisions: int) -> np.ndarray:
    """The cars' places under random play: [T, N, 10]."""
    rng = np.random.default_rng(seed)
    stream = ch.transitions(envs, lambda ram: rng.integers(3, size=len(ram)), seed)
    found = np.array([step.obs[:, ch.CARS] for step in islice(stream, decisions)])
    envs.close()
    return found.astype(int)


def test_the_traffic_is_the_same_in_every_game() -> None:
    cars = cars_of(ch.make_freeway(2), 5, 450)
    assert (cars == cars_of(ch.make_freeway(1), 6, 450)).all()
    assert np.lcm.reduce(PERIODS) == 2400 > ch.EPISODE
    for lane, period in enumerate(PERIODS):
        places = cars[10:, 0, lane]
        assert (places[period:] == places[:-period]).all()
        assert (places[period // 2 :] != places[: -(period // 2)]).any()


def test_displaced_cars_set_out_elsewhere_and_drive_as_ever() -> None:
    env = ch.DisplacedCars(gym.make("ALE/Freeway-v5", obs_type="ram"))
    starts = []
    for seed in (1, 2, 1):
        obs, _ = env.reset(seed=seed)
        starts.append(obs[ch.CARS].astype(int))
        driven = np.array([env.step(ch.WAIT)[0][ch.CARS] for _ in range(211)])
        assert (driven[10 + np.array(PERIODS), range(10)] == driven[10]).all()
    assert (starts[0] == starts[2]).all() and (starts[0] != starts[1]).sum() > 5
    env.close()


def test_the_bytes_are_what_the_chapter_says() -> None:
    envs = ch.make_freeway(1)
    steps = list(islice(ch.transitions(envs, lambda ram: np.full(1, ch.UP), 3), 400))
    envs.close()
    heights = np.array([step.obs[0, ch.HEIGHT] for step in steps]).astype(int)
    crossed = np.array([step.rewards[0] for step in steps])
    falls = np.flatnonzero(np.diff(heights) < -ch.TOP / 2)
    assert crossed.sum() >= 2
    for when in np.flatnonzero(crossed):
        assert np.abs(falls - when).min() <= 2  # a crossing puts the chicken back at the bottom
    stunned = np.array([step.obs[0, ch.STUN] for step in steps]) > 0
    assert (np.diff(heights)[stunned[:-1]] <= 4).all() and stunned.any()


def freeway_step(before: int, after: int, reward: float, terminated: bool = False) -> ch.Transition:
    obs, following = np.zeros((1, 128), np.uint8), np.zeros((1, 128), np.uint8)
    obs[0, ch.HEIGHT], following[0, ch.HEIGHT] = before, after
    no = np.zeros(1, bool)
    return ch.Transition(
        obs, np.zeros(1, int), np.array([reward]), following, no | terminated, no, ~no
    )


def test_shaping_telescopes_so_that_the_best_policy_stays_the_best() -> None:
    heights, rewards, discount = [6, 40, 177, 6, 90, 30], [0, 0, 1, 0, 0], 0.9
    shaped = [
        ch.shape_rewards(freeway_step(a, b, r, terminated=i == 4), discount).rewards[0]
        for i, (a, b, r) in enumerate(zip(heights, heights[1:], rewards, strict=False))
    ]
    weights = discount ** np.arange(5)
    assert weights @ shaped == pytest.approx(weights @ rewards - 6 / ch.TOP)


def test_the_sources_rewards() -> None:
    found = [
        ch.source_rewards(freeway_step(6, 6, *case)).rewards[0]
        for case in ((0, False), (1, False), (0, True))
    ]
    assert found == [-1, 10, -10]


@pytest.mark.parametrize("persistence", [1.0, 4.0])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
def test_exploratory_actions_are_held_and_take_the_share_they_say(
    persistence: float, share: float
) -> None:
    config = ch.AgentConfig(steps=1024, exploration=share, persistence=persistence, num_envs=64)
    explorer = ch.Explorer(ch.make_network(config), config, seed=0, steps=1024)
    last = explorer.network.advantages[-1]
    with torch.no_grad():  # a network that always prefers to wait
        last.weight.zero_()
        last.bias.zero_()
        last.bias.view(3, -1)[ch.WAIT, -1] = 50.0
    ram = np.zeros((64, 128), np.uint8)
    actions = np.array([explorer(ram) for _ in range(1500)]).T  # [N, T]
    explored = 1.5 * np.mean(actions != ch.WAIT)  # a third of the exploratory actions is to wait
    assert explored == pytest.approx(share, rel=0.05)
    if share == 0.2:  # seldom does one exploratory action follow another
        lengths = [
            sum(1 for _ in run)
            for row in actions
            for action, run in groupby(row)
            if action == ch.UP
        ]
        assert np.mean(lengths) == pytest.approx(persistence, rel=0.15)


def test_noise_alone_explores_by_noise_alone() -> None:
    for name, share in {"noise_alone": 0, "rainbow": 1}.items():
        config = ch.ABLATION[name]
        assert ch.Explorer(ch.make_network(config), config, 0, 0).chance() == share


@pytest.mark.parametrize(("n", "spanning"), [(1, 1), (5, 5)])
def test_copies_put_each_row_that_spans_a_crossing_into_the_replay_six_times(
    n: int, spanning: int
) -> None:
    learner, n_step = ch.Learner(ch.AgentConfig(replay="copies"), 0, "cpu"), ch.NStep(n, 0.9)
    heights = (100, 120, 140, 160, 177, 6, 10, 14, 10, 22, 26, 30)  # a crossing, and a step back
    for i, (before, after) in enumerate(pairwise(heights)):
        learner.remember(n_step(freeway_step(before, after, before == 177, terminated=i == 10)))
    counts = Counter(learner.replay.rows(np.arange(len(learner.replay))).obs[:, ch.HEIGHT].tolist())
    spread = counts.pop(10)  # two rows begin there
    assert spread == 2 and sorted(counts.values()) == [1] * (9 - spanning) + [6] * spanning


@pytest.mark.slow
def test_a_training_resumes_from_a_checkpoint(tmp_path: Path) -> None:
    config, path = ch.AgentConfig(steps=8192, num_envs=8), tmp_path / "run.safetensors"
    stream = ch.train(config, 0)
    progress = next(p for p in stream if p.step >= 5000)
    stream.close()
    save_checkpoint(path, progress.state(), config=config, seed=0)
    state = load_checkpoint(path, config, 0)["state"]
    learner = ch.Learner(config, 99, "cpu")
    ch.restore(learner, state)
    for name, kept in progress.state()["network"].items():
        assert torch.equal(learner.network.state_dict()[name], kept)
    assert learner.updates == progress.state()["updates"] > 0
    moments = learner.optimiser.state_dict()["state"][0]["exp_avg"]
    assert torch.equal(moments, progress.state()["optimiser"]["state"][0]["exp_avg"])
    rest = list(ch.train(config, 0, state))
    assert rest[0].step > progress.step and rest[-1].step >= config.steps


@pytest.mark.slow
@pytest.mark.parametrize("noisy", [False, True])
def test_two_trainings_with_one_seed_are_the_same_and_another_seed_is_another(noisy: bool) -> None:
    config = ch.AgentConfig(steps=5120, num_envs=8, noisy=noisy)
    finals = []
    for seed in (0, 0, 1):
        *_, progress = ch.train(config, seed)
        finals.append(progress.state()["network"]["body.0.weight"])
    assert torch.equal(finals[0], finals[1]) and not torch.equal(finals[0], finals[2])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("returns", "normal"),
        ("sees", "pixels"),
        ("replay", "both"),
        ("discount", 1.5),
        ("n_step", 0),
    ],
)
def test_a_config_that_makes_no_sense_is_refused_in_one_sentence(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"AgentConfig\.{field} is .*; it has to"):
        ch.AgentConfig(**{field: value})


# ---- the wiring of an update ------------------------------------------------------------------------------------------


def filled_learner(**fields: object) -> ch.Learner:
    """A learner that remembers 64 invented rows and draws 16 of them."""
    learner = ch.Learner(ch.AgentConfig(batch=16, **fields), 0, "cpu")
    rng = np.random.default_rng(0)
    obs, following = rng.integers(0, 256, (2, 64, 128), dtype=np.uint8)
    rewards = rng.normal(scale=0.3, size=64).astype(np.float32)
    discounts = rng.choice(np.float32([0.9, 0.59, 0.0]), 64)
    learner.remember(ch.Experience(obs, rng.integers(3, size=64), rewards, discounts, following))
    return learner


def test_an_update_weights_the_loss_of_each_row_by_its_importance(monkeypatch) -> None:
    learner, weights = filled_learner(), np.linspace(0.1, 1, 16, dtype=np.float32)
    monkeypatch.setattr(learner.replay, "draw", lambda *_: (np.arange(16), weights))
    slope, errors = learner.network.advantages[-1].bias, torch.linspace(-1, 2, 16)
    monkeypatch.setattr(ch, "losses_of", lambda *_: 3 + errors * slope[0])
    ch.update(learner, 0.0)
    assert slope.grad[0].item() == pytest.approx(np.mean(weights * errors.numpy()), rel=1e-5)


@pytest.mark.parametrize(
    ("done", "is_exponent", "share"), [(0.0, 0.4, 1.0), (0.5, 0.7, 0.55), (1.0, 1.0, 0.1)]
)
def test_importance_rises_and_the_step_size_falls_while_the_training_goes_on(
    monkeypatch, done: float, is_exponent: float, share: float
) -> None:
    learner, asked, rates = filled_learner(), [], []
    draw = learner.replay.draw
    monkeypatch.setattr(
        learner.replay, "draw", lambda *given: asked.append(given[1]) or draw(*given)
    )
    (group,) = learner.optimiser.param_groups
    monkeypatch.setattr(learner.optimiser, "step", lambda: rates.append(group["lr"]))
    ch.update(learner, done)
    assert asked == pytest.approx([is_exponent])
    assert rates == pytest.approx([learner.config.learning_rate * share])


def test_an_update_gives_the_places_it_drew_their_losses_as_priorities(monkeypatch) -> None:
    learner, drawn, found = filled_learner(), [], []
    draw, losses_of = learner.replay.draw, ch.losses_of
    monkeypatch.setattr(
        learner.replay, "draw", lambda *given: drawn.append(draw(*given)) or drawn[-1]
    )
    monkeypatch.setattr(
        ch, "losses_of", lambda *given: found.append(losses_of(*given)) or found[-1]
    )
    leaves = learner.replay.tree.sums[learner.replay.tree.leaves :][:64]  # a view
    wanted = leaves.copy()
    ch.update(learner, 0.0)
    ((places, _),), (losses,) = drawn, found
    wanted[places] = losses.detach().numpy().astype(float) ** ch.EXPONENT
    np.testing.assert_allclose(leaves, wanted)
    assert losses.min() > 1e-6 and losses.std() > 0.01  # so that each place got its own


def test_the_target_network_is_renewed_after_its_interval_and_never_before() -> None:
    learner = filled_learner(sync_every=3)

    def flat(network: torch.nn.Module) -> torch.Tensor:
        return torch.nn.utils.parameters_to_vector(network.parameters()).detach().clone()

    standing = flat(learner.target_network)
    for count in range(1, 8):
        ch.update(learner, 0.0)
        online, target = flat(learner.network), flat(learner.target_network)
        if count % 3 == 0:
            assert torch.equal(target, online)
            standing = target
        else:
            assert torch.equal(target, standing) and not torch.equal(target, online)


# ---- a whole training, on a road that needs no emulator -----------------------------------------------------------------


class Road:
    """A stand-in for Freeway, with its memory, its actions and its score: two lanes that are free most of the time.

    A car covers each lane for some decisions of every period; it throws the chicken back to the start and stuns it.
    Bytes that the chapter's agents do not look at hold the environment's number and a clock.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012
    length, free, top = 256, 5, 10  # of a game and of a gap, in decisions; of the road, in steps
    lanes = ((4, 7), (7, 9))  # height, period

    def __init__(self, num_envs: int) -> None:
        self.num_envs, self.clock = num_envs, 0

    def reset(self, seed: int) -> tuple[np.ndarray, dict]:
        self.rng = np.random.default_rng(seed)
        self._begin()
        return self._memory(), {}

    def _begin(self) -> None:
        self.played, self.phase = 0, self.rng.integers(63, size=self.num_envs)
        self.height, self.stun = np.zeros((2, self.num_envs), int)

    def _memory(self) -> np.ndarray:
        ram = np.zeros((self.num_envs, 128), np.uint8)
        ram[:, 0], ram[:, 1:3] = np.arange(self.num_envs), (self.clock // 256, self.clock % 256)
        ram[:, ch.HEIGHT], ram[:, ch.STUN] = 6 + 17 * self.height, self.stun
        for lane, (_, period) in enumerate(self.lanes):
            ram[:, ch.CARS.start + lane] = self.phase % period * (160 // period)
        return ram

    def step(self, actions: np.ndarray) -> tuple:
        moves = np.choose(actions, (0, 1, -1)) * (self.stun == 0)
        self.stun = np.maximum(self.stun - 1, 0)
        self.height = np.maximum(self.height + moves, 0)
        self.played, self.phase, self.clock = self.played + 1, self.phase + 1, self.clock + 1
        for height, period in self.lanes:
            hit = (self.height == height) & (self.phase % period >= self.free)
            self.height[hit], self.stun[hit] = 0, 4
        crossed = self.height == self.top
        self.height[crossed] = 0
        over, odd, obs = (
            self.played == self.length,
            np.arange(self.num_envs) % 2 == 1,
            self._memory(),
        )
        info = {"final_obs": obs}
        if over:
            self._begin()
        return self._memory(), crossed.astype(float), over & ~odd, over & odd, info

    def close(self) -> None:
        pass


@pytest.fixture
def road(monkeypatch) -> list[tuple]:
    """Freeway is the stand-in, and its process a thread of this one. Gives the arguments of each start."""
    started = []

    class Player(Thread):
        wait = Thread.join

        def run(self) -> None:
            with contextlib.suppress(EOFError, OSError):  # the training has closed its end
                super().run()

    def start(function, *arguments: object) -> tuple:
        started.append(arguments)
        ours, theirs = Pipe()
        player = Player(target=function, args=(theirs, *arguments), daemon=True)
        player.start()
        return player, ours

    for name, value in {"spawn": start, "make_freeway": Road, "EPISODE": Road.length, "WARM_UP": 512}.items():  # fmt: skip
        monkeypatch.setattr(ch, name, value)
    return started


def test_a_training_passes_on_seeds_rewards_and_schedules(road, monkeypatch) -> None:
    monkeypatch.setattr(Road, "length", 60)
    config = ch.AgentConfig(steps=2048, num_envs=8, batch=16, n_step=3, discount=0.9)
    steps, rows, exponents, rates = [], [], [], []
    reward_for_learning, remember, draw, update = (
        ch.reward_for_learning, ch.Learner.remember, ch.PrioritisedReplay.draw, ch.update
    )  # fmt: skip

    def spied_update(learner: ch.Learner, done: float) -> float:
        loss = update(learner, done)
        rates.append(learner.optimiser.param_groups[0]["lr"])
        return loss

    spies = {
        (ch, "reward_for_learning"): lambda *given: (
            steps.append(reward_for_learning(*given)) or steps[-1]
        ),
        (ch, "update"): spied_update,
        (ch.Learner, "remember"): lambda self, new: rows.append(new) or remember(self, new),
        (ch.PrioritisedReplay, "draw"): lambda self, size, is_exponent, rng: (
            exponents.append(is_exponent) or draw(self, size, is_exponent, rng)
        ),
    }
    for (owner, name), spy in spies.items():
        monkeypatch.setattr(owner, name, spy)
    list(ch.train(config, seed=7))

    assert road == [(8, 70_000_000)]
    assert len(rates) == len(exponents) > 300
    assert len(set(exponents)) == len(rates) / config.updates  # new with every decision
    for found, first, last in ((exponents, 0.4, 1.0), (rates, 5e-4, 5e-5)):
        done = (np.array(found) - first) / (last - first)  # both are linear
        assert (np.diff(done) >= 0).all() and 0.2 < done[0] < 0.3 and 0.99 < done[-1] < 1

    assert any(step.terminated.any() for step in steps) and any(s.truncated.any() for s in steps)
    remembered = ch.Experience(*(np.concatenate(column) for column in zip(*rows, strict=True)))
    seen = set()
    for obs, action, reward, discount, following in zip(*remembered, strict=True):
        env, began = int(obs[0]), int(obs[1]) * 256 + int(obs[2])
        seen.add((env, began))
        total, weight = 0.0, 1.0
        for step in steps[began : began + 3]:
            total, weight = total + weight * step.rewards[env], weight * 0.9
            if step.terminated[env] or step.truncated[env]:
                break
        assert action == steps[began].actions[env]
        assert reward == pytest.approx(total, abs=1e-5)
        assert discount == pytest.approx(weight * (not step.terminated[env]), rel=1e-5)
        np.testing.assert_array_equal(following, step.next_obs[env])
    assert len(seen) == len(remembered.actions)  # none twice
    assert seen >= {
        (env, began) for env in range(8) for began in range(len(steps) - 2)
    }  # none lost


@pytest.mark.slow
@pytest.mark.parametrize("seed", [21, 22, 23])
def test_the_agent_crosses_more_often_than_someone_who_holds_up(road, seed: int) -> None:
    config = ch.AgentConfig(steps=8192)
    start = ch.Learner(config, seed, "cpu").network.state_dict()
    *_, progress = ch.train(config, seed)
    state = progress.state()
    assert all(not torch.equal(start[name], state["network"][name]) for name in start)
    held = ch.play_freeway(lambda ram: np.full(len(ram), ch.UP), 32, seed=500 + seed).mean()
    assert held > 14  # of the 22 that are possible: the floor is not random play
    crossings = ch.play_freeway(ch.greedy_policy(config, state), 32, seed=500 + seed).mean()
    assert crossings > held + 3


SMALL = {
    ch.AgentConfig: {"steps": 1024, "num_envs": 8, "batch": 16},
    ch.RiskConfig: {"sweeps": 600},
}


@pytest.mark.parametrize(
    "measurement", ch.MEASUREMENTS, ids=[f"{m.row}-{m.name}" for m in ch.MEASUREMENTS]
)
def test_every_measurement_runs_and_gives_what_it_promises(road, measurement) -> None:
    config = measurement.config
    if config is not None:
        config = replace(config, **SMALL[type(config)])
    found = measurement.measure(config, 1)
    assert {metric.name for metric in measurement.metrics} <= set(found.metrics)
    assert all(np.isfinite(value) for value in found.metrics.values())
    if isinstance(config, ch.AgentConfig):
        assert [len(found.curves[name]) for name in ("decisions", "crossings", "loss")] == [1] * 3
    if measurement.name == "freeway":
        assert "selection_crossings" in found.metrics  # by which the champion is chosen
        assert ch.greedy_policy(config, found.state)(np.zeros((2, 128), np.uint8)).shape == (2,)


# ---- risk -------------------------------------------------------------------------------------------------------------


def test_cvar_is_the_mean_of_the_worst_outcomes() -> None:
    counts = np.random.default_rng(0).integers(0, 40, size=81)
    samples = np.repeat(ch.WALK_SUPPORT.numpy(), counts)
    for fraction in (0.02, 0.05, 0.5, 1.0):
        size = fraction * len(samples)
        whole = int(size)
        worst = samples[:whole].sum() + (size - whole) * (
            samples[whole] if whole < len(samples) else 0
        )
        found = ch.cvar(torch.from_numpy(counts / counts.sum()), fraction)
        assert found.item() == pytest.approx(worst / size, rel=1e-9)


def test_the_wind_blows_as_often_as_it_says() -> None:
    cells = np.tile((0, 3), (200_000, 1))
    following, rewards, ended = ch.walk(cells, np.full(200_000, 3), np.random.default_rng(0))
    pushed = np.bincount(following[:, 0], minlength=3) / 200_000
    np.testing.assert_allclose(pushed[1:3], [ch.GUST - ch.SQUALL, ch.SQUALL], atol=1.5e-3)
    assert (rewards == -1).all() and not ended.any()
    _, rewards, ended = ch.walk(
        np.array([(2, 2), (2, 6)]), np.array([1, 1]), np.random.default_rng(0)
    )
    assert rewards.tolist() == [-1 + ch.FALL, -1] and ended.all()


@pytest.mark.slow
def test_three_criteria_choose_three_paths() -> None:
    rows = {"mean": 2, "mean less variance": 1, "CVaR": 0}
    found, worst = {}, {}
    for name, criterion in ch.CRITERIA.items():
        policy = criterion(ch.learn_walk(criterion, ch.RiskConfig(), seed=7)).argmax(1).numpy()
        returns, visits = ch.walk_returns(policy, 5000, seed=8)
        assert (
            visits[:, 1:6].sum(1).argmax() == rows[name]
        )  # the row where most of the way is walked
        found[name], worst[name] = returns.mean(), np.sort(returns)[:250].mean()
    assert found["mean"] > found["mean less variance"] + 0.5 > found["CVaR"] + 1.0
    assert worst["CVaR"] > worst["mean"] + 3
