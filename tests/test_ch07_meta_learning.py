"""Chapter 07: inner steps and meta-gradients against independent oracles, tasks that are fair, and the updates' wiring."""

import itertools
import math
import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from rlbook_utils.definitions import CHAPTERS, load_chapter
from rlbook_utils.exercises import check

torch.set_num_threads(1)
CH = load_chapter("ch07_meta_learning")
META = dict(iterations=2, tasks=3, episodes=3)
SMALL = dict(iterations=3, tasks=4, queries=4, hidden=8)
WORLDS = ("sinusoids", "digits")
METHODS = ("maml", "first order", "reptile", "joint")


def small_case(world="sinusoids", tasks=3, seed=1):
    """A network's numbers and some tasks, in double precision."""
    torch.manual_seed(seed)
    config = CH.FewConfig(world=world, tasks=tasks, shots=2, queries=3, hidden=7)
    net = CH.few_net(config).double()
    drawn = CH.draw_tasks(config, tasks, "training")
    wide = lambda part: part.double() if part.is_floating_point() else part
    drawn = CH.Tasks(*(CH.Examples(*map(wide, examples)) for examples in drawn))
    return net, CH.copied(dict(net.named_parameters())), drawn


def by_hand(params, x):
    """The network in plain matrix products."""
    for layer in "024":
        x = x @ params[f"{layer}.weight"].T + params[f"{layer}.bias"]
        x = x if layer == "4" else x.clamp(min=0)
    return x


def loss_by_hand(params, x, y):
    found = by_hand(params, x)
    if y.is_floating_point():
        return ((found - y) ** 2).sum() / y.numel()
    return -torch.log(torch.softmax(found, -1))[torch.arange(len(y)), y].sum() / len(y)


def tuned_by_hand(params, rate, batches):
    """One task, one step a batch, with autograd on leaves."""
    now = {name: value.clone() for name, value in params.items()}
    for x, y in batches:
        leaves = {name: value.clone().requires_grad_() for name, value in now.items()}
        slopes = torch.autograd.grad(loss_by_hand(leaves, x, y), list(leaves.values()))
        now = {n: v.detach() - rate * g for (n, v), g in zip(leaves.items(), slopes, strict=True)}
    return now


# The inner step


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("steps", [1, 3])
def test_the_batched_inner_loop_is_a_loop_over_tasks(world, steps):
    net, params, tasks = small_case(world)
    batches = CH.repeated(tasks.support, steps)
    found = CH.tune_each(net, CH.stacked(params, 3), 0.1, batches)
    again = CH.tune_each(net, CH.stacked(params, 3), 0.1, batches, True)
    ends = []
    for task in range(3):
        support = (tasks.support.x[task], tasks.support.y[task])
        ends.append(tuned_by_hand(params, 0.1, [support] * steps))
        for name, value in ends[-1].items():
            torch.testing.assert_close(found[name][task], value, atol=1e-10, rtol=1e-8)
            torch.testing.assert_close(again[name][task], value, atol=1e-10, rtol=1e-8)
    assert not torch.allclose(ends[0]["4.bias"], ends[1]["4.bias"])


def test_each_network_of_a_stack_is_tuned_to_its_own_task():
    net, params, tasks = small_case()
    own = {name: torch.stack([value, 2 * value, -value]) for name, value in params.items()}
    found = CH.tune_each(net, own, 0.05, CH.repeated(tasks.support, 1))
    for task, factor in enumerate((1, 2, -1)):
        start = {name: factor * value for name, value in params.items()}
        hand = tuned_by_hand(start, 0.05, [(tasks.support.x[task], tasks.support.y[task])])
        for name, value in hand.items():
            torch.testing.assert_close(found[name][task], value, atol=1e-10, rtol=1e-8)


# The meta-gradient


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("steps", [1, 2])
def test_the_meta_gradient_agrees_with_finite_differences(world, steps):
    """Against a loss after tuning that is written in plain matrix products."""
    net, params, tasks = small_case(world)
    rate = 0.1
    slopes = torch.func.grad(CH.loss_after)(params, net, rate, tasks, steps)
    first = torch.func.grad(CH.loss_after)(params, net, rate, tasks, steps, True)

    def after(params):
        losses = []
        for task in range(3):
            support = (tasks.support.x[task], tasks.support.y[task])
            now = tuned_by_hand(params, rate, [support] * steps)
            losses.append(float(loss_by_hand(now, tasks.query.x[task], tasks.query.y[task])))
        return sum(losses) / 3

    assert after(params) == pytest.approx(
        float(CH.loss_after(params, net, rate, tasks, steps)), rel=1e-9
    )
    differs = 0.0
    for name, value in params.items():
        for at in {int(slopes[name].abs().argmax()), 0}:
            moved = []
            for sign in (1, -1):
                other = value.clone()
                other.view(-1)[at] += sign * 1e-7
                moved.append(after(params | {name: other}))
            slope = (moved[0] - moved[1]) / 2e-7
            assert slopes[name].view(-1)[at].item() == pytest.approx(slope, rel=1e-4, abs=1e-6)
            differs = max(
                differs, abs(first[name].view(-1)[at].item() - slope) / (abs(slope) + 1e-3)
            )
    assert differs > 0.02  # the first order is another gradient


def test_first_order_is_the_mean_slope_at_the_tuned_networks():
    net, params, tasks = small_case()
    first = torch.func.grad(CH.loss_after)(params, net, 0.1, tasks, 2, True)
    total = {name: torch.zeros_like(value) for name, value in params.items()}
    for task in range(3):
        now = tuned_by_hand(params, 0.1, [(tasks.support.x[task], tasks.support.y[task])] * 2)
        leaves = {name: value.requires_grad_() for name, value in now.items()}
        loss_by_hand(leaves, tasks.query.x[task], tasks.query.y[task]).backward()
        for name, leaf in leaves.items():
            total[name] += leaf.grad / 3
    for name, value in total.items():
        torch.testing.assert_close(first[name], value, atol=1e-10, rtol=1e-8)


# Reptile


def test_reptiles_update_by_hand():
    """Plain descent at rate ε along the slope is θ + ε · (mean of what was tuned - θ)."""
    net, params, tasks = small_case()
    torch.manual_seed(5)
    batches = CH.cut(CH.pooled(tasks), 2)
    tuned = CH.tune_each(net, CH.stacked(params, 3), 0.1, batches, True)
    slopes = CH.reptile_slope(params, tuned)
    ends = [
        tuned_by_hand(params, 0.1, [(batches.x[k, s], batches.y[k, s]) for s in range(2)])
        for k in range(3)
    ]
    for name, value in params.items():
        mean = sum(end[name] for end in ends) / 3
        torch.testing.assert_close(value - 0.25 * slopes[name], 0.75 * value + 0.25 * mean)


def test_with_one_step_reptile_is_the_joint_gradient():
    net, params, tasks = small_case()
    everything = CH.pooled(tasks)
    tuned = CH.tune_each(net, CH.stacked(params, 3), 0.1, CH.cut(everything, 1), True)
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    flat = (everything.x.flatten(0, 1), everything.y.flatten(0, 1))
    loss_by_hand(leaves, *flat).backward()
    for name, slope in CH.reptile_slope(params, tuned).items():
        torch.testing.assert_close(slope, 0.1 * leaves[name].grad, atol=1e-10, rtol=1e-8)


def test_cutting_uses_each_example_once_and_keeps_pairs():
    x = torch.arange(24.0).view(2, 12, 1)
    found = CH.cut(CH.Examples(x, 10 * x), 4)
    assert found.x.shape == (2, 4, 3, 1)
    torch.testing.assert_close(found.y, 10 * found.x)
    for task in range(2):
        assert sorted(found.x[task].flatten().tolist()) == x[task].flatten().tolist()
    assert found.x[0].flatten().tolist() != x[0].flatten().tolist()


# Tasks


def test_waves_are_waves_with_the_papers_ranges():
    tasks = CH.draw_waves(3_000, 5, 7, torch.Generator().manual_seed(0))
    both = CH.pooled(tasks)
    assert tasks.support.x.shape == (3_000, 5, 1) and tasks.query.y.shape == (3_000, 7, 1)
    assert both.x.abs().max() <= 5 and both.x.min() < -4.9 and both.x.max() > 4.9
    amplitudes, phases = [], []
    for x, y in zip(both.x[:300, :, 0].double(), both.y[:300, :, 0].double(), strict=True):
        basis = torch.stack([x.sin(), x.cos()], 1)
        (a, b) = torch.linalg.lstsq(basis, y[:, None]).solution[:, 0].tolist()
        torch.testing.assert_close(basis @ torch.tensor([a, b]).double(), y, atol=1e-4, rtol=1e-4)
        amplitudes.append(math.hypot(a, b))
        phases.append(math.atan2(-b, a))
    assert 0.1 <= min(amplitudes) < 0.5 and 4.6 < max(amplitudes) <= 5.001
    assert -1e-3 <= min(phases) < 0.1 and 3.04 < max(phases) < 3.1417
    assert both.y.square().mean() == pytest.approx(25.51 / 6, rel=0.1)


