"""Chapter 04: two learners, sweeps, and the ring of networks, against slow loops and their own controls."""

import ast
import copy
import dataclasses
import inspect
import itertools

import jupytext
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rlbook_utils.checkpoint import load_checkpoint, save_checkpoint
from rlbook_utils.definitions import CHAPTERS, load_chapter
from rlbook_utils.exercises import check

torch.set_num_threads(1)
ch = load_chapter("ch04_multi_agent")


def last(progresses):
    *_, progress = progresses
    return progress


def coins(seed=0):
    return torch.Generator().manual_seed(seed)


# Two learners


def test_the_games_are_the_ones_that_the_text_tells():
    assert (ch.PENNIES[0] == [[1, -1], [-1, 1]]).all() and (ch.PENNIES.sum(0) == 0).all()
    assert (ch.CLIMBING[0] == ch.CLIMBING[1]).all() and ch.CLIMBING.max() == ch.CLIMBING[
        0, 0, 0
    ] == 11
    assert ch.CLIMBING[0, 1, 2] == 6 and ch.CLIMBING[0, 2, 1] == 0


def test_policies_and_expected_rewards_agree_with_loops():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 5, 3))
    policies = ch.greedy_policies(values, 0.3)
    assert policies.sum(-1) == pytest.approx(1) and (policies.argmax(-1) == values.argmax(-1)).all()
    assert np.sort(policies, -1)[..., 0] == pytest.approx(0.1)
    game = rng.normal(size=(2, 3, 3))
    slow = np.zeros((5, 3))
    for pair, mine, other in itertools.product(range(5), range(3), range(3)):
        slow[pair, mine] += policies[1, pair, other] * game[0, mine, other]
    np.testing.assert_allclose(ch.expected_rewards(game, policies), slow)


def test_the_smallest_pair_learns_as_the_text_says():
    """Each game moves one value, by the learning rate, toward +1 or −1; expected rewards are those of a greedy partner."""
    seen = ch.two_learners(400, epsilon=0.2, learning_rate=0.25)
    expected, values = seen[:, 0], seen[:, 1]
    before = np.vstack([np.zeros(2), values[:-1]])
    moved = values != before
    assert (moved.sum(1) == 1).all()
    reward = (values - before)[moved] / 0.25 + before[moved]
    np.testing.assert_allclose(np.abs(reward), 1)
    np.testing.assert_allclose(np.abs(expected), 0.8)
    np.testing.assert_allclose(expected.sum(1), 0, atol=1e-12)
    played = moved.argmax(1)
    assert (played == before.argmax(1)).mean() == pytest.approx(0.9, abs=0.05)
    earned = np.where(played == 0, expected[:, 0], expected[:, 1])
    assert reward.mean() == pytest.approx(earned.mean(), abs=0.12)
    assert (np.diff(expected[:, 0]) != 0).sum() > 10  # the chase


@pytest.mark.parametrize("learner", ["independent", "optimistic", "joint"])
def test_a_game_is_learned_as_a_loop_over_players_would(learner):
    config = ch.GameConfig(learner=learner, learning_rate=0.2, pairs=6, game="climbing")
    rng = np.random.default_rng(1)
    tables = rng.normal(size=(2, 6, 3, 3) if learner == "joint" else (2, 6, 3))
    actions, rewards = rng.integers(3, size=(2, 6)), rng.normal(size=(2, 6))
    slow = tables.copy()
    for player, pair in itertools.product(range(2), range(6)):
        place = (player, pair, actions[player, pair])
        if learner == "joint":
            place = (*place, actions[1 - player, pair])
        error = rewards[player, pair] - slow[place]
        slow[place] += 0.2 * (max(error, 0) if learner == "optimistic" else error)
    ch.learn_game(tables, actions, rewards, config)
    np.testing.assert_allclose(tables, slow)


def test_a_joint_table_is_averaged_over_beliefs():
    rng = np.random.default_rng(2)
    tables, beliefs = rng.normal(size=(2, 4, 3, 3)), rng.dirichlet(np.ones(3), (2, 4))
    slow = np.einsum("psab,psb->psa", tables, beliefs)
    np.testing.assert_allclose(ch.action_values(tables, beliefs), slow)
    np.testing.assert_array_equal(ch.action_values(tables[..., 0], beliefs), tables[..., 0])


def test_play_samples_the_policies_and_pays_both_players(monkeypatch):
    """Spy: what is learned from are samples of the ε-greedy policies, with each player's own reward."""
    seen = []
    monkeypatch.setattr(ch, "learn_game", lambda tables, a, r, config: seen.append((a, r)))
    config = ch.GameConfig(epsilon=0.4, game="climbing")
    object.__setattr__(config, "pairs", 20_000)  # more than a reader may set
    state = {
        "step": 0,
        "tables": np.zeros((2, 20_000, 3)),
        "beliefs": np.full((2, 20_000, 3), 1 / 3),
    }
    state["tables"][0, :, 1], state["tables"][1, :, 2] = 1, 1
    ch.play_once(state, np.random.default_rng(0), config)
    actions, rewards = seen[0]
    for player, best in ((0, 1), (1, 2)):
        shares = np.bincount(actions[player], minlength=3) / 20_000
        assert shares[best] == pytest.approx(0.6 + 0.4 / 3, abs=0.015)
        assert np.delete(shares, best) == pytest.approx(0.4 / 3, abs=0.015)
        for i in range(50):
            assert rewards[player, i] == ch.CLIMBING[player, actions[0, i], actions[1, i]]
    assert abs(np.corrcoef(actions)[0, 1]) < 0.03  # they choose independently
    assert (state["beliefs"][0, np.arange(20_000), actions[1]] > 1 / 3).all()
    assert state["beliefs"].sum(-1) == pytest.approx(1) and state["step"] == 1


