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
# # 04 · Multi-agent: from two players to a ring of twenty
#
# <!-- card: Two players who chase each other, and twenty spins with a network each. -->
#
# **What you will build.** What other agents do is an input: this chapter is about that one sentence. You will see what
# happens to two learners who ignore it, and take their failure apart with controls. Then you give an agent the joint
# action of its neighbours, see why nobody can go first, and settle that by taking turns. Twenty spins on a ring follow,
# each with a network of its own, all trained in one batch.
#
# | | |
# |---|---|
# | **You need** | [Chapter 0](ch00_foundations.ipynb): Q-learning, and a network that learns values. |
# | **Time** | Less than a minute for all cells on two cores. |
# | **Memory** | About 1.3 GB. No GPU. |
# | **Budget** | `RLBOOK_BUDGET` is `laptop` unless you set it; the next cell shows it. |
#
# The chapter accompanies chapter 9 of [Zai and Brown (2020)](../book/bibliography.md#zai2020). Its systems are rebuilt
# here from scratch and measured over several seeds; where the printed code goes wrong, you will see the symptom.

# %%
import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from torch.nn import functional as F

from rlbook_utils import plots, results
from rlbook_utils.checkpoint import as_tensors, random_state, restore_random
from rlbook_utils.config import budget, by_budget, check_config, choice, knob
from rlbook_utils.exercises import check
from rlbook_utils.results import Measured, Measurement, Metric
from rlbook_utils.rollout import spread
from rlbook_utils.run import Progress, watch
from rlbook_utils.video import show_clip
from rlbook_utils.widgets import image_slider, panel, scrubber, show

plots.use_style()

# %% tags=["remove-stderr"]
versions = f"torch {torch.__version__} · numpy {np.__version__}"
print(f"budget {budget()} · {results.cores()} cores · {versions}")

# %% [markdown]
# ## Two learners, each a part of the other's world
#
# Q-learning asks what an action is worth, and its answer converges because the question stands still: the world pays
# the same for the same action, today and tomorrow, on average. A second learner ends that. What my action earns depends
# on what the other one does, and the other one is learning.
#
# The smallest such world has no states. In **matching pennies** two players show heads or tails at the same time; the
# first wins if the coins match, the second if they differ. In a **matrix game** like this, player 1's reward is the
# entry $R_1(a_1, a_2)$ of a table. Each player keeps one value per action and treats the other as part of the world,
#
# $$
# Q_i(a_i) \leftarrow Q_i(a_i) + \alpha \big( r_i - Q_i(a_i) \big) ,
# $$
#
# and plays ε-greedily. This is **independent Q-learning** [(Tan, 1993)](../book/bibliography.md#tan1993).

# %%
PENNIES = np.array([[[1, -1], [-1, 1]], [[-1, 1], [1, -1]]], float)  # [player, a_1, a_2]
CLIMBING = np.array([[[11, -30, 0], [-30, 7, 6], [0, 0, 5]]] * 2, float)  # the same for both


# %% tags=["hide-input"]
def draw_matrix(
    axes: Axes, numbers: np.ndarray, written: str, title: str, limit: float, actions: Sequence
) -> None:
    """A game's table as a picture with its numbers."""
    axes.imshow(numbers, cmap="PuOr", vmin=-limit, vmax=limit)
    for (row, column), value in np.ndenumerate(numbers):
        colour = "white" if abs(value) > 0.6 * limit else "#333333"
        axes.annotate(written.format(value), (column, row), ha="center", va="center", color=colour)
    axes.set_xticks(range(len(actions)), actions)
    axes.set_yticks(range(len(actions)), actions)
    axes.set(xlabel="player 2", title=title)
    axes.grid(visible=False)


figure, axes = plt.subplots(figsize=(3.4, 3.2))
draw_matrix(axes, PENNIES[0], "{:+.0f}", "reward of player 1", 2.5, ("heads", "tails"))
axes.set_ylabel("player 1")
wishes = (
    (0.25, -0.25, 0.75, -0.25, 2),  # player 2 moves along a row, player 1 along a column
    (1.25, 0.25, 1.25, 0.75, 1),
    (0.75, 1.25, 0.25, 1.25, 2),
    (-0.25, 0.75, -0.25, 0.25, 1),
)
for x, y, to_x, to_y, player in wishes:
    look = {"arrowstyle": "-|>", "color": "#222222", "linewidth": 1.6}
    axes.annotate("", (to_x, to_y), (x, y), arrowprops=look)
    aside = (x + to_x) / 2 - 0.09 * (player == 1), (y + to_y) / 2 - 0.09 * (player == 2)
    axes.annotate(f"{player}", aside, ha="center", va="center", fontsize=9, color="#222222")
plt.show()

# %% [markdown]
# *Matching pennies, and who wants to be somewhere else. Where the coins match, player 2 turns theirs (arrows marked 2);
# where they differ, player 1 does (1). No cell is without an arrow, so that learning has nowhere to rest.*
#
# What $Q_1$ tries to estimate is the expected reward of an action against the other's *current* policy,
#
# $$
# \bar r_1(a_1) = \sum_{a_2} \pi_2(a_2)\, R_1(a_1, a_2) ,
# $$
#
# and that can be computed at every moment, and watched. Here is one pair, with nothing left out.


# %%
def two_learners(games: int, epsilon: float = 0.1, learning_rate: float = 0.1) -> np.ndarray:
    """Matching pennies: what player 1's actions earn on average, and its values of them. [T, 2, A]."""
    rng, values, seen = np.random.default_rng(1), np.zeros((2, 2)), []  # values: [player, action]
    for game in range(games):
        policies = epsilon / 2 + (1 - epsilon) * np.eye(2)[values.argmax(-1)]
        first, second = (rng.choice(2, p=policy) for policy in policies)
        rewards = PENNIES[:, first, second]
        values[0, first] += learning_rate * (rewards[0] - values[0, first])
        values[1, second] += learning_rate * (rewards[1] - values[1, second])
        seen.append((PENNIES[0] @ policies[1], values[0].copy()))
    return np.array(seen)


# %% tags=["hide-input"]
def draw_drift(
    axes: Axes, expected: np.ndarray, learned: np.ndarray, first: int, title: str
) -> None:
    """Expected rewards (lines) and values (dots) of player 1's two actions, [T, A] each, from game ``first`` on."""
    games = first + np.arange(len(expected))
    for action, name in enumerate(("heads", "tails")):
        colour = plots.COLOURS[action]
        axes.plot(games, expected[:, action], color=colour, label=f"expected reward of {name}")
        axes.plot(games, learned[:, action], ":", color=colour, linewidth=1.6, label="its value")
    axes.set(xlabel="game", ylabel="reward of player 1", ylim=(-1.15, 1.15), title=title)


figure, axes = plt.subplots(figsize=(8.6, 2.6))
chase = two_learners(240)
draw_drift(axes, chase[:, 0], chase[:, 1], 0, "two learners")
axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
plt.show()

# %% [markdown]
# *One pair, from its first game on. Lines: what heads and tails earn player 1 on average against player 2's policy of
# that moment. Dots: the values that player 1 has learned. A few games after player 1 has found the better coin,
# player 2 has found it too and turns away: the values run after a target that is already gone.*
#
# One pair proves nothing, and we shall want controls: a partner who stops learning, and other learners. So here is the
# same again for a hundred pairs at once, with these choices built in. Policies, expected rewards and the update keep
# their form, with an axis for the pairs; what is new is marked.

# %%
GAMES = {"pennies": PENNIES, "climbing": CLIMBING}


@dataclass(frozen=True)
class GameConfig:
    """Two Q-learners in a matrix game, many pairs at once. A partner who "stands still" does so from halfway on."""

    steps: int = knob(1000, 10, 10_000, "games that each pair plays", step=10)
    epsilon: float = knob(0.1, 0.0, 1.0, "chance of a random action")
    learning_rate: float = knob(0.1, 0.01, 1.0, "alpha: how much of an error an update corrects")
    game: str = choice("pennies", GAMES)
    learner: str = choice("independent", ("independent", "optimistic", "joint"))
    partner: str = choice("learns", ("learns", "stands still", "random", "settled"))
    pairs: int = knob(100, 1, 1000, "pairs that play at once, each for itself")

    def __post_init__(self) -> None:
        check_config(self)


# %%
def greedy_policies(values: np.ndarray, epsilon: float) -> np.ndarray:
    """ε-greedy probabilities of actions with these values. [..., A] -> [..., A]."""
    actions = values.shape[-1]
    return epsilon / actions + (1 - epsilon) * np.eye(actions)[values.argmax(-1)]


def expected_rewards(game: np.ndarray, policies: np.ndarray) -> np.ndarray:
    """What each action of player 1 earns on average against player 2's policy. [2, S, A] -> [S, A]."""
    return policies[1] @ game[0].T


def learn_game(
    tables: np.ndarray, actions: np.ndarray, rewards: np.ndarray, config: GameConfig
) -> None:
    """One Q-learning update of both players of every pair, in place. actions, rewards: [2, S]."""
    place = (np.arange(2)[:, None], np.arange(config.pairs), actions)
    if config.learner == "joint":  # new: the other's action is an index too
        place += (actions[::-1],)
    errors = rewards - tables[place]
    if config.learner == "optimistic":  # new: deaf to bad news
        errors = np.maximum(errors, 0)
    tables[place] += config.learning_rate * errors


# %% [markdown]
# One game of a hundred pairs is a handful of array operations. The folded cell after it repeats it and reports. (The
# beliefs, which count what the other has done lately, are for the joint learner.)


# %%
# What a seed's random numbers are for: each use its own.
PLAYING, AGAIN, RINGS, FRESH, SWEEPING, TIES, SETTLED = range(7)


def action_values(tables: np.ndarray, beliefs: np.ndarray) -> np.ndarray:
    """What players think of their own actions, [2, S, A]. A joint table is averaged over ``beliefs`` [2, S, A]."""
    return tables if tables.ndim == 3 else (tables * beliefs[:, :, None]).sum(-1)


def play_once(state: dict, rng: np.random.Generator, config: GameConfig) -> None:
    """One game of every pair, and what both players learn from it."""
    game, tables, beliefs = GAMES[config.game], state["tables"], state["beliefs"]
    policies = greedy_policies(action_values(tables, beliefs), config.epsilon)  # [2, S, A]
    if config.partner == "random":
        policies[1] = 1 / policies.shape[-1]
    elif config.partner == "settled":  # on the first action, but exploring
        policies[1] = greedy_policies(np.eye(policies.shape[-1])[0], config.epsilon)
    elif config.partner == "stands still" and state["step"] >= config.steps // 2:
        policies[1] = state["policies"][1]
    below = policies.cumsum(-1)[..., :-1]
    actions = (rng.random((2, config.pairs, 1)) > below).sum(-1)  # [2, S]
    learn_game(tables, actions, game[:, actions[0], actions[1]], config)
    seen = np.eye(policies.shape[-1])[actions[::-1]]  # the other's action, one-hot
    beliefs += config.learning_rate * (seen - beliefs)
    state |= {"step": state["step"] + 1, "policies": policies}


# %% tags=["hide-input"]
def play_games(config: GameConfig, seed: int, state: dict | None = None) -> Iterator[Progress]:
    """Two learners play and learn. state: {"step", "tables", "beliefs", "policies", "metrics", "random"}."""
    game, rng = GAMES[config.game], np.random.default_rng(spread((PLAYING, seed), 1)[0])
    size = (2, config.pairs, game.shape[1])
    if state:
        restore_random(state["random"], rng)
    else:
        tables = 0.1 * rng.standard_normal(size + size[2:] * (config.learner == "joint"))
        state = {"step": 0, "tables": tables, "beliefs": np.full(size, 1 / size[2])}
    while True:
        if state["step"] < config.steps:
            state = copy.deepcopy(state)  # the one that was yielded stays what it was
            play_once(state, rng, config)
            expected = expected_rewards(game, state["policies"])  # [S, A]
            errors = np.abs(action_values(state["tables"], state["beliefs"])[0] - expected)
            state["metrics"] = {"expected_reward": expected[0, 0], "error": errors.mean()}
            state["random"] = random_state(rng)
        yield Progress(
            state["step"], config.steps, state["metrics"], partial(copy.deepcopy, state), "game"
        )
        if state["step"] >= config.steps:
            return


