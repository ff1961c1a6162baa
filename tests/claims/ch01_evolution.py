"""What chapter 01 says about its stored runs."""

import itertools

import numpy as np
from scipy import stats

from rlbook_utils import results
from rlbook_utils.definitions import load_chapter
from rlbook_utils.numbers import spread_of

CHAPTER = load_chapter("ch01_evolution")


def _metric(row: str, name: str, metric: str, part: str = "metrics") -> np.ndarray:
    return np.array([run[part][metric] for run in results.runs(row, name)])


def _fitness(row: str, name: str) -> np.ndarray:
    """Mean fitness of the population: [S, T]."""
    return results.curves(row, name, "mean_fitness")


def _swept(dial: str, value: float) -> np.ndarray:
    return results.curves("E4", "sweep", f"{dial}={value}")


# Strings


def strings_found():
    lengths = [len(run["curves"]["mean_fitness"]) for run in results.runs("E1", "strings")]
    assert max(lengths) < CHAPTER.StringConfig().generations  # the first population found it
    return [min(lengths), max(lengths)]


def missing_letters():
    chance = {size: 1 - (1 - (55 / 56) ** size) ** 12 for size in (200, 900)}
    assert 0.5e-6 < chance[900] < 1.5e-6
    return [100 * chance[200], 900, 200]


# The genetic algorithm


def speedups():
    equal = _metric("E2", "genetic", "speedup_equal_work")
    whole = _metric("E2", "genetic", "speedup")
    assert len(whole) == 10 and (whole > equal).all() and (equal > 1).all()
    return [np.median(equal), np.median(whole), np.median(whole / equal)]


def greedy_and_sampled():
    greedy, sampled = _fitness("E2", "genetic"), _fitness("E2", "genetic_sampled")
    assert sampled[:, -1].max() < greedy[:, -1].min()
    assert (sampled[:, 5:].mean(0) < greedy[:, 5:].mean(0)).all()
    for name in ("genetic", "genetic_sampled"):
        assert _metric("E2", name, "champion_return").min() >= 475


def layers():
    one, each = _fitness("E2", "genetic"), _fitness("E3", "genetic_layerwise")
    assert len(one) == len(each) == 10
    assert (one[:, 0] == each[:, 0]).all()  # the same first population, seed by seed
    early, late = (each - one)[:, 2:6].mean(1), (each - one)[:, -1]
    before, after = spread_of(early), spread_of(late)
    assert before.covers and before.high < 0 and after.low < 0 < after.high
    for row, name in (("E2", "genetic"), ("E3", "genetic_layerwise")):
        assert (_metric(row, name, "champion_return") == 500).all()
    chance = _sign_flips(late)
    assert chance > 0.05
    return [early.mean(), before.low, before.high, late.mean(), after.low, after.high, chance]


def _sign_flips(differences: np.ndarray) -> float:
    """The share of all signs of paired differences whose mean lies as far from zero: an exact test's p."""
    signs = np.array(list(itertools.product((-1, 1), repeat=len(differences))))
    means = np.abs((signs * differences).mean(1))
    return float((means >= abs(differences.mean()) - 1e-9).mean())


# The dials


def mutation_rates():
    ends = {rate: _swept("mutation_rate", rate)[:, -1] for rate in CHAPTER.SWEEPS["mutation_rate"]}
    assert ends[0.0].mean() > ends[0.01].mean() - 10
    for rate in (0.05, 0.15, 0.3):
        assert ends[rate].max() < min(ends[0.0].min(), ends[0.01].min())


def tournaments():
    ends = {share: _swept("tournament", share)[:, -1] for share in CHAPTER.SWEEPS["tournament"]}
    assert ends[0.004].max() < 50
    strict = [ends[share].mean() for share in (0.1, 0.2, 0.5, 1.0)]
    assert max(strict) - min(strict) < 60 and min(strict) > ends[0.004].mean() + 250


def population_sizes():
    curves = {size: _swept("population", size) for size in CHAPTER.SWEEPS["population"]}
    ends = {size: curve[:, -1] for size, curve in curves.items()}
    assert ends[20].max() < ends[1000].min()
    assert np.ptp(ends[20]) > max(np.ptp(ends[size]) for size in (500, 1000))
    assert abs(ends[60].mean() - ends[1000].mean()) < 30
    half = {size: (curves[size].mean(0) > ends[1000].mean() / 2).argmax() for size in (60, 1000)}
    assert half[60] > half[1000]


# The body


def bodies():
    champions = _metric("E5", "halfcheetah", "halfcheetah_return")
    children = results.curves("E5", "halfcheetah", "mean_return")
    assert len(champions) == 5 and (champions > 3430).sum() == 4
    assert (children[:, -1] < champions).all()
    return [champions.min()]


def traffic():
    news = _metric("E7", "traffic", "bytes_per_generation")
    parents = _metric("E7", "traffic", "bytes_per_generation", "baselines")
    assert np.ptp(news) == np.ptp(parents) == 0
    size, generations = 17, CHAPTER.BRIEF.generations
    replies, sent = 8 * (1 + 2 * size), 2 * (1 + 2 * size) * (generations - 1) / generations
    assert (
        0.75 < 8 * (replies + sent) / news[0] < 0.85
    )  # statistics; the first generation has no news
    return [news[0], parents[0], CHAPTER.first_parent(CHAPTER.SearchConfig()).weights.size]


# What it costs


def _steps() -> dict[str, np.ndarray]:
    return {
        name: _metric("E9", "samples", f"steps_to_solve{key}")
        for name, key in CHAPTER.SOLVER_KEYS.items()
    }


def samples():
    steps = _steps()
    genetic, gradients = steps["genetic algorithm"], np.concatenate([steps["PPO"], steps["DQN"]])
    for name in ("genetic algorithm", "evolution strategy"):
        assert len(steps[name]) == 10 and (steps[name] > gradients.max()).sum() == 8
    assert genetic.min() == min(values.min() for values in steps.values())
    spans = {name: values.max() / values.min() for name, values in steps.items()}
    assert max(spans, key=spans.get) == "genetic algorithm"
    return [*map(np.median, steps.values()), genetic.min(), genetic.max()]


def hungry_strategy():
    steps = _steps()
    strategy = steps["evolution strategy"]
    for name in ("PPO", "DQN"):
        assert stats.mannwhitneyu(strategy, steps[name], alternative="greater").pvalue < 0.025
    return [np.median(strategy) / np.median(steps[name]) for name in ("PPO", "DQN")]


def first_seed_gets_least():
    returns = [run["metrics"]["halfcheetah_return"] for run in results.runs("E5", "halfcheetah")]
    assert len(returns) == 5 and min(returns) == returns[0]