def test_what_the_text_says_of_the_mean_of_all_sines():
    rng = np.random.default_rng(0)
    size, phase, x = rng.uniform(0.1, 5, 400_000), rng.uniform(0, np.pi, 400_000), rng.uniform(-5, 5, 400_000)  # fmt: skip
    y = size * np.sin(x - phase)
    assert (y**2).mean() == pytest.approx(CH.ALWAYS_ZERO, rel=0.01) and round(CH.ALWAYS_ZERO, 2) == 4.25  # fmt: skip
    assert ((y + 1.62 * np.cos(x)) ** 2).mean() == pytest.approx(3.01, rel=0.01)
    waves = np.stack([np.sin(x), np.cos(x)], 1)
    best = np.linalg.lstsq(waves, y, rcond=None)[0]
    np.testing.assert_allclose(best, [0, -1.62], atol=0.02)


def test_splits_hold_four_classes_out_and_each_class_is_out_twice():
    counts = np.zeros(10)
    for split in range(CH.SPLITS):
        out, known = CH.held_out(split), CH.known(split)
        assert len(out) == 4 and len(known) == 6 and sorted(out + known) == list(range(10))
        counts[list(out)] += 1
    assert (counts == 2).all()


@cache
def book_of_images():
    """Every image in each of its eight views: its bytes, and which one it is, its label and the view."""
    own, labels = CH.small_digits()
    book = {}
    for view in range(8):
        for place, image in enumerate(CH.seen_from(own, view).flatten(1)):
            book.setdefault(image.numpy().tobytes(), (place, int(labels[place]), view))
    return book


def digit_of(images):
    """Which of scikit-learn's images each one is, in any view: its number, its label and the view."""
    return [book_of_images()[image.numpy().tobytes()] for image in images.contiguous()]


def test_held_out_digits_are_in_no_other_set():
    for split in range(CH.SPLITS):
        config = CH.FewConfig(world="digits", split=split)
        out = set(CH.held_out(split))
        seen = {}
        for use in ("training", "known", "validating", "judging"):
            tasks = CH.draw_tasks(config, 12, use, torch.Generator().manual_seed(1))
            found = digit_of(CH.pooled(tasks).x.flatten(0, 1))
            seen[use] = {label for _, label, _ in found}
            views = {"training": range(4), "validating": range(4, 8)}.get(use, (0,))
            assert {view for *_, view in found} <= set(views), use
        assert seen["judging"] <= out
        for use in ("training", "known", "validating"):
            assert not seen[use] & out, use
        torch.manual_seed(0)
        joint = CH.draw_joint(replace(config, method="joint", tasks=5))
        assert not {label for _, label, _ in digit_of(joint.x)} & out


def test_support_and_query_are_disjoint_and_labels_are_consistent():
    config = CH.FewConfig(world="digits", queries=10)
    tasks = CH.draw_tasks(config, 40, "judging", torch.Generator().manual_seed(2))
    assert tasks.support.x.shape == (40, 15, 64) and tasks.query.x.shape == (40, 30, 64)
    first = set()
    for k in range(40):
        support, query = digit_of(tasks.support.x[k]), digit_of(tasks.query.x[k])
        places = [place for place, *_ in support + query]
        assert len(set(places)) == 45
        named = {
            (label, int(y)) for (_, label, _), y in zip(support, tasks.support.y[k], strict=True)
        }
        assert named == {
            (label, int(y)) for (_, label, _), y in zip(query, tasks.query.y[k], strict=True)
        }
        assert len(named) == len({y for _, y in named}) == len({d for d, _ in named}) == 3
        assert np.bincount(tasks.support.y[k]).tolist() == [5, 5, 5]
        first.add(next(label for label, y in named if y == 0))
    assert len(first) == 4  # each digit has each number in some task


def test_a_small_class_lends_no_padding():
    pool = CH.pool_of(tuple(range(10)))
    labels = CH.small_digits()[1]
    assert pool.there.sum(1).tolist() == torch.bincount(labels).tolist()
    least = int(pool.there.sum(1).min())
    tasks = CH.draw_digits(pool, 6, 5, least - 5, torch.Generator().manual_seed(0))
    assert (CH.pooled(tasks).x.sum(-1) > 0).all()  # padding is black


def test_views_are_the_eight_of_a_square():
    image = torch.arange(64.0).view(1, 8, 8)
    views = [CH.seen_from(image, view) for view in range(8)]
    assert len({view.numpy().tobytes() for view in views}) == 8
    torch.testing.assert_close(views[0], image)
    torch.testing.assert_close(views[2], image.flip(1, 2))
    torch.testing.assert_close(views[4], image.flip(2))


def test_scores_validation_and_training_share_no_tasks(monkeypatch):
    config, trained = CH.FewConfig(**SMALL), []
    own = CH.draw_waves
    made = [
        CH.draw_tasks(config, 50, "judging", CH.generator_of(use, 1)).support.x.flatten()
        for use in (CH.VALIDATING, CH.JUDGING, CH.SHOWING)
    ]
    spy = lambda *rest: trained.append(own(*rest)) or trained[-1]
    monkeypatch.setitem(CH.__dict__, "draw_waves", spy)
    list(CH.train_few(config, 1))
    assert len(trained) == config.iterations
    made.append(torch.cat([CH.pooled(tasks).x.flatten() for tasks in trained]))
    for one, other in itertools.combinations(made, 2):
        assert not torch.isin(one, other).any()


def test_digits_that_look_alike_when_turned_are_held_out_together():
    for split in range(CH.SPLITS):
        out = set(CH.held_out(split))
        assert len(out & {6, 9}) != 1 and len(out & {2, 5}) != 1
    # A training view hardly ever comes nearer to a held-out digit than such digits come to each other.
    images, labels = CH.small_digits()
    for split in range(CH.SPLITS):
        for digit in CH.held_out(split):
            own = images[labels == digit].flatten(1)
            between = torch.cdist(own, own).fill_diagonal_(torch.inf).min(1).values.quantile(0.9)
            for other, view in itertools.product(CH.known(split), (1, 2, 3)):
                turned = CH.seen_from(images[labels == other], view).flatten(1)
                near = (torch.cdist(turned, own).min(1).values < between).float().mean()
                assert near < 0.05, (digit, other, view)


def test_a_placed_digit_is_whole_and_can_stand_anywhere_in_its_frame():
    images = CH.small_digits()[0][:400].flatten(1) + 0.01  # no pixel is black
    found = CH.placed(images, 2, torch.Generator().manual_seed(0)).view(-1, 12, 12)
    corners = set()
    for image, own in zip(found, images.view(-1, 8, 8), strict=True):
        rows, columns = image.sum(1).nonzero()[:, 0], image.sum(0).nonzero()[:, 0]
        corners.add((int(rows[0]), int(columns[0])))
        assert torch.equal(image[rows[0] : rows[0] + 8, columns[0] : columns[0] + 8], own)
        assert len(rows) == len(columns) == 8
    assert corners == set(itertools.product(range(5), range(5)))
    assert CH.placed(images, 0) is images


def test_digits_of_every_use_stand_anywhere():
    config = CH.FewConfig(world="digits", room=2)
    for use in ("training", "known", "validating", "judging"):
        tasks = CH.draw_tasks(config, 30, use)
        for part in tasks:
            ink = part.x.view(-1, 12, 12).sum(0)
            assert (ink[0] > 0).any() and (ink[-1] > 0).any() and part.x.shape[-1] == 144
    x = CH.draw_joint(replace(config, method="joint")).x
    assert x.shape[-1] == 144 and (x.view(-1, 12, 12).sum(0)[[0, -1]] > 0).any()


def test_who_centres_sees_the_same_wherever_it_stands():
    images = CH.small_digits()[0][:40].flatten(1)
    y = torch.zeros(1, 40, dtype=torch.long)
    seen = []
    for seed in (0, 1):
        x = CH.placed(images, 2, torch.Generator().manual_seed(seed))[None]
        own = CH.Examples(x, y)
        seen.append(CH.centred(CH.Tasks(own, own)).support.x)
        assert not torch.equal(x, seen[-1])
        torch.testing.assert_close(seen[-1].sum(-1), x.sum(-1))
    torch.testing.assert_close(seen[0], seen[1])


# An output layer made of means


