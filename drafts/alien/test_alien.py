"""Alien from pixels: games, network, learning and covering, against the console, loops and nets with known answers.

Merged into tests/test_ch05c_relations.py: there ``ch = load_chapter("ch05c_relations")``.
"""

from pathlib import Path

import ale_py
import numpy as np
import pytest
import torch
from ale_py import roms

from rlbook_utils.checkpoint import load_checkpoint, save_checkpoint
from rlbook_utils.definitions import Chapter
from rlbook_utils.replay import Experience
from rlbook_utils.rollout import Transition, spread, transitions

torch.set_num_threads(1)
ch = Chapter(Path(__file__).with_name("section.py"))
NODES = ch.GRID[0] * ch.GRID[1]
TINY = dict(decisions=160, warm_up=80, capacity=100, reports=2, games=2)


def last(progresses):
    *_, progress = progresses
    return progress


def some_obs(count=3, seed=0):
    shape = (count, 2, ch.HEIGHT, ch.WIDTH)
    return np.random.default_rng(seed).integers(256, size=shape).astype(np.uint8)


# The games


def test_observations_are_the_mazes_of_the_last_two_decisions():
    """The vector environment against the console itself, frame by frame, sticky actions and all."""
    seed = int(np.array(spread(5, 1))[0] % 2**31)
    moves = np.random.default_rng(0).integers(4, size=100)
    console = ale_py.ALEInterface()
    console.setInt("random_seed", seed)
    console.setFloat("repeat_action_probability", 0.25)
    console.loadROM(roms.get_rom_path("alien"))
    envs = ch.AlienEnvs(1)
    obs, _ = envs.reset(seed=5)
    assert obs.shape == (1, 2, 84, 60) and not obs[0, 0].any()
    for move in moves:
        frames, paid, before = [], 0, obs[0, 1].copy()
        for _ in range(4):
            paid += console.act([2, 3, 4, 5][move])
            frames.append(console.getScreenGrayscale().astype(float))
        bright = np.maximum(frames[-1], frames[-2])
        small = sum(bright[i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4
        obs, rewards, *_ = envs.step(np.array([move]))
        assert np.abs(obs[0, 1] - small[4:88, 10:70]).max() <= 0.5
        assert (obs[0, 0] == before).all()
        assert rewards[0] == paid


def test_a_game_in_colour_is_the_same_game():
    seed = int(np.array(spread(5, 1))[0] % 2**31)
    moves = np.random.default_rng(1).integers(4, size=3000)
    drawn, envs = iter(moves), ch.AlienEnvs(1)
    obs, _ = envs.reset(seed=5)
    total, length = 0, 0
    for picture, seen, score in ch.one_game(lambda obs: next(drawn), seed):
        assert picture.shape == (210, 160, 3) and (seen == obs[0]).all() and score == total
        obs, rewards, terminated, _, _ = envs.step(moves[length : length + 1])
        total, length = total + rewards[0], length + 1
    assert terminated[0] and length > 200 and envs.scores == [total]


def test_no_frame_crosses_into_the_next_game():
    rng, ended = np.random.default_rng(2), np.zeros(3, bool)
    for step in transitions(ch.AlienEnvs(3), lambda obs: rng.integers(4, size=len(obs)), seed=3):
        assert (step.next_obs[:, 0] == step.obs[:, 1]).all()
        if ended.any():
            assert not step.obs[ended, 0].any()  # the new game's first observation
            break
        ended = step.terminated


def test_a_lost_life_ends_a_return_but_not_the_game():
    rng, envs = np.random.default_rng(0), ch.AlienEnvs(2, lives=True)
    whole = ch.AlienEnvs(2)
    ends, paid = np.zeros(2, int), np.zeros(2)
    for step in transitions(envs, lambda obs: rng.integers(4, size=len(obs)), seed=1):
        ends, paid = ends + step.terminated, paid + step.rewards
        assert len(envs.scores) == (ends >= 3).sum()
        if envs.scores:
            break
    assert envs.scores == [paid[ends == 3][0]]
    stream = transitions(whole, lambda obs: rng.integers(4, size=len(obs)), seed=1)
    assert not any(next(stream).terminated.any() for _ in range(300))


def test_scores_of_games_do_not_add_up(monkeypatch):
    """A console that pays 10 a step and ends a game at every third step, and a life at every second."""
    envs, clock = ch.AlienEnvs(2), iter(range(1, 100))

    def step(self, actions):
        now = next(clock)
        pictures = np.zeros((2, 2, 105, 80), np.uint8)
        over, life = now % 3 == 0, now % 2 == 0
        info = {"episode_frame_number": np.full(2, 0 if over else 4 * now)}
        return pictures, np.full(2, 10), np.full(2, over or life), np.zeros(2, bool), info

    monkeypatch.setattr(ch.AtariVectorEnv, "step", step)
    for _ in range(6):
        envs.step(np.zeros(2, int))
    assert envs.scores == [30.0] * 4


def test_seeds_share_no_games():
    """The same moves in all games: what differs is when the console repeats one."""
    moves, ends = np.random.default_rng(0).integers(4, size=30).repeat(5), []
    for seed in (1, 2):
        games = ch.AlienEnvs(2)
        games.reset(seed=seed)
        ends += [*[games.step(np.full(2, move))[0].copy() for move in moves][-1]]
    assert all((ends[i] != ends[j]).any() for i in range(4) for j in range(i))


# The network


def test_a_node_sees_the_pixels_that_its_block_names():
    torch.manual_seed(0)
    net = ch.AlienNet()
    net.small.bias.data += 10  # no unit is silent
    net.large.bias.data += 10
    obs = torch.zeros(1, 2, 84, 60, requires_grad=True)
    for node in (0, 4, 17, 30, 34):
        (gradient,) = torch.autograd.grad(net.nodes(obs)[0, node].sum(), obs)
        expected = torch.zeros(84, 60, dtype=torch.bool)
        expected[ch.block_of(node)] = True
        assert ((gradient[0].abs().sum(0) > 0) == expected).all(), node


def test_the_network_agrees_with_a_loop_over_heads_and_nodes():
    torch.manual_seed(1)
    net = ch.AlienNet()
    obs = torch.from_numpy(some_obs(2))
    with torch.no_grad():
        values, weights = net.looks(obs)
        assert values.shape == (2, 4) and weights.shape == (2, 4, NODES, NODES)
        for b in range(2):
            nodes = net.nodes(obs)[b] + net.places
            told = []
            for node in range(NODES):
                heard = []
                for head in range(4):
                    own = slice(16 * head, 16 * head + 16)
                    query = net.asked(nodes[node])[:64][own]
                    keys, said = (
                        net.asked(nodes)[:, 64:128][:, own],
                        net.asked(nodes)[:, 128:][:, own],
                    )
                    share = torch.exp(keys @ query / 4)
                    share = share / share.sum()
                    torch.testing.assert_close(weights[b, head, node], share, rtol=1e-4, atol=1e-6)
                    heard.append(share @ said)
                told.append(net.node(nodes[node] + net.told(torch.cat(heard))))
            expected = net.values(torch.stack(told).max(0).values)
            torch.testing.assert_close(values[b], expected, rtol=1e-4, atol=1e-6)


def test_without_mixing_a_node_hears_itself_only():
    torch.manual_seed(2)
    nets = {mixing: ch.AlienNet(mixing) for mixing in ("attention", "nothing")}
    sizes = {sum(p.numel() for p in net.parameters()) for net in nets.values()}
    assert len(sizes) == 1
    _, weights = nets["nothing"].looks(torch.from_numpy(some_obs()))
    assert (weights == torch.eye(NODES)).all()
    heard = {}
    for name, net in nets.items():
        nodes = []
        net.node.register_forward_hook(
            lambda module, given, out, nodes=nodes: nodes.append(given[0])
        )
        obs = some_obs(1)
        other = obs.copy()
        other[:, :, :12, :12] = 255 - other[:, :, :12, :12]  # node 0 alone sees them
        with torch.no_grad():
            net(torch.from_numpy(obs)), net(torch.from_numpy(other))
        heard[name] = (nodes[0] - nodes[1]).abs().amax(-1)[0]
    assert (heard["nothing"][1:] == 0).all() and heard["nothing"][0] > 0
    assert (heard["attention"] > 0).all()


def test_values_know_no_floor():
    net = ch.AlienNet()
    [layer for layer in net.values if hasattr(layer, "bias")][-1].bias.data[:] = -7
    assert (net(torch.from_numpy(some_obs())) < -3).all()


# Learning


class Table(torch.nn.Module):
    """Values looked up by an observation's first pixel."""

    def __init__(self, rows):
        super().__init__()
        self.rows = torch.nn.Parameter(torch.tensor(rows))

    def forward(self, obs):
        return self.rows[obs[:, 0, 0, 0].long()]


def test_the_target_takes_the_online_networks_move_at_the_next_state():
    online, lagging = Table([[5.0, 0.0], [0.0, 3.0]]), Table([[10.0, 20.0], [30.0, 40.0]])
    obs, next_obs = torch.zeros(3, 2, 4, 4), torch.zeros(3, 2, 4, 4)
    obs[:, 0, 0, 0] = torch.tensor([1.0, 0.0, 0.0])
    next_obs[:, 0, 0, 0] = torch.tensor([0.0, 1.0, 1.0])
    batch = Experience(
        obs, torch.zeros(3, dtype=torch.long), torch.tensor([1.0, 2.0, 3.0]),
        torch.tensor([0.5, 0.5, 0.0]), next_obs,
    )  # fmt: skip
    targets = ch.double_targets(online, lagging, batch)
    assert targets.tolist() == [1 + 5.0, 2 + 20.0, 3.0] and not targets.requires_grad


def filled_agent(**changes):
    agent = ch.Agent(ch.AlienConfig(**(TINY | changes)), 1, "cpu")
    rng = np.random.default_rng(0)
    agent.replay.add(
        Experience(
            some_obs(50), rng.integers(4, size=50), rng.normal(size=50).astype(np.float32),
            np.full(50, 0.9, np.float32), some_obs(50, 1),
        )
    )  # fmt: skip
    return agent


def test_an_update_asks_for_the_target_and_moves_the_online_network_alone(monkeypatch):
    agent = filled_agent(sync_every=3)
    asked, true = [], ch.double_targets

    def spy(net, target_net, batch):
        assert net is agent.net and target_net is agent.target_net
        asked.append(true(net, target_net, batch))
        return asked[-1]

    monkeypatch.setattr(ch, "double_targets", spy)
    before = [p.clone() for p in agent.net.parameters()]
    ch.update(agent)
    for lagging, old in zip(agent.target_net.parameters(), before, strict=True):
        assert (lagging == old).all() and lagging.grad is None
    assert any((p != q).any() for p, q in zip(agent.net.parameters(), before, strict=True))
    ch.update(agent)
    assert any(
        (p != q).any()
        for p, q in zip(agent.net.parameters(), agent.target_net.parameters(), strict=True)
    )
    ch.update(agent)  # the third copies
    for p, q in zip(agent.net.parameters(), agent.target_net.parameters(), strict=True):
        assert (p == q).all()
    assert len(asked) == 3 and agent.updates == 3


def test_an_update_learns_the_chosen_moves_value(monkeypatch):
    agent = filled_agent(learning_rate=1e-3)
    batch = agent.replay.rows(np.arange(32))
    monkeypatch.setattr(agent.replay, "sample", lambda size, rng: batch)
    monkeypatch.setattr(ch, "double_targets", lambda net, target, batch: torch.full((32,), 1.5))
    for _ in range(150):
        loss = ch.update(agent)
    chosen = agent.net(torch.from_numpy(batch.obs)).gather(
        1, torch.from_numpy(batch.actions)[:, None]
    )
    assert loss < 0.02 and abs(chosen.mean().item() - 1.5) < 0.1


def test_the_learning_rate_falls_to_a_tenth():
    agent = filled_agent()
    agent.decisions = agent.config.decisions
    ch.update(agent)
    assert agent.optimiser.param_groups[0]["lr"] == pytest.approx(0.1 * agent.config.learning_rate)


def fixed_stream(envs, policy, seed):
    """Games without a memory: the same picture, a point of 20 for the second move, a life lost at every fifth step."""
    obs = some_obs(8)
    moves = policy(obs)
    count = 0
    while True:
        count += 1
        lost = np.full(8, count % 5 == 0)
        yield Transition(
            obs, moves, np.where(moves == 1, 20, 0), obs, lost, np.zeros(8, bool), np.ones(8, bool)
        )
        moves = policy(obs)


def test_rewards_are_clipped_and_no_return_reaches_past_a_lost_life(monkeypatch):
    monkeypatch.setattr(ch, "transitions", fixed_stream)
    config = ch.AlienConfig(**(TINY | dict(n_step=3, discount=0.9, capacity=200)))
    kept = last(ch.train_alien(config, 1)).state()["replay"]
    powers = {round(0.9**n, 5) for n in (1, 2, 3)} | {0.0}
    assert {round(float(d), 5) for d in kept["discounts"]} <= powers | {0.0}
    assert (kept["discounts"] == 0).sum() == 3 * 8 * (
        160 // 8 // 5
    )  # the last three before each loss
    assert kept["rewards"].max() <= 1 + 0.9 + 0.81 + 1e-6 and kept["rewards"].max() > 0


def test_training_resumes_exactly(monkeypatch, tmp_path):
    """In games without a memory the resumed half is the same as the second half of a whole run."""

    def stream(envs, policy, seed):
        obs = some_obs(8)
        while True:
            moves = policy(obs)
            flags = np.zeros(8, bool)
            yield Transition(obs, moves, (moves == 1) * 10, obs, flags, flags, ~flags)

    monkeypatch.setattr(ch, "transitions", stream)
    config = ch.AlienConfig(**(TINY | dict(n_step=1, hold=1)))
    states = [progress.state() for progress in ch.train_alien(config, 4)]
    save_checkpoint(tmp_path / "alien.safetensors", states[0], config=config, seed=4)
    torch.manual_seed(99)
    stored = load_checkpoint(tmp_path / "alien.safetensors", config, 4)["state"]
    resumed = last(ch.train_alien(config, 4, stored)).state()
    assert resumed["updates"] == states[-1]["updates"] > states[0]["updates"] > 0
    for part in ("net", "target_net"):
        for name, weights in states[-1][part].items():
            torch.testing.assert_close(resumed[part][name], weights, rtol=0, atol=0)
    assert (resumed["replay"]["actions"] == states[-1]["replay"]["actions"]).all()
    assert last(ch.train_alien(config, 4, resumed)).step == config.decisions


def test_training_plays_new_games_after_a_pause(monkeypatch):
    seeds, true = [], ch.transitions

    def spy(envs, policy, seed):
        assert envs.codes.tolist() == [2, 3, 4, 5]
        seeds.append(seed)
        return true(envs, policy, seed)

    monkeypatch.setattr(ch, "transitions", spy)
    config = ch.AlienConfig(**TINY)
    first = next(ch.train_alien(config, 1)).state()
    last(ch.train_alien(config, 1, first))
    next(ch.train_alien(config, 2))
    assert len(set(seeds)) == 3


def test_training_counts_lost_lives_as_ends(monkeypatch):
    asked, true = [], ch.AlienEnvs
    monkeypatch.setattr(ch, "transitions", fixed_stream)
    monkeypatch.setattr(ch, "AlienEnvs", lambda *args, **kw: asked.append(kw) or true(*args, **kw))
    next(ch.train_alien(ch.AlienConfig(**TINY), 1))
    assert asked == [{"lives": True}]


def test_training_waits_until_it_has_seen_something_and_keeps_its_schedule(monkeypatch):
    calls = []
    monkeypatch.setattr(ch, "update", lambda agent: calls.append(agent.decisions))
    monkeypatch.setattr(ch, "transitions", fixed_stream)
    list(ch.train_alien(ch.AlienConfig(**TINY, updates=3), 1, device="cpu"))
    assert calls == [d for d in range(80, 161, 8) for _ in range(3)]
    config = ch.AlienConfig(decisions=1000, final_epsilon=0.1)
    assert ch.epsilon_at(config, 0) == 1 and ch.epsilon_at(config, 125) == pytest.approx(0.55)
    assert ch.epsilon_at(config, 250) == pytest.approx(0.1) and ch.epsilon_at(config, 900) == 0.1


@pytest.mark.parametrize(("share", "hold"), [(0.3, 4), (1.0, 3), (0.05, 1), (0.0, 4)])
def test_the_explorer_replaces_the_share_of_moves_it_is_asked_to(share, hold):
    explorer = ch.Explorer(
        lambda obs: np.full(len(obs), -1), lambda: share, hold, np.random.default_rng(0)
    )
    moves = np.stack([explorer(np.zeros((500, 1))) for _ in range(240)])
    assert np.mean(moves >= 0) == pytest.approx(share, abs=0.02)
    if share == 1:
        assert (moves.reshape(80, 3, 500) == moves.reshape(80, 3, 500)[:, :1]).all()
    if share:
        assert set(moves[moves >= 0].tolist()) == {0, 1, 2, 3}


def test_a_score_counts_whole_games_once():
    asked = ch.play_alien(lambda obs: np.zeros(len(obs), int), 3, 1, codes=(3,))
    assert (asked == asked[0]).all() and asked[
        0
    ] == 30  # to the right: the same 3 dots in every game


# What it looks at


def test_covering_touches_one_block_of_both_frames():
    obs, maze = some_obs(4), np.full((84, 60), 77, np.uint8)
    nodes = np.array([0, 17, 4, 34])
    covered = ch.cover(obs, nodes, maze)
    for before, after, node in zip(obs, covered, nodes, strict=True):
        inside = np.zeros((84, 60), bool)
        row, column = node // 5, node % 5
        inside[12 * row : 12 * row + 16, 12 * column : 12 * column + 16] = True
        assert (after[:, inside] == 77).all() and (after[:, ~inside] == before[:, ~inside]).all()


class Watcher(torch.nn.Module):
    """A net with a known answer: it looks at node 8 alone, and its first value is the first pixel there over 10."""

    heads = 2

    def looks(self, obs, edit=None):
        weights = torch.full((len(obs), 2, NODES, NODES), 0.25 / (NODES - 2))
        weights[..., 8] = 0.75
        weights[..., 30] = 0.0
        weights = edit(weights) if edit else weights
        rows, columns = ch.block_of(8)
        values = torch.zeros(len(obs), 4)
        values[:, 0] = obs[:, 1, rows.start, columns.start].float() / 10
        values[:, 1] = 0.5
        values[:, 0] *= weights[:, 0, 0, 8] / 0.75
        return values, weights

    def forward(self, obs):
        return self.looks(obs)[0]


def test_covering_finds_what_a_known_net_depends_on():
    obs = np.zeros((6, 2, 84, 60), np.uint8)
    rows, columns = ch.block_of(8)
    obs[:3, :, rows.start, columns.start] = 40  # at three instants its first move is the best
    maze = np.zeros((84, 60), np.uint8)
    change, flips = ch.change_by_cover(Watcher(), obs, np.full(6, 8), maze)
    assert change == pytest.approx(2**0.5)  # 4 in one of four values, at half the instants
    assert flips == 50
    change, flips = ch.change_by_cover(Watcher(), obs, np.full(6, 30), maze)
    assert change == 0 and flips == 0
    obs[:, 1, rows.start, columns.start] = [40, 40, 0, 0, 0, 0]
    obs[:, 0] = obs[:, 1]
    empty = [{"player": set(), "alien": {8}, "bonus": set()}] * 6
    found = ch.looks_of(Watcher(), ch.AlienNet("nothing"), obs, empty, 1)
    assert found["flips_alien"] == found["flips_most"]
    assert found["flips_most"] == pytest.approx(100 / 3) and found["flips_least"] == 0
    assert found["change_most"] == pytest.approx((2 * 4 / 6) ** 0.5) and found["change_least"] == 0
    assert found["largest"] == pytest.approx(75)


def test_weights_may_be_edited_and_still_add_up_to_one():
    torch.manual_seed(0)
    net, obs = ch.AlienNet(), torch.from_numpy(some_obs(3))
    nodes = np.array([3, 8, 34])
    with torch.no_grad():
        values, weights = net.looks(obs)
        same, _ = net.looks(obs, lambda weights: weights)
        torch.testing.assert_close(same, values)
        _, hidden = net.looks(obs, lambda weights: ch.hide(weights, nodes))
    torch.testing.assert_close(hidden.sum(-1), torch.ones(3, 4, NODES))
    for b, node in enumerate(nodes):
        assert (hidden[b, :, :, node] == 0).all()
        others = [n for n in range(NODES) if n != node]
        ratio = hidden[b][..., others] / weights[b][..., others]
        torch.testing.assert_close(ratio, ratio[..., :1].expand_as(ratio), rtol=1e-4, atol=1e-5)
    assert (ch.evenly(weights) == 1 / NODES).all()


def test_editing_changes_the_values():
    torch.manual_seed(0)
    net, obs = ch.AlienNet(), torch.from_numpy(some_obs(3))
    with torch.no_grad():
        net.values[2].weight.data *= 100
        before, _ = net.looks(obs)
        after, _ = net.looks(obs, lambda weights: torch.eye(NODES).expand_as(weights))
        control = ch.AlienNet("nothing")
        control.load_state_dict(net.state_dict())
        torch.testing.assert_close(after, control(obs))
    assert (before != after).any()


def test_hiding_leaves_the_pixels_in_place():
    obs = np.zeros((4, 2, 84, 60), np.uint8)
    rows, columns = ch.block_of(8)
    obs[:, :, rows.start, columns.start] = 40
    away = ch.change_by_edit(Watcher(), obs, lambda weights: ch.hide(weights, np.full(4, 8)))
    assert away == pytest.approx((2, 100))
    unseen = ch.change_by_edit(Watcher(), obs, lambda weights: ch.hide(weights, np.full(4, 30)))
    assert unseen == pytest.approx((0, 0), abs=1e-5)
    empty = [{"player": set(), "alien": {30}, "bonus": set()}] * 4
    found = ch.looks_of(Watcher(), ch.AlienNet("nothing"), obs, empty, 1)
    assert found["hidden_flips_most"] == 100 and found["hidden_flips_alien"] == 0
    assert found["flips_most"] == 0  # the maze always looks like this, so that nothing is covered
    assert found["even_flips"] == 100


def test_who_is_looked_at_is_counted_over_those_that_look():
    weights = torch.zeros(1, 1, 3, 3)
    weights[0, 0] = torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0]])
    assert ch.attended(weights)[0].tolist() == pytest.approx([1 / 6, 5 / 6, 0])


