"""The model of the maze and the agent that asks it, against loops, hand-made worlds and hand-made models."""

import itertools
import math
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from rlbook_utils.checkpoint import load_checkpoint, save_checkpoint
from rlbook_utils.definitions import load_chapter
from rlbook_utils.results import Measured

torch.set_num_threads(1)
ch = load_chapter("ch07c_imagination")
mazes = load_chapter("ch07b_minipacman")
CORRIDOR = 19 * 11  # row 11 is free from column 1 to 17


def frame_with(**kinds):
    """An empty maze with things in these cells: [1, 15, 19]."""
    frame = np.where(mazes.WALLS, mazes.WALL, mazes.FLOOR).astype(np.uint8)
    for name, cells in kinds.items():
        frame[cells] = getattr(mazes, name.upper())
    return torch.from_numpy(frame.reshape(1, 15, 19))


def runner(frames, rng):
    """Towards the next pill, with three even choices in ten."""
    strays = rng.random(len(frames)) < 0.3
    return np.where(strays, rng.integers(5, size=len(frames)), mazes.walk(frames, mazes.PILL))


def played(mode="rush", worlds=8, steps=50, seed=0):
    return ch.transitions(runner, mode, worlds, steps, np.random.default_rng(seed))


def unlike_frames(count, seed=0):
    """Frames of several worlds and moments: [count, 15, 19]."""
    frames = played(seed=seed).frames
    return frames[torch.linspace(0, len(frames) - 1, count).long()]


def random_model(mode="regular", seed=0, spread=3.0):
    """A model of random weights whose answers depend on the action."""
    torch.manual_seed(seed)
    model = ch.MazeModel(mode)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(spread)
    return model


def random_policy(seed=1, spread=4.0):
    torch.manual_seed(seed)
    policy = ch.RolloutPolicy()
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(spread)
    return policy


def random_films(count, depth=2, seed=0):
    torch.manual_seed(seed)
    planes = torch.rand(depth, count * 5, 7, 15, 19).softmax(2)
    return ch.Films(planes, torch.randn(depth, count * 5))


def weights_of(module):
    return [weight.detach().clone() for weight in module.state_dict().values()]


def same(some, others):
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


# The memory


def test_transitions_are_the_worlds_own(monkeypatch):
    short = partial(mazes.MiniPacman, max_steps=40)
    monkeypatch.setattr(mazes, "MiniPacman", short)
    found = ch.transitions(runner, "rush", 12, 90, np.random.default_rng(5))
    rng = np.random.default_rng(5)
    twin, ends = short(mazes.MODES["rush"], 12, rng), np.zeros(3, int)
    assert all(len(part) == 12 * 90 for part in found)
    for t in range(90):
        frames = twin.frames()
        actions = runner(frames, rng)
        step = twin.step(actions)
        for n in range(12):
            row, now = t * 12 + n, twin.frames()[n]
            assert np.array_equal(found.frames[row], frames[n])
            assert np.array_equal(found.after[row], now)
            assert found.actions[row] == actions[n] and found.rewards[row] == step.rewards[n]
            assert found.fresh[row] == step.cleared[n]
            assert found.over[row] == (step.terminated[n] or step.truncated[n])
            if t + 1 < 90:  # the next frame of the same world goes on from here, or is of a reset
                goes_on = np.array_equal(found.frames[row + 12], now)
                assert goes_on != bool(found.over[row])
            if step.terminated[n]:
                assert not (now == mazes.PACMAN).any()
        ends += [part.sum() for part in (step.terminated, step.truncated, step.cleared)]
        twin.reset(step.terminated | step.truncated)
    assert (ends > 2).all(), ends


def test_the_mixed_player_strays_one_time_in_four():
    frames = frame_with(pacman=CORRIDOR + 4, food=CORRIDOR + 8).expand(8_000, 15, 19).numpy()
    actions = ch.mixed_player()(frames, np.random.default_rng(0))
    share = np.bincount(actions, minlength=5) / len(actions)
    wanted = np.full(5, 0.05) + 0.75 * (np.arange(5) == mazes.RIGHT)
    assert abs(share - wanted).max() < 0.015


def test_an_exam_has_other_chances_by_seed_and_the_mixed_player():
    one, again, other = (ch.exam("rush", seed) for seed in (1, 1, 2))
    assert same(one, again) and not torch.equal(one.frames, other.frames)
    assert len(one.actions) == 50 * ch.TEST_WORLDS
    held = ch.transitions(mazes.held(3), "rush", ch.TEST_WORLDS, 50, np.random.default_rng(1))
    ate = lambda steps: (steps.after != steps.frames).float().mean()
    assert ate(one) > ate(held)  # who seeks food is on the move


# What a step may bring


@pytest.mark.parametrize("mode", mazes.MODES)
def test_prizes_hold_every_reward_that_is_paid(mode):
    rules, prizes, told = mazes.MODES[mode], ch.prizes(mazes.MODES[mode]), set()
    for number, player in enumerate(("eater", "hunter", "runner", "held 4 steps")):
        world = mazes.MiniPacman(rules, 100, np.random.default_rng(number))
        world.level[:] = 1 + 2 * number  # up to four ghosts
        world.deal(np.arange(100))
        play = mazes.PLAYERS[player]()
        for _ in range(150):
            step = world.step(play(world.frames(), world.rng))
            few = step.events[:, mazes.ATE_GHOST] < 3
            told |= set(step.rewards[few].round(4).tolist())
            world.reset(step.terminated | step.truncated)
    for reward in told:
        assert (prizes - reward).abs().min() < 1e-5, reward
    assert len(told) > 2 and prizes.dtype == torch.float32
    assert (prizes.diff() > 0.05).all()  # in order, none twice


@pytest.mark.parametrize("mode", mazes.MODES)
def test_sums_of_a_step_have_a_class_of_their_own(mode):
    """Pacman steps onto food, a pill and two ghosts at once; or onto food and a ghost that catches it."""
    rules, prizes = mazes.MODES[mode], ch.prizes(mazes.MODES[mode])
    world = mazes.MiniPacman(rules, 4, np.random.default_rng(0))
    world.level[:] = 3
    world.deal(np.arange(4))
    world.pacman[:], there = CORRIDOR + 4, CORRIDOR + 5
    world.board[:, there], world.ghosts[:] = mazes.FOOD, 0
    world.ghosts[:3, 0] = world.ghosts[0, 1] = there
    world.pills[:] = CORRIDOR + 12, CORRIDOR + 14
    world.pills[:2, 0] = there
    step = world.step(np.full(4, mazes.RIGHT))
    assert step.events.tolist() == [[1, 1, 2, 0], [1, 1, 1, 0], [1, 0, 0, 1], [1, 0, 0, 0]]
    found = ch.classes(torch.from_numpy(step.rewards), prizes)
    pay = [rules.food, rules.pill, rules.ghost, rules.caught]
    for row, events in enumerate(step.events.tolist()):
        wanted = rules.step + sum(n * p for n, p in zip(events, pay, strict=True))
        assert prizes[found[row]].item() == pytest.approx(wanted, abs=1e-5)


