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
# # 04b · Mean field: thousands of spins, one network, exact physics
#
# <!-- card: Mean-field Q-learning on lattices of spins: the learned policy finds Onsager's critical temperature. -->
#
# **What you will build.** A hundred spins that share one network, know only what their neighbours do on average, and
# align. Then a policy that is right enough to do physics: lattices of up to 64 × 64 agents, a slider for their
# temperature, and the learned policy's magnetisation and energy beside Onsager's exact solution. The same functions then
# take you to three dimensions.
#
# | | |
# |---|---|
# | **You need** | [Chapter 04](ch04_multi_agent.ipynb): the joint action of neighbours, and why sweeps go in turn. |
# | **Time** | About a minute for all cells on two free cores. The first result is there within seconds. |
# | **Memory** | About 1 GB. No GPU. |
# | **Budget** | `RLBOOK_BUDGET` is `laptop` unless you set it; the next cell shows it. |
#
# The chapter accompanies chapter 9 of [Zai and Brown (2020)](../book/bibliography.md#zai2020), section 9.4. Its systems
# are rebuilt here from scratch and measured over several seeds; where the printed code goes wrong, you will see the
# symptom.

# %%
import copy
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import NamedTuple

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from scipy.special import ellipk
from torch import nn
from torch.nn import functional as F

from rlbook_utils import plots, results
from rlbook_utils.checkpoint import as_tensors
from rlbook_utils.config import budget, by_budget, check_config, choice, knob
from rlbook_utils.definitions import load_chapter
from rlbook_utils.exercises import check
from rlbook_utils.results import Measured, Measurement, Metric
from rlbook_utils.rollout import spread
from rlbook_utils.run import Progress, watch
from rlbook_utils.video import show_clip
from rlbook_utils.widgets import image_slider, scrubber, show

plots.use_style()

# %% tags=["remove-stderr"]
versions = f"torch {torch.__version__} · numpy {np.__version__}"
print(f"budget {budget()} · {results.cores()} cores · {versions}")

# %% [markdown]
# ## The mean field: all the neighbours as one
#
# On a ring an agent has two neighbours, and their joint action four entries. On a square lattice eight cells touch an
# agent's own, and the joint action has $2^8 = 256$ entries, all but one of them 0; in three dimensions 26 cells touch
# it, and there are $2^{26} = 67{,}108{,}864$ entries. What of all this does an agent need to know?
#
# The **mean field** answers: only how many of its neighbours do what. [Yang et al.
# (2018)](../book/bibliography.md#yang2018) replace the joint action of the $N$ neighbours $k$ of agent $j$ by its mean,
#
# $$
# \bar a^{\,j} = \frac{1}{N} \sum_{k} a^k ,
# \qquad
# Q(s, a^j, \boldsymbol a^{-j}) \approx Q(s, a^j, \bar a^{\,j}) .
# $$
#
# Each $a^k$ is one-hot, so $\bar a^{\,j}$ is the share of neighbours that take each action: two numbers for spins,
# however many neighbours there are.


# %%
def steps_to_neighbours(kind: str, dims: int) -> tuple[tuple[int, ...], ...]:
    """Steps from a cell to its neighbours: all that "touch" it, or only those that share a "face" with it."""
    around = [step for step in product((-1, 0, 1), repeat=dims) if any(step)]
    return tuple(step for step in around if kind == "touch" or np.abs(step).sum() == 1)


def sum_of_neighbours(spins: torch.Tensor, neighbours: tuple) -> torch.Tensor:
    """The sum of every spin's neighbours, opposite edges joined: [..., *shape] int8 -> the same."""
    total = torch.zeros_like(spins)
    for step in neighbours:
        moved = [(-by, axis - len(step)) for axis, by in enumerate(step) if by]
        total += spins.roll(*zip(*moved, strict=True))
    return total


def mean_action(spins: torch.Tensor, neighbours: tuple) -> torch.Tensor:
    """The share of every spin's neighbours that are down, and up: [..., *shape] -> [..., *shape, 2]."""
    up = (1 + sum_of_neighbours(spins, neighbours) / len(neighbours)) / 2
    return torch.stack([1 - up, up], -1)


def as_spins(actions: torch.Tensor) -> torch.Tensor:
    """Actions 0 and 1 as spins -1 and +1, in one byte each."""
    return (2 * actions - 1).to(torch.int8)


def random_spins(*shape: int, rng: torch.Generator) -> torch.Tensor:
    """Spins of -1 and +1 with even chances: int8, on the generator's device."""
    return as_spins(torch.randint(2, shape, generator=rng, device=rng.device, dtype=torch.int8))


# %%
SPIN_COLOURS = ListedColormap(["#D7DEE4", "#FFFFFF00", plots.COLOURS[0]])  # as on the ring


def draw_spins(axes: Axes, spins: np.ndarray, title: str = "") -> None:
    """A square lattice of spins [L, L]: down pale, up blue."""
    axes.imshow(spins, cmap=SPIN_COLOURS, vmin=-1, vmax=1, interpolation="nearest")
    axes.set_title(title)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set(visible=True, color=plots.INK, linewidth=0.6)


# %% tags=["M4", "hide-input"]
TOUCHING = steps_to_neighbours("touch", 2)
spins = random_spins(10, 10, rng=torch.Generator().manual_seed(5))
means = mean_action(spins, TOUCHING)
row, column = 4, 5
seen = [int(spins[row + i, column + j] > 0) for i, j in TOUCHING]
figure, (lattice, joint, mean) = plt.subplots(1, 3, figsize=(8, 2.9), width_ratios=(1, 1, 0.5))
draw_spins(lattice, spins.numpy(), "an agent among eight")
box = {"facecolor": "none", "linewidth": 2.5}
lattice.add_patch(plt.Rectangle((column - 1.5, row - 1.5), 3, 3, edgecolor="black", **box))
lattice.add_patch(plt.Rectangle((column - 0.5, row - 0.5), 1, 1, edgecolor=plots.COLOURS[1], **box))
entries = np.zeros(256)
entries[int("".join(map(str, seen)), 2)] = 1
joint.imshow(entries.reshape(16, 16), cmap=ListedColormap(["#FFFFFF00", plots.COLOURS[0]]))
joint.set(title="joint action: 256 entries", xticks=[], yticks=[])
joint.set_xticks(np.arange(17) - 0.5, minor=True)
joint.set_yticks(np.arange(17) - 0.5, minor=True)
joint.grid(which="minor")
joint.spines[:].set(visible=True, color=plots.INK, linewidth=0.6)
joint.tick_params(which="minor", length=0)
look = {"color": [SPIN_COLOURS(0.0), SPIN_COLOURS(1.0)], "edgecolor": plots.INK}
mean.bar(["down", "up"], means[row, column], width=0.7, **look)
mean.set(title="mean action: 2", ylim=(0, 1))
plt.show()

# %% [markdown]
# *Left: a lattice of spins, blue for up, with an agent (orange frame) and the eight that touch it (black frame).
# Middle: their joint action, one entry in 256, drawn as a square of 16 × 16. Right: their mean action, the share of
# neighbours that are down and up.*
#
# What is lost is *which* neighbour does what. Whether that matters is a question about the reward. Here it does not:
# the source pays an agent for the share of neighbours that do as it does,
#
# $$
# r = \tanh\!\big( 5\, (\bar a_a - \tfrac12) \big) ,
# $$
#
# and the 256 joint actions fall into nine classes with one reward each. In a battle, where it
# matters who stands where, it would be an approximation. (The source prints $\sum a \cdot (\bar a - a/2)$ over
# $\sum a$ for a one-hot $a$, which is $\bar a_a - \frac12$.)
#
# Physicists pay spins with energy. In the model of Ising an agent with spin $s$ and $N$ neighbours $s_k$ has
#
# $$
# r = \tfrac12\, s \sum_k s_k = N\, (\bar a_a - \tfrac12) ,
# $$
#
# which is *minus* its energy, if half of each bond belongs to either end: the mean reward is minus the energy per spin.
# The first reward will show that the method works; the second will let us hold it against an exact solution.


# %%
def reward_of(kind: str, actions: torch.Tensor, means: torch.Tensor, count: int) -> torch.Tensor:
    """What every agent earns for an action [...] among ``count`` neighbours of mean action [..., 2]: [...].

    kind: "source" for tanh(5 (ā_a - 1/2)), "energy" for half its spin times the sum of its neighbours.
    """
    excess = means.gather(-1, actions[..., None])[..., 0] - 0.5
    return torch.tanh(5 * excess) if kind == "source" else count * excess


def mean_actions(count: int) -> torch.Tensor:
    """The mean actions that ``count`` neighbours can have: [count + 1, 2]."""
    up = torch.arange(count + 1) / count
    return torch.stack([1 - up, up], -1)


def rewards_of_both(kind: str, means: torch.Tensor, count: int) -> torch.Tensor:
    """The rewards of down and up beside each other: [..., 2]."""
    down = torch.zeros(means.shape[:-1], dtype=torch.long, device=means.device)
    return torch.stack([reward_of(kind, a, means, count) for a in (down, down + 1)], -1)


# %% [markdown]
# The agents share one network, $\bar a \to 10 \to Q$, as they all want the same. They play a **Boltzmann policy**: the
# better an action, the more often it is taken, and the temperature $\tau$ says how much more,
#
# $$
# \pi(a \mid \bar a) = \frac{e^{Q(\bar a, a) / \tau}}{\sum_{a'} e^{Q(\bar a, a') / \tau}} .
# $$
#
# As $\tau \to 0$ it turns greedy, as $\tau \to \infty$ it tosses a coin. In the code `copies` lattices with a network
# each stand side by side, as `S` seeds did on the ring.


# %%
class MeanFieldQ(nn.Module):
    """S shared networks side by side: mean actions [S, ..., 2] -> values of down and up [S, ..., 2]."""

    def __init__(self, copies: int, hidden: int, rng: torch.Generator) -> None:
        super().__init__()

        def weights(rows: int, columns: int, inputs: int) -> nn.Parameter:
            drawn = torch.rand(copies, rows, columns, generator=rng, device=rng.device)
            return nn.Parameter((2 * drawn - 1) / inputs**0.5)

        self.first, self.first_bias = weights(2, hidden, 2), weights(1, hidden, 2)
        self.last, self.last_bias = weights(hidden, 2, hidden), weights(1, 2, hidden)

    def forward(self, means: torch.Tensor) -> torch.Tensor:
        rows = means.flatten(1, -2)  # [S, M, 2]
        hidden = F.elu(torch.baddbmm(self.first_bias, rows, self.first))
        return torch.baddbmm(self.last_bias, hidden, self.last).view(means.shape)


def boltzmann(q_values: torch.Tensor, temperature: float, rng: torch.Generator) -> torch.Tensor:
    """Actions drawn from the softmax of values over temperature: [..., A] -> [...]."""
    shares = torch.softmax(q_values / temperature, -1).cumsum(-1)[..., :-1]
    drawn = torch.rand(*q_values.shape[:-1], 1, generator=rng, device=rng.device)
    return (drawn > shares).sum(-1)


# %% tags=["hide-input"]
figure, (earned, chance) = plt.subplots(1, 2, figsize=(9.5, 2.7))
both = rewards_of_both("source", mean_actions(8), 8)
for action, label in enumerate(("down", "up")):
    colour = (plots.INK, plots.COLOURS[0])[action]
    earned.plot(np.arange(9), both[:, action], "o-", color=colour, label=label)
for temperature in (0.1, 0.5, 2.0, 5.0):
    up = torch.softmax(both / temperature, -1)[:, 1]
    chance.plot(np.arange(9), up, "o-", markersize=4, label=f"τ = {temperature:g}")
earned.set(xlabel="neighbours that are up", ylabel="reward")
chance.set(xlabel="neighbours that are up", ylabel="chance of up")
earned.legend()
chance.legend(fontsize=8)
plt.show()

# %% [markdown]
# *Left: the source's reward of both actions for the nine mean actions of eight neighbours. Right: the Boltzmann policy
# that takes these rewards for values, at four temperatures.*
#
# A round of learning goes as follows. Nobody knows what the others will do, so all look at what they did last, choose
# at once, and look again: three **sweeps**, after which the choice counts. Each agent is paid for its action among the
# mean action it answered, and all agents' experience enters a replay, from which the shared network learns with
#
# $$
# y = r + \gamma \max_{a'} Q(\bar a', a') ,
# $$
#
# where $\bar a'$ is what the neighbours have chosen in the same round. (The maximum is the source's, which takes it at
# the mean action before that choice. Yang et al. have the expectation of $Q$ under the Boltzmann policy in its place;
# so has [chapter 04c](ch04c_battle.ipynb). With a discount of 0, as in all the physics below, the three are the same.)


# %%
TEACHERS = ("rewards", "shuffled", "nobody")


@dataclass(frozen=True)
class MeanFieldConfig:
    """Mean-field Q-learning on a lattice; the defaults are the source's experiment, with Adam and a replay that forgets nothing."""

    rounds: int = knob(75, 1, 300, "rounds in which all agents act and learn")
    temperature: float = knob(0.5, 0.05, 20.0, "of the Boltzmann policy that plays")
    discount: float = knob(0.9, 0.0, 0.95, "gamma")
    learning_rate: float = knob(0.01, 0.001, 0.1, "of Adam at the start; falls to 0", step=0.001)
    sweeps: int = knob(3, 1, 10, "times that all choose before a choice counts")
    side: int = knob(10, 3, 64, "cells along an edge")
    dims: int = knob(2, 1, 4, "axes of the lattice")
    neighbours: str = choice("touch", ("touch", "face"))
    reward: str = choice("source", ("source", "energy"))
    teacher: str = choice("rewards", TEACHERS)
    copies: int = knob(10, 1, 1000, "lattices side by side, each with a network of its own")

    def __post_init__(self) -> None:
        check_config(self)


