"""Chapter 05c: keys and doors, networks that compare, and Alien, against searches, loops and nets with known answers."""

import dataclasses
import itertools

import ale_py
import numpy as np
import pytest
import torch
from ale_py import roms

from rlbook_utils.checkpoint import load_checkpoint, save_checkpoint
from rlbook_utils.definitions import load_chapter
from rlbook_utils.exercises import check
from rlbook_utils.replay import Experience
from rlbook_utils.rollout import Transition, spread, transitions

torch.set_num_threads(1)
ch = load_chapter("ch05c_relations")
rel = ch.RELATIONAL
NODES = ch.GRID[0] * ch.GRID[1]
TINY = dict(decisions=160, warm_up=80, capacity=100, reports=2, games=2)
SMALL = dict(stages=((7, 100),), random_steps=25_000, worlds=16, batch_size=16)
SHAPES = [(1, 1, 7), (2, 2, 7), (4, 2, 7), (2, 4, 7), (4, 4, 7), (2, 2, 12), (3, 3, 6)]


def last(progresses):
    *_, progress = progresses
    return progress


def worlds(keys, doors, count=50, side=7, seed=0):
    return ch.match(keys, doors)(count, side, np.random.default_rng(seed))


# The worlds


@pytest.mark.parametrize(("keys", "doors", "side"), SHAPES)
def test_one_key_fits_one_door_and_nothing_else_fits(keys, doors, side):
    layout = worlds(keys, doors, 300, side)
    assert layout.tokens.shape == (300, 2 + keys + doors, 5) and layout.tokens.dtype == np.uint8
    key, door = ch.pairs(layout.tokens)
    for world, tokens in enumerate(layout.tokens.tolist()):
        assert [kind for kind, *_ in tokens] == [0] + [1] * keys + [2] * doors + [3]
        fits = [
            (k, d)
            for k, d in itertools.product(range(len(tokens)), repeat=2)
            if tokens[k][0] == 1 and tokens[d][0] == 2 and tokens[k][1] == tokens[d][1]
        ]
        assert fits == [(key[world], door[world])]
        assert tokens[-1] == [3, rel.GREEN, 0, side - 2, side - 2]
        assert all(state == rel.LOCKED for kind, _, state, *_ in tokens if kind == 2)


@pytest.mark.parametrize(("keys", "doors", "side"), SHAPES)
def test_the_things_stand_where_their_tokens_say(keys, doors, side):
    layout = worlds(keys, doors, 100, side, 1)
    for tokens, cells in zip(
        layout.tokens.astype(int), layout.cells.reshape(-1, side, side), strict=True
    ):
        wall = tokens[keys + 1, 3]
        assert (tokens[1 + keys : -1, 3] == wall).all() and 2 <= wall <= side - 3
        assert (tokens[: keys + 1, 3] < wall).all()
        assert len({(x, y) for *_, x, y in tokens.tolist()}) == len(tokens)
        for number, (*_, x, y) in enumerate(tokens.tolist()):
            assert 0 < x < side - 1 and 0 < y < side - 1
            assert cells[y, x] == number  # the agent's own cell is empty: 0
        solid = cells == rel.WALL
        assert solid[[0, -1]].all() and solid[:, [0, -1]].all()
        assert solid[1:-1, wall].sum() == side - 2 - doors
        assert solid.sum() == 4 * side - 4 + side - 2 - doors


def test_every_place_of_the_pair_and_every_colour_occurs_alike():
    layout = worlds(2, 2, 6_000, 12)  # wide rooms: few worlds are drawn again
    key, door = ch.pairs(layout.tokens)
    assert abs((key == 1).mean() - 0.5) < 0.03 and abs((door == 3).mean() - 0.5) < 0.03
    shared = layout.tokens[np.arange(6_000), key, 1]
    assert np.allclose(np.bincount(shared, minlength=6) / 6_000, 1 / 6, atol=0.03)
    heading = np.bincount(layout.tokens[:, 0, 2], minlength=4) / 6_000
    assert np.allclose(heading, 0.25, atol=0.03)


def test_a_world_can_be_solved_exactly_if_trying_everything_solves_it():
    raw = ch.draw_worlds(50, 2, 2, 6, np.random.default_rng(3))
    rooms = rel.Rooms(lambda *_: raw, 50, 6, np.random.default_rng(0), 200)
    solved = rel.shortest(rooms) > 0
    assert 5 < solved.sum() < 45
    assert (solved == ch.solvable(raw)).all()
    assert ch.solvable(worlds(4, 2, 200)).all()


def test_a_flood_agrees_with_a_search():
    rng = np.random.default_rng(0)
    free = rng.random((40, 8, 8)) < 0.6
    starts = rng.integers(8, size=(40, 2))
    for room, start, wet in zip(free, starts, ch.reachable(free, starts), strict=True):
        found, left = {tuple(start)}, [tuple(start)]
        while left:
            x, y = left.pop()
            for i, j in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)):
                if 0 <= i < 8 and 0 <= j < 8 and room[j, i] and (i, j) not in found:
                    found.add((i, j))
                    left.append((i, j))
        assert {(x, y) for y, x in np.argwhere(wet).tolist()} == found


def test_any_key_is_right_as_often_as_there_are_keys_in_reach():
    """A room of one row: agent, wrong key, right key."""
    tokens = np.zeros((1, 6, 5), np.uint8)
    tokens[0, :, 0] = [0, 1, 1, 2, 2, 3]
    tokens[0, :, 1] = [0, 1, 2, 2, 3, 0]
    tokens[0, :, 3:] = [(1, 1), (2, 1), (3, 1), (5, 1), (5, 2), (6, 6)]
    cells = np.full((1, 8, 8), rel.WALL, np.int8)
    cells[0, 1, 1:5] = [0, 1, 2, 0]
    cells[0, 1, 5], cells[0, 2, 5], cells[0, 6, 6] = 3, 4, 5
    layout = rel.Layout(tokens, cells.reshape(1, -1))
    assert ch.rules(layout)["any key"] == 0 and not ch.solvable(layout)[0]
    cells[0, 2, 1:5] = 0  # a way around
    assert ch.rules(layout)["any key"] == 50 and ch.solvable(layout)[0]
    cells[0, 2, 4] = rel.WALL  # around the near key only: taken, it opens no way to a door
    found = ch.rules(layout)
    assert found == {"any key": 50, "no twin": 50, "most doors": 100} and ch.solvable(layout)[0]
    cells[0, 2, 4] = 0
    tokens[0, 1, 1], tokens[0, 2, 1] = 2, 1  # now the near key is the right one
    assert ch.solvable(layout)[0]


@pytest.mark.parametrize(("keys", "doors"), [(2, 2), (3, 2), (4, 4)])
def test_rules_about_keys_agree_with_a_search_in_every_world(keys, doors):
    layout = worlds(keys, doors, 1_500)
    found = ch.rules(layout)
    lucky = {"any key": [], "no twin": [], "most doors": []}
    right, _ = ch.pairs(layout.tokens)

    def walk(tokens, cells, taken=None):
        wet, left = set(), [tuple(tokens[0, 3:].tolist())]
        while left:
            x, y = left.pop()
            if (x, y) in wet:
                continue
            wet.add((x, y))
            if cells.reshape(7, 7)[y, x] in (0, taken):
                left += [(x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)]
        return wet

    for world, (tokens, cells) in enumerate(zip(layout.tokens, layout.cells, strict=True)):
        places = [tuple(token[3:].tolist()) for token in tokens]
        near = [key for key in range(1, 1 + keys) if places[key] in walk(tokens, cells)]
        colours = tokens[1 : 1 + keys, 1].tolist()
        alone = [key for key in near if colours.count(colours[key - 1]) == 1]
        doors_colours = tokens[1 + keys : 1 + keys + doors, 1].tolist()
        ways = [
            sum(
                places[1 + keys + d] in walk(tokens, cells, key)
                and doors_colours.count(colour) == 1
                for d, colour in enumerate(doors_colours)
            )
            for key in alone
        ]
        most = [key for key, count in zip(alone, ways, strict=True) if count == max(ways)]
        for rule, left in (("any key", near), ("no twin", alone), ("most doors", most)):
            lucky[rule].append((right[world] in left) / len(left))
    for rule, share in found.items():
        assert share == pytest.approx(100 * np.mean(lucky[rule]))
    assert (found["no twin"] > found["any key"] + 12) == (keys > 2)
    assert found["most doors"] > found["no twin"] + 2


