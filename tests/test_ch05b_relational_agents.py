"""Chapter 05b: its rooms against MiniGrid's own, its attention against torch's, its learning against loops, spied upon."""

import copy
import dataclasses
import functools
import itertools
import re
from collections import Counter, deque

import numpy as np
import pytest
import torch
from minigrid.core.constants import COLOR_NAMES
from minigrid.core.grid import Grid
from minigrid.core.world_object import Door, Goal, Key
from minigrid.envs.doorkey import DoorKeyEnv
from minigrid.envs.empty import EmptyEnv
from minigrid.minigrid_env import MiniGridEnv
from scipy import stats
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from rlbook_utils.checkpoint import load_checkpoint, save_checkpoint
from rlbook_utils.definitions import CHAPTERS, load_chapter
from rlbook_utils.exercises import check
from rlbook_utils.rollout import spread

torch.set_num_threads(1)
ch = load_chapter("ch05b_relational_agents")
SIDES = (5, 6, 8, 16)
AHEAD = ((1, 0), (0, 1), (-1, 0), (0, -1))  # of a heading: right, down, left, up
LEFT, RIGHT, FORWARD, PICK_UP, DROP, TOGGLE = range(6)  # MiniGrid's numbers
FIVE = (LEFT, RIGHT, FORWARD, PICK_UP, TOGGLE)  # what an agent may do


def last(progresses):
    *_, progress = progresses
    return progress


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if torch.is_tensor(one) or isinstance(one, np.ndarray):
        return torch.equal(torch.as_tensor(one), torch.as_tensor(other))
    return one == other


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """MiniGrid makes its partial picture at every step; no test here looks at it."""
    monkeypatch.setattr(MiniGridEnv, "gen_obs", lambda env: {})


# MiniGrid's own worlds


class Mirror:
    """MiniGrid's DoorKey (or empty room), one for each of our worlds, furnished with MiniGrid's own parts from tokens."""

    def __init__(self, tokens, side, max_steps):
        make = (
            DoorKeyEnv
            if tokens.shape[1] == 4
            else functools.partial(EmptyEnv, agent_start_pos=None)
        )
        self.envs = [make(size=side, max_steps=max_steps) for _ in tokens]
        self.reset(np.ones(len(tokens), bool), tokens)

    def reset(self, over, tokens):
        for i in np.flatnonzero(over):
            env = self.envs[i]
            env.grid = Grid(env.width, env.height)
            env.grid.wall_rect(0, 0, env.width, env.height)
            env.carrying, env.step_count, env.things = None, 0, {}
            (_, _, env.agent_dir, *spot), *others = tokens[i].tolist()
            env.agent_pos = tuple(spot)
            for kind, _, _, x, y in sorted(others, key=lambda row: row[0] != 2):
                if kind == 2:
                    env.grid.vert_wall(x, 0)
                thing = {1: Key, 2: functools.partial(Door, is_locked=True)}.get(kind)
                env.things[kind] = thing("yellow") if thing else Goal()
                env.put_obj(env.things[kind], x, y)

    def step(self, actions):
        """Rewards, terminated and truncated, [B] each."""
        found = [env.step(action) for env, action in zip(self.envs, actions.tolist(), strict=True)]
        return [np.array([step[k] for step in found]) for k in (1, 2, 3)]

    @property
    def tokens(self):
        return np.array([seen(env) for env in self.envs])


def seen(env):
    """The tokens of a furnished world, from the very objects."""
    rows = [(0, 0, env.agent_dir, *env.agent_pos)]
    for kind, thing in sorted(env.things.items()):
        held = thing is env.carrying
        colour, state = COLOR_NAMES.index(thing.color), int(held)
        if kind == 2:
            state = 0 if thing.is_open else 2 if thing.is_locked else 1
        rows.append((kind, colour, state, *(env.agent_pos if held else thing.cur_pos)))
    return rows


def moves(state, row, side):
    """What each of the five actions makes of (x, y, heading, key in hand, door): MiniGrid's rules, written out."""
    (x, y, heading, held, door), (_, key, way, _) = state, row[:, 3:].tolist()
    front = [x + AHEAD[heading][0], y + AHEAD[heading][1]]
    yield LEFT, (x, y, (heading - 1) % 4, held, door)
    yield RIGHT, (x, y, (heading + 1) % 4, held, door)
    inside = 0 < front[0] < side - 1 and 0 < front[1] < side - 1
    through = front[0] != way[0] or (front == way and door == 0)
    if inside and through and (held or front != key):
        yield FORWARD, (*front, heading, held, door)
    if front == key and not held:
        yield PICK_UP, (x, y, heading, True, door)
    if front == way and (door < 2 or held):
        yield TOGGLE, (x, y, heading, held, 0 if door == 2 else 1 - door)


@functools.lru_cache(None)
def shortest(bytes_of_row, side):
    row = np.frombuffer(bytes_of_row, np.uint8).reshape(4, 5)
    start = (*row[0, 3:].tolist(), int(row[0, 2]), bool(row[1, 2]), int(row[2, 2]))
    goal, came, todo = tuple(row[3, 3:].tolist()), {start: None}, deque([start])
    while todo:
        state = todo.popleft()
        if state[:2] == goal:
            way = []
            while came[state]:
                action, state = came[state]
                way.append(action)
            return tuple(way[::-1])
        for action, after in moves(state, row, side):
            if after not in came:
                came[after] = action, state
                todo.append(after)
    raise AssertionError("The goal cannot be reached.")


def plan(row, side):
    """The shortest way to the goal of one world [4, 5], as MiniGrid's actions: breadth first."""
    return shortest(np.ascontiguousarray(row, np.uint8).tobytes(), side)


def expert(side):
    """The player that always does the right thing, in numbers of the chapter's five actions."""
    return lambda tokens, rng: np.array([FIVE.index(plan(row, side)[0]) for row in tokens])


def turner(tokens, rng):
    return np.zeros(len(tokens), int)


class Wanderer:
    """Random actions, dropping included; now and then the way to the goal or its beginning."""

    ODDS = (0.12, 0.12, 0.36, 0.16, 0.08, 0.16)

    def __init__(self, count, side, rng, plans):
        self.side, self.rng, self.plans = side, rng, plans
        self.ways = [deque() for _ in range(count)]

    def actions(self, tokens):
        found = self.rng.choice(6, len(tokens), p=self.ODDS)
        for i in np.flatnonzero(self.rng.random(len(tokens)) < self.plans):
            way = plan(tokens[i], self.side)
            whole = len(way) if self.rng.random() < 0.5 else self.rng.integers(len(way) + 1)
            self.ways[i] = self.ways[i] or deque(way[:whole])
        for i, way in enumerate(self.ways):
            if way:
                found[i] = way.popleft()
        return found

    def reset(self, over):
        for i in np.flatnonzero(over):
            self.ways[i].clear()


def play_both(layout, side, count, steps, max_steps, plans, seed=1):
    """Step our worlds and MiniGrid's side by side; how often each thing happened."""
    rng = np.random.default_rng((99, seed, side))
    rooms, events = ch.Rooms(layout, count, side, rng, max_steps), Counter()
    mirror = Mirror(rooms.tokens, side, rooms.max_steps)
    wanderer = Wanderer(count, side, rng, plans)
    for _ in range(steps):
        actions, before = wanderer.actions(rooms.tokens), rooms.tokens.copy()
        found, wanted = rooms.step(actions), mirror.step(actions)
        assert np.array_equal(rooms.tokens, mirror.tokens)
        assert np.abs(found[0] - wanted[0]).max() < 1e-12
        for part, other in zip(found[1:], wanted[1:], strict=True):
            assert np.array_equal(part, other)
        assert [len(part) for part in found] == [count] * 3
        over = found[1] | found[2]
        dropped = (
            (before[:, 1, 2] > rooms.tokens[:, 1, 2]) if layout is ch.doorkey else over & False
        )
        events.update(goals=found[1].sum(), cut=(found[2] & ~found[1]).sum(), drops=dropped.sum())
        kept = [part[~over].copy() for part in (rooms.tokens, rooms.cells, rooms.clock)]
        rooms.reset(over)
        for part, other in zip((rooms.tokens, rooms.cells, rooms.clock), kept, strict=True):
            assert np.array_equal(part[~over], other)  # the others go on
        assert (rooms.clock[over] == 0).all() and (rooms.carried[over] == 0).all()
        mirror.reset(over, rooms.tokens)
        wanderer.reset(over)
    return events


# The batched worlds, step by step: in all forty thousand steps


@pytest.mark.parametrize("side", SIDES)
def test_many_worlds_at_once_are_minigrids(side):
    events = play_both(ch.doorkey, side, 50, 175, 6 * side, 0.03)
    assert min(events["goals"], events["cut"], events["drops"]) >= 10


@pytest.mark.parametrize("side", SIDES)
def test_one_world_is_minigrids(side):
    events = play_both(ch.doorkey, side, 1, 1250, None, 0.01, seed=2)
    assert events["goals"] >= 2 and events["drops"] >= 1
    assert ch.Rooms(ch.doorkey, 2, side, np.random.default_rng(0)).max_steps == 10 * side**2
    assert DoorKeyEnv(size=side).max_steps == 10 * side**2


