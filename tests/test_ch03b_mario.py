"""Chapter 03b: what is paid, what an end costs, who learns from what; and all of it in a small world with Mario's interface."""

import copy
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from scipy.stats import chisquare, spearmanr

from rlbook_utils import mario
from rlbook_utils.checkpoint import random_state
from rlbook_utils.definitions import load_chapter
from rlbook_utils.exercises import Wrong, check, oracles

ch = load_chapter("ch03b_mario")


class Stairs(VectorEnv):
    """A way of 40 places behind ``MarioGames``' interface; how to get on is to be read from the picture.

    Every place has a picture of its own, bright on its left or on its right half. Bright on the left: the first six
    actions lead to the next place; on the right: the other six. A wrong action leaves everything as it is, and the
    third in a row ends the episode. A player that does not look passes a place with chance 7/8 at best, and so comes
    7 places far on average. x: the place, in steps of 75 pixels.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012
    PLACES, WIDE = 40, 75

    def __init__(self, num_envs: int, *_: object, **__: object) -> None:
        self.num_envs, self.single_action_space = num_envs, Discrete(12)
        rng = np.random.default_rng(0)
        self.right = rng.permutation(np.arange(self.PLACES) % 2).astype(bool)  # [places]
        side = (np.arange(40) >= 20) == self.right[:, None]  # [places, 40]
        textures = rng.integers(100, size=(self.PLACES, 42, 40))
        self.pictures = (textures + 150 * side[:, None]).astype(np.uint8)
        self.first = np.repeat(self.pictures[:1], 3, axis=0)

    def reset(self, *, seed=None, options=None):
        self.place, self.failed = np.zeros((2, self.num_envs), int)
        self.obs = np.stack([self.first] * self.num_envs)  # [N, 3, 42, 40]
        self.furthest, self.flags = self.WIDE * self.place, self.place > 0
        return self.obs.copy(), {}

    def told(self, playing=True):
        """Games that rest keep what was told of them last."""
        self.furthest = np.where(playing, self.WIDE * self.place, self.furthest)
        self.flags = np.where(playing, self.place == self.PLACES - 1, self.flags)

    def step(self, actions):
        on = ((actions >= 6) == self.right[self.place]) & (actions >= 0)
        self.place = self.place + on
        self.told(actions >= 0)
        self.failed = np.where(on, 0, self.failed + (actions >= 0))
        terminated, truncated = self.place == self.PLACES - 1, self.failed == 3
        self.obs = np.concatenate([self.obs[:, 1:], self.pictures[self.place][:, None]], axis=1)
        final, done = np.full(self.num_envs, None, object), terminated | truncated
        for n in np.flatnonzero(done):
            final[n] = self.obs[n].copy()
        self.place, self.failed = np.where(done, 0, self.place), np.where(done, 0, self.failed)
        self.obs[done] = self.first
        return self.obs.copy(), on.astype(float), terminated, truncated, {"final_obs": final}


@pytest.fixture
def stairs(monkeypatch):
    """Mario's agents play ``Stairs``."""
    monkeypatch.setattr(ch, "MarioGames", Stairs)


SMALL = ch.CuriousConfig(steps=256, num_envs=4, horizon=32, warm_up=1, minibatch=32)


def some_rollout(reward="icm", steps=6, envs=3, seed=0, **changes):
    """A learner, and a rollout of random numbers in which two episodes end, one of them by the clock."""
    torch.manual_seed(seed)
    config = ch.CuriousConfig(reward=reward, num_envs=envs, minibatch=32, **changes)
    learner = ch.make_learner(config, Stairs(envs), "cpu")
    net, obs = learner.net, torch.randint(0, 256, (steps + 1, envs, 3, 42, 40)).float()
    net.pixels.show(obs.flatten(2))
    terminated, done = torch.zeros(2, steps, envs, dtype=torch.bool)
    terminated[2, 0] = done[2, 0] = done[3, 1] = True
    with torch.no_grad():
        policy, values = net(obs[:-1].flatten(0, 1))
        actions = policy.sample()
        log_probs = policy.log_prob(actions).view(steps, envs)
    values = values.view(steps, envs, 2)
    rollout = ch.POLICIES.Rollout(
        obs[:-1], actions.view(steps, envs), log_probs, torch.randn(steps, envs), values,
        torch.randn(steps, envs, 2), terminated, done,
    )  # fmt: skip
    return learner, rollout, obs[-1].numpy().astype(np.uint8), config


def viewed(learner, rollout, latest):
    return learner.net.view(torch.cat([rollout.obs, torch.from_numpy(latest)[None]]))


