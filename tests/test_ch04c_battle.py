"""Chapter 04c: its battle against the engine itself, its learning against loops, its streams, its faults kept out."""

import collections
import importlib.util
import itertools
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn.utils import parameters_to_vector

from rlbook_utils import results
from rlbook_utils.checkpoint import load_checkpoint, random_state, save_checkpoint
from rlbook_utils.definitions import ROOT, load_chapter
from rlbook_utils.replay import Replay

torch.set_num_threads(1)  # a second thread costs these networks more than it brings
ch = load_chapter("ch04c_battle")
needs_magent = pytest.mark.skipif(
    importlib.util.find_spec("magent2") is None, reason="MAgent2 is not installed."
)
STAY = 6
DYING = {
    np.float32(-0.1),
    np.float32(0.1),
}  # what a soldier gets that dies; the latter, if it has hit an enemy before
UP, DOWN, LEFT, RIGHT = 2, 10, 5, 7  # one cell; y grows downwards


def last(progresses):
    *_, progress = progresses
    return progress


def placed(red, blue, side=20, limit=200, seed=0):
    """A battle whose soldiers stand, and are numbered, as the test wants it."""
    battle = ch.Battle(ch.Field(1, side, 1, limit), np.random.default_rng(seed))
    battle.engine.reset()
    for team, cells in zip(battle.teams, (red, blue), strict=True):
        battle.engine.add_agents(team, method="custom", pos=np.array(cells))
    battle.last_actions = [np.full(len(cells), -1) for cells in (red, blue)]
    battle.positions = [battle.engine.get_pos(team) for team in battle.teams]
    return battle


def cells(battle, team):
    return [tuple(map(int, cell)) for cell in battle.positions[team]]


def scattered(rng, count, side=20):
    """Different cells inside the walls, for two teams of ``count``."""
    chosen = rng.choice((side - 2) ** 2, 2 * count, replace=False)
    both = np.stack(np.divmod(chosen, side - 2), -1) + 1
    return both[:count], both[count:]


def idle(battle, team):
    return np.full(battle.alive[team], STAY)


# The geometry, against the engine


@needs_magent
def test_every_move_goes_where_the_table_says():
    for action, (dx, dy) in enumerate(ch.MOVES):
        battle = placed([(10, 10)], [(2, 2)])
        (reward, _), _ = battle.step([np.array([action]), np.array([STAY])])
        assert cells(battle, ch.RED) == [(10 + dx, 10 + dy)]
        assert reward == pytest.approx([-0.005])
    assert len({tuple(move) for move in ch.MOVES}) == 13
    assert max(np.square(ch.MOVES).sum(1)) == 4  # all cells no further than two


@needs_magent
def test_every_hit_lands_on_the_neighbour_in_the_table_and_on_no_other():
    around = [(10 + dx, 10 + dy) for dx, dy in ch.HITS]
    assert len(set(around)) == 8 and (np.abs(ch.HITS).max(1) == 1).all()
    for which in range(8):
        battle = placed([(10, 10)], around)
        (reward, _), _ = battle.step([np.array([13 + which]), np.full(8, STAY)])
        assert reward == pytest.approx([0.2 - 0.1 - 0.005])
        health = ch.views(battle, ch.BLUE)[:, 1, 6, 6]
        assert (
            health == np.where(np.arange(8) == which, 81, 100)
        ).all()  # 10 - 2 + 0.1 points of 10
        alone = placed(
            [(10, 10)], [around[(which + 3) % 8]]
        )  # nobody stands there: a blow into the air
        (reward, _), _ = alone.step([np.array([13 + which]), np.array([STAY])])
        assert (
            reward == pytest.approx([-0.1 - 0.005]) and ch.views(alone, ch.BLUE)[0, 1, 6, 6] == 100
        )


@needs_magent
def test_walls_and_soldiers_block():
    for corner, inside in (
        ((1, 1), lambda x, y: min(x, y) >= 1),
        ((18, 18), lambda x, y: max(x, y) <= 18),
    ):
        for action, move in enumerate(ch.MOVES):
            battle = placed([corner], [(10, 10)])
            battle.step([np.array([action]), np.array([STAY])])
            goal = tuple(int(c + d) for c, d in zip(corner, move, strict=True))
            assert cells(battle, ch.RED) == [goal if inside(*goal) else corner]
    battle = placed([(10, 10)], [(11, 10)])
    battle.step([np.array([RIGHT]), np.array([STAY])])
    assert cells(battle, ch.RED) == [(10, 10)]


@needs_magent
def test_a_soldier_sees_an_enemy_and_a_comrade_where_they_stand():
    seen = 0
    for dx, dy in itertools.product(range(-6, 7), repeat=2):
        if (dx, dy) == (0, 0):
            continue
        inside = dx**2 + dy**2 <= ch.REACH**2  # the engine's view is a disc in a square
        planes = ch.views(placed([(15, 15)], [(15 + dx, 15 + dy)], side=31), ch.RED)
        assert planes.shape == (1, 3, 13, 13) and planes.dtype == np.uint8
        found = {tuple(map(int, place)) for place in np.argwhere(planes[0])}
        assert found == {(1, 6, 6)} | ({(2, 6 + dy, 6 + dx)} if inside else set())
        seen += inside
        both = ch.views(placed([(15, 15), (15 + dx, 15 + dy)], [(1, 1)], side=31), ch.RED)
        assert (both[0, 1, 6 + dy, 6 + dx], both[1, 1, 6 - dy, 6 - dx]) == (
            (100, 100) if inside else (0, 0)
        )
    assert seen == 112


@needs_magent
def test_walls_are_seen_and_health_is_in_percent():
    battle = placed([(2, 3)], [(3, 3)])
    walls = ch.views(battle, ch.RED)[0, 0]
    for dy, dx in itertools.product(range(-6, 7), repeat=2):
        x, y = 2 + dx, 3 + dy
        edge = (x == 0 and y >= 0) or (y == 0 and x >= 0)
        assert walls[6 + dy, 6 + dx] == (100 if edge and dx**2 + dy**2 <= 36 else 0)
    for health in (81, 62, 43, 24):
        battle.step([np.array([13 + 4]), np.array([STAY])])
        assert (
            ch.views(battle, ch.RED)[0, 2, 6, 7] == health == ch.views(battle, ch.BLUE)[0, 1, 6, 6]
        )
        assert ch.views(battle, ch.RED)[0, 1, 6, 6] == 100


@pytest.mark.parametrize("name", ["SKIRMISH", "WAR"])
def test_the_armies_are_mirror_images(name):
    field = getattr(ch, name)
    red, blue = ({tuple(map(int, cell)) for cell in team} for team in ch.line_up(field))
    assert len(red) == len(blue) == field.soldiers == {"SKIRMISH": 16, "WAR": 64}[name]
    front, facing = max(x for x, _ in red), min(x for x, _ in blue)
    assert {(front + facing - x, y) for x, y in red} == blue
    everyone = np.array([*red, *blue])
    assert everyone.min() >= 1 and everyone.max() <= field.side - 2  # inside the walls
    assert abs(everyone[:, 0].min() - (field.side - 1 - everyone[:, 0].max())) <= 1
    assert front < field.side // 2 <= facing
    out_of_sight = facing - front > ch.REACH
    assert out_of_sight == (name == "WAR")  # the war's armies have to find each other


@needs_magent
def test_the_war_lines_up_as_magents_own_battle():
    from magent2.environments import battle_v4

    env = battle_v4.parallel_env(map_size=ch.WAR.side)
    for handle, team in zip(env.handles, ch.line_up(ch.WAR), strict=True):
        assert sorted(env.env.get_pos(handle).tolist()) == sorted(team.tolist())


def test_without_magent_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(ch, "HAS_MAGENT", False)
    with pytest.raises(ImportError) as caught:
        ch.Battle(ch.SKIRMISH, np.random.default_rng(0))
    assert str(caught.value) == "The battle needs MAgent2: `pip install magent2==0.3.4`."


