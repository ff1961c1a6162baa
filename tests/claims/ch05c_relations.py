"""What chapter 05c says about its stored agents: keys and doors, and Alien."""

import numpy as np
from scipy import stats

from rlbook_utils import results
from rlbook_utils.definitions import load_chapter

CHAPTER = load_chapter("ch05c_relations")
TRAINED, DOUBLED, WIDE = CHAPTER.TRAINED, CHAPTER.DOUBLED, CHAPTER.WIDE


def _match(net: str, metric: str) -> np.ndarray:
    """One number of every seed of an agent among keys and doors: [S]."""
    return results.metric("A6", f"match_{net}", metric)


def _chosen(net: str, setting: str) -> np.ndarray:
    return CHAPTER.chosen_well(f"match_{net}", setting)


def _floor(rule: str, setting: str) -> float:
    return results.metric("A6", "match_floors", f"{setting}: {rule}").mean()


# Keys and doors


def match_floors() -> None:
    """Worlds that nobody can solve, what rules about keys bring, and random play."""
    assert 20 < 100 - results.metric("A6", "match_floors", "solvable").mean() < 25
    assert 50 < _floor("any key", TRAINED) < 58 and 30 < _floor("any key", DOUBLED) < 36
    assert 60 < _floor("no twin", DOUBLED) < 67
    for setting in CHAPTER.SETTINGS:
        assert _floor("random", setting) < 10


def match_learns() -> None:
    """Where they were trained, attention and averages end alike, averages later; itself is any key; flat stays below."""
    dot, even, own, flat = (
        _match(net, f"{TRAINED}: goal") for net in ("dot", "even", "own", "flat")
    )
    assert dot.min() > 90 and even.min() > 85 and abs(dot.mean() - even.mean()) < 5
    guess = _floor("any key", TRAINED)
    assert flat.max() < guess - 15 and even.min() > guess + 25 and own.max() < guess + 3
    curves = {
        net: results.curves("A6", f"match_{net}", "reached").mean(0) for net in ("dot", "even")
    }
    halves = {net: int((curve > 0.5).argmax()) for net, curve in curves.items()}
    assert 1.4 < halves["even"] / halves["dot"] < 2.6


def match_more() -> list[float]:
    """Goals among four keys and four doors: attention above both rules, then the loudest, then averages, in every seed."""
    dot, loudest, even = (_match(net, f"{DOUBLED}: goal") for net in ("dot", "loudest", "even"))
    floor = _floor("no twin", DOUBLED)
    assert stats.ttest_1samp(dot, 0).confidence_interval(0.95).low > floor
    assert dot.min() > loudest.max() and loudest.min() > even.max() and even.max() < 10
    assert loudest.mean() < floor
    minigrid = _match("dot", "minigrid").mean()
    assert abs(minigrid - dot.mean()) < 6
    return [dot.mean(), loudest.mean(), minigrid]


def match_choice() -> list[float]:
    """Right ones among the keys taken: attention and the loudest above all rules; averages not."""
    dot, loudest, even = (_chosen(net, DOUBLED) for net in ("dot", "loudest", "even"))
    floor = _floor("no twin", DOUBLED)
    assert dot.min() > floor + 15 and loudest.min() > floor + 5 and even.mean() < floor + 3
    assert dot.mean() > loudest.mean()
    taken = {net: _match(net, f"{DOUBLED}: taken").mean() for net in ("dot", "loudest")}
    assert taken["dot"] > taken["loudest"] + 5
    return [dot.mean(), loudest.mean()]


def match_way() -> list[float]:
    """Two keys and four doors: averages still choose well and do not get there; attention does."""
    setting = "2 keys, 4 doors, side 7"
    chosen, goal = _chosen("even", setting), _match("even", f"{setting}: goal")
    assert chosen.min() > _floor("any key", setting) + 20
    assert goal.mean() < _floor("any key", setting) < _match("dot", f"{setting}: goal").min()
    return [chosen.mean(), goal.mean()]


def match_summary() -> None:
    """More objects: attention and the loudest go on comparing, averages do not; larger rooms: averages are ahead."""
    match_more(), match_choice(), match_rooms()


def match_counting() -> None:
    """A weight that does not thin out helps averages hardly."""
    sixths = _match("even", f"sixths, {DOUBLED}: goal")
    assert sixths.max() < 15 and sixths.mean() < _floor("any key", DOUBLED) / 2


def match_forbid() -> None:
    """Attention: the look from key to door alone is needed for taking a key at all; averages have no such look."""
    assert _match("dot", "without key door: goal").max() < 10
    assert _match("dot", "without key door: taken").max() < 20
    assert _match("dot", "without goal door: goal").mean() < 50
    assert _match("dot", "without goal door: taken").min() > 85
    for kind in CHAPTER.KINDS:
        assert _match("dot", f"without agent {kind}: goal").min() > 80
    for looker in ("key", "door"):
        for seen in ("key", "door"):
            left = _match("even", f"without {looker} {seen}: goal")
            assert 10 < left.mean() < _match("even", f"{TRAINED}: goal").mean() - 5


