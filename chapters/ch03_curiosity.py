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
# # 03 · Curiosity: a reward of one's own
#
# <!-- card: Walkers paid for nothing but surprise, and the television that catches some of them; what an inverse model
# saves them from, and what it does not; and empowerment. -->
#
# **What you will build.** An agent that learns from rewards learns nothing where there are none. So you build agents
# that reward themselves, with **surprise**: they predict what follows their action, and are paid for being wrong. What
# has been seen often holds no surprise, so they go where they have not been. You will see a DQN that learns one Atari
# game and gets nowhere in another; walkers in a small room that are glued to a noisy television; an intrinsic curiosity
# module that frees them, with a proof by gradient of what trains what in it; and a second television, in view of the
# whole room, with a remote control, that tests how far this freedom goes. At the end stands another motive,
# empowerment: not to be surprised by the world, but to have power over it. [The second part](ch03b_mario.ipynb) takes
# the same curiosities to Super Mario Bros.
#
# | | |
# |---|---|
# | **You need** | [Chapter 0](ch00_foundations.ipynb) for DQN; [chapter 2](ch02_distributional_dqn.ipynb) for its $n$-step returns. |
# | **Time** | About four minutes for all cells on two cores. The first result is there within a minute. |
# | **Memory** | Under 1 GB. No GPU. |
# | **Budget** | `RLBOOK_BUDGET` is `laptop` unless you set it; the next cell shows it. |
#
# The chapter accompanies chapter 8 of [Zai and Brown (2020)](../book/bibliography.md#zai2020). Its systems are rebuilt
# here from scratch and measured over several seeds; where the printed code goes wrong, you will see the symptom.

# %% tags=["remove-stderr"]
import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import NamedTuple

import ale_py
import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F

from rlbook_utils import plots, results
from rlbook_utils.checkpoint import as_tensors, random_state, restore_random
from rlbook_utils.config import budget, by_budget, check_config, choice, knob
from rlbook_utils.definitions import load_chapter
from rlbook_utils.exercises import check
from rlbook_utils.replay import Experience, NStep, Replay
from rlbook_utils.results import Measured, Measurement, Metric
from rlbook_utils.rollout import Policy, Transition, make_vector, spread, transitions
from rlbook_utils.run import Progress, Run, live_curve, watch
from rlbook_utils.video import record, show_clip
from rlbook_utils.widgets import image_slider, panel, scrubber, show

FOUNDATIONS, POLICIES = load_chapter("ch00_foundations"), load_chapter("ch06_policy_optimisation")
plots.use_style()
ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
versions = f"torch {torch.__version__} · gymnasium {gym.__version__}"
print(f"budget {budget()} · {results.cores()} cores · {versions}")

# %% [markdown]
# ## Two games, one agent
#
# A reward is the only thing that tells an agent what we want. In `Boxing` every punch that lands scores a point, and
# every punch taken costs one: a blind flailing of fists is told several times a minute whether it did well. Such a
# reward is **dense**. In `MontezumaRevenge` Panama Joe is to find his way through a pyramid. The first reward, 100
# points, is for a key in the first room, and before it nothing that he does earns or costs anything, not even his six
# lives. Such a reward is **sparse**.

# %%
SPARSE_GAMES = {"Boxing": "ALE/Boxing-v5", "Montezuma's Revenge": "ALE/MontezumaRevenge-v5"}
figure, panels = plt.subplots(1, 2, figsize=(6.4, 3.8))
for axes, (name, env_id) in zip(panels, SPARSE_GAMES.items(), strict=True):
    axes.imshow(record(env_id, lambda obs: 0, seed=0, steps=1)[0])
    axes.set_title(name)
    axes.set_axis_off()
plt.show()

# %% [markdown]
# *Left, our boxer is white. Right, Joe stands in the middle, above the first ladder; the key hangs on the left.*
#
# One agent plays both: the DQN of [chapter 0](ch00_foundations.ipynb), with the same settings, for as long. Both games
# offer the same eighteen actions (a joystick in nine positions, with the button or without), and both show it the
# console's memory, 128 bytes, as in [chapter 2](ch02_distributional_dqn.ipynb). A decision lasts four frames, and the
# buttons stick [(Machado et al., 2018)](../book/bibliography.md#machado2018). Loss, update and target network are
# chapter 0's. New are the input, and $n$-step returns, which chapter 2 explains. For learning, and only there, a reward
# counts by its sign, so that one learning rate suits both games.


# %%
@dataclass(frozen=True)
class SparseConfig(FOUNDATIONS.DQNConfig):
    """Chapter 0's DQN on a console's memory. The two games differ in ``env_id`` and in nothing else."""

    env_id: str = SPARSE_GAMES["Boxing"]
    steps: int = knob(32_000, 800, 1_000_000, "decisions in all games together", step=800)
    n_step: int = knob(5, 1, 20, "rewards summed before bootstrapping")
    discount: float = knob(0.95, 0.5, 0.999, "gamma", step=0.001)
    learning_rate: float = knob(5e-4, 1e-5, 1e-2, "of Adam at the start; falls to 0", step=1e-4)
    final_epsilon: float = knob(0.05, 0.0, 1.0, "chance of a random action after the first sixth")
    sync_every: int = knob(200, 1, 2000, "updates between copies to the target network")
    capacity: int = knob(100_000, 8, 1_000_000, "transitions that the replay holds", step=8)
    batch_size: int = 64
    num_envs: int = 8
    updates: int = 1
    huber: bool = True


BUTTON_COUNT = 18  # actions of either game


class RamNet(nn.Sequential):
    """From the console's memory to the values of all actions: [B, 128] bytes -> [B, 18]."""

    def __init__(self) -> None:
        super().__init__(*FOUNDATIONS.mlp(128, 256, 256, BUTTON_COUNT))

    def forward(self, ram: torch.Tensor) -> torch.Tensor:
        return super().forward(ram / 255)


# %%
LEARNING, WANDERING, SCORING = range(3)  # what a seed's games are for: each use has its own


def played(env_id: str, policy: Policy, games: int, *key: int) -> Iterator[Transition]:
    """Endless transitions of some games under ``policy(ram [N, 128]) -> actions [N]``."""
    gym.register_envs(ale_py)
    with closing(make_vector(env_id, games, same_step=True, obs_type="ram")) as envs:
        yield from transitions(envs, policy, spread(key, 1)[0])


def ram_policy(net: nn.Module, epsilon: Callable[[], float], rng: np.random.Generator) -> Policy:
    """The ε-greedy policy of a network: ram [N, 128] -> actions [N]."""

    @torch.no_grad()
    def policy(ram: np.ndarray) -> np.ndarray:
        explore, at_random = (
            rng.random(len(ram)) < epsilon(),
            rng.integers(BUTTON_COUNT, size=len(ram)),
        )
        seen = torch.from_numpy(ram).to(next(net.parameters()).device)
        return np.where(explore, at_random, net(seen).argmax(1).cpu().numpy())

    return policy


# %%
SPARSE_REPORT, SPARSE_WARM_UP = 100, 1000  # steps between reports; transitions before learning


def train_sparse(
    config: SparseConfig, seed: int, state: dict | None = None, device: str = "cpu"
) -> Iterator[Progress]:
    """DQN on a console's memory. points: the game's own, per 1,000 decisions. value: the mean of |Q|.

    state: {"env_steps", "updates", "dqn", "replay", "random", "metrics"}; a resumed run begins new games.
    """
    torch.manual_seed(seed)
    net, rng = RamNet().to(device), np.random.default_rng(seed)
    dqn = FOUNDATIONS.DQN(net, copy.deepcopy(net), torch.optim.Adam(net.parameters()))
    replay, n_step = Replay(config.capacity), NStep(config.n_step, config.discount)
    state = {"env_steps": 0, "updates": 0} | (state or {})
    if state["env_steps"]:
        for part, kept in zip(dqn, as_tensors(state["dqn"]), strict=True):
            part.load_state_dict(kept)
        replay.add(Experience(**state["replay"]))
        restore_random(state["random"], rng)
    policy = ram_policy(net, lambda: FOUNDATIONS.epsilon_at(config, state["env_steps"]), rng)
    stream = played(config.env_id, policy, config.num_envs, LEARNING, seed, state["env_steps"])
    while True:
        if state["env_steps"] < config.steps:
            state["metrics"] = learn_for_a_report(dqn, stream, replay, n_step, config, state, rng)
        now = FOUNDATIONS.dqn_state(state | {"random": random_state(rng)}, dqn, replay)
        step = min(state["env_steps"], config.steps)
        yield Progress(step, config.steps, state["metrics"], partial(dict, now), "decisions")
        if state["env_steps"] >= config.steps:
            return


# %%
def learn_for_a_report(
    dqn: NamedTuple, stream: Iterator[Transition], replay: Replay, n_step: NStep, config: SparseConfig,
    state: dict, rng: np.random.Generator,
) -> dict[str, float]:  # fmt: skip
    """One report's steps, each with its updates as soon as there is enough to learn from."""
    points, losses = [], []
    for step in islice(stream, SPARSE_REPORT):
        points.extend(step.rewards)
        replay.add(n_step(step._replace(rewards=np.sign(step.rewards))))
        state["env_steps"] += config.num_envs
        if replay.added >= SPARSE_WARM_UP or state["updates"]:
            for _ in range(config.updates):
                batch = ram_batch(replay.sample(config.batch_size, rng), dqn.net)
                losses.append(FOUNDATIONS.dqn_step(dqn, batch, config, state))
    with torch.no_grad():
        seen = ram_batch(replay.sample(1000, np.random.default_rng(0)), dqn.net).obs
        value = dqn.net(seen).abs().mean().item()
    return {"points": 1000 * np.mean(points), "loss": np.mean(losses or np.nan), "value": value}


def ram_batch(rows: Experience, net: nn.Module) -> Experience:
    """Rows of the replay as tensors where ``net`` is."""
    device = next(net.parameters()).device
    return Experience(*(torch.from_numpy(column).to(device) for column in rows))


# %% [markdown]
# Both games, live. `points` are the game's own, per 1,000 decisions, exploration included; a game of boxing has 1,800
# decisions. Dotted, what random play scores: the strongest of the players that we tried and that learn nothing. Who
# holds one button, whichever it is, or throws nothing but punches, loses by more.


# %%
def trained_policy(state: dict, seed: int) -> Policy:
    """A trained network's policy, with a little chance, which keeps it from standing still for ever."""
    net = RamNet()
    net.load_state_dict(as_tensors(state["dqn"][0]))
    return ram_policy(net, lambda: 0.05, np.random.default_rng((SCORING, seed)))


BOUT = 1800  # decisions, two minutes: a whole game of boxing
SPARSE_STORED = {"Boxing": "boxing", "Montezuma's Revenge": "montezuma"}  # names of the results


def random_points(game: str) -> float:
    """What random play scores per 1,000 decisions, over the stored runs of a game."""
    stored = SPARSE_STORED[game]
    found = [run["baselines"][f"{stored}_return"] for run in results.runs("C1", stored)]
    return 1000 * np.mean(found) / BOUT


# %% tags=["C1"]
sparse_config = by_budget(smoke=SparseConfig(steps=1600), laptop=SparseConfig())
sparse_runs = {}
for name, env_id in SPARSE_GAMES.items():
    floor = {"floor": random_points(name), "floor_label": f"{name}: random play"}
    training = train_sparse(replace(sparse_config, env_id=env_id), seed=1)
    sparse_runs[name] = watch(training, "points", **floor)

# %% [markdown]
# *Points per 1,000 decisions while learning, first boxing, then Montezuma's Revenge.* This is what the two look like
# afterwards.

# %% tags=["C1"]
clips = []
for name, env_id in SPARSE_GAMES.items():
    policy = trained_policy(sparse_runs[name].state, seed=3)
    act = lambda ram, policy=policy: int(policy(ram[None])[0])
    clips.append(record(env_id, act, seed=3, steps=by_budget(10, 240), every=2, obs_type="ram"))