def test_a_partner_does_what_the_control_says():
    def policies(partner):
        config = ch.GameConfig(partner=partner, steps=60)
        return np.stack([p.state()["policies"] for p in ch.play_games(config, 3)])  # [T, 2, S, A]

    learns, still, chance, settled = (
        policies(name) for name in ("learns", "stands still", "random", "settled")
    )
    np.testing.assert_array_equal(learns[:30], still[:30])
    assert (still[30:, 1] == still[29, 1]).all() and not (learns[30:, 1] == learns[29, 1]).all()
    assert not (still[30:, 0] == still[29, 0]).all()  # player 1 goes on learning
    assert (chance[:, 1] == 0.5).all()
    np.testing.assert_allclose(settled[:, 1], np.broadcast_to([0.95, 0.05], settled[:, 1].shape))
    assert not (settled[1:, 0] == settled[0, 0]).all()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_drift_is_there_and_goes_with_its_cause(seed):
    found = ch.measure_pennies(ch.GameConfig(), seed).metrics
    assert found["drift_learns"] > 0.85 and found["drift_frozen"] == 0
    assert found["error_learns"] > 0.7 and found["error_frozen"] < 0.2
    assert found["error_table"] < 1e-6 < 0.7 < found["error_joint"]


def test_pennies_are_measured_in_the_second_half(monkeypatch):
    """A history made up by hand: from half-time on the first pair's rewards swing by 1, the second's stand still."""
    expected = np.zeros((20, 2, 2))
    expected[10::2, 0], expected[11::2, 0] = (0.5, -0.5), (-0.5, 0.5)
    learned = expected + np.array([[0.1, 0.3], [0.5, 0.2]])
    learned[:10] += 7  # the first half does not count
    tables = ch.PENNIES[:, None] + np.array([0.5, 9])[:, None, None, None]
    asked = []

    def run(config, seed):
        asked.append((config.partner, config.learner))
        return expected, learned, {"tables": tables}

    monkeypatch.setattr(ch, "expected_and_learned", run)
    found = ch.measure_pennies(ch.GameConfig(steps=20), 1).metrics
    assert asked == [
        ("learns", "independent"),
        ("stands still", "independent"),
        ("learns", "joint"),
    ]
    assert found["error_table"] == 0.5  # of player 1
    for name in ("learns", "frozen", "joint"):
        assert found[f"drift_{name}"] == pytest.approx((0.5 + 0) / 2)
        assert found[f"error_{name}"] == pytest.approx((0.1 + 0.3 + 0.5 + 0.2) / 4)
        assert found[f"error_late_{name}"] == found[f"error_{name}"]  # which stands still here
        # the first pair plays heads (error 0.1), then tails (0.3); the second heads (0.5)
        assert found[f"error_played_{name}"] == pytest.approx((0.1 + 0.3 + 0.5 + 0.5) / 4)


def test_a_game_reports_how_wrong_its_values_are():
    config = ch.GameConfig(steps=10, pairs=7, learner="joint", game="climbing")
    for progress in ch.play_games(config, 2):
        state = progress.state()
        values = np.einsum("sab,sb->sa", state["tables"][0], state["beliefs"][0])
        expected = np.einsum("ab,sb->sa", ch.CLIMBING[0], state["policies"][1])
        assert progress.metrics["error"] == pytest.approx(np.abs(values - expected).mean()) != 0
        assert progress.metrics["expected_reward"] == pytest.approx(expected[0, 0])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_climbing_game_is_lost_beside_a_partner_without_drift_and_won_by_optimists(seed):
    measured = ch.measure_climbing(ch.CLIMB, seed)
    found = measured.metrics
    assert found["best_independent"] < 0.05 and found["best_optimistic"] > 0.95
    assert found["joint_knows"] > 0.95 and found["best_joint"] < 0.15
    assert measured.curves["beside_random"][2] > 0.9
    for name in ("independent", "joint", "optimistic", "beside_random"):
        assert np.sum(measured.curves[name]) == pytest.approx(1)
    by_rate = measured.curves["optimistic_by_rate"]
    assert by_rate[0] == found["best_optimistic"] and 0.2 < by_rate[2] < by_rate[1] < 0.85


def test_both_players_of_every_pair_count_in_the_climbing_game(monkeypatch):
    """Tables made up by hand: all first players know the best joint action, two of four second ones."""

    def run(config, seed):
        tables = np.zeros((2, 4, 3, 3) if config.learner == "joint" else (2, 4, 3))
        tables[0, ..., 0] = tables[1, :2, ..., 0] = 1
        if config.learner == "joint":
            tables[..., 1:, :] = 0
        tables[1, 2:, ..., 1] = 1
        state = {"tables": tables, "beliefs": np.full((2, 4, 3), 1 / 3)}
        yield ch.Progress(1, 1, {}, lambda: state, "game")

    monkeypatch.setattr(ch, "play_games", run)
    found = ch.measure_climbing(dataclasses.replace(ch.CLIMB, pairs=4), 1)
    assert found.metrics["joint_knows"] == 0.75 and found.metrics["best_optimistic"] == 0.5
    assert found.curves["optimistic_by_rate"] == [0.5] * 3


def test_a_settled_pair_begins_with_what_its_actions_earn_there(monkeypatch):
    """5.8, −22.7 and 0.5 for player 1; what player 2's actions earn by a loop; each run as it is called."""
    seen = []

    def spy(state, rng, config):
        seen.append((config.partner, config.learning_rate, state["tables"].copy()))
        state["tables"][0, :, 1] += 100  # nobody is left on the first action

    monkeypatch.setattr(ch, "play_once", spy)
    config = dataclasses.replace(ch.CLIMB, steps=10, pairs=3)
    shares, never_left = ch.climb(dataclasses.replace(config, partner="settled"), 1, settled=True)
    assert shares.tolist() == [0] * 10 and never_left == 0
    assert len(seen) == 10 and seen[0][0] == "settled"
    other = (0.8, 0.1, 0.1)
    for action, earned in enumerate((5.8, -22.7, 0.5)):
        assert seen[0][2][0, :, action] == pytest.approx(earned)
        slow = sum(share * ch.CLIMBING[1, i, action] for i, share in enumerate(other))
        assert seen[0][2][1, :, action] == pytest.approx(slow)
    seen.clear()
    ch.climb(config, 1, settled=False)
    assert np.abs(seen[0][2]).max() < 1
    seen.clear()
    found = ch.measure_settled(config, 1)
    partners = ["settled"] * 6 + ["learns"] * 6
    assert [(p, r) for p, r, _ in seen[::10]] == list(zip(partners, ch.RATES * 4, strict=True))
    from_there = [np.abs(tables).max() > 5 for _, _, tables in seen[::10]]
    assert from_there == [True] * 3 + [False] * 3 + [True] * 3 + [False] * 3
    assert all(np.sum(curve) == 0 for curve in found.curves.values())


