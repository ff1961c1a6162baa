"""What the errata, the README and the book's other pages say about stored runs."""

from rlbook_utils import results
from rlbook_utils.definitions import load_chapter

# Foundations


def huber_on_cartpole():
    fast, slow = (
        results.curves("F2", name, "value_of_start")[:, -1]
        for name in ("dqn_huber", "dqn_huber_slow")
    )
    assert fast.min() > 1e6 and slow.max() < 120
    ends = [run["metrics"]["return"] for run in results.runs("F2", "dqn_huber_slow")]
    squared = [run["metrics"]["return"] for run in results.runs("F2", "dqn_slow")]
    assert sum(score < 475 for score in ends) == 4 and min(squared) >= 475
    returns = results.curves("F2", "dqn_huber", "greedy_return")
    floors = [run["baselines"]["return"] for run in results.runs("F2", "dqn_huber")]
    assert returns.max() < min(floors)


def a_flowing_target_does_not_show_in_the_return():
    held, flowing = (
        results.curves("F4", name, "mean_return").mean(1)
        for name in ("actor_critic", "actor_critic_flowing")
    )
    assert flowing.mean() > held.mean()


# Policy optimisation


def memory_faults_cost_nothing():
    for name in ("memory_lstm", "memory_no_resets", "memory_lost"):
        returns = [run["metrics"]["return"] for run in results.runs("P5", name)]
        assert returns == [500.0] * 3
    return [500]


# Distributions


def smear_for_a_backup():
    chapter = load_chapter("ch02_distributional_dqn")
    bell = (-0.5 * ((chapter.SUPPORT - 4) / 1.5) ** 2).softmax(0)  # of the next state
    smeared = (chapter.SUPPORT @ chapter.smear(bell, 1.0, pull=0.5)).item()
    assert 1 < smeared < (chapter.SUPPORT @ bell).item()
    return [0.5, smeared, 1 + 0.9 * (chapter.SUPPORT @ bell).item()]
