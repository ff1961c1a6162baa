"""What chapter 03 says about its stored runs."""

import numpy as np
from scipy.stats import fisher_exact, ttest_ind

from rlbook_utils.results import curves, runs

PIPE, PIT, LATER_PIT = 768, 1136, 1424  # where the third pipe and the two pits end
AGENTS = {
    "icm": "C5", "dqn_icm": "C5", "game": "C6", "both": "C6", "random_features": "C7", "rnd": "C7"
}  # fmt: skip


def _metric(row, name, metric):
    """Of every seed: [S]."""
    return np.array([run["metrics"][metric] for run in runs(row, name)])


def _at(row, name, curve, decisions):
    """A curve's value after so many decisions: [S]."""
    each = [run["curves"] for run in runs(row, name)]
    return np.array([np.interp(decisions, found["env_steps"], found[curve]) for found in each])


def _coin():
    return curves("C4", "coin", "reach")  # [S, episodes]


def _agents():
    return curves("C5", "replayed", "reach")


def _random():
    return _metric("C4", "random", "mean_reach").mean()


def opening():
    trained = _metric("C5", "icm", "mean_reach") / _random()
    assert trained.min() > 2 and trained.max() < 3
    coin = _metric("C4", "coin", "coin_mean_reach")
    assert coin.min() <= _metric("C5", "icm", "mean_reach").mean() <= coin.max()
    assert ttest_ind(_coin().ravel(), _agents().ravel(), equal_var=False).pvalue > 0.1


# Two games


def _averaged(points):
    return np.stack([np.convolve(values, np.full(10, 0.1), "valid") for values in points])


def two_games():
    found, floor = (_averaged(curves("C1", "boxing", c)) for c in ("points", "random_points"))
    assert (found.mean(0) > floor.max(0)).all()
    floor = np.array([run["baselines"]["boxing_return"] for run in runs("C1", "boxing")])
    assert (_metric("C1", "boxing", "boxing_return") > floor + 10).all()
    keys = [np.flatnonzero(run["curves"]["points"]) for run in runs("C1", "montezuma")]
    assert sorted(map(len, keys)) == [0, 0, 2]
    (found,) = (found for found in keys if len(found))
    assert np.diff(found) * 100 / 15 < 60  # seconds: 100 decisions a report, 15 a second
    assert not _metric("C1", "montezuma", "montezuma_return").any()
    assert not curves("C1", "montezuma", "random_points").any()


def posts():
    lives, *came = np.sum([run["curves"]["posts"] for run in runs("C1", "montezuma")], axis=0)
    ledge, _, floor, far, key = np.array(came) / lives
    assert abs(1 / ledge - 6) < 0.5 and 18 < 1 / floor < 23 and far == key == 0


def sizes_of_values():
    boxing = curves("C1", "boxing", "value")
    assert (boxing[:, -30:] > 0.5 * boxing.max(1, keepdims=True)).all()
    for run in runs("C1", "montezuma"):
        value, points = (np.array(run["curves"][name]) for name in ("value", "points"))
        if points.any():
            first = np.flatnonzero(points)[0]
            assert value[first : first + 6].max() > 3 * value[first - 1]
            assert value[-1] < 0.5 * value[first:].max()
        else:
            assert value.max() > 50 * value[-1]


# The room


def the_naive_stay():
    early = curves("C2", "room_pixels", "share_at_tv")[:, 9]  # at step 500
    assert (early > 0.9).all()
    return [100 * _metric("C2", "room_pixels", "time_at_tv").mean()]


def icm_leaves():
    share = curves("C2", "room_ICM", "share_at_tv")  # one report in 50 steps
    assert (share[:, :5].max(1) > 1 / 3).all()
    late = share[:, 10:]
    assert (late.mean(1) < 2 / 49).all() and ((late > 0.1).mean(1) < 0.1).all()
    assert _metric("C2", "room_ICM", "time_at_tv").mean() < 1 / 49


def losses_in_the_room():
    curious, random = (curves("C2", f"room_ICM{walk}", "surprise") for walk in ("", "_random_walk"))
    for surprise in (curious, random):
        assert (surprise[:, 3] > surprise[:, 0]).all()
    assert random[:, 70:].mean() < 0.5 * random[:, 30:40].mean()
    assert curious[:, 40:].mean() > curious[:, 30:40].mean()
    assert (curious[:, -20:].mean(1) > 2 * random[:, -20:].mean(1)).all()
    for errors in curves("C2", "room_ICM", "everywhere"):
        lowest = np.minimum.accumulate(errors[4:])
        assert (errors[4:] > 2 * lowest).any()


def the_remote_control():
    staring = {
        kind: curves("C2", f"room_{kind}", "share_at_tv") for kind in ("random_features", "RND")
    }
    for share in staring.values():
        assert (share[:, :10] < 0.1).all()
    for kind in ("pixels", *staring):
        assert (_metric("C2", f"room_{kind}", "time_at_tv") > 0.8).all()
    plain, remote = (_metric("C2", f"room_ICM{kind}", "time_at_tv") for kind in ("", "_remote"))
    assert plain.mean() < remote.mean() < 0.05
    noise = [_metric("C2", f"room_ICM{kind}", "noise") for kind in ("", "_remote")]
    assert noise[1].max() < noise[0].max() and noise[1].mean() < noise[0].mean()


# Mario


def the_coin():
    assert abs(_coin().mean() / _random() - 2.5) < 0.1
    assert (_coin() == 3161).sum() == 1
    return [736, 1104, 3161]


