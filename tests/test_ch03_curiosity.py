"""Chapter 03 against independent oracles: curiosities, the television, Mario's agents, empowerment."""

import base64
import copy
import itertools
import os
import subprocess
import sys
from collections import deque

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from rlbook_utils.checkpoint import as_tensors, load_checkpoint, save_checkpoint
from rlbook_utils.definitions import CHAPTERS, load_chapter
from rlbook_utils.workers import WorkerDied

ch = load_chapter("ch03_curiosity")
KINDS = ("pixels", "ICM", "random features", "RND")


def make(kind, seed=0):
    torch.manual_seed(seed)
    return ch.ROOM_CURIOSITIES[kind]()


def some_steps(count=64, seed=0):
    """Random transitions of the room."""
    rng = np.random.default_rng(seed)
    cells, actions = rng.integers(49, size=count), rng.integers(5, size=count)
    screens = rng.random((2, count, 7, 7))
    following = ch.look(ch.NEXT_CELL[cells, actions], screens[1])
    return ch.look(cells, screens[0]), torch.from_numpy(actions), following


# Curiosities


@pytest.mark.parametrize("kind", KINDS)
def test_every_curiosity_pays_without_gradient_and_learns(kind):
    curiosity, seen = make(kind), some_steps()
    before = {name: value.clone() for name, value in curiosity.state_dict().items()}
    rewards = curiosity.reward(*seen)
    assert rewards.shape == (64,) and not rewards.requires_grad and (rewards >= 0).all()
    optimiser = torch.optim.Adam(curiosity.parameters(), 1e-3)
    for _ in range(300):
        optimiser.zero_grad()
        losses = curiosity.losses(*seen)
        sum(losses.values()).backward()
        optimiser.step()
    assert curiosity.reward(*seen).mean() < 0.5 * rewards.mean()
    after = curiosity.state_dict()
    still = [name for name in before if torch.equal(before[name], after[name])]
    frozen = {"random features": "encoder.", "RND": "target."}.get(kind)
    assert all(frozen and name.startswith(frozen) for name in still)
    assert frozen is None or any(name.startswith(frozen) for name in still)


def test_the_surprise_is_the_mean_squared_error_of_one_prediction_at_a_time():
    icm, (obs, actions, next_obs) = make("ICM"), some_steps(8)
    rewards = icm.reward(obs, actions, next_obs)
    for i in range(8):
        one_hot = np.eye(5)[actions[i]]
        with torch.no_grad():
            before, after = icm.encoder(obs[i : i + 1])[0], icm.encoder(next_obs[i : i + 1])[0]
            guess = icm.forward_model(torch.from_numpy(np.r_[before, one_hot].astype(np.float32)))
        expected = np.mean((guess.numpy() - after.numpy()) ** 2)
        np.testing.assert_allclose(rewards[i], expected, rtol=1e-5)
    losses = icm.losses(obs, actions, next_obs)
    np.testing.assert_allclose(losses["forward"].item(), rewards.mean(), rtol=1e-5)
    with torch.no_grad():
        logits = icm.inverse_model(torch.cat([icm.encoder(obs), icm.encoder(next_obs)], 1)).numpy()
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)  # logits in, one softmax
    expected = -np.log(chances[np.arange(8), actions]).mean()
    np.testing.assert_allclose(losses["inverse"].item(), expected, rtol=1e-5)


