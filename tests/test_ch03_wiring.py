"""Chapter 03's training loops, whole, in a small world with the emulators' interface: what reaches the optimiser, and when."""

import copy
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from scipy.stats import chisquare
from torch import nn

from rlbook_utils import results
from rlbook_utils.checkpoint import load_checkpoint
from rlbook_utils.definitions import ROOT, load_chapter
from rlbook_utils.rollout import spread

ch = load_chapter("ch03_curiosity")


class Stairs(VectorEnv):
    """A way of 40 places behind ``MarioEnvs``' interface; how to get on is to be read from the picture.

    Every place has a picture of its own, bright on its left or on its right half. Bright on the left: the first six
    actions lead to the next place; on the right: the other six. A wrong action leaves everything as it is, and the
    third in a row ends the episode. A player that does not look passes a place with chance 7/8 at best, and so comes
    7 places far on average.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012
    PLACES = 40

    def __init__(self, num_envs: int, *_: object, **__: object) -> None:
        self.num_envs, self.single_action_space = num_envs, Discrete(12)
        rng = np.random.default_rng(0)
        self.right = rng.permutation(np.arange(self.PLACES) % 2).astype(bool)  # [places]
        side = (np.arange(42) >= 21) == self.right[:, None]  # [places, 42]
        textures = rng.integers(100, size=(self.PLACES, 42, 42))
        self.pictures = (textures + 150 * side[:, None]).astype(np.uint8)

    def reset(self, *, seed=None, options=None):
        self.x, self.failed = np.zeros((2, self.num_envs), int)
        self.furthest = self.x.copy()
        self.obs = np.repeat(self.pictures[self.x][:, None], 3, axis=1)  # [N, 3, 42, 42]
        return self.obs.copy(), {}

    def step(self, actions):
        on = ((actions >= 6) == self.right[self.x]) & (actions >= 0)
        self.x = self.x + on
        self.furthest, self.failed = self.x.copy(), np.where(on, 0, self.failed + 1)
        terminated, truncated = self.x == self.PLACES - 1, self.failed == 3
        self.obs = np.concatenate([self.obs[:, 1:], self.pictures[self.x][:, None]], axis=1)
        final, done = np.full(self.num_envs, None, object), terminated | truncated
        for n in np.flatnonzero(done):
            final[n] = self.obs[n].copy()
        self.x, self.failed = np.where(done, 0, self.x), np.where(done, 0, self.failed)
        self.obs[done] = self.pictures[0]
        return self.obs.copy(), on.astype(float), terminated, truncated, {"final_obs": final}


class Screens:
    """One such way behind ``MarioEnv``'s interface: whole screens, one action at a time."""

    def __init__(self, **_: object) -> None:
        self.world = Stairs(1)

    def screen(self, picture):
        field = np.zeros((240, 256, 3), np.uint8)
        field[30:, 2:254] = np.kron(picture, np.ones((5, 6), int))[..., None]
        return field

    def reset(self, *, seed=None):
        return self.screen(self.world.reset()[0][0, -1]), {"furthest": 0, "x_pos": 0}

    def step(self, action):
        obs, rewards, terminated, truncated, info = self.world.step(np.array([action]))
        if terminated[0] or truncated[0]:
            obs = np.stack(info["final_obs"])
        x = int(self.world.furthest[0])
        info = {"furthest": x, "x_pos": x}
        return self.screen(obs[0, -1]), rewards[0], bool(terminated[0]), bool(truncated[0]), info

    def close(self) -> None:
        pass


@pytest.fixture
def stairs(monkeypatch):
    """Mario's agents play ``Stairs``."""
    for name, world in {"MarioEnvs": Stairs, "MarioEnv": Screens}.items():
        monkeypatch.setattr(ch, name, world)


SMALL = ch.CuriousConfig(steps=256, num_envs=4, horizon=32, warm_up=1)


