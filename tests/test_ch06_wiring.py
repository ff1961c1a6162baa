"""Chapter 06: what reaches the optimiser, the environments and the workers, seen by spies."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlbook_utils.checkpoint import load_checkpoint, save_checkpoint
from rlbook_utils.definitions import load_chapter
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
    "ddpg": lambda: ch.DDPGConfig("Motors24-v0", steps=3000, warm_up=800, batch_size=8, hidden=8),
    "td3": lambda: ch.TD3Config("Motors24-v0", steps=3000, warm_up=800, batch_size=8, hidden=8),
}  # fmt: skip


def flat(state):
    """All numbers of a nested state, in order."""
    if isinstance(state, dict):
        return [number for value in state.values() for number in flat(value)]
    if isinstance(state, list | tuple):
        return [number for value in state for number in flat(value)]
    return [np.asarray(state, float).ravel()] if state is not None else []


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