def test_means_as_output_layer_are_a_softmax_of_distances():
    """Without a step: a prototypical network, written with distances (Snell et al., 2017, equation 2)."""
    torch.manual_seed(3)
    config = CH.FewConfig(world="digits", head="means", steps=0, shots=2, queries=3, hidden=7)
    net = CH.few_net(config).double()
    tasks = CH.draw_tasks(config, 3, "training")
    tasks = CH.Tasks(*(CH.Examples(part.x.double(), part.y) for part in tasks))
    params = CH.copied(dict(net.named_parameters()))
    loss = 0.0
    for k in range(3):
        hidden = lambda x: torch.relu(x @ params["0.weight"].T + params["0.bias"])
        seen = lambda x: hidden(x) @ params["2.weight"].T + params["2.bias"]
        z = seen(tasks.support.x[k])
        means = torch.stack([z[tasks.support.y[k] == c].mean(0) for c in range(3)])
        away = ((seen(tasks.query.x[k])[:, None] - means) ** 2).sum(-1)
        found = torch.softmax(-away, -1)[torch.arange(9), tasks.query.y[k]]
        loss -= found.log().mean().item() / 3
    assert float(CH.loss_after(params, net, 1.0, tasks, 0, False, CH.means_each)) == pytest.approx(
        loss
    )


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_the_gradient_goes_through_the_means(steps):
    """Against finite differences on a loss with the means and the steps written out."""
    torch.manual_seed(4)
    config = CH.FewConfig(world="digits", head="means", shots=2, queries=3, hidden=7)
    net = CH.few_net(config).double()
    tasks = CH.draw_tasks(config, 2, "training")
    tasks = CH.Tasks(*(CH.Examples(part.x.double(), part.y) for part in tasks))
    params = CH.copied(dict(net.named_parameters()))
    args = (net, 0.1, tasks, steps, False, CH.means_each)
    slopes = torch.func.grad(CH.loss_after)(params, *args)
    assert not slopes["4.weight"].any() and not slopes["4.bias"].any()

    def after(params):
        seen = lambda p, x: torch.relu(x @ p["0.weight"].T + p["0.bias"]) @ p["2.weight"].T + p["2.bias"]  # fmt: skip
        loss = lambda p, x, y: torch.nn.functional.cross_entropy(
            seen(p, x) @ p["4.weight"].T + p["4.bias"], y
        )
        total = 0.0
        for k in range(2):
            z = seen(params, tasks.support.x[k])
            means = torch.stack([z[tasks.support.y[k] == c].mean(0) for c in range(3)])
            now = params | {"4.weight": 2 * means, "4.bias": -(means**2).sum(-1)}
            for _ in range(steps):
                leaves = {name: value.clone().requires_grad_() for name, value in now.items()}
                own = loss(leaves, tasks.support.x[k], tasks.support.y[k])
                found = torch.autograd.grad(own, list(leaves.values()))
                now = {n: v.detach() - 0.1 * g for (n, v), g in zip(leaves.items(), found, strict=True)}  # fmt: skip
            total += loss(now, tasks.query.x[k], tasks.query.y[k]).item() / 2
        return total

    assert after(params) == pytest.approx(float(CH.loss_after(params, *args)), rel=1e-9)
    for name in ("0.weight", "2.weight", "2.bias"):
        for at in {int(slopes[name].abs().argmax()), 0}:
            moved = []
            for sign in (1, -1):
                other = params[name].clone()
                other.view(-1)[at] += sign * 1e-6
                moved.append(after(params | {name: other}))
            slope = (moved[0] - moved[1]) / 2e-6
            assert slopes[name].view(-1)[at].item() == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_only_maml_on_digits_has_means():
    for wrong in (dict(world="sinusoids"), dict(world="digits", method="reptile")):
        with pytest.raises(ValueError, match="means"):
            CH.FewConfig(head="means", **wrong)


# Rules that learn nothing


def test_nearest_mean_against_a_loop():
    config = CH.FewConfig(world="digits")
    tasks = CH.draw_tasks(config, 5, "judging", torch.Generator().manual_seed(3))
    found = CH.nearest_mean(tasks)
    for k in range(5):
        means = [tasks.support.x[k][tasks.support.y[k] == c].mean(0) for c in range(3)]
        right = 0
        for image, label in zip(tasks.query.x[k], tasks.query.y[k], strict=True):
            away = [float(((image - mean) ** 2).sum()) for mean in means]
            right += away.index(min(away)) == int(label)
        assert found[k].item() == pytest.approx(right / len(tasks.query.x[k]))


def test_nearest_image_against_a_loop():
    tasks = CH.draw_tasks(CH.FewConfig(world="digits"), 4, "judging", torch.Generator().manual_seed(3))  # fmt: skip
    for k, found in enumerate(CH.nearest_image(tasks)):
        right = 0
        for image, label in zip(tasks.query.x[k], tasks.query.y[k], strict=True):
            away = [float(((image - other) ** 2).sum()) for other in tasks.support.x[k]]
            right += int(tasks.support.y[k][away.index(min(away))]) == int(label)
        assert found.item() == pytest.approx(right / len(tasks.query.x[k]))


def test_rules_for_curves():
    x = torch.tensor([[[-2.0], [0.0], [3.0]]])
    tasks = CH.Tasks(
        CH.Examples(x, 2 * torch.sin(x - 1)),
        CH.Examples(torch.tensor([[[1.2], [1.8]]]), torch.zeros(1, 2, 1)),
    )
    torch.testing.assert_close(CH.nearest_point(tasks), tasks.support.y[:, 1:])
    torch.testing.assert_close(
        CH.fitted_sine(tasks), 2 * torch.sin(tasks.query.x - 1), atol=1e-4, rtol=1e-4
    )


def test_a_smooth_curve_is_the_mean_of_a_normal_distribution_given_the_points():
    """Against the inverse of the joint precision matrix; and around the mean of all sines where no point is near."""
    tasks = CH.draw_waves(2, 4, 3, torch.Generator().manual_seed(1))
    far = tasks._replace(query=tasks.query._replace(x=tasks.query.x + 100))
    assert CH.smooth_curve(far, 1.5).abs().max() < 1e-6
    torch.testing.assert_close(CH.smooth_curve(far, 1.5, 0.5), -0.5 * 5.1 / math.pi * far.query.x.cos())  # fmt: skip
    for prior in (0.0, 1.0):
        found = CH.smooth_curve(tasks, 1.5, prior)
        for k in range(2):
            x = np.concatenate([tasks.support.x[k, :, 0], tasks.query.x[k, :, 0]]).astype(float)
            mean = -prior * 5.1 / np.pi * np.cos(x)
            noise = 1e-4 * np.diag([1.0] * 4 + [0.0] * 3)
            shared = np.exp(-((x[:, None] - x) ** 2) / (2 * 1.5**2)) + noise + 1e-9 * np.eye(7)
            precision = np.linalg.inv(shared)
            away = tasks.support.y[k, :, 0].double().numpy() - mean[:4]
            right = mean[4:] - np.linalg.solve(precision[4:, 4:], precision[4:, :4] @ away)
            np.testing.assert_allclose(found[k, :, 0], right, atol=5e-3)
    exact = CH.smooth_curve(tasks._replace(query=tasks.support), 1.0)
    torch.testing.assert_close(exact, tasks.support.y, atol=0.02, rtol=0.02)


def test_shifted_images_against_a_loop():
    config = CH.FewConfig(world="digits", room=1)
    tasks = CH.draw_tasks(config, 2, "judging", torch.Generator().manual_seed(3), queries=4)
    for k, found in enumerate(CH.shifted_image(tasks)):
        right = 0
        for image, label in zip(tasks.query.x[k].view(-1, 10, 10), tasks.query.y[k], strict=True):
            away = []
            for other in tasks.support.x[k].view(-1, 10, 10):
                moved = [torch.zeros(10, 10) for _ in range(9)]
                for new, (down, right_by) in zip(moved, itertools.product((-1, 0, 1), repeat=2), strict=True):  # fmt: skip
                    for i, j in itertools.product(range(10), repeat=2):
                        if 0 <= i + down < 10 and 0 <= j + right_by < 10:
                            new[i + down, j + right_by] = other[i, j]
                away.append(min(float(((image - new) ** 2).sum()) for new in moved))
            right += int(tasks.support.y[k][away.index(min(away))]) == int(label)
        assert found.item() == pytest.approx(right / 12)


# Training


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_changes_every_number(world, method):
    config = CH.FewConfig(world=world, method=method, steps=2, rate=0.05, **SMALL)
    torch.manual_seed(CH.spread((CH.TRAINING, 1), 1)[0])
    start = CH.copied(dict(CH.few_net(config).named_parameters()))
    *_, last = CH.train_few(config, 1)
    for name, value in last.state()["params"].items():
        assert not torch.equal(value, start[name]), name
        assert torch.isfinite(value).all()


def test_one_iteration_of_reptile_is_one_step_of_adam_towards_the_mean():
    config = CH.FewConfig(method="reptile", steps=2, rate=0.05, **(SMALL | dict(iterations=1)))
    (progress,) = CH.train_few(config, 4)
    torch.manual_seed(CH.spread((CH.TRAINING, 4), 1)[0])
    params = CH.copied(dict(CH.few_net(config).named_parameters()))
    batches = CH.cut(CH.pooled(CH.draw_tasks(config, 4, "training")), 2)
    ends = [
        tuned_by_hand(params, 0.05, [(batches.x[k, s], batches.y[k, s]) for s in range(2)])
        for k in range(4)
    ]
    for name, value in params.items():
        way = sum(end[name] for end in ends) / 4 - value
        # Adam's first step has the length of its rate in every direction that is not 0.
        hand = value + config.meta_rate * way / (way.abs() + 1e-8)
        torch.testing.assert_close(progress.state()["params"][name], hand, atol=3e-4, rtol=0)


def test_training_resumes_exactly(monkeypatch):
    config = CH.FewConfig(steps=2, **(SMALL | dict(iterations=201)))
    whole = list(CH.train_few(config, 3))
    assert [p.step for p in whole] == [100, 200, 201]
    first = next(iter(CH.train_few(config, 3))).state()
    torch.manual_seed(99)
    rest = list(CH.train_few(config, 3, state=first))
    for name, value in whole[-1].state()["params"].items():
        assert torch.equal(value, rest[-1].state()["params"][name])


def test_scores_by_step_against_a_loop():
    net, params, tasks = small_case("digits")
    found = CH.scores_by_step(net, params, 0.3, tasks, 2)
    for task in range(3):
        for step in range(3):
            support = (tasks.support.x[task], tasks.support.y[task])
            now = tuned_by_hand(params, 0.3, [support] * step)
            guesses = by_hand(now, tasks.query.x[task]).argmax(-1)
            right = (guesses == tasks.query.y[task]).double().mean().item()
            assert found[step, task].item() == pytest.approx(right)