@pytest.mark.parametrize(("side", "count"), [(4, 20), (5, 1), (8, 20)])
def test_the_empty_room_is_minigrids(side, count):
    events = play_both(ch.empty, side, count, 3000 // count, 10 * side, 0)
    assert events["goals"] >= 5 and events["cut"] >= 1


def test_a_goal_reached_with_the_last_step_counts():
    for side in (5, 8):
        rooms = ch.Rooms(ch.doorkey, 1, side, np.random.default_rng(3))
        way = plan(rooms.tokens[0], side)
        rooms.max_steps = len(way)
        mirror = Mirror(rooms.tokens, side, len(way))
        for action in way:
            found = [part[0] for part in rooms.step(np.array([action]))]
            wanted = [part[0] for part in mirror.step(np.array([action]))]
            assert found == pytest.approx(wanted)
        assert found == pytest.approx([0.1, True, True])
        assert ch.tokens_of(mirror.envs[0]).tolist() == rooms.tokens[0].tolist()


def test_a_key_that_was_dropped_blocks_and_can_be_taken_again():
    rooms = ch.Rooms(ch.doorkey, 64, 6, np.random.default_rng(4))
    mirror, rng, again = Mirror(rooms.tokens, 6, rooms.max_steps), np.random.default_rng(5), 0
    was = np.zeros(64, bool)
    for step in range(150):
        actions = rng.choice(
            [LEFT, RIGHT, FORWARD, PICK_UP, DROP], 64, p=[0.15, 0.15, 0.3, 0.2, 0.2]
        )
        held = rooms.carried > 0
        rooms.step(actions)
        mirror.step(actions)
        np.testing.assert_array_equal(rooms.tokens, mirror.tokens, err_msg=str(step))
        was |= held & (rooms.carried == 0)
        again += int((was & ~held & (rooms.carried > 0)).sum())
        for i, env in enumerate(
            mirror.envs[step % 10 :: 10]
        ):  # the table of cells says the same as the grid
            i = step % 10 + 10 * i
            standing = {
                (x, y)
                for kind, _, state, x, y in rooms.tokens[i, 1:].tolist()
                if kind != 1 or not state
            }
            table = rooms.cells[i].reshape(6, 6)
            for y, x in itertools.product(range(6), repeat=2):
                thing = env.grid.get(x, y)
                wall = thing is not None and thing.type == "wall"
                assert (table[y, x] == -1) == wall and (table[y, x] > 0) == ((x, y) in standing)
    assert again > 20


def test_tokens_are_read_from_a_minigrid_world():
    """The chapter's reader against the very objects, with the key on the floor, in the hand and dropped."""
    rng = np.random.default_rng(6)
    rooms = ch.Rooms(ch.doorkey, 12, 5, rng)
    mirror, wanderer, states = Mirror(rooms.tokens, 5, 10_000), Wanderer(12, 5, rng, 0.06), set()
    for _ in range(250):
        tokens = mirror.tokens
        for env, row in zip(mirror.envs, tokens, strict=True):
            found = ch.tokens_of(env)
            assert found.dtype == np.uint8
            np.testing.assert_array_equal(found, row)
            states.add((int(row[1, 2]), int(row[2, 2])))
        _, reached, _ = mirror.step(wanderer.actions(tokens))
        fresh = ch.doorkey(12, 5, rng).tokens
        mirror.reset(reached, fresh)
        wanderer.reset(reached)
    assert states >= {(0, 2), (1, 2), (1, 0), (1, 1), (0, 0)}


def test_a_world_of_ours_becomes_minigrids_and_back():
    for layout, side in ((ch.doorkey, 5), (ch.doorkey, 9), (ch.empty, 6)):
        rooms = ch.Rooms(layout, 12, side, np.random.default_rng(7), 77)
        mirror = Mirror(rooms.tokens, side, 77)
        for number, furnished in enumerate(mirror.envs):
            env = ch.as_minigrid(rooms, number)
            np.testing.assert_array_equal(ch.tokens_of(env), rooms.tokens[number])
            np.testing.assert_array_equal(env.grid.encode(), furnished.grid.encode())
            assert (env.width, env.height, env.max_steps, env.step_count) == (side, side, 77, 0)
            assert env.carrying is None
    tokens = rooms.tokens[:1, [0, 1, 1, 1, 1]].copy()
    tokens[0, 1:4] = [
        (2, 3, 0, 1, 2),
        (2, 4, 1, 2, 1),
        (1, 2, 0, 3, 3),
    ]  # an open and a closed door, a grey key
    tokens[0, 0, 3:] = 1, 1
    made = ch.Given(tokens[0], ch.walled(1, 6)[0].reshape(-1), 9)
    made.reset()
    found = ch.tokens_of(made)
    assert sorted(found.tolist()) == sorted(tokens[0].tolist())
    things = {(thing.type, thing.color) for thing in made.grid.grid if thing} - {("wall", "grey")}
    assert things == {("door", "purple"), ("door", "red"), ("key", "grey"), ("goal", "green")}


def test_the_comparison_in_the_chapter_can_fail(monkeypatch):
    steps, goals = ch.compare(5, 1500, 3)
    assert steps == 1500 and goals >= 1
    step = ch.Rooms.step

    def wrong(rooms, actions):
        rewards, terminated, truncated = step(rooms, actions)
        return rewards * 0.99, terminated, truncated

    monkeypatch.setattr(ch.Rooms, "step", wrong)
    with pytest.raises(AssertionError, match="The worlds differ after"):
        ch.compare(5, 1500, 3)

    def idle(rooms, actions):
        return step(rooms, np.where(actions == TOGGLE, PICK_UP, actions))

    monkeypatch.setattr(ch.Rooms, "step", idle)
    with pytest.raises(AssertionError, match="The worlds differ after"):
        ch.compare(5, 1500, 3)


# Layouts


@functools.cache
def minigrids_own(side, count=2500):
    """Layouts that MiniGrid's generator drew: agent (heading, x, y), key (x, y), door (x, y): [count, 7]."""
    env, rows = DoorKeyEnv(size=side), []
    env.reset(seed=side)
    for _ in range(count):
        env.reset()
        key = next(thing for thing in env.grid.grid if isinstance(thing, Key))
        door = next(thing for thing in env.grid.grid if isinstance(thing, Door))
        rows.append((env.agent_dir, *env.agent_pos, *key.cur_pos, *door.cur_pos))
    return np.array(rows, int)


def differ(ours, theirs):
    """How two samples of rows differ: the p-value of a chi-square test, and the total variation between them."""
    counts = [Counter(map(tuple, np.atleast_2d(rows.T).T.tolist())) for rows in (ours, theirs)]
    table = np.array([[count[key] for key in sorted({*counts[0], *counts[1]})] for count in counts])
    shares = table / table.sum(1, keepdims=True)
    return stats.chi2_contingency(table).pvalue, 0.5 * np.abs(shares[0] - shares[1]).sum()


@pytest.mark.parametrize("side", [5, 8])
def test_layouts_are_drawn_as_often_as_minigrids(side):
    drawn = ch.doorkey(40_000, side, np.random.default_rng(8)).tokens.astype(int)
    ours = np.concatenate([drawn[:, 0, 2:], drawn[:, 1, 3:], drawn[:, 2, 3:]], 1)
    theirs = minigrids_own(side)
    parts = {"door": [5, 6], "key": [3, 4], "agent": [1, 2], "heading": [0], "wall and key": [5, 3],
             "wall and agent": [5, 1], "rows": [2, 4, 6] if side == 5 else [2, 6]}  # fmt: skip
    for name, columns in parts.items():
        pvalue, variation = differ(ours[:, columns], theirs[:, columns])
        assert pvalue > 1e-3 and variation < 0.06, name
    between = ours[:, 3:5] - ours[:, 1:3], theirs[:, 3:5] - theirs[:, 1:3]
    assert differ(*between)[0] > 1e-3
    assert (drawn[:, 3, 3:] == side - 2).all()
    if side == 5:  # 6 ways to place two things in 3 cells, 4 headings, 2 doors: all alike
        counts = Counter(map(tuple, ours.tolist()))
        assert len(counts) == 48 and stats.chisquare(list(counts.values())).pvalue > 1e-3
    else:  # every place that MiniGrid's source allows, and no other
        assert {*ours[:, 5]} == set(range(2, side - 2)) and {*ours[:, 6]} == set(range(1, side - 2))


@pytest.mark.parametrize("side", [5, 6, 7, 11, 16])
def test_things_stand_in_cells_of_their_own_left_of_the_wall(side):
    tokens, cells = ch.doorkey(3000, side, np.random.default_rng(9))
    assert tokens.shape == (3000, 4, 5) and tokens.dtype == np.uint8 and cells.dtype == np.int8
    agent, key, door, _ = tokens[:, :, 3:].swapaxes(0, 1).astype(int)
    assert (agent != key).any(1).all()
    for spot in (agent, key):
        assert (
            (spot >= 1).all() and (spot[:, 0] < door[:, 0]).all() and (spot[:, 1] <= side - 2).all()
        )
    assert {*agent[:, 1]} == {*key[:, 1]} == set(range(1, side - 1))
    yellow, green = COLOR_NAMES.index("yellow"), COLOR_NAMES.index("green")
    for number, what in ((1, (1, yellow, 0)), (2, (2, yellow, 2)), (3, (3, green, 0))):
        assert (tokens[:, number, :3] == what).all()
    assert (tokens[:, 0, :2] == 0).all() and {*tokens[:, 0, 2]} == {0, 1, 2, 3}
    for i in range(0, 3000, 100):
        wanted = np.zeros((side, side), int)
        wanted[[0, -1]] = wanted[:, [0, -1]] = wanted[:, door[i, 0]] = -1
        for number in (1, 2, 3):
            x, y = tokens[i, number, 3:]
            wanted[y, x] = number
        np.testing.assert_array_equal(cells[i].reshape(side, side), wanted)


def test_the_empty_room_is_drawn_evenly_and_as_minigrids():
    drawn = ch.empty(20_000, 5, np.random.default_rng(10)).tokens.astype(int)
    ours = drawn[:, 0, 2:]
    env = EmptyEnv(size=5, agent_start_pos=None)
    env.reset(seed=1)
    theirs = []
    for _ in range(3000):
        env.reset()
        theirs.append((env.agent_dir, *env.agent_pos))
    assert differ(ours, np.array(theirs))[0] > 1e-3
    counts = Counter(map(tuple, ours.tolist()))
    assert len(counts) == 4 * 8 and stats.chisquare(list(counts.values())).pvalue > 1e-3
    assert (drawn[:, 1] == (3, COLOR_NAMES.index("green"), 0, 3, 3)).all()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ch.doorkey(3, 4, np.random.default_rng(0)), "DoorKey of side 4 does not exist; it takes at least 5."),
        (lambda: ch.empty(3, 3, np.random.default_rng(0)), "An empty room of side 3 does not exist; it takes at least 4."),
        (lambda: ch.judge(turner, 4, 2, 1), "MiniGrid has no DoorKey of side 4; the smallest has 5."),
        (lambda: ch.as_features(torch.zeros(2, 3, 4), "agent"),
         "A token has 5 numbers (kind, colour, state, x, y), not 4."),
        (lambda: ch.RelationalNet()(torch.zeros(2, 3, 6, dtype=torch.uint8)),
         "A token has 5 numbers (kind, colour, state, x, y), not 6."),
        (lambda: ch.RoomsConfig(frame="up"), "RoomsConfig.frame is 'up'; it has to be one of agent, shifted, grid."),
        (lambda: ch.RoomsConfig(epsilon=1.5), "RoomsConfig.epsilon is 1.5; it has to lie between 0.0 and 1.0."),
        (lambda: ch.RoomsConfig(n_steps=0), "RoomsConfig.n_steps is 0; it has to lie between 1 and 20."),
        (lambda: ch.RoomsConfig(random_steps=-1),
         "RoomsConfig.random_steps is -1; it has to lie between 0 and 5000000."),
        (lambda: ch.RoomsConfig(net="picture", frame="grid"),
         "A picture has the agent in its middle: its frame is agent or shifted, not grid."),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(make, sentence):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == sentence


def numbered(drawn):
    """A layout whose worlds carry a number of their own in the colours of their tokens."""

    def layout(count, side, rng):
        tokens, cells = ch.doorkey(count, side, rng)
        numbers = len(drawn) + np.arange(count)
        drawn.extend(numbers.tolist())
        tokens[:, 0, 1], tokens[:, 3, 1] = numbers % 256, numbers // 256
        return ch.Layout(tokens, cells)

    return layout


def test_no_layout_of_the_stock_is_used_twice():
    drawn, used = [], []
    rooms, rng = (
        ch.Rooms(numbered(drawn), 1500, 5, np.random.default_rng(11)),
        np.random.default_rng(12),
    )
    name = lambda tokens: tokens[:, 0, 1].astype(int) + 256 * tokens[:, 3, 1].astype(int)
    used += name(rooms.tokens).tolist()
    for share in (0.02, 0.4, 1.0, 0.0, 0.3, 0.5, 0.01, 0.9):
        over = rng.random(1500) < share
        before = rooms.tokens.copy(), rooms.cells.copy()
        rooms.reset(over)
        used += name(rooms.tokens[over]).tolist()
        np.testing.assert_array_equal(rooms.tokens[~over], before[0][~over])
        np.testing.assert_array_equal(rooms.cells[~over], before[1][~over])
    assert len(set(used)) == len(used) > 5000
    assert len(drawn) < 4 * len(used)


def test_a_fresh_world_is_whole_and_shares_no_memory():
    rng, drawn = np.random.default_rng(13), []
    rooms = ch.Rooms(numbered(drawn), 40, 5, rng, 30)
    wanderer = Wanderer(40, 5, rng, 0.2)
    for _ in range(25):
        rooms.step(wanderer.actions(rooms.tokens))
    assert (rooms.carried > 0).any() and (rooms.tokens[:, 2, 2] < 2).any()
    over = np.arange(40) % 2 == 0
    going_on = [part[~over].copy() for part in (rooms.carried, rooms.clock)]
    rooms.reset(over)
    assert (rooms.tokens[over, 2, 2] == 2).all() and (rooms.tokens[over, 1, 2] == 0).all()
    assert (rooms.carried[over] == 0).all() and (rooms.clock[over] == 0).all()
    for part, kept in zip((rooms.carried, rooms.clock), going_on, strict=True):
        np.testing.assert_array_equal(part[~over], kept)
    assert going_on[1].min() == 25 and going_on[0].any()
    for number in np.flatnonzero(over):
        x, y = rooms.tokens[number, 1, 3:]
        assert rooms.cells[number].reshape(5, 5)[y, x] == 1  # the key lies there again


# The frame of reference


def by_hand(tokens, frame):
    """Places by turning the map until the agent looks up: [N, 2]."""
    (_, _, heading, ax, ay), rows = tokens[0].tolist(), tokens[:, 3:].tolist()
    found = []
    for x, y in rows:
        if frame == "grid":
            found.append((x, y))
            continue
        dx, dy = x - ax, y - ay
        if frame == "agent":
            for _ in range((3 - heading) % 4):  # quarter turns to the right: right becomes down
                dx, dy = -dy, dx
            dx, dy = -dy, dx  # now up is ahead: (cells ahead, cells to the right)
        found.append((dx, dy))
    return found


def scene(count, side=8, seed=14, heading=None):
    """Worlds in the middle of episodes: keys in hand, doors open."""
    rng = np.random.default_rng(seed)
    rooms = ch.Rooms(ch.doorkey, count, side, rng, 10_000)
    wanderer = Wanderer(count, side, rng, 0.1)
    for _ in range(20):
        _, over, _ = rooms.step(wanderer.actions(rooms.tokens))
        rooms.reset(over)
        wanderer.reset(over)
    tokens = rooms.tokens.copy()
    if heading is not None:
        tokens[:, 0, 2] = heading
    return tokens


@pytest.mark.parametrize("heading", range(4))
@pytest.mark.parametrize("frame", ["agent", "shifted", "grid"])
def test_places_agree_with_a_map_turned_by_hand(frame, heading):
    tokens = scene(60, heading=heading)
    found = ch.places(torch.from_numpy(tokens).long(), frame)
    assert found.shape == (60, 4, 2)
    for row, places in zip(tokens, found.tolist(), strict=True):
        assert [tuple(place) for place in places] == [
            tuple(p) for p in by_hand(row.astype(int), frame)
        ]
    assert (found[:, 0] == 0).all() or frame == "grid"


def test_what_lies_ahead_is_ahead():
    x, y = 4, 3
    for heading, (dx, dy) in enumerate(AHEAD):
        tokens = torch.tensor([[(0, 0, heading, x, y), (1, 5, 0, x + 2 * dx, y + 2 * dy),
                                (3, 1, 0, x - dy, y + dx)]])  # fmt: skip
        assert ch.places(tokens, "agent")[0].tolist() == [
            [0, 0],
            [2, 0],
            [0, 1],
        ]  # minigrid: right of (dx, dy) is (-dy, dx)
        env = DoorKeyEnv(size=8)
        env.reset(seed=0)
        env.agent_dir = heading
        assert tuple(env.dir_vec) == (dx, dy) and tuple(env.right_vec) == (-dy, dx)


@pytest.mark.parametrize("frame", ["agent", "shifted", "grid"])
def test_features_agree_with_a_loop(frame):
    tokens = scene(30, seed=15)
    found = ch.as_features(torch.from_numpy(tokens), frame)
    assert found.shape == (30, 4, 28) == (30, 4, ch.WIDTH_OF_TOKEN) and found.dtype == torch.float32
    for row, features in zip(tokens.astype(int), found.numpy(), strict=True):
        for (kind, colour, state, _, _), place, feature in zip(
            row.tolist(), by_hand(row, frame), features, strict=True
        ):
            wanted = np.zeros(28)
            wanted[4 * kind + state] = wanted[16 + colour] = 1
            wanted[22:24] = np.array(place) / 8
            wanted[24:26], wanted[26:28] = np.clip(place, -1, 1), np.clip(place, -2, 2) / 2
            np.testing.assert_allclose(feature, wanted, atol=1e-6)


