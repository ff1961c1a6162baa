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
    """In the middle of the frame: rules, and prototypes, which stay below the best rule."""
    rules = 100 * results.metric("R2", "upright_rules", "shifted_image")
    trained = 100 * results.metric("R2", "upright_prototypes", "best")
    means = 100 * results.metric("R2", "digits_upright", "nearest_mean")
    assert (trained < np.minimum(rules, means)).all()
    return [means.mean(), rules.mean(), trained.mean()]


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
    return [shifted.mean(), centred.mean(), untrained.mean()]


def one_view() -> list[float]:
    """MAML with one view and with four: its gain over scratch on digits that it knew, and on new ones, where they are alike."""
    gains = []
    for metric in ("seen_best", "best"):
        scratch = _digits("scratch", metric)
        gains += [_digits(name, metric) - scratch for name in ("one_view", "maml")]
    assert (gains[0] > gains[1] + 5).all() and _alike(gains[2], gains[3])
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
    return [one.mean(), *(part.mean() for part in parts), *(found.mean() for found in two)]


def adapted() -> list[float]:
    """Meta-SGD and the policy written by hand are alike after one step, ours ahead after two; a new policy far below."""
    found = []
    for who, prefix in (("meta", "after"), ("floors", "hand"), ("floors", "new")):
        found += [_particles(who, f"{prefix}_{step}") for step in (1, 2)]
    assert _alike(found[0], found[2])
    assert (found[3] > found[1]).all() and _interval(found[3] - found[1])[0] > 0
    for step in range(2):
        assert (found[4 + step] < np.minimum(found[step], found[2 + step]) - 5).all()
    return [*(values.mean() for values in found), *fitted()]


def orders() -> list[float]:
    """First order is as good as second."""
    found = [_particles("first_order", f"after_{step}") for step in (1, 2)]
    for step in (1, 2):
        assert _alike(found[step - 1], _particles("meta", f"after_{step}"))
    return [values.mean() for values in found]


def adapted_in_short() -> list[float]:
    return [*adapted()[:2], *fitted()]


def one_rate() -> list[float]:
    """MAML with one rate that stays, each with the best part of it for the second step; and one policy for all tasks."""
    runs = {f"fixed_{rate}": "shorter" for rate in ("0.003", "0.01", "0.03")} | {"joint": "after"}
    found = [_particles(run, f"{who}_{step}") for run, who in runs.items() for step in (1, 2)]
    return [values.mean() for values in found]


def published() -> list[float]:
    """The last twenty iterations' return after a step, for each of the settings shown."""
    last = {name: results.curves("R4", name, "after")[:, -20:].mean(1) for name in CHAPTER.SETTINGS}
    assert last["meta"].min() > CHAPTER.STANDING_STILL + 20
    return [values.mean() for name, values in last.items() if name != "meta"]


def overshoot() -> list[float]:
    """How far the inner step moves the mean after 25 iterations of the published settings with learned rates."""
    return [25, results.curves("R4", "published_rates", "inner step")[:, 24].mean()]
