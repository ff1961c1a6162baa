"""What chapter 02 says about its stored runs."""

from functools import cache, partial

import numpy as np
import torch

from rlbook_utils.definitions import load_chapter
from rlbook_utils.results import curves, runs

CH = load_chapter("ch02_distributional_dqn")
torch.set_num_threads(1)  # as in the book's runs: the networks are small


def _crossings(row: str, name: str) -> np.ndarray:
    """Greedy crossings of a variant: [S]."""
    return np.array([run["metrics"][f"crossings_{name}"] for run in runs(row, name)])


def _headline(metric: str) -> np.ndarray:
    return np.array([run["metrics"][metric] for run in runs("D7", "freeway")])


def _up() -> float:
    """What holding UP scores; the same in every run's games."""
    (scored,) = {run["baselines"]["freeway_crossings"] for run in runs("D7", "freeway")}
    return scored


def _while_learning(name: str) -> np.ndarray:
    """Crossings of a part of the ablation, averaged over the training: [S]."""
    return curves("D10", name, "crossings").mean(1)


def _per_walker(metric: str) -> np.ndarray:
    return np.array([run["metrics"][metric] for run in runs("D9", "risk")])


@cache
def _watched() -> np.ndarray:
    """The quantiles of the game that the chapter shows: [T, 3, K]."""
    state, config = CH.champion_state()
    return CH.watch_game(config, state, seed=30_000, decisions=260)[2]


