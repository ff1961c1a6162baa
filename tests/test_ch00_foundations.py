"""Chapter 00: its mathematics against independent oracles, its agents against chance, its faults kept out."""

import ast
import copy
import dataclasses
import itertools
import re

import jupytext
import nbformat
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from scipy import stats

from rlbook_utils.checkpoint import load_checkpoint, save_checkpoint
from rlbook_utils.definitions import CHAPTERS, load_chapter
from rlbook_utils.exercises import check
from rlbook_utils.notebooks import code_hash, read_script
from rlbook_utils.replay import Experience
from rlbook_utils.rollout import make_vector, transitions

torch.set_num_threads(1)  # a second thread costs these networks more than it brings
ch = load_chapter("ch00_foundations")
RANDOM_RETURN = 22.5  # CartPole's mean return under random pushes


def last(progresses):
    *_, progress = progresses
    return progress


# The grid


def test_the_grid_has_walls_and_edges():
    left, right, up, down = range(4)
    assert ch.NEXT_CELL[8, left] == 8 and ch.NEXT_CELL[8, down] == 8  # off the grid
    assert ch.NEXT_CELL[1, down] == 1 and ch.NEXT_CELL[4, right] == 4  # into the wall
    assert ch.NEXT_CELL[8, up] == 4 and ch.NEXT_CELL[11, up] == 7 and ch.NEXT_CELL[2, right] == 3
    assert ch.NEXT_CELL[3, right] == 3 and ch.NEXT_CELL[4, left] == 4  # no wrapping around
    assert ch.GRID_REWARDS[2, right] == 1 and ch.GRID_REWARDS[7, up] == 1
    assert (
        ch.GRID_REWARDS[[6, 11, 7], [right, up, right]] == -1
    ).all()  # entering, and staying on, the bomb
    others = ch.GRID_REWARDS[[0, 1, 4, 8, 9, 10]]
    assert (others == 0).all()


def test_exact_values_agree_with_a_search_over_paths():
    """The best discounted sum over all move sequences of length 7, by brute force."""
    q = ch.exact_q(0.9)

    def best(cell, depth):
        if cell == 3 or depth == 0:
            return 0.0
        return max(value(cell, action, depth) for action in range(4))

    def value(cell, action, depth):
        row, column = divmod(cell, 4)
        row += (0, 0, -1, 1)[action]
        column += (-1, 1, 0, 0)[action]
        inside = 0 <= row <= 2 and 0 <= column <= 3 and (row, column) != (1, 1)
        after = row * 4 + column if inside else cell
        reward = {3: 1.0, 7: -1.0}.get(after, 0.0)
        return reward + 0.9 * best(after, depth - 1)

    for cell in ch.OPEN:  # no best path is longer than 7, so that the horizon does not matter
        np.testing.assert_allclose([value(cell, a, 7) for a in range(4)], q[cell], atol=1e-12)
    assert q[8].max() == pytest.approx(0.9**4)


def test_grid_loss_is_the_squared_td_error_and_holds_its_target():
    torch.manual_seed(0)
    net = ch.mlp(12, 20, 4)
    q = ch.grid_values(net)
    for cell, action in itertools.product(ch.OPEN, range(4)):
        after = ch.NEXT_CELL[cell, action]
        target = {3: 1.0, 7: -1.0}.get(after, 0.0) + (after != 3) * 0.9 * q[after].max()
        loss = ch.grid_loss(net, cell, action, 0.9)
        assert loss.item() == pytest.approx((target - q[cell, action]) ** 2, rel=1e-4, abs=1e-6)
        net.zero_grad()
        loss.backward()  # only the column of the cell that was left carries a gradient
        moved = torch.nonzero(net[0].weight.grad.abs().sum(0)).flatten().tolist()
        assert set(moved) <= {cell}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_neural_q_learning_finds_the_shortest_path(seed):
    measured = ch.measure_grid(ch.GridConfig(episodes=200), seed)
    assert np.mean(np.array(measured.curves["greedy_steps"][-100:]) == 5) > 0.8
    assert measured.metrics["episodes_to_converge"] < 150
    q = ch.grid_values(
        ch.net_of(last(ch.learn_grid(ch.GridConfig(episodes=1), seed)).state()["net"], 12, 100, 4)
    )
    assert np.abs(q).max() < 0.5  # what it learned later was not there at the start


def test_grid_learning_resumes_exactly(tmp_path):
    config = ch.GridConfig(episodes=8, epsilon=0.6)
    whole = [progress.state() for progress in ch.learn_grid(config, 5)]
    save_checkpoint(tmp_path / "grid.safetensors", whole[3], config=config)
    rest = last(ch.learn_grid(config, 5, load_checkpoint(tmp_path / "grid.safetensors")["state"]))
    for name, weights in rest.state()["net"].items():
        torch.testing.assert_close(weights, whole[-1]["net"][name], rtol=0, atol=0)
    assert last(ch.learn_grid(config, 5, rest.state())).step == 8


# DQN


def some_batch(size=40, seed=0):
    rng = np.random.default_rng(seed)
    rows = Experience(
        rng.normal(size=(size, 4)).astype(np.float32), rng.integers(2, size=size),
        rng.normal(size=size).astype(np.float32),
        np.where(rng.random(size) < 0.3, 0, 0.99).astype(np.float32),
        rng.normal(size=(size, 4)).astype(np.float32),
    )  # fmt: skip
    return rows, ch.as_batch(rows)