def collected(steps=12, envs=4, seed=0):
    """A network that has seen its world, and a rollout of its own: [12, 4] steps with ends among them."""
    torch.manual_seed(seed)
    net = ch.CuriousNet(ch.make_icm())
    collector = ch.MarioCollector(Stairs(envs), net, seed, [])
    net.pixels.show(collector.collect(steps).obs.flatten(2))
    rollout = collector.collect(steps)
    assert rollout.done.any() and not rollout.terminated.any()
    return net, rollout


# The stand-in


def test_who_does_not_look_comes_seven_places_far_and_who_looks_to_the_end(stairs):
    rng = np.random.default_rng(0)
    blind = ch.furthest_reached(lambda obs: rng.integers(12, size=len(obs)), 400, seed=0)
    assert abs(blind.mean() - 7) < 1  # 7.0 +- 0.4
    looks = lambda obs: np.where(obs[:, -1, :, 21:].mean((1, 2)) > 124, 6, 0)
    assert (ch.furthest_reached(looks, 5, seed=0) == 39).all()
    picture = Stairs(1).pictures[3]
    np.testing.assert_array_equal(ch.shrink(Screens().screen(picture)[None])[0], picture)


# Mario's headline, learned


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_paid_by_surprise_alone_the_agent_of_the_headline_learns_to_look(stairs, seed):
    config = ch.CuriousConfig(
        steps=2560, horizon=16, warm_up=1, learning_rate=2e-3, discount=0.5, lam=0.5, entropy=0.0
    )
    assert (config.curiosity, config.intrinsic, config.extrinsic) == ("ICM", 1.0, 0.0)
    *_, last = ch.train_curious(config, seed)
    net = ch.curious_net_of(last.state()["net"])
    reach = ch.score(ch.POLICIES.sampled(net), seed, episodes=50)
    assert reach.mean() > 14, reach  # blind: 7


# What reaches the optimiser, and when


def test_the_policy_is_paid_the_surprise_in_units_of_its_own_deviation(monkeypatch):
    net, rollout = collected()
    surprise, gamma, lam = torch.rand(11, 4), 0.9, 0.8
    found = []
    monkeypatch.setattr(ch, "improve_curiosity", lambda *_: {})
    monkeypatch.setattr(ch, "improve_policy", lambda *given: found.append(given[3]) or {})
    config = ch.CuriousConfig(discount=gamma, lam=lam, warm_up=1)
    for paid in (surprise, 1e-3 * surprise):
        monkeypatch.setattr(ch, "surprises", lambda *_, paid=paid: paid)
        fresh, sums = copy.deepcopy(net), torch.zeros(2, 4, dtype=torch.float64)
        ch.learn_from(rollout, fresh, ch.adam_for(fresh, config), sums, config, steps=1024)
    running, seen = np.zeros(4), []
    for row in surprise.numpy():
        running = gamma * running + row
        seen.append(running)
    rewards, values = surprise.numpy() / np.std(seen), rollout.values[..., 0].numpy()
    expected, later = np.zeros((11, 4)), np.zeros(4)
    for t in reversed(range(11)):
        later = rewards[t] + gamma * values[t + 1] - values[t] + gamma * lam * later
        expected[t] = later
    for advantages in found:
        np.testing.assert_allclose(advantages, expected, rtol=1e-3, atol=1e-4)
    assert len(found) == 2


