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
# # 05c · Relations: one key fits one door, and pixels
#
# <!-- card: Several keys, several doors, and only one pair that fits: what comparing is worth, and what a map of attention shows in Alien. -->
#
# **What you will build.** A task that cannot be solved without comparing objects: several keys, several locked doors,
# and one pair of equal colour. You train agents with attention and without, and then give them more keys and doors than
# they have ever seen. Where attention wins you ask why: you forbid single looks, and you exchange them, so that a key
# hears what the other key should have heard. At the end stands an agent that plays *Alien* from pixels, and a test of
# what its maps of attention mean.
#
# | | |
# |---|---|
# | **You need** | [Chapter 05b](ch05b_relational_agents.ipynb): its worlds of tokens, its network, and how it learns. |
# | **Time** | About three minutes for all cells on two cores; one of them trains. |
# | **Memory** | About 1 GB. No GPU. |
# | **Budget** | `RLBOOK_BUDGET` is `laptop` unless you set it; the next cell shows it. |
#
# The chapter accompanies sections 10.4 to 10.6 of [Zai and Brown (2020)](../book/bibliography.md#zai2020), and goes where
# they stop.

# %%
import copy
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import NamedTuple

import ale_py
import matplotlib.pyplot as plt
import minigrid
import numpy as np
import torch
from ale_py import roms
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from minigrid.core.constants import COLOR_NAMES
from scipy import ndimage
from torch import nn
from torch.nn import functional as F

from rlbook_utils import plots, results
from rlbook_utils.checkpoint import as_tensors, load_checkpoint, random_state, restore_random
from rlbook_utils.config import budget, by_budget, check_config, choice, knob
from rlbook_utils.definitions import load_chapter
from rlbook_utils.exercises import check
from rlbook_utils.replay import Experience, NStep, Replay
from rlbook_utils.results import Measured, Measurement, Metric
from rlbook_utils.rollout import Policy, spread, transitions
from rlbook_utils.run import Progress, live_curve, watch
from rlbook_utils.video import show_clip
from rlbook_utils.widgets import image_slider, panel, scrubber, show

plots.use_style()
RELATIONAL = load_chapter("ch05b_relational_agents")

# %% tags=["remove-stderr"]
versions = (
    f"torch {torch.__version__} · minigrid {minigrid.__version__} · ale-py {ale_py.__version__}"
)
print(f"budget {budget()} · {results.cores()} cores · {versions}")

# %% [markdown]
# ## A task that needs a comparison
#
# In DoorKey a network without attention did as well as one with it. No wonder: there is one key and one door, and nothing to
# compare. So let there be several of both, in several colours. **Exactly one key has the colour of exactly one door**; the others
# fit nowhere. A key opens only doors of its own colour, and the agent has no action to drop what it holds. Whoever takes the
# wrong key is lost, though nothing says so.
#
# "Which key?" is not a question about a key, nor about a door. It is a question about pairs.


# %%
AGENT, KEY, DOOR, GOAL = range(4)  # kinds, and the columns of a token, as in chapter 05b
KIND, COLOUR, STATE, X, Y = range(5)


def draw_colours(count: int, keys: int, doors: int, rng: np.random.Generator) -> np.ndarray:
    """Colours of keys, then doors: [B, keys + doors]. One key has the colour of one door; all others fit nowhere."""
    colours = rng.random((count, len(COLOR_NAMES))).argsort(1)  # the first is the pair's
    of_keys, worlds = rng.integers(2, 4, (count, 1)), np.arange(count)  # the next are for keys
    of_doors = len(COLOR_NAMES) - 1 - of_keys
    odd_keys = 1 + (rng.random((count, keys)) * of_keys).astype(int)
    odd_doors = 1 + of_keys + (rng.random((count, doors)) * of_doors).astype(int)
    chosen = np.concatenate([odd_keys, odd_doors], 1)
    chosen[worlds, rng.integers(keys, size=count)] = 0
    chosen[worlds, keys + rng.integers(doors, size=count)] = 0
    return np.take_along_axis(colours, chosen, 1)