def test_figures_are_found_where_they_are_and_dots_are_not():
    picture = np.zeros((210, 160, 3), np.uint8)
    picture[:] = (45, 50, 184)
    alien = (236, 140, 184)  # half size: rows 36-43, columns 50-52
    picture[8 + 72 : 8 + 88, 20 + 100 : 20 + 106] = alien
    picture[8 + 30 : 8 + 45, 20 + 2 : 20 + 4] = (132, 144, 252)  # rows 15-22, column 1
    picture[8 + 150 : 8 + 152, 20 + 60] = (252, 252, 84)  # a dot
    picture[8 + 164 : 8 + 168, 20 + 112 : 20 + 120] = (252, 252, 184)  # at the very end
    picture[0:8, 0:20] = (252, 144, 144)  # outside the maze
    found = ch.sprites(picture)
    assert found == {"alien": {3 * 5 + 4, 34}, "player": {5}, "bonus": set()}


def test_looks_are_counted_where_the_figures_are():
    obs = np.zeros((4, 2, 84, 60), np.uint8)
    figures = [{"player": {8}, "alien": {30, 2}, "bonus": set()}] * 3
    figures += [{"player": set(), "alien": set(), "bonus": {8}}]
    found = ch.looks_of(Watcher(), ch.AlienNet("nothing"), obs, figures, 1)
    assert found["player_looks"] == pytest.approx(0.75 * NODES)
    assert found["alien_looks"] == pytest.approx(NODES * 0.5 * 0.25 / (NODES - 2))
    assert found["most_is_player"] == 75 and found["most_is_alien"] == 0
    assert found["most_is_bonus"] == 25