def test_in_a_whole_update_the_forward_loss_does_not_touch_the_encoder(monkeypatch):
    """Plain gradient descent, so that a share of the gradient cannot hide in Adam's division."""
    net, rollout = collected()
    config, after, losses = ch.CuriousConfig(minibatch=16), {}, ch.ICM.losses
    for weight in (0.0, 1.0, 100.0):

        def weighed(*given, weight=weight):
            found = losses(*given)
            return found | {"forward": weight * found["forward"]}

        monkeypatch.setattr(ch.ICM, "losses", weighed)
        twin = copy.deepcopy(net)
        torch.manual_seed(0)
        ch.improve_curiosity(twin, torch.optim.SGD(twin.parameters(), 0.1), rollout, config)
        after[weight] = twin.curiosity
    for part in ("encoder", "inverse_model"):
        ways = [list(getattr(after[weight], part).parameters()) for weight in after]
        for unpaid, paid, overpaid, before in zip(
            *ways, getattr(net.curiosity, part).parameters(), strict=True
        ):
            assert torch.equal(unpaid, paid) and torch.equal(unpaid, overpaid), part
            assert not torch.equal(unpaid, before), part
    weights = [after[weight].forward_model.layers[0].weight for weight in (0.0, 1.0)]
    assert not torch.equal(*weights)


def test_every_row_of_a_rollout_is_seen_exactly_epochs_times_with_its_own_columns(monkeypatch):
    net, rollout = collected()
    marks = torch.arange(48.0).view(12, 4)
    seen = []

    def note(log_probs, entropies, values, old_log_probs, advantages, returns, *_):
        rows = old_log_probs.long()
        torch.testing.assert_close(
            log_probs, rollout.log_probs.flatten()[rows], atol=1e-4, rtol=1e-3
        )
        torch.testing.assert_close(values, rollout.values.flatten(0, 1)[rows], atol=1e-4, rtol=1e-3)
        assert torch.equal(advantages, rows + 100.0) and torch.equal(returns[:, 1], rows - 1.0)
        seen.extend(rows.tolist())
        return 0 * values.sum(), {"nothing": torch.zeros(())}

    monkeypatch.setattr(ch.POLICIES, "ppo_loss", note)
    config = ch.CuriousConfig(epochs=3, minibatch=16)
    returns = torch.stack([marks, marks - 1], -1)[:-1]
    optimiser = torch.optim.SGD(net.parameters(), lr=0.0)
    ch.improve_policy(
        net, optimiser, rollout._replace(log_probs=marks), marks[:-1] + 100, returns, config
    )
    assert Counter(seen) == dict.fromkeys(
        range(44), 3
    )  # the last of 12 rows only closes the others


def test_the_curiosity_sees_each_step_that_goes_on_once(monkeypatch):
    net, rollout = collected()
    seen, losses = [], ch.ICM.losses
    monkeypatch.setattr(
        ch.ICM, "losses", lambda icm, *batch: seen.append(batch) or losses(icm, *batch)
    )
    ch.improve_curiosity(net, ch.adam_for(net, SMALL), rollout, ch.CuriousConfig(minibatch=16))
    obs, actions, next_obs = (torch.cat(column) for column in zip(*seen, strict=True))
    view = net.view(rollout.obs.flatten(0, 1)).view_as(rollout.obs)
    key = lambda a, action, b: (round(a.sum().item(), 1), int(action), round(b.sum().item(), 1))
    expected = [
        key(view[t, n], rollout.actions[t, n], view[t + 1, n])
        for t, n in np.ndindex(11, 4)
        if not rollout.done[t, n]
    ]
    assert sorted(map(key, obs, actions, next_obs)) == sorted(expected)


def test_the_policys_rate_waits_then_falls_and_the_curiositys_stays(stairs, monkeypatch):
    rates = []

    def note(net, optimiser, *_):
        rates.append([group["lr"] for group in optimiser.param_groups])
        return {}

    monkeypatch.setattr(ch, "improve_policy", note)
    monkeypatch.setattr(ch, "improve_curiosity", lambda *_: {})
    config = ch.CuriousConfig(steps=320, num_envs=4, horizon=16, warm_up=2)
    list(ch.train_curious(config, seed=1))
    policy, curiosity = np.transpose(rates)
    np.testing.assert_allclose(policy, 2.5e-4 * np.array([0, 0, 0.6, 0.4, 0.2]))
    np.testing.assert_allclose(curiosity, 5e-4)


