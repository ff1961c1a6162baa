"""Chapter 03, row C1: sparse against dense reward."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlbook_utils.checkpoint import load_checkpoint, save_checkpoint
from rlbook_utils.definitions import load_chapter
from rlbook_utils.replay import Experience
from rlbook_utils.rollout import Transition

ch = load_chapter("ch03_curiosity")
MONTEZUMA = ch.SPARSE_GAMES["Montezuma's Revenge"]
SHORT = ch.SparseConfig(env_id=MONTEZUMA, steps=1600, num_envs=4)


def along(places: list[tuple[int, int, int]], rewards: dict[int, float] = {}) -> list[Transition]:  # noqa: B006
    """One game's transitions through (x, y, lives)."""
    ram = np.zeros((len(places), 1, 128), np.uint8)
    ram[:, 0, [ch.JOE_X, ch.JOE_Y, ch.JOE_LIVES]] = places
    no, yes = np.zeros(1, bool), np.ones(1, bool)
    return [
        Transition(
            ram[t], np.zeros(1, int), np.array([rewards.get(t, 0.0)]), ram[t + 1], no, no, yes
        )
        for t in range(len(places) - 1)
    ]


# ---- the reward exists ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_eight_presses_reach_the_key_and_nothing_pays_before(seed: int) -> None:
    env = gym.make(MONTEZUMA, obs_type="ram", repeat_action_probability=0.0)
    env.reset(seed=seed)
    buttons = env.unwrapped.get_action_meanings()
    played = [env.step(buttons.index(button)) for button, count in ch.PRESSES for _ in range(count)]
    rewards = [reward for _, reward, *_ in played]
    assert rewards[-1] == 100 and not any(rewards[:-1])
    assert {info["lives"] for *_, info in played} == {6}
    env.close()


def test_the_way_passes_every_post_and_its_last_step_is_the_key() -> None:
    _, memory, rewards = ch.hold(ch.PRESSES)
    no = np.zeros(1, bool)
    steps = [
        Transition(a[None], no, rewards[t : t + 1], b[None], ~no if t == 63 else no, no, ~no)
        for t, (a, b) in enumerate(pairwise(memory))
    ]
    assert ch.posts_reached(steps).tolist() == [1] * 6
    assert ch.posts_reached(steps[:-1]).tolist() == [0] * 6  # a life that goes on is not counted


def test_joe_is_where_the_memory_says() -> None:
    """The red of his shirt in the picture, against the two bytes that the map is drawn from."""
    frames, memory, _ = ch.hold(
        (("NOOP", 3), ("RIGHTFIRE", 6), ("NOOP", 5), ("RIGHTFIRE", 6), ("DOWN", 8))
    )
    for frame, ram in zip(frames[::4], memory[::4], strict=True):
        down, across = np.nonzero((frame == (200, 72, 72)).all(-1) & (np.arange(210) > 40)[:, None])
        assert across.mean() == pytest.approx(int(ram[ch.JOE_X]) + 3, abs=3.5)
        assert down.mean() == pytest.approx(318 - int(ram[ch.JOE_Y]), abs=6)


# ---- counting lives ---------------------------------------------------------------------------------------------------


def test_posts_count_only_in_their_order_and_within_a_life() -> None:
    ledge, ladder, floor, far = (125, 192), (133, 170), (60, 148), (21, 170)
    start, dead = (77, 235), 4
    in_order = along([(*p, 5) for p in (start, ledge, ladder, floor, far)] + [(*start, dead)])
    assert ch.posts_reached(in_order).tolist() == [1, 1, 1, 1, 1, 0]
    fallen = along([(*p, 5) for p in (start, floor, far, ledge)] + [(*start, dead)])
    assert ch.posts_reached(fallen).tolist() == [1, 1, 0, 0, 0, 0]
    two_lives = along([(*ledge, 5), (*ledge, 5), (*start, 4), (*ladder, 4), (*start, 3)])
    assert ch.posts_reached(two_lives).tolist() == [2, 1, 0, 0, 0, 0]


# ---- the agent --------------------------------------------------------------------------------------------------------


