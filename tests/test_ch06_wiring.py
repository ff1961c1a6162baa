"""Chapter 06: what reaches the optimiser, the environments and the workers, seen by spies."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector
from torch.optim.optimizer import register_optimizer_step_pre_hook

from rlbook_utils.checkpoint import load_checkpoint, save_checkpoint
from rlbook_utils.definitions import load_chapter
from rlbook_utils.rollout import make_vector
from rlbook_utils.workers import WorkerDied

ch = load_chapter("ch06_policy_optimisation")


def last(progresses):
    *_, progress = progresses
    return progress


class Clockwork(gym.Env):
    """Every episode is the same: ``length`` steps, whatever the seed; only the reward depends on the action."""

    observation_space = gym.spaces.Box(-2, 2, (4,), np.float32)

    def __init__(self, length, motors=0):
        self.length = length
        box = gym.spaces.Box(-1, 1, (motors,), np.float32)
        self.action_space = box if motors else gym.spaces.Discrete(2)

    def obs(self):
        phase = 2 * np.pi * self.t / self.length
        return np.array([np.cos(phase), 1, np.sin(phase), -1], np.float32)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self.obs(), {}

    def step(self, action):
        self.t += 1
        return self.obs(), 1 - float(np.square(action).sum()), False, self.t == self.length, {}


for steps in (10, 16, 33):
    gym.register(f"Clockwork{steps}-v0", Clockwork, kwargs={"length": steps})
for steps in (16, 24):
    gym.register(f"Motors{steps}-v0", Clockwork, kwargs={"length": steps, "motors": 2})


# Resuming


RESUMED = {  # episodes end where reports are made, so that a fresh episode is the one that would have followed
    "a2c": lambda: ch.A2CConfig("Clockwork16-v0", steps=8192, workers=1),
    "ppo": lambda: ch.PPOConfig("Clockwork16-v0", steps=8192, workers=1),
    "acer": lambda: ch.ACERConfig("Clockwork10-v0", steps=9600, workers=1, capacity=640, learning_rate=1e-2),
    "memory": lambda: ch.MemoryConfig("Clockwork33-v0", steps=8704, num_envs=8, horizon=34, minibatch=128),
    "body": lambda: ch.BodyConfig("Motors16-v0", steps=8192, num_envs=8, horizon=64, workers=1),
    "ddpg": lambda: ch.DDPGConfig("Motors24-v0", steps=2000, warm_up=900, batch_size=8, hidden=8),
    "td3": lambda: ch.TD3Config("Motors24-v0", steps=2000, warm_up=900, batch_size=8, hidden=8),
}  # fmt: skip


def flat(state):
    """All numbers of a nested state, in order."""
    if isinstance(state, dict):
        return [number for value in state.values() for number in flat(value)]
    if isinstance(state, list | tuple):
        return [number for value in state for number in flat(value)]
    return [np.asarray(state, float).ravel()] if state is not None else []


@pytest.mark.slow
@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_continues_as_if_it_had_never_stopped(name, tmp_path):
    train, config = getattr(ch, f"train_{name}"), RESUMED[name]()
    path, ends = tmp_path / "run.safetensors", []
    for progress in train(config, 1):
        if not path.exists():
            save_checkpoint(path, progress.state(), config=config, seed=1)
            stopped = progress.step
    ends.append(progress.state())
    assert stopped < progress.step
    resumed = last(train(config, 1, load_checkpoint(path, config, 1)["state"]))
    ends.append(resumed.state())
    learned = ("net", "agent", "average", "optimiser", "replay", "random", "recent")
    uninterrupted, continued = (
        np.concatenate(flat([end[part] for part in learned if part in end and part != "random"]))
        for end in ends
    )
    np.testing.assert_array_equal(uninterrupted, continued)
    assert torch.equal(ends[0]["random"]["torch"], ends[1]["random"]["torch"])
    assert ends[0]["random"].get("numpy") == ends[1]["random"].get("numpy")


# Workers that die


def test_a_dead_worker_of_the_environments_gives_one_sentence():
    with contextlib.closing(ch.WorkerEnvs("CartPole-v1", 4, workers=2)) as envs:
        envs.reset(seed=0)
        process, _ = envs.crew.members[0]
        os.kill(process.pid, signal.SIGKILL)
        began = time.perf_counter()
        with pytest.raises(WorkerDied, match="ended before its work was done"):
            for _ in range(3):
                envs.step(np.zeros(4, np.int64))
        assert time.perf_counter() - began < 5


@pytest.mark.slow
def test_a_dead_worker_of_a3c_gives_one_sentence_and_ends_the_others(monkeypatch):
    crews, make = [], ch.Crew
    monkeypatch.setattr(ch, "Crew", lambda *order: crews.append(make(*order)) or crews[-1])
    run = ch.train_a3c(ch.A3CConfig("CartPole-v1", steps=1_000_000, num_envs=4), 1)
    next(run)
    processes = [process for process, _ in crews[0].members]
    os.kill(processes[0].pid, signal.SIGKILL)
    began = time.perf_counter()
    with pytest.raises(WorkerDied, match="ended before its work was done"):
        last(run)
    assert time.perf_counter() - began < 10
    assert all(process.poll() is not None for process in processes)


# What only another chapter or another cell needs


@pytest.mark.slow
def test_the_learner_loads_without_packages_that_others_need():
    code = """