class NoWholeNumberProducts(TorchFunctionMode):
    """Fails where whole numbers go into a matrix product: CUDA has none for them."""

    NAMES = ("einsum", "matmul", "__matmul__", "bmm", "mm", "linear", "baddbmm", "tensordot")

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func.__name__ in self.NAMES:
            assert all(a.is_floating_point() for a in args if torch.is_tensor(a)), func.__name__
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("frame", ["agent", "shifted", "grid"])
def test_a_gpu_can_tell_places(frame):
    with NoWholeNumberProducts():
        ch.as_features(torch.from_numpy(scene(3)), frame)


@pytest.mark.parametrize("name", [name for name in ch.NETS if name != "picture"])
def test_networks_work_on_the_device_of_their_weights(name):
    """Here on torch's "meta", whose tensors mix with no other's."""
    with torch.device("meta"):
        net = ch.NETS[name]()
    assert net(torch.from_numpy(scene(3, side=5)).to("meta")).device.type == "meta"


# Attention with several heads


def randomised(module, seed=0):
    torch.manual_seed(seed)
    for weights in module.parameters():
        nn.init.normal_(weights, std=0.4)
    return module


@pytest.mark.parametrize(
    ("width", "heads", "count"), [(16, 4, 4), (12, 1, 7), (8, 8, 2), (64, 4, 1)]
)
def test_several_heads_agree_with_torchs(width, heads, count):
    ours = randomised(ch.Heads(width, heads, "dot"))
    theirs = nn.MultiheadAttention(width, heads, batch_first=True)
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = (
        ours.project.weight.data,
        ours.project.bias.data,
    )
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    nodes = torch.randn(5, count, width)
    told, weights = ours(nodes)
    wanted, attention = theirs(nodes, nodes, nodes, average_attn_weights=False)
    torch.testing.assert_close(told, wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(weights, attention, rtol=0, atol=1e-5)
    assert weights.shape == (5, heads, count, count)


def test_additive_attention_agrees_with_loops():
    heads, width, count = 3, 12, 5
    module, nodes = randomised(ch.Heads(width, heads, "additive")), torch.randn(4, count, width)
    told, weights = module(nodes)
    q, k, v = (nodes @ module.project.weight.T + module.project.bias).detach().numpy().reshape(
        4, count, 3, heads, width // heads
    ).transpose(2, 0, 1, 3, 4)  # fmt: skip
    judge, mixed = module.judge.detach().numpy(), np.zeros((4, count, width))
    for b, h, i in itertools.product(range(4), range(heads), range(count)):
        scores = np.array([
            sum(judge[h, d] * np.tanh(q[b, i, h, d] + k[b, j, h, d]) for d in range(4)) for j in range(count)
        ])  # fmt: skip
        share = np.exp(scores) / np.exp(scores).sum()
        np.testing.assert_allclose(weights[b, h, i].detach().numpy(), share, atol=1e-5)
        mixed[b, i, 4 * h : 4 * h + 4] = share @ v[b, :, h]
    wanted = mixed @ module.out.weight.detach().numpy().T + module.out.bias.detach().numpy()
    np.testing.assert_allclose(told.detach().numpy(), wanted, atol=1e-5)
    told.square().sum().backward()
    assert module.judge.grad.abs().min() > 0


@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_the_controls_listen_to_all_alike_or_to_themselves(count):
    nodes = torch.randn(3, count, 8)
    for way in ("even", "own"):
        module = randomised(ch.Heads(8, 2, way))
        told, weights = module(nodes)
        values = module.project(nodes)[..., 16:]
        wanted = torch.full((count, count), 1 / count) if way == "even" else torch.eye(count)
        torch.testing.assert_close(weights, wanted.expand(3, 2, count, count))
        heard = values.mean(1, keepdim=True).expand_as(values) if way == "even" else values
        torch.testing.assert_close(told, module.out(heard), rtol=0, atol=1e-5)


def test_the_ways_differ_in_who_is_heard_and_in_little_else():
    counts = {way: ch.parameters(ch.RelationalNet(way=way)) for way in ch.WAYS}
    assert counts["dot"] == counts["even"] == counts["own"]
    assert (
        counts["additive"] == counts["dot"] + 64
    )  # what weighs a fit: a number for each of 4 x 16
    assert tuple(ch.WAYS) == ("dot", "additive", "even", "own")
    for way in ch.WAYS:
        assert ch.NETS[way]().attention.way == way and ch.NETS[way]().frame == "agent"


# Networks


def q_of(net, tokens):
    with torch.no_grad():
        return net(torch.from_numpy(np.ascontiguousarray(tokens)))


@pytest.mark.parametrize("frame", ["agent", "shifted", "grid"])
@pytest.mark.parametrize("way", ["dot", "additive", "even", "own"])
def test_objects_have_no_order(way, frame):
    torch.manual_seed(1)
    net, tokens = ch.RelationalNet(way=way, frame=frame), scene(40, seed=16)
    q_values, weights = net.look(torch.from_numpy(tokens))
    assert q_values.shape == (40, 5) and weights.shape == (40, 4, 4, 4)
    for order in ((0, 3, 1, 2), (0, 2, 1, 3), (0, 3, 2, 1)):
        found, seen_by = net.look(torch.from_numpy(tokens[:, order]))
        torch.testing.assert_close(found, q_values, rtol=0, atol=1e-5)
        torch.testing.assert_close(seen_by, weights[:, :, order][..., order], rtol=0, atol=1e-5)
    moved = q_of(
        net, tokens[:, [1, 0, 2, 3]]
    )  # the agent's own token comes first: the frame is its
    assert ((moved - q_values).abs().max() > 1e-3) == (frame != "grid")


@pytest.mark.parametrize("name", list(ch.NETS))
def test_one_world_alone_is_worth_what_it_is_worth_among_others(name):
    torch.manual_seed(2)
    net, tokens = ch.NETS[name](), scene(7, side=5, seed=17)
    together = q_of(net, tokens)
    assert together.shape == (7, 5)
    for i in range(7):
        torch.testing.assert_close(
            q_of(net, tokens[i : i + 1]), together[i : i + 1], rtol=0, atol=1e-5
        )
    assert together.std(0).min() > 1e-4  # worlds differ


@pytest.mark.parametrize("way", ["dot", "additive", "even", "own"])
def test_any_number_of_objects_goes_in(way):
    torch.manual_seed(3)
    net, tokens = ch.RelationalNet(way=way), scene(3, seed=18)
    for count in (1, 2, 3, 9):
        rows = np.concatenate([tokens[:, :1], np.repeat(tokens[:, 1:], 3, 1)], 1)[:, :count]
        assert q_of(net, rows).shape == (3, 5)


def test_the_relational_network_agrees_with_a_slow_one():
    """One world after the other: embed, attend to the normalised, add, think about the normalised, add, take the most."""
    torch.manual_seed(4)
    net, tokens = ch.RelationalNet(), scene(6, seed=19)
    mha = nn.MultiheadAttention(64, 4, batch_first=True)
    mha.in_proj_weight.data, mha.in_proj_bias.data = (
        net.attention.project.weight.data,
        net.attention.project.bias.data,
    )
    mha.out_proj.load_state_dict(net.attention.out.state_dict())
    norm = lambda x: (
        (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    )
    found = q_of(net, tokens)
    for row, q_values in zip(tokens, found, strict=True):
        nodes = (
            ch.as_features(torch.from_numpy(row[None]), "agent")[0] @ net.embed.weight.T
            + net.embed.bias
        ).clamp(min=0)
        quiet = norm(nodes)[None]
        nodes = nodes + mha(quiet, quiet, quiet)[0][0]
        hidden = (norm(nodes) @ net.think[0].weight.T + net.think[0].bias).clamp(min=0)
        nodes = nodes + hidden @ net.think[2].weight.T + net.think[2].bias
        most = torch.stack([max(column) for column in nodes.T])
        hidden = (most @ net.answer[0].weight.T + net.answer[0].bias).clamp(min=0)
        wanted = hidden @ net.answer[2].weight.T + net.answer[2].bias
        torch.testing.assert_close(q_values, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", list(ch.NETS))
def test_no_activation_bounds_the_values(name):
    """Pitfall: an ELU on the output caps Q at -1 from below."""
    net = ch.NETS[name]()
    head = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    wanted = torch.tensor([-40.0, -2.0, 0.0, 3.0, 50.0])
    head.weight.data.zero_()
    head.bias.data = wanted
    torch.testing.assert_close(q_of(net, scene(3, side=5)), wanted.expand(3, 5))


@pytest.mark.parametrize("frame", ["agent", "shifted"])
def test_the_picture_is_that_of_a_loop(frame):
    net, tokens = (
        ch.PictureNet(5, frame=frame),
        np.concatenate([scene(40, side=5, heading=h) for h in range(4)]),
    )
    found = net.picture(torch.from_numpy(tokens))
    wanted = torch.zeros(len(tokens), 16, 5, 5)
    for i, row in enumerate(tokens.astype(int)):
        for (kind, _, state, _, _), (one, two) in zip(
            row.tolist(), by_hand(row, frame), strict=True
        ):
            down, across = (-one, two) if frame == "agent" else (two, one)
            wanted[i, 4 * kind + state, 2 + down, 2 + across] = 1
    assert torch.equal(found, wanted)
    assert set(found.sum((1, 2, 3)).tolist()) == {4.0}
    assert (found[:, :4, 2, 2].sum(1) == 1).all()  # the agent in the middle


def test_a_picture_refuses_a_room_that_it_does_not_reach_across():
    corners = scene(1, side=6)
    corners[0, 0, 3:], corners[0, 1, 3:] = (1, 1), (4, 4)
    with pytest.raises(ValueError, match="reaches 2 cells"):
        ch.PictureNet(5)(torch.from_numpy(corners))


def test_rivals_have_at_least_as_many_parameters():
    counts = {name: ch.parameters(make()) for name, make in ch.NETS.items()}
    assert (
        counts["dot"]
        == sum(
            a * b + b
            for a, b in [(28, 64), (64, 192), (64, 64), (64, 128), (128, 64), (64, 64), (64, 5)]
        )
        + 2 * 2 * 64
    )
    assert min(counts["flat"], counts["picture"]) >= max(counts["dot"], counts["additive"])
    assert max(counts.values()) < 1.25 * counts["dot"]


def test_frozen_weights_are_not_counted_twice():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False))
    assert ch.parameters(net) == 3 * 4 + 4 + 8


# Targets


class Table(nn.Module):
    """A network that looks values up by the first number of a world: Q-values [worlds, 5]."""

    def __init__(self, values):
        super().__init__()
        self.values, self.asked = nn.Parameter(torch.as_tensor(values, dtype=torch.float32)), []

    def forward(self, tokens):
        self.asked.append(tokens[:, 0, 0].tolist())
        return self.values[tokens[:, 0, 0].long()]


def worlds_named(names):
    tokens = np.zeros((len(names), 4, 5), np.uint8)
    tokens[:, 0, 0] = names
    return tokens


@pytest.mark.parametrize("double", [True, False])
def test_targets_agree_with_a_loop_at_the_next_state(double):
    """Pitfall: the action is chosen by the online network, where its value is needed, in the next state."""
    rng = np.random.default_rng(20)
    online, target = (Table(rng.normal(size=(50, 5))) for _ in range(2))
    after = rng.integers(50, size=200)
    rewards, discounts = (
        torch.randn(200),
        torch.tensor(rng.choice([0.0, 0.9, 0.8], 200), dtype=torch.float32),
    )
    found = ch.double_targets(
        online, target, rewards, discounts, torch.from_numpy(worlds_named(after)), double
    )
    wanted = []
    for i, s in enumerate(after.tolist()):
        chooser = (online if double else target).values[s].tolist()
        value = target.values[s, chooser.index(max(chooser))].item()
        wanted.append(rewards[i].item() + discounts[i].item() * value)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)
    assert found.shape == (200,) and not found.requires_grad
    assert online.values.grad is None and target.values.grad is None
    assert all(names == after.tolist() for net in (online, target) for names in net.asked)
    torch.testing.assert_close(found[discounts == 0], rewards[discounts == 0])
    both = [ch.double_targets(online, target, rewards, discounts, torch.from_numpy(worlds_named(after)), d)
            for d in (True, False)]  # fmt: skip
    assert (both[0] <= both[1] + 1e-6).all() and (both[0] < both[1] - 1e-3).any()


def some_batch(size, seed=21):
    rng = np.random.default_rng(seed)
    tokens, after = scene(size, side=5, seed=seed), scene(size, side=5, seed=seed + 1)
    return ch.Batch(
        tokens, rng.integers(5, size=size), rng.normal(size=size).astype(np.float32),
        rng.choice([0.0, 0.8], size).astype(np.float32), after,
    )  # fmt: skip


@pytest.mark.parametrize(("double", "scale"), [(True, 1), (False, 1), (True, 1000)])
def test_two_updates_are_those_of_a_slow_learner(double, scale, monkeypatch):
    """Loss, gradients that do not pile up, their clipping, Adam, and a target network that follows a little."""
    torch.manual_seed(5)
    config = ch.RoomsConfig(net="flat", polyak=0.1, learning_rate=3e-3, double=double)
    agent = ch.Agent(config, "cpu")
    for one, other in zip(agent.net.parameters(), agent.target_net.parameters(), strict=True):
        assert torch.equal(one, other) and one is not other
        other.data += 0.1 * torch.randn_like(other)  # so that it matters which network is asked
    net, slow = copy.deepcopy(agent.net), copy.deepcopy(agent.target_net)
    adam = torch.optim.Adam(net.parameters(), 3e-3)
    for seed in (22, 24):
        batch = some_batch(32, seed)
        batch = batch._replace(rewards=batch.rewards * scale)
        found = agent.learn(batch)
        total = 0.0
        for obs, action, reward, discount, after in zip(*batch, strict=True):
            obs, after = torch.from_numpy(obs)[None], torch.from_numpy(after)[None]
            with torch.no_grad():
                best = (net if double else slow)(after)[0].argmax()
                goal = float(reward) + float(discount) * slow(after)[0, best].item()
            total = total + (net(obs)[0, int(action)] - goal) ** 2 / 32
        adam.zero_grad()
        total.backward()
        size = sum((weights.grad**2).sum() for weights in net.parameters()) ** 0.5
        assert (size > 10) == (scale > 1)
        for weights in net.parameters():
            weights.grad *= min(1, 10 / size.item())
        adam.step()
        for one, other in zip(slow.parameters(), net.parameters(), strict=True):
            one.data = 0.9 * one.data + 0.1 * other.data
        assert found == pytest.approx(total.item(), rel=1e-3)
        for ours, theirs in ((agent.net, net), (agent.target_net, slow)):
            for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert all(weights.grad is None for weights in agent.target_net.parameters())


