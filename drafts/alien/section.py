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
# ## Pixels: what does an agent look at in *Alien*?
#
# DRAFT of row A10's second half, to be merged into chapters/ch05c_relations.py. The imports below go to that chapter's
# head, and `attend` comes from chapter 05.

# %%
import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, islice
from itertools import count as count_from
from typing import NamedTuple

import ale_py
import matplotlib.pyplot as plt
import numpy as np
import torch
from ale_py import roms
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import ndimage
from torch import nn
from torch.nn import functional as F

from rlbook_utils import plots, results
from rlbook_utils.checkpoint import as_tensors, load_checkpoint, random_state, restore_random
from rlbook_utils.config import by_budget, check_config, choice, knob
from rlbook_utils.definitions import load_chapter
from rlbook_utils.replay import Experience, NStep, Replay
from rlbook_utils.results import Measured, Measurement, Metric
from rlbook_utils.rollout import Policy, spread, transitions
from rlbook_utils.run import Progress
from rlbook_utils.video import show_clip
from rlbook_utils.widgets import scrubber, show

plots.use_style()
ATTENTION = load_chapter("ch05_attention")

# %% [markdown]
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


# %%
def maze_of(pictures: np.ndarray) -> np.ndarray:
    """Halved pictures without score and margins: [..., 105, 80] -> [..., 84, 60], copied."""
    return pictures[..., TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH].copy()


