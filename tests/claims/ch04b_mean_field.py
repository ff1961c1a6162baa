"""What chapter 04 says about its stored lattices."""

import numpy as np
from scipy import stats

from rlbook_utils import results
from rlbook_utils.definitions import load_chapter
from rlbook_utils.numbers import spread_of

CHAPTER = load_chapter("ch04b_mean_field")
SQUARE, CUBES = CHAPTER.LatticeConfig(), CHAPTER.CUBES
TAU_C = CHAPTER.ONSAGER / 2


def _mean_and_interval(values: np.ndarray) -> list[float]:
    return [values.mean(), *spread_of(values, "mean")[:2]]


def _late(name: str, curve: str) -> np.ndarray:
    """Mean of the last twenty rounds of every seed."""
    return results.curves("M4", name, curve)[:, -20:].mean(1)


def _curves(name: str, curve: str) -> np.ndarray:
    return results.curves("M4", name, curve)


# The mean field


def mean_field_aligns():
    learned, rule, myopic = (
        _late("mean_field", "rewards"),
        _late("mean_field", "rule"),
        _late("myopic", "rewards"),
    )
    untrained, shuffled = _late("mean_field", "nobody"), _late("mean_field", "shuffled")
    assert len(learned) == len(myopic) == 10 and learned.min() > 98
    assert untrained.max() < 75 and shuffled.max() < 57 and shuffled.max() < untrained.min()
    assert stats.mannwhitneyu(learned, rule).pvalue < 0.001  # random numbers of their own
    assert stats.ttest_rel(learned, myopic).pvalue < 0.001  # the same ones
    assert np.sort(rule)[1] > 97.5  # one seed stands apart
    medians = [np.median(late) for late in (learned, myopic, rule)]
    return [*medians, rule.min(), untrained.mean(), shuffled.mean()]


def most_follow_and_remember():
    asked = ("follow", "same_way", "turned", "as_sure", "aligned")
    follow, same_way, turned, sure, own = (results.metric("M4", "follow", kind) for kind in asked)
    assert len(follow) == 10 and spread_of(same_way, "mean").low > 60 and turned.max() < 100
    assert abs(np.mean(sure - own)) < 0.2
    return [follow.mean(), same_way.mean(), turned.mean(), sure.mean(), own.mean()]


def printed():
    for name in ("printed", "printed_right"):
        advantages, late = _curves(name, "advantages"), _curves(name, "aligned")[:, -20:]
        assert len(advantages) == 5 and late.mean(1).min() > 80
        assert (
            np.sign(advantages) == np.sign(advantages[:, :1])
        ).all()  # one direction, at all nine
        assert np.ptp(advantages, axis=1).max() < 0.2


def beside_exact():
    learned, exact = (_curves("beside_exact", f"{name}_m") for name in ("learned", "exact"))
    apart = np.abs(exact[:, None] - exact[None])[~np.eye(5, dtype=bool)].mean()
    assert len(learned) == 5
    return [np.abs(learned - exact).mean(), apart]


def stripes():
    cold, cooled = (results.metric("M4", "quench", f"stuck_{how}") for how in ("cold", "cooled"))
    mild = results.metric("M4", "quench", "stuck_mild")
    mean, low, high = _mean_and_interval(cold)
    assert len(cold) == 10 and 29 < low < mean < high < 33
    assert cold.min() > 27 and cold.max() < 36 and cooled.max() == 0 and mild.max() < 1


# Onsager's lattice


def five_numbers():
    errors = results.metric("M4", "lattice", "value_error")
    assert len(errors) == 5 and errors.max() < 0.002 * 4
    return [errors.max()]


def onsager():
    temperatures = CHAPTER.temperatures_of(SQUARE)
    away = np.abs(temperatures / TAU_C - 1) > 0.07
    energy = _curves("lattice", "aligned_energy_64")[:, away]
    assert len(energy) == 5
    assert np.abs(energy / CHAPTER.exact_energy(2 * temperatures[away]) - 1).max() < 0.005
    cold = temperatures < 0.93 * TAU_C
    exact = CHAPTER.exact_magnetisation(2 * temperatures[cold])
    assert np.abs(_curves("lattice", "aligned_m_64")[:, cold] - exact).max() < 0.01
    hot = temperatures > 1.07 * TAU_C
    by_size = [_curves("lattice", f"aligned_m_{side}")[:, hot].mean() for side in SQUARE.sides]
    assert (np.diff(by_size) < 0).all()  # nearer to the exact 0
    steepest = [np.diff(_curves("lattice", f"aligned_m_{side}").mean(0)[CHAPTER.within(temperatures, SQUARE.dense)][::2]).min()
                for side in SQUARE.sides]  # fmt: skip
    assert (np.diff(steepest) < 0).all()


def critical():
    found = results.metric("M4", "lattice", "critical_temperature")
    assert len(found) == 5 and np.abs(found / TAU_C - 1).max() < 0.01
    temperatures = CHAPTER.temperatures_of(SQUARE)
    aligned, random = (_curves("lattice", f"{start}_m_64") for start in ("aligned", "random"))
    near = temperatures > 1.04
    error = np.sqrt((aligned.var(0, ddof=1) + random.var(0, ddof=1)) / len(aligned))
    difference = np.abs(aligned.mean(0) - random.mean(0))
    assert (difference[near] < np.maximum(4 * error, 0.01)[near]).all()
    assert difference[near].max() < 0.05
    cold = temperatures < 0.95
    assert (aligned.mean(0) - random.mean(0))[cold].max() > 0.1
    return _mean_and_interval(found)


def no_transition_without_learning():
    learned = _curves("lattice", "aligned_m_64").mean(0)
    temperatures = CHAPTER.temperatures_of(SQUARE)
    low, high = (np.flatnonzero(np.isclose(temperatures, t))[0] for t in (1.1, 1.2))
    assert learned[low] - learned[high] > 0.5
    few = CHAPTER.temperatures_of(CHAPTER.CONTROL)
    assert _curves("shuffled", "aligned_m_64").max() < 0.2
    untrained = _curves("untrained", "aligned_m_64")
    low, high = (np.flatnonzero(np.isclose(few, t))[0] for t in (1.1, 1.2))
    assert len(untrained) == 5 and np.abs(untrained[:, low] - untrained[:, high]).max() < 0.05
    assert 1.7 < untrained[:, 0].mean() / untrained[:, -1].mean() < 2.7


def growth():
    exponents = results.metric("M4", "growth", "growth_exponent")
    mean, low, high = _mean_and_interval(exponents)
    assert len(exponents) == 5 and low < 0.5 < high and 90 < 10 ** (1 / mean) < 120
    at, sizes = CHAPTER.growth_times(CHAPTER.GrowthConfig()), _curves("growth", "domain_size")
    assert sizes[:, at < 20].max() < 10 and sizes[:, at > 1000].min() > 512 / 10
    return [mean, low, high]


def cube():
    found = results.metric("M5", "cube", "critical_temperature")
    assert len(found) == 5 and np.abs(found / (CHAPTER.CUBIC / 2) - 1).max() < 0.01
    return _mean_and_interval(found)