def test_classes_are_the_nearest_prizes():
    prizes = ch.prizes(mazes.MODES["avoid"])
    rewards = torch.from_numpy(np.random.default_rng(0).uniform(-50, 5, 200))
    for reward, found in zip(rewards.tolist(), ch.classes(rewards, prizes).tolist(), strict=True):
        gaps = [abs(reward - prize) for prize in prizes.tolist()]
        assert found == gaps.index(min(gaps))


# The network


def test_near_cells_are_those_around():
    assert ch.NEAR.shape == (285, 25)
    for cell in range(285):
        row, column = divmod(cell, 19)
        wanted = [
            19 * y + x if 0 <= y < 15 and 0 <= x < 19 else 0
            for y in range(row - 2, row + 3)
            for x in range(column - 2, column + 3)
        ]
        assert ch.NEAR[cell].tolist() == wanted
    assert mazes.WALLS[0]


def test_a_frame_and_an_action_alone_get_the_same_answer():
    model, frames = random_model("hunt"), unlike_frames(6)
    with torch.no_grad():
        actions = torch.arange(5).expand(6, 5)
        kinds, rewards = model(mazes.planes(frames), actions)
        assert kinds.shape == (6, 5, 7, 15, 19)
        assert rewards.shape == (6, 5, len(ch.prizes(mazes.MODES["hunt"])))
        for b, a in itertools.product(range(6), range(5)):
            alone = model(mazes.planes(frames[b : b + 1]), torch.tensor([[a]]))
            assert torch.allclose(alone[0][0, 0], kinds[b, a], atol=1e-4)
            assert torch.allclose(alone[1][0, 0], rewards[b, a], atol=1e-4)
        for a, b in itertools.combinations(range(5), 2):  # actions matter, and so do frames
            assert (kinds[:, a] - kinds[:, b]).abs().amax((1, 2, 3)).min() > 0.1
        assert (kinds[1:] - kinds[:1]).abs().amax((2, 3, 4)).min() > 0.1
        mixed = torch.tensor([[4, 0], [1, 1], [2, 3], [0, 4], [3, 2], [1, 0]])
        some = model(mazes.planes(frames), mixed)
        for b, i in itertools.product(range(6), range(2)):
            assert torch.allclose(some[0][b, i], kinds[b, mixed[b, i]], atol=1e-4)


def test_a_pill_anywhere_can_be_told_to_every_cell():
    """By hand: see a pill, tell the largest value everywhere, unless the action is left."""
    model = ch.MazeModel("regular")
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.see.weight[0, mazes.PILL, 1, 1] = 1
        model.act.weight[mazes.LEFT, 0] = -1
        model.inject.weight[1, 0] = 2
        model.change.weight[mazes.EDIBLE, 1] = 3
        for pill in (True, False):
            frame = frame_with(pacman=CORRIDOR + 1, **{"pill": 19 + 17} if pill else {})
            planes = mazes.planes(frame)
            kinds = model(planes, torch.arange(5)[None])[0][0]
            for a in range(5):
                wanted = 4 * planes[0]
                wanted[mazes.EDIBLE] += 6 * (pill and a != mazes.LEFT)
                assert torch.equal(kinds[a], wanted)


def test_without_what_is_injected_a_cell_depends_on_two_cells_around():
    model = random_model()
    frame = unlike_frames(1)
    for cell in (19 * 7 + 3, 19 * 3 + 9):
        row, column = divmod(cell, 19)
        other = frame.clone()
        other[0, row, column] = (other[0, row, column] + 3) % 7
        with torch.no_grad():
            model.inject.weight.zero_()
            one, two = (
                model(mazes.planes(f), torch.tensor([[1]]))[0][0, 0] for f in (frame, other)
            )
        changed = (one - two).abs().amax(0) > 1e-5
        reach = [max(abs(y - row), abs(x - column)) for y, x in changed.nonzero().tolist()]
        assert max(reach) == 2 and len(reach) > 9


def test_rewards_are_read_off_the_cells_around_pacman():
    model, frames = random_model(), unlike_frames(4)
    after = torch.rand(4, 5, 7, 15, 19).mul(3).softmax(2)
    found = model.around(mazes.planes(frames), after)
    assert found.shape == (4, 5, 351)
    for b, a in itertools.product(range(4), range(5)):
        ((row, column),) = (frames[b] == mazes.PACMAN).nonzero().tolist()
        cells = [(y, x) for y in range(row - 2, row + 3) for x in range(column - 2, column + 3)]
        cells = [(y, x) if 0 <= y < 15 and 0 <= x < 19 else (0, 0) for y, x in cells]
        here = [float(frames[b, y, x] == kind) for kind in range(7) for y, x in cells]
        there = [after[b, a, kind, y, x].item() for kind in range(7) for y, x in cells]
        near = sum(after[b, a, mazes.PACMAN, y, x].item() for y, x in cells)
        near = min(max(near, 0.001), 0.999)
        wanted = torch.tensor([*here, *there, math.log(near / (1 - near))])
        assert torch.allclose(found[b, a], wanted, atol=1e-3)


def test_far_cells_do_not_reach_the_reward():
    """With nothing injected, what lies farther than four cells away is out of reach; what lies near is not."""
    model = random_model()
    with torch.no_grad():
        model.inject.weight.zero_()
        spot = 19 * 11 + 5
        told = lambda **kinds: model(mazes.planes(frame_with(pacman=spot, **kinds)), torch.tensor([[1]]))[1]  # fmt: skip
        assert torch.equal(told(), told(food=spot + 5))
        assert not torch.equal(told(), told(food=spot + 2))


def test_the_loss_of_rewards_does_not_reach_the_frames():
    model, memory = random_model(), played()
    rows = torch.arange(20)
    frame_loss, reward_loss = ch.model_loss(model, memory, rows, rows[:5])
    reward_loss.backward(retain_graph=True)
    seen = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}  # fmt: skip
    assert seen and all(name.startswith("reward.") for name in seen)
    model.zero_grad()
    frame_loss.backward()
    seen = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}  # fmt: skip
    assert {name.partition(".")[0] for name in seen} == {"see", "act", "inject", "mix", "change"}


# Training


