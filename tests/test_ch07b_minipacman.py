"""MiniPacman against a slow world written plainly; its players, its game, and the wiring of A2C's updates."""

import numpy as np
import pytest
import torch

from rlbook_utils.checkpoint import load_checkpoint, save_checkpoint
from rlbook_utils.definitions import load_chapter
from rlbook_utils.exercises import Wrong, check, oracles

torch.set_num_threads(1)
ch = load_chapter("ch07b_minipacman")

# The maze once more, written as the published code's table of ones and zeros (Racanière, 2017), by its rows.


LEFT_HALF = (
    "1111111111",
    "1000100000",
    "1010101111",
    "1000000000",
    "1010101111",
    "1010000000",
    "1011110111",
    "1000000111",
)


HALF_ROWS = [row + row[-2::-1] for row in LEFT_HALF]


TABLE = HALF_ROWS + HALF_ROWS[-2::-1]  # the lower half mirrors the upper one


DELTA = {0: (0, 0), 1: (0, 1), 2: (-1, 0), 3: (0, -1), 4: (1, 0)}  # of an action


PAYS = {  # step, food, pill, ghost, caught (Weber et al., 2017)
    "regular": (0, 1, 2, 5, 0),
    "avoid": (0.1, -0.1, -5, -10, -20),
    "hunt": (0, 0, 1, 10, -20),
    "ambush": (0, -0.1, 0, 10, -20),
    "rush": (0, -0.1, 10, 0, 0),
}


class Recorder:
    """A generator that keeps what it gave."""

    def __init__(self, seed):
        self.rng, self.given = np.random.default_rng(seed), []

    def random(self, shape):
        self.given.append(self.rng.random(shape))
        return self.given[-1].copy()


class SlowPacman:
    """One world, in dictionaries and loops, after the prose of the chapter and no line of its code."""

    def __init__(self, mode, max_steps):
        self.mode, self.max_steps = mode, max_steps
        self.free = [(y, x) for y in range(15) for x in range(19) if TABLE[y][x] == "0"]

    def begin(self, level, chances):
        chances = list(chances)
        self.level, self.power, self.clock = level, 0, 0
        if level == 1:
            self.age = 0
        first = int(chances[0] * len(self.free))
        rest = self.free[first + 1 :] + self.free[:first]
        self.pacman = self.free[first]
        self.pills = [rest.pop(int(chances[1] * len(rest))), rest.pop(int(chances[2] * len(rest)))]
        self.food = set(self.free) - {self.pacman}
        y, x = self.pacman
        far = [(b, a) for b, a in self.free if abs(b - y) >= 5 or abs(a - x) >= 5]
        number = min(8, 1 + int((level - 1) / 2))
        self.ghosts = [
            {"at": far[int(chances[3 + i] * len(far))], "heading": 1 + int(4 * chances[11 + i])}
            for i in range(number)
        ]

    def ahead(self, at, action):
        y, x = at[0] + DELTA[action][0], at[1] + DELTA[action][1]
        return (y, x) if TABLE[y][x] == "0" else at

    def turn(self, ghost, strays, which):
        exits = [a for a in (1, 2, 3, 4) if self.ahead(ghost["at"], a) != ghost["at"]]
        back = {1: 3, 2: 4, 3: 1, 4: 2}[ghost["heading"]]
        if len(exits) == 2:
            if ghost["heading"] in exits:
                return ghost["heading"]
            return exits[1] if exits[0] == back else exits[0]
        exits = [a for a in exits if a != back]
        if self.power == 0 and strays < 0.05:
            return exits[int(which * len(exits))]
        to = (self.pacman[0] - ghost["at"][0], self.pacman[1] - ghost["at"][1])
        gain = {a: DELTA[a][0] * to[0] + DELTA[a][1] * to[1] for a in exits}
        best = (min if self.power else max)(gain.values())
        return next(a for a in exits if gain[a] == best)

    def step(self, action, chances, next_level):
        """chances: [ghosts, 3]. next_level: called for a level's chances when one is cleared. Returns reward, ends, events."""
        step, food, pill, ghost_pay, caught_pay = PAYS[self.mode]
        reward, events, dead = step, [0, 0, 0, 0], False
        self.age, self.clock, self.power = self.age + 1, self.clock + 1, max(0, self.power - 1)
        self.pacman = self.ahead(self.pacman, action)
        if self.pacman in self.food:
            self.food.remove(self.pacman)
            reward, events[0] = reward + food, 1
        if self.pacman in self.pills:
            self.pills.remove(self.pacman)
            reward, events[1], self.power = reward + pill, 1, 20
        cleared = (self.mode == "regular" and not self.food) or (
            self.mode == "rush" and not self.pills
        )
        if not cleared:
            for number, ghost in enumerate(self.ghosts):
                if ghost is None:
                    continue
                goes, strays, which = chances[number]
                speed = 0.5 + 0.1 * (self.level - 1)
                if self.power:
                    speed /= 2
                if ghost["at"] != self.pacman and goes < speed:
                    ghost["heading"] = self.turn(ghost, strays, which)
                    ghost["at"] = self.ahead(ghost["at"], ghost["heading"])
                if ghost["at"] == self.pacman:
                    if self.power:
                        self.ghosts[number] = None
                        reward, events[2] = reward + ghost_pay, events[2] + 1
                    else:
                        reward, events[3], dead = reward + caught_pay, 1, True
                        break
            cleared = self.mode in ("hunt", "ambush") and not any(self.ghosts)
            cleared |= self.clock >= {"avoid": 128}.get(self.mode, 10**9)
        cleared = bool(cleared and not dead)
        if cleared:
            self.begin(self.level + 1, next_level())
        return reward, dead, self.age >= self.max_steps and not dead, cleared, events

    def frame(self):
        frame = [[1 if cell == "1" else 0 for cell in row] for row in TABLE]
        for kind, spots in ((2, self.food), (3, self.pills), (4, [self.pacman])):
            for y, x in spots:
                frame[y][x] = kind
        for ghost in filter(None, self.ghosts):
            frame[ghost["at"][0]][ghost["at"][1]] = 6 if self.power > 1 else 5
        return frame


