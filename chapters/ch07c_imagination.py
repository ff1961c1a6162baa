# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 07b · Imagination: an agent that looks before it steps
#
# <!-- card: A maze that you can play, a network that learns how it goes on, and an agent that asks it before it moves. -->
#
# **What you will build.** MiniPacman as arrays, a thousand mazes at once, which you can play yourself; an agent without
# foresight; a network that says what comes after a step, and what it brings; and the imagination-augmented agent, which asks
# that network about each of its actions before it takes one. Then you take the imagination apart: with a model that
# copies, with one that knows no rewards, with more steps and with none.
#
# | | |
# |---|---|
# | **You need** | [Chapter 06](ch06_policy_optimisation.ipynb) for the advantages of an actor–critic. |
# | **Time** | @@ minutes for all cells on two cores. |
# | **Memory** | About @@ GB. No GPU. |
# | **Budget** | `RLBOOK_BUDGET` is `laptop` unless you set it; the next cell shows it. |

# %%
import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from rlbook_utils import plots, results
from rlbook_utils.checkpoint import as_tensors, load_checkpoint, random_state, restore_random
from rlbook_utils.config import budget, by_budget, check_config, choice, knob
from rlbook_utils.definitions import load_chapter
from rlbook_utils.results import Measured, Measurement, Metric
from rlbook_utils.rollout import spread
from rlbook_utils.run import Progress, live_curve, watch
from rlbook_utils.widgets import panel, scrubber, show

plots.use_style()
MAZES = load_chapter("ch07b_minipacman")

# %% tags=["remove-stderr"]
print(
    f"budget {budget()} · {results.cores()} cores · torch {torch.__version__} · numpy {np.__version__}"
)

# %% [markdown]
# ## A model of the world
#
# To imagine is to ask: what would I see, and what would I get, if I did this? An **environment model** answers both. It takes
# a frame and an action; it says how likely each kind of cell is at each place of the next frame, and how likely each reward.
#
# Rewards are few, so they are classes. Which ones are there? A table that somebody typed leaves out sums (the published one
# does); this one is computed from the rules. One step can bring food, food and a pill, any number of ghosts, or death.


# %%
def reward_table(rules: MAZES.Rules) -> list[float]:
    """All rewards that one step can bring, in rising order. A pill lies on food; who eats ghosts is not caught."""
    found = set()
    for food, pill, ghosts in np.ndindex(2, 2, MAZES.MOST_GHOSTS + 1):
        if food or not pill:
            found.add(rules.step + food * rules.food + pill * rules.pill + ghosts * rules.ghost)
    found |= {rules.step + food * rules.food + rules.caught for food in (0, 1)}
    return sorted({round(reward, 3) for reward in found})


def classes_of(rewards: np.ndarray, table: list[float]) -> np.ndarray:
    """The places of rewards in the table, of the same shape. Raises ValueError for a reward that it does not have."""
    places = np.abs(np.asarray(table) - rewards[..., None]).argmin(-1)
    if not np.allclose(np.asarray(table)[places], rewards, atol=1e-6):
        raise ValueError("A reward is not in the table.")
    return places


# %%
for mode, rules in MAZES.MODES.items():
    print(f"{mode:8}", *(f"{reward:g}" for reward in reward_table(rules)[:8]), "…")

# %% [markdown]
# The network is small, because an agent will ask it five times a step. Most of what happens in one step of MiniPacman happens
# among a cell's neighbours, so one layer of 3 × 3 convolutions looks around. The action stands where Pacman does, as one of
# five planes. (The paper puts it into every cell.) Two things are not local. A pill changes all ghosts at once: so the first
# layer's maximum over the maze is **injected** into every cell (Weber et al. call it pool-and-inject). And a ghost at a fork turns
# towards Pacman, however far away: that this model cannot see, and we shall measure what it costs. A second layer looks at each
# cell alone; another one's maximum names the reward. A short cut from the frame makes copying easy.


