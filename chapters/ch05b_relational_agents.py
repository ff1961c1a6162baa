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
# # 05b · Relational agents: a key, a door, and who looks at whom
#
# <!-- card: An agent with attention fetches a key, opens a door and reaches its goal; then you cover what it looks at. -->
#
# **What you will build.** MiniGrid's DoorKey as arrays, hundreds of worlds at once; a network in which the objects of
# a world attend to each other, with several heads; and double Q-learning, which makes an agent of it within half a
# minute. Then you take it apart: against networks without attention, in other frames of reference, with more and less
# chance, in rooms that it has never seen. At the end you look at what it attends to, and test what that means.
#
# | | |
# |---|---|
# | **You need** | [Chapter 05](ch05_attention.ipynb) for attention, [chapter 00](ch00_foundations.ipynb) for Q-learning with replay and a target network. |
# | **Time** | About TIME for all cells on two cores; the agent trains in half a minute. |
# | **Memory** | About 1 GB. No GPU. |
# | **Budget** | `RLBOOK_BUDGET` is `laptop` unless you set it; the next cell shows it. |
#
# The chapter accompanies sections 10.4 to 10.6 of [Zai and Brown (2020)](../book/bibliography.md#zai2020).

# %%
import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import matplotlib.pyplot as plt
import minigrid
import numpy as np
import torch
from einops import rearrange
from matplotlib.axes import Axes
from minigrid.core.constants import COLOR_NAMES
from minigrid.core.grid import Grid
from minigrid.core.mission import MissionSpace
from minigrid.core.world_object import Door, Goal, Key, Wall
from minigrid.envs.doorkey import DoorKeyEnv
from minigrid.minigrid_env import MiniGridEnv
from torch import nn
from torch.nn import functional as F

from rlbook_utils import plots, results
from rlbook_utils.checkpoint import as_tensors, load_checkpoint, random_state, restore_random
from rlbook_utils.config import budget, by_budget, check_config, choice, knob
from rlbook_utils.definitions import load_chapter
from rlbook_utils.exercises import check
from rlbook_utils.results import Measured, Measurement, Metric
from rlbook_utils.rollout import spread
from rlbook_utils.run import Progress, watch
from rlbook_utils.video import show_clip
from rlbook_utils.widgets import image_slider, panel, scrubber, show

plots.use_style()
ATTENTION = load_chapter("ch05_attention")

# %% tags=["remove-stderr"]
versions = f"torch {torch.__version__} · minigrid {minigrid.__version__} · numpy {np.__version__}"
print(f"budget {budget()} · {results.cores()} cores · {versions}")

# %% [markdown]
# ## A world of tokens
#
# In [DoorKey](https://minigrid.farama.org/environments/minigrid/DoorKeyEnv/) an agent (the triangle) has to fetch a
# key, open a locked door with it and walk to the green square. Only there is a reward. The walls, the key, the agent and
# its heading are drawn anew in each episode.


# %%
def look_at(*envs: MiniGridEnv, titles: tuple[str, ...] = ()) -> None:
    """Draw MiniGrid worlds side by side, as MiniGrid does."""
    figure, panels = plt.subplots(1, len(envs), figsize=(2.4 * len(envs), 2.6), squeeze=False)
    for axes, env, title in zip(panels[0], envs, titles or [""] * len(envs), strict=True):
        axes.imshow(env.get_frame(highlight=False, tile_size=24))
        axes.set(xticks=[], yticks=[], title=title)
        axes.grid(visible=False)
    plt.show()


rooms = [DoorKeyEnv(size=size) for size in (5, 6, 8, 16)]
for env in rooms:
    env.reset(seed=2)
look_at(*rooms, titles=tuple(f"{env.width} × {env.height}" for env in rooms))

# %% [markdown]
# *DoorKey in four sizes, drawn by MiniGrid. The agent starts on the key's side, and the goal is always in the lower
# right corner.*
#
# The agent turns left or right, steps forward, picks up what lies before it or uses it ("toggle"); MiniGrid also lets it
# drop what it carries, which the source leaves out, and so do we. An episode is cut off after ten times as many steps as
# the map has cells.
#
# What does a world consist of? Not of pixels. It consists of objects, and each is a handful of numbers: what it is, its
# colour, its state, and where it is. We call such a row a **token**. The tokens of a world are a set: their order means
# nothing. That is what attention takes.

# %%
AGENT, KEY, DOOR, GOAL = range(4)  # kinds
OPEN, CLOSED, LOCKED = range(
    3
)  # states of a door; of a key: 0 lying, 1 carried; of the agent: its heading
KIND, COLOUR, STATE, X, Y = range(5)  # the columns of a token
TURN_LEFT, TURN_RIGHT, FORWARD, PICK_UP, DROP, TOGGLE = range(6)  # MiniGrid's numbers
ACTIONS = np.array([TURN_LEFT, TURN_RIGHT, FORWARD, PICK_UP, TOGGLE])  # the source's five
ACTION_NAMES = ("turn left", "turn right", "forward", "pick up", "toggle")
HEADINGS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])  # right, down, left, up: (x, y)
YELLOW, GREEN = COLOR_NAMES.index("yellow"), COLOR_NAMES.index("green")