def test_who_falls_off_and_comes_back_has_left(monkeypatch):
    """Four pairs in five games: two stay, one is away in the middle, one from the third game on."""
    away = iter([[], [2], [2, 3], [3], [3]])

    def script(state, rng, config):
        state["tables"][0] = (1, 0, 0)
        state["tables"][0, next(away), 1] = 2

    monkeypatch.setattr(ch, "play_once", script)
    config = dataclasses.replace(ch.CLIMB, pairs=4)
    object.__setattr__(config, "steps", 5)
    shares, never_left = ch.climb(config, 1, settled=True)
    assert shares.tolist() == [1, 0.75, 0.5, 0.75, 0.75] and never_left == 0.5


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_beside_a_settled_partner_pairs_come_and_go(seed):
    found = ch.measure_settled(ch.CLIMB, seed).curves
    ended = {
        name: [found[f"{name}_{rate}"][-1] for rate in ch.RATES]
        for name in ("beside_settled", "both_learn")
    }
    beside, both = ended["beside_settled"], ended["both_learn"]
    assert beside[0] < 0.7 < 0.8 < beside[1] <= beside[2] and beside[2] > 0.97
    assert both[0] < 0.05 and both[1] < 0.1 and both[2] > 0.8
    never = found["never_left_beside_settled"]
    assert never[0] == 0 and never[1] < 0.2 and never[2] > 0.85
    assert found["from_scratch_both_learn"][2] < 0.3 < 0.9 < found["from_scratch_beside_settled"][2]


# Joint actions and sweeps


@pytest.mark.parametrize(("k", "count"), [(1, 4), (2, 2), (2, 21), (3, 3), (4, 2)])
def test_joint_action_against_an_index_formula_and_kron(k, count):
    actions = torch.randint(count, (3, 5, k), generator=coins())
    joint = ch.joint_action(ch.one_hot(actions, count))
    assert joint.shape == (3, 5, count**k) and (joint.sum(-1) == 1).all()
    for i, j in itertools.product(range(3), range(5)):
        index, product = 0, np.ones(1)
        for action in actions[i, j].tolist():
            index = index * count + action
            product = np.kron(product, np.eye(count)[action])
        assert joint[i, j].argmax() == index
        np.testing.assert_array_equal(joint[i, j], product)


def test_joint_action_of_probabilities_is_their_outer_product():
    shares = torch.rand(6, 2, 3, generator=coins())
    torch.testing.assert_close(
        ch.joint_action(shares), torch.einsum("sa,sb->sab", *shares.unbind(1)).flatten(1)
    )


def test_rewards_are_the_source_s_rule():
    for index, (left, right) in enumerate(itertools.product((0, 1), repeat=2)):
        for action in (0, 1):
            reward = -1.0
            for neighbour in (left, right):
                if neighbour == action:
                    reward += 0.9
            assert ch.REWARDS[index, action] == pytest.approx(2 * reward)


def test_the_ring_closes_and_neighbours_stand_from_left_to_right():
    assert ch.ring(5).tolist() == [[4, 1], [0, 2], [1, 3], [2, 4], [3, 0]]
    assert ch.ring(6, 2)[0].tolist() == [4, 5, 1, 2]
    spins = ch.random_spins(4, 7, coins())
    assert spins.dtype == torch.int8 and set(spins.unique().tolist()) == {-1, 1}
    joint = ch.neighbours_action(spins)
    for s, i in itertools.product(range(4), range(7)):
        left, right = spins[s, i - 1] > 0, spins[s, (i + 1) % 7] > 0
        assert joint[s, i].argmax() == 2 * left + right
    assert torch.equal(ch.as_spins(ch.as_actions(spins)), spins)


def slow_sweep(policies, spins, order):
    """One ring, groups of agents by number, answering in Python."""
    ring = spins.tolist()
    for group in order:
        answers = {}
        for i in group:
            left, right = ring[i - 1], ring[(i + 1) % len(ring)]
            answers[i] = int(policies[i, 2 * (left > 0) + (right > 0)])
        for i, answer in answers.items():
            ring[i] = answer
    return ring


@pytest.mark.parametrize("name", ["all at once", "evens, then odds", "one after another"])
def test_a_sweep_agrees_with_a_loop(name):
    policies, spins = ch.exact_policies(6, 8, coins()), ch.random_spins(6, 8, coins(1))
    before = spins.clone()
    groups = {"all at once": [range(8)], "evens, then odds": [range(0, 8, 2), range(1, 8, 2)],
              "one after another": [[i] for i in range(8)]}[name]  # fmt: skip
    found = ch.sweep(policies, spins, ch.orders(8)[name])
    assert found.tolist() == [slow_sweep(policies[s], spins[s], groups) for s in range(6)]
    assert torch.equal(spins, before)
    history = ch.sweeps(policies, spins, ch.orders(8)[name], 3)
    assert torch.equal(history[0], spins) and torch.equal(history[1], found) and len(history) == 4


def test_exact_policies_follow_neighbours_that_agree_and_break_ties_for_good():
    policies = ch.exact_policies(500, 20, coins())
    assert ch.follows(policies).all()
    assert (policies[..., 1:3] == 1).float().mean() == pytest.approx(0.5, abs=0.02)
    assert (policies[..., 1] == policies[..., 2]).float().mean() == pytest.approx(0.5, abs=0.02)


def test_two_histories_of_an_even_ring_never_meet():
    """Another start of the odd agents changes only the cells that hear of them; policies may be any."""
    policies = ch.random_spins(50, 80, coins(2)).view(50, 20, 4)
    one, other = ch.random_spins(50, 20, coins(3)), ch.random_spins(50, 20, coins(4))
    other[:, ::2] = one[:, ::2]
    histories = [ch.sweeps(policies, start, [slice(None)], 12) for start in (one, other)]
    own = (torch.arange(13)[:, None] + torch.arange(20)) % 2 == 0
    differ = (histories[0] != histories[1]).any(1)  # [T, N]
    assert not differ[own].any() and differ[~own].any()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_taking_turns_settles_what_blinks_all_at_once(seed):
    found = ch.measure_sweeps(ch.SweepConfig(), seed)
    assert found.metrics["blinking"] > 0.85
    assert found.metrics["settled_in_halves"] == found.metrics["settled_in_turn"] == 1
    assert found.metrics["settled_ties_stay"] == 1
    assert found.curves["all at once"][-1] > 0.3 and found.curves["evens, then odds"][6] < 0.01
    assert 0.93 < found.metrics["settled_after_three"] < 1
    assert 0.55 < found.metrics["as_at_the_start"] < 0.67
    assert 0.35 < found.metrics["decided_by_one"] < 0.65


