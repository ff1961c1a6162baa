"""Chapter 04b's lattices: mean field, policy and sampler against loops, enumeration, Metropolis and Onsager."""

import ast
import dataclasses
import itertools
import math

import jupytext
import numpy as np
import pytest
import torch
from scipy import integrate, stats

from rlbook_utils.checkpoint import load_checkpoint, save_checkpoint
from rlbook_utils.definitions import CHAPTERS, load_chapter
from rlbook_utils.exercises import check
from rlbook_utils.rollout import spread

torch.set_num_threads(1)
NAME = "ch04b_mean_field"
ch = load_chapter(NAME)
FACE, TOUCH = ch.steps_to_neighbours("face", 2), ch.steps_to_neighbours("touch", 2)
SUMS = 2.0 * torch.arange(5) - 4  # of four neighbours; what a right Q gains by up


def last(progresses):
    *_, progress = progresses
    return progress


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def neighbours_by_loop(spins, kind):
    """The spins around every cell of one lattice, as lists: cell -> spins."""
    shape, around = spins.shape, {}
    for cell in itertools.product(*map(range, shape)):
        around[cell] = []
        for step in itertools.product((-1, 0, 1), repeat=len(shape)):
            distance = sum(map(abs, step))
            if distance and (kind == "touch" or distance == 1):
                there = tuple((c + s) % n for c, s, n in zip(cell, step, shape, strict=True))
                around[cell].append(int(spins[there]))
    return around


# The mean field


@pytest.mark.parametrize(("kind", "shape", "count"), [
    ("touch", (5, 7), 8), ("face", (6, 4), 4), ("touch", (3, 4, 5), 26), ("face", (4, 3, 5), 6), ("face", (9,), 2),
])  # fmt: skip
def test_mean_action_agrees_with_a_loop(kind, shape, count):
    spins = ch.random_spins(3, *shape, rng=generator(1))
    neighbours = ch.steps_to_neighbours(kind, len(shape))
    assert len(neighbours) == len(set(neighbours)) == count
    means = ch.mean_action(spins, neighbours)
    assert means.shape == (3, *shape, 2)
    for copy in range(3):
        for cell, around in neighbours_by_loop(spins[copy], kind).items():
            up = sum(s > 0 for s in around) / count
            torch.testing.assert_close(means[copy][cell], torch.tensor([1 - up, up]))


def test_a_lopsided_set_of_steps_looks_the_way_it_points():
    spins = ch.random_spins(1, 6, 6, rng=generator(2))
    seen = ch.sum_of_neighbours(spins, ((1, 0), (0, 1)))
    for row, column in itertools.product(range(6), repeat=2):
        expected = spins[0, (row + 1) % 6, column] + spins[0, row, (column + 1) % 6]
        assert seen[0, row, column] == expected


def test_the_reward_is_the_source_s():
    """Its listing: tanh(5 (a . (mean - a/2)) / sum(a)) with a one-hot action; it prints -0.8483 and 0.8483."""
    means = torch.rand(50, 1, generator=generator())
    means = torch.cat([1 - means, means], -1)
    for action in (0, 1):
        one_hot = torch.eye(2)[action]
        printed = torch.tanh(5 * (one_hot * (means - one_hot / 2)).sum(-1) / one_hot.sum())
        found = ch.reward_of("source", torch.full((50,), action), means, 8)
        torch.testing.assert_close(found, printed)
    both = ch.rewards_of_both("source", torch.tensor([0.25, 0.75]), 8)
    assert both.tolist() == pytest.approx([-0.8483, 0.8483], abs=1e-4)


@pytest.mark.parametrize("shape", [(6, 4), (4, 4, 6)])
def test_the_mean_reward_is_minus_the_energy_per_spin(shape):
    spins = ch.random_spins(1, *shape, rng=generator(3))
    neighbours = ch.steps_to_neighbours("face", len(shape))
    energy = 0  # each bond once
    for cell in itertools.product(*map(range, shape)):
        for axis in range(len(shape)):
            there = list(cell)
            there[axis] = (there[axis] + 1) % shape[axis]
            energy -= int(spins[0][cell]) * int(spins[0][tuple(there)])
    actions, means = (spins > 0).long(), ch.mean_action(spins, neighbours)
    rewards = ch.reward_of("energy", actions, means, len(neighbours))
    assert rewards.mean().item() == pytest.approx(-energy / spins.numel(), abs=1e-6)
    absolute, square, fourth, per_spin = ch.moments_of(spins, neighbours)[:, 0].tolist()
    m = spins.double().mean().item()
    assert per_spin == pytest.approx(energy / spins.numel())
    assert (absolute, square, fourth) == pytest.approx((abs(m), m**2, m**4))


def test_an_agent_s_own_action_does_not_touch_what_it_will_see_next():
    """Why the discount adds the same to both actions: flip a spin, and its own mean action stays."""
    for kind in ("touch", "face"):
        neighbours = ch.steps_to_neighbours(kind, 2)
        spins = ch.random_spins(1, 6, 6, rng=generator(4))
        flipped = spins.clone()
        flipped[0, 2, 3] *= -1
        before, after = (ch.mean_action(s, neighbours) for s in (spins, flipped))
        assert torch.equal(before[0, 2, 3], after[0, 2, 3]) and not torch.equal(before, after)


# Policy and network


def test_boltzmann_draws_the_softmax():
    q_values = torch.tensor([1.0, -0.5, 0.3]).expand(40_000, 3)
    actions = ch.boltzmann(q_values, 0.7, generator())
    weights = np.exp(np.array([1.0, -0.5, 0.3]) / 0.7)
    counts = np.bincount(actions.numpy(), minlength=3)
    assert stats.chisquare(counts, 40_000 * weights / weights.sum()).pvalue > 1e-3
    assert ch.boltzmann(torch.zeros(2, 3, 4, 2), 1.0, generator()).shape == (2, 3, 4)


def test_copies_are_networks_of_their_own():
    net = ch.MeanFieldQ(3, 10, generator())
    means = torch.rand(3, 4, 5, 2, generator=generator(1))
    q_values = net(means)
    assert q_values.shape == means.shape
    for copy in range(3):
        hidden = means[copy] @ net.first[copy] + net.first_bias[copy]
        hidden = torch.where(hidden > 0, hidden, hidden.exp() - 1)
        expected = hidden @ net.last[copy] + net.last_bias[copy]
        torch.testing.assert_close(q_values[copy], expected, atol=1e-5, rtol=1e-5)
    q_values[1].sum().backward()
    for weights in net.parameters():
        assert weights.grad[1].abs().sum() > 0 and weights.grad[[0, 2]].abs().sum() == 0