def test_the_forward_loss_leaves_the_encoder_without_gradient_and_the_inverse_loss_does_not():
    torch.manual_seed(0)
    icm = ch.ICM(ch.game_encoder(), features=288, actions=12)
    obs, next_obs = torch.rand(2, 4, 3, 42, 42)
    losses = icm.losses(obs, torch.randint(12, (4,)), next_obs)
    losses["forward"].backward(retain_graph=True)
    assert all(p.grad is None for p in icm.encoder.parameters())
    assert all(p.grad is None for p in icm.inverse_model.parameters())
    assert all(p.grad.abs().sum() > 0 for p in icm.forward_model.parameters())
    icm.zero_grad(set_to_none=True)
    losses["inverse"].backward()
    assert all(p.grad.abs().sum() > 0 for p in icm.encoder.parameters())
    assert all(p.grad is None for p in icm.forward_model.parameters())
    features = icm.encoder(obs)
    assert features.shape == (4, 288)
    np.testing.assert_allclose(features.detach().mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(features.detach().var(1, unbiased=False), 1, atol=0.01)


def test_reached_tells_which_parts_get_a_gradient():
    module = nn.ModuleDict({"used": nn.Linear(2, 2), "unused": nn.Linear(2, 2)})
    assert ch.reached(module["used"](torch.ones(2)).sum(), module) == {
        "used": True,
        "unused": False,
    }


def test_rnd_looks_at_where_it_arrives_only_and_never_trains_its_target():
    rnd, (obs, actions, next_obs) = make("RND"), some_steps()
    rnd.losses(obs, actions, next_obs)  # shows the pictures to the normaliser
    np.testing.assert_array_equal(
        rnd.reward(obs, actions, next_obs), rnd.reward(next_obs, 0 * actions, next_obs)
    )
    pixels = next_obs.flatten(1).double()
    np.testing.assert_allclose(rnd.normalise.mean, pixels.mean(0), atol=1e-6)
    sum(rnd.losses(obs, actions, next_obs).values()).backward()
    assert all(p.grad is None for p in rnd.target.parameters())
    mean, spread = rnd.normalise.mean, (rnd.normalise.m2 / rnd.normalise.count).sqrt()
    at = lambda z: rnd.errors((mean + z * spread).float().view(1, 1, 7, 14)).item()
    np.testing.assert_allclose(at(6), at(8), rtol=1e-4)  # clipped to 5
    assert abs(at(3) / at(4) - 1) > 1e-3


def test_a_weight_between_losses_that_share_no_parameter_divides_out_under_adam_up_to_its_epsilon():
    moved = (ch.trained_with(0.3) - ch.trained_with(0.3, updates=0)).abs().mean()
    apart = lambda **adam: (ch.trained_with(0.3, **adam) - ch.trained_with(0.7, **adam)).abs()
    assert moved > 1e-3 and apart().max() < 1e-6
    assert 1e-3 < apart(epsilon=1e-8).mean() / moved < 0.03
    assert apart(epsilon=1e-5).mean() / moved > 0.05


def test_the_features_collapse_where_nothing_but_an_open_forward_loss_trains_them():
    runs = [ch.forward_trained(True), ch.forward_trained(), ch.forward_trained(beta=0.2)]
    (kept_loss, kept), (loss, collapsed), (_, held) = runs
    assert kept[-1] == pytest.approx(kept[0])  # nothing trains the encoder
    assert collapsed[-1] < 0.2 * collapsed[0] and loss[-1] < 0.2 * kept_loss[-1]
    assert held[-1] > 3 * held[0]


# The room


def test_the_room_has_walls_and_its_television_is_seen_from_the_sofa_only():
    for cell, (row, column) in enumerate(itertools.product(range(7), range(7))):
        up, down = max(row - 1, 0), min(row + 1, 6)
        left, right = max(column - 1, 0), min(column + 1, 6)
        expected = [7 * up + column, 7 * down + column, 7 * row + left, 7 * row + right, cell]
        assert ch.NEXT_CELL[cell].tolist() == expected
    screens = np.random.default_rng(0).random((49, 7, 7))
    views = ch.look(np.arange(49), screens)
    assert views.shape == (49, 1, 7, 14) and views.dtype == torch.float32
    np.testing.assert_array_equal(views[:, 0, :, :7].flatten(1), np.eye(49))
    np.testing.assert_allclose(views[0, 0, :, 7:], screens[0], rtol=1e-6)
    assert (views[1:, 0, :, 7:] == 0).all()


@pytest.mark.parametrize("remote", [False, True])
def test_the_screen_changes_by_itself_or_by_the_button(remote):
    rng, config = np.random.default_rng(0), ch.RoomConfig(epsilon=1.0, remote=remote)
    cells, screens = np.zeros(200, int), rng.random((200, 7, 7))
    before = screens.copy()
    _, actions, following, next_obs = ch.walk(np.zeros((49, 5)), cells, screens, config, rng)
    changed = (screens != before).all((1, 2))
    np.testing.assert_array_equal(changed, (actions == ch.PRESS) | (not remote))
    np.testing.assert_array_equal((screens != before).any((1, 2)), changed)
    np.testing.assert_array_equal(following, ch.NEXT_CELL[0, actions])
    at_home = following == ch.SOFA
    np.testing.assert_allclose(next_obs[at_home, 0, :, 7:], screens[at_home], rtol=1e-6)


def test_the_table_moves_to_the_mean_of_what_each_entry_saw():
    rng = np.random.default_rng(0)
    q, cells, actions = rng.random((49, 5)), rng.integers(4, size=100), rng.integers(5, size=100)
    targets, learned = rng.random(100), q.copy()
    ch.learn_table(learned, cells, actions, targets, rate=0.3)
    for cell, action in itertools.product(range(49), range(5)):
        seen = targets[(cells == cell) & (actions == action)]
        expected = q[cell, action] + 0.3 * (seen.mean() - q[cell, action] if len(seen) else 0)
        np.testing.assert_allclose(learned[cell, action], expected)


@pytest.mark.parametrize("kind", ["ICM", "RND"])
def test_a_stopped_walk_continues_exactly(kind, tmp_path):
    config = ch.RoomConfig(kind, steps=200, walkers=8)
    whole = list(ch.train_walkers(config, seed=1))
    run = ch.train_walkers(config, seed=1)
    next(run), next(run)
    save_checkpoint(tmp_path / "walk", next(run).state())
    run.close()
    rest = list(ch.train_walkers(config, 1, load_checkpoint(tmp_path / "walk")["state"]))
    assert [p.step for p in rest] == [200] and rest[-1].metrics == whole[-1].metrics
    expected, found = whole[-1].state(), rest[-1].state()
    np.testing.assert_array_equal(found["visits"], expected["visits"])
    np.testing.assert_array_equal(found["q"], expected["q"])
    for name, value in expected["curiosity"].items():
        np.testing.assert_array_equal(found["curiosity"][name], value)


def test_chance_does_not_repeat_itself(monkeypatch):
    seen, walk = [], ch.walk
    monkeypatch.setattr(ch, "walk", lambda *a: seen.append(walk(*a)) or seen[-1])
    list(ch.train_walkers(ch.RoomConfig("pixels", steps=100, walkers=4, epsilon=1.0), seed=0))
    first, second = (np.array([step[1] for step in half]) for half in (seen[:50], seen[50:]))
    assert 0.1 < (first == second).mean() < 0.3  # a fifth, by chance


def test_a_finished_walk_adds_nothing():
    config = ch.RoomConfig(steps=50, walkers=4)
    *_, done = ch.train_walkers(config, seed=0)
    again = list(ch.train_walkers(config, 0, done.state()))
    assert len(again) == 1 and again[0].metrics == done.metrics


class Magnet(nn.Module):
    """Pays 0.3 at first, so that everything gets tried, and then 1 for arriving in the middle of the room."""

    def __init__(self):
        super().__init__()
        self.weight, self.calls = nn.Parameter(torch.zeros(())), 0

    def reward(self, obs, actions, next_obs):
        self.calls += 1
        return next_obs[:, 0, 3, 3] if self.calls > 1 else torch.full((len(obs),), 0.3)

    def losses(self, obs, actions, next_obs):
        return {"none": self.weight**2}


def test_walkers_find_what_pays_and_stay_there(monkeypatch):
    monkeypatch.setitem(ch.ROOM_CURIOSITIES, "magnet", Magnet)
    _, state = walked("magnet", 0, steps=1000)
    assert state["visits"].sum() == 500 * 32 and state["visits"].argmax() == 24
    assert state["visits"][24] > 0.8 * state["visits"].sum()
    assert state["q"].max(1).argmax() == 24


def walked(kind, seed, **changes):
    config = ch.RoomConfig(kind, **changes)
    *_, progress = ch.train_walkers(config, seed)
    return config, progress.state()


@pytest.mark.slow
def test_the_naive_stare_at_the_television_and_icm_does_not():
    for seed in (1, 2, 3):
        naive = ch.time_at_tv(walked("pixels", seed, steps=1000)[1])
        config, state = walked("ICM", seed, steps=2000)
        assert naive > 0.5 and naive >= 3 * ch.time_at_tv(state), (seed, naive)
        assert ch.noise_in_features(ch.room_curiosity(config, state).encoder) < 0.02


def test_noise_in_features_is_0_for_an_encoder_that_sees_the_room_only_and_large_for_one_that_sees_the_screen():
    room, screen = (lambda x: x[..., :7].flatten(1)), (lambda x: x[..., 7:].flatten(1))
    assert ch.noise_in_features(room) == 0
    assert ch.noise_in_features(screen) > 1


def test_every_move_is_each_pair_once_in_the_shape_a_curiosity_takes():
    obs, actions, next_obs = ch.every_move()
    before, after = (x[:, 0, :, :7].flatten(1).argmax(1).tolist() for x in (obs, next_obs))
    assert sorted(zip(before, actions.tolist(), strict=True)) == list(
        itertools.product(range(49), range(5))
    )
    expected = [ch.NEXT_CELL[c, a] for c, a in zip(before, actions.tolist(), strict=True)]
    assert after == expected
    on_sofa = next_obs[torch.tensor(after) == 0, 0, :, 7:]
    assert len(on_sofa) == 5 and (on_sofa.var(0) > 0).all()  # three stay, two arrive


def test_a_measured_run_is_that_of_its_generator():
    config = ch.RoomConfig(steps=100, walkers=8)
    found, whole = ch.measure_room(config, 3), list(ch.train_walkers(config, 3))
    state = whole[-1].state()
    share = state["visits"][0] / state["visits"].sum()
    noise = ch.noise_in_features(ch.room_curiosity(config, state).encoder)
    assert found.metrics == {"time_at_tv": share, "time_at_tv_ICM": share, "noise": noise}
    assert found.baselines == {"time_at_tv": 1 / 49, "time_at_tv_ICM": 1 / 49}
    assert found.curves["step"] == [p.step for p in whole] == [50, 100]
    assert found.curves["surprise"] == [p.metrics["surprise"] for p in whole]
    expected = ch.room_curiosity(config, state).reward(*ch.every_move()).mean()
    np.testing.assert_allclose(found.curves["everywhere"][-1], expected)


def test_the_best_of_a_row_leads_to_the_sofa_and_the_best_of_the_batch_nowhere():
    distance = np.add.outer(np.arange(7), np.arange(7))
    right = 10 * 0.9 ** np.maximum(
        distance - 1, 0
    )  # the reward 1 for ever, from the first arrival on
    np.testing.assert_allclose(ch.sofa_values(True), right, atol=1e-3)
    np.testing.assert_allclose(ch.sofa_values(False), np.where(distance < 2, 10, 9), atol=1e-3)


# Mario's agents


def some_rollout(steps=6, envs=3, seed=0):
    """A rollout of random numbers in which two episodes end, one of them by the clock."""
    torch.manual_seed(seed)
    net = ch.CuriousNet(ch.CURIOSITIES["ICM"]())
    obs = torch.randint(0, 256, (steps, envs, 3, 42, 42)).float()
    net.pixels.show(obs.flatten(2))
    terminated, done = torch.zeros(2, steps, envs, dtype=torch.bool)
    terminated[2, 0] = done[2, 0] = done[3, 1] = True
    with torch.no_grad():
        policy, values = net(obs.flatten(0, 1))
        actions = policy.sample()
        log_probs = policy.log_prob(actions).view(steps, envs)
    values = values.view(steps, envs, 2)
    rollout = ch.POLICIES.Rollout(
        obs, actions.view(steps, envs), log_probs, torch.randn(steps, envs), values,
        torch.randn(steps, envs, 2), terminated, done,
    )  # fmt: skip
    return net, rollout


def test_the_view_is_each_pixel_in_units_of_its_own_deviation_cut_at_five():
    net, rollout = some_rollout()
    pixels = rollout.obs.flatten(2).flatten(0, 1).double().numpy()
    expected = ((pixels - pixels.mean(0)) / pixels.std(0)).clip(-5, 5)
    found = net.view(rollout.obs.flatten(0, 1)).flatten(1)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert net.view(1e6 * rollout.obs[0]).max() == 5


def test_each_step_is_paid_for_what_followed_it_and_an_end_is_not():
    net, rollout = some_rollout()
    paid = ch.surprises(net, rollout)
    assert paid.shape == (5, 3)
    for t, n in np.ndindex(5, 3):
        now, after = (net.view(rollout.obs[k, n][None]) for k in (t, t + 1))
        expected = net.curiosity.reward(now, rollout.actions[t, n][None], after).item()
        expected *= not rollout.done[t, n]
        np.testing.assert_allclose(paid[t, n], expected, rtol=1e-4)
    assert paid[2, 0] == paid[3, 1] == 0 and (paid == 0).sum() == 2


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


def test_curiosity_lives_one_endless_life_and_the_game_ends_with_death():
    net, rollout = some_rollout()
    gamma, lam = 0.9, 0.8
    config = ch.CuriousConfig(discount=gamma, lam=lam, intrinsic=2.0, extrinsic=3.0)
    twin, sums = copy.deepcopy(net), torch.zeros(2, 3, dtype=torch.float64)
    curious = ch.in_own_scale(ch.surprises(net, rollout), twin.scales[0], sums[0].clone(), gamma)
    game = ch.in_own_scale(rollout.rewards[:-1], twin.scales[1], sums[1].clone(), gamma)
    advantages, returns = ch.curious_advantages(net, rollout, sums, config)
    v, following = rollout.values.numpy(), rollout.next_values.numpy()
    for n in range(3):
        later = np.zeros(2)
        for t in reversed(range(5)):
            alive, goes_on = not rollout.terminated[t, n], not rollout.done[t, n]
            errors = np.array([
                curious[t, n] + gamma * v[t + 1, n, 0] - v[t, n, 0],
                game[t, n] + gamma * following[t, n, 1] * alive - v[t, n, 1],
            ])  # fmt: skip
            later = errors + gamma * lam * np.array([1, goes_on]) * later
            np.testing.assert_allclose(advantages[t, n], 2 * later[0] + 3 * later[1], rtol=1e-4)
            np.testing.assert_allclose(returns[t, n], later + v[t, n], rtol=1e-4)


def test_curiosity_alone_is_blind_to_the_games_reward_and_the_switch_opens_its_eyes():
    net, rollout = some_rollout()
    richer = rollout._replace(rewards=rollout.rewards + torch.randn_like(rollout.rewards))
    for weights, same in (((1.0, 0.0), True), ((1.0, 1.0), False), ((0.0, 1.0), False)):
        config = ch.CuriousConfig(intrinsic=weights[0], extrinsic=weights[1])
        first, second = (
            ch.curious_advantages(copy.deepcopy(net), r, torch.zeros(2, 3).double(), config)
            for r in (rollout, richer)
        )
        assert all(map(torch.allclose, first, second)) == same  # advantages, and what values learn


def test_policy_and_curiosity_are_trained_apart():
    net, rollout = some_rollout()
    config = ch.CuriousConfig(minibatch=16)
    optimiser = ch.adam_for(net, config)
    before = {name: p.clone() for name, p in net.named_parameters()}
    advantages, returns = ch.curious_advantages(net, rollout, torch.zeros(2, 3).double(), config)
    ch.improve_policy(net, optimiser, rollout, advantages, returns, config)
    changed = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name in before if not name.startswith("curiosity")}
    before = {name: p.clone() for name, p in net.named_parameters()}
    ch.improve_curiosity(net, optimiser, rollout, config)
    changed = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name in before if name.startswith("curiosity")}