import sys
for name in ("ray", "stable_baselines3", "gymnasium_robotics"):
    sys.modules[name] = None
from rlbook_utils.definitions import load_chapter
chapter = load_chapter("ch06_policy_optimisation")
chapter.train_body, chapter.train_ppo, chapter.ppo_loss, chapter.MEASUREMENTS
*_, progress = chapter.train_body(chapter.BodyConfig(steps=4096, num_envs=4, epochs=1, workers=1), 1)
print(progress.step)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["4096"], done.stderr


# What reaches the optimiser


@pytest.fixture
def learning_rates():
    """The learning rate of every optimiser step from here on."""
    found = []
    hook = register_optimizer_step_pre_hook(
        lambda optimiser, *_: found.append(optimiser.param_groups[0]["lr"])
    )
    yield found
    hook.remove()


class Pipe:
    """A connection to nobody: it breaks after so many messages."""

    def __init__(self, messages, between=lambda: None):
        self.left, self.between = messages, between

    def send(self, message):
        self.between()
        self.left -= 1
        if not self.left:
            raise BrokenPipeError


SMALL = {"env_id": "CartPole-v1", "num_envs": 8, "steps": 8192, "workers": 1}
FALLING = {  # the training, its config, and the optimiser steps that one rollout makes
    "a2c": (ch.train_a2c, ch.A2CConfig(**SMALL), 1),
    "ppo": (ch.train_ppo, ch.PPOConfig(**SMALL, epochs=2, minibatch=512), 4),
    "memory": (ch.train_memory, ch.MemoryConfig(**SMALL, epochs=2, minibatch=512), 4),
    "acer": (ch.train_acer, ch.ACERConfig(**SMALL, replays=2), 3),
    "trpo": (lambda *a: ch.train_on_policy(*a, None, "cpu", ch.trpo_update), ch.A2CConfig(**SMALL, horizon=128), 20),
}  # fmt: skip


