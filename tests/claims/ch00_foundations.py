"""What chapter 00 says about its stored runs."""

import itertools

import numpy as np
import torch
from scipy import stats

from rlbook_utils import results
from rlbook_utils.checkpoint import load_checkpoint
from rlbook_utils.definitions import load_chapter

torch.set_num_threads(1)  # a second thread costs these networks more than it brings
CHAPTER = load_chapter("ch00_foundations")
SOLVED = 475
RANDOM = 22.5  # CartPole's mean return under random pushes


def _metric(row: str, name: str, metric: str) -> np.ndarray:
    return np.array([run["metrics"][metric] for run in results.runs(row, name)])


def _differ(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two means differ beyond chance: Welch's test at 5 %."""
    return stats.ttest_ind(first, second, equal_var=False).pvalue < 0.05


def _at_the_end(name: str, curve: str = "value_of_start") -> np.ndarray:
    """The mean of the last five reports of every seed."""
    return results.curves("F2", name, curve)[:, -5:].mean(1)


def _networks(name: str) -> list:
    """The networks that a row's seeds ended with."""
    found = []
    for run in results.runs("F2", name):
        path = results.run_path("F2", name, run["seed"]).with_suffix(".safetensors")
        found.append(CHAPTER.net_of(load_checkpoint(path)["state"]["net"], 4, 128, 128, 2))
    return found


# The grid


def values_on_and_off_the_path():
    assert _metric("F1", "grid", "q_error").max() < 0.015
    assert _metric("F1", "grid", "q_error_anywhere").min() > 0.3


def grid_converges():
    episodes = _metric("F1", "grid", "episodes_to_converge")
    lapses = []
    for steps, begins in zip(
        results.curves("F1", "grid", "greedy_steps"), episodes.astype(int), strict=True
    ):
        later = steps[begins - 1 :] != 5
        lapses += [len(list(run)) for lost, run in itertools.groupby(later) if lost]
    assert len(lapses) > len(episodes) and np.mean(np.array(lapses) == 1) > 0.8
    return [np.median(episodes), episodes.max()]


def exploration():
    """More exploration: smaller errors, longer episodes, more bombs in each (both computed from the stored values)."""
    exact, means, largest = CHAPTER.exact_q(CHAPTER.GRID_DISCOUNT), [], []
    lengths, bombs = [], []
    for epsilon in CHAPTER.EPSILONS:
        values = results.curves("F1", "exploration", f"epsilon={epsilon}").reshape(-1, 12, 4)
        errors = np.abs(values - exact)[:, list(CHAPTER.OPEN)]
        means.append(errors.mean())
        largest.append(errors.max((1, 2)))
        assert all(len(CHAPTER.greedy_cells(q)) - 1 == 5 for q in values)
        walks = np.array([_walk(q, epsilon) for q in values])
        lengths.append(walks[:, 0].mean())
        bombs.append(walks[:, 1].mean())
    assert (
        (np.diff(means) < 0).all() and (np.diff(lengths) > 0).all() and (np.diff(bombs) > 0).all()
    )
    assert largest[0].min() > 0.4 and largest[-1].max() < 0.01


def _walk(q: np.ndarray, epsilon: float) -> tuple[float, float]:
    """Expected moves and bombs of an ε-greedy episode, from the visits of its Markov chain."""
    chances = np.full((12, 4), epsilon / 4)
    chances[np.arange(12), q.argmax(1)] += 1 - epsilon
    moves = np.zeros((12, 12))
    for cell in CHAPTER.OPEN:
        for action in range(4):
            moves[cell, CHAPTER.NEXT_CELL[cell, action]] += chances[cell, action]
    moves[:, CHAPTER.GOAL] = 0
    visits = np.linalg.solve(np.eye(12) - moves.T, np.eye(12)[CHAPTER.START])
    return visits.sum(), visits[CHAPTER.BOMB]


# DQN


def dqn_falls_back():
    """Every seed's curve falls by more than 100 from one report to the next."""
    assert (np.diff(results.curves("F2", "dqn", "greedy_return"), axis=1) < -100).any(1).all()


def dqn_episodes():
    episodes = _metric("F2", "dqn", "episodes")
    return [episodes.min(), episodes.max()]


def ablation():
    ends = {name: _metric("F2", name, "return") for name in CHAPTER.ABLATION.values()}
    whole = {
        name: results.curves("F2", name, "greedy_return").mean(1)
        for name in CHAPTER.ABLATION.values()
    }
    assert {len(scores) for scores in ends.values()} == {10}
    unsolved = {name: (scores < SOLVED).sum() for name, scores in ends.items()}
    assert unsolved["dqn"] == 2 and sum(unsolved.values()) == 2 + 4
    assert stats.kruskal(*ends.values()).pvalue > 0.05
    table = [(count, 10 - count) for count in unsolved.values()]
    assert stats.chi2_contingency(table).pvalue > 0.05
    assert _differ(whole["dqn"], whole["dqn_no_replay"])
    assert stats.tukey_hsd(*whole.values()).pvalue[0, 3] < 0.05  # among ten comparisons too
    for name in ("dqn_no_target", "dqn_neither", "dqn_short_replay"):
        assert not _differ(whole["dqn"], whole[name])
    return [whole["dqn_no_replay"].mean(), whole["dqn"].mean()]


def overestimates():
    full = [np.median(_at_the_end(name)) for name in ("dqn", "dqn_no_target")]
    for name in ("dqn_no_replay", "dqn_neither", "dqn_short_replay"):
        assert 90 < np.median(_at_the_end(name)) < 110
        assert stats.mannwhitneyu(_at_the_end("dqn"), _at_the_end(name)).pvalue < 0.01
    assert stats.mannwhitneyu(_at_the_end("dqn"), _at_the_end("dqn_no_target")).pvalue < 0.01
    assert _at_the_end("dqn").min() > 100
    return full


def huber():
    assert 1.4 < np.median(_at_the_end("dqn")) / 100 < 1.6
    assert _at_the_end("dqn_huber").min() > 1e6
    assert results.curves("F2", "dqn_huber", "greedy_return").max() < RANDOM
    slow, squared = _at_the_end("dqn_huber_slow"), _at_the_end("dqn_slow")
    unsolved = [
        (_metric("F2", name, "return") < SOLVED).sum() for name in ("dqn_huber_slow", "dqn_slow")
    ]
    assert unsolved == [4, 0] and len(slow) == len(squared) == 5
    return [slow.min(), slow.max(), squared.min(), squared.max()]


def huber_count():
    for net in _networks("dqn_huber"):
        lean, values, errors = CHAPTER.along_falls(net, 60)
        assert 0.88 < (errors > 0).mean() < 0.92
        by_lean = [values[(lean >= low) & (lean < low + 2)].mean() for low in range(0, 12, 2)]
        assert (np.diff(by_lean) > 0).all()


def small_differences():
    """How far apart the two values are in the states of the stored agents' own episodes."""
    for net in _networks("dqn"):
        policy, seen = CHAPTER.greedy_policy(net), []
        stream = CHAPTER.transitions(CHAPTER.make_vector("CartPole-v1", 64), policy, 5)
        for step in itertools.islice(stream, 100):
            seen.append(step.obs[step.valid])
        with torch.no_grad():
            q = net(CHAPTER.as_input(np.concatenate(seen))).numpy()
        assert np.median(np.abs(q[:, 1] - q[:, 0]) / q.max(1)) < 0.01


# The policy gradient and the actor–critic


def variances():
    to_go, baseline = (
        _metric("F3", "variance", f"variance_ratio_{name}") for name in ("reward_to_go", "baseline")
    )
    past, rest = 100 * (1 - to_go), 100 * (1 - baseline / to_go)
    return [past.min(), past.max(), rest.min(), rest.max()]


def estimators():
    curves = {name: results.curves("F3", "policy_gradient", name) for name in CHAPTER.ESTIMATORS}
    five = {  # means of five updates: [S, updates - 4]
        name: np.apply_along_axis(np.convolve, 1, c, np.ones(5) / 5, "valid")
        for name, c in curves.items()
    }
    best = {name: means.max(1) for name, means in five.items()}
    whole, to_go, baseline = (curves[name].mean(1) for name in CHAPTER.ESTIMATORS)
    assert whole.mean() < to_go.mean() < baseline.mean() and _differ(whole, to_go)
    assert (best["whole return"] < 400).all()
    assert (best["reward-to-go"] < 400).sum() == 3 and len(best["reward-to-go"]) == 10
    last = _metric("F3", "policy_gradient", "episodes_to_400_baseline").max()
    assert (best["baseline"] >= 400).all()
    return [last]


def actor_critic_takes_longer():
    assert len(_metric("F4", "actor_critic", "return")) == 10
    assert _metric("F4", "actor_critic", "return").min() >= SOLVED
    steps = CHAPTER.DQNConfig().steps
    curves = results.curves("F4", "actor_critic", "mean_return")  # a report every 3,200 steps
    assert (curves[:, : steps // 3200] < SOLVED).all()
    assert (results.curves("F2", "dqn", "greedy_return").max(1) >= SOLVED).all()


def flowing_learns_sooner():
    held, flowing = (
        results.curves("F4", name, "mean_return").mean(1)
        for name in ("actor_critic", "actor_critic_flowing")
    )
    assert _differ(held, flowing) and flowing.mean() > held.mean()
    for name in ("actor_critic", "actor_critic_flowing"):
        assert _metric("F4", name, "return").min() >= SOLVED