def test_the_curiosity_never_sees_a_pair_across_an_end():
    net, rollout = some_rollout()
    seen = []
    net.curiosity.losses = lambda obs, actions, next_obs: (
        seen.append((obs, next_obs)) or {"forward": next(net.curiosity.parameters()).sum()}
    )
    ch.improve_curiosity(net, ch.adam_for(net, ch.CuriousConfig()), rollout, ch.CuriousConfig())
    obs, next_obs = (torch.cat(column) for column in zip(*seen, strict=True))
    pairs = {(a.sum().item(), b.sum().item()) for a, b in zip(obs, next_obs, strict=True)}
    view = net.view(rollout.obs.flatten(0, 1)).view_as(rollout.obs)
    expected = {
        (view[t, n].sum().item(), view[t + 1, n].sum().item())
        for t, n in np.ndindex(5, 3)
        if not rollout.done[t, n]
    }
    assert len(obs) == 13 and pairs == expected


def test_epsilon_greedy_presses_every_button_and_mostly_the_best():
    torch.manual_seed(0)
    net, obs = ch.CuriousQNet(), np.zeros((4000, 3, 42, 42), np.uint8)
    best = net(torch.zeros(1, 3, 42, 42)).argmax().item()
    actions = ch.q_policy(net, 0.3, np.random.default_rng(0))(obs)
    shares = np.bincount(actions, minlength=12) / len(actions)
    expected = np.full(12, 0.3 / 12)
    expected[best] += 0.7
    np.testing.assert_allclose(shares, expected, atol=0.02)