# %%
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
    axes: Axes, picture: np.ndarray, looks: np.ndarray | None = None, title: str = ""
) -> None:
    """The maze in colour [210, 160, 3], dimmed where nobody looks: looks [N], adding up to 1, or None."""
    shown = picture[MAZE] / 255
    if looks is not None:
        light = np.repeat(np.repeat(looks.reshape(GRID) / looks.max(), 2 * CELL, 0), 2 * CELL, 1)
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
        self.mixing, self.heads = mixing, heads
        self.small, self.large = nn.Conv2d(2, 16, 4, 4), nn.Conv2d(16, width, 4, 3)
        self.places = nn.Parameter(0.3 * torch.randn(GRID[0] * GRID[1], width))
        self.asked, self.told = nn.Linear(width, 3 * width), nn.Linear(width, width)
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
        batch, count, width = nodes.shape
        parts = self.asked(nodes).view(batch, count, 3, self.heads, width // self.heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)  # [B, heads, N, width / heads] each
        weights = torch.eye(count, device=obs.device).expand(batch, self.heads, -1, -1)
        mixed = values
        if self.mixing == "attention":
            mixed, weights = ATTENTION.attend(queries, keys, values)
        if edit is not None:
            weights = edit(weights)
            mixed = weights @ values
        nodes = nodes + self.told(mixed.transpose(1, 2).reshape(batch, count, width))
        return self.values(self.node(nodes).amax(1)), weights  # the maximum over nodes

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.looks(obs)[0]


# %% [markdown]
# It learns by double Q-learning from a replay, with returns of five steps, as in [chapter
# 00](ch00_foundations.ipynb) and [chapter 02](ch02_distributional_dqn.ipynb): the online network chooses the next move,
# the lagging one says what it is worth. Rewards are clipped to 1, and losing a life ends a return; the score that we
# report is the console's, over whole games. To explore, the agent holds a random move for four decisions, which leads
# further along a corridor than four moves in turn.


# %%
@dataclass(frozen=True)
class AlienConfig:
    """Double DQN on Alien's pixels."""

    decisions: int = knob(100_000, 80, 1_000_000, "of all games together", step=80)
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
    reports: int = knob(25, 1, 1000, "points of the learning curve")
    games: int = knob(100, 2, 1000, "whole games that the trained agent is scored on")
    batch: int = 32
    num_envs: int = 8

    def __post_init__(self) -> None:
        check_config(self)


# %%
class Agent:
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
@torch.no_grad()
def double_targets(net: nn.Module, target_net: nn.Module, batch: Experience) -> torch.Tensor:
    """y = r + γⁿ Q'(s', argmax Q(s', ·)) with the lagging Q' (van Hasselt et al., 2016): [B]."""
    best = net(batch.next_obs).argmax(1, keepdim=True)
    return batch.rewards + batch.discounts * target_net(batch.next_obs).gather(1, best)[:, 0]


def update(agent: Agent) -> float:
    """One step of gradient descent on a batch of the replay: the loss."""
    config, rows = agent.config, agent.replay.sample(agent.config.batch, agent.rng)
    batch = Experience(*(torch.from_numpy(column).to(agent.device) for column in rows))
    left = 1 - agent.decisions / config.decisions
    agent.optimiser.param_groups[0]["lr"] = config.learning_rate * (0.1 + 0.9 * left)
    chosen = agent.net(batch.obs).gather(1, batch.actions[:, None])[:, 0]
    loss = F.smooth_l1_loss(chosen, double_targets(agent.net, agent.target_net, batch))
    agent.optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(agent.net.parameters(), 10.0)
    agent.optimiser.step()
    agent.updates += 1
    if agent.updates % config.sync_every == 0:
        agent.target_net.load_state_dict(agent.net.state_dict())
    return loss.item()


# %%
def greedy_moves(net: nn.Module) -> Policy:
    """The moves of largest value: obs [N, 2, 84, 60] -> [N]."""
    device = next(net.parameters()).device

    @torch.no_grad()
    def policy(obs: np.ndarray) -> np.ndarray:
        return net(torch.from_numpy(obs).to(device)).argmax(1).cpu().numpy()

    return policy


# %%
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


def state_of(agent: Agent, recent: list[float]) -> dict:
    return agent.state() | {"recent": recent}


def train_alien(
    config: AlienConfig, seed: int, state: dict | None = None, device: str = "cpu"
) -> Iterator[Progress]:
    """Learns Alien; a Progress after every ``reports``-th part. Resumed, it begins new games.

    state: what ``Agent.state`` holds, and "recent", the scores of the last forty games.
    """
    agent, games = Agent(config, seed, device), AlienEnvs(config.num_envs, lives=True)
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


# %%
def play_alien(policy: Policy, count: int, seed: int, codes: Sequence[int] = MOVES) -> np.ndarray:
    """The scores of ``count`` whole games, each the first of its environment: [count]."""
    scores, playing = np.zeros(count), np.ones(count, bool)
    for step in transitions(AlienEnvs(count, codes), policy, seed):
        scores += np.where(playing, step.rewards, 0)
        playing &= ~(step.terminated | step.truncated)
        if not playing.any():
            return scores


def score_alien(net: nn.Module, seed: int, count: int, epsilon: float = 0.05) -> np.ndarray:
    """Scores of ``count`` whole games, with a share ``epsilon`` of single random moves: [count]."""
    rng = np.random.default_rng([SCORING, seed])
    policy = Explorer(greedy_moves(net), lambda: epsilon, 1, rng)
    return play_alien(policy, count, spread((SCORING, seed), 1)[0])


# %% [markdown]
# What does somebody score who does not look? Random actions, or one action held for the whole game, are the usual
# answers. A random *move*, held for a few decisions, is a better one.


# %% tags=["hide-input"]
@dataclass(frozen=True)
class FloorConfig:
    """Policies that do not look."""

    games: int = knob(100, 2, 1000, "games of each policy that is scored")
    screened: int = knob(20, 1, 1000, "other games, by which the best of their kind are chosen")
    holds: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 16)
    turns: tuple[int, ...] = (4, 16)

    def __post_init__(self) -> None:
        check_config(self)


# %% tags=["hide-input"]
def held(hold: int, actions: int, rng: np.random.Generator) -> Policy:
    """A random action of so many, held for ``hold`` decisions."""
    drawn = Explorer(lambda obs: np.zeros(len(obs), int), lambda: 1.0, hold, rng)
    drawn.choices = actions
    return drawn


