"""What the section on Alien says about its stored runs (to be merged into tests/claims/ch05c_relations.py)."""

import numpy as np
from scipy import stats

from rlbook_utils import results

SEEDS = (1, 2, 3)


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


def alien_floor() -> list[float]:
    """Held random moves are the strongest of those that do not look; every game of one action is the same."""
    floor = results.metric("A10", "alien_floors", "held").mean()
    for kind in ("random", "single", "pair"):
        assert results.metric("A10", "alien_floors", kind).mean() < floor
    assert (results.curves("A10", "alien_floors", "single").std(1) == 0).all()
    return [
        floor,
        *(results.metric("A10", "alien_floors", kind).mean() for kind in ("random", "single")),
    ]


def alien_trained() -> list[float]:
    """Every seed of the agent lies above every policy that does not look, by the interval of the difference."""
    games = _games("alien")
    assert all(_lead(seed, _floor())[0] > 0 for seed in games)
    return [*games.mean(1), _floor().mean()]


def alien_control() -> list[float]:
    """Without attention every seed scores more than every seed with it."""
    attention, nothing = (
        results.metric("A10", name, "score") for name in ("alien", "alien_nothing")
    )
    assert nothing.min() > attention.max()
    return [attention.mean(), nothing.mean()]


def alien_cover() -> list[float]:
    """Covering the most attended node changes more moves than a random one's, in every seed."""
    most, random = (_looks(f"flips_{which}") for which in ("most", "random"))
    assert (most > 1.5 * random).all()
    return [most.mean(), random.mean()]


def alien_cover_control() -> list[float]:
    """The same nodes matter as much to an agent that looks nowhere."""
    own, other = (_looks(f"{who}flips_most") for who in ("", "other_"))
    assert (other > 1.5 * _looks("other_flips_random")).all() and other.mean() > 0.75 * own.mean()
    return [own.mean(), other.mean()]


def alien_hidden() -> list[float]:
    """Hidden from attention: the most attended node matters most, the least hardly; even weights change more."""
    most, random, least, player, even = (
        _looks(name) for name in (
            "hidden_flips_most", "hidden_flips_random", "hidden_flips_least", "hidden_flips_player", "even_flips"
        )
    )  # fmt: skip
    assert (most > 3 * random).all() and (least < random).all() and (even > most).all()
    assert (even >= 25).all() and (even <= 50).all()
    assert (player < 0.5 * _looks("flips_player")).all()
    return [most.mean(), random.mean(), least.mean()]


def alien_figures() -> list[float]:
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
    return [alien.mean(), player.mean(), bonus.mean()]