# %%
def draw_worlds(
    count: int, keys: int, doors: int, side: int, rng: np.random.Generator
) -> RELATIONAL.Layout:
    """A wall with ``doors`` locked doors, and left of it ``keys`` keys and the agent, anywhere."""
    wall = rng.integers(2 + keys // (side - 2), side - 2, count)
    tokens = np.zeros((count, 2 + keys + doors, 5), int)
    tokens[:, :, KIND] = [AGENT, *[KEY] * keys, *[DOOR] * doors, GOAL]
    tokens[:, 1:-1, COLOUR] = draw_colours(count, keys, doors, rng)
    tokens[:, 0, STATE] = rng.integers(4, size=count)
    tokens[:, : keys + 1, X:] = RELATIONAL.cells_left(keys + 1, wall, side, rng)
    in_wall = tokens[:, keys + 1 : -1]
    in_wall[..., STATE], in_wall[..., X] = RELATIONAL.LOCKED, wall[:, None]
    in_wall[..., Y] = 1 + rng.random((count, side - 2)).argsort(1)[:, :doors]
    tokens[:, -1, COLOUR:] = RELATIONAL.GREEN, 0, side - 2, side - 2
    cells = RELATIONAL.walled(count, side)
    cells[np.arange(count), :, wall] = RELATIONAL.WALL
    return RELATIONAL.lay_out(tokens, cells)


# %% tags=["A6", "hide-input"]
drawn = draw_worlds(40, 2, 2, 7, np.random.default_rng(4))
many = draw_worlds(40, 4, 4, 7, np.random.default_rng(4))
envs = [RELATIONAL.Given(drawn.tokens[i], drawn.cells[i], 60) for i in (0, 2, 10)]
envs.append(RELATIONAL.Given(many.tokens[1], many.cells[1], 60))
for env in envs:
    env.reset()
RELATIONAL.look_at(*envs, titles=("1", "2", "3", "4"))

# %% [markdown]
# *Worlds as they are drawn, shown by MiniGrid: two keys and two doors in 1 to 3, four of each in 4. One key and one door share
# their colour. In 3 nobody can help: a key that fits nowhere blocks the way.*
#
# Look at 3 again. A room that is one cell wide and a wrong key in the middle: the agent cannot step over a key, and may
# not take it. Nearly a quarter of the worlds drawn this way cannot be solved by anybody. <!-- held: match_floors -->
# The first version of this chapter did not see that. Its agents came to three quarters, stayed there, and looked like
# agents that had not learned enough.
#
# **Look for the ceiling as you look for the floor.** Here it takes a flood: start where the agent stands, spread over free cells
# until nothing changes, and see whether the right key and its door got wet.


# %%
def pairs(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the key and of the door that belong together. tokens: [B, N, 5]. Returns [B] each."""
    colour, kind = tokens[..., COLOUR], tokens[..., KIND]
    fits = colour[:, :, None] == colour[:, None]  # [B, N, N]
    fits &= (kind == KEY)[:, :, None] & (kind == DOOR)[:, None]
    return fits.any(2).argmax(1), fits.any(1).argmax(1)


def reachable(free: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Where one can walk: free cells [B, side, side] from start (x, y) [B, 2], by spreading until nothing changes."""
    reached = np.zeros_like(free)
    reached[np.arange(len(free)), start[:, 1], start[:, 0]] = True
    while True:
        grown = reached.copy()
        grown[:, 1:] |= reached[:, :-1]
        grown[:, :-1] |= reached[:, 1:]
        grown[:, :, 1:] |= reached[:, :, :-1]
        grown[:, :, :-1] |= reached[:, :, 1:]
        grown &= free | reached
        if (grown == reached).all():
            return reached
        reached = grown


# %%
def flooded(layout: RELATIONAL.Layout, also: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a walk gets to if one more token's cell is free: the token's cell, and the cells before the matching door.

    also: the row of that token [B]. Returns [B] each, True or False.
    """
    tokens, worlds = layout.tokens.astype(int), np.arange(len(layout.tokens))
    side = round(layout.cells.shape[1] ** 0.5)
    free = layout.cells.reshape(-1, side, side) == RELATIONAL.EMPTY
    here, door = tokens[worlds, also, X:], tokens[worlds, pairs(tokens)[1], X:]  # (x, y): [B, 2]
    free[worlds, here[:, 1], here[:, 0]] = True
    wet = reachable(free, tokens[:, 0, X:])
    return wet[worlds, here[:, 1], here[:, 0]], wet[worlds, door[:, 1], door[:, 0] - 1]


def solvable(layout: RELATIONAL.Layout) -> np.ndarray:
    """Whether one can walk to the matching key and, once it is taken, to its door: [B]."""
    return np.logical_and(*flooded(layout, pairs(layout.tokens)[0]))


# %%
def match(keys: int, doors: int) -> Callable[..., RELATIONAL.Layout]:
    """Worlds with so many keys and doors, as ``Rooms`` takes them; those that nobody could solve are drawn again.

    Raises ValueError for a room that is too small for them.
    """

    def layout(count: int, side: int, rng: np.random.Generator) -> RELATIONAL.Layout:
        if side < 5 or not 1 <= keys <= (side - 4) * (side - 2) - 1 or not 1 <= doors <= side - 2:
            raise ValueError(
                f"A room of side {side} has no place for {keys} keys and {doors} doors."
            )
        found = draw_worlds(count, keys, doors, side, rng)
        while not (fine := solvable(found)).all():
            fresh = draw_worlds((~fine).sum(), keys, doors, side, rng)
            found.tokens[~fine], found.cells[~fine] = fresh
        return found

    return layout


# %% tags=["A6"]
rng = np.random.default_rng(0)
for keys, doors, side in ((1, 1, 7), (2, 2, 7), (4, 2, 7), (4, 4, 7), (2, 2, 12)):
    share = solvable(draw_worlds(by_budget(200, 4_000), keys, doors, side, rng)).mean()
    print(
        f"{keys} keys, {doors} doors, side {side:2}: {share:5.1%} of the drawn worlds can be solved"
    )

# %% [markdown]
# From here on only worlds that can be solved count, and 100 % is possible everywhere. The flood is one argument; a test
# holds it against another, chapter 05b's `shortest`, which tries all actions.
#
# ### Rules that need no learning
#
# These worlds need no learning at all: whoever is told the rules can search them, and solves every one. That is the
# ceiling. The question is whether a network *finds* the comparison, and whether it keeps it. So the floors are rules
# that walk without fault and never hold a key against a door:
#
# - **any key**: take one of those in reach, then try every door. Right for a little more than a half with two keys, for
#   a third with four.
# - **a key without a twin**: two keys of one colour are both wrong, since one key alone fits. With four keys and six
#   colours there are often twins. This rule looks at keys only, and is right for almost two thirds. <!-- held: match_floors -->
#
# The second came to us late. It lies far above the first, and an agent between the two has compared keys with keys at
# best. Random play stays below one goal in ten, whichever of chapter 05b's odds it has. <!-- held: match_floors -->

# %%
SETTINGS = {
    f"{keys} keys, {doors} doors, side {side}": (keys, doors, side)
    for keys, doors, side in (
        (2, 2, 7), (3, 2, 7), (4, 2, 7), (2, 3, 7), (2, 4, 7), (3, 3, 7), (4, 4, 7), (2, 2, 9), (2, 2, 12),
    )
}  # fmt: skip
TRAINED, DOUBLED, WIDE = (
    "2 keys, 2 doors, side 7",
    "4 keys, 4 doors, side 7",
    "2 keys, 2 doors, side 12",
)
CLOCK = 150  # steps of an episode when agents are judged; in training there are 60
LEARNING, JUDGING, GUESSING, ASKING, FILMING = range(50, 55)  # what a seed's numbers are for


def rules(layout: RELATIONAL.Layout) -> dict[str, float]:
    """How often keys alone tell the right one, in percent of worlds: any key in reach, or any of those without a twin."""
    keys = np.flatnonzero(layout.tokens[0, :, KIND] == KEY)
    in_reach = [flooded(layout, np.full(len(layout.tokens), key))[0] for key in keys]
    in_reach = np.stack(in_reach, 1)  # [B, keys]
    colours = layout.tokens[:, keys, COLOUR]
    alone = (colours[:, :, None] == colours[:, None]).sum(2) == 1
    left = {"any key": in_reach, "no twin": in_reach & alone}
    return {name: 100 * float((1 / keys.sum(1)).mean()) for name, keys in left.items()}


# %% tags=["A6"]
for name, (keys, doors, side) in SETTINGS.items():
    rng = np.random.default_rng((GUESSING, 1))
    found = rules(match(keys, doors)(by_budget(50, 1_000), side, rng))
    print(
        f"{name:24} right key: any {found['any key']:3.0f} %, without a twin {found['no twin']:3.0f} %"
    )

# %% [markdown]
# (More than one in two or one in four: in some worlds not all keys can be reached at first, and worlds in which a wrong
# key blocks the way are gone.)
#
# ## Who compares?
#
# Four networks of [chapter 05b](ch05b_relational_agents.ipynb#several-heads), and one more. One has attention (`dot`).
# Two controls have the same parameters and listen to all alike (`even`) or to themselves alone (`own`). `flat` reads
# the tokens as one long row of numbers.
#
# The new one is the control that a friend of simple networks would ask for. Looking at all alike adds up what everybody
# says and divides by their number; when there are more objects, each counts for less. `loudest` takes the largest value
# in each feature instead, which does not care how many there are. (Deep Sets and PointNet, two networks for sets, do
# the one and the other.)


# %%
class Loudest(nn.Module):
    """In the place of attention: all hear the largest value of anybody in each feature. As many parameters."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """nodes: [B, N, D]. Returns what each is told [B, N, D], and no weights."""
        values = self.project(nodes)[..., -nodes.shape[-1] :]  # where attention has its values
        return self.out(values.amax(1, keepdim=True)).expand_as(nodes), torch.zeros(0)


class LoudestNet(RELATIONAL.RelationalNet):
    """Chapter 05b's network with ``Loudest`` in the place of its heads."""

    def __init__(self, width: int = 64, frame: str = "agent") -> None:
        super().__init__(width, frame=frame)
        self.attention = Loudest(width)


# %%
@dataclass(frozen=True)
class MatchConfig(RELATIONAL.RoomsConfig):
    """Chapter 05b's agent among keys and doors; stages: one, (side of the rooms, updates)."""

    stages: tuple[tuple[int, int], ...] = ((7, 10_000),)
    net: str = choice("dot", ("dot", "even", "own", "loudest", "flat"))
    keys: int = knob(2, 1, 4, "keys in training")
    doors: int = knob(2, 1, 4, "doors in training")
    random_steps: int = knob(1_000_000, 25_000, 5_000_000, "of all worlds, before the first update")
    max_steps: int = knob(60, 10, 1_000, "of an episode in training")

    @property
    def tokens(self) -> int:
        return 2 + self.keys + self.doors


def make_net(config: MatchConfig) -> nn.Module:
    """The network that a config names. A flat one has to know how many tokens there will be."""
    if config.net == "flat":
        return RELATIONAL.FlatNet(config.tokens, config.frame)
    if config.net == "loudest":
        return LoudestNet(frame=config.frame)
    return RELATIONAL.RelationalNet(way=config.net, frame=config.frame)


# %% tags=["A6"]
NAMES = {
    "dot": "attention", "loudest": "the loudest", "even": "all alike", "own": "only itself", "flat": "flat",
}  # fmt: skip
for name, label in NAMES.items():
    print(f"{label:20}{RELATIONAL.parameters(make_net(MatchConfig(net=name))):8,} parameters")

# %% [markdown]
# Learning is chapter 05b's: its worlds, its film of what happened, its double Q-learning, with all its settings. Two
# things change: the networks, and the clock. An episode ends after 60 steps, as most of the first ones are lost and
# would fill the film with wandering.


# %%
class Matcher(RELATIONAL.Agent):
    """Chapter 05b's agent with a network of this chapter; it learns as it did there."""

    def __init__(self, config: MatchConfig, device: str) -> None:
        self.config, self.net = config, make_net(config).to(device)
        self.target_net = copy.deepcopy(self.net)
        self.optimiser = torch.optim.Adam(self.net.parameters(), config.learning_rate)


# %%
UPDATES = 50  # a report


def train_match(
    config: MatchConfig, seed: int, state: dict | None = None, device: str = "cpu"
) -> Iterator[Progress]:
    """Double Q-learning among keys and doors; yields how the last hundred episodes went, exploration included.

    state: {"step", "agent", "random", "seconds"}; a run that continues plays at random first, to fill its film anew.
    """
    step, seconds = (state["step"], state["seconds"]) if state else (0, 0.0)
    rng = np.random.default_rng(spread((LEARNING, seed, step), 1)[0])
    torch.manual_seed(spread((LEARNING, seed), 2)[1])
    agent, began = Matcher(config, device), time.perf_counter()
    ((side, updates),) = config.stages
    if state:
        for part, kept in zip(agent.parts(), as_tensors(state["agent"]), strict=True):
            part.load_state_dict(kept)
        restore_random(state["random"], rng)
    play = RELATIONAL.Play(match(config.keys, config.doors), config, side, rng)
    play.at_random(config.random_steps)
    while step < updates:
        losses = []
        for _ in range(min(UPDATES, updates - step)):
            play.step(RELATIONAL.greedy(agent.net, play.rooms.tokens, config.epsilon, rng))
            chosen = play.film.places(config.batch_size, config.near_goal, config.n_steps, rng)
            batch = play.film.batch(*chosen, config.n_steps, config.discount)
            losses.append(agent.learn(batch))
            step += 1
        seconds += time.perf_counter() - began
        yield RELATIONAL.rooms_progress(config, step, play, losses, agent, seconds)
        began = time.perf_counter()  # what happens between two reports does not count


# %% [markdown]
# One agent with attention trains here, for half as long as those that are measured below.

# %% tags=["A6"]
live_config = by_budget(
    MatchConfig(stages=((7, 100),), random_steps=25_000), MatchConfig(stages=((7, 5_000),))
)
live_run = watch(
    train_match(live_config, seed=1), "reached the goal", floor=0.5, floor_label="any key"
)


# %% tags=["A6"]
def match_net(state: dict, config: MatchConfig) -> nn.Module:
    """The network of a run's state."""
    net = make_net(config)
    net.load_state_dict(as_tensors(state["agent"][0]))
    return net.eval()


def judge_match(
    net: nn.Module, keys: int, doors: int, side: int, episodes: int, seed: int
) -> dict[str, float]:
    """Percent of fresh episodes, one action in twenty at random: goal reached, right key taken, wrong key taken."""
    rng = np.random.default_rng((JUDGING, seed, side))
    rooms = RELATIONAL.Rooms(match(keys, doors), episodes, side, rng, CLOCK)
    right, act, playing = pairs(rooms.tokens)[0], RELATIONAL.player(net), np.arange(episodes)
    goal, actions = np.zeros(episodes, bool), np.zeros(episodes, int)
    while len(playing):
        actions[playing] = act(rooms.tokens[playing], rng)
        _, terminated, truncated = rooms.step(RELATIONAL.ACTIONS[actions])
        goal[playing] = terminated[playing]
        playing = playing[~(terminated | truncated)[playing]]
    taken = rooms.carried  # nobody can drop a key
    found = {"goal": goal, "right": taken == right, "wrong": (taken > 0) & (taken != right)}
    return {name: 100 * float(share.mean()) for name, share in found.items()}


live_net = match_net(live_run.state, live_config)
for name in (TRAINED, DOUBLED):
    found = judge_match(live_net, *SETTINGS[name], by_budget(20, 500), 1)
    print(f"{name}: " + ", ".join(f"{what} {share:.0f} %" for what, share in found.items()))

# %% [markdown]
# *Share of the last hundred episodes in training that reached the goal, exploration included; dotted: about what any
# key would bring to somebody who makes no other mistake. One action in five is random in training, and a random grasp
# at the wrong key ends it all. Printed: fresh episodes, with one action in twenty at random; how many reached the goal,
# and which key was taken.*
#
# ### MiniGrid judges
#
# Nothing here depends on our own worlds being right. MiniGrid can be given the same layouts, play the episodes and draw them.


# %%
def on_minigrid(
    net: nn.Module, keys: int, doors: int, side: int, episodes: int, seed: int
) -> Iterator[tuple]:
    """Episodes of an agent on MiniGrid: the world before each step, and after the last; number and whether it reached."""
    rng = np.random.default_rng((JUDGING, seed))
    rooms = RELATIONAL.Rooms(match(keys, doors), episodes, side, rng, CLOCK)
    for number in range(episodes):
        env, over, reached = RELATIONAL.as_minigrid(rooms, number), False, False
        while not over:
            yield env, number, False
            tokens = RELATIONAL.tokens_of(env)[None]
            action = RELATIONAL.ACTIONS[
                RELATIONAL.greedy(net, tokens, RELATIONAL.PLAY_EPSILON, rng)[0]
            ]
            _, reward, terminated, truncated, _ = env.step(int(action))
            over, reached = terminated or truncated, reward > 0
        yield env, number, reached


def referee(net: nn.Module, keys: int, doors: int, side: int, episodes: int, seed: int) -> float:
    """Percent of episodes that reach the goal, by MiniGrid's rules."""
    games = on_minigrid(net, keys, doors, side, episodes, seed)
    return 100 * sum(reached for *_, reached in games) / episodes


# %% tags=["A6"]
film, shown = [], on_minigrid(live_net, 2, 2, 7, by_budget(1, 5), seed=2)
for env, _, _ in islice(shown, 160):
    film.append(env.get_frame(highlight=False, tile_size=32))
show_clip(
    film,
    5,
    "Five fresh worlds, one after the other, played by the agent trained above, drawn by MiniGrid.",
)

# %% [markdown]
# Turn the knobs yourself. The panel begins with one key and one door, where there is nothing to compare, and with a fifth of
# the updates that are measured below.

# %% tags=["A6"]
match_panel = panel(
    train_match,
    by_budget(
        replace(live_config, stages=((7, 50),)),
        replace(live_config, stages=((7, 2_000),), keys=1, doors=1),
    ),
    metric="reached the goal",
    preview=plots.to_png(live_curve(live_run, "reached the goal", 0.5, floor_label="any key")),
)

# %% [markdown]
# ## More objects than ever seen
#
# All five networks learn among two keys and two doors in rooms of side 7, with equal settings: chapter 05b's, which
# were chosen for DoorKey; none was tuned here, on any side. Then they are judged, without learning on, where there are
# more keys, more doors, or more room. (Five seeds of the three that the finding rests on, three of the others.)

# %% tags=["A6", "hide-input"]
figure, axes = plt.subplots()
for name, label in NAMES.items():
    reached = 100 * results.curves("A6", f"match_{name}", "reached")
    at = UPDATES * np.arange(1, reached.shape[1] + 1)
    plots.bands(axes, at, reached, label)
guess = results.metric("A6", "match_floors", f"{TRAINED}: any key").mean()
axes.axhline(guess, color=plots.INK, linestyle=":", label="any key, walking without fault")
axes.set(xlabel="update", ylabel="episodes that reach the goal (%)", ylim=(0, 100))
axes.legend(fontsize=8)
plt.show()

# %% [markdown]
# *Share of the last hundred episodes in training, one action in five at random; thin lines: seeds; dotted: what any key
# would bring.* Two keys and two doors can be compared without attention: who listens to all alike ends near where
# attention ends, after a way about @@twice as long. Who listens only to itself does not get beyond what any key would
# bring: keys and doors meet in its last maximum over tokens alone. A flat network stays far below. <!-- held: match_learns -->
#
# A goal missed among more objects can have two reasons: the wrong key, or an agent that stands about in a world that
# looks strange. So we count twice: how many episodes reach the goal; and *of the keys that were taken*, how many were
# right. The second number is the comparison alone, and the rules that look at keys only are its floors.


# %%
def chosen_well(name: str, setting: str) -> np.ndarray:
    """Of the keys that a stored agent took, how many were right, in percent, seed by seed: [S]."""
    right, wrong = (results.metric("A6", name, f"{setting}: {what}") for what in ("right", "wrong"))
    return 100 * right / np.maximum(right + wrong, 1e-9)


# %% tags=["A6", "hide-input"]
def two_counts(setting: str, bars: dict[str, tuple[str, str]]) -> Figure:
    """Goals and right keys; bars: label -> (measurement, setting as its metrics name it)."""
    figure, (goals, keys) = plt.subplots(1, 2, figsize=(9.6, 0.9 + 0.34 * len(bars)), sharey=True)
    plots.bars(
        goals,
        {label: results.metric("A6", run, f"{at}: goal") for label, (run, at) in bars.items()},
    )
    plots.bars(keys, {label: chosen_well(run, at) for label, (run, at) in bars.items()})
    keys.invert_yaxis()
    for axes in (goals, keys):
        for rule, style in (("any key", ":"), ("no twin", "--")):
            floor = results.metric("A6", "match_floors", f"{setting}: {rule}").mean()
            axes.axvline(floor, color=plots.INK, linestyle=style, linewidth=1.2)
        axes.set(xlim=(0, 102))
    goals.set(xlabel="episodes that reach the goal (%)")
    keys.set(xlabel="right ones among the keys taken (%)")
    return figure


pictures = {}
for setting, (keys, doors, _) in SETTINGS.items():
    bars = {label: (f"match_{net}", setting) for net, label in NAMES.items()}
    bars["all alike, each 1/6"] = "match_even", f"sixths, {setting}"
    if (keys, doors) != (2, 2):
        del bars["flat"]
    figure = two_counts(setting, bars)
    figure.suptitle(setting + (" (as in training)" if setting == TRAINED else ""), fontsize=10)
    pictures[setting.removesuffix(", side 7")] = plots.to_png(figure)
    plt.close(figure)
show(image_slider(pictures, "judged among", start=6), pictures["4 keys, 4 doors"])

# %% [markdown]
# *The slider chooses where agents are judged: mean, 95 % interval or range, and every seed. Dotted: any key; dashed: a
# key without a twin (the same, where there are two). `flat` can only be asked where there are as many tokens as in
# training.*
#
# Where they were trained, attention and all alike reach the same. Among four keys and four doors attention still
# reaches the goal in @@79 % of the episodes, above both rules (MiniGrid, as a referee over fifty episodes a seed,
# counts @@76 %); all alike hardly ever, and the loudest in @@45 %. <!-- held: match_more -->
#
# The right half tells the two reasons apart. When attention takes a key, it is the right one @@97 times in a hundred.
# The loudest is not far behind: @@83; it compares as well, and loses many episodes standing about. All alike falls to
# what a rule without doors reaches. <!-- held: match_choice -->
#
# Move the slider to two keys and four doors. There all alike takes right keys as well, @@94 of a hundred, and yet reaches the
# goal in no more than @@14 % of the episodes. <!-- held: match_way --> It takes no attention, then, to carry a comparison over to
# more objects. But who adds up loses the way as soon as there are more, and among many keys the comparison too.
#
# ## Why?
#
# "Because attention compares pairs" is a tale until it could have come out otherwise.
#
# ### Is it only a matter of counting?
#
# Whoever listens to all alike hears everybody with a weight of $1/N$. Six tokens in training, ten with four keys and
# four doors: each counts for less, and what the layers behind expect is no longer there. That would be a defect of
# averages, not a merit of comparing. The control is in the slider: networks trained to hear all alike that keep the
# weight of $1/6$, however many there are. Among four keys and four doors nearly all of their episodes stay lost.
# <!-- held: match_counting --> Thinning out is not it.


# %%
def always(weight: float, net: nn.Module) -> nn.Module:
    """A network whose tokens hear everybody with this weight, however many there are."""
    return RELATIONAL.edited(net, lambda weights: torch.full_like(weights, weight))


# %% [markdown]
# ### Which looks are needed?
#
# Forbid single looks, for whole episodes, with chapter 05b's `forbid`. In the cell "key → door" no key may look at any
# door, all else stays as it is: forbidden weights become 0, and the rest of a row is scaled up to 1. Everybody may go
# on looking at itself.


# %%
class Without(nn.Module):
    """A network in which tokens of one kind may not look at tokens of another, or at others of their own."""

    def __init__(self, net: nn.Module, looker: int, seen: int) -> None:
        super().__init__()
        self.net, self.looker, self.seen = net, looker, seen

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        kind = tokens[..., KIND]
        hidden = (kind == self.looker)[:, :, None] & (kind == self.seen)[:, None]
        edit = partial(RELATIONAL.forbid, hidden=hidden[:, None])
        return RELATIONAL.edited(self.net, edit)(tokens)


# %% tags=["A6", "hide-input"]
KINDS = ("agent", "key", "door", "goal")
figure, panels = plt.subplots(1, 3, figsize=(9.6, 3.1), sharey=True)
for axes, (name, what) in zip(
    panels, (("dot", "goal"), ("dot", "taken"), ("even", "goal")), strict=True
):
    cells = np.array([
        [results.metric("A6", f"match_{name}", f"without {a} {b}: {what}").mean() for b in KINDS] for a in KINDS
    ])  # fmt: skip
    axes.imshow(cells, vmin=0, vmax=100, cmap="Blues")
    for (i, j), value in np.ndenumerate(cells):
        colour = "white" if value > 60 else "black"
        axes.annotate(f"{value:.0f}", (j, i), ha="center", va="center", color=colour)
    axes.set(xticks=range(4), xticklabels=KINDS, yticks=range(4), yticklabels=KINDS)
    told = {"goal": "reaches the goal", "taken": "takes a key"}[what]
    axes.set(title=f"{NAMES[name]}: {told}", xlabel="... is looked at")
    axes.grid(visible=False)
panels[0].set(ylabel="who may not look")
plt.show()

# %% [markdown]
# *Percent of episodes among two keys and two doors in which tokens of one kind (rows) may not look at others of a kind
# (columns), all episode long; the mean over seeds. Nothing is forbidden in agent → agent and goal → goal.*
#
# With attention the look from key to door is needed: without it next to nothing is left. So is the goal's look at the
# doors, which matters later: keys are taken as ever, and few episodes end at the goal. The looks of the agent itself
# are not needed. All alike has no look that decides everything; it loses something wherever keys or doors may not hear
# each other. <!-- held: match_forbid -->
#
# But look at the middle. An agent whose keys see no door does not guess, which would be right half the time: it hardly
# takes a key at all. <!-- held: match_forbid --> A cell of this map tells us that a look is *needed*. It does not say
# what for.
#
# ### What does the look say?
#
# If a key learns from its look whether it is the right one, we can lie to it. **Exchange** the looks of the two keys:
# each hears what the other would have heard, and all tokens stay as they are. If the story is true, the agent takes the
# *wrong* key. As a control exchange the looks of the two doors.


# %%
class Exchanged(nn.Module):
    """A network in which the matching token of a kind and another of its kind exchange their looks."""

    def __init__(self, net: nn.Module, kind: int) -> None:
        super().__init__()
        self.net, self.kind = net, kind

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        right = torch.from_numpy(pairs(tokens.cpu().numpy())[self.kind == DOOR]).to(tokens.device)
        numbers = torch.arange(tokens.shape[1], device=tokens.device)
        worlds = torch.arange(len(tokens), device=tokens.device)
        others = (tokens[..., KIND] == self.kind) & (numbers != right[:, None])
        other = others.int().argmax(1)
        order = numbers.repeat(len(tokens), 1)  # [B, N]
        order[worlds, right], order[worlds, other] = other, right

        def exchange(weights: torch.Tensor) -> torch.Tensor:
            looks = weights.gather(2, order[:, None, :, None].expand_as(weights))
            # A token's look at itself stays a look at itself.
            looks = looks.gather(3, order[:, None, None].expand_as(weights))
            return torch.where((order != numbers)[:, None, :, None], looks, weights)

        return RELATIONAL.edited(self.net, exchange)(tokens)


# %% tags=["A6", "hide-input"]
LIES = {
    TRAINED: "as it is",
    "doors exchanged": "doors exchange looks",
    "keys exchanged": "keys exchange looks",
}
figure, panels = plt.subplots(1, 2, figsize=(9.6, 1.9), sharey=True)
for axes, what in zip(panels, ("right", "wrong"), strict=True):
    plots.bars(
        axes,
        {label: results.metric("A6", "match_dot", f"{at}: {what}") for at, label in LIES.items()},
    )
    axes.set(xlim=(0, 102), xlabel=f"episodes in which the {what} key is taken (%)")
panels[1].invert_yaxis()
plt.show()

# %% [markdown]
# *Agents with attention among two keys and two doors: which key they take, as they are, and when two tokens exchange
# their looks.*
#
# That is the answer. Exchange the keys' looks, and an agent that never takes the wrong key takes it in @@59 % of the
# episodes, and the right one in @@17 %; exchange the doors', and nothing changes. <!-- held: match_exchange --> What
# the key hears through its look decides whether it is taken.
#
# ### Does the look find its partner among four?
#
# Of all doors, does the matching key look most at its own? Two doors make that one half by chance, four doors one
# quarter. Each agent's best head is counted.


# %%
@torch.no_grad()
def finds_door(net: nn.Module, layout: RELATIONAL.Layout) -> float:
    """Percent of worlds in which the matching key looks more at its door than at any other, with the best head."""
    weights = net.look(torch.from_numpy(layout.tokens))[1].numpy()  # [B, H, N, N]
    key, door = pairs(layout.tokens)
    looks = weights[np.arange(len(key)), :, key].copy()  # [B, H, N]
    looks[..., layout.tokens[0, :, KIND] != DOOR] = -1
    right = looks.argmax(2) == door[:, None]  # [B, H]
    return 100 * float(right.mean(0).max())


# %% tags=["A6"]
for setting in (TRAINED, DOUBLED, WIDE):
    found = results.metric("A6", "match_dot", f"finds its door, {setting}")
    print(
        f"{setting:24} the key's best head finds its door: {found.min():.0f} to {found.max():.0f} %"
    )

# %% [markdown]
# Nothing is lost. A head that was trained to find one of two doors finds one of four. <!-- held: match_partner --> That
# is what we would call a relation: a rule about pairs, which does not ask how many pairs there are.
#
# ## Larger rooms
#
# In rooms of side 12 the order turns round: all alike reaches more goals than attention. <!-- held: match_rooms --> Its
# keys do not fail, though. Of those that attention takes, hardly one is wrong, and its key still finds the door. It
# does not get there.
#
# One suspect can be tried without training. In a room of side 7 nothing lies more than four cells away, so a place
# further away than that is a number that no network has met. In attention it enters twice, in what is said and in who
# looks at whom. `Near` shows a network such a world with every token drawn in to four cells.


# %%
REACH = 4  # the largest distance along an axis in a room of side 7


class Near(nn.Module):
    """A network that sees nothing further away from the agent, along each axis, than ``REACH`` cells: it is moved there."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        here = tokens[:, :1, X:].int()
        moved = here + (tokens[..., X:].int() - here).clamp(-REACH, REACH)
        return self.net(torch.cat([tokens[..., :X], moved.to(tokens.dtype)], -1))


# %% tags=["A6", "hide-input"]
bars = {}
for net in ("dot", "loudest", "even"):
    bars[NAMES[net]] = f"match_{net}", WIDE
    bars[f"{NAMES[net]}, drawn in"] = f"match_{net}", f"near, {WIDE}"
two_counts(WIDE, bars)
plt.show()

# %% [markdown]
# *Rooms of side 12, never seen in training, as they are and with all things drawn in to four cells; dotted: any key.*
#
# Places beyond what was trained are a good part of it. Drawn in, attention goes from @@44 to @@77 % and all alike from
# @@74 to @@91 %. <!-- held: match_near --> It is not a weakness of attention alone, and it is not all: all alike stays
# ahead. What makes the rest we do not know. What attention brings here shows among more objects, and there alone.
#
# ### An episode
#
# A stored agent with attention, among four keys and four doors, which it never met. A row of the map is a token that
# looks; the frame marks the pair that belongs together.


# %% tags=["hide-input"]
def stored_match(name: str, seed: int) -> nn.Module:
    """The agent that a stored run of this chapter has trained."""
    path = results.run_path("A6", f"match_{name}", seed).with_suffix(".safetensors")
    net = make_net(MatchConfig(net=name))
    net.load_state_dict(as_tensors(load_checkpoint(path)["state"]["net"]))
    return net.eval()


def looks_picture(env: RELATIONAL.Given, net: nn.Module) -> bytes:
    """A world, who looks at whom (the head that looks most from the matching key to its door), and the Q-values."""
    tokens = RELATIONAL.tokens_of(env)[None]
    (key,), (door,) = pairs(tokens)
    with torch.no_grad():
        values, weights = net.look(torch.from_numpy(tokens))
    head = int(weights[0, :, key, door].argmax())
    labels = [
        KINDS[kind] if kind in (AGENT, GOAL) else f"{KINDS[kind]}, {COLOR_NAMES[colour]}"
        for kind, colour in tokens[0, :, :STATE].tolist()
    ]
    figure = Figure(figsize=(9.6, 3.3))
    world, looks, bars = figure.subplots(1, 3, width_ratios=(1, 1.1, 0.8))
    world.imshow(env.get_frame(highlight=False, tile_size=24))
    world.set(xticks=[], yticks=[])
    looks.imshow(weights[0, head], vmin=0, vmax=1, cmap="Blues")
    box = {"facecolor": "none", "edgecolor": plots.COLOURS[1], "linewidth": 2}
    looks.add_patch(plt.Rectangle((door - 0.5, key - 0.5), 1, 1, **box))
    looks.set(yticks=range(len(labels)), xticks=[], title=f"head {head + 1}: row looks at column")
    looks.set_yticklabels(labels, fontsize=8)
    colours = [plots.COLOURS[int(action == values[0].argmax())] for action in range(5)]
    bars.barh(range(5), values[0], color=colours)
    bars.set(yticks=range(5), yticklabels=RELATIONAL.ACTION_NAMES, xlim=(0, 1.1), title="Q-values")
    bars.invert_yaxis()
    for axes in (world, looks):
        axes.grid(visible=False)
    return plots.to_png(figure)


# %% tags=["A6"]
stored, pictures = stored_match("dot", 1), []
for env, _, _ in islice(on_minigrid(stored, 4, 4, 7, 1, seed=5), by_budget(3, 30)):
    pictures.append(looks_picture(env, stored))
show(scrubber(pictures, "step", interval=700), pictures[0])

# %% [markdown]
# *The world; the weights of the head in which the matching key looks most at its door, all tokens looking (rows) at all
# (columns), in the orange frame the key's look at its door; and the values, the largest in orange.*

# %% [markdown]
# ## Pixels: what does an agent look at in *Alien*?
#
# On the grid every object had a cell of its own. In an Atari game there are only pixels. The source shows one picture of
# attention in *Alien* and no code; we build it, and then ask whether the picture means what it seems to mean.
#
# In *Alien* you run through a maze, collect dots for 10 points each, and die when an alien meets you; three lives make a
# game. We play Gymnasium's version 5: a decision lasts four frames, and with a chance of one in four the console repeats
# your last action for a frame instead of taking the new one (*sticky actions*). A score is that of a whole game. The
# agent has four of the eighteen actions, the moves; a policy that needs no learning may use all eighteen.


# %%
MOVES = (2, 3, 4, 5)  # the console's codes of up, right, left, down
TOP, LEFT, HEIGHT, WIDTH = 4, 10, 84, 60  # the maze, in a picture of half the console's 210 x 160
GRID, CELL, SEEN = (7, 5), 12, 16  # nodes; pixels from one to the next, and that one sees
STICKY, FRAMES = 0.25, 4  # chance that a frame repeats the last action; frames a decision


class AlienEnvs(AtariVectorEnv):
    """Games of Alien side by side; observations [N, 2, 84, 60] are the maze in the last two decisions' frames, grey.

    codes: the console's code of each action. lives: whether losing a life counts as an end (the game goes on).
    """

    def __init__(self, count: int, codes: Sequence[int] = MOVES, lives: bool = False) -> None:
        super().__init__(
            "alien", count, num_threads=1, repeat_action_probability=STICKY, frameskip=FRAMES,
            img_height=105, img_width=80, stack_num=2, noop_max=0, use_fire_reset=False,
            reward_clipping=False, life_loss_info=lives, autoreset_mode=AutoresetMode.SAME_STEP,
        )  # fmt: skip
        self.codes, self.running = np.array(codes), np.zeros(count)
        self.scores: list[float] = []  # of the games that have ended

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        seeds = None if seed is None else np.array(spread(seed, self.num_envs)) % 2**31
        obs, info = super().reset(seed=seeds, options=options)
        self.running[:] = 0
        return maze_of(obs), info

    def step(self, actions: np.ndarray) -> tuple:
        obs, rewards, terminated, truncated, info = super().step(self.codes[actions])
        self.running += rewards
        over = info["episode_frame_number"] == 0  # not where only a life was lost
        self.scores += self.running[over].tolist()
        self.running[over] = 0
        if "final_obs" in info:
            info["final_obs"] = maze_of(info["final_obs"])
        return maze_of(obs), rewards, terminated, truncated, info


# %% tags=["hide-input"]
def maze_of(pictures: np.ndarray) -> np.ndarray:
    """Halved pictures without score and margins: [..., 105, 80] -> [..., 84, 60], copied."""
    return pictures[..., TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH].copy()


# %% tags=["hide-input"]
def one_game(act: Callable, seed: int, limit: int = 5000) -> Iterator[tuple]:
    """A game in colour: picture, obs and score before every decision, until the game is over.

    act: obs [2, 84, 60] -> a move. The same game, to the pixel, as ``AlienEnvs`` plays with this seed of the console.
    """
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    game = ale_py.ALEInterface()
    game.setInt("random_seed", seed)
    game.setFloat("repeat_action_probability", STICKY)
    game.loadROM(roms.get_rom_path("alien"))
    last, score = np.zeros((HEIGHT, WIDTH), np.uint8), 0
    grey, colour = [game.getScreenGrayscale()], [game.getScreenRGB()]
    for _ in range(limit):
        halves = np.max(grey[-2:], 0).reshape(105, 2, 80, 2).mean((1, 3))
        now = maze_of(np.floor(halves + 0.5).astype(np.uint8))
        if game.game_over():
            return
        yield np.max(colour[-2:], 0), np.stack([last, now]), score  # two frames: sprites flicker
        move, last, grey, colour = MOVES[act(np.stack([last, now]))], now, [], []
        for _ in range(FRAMES):
            score += game.act(move)
            grey.append(game.getScreenGrayscale())
            colour.append(game.getScreenRGB())


# %%
MAZE = slice(2 * TOP, 2 * (TOP + HEIGHT)), slice(2 * LEFT, 2 * (LEFT + WIDTH))  # in full pictures


def block_of(node: int) -> tuple[slice, slice]:
    """The pixels that a node sees: rows, columns."""
    row, column = divmod(node, GRID[1])
    return slice(CELL * row, CELL * row + SEEN), slice(CELL * column, CELL * column + SEEN)


def draw_maze(
    axes: Axes, picture: np.ndarray, looks: np.ndarray | None = None, title: str = "", most: float = 1.0,
) -> None:  # fmt: skip
    """The maze in colour [210, 160, 3]; dimmed where nobody looks, if looks [N] are given; ``most`` is the brightest."""
    shown = picture[MAZE] / 255
    if looks is not None:
        light = (looks / most).clip(0, 1).reshape(GRID)
        light = np.repeat(np.repeat(light, 2 * CELL, 0), 2 * CELL, 1)
        light = np.roll(light, (4, 4), (0, 1))  # a node sees 16 pixels, from 2 before its middle 12
        shown = shown * (0.25 + 0.75 * light[..., None])
    axes.imshow(shown, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.set_title(title)
    axes.grid(False)


# %% tags=["A10", "hide-input"]
wander = iter(np.random.default_rng(3).integers(len(MOVES), size=20).repeat(8))
picture, obs, _ = next(islice(one_game(lambda obs: next(wander), seed=7), 100, None))
figure, (console, eye, nodes) = plt.subplots(1, 3, figsize=(8.4, 3.4))
console.imshow(picture)
console.set(xticks=[], yticks=[], title="the console: 210 × 160")
console.grid(False)
eye.imshow(obs[1], cmap="gray", interpolation="nearest")
eye.set(xticks=[], yticks=[], title="the network: 84 × 60")
eye.grid(False)
draw_maze(nodes, picture, title="35 nodes")
nodes.set_xticks(np.arange(4, 2 * WIDTH, 2 * CELL) - 0.5, minor=True)
nodes.set_yticks(np.arange(4, 2 * HEIGHT, 2 * CELL) - 0.5, minor=True)
nodes.grid(which="minor", color="white", alpha=0.6)
nodes.tick_params(which="minor", length=0)
rows, columns = (slice(2 * part.start, 2 * part.stop) for part in block_of(22))
box = {"facecolor": "none", "edgecolor": plots.COLOURS[1], "linewidth": 2.5}
nodes.add_patch(plt.Rectangle((columns.start, rows.start), 2 * SEEN, 2 * SEEN, **box))
plt.show()

# %% [markdown]
# *Left: the console's picture. Middle: the maze as the network sees it, at half the size and in grey; the frame of the
# decision before comes with it. Right: the grid of nodes, and in the orange frame all that one node sees before nodes
# attend to each other.*

# %% [markdown]
# The network turns pixels into nodes. Two convolutions with 4 × 4 kernels, the second one striding over three places at
# a time, pool the maze into 7 × 5 nodes; each of them has seen 16 × 16 pixels. To every node we add a learned vector for
# its place. Then comes the relational module: heads of attention among the 35 nodes, added to what the nodes know; a
# layer for each node; the maximum over nodes; and values of the four moves, without an activation.
#
# `mixing` holds the control. A network that mixes "nothing" has the same layers and as many parameters, and each node
# hears only itself; what nodes know meets in the maximum alone.


# %%
class AlienNet(nn.Module):
    """Pixels [B, 2, 84, 60] (bytes) -> values of the moves [B, A]; ``looks`` also tells who attends to whom."""

    def __init__(self, mixing: str = "attention", heads: int = 4, width: int = 64) -> None:
        super().__init__()
        self.mixing = mixing
        self.small, self.large = nn.Conv2d(2, 16, 4, 4), nn.Conv2d(16, width, 4, 3)
        self.places = nn.Parameter(0.3 * torch.randn(GRID[0] * GRID[1], width))
        way = {"attention": "dot", "nothing": "own"}[mixing]
        self.attention = RELATIONAL.Heads(width, heads, way)
        self.node = nn.Sequential(nn.Linear(width, 128), nn.ReLU())
        self.values = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, len(MOVES)))
        self.to(memory_format=torch.channels_last)  # twice as fast on a CPU

    def nodes(self, obs: torch.Tensor) -> torch.Tensor:
        """What the convolutions see at each node: [B, 2, 84, 60] -> [B, N, width]."""
        pixels = obs.to(memory_format=torch.channels_last).float() / 128
        edges = F.relu(self.small(pixels))  # [B, 16, 21, 15]
        seen = F.relu(self.large(F.pad(edges, (0, 1, 0, 1))))  # [B, width, 7, 5]
        return seen.flatten(2).transpose(1, 2)

    def looks(
        self, obs: torch.Tensor, edit: Callable | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Values [B, A], and the weights of every head, node and node it attends to: [B, heads, N, N].

        edit: weights -> the weights to mix by instead, for questions of the kind "what if it could not look there?".
        """
        nodes = self.nodes(obs) + self.places
        attention = self.attention if edit is None else RELATIONAL.Edited(self.attention, edit)
        told, weights = attention(nodes)
        nodes = nodes + told
        return self.values(self.node(nodes).amax(1)), weights  # the maximum over nodes

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.looks(obs)[0]


# %% [markdown]
# It learns by double Q-learning from a replay, with returns of five steps, as in [chapter
# 00](ch00_foundations.ipynb) and [chapter 02](ch02_distributional_dqn.ipynb): the online network chooses the next move,
# the lagging one says what it is worth. Rewards are clipped to 1, and losing a life ends a return; the score that we
# report is the console's, over whole games. To explore, the agent holds a random move for four decisions, which leads
# further along a corridor than four moves in turn.


# %% tags=["hide-input"]
@dataclass(frozen=True)
class AlienConfig:
    """Double DQN on Alien's pixels."""

    decisions: int = knob(200_000, 80, 1_000_000, "of all games together", step=80)
    mixing: str = choice("attention", ("attention", "nothing"))
    n_step: int = knob(5, 1, 20, "steps of a return")
    discount: float = knob(0.99, 0.9, 0.999, "gamma", step=0.001)
    learning_rate: float = knob(
        5e-4, 1e-5, 1e-2, "of Adam at the start; falls to a tenth", step=1e-5
    )
    updates: int = knob(2, 1, 8, "a step of all games")
    hold: int = knob(4, 1, 16, "decisions that a random move is held")
    final_epsilon: float = knob(0.05, 0.0, 1.0, "share of random decisions after the first quarter")
    capacity: int = knob(50_000, 100, 200_000, "transitions that the replay holds")
    warm_up: int = knob(4000, 50, 100_000, "decisions before learning begins")
    sync_every: int = knob(500, 1, 10_000, "updates between copies to the target network")
    reports: int = knob(40, 1, 1000, "points of the learning curve")
    games: int = knob(100, 2, 1000, "whole games of a score, of which there are two")
    batch: int = 32
    num_envs: int = 8

    def __post_init__(self) -> None:
        check_config(self)


# %% tags=["hide-input"]
class AlienAgent:
    """What changes when learning: the network, its lagging copy, the optimiser, the replay, the random numbers."""

    def __init__(self, config: AlienConfig, seed: int, device: str) -> None:
        torch.manual_seed(seed)
        self.config, self.device = config, device
        self.net = AlienNet(config.mixing).to(device)
        self.target_net = copy.deepcopy(self.net)
        self.optimiser = torch.optim.Adam(self.net.parameters(), config.learning_rate, eps=1e-5)
        self.replay, self.rng = Replay(config.capacity), np.random.default_rng([seed, 1])
        self.decisions = self.updates = 0

    def state(self) -> dict:
        """What a training continues from; the replay oldest first, pending returns and running games left out."""
        places = np.arange(self.replay.added - len(self.replay), self.replay.added)
        kept = self.replay.rows(places % self.replay.capacity) if len(places) else None
        names = ("net", "target_net", "optimiser")
        parts = {name: copy.deepcopy(getattr(self, name).state_dict()) for name in names}
        counts = {"decisions": self.decisions, "updates": self.updates}
        return (
            parts | counts | {"replay": kept and kept._asdict(), "random": random_state(self.rng)}
        )

    def restore(self, state: dict) -> None:
        for name in ("net", "target_net", "optimiser"):
            getattr(self, name).load_state_dict(as_tensors(state[name]))
        self.decisions, self.updates = state["decisions"], state["updates"]
        if state["replay"]:
            self.replay.add(Experience(**state["replay"]))
        restore_random(state["random"], self.rng)


# %%
def update(agent: AlienAgent) -> float:
    """One step of gradient descent on a batch of the replay: the loss."""
    config, rows = agent.config, agent.replay.sample(agent.config.batch, agent.rng)
    batch = Experience(*(torch.from_numpy(column).to(agent.device) for column in rows))
    left = 1 - agent.decisions / config.decisions
    agent.optimiser.param_groups[0]["lr"] = config.learning_rate * (0.1 + 0.9 * left)
    chosen = agent.net(batch.obs).gather(1, batch.actions[:, None])[:, 0]
    targets = RELATIONAL.double_targets(
        agent.net, agent.target_net, batch.rewards, batch.discounts, batch.next_obs
    )
    loss = F.smooth_l1_loss(chosen, targets)
    agent.optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(agent.net.parameters(), 10.0)
    agent.optimiser.step()
    agent.updates += 1
    if agent.updates % config.sync_every == 0:
        agent.target_net.load_state_dict(agent.net.state_dict())
    return loss.item()


# %% tags=["hide-input"]
def greedy_moves(net: nn.Module) -> Policy:
    """The moves of largest value: obs [N, 2, 84, 60] -> [N]."""
    device = next(net.parameters()).device

    @torch.no_grad()
    def policy(obs: np.ndarray) -> np.ndarray:
        return net(torch.from_numpy(obs).to(device)).argmax(1).cpu().numpy()

    return policy


# %% tags=["hide-input"]
class Explorer:
    """Greedy moves, a share ``epsilon()`` of them replaced by random ones that are held for ``hold`` decisions."""

    def __init__(
        self, greedy: Policy, epsilon: Callable, hold: int, rng: np.random.Generator
    ) -> None:
        self.greedy, self.epsilon, self.hold, self.rng = greedy, epsilon, hold, rng
        self.choices = len(MOVES)
        self.held = self.left = np.zeros(0, int)  # the random move of each game, and for how long

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        count, share = len(obs), self.epsilon()
        if len(self.left) != count:
            self.held, self.left = np.zeros(count, int), np.zeros(count, int)
        chance = share / (self.hold - (self.hold - 1) * share)  # of beginning: a share of decisions
        begins = (self.left == 0) & (self.rng.random(count) < chance)
        self.held = np.where(begins, self.rng.integers(self.choices, size=count), self.held)
        self.left = np.where(begins, self.hold, self.left)
        moves = np.where(self.left > 0, self.held, self.greedy(obs))
        self.left = np.maximum(self.left - 1, 0)
        return moves


def epsilon_at(config: AlienConfig, decisions: int) -> float:
    """Exploration falls linearly from 1 during the first quarter of a run."""
    return max(
        config.final_epsilon, 1 - (1 - config.final_epsilon) * 4 * decisions / config.decisions
    )


# %%
TRAINING, SCORING, LOOKING, CHANCE = range(4)  # what a seed's games are for: each use its own
RECENT = 40  # games in a point of the learning curve


def state_of(agent: AlienAgent, recent: list[float]) -> dict:
    return agent.state() | {"recent": recent}


def train_alien(
    config: AlienConfig, seed: int, state: dict | None = None, device: str = "cpu"
) -> Iterator[Progress]:
    """Learns Alien; a Progress after every ``reports``-th part. Resumed, it begins new games.

    state: what ``AlienAgent.state`` holds, and "recent", the scores of the last forty games.
    """
    agent, games = AlienAgent(config, seed, device), AlienEnvs(config.num_envs, lives=True)
    if state:
        agent.restore(state)
        games.scores = list(state["recent"])
    explorer = Explorer(
        greedy_moves(agent.net), lambda: epsilon_at(config, agent.decisions), config.hold, agent.rng
    )
    n_step = NStep(config.n_step, config.discount)
    stream = transitions(games, explorer, spread((TRAINING, seed, agent.decisions), 1)[0])
    report = max(1, config.decisions // config.reports // config.num_envs)
    while True:
        for step in islice(stream, report * (agent.decisions < config.decisions)):
            clipped = np.sign(step.rewards).astype(np.float32)
            agent.replay.add(n_step(step._replace(rewards=clipped)))
            agent.decisions += config.num_envs
            if agent.decisions >= config.warm_up:
                for _ in range(config.updates):
                    update(agent)
        recent = games.scores[-RECENT:]
        metrics = {"score": float(np.mean(recent or [0.0]))}
        now = partial(state_of, agent, recent)
        yield Progress(agent.decisions, config.decisions, metrics, now, "decisions")
        if agent.decisions >= config.decisions:
            return


# %% tags=["hide-input"]
def play_alien(policy: Policy, count: int, seed: int, codes: Sequence[int] = MOVES) -> np.ndarray:
    """The scores of ``count`` whole games, each the first of its environment: [count]."""
    scores, playing = np.zeros(count), np.ones(count, bool)
    for step in transitions(AlienEnvs(count, codes), policy, seed):
        scores += np.where(playing, step.rewards, 0)
        playing &= ~(step.terminated | step.truncated)
        if not playing.any():
            return scores


NOISES = {"score": 1, "held_score": 4}  # decisions that a random move in play is held


def score_alien(
    net: nn.Module, seed: int, count: int, hold: int = 1, epsilon: float = 0.05
) -> np.ndarray:
    """Scores of ``count`` whole games, a share ``epsilon`` of the moves random, ``hold`` decisions at a time: [count]."""
    rng = np.random.default_rng([SCORING, seed, hold])
    policy = Explorer(greedy_moves(net), lambda: epsilon, hold, rng)
    return play_alien(policy, count, spread((SCORING, seed, hold), 1)[0])


# %% [markdown]
# What does somebody score who does not look? Random actions, or one action held for the whole game, are the usual
# answers. A random *move*, held for a few decisions, is a better one.


# %% tags=["hide-input"]
@dataclass(frozen=True)
class FloorConfig:
    """Policies that do not look, and networks that have not learned."""

    games: int = knob(200, 2, 1000, "games of each policy that is scored")
    screened: int = knob(24, 1, 1000, "other games, by which the best of their kind are chosen")
    untrained: int = knob(30, 2, 1000, "games of each untrained network, with either noise")
    holds: tuple[int, ...] = (4, 8, 12, 16, 32)

    def __post_init__(self) -> None:
        check_config(self)


def held(hold: int, actions: int, rng: np.random.Generator) -> Policy:
    """A random action of so many, held for ``hold`` decisions."""
    drawn = Explorer(lambda obs: np.zeros(len(obs), int), lambda: 1.0, hold, rng)
    drawn.choices = actions
    return drawn


# %%
DIAGONALS, FIRING = (6, 7, 8, 9), 8  # codes; a move with fire is so many codes further on


def blind_policies(config: FloorConfig, rng: np.random.Generator) -> dict[str, dict[str, tuple]]:
    """Kinds of policies that need no picture; name -> (policy maker, codes of its actions)."""
    every, first = tuple(range(18)), lambda: lambda obs: np.zeros(len(obs), int)
    ways = {"straight": MOVES, "diagonal": DIAGONALS, "any of eight": MOVES + DIAGONALS}
    ways |= {
        f"{way}, firing": tuple(code + FIRING for code in codes) for way, codes in ways.items()
    }
    return {
        "random": {"random": (partial(held, 1, 18, rng), every)},
        "single": {f"action {code}": (first, (code,)) for code in every},
        "held": {
            f"{way}, held {hold}": (partial(held, hold, len(codes), rng), codes)
            for way, codes in ways.items()
            for hold in config.holds
        },
    }


# %% tags=["A10", "hide-input"]
BLIND = {"held": "random moves, held", "random": "random actions", "single": "best single action"}
figure, axes = plt.subplots()
for name, label in {"alien": "attention", "alien_nothing": "no attention"}.items():
    at = results.curves("A10", name, "decisions")[0] / 1000
    plots.bands(axes, at, results.curves("A10", name, "score"), f"{label}, exploring")
for (kind, label), style in zip(BLIND.items(), (":", "--", "-."), strict=True):
    mean = results.metric("A10", "alien_floors", kind).mean()
    axes.axhline(mean, color=plots.INK, linestyle=style, linewidth=1.2, label=label)
axes.set(xlabel="thousand decisions", ylabel="points a game", ylim=(0, None))
axes.legend(loc="upper left", fontsize=8)
plt.show()

# %% [markdown]
# *Mean score of the last forty games while the agents learn and explore, over decisions: each seed as a thin line. Grey
# lines: three policies that do not look. The strongest of them, a random move held for a few decisions, scores far more
# than random actions, and a single action less than either.* <!-- held: alien_floor -->
#
# The agent with attention ends above all three, each seed by the 95 % interval
# of the difference. <!-- held: alien_trained --> The one without
# attention, with as many parameters and the same settings, scores more. <!-- held: alien_control -->
#
# How fair is that? Four settings were tried, all of them on agents with attention: three were broken off before half a
# run, the fourth was kept. The agent without attention got the fourth, and no trial of its own. That favours attention,
# and it loses all the same. Three seeds a side are few, so we do not say by how much. We say that in *Alien*, at this
# budget, attention earns no points that we could find. What it gives is something to look at; whether that is worth
# anything comes next.

# %% tags=["A10", "hide-input"]
scores = {"attention": results.metric("A10", "alien", "score")}
scores["no attention"] = results.metric("A10", "alien_nothing", "score")
for kind, label in BLIND.items():  # a dot is a hundred games here too
    scores[label] = results.curves("A10", "alien_floors", kind).reshape(-1, 100).mean(1)
figure, axes = plt.subplots(figsize=(7.2, 2.6))
plots.bars(axes, scores)
axes.set(xlabel="points a game; a dot: the mean of 100 whole games")
plt.show()

# %% [markdown]
# *Scores over whole games: three lives, games that were in no training. A dot is a hundred games: of one trained agent,
# which makes five moves in a hundred at random, or of a policy that does not look.* A score is the console's,
# unclipped. The literature's agents play five hundred times as long (200 million frames; ours 0.4 million), and no
# published number stands beside ours. <!-- held: alien_trained -->
#
# Nothing of this trains in front of you: a seed takes about ten minutes of one core, and stands in `make results`. The
# cells below let a stored agent play.


# %% tags=["hide-input"]
def stored_alien(name: str, config: AlienConfig, seed: int) -> AlienNet:
    """The agent that the stored run of this seed has trained."""
    path = results.run_path("A10", name, seed).with_suffix(".safetensors")
    net = AlienNet(config.mixing)
    net.load_state_dict(as_tensors(load_checkpoint(path, config, seed)["state"]["net"]))
    return net.eval()


# %%
class Seen(NamedTuple):
    """An instant of a game. picture: [210, 160, 3]. values: [A]. looks: [heads, N], how much each node is looked at."""

    picture: np.ndarray
    values: np.ndarray
    looks: np.ndarray
    score: int


def watch_alien(net: AlienNet, seed: int, decisions: int) -> list[Seen]:
    """A game of an agent with 5 % of random moves, and what it sees, values and looks at."""
    rng, instants = np.random.default_rng(seed), []
    act = Explorer(greedy_moves(net), lambda: 0.05, 1, rng)
    for picture, obs, score in islice(one_game(lambda obs: act(obs[None])[0], seed), decisions):
        with torch.no_grad():
            values, weights = net.looks(torch.from_numpy(obs[None]))
        instants.append(Seen(picture.copy(), values[0].numpy(), weights[0].mean(1).numpy(), score))
    return instants


# %% tags=["A10"]
agent = stored_alien("alien", AlienConfig(), seed=1)
game = watch_alien(agent, seed=11, decisions=by_budget(smoke=40, laptop=600))
film = [np.repeat(np.repeat(seen.picture, 2, 0), 2, 1) for seen in game[::2]]
show_clip(film, fps=15, caption=f"A stored agent plays Alien: {game[-1].score} points.")


# %% tags=["hide-input"]
def alien_picture(seen: Seen) -> bytes:
    """The maze, where each head looks, and the values, at an instant."""
    figure = Figure(figsize=(9.2, 2.6))
    picture, *heads, bars = figure.subplots(
        1, len(seen.looks) + 2, width_ratios=(1,) * (len(seen.looks) + 1) + (1.1,)
    )
    draw_maze(picture, seen.picture, title=f"{seen.score} points")
    for number, (axes, looks) in enumerate(zip(heads, seen.looks, strict=True), 1):
        draw_maze(axes, seen.picture, looks, f"head {number}: {100 * looks.max():.0f} %")
    bars.bar(["↑", "→", "←", "↓"], seen.values - seen.values.mean(), color=plots.COLOURS[0])
    bars.set(title="value, less the mean", ylim=(-1, 1))
    return plots.to_png(figure)


pictures = [
    alien_picture(seen) for seen in game[50 : by_budget(smoke=60, laptop=250) : 5] or game[:2]
]
show(scrubber(pictures, "instant", interval=300), pictures[0])

# %% [markdown]
# *The maze, where each head looks, averaged over the nodes that look, and the values of the four moves. The percentage is
# the share of the brightest node; if a head looked nowhere in particular, it would be 3 %. The player is the slim pale
# figure.*

# %% [markdown]
# ### Tested, not told: cover what it looks at
#
# A bright spot on a map of attention tempts us to say "it watches the alien". Three questions can be measured.
#
# 1. Do the spots lie on the player, the aliens, the bonus, more often than chance would have it?
# 2. Do the values depend on what is there? We **cover** the 16 × 16 pixels that a node sees by the maze as it usually
#    looks there, the median over many instants, and ask the network again.
# 3. Do they depend on it *because the network looks there*? We leave the pixels alone and **hide** the node from all
#    others: the weights of their looks at it become 0, and the rest is scaled up to 1. It goes on looking at itself.
#
# Each is done to the node that is looked at most, to the one that is looked at least, to one drawn at random, to those
# where an alien is, and to the player's. The control of the second question is the agent that mixes nothing. It looks
# nowhere; we cover the same nodes at the same instants, and ask how often *its* best move changes.


# %%
def attended(weights: torch.Tensor) -> torch.Tensor:
    """How much each node is looked at, over all heads and nodes that look: [B, heads, N, N] -> [B, N], adding up to 1."""
    return weights.mean((1, 2))


def cover(obs: np.ndarray, nodes: np.ndarray, maze: np.ndarray) -> np.ndarray:
    """Observations [B, 2, 84, 60] in which the maze [84, 60] stands where one node of each [B] sees, in both frames."""
    covered = obs.copy()
    for picture, node in zip(covered, nodes, strict=True):
        rows, columns = block_of(int(node))
        picture[:, rows, columns] = maze[rows, columns]
    return covered


# %%
def hide(weights: torch.Tensor, hidden: np.ndarray) -> torch.Tensor:
    """Weights [B, heads, N, N] where no other node may look at the hidden ones [B, N]; the rest still adds up to 1."""
    return RELATIONAL.forbid(weights, torch.as_tensor(hidden)[:, None, None])


def evenly(weights: torch.Tensor) -> torch.Tensor:
    """Weights of agents that look everywhere alike."""
    return torch.full_like(weights, 1 / weights.shape[-1])


def equal_mass(looks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Nodes by lot that together are looked at as much as the most attended one (or a little more), without it: [B, N]."""
    chosen = np.zeros(looks.shape, bool)
    for nodes, seen in zip(chosen, looks, strict=True):
        for node in rng.permutation(len(seen)):  # taken if the sum comes nearer by it
            nodes[node] = node != seen.argmax() and seen[nodes].sum() + seen[node] / 2 < seen.max()
    return chosen


def by_place(looks: np.ndarray) -> tuple[float, float]:
    """How far a map is a matter of place: looks [B, N]. Percent of its variance that the nodes' means explain; percent
    of instants with the same brightest node."""
    away = looks - 1 / looks.shape[1]
    explained = (away.mean(0) ** 2).mean() / (away**2).mean()
    return 100 * explained, 100 * np.bincount(looks.argmax(1)).max() / len(looks)


# %%
def difference(before: torch.Tensor, after: torch.Tensor) -> tuple[float, float]:
    """Root mean square change of values [B, A], and the percentage of instants at which another move is the best."""
    if not len(before):
        return 0.0, 0.0
    changed = (after.argmax(1) != before.argmax(1)).float()
    return (after - before).square().mean().sqrt().item(), 100 * changed.mean().item()


@torch.no_grad()
def change_by_cover(
    net: nn.Module, obs: np.ndarray, nodes: np.ndarray, maze: np.ndarray
) -> tuple[float, float]:
    """What covering the pixels that one node of each instant sees does: ``difference``."""
    return difference(*(net(torch.from_numpy(seen)) for seen in (obs, cover(obs, nodes, maze))))


@torch.no_grad()
def change_by_edit(net: nn.Module, obs: np.ndarray, edit: Callable) -> tuple[float, float]:
    """What other weights of attention do, all pixels in place: ``difference``."""
    return difference(*(net.looks(torch.from_numpy(obs), how)[0] for how in (None, edit)))


# %% tags=["hide-input"]
SPRITES = {
    "player": ((132, 144),),
    "alien": ((236, 140), (252, 252), (132, 252)),
    "bonus": ((252, 144),),
}  # red, green
SMALLEST = {"player": 20, "alien": 30, "bonus": 9}  # pixels that hang together; a dot has two


def sprites(picture: np.ndarray) -> dict[str, set[int]]:
    """Where the figures are: kind -> the nodes in whose middle 12 × 12 pixels the centre of one lies."""
    maze, found = picture[MAZE], {}
    for kind, colours in SPRITES.items():
        found[kind] = set()
        for red, green in colours:
            patches, count = ndimage.label(
                (maze[..., 0] == red) & (maze[..., 1] == green), np.ones((3, 3))
            )
            for patch in range(1, count + 1):
                where = np.argwhere(patches == patch)
                if len(where) >= SMALLEST[kind]:
                    row, column = ((where.mean(0) / 2 - 2) // CELL).clip(0, np.array(GRID) - 1)
                    found[kind].add(int(row * GRID[1] + column))
    return found


# %% tags=["hide-input"]
@dataclass(frozen=True)
class LookConfig:
    """Instants at which stored agents are asked what they look at."""

    instants: int = knob(300, 2, 5000, "observations")
    every: int = knob(10, 1, 100, "decisions between two of them in a game")
    agent: AlienConfig = AlienConfig()

    def __post_init__(self) -> None:
        check_config(self)


def instants_of(net: nn.Module, config: LookConfig, seed: int) -> tuple[np.ndarray, list[dict]]:
    """Instants of an agent's games, 5 % of its moves random: obs [instants, 2, 84, 60], and where the figures are."""
    rng, seen = np.random.default_rng([LOOKING, seed]), []
    act = Explorer(greedy_moves(net), lambda: 0.05, 1, rng)
    for console in spread((LOOKING, seed), config.instants):
        game = one_game(lambda obs: act(obs[None])[0], console % 2**31)
        for picture, obs, _ in islice(game, config.every, None, config.every):
            seen.append((obs, sprites(picture)))
            if len(seen) == config.instants:
                obs, found = zip(*seen, strict=True)
                return np.stack(obs), list(found)


# %% tags=["hide-input"]
def whom_it_watches(
    looks: np.ndarray, figures: list[dict], rng: np.random.Generator
) -> dict[str, float]:
    """How much figures are looked at (1: an even share), beside the same nodes at other instants; what is brightest."""
    found, instants = {}, np.arange(len(looks))
    most, another = looks.argmax(1), rng.permutation(len(looks))
    for kind in SPRITES:
        here = np.zeros(looks.shape, bool)  # [B, N]
        for row, seen in zip(here, figures, strict=True):
            row[list(seen[kind])] = True
        empty = (looks * ~here).sum(0) / (~here).sum(0).clip(1)  # [N], while it is not there
        at = np.where(here)
        found[f"{kind}_looks"] = looks.shape[1] * looks[at].mean() if len(at[0]) else 1.0
        found[f"{kind}_place"] = looks.shape[1] * empty[at[1]].mean() if len(at[0]) else 1.0
        found[f"most_is_{kind}"] = 100 * here[instants, most].mean()
        found[f"chance_is_{kind}"] = 100 * here.mean()
        found[f"another_is_{kind}"] = 100 * here[instants, most[another]].mean()
    return found


# %% tags=["hide-input"]
def looks_of(
    net: nn.Module, other: nn.Module, obs: np.ndarray, figures: list[dict], seed: int
) -> dict[str, float]:
    """Whom an agent looks at, and what covering and hiding do to its values and to another agent's that mixes nothing."""
    with torch.no_grad():
        values, weights = net.looks(torch.from_numpy(obs))
    looks, maze = attended(weights).numpy(), np.median(obs[:, 1], 0).astype(np.uint8)
    rng, instants = np.random.default_rng([LOOKING, seed, 1]), np.arange(len(obs))
    nodes = {
        "most": (instants, looks.argmax(1)),
        "random": (instants, rng.integers(looks.shape[1], size=len(obs))),
        "least": (instants, looks.argmin(1)),
    }
    for kind in ("player", "alien"):
        at = [(i, node) for i, seen in enumerate(figures) for node in sorted(seen[kind])]
        nodes[kind] = tuple(np.array(at, int).reshape(-1, 2).T)
    found = {"spread": values.std(0, correction=0).mean(), "largest": 100 * looks.max(1).mean()}
    for name, (when, chosen) in nodes.items():
        hidden = chosen[:, None] == np.arange(looks.shape[1])
        changes = {
            "": change_by_cover(net, obs[when], chosen, maze),
            "other_": change_by_cover(other, obs[when], chosen, maze),
            "hidden_": change_by_edit(net, obs[when], partial(hide, hidden=hidden)),
        }
        for what, (change, flips) in changes.items():
            found |= {f"{what}change_{name}": change, f"{what}flips_{name}": flips}
    found |= whole_maps(net, obs, weights, rng) | whom_it_watches(looks, figures, rng)
    found["place"], found["same_node"] = by_place(looks)
    return {name: float(value) for name, value in found.items()}


def whole_maps(
    net: nn.Module, obs: np.ndarray, weights: torch.Tensor, rng: np.random.Generator
) -> dict[str, float]:
    """Percent of moves that change if the whole map is another, or nodes by lot with the mass of the brightest are hidden."""
    looks, another = attended(weights).numpy(), torch.from_numpy(rng.permutation(len(obs)))
    equal, mean = equal_mass(looks, rng), weights.mean(0, keepdim=True)
    edits = {
        "even_flips": evenly,
        "frozen_flips": lambda weights: mean.expand_as(weights),  # each instant the mean map
        "another_flips": lambda weights: weights[another],  # that of another instant
        "hidden_flips_equal": partial(hide, hidden=equal),
    }
    found = {name: change_by_edit(net, obs, edit)[1] for name, edit in edits.items()}
    return found | {
        "mass_equal": 100 * (looks * equal).sum(1).mean(),
        "nodes_equal": equal.sum(1).mean(),
    }


# %% tags=["A10", "hide-input"]
found = results.runs("A10", "alien_looks")
TESTS = {
    "": "its pixels covered",
    "hidden_": "not to be looked at",
    "other_": "covered, agent without attention",
}
WHERE = {
    "most": "most looked at",
    "random": "random",
    "least": "least looked at",
    "alien": "an alien's",
    "player": "the player's",
}
figure, panels = plt.subplots(1, 3, figsize=(9.6, 2.8), sharey=True, sharex=True)
for axes, (way, title) in zip(panels, TESTS.items(), strict=True):
    plots.bars(axes, {
        label: [run["metrics"][f"{way}flips_{name}"] for run in found] for name, label in WHERE.items()
    })  # fmt: skip
    axes.set_title(title, fontsize=9)
panels[1].set(xlabel="instants at which another move becomes the best (%)")
plt.show()

# %% [markdown]
# *How often the best move changes when one node's pixels are covered (left), when nobody may look at it (middle), and when
# its pixels are covered for the agent without attention (right). Dots are seeds.*
#
# Left is the test that comes to mind first, and it comes out well: what is looked at most matters more than a random
# node. <!-- held: alien_cover --> Right is its control, and it takes the conclusion away: covering the same nodes changes
# nearly as many moves of an agent that looks nowhere. <!-- held: alien_cover_control --> The figures are there, and whoever
# plays well depends on where figures are. So covering tells us what is in a node, not what attention is for.
#
# The middle answers the question. To be hidden from attention costs the node that is looked at most several times as many
# moves as a random one, and the least one hardly any. <!-- held: alien_hidden --> This network uses what it looks at. How
# much it looks, as a whole, matters more: when all nodes look everywhere alike, a quarter to a half of the moves change.
# <!-- held: alien_hidden -->
#
# And the picture that the source shows, light on the alien, the player and the bonus? Averaged over instants, nodes with
# an alien or with the player are looked at a little more than an even share, and the bonus not at all more. In @@two of the
# three agents the brightest node holds neither an alien nor the player most of the time. <!-- held: alien_figures --> One
# can find the source's picture among these games; one can find others.
#
# And the player? Its pixels matter as much as an alien's. Hidden from the others, its node costs fewer than half as
# many moves as when it is covered: much of what it says must go the other way, through its own node and the maximum
# over nodes. <!-- held: alien_player --> A map of attention shows one of two ways.

# %% [markdown]
# ## Spot the bug
#
# ### A ceiling that nobody looked for
#
# The first version of `match` in this chapter was `draw_worlds` alone. Nothing crashed, the agents learned, and the curves
# flattened at about three quarters. A second round of attention changed nothing. What is wrong can be
# read from one number that has nothing to do with learning:

# %%
raw = draw_worlds(by_budget(200, 4_000), 2, 2, 7, np.random.default_rng(1))
wall = raw.tokens[:, 3, X]
for column in np.unique(wall):
    here = wall == column
    told = "wall in column {}: {:4.0%} of the worlds, {:4.0%} of them can be solved"
    print(told.format(column, here.mean(), solvable(raw)[here].mean()))

# %% [markdown]
# Where the wall stands in column 2, the agent's room is one cell wide. Before you tune an agent that stops learning,
# ask what an agent without fault would reach.
#
# ## Exercises
#
# Each has a solution that runs, folded away.
#
# **A6.4 The pair.** Write `partner(tokens)`: for one world, [N, 5], the rows of the key and of the door that belong together, as
# `(key, door)`. It may be slow.

# %%
# Your partner(tokens), and then check("A6.4", partner)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
def partner(tokens: np.ndarray) -> tuple[int, int]:
    keys, doors = np.flatnonzero(tokens[:, KIND] == KEY), np.flatnonzero(tokens[:, KIND] == DOOR)
    return next(
        (int(k), int(d)) for k in keys for d in doors if tokens[k, COLOUR] == tokens[d, COLOUR]
    )


check("A6.4", partner)

# %% [markdown]
# **A6.5 Attention by hand.** No learning is needed to compare colours. Write `by_hand(tokens, sharpness)`: for one world, [N, 5],
# the weights [N, N] of dot-product attention whose queries and keys are one-hot colours, times `sharpness`, before the softmax.
# What do weights look like at a sharpness of 0, and of 20? (Agent and goal have colours too, and look like everybody.)

# %%
# Your by_hand(tokens, sharpness), and then check("A6.5", by_hand)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
def by_hand(tokens: np.ndarray, sharpness: float) -> np.ndarray:
    """Softmax over all tokens of sharpness where colours agree, and 0 where not: [N, N]."""
    one_hot = np.eye(len(COLOR_NAMES))[tokens[:, COLOUR]]
    loud = np.exp(sharpness * one_hot @ one_hot.T)
    return loud / loud.sum(1, keepdims=True)


check("A6.5", by_hand)
four = match(4, 4)(1, 7, np.random.default_rng(0)).tokens[0]
for sharpness in (0, 20):
    print(sharpness, by_hand(four, sharpness)[1:5, 5:9].round(2).tolist())  # keys look at doors
# At 0 everybody looks at all alike. At 20 each looks at its own colour: at itself, and the right key at its door.

# %% [markdown]
# **A6.6 Predict, then run: a world twice.** Give a network each token of a world twice, 12 in place of 6. Which
# networks' Q-values stay exactly as they were: attention, all alike, only itself, the loudest? Then add three copies of
# one odd key only. Write your predictions down; then run.

# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
worlds = torch.from_numpy(match(2, 2)(50, 7, np.random.default_rng(3)).tokens)
odd = 3 - torch.from_numpy(pairs(worlds.numpy())[0])  # the other key's row, 1 or 2
copies = worlds[torch.arange(50), odd][:, None].expand(-1, 3, -1)
for name in ("dot", "even", "own", "loudest"):
    torch.manual_seed(0)
    net = make_net(MatchConfig(net=name))
    with torch.no_grad():
        before, twice = net(worlds), net(torch.cat([worlds, worlds], 1))
        more = net(torch.cat([worlds, copies], 1))
    moved = [(after - before).abs().max().item() for after in (twice, more)]
    print(f"{name:8} every token twice: {moved[0]:.6f}   an odd key four times: {moved[1]:.6f}")
# Twice the world is the same world to all four: shares halve, means and largest values stay. Copies of one key change what
# is heard on average, by attention as well, which untrained looks nearly at all alike. Only itself and the loudest do not count at all.

# %% [markdown]
# **A6.7 How far?** The flood says whether a cell can be reached. Write `steps_away(free, start)`: for one room, `free`
# [side, side] (True where one may walk) and `start` as (x, y), the number of cells to walk to each cell, [side, side],
# and −1 where one cannot get.

# %%
# Your steps_away(free, start), and then check("A6.7", steps_away)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
def steps_away(free: np.ndarray, start: tuple[int, int]) -> np.ndarray:
    """Distances by breadth-first search."""
    away = np.full(free.shape, -1)
    away[start[1], start[0]] = 0
    queue = deque([start])
    while queue:
        x, y = queue.popleft()
        for i, j in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)):
            if 0 <= i < len(free) and 0 <= j < len(free) and free[j, i] and away[j, i] < 0:
                away[j, i] = away[y, x] + 1
                queue.append((i, j))
    return away


check("A6.7", steps_away)

# %% [markdown]
# **A10.2 Who has seen this pixel?** A node of Alien's network sees 16 × 16 pixels, and the next one begins 12 pixels
# on. Write `seen_by(row, column)`: the numbers of all nodes, in ascending order, that see this pixel of the maze (84 ×
# 60). Nodes are numbered row by row, five in a row. It tells what a cover covers.

# %%
# Your seen_by(row, column), and then check("A10.2", seen_by)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
def seen_by(row: int, column: int) -> list[int]:
    """Nodes whose block holds the pixel."""
    blocks = {node: block_of(node) for node in range(GRID[0] * GRID[1])}
    return [
        node for node, (rows, columns) in blocks.items()
        if rows.start <= row < rows.stop and columns.start <= column < columns.stop
    ]  # fmt: skip


check("A10.2", seen_by)

# %% [markdown]
# ## Summary
#
# - Look for the ceiling as for the floor: worlds that nobody can solve look like agents that do not learn. And look
#   twice for the floor: among four keys, a rule that never sees a door takes the right one nearly two times in three.
#   <!-- held: match_floors -->
# - Two keys and two doors can be compared without attention, a little later. With more objects than in training,
#   attention goes on comparing, and so does a network that listens to the loudest, which walks less well; one that adds
#   up loses the way, and among many keys the comparison too. In larger rooms attention falls behind, for want of the way
#   and not of the comparison. <!-- held: match_summary -->
# - A look that is forbidden shows that it was needed. Two looks that are exchanged show what they say.
# - In *Alien*, at this budget, attention earns no points that we could find. <!-- held: alien_control --> Covering what
#   an agent looks at changes its mind, and changes the mind of an agent that looks nowhere; forbidding the look is the
#   sharper test. <!-- held: alien_cover_control -->
#
# ### References
#
# - Qi, C. R., Su, H., Mo, K. and Guibas, L. J. (2017). *PointNet: Deep learning on point sets for 3D classification and
#   segmentation.*
# - van Hasselt, H., Guez, A. and Silver, D. (2016). *Deep reinforcement learning with double Q-learning.*
# - Zaheer, M. et al. (2017). *Deep sets.*
# - Zambaldi, V. et al. (2019). *Deep reinforcement learning with relational inductive biases.*
#
# All in the [bibliography](../book/bibliography.md).
#
# ## What `make results` measures


# %% tags=["hide-input"]
def judged(net: nn.Module, at: str, setting: str, episodes: int, seed: int) -> dict[str, float]:
    """What ``judge_match`` finds in a setting, named "at: goal" and so on; taken: episodes in which any key is."""
    found = judge_match(net, *SETTINGS[setting], episodes, seed)
    found["taken"] = found["right"] + found["wrong"]
    return {f"{at}: {what}": share for what, share in found.items()}


def looks_forbidden(net: nn.Module, seed: int) -> dict[str, float]:
    """Episodes without the looks of one kind at another, for all pairs of kinds."""
    found = {}
    for looker, first in enumerate(KINDS):
        for seen, second in enumerate(KINDS):
            blind = Without(net, looker, seen)
            found |= judged(blind, f"without {first} {second}", TRAINED, 300, seed)
    return found


def of_attention(net: nn.Module, seed: int) -> dict[str, float]:
    """Exchanged looks, and how often the matching key finds its door."""
    found, rng = {}, np.random.default_rng((ASKING, seed))
    for kind in (KEY, DOOR):
        at = f"{KINDS[kind]}s exchanged"
        found |= judged(Exchanged(net, kind), at, TRAINED, 500, seed)
    for setting in (TRAINED, DOUBLED, WIDE):
        keys, doors, side = SETTINGS[setting]
        layout = match(keys, doors)(500, side, rng)
        found[f"finds its door, {setting}"] = finds_door(net, layout)
    return found


# %% tags=["hide-input"]
def measure_match(config: MatchConfig, seed: int) -> Measured:
    """Train among two keys and two doors; judge in every setting; and ask the network what its looks do."""
    curve, found = [], {}
    for progress in train_match(config, seed):
        curve.append(progress.metrics["reached the goal"])
    net = match_net(progress.state(), config)
    for name, setting in SETTINGS.items():
        if config.net != "flat" or setting[:2] == (config.keys, config.doors):
            found |= judged(net, name, name, 500, seed)
        if config.net == "even":
            found |= judged(always(1 / config.tokens, net), f"sixths, {name}", name, 500, seed)
    if config.net in ("dot", "loudest", "even"):
        found |= judged(Near(net), f"near, {WIDE}", WIDE, 500, seed)
    if config.net in ("dot", "even"):
        found |= looks_forbidden(net, seed)
    if config.net == "dot":
        found |= of_attention(net, seed) | {"more": found[f"{DOUBLED}: goal"]}
        found["minigrid"] = referee(net, *SETTINGS[DOUBLED], 50, seed)
    found["seconds"] = progress.metrics["seconds"]
    return Measured(found, curves={"reached": curve}, state={"net": net.state_dict()})


# %% tags=["hide-input"]
def measure_match_floors(config: None, seed: int) -> Measured:
    """What rules about keys and random play with the best odds reach in every setting, in percent; solvable worlds."""
    rng, found = np.random.default_rng((GUESSING, seed)), {}
    odds = [RELATIONAL.floor_player(odds) for odds in RELATIONAL.FLOORS.values()]
    for name, (keys, doors, side) in SETTINGS.items():
        layout = match(keys, doors)
        found |= {
            f"{name}: {rule}": right for rule, right in rules(layout(2_000, side, rng)).items()
        }
        scores = [RELATIONAL.score_of(act, side, 300, seed, layout, CLOCK)[0] for act in odds]
        found[f"{name}: random"] = 100 * max(scores)
    solved = solvable(draw_worlds(4_000, *SETTINGS[TRAINED], rng))
    return Measured(found | {"solvable": 100 * solved.mean()})


# %% tags=["hide-input"]
def measure_alien_floors(config: FloorConfig, seed: int) -> Measured:
    """Mean scores of policies that do not look; the best of each kind is chosen on other games than it is scored on."""
    rng, curves, found = np.random.default_rng([CHANCE, seed]), {}, {}
    screening, scoring = spread((CHANCE, seed), 2)
    for kind, policies in blind_policies(config, rng).items():
        screened = {}
        for name, (make, codes) in policies.items():
            # Games in which one action is held are all the same; two show it.
            count = min(2, config.screened) if kind == "single" else config.screened
            screened[name] = play_alien(make(), count, screening, codes).mean()
        best = max(screened, key=screened.get)
        make, codes = policies[best]
        curves[kind] = play_alien(make(), config.games, scoring, codes)
        curves[f"{kind}_screened"] = list(screened.values())
        found |= {kind: curves[kind].mean(), f"{kind}_best": list(policies).index(best)}
    nets = [AlienAgent(AlienConfig(), number, "cpu").net for number in (1, 2, 3)]
    for name, hold in NOISES.items():
        games = [score_alien(net, seed, config.untrained, hold) for net in nets]
        curves[f"untrained_{name}"] = np.concatenate(games)
        found[f"untrained_{name}"] = curves[f"untrained_{name}"].mean()
    return Measured(found, curves=curves)


# %% tags=["hide-input"]
def measure_alien(config: AlienConfig, seed: int) -> Measured:
    """A trained agent: its scores over whole games with either noise, its learning curve, its weights."""
    began, curve = time.process_time(), []
    for progress in train_alien(config, seed):
        curve.append((progress.step, progress.metrics["score"]))
    seconds, net = time.process_time() - began, AlienNet(config.mixing)
    weights = progress.state()["net"]
    net.load_state_dict(weights)
    games = {name: score_alien(net, seed, config.games, hold) for name, hold in NOISES.items()}
    decisions, while_learning = zip(*curve, strict=True)
    return Measured(
        {name: scores.mean() for name, scores in games.items()} | {"minutes": seconds / 60},
        curves={"decisions": decisions, "score": while_learning}
        | {f"games_{name}": scores for name, scores in games.items()},
        state={"net": weights},
    )


# %% tags=["hide-input"]
def measure_alien_looks(config: LookConfig, seed: int) -> Measured:
    """What stored agents look at, and what covering it changes."""
    control = replace(config.agent, mixing="nothing")
    net, other = (
        stored_alien("alien", config.agent, seed),
        stored_alien("alien_nothing", control, seed),
    )
    return Measured(looks_of(net, other, *instants_of(net, config, seed), seed))


# %% tags=["hide-input"]
HEADLINE = "4 keys, 4 doors, trained with 2: attention {A6.more} %"
FIVE, THREE, ALIEN = (1, 2, 3, 4, 5), (1, 2, 3), AlienConfig()
SEEDS = {"dot": FIVE, "loudest": FIVE, "even": FIVE, "own": THREE, "flat": THREE}
SHOWN = ()
MEASUREMENTS = [
    *(Measurement("A6", f"match_{name}", measure_match, MatchConfig(net=name), SEEDS[name], (
        Metric("more", "% of episodes, 4 keys and 4 doors, trained with 2 and 2", "mean"),) if name == "dot" else ())
      for name in NAMES),
    Measurement("A6", "match_floors", measure_match_floors, None, (1,)),
    Measurement("A10", "alien_floors", measure_alien_floors, FloorConfig(), (1,), (
        Metric("random", "points a game, random actions", "mean"),
        Metric("single", "points a game, the best single action", "mean"),
        Metric("held", "points a game, the best held random move", "mean"))),
    Measurement("A10", "alien", measure_alien, ALIEN, THREE, (
        Metric("score", "points a game", "mean"), Metric("minutes", "minutes of training", "median"))),
    Measurement("A10", "alien_nothing", measure_alien, replace(ALIEN, mixing="nothing"), THREE, (
        Metric("score", "points a game", "mean"),)),
    Measurement("A10", "alien_looks", measure_alien_looks, LookConfig(), THREE, (
        Metric("flips_most", "% of moves change, most attended node covered", "mean"),
        Metric("flips_random", "% of moves change, random node covered", "mean"))),
]  # fmt: skip