# What is seen


def test_pictures_are_means_of_blocks_and_the_brightest_colour():
    screens = np.random.default_rng(0).integers(256, size=(2, 224, 240, 3)).astype(np.uint8)
    found = ch.shrink(screens)
    assert found.shape == (2, 42, 40) and found.dtype == np.uint8
    for n, row, column in [(0, 0, 0), (0, 41, 39), (1, 17, 5), (1, 3, 38)]:
        block = screens[n, 14 + 5 * row : 19 + 5 * row, 6 * column : 6 * column + 6].astype(int)
        assert found[n, row, column] == max(block[..., c].sum() for c in range(3)) // 30


def test_the_view_is_each_pixel_in_units_of_its_own_deviation_cut_at_five():
    learner, rollout, latest, _ = some_rollout()
    pixels = np.concatenate([rollout.obs, latest[None]]).reshape(-1, 5040).astype(float)
    expected = ((pixels - pixels.mean(0)) / pixels.std(0)).clip(-5, 5)
    found = viewed(learner, rollout, latest).reshape(-1, 5040)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert learner.net.view(1e6 * rollout.obs[0]).max() == 5
    assert (
        ch.CuriousNet().view(rollout.obs[0][:1] % 5) == rollout.obs[0][:1] % 5
    ).all()  # nothing shown yet


# What is paid


def test_each_step_is_paid_for_what_followed_it_and_an_end_is_not():
    learner, rollout, latest, _ = some_rollout()
    obs = viewed(learner, rollout, latest)
    paid = ch.surprises(learner, obs, rollout.actions, rollout.done)
    assert paid.shape == (6, 3)
    for t, n in np.ndindex(6, 3):
        now, after = obs[t, n][None], obs[t + 1, n][None]
        expected = learner.curiosity.surprise(now, rollout.actions[t, n][None], after).item()
        np.testing.assert_allclose(paid[t, n], expected * (not rollout.done[t, n]), rtol=1e-4)
    assert paid[2, 0] == paid[3, 1] == 0 and (paid == 0).sum() == 2


def test_the_last_step_of_a_rollout_is_paid_for_what_came_after_it(monkeypatch):
    learner, rollout, latest, config = some_rollout()
    seen, pay = [], ch.surprises
    monkeypatch.setattr(ch, "surprises", lambda *given: seen.append(given[1]) or pay(*given))
    before = copy.deepcopy(learner.net)
    ch.learn_from(learner, rollout, latest, config, steps=100_000)
    expected = before.view(torch.cat([rollout.obs, torch.from_numpy(latest)[None]]))
    torch.testing.assert_close(seen[0], expected)


@pytest.mark.parametrize("reward", ch.REWARDS)
def test_what_never_learns_does_not_learn_and_everything_else_does(reward):
    learner, rollout, latest, config = some_rollout(reward)
    before = {n: p.clone() for n, p in learner.curiosity.named_parameters() if p.requires_grad}
    policy = learner.net.policy.weight.clone()
    ch.learn_from(learner, rollout, latest, config, steps=100_000)
    changed = {
        n for n, p in learner.curiosity.named_parameters() if p.requires_grad and not torch.equal(p, before[n])
    }  # fmt: skip
    assert changed == (set(before) if ch.REWARDS[reward].learns else set())
    assert not torch.equal(policy, learner.net.policy.weight)


def test_a_reward_that_a_reader_adds_is_taken_everywhere(monkeypatch):
    monkeypatch.setitem(ch.REWARDS, "counts", ch.Reward("counts", ch.Counts, learns=False))
    learner, rollout, latest, config = some_rollout("counts")
    assert config.reward == "counts" and isinstance(learner.curiosity, ch.Counts)
    policy = learner.net.policy.weight.clone()
    ch.learn_from(learner, rollout, latest, config, steps=100_000)
    goes_on = rollout.done.numel()  # every step is looked at, also those that pay nothing
    assert learner.curiosity.counts.sum() == goes_on
    assert not torch.equal(policy, learner.net.policy.weight)


def test_motion_pays_the_squared_change_of_features_and_an_untrained_icm_nearly_that():
    learner, rollout, latest, _ = some_rollout("motion")
    obs = viewed(learner, rollout, latest)
    features = learner.curiosity.encoder(obs.flatten(0, 1)).view(7, 3, 288)
    expected = (features[1:] - features[:-1]).square().mean(-1) * ~rollout.done
    paid = ch.surprises(learner, obs, rollout.actions, rollout.done)
    torch.testing.assert_close(paid, expected)
    icm, *_ = some_rollout("frozen_icm")
    nearly = ch.surprises(icm, obs, rollout.actions, rollout.done)
    assert nearly.shape == paid.shape and not torch.allclose(nearly, paid)


