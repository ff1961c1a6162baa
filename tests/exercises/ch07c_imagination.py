"""Oracles of chapter 07c's exercises."""

import math

import numpy as np
import torch

from rlbook_utils.definitions import load_chapter
from rlbook_utils.exercises import Wrong

FLOOR, PACMAN, GHOST, EDIBLE = 0, 4, 5, 6


def steps_of(mode: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Frames [N, 15, 19], actions [N] and the next frames, where the episode and the level go on."""
    chapter, rng, found = load_chapter("ch07b_minipacman"), np.random.default_rng(11), []
    world = chapter.MiniPacman(chapter.MODES[mode], 64, rng)
    for _ in range(25):
        frames, actions = world.frames(), rng.integers(5, size=64)
        step = world.step(actions)
        over = step.terminated | step.truncated
        going = ~(over | step.cleared)
        found.append((frames[going], actions[going], world.frames()[going]))
        world.reset(over)
    return found


def forecast(answer):
    """R8.1: many steps of a random player, cell by cell."""
    changed = right = touched = still = 0
    for frames, actions, after in steps_of("regular"):
        given = torch.from_numpy(frames.copy())
        told = np.asarray(answer(given, torch.from_numpy(actions)))
        if told.shape != frames.shape:
            raise Wrong(f"The next frames should be {frames.shape}, not {told.shape}.")
        if not np.array_equal(given.numpy(), frames):
            raise Wrong("It writes into the frames that it was given. Work on a copy.")
        if ((told == PACMAN).sum((1, 2)) > 1).any():
            raise Wrong("Pacman is in one place only. What does he leave behind where he was?")
        ghosts = np.isin(frames, (GHOST, EDIBLE)) | np.isin(after, (GHOST, EDIBLE))
        moved = (frames != after) & ~ghosts
        changed, right = changed + moved.sum(), right + (told == after)[moved].sum()
        calm = (frames == after) & ~ghosts
        still, touched = still + calm.sum(), touched + (told != after)[calm].sum()
    if touched > 0.001 * still:
        raise Wrong(
            f"It changes {touched:,} cells that stay as they are. What does Pacman do at a wall?"
        )
    if right < 0.99 * changed:
        raise Wrong(
            f"It gets {100 * right / changed:.0f} % of the changed cells. He goes to NEXT[cell, action] and leaves floor."
        )


def fair(answer):
    """R8.2: a memory of four situations, what training draws of it counted out, and what is said then."""
    rng = np.random.default_rng(12)
    for kinds, weight in ((2, 0.2), (5, 0.2), (4, 1.0)):
        rare = np.arange(kinds) % 2 == 1
        truth = rng.dirichlet(np.ones(kinds), size=4)
        truth[0] = np.where(rare, 0, truth[0])
        truth /= truth.sum(1, keepdims=True)
        often = np.array([0.9, 0.06, 0.03, 0.01])  # how often each situation comes
        share = sum(often[s] * truth[s, r] for s in range(4) for r in range(kinds) if rare[r])
        said = np.zeros((4, kinds))
        for s in range(4):
            drawn = [
                often[s] * truth[s, r] + (weight * often[s] * truth[s, r] / share if rare[r] else 0)
                for r in range(kinds)
            ]
            said[s] = np.array(drawn) / sum(drawn)
        found = np.asarray(
            answer(torch.from_numpy(said.copy()), torch.from_numpy(rare), float(share), weight)
        )
        if found.shape != said.shape:
            raise Wrong(f"The probabilities should be {said.shape}, not {found.shape}.")
        if np.allclose(found, truth, atol=1e-5):
            continue
        if not np.allclose(found.sum(1), 1, atol=1e-5):
            raise Wrong("Each row has to add up to 1.")
        if (found[1:, rare] > said[1:, rare] + 1e-9).any():
            raise Wrong("The rare ones were said too often; yours are likelier still.")
        raise Wrong(
            "A rare step comes up once in the fair draws, as it should, and weight / share times more in the others."
        )


def likeliest(answer):
    """R8.3: the chances of what each cell shows, listed."""
    for ways in (1, 2, 3):
        for moves in (0.05, 0.25, 0.45, 0.5, 0.55, 0.6, 0.64, 0.7, 0.8, 0.95):
            for food in (0.0, 0.3, 0.5, 0.8, 1.0):
                here = {"ghost": 1 - moves, "food": moves * food, "floor": moves * (1 - food)}
                cells = [here] + ways * [{"ghost": moves / ways, "floor": 1 - moves / ways}]
                wanted = sum(
                    all(cell["ghost"] > chance for name, chance in cell.items() if name != "ghost")
                    for cell in cells
                )
                found = int(answer(moves, food, ways))
                if found == wanted:
                    continue
                case = f"With moves, food, ways = {moves}, {food}, {ways}"
                if moves == 0.5 and food in (0.0, 1.0):
                    raise Wrong(f"{case} a ghost is as likely as not, and not likelier.")
                if food not in (0.0, 1.0) and 0.5 <= moves < 0.7:
                    raise Wrong(
                        f"{case} there is {wanted} in the picture. Where it was is food or floor: it has to beat each alone."
                    )
                if ways > 1 and found > wanted:
                    raise Wrong(f"{case} it may go to several cells, and each has a share only.")
                raise Wrong(f"{case} the likeliest picture shows {wanted}, not {found}.")


def tile(answer):
    """R9.1: row by row."""
    for frames_count, count in ((3, 5), (1, 5), (4, 4), (6, 2)):
        frames = torch.arange(frames_count).repeat_interleave(285).view(-1, 15, 19).byte()
        tiled, actions = (torch.as_tensor(part) for part in answer(frames, count))
        total = frames_count * count
        if tuple(tiled.shape) != (total, 15, 19) or tuple(actions.shape) != (total,):
            raise Wrong(
                f"{frames_count} frames and {count} actions make frames {(total, 15, 19)} and actions {(total,)}, "
                f"not {tuple(tiled.shape)} and {tuple(actions.shape)}."
            )
        rows = [(int(tiled[i].flatten()[0]), int(actions[i])) for i in range(total)]
        wanted = [(b, a) for b in range(frames_count) for a in range(count)]
        if rows == wanted:
            continue
        if len(set(rows)) < total:
            raise Wrong("Some frame meets some action twice, and another one not at all.")
        if sorted(rows) == wanted:
            i = next(i for i in range(total) if rows[i] != wanted[i])
            raise Wrong(
                f"All pairs are there, in another order: row {i} should be frame {wanted[i][0]} with action {wanted[i][1]}."
            )
        raise Wrong(f"The actions are the numbers from 0 to {count - 1}.")


def pull(answer):
    """R9.2: finite differences of the cross-entropy, in plain Python."""
    rng = np.random.default_rng(13)

    def loss(agent, logits):
        total = 0.0
        for b in range(len(agent)):
            norm = math.log(sum(math.exp(x) for x in logits[b]))
            total -= sum(agent[b, a] * (logits[b, a] - norm) for a in range(5))
        return total / len(agent)

    for count in (1, 4):
        agent, logits = rng.dirichlet(np.ones(5), size=count), rng.normal(size=(count, 5)) + 1
        wanted = np.zeros((count, 5))
        for place in np.ndindex(count, 5):
            nudge = np.zeros((count, 5))
            nudge[place] = 1e-5
            wanted[place] = (loss(agent, logits + nudge) - loss(agent, logits - nudge)) / 2e-5
        given = torch.from_numpy(agent).log()
        found = torch.as_tensor(answer(given, torch.from_numpy(logits))).detach().numpy()
        if found.shape != wanted.shape:
            raise Wrong(f"One number for each logit: {wanted.shape}, not {found.shape}.")
        if np.allclose(found, wanted, atol=1e-6):
            continue
        if np.allclose(found, -wanted, atol=1e-6):
            raise Wrong(
                "The other way round: against this gradient the logits would go away from the agent."
            )
        if np.allclose(found, count * wanted, atol=1e-6):
            raise Wrong("The loss is the mean over the frames.")
        if not np.allclose(found.sum(1), 0, atol=1e-6):
            raise Wrong(
                "Adding one number to all logits of a frame changes nothing, so that each row adds up to 0. "
                "Are both sides probabilities?"
            )
        raise Wrong(
            "Write the loss as log sum exp of the logits less the agent's mean of them, and take its gradient."
        )


class Stub:
    """A maze without walls in place of a model: Pacman walks, and each cell may be his end. Frames may be mixtures."""

    def __init__(self) -> None:
        rng = np.random.default_rng(14)
        self.prizes = torch.tensor([-1.0, 0.0, 2.0])
        self.pays = torch.from_numpy(rng.normal(scale=3, size=(285, 5, 3))).float()
        self.risk = torch.from_numpy(rng.choice([0.1, 0.6, 0.9], size=(15, 19))).float()

    def __call__(self, planes, actions):
        pacman = planes[:, PACMAN]  # [B, 15, 19]
        ways = ((0, 0), (0, 1), (-1, 0), (0, -1), (1, 0))
        moved = torch.stack([pacman.roll(way, (1, 2)) * (1 - self.risk) for way in ways], 1)
        row = torch.arange(len(planes))[:, None]
        after = torch.full((*actions.shape, 7, 15, 19), 1e-9)
        after[:, :, PACMAN] += moved[row, actions]
        after[:, :, FLOOR] += 1 - moved[row, actions]
        pays = torch.einsum("bc,car->bar", pacman.flatten(1), self.pays)  # [B, 5, R]
        return after.log(), pays[row, actions]


def look_twice(answer):
    """R9.3: frame by frame and action by action, in a small world of its own."""
    rng, model = np.random.default_rng(15), Stub()
    frames = np.zeros((6, 15, 19), np.uint8)
    for b in range(6):
        frames[b, rng.integers(15), rng.integers(19)] = PACMAN
    found = torch.as_tensor(answer(model, torch.from_numpy(frames.copy()), 0.8)).detach().numpy()
    if found.shape != (6, 5):
        raise Wrong(f"Six frames want values (6, 5), one for each first action, not {found.shape}.")

    def pay(logits):
        odds = [math.exp(x) for x in logits.tolist()]
        return sum(odd * prize for odd, prize in zip(odds, (-1, 0, 2), strict=True)) / sum(odds)

    names = ("right", "greedy", "deathless", "mean", "undiscounted", "likeliest")
    sums = {name: np.zeros((6, 5)) for name in names}
    for b in range(6):
        planes = torch.stack([torch.from_numpy(frames[b] == kind).float() for kind in range(7)])[
            None
        ]
        for a in range(5):
            kinds, logits = model(planes, torch.tensor([[a]]))
            after = kinds[0, 0].exp() / kinds[0, 0].exp().sum(0)  # [7, 15, 19]
            whole = torch.stack([(after.argmax(0) == kind).float() for kind in range(7)])
            first, alive = pay(logits[0, 0]), min(float(after[PACMAN].sum()), 1.0)
            seconds, hard = [
                [pay(model(frame[None], torch.tensor([[c]]))[1][0, 0]) for c in range(5)]
                for frame in (after, whole)
            ]
            sums["greedy"][b, a] = first
            sums["right"][b, a] = first + 0.8 * alive * max(seconds)
            sums["deathless"][b, a] = first + 0.8 * max(seconds)
            sums["mean"][b, a] = first + 0.8 * alive * sum(seconds) / 5
            sums["undiscounted"][b, a] = first + alive * max(seconds)
            sums["likeliest"][b, a] = first + 0.8 * alive * max(hard)
    hints = {
        "greedy": "That is the first step's reward alone.",
        "deathless": "Who is gone gets nothing more: weigh the second reward by the chance that Pacman is there.",
        "mean": "The second action is chosen, too: the best of five, not their mean.",
        "undiscounted": "The second reward comes a step later: it is discounted.",
        "likeliest": "Feed the probabilities back: the likeliest frame may have lost Pacman.",
    }
    if np.allclose(found, sums["right"], atol=1e-4):
        return
    for name, hint in hints.items():
        if np.allclose(found, sums[name], atol=1e-4):
            raise Wrong(hint)
    b, a = np.unravel_index(np.abs(found - sums["right"]).argmax(), found.shape)
    order = np.allclose(found[0, 0], sums["right"][0, 0], atol=1e-4)
    more = " The first one is right: are the rows state-major?" if order else ""
    raise Wrong(
        f"Action {a} in frame {b} is worth {sums['right'][b, a]:.3f}, not {found[b, a]:.3f}.{more}"
    )


EXERCISES = {
    "R8.1": forecast, "R8.2": fair, "R8.3": likeliest, "R9.1": tile, "R9.2": pull, "R9.3": look_twice,
}  # fmt: skip
