"""What chapter 03 says about its stored runs."""

import numpy as np

from rlbook_utils.definitions import load_chapter
from rlbook_utils.results import curves, metric, runs

CHAPTER = load_chapter("ch03_curiosity")
REPORT = 50  # steps of a walker between two points of a curve


HALF = 40  # points of the first half
GUESS, CELLS_ALONE = CHAPTER.LINES["a guess"], CHAPTER.LINES["cells"]  # of the inverse loss


def _curve(name: str, curve: str) -> np.ndarray:
    """A curve of the room: [5, 80]."""
    found = curves("C2", name, curve)
    assert found.shape == (5, 2 * HALF)
    return found


def _at(name: str, curve: str, step: int) -> np.ndarray:
    """A curve of the room after so many steps: [5]."""
    return _curve(name, curve)[:, step // REPORT - 1]


def _room(name: str, what: str) -> np.ndarray:
    """A number of the room over the second half, for its five seeds."""
    found = metric("C2", name, what)
    assert len(found) == 5
    return found


def _relative(name: str) -> np.ndarray:
    """The error on every move, in units of the features' variance: [5, 80]."""
    return _curve(name, "everywhere") / _curve(name, "variance")


def _share_of_noise(name: str) -> np.ndarray:
    """Of the features' variance: [5, 80]."""
    return _curve(name, "noise") / _curve(name, "variance")


def _inverse_model_works(name: str) -> None:
    """Its loss on every move is far below a guess, and the features of different cells differ: no credit without."""
    assert (_room(name, "inverse") < 0.3 * GUESS).all() and (_room(name, "variance") > 0.6).all()


# Two games


def two_games() -> list[float]:
    """DQN above random play in boxing, on every seed; in Montezuma's Revenge nothing but two keys, met late."""
    floor = np.array([run["baselines"]["boxing_return"] for run in runs("C1", "boxing")])
    scores = metric("C1", "boxing", "boxing_return")
    assert len(scores) == 5 and scores.min() > floor.max() and (scores > floor + 10).all()
    points = curves("C1", "boxing", "points")
    late = np.stack([np.convolve(row, np.full(10, 0.1), "valid") for row in points])[:, -10:]
    assert (late > 1000 * floor.max() / CHAPTER.BOUT).all()
    points = curves("C1", "montezuma", "points")
    _, reports = points.nonzero()
    assert sorted(np.count_nonzero(points, axis=1)) == [0, 0, 0, 1, 1] and not points[0].any()
    assert (points[points > 0] == 100 / CHAPTER.PER_REPORT).all()  # a single key
    for report in reports:  # from its first step on, epsilon is at its end
        config = CHAPTER.SparseConfig()
        before = int(1000 * CHAPTER.PER_REPORT * report)
        assert CHAPTER.FOUNDATIONS.epsilon_at(config, before) == config.final_epsilon == 1 / 20
    assert not metric("C1", "montezuma", "montezuma_return").any()
    assert not any(run["baselines"]["montezuma_return"] for run in runs("C1", "montezuma"))
    return [scores.min(), scores.max(), floor.min(), floor.max()]


def posts() -> None:
    """How far the lives of random play come."""
    lives, *came = np.sum([run["curves"]["posts"] for run in runs("C1", "montezuma")], axis=0)
    ledge, _, floor, far, key = np.array(came) / lives
    assert 5.3 < 1 / ledge < 6.7 and 17 < 1 / floor < 23 and far == key == 0
    assert np.count_nonzero(curves("C1", "montezuma", "points")) == 2  # the DQNs' keys
    assert all(run["config"]["steps"] == 32_000 for run in runs("C1", "montezuma"))  # of either


def sizes_of_values() -> None:
    """Where they end, against their peak; with a key and without."""
    boxing = curves("C1", "boxing", "value")
    assert (boxing[:, -10:] > 0.5 * boxing.max(1, keepdims=True)).all()
    ends = {True: [], False: []}  # by whether a key was met
    for run in runs("C1", "montezuma"):
        value, met = np.array(run["curves"]["value"]), any(run["curves"]["points"])
        ends[met].append(value[-1])
        assert met or value.max() > 10 * value[-1]
    assert len(ends[True]) == 2 and min(ends[True]) > 3 * max(ends[False])


# The first television


def the_naive_stay() -> list[float]:
    """Nearly all of them after 500 steps, and how much of the second half."""
    assert (_at("room_pixels", "share_at_tv", 500) > 0.95).all()
    assert (_curve("room_pixels", "share_at_tv")[:, 9:] > 0.9).all()
    paid = _curve("room_pixels", "surprise")[:, HALF:]  # no progress
    assert (abs(paid / paid.mean() - 1) < 0.05).all()
    return [100 * _room("room_pixels", "share_at_tv").mean()]


def icm_leaves() -> list[float]:
    """Drawn at first, on every seed; beside the sofa then; in the second half there as often as anywhere."""
    _inverse_model_works("room_ICM")
    share, near = _curve("room_ICM", "share_at_tv"), _curve("room_ICM", "near_tv")
    first = share[:, :5].max(1)
    assert (share[:, 4] < 1 / 80 + 1e-9).all()
    late = 100 * _room("room_ICM", "share_at_tv")
    assert late.mean() < 100 / 49 and late.max() < 3.2
    walk, beside = (_curve("room_ICM_random_walk", what)[:, :5] for what in ("share_at_tv", "near_tv"))  # fmt: skip
    assert walk.max() < first.min() and beside[:, 4].max() < near[:, 4].min()
    at_250 = [near[:, 4].min(), near[:, 4].max(), beside[:, 4].min(), beside[:, 4].max()]
    return [*(100 * np.array([first.min(), first.max(), walk.max(), *at_250])), late.mean()]


def noise_is_left_out() -> list[float]:
    """The largest share of noise in ICM's features, in percent."""
    _inverse_model_works("room_ICM")
    most = (100 * _room("room_ICM", "noise") / _room("room_ICM", "variance")).max()
    assert most < 1.05
    return [most]


def losses_in_the_room() -> list[float]:
    """The forward model's errors, with walkers that choose or not, with a memory or without."""
    names = [f"room_ICM{walk}{learns}" for learns in ("", "_last_step") for walk in ("", "_random_walk")]  # fmt: skip
    for name in names:
        surprise = _curve(name, "surprise")
        assert (surprise[:, 1:12].max(1) > 1.5 * surprise[:, 0]).all()
        assert (surprise[:, -5:].mean(1) < 0.25 * surprise.max(1)).all()
    random, forgetful, last = (_room(name, "surprise") for name in names[1:])
    assert forgetful.min() > last.max()
    late, early = ([_curve(name, "surprise")[:, part].mean(1) for name in names[:2]]
                   for part in (slice(20, None), slice(4, 20)))  # fmt: skip
    assert 1.9 < early[0].mean() / early[1].mean() < 2.1 and early[0].min() > early[1].max()
    assert 1.3 < late[0].mean() / late[1].mean() < 1.4
    grows = [_relative(name)[:, 1:].max(1) / _relative(name)[:, 0] for name in names]
    assert (grows[2] > 1.6).all() and all((grows[i] < 0.9).all() for i in (0, 1, 3))
    there, by_chance, left, beside = (_relative(name)[:, HALF:].mean(1) for name in names)
    assert abs(there.mean() / by_chance.mean() - 1) < 0.1  # as good
    assert left.mean() > 2 * beside.mean() and left.min() > 1.5 * beside.max()
    assert abs(last.mean() / random.mean() - 1) < 0.1  # a memory changes nothing
    again = [(e / np.minimum.accumulate(e, 1)).max(1) for e in (_relative(name)[:, 10:] for name in names)]  # fmt: skip
    assert (again[2] > 2).all() and all((again[i] < 1.6).all() for i in (0, 1, 3))
    means = [part.mean() for part in (*early, *late)]
    return [*means, forgetful.mean(), last.mean()]


def losses_in_short() -> None:
    """The same, in the summary."""
    losses_in_the_room()


def who_stares() -> None:
    """Pixels from the start, random features and RND later, ICM not; all for as many steps."""
    for name in ("random_features", "RND"):
        share = _curve(f"room_{name}", "share_at_tv")
        assert (share[:, :10].max(1) < 0.12).all() and (share[:, :40].max(1) > 0.5).all()
        assert (_room(f"room_{name}", "share_at_tv") > 0.85).all()
    _inverse_model_works("room_ICM")
    assert (_room("room_ICM", "share_at_tv") < 0.04).all()
    back = _curve("room_ICM", "share_at_tv")[:, 10:] > 0.2
    assert [np.count_nonzero(np.diff(row.astype(int)) > 0) for row in back].count(1) == 2
    assert back.any(1).sum() == 2


def cells_in_use() -> list[float]:
    """Of a random walk and of ICM's walkers."""
    walk, icm = (_room(name, "cells") for name in ("room_ICM_random_walk", "room_ICM"))
    assert icm.max() < walk.min()
    return [walk.mean(), icm.mean()]


# The second television

KINDS = ("pixels", "random_features", "RND", "ICM")


def who_presses() -> list[float]:
    """No one where it does nothing; all but RND with a remote control."""
    noise = {kind: 100 * _room(f"noise_{kind}", "presses") for kind in KINDS}
    chance = np.concatenate([noise["random_features"], noise["RND"]])
    assert (abs(chance / 100 - 1 / 6) < 0.03).all()
    for kind in ("pixels", "ICM"):
        assert noise[kind].mean() < 0.6 * 100 / 6 and noise[kind].max() < chance.min()
    worth = _room("noise_ICM", "step_pays") / _room("noise_ICM", "press_pays")
    assert (_room("noise_pixels", "step_pays") > _room("noise_pixels", "press_pays")).all()
    used = _room("noise_random_features", "cells")
    assert all(_room(f"noise_{kind}", "cells").min() > 30 for kind in ("pixels", "RND", "ICM"))
    first = {}
    for kind in ("pixels", "ICM", "random_features"):
        often = _curve(f"remote_{kind}", "presses") > 0.5
        assert often.any(1).all()
        first[kind] = REPORT * (1 + often.argmax(1).max())
    assert first["pixels"] <= 250 and first["ICM"] <= 600 < first["random_features"] <= 1500
    assert _room("remote_RND", "presses").max() < 1 / 6
    habits = [100 * _room(f"remote_{kind}", "presses").mean() for kind in first]
    quiet = [chance.min(), chance.max(), noise["pixels"].mean(), noise["ICM"].mean()]
    return [*quiet, worth.min(), worth.max(), used.min(), used.max(), *habits]


def why_not_rnd() -> list[float]:
    """What a press is worth, in steps, where the picture stays."""
    worth = {
        kind: _room(f"remote_{kind}", "press_pays") / _room(f"remote_{kind}", "step_pays")
        for kind in KINDS
    }
    assert (abs(worth.pop("RND") - 1) < 0.1).all()
    return [min(x.min() for x in worth.values()), max(x.max() for x in worth.values())]


def who_sees_the_cells() -> list[float]:
    """The lowest inverse losses."""
    assert list(CHAPTER.LINES) == ["a guess", "cells", "and button"]
    return list(CHAPTER.LINES.values())


def the_screen_passes() -> list[float]:
    """ICM's inverse loss and the noise in its features: before noise, before a remote control."""
    for name in ("room_ICM", "noise_ICM", "remote_ICM"):
        _inverse_model_works(name)
    still = np.concatenate([_room(f"{room}_ICM", "inverse") for room in ("room", "noise")])
    assert still.min() > CELLS_ALONE and still.max() < CELLS_ALONE + 0.05
    for room in ("room", "noise"):
        assert (abs(_room(f"{room}_ICM", "told") - 0.5) < 0.01).all()
    below = _curve("remote_ICM", "inverse") < CELLS_ALONE
    assert REPORT * (1 + below.argmax(1).max()) == 1150 and below[:, HALF:].all()
    share = {}
    for room in ("room", "noise", "remote"):
        noise, everything = (_room(f"{room}_ICM", what) for what in ("noise", "variance"))
        share[room] = 100 * noise / everything
    alone = np.concatenate([share["room"], share["noise"]])
    told, remote = 100 * _room("remote_ICM", "told").mean(), share["remote"]
    losses = [still.mean(), _room("remote_ICM", "inverse").mean()]
    return [*losses, told, alone.min(), alone.max(), remote.min(), remote.max()]


def how_the_habit_begins() -> list[float]:
    """The noise in the features when pressing begins, and later, with and without a remote control."""
    often = _curve("remote_ICM", "presses") > 0.5
    first, seeds = often.argmax(1), np.arange(5)  # [5]
    assert REPORT * (1 + first.min()) == 400 and REPORT * (1 + first.max()) == 600
    told = _curve("remote_ICM", "told")[seeds, first]
    slow, knows = (_curve("remote_ICM_last_step_slow", what) for what in ("presses", "told"))
    three = np.array([0, 2, 3])
    presses, tells = (slow > 0.5)[three].argmax(1), (knows > 0.75)[three].argmax(1)
    assert (np.abs(knows[three, presses] - 0.5) < 0.01).all()
    later = REPORT * (tells - presses)
    assert later.min() == 800 and later.max() == 900
    assert (_room("noise_ICM", "presses") < 1 / 6).all()
    assert (_curve("noise_ICM", "presses") < 0.4).all()
    stirred, still = _share_of_noise("remote_ICM"), _share_of_noise("noise_ICM")
    assert (_at("noise_ICM", "noise", 200) > 0.6 * _at("noise_ICM", "variance", 200)).all()
    at_first = [part[seeds, first] for part in (stirred, still)]
    assert (at_first[0] > at_first[1]).all() and still[:, -1].max() < still[:, 19].min()
    ends = [x for part in at_first for x in (part.min(), part.max())]
    shares = [100 * x for x in (told.min(), told.max(), *ends, still[:, -1].max(), stirred[:, 19:].min())]  # fmt: skip
    return [*shares, *(REPORT * (presses + 1))]


def who_has_not_learned() -> list[float]:
    """From the last step only, four of five tell a press as a coin does, and do not press."""
    name = "remote_ICM_last_step"
    share = (_room(name, "noise") / _room(name, "variance"))[1:]
    assert (_room(name, "told")[1:] < 0.52).all()
    return [100 * share.max(), 100 * _room(name, "presses")[1:].max()]


def who_can_tell() -> list[float]:
    """Of ten forgetful crowds those press whose model can tell a press; the loss does not say so."""
    names = ("remote_ICM_last_step", "remote_ICM_last_step_slow")
    told, presses, inverse = (
        np.stack([_room(name, what) for name in names]) for what in ("told", "presses", "inverse")
    )
    assert (_room("remote_ICM", "presses") > 0.85).all() and (_room("remote_ICM", "told") > 0.99).all()  # fmt: skip
    give_in = np.array([0, 2, 3])
    others = np.delete(presses[1], give_in)
    assert presses[1, give_in].min() > 0.83 and others.max() < 0.3
    button = 5 / 6 * np.log(5)
    assert inverse[1, give_in].max() > button
    together = np.corrcoef(told.ravel(), presses.ravel())[0, 1]
    shares = (told[0, 0], presses[0, 0], told[1, give_in].mean(), presses[1, give_in].min(), presses[1].max())  # fmt: skip
    loss = inverse[1, give_in]
    return [together, *(100 * x for x in shares), loss.min(), loss.max(), button, GUESS]


def without_a_memory() -> list[float]:
    """The inverse loss in the first room, which learns, and before the remote control, which does not."""
    first = _room("room_ICM_last_step", "inverse")
    assert first.max() < _room("remote_ICM_last_step", "inverse").min()
    return [first.min(), first.max()]


def summary() -> list[float]:
    """How often ICM's walkers press, in the second half, where its inverse model works."""
    _inverse_model_works("remote_ICM")
    return [100 * _room("remote_ICM", "presses").mean()]


# Computed on the spot


def power() -> list[float]:
    """Empowerment of the maze: extremes for four actions, and what is open."""
    whole, _ = CHAPTER.empowerment(0.0, 4)
    reach = 2 ** np.array([whole.min(), whole.max()])
    np.testing.assert_allclose(reach, [5, 36], rtol=1e-2)
    door, corner = ([*map(tuple, CHAPTER.FREE)].index(cell) for cell in ((3, 6), (0, 0)))
    one, four = CHAPTER.empowerment(0.0, 1)[0], whole
    assert abs(one[door] - one[corner]) < 1e-3 and four[door] > four[corner] + 0.5
    slippery = [CHAPTER.empowerment(0.3, n) for n in (1, 2, 3)]
    tops = [found.max().item() for found, _ in slippery]
    assert np.diff(tops)[0] > np.diff(tops)[1] > 0
    assert [still_open > 1e-3 for _, still_open in slippery] == [False, True, True]
    return [whole.min().item(), whole.max().item()]


def arrows() -> list[float]:
    """Where they lead, and where there are none."""
    whole, _ = CHAPTER.empowerment(0.0, 4)
    leads = CHAPTER.world_table(0.0).argmax(-1).T  # [C, 5]
    cells, ends = [*map(tuple, CHAPTER.FREE.tolist())], []
    for cell in range(len(whole)):
        while (gain := whole[leads[cell]] - whole[cell]).max() > 0.01:
            cell = int(leads[cell, gain.argmax()])
        ends.append(cells[cell])
    flat = {(row, column) for row in (0, 6) for column in (9, 10, 11)}
    assert set(ends) == flat | {(3, 3)} and cells[whole.argmax()] == (3, 3)
    deep = [(row, column) for row in (2, 4) for column in (9, 10, 11)]
    assert all(ends[cells.index(cell)] in flat for cell in deep)
    return [ends.count((3, 3)), len(ends)]


def the_encoder_that_makes_life_easy() -> None:
    """The ways to train on the forward loss."""
    train = CHAPTER.forward_trained
    for seed in range(3):
        light, published = train(beta=0.2, seed=seed)[1], train(beta=0.8, updates=600, seed=seed)[1]
        assert light[-1] > 3 * light[0]
        assert published[299] < 0.1 * published[0] and published[-1] > 3 * published[0]
        long = {"updates": 300 if seed else 600, "seed": seed}
        opened, heavy = (np.array(train(beta=beta, **long)) for beta in (1.0, 36 / 37))
        assert opened[1][299] < 0.1 * opened[1][0] and heavy[1][-1] < 0.1 * heavy[1][0]
        assert (abs(opened[:, 50:] / heavy[:, 50:] - 1) < 0.2).all()
        if not seed:
            kept = train(True)
            assert opened[0][299] < kept[0][-1] / 5 and kept[1][-1] == kept[1][0]