@pytest.mark.slow
def test_what_needs_no_engine_works_where_there_is_none():
    code = """
import sys
sys.modules["magent2"] = None
from rlbook_utils.definitions import load_chapter
chapter = load_chapter("ch04c_battle")
chapter.MEASUREMENTS, chapter.train_battle, chapter.BattleQ(8)
print(chapter.HAS_MAGENT)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["False"], done.stderr


# A battle


class Calls:
    """An engine that notes which of its functions are called, in order."""

    def __init__(self, engine):
        self.engine, self.names = engine, []

    def __getattr__(self, name):
        found = getattr(self.engine, name)

        def call(*args, **kwargs):
            self.names.append(name)
            return found(*args, **kwargs)

        return call if callable(found) else found


@needs_magent
def test_rewards_and_lives_are_read_before_the_dead_are_cleared():
    battle = placed([(10, 10)], [(11, 10)])
    battle.engine = calls = Calls(battle.engine)
    battle.step([np.array([STAY]), np.array([STAY])])
    cleared, stepped = calls.names.index("clear_dead"), calls.names.index("step")
    assert calls.names[:stepped] == ["set_action"] * 2
    assert sorted(calls.names[stepped + 1 : cleared]) == ["get_alive"] * 2 + ["get_reward"] * 2
    assert calls.names[cleared + 1 :] == ["get_pos"] * 2


@needs_magent
def test_who_dies_is_punished_and_leaves_and_the_killer_is_paid_once():
    battle = placed([(10, 10), (3, 3)], [(11, 10), (16, 16)])
    for health in (81, 62, 43, 24, 5):
        rewards, living = battle.step([np.array([13 + 4, STAY]), np.array([STAY, STAY])])
        assert rewards[ch.RED] == pytest.approx([0.095, -0.005]) and living[ch.BLUE].all()
        assert ch.views(battle, ch.BLUE)[0, 1, 6, 6] == health
    rewards, living = battle.step([np.array([13 + 4, STAY]), np.array([STAY, DOWN])])
    assert rewards[ch.RED] == pytest.approx([4.895, -0.005])  # one kill of 5, not two
    assert rewards[ch.BLUE] == pytest.approx([-0.1, -0.005])
    assert living[ch.RED].tolist() == [True, True] and living[ch.BLUE].tolist() == [False, True]
    assert battle.alive == (2, 1) and cells(battle, ch.BLUE) == [(16, 17)]
    assert battle.last_actions[ch.BLUE].tolist() == [DOWN]  # the survivor's, not the dead one's
    assert not battle.wiped_out and not battle.over
    rewards, living = battle.step([idle(battle, 0), idle(battle, 1)])
    assert len(rewards[ch.BLUE]) == len(living[ch.BLUE]) == 1


def bloody(battle):
    """Orders under which soldiers die: hits and steps towards the enemy."""
    return [ch.chase(battle, team) for team in (ch.RED, ch.BLUE)]


@needs_magent
def test_rows_stay_in_the_order_of_the_engines_ids():
    """Rewards, lives and positions of one row are those of one soldier, before and after deaths."""
    battle, deaths = ch.Battle(ch.SKIRMISH, np.random.default_rng(1)), 0
    while not battle.over:
        ids = [battle.engine.get_agent_id(team) for team in battle.teams]
        where, actions = [p.copy() for p in battle.positions], bloody(battle)
        rewards, living = battle.step(actions)
        for team, handle in enumerate(battle.teams):
            assert (np.diff(ids[team]) > 0).all()
            np.testing.assert_array_equal(
                ids[team][living[team]], battle.engine.get_agent_id(handle)
            )
            moved = battle.positions[team] - where[team][living[team]]
            np.testing.assert_array_equal(battle.last_actions[team], actions[team][living[team]])
            for step, action in zip(moved, battle.last_actions[team], strict=True):
                wanted = ch.MOVES[action] if action < 13 else (0, 0)
                assert tuple(step) in {tuple(wanted), (0, 0)}
            assert set(np.round(rewards[team][~living[team]], 3)) <= DYING
            deaths += (~living[team]).sum()
    assert deaths >= 16


@needs_magent
def test_a_reset_brings_back_both_teams_whole_and_where_they_started():
    battle = ch.Battle(ch.SKIRMISH, np.random.default_rng(2))
    starts = [sorted(cells(battle, team)) for team in (0, 1)]
    assert starts == [sorted(map(tuple, team.tolist())) for team in ch.line_up(ch.SKIRMISH)]
    while not battle.over:
        battle.step(bloody(battle))
    assert battle.wiped_out and 0 in battle.alive and battle.steps > 0
    battle.reset()
    assert battle.alive == (16, 16) and battle.steps == 0 and not battle.over
    assert [sorted(cells(battle, team)) for team in (0, 1)] == starts
    for team in (0, 1):
        assert (ch.views(battle, team)[:, 1, 6, 6] == 100).all()
        assert (ch.mean_actions(battle, team) == 0).all()


@needs_magent
def test_the_rows_of_a_team_are_dealt_by_lot():
    """Pitfall: the engine serves soldiers in the order of their rows; rear to front for red, front to rear for blue."""
    battle, orders = ch.Battle(ch.Field(4, 20, 1), np.random.default_rng(0)), [[], []]
    for _ in range(240):
        battle.reset()
        for team in (0, 1):
            orders[team].append(tuple(cells(battle, team)))
    for dealt in orders:
        counts = collections.Counter(dealt)
        assert len(counts) == 24 and stats.chisquare(list(counts.values())).pvalue > 1e-3
    assert len(set(zip(*orders, strict=True))) > 120  # each team by its own lot


@needs_magent
def test_each_team_carries_out_its_own_orders():
    for seed in range(8):  # whoever moves first
        battle = ch.Battle(ch.SKIRMISH, np.random.default_rng(seed))
        for _ in range(2):
            before = [p.copy() for p in battle.positions]
            battle.step([np.full(16, UP), np.full(16, DOWN)])
            for team, dy in enumerate((-1, 1)):
                assert (battle.positions[team] - before[team] == (0, dy)).all()
            battle.reset()


@needs_magent
def test_magents_own_wrapper_gives_blue_the_orders_of_red():
    """Pitfall, in the installed MAgent2: the wrapper counts its teams before it has put them on the map."""
    from magent2.environments import battle_v4

    env = battle_v4.parallel_env(map_size=20)
    env.reset()
    orders = {name: UP if name.startswith("red") else DOWN for name in env.agents}
    falls = []
    for _ in range(2):
        before = [env.env.get_pos(handle) for handle in env.handles]
        env.step(orders)
        after = [env.env.get_pos(handle) for handle in env.handles]
        falls.append([set((b - a)[:, 1].tolist()) for a, b in zip(before, after, strict=True)])
    assert falls == [
        [{-1}, {-1}],
        [{-1}, {1}],
    ]  # blue goes up at the first step, down from the second on


class Fixed:
    """Random numbers, except that one team always comes first."""

    def __init__(self, rng, order):
        self.rng, self.order = rng, order

    def permutation(self, x):
        return np.array(self.order) if isinstance(x, int) else self.rng.permutation(x)

    def __getattr__(self, name):
        return getattr(self.rng, name)


def wins_of_red(monkeypatch, battles, order=None):
    """Of battles between two chasers that one team wins, those that red wins, and how many there are."""
    with monkeypatch.context() as patch:
        if order is not None:
            seeded = ch.generators
            patch.setattr(
                ch, "generators", lambda *args: [Fixed(rng, order) for rng in seeded(*args)]
            )
        survivors = ch.fight(ch.chaser, ch.chaser, ch.Field(4, 20, 1), battles, (99, 4))
    red, blue = survivors.T
    return int(((red > 0) & (blue == 0)).sum()), int(((red == 0) != (blue == 0)).sum())


@needs_magent
def test_a_coin_decides_who_moves_first():
    class Spy:
        def __init__(self, engine):
            self.engine, self.order = engine, []

        def set_action(self, team, actions):
            self.order.append(team.value)
            self.engine.set_action(team, actions)

        def __getattr__(self, name):
            return getattr(self.engine, name)

    battle = placed([(3, 3)], [(16, 16)], limit=10_000)
    battle.engine = spy = Spy(battle.engine)
    for _ in range(2000):
        battle.step([idle(battle, 0), idle(battle, 1)])
    pairs = np.array(spy.order).reshape(-1, 2)
    assert (pairs.sum(1) == 1).all()  # both, once each
    assert stats.binomtest(int(pairs[:, 0].sum()), 2000).pvalue > 1e-3
    repeated = int((pairs[1:, 0] == pairs[:-1, 0]).sum())
    assert stats.binomtest(repeated, 1999).pvalue > 1e-3  # afresh at every step


@needs_magent
def test_between_two_chasers_colour_decides_nothing(monkeypatch):
    """Pitfall: the engine serves soldiers in the order of their rows, and a team before the other."""
    won, decided = wins_of_red(monkeypatch, 400)
    assert decided > 390 and stats.binomtest(won, decided).pvalue > 1e-3
    won, decided = wins_of_red(monkeypatch, 100, order=(ch.RED, ch.BLUE))
    assert won < 0.2 * decided  # without the coin, the second team wins
    won, decided = wins_of_red(monkeypatch, 100, order=(ch.BLUE, ch.RED))
    assert won > 0.8 * decided


@needs_magent
def test_what_a_soldier_saw_does_not_change_with_the_battle():
    """Pitfall: the engine reuses its observation buffers."""
    battle = ch.Battle(ch.SKIRMISH, np.random.default_rng(3))
    kept = [ch.views(battle, team) for team in (0, 1)]
    copies, where = [k.copy() for k in kept], [p.copy() for p in battle.positions]
    first = battle.positions
    for _ in range(6):
        battle.step(bloody(battle))
        assert not np.shares_memory(ch.views(battle, 0), kept[0])
        ch.views(battle, 1)
    for team in (0, 1):
        np.testing.assert_array_equal(kept[team], copies[team])
        np.testing.assert_array_equal(first[team], where[team])
        assert (ch.views(battle, team)[:16].shape != kept[team].shape) or (
            ch.views(battle, team) != kept[team]
        ).any()


def test_a_battle_ends_with_the_clock_or_with_a_team():
    def at(red, blue, steps):
        battle = object.__new__(ch.Battle)
        battle.field, battle.steps = ch.Field(4, 20, 1, limit=9), steps
        battle.positions = [np.zeros((red, 2)), np.zeros((blue, 2))]
        return battle.alive, battle.wiped_out, battle.over

    assert at(3, 2, 8) == ((3, 2), False, False) and at(3, 2, 9) == ((3, 2), False, True)
    assert at(0, 2, 8) == ((0, 2), True, True) and at(3, 0, 1) == ((3, 0), True, True)


# What soldiers know of each other


def crowd(seed, count=12, side=14, acted=True):
    """A battle without an engine: soldiers close together, and what they did."""
    rng = np.random.default_rng(seed)
    positions = [team.astype(np.int32) for team in scattered(rng, count, side)]
    actions = [rng.integers(21, size=count) if acted else np.full(count, -1) for _ in (0, 1)]
    return SimpleNamespace(
        positions=positions,
        last_actions=actions,
        rng=np.random.default_rng(seed),
        alive=(count, count),
    )


def slow_mean_actions(battle, team):
    where, rows = battle.positions[team].tolist(), []
    for i, (x, y) in enumerate(where):
        near = [j for j, (u, v) in enumerate(where) if j != i and in_range(u - x, v - y)]
        said = collections.Counter(int(battle.last_actions[team][j]) for j in near)
        heard = sum(said[a] for a in range(21))
        rows.append([said[a] / heard if heard else 0.0 for a in range(21)])
    return np.array(rows)


def in_range(dx, dy):
    return abs(dx) + abs(dy) <= 6


@pytest.mark.parametrize("seed", range(5))
def test_the_mean_action_agrees_with_a_loop(seed):
    battle = crowd(seed, side=14 if seed < 3 else 26)
    for team in (0, 1):
        found = ch.mean_actions(battle, team)
        np.testing.assert_allclose(found, slow_mean_actions(battle, team), atol=1e-6)
        assert found.dtype == np.float32 and found.shape == (12, 21)
        assert set(np.round(found.sum(1), 5)) <= {0.0, 1.0}
    assert not np.array_equal(ch.mean_actions(battle, 0), ch.mean_actions(battle, 1))


def test_before_the_first_step_and_far_from_all_others_there_is_nothing_to_know():
    assert (ch.mean_actions(crowd(0, acted=False), 0) == 0).all()
    battle = SimpleNamespace(
        positions=[np.array([(1, 1), (3, 3), (28, 28)]), np.array([(28, 27)])],
        last_actions=[np.array([4, 9, 9]), np.array([2])],
    )
    found = ch.mean_actions(battle, 0)
    assert found[0, 9] == 1 and found[1, 4] == 1 and found[:2].sum() == 2
    assert (found[2] == 0).all()  # an enemy next door is not a comrade


@needs_magent
def test_the_dead_are_not_counted():
    battle = placed([(10, 10), (9, 1), (9, 3)], [(11, 10)])
    hit_left = np.array([13 + 3])
    while battle.alive[ch.RED] == 3:
        battle.step([np.array([STAY, UP, 13]), hit_left])
    assert battle.last_actions[ch.RED].tolist() == [UP, 13]
    found = ch.mean_actions(battle, ch.RED)
    assert found[0, 13] == found[1, UP] == 1 and found.sum() == 2


def test_the_control_deals_the_same_rows_to_other_soldiers():
    battle = crowd(1)
    rows, dealt = ch.mean_actions(battle, 0), ch.shuffled_actions(battle, 0)
    key = lambda row: tuple(row.tolist())
    assert collections.Counter(map(key, dealt)) == collections.Counter(map(key, rows))
    assert not np.array_equal(dealt, rows)
    again = ch.shuffled_actions(battle, 0)
    assert not np.array_equal(dealt, again)  # drawn afresh
    unmoved = [np.mean([key(a) == key(b) for a, b in zip(rows, ch.shuffled_actions(battle, 0), strict=True)])
               for _ in range(300)]  # fmt: skip
    assert 0.04 < np.mean(unmoved) < 0.2  # one in twelve, and who happens to have equal ones
    nothing = ch.no_actions(battle, 0)
    assert nothing.shape == rows.shape and nothing.dtype == np.float32 and not nothing.any()
    assert list(ch.KNOWLEDGE) == ["neighbours", "nothing", "shuffled"]
    for knowledge, wanted in zip(ch.KNOWLEDGE.values(), (rows, nothing), strict=False):
        np.testing.assert_array_equal(knowledge(battle, 0), wanted)
    assert ch.KNOWLEDGE["shuffled"] is ch.shuffled_actions


# The scripts


def allowed(battle, team, enemy_health):
    """What the chaser's one sentence allows every soldier to do, written out: a set of actions for each."""
    mine, theirs, found = cells(battle, team), cells(battle, 1 - team), []
    occupied, side = {*mine, *theirs}, battle.field.side
    span = lambda p, q: (
        max(abs(p[0] - q[0]), abs(p[1] - q[1])),
        abs(p[0] - q[0]) + abs(p[1] - q[1]),
    )
    for x, y in mine:
        adjacent = {
            j: enemy_health[j] for j, cell in enumerate(theirs) if span((x, y), cell)[0] == 1
        }
        if adjacent:
            weakest = [j for j in adjacent if adjacent[j] == min(adjacent.values())]
            offsets = [(theirs[j][0] - x, theirs[j][1] - y) for j in weakest]
            found.append({13 + ch.HITS.tolist().index(list(offset)) for offset in offsets})
            continue
        options, nearest = set(), min(span((x, y), cell) for cell in theirs)
        for target in (cell for cell in theirs if span((x, y), cell) == nearest):
            left = {}
            for action, (dx, dy) in enumerate(ch.MOVES):
                goal = (x + int(dx), y + int(dy))
                inside = min(goal) >= 1 and max(goal) <= side - 2
                if goal == (x, y) or (inside and goal not in occupied):
                    left[action] = span(goal, target)
            options |= {action for action in left if left[action] == min(left.values())}
        found.append(options)
    return found