def test_instants_come_at_the_asked_distance_and_from_as_many_games_as_it_takes(monkeypatch):
    seeds = []

    def game(act, seed):
        seeds.append(seed)
        for count in range(25):
            obs = np.full((2, 84, 60), count, np.uint8)
            assert act(obs) in range(4)
            yield np.zeros((210, 160, 3), np.uint8), obs, 0

    monkeypatch.setattr(ch, "one_game", game)
    obs, figures = ch.instants_of(ch.AlienNet(), ch.LookConfig(instants=7, every=7), 1)
    assert obs[:, 0, 0, 0].tolist() == [7, 14, 21, 7, 14, 21, 7] and len(set(seeds)) == 3
    assert figures == [{"player": set(), "alien": set(), "bonus": set()}] * 7


# What is measured


def test_floors_are_chosen_on_other_games_than_they_are_scored_on(monkeypatch):
    played = []

    def fake(policy, count, seed, codes=ch.MOVES):
        moves = policy(np.zeros((count, 1)))
        played.append((seed, codes, count))
        return np.full(count, 10.0 * codes[0] if len(codes) == 1 else len(codes)) + np.zeros(
            len(moves)
        )

    monkeypatch.setattr(ch, "play_alien", fake)
    found = ch.measure_alien_floors(ch.FloorConfig(games=5, screened=3), 1)
    assert found.metrics["single"] == 170 and found.metrics["single_best"] == 17
    assert found.metrics["random"] == 18 and found.metrics["held"] == 4
    assert len(found.curves["single_screened"]) == 18 and len(found.curves["pair_screened"]) == 12
    assert len(found.curves["held"]) == 5
    screening, scoring = ({seed for seed, _, count in played if count == c} for c in (3, 5))
    assert len(screening) == len(scoring) == 1 and screening != scoring


