"""Breakout, the model of its court and the agent that asks it, against a console by hand, loops and hand-made models."""

import itertools
import math
from collections import Counter

import ale_py
import numpy as np
import pytest
import torch
from ale_py import roms
from torch import nn
from torch.distributions import Categorical
from torch.nn import functional as F

from rlbook_utils.checkpoint import load_checkpoint, save_checkpoint
from rlbook_utils.definitions import load_chapter
from rlbook_utils.exercises import Wrong, check, oracles
from rlbook_utils.results import Measured
from rlbook_utils.rollout import spread
from rlbook_utils.run import Progress

torch.set_num_threads(1)
ch = load_chapter("ch07d_breakout")
PPO = ch.OPTIMISATION


class Console:
    """One game, played by hand."""

    def __init__(self, seed):
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self.game = ale_py.ALEInterface()
        self.game.setInt("random_seed", seed)
        self.game.setFloat("repeat_action_probability", 0.25)
        self.game.loadROM(roms.get_rom_path("breakout"))

    def step(self, action):
        """Points, whether a ball was lost, whether the game is over."""
        lives = self.game.lives()
        points = sum(self.game.act([1, 11, 12][action]) for _ in range(4))
        return points, self.game.lives() < lives, self.game.game_over()

    def court(self):
        """The picture shrunk by hand, not rounded: [56, 36]."""
        screen = self.game.getScreenGrayscale().astype(float)
        small = sum(screen[i::3, j::4] for i in range(3) for j in range(4)) / 12
        return np.minimum(small[10:66, 2:38], 40)