side_by_side = [np.concatenate(pair, axis=1) for pair in zip(*clips, strict=False)]
show_clip(side_by_side, 15, "Left the boxer (white), right Panama Joe, after their training above.")

# %% [markdown]
# One run proves little. The next figure shows all stored seeds of each game, beside random play: the mean as a line,
# each seed as a thin one, and the mean's 95 % interval as a band (with fewer than five seeds, their range), here as in
# all figures of stored runs in this chapter, unless a caption says otherwise.

# %% tags=["C1"]
PER_REPORT = SPARSE_REPORT * SparseConfig.num_envs / 1000  # thousands of decisions
figure, panels = plt.subplots(1, 2, figsize=(9.5, 3.2), sharey=True)
for axes, (name, stored) in zip(panels, SPARSE_STORED.items(), strict=True):
    points = results.curves("C1", stored, "points")
    time = PER_REPORT * np.arange(1, points.shape[1] + 1)
    if name == "Boxing":
        means = np.stack([np.convolve(row, np.full(10, 0.1), "valid") for row in points])
        plots.bands(axes, time[9:], means, "DQN")
    else:  # zeros, but for single keys: a mean would smear them
        axes.plot(time, np.zeros_like(time), label="DQN (5 seeds)")
        keys = time[points.nonzero()[1]]
        axes.plot(keys, np.zeros_like(keys), "o", color=plots.COLOURS[1], label="a key, once")
    axes.axhline(random_points(name), color=plots.INK, linestyle=":", label="random play")
    axes.set(title=name, xlabel="decisions (thousands)", ylabel="points per 1,000 decisions")
    axes.legend(loc="upper left")
plt.show()

# %% [markdown]
# *Left, points per 1,000 decisions, averaged over 8,000 decisions, exploration included. DQN has left random play
# behind on every seed, and in five fresh games each network wins by 12.0 to 44.4 points a game, where random play
# scores from -3.6 to 3.4. Right, nothing but zeros, in which two dots mark the only rewards of all five trainings: two
# seeds have met the key, once each. By then one action in twenty was random, so it was the network that led there, by
# luck as far as one can tell: one reward was not enough to learn from, and in fresh games no agent scores.*
# <!-- held: two_games -->
#
# ### Why nothing is found
#
# The reward is there. These are eight presses of buttons that lead to it, when the buttons do not stick:

# %%
PRESSES = (("RIGHTFIRE", 6), ("NOOP", 5), ("RIGHTFIRE", 6), ("DOWN", 8),
           ("LEFT", 15), ("LEFTFIRE", 13), ("UP", 9), ("LEFTFIRE", 2))  # fmt: skip


def hold(presses: Iterable[tuple[str, int]]) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Hold buttons for so many decisions: frames [T+1][H, W, 3], memory [T+1, 128] and rewards [T]."""
    gym.register_envs(ale_py)
    look = {"obs_type": "ram", "render_mode": "rgb_array", "repeat_action_probability": 0.0}
    with closing(gym.make(SPARSE_GAMES["Montezuma's Revenge"], **look)) as env:
        buttons = env.unwrapped.get_action_meanings()
        memory, rewards, frames = [env.reset(seed=0)[0]], [], [env.render()]
        for button in (button for button, decisions in presses for _ in range(decisions)):
            ram, reward, *_ = env.step(buttons.index(button))
            frames.append(env.render())
            memory.append(ram)
            rewards.append(reward)
    return frames, np.array(memory), np.array(rewards)


# %% tags=["C1"]
pyramid, way, way_rewards = hold(PRESSES)
count, before = len(way_rewards), way_rewards[:-1].sum()
print(f"{count} decisions; reward {way_rewards[-1]:.0f} for the last, {before:.0f} before")
print(f"chance of just these: 10^{-count * np.log10(BUTTON_COUNT):.0f}")
show_clip(
    pyramid, 15, "Off the ledge to the rope, right, down, over the skull, up, and to the key."
)

# %% [markdown]
# The last number is the chance of just these presses, $18^{-64}$. Other sequences reach the key too, many of them
# longer, so it is not yet the chance of success. How far does random play come? Two of the 128 bytes are Joe's place in
# the room and one counts his lives ([Anand et al., 2019](../book/bibliography.md#anand2019), list them). Along the way
# above stand four posts, each to be reached after the one before and within the same life.

# %%
JOE_X, JOE_Y, JOE_LIVES = 42, 43, 58  # bytes of the memory
POSTS = {
    "the ledge on the right": lambda x, y: (x >= 121) & (y == 192),
    "the ladder below it": lambda x, y: (x == 133) & (y > 148) & (y < 192),
    "the floor": lambda x, y: y == 148,
    "the ladder beyond the skull": lambda x, y: (x == 21) & (y > 148) & (y < 192),
}


def posts_reached(steps: Iterable[Transition]) -> np.ndarray:
    """How many of the ended lives came at least so far: all, to post 1, 2, ..., to the key. [6]"""
    counts, post = np.zeros(len(POSTS) + 2, int), 0
    for step in steps:
        x, y = step.next_obs[:, JOE_X], step.next_obs[:, JOE_Y]  # [N]
        for number, there in enumerate(POSTS.values()):
            post = post + ((post == number) & there(x, y))
        post = np.where(step.rewards > 0, len(POSTS) + 1, post)
        over = step.terminated | (step.next_obs[:, JOE_LIVES] < step.obs[:, JOE_LIVES])
        counts += (post[over][:, None] >= np.arange(len(counts))).sum(0)
        post = np.where(over, 0, post)
    return counts


# %% tags=["hide-input", "C1"]
def wander(config: SparseConfig, seed: int) -> list[Transition]:
    """As many decisions as a training has, at random: [T] transitions of N games."""
    rng = np.random.default_rng((WANDERING, seed))
    policy = lambda ram: rng.integers(BUTTON_COUNT, size=len(ram))
    stream = played(config.env_id, policy, config.num_envs, WANDERING, seed)
    return list(islice(stream, config.steps // config.num_envs))


def draw_wandering(
    axes: Axes, title: str, picture: np.ndarray, ram: np.ndarray, way: np.ndarray
) -> None:
    """Where Joe was, as a heat map over the room's picture, and a way [T, 128]. ram: [B, 128]."""
    across, down = ram[:, JOE_X] + 3.0, 318.0 - ram[:, JOE_Y]  # pixels
    visits, *_ = np.histogram2d(down, across, (70, 80), ((40, 180), (0, 160)))
    axes.imshow(picture)
    bright = ListedColormap(plt.get_cmap("plasma")(np.linspace(0.3, 1, 256)))
    shown = {"norm": "log", "vmin": 1, "vmax": 1e4, "cmap": bright, "alpha": 0.9}
    heat = axes.imshow(np.ma.masked_equal(visits, 0), extent=(0, 160, 180, 40), **shown)
    axes.plot(way[:, JOE_X] + 3.0, 318.0 - way[:, JOE_Y], ":", color="white", linewidth=1)
    axes.add_patch(plt.Circle((16, 106), 11, fill=False, color="white", linewidth=1.5))
    axes.set(title=title, xlim=(0, 160), ylim=(198, 40))
    axes.set_axis_off()
    axes.figure.colorbar(heat, ax=axes, label="decisions", shrink=0.75)


figure, panels = plt.subplots(1, 2, figsize=(9.5, 4.0))
wandering = wander(replace(sparse_config, env_id=SPARSE_GAMES["Montezuma's Revenge"]), seed=1)
random_ram = np.concatenate([step.obs for step in wandering])
draw_wandering(panels[0], "random play", pyramid[0], random_ram, way)
learned_from = sparse_runs["Montezuma's Revenge"].state["replay"]["obs"]
draw_wandering(panels[1], "DQN, while learning", pyramid[0], learned_from, way)
plt.show()

# %% [markdown]
# *The first room, and how many decisions each place has seen: left random play, right all that the DQN has learned
# from. The key is circled; the dotted line is the way that the eight presses take. Each trail through the air that ends
# on the floor is a fall, and a fall is a death. This DQN, of seed 1, is one of the three that met no key: neither map
# has a single spot on the ladder that leads up to it.*

# %% tags=["hide-input", "C1"]
lives, *came = sum(results.curves("C1", "montezuma", "posts")).astype(int)
figure, axes = plt.subplots(figsize=(7.2, 2.4))
axes.barh([*POSTS, "the key"], np.array(came) / lives)
for row, arrived in enumerate(came):
    place = max(arrived, 0.5) / lives, row
    axes.annotate(f" {arrived:,} of {lives:,} lives", place, va="center")
axes.set(xlabel="share of lives that come so far", xscale="log", xlim=(0.5 / lives, 3))
axes.invert_yaxis()
plt.show()

# %% [markdown]
# *Random play, all seeds together, on a logarithmic axis. About every sixth life comes to the ledge on the right, about
# one in twenty to the floor, and from there none to the ladder beyond the skull. The DQNs met two keys in as many
# decisions; two against none proves nothing.* <!-- held: posts -->
#
# What does the DQN learn meanwhile? All its targets are $0 + \gamma^n \max_{a'} Q_{\theta^-}(s', a')$. The values
# $Q = 0$ satisfy Bellman's equation exactly, and each copy to the target network shrinks the targets by another factor
# $\gamma^n$.

# %% tags=["C1"]
figure, axes = plt.subplots(figsize=(7.2, 2.8))
for name, stored in SPARSE_STORED.items():
    values = results.curves("C1", stored, "value")
    time = PER_REPORT * np.arange(1, values.shape[1] + 1)
    plots.bands(axes, time, values, name, statistic="median")
axes.set(xlabel="decisions (thousands)", ylabel="mean |Q|", yscale="log")
axes.legend(loc="lower left")
plt.show()

# %% [markdown]
# *The mean size of the values over states of the replay and all actions, on a logarithmic axis. In boxing they stay
# above half of their peak. In Montezuma's Revenge, without a key, they shrink to less than a tenth of it. (Two runs have
# met a key, once each. Their values end more than three times as large as those of the others.)*
# <!-- held: sizes_of_values -->
#
# So the code is not at fault, and neither is the network: both do in Montezuma's Revenge what they do in Boxing, and
# arrive at a correct prediction, that nothing ever happens. No amount of replay improves a reward that is never seen.
# The DQN of [Mnih et al. (2015)](../book/bibliography.md#mnih2015), with pixels and fifty million decisions, scored 0
# in this game too. If the world does not say whether something was worth doing, the agent needs a reason of its own to
# go where it has not been. Let us reward something else, then.

# %% [markdown]
# ## Surprise as a reward
#
# Someone who learns how the world goes can tell where they do not know it yet: there, their predictions fail. So let
# the agent predict what follows its action, and pay it for being wrong. Write $\phi(s)$ for a few numbers that describe
# the state, its **features**. A **forward model** $f$ predicts the next features, and the error is the **intrinsic
# reward**, the *surprise* for short:
#
# $$
# \hat\phi_{t+1} = f\big(\phi(s_t), a_t\big), \qquad
# r^{\text{int}}_t = \frac{1}{F} \big\lVert \hat\phi_{t+1} - \phi(s_{t+1}) \big\rVert^2 .
# $$
#
# The forward model learns from the very errors that the agent is paid for. What has been seen often is predicted well
# and pays nothing any more, so the agent has to move on: the reward is wherever experience is missing. Where the game
# pays too, the agent gets the sum $r^{\text{int}} + r^{\text{ext}}$, and how to weigh the two is a subject of [the
# second part](ch03b_mario.ipynb); in this one nobody pays but curiosity. Everything now depends on $\phi$.


