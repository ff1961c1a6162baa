"""Replay and n-step returns against a plain loop over one environment at a time."""

from typing import NamedTuple

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from scipy import stats

from rlbook_utils.replay import Experience, NStep, Replay
from rlbook_utils.rollout import Transition, make_vector, transitions

# A stream in which every observation is its own name: environment, episode, step.


def stream(rng, num_envs, steps, same_step):
    """Random transitions: rewards, ends of both kinds (also at once), and resets as the autoreset mode has them."""
    episode, t = np.zeros(num_envs, int), np.zeros(num_envs, int)
    resetting, found = np.zeros(num_envs, bool), []
    name = lambda: np.stack([np.arange(num_envs), episode, t], 1).astype(np.float32)
    for _ in range(steps):
        obs, valid = name(), ~resetting
        actions = rng.integers(100, size=num_envs)
        terminated = valid & (rng.random(num_envs) < 0.15)
        truncated = valid & (rng.random(num_envs) < 0.15)
        rewards = np.where(valid, rng.normal(size=num_envs), 0.0)
        done, before = terminated | truncated, resetting
        t = np.where(before, 0, t + 1)
        episode = episode + before
        next_obs = name()
        found.append(Transition(obs, actions, rewards, next_obs, terminated, truncated, valid))
        resetting = done & (not same_step)
        if same_step:
            episode, t = episode + done, np.where(done, 0, t)
    return found


def looped(steps, n, discount):
    """n-step experience, one environment and one start at a time, by the definition."""
    found = {}
    for env in range(len(steps[0].valid)):
        for start, first in enumerate(steps):
            if not first.valid[env]:
                continue
            total, factor = 0.0, 1.0
            for length, step in enumerate(steps[start : start + n], 1):
                assert step.valid[env]
                total += factor * step.rewards[env]
                factor *= discount
                if step.terminated[env] or step.truncated[env] or length == n:
                    weight = 0.0 if step.terminated[env] else factor
                    key = tuple(first.obs[env])
                    assert key not in found
                    found[key] = (first.actions[env], total, weight, tuple(step.next_obs[env]))
                    break
    return found


def collected(steps, n, discount):
    n_step, found = NStep(n, discount), {}
    for step in steps:
        out = n_step(step)
        for row in zip(*out, strict=True):
            obs, action, reward, weight, next_obs = row
            assert tuple(obs) not in found, "a start came out twice"
            found[tuple(obs)] = (action, reward, weight, tuple(next_obs))
    return found


@pytest.mark.parametrize("same_step", [False, True])
@pytest.mark.parametrize("n", [1, 3, 5])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_n_step_agrees_with_a_loop(n, same_step, seed):
    steps = stream(np.random.default_rng(seed), 7, 200, same_step)
    ends = [np.stack([s.terminated, s.truncated]) for s in steps]
    kinds = {tuple(pair) for end in ends for pair in end.T}
    assert len(kinds) == 4  # neither, either and both
    assert all(s.valid.all() for s in steps) == same_step
    ours, truth = collected(steps, n, 0.9), looped(steps, n, 0.9)
    assert ours.keys() == truth.keys() and len(truth) > 500
    for key, (action, reward, weight, next_obs) in truth.items():
        assert ours[key][0] == action and ours[key][3] == next_obs
        np.testing.assert_allclose(ours[key][1:3], (reward, weight), rtol=1e-5, atol=1e-6)
        assert key[:2] == next_obs[:2], "experience leaks into another episode"
        assert 1 <= next_obs[2] - key[2] <= n


def test_an_end_flushes_everything_that_is_pending():
    rows = stream(np.random.default_rng(0), 1, 4, same_step=True)
    plain = np.zeros(1, bool)
    steps = [s._replace(terminated=plain, truncated=plain, rewards=np.ones(1)) for s in rows]
    steps[3] = steps[3]._replace(truncated=~plain)
    n_step = NStep(5, 0.5)
    assert [len(n_step(step).rewards) for step in steps[:3]] == [0, 0, 0]
    out = n_step(steps[3])
    by_age = np.argsort(out.rewards)
    np.testing.assert_allclose(out.rewards[by_age], [1, 1.5, 1.75, 1.875])
    np.testing.assert_allclose(
        out.discounts[by_age], [0.5, 0.25, 0.125, 0.0625]
    )  # truncated: bootstraps
    assert (out.next_obs == steps[3].next_obs).all()