def tokens_of(env: MiniGridEnv) -> np.ndarray:
    """The tokens of a MiniGrid world: agent, keys, doors, goal, from left to right and top to bottom: [N, 5] (uint8)."""
    x, y = env.agent_pos
    lying = [((env.grid.get(i, j)), i, j) for i in range(env.width) for j in range(env.height)]
    things = [(thing, i, j) for thing, i, j in lying if isinstance(thing, Key | Door | Goal)]
    if env.carrying:
        things.append((env.carrying, x, y))
    rows = [(AGENT, 0, env.agent_dir, x, y)]
    for thing, i, j in things:
        kind = {"key": KEY, "door": DOOR, "goal": GOAL}[thing.type]
        state = thing.encode()[2] if kind == DOOR else int(thing is env.carrying)
        rows.append((kind, COLOR_NAMES.index(thing.color), state, i, j))
    return np.array(sorted(rows[:1]) + sorted(rows[1:], key=lambda row: row[0]), np.uint8)


print("kind colour state x y   (5 × 5, at the left above)")
print(tokens_of(rooms[0]))

# %% [markdown]
# Row by row: the agent, the key, the door, the goal. Inner walls need no token: they stand in the door's column.
#
# ### Hundreds of worlds at once
#
# MiniGrid steps one world at a time, in Python. Worlds that consist of a few bytes can be stepped together, as
# arrays. First the layout. `doorkey` draws as MiniGrid does: a column for the wall, a cell for the door, and distinct
# cells left of the wall for agent and key.


# %%
WALL, EMPTY = -1, 0  # what a cell holds, else the number of a token


class Layout(NamedTuple):
    """Fresh worlds. tokens: [B, N, 5] (uint8), the agent's first. cells: [B, side²] (int8): WALL, EMPTY or a token's row."""

    tokens: np.ndarray
    cells: np.ndarray


def walled(count: int, side: int) -> np.ndarray:
    """Empty rooms with a wall around them: [B, side, side]."""
    cells = np.zeros((count, side, side), np.int8)
    cells[:, [0, -1]] = cells[:, :, [0, -1]] = WALL
    return cells


def lay_out(tokens: np.ndarray, cells: np.ndarray) -> Layout:
    """Put every token but the agent's into its cell. tokens: [B, N, 5], cells: [B, side, side]."""
    worlds = np.arange(len(tokens))
    for number in range(1, tokens.shape[1]):
        cells[worlds, tokens[:, number, Y], tokens[:, number, X]] = number
    return Layout(tokens.astype(np.uint8), cells.reshape(len(tokens), -1))


