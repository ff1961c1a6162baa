"""What chapter 07c says about its stored models and agents."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import shortest_path

from rlbook_utils import results
from rlbook_utils.definitions import load_chapter

CHAPTER = load_chapter("ch07c_imagination")
MODES = list(CHAPTER.MAZES.MODES)


def _model(mode: str, name: str) -> np.ndarray:
    """Of the stored models of a mode, by seed."""
    return results.metric("R8", mode, name)


def _agent(name: str, what: str = "returns", row: str = "R9") -> np.ndarray:
    """Of the last network, by seed."""
    return results.metric(row, name, what)


def _foreseen(mode: str, reward: str) -> tuple[float, float]:
    """Share foreseen of a reward, all seeds together, and how often it came."""
    runs = [run["metrics"] for run in results.runs("R8", mode)]
    counts = np.array([run.get(f"count_{reward}", 0) for run in runs])
    shares = np.array([run.get(f"reward_{reward}", 0) for run in runs])
    return float((counts * shares).sum() / counts.sum()), float(counts.sum())


def _after(curve: str, row: str, name: str, steps: float) -> np.ndarray:
    """A curve's values, by seed, at its last report up to so many steps."""
    at = (results.curves(row, name, "steps")[0] <= steps).nonzero()[0][-1]
    return results.curves(row, name, curve)[:, at]


# The model


def _chasers(frames: np.ndarray) -> np.ndarray:
    """The even rule, but for a dangerous ghost's ways nearer to Pacman, which count four times: [M, 15, 19]."""
    mazes, cells = CHAPTER.MAZES, np.arange(CHAPTER.MAZES.CELLS)
    ways = mazes.NEXT[:, 1:]
    steps = (np.ones(ways.size), (np.repeat(cells, 4), ways.ravel()))
    far = shortest_path(csr_matrix(steps, shape=(len(cells), len(cells))), unweighted=True)
    flat, found = frames.reshape(-1, len(cells)), np.zeros((len(frames), len(cells)))
    pacman = (flat == mazes.PACMAN).argmax(1)
    for kind, moves, times in ((mazes.GHOST, 0.5, 4.0), (mazes.EDIBLE, 0.25, 1.0)):
        rows, at = np.nonzero(flat == kind)
        nearer = far[ways[at], pacman[rows, None]] < far[at, pacman[rows]][:, None]
        weights = np.where(nearer, times, 1.0) * (ways[at] != at[:, None])
        np.add.at(found, (rows, at), 1 - moves)
        for way in range(4):
            np.add.at(found, (rows, ways[at, way]), moves * weights[:, way] / weights.sum(1))
    return np.minimum(found, 1).reshape(frames.shape)


def _nats(rule: Callable, test: NamedTuple) -> float:
    """A rule's negative log-likelihood of a frame's ghosts."""
    known, kinds = ~test.fresh, torch.tensor([CHAPTER.MAZES.GHOST, CHAPTER.MAZES.EDIBLE])
    came, told = torch.isin(test.after[known], kinds), torch.from_numpy(rule(test.frames[known].numpy()))  # fmt: skip
    return -torch.where(came, told, 1 - told).clamp(1e-4, 1).log().sum((1, 2)).mean().item()


def ghosts() -> list[float]:
    """No better than the rule that does not know where ghosts are headed; too sure where it is sure; what is lost."""
    exams = [CHAPTER.exam("regular", seed + 1_000) for seed in (1, 2, 3, 4, 5)]
    even = [_nats(CHAPTER.even_ghosts, test) for test in exams]
    np.testing.assert_allclose(even, _model("regular", "nats_even"), rtol=1e-6)
    chasers = np.mean([_nats(_chasers, test) for test in exams])
    assert chasers < np.mean(even) - 0.1
    model, rule = (np.concatenate([_model(mode, n) for mode in MODES]) for n in ("nats", "nats_even"))  # fmt: skip
    assert np.abs(model - rule).max() < 0.1 and model.mean() > rule.mean() - 0.02
    said, came = (np.concatenate([_model(mode, f"{n}_9") for mode in MODES]) for n in ("said", "happened"))  # fmt: skip
    assert len(said) == 25 and (said > came).sum() == 23
    for n in range(5, 9):
        said, came = (np.concatenate([_model(mode, f"{w}_{n}") for mode in MODES]) for w in ("said", "happened"))  # fmt: skip
        assert (said > came).all()
    return [_model("regular", "nats").mean(), _model("regular", "nats_even").mean(), 100 * _model("regular", "said_9").mean(),
            100 * _model("regular", "happened_9").mean(), chasers]  # fmt: skip


def ghosts_lost() -> list[float]:
    """The likeliest picture's ghosts, in the regular mode."""
    return [100 * _model("regular", name).mean() for name in ("lost", "doubled")]


def five_games() -> list[float]:
    """Changed cells, rewards and Pacman in every mode; what is the most that can be foreseen of rewards."""
    for mode in MODES:
        assert _model(mode, "changed").min() >= 0.985 and _model(mode, "rewards").mean() >= 0.985
    least = min(_model(mode, "changed").mean() for mode in MODES)
    ahead = [_model(mode, "pacman_5").mean() for mode in MODES]
    copies = [_model(mode, "pacman_copy_5").mean() for mode in MODES]
    rewards = [_model("regular", "rewards").mean(), _model("regular", "rewards_common").mean()]
    assert (_model("regular", "rewards_possible") == 1).all()
    errors = np.array([sum(count * (1 - r[f"reward_{k[6:]}"]) for k, count in r.items() if k.startswith("count_"))
                       for r in (run["metrics"] for run in results.runs("R8", "hunt"))])  # fmt: skip
    share, count = _foreseen("hunt", "-20")
    missed = count * (1 - share)
    assert 0.4 < missed / errors.sum() < 0.5
    hunted = [_model("hunt", n).mean() for n in ("rewards", "rewards_common", "rewards_possible")]
    seconds = np.concatenate([_model(mode, "seconds") for mode in MODES])
    return [100 * least, 100 * min(ahead), 100 * max(copies), *(100 * x for x in (*rewards, *hunted)),
            100 * _foreseen("hunt", "-20")[0], *_rounded(seconds)]  # fmt: skip