@pytest.mark.parametrize("world", WORLDS)
def test_the_best_way_is_the_best_of_all_and_survives_divergence(world):
    net, params, tasks = small_case(world, tasks=6)
    params = {name: 3 * value for name, value in params.items()}
    rate, steps = CH.best_way(net, params, tasks, (1, 4))
    assert rate in CH.FEW_RATES and steps in (1, 4)
    sign = -1 if world == "sinusoids" else 1
    best = sign * CH.scores_by_step(net, params, rate, tasks, 4).mean(1)[steps]
    for other_rate, step in itertools.product(CH.FEW_RATES, (1, 4)):
        other = sign * CH.scores_by_step(net, params, other_rate, tasks, 4).mean(1)[step]
        assert not other > best


def test_a_new_head_knows_nothing_and_the_body_stays():
    config = CH.FewConfig(world="digits", method="joint")
    net = CH.few_net(config)
    params = CH.copied(dict(net.named_parameters()))
    assert params["4.weight"].shape == (24, config.hidden)
    fresh = CH.with_new_head(params)
    tasks = CH.draw_tasks(config, 2, "judging")
    found = torch.func.functional_call(net, fresh, (tasks.query.x,))
    assert found.shape == (2, 30, 3) and not found.any()
    assert fresh["0.weight"] is params["0.weight"]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("method", [*METHODS, "none"])
def test_every_measurement_once_small(world, method, monkeypatch):
    for name, value in (
        ("CHOOSING_TASKS", 3),
        ("JUDGED_TASKS", 3),
        ("MOST_STEPS", 2),
        ("FEW_RATES", (0.01, 0.1)),
    ):
        getattr(CH, name)
        monkeypatch.setitem(CH.__dict__, name, value)
    config = CH.FewConfig(world=world, method=method, steps=2, rate=0.05, **SMALL)
    found = CH.measure_few(config, 3)
    assert len(found.curves["best_by_step"]) == 3
    for who in ("one_step", "best", *(("seen_one_step", "seen_best") * (world == "digits"))):
        steps = found.metrics[f"{who.removeprefix('seen_')}_steps"]
        assert found.metrics[who] == found.curves[f"{who}_by_step"][int(steps)], who
    assert len(found.curves["loss"]) == (method != "none")
    if method == "none":
        torch.manual_seed(CH.spread((CH.TRAINING, 3), 1)[0])
        new = CH.few_net(replace(config, split=2 * (world == "digits")))
        for name, value in new.named_parameters():
            assert torch.equal(found.state["params"][name], value)
    assert ("seen_best" in found.metrics) == (world == "digits")
    assert ("features" in found.metrics) == (world == "digits" and method == "joint")
    assert found.metrics["one_step_steps"] == 1
    few_rules = CH.measure_few_rules(replace(config, method="maml"), 3).metrics
    if world == "digits":
        assert few_rules.keys() == {"shifted_image", "untrained", "centred_shifted_image", "centred_untrained"}  # fmt: skip
    else:
        assert {few_rules["smooth_length"], few_rules["smooth_around_mean_length"]} <= {*CH.LENGTHS}
    floors = CH.measure_few_floors(config, 3).metrics
    rules = {"nearest_mean", "nearest_image", "centred_nearest_mean", "centred_nearest_image"}
    assert floors.keys() == (rules if world == "digits" else set(CH.CURVE_RULES))


@pytest.mark.parametrize("steps", [0, 2])
def test_prototypes_are_measured_without_a_step_and_proto_maml_with(monkeypatch, steps):
    for name, value in (("CHOOSING_TASKS", 3), ("JUDGED_TASKS", 3), ("MOST_STEPS", 2), ("FEW_RATES", (0.01,))):  # fmt: skip
        getattr(CH, name)
        monkeypatch.setitem(CH.__dict__, name, value)
    config = CH.FewConfig(world="digits", head="means", room=1, **(SMALL | dict(iterations=1)), steps=steps)  # fmt: skip
    found = CH.measure_few(config, 2).metrics
    assert found["best_steps"] in range(3 if steps else 1)


@pytest.mark.parametrize("world", WORLDS)
def test_rates_steps_and_lengths_are_chosen_on_validation_tasks(world, monkeypatch):
    """Spies on who chooses: on tasks with the validation's random numbers, judged with others."""
    for name, value in (("CHOOSING_TASKS", 3), ("JUDGED_TASKS", 3), ("MOST_STEPS", 2)):
        getattr(CH, name)
        monkeypatch.setitem(CH.__dict__, name, value)
    config = CH.FewConfig(
        world=world, split=2 * (world == "digits"), **(SMALL | dict(iterations=1))
    )
    drawn = {}
    for use, name in (("validating", CH.VALIDATING), ("judging", CH.JUDGING)):
        drawn[use] = CH.draw_tasks(config, 3, use, CH.generator_of(name, 3), 20).query.x
    seen, _ = [], CH.best_way
    spy = lambda net, params, tasks, *rest: seen.append(tasks.query.x) or (0.01, 1)
    monkeypatch.setitem(CH.__dict__, "best_way", spy)
    CH.measure_few(config, 3)
    assert len(seen) == 2 and all(torch.equal(x, drawn["validating"]) for x in seen)
    if world == "sinusoids":
        asked, _ = [], CH.smooth_curve
        curve = lambda tasks, length, prior: asked.append(tasks.query.x) or tasks.query.y * length
        monkeypatch.setitem(CH.__dict__, "smooth_curve", curve)
        found = CH.measure_few_rules(config, 3).metrics
        assert found["smooth_length"] == 1.0 and found["smooth"] == 0  # the spy's best
        uses = ["validating" if torch.equal(x, drawn["validating"]) else "judging" for x in asked]
        assert uses == 2 * (len(CH.LENGTHS) * ["validating"] + ["judging"])
        assert all(torch.equal(x, drawn[use]) for x, use in zip(asked, uses, strict=True))


@pytest.mark.parametrize("world", WORLDS)
def test_each_score_is_made_on_the_tasks_that_it_names(world, monkeypatch):
    """Spies on the use that tasks are drawn for, and on the tasks that networks and rules are scored on."""
    for name, value in (("CHOOSING_TASKS", 3), ("JUDGED_TASKS", 3), ("MOST_STEPS", 1), ("FEW_RATES", (0.01,))):  # fmt: skip
        getattr(CH, name)
        monkeypatch.setitem(CH.__dict__, name, value)
    digits = world == "digits"
    config = CH.FewConfig(world=world, method="none", **SMALL)
    drawn, own = [], CH.draw_tasks

    def spy(config, count, use, *rest, **named):
        drawn.append((use, config.split, own(config, count, use, *rest, **named)))
        return drawn[-1][2]

    monkeypatch.setitem(CH.__dict__, "draw_tasks", spy)
    uses = lambda: [(use, split) for use, split, _ in drawn]
    split = 2 * digits  # of seed 3
    found = CH.measure_few(config, 3)
    assert uses() == [(use, split) for use in ("validating", "judging", *["known"] * digits)]
    net = CH.few_net(config)
    scores = lambda tasks: CH.scores_by_step(net, found.state["params"], 0.01, tasks, 1).mean(1)
    for prefix, (*_, tasks) in zip(("", "seen_"), drawn[1:], strict=False):
        assert found.curves[f"{prefix}best_by_step"] == scores(tasks).tolist()
    drawn.clear()
    floors = CH.measure_few_floors(config, 3).metrics
    assert uses() == [("judging", split)]
    if digits:
        assert floors["nearest_mean"] == CH.nearest_mean(drawn[0][2]).mean().item()
    drawn.clear()
    CH.measure_few_rules(config, 3)
    assert uses() == [(use, split) for use in ("judging", *["validating"] * (not digits))]


def test_reptile_needs_an_example_for_each_step():
    few = dict(method="reptile", shots=1, queries=2)
    assert CH.FewConfig(**few, steps=3).steps == 3
    assert CH.FewConfig(**few, steps=9, world="digits").steps == 9
    for wrong in (dict(steps=4), dict(steps=0), dict(steps=10, world="digits")):
        with pytest.raises(ValueError, match="Reptile has new examples in each step"):
            CH.FewConfig(**few, **wrong)
    assert CH.FewConfig(shots=1, queries=1, steps=20).steps == 20  # the others repeat theirs


def test_the_meta_rate_of_a_few_examples_falls_to_nothing(monkeypatch):
    rates, own = [], torch.optim.Adam.step
    spy = lambda self, *rest: rates.append(self.param_groups[0]["lr"]) or own(self, *rest)
    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    list(CH.train_few(CH.FewConfig(**(SMALL | dict(iterations=4)), meta_rate=0.02), 1))
    np.testing.assert_allclose(rates, [0.02, 0.015, 0.01, 0.005])


# The toy with two numbers


def test_toy_starts_against_descent():
    """Closed forms against plain gradient descent with finite differences on what each method minimises."""
    bowls, rate = CH.toy_bowls(), 0.3
    for method in ("joint", "maml"):
        start = CH.toy_start(bowls, method, rate)

        def loss(theta, method=method):
            total = 0.0
            for middle, slope in zip(*bowls, strict=True):
                now = theta - rate * slope @ (theta - middle) if method == "maml" else theta
                total += 0.5 * (now - middle) @ slope @ (now - middle)
            return total

        for axis in np.eye(2):
            assert loss(start + 1e-5 * axis) - loss(start - 1e-5 * axis) == pytest.approx(
                0, abs=1e-9
            )