@pytest.mark.parametrize(("keys", "doors", "side"), [(2, 2, 4), (0, 1, 7), (2, 6, 7), (2, 0, 7), (15, 2, 7)])  # fmt: skip
def test_what_does_not_fit_is_said_in_one_sentence(keys, doors, side):
    with pytest.raises(ValueError, match=r"has no place for \d+ keys and \d+ doors\.$"):
        ch.match(keys, doors)(2, side, np.random.default_rng(0))


def test_minigrid_plays_these_worlds_as_ours_do():
    rng = np.random.default_rng(5)
    ours = rel.Rooms(ch.match(3, 2), 1, 7, rng, 40)
    theirs, ends, keys = rel.as_minigrid(ours), 0, 0
    for _ in range(3_000):
        action = rng.choice(6, size=1, p=(0.12, 0.12, 0.3, 0.2, 0.0, 0.26))
        found = [part[0] for part in ours.step(action)]
        seen = theirs.step(int(action[0]))[1:4]
        assert np.allclose(found, seen)
        tokens = rel.tokens_of(theirs)
        assert sorted(map(tuple, ours.tokens[0].tolist())) == sorted(map(tuple, tokens.tolist()))
        keys += int(ours.carried[0] > 0)
        if found[1] or found[2]:
            ends += 1
            ours.reset(np.array([True]))
            theirs = rel.as_minigrid(ours)
    assert ends > 50 and keys > 50


# The networks


def test_all_networks_have_as_many_parameters():
    sizes = {name: rel.parameters(ch.make_net(ch.MatchConfig(net=name))) for name in ch.NAMES}
    assert set(sizes) == {"dot", "even", "own", "loudest"} and len(set(sizes.values())) == 1
    for name in ("dot", "even", "own"):
        assert ch.make_net(ch.MatchConfig(net=name)).attention.way == name
    assert ch.make_net(ch.MatchConfig(net="loudest", frame="grid")).frame == "grid"
    with pytest.raises(ValueError, match="has to be one of"):
        ch.MatchConfig(net="picture")


def test_the_loudest_agrees_with_a_loop():
    torch.manual_seed(0)
    module, nodes = ch.Loudest(8), torch.randn(3, 5, 8)
    told, weights = module(nodes)
    assert told.shape == nodes.shape and not len(weights)
    for b in range(3):
        values = [module.project.weight[16:] @ node + module.project.bias[16:] for node in nodes[b]]
        loud = torch.tensor([max(v[i].item() for v in values) for i in range(8)])
        for told_to in told[b]:
            torch.testing.assert_close(told_to, module.out.weight @ loud + module.out.bias)
    net = ch.make_net(ch.MatchConfig(net="loudest"))
    assert isinstance(net.attention, ch.Loudest)


@pytest.mark.parametrize("name", ["dot", "even", "own", "loudest"])
def test_networks_take_any_number_of_objects_in_any_order(name):
    torch.manual_seed(1)
    net = ch.make_net(ch.MatchConfig(net=name))
    tokens = torch.from_numpy(worlds(4, 4, 20).tokens)
    order = torch.tensor([0, *(1 + np.random.default_rng(0).permutation(9)).tolist()])
    with torch.no_grad():
        torch.testing.assert_close(net(tokens), net(tokens[:, order]), rtol=1e-4, atol=1e-5)
        twice = net(torch.cat([tokens, tokens], 1))
        torch.testing.assert_close(net(tokens), twice, rtol=1e-4, atol=1e-5)


def test_copies_of_one_key_change_what_counts_and_nothing_else():
    """Exercise A6.6: who does not count does not feel them."""
    tokens = torch.from_numpy(worlds(2, 2, 20).tokens)
    copies = torch.cat([tokens, tokens[:, 1:2], tokens[:, 1:2]], 1)
    for name, feels in (("dot", True), ("even", True), ("own", False), ("loudest", False)):
        torch.manual_seed(1)
        net = ch.make_net(ch.MatchConfig(net=name))
        with torch.no_grad():
            moved = (net(copies) - net(tokens)).abs().max()
        assert (moved > 1e-4) == feels and (feels or moved < 1e-5)


# Learning


def test_training_resumes_exactly_among_keys(tmp_path):
    config = ch.MatchConfig(**SMALL)
    whole = list(ch.train_match(config, 3))
    save_checkpoint(tmp_path / "match.safetensors", whole[0].state(), config=config, seed=3)
    stored = load_checkpoint(tmp_path / "match.safetensors", config, 3)["state"]
    ends = []
    for disturbance in (0, 99):
        torch.manual_seed(disturbance)
        resumed = last(ch.train_match(config, 3, stored))
        assert resumed.step == resumed.total == 100
        ends.append(resumed.state())
    for part, other in zip(ends[0]["agent"][0].values(), ends[1]["agent"][0].values(), strict=True):
        assert (part == other).all()
    assert ends[0]["seconds"] > stored["seconds"] > 0
    begun = whole[0].state()["agent"]
    first = next(ch.train_match(dataclasses.replace(config, random_steps=30_000), 3, stored))
    assert first.step == 100 and any(
        (a != b).any()
        for a, b in zip(begun[0].values(), first.state()["agent"][0].values(), strict=True)
    )


def test_seconds_are_those_of_training(monkeypatch):
    run = ch.train_match(ch.MatchConfig(**SMALL), 1)
    clock = iter([0.0, 5.0, 100.0, 107.0, 300.0])
    monkeypatch.setattr(ch.time, "process_time", lambda: next(clock))
    assert [progress.metrics["seconds"] for progress in run] == [5, 12]


def test_a_resumed_run_begins_with_what_was_learned(monkeypatch):
    config = ch.MatchConfig(**SMALL)
    state = next(ch.train_match(config, 3)).state()
    seen = []
    monkeypatch.setattr(rel, "rooms_progress", lambda *told: seen.append(told[4]))
    monkeypatch.setattr(ch.Matcher, "learn", lambda self, batch: 0.0)
    next(ch.train_match(config, 3, state))
    for part, kept in zip(seen[0].parts(), state["agent"], strict=True):
        if isinstance(part, torch.nn.Module):
            for name, weights in part.state_dict().items():
                assert (weights == kept[name]).all()
    assert seen[0].optimiser.state_dict()["state"]


def test_training_plays_the_worlds_and_the_clock_that_its_config_names(monkeypatch):
    made, true = [], rel.Play

    def spy(layout, config, side, rng):
        made.append((layout(3, side, np.random.default_rng(0)).tokens.shape, side, config))
        return true(layout, config, side, rng)

    monkeypatch.setattr(rel, "Play", spy)
    config = ch.MatchConfig(**(SMALL | dict(keys=3, doors=2, stages=((8, 50),))))
    step = next(ch.train_match(config, 1))
    ((shape, side, asked),) = made
    assert shape == (3, 7, 5) and side == 8 and asked is config
    assert config.max_steps == 60 and step.metrics["episode length"] <= 60 and step.total == 50


