"""Chapter 06, second half: memory, Gaussian policies, DDPG and TD3, against oracles and against chance."""

import copy
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import interpolate, stats

from rlbook_utils.checkpoint import load_checkpoint, save_checkpoint
from rlbook_utils.definitions import load_chapter
from rlbook_utils.replay import Experience, NStep
from rlbook_utils.rollout import Transition, episode_returns, make_vector

CHAPTERS = Path(__file__).parents[1] / "chapters"
ch = load_chapter("ch06_policy_optimisation")


def last(progresses):
    *_, progress = progresses
    return progress


# Bodies


def test_every_body_is_there_with_an_action_for_each_motor():
    for env_id in ch.BODIES:
        env = gym.make(env_id)
        policy = ch.random_torques(env, seed=0)
        obs, _ = env.reset(seed=0)
        assert env.action_space.contains(policy(obs))
        env.step(policy(obs))
        env.close()


@pytest.mark.slow
def test_without_a_renderer_one_line_names_the_package_and_the_chapter_goes_on(tmp_path):
    """The cells tagged P1, run where MuJoCo finds no way to draw."""
    path = CHAPTERS / "ch06_policy_optimisation.py"
    code = f"""
import jupytext, matplotlib
matplotlib.use("agg")
from rlbook_utils.definitions import load_chapter
chapter = load_chapter("ch06_policy_optimisation")
names = {{name: getattr(chapter, name) for name in dir(chapter)}}
for cell in jupytext.read({str(path)!r}).cells:
    if "P1" in cell.metadata.get("tags", []):
        exec(cell.source, names)
print("went on")
"""
    env = {**os.environ, "MUJOCO_GL": "egl", "PYOPENGL_PLATFORM": "egl", "RLBOOK_BUDGET": "smoke",
           "EGL_PLATFORM": "none", "__EGL_VENDOR_LIBRARY_DIRS": str(tmp_path)}  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd=CHAPTERS
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "went on"
    assert run.stdout.count("libosmesa6") == 2, run.stdout  # the gallery and the arm, once each


# Memory


def lstm_oracle(net, obs, starts, memory):
    """The LSTM one step after the other, from PyTorch's cell."""
    cell = torch.nn.LSTMCell(net.lstm.input_size, net.lstm.hidden_size)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        setattr(cell, name, torch.nn.Parameter(getattr(net.lstm, f"{name}_l0").detach().clone()))
    h, c = memory[:, 0], memory[:, 1]
    outputs = []
    for now, start in zip(obs, starts, strict=True):
        for n in torch.nonzero(start).flatten():
            h, c = h.clone(), c.clone()
            h[n], c[n] = 0, 0
        h, c = cell(net.encoder(now), (h, c))
        outputs.append(h)
    return torch.stack(outputs), torch.stack([h, c], 1)