def test_blind_policies_do_what_their_names_say():
    rng, obs = np.random.default_rng(0), np.zeros((50, 1))
    kinds = ch.blind_policies(ch.FloorConfig(), rng)
    make, codes = kinds["pair"]["0 and 3 by 4"]
    policy = make()
    assert [policy(obs)[7] for _ in range(12)] == [0] * 4 + [3] * 4 + [0] * 4 and codes == (
        2,
        3,
        4,
        5,
    )
    make, codes = kinds["random"]["random"]
    assert set(make()(np.zeros((2000, 1))).tolist()) == set(range(18)) and codes == tuple(range(18))
    make, codes = kinds["held"]["held 4"]
    policy = make()
    moves = np.stack([policy(obs) for _ in range(8)])
    assert (moves[:4] == moves[0]).all() and (moves[4:] == moves[4]).all()
    assert (moves[0] != moves[4]).any() and set(moves[0].tolist()) == {0, 1, 2, 3}
    assert kinds["single"]["action 9"][1] == (9,)


def test_every_measurement_runs_small(monkeypatch, tmp_path):
    tiny = ch.AlienConfig(**TINY)
    kept = {}
    for name, mixing in (("alien", "attention"), ("alien_nothing", "nothing")):
        config = ch.replace(tiny, mixing=mixing)
        found = ch.measure_alien(config, 1)
        assert len(found.curves["scores"]) == 2 and len(found.curves["decisions"]) == 2
        assert found.metrics["score"] == pytest.approx(np.mean(found.curves["scores"]))
        kept[name] = found.state
        path = tmp_path / "A10" / f"{name}_seed1.safetensors"
        save_checkpoint(path, found.state, config=config, seed=1)
        assert path.stat().st_size < 2e6
    monkeypatch.setattr(
        ch.results, "run_path", lambda row, name, seed: tmp_path / row / f"{name}_seed{seed}.json"
    )
    looks = ch.measure_alien_looks(ch.LookConfig(instants=8, agent=tiny), 1)
    assert looks.metrics["change_most"] >= 0
    assert looks.metrics["largest"] < 10
    stored = ch.stored_alien("alien", tiny, 1)
    for name, weights in kept["alien"]["net"].items():
        torch.testing.assert_close(stored.state_dict()[name], weights, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_attention_network_learns_a_relation_of_far_places(seed):
    """Which way one bright square lies from another, anywhere in the maze: 95 % right on new pictures."""
    torch.manual_seed(seed)
    rng, net = np.random.default_rng(seed), ch.AlienNet()
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)

    def pictures(count):
        obs = np.full((count, 2, 84, 60), 90, np.uint8)
        nodes = np.stack([rng.permutation(NODES)[:2] for _ in range(count)])
        for picture, pair in zip(obs, nodes, strict=True):
            for bright, node in zip((255, 0), pair, strict=True):
                row, column = divmod(int(node), 5)
                picture[:, 12 * row + 5 : 12 * row + 11, 12 * column + 5 : 12 * column + 11] = (
                    bright
                )
        below = nodes[:, 0] // 5 > nodes[:, 1] // 5
        right = nodes[:, 0] % 5 > nodes[:, 1] % 5
        return torch.from_numpy(obs), torch.from_numpy(2 * below + 1 * right)

    for _ in range(600):
        obs, answer = pictures(64)
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(net(obs), answer).backward()
        optimiser.step()
    obs, answer = pictures(500)
    assert (net(obs).argmax(1) == answer).float().mean() > 0.95