def test_only_the_action_that_was_taken_is_corrected(monkeypatch):
    """Pitfall: rows and columns that are indexed apart write every row at every action."""
    values = np.random.default_rng(23).normal(size=(6, 5))
    monkeypatch.setitem(ch.NETS, "dot", lambda frame: Table(values))
    agent = ch.Agent(ch.RoomsConfig(), "cpu")
    before = agent.net.values.detach().clone()
    actions = np.array([4, 0, 2, 2, 1, 3])
    names = worlds_named(np.arange(6))
    agent.learn(ch.Batch(names, actions, np.full(6, 9, np.float32), np.zeros(6, np.float32), names))
    moved = (agent.net.values.detach() != before).numpy()
    assert moved.sum() == 6 and moved[np.arange(6), actions].all()
    assert (agent.net.values.detach() >= before).all()


# The film


def random_film(length, steps, worlds, seed, ends=0.1, goals=0.5):
    """A film of worlds without sense, and its rows."""
    rng, film, rows = np.random.default_rng(seed), ch.Film(length), []
    for _ in range(steps):
        over = rng.random(worlds) < ends
        won = rng.random(worlds) < goals
        row = ch.FilmRow(
            rng.integers(256, size=(worlds, 4, 5)).astype(np.uint8), rng.integers(5, size=worlds),
            rng.integers(256, size=(worlds, 4, 5)).astype(np.uint8), over & won, over & ~won,
        )  # fmt: skip
        rows.append(copy.deepcopy(row))
        film.add(row)
        for part in row:
            part[:] = 0  # what the caller does with its arrays is nothing to the film
    return film, rows


def slow_return(rows, step, world, n, discount):
    """Reward, discount and next tokens of n steps from one place."""
    for k in range(n):
        row = rows[step + k]
        if row.terminated[world]:
            return discount**k, 0.0, row.next_obs[world]
        if row.truncated[world]:
            return 0.0, discount ** (k + 1), row.next_obs[world]
    return 0.0, discount**n, row.next_obs[world]


@pytest.mark.parametrize(
    ("steps", "length", "n"), [(37, 60, 1), (60, 60, 5), (143, 60, 3), (200, 50, 20)]
)
def test_returns_of_several_steps_agree_with_a_slow_film(steps, length, n):
    film, rows = random_film(length, steps, 6, seed=steps)
    places = list(itertools.product(range(max(0, steps - length), steps - n), range(6)))
    batch = film.batch(*np.array(places).T, n, 0.9)
    kinds = Counter()
    for i, (step, world) in enumerate(places):
        reward, discount, after = slow_return(rows, step, world, n, 0.9)
        assert batch.rewards[i] == pytest.approx(reward, abs=1e-6)
        assert batch.discounts[i] == pytest.approx(discount, abs=1e-6)
        np.testing.assert_array_equal(batch.obs[i], rows[step].obs[world])
        np.testing.assert_array_equal(batch.next_obs[i], after)
        assert batch.actions[i] == rows[step].actions[world]
        kinds[("goal" if reward else "cut" if discount > 0.9**n + 1e-9 else "on")] += 1
    assert kinds["goal"] > 5 and kinds["on"] > 5 and (kinds["cut"] > 5 or n == 1)
    assert batch.rewards.dtype == batch.discounts.dtype == np.float32


def goal_after(rows, step, world):
    """How many steps after this one its episode reaches a goal, None where it does not (or not yet)."""
    for k, row in enumerate(rows[step:]):
        if row.terminated[world]:
            return k
        if row.truncated[world]:
            return None
    return None


@pytest.mark.parametrize(
    ("steps", "length", "ends"), [(150, 400, 0.004), (950, 300, 0.02), (2500, 300, 0.08)]
)
def test_a_share_of_the_places_lies_shortly_before_a_goal(steps, length, ends):
    n, size, rng = 5, 64, np.random.default_rng(24)
    film, rows = random_film(length, steps, 8, seed=steps, ends=ends)
    oldest, newest = max(0, steps - length), steps - n
    leads, later = Counter(), []
    for _ in range(60):
        for near in (0.0, 0.25, 1.0):
            where, worlds = film.places(size, near, n, rng)
            assert where.shape == worlds.shape == (size,)
            assert where.min() >= oldest and where.max() < newest
            assert worlds.min() >= 0 and worlds.max() < 8
            for step, world in list(zip(where.tolist(), worlds.tolist(), strict=True))[
                : int(near * size)
            ]:
                lead = goal_after(rows, step, world)
                assert (
                    lead is not None and lead < 30
                )  # the goal's own step is the last of the thirty
                leads[lead] += 1
            later += list(zip(where.tolist(), worlds.tolist(), strict=True))[int(near * size) :]
    if ends == 0.004:
        assert set(leads) == set(range(30))  # every one of the thirty
    else:
        assert {0, 1, 2} < set(leads)
    # the others from everywhere in the film alike
    spread_out = np.histogram([step for step, _ in later], 10, (oldest, newest))[0]
    if (newest - oldest) % 10 == 0:
        assert stats.chisquare(spread_out).pvalue > 1e-3
    assert spread_out.min() > 0.8 * spread_out.mean()
    assert stats.chisquare(np.bincount([world for _, world in later], minlength=8)).pvalue > 1e-3
    unlucky = [goal_after(rows, *place) for place in later[:500]]
    assert any(lead is None or lead >= 30 for lead in unlucky)


def test_a_film_without_goals_is_drawn_from_all_alike():
    film, _ = random_film(100, 60, 3, seed=25, goals=0.0)
    where, worlds = film.places(500, 0.5, 5, np.random.default_rng(26))
    assert {*where.tolist()} == set(range(55)) and {*worlds.tolist()} == {0, 1, 2}


def test_goals_that_the_film_has_forgotten_are_not_looked_for():
    film, rows = ch.Film(80), []
    for step in range(300):
        won = np.array([step == 20, step == 150])
        tokens = np.full((2, 4, 5), step % 256, np.uint8)
        rows.append(ch.FilmRow(tokens, np.zeros(2, int), tokens, won, np.zeros(2, bool)))
        film.add(rows[-1])
        if step in (60, 170, 299):
            where, worlds = film.places(100, 1.0, 3, np.random.default_rng(step))
            assert where.min() >= max(0, step - 79) and where.max() < step - 2
            assert len(film.goals) <= 2 and (film.goals[:, 0] > step - 80).all()
            if step == 170:
                assert (worlds == 1).all() and where.min() == 121 and where.max() == 150


def test_an_episode_may_be_shorter_than_thirty_steps():
    film = ch.Film(200)
    for step in range(100):
        won, cut = np.array([step in (50, 53, 75)]), np.array([step == 70])
        tokens = np.zeros((1, 4, 5), np.uint8)
        film.add(ch.FilmRow(tokens, np.zeros(1, int), tokens, won, cut))
    where, _ = film.places(3000, 1.0, 5, np.random.default_rng(27))
    assert {*where.tolist()} == {*range(21, 51), *range(51, 54), *range(71, 76)}
    shares = np.array(
        [((where >= low) & (where < high)).mean() for low, high in ((21, 51), (51, 54), (71, 76))]
    )
    assert np.abs(shares - 1 / 3).max() < 0.04  # every goal alike, however long the way to it


# Play


def test_a_play_films_what_happened():
    """Tokens, actions and ends against MiniGrid; the next tokens are those before a reset; a goal is no truncation."""
    config, rng = ch.RoomsConfig(worlds=30, max_steps=35), np.random.default_rng(28)
    play = ch.Play(ch.doorkey, config, 5, np.random.default_rng(29))
    mirror, way, ended = Mirror(play.rooms.tokens, 5, 35), expert(5), []
    assert play.rooms.max_steps == 35
    for step in range(120):
        before = play.rooms.tokens.copy()
        actions = np.where(rng.random(30) < 0.4, rng.integers(5, size=30), way(before, None))
        actions[:6] = 0  # who turns for ever, and is cut off
        play.step(actions)
        _, terminated, truncated = mirror.step(np.array(FIVE)[actions])
        row = [part[step] for part in play.film.rows]
        np.testing.assert_array_equal(row[0], before)
        np.testing.assert_array_equal(row[1], actions)
        np.testing.assert_array_equal(row[2], mirror.tokens)
        np.testing.assert_array_equal(row[3], terminated)
        np.testing.assert_array_equal(row[4], truncated & ~terminated)
        over = terminated | truncated
        ended += [(bool(terminated[i]), mirror.envs[i].step_count) for i in np.flatnonzero(over)]
        assert play.ended == ended[-100:]
        mirror.reset(over, play.rooms.tokens)
    assert len(ended) > 150 and {won for won, _ in ended} == {True, False}
    assert ch.Play(ch.doorkey, ch.RoomsConfig(), 6, rng).rooms.max_steps == 360


def test_random_play_fills_the_film():
    play = ch.Play(ch.doorkey, ch.RoomsConfig(worlds=50), 5, np.random.default_rng(30))
    play.at_random(60_000)
    assert play.film.steps == 1200
    drawn = np.bincount(play.film.rows.actions[:1200].ravel(), minlength=5)
    assert len(drawn) == 5 and stats.chisquare(drawn).pvalue > 1e-3
    assert len(play.ended) == 100 and play.film.rows.terminated.sum() > 20


@pytest.mark.parametrize("steps", [0, 5_000])
def test_few_random_steps_of_many_worlds_still_make_a_batch(steps):
    config = ch.RoomsConfig(
        stages=((5, 1),), worlds=1024, random_steps=steps, n_steps=20, batch_size=4
    )
    assert next(ch.train_rooms(config, 1)).step == 1


def test_the_clock_of_a_run_counts_its_own_work_only(monkeypatch):
    """In CPU seconds, so that a loaded machine does not make a network slow, nor does who looks at a report."""
    clock, greedy = [100.0], ch.greedy
    assert ch.train_rooms  # defined before

    def works(*args):
        clock[0] += 2
        return greedy(*args)

    monkeypatch.setattr(ch, "greedy", works)
    monkeypatch.setattr(ch.time, "process_time", lambda: clock[0])
    told = []
    for progress in ch.train_rooms(dataclasses.replace(TINY, stages=((5, 60),)), 1):
        told.append(progress.metrics["seconds"])
        clock[0] += 1000
    assert told == [50.0, 100.0, 120.0]