@pytest.mark.parametrize("name", FALLING)
def test_the_learning_rate_falls_linearly_to_0(name, learning_rates):
    train, config, each = FALLING[name]
    last(train(config, 1))
    rollout = config.num_envs * config.horizon
    rollouts = -(-config.steps // rollout)
    wanted = config.learning_rate * (1 - np.arange(rollouts) * rollout / config.steps)
    np.testing.assert_allclose(learning_rates, np.repeat(wanted, each))
    assert learning_rates[-1] < 0.2 * learning_rates[0]


def test_a3c_workers_let_the_learning_rate_fall(learning_rates, tmp_path):
    config = ch.A3CConfig("CartPole-v1", steps=1024, num_envs=4, horizon=64)
    net = ch.PolicyNet(4, 2)
    shared = ch.map_shared(str(tmp_path), sum(p.numel() for p in net.parameters()), 2)
    shared.params.copy_(parameters_to_vector(net.parameters()).detach())
    ch.a3c_worker(Pipe(-1), str(tmp_path), net, config, 0, 0)
    np.testing.assert_allclose(learning_rates, config.learning_rate * (1 - np.arange(8) / 8))


def numbered_rollout(steps=12, num_envs=6):
    """Rows that can be told apart: each has its number as its only observation and as its log-probability."""
    torch.manual_seed(0)
    numbers = torch.arange(steps * num_envs, dtype=torch.float32).view(steps, num_envs)
    no = torch.zeros(steps, num_envs, dtype=torch.bool)
    rewards, values, next_values = torch.randn(3, steps, num_envs) * torch.arange(1.0, num_envs + 1)
    return ch.Rollout(numbers[..., None] / 100, torch.randint(2, no.shape), numbers / 100, rewards, values,
                      next_values, no, no)  # fmt: skip


def spy_on(monkeypatch, name):
    """The arguments of every call of one of the chapter's functions, which is called all the same."""
    calls, real = [], getattr(ch, name)
    monkeypatch.setattr(ch, name, lambda *given: calls.append(given) or real(*given))
    return calls


def test_ppo_sees_every_row_as_often_as_it_has_epochs_with_its_own_advantage(monkeypatch):
    rollout, config = numbered_rollout(), ch.PPOConfig(epochs=3, minibatch=32)
    net = ch.PolicyNet(1, 2)
    calls = spy_on(monkeypatch, "ppo_loss")
    ch.ppo_update(net, torch.optim.SGD(net.parameters(), 0.0), rollout, config, 0.5)
    advantages, returns = (c.flatten() for c in ch.gae(*rollout[3:], config.discount, config.lam))
    old = torch.cat([call[3] for call in calls])
    numbers = (old * 100).round().long()
    assert (torch.bincount(numbers) == 3).all() and len(torch.bincount(numbers)) == 72
    assert {len(call[3]) for call in calls} == {32, 8} and calls[0][-1] == config.entropy / 2
    torch.testing.assert_close(torch.cat([call[4] for call in calls]), advantages[numbers])
    torch.testing.assert_close(torch.cat([call[5] for call in calls]), returns[numbers])
    for epoch in np.array_split(
        numbers.numpy(), 3
    ):  # every epoch is a pass, in an order of its own
        assert sorted(epoch) == list(range(72)) and (np.diff(epoch) != 1).any()
    policy, values = net(rollout.obs.flatten(0, 1))
    log_probs = policy.log_prob(rollout.actions.flatten())
    torch.testing.assert_close(torch.cat([call[0] for call in calls]), log_probs[numbers])
    torch.testing.assert_close(torch.cat([call[2] for call in calls]), values[numbers])


@pytest.mark.parametrize("steps, together", [(64, 2), (200, 1)])
def test_memory_sees_every_decision_as_often_as_it_has_epochs(monkeypatch, steps, together):
    rows = numbered_rollout(steps)
    rows = rows._replace(obs=rows.obs.expand(-1, -1, 2))
    valid = torch.rand(steps, 6) < 0.8
    config = ch.MemoryConfig(epochs=3, minibatch=128)
    net = ch.make_memory_net(config)
    rollout = ch.Remembered(rows, torch.zeros_like(valid), valid, net.blank(6, "cpu"))
    calls = spy_on(monkeypatch, "ppo_loss")
    ch.memory_update(net, torch.optim.SGD(net.parameters(), 0.0), rollout, config, 1.0)
    numbers = (torch.cat([call[3] for call in calls]) * 100).round().long()
    seen = torch.bincount(numbers, minlength=steps * 6)
    assert (seen == 3 * valid.flatten()).all() and (~valid).sum() > 5
    assert len(calls) == 3 * 6 // together
    advantages, _ = ch.gae(*rows[3:], config.discount, config.lam)
    torch.testing.assert_close(
        torch.cat([call[4] for call in calls]), advantages.flatten()[numbers]
    )


def test_trpo_steps_with_every_row_and_its_critic_sees_each_ten_times(monkeypatch):
    rollout, config, net = numbered_rollout(), ch.A2CConfig(), ch.PolicyNet(1, 2)
    steps, seen = [], []
    monkeypatch.setattr(ch, "natural_step", lambda *given: steps.append(given) or {"kl": 0.0})
    net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten()))
    ch.trpo_update(net, torch.optim.SGD(net.parameters(), 0.0), rollout, config, 1.0)
    assert torch.equal(steps[0][1], rollout.obs.flatten(0, 1))
    advantages, _ = ch.gae(*rollout[3:], config.discount, config.lam)
    torch.testing.assert_close(steps[0][3], whitened(advantages).flatten())
    assert (torch.bincount((torch.cat(seen) * 100).round().long()) == 10).all()


