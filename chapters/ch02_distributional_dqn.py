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
# # 02 · Distributional DQN: more than the mean
#
# <!-- card: Learn the distribution of returns, and choose by more than its mean: C51, quantiles and Rainbow, on Freeway from 128 bytes. -->
#
# **What you will build.** Value distributions that you can see and push about; an agent that crosses Freeway's ten
# lanes from 128 bytes of memory, and a test of what it has learned, the rules of the road or one timetable; the C51
# projection, quantile regression, and Rainbow, which puts them and their relatives together.
#
# | | |
# |---|---|
# | **You need** | [Chapter 0](ch00_foundations.ipynb): Q-learning, replay and target networks. Averages; the rest of the probability is below. |
# | **Time** | Eight to nine minutes for all cells on two cores, six of them for training Freeway. The cells before Freeway take seconds. |
# | **Memory** | Under 2 GB. No GPU. |
# | **Budget** | `RLBOOK_BUDGET` is `laptop` unless you set it; the next cell shows it. |
#
# The chapter accompanies chapter 7 of [Zai and Brown (2020)](../book/bibliography.md#zai2020). Its examples are rebuilt
# here from scratch, and what the text or its code gets wrong you will see.

# %%
import copy
import io
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from typing import NamedTuple

import ale_py
import gymnasium as gym
import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import torch
from gymnasium.vector import AutoresetMode
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from rlbook_utils import plots, results
from rlbook_utils.checkpoint import as_tensors, load_checkpoint, resume
from rlbook_utils.config import budget, by_budget, check_config, knob
from rlbook_utils.replay import Experience, NStep, Replay
from rlbook_utils.results import Measured, Measurement, Metric
from rlbook_utils.rollout import Policy, SpreadEnvs, Transition, transitions
from rlbook_utils.run import Progress, watch
from rlbook_utils.video import show_clip
from rlbook_utils.widgets import image_slider, panel, scrubber, show
from rlbook_utils.workers import spawn

gym.register_envs(ale_py)
plots.use_style()

# %% tags=["remove-stderr"]
versions = f"torch {torch.__version__} · numpy {np.__version__}"
print(f"budget {budget()} · {results.cores()} cores · {versions}")

# %% [markdown]
# ## Why keep the whole distribution?
#
# Q-learning learns one number for an action: the mean of the returns that follow it. What does the mean leave out?
#
# Take a medical trial, simulated here after the source's example. Patients with high blood pressure get either a new
# drug or a placebo, and after four weeks we note by how many mmHg their pressure has changed. Negative is good. Placebo
# lowers it by 3 on average. The drug does next to nothing for about half of the patients, and a great deal for the
# others.


# %%
PATIENTS = 2000
# Kinds of patient in a group: (share, mean change in mmHg, standard deviation).
CONTROL = ((1.0, -3.0, 2.5),)
TREATMENT = ((0.47, -2.5, 2.5), (0.53, -22.3, 2.5))


def measured_changes(kinds: Sequence[tuple], rng: np.random.Generator) -> np.ndarray:
    """Changes in blood pressure of a group of patients: [PATIENTS], in mmHg."""
    shares, means, stds = np.array(kinds).T
    kind = rng.choice(len(shares), size=PATIENTS, p=shares)
    return rng.normal(means[kind], stds[kind])


# %% tags=["D1"]
rng = np.random.default_rng(0)
trial = {
    "control": measured_changes(CONTROL, rng),
    "treatment": measured_changes(TREATMENT, rng),
}
figure, panels = plt.subplots(1, 2, figsize=(9.5, 2.7), sharex=True, sharey=True)
for axes, (name, changes), colour in zip(panels, trial.items(), plots.COLOURS, strict=False):
    axes.hist(changes, bins=np.arange(-32, 8, 1), color=colour, alpha=0.75)
    axes.axvline(
        changes.mean(), color=plots.INK, linestyle="--", label=f"mean {changes.mean():.1f}"
    )
    axes.set(title=name, xlabel="change in blood pressure (mmHg)")
    axes.legend(loc="upper left")
panels[0].set_ylabel("patients")
plt.show()

# %% [markdown]
# *Left: the control group, one bell around its mean. Right: the treatment group, two bells, at −2.5 and −22.3. Such a
# distribution is called bimodal, after its two modes. Its mean, near −13, falls into the gap between them.*
#
# ### The drug with the better mean
#
# Now a choice. Drug X is of the kind just seen, with one mode at −22.5. Drug A lowers everybody's pressure by about
# 15.5. Which one should a doctor prescribe?


# %%
DRUG_X = ((0.5, -2.5, 2.5), (0.5, -22.5, 2.5))
DRUG_A = ((1.0, -15.5, 2.5),)

drug_x, drug_a = measured_changes(DRUG_X, rng), measured_changes(DRUG_A, rng)
figure, (histogram, curve) = plt.subplots(1, 2, figsize=(9.5, 2.7))
asked = np.linspace(0, 30, 121)  # drops in mmHg
for name, changes, height in (("drug X", drug_x, 385), ("drug A", drug_a, 345)):
    histogram.hist(changes, bins=np.arange(-32, 8, 1), alpha=0.6)
    histogram.axvline(changes.mean(), ymax=height / 420, color=plots.INK, linestyle="--")
    side = "left" if name == "drug X" else "right"
    histogram.text(changes.mean(), height, f"mean of {name[-1]}", ha=side, va="bottom")
    curve.plot(asked, [(changes <= -drop).mean() for drop in asked], label=name)
histogram.set(xlabel="change in blood pressure (mmHg)", ylabel="patients", ylim=(0, 420))
curve.axvline(20, color=plots.INK, linestyle=":")
curve.set(xlabel="a drop of at least … mmHg", ylabel="share of patients", ylim=(0, 1.02))
curve.legend()
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
for name, changes in {"drug X": drug_x, "drug A": drug_a}.items():
    near = np.abs(changes - changes.mean()) <= 3
    print(f"{name}: mean {changes.mean():6.1f}, standard deviation {changes.std():4.1f} mmHg")
    print(f"   within 3 mmHg of that mean     {near.mean():6.1%}")
    print(f"   a drop of at least 10 mmHg     {(changes <= -10).mean():6.1%}")
    print(f"   a drop of at least 20 mmHg     {(changes <= -20).mean():6.1%}")

# %% [markdown]
# *Left: the two drugs, their means dashed. Right: the share of patients whose pressure drops by at least so much; the
# dotted line asks for 20.* By the mean, A wins. Yet almost no patient of X is anywhere near X's mean, so the mean
# describes nobody. A patient who needs a drop of 20 mmHg has a fair chance with X and hardly any with A; one who needs
# 10 should take A. The curves cross, and which drug is better depends on the question. The mean answers one question.
# The distribution answers all of them.
#
# Replace patients by episodes and drugs by actions, and this is the agent's situation. The mean is right for an agent
# that plays many times and only adds up. An agent that must avoid the worst, or needs at least so much, wants the
# distribution, and later in this chapter one will act on it. There is a second reason: on many Atari games, networks
# that learn distributions play better even when they act by the mean
# [(Bellemare et al., 2017)](../book/bibliography.md#bellemare2017). On that our one game says little; what it does say
# stands at the end, where Rainbow is trained with distributions and without.

# %% [markdown]
# ## Probability in pictures
#
# A network that outputs a distribution needs a target distribution and a loss between the two. This section collects
# the few ideas they are made of; skip what you know.
#
# ### Frequency or belief
#
# What does "the probability of heads is 0.5" say? There are two readings, and both follow the same rules.
#
# | | Frequency | Belief |
# |---|---|---|
# | **A probability is** | the share of cases, in the long run | how strongly one should expect something |
# | **It can speak about** | what can be repeated: coins, episodes | also what happens once: an election |
# | **One asks** | how probable are these data if the model is true? | how probable is the model, given these data? |
# | **It works with** | tests and intervals over repetitions | a prior, and its update by evidence |

# %% tags=["D2"]
rng = np.random.default_rng(4)
flips = rng.random((3, 10_000)) < 0.5  # [coins, flips]
figure, axes = plt.subplots(figsize=(7.2, 2.6))
flipped = np.unique(np.geomspace(1, 10_000, 90).astype(int))
for heads in flips.cumsum(1):
    axes.plot(flipped, heads[flipped - 1] / flipped, linewidth=1.3)
axes.axhline(0.5, color=plots.INK, linestyle=":")
axes.set(xscale="log", xlabel="flips", ylabel="share of heads so far", ylim=(0, 1))
plt.show()

# %% [markdown]
# *Three fair coins, and the share of heads so far. Ten flips can show nearly anything; ten thousand show 0.5. That is
# probability as frequency. An election has no ten thousand repetitions: there, a probability can only be a belief.*
#
# ### Expectation and variance
#
# Five people forecast tomorrow's temperature: 18, 21, 17, 17 and 21 °C. The first is a meteorologist, whom you trust
# with weight 0.6; the others get 0.1 each. The **expectation** weighs each value with its probability, and the
# **variance** is the expected squared distance from it:
#
# $$
# \mathbb{E}[X] = \sum_i p_i\, x_i , \qquad
# \operatorname{Var}[X] = \mathbb{E}\big[(X - \mathbb{E}[X])^2\big] = \sum_i p_i\, (x_i - \mathbb{E}[X])^2 .
# $$


# %%
# NBVAL_CHECK_OUTPUT
def expectation(values: np.ndarray, probs: np.ndarray) -> float:
    """The mean of a discrete distribution. values, probs: [N]."""
    return probs @ values


def variance(values: np.ndarray, probs: np.ndarray) -> float:
    """The expected squared distance from the mean. values, probs: [N]."""
    return probs @ (values - expectation(values, probs)) ** 2


FORECASTS = np.array([18, 21, 17, 17, 21])
TRUST = np.array([0.6, 0.1, 0.1, 0.1, 0.1])

print(f"plain mean {FORECASTS.mean():.1f} °C, expectation {expectation(FORECASTS, TRUST):.1f} °C")
spread = variance(FORECASTS, TRUST)
print(f"variance {spread:.2f} °C², standard deviation {math.sqrt(spread):.2f} °C")

# %% [markdown]
# The expectation is the distribution's centre of mass. It is *not* the most likely value, as the source puts it: nobody
# forecast 18.4, and the drug's mean described nobody.
#
# ### Random variables, discrete and continuous
#
# A **random variable** is a quantity whose value chance decides, with a distribution that says how. We write it as a
# capital letter, and we may calculate with it: tomorrow's temperature $T = 18.4 + e$, with noise $e$, is a random
# variable too, shifted by 18.4 and with the variance of $e$. Its **support** is the set of values that can occur. A
# *discrete* variable has a probability for each value; a *continuous* one has a density, and probabilities are areas
# under it.


# %%
def normal_density(x: np.ndarray, mean: float, std: float) -> np.ndarray:
    """The density of the normal distribution."""
    return np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))


figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 2.6))
degrees = np.unique(FORECASTS)
left.bar(degrees, [TRUST[degree == FORECASTS].sum() for degree in degrees], width=0.5)
left.axvline(expectation(FORECASTS, TRUST), color=plots.INK, linestyle="--")
left.set(title="discrete: probabilities", xlabel="°C", ylabel="probability")
x, inside = np.linspace(14.5, 22.5, 400), np.linspace(19, 20, 100)
right.plot(x, normal_density(x, 18.4, 1.0))
right.fill_between(inside, normal_density(inside, 18.4, 1.0), alpha=0.3)
right.set(title="continuous: a density", xlabel="°C", ylabel="probability per °C")
samples = 18.4 + np.random.default_rng(0).standard_normal(100_000)
counted = np.mean((samples >= 19) & (samples <= 20))
area = np.trapezoid(normal_density(inside, 18.4, 1.0), inside)
print(f"between 19 and 20 °C: area {area:.3f}, share of 100,000 samples {counted:.3f}")
plt.show()

# %% [markdown]
# *Left: the trusted forecasts as a discrete distribution on three values, the expectation dashed. Right: the density of
# $T$; the shaded area is the probability of a temperature between 19 and 20 °C, and equals the share of samples that
# fall there.*
#
# The normal distribution keeps its shape whatever its parameters. The beta distribution lives between 0 and 1, the
# gamma distribution above 0, and both change their looks completely:


# %%
def beta_density(x: np.ndarray, u: float, v: float) -> np.ndarray:
    """The density of the beta distribution, 0 < x < 1; u, v > 0."""
    log_scale = math.lgamma(u + v) - math.lgamma(u) - math.lgamma(v)
    return np.exp(log_scale + (u - 1) * np.log(x) + (v - 1) * np.log(1 - x))


def gamma_density(x: np.ndarray, shape: float, scale: float) -> np.ndarray:
    """The density of the gamma distribution, x > 0; mean ``shape * scale``."""
    log_scale = math.lgamma(shape) + shape * math.log(scale)
    return np.exp((shape - 1) * np.log(x) - x / scale - log_scale)


families = {
    "normal (mean, std)": (normal_density, np.linspace(-6, 6, 300), (0, 1), (1, 2)),
    "beta (u, v)": (beta_density, np.linspace(0.01, 0.99, 300), (2, 5), (0.5, 0.5)),
    "gamma (shape, scale)": (gamma_density, np.linspace(0.02, 12, 300), (1, 2), (9, 0.5)),
}
figure, panels = plt.subplots(1, 3, figsize=(8.6, 2.1))
for axes, (name, (density, x, *settings)) in zip(panels, families.items(), strict=True):
    for setting in settings:
        axes.plot(x, density(x, *setting), label=str(setting))
    axes.set(title=name, ylim=(0, 1.25 * axes.get_ylim()[1]))
    axes.legend(loc="upper center", ncols=2, fontsize=8)
plt.show()

# %% [markdown]
# *Three families, each with two settings. A beta distribution can be a hump or a bowl; a gamma distribution can decay
# from the start or rise first.*
#
# ### From prior to posterior
#
# Four candidates stand for election, and you know nothing about them: your **prior** is 1/4 for each. Then news
# arrives. Bayes' rule multiplies each belief by how probable the news would be *if that candidate were to win*, and
# rescales so that the sum is 1 again:
#
# $$
# P(\text{winner} \mid \text{news}) \propto P(\text{news} \mid \text{winner})\; P(\text{winner}) .
# $$
#
# The result is the **posterior**, and the prior for the next piece of news.


# %%
def posterior(prior: np.ndarray, likelihood: np.ndarray) -> np.ndarray:
    """Bayes' rule over a finite set of hypotheses. Both [N] -> [N]."""
    joint = prior * likelihood
    return joint / joint.sum()


prior = np.full(4, 1 / 4)
poll = np.array([0.6, 0.3, 0.2, 0.1])  # P(this poll | that candidate wins)
scandal = np.array([0.1, 0.4, 0.4, 0.4])
stages = {"prior": prior, "after a poll": posterior(prior, poll)}
stages["after a scandal too"] = posterior(stages["after a poll"], scandal)
figure, panels = plt.subplots(1, 3, figsize=(9.5, 2.2), sharey=True)
for axes, (stage, probs) in zip(panels, stages.items(), strict=True):
    axes.bar(list("ABCD"), probs)
    axes.set_title(stage)
    print(f"{stage:20s}", np.round(probs, 3))
panels[0].set_ylabel("belief that … wins")
plt.show()

# %% [markdown]
# *Belief in each candidate. The poll favours A; the scandal would be unlikely if A were to win, and B takes the lead.*
#
# Hypotheses can also form a continuum. Let $x$ be a coin's chance of heads, and the prior a beta distribution that
# already counts $u$ heads and $v$ tails. After $n_H$ further heads and $n_T$ tails the posterior is beta again, and the
# update is mere counting:
#
# $$
# p(x) \propto x^{u-1} (1-x)^{v-1}
# \quad\longrightarrow\quad
# p(x \mid n_H, n_T) \propto x^{u + n_H - 1} (1-x)^{v + n_T - 1} .
# $$
#
# Flip the coin below. The slider sets how firmly the prior believes in a fair coin: $u = v =$ its strength. The buttons
# and the picture come from `click_panel`, which will serve once more for rewards.


# %%
def click_panel(
    buttons: Mapping[str, float],
    slider: widgets.Widget,
    draw: Callable[[Sequence[float], float], bytes],
    clicked: Sequence[float] = (),
) -> widgets.VBox:
    """Buttons that add a value, a reset, and a slider above the PNG ``draw(values, slider.value)``."""
    values = list(clicked)
    picture = widgets.Image(value=draw(values, slider.value), layout={"max_width": "100%"})

    def act(change: Callable = lambda: None) -> None:
        change()
        picture.value = draw(values, slider.value)

    changes = {name: partial(values.append, value) for name, value in buttons.items()}
    changes["Reset"] = values.clear
    row = [widgets.Button(description=name, layout={"width": "auto"}) for name in changes]
    for button in row:
        button.on_click(lambda pressed: act(changes[pressed.description]))
    slider.observe(lambda _: act(), "value")
    live = widgets.VBox([widgets.HBox(row), slider]).add_class("rlbook-live")
    note = "Live in the notebook, where clicks redraw it. Below, one of its pictures, pre-computed."
    note = f'<div class="rlbook-book-only" style="display:none">{note}</div>'
    return widgets.VBox([live, widgets.HTML(note), picture])


# %%
CHANCES = (np.arange(300) + 0.5) / 300  # of heads, strictly between 0 and 1


