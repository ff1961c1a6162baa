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
# | **Time** | About a minute for all cells on two cores; the agent trains in twenty seconds. |
# | **Memory** | About 0.6 GB. No GPU. |
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
from matplotlib.colors import ListedColormap
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
from rlbook_utils.run import Progress, live_curve, watch
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
# In [DoorKey](https://minigrid.farama.org/environments/minigrid/DoorKeyEnv/)
# [(Chevalier-Boisvert et al., 2023)](../book/bibliography.md#chevalier2023) an agent (the triangle) has to fetch a
# key, open a locked door with it and walk to the green square. Only there is a reward. The walls, the key, the agent and
# its heading are drawn anew in each episode.


# %% tags=["hide-input"]
def look_at(*envs: MiniGridEnv, titles: tuple[str, ...] = ()) -> None:
    """Draw MiniGrid worlds side by side, as MiniGrid does."""
    figure, panels = plt.subplots(1, len(envs), figsize=(2.4 * len(envs), 2.6), squeeze=False)
    for axes, env, title in zip(panels[0], envs, titles or [""] * len(envs), strict=True):
        axes.imshow(env.get_frame(highlight=False, tile_size=24))
        axes.set(xticks=[], yticks=[], title=title)
        axes.grid(visible=False)
    plt.show()


# %%
rooms = [DoorKeyEnv(size=size) for size in (5, 6, 8, 16)]
for env in rooms:
    env.reset(seed=2)
look_at(*rooms, titles=tuple(f"{env.width} × {env.height}" for env in rooms))

# %% [markdown]
# *DoorKey in four sizes, walls included (5 × 5 has three by three cells inside), drawn by MiniGrid. The agent starts on
# the key's side, and the goal is always in the lower right corner.*
#
# The agent turns left or right, steps forward, picks up what lies before it or uses it ("toggle"); MiniGrid also lets it
# drop what it carries, which the source leaves out, and so do we. An episode is cut off after ten times as many steps as
# the map has cells.
#
# What does a world consist of? Not of pixels. It consists of objects, and each is a handful of numbers: what it is, its
# colour, its state, and where it is. We call such a row a **token**. The tokens of a world are a set: their order means
# nothing. That is what attention takes. The folded cell reads the tokens off a world of MiniGrid's.

# %%
AGENT, KEY, DOOR, GOAL = range(4)  # kinds
# States of a door. A key's: 0 lying, 1 carried; the agent's: its heading.
OPEN, CLOSED, LOCKED = range(3)
KIND, COLOUR, STATE, X, Y = range(5)  # the columns of a token
TURN_LEFT, TURN_RIGHT, FORWARD, PICK_UP, DROP, TOGGLE = range(6)  # MiniGrid's numbers
ACTIONS = np.array([TURN_LEFT, TURN_RIGHT, FORWARD, PICK_UP, TOGGLE])  # the source's five
ACTION_NAMES = ("turn left", "turn right", "forward", "pick up", "toggle")
HEADINGS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])  # right, down, left, up: (x, y)
YELLOW, GREEN = COLOR_NAMES.index("yellow"), COLOR_NAMES.index("green")


# %% tags=["hide-input"]
def tokens_of(env: MiniGridEnv) -> np.ndarray:
    """The tokens of a MiniGrid world, agent, keys, doors, goals: [N, 5] (uint8).

    Equal kinds stand as they were found (sorting is stable): by column, then by row, what is carried last.
    """
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


# %%
print("kind colour state x y   (5 × 5, at the left above)")
print(tokens_of(rooms[0]))

# %% [markdown]
# Row by row: the agent, the key, the door, the goal. Inner walls need no token: they stand in the door's column.
#
# ### Hundreds of worlds at once
#
# MiniGrid steps one world at a time, in Python. Worlds that consist of a few bytes can be stepped together, as
# arrays. First the layout. `doorkey` draws as MiniGrid does: a column for the wall, a cell for the door, and distinct
# cells left of the wall for agent and key. (Folded: rooms with a wall around them, how tokens get into their cells, and
# distinct cells drawn evenly.)


# %%
WALL, EMPTY = -1, 0  # what a cell holds, else the number of a token


class Layout(NamedTuple):
    """Fresh worlds. tokens: [B, N, 5] (uint8), the agent's first. cells: [B, side²] (int8): WALL, EMPTY or a token's row."""

    tokens: np.ndarray
    cells: np.ndarray


# %% tags=["hide-input"]
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