@cache
def _walks(fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Policy [cells] and returns of the slider's walker."""
    rule = partial(CH.cvar, fraction=fraction)
    policy = rule(CH.learn_walk(rule, CH.RiskConfig(), seed=1)).argmax(1).numpy()
    return policy, CH.walk_returns(policy, 20_000, seed=2)[0]


def renewals():
    divergence, every = curves("D6", "toy", "divergence"), CH.ToyConfig().sync_every
    jumps = divergence[:, every::every] / divergence[:, every - 1 : -1 : every]
    assert (jumps > 1).all()
    assert (jumps[:, 0] < 4).all() and (jumps[:, 5:] > 100).all()


def floor():
    assert _up() == 21
    return [21]


def quantiles_ahead():
    assert _crossings("D8", "quantiles").min() > _crossings("D7", "brief").max()


def headline():
    decisions = curves("D7", "freeway", "decisions")[0]
    drawn = np.stack(
        [
            np.convolve(curve, np.full(4, 0.25), "valid")
            for curve in curves("D7", "freeway", "crossings")
        ]
    )
    decisions, whole = decisions[3:], CH.HEADLINE_CONFIG.steps
    assert (drawn[:, decisions <= whole / 5].max(1) > _up()).all()
    assert len(drawn) == 3 and (_headline("freeway_crossings") > _up() + 10).all()
    assert np.abs(_headline("freeway_crossings") - 32).max() <= 0.6
    quarter = drawn[:, np.searchsorted(decisions, whole / 4)].mean()
    gained_late = drawn[:, -20:].mean() - drawn[:, len(decisions) // 2 :][:, :20].mean()
    assert 0 < gained_late < 3
    return [quarter, _headline("freeway_crossings").mean()]


def timetable():
    """One agent in one displaced game, far from a draw; the chapter's figure plays more of them."""
    held = CH.play_displaced(lambda ram: np.full(len(ram), CH.UP), 1, seed=40_000)
    policy = CH.greedy_policy(CH.HEADLINE_CONFIG, CH.stored_agent(1))
    assert (CH.play_displaced(policy, 1, seed=40_000) < held - 2).all()


def told():
    raw, held, shaped = (_crossings("D7", name) for name in ("raw", "held", "shaped"))
    chosen, phases = _crossings("D7", "chosen"), _crossings("D8", "quantiles")
    assert np.sum(raw == 0) == 1 and np.sum(held == 0) == 2
    assert raw[raw > 0].min() > _up() and held[held > 0].min() > _up()
    assert shaped.min() > _up() and chosen.mean() < shaped.mean()
    assert phases.min() > max(found.max() for found in (raw, held, shaped, chosen))


def replayed():
    prioritised = _crossings("D7", "brief")
    means = [found.mean() for found in (prioritised, *map(partial(_crossings, "D7"), ("uniform", "copies")))]  # fmt: skip
    assert np.ptp(means) < np.ptp(prioritised)
    return [min(means), max(means)]


def told_everything():
    others = [_crossings("D7", name).mean() for name in ("raw", "held", "shaped", "chosen")]
    assert _crossings("D8", "quantiles").mean() - max(others) > 3.5
    assert _crossings("D7", "held").mean() < _crossings("D7", "raw").mean()


def loss():
    decisions, losses = curves("D7", "freeway", "decisions")[0], curves("D7", "freeway", "loss")
    crossings = curves("D7", "freeway", "crossings")
    losses, crossings = losses[:, 2:], crossings[:, 2:]  # from the first updates on
    low = losses[:, decisions[2:] < 25_000].argmin(1)
    seeds = np.arange(len(losses))
    assert (crossings[seeds, low] < 5).all()
    frequent = np.flatnonzero(decisions[2:] > 43_000)[0]
    assert (losses[:, frequent] > 1.7 * losses[seeds, low]).all()
    assert (crossings[:, frequent] > 10).all()
    last = losses.shape[1] // 4
    assert (losses[:, -last:].mean(1) < 0.7 * losses[:, frequent]).all()
    assert np.ptp(crossings[:, -2 * last :].reshape(len(seeds), 2, -1).mean(2), 1).max() < 2
    return [losses[seeds, low].mean()]


def down_is_worst():
    quantiles = _watched()
    means, stds = quantiles.mean(2), quantiles.std(2)
    parted = np.ptp(means, 1) > 0.1
    assert np.mean(means[parted].argmin(1) == CH.DOWN) > 0.7
    assert np.mean(stds[parted].argmax(1) == CH.DOWN) > 0.6


def steep():
    assert 0.015 <= np.median(_watched().std(2)) < 0.025


def updates():
    smear, bare = _crossings("D8", "smear"), np.sort(_crossings("D8", "c51_bare"))
    c51, quantiles = _crossings("D7", "brief"), _crossings("D8", "quantiles")
    assert smear.max() < _up() < c51.min()
    assert bare[0] < smear.min() + 0.5 and np.abs(bare[1:] - _up()).max() < 1
    assert quantiles.min() > max(smear.max(), bare.max(), c51.max())


def ablation():
    after = {name: _crossings("D10", name) for name in CH.ABLATION}
    learning = {name: _while_learning(name) for name in CH.ABLATION}
    for found in (after, learning):
        assert min(found, key=lambda name: found[name].mean()) == "noise_alone"
    others = [learning[name].min() for name in learning if name != "noise_alone"]
    assert learning["noise_alone"].max() < min(others)
    assert after["noise_alone"].max() < after["without_n_step"].min()
    assert after["without_n_step"].max() < min(_up(), after["rainbow"].min())
    assert learning["without_distributions"].max() < learning["rainbow"].min()
    return [
        after["noise_alone"].max(),
        after["without_n_step"].min(),
        after["without_distributions"].mean(),
        after["rainbow"].mean(),
    ]


def silent_parts():
    rainbow = _crossings("D10", "rainbow")
    silent = ("without_double", "without_priorities", "without_dueling", "without_noise")
    furthest = max(abs(_crossings("D10", name).mean() - rainbow.mean()) for name in silent)
    assert furthest < np.ptp(rainbow) / 2
    return [furthest, np.ptp(rainbow)]


def too_cautious():
    returns = _walks(0.1)[1]
    worst = np.sort(returns)[: len(returns) // 20].mean()
    assert worst > _per_walker("worst_by_mean").max() + 5
    assert worst > _per_walker("worst_by_cvar").max() + 0.5  # CRITERIA's CVaR looks at 5 %
    assert returns.mean() > _per_walker("mean_by_cvar").max()
    assert _per_walker("mean_by_mean").min() > _per_walker("mean_by_mean_less_variance").max()
    assert _per_walker("mean_by_mean_less_variance").min() > returns.mean()


def climbs_back():
    second_row = slice(CH.COLUMNS + 1, 2 * CH.COLUMNS - 1)  # where the wind blows
    climbs = {fraction: np.sum(_walks(fraction)[0][second_row] == 0) for fraction in (0.1, 0.05)}
    assert climbs[0.05] > climbs[0.1]


def summary_freeway():
    assert 10.5 < _headline("freeway_crossings").mean() - _up() < 11.5
    shaping = [("D7", name) for name in ("shaped", "brief", "uniform", "copies")]
    assert min(_crossings(*where).min() for where in [*shaping, ("D8", "quantiles")]) > _up()
    gained = _crossings("D8", "quantiles").mean() - _crossings("D7", "shaped").mean()
    assert 3.5 < gained < 5.6