def test_the_loss_is_that_of_plain_loops():
    memory, model = played(), random_model("rush", spread=1.5)
    fresh = torch.nonzero(memory.fresh)[:2, 0].tolist()
    assert len(fresh) == 2
    rows, rare = [3, fresh[0], 50, 3], [fresh[1], 17]
    frames, rewards = 0.0, 0.0
    with torch.no_grad():
        found = ch.model_loss(model, memory, torch.tensor(rows), torch.tensor(rare))
        for number, row in enumerate(rows + rare):
            planes, action = mazes.planes(memory.frames[row : row + 1]), memory.actions[row]
            kinds, told = (part[0, 0].double() for part in model(planes, action.view(1, 1)))
            gaps = [abs(p - memory.rewards[row].item()) for p in model.prizes.tolist()]
            total = math.log(sum(math.exp(x) for x in told.tolist()))
            rewards += (total - told[gaps.index(min(gaps))].item()) / 6
            if number < 4 and row not in fresh:
                for y, x in itertools.product(range(15), range(19)):
                    logits = kinds[:, y, x].tolist()
                    total = math.log(sum(map(math.exp, logits)))
                    frames += (total - logits[memory.after[row, y, x]]) / 4
    assert found[0].item() == pytest.approx(frames, rel=1e-4)
    assert found[1].item() == pytest.approx(rewards, rel=1e-4)


def test_rare_rewards_are_those_of_few_rows():
    rewards = torch.tensor([0.0] * 900 + [1.0] * 90 + [9.9] * 4 + [-20.0] * 5 + [3.0])
    rewards = rewards[torch.randperm(1_000, generator=torch.Generator().manual_seed(0))].double()
    counts = Counter(rewards.tolist())
    wanted = [i for i, r in enumerate(rewards.tolist()) if counts[r] < 0.005 * 1_000]
    assert ch.rare_rows(rewards).tolist() == wanted and len(wanted) == 5
    assert not len(ch.rare_rows(torch.zeros(50)))


def test_rows_are_drawn_evenly_from_those_allowed():
    torch.manual_seed(0)
    among = torch.tensor([7, 3, 11, 100])
    drawn = Counter(ch.draw_rows(8_000, among).tolist())
    assert set(drawn) == {3, 7, 11, 100} and max(abs(n - 2_000) for n in drawn.values()) < 150
    assert len(ch.draw_rows(5, among)) == 5 and not len(ch.draw_rows(5, among[:0]))


def test_the_learning_rate_is_a_triangle(monkeypatch):
    wanted = {0: 0, 0.05: 0.5, 0.1: 1, 0.325: 0.75, 0.55: 0.5, 1: 0}
    assert all(ch.model_rate(done) == pytest.approx(rate) for done, rate in wanted.items())
    rates, step = [], ch.OPTIMISATION.gradient_step

    def note(model, optimiser, *rest):
        rates.append(optimiser.param_groups[0]["lr"])
        step(model, optimiser, *rest)

    monkeypatch.setattr(ch.OPTIMISATION, "gradient_step", note)
    monkeypatch.setattr(ch, "exam", lambda mode, seed: played(mode, 2, 10))
    list(ch.train_model(ch.ModelConfig(worlds=8, steps=10, updates=39, batch=8, learning_rate=2e-2), 1))  # fmt: skip
    up = [0.02 * k / 4 for k in range(1, 5)]  # a tenth of 40
    down = [0.02 * (40 - k) / 36 for k in range(5, 40)]
    assert rates == pytest.approx(up + down)


def test_training_draws_fair_rows_and_a_fifth_of_rare_ones(monkeypatch):
    seen, loss = [], ch.model_loss

    def note(model, memory, rows, rare):
        seen.append((memory, rows, rare))
        return loss(model, memory, rows, rare)

    monkeypatch.setattr(ch, "model_loss", note)
    monkeypatch.setattr(ch, "exam", lambda mode, seed: played(mode, 2, 10))
    config = ch.ModelConfig(mode="hunt", worlds=100, steps=40, updates=60, batch=40)
    list(ch.train_model(config, 1))
    memory = seen[0][0]
    counts = Counter(memory.rewards.tolist())
    assert len(memory.actions) == 4_000
    assert {len(rows) for _, rows, _ in seen} == {40} and {len(rare) for *_, rare in seen} == {8}
    drawn = {memory.rewards[row].item() for *_, rare in seen for row in rare}
    few = {reward for reward, count in counts.items() if count < 20}
    assert drawn == few and few
    assert len({row.item() for _, rows, _ in seen for row in rows}) > 1_500  # of all rows


def test_training_the_model_resumes_exactly(tmp_path, monkeypatch):
    monkeypatch.setattr(ch, "exam", lambda mode, seed: played(mode, 4, 10, seed))
    config = ch.ModelConfig(worlds=16, steps=20, updates=230, batch=8)
    whole, states = zip(*((p, p.state()) for p in ch.train_model(config, 3)), strict=True)
    save_checkpoint(tmp_path / "run", states[0])
    state = load_checkpoint(tmp_path / "run")["state"]
    torch.manual_seed(99)
    again = list(ch.train_model(config, 3, state=state))
    assert [p.step for p in whole] == [100, 200, 230] and [p.step for p in again] == [200, 230]
    for one, other in zip(whole[1:], again, strict=True):
        told = [{k: v for k, v in p.metrics.items() if k != "seconds"} for p in (one, other)]
        assert told[0] == told[1]
    models = [ch.model_of(end, "regular") for end in (states[-1], again[-1].state())]
    assert same(*map(weights_of, models))
    assert not same(weights_of(models[0]), weights_of(ch.model_of(states[0], "regular")))
    assert not models[0].training


BRIEF = dict(worlds=256, steps=60, updates=250, batch=64)


@pytest.fixture(scope="module")
def learned():
    """Three briefly trained models, each with steps that it has not learned from."""
    found = []
    for seed in (1, 2, 3):
        *_, last = ch.train_model(ch.ModelConfig(**BRIEF), seed)
        rng = np.random.default_rng(seed + 50)
        test = ch.transitions(ch.mixed_player(), "regular", 30, 40, rng)
        found.append((ch.model_of(last.state(), "regular"), test))
    return found


@pytest.mark.slow
def test_a_brief_training_foresees_what_changes(learned):
    for model, test in learned:
        kinds, rewards = ch.predictions(model, test)
        frames = ch.score_frames(kinds, test)
        paid = ch.score_rewards(rewards, test, model.prizes)
        assert frames["changed"] > 0.75, frames  # they reached 0.85 to 0.90; a copy gets 0
        assert frames["all_cells"] > frames["all_cells_copy"] + 0.003, frames
        assert paid["rewards"] > paid["rewards_common"] + 0.08, paid
    assert not same(weights_of(learned[0][0]), weights_of(learned[1][0]))


@pytest.mark.slow
def test_a_trained_model_minds_the_action(learned):
    """With the actions of other rows it foresees less: losses of 7 to 10 and 2 to 3 in place of 3 and 0.3."""
    for model, test in learned:
        rows, none = torch.arange(1_000), torch.arange(0)
        shuffled = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
        other = test._replace(actions=test.actions[shuffled])
        with torch.no_grad():
            right, wrong = (ch.model_loss(model, steps, rows, none) for steps in (test, other))
        assert wrong[0] > 1.8 * right[0] and wrong[1] > 3 * right[1], (right, wrong)