@needs_magent
@pytest.mark.parametrize("seed", range(6))
def test_the_chaser_does_what_its_sentence_says(seed):
    rng, kinds = np.random.default_rng(seed), set()
    for _ in range(6):
        side = int(rng.integers(8, 24))
        battle = placed(*scattered(rng, 8, side), side=side, seed=seed)
        for _ in range(12):
            if battle.over:
                break
            for team in (0, 1):
                health = ch.views(battle, 1 - team)[:, 1, 6, 6].tolist()
                actions = ch.chase(battle, team)
                for action, options in zip(actions, allowed(battle, team, health), strict=True):
                    assert action in options
                    kinds.add(action >= 13)
            orders = [ch.chase(battle, 0), ch.chase(battle, 1)]
            mixed = [
                np.where(rng.random(len(a)) < 0.4, rng.integers(21, size=len(a)), a) for a in orders
            ]
            battle.step(mixed)
    assert kinds == {True, False}


@needs_magent
def test_the_chaser_hits_the_weakest_and_draws_lots_between_equal_paths():
    battle = placed([(10, 10), (2, 2)], [(11, 10), (10, 11), (9, 10)])
    battle.step([np.array([13 + 6, STAY]), np.full(3, STAY)])  # the one below is weaker now
    for _ in range(5):
        assert ch.chase(battle, ch.RED)[0] == 13 + 6
    assert (ch.chase(battle, ch.BLUE) == [13 + 3, 13 + 1, 13 + 4]).all()
    battle = placed([(10, 10)], [(15, 10)], seed=4)
    assert {int(ch.chase(battle, ch.RED)[0]) for _ in range(20)} == {8}  # two to the right
    battle = placed([(10, 10)], [(15, 15)], seed=4)
    assert {int(ch.chase(battle, ch.RED)[0]) for _ in range(20)} == {11}  # down and right
    battle = placed([(10, 10), (11, 10), (12, 10)], [(15, 10)], seed=4)  # comrades in the way
    seen = collections.Counter(int(ch.chase(battle, ch.RED)[0]) for _ in range(200))
    assert set(seen) == {3, 11} and stats.binomtest(seen[3], 200).pvalue > 1e-3  # around them