def match_exchange() -> list[float]:
    """Exchanged looks of the keys lead to the wrong key; those of the doors do not."""
    wrong, right = (_match("dot", f"keys exchanged: {what}") for what in ("wrong", "right"))
    assert (wrong > right + 10).all() and _match("dot", f"{TRAINED}: wrong").max() < 3
    assert _match("dot", "doors exchanged: wrong").max() < 3
    assert (_match("dot", f"{TRAINED}: right") - _match("dot", "doors exchanged: right")).max() < 8
    return [wrong.mean(), right.mean()]


def match_partner() -> None:
    """The best head of the key finds its partner among four nearly as often as among two."""
    for setting in (TRAINED, DOUBLED):
        assert _match("dot", f"finds its door, {setting}").min() > 95


def match_rooms() -> None:
    """In larger rooms averages reach more goals than attention, which takes no wrong keys."""
    dot, even = (_match(net, f"{WIDE}: goal") for net in ("dot", "even"))
    assert stats.ttest_ind(even, dot, equal_var=False).confidence_interval(0.95).low > 0
    assert _chosen("dot", WIDE).min() > 95 and _match("dot", f"finds its door, {WIDE}").min() > 90


def match_near() -> list[float]:
    """Things drawn in to where they were in training help both, and averages stay ahead."""
    told = []
    for net in ("dot", "even"):
        far, near = _match(net, f"{WIDE}: goal"), _match(net, f"near, {WIDE}: goal")
        assert (near > far).all() and near.mean() > far.mean() + 10
        told += [far.mean(), near.mean()]
    assert (
        _match("even", f"near, {WIDE}: goal").mean()
        > _match("dot", f"near, {WIDE}: goal").mean() + 3
    )
    return told


# Alien


def _games(name: str) -> np.ndarray:
    """Scores of the whole games of every seed: [S, games]."""
    return results.curves("A10", name, "scores")


def _best_blind() -> np.ndarray:
    """All games of the best policy that does not look."""
    kinds = {
        kind: results.curves("A10", "alien_floors", kind).ravel()
        for kind in ("held", "random", "single")
    }
    return max(kinds.values(), key=np.mean)


def _lead(games: np.ndarray, floor: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the difference of two means over games (Welch)."""
    found = stats.ttest_ind(games, floor, equal_var=False).confidence_interval(0.95)
    return found.low, found.high


def _looks(name: str) -> np.ndarray:
    return results.metric("A10", "alien_looks", name)


def alien_floor() -> None:
    """Held random moves are the strongest of those that do not look; every game of one action is the same."""
    floor = results.metric("A10", "alien_floors", "held").mean()
    for kind in ("random", "single"):
        assert results.metric("A10", "alien_floors", kind).mean() < floor
    single, random = (
        results.metric("A10", "alien_floors", kind).mean() for kind in ("single", "random")
    )
    assert single < random < 0.75 * floor
    assert (results.curves("A10", "alien_floors", "single").std(1) == 0).all()


def alien_trained() -> None:
    """Every seed of the agent lies above every policy that does not look, by the interval of the difference."""
    games = _games("alien")
    assert all(_lead(seed, _best_blind())[0] > 0 for seed in games)


def alien_control() -> None:
    """Without attention the mean over seeds is larger than with it."""
    attention, nothing = (
        results.metric("A10", name, "score") for name in ("alien", "alien_nothing")
    )
    assert nothing.mean() > attention.mean()


def alien_cover() -> None:
    """Covering the most attended node changes more moves than a random one's, in every seed."""
    most, random = (_looks(f"flips_{which}") for which in ("most", "random"))
    assert (most > 1.5 * random).all()


def alien_cover_control() -> None:
    """The same nodes matter as much to an agent that looks nowhere."""
    own, other = (_looks(f"{who}flips_most") for who in ("", "other_"))
    assert (other > 1.5 * _looks("other_flips_random")).all() and other.mean() > 0.75 * own.mean()


def alien_hidden() -> None:
    """Hidden from attention: the most attended node matters most, the least hardly; even weights change more."""
    most, random, least = (_looks(f"hidden_flips_{which}") for which in ("most", "random", "least"))
    even = _looks("even_flips")
    assert (most > 3 * random).all() and (least < random).all() and (even > most).all()
    assert (even >= 25).all() and (even <= 50).all()


def alien_player() -> None:
    """Covering the player changes as many moves as covering an alien; hiding its node fewer than half as many."""
    covered, hidden = _looks("flips_player"), _looks("hidden_flips_player")
    assert covered.mean() > 0.85 * _looks("flips_alien").mean()
    assert (hidden < 0.5 * covered).all()


def alien_figures() -> None:
    """Aliens and player are looked at a little more than evenly, the bonus not; the brightest node is often neither."""
    alien, player, bonus = (_looks(f"{kind}_looks") for kind in ("alien", "player", "bonus"))
    assert (
        (alien > 1.1).all()
        and (player > 1.1).all()
        and alien.mean() < 1.75
        and player.mean() < 1.75
    )
    assert (bonus < 1.05).all()
    assert (_looks("most_is_alien") + _looks("most_is_player") < 50).sum() == 2