@pytest.mark.slow
def test_a_trained_model_moves_pacman_and_beats_a_copy_ahead(learned):
    for model, test in learned:
        ahead = ch.score_ahead(model, test, 30)
        assert ahead["pacman_1"] > ahead["pacman_copy_1"] + 0.3, ahead


def test_predictions_are_log_probabilities_in_the_rows_order():
    model, test = random_model("rush"), played(worlds=20, steps=30)  # more than one split of 512
    kinds, rewards = ch.predictions(model, test)
    assert len(kinds) == len(rewards) == 600
    for row in (0, 511, 512, 599):
        with torch.no_grad():
            told = model(mazes.planes(test.frames[row][None]), test.actions[row].view(1, 1))
        assert torch.allclose(kinds[row].exp(), told[0][0, 0].softmax(0), atol=1e-4)
        assert torch.allclose(rewards[row].exp(), told[1][0, 0].softmax(0), atol=1e-4)


# How good it is


def certain(frames):
    """Log-probabilities of who is sure of these frames: [M, 7, 15, 19]."""
    return mazes.planes(frames).clamp(1e-9).log()


def test_who_foresees_all_gets_one_and_a_copy_nothing():
    test = played(worlds=20)
    assert test.fresh.any()
    right, copied = (ch.score_frames(certain(f), test) for f in (test.after, test.frames))
    assert right["changed"] == right["changed_ghosts"] == right["all_cells"] == 1
    assert copied["changed"] == copied["changed_ghosts"] == 0
    assert copied["all_cells"] == copied["all_cells_copy"] == right["all_cells_copy"] < 1


def test_scores_of_frames_are_those_of_loops():
    test = played("hunt", worlds=6, steps=20)
    test = test._replace(fresh=torch.arange(120) % 7 == 0)
    torch.manual_seed(0)
    guess = torch.where(torch.rand(test.after.shape) < 0.6, test.after, test.frames)
    right = {"changed": [], "changed_ghosts": [], "all_cells": [], "all_cells_copy": []}
    for m in range(120):
        if m % 7 == 0:
            continue
        for y, x in itertools.product(range(15), range(19)):
            now, came, told = (int(f[m, y, x]) for f in (test.frames, test.after, guess))
            right["all_cells"].append(told == came)
            right["all_cells_copy"].append(now == came)
            if now != came:
                ghost = {now, came} & {mazes.GHOST, mazes.EDIBLE}
                right["changed_ghosts" if ghost else "changed"].append(told == came)
    wanted = {name: np.mean(hits) for name, hits in right.items()}
    assert ch.score_frames(certain(guess), test) == pytest.approx(wanted, abs=1e-6)
    assert 0.3 < wanted["changed"] < 0.9 and 0.3 < wanted["changed_ghosts"] < 0.9


def test_scores_of_rewards_are_those_of_loops():
    prizes = torch.tensor([-20.0, 0.0, 1.0, 10.0])
    paid = [0.0] * 6 + [1.0] * 3 + [10.0]
    said = [0.0] * 5 + [1.0] + [1.0, 1.0, 0.0] + [0.0]
    test = played(steps=2, worlds=5)._replace(rewards=torch.tensor(paid).double())
    guess = nn.functional.one_hot(ch.classes(torch.tensor(said), prizes), 4).float().log()
    found = ch.score_rewards(guess, test, prizes)
    wanted = {
        "rewards": 0.7, "rewards_common": 0.6, "reward_0": 5 / 6, "count_0": 6, "reward_1": 2 / 3, "count_1": 3,
        "reward_10": 0, "count_10": 1,
    }  # fmt: skip
    assert found == pytest.approx(wanted)


def test_the_even_rule_by_hand():
    """A ghost in a corridor, one at a crossing, and an edible one at another: each has mass 1."""
    corridor, fork = CORRIDOR + 2, 19 * 3 + 1  # 3, 1: up, right and down are open
    ways = [19 * 2 + 1, 19 * 3 + 2, 19 * 4 + 1]
    wanted = np.zeros(285)
    wanted[[corridor, corridor - 1, corridor + 1]] = 0.5, 0.25, 0.25
    assert np.allclose(ch.even_ghosts(frame_with(ghost=corridor).numpy()).ravel(), wanted)
    wanted[fork], wanted[ways] = 0.75, 0.25 / 3
    both = frame_with(ghost=corridor, edible=fork).numpy()
    assert np.allclose(ch.even_ghosts(both).ravel(), wanted)
    assert not mazes.WALLS[[*ways, fork, corridor - 1, corridor + 1]].any()


def test_the_even_rule_gives_each_ghost_a_mass_of_one():
    frames = played("hunt", worlds=40).frames.numpy()
    chances = ch.even_ghosts(frames)
    ghosts = np.isin(frames, (mazes.GHOST, mazes.EDIBLE)).sum((1, 2))
    one = ghosts == 1
    assert one.sum() > 500 and (ghosts == 0).any() == (chances.sum((1, 2)) == 0).any()
    assert np.allclose(chances[one].sum((1, 2)), 1)
    assert (chances[:, mazes.WALLS.reshape(15, 19)] == 0).all()
    for m in range(0, len(frames), 40):
        for y, x in np.argwhere(chances[m] > 0):  # nothing farther than a step from a ghost
            near = np.argwhere(np.isin(frames[m], (mazes.GHOST, mazes.EDIBLE)))
            assert abs(near - (y, x)).sum(1).min() <= 1


def test_probabilities_of_ghosts_by_hand():
    """Ten frames of a ghost in a corridor that stays in three, and an eleventh of a fresh level that does not count."""
    now, left = CORRIDOR + 8, CORRIDOR + 7
    came = [now] * 3 + [left] * 7
    after = [frame_with(pacman=30, ghost=cell) for cell in came] + [frame_with(ghost=[20, 22, 24])]
    test = ch.Transitions(
        frame_with(pacman=30, ghost=now).expand(11, 15, 19), torch.zeros(11, dtype=int), torch.zeros(11),
        torch.cat(after), torch.arange(11) == 10, torch.zeros(11, dtype=bool),
    )  # fmt: skip
    chances = mazes.planes(frame_with(pacman=30)).repeat(11, 1, 1, 1).flatten(2)
    for cell, ghost, edible in ((now, 0.35, 0.0), (left, 0.5, 0.1)):
        chances[:, :, cell] = 0
        kinds = [mazes.FLOOR, mazes.GHOST, mazes.EDIBLE]
        chances[:, kinds, cell] = torch.tensor([1 - ghost - edible, ghost, edible])
    found = ch.score_ghosts(chances.unflatten(2, (15, 19)).log(), test)
    nats = -(3 * math.log(0.35 * 0.4) + 7 * math.log(0.65 * 0.6)) / 10
    even = -(3 * math.log(0.5 * 0.75 * 0.75) + 7 * math.log(0.25 * 0.5 * 0.75)) / 10
    assert found["nats"] == pytest.approx(nats, abs=1e-4)
    assert found["nats_even"] == pytest.approx(even, abs=1e-4)
    told = {
        "off": (0.5 + 1) / 20, "said_3": 0.35, "happened_3": 0.3, "happened_6": 0.7, "lost": 0, "doubled": 0,
    }  # fmt: skip
    assert {name: found[name] for name in told} == pytest.approx(told, abs=1e-6)
    assert sum(found[f"said_{n}"] for n in range(10)) == pytest.approx(0.35 + 0.6)
    for shift, name in ((0.3, "doubled"), (-0.3, "lost")):
        other = chances.clone()
        other[:, mazes.GHOST, left] += min(shift, 0.0)  # 0.2 of a ghost is not the likeliest
        other[:, mazes.FLOOR, left] -= min(shift, 0.0)
        other[:, mazes.GHOST, now] += max(shift, 0.0)  # 0.65 is
        other[:, mazes.FLOOR, now] -= max(shift, 0.0)
        scored = ch.score_ghosts(other.unflatten(2, (15, 19)).log(), test)
        assert {k: scored[k] for k in ("lost", "doubled")} == {"lost": 0.0, "doubled": 0.0} | {name: 1.0}  # fmt: skip