def test_who_plays_is_one_update_behind(stairs, monkeypatch):
    """While update k runs, the network from before it plays; it never stays further behind, and never is ahead."""
    players, updates = [], []

    class Collector(ch.MarioCollector):
        def collect(self, steps):
            players.append(self.net.policy.bias[0].item())
            return super().collect(steps)

    def improve(net, *_):
        updates.append(1)
        nn.init.constant_(net.policy.bias, len(updates))  # the number of updates so far
        return {}

    monkeypatch.setattr(ch, "MarioCollector", Collector)
    monkeypatch.setattr(ch, "improve_policy", improve)
    monkeypatch.setattr(ch, "improve_curiosity", lambda *_: {})
    list(ch.train_curious(ch.CuriousConfig(steps=320, num_envs=4, horizon=16), seed=1))
    assert players == [0, 0, 1, 2, 3]


# The DQN


def test_the_dqn_acts_at_random_then_by_softmax_then_greedily():
    config = ch.CuriousDQNConfig(steps=1024, warm_up=128, temperature=0.5, epsilon=0.6)
    learner, obs = ch.CuriousLearner(config, 0, 0, "cpu"), np.zeros((6000, 3, 1, 1), np.uint8)
    q = torch.linspace(0, 1.1, 12)

    class Fixed(nn.Linear):
        def forward(self, obs):
            return q.expand(len(obs), -1)

    learner.net = Fixed(1, 1)
    softmax = np.exp(q.numpy() / 0.5) / np.exp(q.numpy() / 0.5).sum()
    greedy = np.full(12, 0.05) + 0.4 * np.eye(12)[11]
    for steps, expected in (
        (127, np.full(12, 1 / 12)),
        (128, softmax),
        (511, softmax),
        (512, greedy),
    ):
        learner.steps = steps
        shares = np.bincount(learner.act(obs), minlength=12) / len(obs)
        np.testing.assert_allclose(shares, expected, atol=0.02)


def test_the_target_network_is_a_copy_after_each_interval_and_stays_in_between():
    rng = np.random.default_rng(0)
    config = ch.CuriousDQNConfig(batch_size=8, sync_every=3)
    learner = ch.CuriousLearner(config, 0, 0, "cpu")
    obs = rng.integers(256, size=(8, 3, 42, 42)).astype(np.uint8)
    learner.net.pixels.show(torch.from_numpy(obs).float().flatten(1))
    ones = np.ones(8, np.float32)
    learner.replay.add(ch.Experience(obs, rng.integers(12, size=8), ones, ones, obs))
    copies = []
    for _ in range(7):
        ch.curious_dqn_update(learner)
        pairs = zip(learner.net.parameters(), learner.target_net.parameters(), strict=True)
        copies.append(all(torch.equal(online, target) for online, target in pairs))
    assert copies == [True, False, False, True, False, False, True]


def test_the_sparse_dqn_copies_its_target_and_lets_its_rate_fall():
    rng, config = np.random.default_rng(0), ch.SparseConfig(steps=3200, sync_every=3)
    torch.manual_seed(0)
    net = ch.ram_net()
    dqn = ch.FOUNDATIONS.DQN(net, ch.ram_net(), torch.optim.Adam(net.parameters()))
    ram = rng.integers(256, size=(8, 128), dtype=np.uint8)
    ones = np.ones(8, np.float32)
    rows = ch.ram_batch(ch.Experience(ram, rng.integers(18, size=8), ones, ones, ram))
    state, copies, rates = {"env_steps": 0, "updates": 0}, [], []
    for _ in range(6):
        state["env_steps"] += 400
        ch.sparse_update(dqn, rows, config, state)
        copies.append(torch.equal(net[0].weight, dqn.target_net[0].weight))
        rates.append(dqn.optimiser.param_groups[0]["lr"])
    assert copies == [False, False, True, False, False, True]
    np.testing.assert_allclose(rates, 5e-4 * (1 - np.arange(1, 7) / 8))