def fixed_net(values):
    """A network that names one best action for each world, by the place of its agent."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = nn.Parameter(torch.as_tensor(values, dtype=torch.float32))

        def forward(self, tokens):
            return self.weights[tokens[:, 0, 3].long()]

    return Net()


@pytest.mark.parametrize("epsilon", [0.0, 0.05, 0.4, 1.0])
def test_greedy_players_explore_as_often_as_they_are_told(epsilon):
    values = np.eye(5)[[3, 1, 4, 0, 2, 1, 3, 0]]
    tokens = np.zeros((20_000, 4, 5), np.uint8)
    tokens[:, 0, 3] = np.arange(20_000) % 8
    found = ch.greedy(fixed_net(values), tokens, epsilon, np.random.default_rng(31))
    best = values.argmax(1)[tokens[:, 0, 3]]
    assert found.shape == (20_000,)
    if epsilon == 0:
        np.testing.assert_array_equal(found, best)
        return
    others = (found != best).sum()
    assert stats.binomtest(int(others), 20_000, 0.8 * epsilon).pvalue > 1e-3
    apart = (found - best)[found != best] % 5
    assert stats.chisquare(np.bincount(apart, minlength=5)[1:]).pvalue > 1e-3
    assert (
        ch.player(fixed_net(values), 0.0)(tokens[:9], np.random.default_rng(0)).tolist()
        == best[:9].tolist()
    )


# Training


TINY = ch.RoomsConfig(stages=((5, 60),), worlds=40, random_steps=5_000, batch_size=16)


class Spied:
    """What a training does, in order: its plays, their random steps, its actions, places, batches and updates."""

    def __init__(self, monkeypatch):
        self.calls, self.plays, self.agents, spy = [], [], [], self
        made, agent, greedy = ch.Play, ch.Agent, ch.greedy
        assert ch.train_rooms and ch.rooms_progress  # defined before they are spied upon

        class Film(ch.Film):
            def places(self, *args):
                spy.calls.append(("places", args[:3], self))
                self.last_places = super().places(*args)
                return self.last_places

            def batch(self, *args):
                assert all(a is b for a, b in zip(args, self.last_places, strict=False))
                self.last_batch = super().batch(*args)
                spy.calls.append(("batch", args[2:], self))
                return self.last_batch

        class Play(made):
            def __init__(self, layout, config, side, rng):
                self.random_state_before = copy.deepcopy(rng.bit_generator.state)
                super().__init__(layout, config, side, rng)
                self.layout, self.is_random = layout, False
                spy.plays.append(self)

            def at_random(self, steps):
                spy.calls.append(("at_random", steps, self))
                self.is_random = True
                super().at_random(steps)
                self.is_random = False

            def step(self, actions):
                if not self.is_random:
                    assert actions is spy.last_actions
                    spy.calls.append(("step", None, self))
                super().step(actions)

        class Agent(agent):
            def __init__(self, config, device):
                super().__init__(config, device)
                self.device = device
                spy.agents.append(self)

            def learn(self, batch):
                assert batch is spy.plays[-1].film.last_batch
                spy.calls.append(("learn", None, self))
                return super().learn(batch)

        def spied_greedy(net, tokens, epsilon, rng):
            assert tokens is spy.plays[-1].rooms.tokens
            spy.calls.append(("greedy", epsilon, net))
            spy.last_actions = greedy(net, tokens, epsilon, rng)
            return spy.last_actions

        for name, value in (
            ("Film", Film),
            ("Play", Play),
            ("Agent", Agent),
            ("greedy", spied_greedy),
        ):
            monkeypatch.setattr(ch, name, value)

    def names(self):
        return [name for name, *_ in self.calls]


def test_a_training_steps_then_learns_once(monkeypatch):
    spy = Spied(monkeypatch)
    config = dataclasses.replace(TINY, epsilon=0.37, near_goal=0.3, n_steps=4, discount=0.9)
    made = list(ch.train_rooms(config, 1))
    assert [progress.step for progress in made] == [25, 50, 60] and made[0].total == 60
    assert spy.names() == ["at_random"] + ["greedy", "step", "places", "batch", "learn"] * 60
    assert spy.calls[0][1] == 5_000 and spy.plays[0].film.steps == 5_000 // 40 + 60
    (agent,), (play,) = spy.agents, spy.plays
    for name, what, who in spy.calls[1:]:
        if name == "greedy":
            assert what == 0.37 and who is agent.net  # not the target network
        elif name == "places":
            assert what == (16, 0.3, 4) and who is play.film
        elif name == "batch":
            assert what == (4, 0.9)
    assert agent.config is config and agent.device == "cpu" and play.layout is ch.doorkey
    assert play.rooms.side == 5 and len(play.rooms.tokens) == 40
    assert made[0].unit == "update"


def test_a_network_goes_through_all_stages(monkeypatch):
    spy = Spied(monkeypatch)
    config = dataclasses.replace(TINY, stages=((5, 30), (6, 10), (8, 27)))
    made = list(ch.train_rooms(config, 2, layout=lambda *args: ch.doorkey(*args)))
    assert [p.step for p in made] == [25, 30, 40, 65, 67] and {p.total for p in made} == {67}
    assert [play.rooms.side for play in spy.plays] == [5, 6, 8] and len(spy.agents) == 1
    assert all(play.layout is not ch.doorkey for play in spy.plays)
    learned = {play: 0 for play in spy.plays}
    for name, _, who in spy.calls:
        play = who if name in ("step", "at_random") else play  # noqa: F821
        learned[play] += name == "learn"
    assert [learned[play] for play in spy.plays] == [30, 10, 27]
    assert spy.names().count("at_random") == 3
    starts = [
        spy.names()[i + 1 :].index("learn")
        for i, name in enumerate(spy.names())
        if name == "at_random"
    ]
    assert starts == [4, 4, 4]  # each stage plays at random before its first update


def test_a_training_is_given_its_device(monkeypatch):
    class Stop(Exception):
        pass

    def agent(config, device):
        raise Stop(device)

    assert ch.train_rooms and ch.Play  # defined before
    monkeypatch.setattr(ch, "Agent", agent)
    with pytest.raises(Stop, match="cuda:7"):
        next(ch.train_rooms(TINY, 1, device="cuda:7"))


def test_the_seed_decides_a_run_and_a_state_stays_what_it_was():
    config = dataclasses.replace(TINY, stages=((5, 50),))
    first = next(run := ch.train_rooms(config, 3))
    state = first.state()
    kept = copy.deepcopy(state)
    assert set(state) == {"step", "agent", "random", "seconds"} and state["step"] == 25
    end = last(run).state()
    assert same(state, kept)  # it does not go on with the run
    again = last(ch.train_rooms(config, 3)).state()
    assert same(end["agent"], again["agent"]) and same(end["random"], again["random"])
    other = last(ch.train_rooms(config, 4)).state()
    assert not same(end["agent"][0], other["agent"][0])
    assert not same(state["agent"][0], end["agent"][0])
    net, target_net = state["agent"][:2]
    assert net.keys() == target_net.keys() and not same(net, target_net)
    found = ch.net_from(state, config).state_dict()
    assert same(dict(found), dict(net))  # what plays is the network that learned, not its target


def test_a_run_that_continues_takes_up_everything(monkeypatch, tmp_path):
    config = dataclasses.replace(TINY, stages=((5, 30), (6, 45)))
    middle = list(itertools.islice(ch.train_rooms(config, 5), 3))[-1]
    state = middle.state()
    assert state["step"] == 55
    save_checkpoint(tmp_path / "run.safetensors", state | {"seconds": 1000.0}, config=config)
    stored = load_checkpoint(tmp_path / "run.safetensors")["state"]
    spy = Spied(monkeypatch)
    runs = [ch.train_rooms(config, 5, stored) for _ in range(2)]
    ends = [last(run) for run in runs]
    assert [end.step for end in ends] == [75, 75] and ends[0].total == 75
    assert same(ends[0].state()["agent"], ends[1].state()["agent"])
    assert spy.plays[0].rooms.side == 6 and len(spy.plays) == 2
    assert spy.names().count("learn") == 2 * 20
    assert 1000 < ends[0].metrics["seconds"] < 1100
    assert spy.plays[0].random_state_before == state["random"]["numpy"]

    kept = []

    class Stop(Exception):
        pass

    def stop(play, steps):
        kept.append(
            (
                copy.deepcopy([part.state_dict() for part in spy.agents[-1].parts()]),
                torch.get_rng_state(),
            )
        )
        raise Stop

    monkeypatch.setattr(ch.Play, "at_random", stop)
    with pytest.raises(Stop):
        next(ch.train_rooms(config, 5, stored))
    parts, torch_state = kept[0]
    assert same(dict(parts[0]), dict(state["agent"][0])) and same(
        dict(parts[1]), dict(state["agent"][1])
    )
    moments, wanted = parts[2], state["agent"][2]
    assert moments["param_groups"][0]["lr"] == wanted["param_groups"][0]["lr"]
    assert len(moments["state"]) == len(list(spy.agents[-1].net.parameters()))
    for key, moment in wanted["state"].items():
        assert float(moment["step"]) == 55
        for name, value in moment.items():
            torch.testing.assert_close(moments["state"][key][name], value)
    assert torch.equal(torch_state, state["random"]["torch"])
    done = list(ch.train_rooms(config, 5, stored | {"step": 75}))
    assert done == []


def test_a_report_is_of_the_last_hundred_episodes():
    play = ch.Play(ch.doorkey, ch.RoomsConfig(worlds=2), 5, np.random.default_rng(32))
    agent = ch.Agent(TINY, "cpu")
    found = ch.rooms_progress(TINY, 7, play, [1.0, 3.0], agent, 12.5)
    assert found.metrics == {
        "reached the goal": 0,
        "episode length": 250,
        "loss": 2,
        "seconds": 12.5,
    }
    play.ended = [(True, 10)] * 3 + [(False, 250)]
    found = ch.rooms_progress(TINY, 7, play, [1.0], agent, 0.0).metrics
    assert (found["reached the goal"], found["episode length"]) == (0.75, 70)


def test_every_use_of_a_seed_has_random_numbers_of_its_own(monkeypatch):
    names = ("COMPARING", "TRAINING", "JUDGING", "LOOKING", "WATCHING")
    uses = [getattr(ch, name) for name in names]
    assert len(set(uses)) == len(uses)
    drawn = [lot for seed in range(1, 11) for lot in spread((ch.JUDGING, seed), 50)]
    for seed in range(1, 11):
        drawn.append(spread((ch.TRAINING, seed), 2)[1])
        drawn += [spread((ch.TRAINING, seed, step), 1)[0] for step in (0, 25, 50)]
    assert len(set(drawn)) == len(drawn)
    asked = []
    assert ch.judge and ch.train_rooms  # defined before
    monkeypatch.setattr(ch, "spread", lambda seed, count: asked.append(seed) or spread(seed, count))
    ch.judge(expert(5), 5, 2, 9)
    assert asked == [(ch.JUDGING, 9)]
    next(ch.train_rooms(TINY, 9))
    assert {seed[:2] for seed in asked[1:]} == {(ch.TRAINING, 9)}


# The referee


def minigrid_rows(side, lots):
    """The tokens of MiniGrid's own DoorKey at the start, by an own reading."""
    rows = []
    for lot in lots:
        env = DoorKeyEnv(size=side)
        env.reset(seed=lot)
        env.things = {
            {"key": 1, "door": 2, "goal": 3}[t.type]: t
            for t in env.grid.grid
            if t and t.type != "wall"
        }
        rows.append(np.array(seen(env), np.uint8))
    return rows


@pytest.mark.parametrize("side", [5, 8])
def test_who_does_the_right_thing_is_judged_perfect(side):
    asked = []

    def act(tokens, rng):
        assert tokens.shape[1:] == (4, 5) and tokens.dtype == np.uint8
        asked.append(len(tokens))
        return expert(side)(tokens, rng)

    found = ch.judge(act, side, 60, 7)
    rows = minigrid_rows(side, spread((ch.JUDGING, 7), 60))
    wanted = [len(plan(row, side)) for row in rows]
    assert found.shape == (60, 2) and (found[:, 0] == 1).all()
    assert found[:, 1].tolist() == wanted  # every episode once, by its own length
    assert asked == [sum(length > step for length in wanted) for step in range(max(wanted))]
    assert len({row.tobytes() for row in rows}) > 20
    assert not np.array_equal(ch.judge(act, side, 60, 8)[:, 1], found[:, 1])
    assert np.array_equal(ch.judge(act, side, 60, 7), found)


def test_who_turns_for_ever_is_cut_off():
    found = ch.judge(turner, 5, 6, 7)
    assert (found == [0, 250]).all()
    assert ch.score_of(turner, 6, 50, 7) == (0.0, 360.0)
    assert ch.score_of(turner, 6, 50, 7, max_steps=17) == (0.0, 17.0)


@pytest.mark.parametrize("side", [5, 8])
def test_a_score_counts_every_episode_once(side):
    """Short episodes end early and stay what they were while the long ones go on."""
    starts = []

    def layout(*args):
        starts.append(ch.doorkey(*args))
        return starts[-1]

    copies = []

    def act(tokens, rng):
        if not copies:
            copies.append(tokens.copy())
        ways = expert(side)(tokens, rng)
        return np.where(
            tokens[:, 2, 4] == 1, 0, ways
        )  # where the door is in the first row: turns for ever

    reached, steps = ch.score_of(act, side, 80, 3, layout)
    assert len(starts) == 1
    lengths = [10 * side**2 if row[2, 4] == 1 else len(plan(row, side)) for row in copies[0]]
    turning = np.mean(copies[0][:, 2, 4] == 1)
    assert 0.1 < turning < 0.7
    assert reached == pytest.approx(1 - turning) and steps == pytest.approx(np.mean(lengths))
    assert ch.score_of(expert(side), side, 40, 3)[0] == 1.0


def test_judge_and_score_agree():
    def halting(tokens, rng):
        ways = expert(5)(tokens, rng)
        ways = np.where(rng.random(len(ways)) < 0.3, rng.integers(5, size=len(ways)), ways)
        return np.where(tokens[:, 2, 4] == 2, 0, ways)  # the lower door is never opened

    judged = ch.judge(halting, 5, 120, 11)
    reached, steps = ch.score_of(halting, 5, 1500, 11)
    p = 0.5 * (judged[:, 0].mean() + reached)
    assert abs(judged[:, 0].mean() - reached) < 3.5 * (p * (1 - p) * (1 / 120 + 1 / 1500)) ** 0.5
    assert abs(judged[:, 1].mean() - steps) < 3.5 * judged[:, 1].std() / 120**0.5
    won = judged[judged[:, 0] == 1, 1]
    assert (judged[judged[:, 0] == 0, 1] == 250).all() and won.max() < 150


def test_the_floors_draw_with_their_weights():
    for weights in ch.FLOORS.values():
        assert len(weights) == 5
        drawn = ch.floor_player(weights)(
            np.zeros((20_000, 4, 5), np.uint8), np.random.default_rng(33)
        )
        wanted = np.array(weights) / np.sum(weights) * 20_000
        assert stats.chisquare(np.bincount(drawn, minlength=5), wanted).pvalue > 1e-3
    scores = {name: ch.score_of(ch.floor_player(w), 5, 400, 1)[0] for name, w in ch.FLOORS.items()}
    assert min(scores.values()) > 0.02 and max(scores.values()) < 0.6
    assert ch.score_of(ch.floor_player((1, 1, 1, 1, 1)), 5, 400, 1)[0] == scores["all alike"]


def crossing(count, side, seed):
    """Worlds in which anything may lie before the agent, and any door be open, closed or locked."""
    rng = np.random.default_rng((38, seed))
    tokens = np.zeros((count, 4, 5), np.uint8)
    tokens[:, :, 0], tokens[:, 1:, 1] = range(4), (4, 4, 1)
    for row in tokens:
        row[0, 2], row[1, 2], row[2, 2] = rng.integers(4), rng.integers(2), rng.integers(3)
        cells = rng.permutation((side - 2) ** 2)[:4]
        row[:, 3], row[:, 4] = 1 + cells % (side - 2), 1 + cells // (side - 2)
        if row[1, 2]:
            row[1, 3:] = row[0, 3:]
    return tokens