def test_dqn_loss_agrees_with_a_loop():
    torch.manual_seed(0)
    net, target_net = ch.mlp(4, 16, 2), ch.mlp(4, 16, 2)
    rows, batch = some_batch()
    scale, errors = np.array([1, 1, 10, 1]), []
    for obs, action, reward, discount, next_obs in zip(*rows, strict=True):
        q = net(torch.tensor(obs * scale).float()).tolist()
        later = target_net(torch.tensor(next_obs * scale).float()).tolist()
        target = reward if discount == 0 else reward + 0.99 * max(later)
        errors.append(target - q[action])
    loss = ch.dqn_loss(net, target_net, batch)
    assert loss.item() == pytest.approx(np.mean(np.square(errors)), rel=1e-4)
    loss.backward()
    assert all(p.grad is None for p in target_net.parameters())
    huber = [e**2 / 2 if abs(e) < 1 else abs(e) - 0.5 for e in errors]
    clipped = ch.dqn_loss(net, target_net, batch, huber=True)
    assert clipped.item() == pytest.approx(np.mean(huber), rel=1e-4)


def test_targets_bootstrap_on_truncation_and_stop_on_termination():
    """Pitfall: masking by done. Experience as training stores it, from carts that all end one way or the other."""
    torch.manual_seed(0)
    net, n_step, found = ch.mlp(4, 16, 2), ch.NStep(1, 0.99), {"terminated": 0, "truncated": 0}
    envs = ch.gym.make_vec(
        "CartPole-v1", num_envs=16, vectorization_mode="vector_entry_point", max_episode_steps=20
    )
    rng = np.random.default_rng(0)
    for _, step in zip(
        range(120), transitions(envs, lambda o: rng.integers(2, size=16), 0), strict=False
    ):
        rows = n_step(step)
        targets = ch.dqn_targets(net, ch.as_batch(rows)).numpy()
        best = net(ch.as_input(rows.next_obs)).max(1).values.detach().numpy()
        ended = step.terminated[step.valid]
        np.testing.assert_allclose(targets[ended], 1, rtol=1e-6)
        np.testing.assert_allclose(targets[~ended], 1 + 0.99 * best[~ended], rtol=1e-5)
        found["terminated"] += ended.sum()
        found["truncated"] += (step.truncated[step.valid] & ~ended).sum()
    assert min(found.values()) > 10


def test_resets_never_enter_the_replay():
    """Pitfall: the NEXT_STEP row (reward 0, a fallen pole that rises) stored as a transition."""
    state = last(ch.train_dqn(ch.DQNConfig(steps=1920), 1)).state()
    replay = Experience(**state["replay"])
    assert (replay.rewards == 1).all() and len(replay.rewards) < 1920
    assert (np.abs(replay.obs[:, 2]) < 0.2095).all()  # nobody acts on a pole that has fallen
    assert (
        30 < (replay.discounts == 0).sum() == 1920 - len(replay.rewards) + envs_just_fallen(replay)
    )


def envs_just_fallen(replay):
    """Ends among the last step's 16 rows: their resets are still to come."""
    return int((replay.discounts[-16:] == 0).sum())


def test_target_network_is_a_copy_of_the_right_age():
    config = ch.DQNConfig(sync_every=6)
    dqn, state = ch.make_dqn(config, 0), {"env_steps": 0, "updates": 0}
    for update in range(1, 20):
        before = [p.clone() for p in dqn.target_net.parameters()]
        ch.dqn_step(dqn, some_batch(seed=update)[1], config, state)
        kept, live = (
            all(torch.equal(a, b) for a, b in zip(others, dqn.target_net.parameters(), strict=True))
            for others in (before, dqn.net.parameters())
        )
        assert (kept, live) == ((False, True) if update % 6 == 0 else (True, False))
    assert state["updates"] == 19


def test_exploration_falls_to_its_floor():
    config = ch.DQNConfig(steps=9600, final_epsilon=0.1)
    assert ch.epsilon_at(config, 0) == 1 and ch.epsilon_at(config, 800) == pytest.approx(0.55)
    assert ch.epsilon_at(config, 1600) == ch.epsilon_at(config, 9600) == pytest.approx(0.1)
    policy = ch.explorer(ch.make_dqn(config, 0), lambda: 0.2, np.random.default_rng(0))
    obs = np.zeros((20_000, 4), np.float32)
    greedy = ch.greedy_policy(ch.make_dqn(config, 0).net)(obs[:1])[0]
    assert stats.binomtest(int((policy(obs) == greedy).sum()), 20_000, 0.9).pvalue > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_dqn_learns(seed):
    state = last(ch.train_dqn(ch.DQNConfig(steps=9600), seed)).state()
    assert ch.score(ch.net_of(state["dqn"][0], 4, 128, 128, 2), seed) > 5 * RANDOM_RETURN


