"""Oracles of chapter 07d's exercises."""

import tempfile
from pathlib import Path

import numpy as np
import torch

from rlbook_utils.checkpoint import load_checkpoint, save_checkpoint
from rlbook_utils.definitions import load_chapter
from rlbook_utils.exercises import Wrong


def walk(before: np.ndarray, now: np.ndarray) -> float:
    """The column at row 53, in steps of a thousandth."""
    fall, drift = now - before
    row, column = now
    if fall <= 0:
        return column
    while row < 53 - 1e-9:
        part = min(1e-3, (53 - row) / fall)
        row, column = row + part * fall, column + part * drift
        if column < 0:
            column, drift = -column, -drift
        if column > 35:
            column, drift = 70 - column, -drift
    return column


def landing(answer):
    """R10.1: balls moved on in small steps."""
    rng = np.random.default_rng(21)
    before = np.stack([rng.uniform(22, 40, 24), rng.uniform(1, 34, 24)], 1)
    steps = np.stack([rng.uniform(0.5, 3, 24), rng.uniform(-3, 3, 24)], 1)
    steps[-4:, 0] *= -1
    now = before + steps
    now[:, 1] = now[:, 1].clip(0, 35)
    wanted = np.array([walk(*pair) for pair in zip(before, now, strict=True)])
    found = np.asarray(answer(before.copy(), now.copy()), dtype=float)
    if found.shape != wanted.shape:
        raise Wrong(f"One column for each ball: {wanted.shape}, not {found.shape}.")
    if not np.allclose(found[-4:], now[-4:, 1], atol=0.05):
        raise Wrong("The last four do not fall: where they are is the answer.")
    off = np.abs(found - wanted)
    fall, drift = (now - before).T
    straight = np.abs(now[:, 1] + (53 - now[:, 0]) / fall * drift - wanted) < 0.05
    if off[:-4][straight[:-4]].max(initial=0) > 0.05:
        raise Wrong(
            "Even balls that meet no wall come out wrong. How many steps is it to row 53, and how far does each carry?"
        )
    if (found < -0.05).any() or (found > 35.05).any():
        raise Wrong(
            "Some land outside of the court: fold the column back, once for each wall it meets."
        )
    if not off.max() <= 0.05:
        ball = int(off.argmax())
        raise Wrong(
            f"Ball {ball} lands in column {wanted[ball]:.1f}, not {found[ball]:.1f}. It may bounce more than once."
        )


def explained(answer):
    """R10.2: summed pixel by pixel."""
    rng = np.random.default_rng(22)
    before, came = rng.random((2, 5, 4, 3))
    came[1] = before[1]  # where nothing changes
    told = came + 0.3 * rng.normal(size=came.shape)
    error = change = 0.0
    shares = []
    for b in range(5):
        errors = sum((told[b] - came[b]).ravel() ** 2)
        changes = sum((before[b] - came[b]).ravel() ** 2)
        error, change = error + errors, change + changes
        shares.append(1 - errors / changes if changes else 0.0)
    found = float(answer(*(torch.from_numpy(part.copy()) for part in (told, came, before))))
    if np.isclose(found, 1 - error / change):
        return
    if np.isclose(found, error / change):
        raise Wrong("That is what is left unexplained.")
    if not np.isfinite(found) or np.isclose(found, np.mean(shares)):
        raise Wrong(
            "All frames together: add up first, then divide. In some frames nothing changes."
        )
    if np.isclose(found, 1 - np.sum((told - before) ** 2) / change):
        raise Wrong("The forecast is to be compared with what came, not with what was before.")
    raise Wrong(f"It should be {1 - error / change:.4f}, not {found:.4f}.")


class Stub:
    """A model by hand: an action shifts the frame's brightness by itself; rewards hang on the last two frames' means."""

    def __call__(self, frames, actions):
        changes = (0.1 * actions.float() + 0.01)[..., None, None] * torch.ones(
            *actions.shape, 56, 36
        )
        changes = changes * (1 - frames[:, None, 1])
        first, last = frames.mean((2, 3)).T
        logits = torch.stack([3 * first, 2 * last, 4 * (last - first)], 1)[:, None] * (
            1 + actions[..., None]
        )
        return changes, logits