# %% tags=["hide-input"]
def expected_and_learned(config: GameConfig, seed: int) -> tuple[np.ndarray, np.ndarray, dict]:
    """Player 1's expected rewards and values in every game, [T, S, A] each, and the last state."""
    expected, learned = [], []
    for progress in play_games(config, seed):
        state = progress.state()
        expected.append(expected_rewards(GAMES[config.game], state["policies"]))
        learned.append(action_values(state["tables"], state["beliefs"])[0])
    return np.stack(expected), np.stack(learned), state


# %% tags=["M1"]
pennies = GameConfig()
figure, panels = plt.subplots(1, 2, figsize=(10, 3.0), sharey=True)
for axes, partner in zip(panels, ("learns", "stands still"), strict=True):
    earned, learned, _ = expected_and_learned(replace(pennies, partner=partner), seed=1)
    window = slice(pennies.steps // 2 - 120, pennies.steps // 2 + 120)
    draw_drift(axes, earned[window, 0], learned[window, 0], window.start, f"player 2 {partner}")
panels[1].axvline(pennies.steps // 2, color=plots.INK, linestyle="--", linewidth=1)
panels[1].set_ylabel("")
panels[1].legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
plt.show()

# %% [markdown]
# *One pair of the hundred, 240 games from the middle of a run. Left, both learn. Right, the same pair with the same
# random numbers, but from the dashed line on player 2 stands still, that is, repeats one policy: the expected rewards
# stand still too, and the value of the coin that is played finds its own; the other coin, tried once in twenty games,
# takes longer.*
#
# That is the **drift** which the textbooks mean by *non-stationary*, and the control in which it is gone. Ten runs of a
# hundred pairs each put numbers to it. Beside the independent learners stand *joint* ones, whose tables have the
# other's action as a second index, $Q_1(a_1, a_2)$: the target of such an entry is $R_1(a_1, a_2)$, whoever plays and
# however they learn. To choose, a joint learner averages its table over its beliefs about the other's next action.

# %% tags=["M1"]
figure, (drifts, errors) = plt.subplots(1, 2, figsize=(10, 2.5))
kinds = {"both learn": "learns", "player 2 stands still": "frozen", "both learn, joint": "joint"}
of_pennies = partial(results.metric, "M1", "pennies")
plots.bars(drifts, {label: of_pennies(f"drift_{name}") for label, name in kinds.items()})
drifts.set(xlabel="drift: standard deviation over time\nof an action's expected reward")
kinds |= {"the joint table itself": "table"}
plots.bars(errors, {label: of_pennies(f"error_{name}") for label, name in kinds.items()})
errors.set(xlabel="mean error of the values")
for axes in (drifts, errors):
    axes.set(xlim=(0, 1), ylim=(3.5, -0.5))
plt.show()

# %% [markdown]
# *Second half of each run, mean over a hundred pairs: each of ten seeds, their mean and its 95 % interval. Errors of
# the first three: values of one's own actions against expected rewards; of the last: the table against the rewards of
# pairs of actions.* The drift is as large as ε = 0.1 allows, since the expected rewards swing between 0.9 and −0.9;
# against a policy that repeats it is 0 by definition. The values are wrong by 0.83 with it, and by 0.14 without: by
# 0.10 for the coin that is played, and by 0.09 for both in the last quarter of a run, when the other coin's value has
# arrived too. The joint table has no error to speak of: what an entry stands for, the reward of a *pair* of actions,
# does not move. It cures less than it seems. The table stands still, the values that the player acts on do not:
# averaged over beliefs they are wrong by 0.82, and the drift is 0.90, as between independent learners.
# <!-- held: pennies -->
#
# Move the sliders: how does the chase depend on the learning rate, and what does ε = 1 do to it?

# %%
earned, *_ = expected_and_learned(pennies, seed=1)
figure, axes = plt.subplots(figsize=(7.2, 2.6))
axes.plot(earned[:, 0, 0])
axes.set(xlabel="game", ylabel="expected reward")
preview = plots.to_png(figure)
plt.close(figure)
game_panel = panel(play_games, pennies, metric="expected_reward", preview=preview)

# %% [markdown]
# *Expected reward of heads for the first of the hundred pairs, over a whole run with the default settings.*


# %% tags=["hide-input"]
def drift_picture(**choices: float) -> bytes:
    """The chase of one pair in the middle of a run, with these choices."""
    earned, learned, _ = expected_and_learned(replace(pennies, **choices), seed=1)
    middle = slice(pennies.steps // 2 - 120, pennies.steps // 2 + 120)
    figure, axes = plt.subplots(figsize=(9.2, 2.4), dpi=80)
    draw_drift(axes, earned[middle, 0], learned[middle, 0], middle.start, "")
    axes.set_title(
        ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in choices.items())
    )
    axes.set_ylabel("reward of player 1")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    picture = plots.to_png(figure)
    plt.close(figure)
    return picture


chases = {str(epsilon): drift_picture(epsilon=epsilon) for epsilon in (0.02, 0.1, 0.3, 0.6, 1.0)}
show(image_slider(chases, "exploration ε", start=1), chases["0.1"])
# %% [markdown]
# *The same pair with more and more exploration. The swings shrink, since a policy that explores can move by no more
# than 1 − ε; at ε = 1 the expected rewards stand still at 0, for nobody uses what they learn.*

# %% tags=["hide-input"]
chases = {str(rate): drift_picture(learning_rate=rate) for rate in (0.02, 0.1, 0.5)}
show(image_slider(chases, "learning rate α", start=1), chases["0.1"])

# %% [markdown]
# *The same pair with three learning rates, at ε = 0.1. The chase does not end with a smaller one, it slows down: values
# that take longer to change keep a policy for longer.*
#
# ## When drift is not the whole story
#
# In pennies there is nothing to agree on. In the **climbing game** of
# [Claus and Boutilier (1998)](../book/bibliography.md#claus1998) both players get the same reward, so that they could
# have the best entry, 11, for ever. But whoever tries for it alone gets −30. Three kinds of learners play it, exploring
# with ε = 0.3:
#
# - *independent*, as before;
# - *joint*: a table $Q_i(a_i, a_{-i})$, averaged over what the other has done lately;
# - *optimistic*: independent, but deaf to results below its value, so that a value becomes the best that an action ever
#   brought [(Lauer and Riedmiller, 2000)](../book/bibliography.md#lauer2000).

# %%
RATES, EVERY = (0.2, 0.05, 0.02), 10  # learning rates; a share is stored every tenth game
CLIMBERS = {
    "independent": "independent",
    "joint": "joint, with beliefs",
    "optimistic": "optimistic",
}
figure, panels = plt.subplots(1, 4, figsize=(11, 2.9))
NAMED = ("first", "second", "third")
draw_matrix(panels[0], CLIMBING[0], "{:.0f}", "reward of both", 45, NAMED)
panels[0].set_ylabel("player 1")
for axes, (name, title) in zip(panels[1:], CLIMBERS.items(), strict=True):
    shares = results.curves("M1", "climbing", name).mean(0).reshape(3, 3)
    draw_matrix(axes, shares, "{:.0%}", title, 1.3, NAMED)
for axes in panels:  # the best joint action
    frame = plt.Rectangle((-0.47, -0.47), 0.94, 0.94, fill=False, edgecolor="#222222", linewidth=2)
    axes.add_patch(frame)
plt.show()
alone = results.curves("M1", "climbing", "beside_random").mean(0)
print(
    "independent, beside a partner who plays at random: chooses its actions in",
    *(f"{x:.1%}" for x in alone),
)
known = results.metric("M1", "climbing", "joint_knows").mean()
print(f"joint tables whose largest entry is the best joint action: {known:.1%}")

# %% [markdown]
# *Left the rewards, the best joint action framed. Beside it where the pairs end: shares of a thousand pairs by their
# greedy joint action after 2,000 games. Independent learners miss the best one.*
#
# It is tempting to blame the drift. Two controls say that it is neither needed for this failure nor enough for it. A
# partner who plays at random for ever does not drift at all, and beside it the same learner settles on the third action
# in 97 % of all cases: tried against everything, the first action earns $(11 - 30 + 0)/3 \approx -6.3$. And the
# optimistic learners, each beside a partner who learns as well, all end on the best joint action. (They get there
# because this game has no luck, so that the best result an action ever brought is one that can be had again, and
# because the step is large: after as many games with a learning rate of 0.05 only 69 % are there, with 0.02 36 %. Once
# there, both stay, and the drift is over.) The joint table shows something else again. Each of these learners knows the
# best joint action, and only 3 % of the pairs play it: to know what a joint action is worth is not yet to know what the
# others will do. <!-- held: climbing -->
#
# Nobody plays at random for ever, though. So suppose that the pair is already there: both hold what their actions earn
# beside a partner who has settled on the first one and explores with ε = 0.3. That is 5.8, −22.7 and 0.5 for player 1,
# so that the average itself points the right way. Is player 1 still on the first action later?
# <!-- held: settled_average -->

# %% tags=["M1"]
figure, panels = plt.subplots(1, 3, figsize=(11, 2.6), sharey=True)
sides = {"beside_settled": "partner stays settled", "both_learn": "both learn"}
for axes, rate in zip(panels, RATES, strict=True):
    for name, label in sides.items():
        on_first = results.curves("M1", "settled", f"{name}_{rate}")  # [S, T]
        plots.bands(axes, EVERY * np.arange(1, on_first.shape[1] + 1), on_first, label)
    axes.set(xlabel="game", ylim=(-0.03, 1.03), title=f"learning rate {rate}")
panels[0].set_ylabel("on the first action")
panels[-1].legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()
print("learning rates                             ", *(f"{rate:6}" for rate in RATES))
for name, label in sides.items():
    for what in ("never left", "from scratch"):
        shares = results.curves("M1", "settled", f"{what.replace(' ', '_')}_{name}").mean(0)
        title = "never left it" if what == "never left" else "there, from scratch"
        print(f"{label + ':':23s}{title:20s}", *(f"{share:6.1%}" for share in shares))

# %% [markdown]
# *Share of pairs whose player 1 prefers the first action, every tenth game: ten seeds of a hundred pairs each, their
# mean and its 95 % interval.* Beside a partner who stays settled, 49 % do after 2,000 games at a learning rate of 0.2,
# 92 % at 0.05 and 99.8 % at 0.02. That is no share of pairs that stayed. At 0.2 not one of the thousand did, at 0.05
# 4.5 %, at 0.02 96 %: the others fell off and came back. So the average is not to blame here but the step, which makes
# the value flicker: at 0.2 a single −30 takes that of the first action from 5.8 to −1.4, below that of the third; at
# 0.05 only to 4.0, and it takes several of them soon after one another. <!-- held: settled -->
#
# If both learn from the same start on, 0.1 %, 0.9 % and 95 % are on the first action after 2,000 games. At 0.05 the
# share falls all the way, 93 % after 50 games, 67 % after 200, 9 % after 1,000: those who fall off
# seldom come back. There, then, it is the partner's learning that decides. The same holds from scratch:
# beside the settled partner 48 %, 92 % and 99.7 % are there after 2,000 games; where both learn even the smallest step
# brings only 10 %. <!-- held: both_fall_off -->
#
# Three causes, at this ε, each with the run that lacks it: averaging over a partner who tries everything hides the 11, a
# large step makes its value flicker, and where both learn, most pairs that fall off do not come back.
#
# ### The price of a joint action
#
# A table over all actions of all agents has $|\mathcal{A}|^N$ entries. So does the one-hot vector that tells a network
# which joint action was taken.

# %%
SPACES = {"2 actions (a spin)": 2, "4 actions (a walker)": 4, "21 actions (a soldier)": 21}
figure, axes = plt.subplots(figsize=(8.2, 3.4))
counts = np.arange(1, 26)
for colour, (name, actions) in zip(plots.COLOURS, SPACES.items(), strict=False):
    axes.plot(counts, float(actions) ** counts, color=colour, label=name)
    axes.plot(counts[2:], np.full(23, actions**3), "--", color=colour, linewidth=1.5)
    axes.plot(counts, np.full(25, actions), ":", color=colour, linewidth=1.8)
for line, name in {"-": "all agents", "--": "a neighbourhood of 3", ":": "a mean action"}.items():
    axes.plot([], [], line, color=plots.INK, label=name)
axes.plot(25, 2**25, "o", color=plots.COLOURS[0])
axes.annotate("$2^{25}$ = 33,554,432", (25, 2**18), ha="right", va="top")
axes.set(xlabel="agents", ylabel="joint actions", yscale="log", xlim=(1, 25.4), ylim=(1, 1e12))
axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
print(f"25 spins: {2**25:,}    100 walkers: {4**100:.1e}    3 of those walkers: {4**3}")
for dimension in (1, 2, 3):
    faces, all_around = 2 * dimension, 3**dimension - 1
    print(f"lattice in {dimension} dimensions: {faces} faces, joint action of {2**faces:,}; "
          f"{all_around} around, {2**all_around:,}")  # fmt: skip

# %% [markdown]
# *The number of joint actions against the number of agents, on a logarithmic axis, for agents with 2, 4 and 21 actions.
# Solid, all agents at once (walkers and soldiers soon leave the picture); dashed, a neighbourhood of three; dotted, the
# mean of the neighbours' actions, which is as long as one action however many there are.*
#
# Two ways out are in the picture. The first is to look at neighbours only. (The source speaks of $2^6$ neighbours on a
# cubic lattice, and then of $2^{26}$ joint actions. A cell has six neighbours that share a face, and $3^3 - 1 = 26$
# around it; the first make $2^6 = 64$ joint actions and the second $2^{26} = 67{,}108{,}864$.) The second way, the
# mean, is for the [next notebook](ch04b_mean_field.ipynb).
#
# ## Neighbourhood Q-learning
#
# An agent whose reward depends on few others needs the actions of those few. Its value function is
# $Q_j(a_j, \boldsymbol{a}_{-j})$, where $\boldsymbol{a}_{-j}$ is the **joint action** of its $k$ neighbours, a one-hot
# vector with one place for every combination. It is the outer product of the neighbours' own one-hot vectors,
# flattened:
#
# $$
# \boldsymbol{a}_{-j} = \mathrm{vec}\big( \boldsymbol{a}_1 \otimes \boldsymbol{a}_2 \otimes \dots \otimes \boldsymbol{a}_k \big)
# \in \{0, 1\}^{|\mathcal{A}|^k} .
# $$


# %%
@cache
def identity(size: int, device: torch.device) -> torch.Tensor:
    return torch.eye(size, device=device)


def one_hot(actions: torch.Tensor, count: int = 2) -> torch.Tensor:
    """[...] -> [..., A]."""
    return identity(count, actions.device)[actions]


def joint_action(one_hots: torch.Tensor) -> torch.Tensor:
    """The outer product of k neighbours' one-hot actions, flattened; the last changes fastest. [..., k, A] -> [..., A**k]."""
    first, *others = one_hots.unbind(-2)
    for other in others:
        first = (first[..., :, None] * other[..., None, :]).flatten(-2)
    return first


# %% tags=["hide-input"]
def draw_cells(axes: Axes, values: np.ndarray, x: float, y: float, title: str) -> None:
    """A small matrix as squares with their numbers, its upper left corner at (x, y), y downwards."""
    for (row, column), value in np.ndenumerate(values):
        pale = "#F2F2F2" if value == 0 else plots.COLOURS[0] if value == 1 else "#9CC4E0"
        axes.add_patch(plt.Rectangle((x + column, y + row), 0.94, 0.94, facecolor=pale))
        colour = "white" if value == 1 else "#333333"
        where = (x + column + 0.47, y + row + 0.47)
        axes.annotate(f"{value:g}", where, ha="center", va="center", fontsize=8, color=colour)
    axes.annotate(title, (x, y - 0.25), fontsize=9)


# %% tags=["M2"]
right, down = one_hot(torch.tensor([3, 1]), 4)  # of left, down, up, right
outer = (right[:, None] * down[None]).numpy()
flat = joint_action(torch.stack([right, down]))
figure, axes = plt.subplots(figsize=(10.5, 3.2))
draw_cells(axes, right.numpy()[:, None], 0, 0, "$a_1$")
draw_cells(axes, down.numpy()[None], 1.8, 5.2, "$a_2$")
draw_cells(axes, outer, 1.8, 0, "outer product $a_1 \\otimes a_2$")
draw_cells(axes, flat.numpy()[None], 7.5, 1, "joint action: the product's rows, one after another")
draw_cells(axes, ((right + down) / 2).numpy()[None], 7.5, 5.2, "mean action $(a_1 + a_2) / 2$")
axes.set(xlim=(-0.2, 23.6), ylim=(6.4, -0.9), aspect="equal")
axes.axis("off")
plt.show()
print("place of the one:", int(flat.argmax()), "= 3 · 4 + 1")

# %% [markdown]
# *Two walkers with four actions, one going right, one going down. The joint action has a place for each of the sixteen
# combinations and keeps who does what. The mean action has four places whatever the number of walkers, and forgets
# who.*
#
# ### Who goes first?
#
# Now a difficulty that a single learner never has. To choose, I need my neighbours' actions. They need mine. The way
# out is to begin with any actions at all and to let everybody choose again and again, a **sweep** at a time, each
# answering what the neighbours did last. Does that come to rest?
#
# The example is a ring of spins, $s_i \in \{-1, +1\}$. Action 1 is *up*, action 0 is *down*, and the source pays each
# agent for agreeing with its two neighbours:
#
# $$
# r_i = 2\, \big( -1 + 0.9 \cdot \#\{ \text{neighbours with the same spin} \} \big) \in \{ -2,\; -0.2,\; 1.6 \} .
# $$


# %%
SPINS = torch.tensor([-1, 1], dtype=torch.int8)  # of actions 0 and 1


def as_spins(actions: torch.Tensor) -> torch.Tensor:
    """Actions 0 and 1 as spins -1 and +1, in one byte each."""
    return SPINS.to(actions.device)[actions]


def as_actions(spins: torch.Tensor) -> torch.Tensor:
    """Spins -1 and +1 as actions 0 and 1."""
    return (spins > 0).long()


@cache
def ring(agents: int, reach: int = 1) -> torch.Tensor:
    """The numbers of everybody's neighbours, from left to right: [N, 2 * reach]."""
    steps = torch.tensor([step for step in range(-reach, reach + 1) if step])
    return (torch.arange(agents)[:, None] + steps) % agents


def neighbours_action(spins: torch.Tensor) -> torch.Tensor:
    """The joint action of everybody's neighbours on a ring. [S, N] -> [S, N, 4]."""
    return joint_action(one_hot(as_actions(spins)[:, ring(spins.shape[-1])]))


# %%
# NBVAL_CHECK_OUTPUT
JOINTS = torch.tensor(list(product((0, 1), repeat=2)))  # as joint_action counts them: [4, k]
EQUAL = torch.stack([JOINTS.eq(action).sum(-1) for action in (0, 1)], -1)  # [4, A]
REWARDS = 2 * (-1 + 0.9 * EQUAL)  # of both actions, for every joint action of the neighbours
for neighbours, (down, up) in zip(JOINTS.tolist(), REWARDS.tolist(), strict=True):
    print(f"neighbours {neighbours}: down earns {down:4.1f}, up {up:4.1f}")

# %% [markdown]
# Suppose that all agents know these values. Their greedy policy is then a short table: what to do for each of the four
# joint actions of the neighbours. Where the neighbours agree, follow them. Where they differ both actions earn −0.2,
# and a learned value is never exact: whatever tiny error it has decides. So we give every agent the true values plus an
# error of about a thousandth, drawn once.
#
# A sweep is then a list of groups. The members of a group act at the same time, each group sees what the groups before
# it did.


# %%
def exact_policies(starts: int, agents: int, generator: torch.Generator) -> torch.Tensor:
    """Greedy spins for every joint action of the neighbours, from the true values plus tiny errors: [S, N, 4]."""
    errors = 0.001 * torch.randn(starts, agents, 4, 2, generator=generator)
    return as_spins((REWARDS + errors).argmax(-1))


def respond(policies: torch.Tensor, spins: torch.Tensor) -> torch.Tensor:
    """Everybody's answer to their neighbours. [S, N, 4], [S, N] -> [S, N]."""
    return (policies * neighbours_action(spins)).sum(-1).to(torch.int8)


def sweep(policies: torch.Tensor, spins: torch.Tensor, groups: Sequence[slice]) -> torch.Tensor:
    """Everybody answers once, group after group. [S, N] -> [S, N]."""
    spins = spins.clone()
    for group in groups:
        spins[:, group] = respond(policies, spins)[:, group]
    return spins


# %%
def check_even(agents: int) -> None:
    if agents % 2:
        raise ValueError(
            f"On a ring of {agents} two even agents are neighbours; taking turns needs an even number."
        )


def orders(agents: int) -> dict[str, list[slice]]:
    """The groups of a sweep, for three orders."""
    check_even(agents)
    return {
        "all at once": [slice(None)],
        "evens, then odds": [slice(0, None, 2), slice(1, None, 2)],
        "one after another": [slice(i, i + 1) for i in range(agents)],
    }


def random_spins(starts: int, agents: int, generator: torch.Generator) -> torch.Tensor:
    """Coins. [S, N]."""
    return as_spins(torch.randint(2, (starts, agents), generator=generator))


def sweeps(
    policies: torch.Tensor, spins: torch.Tensor, groups: Sequence[slice], count: int
) -> torch.Tensor:
    """The ring before and after each of ``count`` sweeps: [count + 1, S, N]."""
    seen = [spins]
    for _ in range(count):
        seen.append(sweep(policies, seen[-1], groups))
    return torch.stack(seen)


# %% tags=["hide-input"]
SPIN_COLOURS = ListedColormap(["#A9B4BE", "#76767622", plots.COLOURS[0]])  # down, not shown, up


def draw_history(axes: Axes, history: torch.Tensor, title: str) -> None:
    """A ring through time, [T, N], time downwards; 0 is not shown."""
    axes.imshow(history, cmap=SPIN_COLOURS, vmin=-1, vmax=1, aspect="auto", interpolation="none")
    axes.set(xlabel="agent", xticks=range(0, history.shape[1], 5), title=title)
    axes.spines[:].set_visible(True)
    axes.grid(visible=False)


# %%
generator = torch.Generator().manual_seed(12)
policies, spins = exact_policies(1, 20, generator), random_spins(1, 20, generator)
blinking = sweeps(policies, spins, orders(20)["all at once"], 20)[:, 0]  # [T, N]
settled = sweeps(policies, spins, orders(20)["evens, then odds"], 20)[:, 0]
own = (torch.arange(21)[:, None] + torch.arange(20)) % 2 == 0
figure, panels = plt.subplots(1, 4, figsize=(11, 3.0), sharey=True)
draw_history(panels[0], blinking, "all at once")
draw_history(panels[1], blinking * own, "one half of it")
draw_history(panels[2], blinking * ~own, "the other half")
draw_history(panels[3], settled, "evens, then odds")
panels[0].set_ylabel("sweep")
plt.show()

# %% [markdown]
# *Twenty agents from left to right, time downwards; blue is up, grey down. First picture: everybody answers at once,
# and the ring blinks for ever, with period two. The next two show why. An even agent answers odd ones, which have
# answered even ones: the cells of the first picture fall into two histories, like the colours of a chessboard, that
# never hear of each other. Each comes to rest, at a different pattern, and the ring shows them in turn. Last picture:
# the same start, with evens and odds in turn.*
#
# One start proves nothing. Here are two thousand, two hundred for each of ten seeds.

# %%
figure, axes = plt.subplots(figsize=(7.2, 3.0))
for name in (*orders(20), "all at once, ties stay"):
    changed = results.curves("M2", "sweeps", name)  # [S, T]
    plots.bands(axes, np.arange(1, changed.shape[1] + 1), changed, name)
axes.set(xlabel="sweep", ylabel="share of agents that change", xlim=(1, 12), ylim=(0, 0.55))
axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()
for name in ("blinking", "settled_in_halves", "settled_in_turn", "settled_ties_stay"):
    share = results.metric("M2", "sweeps", name).mean()
    print(f"{name.replace('_', ' ')}: {share:.1%} of the starts")

# %% [markdown]
# *Share of agents that change their action in a sweep: each of ten seeds, their mean and its 95 % interval.* In turn,
# all starts come to rest, evens and odds within a handful of sweeps, agents one after another soon after. All at once,
# two agents in five change for ever: 94 % of the starts end with period two. <!-- held: sweeps_settle -->
#
# So both orders in turn settled every start that we tried. No theorem says so for any policy: let everybody copy the
# right neighbour where the two differ, which pays as much as anything, and one domain walks round the ring for ever, in
# any of the three orders. Nor does blinking come from the clock alone. Agents who keep their own spin in a tie, the last
# line of the figure, come to rest although all answer at once, unless up and down alternate all the way round; what
# blinks is the clock together with a tie that a fixed error breaks. A random policy is no cure: as long as all answer at
# once and look at nobody but their neighbours, the two histories of an even ring stay apart whatever the policy.
# <!-- held: ties_decide -->
#
# The source makes three to five sweeps and trusts that they dilute the random start. Three sweeps, half at a time, are
# enough to come to rest in 98 % of the starts, but rest is not forgetting. The end remains a function of the start: 61 %
# of the spins are what they were at the beginning, and to flip one odd agent there changes the end in 48 % of the starts.
# (The start of an even agent does not count: it answers before anybody has looked at it.) Half at a time takes two array
# operations where all at once takes one. The lattices of the [next notebook](ch04b_mean_field.ipynb) will use the same
# two colours. <!-- held: start_decides -->
#
# ### Spot the bug: a copy that is none
#
# ```python
# new = old                                   # "the grid of the next moment"
# for i in range(agents):
#     new[i] = answer(old, i)                 # looks at old, writes to new
# ```
#
# `new` is another name of the same array. The source keeps two grids, and copies one to the other by
# `grid.data = grid_.data`: from then on they share their memory. What was meant as all at once happens one after
# another, in the order of the numbers. Nothing fails; as we have just seen, this order even helps a ring to settle. The
# symptom is news that travels too fast. Flip one agent, sweep once, and see who answers differently.


# %%
def sweep_by_number(policies: torch.Tensor, old: torch.Tensor, copied: bool) -> torch.Tensor:
    """Agent by agent, as in the box above; with ``copied`` the old ring stays what it was."""
    old = old.clone()  # the caller's stays as it is in any case
    new = old.clone() if copied else old
    for i in range(old.shape[1]):
        new[:, i] = respond(policies, old)[:, i]
    return new


def news(copied: bool, starts: int, agents: int = 20) -> torch.Tensor:
    """Share of starts in which an agent answers differently because agent ``agents // 2`` was flipped: [N]."""
    generator = torch.Generator().manual_seed(0)
    policies, spins = (
        exact_policies(starts, agents, generator),
        random_spins(starts, agents, generator),
    )
    flipped = spins.clone()
    flipped[:, agents // 2] *= -1
    answers = [sweep_by_number(policies, start, copied) for start in (spins, flipped)]
    return (answers[0] != answers[1]).float().mean(0)


# %%
figure, panels = plt.subplots(1, 2, figsize=(10, 2.4), sharey=True)
titles = {True: "two arrays: all at once", False: "two names of one array"}
for axes, (copied, title) in zip(panels, titles.items(), strict=True):
    share = news(copied, starts=by_budget(smoke=200, laptop=2000))
    axes.bar(np.arange(20) - 10, share, color=plots.COLOURS[0 if copied else 1])
    axes.set(xlabel="distance from the flipped agent", xticks=range(-10, 10, 2), title=title)
panels[0].set_ylabel("answers differently\n(share of starts)")
plt.show()

# %% [markdown]
# *After one sweep, share of 2,000 starts in which an agent's action depends on the flip. With two arrays news goes one
# place, to both sides. With one array it runs on to the right, the way the numbers run, and an agent's position in the
# loop has become part of the physics.*

# %% [markdown]
# ## A ring of networks
#
# Now the values are learned. In the one-dimensional model of [Ising (1925)](../book/bibliography.md#ising1925) each
# electron's spin feels its two neighbours, and energy is saved where they agree; the reward above is that energy with
# its sign turned, up to a factor and a constant. The source gives each of twenty spins *a network of its own*: the
# joint action of its neighbours goes in, four numbers; 20 hidden units (ELU, with a bias that is fixed at 1); two
# values come out, of *down* and *up*, squashed by a tanh. An agent acts greedily, and the value of the chosen action
# moves toward the reward, by plain gradient descent:
#
# $$
# L_j = \big( Q_j(a_j, \boldsymbol{a}_{-j}) - r_j \big)^2 , \qquad a_j = \arg\max_a Q_j(a, \boldsymbol{a}_{-j}) .
# $$
#
# There is no next state to bootstrap from.

# %% tags=["hide-input"]
figure, (circle, network) = plt.subplots(1, 2, figsize=(9, 3.2), width_ratios=(1, 1.6))
angles = 2 * np.pi * np.arange(21) / 20  # the last is the first again: a ring is closed
colours = [plots.COLOURS[1] if i in (19, 1) else plots.COLOURS[0] if i == 0 else "#A9B4BE" for i in range(20)]  # fmt: skip
circle.plot(np.sin(angles), np.cos(angles), color=plots.INK, linewidth=0.8, zorder=0)
circle.scatter(np.sin(angles[:20]), np.cos(angles[:20]), s=130, c=colours, edgecolors=plots.INK)
circle.annotate("agent $j$\nand its two\nneighbours", (0, 0), ha="center", va="center")
circle.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), aspect="equal")
layers = {0: np.linspace(-0.6, 0.6, 4), 1: np.linspace(-1, 1, 9), 2: np.array([-0.3, 0.3])}
for column in (0, 1):
    for one, other in product(layers[column], layers[column + 1]):
        network.plot((column, column + 1), (one, other), color=plots.INK, linewidth=0.4, zorder=0)
for column, heights in layers.items():
    colour = plots.COLOURS[(1, 6, 0)[column]]
    network.scatter(np.full(len(heights), column), heights, s=90, color=colour)
for height, text in zip(layers[0], ("up, up", "up, down", "down, up", "down, down"), strict=True):
    network.annotate(text, (-0.12, height), ha="right", va="center")
for height, text in zip(layers[2], ("value of down", "value of up"), strict=True):
    network.annotate(text, (2.12, height), va="center")
network.annotate("20 hidden units (9 drawn)", (1, 1.12), ha="center")
network.set(xlim=(-0.8, 2.9), ylim=(-1.15, 1.3))
for axes in (circle, network):
    axes.axis("off")
plt.show()

# %% [markdown]
# *Left the ring: agent j (blue) sees its two neighbours (orange) and nobody else. Right its network: one of four inputs
# is 1, the joint action of the neighbours, left one first. Each of the twenty agents has such a network to itself.*
#
# Twenty networks need no loop: their weights are two arrays with an axis for the agents, and another for as many rings
# as we like. The loss is *summed*, so that the gradient of each network is that of its own loss; a mean would divide
# every agent's step by their number.


# %%
@dataclass(frozen=True)
class RingConfig:
    """A ring of spins, a network each, with the source's settings; in_turn: evens move in one epoch, odds in the next.

    fresh: every epoch begins with a ring of coins. blind: all networks see the same input, whatever their neighbours do.
    """

    epochs: int = knob(200, 1, 2000, "times that every agent acts and learns")
    learning_rate: float = knob(0.001, 0.0, 0.1, "step size of gradient descent", step=0.001)
    agents: int = knob(20, 4, 200, "spins on the ring", step=2)
    output: str = choice("tanh", ("tanh", "linear"))
    in_turn: bool = True
    fresh: bool = False
    blind: bool = False
    hidden: int = knob(20, 1, 200, "hidden units of each network")
    rings: int = knob(1, 1, 1000, "rings that are trained at once, each for itself")

    def __post_init__(self) -> None:
        check_config(self)
        if self.in_turn:
            check_even(self.agents)


# %%
def ring_values(joint: torch.Tensor, weights: list[torch.Tensor], output: str) -> torch.Tensor:
    """Every agent's values of both actions. [S, N, 4] -> [S, N, A]."""
    first, second = weights  # [S, N, 4, H], [S, N, H, A]
    hidden = F.elu((joint[..., None] * first).sum(-2) + 1)  # [S, N, H]
    values = (hidden[..., None] * second).sum(-2)
    return values.tanh() if output == "tanh" else values


def ring_slopes(
    weights: list[torch.Tensor], spins: torch.Tensor, config: RingConfig
) -> tuple[Sequence[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Every agent acts and is paid: the gradients of all losses, the actions as spins, and the losses, [S, N]."""
    joint = neighbours_action(spins)
    seen = identity(4, spins.device)[0].expand_as(joint) if config.blind else joint
    values = ring_values(seen, weights, config.output)  # [S, N, A]
    losses = (values - joint @ REWARDS.to(spins.device)).square()
    actions = values.argmax(-1)
    chosen = one_hot(actions)  # the other action was not tried: no loss
    slopes = torch.autograd.grad(losses, weights, chosen)  # of the sum of chosen * losses
    return slopes, as_spins(actions), (chosen * losses.detach()).sum(-1)


@torch.no_grad()
def descend(weights: list[torch.Tensor], slopes: Sequence[torch.Tensor], rate: float) -> None:
    """One step of plain gradient descent, in place."""
    for weight, slope in zip(weights, slopes, strict=True):
        weight.sub_(slope, alpha=rate)


# %% [markdown]
# Within an epoch all agents look at the same ring, act and learn. Then the ring changes, and we know better than to
# change it all at once: the even agents move in one epoch, the odd ones in the next.


# %% tags=["hide-input"]
def make_rings(
    config: RingConfig, seed: int, device: str = "cpu"
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Weights and spins at the start; every ring has its own random numbers."""
    made, hidden = [], config.hidden
    for ring_seed in spread((RINGS, seed), config.rings):
        generator = torch.Generator().manual_seed(ring_seed)
        shapes = (config.agents, 4, hidden), (config.agents, hidden, 2)
        weights = [torch.randn(shape, generator=generator) / 10 for shape in shapes]
        made.append((*weights, random_spins(1, config.agents, generator)[0]))
    first, second, spins = (torch.stack(column).to(device) for column in zip(*made, strict=True))
    return [first.requires_grad_(), second.requires_grad_()], spins


# %%
@cache
def halves(agents: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Who is even, and who is odd: [N] each."""
    even = torch.arange(agents, device=device) % 2 == 0
    return even, ~even


def take_turns(spins: torch.Tensor, moves: torch.Tensor, epoch: int) -> torch.Tensor:
    """The even agents move in even epochs, the odd ones in odd epochs. [S, N], [S, N] -> [S, N]."""
    return torch.where(halves(spins.shape[-1], spins.device)[epoch % 2], moves, spins)


# %%
def best_responses(spins: torch.Tensor) -> torch.Tensor:
    """Whether each agent's action pays at least as much as the other one would; ties count for both. [S, N]."""
    rewards = neighbours_action(spins) @ REWARDS.to(spins.device)  # [S, N, A]
    return (rewards * one_hot(as_actions(spins))).sum(-1) >= rewards.amax(-1)


def domains(spins: torch.Tensor) -> torch.Tensor:
    """Stretches of equal spins on a ring, at least one. [..., N] -> [...]."""
    return (spins != spins.roll(1, -1)).sum(-1).clamp(min=1)


def ring_metrics(spins: torch.Tensor, losses: torch.Tensor) -> dict[str, float]:
    """Means over rings and agents."""
    best = best_responses(spins).float().mean().item()
    return {
        "loss": losses.mean().item(),
        "best_response": best,
        "domains": domains(spins).float().mean().item(),
    }


# %%
def train_ring(
    config: RingConfig, seed: int, state: dict | None = None, device: str = "cpu"
) -> Iterator[Progress]:
    """Rings of agents with a network each (Zai and Brown 2020, listings 9.3 to 9.8).

    state: {"epoch", "weights", "spins", "losses", "metrics", "random"}.
    """
    weights, spins = make_rings(config, seed, device)
    generator = torch.Generator().manual_seed(spread((FRESH, seed), 1)[0])
    state = state or {"epoch": 0}
    if state["epoch"]:
        weights = [weight.to(device).requires_grad_() for weight in as_tensors(state["weights"])]
        spins = as_tensors(state["spins"]).to(device)
        generator.set_state(as_tensors(state["random"]))
    while True:
        if state["epoch"] < config.epochs:
            if config.fresh:
                spins = random_spins(config.rings, config.agents, generator).to(device)
            slopes, moves, losses = ring_slopes(weights, spins, config)
            descend(weights, slopes, config.learning_rate)
            spins = take_turns(spins, moves, state["epoch"]) if config.in_turn else moves
            state = {"epoch": state["epoch"] + 1, "spins": spins, "losses": losses,
                     "weights": [weight.detach().clone() for weight in weights],
                     "random": generator.get_state(), "metrics": ring_metrics(spins, losses)}  # fmt: skip
        yield Progress(
            state["epoch"], config.epochs, state["metrics"], partial(dict, state), "epoch"
        )
        if state["epoch"] >= config.epochs:
            return


# %% tags=["hide-input"]
def remember(progresses: Iterator[Progress], states: list[dict]) -> Iterator[Progress]:
    """Pass a run on and keep its states, the weights of the last one only: a run that is stopped leaves what it had."""
    for progress in progresses:
        if states:
            del states[-1]["weights"]
        states.append(progress.state())
        yield progress


def unrolled(
    config: RingConfig, seed: int, states: list[dict]
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Spins before and after every epoch [T + 1, S, N], losses [T, S, N], and the weights at the end."""
    spins = [make_rings(config, seed)[1], *(state["spins"] for state in states)]
    losses = torch.stack([state["losses"] for state in states])
    return torch.stack(spins), losses, states[-1]["weights"]


def ring_history(
    config: RingConfig, seed: int
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """``unrolled`` for a run that nobody watches."""
    states = []
    for _ in remember(train_ring(config, seed), states):
        pass
    return unrolled(config, seed, states)


# %% tags=["M3"]
ring_config = by_budget(smoke=RingConfig(epochs=60, rings=20), laptop=RingConfig(rings=20))
states = []
ring_run = watch(
    remember(train_ring(ring_config, seed=1), states),
    "best_response",
    floor=1.0,
    floor_label="always up",
)
history, losses, weights = unrolled(ring_config, 1, states)
found = best_responses(history[-1])
print(
    f"20 rings trained in {ring_run.seconds:.1f} s: {found.all(-1).sum()} have every agent on a best response"
)

# %% [markdown]
# *Share of agents whose action is a best response to their neighbours', that is, pays at least as much as the other
# action would, over twenty rings, live. Coins give 0.75. The dotted line is the floor: spins that are always up have
# learned nothing, and are all on a best response. Four hundred networks learn at once.*

# %%
figure, (curves, picture) = plt.subplots(1, 2, figsize=(10, 3.4), width_ratios=(1.3, 1))
ended = history[-1, 0]
inside = ended.roll(1) == ended.roll(-1)  # whose neighbours agree at the end: [N]
for agent in range(ring_config.agents):
    colour = plots.COLOURS[0] if inside[agent] else plots.COLOURS[1]
    curves.plot(losses[:, 0, agent], color=colour, linewidth=1, alpha=0.8)
for colour, name in zip(plots.COLOURS, ("inside a domain", "at a border"), strict=False):
    curves.plot([], [], color=colour, label=f"agent that ends {name}")
for reward, line in ((1.6, ":"), (-2, "--")):
    least = (abs(reward) - 1) ** 2
    curves.axhline(least, color=plots.INK, linestyle=line, label=f"least for a reward of {reward}")
stubborn = int((~best_responses(history[:, 0])).sum(0).argmax())  # misplaced for the most epochs
leap = losses[10:, 0, stubborn].argmax().item() + 11
curves.annotate(f"agent {stubborn}", (leap + 37, 4.9))
curves.set(xlabel="epoch", ylabel="squared error of each agent", ylim=(-0.3, 9.5))
curves.legend(fontsize=8, loc="upper right")
draw_history(picture, history[:, 0], f"the ring: {domains(history[-1, 0])} domains at the end")
picture.set_ylabel("epoch")
plt.show()

# %% [markdown]
# *The first ring. Left, the losses of all its twenty agents. A network whose chosen action pays 1.6 cannot get below
# the dotted line, because a tanh ends at 1: the plateau of the source's figure is made by its output. Agents at a
# border between two domains (orange) earn −0.2, which a tanh can say; most are down at 0. Right, the ring itself, time
# downwards: the spins soon gather in domains. Both actions of a border agent are worth the same; when it changes its
# mind, late in the run perhaps, the losses around it leap. Agent 5 holds out longest against two neighbours who differ
# from it, for a reward of −2 (dashed: the least loss of that). When it turns at last, its error leaps and stays high
# for thirty epochs (but for two in which a neighbour turned away): it had valued its new action at nearly −1, and there
# a tanh is so flat that gradient descent hardly moves it.* <!-- held: live_ring -->


# %% tags=["hide-input"]
def ring_picture(epoch: int) -> bytes:
    """The first ring as a ring: who is up, and, by an orange edge, who is not on a best response."""
    figure, axes = plt.subplots(figsize=(3.4, 3.4), dpi=80)
    angles = 2 * np.pi * np.arange(ring_config.agents + 1) / ring_config.agents  # closed
    misplaced = ~best_responses(history[epoch])[0].numpy()
    colours = SPIN_COLOURS((history[epoch, 0].numpy() + 1) / 2)
    edges = np.where(misplaced, plots.COLOURS[1], plots.INK)
    places = np.sin(angles), np.cos(angles)
    axes.plot(*places, color=plots.INK, linewidth=0.8, zorder=0)
    axes.scatter(
        places[0][:-1],
        places[1][:-1],
        s=260,
        c=colours,
        edgecolors=edges,
        linewidths=1 + 2 * misplaced,
    )
    axes.annotate(f"epoch {epoch}", (0, 0), ha="center", va="center", color=plots.INK)
    axes.set(xlim=(-1.25, 1.25), ylim=(-1.25, 1.25), aspect="equal")
    axes.axis("off")
    picture = plots.to_png(figure)
    plt.close(figure)
    return picture


few = {*range(12), *range(12, 40, 4), *range(40, 201, 20), *range(88, 97), *range(140, 157, 2)}
epochs_shown = [epoch for epoch in sorted(few) if epoch < len(history)]
ring_pictures = [ring_picture(epoch) for epoch in epochs_shown]
show(scrubber(ring_pictures, "picture", interval=400), ring_pictures[0])

# %% [markdown]
# *The same ring, drawn as one; blue is up. A thick orange edge marks an agent whose other action would pay more: its
# neighbours agree and it does not. The epochs are shown singly where much happens. Step through them, then look for the
# agent that holds out longest.*

# %%
figure, axes = plt.subplots(figsize=(7.2, 3.4))
ended = history[-1][domains(history[-1]).argsort(stable=True)]
draw_history(axes, ended, f"twenty rings after {len(losses)} epochs")
axes.set_yticks(range(len(ended)), [f"{count}" for count in domains(ended)], fontsize=7)
axes.set_ylabel("domains")
plt.show()

# %% [markdown]
# *The twenty rings at the end, sorted by their number of domains, which stands at the left. A ring has an even number
# of them, or one. A domain ends where an agent has two different neighbours and likes them equally well, so that nobody
# has a reason to move.*

# %% tags=["hide-input"]
frames = (255 * SPIN_COLOURS(history.numpy() / 2 + 0.5)[..., :3]).astype(np.uint8)  # [T, S, N, 3]
show_clip([np.kron(frame, np.ones((14, 14, 1), np.uint8)) for frame in frames[:121]], 12,
          "Twenty rings, a row each, epoch by epoch; blue is up.")  # fmt: skip

# %% [markdown]
# *Most of it is over within two dozen epochs. After that a border moves now and then.* <!-- held: two_dozen -->
#
# ### The floor
#
# Twenty networks have found domains. Did it take networks? The strongest policy of all looks at nobody: if every spin
# goes up, always, each earns 1.6. Among those that favour no direction, the strongest that learn nothing follow the
# majority of the two neighbours, and break a tie by a coin or by staying as they are.

# %%
RULES = {
    "always_up": "always up",
    "stay": "stay",
    "copy_left": "copy the left neighbour",
    "ties_stay": "majority, ties stay",
    "ties_by_coin": "majority, ties by coin",
}


def rule_moves(rule: str, spins: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """What agents do by a rule that needs no learning. [S, N] -> [S, N]."""
    left, right = spins[:, ring(spins.shape[-1])].unbind(-1)
    match rule:
        case "always_up":
            return torch.ones_like(spins)
        case "stay":
            return spins
        case "copy_left":
            return left
        case "ties_stay":
            return torch.where(left == right, left, spins)
        case "ties_by_coin":
            return torch.where(left == right, left, random_spins(*spins.shape, generator))
    raise ValueError(f"The rule is {rule!r}; it has to be one of {', '.join(RULES)}.")


# %%
figure, panels = plt.subplots(1, 2, figsize=(10, 4.0))
networks = {
    "networks, untrained": "untrained",
    "trained, 200 epochs": "ring",
    "the same, all at once": "at_once",
    "trained, blind": "blind",
    "trained, 2,000 epochs": "long",
}
for axes, metric in zip(panels, ("reward", "domains"), strict=True):
    shown = {
        label: results.metric("M3", "rules", f"{metric}_{rule}") for rule, label in RULES.items()
    }
    shown |= {label: results.metric("M3", name, metric) for label, name in networks.items()}
    plots.bars(axes, shown)
    for row, bar in enumerate(axes.patches):  # rules, and networks
        bar.set_facecolor(plots.COLOURS[0 if row < len(RULES) else 1])
panels[1].set_yticklabels([])
panels[0].set(xlabel="mean reward at the end (largest possible: 1.6)", xlim=(-0.8, 1.65))
panels[1].set(xlabel="domains at the end")
plt.show()

# %% [markdown]
# *At the end, after 200 epochs where nothing else is said, rules blue and networks orange: each of twenty seeds
# (the mean of its 25 rings), their mean and its 95 % interval.* After 200 epochs 99.96 % of the agents are on a best
# response, in 3.0 domains a ring. From the same starts the majority rule with ties that stay ends in 3.7, the networks
# in 0.72 ± 0.17 (95 %) fewer, and after 2,000 epochs in 1.22 ± 0.16 fewer: the rule is at rest while the networks'
# borders now and then still move, and vanish where they meet. With a coin for ties they wander until nearly all have; of
# the networks' rings 6 % get that far in 200 epochs. Untrained networks stay where coins would be. All at once the
# networks end in 2.9 domains, 99.93 % of them on a best response; the blinking that exact values would have brought is
# missing, and that is a clue. <!-- held: ring_and_floor -->
#
# Here is another one. The *blind* networks are a control for the sentence with which this chapter begins: they are paid
# as before, but all see one and the same input, whatever their neighbours do. They end in 3.0 domains too (−0.05 ± 0.13
# against those that see), with 99.96 % on a best response. The ring would look the same if the input did nothing.
# <!-- held: blind -->
#
# The source's losses level off by about epoch 30. Here the mean loss is 0.65 after 30 epochs and goes on falling, to
# 0.33 after 200. <!-- held: settling -->
#
# ### What did they learn?
#
# It looks as if the spins had learned to align. One can ask them: there are four questions that a network can be asked,
# and here are all the answers.


# %%
def learned_policies(weights: list[torch.Tensor], output: str) -> torch.Tensor:
    """Every agent's greedy spin for every joint action of its neighbours: [S, N, 4], as in ``exact_policies``."""
    shape = weights[0].shape[:3]
    values = [
        ring_values(joint.expand(shape), weights, output)
        for joint in identity(4, weights[0].device)
    ]
    return torch.stack([as_spins(value.argmax(-1)) for value in values], -1)


def follows(policies: torch.Tensor) -> torch.Tensor:
    """Whether an agent follows neighbours that agree, in both directions. [S, N, 4] -> [S, N]."""
    return (policies[..., 0] == -1) & (policies[..., 3] == 1)


# %%
long = replace(RingConfig(), epochs=by_budget(smoke=60, laptop=2000))
asked = {
    title: learned_policies(ring_history(replace(long, fresh=fresh), seed=1)[2], "tanh")[0]
    for title, fresh in {
        "trained on its own ring": False,
        "trained on fresh neighbours": True,
    }.items()
}
figure, panels = plt.subplots(1, 2, figsize=(10, 1.9), sharey=True)
for axes, (title, policies) in zip(panels, asked.items(), strict=True):
    draw_history(axes, policies.T, title)
panels[0].set_yticks(range(4), ["both down", "down, up", "up, down", "both up"])
panels[0].set_ylabel("neighbours")
plt.show()
trainings = {
    "untrained": "untrained",
    "ring": "200 epochs",
    "long": "2,000 epochs",
    "fresh": "2,000 epochs, fresh neighbours",
}
questions = {"follows": "follow", "constant": "always the same answer", "recalled": "back to its old spin",
             "best_response_again": "well placed"}  # fmt: skip
for name, title in trainings.items():
    found = [run["metrics"] for run in results.runs("M3", name)]
    told = [f"{words} {np.mean([one[metric] for one in found]):6.1%}" if metric in found[0] else f"{words}      –"
            for metric, words in questions.items()]  # fmt: skip
    print(f"{title:31s}", ", ".join(told))

# %% [markdown]
# *What the twenty agents of a ring answer to each joint action of their neighbours; blue is up. Left, after 2,000 epochs
# on its own ring: nearly all columns have one colour. Right, after as many on fresh neighbours: all but agent 5 follow
# neighbours that agree, and where they differ everybody has an answer of their own.* <!-- held: asked_ring -->
#
# Most networks answer the same whatever they are asked: 92 % of them before training, 90 % after 200 epochs, 93 % after
# 2,000. They begin so because weights of about 0.1 are small beside a bias of 1; with a bias of 0 it would be 12 %, with
# weights of about 1 43 %. What training changed is *which* answer: an agent that is badly placed is paid badly, and
# turns round. So the ring negotiates, slowly, by learning, and what it ends with is a memory of its domains and no rule.
# Thrown back to coins and given thirty sweeps, after 200 epochs 95 % of the agents return to the spins they had, after
# 2,000 99.5 %. That alone says little, since untrained networks, which are constant too, do so in 99.9 % of the cases;
# but of those trained for 200 epochs 99 % are then well placed again, of the untrained 74 %. And who does not listen
# cannot blink: that was the clue. <!-- held: what_they_learned -->
#
# The cause is what they have seen. An agent in an up domain meets neighbours that are up, hardly ever others. The last
# row of the list differs from the one above it in nothing else: every epoch begins with a ring of coins. Now 99.4 % of
# the networks follow their neighbours in both directions, and on a new ring they do what agents with exact values do: in
# turn 99.96 % of them settle on best responses, all at once 92 % of the rings blink for ever. So what others do is an
# input that these learners use only where it varies. Beside neighbours that hardly change, these agents stay with constants,
# as the blind ones must; with fresh ones they learned the rule. <!-- held: fresh_neighbours -->
#
# ### Tanh or linear?
#
# Rewards reach 1.6, and a tanh ends at 1. Does it matter?

# %%
figure, axes = plt.subplots(figsize=(7.2, 2.8))
for label, name in {"tanh": "ring", "linear": "linear", "untrained": "untrained"}.items():
    by_epoch = results.curves("M3", name, "loss")
    plots.bands(axes, np.arange(1, by_epoch.shape[1] + 1), by_epoch, label)
axes.set(xlabel="epoch", ylabel="mean squared error", ylim=(0, None))
axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# *Mean loss of 25 rings: each of twenty seeds, their mean and its 95 % interval.* With the tanh the loss is 0.33 after
# 200 epochs, with a linear output 0.02. It makes no difference that we could measure to the domains (−0.02 ± 0.09,
# 95 %), to the best responses, or to the epoch after which nobody in a ring is misplaced any more, 49 on average with
# either. For the choice of an action there is a reason: it depends on which value is larger, and a tanh keeps the order.
# (How values change it does not keep, so that the runs differ one by one.) Where values matter as numbers, as for a
# policy that weighs them, leave the output alone. <!-- held: tanh_or_linear -->
#
# ### What the batch is worth
#
# The source trains agent by agent. Here is that loop with nothing wasted: weights and questions prepared, one forward
# and one backward pass an agent, the same lines as in `ring_slopes`. Then the same with its gradients written out by
# hand for NumPy, which is what a friend of loops would answer.


# %%
def plain_ring(config: RingConfig) -> None:
    """The contest is about one setting only."""
    if config.output != "tanh" or not config.in_turn or config.fresh or config.blind:
        raise ValueError(
            "The loops and the batch are compared for a tanh, in turn, on its own ring."
        )


def ring_by_loop(config: RingConfig, seed: int) -> tuple[torch.Tensor, Sequence]:
    """The first ring of ``make_rings``, agent by agent: its spins [N] and the weights of each agent."""
    plain_ring(config)
    (first, second), spins = make_rings(config, seed)
    agents = [
        tuple(w.clone().requires_grad_() for w in pair)
        for pair in zip(first[0].detach(), second[0].detach(), strict=True)
    ]
    questions, rewards, picks = list(torch.eye(4)), list(REWARDS), list(torch.eye(2))
    actions, numbers = as_actions(spins)[0].tolist(), range(config.agents)
    for epoch in range(config.epochs):
        moves = []
        for i in numbers:
            joint = 2 * actions[i - 1] + actions[(i + 1) % config.agents]
            values = torch.tanh(F.elu(questions[joint] @ agents[i][0] + 1) @ agents[i][1])
            down, up = values.tolist()
            moves.append(int(up > down))
            slopes = torch.autograd.grad(
                (values - rewards[joint]).square(), agents[i], picks[moves[i]]
            )
            descend(agents[i], slopes, config.learning_rate)
        actions = [moves[i] if i % 2 == epoch % 2 else actions[i] for i in numbers]
    return as_spins(torch.tensor(actions)), agents


# %% tags=["hide-input"]
def ring_by_numpy(config: RingConfig, seed: int) -> tuple[torch.Tensor, Sequence]:
    """``ring_by_loop`` with NumPy, its gradients written out."""
    plain_ring(config)
    (first, second), spins = make_rings(config, seed)
    agents = [
        tuple(w.numpy().copy() for w in pair)
        for pair in zip(first[0].detach(), second[0].detach(), strict=True)
    ]
    rewards, rate = REWARDS.tolist(), np.float32(config.learning_rate)
    actions, numbers = as_actions(spins)[0].tolist(), range(config.agents)
    for epoch in range(config.epochs):
        moves = []
        for i in numbers:
            joint = 2 * actions[i - 1] + actions[(i + 1) % config.agents]
            row, second = agents[i][0][joint], agents[i][1]
            inputs = row + 1
            slope = np.exp(np.minimum(inputs, 0))  # of the ELU
            hidden = np.where(inputs > 0, inputs, slope - 1)
            down, up = np.tanh(hidden @ second).tolist()
            moves.append(action := int(up > down))
            value = max(down, up)
            pull = np.float32(2 * (value - rewards[joint][action]) * (1 - value**2))
            back = pull * second[:, action] * slope
            second[:, action] -= rate * pull * hidden
            row -= rate * back
        actions = [moves[i] if i % 2 == epoch % 2 else actions[i] for i in numbers]
    return as_spins(torch.tensor(actions)), agents


# %%
def ring_by_batch(
    config: RingConfig, seed: int, update: Callable = descend
) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """What ``train_ring`` does, without its reports: spins, weights, and the losses of every epoch, [S, N] each."""
    plain_ring(config)
    weights, spins = make_rings(config, seed)
    losses = []
    for epoch in range(config.epochs):
        slopes, moves, loss = ring_slopes(weights, spins, config)
        update(weights, slopes, config.learning_rate)
        spins = take_turns(spins, moves, epoch)
        losses.append(loss)
    return spins, weights, losses


def seconds_of(train: Callable, config: RingConfig, seed: int) -> float:
    began = time.perf_counter()
    train(config, seed)
    return time.perf_counter() - began


# %% tags=["hide-input"]
@dataclass(frozen=True)
class SpeedConfig:
    """How the batch is timed against the loops."""

    epochs: int = knob(100, 1, 500, "epochs of each timing")
    repeats: int = knob(7, 1, 50, "timings of each, in turn")
    rings: int = knob(20, 1, 200, "rings of the large batch")

    def __post_init__(self) -> None:
        check_config(self)


def time_rings(config: SpeedConfig, seed: int) -> dict[str, float]:
    """Agents that act and learn in a second: the median over repeats."""
    one = RingConfig(epochs=config.epochs)
    many = replace(one, rings=config.rings)
    contest = {"loop": (ring_by_loop, one), "numpy": (ring_by_numpy, one),
               "batch": (ring_by_batch, one), "batches": (ring_by_batch, many)}  # fmt: skip
    seconds = {name: [] for name in contest}
    for repeat in range(config.repeats):
        for name, (train, ring_of) in contest.items():
            seconds[name].append(seconds_of(train, ring_of, seed))
    agents = {
        name: ring_of.rings * ring_of.agents * config.epochs
        for name, (_, ring_of) in contest.items()
    }
    return {name: agents[name] / np.median(times) for name, times in seconds.items()}


# %%
short = RingConfig(epochs=by_budget(smoke=20, laptop=100))
spins, trained, _ = ring_by_batch(short, seed=1)
for train in (ring_by_loop, ring_by_numpy):
    other_spins, networks_of_it = train(short, seed=1)
    assert torch.equal(spins[0], other_spins)
    for layer in range(2):
        theirs = torch.stack([torch.as_tensor(pair[layer]) for pair in networks_of_it])
        torch.testing.assert_close(trained[layer][0].detach(), theirs, rtol=1e-4, atol=1e-5)
print("the batch and both loops end with the same spins and weights")
speeds = time_rings(by_budget(smoke=SpeedConfig(5, 1), laptop=SpeedConfig(20, 5)), seed=1)
usual = {name: results.metric("M3", "speed", f"agents_a_second_{name}") for name in speeds}
titles = {"loop": "agent by agent", "numpy": "agent by agent, by hand", "batch": "one ring", "batches": "20 rings"}  # fmt: skip
print("agents a second, and how many times the loop and the loop by hand (medians)")
print(
    f"{'':24s} {'now':>9s} {'loop':>7s} {'by hand':>7s}    {'stored':>9s} {'loop':>7s} {'by hand':>7s}"
)
for name, title in titles.items():
    now = [speeds[name] / speeds[other] for other in ("loop", "numpy")]
    before = [np.median(usual[name] / usual[other]) for other in ("loop", "numpy")]
    print(f"{title:24s} {speeds[name]:9,.0f} {now[0]:5.1f} × {now[1]:5.1f} ×    "
          f"{np.median(usual[name]):9,.0f} {before[0]:5.1f} × {before[1]:5.1f} ×")  # fmt: skip

# %% [markdown]
# Timings of so short runs vary from call to call and from machine to machine; the stored ones take a hundred epochs,
# seven times over, and the sentences here are about them. The batch of one ring does the work of the loop 8.3 times as
# fast, that of twenty rings 80 times (medians of five): the price of a call is paid once instead of 400 times. By hand
# the loop is several times faster than with autograd, about as fast as the batch of one ring, and the batch of twenty
# beats it 11 times. Batching and doing without autograd are two separate gains. <!-- held: speed -->
#
# ### Spot the bug: the update that trains nothing
#
# ```python
# def train(weight, ...):
#     loss.backward()
#     with torch.no_grad():
#         weight = weight - rate * weight.grad
# ```
#
# The source's battle trains both its armies with such a function. The last line makes a *new* tensor and gives it the
# local name `weight`; the caller's keeps its old values, and training is a very slow way of doing nothing. Its ring,
# which assigns to an entry of a list, is safe.


# %%
def descend_wrongly(
    weights: list[torch.Tensor], slopes: Sequence[torch.Tensor], rate: float
) -> None:
    """As in the box."""
    for weight, slope in zip(weights, slopes, strict=True):
        weight = weight - rate * slope


figure, axes = plt.subplots(figsize=(7.2, 2.4))
twenty = RingConfig(epochs=by_budget(smoke=20, laptop=100), rings=20)
for update, label in {
    descend: "in place",
    descend_wrongly: "a new tensor by the same name",
}.items():
    *_, curve = ring_by_batch(twenty, seed=1, update=update)
    axes.plot([loss.mean() for loss in curve], label=label)
axes.set(xlabel="epoch", ylabel="mean squared error", ylim=(0, None))
axes.legend()
plt.show()

# %% [markdown]
# *Mean loss of twenty rings. Rebound, the weights stay what they were, to the last bit. The loss still moves at first,
# because the spins do.* The test for it is one line long: parameters have to differ after an update.
#
# ## Exercises
#
# Each has a solution that runs, folded away.
#
# **M1.1 Three players.** Write `expected(rewards, second, third)`: what each action of player 1 earns on average
# against two others who choose independently. `rewards` is an array [A, A, A] with player 1's action first, `second`
# and `third` are policies, [S, A] each; the answer is [S, A]. `check("M1.1", expected)` tells whether it is right.

# %%
# Your expected(rewards, second, third), and then check("M1.1", expected)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
def expected(rewards: np.ndarray, second: np.ndarray, third: np.ndarray) -> np.ndarray:
    """Average over both others: their choices are independent, so that probabilities multiply."""
    return np.einsum("abc,sb,sc->sa", rewards, second, third)


check("M1.1", expected)

# %% [markdown]
# **M2.1 The place of the one.** Write `place(actions, count)`: where the 1 of a joint action stands, for actions
# [..., k] of k neighbours with `count` actions each, without building the vector. Check it with `check("M2.1", place)`.

# %%
# Your place(actions, count), and then check("M2.1", place)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
def place(actions: torch.Tensor, count: int) -> torch.Tensor:
    """A number with base ``count``, whose digits are the actions, the last one counting singly."""
    digits = count ** torch.arange(actions.shape[-1] - 1, -1, -1)
    return (actions * digits).sum(-1)


check("M2.1", place)
neighbours = torch.randint(3, (5, 4))
print(
    "as joint_action has it:",
    torch.equal(place(neighbours, 3), joint_action(one_hot(neighbours, 3)).argmax(-1)),
)

# %% [markdown]
# **M2.2 Predict, then run.** On a ring of 21 two neighbours have even numbers, so that the two histories of the
# blinking ring are one. Will 21 agents that answer all at once come to rest more often than 20? And what of 200?

# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
for size in (20, 21, 200):
    coins = torch.Generator().manual_seed(0)
    table, start = exact_policies(200, size, coins), random_spins(200, size, coins)
    end = sweeps(table, start, [slice(None)], 60)
    rest = (end[-1] == end[-2]).all(-1).float().mean()
    print(f"ring of {size}: {rest:.0%} of 200 starts come to rest")
# No. Blinking is local: a group of neighbours that swap roles does not notice whether the ring closes. The longer the
# ring, the more such groups, and the rarer rest.

# %% [markdown]
# **M3.1 Count the domains.** Write `count_domains(spins)` for a ring given as a NumPy array of −1 and +1. A ring that
# is all up is one domain. `check("M3.1", count_domains)`.

# %%
# Your count_domains(spins), and then check("M3.1", count_domains)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
def count_domains(spins: np.ndarray) -> int:
    """As many as there are borders, and one where there is none."""
    return max(1, int((spins != np.roll(spins, 1)).sum()))


check("M3.1", count_domains)

# %% [markdown]
# **M3.2 One network for all.** All agents have the same task, so the source remarks that they could share one network.
# Its gradient on a ring follows from those of `ring_slopes`. Write `shared(slopes)`: from a list of gradients [S, N,
# ...] to one of [S, 1, ...], and check it with `check("M3.2", shared)`. Then predict, and train with it: will the network
# follow its neighbours both ways, and how many domains will it make of a new ring of coins?

# %%
# Your shared(slopes), and then check("M3.2", shared)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
def shared(slopes: list[torch.Tensor]) -> list[torch.Tensor]:
    """Each agent's use of a weight adds its gradient."""
    return [slope.sum(1, keepdim=True) for slope in slopes]


check("M3.2", shared)


def share_one(fresh: bool) -> tuple[float, float]:
    """How many of twenty shared networks follow their neighbours both ways, and their domains on a new ring of coins."""
    setting, coins = RingConfig(rings=20), torch.Generator().manual_seed(0)
    many, places = make_rings(setting, seed=2)
    common = [weight.detach()[:, :1].clone() for weight in many]
    for epoch in range(by_budget(smoke=20, laptop=200)):
        places = random_spins(20, setting.agents, coins) if fresh else places
        copies = [w.expand(-1, setting.agents, -1, -1).clone().requires_grad_() for w in common]
        slopes, moves, _ = ring_slopes(copies, places, setting)
        descend(common, shared(slopes), setting.learning_rate)
        places = take_turns(places, moves, epoch)
    policies = learned_policies(common, "tanh")  # [S, 1, 4]
    start = random_spins(20, setting.agents, coins)
    everybody = policies.expand(-1, setting.agents, -1)
    ended = sweeps(everybody, start, orders(setting.agents)["evens, then odds"], 30)[-1]
    return follows(policies).float().mean().item(), domains(ended).float().mean().item()


for fresh in (False, True):
    know, ended = share_one(fresh)
    print(f"{'fresh neighbours' if fresh else 'its own ring':16s} {know:4.0%} follow both ways, "
          f"{ended:.1f} domains after 30 sweeps from coins")  # fmt: skip
# One domain both times, for two reasons. On its own ring the network learns even less than twenty do: it gives all
# agents the same answer whatever they see, the ring is one domain at once, and nothing else is ever seen. On fresh
# neighbours every agent's experience teaches all, and it learns the rule; since its answer to both kinds of tie is the
# same one, nothing holds a border, and the domains disappear.

# %% [markdown]
# **M3.3 A longer ring.** How does the number of domains grow with the number of agents? Predict it before you run 20,
# 40, 100 and 200.

# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
for size in (20, 40, 100, 200):
    *_, last = train_ring(
        RingConfig(
            agents=size, rings=by_budget(smoke=2, laptop=25), epochs=by_budget(smoke=20, laptop=200)
        ),
        seed=3,
    )
    print(
        f"{size:3d} agents: {last.metrics['domains']:5.1f} domains, one for every {size / last.metrics['domains']:.1f} agents"
    )
# Roughly in proportion: nobody sees further than the next neighbour, so that a domain's length hardly depends on the ring's.

# %% [markdown]
# ## Summary
#
# - What others do is an input. A learner that leaves it out estimates an average over the others' behaviour, and if they
#   learn, the average moves. A joint table stands still; what its owner acts on moves all the same.
# - Drift is one cause of failure and not the only one: a partner whose policy never changes can hide the best joint
#   action, and a large step makes its value flicker. Run the control before you name the cause.
# - The joint action is an outer product, with $|\mathcal{A}|^k$ places; a mean action has $|\mathcal{A}|$.
# - Where choices depend on each other, begin anywhere and sweep. Neighbours that answer at the same time can blink for
#   ever; taking turns, half at a time, settled it in every start.
# - Twenty networks form domains without learning a rule, and would form them blind: agents learn about the neighbours
#   they meet, and only neighbours that vary make them use their input.
#
# Further reading: [Yang et al. (2018)](../book/bibliography.md#yang2018) for mean-field reinforcement learning,
# [Claus and Boutilier (1998)](../book/bibliography.md#claus1998) for what joint-action learners can and cannot do.
#
# ## How the numbers were measured
#
# `make results` runs these functions with the seeds listed, and stores each run with its configuration, wall-clock
# time, cores and versions. The tables and bands of this chapter are drawn from those files.


# %% tags=["hide-input"]
def measure_pennies(config: GameConfig, seed: int) -> Measured:
    """Drift of an action's expected reward, and error of what was learned, in the second half of a run."""
    found, later = {}, slice(config.steps // 2, None)
    ways = {"learns": config, "frozen": replace(config, partner="stands still"),
            "joint": replace(config, learner="joint")}  # fmt: skip
    for name, way in ways.items():
        expected, learned, state = expected_and_learned(way, seed)  # [T, S, A]
        expected, learned = expected[later], learned[later]
        moved = (expected - expected[0])[..., 0]  # exactly 0 where nothing moves
        errors = np.abs(learned - expected)
        played = np.take_along_axis(errors, learned.argmax(-1)[..., None], -1)
        found |= {f"drift_{name}": moved.std(0).mean(), f"error_{name}": errors.mean(),
                  f"error_played_{name}": played.mean(),
                  f"error_late_{name}": errors[len(errors) // 2 :].mean()}  # fmt: skip
    found["error_table"] = np.abs(state["tables"][0] - PENNIES[0]).mean()  # of the joint learners
    return Measured(found)


# %% tags=["hide-input"]
def measure_climbing(config: GameConfig, seed: int) -> Measured:
    """Shares of pairs by their greedy joint action at the end, for each kind of learner."""
    found, curves = {}, {}
    for learner in CLIMBERS:
        *_, progress = play_games(replace(config, learner=learner), seed)
        state = progress.state()
        first, second = action_values(state["tables"], state["beliefs"]).argmax(-1)  # [S] each
        shares = np.bincount(3 * first + second, minlength=9) / config.pairs
        curves[learner] = shares
        found[f"best_{learner}"] = shares[0]
        if learner == "joint":
            knows = state["tables"].reshape(2, config.pairs, 9).argmax(-1) == 0
            found["joint_knows"] = knows.mean()
    *_, progress = play_games(replace(config, partner="random"), seed)
    choices = progress.state()["tables"][0].argmax(-1)
    curves["beside_random"] = np.bincount(choices, minlength=3) / config.pairs
    curves["optimistic_by_rate"] = []
    for rate in RATES:
        *_, progress = play_games(replace(config, learner="optimistic", learning_rate=rate), seed)
        best = (progress.state()["tables"].argmax(-1) == 0).all(0)
        curves["optimistic_by_rate"].append(best.mean())
    return Measured(found, curves=curves)


# %% tags=["hide-input"]
def climb(config: GameConfig, seed: int, settled: bool) -> tuple[np.ndarray, float]:
    """Share of pairs whose player 1 prefers the first action after each game, [T], and share that always does.

    settled: they begin with what their actions earn beside a partner on the first one, else from scratch.
    """
    rng, size = np.random.default_rng(spread((SETTLED, seed), 1)[0]), (2, config.pairs, 3)
    other = greedy_policies(np.eye(3)[0], config.epsilon)
    earned = np.stack([CLIMBING[0] @ other, other @ CLIMBING[1]])  # [2, A]
    tables = np.tile(earned[:, None], (1, config.pairs, 1)) if settled else rng.normal(0, 0.1, size)
    state, on_first = {"step": 0, "tables": tables, "beliefs": np.full(size, 1 / 3)}, []
    for game in range(config.steps):
        play_once(state, rng, config)
        on_first.append(tables[0].argmax(-1) == 0)
    return np.mean(on_first, 1), np.all(on_first, 0).mean()


# %% tags=["hide-input"]
def measure_settled(config: GameConfig, seed: int) -> Measured:
    """Who is on the best action, for two partners and three learning rates, from there and from scratch."""
    curves = {}
    for name, partner in {"beside_settled": "settled", "both_learn": "learns"}.items():
        ways = [replace(config, learning_rate=rate, partner=partner) for rate in RATES]
        there = [climb(way, seed, settled=True) for way in ways]
        for rate, (shares, _) in zip(RATES, there, strict=True):
            curves[f"{name}_{rate}"] = shares[EVERY - 1 :: EVERY]
        curves[f"never_left_{name}"] = [never_left for _, never_left in there]
        curves[f"from_scratch_{name}"] = [climb(way, seed, settled=False)[0][-1] for way in ways]
    return Measured({}, curves=curves)


# %% tags=["hide-input"]
@dataclass(frozen=True)
class SweepConfig:
    """Agents that know their values, answering each other from random starts."""

    starts: int = knob(200, 1, 2000, "random starts")
    agents: int = knob(20, 4, 200, "spins on the ring", step=2)
    count: int = knob(30, 3, 200, "sweeps")

    def __post_init__(self) -> None:
        check_config(self)
        check_even(self.agents)


def blinks(history: torch.Tensor) -> torch.Tensor:
    """Whether a ring [T, S, N] ends with period two: [S]."""
    return (history[-1] != history[-2]).any(-1) & (history[-1] == history[-3]).all(-1)


# %% tags=["hide-input"]
def measure_sweeps(config: SweepConfig, seed: int) -> Measured:
    generator = torch.Generator().manual_seed(spread((SWEEPING, seed), 1)[0])
    policies = exact_policies(config.starts, config.agents, generator)
    spins = random_spins(config.starts, config.agents, generator)
    ways = orders(config.agents)
    seen = {name: sweeps(policies, spins, groups, config.count) for name, groups in ways.items()}
    kept = [spins]
    for _ in range(config.count):
        kept.append(rule_moves("ties_stay", kept[-1], generator))
    seen["all at once, ties stay"] = torch.stack(kept)
    flipped = spins.clone()
    flipped[:, 1] *= -1  # an odd agent: the evens answer before anybody has looked at them
    ended = seen["evens, then odds"][-1]
    other = sweeps(policies, flipped, ways["evens, then odds"], config.count)[-1]
    rest = {name: (h[-1] == h[-2]).all(-1).float().mean().item() for name, h in seen.items()}
    found = {"blinking": blinks(seen["all at once"]).float().mean().item(),
             "settled_in_halves": rest["evens, then odds"], "settled_in_turn": rest["one after another"],
             "settled_ties_stay": rest["all at once, ties stay"],
             "settled_after_three": (seen["evens, then odds"][3] == ended).all(-1).float().mean().item(),
             "as_at_the_start": (ended == spins).float().mean().item(),
             "decided_by_one": (ended != other).any(-1).float().mean().item()}  # fmt: skip
    curves = {name: (h[1:] != h[:-1]).float().mean((1, 2)).tolist() for name, h in seen.items()}
    return Measured(found, curves=curves)


# %% tags=["hide-input"]
def ring_scores(spins: torch.Tensor) -> dict[str, float]:
    """How well rings [S, N] have ended."""
    rewards = ((neighbours_action(spins) @ REWARDS) * one_hot(as_actions(spins))).sum(-1)
    count = domains(spins).float()
    return {"reward": rewards.mean().item(), "domains": count.mean().item(),
            "one_domain": (count == 1).float().mean().item()}  # fmt: skip


def asked_again(
    policies: torch.Tensor, ended: torch.Tensor, generator: torch.Generator
) -> dict[str, float]:
    """What networks [S, N, 4] answer, and what they do on a ring of coins with no more learning. ended: [S, N]."""
    start, ways = random_spins(*ended.shape, generator), orders(ended.shape[-1])
    again = sweeps(policies, start, ways["evens, then odds"], 30)[-1]
    blinking = blinks(sweeps(policies, start, ways["all at once"], 30))
    shares = {"follows": follows(policies), "constant": (policies == policies[..., :1]).all(-1),
              "recalled": again == ended, "best_response_again": best_responses(again),
              "blinks_again": blinking}  # fmt: skip
    return {name: share.float().mean().item() for name, share in shares.items()}


# %% tags=["hide-input"]
def measure_ring(config: RingConfig, seed: int) -> Measured:
    """How rings end, and what their networks answer. Fresh rings have no end; blind networks cannot be asked."""
    check_even(config.agents)
    history, losses, weights = ring_history(config, seed)
    loss = losses.mean((1, 2)).tolist()
    found = {"loss_at_30": loss[:30][-1], "loss": loss[-1]}
    if not config.fresh:
        best = best_responses(history.flatten(0, 1)).view(history.shape)  # [T + 1, S, N]
        off = ~best.all(-1)  # epochs after which some agent was misplaced: [T + 1, S]
        epochs = (off * torch.arange(1, len(off) + 1)[:, None]).amax(0)
        found |= ring_scores(history[-1]) | {"best_response": best[-1].float().mean().item(),
                                             "settled": epochs.float().mean().item()}  # fmt: skip
    if not config.blind:
        generator = torch.Generator().manual_seed(spread((AGAIN, seed), 1)[0])
        asked = asked_again(learned_policies(weights, config.output), history[-1], generator)
        if config.fresh:
            del asked["recalled"]  # the last ring was coins, half of them moved once
        found |= asked
    return Measured(found, ring_floor(history[0]), {"loss": loss})


def ring_floor(spins: torch.Tensor) -> dict[str, float]:
    """What coins give. [S, N]."""
    return {"best_response": best_responses(spins).float().mean().item(),
            "domains": domains(spins).float().mean().item()}  # fmt: skip


# %% tags=["hide-input"]
def measure_rules(config: RingConfig, seed: int) -> Measured:
    """How rings end that follow a rule, in turn, from the same starts as the networks."""
    check_even(config.agents)
    found = {}
    for rule in RULES:
        spins = make_rings(config, seed)[1]
        generator = torch.Generator().manual_seed(spread((TIES, seed), 1)[0])
        for epoch in range(config.epochs):
            spins = take_turns(spins, rule_moves(rule, spins, generator), epoch)
        found |= {f"{name}_{rule}": value for name, value in ring_scores(spins).items()}
    return Measured(found)


def measure_speed(config: SpeedConfig, seed: int) -> Measured:
    speeds = time_rings(config, seed)
    found = {f"agents_a_second_{name}": speed for name, speed in speeds.items()}
    ratios = {"one_ring_against_the_loop": ("batch", "loop"), "twenty_rings_against_the_loop": ("batches", "loop"),
              "one_ring_against_numpy": ("batch", "numpy"), "twenty_rings_against_numpy": ("batches", "numpy")}  # fmt: skip
    return Measured(
        found | {name: speeds[one] / speeds[other] for name, (one, other) in ratios.items()}
    )


# %%
FIVE, TEN, TWENTY = tuple(range(1, 6)), tuple(range(1, 11)), tuple(range(1, 21))
HEADLINE = "Ring of 20 networks: {M3.domains} domains; a rule with coins for ties: {M3.domains_ties_by_coin}"
MANY = RingConfig(rings=25)
CLIMB = GameConfig(steps=2000, epsilon=0.3, learning_rate=0.2, game="climbing")
MEASUREMENTS = [
    Measurement("M1", "pennies", measure_pennies, GameConfig(), TEN, (
        Metric("drift_learns", "reward", "mean", "the mean of the reward moves"),
        Metric("drift_frozen", "reward", "mean"),
        Metric("error_learns", "reward", "mean"),
        Metric("error_joint", "reward", "mean"),
        Metric("error_table", "reward", "mean"))),
    Measurement("M1", "climbing", measure_climbing, CLIMB, TEN, (
        Metric("best_independent", "of the pairs", "mean"),
        Metric("best_optimistic", "of the pairs", "mean"),
        Metric("joint_knows", "of the joint tables", "mean"))),
    Measurement("M2", "sweeps", measure_sweeps, SweepConfig(), TEN, (
        Metric("blinking", "of the starts", "mean"),
        Metric("settled_in_halves", "of the starts", "mean"))),
    Measurement("M3", "ring", measure_ring, MANY, TWENTY, (
        Metric("best_response", "of the agents", "mean"),
        Metric("domains", "domains", "mean", "2 domains in its figure"),
        Metric("loss_at_30", "squared error", "mean", "losses level off by about epoch 30"),
        Metric("loss", "squared error", "mean"),
        Metric("follows", "of the networks", "mean", "to align is every agent's best policy"))),
    Measurement("M3", "rules", measure_rules, MANY, TWENTY, (
        Metric("domains_ties_stay", "domains", "mean"),
        Metric("domains_ties_by_coin", "domains", "mean"))),
    Measurement("M3", "speed", measure_speed, SpeedConfig(), FIVE, (
        Metric("one_ring_against_the_loop", "times", "median"),
        Metric("twenty_rings_against_the_loop", "times", "median"))),
]  # fmt: skip

# %%
MEASUREMENTS += [
    Measurement("M1", "settled", measure_settled, CLIMB, TEN),
    Measurement("M3", "at_once", measure_ring, replace(MANY, in_turn=False), TWENTY),
    Measurement("M3", "linear", measure_ring, replace(MANY, output="linear"), TWENTY),
    Measurement("M3", "untrained", measure_ring, replace(MANY, learning_rate=0.0), TWENTY),
    Measurement("M3", "blind", measure_ring, replace(MANY, blind=True), TWENTY),
    Measurement("M3", "long", measure_ring, replace(MANY, epochs=2000), TWENTY),
    Measurement("M3", "fresh", measure_ring, replace(MANY, epochs=2000, fresh=True), TWENTY),
]