def test_agents_are_scored_on_fresh_episodes(monkeypatch):
    asked = []
    play = ch.episode_returns
    spy = lambda policy, env_id, episodes, seed: (
        asked.append(seed) or play(policy, env_id, episodes, seed)
    )
    monkeypatch.setitem(ch.score.__globals__, "episode_returns", spy)
    for seed in (1, 2, 3, 101):
        state = last(ch.train_dqn(ch.DQNConfig(steps=1920), seed)).state()
        ch.score(ch.net_of(state["dqn"][0], 4, 128, 128, 2), seed)
    assert len(asked) == len(set(asked)) == 4 * 3


def test_a_stored_replay_is_in_order():
    """Oldest first, so that whoever goes on overwrites the oldest first."""
    run = ch.train_dqn(ch.DQNConfig(steps=2880, capacity=1024), 1)
    _, earlier, later = (progress.state()["replay"]["obs"] for progress in run)
    (start,) = np.flatnonzero((earlier == later[0]).all(1))
    assert start > 0 and len(earlier) == len(later) == 1024
    np.testing.assert_array_equal(earlier[start:], later[: 1024 - start])


def test_a_run_with_a_tiny_replay_learns_on_after_a_stop():
    config = ch.DQNConfig(steps=2880, capacity=16)
    states = [progress.state() for progress in ch.train_dqn(config, 1)]
    rest = last(ch.train_dqn(config, 1, states[1])).state()
    assert rest["updates"] == states[2]["updates"] > states[1]["updates"]


def test_dqn_goes_on_from_a_checkpoint(tmp_path):
    config = ch.DQNConfig(steps=2880, capacity=1024)
    states = [progress.state() for progress in ch.train_dqn(config, 1)]
    save_checkpoint(tmp_path / "dqn.safetensors", states[1], config=config)
    stored = load_checkpoint(tmp_path / "dqn.safetensors", config)["state"]
    rest = last(ch.train_dqn(config, 1, stored)).state()
    assert (rest["env_steps"], rest["updates"]) == (2880, states[2]["updates"])
    moments = rest["dqn"][2]["state"][0]
    assert moments["step"] == states[2]["updates"]  # Adam's own counter went on too
    newest = states[1]["replay"]["obs"][-100:]  # the replay keeps what is newest
    kept = {row.tobytes() for row in rest["replay"]["obs"]}
    overlap = sum(row.tobytes() in kept for row in newest)
    assert len(rest["replay"]["obs"]) == 1024 and overlap >= 1024 - 960
    assert states[1]["replay"]["obs"][0].tobytes() not in kept
    assert last(ch.train_dqn(config, 1, rest)).step == 2880


def test_dqn_training_feeds_every_batch_whole_at_a_falling_rate(monkeypatch):
    """What reaches the optimiser: batches of the replay, twice a step after the warm-up, at the rate of the schedule."""
    config, seen, losses = ch.DQNConfig(steps=1920, updates=3), [], []
    true_step, true_loss = ch.dqn_step, ch.dqn_loss

    def step(dqn, batch, config, state):
        loss = true_step(dqn, batch, config, state)
        assert losses.pop() is batch
        rate = dqn.optimiser.param_groups[0]["lr"]
        assert rate == pytest.approx(config.learning_rate * (1 - state["env_steps"] / config.steps))
        assert len(batch.rewards) == config.batch_size
        seen.append(state["env_steps"])
        return loss

    def loss(net, target_net, batch, huber):
        losses.append(batch)
        return true_loss(net, target_net, batch, huber)

    monkeypatch.setattr(ch, "dqn_step", step)
    monkeypatch.setattr(ch, "dqn_loss", loss)
    state = last(ch.train_dqn(config, 1)).state()
    learned, counts = np.unique(seen, return_counts=True)
    assert (counts == 3).all() and learned[-1] == 1920 and (np.diff(learned) == 16).all()
    assert ch.WARM_UP <= learned[0] < ch.WARM_UP + 200  # resets do not count
    assert state["updates"] == len(seen)


@pytest.mark.parametrize("huber", [False, True])
def test_every_row_and_the_chosen_loss_reach_the_gradient(huber):
    """One step of plain gradient descent against the gradient of a loss that is written out row by row."""
    dqn, (_, batch) = ch.make_dqn(ch.DQNConfig(), 0), some_batch()
    dqn = dqn._replace(optimiser=torch.optim.SGD(dqn.net.parameters(), 1.0))
    for weights in dqn.target_net.parameters():
        weights.data += 0.01
    total = 0.0
    for i in range(40):
        later = dqn.target_net(batch.next_obs[i]).max().item() * batch.discounts[i]
        error = batch.rewards[i] + later - dqn.net(batch.obs[i])[batch.actions[i]]
        small = 0.5 * error**2 if abs(error) < 1 else abs(error) - 0.5
        total = total + (small if huber else error**2) / 40
    wanted = gradient_of(total, dqn.net.parameters())
    before = torch.cat([p.detach().flatten() for p in dqn.net.parameters()])
    config = ch.DQNConfig(steps=1000_00, learning_rate=0.01, huber=huber)
    found = ch.dqn_step(dqn, batch, config, {"env_steps": 50_000, "updates": 0})
    after = torch.cat([p.detach().flatten() for p in dqn.net.parameters()])
    torch.testing.assert_close((before - after) / 0.005, wanted, rtol=1e-3, atol=1e-4)
    assert found == pytest.approx(total.item(), rel=1e-4)