def test_mixed_worlds_come_in_turn_and_share_the_random_play(monkeypatch):
    learned, begun, true = [], [], rel.Play.at_random

    def spy(self, steps):
        begun.append((self.rooms.tokens.shape[1], steps))
        true(self, steps)

    monkeypatch.setattr(rel.Play, "at_random", spy)
    monkeypatch.setattr(
        ch.Matcher, "learn", lambda self, batch: learned.append(batch.obs.shape[1]) or 0.0
    )
    config = ch.MatchConfig(**(SMALL | dict(keys=2, doors=2, mixed=True, stages=((7, 50),))))
    assert config.numbers == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert ch.MatchConfig(keys=3).numbers == [(3, 2)]
    next(ch.train_match(config, 1))
    assert begun == [(count, 25_000 // 4) for count in (4, 5, 5, 6)]
    assert learned == [(4, 5, 5, 6)[step % 4] for step in range(50)]


def test_mixed_worlds_are_learned_from_and_reported_together():
    config = ch.MatchConfig(**(SMALL | dict(keys=2, doors=1, mixed=True, stages=((7, 50),))))
    progress = last(ch.train_match(config, 1))
    assert np.isfinite(progress.metrics["loss"]) and progress.step == 50

    class Some:
        def __init__(self, ended):
            self.ended = ended

    plays = [Some([(True, n)] * 100) for n in range(4)]
    told = ch.together(plays)
    assert [steps for _, steps in told.ended] == [n for n in range(4) for _ in range(25)]
    assert len(plays[0].ended) == 100


def test_an_update_learns_from_the_batch_that_the_film_gives(monkeypatch):
    learned, drawn, true = [], [], rel.Film.batch

    def batch(self, *args):
        assert args[2:] == (5, 0.97)
        drawn.append(true(self, *args))
        return drawn[-1]

    monkeypatch.setattr(rel.Film, "batch", batch)
    monkeypatch.setattr(ch.Matcher, "learn", lambda self, batch: learned.append(batch) or 0.0)
    next(ch.train_match(ch.MatchConfig(**SMALL), 1))
    assert len(learned) == ch.UPDATES and all(a is b for a, b in zip(learned, drawn, strict=True))
    assert learned[0].obs.shape == (16, 6, 5)


def test_matchers_differ_by_their_networks_alone():
    matcher = ch.Matcher(ch.MatchConfig(net="loudest", learning_rate=2e-3), "cpu")
    assert isinstance(matcher.net, ch.LoudestNet) and isinstance(matcher.target_net, ch.LoudestNet)
    assert matcher.target_net is not matcher.net
    assert matcher.optimiser.param_groups[0]["lr"] == 2e-3
    assert matcher.learn.__func__ is rel.Agent.learn
    ours, theirs = dataclasses.asdict(ch.MatchConfig()), dataclasses.asdict(rel.RoomsConfig())
    differ = {name for name, value in theirs.items() if ours[name] != value}
    assert differ == {"stages", "random_steps", "max_steps"} and not ours["mixed"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_attention_learns_with_one_key(seed):
    config = ch.MatchConfig(keys=1, doors=1, stages=((6, 1_500),), random_steps=250_000)
    net = ch.match_net(last(ch.train_match(config, seed)).state(), config)
    assert ch.judge_match(net, 1, 1, 6, 300, seed)["goal"] > 85
    assert ch.referee(net, 1, 1, 6, 20, seed) > 75


# Judging


class Solver(torch.nn.Module):
    """Plays by search: the first action after which fewer steps are left."""

    def __init__(self, side, swap=False):
        super().__init__()
        self.side, self.swap = side, swap
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, tokens):
        values = torch.zeros(len(tokens), 5)
        for i, row in enumerate(tokens.numpy()):
            cells = rel.walled(1, self.side)
            doors = row[row[:, 0] == 2]
            cells[0, :, doors[0, 3]] = rel.WALL
            layout = rel.lay_out(row[None].astype(int), cells)
            rooms = rel.Rooms(lambda *_, layout=layout: layout, 1, self.side, None, 150)
            carried = np.flatnonzero((row[:, 0] == 1) & (row[:, 2] == 1))
            if len(carried):
                rooms.carried[0] = carried[0]
                rooms.cells[0, int(row[0, 4]) * self.side + int(row[0, 3])] = 0
            ahead = rel.branch(rooms, 5)
            _, won, _ = ahead.step(rel.ACTIONS)
            left = np.where(won, 0, rel.shortest(ahead))
            values[i] = -torch.from_numpy(np.where((left < 0), 1000, left)).float()
        return values


def test_a_player_who_searches_wins_nearly_always_by_either_referee():
    """One action in twenty at random costs a few episodes."""
    assert ch.referee(Solver(5), 1, 1, 5, 6, 1) == 100
    found = ch.judge_match(Solver(5), 1, 1, 5, 6, 1)
    assert found["goal"] == found["right"] + found["lot"] == found["first right"] == 100
    assert found["wrong"] == found["first wrong"] == 0


def corridor(count):
    """Fixed colours and places: agent in the middle, the wrong key above it, the right one below: a layout."""
    tokens = np.zeros((count, 5, 5), int)
    tokens[..., 0] = [0, 1, 1, 2, 3]
    tokens[..., 1] = [0, 1, 2, 2, 1]
    tokens[:, 0, 2], tokens[:, 3, 2] = 0, rel.LOCKED
    tokens[..., 3:] = [(1, 2), (1, 1), (1, 3), (2, 2), (3, 2)]
    cells = rel.walled(count, 5)
    cells[:, :, 2] = rel.WALL
    return rel.lay_out(tokens, cells)


LEFT, RIGHT, FORWARD, TAKE, TOGGLE = range(5)


def test_judging_counts_goals_and_keys_in_the_worlds_it_is_told(monkeypatch):
    """The second key is right; players who go for a key each, and one who goes on."""
    asked = []

    def match(keys, doors):
        return lambda count, side, rng: asked.append((keys, doors, count, side)) or corridor(count)

    monkeypatch.setattr(ch, "match", match)
    monkeypatch.setattr(rel, "PLAY_EPSILON", 0.0)
    plans = {
        "right": [RIGHT, TAKE, LEFT, TOGGLE, FORWARD, FORWARD],
        "wrong": [LEFT, TAKE, RIGHT, TOGGLE, FORWARD, FORWARD],
        "late": [RIGHT, TAKE, LEFT],
        "looks": [LEFT, RIGHT, RIGHT, TAKE, LEFT],
        "none": [],
    }
    ends = {  # goal, right, wrong, first right, first wrong
        "right": (100, 100, 0, 100, 0), "wrong": (0, 0, 100, 0, 100), "late": (0, 100, 0, 100, 0),
        "looks": (0, 100, 0, 0, 100), "none": (0, 0, 0, 0, 0),
    }  # fmt: skip
    for name, plan in plans.items():
        steps = iter(plan)
        monkeypatch.setattr(
            rel,
            "greedy",
            lambda net, tokens, *_, steps=steps: np.full(len(tokens), next(steps, TAKE)),
        )
        found = ch.judge_match(None, 3, 4, 5, 6, 1)
        told = [found[what] for what in ("goal", "right", "wrong", "first right", "first wrong")]
        assert tuple(told) == ends[name] and found["lot"] == 0, name
    assert asked == [(3, 4, 6, 5)] * 5


def test_a_key_that_chance_takes_is_no_choice(monkeypatch):
    monkeypatch.setattr(ch, "match", lambda *_: lambda count, side, rng: corridor(count))
    monkeypatch.setattr(rel, "PLAY_EPSILON", 0.2)
    found = {}
    for name, plan in {"stands": [LEFT], "takes": [LEFT, TAKE]}.items():
        steps = iter(plan)
        monkeypatch.setattr(
            rel,
            "greedy",
            lambda net, tokens, *_, steps=steps: np.full(len(tokens), next(steps, TOGGLE)),
        )
        found[name] = ch.judge_match(None, 2, 1, 5, 300, 1)
    stands, takes = found["stands"], found["takes"]
    assert stands["right"] == stands["wrong"] == 0 and stands["lot"] > 90
    assert takes["wrong"] > 50 and takes["lot"] > 5
    # By lot 1 action in 5 is taken at random, of which 1 in 5 is the same: 84 + 4 % of both steps.
    assert takes["wrong"] == pytest.approx(100 * 0.84**2, abs=7)


def test_the_key_ahead_is_the_one_that_the_agent_faces():
    layout = corridor(4)
    layout.tokens[:, 0, 2] = [0, 1, 2, 3]  # a wall or door, the key below, a wall, the key above
    rooms = rel.Rooms(lambda *_: layout, 4, 5, None, 10)
    assert ch.key_ahead(rooms).tolist() == [0, 2, 0, 1]
    rooms.step(np.full(4, rel.PICK_UP))
    assert ch.key_ahead(rooms).tolist() == [0] * 4


def test_judging_stops_at_its_own_clock(monkeypatch):
    steps = []
    monkeypatch.setattr(
        rel,
        "greedy",
        lambda net, tokens, *_: steps.append(len(tokens)) or np.zeros(len(tokens), int),
    )
    ch.judge_match(None, 2, 2, 7, 3, 1)
    assert steps == [3] * 150


def test_the_referee_stops_at_the_clock_and_counts_goals():
    torch.manual_seed(0)
    net = ch.make_net(ch.MatchConfig())
    games = list(ch.on_minigrid(net, 2, 2, 7, 2, 1))
    assert {number for _, number, *_ in games} == {0, 1}
    assert [action is None for *_, action, _ in games].count(True) == 2
    assert all(action is None or action in range(5) for *_, action, _ in games)
    assert all(env.step_count <= 150 for env, *_ in games)
    assert sum(reached for *_, reached in games) <= 2


# Why


def test_edited_heads_mix_by_the_weights_they_are_given():
    torch.manual_seed(2)
    heads, nodes = rel.Heads(16, 4, "dot"), torch.randn(3, 6, 16)
    same, weights = rel.Edited(heads, lambda weights: weights)(nodes)
    told, true = heads(nodes)
    torch.testing.assert_close(same, told)
    torch.testing.assert_close(weights, true)
    mixed, _ = rel.Edited(heads, lambda weights: torch.eye(6).expand_as(weights))(nodes)
    own = rel.Heads(16, 4, "own")
    own.load_state_dict(heads.state_dict())
    torch.testing.assert_close(mixed, own(nodes)[0])


@pytest.fixture
def mixed(monkeypatch):
    """The weights by which edited networks mix."""
    kept, true = [], rel.Edited.forward

    def spy(self, nodes):
        told, weights = true(self, nodes)
        kept.append(weights)
        return told, weights

    monkeypatch.setattr(rel.Edited, "forward", spy)
    return kept


class Knowing(torch.nn.Module):
    """Values "pick up" by the key ahead: ``fits`` if a door has its colour, 2 if another key has, else 0."""

    def __init__(self, fits=1.0):
        super().__init__()
        self.fits = fits

    def forward(self, tokens):
        values = torch.zeros(len(tokens), 5)
        for row, world in zip(values, tokens.numpy().astype(int), strict=True):
            ahead = world[0, 3:] + rel.HEADINGS[world[0, 2]]
            colours = {kind: [c for k, c, *_ in world if k == kind] for kind in (1, 2)}
            (key,) = [k for k in world if k[0] == 1 and (k[3:] == ahead).all()]
            row[3] = 2.0 * (colours[1].count(key[1]) > 1) + self.fits * (key[1] in colours[2])
        return values


@pytest.mark.parametrize(("keys", "doors", "side"), [(2, 2, 7), (4, 4, 7), (2, 2, 12)])
def test_a_choice_is_forced_before_every_key(keys, doors, side):
    layout = worlds(keys, doors, 150, side)
    right, chance = ch.forced_choice(Knowing(), layout)
    wrong, same = ch.forced_choice(Knowing(fits=-1.0), layout)
    assert (right, wrong) == (100, 0) and chance == same
    colours = layout.tokens[:, 1 : 1 + keys, 1]
    alone = [(sum((row == colour).sum() == 1 for colour in row)) for row in colours]
    assert (ch.without_twin(layout.tokens).sum(1) == alone).all()
    if keys == 2:
        assert chance == 50
    else:  # worlds that colours decide do not take part
        expected = np.mean([1 / count for count in alone if count > 1])
        assert chance == pytest.approx(100 * expected, abs=2) and min(alone) == 1


@pytest.mark.parametrize(("keys", "doors", "side"), [(2, 2, 7), (4, 4, 7), (2, 2, 12)])
def test_among_all_keys_a_twin_may_be_worth_most(keys, doors, side):
    layout, twins, counted = worlds(keys, doors, 150, side), 0, 0
    for tokens, cells in zip(layout.tokens.astype(int), layout.cells, strict=True):
        steps = [x + side * y for x, y in rel.HEADINGS]
        spots = [x + side * y for x, y in tokens[1 : 1 + keys, 3:]]
        if all(any(cells[spot - step] == rel.EMPTY for step in steps) for spot in spots):
            colours = tokens[1 : 1 + keys, 1].tolist()
            counted, twins = counted + 1, twins + (max(map(colours.count, colours)) > 1)
    assert (twins > 20) == (keys > 2) and counted > 40
    assert ch.right_among_all(Knowing(), layout) == pytest.approx(100 * (1 - twins / counted))
    assert ch.right_among_all(Knowing(fits=3.0), layout) == 100


class Placed(torch.nn.Module):
    """Values "pick up" by where the agent stands."""

    def forward(self, tokens):
        values = torch.zeros(len(tokens), 5)
        values[:, 3] = 10.0 * tokens[:, 0, 4] + tokens[:, 0, 3]
        return values


def test_the_agent_is_put_on_free_cells_only():
    layout = worlds(4, 2, 60)
    values = ch.worth_taking(Placed(), layout)
    blocked = 0
    for tokens, cells, row in zip(layout.tokens, layout.cells, values, strict=True):
        for number in (1, 2, 3, 4):
            x, y = tokens[number, 3:].astype(int)
            around = ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1))
            free = [10 * j + i for i, j in around if cells.reshape(7, 7)[j, i] == 0]
            assert row[number - 1] == max(free, default=-np.inf)
            blocked += len(free) < 4
    assert blocked > 20


