"""What chapter 05 says about its stored runs."""

import numpy as np
import torch
from scipy import stats

from rlbook_utils import results
from rlbook_utils.definitions import load_chapter
from rlbook_utils.numbers import spread_of
from rlbook_utils.rollout import spread

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
    helps = found["mean"] - found["nearest"]
    assert stats.wilcoxon(helps, alternative="greater").pvalue < 0.05 and 0 < helps.mean() < 0.1
    rng, off = torch.Generator().manual_seed(1), []
    for _ in range(10):  # how far the nearest of 200 is in each of the four angles
        (x, _), (asked, _) = CHAPTER.angle_points(200, rng), CHAPTER.angle_points(1000, rng)
        angle, other = (
            torch.atan2(z.view(-1, 4, 2)[..., 1], z.view(-1, 4, 2)[..., 0])
            for z in (asked, x[torch.cdist(asked, x).argmin(1)])
        )
        off.append(((angle - other + torch.pi) % (2 * torch.pi) - torch.pi).abs().mean().item())
    assert (found["kernel"] < found["nearest"]).all() and (
        found["learned"] < found["kernel"] / 3
    ).all()
    assert (found["first_angle"] < found["learned"]).all() and (found["first_angle"] > 0.09).all()
    names = ("nearest", "mean", "kernel", "learned", "first_angle")
    return [np.mean(off), *(found[name].mean() for name in names)]


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
    held, ruled = CHAPTER.parts_of(1797)[1], []
    for seed in range(1, 11):
        judge = torch.Generator().manual_seed(spread((CHAPTER.LOOKING, seed), 3)[2])
        scenes = CHAPTER.make_scenes(held, CHAPTER.JUDGED, judge)
        right = CHAPTER.read_by_rule(scenes) == scenes.labels
        ruled.append(100 * right.float().mean().item())
    assert all(np.mean(ruled) > _a2(name).mean() for name in CHAPTER.LOOKS)
    assert all((ruled >= _a2(name)).all() for name in ("hard", "soft", "told"))  # the same scenes
    names = ("hard", "told", "random", "centre", "whole", "conv")
    return [*(_a2(name).mean() for name in names), np.mean(ruled)]


def sooner():
    first = {name: _a2(name, "steps_to_90") for name in ("told", "soft", "hard", "conv", "hard_bare", "hard_sure")}  # fmt: skip
    median = {name: np.median(steps) for name, steps in first.items()}
    order = ("told", "soft", "hard", "conv")
    assert all(np.diff([median[name] for name in order]) > 0)
    assert (first["soft"] < first["hard"]).all() and len(first["soft"]) == 10
    later = first["hard_bare"] - first["hard"]
    assert (later > 0).sum() == 8 and (later == 0).sum() == 2
    assert (first["hard_sure"] > first["hard"]).all()
    conv = results.curves("A2", "conv", "accuracy")
    before, end = (conv[:, part].mean() for part in (slice(-20, -10), slice(-10, None)))
    assert 10 * CHAPTER.EVERY == 250 and 0 < end - before < 1 and _a2("conv").max() < 97
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
    unaligned = _a5("floors", "unaligned")
    assert cnn.mean() < unaligned.mean() < floor.mean() - 5
    assert round(1000 * 300 / len(CHAPTER.parts_of(1797)[0])) == CHAPTER.COPIES
    costs = [cost, *(_a5("cost", f"{name}_to_cnn").mean() for name in ("printed", "itself"))]
    took = {
        "itself": "itself",
        "relational_best": "relational",
        "cnn_best": "cnn",
        "cnn_norm": "cnn",
    }
    by_time = {}  # accuracy every half second, from 15 seconds on to where the copy ends
    seconds = np.arange(15, 1000 * _a5("cost", "itself").mean() / 1000, 0.5)
    for name, network in took.items():
        curve = results.curves("A5", name, "accuracy").mean(0)
        steps = CHAPTER.JUDGE_EVERY * np.arange(1, len(curve) + 1)
        by_time[name] = np.interp(seconds, steps * _a5("cost", network).mean() / 1000, curve)
    assert seconds[-1] > 90 and floor.mean() > _a5("itself").mean()
    assert all(
        (by_time["itself"] > by_time[name]).all() for name in ("relational_best", "cnn_best")
    )
    leads = by_time["itself"] - np.maximum(by_time["relational_best"], by_time["cnn_best"])
    assert leads[seconds < 50].min() > 1.5 and 0.3 < leads[seconds > 60].mean() < 1
    at_30 = [by_time[name][seconds == 30].item() for name in ("cnn_norm", "itself")]
    means = (part.mean() for part in (long, best, floor, unaligned))
    return [relational.mean(), cnn.mean(), *costs, *means, *at_30]