def _rounded(values: np.ndarray) -> list[float]:
    return [float(values.min()), float(values.max())]


def planners() -> list[float]:
    """The planners in both games."""
    found = [
        _agent(f"{mode}_planners", who).mean()
        for mode in ("regular", "hunt")
        for who in ("planner", "careful_planner")
    ]
    length = _agent("hunt_planners", "planner_length")
    return [*found, length.mean(), *_rounded(_agent("hunt_planners", "planner"))]


# The agent


def by_steps() -> list[float]:
    """At equal steps of the world: every seed with imagination is ahead of every one without."""
    found = []
    for mode, without in (("regular", ("R7", "regular")), ("hunt", ("R9", "hunt_a2c"))):
        ours, theirs = _agent(mode), _agent(without[1], row=without[0])
        wide = _agent(f"{mode}_wide")
        assert ours.min() > max(theirs.max(), wide.max())
        found += [ours.mean(), *_rounded(ours), theirs.mean(), wide.mean()]
    lengths = _agent("hunt", "steps"), _agent("hunt_a2c", "steps")
    assert _agent("regular").mean() > 1.5 * _agent("regular", row="R7").mean()
    return [*found, lengths[0].mean(), lengths[1].mean(), np.median(_agent("regular", "speed"))]


def above_the_planner() -> list[float]:
    """Each agent beside the planner with its own model; the careful planners."""
    planners = {mode: _agent(f"{mode}_planners", "planner") for mode in ("regular", "hunt")}
    assert (_agent("regular") > planners["regular"]).all()
    hunted = _agent("hunt")
    assert (hunted > planners["hunt"]).tolist() == [True, True, False]
    regular, hunt = (_agent(f"{mode}_planners", "careful_planner") for mode in ("regular", "hunt"))
    return [hunted[2], planners["hunt"][2], regular.mean(), hunt.mean(), hunt.min(), hunt.max()]


def rules_beside() -> list[float]:
    """Chapter 07b's plain eater, and the hider in hunt, whom no agent here reaches."""
    eater, hider = (
        results.metric("R6", "floors", name) for name in ("regular_eater", "hunt_hider")
    )
    assert eater.min() > _agent("regular").max() and hider.min() > _agent("hunt").max()
    return [eater.mean(), hider.mean()]


def by_costs() -> list[float]:
    """With the model's steps counted, and by seconds: the last hundred episodes at the end of both curves."""
    data = CHAPTER.ModelConfig().worlds * CHAPTER.ModelConfig().steps
    found = [data]
    ours, hunted = (results.curves("R9", mode, "return")[:, -1] for mode in ("regular", "hunt"))
    seconds = [_agent(m, "seconds").mean() + _agent(m, "model_seconds").mean() for m in ("regular", "hunt")]  # fmt: skip
    same_steps = _after("return", "R7", "regular_long", 150_000 + data)
    longest = results.curves("R7", "regular_long", "return")[:, -1]
    a2c_seconds = _agent("regular_long", "seconds", row="R7").mean()
    assert longest.mean() > ours.mean() and a2c_seconds < seconds[0]
    found += [ours.mean(), same_steps.mean(), seconds[0], longest.mean(), a2c_seconds]
    same_steps = _after("return", "R9", "hunt_clock", 250_000 + data)
    curves = [results.curves("R9", "hunt_clock", name) for name in ("seconds", "return")]
    in_time = [back[took <= seconds[1]][-1] for took, back in zip(*curves, strict=True)]
    first, second, last = sorted(in_time, reverse=True)
    assert first > hunted.mean() and second < -18 and last < -19 < hunted.min() and len(hunted) == 3
    assert np.sort(curves[1][:, -1])[1] < -18  # after two million steps as well
    return [*found, hunted.mean(), same_steps.mean(), seconds[1], first, second, last]


def controls() -> list[float]:
    """What is left without frames, without rewards, without both; three steps deep; hunt without rewards."""
    names = ("regular", "regular_copied", "regular_unpaid", "regular_blind", "regular_depth3")
    seen = _agent("hunt") - _agent("hunt_copied")
    assert len(seen) == 3 and seen.min() > 3
    found = [_agent(name).mean() for name in (*names, "hunt", "hunt_unpaid", "hunt_copied")]
    return [*found, seen.min(), seen.max()]


def asleep() -> list[float]:
    """With dull films the trained agents play as badly as random play, or nearly."""
    scores = [_agent(mode, "asleep").mean() for mode in ("regular", "hunt")]
    assert (_agent("regular_copied") > _agent("regular_planners", "planner")).all()
    return [*scores, _agent("hunt", "asleep_length").mean()]


def ahead() -> None:
    """The careful planner is ahead of the agent with each model, and so is the plain eater; A2C level by all steps."""
    assert (_agent("regular_planners", "careful_planner") > _agent("regular")).all()
    rules_beside()
    _, ours, same, *_ = by_costs()
    assert abs(ours - same) < 5


def in_short() -> list[float]:
    """What the summary says is what the chapter says."""
    by_steps()
    regular = [_agent("regular", row=row).mean() for row in ("R9", "R7")]
    return [*regular, _agent("hunt").mean(), _agent("hunt_a2c").mean()]