def cells_left(count: int, wall: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """Distinct cells left of a wall, drawn evenly. wall: its column in each world [B]. Returns (x, y): [B, count, 2]."""
    wide, tall = wall - 1, side - 2
    lots = rng.random((len(wall), wide.max() * tall))
    lots[np.arange(lots.shape[1]) >= (wide * tall)[:, None]] = 2  # beyond the wall
    chosen = lots.argsort(1)[:, :count]
    return np.stack([1 + chosen % wide[:, None], 1 + chosen // wide[:, None]], -1)


# %%
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


# %% tags=["hide-input"]
LOOK = {  # names and colours of the kinds in drawings of ours
    AGENT: ("agent", plots.COLOURS[0]),
    KEY: ("key", plots.COLOURS[4]),
    DOOR: ("door", plots.COLOURS[1]),
    GOAL: ("goal", plots.COLOURS[2]),
}


def draw_agent(axes: plt.Axes, x: float, y: float, heading: int) -> None:
    """A triangle at (x, y). heading: 0 right, 1 down, 2 left, 3 up on the page."""
    turn = -90 * (1 + int(heading))
    axes.plot(x, y, marker=(3, 0, turn), markersize=13, color=LOOK[AGENT][1], linestyle="none")


figure, panels = plt.subplots(1, 4, figsize=(9.5, 2.7))
for axes, side in zip(panels, (5, 6, 8, 11), strict=True):
    (tokens,), (plan,) = doorkey(1, side, np.random.default_rng(side))
    plan = plan.reshape(side, side)
    axes.imshow(np.where(plan == WALL, 0.5, np.nan), cmap="gray", vmin=0, vmax=1)
    for (y, x), number in np.ndenumerate(plan):
        if number > 0:
            told = {"color": LOOK[tokens[number, KIND]][1], "weight": "bold"}
            axes.text(x, y, str(number), ha="center", va="center", **told)
    draw_agent(axes, *tokens[0, X:].tolist(), tokens[0, STATE])
    axes.set(title=f"{side} × {side}", xlabel="x", ylabel="y", xticks=(0, side - 1))
    axes.set(yticks=(0, side - 1))
    axes.grid(visible=False)
plt.show()

# %% [markdown]
# *Four layouts of ours: grey are walls, a number says which row of `tokens` has the cell (1 the key, 2 the door, 3 the
# goal). The agent, row 0, takes up no cell of the table: it only has a place.*
#
# (Folded: MiniGrid's empty room, of which the tests make use.)


# %% tags=["hide-input"]
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
# given any of our layouts, to draw it and to play it along (both folded). The two must agree on every token, reward and end.


# %% tags=["hide-input"]
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


# %% tags=["A6", "hide-input"]
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


# The first part of the seeds of each use.
COMPARING, TRAINING, JUDGING, LOOKING, WATCHING = 0, 1, 2, 4, 5
for side in (5, 8):
    told = "{} steps at side {side}: equal in all tokens, rewards and ends; goals reached: {}"
    print(told.format(*compare(side, by_budget(500, 5_000), seed=1), side=side))

# %% [markdown]
# A test does this for forty thousand steps at four sizes, and compares how often each layout is drawn. What is gained?
# (Folded: how steps a second are counted, for our worlds, for MiniGrid, and for MiniGrid without its observation.)


# %% tags=["hide-input"]
def random_steps_per_second(count: int, side: int, steps: int) -> float:
    """How many steps of our worlds a second makes, with fresh observations and resets."""
    rng = np.random.default_rng(0)
    rooms = Rooms(doorkey, count, side, rng)
    actions = ACTIONS[rng.integers(len(ACTIONS), size=(steps, count))]
    began = time.process_time()
    for row in actions:
        _, terminated, truncated = rooms.step(row)
        rooms.tokens.copy()  # the observation
        rooms.reset(terminated | truncated)
    return steps * count / (time.process_time() - began)


class Blind(DoorKeyEnv):
    """DoorKey without an observation."""

    def gen_obs(self) -> dict:
        return {}


def minigrid_steps_per_second(side: int, steps: int, sees: bool = True) -> float:
    """The same for MiniGrid's own DoorKey. sees: with what the agent sees, which MiniGrid cuts out at every step."""
    env, rng = (DoorKeyEnv if sees else Blind)(size=side), np.random.default_rng(0)
    env.reset(seed=0)
    actions = ACTIONS[rng.integers(len(ACTIONS), size=steps)]
    began = time.process_time()
    for action in actions.tolist():
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    return steps / (time.process_time() - began)


# %% tags=["A6"]
steps = by_budget(50, 1_000)
print(f"MiniGrid               {minigrid_steps_per_second(8, steps):12,.0f} steps/s")
print(f"MiniGrid, sees nothing {minigrid_steps_per_second(8, steps, sees=False):12,.0f} steps/s")
for count in (1, 64, 256, 1024):
    print(f"{count:4} worlds of ours    {random_steps_per_second(count, 8, steps):12,.0f} steps/s")

# %% [markdown]
# A world of ours alone gains little: NumPy spends its time on being called. But a step of a thousand
# worlds costs a few steps of one, so that they make more than a million steps a second. Most of the distance to
# MiniGrid is another: at every step MiniGrid cuts out the view that its agent has. Without its
# observation it makes nearly 40 times as many steps; our thousand worlds are ahead of that too, by far less.
# <!-- held: speed -->
#
# ## The frame of reference
#
# A network gets a token as numbers. What it is and its state become a row of zeros with a single one. But where is it?
# MiniGrid counts cells from the upper left corner. "The key is at (3, 2)" says little to an agent that has to know
# whether to turn left. "One cell ahead, two to the right" says it all.
#
# The source writes that relational reasoning does without an absolute frame of reference. The nodes of its digits have
# absolute coordinates all the same; its DoorKey agent gets MiniGrid's own view, seven by
# seven cells that turn with it. Here the
# frame is a choice: `grid` (from the corner), `shifted` (from the agent), `agent` (from the agent, turned so that ahead
# is up, as in the source). What is seen differs: the source's agent sees walls, and only the part of the room
# before it; ours is told all tokens, and no walls.


# %%
FRAMES = ("agent", "shifted", "grid")
WIDTH_OF_TOKEN = 16 + len(COLOR_NAMES) + 6


def places(tokens: torch.Tensor, frame: str) -> torch.Tensor:
    """Where tokens [B, N, 5] (long) lie: in the agent's frame (cells ahead, cells to the right), else (x, y): [B, N, 2]."""
    here = tokens[..., X:].float()
    if frame == "grid":
        return here
    away = here - here[:, :1]
    if frame == "shifted":
        return away
    ahead = torch.as_tensor(HEADINGS).to(here)[tokens[:, 0, STATE]]  # [B, 2]
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
def draw_frame(axes: plt.Axes, tokens: np.ndarray, frame: str) -> None:
    """Where the tokens [N, 5] of one world lie in a frame, with their two numbers; "agent" has ahead upwards."""
    spots = places(torch.from_numpy(tokens[None]).long(), frame)[0].tolist()
    up = frame == "agent"
    draw_agent(axes, *spots[0], 3 if up else tokens[0, STATE])
    for (first, second), kind in zip(spots[1:], tokens[1:, KIND], strict=True):
        name, colour = LOOK[kind]
        x, y = (second, first) if up else (first, second)
        axes.plot(x, y, "s", markersize=8, color=colour)
        told = f"{name}\n({first:.0f}, {second:.0f})"
        axes.annotate(told, (x, y), xytext=(7, 0), textcoords="offset points", va="center", fontsize=7, color=colour)  # fmt: skip
    reach = (-0.5, 5.5) if frame == "grid" else (-4, 4)
    axes.set(xlim=reach, ylim=reach if up else reach[::-1], aspect="equal")
    axes.set(xlabel="cells to the right" if up else "x", ylabel="cells ahead" if up else "y")


turned = Rooms(doorkey, 1, 6, np.random.default_rng(5))
figure, panels = plt.subplots(2, 4, figsize=(10, 5.2))
for (world, *views), told in zip(panels, ("before", "after a turn to the right"), strict=True):
    world.imshow(as_minigrid(turned).get_frame(highlight=False, tile_size=24))
    world.set(xticks=[], yticks=[], title=told)
    world.grid(visible=False)
    for axes, frame in zip(views, ("grid", "shifted", "agent"), strict=True):
        draw_frame(axes, turned.tokens[0], frame)
        axes.set(title=frame)
    turned.step(np.array([TURN_RIGHT]))
plt.show()

# %% [markdown]
# *One world, before (above) and after its agent has turned to the right (below), drawn by MiniGrid and as each frame sees
# it: from the corner, from the agent, and from the agent with ahead upwards. Only in the last the turn moves key, door
# and goal; there their numbers are (cells ahead, cells to the right).*
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
# an inner product. In **additive** compatibility
# [(Bahdanau et al., 2015)](../book/bibliography.md#bahdanau2015) a small network looks at both,
# $v_h^\top \tanh(q + k)$, for each pair of tokens.


# %%
WAYS = ("dot", "additive", "even", "own")


def additive(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, judge: torch.Tensor,
             ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Additive attention (Bahdanau et al., 2015). queries, keys, values: [B, H, N, D]; judge: [H, D]. As ``attend``."""
    pairs = torch.tanh(queries[..., :, None, :] + keys[..., None, :, :])  # [B, H, N, N, D]
    weights = torch.einsum("bhqkd,hd->bhqk", pairs, judge).softmax(-1)
    return weights @ values, weights


# %%
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
# The last two ways are controls: the same parameters, but everybody listens to all alike, or only to itself.


# %% tags=["hide-input"]
def draw_looks(axes: plt.Axes, weights: torch.Tensor, title: str) -> None:
    """Who (rows) looks at whom (columns): weights [4, 4] of agent, key, door and goal, with their numbers."""
    axes.imshow(weights, vmin=0, vmax=1, cmap="Blues")
    for (row, column), weight in np.ndenumerate(weights.numpy()):
        colour = "black" if weight < 0.6 else "white"
        axes.text(column, row, f"{weight:.2f}".lstrip("0"), ha="center", va="center", fontsize=7, color=colour)  # fmt: skip
    names = [name for name, _ in LOOK.values()]
    axes.set(xticks=range(4), xticklabels=names, yticks=[], title=title)
    axes.tick_params(axis="x", labelrotation=60)
    axes.grid(visible=False)


torch.manual_seed(0)
scene = torch.from_numpy(doorkey(1, 6, np.random.default_rng(5)).tokens)  # [1, 4, 5]
nodes = F.layer_norm(nn.Linear(WIDTH_OF_TOKEN, 64)(as_features(scene, "agent")), (64,))
figure, panels = plt.subplots(1, 6, figsize=(10, 2.4))
with torch.no_grad():
    looks = {way: Heads(64, 4, way)(nodes)[1][0] for way in ("dot", "even", "own")}  # [4, 4, 4]
for number, axes in enumerate(panels[:4]):
    draw_looks(axes, looks["dot"][number], f"dot, head {number + 1}")
draw_looks(panels[4], looks["even"][0], "even, all heads")
draw_looks(panels[5], looks["own"][0], "own, all heads")
panels[0].set(yticks=range(4), yticklabels=[name for name, _ in LOOK.values()], ylabel="who looks")
plt.show()

# %% [markdown]
# *Weights [heads, 4, 4] of an untrained layer in one world; a row adds up to 1 and says whom an object looks at. The four
# heads of `dot` differ already, by chance; the controls are the same in every world.*
#
# A network for the agent embeds each token, lets the tokens tell each other something, and asks each what it thinks; the
# largest answer in each feature goes on to the Q-values. It takes any number of tokens, in any order. (The relational
# module of [Zambaldi et al. (2019)](../book/bibliography.md#zambaldi2019) has the same parts.)


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


# %% tags=["hide-input"]
def draw_network(net: RelationalNet, tokens: torch.Tensor) -> None:
    """What stands between the tokens [1, 4, 5] of one world and its Q-values."""
    with torch.no_grad():
        embedded = torch.relu(net.embed(as_features(tokens, net.frame)))  # [1, 4, 64]
        told, weights = net.attention(net.norms[0](embedded))
        after = embedded + told
        after = after + net.think(net.norms[1](after))
        values = net.answer(after.amax(1))[0]
    heads = np.full((9, 9), np.nan)
    for number, spot in enumerate([(0, 0), (0, 5), (5, 0), (5, 5)]):
        heads[spot[0] : spot[0] + 4, spot[1] : spot[1] + 4] = weights[0, number]
    figure, panels = plt.subplots(1, 6, figsize=(11, 2.3), width_ratios=(1, 1.7, 1.1, 1.7, 1.7, 1))
    figure.get_layout_engine().set(wspace=0.1)  # room for the arrows
    names = [name for name, _ in LOOK.values()]
    kinds = ListedColormap([colour for _, colour in LOOK.values()])
    panels[0].imshow(np.full((4, 5), np.nan), aspect="auto")
    for (row, column), number in np.ndenumerate(tokens[0].numpy()):
        panels[0].text(column, row, str(number), ha="center", va="center", fontsize=9)
    panels[1].imshow(embedded[0], aspect="auto", cmap="Blues", interpolation="nearest")
    panels[2].imshow(heads, aspect="auto", cmap="Blues", vmin=0, vmax=0.5)
    panels[3].imshow(after[0], aspect="auto", cmap="Blues", interpolation="nearest")
    panels[4].imshow(after.argmax(1), aspect="auto", cmap=kinds, vmin=0, vmax=3)
    panels[5].barh(range(5), values)
    panels[5].invert_yaxis()
    panels[5].yaxis.tick_right()
    titles = ("tokens [4, 5]", "embedded [4, 64]", "4 heads [4, 4]", "told, thought [4, 64]", "largest [64]", "Q-values [5]")  # fmt: skip
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, fontsize=9)
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)
    panels[0].set(yticks=range(4), yticklabels=names)
    panels[5].set(yticks=range(5), yticklabels=ACTION_NAMES)
    for axes in panels[1:]:
        arrow = {"arrowstyle": "->", "color": plots.INK}
        axes.annotate("", (0, 0.5), (-17, 0), xycoords="axes fraction", textcoords="offset points", arrowprops=arrow)  # fmt: skip
    plt.show()


torch.manual_seed(0)
draw_network(RelationalNet(), scene)

# %% [markdown]
# *One world on its way through the network, untrained. Every token gets a row of 64 features; the heads decide who hears
# whom; a row has then heard, and thought about it. Of the four answers in each feature the largest is kept: its colour
# says whose that was (blue the agent's, brown the key's, orange the door's, green the goal's). From those 64 numbers come
# the Q-values.*
#
# Two rivals know nothing of objects that relate. One reads the tokens one after the other as a long row of numbers. The
# other (folded) sees a picture: a plane for each kind and state of token, with the agent in the middle, and convolutions
# on it. Both have at least as many parameters.


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


# %% tags=["hide-input"]
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
        place = places(tokens, "agent" if self.frame == "agent" else "shifted").long()  # [B, N, 2]
        if place.abs().max() > self.reach:
            raise ValueError(f"This picture reaches {self.reach} cells; the room is larger.")
        down, across = (
            (-place[..., 0], place[..., 1]) if self.frame == "agent" else place.flip(-1).unbind(-1)
        )
        plane = 4 * tokens[..., KIND] + tokens[..., STATE]
        spots = (plane * self.width + self.reach + down) * self.width + self.reach + across
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
# measure by how much [below](#the-largest-of-noisy-numbers). **Double** Q-learning
# [(van Hasselt et al., 2016)](../book/bibliography.md#hasselt2016) lets one network choose and the other say what the
# choice is worth:
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


# %% tags=["hide-input"]
both = torch.tensor([[0.3, 0.5, 0.9, 0.4, 0.2]]), torch.tensor([[0.6, 0.8, 0.55, 0.4, 0.3]])
chooses, tells = (lambda obs, values=values: values for values in both)  # stand for two networks
figure, axes = plt.subplots(figsize=(7.2, 2.8))
for number, (values, label) in enumerate(zip(both, ("network", "target network"), strict=True)):
    axes.bar(np.arange(5) + 0.2 * (2 * number - 1), values[0], 0.38, color=plots.COLOURS[number], label=label)  # fmt: skip
for double, label, look in (
    (False, "Q-learning's target", "--"),
    (True, "double Q-learning's", ":"),
):
    nothing, whole = torch.zeros(1), torch.ones(1)
    target = double_targets(chooses, tells, nothing, whole, None, double)
    axes.axhline(target.item(), linestyle=look, color=plots.INK, label=label)
axes.set(xticks=range(5), xticklabels=ACTION_NAMES, ylabel="value in the next state", ylim=(0, 1))
axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# *Who chooses, who tells: invented values of two networks in one next state, and the targets that `double_targets` makes of
# them (reward 0, discount 1). Q-learning takes the target network's largest. Double Q-learning takes the action which the
# network finds best, "forward", and asks the target network for its value.*
#
# Rewards are rare, so the source stores each step that earned one fifty times. We keep steps as they came, world by
# world, like a film. From a film we can take returns of several steps, and we can look back from a goal: a share of
# every batch comes from the last thirty steps before one. (Folded: the arrays of a batch and of one step of all worlds.)


# %% tags=["hide-input"]
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


# %%
BEFORE_GOAL = 30  # steps


class Film:
    """The last ``length`` steps of W worlds, and where in them a goal was reached; the reward of a goal is 1."""

    def __init__(self, length: int) -> None:
        self.length, self.steps, self.rows = length, 0, None
        # Of each goal: its step, its world, and how many steps of the episode lead to it.
        self.goals = np.zeros((0, 3), int)
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
            kept = self.goals[self.goals[:, 0] >= oldest]
            self.goals = np.concatenate([kept, *self._new])
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


# %% tags=["hide-input"]
rng = np.random.default_rng(2)
filmed, film, cut = Rooms(doorkey, 12, 5, rng), Film(300), []
for step in range(300):
    obs, actions = filmed.tokens.copy(), rng.integers(len(ACTIONS), size=12)
    _, terminated, truncated = filmed.step(ACTIONS[actions])
    film.add(FilmRow(obs, actions, filmed.tokens, terminated, truncated & ~terminated))
    cut += [(step, world) for world in np.flatnonzero(truncated & ~terminated)]
    filmed.reset(terminated | truncated)
chosen = film.places(64, 0.5, 5, rng)
figure, axes = plt.subplots(figsize=(9, 3))
for number, (step, world, back) in enumerate(film.goals):
    told = ("thirty steps before it", "a goal") if number == 0 else (None, None)
    axes.plot([step - back + 1, step], [world, world], color=plots.COLOURS[1], linewidth=7, alpha=0.4, label=told[0])  # fmt: skip
    axes.plot(step, world, "*", color=plots.COLOURS[2], markersize=12, label=told[1])
axes.plot(*np.array(cut).T, "|", color=plots.INK, markersize=9, label="clock run out")
axes.plot(*chosen, "o", color=plots.COLOURS[0], markersize=3, label="in the batch")
axes.set(xlabel="step of the film", ylabel="world", yticks=range(0, 12, 2), ylim=(11.7, -0.7))
axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# *Three hundred steps of twelve worlds of 5 × 5, played at random, and a batch of 64 drawn from them: half from anywhere,
# half from the steps before a goal, of which there are few.*
#
# ### The smallest version, and what is added to it
#
# What has to be there is little: a network on tokens, a target network, `double_targets`, steps drawn evenly from the
# film, one random action in five. Three devices are additions, each with a field of its own that takes it away:
#
# | addition | field | without it |
# |---|---|---|
# | The agent plays at random before the first update, which fills the film with a few hundred goals. | `random_steps` | 0 |
# | Half of a batch comes from the steps before a goal. | `near_goal` | 0 |
# | Returns are summed over five steps. | `n_steps` | 1 |
#
# [What made it fast](#what-made-it-fast) takes them away one at a time. In the code, comments mark where they act.
#
# (Folded: ε-greedy actions, and then the worlds in play with their film.)


# %%
@dataclass(frozen=True)
class RoomsConfig:
    """An agent for DoorKey; the defaults are the chapter's. stages: (side of the rooms, updates in them), in turn."""

    stages: tuple[tuple[int, int], ...] = ((5, 1_500),)
    net: str = choice("dot", tuple(NETS))
    frame: str = choice("agent", FRAMES)
    worlds: int = knob(64, 1, 1024, "side by side; one update follows each of their steps")
    random_steps: int = knob(
        250_000, 0, 5_000_000, "of all worlds, before the first update of a stage"
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
        if not self.stages or any(np.shape(s) != (2,) or min(s) < 1 for s in self.stages):
            raise ValueError(
                f"RoomsConfig.stages is {self.stages!r}; it takes pairs (side, updates), at least one."
            )
        if self.net == "picture" and self.frame == "grid":
            raise ValueError(
                "A picture has the agent in its middle: its frame is agent or shifted, not grid."
            )


# %% tags=["hide-input"]
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


# %% tags=["hide-input"]
class Play:
    """Worlds in play, the film of them, and how their last episodes went."""

    def __init__(self, layout: Callable[..., Layout], config: RoomsConfig, side: int, rng: np.random.Generator,
                 ) -> None:  # fmt: skip
        self.rooms = Rooms(layout, config.worlds, side, rng, config.max_steps or None)
        self.film, self.n_steps, self.rng = Film(FILM_STEPS), config.n_steps, rng
        # (reached the goal, steps) of the last hundred episodes
        self.ended: list[tuple[bool, int]] = []

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
        for _ in range(max(self.n_steps, steps // len(self.rooms.clock))):
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
    play = None
    while step < ends[-1]:
        began = time.process_time()
        stage = int(np.searchsorted(ends, step, side="right"))
        if play is None or play.rooms.side != config.stages[stage][0]:
            play = Play(layout, config, config.stages[stage][0], rng)
            play.at_random(config.random_steps)  # an addition: a film full of random play
        losses = []
        for _ in range(min(UPDATES, ends[stage] - step)):
            play.step(greedy(agent.net, play.rooms.tokens, config.epsilon, rng))
            # Additions: a share of the batch comes from before a goal, and returns are of n steps.
            chosen = play.film.places(config.batch_size, config.near_goal, config.n_steps, rng)
            losses.append(agent.learn(play.film.batch(*chosen, config.n_steps, config.discount)))
            step += 1
        seconds += time.process_time() - began
        yield rooms_progress(config, step, play, losses, agent, seconds)


# %% tags=["hide-input"]
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
# A score is the share of episodes that reach the goal, with one action in twenty drawn at random. That chance stays in
# because a deterministic agent in a deterministic world that comes back to a state comes back to it for ever. MiniGrid draws
# the layouts and plays the episodes.
#
# These episodes are not new to the agent: DoorKey 5 × 5 has 48 starting worlds, and training has met each of them many
# times. Rooms that were never trained on come [further down](#rooms-that-they-have-not-seen).
#
# (Folded: `judge`, MiniGrid's verdict; then `score_of`, the same in our worlds, which is faster, players who draw
# their actions by lot, and a reflex.)


# %% tags=["hide-input"]
def judge(act: Callable[[np.ndarray, np.random.Generator], np.ndarray], side: int, episodes: int, seed: int,
          ) -> np.ndarray:  # fmt: skip
    """Episodes on MiniGrid's own DoorKey. act: (tokens [B, 4, 5], rng) -> numbers of ``ACTIONS`` [B].

    Returns reached (0 or 1) and steps of each episode: [episodes, 2].
    """
    if side < 5:
        raise ValueError(f"MiniGrid has no DoorKey of side {side}; the smallest has 5.")
    envs, rng = [DoorKeyEnv(size=side) for _ in range(episodes)], np.random.default_rng((JUDGING, seed))  # fmt: skip
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


# %% tags=["hide-input"]
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


# %% tags=["hide-input"]
def reflex(
    weights: tuple[float, ...],
) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """Takes the key, unlocks the door and enters the goal that lies right before it; else it wanders, with these weights."""
    wander = floor_player(weights)

    def act(tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        ahead = tokens[:, 0, X:] + HEADINGS[tokens[:, 0, STATE]]
        key, door, goal = (tokens[:, 1:, X:] == ahead[:, None]).all(-1).T  # [B] each
        is_open, in_hand = tokens[:, 2, STATE] == OPEN, tokens[:, 1, STATE] == 1
        cases = [goal | (door & is_open), door & in_hand, key]
        return np.select(cases, [2, 4, 3], wander(tokens, rng))  # forward, toggle, pick up

    return act


# %% tags=["hide-input"]
FLOORS = {  # weights of turn left, turn right, forward, pick up, toggle
    "all alike": (1, 1, 1, 1, 1),
    "forward often": (1, 1, 3, 1, 1),
    "busy hands": (1, 1, 2, 2, 2),
    "rarely turns": (1, 1, 4, 2, 2),
    "straight on": (1, 1, 6, 3, 3),
}
REFLEXES = {"reflex, turns often": (1, 1, 2, 0, 0), "reflex, turns less": (1, 1, 4, 0, 0)}
floor_players = {name: floor_player(weights) for name, weights in FLOORS.items()}
floor_players |= {name: reflex(weights) for name, weights in REFLEXES.items()}
floors = {}
for name, act in floor_players.items():
    floors[name], steps = score_of(act, 5, by_budget(20, 500), seed=1)
    print(f"{name:20} {floors[name]:6.1%} of episodes, {steps:4.0f} steps on average")

# %% [markdown]
# None of these learns. Random play with well chosen odds reaches the goal in more than a third of the episodes, and at every size, since the clock grows
# with the map. The reflex knows what keys, doors and goals are for, and sees no further than the cell before it. Given time, that is enough for
# 94 % of the episodes here, and for 87 % at 16 × 16. So the reflex is the floor wherever rivals and rooms are compared, and *steps* tell a better player from it: an agent that
# knows where it is going needs a ninth of them. <!-- held: reflexes -->
#
# And the ceiling? Worlds as small as these can be searched. `shortest` tries all five actions in all states that it has
# not seen, a step at a time, until a goal is reached. (Folded, with what copies worlds.)


# %% tags=["hide-input"]
def shortest(rooms: Rooms) -> np.ndarray:
    """The fewest steps to the goal from where each world stands, found by trying everything: [B]."""
    best, owner = np.full(len(rooms.numbers), -1), rooms.numbers
    now, seen, step = rooms, set(), 0
    while len(owner):
        step += 1
        ahead = branch(now, len(ACTIONS))
        _, terminated, _ = ahead.step(np.tile(ACTIONS, len(owner)))
        owner = owner.repeat(len(ACTIONS))
        done = owner[terminated]
        best[done[best[done] < 0]] = step
        new = []
        for i in np.flatnonzero(best[owner] < 0).tolist():
            key = (owner[i], ahead.tokens[i].tobytes())
            if key not in seen:
                seen.add(key)
                new.append(i)
        now, owner = select(ahead, np.array(new, int)), owner[new]
    return best


def select(rooms: Rooms, which: np.ndarray) -> Rooms:
    """Copies of some of the worlds, as they stand, with a fresh clock."""
    chosen = copy.copy(rooms)
    chosen.tokens, chosen.cells, chosen.carried = (
        rooms.tokens[which],
        rooms.cells[which],
        rooms.carried[which],
    )
    chosen.numbers, chosen.clock = np.arange(len(which)), np.zeros(len(which), int)
    return chosen


def branch(rooms: Rooms, copies: int) -> Rooms:
    """Each world several times in a row."""
    return select(rooms, rooms.numbers.repeat(copies))


# %%
stock = Rooms(doorkey, 2_000, 5, np.random.default_rng(3))
_, once = np.unique(stock.tokens.reshape(2_000, -1), axis=0, return_index=True)  # each layout once
fewest = shortest(select(stock, once))
told = f"{len(fewest)} layouts of side 5: {fewest.mean():.2f} steps at best on average"
print(f"{told}, from {fewest.min()} to {fewest.max()}")

# %% [markdown]
# ### Training, live
#
# All is in place. Sixty-four worlds are played with one random action in five; after each step one batch is learned from.

# %% tags=["A6"]
rooms_config = by_budget(RoomsConfig(stages=((5, 50),), random_steps=10_000), RoomsConfig())
rooms_run = watch(
    train_rooms(rooms_config, seed=1),
    "reached the goal",
    floor=max(floors.values()),
    floor_label="the reflex",
)


# %% tags=["A6"]
def net_from(state: dict, config: RoomsConfig) -> nn.Module:
    """The network of a run's state."""
    net = NETS[config.net](frame=config.frame)
    net.load_state_dict(as_tensors(state["agent"][0]))
    return net


agent_net = net_from(rooms_run.state, rooms_config)
judged = judge(player(agent_net), 5, by_budget(20, 1_000), seed=1)
told = "MiniGrid: {:.1%} of {} episodes reach the goal, in {:.1f} steps on average"
print(told.format(judged[:, 0].mean(), len(judged), judged[:, 1].mean()))

# %% [markdown]
# *Share of the last hundred episodes in training that reached the goal, live; dotted: the reflex.
# The curve starts with the random play that filled the film. Below: what MiniGrid says of the trained agent.*


# %% tags=["hide-input"]
def film_of(net: nn.Module, side: int, seeds: list[int]) -> list[np.ndarray]:
    """Frames of MiniGrid episodes, one after the other, the goal's frame held for a moment."""
    frames, rng = [], np.random.default_rng((WATCHING, side))
    for seed in seeds:
        env, over = DoorKeyEnv(size=side), False
        env.reset(seed=seed)
        frames.append(env.get_frame(highlight=False, tile_size=32))
        while not over:
            action = ACTIONS[greedy(net, tokens_of(env)[None], PLAY_EPSILON, rng)[0]]
            _, _, terminated, truncated, _ = env.step(int(action))
            over = terminated or truncated
            frames.append(env.get_frame(highlight=False, tile_size=32))
        frames += frames[-1:] * 3
    return frames


# %% tags=["A6"]
show_clip(
    film_of(agent_net, 5, list(range(by_budget(1, 6)))),
    4,
    "Six episodes of the trained agent, one action in twenty random, drawn by MiniGrid.",
)

# %% tags=["A6", "hide-input"]
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.9))
left.plot(rooms_run.steps, rooms_run["loss"], linewidth=1.2)
left.set(xlabel="update", ylabel="squared error (loss)", yscale="log")
right.plot(rooms_run.steps, rooms_run["episode length"], linewidth=1.2)
right.axhline(fewest.mean(), linestyle=":", color=plots.INK)
right.set(xlabel="update", ylabel="steps an episode, mean of 100", yscale="log")
plt.show()

# %% [markdown]
# *The run above: loss (left) and length of the last hundred episodes (right), both on a logarithmic axis; dotted: the
# fewest steps possible, on average. One action in five is drawn by lot, which costs steps.*
#
# ## The honest rival
#
# An agent that attends has learned to fetch a key. Did it learn *because* it attends? The source does not say so: a
# plainer DQN could have done the same task, it concedes (section 10.6.3), and what it is after is a look at the weights.
# `make results` trains all six networks alike. None has settings of its own, and the picture shows neither colours nor
# what is marked as near in the tokens: its curve says little about convolutions.

# %% tags=["A6", "hide-input"]
RIVALS_OF = {
    "dot": "attention, dot product",
    "additive": "attention, additive",
    "even": "all alike (no attention)",
    "own": "itself only (no attention)",
    "flat": "tokens in a row",
    "picture": "convolutions on a picture",
}
AT = UPDATES * np.arange(1, 1_500 // UPDATES + 1)
SIDES = (5, 6, 8, 11, 16)
figure, panels = plt.subplots(2, 3, figsize=(10, 4.6), sharex=True, sharey=True)
floor = results.metric("A6", "floors", "score_5").mean()
for axes, (name, label) in zip(panels.flat, RIVALS_OF.items(), strict=True):
    plots.bands(axes, AT, results.curves("A6", name, "reached"), label, linewidth=1.5)
    axes.axhline(floor, linestyle=":", color=plots.INK)
    axes.set(xlim=(0, 800), ylim=(0, 1.02))
    axes.set_title(label, fontsize=10)
for axes in panels[1]:
    axes.set(xlabel="update")
for axes in panels[:, 0]:
    axes.set(ylabel="reach the goal")
plt.show()

# %% tags=["A6", "hide-input"]
print(f"{'':28}{'judged by MiniGrid (%)':>24}{'steps':>20}{'updates':>12}{'seconds':>10}")
for name, label in RIVALS_OF.items():
    judged, steps, seconds = (
        results.metric("A6", name, m) for m in ("judged", "judged_steps", "seconds")
    )
    first = UPDATES * (1 + (results.curves("A6", name, "reached") >= 0.99).argmax(1))
    shown = f"{100 * judged.mean():.1f} ({100 * judged.min():.1f} to {100 * judged.max():.1f})"
    walked = f"{steps.mean():.1f} ({steps.min():.1f} to {steps.max():.1f})"
    told = f"{np.median(first):.0f}"
    print(f"{label:28}{shown:>24}{walked:>20}{told:>12}{np.median(seconds):10.0f}")

# %% [markdown]
# *Six networks, DoorKey 5 × 5, the first 800 of 1,500 updates: share of the last hundred episodes in training that reached
# the goal, each seed thin; dotted: the reflex. Below: a thousand episodes on MiniGrid, mean and range over the seeds; the
# updates until 99 of the last hundred training episodes reached the goal, and the time of the whole training (medians).
# The two controls compute queries and keys that they make no use of; without the weights they take a fifth less time.*
#
# Attention solves it: all seeds reach the goal in each of a thousand episodes that MiniGrid drew, in 10.6 steps on average,
# where 9.8 are the fewest possible and one action in twenty is drawn by lot. But so do the others: only where everybody
# listens to all alike does one seed end below 99 %, at 98.5. In training they pass 99 % of a hundred episodes after 325 to 500 updates, the network that sees pictures after 525 to
# 725. And an update costs the least where the tokens simply stand in a row: that network is done in less than half of the time.
# The steps are less alike: the slowest agent needs 11.1 with inner products, 10.8 reading a row, 16.0 listening to itself, 26.0 hearing
# all alike, and 17.3 with additive attention, which the source calls the more stable. *On DoorKey, in the rooms that it trained in, attention shows no advantage over
# objects that never exchange a word.*
# <!-- held: rivals -->
#
# ### Rooms that they have not seen
#
# In a room of 5 × 5 the walls leave six cells and the door's: 160 states in all. So the same agents now go
# to rooms in which they were not trained, with one action in twenty by lot, as in all scores, and with one in five, as in training.

# %% tags=["A6", "hide-input"]
UNSEEN = ("dot", "additive", "own", "even", "flat")
figure, panels = plt.subplots(2, 3, figsize=(10.5, 5), sharey=True)
for row, (what, unit) in zip(panels, (("score", 100), ("steps", 1)), strict=True):
    for axes, side in zip(row, (6, 8, 16), strict=True):
        for number, epsilon in enumerate(("0.05", "0.2")):
            for place, name in enumerate(UNSEEN[: 5 - number]):  # no weights are stored of "flat"
                run = f"loose_{name}" if number else name
                seeds = unit * results.metric("A6", run, f"{what}_{side}")
                y, look = place + 0.4 * number - 0.2, {"color": plots.COLOURS[number]}
                told = f"an agent at ε = {epsilon}" if place == 0 else None
                axes.plot(seeds, [y] * len(seeds), "o", markersize=4, markerfacecolor="none", label=told, **look)  # fmt: skip
                axes.plot(np.median(seeds), y, "|", markersize=11, markeredgewidth=2.5, **look)
        floor = unit * results.metric("A6", "floors", f"{what}_{side}").mean()
        axes.axvline(floor, linestyle=":", color=plots.INK, label="the reflex")
        if what == "score":
            axes.set(title=f"{side} × {side}", xlabel="goals (%)", xlim=(-3, 103))
        else:
            axes.set(xlabel="steps an episode", xlim=(0, None))
    row[0].set(yticks=range(5), yticklabels=[RIVALS_OF[name] for name in UNSEEN], ylim=(4.6, -0.6))
figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)  # fmt: skip
plt.show()

# %% [markdown]
# *The agents of the figure above in larger rooms. Above: goals. Below: steps, lost episodes included. Strokes are
# medians, the numbers in the text means, which a few agents pull down; dotted: the reflex. (Of those that read a row no weights are stored, so that they stand here at ε = 0.05 only.)*
#
# Now they differ. At ε = 0.05 no kind brings more goals at 8 × 8 than the reflex with its 88 %: with inner products it is 78, with additive attention 73,
# listening to oneself 72, to all alike 55, reading a row 51. But most of what is missing there is loops, in which the
# reflex, with nearly every step by lot, is never caught. At ε = 0.2 every agent that plays again reaches more goals there, and sooner:
# the first four bring 91, 89, 92 and 82 %, the first three in 153, 169 and 166 steps where the reflex takes 304. At 6 × 6 these three beat it in goals too, with 99, 99 and 97
# against 89; at 16 × 16 none does by more than chance. So they have learned something for rooms that they have never seen. Attention is not the cause: over its copy that listens to
# itself it has no lead that ten seeds would show, and its lead over all alike is at 0.2 no more than chance from 8 × 8 on. <!-- held: sides -->
#
# ### In which frame?
#
# What attention could compute here is a relation: where things lie as seen from the agent. The agent's frame says that outright.
# So attention gets its chance where places are counted on the grid. The networks once more, trained in rooms of 8 × 8:

# %% tags=["A6", "hide-input"]
FRAMED = {
    "agent's frame, 1,200 updates": [
        ("A6", name) for name in ("apart_all", "eight_own", "eight_even", "eight_flat")
    ],
    "grid, 1,200 updates": [
        ("A6", name) for name in ("apart_grid", "grid_own", "grid_even", "grid_flat")
    ],
    "grid, 3,000 updates": [("A9", f"size_8_grid_{name}") for name in ("dot", "own", "even")],
}
figure, panels = plt.subplots(1, 3, figsize=(11, 2.5), sharey=True)
floor = 100 * results.metric("A6", "floors", "score_8").mean()
for axes, (label, runs) in zip(panels, FRAMED.items(), strict=True):
    for row, run in enumerate(runs):
        seeds = 100 * results.metric(*run, "score_8")
        axes.plot(seeds, [row] * len(seeds), "o", color=plots.COLOURS[0], markerfacecolor="none")
    axes.axvline(floor, linestyle=":", color=plots.INK)
    axes.set(xlabel="episodes that reach the goal (%)", xlim=(-3, 103), title=label)
named = [RIVALS_OF[name] for name in ("dot", "own", "even", "flat")]
panels[0].set(yticks=range(4), yticklabels=named, ylim=(3.5, -0.5))
plt.show()

# %% [markdown]
# *Every circle is one of five agents; dotted: the reflex. The third panel's agents had a million random steps beforehand.*
#
# In the agent's frame all are done. On the grid they are not, and now attention is ahead. After 3,000 updates it reaches 52 to 74 %, its copy that listens to itself 33 to 69,
# hearing all alike 19 to 45. Again loops are in the way: at the end of training, at ε = 0.2, the same agents bring 93 to 97, 83 to 97 and 73 to
# 91 %, where the reflex has 88, and after 1,200 updates, when but one of twenty scores beats random play with good odds (34 %), 48 to 83, 24 to 57, 21 to 42 and, reading a row, 13 to 28.
# So where a relation has to be computed attention learns it sooner; whether it ends further than its copy, five seeds leave open. And it is dear: attention first wins nine of ten training episodes after
# 1,450 to 2,650 updates, in the agent's frame after 600 to 875. (On the grid the numbers that mark what is near say next to nothing, since every
# place is at least 1; part of the difference may be theirs.) <!-- held: frames -->
#
# ### What made it fast
#
# Counted in steps the agent is no wonder: it plays 250,000 at random and 96,000 while it learns, where the source speaks
# of some ten thousand for a fair player and fifty thousand for the best, which solves 94 % (and sees less, but has 400 steps, ours 250).
# What is short here is the wait, since worlds are stepped together. Of the frame of reference and the
# [additions](#the-smallest-version-and-what-is-added-to-it), which mattered? At 5 × 5 nearly every score is at its ceiling; so the next
# figure has rooms of 8 × 8.

# %% tags=["A6", "hide-input"]
LACKING = {
    "all": "all devices",
    "shifted": "the frame does not turn",
    "grid": "the frame stays on the grid",
    "no_near": "no steps before a goal",
    "no_random": "5,000 random steps, not 250,000",
    "one_step": "returns of one step",
    "single": "no double Q-learning",
    "slow_target": "target network four times slower",
    "far_sighted": "discount 0.99",
}
figure, (scores, speeds) = plt.subplots(1, 2, figsize=(10, 3.4), sharey=True)
for row, (name, label) in enumerate(LACKING.items()):
    reached = results.curves("A6", f"apart_{name}", "reached") >= 0.9
    first = np.where(reached.any(1), UPDATES * (1 + reached.argmax(1)), np.nan)
    if name == "no_random":  # its first hundred episodes are won ones, which end first
        first[:] = np.nan
    for axes, seeds in (
        (scores, 100 * results.metric("A6", f"apart_{name}", "score_8")),
        (speeds, first),
    ):
        axes.plot(seeds, [row] * len(seeds), "o", color=plots.COLOURS[0], markerfacecolor="none")
scores.axvline(
    100 * results.metric("A6", "floors", "score_8").mean(), linestyle=":", color=plots.INK
)
scores.set(xlabel="episodes at 8 × 8 that reach the goal (%)", xlim=(-3, 103))
scores.set(yticks=range(len(LACKING)), yticklabels=LACKING.values())
speeds.set(xlabel="updates until nine of ten training episodes do", xlim=(0, 1_230))
scores.invert_yaxis()
plt.show()

# %% [markdown]
# *Each row but the first lacks one of the devices; a circle is one of five agents after 1,200 updates in rooms of 8 × 8. Left: its score; dotted: the reflex. Right:
# how soon it got there in training, at ε = 0.2; agents that never did are missing, and so is the fifth row, where the first episodes to end are won ones.*
#
# Three things decide. Without the steps before a goal no agent gets beyond 10 % in these updates, nor beyond 39 in training at ε = 0.2; the reflex has 88. With places
# counted on the grid none gets beyond 40, but in training they end at 48 to 83. A frame that follows the agent but does not turn with it does for four seeds
# of five. And random play beforehand decides whether there is anything to learn from: with 5,000 steps three agents learn as well as with 250,000, and two have
# hardly begun when the run ends.
# Returns of one step and a slow target network cost some points; taking the second network of double Q-learning away, or
# a discount of 0.99, costs one agent of five a few. <!-- held: apart -->
#
# ## The largest of noisy numbers
#
# Ten actions are worth nothing, and each is estimated with an error of standard deviation 1. What is the largest estimate
# worth, on average? And if one set of estimates chooses, and another says what the choice is worth?

# %% tags=["A7"]
draws = np.random.default_rng(0).standard_normal((2, 100_000, 10))  # two sets of estimates
chosen = draws[0].argmax(1)
second = np.take_along_axis(draws[1], chosen[:, None], 1)
print(f"the largest: {draws[0].max(1).mean():+.3f}, told by the other set: {second.mean():+.3f}")


# %% [markdown]
# Nothing is worth 1.54, and the second set does not fall for it. What that does to learning shows in the smallest of games
# ([Sutton and Barto, 2018](../book/bibliography.md#sutton2018), example 6.7): in the first state the player goes right, which ends the game with nothing, or
# left, to a table with ten bets. Each bet pays −0.1 on average, with standard deviation 1. So left is worth −0.1.


# %%
def value_of_left(
    double: bool, episodes: int, runs: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Tabular (double) Q-learning, many players at once. Returns by episode the mean value of "left" and the share that goes."""
    # Two tables; single Q-learning has the first.
    left, bets = np.zeros((2, runs)), np.zeros((2, runs, 10))
    players, found = np.arange(runs), []
    for _ in range(episodes):
        learner = rng.integers(2, size=runs) if double else np.zeros(runs, int)
        teller = 1 - learner if double else learner
        tables = slice(2 if double else 1)
        ties = 1e-9 * rng.standard_normal((runs, 11))
        goes = left[tables].mean(0) > ties[:, 0]
        goes = np.where(rng.random(runs) < 0.1, rng.random(runs) < 0.5, goes)
        bet = (bets[tables].mean(0) + ties[:, 1:]).argmax(1)
        bet = np.where(rng.random(runs) < 0.1, rng.integers(10, size=runs), bet)
        best = bets[learner, players].argmax(1)
        target = bets[teller, players, best]
        left[learner, players] += 0.1 * goes * (target - left[learner, players])
        paid = rng.normal(-0.1, 1.0, runs)
        bets[learner, players, bet] += 0.1 * goes * (paid - bets[learner, players, bet])
        found.append((left[tables].mean(), goes.mean()))
    return tuple(np.array(found).T)


# %% tags=["A7"]
figure, (values, shares) = plt.subplots(1, 2, figsize=(9, 3))
for number, (label, double) in enumerate({"Q-learning": False, "double Q-learning": True}.items()):
    value, share = value_of_left(double, 300, by_budget(100, 10_000), np.random.default_rng(0))
    values.plot(1 + np.arange(300), value, color=plots.COLOURS[number], label=label)
    shares.plot(1 + np.arange(300), 100 * share, color=plots.COLOURS[number])
values.axhline(-0.1, color=plots.INK, linestyle=":")
shares.axhline(5, color=plots.INK, linestyle=":")
values.set(xlabel="episode", ylabel="what left seems to be worth")
shares.set(xlabel="episode", ylabel="players who go left (%)", ylim=(0, 100))
values.legend(fontsize=8)
plt.show()

# %% [markdown]
# *The value of "left" (mean of ten thousand players; dotted: what it is worth) and the share of players who go there (dotted: 5 %, if only ε sends them).
# Learning rate and ε are 0.1.*
#
# The largest of ten guesses makes a bad table look good, and nine in ten players of single Q-learning sit down at it before they learn. With a second opinion, the
# same guesses do not add up. <!-- held: bets -->
#
# And in our rooms? The true values are known there too: from a state with $L$ steps to go the best return is
# $\gamma^{L-1}$, and `shortest` finds $L$. So the overestimate can be measured, while an agent learns: the mean of
# $\max_a Q(s, a) - \gamma^{L-1}$ over states in which random play has left some worlds. (Folded: such states, and what an
# agent's own play earns from them.)


# %% tags=["hide-input"]
def some_states(side: int, count: int, seed: int) -> Rooms:
    """Worlds in which random play has gone on for up to sixty steps."""
    rng = np.random.default_rng((LOOKING, seed))
    rooms, stop = Rooms(doorkey, count, side, rng), rng.integers(61, size=count)
    kept = []
    for step in range(61):
        kept.append(select(rooms, np.flatnonzero(stop == step)))
        _, terminated, truncated = rooms.step(ACTIONS[rng.integers(len(ACTIONS), size=count)])
        rooms.reset(terminated | truncated)
    whole = select(rooms, rooms.numbers)
    for name in ("tokens", "cells", "carried"):
        setattr(whole, name, np.concatenate([getattr(part, name) for part in kept]))
    return whole


# %%
def overestimate(net: nn.Module, states: Rooms, best: np.ndarray) -> float:
    """Mean of the largest Q-value minus a return. best: [B], the largest possible (``shortest``), or the agent's own."""
    with torch.no_grad():
        values = net(torch.from_numpy(states.tokens)).amax(1).numpy()
    return float((values - best).mean())


# %% tags=["hide-input"]
def returns_of(
    net: nn.Module, states: Rooms, discount: float, rng: np.random.Generator
) -> np.ndarray:
    """What the agent's own play at ε = 0.05 earns from each world, within a hundred steps, discounted: [B]."""
    rooms, found = select(states, states.numbers), np.zeros(len(states.numbers))
    for step in range(100):
        _, terminated, _ = rooms.step(ACTIONS[greedy(net, rooms.tokens, PLAY_EPSILON, rng)])
        found = np.where(terminated & (found == 0), discount**step, found)
    return found


# %% tags=["A7", "hide-input"]
ESTIMATES = {
    ("single", 1): "Q-learning, one step",
    ("double", 1): "double, one step",
    ("single", 5): "Q-learning, five steps",
    ("double", 5): "double, five steps",
    ("little", 5): "double, five steps, little random play",
}
figure, axes = plt.subplots(figsize=(7.6, 3.4))
for number, ((way, n), label) in enumerate(ESTIMATES.items()):
    stored = results.curves("A7", f"{way}_{n}", "overestimate")
    x = UPDATES * np.arange(1, stored.shape[1] + 1)
    plots.bands(axes, x, stored, label, color=plots.COLOURS[number], linewidth=1.5)
axes.axhline(0, color=plots.INK, linestyle=":")
axes.set(xlabel="update", ylabel="largest Q − best possible return")
axes.legend(fontsize=8)
plt.show()

# %% [markdown]
# *How much too large the largest Q-value is, on average over three hundred states of 5 × 5 rooms; five seeds, dotted: not at all.*
#
# Here Q-learning hardly overestimates. With returns of one step it ends within a hundredth above the best return, double Q-learning as little
# below it; they are 0.018 and 0.010 above what their own play at ε = 0.05 earns, about the price of ε, by which a perfect
# player loses 0.013. <!-- held: prices --> Rewards are certain here, so that the maximum can pick errors of the network only.
#
# Another bias is far larger: with returns of five steps both learners end 0.12 *below* the best return. Five steps of the film contain
# the player's random steps, and no maximum takes those back. With 5,000 instead of 250,000 steps of random play beforehand 0.07 of it is
# left. <!-- held: estimates -->
#
# ## How much chance?
#
# The source trains with ε = 0.5, found by trying values from 0.01 to 0.95: too little chance explores too little, too
# much exploits too little, an "inverted U". It reads this as maximum entropy: an agent that succeeds although half of its
# actions are drawn by lot must be robust. Here two of our additions are taken away,
# which would act in ε's place: the film starts empty, and returns are of one step. Half of each batch still comes from before a goal, where
# the source keeps fifty copies of each rewarded step. (Folded: the best that a disturbed player can do.)


# %% tags=["hide-input"]
def all_states(starts: Rooms) -> np.ndarray:
    """What each action leads to, from every state that can be reached: numbers of states, −1 for the goal [S, A]. starts: distinct; they come first."""
    numbers, follows, now = {t.tobytes(): i for i, t in enumerate(starts.tokens)}, [], starts
    while len(now.numbers):
        ahead, new = branch(now, len(ACTIONS)), []
        _, won, _ = ahead.step(np.tile(ACTIONS, len(now.numbers)))
        for i, state in enumerate(map(np.ndarray.tobytes, ahead.tokens)):
            if not won[i] and state not in numbers:
                numbers[state] = len(numbers)
                new.append(i)
            follows.append(-1 if won[i] else numbers[state])
        now = select(ahead, np.array(new, int))
    return np.array(follows).reshape(-1, len(ACTIONS))


def perfect(follows: np.ndarray, epsilon: float, limit: int) -> np.ndarray:
    """The best chance of a goal within so many steps, a share of the actions drawn by lot, from each state: [S]."""
    chance = np.append(np.zeros(len(follows)), 1.0)  # the last is the goal's
    for _ in range(limit):
        ahead = chance[follows]
        chance[:-1] = (1 - epsilon) * ahead.max(1) + epsilon * ahead.mean(1)
    return chance[:-1]


# %% tags=["A8", "hide-input"]
EPSILONS = (0.01, 0.05, 0.1, 0.2, 0.5, 0.8, 0.95)
NOISES = (0.0, 0.05, 0.2, 0.4, 0.6, 0.8)  # ε in play
figure, panels = plt.subplots(1, 2, figsize=(9.5, 3.3))
for number, updates in enumerate((250, 500, 1_000)):
    stored = np.stack(
        [results.metric("A8", f"epsilon_{e:g}", f"score_{updates}") for e in EPSILONS], 1
    )
    plots.bands(
        panels[0], EPSILONS, 100 * stored, f"{updates} updates", color=plots.COLOURS[number]
    )
for number, e in enumerate((0.1, 0.2, 0.5, 0.8, 0.95)):
    learned = results.metric("A8", f"epsilon_{e:g}", "score_1000") > 0.9
    stored = results.curves("A8", f"epsilon_{e:g}", "by_noise")[learned]
    plots.bands(
        panels[1], NOISES, 100 * stored, f"trained at ε = {e:g}", color=plots.COLOURS[number]
    )
follows = all_states(select(stock, once))
best = [100 * perfect(follows, e, 50)[: len(once)].mean() for e in NOISES]
panels[1].plot(NOISES, best, ":", color=plots.INK, label="perfect play")
panels[0].set(xlabel="ε in training", ylabel="episodes solved at ε = 0.05 (%)", ylim=(0, 102))
panels[1].set(xlabel="ε in play, at most 50 steps", xlim=(-0.02, 0.62), ylim=(50, 102))
for axes in panels:
    axes.legend(fontsize=8, loc=(0.33, 0.14) if axes is panels[0] else "lower right")
plt.show()

# %% [markdown]
# *Left: what ε in training does to the score at three points of the training. Right: agents that reach 90 % after 1,000 updates, when they themselves are
# disturbed: play with more and more random actions, and a clock of fifty steps; dotted: the most that is possible.*
#
# The inverted U is there after 500 and 1,000 updates, with its top at the source's 0.5, which five seeds hardly tell from its neighbours; after 250 most chance is ahead.
# With an empty film and ε = 0.01 no agent solves an episode afterwards; at 0.1 three of
# five learn, at 0.5 all. After 500 updates the scores are 0 % at 0.05, 90 % at 0.5 and 65 % at 0.95, where hardly a step is the agent's own; after
# 1,000 the right arm has nearly risen to the top. So too little chance is the graver fault. <!-- held: chance -->
#
# Does it make an agent robust? Up to a point. With three of five actions drawn by lot the learners from ε = 0.1, 0.2 and 0.5 win 83, 89 and 92 % (three to five agents
# each, so that it is not settled), and 93 is what a perfect player wins. Those from 0.8 and 0.95 win 89 and 86, and without any chance in play they lose goals that a little
# of it would bring: where neither the agent nor the world has any, who comes back to a state comes back to it for ever. <!-- held: disturbed -->
#
# ### Your own agent
#
# The panel trains in rooms of 5 × 5. Take away the random play beforehand, the steps before a goal, or the chance, and
# look which of them you miss.

# %% tags=["A8", "hide-input"]
preview = plots.to_png(
    live_curve(rooms_run, "reached the goal", max(floors.values()), floor_label="the reflex")
)
rooms_panel = panel(
    train_rooms,
    rooms_config,
    metric="reached the goal",
    floor=max(floors.values()),
    preview=preview,
)

# %% [markdown]
# ## Larger rooms
#
# In rooms of 16 × 16, says the source, random play hardly ever wins, and a curriculum helps: 5 × 5 first, then 6 × 6, 8 × 8 and
# 16 × 16, each time with the network of the stage before. Ours stops at 11 × 11, so that 16 × 16 stays unseen. The premise holds for play in which all actions are alike, which is
# what fills our film: it reaches the goal in 9 % of the episodes there. But MiniGrid's clock grows with the map, and random
# play that takes more steps forward than turns wins there as often as at 5 × 5 ([above](#the-referee-judges)). <!-- held: premise -->

# %% tags=["A9", "hide-input"]
TRAINED = {
    ("A6", "dot"): "only 5 × 5, 1,500 updates",
    ("A6", "apart_all"): "only 8 × 8, 1,200 updates",
    ("A9", "size_8"): "only 8 × 8",
    ("A9", "size_11"): "only 11 × 11",
    ("A9", "size_16"): "only 16 × 16, 6,000 updates",
    ("A9", "curriculum"): "5, 6, 8, 11 in turn",
    ("A9", "curriculum_own"): "in turn, to itself only",
    ("A9", "curriculum_even"): "in turn, to all alike",
    ("A9", "curriculum_grid"): "in turn, grid frame",
    ("A9", "size_8_grid_dot"): "only 8 × 8, grid frame",
}
pictures = {}
for side in SIDES:
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
    for axes, what, unit in zip(panels, ("score", "steps"), (100, 1), strict=True):
        for row, run in enumerate(TRAINED):
            seeds = unit * results.metric(*run, f"{what}_{side}")
            axes.plot(seeds, [row] * len(seeds), "o", color=plots.COLOURS[0], markerfacecolor="none")  # fmt: skip
        floor = unit * results.metric("A6", "floors", f"{what}_{side}").mean()
        axes.axvline(floor, linestyle=":", color=plots.INK)
    panels[0].set(xlabel=f"episodes at {side} × {side} that reach the goal (%)", xlim=(-3, 103))
    panels[0].set(yticks=range(len(TRAINED)), yticklabels=TRAINED.values())
    panels[1].set(xlabel="steps an episode", xscale="log", xlim=(8, 3_000))
    panels[1].set_xticks((10, 100, 1_000), ("10", "100", "1,000"))
    panels[0].invert_yaxis()
    pictures[f"{side} × {side}"] = plots.to_png(figure)
    plt.close(figure)
show(image_slider(pictures, "rooms of", start=2), pictures["8 × 8"])

# %% [markdown]
# *The slider sets the side of the rooms in which agents are tested, the rows say in which they were trained, with 3,000 updates where none are named; every
# circle is an agent; dotted: the reflex at that side. Left: goals; right: steps, lost episodes included, on a logarithmic axis. All at ε = 0.05, loops included: the
# agents of the curriculum on the grid, which end their training at 11 × 11 with 95 to 97 % at ε = 0.2, score 41 to 68 there.*
# <!-- held: grid_loops -->
#
# A curriculum works: after 35 to 40 seconds in all, the agents reach 97 to 100 % at 8 × 8 and 99.5 to 100 % at 11 × 11. At 16 × 16, where they never trained, they
# reach 86 to 100 %; the reflex has 87, but takes 1,242 steps, where they take 352. Yet nothing of it needs a
# curriculum. From scratch, with as many updates and random steps, at 8 × 8 all reach 99.6 % or more, at
# 11 × 11 all 100 %, and those from 11 × 11 do at 16 × 16 what the curriculum does. Even 16 × 16 is learned from scratch, in 6,000 updates after two million random
# steps: 93 to 100 % (three agents). <!-- held: curriculum -->
#
# Nor is attention what carries over: without it, listening to oneself or to all alike, the curriculum ends as high at 16 × 16. Not all who went through it master
# their first room: three of five with attention reach 84 to 94 % at 5 × 5, those who trained at 11 × 11 alone 98 to 100; but one that trained at 8 × 8 alone
# reaches 87. <!-- held: carries -->
#
# ## Who looks at whom
#
# The source freezes one state and reads from it that one head looks from the agent to the key, and another from the key to
# the door. The scrubber has a whole episode. (What an agent looks at that
# plays *Alien* from pixels, the source's last picture, is in [chapter 05c](ch05c_relations.ipynb).)

# %% tags=["A10", "hide-input"]
OBJECTS = ("agent", "key", "door", "goal")


def looks_picture(env: MiniGridEnv, net: RelationalNet) -> bytes:
    """A world, who attends to whom in each head [objects, objects], and the Q-values."""
    with torch.no_grad():
        values, weights = net.look(torch.from_numpy(tokens_of(env))[None])
    figure, (world, *heads, bars) = plt.subplots(
        1, 6, figsize=(11, 2.3), width_ratios=(1.2, 1, 1, 1, 1, 1)
    )
    world.imshow(env.get_frame(highlight=False, tile_size=24))
    for number, axes in enumerate(heads):
        draw_looks(axes, weights[0, number], f"head {number + 1}")
    heads[0].set(yticks=range(4), yticklabels=OBJECTS, ylabel="who looks")
    best = int(values[0].argmax())
    bars.barh(range(5), values[0], color=[plots.COLOURS[1 if a == best else 0] for a in range(5)])
    bars.set(yticks=range(5), yticklabels=ACTION_NAMES, xlim=(0, 1.1), title="Q-values")
    bars.yaxis.tick_right()
    bars.invert_yaxis()
    world.set(xticks=[], yticks=[])
    world.grid(visible=False)
    picture = plots.to_png(figure)
    plt.close(figure)
    return picture


# %% tags=["A10"]
env, rng, pictures, over = DoorKeyEnv(size=5), np.random.default_rng(0), [], False
env.reset(seed=4)
while not over and len(pictures) < by_budget(3, 25):
    pictures.append(looks_picture(env, agent_net))
    action = ACTIONS[greedy(agent_net, tokens_of(env)[None], 0.0, rng)[0]]
    _, _, terminated, truncated, _ = env.step(int(action))
    over = terminated or truncated
show(scrubber(pictures, "step", interval=700), pictures[0])

# %% [markdown]
# *An episode of the agent trained above, without random actions. Middle: the weights of each head; a row says whom an object looks at. Orange: the action
# with the largest value, which it takes. Once the key is in hand, its token has the agent's place.*
#
# Is what a head looks at what the agent needs? In networks that read texts a large weight turned out to be no proof of need
# [(Jain and Wallace, 2019)](../book/bibliography.md#jain2019). Two tests. **Cover**: take an object's token out of the world;
# does the best action change? That tests the object, not the look. **Hide**: leave the object, but forbid all others to look
# at it, in all heads, and share its weight among the rest. The object still looks at itself, and still
# has its vote where the largest answers are taken. A gentler test hides it from the agent's token alone. (Folded: a
# copy of a network whose weights are changed on their way.)


# %% tags=["hide-input"]
PHASES = ("no key yet", "key in hand", "door open")


def phase_of(tokens: np.ndarray) -> np.ndarray:
    """How far a DoorKey episode is: 0 without key, 1 with it, 2 with the door open. tokens: [B, 4, 5]. Returns [B]."""
    return np.where(tokens[:, 2, STATE] == OPEN, 2, tokens[:, 1, STATE])


class Edited(nn.Module):
    """Heads whose weights are changed before they mix. edit: weights [B, H, N, N] -> the same."""

    def __init__(self, heads: Heads, edit: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.heads, self.edit = heads, edit

    def forward(self, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As ``Heads``."""
        weights, count = self.edit(self.heads(nodes)[1]), self.heads.heads
        projected = self.heads.project(nodes)
        values = rearrange(projected, "b n (three h d) -> three b h n d", three=3, h=count)[2]
        return self.heads.out(rearrange(weights @ values, "b h n d -> b n (h d)")), weights


def edited(net: nn.Module, edit: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    """A network with the same parameters whose weights of attention are changed before they mix."""
    changed = copy.copy(net)
    changed._modules = dict(net._modules)
    changed.attention = Edited(net.attention, edit)
    return changed


# %%
def forbid(weights: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Weights [B, H, N, N] without the looks that are hidden (bool, broadcast to them); what is left of a row adds up to 1.

    A token's look at itself stays.
    """
    others = ~torch.eye(weights.shape[-1], dtype=torch.bool, device=weights.device)
    left = weights * ~(hidden.to(weights.device) & others)
    return left / left.sum(-1, keepdim=True).clamp(min=1e-9)


def hiding(net: nn.Module, number: int, by_agent: bool = False) -> nn.Module:
    """A network in which nobody else may look at token ``number``; by_agent: only the agent may not."""
    hidden = torch.zeros(len(OBJECTS), len(OBJECTS), dtype=torch.bool)
    hidden[: 1 if by_agent else None, number] = True
    return edited(net, lambda weights: forbid(weights, hidden))


def what_it_needs(net: RelationalNet, tokens: np.ndarray) -> dict[str, float]:
    """By phase and object: the agent's attention to it, and the share of states whose best action changes by each test."""
    found, phases, seen = {}, phase_of(tokens), torch.from_numpy(tokens)
    with torch.no_grad():
        values, weights = net.look(seen)
        for number, name in enumerate(OBJECTS[1:], 1):
            tests = {
                "cover": net(torch.cat([seen[:, :number], seen[:, number + 1 :]], 1)),
                "hide": hiding(net, number)(seen),
                "hide_by_agent": hiding(net, number, by_agent=True)(seen),
            }
            for phase in range(3):
                here = torch.from_numpy(phases == phase)
                found[f"weight_{name}_{phase}"] = weights[here][:, :, 0, number].mean().item()
                for test, changed in tests.items():
                    flips = changed[here].argmax(1) != values[here].argmax(1)
                    found[f"{test}_{name}_{phase}"] = flips.float().mean().item()
    return found


# %% tags=["A10", "hide-input"]
PANELS = {
    ("dot", "weight"): "attention of the agent's token",
    ("dot", "hide_by_agent"): "attention: hidden from the agent",
    ("dot", "hide"): "attention: hidden from all",
    ("even", "hide"): "to all alike: hidden from all",
    ("own", "cover"): "to itself only: covered",
}
figure, panels = plt.subplots(1, 5, figsize=(13, 3), sharey=True)
for axes, ((name, test), label) in zip(panels, PANELS.items(), strict=True):
    for number, thing in enumerate(OBJECTS[1:]):
        for phase in range(3):
            seeds = 100 * results.metric("A10", f"needs_{name}", f"{test}_{thing}_{phase}")
            x, legend = phase + (number - 1) / 4, thing if phase == 0 else None
            axes.bar(x, seeds.mean(), 0.22, color=LOOK[number + 1][1], label=legend)
            axes.plot(
                [x] * len(seeds), seeds, "o", color=plots.INK, markersize=3, markerfacecolor="none"
            )
    axes.set_title(label, fontsize=9)
    axes.set_xticks(range(3), [phase.replace(" ", "\n", 1) for phase in PHASES], fontsize=8)
panels[0].axhline(25, color=plots.INK, linestyle=":")
panels[0].set(ylabel="%")
panels[0].legend(fontsize=8)
plt.show()

# %% tags=["A10", "hide-input"]
HIDDEN = ("nothing", *OBJECTS[1:])
figure, panels = plt.subplots(1, 3, figsize=(9.5, 2.6), sharey=True)
for axes, (name, label) in zip(
    panels,
    {"dot": "attention", "even": "to all alike", "own": "to itself only"}.items(),
    strict=True,
):
    for x, thing in enumerate(HIDDEN):
        seeds = 100 * results.metric("A10", f"needs_{name}", f"played_{thing}")
        axes.plot([x] * len(seeds), seeds, "o", color=LOOK[x][1], markerfacecolor="none")
    axes.set(xticks=range(4), xticklabels=HIDDEN, xlabel="hidden", title=label, ylim=(-3, 103))
panels[0].set(ylabel="goals within 50 steps (%)")
plt.show()

# %% [markdown]
# *Above: by phase of the episode, what the agent's token attends to (dotted: equal shares), and in how many states the best action
# changes if an object is hidden from the agent's token, hidden from all, or covered. Below: what becomes of the play if an
# object is hidden from all, 200 episodes of fifty steps. Every mark is one of five agents.*
#
# Read the third panel: as long as there is no key in hand, hiding the key changes the best action in 21 to 70 % of the states, and hiding door or goal in
# 3 % at most. With the key in hand it is the door, 25 to 52 %. That is the source's story, tested; four of five agents with additive attention
# (not drawn) tell it too, one of them faintly. Where all are heard alike (fourth panel), the door matters from the first step in four of five, in 15 to 54 % of the states.
# The weights alone (first panel) do not tell it: before there is a key, the
# door gets 20 to 40 % of the agent's attention and is not needed. Nor does all that is needed pass through the agent's own row: forbid it alone the look
# (second panel), and 10 instead of 36 % of the actions change for the key, 24 instead of 41 for the door. <!-- held: hidden -->
#
# Needed by whom? Without the look at the door the agents reach at most 47 % of the goals in fifty steps, without the look at the key
# at most 72.5, and without that at the goal 100, 0.5, 99, 100 and 10.5 %. Yet the network that looks at nobody reaches them all (99.5 % in one seed).
# So these are looks that *the agent* needs, since it has learned to use them; the task does not. <!-- held: played -->
#
# Covering says nothing about looks. The network that listens only to itself changes its action just as often when the key is
# covered, in 55 to 66 % of the states (fifth panel). <!-- held: covered -->

# %% [markdown]
# ## Spot the bug
#
# ### An action for another state
#
# The printed program calls its target double Q-learning and computes it so:
#
# ```python
# q_pred = GWagent(state_batch)             # values of the states ...
# astar = torch.argmax(q_pred, dim=1)       # ... choose the action
# qs = Tnet(state2_batch).gather(dim=1, index=astar.unsqueeze(dim=1)).squeeze()
# ```
#
# The best action in $s$ is used to read off a value in $s'$. Our trained agent tells how often that is another action than the best
# in $s'$, and what it costs.

# %%
states = some_states(5, by_budget(20, 300), seed=1)
after = branch(states, 1)
with torch.no_grad():
    here = agent_net(torch.from_numpy(states.tokens))
    after.step(ACTIONS[here.argmax(1).numpy()])
    there = agent_net(torch.from_numpy(after.tokens))
other = here.argmax(1) != there.argmax(1)
lost = there.amax(1) - there.gather(1, here.argmax(1)[:, None])[:, 0]
print(f"another action in {other.float().mean():.0%} of the states")
print(f"the target is then {lost[other].mean():.2f} too low, {lost.mean():.3f} over all states")

# %% [markdown]
# ### Compatible with whom?
#
# The printed module says that it uses additive attention, and computes its weights as
# `a_lin(elu(q_lin(Q) + k_lin(K)))`, softmax over the last axis. `q_lin` and `k_lin` map each node to as many numbers as
# there are nodes, and node $i$'s query is added to node $i$'s *own* key. No pair is ever compared: who is listened to depends on the
# listener alone, and on the *place* that an object has in the list. Change another node, and the row stays:

# %%
torch.manual_seed(0)
count, width = 5, 8
q_lin, k_lin, a_lin = nn.Linear(width, count), nn.Linear(width, count), nn.Linear(count, count)
q, k = torch.randn(count, width), torch.randn(count, width)
printed = lambda q, k: a_lin(F.elu(q_lin(q) + k_lin(k))).softmax(-1)  # [N, N]
other_key = k.clone()
other_key[3] += 5
judge_of_pairs = torch.randn(1, width)
ours = lambda q, k: additive(q[None, None], k[None, None], k[None, None], judge_of_pairs)[1][0, 0]
for name, weights in (("as printed", printed), ("additive", ours)):
    change = (weights(q, other_key) - weights(q, k)).abs().amax(1).detach()
    told = " ".join(f"{x:.3f}" for x in change)
    print(f"{name:11} the key of node 3 changes; rows 0 to 4 change by {told}")

# %% [markdown]
# As printed, only row 3 changes; the other four do not notice that node 3 has become
# another. With additive attention all five do. (In the
# printed module a norm over all nodes comes first, which lets every row feel every other a little, as a change of scale.)
#
# ### A floor under the values
#
# The printed network ends in `elu`, which gives no number below −1. Its rewards are −0.01 a step, and its discount 0.99: an
# agent that never reaches the goal is worth $-0.01 / (1 - 0.99) = -1$, exactly the number that can only be approached, with a
# gradient that goes to nothing on the way. Q-values get no activation. A test asserts that ours go below −1 and above 1.
#
# ## Exercises
#
# Each has a solution that runs, folded away.
#
# **A6.1 Ahead and to the right.** Write `seen_from(agent, thing)`: both are tokens, `(kind, colour, state, x, y)`; the
# agent's state is its heading (0 right, 1 down, 2 left, 3 up; y grows downwards). Return `(ahead, right)`, in cells.

# %%
# Your seen_from(agent, thing), and then check("A6.1", seen_from)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
def seen_from(agent: tuple[int, ...], thing: tuple[int, ...]) -> tuple[int, int]:
    x, y = int(thing[3]) - int(agent[3]), int(thing[4]) - int(agent[4])
    return [(x, y), (y, -x), (-x, -y), (-y, x)][agent[2]]


check("A6.1", seen_from)

# %% [markdown]
# **A6.2 Double.** Write `double(values_now, values_slow, reward, discount)`: `values_now` and `values_slow` [A] are what the
# network and the target network say of the next state; return the target of double Q-learning.

# %%
# Your double(values_now, values_slow, reward, discount), and then check("A6.2", double)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
def double(
    values_now: np.ndarray, values_slow: np.ndarray, reward: float, discount: float
) -> float:
    return reward + discount * values_slow[np.argmax(values_now)]


check("A6.2", double)

# %% [markdown]
# **A6.3 Heads by hand.** Write `split_heads(rows, heads)`, which makes of [B, N, H·D] the array [B, H, N, D], head 0 first, without
# `einops`.

# %%
# Your split_heads(rows, heads), and then check("A6.3", split_heads)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
def split_heads(rows: np.ndarray, heads: int) -> np.ndarray:
    batch, count, width = rows.shape
    return rows.reshape(batch, count, heads, width // heads).transpose(0, 2, 1, 3)


check("A6.3", split_heads)

# %% [markdown]
# **A7.1 Predict, then run.** Ten actions, errors of standard deviation 1: the largest estimate is 1.54 too large on average. With a
# hundred actions, is it ten times as much, three times, or less than twice? Write your guess down, then write
# `surplus(actions, spread)`, which returns it for errors of standard deviation `spread`, to within 0.02.

# %%
# Your surplus(actions, spread), and then check("A7.1", surplus)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
def surplus(actions: int, spread: float) -> float:
    draws = np.random.default_rng(0).standard_normal((100_000, actions))
    return float(spread * draws.max(1).mean())


check("A7.1", surplus)
print({count: f"{surplus(count, 1.0):.2f}" for count in (2, 10, 100)})

# %% [markdown]
# **A10.1 Out of sight.** Write `without(weights, hidden)`: attention weights [N, N] after nobody may look at row number
# `hidden`, and what it got is shared among the others in proportion. Here the hidden one may not look at itself either, which
# it may in the chapter's `forbid`.

# %%
# Your without(weights, hidden), and then check("A10.1", without)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
def without(weights: np.ndarray, hidden: int) -> np.ndarray:
    left = weights.copy()
    left[:, hidden] = 0
    return left / left.sum(1, keepdims=True)


check("A10.1", without)

# %% [markdown]
# ## Summary
#
# - A world that consists of a handful of tokens steps by the thousand, and MiniGrid holds it to its rules and judges its players.
# - DoorKey at 5 × 5 is learned in twenty seconds, by all six networks. A reflex that looks one cell ahead and learns nothing reaches 94 % of the
#   goals, in nine times as many steps. In the agent's frame attention has no advantage over objects that listen to
#   themselves; on the grid, where a relation has to be computed, it is sooner. <!-- held: in_short -->
# - A score at ε = 0.05 counts loops as well as skill. In rooms of 8 × 8 that they have not seen, the agents with inner products reach 78 % of the goals
#   at 0.05 and 91 % at 0.2, in half of the reflex's steps; those that listen only to themselves 72 and 92. <!-- held: loops -->
# - Most was decided by what is learned from, the steps before a goal, and by the frame of reference.
# - The largest of noisy numbers is too large where rewards are uncertain; here they are not, and returns of several steps err more, downwards.
# - An agent that has to find its goals by chance needs a good share of it: 0.5, as the source found, is the best here
#   too, though hardly told from 0.2 and 0.8.
# - A look is tested by forbidding it. These agents need the looks at the key and at the door, in that order, and two of five the one
#   at the goal; the task needs none.
#
# ### References
#
# - [Bahdanau et al. (2015)](../book/bibliography.md#bahdanau2015) for additive attention, in translation.
# - [Chevalier-Boisvert et al. (2023)](../book/bibliography.md#chevalier2023) for MiniGrid.
# - [van Hasselt et al. (2016)](../book/bibliography.md#hasselt2016) for double Q-learning with networks.
# - [Zambaldi et al. (2019)](../book/bibliography.md#zambaldi2019) for agents with a relational module.
# - [Jain and Wallace (2019)](../book/bibliography.md#jain2019) on attention that does not explain.
#
# ## What `make results` measures
#
# The book does not keep the networks that these functions train, only their runs. Before agents are looked into once more,
# `make results ROW=A6 SEEDS=1,2,3 WRITE=1` trains them anew.


# %% tags=["hide-input"]
def measure_rooms(config: RoomsConfig, seed: int) -> Measured:
    """Train; curves by report; scores at every side; and at side 5 MiniGrid's verdict on a thousand episodes."""
    curves = {"reached": [], "length": [], "loss": [], "seconds": []}
    names = ("reached the goal", "episode length", "loss", "seconds")
    for progress in train_rooms(config, seed):
        for curve, name in zip(curves.values(), names, strict=True):
            curve.append(float(progress.metrics[name]))
    net, found = net_from(progress.state(), config), {"seconds": curves["seconds"][-1]}
    for side in (5,) if isinstance(net, PictureNet) else SIDES:
        episodes = 500 if side <= 8 else 200  # lost ones are long there
        found[f"score_{side}"], found[f"steps_{side}"] = score_of(player(net), side, episodes, seed)
    if config.stages == RoomsConfig().stages:
        judged = judge(player(net), 5, 1_000, seed)
        found["judged"], found["judged_steps"] = judged.mean(0)
    looked_into = "judged" in found and isinstance(net, RelationalNet)  # by row A10
    return Measured(found, curves=curves, state={"net": net.state_dict()} if looked_into else None)


def measure_estimates(config: RoomsConfig, seed: int) -> Measured:
    """How much too large the largest Q-value is, report by report."""
    states, found, rng = some_states(5, 300, seed), [], np.random.default_rng((LOOKING, seed, 1))
    best = config.discount ** (shortest(states) - 1.0)
    for progress in train_rooms(config, seed):
        net = net_from(progress.state(), config)
        found.append(overestimate(net, states, best))
    own = overestimate(net, states, returns_of(net, states, config.discount, rng))
    return Measured(
        {"largest": max(found), "last": found[-1], "over_own": own}, curves={"overestimate": found}
    )


# %% tags=["hide-input"]
def measure_epsilon(config: RoomsConfig, seed: int) -> Measured:
    """Scores at ε = 0.05 on the way, and at the end against random actions within fifty steps."""
    found = {}
    for progress in train_rooms(config, seed):
        if progress.step in (250, 500, 1_000):
            net = net_from(progress.state(), config)
            found[f"score_{progress.step}"] = score_of(player(net), 5, 500, seed)[0]
    noisy = [score_of(player(net, e), 5, 500, seed, max_steps=50)[0] for e in NOISES]
    return Measured(found, curves={"by_noise": noisy})


def measure_floors(config: None, seed: int) -> Measured:
    """Random play and reflexes at every side, each the best of its odds, and the fewest steps possible at side 5."""
    found = {}
    for side in SIDES:
        random = [score_of(floor_player(odds), side, 500, seed)[0] for odds in FLOORS.values()]
        reflexes = [score_of(reflex(odds), side, 500, seed) for odds in REFLEXES.values()]
        found[f"even_{side}"], found[f"random_{side}"] = random[0], max(random)
        found[f"score_{side}"], found[f"steps_{side}"] = max(
            reflexes, key=lambda both: (both[0], -both[1])
        )
    rooms = Rooms(doorkey, 500, 5, np.random.default_rng((LOOKING, seed)))
    return Measured(found | {"fewest": shortest(rooms).mean()})


def measure_speed(config: None, seed: int) -> Measured:
    """Steps a second, MiniGrid's and ours, in turn."""
    found = {
        f"worlds_{count}": random_steps_per_second(count, 8, 1_000) for count in (1, 64, 256, 1024)
    }
    found["minigrid"] = minigrid_steps_per_second(8, 3_000)
    found["minigrid_blind"] = minigrid_steps_per_second(8, 30_000, sees=False)
    return Measured(found)


# %% tags=["hide-input"]
@dataclass(frozen=True)
class NeedsConfig:
    """Which stored agents of row A6 are looked into."""

    agents: str = choice("dot", ("dot", "additive", "even", "own"))
    episodes: int = knob(100, 5, 1000, "whose states are looked at")

    def __post_init__(self) -> None:
        check_config(self)


def stored_net(name: str, seed: int) -> nn.Module:
    """An agent of row A6."""
    net = NETS[name]()
    path = results.run_path("A6", name, seed).with_suffix(".safetensors")
    net.load_state_dict(as_tensors(load_checkpoint(path)["state"]["net"]))
    return net


def measure_needs(config: NeedsConfig, seed: int) -> Measured:
    """What stored agents look at and need: in the states of their own episodes, and in play with an object hidden."""
    net, rng = stored_net(config.agents, seed), np.random.default_rng((LOOKING, seed))
    rooms, kept = Rooms(doorkey, config.episodes, 5, rng), []
    for _ in range(30):
        kept.append(rooms.tokens.copy())
        _, terminated, truncated = rooms.step(ACTIONS[greedy(net, rooms.tokens, PLAY_EPSILON, rng)])
        rooms.reset(terminated | truncated)
    found = what_it_needs(net, np.concatenate(kept))
    for number, name in enumerate(HIDDEN):
        playing = player(hiding(net, number) if number else net)
        found[f"played_{name}"] = score_of(playing, 5, 2 * config.episodes, seed, max_steps=50)[0]
    return Measured(found)


# %% tags=["hide-input"]
@dataclass(frozen=True)
class LooseConfig:
    """Which stored agents of row A6 play again, and with how much chance."""

    agents: str = choice("dot", ("dot", "additive", "even", "own"))
    epsilon: float = knob(0.2, 0.0, 1.0, "share of random actions, as in training")

    def __post_init__(self) -> None:
        check_config(self)


def measure_loose(config: LooseConfig, seed: int) -> Measured:
    """Scores and steps of stored agents with more chance in play, in as many episodes as ``measure_rooms`` takes."""
    act, found = player(stored_net(config.agents, seed), config.epsilon), {}
    for side in (5, 6, 8, 16):
        episodes = 500 if side <= 8 else 200
        found[f"score_{side}"], found[f"steps_{side}"] = score_of(act, side, episodes, seed)
    return Measured(found)


# %% tags=["hide-input"]
HEADLINE = "DoorKey 5 × 5: {A6.judged} of episodes on MiniGrid after {A6.seconds} s; as much without attention"
FIVE, TEN = tuple(range(1, 6)), tuple(range(1, 11))
AT_8 = RoomsConfig(stages=((8, 1_200),))
CURRICULUM = ((5, 800), (6, 400), (8, 800), (11, 1_000))
APART = {
    "all": {}, "shifted": {"frame": "shifted"}, "grid": {"frame": "grid"}, "no_near": {"near_goal": 0.0},
    "no_random": {"random_steps": 5_000}, "one_step": {"n_steps": 1}, "single": {"double": False},
    "slow_target": {"polyak": 0.005}, "far_sighted": {"discount": 0.99},
}  # fmt: skip
RIVALS_AT_8 = {
    **{f"eight_{net}": RoomsConfig(net=net, stages=AT_8.stages) for net in ("own", "even", "flat")},
    **{
        f"grid_{net}": RoomsConfig(net=net, stages=AT_8.stages, frame="grid")
        for net in ("own", "even", "flat")
    },
}
SIZES = {
    "curriculum": RoomsConfig(stages=CURRICULUM),
    "curriculum_own": RoomsConfig(stages=CURRICULUM, net="own"),
    "curriculum_even": RoomsConfig(stages=CURRICULUM, net="even"),
    "curriculum_grid": RoomsConfig(stages=CURRICULUM, frame="grid"),
    "size_8": RoomsConfig(stages=((8, 3_000),), random_steps=1_000_000),
    "size_11": RoomsConfig(stages=((11, 3_000),), random_steps=1_000_000),
    **{
        f"size_8_grid_{net}": RoomsConfig(
            stages=((8, 3_000),), random_steps=1_000_000, net=net, frame="grid"
        )
        for net in ("dot", "own", "even")
    },
    "size_16": RoomsConfig(stages=((16, 6_000),), random_steps=2_000_000),
}
MEASUREMENTS = [
    Measurement("A6", name, measure_rooms, RoomsConfig(net=name), TEN if name in ("dot", "own", "even", "flat") else FIVE, (
        Metric("judged", "of 1,000 episodes on MiniGrid", "mean", "at least 94 %"), Metric("seconds", "s of training", "median"),
    ) if name == "dot" else ())
    for name in NETS
]  # fmt: skip

# %% tags=["hide-input"]
MEASUREMENTS += [
    *(Measurement("A6", f"apart_{name}", measure_rooms, replace(AT_8, **lacking), FIVE) for name, lacking in APART.items()),
    *(Measurement("A6", name, measure_rooms, config, FIVE) for name, config in RIVALS_AT_8.items()),
    *(
        Measurement("A6", f"loose_{name}", measure_loose, LooseConfig(name), FIVE if name == "additive" else TEN)
        for name in ("dot", "own", "even", "additive")
    ),
    Measurement("A6", "floors", measure_floors, None, FIVE),
    Measurement("A6", "speed", measure_speed, None, FIVE),
    *(
        Measurement("A7", f"{way}_{n}", measure_estimates, RoomsConfig(stages=((5, 1_000),), double=way != "single", n_steps=n, random_steps=5_000 if way == "little" else 250_000), FIVE,
                    (Metric("largest", "largest overestimate, Q-learning, one step", "mean"),) if (way, n) == ("single", 1) else ())
        for way, n in ESTIMATES
    ),
    *(
        Measurement("A8", f"epsilon_{e:g}", measure_epsilon, RoomsConfig(stages=((5, 1_000),), random_steps=0, n_steps=1, epsilon=e), FIVE,
                    (Metric("score_500", "of episodes after 500 updates at ε = 0.5", "mean", "0.5 is best"),) if e == 0.5 else ())
        for e in EPSILONS
    ),
    *(
        Measurement("A9", name, measure_rooms, config, FIVE[:3] if name in ("size_16", "curriculum_grid") else FIVE,
                    (Metric("score_16", "of episodes at 16 × 16, never trained there", "mean"),) if name == "curriculum" else ())
        for name, config in SIZES.items()
    ),
    *(
        Measurement("A10", f"needs_{name}", measure_needs, NeedsConfig(name), FIVE,
                    (Metric("hide_key_0", "of actions change if nobody may look at the key", "mean"),) if name == "dot" else ())
        for name in ("dot", "additive", "even", "own")
    ),
]  # fmt: skip
