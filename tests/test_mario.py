"""The Mario adapter: Gymnasium's API, values against the console's memory, several emulators against one."""

import itertools
import signal
import subprocess
import sys
import time
from contextlib import closing

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rlbook_utils import mario, workers
from rlbook_utils.rollout import transitions

try:
    mario._console_class()
except mario.MarioError as missing:
    pytestmark = pytest.mark.skip(reason=str(missing))

RUN, HOP = 3, 4  # right, run; right, jump, run


# Some view: every fifth row and sixth column, the brightest colour, [n, 240, 256, 3] -> [n, 42, 42].
# A lambda, so that it travels to the workers by value.
shrink = lambda screens: screens[:, 30::5, 2:254:6].max(-1)


def fresh(**options):
    env = mario.MarioEnv(**options)
    env.reset(seed=0)
    return env


# One emulator


def test_five_values_and_gymnasiums_own_checks():
    env = mario.MarioEnv(repeat=1)
    obs, info = env.reset(seed=3)
    assert obs.shape == (240, 256, 3) and obs.dtype == np.uint8 and info["x_pos"] == 40
    obs, reward, terminated, truncated, info = env.step(RUN)
    assert isinstance(reward, float) and terminated is False and truncated is False
    assert env.observation_space.contains(obs)
    np.testing.assert_array_equal(env.render(), obs)
    check_env(env, skip_render_check=True)
    env.close()
    env.close()  # twice is once


def test_the_actions_are_the_packages_own():
    from gym_super_mario_bros.actions import COMPLEX_MOVEMENT

    bit = {"right": 128, "left": 64, "down": 32, "up": 16, "B": 2, "A": 1, "NOOP": 0}
    assert [sum(bit[b] for b in buttons) for buttons in COMPLEX_MOVEMENT] == [*mario.BUTTONS]
    words = {"wait": "NOOP", "jump": "A", "run": "B"}
    for name, buttons in zip(mario.ACTIONS, COMPLEX_MOVEMENT, strict=True):
        assert sorted(words.get(word, word) for word in name.split(", ")) == sorted(buttons)


def right_run():
    """A fixed way to the right, past x = 255, until Mario dies."""
    env = fresh(repeat=4)
    for t in range(400):
        outcome = env.step(HOP if t % 12 < 8 else RUN)
        yield env, *outcome
        if outcome[2]:
            return


def test_info_is_what_the_memory_says_also_beyond_255():
    seen = []
    for env, _, _, terminated, _, info in right_run():
        ram = [int(byte) for byte in bytes(env.console.ram)]
        if not terminated:
            assert info["x_pos"] == 256 * ram[0x6D] + ram[0x86]
        assert info["time"] == int("".join(map(str, ram[0x7F8:0x7FB])))
        assert info["coins"] == 10 * ram[0x7ED] + ram[0x7EE]
        assert info["score"] == int("".join(map(str, ram[0x7DE:0x7E4])))
        assert info["life"] == ram[0x75A] and info["world"] == ram[0x75F] + 1
        seen.append(info["x_pos"])
        assert info["furthest"] >= max(seen) and isinstance(info["furthest"], int)
    assert max(seen) > 300 and np.abs(np.diff(seen)).max() < 40  # no jump where a byte runs over
    assert terminated


def test_positions_written_into_memory_are_read_without_overflow():
    env = fresh()
    for x in (255, 256, 300, 3000, 65535):
        env.console.ram[0x6D], env.console.ram[0x86] = divmod(x, 256)
        assert env.console._x_position == x
    env.console.ram[0x86], env.console.ram[0x71C] = 5, 10
    assert env.console._left_x_position == 251


def test_after_death_a_reset_begins_anew():
    *_, (env, _, reward, terminated, truncated, _) = right_run()
    assert terminated and not truncated and reward < 0
    obs, info = env.reset()
    first, _ = mario.MarioEnv().reset()
    np.testing.assert_array_equal(obs, first)
    assert info["x_pos"] == info["furthest"] == 40 and info["time"] >= 399
    for _ in range(5):
        *_, terminated, truncated, info = env.step(RUN)
        assert not terminated and not truncated
    assert info["x_pos"] > 50


def test_progress_is_that_of_the_whole_episode_and_standing_still_ends_it():
    env = fresh(repeat=6, stuck=5)
    for _ in range(8):
        *_, info = env.step(RUN)
    reached = info["furthest"]
    assert reached == info["x_pos"] > 100
    ends = []
    for _ in range(5):
        *_, terminated, truncated, info = env.step(6)  # left: the furthest x stays
        ends.append(truncated)
    assert reached < info["furthest"] < reached + 60  # it takes a while to turn
    assert not terminated and ends.count(True) <= 1
    while not truncated:
        *_, terminated, truncated, _ = env.step(6)
        assert not terminated
    assert env.waited == 5


def test_a_repeated_action_is_the_frames_one_by_one():
    whole, single = fresh(repeat=6), fresh(repeat=1)
    for action in (3, 4, 4, 1, 6, 0):
        obs, reward, *_, info = whole.step(action)
        parts = [single.step(action) for _ in range(6)]
        np.testing.assert_array_equal(obs, parts[-1][0])
        assert reward == sum(part[1] for part in parts)
        assert info["furthest"] == parts[-1][4]["furthest"]


def test_observations_are_copies():
    env = fresh()
    first = env.step(RUN)[0]
    kept = first.copy()
    for _ in range(5):
        env.step(RUN)
    np.testing.assert_array_equal(first, kept)


