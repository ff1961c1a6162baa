"""What chapter 04 says about its stored runs."""

import numpy as np
from scipy import stats

from rlbook_utils import results


def _metric(row: str, name: str, metric: str) -> np.ndarray:
    return np.array([run["metrics"][metric] for run in results.runs(row, name)])


def _differ(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two means differ beyond chance: Welch's test at 5 %."""
    return stats.ttest_ind(first, second, equal_var=False).pvalue < 0.05


# Two learners


def pennies():
    assert len(_metric("M1", "pennies", "drift_learns")) == 10
    assert (_metric("M1", "pennies", "drift_learns") > 0.899).all()  # 0.9 is the largest possible
    assert (_metric("M1", "pennies", "drift_frozen") == 0).all()
    assert _metric("M1", "pennies", "error_joint").max() < 1e-6
    return [
        0.9,
        *(_metric("M1", "pennies", f"error_{name}").mean() for name in ("learns", "frozen")),
    ]


def climbing():
    assert len(results.runs("M1", "climbing")) * 100 == 1000  # pairs
    assert _metric("M1", "climbing", "best_independent").max() < 0.02
    assert (_metric("M1", "climbing", "best_optimistic") == 1).all()
    assert (_metric("M1", "climbing", "joint_knows") == 1).all()
    third = results.curves("M1", "climbing", "beside_random").mean(0)[2]
    return [100 * third, 100 * _metric("M1", "climbing", "best_joint").mean()]


# Sweeps


def sweeps_settle():
    assert (_metric("M2", "sweeps", "settled_in_halves") == 1).all()
    assert (_metric("M2", "sweeps", "settled_in_turn") == 1).all()
    halves, turns = (
        results.curves("M2", "sweeps", name) for name in ("evens, then odds", "one after another")
    )
    assert halves[:, 5:].max() < 1e-3 and turns[:, 8:].max() < 1e-3
    assert (halves[:, 1:4].mean(0) < turns[:, 1:4].mean(0)).all()
    changing = results.curves("M2", "sweeps", "all at once")[:, -1]
    assert 0.37 < changing.mean() < 0.43  # two in five
    return [100 * _metric("M2", "sweeps", "blinking").mean()]


# The ring


def ring_and_floor():
    assert len(_metric("M3", "ring", "best_response")) == 20
    assert (_metric("M3", "ring", "best_response") == 1).all()
    misplaced = 20 * (1 - _metric("M3", "at_once", "best_response"))
    assert round(misplaced.sum()) == 1 and (_metric("M3", "at_once", "blinks_again") == 0).all()
    for metric, rule in (("reward", "reward_2"), ("domains", "domains_2")):
        assert not _differ(_metric("M3", "ring", metric), _metric("M3", "rules", rule))
        assert not _differ(
            _metric("M3", "untrained", metric), _metric("M3", "rules", f"{metric}_0")
        )
        assert _differ(_metric("M3", "ring", metric), _metric("M3", "untrained", metric))
    assert (_metric("M3", "rules", "domains_3") == 1).all()
    assert (_metric("M3", "ring", "domains") > 1).mean() > 0.9
    return [_metric("M3", "ring", "domains").mean()]


def what_they_learned():
    before, after = (100 * _metric("M3", name, "constant").mean() for name in ("untrained", "ring"))
    names = ("ring", "untrained")
    recalled = [100 * _metric("M3", name, "recalled").mean() for name in names]
    placed = [100 * _metric("M3", name, "best_response_again").mean() for name in names]
    assert _metric("M3", "ring", "follows").mean() < 0.05
    return [before, after, *recalled, *placed]


def fresh_neighbours():
    """Beside "long", which has as many epochs and differs in nothing else."""
    one, other = (results.runs("M3", name)[0]["config"] for name in ("long", "fresh"))
    assert {key for key in one if one[key] != other[key]} == {"fresh"}
    assert _metric("M3", "long", "follows").max() < 0.11
    assert (_metric("M3", "fresh", "best_response_again") == 1).all()
    found = _metric("M3", "fresh", "follows").mean(), _metric("M3", "fresh", "blinks_again").mean()
    return [100 * value for value in found]


def tanh_or_linear():
    for metric in ("domains", "best_response", "reward"):
        tanh, linear = _metric("M3", "ring", metric), _metric("M3", "linear", metric)
        assert np.array_equal(tanh, linear) or not _differ(tanh, linear)
    return [results.curves("M3", name, "loss")[:, -1].mean() for name in ("ring", "linear")]


def speed():
    assert _metric("M3", "speed", "one_ring_against_the_loop").mean() > 8
    assert _metric("M3", "speed", "twenty_rings_against_the_loop").min() > 50
    by_hand = _metric("M3", "speed", "agents_a_second_numpy")
    assert (by_hand / _metric("M3", "speed", "agents_a_second_loop")).min() > 3
    assert 0.7 < np.median(_metric("M3", "speed", "one_ring_against_numpy")) < 1.5
    ratios = (
        "one_ring_against_the_loop",
        "twenty_rings_against_the_loop",
        "twenty_rings_against_numpy",
    )
    return [np.median(_metric("M3", "speed", ratio)) for ratio in ratios]
