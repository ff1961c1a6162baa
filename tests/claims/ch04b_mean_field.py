"""What chapter 04b says about its stored lattices."""

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


def _mean(name: str, *kinds: str) -> list[float]:
    return [results.metric("M4", name, kind).mean() for kind in kinds]


def most_follow_and_remember():
    for name in ("follow", "follow_myopic"):
        same_way, turned = (results.metric("M4", name, kind) for kind in ("same_way", "turned"))
        assert len(turned) == 10 and spread_of(same_way, "mean").low > 60 and turned.max() < 100
        assert (turned == results.metric("M4", name, "turned_follow")).all()  # none of the others
        assert results.metric("M4", name, "rule_turned").min() == 100
    late = _mean("follow_myopic", "follow", "lean", "turned")
    asked = ("follow", "untrained_follow", "same_way", "turned", "turned_follow")
    return [*_mean("follow", *asked, "gap", "gap_back", "lean"), *late]


def lead_is_no_knowledge():
    for name in ("follow", "follow_myopic"):
        learned, rule, sure, line, leaning = (
            results.metric("M4", name, f"{table}_mean")
            for table in ("learned", "rule", "sure", "straight", "leaning")
        )
        assert stats.ttest_rel(learned, rule).pvalue < 0.001 and len(learned) == 10
        assert stats.ttest_rel(leaning, learned).pvalue < 0.001
        assert (leaning > learned).all() and abs(np.mean(line - learned)) < 0.3
        assert np.mean(sure) < min(np.mean(rule) + 0.1, np.mean(learned) - 1)
        for table in ("learned", "leaning"):
            assert results.metric("M4", name, f"{table}_stuck").max() == 0
    straight = CHAPTER.tables_as_sure(1.0)["straight"]
    right = CHAPTER.tables_as_sure(1.0)["sure"]
    shares = [100 * float((t[5] - t[3]) / (t[8] - t[0])) for t in (straight, right)]
    assert np.round(shares).tolist() == [25, 56]
    border = results.metric("M4", "follow", "border").mean()
    rule_median, sure_median, stuck = _mean("follow", "rule_median", "sure_median", "sure_stuck")
    assert 0.23 < border < 0.27 and sure_median > rule_median + 1 and 11.5 < stuck < 13.5


def printed():
    for name in ("printed", "printed_right"):
        advantages, late = _curves(name, "advantages"), _curves(name, "aligned")[:, -20:]
        assert len(advantages) == 5 and late.mean(1).min() > 80
        assert (
            np.sign(advantages) == np.sign(advantages[:, :1])
        ).all()  # one direction, at all nine
        assert np.ptp(advantages, axis=1).max() < 0.2
    shares = _curves("printed", "aligned")
    lucky = shares >= 97
    assert shares.shape == (5, 75) and not lucky[:, -20:].any() and lucky.any(1).sum() == 3
    return [shares[:, 20:55].mean(), shares[:, -20:].mean(), lucky.sum(), shares.size]


def beside_exact():
    learned, exact = (_curves("beside_exact", f"{name}_m") for name in ("learned", "exact"))
    apart = np.abs(exact[:, None] - exact[None])[~np.eye(5, dtype=bool)].mean()
    assert len(learned) == 5
    few = CHAPTER.temperatures_of(CHAPTER.CONTROL)
    near, one = np.abs(few / TAU_C - 1) < 0.05, np.isclose(few, 1.1)
    assert len(few) == 23 and near.sum() == 4 and few[near].min() == few[one].item()
    pairs = np.abs(exact[:, None] - exact[None])[~np.eye(5, dtype=bool)]
    shown = [np.abs(learned - exact)[:, near].mean(), pairs[:, near].mean()]
    shown += [np.abs(learned - exact)[:, one].mean(), pairs[:, one].mean()]
    low, high = spread_of((learned - exact)[:, near].mean(1), "mean")[:2]
    assert low < 0 < high
    return [np.abs(learned - exact).mean(), apart, *shown]


def stripes():
    cold, cooled = (results.metric("M4", "quench", f"stuck_{how}") for how in ("cold", "cooled"))
    mild = results.metric("M4", "quench", "stuck_mild")
    mean, low, high = _mean_and_interval(cold)
    assert len(cold) == 10 and 29 < low < mean < high < 33
    assert cold.min() > 27 and cold.max() < 36 and cooled.max() == mild.max() == 0


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
    sizes = [_curves("lattice", f"binder_{side}") for side in SQUARE.sides[-2:]]
    whole = [
        CHAPTER.crossing(CHAPTER.temperatures_of(SQUARE), *pair)
        for pair in zip(*sizes, strict=True)
    ]
    assert np.allclose(whole, found)  # sought at all temperatures, they are the same
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
    other, tried = _curves("other_reward", "aligned_m"), CHAPTER.temperatures_of(CHAPTER.OTHER)
    at = {t: other[:, np.isclose(tried, t)] for t in (0.6, 0.7, 0.8)}
    assert len(other) == 5 and at[0.7].min() > 0.7 and at[0.8].max() < 0.15
    values = _curves("other_reward", "advantages")
    assert 0.45 < values[:, -1].mean() / 4 < 0.55
    return [TAU_C, TAU_C * values[:, -1].mean() / 4, at[0.6].mean()]


def growth():
    exponents = results.metric("M4", "growth", "growth_exponent")
    mean, low, high = _mean_and_interval(exponents)
    assert len(exponents) == 5 and low < 0.5 < high and 90 < 10 ** (1 / mean) < 120
    at, sizes = CHAPTER.growth_times(CHAPTER.GrowthConfig()), _curves("growth", "domain_size")
    assert sizes[:, at < 20].max() < 10 and sizes[:, at > 1000].min() > 512 / 10
    tenth = (sizes > 512 / 10).any(0)
    assert at[tenth].min() == 754
    found = [mean, low, high]
    for begin, end in ((20, 150), (150, 1000)):
        part = (at >= begin) & (at <= end)
        slopes = [np.polyfit(np.log(at[part]), np.log(size[part]), 1)[0] for size in sizes]
        found += _mean_and_interval(np.array(slopes))
    return found


def cube():
    found = results.metric("M5", "cube", "critical_temperature")
    assert len(found) == 5 and np.abs(found / (CHAPTER.CUBIC / 2) - 1).max() < 0.01
    dense = CHAPTER.within(CHAPTER.temperatures_of(CUBES), CUBES.dense)
    sizes = [results.curves("M5", "cube", f"binder_{side}")[:, dense] for side in (4, 8)]
    at = CHAPTER.temperatures_of(CUBES)[dense]
    small = np.array([CHAPTER.crossing(at, *pair) for pair in zip(*sizes, strict=True)])
    assert np.ptp(small) < 0.004
    return [*_mean_and_interval(found), small.mean()]