def by_rule(row):
    """What a reflex does in one world [4, 5], as a number of the five actions; None: it wanders."""
    (_, _, heading, x, y), key, door, goal = row.tolist()
    front = [x + AHEAD[heading][0], y + AHEAD[heading][1]]
    if front == goal[3:]:
        return 2
    if front == door[3:] and door[2] == 0:
        return 2
    if front == door[3:] and key[2] == 1:
        return 4
    if front == key[3:] and key[2] == 0:
        return 3
    return None


@pytest.mark.parametrize("weights", [(1, 1, 2, 0, 0), (1, 2, 3, 4, 5)])
def test_a_reflex_follows_its_rule_and_wanders_else(weights):
    tokens = np.concatenate([crossing(1500, 4, 1), scene(100, side=5, seed=40)])
    found = ch.reflex(weights)(tokens, np.random.default_rng(41))
    lots = ch.floor_player(weights)(tokens, np.random.default_rng(41))
    wanted = [by_rule(row) for row in tokens]
    assert found.shape == (1600,)
    assert found.tolist() == [
        lot if rule is None else rule for lot, rule in zip(lots.tolist(), wanted, strict=True)
    ]
    counts = Counter(wanted)
    assert min(counts[2], counts[3], counts[4], counts[None]) > 50
    shut = [row for row in tokens if by_rule(row) is None and row[1, 2] == 0]
    in_front = [row for row in shut if (row[2, 3:] == row[0, 3:] + AHEAD[row[0, 2]]).all()]
    assert len(in_front) > 20  # before a shut door without the key, it wanders


def test_a_reflex_gets_far_and_no_further_than_possible():
    """It wins clearly more often than random play, on no way shorter than the shortest, and slowly."""
    best = max(ch.score_of(ch.floor_player(w), 5, 400, 1)[0] for w in ch.FLOORS.values())
    for weights in ch.REFLEXES.values():
        assert len(weights) == 5 and weights[3] == weights[4] == 0
        rooms, rng = (
            ch.Rooms(ch.doorkey, 150, 5, np.random.default_rng(42)),
            np.random.default_rng(43),
        )
        fewest = np.array([len(plan(row, 5)) for row in rooms.tokens])
        won = np.zeros(150, int)
        for step in range(1, 251):
            _, reached, _ = rooms.step(np.array(FIVE)[ch.reflex(weights)(rooms.tokens, rng)])
            won = np.where(reached & (won == 0), step, won)
        assert (won[won > 0] >= fewest[won > 0]).all()
        score, steps = ch.score_of(ch.reflex(weights), 5, 400, 1)
        assert score > best + 0.2 and abs((won > 0).mean() - score) < 0.15
        assert steps > 4 * fewest.mean()


def test_speeds_are_of_as_many_steps_as_they_say(monkeypatch):
    made, step = [], ch.Rooms.step
    assert ch.random_steps_per_second and ch.minigrid_steps_per_second  # defined before
    monkeypatch.setattr(ch.Rooms, "step", lambda rooms, a: made.append(len(a)) or step(rooms, a))
    ticks = iter([0.0, 2.0, 0.0, 4.0, 0.0, 0.5])
    monkeypatch.setattr(ch.time, "process_time", lambda: next(ticks))
    assert ch.random_steps_per_second(16, 5, 300) == 300 * 16 / 2 and made == [16] * 300
    theirs, walk, looks = [], DoorKeyEnv.step, []
    monkeypatch.setattr(DoorKeyEnv, "step", lambda env, a: theirs.append(a) or walk(env, a))
    monkeypatch.setattr(MiniGridEnv, "gen_obs", lambda env: looks.append(1) or {})
    assert ch.minigrid_steps_per_second(5, 300) == 300 / 4 and len(theirs) == 300
    assert len(looks) >= 301  # it sees after a reset, and after each step
    looks.clear()
    assert ch.minigrid_steps_per_second(5, 300, sees=False) == 300 / 0.5 and not looks
    assert len(theirs) == 600 and theirs[:300] == theirs[300:]  # the same walk


def test_who_sees_nothing_plays_the_same_game():
    blind, sees, rng = ch.Blind(size=6), DoorKeyEnv(size=6), np.random.default_rng(39)
    blind.reset(seed=3)
    sees.reset(seed=3)
    for action in rng.choice(6, 300, p=Wanderer.ODDS).tolist():
        found, wanted = blind.step(action), sees.step(action)
        assert found[0] == {} and found[1:4] == wanted[1:4]
        np.testing.assert_array_equal(blind.grid.encode(), sees.grid.encode())
        if found[2] or found[3]:
            break
    assert blind.agent_pos == sees.agent_pos and blind.step_count == sees.step_count


# What is measured


def test_the_fewest_steps_are_those_of_a_search_of_its_own():
    """Trying everything in our worlds against breadth first in MiniGrid's rules, from wherever random play has led."""
    for side, count in ((5, 60), (6, 30)):
        rng = np.random.default_rng((34, side))
        rooms, wanderer = (
            ch.Rooms(ch.doorkey, count, side, rng, 10_000),
            Wanderer(count, side, rng, 0.05),
        )
        for _ in range(15):
            _, over, _ = rooms.step(wanderer.actions(rooms.tokens))
            rooms.reset(over)
            wanderer.reset(over)
        before = [part.copy() for part in (rooms.tokens, rooms.cells, rooms.carried, rooms.clock)]
        found = ch.shortest(rooms)
        assert found.tolist() == [len(plan(row, side)) for row in rooms.tokens]
        for part, kept in zip(
            (rooms.tokens, rooms.cells, rooms.carried, rooms.clock), before, strict=True
        ):
            np.testing.assert_array_equal(part, kept)  # looking ahead changes nothing
        assert (rooms.tokens[:, 1, 2] == 1).any() and len(set(found.tolist())) > 8


def test_copies_of_worlds_go_their_own_ways():
    rooms = ch.Rooms(ch.doorkey, 5, 6, np.random.default_rng(35))
    rooms.step(np.full(5, FORWARD))
    kept = rooms.tokens.copy()
    three = ch.branch(rooms, 3)
    np.testing.assert_array_equal(three.tokens, kept.repeat(3, 0))
    assert (three.clock == 0).all() and (rooms.clock == 1).all()
    three.step(np.tile([LEFT, RIGHT, FORWARD], 5))
    np.testing.assert_array_equal(rooms.tokens, kept)
    two = ch.select(rooms, np.array([4, 1]))
    np.testing.assert_array_equal(two.tokens, kept[[4, 1]])
    two.step(np.array([LEFT, LEFT]))
    np.testing.assert_array_equal(rooms.tokens, kept)


def test_states_to_be_looked_at_are_worlds_that_can_be_played():
    states = ch.some_states(5, 400, 3)
    assert states.tokens.shape == (400, 4, 5) and len(states.cells) == len(states.carried) == 400
    held, doors = Counter(states.tokens[:, 1, 2].tolist()), Counter(states.tokens[:, 2, 2].tolist())
    assert min(held[0], held[1]) > 20 and doors[2] > 100 and doors[0] > 3
    assert ((states.carried > 0) == (states.tokens[:, 1, 2] == 1)).all()
    assert ch.shortest(states).tolist() == [len(plan(row, 5)) for row in states.tokens]
    assert not np.array_equal(states.tokens, ch.some_states(5, 400, 4).tokens)
    np.testing.assert_array_equal(states.tokens, ch.some_states(5, 400, 3).tokens)


def test_the_overestimate_is_the_largest_value_less_the_best_return(monkeypatch):
    states, values = ch.some_states(5, 30, 3), torch.randn(30, 5)
    best = 0.9 ** (ch.shortest(states) - 1.0)
    found = ch.overestimate(lambda tokens: values, states, best)
    assert found == pytest.approx(np.mean([max(row) for row in values.tolist()] - best), abs=1e-6)
    # an agent that knows the truth has none, whatever it is asked
    config = ch.RoomsConfig(stages=((5, 50),), discount=0.8)

    class Truth(nn.Module):
        def forward(self, tokens):
            known = [0.8 ** (len(plan(row.numpy(), 5)) - 1) for row in tokens]
            return torch.tensor(known)[:, None] - torch.arange(5)

    nets, asked = [Truth(), Truth()], []
    progress = ch.Progress(25, 50, {}, dict)
    assert ch.measure_estimates
    monkeypatch.setattr(ch, "train_rooms", lambda *a: iter([progress, progress]))
    turn = iter(nets)
    monkeypatch.setattr(ch, "net_from", lambda *a: next(turn))
    monkeypatch.setattr(ch, "returns_of", lambda *a: asked.append(a) or np.full(300, 0.25))
    measured = ch.measure_estimates(config, 1)
    known = [0.8 ** (len(plan(row, 5)) - 1) for row in ch.some_states(5, 300, 1).tokens]
    wanted = {"largest": 0, "last": 0, "over_own": np.mean(known) - 0.25}
    assert measured.metrics == pytest.approx(wanted, abs=1e-6)
    assert len(measured.curves["overestimate"]) == 2
    ((net, states, discount, rng),) = asked  # once, at the end, of the agent as it then is
    assert net is nets[1] and discount == 0.8 and isinstance(rng, np.random.Generator)
    np.testing.assert_array_equal(states.tokens, ch.some_states(5, 300, 1).tokens)


class Wayward(nn.Module):
    """Knows the way; turns for ever where the door is in the first row; goes for walks when it has arrived."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def action(self, row):
        if row[2, 4] == 1:
            return 0
        if row[0, 3:].tolist() != row[3, 3:].tolist():
            return FIVE.index(plan(row, 5)[0])
        allowed = [
            action for action, _ in moves((*row[0, 3:].tolist(), int(row[0, 2]), True, 0), row, 5)
        ]
        return 2 if FORWARD in allowed else 0

    def forward(self, tokens):
        return F.one_hot(torch.tensor([self.action(row) for row in tokens.numpy()]), 5).float()


@pytest.mark.parametrize("epsilon", [0.0, None])
def test_what_an_agents_own_play_earns_is_that_of_a_loop(epsilon, monkeypatch):
    """World by world, by MiniGrid's rules written out; the clock of a state starts anew."""
    states, net = ch.some_states(5, 40, 6), Wayward()
    assert (states.carried > 0).any() and ch.returns_of
    if epsilon is not None:
        monkeypatch.setattr(ch, "PLAY_EPSILON", epsilon)
    before = [part.copy() for part in (states.tokens, states.cells, states.carried, states.clock)]
    found = ch.returns_of(net, states, 0.9, np.random.default_rng(49))
    after = states.tokens, states.cells, states.carried, states.clock
    for part, kept in zip(after, before, strict=True):
        np.testing.assert_array_equal(part, kept)
    rng, rows, wanted = np.random.default_rng(49), states.tokens.copy(), np.zeros(40)
    for step in range(100):
        lucky = rng.random(40) < (0.05 if epsilon is None else epsilon)
        lots = rng.integers(5, size=40)
        for i, row in enumerate(rows):
            if wanted[i]:
                continue
            action = FIVE[lots[i] if lucky[i] else net.action(row)]
            state = (*row[0, 3:].tolist(), int(row[0, 2]), bool(row[1, 2]), int(row[2, 2]))
            x, y, heading, held, door = dict(moves(state, row, 5)).get(action, state)
            row[0, 2:], row[1, 2], row[2, 2] = (heading, x, y), held, door
            if held:
                row[1, 3:] = x, y
            if (x, y) == tuple(row[3, 3:].tolist()):
                wanted[i] = 0.9**step
    np.testing.assert_allclose(found, wanted)
    assert (wanted == 0).sum() > 5 and len({*wanted.tolist()}) > 5
    if epsilon == 0:
        best = 0.9 ** (ch.shortest(states) - 1.0)
        np.testing.assert_allclose(found[found > 0], best[found > 0])


def test_a_goal_one_step_ahead_is_worth_one_and_one_too_far_away_nothing(monkeypatch):
    near = ch.Rooms(ch.doorkey, 12, 5, np.random.default_rng(54))
    for _ in range(
        25
    ):  # who has one step to go waits: with the key in hand there is nothing to pick up
        ways = [plan(row, 5) for row in near.tokens]
        near.step(np.array([way[0] if len(way) > 1 else PICK_UP for way in ways]))
    assert ch.shortest(near).tolist() == [1] * 12 and (near.clock == 25).all()
    monkeypatch.setattr(ch, "PLAY_EPSILON", 0.0)

    class Later(nn.Module):
        """Turns round and round before it goes forward."""

        def __init__(self, turns):
            super().__init__()
            self.turns, self.asked, self.unused = turns, 0, nn.Parameter(torch.zeros(1))

        def forward(self, tokens):
            self.asked += 1
            action = 2 if self.asked > self.turns else 0
            return F.one_hot(torch.full((len(tokens),), action), 5).float()

    for turns, worth in ((0, 1.0), (8, 0.97**8), (96, 0.97**96), (100, 0.0)):
        net = Later(turns)
        found = ch.returns_of(net, near, 0.97, np.random.default_rng(0))
        np.testing.assert_allclose(found, worth)
        assert net.asked == 100


# Two states, ten bets


