"""What chapter 07b says about its stored floors, speeds and agents."""

import functools

import numpy as np

from rlbook_utils import results
from rlbook_utils.definitions import load_chapter

CHAPTER = load_chapter("ch07b_minipacman")


def _floor(mode: str, name: str) -> np.ndarray:
    """Mean returns of a player that learns nothing, by seed."""
    return results.metric("R6", "floors", f"{mode}_{name}")


def _agent(name: str, what: str = "returns") -> np.ndarray:
    """Of the last network in 128 fresh episodes, by seed."""
    return results.metric("R7", name, what)


# Rules


def floors() -> list[float]:
    """Random and blind players; the eaters; who is best where, in every seed; what the wary eater loses in avoid."""
    for mode, best in CHAPTER.BEST.items():
        found = {name.replace(" ", "_"): _floor(mode, name.replace(" ", "_")).mean() for name in CHAPTER.PLAYERS}  # fmt: skip
        assert max(found, key=found.get) == best and len(found) == 23
        assert len(_floor(mode, best)) == 5
    assert sorted(CHAPTER.BEST.values()).count("ambusher_3") == 2 and len(set(CHAPTER.BEST.values())) == 4  # fmt: skip
    blind = max(_floor("regular", name).mean() for name in CHAPTER.BLIND if name != "random")
    for mode in ("avoid", "hunt", "ambush"):
        assert -22 < _floor(mode, "random").mean() < -15
    assert abs(_floor("rush", "random").mean()) < 1
    regular = [_floor("regular", name).mean() for name in ("random", "eater", "careful_eater", "wary_eater")]  # fmt: skip
    others = [_floor(mode, best).mean() for mode, best in CHAPTER.BEST.items() if mode != "regular"]
    return [*regular, blind, *others, _floor("avoid", "wary_eater").mean()]


def floors_in_short() -> list[float]:
    """What the summary says is what the chapter says."""
    floors()
    return [_floor("regular", "wary_eater").mean(), _floor("regular", "random").mean()]


def speeds() -> list[float]:
    """Steps a second in 1,024 worlds, in millions: not drawn, as frames, in colours."""
    found = (results.metric("R6", "speed", f"{view}_1024") for view in ("nothing", "frames", "colours"))  # fmt: skip
    return [np.median(speeds) / 1e6 for speeds in found]


def speed_in_short() -> list[float]:
    """A thousand worlds, not drawn: millions of steps a second."""
    return [np.median(results.metric("R6", "speed", "nothing_1024")) / 1e6]


# The agent


def five_modes() -> list[float]:
    """After 150,000 steps: each game, against random play and the best rule."""
    for mode, best in CHAPTER.BEST.items():
        assert len(_agent(mode)) == 5 and _agent(mode).max() < _floor(mode, best).min()
    regular, random = _agent("regular"), _floor("regular", "random")
    assert regular.min() > random.max()
    for mode in CHAPTER.MODES:
        blind = max(_floor(mode, name).mean() for name in CHAPTER.BLIND)
        assert (_agent(mode).mean() > blind + 0.3) == (mode == "regular")
    assert abs(_agent("avoid").mean() - _floor("avoid", "always_stay").mean()) < 0.05
    return [*(_agent(mode).mean() for mode in CHAPTER.MODES), regular.mean() / random.mean()]


def longer() -> list[float]:
    """Four times the steps: the regular mode, its time and speed, the plain eater; hunt."""
    regular, hunt = _agent("regular_long"), _agent("hunt_long")
    assert len(regular) == len(hunt) == 5 and regular.min() > _agent("regular").max()
    blind = max(_floor("hunt", name).mean() for name in CHAPTER.BLIND)
    assert abs(hunt.mean() - blind) < 0.15
    lives = _agent("hunt_long", "steps").mean()
    assert 1.9 < lives / _agent("hunt", "steps").mean() < 2.4
    ends = results.curves("R7", "regular_long", "return")[:, -1]
    lifted = np.sort(results.curves("R7", "hunt_long", "return")[:, -1])[::-1]
    assert lifted[1] > -19 and lifted[2] < -19.3
    assert regular.argmin() == 1 and regular[1] == regular.min()
    seconds, speed = (_agent("regular_long", what) for what in ("seconds", "speed"))
    assert 8.5 < _floor("regular", "wary_eater").mean() / regular.mean() < 9.5
    told = [regular.mean(), regular.min(), regular.max(), seconds.mean(), np.median(speed)]
    curves = [ends.mean(), ends[1], lives, lifted[1], lifted[0]]
    return [*told, _floor("regular", "eater").mean(), hunt.mean(), *curves]


def a2c_in_short() -> list[float]:
    """What the summary says is what the chapter says."""
    five_modes(), longer()
    return [_agent("regular").mean(), _agent("regular_long").mean()]


@functools.cache
def _lucky() -> tuple[float, float, float]:
    """Of 20,000 random episodes of hunt, the shares with a ghost and with a pill eaten, and their mean length."""
    count, rng = 20_000, np.random.default_rng(0)
    world = CHAPTER.MiniPacman(CHAPTER.MODES["hunt"], count, rng)
    going, steps, ate = np.ones(count, bool), 0, np.zeros((count, 4), bool)
    while going.any():
        step = world.step(rng.integers(5, size=count))
        ate |= going[:, None] & (step.events > 0)
        steps += going.sum()
        going &= ~(step.terminated | step.truncated)
    return ate[:, CHAPTER.ATE_GHOST].mean(), ate[:, CHAPTER.ATE_PILL].mean(), steps / count


def lucky_episodes() -> None:
    """One episode in 150 or so eats a ghost, one in ten a pill; about twenty of three thousand in 150,000 steps."""
    ghost, pill, length = _lucky()
    assert 140 < 1 / ghost < 175 and 0.095 < pill < 0.115
    assert 2_800 < 150_000 / length < 3_400 and 17 < ghost * 150_000 / length < 23