def cause():
    relational, itself, cnn = _a5("relational"), _a5("itself"), _a5("cnn")
    assert len(itself) == 3 and itself.mean() > relational.mean() - 1
    assert itself.min() > cnn.max() + 2 and relational.min() > cnn.max() + 2
    assert _a5("floors", "template").mean() > relational.mean() - 1
    net = CHAPTER.make_net(CHAPTER.READERS["itself"])
    net(torch.rand(1, 28, 28)).sum().backward()
    idle = sum(weights.numel() for weights in net.parameters() if weights.grad is None)
    assert CHAPTER.parameters(net) - idle == 19_228
    return [itself.mean()]


def speed():
    relational, cnn, norm = _a5("relational"), _a5("cnn"), _a5("cnn_norm")
    bare, best = _a5("no_norm"), _a5("relational_best")
    rate, long = _a5("cnn_best", "after_1000"), _a5("cnn_best")
    assert len(norm) == 5 and len(bare) == len(best) == len(long) == 3
    lead = relational.mean() - cnn.mean()
    assert rate.mean() - cnn.mean() > 1.5 and long.mean() - rate.mean() > 1.5
    assert 3.5 < relational.mean() - bare.mean() < 4.5 and bare.min() > cnn.max()
    assert abs(best.mean() - relational.mean()) <= 1
    half, own, twice, four_times = (_a5(f"try_relational_{i}")[0] for i in range(4))
    assert CHAPTER.TRIED == (5e-4, 1e-3, 2e-3, 4e-3) and four_times < 15
    assert max(abs(half - own), abs(twice - own)) <= 1
    closed = [100 * (found.mean() - cnn.mean()) / lead for found in (norm, rate)]
    assert _a5("cnn_norm_best").mean() > cnn.mean() + lead / 2
    rising = results.curves("A5", "cnn", "accuracy")
    assert rising[:, -3:].mean() > rising[:, -8:-5].mean()  # unfinished
    return [cnn.mean(), norm.mean(), rate.mean(), long.mean(), *closed]


def small_fields():
    found = []
    for name in ("small", "printed"):
        one, other = _a5(name), _a5(f"{name}_itself")
        assert len(one) == len(other) == 3 and one.mean() < other.mean() and one.max() < other.max()
        found += [one.min(), one.max(), other.min(), other.max()]
    small, alone = _a5("small"), _a5("small_itself")
    assert stats.ttest_ind(small, alone, equal_var=False).pvalue > 0.1  # which is better is open
    assert small.max() < _a5("relational").min() and alone.max() < _a5("itself").min()
    work = {name: CHAPTER.READERS[name].steps * CHAPTER.READERS[name].batch for name in ("small", "printed")}  # fmt: skip
    assert work["small"] == 4 * work["printed"] == 300_000
    for name in ("small", "small_itself"):
        for late in results.curves("A5", name, "accuracy"):
            assert late[-5:].mean() > late[-10:-5].mean() + 1.5  # still climbing
    assert small.mean() < _a5("floors", "unaligned").mean()
    return [*found, small.mean(), alone.mean()]


def _at_end(name: str, what: str) -> np.ndarray:
    return results.curves("A5", name, what)[:, -1]


def strength():
    shift, noise = ({name: _at_end(name, what) for name in CHAPTER.STRONG} for what in ("shift", "noise"))  # fmt: skip
    pooled = (shift["relational"].mean(), shift["itself"].mean())
    assert min(pooled) > shift["flat"].mean() + 8
    flattened = [shift[name].mean() for name in CHAPTER.STRONG if "cnn" in name]
    assert len(flattened) == 3 and max(flattened) < min(pooled) - 5
    last = np.concatenate([noise.pop("flat"), noise.pop("cnn")])
    assert last.max() < min(values.min() for values in noise.values()) - 5  # in every seed
    module = noise["relational"]
    assert module.min() < noise["cnn_best"].mean() < module.max()  # the order depends on the seed
    floor = [results.curves("A5", "floor_by_strength", what)[0] for what in ("shift", "noise")]
    assert min(values[-1] for values in floor) > 85
    assert _a5("floor_by_strength", "digits").tolist() == [180]
    flat = _at_end("flat", "noise")
    ends = [module.min(), module.max(), flat.min(), flat.max()]
    return [*pooled, shift["flat"].mean(), min(flattened), max(flattened), *ends]


def ahead():
    end = {
        (name, what): _at_end(name, what)
        for name in ("relational", "itself", "cnn", "cnn_best")
        for what in ("rotation", "noise", "shift")
    }
    for what in ("rotation", "noise"):
        assert end["relational", what].min() > end["cnn", what].max()
        assert end["cnn_best", what].mean() > end["relational", what].mean()
    for name in ("relational", "itself"):
        assert end[name, "shift"].min() > end["cnn_best", "shift"].max()
    names = ("relational", "cnn", "cnn_best")
    return [end[name, what].mean() for what in ("rotation", "noise") for name in names]


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