def test_a_flip_of_an_even_agent_is_forgotten_and_that_of_an_odd_one_is_not():
    policies, spins = ch.exact_policies(300, 20, coins()), ch.random_spins(300, 20, coins(1))
    ends = []
    for agent in (None, 4, 1):
        start = spins.clone()
        if agent is not None:
            start[:, agent] *= -1
        ends.append(ch.sweeps(policies, start, ch.orders(20)["evens, then odds"], 30)[-1])
    assert torch.equal(ends[0], ends[1])
    assert 0.35 < (ends[0] != ends[2]).any(-1).float().mean() < 0.65


def test_what_the_orders_cannot_promise():
    """Who copies the right neighbour is on a best response and never rests, in any order; ties that stay blink once."""
    right = torch.tensor([-1, 1, -1, 1], dtype=torch.int8).expand(1, 8, 4)
    start = torch.tensor([[1, 1, 1, 1, -1, -1, -1, -1]], dtype=torch.int8)
    assert torch.equal(ch.respond(right, start), start.roll(-1, -1))
    for groups in ch.orders(8).values():
        history = ch.sweeps(right, start, groups, 40)
        assert (history[1:] != history[:-1]).any(-1).all()
        assert ch.best_responses(history[:, 0]).all()
    alternating = start.new_tensor([[1, -1] * 4])
    once = ch.rule_moves("ties_stay", alternating, coins())
    assert torch.equal(once, -alternating)
    assert torch.equal(ch.rule_moves("ties_stay", once, coins()), alternating)


def test_blinking_is_period_two_and_nothing_else():
    up, down, mixed = torch.ones(1, 3), -torch.ones(1, 3), torch.tensor([[1.0, -1, 1]])
    for history, answer in (
        ((up, down, up), True),
        ((up, up, up), False),
        ((mixed, down, up), False),
    ):
        assert ch.blinks(torch.stack(history)).tolist() == [answer]


def test_a_copy_that_is_none_is_the_order_of_the_numbers():
    """Pitfall: with one array, all at once becomes one after another."""
    policies, spins = ch.exact_policies(40, 20, coins()), ch.random_spins(40, 20, coins(1))
    before, ways = spins.clone(), ch.orders(20)
    for copied, name in ((True, "all at once"), (False, "one after another")):
        found = ch.sweep_by_number(policies, spins, copied)
        assert torch.equal(found, ch.sweep(policies, spins, ways[name]))
    assert torch.equal(spins, before)
    assert np.flatnonzero(ch.news(True, 200)).tolist() == [9, 11]
    assert set(np.flatnonzero(ch.news(False, 200))) > {9, 10, 11, 12}


# The ring


def some_rings(rings=3, agents=6, hidden=5, output="tanh", dtype=torch.float32):
    config = ch.RingConfig(
        agents=agents, rings=rings, hidden=hidden, output=output, learning_rate=0.05
    )
    weights, spins = ch.make_rings(config, 1)
    return config, [(10 * w.detach()).to(dtype).requires_grad_() for w in weights], spins


@pytest.mark.parametrize("output", ["tanh", "linear"])
def test_values_are_those_of_each_agent_s_network(output):
    _, weights, spins = some_rings(output=output)
    joint = ch.neighbours_action(spins)
    values = ch.ring_values(joint, weights, output)
    for s, i in itertools.product(range(3), range(6)):
        own = F.elu(joint[s, i] @ weights[0][s, i] + 1) @ weights[1][s, i]
        torch.testing.assert_close(values[s, i], own.tanh() if output == "tanh" else own)


def test_every_gradient_is_that_of_the_agent_s_own_loss():
    """By autograd agent by agent, and by finite differences; the action that was not taken has no loss."""
    config, weights, spins = some_rings()
    slopes, moves, losses = ch.ring_slopes(weights, spins, config)
    for s, i in itertools.product(range(3), range(6)):
        first, second = (w[s, i].detach().double().requires_grad_() for w in weights)
        left, right = int(spins[s, i - 1] > 0), int(spins[s, (i + 1) % 6] > 0)

        def loss(first, second, action=None):
            values = (F.elu(first[2 * left + right] + 1) @ second).tanh()
            action = values.argmax() if action is None else action
            reward = 2 * (-1 + 0.9 * ((left == action).double() + (right == action).double()))
            return (values[action] - reward) ** 2, action

        own, action = loss(first, second)
        assert moves[s, i] == 2 * action - 1 and losses[s, i].item() == pytest.approx(
            own.item(), rel=1e-4
        )
        wanted = torch.autograd.grad(own, (first, second))
        for found, of_it in zip(slopes, wanted, strict=True):
            torch.testing.assert_close(found[s, i].double(), of_it, rtol=1e-4, atol=1e-5)
        assert (slopes[1][s, i][:, 1 - action] == 0).all()
        nudged = second.detach().clone()
        nudged[0, action] += 1e-6
        numeric = (loss(first, nudged, action)[0] - own) / 1e-6
        assert slopes[1][s, i][0, action].item() == pytest.approx(
            numeric.item(), rel=1e-2, abs=1e-3
        )


def test_another_agent_s_weights_do_not_matter_to_a_gradient():
    config, weights, spins = some_rings()
    before, *_ = ch.ring_slopes(weights, spins, config)
    with torch.no_grad():
        for weight in weights:
            weight[1, 2] += 0.3
    after, *_ = ch.ring_slopes(weights, spins, config)
    for old, new in zip(before, after, strict=True):
        changed = (old != new).flatten(2).any(-1)  # [S, N]
        assert changed[1, 2] and changed.sum() == 1


def test_a_blind_network_is_paid_for_what_it_does_not_see():
    config, weights, spins = some_rings()
    blind = dataclasses.replace(config, blind=True)
    rewards = ch.neighbours_action(spins) @ ch.REWARDS
    values = ch.ring_values(torch.eye(4)[0].expand(3, 6, 4), weights, "tanh")
    _, moves, losses = ch.ring_slopes(weights, spins, blind)
    assert torch.equal(ch.as_actions(moves), values.argmax(-1))
    wanted = (values - rewards).square().gather(-1, values.argmax(-1)[..., None])[..., 0]
    torch.testing.assert_close(losses, wanted.detach())
    _, others, other_losses = ch.ring_slopes(weights, -spins, blind)
    assert torch.equal(moves, others) and not torch.equal(losses, other_losses)
    assert not torch.equal(moves, ch.ring_slopes(weights, spins, config)[1])


