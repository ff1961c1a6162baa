"""What chapter 06 says about stored runs."""

import numpy as np

from rlbook_utils import results
from rlbook_utils.definitions import load_chapter

ch = load_chapter("ch06_policy_optimisation")
LANDERS = {"A2C": ("P2", "a2c_lander"), "A3C": ("P3", "a3c_lander"), "ACER": ("P6", "acer_lander")}


def _metrics(row, name, metric="return"):
    return np.array([run["metrics"][metric] for run in results.runs(row, name)])


def _steps_when(row, name, goal):
    """Environment steps at which each seed's mean return first reaches a goal."""
    runs = [run["curves"] for run in results.runs(row, name)]
    return [
        curves["env_steps"][np.argmax(np.array(curves["mean_return"]) >= goal)] for curves in runs
    ]


def _updates(config):
    return -(-config.steps // (config.num_envs * config.horizon))


def opening():
    assert (
        _metrics("P4", "ppo").min() > 200 and _metrics("P4", "ppo", "training_seconds").max() < 60
    )


def a2c_on_the_moon():
    ours, source = _metrics("P2", "a2c_lander"), _metrics("P2", "a2c_source")
    assert np.abs(source).max() < 20 and ours.min() > source.max()
    starts = results.curves("P2", "a2c_source", "mean_return")[:, 0]
    assert (
        starts.max() < -100 and _metrics("P2", "a2c_source", "cut_short").min() > 0.3
    )  # long flights
    assert _updates(ch.A2CConfig()) == 391 and _updates(ch.A2C_SOURCE) == 12_000
    return [391, 400_000, 12_000, 180_000, *100 * _metrics("P2", "a2c_lander", "landed")]


def a2c_makes_few_steps():
    assert _metrics("P2", "a2c_lander").max() < 200
    assert 5 < ch.A3CConfig().steps / (3 * 64) / _updates(ch.A2CConfig()) < 5.5
    assert _metrics("P3", "a3c_lander").mean() > _metrics("P2", "a2c_lander").mean()
    return [391]


def a3c_and_staleness():
    two, six, a2c = (
        _metrics(*place) for place in (LANDERS["A3C"], ("P3", "a3c_six"), LANDERS["A2C"])
    )
    config, more = ch.A3CConfig(), ch.A3CConfig(num_envs=18, workers=6)
    assert config.num_envs // config.workers == more.num_envs // more.workers == 3
    stale = [_metrics("P3", name, "staleness").mean() for name in ("a3c_six", "a3c_lander")]
    assert 4.5 < stale[0] / stale[1] < 5.5 and six.mean() > two.mean() and np.ptp(a2c) > np.ptp(two)
    seconds = [
        np.median(_metrics("P3", name, "training_seconds")) for name in ("a3c_six", "a3c_lander")
    ]
    assert 1.35 < seconds[0] / seconds[1] < 1.65
    return [*two, *six, a2c.mean(), two.mean()]


def ppo_instruments():
    curves = {name: results.curves("P4", "ppo", name) for name in (
        "approx_kl", "clip_fraction", "entropy", "explained_variance", "cut_short", "env_steps")}  # fmt: skip
    kl, clipped = curves["approx_kl"], curves["clip_fraction"]
    eighths = np.array([part.mean(1) for part in np.array_split(kl, 8, axis=1)])  # [8, S]
    assert eighths.max() < 0.01 and (eighths[-1] < eighths[0] / 4).all()
    assert 0.07 < clipped[:, :12].mean() < 0.14 and clipped[:, -12:].mean(1).max() < 0.02
    assert clipped.max(1).min() > 0.15 and np.median(clipped.max(1)) == np.clip(
        np.median(clipped.max(1)), 0.17, 0.25
    )
    assert (
        np.allclose(curves["entropy"][:, 0], 1.386, atol=0.02)
        and curves["entropy"][:, -1].max() < 0.8
    )
    late = curves["env_steps"] > 45_000
    firsts = [np.argmax(row > 0.8) for row in curves["explained_variance"]]
    assert not any(late[seed, first] for seed, first in enumerate(firsts))
    assert curves["cut_short"].max(1).min() > 0.4 and curves["cut_short"][:, -1].max() < 0.1


def ppo_five_seeds():
    seconds = _metrics("P4", "ppo", "seconds_to_240")
    returns = results.curves("P4", "ppo", "mean_return")
    assert returns.shape[0] == 5 and returns[:, -1].min() > 240
    episodes = _metrics("P4", "ppo", "episodes_to_200")
    return [seconds.min(), seconds.max(), episodes.min(), episodes.max()]


def hovering():
    names = {"ppo": 5, "ppo_short_sighted": 5, "ppo_hover": 3}
    cut_short = {name: results.curves("P4", name, "cut_short") for name in names}
    assert {name: len(curves) for name, curves in cut_short.items()} == names
    through = sum(int((curves.max(1) > 0.5).sum()) for curves in cut_short.values())
    for name in ("ppo", "ppo_short_sighted"):
        assert cut_short[name][:, -1].max() < 0.1
    for hovering in cut_short["ppo_hover"]:
        above = np.flatnonzero(hovering <= 0.9)[-1] + 1
        assert above < 0.8 * len(hovering)
    returns = results.curves("P4", "ppo_hover", "mean_return")
    assert (returns[:, -1] < returns.max(1) - 30).all()
    return [through, 13]


def two_flights():
    heights, values, _ = ch.flight(ch.stored_net("P4", "ppo", 1), seed=3)
    assert len(heights) < 200 and abs(heights[-1]) < 0.1
    assert values.min() > 0.85 and values.max() < 2.15
    heights, values, _ = ch.flight(ch.stored_net("P4", "ppo_hover", 1), seed=3)
    assert len(heights) == 1000 and heights[-1] > heights[0] / 2 and np.abs(values).max() < 0.1
    return [1000]


def critic_of_the_hoverers():
    ends = lambda name: results.curves("P4", name, "explained_variance")[:, -10:].mean(1)
    landing = np.concatenate([ends("ppo"), ends("ppo_short_sighted")])
    assert (
        np.abs(ends("ppo_hover") - 0.7).max() < 0.05
        and landing.min() > 0.8
        and landing.max() < 0.96
    )


def frames_and_lstm():
    none = results.curves("P5", "memory_none", "mean_return")
    half = none.shape[1] // 2
    first, second = np.array_split(none[:, half:], 2, axis=1)
    assert (second.mean(1) < first.mean(1) + 2).all()
    for name, low, high in (("memory_stack", 61_000, 66_000), ("memory_lstm", 77_500, 86_500)):
        assert (_metrics("P5", name) == 500).all()
        reached = _steps_when("P5", name, 300)
        assert low <= min(reached) and max(reached) <= high
    scores = _metrics("P5", "memory_none")
    return [scores.min(), scores.max(), 500]


def acer_and_its_replay():
    acer, alone, a2c = (
        _metrics(*place) for place in (LANDERS["ACER"], ("P6", "acer_no_replay"), LANDERS["A2C"])
    )
    assert alone.max() < acer.min() and _metrics("P6", "acer_no_replay", "cut_short").min() > 0.5
    assert a2c.max() > acer.min() and acer.max() > a2c.min()  # the ranges overlap
    seconds = [np.median(_metrics(*LANDERS[name], "training_seconds")) for name in ("ACER", "A2C")]
    assert 1.4 < seconds[0] / seconds[1] < 1.65
    return [*acer, *alone, acer.mean(), a2c.mean()]


def the_family():
    returns = {name: _metrics(*place) for name, place in LANDERS.items()}
    ppo = _metrics("P4", "ppo")
    assert len(ppo) == 5 and ppo.min() > max(each.max() for each in returns.values())
    means = [each.mean() for each in returns.values()]
    assert max(means) - min(means) < min(np.ptp(each) for each in returns.values())
    speed = {name: np.median(_metrics(*place, "steps_per_second"))
             for name, place in (LANDERS | {"PPO": ("P4", "ppo")}).items()}  # fmt: skip
    assert all(8_500 < speed[name] < 11_500 for name in ("A2C", "A3C", "PPO"))
    assert 6_500 < speed["ACER"] < 7_500
    for row, name in [*LANDERS.values(), ("P4", "ppo")]:
        for run in results.runs(row, name):
            assert run["metrics"]["return"] - run["baselines"]["return"] > 200
            assert run["config"]["steps"] == 400_000


def sixteen_gradient_steps():
    ppo = ch.PPOConfig()
    each = ppo.epochs * ppo.num_envs * ppo.horizon // ppo.minibatch
    assert round(_updates(ppo) * each / _updates(ch.A2CConfig())) == 16
    return [ch.ACERConfig().discount]


def ppo_on_the_cheetah():
    scores = _metrics("P7", "ppo_body")
    assert _metrics("P7", "ppo_body", "training_seconds").max() < 60
    assert np.median(_metrics("E5", "halfcheetah", "halfcheetah_return")) > scores.max()
    seconds = _metrics("E5", "halfcheetah", "halfcheetah_seconds")
    assert seconds.min() > _metrics("P7", "ppo_body", "training_seconds").max()
    evolution = results.curves("E5", "halfcheetah", "env_steps")[:, -1]
    assert (
        np.round(evolution / ch.BodyConfig().steps) >= 20
    ).all() and evolution.max() < 22 * ch.BodyConfig().steps
    return [*scores]


def ddpg_and_td3():
    returns = np.concatenate([_metrics("P7", name) for name in ("ddpg_pendulum", "td3_pendulum")])
    ddpg, td3 = (_metrics("P7", name, "value_excess") for name in ("ddpg_pendulum", "td3_pendulum"))
    assert returns.min() > -154 and returns.max() < -151 and np.abs(ddpg).max() < 4
    at_6000 = [
        results.curves("P7", name, "mean_return")[:, 5]
        for name in ("ddpg_pendulum", "td3_pendulum")
    ]
    assert (results.curves("P7", "ddpg_pendulum", "env_steps")[:, 5] == 6000).all()
    assert at_6000[1].max() < at_6000[0].min()
    return [-td3.max(), -td3.min()]


def memory_faults():
    right, *faulty = (
        results.curves("P5", name, "mean_return")
        for name in ("memory_lstm", "memory_no_resets", "memory_lost")
    )
    assert max(np.abs(curves.mean(0) - right.mean(0)).max() for curves in faulty) < 45
    assert (faulty[1].min(0) > right.max(0)).sum() >= 5  # the lost memory is ahead, at some reports
    for name in ("memory_lstm", "memory_no_resets", "memory_lost"):
        assert (_metrics("P5", name) == 500).all()
    return [500]
