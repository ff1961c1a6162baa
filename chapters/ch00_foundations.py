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
# # 00 · Foundations: values, policies, and the two together
#
# <!-- card: Neural Q-learning, DQN, policy gradients and actor–critic, from a grid of twelve cells to a pole that stands. -->
#
# **What you will build.** A network that learns to cross a small grid, and shows how knowledge of a reward travels
# backwards; a deep Q-network that balances a pole, with each of its two stabilisers switched off in turn; the policy
# gradient, with the variance of its estimate measured; and an actor–critic, which is both at once.
#
# | | |
# |---|---|
# | **You need** | Python, NumPy, and a little PyTorch: a network, a loss, an optimiser. No reinforcement learning. |
# | **Time** | About two minutes for all cells on one core. The first result is immediate. |
# | **Memory** | About 2.2 GB. No GPU. |
# | **Budget** | `RLBOOK_BUDGET` is `laptop` unless you set it; the next cell shows it. |
#
# The chapter accompanies chapters 7 to 10 of a set of study notes on [Saito (2022)](../book/bibliography.md#saito2022).
# Its systems are rebuilt here from scratch and measured over several seeds; where the printed code goes wrong, you will
# see the symptom.

# %%
import copy
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, pairwise
from typing import NamedTuple

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from rlbook_utils import plots, results
from rlbook_utils.checkpoint import as_tensors, load_checkpoint, random_state, restore_random
from rlbook_utils.config import budget, by_budget, check_config, knob
from rlbook_utils.definitions import CHAPTERS
from rlbook_utils.exercises import check
from rlbook_utils.numbers import spread_of
from rlbook_utils.replay import Experience, NStep, Replay
from rlbook_utils.results import Measured, Measurement, Metric
from rlbook_utils.rollout import (
    Policy,
    Transition,
    episode_returns,
    make_vector,
    spread,
    transitions,
)
from rlbook_utils.run import Progress, watch
from rlbook_utils.video import record, show_clip
from rlbook_utils.widgets import image_slider, panel, scrubber, show

plots.use_style()

# %% tags=["remove-stderr"]
versions = f"torch {torch.__version__} · gymnasium {gym.__version__} · numpy {np.__version__}"
print(f"budget {budget()} · {results.cores()} cores · {versions}")

# %% [markdown]
# ## A world small enough to solve exactly
#
# An agent sees a **state** $s$, takes an **action** $a$, receives a **reward** $r$ and finds itself in the next state
# $s'$. It wants a large **return**, the sum of rewards to come, each step discounted once more by $\gamma$. A $\gamma$
# below 1 makes sooner rewards count more and keeps endless sums finite:
#
# $$
# G_t = r_t + \gamma\, r_{t+1} + \gamma^2 r_{t+2} + \dots
# $$
#
# An **episode** runs from a start to an end; a **policy** is a rule that chooses actions.
#
# Our first world has twelve cells. The agent starts at the bottom left, the goal at the top right pays $+1$ and ends
# the episode, the cell below it holds a bomb that costs $1$ for every move that ends on it, and one cell is a wall. A
# move into a wall or off the grid leaves the agent where it is.

# %%
ROWS, COLUMNS = 3, 4
MOVES = ((0, -1), (0, 1), (-1, 0), (1, 0))  # left, right, up, down
START, GOAL, BOMB, WALL = 8, 3, 7, 5  # cells numbered row by row from the top left
OPEN = tuple(cell for cell in range(ROWS * COLUMNS) if cell not in (GOAL, WALL))


def cell_after(cell: int, action: int) -> int:
    """Where ``action`` leads from ``cell``."""
    row, column = np.add(divmod(cell, COLUMNS), MOVES[action])
    inside = 0 <= row < ROWS and 0 <= column < COLUMNS
    after = int(row * COLUMNS + column) if inside else WALL
    return cell if after == WALL else after


NEXT_CELL = np.array([[cell_after(cell, a) for a in range(4)] for cell in range(12)])  # [12, A]
GRID_REWARDS = 1.0 * (NEXT_CELL == GOAL) - 1.0 * (NEXT_CELL == BOMB)  # [12, A]
ONE_HOT = torch.eye(12)

# %% [markdown]
# The **action value** $Q(s, a)$ is the return to expect after taking $a$ in $s$ and acting as well as possible from
# then on. It satisfies Bellman's equation,
#
# $$
# Q(s, a) = r + \gamma \max_{a'} Q(s', a'),
# $$
#
# where the second term is missing if the episode ends at $s'$. (Nothing here is random. Where chance decides, the right
# side is the average over $r$ and $s'$, and the squared error below learns that average, since the mean minimises it.)
# With the rules of the world in hand, repeating this assignment for all states and actions at once (**value
# iteration**) finds $Q$ exactly. That is our measure for what follows.


# %%
def exact_q(discount: float) -> np.ndarray:
    """The grid's optimal action values by value iteration: [12, A]."""
    q = np.zeros((12, 4))
    for _ in range(1000):
        best_next = np.where(NEXT_CELL == GOAL, 0.0, q.max(1)[NEXT_CELL])  # [12, A]
        q = GRID_REWARDS + discount * best_next
    return q