def belief_picture(flips: Sequence[float], strength: float) -> bytes:
    """Prior Beta(strength, strength) and its posterior after ``flips`` (1 heads, 0 tails), as a PNG."""
    heads, tails = sum(flips), len(flips) - sum(flips)
    u, v = strength + heads, strength + tails
    std = math.sqrt(u * v / (u + v + 1)) / (u + v)
    figure = Figure(figsize=(7.2, 2.4), dpi=72)
    axes = figure.subplots()
    prior, after = beta_density(CHANCES, strength, strength), beta_density(CHANCES, u, v)
    axes.plot(CHANCES, prior, color=plots.INK, linewidth=1.2, label="prior")
    axes.plot(CHANCES, after, label=f"posterior {u / (u + v):.2f} ± {std:.2f}")
    axes.fill_between(CHANCES, after, alpha=0.2)
    axes.set(xlabel="chance of heads", ylabel="density", ylim=(0, max(4, 1.1 * after.max())))
    axes.set_title(f"{heads:.0f} heads, {tails:.0f} tails")
    axes.legend(loc="upper left")
    return plots.to_png(figure)


strength = widgets.IntSlider(1, 1, 50, description="strength", continuous_update=True)
seen = [1, 1, 0, 1, 1, 1, 0, 1]
show(click_panel({"heads": 1, "tails": 0}, strength, belief_picture, seen), belief_picture(seen, 1))

# %% [markdown]
# *The posterior (blue) after six heads and two tails, from a prior (grey) that holds all chances for equally likely.
# Press Reset, and see what the first flips do; then give the prior a strength of 50 and try to move it.*
#
# The next figure follows one coin, which shows heads with chance 0.7, for 200 flips, and two observers: one open to
# anything, one with a prior of strength 50, nearly sure of a fair coin.


# %%
def two_observers(flips: np.ndarray, truth: float) -> bytes:
    """Posteriors of an open and a firm prior after the same ``flips``, as a PNG."""
    figure = Figure(figsize=(7.2, 2.4), dpi=72)
    axes = figure.subplots()
    for name, strength in {"open": 1, "firm": 50}.items():
        u, v = strength + flips.sum(), strength + (~flips).sum()
        axes.plot(CHANCES, beta_density(CHANCES, u, v), label=f"{name}: mean {u / (u + v):.2f}")
    axes.axvline(truth, color=plots.INK, linestyle=":", label="the coin")
    axes.set(xlabel="chance of heads", ylabel="density", ylim=(0, 15))
    axes.set_title(f"{len(flips)} flips, {flips.sum()} heads")
    axes.legend(loc="upper left")
    return plots.to_png(figure)


flips = np.random.default_rng(3).random(200) < 0.7
pictures = {str(n): two_observers(flips[:n], truth=0.7) for n in (0, 3, 10, 50, 200)}
show(image_slider(pictures, "flips", start=2), pictures["10"])

# %% [markdown]
# *Posteriors of both observers after the same flips; the coin is dotted. The open one (blue) swings with the first
# flips and is near 0.7 soon. The firm one (orange) has hardly moved after ten; after two hundred it has come about
# three quarters of the way. Enough evidence overrules any prior that does not exclude the truth.*

# %% [markdown]
# ## Bellman's equation, for a number and for a distribution
#
# Chapter 0 learned from the **Bellman equation**: the value of an action is the expected reward plus the discounted
# value of what comes next. With capital letters for what is random,
#
# $$
# Q(s, a) = \mathbb{E}\big[ R + \gamma\, Q(S', A') \big] .
# $$
#
# The source says that it assumes a deterministic world. It does not: the expectation is there because rewards and
# transitions may be random. Take the expectation away, and let $Z(s, a)$ be the *return itself*, a random variable with
# $Q(s, a) = \mathbb{E}[Z(s, a)]$. That is the **distributional Bellman equation**
# [(Bellemare et al., 2017)](../book/bibliography.md#bellemare2017):
#
# $$
# Z(s, a) \overset{D}{=} R + \gamma\, Z(S', A') .
# $$
#
# The $D$ over the sign says that both sides have the same *distribution*. They cannot be the same *number*: the return
# of this episode on the left, the return of some other episode that passes through $S'$ on the right. Two fair dice are
# equal in distribution, too, and yet seldom show the same face.
#
# Read from the right, the equation is a recipe for a distribution, in three moves. Suppose that an action leads to a
# quiet state with probability 0.6, for a reward of 1, and to a risky one otherwise, for a reward of −1.


# %% tags=["D3"]
DISCOUNT, CHANCE_QUIET = 0.7, 0.6
rng = np.random.default_rng(0)
quiet = rng.normal(4, 0.8, 40_000)  # samples of Z(S', A') in the quiet state
risky = np.where(rng.random(40_000) < 0.5, rng.normal(-8, 0.8, 40_000), rng.normal(8, 0.8, 40_000))
to_quiet = rng.random(40_000) < CHANCE_QUIET
backed_up = np.where(to_quiet, 1 + DISCOUNT * quiet, -1 + DISCOUNT * risky)

figure, panels = plt.subplots(1, 3, figsize=(9.5, 2.6), sharex=True)
moves = {"1 · scale by γ": (DISCOUNT * quiet, DISCOUNT * risky),
         "2 · shift by the reward": (1 + DISCOUNT * quiet, -1 + DISCOUNT * risky)}  # fmt: skip
before, bins = (quiet, risky), np.linspace(-11, 11, 89)
for axes, (title, after) in zip(panels, moves.items(), strict=False):
    for old, new, name, colour in zip(
        before, after, ("quiet", "risky"), plots.COLOURS, strict=False
    ):
        axes.hist(old, bins, density=True, histtype="step", color=colour, alpha=0.6)
        axes.hist(new, bins, density=True, color=colour, alpha=0.6, label=name)
    axes.set(title=title, xlabel="return")
    before = after
panels[2].hist(backed_up, bins, density=True, color=plots.COLOURS[2], alpha=0.7)
panels[2].axvline(backed_up.mean(), color=plots.INK, linestyle="--")
panels[2].set(title="3 · mix", xlabel="return")
panels[0].legend(loc="upper left")
panels[0].set_ylabel("density")
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
after_quiet, after_risky = 1 + DISCOUNT * quiet.mean(), -1 + DISCOUNT * risky.mean()
on_means = CHANCE_QUIET * after_quiet + (1 - CHANCE_QUIET) * after_risky
near = np.abs(backed_up - backed_up.mean()) < 1
print(f"mean of the mixed samples                {backed_up.mean():.2f}")
print(f"Bellman's equation, on the means alone   {on_means:.2f}")
print(f"samples of Z(s, a) within 1 of the mean  {near.mean():.1%}")

# %% [markdown]
# *Outlines show each distribution before the move, filled areas after it. Scaling by γ squeezes towards zero, the
# reward shifts, and the transition mixes the two in proportion to their probabilities. The dashed mean of the result is
# what Q-learning would learn.* It agrees with the equation for numbers up to sampling noise, and once more almost no
# return lies near it. (The source takes this mean for the most likely value after the most likely transition. It is an
# average over all of them.)
#
# Keep the picture in mind. C51, below, makes the same three moves with 51 columns in place of samples, and its one
# difficulty is that scaled and shifted columns no longer stand on the grid.

# %% [markdown]
# ## Fifty-one atoms
#
# How does a network output a distribution? As a fixed row of values and one probability for each. We take 51 values
# between −10 and 10, called **atoms**,
#
# $$
# z_i = V_{\min} + i\, \Delta z, \qquad \Delta z = \frac{V_{\max} - V_{\min}}{50} = 0.4, \qquad i = 0, \dots, 50,
# $$
#
# and the network gives the probabilities $p_i(s, a)$. The atoms never move; learning moves the probabilities. The price
# is plain from the picture: returns beyond ±10 cannot be said.


# %%
ATOMS = 51
V_MIN, V_MAX = -10.0, 10.0
DELTA_Z = (V_MAX - V_MIN) / (ATOMS - 1)
SUPPORT = torch.linspace(V_MIN, V_MAX, ATOMS)  # [ATOMS]


def uniform() -> torch.Tensor:
    """All atoms equally likely: [ATOMS]."""
    return torch.full((ATOMS,), 1 / ATOMS)


def draw_distribution(axes: Axes, probs: torch.Tensor, **bar: object) -> None:
    """A column for each atom. probs: [ATOMS]."""
    axes.bar(SUPPORT.numpy(), probs.numpy(), width=0.8 * DELTA_Z, snap=False, **bar)


# %%
figure, panels = plt.subplots(1, 3, figsize=(9.5, 2.2))
bell = torch.softmax(-0.5 * ((SUPPORT - 4) / 1.5) ** 2, 0)
certain = (SUPPORT.round(decimals=4) == 0).float()
shapes = {"knows nothing": uniform(), "expects about 4": bell, "is certain of 0": certain}
for axes, (title, probs) in zip(panels, shapes.items(), strict=True):
    draw_distribution(axes, probs)
    axes.axvline(SUPPORT @ probs, color=plots.COLOURS[1], linestyle="--")
    axes.set(title=title, xlabel="return")
panels[0].set_ylabel("probability")
plt.show()

# %% [markdown]
# *Three distributions on the 51 atoms, their expectations $\sum_i p_i z_i$ dashed (one line of code: `SUPPORT @
# probs`). The right one is degenerate: all mass on one atom, which is how a distribution says "exactly this". An
# ordinary Q-value is that special case.*
#
# ### Moving mass towards a reward
#
# A first idea of learning, the source's: when a reward is observed, move probability towards it. Let $k$ be the atom
# nearest to the reward. Every atom between there and either end receives a part of its *outer* neighbour's mass, less
# the farther it is from $k$; then all is rescaled to the sum 1:
#
# $$
# p_i \leftarrow \frac{1}{C}
# \begin{cases}
# p_i + g^{|i - k| + 1}\, p_{i - 1} & i < k \\
# p_i + g\, p_{i-1} + g\, p_{i+1} & i = k \\
# p_i + g^{|i - k| + 1}\, p_{i + 1} & i > k ,
# \end{cases}
# $$
#
# where mass beyond the ends counts as 0. The number $g$ between 0 and 1 says how strongly the reward pulls. We call the
# operation a **smear**. It is not the Bellman backup of the last section, for it neither scales nor shifts: take it as
# intuition for what it means to learn a distribution. The real projection comes below.


# %%
def smear(probs: torch.Tensor, rewards: torch.Tensor | float, pull: float) -> torch.Tensor:
    """Move mass towards the rewards, as Zai and Brown 2020, listing 7.2; ``pull`` is their gamma.

    probs: [..., ATOMS]. rewards: [...], or a number for all -> a new [..., ATOMS].
    """
    rewards = torch.as_tensor(rewards, dtype=probs.dtype, device=probs.device)
    centre = ((rewards - V_MIN) / DELTA_Z).round().clamp(0, ATOMS - 1)
    offset = torch.arange(ATOMS, device=probs.device) - centre.unsqueeze(
        -1
    )  # [..., ATOMS], below 0 left of the reward
    from_left = torch.nn.functional.pad(probs[..., :-1], (1, 0))
    from_right = torch.nn.functional.pad(probs[..., 1:], (0, 1))
    outer = from_left * (offset <= 0) + from_right * (offset >= 0)
    moved = probs + pull ** (offset.abs() + 1) * outer
    return moved / moved.sum(-1, keepdim=True)


def smear_all(rewards: Sequence[float], pull: float) -> torch.Tensor:
    """The uniform distribution, and the one after each reward: [len(rewards) + 1, ATOMS]."""
    history = [uniform()]
    for reward in rewards:
        history.append(smear(history[-1], reward, pull))
    return torch.stack(history)


# %%
once = smear(uniform(), -1.0, pull=0.1)
figure, axes = plt.subplots(figsize=(7.2, 2.2))
draw_distribution(axes, once)
axes.axvline(-1, color=plots.COLOURS[1], linestyle=":", label="reward −1")
axes.set(xlabel="return", ylabel="probability")
axes.legend()
plt.show()
top = once.argmax()
print(
    f"sum {once.sum():.6f}; highest at {SUPPORT[top]:.1f}: {once[top]:.4f}; elsewhere from {once.min():.4f}"
)

# %% [markdown]
# *One reward of −1 smeared into the uniform distribution with $g = 0.1$: a small bump, the rest as good as unchanged.*
# The bump stands at −1.2, because −1 lies exactly between two atoms and the tie is rounded to the even index. An honest
# treatment would give half to each, and that is what the projection will do. (The printed loop also stops one atom
# short at the left end. Ours treats both ends alike.)
#
# ### Several rewards, several peaks

# %% tags=["D4"]
REWARDS = (10.0, 10.0, 10.0, 0.0, 1.0, 0.0, -10.0, -10.0, 10.0, 10.0)  # the source's sequence
history = smear_all(REWARDS, pull=0.5)
figure, axes = plt.subplots(figsize=(7.2, 2.6))
draw_distribution(axes, history[-1])
inner = torch.nn.functional.pad(history[-1], (1, 1))  # so that the ends can be peaks
peaks = (history[-1] > inner[:-2]) & (history[-1] > inner[2:])
for value, prob in zip(SUPPORT[peaks].tolist(), history[-1][peaks].tolist(), strict=True):
    axes.text(value, prob + 0.001, f"{prob:.3f}", ha="center")
axes.set(xlabel="return", ylabel="probability", xlim=(-11, 11), ylim=(0, 0.085))
plt.show()
print("peaks at", [round(value, 1) + 0.0 for value in SUPPORT[peaks].tolist()])

# %% [markdown]
# *The source's ten rewards, smeared with $g = 0.5$ into the uniform distribution: four peaks, one for each kind of
# reward, at 10, 0, 1 (on the grid: 1.2) and −10. A mean would have kept one number.* The heights are not frequencies,
# though: −10 came twice and 1 only once, yet their peaks are nearly equal, because an atom at the edge has only one
# neighbour to draw from.
#
# Now one reward at a time. Step through the sequence, then slide $g$.


# %%
def smear_picture(rewards: Sequence[float], pull: float) -> bytes:
    """The distribution after ``rewards``, triangles where they were observed, as a PNG."""
    probs = smear_all(rewards, pull)[-1]
    mean = round((SUPPORT @ probs).item(), 1) + 0.0  # no −0.0
    std = ((SUPPORT - SUPPORT @ probs) ** 2 @ probs).sqrt()
    figure = Figure(figsize=(7.2, 2.5), dpi=72)
    axes = figure.subplots()
    draw_distribution(axes, probs)
    top = {"y": 0.95, "marker": "v", "transform": axes.get_xaxis_transform(), "zorder": 3}
    for reward in set(rewards):
        axes.scatter(reward, color=plots.COLOURS[1] if reward == rewards[-1] else plots.INK, **top)
    last = f", the last {rewards[-1]:g}" if rewards else ""
    axes.set_title(f"{len(rewards)} rewards{last}; mean {mean:.1f} ± {std:.1f}")
    axes.set(xlabel="return", ylabel="probability", xlim=(-10.6, 10.6))
    axes.set_ylim(0, max(0.11, 1.15 * probs.max().item()))
    return plots.to_png(figure)


steps = [smear_picture(REWARDS[:count], 0.5) for count in range(len(REWARDS) + 1)]
show(scrubber(steps, "rewards", interval=900), steps[-1])

# %% [markdown]
# *The sequence 10, 10, 10, 0, 1, 0, −10, −10, 10, 10 with $g = 0.5$; the orange triangle marks the newest reward, grey
# ones the earlier. Watch the peak at 10 sink while other rewards arrive, and rise again at the end.*

# %%
pulls = (0.1, 0.5, 0.7, 0.9, 0.99)
pictures = {f"{pull:g}": smear_picture(REWARDS, pull) for pull in pulls}
show(image_slider(pictures, "pull g", start=1), pictures["0.5"])

# %% [markdown]
# *The same ten rewards for five values of $g$. At 0.1 they leave small bumps; up to 0.7 the peaks grow. At 0.9 each
# pull reaches across many atoms, neighbouring peaks melt together, and the whole leans to 10. At 0.99 even the peak at
# 10 is gone.*
#
# And live: press a reward, press it again, mix in others, slide $g$.

# %%
pull = widgets.FloatSlider(0.5, min=0, max=0.99, step=0.01, description="pull g")
buttons = {f"{reward:+d}": float(reward) for reward in (-10, -5, -1, 0, 1, 5, 10)}
clicked = [5.0, 5.0, -5.0]
show(click_panel(buttons, pull, smear_picture, clicked), smear_picture(clicked, 0.5))

# %% [markdown]
# *After two rewards of 5 and one of −5. Find out: how many more clicks on −5 does it take until its peak is the higher
# one? Does a larger $g$ need fewer?*
#
# ### What repetition does, and what $g$ is not
#
# Let the same reward, 5, arrive twenty times, with $g = 0.7$.

# %%
repeated = smear_all([5.0] * 20, pull=0.7)  # [21, ATOMS]
means = repeated @ SUPPORT
variances = (repeated * (SUPPORT - means.unsqueeze(1)) ** 2).sum(1)
figure, (shapes, curve) = plt.subplots(1, 2, figsize=(9.5, 2.6))
for count in (0, 5, 10, 20):
    shapes.plot(SUPPORT, repeated[count], label=f"after {count}")