def players_one_by_one(double, episodes, runs, rng):
    """Sutton and Barto (2018), example 6.7, player by player; the random numbers lie ready. Value and share by episode."""
    tables = 2 if double else 1
    left = [[0.0] * tables for _ in range(runs)]
    bets = [[[0.0] * 10 for _ in range(tables)] for _ in range(runs)]
    found = []
    for _ in range(episodes):
        learners = rng.integers(2, size=runs) if double else [0] * runs
        ties = 1e-9 * rng.standard_normal((runs, 11))
        explores, coin = rng.random(runs) < 0.1, rng.random(runs) < 0.5
        explores_bet, any_bet = rng.random(runs) < 0.1, rng.integers(10, size=runs)
        paid, went = rng.normal(-0.1, 1.0, runs), 0
        for i in range(runs):
            seems = sum(left[i]) / tables
            if not (coin[i] if explores[i] else seems > ties[i, 0]):
                continue  # right: the game is over, and paid nothing
            went += 1
            worth = [sum(t[a] for t in bets[i]) / tables + ties[i, 1 + a] for a in range(10)]
            bet = any_bet[i] if explores_bet[i] else worth.index(max(worth))
            mine = int(learners[i])
            other = 1 - mine if double else mine
            choice = bets[i][mine].index(max(bets[i][mine]))  # the one chooses ...
            told = bets[i][other][choice]  # ... the other tells
            left[i][mine] += 0.1 * (told - left[i][mine])
            bets[i][mine][bet] += 0.1 * (paid[i] - bets[i][mine][bet])
        found.append((np.mean(left), went / runs))
    return np.array(found).T


@pytest.mark.parametrize("double", [False, True])
def test_many_players_are_many_single_ones(double):
    found = ch.value_of_left(double, 120, 25, np.random.default_rng(50))
    wanted = players_one_by_one(double, 120, 25, np.random.default_rng(50))
    assert len(found) == 2 and found[0].shape == found[1].shape == (120,)
    np.testing.assert_allclose(found[0], wanted[0], atol=1e-9)
    np.testing.assert_allclose(found[1], wanted[1], atol=1e-9)
    assert np.abs(wanted[0]).max() > 0.01 and 0.1 < wanted[1].mean() < 0.9


def test_the_bad_table_looks_good_to_who_asks_itself_only():
    """The book's figure 6.5: Q-learning goes left up to nine times in ten, and both end near the five per cent of ε."""
    value, share = ch.value_of_left(False, 300, 1500, np.random.default_rng(51))
    fair, seldom = ch.value_of_left(True, 300, 1500, np.random.default_rng(52))
    error = 4 * (0.25 / 1500) ** 0.5
    assert abs(share[0] - 0.5) < error and abs(seldom[0] - 0.5) < error  # nobody knows anything
    assert value.max() > 0.05 and share.max() > 0.8 and share[-1] < 0.3
    assert fair.max() < 0.02 and seldom[60:].max() < 0.4 and seldom[-1] < 0.15
    assert share[10:150].mean() > seldom[10:150].mean() + 0.2


def looks_by_hand(net, tokens, forbidden=()):
    """Q-values [B, 5] and weights [B, H, N, N] of a network, with looks (who, whom) forbidden, entry by entry."""
    heads, norm = net.attention, lambda x, n: F.layer_norm(x, (64,), n.weight, n.bias)
    with torch.no_grad():
        nodes = net.embed(ch.as_features(torch.from_numpy(tokens), net.frame)).clamp(min=0)
        quiet, count = norm(nodes, net.norms[0]), tokens.shape[1]
        q, k, v = (quiet @ heads.project.weight.T + heads.project.bias).split(64, -1)
        mixed, weights = torch.zeros_like(quiet), torch.zeros(len(tokens), 4, count, count)
        for h, i in itertools.product(range(4), range(count)):
            part = slice(16 * h, 16 * h + 16)
            fit = {}
            for j in range(count):
                if heads.way == "dot":
                    fit[j] = ((q[:, i, part] * k[:, j, part]).sum(-1) / 4).exp()
                elif heads.way == "additive":
                    fit[j] = (torch.tanh(q[:, i, part] + k[:, j, part]) @ heads.judge[h]).exp()
                else:
                    fit[j] = torch.full((len(tokens),), float(heads.way == "even" or i == j))
                if (i, j) in forbidden and i != j:
                    fit[j] = torch.zeros(len(tokens))
            for j in range(count):
                weights[:, h, i, j] = fit[j] / sum(fit.values())
                mixed[:, i, part] += weights[:, h, i, j, None] * v[:, j, part]
        nodes = nodes + mixed @ heads.out.weight.T + heads.out.bias
        nodes = nodes + net.think(norm(nodes, net.norms[1]))
        return net.answer(nodes.max(1).values), weights


def lively(way, frame="agent"):
    """A relational network whose looks are far from even."""
    torch.manual_seed(44)
    net = ch.RelationalNet(way=way, frame=frame)
    nn.init.normal_(net.attention.project.weight, std=0.3)
    return net


@pytest.mark.parametrize("way", ["dot", "additive", "even", "own"])
def test_a_network_whose_looks_are_left_alone_is_the_same(way):
    net, tokens = lively(way), torch.from_numpy(scene(40, side=5, seed=45))
    before, asked = copy.deepcopy(net.state_dict()), []
    free = [part.detach().clone() for part in net.look(tokens)]
    same_again = ch.edited(net, lambda weights: asked.append(weights.shape) or weights)
    assert all(torch.equal(*pair) for pair in zip(same_again.look(tokens), free, strict=True))
    assert torch.equal(same_again(tokens), free[0]) and asked == [(40, 4, 4, 4)] * 2
    assert {*map(id, same_again.parameters())} == {*map(id, net.parameters())}  # not copies
    other = ch.edited(net, lambda weights: weights.flip(-1))
    assert (other(tokens) - free[0]).abs().max() > 1e-3 or way == "even"
    assert same(dict(net.state_dict()), dict(before)) and isinstance(net.attention, ch.Heads)
    assert all(torch.equal(*pair) for pair in zip(net.look(tokens), free, strict=True))