@needs_magent
@pytest.mark.parametrize("seed", range(6))
def test_the_captain_waits_for_contact_and_wastes_no_blow(seed):
    rng, waited, shared = np.random.default_rng(seed), 0, 0
    battle = ch.Battle(ch.SKIRMISH, rng)
    while not battle.over:
        mine, theirs = (battle.positions[team].tolist() for team in (0, 1))
        health, actions = ch.views(battle, 1)[:, 1, 6, 6].tolist(), ch.coordinate(battle, 0)
        span = [[max(abs(x - u), abs(y - v)) for u, v in theirs] for x, y in mine]
        hits = collections.Counter()
        for (x, y), action, apart in zip(mine, actions, span, strict=True):
            if 1 in apart:
                dx, dy = ch.HITS[action - 13]
                hits[theirs.index([x + dx, y + dy])] += 1
            else:
                assert action < 13
                if not any(1 in row for row in span) and min(apart) <= 3:
                    assert action == STAY
                    waited += 1
        for enemy, count in hits.items():
            blows = health[enemy] // 20 + 1
            crowd = [i for i, row in enumerate(span) if row[enemy] == 1]
            spare = [
                i
                for i in crowd
                if any(hits[j] < health[j] // 20 + 1 for j, d in enumerate(span[i]) if d == 1)
            ]
            assert count <= blows or not any(
                i in spare
                for i in crowd
                if tuple(ch.HITS[actions[i] - 13] + mine[i]) == tuple(theirs[enemy])
            )
            shared += count == blows
        battle.step([actions, ch.chase(battle, 1)])
    assert waited > 0 and shared > 3 and battle.alive[1] < 8


@needs_magent
def test_random_soldiers_take_every_action_alike():
    battles = [ch.Battle(ch.WAR, rng) for rng in ch.generators((99, 1), 2)]
    drawn = np.concatenate(
        [np.concatenate(ch.random_player(battles, team)) for _ in range(80) for team in (0, 1)]
    )
    assert len(drawn) == 80 * 2 * 2 * 64
    assert stats.chisquare(np.bincount(drawn, minlength=21)).pvalue > 1e-3
    assert len(np.bincount(drawn)) == 21


# Fights and their scores


def standing(battles, team):
    return [idle(battle, team) for battle in battles]


@needs_magent
def test_the_chaser_beats_random_soldiers_as_either_colour():
    field = ch.SKIRMISH._replace(limit=1000)
    as_red = ch.fight(ch.chaser, ch.random_player, field, 12, (99, 2))
    as_blue = ch.fight(ch.random_player, ch.chaser, field, 12, (99, 3))
    assert as_red.shape == as_blue.shape == (12, 2)
    assert (as_red[:, 0] > 0).all() and (as_red[:, 1] == 0).all()
    assert (as_blue[:, 1] > 0).all() and (as_blue[:, 0] == 0).all()
    score = ch.both_sides(ch.CHASER, ch.RANDOM, field, 12, (99, 5))
    assert (score.won, score.lost, score.kills) == (1, 0, 16) and score.losses < 4
    score = ch.both_sides(ch.RANDOM, ch.CHASER, field, 12, (99, 5))
    assert (score.won, score.lost, score.losses) == (0, 1, 16) and score.kills < 4


@needs_magent
def test_a_timeout_is_nobodys_victory():
    field = ch.Field(4, 20, 1, limit=7)
    score = ch.both_sides((standing,) * 2, ch.CHASER, field, 4, (99, 6))
    assert score.won == score.lost == 0 and 0 <= score.losses < 4 and score.kills == 0


def test_a_score_is_of_one_side():
    survivors = np.array([[3, 0], [0, 2], [5, 4], [0, 0], [16, 0]])
    red, blue = (ch.score_of(survivors, team, ch.SKIRMISH) for team in (0, 1))
    kills, losses = np.mean(16 - survivors[:, 1]), np.mean(16 - survivors[:, 0])
    assert red == pytest.approx((2 / 5, 1 / 5, kills, losses))
    assert blue == pytest.approx((1 / 5, 2 / 5, losses, kills))


def test_both_sides_are_led_by_those_who_were_trained_for_them(monkeypatch):
    fought = []

    def fight(red, blue, field, battles, seed):
        fought.append((red, blue, field, battles, tuple(seed)))
        return np.array([[2, 0]] * 3 + [[0, 4]])  # red wins three of four

    monkeypatch.setattr(ch, "fight", fight)
    score = ch.both_sides(("a red", "a blue"), ("b red", "b blue"), ch.SKIRMISH, 8, (5, 7))
    assert [f[:4] for f in fought] == [
        ("a red", "b blue", ch.SKIRMISH, 4), ("b red", "a blue", ch.SKIRMISH, 4)
    ]  # fmt: skip
    assert len({f[4] for f in fought}) == 2
    kills = (16 - 1 + 16 - 1.5) / 2
    assert score == pytest.approx((0.5, 0.5, kills, kills))


@needs_magent
def test_every_battle_is_fought_to_its_end_by_the_right_player():
    """Red's player gets only battles that go on, and commands red; battles of different length end one by one."""
    asked = {ch.RED: [], ch.BLUE: []}

    def spy(battles, team):
        assert not any(battle.over for battle in battles)
        asked[team].append(len(battles))
        return ch.chaser(battles, team)

    survivors = ch.fight(spy, ch.chaser, ch.Field(4, 20, 1), 10, (99, 7))
    assert asked[ch.BLUE] == [] and asked[ch.RED][0] == 10 and asked[ch.RED][-1] < 10
    assert (np.diff(asked[ch.RED]) <= 0).all() and ((survivors == 0).sum(1) >= 1).all()


@needs_magent
def test_the_seed_decides_a_fight_also_of_networks():
    torch.manual_seed(0)
    nets = [ch.BattleQ(8) for _ in (0, 1)]
    led = ch.commanders(nets, "shuffled", temperature=1.0)
    field = ch.SKIRMISH._replace(limit=25)

    def fought(seed):
        return ch.fight(led[0], ch.chaser, field, 5, seed).tolist()

    first = fought((99, 8))
    torch.randn(3)  # whatever came before
    assert fought((99, 8)) == first
    assert fought((99, 9)) != first


def some_deeds(size, seed=0, dtype=torch.float32):
    """A batch of random experience, as tensors."""
    draw = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(*shape, generator=draw, dtype=dtype)
    views = [
        torch.randint(0, 101, (size, 3, 13, 13), generator=draw).to(torch.uint8) for _ in (0, 1)
    ]
    return ch.Deed(
        views[0], rand(size, 21), torch.randint(0, 21, (size,), generator=draw), rand(size) - 0.5,
        views[1], rand(size, 21), rand(size) < 0.3,
    )  # fmt: skip


# What is learned


@pytest.mark.parametrize("temperature", [0.05, 0.4])
def test_the_boltzmann_policy_draws_in_proportion_to_its_softmax(temperature):
    torch.manual_seed(0)
    q_values = torch.tensor([0.3, -0.2, 0.25, 0.0])
    drawn = ch.boltzmann(q_values.expand(100_000, 4), temperature)
    weights = np.exp(q_values.double().numpy() / temperature)
    wanted = weights / weights.sum() * 100_000
    counts = np.bincount(drawn.numpy(), minlength=4)
    often = wanted > 5  # at 0.05 the second action is expected 3 times in 100,000
    assert (
        stats.chisquare(
            counts[often], wanted[often] * counts[often].sum() / wanted[often].sum()
        ).pvalue
        > 1e-3
    )
    assert drawn.shape == (100_000,) and counts[~often].sum() < 20


def test_a_cold_policy_is_greedy_row_by_row():
    torch.manual_seed(0)
    q_values = torch.randn(2000, 21)
    assert torch.equal(ch.boltzmann(q_values, 1e-6), q_values.argmax(1))
    assert not torch.equal(ch.boltzmann(q_values, 1.0), q_values.argmax(1))


class Linear(nn.Module):
    """A network in double precision, so that losses can be compared to many digits."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.eyes = nn.Linear(3 * 13 * 13, 21, dtype=torch.float64)
        self.ears = nn.Linear(21, 21, dtype=torch.float64)

    def forward(self, planes, mean_action):
        return self.eyes(0.001 * planes.double().flatten(1)) + self.ears(mean_action)


def slow_loss(net, target_net, batch, discount, temperature):
    total = 0.0
    for i in range(len(batch.actions)):
        row = lambda part: part[i : i + 1]
        later = target_net(row(batch.next_planes), row(batch.next_mean_action))[0].detach().numpy()
        weights = np.exp((later - later.max()) / temperature)
        value = float((weights / weights.sum() * later).sum())
        target = float(batch.rewards[i]) + (0.0 if batch.ended[i] else discount * value)
        total = (
            total
            + (net(row(batch.planes), row(batch.mean_action))[0, batch.actions[i]] - target) ** 2
        )
    return total / len(batch.actions)


@pytest.mark.parametrize("temperature", [0.004, 0.3])
def test_the_loss_agrees_with_a_loop_and_with_finite_differences(temperature):
    net, target_net, batch = Linear(1), Linear(2), some_deeds(24, 3, torch.float64)
    assert 0 < batch.ended.sum() < 24
    loss = ch.mean_field_loss(net, target_net, batch, 0.9, temperature)
    assert loss.item() == pytest.approx(
        slow_loss(net, target_net, batch, 0.9, temperature).item(), rel=1e-10
    )
    loss.backward()
    assert all(p.grad is None for p in target_net.parameters())
    rng = np.random.default_rng(0)
    for weights in net.parameters():
        for place in rng.choice(weights.numel(), 6, replace=False):
            values, found = weights.data.view(-1), []
            for change in (1e-5, -2e-5):
                values[place] += change
                found.append(ch.mean_field_loss(net, target_net, batch, 0.9, temperature).item())
            values[place] += 1e-5
            wanted = (found[0] - found[1]) / 2e-5
            assert weights.grad.view(-1)[place].item() == pytest.approx(wanted, rel=1e-5, abs=1e-8)


def test_only_the_action_that_was_taken_is_corrected():
    """Pitfall: target[:, actions] = ... writes every row and every column."""
    table = nn.Parameter(torch.randn(16, 21))
    batch = some_deeds(16, 4)
    loss = ch.mean_field_loss(lambda *_: table, lambda *_: torch.zeros(16, 21), batch, 0.9, 0.1)
    loss.backward()
    wanted = torch.zeros(16, 21)
    for i, action in enumerate(batch.actions):
        wanted[i, action] = 2 * (table[i, action] - batch.rewards[i]) / 16
    torch.testing.assert_close(table.grad, wanted.detach())


def test_the_network_reads_both_its_inputs():
    torch.manual_seed(0)
    net, batch = ch.BattleQ(16), some_deeds(5)
    q_values = net(batch.planes, batch.mean_action)
    assert q_values.shape == (5, 21)
    assert not torch.allclose(q_values, net(batch.planes.flip(0), batch.mean_action))
    assert not torch.allclose(q_values, net(batch.planes, batch.mean_action.flip(0)))
    assert net(batch.planes[:1], batch.mean_action[:1]).shape == (1, 21)
    torch.manual_seed(1)
    many = ch.BattleQ(16)(batch.planes, batch.mean_action)
    assert many.min() < 0 < many.max()  # values may have either sign


def test_what_comes_next_belongs_to_the_survivors():
    rng, size = np.random.default_rng(0), 9
    sight = lambda n: ch.Sight(
        rng.integers(1, 101, (n, 3, 13, 13)).astype(np.uint8),
        rng.random((n, 21)).astype(np.float32),
    )
    before, living = sight(size), rng.random(size) < 0.6
    actions, rewards = rng.integers(21, size=size), rng.random(size).astype(np.float32)
    after = sight(living.sum())
    found = ch.deeds(before, actions, rewards, living, after, False)
    survivor = 0
    for i in range(size):
        assert (found.planes[i] == before.planes[i]).all() and found.actions[i] == actions[i]
        assert (found.mean_action[i] == before.mean_action[i]).all() and found.rewards[
            i
        ] == rewards[i]
        if living[i]:
            assert not found.ended[i] and (found.next_planes[i] == after.planes[survivor]).all()
            assert (found.next_mean_action[i] == after.mean_action[survivor]).all()
            survivor += 1
        else:
            assert (
                found.ended[i]
                and not found.next_planes[i].any()
                and not found.next_mean_action[i].any()
            )
    assert 0 < survivor < size
    won = ch.deeds(before, actions, rewards, living, before, True)
    assert won.ended.all() and not won.next_planes.any() and not won.next_mean_action.any()


def quick(**changes):
    settings = {
        "field": ch.Field(4, 14, 1, 25), "battle_steps": 1000, "battles": 2, "hidden": 8, "batch": 16,
        "capacity": 4000, "sync_every": 20,
    }  # fmt: skip
    return ch.BattleConfig(**settings | changes)


@needs_magent
def test_experience_is_what_the_battle_did():
    """Sights, orders, rewards and ends of a whole duel, against the battle's own engine."""
    for share, seed in ((1.0, 0), (1.0, 3), (0.0, 2)):
        config = quick(field=ch.Field(4, 14, 1, 200), chaser_share=share, reward_cap=0.5)
        duel, kills = ch.Duel(config, np.random.default_rng(seed)), 0
        rng = np.random.default_rng(9)
        while not duel.battle.over:
            battle, learners = duel.battle, duel.learners
            assert len(learners) == (1 if share else 2) and duel.scripted not in learners
            before = {
                team: (ch.views(battle, team), ch.mean_actions(battle, team)) for team in learners
            }
            ids = [battle.engine.get_agent_id(team) for team in battle.teams]
            orders = {team: np.where(rng.random(battle.alive[team]) < 0.2, STAY, ch.chase(battle, team))
                      for team in learners}  # fmt: skip
            found = duel.step({team: order.copy() for team, order in orders.items()})
            assert set(found) == set(learners)
            for team, deed in found.items():
                still = np.isin(ids[team], battle.engine.get_agent_id(battle.teams[team]))
                np.testing.assert_array_equal(deed.planes, before[team][0])
                np.testing.assert_allclose(deed.mean_action, before[team][1])
                np.testing.assert_array_equal(deed.actions, orders[team])
                assert deed.rewards.max() <= 0.5
                kills += (deed.rewards == 0.5).sum()
                if battle.wiped_out:
                    assert deed.ended.all()
                else:
                    np.testing.assert_array_equal(deed.ended, ~still)
                    np.testing.assert_array_equal(deed.next_planes[still], ch.views(battle, team))
                    np.testing.assert_allclose(
                        deed.next_mean_action[still], ch.mean_actions(battle, team)
                    )
        assert kills > 0 and duel.battle.wiped_out


@needs_magent
def test_the_clock_ends_no_experience():
    """Pitfall: a battle that time stops would have gone on."""
    duel = ch.Duel(quick(field=ch.Field(4, 20, 3, 2), chaser_share=0.0), np.random.default_rng(0))
    for _ in range(2):
        found = duel.step({team: idle(duel.battle, team) for team in (0, 1)})
    assert duel.battle.over and not duel.battle.wiped_out
    for team, deed in found.items():
        assert not deed.ended.any() and (deed.next_planes == ch.views(duel.battle, team)).all()


@needs_magent
@pytest.mark.parametrize("cap", [0.5, 10.0])
def test_the_reward_cap_acts(cap):
    duel, best = (
        ch.Duel(
            quick(chaser_share=0.0, reward_cap=cap, field=ch.Field(4, 14, 1)),
            np.random.default_rng(1),
        ),
        [],
    )
    while not duel.battle.over:
        actions = {team: ch.chase(duel.battle, team) for team in (0, 1)}
        best += [deed.rewards.max() for deed in duel.step(actions).values()]
    assert max(best) == pytest.approx(min(cap, 4.895))


@needs_magent
def test_the_chaser_leads_the_share_that_the_config_says_of_either_colour():
    for share in (0.0, 0.7, 1.0):
        duel = ch.Duel(quick(chaser_share=share), np.random.default_rng(5))
        drawn = []
        for _ in range(400):
            duel.begin()
            drawn.append(duel.scripted)
            assert duel.learners == [team for team in (0, 1) if team != duel.scripted]
            assert set(duel.sights) == set(duel.learners) and duel.battle.steps == 0
        led = collections.Counter(drawn)
        assert stats.binomtest(400 - led[None], 400, share).pvalue > 1e-3
        if share:
            assert stats.binomtest(led[0], led[0] + led[1]).pvalue > 1e-3


class Always(nn.Module):
    """A network that wants one action, and notes by how many soldiers it is asked."""

    def __init__(self, action):
        super().__init__()
        self.action, self.asked, self.values = action, [], nn.Linear(1, 1)

    def forward(self, planes, mean_action):
        self.asked.append(len(planes))
        return 100.0 * nn.functional.one_hot(torch.full((len(planes),), self.action), 21)


@needs_magent
def test_each_team_is_led_by_its_own_network_in_one_forward_and_remembers_its_own_deeds(
    monkeypatch,
):
    """Pitfall: team 2 acting with team 1's parameters."""
    teams = [SimpleNamespace(net=Always(a), replay=Replay(1000)) for a in (UP, DOWN)]
    duels = [ch.Duel(quick(), rng) for rng in ch.generators((99, 11), 6)]
    for duel, scripted in zip(duels, (None, 0, 1, None, 1, 1), strict=True):
        duel.scripted = scripted
        duel.look()
    before = [[p.copy() for p in duel.battle.positions] for duel in duels]
    monkeypatch.setattr(
        ch, "chase", lambda battle, team: np.full(battle.alive[team], LEFT if team else RIGHT)
    )
    assert ch.act_and_remember(teams, duels, 0.1) == []
    assert [team.net.asked for team in teams] == [[5 * 4], [3 * 4]]
    for duel, start in zip(duels, before, strict=True):
        steps = [now - then for now, then in zip(duel.battle.positions, start, strict=True)]
        assert (steps[0] == ((1, 0) if duel.scripted == 0 else (0, -1))).all()
        assert (steps[1] == ((-1, 0) if duel.scripted == 1 else (0, 1))).all()
    for team, action, rows in zip(teams, (UP, DOWN), (20, 12), strict=True):
        assert (
            len(team.replay) == rows and (team.replay.rows(np.arange(rows)).actions == action).all()
        )
    lone = [SimpleNamespace(net=Always(a), replay=Replay(1000)) for a in (UP, DOWN)]
    for duel in duels:
        duel.scripted = ch.BLUE
        duel.look()
    ch.act_and_remember(lone, duels, 0.1)
    assert lone[1].net.asked == [] and len(lone[1].replay) == 0 and len(lone[0].replay) == 24
    for duel in duels[:2]:
        duel.battle.steps = 24  # of 25
    assert ch.act_and_remember(lone, duels, 0.1) == duels[:2]


def test_the_temperature_falls_over_the_first_half():
    config = quick(temperature_start=0.1, temperature_end=0.02)
    found = [ch.temperature_at(config, done) for done in (0, 0.25, 0.5, 0.75, 1)]
    assert found == pytest.approx([0.1, 0.06, 0.02, 0.02, 0.02])


def full_team(config, rows=200, seed=0):
    torch.manual_seed(seed)
    team = ch.Team(config)
    team.replay.add(ch.Deed(*(part.numpy() for part in some_deeds(rows, seed))))
    return team


def test_the_target_network_is_a_copy_of_the_right_age():
    config, rng = quick(sync_every=6), np.random.default_rng(0)
    team = full_team(config)
    vector = lambda net: parameters_to_vector(net.parameters()).detach().clone()
    assert torch.equal(vector(team.net), vector(team.target_net))
    for update in range(1, 20):
        before, old = vector(team.target_net), vector(team.net)
        team.learn(config, rng, 0.1, 1.0)
        assert team.updates == update and not torch.equal(vector(team.net), old)
        assert torch.equal(vector(team.target_net), vector(team.net) if update % 6 == 0 else before)


def test_what_reaches_the_loss_and_the_optimiser(monkeypatch):
    """The batch, whole; both networks; the discount; the temperature; a rate that falls to a tenth."""
    config, rng, seen = quick(discount=0.7), np.random.default_rng(0), []
    team, true_loss = full_team(config), ch.mean_field_loss
    monkeypatch.setattr(ch, "mean_field_loss", lambda *args: seen.append(args) or true_loss(*args))
    stored = {row.tobytes() for row in team.replay.rows(np.arange(200)).rewards}
    for i in range(160):
        remaining = 1 - i / 160
        loss = team.learn(config, rng, 0.03, remaining)
        net, target_net, batch, discount, temperature = seen[-1]
        assert net is team.net and target_net is team.target_net
        assert (discount, temperature) == (0.7, 0.03) and len(batch.actions) == 16
        assert {row.tobytes() for row in batch.rewards.numpy()} <= stored
        assert team.optimiser.param_groups[0]["lr"] == pytest.approx(1e-3 * max(remaining, 0.1))
        assert isinstance(loss, float) and loss > 0


def test_gradients_do_not_pile_up(monkeypatch):
    """Two updates of plain gradient descent against the gradients of two losses."""
    config, team = quick(sync_every=10_000), full_team(quick())
    team.optimiser = torch.optim.SGD(team.net.parameters(), 1.0)
    batches, true_loss = [], ch.mean_field_loss
    monkeypatch.setattr(
        ch, "mean_field_loss", lambda *args: batches.append(args[2]) or true_loss(*args)
    )
    vector = lambda: parameters_to_vector(team.net.parameters()).detach().clone()
    rng = np.random.default_rng(0)
    for _ in range(3):
        before = vector()
        state = {name: value.clone() for name, value in team.net.state_dict().items()}
        team.learn(config, rng, 0.1, 1.0)
        after = vector()
        twin = ch.BattleQ(config.hidden)
        twin.load_state_dict(state)
        loss = true_loss(twin, team.target_net, batches[-1], config.discount, 0.1)
        wanted = torch.cat(
            [g.flatten() for g in torch.autograd.grad(loss, list(twin.parameters()))]
        )
        torch.testing.assert_close((before - after) / 1e-3, wanted, rtol=2e-2, atol=2e-4)


# Training


@pytest.fixture
def soon(monkeypatch):
    """Teams learn after a few dozen experiences."""
    monkeypatch.setattr(ch, "WARM_UP", 60)


def weights_of(state):
    return [
        torch.cat([torch.as_tensor(w).flatten() for w in team["parts"][0].values()])
        for team in state["teams"]
    ]


@needs_magent
def test_both_teams_learn_and_each_by_itself(soon):
    """Pitfall: an update that trains nothing."""
    run = ch.train_battle(quick(), 1)
    start = weights_of(next(run).state())
    for _ in range(20):
        progress = next(run)
    state = progress.state()
    end = weights_of(state)
    for before, after in zip(start, end, strict=True):
        assert (before - after).abs().max() > 1e-3
    assert not torch.equal(*start) and not torch.equal(*end)
    assert min(team["updates"] for team in state["teams"]) > 60
    assert progress.metrics["loss"] > 0


@needs_magent
def test_a_training_takes_its_schedule_from_its_steps(monkeypatch, soon):
    config, seen, true_learn, begun = quick(chaser_share=0.0), [], ch.Team.learn, []
    true_act = ch.act_and_remember

    def learn(team, config, rng, temperature, remaining):
        seen.append((temperature, remaining, len(team.replay), team))
        return true_learn(team, config, rng, temperature, remaining)

    def act(teams, duels, temperature):
        begun.append((temperature, [duel.battle.over for duel in duels]))
        return true_act(teams, duels, temperature)

    monkeypatch.setattr(ch.Team, "learn", learn)
    monkeypatch.setattr(ch, "act_and_remember", act)
    steps = [progress.step for progress in ch.train_battle(config, 3)]
    assert steps == list(range(10, 1001, 10))
    assert len(begun) == 500 and not any(
        any(over) for _, over in begun
    )  # a battle that is over begins anew
    for i, (temperature, _) in enumerate(begun):
        assert temperature == pytest.approx(ch.temperature_at(config, 2 * i / 1000))
    assert 900 < len(seen) <= 1000 and len({id(team) for *_, team in seen}) == 2
    assert min(rows for _, _, rows, _ in seen) >= ch.WARM_UP
    wanted = [(ch.temperature_at(config, 1 - remaining), remaining) for _, remaining, *_ in seen]
    np.testing.assert_allclose([s[:2] for s in seen], wanted)
    assert seen[-1][1] == pytest.approx(0.002) and (np.diff([s[1] for s in seen]) <= 1e-12).all()


def test_the_record_counts_victories_over_the_chaser_and_no_others(monkeypatch):
    """Ends of battles, as the curve shows them: (chaser's colour, red alive, blue alive)."""
    ends = iter([(0, 0, 3), (0, 2, 0), (1, 1, 0), (None, 4, 0), (1, 0, 0), (0, 1, 1)])
    begun = []

    class Stub:
        def __init__(self, config, rng):
            self.battle = SimpleNamespace(alive=(4, 4))

        def begin(self):
            begun.append(self.scripted)

    def act(teams, duels, temperature):
        end = next(ends, None)
        if end is None:
            return []
        duels[0].scripted, *duels[0].battle.alive = end
        duels[0].battle.alive = tuple(end[1:])
        return [duels[0]]

    monkeypatch.setattr(ch, "Duel", Stub)
    monkeypatch.setattr(ch, "act_and_remember", act)
    found = [p.metrics for p in ch.train_battle(quick(battles=10, battle_steps=1000), 1)]
    wins, kills = [1, 0, 1, 1, 0, 0], [4, 2, 4, 4, 4, 3]
    counted = [0, 1, 2, 2, 4, 5]  # the fourth has no chaser
    assert begun == [0, 0, 1, None, 1, 0]
    for i in range(6):
        rows = [j for j in counted[: i + 1] if j <= i]
        assert found[i]["won against the chaser"] == pytest.approx(
            np.mean([wins[j] for j in dict.fromkeys(rows)])
        )
        assert found[i]["enemies killed"] == pytest.approx(
            np.mean([kills[j] for j in dict.fromkeys(rows)])
        )


def first_states(seed, count=12, state=None, **changes):
    run = ch.train_battle(quick(**changes), seed, state)
    return [next(run).state() for _ in range(count)]


@needs_magent
def test_the_seed_decides_a_run_and_a_state_stays_what_it_was(soon):
    one, two, three = first_states(1), first_states(1), first_states(2)
    for a, b, c in zip(one, two, three, strict=True):
        for same, again, other in zip(*map(weights_of, (a, b, c)), strict=True):
            assert torch.equal(same, again) and not torch.equal(same, other)
    assert not torch.equal(
        weights_of(one[-2])[0], weights_of(one[-1])[0]
    )  # not one array, kept twice


def flat(state):
    """All numbers of a nested state, in order."""
    if isinstance(state, dict):
        return [number for value in state.values() for number in flat(value)]
    if isinstance(state, list | tuple):
        return [number for value in state for number in flat(value)]
    return (
        [np.asarray(state, float).ravel()]
        if state is not None and not isinstance(state, str)
        else []
    )


@needs_magent
def test_a_resumed_run_takes_up_what_was_learned(soon, monkeypatch, tmp_path):
    config, path = quick(), tmp_path / "battle.safetensors"
    state = first_states(4, 40)[-1]
    save_checkpoint(path, state, config=config, seed=4)
    stored = load_checkpoint(path, config, 4)["state"]
    randoms, true_act = [], ch.act_and_remember
    monkeypatch.setattr(
        ch,
        "act_and_remember",
        lambda *args: randoms.append(torch.get_rng_state()) or true_act(*args),
    )
    monkeypatch.setattr(
        ch, "WARM_UP", 10**9
    )  # it learns nothing more: what it has is what was stored
    progress = next(ch.train_battle(config, 4, stored))
    assert progress.step == state["steps"] + 10
    found = progress.state()
    np.testing.assert_array_equal(
        *(np.concatenate(flat(s["teams"])) for s in (state, found))
    )  # weights, targets, Adam's moments and counters
    assert [team["updates"] for team in found["teams"]] == [
        team["updates"] for team in state["teams"]
    ]
    assert min(team["updates"] for team in found["teams"]) > 100
    assert found["random"]["numpy"] == state["random"]["numpy"]
    assert torch.equal(randoms[0], state["random"]["torch"])
    assert len(state["record"]) > 2
    np.testing.assert_array_equal(found["record"][: len(state["record"])], state["record"])
    monkeypatch.setattr(ch, "WARM_UP", 60)
    *_, later = itertools.islice(ch.train_battle(config, 4, stored), 12)
    assert later.step == state["steps"] + 120
    assert not torch.equal(weights_of(later.state())[0], weights_of(state)[0])
    assert later.state()["teams"][0]["updates"] > state["teams"][0]["updates"]


@needs_magent
def test_a_state_survives_its_file(soon, tmp_path):
    state = first_states(5, 20)[-1]
    save_checkpoint(tmp_path / "s.safetensors", state)
    again = load_checkpoint(tmp_path / "s.safetensors")["state"]
    np.testing.assert_array_equal(*(np.concatenate(flat(s["teams"])) for s in (state, again)))
    nets = ch.nets_of([team["parts"][0] for team in again["teams"]], 8)
    for net, wanted in zip(nets, weights_of(state), strict=True):
        assert torch.equal(parameters_to_vector(net.parameters()), wanted)


# Streams: no two runs, and no run and its score, share one


@needs_magent
def test_no_training_and_no_score_share_a_stream(monkeypatch):
    """SeedSequence fills a short seed up with zeros: (1,), (1, 0) and 1 are one seed."""
    uses, true_generators, train = [], ch.generators, ch.train_battle

    def generators(seed, count):
        uses.append(seed)
        return true_generators(seed, min(count, 2))

    def used(answer):
        """A function that notes its last argument, a seed, and gives an answer."""
        return lambda *args: uses.append(args[-1]) or answer

    monkeypatch.setattr(ch, "generators", generators)
    monkeypatch.setattr(ch, "fight", used(np.ones((2, 2))))
    monkeypatch.setattr(ch, "chasers_fight", used(np.array([[1, 0]])))
    monkeypatch.setattr(ch, "chaser_deeds", used(None))
    monkeypatch.setattr(ch, "learn_to_aim", used(None))
    monkeypatch.setattr(ch, "aim_of", lambda *_: (0, 0, []))
    monkeypatch.setattr(ch, "stored_net", lambda *_: ch.BattleQ(8))
    monkeypatch.setattr(ch, "stored_commanders", lambda *_: (None, None))
    monkeypatch.setattr(ch, "train_battle", lambda *args: itertools.islice(train(*args), 1))
    stopped = {
        "record": np.zeros((0, 2)), "teams": [ch.Team(quick()).state()] * 2,
        "random": random_state(np.random.default_rng(0)),
    }  # fmt: skip
    seeds = (0, 1, 2, 3, 101)
    for seed in seeds:
        ch.measure_learner(quick(), seed)
        for steps in (10, 20, 160, 1000):
            next(train(quick(battle_steps=2000), seed, stopped | {"steps": steps}))
        ch.measure_tournament(ch.TournamentConfig(seeds=(1, 2, 3)), seed)
        ch.measure_order(ch.OrderConfig(), seed)
        ch.measure_temperatures(ch.HeatConfig(), seed)
        ch.measure_aim(ch.AimConfig(), seed)
        ch.measure_scripts(ch.FightConfig(), seed)
    count = 1 + 2 * 2 + 3 * 2 + 4 + len(ch.ORDERS) + 2 * len(ch.HEATS) + 2 + len(ch.AIMS)
    pairings = sum(3 * (3 * 3 + 3) - 3 * (seed in (1, 2, 3)) for seed in seeds)
    assert len(uses) == len(seeds) * count + 2 * pairings
    streams = [tuple(np.random.SeedSequence(seed).spawn(1)[0].generate_state(4)) for seed in uses]
    shared = [uses[i] for i, stream in enumerate(streams) if streams.count(stream) > 1]
    assert not shared, shared


# Measuring


@needs_magent
@pytest.mark.parametrize("knowledge", ["neighbours", "nothing", "shuffled"])
def test_a_learner_is_measured_against_the_script_and_against_chance(monkeypatch, soon, knowledge):
    monkeypatch.setattr(ch, "BATTLES", 4)
    monkeypatch.setattr(ch, "CLOCK", 40)
    fought, true_sides = [], ch.both_sides
    monkeypatch.setattr(ch, "both_sides", lambda *args: fought.append(args) or true_sides(*args))
    kept, true_commanders = [], ch.commanders
    monkeypatch.setattr(ch, "commanders", lambda *args: kept.append(args) or true_commanders(*args))
    config = quick(knowledge=knowledge, sync_every=10_000, battles=8)
    measured = ch.measure_learner(config, 1)
    assert [(f[1], f[2].limit, f[3]) for f in fought] == [(ch.CHASER, 40, 4), (ch.RANDOM, 40, 4)]
    assert set(measured.metrics) == {"training_seconds", "steps_per_second"} | {
        f"{what}_against_{who}" for what in ch.Score._fields for who in ("chaser", "random")
    }
    assert all(np.isfinite(value) for value in measured.metrics.values())
    assert len(measured.curves["won"]) == len(measured.curves["kills"]) > 90
    ((nets, known, temperature),) = kept
    assert known == knowledge and temperature == config.temperature_end
    state = last(ch.train_battle(config, 1)).state()
    for net, stored, wanted in zip(nets, measured.state["teams"], weights_of(state), strict=True):
        assert torch.equal(parameters_to_vector(net.parameters()), wanted)
        assert torch.equal(torch.cat([w.flatten() for w in stored.values()]), wanted)


@pytest.fixture
def stored_teams(monkeypatch, tmp_path):
    """Untrained teams of all learners, stored as a run stores them."""
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    config, nets = quick(), {}
    for i, (learner, knowledge) in enumerate(ch.KNOWN.items()):
        for seed in (1, 2):
            torch.manual_seed(10 * i + seed)
            pair = [ch.BattleQ(8) for _ in (0, 1)]
            nets[learner, seed] = pair
            path = results.run_path("M6", f"{learner}_skirmish", seed)
            run = {"seed": seed, "config": results.describe(config) | {"knowledge": knowledge}}
            results.write(path, json.dumps(run))
            save_checkpoint(
                path.with_suffix(".safetensors"), {"teams": [net.state_dict() for net in pair]}
            )
    return nets


def test_stored_teams_come_back_with_what_they_knew(stored_teams, monkeypatch):
    monkeypatch.setattr(ch, "commanders", lambda *args: args)
    for (learner, seed), nets in stored_teams.items():
        found, knowledge, temperature = ch.stored_commanders("skirmish", learner, seed)
        assert temperature == quick().temperature_end
        assert knowledge == ch.KNOWN[learner]
        for net, wanted in zip(found, nets, strict=True):
            assert torch.equal(*(parameters_to_vector(n.parameters()) for n in (net, wanted)))
    with pytest.raises(FileNotFoundError, match="make results ROW=M6"):
        ch.stored_commanders("skirmish", "mean_field", 7)
    with pytest.raises(FileNotFoundError, match="make results ROW=M6"):
        ch.stored_commanders("war", "mean_field", 1)


@needs_magent
def test_what_decides_between_two_chasers_is_measured(monkeypatch):
    monkeypatch.setattr(ch, "SKIRMISH", ch.Field(4, 20, 1))
    monkeypatch.setattr(ch, "FIELDS", {"skirmish": ch.Field(4, 20, 1)})
    found = ch.measure_order(ch.OrderConfig(battles=40), 1).metrics
    assert set(found) == {f"red_wins_{order}" for order in ch.ORDERS}
    assert found["red_wins_red first"] < 0.3 and found["red_wins_blue first"] > 0.7
    assert 0.2 < found["red_wins_a coin, rows mixed"] < 0.8
    survivors = iter([np.array([[3, 0], [0, 1], [2, 0], [1, 1], [0, 0]])] * 4)
    monkeypatch.setattr(ch, "chasers_fight", lambda *_: next(survivors))
    assert set(ch.measure_order(ch.OrderConfig(), 1).metrics.values()) == {2 / 3}


@needs_magent
def test_temperatures_are_measured_with_stored_networks(stored_teams, monkeypatch):
    asked, nets = [], stored_teams["mean_field", 2]
    monkeypatch.setattr(
        ch, "stored_net", lambda name, seed, team: stored_teams["mean_field", seed][team]
    )
    small = ch.Field(4, 20, 1)
    monkeypatch.setattr(ch, "FIELDS", {"skirmish": small, "war": small._replace(soldiers=9)})
    monkeypatch.setattr(ch, "CLOCK", 3)
    true_commanders = ch.commanders
    monkeypatch.setattr(
        ch, "commanders", lambda *args: asked.append(args) or true_commanders(*args)
    )
    fought, true_sides = [], ch.both_sides
    monkeypatch.setattr(ch, "both_sides", lambda *args: fought.append(args) or true_sides(*args))
    found = ch.measure_temperatures(ch.HeatConfig(battles=2, temperatures=(0.01, 1.0)), 2)
    assert asked == [(nets, "neighbours", 0.01), (nets, "neighbours", 1.0)]
    assert len(found.curves["won"]) == len(found.curves["kills"]) == 2
    monkeypatch.setattr(ch, "stored_net", lambda name, *_: nets[0] if "war" in name else None)
    ch.measure_temperatures(ch.HeatConfig("mean_field_war", "random", 2, (0.1,)), 2)
    assert [(f[1], f[2].soldiers, f[2].limit) for f in fought] == [
        (ch.CHASER, 4, 3), (ch.CHASER, 4, 3), (ch.RANDOM, 9, 3)
    ]  # fmt: skip


def test_the_mean_action_is_taken_away_and_nothing_else(monkeypatch):
    fought = []

    def both_sides(led, rival, field, battles, seed):
        fought.append((led, rival, field, battles, seed))
        return ch.Score(*([float(len(fought))] * 4))

    monkeypatch.setattr(ch, "stored_net", lambda *args: args)
    monkeypatch.setattr(ch, "commanders", lambda *args: args)
    monkeypatch.setattr(ch, "both_sides", both_sides)
    found = ch.measure_deafened(ch.FightConfig("war", 6), 3).metrics
    nets = [("mean_field_war", 3, team) for team in (ch.RED, ch.BLUE)]
    assert [led for led, *_ in fought] == [(nets, k, 0.008) for k in ch.KNOWLEDGE]
    field = ch.WAR._replace(limit=ch.CLOCK)
    assert all(
        rest == (ch.CHASER, field, 6, (ch.DEAFENING, 3))
        for _, *rest in fought
        for rest in [tuple(rest)]
    )
    assert (found["won_neighbours"], found["won_nothing"], found["kills_shuffled"]) == (1, 2, 3)
    ch.measure_deafened(ch.FightConfig("skirmish", 6), 1)
    assert fought[-1][0][2] == 0.004 and fought[-1][2].soldiers == 16


@needs_magent
def test_scripts_are_measured():
    found = ch.measure_scripts(ch.FightConfig(battles=4), 1).metrics
    assert found["chaser_against_random_won"] == found["captain_against_random_won"] == 1
    assert found["captain_against_chaser_kills"] > 12


@needs_magent
def test_aim_is_measured_on_battles_that_were_not_learned_from():
    config = ch.AimConfig(rows=4000, updates=2)
    found = ch.measure_aim(config, 1)
    assert set(found.metrics) == {"by_chance", *(f"aimed_{aim}" for aim in ch.AIMS)}
    assert all(0 <= share <= 1 for share in found.metrics.values())
    lived, fresh = (ch.chaser_deeds(1500, (ch.AIMING, 1, part)) for part in (0, 1))
    assert lived.ended.all() and not np.array_equal(lived.actions[:1500], fresh.actions[:1500])

    class Sees(nn.Module):
        """Values a hit by the health in the cell that it strikes."""

        def forward(self, planes, mean_action):
            hits = [planes[:, 2, 6 + dy, 6 + dx].float() for dx, dy in ch.HITS.tolist()]
            return torch.cat([torch.zeros(len(planes), 13), torch.stack(hits, 1)], 1)

    aimed, chance, by_health = ch.aim_of(Sees(), fresh)
    around = fresh.planes[:, 2, 5:8, 5:8].reshape(-1, 9)
    around = around[(around > 0).any(1)]
    assert aimed == 1 and chance == pytest.approx((around > 0).sum() / (8 * len(around)))
    assert by_health[0] == 0 and by_health[3] == pytest.approx(around[around > 60].mean())


@needs_magent
def test_a_tournament_is_fought(stored_teams, monkeypatch):
    monkeypatch.setattr(ch, "CLOCK", 5)
    found = ch.measure_tournament(ch.TournamentConfig(seeds=(1, 2), battles=2), 1).metrics
    others = (*ch.LEARNERS, "chaser", "random", "captain")
    assert set(found) == {
        f"{a}_{w}_against_{b}" for a in ch.LEARNERS for w in ch.Score._fields for b in others
    }
    assert all(np.isfinite(value) for value in found.values())


def test_a_tournament_pairs_everyone_with_everyone(monkeypatch):
    pairs = []

    def both_sides(led, rival, field, battles, seed):
        pairs.append((led, rival, field, battles))
        return ch.Score(*([float(len(pairs))] * 4))

    monkeypatch.setattr(
        ch, "stored_commanders", lambda field, learner, seed: (field, learner, seed)
    )
    monkeypatch.setattr(ch, "both_sides", both_sides)
    config = ch.TournamentConfig("war", seeds=(1, 2, 3), battles=10)
    found = ch.measure_tournament(config, 2).metrics
    fought = collections.Counter()
    for led, rival, field, battles in pairs:
        assert led[0] == "war" and led[2] == 2 and field == ch.WAR._replace(limit=ch.CLOCK)
        scripts = {ch.CHASER: "chaser", ch.RANDOM: "random", ch.CAPTAIN: "captain"}
        name = rival[1] if rival[0] == "war" else scripts[rival]
        fought[led[1], name] += battles
        assert rival != led  # nobody meets the network of the own training
    assert set(fought.values()) == {30} and len(fought) == 3 * 6  # as many against each kind
    assert found["mean_field_won_against_mean_field"] == np.mean([1, 2])
    assert found["independent_kills_against_mean_field"] == np.mean([12, 13, 14])
    assert found["shuffled_lost_against_captain"] == len(pairs) == 33
    pairs.clear()
    ch.measure_tournament(config, 101)  # a reader's seed is among nobody's rivals
    assert len(pairs) == 36


# Learning


@needs_magent
@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_team_learns_to_kill(monkeypatch, seed):
    """Nine soldiers close to the enemy, a sixth of a real training. Over five seeds 1.9 to 2.6 of the chaser's nine are
    killed (untrained networks 0 to 0.4)."""
    monkeypatch.setattr(ch, "WARM_UP", 1000)
    config = ch.BattleConfig(
        field=ch.Field(9, 14, 0, 40), battle_steps=20_000, battles=4, hidden=32, batch=256,
        learning_rate=2e-3, discount=0.8,
    )  # fmt: skip
    progress = last(ch.train_battle(config, seed))
    trained = ch.nets_of([team["parts"][0] for team in progress.state()["teams"]], config.hidden)
    torch.manual_seed(1000 + seed)
    untrained = [ch.BattleQ(config.hidden) for _ in (0, 1)]
    field = config.field._replace(limit=100)
    killed, by_chance = (
        ch.both_sides(
            ch.commanders(nets, config.knowledge, 0.01), ch.CHASER, field, 40, (77, seed)
        ).kills
        for nets in (trained, untrained)
    )
    assert killed > 1.2 + by_chance


# Settings


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ch.BattleConfig(chaser_share=2), "BattleConfig.chaser_share is 2; it has to lie between 0.0 and 1.0."),
        (lambda: ch.BattleConfig(temperature_end=0), "BattleConfig.temperature_end is 0; it has to lie between 0.001 and 0.5."),
        (lambda: ch.BattleConfig(battles=0), "BattleConfig.battles is 0; it has to lie between 1 and 64."),
        (lambda: ch.BattleConfig(knowledge="all"),
         "BattleConfig.knowledge is 'all'; it has to be one of neighbours, nothing, shuffled."),
        (lambda: ch.TournamentConfig(battles=1), "TournamentConfig.battles is 1; it has to lie between 2 and 1000."),
    ],
)  # fmt: skip
def test_a_bad_setting_gets_one_clear_sentence(make, sentence):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == sentence