@pytest.mark.parametrize("chance", [0.0, 0.05, 0.5, 1.0])
def test_the_cut_sequence_equals_a_step_by_step_unroll(chance):
    torch.manual_seed(0)
    net = ch.LSTMNet(2, 2, 16)
    obs, starts = torch.randn(12, 5, 2), torch.rand(12, 5) < chance
    memory = torch.randn(5, 2, 16)
    outputs, after = net.remember(obs, starts, memory)
    wanted, wanted_after = lstm_oracle(net, obs, starts, memory)
    torch.testing.assert_close(outputs, wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(after, wanted_after, atol=1e-5, rtol=1e-4)
    weights = torch.randn_like(outputs)
    slopes = torch.autograd.grad((outputs * weights).sum(), net.encoder.parameters())
    oracle = torch.autograd.grad((wanted * weights).sum(), net.encoder.parameters())
    for found, right in zip(slopes, oracle, strict=True):
        torch.testing.assert_close(found, right, atol=1e-4, rtol=1e-3)
    if 0 < chance < 1:  # planted: a sequence that never forgets is another one
        forgetful = net.remember(obs, torch.zeros_like(starts), memory)[0]
        assert (forgetful - wanted).abs().max() > 0.01


def test_stacked_frames_are_the_last_of_their_own_episode():
    torch.manual_seed(0)
    net = ch.StackNet(2, 2, frames=3)
    obs, starts = torch.randn(10, 4, 2), torch.rand(10, 4) < 0.3
    starts[0] = True
    policy, values, memory = net(obs, starts, net.blank(4, "cpu"))
    for n in range(4):
        first = 0
        for t in range(10):
            first = t if starts[t, n] else first
            stack = torch.cat([obs[max(t - back, first), n] for back in (2, 1, 0)])
            wanted_policy, wanted_value = net.net(stack)
            torch.testing.assert_close(policy.logits[t, n], wanted_policy.logits)
            torch.testing.assert_close(values[t, n], wanted_value)
        torch.testing.assert_close(memory[n].flatten(), stack)


def short_poles(num_envs, steps):
    """Native CartPoles that the clock stops early."""
    native = {"vectorization_mode": "vector_entry_point", "max_episode_steps": steps}
    return gym.make_vec("CartPole-v1", num_envs, **native)


@pytest.mark.parametrize("memory", ["lstm", 4])
def test_learning_sees_what_playing_saw(memory):
    """Before the first gradient step every ratio is 1, in the first rollout and in later ones."""
    torch.manual_seed(0)
    net = ch.make_memory_net(ch.MemoryConfig(memory=memory))
    heads = net.heads if memory == "lstm" else net.net.policy[-1]
    heads.weight.data *= 50  # a policy with opinions
    collector = ch.MemoryCollector(short_poles(8, 30), net, 0, 1.0)
    for rollout in [collector.collect(25) for _ in range(3)]:
        seen = lambda r: net(r.steps.obs, r.starts, r.memory)[0].log_prob(r.steps.actions)
        ratio = (seen(rollout) - rollout.steps.log_probs).exp()
        torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-5, rtol=0)
    assert rollout.starts.any() and (~rollout.valid).any()
    for spoiled in ch.SPOILED.values():  # planted: both faults are seen
        assert (seen(spoiled(rollout)) - rollout.steps.log_probs).abs().max() > 1e-3


def test_the_clock_is_bootstrapped_with_the_memory_of_its_own_episode():
    torch.manual_seed(0)
    net = ch.LSTMNet(2, 2, 16)
    torch.nn.init.normal_(net.heads.weight)
    envs = short_poles(6, 9)  # too short to fall
    collector = ch.MemoryCollector(envs, net, 3, 1.0)
    rollout = collector.collect(9)  # the last step of every episode is the last of the rollout
    assert rollout.steps.done[-1].all() and not rollout.steps.terminated.any()
    envs = short_poles(6, 9)
    obs, _ = envs.reset(seed=3)
    seen = [obs]
    for actions in rollout.steps.actions.numpy():
        seen.append(envs.step(actions)[0])
    seen = torch.as_tensor(ch.positions(np.stack(seen)), dtype=torch.float32)
    starts = torch.zeros(10, 6, dtype=torch.bool)
    starts[0] = True
    _, values, _ = net(seen, starts, net.blank(6, "cpu"))
    torch.testing.assert_close(rollout.steps.next_values, values[1:], atol=1e-5, rtol=1e-4)
    longer = ch.MemoryCollector(short_poles(6, 9), net, 3, 1.0)  # and in the middle of a rollout
    torch.manual_seed(0)
    rollout = longer.collect(30)
    t, n = torch.nonzero(rollout.steps.done[:-1]).T
    assert not rollout.valid[t + 1, n].any() and not rollout.starts[t + 1, n].any()
    torch.testing.assert_close(rollout.steps.next_values[t, n], rollout.steps.values[t + 1, n])