def test_the_contest_is_about_one_setting():
    for change in ({"output": "linear"}, {"in_turn": False}, {"fresh": True}, {"blind": True}):
        for train in (ch.ring_by_loop, ch.ring_by_numpy, ch.ring_by_batch):
            with pytest.raises(ValueError, match="compared for a tanh, in turn, on its own ring"):
                train(ch.RingConfig(**change), 1)


def test_an_odd_ring_is_refused_before_it_is_trained(monkeypatch):
    monkeypatch.setattr(ch, "make_rings", None)
    for measure in (ch.measure_ring, ch.measure_rules):
        with pytest.raises(ValueError, match="needs an even number"):
            measure(ch.RingConfig(agents=21, in_turn=False), 1)


def test_an_update_changes_the_weights_and_the_faulty_one_does_not():
    """Pitfall: rebinding a local name trains nothing."""
    config, weights, spins = some_rings()
    slopes, *_ = ch.ring_slopes(weights, spins, config)
    before = [weight.detach().clone() for weight in weights]
    ch.descend_wrongly(weights, slopes, 0.5)
    assert all(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))
    ch.descend(weights, slopes, 0.5)
    for weight, slope, old in zip(weights, slopes, before, strict=True):
        torch.testing.assert_close(weight.detach(), old - 0.5 * slope)
        assert weight.requires_grad and not torch.equal(weight, old)


def test_the_loops_and_the_batch_do_the_same_work():
    config = ch.RingConfig(epochs=40)
    spins, weights, losses = ch.ring_by_batch(config, 2)
    watched = last(ch.train_ring(config, 2)).state()
    assert torch.equal(watched["spins"], spins) and torch.equal(watched["losses"], losses[-1])
    assert len(losses) == 40
    for layer in range(2):
        torch.testing.assert_close(
            watched["weights"][layer], weights[layer].detach(), rtol=0, atol=0
        )
    for train in (ch.ring_by_loop, ch.ring_by_numpy):
        theirs, agents = train(config, 2)
        assert torch.equal(theirs, spins[0])
        for layer in range(2):
            own = torch.stack([torch.as_tensor(agent[layer]).detach() for agent in agents])
            torch.testing.assert_close(own, weights[layer][0].detach(), rtol=1e-4, atol=1e-5)


def test_rings_in_a_batch_do_not_notice_each_other():
    config = ch.RingConfig(rings=3, epochs=30)
    weights, spins = ch.make_rings(config, 4)
    alone = [
        ([w[i : i + 1].detach().clone().requires_grad_() for w in weights], spins[i : i + 1])
        for i in range(3)
    ]
    for _ in range(30):
        slopes, spins, _ = ch.ring_slopes(weights, spins, config)
        ch.descend(weights, slopes, 0.01)
        for i, (own, places) in enumerate(alone):
            slopes, places, _ = ch.ring_slopes(own, places, config)
            ch.descend(own, slopes, 0.01)
            alone[i] = own, places
    for i, (own, places) in enumerate(alone):
        assert torch.equal(places[0], spins[i])
        torch.testing.assert_close(own[0][0], weights[0][i])


def test_evens_and_odds_move_in_turn():
    history, _, _ = ch.ring_history(ch.RingConfig(epochs=12, rings=30), 1)
    moved = (history[1:] != history[:-1]).any(1)  # [T, N]
    assert moved[0::2, 0::2].any() and not moved[0::2, 1::2].any()
    assert moved[1::2, 1::2].any() and not moved[1::2, 0::2].any()
    free = ch.ring_history(ch.RingConfig(epochs=12, rings=30, in_turn=False), 1)[0]
    moved = (free[1:] != free[:-1]).any(1)
    assert moved[0, 0::2].any() and moved[0, 1::2].any()


def test_turns_are_the_loop_over_agents():
    spins, moves = ch.random_spins(3, 7, coins()), ch.random_spins(3, 7, coins(1))
    for epoch in range(3):
        slow = [
            [moves[s, i] if i % 2 == epoch % 2 else spins[s, i] for i in range(7)] for s in range(3)
        ]
        assert ch.take_turns(spins, moves, epoch).tolist() == slow


def test_a_stopped_run_leaves_what_it_had():
    config, states = ch.RingConfig(epochs=9, rings=2), []
    run = ch.remember(ch.train_ring(config, 1), states)
    for _ in range(4):
        next(run)
    run.close()
    assert ["weights" in state for state in states] == [False] * 3 + [True]
    spins, losses, weights = ch.unrolled(config, 1, states)
    whole = ch.ring_history(config, 1)
    assert torch.equal(spins, whole[0][:5]) and torch.equal(losses, whole[1][:4])
    shorter = ch.ring_history(dataclasses.replace(config, epochs=4), 1)[2]
    assert all(torch.equal(one, other) for one, other in zip(weights, shorter, strict=True))


def test_fresh_rings_begin_every_epoch_with_coins(monkeypatch):
    seen, true_slopes = [], ch.ring_slopes

    def spy(weights, spins, config):
        seen.append(spins.clone())
        return true_slopes(weights, spins, config)

    monkeypatch.setattr(ch, "ring_slopes", spy)
    last(ch.train_ring(ch.RingConfig(epochs=20, rings=50, fresh=True), 1))
    fresh = torch.stack(seen).float()
    agree = (fresh[1:] == fresh[:-1]).float().mean()
    assert agree == pytest.approx(0.5, abs=0.02) and (
        fresh[5] == fresh[5].roll(1, -1)
    ).float().mean() == pytest.approx(0.5, abs=0.05)
    seen.clear()
    states = [p.state()["spins"] for p in ch.train_ring(ch.RingConfig(epochs=20, rings=50), 1)]
    assert all(torch.equal(spins, before) for spins, before in zip(seen[1:], states, strict=False))