def plan_rewards(answer):
    """R10.3: one frame and one step at a time."""
    torch.manual_seed(23)
    frames, plan, model = torch.rand(4, 2, 56, 36), torch.randint(3, (4, 3)), Stub()
    wanted, stale, likeliest = (torch.zeros(4, 3) for _ in range(3))
    for b in range(4):
        pair = frames[b]
        for k in range(3):
            for table, shown in ((wanted, pair), (stale, frames[b])):
                chances = model(shown[None], plan[b, k].view(1, 1))[1][0, 0].softmax(0)
                table[b, k] = chances[2] - chances[0]
                if table is wanted:
                    likeliest[b, k] = chances.argmax() - 1
            changes = model(pair[None], plan[b, k].view(1, 1))[0][0, 0]
            pair = torch.stack([pair[1], pair[1] + changes])
    found = torch.as_tensor(answer(model, frames.clone(), plan.clone())).detach().float()
    if found.shape != wanted.shape:
        raise Wrong(f"One reward for each step of each plan: {(4, 3)}, not {tuple(found.shape)}.")
    if torch.allclose(found, wanted, atol=1e-4):
        return
    if torch.allclose(found, likeliest, atol=1e-4):
        raise Wrong("That is the likeliest reward. Expected is a mean.")
    if torch.allclose(found, stale, atol=1e-4):
        raise Wrong("Each step starts from the frames that the last one has drawn.")
    if torch.allclose(found[:, 0], wanted[:, 0], atol=1e-4):
        raise Wrong(
            "The first step is right. The next pair is the last frame, and the last frame plus its change."
        )
    raise Wrong("The expected reward is the chance of 1 less that of -1.")


def half_and_half(answer):
    """R10.4: counted."""
    rewards = np.zeros(500)
    rewards[[3, 77, 200, 431]] = 1, -1, 1, -1
    drawn = np.concatenate(
        [np.asarray(answer(rewards.copy(), 40, np.random.default_rng(n))) for n in range(50)]
    )
    if drawn.shape != (2000,):
        raise Wrong("It should return as many rows as were asked for, each a number.")
    paid = rewards[drawn.astype(int)] != 0
    if paid.sum() != 1000:
        raise Wrong(
            f"Half of the rows should have a reward; of yours {100 * paid.mean():.0f} % have."
        )
    counts = np.bincount(drawn[paid].astype(int), minlength=500)[rewards != 0]
    if counts.min() < 180 or counts.max() > 320:
        raise Wrong("Those with a reward should come equally often, losses and gains alike.")
    if len(np.unique(drawn[~paid])) < 350:
        raise Wrong("Those without a reward should be drawn from all there are.")


def per_game(answer):
    """R10.5: a loop."""
    rng = np.random.default_rng(24)
    for ends in ([], [0], [4, 5, 19], [7, 12, 29]):
        points, over = rng.integers(0, 8, 30).astype(float), np.zeros(30, bool)
        over[ends] = True
        wanted, running = [], 0.0
        for point, ended in zip(points, over, strict=True):
            running += point
            if ended:
                wanted.append(float(running))
                running = 0.0
        found = np.asarray(answer(points.copy(), over.copy()), dtype=float)
        if found.shape != (len(wanted),):
            raise Wrong(f"{len(wanted)} games ended, and there are {found.size} scores.")
        if not np.allclose(found, wanted):
            raise Wrong(
                f"With ends at {ends} the scores are {wanted}, not {found.tolist()}. "
                "A game's last decision belongs to it."
            )


def go_on(answer):
    """R10.6: half a run, then the rest."""
    chapter = load_chapter("ch07d_breakout")
    config = chapter.BreakoutConfig(steps=8192, epochs=1, minibatch=2048)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.safetensors"
        progress = next(chapter.train_breakout(config, 3))
        state = progress.state()
        state["episodes"] += 1_000_000  # a mark that only this file bears
        metrics = {name: [value] for name, value in progress.metrics.items()}
        history = {"steps": [progress.step], "metrics": metrics}
        save_checkpoint(path, state, config=config, seed=3, history=history)
        run = answer(path, config, 3)
        if not hasattr(run, "steps"):
            raise Wrong("Return the `Run` that `watch` gives back.")
        if run.steps[-1] < config.steps:
            raise Wrong(f"It stopped at {run.steps[-1]} of {config.steps} decisions.")
        if run["episodes"][-1] < 1_000_000:
            raise Wrong("It began anew instead of going on from the checkpoint.")
        kept = load_checkpoint(path, config, 3)["state"]
        if kept["env_steps"] < config.steps:
            raise Wrong("At the end the file should hold the whole run: `watch(..., save_to=path)`.")  # fmt: skip


EXERCISES = {
    "R10.1": landing, "R10.2": explained, "R10.3": plan_rewards, "R10.4": half_and_half, "R10.5": per_game, "R10.6": go_on,
}  # fmt: skip