@pytest.mark.parametrize("memory", ["lstm", 4])
def test_an_update_begins_at_a_ratio_of_1(memory):
    """With a learning rate of 0 the policy stays the one that played, from the memory it played with."""
    torch.manual_seed(0)
    config = ch.MemoryConfig(num_envs=8, horizon=32, minibatch=128, epochs=2, memory=memory)
    net = ch.make_memory_net(config)
    heads = net.heads if memory == "lstm" else net.net.policy[-1]
    heads.weight.data *= 200
    collector = ch.MemoryCollector(short_poles(8, 25), net, 0, 1.0)
    rollouts = [collector.collect(32) for _ in range(3)]
    still = torch.optim.SGD(net.parameters(), 0.0)
    for rollout in rollouts:
        assert abs(ch.memory_update(net, still, rollout, config, 1.0)["approx_kl"]) < 1e-6
    lost = rollouts[1]._replace(memory=torch.zeros_like(rollouts[1].memory))  # planted
    assert ch.memory_update(net, still, lost, config, 1.0)["approx_kl"] > 1e-5


def test_rows_without_a_decision_do_not_enter_the_loss():
    torch.manual_seed(0)
    config = ch.MemoryConfig(num_envs=8, horizon=32, minibatch=256, epochs=1)
    net = ch.make_memory_net(config)
    rollout = ch.MemoryCollector(short_poles(8, 10), net, 0, 1.0).collect(32)
    assert (~rollout.valid).any()

    def after(rollout):
        copied = copy.deepcopy(net)
        torch.manual_seed(1)
        ch.memory_update(copied, torch.optim.SGD(copied.parameters(), 0.1), rollout, config, 1.0)
        return torch.cat([p.flatten() for p in copied.parameters()])

    noise = torch.where(rollout.valid, 0.0, 100.0)
    spoiled = rollout.steps._replace(log_probs=rollout.steps.log_probs + noise)
    torch.testing.assert_close(after(rollout), after(rollout._replace(steps=spoiled)))


@pytest.mark.slow
def test_memory_tells_what_one_look_cannot():
    """Three seeds, a small budget: with memory well ahead of without."""

    def score(memory, seed):
        config = ch.MemoryConfig(steps=49_152, memory=memory)
        net = ch.memory_net_of(config, last(ch.train_memory(config, seed)).state()["net"])
        return episode_returns(ch.remembering_policy(net), "CartPole-v1", 50, 7).mean()

    found = {memory: [score(memory, seed) for seed in (1, 2, 3)] for memory in (1, "lstm")}
    assert max(found[1]) < 80 and min(found["lstm"]) > 110, found


# Gaussian policies


def test_a_gaussian_log_probability_is_a_sum_over_torques():
    torch.manual_seed(0)
    net = ch.GaussianNet(5, 3)
    net.log_std.data = torch.tensor([-1.0, 0.2, 0.5])
    obs, actions = torch.randn(7, 5), torch.randn(7, 3)
    policy, values = net(obs)
    mean = net.policy(net.normalise(obs)).detach().numpy()
    each = stats.norm(mean, net.log_std.exp().detach().numpy())
    assert policy.log_prob(actions).shape == values.shape == (7,)
    np.testing.assert_allclose(
        policy.log_prob(actions).detach(), each.logpdf(actions).sum(1), rtol=1e-4
    )
    np.testing.assert_allclose(policy.entropy().detach(), each.entropy().sum(1), rtol=1e-5)


def test_the_normaliser_knows_the_mean_and_deviation_of_all_it_saw():
    rng = np.random.default_rng(0)
    batches = [rng.normal(3, [1, 10, 0.1], (t, 4, 3)) for t in (5, 20, 64)]
    normaliser = ch.Normaliser(3)
    for batch in batches:
        normaliser.show(torch.as_tensor(batch, dtype=torch.float32))
    everything = np.concatenate([batch.reshape(-1, 3) for batch in batches])
    fresh = rng.normal(3, 1, (6, 3)).astype(np.float32)
    wanted = ((fresh - everything.mean(0)) / everything.std(0)).clip(-10, 10)
    np.testing.assert_allclose(normaliser(torch.from_numpy(fresh)), wanted, rtol=1e-3, atol=1e-4)
    other = ch.Normaliser(3)
    other.load_state_dict(normaliser.state_dict())  # saved with the network
    np.testing.assert_array_equal(
        other(torch.from_numpy(fresh)), normaliser(torch.from_numpy(fresh))
    )