def test_best_responses_and_domains_agree_with_loops():
    spins = torch.cat([ch.random_spins(200, 8, coins()), torch.ones(1, 8, dtype=torch.int8)])
    best, found = ch.best_responses(spins), ch.domains(spins)
    for ring, is_best, count in zip(spins.tolist(), best.tolist(), found.tolist(), strict=True):
        for i, spin in enumerate(ring):
            equal = (ring[i - 1] == spin) + (ring[(i + 1) % 8] == spin)
            assert is_best[i] == (equal >= 1)
        joined = "".join("u" if spin > 0 else "d" for spin in ring)
        turned = (
            joined[joined.find("du") + 1 :] + joined[: joined.find("du") + 1]
            if "du" in joined
            else joined
        )
        assert count == len(list(itertools.groupby(turned)))
    assert found[-1] == 1


def test_scores_are_means_over_agents():
    spins = torch.tensor([[1, 1, 1, -1, -1, 1]], dtype=torch.int8)
    found = ch.ring_scores(spins)
    assert found["domains"] == 2 and found["reward"] == pytest.approx((2 * 1.6 + 4 * -0.2) / 6)


def a_ring(text):
    return torch.tensor([[1 if spin == "u" else -1 for spin in text]], dtype=torch.int8)


def test_the_live_curve_shows_means_over_rings_and_agents():
    """A lone spin that is down, and a ring without one."""
    spins = torch.cat([a_ring("uuuduu"), a_ring("uuuuuu")])
    found = ch.ring_metrics(spins, torch.arange(12.0).view(2, 6))
    assert found == {"loss": 5.5, "best_response": pytest.approx(11 / 12), "domains": 1.5}


def test_a_ring_is_measured_by_how_it_ends(monkeypatch):
    """Histories made up by hand, the second at rest from the start; networks all of which say up."""
    rows = ("uduudu", "uuuudd", "uuuduu", "uuudud", "uudddu", "uuuddd")  # off after 0, 2 and 3
    history = torch.stack([torch.cat([a_ring(row), a_ring("uuuuuu")]) for row in rows])
    weights = [torch.zeros(2, 6, 4, 3), torch.zeros(2, 6, 3, 2)]
    weights[1][..., 1] = 1  # the ELU of its bias is 1: up is worth 3, down 0
    losses = torch.arange(5.0)[:, None, None].expand(5, 2, 6)
    monkeypatch.setattr(ch, "ring_history", lambda config, seed: (history, losses, weights))
    found = ch.measure_ring(ch.RingConfig(agents=6), 1)
    assert found.metrics["settled"] == 2 and found.metrics["best_response"] == 1
    assert found.metrics["domains"] == 1.5 and found.metrics["one_domain"] == 0.5
    assert found.metrics["reward"] == pytest.approx(((2 * 1.6 - 4 * 0.2) / 6 + 1.6) / 2)
    assert found.metrics["constant"] == 1 and found.metrics["follows"] == 0
    assert found.metrics["recalled"] == 0.75 and found.metrics["best_response_again"] == 1
    assert found.metrics["loss_at_30"] == found.metrics["loss"] == 4
    assert found.baselines == {"best_response": pytest.approx(5 / 6), "domains": 2.5}
    assert found.curves == {"loss": [0, 1, 2, 3, 4]}
    losses = torch.arange(50.0)[:, None, None].expand(50, 2, 6)
    late = ch.measure_ring(ch.RingConfig(agents=6), 1).metrics
    assert late["loss_at_30"] == 29 and late["loss"] == 49
    ends = {"domains", "best_response", "reward", "settled", "one_domain"}
    fresh = ch.measure_ring(ch.RingConfig(agents=6, fresh=True), 1).metrics
    assert not (ends | {"recalled"}) & fresh.keys() and "follows" in fresh
    blind = ch.measure_ring(ch.RingConfig(agents=6, blind=True), 1).metrics
    assert ends <= blind.keys() and not {"recalled", "constant"} & blind.keys()


def test_networks_are_asked_for_what_they_answer_and_do(monkeypatch):
    """A ring of exact policies, which blinks all at once, and one of constants, one of which is down."""
    start = a_ring("ududud").expand(2, 6)
    monkeypatch.setattr(ch, "random_spins", lambda starts, agents, generator: start.clone())
    constant = a_ring("uuuuud")[..., None].expand(1, 6, 4)
    policies = torch.cat([ch.exact_policies(1, 6, coins()), constant])
    ended = torch.cat([a_ring("dddddd"), a_ring("uuuuuu")])
    found = ch.asked_again(policies, ended, coins())
    assert found == pytest.approx({"follows": 1 / 2, "constant": 1 / 2, "recalled": 11 / 12,
                                   "best_response_again": 11 / 12, "blinks_again": 1 / 2})  # fmt: skip


def test_rules_are_measured_in_turn_from_the_networks_start():
    config = ch.RingConfig(epochs=7, agents=12)
    found = ch.measure_rules(config, 3).metrics
    for rule in ("always_up", "stay", "copy_left", "ties_stay"):
        ring = ch.make_rings(config, 3)[1][0].tolist()
        for epoch in range(7):
            old = list(ring)
            for i in range(epoch % 2, 12, 2):
                left, right = old[i - 1], old[(i + 1) % 12]
                ring[i] = {"always_up": 1, "stay": old[i], "copy_left": left,
                           "ties_stay": left if left == right else old[i]}[rule]  # fmt: skip
        equal = [(s == ring[i - 1]) + (s == ring[(i + 1) % 12]) for i, s in enumerate(ring)]
        reward = np.mean([2 * (-1 + 0.9 * count) for count in equal])
        assert found[f"reward_{rule}"] == pytest.approx(reward, abs=1e-6), rule
        borders = sum(s != ring[i - 1] for i, s in enumerate(ring))
        assert found[f"domains_{rule}"] == max(1, borders), rule
        assert found[f"one_domain_{rule}"] == (borders == 0), rule


def test_speeds_are_divided_by_those_they_are_compared_with(monkeypatch):
    speeds = {"loop": 2.0, "numpy": 10.0, "batch": 30.0, "batches": 700.0}
    monkeypatch.setattr(ch, "time_rings", lambda config, seed: speeds)
    found = ch.measure_speed(ch.SpeedConfig(), 1).metrics
    assert found["one_ring_against_the_loop"] == 15 and found["one_ring_against_numpy"] == 3
    assert (
        found["twenty_rings_against_the_loop"] == 350 and found["twenty_rings_against_numpy"] == 70
    )
    assert all(found[f"agents_a_second_{name}"] == speed for name, speed in speeds.items())


