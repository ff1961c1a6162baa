"""What chapter 07 says about its stored learners: sines, digits, and particles."""

import numpy as np
from scipy import stats

from rlbook_utils import results
from rlbook_utils.definitions import load_chapter

CHAPTER = load_chapter("ch07_meta_learning")


def _waves(name: str, metric: str = "one_step") -> np.ndarray:
    return results.metric("R2", f"waves_{name}", metric)


def _digits(name: str, metric: str = "best") -> np.ndarray:
    """Accuracy in per cent, by seed; each seed has its own split."""
    return 100 * results.metric("R2", f"digits_{name}", metric)


def _particles(name: str, metric: str) -> np.ndarray:
    return results.metric("R4", name, metric)


def _interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean over seeds."""
    found = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    return found.low, found.high


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether 0 is within the interval of the difference, seed by seed."""
    low, high = _interval(one - other)
    return low < 0 < high


# Sines


def waves() -> list[float]:
    """After one step all three are below half of joint, and joint below scratch; MAML below first order, not Reptile."""
    maml, first, reptile = (_waves(name) for name in ("maml", "first_order", "reptile"))
    joint, scratch = _waves("joint"), _waves("scratch")
    assert (np.maximum(maml, np.maximum(first, reptile)) < 0.5 * joint).all()
    assert (joint < scratch).all()
    assert (maml < first).all() and _interval(first - maml)[0] > 0 and _alike(maml, reptile)
    best = [_waves(name, "best").mean() for name in ("maml", "reptile", "joint")]
    return [*(errors.mean() for errors in (maml, first, reptile, joint, scratch)), *best]


def smooth() -> list[float]:
    """A curve that learned nothing, far below the nearest point; around the mean of all sines as good as one step of MAML."""
    plain, around = _waves("rules", "smooth"), _waves("rules", "smooth_around_mean")
    nearest, maml = _waves("floors", "nearest_point"), _waves("maml")
    assert (plain < 0.35 * nearest).all() and _interval(plain - maml)[0] > 0
    assert _alike(around, maml) and (_waves("maml", "best") < 0.75 * around).all()
    assert _waves("floors", "sine").max() < 1e-6
    for name in ("smooth", "smooth_around_mean"):
        assert set(_waves("rules", f"{name}_length")) <= {1.5, 2.0}
    return [plain.mean(), nearest.mean(), around.mean()]


def most_steps() -> list[float]:
    """Where the choice of steps meets its end."""
    steps = [_waves(n, "best_steps") for n in ("maml", "first_order", "reptile", "joint")]
    assert np.min(steps) == 18 and np.max(steps) == CHAPTER.MOST_STEPS == 20
    assert (results.metric("R2", "digits_joint", "best_steps") == 20).all()
    return [18, 20]


def waves_in_short() -> list[float]:
    return [*(_waves(name).mean() for name in ("maml", "reptile", "joint")), smooth()[-1]]


# Digits


def upright() -> list[float]:
    """In the middle of the frame: rules, and prototypes, below the best rule and, in each split, below no training."""
    rules = 100 * results.metric("R2", "upright_rules", "shifted_image")
    trained = 100 * results.metric("R2", "upright_prototypes", "best")
    means = 100 * results.metric("R2", "digits_upright", "nearest_mean")
    untrained = 100 * results.metric("R2", "upright_rules", "untrained")
    assert (trained < np.minimum(rules, means)).all() and (trained < untrained).all()
    return [means.mean(), rules.mean(), trained.mean(), untrained.mean()]


def room() -> None:
    """With two pixels of room: above the mean and the nearest image, not above shifted images."""
    learners = [_digits(name) for name in CHAPTER.DIGIT_CONFIGS]
    for rule in ("nearest_mean", "nearest_image"):
        assert (_digits("prototypes") > _digits("floors", rule)).all()
    shifted = _digits("rules", "shifted_image")
    assert all(learner.mean() < shifted.mean() for learner in learners)


def held_out_digits() -> list[float]:
    """Those with means, those with steps, joint, scratch, pixels; which differences are beyond the interval."""
    names = ("prototypes", "proto_maml", "maml", "first_order", "reptile", "scratch", "joint")
    found = {name: _digits(name) for name in names}
    pixels = _digits("floors", "nearest_image")
    assert _alike(found["prototypes"], found["proto_maml"]) and (found["scratch"] < pixels).all()
    for name in ("prototypes", "maml", "reptile"):
        assert (found[name] > found["scratch"]).all()
        assert _interval(found[name] - found["scratch"])[0] > 0
        assert _interval(found[name] - pixels)[0] > 0
    low, high = _interval(found["first_order"] - pixels)
    assert low < 0 < high
    assert (found["joint"] > found["scratch"]).all() and _interval(found["joint"] - pixels)[0] > 0
    for name in ("maml", "reptile"):
        assert found[name].mean() < found["joint"].mean() and _alike(found[name], found["joint"])
    assert (found["prototypes"] > found["joint"]).sum() == 3
    assert _alike(found["prototypes"], found["joint"])
    return [*(values.mean() for values in found.values()), pixels.mean()]