class Ranges(gym.vector.VectorWrapper):
    """Remembers the largest action that reached the body."""

    largest = 0.0

    def step(self, actions):
        self.largest = max(self.largest, np.abs(actions).max())
        return super().step(actions)


def test_the_body_gets_clipped_actions_and_the_rollout_those_that_were_drawn():
    torch.manual_seed(0)
    config = ch.BodyConfig(num_envs=2, workers=1, log_std=1.0)
    envs = Ranges(ch.make_envs(config))
    net = ch.make_gaussian_net(config, envs)
    collector = ch.BodyCollector(envs, net, 0, 1.0)
    still = torch.optim.SGD(net.parameters(), 0.0)
    for shown in range(3):
        assert net.normalise.count == 40 * shown
        rollout = collector.collect(20)
        assert rollout.actions.abs().max() > 2 and envs.largest <= 1
        policy, values = net(rollout.obs)  # the statistics stand still until the next rollout
        torch.testing.assert_close(policy.log_prob(rollout.actions), rollout.log_probs)
        torch.testing.assert_close(values, rollout.values)
        assert abs(ch.body_update(net, still, rollout, config, 1.0)["approx_kl"]) < 1e-6
    moved = net(rollout.obs)[0].log_prob(rollout.actions) - rollout.log_probs
    assert moved.abs().max() > 1e-3  # renewed before the update, the ratios would not be 1
    envs.close()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_gaussian_policy_learns_to_balance(seed):
    """Doing nothing lasts 25 decisions, the best of some linear controllers of the angle 188."""
    config = ch.BodyConfig("InvertedPendulum-v5", steps=32_768, num_envs=8, workers=1)
    net = ch.body_net_of(config, last(ch.train_body(config, seed)).state()["net"])
    assert episode_returns(ch.mean_policy(net), config.env_id, 10, 7).mean() > 188 + 300


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_body_learns_to_run_in_the_right_direction(seed):
    """Random torques lose 300, standing still gets 0."""
    config = ch.BodyConfig(steps=81_920, workers=1)
    net = ch.body_net_of(config, last(ch.train_body(config, seed)).state()["net"])
    assert episode_returns(ch.mean_policy(net), config.env_id, 4, 7).mean() > 300


# DDPG and TD3


def test_the_pendulum_in_arrays_is_gymnasiums():
    env = gym.make("Pendulum-v1")
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(200):
        angle, speed = env.unwrapped.state
        angle = (angle + np.pi) % (2 * np.pi) - np.pi
        torque = rng.uniform(-2, 2, 1).astype(np.float32)
        obs, reward, *_ = env.step(torque)
        angle, speed, found = ch.pendulum_step(np.array([angle]), np.array([speed]), torque)
        assert found[0] == pytest.approx(reward, abs=1e-6)
        np.testing.assert_allclose([np.cos(angle[0]), np.sin(angle[0]), speed[0]], obs, atol=1e-5)


def test_the_exact_value_is_what_its_own_policy_gets_and_more_than_others_get():
    grid, rng = ch.PendulumGrid.of(121), np.random.default_rng(0)
    exact = ch.exact_pendulum(grid, 0.98)
    around = np.append(grid.angles, np.pi), grid.speeds
    between = interpolate.RegularGridInterpolator(around, np.vstack([exact, exact[:1]]))
    value_at = lambda angle, speed: between(np.stack([angle, speed], -1))
    starts = rng.uniform(-np.pi, np.pi, 400), rng.uniform(-8, 8, 400)
    torques = np.linspace(-2, 2, 9)

    def best(angle, speed):
        after = [ch.pendulum_step(angle, speed, u) for u in torques]
        return torques[np.argmax([r + 0.98 * value_at(a, s) for a, s, r in after], 0)]

    def excess(policy):
        """What following a policy for 300 steps brings, minus the exact value: [400]."""
        total, (a, s) = 0, starts
        for t in range(300):
            a, s, reward = ch.pendulum_step(a, s, policy(a, s))
            total = total + 0.98**t * reward
        return total - value_at(*starts)

    assert abs(excess(best).mean()) < 0.8 and np.abs(excess(best)).mean() < 3
    for policy in (lambda a, s: 0 * a, lambda a, s: rng.uniform(-2, 2, a.shape)):
        assert excess(policy).mean() < -30 and np.quantile(excess(policy), 0.95) < 1