def test_dqn_explores_less_while_it_trains(monkeypatch):
    config, chances, true_explorer = ch.DQNConfig(steps=9600), [], ch.explorer
    monkeypatch.setattr(
        ch, "explorer", lambda dqn, eps, rng: chances.append(eps) or true_explorer(dqn, eps, rng)
    )
    found = [chances[0]() for _ in ch.train_dqn(config, 1)]  # after every 960 steps
    assert found[0] == pytest.approx(1 - 0.96 * 0.6)  # the first sixth is 1,600 steps
    assert found[1:] == [config.final_epsilon] * 9


# Policy gradients


def some_episodes(net, count=12, seed=0):
    return ch.play_episodes(net, count, np.random.default_rng(seed))


def small_policy(seed=0):
    torch.manual_seed(seed)
    return ch.mlp(4, 6, 2)


def test_episodes_are_whole_and_counted_once():
    episodes = some_episodes(small_policy(), 50)
    lengths = episodes.mask.sum(1)
    assert (episodes.rewards == episodes.mask).all()
    assert (episodes.mask.diff(dim=1) <= 0).all()  # no step counts after an end
    obs = episodes.obs / torch.from_numpy(ch.OBS_SCALE)
    ends = obs[torch.arange(50), lengths.long() - 1]
    assert (ends[:, 2].abs() < 0.2095).all() and (ends[:, 2].abs() > 0.1).float().mean() > 0.9
    assert lengths.max() == episodes.mask.shape[1]


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_weights_agree_with_their_definitions(discount):
    episodes, value_net = some_episodes(small_policy()), ch.mlp(4, 5, 1)
    weights = {name: ch.step_weights(name, episodes, discount, value_net) for name in ch.ESTIMATORS}
    for e in range(12):
        length = int(episodes.mask[e].sum())
        for t in range(episodes.mask.shape[1]):
            rewards = episodes.rewards[e].tolist()
            to_go = sum(discount ** (k - t) * rewards[k] for k in range(t, length))
            whole = sum(discount**k * rewards[k] for k in range(length))
            value = value_net(episodes.obs[e, t]).item()
            expected = {"whole return": whole, "reward-to-go": to_go, "baseline": to_go - value}
            for name, weight in expected.items():
                assert weights[name][e, t].item() == pytest.approx(weight * (t < length), abs=1e-3)
    assert not any(w.requires_grad for w in weights.values())


def test_episode_gradients_agree_with_backward():
    net = small_policy()
    episodes, value_net = some_episodes(net), ch.mlp(4, 5, 1)
    weights = ch.step_weights("baseline", episodes, 0.98, value_net)
    ours = ch.episode_gradients(net, episodes, weights)
    for e in range(12):
        net.zero_grad()
        total = 0.0
        for t in range(int(episodes.mask[e].sum())):
            policy = torch.distributions.Categorical(logits=net(episodes.obs[e, t]))
            total = total + weights[e, t] * policy.log_prob(episodes.actions[e, t])
        total.backward()
        expected = torch.cat([p.grad.flatten() for p in net.parameters()])
        torch.testing.assert_close(ours[e], expected, rtol=1e-3, atol=1e-3)
    mean = torch.cat([g.flatten() for g in torch.autograd.grad(
        (weights * ch.log_probs(net, episodes)).sum(1).mean(), net.parameters())])  # fmt: skip
    torch.testing.assert_close(ours.mean(0), mean, rtol=1e-3, atol=1e-3)


def two_step_gradients(estimator, logits):
    """Every estimator's exact mean and variance in a world of two steps, by listing its four episodes.

    Rewards: 1 for action 1 at the first step, and 3 times (first action + second action) at the second.
    """
    net = torch.nn.Linear(4, 2, bias=False)
    net.weight.data = logits
    actions = torch.tensor(list(itertools.product((0, 1), repeat=2)))  # [4, T]
    obs = torch.eye(4)[:2].expand(4, 2, 4)
    rewards = torch.stack([actions[:, 0], 3 * actions.sum(1)], 1).float()
    episodes = ch.Episodes(obs, actions, rewards, torch.ones(4, 2))
    value_net = torch.nn.Linear(4, 1, bias=False)
    value_net.weight.data = torch.tensor([[3.0, 2.5, 0, 0]])
    weights = ch.step_weights(estimator, episodes, 1.0, value_net)
    gradients = ch.episode_gradients(net, episodes, weights)
    chances = ch.log_probs(net, episodes).sum(1).exp()[:, None]
    mean = (chances * gradients).sum(0)
    variance = (chances * (gradients - mean) ** 2).sum()
    return mean.detach(), variance.item()