def test_pixels_predict_the_newest_picture_and_its_change():
    torch.manual_seed(0)
    curiosity = ch.pixels()
    obs, next_obs = torch.rand(2, 4, 3, 42, 40)
    torch.nn.init.zeros_(curiosity.forward_model.layers[-1].weight)
    torch.nn.init.zeros_(curiosity.forward_model.layers[-1].bias)
    expected = (next_obs[:, 2] - obs[:, 2]).square().mean((1, 2))
    found = curiosity.surprise(obs, torch.zeros(4, dtype=torch.long), next_obs)
    torch.testing.assert_close(found, expected)


def test_shuffled_surprises_are_the_same_ones_elsewhere(monkeypatch):
    learner, rollout, latest, config = some_rollout("shuffled")
    seen = []
    weigh = ch.weighted_advantages
    note = lambda *given: seen.append(given[2]) or weigh(*given)
    monkeypatch.setattr(ch, "weighted_advantages", note)
    paid = ch.surprises(learner, viewed(learner, rollout, latest), rollout.actions, rollout.done)
    for change in ({}, {"reward": "icm"}):
        ch.learn_from(copy.deepcopy(learner), rollout, latest, replace(config, **change), 100_000)
    assert not torch.equal(seen[0], paid)
    torch.testing.assert_close(seen[0].flatten().sort()[0], paid.flatten().sort()[0])
    torch.testing.assert_close(seen[1], paid)


def test_rewards_are_paid_in_units_of_the_deviation_of_their_discounted_sums():
    rng, scale = np.random.default_rng(0), ch.POLICIES.Normaliser(1)
    sums, seen, running = torch.zeros(4, dtype=torch.float64), [], np.zeros(4)
    for _ in range(3):
        rewards = rng.exponential(size=(10, 4))
        for row in rewards:
            running = 0.9 * running + row
            seen.append(running)
        found = ch.in_own_scale(torch.from_numpy(rewards), scale, sums, 0.9)
        np.testing.assert_allclose(found, rewards / np.std(seen), rtol=1e-5)
    np.testing.assert_allclose(sums, running)


# What an end costs