def some_batch(size=32, seed=0):
    rng = np.random.default_rng(seed)
    number = lambda *shape: torch.as_tensor(rng.standard_normal(shape), dtype=torch.float32)
    discounts = 0.98 * (number(size) > 0)
    return Experience(
        number(size, 3), number(size, 1).tanh(), number(size), discounts, number(size, 3)
    )


def some_agent(config, seed=0):
    return ch.make_continuous(config, make_vector("Pendulum-v1", 1), seed, "cpu")


def test_ddpg_targets_against_a_slow_loop():
    agent, batch = some_agent(ch.DDPGConfig()), some_batch()
    targets = ch.ddpg_targets(agent, batch)
    for i in range(32):
        action = torch.tanh(agent.target_actor[0](batch.next_obs[i]))
        value = agent.target_critics[0](torch.cat([batch.next_obs[i], action])).item()
        wanted = batch.rewards[i].item() + batch.discounts[i].item() * value
        assert targets[i].item() == pytest.approx(wanted, abs=1e-5)
    assert not targets.requires_grad


def test_td3_targets_take_the_smaller_opinion_of_a_blurred_action():
    agent, batch = some_agent(ch.TD3Config()), some_batch()
    targets = ch.td3_targets(agent, batch, smoothing=0.0)
    action = agent.target_actor(batch.next_obs)
    both = torch.stack([ch.q_value(c, batch.next_obs, action) for c in agent.target_critics])
    torch.testing.assert_close(targets, batch.rewards + batch.discounts * both.min(0).values)
    assert (both[0] - both[1]).abs().mean() > 1e-3  # twins, not clones

    asked = []
    recorder = lambda critic, inputs: asked.append(inputs[0][:, 3:])
    for critic in agent.target_critics:
        critic.register_forward_pre_hook(recorder)
    torch.manual_seed(0)
    ch.td3_targets(agent, batch, smoothing=0.4)
    torch.testing.assert_close(asked[0], asked[1])  # both judge the same action
    moved = (asked[0] - action).abs()
    assert moved.max() <= 0.5 + 1e-6 and asked[0].abs().max() <= 1 and moved.std() > 0.1


def test_the_actor_climbs_the_critic_by_the_chain_rule():
    """The deterministic policy gradient against finite differences."""
    agent, batch = some_agent(ch.DDPGConfig()), some_batch()
    agent.actor.double(), agent.critics.double()
    batch = Experience(*(column.double() for column in batch))
    weight = agent.actor[0][-1].weight
    (slope,) = torch.autograd.grad(ch.actor_loss(agent, batch), weight)
    for j in (0, 17, 63):
        found = []
        for nudge in (1e-5, -1e-5):
            with torch.no_grad():
                weight[0, j] += nudge
                found.append(ch.actor_loss(agent, batch).item())
                weight[0, j] -= nudge
        assert slope[0, j].item() == pytest.approx((found[0] - found[1]) / 2e-5, rel=1e-4, abs=1e-9)


def parameters_of(net):
    return torch.cat([p.detach().flatten().clone() for p in net.parameters()])


def test_followers_follow_in_place_and_td3_waits_for_its_turn():
    config = ch.TD3Config(follow=0.1)
    agent, batch = some_agent(config), some_batch()
    before, target = parameters_of(agent.actor), parameters_of(agent.target_critics)
    target_actor = parameters_of(agent.target_actor)
    ch.td3_update(agent, batch, config, count=1)
    assert torch.equal(parameters_of(agent.actor), before)
    assert torch.equal(parameters_of(agent.target_critics), target)
    ch.td3_update(agent, batch, config, count=2)
    assert not torch.equal(parameters_of(agent.actor), before)
    wanted = target + 0.1 * (parameters_of(agent.critics) - target)
    torch.testing.assert_close(parameters_of(agent.target_critics), wanted)
    wanted = target_actor + 0.1 * (parameters_of(agent.actor) - target_actor)
    torch.testing.assert_close(parameters_of(agent.target_actor), wanted)


