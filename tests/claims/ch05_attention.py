"""What chapter 05 says about its stored runs."""

import numpy as np
from scipy import stats

from rlbook_utils import results
from rlbook_utils.definitions import load_chapter
from rlbook_utils.numbers import spread_of

CHAPTER = load_chapter("ch05_attention")


def _a5(name: str, kind: str = "accuracy") -> np.ndarray:
    return results.metric("A5", name, kind)


# Kernels


def kernel():
    found = {name: results.metric("A3", "kernel", name) for name in CHAPTER.ASKED}
    assert len(found["learned"]) == 10
    assert found["nearest"].mean() > 0.9 and abs(found["nearest"] - found["mean"]).mean() < 0.15
    assert (found["kernel"] < found["nearest"]).all() and (
        found["learned"] < found["kernel"] / 3
    ).all()
    assert (found["first_angle"] < found["learned"]).all() and (found["first_angle"] > 0.09).all()
    return [found[name].mean() for name in ("kernel", "learned", "first_angle")]


# Where to look


def _a2(name: str, kind: str = "accuracy") -> np.ndarray:
    return results.metric("A2", name, kind)


def looking():
    ways = ("hard", "hard_bare", "hard_sure", "soft", "whole", "random", "centre", "told")
    assert all(len(_a2(name)) == 10 for name in ways)
    assert min(_a2("hard").min(), _a2("soft").min(), _a2("told").min()) > 90
    assert max(_a2(name).max() for name in ("random", "centre", "whole")) < 50
    assert abs(_a2("hard").mean() - _a2("told").mean()) < 2
    first = {name: _a2(name, "steps_to_90") for name in ("hard", "hard_bare", "soft", "told")}
    assert np.median(first["told"]) < np.median(first["soft"]) < np.median(first["hard"])
    assert stats.wilcoxon(first["hard_bare"], first["hard"], alternative="greater").pvalue < 0.05
    stuck = _a2("hard_sure") < 90
    assert stuck.sum() == 2 and (np.round(_a2("hard_sure", "found")[stuck] / 100 * 9) == 8).all()
    numbers = [_a2(name).mean() for name in ("hard", "told", "random", "centre", "whole")]
    return [*numbers, *(np.median(first[name]) for name in ("hard", "soft", "told"))]


# Perturbed digits


def both_halves():
    relational, cnn, long, itself = (
        _a5(name) for name in ("relational", "cnn", "cnn_long", "itself")
    )
    assert len(relational) == len(cnn) == len(long) == len(itself) == 5
    assert relational.min() >= 95.5 and relational.mean() - cnn.mean() >= 5
    assert spread_of(relational - cnn, "mean").low > 5
    assert _a5("cnn", "parameters").max() > 4 * _a5("relational", "parameters").max()
    cost, printed = _a5("cost", "relational_to_cnn").mean(), _a5("cost", "printed_to_cnn").mean()
    assert 2 < cost < CHAPTER.LONG.steps / CHAPTER.CNN.steps * 1.4 and printed > 5
    assert long.mean() > cnn.mean()
    assert relational.mean() - long.mean() < (relational.mean() - cnn.mean()) / 2
    best = max(range(len(CHAPTER.TRIED)), key=lambda i: _a5(f"try_cnn_{i}")[0])
    assert CHAPTER.TRIED[best] == CHAPTER.LONG.learning_rate
    floor = _a5("floors", "nearest").mean()
    assert floor > _a5("floors", "logistic").mean() and floor < cnn.min()
    return [relational.mean(), cnn.mean(), long.mean(), cost, printed, floor]


def cause():
    relational, itself, cnn = _a5("relational"), _a5("itself"), _a5("cnn")
    assert len(itself) == 5 and itself.mean() > relational.mean() - 1
    variants = {
        name: _a5(name) for name in ("uniform", "mean", "no_norm", "flat", "cnn_max", "cnn_norm")
    }
    for name in ("uniform", "mean", "no_norm", "flat", "cnn_norm"):
        assert len(variants[name]) == 3 and variants[name].min() > cnn.max() + 2
    assert variants["mean"].mean() > max(relational.mean(), itself.mean())
    assert abs(variants["cnn_max"].mean() - cnn.mean()) < 2
    assert variants["cnn_norm"].mean() - cnn.mean() > 0.6 * (relational.mean() - cnn.mean())
    cost = _a5("cost", "itself").mean() / _a5("cost", "relational").mean()
    assert 0.55 < cost < 0.78
    return [itself.mean(), *(found.mean() for found in variants.values())]


def strength():
    names, at_end = ("relational", "itself", "cnn", "cnn_long"), {}
    for what in ("rotation", "shift", "noise"):
        at_end[what] = [results.curves("A5", name, what)[:, -1].mean() for name in names]
    for what in ("shift", "noise"):
        relational, itself, cnn, long = at_end[what]
        assert min(relational, itself) > cnn + 10 and long > cnn
    relational, itself, _, long = at_end["shift"]
    assert long < min(relational, itself) - 5 and at_end["noise"][3] < min(at_end["noise"][:2])
    assert max(at_end["rotation"][:3]) - min(at_end["rotation"][:3]) < 12
    return [value for values in at_end.values() for value in values]


def looks():
    shares = {
        f"{what}_{kind}": _a5("relational", f"{what}_{kind}")
        for what in ("attention", "area")
        for kind in ("stroke", "noise")
    }
    changed = {name: _a5("relational", f"changed_{name}") for name in CHAPTER.COVERED}
    assert len(changed["most"]) == 5
    assert (shares["attention_stroke"] > 2 * shares["area_stroke"]).all()
    assert (shares["attention_noise"] < shares["area_noise"]).all()
    order = [changed[name].mean() for name in ("random", "least", "stroke", "most")]
    assert (np.diff(order) > 0).all()
    return [
        *(values.mean() for values in shares.values()),
        *(values.mean() for values in changed.values()),
    ]


def tried():
    found = {
        name: [_a5(f"try_{name}_{i}")[0] for i in range(len(CHAPTER.TRIED))]
        for name in ("relational", "cnn")
    }
    assert max(found["relational"]) > max(found["cnn"])
    return [max(found["relational"]), max(found["cnn"])]