shapes.set(xlabel="return", ylabel="probability")
shapes.legend(loc="upper left")
curve.plot(variances, ".-")
curve.set(xlabel="observations of the reward 5", ylabel="variance", ylim=(0, None))
plt.show()
print(f"variance {variances[0]:.1f} before, {variances[-1]:.1f} after; mean {means[-1]:.2f}")

# %% [markdown]
# *Left: the distribution after 0, 5, 10 and 20 rewards of 5. Right: its variance, one point an observation. Mass
# gathers around 5 and the variance falls with every observation: repetition makes certain.*
#
# The source writes $\gamma$ for our $g$ and calls it the discount factor: who discounts the future heavily, it says,
# gets a distribution sharply peaked at the newest reward. A heavy discount is a *small* $\gamma$. What does a small $g$
# do?

# %%
strengths = torch.linspace(0, 0.99, 100)
moved = [0.5 * (smear(uniform(), -2.0, pull.item()) - uniform()).abs().sum() for pull in strengths]
figure, (shapes, curve) = plt.subplots(1, 2, figsize=(9.5, 2.5))
for pull in (0.1, 0.7, 0.99):
    shapes.plot(SUPPORT, smear(uniform(), -2.0, pull), label=f"g = {pull}")
shapes.set(xlabel="return", ylabel="probability")
shapes.legend()
curve.plot(strengths, moved)
curve.set(xlabel="g", ylabel="mass moved by one reward")
plt.show()

# %% [markdown]
# *Left: the uniform distribution after a single reward of −2, for three values of $g$. Right: how much of the mass has
# moved.* A small $g$ changes next to nothing, so the sentence has it the wrong way round. The smear's $g$ is no
# discount but something like a step size: how far to trust one observation. And it turns back near 1. There every atom
# takes nearly all of a neighbour's mass, so nearly all double, the rescaling halves them again, and little has moved.
#
# The difference from Bellman's recipe shows where the next state is well known. Let its distribution be the bell around
# 4 from above, the reward 1 and the discount 0.9. The equation says that the mean becomes $1 + 0.9 \cdot 4 = 4.6$; the
# smear pulls it towards the reward, as if the reward were the whole return:

# %%
# NBVAL_CHECK_OUTPUT
print(f"mean of the next state's distribution   {SUPPORT @ bell:.2f}")
print(f"Bellman: scaled by 0.9, shifted by 1    {1 + 0.9 * SUPPORT @ bell:.2f}")
for pull in (0.1, 0.5, 0.9):
    print(f"smear, g = {pull}                          {SUPPORT @ smear(bell, 1.0, pull):.2f}")

# %% [markdown]
# ## How far apart are two distributions?
#
# The network proposes probabilities $P$, the target says $Q$. The loss has to measure their difference. We build it in
# five steps, mathematics and code side by side. ($Q$ is a distribution in this section, not an action's value.)
#
# | Step | Mathematics | Code |
# |:--|:--|:--|
# | likelihood ratio | $\prod_i P(x_i) / Q(x_i)$ | `(p / q).prod()` |
# | its logarithm: sums instead of tiny products | $\sum_i \log \frac{P(x_i)}{Q(x_i)}$ | `(p / q).log().sum()` |
# | weighted: what occurs often counts more | $\sum_i Q(x_i) \log \frac{P(x_i)}{Q(x_i)}$ | `(q * (p / q).log()).sum()` |
# | negated, so that small is good: the **KL divergence** | $D_{\mathrm{KL}}(Q \parallel P) = -\sum_i Q(x_i) \log \frac{P(x_i)}{Q(x_i)}$ | `-(q * (p / q).log()).sum()` |
# | without the part that $P$ cannot change: **cross-entropy** | $H(Q, P) = -\sum_i Q(x_i) \log P(x_i)$ | `-(q * p.log()).sum()` |


# %% tags=["D5"]
# NBVAL_CHECK_OUTPUT
def five_steps(p: torch.Tensor, q: torch.Tensor) -> dict[str, float]:
    """From the likelihood ratio to the cross-entropy of p against q. p, q: [N], positive."""
    log_ratio = (p / q).log()
    steps = {"likelihood ratio": (p / q).prod(), "log ratio": log_ratio.sum()}
    steps["weighted log ratio"] = (q * log_ratio).sum()
    steps["KL divergence"] = -(q * log_ratio).sum()
    steps["cross-entropy"] = -(q * p.log()).sum()
    return {name: round(value.item(), 3) + 0.0 for name, value in steps.items()}  # no −0.000


examples = {
    "the source's": (torch.tensor([0.1, 0.1]), torch.tensor([0.6, 0.5])),
    "its two swapped": (torch.tensor([0.6, 0.5]), torch.tensor([0.1, 0.1])),
    "distributions": (torch.tensor([0.2, 0.3, 0.5]), torch.tensor([0.6, 0.3, 0.1])),
    "equal ones": (torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.6, 0.3, 0.1])),
}
table = {name: five_steps(p, q) for name, (p, q) in examples.items()}
print(" " * 20 + "".join(f"{name:>17s}" for name in table))
for step in table["the source's"]:
    print(f"{step:20s}" + "".join(f"{row[step]:17.3f}" for row in table.values()))

# %% [markdown]
# The source's numbers, $P = (0.1, 0.1)$ and $Q = (0.6, 0.5)$, are there for the arithmetic only: they are not
# distributions, since their sums are 0.2 and 1.1. It matters. Swapped, they give a *negative* divergence, which two
# distributions cannot have (exercise 2). With real ones the divergence is positive, and zero where they agree.
#
# Why is the last step allowed? Because $H(Q, P) = D_{\mathrm{KL}}(Q \parallel P) + H(Q)$, and the entropy of the target
# $H(Q) = -\sum_i Q(x_i) \log Q(x_i)$ does not depend on the network. Both losses have the same gradient.
#
# ### The divergence has a direction
#
# $D_{\mathrm{KL}}(Q \parallel P)$ and $D_{\mathrm{KL}}(P \parallel Q)$ are different numbers, and minimising one or the
# other gives different answers. Let the target have two modes while the model can only be a single bell on the atoms,
# and try all bells, once in each direction.