def curious_learner(seed=0):
    config = ch.CuriousDQNConfig(batch_size=64, learning_rate=2e-3)
    learner = ch.CuriousLearner(config, seed, steps=0, device="cpu")
    rng = np.random.default_rng(seed)
    actions, obs = rng.integers(12, size=64), rng.integers(100, size=(64, 3, 42, 42))
    next_obs = obs + 12 * actions[:, None, None, None]  # an action shows
    obs, next_obs = obs.astype(np.uint8), next_obs.astype(np.uint8)
    learner.net.pixels.show(torch.from_numpy(next_obs).float().flatten(1))
    discounts = np.where(rng.random(64) < 0.3, 0, config.discount).astype(np.float32)
    rewards = rng.normal(size=64).astype(np.float32)
    learner.replay.add(ch.Experience(obs, actions, rewards, discounts, next_obs))
    return learner


def test_dqn_is_paid_the_surprise_of_now_and_nothing_for_a_death(monkeypatch):
    learner, seen = curious_learner(), []
    true_loss = ch.FOUNDATIONS.dqn_loss

    def spy(net, target_net, batch, huber):
        seen.append(batch)
        return true_loss(net, target_net, batch, huber)

    monkeypatch.setattr(ch.FOUNDATIONS, "dqn_loss", spy)
    for _ in range(2):
        net = copy.deepcopy(learner.net)
        ch.curious_dqn_update(learner)
        batch = seen[-1]
        surprise = net.curiosity.reward(
            net.view(batch.obs), batch.actions, net.view(batch.next_obs)
        )
        surprise = surprise * (batch.discounts > 0)
        assert (batch.rewards[batch.discounts == 0] == 0).all() and (batch.discounts == 0).any()
        ratio = batch.rewards[surprise > 0] / surprise[surprise > 0]
        assert ratio.min() > 0
        np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-4)