def turns(first: int, second: int, hold: int) -> Policy:
    """Two actions in turn, each for ``hold`` decisions."""
    clock = count_from(0)
    return lambda obs: np.full(len(obs), (first, second)[next(clock) // hold % 2])


def blind_policies(config: FloorConfig, rng: np.random.Generator) -> dict[str, dict[str, tuple]]:
    """Kinds of policies that need no picture; name -> (policy maker, codes of its actions)."""
    every = tuple(range(18))
    singles = {
        f"action {code}": (lambda: lambda obs: np.zeros(len(obs), int), (code,)) for code in every
    }
    pairs = {
        f"{a} and {b} by {hold}": (partial(turns, a, b, hold), MOVES)
        for a, b in combinations(range(len(MOVES)), 2) for hold in config.turns
    }  # fmt: skip
    holds = {f"held {hold}": (partial(held, hold, 4, rng), MOVES) for hold in config.holds}
    return {
        "random": {"random": (partial(held, 1, 18, rng), every)},
        "single": singles, "pair": pairs, "held": holds,
    }  # fmt: skip


# %% tags=["A10", "hide-input"]
FLOORS = {"held": "random moves, held", "random": "random actions", "single": "best single action"}
figure, axes = plt.subplots()
for name, label in {"alien": "attention", "alien_nothing": "no attention"}.items():
    at = results.curves("A10", name, "decisions")[0] / 1000
    plots.bands(axes, at, results.curves("A10", name, "score"), f"{label}, exploring")
for (kind, label), style in zip(FLOORS.items(), (":", "--", "-."), strict=True):
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
# attention, with as many parameters and the same settings, scores more. <!-- held: alien_control --> The settings were
# chosen on the agent with attention, four of them in turn, so this is not for want of tuning. In *Alien*, then, at this
# budget, attention earns no points. What it gives is something to look at; whether that is worth anything comes next.

# %% tags=["A10", "hide-input"]
scores = {"attention": results.metric("A10", "alien", "score")}
scores["no attention"] = results.metric("A10", "alien_nothing", "score")
scores |= {label: results.metric("A10", "alien_floors", kind) for kind, label in FLOORS.items()}
figure, axes = plt.subplots(figsize=(7.2, 2.6))
plots.bars(axes, scores)
axes.set(xlabel="points a game, 100 whole games a seed")
plt.show()

# %% [markdown]
# *Scores over whole games, a dot for each seed: three lives, five moves in a hundred at random, games that were in no
# training.* A score is the console's, unclipped. The literature's
# agents play five hundred times as long (200 million frames; ours 0.4 million), and no published number stands beside
# ours. <!-- held: alien_trained -->
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
def looks_picture(seen: Seen) -> bytes:
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
    looks_picture(seen) for seen in game[50 : by_budget(smoke=60, laptop=250) : 5] or game[:2]
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
#    others: its weights become 0, and the rest is scaled up to 1.
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
def hide(weights: torch.Tensor, nodes: np.ndarray) -> torch.Tensor:
    """Weights [B, heads, N, N] of agents that may not look at one node of each [B]; the rest still adds up to 1."""
    seen = torch.ones(len(nodes), 1, 1, weights.shape[-1])
    seen[torch.arange(len(nodes)), :, :, torch.as_tensor(nodes)] = 0
    left = weights * seen
    return left / left.sum(-1, keepdim=True)


def evenly(weights: torch.Tensor) -> torch.Tensor:
    """Weights of agents that look everywhere alike."""
    return torch.full_like(weights, 1 / weights.shape[-1])


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
def looks_of(
    net: nn.Module, other: nn.Module, obs: np.ndarray, figures: list[dict], seed: int
) -> dict[str, float]:
    """Whom an agent looks at, and what covering does to its values and to another agent's that mixes nothing."""
    with torch.no_grad():
        values, weights = net.looks(torch.from_numpy(obs))
    looks, maze = attended(weights).numpy(), np.median(obs[:, 1], 0).astype(np.uint8)
    rng, instants = np.random.default_rng([LOOKING, seed, 1]), np.arange(len(obs))
    nodes = {
        "most": (instants, looks.argmax(1)),
        "random": (instants, rng.integers(looks.shape[1], size=len(obs))),
        "least": (instants, looks.argmin(1)),
    }
    found = {"spread": values.std(0, correction=0).mean(), "largest": 100 * looks.max(1).mean()}
    found["top_head"] = 100 * weights.mean(2).amax(2).mean(0).max()
    for kind in SPRITES:
        at = [(i, node) for i, seen in enumerate(figures) for node in sorted(seen[kind])]
        nodes[kind] = tuple(np.array(at, int).reshape(-1, 2).T)
        found[f"{kind}_looks"] = looks.shape[1] * looks[nodes[kind]].mean() if at else 1.0
        at_most = [node in seen[kind] for node, seen in zip(nodes["most"][1], figures, strict=True)]
        found[f"most_is_{kind}"] = 100 * np.mean(at_most)
    for name, (when, chosen) in nodes.items():
        changes = {
            "": change_by_cover(net, obs[when], chosen, maze),
            "other_": change_by_cover(other, obs[when], chosen, maze),
            "hidden_": change_by_edit(net, obs[when], partial(hide, nodes=chosen)),
        }
        for what, (change, flips) in changes.items():
            found |= {f"{what}change_{name}": change, f"{what}flips_{name}": flips}
    found["even_change"], found["even_flips"] = change_by_edit(net, obs, evenly)
    return {name: float(value) for name, value in found.items()}


# %% tags=["A10", "hide-input"]
found = results.runs("A10", "alien_looks")
WAYS = {
    "": "its pixels covered",
    "hidden_": "not to be looked at",
    "other_": "covered, agent without attention",
}
KINDS = {
    "most": "most looked at",
    "random": "random",
    "least": "least looked at",
    "alien": "an alien's",
    "player": "the player's",
}
figure, panels = plt.subplots(1, 3, figsize=(9.6, 2.8), sharey=True, sharex=True)
for axes, (way, title) in zip(panels, WAYS.items(), strict=True):
    plots.bars(axes, {
        label: [run["metrics"][f"{way}flips_{name}"] for run in found] for name, label in KINDS.items()
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
# an alien or with the player are looked at a little more than an even share, and the bonus not at all more. In two of the
# three agents the brightest node holds neither an alien nor the player most of the time. <!-- held: alien_figures --> One
# can find the source's picture among these games; one can find others. And the player's pixels matter as much as an
# alien's, but reach the values mostly by the other way, through the player's own node and the maximum over nodes. <!--
# held: alien_hidden --> A map of attention shows one of two ways.

# %% [markdown]
# ### How the numbers were measured
#
# (to the end of the chapter)


# %% tags=["hide-input"]
def measure_alien_floors(config: FloorConfig, seed: int) -> Measured:
    """Mean scores of policies that do not look; the best of each kind is chosen on other games than it is scored on."""
    rng, curves, found = np.random.default_rng([CHANCE, seed]), {}, {}
    screening, scoring = spread((CHANCE, seed), 2)
    for kind, policies in blind_policies(config, rng).items():
        screened = {}
        for name, (make, codes) in policies.items():
            scores = play_alien(make(), config.screened, screening, codes)
            screened[name] = scores.mean()
        best = max(screened, key=screened.get)
        make, codes = policies[best]
        curves[kind] = play_alien(make(), config.games, scoring, codes)
        curves[f"{kind}_screened"] = list(screened.values())
        found |= {kind: curves[kind].mean(), f"{kind}_best": list(policies).index(best)}
    return Measured(found, curves=curves)


# %% tags=["hide-input"]
def measure_alien(config: AlienConfig, seed: int) -> Measured:
    """A trained agent: its score over whole games, its learning curve, its weights."""
    began, curve = time.perf_counter(), []
    for progress in train_alien(config, seed):
        curve.append((progress.step, progress.metrics["score"]))
    seconds, net = time.perf_counter() - began, AlienNet(config.mixing)
    weights = progress.state()["net"]
    net.load_state_dict(weights)
    scores = score_alien(net, seed, config.games)
    decisions, while_learning = zip(*curve, strict=True)
    return Measured(
        {"score": scores.mean(), "median": np.median(scores), "minutes": seconds / 60},
        curves={"decisions": decisions, "score": while_learning, "scores": scores},
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
ALIEN = AlienConfig()
ALIEN_MEASUREMENTS = [
    Measurement("A10", "alien_floors", measure_alien_floors, FloorConfig(), (1, 2, 3), (
        Metric("random", "points a game, random actions", "mean"),
        Metric("single", "points a game, the best single action", "mean"),
        Metric("held", "points a game, the best held random move", "mean"))),
    Measurement("A10", "alien", measure_alien, ALIEN, (1, 2, 3), (
        Metric("score", "points a game", "mean"),
        Metric("minutes", "minutes of training", "median"))),
    Measurement("A10", "alien_nothing", measure_alien, replace(ALIEN, mixing="nothing"), (1, 2, 3), (
        Metric("score", "points a game", "mean"),)),
    Measurement("A10", "alien_looks", measure_alien_looks, LookConfig(), (1, 2, 3), (
        Metric("flips_most", "% of moves change, most attended node covered", "mean"),
        Metric("flips_random", "% of moves change, random node covered", "mean"))),
]  # fmt: skip