# %%
def kl_divergence(q: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """How badly p describes what q draws, in nats; 0 log 0 counts as 0. q, p: [..., N] -> [...]."""
    return (torch.xlogy(q, q) - torch.xlogy(q, p)).sum(-1)


def bell_on_atoms(mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Normal distributions restricted to the atoms. mean, std: [...] -> [..., ATOMS]."""
    distance = (SUPPORT.double() - mean.unsqueeze(-1)) / std.unsqueeze(-1)
    return torch.softmax(-0.5 * distance**2, -1)


double = partial(torch.tensor, dtype=torch.float64)
two_modes = 0.6 * bell_on_atoms(double(-4.0), double(1.0)) + 0.4 * bell_on_atoms(
    double(5.0), double(1.0)
)
means, stds = torch.meshgrid(torch.arange(-9, 9.01, 0.1, dtype=torch.float64),
                             torch.arange(0.5, 8.01, 0.1, dtype=torch.float64), indexing="ij")  # fmt: skip
bells = bell_on_atoms(means, stds)  # [means, stds, ATOMS]
divergences = {
    "KL(target ‖ model)": kl_divergence(two_modes, bells),
    "KL(model ‖ target)": kl_divergence(bells, two_modes),
}

# %%
# NBVAL_CHECK_OUTPUT
fitted = {}
for name, divergence in divergences.items():
    best = divergence.flatten().argmin()
    fitted[name] = bells.flatten(0, 1)[best]
    mean, std = means.flatten()[best], stds.flatten()[best]
    print(f"smallest {name}: mean {mean:4.1f}, standard deviation {std:.1f}")
    print(f"   its KL(target ‖ model) {kl_divergence(two_modes, fitted[name]):5.2f}")
    print(f"   its KL(model ‖ target) {kl_divergence(fitted[name], two_modes):5.2f}")

# %%
figure, panels = plt.subplots(1, 2, figsize=(9.5, 2.5), sharey=True)
for axes, (name, probs) in zip(panels, fitted.items(), strict=True):
    draw_distribution(axes, two_modes, color=plots.INK, alpha=0.5, label="target")
    axes.plot(SUPPORT, probs, color=plots.COLOURS[1], label="best bell")
    axes.set(title=f"minimise {name}", xlabel="return")
panels[0].set_ylabel("probability")
panels[0].legend()
plt.show()

# %% [markdown]
# *One bell for two modes. Left: with the target first, the bell covers all the target's mass, the empty middle
# included, because it pays heavily for calling improbable what does occur. Right: with the model first, it settles on
# the larger mode and ignores the other, because now it pays only where it puts mass itself.* The distributional agent
# minimises the first kind. A peak that occurs is never ignored, and since 51 free probabilities are no single bell,
# nothing needs to be blurred either.
#
# ### The loss of this chapter
#
# A network's outputs are logits $y_i$, and $\log P(x_i) = y_i - \log \sum_j e^{y_j}$. `log_softmax` computes this with
# the largest logit subtracted first, so nothing overflows and no logarithm of zero is ever taken:


# %%
def cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """H(target, softmax(logits)) of each row. logits, target: [B, ATOMS] -> [B]."""
    return -(target * torch.log_softmax(logits, -1)).sum(-1)


# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(0)
logits = torch.randn(2, ATOMS, requires_grad=True)  # [B, ATOMS]
target = smear_all((5.0, -5.0), pull=0.7)[1:]  # [B, ATOMS]
loss = cross_entropy(logits, target)
probs = torch.softmax(logits, -1)
entropies = -torch.xlogy(target, target).sum(-1)
sums = kl_divergence(target, probs) + entropies
print("cross-entropy       ", [f"{value:.3f}" for value in loss.tolist()])
print("divergence + entropy", [f"{value:.3f}" for value in sums.tolist()])
loss.sum().backward()
same = torch.allclose(logits.grad, probs - target, atol=1e-6)
print(f"gradient equals probs - target: {same}")

# %% [markdown]
# The gradient for the logits is prediction minus target, as simple as that of a squared error. It is bounded, and zero
# exactly where the two agree.
#
# ### Spot the bug: the logarithm of zero
#
# ```python
# probs = torch.softmax(logits, -1)         # the network returns probabilities
# loss = -(target * torch.log(probs)).sum()  # and the loss takes their logarithm
# ```
#
# On paper this is the same loss. The source's network and loss are written this way. What happens when the network is
# confident? The next cell puts the target on one atom of two, and moves the *other* atom's logit from far below (the
# network is right) to far above (it is wrong). Beside the two versions stands a popular cure, a small constant inside
# the logarithm.


# %%
LOSSES = {
    "log_softmax": lambda logits, target: cross_entropy(logits, target),
    "log of softmax": lambda logits, target: -(target * torch.softmax(logits, -1).log()).sum(-1),
    "log of (softmax + 1e-8)": lambda logits, target: (
        -(target * (torch.softmax(logits, -1) + 1e-8).log()).sum(-1)
    ),
}

# %%
gaps = torch.arange(-130.0, 131.0)
wanted = torch.tensor([1.0, 0.0]).expand(len(gaps), 2)
figure, (values, slopes) = plt.subplots(1, 2, figsize=(9.5, 2.9))
for (name, loss_of), style in zip(LOSSES.items(), ("-", "--", ":"), strict=True):
    logits = torch.stack([torch.zeros_like(gaps), gaps], 1).requires_grad_()  # [gaps, 2]
    loss = loss_of(logits, wanted)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    for axes, curve in ((values, loss.detach()), (slopes, gradient[:, 1])):
        (line,) = axes.plot(gaps, curve, style, label=name)
        finite = curve.isfinite()
        first, last = gaps[finite][[0, -1]].tolist()
        if not finite.all():
            ends = (gaps == first) | (gaps == last)
            axes.plot(gaps[ends], curve[ends], "X", color=line.get_color(), markersize=10)
        what = "loss" if axes is values else "gradient"
        print(f"{name:24s} {what:8s} finite for gaps from {first:4.0f} to {last:3.0f}")
values.set(xlabel="wrong logit minus right logit", ylabel="loss")
slopes.set(
    xlabel="wrong logit minus right logit", ylabel="gradient for the wrong logit", ylim=(-0.05, 1.1)
)
values.legend()
plt.show()

# %% [markdown]
# *Loss and gradient against the gap between the two logits; crosses mark where a curve ends. In the middle all three
# run together. The logarithm of the softmax (orange) breaks on both sides: once the smaller probability underflows to
# 0, a wrong network has an infinite loss, and a right one, whose target there is 0, has* $0 \cdot (-\infty)$*, which is
# nan. On the wrong side the gradient fails even earlier, when the probability is so small that its inverse overflows.
# The small constant (green) hides the symptom and keeps the fault: beyond a gap of about 25 the loss is flat and the
# gradient zero, so the network learns nothing from its worst mistakes. From the logits (blue) loss and gradient are
# right everywhere.* One nan is enough: the optimiser adds it to every parameter it reaches, and from then on each is
# nan.

# %% [markdown]
# ## A first distributional agent
#
# Now the network learns. As in the source, the data are invented at first: two states of 128 numbers, three actions. In
# state 1 action 1 was taken and the reward is 0; in state 2 action 3 was taken and the reward is 8, both with a little
# noise. The target is the smear of what a **target network** says about the action: a copy of the network that is
# renewed every 75 steps and stands still between.
#
# Gradient descent is written out by hand once more, as the source does it, because there is a trap in it.


# %%
class ToyConfig(NamedTuple):
    """The source's listing 7.10, with a step size for gradients that are cleared and less noise."""

    steps: int = 1000
    sync_every: int = 75
    pull: float = 0.7
    step_size: float = 0.3
    reward_noise: float = 0.05  # half the source's, so that no reward rounds to the next atom
    clear_gradients: bool = True


TOY_ACTIONS, TOY_REWARDS = torch.tensor([0, 2]), torch.tensor([0.0, 8.0])


def toy_network(seed: int) -> tuple[nn.Sequential, torch.Tensor]:
    """A network of the source's size, 128-100-25-(3 x 51), and the two states: [2, 128]."""
    torch.manual_seed(seed)
    linear = partial(nn.Linear, bias=False)
    layers = [linear(128, 100), nn.SELU(), linear(100, 25), nn.SELU(), linear(25, 3 * ATOMS)]
    network = nn.Sequential(*layers, nn.Unflatten(1, (3, ATOMS)))
    return network, torch.randn(2, 128) / 10


# %%
def fit_toy(config: ToyConfig, seed: int) -> tuple[dict[str, list[float]], torch.Tensor]:
    """Learn the two states' distributions: the curves of loss and divergence, and probabilities [2, 3, ATOMS]."""
    network, states = toy_network(seed)
    rows, curves = torch.arange(2), {"cross_entropy": [], "divergence": []}
    for step in range(config.steps):
        if step % config.sync_every == 0:
            target_network = copy.deepcopy(network)
        rewards = TOY_REWARDS + config.reward_noise * torch.randn(2)
        with torch.no_grad():
            before = target_network(states)[rows, TOY_ACTIONS].softmax(-1)  # [2, ATOMS]
            target = smear(before, rewards, config.pull)
            noiseless = smear(before, TOY_REWARDS, config.pull)
        logits = network(states)[rows, TOY_ACTIONS]  # only the actions taken: [2, ATOMS]
        loss = cross_entropy(logits, target).mean()
        curves["cross_entropy"].append(loss.item())
        divergence = kl_divergence(noiseless, logits.detach().softmax(-1))
        curves["divergence"].append(divergence.max().item())
        loss.backward()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= config.step_size * parameter.grad
                if config.clear_gradients:
                    parameter.grad = None
    return curves, network(states).softmax(-1).detach()


# %% tags=["D6"]
toy_curves, toy_probs = fit_toy(ToyConfig(), seed=1)
figure, panels = plt.subplots(1, 2, figsize=(9.5, 2.7))
for axes, (name, curve) in zip(panels, toy_curves.items(), strict=True):
    axes.plot(curve)
    for sync in range(0, len(curve), ToyConfig().sync_every):
        axes.axvline(sync, color=plots.INK, linewidth=0.6, alpha=0.5)
    axes.set(title=name.replace("_", "-"), xlabel="step", ylabel="nats")
panels[1].set_yscale("log")
plt.show()
print(f"divergence from the target at the end: {toy_curves['divergence'][-1]:.5f}")

# %% [markdown]
# *Thin lines mark where the target network is renewed. Left: the loss falls in stairs. Right: the divergence from the
# target, on a logarithmic scale, jumps at every renewal and then falls until the next. The first jumps are small,
# because the network has not yet caught up; the later ones span orders of magnitude.* <!-- held: renewals -->
#
# These are the spikes of the source's figure. The network has caught up with its target, the target is taken away and
# replaced by a sharper one, and the race begins again. The loss on the left contains the entropy of the target, which
# no network can reduce; since each new target is sharper, the loss steps *down* where the divergence jumps *up*. Watch
# the divergence if you want to know how far the network is from what it is asked for.

# %%
figure, panels = plt.subplots(2, 3, figsize=(9.5, 3.6), sharex=True, sharey=True)
for (state, action), axes in np.ndenumerate(panels):
    taken = TOY_ACTIONS[state] == action
    colour = plots.COLOURS[0] if taken else plots.INK
    draw_distribution(axes, toy_probs[state, action], color=colour)
    axes.set_title(f"state {state + 1}, action {action + 1}" + (" (taken)" if taken else ""))
for axes in panels[1]:
    axes.set_xlabel("return")
plt.show()

# %% [markdown]
# *The learned distributions, one row a state, one column an action. The two actions that were taken have a peak where
# their rewards were; the four others are still nearly uniform, because nothing was asked of them.* (The layers have no
# biases, like the source's. With biases, what is learned for an action in one state shows in the other as well.) The
# source's loss asks them to stay as they are, by copying the target network's answer into the target. It is simpler,
# and leaves the shared layers freer, to ask nothing: actions that were not taken have no target.
#
# ### Spot the bug: the gradient that is never cleared
#
# ```python
# loss.backward()
# with torch.no_grad():
#     theta -= lr * theta.grad
# theta.requires_grad = True
# ```
#
# So the source updates its parameters. `backward` *adds* to `grad`. Nothing here sets it back, so each step follows the
# sum of all gradients so far.

# %%
figure, axes = plt.subplots(figsize=(7.2, 2.6))
for name, changed in {
    "cleared, step size 0.3": {},
    "never cleared, step size 0.3": {"clear_gradients": False},
    "never cleared, step size 0.003": {"clear_gradients": False, "step_size": 0.003},
}.items():
    curves, _ = fit_toy(ToyConfig()._replace(**changed), seed=1)
    axes.plot(curves["divergence"], label=name, linewidth=1.4)
axes.set(xlabel="step", ylabel="divergence (nats)", yscale="log")
axes.legend()
plt.show()

# %% [markdown]
# *The divergence from the target, with and without clearing. At the same step size the sum of gradients is even quicker
# at first, since it gathers speed; then it stalls, and after some hundreds of steps it throws the network out of all
# bounds: the orange curve ends in nan. At a hundredth of the step size the green curve swings: the sum goes on pushing
# long after the target is reached, and its lows never come near those of the blue one.* A mistake of this kind hides
# well, for at first the loss does fall.

# %% [markdown]
# ## The projection
#
# Now the real thing. Bellman's recipe moves the atoms of the next state's distribution to $r + \gamma z_i$. There they
# stand between the atoms of our grid, or beyond its ends. **C51**
# [(Bellemare et al., 2017)](../book/bibliography.md#bellemare2017) clips them to the ends and shares the mass of each
# between its two neighbours, in proportion to how near they are. With $b_i = (\operatorname{clip}(r + \gamma z_i) -
# V_{\min}) / \Delta z$, the place counted in atoms,
#
# $$
# m_j = \sum_i p_i \, \big[\, 1 - |\, b_i - j \,| \,\big]_0^1 , \qquad j = 0, \dots, 50 ,
# $$
#
# where $[x]_0^1$ cuts $x$ off at 0 and 1. At a terminal state nothing follows: $\gamma$ is 0 there and all mass moves
# to the reward. First as one would write it down, then for a whole batch at once.


# %%
def project_loop(returns: torch.Tensor, probs: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
    """One atom at a time, as algorithm 1 of Bellemare et al. 2017. See ``project`` for shapes."""
    low, high, last = support[0].item(), support[-1].item(), len(support) - 1
    projected = torch.zeros(len(returns), len(support), dtype=probs.dtype)
    for row in range(len(returns)):
        for value, mass in zip(returns[row].tolist(), probs[row].tolist(), strict=True):
            place = (min(max(value, low), high) - low) * last / (high - low)
            lower = min(int(place), last - 1)
            projected[row, lower] += mass * (lower + 1 - place)
            projected[row, lower + 1] += mass * (place - lower)
    return projected


def project(returns: torch.Tensor, probs: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
    """Share mass that stands at ``returns`` between the neighbouring atoms; beyond the ends it is clipped.

    returns: [B, K], where the K atoms of the next state went. probs: [B, K]. support: [A], evenly spaced -> [B, A].
    """
    (low, high), last = support[[0, -1]].double(), len(support) - 1
    place = (returns.double() - low) * (last / (high - low))  # [B, K], counted in atoms, in 64 bits
    place = place.clamp(0, last)
    lower = place.floor().clamp(max=last - 1)
    share, lower = (place - lower).to(probs.dtype), lower.long()
    projected = torch.zeros(len(returns), len(support), device=probs.device, dtype=probs.dtype)
    projected.scatter_add_(1, lower, probs * (1 - share))
    return projected.scatter_add_(1, lower + 1, probs * share)


# %% tags=["D8"]
backed_up = {
    "reward 1, γ 0.9": (1.0, 0.9),
    "reward 8, γ 0.9": (8.0, 0.9),
    "reward 2.5, terminal": (2.5, 0.0),
}
figure, panels = plt.subplots(1, 3, figsize=(9.5, 2.4), sharex=True)
for axes, (title, (reward, discount)) in zip(panels, backed_up.items(), strict=True):
    moved = reward + discount * SUPPORT
    projected = project(moved[None], two_modes.float()[None], SUPPORT)[0]
    draw_distribution(axes, two_modes, color=plots.INK, alpha=0.35, label="next state")
    draw_distribution(axes, projected, alpha=0.8, label="projected target")
    exact = (two_modes * moved.clamp(V_MIN, V_MAX)).sum()
    axes.set(title=title, xlabel="return")
    print(f"{title:22s} mass {projected.sum():.6f}, mean {projected @ SUPPORT:.4f}, "
          f"mean of the clipped recipe {exact:.4f}")  # fmt: skip
panels[2].legend(loc="upper left", fontsize=8)
panels[0].set_ylabel("probability")
plt.show()

# %% [markdown]
# *Grey, the two-peaked distribution of a next state; blue, the target that Bellman's recipe makes of it. Left: squeezed
# and shifted. Middle: shifted over the edge, where what would lie beyond 10 piles up on the last atom. Right: at a
# terminal state everything stands at the reward, which the two nearest atoms share.* The printed means agree: sharing
# by distance keeps the mean exact. Only the ends distort it.
#
# The loop costs. A batch of 256 with 51 atoms is 13,056 turns of it for every update:

# %%
generator = torch.Generator().manual_seed(0)
batch_probs = torch.rand(256, ATOMS, generator=generator).softmax(-1)  # [B, ATOMS]
batch_rewards = 20 * torch.rand(256, 1, generator=generator) - 10
batch_returns = batch_rewards + 0.9 * SUPPORT  # [B, ATOMS]


def seconds_per_call(function: Callable[[], object], repeats: int) -> float:
    """The fastest of ``repeats`` calls."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return min(times)


looped = seconds_per_call(lambda: project_loop(batch_returns, batch_probs, SUPPORT), 3)
batched = seconds_per_call(lambda: project(batch_returns, batch_probs, SUPPORT), 100)
apart = project_loop(batch_returns, batch_probs, SUPPORT) - project(
    batch_returns, batch_probs, SUPPORT
)
print(
    f"loop {looped * 1e3:.1f} ms, batched {batched * 1e3:.3f} ms: {looped / batched:.0f} times as fast"
)
print(f"largest difference {apart.abs().max():.1e}")

# %% [markdown]
# ### Spot the bug: mass that vanishes on an atom
#
# ```python
# lower, upper = place.floor(), place.ceil()
# projected[lower] += probs * (upper - place)
# projected[upper] += probs * (place - lower)
# ```
#
# Many published versions of C51 compute the shares so. Both weights add up to one, as long as `upper - lower` is one.

# %%
swept = torch.arange(-200, 201).double() / 20  # terminal rewards, every 0.05
place = (swept - V_MIN) / DELTA_Z
lower, upper = place.floor(), place.ceil()
kept = (upper - place) + (place - lower)
certain = swept[:, None].expand(-1, ATOMS), uniform().double().expand(len(swept), -1)
ours = project(*certain, SUPPORT).sum(1)
figure, axes = plt.subplots(figsize=(7.2, 2.2))
axes.plot(swept, kept, color=plots.COLOURS[1], linewidth=1, label="floor and ceiling")
axes.plot(swept, ours, label="neighbours by distance")
axes.set(xlabel="reward at a terminal state", ylabel="mass of the target", ylim=(-0.05, 1.5))
axes.legend(loc="upper right", ncols=2)
plt.show()
print(
    f"of {len(swept)} rewards, {(kept == 0).sum()} lose their whole mass; at 0: mass {kept[200]:.0f}"
)

# %% [markdown]
# *The mass of the target against a terminal reward. Where the reward falls exactly on an atom, floor and ceiling are
# the same number, both shares are zero, and the whole target is gone.* Whole numbers such as 10, 0 and −10 are atoms of
# this grid, so the rewards that matter most are the ones that teach nothing. (The luck of rounding spares some atoms,
# which makes the fault harder to notice.)

# %% [markdown]
# ## Quantiles instead of atoms
#
# Atoms fix the values and learn probabilities, and what lies beyond the ends cannot be said. **Quantile regression**
# turns this round [(Dabney et al., 2018)](../book/bibliography.md#dabney2018): fix the probabilities and learn the
# values. The network gives $N_\tau$ numbers $q_i$ that cut the distribution into parts of equal probability; $q_i$
# stands for the level $\tau_i = (2i + 1) / (2 N_\tau)$, the middle of its part.
#
# What loss has a quantile as its minimum? One that charges for being too low at the rate $\tau$ and for being too high
# at the rate $1 - \tau$. Rounded off near zero by Huber's parabola, so that the gradient does not jump, it is, for a
# target $y$ with error $u = y - q_i$,
#
# $$
# \rho_{\tau_i}(u) = \big|\, \tau_i - \mathbb{1}[u < 0] \,\big| \; \frac{L_\kappa(u)}{\kappa}, \qquad
# L_\kappa(u) = \begin{cases} \tfrac{1}{2} u^2 & |u| \le \kappa \\ \kappa\,(|u| - \tfrac{1}{2}\kappa) & \text{otherwise} . \end{cases}
# $$


# %%
def quantile_levels(count: int) -> torch.Tensor:
    """The middles of ``count`` parts of equal probability: [count]."""
    return (torch.arange(count) + 0.5) / count


def quantile_loss(
    quantiles: torch.Tensor, targets: torch.Tensor, kappa: float = 0.05
) -> torch.Tensor:
    """Quantile Huber loss of every quantile against every target (Dabney et al. 2018, equation 10).

    quantiles: [B, K]. targets: [B, M] -> [B], summed over quantiles, averaged over targets.
    """
    levels = quantile_levels(quantiles.shape[1]).to(quantiles)[:, None]
    pairs = torch.broadcast_tensors(quantiles[:, :, None], targets[:, None])  # each [B, K, M]
    huber = nn.functional.smooth_l1_loss(*pairs, beta=kappa, reduction="none")
    too_high = pairs[1] < pairs[0]  # u < 0
    charge = torch.where(too_high, 1 - levels, levels)
    return torch.linalg.vecdot(charge, huber).sum(1) / targets.shape[1]


# %%
drops = torch.from_numpy(drug_x).float()  # the bimodal drug of the beginning
quantiles = torch.zeros(11, requires_grad=True)
descent = torch.optim.Adam([quantiles], lr=0.5)
for _ in range(600):
    loss = quantile_loss(quantiles[None], drops[None], kappa=1.0).sum()
    descent.zero_grad()
    loss.backward()
    descent.step()
figure, axes = plt.subplots(figsize=(7.2, 2.7))
axes.plot(
    np.sort(drug_x), (np.arange(PATIENTS) + 0.5) / PATIENTS, color=plots.INK, label="patients"
)
axes.plot(
    quantiles.detach(),
    quantile_levels(11),
    "o",
    color=plots.COLOURS[1],
    label="11 learned quantiles",
)
axes.hlines(
    quantile_levels(11), -32, quantiles.detach(), color=plots.COLOURS[1], linewidth=0.7, alpha=0.6
)
axes.set(xlabel="change in blood pressure (mmHg)", ylabel="share of patients below", xlim=(-32, 8))
axes.legend(loc="lower right")
plt.show()

# %% [markdown]
# *The grey curve counts the patients of drug X below each value; it climbs twice, once for each mode. The levels
# (height of the points) are fixed, evenly spaced; gradient descent has moved the points sideways onto the curve.* No
# range had to be chosen. The median, the sixth point, stands at the left edge of the empty stretch, because barely more
# than half of these patients belong to the left mode. A few patients more on the right would send it across to the
# other edge: where there is no mass, a quantile is uncertain.

# %% [markdown]
# ## Replay that prefers surprises
#
# Most transitions teach nothing new. The source's remedy is to put several copies of a rare one into the replay.
# **Prioritised replay** [(Schaul et al., 2016)](../book/bibliography.md#schaul2016) gives each transition a priority
# $d_i$, its last loss, and draws it with probability
#
# $$
# P(i) = \frac{d_i^{\,\omega}}{\sum_k d_k^{\,\omega}} , \qquad
# w_i = \Big( \frac{1}{N\, P(i)} \Big)^{\beta_{\mathrm{IS}}} .
# $$
#
# Drawing unevenly changes what the loss averages over, so each loss is weighted by $w_i$, divided by the largest of the
# batch. $\beta_{\mathrm{IS}}$ rises to 1 while training goes on. New transitions get the largest priority seen, so that
# each is looked at soon.
#
# Drawing one of a million in proportion needs a good structure. In a **sum tree** each node holds the sum of its two
# children; the leaves are the priorities. A random number below the total walks down: left if it is smaller than the
# left child, else right, less what it passed. That is twenty steps for a million leaves, and a whole batch walks
# together.


# %%
class SumTree:
    """Weights in the leaves of a binary tree whose nodes hold sums; all operations take whole batches."""

    def __init__(self, capacity: int) -> None:
        self.leaves = 1 << (capacity - 1).bit_length()
        self.sums = np.zeros(2 * self.leaves)  # the root is 1, the children of n are 2n and 2n + 1

    def set(self, places: np.ndarray, weights: np.ndarray) -> None:
        """Give leaves [B] new weights [B] and renew the sums above them."""
        nodes = places + self.leaves
        self.sums[nodes] = weights
        while nodes[0] > 1:
            nodes = nodes >> 1
            self.sums[nodes] = self.sums[2 * nodes] + self.sums[2 * nodes + 1]

    def find(self, amounts: np.ndarray) -> np.ndarray:
        """The leaves where the running sum of weights passes each amount [B] in [0, total): [B]."""
        nodes, amounts = np.ones(len(amounts), np.int64), amounts.copy()
        while nodes[0] < self.leaves:
            nodes = 2 * nodes
            left = self.sums[nodes]
            right = (amounts >= left) & (self.sums[nodes + 1] > 0)
            amounts -= left * right
            nodes += right
        return nodes - self.leaves


# %%
class PrioritisedReplay(Replay):
    """Replay in which a row is drawn in proportion to priority ** exponent (Schaul et al. 2016)."""

    def __init__(self, capacity: int, exponent: float) -> None:
        super().__init__(capacity)
        self.tree, self.exponent, self.largest = SumTree(capacity), exponent, 1.0

    def add(self, rows: NamedTuple) -> np.ndarray:
        places = super().add(rows)
        if len(places):
            self.set_priorities(places, np.full(len(places), self.largest))
        return places

    def set_priorities(self, places: np.ndarray, priorities: np.ndarray) -> None:
        """places, priorities: [B]. A priority of 0 is never drawn, whatever the exponent."""
        self.largest = max(self.largest, priorities.max())
        weights = np.where(priorities > 0, priorities**self.exponent, 0.0)
        self.tree.set(places, weights)

    def draw(
        self, size: int, is_exponent: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Places [size], one from each of ``size`` equal shares of the total, and importance weights in (0, 1]."""
        total = self.tree.sums[1]
        places = self.tree.find((np.arange(size) + rng.random(size)) * total / size)
        chances = self.tree.sums[places + self.tree.leaves] / total
        weights = (len(self) * chances) ** -is_exponent
        return places, (weights / weights.max()).astype(np.float32)


# %%
class Row(NamedTuple):
    number: np.ndarray


rng = np.random.default_rng(0)
small = PrioritisedReplay(8, exponent=0.6)
small.add(Row(np.arange(8)))
priorities = np.array([0, 1, 2, 3, 5, 8, 13, 21], float)
small.set_priorities(np.arange(8), priorities)
drawn = np.bincount(np.concatenate([small.draw(64, 1.0, rng)[0] for _ in range(2000)]), minlength=8)
wanted = np.where(priorities > 0, priorities**0.6, 0)
print("drawn  ", np.round(drawn / drawn.sum(), 3))
print("d^0.6  ", np.round(wanted / wanted.sum(), 3))

million = PrioritisedReplay(1_000_000, exponent=0.6)
million.add(Row(np.arange(1_000_000)))
million.set_priorities(np.arange(1_000_000), rng.random(1_000_000))
seconds = seconds_per_call(lambda: million.draw(512, 0.5, rng), 50)
print(f"one million entries: {512 / seconds:,.0f} draws a second, in batches of 512")

# %% [markdown]
# *The first line counts draws, the second is what the formula asks for.* The transition with priority 0 never comes up;
# the chapter's tests compare many draws with the formula.

# %% [markdown]
# ### Spot the bug: half of prioritised replay
#
# ```python
# chances = priorities / priorities.sum()
# loss = losses[drawn].mean()
# ```
#
# Draw by priority, learn from what was drawn, as usual. What is missing? Take the simplest thing to learn, the mean
# prize of a lottery: of 1,000 tickets, 50 win 10 and the others nothing. The guess moves towards each ticket drawn, and
# a ticket's priority is how far the guess was off.


# %%
def guess_the_mean(is_exponent: float, updates: int, seed: int) -> list[float]:
    """The guess of a lottery's mean prize, update by update, when tickets are drawn by surprise."""
    rng = np.random.default_rng(seed)
    tickets, guesses = PrioritisedReplay(1000, exponent=1.0), [0.0]
    tickets.add(Row(np.where(np.arange(1000) < 50, 10.0, 0.0)))
    for _ in range(updates):
        places, weights = tickets.draw(32, is_exponent, rng)
        errors = tickets.rows(places).number - guesses[-1]
        guesses.append(guesses[-1] + 0.02 * (weights * errors).mean())
        tickets.set_priorities(places, np.abs(errors) + 1e-3)
    return guesses


figure, axes = plt.subplots(figsize=(7.2, 2.5))
for exponent, name in {0.0: "no weights", 0.5: "exponent 0.5", 1.0: "exponent 1"}.items():
    axes.plot(
        guess_the_mean(exponent, updates=by_budget(500, 3000), seed=0), label=name, linewidth=1.4
    )
axes.axhline(0.5, color=plots.INK, linestyle=":", label="true mean")
axes.set(xlabel="update", ylabel="guess of the mean prize", ylim=(0, 3.4))
axes.legend(loc="upper right", ncols=2)
plt.show()

# %% [markdown]
# *Without importance weights (blue) the guess shoots up and settles at nearly four times the true mean: winning tickets
# are surprising, are drawn more often, and drag it up. With the full exponent (green) it rises more slowly and settles
# on the truth. That is why the exponent may start below 1, but has to end there.*

# %% [markdown]
# ## Freeway
#
# A chicken wants to cross a motorway of ten lanes. The agent has three actions: wait, up, down. Each crossing scores 1;
# each car that hits it throws the chicken back and stuns it for a moment. An episode lasts 2,048 decisions of four
# frames each, whatever happens. And the buttons stick: at every frame the emulator repeats the previous action with
# probability 0.25, so that a memorised sequence of buttons goes astray
# [(Machado et al., 2018)](../book/bibliography.md#machado2018).
#
# The traffic, though, is the same in every game. Whatever the seed and whatever the chicken does, the ten cars set out
# from the same places and follow the same timetable to the last decision; games differ only in which buttons stick. So
# what can be memorised is not the buttons but the traffic. We shall see whether an agent does that.
#
# The source does not learn from pixels but from the console's memory, 128 bytes, and so do we. Someone who holds the UP
# button does not do badly at all: 21 crossings, in every game. An agent that merely learns "up is good" reaches that,
# so this, and not random play, is the floor to beat. <!-- held: floor -->


# %%
WAIT, UP, DOWN = 0, 1, 2
EPISODE = 2048  # decisions


def make_freeway(num_envs: int) -> gym.vector.SyncVectorEnv:
    """Freeway with sticky actions; observations are the console's memory, [N, 128] bytes."""
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    one = partial(gym.make, "ALE/Freeway-v5", obs_type="ram")
    return gym.vector.SyncVectorEnv([one] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)


def play_freeway(policy: Policy, episodes: int, seed: int) -> np.ndarray:
    """Crossings in each of ``episodes`` whole games under ``policy(ram [N, 128]) -> actions [N]``."""
    envs = make_freeway(episodes)
    stream = transitions(envs, policy, seed)
    crossings = sum(next(stream).rewards for _ in range(EPISODE))
    envs.close()
    return crossings


# %% tags=["D7"]
GAMES = by_budget(smoke=1, laptop=4)
draw_actions = np.random.default_rng(0)
held = play_freeway(lambda ram: np.full(len(ram), UP), GAMES, seed=0)
random_play = play_freeway(lambda ram: draw_actions.integers(3, size=len(ram)), GAMES, seed=0)
print(f"holding UP: {held.mean():.1f} crossings; random play: {random_play.mean():.1f}")

# %% [markdown]
# Every random game ends at 0: a random walk with stuns does not climb ten lanes. Here is the memory while UP is held
# for a while.

# %%
envs = make_freeway(1)
climb = transitions(envs, lambda ram: np.full(len(ram), UP), seed=0)
memory = np.concatenate([next(climb).obs for _ in range(220)]).T  # [128, T]
moving = np.flatnonzero(memory.std(1) > 0)
figure, (picture, lines) = plt.subplots(1, 2, figsize=(9.5, 3.0), width_ratios=(1, 1.4))
picture.imshow(memory, aspect="auto", cmap="cividis", interpolation="nearest")
picture.set(title="128 bytes", xlabel="decision", ylabel="byte")
picture.grid(visible=False)
for byte, name in {14: "byte 14", 106: "byte 106", 108: "byte 108", 113: "byte 113"}.items():
    lines.plot(memory[byte], label=name, linewidth=1.4)
lines.set(title="four of them", xlabel="decision", ylabel="value", ylim=(0, 235))
lines.legend(ncols=4, loc="upper center", fontsize=8)
plt.show()
envs.close()
print(f"{len(moving)} bytes move, {128 - len(moving)} stand still")

# %% [markdown]
# *Left: every byte over 220 decisions of holding UP, bright is large. Right: four of them. Byte 14 climbs: the
# chicken's height, which falls back to the bottom at each crossing. Byte 106 counts down while the chicken is stunned,
# or pauses after a crossing. Bytes 108 to 117 are the cars' places, one lane each; they run around from 159 to 0 or the
# other way.* The fastest cars come round every 40 decisions, the slowest every 200, and the pattern of all ten repeats
# itself only after 2,400, which is longer than a game.
#
# ### What the network sees
#
# A network that is fed the raw bytes has to find all of this out. We will also give it more and more of what is known:
#
# - **raw**: all 128 bytes, divided by 255.
# - **chosen**: only the chicken's height, lane and stun, and the ten cars.
# - **phases**: a car at 159 is next to a car at 0, but the numbers are far apart. So each place becomes an angle, given
#   by sine and cosine of one, two and four times that angle; the height likewise, with ten waves.


# %%
HEIGHT, LANE, STUN, CARS = 14, 16, 106, slice(108, 118)  # places in the console's memory
TOP, WIDTH = 177.0, 160.0  # of the motorway, in pixels
SEES = {"raw": 128, "chosen": 13, "phases": 83}  # what the network sees -> number of inputs


def encode(ram: torch.Tensor, sees: str) -> torch.Tensor:
    """What the network sees of the console's memory. ram: [B, 128] bytes -> [B, SEES[sees]]."""
    if sees == "raw":
        return ram.float() / 255
    height, cars = ram[:, HEIGHT, None] / TOP, ram[:, CARS] / WIDTH
    others = ram[:, [LANE, STUN]] / 255.0
    if sees == "chosen":
        return torch.cat([height, others, cars], 1)
    waves = torch.arange(1, 11, device=ram.device)
    angles = torch.cat([math.pi * waves * height, *(2 * math.pi * k * cars for k in (1, 2, 4))], 1)
    return torch.cat([height, others, angles.sin(), angles.cos()], 1)


# %% [markdown]
# ### Reward on the way
#
# A crossing takes more than 40 decisions, and until the first one the score says nothing. **Potential-based shaping**
# pays for progress, $\Phi(s)$ being the chicken's height as a fraction of the road:
#
# $$
# r' = r + \gamma\, \Phi(s') - \Phi(s) .
# $$
#
# Every such payment is taken back later: the sum telescopes, so the best policy is the same with and without
# [(Ng et al., 1999)](../book/bibliography.md#ng1999). A crossing pays 1 and throws the chicken from about $\Phi = 1$
# back to 0, so with shaping the agent is paid for each pixel instead of for each crossing.


# %%
def shape_rewards(step: Transition, discount: float) -> Transition:
    """The same transition with potential-based shaping on the chicken's height."""
    before, after = step.obs[:, HEIGHT] / TOP, step.next_obs[:, HEIGHT] / TOP
    return step._replace(rewards=step.rewards + discount * after * ~step.terminated - before)


def source_rewards(step: Transition) -> Transition:
    """The source's rewards: 10 for a crossing, -10 at the end of the game, and -1 for all else."""
    rewards = np.where(step.rewards > 0, 10.0, np.where(step.terminated, -10.0, -1.0))
    return step._replace(rewards=rewards)


# %% [markdown]
# ### The network
#
# One network serves the whole comparison. For each action it gives $K$ numbers: 51 logits, or 51 quantiles, or a single
# mean. Two of Rainbow's parts live here:
#
# - **Dueling** [(Wang et al., 2016)](../book/bibliography.md#wang2016) has two streams: one says what all actions
#   share, the other each action's advantage over the average of them.
# - **Noisy** layers [(Fortunato et al., 2018)](../book/bibliography.md#fortunato2018) replace ε-greedy: weights have a
#   learned standard deviation, and acting with a random draw of them explores. The noise of a layer with $p$ inputs and
#   $q$ outputs is an outer product of $p + q$ numbers, $f(x) = \operatorname{sign}(x) \sqrt{|x|}$ of normal ones.


# %%
class NoisyLinear(nn.Linear):
    """A linear layer with factorised Gaussian noise on its weights in training mode (Fortunato et al. 2018)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.weight_std = nn.Parameter(torch.full((outputs, inputs), 0.5 / math.sqrt(inputs)))
        self.bias_std = nn.Parameter(torch.full((outputs,), 0.5 / math.sqrt(inputs)))
        self.register_buffer("noise_in", torch.zeros(inputs), persistent=False)
        self.register_buffer("noise_out", torch.zeros(outputs), persistent=False)

    def draw(self, rng: np.random.Generator) -> None:
        """New noise, which stays until the next draw."""
        for noise in (self.noise_in, self.noise_out):
            normal = torch.from_numpy(rng.standard_normal(len(noise), np.float32))
            noise.copy_(normal.sign() * normal.abs().sqrt())

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, inputs] -> [B, outputs]
        if not self.training:
            return super().forward(x)
        weight = self.weight + self.weight_std * torch.outer(self.noise_out, self.noise_in)
        return nn.functional.linear(x, weight, self.bias + self.bias_std * self.noise_out)


# %%
def draw_noise(network: nn.Module, rng: np.random.Generator) -> None:
    """New noise in every noisy layer of a network."""
    for layer in network.modules():
        if isinstance(layer, NoisyLinear):
            layer.draw(rng)


class ValueNet(nn.Module):
    """From the console's memory to K numbers for each of three actions: [B, 128] -> [B, 3, K]."""

    def __init__(self, sees: str, outputs: int, dueling: bool, noisy: bool) -> None:
        super().__init__()
        linear = NoisyLinear if noisy else nn.Linear

        def stream(outputs: int) -> nn.Sequential:
            return nn.Sequential(linear(256, 256), nn.ReLU(), linear(256, outputs))

        self.sees = sees
        self.body = nn.Sequential(nn.Linear(SEES[sees], 256), nn.ReLU())
        self.advantages = stream(3 * outputs)
        self.value = stream(outputs) if dueling else None

    def forward(self, ram: torch.Tensor) -> torch.Tensor:
        features = self.body(encode(ram, self.sees))  # [B, 256]
        outputs = self.advantages(features).unflatten(1, (3, -1))
        if self.value is None:
            return outputs
        return self.value(features)[:, None] + outputs - outputs.mean(1, keepdim=True)


# %% [markdown]
# ### One agent, many variants
#
# Everything that will be compared is a field of one config. The defaults are C51 with its helpers. The agent that we
# train longest learns quantiles instead: in the comparison further down, each of their three seeds did better than each
# of C51's. Two more parts need a word first. <!-- held: quantiles_ahead -->
#
# **n-step returns** add up $n$ rewards before they ask the network:
#
# $$
# r_t + \gamma\, r_{t+1} + \dots + \gamma^{n-1} r_{t+n-1} + \gamma^n Z(s_{t+n}, a^*) ,
# $$
#
# so that news travels $n$ steps with one update. The end of a game cuts the sum short. The actions in between are those
# that were played, exploration included; the sum is not corrected for that.
#
# **Double DQN** chooses $a^*$ with the online network and rates it with the target network. A single network that does
# both prefers the actions it overrates.
#
# The atoms here stand between −0.5 and 1.5. With shaping, a return is the true one less the present height, and both
# are at most a crossing or so: at $\gamma = 0.98$ a reward 50 decisions away counts a third. For the same reason the
# Huber threshold of the quantiles is 0.05.


# %%
CHOICES = {
    "returns": ("categorical", "quantile", "mean", "smear"),
    "sees": tuple(SEES),
    "replay": ("prioritised", "uniform", "copies"),
}
CAPACITY, WARM_UP = 200_000, 4096  # rows in the replay, and before the first update
EXPONENT, FIRST_IS_EXPONENT = 0.6, 0.4  # of prioritised replay, as in Schaul et al. 2016
RANGES = {"categorical": (-0.5, 1.5), "smear": (V_MIN, V_MAX)}  # of the atoms


# %%
@dataclass(frozen=True)
class AgentConfig:
    """An agent for Freeway; the defaults are the chapter's."""

    returns: str = "categorical"  # or "quantile", "mean", or "smear", the source's update
    sees: str = "phases"  # or "raw", "chosen"
    shaping: bool = True
    replay: str = "prioritised"  # or "uniform", or "copies": uniform, crossings put in six times
    double: bool = True
    dueling: bool = False
    noisy: bool = False
    n_step: int = knob(5, 1, 10, "rewards summed before bootstrapping")
    discount: float = knob(0.98, 0.9, 0.999, "weight of the next decision's value")
    persistence: float = knob(4.0, 1.0, 10.0, "mean length of an exploratory action, in decisions")
    exploration: float = knob(
        0.03, 0.0, 0.5, "share of exploratory decisions in the end; 0: none ever"
    )
    learning_rate: float = knob(5e-4, 1e-5, 1e-2, "Adam's step size at first; falls to a tenth")
    sync_every: int = knob(200, 1, 2000, "updates between two copies to the target network")
    steps: int = knob(501_760, 1024, 2_000_000, "decisions in all environments together", step=1024)
    num_envs: int = 16
    batch: int = 128  # rows of an update
    updates: int = 2  # per decision of all environments

    def __post_init__(self) -> None:
        check_config(self)
        for field, allowed in CHOICES.items():
            if getattr(self, field) not in allowed:
                raise ValueError(
                    f"AgentConfig.{field} is {getattr(self, field)!r}; it has to be one of {', '.join(allowed)}."
                )
        if self.returns == "smear" and self.n_step > 1:
            raise ValueError(f"AgentConfig.n_step is {self.n_step}; it has to be 1 for the smear.")


# %%
def make_network(config: AgentConfig) -> ValueNet:
    outputs = 1 if config.returns == "mean" else ATOMS
    return ValueNet(config.sees, outputs, config.dueling, config.noisy)


def atoms_of(config: AgentConfig) -> torch.Tensor | None:
    """The support of a categorical agent: [ATOMS]; None for the others."""
    return torch.linspace(*RANGES[config.returns], ATOMS) if config.returns in RANGES else None


def expected(outputs: torch.Tensor, support: torch.Tensor | None) -> torch.Tensor:
    """The mean that the network's outputs stand for. outputs: [..., K] -> [...]."""
    if support is None:
        return outputs.mean(-1)
    return outputs.softmax(-1) @ support.to(outputs.device)


# %%
def losses_of(
    network: ValueNet, target_network: ValueNet, rows: Experience, config: AgentConfig
) -> torch.Tensor:
    """How wrong the network is about each row: [B]. For distributions on atoms, the divergence from the target."""
    support, batch = atoms_of(config), torch.arange(len(rows.actions))
    with torch.no_grad():
        following = target_network(rows.next_obs)  # [B, A, K]
        chooser = network(rows.next_obs) if config.double else following
        greedy = expected(chooser, support).argmax(1)
        chosen = rows.actions if config.returns == "smear" else greedy  # as the source has it
        following = following[batch, chosen]  # [B, K]
    outputs = network(rows.obs)[batch, rows.actions]  # [B, K]
    rewards, discounts = rows.rewards[:, None], rows.discounts[:, None]
    if config.returns == "quantile":
        return quantile_loss(outputs, rewards + discounts * following)
    if config.returns == "mean":
        wanted = rewards + discounts * following
        return nn.functional.huber_loss(outputs, wanted, reduction="none")[:, 0]
    if config.returns == "smear":
        target = source_target(following.softmax(-1), rows.rewards)
    else:
        target = project(
            rewards + discounts * support.to(outputs.device),
            following.softmax(-1),
            support.to(outputs.device),
        )
    return cross_entropy(outputs, target) + torch.xlogy(target, target).sum(-1)


def source_target(probs: torch.Tensor, rewards: torch.Tensor) -> torch.Tensor:
    """The source's listing 7.7: a smear for -1, and certainty of any other reward. [B, ATOMS], [B] -> [B, ATOMS]."""
    place = ((rewards - V_MIN) / DELTA_Z).round().long()
    certain = nn.functional.one_hot(place, ATOMS).float()
    return torch.where(rewards[:, None] == -1, smear(probs, rewards, pull=0.1), certain)


# %% [markdown]
# ### Exploring in earnest
#
# How should the agent explore? With ε-greedy each exploratory decision lasts four frames. To learn that waiting for a
# slow car pays, the chicken has to wait ten times in a row, and single random decisions never add up to that. So an
# exploratory action is *held* for a random number of decisions, four on average
# ([Dabney et al., 2021](../book/bibliography.md#dabney2021), call a cousin of this εz-greedy). That is the argument for
# it; the comparison below will not bear it out.


# %%
class Explorer:
    """Greedy actions, now and then replaced by a random one that is held for a while; noise explores by itself."""

    def __init__(self, network: ValueNet, config: AgentConfig, seed: int, steps: int) -> None:
        self.network, self.config, self.steps = network, config, steps
        self.support = atoms_of(config)
        self.rng = np.random.default_rng([seed, steps])
        self.held = np.zeros(config.num_envs, np.int64)
        self.left = np.zeros(config.num_envs, np.int64)

    def chance(self) -> float:
        """The share of exploratory decisions now: falls from 1 during the first seventh of the training."""
        if self.config.exploration == 0:
            return 0.0
        return max(self.config.exploration, 1 - 7 * self.steps / self.config.steps)

    def __call__(self, ram: np.ndarray) -> np.ndarray:  # [N, 128] -> [N]
        draw_noise(self.network, self.rng)
        device = next(self.network.parameters()).device
        with torch.no_grad():
            outputs = self.network(torch.from_numpy(ram).to(device))
        greedy = expected(outputs, self.support).argmax(1).cpu().numpy()
        share, length = self.chance(), self.config.persistence
        begins = share / (
            share + length * (1 - share)
        )  # so that ``share`` of all decisions explore
        begin = (self.left == 0) & (self.rng.random(len(ram)) < begins)
        self.held = np.where(begin, self.rng.integers(3, size=len(ram)), self.held)
        self.left = np.where(begin, self.rng.geometric(1 / length, len(ram)), self.left)
        actions = np.where(self.left > 0, self.held, greedy)
        self.left = np.maximum(self.left - 1, 0)
        self.steps += len(ram)
        return actions


# %% [markdown]
# ### The training loop
#
# The emulators run in a process of their own. It sends the memory of all 16 games, gets 16 actions back, and while it
# plays them on the second core, the first one learns. A thread would not do: the emulator keeps Python's lock while it
# computes.


# %%
def play(connection: Connection, num_envs: int, seed: int) -> None:
    """The life of the emulators' process: memory out, actions in, the transition out, again and again."""

    def ask(ram: np.ndarray) -> np.ndarray:
        connection.send(ram)
        return connection.recv()

    with closing(make_freeway(num_envs)) as envs:
        for step in transitions(envs, ask, seed):
            connection.send(step)


# %%
class Learner:
    """The network, its target, the optimiser and the replay: everything that changes when learning."""

    def __init__(self, config: AgentConfig, seed: int, device: str) -> None:
        torch.manual_seed(seed)
        self.config, self.device, self.updates = config, device, 0
        self.network = make_network(config).to(device)
        self.target_network = copy.deepcopy(self.network)
        self.optimiser = torch.optim.Adam(
            self.network.parameters(), config.learning_rate, eps=1e-5, fused=True
        )
        prioritised = config.replay == "prioritised"
        self.replay = PrioritisedReplay(CAPACITY, EXPONENT) if prioritised else Replay(CAPACITY)
        self.rng = np.random.default_rng([seed, 1])

    def remember(self, rows: Experience) -> None:
        self.replay.add(rows)
        if self.config.replay == "copies":
            fell = rows.obs[:, HEIGHT].astype(int) - rows.next_obs[:, HEIGHT] > TOP / 2
            rare = Experience(*(column[fell] for column in rows))  # back at the bottom: it crossed
            for _ in range(5 * (len(rare.actions) > 0)):
                self.replay.add(rare)


# %%
def update(learner: Learner, done: float) -> float:
    """One step of gradient descent; ``done`` is the finished share of the training. Returns the mean loss."""
    for group in learner.optimiser.param_groups:
        group["lr"] = learner.config.learning_rate * (1 - 0.9 * done)
    weights = torch.ones(learner.config.batch)
    if learner.config.replay == "prioritised":
        is_exponent = FIRST_IS_EXPONENT + (1 - FIRST_IS_EXPONENT) * done
        places, weights = learner.replay.draw(learner.config.batch, is_exponent, learner.rng)
        rows, weights = learner.replay.rows(places), torch.from_numpy(weights)
    else:
        rows = learner.replay.sample(learner.config.batch, learner.rng)
    rows = Experience(*(torch.from_numpy(column).to(learner.device) for column in rows))
    for network in (learner.network, learner.target_network):
        draw_noise(network, learner.rng)
    losses = losses_of(learner.network, learner.target_network, rows, learner.config)  # [B]
    learner.optimiser.zero_grad()
    (weights.to(learner.device) * losses).mean().backward()
    nn.utils.clip_grad_norm_(learner.network.parameters(), 10.0)
    learner.optimiser.step()
    if learner.config.replay == "prioritised":
        priorities = losses.detach().cpu().numpy().astype(float)
        learner.replay.set_priorities(places, np.maximum(priorities, 1e-6))
    learner.updates += 1
    if learner.updates % learner.config.sync_every == 0:
        learner.target_network.load_state_dict(learner.network.state_dict())
    return losses.mean().item()


# %%
def reward_for_learning(step: Transition, config: AgentConfig) -> Transition:
    """The transition with the rewards that the agent learns from."""
    if config.returns == "smear":
        return source_rewards(step)
    return shape_rewards(step, config.discount) if config.shaping else step


# %%
def train(
    config: AgentConfig, seed: int, state: dict | None = None, device: str = "cpu"
) -> Iterator[Progress]:
    """Play Freeway and learn from it; a Progress after every eight decisions of all environments.

    Resumed from a state (weights, optimiser, counters), it begins new games and fills the replay anew.
    """
    learner, steps = Learner(config, seed, device), state["steps"] if state else 0
    if state:
        restore(learner, state)
    explorer = Explorer(learner.network, config, seed, steps)
    n_step = NStep(config.n_step, config.discount)
    scores = deque(state["scores"] if state else (), maxlen=512)  # mean rewards of recent decisions
    loss = state["loss"] if state else 0.0
    process, games = spawn(play, config.num_envs, 10_000_000 * seed + 1000 * steps)
    try:
        while True:
            losses = []
            for _ in range(8 * (steps < config.steps)):
                games.send(explorer(games.recv()))
                if len(learner.replay) >= WARM_UP:
                    losses += [update(learner, steps / config.steps) for _ in range(config.updates)]
                step = games.recv()
                scores.append(step.rewards.mean().item())
                learner.remember(n_step(reward_for_learning(step, config)))
                steps += config.num_envs
            loss = np.mean(losses).item() if losses else loss
            metrics = {"crossings": EPISODE * np.mean(scores).item(), "loss": loss}
            rest = {"steps": steps, "scores": list(scores), "loss": loss}
            yield Progress(
                steps, config.steps, metrics, partial(snapshot, learner, rest), "decision"
            )
            if steps >= config.steps:
                return
    finally:
        games.close()
        process.wait()


# %%
def snapshot(learner: Learner, rest: dict) -> dict:
    """What a training continues from."""
    parts = {"network": learner.network, "target_network": learner.target_network}
    state = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
    optimiser = copy.deepcopy(learner.optimiser.state_dict())
    return {"updates": learner.updates, "optimiser": optimiser, **state, **rest}


def restore(learner: Learner, state: dict) -> None:
    """Put a snapshot, fresh or from a checkpoint, back into a learner."""
    state = as_tensors(state)
    learner.network.load_state_dict(state["network"])
    learner.target_network.load_state_dict(state["target_network"])
    learner.optimiser.load_state_dict(state["optimiser"])
    learner.updates = state["updates"]


def greedy_policy(config: AgentConfig, state: dict) -> Policy:
    """The agent without exploration: ram [N, 128] -> actions [N]."""
    network, support = make_network(config).eval(), atoms_of(config)
    network.load_state_dict(as_tensors(state["network"]))

    def act(ram: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return expected(network(torch.from_numpy(ram)), support).argmax(1).numpy()

    return act


# %% [markdown]
# Now train it, live, with quantiles, for about two thirds of the decisions of the stored runs below: some six minutes on
# two cores. The curve counts crossings over the last quarter of a game in all 16 of them, scaled to a whole game;
# exploration is included, so the agent plays a little worse there than it can.

# %% tags=["D7"]
HEADLINE_CONFIG = AgentConfig(returns="quantile", steps=450_560)
LIVE = by_budget(
    smoke=replace(HEADLINE_CONFIG, steps=6144, num_envs=8),
    laptop=replace(HEADLINE_CONFIG, steps=286_720),
)
live = watch(
    train(LIVE, seed=1, state=resume("../runs/ch02_freeway.safetensors", LIVE, 1)),
    "crossings",
    floor=held.mean(),
    floor_label="holding UP",
    save_to="../runs/ch02_freeway.safetensors",
    config=LIVE,
    seed=1,
)

# %%
EVALUATED = by_budget(smoke=2, laptop=10)
fresh = play_freeway(greedy_policy(LIVE, live.state), EVALUATED, seed=20_000)
print(
    f"greedy, {EVALUATED} other games: {fresh.mean():.1f} crossings, each game {fresh.astype(int)}"
)
print(f"holding UP {held.mean():.1f}, random play {random_play.mean():.1f}; the source asks for 4")

# %% [markdown]
# *Crossings against decisions; the dotted line is what holding UP scores.* The games printed below the curve are not
# those of the training, but they differ from them in the sticky buttons only. The source calls four crossings trained.
# The next figure has the stored runs of this agent, which learned for longer.


# %%
def floor_of_up() -> float:
    """What holding UP scores in the games in which the stored agents were scored."""
    runs = results.runs("D7", "freeway")
    return np.mean([run["baselines"]["freeway_crossings"] for run in runs])


def draw_stored(axes: Axes, row: str, name: str, label: str) -> None:
    """Crossings while learning over thousands of decisions, averaged over four stored points; a band over seeds."""
    stored = results.curves(row, name, "crossings")
    crossings = np.stack([np.convolve(curve, np.full(4, 0.25), "valid") for curve in stored])
    plots.bands(axes, results.curves(row, name, "decisions")[0][3:] / 1000, crossings, label)


figure, axes = plt.subplots()
draw_stored(axes, "D7", "freeway", "this chapter's agent, exploring")
axes.axhline(floor_of_up(), color=plots.INK, linestyle=":", label="holding UP")
axes.axhline(0, color=plots.INK, linewidth=1, label="random policy")
axes.set(xlabel="thousand decisions", ylabel="crossings a game", ylim=(-1, 34))
axes.legend(loc="lower right")
plt.show()
for run in results.runs("D7", "freeway"):
    found = run["metrics"]
    print(f"seed {run['seed']}: {found['freeway_crossings']:.1f} crossings greedily over 10 other games, "
          f"trained in {found['freeway_seconds']:.0f} s on {run['cores']} cores")  # fmt: skip

# %% [markdown]
# *Crossings a game of the stored runs, while they explore: the mean, each of the three seeds as a thin line, and their
# range as a band. Every seed passes the score of UP alone within a fifth of its decisions; the mean stands near 27 at a
# quarter, and the last few crossings come slowly. Greedily, each seed ends at about 32.* <!-- held: headline -->
#
# No published number stands beside ours, because it would be another task: the literature's agents learn from pixels,
# for 200 million frames, and C51's were scored without sticky buttons
# [(Bellemare et al., 2017)](../book/bibliography.md#bellemare2017). Ours has made less than half a million decisions,
# or two million frames, but it was told a good deal.
#
# ### Rules or timetable?
#
# Eleven crossings more than UP: does the agent know how to cross a road, or does it know this one? The console's memory
# can be written as well as read. We let the same ten cars set out from other places, drawn anew for each game; lanes,
# directions and speeds stay as they are, and so do the rules. The stored agents and someone who holds UP play the same
# displaced games.


# %%
class DisplacedCars(gym.Wrapper):
    """Freeway whose ten cars set out from random places."""

    def reset(self, **arguments: object) -> tuple[np.ndarray, dict]:
        _, info = self.env.reset(**arguments)
        for lane in range(*CARS.indices(128)):
            self.unwrapped.ale.setRAM(lane, int(self.np_random.integers(WIDTH)))
        return self.unwrapped.ale.getRAM(), info


def play_displaced(policy: Policy, games: int, seed: int) -> np.ndarray:
    """Crossings in each of ``games`` whole games with displaced cars; the same games for every policy."""
    one = lambda: DisplacedCars(gym.make("ALE/Freeway-v5", obs_type="ram"))
    with closing(SpreadEnvs([one] * games, autoreset_mode=AutoresetMode.SAME_STEP)) as envs:
        stream = transitions(envs, policy, seed)
        return sum(next(stream).rewards for _ in range(EPISODE))


def stored_agent(seed: int) -> dict:
    """The weights of the agent that the stored run with this seed has trained."""
    path = results.run_path("D7", "freeway", seed).with_suffix(".safetensors")
    return load_checkpoint(path, HEADLINE_CONFIG, seed)["state"]


# %%
AGENTS, DISPLACED = by_budget(smoke=1, laptop=3), by_budget(smoke=1, laptop=3)
policies = {"holding UP": lambda ram: np.full(len(ram), UP)}
at_home = {"holding UP": floor_of_up()}
for run in results.runs("D7", "freeway")[:AGENTS]:
    name = f"agent, seed {run['seed']}"
    policies[name] = greedy_policy(HEADLINE_CONFIG, stored_agent(run["seed"]))
    at_home[name] = run["metrics"]["freeway_crossings"]
elsewhere = {name: play_displaced(act, DISPLACED, seed=40_000) for name, act in policies.items()}

figure, axes = plt.subplots(figsize=(7.2, 2.4))
plots.bars(axes, elsewhere)
axes.plot(list(at_home.values()), range(len(at_home)), "D", color=plots.INK,
          label="in the game's own traffic")  # fmt: skip
axes.set(xlabel="crossings with displaced cars", xlim=(0, 40))
axes.legend(loc="upper right")
plt.show()

# %% [markdown]
# *Bars: mean crossings over the displaced games, a circle for each game. Diamonds: the same policies in the traffic
# that the game always has. With displaced cars the agents cross less often than someone who just holds UP.*
# <!-- held: timetable -->
#
# So the agents have learned this traffic, not how to read any traffic. Nothing in their training asked for more: they
# met one timetable, again and again, and its patterns of ten cars are all that the network was ever fitted to. Every
# score of this chapter, and every published one for the game's own traffic, is to be read with that in mind. Whether
# training with displaced cars would teach more, we have not measured.
#
# ### What each piece of knowledge buys
#
# Back to the game's own traffic. How much of the score is the algorithm, and how much was told? The next figure starts
# with the raw bytes and adds one piece at a time, each for three seeds and a seventh of the steps.

# %%
BRIEF = AgentConfig(steps=65_536)
QUANTILES = replace(HEADLINE_CONFIG, steps=BRIEF.steps)
PLAIN = replace(QUANTILES, sees="raw", shaping=False, persistence=1.0)
HELD = replace(PLAIN, persistence=QUANTILES.persistence)
KNOWLEDGE = {
    "raw": PLAIN,
    "held": HELD,
    "shaped": replace(HELD, shaping=True),
    "chosen": replace(HELD, shaping=True, sees="chosen"),
    "brief": BRIEF,
    "uniform": replace(BRIEF, replay="uniform"),
    "copies": replace(BRIEF, replay="copies"),
}


def stored_crossings(row: str, name: str) -> list[float]:
    """Greedy crossings of a variant's stored runs, one number a seed."""
    return [run["metrics"][f"crossings_{name}"] for run in results.runs(row, name)]


def draw_crossings(axes: Axes, variants: Mapping[str, tuple[str, str]], title: str) -> None:
    """Bars over seeds of label -> (row, name); what holding UP scores as a dotted line."""
    plots.bars(axes, {label: stored_crossings(*where) for label, where in variants.items()})
    axes.axvline(floor_of_up(), color=plots.INK, linestyle=":")
    axes.set(title=title, xlabel="crossings, greedy", xlim=(0, 34))


# %%
figure, (ladder, replays) = plt.subplots(1, 2, figsize=(9.5, 2.8), width_ratios=(1.3, 1))
told = {
    "raw bytes": ("D7", "raw"),
    "+ held exploration": ("D7", "held"),
    "+ shaping": ("D7", "shaped"),
    "+ chosen bytes": ("D7", "chosen"),
    "+ as phases": ("D8", "quantiles"),
}
replayed = {"uniform": "uniform", "copies of crossings": "copies", "prioritised": "brief"}
replayed = {label: ("D7", name) for label, name in replayed.items()}
draw_crossings(ladder, told, "what it is told")
draw_crossings(replays, replayed, "what it replays (with C51)")
plt.show()

# %% [markdown]
# *Greedy crossings over ten games after 65,536 decisions: a circle is a seed, a bar their mean, a line the range of the
# three seeds; the dotted line is UP held down. Left: every bar adds one piece to the one above it, and all of them
# already have n-step returns, prioritised replay and quantiles. From raw bytes an agent learns to beat UP or learns
# nothing: one seed of three ends at 0, and with held exploration two. Shaping lifts every seed above UP. Choosing the
# bytes brings no further gain. Giving their phases does: each of its seeds is above every other circle.*
# <!-- held: told -->
#
# *Right, with C51: prioritised draws, even draws, and even draws from a replay in which the source's trick puts every
# row that spans a crossing five times more. (Our rows are five decisions long, so a crossing stands in five of them and
# brings 25 rows more.) The three means, from 22.4 to 24.4, lie closer together than the seeds of the prioritised draws
# do among themselves: three seeds do not tell the kinds apart.* <!-- held: replayed -->
#
# So at a seventh of the training the agent that was told everything is ahead of the others on the left by some four
# crossings or more. How far those would get later, these runs do not say; nor whether the phases help to see the cars
# or to tell the time of the timetable. And held exploration has earned nothing: beside raw bytes it did no better, and
# no run takes it away from the agent with shaping, so whether that one needs it is open. <!-- held: told_everything -->

# %%
losses = np.array(live["loss"])
learning = np.flatnonzero(losses)[0]  # the first report with updates
updates = 8 * LIVE.updates * (np.arange(len(losses)) - learning + 1)  # made by each report
late = updates > updates[-1] // 2
since = updates % LIVE.sync_every
places = np.unique(since[late])
figure, panels = plt.subplots(1, 2, figsize=(9.5, 2.5))
panels[0].plot(np.array(live.steps)[learning:] / 1000, losses[learning:], linewidth=0.8)
panels[0].set(title="the whole training", xlabel="thousand decisions", yscale="log")
panels[1].plot(places, [losses[late & (since == place)].mean() for place in places], "o-")
panels[1].set(title="second half", xlabel="updates since the target network's renewal")
panels[0].set_ylabel("quantile loss")
plt.show()

# %% [markdown]
# *Left: the loss of the live run, averaged over each report. Right: the same loss in the second half, against the number
# of updates since the last renewal of the target network; no point stands out there as the spikes did at this chapter's
# first agent.*
#
# The loss says little about how well the agent plays. In the stored runs it falls to about 0.4 while the chicken arrives
# only a few times a game, nearly doubles as crossings become frequent, and falls slowly later, when the score changes
# little. Two things stand behind such a curve all along: a learning rate that falls from the first update to the last,
# and prioritised draws, which seek out what the network predicts worst. <!-- held: loss -->
#
# Try it yourself. The panel trains the short version, with your settings:

# %%
preview = Figure(figsize=(7.2, 2.6), dpi=72)
axes = preview.subplots()
draw_stored(axes, "D8", "quantiles", "defaults")
axes.axhline(held.mean(), color=plots.INK, linestyle=":", label="holding UP")
axes.set(xlabel="thousand decisions", ylabel="crossings")
axes.legend()
freeway_panel = panel(train, QUANTILES, metric="crossings", preview=plots.to_png(preview))

# %% [markdown]
# *The stored curve of the defaults. Set the persistence of exploratory actions to 1, or n to 1, and train again:
# earlier curves stay behind the new one.*
#
# ### What it expects while it plays
#
# Now watch one game of the best stored agent. Beside the picture stand the three distributions of the same instant.


# %%
def champion_state() -> tuple[dict, AgentConfig]:
    """The weights of the stored agent with the most crossings in the games of its selection."""
    best = max(results.runs("D7", "freeway"), key=lambda run: run["metrics"]["selection_crossings"])
    return stored_agent(best["seed"]), HEADLINE_CONFIG


def watch_game(
    config: AgentConfig, state: dict, seed: int, decisions: int
) -> tuple[list, np.ndarray, np.ndarray]:
    """A greedy game: frames [T][H, W, 3], memory [T, 128] and quantiles of each action's return [T, 3, K]."""
    env = gym.make("ALE/Freeway-v5", obs_type="ram", render_mode="rgb_array")
    network = make_network(config).eval()
    network.load_state_dict(as_tensors(state["network"]))
    ram, _ = env.reset(seed=seed)
    frames, memory, quantiles = [], [], []
    for _ in range(decisions):
        with torch.no_grad():
            quantiles.append(network(torch.from_numpy(ram[None]))[0].numpy())
        frames.append(env.render())
        memory.append(ram)
        ram, *_ = env.step(int(quantiles[-1].mean(1).argmax()))
    env.close()
    return frames, np.array(memory), np.array(quantiles)


# %%
def draw_quantiles(axes: Axes, quantiles: np.ndarray) -> None:
    """For each action the share of its quantiles below a return; the chosen action thick. quantiles: [3, K]."""
    means = quantiles.mean(1)
    levels = [0, *quantile_levels(quantiles.shape[1]), 1]
    for action, name in enumerate(("wait", "up", "down")):
        places = [-9, *np.sort(quantiles[action]), 9]  # flat to the left and right of them all
        width = 3.0 if action == means.argmax() else 1.2
        axes.plot(places, levels, linewidth=width, label=f"{name} {means[action]:.3f}")
    axes.set(xlabel="shaped return", xlim=(-0.4, 0.65), ylim=(-0.02, 1.02))
    axes.legend(loc="upper left", fontsize=9)


def game_picture(frame: np.ndarray, quantiles: np.ndarray) -> bytes:
    """The game and the three distributions of the same instant, as a PNG. quantiles: [3, K]."""
    figure = Figure(figsize=(6.4, 2.9), dpi=72)
    game, axes = figure.subplots(1, 2, width_ratios=(1, 1.6))
    game.imshow(frame)
    game.set_axis_off()
    draw_quantiles(axes, quantiles)
    axes.set_ylabel("share of quantiles below")
    return plots.to_png(figure)


# %% tags=["D7"]
state, config = champion_state()
length = by_budget(smoke=40, laptop=260)
frames, memory, game_quantiles = watch_game(config, state, seed=30_000, decisions=length)
expectations = game_quantiles.mean(2)  # [T, 3]
lead = np.diff(np.sort(expectations, 1))[:, -1]  # of the best action over the second: [T]
pictures = [game_picture(frames[t], game_quantiles[t]) for t in range(0, length, 4)]
parting = int(lead[:128:4].argmax())
show(scrubber(pictures[:32], "picture", start=parting, interval=250), pictures[parting])

# %% [markdown]
# *Left: the game. Right: what the agent expects of waiting, going up and going down: for each, the share of its 51
# quantiles of the shaped return that lie below a value. The further right a curve, the better the action; the steeper,
# the surer the agent is of it. The means stand beside the names, and the chosen action is drawn thick. The scrubber
# begins at the picture in which the best action leads by most. Move it to where the curves lie on top of each other:
# there the next decision can make up for this one.*

# %%
stitched = [np.array(PIL.Image.open(io.BytesIO(png)).convert("RGBA")) for png in pictures]


def on_white(picture: np.ndarray) -> np.ndarray:
    """A transparent picture on white, its sides even, as a video needs it. [H, W, 4] -> [H, W, 3]."""
    alpha = picture[..., 3:] / 255
    solid = (picture[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return solid[: solid.shape[0] // 2 * 2, : solid.shape[1] // 2 * 2]


show_clip([on_white(picture) for picture in stitched], fps=10)

# %% [markdown]
# *The same game as a video, a picture for every fourth decision.*
#
# Three instants of it, chosen while the chicken is on the road, and counts over the whole clip:

# %%
on_road = (memory[:, STUN] == 0) & (memory[:, HEIGHT] > 12)
apart = np.ptp(expectations, 1)  # between the best mean and the worst: [T]
moments = {
    "the widest lead": np.where(on_road, lead, -1).argmax(),
    "not up": np.where(on_road & (expectations.argmax(1) != UP), lead, -1).argmax(),
    "nearly alike": np.where(on_road, apart, np.inf).argmin(),
}
figure, panels = plt.subplots(1, 3, figsize=(9.5, 2.8), sharey=True)
for axes, (title, moment) in zip(panels, moments.items(), strict=True):
    draw_quantiles(axes, game_quantiles[moment])
    axes.set_title(f"{title}: height {memory[moment, HEIGHT]}")
panels[0].set_ylabel("share of quantiles below")
plt.show()

stds, parted = game_quantiles.std(2), apart > 0.1
lowest, widest = expectations[parted].argmin(1), stds[parted].argmax(1)
print(f"means more than 0.1 apart in {parted.sum()} of {length} decisions; among these, going down "
      f"has the lowest mean {np.sum(lowest == DOWN)} times, the widest spread {np.sum(widest == DOWN)} times")  # fmt: skip
print(f"spread of an action's quantiles: median standard deviation {np.median(stds):.3f} crossings")

# %% [markdown]
# *Left: the instant on the road at which the best action leads by most. Middle: of those at which the agent does not go
# up, the one with the widest lead. Right: the one at which the three means are closest. Where the means are far apart,
# it is mostly going down that has the lowest mean and the widest spread.* <!-- held: down_is_worst -->
#
# Most of these curves are steep. After all the talk of two modes, this agent expects returns that are nearly certain:
# the median spread of its quantiles is about two hundredths of a crossing. That fits a game in which nothing but the
# buttons is left to chance. <!-- held: steep -->
#
# ## The source's update, C51 and quantiles
#
# The same network, the same bytes, the same number of decisions; what differs is what is learned, and for the first two
# bars also what helps the learning. *The source's update* smears its own rewards (−1 for a decision, 10 for a crossing)
# into the next state's distribution of the stored action, one step at a time. Plain DQN, which learns means and has
# none of the other parts, is not among them; the nearest to it is Rainbow without distributions, in the section after
# this one.

# %%
BARE = replace(BRIEF, shaping=False, double=False, n_step=1)
UPDATES_COMPARED = {
    "smear": replace(BARE, returns="smear"),
    "c51_bare": BARE,
    "quantiles": QUANTILES,
}

# %% tags=["D8"]
compared = {"the source's smear": ("D8", "smear"), "C51, as bare": ("D8", "c51_bare"),
            "C51": ("D7", "brief"), "quantiles (QR-DQN)": ("D8", "quantiles")}  # fmt: skip
figure, (curves, final) = plt.subplots(1, 2, figsize=(9.5, 3.0), width_ratios=(1.3, 1))
for label, where in compared.items():
    draw_stored(curves, *where, label)
curves.axhline(0, color=plots.INK, linewidth=1)
curves.axhline(floor_of_up(), color=plots.INK, linestyle=":")
curves.set(xlabel="thousand decisions", ylabel="crossings a game, exploring", ylim=(-1, 34))
draw_crossings(final, compared, "greedy, after training")
plt.show()

# %% [markdown]
# *Left: crossings while learning, in the colours of the bars; right: greedy crossings after it, three seeds each. The
# source's smear falls short of UP on every seed. That is not the smear alone: it also does without shaping, n-step
# returns and double Q-learning, and has its own rewards. C51 stripped of the same three, with the game's rewards, is
# the nearer comparison; it does as badly on one seed and comes near UP on two. With the three, C51 ends above UP on
# every seed, and each seed of QR-DQN is above every seed of the others.* <!-- held: updates -->
#
# ## Rainbow, and which parts of it count
#
# **Rainbow** [(Hessel et al., 2018)](../book/bibliography.md#hessel2018) puts six improvements of DQN into one agent.
# All of them are in our config, most of them a line:
#
# | Part | What it changes | Where |
# |:--|:--|:--|
# | Double DQN [(van Hasselt et al., 2016)](../book/bibliography.md#hasselt2016) | the online network chooses the action at $s'$, the target network rates it | `losses_of` |
# | Prioritised replay | which rows are drawn | `PrioritisedReplay` |
# | Dueling | the shape of the output | `ValueNet` |
# | Noisy layers | how it explores | `NoisyLinear` |
# | n-step returns | how far rewards are summed before bootstrapping | `NStep` |
# | Distributions | what is learned | `project` |
#
# Which of them matter? Switch off one at a time, and train three seeds of each. It is not the paper's Rainbow, and not
# its task. Ours sums 5 rewards (there 3), has a priority exponent of 0.6 (there 0.5), Adam's step size and the shaping
# of this chapter, phases and a small fully connected network in place of pixels and convolutions, and it keeps the held
# exploration *beside* the noise. The last bar explores as the paper does, by noise alone.

# %%
RAINBOW = replace(BRIEF, dueling=True, noisy=True)
ABLATION = {
    "rainbow": RAINBOW,
    "without_double": replace(RAINBOW, double=False),
    "without_priorities": replace(RAINBOW, replay="uniform"),
    "without_dueling": replace(RAINBOW, dueling=False),
    "without_noise": replace(RAINBOW, noisy=False),
    "without_n_step": replace(RAINBOW, n_step=1),
    "without_distributions": replace(RAINBOW, returns="mean"),
    "noise_alone": replace(RAINBOW, exploration=0.0),
}

# %% tags=["D10"]
figure, (final, speed) = plt.subplots(1, 2, figsize=(9.5, 3.4))
parts = {name.replace("_", " "): ("D10", name) for name in ABLATION}
draw_crossings(final, parts, "after training")
averages = {label: results.curves(*where, "crossings").mean(1) for label, where in parts.items()}
plots.bars(speed, averages)
speed.set(title="averaged over the training", xlabel="crossings, exploring", yticklabels=[])
plt.show()

# %% [markdown]
# *Left: greedy crossings after training without one part at a time; right: crossings averaged over the training, while
# exploring; three seeds each. Noise alone has the lowest mean in both panels, and while learning each of its seeds is
# below every other circle; after the training its best seed, 19.1, all but reaches the worst of those without n-step
# returns, 19.2. Without n-step returns no seed's greedy agent gets beyond UP, nor beyond any seed of Rainbow. Without
# distributions every seed learns more slowly than every seed of Rainbow, and ends where Rainbow ends: 22.9 crossings
# against 23.1.* <!-- held: ablation -->
#
# About double Q-learning, priorities, dueling and noisy layers the figure says nothing: without each of them the mean
# is within 1.3 crossings of Rainbow's, whose own seeds lie 3.2 apart. Three seeds and a seventh of our training cannot
# measure so small an effect. In the paper's ablation, over 57 games, n-step returns and priorities counted most
# [(Hessel et al., 2018)](../book/bibliography.md#hessel2018). And where the kind of return changes, the priorities
# change with it: they are divergences for C51, quantile losses for QR-DQN, Huber losses for means.
# <!-- held: silent_parts -->

# %% [markdown]
# ## Choosing by more than the mean
#
# So far the distribution served to learn; the choice was by its mean. Now the choice itself changes. A path leads along
# a cliff. Every move costs 1; a fall costs 15 more and ends the walk. Between the first and the last column the wind
# gusts. With probability 0.02 it pushes the walker one cell toward the cliff, with probability 0.005 two.


# %%
ROWS, COLUMNS, FALL = 4, 7, -15.0
GUST, SQUALL = 0.025, 0.005  # chances of being pushed at least one cell, and two
START, GOAL = (3, 0), (3, 6)
STEPS = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]])  # up, down, left, right
WALK_SUPPORT = torch.linspace(-40, 0, 81, dtype=torch.float64)


def walk(cells: np.ndarray, actions: np.ndarray, rng: np.random.Generator) -> tuple:
    """One move of B walkers. cells: [B, 2] (row, column) -> next cells [B, 2], rewards [B], ended [B]."""
    following = cells + STEPS[actions]
    windy = (cells[:, 1] > 0) & (cells[:, 1] < COLUMNS - 1)
    force = rng.random(len(cells))
    following[:, 0] += windy * ((force < GUST) * 1 + (force < SQUALL))
    following = following.clip(0, (ROWS - 1, COLUMNS - 1))
    bottom = following[:, 0] == ROWS - 1
    fell = bottom & (following[:, 1] > 0) & (following[:, 1] < COLUMNS - 1)
    return following, -1.0 + FALL * fell, fell | (bottom & (following[:, 1] == COLUMNS - 1))


# %% [markdown]
# Three criteria read a distribution in three ways: its mean; its mean less a penalty for its variance; and the
# **conditional value at risk**, $\mathrm{CVaR}_c$, the mean of the worst fraction $c$ of its outcomes
# [(Rockafellar and Uryasev, 2000)](../book/bibliography.md#rockafellar2000).


# %%
def average(probs: torch.Tensor) -> torch.Tensor:  # [..., 81] -> [...]
    return probs @ WALK_SUPPORT


def penalised(probs: torch.Tensor, penalty: float = 0.25) -> torch.Tensor:
    """The mean less ``penalty`` times the variance."""
    return average(probs) - penalty * (probs @ WALK_SUPPORT**2 - average(probs) ** 2)


def cvar(
    probs: torch.Tensor, fraction: float = 0.05, support: torch.Tensor = WALK_SUPPORT
) -> torch.Tensor:
    """The mean of the worst ``fraction`` of outcomes, splitting the atom on which it ends."""
    below = probs.cumsum(-1)
    taken = below.clamp(max=fraction) - (below - probs).clamp(max=fraction)
    return taken @ support / taken.sum(-1)


CRITERIA = {"mean": average, "mean less variance": penalised, "CVaR": cvar}


# %%
@dataclass(frozen=True)
class RiskConfig:
    """How the walker learns its distributions."""

    sweeps: int = 6000
    first_rate: float = 0.1  # falls linearly to 0


def learn_walk(criterion: Callable, config: RiskConfig, seed: int) -> torch.Tensor:
    """Distributions of the return for every cell and action, learned from samples: [cells, 4, 81].

    The bootstrap follows the criterion's own choice, so these are the returns of the policy that acts by it.
    """
    rng = np.random.default_rng(seed)
    cells = np.argwhere(np.ones((ROWS, COLUMNS))).repeat(4, 0)  # every cell with every action
    actions = np.tile(np.arange(4), ROWS * COLUMNS)
    probs = torch.full((len(cells), 81), 1 / 81, dtype=torch.float64)
    for sweep in range(config.sweeps):
        following, rewards, ended = walk(cells, actions, rng)
        there = probs.view(-1, 4, 81)[following @ (COLUMNS, 1)]  # [B, 4, 81]
        there = there[torch.arange(len(cells)), criterion(there).argmax(1)]
        goes_on = torch.from_numpy(~ended)[:, None]
        target = project(
            torch.from_numpy(rewards)[:, None] + goes_on * WALK_SUPPORT, there, WALK_SUPPORT
        )
        probs += config.first_rate * (1 - sweep / config.sweeps) * (target - probs)
    return probs.view(-1, 4, 81)


def walk_returns(policy: np.ndarray, walkers: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns [W] of ``walkers`` walks from the start under ``policy`` [cells], and visits [ROWS, COLUMNS]."""
    rng, visits = np.random.default_rng(seed), np.zeros((ROWS, COLUMNS))
    cells, returns, going = np.tile(START, (walkers, 1)), np.zeros(walkers), np.ones(walkers, bool)
    for _ in range(100):
        np.add.at(visits, tuple(cells[going].T), 1)
        cells, rewards, ended = walk(cells, policy[cells @ (COLUMNS, 1)], rng)
        returns += np.where(going, rewards, 0)
        going &= ~ended
    assert not going.any(), "a walk of 100 moves has not ended"
    return returns, visits / walkers


# %% tags=["D9"]
risk = by_budget(smoke=RiskConfig(sweeps=300), laptop=RiskConfig())
figure, panels = plt.subplots(2, 3, figsize=(9.5, 4.0))
for (name, criterion), (map_axes, axes) in zip(CRITERIA.items(), panels.T, strict=True):
    learned = learn_walk(criterion, risk, seed=1)
    policy = criterion(learned).argmax(1).numpy()
    returns, visits = walk_returns(policy, 20_000, seed=2)
    map_axes.imshow(visits, cmap="Blues", vmin=0, vmax=1)
    map_axes.add_patch(plt.Rectangle((0.5, 2.5), COLUMNS - 2, 1, color=plots.INK, alpha=0.5))
    map_axes.set(title=f"by {name}", xticks=[], yticks=[])
    for column, name_of_cell in {0: "start", 3: "cliff", COLUMNS - 1: "goal"}.items():
        colour = "white" if column < COLUMNS - 1 else plots.INK
        map_axes.text(
            column, ROWS - 1, name_of_cell, ha="center", va="center", color=colour, fontsize=8
        )
    map_axes.grid(visible=False)
    begin = learned[START[0] * COLUMNS + START[1]]
    axes.bar(WALK_SUPPORT, begin[criterion(begin).argmax()], width=0.5)
    axes.set(xlim=(-36, -5), yscale="log", ylim=(1e-4, 1.5), xlabel="return from the start")
    worst = np.sort(returns)[: len(returns) // 20].mean()
    print(f"by {name:18s}: mean {returns.mean():6.2f}, std {returns.std():4.2f}, "
          f"worst 5 % {worst:6.2f}, falls {np.mean(returns <= FALL):.1%}")  # fmt: skip
panels[1, 0].set_ylabel("learned probability")
plt.show()

# %% [markdown]
# *Above, how often each cell is visited by 20,000 walkers; below, the learned distribution of the return from the
# start, on a logarithmic axis. Choosing by the mean, the walker takes the shortest way, along the edge, and now and
# then falls: the bars far to the left. The variance penalty keeps one row away from the edge, CVaR two. Each row costs
# two more moves and spares falls.* All three know the same world equally well. They read their distributions
# differently.
#
# How cautious is CVaR? That is its fraction. At 1 it is the mean.


# %%
def path_picture(fraction: float, config: RiskConfig) -> bytes:
    """Where a walker goes that chooses by the CVaR of a fraction, as a PNG."""
    rule = partial(cvar, fraction=fraction)
    policy = rule(learn_walk(rule, config, seed=1)).argmax(1).numpy()
    returns, visits = walk_returns(policy, 20_000, seed=2)
    figure = Figure(figsize=(4.6, 2.4), dpi=72)
    axes = figure.subplots()
    axes.imshow(visits, cmap="Blues", vmin=0, vmax=1)
    axes.add_patch(plt.Rectangle((0.5, 2.5), COLUMNS - 2, 1, color=plots.INK, alpha=0.5))
    worst = np.sort(returns)[: len(returns) // 20].mean()
    axes.set(title=f"mean {returns.mean():.1f}, worst 5 % {worst:.1f}", xticks=[], yticks=[])
    axes.grid(visible=False)
    return plots.to_png(figure)


fractions = by_budget(smoke=(1.0, 0.05), laptop=(1.0, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02))
paths = {f"{fraction:.0%}": path_picture(fraction, risk) for fraction in fractions}
show(image_slider(paths, "worst"), paths["100%"])

# %% [markdown]
# *The way of a walker that looks only at so much of its worst outcomes, and what it earns. As the fraction shrinks, the
# way moves up, row by row; the mean return falls, and the worst 5 % improve. But not to the end: the walker that looks
# at its worst 5 % earns less than the one that looks at 10 %, on average and over its own worst 5 %.*
# <!-- held: too_cautious -->
#
# How can an agent that chooses by its worst 5 % do worse by just that measure? The criterion is applied anew in every
# cell, to the rest of the way. A gust is already one of the rarer outcomes, so seen from the start a good part of what
# may follow it belongs to the worst 5 %. But the walker looks afresh, at the worst 5 % of what follows: pushed down a
# row, it climbs back in more columns than the walker that looks at 10 %, and each climb costs moves. This is called
# **time inconsistency**: the plan that looks best at the start is not the one that is followed later. A consistent
# treatment carries along how much has been lost so far. <!-- held: climbs_back -->

# %% [markdown]
# ## Exercises
#
# Each has a solution that runs, folded away.
#
# **1. A belief that becomes less certain.** Evidence usually narrows a posterior. Find a prior and a series of flips
# after which the posterior's variance is *larger* than the prior's, and draw the standard deviation flip by flip.

# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
u, v = 40, 2  # a firm belief in a coin that nearly always shows heads
tails = np.arange(301)  # and then: tails, every time
total = u + v + tails
stds = np.sqrt(u * (v + tails) / (total + 1)) / total
figure, axes = plt.subplots(figsize=(6, 2.2))
axes.plot(tails, stds)
axes.set(xlabel="tails in a row", ylabel="std of the belief", ylim=(0, None))
plt.show()
print(f"least certain after {stds.argmax()} tails, surer than at first again after "
      f"{tails[1:][stds[1:] < stds[0]].min()}")  # fmt: skip

# %% [markdown]
# **2. Never negative.** Show that $D_{\mathrm{KL}}(Q \parallel P) \ge 0$ for all distributions, using $\log x \le x -
# 1$. Check it on random pairs, and find out where the proof fails for the source's $(0.1, 0.1)$ and $(0.6, 0.5)$.

# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
# Where Q > 0:  -KL = sum Q log(P / Q)  <=  sum Q (P / Q - 1)  =  sum P - sum Q  <=  1 - 1  =  0.
# The last step needs sums of 1. The source's swapped pair has sum P - sum Q = 1.1 - 0.2 = 0.9,
# so the bound only says KL >= -0.9, and its KL of -0.340 respects that.
torch.manual_seed(0)
pairs = torch.distributions.Dirichlet(torch.ones(5)).sample((2, 100_000))  # [2, pairs, 5]
divergence = kl_divergence(pairs[0], pairs[1])
print(f"smallest of 100,000 divergences {divergence.min():.6f}")
print(f"of distributions from themselves at most {kl_divergence(pairs[0], pairs[0]).max():.6f}")

# %% [markdown]
# **3. A softer target.** The divergence of the first agent jumps at every renewal of the target network. Replace the
# renewals by a slow average: after each step, move every parameter of the target a 75th of the way towards the
# network's. What becomes of the spikes?

# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
network, states = toy_network(seed=1)
average_network, soft = copy.deepcopy(network), []
for _ in range(ToyConfig().steps):
    with torch.no_grad():
        before = average_network(states)[[0, 1], TOY_ACTIONS].softmax(-1)
    target = smear(before, TOY_REWARDS + 0.05 * torch.randn(2), ToyConfig().pull)
    logits = network(states)[[0, 1], TOY_ACTIONS]
    soft.append(kl_divergence(target, logits.detach().softmax(-1)).max().item())
    gradients = torch.autograd.grad(
        cross_entropy(logits, target).mean(), list(network.parameters())
    )
    with torch.no_grad():
        for parameter, slow, gradient in zip(
            network.parameters(), average_network.parameters(), gradients, strict=True
        ):
            parameter -= ToyConfig().step_size * gradient
            slow += (parameter - slow) / 75
figure, axes = plt.subplots(figsize=(7.2, 2.3))
axes.plot(toy_curves["divergence"], label="renewed every 75 steps", linewidth=1.2)
axes.plot(soft, label="slow average", linewidth=1.2)
axes.set(xlabel="step", ylabel="divergence (nats)", yscale="log")
axes.legend()
plt.show()

# %% [markdown]
# **4. A cautious chicken.** Let the trained agent act by the CVaR of its learned distributions. Shaping shifts all
# three actions by the same height, so it does not disturb the choice. Does caution cost crossings?


# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
def cautious_policy(network: ValueNet, fraction: float) -> Policy:
    """Acts by CVaR, the mean of the lowest quantiles: ram [N, 128] -> actions [N]."""

    def act(ram: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            quantiles = network(torch.from_numpy(ram)).sort(-1).values  # [N, 3, K]
        worst = quantiles[..., : max(1, round(fraction * quantiles.shape[-1]))]
        return worst.mean(-1).argmax(1).numpy()

    return act


champion, config = champion_state()
chicken = make_network(config).eval()
chicken.load_state_dict(as_tensors(champion["network"]))
for fraction in by_budget(smoke=(1.0,), laptop=(1.0, 0.5, 0.1)):
    policy = cautious_policy(chicken, fraction)
    print(f"worst {fraction:4.0%}: {play_freeway(policy, GAMES, seed=30_000).mean():.1f} crossings")

# %% [markdown]
# ## Summary
#
# - A mean can describe nobody. A distribution answers every question that a mean answers, and more.
# - Bellman's equation holds for distributions: scale, shift, mix. C51 puts the result back on fixed atoms; quantile
#   regression learns the places instead.
# - The loss is a cross-entropy, computed from logits. What it can reduce is the divergence, and that jumps whenever the
#   target network is renewed.
# - Prioritised replay is three things at once: a power of the priority, importance weights, and a structure that draws
#   quickly.
# - Freeway is learned from 128 bytes in minutes, eleven crossings beyond what UP alone scores. The agent was told which
#   bytes to look at and rewarded on the way: with shaping every short run beat UP, and the phases of the cars added some
#   four crossings. What the rest is worth, our short runs do not show. <!-- held: summary_freeway -->
# - The traffic is the same in every game, and that is what the agent has learned: where the cars set out from other
#   places, it falls behind someone who holds UP. A score on other games is no test if they are the same world.
# - With distributions one can choose by more than the mean, and different criteria take different paths. Applied anew
#   at every step, caution can defeat its own purpose.
#
# Further reading: [Bellemare et al. (2017)](../book/bibliography.md#bellemare2017) for C51,
# [Dabney et al. (2018)](../book/bibliography.md#dabney2018) for quantiles,
# [Hessel et al. (2018)](../book/bibliography.md#hessel2018) for Rainbow and its ablation on 57 games.
#
# ## How the numbers were measured
#
# `make results` runs these functions with the seeds listed, and stores each run with its configuration, wall-clock
# time, cores and versions. The figures over seeds are drawn from those files. What do the runs of Freeway share? Their
# emulators' seeds lie 10,000,000 apart from run to run, and those of the scores apart from all of them, so that no two
# share their sticky buttons; but all of them, and all scores, share the one traffic.


# %%
def measure_toy(config: None, seed: int) -> Measured:
    curves, _ = fit_toy(ToyConfig(), seed)
    divergence, every = np.array(curves["divergence"]), ToyConfig().sync_every
    jumps = divergence[every::every] / divergence[every - 1 : -1 : every]
    found = {"kl_to_target": divergence[-1], "spike_ratio": np.median(jumps)}
    return Measured(found, curves=curves)


def measure_projection(config: None, seed: int) -> Measured:
    generator, support = torch.Generator().manual_seed(seed), SUPPORT.double()
    probs = torch.rand(256, ATOMS, generator=generator).double().softmax(-1)
    rewards = 30 * torch.rand(256, 1, generator=generator) - 15
    rewards[:128] = rewards[:128].round()  # on atoms, beyond them, and at terminal states
    returns = rewards + torch.where(torch.arange(256) % 4 > 0, 0.9, 0.0)[:, None] * support
    looped = seconds_per_call(lambda: project_loop(returns, probs, support), 3)
    batched = seconds_per_call(lambda: project(returns, probs, support), 100)
    slow, fast = project_loop(returns, probs, support), project(returns, probs, support)
    found = {
        "projection_error": (slow - fast).abs().max(),
        "mass_error": (fast.sum(1) - 1).abs().max(),
    }
    return Measured(found | {"projection_speedup": looped / batched}, {"projection_speedup": 1.0})


def measure_replay(config: None, seed: int) -> Measured:
    rng, entries = np.random.default_rng(seed), 1_000_000
    replay = PrioritisedReplay(entries, exponent=0.6)
    replay.add(Row(np.arange(entries)))
    replay.set_priorities(np.arange(entries), rng.random(entries))
    seconds = seconds_per_call(lambda: replay.draw(512, 0.5, rng), 100)
    return Measured({"samples_per_second": 512 / seconds})


# %%
def run_freeway(config: AgentConfig, seed: int) -> tuple[dict, dict[str, list[float]], float]:
    """A whole training: the last state, thinned curves, and its seconds."""
    began, curves = time.perf_counter(), {"decisions": [], "crossings": [], "loss": []}
    for count, progress in enumerate(train(config, seed)):
        if count % 16 == 15:
            curves["decisions"].append(progress.step)
            curves["crossings"].append(progress.metrics["crossings"])
            curves["loss"].append(progress.metrics["loss"])
    return progress.state(), curves, time.perf_counter() - began


def measure_freeway(config: AgentConfig, seed: int) -> Measured:
    state, curves, seconds = run_freeway(config, seed)
    policy = greedy_policy(config, state)
    found = {"freeway_crossings": play_freeway(policy, 10, 20_000 + 100 * seed).mean()}
    found["freeway_seconds"] = seconds
    found["selection_crossings"] = play_freeway(policy, 10, 90_000 + 100 * seed).mean()
    held = play_freeway(lambda ram: np.full(len(ram), UP), 10, 20_000 + 100 * seed).mean()
    kept = {"network": state["network"]}
    return Measured(found, {"freeway_crossings": held}, curves, kept)


def measure_variant(config: AgentConfig, seed: int, name: str) -> Measured:
    state, curves, _ = run_freeway(config, seed)
    crossings = play_freeway(greedy_policy(config, state), 10, 20_000 + 100 * seed).mean()
    return Measured({f"crossings_{name}": crossings}, curves=curves)


# %%
def measure_risk(config: RiskConfig, seed: int) -> Measured:
    found = {}
    for name, criterion in CRITERIA.items():
        learned = learn_walk(criterion, config, seed)
        returns, _ = walk_returns(criterion(learned).argmax(1).numpy(), 20_000, seed + 1000)
        key = name.replace(" ", "_").lower()
        found[f"mean_by_{key}"] = returns.mean()
        found[f"std_by_{key}"] = returns.std()
        found[f"worst_by_{key}"] = np.sort(returns)[: len(returns) // 20].mean()
    return Measured(found)


# %%
THREE = (1, 2, 3)
HEADLINE = "Freeway, its one traffic: {D7.freeway_crossings} crossings after {D7.freeway_seconds} s"
MEASUREMENTS = [
    Measurement("D6", "toy", measure_toy, None, THREE, (
        Metric("kl_to_target", "nats", "mean", "prediction and target nearly coincide"),
        Metric("spike_ratio", "times, at each renewal", "median", "spikes at every renewal"))),
    Measurement("D7", "freeway", measure_freeway, HEADLINE_CONFIG, THREE, (
        Metric("freeway_crossings", "crossings", "mean", "at least 4 crossings"),
        Metric("freeway_seconds", "s", "median"))),
    Measurement("D8", "projection", measure_projection, None, THREE, (
        Metric("projection_error", "probability"),
        Metric("mass_error", "probability"),
        Metric("projection_speedup", "times the loop", "median"))),
    Measurement("D9", "risk", measure_risk, RiskConfig(), THREE, tuple(
        Metric(f"{what}_by_{by}", "return") for by in ("mean", "mean_less_variance", "cvar")
        for what in ("mean", "std", "worst"))),
    Measurement("D10", "replay", measure_replay, None, THREE, (
        Metric("samples_per_second", "draws/s at 1,000,000 entries", "median"),)),
]  # fmt: skip

# %%
MEASUREMENTS += [
    Measurement(row, name, partial(measure_variant, name=name), config, THREE, (
        Metric(f"crossings_{name}", "crossings after 65,536 decisions"),))
    for row, variants in {"D7": KNOWLEDGE, "D8": UPDATES_COMPARED, "D10": ABLATION}.items()
    for name, config in variants.items()
]  # fmt: skip
SHOWN = ("D1", "D2", "D3", "D4", "D5")  # rows whose result is their figure or printed comparison