def test_a_shared_network_is_one_network_and_learns(monkeypatch):
    """Spy on the exercise's solution: in every epoch all agents have the same weights, and they change."""
    seen, true_slopes = [], ch.ring_slopes

    def spy(weights, spins, config):
        seen.append([weight.detach().clone() for weight in weights])
        return true_slopes(weights, spins, config)

    monkeypatch.setattr(ch, "ring_slopes", spy)
    monkeypatch.setenv("RLBOOK_BUDGET", "smoke")
    ch.share_one(True)
    assert len(seen) == 20 and not torch.equal(seen[0][0], seen[-1][0])
    for weights in seen:
        assert all(torch.equal(w, w[:, :1].expand_as(w)) for w in weights)


def test_a_shared_network_learns_the_rule_from_fresh_neighbours_only(monkeypatch):
    monkeypatch.setenv("RLBOOK_BUDGET", "laptop")
    assert ch.share_one(True) == (1, 1) and ch.share_one(False) == (0, 1)


def test_rules_do_what_they_are_called():
    spins = ch.random_spins(60, 9, coins())
    moves = {rule: ch.rule_moves(rule, spins, coins(1)) for rule in ch.RULES}
    assert torch.equal(moves["stay"], spins) and (moves["always_up"] == 1).all()
    for s, i in itertools.product(range(60), range(9)):
        left, right = int(spins[s, i - 1]), int(spins[s, (i + 1) % 9])
        assert moves["copy_left"][s, i] == left
        if left == right:
            assert moves["ties_stay"][s, i] == moves["ties_by_coin"][s, i] == left
        else:
            assert moves["ties_stay"][s, i] == spins[s, i]
    ties = spins.roll(1, -1) != spins.roll(-1, -1)
    assert moves["ties_by_coin"][ties].float().mean().abs() < 0.2
    other = ch.rule_moves("ties_by_coin", spins, coins(2))
    assert (moves["ties_by_coin"] != other)[ties].float().mean() == pytest.approx(0.5, abs=0.1)
    assert torch.equal(moves["ties_by_coin"][~ties], other[~ties])
    with pytest.raises(ValueError, match="has to be one of always_up, stay"):
        ch.rule_moves("majority", spins, coins())


def test_learned_policies_are_the_greedy_answers():
    config, weights, spins = some_rings(rings=2)
    policies = ch.learned_policies(weights, "tanh")
    for joint in range(4):
        values = ch.ring_values(torch.eye(4)[joint].expand(2, 6, 4), weights, "tanh")
        assert torch.equal(policies[..., joint], ch.as_spins(values.argmax(-1)))
    _, moves, _ = ch.ring_slopes(weights, spins, config)
    assert torch.equal(ch.respond(policies, spins), moves)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_ring_ends_in_domains_and_remembers_them(seed):
    """Far from coins (0.75 of best responses, ten domains), and without a rule."""
    found = ch.measure_ring(ch.RingConfig(rings=5), seed).metrics
    assert found["best_response"] > 0.98 and found["domains"] < 5.5
    assert found["recalled"] > 0.8 and found["constant"] > 0.7 and found["follows"] < 0.15
    chance = ch.measure_ring(ch.RingConfig(rings=5, learning_rate=0.0), seed).metrics
    assert chance["best_response"] < 0.9 and chance["domains"] > 7


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_fresh_neighbours_teach_the_rule(seed):
    found = ch.measure_ring(ch.RingConfig(epochs=2000, fresh=True, rings=3), seed).metrics
    assert found["follows"] > 0.9 and found["best_response_again"] > 0.95
    assert found["constant"] < 0.1 and found["blinks_again"] > 0.5


@pytest.mark.slow
def test_the_batch_is_faster_than_the_loop():
    """Half of what is measured on a quiet machine."""
    speeds = ch.time_rings(ch.SpeedConfig(20, 5), 1)
    assert speeds["batch"] > 4 * speeds["loop"] and speeds["batches"] > 25 * speeds["loop"]


# Every run: its seed, its state, its measurement

RUNS = {
    "games": (ch.play_games, ch.GameConfig(steps=20, learner="joint", pairs=4)),
    "ring": (ch.train_ring, ch.RingConfig(epochs=10, fresh=True, learning_rate=0.05)),
}


def same(first, second):
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(np.all(np.asarray(first) == np.asarray(second)))


@pytest.mark.parametrize("name", RUNS)
def test_the_seed_decides_a_run_and_a_state_stays_what_it_was(name):
    train, config = RUNS[name]
    runs = [[(p, copy.deepcopy(p.state())) for p in train(config, seed)] for seed in (1, 1, 2)]
    states, again, other = runs
    assert same(states[-1][1], again[-1][1]) and not same(states[-1][1], other[-1][1])
    assert not same(states[0][1], states[-1][1])
    for progress, at_once in states:
        assert same(progress.state(), at_once)  # although the run went on


@pytest.mark.parametrize("name", RUNS)
def test_a_run_resumes_exactly(name, tmp_path):
    train, config = RUNS[name]
    states = [progress.state() for progress in train(config, 5)]
    save_checkpoint(tmp_path / "run.safetensors", states[4], config=config)
    torch.manual_seed(999)
    rest = last(train(config, 5, load_checkpoint(tmp_path / "run.safetensors", config)["state"]))
    for key in states[-1]:
        if key != "random":
            assert same(rest.state()[key], states[-1][key]), key
    assert last(train(config, 5, rest.state())).step == rest.total


def test_no_two_rings_begin_alike():
    starts = set()
    for seed in (1, 2, 3, 11):
        weights, spins = ch.make_rings(ch.RingConfig(rings=20), seed)
        starts |= {
            (first[0, 0].tolist()[0], tuple(ring))
            for first, ring in zip(weights[0].detach(), spins.tolist(), strict=True)
        }
    assert len(starts) == 80


def test_every_use_of_a_seed_has_random_numbers_of_its_own(monkeypatch):
    """Spy on ``spread`` while everything is measured small: no number is asked for by two functions."""
    users, true_spread = {}, ch.spread

    def spy(entropy, count):
        users.setdefault(entropy[0], set()).add(inspect.currentframe().f_back.f_code.co_name)
        return true_spread(entropy, count)

    monkeypatch.setattr(ch, "spread", spy)
    for measurement in ch.MEASUREMENTS:
        name = measurement.measure.__name__
        measurement.measure(dataclasses.replace(measurement.config, **SMALL[name]), 1)
    assert len(users) == 7 and all(len(functions) == 1 for functions in users.values()), users