HIDDEN, WARM_UP = 10, 10  # hidden units; rounds before learning begins
BATCH, UPDATES = 10, 10  # rounds in a batch; updates a round
LEARNING, RULING, SAMPLING = 40, 41, 42  # what a seed's random numbers are for: each use its own

# %% [markdown]
# `teacher` holds two controls: networks that learn from rewards dealt out to the wrong agents, and networks that learn
# nothing. Neither should find order.


# %%
class Round(NamedTuple):
    """A round of all agents. means, next_means: [S, ..., 2]. actions, rewards: [S, ...]."""

    means: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    next_means: torch.Tensor


def play_round(
    values: Callable, spins: torch.Tensor, config: MeanFieldConfig, rng: torch.Generator
) -> tuple[Round, torch.Tensor]:
    """All agents look and choose, ``sweeps`` times: the round, and the spins after it. values: means -> Q."""
    neighbours = steps_to_neighbours(config.neighbours, config.dims)
    for _ in range(config.sweeps):
        means = mean_action(spins, neighbours)
        actions = boltzmann(values(means), config.temperature, rng)
        spins = as_spins(actions)
    rewards = reward_of(config.reward, actions, means, len(neighbours))
    return Round(means, actions, rewards, mean_action(spins, neighbours)), spins


def mean_field_losses(net: nn.Module, played: Round, discount: float) -> torch.Tensor:
    """The mean squared TD error of each copy: [S]."""
    with torch.no_grad():
        targets = played.rewards + discount * net(played.next_means).max(-1).values
    chosen = net(played.means).gather(-1, played.actions[..., None])[..., 0]
    return (chosen - targets).square().flatten(1).mean(1)


def aligned(spins: torch.Tensor) -> torch.Tensor:
    """Percent of a copy's spins that point the way of its majority: [B, *shape] -> [B]."""
    return 50 * (1 + spins.float().flatten(1).mean(1).abs())


# %% tags=["hide-input"]
spins = random_spins(1, 10, 10, rng=torch.Generator().manual_seed(1))
rng = torch.Generator().manual_seed(2)
known = lambda means: rewards_of_both("source", means, 8)
figure, panels = plt.subplots(1, 4, figsize=(9.5, 2.4))
draw_spins(panels[0], spins[0].numpy(), "what they did last")
for number, axes in enumerate(panels[1:], 1):
    _, spins = play_round(known, spins, MeanFieldConfig(sweeps=1, copies=1), rng)
    draw_spins(axes, spins[0].numpy(), f"sweep {number}")
plt.show()

# %% [markdown]
# *A round of agents that know the rewards, at τ = 0.5: a random start, and three sweeps. The neighbours that an agent
# answers in the last one are hardly random any more.*


# %%
def train_mean_field(
    config: MeanFieldConfig, seed: int, state: dict | None = None, device: str = "cpu"
) -> Iterator[Progress]:
    """Mean-field Q-learning after Yang et al. (2018), with a maximum in the target, on ``copies`` lattices, a network each.

    state: {"round", "spins", "net", "optimiser", "replay", "random", "metrics"}.
    """
    rng = torch.Generator(device).manual_seed(spread((LEARNING, seed), 1)[0])
    net = MeanFieldQ(config.copies, HIDDEN, rng)
    optimiser = torch.optim.Adam(net.parameters(), config.learning_rate)
    replay: deque[Round] = deque()
    spins = random_spins(config.copies, *[config.side] * config.dims, rng=rng)
    state = {"round": 0} if state is None else {**state}
    if state["round"]:
        spins = torch.as_tensor(state["spins"]).to(device)
        net.load_state_dict(as_tensors(state["net"]))
        optimiser.load_state_dict(as_tensors(state["optimiser"]))
        replay.extend(Round(*(torch.as_tensor(c).to(device) for c in m)) for m in state["replay"])
        rng.set_state(torch.as_tensor(state["random"]))
    while True:
        if state["round"] < config.rounds:
            with torch.no_grad():
                played, spins = play_round(net, spins, config, rng)
            replay.append(taught_by(config.teacher, played, rng))
            remaining = 1 - state["round"] / config.rounds
            optimiser.param_groups[0]["lr"] = config.learning_rate * remaining
            loss = learn_from(net, optimiser, replay, config, rng)
            state["metrics"] = {"aligned": aligned(spins).mean().item(), "loss": loss}
            state["round"] += 1
        now = partial(copy.deepcopy, mean_field_state(state, spins, net, optimiser, replay, rng))
        yield Progress(state["round"], config.rounds, state["metrics"], now, "round")
        if state["round"] >= config.rounds:
            return


# %%
def taught_by(teacher: str, played: Round, rng: torch.Generator) -> Round:
    """The round as the teacher tells it: as it was, or with each copy's rewards dealt out anew."""
    if teacher != "shuffled":
        return played
    rewards = played.rewards.flatten(1)  # [S, N]
    order = torch.rand(rewards.shape, generator=rng, device=rng.device).argsort(1)
    return played._replace(rewards=rewards.gather(1, order).view(played.rewards.shape))


def learn_from(
    net: nn.Module,
    optimiser: torch.optim.Optimizer,
    replay: Sequence[Round],
    config: MeanFieldConfig,
    rng: torch.Generator,
) -> float:
    """Some updates on rounds drawn from the replay; the mean loss of the last, nan before the first."""
    if config.teacher == "nobody" or len(replay) <= WARM_UP:
        return float("nan")
    drawn = torch.randint(len(replay), (BATCH,), generator=rng, device=rng.device).tolist()
    batch = Round(
        *(torch.stack(column, 1) for column in zip(*(replay[i] for i in drawn), strict=True))
    )
    for _ in range(UPDATES):
        losses = mean_field_losses(net, batch, config.discount)  # [S]
        optimiser.zero_grad()
        losses.sum().backward()
        optimiser.step()
    return losses.mean().item()


# %% tags=["hide-input"]
net, rng = MeanFieldQ(1, HIDDEN, torch.Generator().manual_seed(6)), torch.Generator().manual_seed(2)
with torch.no_grad():
    played, _ = play_round(net, random_spins(1, 10, 10, rng=rng), MeanFieldConfig(sweeps=1), rng)
    both, chosen = (
        net(mean_actions(8)[None])[0],
        net(played.means).gather(-1, played.actions[..., None]),
    )
    targets = played.rewards + 0.9 * net(played.next_means).max(-1).values
figure, axes = plt.subplots(figsize=(7.2, 2.8))
for action, label in enumerate(("down", "up")):
    colour = (plots.INK, plots.COLOURS[0])[action]
    axes.plot(np.arange(9), both[:, action], color=colour, label=f"Q of {label}")
