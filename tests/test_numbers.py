"""How far seeds lie apart: what is called a 95 % interval covers 95 %, and what does not is called a range."""

import re

import numpy as np
import pytest
from scipy import stats

from rlbook_utils import plots
from rlbook_utils.numbers import number, spread_of

DRAWS = 20_000
SAMPLES = {  # distribution -> draws [S, DRAWS], its mean, its median
    "normal": (lambda rng, n: rng.normal(size=(n, DRAWS)), 0.0, 0.0),
    "exponential": (lambda rng, n: rng.exponential(size=(n, DRAWS)), 1.0, np.log(2)),
}


def coverage(spread, truth):
    return np.mean((spread.low <= truth) & (truth <= spread.high))


def says_95(found):
    """Whether a coverage measured over ``DRAWS`` samples may belong to one of 95 %: five standard errors."""
    return abs(found - 0.95) < 5 * np.sqrt(0.95 * 0.05 / DRAWS)


@pytest.mark.parametrize("seeds", [5, 10])
def test_the_interval_of_a_mean_covers_95_percent_of_normal_samples(seeds):
    samples = SAMPLES["normal"][0](np.random.default_rng(0), seeds)
    spread = spread_of(samples)
    assert spread.covers and spread.name == "95 % interval"
    assert says_95(coverage(spread, 0.0))
    ninety = stats.t.interval(0.9, seeds - 1, samples.mean(0), stats.sem(samples))
    assert not says_95(np.mean((ninety[0] <= 0) & (ninety[1] >= 0))), (
        "a 90 % interval would be noticed"
    )


def test_skewed_samples_are_covered_as_often_as_the_docstring_says():
    draw, mean, _ = SAMPLES["exponential"]
    found = coverage(spread_of(draw(np.random.default_rng(1), 5)), mean)
    said = float(re.search(r"(\d\d) % for five draws of an exponential", spread_of.__doc__)[1])
    assert abs(100 * found - said) < 1


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("seeds", [6, 8, 9, 10, 20])
def test_the_interval_of_a_median_covers_95_percent_of_any_samples_and_is_the_shortest(name, seeds):
    """A median lies below the k-th of n draws as often as a coin that is thrown n times shows fewer than k heads."""
    draw, _, median = SAMPLES[name]
    samples = np.sort(draw(np.random.default_rng(2), seeds), axis=0)
    spread = spread_of(samples, "median")
    k = int(np.flatnonzero(samples[:, 0] == spread.low[0])[0])
    exact = [1 - 2 * stats.binom.cdf(below, seeds, 0.5) for below in (k, k + 1)]
    assert spread.covers and exact[0] >= 0.95 > exact[1]
    assert abs(coverage(spread, median) - exact[0]) < 5 * np.sqrt(exact[0] * (1 - exact[0]) / DRAWS)


@pytest.mark.parametrize("name", SAMPLES)
def test_few_seeds_have_a_range_and_no_interval(name):
    """Three draws hold their mean three times in four, five draws their median 94 times in a hundred."""
    draw, mean, median = SAMPLES[name]
    samples = draw(np.random.default_rng(3), 3)
    spread = spread_of(samples)
    assert not spread.covers and spread.name == "range"
    np.testing.assert_array_equal(spread.low, samples.min(0))
    np.testing.assert_array_equal(spread.high, samples.max(0))
    assert coverage(spread, mean) < 0.8
    five = spread_of(draw(np.random.default_rng(4), 5), "median")
    assert not five.covers and coverage(five, median) < 0.945


def test_a_curve_is_summed_up_point_by_point():
    curves = np.random.default_rng(5).normal(size=(6, 40))
    for statistic in ("mean", "median"):
        whole = spread_of(curves, statistic)
        alone = [spread_of(curves[:, t], statistic) for t in range(40)]
        np.testing.assert_allclose(whole.low, [a.low for a in alone])
        np.testing.assert_allclose(whole.high, [a.high for a in alone])
    reference = stats.t.interval(0.95, 5, curves.mean(0), stats.sem(curves))
    np.testing.assert_allclose(spread_of(curves)[:2], reference)


def test_an_unknown_statistic_is_refused():
    with pytest.raises(ValueError, match="statistic is 'mode'"):
        spread_of(np.zeros(9), "mode")


@pytest.mark.parametrize("seeds", [3, 5])
def test_figures_show_every_seed(seeds):
    figure = plots.Figure()
    left, right = figure.subplots(1, 2)
    curves = np.random.default_rng(6).normal(size=(seeds, 20))
    plots.bands(left, range(20), curves, "x")
    drawn = [line.get_ydata() for line in left.lines]
    assert all(any(np.array_equal(curve, y) for y in drawn) for curve in curves)
    plots.bars(right, {"a": curves[:, 0]})
    assert any(np.array_equal(line.get_xdata(), curves[:, 0]) for line in right.lines)


def test_numbers_read_as_a_person_would_write_them():
    assert [number(x) for x in (4874.3, 0.054321, 5.0, 99.96, float("inf"))] == [
        "4,874",
        "0.05432",
        "5",
        "99.96",
        "inf",
    ]


def test_bars_of_equal_seeds_are_drawn():
    seeds = [0.1] * 3
    assert np.mean(seeds) > 0.1  # by rounding
    axes = plots.Figure().subplots()
    plots.bars(axes, {"a": seeds})


@pytest.mark.parametrize("count", [1, 2, 3])
def test_bars_begin_at_the_top_in_panels_that_share_the_axis(count):
    panels = plots.Figure().subplots(1, count, sharey=True, squeeze=False)[0]
    for axes in panels:
        plots.bars(axes, {"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.0]})
    bottom, top = panels[0].get_ylim()
    assert bottom > 1 > 0 > top