def test_bytes_become_numbers_between_0_and_1() -> None:
    ram = np.full((2, 128), 255, np.uint8)
    rows = Experience(
        ram, np.zeros(2, int), np.ones(2, np.float32), np.ones(2, np.float32), 0 * ram
    )
    batch = ch.ram_batch(rows)
    assert (
        batch.obs.dtype == torch.float32 and (batch.obs == 1).all() and (batch.next_obs == 0).all()
    )


def test_without_rewards_the_values_shrink_to_nothing_and_with_them_they_do_not() -> None:
    """Bellman's fixed point: 0 without rewards, and 1 / (1 - gamma) where every step pays 1."""
    rng = np.random.default_rng(0)
    ram = rng.integers(256, size=(256, 128), dtype=np.uint8)
    for reward, wanted in ((0.0, 0.0), (1.0, 2.0)):
        torch.manual_seed(0)
        net = ch.ram_net()
        dqn = ch.FOUNDATIONS.DQN(net, ch.ram_net(), torch.optim.Adam(net.parameters()))
        config = replace(SHORT, sync_every=20, learning_rate=1e-3)
        rewards = np.full(256, reward, np.float32)
        rows = Experience(
            ram, rng.integers(18, size=256), rewards, np.full(256, 0.5, np.float32), ram
        )
        state = {"env_steps": 0, "updates": 0}
        for _ in range(300):
            rows = rows._replace(actions=rng.integers(18, size=256))
            ch.sparse_update(dqn, ch.ram_batch(rows), config, state)
        with torch.no_grad():
            values = net(torch.from_numpy(ram) / 255)
        assert values.max(1).values.mean().item() == pytest.approx(wanted, abs=0.1)


def test_a_resumed_run_goes_on_and_a_finished_one_says_what_it_knows(tmp_path: Path) -> None:
    run = ch.train_sparse(SHORT, seed=3)
    first = next(run)
    save_checkpoint(tmp_path / "run.safetensors", first.state(), config=SHORT, seed=3)
    run.close()
    state = load_checkpoint(tmp_path / "run.safetensors", SHORT, 3)["state"]
    assert len(state["replay"]["obs"]) > 0 and state["env_steps"] == first.step == 400
    *_, last = ch.train_sparse(SHORT, seed=3, state=state)
    assert last.step == SHORT.steps and last.state()["updates"] > first.state()["updates"]
    (again,) = ch.train_sparse(SHORT, seed=3, state=last.state())
    assert again.metrics == last.metrics
    kept = last.state()["dqn"][0]
    assert all(torch.equal(kept[name], again.state()["dqn"][0][name]) for name in kept)


@pytest.mark.slow
def test_the_seed_decides_the_run() -> None:
    finals = []
    for seed in (1, 1, 2):
        *_, last = ch.train_sparse(SHORT, seed)
        finals.append(last.state()["dqn"][0]["0.weight"])
    assert torch.equal(finals[0], finals[1]) and not torch.equal(finals[0], finals[2])


def test_learning_sees_the_sign_of_a_reward_and_the_curve_its_points() -> None:
    ram = np.zeros((4, 128), np.uint8)
    no, rewards = np.zeros(4, bool), np.array([100.0, -3.0, 0.0, 1.0])
    step = Transition(ram, np.zeros(4, int), rewards, ram, ~no, no, ~no)
    net = ch.ram_net()
    dqn = ch.FOUNDATIONS.DQN(net, net, torch.optim.Adam(net.parameters()))
    replay, n_step = ch.Replay(8), ch.NStep(1, 0.9)
    state = {"env_steps": 0, "updates": 0}
    report = ch.sparse_report([step], dqn, replay, n_step, SHORT, state, np.random.default_rng(0))
    assert report["points"] == pytest.approx(1000 * rewards.mean())
    assert replay.rows(np.arange(4)).rewards.tolist() == [1, -1, 0, 1] and state["updates"] == 0


# ---- what was measured ------------------------------------------------------------------------------------------------


def test_both_games_have_the_same_buttons_and_the_same_settings() -> None:
    for env_id in ch.SPARSE_GAMES.values():
        env = gym.make(env_id, obs_type="ram")
        assert env.action_space.n == ch.BUTTON_COUNT and env.observation_space.shape == (128,)
        env.close()
    boxing, montezuma = (m.config for m in ch.MEASUREMENTS if m.row == "C1")
    assert replace(montezuma, env_id=boxing.env_id) == boxing