# %%
class Surprise(nn.Module):
    """Curiosity as a prediction error.

    obs, next_obs: [B, ...]; actions: [B] -> intrinsic rewards [B]; losses by name.
    """

    def __init__(self, encoder: nn.Module, features: int, actions: int, hidden: int = 128) -> None:
        super().__init__()
        self.encoder, self.actions = encoder, actions
        self.forward_model = FOUNDATIONS.mlp(features + actions, hidden, features)

    def errors(
        self, features: torch.Tensor, actions: torch.Tensor, following: torch.Tensor
    ) -> torch.Tensor:
        """Squared errors of the forward model, which alone feels them. [B, F], [B], [B, F] -> [B]."""
        inputs = torch.cat([features.detach(), F.one_hot(actions, self.actions)], 1)  # [B, F + A]
        return (self.forward_model(inputs) - following.detach()).square().mean(1)

    @torch.no_grad()
    def surprise(
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
# Every curiosity of this chapter has this interface: `surprise` pays, `losses` says what to train on, by name. The two
# `detach` say that the forward model takes the features as given; why, comes below. The encoder is handed in, so
# that the same class serves a small room here and a video game in [the second part](ch03b_mario.ipynb). The simplest
# encoder is none: the features are the pixels.
#
# ## The noisy television
#
# Now a world where it shows. Seven by seven cells, a walker, and in one corner a sofa before a television. The walker
# sees a picture of 7 × 14 pixels: on the left the room with a bright dot where it stands, on the right the screen. The
# screen is dark, except from the sofa: there it shows noise, 49 fresh random numbers at every step. Six actions: up,
# down, left, right, a button that does nothing, so far, and waiting. Nothing else happens in this world, and nobody
# gives a reward.


# %%
ROOM_CURIOSITIES = {"pixels": lambda: Surprise(nn.Flatten(), PIXELS, ROOM_ACTIONS)}  # three follow


@dataclass(frozen=True)
class RoomConfig:
    """Walkers before a television.

    tv: from where it is seen. remote: whether the button changes the picture, and nothing else does.
    memory: whether the curiosity learns from all that has been seen, or from the last step.
    """

    curiosity: str = field(default="ICM", metadata={"options": ROOM_CURIOSITIES.keys()})
    tv: str = choice("sofa", ("sofa", "everywhere"))
    remote: bool = False
    memory: bool = True
    steps: int = knob(4000, 50, 10_000, "steps of every walker", step=50)
    walkers: int = knob(32, 1, 256, "walkers that share a table and a curiosity")
    learning_rate: float = knob(1e-3, 1e-4, 1e-1, "of the curiosity's networks", step=1e-4)
    discount: float = knob(0.9, 0.0, 0.99, "gamma of the table", step=0.01)
    epsilon: float = knob(0.1, 0.0, 1.0, "share of random actions", step=0.01)
    table_rate: float = knob(0.3, 0.01, 1.0, "step size of the table", step=0.01)

    def __post_init__(self) -> None:
        check_config(self)


# %%
UP, DOWN, LEFT, RIGHT, PRESS, WAIT = range(6)
ROOM_ACTIONS, SIZE, SOFA = 6, 7, 0
START, PIXELS = SIZE**2 - 1, 2 * SIZE**2  # the corner opposite the sofa; of a picture
SHIFTS = np.array([[-1, 0], [1, 0], [0, -1], [0, 1], [0, 0], [0, 0]])  # of each action
CELLS = np.argwhere(np.ones((SIZE, SIZE)))  # [49, 2]
NEXT_CELL = (CELLS[:, None] + SHIFTS).clip(0, SIZE - 1) @ (SIZE, 1)  # [49, A]


class Seen(NamedTuple):
    """Transitions. obs, next_obs: pictures [B, 1, 7, 14]; actions: [B]."""

    obs: np.ndarray
    actions: np.ndarray
    next_obs: np.ndarray


def look(cells: np.ndarray, screens: np.ndarray, tv: str = "sofa") -> np.ndarray:
    """What walkers at ``cells`` [B] see: [B, 1, 7, 14]. screens: [B, 7, 7], what is on."""
    pictures = np.zeros((len(cells), 1, SIZE, 2 * SIZE), np.float32)
    pictures[np.arange(len(cells)), 0, *CELLS[cells].T] = 1
    on = (cells == SOFA) | (tv == "everywhere")
    pictures[..., SIZE:] = screens[:, None] * on[:, None, None, None]
    return pictures


def move(cells: np.ndarray, screens: np.ndarray, actions: np.ndarray, config: RoomConfig,
         rng: np.random.Generator) -> tuple[Seen, np.ndarray]:  # fmt: skip
    """A step of all walkers: what they saw, their next cells [B]; renews ``screens`` [B, 7, 7] in place."""
    obs, following = look(cells, screens, config.tv), NEXT_CELL[cells, actions]
    renewed = (actions == PRESS) | (not config.remote)
    screens[renewed] = rng.random((renewed.sum(), SIZE, SIZE))
    return Seen(obs, actions, look(following, screens, config.tv)), following


# %%
def show_views(views: Iterable[np.ndarray], titles: tuple[str, ...]) -> None:
    """Pictures [7, 14] side by side: the room on the left of each, with its cells, then the screen."""
    _, panels = plt.subplots(1, len(titles), figsize=(9.5, 1.7))
    for axes, view, title in zip(panels, views, titles, strict=True):
        axes.imshow(view, cmap="cividis", vmin=0, vmax=1)
        for draw in (axes.vlines, axes.hlines):
            draw(np.arange(1, SIZE) - 0.5, -0.5, SIZE - 0.5, plots.INK, linewidth=0.4)
        axes.axvline(SIZE - 0.5, color=plots.INK)
        axes.set(title=title, xticks=[], yticks=[])
    plt.show()


views = look(np.array([24, SOFA, SOFA]), np.random.default_rng(0).random((3, SIZE, SIZE)))
show_views(views[:, 0], ("on the carpet", "on the sofa", "a step later"))

# %% [markdown]
# *Three observations: the room on the left of each, the screen on the right. In the middle of the room the screen is
# dark. On the sofa, which is in the upper left corner, it shows noise, and a step later other noise.*
#
# The walker's mind should be simple, so that only its curiosity is on trial. It knows which cell it is in and keeps a
# table $Q(\text{cell}, a)$ of discounted *intrinsic* reward, learned by Q-learning with some random actions. The table
# starts at what the very first step would be worth if it were paid for ever, so that everything gets tried. Thirty-two
# walkers share the table and the curiosity. The curiosity learns as a DQN does, from a **memory**: 32 transitions for
# each update, drawn from all that have been seen.


# %%
def choose(
    q: np.ndarray, cells: np.ndarray, epsilon: float, rng: np.random.Generator
) -> np.ndarray:
    """What walkers in ``cells`` [B] do: the best action of the table [49, A], or any: [B]."""
    explore = rng.random(len(cells)) < epsilon
    return np.where(explore, rng.integers(ROOM_ACTIONS, size=len(cells)), q[cells].argmax(1))


def learn_table(
    q: np.ndarray, cells: np.ndarray, actions: np.ndarray, targets: np.ndarray, rate: float
) -> None:
    """Move the visited entries towards the mean of their targets, in place. q: [49, A], rest [B]."""
    sums, counts = np.zeros_like(q), np.zeros_like(q)
    np.add.at(sums, (cells, actions), targets - q[cells, actions])
    np.add.at(counts, (cells, actions), 1)
    q += rate * sums / counts.clip(min=1)


def walk(curiosity: nn.Module, optimiser: torch.optim.Optimizer, memory: Replay, state: dict,
         config: RoomConfig, rng: np.random.Generator) -> np.ndarray:  # fmt: skip
    """One step of all walkers and one update of table and curiosity, in place: their surprises [B]."""
    q, cells, device = state["q"], state["cells"], next(curiosity.parameters()).device
    tensors = lambda seen: (torch.from_numpy(column).to(device) for column in seen)
    actions = choose(q, cells, config.epsilon, rng)
    seen, state["cells"] = move(cells, state["screens"], actions, config, rng)
    rewards = curiosity.surprise(*tensors(seen)).cpu().numpy()
    if not state["step"]:
        q += rewards.mean() / (1 - config.discount)
    targets = rewards + config.discount * q[state["cells"]].max(1)
    learn_table(q, cells, actions, targets, config.table_rate)
    memory.add(seen)
    learned = memory.sample(config.walkers, rng) if config.memory else seen
    optimiser.zero_grad()
    sum(curiosity.losses(*tensors(learned)).values()).backward()
    optimiser.step()
    state["step"] += 1
    state["visits"][-1] += np.bincount(state["cells"], minlength=SIZE**2)
    state["presses"][-1] += (actions == PRESS).sum()
    return rewards


# %%
ROOM_REPORT = 50  # steps of every walker between reports


def train_walkers(
    config: RoomConfig, seed: int, state: dict | None = None, device: str = "cpu"
) -> Iterator[Progress]:
    """Walk and learn. state, to be asked for before the next step: visits [R, 49], presses [R], …"""
    torch.manual_seed(seed)
    curiosity = ROOM_CURIOSITIES[config.curiosity]().to(device)
    memory = Replay(config.walkers * (config.steps if config.memory else 1))
    optimiser = torch.optim.Adam(curiosity.parameters(), config.learning_rate)
    state = copy.deepcopy(state) or {
        "step": 0, "q": np.zeros((SIZE**2, ROOM_ACTIONS)), "cells": np.full(config.walkers, START),
        "screens": np.zeros((config.walkers, SIZE, SIZE)), "visits": np.zeros((0, SIZE**2), int),
        "presses": np.zeros(0, int)}  # fmt: skip
    if state["step"]:
        curiosity.load_state_dict(as_tensors(state["curiosity"]))
        optimiser.load_state_dict(as_tensors(state["optimiser"]))
        memory.add(Seen(**state["memory"]))
    while True:
        if state["step"] < config.steps:
            rng = np.random.default_rng([seed, state["step"]])
            state["visits"] = np.pad(state["visits"], ((0, 1), (0, 0)))
            state["presses"] = np.pad(state["presses"], (0, 1))
            walked = (
                walk(curiosity, optimiser, memory, state, config, rng) for _ in range(ROOM_REPORT)
            )
            surprise, acted = np.mean(list(walked)), ROOM_REPORT * config.walkers
            state["metrics"] = {
                "share_at_tv": state["visits"][-1, SOFA] / acted, "presses": state["presses"][-1] / acted,
                "surprise": float(surprise)}  # fmt: skip
        learned = {"curiosity": curiosity.state_dict(), "optimiser": optimiser.state_dict()}
        seen = lambda: memory.rows(np.arange(len(memory)))._asdict()
        now = lambda learned=learned: copy.deepcopy(state | learned) | {"memory": seen()}
        yield Progress(state["step"], config.steps, state["metrics"], now, "steps of every walker")
        if state["step"] >= config.steps:
            return


# %% [markdown]
# To see what a place pays, ask the curiosity about every move of the room: every action in every cell, once.


# %%
def every_move(config: RoomConfig) -> Seen:
    """All 294 transitions of the room."""
    cells, actions = np.divmod(np.arange(NEXT_CELL.size), ROOM_ACTIONS)
    rng = np.random.default_rng(0)
    return move(cells, rng.random((len(cells), SIZE, SIZE)), actions, config, rng)[0]


def room_curiosity(config: RoomConfig, state: dict) -> nn.Module:
    """The curiosity in a state of ``train_walkers``."""
    curiosity = ROOM_CURIOSITIES[config.curiosity]()
    curiosity.load_state_dict(as_tensors(state["curiosity"]))
    return curiosity


def pay(curiosity: nn.Module, config: RoomConfig) -> np.ndarray:
    """What a curiosity would pay for every action in every cell: [49, A]."""
    return (
        curiosity.surprise(*map(torch.from_numpy, every_move(config)))
        .numpy()
        .reshape(-1, ROOM_ACTIONS)
    )


def filmed(config: RoomConfig, seed: int, film: list[np.ndarray]) -> Iterator[Progress]:
    """``train_walkers``; what each cell pays at every report goes to ``film``: [49]."""
    for progress in train_walkers(config, seed):
        film.append(pay(room_curiosity(config, progress.state()), config).mean(1))
        yield progress


NEAR_TV = np.flatnonzero(CELLS.sum(1) <= 2)  # the sofa and the five cells within two steps


def near_tv(visits: np.ndarray) -> np.ndarray:
    """The share of the time within two steps of the sofa. visits: [R, 49] -> [R]."""
    return visits[:, NEAR_TV].sum(1) / visits.sum(1)


# %% tags=["C2"]
EVENLY = 1 / SIZE**2  # the share of each cell if all were visited alike
room = by_budget(smoke=RoomConfig("pixels", steps=400), laptop=RoomConfig("pixels", steps=2000))
evenly = {"metric": "share_at_tv", "floor": EVENLY, "floor_label": "all cells alike"}
naive_film, icm_film = [], []
naive_run = watch(filmed(room, 1, naive_film), **evenly)
print(f"surprise at the end: {naive_run['surprise'][-1]:.4f}")

# %% [markdown]
# *Share of the 32 walkers that are on the sofa, against the steps that each has taken. After 500 steps nearly all sit
# there, and stay: over the second half of the stored runs, 96 %. The missing ones are on their way back: one action in
# ten is random, and two in six of those leave the sofa.* <!-- held: the_naive_stay -->
#
# The forward model cannot be blamed. It has learned what can be learned, the mean of the noise. The variance remains:
# 1/12 for each of the 49 pixels of the screen, and so $1/24 \approx 0.042$ for the picture. That pays for ever.
#
# One way out is to pay not for the error but for how fast it falls, for **learning progress** ([Schmidhuber,
# 1991](../book/bibliography.md#schmidhuber1991)): on the sofa the error stays where it is, so there is nothing to earn.
# Chapter 8 of the source weighs this idea and drops it, because of the wind: leaves flutter, lie still and flutter
# again, the error jumps with them, and each calm looks like progress. Besides, the difference of two noisy errors is
# hard to measure. So the question has to be another one: not how well something is predicted, but whether it is worth
# predicting.
#
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
# The bar says that the forward model takes the features as given: its loss does not reach the encoder.
#
# ![ICM: three networks, two losses](../book/figures/icm.svg)
#
# *ICM. Solid, what is computed; dashed, how far each loss is felt. The inverse loss (blue) trains the inverse model and
# the encoder, which is the same at both places; the forward loss (orange) trains the forward model, and stops at the
# bars.*


# %%
class ICM(Surprise):
    """Surprise in features that an inverse model has trained (Pathak et al. 2017)."""

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
# The room's encoder ends in a `LayerNorm` without parameters: every state's features have mean 0 and variance 1. An
# answer of nothing but zeros then costs 1, in any world, and the encoder cannot make the reward small by making the
# features small.


# %%
def small_encoder(pixels: int = PIXELS, features: int = 32) -> nn.Sequential:
    """Pictures [B, 1, H, W] -> features [B, F], row by row of mean 0 and variance 1."""
    scale = nn.LayerNorm(features, elementwise_affine=False)
    return nn.Sequential(nn.Flatten(), FOUNDATIONS.mlp(pixels, 64, features), scale)


ROOM_CURIOSITIES |= {"ICM": lambda: ICM(small_encoder(), 32, ROOM_ACTIONS)}

# %% [markdown]
# ### The same room, seen by ICM

# %% tags=["C2"]
icm_run = watch(filmed(replace(room, curiosity="ICM"), 1, icm_film), **evenly)

# %% tags=["hide-input", "C2"]
KINDS = ("pixels", "random features", "RND", "ICM")
COLOUR = dict(zip((*KINDS, "random walk"), plots.COLOURS, strict=False))  # in all figures
figure, axes = plt.subplots(figsize=(7.2, 3.0))
for run, kind in ((naive_run, "pixels"), (icm_run, "ICM")):
    axes.plot(run.steps, run["share_at_tv"], color=COLOUR[kind], label=f"{kind}: on the sofa")
    near = near_tv(run.state["visits"])
    axes.plot(run.steps, near, "--", color=COLOUR[kind], label=f"{kind}: within two steps")
axes.set(xlabel="steps of every walker", ylabel="share of the walkers", ylim=(0, 1))
axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# *The two live runs on the same axes. The television draws ICM's walkers too: in each of the five stored runs between
# 5 % and 34 % of them in some report of the first 250 steps, where walkers at random, from the same corner, reach 3.3 %
# at most. Then they get up, and camp beside it: at step 250 at most one in eighty is on the sofa, but from 23 % to 68 %
# are within two steps of it, and of walkers at random 6 % to 14 %. Over the second half they are on it 1.9 % of the
# time, and on no seed more than 3.2 %, when an even share is 2 %.* <!-- held: icm_leaves -->
#
# The same two beginnings as a film, with what each cell would pay.


# %% tags=["hide-input", "C2"]
def draw_cells(axes: Axes, values: np.ndarray, title: str, **style: object) -> object:
    """A number for each cell [49], as colours; 'TV' marks the sofa."""
    axes.set(title=title, xticks=[], yticks=[])
    style = {"cmap": "cividis", "norm": "log", "vmin": 1e-3, "vmax": 1} | style
    drawn = axes.imshow(values.clip(1e-4).reshape(SIZE, SIZE), **style)
    bright = drawn.norm(max(values[0], 1e-4)) > 0.6
    axes.text(0, 0, "TV", ha="center", va="center", color="black" if bright else "white")
    return drawn


PAY_SCALES = {"pixels": (1e-3, 1e-1), "ICM": (3e-2, 1.2)}  # lowest and highest colour


def film_picture(runs: dict[str, tuple[Run, list[np.ndarray]]], report: int) -> bytes:
    """Where each crowd was in the 50 steps before a report, and what each cell pays at its end."""
    figure = Figure(figsize=(7.2, 6.0), dpi=80)
    panels = figure.subplots(2, 2)
    for (above, below), (kind, (run, film)) in zip(panels.T, runs.items(), strict=True):
        visits, (low, high) = run.state["visits"][report], PAY_SCALES[kind]
        there = draw_cells(above, visits / visits.sum(), f"{kind}, to step {run.steps[report]}")
        pays = draw_cells(below, film[report], "what it pays", vmin=low, vmax=high)
        figure.colorbar(pays, ax=below, label="surprise")
    figure.colorbar(there, ax=panels[0], label="share of the walkers")
    return plots.to_png(figure)


filmed_runs = {"pixels": (naive_run, naive_film), "ICM": (icm_run, icm_film)}
reports = range(min(len(run.steps) for run, _ in filmed_runs.values()))
pictures = [film_picture(filmed_runs, report) for report in reports]
first = len(pictures) // 8
show(scrubber(pictures, "picture", start=first, interval=400), pictures[first])

# %% [markdown]
# *Above, where the 32 walkers were in the last 50 steps; below, what each cell would pay on average over the six
# actions. All scales are logarithmic. The lower two differ, since each curiosity pays in a coin of its own: compare
# cells, not sides. Left, surprise at pixels: from step 200 to the last picture the sofa pays 0.03, and soon two to
# three times as much as any other cell; that crowd sits down and stays. Right, ICM: its features are still being made,
# so that its pay rises before it falls. At step 100 the sofa pays best of all cells, at step 300 least. The crowd has
# moved on to cells that pay more, and goes as a swarm from there to the next ones, until the whole room is dull.*
#
# ### What the encoder sees
#
# ICM's defence rests on one claim: its features do not contain the noise. Measure it. Take many pictures from the sofa,
# which differ in nothing but the noise, and many from anywhere; compare how much the features vary over the first
# with how much they vary over the second.


# %% tags=["C2"]
@torch.no_grad()
def noise_in_features(
    encoder: nn.Module, tv: str = "sofa", seed: int = 0, count: int = 500
) -> tuple[float, float]:
    """Mean variance of the features over pictures that differ in noise alone, and over all cells."""
    rng = np.random.default_rng(seed)
    screens, cells = rng.random((count, SIZE, SIZE)), rng.integers(SIZE**2, size=count)
    views = (torch.from_numpy(look(at, screens, tv)) for at in (np.full(count, SOFA), cells))
    noise, everything = (encoder(view).var(0).mean().item() for view in views)
    return noise, everything


torch.manual_seed(1)
trained = room_curiosity(replace(room, curiosity="ICM"), icm_run.state)
for when, icm in {"at birth": ROOM_CURIOSITIES["ICM"](), "after training": trained}.items():
    noise, everything = noise_in_features(icm.encoder)
    print(f"{when:14}: variance {noise:.4f} by noise alone, {everything:.3f} over all cells")

# %% [markdown]
# *Before training, pictures that differ in nothing but their noise have features that vary as much as those of pictures
# from the whole room. After it the features of different cells lie far apart, and the noise moves them by next to
# nothing: by 1.05 % of that at most, over the second half of each of the five stored runs.*
# <!-- held: noise_is_left_out --> Nobody told the encoder what noise is: pixels that say nothing about the action are
# in the inverse model's way, and training removes them. (An encoder that nobody trains keeps them: below, as "random
# features".)
#
# ### Who learns from what: a proof by gradient
#
# "The forward loss does not reach the encoder" is a statement about gradients, so let the gradients say it. After each
# loss alone has been sent backwards, which parts hold a gradient?


# %%
def reached(loss: torch.Tensor, module: nn.Module) -> dict[str, bool]:
    """Which children of a module get a gradient from a loss."""
    module.zero_grad(set_to_none=True)
    loss.backward(retain_graph=True)
    felt = lambda child: any(p.grad is not None for p in child.parameters())
    return {name: felt(child) for name, child in module.named_children()}


# %% tags=["C3"]
# NBVAL_CHECK_OUTPUT
torch.manual_seed(0)
icm, (earlier, later) = ROOM_CURIOSITIES["ICM"](), torch.rand(2, 8, 1, SIZE, 2 * SIZE)
for name, loss in icm.losses(earlier, torch.randint(ROOM_ACTIONS, (8,)), later).items():
    print(f"{name} loss reaches {[part for part, yes in reached(loss, icm).items() if yes]}")
    assert reached(loss, icm)["encoder"] == (name == "inverse")

# %% [markdown]
# *Two losses, two separate sets of networks. The forward loss ends at the forward model: the encoder's gradients are
# not small, there are none. The inverse loss trains the inverse model and the encoder.*
#
# Why the cut? An encoder that was asked for nothing but easy predictions would map every state to the same point, and
# be done. The published program of [Pathak et al. (2017)](../book/bibliography.md#pathak2017) has no cut: its encoder
# feels both losses, $\beta L_{\text{fwd}} + (1 - \beta) L_{\text{inv}}$ with $\beta = 0.2$, where $L_{\text{fwd}}$ is
# half the *sum* over the features, not their mean, and the inverse loss has to keep it from giving in. [Burda et al.
# (2019a)](../book/bibliography.md#burda2019a) and the source cut, as we do: what the features hold is then decided by
# one question alone, and no weight has to be found. (The first of the bugs below trains them all, and shows what hangs
# on the weight.)
#
# ### Do the losses fall?
#
# The usual sign of learning is a loss that falls. A curious agent need not show it, says the source: the forward model
# tries to lower its error, and the walkers, who choose what it sees next, try to raise it, two players with opposite
# goals. That can be tried. Take the second player out: walkers that move at random ($\varepsilon = 1$). And take the
# memory away, so that the curiosity learns from the last step alone, from where its crowd happens to be. All four
# crowds are judged by the error on what they do, and on a set that nobody chooses: every action in every cell. Since
# the features differ from run to run, and an error in features that hardly vary is small for the wrong reason, the
# second is divided by the features' variance over all cells.


# %% tags=["hide-input", "C9"]
def draw_room(
    axes: Axes, name: str, curve: str, label: str, over: str = "", **style: object
) -> None:
    """A curve of stored runs against the steps of every walker, on its own or divided by another."""
    steps, values = results.curves("C2", name, "step")[0], results.curves("C2", name, curve)
    values = values / results.curves("C2", name, over) if over else values
    plots.bands(axes, steps, values, label, **{"linewidth": 1.5} | style)
    axes.set_xlabel("steps of every walker")


def legend(axes: Axes, **where: object) -> None:
    """A legend without the number of seeds, which the caption says."""
    lines, labels = axes.get_legend_handles_labels()
    axes.legend(lines, [label.partition(" (")[0] for label in labels], fontsize=8, **where)


figure, panels = plt.subplots(1, 2, figsize=(9.5, 3.0))
for kind, label, walkers in (("", "curious", "ICM"), ("_random_walk", "random", "random walk")):
    for learner, learns, dashes in (("", "memory", "-"), ("_last_step", "last step", "--")):
        name, style = f"room_ICM{kind}{learner}", {"color": COLOUR[walkers], "linestyle": dashes}
        draw_room(panels[0], name, "surprise", f"{label}, {learns}", **style)
        draw_room(panels[1], name, "everywhere", f"{label}, {learns}", over="variance", **style)
panels[0].set(title="on what the walkers do", ylabel="squared error", ylim=(0, 1.2))
panels[1].set(title="on every move, divided by the variance", ylim=(0, 1.5))
legend(panels[0])
plt.show()

# %% [markdown]
# *Left, the error on what the walkers do; right, on every action in every cell, divided by the variance; five seeds
# each (some first peaks leave the panel). On the left all four errors rise, from step 100 on, and then fall. On the
# right only one crowd's does, that of the curious with the last step alone: for the other three the features grow apart
# faster than the errors. With a memory (solid) the second player is felt while there is much to learn: between steps
# 200 and 1,000 walkers who choose meet about twice the error, 0.75 against 0.39, on every seed more; after that a third
# more, 0.151 against 0.111. The model that they leave behind (right) is as good over the second half. With the last
# step alone (dashed) it is another matter: over the second half 0.197 against 0.080, over the whole room errors more
# than twice as large, and relapses: on every seed the error at some time doubles again.*
# <!-- held: losses_in_the_room -->
#
# So an opponent alone raises a curious agent's losses, and cannot keep them up. An opponent who leads a forgetful
# learner can: what the crowd leaves behind is unlearned, and pays again. Random walkers see to variety themselves; for
# them, over the second half, a memory changes nothing. Either way a curious agent's losses say little about how it
# does. Look at where it goes.
#
# ## Two cheaper ways to be curious
#
# **Random features.** [Burda et al. (2019a)](../book/bibliography.md#burda2019a) asked what the training of the encoder
# is worth, and put an encoder in its place that is drawn at random and never trained. It costs nothing, stands still,
# so that the forward model's target stops moving, and did almost as well in many games. In code it is not even a new
# class: a `Surprise` with that encoder.
#
# **Random network distillation** (RND, [Burda et al., 2019b](../book/bibliography.md#burda2019b)) predicts nothing
# about the future. One random network, the *target*, gives every observation a fixed random fingerprint. A second one,
# the *predictor*, learns to reproduce the fingerprints of what has been seen. Where it fails, the observation is new:
#
# $$
# r^{\text{int}}_t = \tfrac{1}{F} \big\lVert p_\omega(\tilde s_{t+1}) - \tau(\tilde s_{t+1}) \big\rVert^2 ,
# \qquad \tilde s = \mathrm{clip}\Big( \frac{s - \mu}{\sigma}, -5, 5 \Big) .
# $$
#
# The fingerprint is a function of the observation, so nothing about it is random once the target is drawn: a predictor
# large enough could learn it entirely, noise or not.


# %%
class RND(nn.Module):
    """Random network distillation: surprise at an observation (Burda et al. 2019b)."""

    def __init__(self, make_encoder: Callable[[], nn.Module], features: int) -> None:
        super().__init__()
        self.target = make_encoder().requires_grad_(False)
        self.predictor = nn.Sequential(make_encoder(), FOUNDATIONS.mlp(features, 128, features))

    def errors(self, next_obs: torch.Tensor) -> torch.Tensor:
        return (self.predictor(next_obs) - self.target(next_obs)).square().mean(1)  # [B]

    @torch.no_grad()
    def surprise(
        self, obs: torch.Tensor, actions: torch.Tensor, next_obs: torch.Tensor
    ) -> torch.Tensor:
        return self.errors(next_obs)

    def losses(
        self, obs: torch.Tensor, actions: torch.Tensor, next_obs: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        return {"distillation": self.errors(next_obs).mean()}


# %% [markdown]
# The observations are normalised with running statistics. In the room that takes a wrapper around RND, with the
# `Normaliser` of [chapter 6](ch06_policy_optimisation.ipynb) in it: the running mean and deviation of every pixel.


# %% tags=["C7"]
class RoomRND(RND):
    """RND that sees each pixel in units of its own deviation so far, clipped at 5."""

    def __init__(self) -> None:
        super().__init__(small_encoder, 32)
        self.normalise = POLICIES.Normaliser(PIXELS)

    def errors(self, next_obs: torch.Tensor) -> torch.Tensor:
        return super().errors(self.normalise(next_obs.flatten(1)).clamp(-5, 5).view_as(next_obs))

    def losses(
        self, obs: torch.Tensor, actions: torch.Tensor, next_obs: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        self.normalise.show(next_obs.flatten(1))
        return super().losses(obs, actions, next_obs)


ROOM_CURIOSITIES |= {
    "random features": lambda: Surprise(small_encoder().requires_grad_(False), 32, ROOM_ACTIONS),
    "RND": RoomRND,
}


# %% tags=["hide-input", "C2", "C7"]
def run_name(room: str, kind: str) -> str:
    """The name of a room's stored runs."""
    return f"{room}_{kind}".replace(" ", "_")


figure, (axes, used) = plt.subplots(1, 2, figsize=(9.5, 3.2), width_ratios=(3, 2))
crowds = {kind: run_name("room", kind) for kind in KINDS} | {"random walk": "room_ICM_random_walk"}
for kind, name in crowds.items():
    draw_room(axes, name, "share_at_tv", kind, color=COLOUR[kind])
axes.set(ylabel="share of the time at the TV", ylim=(0, 1))
legend(axes, loc="center right")
plots.bars(used, {kind: results.metric("C2", name, "cells") for kind, name in crowds.items()})
used.set(xlabel="cells in use, of 49", xlim=(0, 50))
plt.show()

# %% [markdown]
# *Left: share of the time at the TV. Right: cells in use over the second half, $e$ to the power of the entropy of the
# time in each; a bar is the mean, a circle a seed. Pixels stare from the start. Random features and RND see the room
# first, and are caught all the same, before step 2,000 on every seed: their features hold the noise, and each fresh
# picture is as new as the last. (RND's fingerprint of a picture can be learned; it is caught, we think, because no
# picture comes twice.) ICM alone moves on; on two seeds a swarm returns once for a look.* <!-- held: who_stares -->
#
# One look at the right panel keeps us honest. The walker that learns nothing uses 48.9 of the 49 cells, ICM's walkers
# 45.2. A room of this size is explored by stumbling about; it measures who can be distracted, not who explores.
# <!-- held: cells_in_use -->
#
# ### The second act: a television for the whole room
#
# The screen was seen from one cell of 49. That made it easy to leave: whoever looks away is rid of it. So let the
# screen be seen from **everywhere**. First it shows noise, whatever the walker does. Then the walker gets a **remote
# control**: the button now changes the picture, which stays until it is pressed again.

# %% tags=["C2"]
rng, screens = np.random.default_rng(0), np.zeros((1, SIZE, SIZE))
config, cells, views = RoomConfig(tv="everywhere", remote=True), np.array([22]), []
for actions in ((PRESS,), (RIGHT, RIGHT, RIGHT), (WAIT,), (PRESS,)):
    for action in actions:
        seen, cells = move(cells, screens, np.array([action]), config, rng)
    views.append(seen.next_obs[0, 0])
show_views(views, ("a press", "three steps right", "waiting", "a press"))

# %% [markdown]
# *A walker with a remote control, and what it sees after a press, after three steps to the right, after waiting, and
# after another press. Only a press changes the screen.*
#
# Who is caught now? A share of the time in a place says nothing, where all places have the same view. With a remote
# control, staring means *pressing*, so count presses. Six actions at random make one press in six; and where the
# picture is noise anyway the button does nothing, so that the same walkers, in that room, tell how often they press for
# no reason. ICM, too, has something to lose here. The screen tells a press from waiting, and nothing else does: an
# inverse model that wants to know the action has to look at it. That is ICM's known weakness: in a three-dimensional
# maze a television with a remote control slows curious agents down [(Burda et al.,
# 2019a)](../book/bibliography.md#burda2019a).

# %% tags=["hide-input", "C2", "C7"]
figure, panels = plt.subplots(1, 2, figsize=(9.5, 3.0), sharey=True)
for axes, name, title in zip(
    panels, ("noise", "remote"), ("noise", "a remote control"), strict=True
):
    for kind in KINDS:
        draw_room(axes, run_name(name, kind), "presses", kind, color=COLOUR[kind])
    axes.axhline(1 / ROOM_ACTIONS, color=plots.INK, linestyle=":", label="at random")
    axes.set(title=title, ylabel="share of presses", ylim=(0, 1))
legend(panels[0])
plt.show()

# %% [markdown]
# *Share of the actions that are presses, five seeds each; dotted, one in six. Left: noise for everybody tempts nobody
# to press. Over the second half those who follow random features or RND press about as often as chance, 15 % to 19 %;
# those of pixels and of ICM hardly more than half as often, 9.8 % and 9.4 %, since a button that does nothing pays less
# than a step: to ICM a step is worth 1.3 to 1.8 presses. (That does not send everyone through the room. Random features
# hold their walkers on 14 to 26 of the 49 cells.) Right: with a remote control, surprise at pixels becomes a habit of
# pressing at once, ICM's walkers have it by step 600, those of random features by step 1,500. Over the second half all
# three press in 86 % or 87 % of their actions. RND's walkers press no more than by chance.* <!-- held: who_presses -->
#
# Why not RND? It pays for the picture, and the picture stays. After a press the walker sees a screen that nobody has
# seen; after the next step it sees it still. Asked about every move, with a screen of its own for each, RND pays as
# much for a step as for a press, to within a tenth. The other three pay for what they did not foresee: they predict the
# next picture from this one, a screen that stays is no surprise, and a press is worth 2.3 to 6.9 steps.
# <!-- held: why_not_rnd -->
#
# Did ICM have a choice? Ask its inverse model. Who guesses among six actions pays $\ln 6 \approx 1.79$. Who sees the
# two cells, and nothing else, cannot tell a press from waiting, nor either from a bump into a wall, and pays 0.418 at
# best where all moves come equally often (exercise C3.1 has the general case). Who also knows when the button was
# pressed can go down to 0.139. <!-- held: who_sees_the_cells -->


# %% tags=["hide-input", "C2"]
def cells_alone(next_cell: np.ndarray) -> float:
    """The lowest inverse loss of who sees where each action leads [cells, A], all as frequent."""
    alike = (next_cell[:, :, None] == next_cell[:, None]).sum(2)  # [cells, A]: as many answers
    return float(np.log(alike).mean())


WITH_BUTTON = np.where(
    np.arange(ROOM_ACTIONS) == PRESS, -1, NEXT_CELL
)  # a press: a place of its own
LINES = {"a guess": np.log(ROOM_ACTIONS), "cells": cells_alone(NEXT_CELL),
         "and button": cells_alone(WITH_BUTTON)}  # fmt: skip
figure, (answers, kept) = plt.subplots(1, 2, figsize=(9.5, 3.4))
television = {"room": "seen from the sofa", "noise": "noise everywhere", "remote": "remote control"}
television["remote_last_step"] = "remote, last step"
for (name, label), dashes in zip(television.items(), (":", "--", "-", "-"), strict=True):
    place, _, learner = name.partition("_")
    stored = "_".join(filter(None, (place, "ICM", learner)))
    style = {"color": plots.INK if learner else COLOUR["ICM"], "linestyle": dashes}
    draw_room(answers, stored, "inverse", label, **style)
    draw_room(kept, stored, "noise", label, over="variance", statistic="median", **style)
for who, loss in LINES.items():
    answers.axhline(loss, color=plots.INK, linewidth=0.8)
    answers.text(4250, loss, who, va="center", fontsize=8)
answers.set(ylabel="inverse loss on every move", ylim=(0, 2.6))
kept.set(ylabel="share of noise in the features", yscale="log", ylim=(2e-3, 1.2))
legend(answers, loc="upper right")
plt.show()

# %% [markdown]
# *Left: ICM's inverse loss on every move. Before a screen that nobody stirs it comes down to 0.45, close to what cells
# alone allow, and a press is told from waiting as often as by a coin. Before the remote control it crosses that line by
# step 1,150, and over the second half it lies at 0.23: presses are told in 99.5 % of cases. Right: variance of the
# features by noise alone, as a share of that over all cells, on a logarithmic axis; the line is the median. Over the
# second half it is 0.6 % to 1.6 % where nobody stirs the noise, and 15.1 % to 18.7 % with the remote control.*
# <!-- held: the_screen_passes -->
#
# See the noise leave, and see it stop leaving. The habit **begins** as that of random features does: the noise has
# not been trained out yet. When a crowd first presses in more than half of its actions, at steps 400 to 600, 18 % to
# 48 % of its features' variance is noise, in the other room by that step 10 % to 19 %, and its inverse model tells a
# press from waiting in 51 % to 93 % of cases. Where learning is slower (from the last step only, at half the rate)
# the order is plain to see: three of five crowds press in more than half of their actions from steps 550, 600 and 750
# on, while their models still guess, and tell a press in three quarters of cases only 800 to 900 steps later. It
# **lasts** for another reason. In the room where nobody stirs the noise it goes on leaving, to 1.4 % at most at the
# end. Before the remote control it stays, 11 % at least from step 1,000 on, because it now answers the inverse
# model's question. <!-- held: how_the_habit_begins -->
#
# That is the known weakness, and it takes no maze to show it: **noise that nobody stirs is trained out; noise that
# one's own actions stir passes the inverse model.**
#
# The grey line is a warning. It is the same ICM before the same remote control, but it learns from the last step
# only, and a crowd that does one thing at a time teaches an inverse model little. On four of five seeds it cannot
# tell a press from waiting, the screen keeps 1.5 % of its features' variance at most, and its walkers press in 8.1 %
# of their actions at most. So an ICM that resists a temptation may just not have learned. Here is what every inverse
# model can tell, and what its walkers do:
# <!-- held: who_has_not_learned -->

# %% tags=["C2", "hide-input"]
figure, axes = plt.subplots(figsize=(6.0, 3.0))
forgetting = {
    "": "with a memory",
    "_last_step": "last step only",
    "_last_step_slow": "and half the rate",
}
for (ending, label), marker in zip(forgetting.items(), "o^s", strict=True):
    told, presses = (
        results.metric("C2", f"remote_ICM{ending}", what) for what in ("told", "presses")
    )
    axes.plot(told, presses, marker, label=label)
axes.axhline(1 / ROOM_ACTIONS, color=plots.INK, linestyle=":", label="random policy")
axes.set(xlabel="cases in which a press is told from waiting", ylabel="share of presses")
axes.legend(fontsize=8)
plt.show()

# %% [markdown]
# *Before the remote control, second half; one mark a seed.* Those press whose model can tell a press: over the ten
# forgetful crowds the two go together with a correlation of 0.997. Whether it learns to is a matter of rate and seed:
# at the book's rate one of five does, in 67 % of cases, and presses in 37 % of its actions; at half of it three of
# five, in 99 % of cases, and press in 84 % to 86 %. Their inverse loss would not have said so. It is 1.06 to 1.58,
# where a guess is 1.79 and who knows the button and no more pays 1.34; they know the button and little else, since
# they hardly take a step. Ask a model the question that matters before you praise its judgement, or blame it.
# <!-- held: who_can_tell -->
#
# The panel has every dial, the televisions among them. It opens on the walkers that learn from the last step only, and
# below it is the curve of seed 2. Halve the learning rate and take seed 1: there is a crowd that presses.
# Then go back to the first rate, tick `memory`, and guess before you train what the curve will do, on any seed; the
# figure with the four curiosities shows five. You can also add one of your own: a module with `surprise` and `losses`,
# named in `ROOM_CURIOSITIES`; make the panel anew, and its menu offers it.

# %% tags=["C2"]
forgetful = replace(room, curiosity="ICM", tv="everywhere", remote=True, memory=False)
pressing = Run()
list(map(pressing.add, train_walkers(forgetful, seed=2)))
chance = {"metric": "presses", "floor": 1 / ROOM_ACTIONS}
room_panel = panel(
    train_walkers, forgetful, **chance, preview=plots.to_png(live_curve(pressing, **chance))
)

# %% [markdown]
# ## Another motive: empowerment
#
# Curiosity asks "where do I not know what happens?". **Empowerment** [(Klyubin et al.,
# 2005)](../book/bibliography.md#klyubin2005) asks "where could I make most things happen?". It is stated in Shannon's
# theory of communication, and the reading is literal: the agent's next $n$ actions are a *message*, the world is a
# *channel*, and the state in which it ends up is what arrives.
#
# ![Message, channel, what arrives](../book/figures/channel.svg)
#
# *Above, Shannon's words; below, what they stand for here. Slips in the world are the noise of the channel.*
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
# It is the mean divergence of $p(y \mid x)$ from $p(y)$: how much one learns, on average, when $y$ is seen. If nothing
# of the message survives, it is 0. The textbook's channel carries one bit and flips it with probability $p$: the
# **binary symmetric channel**. An unsymmetric relative, the Z-channel, flips ones only.


# %% tags=["C8"]
def information_of_messages(inputs: torch.Tensor, channel: torch.Tensor) -> torch.Tensor:
    """D_KL(p(y|x) || p(y)) of every message, in nats. inputs: [..., X]; channel: [..., X, Y] -> [..., X]."""
    outputs = inputs[..., None, :] @ channel  # [..., 1, Y]
    log_outputs = outputs.clamp(min=torch.finfo(outputs.dtype).tiny).log()  # 0: none arrives
    return torch.xlogy(channel, channel).sum(-1) - (channel @ log_outputs.mT)[..., 0]


def mutual_information(inputs: torch.Tensor, channel: torch.Tensor) -> torch.Tensor:
    """I(X; Y) in bits. inputs: [..., X], channel: [..., X, Y] -> [...]."""
    return (inputs * information_of_messages(inputs, channel)).sum(-1) / np.log(2)


def flipping(zeros: torch.Tensor, ones: torch.Tensor) -> torch.Tensor:
    """The channel [..., 2, 2] that flips zeros and ones with these probabilities [...]."""
    return torch.stack([1 - zeros, zeros, ones, 1 - ones], -1).unflatten(-1, (2, 2))


shares = torch.linspace(0, 1, 201, dtype=torch.float64)
inputs = torch.stack([1 - shares, shares], -1)  # [201, 2]
figure, panels = plt.subplots(1, 2, figsize=(8.6, 2.8), sharey=True)
for flip in torch.tensor([0.0, 0.05, 0.1, 0.25, 0.5], dtype=torch.float64):
    for axes, channel in zip(panels, (flipping(flip, flip), flipping(0 * flip, flip)), strict=True):
        axes.plot(shares, mutual_information(inputs, channel), label=f"p = {flip:g}")
panels[0].set(
    title="binary symmetric channel", xlabel="share of ones sent", ylabel="bits that arrive"
)
panels[1].set(title="Z-channel", xlabel="share of ones sent")
panels[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# *Bits that arrive, against how often a one is sent. Without flips, a fair coin sends a whole bit; at $p = 0.5$ nothing
# arrives in the symmetric channel, whose top lies at one half. In the Z-channel it moves to the left of it: ones are
# less reliable, so it pays to send fewer of them.*
#
# ### The capacity, and how to find it
#
# The top of the curve, $\max_{p(x)} I(X; Y)$, is the channel's **capacity**. For many messages the curve is a
# landscape, but a kind one (it is concave), and [Blahut](../book/bibliography.md#blahut1972) and
# [Arimoto](../book/bibliography.md#arimoto1972) climbed it in 1972 with a rule that reads like common sense: *send more
# of what is understood.* Multiply the probability of each message by $e$ to the power of what it tells, and normalise:
#
# $$
# p(x) \leftarrow \frac{1}{c}\, p(x)\, e^{D(x)} , \qquad D(x) = D_{\mathrm{KL}}\big( p(y \mid x) \parallel p(y) \big) ,
# \qquad \ln c \le C \le \max_x D(x) .
# $$
#
# The normaliser $c = \sum_x p(x)\, e^{D(x)}$ and the best message bracket the capacity, so we know when to stop. Where
# the rounds run out before, the bracket says how much is still open.


# %%
def capacity(
    channel: torch.Tensor, tolerance: float = 1e-7, limit: int = 10_000
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Capacities [...] in bits of channels [..., X, Y], inputs [..., X] that reach them (Blahut 1972,
    Arimoto 1972), and the most bits still open, after ``limit`` rounds at the latest."""
    inputs = torch.full_like(channel[..., 0], 1 / channel.shape[-2])
    for _ in range(limit):
        told = information_of_messages(inputs, channel)  # [..., X]
        inputs = inputs * told.exp()
        total = inputs.sum(-1, keepdim=True)
        inputs = inputs / total
        low, high = total[..., 0].log() / np.log(2), told.amax(-1) / np.log(2)
        if (high - low).max() < tolerance:
            break
    return low, inputs, (high - low).max().item()


# %% tags=["C8"]
# NBVAL_CHECK_OUTPUT
p = torch.linspace(0, 1, 101, dtype=torch.float64)
found, _, _ = capacity(flipping(p, p))
entropy = -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)) / np.log(2)
print(f"symmetric channel: error below 1e-6: {bool((found - (1 - entropy)).abs().max() < 1e-6)}")
found, sent, _ = capacity(flipping(0 * p[1:-1], p[1:-1]))
exact = torch.log2(1 + (1 - p) * p ** (p / (1 - p)))[1:-1]
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
# hall, a doorway, and a passage with dead ends, and five actions, four steps and waiting:

# %%
MAZE = ("......#.....", "......#.###.", "......#.#...",
        "........####", "......#.#...", "......#.###.", "......#.....")  # fmt: skip
FREE = np.argwhere(np.array([list(row) for row in MAZE]) == ".")  # [C, 2]
MOVES = SHIFTS[:5]


def world_table(slip: float) -> torch.Tensor:
    """p(next cell | cell, action): [A, C, C]. With probability ``slip`` a random action replaces it."""
    index = {tuple(cell): i for i, cell in enumerate(FREE)}
    table = torch.zeros(len(MOVES), len(FREE), len(FREE), dtype=torch.float64)
    for a, step in enumerate(MOVES):
        for i, cell in enumerate(FREE):
            table[a, i, index.get(tuple(cell + step), i)] = 1
    return (1 - slip) * table + slip * table.mean(0)


def sequence_channel(table: torch.Tensor, length: int) -> torch.Tensor:
    """p(final cell | cell, sequence of actions): [C, A**length, C]."""
    ends = torch.eye(table.shape[-1], dtype=table.dtype)[:, None]  # [C, 1, C]
    for _ in range(length):
        ends = torch.einsum("csd,ade->csae", ends, table).flatten(1, 2)
    return ends


def empowerment(slip: float, length: int) -> tuple[torch.Tensor, float]:
    """n-step empowerment of every cell in bits, [C], and the bits that the climb leaves open."""
    found, _, still_open = capacity(sequence_channel(world_table(slip), length), 1e-3, limit=300)
    return found, still_open


# %% tags=["hide-input", "C8"]
def maze_picture(slip: float, length: int) -> bytes:
    """The maze with its empowerment in every cell, as a PNG."""
    values, still_open = empowerment(slip, length)
    picture = np.full((len(MAZE), len(MAZE[0])), np.nan)
    picture[tuple(FREE.T)] = values
    figure = Figure(figsize=(7.2, 3.5), dpi=90)
    axes = figure.subplots()
    figure.colorbar(axes.imshow(picture, cmap="cividis"), ax=axes, label="bits", format="%.1f")
    for (row, column), value in zip(FREE, values.tolist(), strict=True):
        colour = "black" if value > (values.min() + values.max()).item() / 2 else "white"
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=9, color=colour)
    gain, action = (values[world_table(0.0).argmax(-1).T] - values[:, None]).max(1)  # [C]
    (down, across), (row, column) = MOVES[action[gain > 0.01]].T, FREE[gain > 0.01].T
    axes.quiver(column + 0.3 * across, row + 0.3 * down, across, down, angles="xy", scale_units="xy",
                scale=6, width=0.004, headwidth=5, color=plots.COLOURS[1])  # fmt: skip
    slips = f"{slip:.0%} of actions slip (up to {still_open:.3f} bits more)" if slip else "no slips"
    axes.set_title(f"n = {length}, {slips}")
    axes.axis("off")
    return plots.to_png(figure)


lengths = by_budget(smoke=(1, 2), laptop=(1, 2, 3, 4))
settings = {
    f"{n} actions{', slippery' * (slip > 0)}": (slip, n) for slip in (0.0, 0.3) for n in lengths
}
maps, first = {name: maze_picture(*setting) for name, setting in settings.items()}, len(lengths) - 1
show(image_slider(maps, "a message of", start=first), [*maps.values()][first])

# %% [markdown]
# *Bits that $n$ actions can send to the cell where they end; each picture has colours of its own. Without slips this is
# the logarithm of the number of cells within $n$ steps: for $n = 4$ from 2.3 bits (5 cells) in the dead ends to 5.2
# bits (36 cells) in the middle of the hall. For $n = 1$ the doorway is as poor as a corner; for $n = 4$ it is far
# better, since both sides come within reach. When 30 % of the actions are replaced by random ones, far less arrives, at
# most 2.0 bits, and a longer message adds less and less. (There, from two actions on, the climb runs out of rounds; the
# title says how much may be missing.) An arrow points to the best neighbour, where one is better.* <!-- held: power -->
#
# The two motives differ. Curiosity is spent: once a place is known, it pays no more, and the agent moves on.
# Empowerment is a property of the place and stays, like the height of a hill. Follow the arrows for four actions: from
# 52 of the 66 cells they lead to the middle of the hall, and there they end. An agent that seeks empowerment remains
# there, keeping its options open. (Three cells of either outer passage are flat, and have no arrow: whoever comes up
# from a dead end gets that far, and stops.) Curiosity explores; empowerment prepares. <!-- held: arrows -->

# %% [markdown]
# ## Spot the bug: four without an error message
#
# Three of the four stand in the source's program. ([The second part](ch03b_mario.ipynb) has more of its kind.)
#
# ### 1. The encoder that makes life easy
#
# Leave the two `detach` away, and train encoder and forward model together on the forward loss. And three more curves:
# again nothing is detached, but the encoder feels both losses, $0.2\, L_{\text{fwd}} + 0.8\, L_{\text{inv}}$. First
# with this chapter's mean over the 32 features; then with half of their sum, which is what [Pathak et al.
# (2017)](../book/bibliography.md#pathak2017) weigh so: that is sixteen times as much, 0.8 to 0.2 of the means; and last
# with half the sum of 288 features, as theirs are (ours stay 32, and get that weight): 36 to 1.


# %%
def forward_trained(
    detach: bool = False, beta: float = 1.0, updates: int = 300, seed: int = 0
) -> tuple[list[float], list[float]]:
    """Train on beta * forward + (1 - beta) * inverse: the forward loss, the features' variance."""
    torch.manual_seed(seed)
    rng, icm, found = np.random.default_rng(seed), ROOM_CURIOSITIES["ICM"](), []
    optimiser = torch.optim.Adam(icm.parameters(), 1e-3)
    everywhere = torch.from_numpy(look(np.arange(SIZE**2), np.zeros((SIZE**2, SIZE, SIZE))))
    for _ in range(updates):
        cells, actions = rng.integers(SIZE**2, size=64), rng.integers(ROOM_ACTIONS, size=64)
        seen, _ = move(cells, rng.random((64, SIZE, SIZE)), actions, RoomConfig(), rng)
        obs, actions, next_obs = map(torch.from_numpy, seen)
        losses, given = icm.losses(obs, actions, next_obs), F.one_hot(actions, ROOM_ACTIONS)
        predicted = icm.forward_model(torch.cat([icm.encoder(obs), given], 1))
        felt = (predicted - icm.encoder(next_obs)).square().mean()
        forward = losses["forward"] if detach else felt
        optimiser.zero_grad()
        (beta * forward + (1 - beta) * losses["inverse"]).backward()
        optimiser.step()
        found.append((forward.item(), icm.encoder(everywhere).detach().var(0).mean().item()))
    return tuple(zip(*found, strict=True))


WEIGHTED = {
    "forward loss alone, detached": {"detach": True}, "0.2 of the mean": {"beta": 0.2},
    "0.2 of half the sum of 32": {"beta": 0.8}, "0.2 of half the sum of 288": {"beta": 36 / 37},
    "forward loss alone": {}}  # fmt: skip
STYLES = {  # these two coincide
    "0.2 of half the sum of 288": {"linewidth": 7, "alpha": 0.3},
    "forward loss alone": {"linestyle": "--", "linewidth": 1.3, "zorder": 3}}  # fmt: skip
figure, panels = plt.subplots(1, 2, figsize=(9.5, 2.8))
for label, how in WEIGHTED.items():
    runs = (forward_trained(**how, updates=by_budget(10, 600), seed=seed) for seed in range(3))
    style = STYLES.get(label, {})
    for axes, curves in zip(panels, zip(*runs, strict=True), strict=True):
        plots.bands(axes, range(1, len(curves[0]) + 1), np.array(curves), label, **style)
panels[0].set(title="forward loss", xlabel="update", ylabel="squared error", yscale="log")
panels[1].set(title="variance of the features over cells", xlabel="update", ylim=(0, None))
legend(panels[1], loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# *Left: forward loss, logarithmic. Right: how much the features differ between cells; three seeds each. On the forward
# loss alone, without the two `detach` (dashed), the loss ends many times lower, and the features of all cells become
# the same. The `LayerNorm` cannot prevent it: it keeps the 32 features of one state apart, not the states. (With them
# the encoder stays as it was born: "random features" once more.) With the inverse loss beside it everything hangs on
# the weight. At 0.2 of the mean the features have spread out after 300 updates, since it takes differences to tell one
# action from another. At 0.2 of half the sum they have collapsed by then, and spread out only later; with the weight of
# 288 features they stay collapsed for all 600 updates, and the wide pale curve lies under the dashed one.*
# <!-- held: the_encoder_that_makes_life_easy --> The bug is not the missing `detach`, it is an encoder that nothing else
# holds. With the cut no weight has to be found.
#
# With the cut no parameter feels both losses, so what would a weight between them do? Next to nothing: Adam divides
# each gradient by its own size, and a factor in front of the only loss that a parameter feels divides out, but for the
# small $\epsilon$ in that division. We leave the weight away. (Cut the common gradient to a maximal length, or use
# plain gradient descent, and the weight matters again. The source weighs the other way round,
# $(1 - \beta) L_{\text{fwd}} + \beta L_{\text{inv}}$; under Adam nobody notices.)
#
# ### 2. Softmax, twice
#
# ```python
# y = F.softmax(self.linear2(y), dim=1)              # the last line of the inverse model
# inverse_loss = nn.CrossEntropyLoss()(y, actions)   # applies the softmax itself
# ```
#
# This is the source's inverse model, for Mario's twelve actions. Probabilities lie between 0 and 1, so even a model that
# is certain, and right, hands over "logits" of 1 and 0.

# %%
# NBVAL_CHECK_OUTPUT
for softmaxes in (1, 2):
    lead = torch.tensor([0.0, 20.0], requires_grad=True)  # of the right logit: a guess, and certain
    logits = F.one_hot(torch.tensor(3), 12) * lead[:, None]  # [2, 12]
    outputs = logits.softmax(1) if softmaxes == 2 else logits
    losses = F.cross_entropy(outputs, torch.tensor([3, 3]), reduction="none")
    (slope,) = torch.autograd.grad(losses[0], lead)
    costs = f"loss {losses[0]:.3f} for a guess, {losses[1].abs():.3f} for certainty"
    print(f"{softmaxes} softmax: {costs}; pull at a guess {-slope[0]:.3f}")

# %% [markdown]
# *With one softmax the loss falls from 2.485, a guess, to 0. With two a perfect answer still costs 1.619, and the pull
# is a twelfth of what it should be where learning starts: at a guess.*
#
# ### 3. A normalisation across the wrong axis
#
# The source's networks begin with `x = F.normalize(x)`. Its default axis is 1: in `[B, 3, H, W]` these are the three
# successive frames. Every *pixel's* three values are brought to length 1.

# %%
frames = torch.from_numpy(np.stack(pyramid[14:17])).float().mean(-1)[None] / 255  # [1, 3, 210, 160]
figure, panels = plt.subplots(1, 2, figsize=(6.4, 3.8))
for axes, batch, title in zip(
    panels, (frames, F.normalize(frames)), ("as it was", "normalised"), strict=True
):
    axes.imshow(batch[0, -1], cmap="gray", vmin=0, vmax=1)
    axes.set(title=title)
    axes.set_axis_off()
plt.show()

# %% [markdown]
# *The last of three frames, before and after. Where nothing has moved, and the picture is not black, the three values
# become $1 / \sqrt 3 \approx 0.577$ whatever they were: walls, ladders and the tiles of the floor are the same grey,
# and only what moves, Joe above all, keeps another shade.* Divide by 255 instead.
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
    """Best value of each cell [49] where arriving at the sofa pays 1, from every move at once."""
    q = np.zeros((SIZE**2, ROOM_ACTIONS))
    cells, actions = np.divmod(np.arange(q.size), ROOM_ACTIONS)  # [B]
    following = NEXT_CELL[cells, actions]
    for _ in range(sweeps):
        best = q[following].max(1) if per_row else q[following].max()
        learn_table(q, cells, actions, (following == SOFA) + discount * best, rate=0.5)
    return q.max(1)


figure, panels = plt.subplots(1, 2, figsize=(6.4, 2.6))
for axes, per_row, title in zip(
    panels, (True, False), ("max per row", "max over the batch"), strict=True
):
    drawn = draw_cells(axes, sofa_values(per_row), title, norm="linear", vmin=0, vmax=10)
figure.colorbar(drawn, ax=panels, label="value of the best action")
plt.show()

# %% [markdown]
# *The value of each cell's best action after 300 sweeps. Per row, value falls by a
# tenth with each step away from the sofa, and a walker climbs it home. Over the batch, every move is promised the value
# of the sofa: the cells beside it show 10, all others 9, and no direction is better than another. What remains of the
# reward is seen one step ahead.*

# %% [markdown]
# ## Exercises
#
# Each stands alone and has a solution that runs, folded away.
#
# **C1.1 Predict, then run.** Suppose Montezuma's network fitted its targets perfectly, and no reward came. After how
# many copies to the target network would less than a hundredth of a value be left, with $\gamma = 0.95$ and $n = 5$?
# Guess. Then write `copies(discount, n, share)`: the smallest number of copies after which less than `share` is left.
# The curve of $|Q|$ above falls more slowly. Why?

# %%
# Your copies(discount, n, share), and then check("C1.1", copies)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
def copies(discount: float, n: int, share: float) -> int:
    return int(np.floor(np.log(share) / (n * np.log(discount)))) + 1


check("C1.1", copies)
print(copies(0.95, 5, 0.01), "copies; a network that moves a little for each batch lags behind")

# %% [markdown]
# **C2.1 What a television pays.** A picture has P pixels, of which S are a screen; each of these takes the value $v_i$
# with chance $p_i$ at every step, and the rest is known. Write `lure(values, chances, S, P)`: what a walker that is
# surprised by pixels is paid there for ever.

# %%
# Your lure(values, chances, S, P), and then check("C2.1", lure)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
def lure(values: np.ndarray, chances: np.ndarray, S: int, P: int) -> float:
    return S / P * (chances @ values**2 - (chances @ values) ** 2)  # the mean is predicted


check("C2.1", lure)

# %% [markdown]
# **C2.2 A bribe.** The sofa pays $r$ for every step that ends on it. What would a cell $d$ steps away have to pay,
# once, to the first who arrives, so that a walker that discounts by $\gamma$ goes there and comes back? Write
# `bribe(r, discount, d)`: the payment at which leaving is worth as much as staying.

# %%
# Your bribe(r, discount, d), and then check("C2.2", bribe)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
def bribe(r: float, discount: float, d: int) -> float:
    missed = r * (1 - discount ** (2 * d - 1)) / (1 - discount)  # 2d - 1 steps that end elsewhere
    return missed / discount ** (d - 1)


check("C2.2", bribe)

# %% [markdown]
# **C3.1 Predict, then run.** How low can the inverse loss fall in our room? An inverse model that sees the two cells,
# and nothing else, cannot tell a press from waiting, nor either from a bump into a wall. Where every action is as
# frequent, 0.418 is the best. Will it be more or less among walkers that press in 86 % of their actions and divide the
# rest evenly? Guess. Then write `lowest(next_cell, chances)`, for walkers in every cell equally often, a table [cells,
# actions] of where each action leads, and the chance [actions] of each, none of them 0. And where the screen tells a
# press?

# %%
# Your lowest(next_cell, chances), and then check("C3.1", lowest)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
def lowest(next_cell: np.ndarray, chances: np.ndarray) -> float:
    same = next_cell[:, :, None] == next_cell[:, None]  # [cells, A, A]
    return float(-(chances * np.log(chances / (same @ chances))).sum(1).mean())  # Bayes


check("C3.1", lowest)
habit = np.where(np.arange(ROOM_ACTIONS) == PRESS, 0.86, 0.14 / 5)
print(f"{lowest(NEXT_CELL, habit):.3f}, and with a remote control {lowest(WITH_BUTTON, habit):.3f}")

# %% [markdown]
# **C8.1 By force.** Write `brute(channel)`: the capacity in bits of a channel with two messages, an array [2, Y], by
# trying a thousand and one ways to divide the probability between them.

# %%
# Your brute(channel), and then check("C8.1", brute)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
def brute(channel: np.ndarray) -> float:
    shares = torch.linspace(0, 1, 1001, dtype=torch.float64)
    inputs = torch.stack([shares, 1 - shares], -1)  # [1001, 2]
    return mutual_information(inputs, torch.from_numpy(channel)).max().item()


check("C8.1", brute)

# %% [markdown]
# ## Summary
#
# - Where rewards are rare, luck has to find the first one before anything can be learned. A reward of one's own fills
#   the gap.
# - Prediction error is such a reward. In which features the prediction is made decides what the agent finds
#   interesting: in pixels, noise; in the features of an inverse model, what its actions touch.
# - An encoder that feels nothing but the forward loss makes everything alike and nothing surprising. Either the inverse
#   loss holds it, with a weight that is small enough, or the forward loss does not reach it, which is cleaner.
# - ICM ignores noise that the agent cannot touch. Features drawn at random, and RND, are caught like the naive agent,
#   only later.
# - Noise that the agent's own actions stir gets past the inverse model: with a remote control ICM's walkers press in
#   86 % of their actions. An inverse model that has not learned to tell a press resists. <!-- held: summary -->
# - A curious agent's losses say little. Its choices double them while there is much to learn, and keep them up where it
#   also forgets; with a memory they fall in the end. Judge by what the agent does. <!-- held: losses_in_short -->
# - Empowerment asks for power over the world, curiosity for news of it. One stays, the other is spent.
#
# [The second part](ch03b_mario.ipynb) pays Mario with these curiosities, and asks what it is that pays him.
#
# Further reading: [Pathak et al. (2017)](../book/bibliography.md#pathak2017) for ICM, [Burda et al.
# (2019a)](../book/bibliography.md#burda2019a) for curiosity on many games and for the television, and
# [(2019b)](../book/bibliography.md#burda2019b) for RND; [Klyubin et al. (2005)](../book/bibliography.md#klyubin2005)
# for empowerment, and [Mohamed and Rezende (2015)](../book/bibliography.md#mohamed2015) for empowerment in large
# worlds.
#
# ## How the numbers were measured
#
# `make results` runs these functions with five seeds each, and stores each run with its configuration, wall-clock time,
# cores and versions. The bands of this chapter are drawn from those files. The two Atari games: five fresh games of
# each agent, with one action in twenty drawn at random, and five of random play. Every use of a seed (learning, random
# play, scoring) has games of its own, which no other seed shares.
#
# The walkers: shares of the time and of the actions in the second half of a run. Every crowd walks for 4,000 steps with
# the same settings, in every room. The learning rate was chosen by ICM's inverse loss on every move, over the second
# half of one run in each of the three rooms, on seed 101, which is not among the five: of 5e-4, 1e-3 and 2e-3 the
# middle one has the lowest mean over the rooms (0.42, 0.38 and 0.39). Before that we had tried to do without a memory,
# again one run in each room on seed 101: the means were 1.68 at 2e-4, 1.25 at 5e-4, 1.13 at 1e-3 and 1.39 at 2e-3. It
# was not the first room that failed (at 1e-3 0.56, in the stored runs 0.54 to 0.78) but the other two (1.04 before the
# noise, and with the remote control 1.79, a guess); hence the memory. <!-- held: without_a_memory -->
#
# These runs were made to choose, and are not stored; those of the five seeds at half the rate are. No other kind of
# curiosity was tuned, and nothing else was selected.


# %% tags=["hide-input"]
def game_points(policy: Policy, env_id: str, games: int, seed: int) -> np.ndarray:
    """Points of whole games, or of their first two minutes: [games]."""
    points, playing = np.zeros(games), np.ones(games, bool)
    for step in islice(played(env_id, policy, games, SCORING, seed), BOUT):
        points += np.where(playing, step.rewards, 0.0)
        playing &= ~(step.terminated | step.truncated)
    return points


def measure_sparse(config: SparseConfig, seed: int, game: str) -> Measured:
    """DQN and random play: points in five fresh games each; Montezuma: how far random play comes."""
    progress, curves = POLICIES.follow(train_sparse(config, seed))
    wandering = wander(config, seed) if game == "montezuma" else []
    curves |= {"posts": posts_reached(wandering)} if game == "montezuma" else {}
    rng = np.random.default_rng((SCORING, seed))
    any_button = lambda ram: rng.integers(BUTTON_COUNT, size=len(ram))
    score = lambda policy: game_points(policy, config.env_id, 5, seed).mean()
    found, floor = score(trained_policy(progress.state(), seed)), score(any_button)
    return Measured({f"{game}_return": found}, {f"{game}_return": floor}, curves)


# %% tags=["hide-input"]
def second_half(state: dict) -> np.ndarray:
    """The share of the second half that the walkers spent in each cell: [49]."""
    visits = state["visits"][len(state["visits"]) // 2 :].sum(0)
    return visits / visits.sum()


def cells_in_use(shares: np.ndarray) -> float:
    """e to the entropy of the time in each cell: from 1, a single cell, to their number, all alike."""
    used = shares[shares > 0]
    return float(np.exp(-(used * np.log(used)).sum()))


# %% tags=["hide-input"]
@torch.no_grad()
def inverse_answers(icm: ICM, config: RoomConfig) -> tuple[float, float]:
    """An inverse model's loss on every move, and how often it tells a press from waiting (a coin: 0.5)."""
    obs, actions, next_obs = map(torch.from_numpy, every_move(config))
    logits = icm.inverse_model(torch.cat([icm.encoder(obs), icm.encoder(next_obs)], 1))  # [294, A]
    press = (logits[:, PRESS] > logits[:, WAIT]).float()
    told = (press[actions == PRESS].mean() + 1 - press[actions == WAIT].mean()) / 2
    return F.cross_entropy(logits, actions).item(), told.item()


def examined(config: RoomConfig, state: dict) -> dict[str, float]:
    """What a curiosity would pay, what its features hold, how its inverse model answers, on every move."""
    curiosity = room_curiosity(config, state)
    paid, moved = pay(curiosity, config), np.arange(SIZE**2)[:, None] != NEXT_CELL  # [49, A]
    found = {
        "everywhere": paid.mean(),
        "press_pays": paid[:, PRESS].mean(),
        "step_pays": paid[moved].mean(),
    }
    found["near_tv"] = near_tv(state["visits"])[-1]
    if hasattr(curiosity, "encoder"):
        found["noise"], found["variance"] = noise_in_features(curiosity.encoder, config.tv)
    if hasattr(curiosity, "inverse_model"):
        found["inverse"], found["told"] = inverse_answers(curiosity, config)
    return found


# %% tags=["hide-input"]
def measure_room(config: RoomConfig, seed: int, name: str) -> Measured:
    """The second half of a walk: time at the TV, presses, cells in use, and all that ``examined`` tells."""
    curves = {}
    for progress in train_walkers(config, seed):
        state = progress.state()
        values = {"step": progress.step} | progress.metrics | examined(config, state)
        for curve, value in values.items():
            curves.setdefault(curve, []).append(value)
    late = {c: np.mean(v[len(v) // 2 :]) for c, v in curves.items() if c != "step"}
    headlines = {f"{what}_{name}": late[what] for what in ("share_at_tv", "presses")}
    floors = {f"share_at_tv_{name}": EVENLY, f"presses_{name}": 1 / ROOM_ACTIONS}
    return Measured(late | headlines | {"cells": cells_in_use(second_half(state))}, floors, curves)


# %% tags=["hide-input"]
HEADLINE = (
    "Time before a noisy screen: surprised by pixels {C2.share_at_tv_room_pixels}, "
    "by ICM {C2.share_at_tv_room_ICM} (evenly: 0.020). "
    "Presses of its remote control: {C2.presses_remote_pixels} and {C2.presses_remote_ICM} (by chance: 0.167)"
)
SEEDS = (1, 2, 3, 4, 5)
ROOMS = {"room": {}, "noise": {"tv": "everywhere"}, "remote": {"tv": "everywhere", "remote": True}}
CROWDS = {
    run_name(name, kind): RoomConfig(kind, **tv) for name, tv in ROOMS.items() for kind in KINDS
}
CROWDS |= {
    "room_ICM_random_walk": RoomConfig(epsilon=1.0), "room_ICM_last_step": RoomConfig(memory=False),
    "room_ICM_random_walk_last_step": RoomConfig(memory=False, epsilon=1.0),
    "remote_ICM_last_step": RoomConfig(memory=False, **ROOMS["remote"]),
    "remote_ICM_last_step_slow": RoomConfig(memory=False, learning_rate=5e-4, **ROOMS["remote"])}  # fmt: skip
HEADLINES = {run_name(room, kind): f"{what}_{run_name(room, kind)}" for kind in KINDS
             for room, what in (("room", "share_at_tv"), ("remote", "presses"))}  # fmt: skip
MEASUREMENTS = [
    *(Measurement("C1", game, partial(measure_sparse, game=game), SparseConfig(env_id=SPARSE_GAMES[name]),
                  SEEDS, (Metric(f"{game}_return", "points a game"),))
      for name, game in SPARSE_STORED.items()),
    *(Measurement("C2", name, partial(measure_room, name=name), config, SEEDS,
                  (Metric(HEADLINES[name], "share"),) if name in HEADLINES else ())
      for name, config in CROWDS.items()),
]  # fmt: skip
SHOWN = ("C3", "C7", "C8", "C9")