def test_dqns_losses_train_everything_and_repeated_data_becomes_dull():
    learner = curious_learner()
    before = {name: p.clone() for name, p in learner.net.named_parameters()}
    found = [ch.curious_dqn_update(learner) for _ in range(40)]
    for name, p in learner.net.named_parameters():
        assert not torch.equal(p, before[name]), name
    assert found[-1]["inverse"] < 0.5 * found[0]["inverse"]
    assert found[-1]["forward"] < found[0]["forward"]


def test_plain_pictures_are_what_the_collapse_is_measured_with():
    net = ch.RawNet(ch.CURIOSITIES["ICM"]())
    obs = torch.full((2, 3, 42, 42), 51.0)
    np.testing.assert_allclose(net.view(obs), 0.2, rtol=1e-6)
    names = {m.name: m for m in ch.MEASUREMENTS}
    assert names["hot"].config == names["hot_raw"].config == ch.RECKLESS


@pytest.mark.parametrize("kind", ["ICM", "random features", "RND"])
def test_game_sized_curiosities_pay_and_learn_and_keep_still_what_should(kind):
    torch.manual_seed(0)
    curiosity = ch.CURIOSITIES[kind]()
    obs, next_obs = torch.randn(2, 32, 3, 42, 42)
    seen = obs, torch.randint(12, (32,)), next_obs
    before, paid = copy.deepcopy(curiosity.state_dict()), curiosity.reward(*seen)
    assert paid.shape == (32,) and (paid > 0).all() and not paid.requires_grad
    optimiser = torch.optim.Adam(curiosity.parameters(), 1e-3)
    for _ in range(30):
        optimiser.zero_grad()
        sum(curiosity.losses(*seen).values()).backward()
        optimiser.step()
    assert curiosity.reward(*seen).mean() < 0.7 * paid.mean()
    frozen = {"random features": "encoder.", "RND": "target."}.get(kind, "nothing")
    for name, value in curiosity.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith(frozen), name


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"curiosity": "icm"}, "curiosity is 'icm'"),
        ({"num_envs": 3, "horizon": 44}, "129 decisions"),
    ],
)
def test_a_config_that_cannot_work_says_so(wrong, says):
    with pytest.raises(ValueError, match=says):
        ch.CuriousConfig(**wrong)