def digit_rules() -> list[float]:
    """Shifts alone, shifts of centred images, and means in a network that nobody trained."""
    shifted, centred = _digits("rules", "shifted_image"), _digits("rules", "centred_shifted_image")
    untrained = _digits("rules", "untrained")
    learners = [_digits(name) for name in CHAPTER.DIGIT_CONFIGS]
    assert _alike(shifted, _digits("prototypes")) and _alike(shifted, _digits("proto_maml"))
    assert (centred > np.max(learners, 0)).all()
    assert (_digits("prototypes") > untrained + 20).all()
    upright()
    return [shifted.mean(), centred.mean(), untrained.mean()]


def one_view() -> list[float]:
    """MAML with one view and with four: its gain over scratch on digits that it knew, and on new ones, where they are alike."""
    gains = []
    for metric in ("seen_best", "best"):
        scratch = _digits("scratch", metric)
        gains += [_digits(name, metric) - scratch for name in ("one_view", "maml")]
    assert (gains[0] > gains[1] + 5).all() and _interval(gains[0] - gains[1])[0] > 0
    assert _alike(gains[2], gains[3])
    return [gain.mean() for gain in gains]


def digits_in_short() -> list[float]:
    prototypes, maml, joint = (_digits(name) for name in ("prototypes", "maml", "joint"))
    assert (prototypes > maml).all() and _interval(prototypes - maml)[0] > 0
    assert _alike(maml, joint)
    centred = _digits("rules", "centred_shifted_image")
    return [*(values.mean() for values in (prototypes, maml, joint, centred))]


# Particles


def fitted() -> list[float]:
    """Walking to the goal that five steps tell is as good as walking to one in sight."""
    found, oracle = _particles("floors", "fitted_goal"), _particles("floors", "oracle")
    np.testing.assert_allclose(found, oracle, atol=0.005)
    return [found.mean()]


def second_step() -> list[float]:
    """Trained for one step: a second at the same rates is worse than none, at parts better; trained for two."""
    one = _particles("one_step", "after_1")
    parts = [_particles("one_step", f"second_{part}") for part in ("1", "0.5", "0.25")]
    two = [_particles("meta", f"after_{step}") for step in (1, 2)]
    assert (parts[0] < one).all() and all((part > one).all() for part in parts[1:])
    assert (two[1] > np.max(parts, 0)).all()
    last = [_particles("one_step", f"last_{step}") for step in (1, 2)]
    assert last[1].mean() < last[0].mean()
    assert (last[1] > last[0]).sum() == 2 and (last[1] < last[0]).sum() == 3
    return [values.mean() for values in (one, *parts, *last, *two)]


def adapted() -> list[float]:
    """Meta-SGD and the policy written by hand are alike after one step, that one ahead after two; a new one far below."""
    found = []
    for who, prefix in (("meta", "after"), ("floors", "hand"), ("floors", "new")):
        found += [_particles(who, f"{prefix}_{step}") for step in (1, 2)]
    assert _alike(found[0], found[2])
    assert (found[3] > found[1]).all() and _interval(found[3] - found[1])[0] > 0
    for step in range(2):
        assert (found[4 + step] < np.minimum(found[step], found[2 + step]) - 5).all()
    return [*(values.mean() for values in found), *fitted()]


def grid_ends() -> list[float]:
    """How many settings the searches tried, and on how many seeds their choice was the end of a list."""
    by_hand = {what: _particles("floors", f"hand_{what}") for what in ("gain", "rate")}
    largest = (by_hand["gain"] == max(CHAPTER.GAINS)) & (by_hand["rate"] == max(CHAPTER.BIAS_RATES))
    assert largest.sum() == 2 and by_hand["gain"][~largest].max() < max(CHAPTER.GAINS)
    assert by_hand["rate"][~largest].max() < max(CHAPTER.BIAS_RATES)
    new = {what: _particles("floors", f"new_{what}") for what in ("std", "rate")}
    assert ((new["std"] == 0.003) & (new["rate"] == 0.0001)).sum() == 4
    tried = len(CHAPTER.GAINS) * len(CHAPTER.STDS) * len(CHAPTER.BIAS_RATES)
    return [
        tried + 8 * len(CHAPTER.BIAS_PARTS),
        3 * len((0.0001, *CHAPTER.RATES[:4])) + 8 * len(CHAPTER.SHORTER),
    ]