def some_round(copies=3, rounds=4):
    rng = generator(5)
    means, after = (torch.rand(copies, rounds, 6, 1, generator=rng) for _ in range(2))
    pair = lambda x: torch.cat([1 - x, x], -1)
    actions = torch.randint(2, (copies, rounds, 6), generator=rng)
    return ch.Round(
        pair(means), actions, torch.randn(copies, rounds, 6, generator=rng), pair(after)
    )


def test_the_loss_indexes_rows_and_columns_together_and_holds_its_target():
    """Pitfall: target[:, actions] writes every row. Against a loop over all experience."""
    net, played = ch.MeanFieldQ(3, 10, generator()), some_round()
    losses = ch.mean_field_losses(net, played, 0.9)
    q_values, later = net(played.means).tolist(), net(played.next_means).tolist()
    for copy in range(3):
        errors = []
        for t, i in itertools.product(range(4), range(6)):
            target = played.rewards[copy, t, i].item() + 0.9 * max(later[copy][t][i])
            errors.append(target - q_values[copy][t][i][played.actions[copy, t, i]])
        assert losses[copy].item() == pytest.approx(np.mean(np.square(errors)), rel=1e-4)
    losses.sum().backward()
    found = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    with torch.no_grad():
        targets = played.rewards + 0.9 * net(played.next_means).max(-1).values
    chosen = torch.where(played.actions > 0, net(played.means)[..., 1], net(played.means)[..., 0])
    (chosen - targets).square().mean((1, 2)).sum().backward()
    for one, parameter in zip(found, net.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, atol=1e-5, rtol=1e-4)


def test_a_round_looks_chooses_and_looks_again():
    config = ch.MeanFieldConfig(copies=2, sweeps=3, temperature=0.5)
    spins, seen = ch.random_spins(2, 10, 10, rng=generator()), []

    def values(means):
        seen.append(means)
        return torch.stack([-means[..., 1], means[..., 1]], -1)

    played, after = ch.play_round(values, spins.clone(), config, generator(1))
    assert len(seen) == 3 and torch.equal(seen[0], ch.mean_action(spins, TOUCH))
    assert torch.equal(played.means, seen[2]) and not torch.equal(seen[1], seen[2])
    assert torch.equal(after, (2 * played.actions - 1).to(torch.int8)) and after.dtype == torch.int8
    assert torch.equal(played.next_means, ch.mean_action(after, TOUCH))
    torch.testing.assert_close(played.rewards, ch.reward_of("source", played.actions, seen[2], 8))


def test_shuffled_rewards_stay_in_their_copy_and_leave_the_rest():
    played = some_round()
    told = ch.taught_by("shuffled", played, generator())
    for copy in range(3):
        one, other = played.rewards[copy].flatten(), told.rewards[copy].flatten()
        assert torch.equal(one.sort().values, other.sort().values) and not torch.equal(one, other)
    assert told.means is played.means and told.actions is played.actions
    assert ch.taught_by("rewards", played, generator()) is played


def test_learning_begins_after_the_warm_up_at_a_falling_rate(monkeypatch):
    rates, updates = [], []
    step = torch.optim.Adam.step

    def spy(self, *arguments):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    config = ch.MeanFieldConfig(rounds=14, copies=1, side=4, learning_rate=0.02)
    for _ in ch.train_mean_field(config, 1):
        updates.append(len(rates))
    assert updates == [0] * ch.WARM_UP + [10, 20, 30, 40]
    expected = [0.02 * (1 - r / 14) for r in range(ch.WARM_UP, 14) for _ in range(10)]
    assert rates == pytest.approx(expected)
    rates.clear()
    last(ch.train_mean_field(dataclasses.replace(config, teacher="nobody"), 1))
    assert not rates


def test_the_loss_is_nan_before_learning_and_then_what_it_is(monkeypatch):
    seen, losses = [], ch.mean_field_losses
    spy = lambda *a: seen.append(losses(*a)) or seen[-1]
    monkeypatch.setitem(ch.train_mean_field.__globals__, "mean_field_losses", spy)
    for progress in ch.train_mean_field(ch.MeanFieldConfig(rounds=13, copies=2, side=4), 1):
        if progress.step <= ch.WARM_UP:
            assert math.isnan(progress.metrics["loss"]) and not seen
        else:
            assert progress.metrics["loss"] == pytest.approx(seen[-1].mean().item()) != 0


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if torch.is_tensor(one) else one == other or one != one


def test_a_state_stays_what_it_was():
    config = ch.MeanFieldConfig(rounds=14, copies=2, side=6)
    yielded = [(progress, progress.state()) for progress in ch.train_mean_field(config, 5)]
    assert not same(yielded[10][1], yielded[-1][1])
    for progress, at_once in yielded:
        assert same(progress.state(), at_once)  # although the run went on


def test_training_resumes_exactly(tmp_path):
    config = ch.MeanFieldConfig(rounds=14, copies=2, side=6)
    whole = [progress.state() for progress in ch.train_mean_field(config, 5)]
    save_checkpoint(tmp_path / "field.safetensors", whole[11], config=config)
    stored = load_checkpoint(tmp_path / "field.safetensors")["state"]
    rest = last(ch.train_mean_field(config, 5, stored)).state()
    assert torch.equal(rest["spins"], whole[-1]["spins"])
    for name, weights in rest["net"].items():
        torch.testing.assert_close(weights, whole[-1]["net"][name], rtol=0, atol=0)
    assert last(ch.train_mean_field(config, 5, rest)).step == 14


USES = (ch.LEARNING, ch.RULING, ch.SAMPLING, ch.ASKING, ch.PRINTED)


def test_every_use_of_a_seed_has_random_numbers_of_its_own():
    uses = [
        *(s for use in USES for seed in range(1, 11) for s in spread((use, seed), 2)),
        *(s for seed in range(1, 6) for side in (8, 16, 32, 64) for s in spread((ch.SAMPLING, seed, side, side), 2)),
    ]  # fmt: skip
    assert len(set(uses)) == len(uses)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_lattice_aligns_and_without_rewards_it_does_not(seed):
    late = {}
    for teacher in ("rewards", "shuffled", "nobody"):
        run = ch.train_mean_field(ch.MeanFieldConfig(teacher=teacher), seed)
        late[teacher] = np.mean([progress.metrics["aligned"] for progress in run][-20:])
    assert late["rewards"] > 97 and max(late["shuffled"], late["nobody"]) < 85
    state = last(ch.train_mean_field(ch.MeanFieldConfig(rounds=1), seed)).state()
    assert ch.aligned(state["spins"]).mean() < 85  # what it learned was not there at the start


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_hot_agents_learn_the_sum_of_their_neighbours(dims):
    sums = 2.0 * torch.arange(2 * dims + 1) - 2 * dims
    learned = ch.learned_values(ch.LatticeConfig(dims=dims), 1)
    assert (learned - sums).abs().max() < 0.05
    shuffled = ch.learned_values(ch.LatticeConfig(dims=dims, teacher="shuffled"), 1)
    assert shuffled.abs().max() < 0.6


