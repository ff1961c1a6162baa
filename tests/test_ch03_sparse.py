"""Chapter 03, row C1: sparse against dense reward."""

import copy
from dataclasses import replace
from itertools import pairwise

import ale_py
import gymnasium as gym
import numpy as np
import pytest
import torch

from rlbook_utils.checkpoint import as_tensors, random_state
from rlbook_utils.definitions import load_chapter
from rlbook_utils.replay import Experience
from rlbook_utils.rollout import Transition, spread

gym.register_envs(ale_py)
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
    net = ch.RamNet()
    ram = torch.randint(256, (5, 128), dtype=torch.uint8)
    expected = torch.nn.Sequential(*net)(ram.double().float() / 255)
    torch.testing.assert_close(net(ram), expected)
    assert not torch.allclose(net(ram), net(ram // 2), atol=1e-3)


def batch_of(rewards: float, rng: np.random.Generator) -> Experience:
    ram = torch.from_numpy(rng.integers(256, size=(256, 128), dtype=np.uint8))
    paid, kept = torch.full((256,), rewards), torch.full((256,), 0.5)
    return Experience(ram, torch.from_numpy(rng.integers(18, size=256)), paid, kept, ram)


def test_without_rewards_the_values_shrink_to_nothing_and_with_them_they_do_not() -> None:
    """Bellman's fixed point: 0 without rewards, and 1 / (1 - gamma) where every step pays 1."""
    rng = np.random.default_rng(0)
    for reward, wanted in ((0.0, 0.0), (1.0, 2.0)):
        torch.manual_seed(0)
        net = ch.RamNet()
        dqn = ch.FOUNDATIONS.DQN(net, ch.RamNet(), torch.optim.Adam(net.parameters()))
        config = replace(SHORT, sync_every=20, learning_rate=1e-3)
        rows, state = batch_of(reward, rng), {"env_steps": 0, "updates": 0}
        for _ in range(300):
            rows = rows._replace(actions=torch.from_numpy(rng.integers(18, size=256)))
            ch.FOUNDATIONS.dqn_step(dqn, rows, config, state)
        with torch.no_grad():
            assert net(rows.obs).max(1).values.mean().item() == pytest.approx(wanted, abs=0.1)


def test_the_policy_explores_as_often_as_it_says_with_every_button() -> None:
    net = ch.RamNet()
    with torch.no_grad():
        net[-1].weight.zero_()
        net[-1].bias.copy_(torch.arange(18.0) == 7)
    policy = ch.ram_policy(net, lambda: 0.3, np.random.default_rng(0))
    shares = np.bincount(policy(np.zeros((20_000, 128), np.uint8)), minlength=18) / 20_000
    np.testing.assert_allclose(shares, 0.3 / 18 + 0.7 * (np.arange(18) == 7), atol=0.012)


def spied(monkeypatch: pytest.MonkeyPatch, config: object, seed: int) -> tuple[list, list, list]:
    """A training's reports, the transitions that it saw, and (rows, learning rate, env_steps) of every update."""
    seen, updates, transitions, step = [], [], ch.transitions, ch.FOUNDATIONS.dqn_step

    def noted(envs, policy, seed):
        for each in transitions(envs, policy, seed):
            seen.append((seed, each))
            yield each

    def learned(dqn, rows, config, state):
        loss = step(dqn, rows, config, state)
        updates.append((rows, dqn.optimiser.param_groups[0]["lr"], state["env_steps"]))
        return loss

    monkeypatch.setattr(ch, "transitions", noted)
    monkeypatch.setattr(ch.FOUNDATIONS, "dqn_step", learned)
    reports = list(ch.train_sparse(config, seed))
    monkeypatch.undo()
    return reports, seen, updates


def test_a_training_reports_the_games_points_and_learns_from_their_signs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = ch.SparseConfig(steps=1600)
    monkeypatch.setattr(ch, "SPARSE_WARM_UP", 400)
    reports, seen, updates = spied(monkeypatch, config, 3)
    assert [report.step for report in reports] == [800, 1600]
    rewards = np.array([step.rewards for _, step in seen])
    assert np.abs(rewards).sum() > 5  # Boxing pays
    for i, report in enumerate(reports):
        expected = 1000 * rewards[100 * i : 100 * (i + 1)].mean()
        assert report.metrics["points"] == pytest.approx(expected)
    assert 1 <= updates[0][2] <= 800 and updates[-1][2] == 1600
    np.testing.assert_allclose([rate for _, rate, _ in updates], [5e-4 * (1 - at / 1600) for *_, at in updates])  # fmt: skip
    sums = {round(sum(0.95**i for i in range(5) if bits >> i & 1) - sum(0.95**i for i in range(5) if minus >> i & 1), 4)
            for bits in range(32) for minus in range(32)}  # fmt: skip
    drawn = np.concatenate([rows.rewards.numpy() for rows, *_ in updates])
    assert {round(float(reward), 4) for reward in np.unique(drawn)} <= sums
    assert np.isclose(drawn, 0.95**2).any()  # three steps before the punch
    early, state = (report.state() for report in reports)
    assert len(state["replay"]["obs"]) == 1600 - 4 * 8 and state["updates"] == len(updates)
    assert early["env_steps"] == 800 and len(early["replay"]["obs"]) == 800 - 4 * 8
    assert not torch.equal(early["dqn"][0]["0.weight"], state["dqn"][0]["0.weight"])
    net = ch.RamNet()
    net.load_state_dict(as_tensors(state["dqn"][0]))
    with torch.no_grad():
        sizes = net(torch.from_numpy(state["replay"]["obs"])).abs().mean(1)
    assert reports[-1].metrics["value"] == pytest.approx(sizes.mean().item(), rel=0.05)


def test_no_two_uses_of_a_seed_and_no_two_seeds_share_their_games(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = []
    monkeypatch.setattr(
        ch, "transitions", lambda envs, policy, seed: given.append(seed) or iter(())
    )
    for use in (ch.LEARNING, ch.WANDERING, ch.SCORING):
        for seed in (1, 2, 3, 4, 5):
            list(ch.played(MONTEZUMA, None, 1, use, seed))
    games = [one for seed in given for one in spread(seed, 40)]
    assert len(given) == 15 and len(set(games)) == 600


@pytest.mark.slow
def test_the_seed_decides_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ch, "SPARSE_WARM_UP", 200)
    config = replace(SHORT, env_id=ch.SPARSE_GAMES["Boxing"], steps=800)
    weights, pictures, points = [], [], []
    for seed in (1, 1, 2):
        reports = list(ch.train_sparse(config, seed))
        state = reports[-1].state()
        assert state["updates"] > 100
        weights.append(torch.as_tensor(state["dqn"][0]["0.weight"]))
        pictures.append(state["replay"]["obs"])
        points.append([report.metrics["points"] for report in reports])
    for found in (weights, pictures, points):
        assert np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])


