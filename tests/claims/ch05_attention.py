"""What chapter 05 says about its stored runs."""

import numpy as np
import torch
from scipy import stats

from rlbook_utils import results
from rlbook_utils.definitions import load_chapter
from rlbook_utils.numbers import spread_of

CHAPTER = load_chapter("ch05_attention")


def _a5(name: str, kind: str = "accuracy") -> np.ndarray:
    return results.metric("A5", name, kind)


# Kernels, symmetries


def eight():
    known_x, known_y = CHAPTER.noisy_points(40, torch.Generator().manual_seed(1))
    held_x, held_y = CHAPTER.noisy_points(1000, torch.Generator().manual_seed(2))
    error = lambda answer: CHAPTER.squared_error(answer, held_y)
    tried = np.geomspace(0.01, 100, 17)
    best = min(error(CHAPTER.kernel_weights(held_x, known_x, h) @ known_y) for h in tried)
    eight = error(CHAPTER.nearest(held_x, known_x, known_y, 8))
    one, mean = error(CHAPTER.nearest(held_x, known_x, known_y)), error(known_y.mean())
    assert eight < best < eight + 0.02 and best < min(one, mean) - 0.1
    return [eight, best, 0.4**2]


def kernel():
    found = {name: results.metric("A3", "kernel", name) for name in CHAPTER.ASKED}
    assert len(found["learned"]) == 10
    assert found["nearest"].mean() > 0.9 and abs(found["nearest"] - found["mean"]).mean() < 0.15
    assert (found["kernel"] < found["nearest"]).all() and (
        found["learned"] < found["kernel"] / 3
    ).all()
    assert (found["first_angle"] < found["learned"]).all() and (found["first_angle"] > 0.09).all()
    return [found[name].mean() for name in ("kernel", "learned", "first_angle")]


def symmetries():
    x = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    off = {
        (f, c): CHAPTER.broken(function, change, x)
        for f, function in CHAPTER.three_functions().items()
        for c, change in CHAPTER.three_changes(16).items()
    }
    changes = CHAPTER.three_changes(16)
    assert off["convolution", "shift"] < 1e-5
    assert min(off["convolution", c] for c in changes if c != "shift") > 0.1
    assert max(off["attention", c] for c in changes) < 1e-5
    assert min(off["attention with places", c] for c in changes) > 0.01


# Where to look


def _a2(name: str, kind: str = "accuracy") -> np.ndarray:
    return results.metric("A2", name, kind)


def looking():
    assert all(len(_a2(name)) == 10 for name in ("hard", "hard_bare", "hard_sure", "soft", "told"))
    assert all(len(_a2(name)) == 5 for name in ("whole", "conv", "random", "centre"))
    assert min(_a2("hard").min(), _a2("soft").min(), _a2("told").min()) > 90
    assert max(_a2(name).max() for name in ("random", "centre", "whole")) < 50
    assert abs(_a2("hard").mean() - _a2("told").mean()) < 2
    assert 50 < _a2("conv").max() < _a2("hard").mean()
    return [_a2(name).mean() for name in ("hard", "told", "random", "centre", "whole", "conv")]


def sooner():
    first = {name: _a2(name, "steps_to_90") for name in ("told", "soft", "hard", "conv", "hard_bare", "hard_sure")}  # fmt: skip
    median = {name: np.median(steps) for name, steps in first.items()}
    order = ("told", "soft", "hard", "conv")
    assert all(np.diff([median[name] for name in order]) > 0)
    assert stats.wilcoxon(first["hard_bare"], first["hard"], alternative="greater").pvalue < 0.05
    assert (first["hard_sure"] > first["hard"]).all()
    stuck = _a2("hard_sure") < 90
    assert stuck.sum() == 2 and (np.round(_a2("hard_sure", "found")[stuck] / 100 * 9) == 8).all()
    table = [[2, 8], [(_a2("hard") < 90).sum(), (_a2("hard") >= 90).sum()]]
    assert stats.fisher_exact(table).pvalue > 0.1  # too few to say
    return list(median.values())


# Perturbed digits


def tried():
    found = {
        name: [_a5(f"try_{name}_{i}")[0] for i in range(len(CHAPTER.TRIED))]
        for name in CHAPTER.SIDES
    }
    best = CHAPTER.TRIED.index(2e-3)
    assert CHAPTER.TRIED[best] == 2 * CHAPTER.ConvConfig().learning_rate
    assert all(int(np.argmax(values)) == best for values in found.values())
    assert found["relational"][-1] < 15 and found["cnn"][-1] > 80
    for name in ("relational_best", "cnn_best", "cnn_norm_best"):
        assert CHAPTER.READERS[name].learning_rate == CHAPTER.TRIED[best]
    return [values[best] for values in found.values()]


