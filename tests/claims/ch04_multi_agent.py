"""What chapter 04 says about its stored runs."""

from functools import cache

import numpy as np
import torch
from scipy import stats
from torch.nn import functional as F

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
        for name in (
            "error_learns",
            "error_frozen",
            "error_played_frozen",
            "error_late_frozen",
            "error_joint",
        )
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
    rates = results.curves("M1", "climbing", "optimistic_by_rate").mean(0)
    assert rates[0] == 1
    shares = [third, metric("M1", "climbing", "best_joint").mean(), *rates[1:]]
    return [100 * share for share in shares]


def settled_average():
    ch = load_chapter("ch04_multi_agent")
    partner = ch.greedy_policies(np.eye(3)[0], ch.CLIMB.epsilon)
    return list(ch.CLIMBING[0] @ partner)


RATES = (0.2, 0.05, 0.02)


def _on_first(name, rate):
    """Share of pairs on the first action, every tenth game, over seeds: [200]."""
    shares = results.curves("M1", "settled", f"{name}_{rate}")
    assert shares.shape == (10, 200)
    return shares.mean(0)


def settled():
    ended = [_on_first("beside_settled", rate)[-1] for rate in RATES]
    stayed = results.curves("M1", "settled", "never_left_beside_settled").mean(0)
    assert stayed[0] == 0 and (stayed < ended).all()
    after = [5.8 + rate * (-30 - 5.8) for rate in (0.2, 0.05)]
    assert after[0] < 0.5 < after[1]  # below the third action's value, or not
    assert 5.8 * 0.95**2 - 30 * (1 - 0.95**2) > 0.5  # two in a row are not enough
    return [*(100 * share for share in (*ended, *stayed[1:])), *after]


def both_fall_off():
    ended = [_on_first("both_learn", rate)[-1] for rate in RATES]
    falling = _on_first("both_learn", 0.05)[[4, 19, 99]]  # after 50, 200 and 1,000 games
    assert falling[0] > falling[1] > falling[2] > ended[1]
    scratch, alone = (
        results.curves("M1", "settled", f"from_scratch_{name}").mean(0)
        for name in ("beside_settled", "both_learn")
    )
    assert (alone[:2] < 0.01).all()
    stayed = results.curves("M1", "settled", "never_left_both_learn").mean(0)
    back = (ended - stayed) / (1 - stayed)
    assert back[1] < 0.02 and (back < 0.5).all()
    return [100 * share for share in (*ended, *falling, *scratch, alone[2])]


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
    right = ch.SPINS[[0, 1, 0, 1]].expand(1, 20, 4)
    start = ch.as_spins((torch.arange(20) < 7).long())[None]
    for groups in ch.orders(20).values():
        history = ch.sweeps(right, start, groups, 200)
        assert (history[1:] != history[:-1]).any(-1).all()
        assert ch.best_responses(history[:, 0]).all() and (ch.domains(history) == 2).all()
    alternating = ch.as_spins(torch.arange(20) % 2)[None]
    assert (ch.rule_moves("ties_stay", alternating, None) == -alternating).all()


def start_decides():
    names = ("settled_after_three", "as_at_the_start", "decided_by_one")
    return [100 * metric("M2", "sweeps", name).mean() for name in names]


# The ring


def _more_domains(name, other):
    """By how many domains rings end with more than others from the same starts, and half the interval."""
    differences = metric("M3", name, "domains") - other
    spread = spread_of(differences)
    assert spread.covers and len(differences) == 20
    return [differences.mean(), (spread.high - spread.low) / 2]


def ring_and_floor():
    for run in results.runs("M3", "ring") + results.runs("M3", "rules"):
        assert run["config"]["rings"] == 25
    for name in ("reward", "domains"):
        untrained, trained = (metric("M3", run, name) for run in ("untrained", "ring"))
        assert not _differ(untrained, metric("M3", "rules", f"{name}_stay"))
        assert _differ(trained, untrained)
    assert (metric("M3", "rules", "one_domain_ties_by_coin") > 0.9).all()
    assert (metric("M3", "rules", "reward_always_up") > 1.59).all()
    assert metric("M3", "at_once", "blinks_again").mean() < 0.02
    rule = metric("M3", "rules", "domains_ties_stay")
    placed = [100 * metric("M3", name, "best_response").mean() for name in ("ring", "at_once")]
    ended = [metric("M3", name, "domains").mean() for name in ("ring", "at_once")]
    fewer = [*_more_domains("ring", rule), *_more_domains("long", rule)]
    alone = 100 * metric("M3", "ring", "one_domain").mean()
    return [*placed, *ended, rule.mean(), *map(abs, fewer), alone]


