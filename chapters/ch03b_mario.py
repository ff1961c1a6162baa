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
# # 03b · Mario, paid in surprise
#
# <!-- card: Super Mario, paid for nothing but his own surprise: how far that carries him, and whether curiosity does it. -->
#
# **What you will build.** [The first part](ch03_curiosity.ipynb) made a reward out of surprise. Here Super Mario gets no
# other: no points, no clock, no word about winning. You will see how far a Mario comes who presses buttons by chance, what
# it takes to learn from surprise in a game, and how many pits he jumps after twelve minutes on one core (live, you train a third of that). Then the
# question that most reports leave out: is it curiosity? Ten other rewards, among them three that never learn and one that
# is drawn from a hat, get the same budget.
#
# | | |
# |---|---|
# | **You need** | [Chapter 3](ch03_curiosity.ipynb) for the curiosities; [chapter 6](ch06_policy_optimisation.ipynb) for PPO. |
# | **Time** | About eight minutes for all cells on two cores, most of it for Mario. The first clip is there within seconds. |
# | **Memory** | Under 2 GB. No GPU. |
# | **Budget** | `RLBOOK_BUDGET` is `laptop` unless you set it; the next cell shows it. |
#
# The chapter accompanies chapter 8 of [Zai and Brown (2020)](../book/bibliography.md#zai2020).

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
from IPython.display import HTML, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import spearmanr, ttest_ind
from torch import nn
from torch.distributions import Categorical, Distribution

from rlbook_utils import plots, results
from rlbook_utils.checkpoint import as_tensors, load_checkpoint, random_state, restore_random
from rlbook_utils.config import budget, by_budget, check_config, choice, knob
from rlbook_utils.definitions import load_chapter
from rlbook_utils.exercises import check
from rlbook_utils.mario import ACTIONS, MarioEnv, MarioError, MarioGames
from rlbook_utils.replay import Experience, NStep, Replay
from rlbook_utils.results import Measured, Measurement, Metric
from rlbook_utils.rollout import Policy, spread, transitions
from rlbook_utils.run import Progress, live_curve, watch
from rlbook_utils.video import save_clip, show_clip
from rlbook_utils.widgets import image_slider, panel, scrubber, show

CURIOSITY = load_chapter("ch03_curiosity")
FOUNDATIONS, POLICIES = load_chapter("ch00_foundations"), load_chapter("ch06_policy_optimisation")
plots.use_style()

# %% tags=["remove-stderr"]
versions = f"torch {torch.__version__} · gymnasium {gym.__version__} · numpy {np.__version__}"
print(f"budget {budget()} · {results.cores()} cores · {versions}")

# %% [markdown]
# ## Super Mario Bros.
#
# Mario runs to the right through World 1-1, jumps over what would kill him, climbs over pipes, and falls into what he does
# not jump over. The game of 1985 runs in an emulator. Where that cannot be had, the next cell says so, and the cells that
# need it are passed over: stored curves and clips stand in.


# %% tags=["C4"]
def can_play() -> bool:
    """Whether the emulator is here; says what is missing where it is not."""
    try:
        MarioEnv()
    except MarioError as missing:
        print(missing)
        return False
    return True


has_mario = can_play()
for number, name in enumerate(ACTIONS):
    print(f"{number:2d} {name}", end="\n" if number % 4 == 3 else "".ljust(20 - len(name)))

# %% [markdown]
# Twelve actions, from no button to three at once. (In the source's table, jumping and running to the left have changed
# places.) With each step comes a dictionary of what the console's memory says. The source's package knows ten
# values; these are the ones that matter here:

# %% tags=["C4"]
MEANINGS = {
    "x_pos": "distance from the left end, in pixels", "furthest": "the largest x_pos of this episode",
    "time": "time left on the game's clock", "flag_get": "whether Mario hangs on the flag's pole",
}  # fmt: skip
if has_mario:
    env = MarioEnv()
    _, info = env.reset()
    for key, meaning in MEANINGS.items():
        print(f"{key:9s} {info[key]!s:6s} {meaning}")

# %% [markdown]
# An action is held for six frames, a tenth of a second, as in the source. Mario has one life; and when his furthest
# $x$ has not grown for 80 decisions, eight seconds of play, he is stuck and the episode is cut. The game draws no random
# numbers: equal actions make equal games. All chance is in the policy.


# %% tags=["C4"]
def filmed(policy: Policy, longest: int = 200) -> list[np.ndarray]:
    """Screens of one episode of a player who looks at nothing."""
    env, over = MarioEnv(), False
    screens = [env.reset()[0]]
    while not over and len(screens) < longest:
        screen, _, terminated, truncated, _ = env.step(policy(np.zeros(1))[0])
        screens.append(screen.copy())
        over = terminated or truncated
    return screens


if has_mario:
    rng = np.random.default_rng(4)
    anything = filmed(lambda obs: rng.integers(len(ACTIONS), size=1))
    display(show_clip(anything, 10, "Random buttons, at the speed of the game."))

# %% [markdown]
# ### From 161,280 numbers to 5,040
#
# A screen has 224 × 240 pixels of three colours. We cut off the top 14 rows, and with them one line of the display. What
# is left splits into 42 × 40 blocks of 5 × 6 pixels. Each block becomes the mean of its pixels, and of its three colours
# the brightest. That makes the display's second line vanish, score and clock: sky and letters are equally bright, so that
# in this level a running clock is nothing to be predicted.