def play_both(
    mode, count, steps, seed, start_level=1, careless=0.3, max_steps=60, forget_food=False
):
    """Both worlds on the same chances. Actions: at random, or towards the next food, pill or ghost. Returns what happened."""
    chance, actor = Recorder(seed), np.random.default_rng((seed, 1))
    fast = ch.MiniPacman(ch.MODES[mode], count, chance, max_steps)
    slow = [SlowPacman(mode, max_steps) for _ in range(count)]
    if start_level > 1:
        chance.given.clear()
        fast.level[:] = start_level
        fast.deal(np.arange(count))
    for world, row in zip(slow, chance.given[-1], strict=True):
        world.begin(start_level, row)
        world.age = 0
    seen = {
        "events": np.zeros(4, int),
        "cleared": 0,
        "terminated": 0,
        "truncated": 0,
        "level": 0,
        "ghosts": 0,
    }
    for _ in range(steps):
        assert np.array_equal(fast.frames(), [world.frame() for world in slow])
        if forget_food:  # so that levels are cleared: all but a few
            for i, world in enumerate(slow):
                keep = set(sorted(world.food)[:3])
                if len(world.food) > 3:
                    world.food = keep
                    fast.board[i][fast.board[i] == ch.FOOD] = ch.FLOOR
                    fast.board[i][[19 * y + x for y, x in keep]] = ch.FOOD
                    fast.food[i] = 3
        actions = actor.integers(5, size=count)
        greedy = ch.walk(
            fast.frames(),
            actor.choice([ch.FOOD, ch.PILL, ch.EDIBLE]),
            careful=bool(actor.integers(2)),
        )
        actions = np.where(actor.random(count) < careless, actions, greedy)
        chance.given.clear()
        found = fast.step(actions)
        ghosts, *levels = chance.given
        fresh = iter(levels[0]) if levels else iter(())
        told = [
            world.step(int(a), row, fresh.__next__)
            for world, a, row in zip(slow, actions, ghosts, strict=True)
        ]
        for ours, theirs in zip(found, zip(*told, strict=True), strict=True):
            assert np.allclose(ours, theirs)
        assert next(fresh, None) is None
        over = found.terminated | found.truncated
        assert np.array_equal(fast.frames(), [world.frame() for world in slow])
        chance.given.clear()
        fast.reset(over)
        for i, row in zip(np.flatnonzero(over), chance.given[0] if over.any() else (), strict=True):
            slow[i].begin(1, row)
        for name in ("level", "clock", "age", "power"):
            assert np.array_equal(getattr(fast, name), [getattr(world, name) for world in slow])
        seen["events"] += found.events.sum(0).astype(int)
        for name in ("cleared", "terminated", "truncated"):
            seen[name] += int(getattr(found, name).sum())
        seen["level"] = max(seen["level"], int(fast.level.max()))
        seen["ghosts"] = max(seen["ghosts"], int((fast.ghosts > 0).sum(1).max()))
    return seen


def test_maze_is_the_published_one():
    assert [list(map(bool, map(int, row))) for row in TABLE] == ch.WALLS.reshape(15, 19).tolist()
    assert len(ch.FREE) == 138


@pytest.mark.parametrize("mode", PAYS)
def test_worlds_equal_the_slow_one(mode):
    seen = play_both(mode, 12, 150, seed=1, forget_food=mode == "regular")
    assert (seen["events"][[0, 1, 3]] > 0).all() and seen["terminated"] and seen["truncated"], seen
    if mode != "avoid":  # cleared by the clock after 128 steps: below
        assert seen["cleared"], seen


