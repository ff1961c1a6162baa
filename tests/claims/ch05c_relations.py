"""What chapter 05c says about its stored agents: keys and doors, and Alien."""

import numpy as np
from scipy import stats

from rlbook_utils import results
from rlbook_utils.definitions import load_chapter

CHAPTER = load_chapter("ch05c_relations")
TRAINED, DOUBLED = "2 keys, 2 doors, side 7", "4 keys, 4 doors, side 7"
MORE = [name for name, (keys, doors, _) in CHAPTER.SETTINGS.items() if keys + doors > 4]


def _match(net: str, metric: str) -> np.ndarray:
    """One number of every seed of an agent among keys and doors: [S]."""
    return results.metric("A6", f"match_{net}", metric)


def _guess(setting: str) -> float:
    return results.metric("A6", "match_floors", f"guess {setting}").mean()


# Keys and doors


def match_floors() -> None:
    """Worlds that nobody can solve, what any key brings, and random play."""
    assert 20 < 100 - results.metric("A6", "match_floors", "solvable").mean() < 25
    assert 50 < _guess(TRAINED) < 58 and 30 < _guess(DOUBLED) < 36
    for setting in CHAPTER.SETTINGS:
        assert results.metric("A6", "match_floors", f"random {setting}").mean() < 10


def match_learns() -> None:
    """Where they were trained, attention and averages end alike, averages later; flat networks stay behind any key."""
    dot, even, flat = (_match(net, TRAINED) for net in ("dot", "even", "flat"))
    assert dot.min() > 90 and even.min() > 85 and abs(dot.mean() - even.mean()) < 5
    assert flat.max() < _guess(TRAINED) < even.min()
    curves = {
        net: results.curves("A6", f"match_{net}", "reached").mean(0) for net in ("dot", "even")
    }
    halves = {net: int((curve > 0.5).argmax()) for net, curve in curves.items()}
    assert halves["dot"] < halves["even"]


def match_more() -> None:
    """Among four keys and four doors: attention, then the loudest, then any key, then averages, in every seed."""
    dot, loudest, even = (_match(net, DOUBLED) for net in ("dot", "loudest", "even"))
    assert dot.min() > loudest.max() > _guess(DOUBLED) > even.max()
    assert 75 < dot.mean() < 86 and even.max() < 5
    for setting in MORE:
        assert _match("dot", setting).mean() > _match("even", setting).mean() + 5


def match_rooms() -> None:
    """In larger rooms averages are ahead of attention."""
    assert (
        _match("even", "2 keys, 2 doors, side 12").mean()
        > _match("dot", "2 keys, 2 doors, side 12").mean() + 5
    )


def match_counting() -> None:
    """Sums do not help averages; the largest value helps a little; attention is above it."""
    sixths, loudest, dot = (
        _match("even", f"sixths {DOUBLED}"),
        _match("loudest", DOUBLED),
        _match("dot", DOUBLED),
    )
    assert (
        sixths.max() < 10 and loudest.min() > _guess(DOUBLED) and dot.mean() > loudest.mean() + 10
    )
    assert _match("loudest", TRAINED).mean() < _match("dot", TRAINED).mean()


def match_forbid() -> None:
    """One of the two looks between key and door decides in every seed; none of the agent's own does."""
    both = np.minimum(_match("dot", "without key door"), _match("dot", "without door key"))
    assert both.max() < 0.5 * _guess(TRAINED)
    for kind in CHAPTER.KINDS:
        assert _match("dot", f"without agent {kind}").min() > 80


def match_spread() -> None:
    """Averages lose something by each look among keys and doors, and all by none."""
    for looker in ("key", "door"):
        for seen in ("key", "door"):
            left = _match("even", f"without {looker} {seen}")
            assert 10 < left.mean() < _match("even", TRAINED).mean() - 10


def match_partner() -> None:
    """The best head of the key or of the door finds its partner among four nearly as often as among two."""
    for setting in (TRAINED, DOUBLED):
        best = np.maximum(
            _match("dot", f"finds key {setting}"), _match("dot", f"finds door {setting}")
        )
        assert best.min() > 95


# Alien


def _games(name: str) -> np.ndarray:
    """Scores of the whole games of every seed: [S, games]."""
    return results.curves("A10", name, "scores")


def _floor() -> np.ndarray:
    """All games of the best policy that does not look."""
    kinds = {
        kind: results.curves("A10", "alien_floors", kind).ravel()
        for kind in ("held", "pair", "random", "single")
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
    for kind in ("random", "single", "pair"):
        assert results.metric("A10", "alien_floors", kind).mean() < floor
    assert (results.curves("A10", "alien_floors", "single").std(1) == 0).all()


def alien_trained() -> None:
    """Every seed of the agent lies above every policy that does not look, by the interval of the difference."""
    games = _games("alien")
    assert all(_lead(seed, _floor())[0] > 0 for seed in games)


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
    most, random, least, player, even = (
        _looks(name) for name in (
            "hidden_flips_most", "hidden_flips_random", "hidden_flips_least", "hidden_flips_player", "even_flips"
        )
    )  # fmt: skip
    assert (most > 3 * random).all() and (least < random).all() and (even > most).all()
    assert (even >= 25).all() and (even <= 50).all()
    assert (player < 0.5 * _looks("flips_player")).all()


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