def test_while_the_agent_warms_up_its_policy_waits_and_the_view_is_measured():
    net, rollout = some_rollout()
    config = ch.CuriousConfig(warm_up=1, minibatch=16)
    optimiser, sums = ch.adam_for(net, config), torch.zeros(2, 3).double()
    for steps, waits in ((0, True), (18, False)):
        before, shown = copy.deepcopy(net.state_dict()), net.pixels.count.item()
        metrics = ch.learn_from(rollout, net, optimiser, sums, config, steps)
        assert (net.pixels.count > shown) == waits and {"forward", "inverse", "entropy"} <= set(
            metrics
        )
        for name, value in net.named_parameters():
            still = waits and not name.startswith("curiosity")
            assert torch.equal(value, before[name]) == still, name


def test_typical_is_the_median_episode_and_best_the_furthest(monkeypatch):
    furthest = [300, 900, 100, 500, 700]
    made = lambda net, seed: [ch.Instant(None, None, 0.0, x) for x in (furthest[seed - 5], 40)]
    monkeypatch.setattr(ch, "episode_of", made)
    typical, best = ch.typical_and_best(None, seed=5, episodes=5)
    assert (typical[0].x, best[0].x) == (500, 900)


def test_readers_without_an_emulator_get_the_clip_of_a_stored_agent(tmp_path):
    page = ch.stored_clip(1, "A typical episode.").data
    assert "A typical episode." in page
    path = tmp_path / "clip.mp4"
    path.write_bytes(base64.b64decode(page.split("data:video/mp4;base64,")[1].split('"')[0]))
    frames = iio.imread(path)  # [T, H, W, 3]
    assert frames.shape[1:] == (120, 128, 3) and frames.std(0).mean() > 10
    assert len(frames) > (614 - 40) / 15  # at 15 pixels a decision, from 40 to twice random play


needs_mario = pytest.mark.skipif(
    not ch.can_play(), reason="Super Mario's emulator is not installed."
)
TINY = {"num_envs": 2, "stuck": 5}


@pytest.mark.slow
@needs_mario
def test_a_stopped_training_goes_on_where_it_stopped(tmp_path):
    config = ch.CuriousConfig(steps=1024, horizon=128, minibatch=64, **TINY)
    run = ch.train_curious(config, seed=1)
    next(run), next(run)
    save_checkpoint(tmp_path / "mario", next(run).state())
    run.close()
    state = load_checkpoint(tmp_path / "mario")["state"]
    assert state["steps"] == 768 and state["recent"]
    *_, last = ch.train_curious(config, 1, state)
    assert last.step == 1024 and last.metrics["furthest"] > 0
    weights = last.state()["net"]
    assert not torch.equal(as_tensors(state["net"])["policy.weight"], weights["policy.weight"])
    assert weights["pixels.count"] == 512  # those of the warm-up, kept