# %%
def shrink(screens: np.ndarray) -> np.ndarray:
    """Screens [n, 224, 240, 3] -> grey pictures [n, 42, 40], bytes: means of 5 x 6 pixels, of three colours the brightest."""
    rows = screens[:, 14:].reshape(-1, 42, 5, 40 * 6 * 3).sum(2, dtype=np.uint16)
    rows = rows.reshape(-1, 42, 40, 6, 3)
    blocks = sum(rows[:, :, :, i] for i in range(6))  # [n, 42, 40, 3]
    red, green, blue = np.moveaxis(blocks, -1, 0)
    return (np.maximum(np.maximum(red, green), blue) // 30).astype(np.uint8)


# %% tags=["C4", "hide-input"]
if has_mario:
    env.reset()
    for action in (3, 3, 3, 4, 4, 4, 3, 3):
        screen, *_ = env.step(action)
    field = screen[14:]
    stages = {
        "the screen": screen, "without the top": field,
        "means of blocks": field.reshape(42, 5, 40, 6, 3).mean((1, 3)).astype(np.uint8),
        "brightest colour": shrink(screen[None])[0],
    }  # fmt: skip
    figure, panels = plt.subplots(1, 4, figsize=(9.5, 2.6))
    for axes, (title, picture) in zip(panels, stages.items(), strict=True):
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
        axes.set(title=title, xticks=[], yticks=[])
        axes.grid(visible=False)
    plt.show()

# %% [markdown]
# *From left to right: the console's screen; the part that is kept; the means of the blocks, still in colour; the
# brightest of their three colours. Sky is nearly white, as are the letters (the speck on the left is the display's coin),
# and Mario is three blocks high.* Of such pictures the last
# three make one observation, so that speeds can be seen:

# %% tags=["C4", "hide-input"]
if has_mario:
    env.reset()
    for action in (3, 3, 3, 4, 4, 4, 3, 3, 0, 3, 3):
        env.step(action)
    stack = np.stack([shrink(env.step(4)[0][None])[0] for _ in range(3)])  # [3, 42, 40]
    figure, panels = plt.subplots(1, 3, figsize=(7.2, 2.6))
    ages = ("two decisions ago", "one decision ago", "now")
    for axes, age, picture in zip(panels, ages, stack, strict=True):
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
        axes.set(title=age, xticks=[], yticks=[])
        axes.grid(visible=False)
    plt.show()

# %% [markdown]
# *An observation. One picture says where Mario and the goombas are, three say where they go.*
#
# ### How far chance comes
#
# Before anybody learns: how far does a player come who looks at nothing and tosses coins? `MarioGames` plays any number of
# games in one process: a game is a saved state of 13 kilobytes, loaded before each decision and saved after it.


# %%
PLACES = {
    "third_pipe": (736, 768), "first_pit": (1104, 1136), "second_pit": (1376, 1424), "third_pit": (2448, 2480),
}  # x  # fmt: skip
BEHIND = {
    "third_pipe": 768,
    "first_pit": 1168,
    "second_pit": 1456,
}  # whoever falls drifts on below the screen


def play_out(policy: Policy, episodes: int, stuck: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """One whole episode in each of ``episodes`` games: furthest x and whether at the flag, both [episodes]."""
    playing = np.ones(episodes, bool)

    def still_playing(obs: np.ndarray) -> np.ndarray:
        actions = np.full(episodes, -1)  # who has finished rests
        actions[playing] = policy(obs[playing])
        return actions

    with closing(MarioGames(episodes, shrink, stuck=stuck)) as games:
        for step in transitions(games, still_playing, seed=0):
            playing &= ~(step.terminated | step.truncated)
            if not playing.any():
                return games.furthest, games.flags


def ends_of(reach: np.ndarray, flags: np.ndarray) -> dict[str, float]:
    """Where episodes ended, in several numbers. reach: furthest x, [episodes]. flags: whether at the flag."""
    found = {"mean_reach": reach.mean(), "median_reach": np.median(reach)}
    found |= {f"past_{name}": (reach > x).mean() for name, x in BEHIND.items()}
    return {name: float(value) for name, value in (found | {"flag": flags.mean()}).items()}


# %% [markdown]
# Some places tell more than the mean: the third pipe at $x = 736$, in front of which two goombas wait; the first pit
# at 1104, 32 pixels wide; the second at 1376, 48 pixels wide; and the third, 32 again, at 2448. The flag, where the level
# ends, stands at 3161. A Mario
# who falls into a pit drifts on below the screen, where no wall stops him, by up to 20 pixels beyond its end. So past a pit is
# who comes 32 pixels further; take the pit's end instead, and one coin jumps it twice as often as it does.
# <!-- held: fallen -->
#
# Four coins: over all twelve buttons, over the four that hold *right*, over *right* with or without a jump, and over
# *running* right with or without a jump.


# %%
COINS = {"all": tuple(range(12)), "right": (1, 2, 3, 4), "right_jump": (1, 2), "run_jump": (3, 4)}
BEST_COIN = "run_jump"  # on average, as the next figure shows
SCORING = 2_000_003  # names the episodes of a score, beside the run's seed


def coin(name: str, seed: int) -> Policy:
    """One of a few actions, all equally likely, whatever there is to see."""
    rng = np.random.default_rng(spread((SCORING, seed, [*COINS].index(name)), 1)[0])
    return lambda obs: rng.choice(COINS[name], size=len(obs))


# %% tags=["C4"]
if has_mario:
    began, count = time.process_time(), by_budget(smoke=4, laptop=100)
    reach, flags = play_out(coin(BEST_COIN, seed=1), count)
    seconds = time.process_time() - began
    print({name: round(value, 2) for name, value in ends_of(reach, flags).items()})
    print(f"{count} games in one process, {seconds:.0f} s of its processor")

# %% tags=["C4", "hide-input"]
coin_means = {name: results.metric("C4", f"coin_{name}", "mean_reach").mean() for name in COINS}
best_coin = coin_means[BEST_COIN]
COIN_LABELS = {
    "all": "all buttons",
    "right": "right",
    "right_jump": "right, jump or not",
    "run_jump": "run right, jump or not",
}


def draw_ends(axes: Axes, stored: dict[str, tuple[str, str]]) -> None:
    """The share of episodes that get beyond x, of stored runs: label -> (row, name)."""
    grid = np.arange(40, 3200, 5)
    for label, (row, name) in stored.items():
        reach = results.curves(row, name, "reach")  # [S, episodes]
        axes.plot(grid, 100 * (reach[:, :, None] > grid).mean((0, 1)), label=label, linewidth=1.5)
    for place, (start, end) in (PLACES | {"flag": (3155, 3167)}).items():
        axes.axvspan(start, end, color=plots.INK, alpha=0.15, linewidth=0)
        axes.text(
            (start + end) / 2, 101, place.replace("_", " "), fontsize=7, ha="center", va="bottom"
        )
    axes.set(xlabel="x (pixels)", ylabel="% of episodes that get further", ylim=(0, 100))
    axes.legend(fontsize=8, loc="upper right")


figure, axes = plt.subplots(figsize=(8.6, 3.2))
draw_ends(axes, {label: ("C4", f"coin_{name}") for name, label in COIN_LABELS.items()})
plt.show()
for name, label in COIN_LABELS.items():
    found = {
        end: results.metric("C4", f"coin_{name}", end).mean()
        for end in ("mean_reach", "past_first_pit", "flag")
    }
    print(
        f"{label:24s} mean {found['mean_reach']:.0f}, past the first pit {found['past_first_pit']:.1%}, flag {found['flag']:.1%}"
    )

# %% [markdown]
# *How many episodes of each coin get beyond $x$; five times 100 episodes. The steps are where episodes end: the first
# goomba, the third pipe and the two goombas before it, the first two pits.* Whoever presses only to the right comes more than
# twice as far as whoever presses anything, and one in six episodes of the best coin jumps the first pit. So the floor
# of every figure below is that coin, running right with or without a jump: what a coin cannot do is what counts as
# learned. <!-- held: coins -->

# %% [markdown]
# ## Paid in surprise
#
# The player is [chapter 6](ch06_policy_optimisation.ipynb)'s PPO. In a few lines, for those who have not been there: a network
# maps what is seen to a probability for each action and to a *value*, the discounted reward that it expects. It plays all
# games for 64 decisions, a *rollout*. Each decision gets an *advantage*: how much better things went after it than the value
# said (summed over later decisions, with weights that fall by $\gamma\lambda$). Then four passes over the rollout make actions
# of positive advantage likelier and others less likely, none of them by much, since the advantages belong to the policy that
# played; a bonus for entropy keeps it from being sure too early. (The source pays a DQN; we build that too, further below.)
#
# ![Games, rollout, curiosity, advantages, policy](../book/figures/mario.svg)
#
# *Who plays, who pays, and, dashed, who learns from what. The curiosity sees with its own encoder; the policy and the two
# values share their eyes. Collector, advantages and passes are chapter 6's. New are a curiosity, rewards in a sensible
# scale, and a rule for ends.*
#
# A tenth of a second changes little in a picture. A forward model that has to pass 288 features through 256 hidden units
# would be busy copying them; so here it predicts the *change* of the features. This has a side to it that the published
# ICM, `whole_icm` below, does not have. Before it has learned anything, our forward model says that next to nothing will
# change, and is surprised wherever something does; the published one says anything, and is surprised alike by everything.


# %%
PICTURES = (3, 42, 40)


def game_encoder() -> nn.Sequential:
    """Stacks [B, 3, 42, 40] -> features [B, 288], each row of mean 0 and variance 1."""
    layers = []
    for channels, size, stride in ((3, 6, 3), (32, 4, 2), (32, 3, 1)):  # 13 x 12, 5 x 5, 3 x 3
        layers += [nn.Conv2d(channels, 32, size, stride), nn.ELU(inplace=True)]
    return nn.Sequential(*layers, nn.Flatten(), nn.LayerNorm(288, elementwise_affine=False))


class Change(nn.Module):
    """Features that come with an action, plus what some layers make of both. [B, F + A] -> [B, F]."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs[:, : -len(ACTIONS)] + self.layers(inputs)


def predict_change(kind: type, encoder: nn.Module, features: int = 288) -> nn.Module:
    """A curiosity of Mario's size whose forward model predicts changes."""
    curiosity = kind(encoder, features, len(ACTIONS), hidden=256)
    curiosity.forward_model = Change(curiosity.forward_model)
    return curiosity


def icm() -> nn.Module:
    return predict_change(CURIOSITY.ICM, game_encoder())


def whole_icm() -> nn.Module:
    """ICM as published: the forward model predicts the features, not their change."""
    return CURIOSITY.ICM(game_encoder(), 288, len(ACTIONS), hidden=256)


# %% [markdown]
# The other curiosities of the first part are as quickly made: features drawn at random, RND, and pixels. And some
# that nobody would propose, because they say what the others are worth: an ICM that never learns, ours or the published; plain **motion**, the
# squared change of random features, in which nothing is predicted at all; and ICM's surprises shuffled over the
# rollout, so that everything about them is right but where they are paid.


# %%
def random_features() -> nn.Module:
    return predict_change(CURIOSITY.Surprise, game_encoder().requires_grad_(False))


def motion() -> nn.Module:
    """Paid for how much random features change: the forward model says that nothing will. Not to be trained."""
    still = random_features()
    for weight in still.forward_model.parameters():
        nn.init.zeros_(weight)
    return still


class Newest(nn.Module):
    """The newest picture as it is: [B, 3, 42, 40] -> [B, 1680]."""

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return obs[:, -1].flatten(1)


def pixels() -> nn.Module:
    return predict_change(CURIOSITY.Surprise, Newest(), 42 * 40)


# %%
class Reward(NamedTuple):
    """What an agent is paid.

    make: its curiosity. learns: whether the curiosity does. shuffled: whether its surprises are paid at any step of the
    rollout. weights: of the surprise, and of the game's reward. row: where runs are stored.
    """

    label: str
    make: Callable[[], nn.Module]
    learns: bool = True
    shuffled: bool = False
    weights: tuple[float, float] = (1.0, 0.0)
    row: str | None = None


REWARDS = {
    "icm": Reward("ICM", icm, row="C5"),
    "random_features": Reward("random features", random_features, row="C7"),
    "rnd": Reward("RND", partial(CURIOSITY.RND, game_encoder, 288), row="C7"),
    "pixels": Reward("pixels", pixels, row="C7"),
    "frozen_icm": Reward("ICM, never learns", icm, learns=False, row="C5"),
    "motion": Reward("motion", motion, learns=False, row="C5"),
    "shuffled": Reward("ICM, shuffled", icm, shuffled=True, row="C5"),
    "whole": Reward("ICM as published", whole_icm, row="C5"),
    "frozen_whole": Reward("as published, never learns", whole_icm, learns=False, row="C5"),
    "game": Reward("game's reward", icm, learns=False, weights=(0.0, 1.0), row="C6"),
    "both": Reward("game and ICM", icm, weights=(1.0, 1.0), row="C6"),
}

# %% [markdown]
# A reward of yours is one more line in this table; everything below takes it from there.
#
# ### Eyes, and two values
#
# The curiosity's encoder serves the curiosity only; the policy sees with eyes of its own. There are two values, one of
# future surprise and one of the game's own, *extrinsic* reward, because the two are paid by different rules ([Burda et
# al., 2019b](../book/bibliography.md#burda2019b)). `view` brings every pixel to mean 0 and deviation 1, both measured while
# Mario still plays at random near the start, and cuts what lies beyond 5: without it most of what an encoder sees is sky,
# the same in every picture.


# %%
class CuriousNet(nn.Module):
    """A policy, and a value for each of two rewards (surprise, game).

    Stacks [B, 3, 42, 40] with values to 255 -> (a Distribution over actions, values [B, 2]).
    """

    def __init__(self) -> None:
        super().__init__()
        hidden = nn.Linear(288, 256)
        self.body = nn.Sequential(*game_encoder()[:-1], hidden, nn.ReLU())  # without its LayerNorm
        self.policy, self.value = nn.Linear(256, len(ACTIONS)), nn.Linear(256, 2)
        for layer, gain in ((hidden, 2**0.5), (self.policy, 0.01), (self.value, 1.0)):
            nn.init.orthogonal_(layer.weight, gain)
            nn.init.zeros_(layer.bias)
        self.pixels = POLICIES.Normaliser(int(np.prod(PICTURES)))
        self.scales = nn.ModuleList([POLICIES.Normaliser(1), POLICIES.Normaliser(1)])

    def view(self, obs: torch.Tensor) -> torch.Tensor:
        """Every pixel in units of its own deviation, cut at 5: ``Normaliser.forward`` in single precision."""
        seen = self.pixels
        units = torch.where(seen.m2 > 0, (seen.count / seen.m2).sqrt(), 1.0)
        shift, scale = (each.float().view(PICTURES) for each in (-seen.mean * units, units))
        return torch.addcmul(shift, obs.float(), scale).clamp_(-5, 5)

    def forward(self, obs: torch.Tensor) -> tuple[Distribution, torch.Tensor]:
        hidden = self.body(self.view(obs))
        return Categorical(logits=self.policy(hidden), validate_args=False), self.value(hidden)


# %% tags=["C5", "hide-input"]
if has_mario:
    torch.manual_seed(0)
    games, eyes, toss = MarioGames(1, shrink), CuriousNet(), coin(BEST_COIN, seed=3)
    play, steps, x = transitions(games, toss, seed=0), [], []
    for step in islice(play, by_budget(smoke=20, laptop=90)):
        steps.append(step)
        x.append(games.infos["x_pos"][0])
    obs, actions, next_obs = (
        torch.from_numpy(np.concatenate([getattr(step, part) for step in steps]))
        for part in ("obs", "actions", "next_obs")
    )
    eyes.pixels.show(obs.flatten(1))
    figure, panels = plt.subplots(5, 1, figsize=(8.6, 5.6), sharex=True)
    panels[0].plot(x, color=plots.INK, linewidth=1)
    panels[0].set_title("x (pixels)", fontsize=9)
    for axes, name in zip(panels[1:], ("frozen_icm", "motion", "frozen_whole", "rnd"), strict=True):
        paid = REWARDS[name].make().surprise(eyes.view(obs), actions, eyes.view(next_obs))
        axes.plot(paid, color=plots.INK, linewidth=1)
        axes.set_title(REWARDS[name].label, fontsize=9)
        axes.set(ylim=(0, None))
        for end in np.flatnonzero([step.terminated[0] or step.truncated[0] for step in steps]):
            axes.axvline(end, color=plots.COLOURS[1], linestyle=":")
    panels[-1].set(xlabel="decision")
    figure.supylabel("surprise", fontsize=9)
    plt.show()

# %% [markdown]
# *Where the best coin's Mario is, and what four curiosities that have learned nothing yet pay for each of his decisions.*
# An ICM at birth pays for motion, and so nearly the same as motion itself: where Mario runs, much changes; where a pipe
# stops him, little. The published ICM is level: it foresees nothing, and so everything is as surprising as the rest. RND
# is level too: it does not ask what led to a picture, and to a predictor that knows nothing every picture is as new as
# the last.
#
# ### The agent
#
# The configuration inherits PPO's, and says what is paid and what an end costs. The collector is chapter 6's, but for what
# it remembers of an episode. And everything that learns stands together, with two optimisers: the curiosity has its own,
# at a tenth of the policy's rate, since a reward that moves faster than the value that predicts it cannot be followed.


# %%
@dataclass(frozen=True)
class CuriousConfig(POLICIES.PPOConfig):
    """PPO of chapter 6, paid by a curiosity, by the game, or by both. (Its env_id, reward_scale and standardise play no part.)"""

    env_id: str = "Super Mario Bros."
    reward: str = choice("icm", REWARDS)
    ends: str = choice("cost", ("cost", "terminal", "none"))
    steps: int = knob(241_664, 256, 5_000_000, "decisions of all games together", step=2048)
    num_envs: int = knob(32, 1, 256, "games side by side")
    horizon: int = knob(64, 8, 512, "decisions of each game between updates")
    warm_up: int = knob(2, 1, 20, "rollouts before the policy learns")
    discount: float = knob(0.95, 0.5, 1.0, "gamma of the surprise", step=0.001)
    game_discount: float = knob(0.99, 0.5, 1.0, "gamma of the game's reward", step=0.001)
    lam: float = knob(0.95, 0.0, 1.0, "lambda of the advantages", step=0.01)
    learning_rate: float = knob(5e-4, 1e-5, 1e-2, "of Adam at the start; falls to 0", step=1e-5)
    entropy: float = knob(0.005, 0.0, 0.1, "weight of the entropy bonus, to the end", step=0.001)
    curiosity_rate: float = knob(5e-5, 0.0, 1e-2, "learning rate of the curiosity", step=1e-5)
    reward_scale: float = 1.0
    workers: int = 0
    stuck: int = 80


# %% tags=["hide-input"]
class MarioCollector(POLICIES.Collector):
    """Chapter 6's collector; recent: [furthest x, 1 if at the flag else 0] of the last 100 episodes."""

    def __init__(self, games: MarioGames, net: nn.Module, seed: int, recent: list = ()) -> None:
        super().__init__(games, net, seed, reward_scale=1.0, recent=recent)
        self.games = games

    def note_ends(self, rewards: np.ndarray, terminated: np.ndarray, done: np.ndarray) -> None:
        self.recent.extend(np.stack([self.games.furthest, self.games.flags], 1)[done].tolist())


# %% tags=["hide-input"]
class Learner(NamedTuple):
    """What learns. sums: [2, N], discounted sums of either reward so far. first: [1, 3, 42, 40], how a game begins."""

    net: CuriousNet
    curiosity: nn.Module
    optimiser: torch.optim.Optimizer
    curiosity_optimiser: torch.optim.Optimizer
    sums: torch.Tensor
    first: torch.Tensor


def make_learner(config: CuriousConfig, games: MarioGames, device: str) -> Learner:
    """Two Adams: the policy's, as in chapter 6, and the curiosity's own, whose gradients are small against 1e-5."""
    net, curiosity = CuriousNet().to(device), REWARDS[config.reward].make().to(device)
    acting = torch.optim.Adam(net.parameters(), config.learning_rate, eps=1e-5, fused=True)
    curious = torch.optim.Adam(curiosity.parameters(), config.curiosity_rate, eps=1e-8, fused=True)
    sums = torch.zeros(2, config.num_envs, dtype=torch.float64, device=device)
    first = torch.as_tensor(games.first[None], device=device)
    return Learner(net, curiosity, acting, curious, sums, first)


# %% [markdown]
# ### What is paid
#
# The surprise at a step needs the observation after it. The step that ends an episode pays nothing: what follows it is a
# new game, no consequence of the action, and an agent that was paid for it would take every death for a television.
#
# Nobody knows beforehand how large a surprise is. So rewards are divided by the deviation of their discounted sums so far,
# as [Burda et al. (2019b)](../book/bibliography.md#burda2019b) propose:
#
# $$
# \tilde r_t = \frac{r_t}{\sigma(G)}, \qquad G_t = r_t + \gamma\, G_{t-1} .
# $$


# %%
@torch.no_grad()
def surprises(
    learner: Learner, obs: torch.Tensor, actions: torch.Tensor, done: torch.Tensor
) -> torch.Tensor:
    """Intrinsic rewards [T, N] of a rollout; the step that ends an episode pays nothing. obs: [T + 1, N, ...], normalised."""
    rows = [learner.curiosity.surprise(*step) for step in zip(obs[:-1], actions, obs[1:], strict=True)]  # fmt: skip
    return torch.stack(rows) * ~done


def in_own_scale(
    rewards: torch.Tensor, scale: nn.Module, sums: torch.Tensor, discount: float
) -> torch.Tensor:
    """Rewards [T, N] over the deviation of their discounted sums so far (Burda et al. 2019b); sums [N] go on."""
    seen = []
    for row in rewards:
        sums.mul_(discount).add_(row)
        seen.append(sums.clone())
    scale.show(torch.stack(seen)[..., None])
    return (rewards / (scale.m2 / scale.count).sqrt().clamp(min=1e-8)).float()


# %% [markdown]
# ### What is death to the curious?
#
# To a learner of the game's reward, death is the end. To the curious it is a way back to the start, where everything is
# known. Three rules are possible. *Nothing happened* ("none"): the next game follows at once, so the value of its first state
# is what follows a death; [Burda et al. (2019a)](../book/bibliography.md#burda2019a) propose this, lest the agent be told
# to stay alive. *The end* ("terminal"): no value follows. *What it costs* ("cost"): the music plays, the screen turns
# black, and only after a while Mario can move again; so the value of the start follows, discounted by 71.5 decisions,
#
# $$
# \hat A_t = \tilde r_t + \gamma^{71.5}\, V(s_{\text{start}}) - V(s_t) .
# $$
#
# With $\gamma = 0.95$ the factor is 0.026 and the third rule is nearly the second: it *is* a hint that dying is bad. In part
# the game gives it. There a death costs 53 to 60 decisions, and whoever was past the middle of the level goes on there, at
# $x = 1320$. The rest is our rule, and so are two prices more: to be cut for standing still costs what a death costs, which
# says something about $x$; and so does the flag, behind which the game has a second level, all of it news. Whoever touches
# the flag does it against his interest. Further below we measure what the hint is worth.


# %%
END_COST = 71.5  # decisions that an end is charged with


@torch.no_grad()
def curious_advantages(
    learner: Learner, rollout: NamedTuple, paid: torch.Tensor, config: CuriousConfig
) -> tuple:
    """Advantages [T, N] of the surprise ``paid`` [T, N], and the returns [T, N] for its value.

    After an end the curious play on from the start, at the price of the time that passes ("cost"), at once ("none"), or
    not at all ("terminal").
    """
    done, never = rollout.done, torch.zeros_like(rollout.done)
    start = learner.net(learner.first)[1][0, 0]
    at_end, terminal, cut = {
        "cost": (start * config.discount ** (END_COST - 1), never, done),  # ``gae`` discounts once
        "terminal": (0 * start, done, done),
        "none": (start, never, never),
    }[config.ends]
    following = torch.where(done, at_end, rollout.next_values[..., 0])
    dials = (terminal, cut, config.discount, config.lam)
    return POLICIES.gae(paid, rollout.values[..., 0], following, *dials)


# %% tags=["C5", "hide-input"]
kept = {
    "none": lambda discount: discount,
    "cost": lambda discount: discount**END_COST,
    "terminal": lambda discount: 0.0,
}
figure, axes = plt.subplots(figsize=(6.4, 2.0))
for row, (discount, colour) in enumerate(((0.95, plots.COLOURS[0]), (0.99, plots.COLOURS[1]))):
    shares = [rule(discount) for rule in kept.values()]
    drawn = axes.barh(
        np.arange(3) + 0.4 * row - 0.2, shares, 0.4, color=colour, label=f"γ = {discount}"
    )
    axes.bar_label(drawn, fmt=" %.3f", fontsize=8)
axes.set(
    yticks=range(3),
    yticklabels=kept,
    xlabel="what follows an end, in values of the start",
    xlim=(0, 1.2),
)
axes.invert_yaxis()
axes.grid(axis="y", visible=False)
axes.legend(fontsize=8)
plt.show()


# %% [markdown]
# *What follows an end, as a share of what the start is worth. At γ = 0.95 the price leaves next to nothing, at 0.99
# nearly half.*
#
# Both rewards get advantages, and their weights decide what the policy hears. A reward that weighs nothing must not
# teach anything by a back door either: the two values share the policy's eyes, so its value gets its own output as
# target.


# %%
@torch.no_grad()
def weighted_advantages(
    learner: Learner, rollout: NamedTuple, surprise: torch.Tensor, config: CuriousConfig
) -> tuple:
    """Weighted advantages [T, N] of both rewards, and the returns [T, N, 2] for the two values.

    The game's reward ends with its episode. A reward that weighs nothing gets its value's own output as its target.
    """
    (intrinsic, game), values = learner.net.scales, rollout.values
    paid = in_own_scale(surprise, intrinsic, learner.sums[0], config.discount)
    points = in_own_scale(rollout.rewards, game, learner.sums[1], config.game_discount)
    curious, curious_returns = curious_advantages(learner, rollout, paid, config)
    dials = (rollout.done, rollout.done, config.game_discount, config.lam)
    greedy, greedy_returns = POLICIES.gae(points, values[..., 1], rollout.next_values[..., 1], *dials)  # fmt: skip
    weights = torch.tensor(REWARDS[config.reward].weights, device=values.device)
    returns = torch.stack([curious_returns, greedy_returns], -1)
    return weights[0] * curious + weights[1] * greedy, torch.where(weights > 0, returns, values)


# %% tags=["C5", "hide-input"]
if has_mario:
    torch.manual_seed(0)
    few = CuriousConfig(num_envs=16, horizon=by_budget(smoke=8, laptop=64))
    games = MarioGames(few.num_envs, shrink)
    learner = make_learner(few, games, "cpu")
    collector = MarioCollector(games, learner.net, seed=1)
    learner.net.pixels.show(collector.collect(few.horizon).obs.flatten(2))
    rollout = collector.collect(few.horizon)
    obs = learner.net.view(torch.cat([rollout.obs, torch.from_numpy(games.obs)[None]]))
    paid = surprises(learner, obs, rollout.actions, rollout.done)
    advantages, _ = weighted_advantages(learner, rollout, paid, few)
    figure, panels = plt.subplots(1, 2, figsize=(9.5, 2.6))
    for axes, (title, values) in zip(
        panels, {"surprise": paid, "advantage": advantages}.items(), strict=True
    ):
        drawn = axes.imshow(values.T, cmap="cividis", aspect="auto")
        axes.plot(*rollout.done.nonzero().T, "x", color=plots.COLOURS[1], markersize=5)
        axes.set(title=title, xlabel="decision", ylabel="game")
        axes.grid(visible=False)
        figure.colorbar(drawn, ax=axes)
    plt.show()

# %% [markdown]
# *Sixteen games of an agent that knows nothing yet, 64 decisions each; crosses are ends. Left, what is paid: light
# where much changes, dark where little does. Right, the advantages: light where more is about to come than the values
# expect, and nothing flows back across an end.*
#
# ### One update
#
# In order: find the surprise and the advantages, let PPO pass over the rollout, and let the curiosity learn from it,
# once.


# %%
def improve_curiosity(
    learner: Learner, obs: torch.Tensor, actions: torch.Tensor, done: torch.Tensor, minibatch: int
) -> dict[str, float]:
    """One pass of the curiosity over the steps of a rollout whose episode goes on; mean losses. obs: as ``surprises``."""
    goes_on, found = ~done, []
    columns = [column[goes_on] for column in (obs[:-1], actions, obs[1:])]  # [B, ...]
    for rows in torch.randperm(len(columns[0]), device=done.device).split(minibatch):
        losses = learner.curiosity.losses(*(column[rows] for column in columns))
        learner.curiosity_optimiser.zero_grad()
        sum(losses.values()).backward()
        learner.curiosity_optimiser.step()
        found.append(torch.stack([*losses.values()]).detach())
    return dict(zip(losses, torch.stack(found).mean(0).tolist(), strict=True))


# %%
def learn_from(
    learner: Learner, rollout: NamedTuple, latest: np.ndarray, config: CuriousConfig, steps: int
) -> dict[str, float]:
    """One update of everything, after ``steps`` decisions. latest: [N, ...], what followed the rollout's last step.

    While the agent warms up, its policy waits, and pixels and rewards find their scale.
    """
    warm = steps < config.warm_up * rollout.rewards.numel()
    if warm:
        learner.net.pixels.show(rollout.obs.flatten(2))
    latest = torch.as_tensor(latest, dtype=torch.float32, device=rollout.obs.device)
    obs = learner.net.view(torch.cat([rollout.obs, latest[None]]))  # [T + 1, N, ...]
    surprise = surprises(learner, obs, rollout.actions, rollout.done)
    if REWARDS[config.reward].shuffled:
        surprise = surprise.flatten()[torch.randperm(surprise.numel())].view_as(surprise)
    found = {"surprise": surprise.mean().item(), "entropy": float(np.log(len(ACTIONS)))}
    advantages, returns = weighted_advantages(learner, rollout, surprise, config)
    if not warm:
        learner.optimiser.param_groups[0]["lr"] = config.learning_rate * (1 - steps / config.steps)
        columns = (*rollout[:3], advantages, returns)
        improved = POLICIES.ppo_epochs(learner.net, learner.optimiser, columns, config, config.entropy)  # fmt: skip
        found["entropy"] = improved["entropy"]
    if REWARDS[config.reward].learns:
        found |= improve_curiosity(learner, obs, rollout.actions, rollout.done, config.minibatch)
    return found


# %%
LEARNED = ("net", "curiosity", "optimiser", "curiosity_optimiser")


def train_curious(
    config: CuriousConfig,
    seed: int,
    state: dict | None = None,
    device: str = "cpu",
) -> Iterator[Progress]:
    """PPO on surprise, on the game's reward or on both. The number of workers changes the time that it takes, nothing else.

    state: {"steps", "recent", "sums", "metrics", "random", and ``LEARNED``}; a resumed run begins new games.
    """
    state = {"steps": 0, "recent": []} | (state or {})
    start = spread((seed, state["steps"]), 1)[0]
    torch.manual_seed(start)
    with closing(MarioGames(config.num_envs, shrink, config.workers, stuck=config.stuck)) as games:
        learner = make_learner(config, games, device)
        collector = MarioCollector(games, learner.net, start, state["recent"])
        if state["steps"]:
            for name in LEARNED:
                getattr(learner, name).load_state_dict(as_tensors(state[name]))
            learner.sums.copy_(torch.as_tensor(state["sums"]))
            restore_random(state["random"])
        while True:
            if state["steps"] < config.steps:
                rollout = collector.collect(config.horizon)
                learned = learn_from(learner, rollout, games.obs, config, state["steps"])
                ends = ends_of(
                    *np.array(collector.recent or [[0.0, 0.0]]).T
                )  # 0: none has ended yet
                state |= {"steps": state["steps"] + rollout.rewards.numel(), "metrics": ends | learned}  # fmt: skip
            now = partial(saved, learner, collector, dict(state))
            step = min(state["steps"], config.steps)
            yield Progress(step, config.steps, state["metrics"], now, "decisions")
            if state["steps"] >= config.steps:
                return


def saved(learner: Learner, collector: MarioCollector, state: dict) -> dict:
    """A copy of everything that a resumed run needs."""
    learned = {name: getattr(learner, name).state_dict() for name in LEARNED}
    rest = {"recent": [*collector.recent], "sums": learner.sums, "random": random_state()}
    return copy.deepcopy({**state, **learned, **rest})


# %% tags=["hide-input"]
def score(net: nn.Module, seed: int, episodes: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Fresh episodes of the sampled policy: furthest x and whether at the flag, both [episodes]."""
    torch.manual_seed(spread((SCORING, seed), 1)[0])
    return play_out(POLICIES.sampled(net), episodes)


def net_of(state: dict) -> CuriousNet:
    net = CuriousNet()
    net.load_state_dict(as_tensors(state["net"]))
    return net


# %% [markdown]
# ### Mario learns
#
# Live, with the games in two processes of their own. The curve is the mean furthest $x$ of the last 100 episodes.

# %% tags=["C5"]
if has_mario:
    short = CuriousConfig(steps=256, num_envs=4, horizon=32, warm_up=1, minibatch=64, stuck=20)
    live_config = by_budget(smoke=short, laptop=CuriousConfig(steps=98_304, workers=2))
    beside = {"floor": best_coin, "floor_label": "the best coin"}
    curious_run = watch(train_curious(live_config, seed=1), "mean_reach", **beside)
    curious_net = net_of(curious_run.state)
    reach, flags = score(curious_net, seed=1, episodes=by_budget(smoke=1, laptop=100))
    print({name: round(value, 2) for name, value in ends_of(reach, flags).items()})

# %% [markdown]
# *Mean furthest $x$ of the last 100 episodes (pixels).* The run that you see above took 263 s, on two cores that had something
# else to do as well. After 25,000 decisions it has left the coin behind. In a hundred fresh episodes Mario comes 1,130
# pixels far, and jumps the first pit in 40 of them; so the pit is jumped within five minutes, and the next cell shows it.

# %% [markdown]
# ### Watch it be surprised
#
# Every decision of an episode, with its screen, what the agent saw, and what it was paid.


# %% tags=["hide-input"]
class Instant(NamedTuple):
    """A decision: the screen after it, the stack before it, what it paid, Mario's furthest x."""

    screen: np.ndarray
    stack: np.ndarray
    surprise: float
    x: int


@torch.no_grad()
def episode_of(
    net: CuriousNet, curiosity: nn.Module, seed: int, longest: int = 600
) -> list[Instant]:
    """One episode with sampled actions, stuck limit 80."""
    torch.manual_seed(seed)
    env, episode, over = MarioEnv(), [], False
    stack = np.repeat(shrink(env.reset()[0][None]), 3, axis=0)  # [3, 42, 40]
    while not over and len(episode) < longest:
        obs = torch.from_numpy(stack)[None]  # [1, 3, 42, 40]
        action = net(obs)[0].sample()  # [1]
        screen, _, terminated, truncated, info = env.step(action.item())
        following = np.concatenate([stack[1:], shrink(screen[None])])
        next_obs = net.view(torch.from_numpy(following)[None])
        paid = curiosity.surprise(net.view(obs), action, next_obs).item()
        over = terminated or truncated
        episode.append(Instant(screen.copy(), stack, 0.0 if over else paid, info["furthest"]))
        stack = following
    return episode


def typical_and_best(net: CuriousNet, curiosity: nn.Module, seed: int, episodes: int) -> list:
    """Of several episodes the one with the median furthest x, and the one with the largest."""
    played = [episode_of(net, curiosity, seed + i) for i in range(episodes)]
    played.sort(key=lambda episode: episode[-1].x)
    return [played[(episodes - 1) // 2], played[-1]]


def clip_of(episode: list[Instant]) -> list[np.ndarray]:
    """Screens, and below them what the last 120 decisions paid: [T][264, 240, 3]."""
    most, frames = max(instant.surprise for instant in episode), []
    for t, instant in enumerate(episode):
        strip = np.full((40, 240, 3), 255, np.uint8)
        for column, past in enumerate(episode[max(0, t - 119) : t + 1]):
            strip[39 - int(39 * past.surprise / most) :, 2 * column : 2 * column + 2] = (0, 90, 160)
        frames.append(np.concatenate([instant.screen, strip]))
    return frames


# %% [markdown]
# Where the emulator is missing, clips stand in that the measured agent of seed 1 has left behind.


# %%
def stored_clip(name: str, caption: str) -> HTML:
    """A clip that a measured run has stored: "typical" or "best"."""
    path = results.run_path("C5", "clips", 1).with_suffix(".safetensors")
    with TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        clip.write_bytes(load_checkpoint(path)["state"][name].tobytes())
        return show_clip(clip, caption=caption)


# %% tags=["C5"]
if has_mario:
    curious_mind = icm()
    curious_mind.load_state_dict(as_tensors(curious_run.state["curiosity"]))
    episodes = typical_and_best(curious_net, curious_mind, 1, by_budget(smoke=1, laptop=11))
    for name, episode in zip(("typical", "best"), episodes, strict=True):
        caption = f"The {name} of eleven episodes: x = {episode[-1].x}, {len(episode)} decisions."
        display(show_clip(clip_of(episode), 10, caption))
else:
    for name in ("typical", "best"):
        display(stored_clip(name, f"The {name} of eleven episodes of a stored agent."))

# %% [markdown]
# *Below the screen stands what each of the last 120 decisions has paid.*


# %% tags=["hide-input"]
@torch.no_grad()
def seen_where(net: CuriousNet, mind: nn.Module, stack: np.ndarray) -> np.ndarray:
    """How strongly the curiosity's first layer answers in each of 13 x 12 places: [13, 12]."""
    answers = mind.encoder[:2](net.view(torch.from_numpy(stack)[None]))
    return answers[0].abs().mean(0).numpy()


def instant_picture(episode: list[Instant], lit: list[np.ndarray], t: int) -> bytes:
    """Screen, the encoder's view of it, and the trace of the surprise, as a PNG."""
    figure = Figure(figsize=(8.6, 2.6), dpi=72)
    screen, view, trace = figure.subplots(1, 3, width_ratios=(1.1, 1, 1.7))
    screen.imshow(episode[t].screen)
    view.imshow(episode[t].stack[-1], cmap="gray", extent=(0, 1, 0, 1))
    look = {"cmap": "inferno", "alpha": 0.5, "vmin": 0, "vmax": np.max(lit)}
    view.imshow(lit[t], extent=(0, 1, 0, 1), **look)
    for axes, title in ((screen, f"x = {episode[t].x}"), (view, "the encoder's view")):
        axes.set(title=title, xticks=[], yticks=[])
        axes.grid(visible=False)
    trace.plot([instant.surprise for instant in episode], linewidth=1, color=plots.INK)
    trace.axvline(t, color=plots.COLOURS[1])
    trace.set(title=f"surprise {episode[t].surprise:.2f}", xlabel="decision")
    return plots.to_png(figure)


# %% tags=["C5"]
if has_mario:
    typical = episodes[0]
    lit = [seen_where(curious_net, curious_mind, instant.stack) for instant in typical]
    shown = range(0, len(typical), 1 + len(typical) // by_budget(smoke=5, laptop=40))
    pictures = [instant_picture(typical, lit, t) for t in shown]
    middle = len(pictures) // 2
    show(scrubber(pictures, "instant", start=middle), pictures[middle])

# %% [markdown]
# *Instants of the typical episode. Left, the screen after a decision. Middle, the newest picture before it, lit where the
# first layer of ICM's encoder answers most, all on one scale. Right, the surprise of every decision.*
#
# The dials of the agent, live.

# %%
if has_mario:
    preview = plots.to_png(live_curve(curious_run, "mean_reach", **beside))
    panel_config = replace(live_config, steps=by_budget(smoke=256, laptop=20_480))
    mario_panel = panel(train_curious, panel_config, metric="mean_reach", preview=preview, **beside)

# %% [markdown]
# ## Is it curiosity?
#
# An agent that is paid for surprise has come far. Was it the surprise? In a level that scrolls, whoever runs sees much
# change, and whoever sees much change is surprised, whatever the mind behind it. So the same PPO gets the same decisions and
# its seeds with each of eleven rewards: five curiosities that learn; four that say what the learning is worth; the game's own
# reward (pixels gained to the right, less the ticks of the clock and a penalty for dying); and the game's with ICM's.

# %% tags=["C5", "C6", "C7", "hide-input"]
PANELS = {
    "what is learned": ("icm", "random_features", "pixels", "rnd", "whole"),
    "what never learns": ("icm", "frozen_icm", "motion", "frozen_whole"),
    "what the game pays, and chance": ("icm", "game", "both", "shuffled"),
}


def draw_curves(axes: Axes, names: Iterable[str]) -> None:
    """How far stored runs come while they learn, and who learns nothing."""
    for name in names:
        reward = REWARDS[name]
        POLICIES.draw_runs(axes, reward.row, name, reward.label, curve="mean_reach")
    line = {"color": plots.INK, "linewidth": 1}
    axes.axhline(coin_means["all"], linestyle="--", label="coin: all buttons", **line)
    to_the_right = [mean for name, mean in coin_means.items() if name != "all"]
    axes.axhspan(
        min(to_the_right),
        max(to_the_right),
        color=plots.INK,
        alpha=0.3,
        label="three coins to the right",
    )
    clock = results.metric("C4", "clocks", "best_reach").mean()
    axes.axhline(clock, linestyle="-.", label="best of 276 clocks", **line)
    axes.set(xlabel="decisions (thousands)")
    axes.legend(fontsize=6.5)


figure, panels = plt.subplots(1, 3, figsize=(11.5, 3.6), sharey=True)
for axes, (title, names) in zip(panels, PANELS.items(), strict=True):
    draw_curves(axes, names)
    axes.set_title(title)
panels[0].set(ylabel="furthest x, last 100 episodes (pixels)")
plt.show()

# %% [markdown]
# *Mean furthest $x$ of the last 100 episodes of a training. ICM has five seeds, its rivals have three each (the published ICM two, and one where it never
# learns), as thin lines; thick, their mean, with its 95 % interval at five seeds, their range below. Dashed, shaded and dash-dotted who learns nothing: all buttons,
# the three coins to the right, and the best of 276 clocks, which run and jump in a fixed rhythm (exercise C4.1).*
#
# **Surprise carries Mario far.** Paid by ICM alone he comes 2,574 pixels far on average, jumps the first pit in 93 % of
# his episodes, on no seed in fewer than 90 %, and touches the flag in 48 %. Most of those who fail do so at four places
# behind the second pit. The best coin jumps the first pit in 17 %, and touched the flag in 1 of 500 episodes. The first
# ICM came past 30 % of this level, and no further than 38 % of it, $x$ = 1,201, between the two pits [(Pathak et al.,
# 2017)](../book/bibliography.md#pathak2017); with 2,048 games side by side, curiosity discovered eleven levels [(Burda
# et al., 2019a)](../book/bibliography.md#burda2019a). Both had other pictures and other amounts of play, so none of
# this is a race. <!-- held: carried_far -->

# %% tags=["C5", "C6", "hide-input"]
figure, axes = plt.subplots(figsize=(8.6, 3.2))
shown = {REWARDS[name].label: (REWARDS[name].row, name) for name in ("icm", "motion", "game")}
draw_ends(axes, shown | {"the best coin": ("C4", f"coin_{BEST_COIN}")})
plt.show()

# %% [markdown]
# *Where 100 fresh episodes of each trained agent end: fresh are the dice of the policy, while the level is always the same.
# ICM five seeds together, the others three. The steps behind the second pit are enemies at 1,770, about 2,000 and 2,760, and the third
# pit.*
#
# **It is not the curiosity.** An ICM that never learns carries him 2,720 pixels far, and motion, in which nothing is
# predicted, 2,840. For the first 100,000 decisions the three learn alike, and neither of the two ends behind ICM. (In
# fresh episodes motion is ahead, by 95 % of confidence between 105 and 428 pixels; over the last hundred episodes of
# training the same interval reaches from -143 to 494, so make nothing of the lead.) So what carries Mario is that
# change pays. In a level that scrolls, whoever runs sees much change, and whoever stands before a pipe sees none.
# What ICM learns it no longer pays, 0.40 a decision in the end, where it never learns 0.90; here nothing is gained by
# that. That features drawn at random are enough in many games is what Burda et al. found as well.
# <!-- held: paid_for_change -->

# %% tags=["C5", "C6", "C7", "hide-input"]
ENDS = {
    "mean_reach": "mean furthest x (pixels)", "median_reach": "median furthest x (pixels)",
    "past_third_pipe": "share past the third pipe", "past_first_pit": "share past the first pit",
    "past_second_pit": "share past the second pit", "flag": "share at the flag",
}  # fmt: skip
COMPARED = {name: each for name, each in REWARDS.items() if each.row}
figure, panels = plt.subplots(2, 3, figsize=(11.5, 6.6), sharey=True)
for axes, (end, title) in zip(panels.flat, ENDS.items(), strict=True):
    scores = {each.label: results.metric(each.row, name, end) for name, each in COMPARED.items()}
    coins = {f"coin: {label}": results.metric("C4", f"coin_{name}", end) for name, label in COIN_LABELS.items()}  # fmt: skip
    plots.bars(axes, scores | coins)
    axes.set(xlabel=title)
plt.show()

# %% [markdown]
# *The same 100 episodes of every trained agent, in all measures, and a coin's; circles are seeds, bars their mean, with its
# 95 % interval at five seeds, their range below.*
#
# **It is our forward model that pays for change.** The published ICM, which predicts the features and not their
# change, brings 751 pixels (two seeds; 24 % of the level) and 12 % past the first pit, no more than the best coin,
# though its curve still rises. It does learn: its forward loss falls by more than half. And here learning counts, for
# where it never learns he comes 170 pixels far (one run): it pays every decision alike, and over the second half of
# the training he drifts below what pressing anything brings, 247 on average. So with the published model change has
# to be made to pay by learning; ours pays for change from birth, by a line of code that was to save it some copying.
# Mind that this says something about a budget of 241,664 decisions and about settings that were found for ours: seven
# were tried for ICM with that line, none for the one without. <!-- held: as_published -->
#
# **Nor is it being paid for being alive.** ICM's surprises, shuffled over the rollout, keep their sum, their scale
# and the price of an end, so that every step pays and dying costs. He comes 277 pixels far; all buttons come 293. A
# wage for living is not enough: it has to be paid where he runs. <!-- held: shuffled_nowhere -->
#
# **Other curiosities.** Random features (2,374 pixels) and pixels (2,273) pay for change as well, and do as well or
# nearly. RND (661), at the rate that was chosen for ICM, comes no further than the coin: it asks how new a picture
# is, not how much it differs from the last. <!-- held: other_curiosities -->
#
# **And the game?** Its own reward, the pixels gained to the right less the ticks of the clock and a penalty for
# dying, brings 2,466 pixels and 93 % past the first pit; with ICM's surprise added, 2,506 and 91 %. Mind the
# settings: seven were tried for curiosity and one for the game, whose reward has a discount and a rule for ends of
# its own. <!-- held: the_games_reward -->
#
# ### What pays where
#
# What does a trained agent's curiosity pay along the level, and how much of it is the picture's change? Each stored agent
# plays 9,600 more decisions, and each is compared with the mean difference between its newest picture and the one before.


# %%
def curiosity_of(state: dict, reward: str = "icm") -> nn.Module:
    """The curiosity in a state of ``train_curious``."""
    curiosity = REWARDS[reward].make()
    curiosity.load_state_dict(as_tensors(state["curiosity"]))
    return curiosity


@torch.no_grad()
def what_pays(
    net: CuriousNet, curiosity: nn.Module, decisions: int = 300
) -> tuple[np.ndarray, ...]:
    """For D decisions of 32 games: what is paid, how much the newest picture changes, the furthest x so far; each [D]."""
    paid, change, x = [], [], []
    with closing(MarioGames(32, shrink)) as games:
        for step in islice(transitions(games, POLICIES.sampled(net), seed=0), decisions):
            goes_on = ~(step.terminated | step.truncated)
            obs, next_obs = (torch.from_numpy(each[goes_on]) for each in (step.obs, step.next_obs))
            actions = torch.from_numpy(step.actions[goes_on])
            paid.append(curiosity.surprise(net.view(obs), actions, net.view(next_obs)))
            change.append((next_obs[:, -1].float() - obs[:, -1]).abs().mean((1, 2)))
            x.append(torch.from_numpy(games.furthest[goes_on]))
    return tuple(torch.cat(column).numpy() for column in (paid, change, x))


# %% tags=["C5", "C7", "hide-input"]
figure, panels = plt.subplots(1, 2, figsize=(10.5, 3.2), width_ratios=(1.6, 1))
kinds = ("icm", "frozen_icm", "motion", "random_features", "rnd", "pixels")
for name in kinds:
    row, label = REWARDS[name].row, REWARDS[name].label
    paid, visits = (results.curves(row, name, curve).sum(0) for curve in ("paid", "visits"))  # [33]
    rate = np.where(visits >= 50, paid / np.maximum(visits, 1), np.nan) / (
        paid.sum() / visits.sum()
    )
    panels[0].plot(100 * np.arange(33) + 50, rate, label=label, linewidth=1.5)
panels[0].set(xlabel="x (pixels)", ylabel="paid there, over the mean")
panels[0].legend(fontsize=7, ncols=2)
plots.bars(
    panels[1],
    {
        REWARDS[name].label: results.metric(REWARDS[name].row, name, "change_correlation")
        for name in kinds
    },
)
panels[1].set(xlabel="rank correlation with change", xlim=(-0.25, 1))
plt.show()

# %% [markdown]
# *Left, what is paid in each hundred pixels of the furthest $x$, over each agent's mean; all seeds together, where
# they made 50 decisions or more. Right, the rank correlation of what is paid with how much the newest picture
# changes, for every seed.* ICM, motion and random features draw nobody to the flag: over the last 300 pixels before
# it they pay less than elsewhere. (There are the stairs and the pole, before which Mario stands about.) Pixels pay
# more the further he comes. Their pay goes with the picture's change, and RND's somewhat. RND pays most at the end of
# its line, where its agents seldom come. <!-- held: what_is_paid -->
#
# What motion pays does not go with the picture's change, although change is all that it is paid for, and what ICM pays
# only a little. That is odd, until one asks who plays. An agent that always runs has left no moments in which nothing
# changes. So let the same curiosities watch others play: <!-- held: what_pays -->


# %% tags=["C5"]
@torch.no_grad()
def paid_for_change(
    play: Iterator, net: CuriousNet, minds: dict, decisions: int
) -> dict[str, float]:
    """Rank correlation of what each curiosity pays with how much the newest picture changes, over the same play.

    Variation: the deviation of the change over its mean.
    """
    paid, change = {name: [] for name in minds}, []
    for step in islice(play, decisions):
        goes_on = ~(step.terminated | step.truncated)
        obs, next_obs = (torch.from_numpy(each[goes_on]) for each in (step.obs, step.next_obs))
        actions = torch.from_numpy(step.actions[goes_on])
        for name, mind in minds.items():
            paid[name].append(mind.surprise(net.view(obs), actions, net.view(next_obs)))
        change.append((next_obs[:, -1].float() - obs[:, -1]).abs().mean((1, 2)))
    change = torch.cat(change)
    found = {name: spearmanr(torch.cat(each), change).statistic for name, each in paid.items()}
    return found | {"variation of change": (change.std() / change.mean()).item()}


# %%
def watching(seed: int, decisions: int) -> dict[str, dict[str, float]]:
    """``paid_for_change`` of five curiosities, as three players play 16 games each: [player][curiosity]."""
    torch.manual_seed(seed)
    state = load_checkpoint(results.run_path("C5", "icm", 1).with_suffix(".safetensors"))["state"]
    net, found = net_of(state), {}
    minds = {"ICM, trained": curiosity_of(state), "ICM, untrained": icm(), "motion": motion(),
             "published, untrained": whole_icm(), "pixels": pixels()}  # fmt: skip
    players = {"all buttons": coin("all", seed), "best coin": coin(BEST_COIN, seed), "trained agent": POLICIES.sampled(net)}  # fmt: skip
    for player, policy in players.items():
        with closing(MarioGames(16, shrink)) as games:
            play = transitions(games, policy, seed=0)
            found[player] = paid_for_change(play, net, minds, decisions)
    return found


# %% tags=["C5", "hide-input"]
stored = results.runs("C5", "watching")  # five throws of the dice
for name in stored[0]["metrics"]:
    mean = np.mean([run["metrics"][name] for run in stored])
    print(f"{name:38s} {mean:5.2f}")

# %% [markdown]
# The trained ICM's pay goes with change as long as others play, 0.75 and 0.53, and not over its own agent's play,
# 0.01; motion's 0.70 and 0.71, and then 0.37. The published ICM, untrained, does not ask for change in anybody's
# play. The variation says why: whoever presses anything often stands, and his pictures' changes deviate by 1.37 of
# their mean; the trained agent's by 0.41. Change tells running from standing still. Once everybody runs, it has done
# its work. <!-- held: watching -->
#
# ### What carried it
#
# Two settings are hints about the game more than about learning: the rule for ends, and the discount, on which the size
# of the hint depends. Here is the same ICM where an end says nothing, and with a longer view.

# %% tags=["C5", "hide-input"]
RULES = {
    "none_95": ("none", 0.95), "icm": ("cost", 0.95), "none_99": ("none", 0.99), "cost_99": ("cost", 0.99),
}  # fmt: skip
figure, panels = plt.subplots(1, 3, figsize=(11.5, 2.8), sharey=True)
for axes, end in zip(panels, ("mean_reach", "past_first_pit", "flag"), strict=True):
    plots.bars(
        axes,
        {
            f"{rule}, γ = {discount}": results.metric("C5", name, end)
            for name, (rule, discount) in RULES.items()
        },
    )
    axes.set(xlabel=ENDS[end])
plt.show()

# %% [markdown]
# *100 fresh episodes of ICM's agents under two rules for ends and two discounts; five seeds of the book's own
# ("cost", 0.95), one of "none, γ = 0.95", one of each with γ = 0.99.* Where an end says nothing, ICM comes 1,841
# pixels far, jumps the first pit in 79 % of his episodes and touches the flag in 13 %; with the hint 2,574, 93 % and
# 48 %. So he learns to jump without it; that he arrives is half the hint's work. With the longer view of γ = 0.99 he
# comes 1,617 pixels far without the hint, and 2,068 with it: less, under either rule, than with the shorter view, and
# more with the hint than without. <!-- held: ends_rule -->

# %% tags=["C5", "hide-input"]
RATES = {"0": "frozen_icm", "0.00005": "icm", "0.0005": "rate_5e-4"}


def rate_picture(rate: str) -> bytes:
    """How far agents come, and what they are paid, at one learning rate of the curiosity."""
    figure = Figure(figsize=(8.6, 2.8), dpi=80)
    for axes, (curve, label) in zip(
        figure.subplots(1, 2),
        {"mean_reach": "furthest x (pixels)", "surprise": "mean surprise"}.items(),
        strict=True,
    ):
        POLICIES.draw_runs(axes, "C5", RATES[rate], f"rate {rate}", curve=curve)
        axes.set(
            xlabel="decisions (thousands)",
            ylabel=label,
            ylim=(0, 3200 if curve == "mean_reach" else 1.6),
        )
        if curve == "mean_reach":
            axes.axhline(best_coin, color=plots.INK, linestyle=":", label="the best coin")
        axes.legend(fontsize=8, loc="upper left")
    return plots.to_png(figure)


rates = {rate: rate_picture(rate) for rate in RATES}
show(image_slider(rates, "curiosity's rate", start=1), rates["0.00005"])
# %% [markdown]
# *How far ICM's agents come (left) and what they are paid (right) at three learning rates of the curiosity; at 0 it
# never learns.* At ten times the book's rate (one seed) he comes 1,509 pixels far instead of 2,574, and is paid 0.30
# a decision in the end instead of 0.40. We think that no value can follow a reward that moves faster than it does; a
# slow one it can, and one that does not move at all as well. <!-- held: rate -->
#
# ## The source's agent: DQN with ICM
#
# The source pays a DQN. Three things are kept from it: the head of the network, on Mario's own eyes; the policy, which
# draws from a softmax over the values at first and is ε-greedy later; and the moment of payment. (Its discount of 0.2 is
# not: at that rate what comes three decisions later weighs less than one in a hundred.) The surprise of a stored step is computed when it is
# *drawn* from the replay, by the curiosity as it is then. A surprise of an hour ago is none any more. Death is an end
# to this agent, as in every DQN of the book.


# %% tags=["hide-input"]
@dataclass(frozen=True)
class CuriousDQNConfig:
    """DQN paid by curiosity."""

    steps: int = knob(49_152, 512, 1_000_000, "decisions", step=512)
    num_envs: int = knob(16, 1, 64, "games side by side")
    warm_up: int = knob(2048, 128, 65_536, "decisions of random play before learning", step=128)
    capacity: int = knob(16_384, 512, 65_536, "decisions that the replay holds", step=512)
    learning_rate: float = knob(5e-4, 1e-5, 1e-2, "of Adam", step=1e-5)
    discount: float = knob(0.9, 0.01, 0.999, "gamma; the source has 0.2", step=0.001)
    temperature: float = knob(0.1, 0.01, 10.0, "of the softmax", step=0.01)
    epsilon: float = knob(0.15, 0.0, 1.0, "share of random moves, once ε-greedy", step=0.01)
    softmax_until: float = knob(0.5, 0.0, 1.0, "share of the run played by softmax", step=0.01)
    batch_size: int = knob(32, 8, 512, "decisions of an update", step=8)
    updates: int = knob(2, 1, 64, "updates per decision of all games")
    sync_every: int = knob(250, 1, 10_000, "updates between copies to the target network")
    stuck: int = 80

    def __post_init__(self) -> None:
        check_config(self)


class CuriousQNet(nn.Module):
    """Values and a curiosity. Stacks [B, 3, 42, 40] with values to 255 -> values of the actions [B, A]."""

    def __init__(self) -> None:
        super().__init__()
        head = (nn.Linear(288, 100), nn.ELU(), nn.Linear(100, len(ACTIONS)))
        self.layers, self.curiosity = nn.Sequential(*game_encoder()[:-1], *head), icm()
        self.pixels = POLICIES.Normaliser(int(np.prod(PICTURES)))
        self.scale = POLICIES.Normaliser(1)

    view = CuriousNet.view

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.layers(self.view(obs))


# %% tags=["hide-input"]
@torch.no_grad()
def chosen(
    net: CuriousQNet,
    obs: np.ndarray,
    config: CuriousDQNConfig,
    steps: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Random at first, then the softmax of the values, then ε-greedy over all twelve actions. [N, 3, 42, 40] -> [N]."""
    anything = rng.integers(len(ACTIONS), size=len(obs))
    if steps < config.warm_up:
        return anything
    q = net(torch.from_numpy(obs).to(net.pixels.count.device))  # [N, A]
    if steps < config.softmax_until * config.steps:
        return Categorical(logits=q / config.temperature).sample().cpu().numpy()
    return np.where(rng.random(len(obs)) < config.epsilon, anything, q.argmax(1).cpu().numpy())


def curious_dqn_update(
    dqn: NamedTuple, batch: Experience, config: CuriousDQNConfig
) -> dict[str, float]:
    """One step of gradient descent on the three losses; the surprise is that of today's curiosity."""
    net = dqn.net
    seen = (net.view(batch.obs), batch.actions, net.view(batch.next_obs))
    surprise = net.curiosity.surprise(*seen) * (batch.discounts > 0)  # [B]; a death pays nothing
    net.scale.show(surprise[:, None])
    unit = (net.scale.m2 / net.scale.count).sqrt().clamp(min=1e-8).float()
    rewards = (1 - config.discount) * surprise / unit  # values of order 1
    losses = {"q": FOUNDATIONS.dqn_loss(net, dqn.target_net, batch._replace(rewards=rewards), huber=True)}  # fmt: skip
    losses |= net.curiosity.losses(*seen)
    dqn.optimiser.zero_grad()
    sum(losses.values()).backward()
    dqn.optimiser.step()
    return {name: loss.item() for name, loss in (losses | {"surprise": surprise.mean()}).items()}


# %% tags=["hide-input"]
DQN_REPORT = 512  # decisions between reports


def train_curious_dqn(
    config: CuriousDQNConfig, seed: int, state: dict | None = None, device: str = "cpu"
) -> Iterator[Progress]:
    """DQN on surprise (Zai and Brown 2020, chapter 8), many games at a time.

    state: {"steps", "updates", "dqn", "recent", "metrics"}; a resumed run begins new games and fills its replay anew.
    """
    state = {"steps": 0, "updates": 0, "recent": []} | (state or {})
    start = spread((seed, state["steps"]), 1)[0]
    torch.manual_seed(start)
    rng, replay, n_step = np.random.default_rng(start), Replay(config.capacity), NStep(1, config.discount)  # fmt: skip
    net = CuriousQNet().to(device)
    optimiser = torch.optim.Adam(net.parameters(), config.learning_rate, fused=True)
    dqn = FOUNDATIONS.DQN(net, copy.deepcopy(net), optimiser)
    if state["steps"]:
        for part, kept in zip(dqn, as_tensors(state["dqn"]), strict=True):
            part.load_state_dict(kept)
    with closing(MarioGames(config.num_envs, shrink, stuck=config.stuck)) as games:
        stream = transitions(
            games, lambda obs: chosen(net, obs, config, state["steps"], rng), start
        )
        while True:
            if state["steps"] < config.steps:
                play_and_learn(dqn, stream, games, replay, n_step, config, state, rng)
            now = lambda: copy.deepcopy({**state, "dqn": [part.state_dict() for part in dqn]})
            step = min(state["steps"], config.steps)
            yield Progress(step, config.steps, state["metrics"], now, "decisions")
            if state["steps"] >= config.steps:
                return


# %% tags=["hide-input"]
def play_and_learn(
    dqn: NamedTuple, stream: Iterator, games: MarioGames, replay: Replay, n_step: NStep, config: CuriousDQNConfig,
    state: dict, rng: np.random.Generator,
) -> None:  # fmt: skip
    """Play until ``DQN_REPORT`` decisions have been learned from; leaves metrics in ``state``."""
    recent, found = deque(state["recent"], maxlen=100), []
    while len(found) * config.num_envs < DQN_REPORT * config.updates:
        step = next(stream)
        done = step.terminated | step.truncated
        replay.add(n_step(step))
        recent.extend(np.stack([games.furthest, games.flags], 1)[done].tolist())
        state["steps"] += config.num_envs
        if state["steps"] <= config.warm_up:
            dqn.net.pixels.show(torch.from_numpy(step.obs).flatten(1))
        if replay.added <= config.warm_up:  # also after a resumption
            continue
        for _ in range(config.updates):
            rows = replay.sample(config.batch_size, rng)
            batch = Experience(*(torch.from_numpy(c).to(dqn.net.pixels.count.device) for c in rows))
            found.append(curious_dqn_update(dqn, batch, config))
            if state["updates"] % config.sync_every == 0:
                dqn.target_net.load_state_dict(dqn.net.state_dict())
            state["updates"] += 1
    losses = {name: float(np.mean([each[name] for each in found])) for name in found[0]}
    ends = ends_of(*np.array(recent or [[0.0, 0.0]]).T)
    state |= {"recent": [*recent], "metrics": ends | losses}


# %% tags=["C5"]
if has_mario:
    short = CuriousDQNConfig(512, num_envs=8, warm_up=128, updates=1, batch_size=8, stuck=20)
    dqn_config = by_budget(smoke=short, laptop=CuriousDQNConfig(steps=6144))
    dqn_run = watch(train_curious_dqn(dqn_config, seed=1), "mean_reach", **beside)

# %% [markdown]
# *Mean furthest $x$ of the last 100 episodes. A short run, to see it play; the measured ones are eight times as long.*

# %% tags=["C5", "C9", "hide-input"]
figure, panels = plt.subplots(1, 3, figsize=(11.5, 3.0))
for name, label in {"icm": "PPO, ICM", "dqn_icm": "DQN, ICM"}.items():
    for axes, curve in zip(panels, ("forward", "inverse", "mean_reach"), strict=True):
        POLICIES.draw_runs(axes, "C5", name, label, curve=curve)
panels[1].axhline(np.log(len(ACTIONS)), color=plots.INK, linestyle=":", label="guessing")
panels[2].axhline(best_coin, color=plots.INK, linestyle=":", label="the best coin")
for axes, title in zip(
    panels, ("forward loss", "inverse loss (nats)", "furthest x (pixels)"), strict=True
):
    axes.set(title=title, xlabel="decisions (thousands)")
    axes.legend(fontsize=7)
plt.show()

# %% [markdown]
# *Losses of ICM under either agent, and how far they come; five seeds of PPO, one of the DQN.* From what changed one
# can tell what was pressed: the inverse loss falls from the 2.48 of guessing to 1.15. The forward loss does not fall:
# from 0.44 it rises to 0.61 while Mario learns to run, and ends at 0.41. Player and forward model pull at the same
# number. The one looks for what the other does not foresee, and whenever something has been learned, there is less to
# be had in the places where it happens. Under shuffled surprises, where nothing is gained by looking, it falls to
# 0.22. (But that player hardly moves, so there is little to foresee.) <!-- held: losses -->
#
# The DQN comes 601 pixels far: less than the coin. That is no verdict on DQN: it has a fifth of PPO's decisions,
# about half of its time, and one setting. <!-- held: the_dqn -->

# %% [markdown]
# ## Spot the bug: three of the source's
#
# ### 1. A death that is followed by a new game
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
# Where an episode ends, the memory is told that the action led from the first picture of the *new* game to the last
# pictures of the *old* one. The other way round, from the old game into the new one, is what vector environments that
# reset by themselves hand over to those who do not look. No model of the world foresees either. A Mario who presses only
# the buttons that lead to the right dies often; what would the trained curiosity pay for each pairing?


# %% tags=["C5"]
@torch.no_grad()
def paid_for(before: np.ndarray, actions: np.ndarray, after: np.ndarray) -> np.ndarray:
    """What the trained curiosity pays for B transitions between stacks [B, 3, 42, 40]: [B]."""
    obs, next_obs = (curious_net.view(torch.from_numpy(stacks)) for stacks in (before, after))
    return curious_mind.surprise(obs, torch.from_numpy(actions), next_obs).numpy()


if has_mario:
    pairings = {}
    with closing(MarioGames(8, shrink, stuck=40)) as games:
        play = transitions(games, coin("right", seed=0), seed=0)
        for step, later in pairwise(islice(play, by_budget(smoke=40, laptop=150))):
            done = step.terminated | step.truncated
            for kind, before, after, rows in (
                ("within an episode", step.obs, step.next_obs, ~done),
                ("an episode's last step", step.obs, step.next_obs, done),
                ("from old game to new", step.obs, later.obs, done),
                ("from new game to old", later.obs, step.next_obs, done),
            ):
                found = paid_for(before[rows], step.actions[rows], after[rows])
                pairings.setdefault(kind, []).extend(found)
    figure, axes = plt.subplots(figsize=(7.2, 2.2))
    axes.boxplot(
        [*pairings.values()], orientation="horizontal", tick_labels=[*pairings], whis=(0, 100)
    )
    axes.invert_yaxis()
    axes.set(xlabel="surprise", xlim=(0, None))
    plt.show()
    print(
        {kind: f"{np.mean(found):.2f} (mean of {len(found)})" for kind, found in pairings.items()}
    )

# %% [markdown]
# *What the trained curiosity pays in the four pairings. A box holds the middle half, the line in it is the median, and
# the whiskers reach the extremes.* Led into the other game, the last step pays several times as much as one within an
# episode: an agent that is paid like this is paid for ends. A death is then as good as a television.
#
# ### 2. Progress since just now
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
def walk_by_the_clock(decisions: int) -> tuple[np.ndarray, np.ndarray]:
    """Mario walks, and jumps for four decisions of ten: x after each decision, and the source's progress."""
    env, x, progress = MarioEnv(repeat=1, stuck=1000), [], []
    env.reset()
    for decision in range(decisions):
        for _ in range(6):
            *_, info = env.step(2 if decision % 10 < 4 else 1)
            last_x_pos = info["x_pos"]
        x.append(info["x_pos"])
        progress.append(info["x_pos"] - last_x_pos)
    return np.array(x), np.array(progress)


if has_mario:
    x, progress = walk_by_the_clock(by_budget(smoke=110, laptop=136))
    figure, axes = plt.subplots(figsize=(7.2, 2.6))
    axes.plot(np.arange(len(x)) + 1, x, color=plots.INK, label="where Mario is")
    deleted = np.diff([40, *x[100:]])  # the first check looks back to the start
    ways = {"as printed": (progress[100:], "-"), "line deleted": (deleted, "--")}
    for label, (found, style) in ways.items():
        cut = 101 + np.flatnonzero(found < 15)[0]
        label = f"{label}: cut at decision {cut}"
        axes.axvline(cut, color=plots.COLOURS[1], linestyle=style, label=label)
    axes.set(xlabel="decision", ylabel="x (pixels)")
    axes.legend(fontsize=8)
    plt.show()

# %% [markdown]
# *Where Mario is, and where two versions of the rule would cut his episode. As printed it ends at decision 101. With
# the faulty line deleted it ends at 102.* The second check comes one decision after the first, and in one decision
# nobody who walks makes 15 pixels: the counter of decisions has to begin anew as well. Our environment counts the
# decisions since Mario last got further than ever before.
#
# ### 3. Buttons that chance never presses
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
drawn_right = by_chance[to_the_right].sum() / 10_000
print(f"to the right: {drawn_right:.0%} of the draws, {np.mean(to_the_right):.0%} of the buttons")

# %% [markdown]
# Once the source has switched to ε-greedy, chance never tries five of the twelve buttons, and a DQN learns what a
# button is worth by pressing it. The fault is hard to notice because it may well help: of the buttons that are left,
# more lead to the right. It is a hint about the game that nobody meant to give.
#
# ## Exercises
#
# Each runs alone, is checked, and has its solution folded away.
#
# **C4.1 A clock instead of a coin: predict, then run.** A player looks at nothing, runs to the right all the time, and
# holds the jump button for the first `held` decisions of every `period`. Guess first: how far does the best of all such clocks
# with a period of up to 24 decisions come, as far as the third pipe (736), the first pit (1104), the second (1376), the flag
# (3161)? Then write `clocks(periods, held)`, two arrays [C], which plays one episode for each clock and returns the furthest
# $x$ of each: [C]. (`play_out` takes a policy that sees all games at once, but only those that still play: you need the
# games' own loop, or one clock at a time.)

# %%
# Your clocks(periods, held), and then check("C4.1", clocks)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell", "C4"]
def clocks(periods: np.ndarray, held: np.ndarray) -> np.ndarray:
    playing, t = np.ones(len(periods), bool), 0
    with closing(MarioGames(len(periods), shrink)) as games:
        games.reset()
        while playing.any():
            actions = np.where(t % periods < held, 4, 3)  # run and jump, or run
            _, _, terminated, truncated, _ = games.step(np.where(playing, actions, -1))
            playing &= ~(terminated | truncated)
            t += 1
        return games.furthest


if has_mario:
    check("C4.1", clocks)
    pairs = np.array([(p, h) for p in by_budget((4,), range(2, 25)) for h in range(1, p)])
    reach = clocks(*pairs.T)
    print(f"{len(pairs)} clocks: mean {reach.mean():.0f}, median {np.median(reach):.0f}")
    for best in np.argsort(-reach)[:3]:
        print(f"period {pairs[best][0]}, held {pairs[best][1]}: x = {reach[best]}")

# %% [markdown]
# A floor too, and a high one: the game is always the same, so whoever tries 276 clocks and keeps the best has learned from
# 276 episodes, by search. All clocks together come less far than the coins. And the best of 500 episodes of the best coin
# touched the flag: who had written down its buttons, and pressed them again, would be there every time, for a seventh of an
# agent's decisions. That takes a look at $x$, to know which episode was the best; the curious are not told $x$.
# <!-- held: replayed_coin -->
#
# **C4.2 When to give up.** How far an agent gets depends on how long its Mario may stand still. Write `given_up(trace,
# limit)`: `trace` [T + 1] is the furthest $x$ at the start and after each decision of an episode that nobody cut; where would
# a limit of `limit` decisions without progress have cut it? The furthest $x$ then. (As our environment counts, the
# decision that makes the waiting as long as the limit is the last.)

# %%
# Your given_up(trace, limit), and then check("C4.2", given_up)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell", "C4"]
def given_up(trace: np.ndarray, limit: int) -> int:
    still = np.flatnonzero(trace[limit:] == trace[:-limit])
    return int(trace[still[0] if len(still) else -1])


check("C4.2", given_up)
if has_mario:
    for name in ("all", BEST_COIN):
        traces = []
        for seed in range(by_budget(1, 8)):
            env, policy, trace, over = (
                MarioEnv(stuck=by_budget(20, 300)),
                coin(name, seed),
                [40],
                False,
            )
            env.reset()
            while not over:
                _, _, terminated, truncated, info = env.step(policy(np.zeros(1))[0])
                over = terminated or truncated
                trace.append(info["furthest"])
            traces.append(np.array(trace))
        limits = (20, 40, 80, 150, 300)
        means = [np.mean([given_up(trace, limit) for trace in traces]) for limit in limits]
        print(f"{name:9s}", dict(zip(limits, np.round(means).astype(int).tolist(), strict=True)))

# %% [markdown]
# Patience is worth a lot to random buttons: whoever presses long enough gets over a pipe some time. A comparison is one
# only if the limit is the same for all.
#
# **C5.1 Who is paid for what.** Write `paid(surprise, obs, actions, latest, done)`: `obs` [T, N, D] is what N games showed
# before each of T decisions, `latest` [N, D] what they showed after the last, `done` [T, N] says which decisions ended an
# episode (the next row then shows a new game). `surprise(obs, actions, next_obs)` takes [B, D], [B], [B, D] and gives [B]. What is
# paid: [T, N].

# %%
# Your paid(surprise, obs, actions, latest, done), and then check("C5.1", paid)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
def paid(
    surprise: Callable,
    obs: torch.Tensor,
    actions: torch.Tensor,
    latest: torch.Tensor,
    done: torch.Tensor,
) -> torch.Tensor:
    following = torch.cat([obs[1:], latest[None]])
    found = surprise(obs.flatten(0, 1), actions.flatten(), following.flatten(0, 1))
    return found.view_as(done) * ~done


check("C5.1", paid)

# %% [markdown]
# **C5.2 A reward of your own.** The oldest curiosity predicts nothing, it counts: what has been seen $n$ times pays
# $1/\sqrt n$ ([Tang et al., 2017](../book/bibliography.md#tang2017)). No picture comes twice to the pixel, so pictures that
# are alike share a number. Write `counted(numbers, counts)`: `numbers` [B] are those of the pictures seen now, `counts` [K]
# how often each number was seen before; update `counts` in place, and return what each picture pays, [B]. A number that
# comes twice among the B has been seen twice, whichever of the two you ask.

# %%
# Your counted(numbers, counts), and then check("C5.2", counted)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell", "C5"]
def counted(numbers: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    counts += numbers.bincount(minlength=len(counts))
    return counts[numbers] ** -0.5


check("C5.2", counted)


class Counts(nn.Module):
    """Twelve signs of random projections of the newest picture are its number (Tang et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(42 * 40, 12, bias=False).requires_grad_(False)
        self.register_buffer("counts", torch.zeros(2**12))

    def surprise(self, obs: torch.Tensor, actions: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:  # fmt: skip
        signs = self.project(next_obs[:, -1].flatten(1)) > 0  # [B, 12]
        return counted(signs.long() @ 2 ** torch.arange(12), self.counts)


REWARDS["counts"] = Reward("counts", Counts, learns=False)
if has_mario:
    short = by_budget(smoke=256, laptop=20_480)
    counting = watch(train_curious(replace(live_config, reward="counts", steps=short), seed=1), "mean_reach", **beside)  # fmt: skip

# %% [markdown]
# Twenty thousand decisions say little yet. Press on (`steps=241_664` takes ten minutes): does he pass the coin? And is a
# count worth more to him than motion, which forgets everything at once?
#
# **C5.3 The price of an end.** Write `priced(rewards, values, start, done, discount, lam, price)`: the advantages [T] of one
# game whose episodes end where `done` [T] says so. `values` [T + 1] are those of the states before each decision and after
# the last; after an end play resumes, `price` decisions after the last one, in a state of value `start`. The sum of
# $\lambda$-weighted errors stops at an end.

# %%
# Your priced(rewards, values, start, done, discount, lam, price), and then check("C5.3", priced)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
def priced(
    rewards: torch.Tensor,
    values: torch.Tensor,
    start: float,
    done: torch.Tensor,
    discount: float,
    lam: float,
    price: float,
) -> torch.Tensor:
    following = torch.where(done, start * discount ** (price - 1), values[1:])
    never = torch.zeros_like(done)
    columns = (rewards, values[:-1], following, never, done)
    return POLICIES.gae(*(column[:, None] for column in columns), discount, lam)[0][:, 0]


check("C5.3", priced)
for discount in (0.95, 0.99, 0.995):
    print(f"γ = {discount}: an end keeps {discount**END_COST:.1%} of what the start is worth")

# %% [markdown]
# **C7.1 Is one ahead?** Write `lead(ours, theirs)`: scores of two methods, one number a seed, and not the same seeds: the
# difference of their means, and the ends of its 95 % interval by Welch's t test. Then ask: how many of the eleven rewards can
# so few seeds tell from ICM?

# %%
# Your lead(ours, theirs), and then check("C7.1", lead)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell", "C7"]
def lead(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float]:
    found = ttest_ind(ours, theirs, equal_var=False)
    interval = found.confidence_interval(0.95)
    return np.mean(ours) - np.mean(theirs), interval.low, interval.high


check("C7.1", lead)
ours = results.metric("C5", "icm", "mean_reach")
for name, reward in COMPARED.items():
    if name != "icm":
        found = lead(ours, results.metric(reward.row, name, "mean_reach"))
        print(
            f"ICM over {reward.label:20s} {found[0]:6.0f} pixels, {found[1]:6.0f} to {found[2]:5.0f}"
        )

# %% [markdown]
# ## Summary
#
# - Paid for nothing but ICM's surprise, PPO takes Mario over the first pit and the second in nine episodes of ten, and in half
#   of them to the flag, after twelve minutes on one core. The best coin jumps the first pit in one of six.
# - It is not the learning that carries him. An ICM that never learns, and plain motion, bring him no less far: what pays is
#   change. <!-- held: summary -->
# - That change pays is the work of one line, in which our forward model predicts changes. Without it, and with settings that
#   were found for ours, an ICM that never learns pays every decision alike and leads nowhere; one that learns gets as far
#   as a coin in this budget.
# - A control is worth as much as a method: shuffled surprises say that it matters where one is paid; frozen ones, that it
#   does not matter here whether the curiosity learns; the rule for ends, how much of the result was a hint.
# - What is paid need not lead anywhere. But for pixels, nothing here pays more toward the flag; he who likes
#   change runs, and who runs arrives.
#
# Further reading: [Pathak et al. (2017)](../book/bibliography.md#pathak2017) for ICM on this very level, [Burda et al.
# (2019a)](../book/bibliography.md#burda2019a) for curiosity on many games, and
# [(2019b)](../book/bibliography.md#burda2019b) for RND.

# %% [markdown]
# ## How the numbers were measured
#
# `make results` runs these functions with the seeds listed, and stores each run with its configuration, wall-clock
# time, cores and versions. The figures of this chapter are drawn from those files.
#
# Mario: each run makes 241,664 decisions in 32 games, all in one process, and is then scored by 100 fresh episodes with
# sampled actions, stuck limit 80. Nothing is selected: the agent is what the last update left. What varies between
# episodes is the policy's chance alone: the level and its enemies are the same in training and in scoring, so that
# nothing here says how well these agents would play a level that they have not seen. The coins play 100 episodes for
# each seed under the same limits. Two runs at a time shared the two cores of the machine; the seconds of the training
# are those of one of them, learning and games together, `cpu_seconds` its processor's. What is paid where comes from
# 9,600 more decisions of each agent. The source's agent makes 49,152 decisions in 16 games and is scored with its own
# ε.
#
# The settings are those of one search before these runs, on other seeds of an earlier program: seven for curiosity, one
# for the game's reward. While this program was written, three more were tried on seed 1: playing the next rollout while
# the last one teaches (worse), and curiosity rates of $10^{-5}$ and 0.


# %%
def measure_coin(config: None, seed: int, name: str) -> Measured:
    """100 episodes of a coin."""
    reach, flags = play_out(coin(name, seed), 100)
    return Measured(ends_of(reach, flags), {}, {"reach": reach, "flags": flags.astype(float)})


def measure_curious(config: CuriousConfig, seed: int) -> Measured:
    """Train, then play 100 fresh episodes; the baseline is the best coin. cpu_seconds: of the training, without workers.

    paid, visits: [33], sum of what was paid in each hundred pixels, and decisions there, by ``what_pays``.
    """
    began = time.process_time()
    progress, curves = POLICIES.follow(train_curious(config, seed))
    spent, state = time.process_time() - began, progress.state()
    net = net_of(state)
    reach, flags = score(net, seed)
    paid, change, x = what_pays(net, curiosity_of(state, config.reward))
    curves |= {"reach": reach, "flags": flags.astype(float)}
    curves |= {
        "paid": np.bincount(x // 100, paid, 33),
        "visits": np.bincount(x // 100, minlength=33),
    }
    found = ends_of(reach, flags) | {
        "training_seconds": curves["seconds"][-1], "cpu_seconds": spent,
        "change_correlation": float(spearmanr(paid, change).statistic),
    }  # fmt: skip
    floor = ends_of(*play_out(coin(BEST_COIN, seed), 100))
    kept = {name: state[name] for name in ("net", "curiosity")}
    return Measured(found, floor, curves, kept if (config.reward, seed) == ("icm", 1) else None)


# %%
def clip_bytes(episode: list[Instant]) -> np.ndarray:
    """An episode's clip as the bytes of its file: [bytes]."""
    with TemporaryDirectory() as folder:
        save_clip(Path(folder) / "clip.mp4", clip_of(episode), fps=10)
        return np.frombuffer((Path(folder) / "clip.mp4").read_bytes(), np.uint8).copy()


def measure_clips(config: None, seed: int) -> Measured:
    """Clips of two of eleven episodes of the stored agent, for readers without an emulator."""
    state = load_checkpoint(results.run_path("C5", "icm", 1).with_suffix(".safetensors"))["state"]
    played = typical_and_best(net_of(state), curiosity_of(state), seed, episodes=11)
    found = {
        f"{name}_x": episode[-1].x
        for name, episode in zip(("typical", "best"), played, strict=True)
    }
    clips = {
        name: clip_bytes(episode) for name, episode in zip(("typical", "best"), played, strict=True)
    }
    return Measured(found, {}, {}, clips)


# %%
def measure_clocks(config: None, seed: int) -> Measured:
    """Furthest x of every clock with a period of up to 24 decisions; the game is always the same."""
    pairs = np.array([(p, h) for p in range(2, 25) for h in range(1, p)])
    reach = clocks(*pairs.T)
    return Measured(
        {"mean_reach": reach.mean(), "best_reach": reach.max()},
        {},
        {"reach": reach, "period": pairs[:, 0], "held": pairs[:, 1]},
    )


def measure_speed(config: None, seed: int) -> Measured:
    """Raw frames per second of one processor's time: 32 games of a coin in one process, pictures and savestates included."""
    games, policy = MarioGames(32, shrink), coin(BEST_COIN, seed)
    play = transitions(games, policy, seed=0)
    next(play)
    began = time.process_time()
    for _ in islice(play, 100):
        pass
    return Measured({"frames_per_second": 32 * 100 * 6 / (time.process_time() - began)})


def measure_watching(config: None, seed: int) -> Measured:
    """``watching`` with seeds of its own for the players' chance and for what is untrained."""
    found = watching(seed, decisions=120)
    return Measured(
        {
            f"{player}, {mind}": value
            for player, told in found.items()
            for mind, value in told.items()
        }
    )


def measure_dqn(config: CuriousDQNConfig, seed: int) -> Measured:
    """The source's agent: trained, then 100 fresh ε-greedy episodes; the baseline is the best coin."""
    progress, curves = POLICIES.follow(train_curious_dqn(config, seed))
    net = CuriousQNet()
    net.load_state_dict(as_tensors(progress.state()["dqn"][0]))
    rng = np.random.default_rng(spread((SCORING, seed), 1)[0])
    found = ends_of(*play_out(lambda obs: chosen(net, obs, config, config.steps, rng), 100))
    floor = ends_of(*play_out(coin(BEST_COIN, seed), 100))
    return Measured(found | {"training_seconds": curves["seconds"][-1]}, floor, curves)


# %%
HEADLINE = (
    "Mario, paid for nothing but surprise, jumps the first pit in {C5.past_first_pit} of his episodes and touches the flag in "
    "{C5.flag}; the best of four coins jumps it in {C4.past_first_pit}"
)
FULL, ONE, TWO, THREE, FIVE = CuriousConfig(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4, 5)
REACH = (
    Metric("mean_reach", "pixels", "mean", "jumps a pit"), Metric("median_reach", "pixels", "mean"),
    *(Metric(name, "share of episodes") for name in ("past_third_pipe", "past_first_pit", "past_second_pit", "flag")),
)  # fmt: skip
SPEED = (Metric("frames_per_second", "frames/s", "median"),)
TIMED = (*REACH, Metric("cpu_seconds", "s", "median", "30 min"))
COIN_RUNS = [
    Measurement("C4", f"coin_{name}", partial(measure_coin, name=name), None, FIVE, REACH if name == BEST_COIN else ())
    for name in COINS
]  # fmt: skip
CURIOUS_RUNS = [
    Measurement(row, name, measure_curious, config, seeds, metrics)
    for row, name, config, seeds, metrics in (
        ("C5", "icm", FULL, FIVE, TIMED),
        ("C5", "frozen_icm", replace(FULL, reward="frozen_icm"), THREE, ()),
        ("C5", "motion", replace(FULL, reward="motion"), THREE, ()),
        ("C5", "shuffled", replace(FULL, reward="shuffled"), THREE, ()),
        ("C5", "whole", replace(FULL, reward="whole"), TWO, ()),
        ("C5", "frozen_whole", replace(FULL, reward="frozen_whole"), ONE, ()),
        ("C5", "none_95", replace(FULL, ends="none"), ONE, ()),
        ("C5", "none_99", replace(FULL, ends="none", discount=0.99), ONE, ()),
        ("C5", "cost_99", replace(FULL, discount=0.99), ONE, ()),
        ("C5", "rate_5e-4", replace(FULL, curiosity_rate=5e-4), ONE, ()),
        ("C6", "game", replace(FULL, reward="game"), THREE, REACH),
        ("C6", "both", replace(FULL, reward="both"), THREE, ()),
        ("C7", "random_features", replace(FULL, reward="random_features"), THREE, REACH),
        ("C7", "rnd", replace(FULL, reward="rnd"), THREE, ()),
        ("C7", "pixels", replace(FULL, reward="pixels"), THREE, ()),
    )
]
OTHER_RUNS = [
    Measurement("C4", "clocks", measure_clocks, None, (1,)),
    Measurement("C4", "speed", measure_speed, None, FIVE, SPEED),
    Measurement("C5", "clips", measure_clips, None, (1,)),
    Measurement("C5", "watching", measure_watching, None, FIVE),
    Measurement("C5", "dqn_icm", measure_dqn, CuriousDQNConfig(), ONE),
]
MEASUREMENTS = COIN_RUNS + CURIOUS_RUNS + OTHER_RUNS
SHOWN = ("C9",)