def both_halves():
    relational, cnn = _a5("relational"), _a5("cnn")
    assert (len(relational), len(cnn)) == (3, 5)
    apart = stats.ttest_ind(relational, cnn, equal_var=False).confidence_interval()
    assert relational.min() >= 95.5 and apart.low > 5
    assert _a5("cnn", "parameters").max() > 4 * _a5("relational", "parameters").max()
    cost = _a5("cost", "relational_to_cnn").mean()
    best, long = _a5("relational_best"), _a5("cnn_best")
    assert 2 < cost < 1.4 * CHAPTER.READERS["cnn_best"].steps / CHAPTER.READERS["cnn"].steps
    assert best.mean() - long.mean() < 1  # nothing of the lead is left
    floor = _a5("floors", "template")
    assert len(floor) == 3 and floor.mean() > max(relational.mean(), long.mean(), best.mean())
    assert _a5("floors", "unaligned").mean() < floor.mean() - 5
    costs = [cost, _a5("cost", "printed_to_cnn").mean()]
    return [relational.mean(), cnn.mean(), *costs, long.mean(), best.mean(), floor.mean()]


def cause():
    relational, itself, cnn = _a5("relational"), _a5("itself"), _a5("cnn")
    assert len(itself) == 3 and itself.mean() > relational.mean() - 1
    assert itself.min() > cnn.max() + 2 and relational.min() > cnn.max() + 2
    assert _a5("floors", "template").mean() > relational.mean() - 1
    return [itself.mean()]


def speed():
    relational, cnn, norm = _a5("relational"), _a5("cnn"), _a5("cnn_norm")
    bare, best = _a5("no_norm"), _a5("relational_best")
    rate, long = _a5("cnn_best", "after_1000"), _a5("cnn_best")
    assert len(norm) == 5 and len(bare) == len(best) == len(long) == 3
    lead = relational.mean() - cnn.mean()
    assert norm.mean() - cnn.mean() > lead / 2  # most of it
    assert rate.mean() - cnn.mean() > 1.5 and long.mean() - rate.mean() > 1.5
    assert (
        3.5 < relational.mean() - bare.mean() < 4.5 and abs(best.mean() - relational.mean()) < 1.5
    )
    assert bare.min() > cnn.max()
    assert _a5("cnn_norm_best").mean() > cnn.mean() + lead / 2
    rising = results.curves("A5", "cnn", "accuracy")
    assert rising[:, -3:].mean() > rising[:, -8:-5].mean()  # unfinished
    return [cnn.mean(), norm.mean(), rate.mean(), long.mean()]


def small_fields():
    found = []
    for name in ("small", "printed"):
        one, other = _a5(name), _a5(f"{name}_itself")
        assert len(one) == len(other) == 3 and one.mean() < other.mean() and one.max() < other.max()
        found += [one.min(), one.max(), other.min(), other.max()]
    return found


def strength():
    at_end = {
        (name, what): results.curves("A5", name, what)[:, -1]
        for name in CHAPTER.STRONG
        for what in ("shift", "noise")
    }
    end = {key: values.mean() for key, values in at_end.items()}
    assert min(end["relational", "shift"], end["itself", "shift"]) > end["flat", "shift"] + 8
    flattened = [end[name, "shift"] for name in ("cnn_norm", "cnn_best")]
    assert max(flattened) < min(end["relational", "shift"], end["itself", "shift"]) - 5
    noisy = at_end["relational", "noise"]
    assert noisy.min() < end["cnn_best", "noise"] < noisy.max()  # the order depends on the seed
    floor = [results.curves("A5", "floor_by_strength", what)[0] for what in ("shift", "noise")]
    assert min(values[-1] for values in floor) > 85
    shifts = [end[name, "shift"] for name in ("relational", "itself", "flat")]
    return [*shifts, min(flattened), max(flattened), noisy.min(), noisy.max()]


def _look(name: str) -> np.ndarray:
    return _a5("looks", name)


def rows():
    apart, moved = _look("row_from_mean"), _look("changed_by_mean_row")
    assert len(apart) == 3 and apart.max() < 0.5 and moved.min() > 5
    return [apart.mean(), moved.mean()]


def overlooks():
    assert len(_look("attention_stroke")) == 3
    density = {
        (who, kind): _look(f"{who}_{kind}") / _look(f"area_{kind}")
        for who in ("attention", "fresh")
        for kind in CHAPTER.KINDS
    }
    assert all((abs(density["fresh", kind] - 1) < 0.15).all() for kind in CHAPTER.KINDS)
    assert (density["attention", "stroke"] > 2).all()
    apart = density["attention", "noise"] - density["attention", "background"]
    assert (density["attention", "noise"] < 0.6).all() and apart.mean() < 0.15
    return [_look(name).mean() for name in ("area_stroke", "attention_stroke")]


def looks():
    changed = {name: _look(f"changed_{name}") for name in CHAPTER.COVERED}
    order = [changed[name].mean() for name in ("random", "least", "stroke", "most")]
    assert (np.diff(order) > 0).all() and (changed["most"] > changed["stroke"]).all()
    ink = spread_of(changed["ink"] - changed["most"], "mean")
    assert ink.high > 0  # pairwise: the patch with most ink does not less
    alone = _look("alone_most")
    assert (alone > _look("alone_stroke")).all() and alone.mean() > changed["most"].mean() / 2
    return [*(changed[name].mean() for name in ("most", "stroke", "ink")), alone.mean()]


def summary():
    both_halves()
    cause()
    speed()