def same(one: object, other: object) -> bool:
    """Whether two nested states hold the same numbers."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(np.array_equal(one, other))


@pytest.mark.slow
def test_a_training_goes_on_where_it_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ch, "SPARSE_WARM_UP", 400)
    config = ch.SparseConfig(steps=1600)
    kept = next(ch.train_sparse(config, 3)).state()
    before = copy.deepcopy(kept)
    assert before["updates"] > 0
    begun, games, play, transitions = [], [], ch.learn_for_a_report, ch.transitions

    def noted(dqn, stream, replay, n_step, config, state, rng):
        parts = copy.deepcopy([part.state_dict() for part in dqn])
        rows = replay.rows(np.arange(len(replay)))._asdict() if len(replay) else {}
        begun.append((parts, rows, copy.deepcopy(random_state(rng))))
        return play(dqn, stream, replay, n_step, config, state, rng)

    monkeypatch.setattr(ch, "learn_for_a_report", noted)
    begin = lambda envs, policy, seed: games.append(seed) or transitions(envs, policy, seed)
    monkeypatch.setattr(ch, "transitions", begin)
    (last,) = ch.train_sparse(config, 3, kept)
    assert last.step == 1600 and last.state()["updates"] == before["updates"] + 100
    parts, rows, random = begun[0]
    assert same(parts, as_tensors(before["dqn"])) and same(rows, before["replay"])
    assert same(random, before["random"]) and same(kept, before)
    next(ch.train_sparse(config, 3))
    assert spread(games[0], 8) != spread(games[1], 8)  # the resumed run's games are new ones
    assert len(last.state()["replay"]["obs"]) == 2 * len(before["replay"]["obs"])
    (done,) = ch.train_sparse(config, 3, last.state())
    assert done.step == 1600 and done.metrics == last.metrics


def test_points_are_those_of_a_whole_game_or_of_its_first_two_minutes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def played(env_id, policy, games, use, seed):
        ram, no = np.zeros((2, 128), np.uint8), np.zeros(2, bool)
        for t in range(10_000):
            over = np.array([t == 3, False])
            yield Transition(ram, no, np.array([1.0, 2.0]), ram, over, no, ~no)

    monkeypatch.setattr(ch, "played", played)
    np.testing.assert_array_equal(ch.game_points(None, MONTEZUMA, 2, 0), [4, 2 * 1800])


# ---- what was measured ------------------------------------------------------------------------------------------------


def test_both_games_have_the_same_buttons_and_the_same_settings() -> None:
    for env_id in ch.SPARSE_GAMES.values():
        env = gym.make(env_id, obs_type="ram")
        assert env.action_space.n == ch.BUTTON_COUNT and env.observation_space.shape == (128,)
        env.close()
    boxing, montezuma = (m.config for m in ch.MEASUREMENTS if m.name in ("boxing", "montezuma"))
    assert replace(montezuma, env_id=boxing.env_id) == boxing


@pytest.mark.slow
@pytest.mark.parametrize("game", ["boxing", "montezuma"])
def test_the_sparse_games_are_measured(monkeypatch: pytest.MonkeyPatch, game: str) -> None:
    (measurement,) = (m for m in ch.MEASUREMENTS if m.name == game)
    scored, trained = [], ch.trained_policy

    def few(policy, env_id, games, seed):
        scored.append((env_id, games, seed))
        return np.array([7.0, 9.0]) if policy in learned else np.array([1.0, 2.0])

    learned = []
    note = lambda state, seed: learned.append(trained(state, seed)) or learned[0]
    monkeypatch.setattr(ch, "trained_policy", note)
    monkeypatch.setattr(ch, "game_points", few)
    config = replace(measurement.config, steps=800)
    found = measurement.measure(config, 3)
    assert found.metrics == {f"{game}_return": 8} and found.baselines == {f"{game}_return": 1.5}
    assert set(found.metrics) == set(found.baselines) == {f"{game}_return"}
    assert scored == [(config.env_id, 5, 3)] * 2
    assert {len(found.curves[name]) for name in ("points", "loss", "value")} == {1}
    if game == "montezuma":
        steps = ch.wander(config, 3)
        assert len(steps) == 100 and len({step.actions.tobytes() for step in steps}) > 90
        np.testing.assert_array_equal(found.curves["posts"], ch.posts_reached(steps))
    else:
        assert "posts" not in found.curves


@pytest.mark.slow
def test_who_holds_one_button_or_only_punches_loses_by_more_than_who_presses_any() -> None:
    boxing, rng = ch.SPARSE_GAMES["Boxing"], np.random.default_rng(0)
    punches = np.array([1, *range(10, 18)])  # with the fire button
    anything = ch.game_points(lambda ram: rng.integers(18, size=len(ram)), boxing, 5, 1).mean()
    held = ch.game_points(lambda ram: np.arange(len(ram)), boxing, 18, 1)
    assert held.max() + 5 < anything
    assert (
        ch.game_points(lambda ram: rng.choice(punches, len(ram)), boxing, 5, 1).mean() + 5
        < anything
    )
