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
# # Curiosity
#
# An agent that learns from rewards learns nothing where there are none. In this chapter you build agents that reward
# themselves: for meeting what they cannot predict yet. You will see a DQN that learns one Atari game find nothing at all
# in another; an intrinsic curiosity module, and a proof by gradient of what trains what in it; walkers that are glued
# to a noisy television, and how to free them; and Mario, who is paid for nothing but his own surprise and runs through
# half of World 1-1. At the end stands another motive, empowerment: not to be surprised by the world, but to have power
# over it.
#
# | | |
# |---|---|
# | **You need** | [Chapter 0](ch00_foundations.ipynb) for DQN; [chapter 6](ch06_policy_optimisation.ipynb) for PPO. |
# | **Time** | TIME_LINE |
# | **Memory** | MEMORY_LINE |
# | **Budget** | `RLBOOK_BUDGET` is `laptop` unless you set it; the next cell shows it. |
#
# The chapter accompanies chapter 8 of [Zai and Brown (2020)](../book/bibliography.md#zai2020). Its systems are rebuilt
# here from scratch and measured over several seeds; where the printed code goes wrong, you will see the symptom.

# %% tags=["remove-stderr"]
import copy
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import nn
from torch.distributions import Categorical, Distribution
from torch.nn import functional as F

from rlbook_utils import plots, results
from rlbook_utils.config import budget, by_budget, check_config, knob
from rlbook_utils.definitions import load_chapter
from rlbook_utils.mario import ACTIONS, BUTTONS, MarioEnv, MarioEnvs, MarioError
from rlbook_utils.replay import Experience, NStep, Replay
from rlbook_utils.results import Measured, Measurement, Metric
from rlbook_utils.rollout import Policy, Transition, transitions
from rlbook_utils.run import Progress, as_tensors, watch
from rlbook_utils.video import save_clip, show_clip
from rlbook_utils.widgets import image_slider, panel, scrubber, show

FOUNDATIONS, POLICIES = load_chapter("ch00_foundations"), load_chapter("ch06_policy_optimisation")
plots.use_style()

# %% tags=["remove-stderr"]
versions = f"torch {torch.__version__} · gymnasium {gym.__version__} · numpy {np.__version__}"
print(f"budget {budget()} · {results.cores()} cores · {versions}")

# %% [markdown]
# ## Surprise as a reward
#
# Someone who learns how the world goes can tell where they do not know it yet: there, their predictions fail. So let
# the agent predict what follows its action, and pay it for being wrong. Write $\phi(s)$ for a few numbers that describe
# the state, its **features**. A **forward model** $f$ predicts the next features, and the error is the **intrinsic
# reward**:
#
# $$
# \hat\phi_{t+1} = f\big(\phi(s_t), a_t\big), \qquad
# r^{\text{int}}_t = \frac{1}{F} \big\lVert \hat\phi_{t+1} - \phi(s_{t+1}) \big\rVert^2 .
# $$
#
# The forward model learns from the very errors that the agent is paid for. What has been seen often is predicted well
# and pays nothing any more, so the agent has to move on: the reward is wherever experience is missing. Everything now
# depends on $\phi$. The simplest choice is no choice: the features are the pixels.


# %%
class Surprise(nn.Module):
    """Curiosity as a prediction error, in the features of an encoder that it does not train.

    Every curiosity of this chapter has this interface: ``reward`` gives the intrinsic rewards [B] of B transitions,
    ``losses`` what to train on, by name. obs, next_obs: [B, ...]; actions: [B], whole numbers.
    """

    def __init__(self, encoder: nn.Module, features: int, actions: int, hidden: int = 128) -> None:
        super().__init__()
        self.encoder, self.actions = encoder, actions
        self.forward_model = FOUNDATIONS.mlp(features + actions, hidden, features)

    def errors(
        self, features: torch.Tensor, actions: torch.Tensor, following: torch.Tensor
    ) -> torch.Tensor:
        """Squared errors of the forward model; no gradient leaves it. [B, F], [B], [B, F] -> [B]."""
        inputs = torch.cat([features.detach(), F.one_hot(actions, self.actions)], 1)  # [B, F + A]
        return (self.forward_model(inputs) - following.detach()).square().mean(1)

    @torch.no_grad()
    def reward(
        self, obs: torch.Tensor, actions: torch.Tensor, next_obs: torch.Tensor
    ) -> torch.Tensor:
        return self.errors(self.encoder(obs), actions, self.encoder(next_obs))

    def losses(
        self, obs: torch.Tensor, actions: torch.Tensor, next_obs: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            features, following = self.encoder(obs), self.encoder(next_obs)  # [B, F]
        return {"forward": self.errors(features, actions, following).mean()}


# %% [markdown]
# ## Only what you can touch: the inverse model
#
# Not everything unpredictable is worth knowing. Leaves flutter whatever the agent does. The **intrinsic curiosity
# module** (ICM, [Pathak et al., 2017](../book/bibliography.md#pathak2017)) asks for features that hold what the agent's
# *actions* have to do with, and gets them from a question whose answer is known for free: *which action led from $s_t$
# to $s_{t+1}$?* An **inverse model** $g$ answers it from the features alone, and its error trains both itself and the
# encoder:
#
# $$
# L_{\text{inv}}(\phi, g) = -\log g\big(a_t \mid \phi(s_t), \phi(s_{t+1})\big), \qquad
# L_{\text{fwd}}(f) = \tfrac{1}{F} \big\lVert f(\bar\phi(s_t), a_t) - \bar\phi(s_{t+1}) \big\rVert^2 .
# $$
#
# The bar says that the forward model takes the features as given: its loss must not reach the encoder. An encoder that
# was asked to make prediction easy would map every state to the same point, and be done.


# %%
class ICM(Surprise):
    """The intrinsic curiosity module: surprise in features that an inverse model has trained (Pathak et al. 2017)."""

    def __init__(self, encoder: nn.Module, features: int, actions: int, hidden: int = 128) -> None:
        super().__init__(encoder, features, actions, hidden)
        self.inverse_model = FOUNDATIONS.mlp(2 * features, hidden, actions)

    def losses(
        self, obs: torch.Tensor, actions: torch.Tensor, next_obs: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        features, following = self.encoder(obs), self.encoder(next_obs)  # [B, F]
        logits = self.inverse_model(torch.cat([features, following], 1))  # [B, A]
        return {
            "forward": self.errors(features, actions, following).mean(),
            "inverse": F.cross_entropy(logits, actions),
        }


# %% [markdown]
# The encoder is handed in, so that one module serves a small world and a video game. Either one ends in a `LayerNorm`
# without parameters: every state's features have mean 0 and variance 1. An answer of nothing but zeros then costs
# 1, in any world, and the encoder cannot make the reward small by making the features small.


# %%
def normalised(*layers: nn.Module, features: int) -> nn.Sequential:
    """Layers whose F outputs are brought to mean 0 and variance 1, row by row."""
    return nn.Sequential(*layers, nn.LayerNorm(features, elementwise_affine=False))


def small_encoder(pixels: int, features: int = 32) -> nn.Sequential:
    """Pictures [B, 1, H, W] -> features [B, F]."""
    return normalised(nn.Flatten(), FOUNDATIONS.mlp(pixels, 64, features), features=features)


def game_encoder(frames: int = 3) -> nn.Sequential:
    """Stacks [B, 3, 42, 42] with values in [0, 1] -> features [B, 288]; the source's four convolutions."""
    layers = []
    for channels in (frames, 32, 32, 32):
        layers += [nn.Conv2d(channels, 32, 3, stride=2, padding=1), nn.ELU()]  # 42, 21, 11, 6, 3
    return normalised(*layers, nn.Flatten(), features=288)


# %% [markdown]
# ### Who learns from what: a proof by gradient
#
# "The forward loss does not reach the encoder" is a statement about gradients, so let the gradients say it. After each
# loss alone has been sent backwards, which parts hold a gradient?


# %%
def reached(loss: torch.Tensor, module: nn.Module) -> dict[str, bool]:
    """Which children of a module get a gradient from a loss."""
    module.zero_grad(set_to_none=True)
    loss.backward(retain_graph=True)
    return {
        name: any(p.grad is not None for p in child.parameters())
        for name, child in module.named_children()
    }


# %% tags=["C3"]
# NBVAL_CHECK_OUTPUT
torch.manual_seed(0)
mario_sized = ICM(game_encoder(), features=288, actions=12)
obs, next_obs = torch.rand(2, 8, 3, 42, 42)
for name, loss in mario_sized.losses(obs, torch.randint(12, (8,)), next_obs).items():
    print(
        f"{name} loss reaches {[part for part, yes in reached(loss, mario_sized).items() if yes]}"
    )
    assert reached(loss, mario_sized)["encoder"] == (name == "inverse")

# %% [markdown]
# *Two losses, two separate sets of networks. The forward loss ends at the forward model: the encoder's gradients are
# not small, there are none. The inverse loss trains the inverse model and the encoder.*
#
# It follows that no parameter ever feels both losses. The literature weighs them, $\beta L_{\text{fwd}} + (1 - \beta)
# L_{\text{inv}}$ with $\beta = 0.2$, and the source adds factors of 10,000 and 100,000 besides. But Adam divides each
# parameter's gradient by its own size, so a factor in front of the only loss that a parameter feels divides out. We
# leave the weight away. (Cut the common gradient to a maximal length, or use plain gradient descent, and it matters
# again.)


# %%
def trained_with(weight: float, updates: int = 50) -> torch.Tensor:
    """An ICM's parameters [D] after Adam on weight * forward + (1 - weight) * inverse, on fixed random data."""
    torch.manual_seed(0)
    icm = ICM(small_encoder(10), 32, 4)
    optimiser = torch.optim.Adam(icm.parameters(), 1e-3, eps=1e-16)  # 1e-8 would blur the proof
    for _ in range(updates):
        obs, next_obs = torch.rand(2, 64, 1, 2, 5)
        losses = icm.losses(obs, torch.randint(4, (64,)), next_obs)
        optimiser.zero_grad()
        (weight * losses["forward"] + (1 - weight) * losses["inverse"]).backward()
        optimiser.step()
    return nn.utils.parameters_to_vector(icm.parameters()).detach()


little, much = trained_with(0.2), trained_with(0.8)
moved = (little - trained_with(0.2, updates=0)).abs().mean()
apart = (little - much).abs().max()
print(f"moved by {moved:.4f} on average; β = 0.2 and 0.8 differ by at most {apart:.1g}")

# %% [markdown]
# *Fifty updates, with the forward loss weighted 0.2 and then 0.8: the same network. (Adam adds a tiny $\epsilon$ to the
# size it divides by. At its usual $10^{-8}$ the two differ by a hundredth of the way they have moved.)*
#
# ## The noisy television
#
# Now a world where it shows. Seven by seven cells, a walker, and in one corner a sofa before a television. The walker
# sees a picture of 7 × 14 pixels: on the left the room with a bright dot where it stands, on the right the screen. The
# screen is dark, except from the sofa: there it shows noise, 49 fresh random numbers at every step. Five actions: up,
# down, left, right, and a button that does nothing, so far. Nothing else happens in this world, and nobody gives
# a reward.


# %%
SIZE, ROOM_ACTIONS, PRESS, SOFA = 7, 5, 4, 0
START = SIZE**2 - 1  # the corner opposite the sofa
STEPS = np.array([[-1, 0], [1, 0], [0, -1], [0, 1], [0, 0]])  # up, down, left, right, press
CELLS = np.argwhere(np.ones((SIZE, SIZE)))  # [49, 2]
NEXT_CELL = (CELLS[:, None] + STEPS).clip(0, SIZE - 1) @ (SIZE, 1)  # [49, A]


def look(cells: np.ndarray, screens: np.ndarray) -> torch.Tensor:
    """What walkers at ``cells`` [B] see: [B, 1, 7, 14]. screens: [B, 7, 7], what is on, seen from the sofa only."""
    pictures = np.zeros((len(cells), 1, SIZE, 2 * SIZE), np.float32)
    pictures[np.arange(len(cells)), 0, *CELLS[cells].T] = 1
    pictures[cells == SOFA, 0, :, SIZE:] = screens[cells == SOFA]
    return torch.from_numpy(pictures)


# %%
rng = np.random.default_rng(0)
views = look(np.array([24, SOFA, SOFA]), rng.random((3, SIZE, SIZE)))
figure, panels = plt.subplots(1, 3, figsize=(8.6, 1.7))
for axes, view, title in zip(
    panels, views[:, 0], ("on the carpet", "on the sofa", "a step later"), strict=True
):
    axes.imshow(view, cmap="cividis", vmin=0, vmax=1)
    axes.axvline(SIZE - 0.5, color=plots.INK)
    axes.set(title=title, xticks=[], yticks=[])
    axes.grid(visible=False)
plt.show()

# %% [markdown]
# *Three observations: the room on the left of each, the screen on the right. In the middle of the room the screen is
# dark. On the sofa, which is in the upper left corner, it shows noise, and a step later other noise.*
#
# The walker's mind should be simple, so that only its curiosity is on trial. It knows which cell it is in and keeps a
# table $Q(\text{cell}, a)$ of discounted *intrinsic* reward, learned by Q-learning with some random moves. Thirty-two
# walkers share the table and the curiosity. The table starts high, so that everything gets tried.


# %%
@dataclass(frozen=True)
class RoomConfig:
    """Curious walkers before a television."""

    curiosity: str = "ICM"
    steps: int = knob(4000, 50, 10_000, "steps of every walker", step=50)
    walkers: int = knob(32, 1, 256, "walkers that share a table and a curiosity")
    learning_rate: float = knob(2e-3, 1e-4, 1e-1, "of the curiosity's networks", step=1e-4)
    discount: float = knob(0.9, 0.0, 0.99, "gamma of the table", step=0.01)
    epsilon: float = knob(0.1, 0.0, 1.0, "share of random moves", step=0.01)
    table_rate: float = knob(0.3, 0.01, 1.0, "step size of the table", step=0.01)
    remote: bool = False

    def __post_init__(self) -> None:
        check_config(self)


PIXELS = 2 * SIZE**2


def room_pixels() -> Surprise:
    return Surprise(nn.Flatten(), PIXELS, ROOM_ACTIONS)


def room_icm() -> ICM:
    return ICM(small_encoder(PIXELS), 32, ROOM_ACTIONS)


ROOM_CURIOSITIES = {"pixels": room_pixels, "ICM": room_icm}


# %%
def walk(
    q: np.ndarray,
    cells: np.ndarray,
    screens: np.ndarray,
    config: RoomConfig,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, np.ndarray, np.ndarray, torch.Tensor]:
    """One ε-greedy step of all walkers; renews ``screens`` in place. Returns obs, actions, next cells, next obs."""
    obs = look(cells, screens)
    random = rng.random(len(cells)) < config.epsilon
    actions = np.where(random, rng.integers(ROOM_ACTIONS, size=len(cells)), q[cells].argmax(1))
    renewed = (actions == PRESS) | (not config.remote)
    screens[renewed] = rng.random((renewed.sum(), SIZE, SIZE))
    following = NEXT_CELL[cells, actions]
    return obs, actions, following, look(following, screens)


def learn_table(
    q: np.ndarray, cells: np.ndarray, actions: np.ndarray, targets: np.ndarray, rate: float
) -> None:
    """Move the entries that were visited towards the mean of their targets, in place. q: [49, A], rest [B]."""
    sums, counts = np.zeros_like(q), np.zeros_like(q)
    np.add.at(sums, (cells, actions), targets - q[cells, actions])
    np.add.at(counts, (cells, actions), 1)
    q += rate * sums / counts.clip(min=1)


# %%
ROOM_REPORT = 50  # steps of every walker between reports


def train_walkers(
    config: RoomConfig, seed: int, state: dict | None = None, device: str = "cpu"
) -> Iterator[Progress]:
    """Walk, be surprised, learn the table from the surprise and the curiosity from what was seen.

    state: {"step", "q", "cells", "screens", "visits", "curiosity", "optimiser", "metrics"}; visits [49] are those
    of the second half.
    """
    torch.manual_seed(seed)
    curiosity = ROOM_CURIOSITIES[config.curiosity]().to(device)
    optimiser = torch.optim.Adam(curiosity.parameters(), config.learning_rate)
    state = copy.deepcopy(state) or new_walkers(config, seed)
    if state["step"]:
        curiosity.load_state_dict(as_tensors(state["curiosity"]))
        optimiser.load_state_dict(as_tensors(state["optimiser"]))
    while True:
        if state["step"] < config.steps:
            walk_and_learn(curiosity, optimiser, config, state, seed)
        now = lambda: copy.deepcopy(
            {**state, "curiosity": curiosity.state_dict(), "optimiser": optimiser.state_dict()}
        )
        yield Progress(state["step"], config.steps, state["metrics"], now, "steps of every walker")
        if state["step"] >= config.steps:
            return


# %%
def new_walkers(config: RoomConfig, seed: int) -> dict:
    """Every walker in the start corner, an empty table, something on every screen."""
    screens = np.random.default_rng(seed).random((config.walkers, SIZE, SIZE))
    return {
        "step": 0,
        "q": np.zeros((SIZE**2, ROOM_ACTIONS)),
        "cells": np.full(config.walkers, START),
        "screens": screens,
        "visits": np.zeros(SIZE**2, int),
    }


def walk_and_learn(
    curiosity: nn.Module,
    optimiser: torch.optim.Optimizer,
    config: RoomConfig,
    state: dict,
    seed: int,
) -> None:
    """``ROOM_REPORT`` steps of all walkers, each followed by one update of table and curiosity; changes ``state``."""
    rng, device = np.random.default_rng([seed, state["step"]]), next(curiosity.parameters()).device
    at_tv, surprise = [], []
    for _ in range(ROOM_REPORT):
        cells, q = state["cells"], state["q"]
        obs, actions, following, next_obs = walk(q, cells, state["screens"], config, rng)
        seen = (obs.to(device), torch.from_numpy(actions).to(device), next_obs.to(device))
        rewards = curiosity.reward(*seen).cpu().numpy()
        if not state["step"]:
            q += rewards.mean() / (1 - config.discount)  # high: everything gets tried
        targets = rewards + config.discount * q[following].max(1)
        learn_table(q, cells, actions, targets, config.table_rate)
        optimiser.zero_grad()
        sum(curiosity.losses(*seen).values()).backward()
        optimiser.step()
        state["step"], state["cells"] = state["step"] + 1, following
        if state["step"] > config.steps / 2:
            state["visits"] += np.bincount(following, minlength=SIZE**2)
        at_tv.append(np.mean(following == SOFA))
        surprise.append(rewards.mean())
    metrics = {"share_at_tv": np.mean(at_tv), "surprise": np.mean(surprise)}
    state["metrics"] = {name: float(value) for name, value in metrics.items()}


# %% tags=["C2"]
EVENLY = 1 / SIZE**2  # the share of each cell if all were visited alike
room = by_budget(smoke=RoomConfig(steps=400), laptop=RoomConfig())
evenly = {"floor": EVENLY, "floor_label": "all cells alike"}
naive_run = watch(train_walkers(replace(room, curiosity="pixels"), seed=1), **evenly)

# %% [markdown]
# CAPTION_NAIVE

# %% tags=["C2"]
icm_run = watch(train_walkers(room, seed=1), **evenly)


def time_at_tv(state: dict) -> float:
    """The share of the second half that the walkers spent on the sofa."""
    return state["visits"][SOFA] / state["visits"].sum()


naive_time, icm_time = time_at_tv(naive_run.state), time_at_tv(icm_run.state)
print(
    f"time at the TV: pixels {naive_time:.0%}, ICM {icm_time:.1%}, ratio {naive_time / icm_time:.0f}"
)

# %% [markdown]
# CAPTION_ICM


# %%
def draw_visits(axes: Axes, visits: np.ndarray, title: str) -> AxesImage:
    """Share of the time in each cell, on a logarithmic scale of colours."""
    shares = (visits / visits.sum()).reshape(SIZE, SIZE)
    axes.text(
        0, 0, "TV", ha="center", va="center", color="black" if shares[0, 0] > 0.1 else "white"
    )
    axes.set(title=title, xticks=[], yticks=[])
    axes.grid(visible=False)
    return axes.imshow(shares.clip(1e-4), cmap="cividis", norm="log", vmin=1e-4, vmax=1)


figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.0))
draw_visits(panels[0], naive_run.state["visits"], "surprised by pixels")
drawn = draw_visits(panels[1], icm_run.state["visits"], "surprised by ICM's features")
figure.colorbar(drawn, ax=panels, label="share of the time", extend="min")
plt.show()