# %%
class WorldModel(nn.Module):
    """Kinds of cells and rewards to come, from frames and actions (after Weber et al., 2017). table: the rewards' values."""

    def __init__(self, table: list[float], width: int = 32) -> None:
        super().__init__()
        self.register_buffer("table", torch.tensor(table, dtype=torch.float32))
        self.look = nn.Conv2d(7, width, 3, padding=1)
        self.intend = nn.Conv2d(5, width, 3, padding=1, bias=False)
        self.inject, self.think = nn.Linear(width, width), nn.Conv2d(width, width, 1)
        self.copy, self.kinds = nn.Conv2d(7, 7, 1, bias=False), nn.Conv2d(width, 7, 1)
        self.sense, self.pays = nn.Conv2d(width, width, 1), nn.Linear(width, len(table))
        with torch.no_grad():  # it begins as a copy of the frame
            self.copy.weight.copy_(6 * torch.eye(7)[:, :, None, None])

    def forward(
        self, frames: torch.Tensor, actions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """frames: [B, 15, 19] (uint8); actions: [B · K], K in a row for each frame.

        Returns logits of kinds [B · K, 7, 15, 19] and of rewards [B · K, classes].
        """
        seen, times = MAZES.planes(frames), len(actions) // len(frames)
        wish = (
            F.one_hot(actions, 5)[:, :, None, None]
            * seen.repeat_interleave(times, 0)[:, MAZES.PACMAN : MAZES.PACMAN + 1]
        )
        near = (self.look(seen).repeat_interleave(times, 0) + self.intend(wish)).relu_()
        whole = self.inject(near.amax((2, 3)))[:, :, None, None]  # of all cells, for every cell
        thought = (self.think(near) + whole).relu_()
        kinds = self.kinds(thought) + self.copy(seen).repeat_interleave(times, 0)
        return kinds, self.pays(self.sense(near).relu_().amax((2, 3)))


def shown(kinds: torch.Tensor, draw: bool = False) -> torch.Tensor:
    """Frames [B, 15, 19] (uint8) from logits [B, 7, 15, 19]: the likeliest kind of each cell, or one drawn for each."""
    if draw:
        kinds = kinds - torch.empty_like(kinds).exponential_().log()
    return kinds.argmax(1).to(torch.uint8)


# %% [markdown]
# ### What it learns from
#
# Somebody has to play. Worlds side by side are played and kept: frames, actions, rewards, and where the next frame does not
# follow from this one, because an episode or a level began anew. The frame loss leaves those out; their rewards count.


# %%
class Memory(NamedTuple):
    """T steps of N worlds; all [T, N, ...].

    frames, after: before and after the step [15, 19] (uint8); rewards as classes; cleared: ``after`` is a new maze; over:
    Pacman was caught, and ``after`` is the last frame of his life; going: the next step follows from this one.
    """

    frames: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    after: torch.Tensor
    cleared: torch.Tensor
    over: torch.Tensor
    going: torch.Tensor


def remember(
    player: MAZES.Player, mode: str, worlds: int, steps: int, rng: np.random.Generator
) -> Memory:
    """Let a player play, with resets."""
    world, table = MAZES.MiniPacman(MAZES.MODES[mode], worlds, rng), reward_table(MAZES.MODES[mode])
    frames, after = np.empty((2, steps, worlds, MAZES.HEIGHT, MAZES.WIDTH), np.uint8)
    actions, rewards = np.empty((steps, worlds), int), np.empty((steps, worlds))
    cleared, over, going = np.empty((3, steps, worlds), bool)
    for t in range(steps):
        frames[t] = world.frames()
        actions[t] = player(frames[t], rng)
        step = world.step(actions[t])
        done = step.terminated | step.truncated
        rewards[t], after[t] = step.rewards, world.frames()
        cleared[t], over[t], going[t] = step.cleared, step.terminated, ~(done | step.cleared)
        world.reset(done)
    parts = (frames, actions, classes_of(rewards, table), after, cleared, over, going)
    return Memory(*(torch.from_numpy(part) for part in parts))


# %%
def games(
    config: "ModelConfig", seed: int, veteran: Callable[[torch.Tensor], torch.Tensor] | None
) -> Memory:
    """Half of the worlds are played by a veteran (a trained policy), where there is one, the others by held actions."""
    rng, held_player = np.random.default_rng((MAZES.MODELLING, seed)), MAZES.held(4)
    torch.manual_seed(spread((MAZES.MODELLING, seed, 1), 1)[0])
    trained, half = veteran and MAZES.player_of(veteran), config.worlds // 2

    def both(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.concatenate([held_player(frames[:half], rng), trained(frames[half:], rng)])

    player = both if trained else held_player
    return remember(player, config.mode, config.worlds, config.steps, rng)


# %% [markdown]
# Most steps bring nothing new: a piece of food, or none. Pills, ghosts and death are rare, yet they are what a plan is about.
# So a quarter of each batch is drawn from the steps with a rare reward, and every step is weighted by how much less often it
# would have come without that. In the mean the loss stays what it was, and so do the probabilities that minimise it.


# %%
class Batch(NamedTuple):
    """B transitions; weights [B] undo what the choice of rare ones distorts."""

    frames: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    after: torch.Tensor
    cleared: torch.Tensor
    weights: torch.Tensor


class Sampler:
    """Draws from a memory. share: of each batch, from rare events: rewards, or deaths, rarer than one step in twenty."""

    def __init__(self, memory: Memory, share: float) -> None:
        events = (2 * memory.rewards + memory.over).flatten().numpy()
        counts = np.bincount(events)
        self.rare = [
            np.flatnonzero(events == k) for k, n in enumerate(counts) if 0 < n < 0.05 * len(events)
        ]
        self.parts = Memory(*(part.flatten(0, 1) for part in memory))
        self.share, self.count = share if self.rare else 0.0, len(events)
        self.odds = np.full(len(events), 1 - self.share)  # in units of 1 / count
        for group in self.rare:  # each kind of event as often as the others
            self.odds[group] += self.share * len(events) / (len(self.rare) * len(group))

    def draw(self, size: int, rng: np.random.Generator) -> Batch:
        picks = rng.integers(self.count, size=size)
        for place in np.flatnonzero(rng.random(size) < self.share):
            picks[place] = rng.choice(self.rare[rng.integers(len(self.rare))])
        weights = torch.from_numpy(1 / self.odds[picks]).float()
        chosen = (part[picks] for part in self.parts[:5])
        return Batch(*chosen, weights)


# %%
def model_loss(
    model: nn.Module, batch: Batch, reward_weight: float = 1.0
) -> dict[str, torch.Tensor]:
    """Negative log-likelihoods: "frame" (a whole frame's, in nats), "reward", and "loss", of both.

    Where a new maze follows, the frame says nothing about the model and is left out.
    """
    kinds, rewards = model(batch.frames, batch.actions)
    frame = F.cross_entropy(kinds, batch.after.long(), reduction="none").sum((1, 2))
    frame = (torch.where(batch.cleared, 0, frame) * batch.weights).mean()
    reward = (F.cross_entropy(rewards, batch.rewards, reduction="none") * batch.weights).mean()
    return {"loss": frame + reward_weight * reward, "frame": frame, "reward": reward}


# %% [markdown]
# Training is a generator like every other. The memory is not kept in its state: the seed says how it was played.


# %%
@dataclass(frozen=True)
class ModelConfig:
    """An environment model of MiniPacman."""

    mode: str = choice("regular", MAZES.MODES)
    worlds: int = knob(256, 2, 4_096, "worlds side by side, half of them played by the veteran")
    steps: int = knob(400, 1, 100_000, "steps of each world")
    updates: int = knob(1_000, 1, 1_000_000, "gradient steps")
    batch_size: int = knob(128, 1, 4_096, "steps in a batch")
    learning_rate: float = knob(3e-3, 1e-5, 1e-1, "of Adam, falling to 0")
    rare_share: float = knob(0.25, 0.0, 0.9, "of a batch drawn from rare events", step=0.05)
    reward_weight: float = 10.0
    width: int = knob(32, 1, 512, "channels")

    def __post_init__(self) -> None:
        check_config(self)


MODEL_REPORT = 50  # updates between reports


def model_learning(
    config: ModelConfig, seed: int, device: str
) -> tuple[WorldModel, torch.optim.Optimizer]:
    """A fresh model, and who trains it."""
    torch.manual_seed(spread((MAZES.MODELLING, seed), 1)[0])
    model = WorldModel(reward_table(MAZES.MODES[config.mode]), config.width).to(device)
    return model, torch.optim.Adam(model.parameters(), config.learning_rate)


# %%
def train_model(
    config: ModelConfig,
    seed: int,
    state: dict | None = None,
    device: str = "cpu",
    *,
    veteran: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Iterator[Progress]:
    """Learn to predict frames and rewards. state: {"updates", "metrics", "model", "optimiser", "random"}."""
    memory, rng = games(config, seed, veteran), np.random.default_rng((MAZES.SAMPLING, seed))
    sampler, (model, optimiser) = (
        Sampler(memory, config.rare_share),
        model_learning(config, seed, device),
    )
    updates, metrics = 0, {"frame": 0.0, "reward": 0.0, "seconds": 0.0}
    if state:
        updates, metrics = state["updates"], dict(state["metrics"])
        model.load_state_dict(as_tensors(state["model"]))
        optimiser.load_state_dict(as_tensors(state["optimiser"]))
        restore_random(state["random"], rng)
    while updates < config.updates:
        began, found = time.process_time(), []
        for _ in range(min(MODEL_REPORT, config.updates - updates)):
            optimiser.param_groups[0]["lr"] = config.learning_rate * (1 - updates / config.updates)
            batch = Batch(*(part.to(device) for part in sampler.draw(config.batch_size, rng)))
            losses = model_loss(model, batch, config.reward_weight)
            optimiser.zero_grad()
            losses["loss"].backward()
            optimiser.step()
            updates += 1
            found.append([losses["frame"].item(), losses["reward"].item()])
        frame, reward = np.mean(found, axis=0)
        seconds = metrics["seconds"] + time.process_time() - began
        metrics = {"frame": frame, "reward": reward, "seconds": seconds}
        now = lambda done=updates, known=metrics: copy.deepcopy({
            "updates": done, "metrics": known, "model": model.state_dict(),
            "optimiser": optimiser.state_dict(), "random": random_state(rng),
        })  # fmt: skip
        yield Progress(updates, config.updates, dict(metrics), now, "updates")


# %%
def model_of(state: dict, mode: str) -> WorldModel:
    """The model of a stored training, for looking only."""
    weights = as_tensors(state["model"])
    model = WorldModel(reward_table(MAZES.MODES[mode]), len(weights["look.bias"]))
    model.load_state_dict(weights)
    return model.requires_grad_(False)


# %% tags=["R8"]
a2c_config = by_budget(smoke=MAZES.PacmanConfig(steps=4_096), laptop=MAZES.PacmanConfig())
a2c_run = watch(MAZES.train_pacman(a2c_config, seed=1))
veteran = MAZES.agent_of(a2c_run.state)

# %% tags=["R8"]
model_config = by_budget(
    smoke=ModelConfig(worlds=16, steps=40, updates=60, batch_size=16), laptop=ModelConfig()
)
model_run = watch(train_model(model_config, seed=1, veteran=veteran), "frame")
model = model_of(model_run.state, model_config.mode)
print(f"{model_run['seconds'][-1]:.0f} s of one core for {model_config.updates} updates")

# %% [markdown]
# *What a frame leaves open, in nats, by update. It does not fall to zero: the ghosts' coin flips remain.*

# %% [markdown]
# ### How good is it?
#
# Of a frame's 285 cells a step changes two or three. Who copies the last frame therefore has @@0.992 of all cells right and has
# understood nothing. We ask four other questions, and put copying beside each:
#
# - **Changed cells**, without those where a ghost is or comes: are they right? (Copying: never, by definition.)
# - **Rewards**: is the likeliest the true one? For each reward apart, since one of them makes up most steps.
# - **Five steps ahead**, the model feeding on its own frames: is Pacman where it says?
# - **Ghosts** move by chance. For them the question is how likely the model found what came, and whether what it gives 30 % happens
#   in 30 % of the cases.


# %%
class CopyModel(nn.Module):
    """The floor, and a control: what comes is what is there, and it brings one and the same reward (a class)."""

    def __init__(self, table: list[float], always: int = 0) -> None:
        super().__init__()
        self.register_buffer("table", torch.tensor(table, dtype=torch.float32))
        self.always = always

    def forward(
        self, frames: torch.Tensor, actions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        times = len(actions) // len(frames)
        sure = torch.zeros(len(actions), len(self.table), device=frames.device)
        sure[:, self.always] = 30
        return 30 * MAZES.planes(frames).repeat_interleave(times, 0), sure


class Unpaid(nn.Module):
    """A control: a model whose rewards are hidden; all are predicted to be the same."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("table", torch.zeros_like(model.table))

    def forward(
        self, frames: torch.Tensor, actions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.model(frames, actions)


# %%
@torch.no_grad()
def judge(model: nn.Module, memory: Memory) -> dict[str, float]:
    """Accuracies on a memory that the model has not learned from. A name ending in "_count" says of how many.

    all, changed: cells (changed without ghosts, where the game goes on). reward, and one for each class that occurs.
    """
    hits, counts = {}, {}

    def add(name: str, right: torch.Tensor) -> None:
        hits[name] = hits.get(name, 0) + right.sum().item()
        counts[name] = counts.get(name, 0) + right.numel()

    for t in range(len(memory.actions)):
        kinds, rewards = model(memory.frames[t], memory.actions[t])
        on = memory.going[t]
        now, true, told = memory.frames[t][on], memory.after[t][on], shown(kinds[on])
        ghost = torch.maximum(now, true) >= MAZES.GHOST  # the two largest kinds
        add("all", told == true)
        add("changed", (told == true)[(now != true) & ~ghost])
        right = rewards.argmax(1) == memory.rewards[t]
        add("reward", right)
        for number in memory.rewards[t].unique().tolist():
            value = model.table[number].item() if model.table.any() else number
            add(f"reward_{value:g}", right[memory.rewards[t] == number])
    found = {name: hits[name] / max(counts[name], 1) for name in hits}
    return found | {f"{name}_count": counts[name] for name in counts}


# %%
@torch.no_grad()
def look_ahead(
    model: nn.Module, memory: Memory, depth: int = 5, draw: bool = False
) -> dict[str, float]:
    """Imagine ``depth`` steps with the actions that were taken, wherever the game goes on as long.

    pacman: how often he is where the last imagined frame's chance of him is largest. copy: where he was. ghosts, real: cells
    with a ghost in the last imagined frame and in the real one. draw: frames are drawn, not the likeliest.
    """
    found, total = dict.fromkeys(("pacman", "copy", "ghosts", "real"), 0), 0
    for t in range(0, len(memory.actions) - depth + 1, depth):
        on = memory.going[t : t + depth].all(0)
        frames, last = memory.frames[t][on], memory.after[t + depth - 1][on].flatten(1)
        before, there = frames.flatten(1), (last == MAZES.PACMAN).int().argmax(1)
        if not on.any():
            continue
        for k in range(depth):
            kinds, _ = model(frames, memory.actions[t + k][on])
            frames = shown(kinds, draw)
        chances = kinds.log_softmax(1)[:, MAZES.PACMAN].flatten(1)
        found["pacman"] += (chances.argmax(1) == there).sum().item()
        found["copy"] += ((before == MAZES.PACMAN).int().argmax(1) == there).sum().item()
        found["ghosts"] += (frames >= MAZES.GHOST).sum().item()
        found["real"] += (last >= MAZES.GHOST).sum().item()
        total += int(on.sum())
    return {name: number / total for name, number in found.items()} | {"count": total}


# %% tags=["R8"]
TEST_STEPS = 40
tested = remember(
    MAZES.PLAYERS["held 4 steps"](),
    model_config.mode,
    by_budget(16, 256),
    TEST_STEPS,
    np.random.default_rng(MAZES.SCORING),
)
copying = CopyModel(model.table.tolist(), int(tested.rewards.flatten().mode().values))
for name, judged in (("model", judge(model, tested)), ("copying", judge(copying, tested))):
    shares = " · ".join(f"{key} {judged[key]:.3f}" for key in ("all", "changed", "reward"))
    print(f"{name:8} {shares}")
    rewards = (
        key
        for key in judged
        if key.startswith("reward_") and not key.endswith("_count") and key != "reward_count"
    )
    print(
        "         by reward: "
        + ", ".join(f"{key[7:]}: {judged[key]:.2f} of {judged[key + '_count']}" for key in rewards)
    )
ahead, flipped = look_ahead(model, tested), look_ahead(model, tested, draw=True)
print(f"Pacman five steps ahead: {ahead['pacman']:.3f} (stays where he was: {ahead['copy']:.3f})")

# %% [markdown]
# All cells: copying is nearly as good as the model, so this number says nothing. Changed cells: @@0.998 against 0. And death?
# In the regular mode it brings no reward, and its frame is left out at the reset: a model of this mode has never seen anybody
# die. @@ in hunt, where it costs 20, the reward tells.
#
# Now the ghosts.

# %% [markdown]
# For ghosts we look at frames in which one ghost is seen before and after. The model's probabilities of a ghost, scaled to
# one over all cells, say how likely the cell was where it went: their mean negative logarithm is what the frame left open,
# in nats. Two rules without learning stand beside it. Both know the ghost's speed: one half that it stays (three quarters
# when it is edible), else any free neighbour alike. Nobody can do better than @@0.69 in a long corridor: that it moves at
# all is a coin's flip. A model that copies is sure, and wrong half the time; its number is infinite.


# %%
def rule_of_thumb(frames: torch.Tensor) -> torch.Tensor:
    """Chances of the one ghost's next cell [B, CELLS]: it stays at its speed's rate, else goes to any neighbour."""
    whole = frames.flatten(1).numpy()
    cells, rows = (whole >= MAZES.GHOST).argmax(1), np.arange(len(whole))
    stays = np.where(whole[rows, cells] == MAZES.EDIBLE, 0.75, 0.5)
    chances, ways = np.zeros((len(whole), MAZES.CELLS)), MAZES.NEXT[cells][:, 1:]  # [B, 4]
    free = ways != cells[:, None]
    for way in range(4):
        chances[rows, ways[:, way]] += free[:, way] * (1 - stays) / free.sum(1)
    chances[rows, cells] += stays
    return torch.from_numpy(chances)


class Ghosts(NamedTuple):
    """nats: mean -log of the chance given to where a ghost went; thumb: the rule of thumb's. said, came, count: [bins]."""

    nats: float
    thumb: float
    said: np.ndarray
    came: np.ndarray
    count: np.ndarray


# %%
@torch.no_grad()
def judge_ghosts(model: nn.Module, memory: Memory, bins: int = 10) -> Ghosts:
    """Likelihood and calibration of where one ghost goes."""
    nats, thumb, sums = [], [], np.zeros((3, bins))
    for t in range(len(memory.actions)):
        seen, after = (
            (part[t] >= MAZES.GHOST).flatten(1) for part in (memory.frames, memory.after)
        )
        on = ~memory.cleared[t] & (seen.sum(1) == 1) & (after.sum(1) == 1)
        frames = memory.frames[t][on]
        chances = (
            model(frames, memory.actions[t][on])[0].softmax(1)[:, MAZES.GHOST :].sum(1).flatten(1)
        )
        went, rows = after[on].int().argmax(1), torch.arange(len(frames))
        nats.append(-(chances / chances.sum(1, keepdim=True))[rows, went].log())
        thumb.append(-rule_of_thumb(frames)[rows, went].log())
        said, came = chances.numpy().ravel(), after[on].numpy().ravel()
        place = np.minimum((said * bins).astype(int), bins - 1)
        told = said > 0.005  # the many cells that are out of reach say nothing
        for row, amount in enumerate((said, came, np.ones_like(said))):
            sums[row] += np.bincount(place[told], amount[told], bins)
    (said, came, count), per = sums, np.maximum(sums[2], 1)
    losses = (torch.cat(part).mean().item() for part in (nats, thumb))
    return Ghosts(*losses, said / per, came / per, count)


# %% tags=["R8"]
ghosts = judge_ghosts(model, tested)
print(
    f"left open, in nats: model {ghosts.nats:.3f} · rule of thumb {ghosts.thumb:.3f} · copying: infinite"
)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
often = ghosts.count >= by_budget(1, 50)
left.plot([0, 1], [0, 1], color=plots.INK, linewidth=0.8)
left.plot(ghosts.said[often], ghosts.came[often], "o-")
left.set(xlabel="probability of a ghost that the model gave", ylabel="share where one came")
right.bar(
    ["real", "likeliest kinds", "drawn kinds"], [ahead["real"], ahead["ghosts"], flipped["ghosts"]]
)
right.set(ylabel="ghosts in a frame, five steps ahead")
plt.show()

# %% [markdown]
# *Left: what the model says of a cell, and how often a ghost comes (on the line: calibrated). Right: cells with a ghost in the
# fifth imagined frame.*
#
# @@ Does the model know its ghosts? After 1,000 updates it was as good as the rule of thumb (1.090 against 1.083 nats), and no
# better. And a frame has to be made of the probabilities. If a ghost is
# nowhere likelier than not, then the frame of the likeliest kinds shows none: @@two of three have gone after five steps. If each cell
# is drawn by itself, a ghost may appear twice, or not at all: @@1.5 instead of 1. Neither frame is a sample of what could come,
# because cells are not independent. A model with hidden variables would draw the ghost's move once, for all cells.
#
# Step through an imagined game beside the real one: the same actions, the model on its own.

# %% tags=["R8"]
one = MAZES.MiniPacman(MAZES.MODES[model_config.mode], 1, np.random.default_rng(5))
real, dreamt = one.frames(), torch.from_numpy(one.frames())
shots = []
for action in (
    MAZES.UP,
    MAZES.UP,
    MAZES.LEFT,
    MAZES.LEFT,
    MAZES.LEFT,
    MAZES.DOWN,
    MAZES.DOWN,
    MAZES.RIGHT,
    MAZES.RIGHT,
    MAZES.RIGHT,
):
    side = np.concatenate(
        [
            MAZES.picture(real[0], 10),
            np.full((150, 10, 3), 128, np.uint8),
            MAZES.picture(dreamt[0].numpy(), 10),
        ],
        1,
    )
    shots.append(MAZES.png_of(side))
    with torch.no_grad():
        dreamt = shown(model(dreamt, torch.tensor([action]))[0])
    one.step(np.array([action]))
    real = one.frames()
show(scrubber(shots, "step"), shots[-1])

# %% [markdown]
# *Left the real game, right the imagined one, which begins with the same frame and never looks again.*

# %% [markdown]
# ## An agent that imagines
#
# The **imagination-augmented agent** (I2A) does not trust its model enough to plan with it. For each of its five actions it
# imagines a few steps; an encoder reads each imagined film, last frame first, and makes a code of it. The policy gets the five
# codes, and besides them what the agent without imagination has: its own look at the frame. What an imagined film is good for
# is learned, so a wrong one can be ignored.
#
# The first action of a film is fixed. The others come from a **rollout policy**: a small network that learns to do what the
# agent does. Without it the agent would have to imagine in order to imagine.
#
# The films of B frames stand in B · 5 rows, all five of a frame in a row: frame 0 with actions 0 to 4, then frame 1. That
# order, **state-major**, has to be the same wherever frames, actions or codes are laid out; a slip gives frames the films of
# others, and nothing complains.


# %%
class Dream(NamedTuple):
    """Films of B frames and 5 first actions, state-major. frames: [depth, B · 5, 15, 19] (uint8); rewards: [depth, B · 5]."""

    frames: torch.Tensor
    rewards: torch.Tensor


@torch.no_grad()
def imagine(model: nn.Module, policy: nn.Module, frames: torch.Tensor, depth: int) -> Dream:
    """What the model says of every action in frames [B, 15, 19], and of the policy's actions after it.

    An imagined frame is one of kinds, like a real one: model, policy and encoder see what they were trained on. The
    reward is the mean of the model's, and in the game's own units.
    """
    films, rewards = [], []
    actions = torch.arange(5, device=frames.device).repeat(len(frames))
    for step in range(depth):
        if step:
            actions = MAZES.draw_actions(policy(frames))
        kinds, classes = model(frames, actions)  # the first step: five actions for each frame
        frames = shown(kinds)
        films.append(frames)
        rewards.append(classes.softmax(-1) @ model.table)
    return Dream(torch.stack(films), torch.stack(rewards))


# %%
def small_eye(units: int) -> nn.Sequential:
    """Features [B, units] of planes [B, 7, 15, 19]; for what is asked five times a step."""
    return nn.Sequential(
        nn.Conv2d(7, 16, 3, stride=2), nn.ReLU(),  # [B, 16, 7, 9]
        nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(560, units), nn.ReLU(),
    )  # fmt: skip


class RolloutPolicy(nn.Module):
    """Log-probabilities [B, 5] from frames [B, 15, 19]: a small copy of the agent's policy."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(small_eye(64), nn.Linear(64, 5))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.layers(MAZES.planes(frames)).log_softmax(-1)


# %%
class Imaginer(nn.Module):
    """I2A's network: a policy and a value from frames and their dreams. code: units of a film's code."""

    def __init__(self, code: int = 64) -> None:
        super().__init__()
        self.body = MAZES.PacmanNet().body
        self.eye, self.film = small_eye(code), nn.GRU(code + 1, code)
        self.join = nn.Linear(256 + 5 * code, 256)
        self.policy, self.value = nn.Linear(256, 5), nn.Linear(256, 1)

    def encode(self, dream: Dream) -> torch.Tensor:
        """A code for each film, read from its end to its beginning: [B · 5, code]."""
        depth, rows = dream.rewards.shape
        seen = self.eye(MAZES.planes(dream.frames.flatten(0, 1))).view(depth, rows, -1)
        told = torch.cat([seen, dream.rewards[..., None]], -1)
        return self.film(told.flip(0))[1][0]

    def forward(self, frames: torch.Tensor, dream: Dream) -> tuple[torch.Tensor, torch.Tensor]:
        """frames: [B, 15, 19]. Returns log-probabilities [B, 5] and values [B]."""
        codes = self.encode(dream).view(len(frames), -1)  # [B, 5 · code], state-major
        joined = torch.cat([self.body(MAZES.planes(frames)), codes], 1)
        joined = self.join(joined).relu()
        return self.policy(joined).log_softmax(-1), self.value(joined)[:, 0]


# %% [markdown]
# The rollout policy learns by **distillation**: by the cross-entropy $-\sum_a \pi(a) \log \hat\pi(a)$ to the agent's policy
# $\pi$, which stands still meanwhile. It has an optimiser of its own.


# %%
def distill(
    policy: nn.Module,
    optimiser: torch.optim.Optimizer,
    frames: torch.Tensor,
    log_probs: torch.Tensor,
) -> float:
    """One step of the rollout policy towards the agent's log_probs [B, 5]. Returns the cross-entropy, in nats."""
    loss = -(log_probs.detach().exp() * policy(frames)).sum(-1).mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


# %% [markdown]
# "It imagines, and it is better" does not show that imagining helped. An agent with the same network may be better because it
# is larger. So there are controls: a model that **copies** the frame (the same network, the same work, no foresight), one
# **without rewards**, other depths, and an A2C with at least as many parameters.


# %%
@dataclass(frozen=True)
class I2AConfig(MAZES.PacmanConfig):
    """I2A on MiniPacman."""

    depth: int = knob(1, 1, 5, "imagined steps")
    model: str = choice("learned", ("learned", "copy", "without rewards"))
    distill_rate: float = knob(
        1e-3, 1e-5, 1e-2, "learning rate of the rollout policy (Adam)", step=1e-4
    )


def model_for(config: I2AConfig, model: nn.Module) -> nn.Module:
    """The model that the agent gets: the learned one, or one of the controls."""
    table = reward_table(MAZES.MODES[config.mode])
    if config.model == "copy":
        return CopyModel(table, table.index(round(MAZES.MODES[config.mode].step, 3)))
    return Unpaid(model) if config.model == "without rewards" else model


# %% [markdown]
# Against [chapter 07b](ch07b_minipacman.ipynb) three things change: whoever looks at a frame dreams about it, the network is
# asked about both, and after each update the rollout policy learns.


# %%
class Dreamers(MAZES.Players):
    """Players who imagine what each of their frames may bring. dreams: a buffer beside that of the frames."""

    def __init__(
        self,
        net: nn.Module,
        config: I2AConfig,
        rng: np.random.Generator,
        dreamer: Callable[[torch.Tensor], Dream],
    ) -> None:
        super().__init__(net, config, rng)
        self.dreamer, self.dreams = dreamer, [None] * len(self.frames)

    def look(self, t: int) -> None:
        super().look(t)
        self.dreams[t] = self.dreamer(self.frames[t])

    def ask(self, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.net(self.frames[t], self.dreams[t])


# %%
class Imagining(MAZES.Learner):
    """What trains: the network, and the rollout policy with an optimiser of its own. The model no longer learns."""

    def __init__(self, config: I2AConfig, model: nn.Module, seed: int, device: str = "cpu") -> None:
        torch.manual_seed(spread((MAZES.IMAGINING, seed), 1)[0])
        net, self.rollout = Imaginer().to(device), RolloutPolicy().to(device)
        self.model = model_for(config, model).to(device).requires_grad_(False)
        rng = np.random.default_rng((MAZES.IMAGINING, seed))
        self.dreamer = partial(imagine, self.model, self.rollout, depth=config.depth)
        super().__init__(Dreamers(net, config, rng, self.dreamer), config, rng)
        self.distiller = torch.optim.Adam(self.rollout.parameters(), config.distill_rate)
        self.parts |= {"rollout": self.rollout, "distiller": self.distiller}

    def policy(self, frames: torch.Tensor) -> torch.Tensor:
        return self.net(frames, self.dreamer(frames))[0]

    def update(self) -> dict[str, float]:
        """Play, learn, and distil what the agent would have done."""
        played = MAZES.collect(self.players)
        frames, dreams = played.frames.flatten(0, 1), self.players.dreams[:-1]
        dream = Dream(*(torch.cat(part, 1) for part in zip(*dreams, strict=True)))
        log_probs, values = self.net(frames, dream)
        metrics = self.learn(played, log_probs, values)
        if self.config.depth > 1:  # else nobody asks it
            metrics["distilled"] = distill(self.rollout, self.distiller, frames, log_probs)
        return metrics


# %%
def train_i2a(
    config: I2AConfig,
    seed: int,
    state: dict | None = None,
    device: str = "cpu",
    *,
    model: nn.Module,
) -> Iterator[Progress]:
    """I2A on MiniPacman, with a model of its mode. state: see chapter 07b's ``training``."""
    yield from MAZES.training(Imagining(config, model, seed, device), state)


def parameters_of(net: nn.Module) -> int:
    return sum(weight.numel() for weight in net.parameters())


class WideNet(MAZES.PacmanNet):
    """A2C's network with as many units as give it at least as many parameters as these."""

    def __init__(self, parameters: int) -> None:
        super().__init__()
        shallow = parameters_of(self.body[:4])
        units = -(-(parameters - shallow - 6) // (768 + 1 + 6))
        self.body[5] = nn.Linear(768, units)
        self.policy, self.value = nn.Linear(units, 5), nn.Linear(units, 1)


def wide(config: MAZES.PacmanConfig, seed: int, device: str = "cpu") -> MAZES.Learner:
    """A2C with at least as many parameters as I2A."""
    torch.manual_seed(spread((MAZES.IMAGINING, seed), 1)[0])
    rng = np.random.default_rng((MAZES.IMAGINING, seed))
    net = WideNet(parameters_of(Imaginer())).to(device)
    return MAZES.Learner(MAZES.Players(net, config, rng), config, rng)


# %% tags=["R9"]
i2a_config = by_budget(smoke=I2AConfig(steps=1_000), laptop=I2AConfig(steps=60_000))
floor = MAZES.play(
    MAZES.PLAYERS["eater"](),
    MAZES.MODES[i2a_config.mode],
    by_budget(4, 64),
    np.random.default_rng(MAZES.SCORING),
).returns.mean()
i2a_run = watch(
    train_i2a(i2a_config, seed=1, model=model),
    "return",
    floor=floor,
    floor_label="the eater, who learns nothing",
)

# %% [markdown]
# *Mean return of the last hundred episodes; the model's own @@204,800 steps are not counted in this figure.*
#
# @@ What it learns, against A2C with equal steps; with the model's steps; by the clock; and the controls. The public attempts
# to repeat the paper's result that we found stopped short or compared unequal runs. So all seeds are shown, whatever they say.
#
# Watch it think: the real frame, and what the agent imagines for each of its actions.


# %% tags=["hide-input"]
def thought(agent: Imagining, frame: torch.Tensor) -> bytes:
    """A PNG: a real frame [15, 19] and, for each action, the last frame of its film, its rewards' sum and its chance."""
    dream = agent.dreamer(frame[None])
    with torch.no_grad():
        chances = agent.net(frame[None], dream)[0][0].exp()
    figure, panels = plt.subplots(1, 6, figsize=(10.5, 1.9))
    MAZES.draw_frame(panels[0], frame.numpy(), "real")
    for action, axes in enumerate(panels[1:]):
        MAZES.draw_frame(axes, dream.frames[-1, action].numpy())
        mark = "▸ " if action == int(chances.argmax()) else ""
        paid = f"{dream.rewards[:, action].sum():+.2f} · {chances[action]:.0%}"
        axes.set_title(f"{mark}{MAZES.ACTION_NAMES[action]}\n{paid}", fontsize=9)
    image = plots.to_png(figure)
    plt.close(figure)
    return image


# %% tags=["R9"]
agent, thoughts = Imagining(i2a_config, model, 1), []
agent.restore(i2a_run.state)
one = MAZES.MiniPacman(MAZES.MODES[i2a_config.mode], 1, np.random.default_rng(6))
torch.manual_seed(0)
for _ in range(by_budget(3, 25)):
    frame = torch.from_numpy(one.frames())
    thoughts.append(thought(agent, frame[0]))
    action = MAZES.player_of(agent.policy)(one.frames(), agent.rng)
    if one.step(action).terminated[0]:
        break
show(scrubber(thoughts, "step"), thoughts[-1])

# %% [markdown]
# *The real frame; then for each action what is imagined, the reward that is expected, and how likely the agent is to take it. The
# triangle marks the likeliest.*
#
# The panel trains with settings of your own: turn the depth, or take the model away.

# %% tags=["R9"]
preview = plots.to_png(live_curve(i2a_run, "return", floor, floor_label="the eater"))
i2a_panel = panel(
    partial(train_i2a, model=model),
    I2AConfig(steps=20_000),
    metric="return",
    floor=floor,
    preview=preview,
)

# %% [markdown]
# ## What the published code does otherwise
#
# Many public versions copy the workshop's code line by line. Some of what it does is no rule of the game, and some of it
# is wrong. A world has to be read before anything is learned in it:
#
# - A ghost's first heading is drawn from 0 to 3 while headings count from 2: two of the four wrap around to others.
# - New ghosts keep 6 cells of distance to the left and above, and 5 to the right and below: one end of the range is included.
# - Two ghosts that meet Pacman in one step take twice 20 points; a ghost that is eaten stops all others for that step.
# - When the clock clears a level (in avoid, after 128 steps; a [later port](https://github.com/FlorianKlemt/gym-minipacman)
#   has a limit of 80 in hunt and ambush too, the author's code has none) the frame still shows the old one, and the next action is taken in a maze that nobody has
#   seen.
# - A level that food or pills clear is dealt out in the middle of Pacman's move, and the new ghosts move in the same step.
# - Where Pacman and a ghost share a cell the frame shows Pacman. Ours shows the ghost: one should see that he is caught.
# - The step limit ends an episode as if Pacman had died: no value follows.
# - Tables of the rewards that a step can bring leave out sums. In avoid they have 0.1 and −0.1, but a step that eats food
#   brings 0.0. In rush they have 9.9 and not 10, which the second of two pills in one cell brings. In hunt a pill and a
#   ghost can be eaten in one step: 11. A dictionary then raises `KeyError` in the middle of a run.
# - One table of colours rounds, the other rounds up: an edible ghost with half of its power left, or less, is dangerous in one of them.
#   And the two tables number Pacman and the pill differently: a model that was trained with one imagines Pacmen for pills
#   with the other.
# - A loop over "a million frames" counts updates of 80 frames each.
#
# ## Exercises
#
# %% [markdown]
# **R8.1 Calibrated or not.** Write `calibration(said, came, bins)`: `said` [N] are probabilities, `came` [N] tells what happened.
# Sort them into `bins` equal parts of 0 to 1 (a probability of 1 belongs to the last). Return two arrays [bins]: the mean
# of what was said and the share of what came; 0 where a part is empty.

# %%
# Your calibration(said, came, bins), and then check("R8.1", calibration)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
def calibration(said: np.ndarray, came: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    place = np.minimum((np.asarray(said) * bins).astype(int), bins - 1)
    per = np.maximum(np.bincount(place, minlength=bins), 1)
    return np.bincount(place, said, bins) / per, np.bincount(place, came, bins) / per


# check("R8.1", calibration)

# %% [markdown]
# **R9.1 Spot the bugs.** Three lines of a published I2A go wrong in silence. Which are they, and what would each do?
#
# ```python
# rows = frames.repeat(5, 1, 1)                              # [B · 5, 15, 19]
# actions = torch.arange(5).repeat(len(frames))              # [B · 5]
# ...
# distill_loss = (policy.detach() * rollout_log_policy).sum(1).mean()
# optimizer.zero_grad(); distill_loss.backward(); optimizer.step()
# ```
#
# Then write `films_of(codes, frames)`: codes [B · 5, n], state-major; return an array [B, 5 · n] that joins each frame's own
# codes; B is `frames`.

# %%
# Your films_of(codes, frames), and then check("R9.1", films_of)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
def films_of(codes: np.ndarray, frames: int) -> np.ndarray:
    return codes.reshape(frames, -1)


# The frames are action-major (all frames, five times over), the actions state-major: row 1 asks frame 1, not frame 0, for action
# 1. The distillation lacks its minus sign, so that the rollout policy learns to avoid what the agent does. And the agent's
# optimiser is stepped, which does not hold the rollout policy's weights: it never learns at all, which hides the missing sign.

# %% [markdown]
# ## What `make results` measures


# %% tags=["hide-input"]
def trained(config: MAZES.PacmanConfig, seed: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The policy of an A2C that has been trained to the end."""
    learner = MAZES.a2c(config, seed)
    for _ in MAZES.training(learner):
        pass
    return learner.policy


def measure_model(config: ModelConfig, seed: int) -> Measured:
    """R8's questions, in games of held actions, of another seed's A2C, and of the careful eater, whom it has never seen."""
    veterans = [
        trained(MAZES.PacmanConfig(mode=config.mode), number) for number in (seed, seed + 100)
    ]
    began, found = time.process_time(), {}
    for progress in train_model(config, seed, veteran=veterans[0]):
        pass
    state, seconds = progress.state(), time.process_time() - began
    model = model_of(state, config.mode)
    torch.manual_seed(spread((MAZES.SCORING, seed), 1)[0])
    players = {
        "held": MAZES.held(4),
        "a2c": MAZES.player_of(veterans[1]),
        "eater": MAZES.PLAYERS["careful eater"](),
    }
    for number, (name, player) in enumerate(players.items()):
        rng = np.random.default_rng((MAZES.SCORING, seed, number))
        memory = remember(player, config.mode, 256, 100, rng)
        copying = CopyModel(model.table.tolist(), int(memory.rewards.flatten().mode().values))
        ghosts, beside = judge_ghosts(model, memory), judge(copying, memory)
        parts = {"": judge(model, memory), "copy_": {k: v for k, v in beside.items() if "count" not in k},
                 "ahead_": look_ahead(model, memory), "drawn_": look_ahead(model, memory, draw=True),
                 "ghost_": {"nats": ghosts.nats, "thumb": ghosts.thumb}}  # fmt: skip
        found |= {
            f"{name}_{kind}{key}": v for kind, part in parts.items() for key, v in part.items()
        }
        if name == "held":
            curves = {k: getattr(ghosts, k).tolist() for k in ("said", "came", "count")}
    return Measured(found | {"seconds": seconds}, curves=curves, state={"model": state["model"]})


# %% tags=["hide-input"]
def stored_model(mode: str, seed: int) -> WorldModel:
    """Row R8's model of a mode and a seed."""
    path = results.run_path("R8", mode, seed).with_suffix(".safetensors")
    return model_of(load_checkpoint(path)["state"], mode)


def measure_i2a(config: I2AConfig, seed: int) -> Measured:
    """I2A with row R8's model of the mode and the seed."""
    return MAZES.measure_training(Imagining(config, stored_model(config.mode, seed), seed), seed)


def measure_wide(config: MAZES.PacmanConfig, seed: int) -> Measured:
    """A2C with as many parameters."""
    return MAZES.measure_training(wide(config, seed), seed)


# %% tags=["hide-input"]
THREE, FIVE = (1, 2, 3), (1, 2, 3, 4, 5)
AGENTS = {
    "depth1": {"depth": 1}, "depth3": {"depth": 3}, "copy": {"model": "copy"}, "unpaid": {"model": "without rewards"}
}  # fmt: skip
LENGTHS = {"regular": 150_000, "hunt": 250_000}
MEASUREMENTS = [
    *(
        Measurement("R8", mode, measure_model, ModelConfig(mode=mode), FIVE, (
            Metric("held_changed", "share of changed cells right, without ghosts"),
            Metric("held_reward", "share of rewards right"),
            Metric("held_ahead_pacman", "Pacman found five imagined steps ahead"),
        ) if mode == "regular" else ())
        for mode in MAZES.MODES
    ),
    *(
        Measurement("R9", f"{mode}_{name}", measure_i2a, I2AConfig(mode=mode, steps=steps, **settings), THREE, (
            Metric("returns", f"mean return after {steps:,} steps"), Metric("speed", "steps/s, learning included", "median"),
        ) if name == "depth1" and mode == "regular" else ())
        for mode, steps in LENGTHS.items() for name, settings in AGENTS.items()
    ),
    *(Measurement("R9", f"{mode}_wide", measure_wide, MAZES.PacmanConfig(mode=mode, steps=steps), THREE) for mode, steps in LENGTHS.items()),
]  # fmt: skip