def learning_curves():
    assert (_at("C5", "icm", "furthest", 9_500) > _metric("C4", "random", "mean_reach").max()).all()
    grid = np.arange(20_000, 49_000, 500)
    means = np.mean([_at("C5", "icm", "furthest", at) for at in grid], axis=1)
    assert 680 < means.min() < 700 and 800 < means.max() < 825
    assert means.min() < _coin().mean() < means.max()
    best = curves("C5", "icm", "best")
    assert 0.05 < (best > LATER_PIT).mean() < 1
    flags = _metric("C5", "icm", "best_training"), _metric("C7", "random_features", "best_training")
    assert [(found == 3161).tolist() for found in flags] == [[False, True, False]] * 2
    return [680, 825, 3161]


def the_coin_and_the_agents():
    coin, agents = _coin(), _agents()
    assert coin.shape == agents.shape == (3, 100)
    numbers = [coin.mean(), agents.mean()]
    assert ttest_ind(coin.ravel(), agents.ravel(), equal_var=False).pvalue > 0.1
    for reach in (coin, agents):
        error = reach.std(ddof=1) / np.sqrt(reach.size)
        assert abs(error - 24) < 0.5
    for place in (PIPE, PIT):
        further = [(reach > place).sum() for reach in (coin, agents)]
        numbers += [100 * count / 300 for count in further]
        assert fisher_exact([[count, 300 - count] for count in further]).pvalue > 0.1
    return numbers


def what_they_have_learned():
    right = 100 * _metric("C5", "replayed", "replayed_right")
    assert _metric("C4", "coin", "coin_best_reach").max() == 3161
    return [right.min(), right.max(), 100 * 4 / 12]


def the_collapse():
    viewed, plain = (_metric("C5", name, "furthest") for name in ("hot", "hot_raw"))
    assert viewed.min() > 515 and viewed.max() < 635
    assert viewed.max() < _metric("C4", "coin", "coin_mean_reach").min()
    assert viewed.min() > 1.5 * _random() and (plain < _random()).sum() == 2
    entropy = [curves("C5", name, "entropy") for name in ("hot", "hot_raw")]
    assert (np.log(12) - entropy[1][:, -1] < 0.15).all()
    assert (np.log(12) - entropy[0][:, -1] > 0.3).all()
    return [520, 630]


def losses_of_the_collapse():
    viewed, plain = (curves("C5", name, "forward") for name in ("hot", "hot_raw"))
    assert (plain[:, 0] < viewed[:, 0] / 10).all()
    assert curves("C5", "hot", "env_steps")[0, 4] < 5_200
    assert (plain[:, 4] < viewed[:, 4] / 300).all()
    assert (curves("C5", "hot_raw", "inverse") > np.log(12) - 0.05).all()


def who_gets_how_far():
    highest = _metric("C4", "random", "mean_reach").max()
    for row, name in (("C5", "icm"), ("C6", "game"), ("C6", "both"), ("C7", "random_features")):
        assert (_at(row, name, "furthest", 10_000) > highest).all()
    last = np.array([run["curves"]["furthest"][-1] for run in runs("C5", "dqn_icm")])
    for at in (15_000, 20_000, 30_000, 40_000):
        assert _at("C5", "dqn_icm", "furthest", at).mean() < _at("C5", "icm", "furthest", at).mean()
        assert _at("C7", "rnd", "furthest", at).mean() < _at("C5", "icm", "furthest", at).mean()
    best = max(max(run["curves"]["furthest"]) for run in runs("C5", "dqn_icm"))
    assert best < _coin().mean()
    icm = _metric("C5", "icm", "mean_reach")
    for row, name in (("C6", "game"), ("C6", "both"), ("C7", "random_features")):
        other = _metric(row, name, "mean_reach")
        assert other.min() < icm.max() and icm.min() < other.max()  # their ranges overlap
    return [last.min(), last.max(), *_metric("C5", "dqn_icm", "mean_reach")]


def scores():
    scored = {name: _metric(row, name, "mean_reach") for name, row in AGENTS.items()}
    apart = {name: np.ptp(each) for name, each in scored.items()}
    error = _agents().std(ddof=1) / np.sqrt(100)
    dqn = apart.pop("dqn_icm")
    return [each.mean() for each in scored.values()] + [
        _coin().mean(),
        max(apart.values()),
        dqn,
        error,
    ]


def the_wall():
    medians = np.concatenate([_metric(row, name, "median_reach") for name, row in AGENTS.items()])
    assert len(medians) == 18 and (medians < 736).sum() == 17
    numbers = [np.sort(medians)[-2]]
    for reach in (_agents(), _coin()):
        numbers.append(100 * ((reach > 280) & (reach < 330)).mean())
        numbers.append(100 * ((reach > 640) & (reach < 736)).mean())
    assert not any(((reach > 330) & (reach <= 640)).any() for reach in (_agents(), _coin()))
    return numbers


def losses_again():
    first, later = _at("C5", "icm", "forward", 1_024), _at("C5", "icm", "forward", 5_000)
    assert (later < 0.5 * first).all()
    ends = curves("C5", "icm", "forward")[:, -5:].mean(1)
    assert (ends > later).all()
    forward = curves("C5", "dqn_icm", "forward")
    steps = curves("C5", "dqn_icm", "env_steps")[0]
    assert (forward[:, steps > 10_000].mean(0) > 2 * forward[:, 0].mean()).all()
    q = curves("C5", "dqn_icm", "q").mean(0)
    assert q[-1] > 4 * q[0]
    for name in ("icm", "dqn_icm"):
        inverse = curves("C5", name, "inverse")
        assert (inverse[:, -1] < inverse[:, 0] - 0.5).all()


def how_measured():
    return [_agents().std(ddof=1) / np.sqrt(20), 100, 49_152, 16_384]