def test_the_dqns_replay_holds_deaths_as_ends_and_cuts_as_none(stairs):
    config = ch.CuriousDQNConfig(steps=512, num_envs=4, warm_up=256, batch_size=8, updates=1)
    learner = ch.CuriousLearner(config, 0, 0, "cpu")
    envs = Stairs(4)
    looks = lambda obs: np.where(obs[:, -1, :, 21:].mean((1, 2)) > 124, 6, 0)
    steps = list(islice(ch.transitions(envs, looks, seed=0), 50))  # the flag, after 39 right steps
    blind = lambda obs: np.zeros(len(obs), int)
    steps += list(islice(ch.transitions(Stairs(4), blind, seed=0), 14))  # and being stuck
    n_step = ch.NStep(1, config.discount)
    ch.play_and_learn(learner, iter([*steps, *steps]), n_step, envs, [])
    rows = learner.replay.rows(np.arange(200))
    terminated = np.concatenate([step.terminated for step in steps])[:200]
    assert terminated.sum() == 4
    np.testing.assert_allclose(rows.discounts, np.where(terminated, 0, 0.9))


# What is measured


def test_the_coin_presses_only_right_and_each_of_the_four_alike():
    actions = np.concatenate([ch.coin_policy(seed)(np.zeros((2000, 1))) for seed in range(3)])
    assert [*ch.ACTIONS][1:5] == [*ch.COIN] and all("right" in name for name in ch.COIN)
    counts = np.bincount(actions, minlength=12)
    assert counts[1:5].sum() == len(actions) and chisquare(counts[1:5]).pvalue > 1e-3
    first, again, other = (ch.coin_policy(seed)(np.zeros((40, 1))) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


def test_ends_are_counted_behind_the_pipe_and_the_pit():
    reach = np.array([300, 736, 768, 769, 1136, 1137, 3161])
    assert ch.ends_of(reach, "x") == {
        "x_mean_reach": reach.mean(), "x_median_reach": 769, "x_best_reach": 3161,
        "x_past_third_pipe": 4 / 7, "x_past_first_pit": 2 / 7,
    }  # fmt: skip


def by_hand(policy, episodes):
    """Furthest place of each episode, and the actions until it ended."""
    world, over, reached, pressed = (
        Stairs(episodes),
        np.zeros(episodes, bool),
        np.zeros(episodes),
        [],
    )
    obs, _ = world.reset()
    while not over.all():
        actions = policy(obs)
        obs, _, terminated, truncated, _ = world.step(np.where(over, -1, actions))
        pressed.extend(actions[~over])
        reached = np.where(over, reached, world.furthest)
        over |= terminated | truncated
    return reached, np.array(pressed)


def small(config):
    """A measurement's config, cut to seconds."""
    if isinstance(config, ch.CoinConfig):
        return replace(config, episodes=12)
    if isinstance(config, ch.CuriousDQNConfig):
        return replace(config, steps=512, num_envs=4, warm_up=128, batch_size=8, updates=1)
    few = {"steps": 256, "num_envs": 4, "horizon": 32, "warm_up": 1}
    return replace(config, **few, epochs=1)


MARIO = [m for m in ch.MEASUREMENTS if m.row in ("C4", "C5", "C6", "C7")]


@pytest.mark.parametrize("measurement", MARIO, ids=[f"{m.row}-{m.name}" for m in MARIO])
def test_every_measurement_of_mario_runs_small(stairs, monkeypatch, measurement):
    monkeypatch.setattr(ch, "SCORING", 7)
    found = measurement.measure(small(measurement.config), 1)
    assert {metric.name for metric in measurement.metrics} <= set(found.metrics)
    assert all(np.isfinite(value) for value in found.metrics.values())
    assert set(found.baselines) <= set(found.metrics)
    if "mean_reach" in found.metrics:
        assert 0 <= found.metrics["mean_reach"] <= found.metrics["best_reach"] <= 39
    if "training_seconds" in found.metrics:
        lengths = {len(curve) for curve in found.curves.values()}
        assert (
            len(lengths) == 1 and found.curves["env_steps"][-1] == small(measurement.config).steps
        )
        assert found.metrics["training_seconds"] == found.curves["seconds"][-1] > 0
        assert found.metrics["best_training"] == max(found.curves["best"])
        assert 3 < found.baselines["mean_reach"] < 12  # 7 on average
    assert (found.state is not None) == (measurement.name == "icm")


def test_a_score_is_that_of_the_weights_that_are_kept(stairs):
    found = ch.measure_icm(SMALL, 1)
    policy = ch.POLICIES.sampled(ch.curious_net_of(found.state["net"]))
    torch.manual_seed(ch.SCORING + 1)
    reach, _ = by_hand(policy, 100)
    assert (
        found.metrics["mean_reach"] == reach.mean() and found.metrics["best_reach"] == reach.max()
    )
    assert found.metrics["median_reach"] == np.median(reach)
    assert len(found.state["clip"]) > 1000 and found.state["clip"].dtype == np.uint8


def test_the_coin_and_the_stored_agents_are_measured_over_whole_episodes(stairs):
    found = ch.measure_coin(ch.CoinConfig(episodes=20), 3)
    reach, _ = by_hand(ch.coin_policy(3), 20)
    np.testing.assert_array_equal(found.curves["reach"], reach)
    assert found.metrics == ch.ends_of(reach, "coin")
    found = ch.measure_replayed(ch.CuriousConfig(), 1)
    path = results.run_path("C5", "icm", 1).with_suffix(".safetensors")
    policy = ch.POLICIES.sampled(ch.curious_net_of(load_checkpoint(path)["state"]["net"]))
    torch.manual_seed(spread((ch.SCORING, 1), 1)[0])
    reach, pressed = by_hand(policy, 100)
    np.testing.assert_array_equal(found.curves["reach"], reach)
    assert found.metrics["replayed_right"] == np.isin(pressed, (1, 2, 3, 4)).mean()


@pytest.mark.slow
@pytest.mark.parametrize("game", ["boxing", "montezuma"])
def test_the_sparse_games_are_measured(monkeypatch, game):
    (measurement,) = (m for m in ch.MEASUREMENTS if m.name == game)
    played, points = [], ch.game_points

    def few(policy, env_id, games, seed, decisions=0):
        played.append((env_id, games, seed))
        return points(policy, env_id, 2, seed, 40)

    monkeypatch.setattr(ch, "game_points", few)
    config = replace(measurement.config, steps=800)
    found = measurement.measure(config, 3)
    assert set(found.metrics) == set(found.baselines) == {f"{game}_return"}
    assert played == [(config.env_id, 10, ch.SPARSE_SCORING + 3)] * 2
    rewards = [step.rewards for step in ch.play_at_random(config, 3)]
    np.testing.assert_allclose(found.curves["random_points"], [1000 * np.mean(rewards)])
    assert {len(found.curves[name]) for name in ("points", "loss", "value")} == {1}
    assert ("posts" in found.curves) == (game == "montezuma")


# A house with missing packages


@pytest.mark.slow
def test_the_chapter_lends_its_functions_without_packages_of_other_chapters():
    code = (
        "import sys\n"
        "for name in ('ray', 'stable_baselines3', 'gymnasium_robotics'): sys.modules[name] = None\n"
        "from rlbook_utils.definitions import load_chapter\n"
        "ch = load_chapter('ch03_curiosity')\n"
        "assert ch.train_curious and ch.MEASUREMENTS\n"
        "ch.CuriousNet(ch.make_icm()).pixels.show(__import__('torch').rand(4, 3 * 42 ** 2))\n"
        "print('lent')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "lent", done.stderr[-2000:]