# %% [markdown]
# CAPTION_HEAT
#
# ### What the encoder sees
#
# ICM's defence rests on one claim: its features do not contain the noise. Measure it. Take many pictures from the sofa,
# which differ in nothing but the noise, and many from anywhere; compare how much the features vary within the first
# with how much they vary within the second.


# %%
@torch.no_grad()
def noise_in_features(encoder: nn.Module, seed: int = 0, count: int = 500) -> float:
    """Variance of the features over the sofa's pictures, divided by their variance over all cells."""
    rng = np.random.default_rng(seed)
    screens = rng.random((count, SIZE, SIZE))
    sofa = encoder(look(np.full(count, SOFA), screens))  # [B, F]
    anywhere = encoder(look(rng.integers(SIZE**2, size=count), screens))
    return (sofa.var(0).sum() / anywhere.var(0).sum()).item()


def room_curiosity(config: RoomConfig, state: dict) -> nn.Module:
    """The curiosity in a state of ``train_walkers``."""
    curiosity = ROOM_CURIOSITIES[config.curiosity]()
    curiosity.load_state_dict(as_tensors(state["curiosity"]))
    return curiosity


torch.manual_seed(1)
print(f"an encoder at birth: {noise_in_features(room_icm().encoder):.3f}")
trained = room_curiosity(room, icm_run.state)
print(f"after its training:  {noise_in_features(trained.encoder):.4f}")

# %% [markdown]
# CAPTION_NOISE
#
# ### Why the losses do not fall
#
# The usual sign of learning is a loss that falls. Here none will. The forward model tries to lower its error, and the
# walkers, who choose what it sees next, try to raise it: two players with opposite goals. To see what the second one
# does, take it out: train the same ICM on walkers that move at random ($\varepsilon = 1$), and compare. To see what each
# has learned, ask both for their errors on a set that nobody chooses: every move from every cell, once.