def blind():
    """In nothing else different from "ring", from the same starts."""
    one, other = (results.runs("M3", name)[0]["config"] for name in ("ring", "blind"))
    assert {key for key in one if one[key] != other[key]} == {"blind"}
    more, half = _more_domains("blind", metric("M3", "ring", "domains"))
    assert abs(more) < half
    placed = 100 * metric("M3", "blind", "best_response").mean()
    return [metric("M3", "blind", "domains").mean(), more, half, placed]


def settling():
    return [metric("M3", "ring", name).mean() for name in ("loss_at_30", "loss")]


@cache
def _live():
    """Spins [T + 1, S, N] and losses of the rings that the chapter trains before the reader's eyes."""
    ch = load_chapter("ch04_multi_agent")
    history, losses, _ = ch.ring_history(ch.RingConfig(rings=20), 1)
    return ch, history, losses


def live_ring():
    """What the caption says about agent 5, epoch by epoch."""
    ch, history, losses = _live()
    misplaced = ~ch.best_responses(history[:, 0])  # [T + 1, N]
    off, loss = misplaced.sum(0), losses[:, 0, 5]
    assert off.argmax() == 5 and off[5] > 80 and off[np.arange(20) != 5].max() < 20
    turned = int(misplaced[:, 5].nonzero()[-1]) + 1  # after this epoch it is well placed
    leap = int(loss[10:].argmax()) + 10
    assert leap in (turned - 2, turned - 1) and loss[leap - 1] < 1.2
    high = loss[leap : leap + 30] > 4.5
    away = history[leap : leap + 30, 0, 4] != history[leap, 0, 4]  # a neighbour has turned
    assert torch.equal(high, ~away) and away.sum() == 2
    assert loss[leap + 60] < 1.2


def two_dozen():
    ch, history, _ = _live()
    count = ch.domains(history).float().mean(1)
    assert count[0] - count[24] > 0.75 * (count[0] - count[-1])
    moved = (history[25:] != history[24:-1]).any(-1).float().mean()
    assert 0 < moved < 0.2 and ch.best_responses(history[24]).float().mean() > 0.97


def asked_ring():
    """The two pictures of the ring of seed 1 after 2,000 epochs."""
    ch = load_chapter("ch04_multi_agent")
    for fresh in (False, True):
        config = ch.RingConfig(epochs=2000, fresh=fresh)
        policies = ch.learned_policies(ch.ring_history(config, 1)[2], "tanh")[0]  # [N, 4]
        if fresh:
            assert (~ch.follows(policies)).nonzero().flatten().tolist() == [5]
            assert len({tuple(row) for row in policies[:, 1:3].tolist()}) == 4
        else:
            assert (policies == policies[:, :1]).all(-1).sum() >= 18


def _constant(bias, scale):
    """Share of networks, drawn with this bias and weights of this size, that give all inputs one answer."""
    generator = torch.Generator().manual_seed(0)
    first, second = (
        scale * torch.randn(20_000, *shape, generator=generator) for shape in ((4, 20), (20, 2))
    )
    answers = (F.elu(first + bias) @ second).argmax(-1)  # [networks, inputs]
    return (answers == answers[:, :1]).all(-1).float().mean().item()


def what_they_learned():
    names = ("untrained", "ring", "long")
    constant = [100 * metric("M3", name, "constant").mean() for name in names]
    recalled = [100 * metric("M3", name, "recalled").mean() for name in names]
    placed = [100 * metric("M3", name, "best_response_again").mean() for name in names[:2]]
    assert metric("M3", "ring", "follows").mean() < 0.05
    drawn = [100 * _constant(*kind) for kind in ((1, 0.1), (0, 0.1), (1, 1))]
    return [*constant, *recalled, *placed, *drawn]


def fresh_neighbours():
    """Beside "long", which has as many epochs and differs in nothing else."""
    one, other = (results.runs("M3", name)[0]["config"] for name in ("long", "fresh"))
    assert {key for key in one if one[key] != other[key]} == {"fresh"}
    assert metric("M3", "long", "follows").max() < 0.11
    names = ("follows", "best_response_again", "blinks_again")
    return [100 * metric("M3", "fresh", name).mean() for name in names]


def tanh_or_linear():
    assert not np.array_equal(metric("M3", "ring", "domains"), metric("M3", "linear", "domains"))
    for name in ("domains", "best_response", "reward", "settled"):
        assert not _differ(metric("M3", "ring", name), metric("M3", "linear", name))
    more, half = _more_domains("linear", metric("M3", "ring", "domains"))
    losses = [metric("M3", name, "loss").mean() for name in ("ring", "linear")]
    settled = [metric("M3", name, "settled").mean() for name in ("ring", "linear")]
    return [*losses, more, half, *settled]


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