for agent in range(0, 100, 11):
    cell = (0, agent // 10, agent % 10)
    ups, target = 8 * played.means[cell][1].item(), targets[cell].item()
    colour = (plots.INK, plots.COLOURS[0])[played.actions[cell]]
    arrow = {"arrowstyle": "->", "color": colour}
    axes.annotate("", (ups, target), (ups, chosen[cell].item()), arrowprops=arrow)
    axes.plot(ups, target, "o", color=colour, markersize=3)
axes.set(xlabel="neighbours that are up", ylabel="value")
axes.legend()
plt.show()

# %% [markdown]
# *One update, before the first step: an untrained network's two values (lines), and what ten agents of one round ask of
# it (some of them the same). Each pulls the value of what it did, among the neighbours that it answered, towards its
# target (arrows); the other action gets no target.*


# %% tags=["hide-input"]
def mean_field_state(
    state: dict,
    spins: torch.Tensor,
    net: nn.Module,
    optimiser: torch.optim.Optimizer,
    replay: Sequence[Round],
    rng: torch.Generator,
) -> dict:
    """What a run continues from, as it is now. (Spins and rounds are never changed in place.)"""
    learned = copy.deepcopy({"net": net.state_dict(), "optimiser": optimiser.state_dict()})
    rest = {"spins": spins, "replay": [tuple(r) for r in replay], "random": rng.get_state()}
    return {**state, **learned, **rest}


def mean_field_net(weights: dict) -> MeanFieldQ:
    """Networks with stored weights."""
    weights = as_tensors(weights)
    net = MeanFieldQ(len(weights["first"]), HIDDEN, torch.Generator(weights["first"].device))
    net.load_state_dict(weights)
    return net


# %% [markdown]
# Ten lattices of $10 \times 10$ agents, each with a network of its own, learn side by side:

# %% tags=["M4"]
snapshots = {}


def remember_spins(progresses: Iterator[Progress]) -> Iterator[Progress]:
    for progress in progresses:
        if progress.step in (WARM_UP, WARM_UP + 3):
            snapshots[progress.step] = progress.state()["spins"]
        yield progress


source_config = by_budget(MeanFieldConfig(rounds=20), MeanFieldConfig())
source_run = watch(remember_spins(train_mean_field(source_config, seed=1)), "aligned")
shares = aligned(source_run.state["spins"])
print("spins of 100 that point one way:", shares.int().tolist())

# %% tags=["hide-input"]
snapshots[source_run.steps[-1]] = source_run.state["spins"]
figure, panels = plt.subplots(1, len(snapshots), figsize=(2.4 * len(snapshots), 2.6), squeeze=False)
for axes, (step, spins) in zip(panels[0], snapshots.items(), strict=True):
    draw_spins(axes, spins[0].cpu().numpy(), f"round {step}")
plt.show()

# %% [markdown]
# *Top: percent of spins that point the way of their lattice's majority, mean of the ten lattices, live; the networks
# start to learn after ten rounds. Bottom: the first of the lattices when learning begins, three rounds later, and at the
# end.*
#
# What is a fair measure of this? Random spins are not at 50 %: a hundred coins show 54 of one side on average. And
# agreement alone can be had for nothing: "always up" aligns all hundred without a look at anybody. So 100 is the floor,
# and no learner can beat it; the question is whether the agents *follow*, and the next section asks it. A floor that
# favours no direction knows the reward: it plays the same Boltzmann policy with the rewards themselves in the place of
# $Q$, a *noisy majority*. At this temperature it errs once in fifty even among neighbours that all agree.


# %%
def play_rule(config: MeanFieldConfig, seed: int, scale: float = 1.0) -> Iterator[torch.Tensor]:
    """The noisy majority, which plays the rewards, times ``scale``, as values: every round's spins [S, *shape]."""
    rng = torch.Generator().manual_seed(spread((RULING, seed), 1)[0])
    spins = random_spins(config.copies, *[config.side] * config.dims, rng=rng)
    count = len(steps_to_neighbours(config.neighbours, config.dims))
    rule = lambda means: scale * rewards_of_both(config.reward, means, count)
    for _ in range(config.rounds):
        _, spins = play_round(rule, spins, config, rng)
        yield spins


# %% tags=["hide-input"]
LEARNERS = {"rewards": "learned", "shuffled": "rewards shuffled", "nobody": "untrained"}
lines = {label: results.curves("M4", "mean_field", name) for name, label in LEARNERS.items()}
lines["learned, discount 0"] = results.curves("M4", "myopic", "rewards")
lines["noisy majority"] = results.curves("M4", "mean_field", "rule")
figure, (curves, late) = plt.subplots(1, 2, figsize=(9.5, 3.8), width_ratios=(1.7, 1))
shown = ["learned", "learned, discount 0", "noisy majority"]
for number, (label, stored) in enumerate(lines.items()):
    colour, ends = plots.COLOURS[number], stored[:, -20:].mean(1)
    plots.bands(
        curves, np.arange(1, stored.shape[1] + 1), stored, label, linewidth=1.5, color=colour
    )
    if label in shown:
        row = np.full(len(ends), shown.index(label))
        late.plot(ends, row, "o", color=colour, markersize=4, alpha=0.6)
        late.plot(np.median(ends), row[0], "|", color=colour, markersize=18, markeredgewidth=2)
curves.set(xlabel="round", ylabel="aligned spins (%)", ylim=(50, 101))
late.axvline(100, linestyle=":", color=plots.INK)
late.set(
    xlim=(93.5, 100.5), ylim=(2.5, -0.5), xlabel="last 20 rounds (%)", title="dotted: always up"
)
late.set_yticks(range(3), ["learned", "discount 0", "majority"])
figure.legend(loc="outside lower center", ncols=3, fontsize=8)
plt.show()

# %% [markdown]
# *Left: each seed (ten lattices) as a thin line, their mean and its 95 % interval. Right: means of the last twenty
# rounds, a dot for each seed, their median as a bar.* Every seed's learned policy keeps more than 98 of 100 spins
# aligned over its last twenty rounds (the source's figure shows three of 100 left over). Without rewards, or with
# rewards dealt out to the wrong agents, it finds no order: untrained networks stand at 66, as each prefers one
# direction a little for no reason, and shuffled rewards take even that away, down to 55. The medians over seeds are
# 99.3 for the learned policy, 98.7 with a discount of 0 and 98.0 for the noisy majority, one seed of which ends at
# 94.0. That it beats a majority that knows the rewards is suspicious.
# <!-- held: mean_field_aligns -->
#
# ### What it knows, and what it only thinks
#
# The spins are aligned; are the values right? The reward of both actions is known for all nine mean actions, so the
# difference of the two values, which is all that the policy uses, can be checked. (In exact values the discount has no
# part in it: what the neighbours have just chosen is the same whatever the agent itself chose, so it adds the same to
# both actions.)


# %%
def advantages_of_up(net: MeanFieldQ, count: int) -> torch.Tensor:
    """How much better up is than down, by each network and mean action: [S, count + 1]."""
    means = mean_actions(count).to(net.first.device)
    q_values = net(means.expand(len(net.first), *means.shape)).detach()
    return q_values[..., 1] - q_values[..., 0]


def follows(advantages: torch.Tensor) -> torch.Tensor:
    """Which tables go with their neighbours both ways, down where all are down and up where all are up: [S]."""
    return (advantages[:, 0] < 0) & (advantages[:, -1] > 0)


def ends_of(state: dict, starts: torch.Tensor, config: MeanFieldConfig, seed: int) -> torch.Tensor:
    """Where lattices end thirty rounds after ``starts``: mean spin, above 0 for the way of their training: [S]."""
    net, rng = mean_field_net(state["net"]), torch.Generator().manual_seed(seed)
    spins, way = starts, torch.as_tensor(state["spins"]).float().flatten(1).mean(1).sign()
    with torch.no_grad():
        for _ in range(30):
            _, spins = play_round(net, spins, config, rng)
    return way * spins.float().flatten(1).mean(1)


def stays_turned(state: dict, config: MeanFieldConfig, seed: int) -> torch.Tensor:
    """Which lattices, all spins set against the way of their training, still point so after thirty rounds: [S]."""
    way = torch.as_tensor(state["spins"]).float().flatten(1).mean(1).sign().to(torch.int8)
    against = -way[:, None, None] * torch.ones_like(torch.as_tensor(state["spins"]))
    return ends_of(state, against, config, seed) < -0.8


# %%
HOT = MeanFieldConfig(rounds=300, temperature=5.0, discount=0.0, learning_rate=0.05, copies=5)
hot_config = by_budget(replace(HOT, rounds=60), HOT)
hot_run = watch(train_mean_field(hot_config, seed=1), "loss")
*_, cool = train_mean_field(replace(hot_config, temperature=0.5), seed=1)
*_, myopic = train_mean_field(replace(source_config, discount=0.0), seed=1)

# %% [markdown]
# *Five lattices learn at τ = 5: the mean squared error of their values, live, from where learning begins. It falls
# towards 0, as the reward of an action among a mean action is always the same.*

# %% tags=["hide-input"]
truth = rewards_of_both("source", mean_actions(8), 8)
learners = {
    "τ = 0.5, γ = 0.9": (source_run.state, source_config),
    "τ = 0.5, γ = 0": (myopic.state(), replace(source_config, discount=0.0)),
    "τ = 0.5, γ = 0, longer": (cool.state(), hot_config),
    "τ = 5, γ = 0, as long": (hot_run.state, hot_config),
}
figure, panels = plt.subplots(1, 4, figsize=(9.5, 2.8), sharey=True)
print(f"true value of going with eight neighbours that agree: {truth[8, 1] - truth[8, 0]:.2f}")
for axes, (title, (state, config)) in zip(panels, learners.items(), strict=True):
    learned = advantages_of_up(mean_field_net(state["net"]), 8)  # [S, 9]
    ups = state["spins"].float().flatten(1).mean(1) > 0
    gap = torch.where(ups, learned[:, 8], -learned[:, 0]).mean()
    both_ways = f"{follows(learned).sum()} of {len(learned)} networks follow both ways"
    print(f"learned at {title}: {gap:.2f}; {both_ways}", end="")
    turned = stays_turned(state, replace(config, temperature=0.5), seed=1)
    print(f"; {turned.sum()} of {len(learned)} lattices, turned round, stay so")
    axes.plot(np.arange(9), learned.T, color=plots.COLOURS[0], linewidth=1, alpha=0.6)
    axes.plot(np.arange(9), truth[:, 1] - truth[:, 0], "o", color=plots.INK, label="true")
    axes.axhline(0, color=plots.INK, linewidth=0.6)
    axes.set(xlabel="neighbours that are up")
    axes.set_title(title, fontsize=9)
panels[0].set_ylabel("value of up minus down")
panels[0].legend()
plt.show()

# %% [markdown]
# *Learned difference of the two values against the number of neighbours that are up, a line for each network. First:
# the agents of above. Second: the same with discount 0. Third: with four times the rounds and a faster rate. Fourth: as
# long and as fast, but hot. Printed: the learned value of going with neighbours that all agree, in the direction of the
# lattice; how many networks follow both ways, down among eight that are down and up among eight that are up; and how
# many lattices, when all their spins are set against that direction, still point so after thirty rounds at τ = 0.5.*
#
# The agents of the first three pictures have seen little but neighbours that agree, in one direction. Where they never
# are, and for the action they hardly take, their values are anyone's guess, as on the grid of [chapter
# 0](ch00_foundations.ipynb). More work helps on the side where a lattice lives: in the third picture each line is
# right there, and most are off on the other side, by as much as 3, as they just go straight on. Only the hot agents,
# who meet every mean action, have it right everywhere. In the first picture the difference comes out larger than it
# is, so that these agents play colder than they were told. And where a line lies on one side of 0 everywhere, as one
# does there, the network does not follow; it prefers a direction, and its lattice goes back to it. How much of this is
# there? The stored runs ask ten seeds of ten networks each, and hold them against tables that we know.


# %%
def play_table(
    advantages: torch.Tensor, spins: torch.Tensor, config: MeanFieldConfig, seed: int
) -> Iterator[torch.Tensor]:
    """Every round's spins [S, *shape] of agents that play by one table: up minus down, by neighbours up [count + 1]."""
    rng = torch.Generator().manual_seed(seed)

    def values(means: torch.Tensor) -> torch.Tensor:
        up = advantages[(means[..., 1] * (len(advantages) - 1)).round().long()]
        return torch.stack([torch.zeros_like(up), up], -1)

    for _ in range(config.rounds):
        _, spins = play_round(values, spins, config, rng)
        yield spins


def tables_as_sure(gap: float) -> dict[str, torch.Tensor]:
    """Tables of eight neighbours to hold the learners against; all but the rule are as sure as ``gap``."""
    right = rewards_of_both("source", mean_actions(8), 8).diff(dim=1)[:, 0]
    sure = right * gap / right[-1]
    return {
        "rule": right,
        "sure": sure,
        "straight": gap * torch.linspace(-1, 1, 9),
        "leaning": sure + 0.5,
    }


# %% tags=["hide-input"]
ASKING, PRINTED = 43, 44  # two more uses of a seed
QUESTIONS = {
    "follow": "follow both ways",
    "turned": "turned round, stay so",
    "same_way": "from coins, as in training",
}
figure, panels = plt.subplots(1, 2, figsize=(9.5, 2.4))
for axes, (name, title) in zip(
    panels, {"follow": "discount 0.9", "follow_myopic": "discount 0"}.items(), strict=True
):
    asked = {label: results.metric("M4", name, kind) for kind, label in QUESTIONS.items()}
    plots.bars(axes, asked)
    untrained = results.metric("M4", name, "untrained_follow").mean()
    axes.plot(untrained, 0, "X", color="black", label="untrained")
    axes.plot([100, 100, 50], range(3), "|", color="black", markersize=22, label="the rule")
    axes.set(xlabel="%", xlim=(0, 105), title=title)
panels[1].set_yticklabels([])
figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
plt.show()
TABLES = {
    "learned": "the learned networks",
    "rule": "the noisy majority",
    "sure": "a majority as sure as they",
    "straight": "a straight line as sure",
    "leaning": "as sure, and leaning by 0.5",
}
print(f"{'aligned, discount 0.9':30}mean lattice  median  below 90 %")
for name, label in TABLES.items():
    kinds = (f"{name}_mean", f"{name}_median", f"{name}_stuck")
    mean, median, stuck = (results.metric("M4", "follow", kind).mean() for kind in kinds)
    print(f"{label:30}{mean:10.1f} %{median:8.1f} %{stuck:9.1f} %")

# %% [markdown]
# *Percent of ten networks, or of their lattices: the mean of ten seeds, its 95 % interval, and each seed (a circle may
# stand for several). Top: networks that follow both ways. Middle: lattices that, set against the direction of their
# training, still point so after thirty rounds. Bottom: lattices that from a start of coins end in the direction of
# their training. Strokes: the noisy majority, which follows, stays, and has no direction; cross: untrained networks.
# Printed: aligned spins over the last twenty rounds, of the mean and of the median lattice, and how many lattices are
# below 90 %.*
#
# Of a hundred networks with a discount of 0.9, 78 follow both ways, against 11 untrained. Even so 77 of a hundred
# random starts end in the direction of the training, and of a hundred lattices set against it only 61 stay: 61 of the
# 78 whose networks follow, and none of the others. To follow by sign is not to be impartial. Going with all eight is
# worth 3.1 in the direction of the training and 1.8 in the other, and among four of each the first is 0.5 better,
# where it should be 0. With a discount of 0, 96 follow, lean by 0.3, and 63 stay.
# <!-- held: most_follow_and_remember -->
#
# And their lead over the noisy majority in the mean lattice? They are surer than it is, but sureness alone does not
# bring it. A majority that is as sure, its rewards scaled until going with all eight is worth what the learners think,
# gains in the median lattice only and loses in the mean, for one lattice in eight stays below 90 %. None of the
# learners' lattices does. Two errors can spare them that. Their values are nearly a straight line: one neighbour more
# than half of them is worth a quarter of what all eight are worth, where it should be more than half, and so a border
# does not hold its spins as tightly. And they lean, so that one side of a border wins. The last two rows of the table
# have one of these errors each, know nothing else that the rule does not, and do as well as the learners or nearly so:
# the lead is no knowledge.
# <!-- held: lead_is_no_knowledge -->
#
# So "aligned" alone says little, as on the ring of [chapter 04](ch04_multi_agent.ipynb): most of these networks follow,
# and their lattices remember all the same. To do physics we need values that are right everywhere, so from here on the
# agents learn while it is hot.
#
# ### Cooled too fast
#
# Now take away the heat. A thousand lattices start at random and play the right values at a temperature close to 0,
# where next to nobody moves against the majority. For that we need to be fast. A policy of $\bar a$ alone is a table:
# on the square lattice with eight neighbours it has nine entries. We evaluate the network once for each and draw spins
# from the table.


# %%
def chances_of_up(advantages: torch.Tensor, temperatures: Sequence[float]) -> torch.Tensor:
    """The Boltzmann policy's chance of up for 0, 1, … neighbours that are up: [T, count + 1].

    Raises ValueError, in one sentence, for a temperature that is not above 0, and where there is none.
    """
    if not len(temperatures):
        raise ValueError("There is no temperature; a Boltzmann policy needs at least one.")
    for temperature in temperatures:
        if not temperature > 0:
            raise ValueError(
                f"The temperature is {temperature:g}; a Boltzmann policy needs one above 0."
            )
    return torch.sigmoid(
        advantages / torch.as_tensor(temperatures, device=advantages.device)[:, None]
    )


def orders_of(shape: Sequence[int], neighbours: tuple) -> list[torch.Tensor]:
    """Masks of cells that can act at the same time because no two of them are neighbours: int8 [*shape] each.

    Two masks, a checkerboard, where neighbours share a face; else one for each corner of a small cube. Raises
    ValueError for an odd side, around which the pattern does not close, and for steps longer than one cell.
    """
    if any(side % 2 for side in shape):
        raise ValueError(
            f"The lattice is {' x '.join(map(str, shape))}; a checkerboard order needs even sides."
        )
    parities = torch.stack(torch.meshgrid(*(torch.arange(s) % 2 for s in shape), indexing="ij"))
    if all(sum(map(abs, step)) == 1 for step in neighbours):
        colour = parities.sum(0) % 2
    else:
        colour = sum(2**axis * parity for axis, parity in enumerate(parities))
    masks = [(colour == c).to(torch.int8) for c in range(int(colour.max()) + 1)]
    if any((mask * sum_of_neighbours(mask, neighbours)).any() for mask in masks):
        raise ValueError("Neighbours would act together: no step may be longer than one cell.")
    return masks


# %% [markdown]
# In this order the cells that act together are not neighbours, so that acting together and one after the other are the
# same. The sampler below spends one 16-bit random number on a spin, $u$ in $\{-2^{15}, \dots, 2^{15} - 1\}$, and the
# spin goes up where $u$ is below a bar. The bar depends on the neighbours: it is the table's entry, as a whole number.
# Looking entries up one by one is slow; to climb from one bar to the next wherever another neighbour is up is a few
# operations on whole arrays. Whole numbers change a chance by at most $2^{-17}$, and no chance is below $2^{-16}$. Below
# τ = 0.36 that is felt by a spin among four neighbours that agree: at τ = 0.3 it strays once in 65,536 draws, 9.4 times
# as often as it should, which is still next to never.


# %%
class Sampler:
    """Copies of a lattice whose agents follow a table each. ``sweep`` lets every agent act once.

    spins: [B, *shape] int8, changed in place. chances of up: [B or 1, count + 1], in steps of 2^-16. orders: who acts
    together, as ``orders_of`` has it."""

    def __init__(
        self, spins: torch.Tensor, chances: torch.Tensor, neighbours: tuple, orders: list, seed: int
    ) -> None:
        self.spins, self.neighbours = spins, neighbours
        self.orders = [order.to(spins.device) for order in orders]
        self.rng = torch.Generator(spins.device).manual_seed(seed)
        self.drawn = torch.empty(-(-spins.numel() // 4), dtype=torch.int64, device=spins.device)
        self.u = self.drawn.view(torch.int16)[: spins.numel()].view(spins.shape)
        self.field, self.bar, self.above = (torch.empty_like(self.u) for _ in range(3))
        self.follow(chances)

    def follow(self, chances: torch.Tensor) -> None:
        """Play by another table from now on."""
        if chances.shape[1] != len(self.neighbours) + 1:
            raise ValueError(
                f"The table has {chances.shape[1]} entries; "
                f"{len(self.neighbours)} neighbours need {len(self.neighbours) + 1}."
            )
        bars = (2**16 * chances.double()).round().clamp(1, 2**16 - 1).long() - 2**15
        climbs = torch.cat([bars[:, :1], bars.diff(dim=1)], 1).to(torch.int16)  # sums wrap rightly
        shape = (-1, *[1] * (self.spins.dim() - 1))
        self.climbs = [climb.view(shape).to(self.spins.device) for climb in climbs.unbind(1)]

    def sweep(self) -> None:
        self.drawn.random_(-(2**63), None, generator=self.rng)  # four 16-bit numbers in each
        for order in self.orders:
            self.field.copy_(sum_of_neighbours(self.spins, self.neighbours))
            self.bar.copy_(self.climbs[0].expand_as(self.bar))
            for ups, climb in enumerate(self.climbs[1:], 1):
                torch.ge(self.field, 2 * ups - len(self.neighbours), out=self.above)
                self.bar.addcmul_(self.above, climb)
            torch.lt(self.u, self.bar, out=self.above)
            self.spins += (as_spins(self.above) - self.spins) * order


# %% tags=["hide-input"]
table = chances_of_up(2.0 * torch.arange(5) - 4, [1.6])[0].tolist()
drawn = np.random.default_rng(1).random((5, 14))
figure, axes = plt.subplots(figsize=(7.2, 2.6))
for ups, (bar, u) in enumerate(zip(table, drawn, strict=True)):
    places = ups + np.linspace(-0.3, 0.36, len(u))
    for up in (False, True):
        dots = {"color": SPIN_COLOURS(float(up)), "markeredgecolor": plots.INK}
        axes.plot(places[(u < bar) == up], u[(u < bar) == up], "o", markersize=5, **dots)
    axes.plot([ups - 0.42, ups + 0.42], [bar, bar], color=plots.COLOURS[1])
    if ups:
        arrow = {"arrowstyle": "->", "color": plots.COLOURS[1]}
        axes.annotate("", (ups - 0.42, bar), (ups - 0.42, table[ups - 1]), arrowprops=arrow)
axes.set(xlabel="neighbours that are up", ylabel="u, scaled to 0 … 1", ylim=(0, 1))
axes.set_xticks(range(5))
plt.show()

# %% [markdown]
# *The sampler for four neighbours at τ = 1.6. Each agent draws a number u and goes up (blue) where it lies below the
# bar; with every neighbour that is up the bar climbs by a fixed step (arrows).*


# %%
def quench(
    advantages: torch.Tensor, side: int, copies: int, schedule: Sequence[float], seed: int
) -> torch.Tensor:
    """Random lattices of eight neighbours after one sweep at each temperature of a schedule: [copies, side, side]."""
    start, act = spread((SAMPLING, seed), 2)
    rng = torch.Generator(advantages.device).manual_seed(start)
    spins = random_spins(copies, side, side, rng=rng)
    orders = orders_of((side, side), TOUCHING)
    sampler = Sampler(spins, chances_of_up(advantages, schedule[:1]), TOUCHING, orders, act)
    for temperature in schedule:
        sampler.follow(chances_of_up(advantages, [temperature]))
        sampler.sweep()
    return spins


# %% tags=["hide-input"]
@dataclass(frozen=True)
class QuenchConfig:
    """Random lattices that come to the cold in three ways."""

    rounds: int = knob(300, 1, 300, "of learning")
    side: int = knob(10, 4, 64, "cells along an edge", step=2)
    copies: int = knob(1000, 1, 10_000, "lattices")
    sweeps: int = knob(400, 10, 10_000, "in all")
    cold: float = knob(0.05, 0.01, 1.0, "temperature at the end")
    warm: float = knob(1.5, 0.1, 5.0, "temperature from which slow cooling begins")
    mild: float = knob(
        0.5, 0.1, 5.0, "temperature of all sweeps but the last ten, where cold comes late"
    )

    def __post_init__(self) -> None:
        check_config(self)


def schedules_of(config: QuenchConfig) -> dict[str, np.ndarray]:
    """The temperature of every sweep."""
    late = np.arange(config.sweeps) >= config.sweeps - 10
    return {
        "cold at once": np.full(config.sweeps, config.cold),
        "cooled slowly": np.geomspace(config.warm, config.cold, config.sweeps),
        "mild, then cold at once": np.where(late, config.cold, config.mild),
    }


right_values = advantages_of_up(mean_field_net(hot_run.state["net"]), 8)[0]
figure, panels = plt.subplots(3, 8, figsize=(9.5, 4.3))
for row, (label, schedule) in zip(panels, schedules_of(QuenchConfig()).items(), strict=True):
    cooled = quench(right_values, 10, by_budget(100, 1000), schedule, seed=1)
    for axes, lattice in zip(row, cooled, strict=False):
        draw_spins(axes, lattice.numpy())
    row[0].set_title(" ")  # room for the line below
    share = f"{(aligned(cooled) < 90).float().mean():.0%} of {len(cooled):,} stuck"
    row[0].text(0, 1.08, f"{label}: {share}", transform=row[0].transAxes).set_in_layout(False)
plt.show()

# %% [markdown]
# *Eight lattices after 400 sweeps at τ = 0.05 (above), from τ = 1.5 down to 0.05 (middle), and at τ = 0.5 with the last
# ten at 0.05 (below).* Plunged into the cold, three lattices in ten end in stripes: each spin along a straight border
# has more neighbours on its own side than on the other, so nobody wants to move, although all would be better off if
# half of them did. The same lattices, cooled slowly, all align. Is it the slowness? The third row says no: there the
# cold comes at once, but after some time with a little heat, in which now and then somebody moves against the majority
# and the borders wander until they meet: of the stored 10,000 lattices that go either way, none is stuck.
# <!-- held: stripes -->
#
# (That cold Ising lattices freeze into stripes is known [(Spirin et al., 2001)](../book/bibliography.md#spirin2001),
# and for four neighbours the chance as well: about 34 % on large lattices [(Barros et al.,
# 2009)](../book/bibliography.md#barros2009).)
#
# ### All at once, or in turn?
#
# The source lets all agents choose at once. With eight neighbours and some heat that works. With four it fails, and the
# picture shows why.


# %% tags=["hide-input"]
FACING = steps_to_neighbours("face", 2)
figure, panels = plt.subplots(1, 6, figsize=(9.5, 2.0))
everyone = [torch.ones(32, 32, dtype=torch.int8)]
ways = {
    "all at once": (everyone, (3, 201, 202)),
    "in turn": (orders_of((32, 32), FACING), (3, 15, 60)),
}
places = iter(panels)
for label, (turns, shown_at) in ways.items():
    lattice = random_spins(1, 32, 32, rng=torch.Generator().manual_seed(2))
    agree = rewards_of_both("energy", mean_actions(4), 4).diff(dim=1)[:, 0]
    sampler = Sampler(lattice, chances_of_up(agree, [0.3]), FACING, turns, seed=3)
    for done in range(1, 203):
        sampler.sweep()
        if done in shown_at:
            draw_spins(next(places), lattice[0].numpy(), f"{label}: {done}")
plt.show()

# %% [markdown]
# *One start with four neighbours at τ = 0.3, after 3, 201 and 202 sweeps all at once (left three) and after 3, 15 and
# 60 in turn (right three). All at once, parts of the lattice turn into a checkerboard, on which everybody sees four
# neighbours of the other kind, joins them, and finds that they have left: sweep 202 is sweep 201 with those parts
# reversed. In turn, first the black cells of a checkerboard and then the white ones, domains grow.* The shared buffer
# of the ring is a third thing, neither of the two. From here on our agents take turns, which also makes them an exact
# copy of a well-known piece of physics.
#
# ## Onsager's lattice: is it the right physics?
#
# Take four neighbours and the energy as reward. A learned $Q$ that is right satisfies
# $Q(\bar a, \text{up}) - Q(\bar a, \text{down}) = \sum_k s_k$, and its Boltzmann policy puts a spin up with probability
#
# $$
# p(\text{up}) = \frac{1}{1 + e^{-\sum_k s_k / \tau}}
# \qquad\text{beside the heat bath's}\qquad
# \frac{1}{1 + e^{-2 \sum_k s_k / T}} .
# $$
#
# The *heat bath* is a standard way to simulate Ising's model with unit coupling at temperature $T$: each spin in turn
# forgets what it was and is drawn anew given its neighbours. Up and down differ by $2 \sum_k s_k$ in energy, but by
# half of that in reward, since half of each bond belongs to the other end. So the two are the same at $T = 2 \tau$: the
# policy's temperature is half the physicist's. Below, the axes carry both.
#
# That makes a prediction which no learner was told. [Onsager (1944)](../book/bibliography.md#onsager1944) solved the
# infinite square lattice: it turns into a magnet below $T_c = 2 / \ln(1 + \sqrt 2) \approx 2.269$, so our agents should
# agree on a direction below $\tau_c \approx 1.135$ and at no temperature above. He also gave the energy, and [Yang
# (1952)](../book/bibliography.md#yang1952) the magnetisation $m$, the mean spin:
#
# $$
# m = \big( 1 - \sinh^{-4}(2 / T) \big)^{1/8} \quad (T < T_c) .
# $$


# %%
ONSAGER = 2 / math.log(1 + math.sqrt(2))  # critical temperature of the square lattice, 2.269
CUBIC = 4.5115  # of the cubic lattice, from simulations


def exact_magnetisation(temperature: np.ndarray) -> np.ndarray:
    """Yang's magnetisation of the infinite square lattice at the physicist's temperature T = 2τ."""
    below = np.minimum(temperature, ONSAGER)
    return np.maximum(1 - np.sinh(2 / below) ** -4, 0) ** (1 / 8)


def exact_energy(temperature: np.ndarray) -> np.ndarray:
    """Onsager's energy per spin of the infinite square lattice at the physicist's temperature T = 2τ."""
    twice = 2 / temperature
    modulus = 2 * np.sinh(twice) / np.cosh(twice) ** 2
    bracket = 1 + 2 / np.pi * (2 * np.tanh(twice) ** 2 - 1) * ellipk(modulus**2)
    return -bracket / np.tanh(twice)


# %% [markdown]
# The agents learn on a small lattice while it is hot, and never see a magnet. (Their discount is 0; as said above, it
# would add the same to both actions.)

# %%
PHYSICS = replace(HOT, reward="energy", neighbours="face", copies=1)


def physicists(dims: int, teacher: str = "rewards", rounds: int = 300) -> MeanFieldConfig:
    """Agents that learn the energy of a small, hot lattice: 16 x 16 or 8 x 8 x 8."""
    side = 16 if dims == 2 else 8
    return replace(PHYSICS, dims=dims, side=side, teacher=teacher, rounds=rounds)


physics_run = watch(train_mean_field(physicists(2, rounds=by_budget(60, 300)), seed=1), "loss")
square_values = advantages_of_up(mean_field_net(physics_run.state["net"]), 4)[0]
print("learned value of up minus down:", [round(v, 3) for v in square_values.tolist()])
print("sum of the neighbours' spins:  ", [-4, -2, 0, 2, 4])


# %% [markdown]
# *The loss of sixteen by sixteen agents that learn the energy at τ = 5, live, and what they have learned beside the
# truth.*
#
# These five numbers are all that learning contributes, and all that the lattice of $64 \times 64$ agents below plays by.
# In the five stored runs none of them is more than 0.007 off, which is less than 0.2 % of the largest. With the exact
# numbers the sampler *is* the heat bath, which needs no learning at all; so what follows tests whether numbers learned
# from rewards are right enough, and, as the discount is 0, nothing about bootstrapping. <!-- held: five_numbers -->
#
# For every temperature four lattices start aligned. After 300 sweeps we begin to measure.


# %%
class Observed(NamedTuple):
    """Averages over time and copies for each start and temperature: [starts, T] each."""

    magnetisation: np.ndarray  # of its absolute value
    square: np.ndarray
    fourth: np.ndarray
    energy: np.ndarray


def starts_of(kinds: Sequence[str], shape: tuple, rng: torch.Generator) -> torch.Tensor:
    """Copies [C, *shape] that start "aligned" or "random", one kind after the other: [kinds * C, *shape]."""
    made = {
        "random": lambda: random_spins(*shape, rng=rng),
        "aligned": lambda: torch.ones(shape, dtype=torch.int8, device=rng.device),
    }
    return torch.cat([made[kind]() for kind in kinds])


def moments_of(spins: torch.Tensor, neighbours: tuple) -> torch.Tensor:
    """|m|, m², m⁴ and the energy per spin of every copy: [4, B]."""
    flat = tuple(range(1, spins.dim()))
    m = spins.sum(flat, dtype=torch.int32).double() / spins[0].numel()
    bonds = (spins * sum_of_neighbours(spins, neighbours)).sum(flat, dtype=torch.int32)
    return torch.stack([m.abs(), m**2, m**4, -bonds.double() / 2 / spins[0].numel()])


# %%
def observe(
    advantages: torch.Tensor,
    temperatures: Sequence[float],
    shape: tuple[int, ...],
    copies: int,
    sweeps: int,
    seed: int,
    starts: Sequence[str] = ("aligned",),
    neighbours: tuple | None = None,
) -> tuple[Observed, float]:
    """Averages over the later two thirds of ``sweeps``, and million spin updates per second.

    neighbours: steps to them (default: those that share a face). Raises ValueError for fewer than six sweeps.
    """
    if sweeps < 6:
        raise ValueError(f"There are {sweeps} sweeps; to measure anything takes six.")
    begin, act = spread((SAMPLING, seed, *shape), 2)
    neighbours = neighbours or steps_to_neighbours("face", len(shape))
    rng = torch.Generator(advantages.device).manual_seed(begin)
    spins = starts_of(starts, (len(temperatures) * copies, *shape), rng)
    chances = chances_of_up(advantages, temperatures).repeat_interleave(copies, 0)
    sampler = Sampler(
        spins, chances.repeat(len(starts), 1), neighbours, orders_of(shape, neighbours), act
    )
    sums, seconds, taken = torch.zeros(4, len(spins), dtype=torch.double, device=rng.device), 0.0, 0
    for sweep in range(sweeps):
        began = time.perf_counter()
        sampler.sweep()
        seconds += time.perf_counter() - began
        if sweep >= sweeps // 3 and sweep % 4 == 0:
            sums += moments_of(spins, neighbours)
            taken += 1
    means = (sums / taken).view(4, len(starts), -1, copies).mean(-1).cpu().numpy()
    return Observed(*means), 1e-6 * spins.numel() * sweeps / seconds


# %% tags=["hide-input"]
def both_axes(axes: Axes, label: str, critical: float) -> None:
    """The policy's temperature below, the physicist's above, and the critical one dotted."""
    axes.set(xlabel="the policy's temperature τ", ylabel=label)
    axes.secondary_xaxis("top", functions=(lambda t: 2 * t, lambda t: t / 2)).set_xlabel(
        "Ising's T = 2τ"
    )
    axes.axvline(critical / 2, color=plots.INK, linestyle=":", linewidth=1)


# %% tags=["M4"]
live_temperatures = np.arange(0.75, 1.76, 0.05)
live, speed = observe(
    square_values, live_temperatures, (64, 64), copies=4, sweeps=by_budget(60, 900), seed=1
)
figure, (magnet, energy) = plt.subplots(1, 2, figsize=(9.5, 3.1))
fine = np.linspace(0.7, 1.8, 400)
magnet.plot(fine, exact_magnetisation(2 * fine), color=plots.INK, label="exact (Yang)")
magnet.plot(live_temperatures, live.magnetisation[0], "o", label="64 × 64 agents")
energy.plot(fine, exact_energy(2 * fine), color=plots.INK, label="exact (Onsager)")
energy.plot(live_temperatures, live.energy[0], "o", label="64 × 64 agents")
for axes, label in ((magnet, "magnetisation |m|"), (energy, "energy per spin")):
    both_axes(axes, label, ONSAGER)
    axes.legend()
plt.show()

# %% tags=["hide-input"]
rng = torch.Generator().manual_seed(0)
lattice, net = random_spins(84, 64, 64, rng=rng), mean_field_net(physics_run.state["net"])
began = time.perf_counter()
with torch.no_grad():
    for _ in range(by_budget(1, 5)):
        asked = net(mean_action(lattice, FACING)[None])[0]
        boltzmann(asked, 1.0, rng)
slow = by_budget(1, 5) * lattice.numel() / (time.perf_counter() - began)
looked_up = square_values[(4 * mean_action(lattice, FACING)[..., 1]).round().long()]
error = (asked.diff(dim=-1)[..., 0] - looked_up).abs().max()
print(f"largest difference between table and network: {error:.1e}")
print(f"asking the network for every spin: {1e-6 * slow:.1f} million spin updates a second")
stored = results.metric("M4", "lattice", "million_updates_per_second")
print(f"drawing from the table: {speed:.0f} million on the same core;", end=" ")
print(f"in the stored runs, on busy cores, {stored.min():.0f} to {stored.max():.0f} million")

# %% [markdown]
# *Magnetisation (left) and energy per spin (right) of the learned policy against its temperature, one live run; grey:
# the exact solution of the infinite lattice. The upper axis is the physicist's temperature. Printed: what the table is
# worth, on 84 lattices at once, as in the figure; the time is that of sweeps alone.*
#
# Nothing in the program knows about a phase transition. The agents have learned, from rewards, what it is worth to
# agree with four neighbours; that thousands of them then agree across a whole lattice below one temperature, and forget
# each other above, follows from that.
#
# ### Sizes, starts, and the critical temperature
#
# A careful reader has three objections. The lattice is finite, and $|m|$ of a finite lattice cannot vanish. Near
# $\tau_c$ a lattice changes slowly, so perhaps it only remembers its start. And a curve that bends where it should is
# not yet a measured critical temperature. So `make results` runs four sizes, 12,000 sweeps of the largest and 3,000 of
# each other, from an aligned and from a random start. No run is cooled into its answer, and what it says about one
# temperature owes nothing to another. The first third of every run is not counted.


# %%
@dataclass(frozen=True)
class LatticeConfig:
    """Learned agents on lattices of several sizes, at temperatures that lie dense around where something happens."""

    dims: int = knob(2, 1, 4, "axes of the lattice")
    sides: tuple[int, ...] = (8, 16, 32, 64)
    wide: tuple[float, float, float] = (0.75, 1.75, 0.05)  # from, to, step
    dense: tuple[float, float, float] = (1.06, 1.22, 0.01)
    sweeps: int = knob(12_000, 30, 100_000, "at the largest size; fewer in proportion to the area")
    least: int = knob(3_000, 30, 100_000, "sweeps at any size")
    spins: int = knob(12_288, 64, 100_000, "spins of all copies at one temperature and start")
    teacher: str = choice("rewards", TEACHERS)
    rounds: int = knob(300, 1, 300, "of learning")

    def __post_init__(self) -> None:
        check_config(self)
        if not self.sides or any(side < 4 or side % 2 for side in self.sides):
            raise ValueError(
                f"LatticeConfig.sides is {self.sides}; it takes even numbers from 4 on."
            )


def temperatures_of(config: LatticeConfig) -> np.ndarray:
    """The wide and the dense grid together, ascending, each temperature once."""
    grids = [
        np.arange(low, high + step / 2, step) for low, high, step in (config.wide, config.dense)
    ]
    return np.unique(np.concatenate(grids).round(4))


def within(temperatures: np.ndarray, grid: tuple[float, float, float]) -> np.ndarray:
    """Which temperatures lie inside a grid's ends."""
    return (temperatures > grid[0] - 1e-6) & (temperatures < grid[1] + 1e-6)


# %% [markdown]
# To locate the transition we use the *Binder cumulant* [(Binder, 1981)](../book/bibliography.md#binder1981),
#
# $$
# U_L = 1 - \frac{\langle m^4 \rangle}{3 \langle m^2 \rangle^2} ,
# $$
#
# which is $2/3$ for a lattice of side $L$ that is a magnet, 0 for one whose spins are independent in large parts, and
# at the critical temperature nearly the same for all $L$. Where the curves of two sizes cross, there it is. It needs no
# knowledge of the answer.


# %%
def binder(square: np.ndarray, fourth: np.ndarray) -> np.ndarray:
    """The Binder cumulant from the means of m² and m⁴."""
    return 1 - fourth / (3 * square**2)


def crossing(temperatures: np.ndarray, small: np.ndarray, large: np.ndarray) -> float:
    """Where two sizes' cumulants cross: colder than where the larger lattice's is furthest behind; nan if nowhere."""
    ahead = large - small
    for hot in range(ahead.argmin(), 0, -1):
        cold = hot - 1
        if ahead[hot] < 0 <= ahead[cold]:
            share = ahead[cold] / (ahead[cold] - ahead[hot])
            return float(temperatures[cold] + share * (temperatures[hot] - temperatures[cold]))
    return float("nan")


# %% tags=["hide-input"]
def draw_sizes(axes: Axes, row: str, name: str, what: str, config: LatticeConfig) -> None:
    """A stored quantity against temperature for every size: seeds as dots, their mean as a line."""
    temperatures = temperatures_of(config)
    for number, side in enumerate(config.sides):
        stored = results.curves(row, name, f"{what}_{side}")
        style = {"color": plots.COLOURS[number], "linewidth": 1.2}
        axes.plot(
            temperatures, stored.mean(0), label=" × ".join([str(side)] * config.dims), **style
        )
        axes.plot(temperatures, stored.T, ".", markersize=3, alpha=0.6, color=style["color"])


# %% tags=["M4", "hide-input"]
square = LatticeConfig()
figure, ((magnet, energy), below) = plt.subplots(
    2, 2, figsize=(9.5, 5.2), sharex=True, height_ratios=(1.7, 1)
)
draw_sizes(magnet, "M4", "lattice", "aligned_m", square)
draw_sizes(energy, "M4", "lattice", "aligned_energy", square)
for axes, exact in ((magnet, exact_magnetisation), (energy, exact_energy)):
    axes.plot(fine, exact(2 * fine), color=plots.INK, linewidth=1.5, label="exact, infinite")
both_axes(magnet, "magnetisation |m|", ONSAGER)
both_axes(energy, "energy per spin", ONSAGER)
tried = temperatures_of(square)
for number, side in enumerate(square.sides):
    m, e = (results.curves("M4", "lattice", f"aligned_{what}_{side}") for what in ("m", "energy"))
    apart = (m - exact_magnetisation(2 * tried), 100 * (e / exact_energy(2 * tried) - 1))
    for axes, gone in zip(below, apart, strict=True):
        axes.plot(tried, gone.T, ".", markersize=3, alpha=0.6, color=plots.COLOURS[number])
        axes.plot(tried, gone.mean(0), linewidth=1.2, color=plots.COLOURS[number])
for axes, label in zip(below, ("|m| above exact", "energy off by (%)"), strict=True):
    axes.set(xlabel="the policy's temperature τ", ylabel=label)
    axes.axvline(ONSAGER / 2, color=plots.INK, linestyle=":", linewidth=1)
below[0].set(ylim=(-0.06, 0.12))
below[1].set(ylim=(-1, 4))
for axes in (magnet, energy):
    axes.set(xlabel="")
magnet.legend(fontsize=8)
plt.show()

# %% [markdown]
# *Magnetisation and energy of the learned policy on lattices of four sizes, started aligned: each of five seeds as a
# dot, their mean as a line, the exact solution of the infinite lattice grey, the critical temperature dotted. Below: how
# far they are from it, cut off near the critical temperature (energy: above 0 where it is the lower).* The
# larger the lattice, the sharper its turn, and the nearer it comes to the exact curve. Away from the critical
# temperature (more than 7 % from it) the energy of the largest is within 0.5 % of Onsager's, and more than 7 % below it
# its magnetisation is within 0.01 of Yang's. <!-- held: onsager -->

# %% tags=["hide-input"]
figure, (cumulants, starts) = plt.subplots(1, 2, figsize=(9.5, 3.4))
draw_sizes(cumulants, "M4", "lattice", "binder", square)
both_axes(cumulants, "Binder cumulant", ONSAGER)
cumulants.set(xlim=(1.098, 1.172), ylim=(0.5, 0.66))
cumulants.legend(fontsize=8, loc="lower left")
temperatures = temperatures_of(square)
for start, marker in (("aligned", "o"), ("random", "x")):
    stored = results.curves("M4", "lattice", f"{start}_m_64")
    starts.plot(
        temperatures,
        stored.T,
        marker,
        markersize=4,
        alpha=0.6,
        color=plots.COLOURS[3 * (start == "random")],
    )
    starts.plot(
        [], [], marker, color=plots.COLOURS[3 * (start == "random")], label=f"started {start}"
    )
starts.plot(
    fine, exact_magnetisation(2 * fine), color=plots.INK, linewidth=1.5, label="exact, infinite"
)
both_axes(starts, "magnetisation |m|, 64 × 64", ONSAGER)
starts.legend(fontsize=8)
plt.show()
found = results.metric("M4", "lattice", "critical_temperature")
print("critical temperature by seed:", np.round(found, 4), f"exact: {ONSAGER / 2:.4f}")

# %% [markdown]
# *Left: Binder cumulants of both starts together near the critical temperature, where they cross: each of five seeds as
# a dot, their mean as a line. Right: magnetisation of the largest lattice from both starts, every seed and
# temperature.* The crossing of the two largest sizes puts the policy's critical temperature at 1.1345 on average (95 %
# interval 1.127 to 1.142), and every seed within 1 % of half of Onsager's. In the neighbourhood of the critical
# temperature and above, both starts tell the same. Deep in the cold they do not: some of the lattices that start at
# random freeze into stripes, and stay there for longer than we look. The curve above is that of the aligned starts.
# <!-- held: critical -->
#
# ### Is it the learning?
#
# The controls are lattices of the same size (shorter runs: 1,500 sweeps, two copies) under networks that learned from
# rewards dealt out to the wrong agents, under networks that learned nothing, and under networks that learned something
# else: the source's reward, which also pays for going with the neighbours, but not by the energy.

# %% tags=["hide-input"]
CONTROL = LatticeConfig(sides=(64,), dense=(1.1, 1.18, 0.04), sweeps=1500, least=1500, spins=8192)
OTHER = replace(CONTROL, wide=(0.5, 1.75, 0.05), dense=(0.72, 0.8, 0.02))
figure, axes = plt.subplots(figsize=(7.2, 3.0))
for number, (name, label) in enumerate(
    {"lattice": "learned", "shuffled": "rewards shuffled", "untrained": "untrained"}.items()
):
    config = square if name == "lattice" else CONTROL
    stored = results.curves("M4", name, "aligned_m_64")
    plots.bands(axes, temperatures_of(config), stored, label, color=plots.COLOURS[number])
stored = results.curves("M4", "other_reward", "aligned_m")
plots.bands(axes, temperatures_of(OTHER), stored, "the source's reward", color=plots.COLOURS[3])
exact = results.curves("M4", "beside_exact", "exact_m").mean(0)
axes.plot(
    temperatures_of(CONTROL), exact, "o", color=plots.INK, markersize=4, label="exact numbers"
)
both_axes(axes, "magnetisation |m|, 64 × 64", ONSAGER)
axes.set(ylim=(0, 1.02))
axes.legend(fontsize=8)
plt.show()

# %% [markdown]
# *Magnetisation of the largest lattice under four kinds of networks, started aligned: each seed, their mean, and its
# 95 % interval.* Dots: the five exact numbers in the place of learned ones, which is the heat bath. With shuffled
# rewards or none there is no transition: an untrained network may prefer one direction for no reason, and then all its
# spins do, about twice as much when it is cold; but they do not follow each other. With the source's reward there is
# one, elsewhere: the magnet melts near τ = 0.75, far below Onsager's 1.135. That is not only because these values are
# about half as large: numbers of the right shape and this size would melt at 0.56, and at 0.6 these agents still have
# |m| = 0.90. To agree takes agents that follow; *where* they stop agreeing depends on the numbers.
# <!-- held: no_transition_without_learning -->
#
# What the learning has to reach is the heat bath. On the same lattices with the same random numbers, learned and exact
# numbers differ in |m| by 0.006 on average over the 23 temperatures, where two runs of the exact numbers with other
# random numbers differ by 0.020. Most of the 23 are easy. At the four within 5 % of the critical temperature it is 0.028
# against 0.079; at the coldest of these, τ = 1.10, it is the other way round, 0.015 against 0.007. So near the critical
# temperature, where a short run is mostly chance, the control cannot tell learned from exact; away from it, nothing is
# left to tell. <!-- held: beside_exact -->
#
# ### Turn the temperature


# %% tags=["hide-input"]
def lattice_picture(spins: np.ndarray, title: str) -> bytes:
    """A lattice [L, L] as a small PNG with three pixels a cell."""
    inches = 3 * len(spins) / 72
    figure = Figure(figsize=(inches, inches + 0.4), dpi=72, layout="none")
    axes = figure.add_axes((0, 0, 1, inches / (inches + 0.4)))
    draw_spins(axes, spins, title)
    return plots.to_png(figure)


# %% tags=["M4"]
shown_temperatures = [0.6, 0.8, 1.0, 1.05, 1.1, 1.13, 1.16, 1.2, 1.3, 1.5, 2.0]
spins = torch.ones(len(shown_temperatures), 128, 128, dtype=torch.int8)
sampler = Sampler(
    spins,
    chances_of_up(square_values, shown_temperatures),
    FACING,
    orders_of((128, 128), FACING),
    seed=4,
)
for _ in range(by_budget(50, 3000)):
    sampler.sweep()
pictures = {
    f"{t:g}": lattice_picture(
        lattice.numpy(), f"τ = {t:g}: |m| = {abs(lattice.float().mean()):.2f}"
    )
    for t, lattice in zip(shown_temperatures, spins, strict=True)
}
show(image_slider(pictures, "temperature τ", start=6), pictures["1.16"])

# %% [markdown]
# *A lattice of $128 \times 128$ learned agents, 3,000 sweeps after an aligned start. Cold: a sea of one colour with
# single spins astray. A little above 1.13: islands of every size in one another. Hot: noise.*
#
# Below, the lattice is alive: the slider sets a temperature, the button lets fifty sweeps pass at it.

# %%
click_panel = load_chapter("ch02_distributional_dqn").click_panel
passed = [random_spins(1, 96, 96, rng=torch.Generator().manual_seed(0))]  # and after each click


def fifty_sweeps(spins: torch.Tensor, temperature: float, seed: int) -> torch.Tensor:
    """The lattice [1, L, L] fifty sweeps later; the one that it was given stays as it was."""
    chances, shape = chances_of_up(square_values, [temperature]), spins.shape[1:]
    sampler = Sampler(spins.clone(), chances, FACING, orders_of(shape, FACING), seed)
    for _ in range(50):
        sampler.sweep()
    return sampler.spins


def lattice_after(clicked: Sequence[float], temperature: float) -> bytes:
    """The lattice after the clicks so far, each of them at the slider's temperature of its time, as a PNG."""
    del passed[len(clicked) + 1 :]  # a reset
    while len(passed) <= len(clicked):
        passed.append(fifty_sweeps(passed[-1], temperature, seed=len(passed)))
    m = abs(passed[-1].float().mean())
    return lattice_picture(passed[-1][0].numpy(), f"{50 * len(clicked)} sweeps, |m| = {m:.2f}")


dial = widgets.FloatSlider(
    1.0, min=0.3, max=2.0, step=0.01, description="τ", continuous_update=False
)
first = lattice_after([1], dial.value)
show(click_panel({"50 sweeps": 1}, dial, lattice_after, [1]), first)

# %% [markdown]
# *Grow domains at 0.5, then melt them at 1.3; stop at 1.13, and see how slow everything becomes. Reset goes back to the
# random start.*
#
# ### Domains grow
#
# A random lattice thrown into the cold becomes a mosaic of domains, and the mosaic coarsens: small domains shrink and
# vanish, as their borders are curved.


# %%
def grow(
    advantages: torch.Tensor,
    side: int,
    copies: int,
    at: Sequence[int],
    seed: int,
    temperature: float = 0.3,
) -> Iterator[torch.Tensor]:
    """Random lattices thrown to a low temperature: their spins [copies, side, side] after each number of sweeps in ``at``."""
    start, act = spread((SAMPLING, seed, side), 2)
    rng = torch.Generator(advantages.device).manual_seed(start)
    spins = random_spins(copies, side, side, rng=rng)
    chances = chances_of_up(advantages, [temperature])
    sampler, done = Sampler(spins, chances, FACING, orders_of((side, side), FACING), act), 0
    for wanted in at:
        for _ in range(wanted - done):
            sampler.sweep()
        done = wanted
        yield spins


def domain_size(spins: torch.Tensor) -> torch.Tensor:
    """Cells for each bond between unlike spins, of every copy [B]: a domain's width up to a factor, inf where all agree."""
    flat = tuple(range(1, spins.dim()))
    agree = (spins * sum_of_neighbours(spins, FACING)).sum(
        flat, dtype=torch.int32
    )  # each bond twice
    unlike = (4 * spins[0].numel() - agree) / 4
    return spins[0].numel() / unlike


# %% tags=["M4", "hide-input"]
watched = np.unique(np.geomspace(1, by_budget(50, 1500), 60).astype(int))
colours = np.array([SPIN_COLOURS(0.0), SPIN_COLOURS(1.0)])[:, :3]
frames = [
    np.kron(
        (255 * colours[(lattice[0].numpy() > 0).astype(int)]).astype(np.uint8),
        np.ones((2, 2, 1), np.uint8),
    )
    for lattice in grow(square_values, 192, 1, watched, seed=2)
]
show_clip(
    frames,
    10,
    "A lattice of 192 × 192 learned agents thrown to τ = 0.3; the clock runs faster and faster.",
)


# %% tags=["M4", "hide-input"]
def growth_picture(swept: int, lattice: torch.Tensor, seen: list) -> bytes:
    """The lattice after so many sweeps, beside the size of its domains until then."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), dpi=72, width_ratios=(1, 1.4))
    draw_spins(left, lattice.numpy(), f"{swept} sweep{'s' * (swept > 1)}")
    right.loglog(*zip(*seen, strict=True), "o-", color=plots.COLOURS[0])
    right.set(xlim=(0.8, 2000), ylim=(0.8, 60), xlabel="sweeps", ylabel="domain size (cells)")
    picture = plots.to_png(figure)
    plt.close(figure)
    return picture


seen, grown = [], []
stops = [2**power for power in range(by_budget(6, 11))]
for swept, lattice in zip(stops, grow(square_values, 128, 1, stops, seed=2), strict=True):
    seen.append((swept, domain_size(lattice).item()))
    grown.append(growth_picture(swept, lattice[0], seen))
show(scrubber(grown, "picture", start=4, interval=700), grown[4])

# %% [markdown]
# *A lattice of 128 × 128 after 1, 2, 4, … sweeps, and how large its domains have become: the number of cells for each
# bond between unlike spins, on logarithmic axes.*


# %% tags=["hide-input"]
@dataclass(frozen=True)
class GrowthConfig:
    """Lattices thrown into the cold, and how long they are watched."""

    rounds: int = knob(300, 1, 300, "of learning")
    side: int = knob(512, 4, 2048, "cells along an edge", step=2)
    copies: int = knob(2, 1, 100, "lattices")
    sweeps: int = knob(2000, 30, 100_000, "in all")
    temperature: float = knob(0.3, 0.05, 1.0, "of the cold")

    def __post_init__(self) -> None:
        check_config(self)


def growth_times(config: GrowthConfig) -> np.ndarray:
    """Numbers of sweeps at which domains are measured."""
    return np.unique(np.geomspace(1, config.sweeps, 40).astype(int))


at, stored = growth_times(GrowthConfig()), results.curves("M4", "growth", "domain_size")
figure, axes = plt.subplots(figsize=(7.2, 2.8))
plots.bands(axes, at, stored, "512 × 512 agents")
middle = at[(at >= 20) & (at <= 1000)]
root = stored.mean(0)[at == middle[0]] * np.sqrt(middle / middle[0])
axes.plot(middle, root, ":", color=plots.INK, label="square root of time", zorder=5)
axes.set(xlabel="sweeps", ylabel="domain size (cells)", xscale="log", yscale="log")
axes.legend()
plt.show()

# %% [markdown]
# *Domain size against time, both axes logarithmic: each seed, their mean and its 95 % interval. The dotted line grows
# like the square root of time, from 20 to 1,000 sweeps.* Earlier, domains measure fewer than ten cells; later, more
# than a tenth of the lattice's side (from 754 sweeps in some of the runs). In between the measured exponent is 0.489 on
# average (95 % interval 0.477 to 0.502). The window matters: from 20 to 150 sweeps it is 0.478 (0.469 to 0.486), below
# the theory's one half; from 150 to 1,000 it is 0.495 (0.459 to 0.531). So the half is not measured here, but the growth
# is compatible with a law that approaches it: to become ten times as large, domains need about a hundred times as long.
# <!-- held: growth -->
#
# ## One dimension more
#
# Nothing above said that the lattice is flat: the steps to the neighbours, the order, the sampler and the observer take
# as many axes as they are given. In three dimensions six neighbours share a face with a cell, and the mean action has
# two entries, as ever. Nobody has solved this lattice; simulations put its critical temperature at 4.5115 [(Ferrenberg
# et al., 2018)](../book/bibliography.md#ferrenberg2018), so the policy's should be 2.256.

# %% tags=["M5"]
cube_run = watch(train_mean_field(physicists(3, rounds=by_budget(60, 300)), seed=1), "loss")
cube_values = advantages_of_up(mean_field_net(cube_run.state["net"]), 6)[0]
print("learned value of up minus down:", [round(v, 2) for v in cube_values.tolist()])

# %% [markdown]
# *The loss of $8 \times 8 \times 8$ agents at τ = 5, live, and the seven numbers that they have learned.*

# %% tags=["M5"]
cube_temperatures = np.arange(1.6, 3.01, 0.1)
cube, speed = observe(cube_values, cube_temperatures, (16, 16, 16), 2, by_budget(30, 600), seed=1)
figure, axes = plt.subplots(figsize=(7.2, 2.8))
axes.plot(cube_temperatures, cube.magnetisation[0], "o-", label="16 × 16 × 16 agents")
both_axes(axes, "magnetisation |m|", CUBIC)
axes.legend()
plt.show()

# %% [markdown]
# *Magnetisation of a cube of learned agents, one live run; dotted: half the known critical temperature.* The stored
# runs locate it, as before, by where the cumulants cross:

# %% tags=["M5", "hide-input"]
CUBES = LatticeConfig(
    dims=3, sides=(4, 8, 16), wide=(1.75, 2.75, 0.1), dense=(2.16, 2.36, 0.02), sweeps=5000, least=2000, spins=16_384
)  # fmt: skip
figure, (magnet, cumulants) = plt.subplots(1, 2, figsize=(9.5, 3.4))
draw_sizes(magnet, "M5", "cube", "aligned_m", CUBES)
draw_sizes(cumulants, "M5", "cube", "binder", CUBES)
both_axes(magnet, "magnetisation |m|", CUBIC)
both_axes(cumulants, "Binder cumulant", CUBIC)
cumulants.set(xlim=(2.2, 2.32), ylim=(0.3, 0.62))
magnet.legend(fontsize=8)
plt.show()
found = results.metric("M5", "cube", "critical_temperature")
print("critical temperature by seed:", np.round(found, 3), f"known: {CUBIC / 2:.3f}")

# %% [markdown]
# *Left: magnetisation of cubes of three sizes, started aligned. Right: their Binder cumulants near the critical
# temperature. Each of five seeds as a dot, their mean as a line.* The crossings of the two largest sizes lie
# at 2.256 on average (95 % interval 2.246 to 2.265), and every seed's within 1 % of the known value. Small cubes
# cross elsewhere, those of 4 and 8 at 2.245: crossings drift with size, so the last digit of 2.256 is in part luck.
# <!-- held: cube -->
#
# ## Spot the bug
#
# ### The index that writes every row
#
# ```python
# target = q_values.clone().detach()  # [B, A]
# target[:, actions] = rewards + discount * next_values
# ```
#
# The line means to replace, in each row, the value of the action taken. But `target[:, actions]` names *all* rows, and
# of them the columns listed: every row gets the other rows' targets as well, and of several that go to one column, one
# remains. The source prints it twice, here and in its battle. It runs, since shapes fit, and the loss falls. Rows and
# columns have to be indexed together.


# %%
def regress(
    means: torch.Tensor, actions: torch.Tensor, rewards: torch.Tensor, every_row: bool
) -> nn.Module:
    """A network [1, ...] fitted to rewards, ten experiences at a time, with the right index or the wrong one."""
    rng = torch.Generator().manual_seed(0)
    net = MeanFieldQ(1, HIDDEN, rng)
    optimiser = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(by_budget(100, 4000)):
        rows = torch.randint(len(rewards), (10,), generator=rng)
        q_values = net(means[None, rows])[0]  # [B, A]
        target = q_values.detach().clone()
        index = slice(None) if every_row else torch.arange(10)
        target[index, actions[rows]] = rewards[rows]  # the bug is the slice
        loss = (q_values - target).square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net


# %%
rng = torch.Generator().manual_seed(3)
rule = lambda means: rewards_of_both("source", means, 8)
heated = replace(MeanFieldConfig(), temperature=5.0, copies=20)
played, _ = play_round(rule, random_spins(20, 10, 10, rng=rng), heated, rng)
rows = (played.means.flatten(0, -2), played.actions.flatten(), played.rewards.flatten())
nets = {
    "rows and columns": regress(*rows, every_row=False),
    "every row": regress(*rows, every_row=True),
}
figure, (values, *lattices) = plt.subplots(1, 3, figsize=(9.5, 2.9), width_ratios=(1.8, 1, 1))
values.plot(np.arange(9), truth[:, 1] - truth[:, 0], "o", color=plots.INK, label="true")
for axes, (label, net) in zip(lattices, nets.items(), strict=True):
    values.plot(np.arange(9), advantages_of_up(net, 8)[0], label=label)
    spins = random_spins(1, 10, 10, rng=torch.Generator().manual_seed(4))
    with torch.no_grad():
        for _ in range(30):
            _, spins = play_round(net, spins, replace(heated, temperature=0.5, copies=1), rng)
    draw_spins(axes, spins[0].numpy(), label)
values.set(xlabel="neighbours that are up", ylabel="value of up minus down")
values.legend(fontsize=8)
plt.show()

# %% [markdown]
# *Left: what each index has learned about up against down, from the same experience. Middle and right: a random lattice
# after 30 rounds at τ = 0.5 under either network.* With the wrong index each action gets nearly one value, whatever the
# neighbours do, and hardly anybody follows anybody. (The right index is still off where few examples came from, at both
# ends.)
#
# ### The printed program
#
# Is this why the printed program aligns its spins, all but three of a hundred? We have written its listings 9.9 to 9.12
# anew, with what could matter of all that they do: one buffer for old and new spins, a tanh on the values, steps of
# $10^{-4}$ without momentum, a bias of one that is not learned, and the index that writes every row, or the right one in
# its place. (Left out are a shuffle of the replay before its oldest entry goes, and separate buffers in the very first
# sweep.)


# %% tags=["hide-input"]
@dataclass(frozen=True)
class PrintedConfig:
    """The settings that the source prints."""

    every_row: bool = True
    epochs: int = knob(75, 1, 1000, "sweeps of play and learning")
    learning_rate: float = knob(1e-4, 1e-6, 1.0, "of plain gradient descent")
    temperature: float = knob(0.5, 0.05, 20.0, "of the Boltzmann policy that plays")
    discount: float = knob(0.9, 0.0, 0.95, "gamma")

    def __post_init__(self) -> None:
        check_config(self)


def printed_values(weights: list[torch.Tensor], means: torch.Tensor) -> torch.Tensor:
    """Values [M, 2] of mean actions [M, 2]."""
    return torch.tanh(F.elu(means @ weights[0] + 1) @ weights[1])


def printed_play(
    weights: list[torch.Tensor], grid: np.ndarray, config: PrintedConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Three sweeps of 10 x 10 spins, 0 or 1, one after another in one buffer: neighbours up, and best value, as seen."""
    q_values = printed_values(weights, mean_actions(8)).detach()
    chances = torch.softmax(q_values / config.temperature, 1)[:, 1].numpy()
    for _ in range(3):
        ups = np.zeros((10, 10), int)
        for row, column in product(range(10), repeat=2):
            around = [grid[(row + i) % 10, (column + j) % 10] for i, j in TOUCHING]
            ups[row, column] = sum(around)
            grid[row, column] = rng.random() < chances[sum(around)]
    return ups, q_values.max(1).values.numpy()[ups]


# %% tags=["hide-input"]
def printed_update(weights: list, batch: list, agent: int, config: PrintedConfig) -> None:
    """A step of gradient descent on what one agent did in ten rounds."""
    actions, ups, best = (
        torch.as_tensor(np.stack(c).reshape(10, 100)[:, agent]) for c in zip(*batch, strict=True)
    )
    actions, means = actions.long(), mean_actions(8)[ups]
    rewards = reward_of("source", actions, means, 8)
    q_values = printed_values(weights, means)
    target, index = q_values.detach().clone(), slice(None) if config.every_row else torch.arange(10)
    target[index, actions] = rewards + config.discount * best
    loss = (q_values - target).square().sum()
    for weight, slope in zip(weights, torch.autograd.grad(loss, weights), strict=True):
        weight.data -= config.learning_rate * slope


def printed_program(config: PrintedConfig, seed: int) -> tuple[list[float], torch.Tensor]:
    """Aligned spins of a hundred after every epoch, and the learned value of up minus down: [epochs], [9]."""
    rng = np.random.default_rng(spread((PRINTED, seed), 1)[0])
    weights = [
        torch.tensor(rng.standard_normal(s) / 10, dtype=torch.float32, requires_grad=True)
        for s in ((2, 10), (10, 2))
    ]
    grid, replay, shares = rng.integers(2, size=(10, 10)), deque(maxlen=50), []
    for _ in range(config.epochs):
        seen = printed_play(weights, grid, config, rng)
        replay.append((grid.copy(), *seen))
        shares.append(max(grid.sum(), 100 - grid.sum()))
        if len(replay) > 10:
            batch = [replay[i] for i in rng.integers(len(replay), size=10)]
            for agent in range(100):
                printed_update(weights, batch, agent, config)
    q_values = printed_values(weights, mean_actions(8)).detach()
    return shares, q_values[:, 1] - q_values[:, 0]


# %% tags=["hide-input"]
figure, (curves, values) = plt.subplots(1, 2, figsize=(9.5, 2.8))
for number, (name, label) in enumerate(
    {"printed": "every row, as printed", "printed_right": "rows and columns"}.items()
):
    colour = plots.COLOURS[number]
    stored = results.curves("M4", name, "aligned")
    plots.bands(curves, np.arange(1, 76), stored, label, color=colour)
    values.plot(
        np.arange(9), results.curves("M4", name, "advantages").T, color=colour, linewidth=1.2
    )
    print(f"{label}: last twenty epochs {np.round(stored[:, -20:].mean(1), 1)}")
values.axhline(0, color=plots.INK, linewidth=0.8)
curves.set(xlabel="epoch", ylabel="aligned spins (%)")
values.set(xlabel="neighbours that are up", ylabel="value of up minus down")
curves.legend(fontsize=8)
plt.show()

# %% [markdown]
# *Left: aligned spins of the printed program over five seeds, with the index as printed and corrected; the mean, its
# 95 % interval and each seed. Right: what each of the ten networks has learned about up against down.* Aligned they are,
# nine in ten over the last twenty epochs (93 of 100 in the middle of the run, 90 at its end). The 97 of the source's
# figure come up in 22 of our 375 epochs, in none of the last twenty, and in three of the five seeds: such a policy, which
# errs about one time in ten, has lucky moments. And nobody follows: every network prefers one direction, whatever its
# neighbours do, with either index. So the program's spins align because all share one network's taste, and the index is
# not what decides: corrected, it still learns hardly anything about the neighbours in these 75 epochs.
# <!-- held: printed -->
#
# ## Exercises
#
# **M4.1 The mean action.** Write `neighbour_shares(grid)`: for a square array of actions, 0 for down and 1 for up, the
# mean action of each cell's eight neighbours, [L, L, 2], with opposite edges joined. `check("M4.1", neighbour_shares)`
# tells whether it is right, or gives a hint.

# %%
# Your neighbour_shares(grid), and then check("M4.1", neighbour_shares)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
def neighbour_shares(grid: np.ndarray) -> np.ndarray:
    """Mean actions of the eight neighbours: [L, L] of 0 and 1 -> [L, L, 2]."""
    rolled = [np.roll(grid, step, (0, 1)) for step in product((-1, 0, 1), repeat=2) if any(step)]
    up = np.mean(rolled, 0)
    return np.stack([1 - up, up], -1)


check("M4.1", neighbour_shares)

# %% [markdown]
# **M4.2 The heat it takes.** The energy of a magnet jumps about most where it turns. Write
# `specific_heat(energies, temperature, spins)`: from samples of the energy per spin of a lattice of `spins` spins,
# taken at the *policy's* `temperature` $\tau$, the specific heat per spin, $C = \frac{N}{T^2} \operatorname{Var}(e)$
# with Ising's $T$. Where is its peak on a lattice of $16 \times 16$ that plays by the exact values?

# %%
# Your specific_heat(energies, temperature, spins), and then check("M4.2", specific_heat)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
def specific_heat(energies: np.ndarray, temperature: float, spins: int) -> float:
    """Heat capacity per spin from samples of the energy per spin."""
    return spins * np.var(energies) / (2 * temperature) ** 2


check("M4.2", specific_heat)
heated_at = np.arange(1.0, 1.401, 0.025)
chances = chances_of_up(2.0 * torch.arange(5) - 4, heated_at)
warm = torch.ones(len(heated_at), 16, 16, dtype=torch.int8)
sampler = Sampler(
    warm,
    chances,
    steps_to_neighbours("face", 2),
    orders_of((16, 16), steps_to_neighbours("face", 2)),
    seed=8,
)
samples = []
for _ in range(by_budget(60, 6000)):
    sampler.sweep()
    samples.append(moments_of(warm, sampler.neighbours)[3].numpy())
samples = np.array(samples[len(samples) // 6 :])  # [samples, T]
figure, axes = plt.subplots(figsize=(7.2, 2.4))
axes.plot(
    heated_at, [specific_heat(e, t, 256) for e, t in zip(samples.T, heated_at, strict=True)], "o-"
)
both_axes(axes, "specific heat", ONSAGER)
plt.show()
# A little above the critical temperature of the infinite lattice, to which the peak moves as lattices grow.

# %% [markdown]
# **M4.3 Predict, then run: a field from outside.** Pay every agent $h$ more for up than for down, and let $h$ run
# slowly from $-0.6$ to $0.6$ and back. Draw the mean spin against $h$ that you expect at $\tau = 0.8$ and at
# $\tau = 1.4$. Then run it.

# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
there = np.linspace(-0.6, 0.6, 41)
figure, axes = plt.subplots(figsize=(7.2, 2.8))
for cool in (0.8, 1.4):
    magnet = -torch.ones(4, 64, 64, dtype=torch.int8)
    facing = steps_to_neighbours("face", 2)
    payoff = 2.0 * torch.arange(5) - 4
    driven = Sampler(
        magnet, chances_of_up(payoff, [cool]), facing, orders_of((64, 64), facing), seed=9
    )
    response = []
    for extra in np.concatenate([there, there[::-1]]):
        driven.follow(chances_of_up(payoff + extra, [cool]))
        for _ in range(by_budget(1, 20)):
            driven.sweep()
        response.append(magnet.float().mean().item())
    axes.plot(np.concatenate([there, there[::-1]]), response, label=f"τ = {cool}")
axes.set(xlabel="h", ylabel="mean spin")
axes.legend()
plt.show()
# Hot, the mean spin follows h, a little late: a loop that is nearly closed. Cold, it stays where it was until h outweighs
# the neighbours: a wide loop, and a memory.

# %% [markdown]
# **M4.4 The mean field of the physicists.** Physicists go one step further than we did: in *their* mean-field theory
# each spin sees not the mean of its own four neighbours but that of the whole lattice, $m$. A spin that goes up with
# the policy's probability among neighbours of mean spin $m$ has itself the mean $\tanh(2 m / \tau)$, and that has to be
# $m$ again. Write `self_consistent(temperature)`: the largest solution of $m = \tanh(2 m / \tau)$ at the policy's
# temperature. Where does its magnet melt, and why so late?

# %%
# Your self_consistent(temperature), and then check("M4.4", self_consistent)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
def self_consistent(temperature: float) -> float:
    """The largest m with m = tanh(2 m / τ), found by going there step by step from m = 1."""
    m = 1.0
    for _ in range(5000):
        m = math.tanh(2 * m / temperature)
    return m


check("M4.4", self_consistent)
theory = np.linspace(0.5, 2.5, 201)
figure, axes = plt.subplots(figsize=(7.2, 2.6))
axes.plot(theory, [self_consistent(t) for t in theory], label="the physicists' mean field")
axes.plot(theory, exact_magnetisation(2 * theory), color=plots.INK, label="exact (Yang)")
both_axes(axes, "magnetisation m", ONSAGER)
axes.legend()
plt.show()
# At τ = 2, where the slope of tanh(2 m / τ) at 0 is 1: almost twice the exact 1.135. A spin among neighbours of its own
# meets islands, which the mean of everybody does not know. Our agents' mean action does: it is taken place by place.

# %% [markdown]
# **M5.1 Six neighbours, differently placed.** On a triangular lattice each cell has six neighbours, as on the cubic
# one. Shear the triangles until the cells form a square array; write down `steps`, six pairs (rows, columns) that lead
# from a cell to its neighbours, and `check("M5.1", steps)`. Values learned on the cube fit as they are, because a mean
# action of six neighbours is a mean action of six neighbours. Predict: is the critical temperature the same?

# %%
# Your steps, and then check("M5.1", steps)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
steps = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, -1), (-1, 1))
check("M5.1", steps)
*_, on_cubes = train_mean_field(physicists(3, rounds=by_budget(30, 300)), seed=1)
six = advantages_of_up(mean_field_net(on_cubes.state()["net"]), 6)[0]
tried = np.arange(1.4, 2.41, 0.1)
triangular, _ = observe(six, tried, (32, 32), 4, by_budget(30, 1500), seed=1, neighbours=steps)
figure, axes = plt.subplots(figsize=(7.2, 2.4))
axes.plot(tried, triangular.magnetisation[0], "o-", label="32 × 32, triangles")
both_axes(axes, "magnetisation |m|", 4 / math.log(3))
axes.legend()
plt.show()
# No: 4 / ln 3 = 3.64 is known exactly for triangles, against 4.51 for cubes. On the plane neighbours are also
# neighbours of each other; there are fewer ways around a disturbance.

# %% [markdown]
# ## Summary
#
# - The mean action replaces the joint action by as many numbers as there are actions. On Ising's lattices nothing is
#   lost, as the reward depends on nothing else.
# - Aligned is not yet following: "always up" aligns everybody. Ask networks what they were not asked in training.
# - Values are right where both actions have been tried; elsewhere a network goes straight on. That is enough to align
#   spins. For physics let agents learn where they meet everything: in the heat.
# - Order has to be found, not only preferred: in the cold three lattices in ten freeze into stripes; a little heat for
#   long enough avoids it.
# - What acts at the same time, and on what it looks, belongs to the model: all at once, in turn, and by accident are
#   three different lattices.
# - Five learned numbers, none off by more than 0.2 % of the largest, and thousands of agents that play by them obey
#   Onsager's and Yang's exact solution, at half the physicist's temperature; with shuffled rewards, or untrained, they do
#   not, and paid otherwise they melt elsewhere.
#
# In the [next notebook](ch04c_battle.ipynb) two armies meet, and who stands where begins to matter.
#
# Further reading: [Yang et al. (2018)](../book/bibliography.md#yang2018), who tried mean-field Q-learning on Ising's
# model; [Onsager (1944)](../book/bibliography.md#onsager1944) and [Binder
# (1981)](../book/bibliography.md#binder1981) for the physics.
#
# ## How the numbers were measured
#
# `make results` runs these functions with the seeds listed, and stores each run with its configuration, wall-clock
# time, cores and versions. The figures of this chapter that show several seeds are drawn from those files.


# %% tags=["hide-input"]
def measure_mean_field(config: MeanFieldConfig, seed: int) -> Measured:
    """Aligned spins with each teacher, and under the noisy majority; of the last twenty rounds, what counts."""
    curves = {}
    for teacher in TEACHERS:
        run = train_mean_field(replace(config, teacher=teacher), seed)
        curves[teacher] = [progress.metrics["aligned"] for progress in run]
    curves["rule"] = [aligned(spins).mean().item() for spins in play_rule(config, seed)]
    late = {name: np.mean(curve[-20:]) for name, curve in curves.items()}
    return Measured({"aligned": late["rewards"]}, {"aligned": late["rule"]}, curves)


def late_shares(name: str, rounds: list[torch.Tensor]) -> dict[str, float]:
    """Aligned spins of each lattice over its last twenty rounds: mean and median lattice, and percent below 90."""
    late = torch.stack([aligned(spins) for spins in rounds[-20:]]).mean(0)
    found = {
        "mean": late.mean(),
        "median": late.median(),
        "stuck": 100 * (late < 90).float().mean(),
    }
    return {f"{name}_{what}": value.item() for what, value in found.items()}


# %% tags=["hide-input"]
def table_shares(gap: float, config: MeanFieldConfig, seeds: Sequence[int]) -> dict[str, float]:
    """How tables as sure as ``gap`` align five times as many lattices, and whether these, turned round, stay so."""
    shape = (5 * config.copies, *[config.side] * config.dims)
    coins, found = random_spins(*shape, rng=torch.Generator().manual_seed(seeds[0])), {}
    for name, table in tables_as_sure(gap).items():
        found |= late_shares(name, list(play_table(table, coins, config, seeds[1])))
        turned = replace(config, rounds=30)
        *_, ends = play_table(table, -torch.ones_like(coins), turned, seeds[2])
        stay = ends.float().flatten(1).mean(1) < -0.8
        found[f"{name}_turned"] = 100 * stay.float().mean().item()
    return found


# %% tags=["hide-input"]
def measure_following(config: MeanFieldConfig, seed: int) -> Measured:
    """Whether networks follow or prefer a direction, and how tables that are as sure as they are do."""
    run, ask = list(train_mean_field(config, seed)), spread((ASKING, seed), 3)
    state, fresh = run[-1].state(), mean_field_net(run[0].state()["net"])
    learned = advantages_of_up(mean_field_net(state["net"]), 8)
    up = state["spins"].float().flatten(1).mean(1) > 0
    its_way = torch.where(up[:, None], learned, -learned.flip(1))  # by neighbours that go its way
    coins = random_spins(*state["spins"].shape, rng=torch.Generator().manual_seed(ask[0]))
    turned = stays_turned(state, config, ask[1])
    shares = {
        "follow": follows(learned),
        "untrained_follow": follows(advantages_of_up(fresh, 8)),
        "turned": turned,
        "turned_follow": turned & follows(learned),
        "same_way": ends_of(state, coins, config, ask[2]) > 0,
    }
    mean = its_way.mean(0).tolist()
    found = {"gap": mean[8], "gap_back": -mean[0], "lean": mean[4]}
    found["border"] = (mean[5] - mean[3]) / (mean[8] - mean[0])
    found |= {k: 100 * v.float().mean().item() for k, v in shares.items()}
    found |= late_shares("learned", [progress.state()["spins"] for progress in run[-20:]])
    return Measured(found | table_shares(mean[8], config, ask))


# %% tags=["hide-input"]
def measure_printed(config: PrintedConfig, seed: int) -> Measured:
    """The printed program's aligned spins over its last twenty epochs, and what its network has learned."""
    shares, advantages = printed_program(config, seed)
    found = {"aligned": np.mean(shares[-20:]), "follow": follows(advantages[None]).item()}
    return Measured(found, curves={"aligned": shares, "advantages": advantages})


# %% tags=["hide-input"]
def measure_quench(config: QuenchConfig, seed: int) -> Measured:
    """Percent of lattices that are stuck after each way into the cold."""
    *_, progress = train_mean_field(replace(HOT, copies=1, rounds=config.rounds), seed)
    learned = advantages_of_up(mean_field_net(progress.state()["net"]), 8)[0]
    found = {}
    for name, schedule in zip(
        ("cold", "cooled", "mild"), schedules_of(config).values(), strict=True
    ):
        left = aligned(quench(learned, config.side, config.copies, schedule, seed))
        found[f"stuck_{name}"] = 100 * (left < 90).float().mean().item()
    return Measured(found)


# %% tags=["hide-input"]
def learned_values(config: LatticeConfig, seed: int) -> torch.Tensor:
    """Value of up minus down for each number of neighbours that are up, learned by agents of this config."""
    *_, progress = train_mean_field(physicists(config.dims, config.teacher, config.rounds), seed)
    return advantages_of_up(mean_field_net(progress.state()["net"]), 2 * config.dims)[0]


def measure_lattice(config: LatticeConfig, seed: int) -> Measured:
    """Averages against temperature for every size and both starts, and where the largest two sizes' cumulants cross."""
    learned, temperatures = learned_values(config, seed), temperatures_of(config)
    curves, speeds = {}, []
    for side in config.sides:
        sweeps = max(config.least, round(config.sweeps * (side / max(config.sides)) ** 2))
        copies = max(1, config.spins // side**config.dims)
        seen, speed = observe(
            learned,
            temperatures,
            (side,) * config.dims,
            copies,
            sweeps,
            seed,
            ("aligned", "random"),
        )
        for start, m, e in zip(("aligned", "random"), seen.magnetisation, seen.energy, strict=True):
            curves |= {f"{start}_m_{side}": m, f"{start}_energy_{side}": e}
        curves[f"binder_{side}"] = binder(seen.square.mean(0), seen.fourth.mean(0))
        speeds.append(speed)
    return Measured(lattice_metrics(config, learned, curves, speeds), curves=curves)


# %% tags=["hide-input"]
def lattice_metrics(
    config: LatticeConfig, learned: torch.Tensor, curves: dict, speeds: list[float]
) -> dict:
    """What a lattice's curves amount to; only learned agents on several sizes have a critical temperature."""
    sums = 2.0 * torch.arange(2 * config.dims + 1) - 2 * config.dims
    found = {
        "million_updates_per_second": speeds[-1],
        "value_error": (learned - sums).abs().max().item(),
    }
    if len(config.sides) > 1:
        temperatures = temperatures_of(config)
        dense = within(temperatures, config.dense)
        small, large = (curves[f"binder_{side}"][dense] for side in config.sides[-2:])
        found["critical_temperature"] = crossing(temperatures[dense], small, large)
        if config.dims == 2:
            exact = exact_energy(2 * temperatures[~dense])
            energy = curves[f"aligned_energy_{config.sides[-1]}"][~dense]
            found["energy_error"] = 100 * np.abs(energy / exact - 1).max()
    return found


# %% tags=["hide-input"]
def measure_beside_exact(config: LatticeConfig, seed: int) -> Measured:
    """Learned and exact numbers on the same lattices of the largest size, with the same random numbers."""
    values = {
        "learned": learned_values(config, seed),
        "exact": 2.0 * torch.arange(2 * config.dims + 1) - 2 * config.dims,
    }
    shape, curves = (config.sides[-1],) * config.dims, {}
    copies = max(1, config.spins // math.prod(shape))
    for name, numbers in values.items():
        seen, _ = observe(numbers, temperatures_of(config), shape, copies, config.sweeps, seed)
        curves |= {f"{name}_m": seen.magnetisation[0], f"{name}_energy": seen.energy[0]}
    return Measured({}, curves=curves)


# %% tags=["hide-input"]
def measure_other_reward(config: LatticeConfig, seed: int) -> Measured:
    """|m| against temperature of agents that learned the source's reward, and not the energy, from four neighbours."""
    paid = replace(physicists(config.dims, config.teacher, config.rounds), reward="source")
    *_, progress = train_mean_field(paid, seed)
    learned = advantages_of_up(mean_field_net(progress.state()["net"]), 2 * config.dims)[0]
    shape = (config.sides[-1],) * config.dims
    copies = max(1, config.spins // math.prod(shape))
    seen, _ = observe(learned, temperatures_of(config), shape, copies, config.sweeps, seed)
    return Measured({}, curves={"aligned_m": seen.magnetisation[0], "advantages": learned.numpy()})


# %% tags=["hide-input"]
def measure_growth(config: GrowthConfig, seed: int) -> Measured:
    """Domain size after a plunge into the cold, and its exponent from 20 to 1,000 sweeps."""
    at, learned = growth_times(config), learned_values(LatticeConfig(rounds=config.rounds), seed)
    grown = grow(learned, config.side, config.copies, at, seed, config.temperature)
    sizes = np.array([domain_size(spins).mean().item() for spins in grown])
    middle = (at >= 20) & (at <= 1000)
    exponent = np.polyfit(np.log(at[middle]), np.log(sizes[middle]), 1)[0]
    return Measured({"growth_exponent": exponent}, curves={"domain_size": sizes})


# %% tags=["hide-input"]
TEN, FIVE = tuple(range(1, 11)), (1, 2, 3, 4, 5)
HEADLINE = "Ising: learned critical temperature {M4.critical_temperature}, exact 1.135"
MEASUREMENTS = [
    Measurement("M4", "mean_field", measure_mean_field, MeanFieldConfig(), TEN, (
        Metric("aligned", "% of spins", "mean", "all but 3 of 100"),)),
    Measurement("M4", "myopic", measure_mean_field, MeanFieldConfig(discount=0.0), TEN),
    Measurement("M4", "follow", measure_following, MeanFieldConfig(), TEN),
    Measurement("M4", "follow_myopic", measure_following, MeanFieldConfig(discount=0.0), TEN),
    Measurement("M4", "printed", measure_printed, PrintedConfig(), FIVE),
    Measurement("M4", "printed_right", measure_printed, PrintedConfig(every_row=False), FIVE),
    Measurement("M4", "quench", measure_quench, QuenchConfig(), TEN, (
        Metric("stuck_cold", "% of lattices", "mean"),
        Metric("stuck_cooled", "% of lattices", "mean"),
        Metric("stuck_mild", "% of lattices", "mean"))),
    Measurement("M4", "lattice", measure_lattice, LatticeConfig(), FIVE, (
        Metric("critical_temperature", "τ (exact: 1.1346)", "mean"),
        Metric("energy_error", "% of Onsager's, at most", "mean"),
        Metric("million_updates_per_second", "million", "median"))),
    Measurement("M4", "shuffled", measure_lattice, replace(CONTROL, teacher="shuffled"), FIVE),
    Measurement("M4", "untrained", measure_lattice, replace(CONTROL, teacher="nobody", rounds=1), FIVE),
    Measurement("M4", "beside_exact", measure_beside_exact, CONTROL, FIVE),
    Measurement("M4", "other_reward", measure_other_reward, OTHER, FIVE),
    Measurement("M4", "growth", measure_growth, GrowthConfig(), FIVE, (
        Metric("growth_exponent", "power of time (theory: 1/2)", "mean"),)),
    Measurement("M5", "cube", measure_lattice, CUBES, FIVE, (
        Metric("critical_temperature", "τ (known: 2.256)", "mean"),)),
]  # fmt: skip