def whitened(advantages):
    """All of them together have mean 0 and deviation 1."""
    flat = advantages.numpy().ravel()
    return torch.from_numpy((flat - flat.mean()) / flat.std(ddof=1)).view(advantages.shape)


def test_a2c_standardises_advantages_over_all_steps_and_environments(monkeypatch):
    rollout, config, net = numbered_rollout(), ch.A2CConfig(), ch.PolicyNet(1, 2)
    calls = spy_on(monkeypatch, "a2c_loss")
    ch.a2c_update(net, torch.optim.SGD(net.parameters(), 0.0), rollout, config, 0.5)
    advantages, returns = ch.gae(*rollout[3:], config.discount, config.lam)
    torch.testing.assert_close(calls[0][3], whitened(advantages), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(calls[0][4], returns)
    assert calls[0][-1] == config.entropy / 2
    spreads = advantages.std(0)
    assert spreads.max() > 2 * spreads.min()  # else standardising each environment would look alike


def test_ppo_standardises_the_advantages_of_a_minibatch(monkeypatch):
    rollout, net = numbered_rollout(), ch.PolicyNet(1, 2)
    calls = spy_on(monkeypatch, "clipped_gain")
    config = ch.PPOConfig(epochs=1, minibatch=36)
    ch.ppo_update(net, torch.optim.SGD(net.parameters(), 0.0), rollout, config, 1.0)
    assert len(calls) == 2 and calls[0][2] == config.clip
    for _, advantages, _ in calls:
        assert abs(advantages.mean()) < 1e-5 and advantages.std() == pytest.approx(1, abs=1e-4)


# ACER


def some_acer(**config):
    config = ch.ACERConfig("CartPole-v1", num_envs=4, horizon=25, workers=1, **config)
    envs = make_vector("CartPole-v1", 4, same_step=True)
    torch.manual_seed(0)
    acer = ch.make_acer(config, envs, {"env_steps": 0}, "cpu")
    collector = ch.TrajectoryCollector(envs, acer[0], 7, 1.0)
    return config, acer, ch.Trajectories(*map(torch.from_numpy, collector.collect(25)))


def test_acers_average_policy_moves_by_1_minus_alpha_at_every_update():
    config, (net, average, optimiser), batch = some_acer(alpha=0.9)
    for _ in range(3):
        before = parameters_to_vector(average.parameters()).detach().clone()
        ch.acer_update(net, average, optimiser, batch, config, 1.0)
        after = parameters_to_vector(net.policy.parameters()).detach()
        wanted = 0.9 * before + 0.1 * after
        torch.testing.assert_close(parameters_to_vector(average.parameters()), wanted)
        assert (wanted - before).abs().max() > 1e-5


def test_acer_learns_once_from_what_is_new_and_then_from_the_replay(monkeypatch):
    config, acer, _ = some_acer(replays=3)
    envs = make_vector("CartPole-v1", 4, same_step=True)
    collector = ch.TrajectoryCollector(envs, acer[0], 1, 1.0)
    replay, rng = ch.Replay(64), np.random.default_rng(0)
    calls = spy_on(monkeypatch, "acer_update")
    for rollout in (1, 2):
        calls.clear()
        ch.acer_rollout(acer, replay, collector, config, 0.5, rng)
        assert len(calls) == 4 and len(replay) == 4 * rollout
        newest = replay.rows(np.arange(4 * rollout - 4, 4 * rollout))
        np.testing.assert_array_equal(calls[0][3].obs, newest.obs)
        assert all(call[5] == 0.5 for call in calls)
    assert acer[2].param_groups[0]["lr"] == config.learning_rate / 2


def test_acer_counts_how_often_its_devices_act(monkeypatch):
    """Shares against a count of its own, with policies far apart; and none at the chapter's settings on the lander."""
    config, (net, average, optimiser), batch = some_acer(delta=0.01, limit=1.5)
    for other in (net.policy, average):
        torch.nn.init.normal_(other[-1].weight)
    calls = spy_on(monkeypatch, "leashed")
    pull = torch.softmax(net.policy(batch.obs), -1) - torch.softmax(average(batch.obs), -1)
    weights = torch.softmax(net.policy(batch.obs), -1) / batch.probs
    weights = weights.gather(-1, batch.actions[..., None])
    found = ch.acer_update(net, average, optimiser, batch, config, 1.0)
    g = calls[0][0]
    on_leash = ((pull * g).sum(-1) > 0.01).float().mean().item()
    assert found["on_leash"] == pytest.approx(on_leash) and 0.05 < on_leash < 0.95
    truncated = (weights > 1.5).float().mean().item()
    assert found["truncated"] == pytest.approx(truncated) and 0.05 < truncated < 0.95
    settings = ch.ACERConfig(steps=12_288, workers=1)
    metrics = [progress.metrics for progress in ch.train_acer(settings, 1)]
    assert max(each["on_leash"] for each in metrics) == 0
    assert max(each["truncated"] for each in metrics) < 0.01


# A3C


def test_a3c_workers_copy_the_shared_parameters_before_every_rollout(monkeypatch, tmp_path):
    """Another worker writes between two rollouts; what plays is what is shared, and it stays put while it plays."""
    torch.manual_seed(0)
    net = ch.PolicyNet(4, 2)
    size = sum(p.numel() for p in net.parameters())
    shared, played = ch.map_shared(str(tmp_path), size, 2), []
    shared.params.copy_(parameters_to_vector(net.parameters()).detach())
    collect = ch.Collector.collect

    def watched(collector, steps):
        began = parameters_to_vector(collector.net.parameters()).detach().clone()
        there = shared.params.clone()
        shared.params.add_(0.01)  # meanwhile
        rollout = collect(collector, steps)
        ended = parameters_to_vector(collector.net.parameters()).detach()
        played.append((began, there, torch.equal(began, ended)))
        return rollout

    monkeypatch.setattr(ch.Collector, "collect", watched)
    config = ch.A3CConfig("CartPole-v1", num_envs=4, horizon=16, workers=2)
    others = lambda: (shared.params.mul_(0.9), shared.counts[1, 1].add_(1))
    with pytest.raises(BrokenPipeError):
        ch.a3c_worker(Pipe(4, others), str(tmp_path), net, config, seed=0, rank=0)
    assert len(played) == 4 and all(still for *_, still in played)
    for began, there, _ in played:
        assert torch.equal(began, there)
    assert (played[1][0] - played[0][0]).abs().max() > 0.001
    assert shared.adam_step == 4 and shared.first.abs().max() > 0 and shared.second.max() > 0


# Seeds


class Recorder(Clockwork):
    """Remembers every first observation that a seed has drawn."""

    firsts: ClassVar = []

    def obs(self):
        return np.float32(self.first + self.t / 100)

    def reset(self, *, seed=None, options=None):
        gym.Env.reset(self, seed=seed)
        self.first = self.np_random.uniform(-1, 1, 4)
        if seed is not None:
            self.firsts.append(tuple(self.first))
        return super().reset()


gym.register("Recorder-v0", Recorder, kwargs={"length": 6})
gym.register("MotorRecorder-v0", Recorder, kwargs={"length": 6, "motors": 2})
STREAMS = {  # what a run of each kind measures, on a world that remembers its seeds
    "a2c": (ch.measure_a2c, ch.A2CConfig("Recorder-v0", steps=2000, workers=1)),
    "ppo": (ch.measure_ppo, ch.PPOConfig("Recorder-v0", steps=4096, workers=1)),
    "acer": (ch.measure_acer, ch.ACERConfig("Recorder-v0", steps=2000, workers=1)),
    "memory": (ch.measure_memory, ch.MemoryConfig("Recorder-v0", steps=4096, memory=2)),
    "body": (ch.measure_body, ch.BodyConfig("MotorRecorder-v0", steps=4096, workers=1)),
    "ddpg": (ch.measure_ddpg, ch.DDPGConfig("MotorRecorder-v0", steps=1000)),
    "td3": (ch.measure_ddpg, ch.TD3Config("MotorRecorder-v0", steps=1000)),
}  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
def test_no_two_seeds_and_no_run_and_its_score_share_a_stream(name):
    measure, config = STREAMS[name]
    Recorder.firsts.clear()
    for seed in (1, 2, 3):
        measure(config, seed)
    episodes = {"body": 20 + 10, "ddpg": 20 + 20, "td3": 20 + 20}.get(name, 100 + 100)
    assert len(Recorder.firsts) == 3 * (
        config.num_envs + episodes
    )  # to learn, to score, and a floor
    assert len(set(Recorder.firsts)) == len(Recorder.firsts)


def test_a_resumed_run_plays_new_episodes():
    config = ch.A2CConfig("Recorder-v0", steps=8192, workers=1)
    Recorder.firsts.clear()
    run = ch.train_a2c(config, 1)
    state = next(run).state()
    run.close()
    last(ch.train_a2c(config, 1, state))
    assert len(set(Recorder.firsts)) == len(Recorder.firsts) == 2 * config.num_envs


def test_a3c_workers_and_seeds_share_no_stream(monkeypatch):
    class Ordered(Exception):
        pass

    class Listener:
        def __init__(self, function, orders):
            raise Ordered(orders)

    monkeypatch.setattr(ch, "Crew", Listener)
    config = ch.A3CConfig("Recorder-v0", workers=3)
    Recorder.firsts.clear()
    for seed in (1, 2, 3):
        with pytest.raises(Ordered) as raised:
            next(ch.train_a3c(config, seed))
        orders = raised.value.args[0]
        assert [order[4] for order in orders] == [0, 1, 2]
        for _, net, _, start, _ in orders:
            envs = make_vector("Recorder-v0", 2, same_step=True)
            ch.Collector(envs, net, start, 1.0).collect(1)
        ch.score(net, "Recorder-v0", seed)
    assert len(set(Recorder.firsts)) == len(Recorder.firsts) == 3 * (6 + 100)


# What measures the published numbers


MEASURED = {  # for each function that measures: a small config of the same class
    "measure_a2c": {"env_id": "CartPole-v1", "steps": 4096, "workers": 1},
    "measure_a3c": {"env_id": "CartPole-v1", "steps": 4096},
    "measure_ppo": {"env_id": "CartPole-v1", "steps": 8192, "workers": 1},
    "measure_acer": {"env_id": "CartPole-v1", "steps": 4096, "workers": 1},
    "measure_memory": {"steps": 8192},
    "measure_body": {"env_id": "InvertedPendulum-v5", "steps": 4096, "workers": 1},
    "measure_ddpg": {"env_id": "Pendulum-v1", "steps": 1000, "warm_up": 990},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MEASURED)
def test_what_measures_a_published_number_runs_and_finds_what_it_promises(name, monkeypatch):
    function = lambda measure: getattr(measure, "func", measure)
    rows = [m for m in ch.MEASUREMENTS if function(m.measure) is getattr(ch, name)]
    small = ch.PendulumGrid.of(15)
    monkeypatch.setattr(ch.PendulumGrid, "of", staticmethod(lambda size: small))
    found = rows[0].measure(dataclasses.replace(rows[0].config, **MEASURED[name]), 1)
    promised = {metric.name for row in rows for metric in row.metrics} | {
        "return",
        "training_seconds",
    }
    drawn = {"env_steps", "seconds", "mean_return"}
    if name in ("measure_a2c", "measure_a3c", "measure_ppo", "measure_acer"):
        promised |= {"landed", "steps_per_second", "cut_short"}
        drawn |= {"cut_short"}
    if name == "measure_ppo":
        drawn |= {"approx_kl", "clip_fraction", "entropy", "explained_variance", "episodes"}
    if name == "measure_ddpg":
        promised |= {"value_excess"}
    assert promised <= set(found.metrics) and drawn <= set(found.curves)
    assert np.isfinite([*found.metrics.values(), *found.baselines.values()]).all()
    assert {len(curve) for curve in found.curves.values()} == {len(found.curves["seconds"])}
    assert "return" in found.baselines
    assert (np.diff(found.curves["seconds"]) > 0).all() and found.curves["env_steps"][-1] >= 1000


def test_every_measurement_has_a_test_of_its_function():
    functions = {getattr(m.measure, "func", m.measure).__name__ for m in ch.MEASUREMENTS}
    assert functions == set(MEASURED)