def test_all_estimators_have_the_gradient_of_the_return_as_their_mean():
    """Against finite differences of the expected return, exactly: no sampling."""
    logits = torch.tensor([[0.3, -0.2, 0, 0], [-0.1, 0.4, 0, 0]])

    def expected_return(flat):
        first, second = (
            torch.softmax(flat.view(2, 4)[:, 0], 0)[1],
            torch.softmax(flat.view(2, 4)[:, 1], 0)[1],
        )
        return first + 3 * (first + second)

    flat, nudge = logits.flatten().double(), 1e-5
    slopes = [
        (expected_return(flat + nudge * e) - expected_return(flat - nudge * e)) / (2 * nudge)
        for e in torch.eye(8, dtype=torch.float64)
    ]
    variances = []
    for estimator in ch.ESTIMATORS:
        mean, variance = two_step_gradients(estimator, logits)
        torch.testing.assert_close(mean.double(), torch.stack(slopes), rtol=1e-4, atol=1e-5)
        variances.append(variance)
    assert variances[0] > 1.1 * variances[1] > 1.5 * variances[2]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_variance_falls_and_the_mean_stays(seed):
    config = ch.VarianceConfig(512, trained_to=60.0)
    gradients = ch.gradients_of_estimators(config, seed)
    squares = {name: ch.squared_deviations(g) for name, g in gradients.items()}
    ratios = [squares[name].mean() / squares["whole return"].mean() for name in ch.ESTIMATORS]
    assert ratios[1] < 0.5 and ratios[2] < 0.95 * ratios[1]
    for name in ch.ESTIMATORS[1:]:
        assert ch.chance_of(gradients["whole return"], gradients[name]) > 0.005
    biased = gradients["baseline"] + gradients["whole return"].std(0) / 4
    assert ch.chance_of(gradients["whole return"], biased) < 0.005  # it would notice


def test_squared_deviations_average_to_the_variance():
    gradients = torch.randn(200, 30, generator=torch.Generator().manual_seed(0))
    expected = np.trace(np.cov(gradients.numpy().T, bias=True))
    assert ch.squared_deviations(gradients).mean() == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["reward-to-go", "baseline"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_reinforce_learns(estimator, seed):
    progress = last(ch.train_policy(ch.GradientConfig(estimator, updates=20), seed))
    net = ch.net_of(progress.state()["parts"][0], 4, 100, 2)
    assert ch.score(net, seed) > 5 * RANDOM_RETURN


@pytest.mark.parametrize("estimator", ch.ESTIMATORS)
def test_a_policy_step_climbs_the_mean_of_all_episodes_gradients(estimator, monkeypatch):
    """Spies: the step against each episode's own gradient, the baseline fitted only after it has been used."""
    agent = ch.make_actor_critic(0.01, 0.01, 0, {})
    rate, episodes = 1e-4, some_episodes(agent.policy_net)
    agent = agent._replace(policy_optimiser=torch.optim.SGD(agent.policy_net.parameters(), rate))
    config, rng = ch.GradientConfig(estimator), np.random.default_rng(0)
    weights = ch.step_weights(estimator, episodes, config.discount, agent.value_net)
    wanted = ch.episode_gradients(agent.policy_net, episodes, weights).mean(0)
    values = copy.deepcopy(agent.value_net)
    before = torch.cat([p.detach().flatten() for p in agent.policy_net.parameters()])
    monkeypatch.setattr(ch, "play_episodes", lambda *_: episodes)
    found = ch.policy_step(agent, config, rng, "cpu")
    after = torch.cat([p.detach().flatten() for p in agent.policy_net.parameters()])
    torch.testing.assert_close((after - before) / rate, wanted, rtol=0.02, atol=0.05)
    assert found == pytest.approx(episodes.rewards.sum(1).mean().item())
    moved = any(
        not torch.equal(a, b)
        for a, b in zip(values.parameters(), agent.value_net.parameters(), strict=True)
    )
    assert moved == (estimator == "baseline")


def test_the_policys_rate_falls_to_zero(monkeypatch):
    rates, true_step = [], ch.policy_step

    def spy(agent, *others):
        rates.append(agent.policy_optimiser.param_groups[0]["lr"])
        return true_step(agent, *others)

    monkeypatch.setattr(ch, "policy_step", spy)
    last(ch.train_policy(ch.GradientConfig(updates=4, episodes=2), 1))
    np.testing.assert_allclose(rates, [0.01, 0.0075, 0.005, 0.0025])


def test_a_baseline_is_fitted_to_the_steps_played_alone():
    """Padding after an end belongs to no step: with rewards of 0 there, it would pull every value down."""
    obs, mask = torch.zeros(2, 50, 4), torch.zeros(2, 50)
    mask[:, 0] = 1
    episodes = ch.Episodes(obs, torch.zeros(2, 50, dtype=torch.int64), 5 * mask, mask)
    value_net = torch.nn.Linear(4, 1)
    optimiser = torch.optim.SGD(value_net.parameters(), 0.1)
    ch.fit_baseline(value_net, optimiser, episodes, 0.9, 50, np.random.default_rng(0))
    assert value_net(torch.zeros(4)).item() == pytest.approx(5, abs=0.01)


def test_reinforce_resumes_exactly(tmp_path):
    config = ch.GradientConfig("baseline", updates=5)
    whole = [progress.state() for progress in ch.train_policy(config, 3)]
    save_checkpoint(tmp_path / "pg.safetensors", whole[1], config=config)
    rest = last(
        ch.train_policy(config, 3, load_checkpoint(tmp_path / "pg.safetensors")["state"])
    ).state()
    for ours, theirs in zip(whole[-1]["parts"][:2], rest["parts"][:2], strict=True):
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0)