@needs_mario
def test_a_dead_emulator_ends_the_training_with_one_sentence(monkeypatch):
    made, make = [], ch.make_mario
    monkeypatch.setattr(ch, "make_mario", lambda config: made.append(make(config)) or made[0])
    run = ch.train_curious(ch.CuriousConfig(steps=2048, **TINY), seed=1)
    next(run)
    made[0].workers[0][0].kill()
    with pytest.raises(WorkerDied, match="A worker process ended before its work was done"):
        list(run)
    assert all(process.poll() is not None for process, _ in made[0].workers)


@pytest.mark.slow
@needs_mario
def test_the_seed_decides_a_run_although_a_thread_plays():
    config = ch.CuriousConfig(steps=512, horizon=64, warm_up=1, **TINY)
    runs = [[progress.metrics for progress in ch.train_curious(config, seed)] for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.slow
@needs_mario
def test_a_stopped_dqn_goes_on_where_it_stopped(monkeypatch):
    monkeypatch.setattr(ch, "REPORT", 64)
    config = ch.CuriousDQNConfig(steps=1024, warm_up=128, capacity=1024, **TINY)
    run = ch.train_curious_dqn(config, seed=1)
    state = next(run).state()
    run.close()
    assert state["steps"] == 192 and set(state["metrics"]) >= {
        "furthest",
        "q",
        "forward",
        "inverse",
    }
    run = ch.train_curious_dqn(config, 1, state)
    progress = next(run)
    run.close()
    assert progress.step > 192 and progress.step % 2 == 0


@needs_mario
def test_furthest_is_that_of_the_first_episode_of_each_emulator():
    always = lambda action: lambda obs: np.full(len(obs), action)
    run, stay = (ch.furthest_reached(always(a), 2, seed=0, stuck=5) for a in (3, 0))
    env, over = ch.MarioEnv(stuck=5), False
    env.reset()
    while not over:
        *_, terminated, truncated, info = env.step(3)
        over = terminated or truncated
    np.testing.assert_array_equal(run, info["furthest"])
    np.testing.assert_array_equal(stay, 40)


@needs_mario
def test_the_table_of_the_info_is_complete():
    assert set(ch.MEANINGS) == set(ch.MarioEnv().reset()[1])


def test_pictures_in_one_go_are_the_means_of_blocks_one_by_one():
    screens = np.random.default_rng(0).integers(256, size=(3, 240, 256, 3)).astype(np.uint8)
    pictures = ch.shrink(screens)
    assert pictures.shape == (3, 42, 42) and pictures.dtype == np.uint8
    for n, row, column in np.ndindex(3, 42, 42):
        block = screens[n, 30 + 5 * row : 35 + 5 * row, 2 + 6 * column : 8 + 6 * column]
        sums = [sum(int(v) for v in block[..., colour].flat) for colour in range(3)]
        assert pictures[n, row, column] == max(sums) // 30
    assert (ch.shrink(np.full((1, 240, 256, 3), 255, np.uint8)) == 255).all()


@pytest.mark.slow
def test_without_the_emulator_the_chapter_says_how_to_get_it_and_everything_else_runs():
    code = (
        "import sys; sys.modules['gym_super_mario_bros'] = None\n"
        "import matplotlib; matplotlib.use('Agg')\n"
        "exec(compile(open('ch03_curiosity.py').read(), 'ch03_curiosity.py', 'exec'), {'__name__': '__main__'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHAPTERS, env=os.environ | {"RLBOOK_BUDGET": "smoke"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "pip install --no-deps -r requirements-mario.lock" in done.stdout
    assert "furthest x" not in done.stdout.split("PPO, ICM")[0]  # nothing pretends to have played


# Information


def random_channels(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(shape[-1]), shape[:-1]))


def test_mutual_information_is_the_double_sum():
    channel = random_channels(3, 4, 5)
    inputs = random_channels(3, 4, seed=1)
    channel[0, 1] = torch.tensor([0, 0, 1.0, 0, 0])
    inputs[1] = torch.tensor([1.0, 0, 0, 0])
    for b in range(3):
        total, p, c = 0.0, inputs[b].numpy(), channel[b].numpy()
        for x, y in itertools.product(range(4), range(5)):
            if p[x] * c[x, y] > 0:
                total += p[x] * c[x, y] * np.log2(c[x, y] / (p @ c)[y])
        np.testing.assert_allclose(ch.mutual_information(inputs, channel)[b], total, atol=1e-12)
    assert ch.mutual_information(inputs, channel)[1].abs() < 1e-12  # one message says nothing


def test_capacities_with_a_closed_form():
    flips = torch.linspace(0.01, 0.99, 33, dtype=torch.float64)
    entropy = -(flips * flips.log2() + (1 - flips) * (1 - flips).log2())
    symmetric, _ = ch.capacity(ch.symmetric_channel(flips))
    np.testing.assert_allclose(symmetric, 1 - entropy, atol=1e-6)
    ends, _ = ch.capacity(ch.symmetric_channel(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)))
    np.testing.assert_allclose(ends, [1, 0, 1], atol=1e-6)
    z, _ = ch.capacity(ch.z_channel(flips))
    np.testing.assert_allclose(
        z, torch.log2(1 + (1 - flips) * flips ** (flips / (1 - flips))), atol=1e-6
    )
    erasure = torch.tensor([[[0.7, 0, 0.3], [0, 0.7, 0.3]]], dtype=torch.float64)
    np.testing.assert_allclose(ch.capacity(erasure)[0], 0.7, atol=1e-6)
    noiseless = torch.eye(8, dtype=torch.float64).repeat_interleave(
        3, 0
    )  # duplicates of 8 messages
    np.testing.assert_allclose(ch.capacity(noiseless)[0], 3, atol=1e-6)