def test_who_follows_and_who_prefers(monkeypatch):
    tables = torch.stack([SUMS, SUMS + 9, SUMS - 9, -SUMS])
    assert ch.follows(tables).tolist() == [True, False, False, False]
    answers = {
        "follow": lambda means: 20 * means,
        "up": lambda means: torch.tensor([0.0, 9.0]).expand_as(means),
    }
    config, spins = ch.MeanFieldConfig(copies=2), torch.ones(2, 10, 10, dtype=torch.int8)
    spins[1] = -1
    ends = {}
    for name, answer in answers.items():
        monkeypatch.setitem(
            ch.ends_of.__globals__, "mean_field_net", lambda _, answer=answer: answer
        )
        ends[name] = ch.ends_of({"net": None, "spins": spins}, -spins, config, 1)
    assert (ends["follow"] < -0.95).all() and ends["up"][0] > 0.95 and ends["up"][1] < -0.95


# Order, temperature, sampler


@pytest.mark.parametrize(("kind", "shape", "masks"), [
    ("face", (4, 6), 2), ("touch", (6, 4), 4), ("face", (4, 6, 2), 2), ("touch", (4, 4, 4), 8),
])  # fmt: skip
def test_those_who_act_together_are_no_neighbours(kind, shape, masks):
    neighbours = ch.steps_to_neighbours(kind, len(shape))
    orders = ch.orders_of(shape, neighbours)
    assert len(orders) == masks and torch.equal(sum(orders), torch.ones(shape, dtype=torch.int8))
    for order in orders:
        assert (order[order > 0] * ch.sum_of_neighbours(order, neighbours)[order > 0] == 0).all()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ch.orders_of((5, 4), FACE), "The lattice is 5 x 4; a checkerboard order needs even sides."),
        (lambda: ch.quench(torch.zeros(9), 9, 1, [1.0], 0), "The lattice is 9 x 9; a checkerboard order needs even sides."),
        (lambda: ch.chances_of_up(SUMS, [1.0, 0.0]), "The temperature is 0; a Boltzmann policy needs one above 0."),
        (lambda: ch.chances_of_up(SUMS, [-0.5]), "The temperature is -0.5; a Boltzmann policy needs one above 0."),
        (lambda: ch.MeanFieldConfig(temperature=0), "MeanFieldConfig.temperature is 0; it has to lie between 0.05 and 20.0."),
        (lambda: ch.chances_of_up(SUMS, [1.0, math.nan]), "The temperature is nan; a Boltzmann policy needs one above 0."),
        (lambda: ch.chances_of_up(SUMS, []), "There is no temperature; a Boltzmann policy needs at least one."),
        (lambda: ch.orders_of((8, 8), ((2, 0),)), "Neighbours would act together: no step may be longer than one cell."),
        (lambda: ch.observe(torch.zeros(7), [1.0], (4, 4), 1, 6, 1), "The table has 7 entries; 4 neighbours need 5."),
        (lambda: ch.observe(SUMS, [1.0], (4, 4), 1, 5, 1), "There are 5 sweeps; to measure anything takes six."),
        (lambda: ch.MeanFieldConfig(reward="fame"), "MeanFieldConfig.reward is 'fame'; it has to be one of source, energy."),
        (lambda: ch.MeanFieldConfig(copies=0), "MeanFieldConfig.copies is 0; it has to lie between 1 and 1000."),
        (lambda: ch.LatticeConfig(dims=0), "LatticeConfig.dims is 0; it has to lie between 1 and 4."),
        (lambda: ch.LatticeConfig(teacher="x"), "LatticeConfig.teacher is 'x'; it has to be one of rewards, shuffled, nobody."),
        (lambda: ch.LatticeConfig(sides=(8, 9)), "LatticeConfig.sides is (8, 9); it takes even numbers from 4 on."),
        (lambda: ch.LatticeConfig(sweeps=1), "LatticeConfig.sweeps is 1; it has to lie between 30 and 100000."),
    ],
)  # fmt: skip
def test_bad_input_gets_one_clear_sentence(make, sentence):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == sentence


def test_the_policy_is_the_heat_bath_at_twice_its_temperature():
    temperatures = [0.5, 1.0, 1.7]
    found = ch.chances_of_up(SUMS, temperatures)
    for row, tau in zip(found, temperatures, strict=True):
        for chance, total in zip(row.tolist(), (-4, -2, 0, 2, 4), strict=True):
            up, down = (
                math.exp(total / (2 * tau)),
                math.exp(-total / (2 * tau)),
            )  # e^{-E/T}, E = -+ sum, T = 2 tau
            assert chance == pytest.approx(up / (up + down), rel=1e-5)


@pytest.mark.parametrize("kind", ["face", "touch"])
def test_a_sweep_is_the_agents_acting_one_after_the_other(kind):
    """Exact, agent by agent, from the sampler's own random numbers, with a table that rises and falls."""
    neighbours = ch.steps_to_neighbours(kind, 2)
    chances = torch.rand(3, len(neighbours) + 1, generator=generator(6))
    spins, orders = ch.random_spins(3, 6, 4, rng=generator(7)), ch.orders_of((6, 4), neighbours)
    expected, sampler = spins.clone(), ch.Sampler(spins, chances, neighbours, orders, seed=8)
    for _ in range(5):
        sampler.sweep()
        u = sampler.u.int()
        for order, copy in itertools.product(orders, range(3)):
            cells = torch.nonzero(order).tolist()
            np.random.default_rng(0).shuffle(cells)
            for cell in map(tuple, cells):  # in any order, looking at what is there now
                ups = sum(s > 0 for s in neighbours_by_loop(expected[copy], kind)[cell])
                whole = round(65536 * chances[copy, ups].double().item())
                expected[(copy, *cell)] = 1 if u[(copy, *cell)] + 2**15 < whole else -1
        assert torch.equal(spins, expected)