# %%
def cells_left(count: int, wall: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """Distinct cells left of a wall, drawn evenly. wall: its column in each world [B]. Returns (x, y): [B, count, 2]."""
    wide, tall = wall - 1, side - 2
    lots = rng.random((len(wall), wide.max() * tall))
    lots[np.arange(lots.shape[1]) >= (wide * tall)[:, None]] = 2  # beyond the wall
    chosen = lots.argsort(1)[:, :count]
    return np.stack([1 + chosen % wide[:, None], 1 + chosen // wide[:, None]], -1)


def doorkey(count: int, side: int, rng: np.random.Generator) -> Layout:
    """MiniGrid's DoorKey. Raises ValueError for a side below 5, where there is no room for it."""
    if side < 5:
        raise ValueError(f"DoorKey of side {side} does not exist; it takes at least 5.")
    wall, tokens = rng.integers(2, side - 2, count), np.zeros((count, 4, 5), int)
    spots, heading = cells_left(2, wall, side, rng), rng.integers(4, size=count)
    tokens[:, :, KIND] = AGENT, KEY, DOOR, GOAL
    tokens[:, :, COLOUR] = 0, YELLOW, YELLOW, GREEN
    tokens[:, 0, STATE], tokens[:, 2, STATE] = heading, LOCKED
    tokens[:, :2, X:] = spots
    tokens[:, 2, X:] = np.stack([wall, rng.integers(1, side - 2, count)], -1)
    tokens[:, 3, X:] = side - 2
    cells = walled(count, side)
    cells[np.arange(count), :, wall] = WALL
    return lay_out(tokens, cells)


# %%
def empty(count: int, side: int, rng: np.random.Generator) -> Layout:
    """MiniGrid's empty room, the agent somewhere in it (Empty-Random). Raises ValueError for a side below 4."""
    if side < 4:
        raise ValueError(f"An empty room of side {side} does not exist; it takes at least 4.")
    tokens = np.zeros((count, 2, 5), int)
    spot = rng.integers((side - 2) ** 2 - 1, size=count)  # anywhere but on the goal
    tokens[:, 0, X], tokens[:, 0, Y] = 1 + spot % (side - 2), 1 + spot // (side - 2)
    tokens[:, 0, STATE] = rng.integers(4, size=count)
    tokens[:, 1] = GOAL, GREEN, 0, side - 2, side - 2
    return lay_out(tokens, walled(count, side))


# %% [markdown]
# A step looks at the cell before the agent and does what the action asks for, in all worlds at once. Two tables do the
# work: `tokens` says what there is, and `cells` says which token stands where, so that nobody has to search.


# %%
class Rooms:
    """Worlds side by side, with MiniGrid's rules. tokens: [B, N, 5]; clock: steps of this episode [B]."""

    def __init__(self, layout: Callable[..., Layout], count: int, side: int, rng: np.random.Generator,
                 max_steps: int | None = None) -> None:  # fmt: skip
        self.layout, self.side, self.rng = layout, side, rng
        self.max_steps = max_steps or 10 * side**2
        self.tokens, self.cells = layout(count, side, rng)
        self.numbers = np.arange(count)
        self.carried = np.zeros(count, int)  # the row of the key in hand, 0 for none
        self.clock = np.zeros(count, int)
        self._stock, self._left = None, 0

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Carry out MiniGrid's actions [B]. Returns rewards, terminated and truncated, [B] each; ``tokens`` is what is seen."""
        agent = self.tokens[:, 0]
        ahead = HEADINGS[agent[:, STATE]] @ (1, self.side)
        front = agent[:, Y].astype(int) * self.side + agent[:, X] + ahead
        found = self.cells[self.numbers, front]
        thing = self.tokens[self.numbers, np.maximum(found, 0)]  # [B, 5]
        kind = np.where(found > 0, thing[:, KIND], AGENT)  # nothing there: nobody's kind
        self.clock += 1
        agent[:, STATE] = (agent[:, STATE] + (actions == TURN_RIGHT) - (actions == TURN_LEFT)) % 4
        open_door = (kind == DOOR) & (thing[:, STATE] == OPEN)
        moves = (actions == FORWARD) & ((found == EMPTY) | (kind == GOAL) | open_door)
        agent[moves, X], agent[moves, Y] = front[moves] % self.side, front[moves] // self.side
        self._handle(actions, front, found, kind)
        terminated = (actions == FORWARD) & (kind == GOAL)
        rewards = np.where(terminated, 1 - 0.9 * self.clock / self.max_steps, 0.0)
        return rewards, terminated, self.clock >= self.max_steps

    def _handle(
        self, actions: np.ndarray, front: np.ndarray, found: np.ndarray, kind: np.ndarray
    ) -> None:
        """Pick up, drop and toggle; what is carried goes where the agent goes."""
        tokens, carried, cells = self.tokens, self.carried, self.cells
        takes = np.flatnonzero((actions == PICK_UP) & (kind == KEY) & (carried == 0))
        carried[takes], tokens[takes, found[takes], STATE] = found[takes], 1
        cells[takes, front[takes]] = EMPTY
        turns = np.flatnonzero((actions == TOGGLE) & (kind == DOOR))
        door, held = tokens[turns, found[turns]], tokens[turns, carried[turns]]
        fits = (carried[turns] > 0) & (held[:, COLOUR] == door[:, COLOUR])
        shut = np.where(fits, OPEN, LOCKED)
        after = np.where(door[:, STATE] == LOCKED, shut, CLOSED - door[:, STATE])
        tokens[turns, found[turns], STATE] = after
        hands = np.flatnonzero(carried)
        tokens[hands, carried[hands], X:] = tokens[hands, 0, X:]
        drops = np.flatnonzero((actions == DROP) & (found == EMPTY) & (carried > 0))
        key, cell = carried[drops], front[drops]
        tokens[drops, key, STATE], cells[drops, cell], carried[drops] = 0, key, 0
        tokens[drops, key, X], tokens[drops, key, Y] = cell % self.side, cell // self.side

    def reset(self, over: np.ndarray) -> None:
        """Fresh worlds where ``over`` [B] says so. Layouts are drawn many at a time and kept in stock."""
        which = np.flatnonzero(over)
        if not len(which):
            return
        if len(which) > self._left:
            self._left = max(1024, len(which))
            self._stock = self.layout(self._left, self.side, self.rng)
        taken = slice(self._left - len(which), self._left)
        self.tokens[which], self.cells[which] = self._stock.tokens[taken], self._stock.cells[taken]
        self._left -= len(which)
        self.carried[which] = self.clock[which] = 0


# %% [markdown]
# ### The referee
#
# A world of our own could be easier than the real one without our noticing. So MiniGrid stays in the room: it can be
# given any of our layouts, to draw it and to play it along. Both must agree on every token, reward and end.


# %%
class Given(MiniGridEnv):
    """A MiniGrid world with a layout of ours. tokens: [N, 5]; cells: [side²]."""

    def __init__(self, tokens: np.ndarray, cells: np.ndarray, max_steps: int) -> None:
        self.rows, self.plan = tokens.tolist(), cells.reshape(round(len(cells) ** 0.5), -1)
        super().__init__(MissionSpace(lambda: ""), grid_size=len(self.plan), max_steps=max_steps)

    def _gen_grid(self, width: int, height: int) -> None:
        self.grid, self.mission = Grid(width, height), ""
        for y, x in np.argwhere(self.plan == WALL).tolist():
            self.grid.set(x, y, Wall())
        (_, _, self.agent_dir, *spot), *others = self.rows
        self.agent_pos = tuple(spot)
        for kind, colour, state, x, y in others:
            name = COLOR_NAMES[colour]
            door = partial(Door, is_open=state == OPEN, is_locked=state == LOCKED)
            self.grid.set(x, y, {KEY: Key, DOOR: door, GOAL: lambda _: Goal()}[kind](name))


def as_minigrid(rooms: Rooms, number: int = 0) -> MiniGridEnv:
    """One of our worlds, at the start of an episode, as MiniGrid's."""
    env = Given(rooms.tokens[number], rooms.cells[number], rooms.max_steps)
    env.reset()
    return env


# %% tags=["A6"]
def compare(side: int, steps: int, seed: int) -> tuple[int, int]:
    """Play random actions in both worlds. Returns the steps compared and the goals reached; raises where they differ."""
    rng = np.random.default_rng((COMPARING, seed))
    ours, goals = Rooms(doorkey, 1, side, rng), 0
    theirs = as_minigrid(ours)
    for step in range(steps):
        action = rng.choice(6, size=1, p=(0.12, 0.12, 0.3, 0.18, 0.03, 0.25))  # also DROP
        found = [part[0] for part in ours.step(action)]
        seen = theirs.step(int(action[0]))[1:4]
        if not (np.array_equal(ours.tokens[0], tokens_of(theirs)) and np.allclose(found, seen)):
            raise AssertionError(f"The worlds differ after {step + 1} steps.")
        goals += int(found[1])
        if found[1] or found[2]:
            ours.reset(np.array([True]))
            theirs = as_minigrid(ours)
    return steps, goals


COMPARING, TRAINING, JUDGING, RIVALS, LOOKING, WATCHING = range(
    6
)  # first part of the seeds of each use
for side in (5, 8):
    told = "{} steps at side {side}: equal in all tokens, rewards and ends; goals reached: {}"
    print(told.format(*compare(side, by_budget(500, 5_000), seed=1), side=side))

# %% [markdown]
# A test does this for forty thousand steps at four sizes, and compares how often each layout is drawn. What is gained?


# %%
def random_steps_per_second(count: int, side: int, steps: int) -> float:
    """How many steps of our worlds a second makes, with fresh observations and resets."""
    rng = np.random.default_rng(0)
    rooms = Rooms(doorkey, count, side, rng)
    actions = ACTIONS[rng.integers(len(ACTIONS), size=(steps, count))]
    began = time.perf_counter()
    for row in actions:
        _, terminated, truncated = rooms.step(row)
        rooms.tokens.copy()  # the observation
        rooms.reset(terminated | truncated)
    return steps * count / (time.perf_counter() - began)


def minigrid_steps_per_second(side: int, steps: int) -> float:
    """The same for MiniGrid's own DoorKey, which makes its picture in numbers at every step."""
    env, rng = DoorKeyEnv(size=side), np.random.default_rng(0)
    env.reset(seed=0)
    actions = ACTIONS[rng.integers(len(ACTIONS), size=steps)]
    began = time.perf_counter()
    for action in actions.tolist():
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    return steps / (time.perf_counter() - began)


# %% tags=["A6"]
steps = by_budget(50, 1_000)
print(f"MiniGrid          {minigrid_steps_per_second(8, steps):12,.0f} steps/s")
for count in (1, 64, 256, 1024):
    print(f"{count:4} worlds of ours {random_steps_per_second(count, 8, steps):12,.0f} steps/s")

# %% [markdown]
# One world alone is no faster than MiniGrid's: NumPy spends its time on being called. The gain is that a step of a
# thousand worlds costs hardly more than a step of one. <!-- held: speed -->
#
# ## The frame of reference
#
# A network gets a token as numbers. What it is and its state become a row of zeros with a single one. But where is it?
# MiniGrid counts cells from the upper left corner. "The key is at (3, 2)" says little to an agent that has to know
# whether to turn left. "One cell ahead, two to the right" says it all. The source writes that relational reasoning does
# without an absolute frame of reference, and then adds absolute coordinates to each node. Here the frame is a choice:
# `grid` (from the corner), `shifted` (from the agent), `agent` (from the agent, turned so that ahead is up).


# %%
FRAMES = ("agent", "shifted", "grid")
WIDTH_OF_TOKEN = 16 + len(COLOR_NAMES) + 6


def places(tokens: torch.Tensor, frame: str) -> torch.Tensor:
    """Where tokens [B, N, 5] (long) lie: in the agent's frame (cells ahead, cells to the right), else (x, y): [B, N, 2]."""
    here = tokens[..., X:]
    if frame == "grid":
        return here
    away = here - here[:, :1]
    if frame == "shifted":
        return away
    ahead = torch.as_tensor(HEADINGS, device=tokens.device)[tokens[:, 0, STATE]]  # [B, 2]
    right = torch.stack([-ahead[:, 1], ahead[:, 0]], -1)
    return torch.einsum("bnc,bkc->bnk", away, torch.stack([ahead, right], 1))


def as_features(tokens: torch.Tensor, frame: str) -> torch.Tensor:
    """Tokens [B, N, 5] (uint8) as a network likes them [B, N, F]: kind and state, colour, place, and place when near."""
    if tokens.shape[-1] != 5:
        raise ValueError(
            f"A token has 5 numbers (kind, colour, state, x, y), not {tokens.shape[-1]}."
        )
    tokens = tokens.long()
    what = F.one_hot(4 * tokens[..., KIND] + tokens[..., STATE], 16)
    colour = F.one_hot(tokens[..., COLOUR], len(COLOR_NAMES))
    place = places(tokens, frame)
    near = torch.cat([place.clamp(-1, 1), place.clamp(-2, 2) / 2], -1)
    return torch.cat([what, colour, place / 8, near], -1)


# %% tags=["hide-input"]
turned = Rooms(doorkey, 1, 6, np.random.default_rng(5))
scenes = []
for action in (TURN_RIGHT, TURN_RIGHT, FORWARD):
    scenes.append((as_minigrid(turned), turned.tokens.copy()))
    turned.step(np.array([action]))
look_at(*(env for env, _ in scenes), titles=("1", "2", "3"))
for number, (_, seen) in enumerate(scenes, 1):
    where = {
        frame: places(torch.from_numpy(seen).long(), frame)[0, 1:3].tolist() for frame in FRAMES
    }
    print(f"{number}:", "   ".join(f"{f}: key {k}, door {d}" for f, (k, d) in where.items()))

# %% [markdown]
# *An agent turns right, and turns right again: on the grid and in the shifted frame key and door stay where they are, in
# the agent's frame (cells ahead, cells to the right) they turn around it.*
#
# ## Several heads
#
# One matrix of weights per layer lets each token listen in one way. With several **heads**, each with its own queries,
# keys and values of a fraction of the width, it listens in several ways at once, and what the heads bring is laid side by
# side:
#
# $$
# \text{head}_h = \operatorname{softmax}\!\Big(\frac{Q_h K_h^\top}{\sqrt{d}}\Big) V_h , \qquad
# \text{out} = [\text{head}_1, \dots, \text{head}_H]\, W .
# $$
#
# `attend` of chapter 05 takes leading axes along, so that heads are one more axis. How well a query fits a key need not be
# an inner product. In **additive** compatibility (Bahdanau et al., 2015) a small network looks at both,
# $v_h^\top \tanh(q + k)$, for each pair of tokens.


# %%
WAYS = ("dot", "additive", "even", "own")


def additive(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, judge: torch.Tensor,
             ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Additive attention (Bahdanau et al., 2015). queries, keys, values: [B, H, N, D]; judge: [H, D]. As ``attend``."""
    pairs = torch.tanh(queries[..., :, None, :] + keys[..., None, :, :])  # [B, H, N, N, D]
    weights = torch.einsum("bhqkd,hd->bhqk", pairs, judge).softmax(-1)
    return weights @ values, weights


class Heads(nn.Module):
    """Multi-head attention. way: "dot", "additive", or without attention: "even" (to all alike), "own" (to itself)."""

    def __init__(self, width: int, heads: int, way: str) -> None:
        super().__init__()
        self.heads, self.way = heads, way
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.judge = (
            nn.Parameter(torch.randn(heads, width // heads) / 3) if way == "additive" else None
        )

    def forward(self, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """nodes: [B, N, D]. Returns what each is told [B, N, D], and the weights [B, H, N, N]."""
        q, k, v = rearrange(
            self.project(nodes), "b n (three h d) -> three b h n d", three=3, h=self.heads
        )
        count = nodes.shape[1]
        if self.way == "dot":
            told, weights = ATTENTION.attend(q, k, v)
        elif self.way == "additive":
            told, weights = additive(q, k, v, self.judge)
        else:
            fixed = (
                torch.full((count, count), 1 / count) if self.way == "even" else torch.eye(count)
            )
            weights = fixed.to(nodes).expand(len(nodes), self.heads, -1, -1)
            told = weights @ v
        return self.out(rearrange(told, "b h n d -> b n (h d)")), weights


# %% [markdown]
# The last two ways are controls: the same parameters, but everybody listens to all alike, or only to itself. What attention
# brings is the difference to those.
#
# A network for the agent embeds each token, lets the tokens tell each other something, and asks each what it thinks; the
# largest answer in each feature goes on to the Q-values. It takes any number of tokens, in any order.


# %%
class RelationalNet(nn.Module):
    """Q-values of five actions from tokens, by one round of attention between them (after Zambaldi et al., 2019)."""

    def __init__(
        self, width: int = 64, heads: int = 4, way: str = "dot", frame: str = "agent"
    ) -> None:
        super().__init__()
        self.frame = frame
        self.embed = nn.Linear(WIDTH_OF_TOKEN, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attention = Heads(width, heads, way)
        self.think = nn.Sequential(
            nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)
        )
        self.answer = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, len(ACTIONS))
        )

    def look(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """tokens: [B, N, 5]. Returns Q-values [B, 5] and attention weights [B, H, N, N]."""
        nodes = torch.relu(self.embed(as_features(tokens, self.frame)))  # [B, N, D]
        told, weights = self.attention(self.norms[0](nodes))
        nodes = nodes + told
        nodes = nodes + self.think(self.norms[1](nodes))
        return self.answer(nodes.amax(1)), weights

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.look(tokens)[0]


def parameters(net: nn.Module) -> int:
    return sum(weights.numel() for weights in net.parameters())


# %% [markdown]
# Two rivals know nothing of objects that relate. One reads the tokens one after the other as a long row of numbers. The
# other sees a picture: a plane for each kind and state of token, with the agent in the middle, and convolutions on
# it. Both have at least as many parameters.


# %%
class FlatNet(nn.Module):
    """Q-values from the tokens in a row."""

    def __init__(self, count: int, frame: str = "agent", hidden: int = 160) -> None:
        super().__init__()
        self.frame = frame
        self.net = nn.Sequential(
            nn.Linear(count * WIDTH_OF_TOKEN, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, len(ACTIONS)),
        )  # fmt: skip

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.net(as_features(tokens, self.frame).flatten(1))


class PictureNet(nn.Module):
    """Q-values from a picture of kinds and states around the agent, as far as a room of this side reaches."""

    def __init__(
        self, side: int, frame: str = "agent", channels: int = 24, hidden: int = 64
    ) -> None:
        super().__init__()
        self.frame, self.reach = frame, side - 3
        self.width = 2 * self.reach + 1
        self.conv = nn.Sequential(
            nn.Conv2d(16, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
        )
        self.answer = nn.Sequential(
            nn.Linear(channels * self.width**2, hidden), nn.ReLU(), nn.Linear(hidden, len(ACTIONS))
        )

    def picture(self, tokens: torch.Tensor) -> torch.Tensor:
        """Planes of 0 and 1 around the agent, which faces up in its own frame: [B, 16, W, W]."""
        tokens = tokens.long()
        place = (
            places(tokens, "agent" if self.frame == "agent" else "shifted") + self.reach
        )  # [B, N, 2]
        plane = 4 * tokens[..., KIND] + tokens[..., STATE]
        spots = (plane * self.width + place[..., 0]) * self.width + place[..., 1]
        blank = torch.zeros(len(tokens), 16 * self.width**2, device=tokens.device)
        return blank.scatter_(1, spots, 1.0).view(-1, 16, self.width, self.width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.answer(self.conv(self.picture(tokens)).flatten(1))


# %% tags=["A6"]
NETS = {
    "dot": RelationalNet, "additive": partial(RelationalNet, way="additive"), "even": partial(RelationalNet, way="even"),
    "own": partial(RelationalNet, way="own"), "flat": partial(FlatNet, 4), "picture": partial(PictureNet, 5),
}  # fmt: skip
for name, make in NETS.items():
    print(f"{name:10}{parameters(make()):8,} parameters")


# %% [markdown]
# ## Double Q-learning, and what to remember
#
# Q-learning's target takes the largest of several estimates, and the largest of noisy numbers is too large: you will
# measure by how much [below](#the-largest-of-noisy-numbers). **Double** Q-learning (van Hasselt et al., 2016) lets one
# network choose and the other say what the choice is worth:
#
# $$
# y = r^{(n)} + \gamma^{n}\, Q_{\theta^-}\!\big(s', \operatorname*{arg\,max}_{a'} Q_\theta(s', a')\big) .
# $$
#
# The choice is made where the value is needed, in the *next* state. The printed program chooses with the values of the
# state before; it has [a box of its own](#an-action-for-another-state).


# %%
def double_targets(
    net: nn.Module, target_net: nn.Module, rewards: torch.Tensor, discounts: torch.Tensor, next_obs: torch.Tensor,
    double: bool = True,
) -> torch.Tensor:  # fmt: skip
    """Targets of double Q-learning (van Hasselt et al., 2016, eq. 4), or of Q-learning: [B].

    rewards: [B], summed over n steps. discounts: [B], 0 where the episode terminated. next_obs: [B, ...].
    """
    with torch.no_grad():
        values = target_net(next_obs)  # [B, A]
        chosen = (net(next_obs) if double else values).argmax(1, keepdim=True)
        return rewards + discounts * values.gather(1, chosen)[:, 0]


# %% [markdown]
# Rewards are rare, so the source stores each step that earned one fifty times. We keep steps as they came, world by
# world, like a film. From a film we can take returns of several steps, and we can look back from a goal: a share of
# every batch comes from the last thirty steps before one. Before the first update the agent plays at random, which
# fills the film with a few hundred goals.


# %%
class Batch(NamedTuple):
    """obs, next_obs: [B, N, 5], at most n steps apart. actions: [B]. rewards: [B], summed. discounts: [B], 0 at a goal."""

    obs: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    discounts: np.ndarray
    next_obs: np.ndarray


class FilmRow(NamedTuple):
    """One step of W worlds. obs, next_obs: [W, N, 5]; actions, terminated, truncated: [W]."""

    obs: np.ndarray
    actions: np.ndarray
    next_obs: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


BEFORE_GOAL = 30  # steps


class Film:
    """The last ``length`` steps of W worlds, and where in them a goal was reached; the reward of a goal is 1."""

    def __init__(self, length: int) -> None:
        self.length, self.steps, self.rows = length, 0, None
        self.goals = np.zeros(
            (0, 3), int
        )  # step, world, and how many steps of its episode lead to it
        self._new = []

    def add(self, row: FilmRow) -> None:
        if self.rows is None:
            self.rows = FilmRow(*(np.zeros((self.length, *part.shape), part.dtype) for part in row))
            self.age = np.zeros(len(row.actions), int)
        for kept, part in zip(self.rows, row, strict=True):
            kept[self.steps % self.length] = part
        self.age += 1
        reached = np.flatnonzero(row.terminated)
        back = np.minimum(self.age[reached], BEFORE_GOAL)
        self._new.append(np.stack([np.full(len(reached), self.steps), reached, back], -1))
        self.age[row.terminated | row.truncated] = 0
        self.steps += 1

    def places(
        self, size: int, near: float, n: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Steps and worlds [size] to learn from, a share of them shortly before a goal, where there is one."""
        oldest, newest = max(0, self.steps - self.length), self.steps - n
        steps = rng.integers(oldest, newest, size)
        worlds = rng.integers(len(self.age), size=size)
        if len(self._new) > 50 or not len(self.goals):
            self.goals = np.concatenate([self.goals, *self._new])
            self._new = []
        first, last = np.searchsorted(self.goals[:, 0], (oldest + BEFORE_GOAL, newest))
        count = int(near * size) if last > first else 0
        step, world, back = self.goals[rng.integers(first, max(last, first + 1), count)].T
        steps[:count], worlds[:count] = step - (rng.random(count) * back).astype(int), world
        return steps, worlds

    def batch(self, steps: np.ndarray, worlds: np.ndarray, n: int, discount: float) -> Batch:
        """What n steps from each place [B] brought; an end of an episode cuts them short."""
        first = last = steps % self.length
        running = np.ones(len(steps), bool)
        rewards, discounts = np.zeros(len(steps), np.float32), np.ones(len(steps), np.float32)
        for k in range(n):
            now = (steps + k) % self.length
            last = np.where(running, now, last)
            goal = self.rows.terminated[now, worlds]
            rewards += np.float32(discount**k) * (running & goal)
            discounts[running] = discount ** (k + 1)
            running &= ~(goal | self.rows.truncated[now, worlds])
        discounts *= ~self.rows.terminated[last, worlds]
        obs, actions, next_obs = self.rows.obs, self.rows.actions, self.rows.next_obs
        return Batch(
            obs[first, worlds], actions[first, worlds], rewards, discounts, next_obs[last, worlds]
        )


# %%
@dataclass(frozen=True)
class RoomsConfig:
    """An agent for DoorKey; the defaults are the chapter's. stages: (side of the rooms, updates in them), in turn."""

    stages: tuple[tuple[int, int], ...] = ((5, 1_500),)
    net: str = choice("dot", tuple(NETS))
    frame: str = choice("agent", FRAMES)
    worlds: int = knob(64, 1, 1024, "side by side; one update follows each of their steps")
    random_steps: int = knob(
        250_000, 5_000, 5_000_000, "of all worlds, before the first update of a stage"
    )
    near_goal: float = knob(0.5, 0.0, 1.0, "share of a batch from the steps before a goal")
    batch_size: int = knob(128, 1, 1024, "steps in an update")
    learning_rate: float = knob(1e-3, 1e-4, 1e-2, "of Adam", step=1e-4)
    n_steps: int = knob(5, 1, 20, "steps of a return")
    discount: float = knob(0.97, 0.5, 0.999, "of a reward one step later")
    polyak: float = knob(0.02, 0.001, 1.0, "how far the target network follows in each update")
    epsilon: float = knob(0.2, 0.0, 1.0, "share of random actions in training")
    max_steps: int = knob(0, 0, 10_000, "of an episode; 0 for MiniGrid's ten times the cells")
    double: bool = True

    def __post_init__(self) -> None:
        check_config(self)


MAX_NORM, FILM_STEPS = 10.0, 30_000
PLAY_EPSILON = 0.05  # of every score


def greedy(
    net: nn.Module, tokens: np.ndarray, epsilon: float, rng: np.random.Generator
) -> np.ndarray:
    """ε-greedy actions, as numbers of ``ACTIONS``. tokens: [B, N, 5]. Returns [B]."""
    device = next(net.parameters()).device
    with torch.no_grad():
        best = net(torch.from_numpy(tokens).to(device)).argmax(1).cpu().numpy()
    return np.where(
        rng.random(len(best)) < epsilon, rng.integers(len(ACTIONS), size=len(best)), best
    )


# %%
class Agent:
    """A network, its target network and its optimiser."""

    def __init__(self, config: RoomsConfig, device: str) -> None:
        self.config = config
        self.net = NETS[config.net](frame=config.frame).to(device)
        self.target_net = copy.deepcopy(self.net)
        self.optimiser = torch.optim.Adam(self.net.parameters(), config.learning_rate)

    def learn(self, batch: Batch) -> float:
        """One update of the network, and a small one of its target: the loss."""
        device = next(self.net.parameters()).device
        obs, actions, rewards, discounts, next_obs = (
            torch.from_numpy(part).to(device) for part in batch
        )
        targets = double_targets(
            self.net, self.target_net, rewards, discounts, next_obs, self.config.double
        )
        values = self.net(obs).gather(1, actions[:, None])[:, 0]
        loss = F.mse_loss(values, targets)
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), MAX_NORM)
        self.optimiser.step()
        with torch.no_grad():
            for slow, fast in zip(self.target_net.parameters(), self.net.parameters(), strict=True):
                slow.lerp_(fast, self.config.polyak)
        return loss.item()

    def parts(self) -> tuple:
        return self.net, self.target_net, self.optimiser


# %%
class Play:
    """Worlds in play, the film of them, and how their last episodes went."""

    def __init__(
        self,
        layout: Callable[..., Layout],
        config: RoomsConfig,
        side: int,
        rng: np.random.Generator,
    ) -> None:
        self.rooms = Rooms(layout, config.worlds, side, rng, config.max_steps or None)
        self.film, self.rng = Film(FILM_STEPS), rng
        self.ended: list[
            tuple[bool, int]
        ] = []  # (reached the goal, steps) of the last hundred episodes

    def step(self, actions: np.ndarray) -> None:
        """One step of all worlds: actions [W], as numbers of ``ACTIONS``."""
        obs, clock = self.rooms.tokens.copy(), self.rooms.clock
        _, terminated, truncated = self.rooms.step(ACTIONS[actions])
        self.film.add(FilmRow(obs, actions, self.rooms.tokens, terminated, truncated & ~terminated))
        over = np.flatnonzero(terminated | truncated)
        self.ended = [*self.ended, *((bool(terminated[w]), int(clock[w])) for w in over)][-100:]
        self.rooms.reset(terminated | truncated)

    def at_random(self, steps: int) -> None:
        """Fill the film; the share of goals among the last hundred random episodes stays in ``ended``."""
        for _ in range(max(1, steps // len(self.rooms.clock))):
            self.step(self.rng.integers(len(ACTIONS), size=len(self.rooms.clock)))


# %%
UPDATES = 25  # a report


def train_rooms(
    config: RoomsConfig, seed: int, state: dict | None = None, device: str = "cpu",
    layout: Callable[..., Layout] = doorkey,
) -> Iterator[Progress]:  # fmt: skip
    """Double Q-learning in rooms, stage by stage, with one network; yields how the last hundred episodes went.

    state: {"step", "agent", "random", "seconds"}; a run that continues plays at random first, to fill its film anew.
    """
    step, seconds = (state["step"], state["seconds"]) if state else (0, 0.0)
    rng = np.random.default_rng(spread((TRAINING, seed, step), 1)[0])
    torch.manual_seed(spread((TRAINING, seed), 2)[1])
    agent, ends = Agent(config, device), np.cumsum([updates for _, updates in config.stages])
    if state:
        for part, kept in zip(agent.parts(), as_tensors(state["agent"]), strict=True):
            part.load_state_dict(kept)
        restore_random(state["random"], rng)
    play, began = None, time.perf_counter()
    while step < ends[-1]:
        stage = int(np.searchsorted(ends, step, side="right"))
        if play is None or play.rooms.side != config.stages[stage][0]:
            play = Play(layout, config, config.stages[stage][0], rng)
            play.at_random(config.random_steps)
        losses = []
        for _ in range(min(UPDATES, ends[stage] - step)):
            play.step(greedy(agent.net, play.rooms.tokens, config.epsilon, rng))
            chosen = play.film.places(config.batch_size, config.near_goal, config.n_steps, rng)
            losses.append(agent.learn(play.film.batch(*chosen, config.n_steps, config.discount)))
            step += 1
        yield rooms_progress(
            config, step, play, losses, agent, seconds + time.perf_counter() - began
        )


def rooms_progress(
    config: RoomsConfig, step: int, play: Play, losses: list[float], agent: Agent, seconds: float
) -> Progress:
    """What a report says: the last hundred episodes, exploration included, and the mean loss since the last."""
    won, steps = np.mean(play.ended or [(0.0, play.rooms.max_steps)], axis=0)
    metrics = {
        "reached the goal": won,
        "episode length": steps,
        "loss": np.mean(losses),
        "seconds": seconds,
    }
    now = lambda: {
        "step": step, "seconds": seconds, "random": random_state(play.rng),
        "agent": [copy.deepcopy(part.state_dict()) for part in agent.parts()],
    }  # fmt: skip
    return Progress(step, int(sum(updates for _, updates in config.stages)), metrics, now, "update")


# %% [markdown]
# ### The referee judges
#
# A score is the share of a thousand fresh episodes that reach the goal, with one action in twenty drawn at random. That
# chance stays in, because a greedy agent that errs once can turn left and right for ever. MiniGrid draws the layouts and
# plays the episodes.


# %%
def judge(
    act: Callable[[np.ndarray, np.random.Generator], np.ndarray],
    side: int,
    episodes: int,
    seed: int,
) -> np.ndarray:
    """Episodes on MiniGrid's own DoorKey. act: (tokens [B, 4, 5], rng) -> numbers of ``ACTIONS`` [B].

    Returns reached (0 or 1) and steps of each episode: [episodes, 2].
    """
    if side < 5:
        raise ValueError(f"MiniGrid has no DoorKey of side {side}; the smallest has 5.")
    envs, rng = (
        [DoorKeyEnv(size=side) for _ in range(episodes)],
        np.random.default_rng((JUDGING, seed)),
    )
    for env, lot in zip(envs, spread((JUDGING, seed), episodes), strict=True):
        env.reset(seed=lot)
    found, playing = np.zeros((episodes, 2)), list(range(episodes))
    while playing:
        actions = ACTIONS[act(np.stack([tokens_of(envs[i]) for i in playing]), rng)]
        for i, action in zip(list(playing), actions.tolist(), strict=True):
            _, reward, terminated, truncated, _ = envs[i].step(action)
            if terminated or truncated:
                found[i] = reward > 0, envs[i].step_count
                playing.remove(i)
    return found


def player(
    net: nn.Module, epsilon: float = PLAY_EPSILON
) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    return lambda tokens, rng: greedy(net, tokens, epsilon, rng)


# %%
def floor_player(
    weights: tuple[float, ...],
) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """A policy that knows nothing: actions by lot, with these weights."""
    odds = np.array(weights) / sum(weights)
    return lambda tokens, rng: rng.choice(len(ACTIONS), len(tokens), p=odds)


def score_of(act: Callable, side: int, episodes: int, seed: int, layout: Callable[..., Layout] = doorkey,
             max_steps: int | None = None) -> tuple[float, float]:  # fmt: skip
    """Share of episodes that reach the goal in our worlds, and their mean length; a thousand take a second."""
    rng = np.random.default_rng((JUDGING, seed, side))
    rooms, playing = Rooms(layout, episodes, side, rng, max_steps), np.arange(episodes)
    reached, steps, actions = np.zeros(episodes, bool), np.zeros(episodes), np.zeros(episodes, int)
    while len(playing):
        actions[playing] = act(rooms.tokens[playing], rng)
        _, terminated, truncated = rooms.step(ACTIONS[actions])
        reached[playing], steps[playing] = terminated[playing], rooms.clock[playing]
        playing = playing[~(terminated | truncated)[playing]]
    return float(reached.mean()), float(steps.mean())


FLOORS = {"all alike": (1, 1, 1, 1, 1), "forward often": (1, 1, 3, 1, 1), "busy hands": (1, 1, 2, 2, 2), "rarely turns": (1, 1, 4, 2, 2)}  # fmt: skip
for name, weights in FLOORS.items():
    reached, _ = score_of(floor_player(weights), 5, by_budget(20, 500), seed=1)
    print(f"{name:15} {reached:6.1%} of episodes")

# %% [markdown]
# That is what needs no learning: random play, and its odds matter. The best of them is the floor of every figure.
#
# ### Training, live

# %% tags=["A6"]
rooms_config = by_budget(RoomsConfig(stages=((5, 50),), random_steps=10_000), RoomsConfig())
rooms_run = watch(
    train_rooms(rooms_config, seed=1), "reached the goal", floor=0.4, floor_label="random play"
)


# %% tags=["A6"]
def net_from(state: dict, config: RoomsConfig) -> nn.Module:
    """The network of a run's state."""
    net = NETS[config.net](frame=config.frame)
    net.load_state_dict(as_tensors(state["agent"][0]))
    return net


agent_net = net_from(rooms_run.state, rooms_config)
judged = judge(player(agent_net), 5, by_budget(20, 1_000), seed=1)
print(
    f"MiniGrid: {judged[:, 0].mean():.1%} of {len(judged)} fresh episodes reach the goal, in {judged[:, 1].mean():.1f} steps"
)
