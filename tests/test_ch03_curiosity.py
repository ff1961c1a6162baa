"""Chapter 03 against independent oracles: curiosities, walkers before two televisions, bugs, empowerment."""

import itertools
from collections import deque

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from rlbook_utils.checkpoint import load_checkpoint, save_checkpoint
from rlbook_utils.definitions import load_chapter
from rlbook_utils.exercises import Wrong, oracles

ch = load_chapter("ch03_curiosity")
KINDS = ("pixels", "ICM", "random features", "RND")
ROOMS = {"noise": ch.RoomConfig(tv="everywhere"), "remote": ch.RoomConfig(tv="everywhere", remote=True)}  # fmt: skip


def make(kind, seed=0):
    torch.manual_seed(seed)
    return ch.ROOM_CURIOSITIES[kind]()


def some_steps(count=64, seed=0, config=ch.RoomConfig()):  # noqa: B008
    """Random transitions of the room, as tensors."""
    rng = np.random.default_rng(seed)
    cells, actions = rng.integers(49, size=count), rng.integers(6, size=count)
    return tuple(map(torch.from_numpy, ch.move(cells, rng.random((count, 7, 7)), actions, config, rng)[0]))  # fmt: skip


# Curiosities


@pytest.mark.parametrize("kind", KINDS)
def test_every_curiosity_pays_without_gradient_and_learns(kind):
    curiosity, seen = make(kind), some_steps()
    before = {name: value.clone() for name, value in curiosity.state_dict().items()}
    rewards = curiosity.surprise(*seen)
    assert rewards.shape == (64,) and not rewards.requires_grad and (rewards >= 0).all()
    optimiser = torch.optim.Adam(curiosity.parameters(), 1e-3)
    for _ in range(300):
        optimiser.zero_grad()
        sum(curiosity.losses(*seen).values()).backward()
        optimiser.step()
    assert curiosity.surprise(*seen).mean() < 0.5 * rewards.mean()
    after = curiosity.state_dict()
    still = [name for name in before if torch.equal(before[name], after[name])]
    frozen = {"random features": "encoder.", "RND": "target."}.get(kind)
    assert all(frozen and name.startswith(frozen) for name in still)
    assert frozen is None or any(name.startswith(frozen) for name in still)


def test_the_surprise_is_the_mean_squared_error_of_one_prediction_at_a_time():
    icm, (obs, actions, next_obs) = make("ICM"), some_steps(8)
    rewards = icm.surprise(obs, actions, next_obs)
    for i in range(8):
        one_hot = np.eye(6)[actions[i]]
        with torch.no_grad():
            before, after = icm.encoder(obs[i : i + 1])[0], icm.encoder(next_obs[i : i + 1])[0]
            guess = icm.forward_model(torch.from_numpy(np.r_[before, one_hot].astype(np.float32)))
        np.testing.assert_allclose(rewards[i], np.mean((guess.numpy() - after.numpy()) ** 2), rtol=1e-5)  # fmt: skip
    losses = icm.losses(obs, actions, next_obs)
    np.testing.assert_allclose(losses["forward"].item(), rewards.mean(), rtol=1e-5)
    with torch.no_grad():
        logits = icm.inverse_model(torch.cat([icm.encoder(obs), icm.encoder(next_obs)], 1)).numpy()
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)  # logits in, one softmax
    expected = -np.log(chances[np.arange(8), actions]).mean()
    np.testing.assert_allclose(losses["inverse"].item(), expected, rtol=1e-5)