@pytest.mark.parametrize("ends", ["cost", "none", "terminal"])
def test_an_end_is_followed_by_what_its_rule_says(ends):
    gamma, lam = 0.98, 0.8
    learner, rollout, _, config = some_rollout(ends=ends, discount=gamma, lam=lam)
    paid = torch.rand(6, 3)
    advantages, returns = ch.curious_advantages(learner, rollout, paid, config)
    with torch.no_grad():
        start = learner.net(torch.from_numpy(Stairs(1).first)[None])[1][0, 0].item()
    v, following = rollout.values[..., 0].numpy(), rollout.next_values[..., 0].numpy()
    after_end = {"cost": gamma**71.5 * start, "none": gamma * start, "terminal": 0.0}[ends]
    for n in range(3):
        later = 0.0
        for t in reversed(range(6)):
            done = rollout.done[t, n].item()
            error = paid[t, n].item() + (after_end if done else gamma * following[t, n]) - v[t, n]
            later = error + gamma * lam * (0 if done and ends != "none" else later)
            np.testing.assert_allclose(advantages[t, n], later, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(returns[t, n], later + v[t, n], rtol=1e-4, atol=1e-5)
    assert abs(start) > 1e-3


def test_the_games_reward_ends_with_its_episode():
    learner, rollout, _, config = some_rollout("game", game_discount=0.9, lam=0.8)
    before = copy.deepcopy(learner)
    advantages, returns = ch.weighted_advantages(learner, rollout, torch.rand(6, 3), config)
    points = ch.in_own_scale(rollout.rewards, before.net.scales[1], before.sums[1], 0.9)
    v, following = rollout.values[..., 1].numpy(), rollout.next_values[..., 1].numpy()
    for n in range(3):
        later = 0.0
        for t in reversed(range(6)):
            goes_on = not rollout.done[t, n]
            error = points[t, n].item() + 0.9 * following[t, n] * goes_on - v[t, n]
            later = error + 0.9 * 0.8 * goes_on * later
            np.testing.assert_allclose(advantages[t, n], later, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(returns[t, n, 1], later + v[t, n], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(returns[..., 0], rollout.values[..., 0])


def test_surprise_alone_is_blind_to_the_games_reward_and_the_game_to_surprise():
    for reward, minds in {
        "icm": (False, True),
        "both": (True, True),
        "game": (True, False),
    }.items():
        learner, rollout, _, config = some_rollout(reward)
        surprise, other = torch.rand(2, 6, 3)
        richer = rollout._replace(rewards=rollout.rewards + torch.randn_like(rollout.rewards))
        given = ((rollout, surprise), (richer, surprise), (rollout, other))
        plain, game, curious = (
            ch.weighted_advantages(copy.deepcopy(learner), *each, config) for each in given
        )
        for changed, mind in zip((game, curious), minds, strict=True):
            assert all(map(torch.allclose, plain, changed)) != mind


def test_both_rewards_weigh_as_much():
    learner, rollout, _, config = some_rollout("both")
    surprise, found = torch.rand(6, 3), {}
    for reward in ("icm", "game", "both"):
        given = (copy.deepcopy(learner), rollout, surprise, replace(config, reward=reward))
        found[reward], _ = ch.weighted_advantages(*given)
    torch.testing.assert_close(found["both"], found["icm"] + found["game"])


# Who learns, when, and from what


def test_policy_and_curiosity_are_trained_apart_and_the_forward_loss_stops(monkeypatch):
    learner, rollout, latest, _ = some_rollout()
    obs = viewed(learner, rollout, latest)
    before = copy.deepcopy(learner.net.state_dict())
    after, losses = {}, ch.CURIOSITY.ICM.losses
    for weight in (0.0, 1.0, 100.0):
        monkeypatch.setattr(
            ch.CURIOSITY.ICM, "losses",
            lambda *given, weight=weight: (found := losses(*given)) | {"forward": weight * found["forward"]},
        )  # fmt: skip
        twin = copy.deepcopy(learner)
        plain = torch.optim.SGD(
            twin.curiosity.parameters(), 0.1
        )  # a share cannot hide in Adam's division
        torch.manual_seed(0)
        ch.improve_curiosity(
            twin._replace(curiosity_optimiser=plain), obs, rollout.actions, rollout.done, 8
        )
        assert all(torch.equal(p, before[name]) for name, p in twin.net.state_dict().items())
        after[weight] = twin.curiosity
    for part in ("encoder", "inverse_model"):
        ways = [list(getattr(after[weight], part).parameters()) for weight in after]
        start = getattr(learner.curiosity, part).parameters()
        for unpaid, paid, overpaid, begun in zip(*ways, start, strict=True):
            assert torch.equal(unpaid, paid) and torch.equal(unpaid, overpaid), part
            assert not torch.equal(unpaid, begun), part
    first = [after[weight].forward_model.layers[0].weight for weight in (0.0, 1.0)]
    assert not torch.equal(*first)


def test_the_curiosity_sees_each_step_that_goes_on_once_and_no_pair_across_an_end(monkeypatch):
    learner, rollout, latest, _ = some_rollout()
    obs = viewed(learner, rollout, latest)
    seen, losses = [], ch.CURIOSITY.ICM.losses
    monkeypatch.setattr(
        ch.CURIOSITY.ICM, "losses", lambda icm, *batch: seen.append(batch) or losses(icm, *batch)
    )
    ch.improve_curiosity(learner, obs, rollout.actions, rollout.done, 5)
    before, actions, after = (torch.cat(column) for column in zip(*seen, strict=True))
    key = lambda a, action, b: (round(a.sum().item(), 1), int(action), round(b.sum().item(), 1))
    expected = [
        key(obs[t, n], rollout.actions[t, n], obs[t + 1, n])
        for t, n in np.ndindex(6, 3) if not rollout.done[t, n]
    ]  # fmt: skip
    assert sorted(map(key, before, actions, after)) == sorted(expected) and len(expected) == 16


def test_every_row_of_a_rollout_is_seen_exactly_epochs_times_with_its_own_columns(monkeypatch):
    learner, rollout, latest, config = some_rollout()
    marks, seen = torch.arange(18.0).view(6, 3), []

    def note(log_probs, entropies, values, old_log_probs, advantages, returns, *_):
        rows = old_log_probs.long()
        torch.testing.assert_close(
            log_probs, rollout.log_probs.flatten()[rows], atol=1e-4, rtol=1e-3
        )
        assert torch.equal(advantages, rows + 100.0) and torch.equal(returns[:, 1], rows - 1.0)
        seen.extend(rows.tolist())
        return 0 * values.sum(), {"entropy": torch.zeros(())}

    monkeypatch.setattr(ch.POLICIES, "ppo_loss", note)
    made = (marks + 100, torch.stack([marks, marks - 1], -1))
    monkeypatch.setattr(ch, "weighted_advantages", lambda *_: made)
    config = replace(config, epochs=3)
    ch.learn_from(learner, rollout._replace(log_probs=marks), latest, config, 100_000)
    assert Counter(seen) == dict.fromkeys(range(18), 3)


def test_the_policy_waits_while_scales_are_found_and_its_rate_falls(stairs, monkeypatch):
    rates, shown, improve = [], [], ch.POLICIES.ppo_epochs

    def note(net, optimiser, columns, config, entropy_weight):
        rates.append(optimiser.param_groups[0]["lr"])
        assert entropy_weight == config.entropy
        return improve(net, optimiser, columns, config, entropy_weight)

    monkeypatch.setattr(ch.POLICIES, "ppo_epochs", note)
    config = replace(SMALL, steps=320, num_envs=4, horizon=16, warm_up=2)
    for progress in ch.train_curious(config, seed=1):
        state = progress.state()
        shown.append(int(state["net"]["pixels.count"]))
        assert state["curiosity_optimiser"]["param_groups"][0]["lr"] == 5e-5
    np.testing.assert_allclose(rates, 5e-4 * np.array([0.6, 0.4, 0.2]))
    assert shown == [64, 128, 128, 128, 128]


# The whole training


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_paid_by_surprise_alone_the_agent_learns_to_look_and_paid_at_random_it_does_not(
    stairs, seed
):
    config = ch.CuriousConfig(
        ends="none", steps=2560, num_envs=16, horizon=16, warm_up=1, minibatch=64, learning_rate=2e-3,
        discount=0.5, lam=0.5, entropy=0.0,
    )  # fmt: skip
    reach = {}
    for reward in ("icm", "shuffled"):
        *_, last = ch.train_curious(replace(config, reward=reward), seed)
        places, _ = ch.score(ch.net_of(last.state()), seed, episodes=50)
        reach[reward] = places.mean() / Stairs.WIDE
    assert reach["icm"] > 14 and reach["shuffled"] < 10, (
        reach
    )  # who does not look comes 7 places far


def test_two_trainings_with_one_seed_are_the_same_another_is_another_and_a_stop_loses_nothing(
    stairs,
):
    runs = [[*ch.train_curious(SMALL, seed)] for seed in (1, 1, 2)]
    weights = [run[-1].state()["net"]["policy.weight"] for run in runs]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    half = next(ch.train_curious(SMALL, 1)).state()
    assert not torch.equal(half["net"]["policy.weight"], weights[0])
    ends = []
    for _ in range(2):
        resumed = [*ch.train_curious(SMALL, 1, copy.deepcopy(half))]
        assert [progress.step for progress in resumed] == [256]
        ends.append(resumed[-1].state())
    for name in ch.LEARNED[:2]:
        for key, value in ends[0][name].items():
            assert torch.equal(value, ends[1][name][key]), key
    assert half["steps"] == 128 and set(half) >= {"sums", "random", "recent", "metrics"}
    for name in ("optimiser", "curiosity_optimiser"):  # both go on where they were
        counts = {int(state[name]["state"][0]["step"]) for state in (runs[0][-1].state(), *ends)}
        assert len(counts) == 1
    (finished,) = ch.train_curious(SMALL, 1, ends[0])
    assert finished.step == 256


def test_a_resumed_training_begins_with_all_that_was_kept(stairs, monkeypatch):
    seen, learn = [], ch.learn_from

    class Noted(ch.MarioCollector):
        def collect(self, horizon):
            seen.append({"recent": [*self.recent], "random": random_state()})
            return super().collect(horizon)

    def noted(learner, *given):
        seen[-1]["sums"] = learner.sums.clone()
        seen[-1] |= {name: copy.deepcopy(getattr(learner, name).state_dict()) for name in ch.LEARNED}  # fmt: skip
        return learn(learner, *given)

    half = next(ch.train_curious(replace(SMALL, horizon=64), 1)).state()
    assert half["recent"] and half["sums"].abs().min() > 0
    monkeypatch.setattr(ch, "MarioCollector", Noted)
    monkeypatch.setattr(ch, "learn_from", noted)
    list(ch.train_curious(replace(SMALL, steps=512), 1, copy.deepcopy(half)))
    for name, kept in seen[0].items():
        assert same(kept, half[name]), name


def same(one, other):
    """Whether two nested states hold the same numbers."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(np.array_equal(one, other))


# What is measured


def test_who_does_not_look_comes_seven_places_far_and_who_looks_to_the_end(stairs):
    rng = np.random.default_rng(0)
    asked = []
    blind, _ = ch.play_out(
        lambda obs: asked.append(len(obs)) or rng.integers(12, size=len(obs)), 400
    )
    assert (
        asked[0] == 400 and asked[-1] < 10 and (np.diff(asked) <= 0).all()
    )  # who has finished rests
    assert abs(blind.mean() / Stairs.WIDE - 7) < 1  # 7.0 +- 0.4
    looks = lambda obs: np.where(obs[:, -1, :, 20:].mean((1, 2)) > 124, 6, 0)
    reach, flags = ch.play_out(looks, 5)
    assert (reach == 39 * Stairs.WIDE).all() and flags.all()


def test_coins_press_their_buttons_alike_and_never_another():
    for name, sides in ch.COINS.items():
        wanted = [i for i, action in enumerate(ch.ACTIONS) if {
            "all": True, "right": "right" in action, "right_jump": action in ("right", "right, jump"),
            "run_jump": action in ("right, run", "right, jump, run"),
        }[name]]  # fmt: skip
        assert [*sides] == wanted
        actions = np.concatenate([ch.coin(name, seed)(np.zeros((2000, 1))) for seed in range(3)])
        counts = np.bincount(actions, minlength=12)
        assert counts[wanted].sum() == 6000 and chisquare(counts[wanted]).pvalue > 1e-3
    first, again, other = (ch.coin("right", seed)(np.zeros((40, 1))) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


def test_ends_are_counted_behind_each_place():
    reach = np.array([300, 736, 768, 769, 1155, 1169, 1443, 1457, 3161, 3161])
    flags = np.arange(10) == 9
    assert ch.ends_of(reach, flags) == {
        "mean_reach": reach.mean(), "median_reach": 1162.0, "past_third_pipe": 0.7,
        "past_first_pit": 0.5, "past_second_pit": 0.3, "flag": 0.1,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not ch.can_play(), reason="Super Mario's emulator is not installed.")
def test_nobody_who_fell_into_a_pit_is_past_it(monkeypatch):
    fell, dead = [], mario.is_dead

    def noted(ram):
        if ram[0xB5] > 1:  # below the screen
            fell.append(256 * ram[0x6D] + ram[0x86])
        return dead(ram)

    monkeypatch.setattr(mario, "is_dead", noted)
    ch.play_out(ch.coin("right_jump", 1), 100)
    fell = np.array(fell)
    for name, behind in ch.BEHIND.items():
        start, end = ch.PLACES[name]
        here = fell[(fell > start) & (fell < end + 100)]
        assert (here <= behind).all()
        assert name != "first_pit" or (here > end).sum() > 3  # the pit's end would count them


def test_what_pays_is_what_the_policys_steps_are_paid_and_how_much_the_picture_changed(stairs):
    torch.manual_seed(0)
    net, curiosity = ch.CuriousNet(), ch.motion()
    state = torch.get_rng_state()
    found = ch.what_pays(net, curiosity, decisions=40)
    torch.set_rng_state(state)
    games, expected = Stairs(32), []
    obs, _ = games.reset()
    for _ in range(40):
        actions = net(torch.from_numpy(obs))[0].sample()
        following, _, terminated, truncated, _ = games.step(actions.numpy())
        views = (net.view(torch.from_numpy(each)) for each in (obs, following))
        features = [curiosity.encoder(view) for view in views]
        pays = (features[1] - features[0]).square().mean(1).detach()
        for n in np.flatnonzero(~(terminated | truncated)):
            moved = np.abs(following[n, -1].astype(float) - obs[n, -1]).mean()
            expected.append((pays[n], moved, games.furthest[n]))
        obs = following
    np.testing.assert_allclose(np.array(found).T, expected, rtol=1e-3, atol=1e-5)


def test_a_score_is_that_of_the_agent_that_is_left_beside_the_coin(stairs, monkeypatch):
    trained, train = [], ch.train_curious

    def noted(*given, **named):
        for progress in train(*given, **named):
            trained.append(progress)
            yield progress

    monkeypatch.setattr(ch, "train_curious", noted)
    found = ch.measure_curious(SMALL, 1)
    net = ch.net_of(trained[-1].state())
    reach, flags = ch.score(net, 1)
    assert {name: found.metrics[name] for name in ch.ends_of(reach, flags)} == ch.ends_of(
        reach, flags
    )
    assert found.baselines == ch.ends_of(*ch.play_out(ch.coin(ch.BEST_COIN, 1), 100))
    paid, change, x = ch.what_pays(net, ch.curiosity_of(trained[-1].state()))
    assert found.metrics["change_correlation"] == pytest.approx(spearmanr(paid, change)[0])
    np.testing.assert_allclose(found.curves["paid"], np.bincount(x // 100, paid, 33))
    np.testing.assert_array_equal(found.curves["visits"], np.bincount(x // 100, minlength=33))
    assert set(found.state) == {"net", "curiosity"} and ch.measure_curious(SMALL, 2).state is None


def test_the_dqn_that_was_trained_is_scored(stairs, monkeypatch):
    _, config = some_dqn(steps=1024)
    played, play = [], ch.play_out
    monkeypatch.setattr(ch, "play_out", lambda policy, episodes: played.append(policy) or play(policy, episodes))  # fmt: skip
    found = ch.measure_dqn(config, 1)
    *_, last = ch.train_curious_dqn(config, 1)
    net = ch.CuriousQNet()
    net.load_state_dict(last.state()["dqn"][0])
    rng = np.random.default_rng(ch.spread((ch.SCORING, 1), 1)[0])
    expected = ch.ends_of(*play(lambda obs: ch.chosen(net, obs, config, config.steps, rng), 100))
    assert {name: found.metrics[name] for name in expected} == expected and len(played) == 2
    assert found.baselines == ch.ends_of(*play(ch.coin(ch.BEST_COIN, 1), 100))


def test_coins_clocks_and_frames_are_measured(stairs, monkeypatch):
    for name in ch.COINS:
        found = ch.measure_coin(None, 2, name)
        reach, flags = ch.play_out(ch.coin(name, 2), 100)
        assert found.metrics == ch.ends_of(reach, flags)
        np.testing.assert_array_equal(found.curves["reach"], reach)
    monkeypatch.setattr(ch, "clocks", lambda periods, held: 100 * periods + held)
    found = ch.measure_clocks(None, 1)
    assert found.metrics["best_reach"] == 2423 and len(set(found.curves["reach"])) == 276
    assert ch.measure_speed(None, 1).metrics["frames_per_second"] > 0


# The source's agent


def test_the_dqn_acts_at_random_then_by_softmax_then_greedily(monkeypatch):
    config = ch.CuriousDQNConfig(steps=1024, warm_up=128, temperature=0.5, epsilon=0.6)
    net, obs = ch.CuriousQNet(), np.zeros((6000, 3, 1, 1), np.uint8)
    q = torch.linspace(0, 1.1, 12)
    monkeypatch.setattr(net, "forward", lambda obs: q.expand(len(obs), -1))
    softmax = np.exp(q.numpy() / 0.5) / np.exp(q.numpy() / 0.5).sum()
    greedy = np.full(12, 0.05) + 0.4 * np.eye(12)[11]
    rng, anything = np.random.default_rng(0), np.full(12, 1 / 12)
    torch.manual_seed(0)
    for steps, expected in ((127, anything), (128, softmax), (511, softmax), (512, greedy)):
        shares = np.bincount(ch.chosen(net, obs, config, steps, rng), minlength=12) / len(obs)
        np.testing.assert_allclose(shares, expected, atol=0.02)


def some_dqn(**changes):
    few = {"steps": 512, "num_envs": 4, "warm_up": 128, "batch_size": 8, "updates": 1}
    config = ch.CuriousDQNConfig(**(few | changes))
    torch.manual_seed(0)
    net = ch.CuriousQNet()
    optimiser = torch.optim.Adam(net.parameters(), config.learning_rate)
    return ch.FOUNDATIONS.DQN(net, copy.deepcopy(net), optimiser), config


def test_the_dqn_is_paid_by_todays_curiosity_per_row_and_nothing_for_a_death():
    dqn, config = some_dqn()
    rng = np.random.default_rng(0)
    obs, next_obs = torch.from_numpy(rng.integers(256, size=(2, 8, 3, 42, 40)).astype(np.uint8))
    dqn.net.pixels.show(obs.double().flatten(1))
    dqn.target_net.load_state_dict(dqn.net.state_dict())
    discounts = torch.tensor([0.9] * 6 + [0.0] * 2)
    batch = ch.Experience(obs, torch.arange(8), torch.zeros(8), discounts, next_obs)
    before = copy.deepcopy(dqn.net)
    found = ch.curious_dqn_update(dqn, batch, config)
    with torch.no_grad():
        views = (before.view(obs), before.view(next_obs))
        paid = before.curiosity.surprise(views[0], batch.actions, views[1]) * (discounts > 0)
        targets = 0.1 * paid / paid.std(correction=0)
        targets += discounts * torch.stack([before(each[None])[0].max() for each in next_obs])
        chosen = torch.stack([before(each[None])[0, a] for a, each in enumerate(obs)])
        expected = torch.nn.functional.smooth_l1_loss(chosen, targets).item()
    np.testing.assert_allclose(found["q"], expected, rtol=1e-3)
    np.testing.assert_allclose(found["surprise"], paid.mean(), rtol=1e-3)
    moved = {name for name, p in dqn.net.named_parameters() if not torch.equal(p, before.get_parameter(name))}  # fmt: skip
    assert moved == {name for name, _ in before.named_parameters()}


def test_the_dqns_replay_holds_deaths_as_ends_and_cuts_as_none_and_its_target_waits(stairs):
    dqn, config = some_dqn(sync_every=3, num_envs=8)
    games, replay, copies = Stairs(8), ch.Replay(4000), []
    looks = lambda obs: np.where(obs[:, -1, :, 20:].mean((1, 2)) > 124, 6, 0)
    blind = lambda obs: np.zeros(len(obs), int)
    plays = ((looks, 50), (blind, 30))
    steps = [s for policy, n in plays for s in ch.islice(ch.transitions(games, policy, 0), n)]
    update = ch.curious_dqn_update

    def note(dqn, batch, config):
        found = update(dqn, batch, config)
        pairs = zip(dqn.net.parameters(), dqn.target_net.parameters(), strict=True)
        copies.append(all(torch.equal(online, target) for online, target in pairs))
        return found

    state = {"steps": 0, "updates": 0, "recent": []}
    rng, n_step = np.random.default_rng(0), ch.NStep(1, 0.9)
    ch.curious_dqn_update = note
    ch.play_and_learn(dqn, iter(steps), games, replay, n_step, config, state, rng)
    ch.curious_dqn_update = update
    rows = replay.rows(np.arange(state["steps"]))
    terminated = np.concatenate([step.terminated for step in steps])[: state["steps"]]
    assert terminated.sum() == 8 and any(
        step.truncated.any() for step in steps[: state["steps"] // 8]
    )
    np.testing.assert_allclose(rows.discounts, np.where(terminated, 0, 0.9))
    assert (
        not any(copies) and state["updates"] == len(copies) == 64
    )  # copied after each look, at 0, 3, 6, ...


def test_the_dqn_resumes_and_learns_its_losses(stairs, monkeypatch):
    _, config = some_dqn(steps=1024)
    runs = [[*ch.train_curious_dqn(config, seed)] for seed in (1, 1)]
    for name, value in runs[0][-1].metrics.items():
        assert value == runs[1][-1].metrics[name], name
    half = next(ch.train_curious_dqn(config, 1)).state()
    begun, play = [], ch.play_and_learn
    note = lambda dqn, *rest: begun.append([copy.deepcopy(part.state_dict()) for part in dqn]) or play(dqn, *rest)  # fmt: skip
    monkeypatch.setattr(ch, "play_and_learn", note)
    *_, resumed = ch.train_curious_dqn(config, 1, copy.deepcopy(half))
    assert same(begun[0], half["dqn"])
    assert resumed.step == 1024 and resumed.state()["updates"] > half["updates"]
    assert {"q", "forward", "inverse", "surprise", "mean_reach"} <= set(resumed.metrics)


@pytest.mark.parametrize("name", ["typical", "best"])
def test_a_stored_clip_can_be_shown(name):
    shown = ch.stored_clip(name, "A stored agent.")
    assert "video/mp4" in shown.data and "A stored agent." in shown.data


# Exercises

WRONG = {
    "C4.1": ("clocks", lambda periods, held: np.full(len(periods), 315)),
    "C4.2": ("given_up", lambda trace, limit: int(trace[min(limit, len(trace) - 1)])),
    "C5.1": ("paid", lambda surprise, obs, actions, latest, done: surprise(obs, actions, torch.cat([obs[1:], latest[None]]))),
    "C5.2": ("counted", lambda numbers, counts: (counts[numbers] + 1) ** -0.5),
    "C5.3": ("priced", lambda rewards, values, start, done, discount, lam, price: rewards),
    "C7.1": ("lead", lambda ours, theirs: (np.mean(ours) - np.mean(theirs), -1.0, 1.0)),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_exercises_know_right_from_wrong(name, capsys):
    solution, wrong = WRONG[name]
    if name == "C4.1" and not ch.can_play():
        pytest.skip("Super Mario's emulator is not installed.")
    check(name, getattr(ch, solution))
    assert "right" in capsys.readouterr().out
    with pytest.raises(Wrong):
        oracles()[name](wrong)