SMALL = {
    "measure_pennies": {"steps": 20, "pairs": 3},
    "measure_climbing": {"steps": 20, "pairs": 3},
    "measure_settled": {"steps": 10, "pairs": 3},
    "measure_sweeps": {"starts": 4, "count": 5},
    "measure_ring": {"epochs": 3, "rings": 2},
    "measure_rules": {"epochs": 3, "rings": 2},
    "measure_speed": {"epochs": 2, "repeats": 2, "rings": 2},
}


@pytest.mark.parametrize("name", SMALL)
def test_every_measurement_finds_what_it_promises(name):
    of_it = [m for m in ch.MEASUREMENTS if m.measure is getattr(ch, name)]
    found = of_it[0].measure(dataclasses.replace(of_it[0].config, **SMALL[name]), 3)
    assert {metric.name for m in of_it for metric in m.metrics} <= found.metrics.keys()
    numbers = [*found.metrics.values(), *found.baselines.values(), *found.curves.values()]
    assert numbers and all(np.isfinite(values).all() for values in numbers)


def test_all_measure_functions_are_run_small():
    assert {m.measure.__name__ for m in ch.MEASUREMENTS} == SMALL.keys()


def test_the_clock_counts_agents_and_takes_medians(monkeypatch):
    times = {ch.ring_by_loop: [4.0, 2.0, 100.0], ch.ring_by_numpy: [1.0] * 3}
    batch = {1: [0.5] * 3, 7: [2.0] * 3}

    def clock(train, config, seed):
        return (batch[config.rings] if train is ch.ring_by_batch else times[train]).pop(0)

    monkeypatch.setattr(ch, "seconds_of", clock)
    found = ch.time_rings(ch.SpeedConfig(10, 3, 7), 1)
    assert found == {"loop": 50.0, "numpy": 200.0, "batch": 400.0, "batches": 700.0}


# Exercises and settings


def said(capsys, exercise, answer):
    check(exercise, answer)
    return capsys.readouterr().out


def test_the_exercises_know_right_from_wrong(capsys):
    right = {
        "M1.1": lambda r, b, c: np.einsum("abc,sb,sc->sa", r, b, c),
        "M2.1": lambda a, n: (a * n ** torch.arange(a.shape[-1] - 1, -1, -1)).sum(-1),
        "M3.1": lambda ring: max(1, int((ring != np.roll(ring, 1)).sum())),
        "M3.2": lambda slopes: [slope.sum(1, keepdim=True) for slope in slopes],
    }
    for exercise, answer in right.items():
        assert said(capsys, exercise, answer) == f"{exercise}: right.\n"
    wrong = [
        ("M1.1", lambda r, b, c: np.einsum("abc,sb,sc->sa", r, c, b), "second player"),
        ("M1.1", lambda r, b, c: np.einsum("abc,sb->sa", r, b), "a product"),
        ("M1.1", lambda r, b, c: r, "shape"),
        ("M2.1", lambda a, n: (a * n ** torch.arange(a.shape[-1])).sum(-1), "The last one's"),
        ("M2.1", lambda a, n: a.sum(-1), "different places"),
        ("M2.1", lambda a, n: a, "have as many places"),
        ("M3.1", lambda ring: int((ring != np.roll(ring, 1)).sum()), "one domain"),
        ("M3.1", lambda ring: 1 + int((ring[1:] != ring[:-1]).sum()), "It is a ring"),
        ("M3.1", lambda ring: 1, "domains, not 1"),
        ("M3.2", lambda slopes: [slope.mean(1, keepdim=True) for slope in slopes], "in full"),
        ("M3.2", lambda slopes: [slope.sum(1) for slope in slopes], "it has to make"),
        ("M3.2", lambda slopes: slopes[:1], "one gradient for each"),
        ("M3.2", lambda slopes: [slope[:, :1] for slope in slopes], "each of them"),
    ]
    for exercise, answer, hint in wrong:
        told = said(capsys, exercise, answer)
        assert told.startswith(f"{exercise}: not yet.") and hint.lower() in told.lower(), told


def test_no_exercise_needs_another_one():
    cells = jupytext.read(CHAPTERS / "ch04_multi_agent.py").cells
    solutions = [ast.parse(c.source) for c in cells if "hide-cell" in c.metadata.get("tags", [])]
    assert len(solutions) >= 6

    def names(tree, kind):
        found = {
            n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, kind)
        }
        return found | {n.name for n in tree.body if kind is ast.Store and hasattr(n, "name")}

    for one, other in itertools.permutations(solutions, 2):
        assert not (names(one, ast.Load) - names(one, ast.Store)) & names(other, ast.Store)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ch.GameConfig(game="chess"), "GameConfig.game is 'chess'; it has to be one of pennies, climbing."),
        (lambda: ch.GameConfig(partner="sleeps"),
         "GameConfig.partner is 'sleeps'; it has to be one of learns, stands still, random, settled."),
        (lambda: ch.GameConfig(pairs=0), "GameConfig.pairs is 0; it has to lie between 1 and 1000."),
        (lambda: ch.GameConfig(epsilon=2.0), "GameConfig.epsilon is 2.0; it has to lie between 0.0 and 1.0."),
        (lambda: ch.RingConfig(agents=21),
         "On a ring of 21 two even agents are neighbours; taking turns needs an even number."),
        (lambda: ch.SweepConfig(agents=21),
         "On a ring of 21 two even agents are neighbours; taking turns needs an even number."),
        (lambda: ch.orders(7),
         "On a ring of 7 two even agents are neighbours; taking turns needs an even number."),
        (lambda: ch.RingConfig(output="relu"), "RingConfig.output is 'relu'; it has to be one of tanh, linear."),
        (lambda: ch.RingConfig(rings=0), "RingConfig.rings is 0; it has to lie between 1 and 1000."),
        (lambda: ch.RingConfig(hidden=0), "RingConfig.hidden is 0; it has to lie between 1 and 200."),
        (lambda: ch.SweepConfig(count=1), "SweepConfig.count is 1; it has to lie between 3 and 200."),
        (lambda: ch.SpeedConfig(repeats=0), "SpeedConfig.repeats is 0; it has to lie between 1 and 50."),
    ],
)  # fmt: skip
def test_a_bad_setting_gets_one_clear_sentence(make, sentence):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == sentence


def test_an_odd_ring_may_move_all_at_once():
    assert ch.RingConfig(agents=21, in_turn=False).agents == 21