def test_a_choice_by_an_untrained_network_is_near_chance():
    torch.manual_seed(0)
    found, chance = ch.forced_choice(ch.make_net(ch.MatchConfig(net="even")), worlds(4, 4, 600))
    assert abs(found - chance) < 15 and 30 < chance < 50


def test_kinds_keep_the_weight_of_training(mixed):
    torch.manual_seed(3)
    even = ch.make_net(ch.MatchConfig(net="even"))
    six, ten = (torch.from_numpy(worlds(*n, 20).tokens) for n in ((2, 2), (4, 3)))
    with torch.no_grad():
        torch.testing.assert_close(ch.ByKind(even)(six), even(six))
        assert (ch.ByKind(even)(ten) - even(ten)).abs().max() > 1e-4
    expected = torch.tensor([1 / 6, *[2 / 24] * 4, *[2 / 18] * 3, 1 / 6])
    torch.testing.assert_close(mixed[-1], expected.expand_as(mixed[-1]))
    assert isinstance(even.attention, rel.Heads)  # the network itself stays as it was


def test_looks_are_forbidden_from_kind_to_kind_and_no_other(mixed):
    torch.manual_seed(5)
    net = ch.make_net(ch.MatchConfig())
    tokens = torch.from_numpy(worlds(3, 2, 10).tokens)
    before = net.look(tokens)[1]
    for looker, seen in itertools.product(range(4), repeat=2):
        with torch.no_grad():
            ch.Without(net, looker, seen)(tokens)
        kinds = tokens[0, :, 0].tolist()
        for i, j in itertools.product(range(7), repeat=2):
            forbidden = kinds[i] == looker and kinds[j] == seen and i != j
            assert ((mixed[-1][:, :, i, j] == 0) == forbidden).all()
            if kinds[i] != looker:
                torch.testing.assert_close(mixed[-1][:, :, i], before[:, :, i])
    assert isinstance(net.attention, rel.Heads)