def test_a_certain_and_wrong_forecast_of_ghosts_costs_much():
    test = played("avoid", worlds=10)
    right = ch.score_ghosts(certain(test.after), test)
    wrong = ch.score_ghosts(certain(frame_with().expand_as(test.after)), test)
    assert right["nats"] < 1e-4 and right["lost"] == right["doubled"] == 0
    ghosts = torch.isin(test.after, torch.tensor([5, 6], dtype=torch.uint8)).sum((1, 2)).float()
    wanted = ghosts[~test.fresh].mean().item() * -math.log(1e-4)
    assert wrong["nats"] == pytest.approx(wanted, rel=1e-3)
    assert wrong["lost"] == pytest.approx((ghosts[~test.fresh] > 0).float().mean().item())


class Mover:
    """A model that knows the maze: it moves Pacman, and nothing else."""

    def __call__(self, planes, actions):
        pacman = planes[:, mazes.PACMAN].flatten(1).argmax(1).numpy()
        moved = planes[:, None].repeat(1, actions.shape[1], 1, 1, 1).flatten(3)
        moved[:, :, mazes.PACMAN] = 0
        for b, a in itertools.product(*map(range, actions.shape)):
            moved[b, a, mazes.PACMAN, mazes.NEXT[pacman[b], actions[b, a]]] = 9
        return (9 * moved).unflatten(3, (15, 19)), None


def test_who_knows_the_maze_finds_pacman_five_steps_ahead(monkeypatch):
    monkeypatch.setattr(mazes, "MiniPacman", partial(mazes.MiniPacman, max_steps=13))
    worlds, steps = 11, 40
    test = played("rush", worlds, steps, seed=4)
    assert test.over.sum() > 20 and test.fresh.sum() > 0
    found = ch.score_ahead(Mover(), test, worlds)
    spot = lambda frame: int((frame.flatten() == mazes.PACMAN).nonzero()[0])
    for k in range(1, 6):
        hits = []
        for t, n in itertools.product(range(steps - 4), range(worlds)):
            way = [(t + i) * worlds + n for i in range(k)]
            if not any(test.over[row] or test.fresh[row] for row in way):
                hits.append(spot(test.frames[way[0]]) == spot(test.after[way[-1]]))
        assert found[f"pacman_{k}"] == 1
        assert found[f"pacman_copy_{k}"] == pytest.approx(np.mean(hits))


# The planner


class Told:
    """A model that says the same of every frame: the expected reward and the chance to be gone, by action."""

    prizes = torch.tensor([0.0, 10.0])

    def __init__(self, rewards, gone):
        self.rewards, self.gone = torch.tensor(rewards), torch.tensor(gone)

    def __call__(self, planes, actions):
        shares = torch.stack([1 - self.rewards / 10, self.rewards / 10], -1)[actions]  # [B, 5, 2]
        kinds = torch.zeros(*actions.shape, 7, 285)
        kinds[:, :, mazes.FLOOR] = 1
        here = 1 - self.gone[actions]
        kinds[:, :, mazes.PACMAN, 100], kinds[:, :, mazes.FLOOR, 100] = here / 2, 1 - here / 2
        kinds[:, :, mazes.PACMAN, 101], kinds[:, :, mazes.FLOOR, 101] = here / 2, 1 - here / 2
        return kinds.log().unflatten(3, (15, 19)), shares.log()


def test_the_planner_takes_the_best_and_the_careful_one_minds_death():
    frames = frame_with(pacman=CORRIDOR + 4).expand(400, 15, 19).numpy()
    rng = np.random.default_rng(0)
    model = Told([1.0, 4.0, 2.0, 3.0, 1.0], [0.0, 0.3, 0.1, 0.01, 0.0])
    choices = {fear: set(ch.planner(model, fear)(frames, rng)) for fear in (0, 5, 20, 1_000)}
    # gains with a fear of 5: 1, 2.5, 1.5, 2.95, 1; of 20: 1, -2, 0, 2.8, 1
    assert choices[0] == {1} and choices[5] == choices[20] == {3} and choices[1_000] == {0, 4}
    taken = ch.planner(Told([2.0] * 5, [0.5] * 5), 20)(frames, rng)
    assert np.bincount(taken, minlength=5).min() > 50  # of equal ones any


def test_the_planner_takes_each_frames_own_best():
    model, frames = random_model("rush", spread=4.0), unlike_frames(40)
    taken = ch.planner(model)(frames.numpy(), np.random.default_rng(0))
    for b in range(40):
        with torch.no_grad():
            gains = [
                (model(mazes.planes(frames[b : b + 1]), torch.tensor([[a]]))[1].softmax(-1) @ model.prizes).item()
                for a in range(5)
            ]  # fmt: skip
        assert gains[taken[b]] > max(gains) - 0.021
    assert len(set(taken)) > 2


# Imagination


@pytest.fixture
def dream():
    """A small imagination: model, rollout policy and unlike frames."""
    return random_model("rush"), random_policy(), unlike_frames(4)


def test_one_step_films_are_the_models_word_state_major(dream):
    model, policy, frames = dream
    config = ch.I2AConfig(reward_scale=0.3)
    films = ch.imagine(model, policy, frames, config)
    assert films.planes.shape == (1, 20, 7, 15, 19) and films.rewards.shape == (1, 20)
    for b, a in itertools.product(range(4), range(5)):
        with torch.no_grad():
            kinds, prizes = model(mazes.planes(frames[b : b + 1]), torch.tensor([[a]]))
        shares = [math.exp(x) for x in prizes[0, 0].double().tolist()]
        expected = sum(s * p for s, p in zip(shares, model.prizes.tolist(), strict=True)) / sum(shares)  # fmt: skip
        assert films.rewards[0, 5 * b + a].item() == pytest.approx(0.3 * expected, abs=1e-4)
        assert torch.allclose(films.planes[0, 5 * b + a], kinds[0, 0].softmax(0), atol=1e-4)
    assert films.rewards.std() > 0.01


