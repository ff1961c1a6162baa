"""What chapter 04c says about the battle's rules and its stored runs."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from rlbook_utils import results
from rlbook_utils.checkpoint import load_checkpoint
from rlbook_utils.definitions import load_chapter
from rlbook_utils.numbers import spread_of

torch.set_num_threads(1)  # a second thread costs these networks more than it brings
CHAPTER = load_chapter("ch04c_battle")
RED, BLUE = 0, 1


def _differ(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two means differ beyond chance: Welch's test at 5 %."""
    return stats.ttest_ind(first, second, equal_var=False).pvalue < 0.05


# The game


def _placed(red: list, blue: list) -> object:
    """A battle with soldiers at these cells and nowhere else."""
    pytest.importorskip("magent2")
    battle = CHAPTER.Battle(CHAPTER.SKIRMISH, np.random.default_rng(0))
    battle.engine.reset()
    for team, cells in zip(battle.teams, (red, blue), strict=True):
        battle.engine.add_agents(team, method="custom", pos=np.array(cells))
    battle.positions = [battle.engine.get_pos(team) for team in battle.teams]
    return battle


def rules():
    """One attacker needs six hits and five at once leave their target alive; what every step, hit, kill and death pays."""
    stay, right = np.array([6]), np.array([17])
    battle = _placed([(10, 10)], [(11, 10)])
    for hits in range(1, 7):
        rewards, living = battle.step([right, stay])
        assert living[BLUE][0] == (hits < 6)
        assert np.isclose(rewards[RED][0], -0.005 - 0.1 + (0.2 if hits < 6 else 5))
    assert np.isclose(rewards[BLUE][0], -0.1)
    around = [(10, 10), (10, 9), (10, 11), (11, 9), (11, 11)]
    battle = _placed(around, [(11, 10)])
    ways = [(11 - x, 10 - y) for x, y in battle.positions[RED]]
    hits = [13 + CHAPTER.HITS.tolist().index(list(way)) for way in ways]
    assert battle.step([np.array(hits), stay])[1][BLUE].all()
    battle = _placed([(10, 10), (11, 10)], [(20, 20)])
    rewards, _ = battle.step([np.array([17, 6]), stay])
    assert (
        np.allclose(rewards[RED], [-0.105, -0.005])
        and (CHAPTER.views(battle, RED)[:, 1, 6, 6] == 100).all()
    )