def test_capacity_is_the_top_that_a_general_optimiser_finds():
    channels = random_channels(5, 4, 6)
    found, inputs = ch.capacity(channels)
    np.testing.assert_allclose(inputs.sum(-1), 1)
    np.testing.assert_allclose(ch.mutual_information(inputs, channels), found, atol=1e-6)
    for b, channel in enumerate(channels.numpy()):

        def lost(logits, channel=channel):
            p = np.exp(logits - logits.max())
            p /= p.sum()
            return -np.sum(p[:, None] * channel * np.log2(channel / (p @ channel)))

        tops = [-minimize(lost, start, tol=1e-12).fun for start in np.eye(4)]
        np.testing.assert_allclose(found[b], max(tops), atol=1e-5)
        np.testing.assert_allclose(ch.capacity(channels[b])[0], found[b], atol=1e-6)


# Empowerment


def reachable(start, steps):
    """Free cells within so many moves, by breadth-first search over the drawing."""
    seen, edge = {start}, deque([(start, 0)])
    while edge:
        (row, column), distance = edge.popleft()
        for row_step, column_step in ((0, 1), (1, 0), (0, -1), (-1, 0)) if distance < steps else ():
            r, c = row + row_step, column + column_step
            inside = 0 <= r < len(ch.MAZE) and 0 <= c < len(ch.MAZE[0])
            if inside and ch.MAZE[r][c] == "." and (r, c) not in seen:
                seen.add((r, c))
                edge.append(((r, c), distance + 1))
    return seen


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_without_slips_empowerment_counts_reachable_cells(steps):
    found = ch.empowerment(0.0, steps)
    expected = [np.log2(len(reachable(tuple(cell), steps))) for cell in ch.FREE.tolist()]
    np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize("steps", [2, 3, 4])
def test_with_slips_the_climb_ends_close_below_the_top(steps):
    channel = ch.sequence_channel(ch.world_table(0.3), steps)
    low, inputs = ch.capacity(channel, tolerance=1e-3, limit=300)
    high = ch.information_of_messages(inputs, channel).amax(-1) / np.log(2)
    assert (high >= low - 1e-9).all() and (high - low).max() < 0.006


def test_slips_cost_power_and_the_table_is_one_of_probabilities():
    table = ch.world_table(0.3)
    np.testing.assert_allclose(table.sum(-1), 1)
    cell = 20
    where = {tuple(c): i for i, c in enumerate(ch.FREE.tolist())}
    expected = np.zeros(len(ch.FREE))
    for a, step in enumerate(ch.STEPS):  # action 3 is meant; each of five happens by a slip
        arrived = where.get(tuple((ch.FREE[cell] + step).tolist()), cell)
        expected[arrived] += 0.7 * (a == 3) + 0.3 / 5
    np.testing.assert_allclose(table[3, cell], expected)
    assert (ch.empowerment(0.3, 2) < ch.empowerment(0.0, 2)).all()


def test_sequences_in_order_one_matrix_product_at_a_time():
    table = ch.world_table(0.2)
    channel = ch.sequence_channel(table, 3)
    assert channel.shape == (len(ch.FREE), 125, len(ch.FREE))
    for i, sequence in enumerate(itertools.product(range(5), repeat=3)):
        product = np.linalg.multi_dot([table[a].numpy() for a in sequence])
        np.testing.assert_allclose(channel[:, i], product, atol=1e-12)