EXCHANGED = {1: "keys exchanged", 2: "doors exchanged"}


def test_two_tokens_exchange_their_looks_and_nobody_else(mixed):
    torch.manual_seed(6)
    net = ch.make_net(ch.MatchConfig())
    layout = worlds(2, 2, 30)
    tokens, rights = torch.from_numpy(layout.tokens), ch.pairs(layout.tokens)
    before = net.look(tokens)[1]
    for kind, rows, right in ((1, (1, 2), rights[0]), (2, (3, 4), rights[1])):
        with torch.no_grad():
            ch.Lied(net, EXCHANGED[kind])(tokens)
        assert set(right.tolist()) == set(rows)
        for i, j in itertools.product(range(6), repeat=2):
            swap = {rows[0]: rows[1], rows[1]: rows[0]} if i in rows else {}
            expected = before[:, :, swap.get(i, i), swap.get(j, j)]
            torch.testing.assert_close(mixed[-1][:, :, i, j], expected)
    three = torch.from_numpy(worlds(3, 2, 30).tokens)
    key, before = ch.pairs(three.numpy())[0], net.look(three)[1]
    with torch.no_grad():
        ch.Lied(net, EXCHANGED[1])(three)
    for b, right in enumerate(key):
        other = 2 if right == 1 else 1  # the first of the wrong ones
        torch.testing.assert_close(mixed[-1][b, :, right, 4:], before[b, :, other, 4:])
        torch.testing.assert_close(mixed[-1][b, :, other, right], before[b, :, right, other])
        (third,) = {1, 2, 3} - {right, other}
        torch.testing.assert_close(mixed[-1][b, :, third], before[b, :, third])


def test_doors_take_one_key_for_the_other_and_both_lies_add_up(mixed):
    torch.manual_seed(6)
    net, layout = ch.make_net(ch.MatchConfig()), worlds(2, 2, 30)
    tokens = torch.from_numpy(layout.tokens)
    before, swap = net.look(tokens)[1], {1: 2, 2: 1}
    for lie in ("keys mistaken", "both"):
        with torch.no_grad():
            ch.Lied(net, lie)(tokens)
        for i, j in itertools.product(range(6), repeat=2):
            expected = before[:, :, i, j]
            if i in (3, 4):  # a door looks at the keys, changed over
                expected = before[:, :, i, swap.get(j, j)]
            if i in swap and lie == "both":
                expected = before[:, :, swap[i], swap.get(j, j)]
            torch.testing.assert_close(mixed[-1][:, :, i, j], expected)


def test_the_lie_ends_when_a_key_is_taken(mixed):
    torch.manual_seed(6)
    net, layout = ch.make_net(ch.MatchConfig()), worlds(2, 2, 6)
    layout.tokens[:3, 1, 2] = 1  # in hand
    tokens = torch.from_numpy(layout.tokens)
    before = net.look(tokens)[1]
    for lie in ch.LIES:
        with torch.no_grad():
            ch.Lied(net, lie)(tokens)
        torch.testing.assert_close(mixed[-1][:3], before[:3])
        assert (mixed[-1][3:] != before[3:]).flatten(1).any(1).all()


def test_whom_keys_see_is_counted_from_the_keys_side():
    class Sees:
        """Head 1: the first key looks at the last door by 0.7 and at itself by 0.3, the second key at the goal alone."""

        def look(self, tokens):
            weights = torch.zeros(len(tokens), 2, 6, 6)
            weights[:, 1, 1, 4], weights[:, 1, 1, 1] = 0.7, 0.3
            weights[:, 1, 2, 5] = 1
            return None, weights

    layout = worlds(2, 2, 200)
    key, door = ch.pairs(layout.tokens)
    chosen = (key == 1) & (door == 3)
    some = rel.Layout(layout.tokens[chosen], layout.cells[chosen])
    right, wrong = ch.whom_keys_see(Sees(), some, 1)
    assert right == pytest.approx([0, 0.3, 0, 0, 0.7, 0]) and wrong == pytest.approx([0] * 5 + [1])
    chosen = (key == 2) & (door == 4)
    right, wrong = ch.whom_keys_see(
        Sees(), rel.Layout(layout.tokens[chosen], layout.cells[chosen]), 1
    )
    assert wrong == pytest.approx([0, 0.3, 0, 0.7, 0, 0]) and right == pytest.approx([0] * 5 + [1])
    assert not ch.whom_keys_see(Sees(), some, 0).any()


def test_far_things_are_drawn_in_and_near_ones_stay():
    seen = []
    net = ch.Near(lambda tokens: seen.append(tokens) or torch.zeros(len(tokens), 5))
    for side in (7, 12):
        tokens = torch.from_numpy(worlds(2, 2, 200, side).tokens)
        net(tokens)
        assert seen[-1].dtype == tokens.dtype and (seen[-1][..., :3] == tokens[..., :3]).all()
        for world, drawn in zip(tokens.tolist(), seen[-1].tolist(), strict=True):
            for token, moved in zip(world, drawn, strict=True):
                for axis in (3, 4):
                    away = min(max(token[axis] - world[0][axis], -4), 4)
                    assert moved[axis] - world[0][axis] == away
        assert (seen[-1] == tokens).all() == (side == 7)


class Looker(torch.nn.Module):
    """Head 1 looks at tokens of one's own colour, head 0 at the first; colours shifted by ``off`` for doors."""

    def __init__(self, sharpness):
        super().__init__()
        self.sharpness = sharpness

    def look(self, tokens):
        colour = tokens[..., 1].long()
        same = (colour[:, :, None] == colour[:, None]).float()
        one = (self.sharpness * same).softmax(-1)
        zero = torch.zeros_like(one)
        zero[..., 0] = 1
        return None, torch.stack([zero, one], 1)