def test_equal_actions_make_equal_episodes_and_the_seed_draws_the_actions():
    episodes = []
    for _ in range(2):
        env = mario.MarioEnv()
        env.reset(seed=5)
        env.action_space.seed(5)
        episodes.append([env.step(env.action_space.sample()) for _ in range(20)])
    for a, b in zip(*episodes, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        assert a[1:] == b[1:]


def test_no_window_and_no_old_gym():
    code = (
        "import sys; from rlbook_utils.mario import MarioEnv; env = MarioEnv(); env.reset(); env.step(3); env.render();"
        "print([m for m in sys.modules if m.split('.')[0] in ('pyglet', 'gym')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr


def test_a_missing_emulator_is_one_sentence(monkeypatch):
    mario._console_class.cache_clear()
    for name in [m for m in sys.modules if m.split(".")[0] in ("nes_py", "gym_super_mario_bros")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gym_super_mario_bros", None)
    try:
        with pytest.raises(mario.MarioError, match="pip install --no-deps -r requirements-mario"):
            mario.MarioEnv()
        assert "gym" not in sys.modules
    finally:
        mario._console_class.cache_clear()


# Several emulators


def test_emulators_over_processes_are_the_emulator_stacks_ends_and_all():
    actions = np.random.default_rng(0).choice([0, 1, 4, 6], size=(40, 3), p=[0.4, 0.1, 0.3, 0.2])
    alone, stacks = [mario.MarioEnv(4, stuck=4) for _ in range(3)], []
    for env in alone:
        stacks.append([shrink(env.reset()[0][None])[0]] * 3)
    ends = 0
    with closing(mario.MarioEnvs(3, 2, shrink, repeat=4, stuck=4)) as envs:
        obs, _ = envs.reset(seed=0)
        np.testing.assert_array_equal(obs, stacks)
        for row in actions:
            obs, rewards, terminated, truncated, info = envs.step(row)
            for i, env in enumerate(alone):
                screen, *outcome, details = env.step(row[i])
                assert outcome == [rewards[i], terminated[i], truncated[i]]
                assert envs.furthest[i] == details["furthest"]
                stacks[i] = [*stacks[i][1:], shrink(screen[None])[0]]
                if terminated[i] or truncated[i]:
                    ends += 1
                    np.testing.assert_array_equal(info["final_obs"][i], stacks[i])
                    stacks[i] = [shrink(env.reset()[0][None])[0]] * 3
                else:
                    assert info["final_obs"][i] is None
                np.testing.assert_array_equal(obs[i], stacks[i])
        assert set(envs.seconds) == {"emulator", "view"} and envs.seconds["view"] > 0
    assert ends >= 3
    assert all(process.poll() is not None for process, _ in envs.workers)


def test_fewer_emulators_than_workers():
    with closing(mario.MarioEnvs(1, 2, shrink)) as envs:
        envs.reset(seed=0)
        obs, *_ = envs.step(np.array([3]))
        assert obs.shape == (1, 3, 42, 42) and len(envs.workers) == 1


def test_a_transition_that_ends_an_episode_keeps_its_own_last_picture():
    rng = np.random.default_rng(1)
    with closing(mario.MarioEnvs(2, 1, shrink, repeat=4, stuck=3)) as envs:
        stream = transitions(envs, lambda obs: rng.choice([0, 6], size=len(obs)), seed=0)
        steps = [next(stream) for _ in range(12)]
    ended = 0
    for step, later in itertools.pairwise(steps):
        done = step.terminated | step.truncated
        ended += done.sum()
        np.testing.assert_array_equal(step.next_obs[~done], later.obs[~done])
        for n in np.flatnonzero(
            done
        ):  # a stack overlaps with the one before, a fresh start does not
            np.testing.assert_array_equal(step.next_obs[n, :2], step.obs[n, 1:])
            assert (later.obs[n, 0] == later.obs[n, 2]).all()
        assert step.valid.all()
    assert ended > 0


def test_an_emulator_with_a_negative_action_rests_and_goes_on_where_it_was():
    alone = fresh(repeat=6)
    with closing(mario.MarioEnvs(2, 1, shrink)) as envs:
        envs.reset(seed=0)
        for action in (RUN, HOP, HOP):
            alone.step(action)
            obs, *_ = envs.step(np.array([action, action]))
        before = obs[1].copy(), envs.furthest[1]
        for _ in range(3):
            obs, rewards, terminated, truncated, _ = envs.step(np.array([RUN, -1]))
            assert rewards[1] == 0 and not terminated[1] and not truncated[1]
            assert envs.furthest[1] == before[1] and (obs[1, -1] == before[0][-1]).all()
        obs, *_ = envs.step(np.array([RUN, RUN]))
    screen, *_, info = alone.step(RUN)
    np.testing.assert_array_equal(obs[1, -1], shrink(screen[None])[0])
    assert envs.furthest[1] == info["furthest"]


def test_a_worker_that_dies_is_told_in_one_sentence_at_once():
    with closing(mario.MarioEnvs(2, 2, shrink)) as envs:
        envs.reset(seed=0)
        first, second = (process for process, _ in envs.workers)
        second.kill()
        began = time.perf_counter()
        with pytest.raises(workers.WorkerDied, match=r"^A worker process ended before[^\n]*$"):
            for _ in range(3):
                envs.step(np.array([RUN, RUN]))
        assert time.perf_counter() - began < 5
    assert first.poll() is not None and second.returncode == -signal.SIGKILL


def test_closing_does_not_wait_for_a_worker_that_hangs(monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE", 0.5)
    envs = mario.MarioEnvs(2, 2, shrink)
    envs.reset(seed=0)
    for process, _ in envs.workers:
        process.send_signal(signal.SIGSTOP)  # it hears of nothing any more
    began = time.perf_counter()
    envs.close()
    assert time.perf_counter() - began < 10
    assert all(process.returncode == -signal.SIGKILL for process, _ in envs.workers)