def test_reptile_stands_still_at_its_toy_start():
    bowls, rate, steps = CH.toy_bowls(), 0.3, 3
    start = CH.toy_start(bowls, "reptile", rate, steps)
    ways = []
    for middle, slope in zip(*bowls, strict=True):
        now = start.copy()
        for _ in range(steps):
            now = now - rate * slope @ (now - middle)
        ways.append(now - start)
    np.testing.assert_allclose(np.sum(ways, 0), 0, atol=1e-9)
    one = CH.toy_start(bowls, "reptile", rate, 1)
    np.testing.assert_allclose(one, CH.toy_start(bowls, "joint", rate), atol=1e-9)


# Particles2D


def one_particle(actions, goal):
    """learn2learn's Particles2D-v1 with its time limit, one particle in plain Python: rewards and the position at each step."""
    position, rewards, seen = [0.0, 0.0], [], []
    for action in actions[:100]:
        seen.append(tuple(position))
        position = [p + min(0.1, max(-0.1, a)) for p, a in zip(position, action, strict=True)]
        x, y = position[0] - goal[0], position[1] - goal[1]
        rewards.append(-math.sqrt(x * x + y * y))
        if abs(x) < 0.01 and abs(y) < 0.01:
            break
    return rewards, seen


@pytest.mark.parametrize("std", [0.01, 0.2])
def test_play_agrees_with_one_particle_in_plain_python(std):
    torch.manual_seed(3)
    goals = torch.tensor([[0.0, 0.02], [0.3, -0.4], [0.012, 0.0]])
    batch = CH.play(CH.stacked(CH.fresh_params(std, 0.01), 3), goals, 5)
    ended = 0
    for task, episode in itertools.product(range(3), range(5)):
        rewards, seen = one_particle(batch.actions[task, :, episode].tolist(), goals[task].tolist())
        ended += len(rewards) < 100
        assert batch.alive[task, :, episode].sum() == len(rewards)
        np.testing.assert_allclose(batch.rewards[task, : len(rewards), episode], rewards, atol=1e-4)
        assert not batch.rewards[task, len(rewards) :, episode].any()
        np.testing.assert_allclose(batch.obs[task, : len(seen), episode], seen, atol=1e-4)
    assert 0 < ended < 15 or std > 0.1
    assert (batch.actions.abs().max() > 0.1) == (std > 0.1)
    assert not batch.actions.requires_grad and batch.obs.shape == (3, 100, 5, 2)


def test_each_task_plays_its_own_policy():
    params = CH.stacked(CH.fresh_params(1e-6, 0.0), 2)
    bias = torch.tensor([[0.1, 0.0], [0.0, -0.05]])
    batch = CH.play(params | {"4.bias": bias}, torch.full((2, 2), 40.0), 2)
    np.testing.assert_allclose(batch.obs[0, 10, 0], [1.0, 0.0], atol=1e-3)
    np.testing.assert_allclose(batch.obs[1, 10, 1], [0.0, -0.5], atol=1e-3)


def test_floor_of_standing_still_and_the_oracle():
    goals = CH.draw_goals(200_000, torch.Generator().manual_seed(0))
    assert goals.abs().max() <= 0.5
    assert pytest.approx(-100 * goals.norm(dim=1).mean().item(), abs=0.1) == CH.STANDING_STILL
    found = CH.goal_seen(torch.tensor([[0.25, 0.0], [0.5, -0.5]]))
    # rewards after each step: 0.15, 0.05, 0; and along the diagonal.
    np.testing.assert_allclose(found, [-0.2, -math.sqrt(2) * (0.4 + 0.3 + 0.2 + 0.1)], atol=1e-5)
    assert -0.6 < CH.goal_seen(goals[:2000]).mean() < -0.4


def test_mean_action_and_log_density():
    torch.manual_seed(0)
    params, obs, actions = CH.fresh_params(0.3), torch.randn(7, 2), torch.randn(7, 2)
    params["0.bias"] += 0.1
    weights = {name: value for name, value in params.items() if name != "log_std"}
    mean = torch.func.functional_call(CH.dense_net(2, 2, 100), weights, (obs,))
    torch.testing.assert_close(CH.mean_action(params, obs), mean)
    stack = {name: torch.stack([value, 2 * value]) for name, value in params.items()}
    both = CH.mean_action(stack, torch.stack([obs, obs]))
    torch.testing.assert_close(both[0], mean)
    other = torch.func.functional_call(
        CH.dense_net(2, 2, 100), {n: 2 * v for n, v in weights.items()}, (obs,)
    )
    torch.testing.assert_close(both[1], other)
    normal = torch.distributions.Normal(mean, params["log_std"].exp())
    found = CH.log_density(params, obs, actions) - math.log(2 * math.pi)
    torch.testing.assert_close(found, normal.log_prob(actions).sum(-1), atol=1e-3, rtol=1e-4)


def test_advantages_against_a_slow_loop():
    torch.manual_seed(5)
    goals = torch.tensor([[0.0, 0.015], [0.3, 0.1]])
    batch = CH.play(CH.stacked(CH.fresh_params(0.03, 0.1), 2), goals, 3)
    found = CH.advantages_of(batch, 0.9).view(2, 100, 3)
    for task in range(2):
        rows, targets, places = [], [], []
        for episode in range(3):
            lived = int(batch.alive[task, :, episode].sum())
            rewards = batch.rewards[task, :lived, episode].double().numpy()
            for t in range(lived):
                targets.append(sum(0.9**k * r for k, r in enumerate(rewards[t:])))
                x, y = batch.obs[task, t, episode].double().tolist()
                clock = t / 99
                rows.append([x, y, x * x, y * y, clock, clock**2, clock**3, 1.0])
                places.append((t, episode))
        rows, targets = np.array(rows), np.array(targets)
        scale = np.sqrt((rows**2).sum(0) / 300) + 1e-8
        scaled = np.vstack([rows / scale, math.sqrt(1e-4 * 300) * np.eye(8)])
        weights = np.linalg.lstsq(scaled, np.concatenate([targets, np.zeros(8)]), rcond=None)[0]
        left = targets - rows / scale @ weights
        left = (left - left.mean()) / left.std()
        for (t, episode), value in zip(places, left, strict=True):
            assert found[task, t, episode] == pytest.approx(value, abs=0.02)
    assert not found[batch.alive == 0].any()


def test_what_the_text_says_of_sigma():
    """What the world makes of a mean action, and what noise costs."""
    means = np.array([-0.01, 0.0, 0.125, 0.0105])
    assert CH.response(means, 1.0, 400_000)[2] == pytest.approx(0.01, abs=5e-4)
    assert CH.response(means, 0.05, 400_000)[3] == pytest.approx(0.01, abs=5e-4)
    lots = torch.Generator().manual_seed(3)
    goals, positions, total = CH.draw_goals(2_000, lots), torch.zeros(2_000, 2), torch.zeros(2_000)
    playing = torch.ones(2_000, dtype=torch.bool)
    for _ in range(100):  # a hundred times goal - s, with σ = 1
        actions = 100 * (goals - positions) + torch.randn(2_000, 2, generator=lots)
        positions, rewards, there = CH.move(positions, actions, goals)
        total, playing = total + rewards * playing, playing & ~there
    assert total.mean() == pytest.approx(-8, abs=0.7)
    noise = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    assert (noise.abs() > CH.REACH).float().mean() == pytest.approx(0.92, abs=0.005)
    goals, lots = CH.draw_goals(4_000, torch.Generator().manual_seed(1)), torch.Generator().manual_seed(2)  # fmt: skip
    for std, seen, blind in ((1.0, -30, -90), (0.05, -2, -55)):
        assert CH.goal_seen(goals, std, lots).mean() == pytest.approx(seen, abs=0.7)
        still = CH.stacked(CH.fresh_params(std, 0.0), 400)
        assert CH.returns_of(CH.play(still, goals[:400], 20, lots)).mean() == pytest.approx(blind, abs=3)  # fmt: skip


def test_what_the_text_says_of_the_length_of_a_step():
    """Scaled advantages make it the same for near and far goals; so does the distance, and not its square unscaled."""
    angles = torch.rand(3, 40, generator=torch.Generator().manual_seed(0)) * 2 * torch.pi
    ways = torch.stack([angles.cos(), angles.sin()], -1)
    goals = (torch.tensor([0.2, 0.4, 0.6])[:, None, None] * ways).flatten(0, 1)
    params = CH.stacked(CH.written_by_hand(0.6, 0.04), 120)
    batch = CH.play(params, goals, 20, torch.Generator().manual_seed(1))
    for squared, scaled, ratio in ((0, 1, 1.02), (1, 1, 1.02), (0, 0, 1.0), (1, 0, 3.0)):
        seen = batch._replace(rewards=-(batch.rewards**2)) if squared else batch
        told = CH.advantages_of(seen, 0.99)
        if not scaled:  # back to the returns' own scale
            clock = torch.linspace(0, 1, 100).view(1, 100, 1, 1).expand(120, 100, 20, 1)
            x = torch.cat([batch.obs, batch.obs**2, clock, clock**2, clock**3, clock**0], -1)
            x = (x * batch.alive[..., None]).flatten(1, 2).double()
            returns = CH.returns_to_go(seen.rewards, 0.99).flatten(1)[..., None].double()
            x = x / x.pow(2).mean(1, keepdim=True).sqrt()
            weights = torch.linalg.solve(x.mT @ x + 0.2 * torch.eye(8), x.mT @ returns)
            told = told * (returns - x @ weights).std(1)
        away = batch.actions + 0.6 * batch.obs
        pull = (away.flatten(1, 2) * told[..., None]).sum(1) / batch.alive.sum((1, 2))[:, None]
        length = (pull * ways.flatten(0, 1)).sum(1).view(3, 40).mean(1)
        assert length[2] / length[0] == pytest.approx(ratio, abs=0.15), (squared, scaled)