def test_the_actors_step_goes_uphill_and_leaves_the_critic_alone():
    agent, batch = some_agent(ch.DDPGConfig()), some_batch()
    opinion = lambda: ch.q_value(agent.critics[0], batch.obs, agent.actor(batch.obs)).mean().item()
    before, critic = opinion(), parameters_of(agent.critics)
    for _ in range(5):
        ch.descend(agent.actor_optimiser, ch.actor_loss(agent, batch))
    assert torch.equal(parameters_of(agent.critics), critic) and opinion() > before + 1e-4


def test_the_clock_bootstraps_and_the_end_of_the_world_does_not():
    flags = np.array([True, False, False]), np.array([False, True, False])
    ones = np.ones((3, 1), np.float32)
    step = Transition(ones, 2 * ones, ones[:, 0], 5 * ones, *flags, np.ones(3, bool))
    rows = ch.experience_of(NStep(1, 0.98), step, largest=2.0)
    np.testing.assert_allclose(rows.discounts, [0, 0.98, 0.98], rtol=1e-6)
    np.testing.assert_allclose(rows.actions, 1)  # shares of the largest action
    assert all(column.dtype == np.float32 for column in rows)


def test_the_replay_holds_no_reset_rows_and_no_pair_across_episodes():
    progress = next(iter(ch.train_ddpg(ch.DDPGConfig(steps=1000), 0)))
    rows = Experience(**progress.state()["replay"])
    angle, speed = np.arctan2(rows.obs[:, 1], rows.obs[:, 0]), rows.obs[:, 2]
    angle, speed, reward = ch.pendulum_step(angle, speed, 2 * rows.actions[:, 0])
    np.testing.assert_allclose(rows.next_obs[:, 2], speed, atol=1e-4)
    np.testing.assert_allclose(rows.rewards, reward, atol=1e-3)
    assert (rows.discounts > 0).all()


@pytest.mark.parametrize("train, config", [
    (lambda *a: ch.train_ddpg(*a), lambda: ch.DDPGConfig(steps=3000, warm_up=1900, batch_size=8, hidden=8)),
    (lambda *a: ch.train_td3(*a), lambda: ch.TD3Config(steps=3000, warm_up=1900, batch_size=8, hidden=8)),
    (lambda *a: ch.train_memory(*a), lambda: ch.MemoryConfig(steps=12_288)),
    (lambda *a: ch.train_body(*a), lambda: ch.BodyConfig(steps=4096 * 3, workers=1, horizon=256, epochs=1)),
])  # fmt: skip
def test_a_run_stops_anywhere_and_goes_on(train, config, tmp_path):
    config, path = config(), tmp_path / "run.safetensors"
    progress = last(islice(train(config, 1), 2))
    save_checkpoint(path, progress.state(), config=config, seed=1)
    state = load_checkpoint(path, config, 1)["state"]
    following = next(iter(train(config, 1, state)))
    assert following.step > progress.step and set(following.metrics) == set(progress.metrics)
    finished = last(train(config, 1, state))
    assert finished.step >= config.steps
    again = last(train(config, 1, finished.state()))  # nothing left to do
    assert again.step == finished.step and again.metrics == finished.metrics


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", ["ddpg", "td3"])
def test_the_pendulum_swings_up(name, seed):
    """Hanging still gets -1,200, random torques -1,230; a constant torque or pumping with the speed get less."""
    train, make = {"ddpg": (ch.train_ddpg, ch.DDPGConfig), "td3": (ch.train_td3, ch.TD3Config)}[
        name
    ]
    weights = last(train(make(steps=4000), seed)).state()["agent"][0]
    policy = ch.actor_policy(ch.actor_of(weights), "Pendulum-v1")
    assert episode_returns(policy, "Pendulum-v1", 20, 7).mean() > -1200 + 700