def who_sees_whom():
    pytest.importorskip("magent2")
    for field, seen in ((CHAPTER.SKIRMISH, True), (CHAPTER.WAR, False)):
        battle = CHAPTER.Battle(field, np.random.default_rng(0))
        for team in (RED, BLUE):
            sees = CHAPTER.views(battle, team)[:, 2].any((1, 2))
            assert sees.any() == seen
            if seen:  # the front row, and nobody behind the second
                front = np.abs(battle.positions[team][:, 0] - field.side // 2)
                assert sees[front == front.min()].all() and not sees[front > front.min() + 2].any()


def floors():
    pytest.importorskip("magent2")
    at_random = CHAPTER.fight(*CHAPTER.RANDOM, CHAPTER.SKIRMISH, 40, (1, 2))
    assert (at_random >= 14).all()
    chased = CHAPTER.fight(CHAPTER.chaser, CHAPTER.random_player, CHAPTER.SKIRMISH, 40, (1, 3))
    assert (chased[:, BLUE] == 0).all() and (chased[:, RED] > 0).all()
    for field in ("skirmish", "war"):
        won = results.metric("M6", f"scripts_{field}", "captain_against_chaser_won")
        wiped_out = results.metric("M6", f"scripts_{field}", "chaser_against_random_won")
        assert (won > 0.95).all() and (wiped_out == 1).all()


def others():
    """A script that sees everything and was not met in training."""
    pytest.importorskip("magent2")
    field, won = CHAPTER.SKIRMISH._replace(limit=CHAPTER.CLOCK), []
    for seed in range(1, 6):
        led = CHAPTER.stored_commanders("skirmish", "mean_field", seed)
        won.append(CHAPTER.both_sides(led, CHAPTER.CAPTAIN, field, 80, (1, 6)).won)
    assert 0.28 < min(won) < 0.4 and 0.5 < max(won) < 0.6


def war_film():
    path = results.run_path("M6", "films", 1).with_suffix(".safetensors")
    scenes = np.asarray(load_checkpoint(path)["state"]["war"])
    alive = CHAPTER.alive_in(scenes)
    assert alive[-1].tolist() == [0, 8] and len(scenes) == 42
    red, blue = (
        [side[side[:, 2] >= 0, :2] for side in scenes[[0, 8], team]] for team in (RED, BLUE)
    )
    gaps = [np.abs(r[:, None] - b).max(-1).min() for r, b in zip(red, blue, strict=True)]
    assert gaps[0] > CHAPTER.REACH and gaps[1] == 1
    assert alive[38].sum() < 12
    won = results.metric("M6", "mean_field_war", "won_against_chaser")[0]
    assert round(100 * won) == 56


def second_wins():
    for field in ("skirmish", "war"):
        red_wins = {
            order: results.metric("M6", f"order_{field}", f"red_wins_{order}")
            for order in CHAPTER.ORDERS
        }
        assert red_wins["red first"].mean() < 0.15 and red_wins["blue first"].mean() > 0.85
        mixed = spread_of(red_wins["a coin, rows mixed"])
        assert mixed.low < 0.5 < mixed.high
        if field == "skirmish":
            assert round(100 * red_wins["a coin"].mean()) == 57
            assert spread_of(red_wins["a coin"]).low > 0.5
            assert round(100 * red_wins["a coin, rows mixed"].mean()) == 50
            assert (mixed.high - mixed.low) / 2 < 0.04


# Learning


def skirmish_is_learned():
    curves = {name: results.curves("M6", f"{name}_skirmish", "won") for name in CHAPTER.KINDS}
    assert all((c[:, -5:].mean(1) > 0.5).all() for c in curves.values())
    killed = results.metric("M6", "mean_field_war", "kills_against_chaser")
    assert (round(killed.min()), round(killed.max())) == (60, 63)
    assert CHAPTER.WAR_CONFIG.chaser_share == 0.1
    halves = [c.mean(1) for c in curves.values()]  # over the whole training
    assert stats.f_oneway(*halves).pvalue > 0.05


def _shares(field: str, learner: str, rival: str) -> tuple[np.ndarray, np.ndarray]:
    """Battles that each run of a learner wins and loses against the other runs of a kind."""
    won, lost = (
        results.metric("M6", f"tournament_{field}", f"{learner}_{what}_against_{rival}")
        for what in ("won", "lost")
    )
    return won, lost


def a_slow_start():
    for name in CHAPTER.KINDS:
        won, kills = (results.curves("M6", f"{name}_skirmish", what) for what in ("won", "kills"))
        assert (won[:, :33] <= 0.01).all() and (kills[:, :25] < 2).all()
    warm = results.curves("M6", "temperatures", "won")[:, CHAPTER.HEATS.index(0.03)]
    assert warm.mean() < 0.25
    assert abs(CHAPTER.temperature_at(CHAPTER.BattleConfig(), 0.35) - 0.015) < 5e-4


def skirmish_is_even():
    won = [_shares("skirmish", a, b)[0] for a, b in itertools.product(CHAPTER.KINDS, repeat=2)]
    means = [w.mean() for w in won]
    assert round(100 * min(means)) == 39 and round(100 * max(means)) == 59
    wiped_out = [
        results.metric("M6", f"{name}_skirmish", "won_against_random").mean()
        for name in ("mean_field", "independent")
    ]
    assert [round(100 * share) for share in wiped_out] == [88, 87]
    for other, bounds in (("independent", [-0.45, 0.23]), ("shuffled", [-0.46, 0.39])):
        assert np.round(_lead("skirmish", "mean_field", other)[1:], 2).tolist() == bounds
    captain = [np.subtract(*_shares("skirmish", name, "captain")).mean() for name in CHAPTER.KINDS]
    assert captain[0] < 0 and captain[1] < 0 < captain[2]
    own = _shares("skirmish", "shuffled", "shuffled")[0]
    assert own.max() - own.min() > max(means) - min(means)


def _lead(field: str, first: str, second: str) -> tuple[float, float, float]:
    """Battles won minus lost, of all, counted from both rows: the mean, and its interval over the runs of both kinds."""
    won, lost = _shares(field, first, second)
    as_second = np.subtract(*_shares(field, second, first)[::-1])
    found = stats.ttest_ind(won - lost, -as_second, equal_var=False).confidence_interval
    sides = (won - lost, as_second)
    of_mean = [np.var(x, ddof=1) / len(x) for x in sides]
    freedom = sum(of_mean) ** 2 / sum(
        v**2 / (len(x) - 1) for v, x in zip(of_mean, sides, strict=True)
    )
    half = stats.t.ppf(0.975, freedom) * np.sqrt(sum(of_mean))
    middle = (sides[0].mean() + sides[1].mean()) / 2
    assert np.isclose(np.ptp(found(0.95)), 2 * half)  # Welch's width
    return middle, middle - half, middle + half


def war_is_led():
    assert np.round(_lead("war", "mean_field", "independent"), 2).tolist() == [0.48, 0.07, 0.89]
    assert np.round(_lead("war", "mean_field", "shuffled"), 2).tolist() == [0.36, -0.16, 0.87]
    for name in CHAPTER.KINDS:
        won, lost = _shares("war", name, "captain")
        assert won.mean() < 0.25 < 0.7 < lost.mean()


def against_the_script():
    won = [results.metric("M6", f"{name}_war", "won_against_chaser") for name in CHAPTER.KINDS]
    assert won[0].mean() > won[2].mean() > won[1].mean()
    assert not _differ(won[0], won[1]) and not _differ(won[0], won[2])
    hears = [results.metric("M6", "deafened_war", f"won_{k}") for k in CHAPTER.KNOWLEDGE]
    assert [round(100 * share.mean()) for share in hears] == [66, 60, 67]


def heat():
    heats = np.array(CHAPTER.HEATS)
    cold_trained, hot_trained, chaser, at_random = (
        results.curves("M6", f"temperatures{name}", "won")
        for name in ("", "_warm", "_war_chaser", "_war_random")
    )
    assert (cold_trained[:, heats <= 0.008] > 0.96).all() and not cold_trained[
        :, heats >= 0.06
    ].any()
    assert hot_trained.max() < 1 / 7
    assert round(100 * at_random[:, heats == 0.015].mean()) == 99
    assert at_random[:, heats == 0.015].min() >= 0.95
    assert round(100 * at_random[:, heats == 0.002].mean()) == 64
    assert (chaser[:, heats == 0.015] < chaser[:, heats == 0.004]).all()


def settings():
    for name in ("uncapped", "warm"):
        assert results.metric("M6", name, "won_against_chaser").max() <= 0.04
    warmer, colder = (
        results.metric("M6", name, "won_against_random") for name in ("mean_field_war", "cold_war")
    )
    assert (round(100 * warmer.mean()), round(100 * colder.mean())) == (93, 68)
    assert np.ptp(colder) > 0.5
    at_0004 = results.curves("M6", "temperatures_war_random", "won")[:, CHAPTER.HEATS.index(0.004)]
    assert round(100 * at_0004.mean()) == 81
    chaser = results.curves("M6", "temperatures_war_chaser", "won")[:, CHAPTER.HEATS.index(0.015)]
    assert (chaser < 0.5).all()
    assert results.metric("M6", "warm", "won_against_random").min() > 0.99
    assert results.metric("M6", "mean_field_skirmish", "training_seconds").max() < 180


def aim():
    found = {name: results.metric("M6", "aim", f"aimed_{name}") for name in CHAPTER.AIMS}
    whole, half, fifth, other_way = found.values()
    chance = results.metric("M6", "aim", "by_chance")
    assert whole.mean() < chance.mean() and (half > chance).all() and (fifth > half).all()
    assert (other_way > 2 * whole).all()
    nobody, dying, _, healthy = results.curves("M6", "aim", "a kill counts 5").T
    assert (dying > nobody).all() and (nobody > healthy).all()
    nobody, *_, healthy = results.curves("M6", "aim", "at most 0.5").T
    assert (np.abs(nobody) < 0.1).all() and (nobody < healthy).all()
    nobody, *somebody = results.curves("M6", "aim", "5, health the other way round").T
    assert all((values > nobody).all() for values in somebody)