@pytest.mark.parametrize(
    ("mode", "level"), [("avoid", 4), ("hunt", 5), ("ambush", 14), ("rush", 9)]
)
def test_higher_levels_equal_the_slow_one(mode, level):
    seen = play_both(mode, 8, 200, seed=2, start_level=level, careless=0.05, max_steps=500)
    assert seen["ghosts"] == min(8, 1 + (seen["level"] - 1) // 2) or seen["level"] >= level
    assert seen["events"][3] > 0


def test_avoid_is_cleared_by_the_clock():
    world = ch.MiniPacman(ch.MODES["avoid"], 1, np.random.default_rng(0), 1000)
    world.ghosts[:] = 0  # nobody comes
    cleared = [bool(world.step(np.zeros(1, int)).cleared[0]) for _ in range(128)]
    assert cleared == [False] * 127 + [True]
    assert world.level[0] == 2 and world.clock[0] == 0 and world.age[0] == 128


def test_who_is_caught_has_cleared_nothing():
    world = ch.MiniPacman(ch.MODES["avoid"], 2, np.random.default_rng(0))
    world.clock[:] = 127
    world.ghosts[0, 0] = world.pacman[0]
    world.ghosts[1, 0] = 0  # nobody comes
    found = world.step(np.zeros(2, int))
    assert found.terminated.tolist() == [True, False] and found.cleared.tolist() == [False, True]
    assert world.level.tolist() == [1, 2] and np.allclose(found.rewards, [-19.9, 0.1])


def test_a_ghost_shown_as_edible_can_be_eaten_in_the_next_step():
    world = ch.MiniPacman(ch.MODES["hunt"], 40, np.random.default_rng(0))
    world.power[:] = np.arange(40) % 4
    world.ghosts[:, 0] = ch.NEXT[world.pacman, 1:].max(1)  # next to Pacman
    world.pills[:] = 0  # none under the ghost
    frames = world.frames().reshape(40, -1)
    actions = (ch.NEXT[world.pacman] == world.ghosts[:, :1]).argmax(1)
    found = world.step(actions)
    edible = (frames == ch.EDIBLE).any(1)
    assert np.array_equal(edible, found.events[:, ch.ATE_GHOST] > 0) and edible.sum() == 20
    assert np.array_equal(~edible, found.terminated)


def test_a_copy_meets_the_same_fate_and_rows_repeat():
    world = ch.MiniPacman(ch.MODES["hunt"], 6, np.random.default_rng(3))
    actions = np.random.default_rng(4).integers(5, size=(40, 30))
    state, chance, before = world.state(), world.rng.bit_generator.state, world.frames()
    first = [world.step(row[:6]).rewards for row in actions]
    after = world.frames()
    world.restore(state)
    world.rng.bit_generator.state = chance
    again = [world.step(row[:6]).rewards for row in actions]
    assert np.array_equal(first, again) and np.array_equal(after, world.frames())
    world.restore(state, np.repeat(np.arange(6), 5))  # state-major
    assert np.array_equal(world.frames()[::5], world.frames()[4::5])
    moved = world.frames()
    world.step(np.tile(np.arange(5), 6))
    for name in world.ROWS:
        assert len(getattr(world, name)) == 30
    world.restore(state)
    assert np.array_equal(world.frames(), before) and np.array_equal(
        moved[::5], before
    )  # the copy is untouched


def test_dealt_levels_are_spread_evenly():
    world = ch.MiniPacman(ch.MODES["rush"], 20_000, np.random.default_rng(5))
    for cells in (world.pacman, world.pills[:, 0], world.pills[:, 1]):
        counts = np.bincount(cells, minlength=ch.CELLS)[ch.FREE]
        assert counts.sum() == 20_000 and abs(counts - 20_000 / 138).max() < 6 * np.sqrt(
            20_000 / 138
        )
    assert (world.pills[:, 0] != world.pills[:, 1]).all() and (
        world.pills != world.pacman[:, None]
    ).all()
    gap = abs(ch.SPOTS[world.ghosts[:, 0]] - ch.SPOTS[world.pacman]).max(1)
    assert gap.min() == 5 and (world.ghosts[:, 1:] == 0).all()


def test_ghosts_move_as_often_as_they_should():
    world = ch.MiniPacman(ch.MODES["regular"], 20_000, np.random.default_rng(6))
    for level, power, wanted in ((1, 0, 0.5), (3, 0, 0.7), (7, 0, 1.0), (1, 9, 0.25), (3, 9, 0.35)):
        world.level[:] = level
        world.deal(np.arange(20_000))
        world.power[:] = power + (power > 0)
        before = world.ghosts.copy()
        found = world.step(np.zeros(20_000, int))
        kept = (found.events[:, 2:].sum(1) == 0) & (before[:, 0] > 0)
        assert abs((world.ghosts != before)[kept, 0].mean() - wanted) < 0.012


# Players that learn nothing


def slow_distance(start, goal):
    """Plain breadth-first search over (row, column)."""
    seen, edge, steps = {start}, [start], 0
    while edge:
        if goal in edge:
            return steps
        around = {(y + dy, x + dx) for y, x in edge for dy, dx in list(DELTA.values())[1:]}
        edge = [spot for spot in around if TABLE[spot[0]][spot[1]] == "0" and spot not in seen]
        seen |= set(edge)
        steps += 1
    return None


def test_distances_are_those_of_a_search():
    rng = np.random.default_rng(7)
    for a, b in rng.choice(ch.FREE, (40, 2)):
        assert ch.DISTANCES[a, b] == slow_distance(divmod(int(a), 19), divmod(int(b), 19))
    assert (ch.DISTANCES[ch.WALLS] == 255).all() and (ch.DISTANCES[:, ch.WALLS] == 255).all()
    assert ch.DISTANCES[np.ix_(ch.FREE, ch.FREE)].max() < ch.NOWHERE


def frame_with(**kinds):
    """An empty maze with things in these cells."""
    frame = np.where(ch.WALLS, ch.WALL, ch.FLOOR).astype(np.uint8)
    for name, cells in kinds.items():
        frame[cells] = getattr(ch, name.upper())
    return frame.reshape(1, 15, 19)


def test_eater_walks_shortest_ways():
    world = ch.MiniPacman(ch.MODES["regular"], 30, np.random.default_rng(8))
    world.board[:] = np.where(ch.WALLS, ch.WALL, ch.FLOOR)
    meals = np.random.default_rng(9).choice(ch.FREE, (30, 2))
    np.put_along_axis(world.board, meals, ch.FOOD, 1)
    world.ghosts[:] = world.pills[:] = 0
    frames = world.frames()
    nearest = np.minimum(*(ch.DISTANCES[world.pacman, meals[:, i]].astype(int) for i in range(2)))
    ate = np.zeros(30, int)
    for step in range(1, nearest.max() + 1):
        found = world.step(ch.walk(world.frames(), ch.FOOD))
        fresh = (found.events[:, ch.ATE_FOOD] > 0) & (ate == 0)
        ate[fresh] = step
    there = (frames.reshape(30, -1) == ch.FOOD).any(1) & (nearest > 0)
    assert np.array_equal(ate[there], nearest[there]) and there.sum() > 20


def test_careful_walk_keeps_off_ghosts_and_careless_does_not():
    row = 19 * 11  # a long corridor, row 11: Pacman at column 4, food at 8, a ghost at 6
    frame = frame_with(pacman=row + 4, food=row + 8, ghost=row + 6)
    assert ch.walk(frame, ch.FOOD)[0] == ch.RIGHT
    assert ch.walk(frame, ch.FOOD, careful=True)[0] != ch.RIGHT
    assert (
        ch.walk(frame_with(pacman=row + 4, food=row + 8, edible=row + 6), ch.FOOD, careful=True)[0]
        == ch.RIGHT
    )
    assert ch.walk(frame_with(pacman=row + 4), ch.FOOD)[0] == ch.STAY


def test_hunter_hider_and_ambusher():
    row = 19 * 11
    assert ch.hunt(frame_with(pacman=row + 4, pill=row + 2, edible=row + 8), True)[0] == ch.RIGHT
    assert ch.hunt(frame_with(pacman=row + 4, pill=row + 2, ghost=row + 10), True)[0] == ch.LEFT
    assert (
        ch.hunt(frame_with(pacman=row + 3, pill=row + 2, ghost=row + 10), True, near=3)[0]
        == ch.STAY
    )
    assert (
        ch.hunt(frame_with(pacman=row + 3, pill=row + 2, ghost=row + 6), True, near=3)[0] == ch.LEFT
    )
    assert ch.hide(frame_with(pacman=row + 6, ghost=row + 8))[0] == ch.LEFT
    assert ch.hide(frame_with(pacman=row + 6, ghost=row + 14))[0] == ch.STAY
    ways = {ch.LEFT: row + 2, ch.UP: row - 19 + 3, ch.DOWN: row + 19 + 3}  # equally far from it
    for action, cell in ways.items():
        others = [c for c in ways.values() if c != cell]
        assert ch.hide(frame_with(pacman=row + 3, ghost=row + 5, food=others))[0] == action
        dear = frame_with(pacman=row + 3, ghost=row + 5, food=cell, pill=others)
        assert ch.hide(dear)[0] == action  # a pill costs more than food


def slow_room(frame, action, feared):
    """Cells that Pacman reaches before every ghost, by plain searches, from the cell that the action leads to."""
    spots = {(y, x): int(frame[y, x]) for y in range(15) for x in range(19)}
    (start,) = (spot for spot, kind in spots.items() if kind == ch.PACMAN)
    ghosts = [spot for spot, kind in spots.items() if kind in feared]
    after = (start[0] + DELTA[action][0], start[1] + DELTA[action][1])
    after = after if TABLE[after[0]][after[1]] == "0" else start
    theirs = [steps_from(ghost) for ghost in ghosts]
    return {
        cell
        for cell, mine in steps_from(after).items()
        if all(1 + mine < their[cell] for their in theirs)
    }


def steps_from(start):
    """Steps to every cell, by plain breadth-first search."""
    found, edge = {start: 0}, [start]
    while edge:
        around = [
            (y + dy, x + dx, found[y, x] + 1)
            for y, x in edge
            for dy, dx in list(DELTA.values())[1:]
            if TABLE[y + dy][x + dx] == "0" and (y + dy, x + dx) not in found
        ]
        edge = list({(y, x) for y, x, _ in around})
        found |= {(y, x): steps for y, x, steps in around}
    return found


def test_room_is_what_pacman_reaches_before_any_ghost():
    rng = np.random.default_rng(15)
    for _ in range(6):
        cells = rng.choice(ch.FREE, 4, replace=False)
        frame = frame_with(ghost=cells[1:3], edible=cells[3:], pacman=cells[0])
        for feared in ((ch.GHOST,), (ch.GHOST, ch.EDIBLE)):
            found, risks = ch.first_there(frame, feared)[0], ch.risk(frame, feared)[0]
            for action in range(5):
                room = slow_room(frame[0], action, feared)
                assert {divmod(int(c), 19) for c in np.flatnonzero(found[action])} == room
                place = divmod(int(ch.NEXT[cells[0], action]), 19)
                ghosts = [c for c in cells[1:] if frame.ravel()[c] in feared]
                near = min(slow_distance(place, divmod(int(c), 19)) for c in ghosts)
                assert risks[action] == 1_000 * max(2 - near, 0) - min(len(room), 20)


def test_wary_players():
    row = 19 * 11
    shut = frame_with(pacman=row + 8, ghost=[row + 1, row + 15], food=row + 9)
    assert ch.walk(shut, ch.FOOD, careful=True)[0] == ch.RIGHT
    assert ch.wary(shut, ch.FOOD)[0] == ch.LEFT  # or it is locked in
    late = frame_with(pacman=row + 8, ghost=row + 15, food=[row + 12, row + 1])
    assert ch.walk(late, ch.FOOD)[0] == ch.RIGHT
    assert ch.wary(late, ch.FOOD)[0] == ch.LEFT  # the ghost is at the nearer food before
    near = frame_with(pacman=row + 8, edible=row + 14, food=row + 7)
    assert ch.wary(near, ch.FOOD, 7)[0] == ch.RIGHT and ch.wary(near, ch.FOOD, 5)[0] == ch.LEFT
    for kind in ("ghost", "edible"):
        assert ch.wary_hide(frame_with(pacman=row + 4, **{kind: row + 6}))[0] != ch.RIGHT
        assert ch.wary_hide(frame_with(pacman=row + 8, **{kind: row + 9}))[0] == ch.LEFT
        beside = frame_with(pacman=row + 8, pill=row + 7, **{kind: row + 12})
        assert ch.wary_hide(beside)[0] == ch.STAY
    assert ch.wary_hide(frame_with(pacman=row + 4))[0] == ch.STAY


def test_floors_are_drawn_apart_and_do_not_depend_on_who_else_plays():
    alone = ch.floor_of("rush", ["runner"], 5, 6, 50)["runner"]
    among = ch.floor_of("rush", ["random", "runner"], 5, 6, 50)
    assert np.array_equal(alone.returns, among["runner"].returns) and list(among) == ["random", "runner"]  # fmt: skip
    other = ch.floor_of("rush", ["runner"], 6, 6, 50)["runner"]
    assert not np.array_equal(alone.steps, other.steps)
    rng = np.random.default_rng((ch.FLOORS, 5, list(ch.PLAYERS).index("runner")))
    again = ch.play(ch.PLAYERS["runner"](), ch.MODES["rush"], 6, rng, 50)
    assert np.array_equal(alone.returns, again.returns)


def test_scores_count_whole_first_episodes():
    player = ch.PLAYERS["always stay"]()
    scored = ch.play(player, ch.MODES["avoid"], 50, np.random.default_rng(10), max_steps=40)
    caught = scored.returns < 0
    assert caught.any() and not caught.all() and (scored.steps[~caught] == 40).all()
    assert np.allclose(scored.returns, 0.1 * scored.steps - 20 * caught)
    scored = ch.play(player, ch.MODES["avoid"], 400, np.random.default_rng(10), max_steps=300)
    caught = scored.returns < 0  # the step that catches clears nothing
    assert np.array_equal(scored.levels, 1 + (scored.steps - caught) // 128)
    assert set(scored.levels) == {1, 2, 3} and not caught.all()


def test_held_actions_last_as_long_as_they_should():
    player, frames = ch.held(4), np.zeros((500, 15, 19), np.uint8)
    rng = np.random.default_rng(11)
    drawn = np.stack([player(frames, rng) for _ in range(200)])
    assert abs((drawn[1:] != drawn[:-1]).mean() - 0.25 * 0.8) < 0.01
    assert abs(np.bincount(drawn.ravel()) / drawn.size - 0.2).max() < 0.02


# The game


def test_game_takes_buttons_and_keys_and_starts_again():
    game = ch.Game("avoid", seed=2)
    mode, image, score, controls = ch.playable(game).children
    buttons, keys = controls.children
    hidden = [box for box in (mode, image, score, controls) if "rlbook-live" in box._dom_classes]
    assert hidden == [mode, controls]  # the static book shows the picture and the score
    game.world.ghosts[:] = 0
    before = image.value
    labels = {button.description: button for button in buttons.children}
    labels["↑"].click()
    labels["→"].click()
    keys.value = "Wd x"
    assert game.world.age[0] == 5 and keys.value == "" and image.value != before
    assert image.value[:8] == b"\x89PNG\r\n\x1a\n"
    game.world.ghosts[0, 0] = game.world.pacman[0]
    total = game.total
    game.press(ch.STAY)
    assert game.over and "over" in score.value and game.total == pytest.approx(total - 19.9)
    game.press(ch.UP)
    assert not game.over and game.world.age[0] == 0 and game.total == 0
    mode.value = "rush"
    assert game.world.rules == ch.MODES["rush"]


# A2C


class Probe(torch.nn.Module):
    """A net whose value names the frame: a hash of it; its policy is even."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(0.1, 1, 285))

    def forward(self, frames):
        values = (frames.flatten(1).float() * self.weight).sum(1)
        return torch.full((len(frames), 5), 0.2).log(), values


def test_planes_and_actions():
    frames = torch.from_numpy(ch.MiniPacman(ch.MODES["hunt"], 3, np.random.default_rng(0)).frames())
    made = ch.planes(frames)
    assert (
        made.shape == (3, 7, 15, 19)
        and (made.sum(1) == 1).all()
        and torch.equal(made.argmax(1), frames.long())
    )
    torch.manual_seed(0)
    wanted = torch.tensor([0.5, 0.25, 0.15, 0.1, 0.0])
    drawn = ch.draw_actions(wanted.log().expand(20_000, 5))
    assert abs(torch.bincount(drawn, minlength=5) / 20_000 - wanted).max() < 0.012
    log_probs, values = ch.PacmanNet()(frames)
    assert torch.allclose(log_probs.exp().sum(1), torch.ones(3)) and values.shape == (3,)


def test_collected_steps_are_the_worlds_own():
    horizon = 6
    config = ch.PacmanConfig(mode="avoid", num_envs=5, horizon=6, max_steps=9, reward_scale=0.5)
    players = ch.Players(Probe(), config, np.random.default_rng(12))
    net, twin = players.net, ch.MiniPacman(ch.MODES["avoid"], 5, np.random.default_rng(12), 9)
    torch.manual_seed(1)
    totals, ended = np.zeros(5), []
    value = lambda frames: net(torch.from_numpy(frames))[1].detach()
    for _ in range(12):
        played = ch.collect(players)
        for t in range(horizon):
            assert np.array_equal(played.frames[t], twin.frames())
            assert torch.allclose(played.values[t], value(twin.frames()))
            step = twin.step(played.actions[t].numpy())
            after, over = value(twin.frames()), step.terminated | step.truncated
            totals += step.rewards
            ended += [(round(totals[i], 6), int(twin.age[i])) for i in np.flatnonzero(over)]
            totals[over] = 0
            assert np.allclose(played.rewards[t], 0.5 * step.rewards)
            assert np.array_equal(played.terminated[t], step.terminated)
            assert np.array_equal(played.done[t], over)
            kept = torch.from_numpy(~step.terminated)
            assert torch.allclose(played.next_values[t][kept], after[kept])
            twin.reset(over)
    assert [(round(a, 6), b) for a, b in players.recent] == ended[-100:]
    assert {b == 9 for _, b in ended} == {True, False}  # both kinds of ends


def test_learning_follows_the_gradient_of_a_plain_loss():
    torch.manual_seed(2)
    config = ch.PacmanConfig(
        horizon=4, num_envs=3, max_steps=7, learning_rate=0.01, lam=0.9, reward_scale=1.0,
        max_grad_norm=0.1, entropy=0.1,
    )  # fmt: skip
    players = ch.Players(ch.PacmanNet(), config, np.random.default_rng(13))
    net, learner = players.net, ch.Learner(players, config, players.world.rng)
    learner.optimiser = torch.optim.SGD(net.parameters(), 0.01)
    ch.collect(players)
    played = ch.collect(players)
    before = {name: weight.clone() for name, weight in net.named_parameters()}
    loss = 0.0
    for n in range(3):
        for t in range(4):
            advantage, weight = 0.0, 1.0
            for k in range(t, 4):
                after = 0 if played.terminated[k, n] else 0.99 * played.next_values[k, n].item()
                advantage += weight * (played.rewards[k, n].item() + after - played.values[k, n].item())  # fmt: skip
                if played.done[k, n]:
                    break
                weight *= 0.99 * 0.9
            target = advantage + played.values[t, n].item()
            log_probs, value = net(played.frames[t, n : n + 1])
            gain = (target - value.item()) * log_probs[0, played.actions[t, n]]
            entropy = -(log_probs.exp() * log_probs).sum()
            loss = loss + (0.5 * (target - value[0]) ** 2 - gain - 0.1 * entropy) / 12
    wanted = torch.autograd.grad(loss, list(net.parameters()))
    norm = torch.sqrt(sum(part.pow(2).sum() for part in wanted))
    assert norm > 0.2  # so that its length has to be held
    learner.learn(played, *net(played.frames.flatten(0, 1)))
    for (name, weight), part in zip(net.named_parameters(), wanted, strict=True):
        moved = (before[name] - weight) / 0.01
        assert torch.allclose(moved, part * min(1.0, 0.1 / norm.item()), atol=1e-5), name


def test_the_optimiser_is_the_one_that_is_told():
    config = ch.PacmanConfig(learning_rate=3e-4)
    optimiser = ch.a2c(config, 1).optimiser
    wanted = {"lr": 3e-4, "alpha": 0.99, "eps": 1e-5, "momentum": 0, "weight_decay": 0}
    assert type(optimiser) is torch.optim.RMSprop and wanted.items() <= optimiser.defaults.items()


def last(progresses):
    *_, progress = progresses
    return progress


def test_training_resumes_exactly(tmp_path):
    config = ch.PacmanConfig(mode="hunt", steps=3 * ch.REPORT)
    whole = [progress for progress in ch.train_pacman(config, seed=3)]
    first = next(ch.train_pacman(config, seed=3))
    save_checkpoint(tmp_path / "run", first.state())
    state = load_checkpoint(tmp_path / "run")["state"]
    torch.manual_seed(99)  # what happens in between does not matter
    again = list(ch.train_pacman(config, seed=3, state=state))
    assert [p.step for p in whole] == [4_160, 8_320, 12_288] and len(again) == 2
    for one, other in zip(whole[1:], again, strict=True):
        told = [{k: v for k, v in p.metrics.items() if k != "seconds"} for p in (one, other)]
        assert told[0] == told[1] and one.metrics.keys() == whole[0].metrics.keys()
    ends = [whole[-1].state()["net"], again[-1].state()["net"]]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    done = list(ch.train_pacman(config, seed=3, state=whole[-1].state()))
    assert len(done) == 1 and done[0].metrics.keys() == whole[0].metrics.keys()


def test_the_clocks_end_of_an_episode_is_asked_before_the_reset():
    """The critic's word on the last frame counts after the clock, and none after a death."""
    config = ch.PacmanConfig(mode="avoid", num_envs=40, horizon=12, max_steps=12, lam=1.0)
    players = ch.Players(Probe(), config, np.random.default_rng(16))
    torch.manual_seed(2)
    played = ch.collect(players)
    assert played.done[-1].any() and played.terminated.any() and not played.terminated.all()
    _, targets = ch.OPTIMISATION.gae(*played[2:], config.discount, config.lam)
    cut = played.done & ~played.terminated
    assert torch.allclose(targets[played.terminated], played.rewards[played.terminated], atol=1e-4)
    known = played.rewards + config.discount * played.next_values
    assert cut.any() and torch.allclose(targets[cut], known[cut], rtol=1e-4)
    assert (players.world.age[cut[-1].numpy()] == 0).all()
    fresh = players.net(torch.from_numpy(players.world.frames()))[1].detach()
    assert (played.next_values[-1] - fresh)[cut[-1]].abs().min() > 1e-3  # not the next episode's


def test_an_update_plays_then_steps_once(monkeypatch):
    config = ch.PacmanConfig(num_envs=3, horizon=4, mode="rush", reward_scale=0.5)
    learner = ch.a2c(config, 7)
    seen, collect, step = [], ch.collect, learner.optimiser.step
    monkeypatch.setitem(ch.__dict__, "collect", lambda players: seen.append("play") or collect(players))  # fmt: skip
    monkeypatch.setattr(learner.optimiser, "step", lambda: seen.append("step") or step())
    before = [weight.clone() for weight in learner.net.parameters()]
    ages = learner.players.world.age.copy()
    learner.update()
    assert seen == ["play", "step"] and (learner.players.world.age != ages).all()
    moved = [not torch.equal(a, b) for a, b in zip(before, learner.net.parameters(), strict=True)]
    assert all(moved) and learner.players.reward_scale == 0.5
    assert learner.players.world.rules == ch.MODES["rush"]


# Pictures and films


def test_films_show_an_episode_and_stop_at_its_end():
    images, total = ch.film(ch.PLAYERS["always stay"](), "avoid", 400, seed=1)
    steps = len(images) - 1
    assert total == pytest.approx(0.1 * steps - 20) and 5 < steps < 400
    assert images[0].shape == (240, 304, 3) and images[0].dtype == np.uint8
    kinds = images[0][8::16, 8::16]
    assert (kinds[ch.WALLS.reshape(15, 19)] == 255).all()
    short, paid = ch.film(ch.PLAYERS["always stay"](), "avoid", 3, seed=1)
    assert len(short) == 4 and paid == pytest.approx(0.3)


# What is measured


def test_floors_are_measured_small(monkeypatch):
    few = {name: ch.PLAYERS[name] for name in ("random", "always stay")}
    monkeypatch.setitem(ch.__dict__, "PLAYERS", few)
    monkeypatch.setitem(ch.__dict__, "MODES", {"avoid": ch.MODES["avoid"]})
    found = ch.measure_floors(None, 3).metrics
    scores = ch.floor_of("avoid", few, 3)
    assert found["avoid_always_stay"] == scores["always stay"].returns.mean()
    assert found["avoid_random_length"] == scores["random"].steps.mean() and len(found) == 5
    assert found["avoid_best"] == max(found["avoid_random"], found["avoid_always_stay"]) < -10


def test_speed_is_measured_for_every_view(monkeypatch):
    asked, measure = [], ch.measure_speed
    counted = lambda count, steps, view: asked.append((count, steps, view)) or len(asked)
    monkeypatch.setitem(ch.__dict__, "steps_per_second", counted)
    found = measure(None, 1).metrics
    assert len(found) == 9 and found["colours_1024"] == 9
    assert {count for count, _, _ in asked} == {1, 16, 1_024} and asked[0][1] >= 6_000
    monkeypatch.undo()
    assert ch.steps_per_second(8, 20, view="colours") > 0


def test_training_is_measured_with_its_last_network(monkeypatch):
    played, real = [], ch.play

    def play(player, rules, episodes, rng):
        frames = ch.MiniPacman(rules, 200, np.random.default_rng(1)).frames()
        played.append((rules, episodes, player(frames, rng)))
        return real(player, rules, 6, rng, 30)

    monkeypatch.setitem(ch.__dict__, "play", play)
    config = ch.PacmanConfig(steps=ch.REPORT + 500, mode="avoid", num_envs=4, max_steps=40)
    learner = ch.a2c(config, 2)
    with torch.no_grad():
        learner.net.policy.bias[ch.LEFT] = 9.0  # a habit that the player has to show
    found = ch.measure_training(learner, 2)
    (rules, episodes, actions), *more = played
    assert rules == ch.MODES["avoid"] and episodes == 128 and not more
    assert (actions == ch.LEFT).mean() > 0.8
    assert found.curves["steps"] == [4_120.0, 4_596.0] and len(found.curves["return"]) == 2
    assert found.metrics["steps"] <= 30 and found.metrics["parameters"] == 201_750
    assert found.metrics["speed"] == pytest.approx(config.steps / found.curves["seconds"][-1])


def test_what_is_measured():
    names = {(m.row, m.name): m for m in ch.MEASUREMENTS}
    assert {name for row, name in names if row == "R7"} == {*ch.MODES, "regular_long", "hunt_long"}
    for mode in ch.MODES:
        assert names["R7", mode].config.mode == mode and names["R7", mode].config.steps == 150_000
    assert names["R7", "hunt_long"].config == ch.PacmanConfig(mode="hunt", steps=600_000)
    assert all(len(m.seeds) == 5 for m in ch.MEASUREMENTS)
    assert {m.row for m in ch.MEASUREMENTS if m.metrics} == {"R6", "R7"}


# Exercises


def test_every_reward_that_was_ever_paid_is_told():
    for mode in ch.MODES:
        world, told = ch.MiniPacman(ch.MODES[mode], 200, np.random.default_rng(14)), set()
        for _ in range(150):
            player = [ch.FOOD, ch.PILL, ch.EDIBLE][world.age[0] % 3]
            step = world.step(ch.walk(world.frames(), player))
            one = step.events[:, 2] + step.events[:, 3] < 2
            told |= set(np.round(step.rewards[one], 1).tolist())
            world.reset(step.terminated | step.truncated)
        assert told <= set(ch.rewards(ch.MODES[mode])), mode
    assert ch.rewards(ch.MODES["rush"]) == [-0.1, 0, 9.9]


def test_forks_and_returns():
    assert ch.forks(ch.WALLS.reshape(15, 19)) == sum(
        sum(TABLE[y + dy][x + dx] == "0" for dy, dx in list(DELTA.values())[1:]) > 2
        for y in range(15) for x in range(19) if TABLE[y][x] == "0"
    )  # fmt: skip
    found = ch.returns(np.array([1.0, 2, 3]), np.array([False, True, False]), 10.0, 0.5)
    assert found.tolist() == [2.0, 2.0, 8.0]


def careless(rewards, terminated, truncated, after, discount):
    """Targets that go on into the next episode when the clock has cut one."""
    return ch.targets(rewards, terminated, truncated & False, after, discount)


WRONG = {
    "R6.1": lambda rules: sorted(set(rules[:5])),
    "R6.2": lambda walls: int((~walls).sum()),
    "R6.3": lambda frames, rng: ch.walk(frames, ch.FOOD, careful=True),
    "R7.1": lambda rewards, done, last, discount: ch.returns(rewards, 0 * done, last, discount),
    "R7.2": careless,
    "R7.3": lambda episodes, rng: 0.1,
}
RIGHT = dict(zip(WRONG, ("rewards", "forks", "player", "returns", "targets", "lucky"), strict=True))


@pytest.mark.parametrize("name", WRONG)
def test_exercises_know_right_from_wrong(name, capsys):
    check(name, getattr(ch, RIGHT[name]))
    assert "right" in capsys.readouterr().out
    with pytest.raises(Wrong):
        oracles()[name](WRONG[name])
    if name == "R7.2":
        with pytest.raises(Wrong, match="death"):
            oracles()[name](lambda r, dead, cut, after, d: ch.targets(r, dead & False, cut, after, d))  # fmt: skip


def test_a_heading_drawn_from_zero_does_next_to_nothing():
    """The published lines, plainly, for every cell: what a ghost of each heading may take."""
    reverse, same = (4, 5, 2, 3), 0
    for y in range(15):
        for x in range(19):
            if TABLE[y][x] == "1":
                continue
            exits = [a + 1 for a in (1, 2, 3, 4) if TABLE[y + DELTA[a][0]][x + DELTA[a][1]] == "0"]
            for drawn, meant in ((0, 4), (1, 5)):
                taken = []
                for heading in (drawn, meant):
                    back = reverse[heading - 2]
                    if len(exits) > 2:
                        taken.append([a for a in exits if a != back])
                    elif heading in exits:
                        taken.append([heading])
                    else:
                        taken.append([exits[1] if exits[0] == back else exits[0]])
                same += taken[0] == taken[1]
    assert same == 264 and 2 * len(ch.FREE) == 276


@pytest.mark.slow
def test_learns_the_regular_mode():
    floor = ch.play(
        ch.PLAYERS["random"](), ch.MODES["regular"], 128, np.random.default_rng(0)
    ).returns.mean()
    for seed in (1, 2, 3):
        end = last(ch.train_pacman(ch.PacmanConfig(steps=100_000), seed))
        assert end.metrics["return"] > 1.5 * floor, (
            seed
        )  # they reached 20 to 26; random play gets 8