# %%
def every_move(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All 245 transitions of the room: obs, actions, next obs."""
    cells, actions = np.divmod(np.arange(NEXT_CELL.size), ROOM_ACTIONS)
    screens = np.random.default_rng(seed).random((2, len(cells), SIZE, SIZE))
    following = look(NEXT_CELL[cells, actions], screens[1])
    return look(cells, screens[0]), torch.from_numpy(actions), following


# %%
def draw_room(axes: Axes, name: str, curve: str, label: str) -> None:
    """A curve of stored runs against the steps of every walker: mean and 95 % interval over seeds."""
    steps = results.curves("C2", name, "step")[0]
    plots.bands(axes, steps, results.curves("C2", name, curve), label, linewidth=1.5)


def named(prefix: str, kind: str) -> str:
    return f"{prefix}_{kind.replace(' ', '_')}"


# %% tags=["C9"]
figure, panels = plt.subplots(1, 2, figsize=(9.5, 2.9), sharey=True)
for axes, curve in zip(panels, ("surprise", "everywhere"), strict=True):
    draw_room(axes, "room_ICM", curve, "curious walkers")
    draw_room(axes, "room_ICM_random_walk", curve, "walkers that move at random")
    axes.set(xlabel="steps of every walker")
panels[0].set(title="on what the walkers do", ylabel="squared error", ylim=(0, None))
panels[1].set(title="on every move, once")
panels[0].legend(fontsize=8)
plt.show()

# %% [markdown]
# CAPTION_C9
#
# The panel has every dial. Try $\varepsilon = 0$, or a slower curiosity.

# %%
room_panel = panel(train_walkers, room, metric="share_at_tv", floor=EVENLY)

# %% [markdown]
# ## Two cheaper ways to be curious
#
# **Random features.** [Burda et al. (2019a)](../book/bibliography.md#burda2019a) asked what the training of the encoder is
# worth, and put an encoder in its place that is drawn at random and never trained. It costs nothing, stands still, so
# that the forward model's target stops moving, and did almost as well in many games. In code it is not even a new
# class: a `Surprise` with that encoder.
#
# **Random network distillation** (RND, [Burda et al., 2019b](../book/bibliography.md#burda2019b)) predicts nothing about
# the future. One random network, the *target*, gives every observation a fixed random fingerprint. A second one, the
# *predictor*, learns to reproduce the fingerprints of what has been seen. Where it fails, the observation is new:
#
# $$
# r^{\text{int}}_t = \tfrac{1}{F} \big\lVert p_\omega(\tilde s_{t+1}) - \tau(\tilde s_{t+1}) \big\rVert^2 ,
# \qquad \tilde s = \mathrm{clip}\Big( \frac{s - \mu}{\sigma}, -5, 5 \Big) .
# $$
#
# The fingerprint is a function of the observation, so nothing about it is random once the target is drawn: a predictor
# large enough could learn it entirely, noise or not. The observations are normalised with running statistics, since a
# random network cannot adapt to their scale. Chapter 6's `Normaliser` does it.


# %%
class RND(nn.Module):
    """Random network distillation: surprise at an observation, whatever led to it (Burda et al. 2019b)."""

    def __init__(self, make_encoder: Callable[[], nn.Module], features: int, pixels: int) -> None:
        super().__init__()
        self.normalise = POLICIES.Normaliser(pixels)
        self.target = make_encoder().requires_grad_(False)
        self.predictor = nn.Sequential(make_encoder(), FOUNDATIONS.mlp(features, 128, features))

    def errors(self, next_obs: torch.Tensor) -> torch.Tensor:
        """Squared errors of the predictor. [B, ...] -> [B]."""
        seen = self.normalise(next_obs.flatten(1)).clamp(-5, 5).view_as(next_obs)
        return (self.predictor(seen) - self.target(seen)).square().mean(1)

    @torch.no_grad()
    def reward(
        self, obs: torch.Tensor, actions: torch.Tensor, next_obs: torch.Tensor
    ) -> torch.Tensor:
        return self.errors(next_obs)

    def losses(
        self, obs: torch.Tensor, actions: torch.Tensor, next_obs: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        self.normalise.show(next_obs.flatten(1))
        return {"distillation": self.errors(next_obs).mean()}


# %% tags=["C7"]
def room_random_features() -> Surprise:
    return Surprise(small_encoder(PIXELS).requires_grad_(False), 32, ROOM_ACTIONS)


def room_rnd() -> RND:
    return RND(partial(small_encoder, PIXELS), 32, PIXELS)


ROOM_CURIOSITIES |= {"random features": room_random_features, "RND": room_rnd}

# %% [markdown]
# ### A television with a remote control
#
# ICM ignores what its actions do not touch. What if they do touch the noise? Give the walker a remote control: the
# button now changes the channel, and the picture stays until it is pressed again. On the sofa an inverse model that
# looks at the screen could tell the button from a bump into the wall, so its features should hold the screen, and the
# walkers should be caught. That is the theory; in a three-dimensional maze such a television does slow curious agents
# down [(Burda et al., 2019a)](../book/bibliography.md#burda2019a). Here are all of them, over three seeds:

# %% tags=["C2", "C7"]
lines = {named("room", kind): kind for kind in ROOM_CURIOSITIES}
lines["room_ICM_remote"] = "ICM, remote control"
figure, axes = plt.subplots(figsize=(7.2, 3.4))
for name, label in lines.items():
    draw_room(axes, name, "share_at_tv", label)
axes.axhline(EVENLY, color=plots.INK, linestyle=":", label="all cells alike")
axes.set(xlabel="steps of every walker", ylabel="share of the time at the TV")
axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
plt.show()
for name, label in lines.items():
    runs = [run["metrics"] for run in results.runs("C2", name)]
    times = "  ".join(f"{found['time_at_tv']:5.1%}" for found in runs)
    noise = np.mean([found.get("noise", np.nan) for found in runs])
    print(f"{label:20s} at the TV {times}   noise in features {noise:.4f}")

# %% [markdown]
# CAPTION_REMOTE

# %% [markdown]
# ## Super Mario Bros.
#
# Now a world worth exploring. Mario runs to the right through World 1-1, jumps over what would kill him, climbs over
# pipes, and falls into what he does not jump over. The game of 1985 runs in an emulator, which has to be compiled; where
# it is not installed, the next cell says how to get it, and the cells that need it are passed over.


# %% tags=["C4"]
def can_play() -> bool:
    """Whether the emulator is here; says how to get it where it is not."""
    try:
        MarioEnv().close()
    except MarioError as missing:
        print(missing)
        return False
    return True


has_mario = can_play()
for number, name in enumerate(ACTIONS):
    print(f"{number:2d} {name}", end="\n" if number % 4 == 3 else "".ljust(20 - len(name)))

# %% [markdown]
# Twelve buttons and combinations of buttons are the agent's actions; the order is that of the emulator's package. (In
# the source's table, jumping and running to the left have changed places.) With each step comes a dictionary of what
# the console's memory says:

# %% tags=["C4"]
MEANINGS = {
    "coins": "coins collected", "flag_get": "whether the flag at the end has been reached", "life": "lives left",
    "score": "the game's score", "stage": "stage, 1 to 4", "status": "small, tall or fireball",
    "time": "time left on the clock", "world": "world, 1 to 8", "x_pos": "distance from the left end, in pixels",
    "y_pos": "height in pixels", "furthest": "the largest x_pos of this episode (added by the book)",
}  # fmt: skip
if has_mario:
    env = MarioEnv()
    screen, info = env.reset(seed=0)
    for key, meaning in MEANINGS.items():
        print(f"{key:9s} {info[key]!s:6s} {meaning}")

# %% [markdown]
# An action is held for six frames, a tenth of a second, as in the source. Mario has one life; and when his furthest
# $x$ has not grown for 80 decisions, eight seconds of play, he is stuck and the episode is cut. That limit matters for
# every number below: a random player reaches 317 on average when he is given up after 80 decisions, and 537 when he is
# given 200. So it is 80 everywhere, for all agents and for the random one.
#
# The emulator is deterministic: equal actions make equal games. All chance is in the policy.


# %% tags=["C4"]
def random_episode(seed: int, size: int = 2) -> list[np.ndarray]:
    """Screens of one random episode, every ``size``-th pixel."""
    env, rng = MarioEnv(), np.random.default_rng(seed)
    screens, over = [env.reset()[0][::size, ::size]], False
    while not over:
        screen, _, terminated, truncated, _ = env.step(rng.integers(len(BUTTONS)))
        screens.append(screen[::size, ::size])
        over = terminated or truncated
    env.close()
    return screens


if has_mario:
    display(
        show_clip(random_episode(seed=4)[:200], 10, "Random buttons, at the speed of the game.")
    )

# %% [markdown]
# ### From 184,320 numbers to 5,292
#
# A screen has 240 × 256 pixels of three colours. We cut off the top 30 rows, where score and clock count and would only
# be one more thing to predict, and two columns at either side; what is left splits into 42 × 42 blocks of 5 × 6 pixels.
# Each block becomes the mean of its pixels, and of its three colours the brightest. Three successive pictures form one
# observation, so that speeds can be seen. All screens of a worker are shrunk at once: eleven slices are added, and no
# pixel is visited in Python.


# %%
def shrink(screens: np.ndarray) -> np.ndarray:
    """Screens [n, 240, 256, 3] -> grey pictures [n, 42, 42], bytes."""
    field = screens[:, 30:, 2:254].astype(np.uint16)  # [n, 210, 252, 3]
    rows = sum(field[:, i::5] for i in range(5))  # [n, 42, 252, 3]
    blocks = sum(rows[:, :, i::6] for i in range(6))  # [n, 42, 42, 3]
    return (blocks.max(-1) // 30).astype(np.uint8)


# %% tags=["C4"]
if has_mario:
    for action in (3, 3, 3, 4, 4, 4, 3, 3):
        screen, *_ = env.step(action)
    field = screen[30:, 2:254]
    steps = {
        "the screen": screen,
        "without score and margins": field,
        "means of blocks": field.reshape(42, 5, 42, 6, 3).mean((1, 3)).astype(np.uint8),
        "brightest colour": shrink(screen[None])[0],
    }
    figure, panels = plt.subplots(1, 4, figsize=(9.5, 2.6))
    for axes, (title, picture) in zip(panels, steps.items(), strict=True):
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
        axes.set(title=title, xticks=[], yticks=[])
        axes.grid(visible=False)
    plt.show()

# %% [markdown]
# CAPTION_SHRINK
#
# Where does the time go? `MarioEnvs` spreads emulators over processes; each process shrinks its own screens, so that
# only pictures travel.

# %% tags=["C4"]
if has_mario:
    with closing(MarioEnvs(num_envs=8, workers=1, view=shrink)) as envs:
        rng, played = np.random.default_rng(0), by_budget(smoke=20, laptop=150)
        play = transitions(envs, lambda obs: rng.integers(len(BUTTONS), size=len(obs)), seed=0)
        began = time.perf_counter()
        for step in islice(play, played):
            pass
        seconds, parts = time.perf_counter() - began, envs.seconds
    print(f"{played * 8 * 6 / seconds:.0f} frames/s on one core")
    print(
        f"emulator {parts['emulator'] / seconds:.1%} of the time, preprocessing {parts['view'] / seconds:.1%}"
    )

# %% [markdown]
# *Nearly all of the time is the emulator's; what we add to it is a percent or two. This number decides everything
# below: two processes make some 250 decisions a second, so five minutes are some 50,000 decisions once learning has
# had its share.*


# %%
def furthest_reached(policy: Policy, episodes: int, seed: int, stuck: int = 80) -> np.ndarray:
    """Furthest x of one whole episode in each of ``episodes`` emulators, over two processes: [episodes]."""
    reached, playing = np.zeros(episodes), np.ones(episodes, bool)
    with closing(MarioEnvs(episodes, 2, shrink, stuck=stuck)) as envs:
        for step in transitions(envs, policy, seed):
            reached[playing] = envs.furthest[playing]
            playing &= ~(step.terminated | step.truncated)
            if not playing.any():
                return reached


def random_reach(episodes: int, seed: int, stuck: int = 80) -> np.ndarray:
    """The same for random play."""
    rng = np.random.default_rng(seed)
    push = lambda obs: rng.integers(len(BUTTONS), size=len(obs))
    return furthest_reached(push, episodes, seed, stuck)


# %% [markdown]
# ## Mario on curiosity alone
#
# The agent that carries this chapter is [chapter 6](ch06_policy_optimisation.ipynb)'s PPO, paid by ICM. The source pays
# a DQN; we build that too, further below, and compare. What PPO needs besides: a network with a curiosity, rewards in a
# sensible scale, and advantages.
#
# The encoder of the curiosity serves the curiosity only. Policy and values see the pictures through eyes of their own.
# There are two values, one of future surprise and one of the game's own reward, because the two are paid by different
# rules ([Burda et al., 2019b](../book/bibliography.md#burda2019b)).


# %%
def make_icm() -> nn.Module:
    return ICM(game_encoder(), features=288, actions=len(BUTTONS), hidden=256)


def make_random_features() -> nn.Module:
    return Surprise(game_encoder().requires_grad_(False), 288, len(BUTTONS), hidden=256)


def make_rnd() -> nn.Module:
    return RND(game_encoder, features=288, pixels=3 * 42**2)


CURIOSITIES = {"ICM": make_icm, "random features": make_random_features, "RND": make_rnd}


# %%
class CuriousNet(nn.Module):
    """A policy, a value for each of two rewards (surprise, game), and a curiosity.

    Stacks [B, 3, 42, 42] with values to 255 -> (a Distribution over actions, values [B, 2]).
    """

    def __init__(self, curiosity: nn.Module) -> None:
        super().__init__()
        eyes, hidden = game_encoder()[:-1], nn.Linear(288, 256)  # without its LayerNorm
        self.body = nn.Sequential(*eyes, hidden, nn.ReLU())
        self.policy, self.value = nn.Linear(256, len(BUTTONS)), nn.Linear(256, 2)
        for layer, gain in ((hidden, 2**0.5), (self.policy, 0.01), (self.value, 1.0)):
            nn.init.orthogonal_(layer.weight, gain)
            nn.init.zeros_(layer.bias)
        self.curiosity, self.pixels = curiosity, POLICIES.Normaliser(3 * 42**2)
        self.scales = nn.ModuleList([POLICIES.Normaliser(1), POLICIES.Normaliser(1)])

    def view(self, obs: torch.Tensor) -> torch.Tensor:
        """Every pixel in units of its own deviation, cut at 5."""
        return self.pixels(obs.flatten(1)).clamp(-5, 5).view_as(obs)

    def forward(self, obs: torch.Tensor) -> tuple[Distribution, torch.Tensor]:
        hidden = self.body(self.view(obs))
        policy = Categorical(logits=self.policy(hidden), validate_args=False)
        return policy, self.value(hidden)


# %% [markdown]
# `view` subtracts from every pixel its mean and divides by its deviation, both measured while Mario still plays at
# random. Without it most of what an encoder sees is sky, the same in every picture, and all pictures look alike to
# it. We will see what that costs.


# %%
@dataclass(frozen=True)
class CuriousConfig:
    """PPO paid by curiosity, by the game, or by both."""

    curiosity: str = "ICM"
    steps: int = knob(49_152, 1024, 1_000_000, "decisions", step=1024)
    num_envs: int = knob(16, 1, 64, "emulators")
    horizon: int = knob(64, 8, 512, "decisions of each emulator between updates")
    warm_up: int = knob(2, 1, 20, "rollouts before the policy learns")
    discount: float = knob(0.99, 0.5, 1.0, "gamma", step=0.001)
    lam: float = knob(0.95, 0.0, 1.0, "lambda of the advantages", step=0.01)
    learning_rate: float = knob(5e-4, 1e-5, 1e-2, "of Adam at the start", step=1e-5)
    entropy: float = knob(0.01, 0.0, 0.1, "weight of the entropy bonus", step=0.001)
    epochs: int = knob(3, 1, 20, "passes over a rollout")
    minibatch: int = knob(64, 16, 1024, "decisions of a gradient step", step=16)
    clip: float = knob(0.2, 0.01, 1.0, "epsilon: how far the ratio may move", step=0.01)
    curiosity_rate: float = knob(5e-4, 1e-5, 1e-2, "learning rate of the curiosity", step=1e-5)
    intrinsic: float = knob(1.0, 0.0, 10.0, "weight of the surprise", step=0.1)
    extrinsic: float = knob(0.0, 0.0, 10.0, "weight of the game's reward", step=0.1)
    value_weight: float = 0.5
    max_grad_norm: float = 0.5
    workers: int = 2
    stuck: int = 80

    def __post_init__(self) -> None:
        check_config(self)


def make_mario(config: CuriousConfig) -> MarioEnvs:
    return MarioEnvs(config.num_envs, config.workers, shrink, stuck=config.stuck)


# %%
class MarioCollector(POLICIES.Collector):
    """Chapter 6's collector; it notes the furthest x of episodes in place of their returns."""

    def __init__(self, envs: MarioEnvs, net: CuriousNet, seed: int, recent: list) -> None:
        super().__init__(envs, net, seed, reward_scale=1.0)
        self.envs, self.recent = envs, deque(recent, maxlen=30)

    def note_ends(self, rewards: np.ndarray, terminated: np.ndarray, done: np.ndarray) -> None:
        self.recent.extend(self.envs.furthest[done].tolist())


# %% [markdown]
# ### What is paid
#
# The surprise at a step needs the observation after it. Inside a rollout that is the next row; the last row has none,
# and only shows where the row before it led. The step that ends an episode pays nothing: what follows in the rollout is
# a new game, no consequence of the action, and a curiosity that was paid for it would take every death for a
# television.


# %%
@torch.no_grad()
def surprises(net: CuriousNet, rollout: NamedTuple) -> torch.Tensor:
    """Intrinsic rewards of a rollout's first T - 1 steps: [T - 1, N]."""
    obs = net.view(rollout.obs.flatten(0, 1)).view_as(rollout.obs)
    columns = (obs[:-1], rollout.actions[:-1], obs[1:])  # [T - 1, N, ...]
    chunks = (column.flatten(0, 1).split(256) for column in columns)
    paid = torch.cat([net.curiosity.reward(*chunk) for chunk in zip(*chunks, strict=True)])
    return paid.view_as(rollout.rewards[:-1]) * ~rollout.done[:-1]


def in_own_scale(
    rewards: torch.Tensor, scale: nn.Module, sums: torch.Tensor, discount: float
) -> torch.Tensor:
    """Rewards [T, N] over the deviation of their discounted sums so far (Burda et al. 2019b); sums [N] go on."""
    for row in rewards:
        sums.mul_(discount).add_(row)
        scale.show(sums[:, None])
    return (rewards / (scale.m2 / scale.count).sqrt().clamp(min=1e-8)).float()


# %% [markdown]
# And what is death to the curious? A bootstrap of 0 would say that nothing is left to discover. But the game goes on,
# at its beginning, where everything is known; so the value of the first state of the next game follows, as
# [Burda et al. (2019a)](../book/bibliography.md#burda2019a) propose. Dying is then exactly as bad as going back to the
# start is boring. The same holds when an episode is cut because Mario is stuck. Treating either as the end of all
# reward would be a hint from outside, "stay alive" or "make progress", and this agent is to have none. The game's own
# reward keeps its own rule: nothing after a death, the value of the last state where the clock cut the episode.


# %%
def curious_advantages(
    net: CuriousNet, rollout: NamedTuple, sums: torch.Tensor, config: CuriousConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted advantages [T - 1, N] and the returns [T - 1, N, 2] for the two values. sums: [2, N]."""
    surprise = in_own_scale(surprises(net, rollout), net.scales[0], sums[0], config.discount)
    game = in_own_scale(rollout.rewards[:-1], net.scales[1], sums[1], config.discount)
    values, dials = rollout.values, (config.discount, config.lam)
    never = torch.zeros_like(rollout.done[:-1])
    ends = (rollout.terminated[:-1], rollout.done[:-1])
    curious, intrinsic_returns = POLICIES.gae(
        surprise, values[:-1, :, 0], values[1:, :, 0], never, never, *dials
    )
    greedy, extrinsic_returns = POLICIES.gae(
        game, values[:-1, :, 1], rollout.next_values[:-1, :, 1], *ends, *dials
    )
    advantages = config.intrinsic * curious + config.extrinsic * greedy
    return advantages, torch.stack([intrinsic_returns, extrinsic_returns], -1)


# %%
def improve_policy(
    net: CuriousNet,
    optimiser: torch.optim.Optimizer,
    rollout: NamedTuple,
    advantages: torch.Tensor,
    returns: torch.Tensor,
    config: CuriousConfig,
) -> dict[str, float]:
    """Chapter 6's ``ppo_update``, with these advantages and a constant entropy bonus; mean diagnostics."""
    columns = (
        *(column[:-1] for column in rollout[:3]),
        advantages,
        returns,
    )  # each [T - 1, N, ...]
    obs, actions, old_log_probs, advantages, returns = (c.flatten(0, 1) for c in columns)
    found = []
    for _ in range(config.epochs):
        for rows in torch.randperm(len(obs), device=obs.device).split(config.minibatch):
            policy, values = net(obs[rows])
            loss, diagnostics = POLICIES.ppo_loss(
                policy.log_prob(actions[rows]), policy.entropy(), values, old_log_probs[rows],
                advantages[rows], returns[rows], config, config.entropy,
            )  # fmt: skip
            POLICIES.gradient_step(net, optimiser, loss, config.max_grad_norm)
            found.append(torch.stack([*diagnostics.values()]))
    return dict(zip(diagnostics, torch.stack(found).mean(0).tolist(), strict=True))


# %%
def improve_curiosity(
    net: CuriousNet, optimiser: torch.optim.Optimizer, rollout: NamedTuple, config: CuriousConfig
) -> dict[str, float]:
    """One pass of the curiosity over the steps of a rollout whose episode goes on; mean losses."""
    goes_on, found = ~rollout.done[:-1], []
    columns = (rollout.obs[:-1], rollout.actions[:-1], rollout.obs[1:])
    columns = [column[goes_on] for column in columns]  # [B, ...]
    for rows in torch.randperm(len(columns[0]), device=goes_on.device).split(config.minibatch):
        obs, actions, next_obs = (column[rows] for column in columns)
        losses = net.curiosity.losses(net.view(obs), actions, net.view(next_obs))
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()
        found.append(torch.stack([*losses.values()]).detach())
    return dict(zip(losses, torch.stack(found).mean(0).tolist(), strict=True))


# %%
def train_curious(
    config: CuriousConfig,
    seed: int,
    state: dict | None = None,
    device: str = "cpu",
    make_net: Callable[[nn.Module], CuriousNet] = CuriousNet,
) -> Iterator[Progress]:
    """PPO on surprise and on the game's reward, weighted by the config.

    state: {"steps", "recent", "net", "optimiser", "metrics"}; a resumed run begins new games.
    """
    state = {"steps": 0, "recent": []} | (state or {})
    torch.manual_seed(seed + state["steps"])
    rollout_size = config.num_envs * config.horizon
    with closing(make_mario(config)) as envs:
        net = make_net(CURIOSITIES[config.curiosity]()).to(device)
        optimiser = adam_for(net, config)
        if state["steps"]:
            net.load_state_dict(as_tensors(state["net"]))
            optimiser.load_state_dict(as_tensors(state["optimiser"]))
        collector = MarioCollector(envs, net, seed + state["steps"], state["recent"])
        sums = torch.zeros(2, config.num_envs, dtype=torch.float64, device=device)
        while True:
            if state["steps"] < config.steps:
                rollout = collector.collect(config.horizon)
                remaining = 1 - state["steps"] / config.steps
                optimiser.param_groups[0]["lr"] = config.learning_rate * remaining
                if state["steps"] < config.warm_up * rollout_size:
                    net.pixels.show(rollout.obs.flatten(2))
                    optimiser.param_groups[0]["lr"] = 0.0
                advantages, returns = curious_advantages(net, rollout, sums, config)
                metrics = improve_policy(net, optimiser, rollout, advantages, returns, config)
                metrics |= improve_curiosity(net, optimiser, rollout, config)
                state |= {"steps": state["steps"] + rollout_size, "recent": [*collector.recent]}
                state["metrics"] = {"furthest": float(np.mean(state["recent"] or [0])), **metrics}
            now = lambda: copy.deepcopy(
                {**state, "net": net.state_dict(), "optimiser": optimiser.state_dict()}
            )
            step = min(state["steps"], config.steps)
            yield Progress(step, config.steps, state["metrics"], now, "decisions")
            if state["steps"] >= config.steps:
                return


def adam_for(net: CuriousNet, config: CuriousConfig) -> torch.optim.Adam:
    """Two groups: the policy's learning rate falls over the run, the curiosity's stays."""
    acting = [*net.body.parameters(), *net.policy.parameters(), *net.value.parameters()]
    groups = [{"params": acting, "lr": config.learning_rate}]
    groups += [{"params": [*net.curiosity.parameters()], "lr": config.curiosity_rate}]
    return torch.optim.Adam(groups, eps=1e-5, fused=True)


# %%
def curious_net_of(weights: dict, kind: str = "ICM") -> CuriousNet:
    """A ``CuriousNet`` with stored weights."""
    net = CuriousNet(CURIOSITIES[kind]())
    net.load_state_dict(as_tensors(weights))
    return net


SCORING = 2_000_003  # seeds of the episodes for the score


def score(policy: Policy, seed: int, episodes: int = 20) -> np.ndarray:
    """Furthest x over fresh episodes, stuck limit 80: [episodes]."""
    torch.manual_seed(SCORING + seed)
    return furthest_reached(policy, episodes, SCORING + seed)


# %% tags=["C5"]
if has_mario:
    curious_config = by_budget(
        smoke=CuriousConfig(steps=1024, horizon=16), laptop=CuriousConfig(steps=32_768)
    )
    floor = random_reach(by_budget(smoke=4, laptop=20), seed=0)
    curious_run = watch(train_curious(curious_config, seed=1), floor=floor.mean())
    curious_net = curious_net_of(curious_run.state["net"])
    reach = score(POLICIES.sampled(curious_net), seed=1, episodes=by_budget(smoke=4, laptop=20))
    print(f"furthest x: mean {reach.mean():.0f}, best {reach.max():.0f}; random {floor.mean():.0f}")

# %% [markdown]
# ### Watch it be surprised
#
# For an episode of the trained agent, keep every screen, every observation and every surprise.


# %%
class Instant(NamedTuple):
    """A decision of an episode: the screen after it, the stack before it, what it paid, and how far Mario was."""

    screen: np.ndarray
    stack: np.ndarray
    surprise: float
    x: int


@torch.no_grad()
def episode_of(net: CuriousNet, seed: int, longest: int = 600) -> list[Instant]:
    """One episode with sampled actions, stuck limit 80."""
    torch.manual_seed(seed)
    env, episode, over = MarioEnv(), [], False
    stack = np.repeat(shrink(env.reset()[0][None]), 3, axis=0)  # [3, 42, 42]
    while not over and len(episode) < longest:
        obs = torch.from_numpy(stack)[None].float()  # [1, 3, 42, 42]
        action = net(obs)[0].sample()  # [1]
        screen, _, terminated, truncated, info = env.step(action.item())
        following = np.concatenate([stack[1:], shrink(screen[None])])
        next_obs = torch.from_numpy(following)[None].float()
        paid = net.curiosity.reward(net.view(obs), action, net.view(next_obs))
        episode.append(Instant(screen, stack, paid.item(), info["x_pos"]))
        stack, over = following, terminated or truncated
    env.close()
    return episode


# %%
def typical_and_best(net: CuriousNet, seed: int, episodes: int) -> tuple[list, list]:
    """Of several episodes the one with the median furthest x, and the one with the largest."""
    played = [episode_of(net, seed + i) for i in range(episodes)]
    played.sort(key=lambda episode: max(instant.x for instant in episode))
    return played[(episodes - 1) // 2], played[-1]


def clip_of(episode: list[Instant]) -> list[np.ndarray]:
    """Every second pixel of the screens."""
    return [instant.screen[::2, ::2] for instant in episode]


# %% tags=["C5"]
if has_mario:
    typical, best = typical_and_best(curious_net, seed=1, episodes=by_budget(smoke=1, laptop=10))
    for name, episode in {"typical": typical, "best of ten": best}.items():
        reached_x = max(instant.x for instant in episode)
        caption = f"A {name} episode: x = {reached_x}, {len(episode)} decisions."
        display(show_clip(clip_of(episode), 10, caption))

# %% [markdown]
# CAPTION_CLIPS


# %%
@torch.no_grad()
def seen_where(net: CuriousNet, stack: np.ndarray) -> np.ndarray:
    """How strongly the curiosity's second layer answers in each of 11 x 11 places: [11, 11]."""
    answers = net.curiosity.encoder[:4](net.view(torch.from_numpy(stack)[None].float()))
    return answers[0].abs().mean(0).numpy()


def instant_picture(net: CuriousNet, episode: list[Instant], t: int) -> bytes:
    """Screen, the encoder's view of it, and the trace of the surprise, as a PNG."""
    figure = Figure(figsize=(8.6, 2.6), dpi=72)
    screen, view, trace = figure.subplots(1, 3, width_ratios=(1.1, 1, 1.7))
    screen.imshow(episode[t].screen[::2, ::2])
    view.imshow(episode[t].stack[-1], cmap="gray", extent=(0, 1, 0, 1))
    view.imshow(seen_where(net, episode[t].stack), cmap="inferno", alpha=0.5, extent=(0, 1, 0, 1))
    for axes, title in ((screen, f"x = {episode[t].x}"), (view, "the encoder's view")):
        axes.set(title=title, xticks=[], yticks=[])
        axes.grid(visible=False)
    trace.plot([instant.surprise for instant in episode], linewidth=1, color=plots.INK)
    trace.axvline(t, color=plots.COLOURS[1])
    trace.set(title=f"surprise {episode[t].surprise:.2f}", xlabel="decision")
    return plots.to_png(figure)


# %% tags=["C5"]
if has_mario:
    shown = range(0, len(typical), max(1, len(typical) // 50))
    pictures = [instant_picture(curious_net, typical, t) for t in shown]
    show(scrubber(pictures, "instant"), pictures[0])

# %% [markdown]
# CAPTION_SCRUBBER
#
# The dials of the agent, live; the first thing to try is the weight of the game's own reward.

# %%
if has_mario:
    mario_panel = panel(
        train_curious, replace(curious_config, steps=8192), metric="furthest", floor=floor.mean()
    )

# %% [markdown]
# ## The source's agent: DQN with ICM
#
# The source pays a DQN. Three things are kept from it: the network; the policy, which draws from a softmax over the
# values at first and is ε-greedy later; and the moment of payment. The surprise of a stored step is computed when it is
# *drawn* from the replay, by the curiosity as it is then. A surprise of an hour ago is none any more.


# %%
@dataclass(frozen=True)
class CuriousDQNConfig:
    """DQN paid by curiosity."""

    steps: int = knob(49_152, 1024, 1_000_000, "decisions", step=1024)
    num_envs: int = knob(16, 1, 64, "emulators")
    warm_up: int = knob(2048, 128, 65_536, "decisions of random play before learning", step=128)
    capacity: int = knob(16_384, 512, 65_536, "decisions that the replay holds", step=512)
    learning_rate: float = knob(5e-4, 1e-5, 1e-2, "of Adam", step=1e-5)
    discount: float = knob(0.9, 0.0, 0.999, "gamma; the source has 0.2", step=0.001)
    temperature: float = knob(0.1, 0.01, 10.0, "of the softmax", step=0.01)
    epsilon: float = knob(0.15, 0.0, 1.0, "share of random moves, once ε-greedy", step=0.01)
    softmax_until: float = knob(
        0.5, 0.0, 1.0, "share of the run that is played by softmax", step=0.01
    )
    batch_size: int = knob(32, 8, 512, "decisions of an update", step=8)
    updates: int = knob(2, 1, 64, "updates per decision of all emulators")
    sync_every: int = knob(250, 1, 10_000, "updates between copies to the target network")
    workers: int = 2
    stuck: int = 80

    def __post_init__(self) -> None:
        check_config(self)


# %%
class CuriousQNet(nn.Module):
    """Values and a curiosity. Stacks [B, 3, 42, 42] with values to 255 -> values of the actions [B, A]."""

    def __init__(self) -> None:
        super().__init__()
        head = (nn.Linear(288, 100), nn.ELU(), nn.Linear(100, len(BUTTONS)))
        self.layers = nn.Sequential(*game_encoder()[:-1], *head)  # the source's sizes
        self.curiosity, self.pixels = make_icm(), POLICIES.Normaliser(3 * 42**2)
        self.scale = POLICIES.Normaliser(1)

    view = CuriousNet.view

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.layers(self.view(obs))


# %%
class CuriousLearner:
    """Networks, optimiser and replay of a curious DQN; steps: decisions so far."""

    def __init__(self, config: CuriousDQNConfig, seed: int, steps: int, device: str) -> None:
        torch.manual_seed(seed + steps)
        self.config, self.device, self.steps, self.updates = config, device, steps, 0
        self.net, self.replay = CuriousQNet().to(device), Replay(config.capacity)
        self.target_net = copy.deepcopy(self.net)
        self.optimiser = torch.optim.Adam(self.net.parameters(), config.learning_rate, fused=True)
        self.rng = np.random.default_rng([seed, steps])

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Random at first, then the softmax of the values, then ε-greedy. [N, 3, 42, 42] -> [N]."""
        if self.steps < self.config.warm_up:
            return self.rng.integers(len(BUTTONS), size=len(obs))
        if self.steps >= self.config.softmax_until * self.config.steps:
            return q_policy(self.net, self.config.epsilon, self.rng)(obs)
        with torch.no_grad():
            q = self.net(torch.from_numpy(obs).to(self.device).float())  # [N, A]
        return Categorical(logits=q / self.config.temperature).sample().cpu().numpy()


def q_policy(net: CuriousQNet, epsilon: float, rng: np.random.Generator) -> Policy:
    """ε-greedy in the values of a network, over all twelve actions."""

    @torch.no_grad()
    def policy(obs: np.ndarray) -> np.ndarray:
        device = next(net.parameters()).device
        greedy = net(torch.from_numpy(obs).to(device).float()).argmax(1).cpu().numpy()
        anything = rng.integers(len(BUTTONS), size=len(obs))
        return np.where(rng.random(len(obs)) < epsilon, anything, greedy)

    return policy


# %%
def curious_dqn_update(learner: CuriousLearner) -> dict[str, float]:
    """One step of gradient descent on the three losses, from a batch of the replay."""
    rows, net = learner.replay.sample(learner.config.batch_size, learner.rng), learner.net
    batch = Experience(*(torch.from_numpy(column).to(learner.device) for column in rows))
    batch = batch._replace(obs=batch.obs.float(), next_obs=batch.next_obs.float())
    seen = (net.view(batch.obs), batch.actions, net.view(batch.next_obs))
    surprise = net.curiosity.reward(*seen) * (batch.discounts > 0)  # [B]; a death pays nothing
    net.scale.show(surprise[:, None])
    unit = (net.scale.m2 / net.scale.count).sqrt().float().clamp(min=1e-8)
    rewards = (1 - learner.config.discount) * surprise / unit  # values stay near 1
    losses = {
        "q": FOUNDATIONS.dqn_loss(
            net, learner.target_net, batch._replace(rewards=rewards), huber=True
        )
    }
    losses |= net.curiosity.losses(*seen)
    learner.optimiser.zero_grad()
    sum(losses.values()).backward()
    learner.optimiser.step()
    learner.updates += 1
    if learner.updates % learner.config.sync_every == 1:
        learner.target_net.load_state_dict(net.state_dict())
    return {name: loss.item() for name, loss in losses.items()} | {
        "surprise": surprise.mean().item()
    }


# %%
def train_curious_dqn(
    config: CuriousDQNConfig, seed: int, state: dict | None = None, device: str = "cpu"
) -> Iterator[Progress]:
    """DQN on surprise (Zai and Brown 2020, chapter 8), many emulators at a time.

    state: {"steps", "recent", "net", "target_net", "optimiser", "metrics"}; a resumed run begins new games and fills
    its replay anew.
    """
    state = {"steps": 0, "recent": []} | (state or {})
    learner, n_step = (
        CuriousLearner(config, seed, state["steps"], device),
        NStep(1, config.discount),
    )
    parts = ("net", "target_net", "optimiser")
    if state["steps"]:
        for name in parts:
            getattr(learner, name).load_state_dict(as_tensors(state[name]))
    recent = deque(state["recent"], maxlen=30)
    with closing(make_mario(config)) as envs:
        stream = transitions(envs, learner.act, seed + state["steps"])
        while True:
            if state["steps"] < config.steps:
                losses = play_and_learn(learner, stream, n_step, envs, recent)
                state |= {"steps": learner.steps, "recent": [*recent]}
                state["metrics"] = {"furthest": float(np.mean(recent or [0])), **losses}
            now = lambda: copy.deepcopy(
                {**state, **{name: getattr(learner, name).state_dict() for name in parts}}
            )
            yield Progress(learner.steps, config.steps, state["metrics"], now, "decisions")
            if state["steps"] >= config.steps:
                return


# %%
REPORT = 1024  # decisions between reports


def play_and_learn(
    learner: CuriousLearner, stream: Iterator[Transition], n_step: NStep, envs: MarioEnvs, recent: deque
) -> dict[str, float]:  # fmt: skip
    """Play until ``REPORT`` decisions have been learned from; mean losses."""
    found = []
    for step in stream:
        learner.replay.add(n_step(step))
        recent.extend(envs.furthest[step.terminated | step.truncated].tolist())
        learner.steps += envs.num_envs
        if learner.steps <= learner.config.warm_up:
            learner.net.pixels.show(
                torch.from_numpy(step.obs).to(learner.device).float().flatten(1)
            )
            continue
        found += [curious_dqn_update(learner) for _ in range(learner.config.updates)]
        if len(found) * envs.num_envs >= REPORT * learner.config.updates:
            return {name: float(np.mean([each[name] for each in found])) for name in found[0]}


# %% [markdown]
# ## The collapse
#
# It does not always go well. Leave out the view, so that policy and curiosity get the plain pictures, and train
# recklessly: four times the learning rate, eight passes over each rollout, no entropy bonus. The same recklessness
# with the view shows what the view is for.


# %%
class RawNet(CuriousNet):
    """A ``CuriousNet`` that sees plain pictures."""

    def view(self, obs: torch.Tensor) -> torch.Tensor:
        return obs / 255


RECKLESS = CuriousConfig(steps=16_384, learning_rate=2e-3, epochs=8, entropy=0.0)

# %% tags=["C5"]
random_floor = np.mean([run["baselines"]["mean_reach"] for run in results.runs("C5", "icm")])
CURVES = {
    "furthest": "furthest x (pixels)",
    "entropy": "entropy of the policy (nats)",
    "forward": "forward loss",
}
figure, panels = plt.subplots(1, 3, figsize=(11.5, 3.0))
for name, label in {"hot": "with the view", "hot_raw": "plain pictures"}.items():
    for axes, (curve, title) in zip(panels, CURVES.items(), strict=True):
        POLICIES.draw_runs(axes, "C5", name, label, curve=curve)
        axes.set(title=title, xlabel="decisions (thousands)")
panels[0].axhline(random_floor, color=plots.INK, linestyle=":", label="random policy")
panels[2].set(yscale="log")
panels[0].legend(fontsize=7)
plt.show()

# %% [markdown]
# CAPTION_COLLAPSE_MARIO
#
# ## Who gets how far
#
# Everything in one figure, measured with three seeds and the same number of decisions: curiosity alone, paid to PPO and
# to the source's DQN; the game's own reward alone (the pixels gained to the right, less the ticks of the clock and a
# penalty for dying), and both; and the two cheaper curiosities. The floor is random play under the same rules.


# %%
RUNS = {
    "C5": {"icm": "PPO, ICM", "dqn_icm": "DQN, ICM"},
    "C6": {"game": "PPO, game's reward", "both": "PPO, both"},
    "C7": {"random_features": "PPO, random features", "rnd": "PPO, RND"},
}


def draw_reach(axes: Axes, row: str, names: Iterable[str]) -> None:
    """Furthest x while learning, of stored runs."""
    for name in names:
        label = next(names[name] for names in RUNS.values() if name in names)
        owner = next(row for row, names in RUNS.items() if name in names)
        POLICIES.draw_runs(axes, owner, name, label, curve="furthest")
    axes.axhline(random_floor, color=plots.INK, linestyle=":", label="random policy")
    axes.set(xlabel="decisions (thousands)")
    axes.legend(fontsize=7)


figure, panels = plt.subplots(1, 3, figsize=(11.5, 3.4), sharey=True)
for axes, row, extra in zip(panels, RUNS, ((), ("icm",), ("icm",)), strict=True):
    draw_reach(axes, row, (*extra, *RUNS[row]))
panels[0].set(ylabel="furthest x, last 30 episodes (pixels)")
plt.show()

# %% tags=["C5", "C6", "C7"]
for row, names in RUNS.items():
    for name, label in names.items():
        stored = [run["metrics"] for run in results.runs(row, name)]
        mean, best, seconds = (
            [run[key] for run in stored] for key in ("mean_reach", "best_reach", "training_seconds")
        )
        print(
            f"{label:22s} mean {np.round(mean)}, best {np.round(best)}, after {np.round(seconds)} s"
        )
print(f"{'random':22s} mean {random_floor:.0f}")

# %% [markdown]
# CAPTION_REACH
#
# ## Why the losses do not fall
#
# In supervised learning a loss that does not fall is bad news. Here it is the design: the policy looks for what the
# forward model cannot predict, and the forward model learns whatever the policy brings. Two players pull at one number
# in opposite directions.

# %% tags=["C9"]
figure, panels = plt.subplots(1, 3, figsize=(11.5, 3.0))
for name, label in RUNS["C5"].items():
    for axes, curve in zip(panels, ("forward", "inverse"), strict=False):
        POLICIES.draw_runs(axes, "C5", name, label, curve=curve)
panels[1].axhline(np.log(len(BUTTONS)), color=plots.INK, linestyle=":", label="guessing")
POLICIES.draw_runs(panels[2], "C5", "dqn_icm", "DQN: loss of the values", curve="q")
for axes, title in zip(
    panels, ("forward loss", "inverse loss (nats)", "loss of the values"), strict=True
):
    axes.set(title=title, xlabel="decisions (thousands)")
    axes.legend(fontsize=7)
plt.show()

# %% [markdown]
# CAPTION_LOSSES

# %% [markdown]
# ## Another motive: empowerment
#
# Curiosity asks "where do I not know what happens?". **Empowerment**
# [(Klyubin et al., 2005)](../book/bibliography.md#klyubin2005) asks "where could I make most things happen?". It is stated
# in Shannon's theory of communication, and the reading is literal: the agent's next $n$ actions are a *message*, the
# world is a *channel*, and the state in which it ends up is what arrives.
#
# ### How much of a message arrives
#
# A channel is a table $p(y \mid x)$: what may arrive for each message. If messages are sent with probabilities $p(x)$,
# the **mutual information** says how many bits of $x$ one can read off $y$:
#
# $$
# I(X; Y) = \sum_{x, y} p(x)\, p(y \mid x) \log_2 \frac{p(y \mid x)}{p(y)} , \qquad p(y) = \sum_x p(x)\, p(y \mid x) .
# $$
#
# It is the mean divergence of $p(y \mid x)$ from $p(y)$: how much one learns, on average, when $y$ is seen. If nothing of
# the message survives, it is 0.


# %%
def information_of_messages(inputs: torch.Tensor, channel: torch.Tensor) -> torch.Tensor:
    """D_KL(p(y|x) || p(y)) of every message, in nats. inputs: [..., X]; channel: [..., X, Y] -> [..., X]."""
    outputs = inputs[..., None, :] @ channel  # [..., 1, Y]
    log_outputs = outputs.clamp(
        min=torch.finfo(outputs.dtype).tiny
    ).log()  # 0 only where none arrives
    return torch.xlogy(channel, channel).sum(-1) - (channel @ log_outputs.mT)[..., 0]


def mutual_information(inputs: torch.Tensor, channel: torch.Tensor) -> torch.Tensor:
    """I(X; Y) in bits. inputs: [..., X], channel: [..., X, Y] -> [...]."""
    return (inputs * information_of_messages(inputs, channel)).sum(-1) / np.log(2)


# %% [markdown]
# The textbook's channel carries one bit and flips it with probability $p$: the **binary symmetric channel**. An
# unsymmetric relative, the Z-channel, flips ones only.


# %%
def symmetric_channel(flip: torch.Tensor) -> torch.Tensor:
    """flip: [...] -> channel [..., 2, 2] that flips either bit."""
    return torch.stack([1 - flip, flip, flip, 1 - flip], -1).unflatten(-1, (2, 2))


def z_channel(flip: torch.Tensor) -> torch.Tensor:
    """flip: [...] -> channel [..., 2, 2] that flips ones."""
    return torch.stack([1 + 0 * flip, 0 * flip, flip, 1 - flip], -1).unflatten(-1, (2, 2))


FLIPS = torch.tensor([0.0, 0.05, 0.1, 0.25, 0.5], dtype=torch.float64)
ones = torch.linspace(0, 1, 201, dtype=torch.float64)
inputs = torch.stack([1 - ones, ones], -1)  # [201, 2]
figure, panels = plt.subplots(1, 2, figsize=(8.6, 2.8), sharey=True)
for axes, make in zip(panels, (symmetric_channel, z_channel), strict=True):
    for flip in FLIPS:
        axes.plot(ones, mutual_information(inputs, make(flip)), label=f"p = {flip:g}")
    axes.set(xlabel="share of ones sent")
panels[0].set(title="binary symmetric channel", ylabel="bits that arrive")
panels[1].set_title("Z-channel")
panels[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# *Bits that arrive, against how often a one is sent. Without flips, a fair coin sends a whole bit; at $p = 0.5$ nothing
# arrives. In the symmetric channel the top lies at one half. In the Z-channel it moves to the left of it: ones are less
# reliable, so it pays to send fewer of them.*
#
# ### The capacity, and how to find it
#
# The top of the curve, $\max_{p(x)} I(X; Y)$, is the channel's **capacity**. For many messages the curve is a landscape,
# but a kind one (it is concave), and Blahut and Arimoto climbed it in 1972 with a rule that reads like common sense:
# *send more of what is understood.* Multiply the probability of each message by $e$ to the power of what it tells, and
# normalise:
#
# $$
# p(x) \leftarrow \frac{1}{c}\, p(x)\, e^{D(x)} , \qquad D(x) = D_{\mathrm{KL}}\big( p(y \mid x) \parallel p(y) \big) ,
# \qquad \ln c \le C \le \max_x D(x) .
# $$
#
# The normaliser $c = \sum_x p(x)\, e^{D(x)}$ and the best message bracket the capacity, so we know when to stop.


# %%
def capacity(
    channel: torch.Tensor, tolerance: float = 1e-7, limit: int = 10_000
) -> tuple[torch.Tensor, torch.Tensor]:
    """Capacities [...] in bits, and the input distributions [..., X] that reach them (Blahut 1972, Arimoto 1972).

    channel: [..., X, Y]. Stops when every capacity is known to ``tolerance`` bits, or after ``limit`` rounds.
    """
    inputs = torch.full_like(channel[..., 0], 1 / channel.shape[-2])
    for _ in range(limit):
        told = information_of_messages(inputs, channel)  # [..., X]
        inputs = inputs * told.exp()
        total = inputs.sum(-1, keepdim=True)
        inputs = inputs / total
        low, high = total[..., 0].log() / np.log(2), told.amax(-1) / np.log(2)
        if (high - low).max() < tolerance:
            break
    return low, inputs


# %% tags=["C8"]
# NBVAL_CHECK_OUTPUT
flips = torch.linspace(0, 1, 101, dtype=torch.float64)
found, _ = capacity(symmetric_channel(flips))
entropy = -(torch.xlogy(flips, flips) + torch.xlogy(1 - flips, 1 - flips)) / np.log(2)
print(f"symmetric channel: error below 1e-6: {bool((found - (1 - entropy)).abs().max() < 1e-6)}")
inner = flips[1:-1]
found, sent = capacity(z_channel(inner))
exact = torch.log2(1 + (1 - inner) * inner ** (inner / (1 - inner)))
print(f"Z-channel:         error below 1e-6: {bool((found - exact).abs().max() < 1e-6)}")
print(f"ones to send when half of them are lost: {sent[49, 1]:.3f}")

# %% [markdown]
# *All 101 channels are solved as one batch, and agree with the closed forms, $1 - H(p)$ for the symmetric channel and
# $\log_2\big(1 + (1 - p)\, p^{p / (1 - p)}\big)$ for the Z-channel. The first is too easy a test alone: there the even
# start is already the answer.*
#
# ### The power to be elsewhere
#
# Now the message is a sequence of $n$ actions and the channel is the world:
#
# $$
# \mathcal{E}_n(s) = \max_{p(a_1 \dots a_n)} I\big( A_1 \dots A_n ;\, S_{t+n} \mid s_t = s \big) .
# $$
#
# Where the world is deterministic, the capacity is plain: the logarithm of the number of cells that can be reached. A
# hall, a doorway, and a passage with dead ends:

# %%
MAZE = (
    "......#.....",
    "......#.###.",
    "......#.#...",
    "........####",
    "......#.#...",
    "......#.###.",
    "......#.....",
)
FREE = np.argwhere(np.array([list(row) for row in MAZE]) == ".")  # [C, 2]


def world_table(slip: float) -> torch.Tensor:
    """p(next cell | cell, action): [A, C, C]. With probability ``slip`` a random action is carried out instead."""
    index = {tuple(cell): i for i, cell in enumerate(FREE)}
    table = torch.zeros(len(STEPS), len(FREE), len(FREE), dtype=torch.float64)
    for a, step in enumerate(STEPS):
        for i, cell in enumerate(FREE):
            table[a, i, index.get(tuple(cell + step), i)] = 1
    return (1 - slip) * table + slip * table.mean(0)


def sequence_channel(table: torch.Tensor, length: int) -> torch.Tensor:
    """p(final cell | cell, sequence of actions): [C, A**length, C]."""
    ends = torch.eye(table.shape[-1], dtype=table.dtype)[:, None]  # [C, 1, C]
    for _ in range(length):
        ends = torch.einsum("csd,ade->csae", ends, table).flatten(1, 2)
    return ends


# %%
def empowerment(slip: float, length: int) -> torch.Tensor:
    """n-step empowerment of every cell in bits: [C]."""
    return capacity(sequence_channel(world_table(slip), length), tolerance=1e-3, limit=300)[0]


def maze_picture(values: torch.Tensor, title: str) -> bytes:
    """The maze with a number in every cell, as a PNG."""
    picture = np.full((len(MAZE), len(MAZE[0])), np.nan)
    picture[tuple(FREE.T)] = values
    figure = Figure(figsize=(5.4, 3.0), dpi=80)
    axes = figure.subplots()
    figure.colorbar(axes.imshow(picture, cmap="cividis"), ax=axes, label="bits")
    for (row, column), value in zip(FREE, values.tolist(), strict=True):
        colour = "black" if value > (values.min() + values.max()).item() / 2 else "white"
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=7, color=colour)
    axes.set(title=title, xticks=[], yticks=[])
    axes.grid(visible=False)
    return plots.to_png(figure)


# %% tags=["C8"]
lengths = by_budget(smoke=(1, 2), laptop=(1, 2, 3, 4))
maps = {
    f"n = {n}{', slippery' * (slip > 0)}": maze_picture(
        empowerment(slip, n), f"n = {n}" + f", {slip:.0%} slips" * (slip > 0)
    )
    for slip in (0.0, 0.3)
    for n in lengths
}
first = f"n = {lengths[-1]}"
show(image_slider(maps, "message", start=list(maps).index(first)), maps[first])

# %% [markdown]
# CAPTION_EMPOWERMENT
#
# The two motives differ. Curiosity is spent: once a place is known, it pays no more, and the agent moves on.
# Empowerment is a property of the place and stays, like the height of a hill; an agent that seeks it goes to the middle
# of the hall and remains there, keeping its options open. Curiosity explores; empowerment prepares.

# %% [markdown]
# ## Spot the bug: four that only make you incurious
#
# Each of the following runs without an error message.
#
# ### 1. The encoder that makes life easy
#
# Leave the two `detach` away, and train encoder and forward model together on the forward loss.


# %%
def forward_only(detach: bool, updates: int = 300) -> tuple[list[float], list[float]]:
    """Train by the forward loss on random walks; the loss, and the features' variance between cells, per update."""
    torch.manual_seed(0)
    rng, icm = np.random.default_rng(0), room_icm()
    optimiser = torch.optim.Adam(icm.parameters(), 1e-3)
    everywhere = look(np.arange(SIZE**2), np.zeros((SIZE**2, SIZE, SIZE)))
    found = []
    for _ in range(updates):
        cells, actions = rng.integers(SIZE**2, size=64), rng.integers(ROOM_ACTIONS, size=64)
        screens = rng.random((2, 64, SIZE, SIZE))
        before, after = look(cells, screens[0]), look(NEXT_CELL[cells, actions], screens[1])
        before, after, actions = icm.encoder(before), icm.encoder(after), torch.from_numpy(actions)
        predicted = icm.forward_model(torch.cat([before, F.one_hot(actions, ROOM_ACTIONS)], 1))
        loss = (predicted - after).square().mean()
        if detach:
            loss = icm.errors(before, actions, after).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            found.append((loss.item(), icm.encoder(everywhere).var(0).mean().item()))
    return tuple(zip(*found, strict=True))


# %%
figure, panels = plt.subplots(1, 2, figsize=(8.6, 2.6))
for label, detach in {"detached": True, "not detached": False}.items():
    for axes, curve in zip(panels, forward_only(detach), strict=True):
        axes.plot(curve, label=label)
panels[0].set(title="forward loss", xlabel="update", yscale="log")
panels[1].set(title="variance of the features over cells", xlabel="update", ylim=(0, None))
panels[0].legend()
plt.show()

# %% [markdown]
# *Left: forward loss, logarithmic. Right: how much the features differ between cells. Without the two `detach` the loss
# ends more than a hundred times lower, and the features of all cells become the same. The `LayerNorm` cannot prevent it: it keeps
# the 32 features of one state apart, not the states.*
#
# ### 2. Softmax, twice
#
# ```python
# y = F.softmax(self.linear2(y), dim=1)              # the last line of the inverse model
# inverse_loss = nn.CrossEntropyLoss()(y, actions)   # applies the softmax itself
# ```
#
# This is the source's inverse model. Probabilities lie between 0 and 1, so even a model that is certain, and right, hands
# over "logits" of 1 and 0. Let the right one of twelve logits lead the others by more and more:


# %%
leads = torch.linspace(0, 12, 121, requires_grad=True)
logits = F.one_hot(torch.tensor(3), 12) * leads[:, None]  # [121, 12]: the answer 3, ever surer
right = torch.full((121,), 3)
figure, panels = plt.subplots(1, 2, figsize=(8.6, 2.6))
for label, outputs in {"one softmax": logits, "two": logits.softmax(1)}.items():
    losses = F.cross_entropy(outputs, right, reduction="none")
    (slopes,) = torch.autograd.grad(losses.sum(), leads, retain_graph=True)
    panels[0].plot(leads.detach(), losses.detach(), label=label)
    panels[1].plot(leads.detach(), -slopes, label=label)
panels[0].set(xlabel="lead of the right logit", ylabel="inverse loss", ylim=(0, None))
panels[1].set(xlabel="lead of the right logit", ylabel="pull towards a larger lead")
panels[0].legend()
plt.show()
print(
    f"loss of a perfect answer after two softmaxes: {losses[-1]:.3f}, ln(e + 11) - 1 = {np.log(np.e + 11) - 1:.3f}"
)

# %% [markdown]
# *Inverse loss of the right answer among twelve (left) and minus its slope (right) against the lead of the right logit.
# With one softmax the loss falls from 2.485, a guess, to 0. With two it ends at 1.619, and the pull is a twelfth of
# what it should be where learning starts: at a guess.*
#
# ### 3. A normalisation across the wrong axis
#
# The source's networks begin with `x = F.normalize(x)`. Its default axis is 1: in `[B, 3, H, W]` these are the three
# successive frames. Every *pixel's* three values are brought to length 1.

# %%
ground = 0.2 + 0.6 * torch.linspace(0, 6, 42).sin().square() * torch.ones(42, 1)  # stands still
frames = ground.repeat(1, 3, 1, 1)  # [1, 3, 42, 42]
for frame in range(3):
    frames[0, frame, 16:26, 6 + 10 * frame : 16 + 10 * frame] = 1  # a square that moves
figure, panels = plt.subplots(1, 2, figsize=(6.4, 2.6))
for axes, picture, title in zip(
    panels, (frames, F.normalize(frames)), ("as seen", "F.normalize(x)"), strict=True
):
    drawn = axes.imshow(picture[0, 2], cmap="gray", vmin=0, vmax=1)
    axes.set(title=title, xticks=[], yticks=[])
    axes.grid(visible=False)
figure.colorbar(drawn, ax=panels, label="value")
plt.show()

# %% [markdown]
# *The newest of three frames, before and after. Where nothing has moved, the three values of a pixel are the same, and
# become $1 / \sqrt 3 \approx 0.58$ whatever they were: the ground is gone, and only the path of the square is left. Divide by
# 255 instead.*
#
# ### 4. The best of the whole batch
#
# ```python
# reward += params["gamma"] * torch.max(qvals)       # qvals: [B, 12]
# ```
#
# The source's target again. `torch.max` without an axis is one number: the best value of *any* action in *any* state of
# the batch. Here is a table that learns to reach the sofa, which pays 1, from all moves of the room as one batch.


# %%
def sofa_values(per_row: bool, sweeps: int = 300, discount: float = 0.9) -> np.ndarray:
    """Best value of each cell [7, 7] where arriving at the sofa pays 1, after Q-learning on every move at once."""
    q = np.zeros((SIZE**2, ROOM_ACTIONS))
    cells, actions = np.divmod(np.arange(q.size), ROOM_ACTIONS)  # [B]
    following = NEXT_CELL[cells, actions]
    for _ in range(sweeps):
        best = q[following].max(1) if per_row else q[following].max()
        learn_table(q, cells, actions, (following == SOFA) + discount * best, rate=0.5)
    return q.max(1).reshape(SIZE, SIZE)


# %%
figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.0))
for axes, per_row in zip(panels, (True, False), strict=True):
    values = sofa_values(per_row)
    drawn = axes.imshow(values, cmap="cividis", vmin=0, vmax=10)
    for (row, column), value in np.ndenumerate(values):
        colour = "black" if value > 5 else "white"
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=7, color=colour)
    axes.set(title="max per row" if per_row else "max over the batch", xticks=[], yticks=[])
    axes.grid(visible=False)
figure.colorbar(drawn, ax=panels, label="value of the best action")
plt.show()

# %% [markdown]
# *The value of each cell's best action after 300 sweeps. Per row, value falls by a tenth with each step away from the
# sofa, from 10 to 3.1, and a walker climbs it home. Over the batch, every move is promised the value of the sofa: the
# cells beside it show 10, all others 9, and no direction is better than another. What remains of the reward is seen one
# step ahead.*

# %% [markdown]
# ### 5. A death that is followed by a new game
#
# ```python
# for j in range(params["action_repeats"]):
#     state2, e_reward_, done, info = env.step(action)
#     if done:
#         state1 = reset_env()                       # a new game; the old state1 is gone
#         break
#     state_deque.append(prepare_state(state2))
# state2 = torch.stack(list(state_deque), dim=1)     # still the old game's pictures
# replay.add_memory(state1, action, e_reward, state2)
# ```
#
# The source's loop. Where an episode ends, the memory is told that the action led from the first picture of the *new*
# game to the last pictures of the *old* one. The other way round, from the old game into the new one, is what vector
# environments that reset by themselves hand over to those who do not look. No model of the world foresees either. Random
# play with little patience, so that many episodes end; what would the trained curiosity pay for each pairing?


# %%
@torch.no_grad()
def paid_for(
    net: CuriousNet, obs: np.ndarray, actions: np.ndarray, next_obs: np.ndarray
) -> np.ndarray:
    """What the curiosity pays for B transitions between stacks [B, 3, 42, 42]: [B]."""
    obs, next_obs = (net.view(torch.from_numpy(stacks).float()) for stacks in (obs, next_obs))
    return net.curiosity.reward(obs, torch.from_numpy(actions), next_obs).numpy()


# %%
if has_mario:
    rng, paid = np.random.default_rng(0), {}
    with closing(MarioEnvs(8, 2, shrink, stuck=by_budget(smoke=10, laptop=25))) as envs:
        play = transitions(envs, lambda obs: rng.integers(len(BUTTONS), size=len(obs)), seed=0)
        for step, later in pairwise(islice(play, by_budget(smoke=40, laptop=110))):
            done = step.terminated | step.truncated
            for kind, before, after, rows in (
                ("within an episode", step.obs, step.next_obs, ~done),
                ("its last step", step.obs, step.next_obs, done),
                ("old game to new", step.obs, later.obs, done),
                ("new game to old", later.obs, step.next_obs, done),
            ):
                found = paid_for(curious_net, before[rows], step.actions[rows], after[rows])
                paid.setdefault(kind, []).extend(found)
    figure, axes = plt.subplots(figsize=(7.2, 2.2))
    axes.boxplot([*paid.values()], orientation="horizontal", tick_labels=[*paid], whis=(0, 100))
    axes.invert_yaxis()
    axes.set(xlabel="surprise", xlim=(0, None))
    plt.show()
    print({kind: f"mean {np.mean(found):.2f} of {len(found)}" for kind, found in paid.items()})

# %% [markdown]
# CAPTION_PAIRS
#
# ### 6. Progress since just now
#
# ```python
# for j in range(params["action_repeats"]):
#     state2, e_reward_, done, info = env.step(action)
#     last_x_pos = info["x_pos"]                     # inside the loop
#     ...
# if episode_length > params["max_episode_len"]:     # 100
#     if (info["x_pos"] - last_x_pos) < params["min_progress"]:
#         done = True
#     else:
#         last_x_pos = info["x_pos"]
# ```
#
# This is meant to give up a Mario who is stuck. But `last_x_pos` is where he is *now*: his progress is always 0, and
# every episode ends at its 101st decision. Here is a Mario who walks and jumps by the clock, and is stuck nowhere.


# %%
def walk_by_the_clock(decisions: int) -> tuple[list[int], list[int]]:
    """A Mario who walks, and jumps for four decisions of ten: x after each decision, and the source's progress."""
    env, x, progress = MarioEnv(repeat=1, stuck=1000), [], []
    env.reset()
    for decision in range(decisions):
        for _ in range(6):
            *_, info = env.step(2 if decision % 10 < 4 else 1)
            last_x_pos = info["x_pos"]
        x.append(info["x_pos"])
        progress.append(info["x_pos"] - last_x_pos)
    env.close()
    return x, progress


if has_mario:
    x, progress = walk_by_the_clock(by_budget(smoke=104, laptop=136))
    figure, axes = plt.subplots(figsize=(7.2, 2.6))
    axes.plot(
        np.arange(100, len(x)) + 1, np.subtract(x[100:], x[:-100]), label="over 100 decisions"
    )
    axes.plot(np.arange(100, len(x)) + 1, np.diff(x)[99:], label="over the last decision")
    axes.plot(np.arange(len(x)) + 1, progress, label="as printed")
    axes.axhline(15, color=plots.INK, linestyle=":", label="the least to go on")
    axes.set(xlabel="decision", ylabel="progress (pixels)", yscale="symlog")
    axes.legend(fontsize=8)
    plt.show()

# %% [markdown]
# CAPTION_PROGRESS
#
# ### 7. Buttons that chance never presses
#
# ```python
# def policy(qvalues, eps=None):
#     if eps is not None:
#         if torch.rand(1) < eps:
#             return torch.randint(low=0, high=7, size=(1,))
# ```
#
# Seven is the number of actions in the package's *simple* set of buttons. The source plays with the complex one.

# %%
torch.manual_seed(0)
by_chance = torch.randint(low=0, high=7, size=(10_000,)).bincount(minlength=len(ACTIONS))
never = [name for name, count in zip(ACTIONS, by_chance, strict=True) if not count]
print("never drawn:", "; ".join(never))
to_the_right = [name.startswith("right") for name in ACTIONS]
print(
    f"to the right: {by_chance[to_the_right].sum() / 10_000:.0%} of the draws, of all twelve {np.mean(to_the_right):.0%}"
)

# %% [markdown]
# CAPTION_CHANCE
#
# ## Exercises
#
# Each has a solution that runs, folded away.
#
# **1. A Mario who remembers.** The stack of three pictures tells the agent how fast things move, and nothing that is
# older than a third of a second. The source suggests an LSTM or a GRU instead. Show the *agent* one picture at a time
# and give it a GRU; the curiosity keeps its stacks, so that only the memory is on trial. Empty the memory where an
# episode starts, learn from whole sequences, and check that all ratios are 1 before the first gradient step.


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
class CuriousGRUNet(CuriousNet):
    """``CuriousNet`` whose agent sees the newest picture and remembers. memory: [N, 256]."""

    def __init__(self, curiosity: nn.Module) -> None:
        super().__init__(curiosity)
        self.body[0] = nn.Conv2d(1, 32, 3, stride=2, padding=1)
        self.body.append(nn.GRU(256, 256))  # a part of the body, where the optimiser looks for it

    def blank(self, num_envs: int) -> torch.Tensor:
        return torch.zeros(num_envs, 256)

    def forward(
        self, obs: torch.Tensor, starts: torch.Tensor, memory: torch.Tensor
    ) -> tuple[Distribution, torch.Tensor, torch.Tensor]:
        """[T, N, 3, 42, 42], [T, N], [N, 256] -> (policy, values [T, N, 2], memory after the last step)."""
        newest = self.view(obs.flatten(0, 1))[:, -1:]  # [T * N, 1, 42, 42]
        inputs, outputs = self.body[:-1](newest).unflatten(0, starts.shape), []  # [T, N, 256]
        cuts = sorted({0, *torch.nonzero(starts.any(1)).flatten().tolist()})
        for first, last in pairwise([*cuts, len(obs)]):
            memory = memory * ~starts[first][:, None]  # an episode starts: forget
            output, memory = self.body[-1](inputs[first:last], memory[None])
            outputs.append(output)
            memory = memory[0]
        hidden = torch.cat(outputs)
        policy = Categorical(logits=self.policy(hidden), validate_args=False)
        return policy, self.value(hidden), memory


class GRUCollector(MarioCollector):
    """Rollouts with the memory they began with, from worlds that reset in the step that ends an episode."""

    def __init__(self, envs: MarioEnvs, net: CuriousGRUNet, seed: int) -> None:
        super().__init__(envs, net, seed, [])
        self.starts = torch.ones(envs.num_envs, dtype=torch.bool)
        self.memory = net.blank(envs.num_envs)

    def look(self, obs: np.ndarray, starts: torch.Tensor) -> tuple:
        obs = torch.as_tensor(obs, dtype=torch.float32)[None]  # [1, N, 3, 42, 42]
        return obs, *self.net(obs, starts[None], self.memory)

    @torch.no_grad()
    def act(self, obs: np.ndarray) -> np.ndarray:
        obs, policy, values, self.memory = self.look(obs, self.starts)
        actions = policy.sample()  # [1, N]
        self.last = (obs, actions, policy.log_prob(actions), self.starts[None], values)
        return actions[0].numpy()

    @torch.no_grad()
    def collect(self, steps: int) -> NamedTuple:
        memory, rows = self.memory, []
        for step in islice(self.stream, steps):
            done = step.terminated | step.truncated
            next_values = self.look(step.next_obs, torch.zeros_like(self.starts))[2]
            outcome = (step.rewards.astype(np.float32), step.terminated, done)
            rows.append((*self.last, next_values, *(torch.from_numpy(c)[None] for c in outcome)))
            self.note_ends(step.rewards, step.terminated, done)
            self.starts = torch.from_numpy(done)
        columns = (torch.cat(column) for column in zip(*rows, strict=True))
        *chosen, starts, values, next_values, rewards, terminated, done = columns
        rollout = POLICIES.Rollout(*chosen, rewards, values, next_values, terminated, done)
        return POLICIES.Remembered(rollout, starts, torch.ones_like(starts), memory)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
@dataclass(frozen=True)
class GRUConfig(CuriousConfig):
    steps: int = knob(8192, 512, 1_000_000, "decisions", step=512)
    horizon: int = knob(32, 8, 512, "decisions of each emulator between updates")
    minibatch: int = knob(128, 16, 1024, "decisions of a gradient step", step=16)


def improve_memory(
    net: CuriousGRUNet,
    optimiser: torch.optim.Optimizer,
    seen: NamedTuple,
    advantages: torch.Tensor,
    returns: torch.Tensor,
    config: GRUConfig,
) -> list[float]:
    """``improve_policy`` over sequences, whole emulators at a time; how far ratios were from 1 at first."""
    rollout, together = seen.steps, max(1, config.minibatch // len(seen.starts))
    off = []
    for _ in range(config.epochs):
        for envs in torch.randperm(config.num_envs).split(together):
            obs, actions, old_log_probs = (column[:-1, envs] for column in rollout[:3])
            policy, values, _ = net(obs, seen.starts[:-1, envs], seen.memory[envs])
            log_probs = policy.log_prob(actions)  # [T - 1, envs]
            off.append((log_probs - old_log_probs).exp().sub(1).abs().max().item())
            columns = (log_probs, policy.entropy(), values, old_log_probs,
                       advantages[:, envs], returns[:, envs])  # fmt: skip
            rows = (column.flatten(0, 1) for column in columns)
            loss, _ = POLICIES.ppo_loss(*rows, config, config.entropy)
            POLICIES.gradient_step(net, optimiser, loss, config.max_grad_norm)
    return off


def train_gru(config: GRUConfig, seed: int) -> Iterator[Progress]:
    """``train_curious`` with a memory; it does not resume."""
    torch.manual_seed(seed)
    with closing(make_mario(config)) as envs:
        net = CuriousGRUNet(CURIOSITIES[config.curiosity]())
        optimiser, collector = adam_for(net, config), GRUCollector(envs, net, seed)
        sums, off = torch.zeros(2, config.num_envs, dtype=torch.float64), [0.0]
        rollout_size = config.num_envs * config.horizon
        for done in range(0, config.steps, rollout_size):
            optimiser.param_groups[0]["lr"] = config.learning_rate * (1 - done / config.steps)
            seen, warming_up = (
                collector.collect(config.horizon),
                done < config.warm_up * rollout_size,
            )
            if warming_up:
                net.pixels.show(seen.steps.obs.flatten(2))
            advantages, returns = curious_advantages(net, seen.steps, sums, config)
            if not warming_up:
                off = improve_memory(net, optimiser, seen, advantages, returns, config)
            losses = improve_curiosity(net, optimiser, seen.steps, config)
            metrics = {"furthest": float(np.mean(collector.recent or [0])), "off": off[0]} | losses
            state = lambda: {"net": copy.deepcopy(net.state_dict())}
            yield Progress(done + rollout_size, config.steps, metrics, state, "decisions")


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
if has_mario:
    gru_config = by_budget(smoke=GRUConfig(steps=512, horizon=8, warm_up=1), laptop=GRUConfig())
    gru_run = watch(train_gru(gru_config, seed=1), floor=floor.mean())
    print(f"first ratios of a rollout differ from 1 by at most {gru_run['off'].max():.0e}")
# CAPTION_GRU

# %% [markdown]
# **2. When to give up.** How far an agent gets depends on how long its Mario may stand still. Draw the mean furthest $x$
# of random play and of the trained agent against that limit, from 20 decisions to 200. (One set of episodes with the
# limit 200 is enough: what happens before an episode is cut does not depend on the limit.)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
def traces_of(policy: Policy, episodes: int, seed: int, stuck: int) -> list[np.ndarray]:
    """The furthest x before and after each decision of one whole episode per emulator: [decisions + 1] each."""
    rows, over = [np.full(episodes, 40)], np.zeros(episodes, int)  # every game begins at x = 40
    with closing(MarioEnvs(episodes, 2, shrink, stuck=stuck)) as envs:
        for step in transitions(envs, policy, seed):
            rows.append(envs.furthest)
            over[(over == 0) & (step.terminated | step.truncated)] = len(rows)
            if over.all():
                return [column[:end] for column, end in zip(np.transpose(rows), over, strict=True)]


def given_up(trace: np.ndarray, limit: int) -> int:
    """The furthest x when Mario has not got further for ``limit`` decisions, or when the trace ends."""
    still = np.flatnonzero(trace[limit:] == trace[:-limit])
    return trace[still[0] if len(still) else -1]


if has_mario:
    rng, limits = np.random.default_rng(0), by_budget(smoke=(5, 10), laptop=range(20, 201, 5))
    players = {"random": lambda obs: rng.integers(len(BUTTONS), size=len(obs)),
               "trained on curiosity": POLICIES.sampled(curious_net)}  # fmt: skip
    figure, axes = plt.subplots(figsize=(7.2, 2.8))
    for label, policy in players.items():
        traces = traces_of(policy, by_budget(smoke=2, laptop=6), seed=0, stuck=limits[-1])
        means = [np.mean([given_up(trace, limit) for trace in traces]) for limit in limits]
        axes.plot(limits, means, label=label)
    axes.axvline(80, color=plots.INK, linestyle=":")
    axes.set(
        xlabel="decisions that Mario may stand still",
        ylabel="mean furthest x (pixels)",
        ylim=(0, None),
    )
    axes.legend()
    plt.show()
# CAPTION_STUCK

# %% [markdown]
# ## How the numbers were measured


# %%
def measure_room(config: RoomConfig, seed: int) -> Measured:
    """Time at the television in the second half; the baseline is the share of one cell in 49."""
    curves = {"step": [], "everywhere": []}
    for progress in train_walkers(config, seed):
        curiosity = room_curiosity(config, progress.state())
        curves["step"].append(progress.step)
        curves["everywhere"].append(curiosity.reward(*every_move()).mean().item())
        for name, value in progress.metrics.items():
            curves.setdefault(name, []).append(value)
    share = time_at_tv(progress.state())
    found = {"time_at_tv": share, named("time_at_tv", config.curiosity): share}
    if isinstance(curiosity, Surprise):
        found["noise"] = noise_in_features(curiosity.encoder)
    return Measured(found, dict.fromkeys(found.keys() - {"noise"}, EVENLY), curves)


THREE = (1, 2, 3)
MEASUREMENTS = [
    Measurement("C2", named("room", kind), measure_room, RoomConfig(kind), THREE, (
        Metric(named("time_at_tv", kind), "share of the time"),))
    for kind in ("pixels", "ICM", "random features", "RND")
]  # fmt: skip
MEASUREMENTS += [
    Measurement("C2", "room_ICM_remote", measure_room, RoomConfig(remote=True), THREE),
    Measurement("C2", "room_ICM_random_walk", measure_room, RoomConfig(epsilon=1.0), THREE),
]
SHOWN = ("C3", "C8")

# %% [markdown]
# ## How the numbers were measured
#
# Each run of Mario trains for 49,152 decisions, and is then scored on 20 fresh episodes, one in each of 20 emulators,
# stuck limit 80. Nothing is selected: the agent is what the last update left. PPO's actions are sampled, DQN's are
# ε-greedy with the ε of its training. The random floor of each seed is the mean of 20 random episodes under the same
# rules. Seconds are those of the training, emulators and start of the processes included.


# %%
def measure_reach(train: Callable, policy_of: Callable, config: object, seed: int) -> Measured:
    """Train Mario, then score fresh episodes. policy_of(weights) -> the policy to score."""
    progress, curves = POLICIES.follow(train(config, seed))
    weights = progress.state()["net"]
    reach = score(policy_of(weights), seed)
    found = {
        "mean_reach": reach.mean(), "best_reach": reach.max(), "median_reach": np.median(reach),
        "training_seconds": curves["seconds"][-1],
    }  # fmt: skip
    floor = {"mean_reach": random_reach(20, SCORING + seed).mean()}
    return Measured(found, floor, curves, {"net": weights})


def clip_bytes(frames: list[np.ndarray]) -> np.ndarray:
    """A clip as the bytes of its file: [bytes]."""
    with TemporaryDirectory() as folder:
        save_clip(Path(folder) / "clip.mp4", frames, fps=10)
        return np.frombuffer((Path(folder) / "clip.mp4").read_bytes(), np.uint8).copy()


def measure_curious(config: CuriousConfig, seed: int) -> Measured:
    """PPO; keeps weights and a clip of a typical episode for readers without an emulator."""
    net_of = lambda weights: curious_net_of(weights, config.curiosity)
    found = measure_reach(train_curious, lambda w: POLICIES.sampled(net_of(w)), config, seed)
    typical, _ = typical_and_best(net_of(found.state["net"]), seed, episodes=9)
    return replace(found, state=found.state | {"clip": clip_bytes(clip_of(typical))})


def measure_other(config: CuriousConfig, seed: int) -> Measured:
    """PPO, without a checkpoint."""
    policy_of = lambda weights: POLICIES.sampled(curious_net_of(weights, config.curiosity))
    return replace(measure_reach(train_curious, policy_of, config, seed), state=None)


def measure_reckless(
    make_net: Callable[[nn.Module], CuriousNet], config: CuriousConfig, seed: int
) -> Measured:
    """The curves of a training, unscored."""
    progress, curves = POLICIES.follow(train_curious(config, seed, make_net=make_net))
    return Measured({"mean_reach": progress.metrics["furthest"]}, {}, curves)


# %%
def q_net_of(weights: dict) -> CuriousQNet:
    net = CuriousQNet()
    net.load_state_dict(as_tensors(weights))
    return net


def measure_dqn(config: CuriousDQNConfig, seed: int) -> Measured:
    """DQN, without a checkpoint."""
    rng = np.random.default_rng(SCORING + seed)
    policy_of = lambda weights: q_policy(q_net_of(weights), config.epsilon, rng)
    return replace(measure_reach(train_curious_dqn, policy_of, config, seed), state=None)


# %%
THREE = (1, 2, 3)
HEADLINE = (
    "Mario on curiosity alone: furthest x {C5.mean_reach} on average after {C5.training_seconds} s"
)
REACH = (
    Metric("mean_reach", "pixels", "mean", "jumps a pit"),
    Metric("best_reach", "pixels", "mean"),
    Metric("training_seconds", "s", "median", "30 min"),
)
MEASUREMENTS = [
    Measurement("C5", "icm", measure_curious, CuriousConfig(), THREE, REACH),
    Measurement("C5", "hot", partial(measure_reckless, CuriousNet), RECKLESS, THREE),
    Measurement("C5", "hot_raw", partial(measure_reckless, RawNet), RECKLESS, THREE),
    Measurement("C5", "dqn_icm", measure_dqn, CuriousDQNConfig(), THREE),
    Measurement("C6", "game", measure_other, CuriousConfig(intrinsic=0.0, extrinsic=1.0), THREE),
    Measurement("C6", "both", measure_other, CuriousConfig(extrinsic=1.0), THREE),
    Measurement("C7", "random_features", measure_other, CuriousConfig("random features"), THREE),
    Measurement("C7", "rnd", measure_other, CuriousConfig("RND"), THREE),
]
SHOWN = ("C3", "C4", "C8", "C9")