def test_partners_are_counted_where_they_are_found():
    layout = worlds(4, 4, 400)
    assert ch.finds_door(Looker(5.0), layout) == (1, 100)
    layout.tokens[:, 5:9] = layout.tokens[:, [6, 7, 8, 5]]
    assert ch.finds_door(Looker(5.0), layout) == (1, 100)
    assert ch.finds_door(Looker(-5.0), layout)[1] < 40

    class Halves(Looker):
        """Head 0 finds partners in even worlds, head 1 in odd ones."""

        def look(self, tokens):
            right, wrong = Looker(5.0).look(tokens)[1][:, 1], Looker(-5.0).look(tokens)[1][:, 1]
            even = (torch.arange(len(tokens)) % 2 == 0)[:, None, None]
            return None, torch.stack([right.where(even, wrong), wrong.where(even, right)], 1)

    assert ch.finds_door(Halves(5.0), layout)[1] == 50


# What is measured


def test_every_measurement_of_matching_runs_small(monkeypatch, tmp_path):
    monkeypatch.setattr(ch, "CLOCK", 5)
    monkeypatch.setattr(ch, "EVERY", 50)
    asked, true = [], ch.judge_match

    def spy(net, keys, doors, side, episodes, seed):
        asked.append((net, (keys, doors, side), episodes))
        return true(net, keys, doors, side, 4, seed)

    monkeypatch.setattr(ch, "judge_match", spy)
    monkeypatch.setattr(ch, "referee", lambda *args: 12.0)
    for name in ("dot", "even", "own", "loudest", "even_mixed"):
        net, mixed = name.split("_")[0], name.endswith("mixed")
        change = dict(net=net, stages=((7, 100),)) | (dict(keys=2, mixed=True) if mixed else {})
        config = ch.MatchConfig(**(SMALL | change))
        found = ch.measure_match(config, 1)
        assert {key: len(curve) for key, curve in found.curves.items()} == {"reached": 2, "home": 2, "away": 2}  # fmt: skip
        for setting in ch.SETTINGS:
            parts = [
                found.metrics[f"{setting}: {what}"] for what in ("right", "wrong", "lot", "none")
            ]
            assert sum(parts) == pytest.approx(100)
            assert 0 <= found.metrics[f"{setting}: forced"] <= 100
        assert found.metrics[f"more_{net}"] == found.metrics[f"{ch.DOUBLED}: goal"]
        expected = {
            f"by kind, {ch.DOUBLED}: goal": name == "even",
            f"near, {ch.WIDE}: right": not mixed and name != "own",
            "without key door: none": name in ("dot", "even"),
        } | {
            what: name == "dot"
            for what in (
                "keys exchanged: wrong", "doors exchanged: none", "both: forced",
                "keys mistaken: first right", f"{ch.DOUBLED}: finds its door", "minigrid",
                f"{ch.WIDE}: untrained finds", "wrong key: itself", "right key: the pair's door",
            )
        }  # fmt: skip
        for what, there in expected.items():
            assert (what in found.metrics) == there, (name, what)
        if name == "dot":
            for key in ("right key", "wrong key"):
                assert sum(found.metrics[f"{key}: {whom}"] for whom in ch.WHOM) == pytest.approx(1)
        again = ch.make_net(config)
        again.load_state_dict(found.state["net"])
        path = tmp_path / "A6" / f"match_{name}_seed1.safetensors"
        save_checkpoint(path, found.state, config=config, seed=1)
    near = [(where, episodes) for net, where, episodes in asked if isinstance(net, ch.Near)]
    assert near == [((2, 2, 12), 500)] * 3
    liars = [(net.lie, where) for net, where, _ in asked if isinstance(net, ch.Lied)]
    assert liars == [(lie, (2, 2, 7)) for lie in ch.LIES]
    kept = [where for net, where, _ in asked if isinstance(net, ch.ByKind)]
    assert kept == [(2, 4, 7), (4, 4, 7)]
    blind = [(net.looker, net.seen) for net, _, _ in asked if isinstance(net, ch.Without)]
    assert blind == [*itertools.product(range(4), repeat=2)] * 2
    on_the_way = [where for _, where, episodes in asked if episodes == 300 and where != (2, 2, 7)]
    assert on_the_way == [(4, 4, 7)] * 2 * 5
    monkeypatch.setattr(
        ch.results, "run_path", lambda row, name, seed: tmp_path / row / f"{name}_seed{seed}.json"
    )
    assert ch.stored_match("dot", 1).attention.way == "dot"
    assert ch.stored_match("even", 1).attention.way == "even"


def test_agents_are_judged_on_the_way_with_the_weights_of_the_moment(monkeypatch):
    monkeypatch.setattr(ch, "EVERY", 50)
    monkeypatch.setattr(ch, "reasons", lambda *args: {})
    monkeypatch.setattr(ch, "forced_choice", lambda *args: (0.0, 0.0))
    seen = []

    def spy(net, keys, doors, side, episodes, seed):
        seen.append(net.embed.weight.clone())
        return {"goal": 0.0, "right": 0.0, "wrong": 0.0, "lot": 0.0}

    monkeypatch.setattr(ch, "judge_match", spy)
    ch.measure_match(ch.MatchConfig(**SMALL), 1)
    assert (seen[0] == seen[1]).all() and (seen[1] != seen[2]).any() and (seen[3] == seen[-1]).all()


def test_numbers_are_stored_by_place_and_name(monkeypatch):
    monkeypatch.setattr(
        ch, "judge_match", lambda *args: {"goal": 1.0, "right": 30.0, "wrong": 10.0, "lot": 5.0}
    )
    found = ch.judged(None, "here", ch.TRAINED, 5, 1)
    assert found.pop("here: lot") == 5
    assert found == {"here: goal": 1, "here: right": 30, "here: wrong": 10, "here: none": 55}
    monkeypatch.setattr(ch.results, "metric", lambda row, name, metric: (row, name, metric))
    assert ch.stored("dot", "here", "goal") == ("A6", "match_dot", "here: goal")


def test_the_floors_are_the_best_of_their_kind(monkeypatch):
    monkeypatch.setattr(ch, "SETTINGS", {ch.TRAINED: (2, 2, 7), ch.DOUBLED: (4, 4, 7)})
    scores = iter([0.01, 0.04, *[0.02] * (len(rel.FLOORS) - 2), *[0.03] * len(rel.FLOORS)])
    monkeypatch.setattr(rel, "score_of", lambda *args: (next(scores), 1.0))
    found = ch.measure_match_floors(None, 1).metrics
    assert found[f"{ch.TRAINED}: random"] == 4 and found[f"{ch.DOUBLED}: random"] == 3
    assert 50 < found[f"{ch.TRAINED}: any key"] < 60 and 70 < found["solvable"] < 85
    assert found[f"{ch.TRAINED}: no twin"] == found[f"{ch.TRAINED}: any key"]
    assert 57 < found[f"{ch.TRAINED}: most doors"] < 66
    assert 28 < found[f"{ch.DOUBLED}: any key"] < 38 and 58 < found[f"{ch.DOUBLED}: no twin"] < 70
    assert found["more_rule"] == found[f"{ch.DOUBLED}: most doors"] > 64
    assert found[f"{ch.TRAINED}: forced"] == 50 and 30 < found[f"{ch.DOUBLED}: forced"] < 50
    assert 53 < found[f"{ch.TRAINED}: rule, forced"] < 63
    assert found[f"{ch.TRAINED}: rule, all keys"] == found[f"{ch.TRAINED}: rule, forced"]
    assert found[f"{ch.DOUBLED}: forced"] + 5 < found[f"{ch.DOUBLED}: rule, forced"] < 66


