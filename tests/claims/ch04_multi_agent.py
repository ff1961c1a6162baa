"""What chapter 04 says about its stored runs."""

import numpy as np
from scipy import stats

from rlbook_utils import results
from rlbook_utils.definitions import load_chapter
from rlbook_utils.numbers import spread_of
from rlbook_utils.results import metric


def _differ(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two means differ beyond chance: Welch's test at 5 %."""
    return stats.ttest_ind(first, second, equal_var=False).pvalue < 0.05


# Two learners


def pennies():
    stored = {
        name: metric("M1", "pennies", name).mean()
        for name in ("error_learns", "error_frozen", "error_played_frozen", "error_joint")
    }
    assert len(metric("M1", "pennies", "drift_learns")) == 10
    for name in ("learns", "joint"):
        assert (
            metric("M1", "pennies", f"drift_{name}") > 0.899
        ).all()  # 0.9 is the largest possible
    assert (metric("M1", "pennies", "drift_frozen") == 0).all()
    assert metric("M1", "pennies", "error_table").max() < 1e-6
    return [0.9, *stored.values()]


def climbing():
    assert len(results.runs("M1", "climbing")) * 100 == 1000  # pairs
    assert metric("M1", "climbing", "best_independent").max() < 0.02
    assert (metric("M1", "climbing", "best_optimistic") == 1).all()
    assert (metric("M1", "climbing", "joint_knows") == 1).all()
    third = results.curves("M1", "climbing", "beside_random").mean(0)[2]
    return [100 * third, 100 * metric("M1", "climbing", "best_joint").mean()]


def settled_average():
    ch = load_chapter("ch04_multi_agent")
    partner = ch.greedy_policies(np.eye(3)[0], ch.CLIMB.epsilon)
    return list(ch.CLIMBING[0] @ partner)


def settled():
    frozen, both = (
        results.curves("M1", "settled", name) for name in ("beside_settled", "both_learn")
    )  # [S, 3]
    assert len(frozen) == 10
    shares = [*frozen.mean(0), *both.mean(0), metric("M1", "settled", "found_slowly").mean()]
    after = [5.8 + rate * (-30 - 5.8) for rate in (0.2, 0.05)]
    assert after[0] < 0.5 < after[1]  # below the third action's value, or not
    return [*(100 * share for share in shares), *after]


# Sweeps


def sweeps_settle():
    assert (metric("M2", "sweeps", "settled_in_halves") == 1).all()
    assert (metric("M2", "sweeps", "settled_in_turn") == 1).all()
    halves, turns = (
        results.curves("M2", "sweeps", name) for name in ("evens, then odds", "one after another")
    )
    assert halves[:, 5:].max() < 1e-3 and turns[:, 8:].max() < 1e-3
    assert (halves[:, 1:4].mean(0) < turns[:, 1:4].mean(0)).all()
    changing = results.curves("M2", "sweeps", "all at once")[:, -1]
    assert 0.37 < changing.mean() < 0.43  # two in five
    return [100 * metric("M2", "sweeps", "blinking").mean()]


def ties_decide():
    """The text's two counterexamples, and the stored starts without fixed errors."""
    assert (metric("M2", "sweeps", "settled_ties_stay") == 1).all()
    ch = load_chapter("ch04_multi_agent")
    left = ch.SPINS[[0, 0, 1, 1]].expand(1, 20, 4)
    start = ch.as_spins((ch.torch.arange(20) < 7).long())[None]
    for groups in (ch.orders(20)["all at once"], ch.orders(20)["evens, then odds"]):
        history = ch.sweeps(left, start, groups, 60)
        assert (history[1:] != history[:-1]).any(-1).all() and ch.best_responses(
            history[:, 0]
        ).all()
    alternating = ch.as_spins(ch.torch.arange(20) % 2)[None]
    assert (ch.rule_moves("ties_stay", alternating, None) == -alternating).all()


# The ring


def _more_domains(name):
    """By how many domains rings of networks end with more than the rule from the same starts, and half its interval."""
    differences = metric("M3", name, "domains") - metric("M3", "rules", "domains_ties_stay")
    spread = spread_of(differences)
    assert spread.covers
    return differences.mean(), (spread.high - spread.low) / 2


def ring_and_floor():
    assert len(metric("M3", "ring", "best_response")) == 20
    assert (metric("M3", "ring", "best_response") == 1).all()
    misplaced = 20 * (1 - metric("M3", "at_once", "best_response"))
    assert round(misplaced.sum()) == 1 and (metric("M3", "at_once", "blinks_again") == 0).all()
    for name in ("reward", "domains"):
        untrained, trained = (metric("M3", run, name) for run in ("untrained", "ring"))
        assert not _differ(untrained, metric("M3", "rules", f"{name}_stay"))
        assert _differ(trained, untrained)
    assert (metric("M3", "rules", "domains_ties_by_coin") == 1).all()
    assert (metric("M3", "rules", "reward_always_up") > 1.59).all()
    assert (metric("M3", "ring", "domains") == 1).mean() == 1 / 20
    (short, short_half), (longer, longer_half) = _more_domains("ring"), _more_domains("long")
    assert abs(short) < short_half and longer + longer_half < 0
    domains = [metric("M3", name, "domains").mean() for name in ("ring", "long")]
    rule = metric("M3", "rules", "domains_ties_stay").mean()
    return [*domains, rule, short, short_half, longer, longer_half]


def settling():
    return [np.median(metric("M3", name, "settled")) for name in ("ring", "long")]


def what_they_learned():
    before, after = (100 * metric("M3", name, "constant").mean() for name in ("untrained", "ring"))
    names = ("ring", "untrained")
    recalled = [100 * metric("M3", name, "recalled").mean() for name in names]
    placed = [100 * metric("M3", name, "best_response_again").mean() for name in names]
    assert metric("M3", "ring", "follows").mean() < 0.05
    return [before, after, *recalled, *placed]


def fresh_neighbours():
    """Beside "long", which has as many epochs and differs in nothing else."""
    one, other = (results.runs("M3", name)[0]["config"] for name in ("long", "fresh"))
    assert {key for key in one if one[key] != other[key]} == {"fresh"}
    assert metric("M3", "long", "follows").max() < 0.11
    assert (metric("M3", "fresh", "best_response_again") == 1).all()
    blinking = metric("M3", "fresh", "blinks_again")
    assert len(blinking) == 20
    return [100 * metric("M3", "fresh", "follows").mean(), blinking.sum()]


def tanh_or_linear():
    for name in ("domains", "best_response", "reward"):
        tanh, linear = metric("M3", "ring", name), metric("M3", "linear", name)
        assert np.array_equal(tanh, linear) or not _differ(tanh, linear)
    more = metric("M3", "linear", "domains") - metric("M3", "ring", "domains")
    losses = [results.curves("M3", name, "loss")[:, -1].mean() for name in ("ring", "linear")]
    return [*losses, more.mean(), more.mean() - spread_of(more).low]


def speed():
    assert metric("M3", "speed", "one_ring_against_the_loop").mean() > 8
    assert metric("M3", "speed", "twenty_rings_against_the_loop").min() > 50
    by_hand = metric("M3", "speed", "agents_a_second_numpy")
    assert (by_hand / metric("M3", "speed", "agents_a_second_loop")).min() > 3
    assert 0.7 < np.median(metric("M3", "speed", "one_ring_against_numpy")) < 1.5
    ratios = (
        "one_ring_against_the_loop",
        "twenty_rings_against_the_loop",
        "twenty_rings_against_numpy",
    )
    return [np.median(metric("M3", "speed", ratio)) for ratio in ratios]