def test_films_of_a_frame_do_not_depend_on_its_neighbours(dream):
    model, policy, frames = dream
    together = ch.imagine(model, policy, frames, ch.I2AConfig())
    for b in range(4):
        alone = ch.imagine(model, policy, frames[b : b + 1], ch.I2AConfig())
        for one, all_of_them in zip(alone, together, strict=True):
            assert torch.allclose(one, all_of_them[:, 5 * b : 5 * b + 5], atol=1e-4)


def test_longer_films_go_on_from_themselves_with_drawn_actions(dream, monkeypatch):
    """Each film again, alone, with the actions that were drawn for it from what the rollout policy says of it."""
    model, policy, frames = dream
    asked, drawn, draw = [], [], mazes.draw_actions

    def note(log_probs):
        asked.append(log_probs)
        drawn.append(draw(log_probs))
        return drawn[-1]

    monkeypatch.setattr(mazes, "draw_actions", note)
    torch.manual_seed(7)
    films = ch.imagine(model, policy, frames, ch.I2AConfig(depth=3, reward_scale=1.0))
    assert films.planes.shape == (3, 20, 7, 15, 19) and films.rewards.shape == (3, 20)
    assert [actions.shape for actions in drawn] == [(20,), (20,)]
    assert len({tuple(actions.tolist()) for actions in torch.stack(drawn).T}) > 4
    for film in range(20):
        planes, action = mazes.planes(frames[film // 5 : film // 5 + 1]), film % 5
        for step in range(3):
            with torch.no_grad():
                kinds, prizes = model(planes, torch.tensor([[action]]))
                planes = kinds[:, 0].softmax(1)
                wanted = (prizes[0, 0].softmax(0) * model.prizes).sum()
                assert torch.allclose(films.planes[step, film], planes[0], atol=1e-3)
                assert films.rewards[step, film].item() == pytest.approx(wanted.item(), abs=1e-2)
                if step < 2:
                    assert torch.allclose(asked[step][film], policy(planes)[0], atol=1e-2)
                    action = drawn[step][film].item()


def test_the_rollout_policy_sees_probabilities(dream):
    model, policy, frames = dream
    seen = []
    policy.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    films = ch.imagine(model, policy, frames, ch.I2AConfig(depth=3))
    assert len(seen) == 2 and same(seen, films.planes[:2])
    for planes in (*seen, *films.planes, mazes.planes(frames)):  # all on one scale
        assert torch.allclose(planes.sum(1), torch.ones(1), atol=1e-5)
        assert planes.min() >= 0 and planes.max() <= 1


def test_controls_show_the_frame_or_pay_nothing(dream):
    model, policy, frames = dream
    now = mazes.planes(frames).repeat_interleave(5, 0)
    for depth in (1, 3):
        torch.manual_seed(0)
        full = ch.imagine(model, policy, frames, ch.I2AConfig(depth=depth))
        copied = ch.imagine(model, policy, frames, ch.I2AConfig(depth=depth, frames="copied"))
        torch.manual_seed(0)
        unpaid = ch.imagine(model, policy, frames, ch.I2AConfig(depth=depth, pay="none"))
        assert all(torch.equal(planes, now) for planes in copied.planes)
        assert torch.equal(copied.rewards[0], full.rewards[0]) and full.rewards.abs().max() > 0.05
        assert torch.equal(unpaid.planes, full.planes) and not unpaid.rewards.any()
        assert not torch.allclose(full.planes[0], now, atol=0.1)


def test_no_gradient_leaves_the_films(dream):
    model, policy, frames = dream
    torch.manual_seed(0)
    net = ch.I2ANet()
    films = ch.imagine(model, policy, frames, ch.I2AConfig(depth=2))
    assert not films.planes.requires_grad and not films.rewards.requires_grad
    log_probs, values = net(frames, films)
    (log_probs[:, 0].sum() + values.sum()).backward()
    for name, weight in net.named_parameters():
        assert weight.grad is not None and weight.grad.any(), name
    assert all(weight.grad is None for part in (model, policy) for weight in part.parameters())


# The network of the agent


def slow_lstm(lstm, steps):
    """The last output of an LSTM for one sequence, by its equations."""
    (w, u, b, c), size = (lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0, lstm.bias_hh_l0), lstm.hidden_size  # fmt: skip
    hidden = memory = torch.zeros(size)
    for given in steps:
        enter, forget, news, leave = (w @ given + b + u @ hidden + c).split(size)
        memory = forget.sigmoid() * memory + enter.sigmoid() * news.tanh()
        hidden = leave.sigmoid() * memory.tanh()
    return hidden


def test_the_encoder_reads_each_film_from_its_end():
    films = random_films(2, depth=3)
    encoder = ch.Encoder(code=16)
    with torch.no_grad():
        codes = encoder(films)
        assert codes.shape == (10, 16)
        for film in range(10):
            steps = [
                torch.cat([encoder.look(planes[film][None])[0], reward[film][None]])
                for planes, reward in zip(films.planes, films.rewards, strict=True)
            ]
            assert torch.allclose(codes[film], slow_lstm(encoder.read, steps[::-1]), atol=1e-5)
            assert not torch.allclose(codes[film], slow_lstm(encoder.read, steps), atol=1e-3)


def test_heads_by_their_formulas():
    frames, films = unlike_frames(3), random_films(3)
    for heads in ("shared", "separate"):
        torch.manual_seed(1)
        net = ch.I2ANet(heads, code=8)
        with torch.no_grad():
            log_probs, values = net(frames, films)
            assert log_probs.shape == (3, 5) and values.shape == (3,)
            codes = net.encoder(films)
            for b in range(3):
                feature = net.body(mazes.planes(frames[b : b + 1]))[0]
                mine = codes[5 * b : 5 * b + 5]
                if heads == "shared":
                    logits = [
                        net.policy.weight[a] @ feature + net.policy.bias[a] + net.score.weight[0] @ mine[a]
                        for a in range(5)
                    ]  # fmt: skip
                    told = torch.cat([feature, sum(mine) / 5])
                else:
                    told = torch.cat([feature, *mine])
                    logits = list(net.policy.weight @ told + net.policy.bias)
                value = net.value.weight[0] @ told + net.value.bias[0]
                assert torch.allclose(log_probs[b], torch.stack(logits).log_softmax(0), atol=1e-5)
                assert torch.allclose(values[b], value, atol=1e-5)


def test_shared_heads_hold_for_whichever_action_has_the_film():
    frames, films = unlike_frames(3), random_films(3)
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = ch.Films(*(part.unflatten(1, (3, 5))[:, :, order].flatten(1, 2) for part in films))
    torch.manual_seed(1)
    net = ch.I2ANet("shared")
    with torch.no_grad():
        net.policy.weight.zero_()
        net.policy.bias.zero_()
        (one, value), (other, value_too) = net(frames, films), net(frames, moved)
    assert torch.allclose(one[:, order], other, atol=1e-6) and one.std(1).min() > 1e-4
    assert not torch.allclose(one, other, atol=1e-4)
    assert torch.allclose(value, value_too, atol=1e-6)


# Playing and learning


def small(depth, **change):
    config = dict(num_envs=3, horizon=6, max_steps=5, depth=depth, reward_scale=0.7, steps=1_000)
    return ch.I2AConfig(mode="rush", **config | change)


@pytest.mark.parametrize("depth", (1, 3))
def test_learning_sees_the_films_that_playing_saw(depth, monkeypatch):
    learner = ch.i2a(small(depth), 3, random_model("rush"))
    told, checked = {}, []
    ask, learn = learner.players.ask, learner.learn

    def note(t):
        told[t] = ask(t)
        return told[t]

    def compare(steps, log_probs, values):
        for row, (t, n) in enumerate(itertools.product(range(6), range(3))):
            assert torch.allclose(log_probs[row], told[t][0][n], atol=1e-5)
            assert torch.allclose(values[row], steps.values[t, n], atol=1e-5)
            assert torch.allclose(values[row], told[t][1][n], atol=1e-5)
        checked.append(int(steps.done[:-1].sum()))
        return learn(steps, log_probs, values)

    monkeypatch.setattr(learner.players, "ask", note)
    monkeypatch.setattr(learner, "learn", compare)
    for _ in range(3):
        learner.update()
    assert len(checked) == 3 and min(checked) > 0  # where films were imagined twice for a moment


@pytest.mark.parametrize("depth", (1, 3))
def test_films_in_the_buffer_belong_to_its_frames(depth):
    players = ch.i2a(small(depth), 4, random_model("rush")).players
    mazes.collect(players)
    assert players.films.planes.shape == (7, depth, 15, 7, 15, 19)
    model = players.imagine.args[0]
    for t, n in itertools.product(range(7), range(3)):
        one = ch.imagine(model, None, players.frames[t, n][None], small(1))
        for kept, wanted in zip(players.films, one, strict=True):
            assert torch.allclose(kept[t, 0, 5 * n : 5 * n + 5], wanted[0], atol=1e-4)


def test_an_update_moves_the_agent_and_never_the_model():
    for depth in (1, 2):
        model = random_model("rush")
        given = weights_of(model)
        learner = ch.i2a(small(depth, distil_rate=2e-3), 5, model)
        parts = (learner.net, learner.rollout_policy, learner.parts["model"])
        before = [weights_of(part) for part in parts]
        learner.update()
        moved = [not same(old, weights_of(part)) for old, part in zip(before, parts, strict=True)]
        assert moved == [True, depth > 1, False]
        assert same(given, weights_of(model)) and same(given, weights_of(learner.parts["model"]))
        told = learner.distiller.param_groups[0]
        assert told["lr"] == 2e-3 and type(learner.distiller) is torch.optim.Adam
        assert {id(w) for w in told["params"]} == {*map(id, learner.rollout_policy.parameters())}
        theirs = {id(w) for group in learner.optimiser.param_groups for w in group["params"]}
        assert theirs == {*map(id, learner.net.parameters())}


def test_the_learner_distils_what_the_agent_said_in_the_frames(monkeypatch):
    learner, seen, given = ch.i2a(small(2), 6, random_model("rush")), [], []
    learn = learner.learn
    monkeypatch.setattr(ch, "distil", lambda *parts: seen.append(parts))
    monkeypatch.setattr(learner, "learn", lambda *parts: given.append(parts) or learn(*parts))
    learner.update()
    ((policy, optimiser, frames, log_probs),) = seen
    assert policy is learner.rollout_policy and optimiser is learner.distiller
    assert torch.equal(frames, learner.players.frames[:-1].flatten(0, 1))
    assert torch.equal(log_probs, given[0][1]) and not log_probs.requires_grad


def test_a_step_of_distillation_follows_the_cross_entropys_gradient():
    policy, frames = random_policy(spread=1.0), unlike_frames(6)
    torch.manual_seed(3)
    target = (2 * torch.randn(6, 5)).log_softmax(1)
    loss = 0.0
    for b, a in itertools.product(range(6), range(5)):
        said = policy(mazes.planes(frames[b : b + 1]))[0, a]
        loss = loss - math.exp(target[b, a]) * said / 6
    wanted = torch.autograd.grad(loss, list(policy.parameters()))
    before = weights_of(policy)
    ch.distil(policy, torch.optim.SGD(policy.parameters(), 0.1), frames, target)
    for old, weight, part in zip(before, policy.parameters(), wanted, strict=True):
        assert torch.allclose(old - weight, 0.1 * part, atol=1e-6)


def test_distillation_leads_to_the_agents_policy():
    policy, frames = random_policy(spread=1.0), unlike_frames(12)
    torch.manual_seed(3)
    target = (2 * torch.randn(12, 5)).log_softmax(1)
    optimiser = torch.optim.Adam(policy.parameters(), 1e-3)

    def divergence():
        with torch.no_grad():
            return (target.exp() * (target - policy(mazes.planes(frames)))).sum(1).mean().item()

    kept = [divergence()]
    for _ in range(6):
        for _ in range(20):
            ch.distil(policy, optimiser, frames, target)
        kept.append(divergence())
    assert kept == sorted(kept, reverse=True) and kept[-1] < 0.1 * kept[0], kept


def test_the_learners_policy_imagines_first():
    learner = ch.i2a(small(1), 7, random_model("rush"))
    frames = unlike_frames(5)
    with torch.no_grad():
        films = ch.imagine(learner.parts["model"], None, frames, small(1))
        assert torch.allclose(learner.policy(frames), learner.net(frames, films)[0], atol=1e-5)


def test_training_the_agent_resumes_exactly_with_its_model(tmp_path, monkeypatch):
    monkeypatch.setattr(mazes, "REPORT", 500)
    config, model = small(2, num_envs=4, horizon=10), random_model("rush")
    progresses = ch.train_i2a(config, 3, model=model)
    whole, states = zip(*((p, p.state()) for p in progresses), strict=True)
    save_checkpoint(tmp_path / "run", states[0])
    state = load_checkpoint(tmp_path / "run")["state"]
    torch.manual_seed(99)
    again = list(ch.train_i2a(config, 3, state=state, model=random_model("rush", seed=8)))
    assert [p.step for p in whole] == [520, 1_000] and len(again) == 1
    ends = [states[-1], again[-1].state()]
    for part in ("net", "model", "rollout_policy"):
        assert same(*(end[part].values() for end in ends)), part
        moved = not same(states[0][part].values(), ends[0][part].values())
        assert moved == (part != "model")
    told = [{k: v for k, v in run[-1].metrics.items() if k != "seconds"} for run in (whole, again)]
    assert told[0] == told[1]
    slots = [end["distiller"]["state"].values() for end in ends]
    for one, other in zip(*slots, strict=True):
        assert torch.equal(one["exp_avg"], other["exp_avg"]) and one["step"] == other["step"]


def test_the_model_is_of_the_agents_mode_and_learned_once(monkeypatch):
    asked = []
    tell = lambda config, seed: asked.append((config, seed)) or (random_model(config.mode), 1.0)
    monkeypatch.setattr(ch, "learned_model", tell)
    config = small(1, model=ch.ModelConfig(updates=77))
    learner = ch.i2a(config, 4)
    assert asked == [(ch.ModelConfig(mode="rush", updates=77), 4)]
    assert same(weights_of(learner.parts["model"]), weights_of(random_model("rush")))
    ch.i2a(config, 4, random_model("rush"))
    assert len(asked) == 1
    other = ch.i2a(config, 5, random_model("rush"))
    assert not same(weights_of(learner.net), weights_of(other.net))


def test_a_learned_model_is_the_trainings_last(monkeypatch):
    monkeypatch.setattr(ch, "exam", lambda mode, seed: played(mode, 2, 10))
    config = ch.ModelConfig(mode="hunt", worlds=8, steps=10, updates=110, batch=8)
    model, seconds = ch.learned_model(config, 2)
    *_, last = ch.train_model(config, 2)
    assert same(weights_of(model), weights_of(ch.model_of(last.state(), "hunt"))) and seconds > 0
    assert ch.learned_model(config, 2)[0] is model


# What is measured


def test_nobody_foresees_more_than_chance_allows(monkeypatch):
    """Where ghosts neither pay nor cost all is certain; else the share is that of the likelier side."""
    peace = mazes.Rules(0, 1, 2, 0, 0, "food")
    monkeypatch.setattr(mazes, "MODES", {"peace": peace, **mazes.MODES})
    assert ch.best_possible("peace", 1, worlds=30, copies=8) == 1
    assert ch.best_possible("avoid", 1, worlds=20, copies=1) == 1
    seen, many, stay = [], 400, lambda frames, rng: seen.append(frames) or np.zeros(len(frames), int)  # fmt: skip
    monkeypatch.setattr(ch, "mixed_player", lambda: stay)
    share = ch.best_possible("avoid", 2, worlds=60, copies=many)
    assert len(seen) == 60
    pairs = [(frame == mazes.PACMAN, frame == mazes.GHOST) for frames in seen[3::4] for frame in frames]  # fmt: skip
    gaps = [abs(np.argwhere(ghost) - np.argwhere(pacman)).sum(1).min() for pacman, ghost in pairs]
    beside = np.mean(np.array(gaps) == 1)  # it comes half of the time, or not at all
    assert beside > 0.01 and 1 - 0.5 * beside - 1e-9 <= share < 1 - 0.15 * beside


def test_the_wide_network_has_as_many_parameters():
    wide, agent = (sum(w.numel() for w in net().parameters()) for net in (ch.WideNet, ch.I2ANet))
    assert abs(wide / agent - 1) < 0.02, (wide, agent)
    log_probs, values = ch.WideNet()(unlike_frames(3))
    assert torch.allclose(log_probs.exp().sum(1), torch.ones(3)) and values.shape == (3,)


def test_the_agent_is_scored_awake_and_asleep(monkeypatch):
    shown, model = [], random_model("rush")
    frames, imagine = unlike_frames(6), ch.imagine

    def note(*parts, config):
        shown.append((config, imagine(*parts, config=config)))
        return shown[-1][1]

    def play(player, rules, episodes, rng):
        player(frames.numpy(), rng)
        assert rules == mazes.MODES["rush"]
        return mazes.Score(np.array([2.0, 4.0]), np.array([10.0, 20.0]), np.ones(2))

    monkeypatch.setattr(ch, "learned_model", lambda config, seed: (model, 7.0))
    monkeypatch.setattr(ch, "imagine", note)
    monkeypatch.setattr(mazes, "play", play)
    monkeypatch.setattr(mazes, "measure_training", lambda learner, seed: Measured({"returns": 5.0}))  # fmt: skip
    found = ch.measure_i2a(small(2), 1).metrics
    assert found == {"returns": 5.0, "model_seconds": 7.0, "asleep": 3.0, "asleep_length": 15.0}
    ((config, films),) = shown
    assert config == small(2, frames="copied", pay="none")
    assert not films.rewards.any() and torch.equal(films.planes[0], mazes.planes(frames).repeat_interleave(5, 0))  # fmt: skip


def test_a_model_is_judged_on_steps_of_its_mode(monkeypatch):
    model, told = random_model("hunt"), []
    monkeypatch.setattr(ch, "TEST_WORLDS", 6)
    monkeypatch.setattr(ch, "learned_model", lambda config, seed: (model, 7.0))
    monkeypatch.setattr(ch, "best_possible", lambda mode, seed: told.append((mode, seed)) or 0.9)  # fmt: skip
    found = ch.measure_model(ch.ModelConfig(mode="hunt"), 3).metrics
    test = ch.exam("hunt", 1_003)
    kinds, rewards = ch.predictions(model, test)
    parts = (
        ch.score_frames(kinds, test), ch.score_rewards(rewards, test, model.prizes), ch.score_ghosts(kinds, test),
        ch.score_ahead(model, test, ch.TEST_WORLDS), {"rewards_possible": 0.9, "seconds": 7.0},
    )  # fmt: skip
    assert found == pytest.approx(dict(item for part in parts for item in part.items()))
    assert len(found) == sum(map(len, parts)) and told == [("hunt", 3)]


def test_planners_are_measured_without_and_with_fear(monkeypatch):
    fears, real = [], ch.planner
    model = Told([1.0, 4.0, 2.0, 3.0, 1.0], [0.0, 0.3, 0.1, 0.01, 0.0])
    monkeypatch.setattr(ch, "learned_model", lambda config, seed: (model, 7.0))
    monkeypatch.setattr(ch, "planner", lambda model, fear: fears.append(fear) or real(model, fear))  # fmt: skip

    def play(player, rules, episodes, rng):
        frames = frame_with(pacman=CORRIDOR + 4).expand(episodes, 15, 19).numpy()
        assert rules == mazes.MODES["hunt"]
        return mazes.Score(player(frames, rng), np.full(episodes, 3.0), np.ones(episodes))

    monkeypatch.setattr(mazes, "play", play)
    found = ch.measure_planners(ch.ModelConfig(mode="hunt"), 1).metrics
    assert found == {"planner": 1, "planner_length": 3, "careful_planner": 3, "careful_planner_length": 3}  # fmt: skip
    assert fears == [0, 20]