def test_measurements_differ_in_what_they_are_named_for():
    named = {m.name: m.config for m in ch.MEASUREMENTS if m.name.startswith("match_")}
    for name in ch.NAMES:
        assert named[f"match_{name}"] == ch.MatchConfig(net=name)
    for name in ("dot", "loudest", "even"):
        assert named[f"match_{name}_mixed"].numbers == [*itertools.product((1, 2, 3), repeat=2)]
        assert named[f"match_{name}_mixed"].net == name
    assert len({m.name for m in ch.MEASUREMENTS}) == len(ch.MEASUREMENTS)


# The exercises


def solution(name):
    return getattr(ch, name)


ANSWERS = {
    "A6.4": ["swap"], "A6.5": ["by_hand"], "A6.7": ["steps_away"], "A10.2": ["seen_by"],
}  # fmt: skip


@pytest.mark.parametrize("exercise", ANSWERS)
def test_solutions_are_right(exercise, capsys):
    check(exercise, getattr(ch, ANSWERS[exercise][0]))
    assert capsys.readouterr().out == f"{exercise}: right.\n"


WRONG = [
    (
        "A6.4",
        lambda w, i, j: w[[{i: j, j: i}.get(a, a) for a in range(5)]],
        "columns i and j as well",
    ),
    ("A6.4", lambda w, i, j: w[::-1], "all others look as before"),
    ("A6.4", lambda w, i, j: w, "Row i becomes row j"),
    ("A6.5", lambda tokens, s: np.eye(len(tokens)), "add up"),
    ("A6.5", lambda tokens, s: ch.by_hand(tokens, 2 * s), "sharpness"),
    ("A6.5", lambda tokens, s: ch.by_hand(tokens, s)[:4], "shape"),
    ("A6.7", lambda free, start: ch.steps_away(free, start[::-1]), "x is the column"),
    ("A6.7", lambda free, start: np.abs(ch.steps_away(free, start)), "-1"),
    ("A6.7", lambda free, start: ch.steps_away(free, start).clip(max=3), "far"),
    ("A10.2", lambda row, column: ch.seen_by(row, column)[:1], "more than one"),
    ("A10.2", lambda row, column: [5 * (row // 12) + column // 12], "more than one"),
]


@pytest.mark.parametrize(("exercise", "answer", "hint"), WRONG)
def test_wrong_answers_get_a_hint(exercise, answer, hint, capsys):
    check(exercise, answer)
    said = capsys.readouterr().out
    assert said.startswith(f"{exercise}: not yet.") and hint in said and "raises" not in said


# Alien: the games


def some_obs(count=3, seed=0):
    shape = (count, 2, ch.HEIGHT, ch.WIDTH)
    return np.random.default_rng(seed).integers(256, size=shape).astype(np.uint8)


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


# Alien: the network


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
                    query = net.attention.project(nodes[node])[:64][own]
                    keys, said = (
                        net.attention.project(nodes)[:, 64:128][:, own],
                        net.attention.project(nodes)[:, 128:][:, own],
                    )
                    share = torch.exp(keys @ query / 4)
                    share = share / share.sum()
                    torch.testing.assert_close(weights[b, head, node], share, rtol=1e-4, atol=1e-6)
                    heard.append(share @ said)
                told.append(net.node(nodes[node] + net.attention.out(torch.cat(heard))))
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


# Alien: learning


def filled_agent(**changes):
    agent = ch.AlienAgent(ch.AlienConfig(**(TINY | changes)), 1, "cpu")
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
    asked, true = [], rel.double_targets
    rows = agent.replay.rows(np.arange(32))
    monkeypatch.setattr(agent.replay, "sample", lambda size, rng: rows)

    def spy(net, target_net, rewards, discounts, next_obs):
        assert net is agent.net and target_net is agent.target_net
        for given, column in (
            (rewards, "rewards"),
            (discounts, "discounts"),
            (next_obs, "next_obs"),
        ):
            assert (given.numpy() == getattr(rows, column)).all()
        asked.append(true(net, target_net, rewards, discounts, next_obs))
        return asked[-1]

    monkeypatch.setattr(rel, "double_targets", spy)
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
    monkeypatch.setattr(rel, "double_targets", lambda *_: torch.full((32,), 1.5))
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


def test_agents_are_scored_with_random_moves_held_as_long_as_asked(monkeypatch):
    asked = []
    monkeypatch.setattr(
        ch, "play_alien", lambda policy, count, seed: asked.append((policy, count, seed))
    )
    for hold in (1, 4):
        ch.score_alien(ch.AlienNet(), 1, 7, hold)
    (one, count, seed), (four, _, other) = asked
    assert (one.hold, four.hold, count) == (1, 4, 7) and seed != other
    assert one.epsilon() == four.epsilon() == 0.05 and ch.NOISES == {"score": 1, "held_score": 4}


# Alien: what it looks at


def test_covering_touches_one_block_of_both_frames():
    obs, maze = some_obs(4), np.full((84, 60), 77, np.uint8)
    nodes = np.array([0, 17, 4, 34])
    covered = ch.cover(obs, nodes, maze)
    for before, after, node in zip(obs, covered, nodes, strict=True):
        inside = np.zeros((84, 60), bool)
        row, column = node // 5, node % 5
        inside[12 * row : 12 * row + 16, 12 * column : 12 * column + 16] = True
        assert (after[:, inside] == 77).all() and (after[:, ~inside] == before[:, ~inside]).all()


def one_node(nodes):
    return np.asarray(nodes)[:, None] == np.arange(NODES)


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
        _, hidden = net.looks(obs, lambda weights: ch.hide(weights, one_node(nodes)))
    torch.testing.assert_close(hidden.sum(-1), torch.ones(3, 4, NODES))
    for b, node in enumerate(nodes):
        others = [n for n in range(NODES) if n != node]
        assert (hidden[b, :, others, node] == 0).all()
        ratio = hidden[b][:, others][..., others] / weights[b][:, others][..., others]
        torch.testing.assert_close(ratio, ratio[..., :1].expand_as(ratio), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(hidden[b, :, node], weights[b, :, node])  # it sees itself
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
    away = ch.change_by_edit(
        Watcher(), obs, lambda weights: ch.hide(weights, one_node(np.full(4, 8)))
    )
    assert away == pytest.approx((2, 100))
    unseen = ch.change_by_edit(
        Watcher(), obs, lambda weights: ch.hide(weights, one_node(np.full(4, 30)))
    )
    assert unseen == pytest.approx((0, 0), abs=1e-5)
    empty = [{"player": set(), "alien": {30}, "bonus": set()}] * 4
    found = ch.looks_of(Watcher(), ch.AlienNet("nothing"), obs, empty, 1)
    assert found["hidden_flips_most"] == 100 and found["hidden_flips_alien"] == 0
    assert found["flips_most"] == 0  # the maze always looks like this, so that nothing is covered
    assert found["even_flips"] == 100
    assert found["frozen_flips"] == found["another_flips"] == 0  # this map never changes
    assert found["place"] == pytest.approx(100) and found["same_node"] == 100


def test_sets_of_equal_mass_weigh_as_much_as_the_brightest_node_and_leave_it_out():
    rng = np.random.default_rng(0)
    looks = rng.dirichlet(np.full(NODES, 2.0), 400)
    chosen = ch.equal_mass(looks, np.random.default_rng(1))
    assert not chosen[np.arange(400), looks.argmax(1)].any()
    mass, top = (looks * chosen).sum(1), looks.max(1)
    assert mass.mean() == pytest.approx(top.mean(), rel=0.1) and np.abs(mass - top).max() < 0.1
    again = ch.equal_mass(looks, np.random.default_rng(2))
    assert (chosen != again).any(1).mean() > 0.9 and 2 < chosen.sum(1).mean() < 12


def test_the_share_of_place_is_what_the_means_of_nodes_explain():
    rng = np.random.default_rng(0)
    always = np.tile(rng.dirichlet(np.full(NODES, 0.5)), (50, 1))
    assert ch.by_place(always) == pytest.approx((100, 100))
    moving = np.eye(NODES)[np.arange(5 * NODES) % NODES]
    assert ch.by_place(moving) == pytest.approx((0, 100 / NODES))
    both = np.concatenate([always, always[:, ::-1]])
    mean = both.mean(0) - 1 / NODES
    share = (mean**2).sum() / ((both - 1 / NODES) ** 2).sum(1).mean()
    assert ch.by_place(both) == pytest.approx((100 * share, 50))


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
    assert found["most_is_player"] == found["another_is_player"] == 75
    assert found["most_is_bonus"] == 25 and found["most_is_alien"] == 0
    assert found["chance_is_alien"] == pytest.approx(100 * 2 * 3 / 4 / NODES)
    assert found["player_place"] == found["player_looks"]  # this map knows places only


def test_figures_are_held_against_the_same_nodes_at_other_instants():
    looks = np.full((4, NODES), 0.4 / (NODES - 2))
    looks[:, 3], looks[:, 5] = [0.4, 0.4, 0.2, 0.2], [0.2, 0.2, 0.4, 0.4]
    figures = [{"player": {3}, "alien": set(), "bonus": {9}}] * 2
    figures += [{"player": set(), "alien": {3, 5}, "bonus": {9}}] * 2
    found = ch.whom_it_watches(looks, figures, np.random.default_rng(0))
    assert found["player_looks"] == pytest.approx(0.4 * NODES)
    assert found["player_place"] == pytest.approx(0.2 * NODES)
    assert found["alien_looks"] == pytest.approx(0.3 * NODES)
    assert found["alien_place"] == pytest.approx(0.3 * NODES)
    assert found["most_is_player"] == 50 and found["most_is_alien"] == 50
    assert found["another_is_player"] in (0, 25, 50) and found["bonus_place"] == 0


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


# Alien: what is measured


def test_floors_are_chosen_on_other_games_than_they_are_scored_on(monkeypatch):
    played = []

    def fake(policy, count, seed, codes=ch.MOVES):
        policy(np.zeros((count, 1)))
        played.append((seed, codes, count))
        return np.full(count, 10.0 * codes[0] if len(codes) == 1 else len(codes))

    asked = []
    monkeypatch.setattr(ch, "play_alien", fake)
    monkeypatch.setattr(
        ch, "score_alien", lambda *args: asked.append(args) or np.full(args[2], 10.0 * args[3])
    )
    found = ch.measure_alien_floors(ch.FloorConfig(games=5, screened=3, untrained=2), 1)
    assert found.metrics["single"] == 170 and found.metrics["single_best"] == 17
    assert found.metrics["random"] == 18 and found.metrics["held"] == 8
    assert len(found.curves["single_screened"]) == 18 and len(found.curves["held_screened"]) == 30
    assert len(found.curves["held"]) == 5
    screening, scoring = ({seed for seed, _, count in played if count == c} for c in (3, 5))
    assert len(screening) == len(scoring) == 1 and screening != scoring
    assert {seed for seed, codes, count in played if count == 2 and len(codes) == 1} == screening
    assert found.curves["untrained_score"].tolist() == [10.0] * 6
    assert found.metrics["untrained_held_score"] == 40
    start = ch.AlienAgent(ch.AlienConfig(), 2, "cpu").net.places  # where seed 2 begins to learn
    assert (asked[1][0].places == start).all() and (asked[0][0].places != start).any()


def test_blind_policies_do_what_their_names_say():
    rng, obs = np.random.default_rng(0), np.zeros((50, 1))
    kinds = ch.blind_policies(ch.FloorConfig(), rng)
    make, codes = kinds["random"]["random"]
    assert set(make()(np.zeros((2000, 1))).tolist()) == set(range(18)) and codes == tuple(range(18))
    make, codes = kinds["held"]["straight, held 4"]
    policy = make()
    moves = np.stack([policy(obs) for _ in range(8)])
    assert (moves[:4] == moves[0]).all() and (moves[4:] == moves[4]).all()
    assert (moves[0] != moves[4]).any() and set(moves[0].tolist()) == {0, 1, 2, 3}
    assert codes == (2, 3, 4, 5)
    make, codes = kinds["held"]["any of eight, firing, held 12"]
    assert codes == tuple(range(10, 18)) and make().hold == 12 and make().choices == 8
    assert kinds["held"]["diagonal, held 32"][1] == (6, 7, 8, 9)
    assert kinds["held"]["straight, firing, held 8"][1] == (10, 11, 12, 13)
    assert len(kinds["held"]) == 6 * 5
    assert [codes for _, codes in kinds["single"].values()] == [(code,) for code in range(18)]


def test_every_measurement_runs_small(monkeypatch, tmp_path):
    tiny = ch.AlienConfig(**TINY)
    kept = {}
    for name, mixing in (("alien", "attention"), ("alien_nothing", "nothing")):
        config = ch.replace(tiny, mixing=mixing)
        found = ch.measure_alien(config, 1)
        assert len(found.curves["decisions"]) == 2
        for noise in ("score", "held_score"):
            assert len(found.curves[f"games_{noise}"]) == 2
            assert found.metrics[noise] == pytest.approx(np.mean(found.curves[f"games_{noise}"]))
        kept[name] = found.state
        path = tmp_path / "A10" / f"{name}_seed1.safetensors"
        save_checkpoint(path, found.state, config=config, seed=1)
        assert path.stat().st_size < 2e6
    monkeypatch.setattr(
        ch.results, "run_path", lambda row, name, seed: tmp_path / row / f"{name}_seed{seed}.json"
    )
    looks = ch.measure_alien_looks(ch.LookConfig(instants=8, agent=tiny), 1)
    assert looks.metrics["change_most"] >= 0 and looks.metrics["hidden_flips_equal"] >= 0
    assert 0 <= looks.metrics["hidden_flips_fixed"] <= 100
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


def test_loose_play_is_of_the_stored_agent(monkeypatch):
    asked = []

    def spy(act, side, episodes, seed, layout, clock):
        tokens = layout(200, side, np.random.default_rng(0)).tokens
        moves = act(tokens, np.random.default_rng(1))
        asked.append((tokens.shape[1], side, seed, clock, (moves == 2).mean()))
        return 0.25, 9.0

    class Forward(torch.nn.Linear):
        def forward(self, tokens):
            return torch.tensor([0.0, 0, 1, 0, 0]).expand(len(tokens), 5)

    monkeypatch.setattr(
        ch,
        "stored_match",
        lambda name, seed: Forward(1, 1) if (name, seed) == ("even", 3) else None,
    )
    monkeypatch.setattr(ch.RELATIONAL, "score_of", spy)
    found = ch.measure_match_loose(ch.MatchConfig(net="even"), 3).metrics
    assert {key: found[key] for key in found if key.endswith("loose")} == {
        f"{setting}: loose": 25 for setting in ch.SETTINGS
    }
    assert all(0 <= found[f"{setting}: all keys"] <= 100 for setting in ch.SETTINGS)
    assert [row[:4] for row in asked] == [
        (2 + keys + doors, side, 3, ch.CLOCK) for keys, doors, side in ch.SETTINGS.values()
    ]
    assert np.mean([row[4] for row in asked]) == pytest.approx(0.84, abs=0.04)  # 1 - 4/5 of 0.2