# The meta-gradient


def one_by_one(params, rates, batches, first_order=False):
    """Losses after each step, [S][K], task by task and with autograd on leaves; the policies differentiate back to params."""
    losses = [[] for _ in batches]
    for task in range(len(batches[0].obs)):
        now = params
        for step, batch in enumerate(batches):
            rows = CH.Rows(*(part[task] for part in batch))
            normal = torch.distributions.Normal(CH.mean_action(now, rows.obs), now["log_std"].exp())
            log_probs = normal.log_prob(rows.actions).sum(-1)
            loss = -(log_probs * rows.advantages)[rows.alive > 0].mean()
            losses[step].append(loss)
            slopes = torch.autograd.grad(loss, list(now.values()), create_graph=not first_order, retain_graph=True)  # fmt: skip
            now = {n: v - rates[n][min(step, 1)] * s for (n, v), s in zip(now.items(), slopes, strict=True)}  # fmt: skip
    return losses, now


def leaves(params):
    return {name: value.clone().requires_grad_() for name, value in params.items()}


def frozen(params, rates, batches, first_order=False):
    return CH.meta_loss(
        params, rates, 3, len(batches) - 1, lambda step, _: batches[step], first_order
    )


def test_adapting_a_stack_is_adapting_one_by_one():
    params, rates, batches = CH.frozen_case(1)
    before = batches[0]
    over = torch.rand(before.alive.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    before = before._replace(alive=before.alive.masked_fill(over, 0))
    stack = {name: torch.stack([value, 1.1 * value, 0.9 * value]) for name, value in params.items()}
    for step in range(4):
        own = CH.at_step(rates, step)
        for name, value in own.items():
            assert torch.equal(value, rates[name][min(step, 1)])
        for first_order in (True, False):
            losses, found = CH.adapt_each(stack, own, before, first_order)
            for task, factor in enumerate((1, 1.1, 0.9)):
                start = leaves({name: factor * value for name, value in params.items()})
                rows = CH.Rows(*(part[task : task + 1] for part in before))
                twice = {name: torch.stack([rate, rate]) for name, rate in own.items()}
                (loss,), now = one_by_one(start, twice, [rows])
                # Without the constant of the normal density, of which the advantages make a little.
                constant = (rows.advantages * (rows.alive > 0)).sum() / rows.alive.sum()
                right = loss[0].item() - math.log(2 * math.pi) * constant.item()
                assert losses[task].item() == pytest.approx(right, abs=1e-9)
                for name, value in now.items():
                    torch.testing.assert_close(
                        found[name][task], value.detach(), atol=1e-9, rtol=1e-7
                    )


@pytest.mark.parametrize("first_order", [False, True])
def test_the_policies_meta_gradient_is_that_of_a_loop(first_order):
    params, rates, batches = CH.frozen_case(1)
    own, of_rates = leaves(params), leaves(rates)
    losses, _ = one_by_one(own, of_rates, batches, first_order)
    assert len(losses) == 3 and not torch.equal(losses[1][0], losses[2][0])
    torch.stack([torch.stack(step).mean() for step in losses[1:]]).mean().backward()
    slopes, rate_slopes = torch.func.grad(frozen, argnums=(0, 1))(params, rates, batches, first_order)  # fmt: skip
    for name in params:
        torch.testing.assert_close(slopes[name], own[name].grad, atol=1e-9, rtol=1e-6)
        torch.testing.assert_close(rate_slopes[name], of_rates[name].grad, atol=1e-9, rtol=1e-6)


def test_the_policies_meta_gradient_agrees_with_finite_differences():
    params, rates, batches = CH.frozen_case(1)
    slopes, of_rates = torch.func.grad(frozen, argnums=(0, 1))(params, rates, batches)
    first = torch.func.grad(frozen)(params, rates, batches, True)
    rng, differs = np.random.default_rng(0), 0.0
    for name in params:
        for _ in range(2):
            place = tuple(int(rng.integers(size)) for size in params[name].shape)
            slope = CH.finite_difference(lambda p: frozen(p, rates, batches), params, name, place)
            assert slopes[name][place].item() == pytest.approx(slope, rel=1e-4, abs=1e-6)
            differs = max(differs, abs(first[name][place].item() - slope) / (abs(slope) + 1e-3))
            at = (int(rng.integers(2)), *place)
            slope = CH.finite_difference(lambda r: frozen(params, r, batches), rates, name, at)
            assert of_rates[name][at].item() == pytest.approx(slope, rel=1e-4, abs=1e-6)
    assert differs > 0.1  # the first order is another gradient


def enumerated(theta, rewards, size=4, rate=2.0):
    """The expected return after adapting, over all sequences of actions: plain Python."""
    p, total = 1 / (1 + math.exp(-theta)), 0.0
    for actions in itertools.product((0, 1), repeat=size):
        slope = sum(rewards[a] * (a - p) for a in actions) / size
        after = 1 / (1 + math.exp(-(theta + rate * slope)))
        chance = math.prod(p if a else 1 - p for a in actions)
        total += chance * (rewards[0] * (1 - after) + rewards[1] * after)
    return total


@pytest.mark.parametrize("rewards", [(0.0, 1.0), (1.0, -0.5), (2.0, 3.0)])
def test_the_two_parts_of_the_coin(rewards):
    for theta in (-3.0, -0.4, 1.5):
        exact, same, other = CH.coin_gradients(theta, rewards, rate=1.3)
        up, down = (enumerated(theta + step, rewards, rate=1.3) for step in (1e-5, -1e-5))
        assert exact == pytest.approx((up - down) / 2e-5, abs=1e-5)
        assert same + other == pytest.approx(exact, abs=1e-9)


def test_what_the_text_says_of_the_coin_and_the_valleys():
    exact, same, other = CH.coin_gradients(-0.7)
    assert 0.7 < same / exact < 0.8
    exact, same, other = CH.coin_gradients(-2.0, rate=20.0)
    assert 0.7 < other / exact < 0.8
    exact, same, other = CH.coin_gradients(0.8, rate=20.0)
    assert same < 0 < exact
    bowls = CH.toy_bowls()
    joint, maml = (CH.toy_start(bowls, name, 0.3) for name in ("joint", "maml"))
    reptile, alike = (CH.toy_start(bowls, "reptile", 0.3, steps) for steps in (3, 200))
    away = lambda start: np.linalg.norm(start - bowls.middles[0])
    assert away(joint) < away(reptile) < away(maml)
    np.testing.assert_allclose(alike, bowls.middles.mean(0), atol=0.01)


def test_what_the_plain_estimator_estimates():
    """Sampled batches, held fixed, and autograd through the step: on average the first part alone."""
    theta, rng = -1.0, np.random.default_rng(0)
    at, p = torch.tensor(theta, dtype=torch.float64, requires_grad=True), 1 / (1 + math.exp(-theta))
    actions = torch.from_numpy((rng.random((40_000, 4)) < p).astype(float))
    inner = (actions * (1 - torch.sigmoid(at))).mean(1)  # each batch's own slope of log π · r
    value = torch.sigmoid(at + 2.0 * inner).mean()
    (plain,) = torch.autograd.grad(value, at)
    exact, same, _ = CH.coin_gradients(theta)
    assert plain.item() == pytest.approx(same, abs=0.004)
    assert abs(exact - same) > 0.05


# Training


def test_meta_training_resumes_exactly():
    config = CH.MetaConfig(**META, check_every=1)
    whole = [p for p in CH.train_meta(config, 3)]
    torch.manual_seed(99)
    (start, *_) = [p.state() for p in itertools.islice(CH.train_meta(config, 3), 1)]
    rest = [p for p in CH.train_meta(config, 3, state=start)]
    assert [p.step for p in rest] == [2]
    final, again = whole[-1].state(), rest[-1].state()
    for part in ("params", "rates"):
        for name in final[part]:
            torch.testing.assert_close(final[part][name], again[part][name])
            torch.testing.assert_close(final["best"][part][name], again["best"][part][name])
    assert whole[-1].metrics["after"] == rest[-1].metrics["after"]


def test_looking_at_the_validation_tasks_does_not_disturb_the_training():
    often, never = (
        [p for p in CH.train_meta(CH.MetaConfig(**META, check_every=k), 3)][-1] for k in (1, 1000)
    )
    for name, value in often.state()["params"].items():
        torch.testing.assert_close(value, never.state()["params"][name])


def test_the_update_reaches_the_policy_and_its_rates():
    for learns in (True, False):
        learner = CH.MetaLearner(CH.MetaConfig(**META, learn_rates=learns))
        before = CH.kept(learner)
        told = learner.iteration()
        after = CH.kept(learner)
        assert told.keys() == {"before", "after", "after 2", "inner step"}
        for name in before["params"]:
            assert not torch.equal(before["params"][name], after["params"][name]), name
            assert before["rates"][name].shape == (2, *before["params"][name].shape)
            for step in range(2):
                same = torch.equal(before["rates"][name][step], after["rates"][name][step])
                assert learns != same, name


def test_an_iteration_plays_each_steps_own_policies(monkeypatch):
    """A spy on play: new tasks once, then the same ones with the policies that each step made of its own batch."""
    played, own = [], CH.play

    def spy(params, goals, episodes, generator=None):
        played.append((CH.copied(params), goals.clone(), own(params, goals, episodes, generator)))
        return played[-1][-1]

    monkeypatch.setitem(CH.__dict__, "play", spy)
    learner = CH.MetaLearner(CH.MetaConfig(**META))
    start, rates = CH.kept(learner)["params"], CH.kept(learner)["rates"]
    learner.iteration()
    assert len(played) == 3 and all(torch.equal(goals, played[0][1]) for _, goals, _ in played)
    now = CH.stacked(start, 3)
    for step, (policies, _, batch) in enumerate(played):
        for name in now:
            torch.testing.assert_close(policies[name], now[name], atol=1e-5, rtol=1e-4)
        rows = CH.rows_of(batch, 0.99)
        _, now = CH.adapt_each(now, {name: rate[min(step, 1)] for name, rate in rates.items()}, rows)  # fmt: skip


def test_the_meta_rate_falls_along_half_a_cosine(monkeypatch):
    parts, own = [], CH.MetaLearner.iteration
    spy = lambda learner, part: parts.append(part) or own(learner, part)
    monkeypatch.setattr(CH.MetaLearner, "iteration", spy)
    for falling in (True, False):
        list(CH.train_meta(CH.MetaConfig(**(META | dict(iterations=4)), falling=falling), 1))
    np.testing.assert_allclose(parts[:4], [1, 0.853553, 0.5, 0.146447], atol=1e-5)
    assert parts[4:] == [1, 1, 1, 1]


def test_the_best_learner_is_kept(monkeypatch):
    """Validated at -9 before training, then at -5 and at -7."""
    found, _ = iter((-9.0, -5.0, -7.0)), CH.validate
    monkeypatch.setitem(CH.__dict__, "validate", lambda *rest: next(found))
    first, last = CH.train_meta(CH.MetaConfig(**META, check_every=1), 1)
    best, wanted = last.state()["best"], first.metrics["best, validated"]
    assert best["return"] == wanted == -5 and best["step"] == 1
    moved = last.state()["params"]["4.bias"]
    assert not torch.equal(best["params"]["4.bias"], moved)


def test_scores_and_choices_have_tasks_and_numbers_of_their_own(monkeypatch):
    """A spy on judge: its goals and its generator; and what a choice makes of the scores before and after steps."""
    asked, _ = [], CH.judge

    def spy(params, rates, goals, steps, episodes, discount, generator=None):
        asked.append((goals, generator.initial_seed(), steps))
        return torch.tensor([-100.0, -4.0, -2.0, -1.0])[: steps + 1, None].expand(-1, len(goals))

    monkeypatch.setitem(CH.__dict__, "judge", spy)
    config = CH.MetaConfig(**META)
    assert CH.validate({}, {}, config, 5, "cpu") == -3
    chosen = CH.mean_returns({}, {}, 5, validating=True)
    scores = CH.mean_returns({}, {}, 5, prefix="last")
    assert chosen == {"after_0": -100, "after_1": -4, "after_2": -2, "after_3": -1}
    assert list(scores) == ["last_0", "last_1", "last_2", "last_3"]
    goals = CH.draw_goals(CH.CHOOSING, CH.generator_of(CH.VALIDATING, 5))
    for (seen, seed, steps), trained in zip(asked[:2], (2, 3), strict=True):
        assert torch.equal(seen, goals) and steps == trained
        assert seed == CH.generator_of(CH.VALIDATING, 5).initial_seed()
    assert torch.equal(asked[2][0], CH.spread_goals(10))
    assert asked[2][1] == CH.generator_of(CH.JUDGING, 5).initial_seed()


def test_judging_takes_each_steps_own_rates_and_episodes():
    """Against a loop over tasks with autograd, on the same random numbers."""
    torch.manual_seed(3)
    params, goals = CH.fresh_params(0.1, 0.3), CH.draw_goals(3)
    rates = {name: 0.02 * torch.rand(2, *value.shape) for name, value in params.items()}
    found = CH.judge(params, rates, goals, 3, 4, 0.9, torch.Generator().manual_seed(5))
    lots, each = torch.Generator().manual_seed(5), [leaves(params) for _ in goals]
    for step in range(4):
        now = {name: torch.stack([own[name].detach() for own in each]) for name in params}
        batch = CH.play(now, goals, 4, lots)
        wanted = torch.stack([reward.sum() / 4 for reward in batch.rewards])
        torch.testing.assert_close(found[step], wanted, atol=2e-3, rtol=1e-4)
        rows = CH.rows_of(batch, 0.9)
        for task, own in enumerate(each):
            loss = CH.surrogate(own, CH.Rows(*(part[task] for part in rows)))
            slopes = dict(zip(own, torch.autograd.grad(loss, list(own.values())), strict=True))
            each[task] = leaves(
                {n: v.detach() - rates[n][min(step, 1)] * slopes[n] for n, v in own.items()}
            )


def test_the_best_and_the_last_are_scored_and_a_second_step_at_parts(monkeypatch):
    """Trained for one step; a spy on the scores. The start stays the best, so that the last is another."""
    asked, _ = [], (CH.mean_returns, CH.validate)

    def spy(params, rates, seed, validating=False, prefix="after"):
        assert seed == 1 and not validating
        asked.append((params, rates))
        return {f"{prefix}_{step}": 10.0 * len(asked) + step for step in range(4)}

    monkeypatch.setitem(CH.__dict__, "mean_returns", spy)
    monkeypatch.setitem(CH.__dict__, "validate", lambda *rest: 0.0)
    config = CH.MetaConfig(**META, steps=1)
    found = CH.measure_meta(config, 1)
    *_, progress = CH.train_meta(config, 1)
    last = progress.state()
    best = last["best"]
    assert len(asked) == 5 and not torch.equal(best["params"]["4.bias"], last["params"]["4.bias"])
    for (params, rates), wanted in zip(asked, (best, last), strict=False):
        for name in params:
            assert torch.equal(params[name], wanted["params"][name])
            assert torch.equal(rates[name], wanted["rates"][name])
    assert found.metrics["after_2"] == 12 and found.metrics["last_2"] == 22
    for number, part in enumerate((1.0, 0.5, 0.25)):
        params, rates = asked[2 + number]
        assert found.metrics[f"second_{part:g}"] == 10 * (3 + number) + 2
        for name, (first, second) in rates.items():
            assert torch.equal(params[name], best["params"][name])
            assert torch.equal(first, best["rates"][name][0]) and torch.equal(second, part * first)


def test_the_length_of_an_inner_step_by_hand():
    params = CH.fresh_params(0.1, 0.3)
    bias = torch.tensor([[0.3, 0.4], [0.0, 0.0]])
    adapted = CH.stacked(params, 2) | {"4.bias": params["4.bias"] + bias}
    # Root of (0.09 + 0.16) / 4, in units of 0.1.
    assert CH.step_length(params, adapted) == pytest.approx(2.5)


def test_one_rate_for_all_but_the_deviation():
    params = CH.fresh_params(0.1)
    rates = CH.same_rate(params, 0.3, 0.1)
    for name, value in params.items():
        assert rates[name].shape == (2, *value.shape)
        for step, rate in enumerate((0.3, 0.1)):
            assert (rates[name][step] == (0 if name == "log_std" else np.float32(rate))).all()
    only = CH.same_rate(params, 0.3, only=("4.bias",))
    assert {name for name, rate in only.items() if rate.any()} == {"4.bias"}


def test_without_an_inner_step_the_rates_get_no_gradient():
    learner = CH.MetaLearner(CH.MetaConfig(**META, inner="none"))
    before = CH.kept(learner)
    learner.iteration()
    assert all(torch.equal(before["rates"][n], learner.rates[n]) for n in before["rates"])
    assert not torch.equal(before["params"]["4.bias"], learner.params["4.bias"])


def test_scores_and_validation_share_no_goals():
    made = [
        CH.draw_goals(5, CH.generator_of(use, 1)) for use in (CH.VALIDATING, CH.JUDGING, CH.SHOWING)
    ]
    for one, other in itertools.combinations(made, 2):
        assert not torch.isclose(one, other).any()


def test_five_steps_of_one_episode_tell_where_the_goal_is():
    goals, lots = CH.draw_goals(50, torch.Generator().manual_seed(1)), torch.Generator().manual_seed(2)  # fmt: skip
    batch = CH.play(CH.stacked(CH.fresh_params(0.05, 0.0), 50), goals, 2, lots)
    found = CH.fitted_goal(batch)
    enough = batch.alive[:, :5, 0].sum(1) > 3  # who is there before has no need of it
    torch.testing.assert_close(found[enough], goals[enough], atol=1e-4, rtol=0)
    assert enough.sum() > 45
    # From the rewards alone: the goal is where three circles meet.
    (x0, x1, x2), radii = batch.obs[0, 1:4, 0].double().numpy(), -batch.rewards[0, :3, 0].double().numpy()  # fmt: skip
    rows = 2 * np.stack([x1 - x0, x2 - x0])
    right = np.diff(np.array([x0 @ x0, x1 @ x1, x2 @ x2]) - radii**2)
    np.testing.assert_allclose(np.linalg.solve(rows, [right[0], right.sum()]), found[0], atol=1e-3)
    walked = CH.goal_seen(goals, aims=found)[enough]
    torch.testing.assert_close(walked, CH.goal_seen(goals)[enough], atol=0.02, rtol=0)
    still = CH.goal_seen(goals, aims=torch.zeros(50, 2))
    torch.testing.assert_close(still, -100 * goals.norm(dim=1), atol=1e-3, rtol=1e-4)


def test_an_episode_that_ends_early_tells_by_what_it_has():
    goals = torch.tensor([[0.02, 0.1]])
    params = CH.stacked(CH.fresh_params(0.02, 0.0), 1)
    params["4.bias"] = torch.tensor([[0.0, 0.05]])
    for seed in range(300):
        batch = CH.play(params, goals, 1, torch.Generator().manual_seed(seed))
        if 3 <= batch.alive[0, :5].sum() < 5:
            torch.testing.assert_close(CH.fitted_goal(batch), goals, atol=1e-3, rtol=0)
            return
    raise AssertionError("No episode ended early.")


def test_a_search_chooses_by_one_step_and_then_by_two(monkeypatch):
    """Scores that are known: the ninth setting after one step is left out, though it would be best after two."""
    asked, _ = [], CH.searched

    def scores(params, rates, seed, validating=False, prefix="after"):
        assert validating and seed == 7
        (gain,), (rate, second) = params["gain"].tolist(), rates["gain"].flatten().tolist()
        asked.append((gain, round(rate, 4), round(second / rate, 4)))
        return {"after_1": -gain, "after_2": 100 * (gain == 9) + gain - abs(second / rate - 0.5)}

    monkeypatch.setitem(CH.__dict__, "mean_returns", scores)
    make = lambda gain: {"gain": torch.tensor([gain])}
    settings = [(float(gain), 0.1) for gain in (9, 8, 7, 6, 5, 4, 3, 2, 1)]
    params, rates, chosen = CH.searched(make, settings, (1.0, 0.5), 7, ("gain",))
    assert len(asked) == 9 + 16 and {one[0] for one in asked[9:]} == set(range(1, 9))
    assert {one[2] for one in asked[9:]} == {1.0, 0.5} and chosen[1:] == (0.1, 0.5)
    assert params["gain"].item() == chosen[0]
    np.testing.assert_allclose(rates["gain"].flatten(), [0.1, 0.05])


def test_written_by_hand_is_a_linear_controller():
    params = CH.written_by_hand(0.3, 0.05)
    obs = torch.tensor([[0.2, -0.7], [-1.0, 0.0]])
    torch.testing.assert_close(CH.mean_action(params, obs), -0.3 * obs)
    moved = params | {"4.bias": torch.tensor([0.03, -0.06])}  # walks to (0.1, -0.2)
    torch.testing.assert_close(CH.mean_action(moved, obs), -0.3 * (obs - torch.tensor([0.1, -0.2])))
    assert params["log_std"].exp().tolist() == pytest.approx([0.05, 0.05])


def test_every_measurement_of_particles_once_small(monkeypatch):
    every = CH.spread_goals
    few = {"RATES": (0.01, 0.03), "CHOOSING": 2, "spread_goals": lambda side: every(2),
           "GAINS": (0.3,), "BIAS_RATES": (0.03,), "BIAS_PARTS": (1.0,), "SHORTER": (1.0, 0.5)}  # fmt: skip
    for name, value in few.items():
        getattr(CH, name)
        monkeypatch.setitem(CH.__dict__, name, value)
    found = CH.measure_meta(CH.MetaConfig(**META), 1)
    assert {f"{who}_{step}" for who in ("after", "last") for step in range(CH.STEPS + 1)} <= found.metrics.keys()  # fmt: skip
    assert len(found.curves["after"]) == 2 and 0 <= found.metrics["chosen_at"] <= 2
    joint = CH.measure_joint(CH.MetaConfig(**META, inner="none"), 1)
    assert joint.metrics["rate"] in (0.01, 0.03) and "after_0" in joint.metrics
    fixed = CH.measure_fixed(CH.MetaConfig(**META, learn_rates=False, rate=0.02), 1).metrics
    assert fixed["second"] in CH.SHORTER and fixed["shorter_1"] == fixed["after_1"]
    assert (fixed["shorter_2"] == fixed["after_2"]) == (fixed["second"] == 1)
    floors = CH.measure_meta_floors(None, 1).metrics
    assert {f"{who}_{step}" for who in ("new", "hand") for step in range(4)} <= floors.keys()
    assert floors["hand_gain"] == 0.3 and floors["hand_std"] in CH.STDS and floors["hand_rate"] == 0.03  # fmt: skip
    assert floors["new_std"] in (0.003, 0.01, 0.03) and floors["new_rate"] in (0.0001, 0.01, 0.03)
    assert floors["new_second"] in CH.SHORTER
    assert floors["fitted_goal"] == pytest.approx(floors["oracle"], abs=1e-3)
    # All four goals are 0.354 away: the best length is that, and nothing is lost.
    known = CH.measure_direction(None, 1).metrics
    assert known["length"] == pytest.approx(0.354, abs=0.03)
    assert -4 < known["direction"] < floors["oracle"]


def test_joint_takes_the_last_policy(monkeypatch):
    """Its checkpoints would be chosen after steps that it never takes."""
    seen, _ = [], CH.measure_joint
    spy = lambda make, *rest: seen.append(make()) or (make(), {}, (0.1, 0.5))
    monkeypatch.setitem(CH.__dict__, "searched", spy)
    monkeypatch.setitem(CH.__dict__, "validate", lambda *rest: 0.0)  # the start stays the best
    monkeypatch.setitem(CH.__dict__, "mean_returns", lambda *rest: {"after_0": 0.0})
    config = CH.MetaConfig(**META, inner="none", check_every=1)
    CH.measure_joint(config, 1)
    *_, last = CH.train_meta(config, 1)
    for name, value in last.state()["params"].items():
        assert torch.equal(value, seen[0][name])


def test_goals_of_scores_are_spread_evenly():
    goals = CH.spread_goals(4)
    assert goals.shape == (16, 2) and len({tuple(goal) for goal in goals.tolist()}) == 16
    np.testing.assert_allclose(goals.mean(0), 0, atol=1e-6)
    assert goals.max() == pytest.approx(0.375) and goals.min() == pytest.approx(-0.375)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_sines_are_learned_to_be_learned(seed):
    config = CH.FewConfig(iterations=2_000)
    *_, last = CH.train_few(config, seed)
    tasks = CH.draw_waves(400, 5, 20, CH.generator_of(CH.JUDGING, seed))
    net = CH.few_net(config)
    scores = CH.scores_by_step(net, last.state()["params"], config.rate, tasks, 1).mean(1)
    assert scores[1] < 2 < scores[0]  # the mean of all sines has 3.01


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_step_leads_to_goals_that_nobody_sees(seed):
    *_, last = CH.train_meta(CH.MetaConfig(iterations=50), seed)
    best = last.state()["best"]
    found = CH.mean_returns(best["params"], best["rates"], seed)
    assert found["after_0"] < -30 and found["after_1"] > -25 and found["after_2"] > -15


# What is measured, and the exercises


def solutions():
    """The solved exercises' definitions, taken from their folded cells."""
    text = (CHAPTERS / "ch07_meta_learning.py").read_text(encoding="utf8")
    scope = {"np": np, "math": math}
    for cell in re.split(r"\n# %%", text):
        if "Solution" in cell.splitlines()[0] and "check(" in cell:
            body = "\n".join(cell.splitlines()[1:])
            exec(body[: body.index("check(")], scope)
    return scope


def test_solutions_are_right_and_oracles_notice(capsys):
    found = solutions()
    names = {"R1.1": "recall", "R2.1": "reptile", "R2.2": "meta_slope", 
             "R4.1": "step", "R4.2": "noise"}  # fmt: skip
    for name, answer in names.items():
        check(name, found[answer])
        assert capsys.readouterr().out == f"{name}: right.\n"
    wrong = {
        "R1.1": [lambda x, k, v: np.exp(-((x - k) ** 2)) @ v, lambda x, k, v: v[abs(x - k).argmin()]],
        "R2.1": [lambda t, tuned, e: t - e * (tuned.mean(0) - t), lambda t, tuned, e: t + e * (tuned - t).sum(0)],
        "R2.2": [lambda t, m, h, r, f: found["meta_slope"](t, m, h, r, not f), lambda t, m, h, r, f: np.mean(h * (t - m))],
        "R4.1": [lambda m, s, r, a, d: m + r * np.mean(d * (a - m)), 
                 lambda m, s, r, a, d: 2 * m - found["step"](m, s, r, a, d)],
        "R4.2": [lambda std, count, rate: rate * std / count**0.5, lambda std, count, rate: rate / std],
    }  # fmt: skip
    for name, tried in wrong.items():
        for answer in tried:
            check(name, answer)
            assert capsys.readouterr().out.startswith(f"{name}: not yet. ")


def test_every_setting_of_the_measurements_is_its_own():
    names = [(m.row, m.name) for m in CH.MEASUREMENTS]
    assert len(set(names)) == len(names)
    settings = [(m.measure, m.config) for m in CH.MEASUREMENTS]
    assert all(settings.count(setting) == 1 for setting in settings)
    assert all(m.seeds == CH.FIVE for m in CH.MEASUREMENTS)