def test_the_forward_loss_leaves_the_encoder_without_gradient_and_the_inverse_loss_does_not():
    icm = make("ICM")
    obs, actions, next_obs = some_steps(32)
    losses = icm.losses(obs, actions, next_obs)
    losses["forward"].backward(retain_graph=True)
    assert all(p.grad is None for p in icm.encoder.parameters())
    assert all(p.grad is None for p in icm.inverse_model.parameters())
    assert all(p.grad.abs().sum() > 0 for p in icm.forward_model.parameters())
    icm.zero_grad(set_to_none=True)
    losses["inverse"].backward()
    assert all(p.grad.abs().sum() > 0 for p in icm.encoder.parameters())
    assert all(p.grad is None for p in icm.forward_model.parameters())
    features = icm.encoder(obs).detach()
    assert features.shape == (32, 32)
    np.testing.assert_allclose(features.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(features.var(1, unbiased=False), 1, atol=0.01)


def test_in_a_whole_update_the_forward_loss_does_not_touch_the_encoder(monkeypatch):
    """Plain gradient descent, so that a share of the gradient cannot hide in Adam's division."""
    after, losses = {}, ch.ICM.losses
    monkeypatch.setattr(torch.optim, "Adam", lambda weights, rate: torch.optim.SGD(weights, 0.1))
    for weight in (0.0, 1.0, 100.0):

        def weighed(*given, weight=weight):
            found = losses(*given)
            return found | {"forward": weight * found["forward"]}

        monkeypatch.setattr(ch.ICM, "losses", weighed)
        config = ch.RoomConfig(steps=50, walkers=8, epsilon=1.0)
        after[weight] = list(ch.train_walkers(config, 1))[-1].state()["curiosity"]
    for name, weights in after[1.0].items():
        same = [torch.equal(after[weight][name], weights) for weight in (0.0, 100.0)]
        assert same == [not name.startswith("forward_model")] * 2, name
    assert not torch.equal(after[1.0]["encoder.1.0.weight"], make("ICM", 1).encoder[1][0].weight)


def test_reached_tells_which_parts_get_a_gradient():
    module = nn.ModuleDict({"used": nn.Linear(2, 2), "unused": nn.Linear(2, 2)})
    assert ch.reached(module["used"](torch.ones(2)).sum(), module) == {
        "used": True,
        "unused": False,
    }


def test_rnd_looks_at_where_it_arrives_only_and_never_trains_its_target():
    rnd, (obs, actions, next_obs) = make("RND"), some_steps()
    rnd.losses(obs, actions, next_obs)  # shows the pictures to the normaliser
    same = rnd.surprise(next_obs, 0 * actions, next_obs)
    np.testing.assert_array_equal(rnd.surprise(obs, actions, next_obs), same)
    pixels = next_obs.flatten(1).double()
    np.testing.assert_allclose(rnd.normalise.mean, pixels.mean(0), atol=1e-6)
    sum(rnd.losses(obs, actions, next_obs).values()).backward()
    assert all(p.grad is None for p in rnd.target.parameters())
    mean, spread = rnd.normalise.mean, (rnd.normalise.m2 / rnd.normalise.count).sqrt()
    at = lambda z: rnd.errors((mean + z * spread).float().view(1, 1, 7, 14)).item()
    np.testing.assert_allclose(at(6), at(8), rtol=1e-4)  # clipped to 5
    assert abs(at(3) / at(4) - 1) > 1e-3
    plain = torch.where(spread > 0, 2.0, 0.0).float().view(1, 1, 7, 14)  # what "2 deviations" is
    found = (rnd.predictor(plain) - rnd.target(plain)).square().mean(1)
    np.testing.assert_allclose(at(2), found.item(), rtol=1e-3)


def trained_with(weight, updates=50, epsilon=1e-16):
    """An ICM's parameters [D] after Adam on weight * forward + (1 - weight) * inverse."""
    icm, optimise = make("ICM"), torch.optim.Adam
    optimiser = optimise(icm.parameters(), 1e-3, eps=epsilon)
    for step in range(updates):
        losses = icm.losses(*some_steps(seed=step))
        optimiser.zero_grad()
        (weight * losses["forward"] + (1 - weight) * losses["inverse"]).backward()
        optimiser.step()
    return nn.utils.parameters_to_vector(icm.parameters()).detach()


def test_a_weight_between_losses_that_share_no_parameter_divides_out_under_adam_up_to_its_epsilon():
    moved = (trained_with(0.3) - trained_with(0.3, updates=0)).abs().mean()
    apart = lambda **adam: (trained_with(0.3, **adam) - trained_with(0.7, **adam)).abs()
    assert moved > 1e-3 and apart().max() < 2e-6
    at_8, at_5 = (apart(epsilon=epsilon).mean() / moved for epsilon in (1e-8, 1e-5))
    assert at_8 < 0.03 and at_5 > 0.05 and at_5 > 5 * at_8


# The room


def test_whoever_adds_a_curiosity_can_let_it_walk(monkeypatch):
    with pytest.raises(ValueError, match=r"RoomConfig\.curiosity is 'mine'"):
        ch.RoomConfig("mine")
    monkeypatch.setitem(ch.ROOM_CURIOSITIES, "mine", Magnet)
    *_, progress = ch.train_walkers(ch.RoomConfig("mine", steps=50, walkers=4), 0)
    assert progress.step == 50


def test_a_choice_is_the_best_action_or_any_as_often_as_it_says():
    q = np.random.default_rng(0).random((49, 6))
    cells = np.repeat(np.arange(49), 2000)
    chosen = ch.choose(q, cells, 0.3, np.random.default_rng(1))
    assert (chosen == q[cells].argmax(1)).mean() == pytest.approx(0.7 + 0.3 / 6, abs=0.005)
    others = chosen[chosen != q[cells].argmax(1)]
    np.testing.assert_allclose(np.bincount(others) / len(others), 1 / 6, atol=0.04)


def test_the_room_has_walls_and_two_actions_that_do_not_move():
    for cell, (row, column) in enumerate(itertools.product(range(7), range(7))):
        up, down = max(row - 1, 0), min(row + 1, 6)
        left, right = max(column - 1, 0), min(column + 1, 6)
        expected = [7 * up + column, 7 * down + column, 7 * row + left, 7 * row + right, cell, cell]
        assert ch.NEXT_CELL[cell].tolist() == expected


@pytest.mark.parametrize("tv", ["sofa", "everywhere"])
def test_the_television_is_seen_from_the_sofa_or_from_everywhere(tv):
    screens = np.random.default_rng(0).random((49, 7, 7))
    views = ch.look(np.arange(49), screens, tv)
    assert views.shape == (49, 1, 7, 14) and views.dtype == np.float32
    np.testing.assert_array_equal(views[:, 0, :, :7].reshape(49, 49), np.eye(49))
    for cell in range(49):
        seen = screens[cell] if tv == "everywhere" or cell == 0 else np.zeros((7, 7))
        np.testing.assert_allclose(views[cell, 0, :, 7:], seen, rtol=1e-6)


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("tv", ["sofa", "everywhere"])
def test_the_screen_changes_by_itself_or_by_the_button(tv, remote):
    rng, config = np.random.default_rng(0), ch.RoomConfig(tv=tv, remote=remote)
    cells, actions = rng.integers(49, size=300), rng.integers(6, size=300)
    screens = rng.random((300, 7, 7))
    before = screens.copy()
    seen, following = ch.move(cells, screens, actions, config, rng)
    changed = (screens != before).all((1, 2))
    np.testing.assert_array_equal(changed, (actions == 4) | (not remote))
    np.testing.assert_array_equal((screens != before).any((1, 2)), changed)
    np.testing.assert_array_equal(following, ch.NEXT_CELL[cells, actions])
    np.testing.assert_array_equal(seen.obs, ch.look(cells, before, tv))
    np.testing.assert_array_equal(seen.next_obs, ch.look(following, screens, tv))
    assert len(np.unique(screens[changed].reshape(-1))) == 49 * changed.sum()  # each its own noise


def test_the_table_moves_to_the_mean_of_what_each_entry_saw():
    rng = np.random.default_rng(0)
    q, cells, actions = rng.random((49, 5)), rng.integers(4, size=100), rng.integers(5, size=100)
    targets, learned = rng.random(100), q.copy()
    ch.learn_table(learned, cells, actions, targets, rate=0.3)
    for cell, action in itertools.product(range(49), range(5)):
        seen = targets[(cells == cell) & (actions == action)]
        expected = q[cell, action] + 0.3 * (seen.mean() - q[cell, action] if len(seen) else 0)
        np.testing.assert_allclose(learned[cell, action], expected)


@pytest.mark.parametrize(("kind", "memory"), [("ICM", False), ("RND", True), ("ICM", True)])
def test_a_stopped_walk_continues_exactly(kind, memory, tmp_path):
    config = ch.RoomConfig(kind, steps=200, walkers=8, memory=memory, tv="everywhere", remote=True)
    whole = list(ch.train_walkers(config, seed=1))
    run = ch.train_walkers(config, seed=1)
    next(run), next(run)
    save_checkpoint(tmp_path / "walk", next(run).state())
    run.close()
    rest = list(ch.train_walkers(config, 1, load_checkpoint(tmp_path / "walk")["state"]))
    assert [p.step for p in rest] == [200] and rest[-1].metrics == whole[-1].metrics
    expected, found = whole[-1].state(), rest[-1].state()
    for name in ("visits", "presses", "q", "cells", "screens"):
        np.testing.assert_array_equal(found[name], expected[name])
    for name, value in expected["curiosity"].items():
        np.testing.assert_array_equal(found["curiosity"][name], value)


def watched(monkeypatch, config, seed=0):
    """Every step of a training: (what was seen, the cells after it), and its last state."""
    steps, move = [], ch.move
    monkeypatch.setattr(ch, "move", lambda *given: steps.append(move(*given)) or steps[-1])
    state = list(ch.train_walkers(config, seed))[-1].state()
    monkeypatch.undo()
    return steps, state


def test_chance_does_not_repeat_itself(monkeypatch):
    steps, _ = watched(monkeypatch, ch.RoomConfig("pixels", steps=100, walkers=4, epsilon=1.0))
    first, second = (np.array([seen.actions for seen, _ in half]) for half in (steps[:50], steps[50:]))  # fmt: skip
    assert 0.08 < (first == second).mean() < 0.27  # a sixth, by chance


def test_visits_and_presses_are_counted_from_report_to_report(monkeypatch):
    steps, state = watched(monkeypatch, ch.RoomConfig("pixels", steps=150, walkers=5), seed=2)
    for report in range(3):
        part = steps[50 * report : 50 * (report + 1)]
        counts = [sum(int((cells == c).sum()) for _, cells in part) for c in range(49)]
        np.testing.assert_array_equal(state["visits"][report], counts)
        assert state["presses"][report] == sum(int((seen.actions == 4).sum()) for seen, _ in part)
    assert state["visits"].shape == (3, 49) and state["presses"].shape == (3,)
    late = sum(int((cells == 48).sum()) for _, cells in steps[50:]) / (100 * 5)
    np.testing.assert_allclose(ch.second_half(state)[48], late)


def test_a_finished_walk_adds_nothing():
    config = ch.RoomConfig(steps=50, walkers=4)
    *_, done = ch.train_walkers(config, seed=0)
    again = list(ch.train_walkers(config, 0, done.state()))
    assert len(again) == 1 and again[0].metrics == done.metrics


def test_with_a_memory_the_curiosity_learns_from_what_was_seen_before_and_without_from_now(
    monkeypatch,
):
    for memory in (False, True):
        learned, losses = [], ch.ICM.losses
        with monkeypatch.context() as patch:
            patch.setattr(
                ch.ICM, "losses", lambda icm, *seen: learned.append(seen) or losses(icm, *seen)
            )
            steps, _ = watched(
                patch, ch.RoomConfig(steps=100, walkers=8, memory=memory, epsilon=1.0)
            )
        where = lambda pictures: np.asarray(pictures)[:, 0, :, :7].reshape(-1, 49).argmax(1)
        keys = [
            list(zip(where(s.obs), s.actions, where(s.next_obs), strict=True)) for s, _ in steps
        ]
        for t in (0, 50, 99):
            obs, actions, next_obs = learned[t]
            found = list(zip(where(obs), actions.numpy(), where(next_obs), strict=True))
            assert (found == keys[t]) == (not memory) or t == 0
            assert set(found) <= set(itertools.chain(*keys[: t + 1]))
            assert len(found) == 8


class Magnet(nn.Module):
    """Pays 0.3 at first, so that everything gets tried, and then 1 for arriving in the middle of the room."""

    def __init__(self):
        super().__init__()
        self.weight, self.calls = nn.Parameter(torch.zeros(())), 0

    def surprise(self, obs, actions, next_obs):
        self.calls += 1
        return next_obs[:, 0, 3, 3] if self.calls > 1 else torch.full((len(obs),), 0.3)

    def losses(self, obs, actions, next_obs):
        return {"none": self.weight**2}


def walked(kind, seed, **changes):
    config = ch.RoomConfig(kind, **changes)
    *_, progress = ch.train_walkers(config, seed)
    return config, progress.state()


def test_walkers_find_what_pays_and_stay_there(monkeypatch):
    monkeypatch.setitem(ch.ROOM_CURIOSITIES, "pixels", Magnet)
    _, state = walked("pixels", 0, steps=1000)
    shares = ch.second_half(state)
    assert shares.argmax() == 24 and shares[24] > 0.8 and state["q"].max(1).argmax() == 24


@pytest.mark.slow
def test_the_naive_stare_at_the_television_and_icm_does_not():
    for seed in (1, 2, 3):
        naive = ch.second_half(walked("pixels", seed, steps=1000)[1])[0]
        config, state = walked("ICM", seed, steps=2000)
        assert naive > 0.5 and naive >= 3 * ch.second_half(state)[0], (seed, naive)
        icm = ch.room_curiosity(config, state)
        noise, everything = ch.noise_in_features(icm.encoder)
        assert noise < 0.05 and everything > 0.5
        assert ch.inverse_answers(icm, config)[0] < 0.8  # a guess: ln 6


@pytest.mark.slow
def test_icm_learns_to_tell_a_press_and_presses_the_remote_control():
    for seed in (1, 2, 3):
        config, state = walked("ICM", seed, tv="everywhere", remote=True, steps=1200)
        assert state["presses"][-4:].mean() / (50 * 32) > 0.4, seed  # at random 1/6
        loss, told = ch.inverse_answers(ch.room_curiosity(config, state), config)
        assert loss < 0.9 and told > 0.8


@pytest.mark.parametrize(("tv", "wanted"), [("sofa", 1 / 150), ("everywhere", 1 / 12)])
def test_noise_in_features_is_the_variance_that_the_screen_alone_makes(tv, wanted):
    room, screen = (lambda x: x[..., :7].flatten(1)), (lambda x: x[..., 7:].flatten(1))
    noise, everything = ch.noise_in_features(room, tv)
    assert noise == 0 and everything == pytest.approx(1 / 49 * 48 / 49, rel=0.1)
    noise, everything = ch.noise_in_features(screen, tv)
    assert noise == pytest.approx(1 / 12, rel=0.05)
    assert everything == pytest.approx(wanted, abs=0.02)
    flat = lambda x: 1 + 1e-3 * x.flatten(1)  # an encoder that tells nothing from anything
    assert max(ch.noise_in_features(flat, tv)) < 1e-6


@pytest.mark.parametrize("room", ROOMS)
def test_the_inverse_models_answers_one_at_a_time(room):
    icm, config = make("ICM"), ROOMS[room]
    loss, told = ch.inverse_answers(icm, config)
    losses, right = [], []
    for obs, action, next_obs in zip(*map(torch.from_numpy, ch.every_move(config)), strict=True):
        with torch.no_grad():
            features = torch.cat([icm.encoder(obs[None]), icm.encoder(next_obs[None])], 1)
            chances = icm.inverse_model(features)[0].double().softmax(0)
        losses.append(-chances[action].log().item())
        if action >= 4:
            right.append((chances[4] > chances[5]).item() == (action == 4).item())
    assert loss == pytest.approx(np.mean(losses), rel=1e-4) and told == pytest.approx(
        np.mean(right)
    )


class Looker(nn.Module):
    """An inverse model that takes any change of the screen for a press."""

    def forward(self, features):
        before, after = features.view(-1, 2, 7, 14)[..., 7:].unbind(1)
        changed = (before - after).abs().sum((1, 2))
        return torch.stack(
            [torch.zeros_like(changed)] * 4 + [changed, torch.zeros_like(changed)], 1
        )


@pytest.mark.parametrize(("room", "told"), [("noise", 0.5), ("remote", 1.0)])
def test_who_looks_at_the_screen_can_tell_a_press_where_the_button_changes_it(room, told):
    icm = make("ICM")
    icm.encoder, icm.inverse_model = nn.Flatten(), Looker()
    assert ch.inverse_answers(icm, ROOMS[room])[1] == pytest.approx(told)


def test_what_cells_pay_is_the_surprise_of_each_move_and_a_film_keeps_it():
    config, film = ch.RoomConfig("random features", steps=100, walkers=4), []
    *_, progress = ch.filmed(config, 1, film)
    *_, alone = ch.train_walkers(config, 1)
    assert progress.metrics == alone.metrics and len(film) == 2
    curiosity = ch.room_curiosity(config, progress.state())
    pays = ch.pay(curiosity, config)
    obs, actions, next_obs = map(torch.from_numpy, ch.every_move(config))
    for i in (0, 7, 293):
        one = curiosity.surprise(obs[i : i + 1], actions[i : i + 1], next_obs[i : i + 1])
        assert pays[i // 6, i % 6] == pytest.approx(one.item(), rel=1e-4)
    np.testing.assert_allclose(film[-1], pays.mean(1))


def test_near_the_television_is_within_two_steps_of_the_sofa():
    visits = np.random.default_rng(0).integers(9, size=(3, 49))
    near = [7 * row + column for row in range(7) for column in range(7) if row + column <= 2]
    for report, share in zip(visits, ch.near_tv(visits), strict=True):
        assert share == pytest.approx(sum(report[near]) / sum(report))


@pytest.mark.parametrize("room", ROOMS)
def test_every_move_is_each_pair_once_in_the_shape_a_curiosity_takes(room):
    obs, actions, next_obs = ch.every_move(ROOMS[room])
    before, after = (x[:, 0, :, :7].reshape(-1, 49).argmax(1).tolist() for x in (obs, next_obs))
    pairs = list(zip(before, actions.tolist(), strict=True))
    assert sorted(pairs) == list(itertools.product(range(49), range(6)))
    assert after == [ch.NEXT_CELL[c, a] for c, a in pairs]
    changed = (obs[..., 7:] != next_obs[..., 7:]).any((1, 2, 3))
    np.testing.assert_array_equal(changed, (actions == 4) | (room == "noise"))


def test_cells_in_use_is_e_to_the_entropy():
    assert ch.cells_in_use(np.full(49, 1 / 49)) == pytest.approx(49)
    assert ch.cells_in_use(np.array([0, 1.0, 0])) == pytest.approx(1)
    assert ch.cells_in_use(np.array([0.75, 0.25])) == pytest.approx(4 / 3**0.75)


@pytest.mark.parametrize("kind", ["ICM", "RND"])
def test_a_measured_run_is_that_of_its_generator(kind):
    config = ch.RoomConfig(kind, steps=200, walkers=8, tv="everywhere", remote=True)
    found, whole = ch.measure_room(config, 3, "here"), list(ch.train_walkers(config, 3))
    state = whole[-1].state()
    presses, shares = state["presses"][2:].sum() / (100 * 8), state["visits"][2:, 0].sum() / (100 * 8)  # fmt: skip
    wanted = {"presses": presses, "presses_here": presses, "share_at_tv": shares, "share_at_tv_here": shares}  # fmt: skip
    assert {name: found.metrics[name] for name in wanted} == pytest.approx(wanted)
    assert found.metrics["cells"] == ch.cells_in_use(ch.second_half(state))
    assert ("inverse" in found.metrics) == ("noise" in found.metrics) == (kind == "ICM")
    assert found.baselines == pytest.approx({"presses_here": 1 / 6, "share_at_tv_here": 1 / 49})
    assert found.curves["step"] == [p.step for p in whole] == [50, 100, 150, 200]
    assert found.curves["surprise"] == [p.metrics["surprise"] for p in whole]
    assert found.metrics["surprise"] == pytest.approx(np.mean(found.curves["surprise"][2:]))
    curiosity, (obs, actions, next_obs) = ch.room_curiosity(config, state), ch.every_move(config)
    paid = curiosity.surprise(*map(torch.from_numpy, (obs, actions, next_obs))).numpy()
    np.testing.assert_allclose(found.curves["everywhere"][-1], paid.mean(), rtol=1e-5)
    np.testing.assert_allclose(found.curves["press_pays"][-1], paid[actions == 4].mean(), rtol=1e-5)
    moved = (obs[..., :7] != next_obs[..., :7]).any((1, 2, 3))  # bumps left out
    assert moved.sum() == 4 * 49 - 28
    np.testing.assert_allclose(found.curves["step_pays"][-1], paid[moved].mean(), rtol=1e-5)
    if kind == "ICM":
        assert found.curves["inverse"][-1] == ch.inverse_answers(curiosity, config)[0]
        noise = ch.noise_in_features(curiosity.encoder, "everywhere")
        assert (found.curves["noise"][-1], found.curves["variance"][-1]) == noise


def test_all_crowds_are_measured_alike():
    rooms = [m for m in ch.MEASUREMENTS if m.row == "C2"]
    assert len(rooms) == 17 and all(m.seeds == (1, 2, 3, 4, 5) for m in rooms)
    (slow,) = (m for m in rooms if m.name.endswith("_slow"))  # the one that says so
    rooms.remove(slow)
    same = {(m.config.steps, m.config.walkers, m.config.learning_rate, m.config.discount) for m in rooms}  # fmt: skip
    assert same == {(4000, 32, 1e-3, 0.9)}
    for room, kind in itertools.product(ch.ROOMS, KINDS):
        (m,) = (m for m in rooms if m.name == f"{room}_{'_'.join(kind.split())}")
        assert m.config == ch.RoomConfig(kind, **ch.ROOMS[room])


@pytest.mark.parametrize("wrong", [{"curiosity": "luck"}, {"tv": "attic"}, {"walkers": 0}, {"epsilon": 2.0}])  # fmt: skip
def test_a_config_that_cannot_work_says_so(wrong):
    with pytest.raises(ValueError, match=f"RoomConfig.{next(iter(wrong))} is"):
        ch.RoomConfig(**wrong)


@pytest.mark.parametrize("table", ["NEXT_CELL", "WITH_BUTTON"])
def test_who_sees_the_cells_alone_is_bayes_with_even_chances(table):
    next_cell, even = getattr(ch, table), np.full(6, 1 / 6)
    assert ch.cells_alone(next_cell) == pytest.approx(ch.lowest(next_cell, even))
    assert ch.cells_alone(next_cell[:, :4] * 0) == pytest.approx(np.log(4))
    assert ch.cells_alone(np.array([[1, 1, 2]])) == pytest.approx(2 / 3 * np.log(2))


# Bugs and exercises


def test_the_features_collapse_where_nothing_but_an_open_forward_loss_trains_them():
    runs = [ch.forward_trained(True), ch.forward_trained(), ch.forward_trained(beta=0.2)]
    (kept_loss, kept), (loss, collapsed), (_, held) = runs
    assert collapsed[-1] < 0.2 * collapsed[0] and loss[-1] < 0.2 * kept_loss[-1]
    assert held[-1] > 3 * held[0]
    _, published = ch.forward_trained(beta=0.8)  # 0.2 of half the sum over 32: 3.2 to 0.8
    assert published[-1] < 0.2 * published[0]
    assert kept[-1] == pytest.approx(kept[0])  # nothing trains the encoder


def test_the_best_of_a_row_leads_to_the_sofa_and_the_best_of_the_batch_nowhere():
    distance = np.add.outer(np.arange(7), np.arange(7)).ravel()
    right = 10 * 0.9 ** np.maximum(distance - 1, 0)  # 1 for ever, from the first arrival on
    np.testing.assert_allclose(ch.sofa_values(True), right, atol=1e-3)
    np.testing.assert_allclose(ch.sofa_values(False), np.where(distance < 2, 10, 9), atol=1e-3)


WRONG = {
    "C1.1": lambda discount, n, share: int(np.floor(np.log(share) / np.log(discount))) + 1,
    "C2.1": lambda values, chances, S, P: chances @ values**2 - (chances @ values) ** 2,
    "C2.2": lambda r, discount, d: r / (1 - discount),
    "C3.1": lambda next_cell, chances: ch.cells_alone(next_cell),
    "C8.1": lambda channel: float(ch.mutual_information(torch.tensor([0.5, 0.5]).double(), torch.from_numpy(channel))),
}  # fmt: skip


@pytest.mark.parametrize("exercise", WRONG)
def test_oracles_know_right_from_wrong(exercise):
    names = {"C1.1": "copies", "C2.1": "lure", "C2.2": "bribe", "C3.1": "lowest", "C8.1": "brute"}
    oracles()[exercise](getattr(ch, names[exercise]))
    for answer in (WRONG[exercise], lambda *given: float("nan")):
        with pytest.raises(Wrong):
            oracles()[exercise](answer)


def test_a_channel_with_zeros_needs_care():
    def careless(channel):  # 0 log 0
        inputs = np.array([0.5, 0.5])
        with np.errstate(all="ignore"):
            return (inputs[:, None] * channel * np.log2(channel / (inputs @ channel))).sum()

    with pytest.raises(Wrong):
        oracles()["C8.1"](careless)


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
    symmetric, *_ = ch.capacity(ch.flipping(flips, flips))
    np.testing.assert_allclose(symmetric, 1 - entropy, atol=1e-6)
    three = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    ends, *_ = ch.capacity(ch.flipping(three, three))
    np.testing.assert_allclose(ends, [1, 0, 1], atol=1e-6)
    z, *_ = ch.capacity(ch.flipping(0 * flips, flips))
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
    found, inputs, _ = ch.capacity(channels)
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


def test_a_climb_that_runs_out_of_rounds_says_how_much_is_open():
    channel = ch.flipping(*torch.tensor([[0.02], [0.4]], dtype=torch.float64))
    exact, _, none = ch.capacity(channel)
    low, inputs, still_open = ch.capacity(channel, tolerance=1e-7, limit=2)
    assert none < 1e-7 < still_open
    assert low <= exact <= low + still_open
    assert ch.mutual_information(inputs, channel) <= exact + 1e-9


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
    found, still_open = ch.empowerment(0.0, steps)
    expected = [np.log2(len(reachable(tuple(cell), steps))) for cell in ch.FREE.tolist()]
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert still_open < 1e-3


@pytest.mark.parametrize("steps", [2, 3, 4])
def test_with_slips_the_climb_ends_close_below_the_top_and_says_how_close(steps):
    channel = ch.sequence_channel(ch.world_table(0.3), steps)
    low, inputs, still_open = ch.capacity(channel, tolerance=1e-3, limit=300)
    high = ch.information_of_messages(inputs, channel).amax(-1) / np.log(2)
    assert (high >= low - 1e-9).all() and (high - low).max() < 0.006
    assert 1e-3 < still_open < 0.006 and ch.empowerment(0.3, steps)[1] == still_open


def test_slips_cost_power_and_the_table_is_one_of_probabilities():
    table = ch.world_table(0.3)
    np.testing.assert_allclose(table.sum(-1), 1)
    cell = 20
    where = {tuple(c): i for i, c in enumerate(ch.FREE.tolist())}
    expected = np.zeros(len(ch.FREE))
    for a, step in enumerate(ch.MOVES):  # action 3 is meant; each of five happens by a slip
        arrived = where.get(tuple((ch.FREE[cell] + step).tolist()), cell)
        expected[arrived] += 0.7 * (a == 3) + 0.3 / 5
    np.testing.assert_allclose(table[3, cell], expected)
    assert (ch.empowerment(0.3, 2)[0] < ch.empowerment(0.0, 2)[0]).all()


def test_sequences_in_order_one_matrix_product_at_a_time():
    table = ch.world_table(0.2)
    channel = ch.sequence_channel(table, 3)
    assert channel.shape == (len(ch.FREE), 125, len(ch.FREE))
    for i, sequence in enumerate(itertools.product(range(5), repeat=3)):
        product = np.linalg.multi_dot([table[a].numpy() for a in sequence])
        np.testing.assert_allclose(channel[:, i], product, atol=1e-12)