def direction() -> list[float]:
    """The exact direction and the best of lengths: nobody with a single step is above it on average."""
    known = _particles("direction", "direction")
    after = [("floors", "hand"), ("floors", "new"), ("joint", "after"), ("meta", "after")]
    after += [(name, "after") for name in ("first_order", "one_step", "source_start", *FIXED)]
    ours = {run: _particles(run, f"{who}_1") for run, who in after}
    assert all(values.mean() < known.mean() for values in ours.values())
    for name in ("meta", "first_order", "one_step", "floors"):
        found = _particles("floors", "hand_1") if name == "floors" else ours[name]
        assert -12.5 < found.mean() < -11.5  # near -12
        assert (found < known).all()
    assert np.median(_particles("direction", "length").round(2)) == 0.4
    return [known.mean()]


def orders() -> list[float]:
    """First order is no worse than second: after two steps ahead on every seed, and so are the last learners; sooner."""
    found = [_particles("first_order", f"after_{step}") for step in (1, 2)]
    for step in (1, 2):
        assert _alike(found[step - 1], _particles("meta", f"after_{step}"))
    kept, last = (
        _particles("first_order", f"{who}_2") - _particles("meta", f"{who}_2")
        for who in ("after", "last")
    )
    assert kept.min() > 0 and last.min() > 0
    ahead = [kept.min(), kept.max(), last.min(), last.max()]
    seconds = [_particles(name, "seconds").mean() for name in ("first_order", "meta")]
    return [*(values.mean() for values in found), *ahead, *seconds]


def adapted_in_short() -> list[float]:
    """The written policy is ahead after two steps, which ``adapted`` asserts."""
    found = adapted()
    return [*found[:2], found[3], *fitted()]


FIXED = ("fixed_0.03", "fixed_0.01", "fixed_0.003")


def one_rate() -> list[float]:
    """MAML with one rate that stays, the second step at half of it; Meta-SGD ahead on each seed, beyond the interval."""
    found, ahead = [], []
    for run in FIXED:
        assert (_particles(run, "second") == 0.5).all()
        for step in (1, 2):
            found.append(_particles(run, f"shorter_{step}"))
            difference = _particles("meta", f"after_{step}") - found[-1]
            assert (difference > 0).all() and _interval(difference)[0] > 0
            if run == FIXED[0]:
                ahead += [difference.mean(), *_interval(difference)]
    assert max(values.mean() for values in found[::2]) == found[0].mean()
    assert max(values.mean() for values in found[1::2]) == found[1].mean()
    found += [_particles("joint", f"after_{step}") for step in (1, 2)]
    return [0.5, *(values.mean() for values in found), *ahead]


def _tens(name: str) -> np.ndarray:
    """Means of ten iterations' return after one step, [seeds, windows]; the first one ends with iteration 10."""
    curves = results.curves("R4", name, "after")
    return np.stack([np.convolve(curve, np.full(10, 0.1), "valid") for curve in curves])


def published() -> list[float]:
    """The last twenty iterations' return after a step for each of the settings shown; who falls apart, and when."""
    last = {name: results.curves("R4", name, "after")[:, -20:].mean(1) for name in CHAPTER.SETTINGS}
    assert last["meta"].min() > CHAPTER.STANDING_STILL + 20
    # As printed: never more than a little above standing still, and never apart; the step hardly helps.
    assert _tens("published").max() < CHAPTER.STANDING_STILL + 3 and last["published"].min() > -45
    after, before = (results.curves("R4", "published", name) for name in ("after", "before"))
    added = (after - before)[:, -20:].mean(1)
    assert after[:, 0].max() < -90 and np.abs(added).max() < 0.5
    tens = _tens("published_rates")
    best = tens.max(1)
    falls = [10 + next(i for i in range(tens.shape[1]) if row[i] < -60) for row in tens]
    assert all(at > 10 + row.argmax() for at, row in zip(falls, tens, strict=True))
    assert last["published_rates"].max() < -200 and best.min() > -19
    assert last["published_slow"].min() > -17 and _tens("published_slow")[:, 10:].min() > -60
    small = np.sort(last["published_small"])
    assert small[-2] < -500 and round(small[-1]) == -40
    assert _tens("published_small")[last["published_small"].argmax()].min() < -60  # it fell, too
    assert last["source_start"].min() > -14
    found = [
        CHAPTER.STANDING_STILL,
        *(last[name].mean() for name in CHAPTER.SETTINGS if name != "meta"),
    ]
    source = [_particles("source_start", f"after_{step}").mean() for step in (1, 2)]
    printed = [after[:, 0].mean(), added.mean()]
    return [*printed, *found, best.max(), best.min(), min(falls), max(falls), small[-1], *source]


def overshoot() -> list[float]:
    """How far the inner step moves the mean with learned rates: at the published meta rate, and at a smaller one."""
    fast, slow = (
        results.curves("R4", f"published_{name}", "inner step") for name in ("rates", "slow")
    )
    early, end = fast[:, 24].mean(), slow[:, -20:].mean()
    assert end > early > 10 * slow[:, 24].mean()
    assert _tens("published_slow")[:, 10:].min() > -60  # none falls apart
    return [25, early, end]