def test_all_at_once_looks_only_at_what_was_there():
    """Pitfall: a shared buffer turns a synchronous update into a sequential one."""
    spins = ch.random_spins(1, 5, 5, rng=generator(9))
    before = spins.clone()
    sampler = ch.Sampler(
        spins,
        ch.chances_of_up(100 * SUMS, [1.0]),
        FACE,
        [torch.ones(5, 5, dtype=torch.int8)],
        seed=1,
    )
    sampler.sweep()
    for cell, around in neighbours_by_loop(before[0], "face").items():
        if sum(around):
            assert spins[0][cell] == np.sign(sum(around))


def test_sixteen_bits_are_enough_and_random():
    chances = torch.linspace(2e-5, 1 - 2e-5, 501)[:500].view(100, 5)
    sampler = ch.Sampler(ch.random_spins(100, 64, 64, rng=generator()), chances, FACE, [], seed=3)
    bars = torch.stack([c.flatten().int() for c in sampler.climbs]).cumsum(0)
    bars = (bars + 2**15) % 2**16 - 2**15  # sums of 16-bit numbers wrap
    error = (bars.T + 2**15) / 2**16 - chances.double()
    assert error.abs().max() < 2**-17 + 1e-7
    sampler.follow(torch.tensor([[0.0, 0.5, 1.0, 1e-9, 0.25]]))
    bars = torch.stack([c.flatten().int() for c in sampler.climbs]).cumsum(0).flatten()
    assert ((bars + 2**15) % 2**16).tolist() == [
        1,
        2**15,
        2**16 - 1,
        1,
        2**14,
    ]  # never never, never always
    sampler.sweep()
    u = sampler.u.flatten().int() + 2**15  # 409,600 of them
    for part in (u // 256, u % 256):
        assert stats.chisquare(torch.bincount(part, minlength=256).numpy()).pvalue > 1e-4
    centred = u.double() - u.double().mean()
    for lag in (1, 2, 3, 4, 64):
        correlation = (centred[:-lag] * centred[lag:]).mean() / centred.square().mean()
        assert abs(correlation) < 5 / len(u) ** 0.5


def test_the_table_is_the_network():
    net = ch.MeanFieldQ(1, 10, generator(2))
    spins = ch.random_spins(1, 12, 12, rng=generator(3))
    for kind in ("face", "touch"):
        neighbours = ch.steps_to_neighbours(kind, 2)
        table = ch.advantages_of_up(net, len(neighbours))[0]
        means = ch.mean_action(spins, neighbours)
        asked = net(means).detach()
        looked_up = table[(means[..., 1] * len(neighbours)).round().long()]
        torch.testing.assert_close(asked[..., 1] - asked[..., 0], looked_up, atol=1e-6, rtol=1e-5)


# Physics: enumeration, Metropolis, Onsager


def enumerated(tau):
    """Exact averages of the 4 x 4 lattice over its 65,536 states: |m|, m², m⁴, energy per spin."""
    states = (np.arange(2**16)[:, None] >> np.arange(16)) & 1
    spins = (2 * states - 1).reshape(-1, 4, 4)
    energy = -(spins * (np.roll(spins, 1, 1) + np.roll(spins, 1, 2))).sum((1, 2))
    weights = np.exp(-(energy - energy.min()) / (2 * tau))
    m = np.abs(spins.mean((1, 2)))
    return [np.average(x, weights=weights) for x in (m, m**2, m**4, energy / 16)]


def test_the_sampler_agrees_with_exact_enumeration():
    taus = [0.8, 1.1, 1.4, 2.0]
    seen, _ = ch.observe(SUMS, taus, (4, 4), 2000, 240, 1, ("aligned", "random"))
    for i, tau in enumerate(taus):
        exact = enumerated(tau)
        for start in (0, 1):
            found = [column[start, i] for column in seen]
            np.testing.assert_allclose(found, exact, rtol=0.01, atol=0.004)


def metropolis(shape, temperature, sweeps, copies, seed):
    """Independent: single flips accepted with min(1, e^{-ΔE/T}), cell by cell; |m| and energy per spin of each copy."""
    rng = np.random.default_rng(seed)
    spins, sums = np.ones((copies, *shape)), np.zeros((2, copies))
    for sweep in range(sweeps):
        for cell in itertools.product(*map(range, shape)):
            around = 0
            for axis, by in itertools.product(range(len(shape)), (-1, 1)):
                there = list(cell)
                there[axis] = (there[axis] + by) % shape[axis]
                around = around + spins[(slice(None), *there)]
            here = (slice(None), *cell)
            accept = rng.random(copies) < np.exp(-2 * spins[here] * around / temperature)
            spins[here] *= np.where(accept, -1, 1)
        if sweep >= sweeps // 3:
            flat = tuple(range(1, spins.ndim))
            bonds = sum((spins * np.roll(spins, 1, axis)).mean(flat) for axis in flat)
            sums += np.stack([np.abs(spins.mean(flat)), -bonds])
    return sums / (sweeps - sweeps // 3)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "tau"), [((8, 8), 1.2), ((4, 4, 4), 2.2)])
def test_the_sampler_agrees_with_metropolis(shape, tau):
    sums = 2.0 * torch.arange(2 * len(shape) + 1) - 2 * len(shape)
    seen, _ = ch.observe(sums, [tau], shape, 1000, 600, 2)
    m, energy = metropolis(shape, 2 * tau, 300, 300, 3)
    for found, other in ((seen.magnetisation[0, 0], m), (seen.energy[0, 0], energy)):
        assert abs(found - other.mean()) < 5 * other.std() / len(other) ** 0.5 + 0.002


def test_the_exact_curves_are_onsager_s_and_yang_s():
    def log_z(k):  # per spin, Onsager's integral; the energy is minus its slope
        kappa = 2 * np.sinh(2 * k) / np.cosh(2 * k) ** 2
        inner = lambda phi: np.log((1 + np.sqrt(max(1 - (kappa * np.sin(phi)) ** 2, 0))) / 2)
        return np.log(2 * np.cosh(2 * k)) + integrate.quad(inner, 0, np.pi / 2)[0] / np.pi

    for t in (1.2, 1.9, 2.2, 2.4, 3.0, 5.0):
        slope = (log_z(1 / t + 1e-5) - log_z(1 / t - 1e-5)) / 2e-5
        assert ch.exact_energy(np.array(t)) == pytest.approx(-slope, abs=1e-4)
    assert ch.exact_energy(np.array(ch.ONSAGER + 1e-9)) == pytest.approx(-math.sqrt(2), abs=1e-5)
    assert math.sinh(2 / ch.ONSAGER) == pytest.approx(1)
    m = ch.exact_magnetisation(np.array([0.3, 2.0, ch.ONSAGER + 1e-9, 3.0]))
    assert m.tolist() == pytest.approx([1, 0.911319, 0, 0], abs=1e-5)


def test_cumulants_and_where_they_cross():
    rng = np.random.default_rng(0)
    gauss = rng.standard_normal(1_000_000)
    assert ch.binder((gauss**2).mean(), (gauss**4).mean()) == pytest.approx(0, abs=0.01)
    assert ch.binder(np.array(0.25), np.array(0.0625)) == pytest.approx(2 / 3)
    temperatures = np.linspace(1, 1.2, 21)
    small = 0.6 - 0.5 * (temperatures - 1.13)
    assert ch.crossing(temperatures, small, 0.6 - 3 * (temperatures - 1.13)) == pytest.approx(1.13)
    large = np.maximum(0.6 - 3 * (temperatures - 1.13), 0.48)
    large[temperatures > 1.175] = small[temperatures > 1.175] + 0.01  # noise where both vanish
    large[temperatures < 1.02] = small[temperatures < 1.02] - 0.01  # and where both are magnets
    large[0] = small[0] + 0.01
    assert ch.crossing(temperatures, small, large) == pytest.approx(1.13)
    assert np.isnan(ch.crossing(temperatures, small, small - 1))


def test_observations_keep_starts_temperatures_and_copies_apart():
    seen, speed = ch.observe(SUMS, [0.3, 50.0], (8, 8), 6, 30, 1, ("aligned", "random"))
    assert seen.magnetisation.shape == (2, 2) and speed > 0
    assert seen.magnetisation[0, 0] > 0.99 and seen.magnetisation[0, 1] < 0.3
    assert seen.energy[0, 0] < -1.98 and abs(seen.energy[:, 1]).max() < 0.2


def test_both_starts_are_what_they_are_called():
    spins = ch.starts_of(("random", "aligned", "random"), (5, 8, 8), generator())
    assert spins.shape == (15, 8, 8) and spins.dtype == torch.int8 and (spins[5:10] == 1).all()
    assert (spins[:5].float().mean((1, 2)).abs() < 0.5).all() and not torch.equal(
        spins[:5], spins[10:]
    )


def test_the_first_third_does_not_count(monkeypatch):
    counted = []
    moments = ch.moments_of
    monkeypatch.setitem(
        ch.observe.__globals__, "moments_of", lambda *a: counted.append(1) or moments(*a)
    )
    ch.observe(SUMS, [1.0], (4, 4), 1, 120, 1)
    assert len(counted) == 20


def test_temperatures_go_where_the_values_are():
    found = ch.chances_of_up(SUMS.to("meta"), [1.0, 2.0])
    assert found.device.type == "meta" and found.shape == (2, 5)


def test_a_quench_starts_at_random_and_grows_cold(monkeypatch):
    asked, chances = [], ch.chances_of_up
    spy = lambda values, temperatures: (
        asked.append(list(temperatures)) or chances(values, temperatures)
    )
    monkeypatch.setitem(ch.quench.__globals__, "chances_of_up", spy)
    spins = ch.quench(2.0 * torch.arange(9) - 8, 10, 50, [0.06, 0.05], 1)
    assert asked[1:] == [[0.06], [0.05]]
    assert ch.aligned(spins).mean() < 97 and -0.5 < spins.float().mean() < 0.5


@pytest.mark.slow
def test_a_plunge_sticks_in_stripes_and_slow_cooling_does_not():
    right = ch.rewards_of_both("source", ch.mean_actions(8), 8).diff(dim=1)[:, 0]
    stuck = {}
    for name, schedule in ch.schedules_of(ch.QuenchConfig()).items():
        spins = ch.quench(right, 10, 1000, schedule, seed=5)
        stuck[name] = (ch.aligned(spins) < 90).float().mean().item()
    assert (
        0.25 < stuck["cold at once"] < 0.4
        and max(stuck["cooled slowly"], stuck["mild, then cold at once"]) < 0.01
    )


def test_domains_are_measured_by_their_borders():
    spins = ch.random_spins(2, 6, 8, rng=generator(1))
    for copy, found in enumerate(ch.domain_size(spins).tolist()):
        unlike = 0
        for row, column in itertools.product(range(6), range(8)):
            here = spins[copy, row, column]
            unlike += int(here != spins[copy, (row + 1) % 6, column])
            unlike += int(here != spins[copy, row, (column + 1) % 8])
        assert found == pytest.approx(48 / unlike)


def test_growth_is_watched_when_it_is_asked_for(monkeypatch):
    swept = []
    sweep = ch.Sampler.sweep
    monkeypatch.setattr(ch.Sampler, "sweep", lambda self: swept.append(1) or sweep(self))
    at = [len(swept) for _ in ch.grow(SUMS, 8, 1, (1, 3, 10), 0)]
    assert at == [1, 3, 10]


@pytest.mark.slow
def test_the_sampler_is_fast():
    """A floor far below what it does (150 to 300), for machines that are busy."""
    _, speed = ch.observe(SUMS, np.linspace(0.8, 1.6, 16), (64, 64), 4, 60, 1)
    assert speed > 30


# Measurements and the bug


def test_every_measurement_runs_small():
    small = ch.MeanFieldConfig(rounds=21, copies=2)
    found = ch.measure_mean_field(small, 1)
    assert set(found.curves) == {"rewards", "shuffled", "nobody", "rule"}
    assert found.metrics["aligned"] == pytest.approx(np.mean(found.curves["rewards"][-20:]))
    lattice = ch.LatticeConfig(
        sides=(4, 8),
        wide=(0.8, 1.6, 0.4),
        dense=(1.0, 1.2, 0.1),
        sweeps=30,
        least=30,
        spins=64,
        rounds=12,
    )
    found = ch.measure_lattice(lattice, 1)
    assert {"critical_temperature", "energy_error", "million_updates_per_second"} <= set(
        found.metrics
    )
    assert (
        {len(curve) for curve in found.curves.values()} == {len(ch.temperatures_of(lattice))} == {5}
    )
    cube = dataclasses.replace(lattice, dims=3, sides=(4,), teacher="nobody")
    assert "critical_temperature" not in ch.measure_lattice(cube, 1).metrics


def test_a_lattice_s_numbers_are_those_of_its_curves():
    config = ch.LatticeConfig(sides=(4, 8, 16), wide=(0.8, 1.6, 0.4), dense=(1.0, 1.2, 0.1))
    exact = ch.exact_energy(2 * ch.temperatures_of(config))  # at 0.8, 1, 1.1, 1.2, 1.6
    curves = {
        "binder_4": np.array([0.6, 0.3, 0.4, 0.6, 0]),  # crosses that of 8 at 1.15
        "binder_8": np.full(5, 0.5),
        "binder_16": np.array([0.6, 0.6, 0.4, 0.2, 0]),  # and this one at 1.05
        "aligned_energy_16": exact * [1.01, 2, 2, 2, 0.97],
    }
    learned = SUMS + torch.tensor([0, 0.1, 0, -0.3, 0])
    found = ch.lattice_metrics(config, learned, curves, [1, 2, 3])
    assert found == pytest.approx(
        {"million_updates_per_second": 3, "value_error": 0.3, "critical_temperature": 1.05, "energy_error": 3}
    )  # fmt: skip


def test_cumulants_are_those_of_both_starts(monkeypatch):
    square, fourth = np.array([[0.5, 0.4], [0.3, 0.2]]), np.array([[0.3, 0.2], [0.2, 0.1]])
    seen = ch.Observed(np.array([[0.7, 0.6], [0.5, 0.4]]), square, fourth, -np.ones((2, 2)))
    patched = ch.measure_lattice.__globals__
    monkeypatch.setitem(patched, "observe", lambda *a: (seen, 1.0))
    monkeypatch.setitem(patched, "learned_values", lambda *a: SUMS)
    config = ch.LatticeConfig(sides=(4,), wide=(1.0, 1.0, 1.0), dense=(1.1, 1.1, 1.0))
    curves = ch.measure_lattice(config, 1).curves
    expected = 1 - fourth.mean(0) / (3 * square.mean(0) ** 2)
    np.testing.assert_allclose(curves["binder_4"], expected)
    assert curves["aligned_m_4"].tolist() == [0.7, 0.6] and curves["random_m_4"].tolist() == [
        0.5,
        0.4,
    ]


def test_growth_is_fitted_from_20_to_1000_sweeps(monkeypatch):
    patched = ch.measure_growth.__globals__
    monkeypatch.setitem(patched, "learned_values", lambda *a: SUMS)
    monkeypatch.setitem(patched, "grow", lambda values, side, copies, at, seed, temperature: at)
    size = lambda t: torch.tensor(t**0.5 if 20 <= t <= 1000 else 5.0 * t)
    monkeypatch.setitem(patched, "domain_size", size)
    found = ch.measure_growth(ch.GrowthConfig(), 1)
    assert found.metrics["growth_exponent"] == pytest.approx(0.5, abs=1e-6)


def test_the_small_measurements_run_small():
    quenched = ch.measure_quench(ch.QuenchConfig(rounds=11, copies=20, sweeps=12), 1).metrics
    assert set(quenched) == {"stuck_cold", "stuck_cooled", "stuck_mild"}
    growth = ch.measure_growth(ch.GrowthConfig(rounds=11, side=16, copies=1, sweeps=60), 1)
    assert len(growth.curves["domain_size"]) == len(ch.growth_times(ch.GrowthConfig(sweeps=60)))
    follow = ch.measure_following(ch.MeanFieldConfig(rounds=21, copies=2), 1).metrics
    assert 0 <= follow["follow"] <= 100 and follow["gap"] == follow["gap"]
    few = ch.LatticeConfig(
        sides=(4,), wide=(0.8, 1.6, 0.4), dense=(1.0, 1.2, 0.1), sweeps=30, rounds=11
    )
    curves = ch.measure_beside_exact(few, 1).curves
    assert {len(curve) for curve in curves.values()} == {5} and len(curves) == 4


class Tables:
    """Stands for networks: values of up, down being worth 0, by copy and neighbours that are up [S, 9]."""

    def __init__(self, tables):
        self.tables = torch.tensor(tables)

    def __call__(self, means):
        ups = (8 * means[..., 1]).round().long()
        up = torch.stack([table[u] for table, u in zip(self.tables, ups, strict=True)])
        return torch.stack([torch.zeros_like(up), up], -1)


def test_following_is_measured_as_it_is_told(monkeypatch):
    """Two that follow and lean their way, one that follows by sign only, one that is always up."""
    ups = np.arange(9.0, dtype=np.float32)
    tables = [20 * (ups - 3.5), np.where(ups > 0, 20, -1), 0 * ups + 9, 20 * (ups - 4.5)]
    nets = {
        "fresh": Tables(np.stack([ups - 9, ups - 4, ups + 1, ups - 9])),
        "done": Tables(np.float32(tables)),
    }
    late = torch.ones(4, 10, 10, dtype=torch.int8)
    late[1, :2], late[3] = -1, -1
    late[3, 0] = 1
    coins = ch.random_spins(4, 10, 10, rng=generator())
    states = [{"net": "fresh", "spins": coins}] * 5 + [{"net": "done", "spins": late}] * 20
    run = [ch.Progress(i, 25, {}, lambda s=s: s) for i, s in enumerate(states)]
    patched = ch.measure_following.__globals__
    monkeypatch.setitem(patched, "train_mean_field", lambda *a: iter(run))
    monkeypatch.setitem(patched, "mean_field_net", lambda name: nets[name])
    monkeypatch.setitem(patched, "advantages_of_up", lambda net, count: net.tables)
    monkeypatch.setitem(patched, "table_shares", lambda gap, config, seeds: {"told": gap})
    found = ch.measure_following(ch.MeanFieldConfig(copies=4), 1).metrics
    assert found == pytest.approx({
        "follow": 75, "untrained_follow": 25, "turned": 50, "turned_follow": 50, "same_way": 100,
        "gap": 52.25, "told": 52.25, "gap_back": 33, "lean": 12.25, "border": found["border"],
        "learned_mean": 92.5, "learned_median": 90, "learned_stuck": 25,
    })  # fmt: skip
    own = np.stack([*tables[:3], -tables[3][::-1]]).mean(0)
    assert found["border"] == pytest.approx((own[5] - own[3]) / (own[8] - own[0]))


def test_tables_play_what_they_say():
    table = torch.where(torch.arange(9) > 4, 100.0, -100.0)
    spins = ch.random_spins(2, 6, 6, rng=generator(3))
    config = ch.MeanFieldConfig(rounds=2, sweeps=1)
    before, rounds = spins, list(ch.play_table(table, spins, config, 1))
    for after in rounds:
        for copy in range(2):
            for cell, around in neighbours_by_loop(before[copy], "touch").items():
                assert after[copy][cell] == (1 if sum(s > 0 for s in around) > 4 else -1)
        before = after
    assert len(rounds) == 2
    made = ch.tables_as_sure(3.0)
    truth = torch.tensor([2 * math.tanh(5 * (k / 8 - 0.5)) for k in range(9)])
    torch.testing.assert_close(made["rule"], truth)
    torch.testing.assert_close(made["sure"], truth * 3 / truth[8])
    torch.testing.assert_close(made["leaning"], made["sure"] + 0.5)
    assert made["straight"].tolist() == [-3, -2.25, -1.5, -0.75, 0, 0.75, 1.5, 2.25, 3]


def test_tables_are_asked_the_same(monkeypatch):
    asked = []

    def play(table, spins, config, seed):
        asked.append((table, spins, config.rounds, seed))
        ends = torch.ones(10, 10, 10, dtype=torch.int8)
        ends[:4] = -1
        ends[4, :3] = -1  # 70 % of one lattice
        yield from [spins] * 5 + [ends] * 20

    monkeypatch.setitem(ch.table_shares.__globals__, "play_table", play)
    found = ch.table_shares(3.0, ch.MeanFieldConfig(copies=2), (7, 8, 9))
    assert [a[2:] for a in asked] == [(75, 8), (30, 9)] * 4 and len(found) == 16
    for (name, table), (coins, turned) in zip(
        ch.tables_as_sure(3.0).items(), zip(asked[::2], asked[1::2], strict=True), strict=True
    ):
        assert torch.equal(coins[0], table) and torch.equal(turned[0], table)
        assert coins[1].shape == (10, 10, 10) and abs(coins[1].float().mean()) < 0.2
        assert (turned[1] == -1).all()
        shares = [found[f"{name}_{what}"] for what in ("mean", "median", "stuck", "turned")]
        assert shares == pytest.approx([97, 100, 10, 40])


def test_the_majority_is_the_baseline():
    config = ch.MeanFieldConfig(rounds=24, copies=2)
    found, rule = ch.measure_mean_field(config, 1), list(ch.play_rule(config, 1))
    expected = [ch.aligned(spins).mean().item() for spins in rule]
    assert found.curves["rule"] == expected
    assert found.baselines == {"aligned": pytest.approx(np.mean(expected[-20:]))}
    colder = dataclasses.replace(config, temperature=config.temperature / 2)
    surer = zip(ch.play_rule(config, 1, 2.0), ch.play_rule(colder, 1), strict=True)
    assert all(torch.equal(one, other) for one, other in surer)


def test_stuck_is_below_90_and_has_its_schedule_s_name(monkeypatch):
    spins, config = torch.ones(10, 10, 10, dtype=torch.int8), ch.QuenchConfig(rounds=1)
    cold, _, mild = ch.schedules_of(config).values()

    def quench(values, side, copies, schedule, seed):
        left = spins.clone()
        left[: 3 if np.array_equal(schedule, cold) else 1 + np.array_equal(schedule, mild), :2] = -1
        return left

    monkeypatch.setitem(ch.measure_quench.__globals__, "quench", quench)
    found = ch.measure_quench(config, 1).metrics
    assert found == pytest.approx({"stuck_cold": 30, "stuck_cooled": 10, "stuck_mild": 20})


def observed(asked):
    """An observer that notes what it is asked, and answers with the largest of the numbers."""

    def observe(numbers, temperatures, shape, copies, sweeps, seed, starts=("aligned",)):
        asked.append((numbers, shape, copies, sweeps))
        seen = np.full((len(starts), len(temperatures)), float(numbers.max()))
        return ch.Observed(seen, seen, seen, -seen), 1.0

    return observe


def test_each_size_has_its_copies_and_sweeps(monkeypatch):
    asked, patched = [], ch.measure_lattice.__globals__
    monkeypatch.setitem(patched, "observe", observed(asked))
    monkeypatch.setitem(patched, "learned_values", lambda *a: SUMS)
    ch.measure_lattice(ch.LatticeConfig(), 1)
    sides = [((side, side), 12_288 // side**2) for side in (8, 16, 32, 64)]
    assert [a[1:3] for a in asked] == sides and [a[3] for a in asked] == [3000, 3000, 3000, 12_000]


def test_learned_and_exact_numbers_keep_their_names(monkeypatch):
    asked, patched = [], ch.measure_beside_exact.__globals__
    monkeypatch.setitem(patched, "observe", observed(asked))
    monkeypatch.setitem(patched, "learned_values", lambda *a: SUMS + 1)
    curves = ch.measure_beside_exact(ch.CONTROL, 1).curves
    assert [a[1:] for a in asked] == [((64, 64), 2, 1500)] * 2
    assert (curves["learned_m"] == 5).all() and (curves["exact_m"] == 4).all()
    assert (curves["learned_energy"] == -5).all() and (curves["exact_energy"] == -4).all()


def test_another_reward_is_learned_and_played(monkeypatch):
    asked = []
    monkeypatch.setitem(ch.measure_other_reward.__globals__, "observe", observed(asked))
    curves = ch.measure_other_reward(dataclasses.replace(ch.OTHER, rounds=150), 1).curves
    expected = [2 * math.tanh(5 * (k / 4 - 0.5)) for k in range(5)]
    np.testing.assert_allclose(curves["advantages"], expected, atol=0.1)
    assert (
        asked[0][1:] == ((64, 64), 2, 1500)
        and (curves["aligned_m"] == curves["advantages"].max()).all()
    )


def test_the_printed_program_learns_and_its_last_epochs_count(monkeypatch):
    fresh, taught = (ch.printed_program(ch.PrintedConfig(epochs=e), 1)[1] for e in (10, 12))
    assert not torch.equal(fresh, taught)
    program = lambda config, seed: ([50] * 55 + [90] * 20, torch.arange(9.0) - 4)
    monkeypatch.setitem(ch.measure_printed.__globals__, "printed_program", program)
    found = ch.measure_printed(ch.PrintedConfig(), 1).metrics
    assert found == {"aligned": 90, "follow": 1}


def test_schedules_are_what_they_are_called():
    cold, slow, mild = ch.schedules_of(ch.QuenchConfig()).values()
    assert len(cold) == len(slow) == len(mild) == 400 and set(cold) == {0.05}
    assert (
        slow[0] == pytest.approx(1.5)
        and slow[-1] == pytest.approx(0.05)
        and (np.diff(slow) < 0).all()
    )
    assert set(mild[:390]) == {0.5} and set(mild[390:]) == {0.05}


@pytest.mark.parametrize("every_row", [True, False])
def test_the_printed_update_is_the_listing_s(every_row):
    """Against its own lines, written as printed: target[:, argmax] = ..., one agent's ten experiences."""
    rng = np.random.default_rng(0)
    weights = [
        torch.tensor(rng.standard_normal(s) / 10, dtype=torch.float32, requires_grad=True)
        for s in ((2, 10), (10, 2))
    ]
    batch = [
        (
            rng.integers(2, size=(10, 10)),
            rng.integers(9, size=(10, 10)),
            rng.random((10, 10), np.float32),
        )
        for _ in range(10)
    ]
    before = [w.detach().clone().requires_grad_() for w in weights]
    config = ch.PrintedConfig(every_row=every_row, learning_rate=0.1)
    ch.printed_update(weights, batch, 37, config)
    means = torch.tensor([[1 - b[1][3, 7] / 8, b[1][3, 7] / 8] for b in batch], dtype=torch.float32)
    hidden = means @ before[0] + 1
    q_values = torch.tanh(torch.where(hidden > 0, hidden, hidden.exp() - 1) @ before[1])
    target = q_values.detach().clone()
    for row, (spins, ups, best) in enumerate(batch):
        action = int(spins[3, 7])
        share = (ups[3, 7] if action else 8 - ups[3, 7]) / 8
        value = math.tanh(5 * (share - 0.5)) + 0.9 * best[3, 7].item()
        target[slice(None) if every_row else row, action] = value
    (q_values - target).square().sum().backward()
    for weight, old in zip(weights, before, strict=True):
        torch.testing.assert_close(weight, old - 0.1 * old.grad, atol=1e-5, rtol=1e-4)


def test_the_printed_program_sweeps_one_after_another():
    weights = [torch.zeros(2, 10), torch.zeros(10, 2)]
    weights[0][1], weights[1][:, 1] = 60.0, 1.0  # up as soon as a neighbour is
    weights[0][0] = -2.0
    grid = np.zeros((10, 10), int)
    grid[5, 5] = 1
    ups, best = ch.printed_play(
        weights, grid, ch.PrintedConfig(temperature=0.05), np.random.default_rng(0)
    )
    assert grid.mean() > 0.95 and best.shape == ups.shape == (
        10,
        10,
    )  # in three sweeps: news travels along


def test_temperatures_are_ascending_and_each_there_once():
    found = ch.temperatures_of(ch.LatticeConfig())
    assert (np.diff(found) > 0.004).all() and found[0] == 0.75 and found[-1] == 1.75
    assert ch.within(found, ch.LatticeConfig().dense).sum() == 17


def test_the_index_that_writes_every_row_forgets_the_neighbours(monkeypatch):
    monkeypatch.setitem(ch.regress.__globals__, "by_budget", lambda smoke, laptop: 600)
    rng = generator(3)
    means = ch.mean_actions(8)[torch.randint(9, (2000,), generator=rng)]
    actions = torch.randint(2, (2000,), generator=rng)
    rewards = ch.reward_of("source", actions, means, 8)
    right, wrong = (
        ch.advantages_of_up(ch.regress(means, actions, rewards, every), 8)[0]
        for every in (False, True)
    )
    assert right[-1] - right[0] > 3 and abs(wrong[-1] - wrong[0]) < 1


# Exercises


def test_exercises_know_right_from_wrong(capsys):
    def said(exercise, answer):
        check(exercise, answer)
        return capsys.readouterr().out

    def shares(grid, centre=False, mode="wrap", flip=False):
        padded = np.pad(grid, 1, mode=mode)
        side = len(grid)
        cells = [
            (i, j) for i, j in itertools.product(range(3), repeat=2) if centre or (i, j) != (1, 1)
        ]
        up = np.mean([padded[i : i + side, j : j + side] for i, j in cells], 0)
        return np.stack([up, 1 - up] if flip else [1 - up, up], -1)

    def solution(t, start=1.0, factor=2):
        for _ in range(3000):
            start = math.tanh(factor * start / t)
        return start

    heat = lambda e, t, n: n * np.var(e) / (2 * t) ** 2
    steps = [(0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1)]
    right = {"M4.1": shares, "M4.2": heat, "M4.4": solution, "M5.1": steps}
    for exercise, answer in right.items():
        assert said(exercise, answer) == f"{exercise}: right.\n"
    for exercise, answer, hint in (
        ("M4.1", lambda g: shares(g, centre=True), "not the cell itself"),
        ("M4.1", lambda g: shares(g, mode="edge"), "edges"),
        ("M4.1", lambda g: shares(g, flip=True), "comes first"),
        ("M4.1", lambda g: 8 * shares(g), "add up to 1"),
        ("M4.1", lambda g: g, "shape"),
        ("M4.2", lambda e, t, n: 4 * heat(e, t, n), "Whose temperature"),
        ("M4.2", lambda e, t, n: heat(e, t, 1), "per spin"),
        ("M4.2", lambda e, t, n: heat(e, t, n) * t, "squared"),
        ("M4.4", lambda t: 0.0, "larger"),
        ("M4.4", lambda t: solution(t, -1.0), "other direction"),
        ("M4.4", lambda t: solution(t, factor=4), "should be"),
        ("M4.4", lambda t: solution(t) if t < 2 else 0.5, "at 0 only"),
        ("M5.1", steps[:4], "six"),
        ("M5.1", [*steps[:5], (1, -1)], "opposite"),
        ("M5.1", [*steps[:4], (2, 2), (-2, -2)], "touch"),
        ("M5.1", [(1, 1), (-1, -1), (1, -1), (-1, 1), (0, 1), (0, -1)], "in common"),
    ):  # fmt: skip
        told = said(exercise, answer)
        assert told.startswith(f"{exercise}: not yet.") and hint in told, told


def test_no_exercise_needs_another_one():
    cells = jupytext.read(CHAPTERS / f"{NAME}.py").cells
    begin = next(i for i, cell in enumerate(cells) if "## Exercises" in cell.source)
    code = [
        c
        for c in cells[begin:]
        if c.cell_type == "code" and "hide-cell" in c.metadata.get("tags", [])
    ]
    solutions = [ast.parse(cell.source) for cell in code]
    assert len(solutions) >= 5

    def names(tree, kind):
        found = {
            n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, kind)
        }
        return found | {n.name for n in tree.body if kind is ast.Store and hasattr(n, "name")}

    for one, other in itertools.permutations(solutions, 2):
        borrowed = (names(one, ast.Load) - names(one, ast.Store)) & names(other, ast.Store)
        assert not borrowed, borrowed