class Eager(nn.Module):
    """A player that follows the ball four times in seven; what it values is a frame's first pixel."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, obs):
        wanted = torch.from_numpy(ch.follower(obs.numpy()))
        return Categorical(logits=F.one_hot(wanted, 3).float()), obs[:, 1, 0, 0]


@pytest.fixture(scope="module")
def memory():
    return ch.remember(Eager(), 8, 90, 3)


@pytest.fixture
def told(monkeypatch):
    """Consoles that pay and end as told, at random; their pictures hold the number of the step."""
    rng = np.random.default_rng(0)
    points, lost = rng.choice([0, 0, 1, 4, 7], (30, 3)), rng.random((30, 3)) < 0.4
    over, steps = lost & (rng.random((30, 3)) < 0.35), itertools.count()

    def step(self, actions):
        t = next(steps)
        info = {"episode_frame_number": np.where(over[t], 0, 4 * t + 4)}
        if lost[t].any():
            info["final_obs"] = np.full((3, 2, 70, 40), 255, np.uint8)
        screens = np.full((3, 2, 70, 40), t + 1, np.uint8)
        return screens, points[t], lost[t], np.zeros(3, bool), info

    dark = lambda self, **_: (np.zeros((3, 2, 70, 40), np.uint8), {})
    monkeypatch.setattr(ch.AtariVectorEnv, "reset", dark)
    monkeypatch.setattr(ch.AtariVectorEnv, "step", step)
    return points, lost, over


def games_of(points, over):
    """(step, game, score) of each whole game, by a loop."""
    running, found = [0] * points.shape[1], []
    for t, n in itertools.product(*map(range, points.shape)):
        running[n] += points[t, n]
        if over[t, n]:
            found.append((t, n, running[n]))
            running[n] = 0
    return found


def random_model(seed=0):
    """A model of random weights whose answers depend on the action."""
    torch.manual_seed(seed)
    model = ch.CourtModel()
    with torch.no_grad():
        nn.init.normal_(model.change.weight, std=0.05)
        for weight in model.reward.parameters():
            weight.mul_(3)
    return model


def onward():
    """A model by hand: each pixel goes on changing as it did, unless the action is right (1): then it stays."""
    model = ch.CourtModel()
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        for channel in range(8):  # brighter and darker, at four places
            sign, (row, column) = 1 - 2 * (channel // 4), divmod(channel % 4, 2)
            model.see.weight[channel, 2, 2 + row, 2 + column] = sign
            model.mix.weight[channel, channel, 1, 1] = model.join.weight[channel, channel, 1, 1] = 1
            model.change.weight[channel % 4, channel, 1, 1] = sign
        model.act.weight[1] = -100
    return model


def unlike_frames(count, seed=0):
    """Frames of noise, of brightness 0 to 1: [count, 2, 56, 36]."""
    return torch.rand(count, 2, 56, 36, generator=torch.Generator().manual_seed(seed))


def random_films(count, depth, seed=0):
    torch.manual_seed(seed)
    return ch.Films(torch.randn(depth, 3 * count, 56, 36), torch.randn(depth, 3 * count))


def made_up(steps, games, seed=0):
    """A memory of noise, some balls of which are lost."""
    rng = torch.Generator().manual_seed(seed)
    draw = lambda low, high, *shape: torch.randint(low, high, (steps, games, *shape), generator=rng)
    bright = lambda *shape: draw(0, 41, *shape).to(torch.uint8)
    return ch.Memory(
        bright(2, 56, 36), draw(0, 3), draw(-1, 2), bright(56, 36), draw(0, 4) == 0
    )  # fmt: skip


def ramps(steps, games, seed=0):
    """A memory in which each pixel goes on as it did, until the action is right."""
    rng = torch.Generator().manual_seed(seed)
    speed = torch.randint(-1, 2, (games, 56, 36), generator=rng)
    last = torch.full((games, 56, 36), 20) + torch.randint(-5, 6, speed.shape, generator=rng)
    actions, columns = torch.randint(0, 30, (steps, games), generator=rng).clamp(max=2), []
    before = last - speed
    for t in range(steps):
        after = last + (last - before) * (actions[t] != 1)[:, None, None]
        columns.append((torch.stack([before, last], 1), after))
        before, last = last, after
    frames, after = (torch.stack(part).to(torch.uint8) for part in zip(*columns, strict=True))
    none = torch.zeros(steps, games)
    return ch.Memory(frames, actions, none, after, none.bool())


def straight(steps=20, games=40, seed=0, balls=1):
    """A memory of balls that move along diagonals on a black court, and meet no wall."""
    rng = np.random.default_rng(seed)
    ways = rng.choice([-1, 1], (games, balls, 2))
    starts = rng.integers((22, 1), (34, 14), ways.shape)
    starts[..., 1] = np.where(ways[..., 1] > 0, starts[..., 1], 34 - starts[..., 1])
    court = np.zeros((steps + 2, games, 56, 36), np.uint8)
    for t, n in itertools.product(range(steps + 2), range(games)):
        rows, columns = (starts[n] + (t - 1) * ways[n]).T
        court[t, n, rows, columns] = 40
    frames, after = torch.from_numpy(np.stack([court[:-2], court[1:-1]], 2)), court[2:]
    none = torch.zeros(steps, games)
    return ch.Memory(frames, none.long(), none, torch.from_numpy(after), none.bool())


def weights_of(module):
    return [weight.detach().clone() for weight in module.state_dict().values()]


def same(some, others):
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


# The game


def test_games_are_the_consoles_own():
    """Two games against two consoles by hand, through lost balls, to an end."""
    consoles = [Console(seed) for seed in np.array(spread(5, 2)) % 2**31]
    envs, rng, totals, losses = ch.Breakout(2), np.random.default_rng(2), np.zeros(2), np.zeros(2)
    obs, _ = envs.reset(seed=5)
    assert obs.shape == (2, 2, 56, 36) and obs.dtype == np.uint8 and not obs[:, 0].any()
    for _ in range(400):
        before, actions = obs, np.where(rng.random(2) < 0.5, ch.follower(obs), rng.integers(3, size=2))  # fmt: skip
        obs, rewards, lost, truncated, _ = envs.step(actions)
        ends = []
        for n, console in enumerate(consoles):
            points, fell, over = console.step(actions[n])
            totals[n], losses[n] = totals[n] + points, losses[n] + fell
            assert rewards[n] == min(points, 1) - fell and lost[n] == fell and not truncated[n]
            ends.append(over)
            if not over:  # the game goes on from here, bricks and all, also where a ball was lost
                assert np.abs(obs[n, 1] - console.court()).max() <= 0.5
                assert np.array_equal(obs[n, 0], before[n, 1])
                assert envs.running[n] == totals[n]
        if any(ends):
            break
        assert not envs.scores and np.isnan(envs.first).all()
    n = ends.index(True)
    assert losses[n] == 5 and totals[n] > 0 and not obs[n, 0].any() and obs[n, 1].any()
    assert envs.scores == [totals[n]] and envs.first[n] == totals[n] and envs.running[n] == 0


def test_a_serve_needs_no_action_of_its_own():
    for action in range(3):
        envs, lost = ch.Breakout(4), np.zeros(4, int)
        envs.reset(seed=1)
        for _ in range(60):
            lost += envs.step(np.full(4, action))[2]
        assert lost.sum() >= 3, action  # balls came, and were missed


def test_rewards_and_scores_by_a_loop(told):
    points, lost, over = told
    envs, firsts = ch.Breakout(3), {}
    envs.reset(seed=0)
    for t in range(30):
        obs, rewards, *_ = envs.step(np.zeros(3, int))
        assert rewards.tolist() == [min(p, 1) - int(ball) for p, ball in zip(points[t], lost[t], strict=True)]  # fmt: skip
        assert obs.shape == (3, 2, 56, 36) and (obs == t + 1).all()
    whole = games_of(points, over)
    for _, n, score in whole:
        firsts.setdefault(n, score)
    assert envs.scores == [score for *_, score in whole] and len(whole) > 6
    assert envs.first.tolist() == [firsts[n] for n in range(3)]
    ends = {n: t for t, n, _ in whole}
    assert envs.running.tolist() == [points[ends[n] + 1 :, n].sum() for n in range(3)]
    envs.reset(seed=0)
    assert not envs.running.any()


def test_a_court_by_hand():
    screens = np.random.default_rng(0).integers(256, size=(2, 3, 70, 40))
    found = ch.court(screens)
    assert found.shape == (2, 3, 56, 36)
    for row, column in itertools.product(range(56), range(36)):
        assert (found[:, :, row, column] == screens[:, :, row + 10, column + 2].clip(max=40)).all()


def court_with(ball=None, paddle=16, before=None):
    """Bricks, a paddle of five pixels from a column on, and a ball now and one before: [2, 56, 36]."""
    court = np.zeros((2, 56, 36), np.uint8)
    court[:, 9:20, 20:] = 40
    court[:, 53, paddle : paddle + 5] = 40
    for frame, spot in zip(court, (before, ball), strict=True):
        if spot:
            frame[spot] = 40
    return court


def test_the_follower_by_hand():
    courts = {
        "right": [court_with((40, 25)), court_with((22, 20)), court_with((52, 35), before=(51, 3))],
        "left": [court_with((40, 3)), court_with((30, 5), 5), court_with((21, 16))],
        "stay": [court_with((40, 18)), court_with((40, 19)), court_with((30, 17)), court_with(None, 2),
                 court_with(None, before=(30, 2)), np.zeros((2, 56, 36), np.uint8)],
    }  # fmt: skip
    for name, some in courts.items():
        wanted = ch.ACTION_NAMES.index(name)
        assert ch.follower(np.stack(some)).tolist() == [wanted] * len(some)
    mixed = np.stack([courts["left"][0], courts["right"][0], courts["stay"][0]])
    assert ch.follower(mixed).tolist() == [2, 1, 0]


def test_right_and_left_are_the_paddles_ways():
    for action, way in ((1, 1), (2, -1)):
        envs = ch.Breakout(2)
        obs, _ = envs.reset(seed=1)
        spots = []
        for _ in range(8):
            obs, *_ = envs.step(np.full(2, action))
            spots.append(ch.middle(obs[:, 1, ch.PADDLE].astype(float)))
        assert (way * (spots[-1] - spots[0]) > 4).all()


def test_play_gives_the_first_games_score(told):
    points, _, over = told
    envs, asked = ch.Breakout(3), []
    policy = lambda obs: asked.append(obs[0, 1, 0, 0]) or np.zeros(3, int)
    whole = games_of(points, over)
    firsts = [next(game for game in whole if game[1] == n) for n in range(3)]
    assert len({t for t, *_ in firsts}) > 1 and len(whole) > 6
    assert ch.play(envs, policy, 1).tolist() == [score for *_, score in firsts]
    assert len(asked) == max(t for t, *_ in firsts) + 1  # and no longer


def test_play_cut_short_gives_what_it_has(told):
    points, _, over = told
    lasts = [next(t for t, m, _ in games_of(points, over) if m == n) for n in range(3)]
    cut = sorted(lasts)[1]  # one is through, two are not
    found = ch.play(ch.Breakout(3), lambda obs: np.zeros(3, int), 1, longest=cut)
    assert found.tolist() == [points[: min(cut, last + 1), n].sum() for n, last in enumerate(lasts)]
    assert (np.array(lasts) < cut).sum() == 1


# The actor-critic


def test_the_network_sees_brightness_from_0_to_1():
    net, obs = ch.BreakoutNet(), 40 * unlike_frames(6)
    with torch.no_grad():
        policy, values = net(obs)
        features = net.body(obs / 40)
        assert torch.allclose(policy.probs, net.policy(features).softmax(1), atol=1e-6)
        assert torch.allclose(values, net.value(features)[:, 0], atol=1e-5)
        many, more = net(obs.unflatten(0, (2, 3)))
    assert policy.probs.shape == (6, 3) and many.probs.shape == (2, 3, 3) and more.shape == (2, 3)
    assert torch.allclose(many.probs.flatten(0, 1), policy.probs, atol=1e-6)
    assert torch.allclose(more.flatten(), values, atol=1e-5) and values.std() > 1e-3


def test_a_collector_counts_whole_games_not_balls(told):
    points, lost, over = told
    envs = ch.Breakout(3)
    collector = ch.Games(envs, ch.BreakoutNet(), 1, 1.0, [[99.0, 0.0]])
    rollouts = [collector.collect(15) for _ in range(2)]
    whole = games_of(points, over)
    assert list(collector.recent) == [[99.0, 0.0], *([score, 0.0] for *_, score in whole)]
    assert collector.episodes == len(whole) < lost.sum() and not envs.scores
    done = torch.cat([rollout.done for rollout in rollouts])
    assert torch.equal(done, torch.from_numpy(lost))
    paid = torch.cat([rollout.rewards for rollout in rollouts])
    assert torch.equal(paid, torch.from_numpy(np.minimum(points, 1) - lost).float())


# The memory


def test_the_memory_is_what_happened(memory):
    assert memory.frames.shape == (90, 8, 2, 56, 36) and memory.after.shape == (90, 8, 56, 36)
    assert memory.frames.dtype == memory.after.dtype == torch.uint8
    assert memory.actions.shape == memory.rewards.shape == memory.lost.shape == (90, 8)
    ends = 0
    for t, n in itertools.product(range(89), range(8)):
        if memory.lost[t, n]:
            ends += 1
            assert memory.rewards[t, n] in (-1, 0)
        else:
            assert torch.equal(memory.after[t, n], memory.frames[t + 1, n, 1])
            assert memory.rewards[t, n] in (0, 1)
    assert ends > 3 and (memory.rewards == 1).sum() > 3 and memory.frames.max() == 40
    follows = ch.follower(memory.frames.flatten(0, 1).numpy()) == memory.actions.flatten().numpy()
    assert 0.52 < follows.mean() < 0.64  # of e / (e + 2) = 0.58


def test_the_memory_is_played_by_its_seed(memory):
    again, other = (ch.remember(Eager(), 8, 20, seed) for seed in (3, 4))
    for name in ("frames", "actions", "rewards", "lost"):
        assert torch.equal(getattr(again, name), getattr(memory, name)[:20]), name
    assert not torch.equal(other.frames, again.frames)
    assert not torch.equal(other.actions, again.actions)


# The model


def test_the_model_starts_as_a_copy():
    torch.manual_seed(0)
    model, frames = ch.CourtModel(), unlike_frames(3)
    with torch.no_grad():
        changes, rewards = model(frames, torch.arange(3).expand(3, 3))
    assert changes.shape == (3, 3, 56, 36) and rewards.shape == (3, 3, 3) and not changes.any()
    assert (rewards[:, 0] != rewards[:, 1]).any() and (rewards[0] != rewards[1]).any()


def test_a_frame_and_an_action_alone_get_the_same_answer():
    model, frames = random_model(), unlike_frames(5)
    with torch.no_grad():
        changes, rewards = model(frames, torch.arange(3).expand(5, 3))
        for b, a in itertools.product(range(5), range(3)):
            alone = model(frames[b : b + 1], torch.tensor([[a]]))
            assert torch.allclose(alone[0][0, 0], changes[b, a], atol=1e-5)
            assert torch.allclose(alone[1][0, 0], rewards[b, a], atol=1e-5)
        mixed = torch.tensor([[2, 0], [1, 1], [0, 2], [2, 1], [1, 0]])
        some = model(frames, mixed)
    for a, b in itertools.combinations(range(3), 2):
        assert (changes[:, a] - changes[:, b]).abs().amax((1, 2)).min() > 1e-2
        assert (rewards[:, a] - rewards[:, b]).abs().amax(1).min() > 1e-3
    assert (changes[1:] - changes[:1]).abs().amax((2, 3)).min() > 1e-2
    for b, i in itertools.product(range(5), range(2)):
        assert torch.allclose(some[0][b, i], changes[b, mixed[b, i]], atol=1e-5)
        assert torch.allclose(some[1][b, i], rewards[b, mixed[b, i]], atol=1e-5)


def test_a_model_by_hand_lets_each_pixel_go_on():
    """Every pixel is seen, answered in its own place, and told how it moves and what was done."""
    model, frames = onward(), unlike_frames(3)
    with torch.no_grad():
        changes, _ = model(frames, torch.arange(3).expand(3, 3))
    for a in range(3):
        wanted = (frames[:, 1] - frames[:, 0]) * (a != 1)
        assert torch.allclose(changes[:, a], wanted, atol=1e-6)


def test_a_step_shows_the_last_frame_and_the_next():
    frames, changes = unlike_frames(3), torch.randn(3, 56, 36)
    found = ch.step_on(frames, changes)
    for b, row, column in itertools.product(range(3), range(0, 56, 5), range(36)):
        now = frames[b, 1, row, column]
        assert found[b, 0, row, column] == now
        assert found[b, 1, row, column] == now + changes[b, row, column]


@pytest.mark.parametrize("steps", (1, 3))
def test_the_loss_is_that_of_plain_loops(steps):
    """To its gradient, which goes through the model's own frames."""
    memory, model = made_up(6, 4), random_model()
    rows = torch.tensor([5, *range(15)])
    falls = [[bool(memory.lost[row // 4 + k, row % 4]) for k in range(steps)] for row in rows]
    assert any(fall[0] for fall in falls) and not all(any(fall) for fall in falls)
    frame_loss = reward_loss = 0.0
    for row in rows.tolist():
        t, n = divmod(row, 4)
        now, before = memory.frames[t, n, 1] / 40, memory.frames[t, n, 0] / 40
        for k in range(steps):
            changes, logits = model(torch.stack([before, now])[None], memory.actions[t + k, n].view(1, 1))  # fmt: skip
            before, now = now, now + changes[0, 0]
            kind = int(memory.rewards[t + k, n]) + 1
            reward_loss -= logits[0, 0].log_softmax(0)[kind] / (16 * steps)  # that of the loss, too
            if memory.lost[t + k, n]:
                break
            frame_loss += (now - memory.after[t + k, n] / 40).pow(2).sum() / (16 * steps)
    found = ch.model_loss(model, memory, rows, steps)
    assert torch.allclose(found[0], frame_loss, rtol=1e-4)
    assert torch.allclose(found[1], reward_loss, rtol=1e-4)
    totals, weights = (sum(found), frame_loss + reward_loss), list(model.parameters())
    slopes = [torch.autograd.grad(total, weights) for total in totals]
    for one, other in zip(*slopes, strict=True):
        assert torch.allclose(one, other, rtol=1e-2, atol=1e-3 * float(other.abs().max()))


def test_who_knows_the_world_loses_nothing_and_minds_the_actions():
    memory, model = ramps(8, 30), onward()
    rows = torch.arange(5 * 30)
    order = torch.randperm(8 * 30, generator=torch.Generator().manual_seed(0))
    other = memory._replace(actions=memory.actions.flatten()[order].view(8, 30))
    with torch.no_grad():
        for steps in (1, 3):
            right, wrong = (ch.model_loss(model, some, rows, steps)[0] for some in (memory, other))
            assert right < 1e-8 and wrong > 0.01, (steps, right, wrong)


def test_the_brightest_pixel_between_bricks_and_paddle():
    rng = np.random.default_rng(0)
    frames = rng.random((6, 56, 36)).astype(np.float32)
    frames[:, :21] += 5
    frames[:, 53:] += 5
    found = ch.brightest(torch.from_numpy(frames))
    for frame, spot in zip(frames, found.tolist(), strict=True):
        most = max(itertools.product(range(21, 53), range(36)), key=lambda cell: frame[cell])
        assert (spot[0] + 21, spot[1]) == most


def test_scores_of_a_model_are_those_of_loops(memory):
    model, games = random_model(), 8
    with torch.no_grad():
        model.change.weight.mul_(0.3)
    found = ch.score_model(model, memory)
    pixels = [(y, x) for y in range(21, 53) for x in range(36)]
    spot = lambda frame: max(pixels, key=lambda cell: float(frame[cell]))
    near = lambda a, b: max(abs(a[0] - b[0]), abs(a[1] - b[1])) <= 1
    sums = {k: ([], [], [], []) for k in range(1, 6)}
    for start in range(0, 85 * games, 7):
        t, n = divmod(start, games)
        frames = memory.frames[t, n][None] / 40
        first = frames[0, 1]
        for k in range(1, 6):
            if memory.lost[t + k - 1, n]:
                break
            with torch.no_grad():
                changes, _ = model(frames, memory.actions[t + k - 1, n].view(1, 1))
            frames = torch.stack([frames[:, 1], frames[:, 1] + changes[:, 0]], 1)
            came = memory.after[t + k - 1, n] / 40
            errors, copied, balls, stood = sums[k]
            errors.append((frames[0, 1] - came).square().sum().item())
            copied.append((first - came).square().sum().item())
            if came[21:53].max() > 0.1:
                balls.append(near(spot(frames[0, 1].numpy()), spot(came.numpy())))
                stood.append(near(spot(first.numpy()), spot(came.numpy())))
    for k, (errors, copied, balls, stood) in sums.items():
        assert found[f"error_{k}"] == pytest.approx(sum(errors) / sum(copied), rel=1e-3)
        assert found[f"ball_{k}"] == pytest.approx(np.mean(balls), abs=1e-6)
        assert found[f"ball_copy_{k}"] == pytest.approx(np.mean(stood), abs=1e-6)
        assert len(balls) < len(errors) < 85 * games / 7


def test_a_copy_scores_as_a_copy(memory):
    found = ch.score_model(ch.CourtModel(), memory)
    for k in range(1, 6):
        assert found[f"error_{k}"] == 1 and found[f"ball_{k}"] == found[f"ball_copy_{k}"]
    assert found["ball_copy_1"] > found["ball_copy_5"]


class Straight:
    """A model that sees where the ball goes."""

    def __call__(self, frames, actions):
        changes = torch.zeros(len(frames), 56, 36)
        for changed, (before, now) in zip(changes, frames, strict=True):
            (y, x), (v, u) = (divmod(int(frame.argmax()), 36) for frame in (now, before))
            changed[y, x], changed[2 * y - v, 2 * x - u] = -1, 1
        return changes[:, None], torch.tensor([0.0, 1.0, 0.0]).expand(len(frames), 1, 3)


def test_who_sees_where_the_ball_goes_is_never_wrong_and_lost_balls_do_not_count():
    test = straight(games=10)
    lost = torch.zeros(20, 10, dtype=bool)
    lost[[4, 9, 9, 15], [3, 0, 7, 5]] = True
    after = torch.where(lost[..., None, None], 255 - test.after, test.after)
    found = ch.score_model(Straight(), test._replace(lost=lost, after=after))
    for k in range(1, 6):
        assert found[f"error_{k}"] == pytest.approx(0, abs=1e-6) and found[f"ball_{k}"] == 1
    assert found["ball_copy_1"] == 1 and found["ball_copy_2"] == 0  # one pixel a step
    assert (found["nothing_count"], found["nothing_foreseen"], found["lost_true"]) == (22, 1, 0)


def test_scores_of_rewards_by_hand():
    came, said = [0, 0, 1, 1, 1, 1, 1, 2], [0, 1, 1, 1, 1, 0, 1, 0]
    rewards = F.one_hot(torch.tensor(said), 3).float()
    wanted = {
        "lost_count": 2, "lost_foreseen": 1 / 2, "lost_true": 1 / 3, "nothing_count": 5,
        "nothing_foreseen": 4 / 5, "nothing_true": 4 / 5, "brick_count": 1, "brick_foreseen": 0, "brick_true": 0,
    }  # fmt: skip
    assert ch.score_rewards(rewards, torch.tensor(came)) == pytest.approx(wanted)


def test_rows_are_drawn_evenly_from_those_allowed():
    torch.manual_seed(0)
    among = torch.tensor([7, 3, 11, 100])
    drawn = Counter(ch.draw(among, 8_000).tolist())
    assert set(drawn) == {3, 7, 11, 100} and max(abs(n - 2_000) for n in drawn.values()) < 150
    assert len(ch.draw(among, 5)) == 5 and not len(ch.draw(among[:0], 5))


def test_the_learning_rate_is_a_triangle(monkeypatch):
    wanted = {0: 0, 0.05: 0.5, 0.1: 1, 0.325: 0.75, 0.55: 0.5, 1: 0}
    assert all(ch.model_rate(done) == pytest.approx(rate) for done, rate in wanted.items())
    rates = []
    note = lambda _, optimiser, *rest: rates.append(optimiser.param_groups[0]["lr"])
    monkeypatch.setattr(PPO, "gradient_step", note)
    monkeypatch.setattr(ch, "model_loss", lambda *_: (torch.zeros(()), torch.zeros(())))
    monkeypatch.setattr(ch, "remember", lambda player, games, steps, seed: straight(20, games))
    config = ch.ModelConfig(games=4, steps=20, updates=39, batch=8, learning_rate=2e-2)
    list(ch.train_model(config, 1, player=Eager()))
    up = [0.02 * k / 4 for k in range(1, 5)]  # a tenth of 40
    assert rates == pytest.approx(up + [0.02 * (40 - k) / 36 for k in range(5, 40)])


def test_training_draws_fair_rows_and_a_quarter_of_rare_ones(monkeypatch, memory):
    asked, seen, player = [], [], Eager()

    def remember(*given):
        asked.append(given)
        return memory

    def loss(model, some, rows, steps):
        seen.append((rows, steps))
        return [sum(weight.sum() for weight in model.parameters())] * 2

    monkeypatch.setenv("RLBOOK_BUDGET", "smoke")
    monkeypatch.setattr(ch, "remember", remember)
    monkeypatch.setattr(ch, "model_loss", loss)
    list(ch.train_model(ch.ModelConfig(games=8, steps=90, updates=99, batch=40), 5, player=player))
    assert asked == [(player, 8, 90, 5), (player, 8, 20, 1_005)]
    assert {len(rows) for rows, _ in seen} == {50}
    fair, rare = (torch.cat(part) for part in zip(*((rows[:40], rows[40:]) for rows, _ in seen), strict=True))  # fmt: skip
    assert fair.max() == 87 * 8 - 1 and len(fair.unique()) > 600  # three steps from any
    paid = [row for row in range(87 * 8) if memory.rewards[row // 8, row % 8]]
    assert set(rare.tolist()) == set(paid) and len(paid) > 10
    assert [steps for _, steps in seen] == [1] * 69 + [3] * 30


def told_of(progress):
    """What a report says, its seconds left out."""
    return {name: value for name, value in progress.metrics.items() if name != "seconds"}


def test_training_the_model_resumes_exactly(tmp_path, monkeypatch):
    monkeypatch.setenv("RLBOOK_BUDGET", "smoke")
    torch.manual_seed(0)
    config = ch.ModelConfig(games=3, steps=20, updates=110, batch=8, alone=0.95)
    player = ch.BreakoutNet()
    whole, states = zip(*((p, p.state()) for p in ch.train_model(config, 3, player=player)), strict=True)  # fmt: skip
    save_checkpoint(tmp_path / "run", states[0])
    state = load_checkpoint(tmp_path / "run")["state"]
    torch.manual_seed(99)
    (again,) = ch.train_model(config, 3, state, player=player)
    assert [p.step for p in whole] == [100, 110] and again.step == again.total == 110
    assert told_of(again) == pytest.approx(told_of(whole[-1]), rel=1e-6, nan_ok=True)
    assert again.metrics["seconds"] > states[0]["metrics"]["seconds"] > 0
    ends = [ch.model_of(end) for end in (states[-1], again.state())]
    assert same(*map(weights_of, ends)) and not ends[0].training
    assert not same(weights_of(ends[0]), weights_of(ch.model_of(states[0])))


def test_training_the_model_starts_from_its_seed(monkeypatch, memory):
    monkeypatch.setattr(ch, "remember", lambda *_: memory)
    config = ch.ModelConfig(games=8, steps=90, updates=2, batch=8)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(found))
        *_, last = ch.train_model(config, seed, player=Eager())
        found.append(weights_of(ch.model_of(last.state())))
    assert same(found[0], found[1]) and not same(found[0], found[2])


def test_a_brief_training_sees_where_balls_go(monkeypatch):
    """What a copy gets wrong, more than half of it is foreseen."""
    made = lambda player, games, steps, seed: straight(20, 40, seed, balls=5)
    monkeypatch.setattr(ch, "remember", made)
    config = ch.ModelConfig(games=40, steps=20, updates=400, batch=8, alone=1.0)
    *_, last = ch.train_model(config, 1, player=Eager())
    assert last.metrics["error_1"] < 0.5, last.metrics


# Imagination


def decided(frames):
    """A rollout policy by hand that has no doubt: log-probabilities [B, 3]."""
    return F.one_hot(frames[:, 1].sum((1, 2)).floor().long() % 3, 3).float().log()


@pytest.mark.parametrize("depth", (1, 2, 3))
def test_films_are_those_of_a_loop(depth):
    model, frames, drawn = random_model(), unlike_frames(4), []
    films = ch.imagine(model, decided, frames, depth)
    assert films.changes.shape == (depth, 12, 56, 36) and films.rewards.shape == (depth, 12)
    assert not films.changes.requires_grad and not films.rewards.requires_grad
    for b, first in itertools.product(range(4), range(3)):
        before, now, action, film = *frames[b], first, 3 * b + first
        for step in range(depth):
            with torch.no_grad():
                changes, logits = model(torch.stack([before, now])[None], torch.tensor([[action]]))
            shares = [math.exp(x) for x in logits[0, 0].tolist()]
            expected = (shares[2] - shares[0]) / sum(shares)
            assert films.rewards[step, film].item() == pytest.approx(expected, abs=1e-4)
            assert torch.allclose(films.changes[step, film], changes[0, 0], atol=1e-4)
            before, now = now, now + changes[0, 0]
            action = int(now.sum().floor()) % 3
            drawn.append(action)
    assert set(drawn) == {0, 1, 2} and films.rewards.std() > 0.01


class Echo(nn.Module):
    """A model that answers with the action."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, frames, actions):
        changes = actions[..., None, None].float().expand(*actions.shape, 56, 36)
        return changes, 50 * F.one_hot(actions, 3).float()


def test_every_film_draws_its_own_actions():
    even = lambda frames: torch.tensor([0.5, 0.3, 0.2]).log().expand(len(frames), 3)
    torch.manual_seed(0)
    films = ch.imagine(Echo(), even, torch.zeros(500, 2, 56, 36), 3)
    acts = films.changes[:, :, 0, 0].long()
    assert torch.equal(acts[0], torch.arange(3).repeat(500))
    assert torch.allclose(films.rewards, acts - 1.0)  # certain of -1, 0 and 1
    for step in (1, 2):
        shares = torch.bincount(acts[step], minlength=3) / 1_500
        assert torch.allclose(shares, torch.tensor([0.5, 0.3, 0.2]), atol=0.04)
        for first in range(3):
            assert len(acts[step].view(500, 3)[:, first].unique()) == 3
    again = (acts[1] == acts[2]).float().mean()
    assert again == pytest.approx(0.25 + 0.09 + 0.04, abs=0.04)


def test_the_rollout_policy_goes_through_what_is_imagined():
    model, seen, frames = onward(), [], unlike_frames(3)
    note = lambda given: seen.append(given.clone()) or decided(given)
    ch.imagine(model, note, frames, 2)
    (given,) = seen
    for b, a in itertools.product(range(3), range(3)):
        now = frames[b, 1]
        after = now if a == 1 else 2 * now - frames[b, 0]
        assert torch.allclose(given[3 * b + a], torch.stack([now, after]), atol=1e-5)


def test_a_rollout_policys_answers_are_log_probabilities():
    torch.manual_seed(0)
    said = ch.RolloutPolicy()(3 * unlike_frames(5))
    assert said.shape == (5, 3) and torch.allclose(said.exp().sum(1), torch.ones(5), atol=1e-6)
    assert said.std() > 1e-3


@pytest.mark.parametrize("depth", (1, 3))
def test_packing_is_undone_and_keeps_each_rows_own(depth):
    frames, films = unlike_frames(2), random_films(2, depth)
    rows = ch.packed(frames, films)
    assert rows.shape == (2, 2 * 2016 + 3 * depth * 2017)
    again, (changes, rewards) = ch.unpacked(rows, depth)
    assert torch.equal(again, frames)
    assert torch.equal(changes, films.changes) and torch.equal(rewards, films.rewards)
    for b in range(2):
        mine = ch.Films(*(part[:, 3 * b : 3 * b + 3] for part in films))
        assert torch.equal(rows[b : b + 1], ch.packed(frames[b : b + 1], mine))
        alone, one = ch.unpacked(rows[b : b + 1], depth)
        assert torch.equal(alone[0], frames[b]) and same(one, mine)


@pytest.mark.parametrize("depth", (1, 2))
def test_the_imagining_game_is_the_same_game(depth):
    model, rng = random_model(), np.random.default_rng(0)
    plain = ch.Breakout(3)
    envs = ch.ImaginingBreakout(model, decided, ch.I2AConfig(depth=depth), 3)
    (obs, _), (rows, _), lost = plain.reset(seed=4), envs.reset(seed=4), 0
    for _ in range(45):
        frames = torch.from_numpy(obs).float() / 40
        wanted = ch.packed(frames, ch.imagine(model, decided, frames, depth))
        assert rows.shape == wanted.shape and np.allclose(rows, wanted, atol=1e-5)
        actions = rng.integers(3, size=3)
        obs, *outcome, _ = plain.step(actions)
        rows, *too, info = envs.step(actions)
        assert all(map(np.array_equal, outcome, too))
        lost += outcome[1].sum()
        assert "final_obs" not in info or info["final_obs"].shape == rows.shape
    assert lost > 0


def test_empty_films_are_dark_and_cost_nothing():
    config = ch.I2AConfig(depth=2, films="empty")
    envs = ch.ImaginingBreakout(Echo(), None, config, 2)  # a policy would be asked in vain
    obs = np.random.default_rng(0).integers(41, size=(2, 2, 56, 36), dtype=np.uint8)
    frames, films = ch.unpacked(torch.from_numpy(envs.imagined(obs)), 2)
    assert torch.equal(frames, torch.from_numpy(obs) / 40)
    assert films.changes.shape == (2, 6, 56, 36) and films.rewards.shape == (2, 6)
    assert not films.changes.any() and not films.rewards.any()


def test_the_last_picture_of_a_game_cut_short_is_imagined(monkeypatch):
    rng, model = np.random.default_rng(0), random_model()
    now, last = rng.integers(41, size=(2, 4, 2, 56, 36), dtype=np.uint8)
    cut, lost = np.array([0, 1, 0, 1], bool), np.array([1, 0, 0, 0], bool)
    answer = now, np.zeros(4), lost, cut, {"final_obs": last}
    monkeypatch.setattr(ch.Breakout, "step", lambda self, actions: answer)
    envs = ch.ImaginingBreakout(model, decided, ch.I2AConfig(), 4)
    rows, *_, info = envs.step(np.zeros(4, int))
    assert np.allclose(rows, envs.imagined(now), atol=1e-5)
    assert np.allclose(info["final_obs"][cut], envs.imagined(last)[cut], atol=1e-5)
    assert info["final_obs"].shape == rows.shape and not np.allclose(info["final_obs"][cut], rows[cut])  # fmt: skip


# The agent


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
    films, encoder = random_films(2, 3), ch.Encoder(code=16)
    with torch.no_grad():
        codes = encoder(films)
        assert codes.shape == (6, 16)
        for film in range(6):
            steps = [
                torch.cat([encoder.look(changes[film][None, None])[0], rewards[film][None]])
                for changes, rewards in zip(films.changes, films.rewards, strict=True)
            ]
            assert torch.allclose(codes[film], slow_lstm(encoder.read, steps[::-1]), atol=1e-5)
            assert not torch.allclose(codes[film], slow_lstm(encoder.read, steps), atol=1e-3)


@pytest.mark.parametrize("depth", (1, 2))
def test_the_agent_by_its_formulas(depth):
    frames, films = unlike_frames(6), random_films(6, depth)
    torch.manual_seed(1)
    net = ch.I2ANet(depth, code=8)
    rows = ch.packed(frames, films)
    with torch.no_grad():
        policy, values = net(rows)
        codes = net.encoder(films)
        for b in range(6):
            feature = net.body(frames[b : b + 1])[0]
            mine = codes[3 * b : 3 * b + 3]
            scores = torch.stack([net.score.weight[0] @ code for code in mine])
            logits = net.policy.weight @ feature + net.policy.bias + scores
            told = torch.cat([feature, sum(mine) / 3])
            assert torch.allclose(policy.probs[b], logits.softmax(0), atol=1e-5)
            value = net.value.weight[0] @ told + net.value.bias[0]
            assert torch.allclose(values[b], value, atol=1e-5)
        many, more = net(rows.unflatten(0, (2, 3)))
    assert policy.probs.shape == (6, 3) and many.probs.shape == (2, 3, 3) and more.shape == (2, 3)
    assert torch.allclose(many.probs.flatten(0, 1), policy.probs, atol=1e-6)
    assert torch.allclose(more.flatten(), values, atol=1e-5)


def test_empty_films_leave_the_policy_to_the_frames():
    frames = unlike_frames(4)
    films = ch.Films(torch.zeros(2, 12, 56, 36), torch.zeros(2, 12))
    torch.manual_seed(1)
    net = ch.I2ANet(2)
    with torch.no_grad():
        nn.init.normal_(net.policy.weight, std=0.1)
        probs = net(ch.packed(frames, films))[0].probs
        assert torch.allclose(probs, net.policy(net.body(frames)).softmax(1), atol=1e-6)
        told = net(ch.packed(frames, random_films(4, 2)))[0].probs
    assert not torch.allclose(probs, told, atol=1e-4)


def test_whichever_action_has_the_film_has_its_score():
    frames, films, order = unlike_frames(3), random_films(3, 2), torch.tensor([2, 0, 1])
    moved = ch.Films(*(part.unflatten(1, (3, 3))[:, :, order].flatten(1, 2) for part in films))
    torch.manual_seed(1)
    net = ch.I2ANet(2)
    with torch.no_grad():
        net.policy.weight.zero_()
        (one, value), (other, too) = net(ch.packed(frames, films)), net(ch.packed(frames, moved))
    assert torch.allclose(one.probs[:, order], other.probs, atol=1e-6)
    assert torch.allclose(value, too, atol=1e-5) and one.probs.std(1).min() > 1e-4


def test_gradients_reach_all_of_the_agent():
    rows = ch.packed(unlike_frames(3), random_films(3, 2))
    net = ch.I2ANet(2)
    policy, values = net(rows)
    policy.log_prob(torch.tensor([0, 1, 2])).sum().backward(retain_graph=True)
    assert all(weight.grad.any() for weight in net.encoder.parameters())
    assert net.value.weight.grad is None
    net.zero_grad()
    values.sum().backward()
    assert all(weight.grad.any() for part in (net.encoder, net.value, net.body) for weight in part.parameters())  # fmt: skip
    assert net.score.weight.grad is None or not net.score.weight.grad.any()


def test_a_step_of_distillation_follows_the_cross_entropys_gradient():
    torch.manual_seed(3)
    policy, frames, probs = ch.RolloutPolicy(), unlike_frames(6), (2 * torch.randn(6, 3)).softmax(1)
    *_, top = policy.net
    before = weights_of(top)
    with torch.no_grad():
        hidden, gaps = policy.net[:-1](frames), policy(frames).exp() - probs
    ch.distil(policy, torch.optim.SGD(policy.parameters(), 0.1), frames, probs)
    weight = sum(torch.outer(gap, given) for gap, given in zip(gaps, hidden, strict=True)) / 6
    for old, new, wanted in zip(before, weights_of(top), (weight, gaps.sum(0) / 6), strict=True):
        assert torch.allclose(old - new, 0.1 * wanted, atol=1e-6)


def test_distillation_leads_to_the_agents_policy():
    torch.manual_seed(3)
    policy, frames, target = ch.RolloutPolicy(), unlike_frames(8), (2 * torch.randn(8, 3)).softmax(1)  # fmt: skip
    optimiser, given = torch.optim.Adam(policy.parameters(), 1e-3), (frames.clone(), target.clone())

    def divergence():
        with torch.no_grad():
            return (target * (target.log() - policy(frames))).sum(1).mean().item()

    kept = [divergence()]
    for _ in range(6):
        for _ in range(10):
            ch.distil(policy, optimiser, frames, target)
        kept.append(divergence())
    assert kept == sorted(kept, reverse=True) and kept[-1] < 0.2 * kept[0], kept
    assert same(given, (frames, target))


def made_up_rollout(depth, seed=0):
    """Four moments of three games."""
    rows = ch.packed(unlike_frames(12, seed), random_films(12, depth, seed)).unflatten(0, (4, 3))
    none = torch.zeros(4, 3)
    return PPO.Rollout(
        rows, torch.randint(3, (4, 3)), none - 1.1, torch.randn(4, 3), none, none, none.bool(), none.bool()
    )  # fmt: skip


@pytest.mark.parametrize("depth", (1, 2))
def test_an_update_moves_the_rollout_policy_only_where_it_is_asked(depth, monkeypatch):
    torch.manual_seed(0)
    net, policy, seen, distil = ch.I2ANet(depth), ch.RolloutPolicy(), [], ch.distil
    optimiser, distiller = (torch.optim.Adam(part.parameters(), 1e-3) for part in (net, policy))
    before, rollout = [weights_of(part) for part in (net, policy)], made_up_rollout(depth)
    monkeypatch.setattr(ch, "distil", lambda *given: seen.append(given) or distil(*given))
    found = ch.i2a_update(policy, distiller, net, optimiser, rollout, ch.I2AConfig(depth=depth), 1.0)  # fmt: skip
    moved = [not same(old, weights_of(part)) for old, part in zip(before, (net, policy), strict=True)]  # fmt: skip
    assert moved == [True, depth > 1] and "approx_kl" in found
    assert len(seen) == (4 if depth > 1 else 0)  # each moment of all games
    for rows, given in zip(rollout.obs, seen, strict=False):
        assert given[0] is policy and given[1] is distiller
        assert torch.equal(given[2], rows[:, : 2 * 2016].view(3, 2, 56, 36))
        with torch.no_grad():
            assert torch.allclose(given[3], net(rows)[0].probs, atol=1e-6)  # after PPO's update
        assert not given[3].requires_grad


def test_training_the_agent_goes_on_from_what_was_stored(tmp_path, monkeypatch):
    found, learn = [], PPO.learn_until_report

    def note(net, optimiser, collector, config, state, update):
        policy, distiller = update.args
        parts = {"net": net, "model": collector.envs.model, "rollout_policy": policy}
        assert collector.envs.rollout_policy is policy
        optimisers = [ch.copy.deepcopy(each.state_dict()) for each in (optimiser, distiller)]
        found.append(({name: weights_of(part) for name, part in parts.items()}, optimisers))
        learn(net, optimiser, collector, config, state, update)

    monkeypatch.setattr(PPO, "REPORT", 100)
    monkeypatch.setattr(PPO, "learn_until_report", note)
    config = ch.I2AConfig(num_envs=10, horizon=10, steps=1_000, depth=2, epochs=1, minibatch=64, distil_rate=2e-3)  # fmt: skip
    model = random_model()
    given = weights_of(model)
    first = next(ch.train_i2a(config, 3, model=model))
    stored = first.state()
    save_checkpoint(tmp_path / "run", stored)
    state = load_checkpoint(tmp_path / "run")["state"]
    again = next(ch.train_i2a(config, 3, state, model=random_model(5)))
    assert (first.step, again.step) == (100, 200) and state["env_steps"] == 100
    (start, _), (parts, (optimiser, distiller)) = found
    ends = again.state()
    for name, weights in parts.items():
        assert same(weights, stored[name].values()), name
        for moved in (start[name], list(ends[name].values())):
            assert same(weights, moved) == (name == "model"), name
    assert same(parts["model"], given) and same(given, weights_of(model))
    for name, part in (("optimiser", optimiser), ("distiller", distiller)):
        slots = [each["state"] for each in (part, stored[name])]
        for one, other in zip(*(slot.values() for slot in slots), strict=True):
            assert torch.equal(one["exp_avg"], other["exp_avg"]) and one["step"] == other["step"]
        assert slots[0]
    assert distiller["param_groups"][0]["lr"] == 2e-3
    whole = [score for score, _ in state["recent"]] or [0]
    assert first.metrics["mean_return"] == pytest.approx(np.mean(whole))


def test_a_model_is_learned_where_none_is_given_and_only_once(monkeypatch):
    asked, model = [], random_model(7)
    state = {"model": model.state_dict()}

    def train(config, seed):
        asked.append((config, seed))
        yield Progress(1, 2, {"seconds": 3.0}, lambda: {"model": ch.CourtModel().state_dict()})
        yield Progress(2, 2, {"seconds": 7.0}, lambda: state)

    monkeypatch.setattr(ch, "train_model", train)
    seen = []
    monkeypatch.setattr(ch, "train_breakout", lambda *given: iter(seen.append(given) or ()))
    config = ch.I2AConfig(num_envs=2, model=ch.ModelConfig(updates=77), depth=2)
    for given in (None, None, random_model(8)):
        list(ch.train_i2a(config, 4, model=given))
    assert asked == [(ch.ModelConfig(updates=77), 4)]
    made = [make(config) for *_, make, _ in seen]
    assert [same(weights_of(envs.model), weights_of(model)) for envs in made] == [True, True, False]
    assert made[0].num_envs == 2 and seen[0][-1](None).depth == 2
    assert same(weights_of(made[1].rollout_policy), weights_of(made[2].rollout_policy))
    learned, seconds = ch.learned_model(config.model, 4)
    assert seconds == 7 and len(asked) == 1 and learned is not made[0].model


# What is measured


def test_a_run_is_measured_by_its_last_network(monkeypatch):
    nets, policies = [ch.I2ANet(1) for _ in range(2)], [ch.RolloutPolicy() for _ in range(2)]

    def progresses():
        for step, net, policy in zip((50, 100), nets, policies, strict=True):
            parts = {"net": net.state_dict(), "rollout_policy": policy.state_dict()}
            yield Progress(step, 100, {"mean_return": step / 10}, lambda parts=parts: parts)

    envs = ch.ImaginingBreakout(random_model(), ch.RolloutPolicy(), ch.I2AConfig(), 2)
    net = ch.I2ANet(1)
    monkeypatch.setattr(ch, "play", lambda *given: np.array([2.0, 6.0]))
    found = ch.measured(progresses(), envs, net, 1)
    assert (found.metrics["score"], found.metrics["spread"]) == (4, 2)
    assert found.metrics["speed"] == pytest.approx(100 / found.metrics["seconds"])
    assert found.metrics["parameters"] == sum(math.prod(w.shape) for w in net.parameters())
    assert list(found.curves["steps"]) == [50, 100] and list(found.curves["score"]) == [5, 10]
    assert same(weights_of(net), weights_of(nets[1]))
    assert same(weights_of(envs.rollout_policy), weights_of(policies[1]))


def test_the_agent_is_scored_with_the_model_it_learned_with(monkeypatch):
    model, asked = random_model(), []
    monkeypatch.setattr(ch, "GAMES", 2)
    monkeypatch.setattr(ch, "learned_model", lambda config, seed: (model, 7.0))
    monkeypatch.setattr(ch, "measured", lambda *given: asked.append(given) or Measured({"score": 3.0}))  # fmt: skip
    config = ch.I2AConfig(depth=3, films="empty")
    assert ch.measure_i2a(config, 4).metrics == {"score": 3.0, "model_seconds": 7.0}
    ((_, envs, net, seed),) = asked
    assert envs.model is model and envs.config == config and (net.depth, seed) == (3, 4)
    assert envs.num_envs == 2


def test_floors_are_of_players_who_learn_nothing(monkeypatch):
    courts = np.stack([court_with((40, 25))] * 300)
    played = []

    def play(envs, policy, seed):
        played.append((seed, envs.num_envs))
        return policy(courts)

    monkeypatch.setattr(ch, "GAMES", 2)
    monkeypatch.setattr(ch, "play", play)
    found = dict(ch.measure_floors(None, 1).metrics)
    assert found.pop("random") == pytest.approx(1, abs=0.15)
    assert found == {"follower": 1, "stay": 0, "right": 1, "left": 2}
    assert len(set(played)) == 1 and len(played) == 5


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ch.BreakoutConfig(discount=0.4), "BreakoutConfig.discount is 0.4; it has to lie between 0.5 and 1.0."),
        (lambda: ch.BreakoutConfig(num_envs=0), "BreakoutConfig.num_envs is 0; it has to lie between 1 and 256."),
        (lambda: ch.ModelConfig(games=1), "ModelConfig.games is 1; it has to lie between 2 and 256."),
        (lambda: ch.ModelConfig(alone=1.5), "ModelConfig.alone is 1.5; it has to lie between 0.0 and 1.0."),
        (lambda: ch.ModelConfig(updates=10.5), "ModelConfig.updates is 10.5; it has to be a whole number."),
        (lambda: ch.I2AConfig(depth=0), "I2AConfig.depth is 0; it has to lie between 1 and 5."),
        (lambda: ch.I2AConfig(films="dark"), "I2AConfig.films is 'dark'; it has to be one of imagined, unpaid, alike, empty."),
    ],
)  # fmt: skip
def test_bad_settings_are_one_sentence(make, sentence):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == sentence


# What else the chapter shows


def test_the_colours_are_of_the_game_that_is_played():
    rng = np.random.default_rng(3)
    screens, seen, _ = ch.film(lambda obs: rng.integers(3, size=len(obs)), 5, 60)
    assert len(screens) == len(seen) == 60 and screens[0].shape == (210, 160, 3)
    for screen, pair in zip(screens[5:50:9], seen[5:50:9], strict=True):
        light = (screen[30:198, 8:152].reshape(56, 3, 36, 4, 3).max(-1) > 0).mean((1, 3)) > 0.3
        assert (light == (pair[1] > 12)).mean() > 0.98


def test_films_one_by_one_are_those_of_a_batch():
    torch.manual_seed(4)
    model, frames = ch.CourtModel(), torch.rand(3, 2, 56, 36)
    nn.init.normal_(model.change.weight, std=0.1)
    alone = ch.one_by_one(model, ch.RolloutPolicy(), frames, 1)
    films = ch.imagine(model, ch.RolloutPolicy(), frames, 1)
    assert len(alone) == 9
    for row, (changes, rewards) in enumerate(alone):
        assert torch.allclose(changes[0, 0], films.changes[0, row], atol=1e-5)
        expected = rewards.softmax(-1)[0, 0] @ torch.tensor([-1.0, 0.0, 1.0])
        assert torch.allclose(expected, films.rewards[0, row], atol=1e-5)


def test_the_auxiliary_task_is_learned_half_and_half_and_not_in_ppos_place(monkeypatch):
    torch.manual_seed(5)
    net, wanted = ch.ForeseeingNet(), torch.zeros(64, 4)
    wanted[::16, 0], wanted[8::16, 1] = 1, -1
    obs = torch.rand(64, 4, 2, 56, 36) * 4 + 30 * (wanted + 1)[..., None, None, None] / 2
    zeros, never = torch.zeros(64, 4), torch.zeros(64, 4, dtype=torch.bool)
    rollout = PPO.Rollout(obs, zeros.long(), zeros - 1.1, wanted, zeros, zeros, never, never)
    config = ch.BreakoutConfig(epochs=2, minibatch=64)
    optimiser, asked, clipped = torch.optim.Adam(net.parameters(), 1e-3), [], []
    entropy_of, ppo_loss = F.cross_entropy, PPO.ppo_loss

    def cross_entropy(logits, kinds):
        asked.append((kinds != 1).float().mean().item())
        return entropy_of(logits, kinds)

    def counted(*given):
        clipped.append(len(given[0]))
        return ppo_loss(*given)

    monkeypatch.setattr(F, "cross_entropy", cross_entropy)
    monkeypatch.setattr(PPO, "ppo_loss", counted)
    for _ in range(8):
        found = ch.auxiliary_update(net, optimiser, rollout, config, 1.0)
    assert set(asked) == {0.5} and clipped == 64 * [64] and "entropy" in found
    with torch.no_grad():
        told = net.reward(net.body(obs.flatten(0, 1) / 40)).argmax(1)
    assert ((told == wanted.flatten() + 1)[wanted.flatten() != 0]).float().mean() > 0.9


def test_a_straight_line_comes_back_from_the_walls():
    rng = np.random.default_rng(6)
    before = rng.uniform((3, 3), (28, 32), (40, 2))
    now = before + rng.uniform(-2.5, 2.5, (40, 2))
    for steps in (1, 3, 5):
        told = ch.straight_on(torch.from_numpy(before), torch.from_numpy(now), steps).numpy()
        for pair, spot, end in zip(before, now, told, strict=True):
            for axis, wall in ((0, 31), (1, 35)):
                place, speed = spot[axis], spot[axis] - pair[axis]
                for _ in range(steps * 1_000):
                    place += speed / 1_000
                    if not 0 <= place <= wall:
                        place, speed = (-place if place < 0 else 2 * wall - place), -speed
                assert end[axis] == pytest.approx(place, abs=1e-6)


def test_the_centre_of_light_by_loops():
    frames = torch.from_numpy(np.random.default_rng(3).integers(0, 41, (5, 56, 36)))
    for frame, found in zip(frames.tolist(), ch.centre(frames).tolist(), strict=True):
        light = {(y - 21, x): frame[y][x] for y in range(21, 53) for x in range(36)}
        for axis in (0, 1):
            wanted = sum(spot[axis] * b for spot, b in light.items()) / sum(light.values())
            assert found[axis] == pytest.approx(wanted, rel=1e-5)


def test_the_line_is_scored_where_a_model_is(memory):
    found, games = ch.score_line(memory), 8
    hits = {k: [] for k in range(1, 6)}
    for start in range(0, 85 * games, 7):
        t, n = divmod(start, games)
        spots = [ch.centre(memory.frames[t, n, i][None]) for i in (0, 1)]
        for k in range(1, 6):
            if memory.lost[t + k - 1, n]:
                break
            came = memory.after[t + k - 1, n][None]
            if came[:, 21:53].max() > 4:
                told = ch.straight_on(*spots, k).round()
                hits[k].append(bool(((told - ch.brightest(came)).abs() <= 1).all()))
    for k, near in hits.items():
        assert found[f"line_{k}"] == pytest.approx(np.mean(near), abs=1e-6)
    flying = ch.score_line(straight(games=10))
    assert [flying[f"line_{k}"] for k in range(1, 6)] == [1] * 5


@pytest.mark.parametrize("depth", [1, 3])
def test_films_alike_are_the_mean_of_three_and_leave_the_policy_alone(depth):
    torch.manual_seed(7)
    films = ch.Films(torch.rand(depth, 6, 56, 36), torch.randn(depth, 6))
    same = ch.alike(films)
    for d in range(depth):
        for row in range(6):
            three = slice(row - row % 3, row - row % 3 + 3)
            assert torch.allclose(same.changes[d, row], films.changes[d, three].mean(0))
            assert torch.allclose(same.rewards[d, row], films.rewards[d, three].mean())
    net, frames = ch.I2ANet(depth), torch.rand(2, 2, 56, 36)
    policy, values = net(ch.packed(frames, same))
    plain = net.policy(net.body(frames)).softmax(-1)
    assert torch.allclose(policy.probs, plain, atol=1e-6)
    empty = ch.Films(torch.zeros_like(films.changes), torch.zeros_like(films.rewards))
    assert not torch.allclose(values, net(ch.packed(frames, empty))[1])


WRONG = {
    "R10.1": ("landing", lambda before, now: now[:, 1]),
    "R10.2": ("explained", lambda told, came, before: ((told - came) ** 2).sum() / ((before - came) ** 2).sum()),
    "R10.3": ("plan_rewards", lambda model, frames, plan: model(frames, plan)[1].softmax(-1) @ torch.tensor([-1.0, 0, 1])),
    "R10.4": ("half_and_half", lambda rewards, count, rng: rng.integers(len(rewards), size=count)),
    "R10.5": ("per_game", lambda points, over: np.cumsum(points)[over]),
    "R10.6": ("go_on", lambda path, config, seed: ch.watch(ch.train_breakout(config, seed))),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_exercises_know_right_from_wrong(name, capsys):
    solution, wrong = WRONG[name]
    check(name, getattr(ch, solution))
    assert "right" in capsys.readouterr().out
    with pytest.raises(Wrong):
        oracles()[name](wrong)