def test_rewards_are_exact_over_a_long_window():
    """A float32 sum with float64 powers of the discount: no drift over 100 steps."""
    rows = stream(np.random.default_rng(0), 2, 150, same_step=True)
    never = np.zeros(2, bool)
    rng = np.random.default_rng(1)
    steps = [
        s._replace(terminated=never, truncated=never, rewards=rng.normal(size=2)) for s in rows
    ]
    n_step = NStep(100, 0.99)
    outs = [n_step(step) for step in steps]
    assert [len(out.rewards) for out in outs] == [0] * 99 + [2] * 51
    rewards, powers = np.array([s.rewards for s in steps]), 0.99 ** np.arange(100)
    for first, out in enumerate(outs[99:]):
        np.testing.assert_allclose(out.rewards, powers @ rewards[first : first + 100], atol=1e-4)
        np.testing.assert_allclose(out.discounts, 0.99**100, rtol=1e-6)
        np.testing.assert_array_equal(out.obs, steps[first].obs)


def test_experience_of_a_real_environment_never_starts_at_a_reset():
    """CartPole resets on the step after an end (NEXT_STEP): rewards of 0 must not come out."""
    rng, n_step, lengths, kept = np.random.default_rng(0), NStep(1, 0.99), 0, 0
    envs = make_vector("CartPole-v1", 8)
    assert envs.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    invalid = 0
    for _, step in zip(
        range(300), transitions(envs, lambda o: rng.integers(2, size=8), 0), strict=False
    ):
        out = n_step(step)
        kept += len(out.rewards)
        lengths += int(step.valid.sum())
        invalid += int((~step.valid).sum())
        assert (out.rewards == 1).all()
        assert (out.discounts == 0).sum() == step.terminated.sum()
    assert invalid > 50 and kept == lengths


def test_same_step_autoreset_gives_the_true_last_observation():
    envs = gym.make_vec("CartPole-v1", num_envs=4, vectorization_mode="sync",
                        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP})  # fmt: skip
    rng, n_step, ends = np.random.default_rng(0), NStep(3, 0.99), 0
    for _, step in zip(
        range(200), transitions(envs, lambda o: rng.integers(2, size=4), 0), strict=False
    ):
        assert step.valid.all()
        out = n_step(step)
        fallen = out.next_obs[out.discounts == 0]
        ends += len(fallen)
        assert (np.abs(fallen[:, 2]) > 0.2).all()  # the pole lies; a fresh start would be upright
    assert ends > 30


def test_a_window_needs_a_step():
    with pytest.raises(ValueError, match="n is 0; a return needs at least one step"):
        NStep(0, 0.9)


# The replay


class Row(NamedTuple):
    number: np.ndarray
    picture: np.ndarray


def numbered(first, count):
    numbers = np.arange(first, first + count)
    return Row(numbers, np.stack([numbers, -numbers], 1).astype(np.float32))


@pytest.mark.parametrize("sizes", [(3, 3, 3, 3), (1,) * 17, (10,), (4, 0, 9), (7, 10, 2)])
def test_the_newest_rows_stay_in_the_oldest_places(sizes):
    replay, reference, added = Replay(10), [], 0
    for size in sizes:
        places = replay.add(numbered(added, size))
        assert len(places) == size and (places == (added + np.arange(size)) % 10).all()
        reference = [*reference, *range(added, added + size)][-10:]
        added += size
        assert len(replay) == len(reference) and replay.added == added
    rows = replay.rows(np.arange(len(replay)))
    assert isinstance(rows, Row)
    assert sorted(rows.number) == reference
    for number in reference:  # each in the place that its turn gives
        assert rows.number[number % 10] == number
        np.testing.assert_array_equal(rows.picture[number % 10], [number, -number])


def test_rows_are_copies():
    replay = Replay(4)
    given = numbered(0, 4)
    replay.add(given)
    given.picture[:] = 99
    taken = replay.rows(np.arange(4))
    taken.picture[:] = 77
    np.testing.assert_array_equal(replay.rows(np.arange(4)).picture[:, 0], [0, 1, 2, 3])


def test_types_and_shapes_survive():
    replay = Replay(5)
    rows = Experience(
        np.zeros((3, 4), np.float32), np.arange(3), np.ones(3, np.float32),
        np.full(3, 0.9, np.float32), np.ones((3, 4), np.float32),
    )  # fmt: skip
    replay.add(rows)
    for given, back in zip(rows, replay.sample(8, np.random.default_rng(0)), strict=True):
        assert back.dtype == given.dtype and back.shape == (8, *given.shape[1:])


@pytest.mark.parametrize("added", [6, 25])
def test_sampling_is_even(added):
    """Before it is full only over what is there, and after it has wrapped over all of it."""
    replay = Replay(10)
    replay.add(numbered(0, min(added, 10)))
    for number in range(10, added):
        replay.add(numbered(number, 1))
    drawn = replay.sample(20_000, np.random.default_rng(0)).number
    there = np.arange(max(0, added - 10), added)
    counts = np.array([(drawn == number).sum() for number in there])
    assert counts.sum() == 20_000
    assert stats.chisquare(counts).pvalue > 1e-3
    again = replay.sample(20_000, np.random.default_rng(0)).number
    np.testing.assert_array_equal(drawn, again)