# %%
def draw_q(axes: Axes, q: np.ndarray, title: str) -> None:
    """Action values [12, A] as four triangles a cell, with an arrow along the best."""
    corners = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]]) / 2
    sides = {0: corners[[0, 1]], 1: corners[[2, 3]], 2: corners[[1, 2]], 3: corners[[3, 0]]}
    ways = np.array([[column, -row] for row, column in MOVES])  # as arrows: x, y
    centres = np.array([[cell % COLUMNS, -(cell // COLUMNS)] for cell in range(12)])
    shapes = [[centres[c], *(centres[c] + sides[a])] for c in OPEN for a in range(4)]
    colours = {"array": q[list(OPEN)].ravel(), "cmap": "PuOr", "clim": (-1.1, 1.1)}
    axes.add_collection(PolyCollection(shapes, edgecolor="white", **colours))
    frames = {GOAL: ("#CFE8DC", "none"), WALL: (plots.INK, "none"), START: ("none", plots.COLOURS[0]),
              BOMB: ("none", plots.COLOURS[1])}  # fmt: skip
    for cell, (inside, border) in frames.items():
        box = {"facecolor": inside, "edgecolor": border, "linewidth": 3}
        axes.add_patch(plt.Rectangle(centres[cell] - 0.47, 0.94, 0.94, **box))
    axes.annotate("goal\n+1", centres[GOAL], color="#333333", ha="center", va="center")
    for cell in OPEN:
        along = 0.17 * ways[q[cell].argmax()]
        style = {"arrowstyle": "-|>", "color": "black"}
        axes.annotate("", centres[cell] + along, centres[cell] - along, arrowprops=style)
        for action, value in enumerate(q[cell]):
            text = {"fontsize": 6.5, "color": "white" if abs(value) > 0.6 else "#333333"}
            where = centres[cell] + 0.34 * ways[action]
            axes.annotate(f"{value:.2f}", where, ha="center", va="center", **text)
    axes.set(xlim=(-0.55, 3.55), ylim=(-2.55, 0.55), aspect="equal", title=title)
    axes.axis("off")


# %%
# NBVAL_CHECK_OUTPUT
GRID_DISCOUNT = 0.9
figure, axes = plt.subplots(figsize=(5.2, 3.9))
draw_q(axes, exact_q(GRID_DISCOUNT), "exact action values, γ = 0.9")
plt.show()
print("value of the start:", exact_q(GRID_DISCOUNT)[START].max().round(4), "= 0.9^4")

# %% [markdown]
# *Each cell's four triangles are the values of its four moves, orange below zero and violet above; arrows point along
# the best. The start has a blue frame, the bomb an orange one, the grey cell is the wall. Values shrink by a factor
# $0.9$ with every step away from the goal. A move onto the bomb is worth $-1 + 0.9 \cdot 1 = -0.1$: it costs one, and
# from there the goal is next door. From the start two paths of five moves avoid the bomb, and both are best.*
#
# ## A network instead of a table
#
# Twelve cells fit in a table. The states of most worlds do not, so a network $Q_\theta$ takes the table's place: a
# state goes in, a value for every action comes out. **Q-learning** does not know the rules either; it acts, and after
# every single step moves its value toward what the step revealed, the **TD target** (temporal difference: two
# estimates, one step apart):
#
# $$
# L(\theta) = \Big( \underbrace{r + \gamma \max_{a'} Q_\theta(s', a')}_{\text{target, held fixed}} -
# Q_\theta(s, a) \Big)^2 .
# $$
#
# Held fixed means that no gradient flows through the target: it is a number to aim at. The settings are the source's:
# one-hot states, 100 hidden units, plain gradient descent with rate $0.01$, and an **ε-greedy** agent, which plays a
# random move with probability $0.1$ and otherwise the one it values most.


# %%
@dataclass(frozen=True)
class GridConfig:
    """Neural Q-learning on the grid, with the source's settings."""

    episodes: int = knob(1000, 1, 5000, "episodes to learn from")
    epsilon: float = knob(0.1, 0.01, 1.0, "chance of a random move")
    discount: float = knob(GRID_DISCOUNT, 0.0, 0.99, "gamma")
    learning_rate: float = knob(0.01, 0.001, 0.5, "step size of gradient descent", step=0.001)

    def __post_init__(self) -> None:
        check_config(self)


def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers with ReLU between them; no activation on the output."""
    layers = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def grid_loss(net: nn.Module, cell: int, action: int, discount: float) -> torch.Tensor:
    """The squared TD error of one move."""
    after, states = NEXT_CELL[cell, action], ONE_HOT.to(next(net.parameters()).device)
    with torch.no_grad():
        best_next = 0.0 if after == GOAL else net(states[after]).max()
        target = GRID_REWARDS[cell, action] + discount * best_next
    return (target - net(states[cell])[action]) ** 2


# %% [markdown]
# Training code in this book is a **generator**: it does one unit of work, yields its `Progress`, and waits. The
# notebook, the panels, the tests and the measurements all drive the same generator. Everything random comes from the
# seed and from what a run's state holds, so that a run can stop anywhere and go on as if it had not.


# %%
def grid_values(net: nn.Module) -> np.ndarray:
    """A network's action values for every cell: [12, A]."""
    with torch.no_grad():
        return net(ONE_HOT.to(next(net.parameters()).device)).cpu().double().numpy()


def greedy_cells(q: np.ndarray) -> list[int]:
    """The cells that the best moves of ``q`` [12, A] lead through from the start, 20 at most."""
    cells = [START]
    while cells[-1] != GOAL and len(cells) < 20:
        cells.append(int(NEXT_CELL[cells[-1], q[cells[-1]].argmax()]))
    return cells


# %%
def learn_grid(
    config: GridConfig, seed: int, state: dict | None = None, device: str = "cpu"
) -> Iterator[Progress]:
    """Q-learning with a 12-100-4 network, one update a move (Saito 2022, chapter 7).

    state: {"episode", "net", "metrics"}.
    """
    torch.manual_seed(seed)
    net = mlp(12, 100, 4).to(device)
    state = state or {"episode": 0}
    if state["episode"]:
        net.load_state_dict(as_tensors(state["net"]))
    optimiser = torch.optim.SGD(net.parameters(), config.learning_rate)
    while True:
        if state["episode"] < config.episodes:
            rng = np.random.default_rng([seed, state["episode"]])
            losses = learn_grid_episode(net, optimiser, config, rng)
            steps = len(greedy_cells(grid_values(net))) - 1
            metrics = {"loss": float(np.mean(losses)), "greedy_steps": steps}
            weights = copy.deepcopy(net.state_dict())
            state = {"episode": state["episode"] + 1, "net": weights, "metrics": metrics}
        frozen = partial(copy.deepcopy, state)
        yield Progress(state["episode"], config.episodes, state["metrics"], frozen, "episode")
        if state["episode"] >= config.episodes:
            return


# %%
def learn_grid_episode(
    net: nn.Module,
    optimiser: torch.optim.Optimizer,
    config: GridConfig,
    rng: np.random.Generator,
) -> list[float]:
    """One ε-greedy episode, learning after every move: its losses."""
    cell, losses = START, []
    while cell != GOAL:
        explore = rng.random() < config.epsilon
        action = int(rng.integers(4)) if explore else int(grid_values(net)[cell].argmax())
        loss = grid_loss(net, cell, action, config.discount)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        cell = int(NEXT_CELL[cell, action])
    return losses


# %% tags=["F1"]
grid_snapshots = {}


def remember_values(progresses: Iterator[Progress]) -> Iterator[Progress]:
    for progress in progresses:
        if progress.step in (1, 3, 6) or progress.step % (10 if progress.step < 120 else 100) == 0:
            weights = progress.state()["net"]
            net = mlp(12, 100, 4)
            net.load_state_dict(weights)
            grid_snapshots[progress.step] = grid_values(net)
        yield progress


grid_config = by_budget(smoke=GridConfig(episodes=60), laptop=GridConfig())
grid_run = watch(remember_values(learn_grid(grid_config, seed=1)), "loss")
learned_q = grid_snapshots[grid_config.episodes]
error = np.abs(learned_q - exact_q(grid_config.discount))
path = greedy_cells(learned_q)
best_moves = learned_q[path[:-1]].argmax(1)
print(f"the greedy path takes {len(path) - 1} moves, and the shortest is 5")
print(f"largest error of its moves' values {error[path[:-1], best_moves].max():.3f}")
print(f"largest error of any move in any cell {error[list(OPEN)].max():.3f}")

# %% [markdown]
# *The mean squared TD error of each episode, live. It rises when the agent comes upon something new, the goal or the
# bomb, and falls as that news is digested.*

# %%
figure, panels = plt.subplots(1, 2, figsize=(9.5, 3.6))
draw_q(panels[0], learned_q, f"learned in {grid_config.episodes} episodes")
draw_q(panels[1], exact_q(grid_config.discount), "exact")
plt.show()

# %% [markdown]
# *Left the network's values, right the exact ones. Along the path that the agent walks they agree to about a hundredth.
# Off the path they need not: the moves onto the bomb carry whatever the network made up from their neighbours, because
# an agent that has found its way hardly ever tries them. The loss above is small all the same. It is an average over
# what the agent does, and says nothing about what it does not.* <!-- held: values_on_and_off_the_path -->
#
# ### Watch the value travel
#
# Nothing tells the agent that the goal exists until it stumbles on it. From then on the value spreads backwards, one
# cell after another: a move is worth something once the cell it leads to is. Step through the episodes, or press play.


# %%
def grid_picture(q: np.ndarray, title: str) -> bytes:
    """``draw_q`` as a small PNG."""
    figure, axes = plt.subplots(figsize=(4.6, 3.5), dpi=72)
    draw_q(axes, q, title)
    picture = plots.to_png(figure)
    plt.close(figure)
    return picture


pictures = [grid_picture(q, f"after episode {e}") for e, q in grid_snapshots.items()]
show(scrubber(pictures, "picture", interval=500), pictures[0])

# %% [markdown]
# *The network's values as training goes on. The cell beside the goal knows first, then its neighbour, and so on back to
# the start, which takes the better part of a hundred episodes: each update carries a value one step further, and with
# this learning rate only a part of it. Weights are shared, so cells that nobody visits change as well.*
#
# ### How many episodes does it take?
#
# The source says that 1,000 episodes are enough. Over ten seeds we ask: from which episode on is the greedy path the
# shortest one, fifty times running?

# %%
stored = results.curves("F1", "grid", "loss")  # [S, T]
smooth = np.apply_along_axis(lambda y: np.convolve(y, np.ones(20) / 20, "valid"), 1, stored)
figure, axes = plt.subplots(figsize=(7.2, 2.8))
episodes = np.arange(smooth.shape[1]) + 20
plots.bands(axes, episodes, smooth, "mean of 20 episodes", statistic="median")
axes.set(xlabel="episode", ylabel="squared TD error", yscale="log")
axes.legend()
plt.show()
converged = [run["metrics"]["episodes_to_converge"] for run in results.runs("F1", "grid")]
print("shortest path from episode", [int(episode) for episode in converged])

# %% [markdown]
# *Squared TD error, smoothed over twenty episodes, on a logarithmic axis: each seed, their median and its 95 %
# interval. Half of the seeds have found the path by episode 59, the last by episode 108; the rest refines the values.
# It does not settle completely: every update at one cell moves the values of the others a little, and now and then,
# mostly for a single episode, the greedy path loses its way again.* <!-- held: grid_converges -->
#
# ### What the agent never tries, it never learns
#
# Q-learning is **off-policy**: the target's $\max$ asks about the best next move, whatever move was really made. So it
# can learn the values of the best policy while behaving badly. The slider shows what 1,000 episodes teach an agent that
# explores more or less.

# %%
EPSILONS = (0.02, 0.1, 0.3, 0.6, 0.9)


def epsilon_picture(epsilon: float) -> bytes:
    """The stored values learned with ``epsilon``, of the first seed, and the errors over seeds."""
    values = results.curves("F1", "exploration", f"epsilon={epsilon}").reshape(-1, 12, 4)
    errors = np.abs(values - exact_q(GRID_DISCOUNT))[:, list(OPEN)]  # [S, cells, A]
    return grid_picture(
        values[0],
        f"ε = {epsilon}: largest error {errors.max((1, 2)).mean():.2f}, mean {errors.mean():.2f}",
    )


pictures = {str(epsilon): epsilon_picture(epsilon) for epsilon in EPSILONS}
show(image_slider(pictures, "exploration ε", start=1), pictures["0.1"])

# %% [markdown]
# *Values after 1,000 episodes with different ε; the title gives the errors, averaged over three seeds. With little
# exploration the path is right and the rest is guesswork. The more the agent errs, the better it knows every corner,
# and at ε = 0.9, where it moves almost at random, it has learned the values of an agent that never errs. The price is
# paid while learning: the more it errs, the longer its episodes, and the more bombs in each.*
# <!-- held: exploration -->
#
# ## A pole to balance: the deep Q-network
#
# `CartPole-v1` [(Barto et al., 1983)](../book/bibliography.md#barto1983) has no cells: the state is the cart's position
# and velocity and the pole's angle and angular velocity. Each step earns 1. The episode *terminates* when the pole
# leans beyond 12° or the cart leaves the track, and is *truncated* by the clock after 500 steps. In such worlds the
# recipe of the grid can become unreliable, for two reasons, and the **deep Q-network** (DQN) of
# [Mnih et al. (2015)](../book/bibliography.md#mnih2015) answers each with a device.
#
# - **Successive steps resemble each other.** A network that learns from one stretch of an episode forgets the others.
#   *Experience replay* stores transitions and learns from a random handful of old and new ones.
# - **The target moves with what it teaches.** Every update of $\theta$ changes $\max_{a'} Q_\theta(s', a')$ too, so an
#   overestimate can feed itself. A *target network* $Q_{\theta^-}$, a copy made every so many updates, supplies the
#   targets and stands still between copies:
#
# $$
# y = r + \gamma\, \mathbb{1}[s' \text{ not terminal}]\, \max_{a'} Q_{\theta^-}(s', a'),
# \qquad L(\theta) = \frac{1}{B} \sum_{i=1}^{B} \big( y_i - Q_\theta(s_i, a_i) \big)^2 .
# $$
#
# The indicator deserves a second look. It is 0 only where the world ended. An episode that the clock cut short would
# have gone on earning, so its target still includes $s'$: **bootstrap on truncation, stop only on termination**. (To
# *bootstrap* is to let the network's own estimate stand for the rewards still to come.)

# %%
OBS_SCALE = np.array([1, 1, 10, 1], np.float32)  # radians are small beside metres


def as_input(obs: np.ndarray, device: str | torch.device = "cpu") -> torch.Tensor:
    """CartPole observations as the networks see them. [..., 4] -> [..., 4]."""
    return torch.from_numpy(obs * OBS_SCALE).to(device)


def greedy_policy(net: nn.Module) -> Policy:
    """The action with the largest output, for values and logits alike."""
    device = next(net.parameters()).device

    @torch.no_grad()
    def policy(obs: np.ndarray) -> np.ndarray:
        return net(as_input(obs, device)).argmax(-1).cpu().numpy()

    return policy


# %%
@dataclass(frozen=True)
class DQNConfig:
    """DQN on CartPole. ``capacity`` = ``num_envs`` is no replay, ``sync_every`` = 1 no target network."""

    steps: int = knob(48_000, 960, 192_000, "environment steps", step=960)
    capacity: int = knob(50_000, 16, 100_000, "transitions that the replay holds", step=16)
    sync_every: int = knob(10, 1, 1000, "updates between copies to the target network")
    learning_rate: float = knob(2e-3, 1e-5, 1e-2, "of Adam at the start; falls to 0", step=1e-4)
    discount: float = knob(0.99, 0.5, 0.999, "gamma", step=0.001)
    final_epsilon: float = knob(0.04, 0.0, 1.0, "chance of a random action after the first sixth")
    batch_size: int = 128
    num_envs: int = 16
    updates: int = 2
    huber: bool = False

    def __post_init__(self) -> None:
        check_config(self)
        if self.capacity < self.num_envs:
            raise ValueError(
                f"The replay holds {self.capacity} transitions, but a step makes {self.num_envs}."
            )


# %% [markdown]
# The heart of the method is four lines. `batch.discounts` is $\gamma$, and 0 where the episode terminated; `NStep` and
# `Replay`, which the book's later chapters share, prepare it.


# %%
@torch.no_grad()
def dqn_targets(target_net: nn.Module, batch: Experience) -> torch.Tensor:
    """The TD targets y of a batch of tensors (Mnih et al. 2015, algorithm 1): [B]."""
    return batch.rewards + batch.discounts * target_net(batch.next_obs).max(1).values


def dqn_loss(
    net: nn.Module, target_net: nn.Module, batch: Experience, huber: bool = False
) -> torch.Tensor:
    """The mean squared TD error of a batch of tensors, or its Huber loss."""
    chosen = net(batch.obs).gather(1, batch.actions[:, None])[:, 0]  # [B]
    loss = F.smooth_l1_loss if huber else F.mse_loss
    return loss(chosen, dqn_targets(target_net, batch))


def as_batch(rows: Experience, device: str | torch.device = "cpu") -> Experience:
    """Rows of the replay as tensors, observations scaled."""
    others = {
        f: torch.from_numpy(getattr(rows, f)).to(device)
        for f in ("actions", "rewards", "discounts")
    }
    return Experience(
        obs=as_input(rows.obs, device), next_obs=as_input(rows.next_obs, device), **others
    )


# %% [markdown]
# Around it, the bookkeeping: sixteen carts step side by side, each such step is followed by two updates, and the
# learning rate falls to zero over the run, so that the policy comes to rest. After every 960 environment steps the
# greedy policy plays twenty episodes for the curve. Nothing is chosen by them: the agent is what the last update
# leaves, and its score comes from a hundred fresh episodes. Training, curve and score each get random numbers of their
# own from the seed, which no other seed shares.

# %%
TRAINING, WATCHING, SCORING, CHANCE = range(4)  # what a seed's episodes are for: each use its own
VECTOR_STEPS, WARM_UP = 60, 1000  # steps of all carts between reports; transitions before learning


def epsilon_at(config: DQNConfig, env_steps: int) -> float:
    """Exploration falls linearly from 1 during the first sixth of a run."""
    return max(config.final_epsilon, 1 - (1 - config.final_epsilon) * 6 * env_steps / config.steps)


class DQN(NamedTuple):
    """What a DQN run learns: network, its lagging copy, optimiser."""

    net: nn.Module
    target_net: nn.Module
    optimiser: torch.optim.Optimizer


def make_dqn(config: DQNConfig, seed: int, device: str = "cpu") -> DQN:
    torch.manual_seed(seed)
    net = mlp(4, 128, 128, 2).to(device)
    return DQN(net, copy.deepcopy(net), torch.optim.Adam(net.parameters(), config.learning_rate))


# %%
def dqn_step(dqn: DQN, batch: Experience, config: DQNConfig, state: dict) -> float:
    """One gradient step, counted in ``state``, at the rate that its ``env_steps`` say: the loss."""
    remaining = max(0.0, 1 - state["env_steps"] / config.steps)
    dqn.optimiser.param_groups[0]["lr"] = config.learning_rate * remaining
    loss = dqn_loss(dqn.net, dqn.target_net, batch, config.huber)
    dqn.optimiser.zero_grad()
    loss.backward()
    dqn.optimiser.step()
    state["updates"] += 1
    if state["updates"] % config.sync_every == 0:
        dqn.target_net.load_state_dict(dqn.net.state_dict())
    return loss.item()


def explorer(dqn: DQN, epsilon: Callable[[], float], rng: np.random.Generator) -> Policy:
    """The ε-greedy policy of a network that goes on learning."""
    greedy = greedy_policy(dqn.net)

    def policy(obs: np.ndarray) -> np.ndarray:
        explore = rng.random(len(obs)) < epsilon()
        return np.where(explore, rng.integers(2, size=len(obs)), greedy(obs))

    return policy


# %%
def train_dqn(
    config: DQNConfig, seed: int, state: dict | None = None, device: str = "cpu"
) -> Iterator[Progress]:
    """DQN on CartPole (Mnih et al. 2015, algorithm 1), sixteen environments at a time.

    state: {"env_steps", "updates", "episodes", "dqn", "replay", "random", "metrics"}.
    """
    dqn, rng = make_dqn(config, seed, device), np.random.default_rng(seed)
    replay = Replay(config.capacity)
    state = {"env_steps": 0, "updates": 0, "episodes": 0} if state is None else {**state}
    if state["env_steps"]:
        for part, saved in zip(dqn, as_tensors(state["dqn"]), strict=True):
            part.load_state_dict(saved)
        replay.add(Experience(**state["replay"]))
        restore_random(state["random"], rng)
    policy = explorer(dqn, lambda: epsilon_at(config, state["env_steps"]), rng)
    envs, n_step = make_vector("CartPole-v1", config.num_envs), NStep(1, config.discount)
    stream = transitions(envs, policy, spread((TRAINING, seed, state["env_steps"]), 1)[0])
    while True:
        if state["env_steps"] < config.steps:
            for step in islice(stream, VECTOR_STEPS):
                replay.add(n_step(step))
                state["env_steps"] += config.num_envs
                state["episodes"] += int((step.terminated | step.truncated).sum())
                if replay.added >= WARM_UP or state["updates"]:
                    for _ in range(config.updates):
                        batch = as_batch(replay.sample(config.batch_size, rng), device)
                        dqn_step(dqn, batch, config, state)
            watched = spread((WATCHING, seed, state["env_steps"]), 1)[0]
            state["metrics"] = dqn_metrics(dqn.net, watched)
        now = partial(copy.deepcopy, dqn_state(state, dqn, replay) | {"random": random_state(rng)})
        yield Progress(state["env_steps"], config.steps, state["metrics"], now, "environment steps")
        if state["env_steps"] >= config.steps:
            return


# %%
def dqn_metrics(net: nn.Module, seed: int) -> dict[str, float]:
    """What a report says: the greedy policy's return, and the value of the upright pole."""
    found = episode_returns(greedy_policy(net), "CartPole-v1", 20, seed).mean()
    with torch.no_grad():
        upright = net(torch.zeros(4, device=next(net.parameters()).device)).max().item()
    return {"greedy_return": found, "value_of_start": upright}


def dqn_state(state: dict, dqn: DQN, replay: Replay) -> dict:
    """Counters, networks, optimiser and replay as they are now, the replay oldest first."""
    places = np.arange(replay.added - len(replay), replay.added) % replay.capacity
    parts = [copy.deepcopy(part.state_dict()) for part in dqn]
    return {**state, "dqn": parts, "replay": replay.rows(places)._asdict()}


# %% [markdown]
# The floor of every curve from here on is a policy that pushes left or right at random.


# %% tags=["F2"]
def random_return_of(episodes: int, seed: int) -> float:
    """Mean return on CartPole of pushing left or right at random."""
    rng = np.random.default_rng([CHANCE, seed])
    push = lambda obs: rng.integers(2, size=len(obs))
    return episode_returns(push, "CartPole-v1", episodes, spread((CHANCE, seed), 1)[0]).mean()


def net_of(weights: dict, *sizes: int) -> nn.Module:
    """A network with stored weights."""
    net = mlp(*sizes)
    net.load_state_dict(as_tensors(weights))
    return net


def score(net: nn.Module, seed: int, episodes: int = 100) -> float:
    """Mean return of a network's greedy policy over fresh episodes."""
    fresh = spread((SCORING, seed), 1)[0]
    return episode_returns(greedy_policy(net), "CartPole-v1", episodes, fresh).mean()


random_return = random_return_of(1000, seed=0)
dqn_config = by_budget(smoke=DQNConfig(steps=1920), laptop=DQNConfig())
dqn_run = watch(train_dqn(dqn_config, seed=1), floor=random_return)
dqn_net = net_of(dqn_run.state["dqn"][0], 4, 128, 128, 2)
print(
    f"mean return {score(dqn_net, seed=1):.1f} over 100 fresh episodes, random play {random_return:.1f}"
)
print(
    f"trained in {dqn_run.seconds:.0f} s: {dqn_run.state['updates']:,} updates, {dqn_run.state['episodes']:,} episodes"
)

# %% [markdown]
# *Return of the greedy policy against environment steps, live; the dotted line is random play. The curve leaps and
# falls back: a small change of the values can flip the preferred action in many states at once.*
# <!-- held: dqn_falls_back -->
#
# The source trains one cart for 300 episodes and copies every 20 episodes. We count environment steps, because an
# episode may last 9 of them or 500; the stored runs play 202 to 265 episodes. Our copy comes every ten updates, that
# is, every five steps of the sixteen carts. <!-- held: dqn_episodes -->


# %%
def dqn_action(obs: np.ndarray) -> int:
    return int(greedy_policy(dqn_net)(obs))


frames = record("CartPole-v1", dqn_action, seed=3, steps=200, every=2)
frames = [frame[150:330] for frame in frames]  # without the empty sky
show_clip(frames, 25, "Four seconds of an episode that random play ends in half of one.")

# %% [markdown]
# Change it yourself. *Train* runs with the sliders' values, *Stop* keeps what is there, and earlier curves stay in the
# background. Set the capacity to 16 to take the replay away, or copy to the target network after every update.


# %%
def draw_stored(
    axes: Axes, row: str, name: str, curve: str, every: float, label: str
) -> np.ndarray:
    """A stored curve over its seeds, [S, T], as a band; ``every``: how far apart on the axis its points are."""
    stored = results.curves(row, name, curve)
    plots.bands(axes, every * np.arange(1, stored.shape[1] + 1), stored, label, linewidth=1.5)
    return stored


def stored_picture(where: tuple, every: float, ylabel: str, floor: float) -> bytes:
    """A panel before its first training: the defaults' runs, stored under (row, name, curve), as a PNG."""
    figure = Figure(figsize=(7.2, 2.6))
    axes = figure.subplots()
    draw_stored(axes, *where, every, "default settings")
    axes.axhline(floor, color=plots.INK, linestyle=":", label="random policy")
    axes.set(xlabel="environment steps (thousands)", ylabel=ylabel, ylim=(0, 520))
    axes.legend(loc="lower right")
    return plots.to_png(figure)


where = ("F2", "dqn", "greedy_return")
preview = stored_picture(where, 0.96, "greedy return", random_return)
dqn_panel = panel(train_dqn, dqn_config, floor=random_return, preview=preview)

# %% [markdown]
# *Return of the greedy policy for the default settings: each of ten seeds, their mean and its 95 % interval.*
#
# ### What each device buys
#
# Now we take them away. *No target network* copies after every update, so the targets come from the live network. *No
# replay* keeps only the sixteen transitions of the step just made, and learns from those. In between lies a *short
# replay*, which remembers eight steps. The number of steps, updates and everything else stays the same. CartPole counts
# as **solved** where the mean return over a hundred episodes is at least 475, the threshold that Gymnasium gives.

# %%
ABLATION = {
    "replay and target network": "dqn",
    "no target network": "dqn_no_target",
    "short replay": "dqn_short_replay",
    "no replay": "dqn_no_replay",
    "neither": "dqn_neither",
}
SOLVED = gym.spec("CartPole-v1").reward_threshold  # 475
figure, (ends, totals) = plt.subplots(1, 2, figsize=(9.5, 3.0), sharey=True)
throughout = {}
for row, (label, name) in enumerate(ABLATION.items()):
    finals = np.array([run["metrics"]["return"] for run in results.runs("F2", name)])  # [S]
    throughout[label] = results.curves("F2", name, "greedy_return").mean(1)  # [S]
    ends.plot(finals, row + np.linspace(-0.25, 0.25, len(finals)), "o", color=plots.COLOURS[row])
    print(f"{label:26s} {(finals >= SOLVED).sum():2d} of {len(finals):2d} seeds end solved")
ends.axvline(SOLVED, color=plots.INK, linestyle="--", label="solved")
ends.axvline(random_return, color=plots.INK, linestyle=":", label="random policy")
ends.set(xlabel="return at the end, 100 fresh episodes", xlim=(0, 510))
ends.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.4, 0))
plots.bars(totals, throughout)
totals.set(xlabel="greedy return, mean over the run", xlim=(0, 510))
plt.show()

# %% [markdown]
# *Left: each seed's greedy policy at the end. Right: return of the greedy policy, averaged over the whole run: each
# seed as a circle, their mean and its 95 % interval.* The textbook's story does not come true here. With both devices
# two of ten seeds end unsolved, of the forty runs without one or the other four do, and the final scores do not tell
# the five apart. Over the whole run, leaving out the replay costs something: a mean return of 343 instead of 401.
# Leaving out the target network, or even both, makes no difference beyond chance, and a replay of eight steps does as
# well as a long one. One reason may be that sixteen carts are themselves a mixed diet. What the target network does
# shows in the values. <!-- held: ablation -->

# %%
figure, axes = plt.subplots(figsize=(7.2, 3.0))
for label, name in ABLATION.items():
    draw_stored(axes, "F2", name, "value_of_start", 0.96, label)
axes.axhline(100, color=plots.INK, linestyle=":", label="largest possible")
axes.set(
    xlabel="environment steps (thousands)",
    ylabel="value of the upright pole",
    yscale="log",
    ylim=(10, 2000),
)
axes.legend(fontsize=7, ncols=2)
plt.show()

# %% [markdown]
# *The learned value of an upright pole, on a logarithmic axis: each seed, their mean and its 95 % interval. No return
# can exceed $1 / (1 - 0.99) = 100$.* With the full replay the values overshoot: the $\max$ picks whatever is
# overestimated, and bootstrapping hands it on. Half of the seeds end above 145 with a target network, and above 336
# without. A network that learns from its newest steps alone values the pole about right, target network or not. One
# reading: a long memory holds actions that were given up long ago, and as nobody tries them again, nothing corrects
# their values. Then the two devices belong together: the replay brings variety, and the target network makes it
# bearable. [Chapter 2](ch02_distributional_dqn.ipynb) treats the overestimate itself. <!-- held: overestimates -->
#
# ## Spot the bug: three ways to spoil a value
#
# Each of the following runs without an error message. For the first two we learn the values $V(s)$, the return to
# expect from $s$ under a *fixed* policy, where the truth is known, with the same targets, replay and target network as
# above.


# %%
def gather(
    envs: gym.vector.VectorEnv,
    policy: Policy,
    steps: int,
    keep: Callable[[Transition], np.ndarray],
    ends: Callable[[Transition], np.ndarray],
    discount: float = 0.98,
) -> Experience:
    """One-step experience under a policy. keep, ends: which rows enter, and which do not bootstrap: [N]."""
    parts = []
    for step in islice(transitions(envs, policy, seed=0), steps):
        discounts = (discount * ~ends(step)).astype(np.float32)
        rows = (step.obs, step.actions, step.rewards.astype(np.float32), discounts, step.next_obs)
        parts.append([column[keep(step)] for column in rows])
    envs.close()
    return Experience(*(np.concatenate(column) for column in zip(*parts, strict=True)))


# %%
def fit_values(experience: Experience, updates: int, seed: int = 0) -> Callable:
    """TD learning of V with a target network: a function of observations [..., 4] -> [...]."""
    torch.manual_seed(seed)
    replay, rng = Replay(len(experience.rewards)), np.random.default_rng(seed)
    replay.add(experience)
    net = mlp(4, 64, 64, 1)
    target_net, optimiser = copy.deepcopy(net), torch.optim.Adam(net.parameters(), 1e-3)
    for update in range(updates):
        batch = as_batch(replay.sample(256, rng))
        loss = F.mse_loss(net(batch.obs)[:, 0], dqn_targets(target_net, batch))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if update % 10 == 0:
            target_net.load_state_dict(net.state_dict())
    return lambda obs: net(as_input(obs))[..., 0].detach().numpy()


# %% [markdown]
# ### 1. The clock mistaken for the end of the world
#
# ```python
# done = terminated | truncated
# target = reward + discount * (1 - done) * next_value
# ```
#
# The policy below does not let the pole fall, so with a reward of 1 a step its value is $1 / (1 - \gamma) = 50$ in
# every state it visits, at $\gamma = 0.98$. We let the clock cut its episodes after 100 steps, and learn its values
# both ways.


# %%
def balance(obs: np.ndarray) -> np.ndarray:
    """Push toward the side to which the pole is falling."""
    return (obs[:, 2] + 0.5 * obs[:, 3] > 0).astype(np.int64)


lasted = episode_returns(balance, "CartPole-v1", 100, seed=1)
print(f"the policy's return over 100 episodes: mean {lasted.mean():.0f}, least {lasted.min():.0f}")
updates = by_budget(smoke=100, laptop=4000)
valid = lambda step: step.valid
ends = {
    "stop where terminated": lambda step: step.terminated,
    "stop where done": lambda step: step.terminated | step.truncated,
}
native = {"vectorization_mode": "vector_entry_point", "max_episode_steps": 100}
figure, axes = plt.subplots(figsize=(7.2, 2.8))
for label, end in ends.items():
    envs = gym.make_vec("CartPole-v1", num_envs=64, **native)
    values = fit_values(gather(envs, balance, 505, valid, end), updates)
    envs = gym.make_vec("CartPole-v1", num_envs=64, **native)
    episode = np.stack([step.obs for step in islice(transitions(envs, balance, seed=9), 100)])
    axes.plot(np.arange(100), values(episode).mean(1), label=label)
axes.axhline(50, color=plots.INK, linestyle=":", label="truth")
axes.set(xlabel="step of the episode", ylabel="learned value", ylim=(0, 55))
axes.legend(loc="lower right")
plt.show()

# %% [markdown]
# *Mean learned value along an episode. Bootstrapping on truncation gives 50 everywhere. Stopping wherever the episode
# is done makes the clock look like a fall that strikes out of the blue: all values are about a third too low, those of
# states that come late in an episode most. An agent that learns from them has reason to fear perfectly good states.*
#
# ### 2. The step that never happened
#
# ```python
# next_obs, reward, terminated, truncated, info = envs.step(actions)
# replay.add(obs, actions, reward, terminated, next_obs)    # every row, every step
# ```
#
# In Gymnasium's default mode the step *after* an end ignores its action, resets that environment and returns reward 0.
# Stored as a transition it says: from a fallen pole, one step leads to a fresh start. Random play, learned with and
# without those rows, against the returns that followed in other episodes:


# %%
def followed(
    policy: Policy, episodes: int, discount: float = 0.98
) -> tuple[np.ndarray, np.ndarray]:
    """States of whole CartPole episodes, [M, 4], and the discounted return that followed each, [M]."""
    playing, rows = np.ones(episodes, bool), []
    for step in transitions(make_vector("CartPole-v1", episodes), policy, seed=9):
        rows.append((step.obs, playing))
        playing = playing & ~(step.terminated | step.truncated)
        if not playing.any():
            break
    obs, alive = (np.stack(column) for column in zip(*rows, strict=True))  # [T, E, 4], [T, E]
    left = alive[::-1].cumsum(0)[::-1]  # steps from here to the end, each with a reward of 1
    return obs[alive], ((1 - discount**left) / (1 - discount))[alive]


# %%
rng = np.random.default_rng(0)
push = lambda obs: rng.integers(2, size=len(obs))
keeps = {
    "reset rows left out": valid,
    "reset rows stored": lambda step: np.ones(len(step.valid), bool),
}
learned = {}
for label, keep in keeps.items():
    experience = gather(
        make_vector("CartPole-v1", 64), push, 400, keep, ends["stop where terminated"]
    )
    learned[label] = fit_values(experience, updates)
random_obs, returns = followed(push, episodes=by_budget(smoke=64, laptop=1024))
angles = np.abs(np.degrees(random_obs[:, 2]))
bins = np.digitize(angles, np.arange(0, 12.5, 1.5))  # 1 to 8
figure, axes = plt.subplots(figsize=(7.2, 2.8))
centres = np.arange(0.75, 12, 1.5)
for label, values in learned.items():
    estimates = values(random_obs)
    axes.plot(centres, [estimates[bins == i].mean() for i in range(1, 9)], "o-", label=label)
truth = [returns[bins == i].mean() for i in range(1, 9)]
axes.plot(centres, truth, color=plots.INK, linestyle=":", label="truth")
axes.set(xlabel="lean of the pole (degrees)", ylabel="value", ylim=(0, None))
axes.legend()
plt.show()

# %% [markdown]
# *Mean value of random play's states against the lean of the pole. Without the reset rows the values follow the truth.
# With them, a pole that lies on the ground is worth as much as a fresh start a step later, and because a network
# generalises, a pole that is about to fall looks almost as good as one further from falling: near the limit its value
# is several times too high.*
#
# ### 3. Large errors, capped
#
# ```python
# loss = torch.nn.functional.smooth_l1_loss(q, target)
# ```
#
# The Huber loss caps the gradient of every error beyond 1. In itself that is no mistake: DQN's authors clip so, on
# games whose rewards they clip too, and Stable-Baselines3 trains its DQN with it. But here values reach 100, and with a
# target that is copied every ten updates the cap does harm. The control holds the target still for a hundred updates,
# and makes eight updates a step instead of two, so that it copies often enough to learn.


# %%
def along_falls(net: nn.Module, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """64 carts under the greedy policy: the pole's lean in degrees, the value of the action taken, and its TD error."""
    stream = transitions(make_vector("CartPole-v1", 64), greedy_policy(net), seed=0)
    n_step = NStep(1, 0.99)
    parts = [n_step(step) for step in islice(stream, steps)]
    batch = as_batch(Experience(*(np.concatenate(column) for column in zip(*parts, strict=True))))
    with torch.no_grad():
        values = net(batch.obs).gather(1, batch.actions[:, None])[:, 0]  # [M]
    lean = np.degrees(batch.obs[:, 2].abs().numpy() / OBS_SCALE[2])
    return lean, values.numpy(), (dqn_targets(net, batch) - values).numpy()


# %%
figure, (ends, levels, falls) = plt.subplots(1, 3, figsize=(11, 3.0))
runs = {
    "squared, copy every 10": "dqn",
    "Huber, every 10": "dqn_huber",
    "squared, every 100": "dqn_slow",
    "Huber, every 100": "dqn_huber_slow",
}
for row, (label, name) in enumerate(runs.items()):
    finals = [run["metrics"]["return"] for run in results.runs("F2", name)]
    draw_stored(levels, "F2", name, "value_of_start", 0.96, label)
    ends.plot(finals, row + np.linspace(-0.25, 0.25, len(finals)), "o", color=plots.COLOURS[row])
ends.set_yticks(range(len(runs)), list(runs))
ends.invert_yaxis()
ends.axvline(SOLVED, color=plots.INK, linestyle="--")
ends.axvline(random_return, color=plots.INK, linestyle=":")
ends.set(xlabel="return at the end, 100 fresh episodes", xlim=(0, 510))
levels.axhline(100, color=plots.INK, linestyle=":")
levels.set(title="value of the upright pole", yscale="log", ylim=(1, 1e8))
levels.set_xlabel("environment steps (thousands)")
stored = load_checkpoint(results.RESULTS / "F2" / "dqn_huber_seed1.safetensors")["state"]
lean, values, errors = along_falls(net_of(stored["net"], 4, 128, 128, 2), 60)
for asks, colour in {"more": plots.COLOURS[0], "less": plots.COLOURS[1]}.items():
    chosen = (errors > 0) == (asks == "more")
    falls.plot(lean[chosen], values[chosen] / 1e6, ".", color=colour, markersize=3,
               label=f"target asks for {asks}: {chosen.mean():.0%}")  # fmt: skip
falls.set(xlabel="lean of the pole (degrees)", title="Huber, every 10: value in millions")
falls.legend(fontsize=7)
plt.show()

# %% [markdown]
# *Left: each seed's score, with random play dotted and the threshold of solved dashed. Middle: the learned value of the
# upright pole in the same colours, on a logarithmic axis: each seed, their mean and its 95 % interval; no return
# exceeds the dotted line. Right: values along the falls of one of the runs that went wrong.* With a copy every ten
# updates, squared errors end about half above the largest possible value; with the Huber loss, and nothing else
# changed, values run into the millions, and the policy stays below random play. With a copy every hundred updates the
# Huber loss no longer runs away: its values end between 101 and 114, those of squared errors between 113 and 136. Its
# policies remain poor: four of five seeds end unsolved, and with squared errors none. <!-- held: huber -->
#
# The right picture shows what went wrong. Values *rise* along the fall, so every step but the last finds a higher value
# behind it, and its target asks for more; only the last step, whose target is 1, asks for less. Capped, an error of
# millions pulls no harder than an error of 1, and what remains is a count: along the run's own falls nine steps in ten
# pull up, and one down. In a table the last step would learn its 1 all the same. A network's weights are shared, and
# the nine lift the tenth. <!-- held: huber_count -->
#
# ## Why learn a policy at all?
#
# A value method learns numbers and derives behaviour from them. A **policy method** makes the behaviour itself the
# network's output, $\pi_\theta(a \mid s)$, and raises the expected return $J(\theta)$ by gradient ascent. Three
# reasons:
#
# 1. **Direct.** A choice by value hangs on small differences between large numbers; good behaviour may be simpler.
# 2. **Continuous actions.** A $\max$ over all torques is a search of its own; a network can output a torque, or the
#    mean and spread of one.
# 3. **Smooth.** A greedy choice flips when two values cross, however small the change. Probabilities shift a little
#    when parameters shift a little.


# %%
def gaussian_policy_means(updates: int, seed: int) -> np.ndarray:
    """Policy gradient on one continuous action, spread 0.3, reward -(a - 1)²: means [updates + 1]."""
    rng, means = np.random.default_rng(seed), [-1.0]
    for _ in range(updates):
        actions = means[-1] + 0.3 * rng.standard_normal(32)
        rewards = -((actions - 1) ** 2)
        scores = (actions - means[-1]) / 0.3**2  # d log π / d mean
        means.append(means[-1] + 0.05 * np.mean((rewards - rewards.mean()) * scores))
    return np.array(means)


# %% tags=["F3"]
figure, (values, continuous, smooth) = plt.subplots(1, 3, figsize=(10, 2.9))
angle, speed = np.meshgrid(np.linspace(-0.2, 0.2, 80), np.linspace(-1.5, 1.5, 80))
obs = np.stack([0 * angle, 0 * angle, angle, speed], -1).astype(np.float32)
with torch.no_grad():
    q = dqn_net(as_input(obs)).numpy()  # [80, 80, A]
drawn = values.contourf(np.degrees(angle), speed, q.max(-1), levels=12, cmap="Greys", alpha=0.6)
values.contour(np.degrees(angle), speed, q[..., 1] - q[..., 0], levels=[0], colors=plots.COLOURS[1])
values.plot([-11.4, 11.4], [0.4, -0.4], color=plots.COLOURS[2])
values.set(xlabel="angle (degrees)", ylabel="angular velocity (rad/s)", title="1 direct")
figure.colorbar(drawn, ax=values, label="value", pad=0.03)
means, torque = gaussian_policy_means(60, seed=0), np.linspace(-2, 2, 200)
for update in (0, 5, 20, 60):
    density = np.exp(-0.5 * ((torque - means[update]) / 0.3) ** 2) / (0.3 * np.sqrt(2 * np.pi))
    continuous.plot(torque, density, label=f"update {update}")
continuous.set(
    xlabel="torque (best: 1)", ylabel="density", title="2 continuous actions", ylim=(0, 2.2)
)
continuous.legend(fontsize=7, loc="upper left")
gap = np.linspace(-2, 2, 201)
smooth.plot(gap, gap > 0, label="greedy")
smooth.plot(gap, 1 / (1 + np.exp(-2 * gap)), label="softmax policy")
smooth.set(xlabel="preference for the action", ylabel="its probability", title="3 smooth")
smooth.legend(fontsize=7)
plt.show()

# %% [markdown]
# *1: grey is the value that the DQN has learned for a cart at rest in the middle of the track (beyond 100 it is the
# overestimate of above). It is smooth, but its choice changes along the orange line, where the values of both actions
# cross: in the states that such an agent visits they typically differ by less than one part in a hundred, and small
# errors bend the line. The green straight line is all that the policy `balance` above needs. 2: a Gaussian policy over
# one continuous action, moved by the policy gradient toward the best torque. 3: the probability of an action as its
# preference grows, greedy and softmax.* <!-- held: small_differences -->
#
# ## The policy gradient
#
# The probability of a whole episode $\tau$ is a product of the world's probabilities and the policy's. Its logarithm is
# a sum, and the world's part does not depend on $\theta$, so the gradient needs no model of the world:
#
# $$
# \nabla_\theta J = \mathbb{E}_\tau \Big[ \sum_{t} w_t \, \nabla_\theta \log \pi_\theta(a_t \mid s_t) \Big] ,
# \qquad
# w_t = \begin{cases}
# \sum_k \gamma^k r_k & \text{whole return} \\
# G_t = \sum_{k \ge t} \gamma^{k-t} r_k & \text{reward-to-go} \\
# G_t - V(s_t) & \text{with a baseline}
# \end{cases}
# $$
#
# (the first is that of [Williams (1992)](../book/bibliography.md#williams1992), REINFORCE; many texts, our source among
# them, reserve the name for the second, and so shall we). The *whole return* credits every action with everything,
# rewards that came before it included. *Reward-to-go* leaves out the past, which the action could not change. A
# *baseline* further subtracts what was to be expected in $s_t$ anyway. For $\gamma = 1$ the three have the same mean,
# since a term that does not depend on $a_t$ averages to zero:
#
# $$
# \mathbb{E}_{a \sim \pi}\big[ b(s) \, \nabla_\theta \log \pi_\theta(a \mid s) \big]
# = b(s)\, \nabla_\theta \sum_a \pi_\theta(a \mid s) = b(s)\, \nabla_\theta 1 = 0 .
# $$
#
# (For $\gamma < 1$ reward-to-go would have to be multiplied by $\gamma^t$. Almost all code drops this factor, and so
# shall we when we train; exercise 4 measures what that does.) What the choice does change is the *variance*.
#
# The source explains a baseline with three pupils, who scored 90, 40 and 50. Each compared with their own average of
# earlier tests, 82, 46 and 49, the spread nearly vanishes:

# %%
# NBVAL_CHECK_OUTPUT
scores, averages = np.array([90, 40, 50]), np.array([82, 46, 49])
print(
    f"variance of the scores {scores.var():.2f}, above or below average {np.var(scores - averages):.2f}"
)


# %%
class Episodes(NamedTuple):
    """E whole episodes, padded to the longest. mask is 1 where a step was played, else 0.

    obs: [E, T, 4], scaled. actions, rewards, mask: [E, T].
    """

    obs: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    mask: torch.Tensor


# %%
def sampler(net: nn.Module, rng: np.random.Generator) -> Policy:
    """Actions drawn from the softmax of a network's two logits."""
    device = next(net.parameters()).device

    @torch.no_grad()
    def policy(obs: np.ndarray) -> np.ndarray:
        right = torch.softmax(net(as_input(obs, device)), -1)[:, 1].cpu().numpy()
        return (rng.random(len(obs)) < right).astype(np.int64)

    return policy


def play_episodes(
    net: nn.Module, episodes: int, rng: np.random.Generator, device: str = "cpu"
) -> Episodes:
    """One whole episode in each of ``episodes`` environments."""
    envs, playing, rows = make_vector("CartPole-v1", episodes), np.ones(episodes, bool), []
    for step in transitions(envs, sampler(net, rng), int(rng.integers(2**31))):
        rewards = (step.rewards * playing).astype(np.float32)
        rows.append((step.obs * OBS_SCALE, step.actions, rewards, playing.astype(np.float32)))
        playing = playing & ~(step.terminated | step.truncated)
        if not playing.any():
            break
    return Episodes(*(torch.from_numpy(np.stack(c, 1)).to(device) for c in zip(*rows, strict=True)))


# %%
def reward_to_go(rewards: torch.Tensor, discount: float) -> torch.Tensor:
    """The discounted sum of each step's and all later rewards. [E, T] -> [E, T]."""
    sums, later = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        later = rewards[:, t] + discount * later
        sums[:, t] = later
    return sums


# %%
ESTIMATORS = ("whole return", "reward-to-go", "baseline")


def step_weights(
    estimator: str, episodes: Episodes, discount: float, value_net: nn.Module
) -> torch.Tensor:
    """The weight of every step's log-probability in the policy gradient: [E, T], 0 after the end."""
    to_go = reward_to_go(episodes.rewards, discount)
    if estimator == "whole return":
        to_go = to_go[:, :1].expand_as(to_go)
    elif estimator == "baseline":
        to_go = to_go - value_net(episodes.obs)[..., 0].detach()
    return to_go * episodes.mask


def log_probs(net: nn.Module, episodes: Episodes) -> torch.Tensor:
    """log π(a_t | s_t) of the actions taken: [E, T]."""
    all_actions = torch.log_softmax(net(episodes.obs), -1)  # [E, T, A]
    return all_actions.gather(-1, episodes.actions[..., None])[..., 0]


# %% [markdown]
# The network's outputs are **logits**, and `log_softmax` works on them directly. The source takes a softmax first and
# its logarithm later, which loses precision, and is $-\infty$ for a probability that is rounded to 0.
#
# ### The variance, measured
#
# Take one policy, half trained, and hold it fixed. Let it play thousands of episodes, and compute the gradient that
# *each single episode* would give. The spread of those gradients around their mean, added up over all parameters, is
# the variance that training has to live with. `vmap` computes all episodes' gradients in one call.


# %%
def episode_gradients(net: nn.Module, episodes: Episodes, weights: torch.Tensor) -> torch.Tensor:
    """The policy gradient of every single episode. weights: [E, T] -> [E, D]."""
    params = {name: p.detach() for name, p in net.named_parameters()}

    def objective(params: dict, obs: torch.Tensor, actions: torch.Tensor, weights: torch.Tensor):
        logits = functional_call(net, params, (obs,))  # [T, A]
        log_prob = torch.log_softmax(logits, -1).gather(-1, actions[:, None])[:, 0]
        return (weights * log_prob).sum()

    each = vmap(grad(objective), in_dims=(None, 0, 0, 0), chunk_size=64)
    found = each(params, episodes.obs, episodes.actions, weights)
    return torch.cat([g.flatten(1) for g in found.values()], 1)


# %%
def squared_deviations(gradients: torch.Tensor) -> np.ndarray:
    """Squared distance of each episode's gradient from their mean; averages to the variance. [E, D] -> [E]."""
    return (gradients - gradients.mean(0)).square().sum(1).double().numpy()


def fit_baseline(
    value_net: nn.Module,
    optimiser: torch.optim.Optimizer,
    episodes: Episodes,
    discount: float,
    updates: int,
    rng: np.random.Generator,
) -> None:
    """Regress V on the reward-to-go of the steps played, 1,024 of them at a time."""
    played = episodes.mask > 0
    obs, returns = episodes.obs[played], reward_to_go(episodes.rewards, discount)[played]
    for _ in range(updates):
        batch = torch.from_numpy(rng.integers(len(obs), size=1024)).to(obs.device)
        loss = F.mse_loss(value_net(obs[batch])[:, 0], returns[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


# %% [markdown]
# Training is the same three estimators around one loop: play sixteen episodes, weigh, step. With a baseline, a value
# network learns along, always *after* its values have been used, so that it never judges the episodes it was fitted to.


# %%
@dataclass(frozen=True)
class GradientConfig:
    """The policy gradient on CartPole; network and discount are the source's."""

    estimator: str = "reward-to-go"
    updates: int = knob(60, 1, 500, "gradient steps")
    episodes: int = knob(16, 1, 128, "episodes a gradient step")
    learning_rate: float = knob(0.01, 1e-4, 0.1, "of Adam at the start; falls to 0", step=1e-3)
    discount: float = knob(0.98, 0.5, 1.0, "gamma", step=0.005)

    def __post_init__(self) -> None:
        check_config(self)
        if self.estimator not in ESTIMATORS:
            raise ValueError(
                f"The estimator is {self.estimator!r}; it has to be one of {', '.join(ESTIMATORS)}."
            )


# %%
class ActorCritic(NamedTuple):
    """A policy network and a value network with an optimiser each."""

    policy_net: nn.Module
    value_net: nn.Module
    policy_optimiser: torch.optim.Optimizer
    value_optimiser: torch.optim.Optimizer


def make_actor_critic(
    learning_rate: float, value_rate: float, seed: int, state: dict, device: str = "cpu"
) -> ActorCritic:
    """Two 4-100-n networks, as they were where ``state`` has them stored under "parts"."""
    torch.manual_seed(seed)
    policy_net, value_net = mlp(4, 100, 2).to(device), mlp(4, 100, 1).to(device)
    agent = ActorCritic(
        policy_net, value_net,
        torch.optim.Adam(policy_net.parameters(), learning_rate), torch.optim.Adam(value_net.parameters(), value_rate),
    )  # fmt: skip
    for part, saved in zip(agent, as_tensors(state.get("parts", [])), strict=False):
        part.load_state_dict(saved)
    return agent


# %%
def train_policy(
    config: GradientConfig, seed: int, state: dict | None = None, device: str = "cpu"
) -> Iterator[Progress]:
    """REINFORCE on CartPole (Williams 1992), a batch of whole episodes at a time.

    state: {"update", "metrics", "parts"}.
    """
    state = state or {"update": 0}
    agent = make_actor_critic(config.learning_rate, 0.01, seed, state, device)
    while True:
        if state["update"] < config.updates:
            rng = np.random.default_rng([seed, state["update"]])
            remaining = 1 - state["update"] / config.updates
            agent.policy_optimiser.param_groups[0]["lr"] = config.learning_rate * remaining
            metrics = {"mean_return": policy_step(agent, config, rng, device)}
            parts = [copy.deepcopy(part.state_dict()) for part in agent]
            state = {"update": state["update"] + 1, "metrics": metrics, "parts": parts}
        frozen = partial(copy.deepcopy, state)
        yield Progress(state["update"], config.updates, state["metrics"], frozen, "update")
        if state["update"] >= config.updates:
            return


# %%
def policy_step(
    agent: ActorCritic, config: GradientConfig, rng: np.random.Generator, device: str
) -> float:
    """Play, weigh, step. Returns the mean return of the episodes played."""
    episodes = play_episodes(agent.policy_net, config.episodes, rng, device)
    weights = step_weights(config.estimator, episodes, config.discount, agent.value_net)
    loss = -(weights * log_probs(agent.policy_net, episodes)).sum(1).mean()
    agent.policy_optimiser.zero_grad()
    loss.backward()
    agent.policy_optimiser.step()
    if config.estimator == "baseline":
        fit_baseline(agent.value_net, agent.value_optimiser, episodes, config.discount, 10, rng)
    return episodes.rewards.sum(1).mean().item()


# %%
policy_config = by_budget(smoke=GradientConfig(updates=3), laptop=GradientConfig())
policy_run = watch(train_policy(policy_config, seed=1), floor=random_return)
policy_net = net_of(policy_run.state["parts"][0], 4, 100, 2)
print(f"played greedily: mean return {score(policy_net, seed=1):.1f} over 100 fresh episodes")

# %% [markdown]
# *Mean return of the sixteen episodes of each update, actions sampled, live.*


# %%
@dataclass(frozen=True)
class VarianceConfig:
    """How the variance of the gradient is measured, on a policy whose mean return is about ``trained_to``."""

    episodes: int = knob(4096, 16, 8192, "episodes measured, and as many to fit the baseline")
    trained_to: float = knob(100.0, 10.0, 400.0, "stop training at this mean return")

    def __post_init__(self) -> None:
        check_config(self)


def half_trained(config: VarianceConfig, seed: int) -> nn.Module:
    """A policy stopped on its way up."""
    for progress in train_policy(GradientConfig(episodes=64, learning_rate=0.003), seed):
        if progress.metrics["mean_return"] >= config.trained_to:
            break
    return net_of(progress.state()["parts"][0], 4, 100, 2)


# %%
def gradients_of_estimators(
    config: VarianceConfig, seed: int, discount: float = 1.0
) -> dict[str, torch.Tensor]:
    """Every episode's gradient under each estimator, for the same episodes: name -> [E, D]."""
    net = half_trained(config, seed)
    torch.manual_seed(seed)
    value_net, rng = mlp(4, 100, 1), np.random.default_rng([seed, 10_000])
    optimiser = torch.optim.Adam(value_net.parameters(), 0.003)
    others = play_episodes(net, config.episodes, rng)
    fit_baseline(value_net, optimiser, others, discount, 1500, rng)
    episodes = play_episodes(net, config.episodes, rng)
    weights = {name: step_weights(name, episodes, discount, value_net) for name in ESTIMATORS}
    return {name: episode_gradients(net, episodes, w) for name, w in weights.items()}


# %%
variance_config = by_budget(smoke=VarianceConfig(32, trained_to=25.0), laptop=VarianceConfig())
gradients = gradients_of_estimators(variance_config, seed=1)
deviations = {name: squared_deviations(g) for name, g in gradients.items()}
whole = deviations["whole return"].mean()
figure, axes = plt.subplots(figsize=(7.2, 2.2))
for row, (name, squares) in enumerate(deviations.items()):
    low, high = (bound / whole for bound in spread_of(squares)[:2])
    mean = squares.mean() / whole
    axes.barh(row, mean, height=0.6, color=plots.COLOURS[row], alpha=0.75)
    axes.errorbar(mean, row, xerr=[[mean - low], [high - mean]], color=plots.INK, capsize=3)
    print(
        f"{name:13s} variance {squares.mean():12,.0f}   relative {mean:.3f} ({low:.3f} to {high:.3f})"
    )
axes.set_yticks(range(3), list(deviations))
axes.set_xlabel("variance of the gradient of one episode (whole return = 1)")
axes.invert_yaxis()
axes.grid(axis="y", visible=False)
plt.show()

# %% [markdown]
# *Variance of a single episode's gradient for one fixed policy, relative to the whole return's; lines are 95 %
# intervals over episodes. In the ten stored policies, leaving out the past removes 82 to 84 % of the variance. The
# baseline removes 21 to 42 % of what is left, and no more, presumably because even a well-fitted value explains only
# part of how long an episode will last.* <!-- held: variances -->
#
# Do all three aim at the same gradient? Then the difference of two estimators averages to zero, up to chance. What
# chance can do is found by giving each episode's difference a random sign: if the means agree, the mean difference
# should not stand out among those.


# %%
def chance_of(first: torch.Tensor, second: torch.Tensor, repeats: int = 2000) -> float:
    """How often random signs give a longer mean difference than the one found. [E, D] twice -> [0, 1]."""
    difference = first - second
    coins = torch.Generator().manual_seed(0)
    signs = 2.0 * torch.randint(2, (repeats, len(difference)), generator=coins) - 1
    by_chance = (signs @ difference).norm(dim=1)  # [repeats]
    return (by_chance >= difference.sum(0).norm()).float().mean().item()


for name in ESTIMATORS[1:]:
    chance = chance_of(gradients["whole return"], gradients[name])
    print(f"whole return against {name}: chance alone differs by more in {chance:.0%} of cases")

# %% [markdown]
# ### What it does to learning
#
# The source says that reward-to-go converges faster. Ten seeds of each, from stored runs, with nothing changed but the
# weights:

# %%
figure, axes = plt.subplots()
for name in ESTIMATORS:
    draw_stored(axes, "F3", "policy_gradient", name, 16, name)
axes.axhline(random_return, color=plots.INK, linestyle=":", label="random policy")
axes.set(xlabel="episodes played", ylabel="mean return of the last 16", ylim=(0, 510))
axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# *Mean return of the episodes played, actions sampled: each seed, their mean and its 95 % interval. The order is that
# of the variances. With the whole return no seed averages 400 over any five updates. Reward-to-go converges faster, as
# the source says, though three of ten seeds never average 400; with a baseline all do within 352 episodes.*
# <!-- held: estimators -->
#
# ## Actor–critic: a TD error as the advantage
#
# REINFORCE waits for the end of an episode to learn what an action was worth. A value network can be asked at once. The
# **TD error**
#
# $$
# \delta_t = r_t + \gamma\, \mathbb{1}[s_{t+1} \text{ not terminal}]\, V_\omega(s_{t+1}) - V_\omega(s_t)
# $$
#
# says how much better a single step turned out than expected. It is an estimate of the action's **advantage** $A_t =
# Q(s_t, a_t) - V(s_t)$, and drives both networks: the *critic* $V_\omega$ descends on $\delta_t^2$, with its target
# held fixed, and the *actor* ascends on $\delta_t \log \pi_\theta(a_t \mid s_t)$, with $\delta_t$ held fixed. (The
# algorithm of Sutton and Barto's section 13.5 multiplies the actor's step by $\gamma^t$; we drop it here too.) Both
# learn after every step; thirty-two carts run side by side, so that a step is a small batch.


# %%
@dataclass(frozen=True)
class ActorCriticConfig:
    """One-step actor–critic on CartPole."""

    steps: int = knob(300_000, 3200, 1_000_000, "environment steps", step=3200)
    actor_rate: float = knob(0.001, 1e-5, 0.01, "of the policy's Adam; falls to 0", step=1e-4)
    critic_rate: float = knob(0.005, 1e-5, 0.05, "of the values' Adam; falls to 0", step=1e-4)
    discount: float = knob(0.99, 0.5, 0.999, "gamma", step=0.001)
    num_envs: int = 32
    hold_target: bool = True

    def __post_init__(self) -> None:
        check_config(self)


def td_errors(value_net: nn.Module, batch: Experience, hold_target: bool = True) -> torch.Tensor:
    """δ of a batch of tensors; no gradient flows through its target: [B]."""
    target = batch.rewards + batch.discounts * value_net(batch.next_obs)[:, 0]
    return (target.detach() if hold_target else target) - value_net(batch.obs)[:, 0]


def actor_critic_loss(
    agent: ActorCritic, batch: Experience, hold_target: bool = True
) -> torch.Tensor:
    """The critic's squared TD error plus the actor's loss."""
    errors = td_errors(agent.value_net, batch, hold_target)  # [B]
    advantages = errors.detach() if hold_target else errors
    logits = agent.policy_net(batch.obs)  # [B, A]
    log_prob = torch.log_softmax(logits, -1).gather(1, batch.actions[:, None])[:, 0]
    return errors.square().mean() - (advantages * log_prob).mean()


# %%
def train_actor_critic(
    config: ActorCriticConfig, seed: int, state: dict | None = None, device: str = "cpu"
) -> Iterator[Progress]:
    """One-step actor–critic (Barto et al. 1983; Sutton and Barto 2018, section 13.5), in a batch.

    state: {"env_steps", "recent" returns, "metrics", "parts", "random"}.
    """
    state = {"env_steps": 0, "recent": []} if state is None else {**state}
    agent = make_actor_critic(config.actor_rate, config.critic_rate, seed, state, device)
    rng = np.random.default_rng(seed)
    if state["env_steps"]:
        restore_random(state["random"], rng)
    envs, n_step = make_vector("CartPole-v1", config.num_envs), NStep(1, config.discount)
    start = spread((TRAINING, seed, state["env_steps"]), 1)[0]
    stream = transitions(envs, sampler(agent.policy_net, rng), start)
    recent, playing = deque(state["recent"], maxlen=32), np.zeros(config.num_envs)
    while True:
        for step in islice(stream, 100 if state["env_steps"] < config.steps else 0):
            state["env_steps"] += config.num_envs
            actor_critic_step(agent, as_batch(n_step(step), device), config, state["env_steps"])
            playing += step.rewards
            ended = step.terminated | step.truncated
            recent.extend(playing[ended].tolist())
            playing[ended] = 0
        state["metrics"] = {"mean_return": np.mean(recent or [0])}
        parts = [copy.deepcopy(part.state_dict()) for part in agent]
        found = {"recent": list(recent), "parts": parts, "random": random_state(rng)}
        now = partial(copy.deepcopy, state | found)
        yield Progress(state["env_steps"], config.steps, state["metrics"], now, "environment steps")
        if state["env_steps"] >= config.steps:
            return


# %%
def actor_critic_step(
    agent: ActorCritic, batch: Experience, config: ActorCriticConfig, env_steps: int
) -> None:
    """One gradient step of both networks."""
    remaining = max(0.0, 1 - env_steps / config.steps)
    agent.policy_optimiser.param_groups[0]["lr"] = config.actor_rate * remaining
    agent.value_optimiser.param_groups[0]["lr"] = config.critic_rate * remaining
    agent.policy_optimiser.zero_grad()
    agent.value_optimiser.zero_grad()
    actor_critic_loss(agent, batch, config.hold_target).backward()
    agent.policy_optimiser.step()
    agent.value_optimiser.step()


# %% tags=["F4"]
ac_config = by_budget(smoke=ActorCriticConfig(steps=6400), laptop=ActorCriticConfig())
ac_run = watch(train_actor_critic(ac_config, seed=1), floor=random_return)
ac_net = net_of(ac_run.state["parts"][0], 4, 100, 2)
print(f"played greedily: mean return {score(ac_net, seed=1):.1f} over 100 fresh episodes")
print(f"trained in {ac_run.seconds:.0f} s")

# %% [markdown]
# *Mean return of the last 32 finished episodes, actions sampled, live. Early on the curve can fall back: the critic
# still misjudges, and the actor believes it.*

# %%
returns = [run["metrics"]["return"] for run in results.runs("F4", "actor_critic")]
print(f"greedy policies at the end: return {np.round(returns, 1)}")

# %% [markdown]
# All ten seeds end solved. Counted in steps this takes longer than DQN, which uses every step many times: within 48,000
# steps every seed's DQN has touched 475, played greedily, and no seed's actor–critic has, which samples its actions. An
# actor–critic's experience is used once and thrown away. <!-- held: actor_critic_takes_longer -->
#
# Here are its dials, and the stored runs. The critic should be faster than the actor: while its values are still near
# zero, every step looks like a success, and the actor commits itself to whatever it happens to do. Try equal rates.

# %%
where = ("F4", "actor_critic", "mean_return")
ac_preview = stored_picture(where, 3.2, "mean return of the last 32", random_return)
ac_panel = panel(train_actor_critic, ac_config, floor=random_return, preview=ac_preview)

# %% [markdown]
# *Mean return of the last 32 finished episodes: each of ten seeds, their mean and its 95 % interval.*
#
# ### Spot the bug: a target that gives way
#
# ```python
# target = reward + (1 - done) * discount * value_net(next_state)     # no detach
# value_loss = mse(target, value_net(state))
# ```
#
# The source forgets to hold its target fixed. The gradient then also moves $V(s')$ so as to meet $V(s)$: what is known
# to happen gets corrected by what was expected. Where nothing is random, both kinds of learning can reach the same
# values, and the error hides. Three states show it: from A, a coin decides between B, which pays 1, and C, which pays
# 0.


# %%
def split_values(hold_target: bool, updates: int = 400, rate: float = 0.2) -> np.ndarray:
    """Values of A, B and C learned by gradient descent on the exact expected loss: [updates, 3]."""
    values, history = torch.zeros(3, requires_grad=True), []
    for _ in range(updates):
        targets = torch.stack([values[1], values[2], torch.tensor(1.0), torch.tensor(0.0)])
        targets = targets.detach() if hold_target else targets
        errors = targets - values[[0, 0, 1, 2]]
        (slope,) = torch.autograd.grad((errors**2).mean(), values)
        values = (values - rate * slope).detach().requires_grad_()
        history.append(values.detach().numpy())
    return np.array(history)


figure, panels = plt.subplots(1, 2, figsize=(9.5, 2.7), sharey=True)
for axes, hold in zip(panels, (True, False), strict=True):
    for name, curve in zip("ABC", split_values(hold).T, strict=True):
        axes.plot(curve, label=f"V({name})")
    for truth in (0.0, 0.5, 1.0):
        axes.axhline(truth, color=plots.INK, linestyle=":", linewidth=1)
    axes.set(title="target held fixed" if hold else "gradient through the target", xlabel="update")
panels[0].set_ylabel("value")
panels[1].legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# *Values of A, B and C while learning; dotted lines are the true values 0, ½ and 1. Held fixed, the target gives all
# three. Let go, it pulls B down toward A and C up toward A: learning settles at ¾ and ¼, and two outcomes that are
# certain are both valued wrongly.*
#
# And on CartPole, where the only coin is the policy's own? The faulty run copies the source in full: $\delta_t$ is not
# held fixed in the actor's loss either, so that the actor's loss trains the critic as well.

# %%
figure, axes = plt.subplots(figsize=(7.2, 2.8))
for label, name in {
    "target held fixed": "actor_critic",
    "gradient through it": "actor_critic_flowing",
}.items():
    draw_stored(axes, "F4", name, "mean_return", 3.2, label)
axes.axhline(random_return, color=plots.INK, linestyle=":", label="random policy")
axes.set(xlabel="environment steps (thousands)", ylabel="mean return of the last 32", ylim=(0, 510))
axes.legend(loc="lower right")
plt.show()

# %% [markdown]
# *Mean return: each seed, their mean and its 95 % interval. On average the faulty version learns sooner, and all seeds
# of both end solved.* Which of its two leaks helps was not measured. A score alone would have praised the fault. It
# takes a world with a coin in it, and known values, to see it: that is why this book tests its targets against
# hand-made cases and not only against returns. <!-- held: flowing_learns_sooner -->
#
# ## The map
#
# Everything in this book has a place on one map. Does the agent use a **model** of the world, given or learned? Does it
# learn **values**, a **policy**, or both? And may it learn from any experience (**off-policy**), or only from what its
# present policy does (**on-policy**)?

# %% tags=["F5"]
COLUMNS_OF_MAP = ("values", "values and a policy", "a policy", "a model")
PLACES = [
    # column, row, name, chapters, kind
    (0, 4, "Q-learning, DQN", "here", "off"),
    (0, 3, "double, dueling, C51,\nQR-DQN, Rainbow", "chapter 2", "off"),
    (0, 2, "curiosity: ICM, RND", "chapters 3, 3b", "off"),
    (0, 1, "mean-field Q", "chapters 4, 4b, 4c", "off"),
    (0, 0, "attention, hindsight", "chapters 5, 5b, 5c, 7a", "off"),
    (1, 4, "actor–critic", "here", "on"),
    (1, 3, "A2C, A3C", "chapter 6", "on"),
    (1, 2, "PPO", "chapter 6", "on"),
    (1, 1, "ACER, DDPG", "chapter 6", "off"),
    (2, 4, "REINFORCE", "here", "on"),
    (2, 3, "genetic algorithm,\nevolution strategy", "chapter 1", "on"),
    (2, 2, "MAML, Meta-SGD, RL²", "chapters 7, 7a", "on"),
    (3, 4, "value iteration", "here", "none"),
    (3, 3, "imagination (I2A)", "chapters 7b, 7c, 7d", "on"),
    (3, 2, "tree search, planning", "chapter 8", "none"),
]
KINDS = {"off": "off-policy", "on": "on-policy", "none": "computed from a model"}

# %% tags=["F5"]
figure, axes = plt.subplots(figsize=(9.5, 4.6))
for column, row, name, where, kind in PLACES:
    colour = plots.COLOURS[list(KINDS).index(kind)]
    pale = 0.2 * np.array(to_rgb(colour)) + 0.8
    shape = {"boxstyle": "round,pad=0.02", "facecolor": pale, "edgecolor": colour}
    axes.add_patch(FancyBboxPatch((column - 0.44, row - 0.3), 0.88, 0.6, **shape))
    text = {"fontsize": 8, "color": "#333333", "ha": "center", "va": "center"}
    axes.annotate(f"{name}\n({where})", (column, row), **text)
for column, title in enumerate(COLUMNS_OF_MAP):
    axes.annotate(title, (column, 4.6), ha="center", weight="bold")
for middle, title in {1: "model-free", 3: "model-based"}.items():
    axes.annotate(title, (middle, 5.1), ha="center", fontsize=11)
axes.plot([2.5, 2.5], [-0.4, 5.3], color=plots.INK, linestyle=":")
for colour, label in zip(plots.COLOURS, KINDS.values(), strict=False):
    axes.plot([], [], "s", color=colour, alpha=0.5, label=label)
axes.legend(loc="lower right", fontsize=8)
axes.set(xlim=(-0.5, 3.5), ylim=(-0.4, 5.4))
axes.axis("off")
plt.show()

# %% [markdown]
# *What learns what. Columns: what the method represents; the colour of a box: whether it may learn from any experience
# or only from its own present policy. Evolution counts as on-policy because every individual is judged by its own
# episodes.* This chapter has visited the top of each column: [DQN](#a-pole-to-balance-the-deep-q-network),
# [actor–critic](#actorcritic-a-td-error-as-the-advantage), [REINFORCE](#the-policy-gradient) and [value
# iteration](#a-world-small-enough-to-solve-exactly). The other places, with links to the chapters that are there:


# %%
def with_links(where: str) -> str:
    """Markdown for "chapters 5, 7": each chapter that the book has becomes a link to it."""

    def link(found: re.Match) -> str:
        number, letter = found.groups()
        paths = sorted(CHAPTERS.glob(f"ch{int(number):02d}{letter}_*.py"))
        return f"[{found[0]}]({paths[0].stem}.ipynb)" if paths else found[0]

    return re.sub(r"(\d+)([a-z]?)", link, where)


def map_as_text() -> str:
    """The map's places in other chapters as a Markdown list, one item a column."""
    lines = []
    for column, title in enumerate(COLUMNS_OF_MAP):
        places = [(name, where) for at, _, name, where, _ in PLACES if at == column]
        elsewhere = [f"{' '.join(n.split())} ({with_links(w)})" for n, w in places if w != "here"]
        lines.append(f"- **{title.capitalize()}**: {'; '.join(elsewhere)}.")
    return "\n".join(lines)


Markdown(map_as_text())

# %% [markdown]
# ## Exercises
#
# Each has a solution that runs, folded away.
#
# **1. The target.** Write `targets(rewards, terminated, truncated, next_values, discount)`, the targets $y$ of a DQN.
# `next_values`, an array [B, A], holds the target network's values of all actions in $s'$, the other arrays are [B],
# and the two flags are booleans. `check("F2.1", targets)` tells whether it is right, or gives a hint.

# %%
# Your targets(rewards, terminated, truncated, next_values, discount), and then check("F2.1", targets)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
def targets(
    rewards: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    next_values: np.ndarray,
    discount: float,
) -> np.ndarray:
    """One-step targets [B]: what follows counts unless the world ended; the clock does not matter."""
    return rewards + discount * ~terminated * next_values.max(1)


check("F2.1", targets)

# %% [markdown]
# **2. How still should the target stand?** Train short DQN runs with a copy after every 1, 10, 100 and 1,000 updates,
# and plot the value of the upright pole. What does the slowest one show?

# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
short_run = by_budget(smoke=DQNConfig(steps=1920), laptop=DQNConfig(steps=15_360))
figure, axes = plt.subplots(figsize=(7.2, 2.6))
for sync_every in (1, 10, 100, 1000):
    run = train_dqn(replace(short_run, sync_every=sync_every), seed=0)
    curve = [(progress.step, progress.metrics["value_of_start"]) for progress in run]
    axes.plot(*np.transpose(curve), label=f"a copy every {sync_every}")
axes.set(xlabel="environment steps", ylabel="value of the upright pole")
axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()
# With 1,000 updates between copies it has copied once or twice: stable, and too slow.

# %% [markdown]
# **3. The simplest baseline.** Subtract one number, the mean reward-to-go of all steps, instead of $V(s_t)$. How much
# of the variance goes?

# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
net = half_trained(variance_config, seed=1)
episodes = play_episodes(net, variance_config.episodes, np.random.default_rng(2))
to_go = step_weights("reward-to-go", episodes, 1.0, None)
mean_to_go = to_go.sum() / episodes.mask.sum()
for label, weights in {
    "reward-to-go": to_go,
    "minus its mean": (to_go - mean_to_go) * episodes.mask,
}.items():
    variance = squared_deviations(episode_gradients(net, episodes, weights)).mean()
    print(f"{label:15s} variance {variance:12,.0f}")

# %% [markdown]
# **4. The factor that everybody drops.** With $\gamma = 0.9$, compare the mean gradient of the whole return with those
# of $\gamma^t G_t$ and of $G_t$. Which one agrees? Use `chance_of`.

# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
net = half_trained(variance_config, seed=1)
episodes = play_episodes(net, variance_config.episodes, np.random.default_rng(2))
whole, to_go = (step_weights(name, episodes, 0.9, None) for name in ESTIMATORS[:2])
factor = 0.9 ** torch.arange(to_go.shape[1])  # [T]
reference = episode_gradients(net, episodes, whole)
for label, weights in {"γ^t G_t": factor * to_go, "G_t": to_go}.items():
    found = episode_gradients(net, episodes, weights)
    lengths = f"lengths {reference.mean(0).norm():.1f} and {found.mean(0).norm():.1f}"
    print(f"whole return against {label:8s} chance {chance_of(reference, found):4.0%}, {lengths}")
# γ^t G_t agrees. Without the factor the gradient is far longer and differs beyond chance.

# %% [markdown]
# **5. Several steps at once.** `NStep(n, γ)` sums $n$ rewards before it bootstraps. Learn the values of the balancing
# policy from zero, with few updates, for $n$ = 1, 3 and 10. Why does a larger $n$ arrive sooner?

# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
for n in (1, 3, 10):
    n_step = NStep(n, 0.98)
    stream = islice(transitions(make_vector("CartPole-v1", 64), balance, seed=0), 300)
    parts = [n_step(step) for step in stream]
    experience = Experience(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    values = fit_values(experience, by_budget(smoke=50, laptop=500))
    print(
        f"n = {n:2d}: value after few updates {values(experience.obs[:1000]).mean():5.1f}, truth 50"
    )
# Each update carries a reward n steps back.

# %% [markdown]
# ## Summary
#
# - A value says what to expect; Bellman's equation ties it to the next one; Q-learning turns the equation into a loss
#   whose target is held fixed. What the agent does not try, the network makes up.
# - A DQN adds replay and a target network. Measure what they buy where you use them: on this task, with sixteen
#   environments side by side, the scores hardly show it, and the values do.
# - Bootstrap on truncation, stop only on termination, and keep the reset step out of the replay.
# - The policy gradient needs no model and no value. Its estimators agree on average (at $\gamma = 1$) and differ in
#   variance; those of lower variance learned faster.
# - Actor–critic replaces the rest of the episode by a value: a TD error for an advantage, at every step.
#
# Further reading: [Sutton and Barto (2018)](../book/bibliography.md#sutton2018) for all of it,
# [Mnih et al. (2015)](../book/bibliography.md#mnih2015) for DQN at scale,
# [Williams (1992)](../book/bibliography.md#williams1992) for REINFORCE,
# [Greensmith et al. (2004)](../book/bibliography.md#greensmith2004) for the variance of policy gradients.
#
# ## How the numbers were measured
#
# `make results` runs these functions with the seeds listed, and stores each run with its configuration, wall-clock
# time, cores and versions. The tables and bands of this chapter are drawn from those files.


# %%
def measure_grid(config: GridConfig, seed: int) -> Measured:
    """Episodes until the greedy path is the shortest, 50 times running, and the error of its values."""
    curves = {"loss": [], "greedy_steps": []}
    for progress in learn_grid(config, seed):
        for name, values in curves.items():
            values.append(progress.metrics[name])
    shortest = np.array(curves["greedy_steps"]) == 5
    running = np.flatnonzero(np.convolve(shortest, np.ones(50), "valid") == 50)
    q = grid_values(net_of(progress.state()["net"], 12, 100, 4))
    errors = np.abs(q - exact_q(config.discount))
    path = greedy_cells(q)[:-1]
    found = {"episodes_to_converge": running[0] + 1 if len(running) else config.episodes}
    found["q_error"] = errors[path, q[path].argmax(1)].max()
    found["q_error_anywhere"] = errors[list(OPEN)].max()
    return Measured(found, curves=curves)


def measure_exploration(config: GridConfig, seed: int) -> Measured:
    curves = {}
    for epsilon in EPSILONS:
        *_, progress = learn_grid(replace(config, epsilon=epsilon), seed)
        curves[f"epsilon={epsilon}"] = grid_values(
            net_of(progress.state()["net"], 12, 100, 4)
        ).ravel()
    return Measured({}, curves=curves)


# %%
def measure_dqn(config: DQNConfig, seed: int) -> Measured:
    began, curves = time.perf_counter(), {"greedy_return": [], "value_of_start": []}
    for progress in train_dqn(config, seed):
        for name, values in curves.items():
            values.append(progress.metrics[name])
    seconds, weights = time.perf_counter() - began, progress.state()["dqn"][0]
    found = {"return": score(net_of(weights, 4, 128, 128, 2), seed), "training_seconds": seconds}
    found["episodes"] = progress.state()["episodes"]
    return Measured(found, {"return": random_return_of(100, seed)}, curves, {"net": weights})


def measure_policy_gradient(config: GradientConfig, seed: int) -> Measured:
    """The three estimators, and the episodes each needs until five updates average 400 (or all)."""
    curves, found = {}, {}
    for name in ESTIMATORS:
        run = train_policy(replace(config, estimator=name), seed)
        curves[name] = [progress.metrics["mean_return"] for progress in run]
        five = np.convolve(curves[name], np.ones(5) / 5, "valid")  # means of five updates
        reached = np.flatnonzero(five >= 400)
        updates = reached[0] + 5 if len(reached) else config.updates
        key = name.replace("-", "_").replace(" ", "_")
        found[f"episodes_to_400_{key}"] = config.episodes * updates
    return Measured(found, curves=curves)


# %%
def measure_variance(config: VarianceConfig, seed: int) -> Measured:
    gradients = gradients_of_estimators(config, seed)
    variance = {name: squared_deviations(g).mean() for name, g in gradients.items()}
    whole = variance["whole return"]
    found = {
        "variance_ratio_reward_to_go": variance["reward-to-go"] / whole,
        "variance_ratio_baseline": variance["baseline"] / whole,
    }
    return Measured(found, dict.fromkeys(found, 1.0))


def measure_actor_critic(config: ActorCriticConfig, seed: int) -> Measured:
    began, curve = time.perf_counter(), []
    for progress in train_actor_critic(config, seed):
        curve.append(progress.metrics["mean_return"])
    seconds, weights = time.perf_counter() - began, progress.state()["parts"][0]
    found = {"return": score(net_of(weights, 4, 100, 2), seed), "training_seconds": seconds}
    floor = {"return": random_return_of(100, seed)}
    return Measured(found, floor, {"mean_return": curve}, {"net": weights})


# %%
TEN, FIVE, THREE = tuple(range(1, 11)), (1, 2, 3, 4, 5), (1, 2, 3)
HEADLINE = "CartPole-v1: DQN returns {F2.return} after {F2.training_seconds} s"
MEASUREMENTS = [
    Measurement("F1", "grid", measure_grid, GridConfig(), TEN, (
        Metric("episodes_to_converge", "episodes", "median", "converges in 1,000 episodes"),
        Metric("q_error", "value", "mean"),
        Metric("q_error_anywhere", "value", "mean"))),
    Measurement("F1", "exploration", measure_exploration, GridConfig(), THREE),
    Measurement("F2", "dqn", measure_dqn, DQNConfig(), TEN, (
        Metric("return", "return", "mean", "300 episodes, target sync every 20"),
        Metric("training_seconds", "s", "median"))),
    Measurement("F2", "dqn_no_target", measure_dqn, DQNConfig(sync_every=1), TEN),
    Measurement("F2", "dqn_short_replay", measure_dqn, DQNConfig(capacity=128), TEN),
    Measurement("F2", "dqn_no_replay", measure_dqn, DQNConfig(capacity=16), TEN),
    Measurement("F2", "dqn_neither", measure_dqn, DQNConfig(capacity=16, sync_every=1), TEN),
    Measurement("F2", "dqn_huber", measure_dqn, DQNConfig(huber=True), FIVE),
    Measurement("F2", "dqn_slow", measure_dqn, DQNConfig(sync_every=100, updates=8), FIVE),
    Measurement("F2", "dqn_huber_slow", measure_dqn,
                DQNConfig(sync_every=100, updates=8, huber=True), FIVE),
]  # fmt: skip

# %%
MEASUREMENTS += [
    Measurement("F3", "policy_gradient", measure_policy_gradient, GradientConfig(), TEN, (
        Metric("episodes_to_400_whole_return", "episodes (960: not reached)", "median"),
        Metric("episodes_to_400_reward_to_go", "episodes (960: not reached)", "median", "reward-to-go converges faster"),
        Metric("episodes_to_400_baseline", "episodes (960: not reached)", "median"))),
    Measurement("F3", "variance", measure_variance, VarianceConfig(), TEN, (
        Metric("variance_ratio_reward_to_go", "of the whole return's", "mean"),
        Metric("variance_ratio_baseline", "of the whole return's", "mean"))),
    Measurement("F4", "actor_critic", measure_actor_critic, ActorCriticConfig(), TEN, (
        Metric("return", "return", "mean", "CartPole"),
        Metric("training_seconds", "s", "median"))),
    Measurement("F4", "actor_critic_flowing", measure_actor_critic,
                ActorCriticConfig(hold_target=False), FIVE),
]  # fmt: skip
SHOWN = ("F5",)  # rows whose result is their figure