def test_sampled_actions_follow_the_softmax():
    net = torch.nn.Linear(4, 2)
    torch.nn.init.zeros_(net.weight)
    net.bias.data = torch.log(torch.tensor([0.88, 0.12]))
    drawn = ch.sampler(net, np.random.default_rng(0))(np.zeros((20_000, 4), np.float32))
    assert stats.binomtest(int(drawn.sum()), 20_000, 0.12).pvalue > 1e-3


def test_log_probabilities_survive_extreme_logits():
    """Pitfall: the logarithm of a softmax that was rounded to 0."""
    net = torch.nn.Linear(4, 2)
    torch.nn.init.zeros_(net.weight)
    net.bias.data = torch.tensor([0.0, 200.0])
    episodes = ch.Episodes(
        torch.zeros(1, 1, 4),
        torch.zeros(1, 1, dtype=torch.int64),
        torch.ones(1, 1),
        torch.ones(1, 1),
    )
    assert ch.log_probs(net, episodes).item() == pytest.approx(-200)
    assert torch.log(torch.softmax(net.bias, 0))[0] == -torch.inf


# Actor–critic


def gradient_of(loss, parameters):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(parameters))])


def test_td_error_leaves_its_target_alone():
    """Pitfall: the critic's gradient flowing through the target, against finite differences."""
    torch.manual_seed(0)
    value_net, (_, batch) = ch.mlp(4, 6, 1).double(), some_batch()
    batch = Experience(*(c.double() if c.is_floating_point() else c for c in batch))
    targets = (batch.rewards + batch.discounts * value_net(batch.next_obs)[:, 0]).detach()
    weights = list(value_net.parameters())
    held = gradient_of(ch.td_errors(value_net, batch).square().mean(), weights)
    flowing = gradient_of(
        ch.td_errors(value_net, batch, hold_target=False).square().mean(), weights
    )
    slopes = []
    for weight in weights:
        for i in range(weight.numel()):
            sides = []
            for nudge in (1e-5, -1e-5):
                weight.data.view(-1)[i] += nudge
                sides.append((targets - value_net(batch.obs)[:, 0]).square().mean().item())
                weight.data.view(-1)[i] -= nudge
            slopes.append((sides[0] - sides[1]) / 2e-5)
    torch.testing.assert_close(held, torch.tensor(slopes).double(), rtol=1e-4, atol=1e-6)
    assert (flowing - held).norm() > 0.1 * held.norm()


def test_the_actor_does_not_push_the_critic_nor_the_critic_the_actor():
    agent, (_, batch) = ch.make_actor_critic(0.001, 0.001, 0, {}), some_batch()
    errors = ch.td_errors(agent.value_net, batch)
    log_prob = torch.log_softmax(agent.policy_net(batch.obs), -1)[torch.arange(40), batch.actions]
    actor = gradient_of(-(errors.detach() * log_prob).mean(), agent.policy_net.parameters())
    critic = gradient_of(errors.square().mean(), agent.value_net.parameters())
    loss = ch.actor_critic_loss(agent, batch)
    both = gradient_of(loss, [*agent.policy_net.parameters(), *agent.value_net.parameters()])
    torch.testing.assert_close(both, torch.cat([actor, critic]))


def test_a_gradient_through_the_target_learns_the_wrong_values():
    np.testing.assert_allclose(ch.split_values(True)[-1], [0.5, 1, 0], atol=1e-3)
    np.testing.assert_allclose(ch.split_values(False)[-1], [0.5, 0.75, 0.25], atol=1e-3)


@pytest.mark.parametrize("hold", [True, False])
def test_an_actor_critic_step_holds_its_target_and_follows_its_rates(hold):
    """One step of plain gradient descent, every row in it, at half of the rates after half of the run."""
    agent, (_, batch) = ch.make_actor_critic(0, 0, 0, {}), some_batch()
    nets = (agent.policy_net, agent.value_net)
    agent = ch.ActorCritic(*nets, *(torch.optim.SGD(net.parameters(), 1.0) for net in nets))
    value_loss, policy_loss = 0.0, 0.0
    for i in range(40):
        later = agent.value_net(batch.next_obs[i])[0]
        later = later.item() if hold else later
        error = batch.rewards[i] + batch.discounts[i] * later - agent.value_net(batch.obs[i])[0]
        policy = torch.distributions.Categorical(logits=agent.policy_net(batch.obs[i]))
        log_prob = policy.log_prob(batch.actions[i])
        value_loss = value_loss + error**2 / 40
        policy_loss = policy_loss - (error.item() if hold else error) * log_prob / 40
    weights = [*nets[0].parameters(), *nets[1].parameters()]
    wanted = gradient_of(value_loss + policy_loss, weights)
    before = [p.detach().clone() for p in weights]
    config = ch.ActorCriticConfig(steps=3200, actor_rate=0.01, critic_rate=0.05, hold_target=hold)
    ch.actor_critic_step(agent, batch, config, 1600)
    rates = [0.005] * 4 + [0.025] * 4  # half of each rate
    found = [(old - p.detach()) / rate for old, p, rate in zip(before, weights, rates, strict=True)]
    found = torch.cat([f.flatten() for f in found])
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_actor_critic_training_uses_every_step_once(monkeypatch):
    config, true_step, seen = ch.ActorCriticConfig(steps=3200), ch.actor_critic_step, []

    def spy(agent, batch, config, env_steps):
        seen.append((len(batch.rewards), env_steps, config.hold_target))
        true_step(agent, batch, config, env_steps)

    monkeypatch.setattr(ch, "actor_critic_step", spy)
    last(ch.train_actor_critic(config, 1))
    rows, env_steps, held = zip(*seen, strict=True)
    assert list(env_steps) == list(range(32, 3232, 32)) and all(held)
    assert 32 * 80 < sum(rows) < 3200 and rows[0] == 32  # all but the resets


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_actor_critic_learns(seed):
    progress = last(ch.train_actor_critic(ch.ActorCriticConfig(steps=70_400), seed))
    assert ch.score(ch.net_of(progress.state()["parts"][0], 4, 100, 2), seed) > 4 * RANDOM_RETURN