def test_looks_can_be_replaced_by_those_of_another_network():
    """With its weights made even, or turned to itself, an attending network is the control of the same parameters."""
    net, tokens = lively("dot"), torch.from_numpy(scene(40, side=5, seed=46))
    for way, weights in (("even", torch.full((4, 4), 0.25)), ("own", torch.eye(4))):
        control = ch.RelationalNet(way=way)
        control.load_state_dict(net.state_dict())
        found = ch.edited(net, lambda old, weights=weights: weights.expand_as(old))
        for one, other in zip(found.look(tokens), control.look(tokens), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    swapped = ch.edited(net, lambda old: old[:, [1, 0, 3, 2]])  # each head with another's looks
    torch.testing.assert_close(swapped.look(tokens)[1], net.look(tokens)[1][:, [1, 0, 3, 2]])
    assert (swapped(tokens) - net(tokens)).abs().max() > 1e-3


@pytest.mark.parametrize("shape", [(5, 5), (3, 1, 5, 5), (3, 2, 5, 5), (1, 5), (3, 1, 1, 5)])
def test_what_is_left_of_forbidden_looks_adds_up_to_one(shape):
    rng = np.random.default_rng(47)
    weights = torch.from_numpy(rng.dirichlet(np.ones(5), (3, 2, 5)))
    hidden = torch.from_numpy(rng.random(shape) < 0.5)
    kept = weights.clone(), hidden.clone()
    found, everywhere = ch.forbid(weights, hidden), hidden.expand(3, 2, 5, 5)
    assert torch.equal(weights, kept[0]) and torch.equal(hidden, kept[1])
    for b, h, i in itertools.product(range(3), range(2), range(5)):
        left = [
            0.0 if everywhere[b, h, i, j] and i != j else weights[b, h, i, j].item()
            for j in range(5)
        ]
        np.testing.assert_allclose(found[b, h, i].tolist(), np.array(left) / sum(left), atol=1e-12)
        assert left[i] > 0  # a token may always look at itself
    alone = ch.forbid(weights, torch.ones(5, 5, dtype=torch.bool))
    torch.testing.assert_close(alone, torch.eye(5, dtype=alone.dtype).expand(3, 2, 5, 5))


@pytest.mark.parametrize("way", ["dot", "additive", "even", "own"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_who_is_hidden_is_looked_at_by_nobody_or_not_by_the_agent(way, number):
    net, tokens = lively(way), scene(25, side=5, seed=48)
    before, seen_by = copy.deepcopy(net.state_dict()), torch.from_numpy(tokens)
    free = looks_by_hand(net, tokens)
    for one, other in zip(net.look(seen_by), free, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    for by_agent in (False, True):
        hidden = ch.hiding(net, number, by_agent)
        who = {(i, number) for i in ([0] if by_agent else range(4))}
        found, weights = hidden.look(seen_by)
        values, by_hand = looks_by_hand(net, tokens, who)
        torch.testing.assert_close(weights, by_hand, rtol=0, atol=1e-4)
        torch.testing.assert_close(found, values, rtol=0, atol=1e-4)
        torch.testing.assert_close(hidden(seen_by), found)
        assert (found - free[0]).abs().max() > 1e-3 or way == "own"
        untouched = [i for i in range(4) if (i, number) not in who or i == number]
        torch.testing.assert_close(weights[:, :, untouched], free[1][:, :, untouched])
    torch.testing.assert_close(
        ch.hiding(net, number)(seen_by), ch.hiding(net, number, False)(seen_by)
    )
    assert same(dict(net.state_dict()), dict(before))
    torch.testing.assert_close(net(seen_by), free[0], rtol=0, atol=1e-4)


def test_phases_follow_key_and_door():
    tokens = scene(300, side=5, seed=36)
    for row, phase in zip(tokens, ch.phase_of(tokens), strict=True):
        assert phase == (2 if row[2, 2] == 0 else 1 if row[1, 2] == 1 else 0)
    assert len(ch.PHASES) == 3 and {*ch.phase_of(tokens)} == {0, 1, 2}


def test_what_an_agent_needs_agrees_with_a_loop():
    net, tokens = lively("dot"), scene(90, side=5, seed=37)
    nn.init.normal_(net.answer[2].weight, std=1)  # so that the best action is not always the same
    found, seen_by, wanted = ch.what_it_needs(net, tokens), torch.from_numpy(tokens), {}
    values, weights = looks_by_hand(net, tokens)
    for number, name in ((1, "key"), (2, "door"), (3, "goal")):
        rest = [i for i in range(4) if i != number]
        without = {
            "cover": q_of(net, tokens[:, rest]),
            "hide": looks_by_hand(net, tokens, {(i, number) for i in range(4)})[0],
            "hide_by_agent": looks_by_hand(net, tokens, {(0, number)})[0],
        }
        for phase in range(3):
            here = [i for i in range(90) if ch.phase_of(tokens)[i] == phase]
            wanted[f"weight_{name}_{phase}"] = np.mean(
                [weights[i, h, 0, number] for i in here for h in range(4)]
            )
            for way, others in without.items():
                flips = [int(others[i].argmax() != values[i].argmax()) for i in here]
                wanted[f"{way}_{name}_{phase}"] = np.mean(flips)
    assert found == pytest.approx(wanted, abs=1e-5)
    for test in ("cover", "hide", "hide_by_agent"):
        assert any(found[f"{test}_{thing}_0"] > 0 for thing in ("key", "door", "goal"))
    assert any(
        found[f"hide_{k}"] != found[f"hide_by_agent_{k}"] for k in ("key_0", "door_1", "goal_2")
    )
    torch.testing.assert_close(net(seen_by), values, rtol=0, atol=1e-4)


SMALL = {"stages": ((5, 30),), "worlds": 20, "random_steps": 5_000, "batch_size": 16}


def small_scores(monkeypatch):
    """Scores of a few short episodes, and what they were asked for."""
    asked, score_of = [], ch.score_of
    assert ch.judge and ch.measure_rooms and ch.measure_epsilon and ch.measure_floors

    def few(act, side, episodes, seed, max_steps=20):
        asked.append((side, episodes, seed, max_steps))
        return score_of(act, side, 5, seed, max_steps=min(max_steps, 20))

    monkeypatch.setattr(ch, "score_of", few)
    monkeypatch.setattr(ch, "judge", lambda act, side, n, seed: asked.append(("judge", side, n, seed))
                        or np.array([[1.0, 10.0], [0.0, 250.0]]))  # fmt: skip
    return asked


@pytest.mark.parametrize("name", ["dot", "flat", "picture"])
def test_rooms_are_measured_small(name, monkeypatch):
    asked = small_scores(monkeypatch)
    found = ch.measure_rooms(ch.RoomsConfig(net=name, **SMALL), 2)
    sides = (5,) if name == "picture" else (5, 6, 8, 11, 16)  # a picture has a size
    assert set(found.metrics) == {
        "seconds",
        *(f"{what}_{side}" for what in ("score", "steps") for side in sides),
    }
    assert [ask[0] for ask in asked] == list(sides) and {ask[2] for ask in asked} == {2}
    assert {len(curve) for curve in found.curves.values()} == {2}
    assert found.metrics["seconds"] == found.curves["seconds"][-1] > 0 and found.state is None


@pytest.mark.parametrize("name", ["dot", "own", "flat", "picture"])
def test_the_chapters_own_agents_are_judged_by_minigrid(name, monkeypatch):
    """Those that are looked into keep their weights."""
    asked, config = small_scores(monkeypatch), ch.RoomsConfig(net=name)
    state = next(ch.train_rooms(ch.RoomsConfig(net=name, **SMALL), 1)).state()
    metrics = {name: 0.5 for name in ("reached the goal", "episode length", "loss", "seconds")}
    monkeypatch.setattr(
        ch, "train_rooms", lambda *a: iter([ch.Progress(1, 1, metrics, lambda: state)])
    )
    found = ch.measure_rooms(config, 4)
    assert asked[-1] == ("judge", 5, 1000, 4)
    assert (found.metrics["judged"], found.metrics["judged_steps"]) == (0.5, 130)
    if name in ("flat", "picture"):
        assert found.state is None
        return
    ch.NETS[name]().load_state_dict(found.state["net"])
    assert same(dict(found.state["net"]), dict(ch.net_from(state, config).state_dict()))


def test_exploration_is_measured_on_the_way(monkeypatch):
    asked = small_scores(monkeypatch)
    state = next(ch.train_rooms(ch.RoomsConfig(**SMALL), 1)).state()
    made = [ch.Progress(25 * i, 1000, {}, lambda: state) for i in range(1, 41)]
    monkeypatch.setattr(ch, "train_rooms", lambda *a: iter(made))
    found = ch.measure_epsilon(ch.RoomsConfig(stages=((5, 1000),)), 3)
    assert set(found.metrics) == {"score_250", "score_500", "score_1000"}
    assert len(found.curves["by_noise"]) == len(ch.NOISES)
    assert [ask[3] for ask in asked] == [20] * 3 + [50] * len(ch.NOISES)


def test_floors_are_the_best_of_random_play_and_of_reflexes(monkeypatch):
    asked, table = [], {}
    rng = np.random.default_rng(53)

    def score_of(act, side, episodes, seed):
        asked.append((act, side, episodes, seed))
        return table.setdefault((act, side), (float(rng.random()), float(rng.uniform(9, 99))))

    assert ch.measure_floors
    monkeypatch.setattr(ch, "floor_player", lambda odds: ("random", odds))
    monkeypatch.setattr(ch, "reflex", lambda odds: ("reflex", odds))
    monkeypatch.setattr(ch, "score_of", score_of)
    monkeypatch.setattr(ch, "shortest", lambda rooms: np.full(len(rooms.tokens), 7))
    found, wanted = ch.measure_floors(None, 3).metrics, {"fewest": 7}
    for side in (5, 6, 8, 11, 16):
        random = [table[("random", odds), side][0] for odds in ch.FLOORS.values()]
        score, steps = max(table[("reflex", odds), side] for odds in ch.REFLEXES.values())
        wanted |= {f"even_{side}": table[("random", (1, 1, 1, 1, 1)), side][0], f"random_{side}": max(random),
                   f"score_{side}": score, f"steps_{side}": steps}  # fmt: skip
    assert found == pytest.approx(wanted)
    assert len(asked) == 5 * (len(ch.FLOORS) + len(ch.REFLEXES))
    assert {ask[2:] for ask in asked} == {(500, 3)}


def test_speeds_are_measured(monkeypatch):
    assert ch.measure_speed
    monkeypatch.setattr(ch, "random_steps_per_second", lambda count, side, steps: count * side)
    monkeypatch.setattr(
        ch, "minigrid_steps_per_second", lambda side, steps, sees=True: side + 1000 * (not sees)
    )
    found = ch.measure_speed(None, 1).metrics
    wanted = {f"worlds_{n}": 8 * n for n in (1, 64, 256, 1024)}
    assert found == wanted | {"minigrid": 8, "minigrid_blind": 1008}


@pytest.mark.parametrize("name", ["dot", "own"])
def test_stored_agents_are_looked_into(name, monkeypatch, tmp_path):
    torch.manual_seed(7)
    net, asked, players = ch.RelationalNet(way=name), [], []
    monkeypatch.setattr(ch.results, "RESULTS", tmp_path)
    path = ch.results.run_path("A6", name, 4).with_suffix(".safetensors")
    save_checkpoint(path, {"net": net.state_dict()})
    assert same(dict(ch.stored_net(name, 4).state_dict()), dict(net.state_dict()))
    score_of, player = ch.score_of, ch.player
    assert ch.measure_needs
    monkeypatch.setattr(ch, "player", lambda net: players.append(net) or player(net))
    monkeypatch.setattr(ch, "score_of", lambda act, *ask, **more: asked.append((*ask, more))
                        or (score_of(act, *ask, **more)[0] + len(asked), 9.0))  # fmt: skip
    found = ch.measure_needs(ch.NeedsConfig(name, 10), 4).metrics
    tokens = torch.from_numpy(scene(20, side=5))
    played = [f"played_{what}" for what in ("nothing", "key", "door", "goal")]
    assert set(found) == {*ch.what_it_needs(net, tokens.numpy()), *played}
    assert asked == [(5, 20, 4, {"max_steps": 50})] * 4
    assert [int(found[what]) for what in played] == [1, 2, 3, 4]
    assert [found[what] >= 1 for what in played] == [True] * 4
    for number, playing in enumerate(players):  # nothing, key, door, goal
        wanted = ch.hiding(net, number) if number else net
        torch.testing.assert_close(playing(tokens), wanted(tokens))
    if name == "own":  # it listens to itself only
        assert all(
            found[f"{test}_{thing}_0"] == 0
            for test in ("weight", "hide", "hide_by_agent")
            for thing in ("key", "door", "goal")
        )


def every_start():
    stock = ch.Rooms(ch.doorkey, 2_000, 5, np.random.default_rng(3))
    _, once = np.unique(stock.tokens.reshape(2_000, -1), axis=0, return_index=True)
    assert ch.select and ch.branch and ch.shortest
    return ch.select(stock, once)


def test_a_perfect_player_needs_the_fewest_steps_and_all_by_lot_is_random_play():
    starts = every_start()
    follows, fewest = ch.all_states(starts), ch.shortest(starts)
    assert follows.shape == (160, 5) and len(starts.tokens) == 48
    for limit in range(15):
        np.testing.assert_array_equal(ch.perfect(follows, 0.0, limit)[:48], fewest <= limit)
    chance = ch.perfect(follows, 1.0, 50)[:48].mean()
    played = ch.score_of(ch.floor_player((1, 1, 1, 1, 1)), 5, 4_000, 1, max_steps=50)[0]
    assert chance == pytest.approx(played, abs=4 * np.sqrt(chance * (1 - chance) / 4_000))
    by_noise = [ch.perfect(follows, epsilon, 50)[:48].mean() for epsilon in (0.2, 0.6, 0.8)]
    assert 1 > by_noise[0] > by_noise[1] > by_noise[2] > chance
    won, at = np.zeros(4_000, bool), np.random.default_rng(9).integers(48, size=4_000)
    rng, left = np.random.default_rng(10), [ch.perfect(follows, 0.6, k) for k in range(50)]
    for k in range(
        49, -1, -1
    ):  # the player that looks one step ahead, with the true chances of what is left
        best = np.append(left[k], 1.0)[follows[at]].argmax(1)
        action = np.where(rng.random(4_000) < 0.6, rng.integers(5, size=4_000), best)
        after = follows[at, action]
        won |= after < 0
        at = np.where(after < 0, at, after)
    assert won.mean() == pytest.approx(by_noise[1], abs=4 * np.sqrt(0.25 / 4_000))


@pytest.mark.parametrize("stages", [(), ((5, 0),), ((5,),), (5, 100), ((0, 100),), ((5, 10, 3),)])
def test_stages_are_pairs(stages):
    with pytest.raises(ValueError, match="takes pairs"):
        ch.RoomsConfig(stages=stages)


def test_stored_agents_play_again_with_more_chance(monkeypatch, tmp_path):
    torch.manual_seed(8)
    net, asked = ch.RelationalNet(way="even"), []
    monkeypatch.setattr(ch.results, "RESULTS", tmp_path)
    path = ch.results.run_path("A6", "even", 3).with_suffix(".safetensors")
    save_checkpoint(path, {"net": net.state_dict()})
    assert ch.measure_loose and ch.stored_net and ch.player
    tokens, rng = scene(4_000, side=5, seed=50), np.random.default_rng(51)
    best = net(torch.from_numpy(tokens)).argmax(1).numpy()

    def score_of(act, *ask):
        asked.append(ask)
        return (act(tokens, rng) == best).mean(), 7.0 + len(asked)

    monkeypatch.setattr(ch, "score_of", score_of)
    for epsilon in (0.2, 0.7):
        config = ch.LooseConfig("even") if epsilon == 0.2 else ch.LooseConfig("even", epsilon)
        asked.clear()
        found = ch.measure_loose(config, 3).metrics
        assert asked == [(5, 500, 3), (6, 500, 3), (8, 500, 3), (16, 200, 3)]
        for number, side in enumerate((5, 6, 8, 16)):
            assert found.pop(f"score_{side}") == pytest.approx(1 - 0.8 * epsilon, abs=0.03)
            assert found.pop(f"steps_{side}") == 8.0 + number
        assert not found
    loose = {m.name: m for m in ch.MEASUREMENTS if m.measure is ch.measure_loose}
    plain = {m.name: m for m in ch.MEASUREMENTS if m.name in ("dot", "own", "even", "additive")}
    assert {f"loose_{name}": m.seeds for name, m in plain.items()} == {
        name: m.seeds for name, m in loose.items()
    }
    assert all(m.config == ch.LooseConfig(name[6:]) for name, m in loose.items())


def solutions():
    """The solved exercises' definitions, taken from their folded cells."""
    text = (CHAPTERS / "ch05b_relational_agents.py").read_text(encoding="utf8")
    scope = {"np": np, "torch": torch}
    for cell in re.split(r"\n# %%", text):
        if "Solution" in cell.splitlines()[0] and "check(" in cell:
            body = "\n".join(cell.splitlines()[1:])
            exec(body[: body.index("check(")], scope)
    return scope


def test_solutions_are_right_and_oracles_notice(capsys):
    found = solutions()
    seen_from, double = found["seen_from"], found["double"]
    answers = {"A6.1": seen_from, "A6.2": double, "A6.3": found["split_heads"], "A7.1": found["surplus"],
               "A10.1": found["without"]}  # fmt: skip
    for name, answer in answers.items():
        check(name, answer)
        assert capsys.readouterr().out == f"{name}: right.\n"
    wrong = {
        "A6.1": [lambda a, t: seen_from(a, t)[::-1], lambda a, t: (seen_from(a, t)[0], -seen_from(a, t)[1]),
                 lambda a, t: (t[3] - a[3], t[4] - a[4])],
        "A6.2": [lambda now, slow, r, d: double(slow, now, r, d), lambda now, slow, r, d: r + d * slow.max(),
                 lambda now, slow, r, d: r + d * now.max(), lambda now, slow, r, d: r + slow[now.argmax()]],
        "A6.3": [lambda rows, h: rows.reshape(len(rows), h, rows.shape[1], -1),
                 lambda rows, h: rows.reshape(*rows.shape[:2], -1, h).transpose(0, 3, 1, 2)],
        "A7.1": [lambda n, s: found["surplus"](n, 1.0), lambda n, s: s * 1.54],
        "A10.1": [lambda w, i: w, lambda w, i: np.where(np.arange(len(w)) == i, 0, w),
                  lambda w, i: found["without"](w.T, i).T],
    }  # fmt: skip
    for name, tried in wrong.items():
        for answer in tried:
            check(name, answer)
            assert capsys.readouterr().out.startswith(f"{name}: not yet. ")


def test_every_setting_of_the_measurements_is_its_own():
    names = [(m.row, m.name) for m in ch.MEASUREMENTS]
    assert len(set(names)) == len(names) and {row for row, _ in names} == {
        "A6",
        "A7",
        "A8",
        "A9",
        "A10",
    }
    settings = {m.name: m.config for m in ch.MEASUREMENTS}
    assert {settings[name].net for name in ch.NETS} == set(ch.NETS)
    assert len({settings[f"apart_{name}"] for name in ch.APART}) == len(ch.APART)
    for name in ch.APART:  # each lacks exactly one thing
        lacking = (
            dataclasses.asdict(settings[f"apart_{name}"]).items()
            - dataclasses.asdict(settings["apart_all"]).items()
        )
        assert len(lacking) == (name != "all")
    assert (
        not settings["single_1"].double
        and settings["double_5"].double
        and settings["double_1"].n_steps == 1
    )
    assert {settings[f"epsilon_{e:g}"].epsilon for e in ch.EPSILONS} == set(ch.EPSILONS)
    assert settings["curriculum"].stages == settings["curriculum_grid"].stages == ch.CURRICULUM
    for name, (net, frame) in {
        **{f"eight_{net}": (net, "agent") for net in ("own", "even", "flat")},
        **{f"grid_{net}": (net, "grid") for net in ("own", "even", "flat")},
    }.items():  # the rivals at 8: as "apart_all" and "apart_grid", but for the network
        wanted = dataclasses.replace(settings["apart_all"], net=net, frame=frame)
        assert settings[name] == ch.RIVALS_AT_8[name] == wanted
    for name, other, what in (
        ("curriculum_own", "curriculum", {"net": "own"}),
        ("curriculum_even", "curriculum", {"net": "even"}),
        ("curriculum_grid", "curriculum", {"frame": "grid"}),
        ("size_8_grid_dot", "size_8", {"frame": "grid"}),
    ):
        assert settings[name] == ch.SIZES[name] == dataclasses.replace(settings[other], **what)
    seeds = {(m.row, m.name): m.seeds for m in ch.MEASUREMENTS}
    assert tuple(range(1, 11)) == ch.TEN and min(len(some) for some in seeds.values()) >= 3
    for name in ch.NETS:  # those that carry the verdict
        assert seeds["A6", name] == (ch.TEN if name in ("dot", "own", "even", "flat") else ch.FIVE)
    for e in ch.EPSILONS:  # no random play beforehand, which would explore in ε's place
        assert settings[f"epsilon_{e:g}"].random_steps == 0


# Learning


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_agent_learns_to_fetch_the_key(seed):
    config = ch.RoomsConfig(stages=((5, 700),))
    state = last(ch.train_rooms(config, seed)).state()
    reached, steps = ch.score_of(ch.player(ch.net_from(state, config)), 5, 1000, seed)
    floors = [
        ch.score_of(ch.floor_player(weights), 5, 1000, seed)[0] for weights in ch.FLOORS.values()
    ]
    slow = [ch.score_of(ch.reflex(weights), 5, 1000, seed)[1] for weights in ch.REFLEXES.values()]
    assert reached >= 0.9 and steps < 80 and 1.5 * steps < min(slow)
    assert max(floors) < 0.6