def test_actor_critic_goes_on_from_a_checkpoint(tmp_path):
    config = ch.ActorCriticConfig(steps=9600)
    states = [progress.state() for progress in ch.train_actor_critic(config, 1)]
    assert len(states) == 3
    save_checkpoint(tmp_path / "ac.safetensors", states[1], config=config)
    stored = load_checkpoint(tmp_path / "ac.safetensors", config)["state"]
    rest = last(ch.train_actor_critic(config, 1, stored)).state()
    assert rest["env_steps"] == 9600
    assert rest["parts"][2]["state"][0]["step"] == states[2]["parts"][2]["state"][0]["step"] == 300


# Every run: its seed, its state, its measurement

RUNS = {
    "grid": (ch.learn_grid, ch.GridConfig(episodes=2, epsilon=0.6)),
    "dqn": (ch.train_dqn, ch.DQNConfig(steps=2880, capacity=512)),
    "policy": (ch.train_policy, ch.GradientConfig("baseline", updates=3, episodes=4)),
    "actor-critic": (ch.train_actor_critic, ch.ActorCriticConfig(steps=9600)),
}


def same(first, second):
    """Whether two nested states hold the same numbers."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(np.all(np.asarray(first) == np.asarray(second)))


@pytest.mark.parametrize("name", RUNS)
def test_the_seed_decides_a_run_and_a_state_stays_what_it_was(name):
    train, config = RUNS[name]
    states, again, other = (
        [(progress, progress.state()) for progress in train(config, seed)] for seed in (1, 1, 2)
    )
    assert same(states[-1][1], again[-1][1]) and not same(states[-1][1], other[-1][1])
    assert not same(states[0][1], states[-1][1])
    for progress, at_once in states:
        assert same(progress.state(), at_once)  # although the run went on


@pytest.mark.parametrize(("name", "policy"), [("dqn", "explorer"), ("actor-critic", "sampler")])
def test_a_resumed_run_takes_up_its_random_numbers(name, policy, monkeypatch, tmp_path):
    """Spy: what the generator would draw next when the resumed run begins to play."""
    train, config = RUNS[name]
    true_policy, generators = getattr(ch, policy), []

    def spy(*arguments):
        generators.append(copy.deepcopy(arguments[-1]))
        return true_policy(*arguments)

    monkeypatch.setattr(ch, policy, spy)
    first = next(train(config, 1)).state()
    save_checkpoint(tmp_path / "run.safetensors", first, config=config)
    torch.manual_seed(999)
    next(train(config, 1, load_checkpoint(tmp_path / "run.safetensors")["state"]))
    assert torch.equal(first["random"]["torch"], torch.get_rng_state())
    assert generators[1].bit_generator.state == first["random"]["numpy"]
    assert generators[0].bit_generator.state != generators[1].bit_generator.state


@pytest.mark.parametrize("name", ["dqn", "policy", "actor-critic"])
def test_no_two_seeds_and_no_run_and_its_score_share_an_episode(name, monkeypatch):
    """Spy on reset: every first observation of training, curve, score, random play and of a resumed run is its own."""
    train, config = RUNS[name]
    true_reset, starts = CartPoleVectorEnv.reset, []

    def spy(self, **options):
        obs, info = true_reset(self, **options)
        starts.extend(row.tobytes() for row in obs)
        return obs, info

    monkeypatch.setattr(CartPoleVectorEnv, "reset", spy)
    for seed in (1, 2, 3, 11):
        first = next(train(config, seed))
        state = last(train(config, seed, first.state())).state()
        nets = {"dqn": (4, 128, 128, 2), "policy": (4, 100, 2), "actor-critic": (4, 100, 2)}
        weights = (state["dqn"] if name == "dqn" else state["parts"])[0]
        ch.score(ch.net_of(weights, *nets[name]), seed, 20)
        ch.random_return_of(20, seed)
    assert len(starts) == len(set(starts)) > 4 * 44


SMALL = {
    "measure_grid": {"episodes": 2},
    "measure_exploration": {"episodes": 2},
    "measure_dqn": {"steps": 1920},
    "measure_policy_gradient": {"updates": 6, "episodes": 2},
    "measure_variance": {"episodes": 16, "trained_to": 10.0},
    "measure_actor_critic": {"steps": 3200},
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


# What the book says about the pitfalls, kept true


@pytest.mark.slow
def test_values_of_a_policy_that_never_falls():
    """Pitfall: the clock mistaken for the end. 1 / (1 - γ) = 50, and less where done stops the bootstrap."""
    learned = {}
    for name, ends in {
        "right": lambda s: s.terminated,
        "wrong": lambda s: s.terminated | s.truncated,
    }.items():
        envs = ch.gym.make_vec(
            "CartPole-v1",
            num_envs=32,
            vectorization_mode="vector_entry_point",
            max_episode_steps=100,
        )
        rows = ch.gather(envs, ch.balance, 202, lambda s: s.valid, ends)
        learned[name] = ch.fit_values(rows, 2000)(rows.obs).mean()
    assert 47 < learned["right"] < 53
    assert learned["wrong"] < 0.9 * learned["right"]


@pytest.mark.slow
def test_stored_resets_raise_the_value_of_a_falling_pole():
    rng, learned = np.random.default_rng(0), {}
    push = lambda obs: rng.integers(2, size=len(obs))
    for name, keep in {
        "right": lambda s: s.valid,
        "wrong": lambda s: np.ones(len(s.valid), bool),
    }.items():
        rows = ch.gather(make_vector("CartPole-v1", 64), push, 200, keep, lambda s: s.terminated)
        falling = rows.obs[rows.discounts == 0]
        learned[name] = ch.fit_values(rows, 1000)(falling).mean()
    assert learned["right"] < 3 and learned["wrong"] > 1.5 * learned["right"]


def test_the_map_links_every_other_chapter_that_there_is():
    there = {path.stem for path in CHAPTERS.glob("ch*.py")} - {"ch00_foundations"}
    linked = re.findall(r"\[\d+[a-z]?\]\((\w+)\.ipynb\)", ch.map_as_text())
    assert there <= set(linked) and set(linked) <= there
    assert ch.with_links("chapters 1, 97b").endswith("](ch01_evolution.ipynb), 97b")


def test_the_stored_map_links_what_there_is_now():
    path = CHAPTERS / "ch00_foundations.py"
    stored = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    if stored.metadata.get("rlbook", {}).get("code_hash") != code_hash(read_script(path)):
        pytest.skip("Chapter 00's notebook is still to be executed (make notebooks).")
    outputs = [output for cell in stored.cells for output in cell.get("outputs", ())]
    shown = [output.data.get("text/markdown") for output in outputs if "data" in output]
    assert ch.map_as_text() in shown, (
        "A chapter came or went: python -m rlbook_utils.notebooks --force ch00_foundations"
    )


# Exercises


def test_the_first_exercise_knows_right_from_wrong(capsys):
    def said(answer):
        check("F2.1", answer)
        return capsys.readouterr().out

    assert said(ch.targets) == "F2.1: right.\n"

    def done(rewards, terminated, truncated, values, discount):
        return rewards + discount * ~(terminated | truncated) * values.max(1)

    def unmasked(rewards, terminated, truncated, values, discount):
        return rewards + discount * values.max(1)

    def batch(rewards, terminated, truncated, values, discount):
        return rewards + discount * ~terminated * values.max()

    def column(rewards, terminated, truncated, values, discount):
        return (rewards + discount * ~terminated * values.max(1))[:, None]

    for answer, hint in {
        done: "the clock", unmasked: "the world ended", batch: "row by row", column: "shape (1, 1)",
        lambda *_: 1 / 0: "raises ZeroDivisionError",
    }.items():  # fmt: skip
        told = said(answer)
        assert told.startswith("F2.1: not yet.") and hint in told, told


def test_no_exercise_needs_another_one():
    cells = jupytext.read(CHAPTERS / "ch00_foundations.py").cells
    begin = next(i for i, cell in enumerate(cells) if "## Exercises" in cell.source)
    code = lambda cells: [ast.parse(cell.source) for cell in cells if cell.cell_type == "code"]
    solutions = code(c for c in cells[begin:] if "hide-cell" in c.metadata.get("tags", []))
    assert len(solutions) == 5

    def names(tree, kind):
        found = {
            n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, kind)
        }
        return found | {n.name for n in tree.body if kind is ast.Store and hasattr(n, "name")}

    for one, other in itertools.permutations(solutions, 2):
        borrowed = (names(one, ast.Load) - names(one, ast.Store)) & names(other, ast.Store)
        assert not borrowed, borrowed


# Settings


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ch.GridConfig(epsilon=1.5), "GridConfig.epsilon is 1.5; it has to lie between 0.01 and 1.0."),
        (lambda: ch.DQNConfig(capacity=16, num_envs=32), "The replay holds 16 transitions, but a step makes 32."),
        (lambda: ch.DQNConfig(sync_every=0), "DQNConfig.sync_every is 0; it has to lie between 1 and 1000."),
        (lambda: ch.GradientConfig("rewards"), "The estimator is 'rewards'; it has to be one of "
            "whole return, reward-to-go, baseline."),
        (lambda: ch.VarianceConfig(4), "VarianceConfig.episodes is 4; it has to lie between 16 and 8192."),
        (lambda: ch.ActorCriticConfig(discount=1.0), "ActorCriticConfig.discount is 1.0; it has to lie between 0.5 and 0.999."),
    ],
)  # fmt: skip
def test_a_bad_setting_gets_one_clear_sentence(make, sentence):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == sentence
