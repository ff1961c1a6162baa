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
# # 06 · half B: bodies (P1), memory (P5), continuous actions (P7)

# %% tags=["remove-stderr"]
import copy
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, pairwise
from typing import NamedTuple

import gymnasium as gym
import gymnasium_robotics
import matplotlib.pyplot as plt
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from IPython.display import display
from matplotlib.figure import Figure
from torch import nn
from torch.distributions import Categorical, Distribution, Independent, Normal
from torch.nn import functional as F

from rlbook_utils import plots, results
from rlbook_utils.config import by_budget, check_config, knob
from rlbook_utils.definitions import load_chapter
from rlbook_utils.replay import Experience, NStep, Replay
from rlbook_utils.results import Measured, Measurement, Metric
from rlbook_utils.rollout import Policy, Transition, episode_returns, make_vector, transitions
from rlbook_utils.run import Progress, as_tensors, watch
from rlbook_utils.video import RenderError, record, show_clip
from rlbook_utils.widgets import panel, scrubber, show

FOUNDATIONS, EVOLUTION = load_chapter("ch00_foundations"), load_chapter("ch01_evolution")

plots.use_style()

WATCHING = 1_000_003  # seeds of episodes to look at

# %% [markdown]
# (MERGE: this cell goes; in the chapter half A's names stand above.)


# %%
class MERGE:  # brings half A's names in; a class body is what load_chapter runs
    CORE = load_chapter("ch06_a")
    globals().update({k: v for k, v in vars(CORE).items() if not k.startswith("__")})


# %% [markdown]
# ## Memory: when one look is not enough
#
# CartPole shows its player everything: two positions and two velocities. Take the velocities away, and the same picture
# may be a pole on its way up or on its way down. A policy of the present observation cannot tell the two apart, however
# long it learns. What it needs is the past: the last few pictures side by side (**frame stacking**), or a network that
# writes its own notes, a **recurrent** one.
#
# The source adds an LSTM (long short-term memory, [Hochreiter and Schmidhuber, 1997](../book/bibliography.md#hochreiter1997))
# to PPO on LunarLander, where the observation already contains the velocities, and reads the curve as an improvement.
# To see what memory does, it has to be needed.


# %%
def positions(obs: np.ndarray) -> np.ndarray:
    """CartPole without its velocities: the cart's place and the pole's angle, scaled. [..., 4] -> [..., 2]."""
    return (obs * FOUNDATIONS.OBS_SCALE)[..., [0, 2]]


# %% [markdown]
# Every network of this section has one interface. It reads T successive observations of N environments, is told where
# an episode *starts*, and hands its memory on:
#
# ```text
# net(obs [T, N, O], starts [T, N], memory)  ->  policy, values [T, N], memory
# ```
#
# T is 1 while playing and the whole rollout while learning. Frame stacking fits in as well: its memory is the last few
# observations, and with one of them it is PPO as before. Where an episode starts, the past is forgotten: the first
# observation stands in for those that came before it.


# %%
class StackNet(nn.Module):
    """PPO's two networks over the last ``frames`` observations. memory: [N, frames, O]."""

    def __init__(self, obs_size: int, actions: int, frames: int) -> None:
        super().__init__()
        self.frames, self.obs_size = frames, obs_size
        self.net = PolicyNet(frames * obs_size, actions)

    def blank(self, num_envs: int, device: str | torch.device) -> torch.Tensor:
        return torch.zeros(num_envs, self.frames, self.obs_size, device=device)

    def forward(
        self, obs: torch.Tensor, starts: torch.Tensor, memory: torch.Tensor
    ) -> tuple[Distribution, torch.Tensor, torch.Tensor]:
        stacks = []
        for now, start in zip(obs, starts, strict=True):  # [N, O], [N]
            memory = torch.cat([memory[:, 1:], now[:, None]], 1)
            memory = torch.where(start[:, None, None], now[:, None], memory)
            stacks.append(memory.flatten(1))
        return *self.net(torch.stack(stacks)), memory


# %% [markdown]
# The LSTM's memory is a pair of vectors for each environment, $h$ and $c$. They have to be emptied *where an episode
# starts*, at that very step of the sequence, and for that environment only. The plain way is a loop over the steps.
# PyTorch's `nn.LSTM` takes a whole sequence at once, which is faster, but runs through to its end; so we cut the
# sequence wherever any environment starts, and empty what has to be emptied between two pieces.


# %%
class LSTMNet(nn.Module):
    """Encoder, LSTM (Hochreiter and Schmidhuber 1997), and two heads. memory: (h, c) as [N, 2, hidden]."""

    def __init__(self, obs_size: int, actions: int, hidden: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(obs_size, hidden), nn.Tanh())
        self.lstm = nn.LSTM(hidden, hidden)
        self.heads = nn.Linear(hidden, actions + 1)
        nn.init.orthogonal_(self.heads.weight, 0.01)

    def blank(self, num_envs: int, device: str | torch.device) -> torch.Tensor:
        return torch.zeros(num_envs, 2, self.lstm.hidden_size, device=device)

    def remember(
        self, obs: torch.Tensor, starts: torch.Tensor, memory: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The LSTM's output at every step, [T, N, hidden], and its memory after the last."""
        inputs, outputs = self.encoder(obs), []
        cuts = sorted({0, *torch.nonzero(starts.any(1)).flatten().tolist()})
        for first, last in pairwise([*cuts, len(obs)]):
            memory = memory * ~starts[first][:, None, None]  # an episode starts: forget
            h, c = memory.transpose(0, 1).contiguous()[:, None]  # [1, N, hidden] each
            output, (h, c) = self.lstm(inputs[first:last], (h, c))
            memory = torch.stack([h[0], c[0]], 1)
            outputs.append(output)
        return torch.cat(outputs), memory

    def forward(
        self, obs: torch.Tensor, starts: torch.Tensor, memory: torch.Tensor
    ) -> tuple[Distribution, torch.Tensor, torch.Tensor]:
        outputs, memory = self.remember(obs, starts, memory)
        heads = self.heads(outputs)  # [T, N, A + 1]
        return Categorical(logits=heads[..., :-1], validate_args=False), heads[..., -1], memory


# %%
def step_by_step(
    net: LSTMNet, obs: torch.Tensor, starts: torch.Tensor, memory: torch.Tensor
) -> torch.Tensor:
    """What ``remember`` computes, the plain way: outputs [T, N, hidden]."""
    outputs = []
    for now, start in zip(net.encoder(obs), starts, strict=True):
        h, c = (memory * ~start[:, None, None]).transpose(0, 1).contiguous()[:, None]
        output, (h, c) = net.lstm(now[None], (h, c))
        memory = torch.stack([h[0], c[0]], 1)
        outputs.append(output[0])
    return torch.stack(outputs)


torch.manual_seed(0)
net, obs = LSTMNet(2, 2, 64), torch.randn(128, 8, 2)
starts = torch.rand(128, 8) < 0.005  # a start every 200 steps
seconds = {}
for name, unroll in {"plain": partial(step_by_step, net), "cut": net.remember}.items():
    began = time.perf_counter()
    for _ in range(by_budget(smoke=1, laptop=10)):
        outputs = unroll(obs, starts, net.blank(8, "cpu"))
        outputs = outputs if name == "plain" else outputs[0]
        outputs.square().mean().backward()
    seconds[name] = time.perf_counter() - began
print(
    f"unrolled and differentiated: the cut sequence is {seconds['plain'] / seconds['cut']:.1f} times as fast"
)

# %% [markdown]
# ### Rollouts that keep their memory
#
# Three things change in the collector. The memory with which a rollout *began* belongs to the rollout, because learning
# has to start from there. So does the record of where episodes start. And the critic's opinion of an episode's last
# observation, needed where the clock cut it short, depends on the memory at that point. CartPole's native environments
# help: they show the last observation as a row of its own, before they reset. Read on with the memory as it is, that
# row gives just the value we need; then it is dropped, because nothing was decided in it.


# %%
class Remembered(NamedTuple):
    """A rollout of a network with memory.

    steps: as ever, [T, N, ...]. starts: where an episode's first observation is; valid: where a decision was made,
    both [T, N]. memory: before the first step, [N, ...].
    """

    steps: Rollout
    starts: torch.Tensor
    valid: torch.Tensor
    memory: torch.Tensor


# %%
class MemoryCollector(Player):
    """Plays a network with memory in N environments that show an episode's end before they reset."""

    AUTORESET = AutoresetMode.NEXT_STEP

    def __init__(
        self, envs: VectorEnv, net: nn.Module, seed: int, reward_scale: float, recent: list = ()
    ) -> None:
        super().__init__(envs, net, seed, reward_scale, recent)
        self.starts = torch.ones(envs.num_envs, dtype=torch.bool, device=self.device)
        self.memory = net.blank(envs.num_envs, self.device)

    def look(self, obs: np.ndarray) -> tuple:
        """The network at this moment: its input [1, N, O], policy, values [1, N], memory."""
        obs = torch.as_tensor(positions(obs), dtype=torch.float32, device=self.device)[None]
        return obs, *self.net(obs, self.starts[None], self.memory)

    @torch.no_grad()
    def act(self, obs: np.ndarray) -> np.ndarray:
        obs, policy, values, self.memory = self.look(obs)
        actions = policy.sample()  # [1, N]
        self.last = (obs, actions, policy.log_prob(actions), values, self.starts[None])
        return actions[0].cpu().numpy()

    @torch.no_grad()
    def collect(self, steps: int) -> Remembered:
        memory, played, world = self.memory, [], []
        for step in islice(self.stream, steps):
            done = step.terminated | step.truncated
            played.append(self.last)
            world.append((step.rewards.astype(np.float32), step.terminated, done, step.valid))
            self.note_ends(step.rewards, step.terminated, done)
            self.starts = torch.from_numpy(~step.valid).to(self.device)  # it was a reset: now start
        *columns, values, starts = (torch.cat(column) for column in zip(*played, strict=True))
        rewards, terminated, done, valid = (
            torch.from_numpy(np.stack(c)).to(self.device) for c in zip(*world, strict=True)
        )
        next_values = torch.cat([values[1:], self.look(step.next_obs)[2]])  # [T, N]
        outcome = (rewards * self.reward_scale, values, next_values, terminated, done)
        return Remembered(Rollout(*columns, *outcome), starts, valid, memory)


# %% [markdown]
# The update is PPO's, except that a minibatch consists of whole *environments*: their sequences stay in one piece, and
# each begins with the memory that its rollout began with.


# %%
def memory_update(
    net: nn.Module,
    optimiser: torch.optim.Optimizer,
    rollout: Remembered,
    config: PPOConfig,
    remaining: float,
) -> dict[str, float]:
    """``ppo_update`` over sequences, ``config.minibatch`` steps of whole environments at a time."""
    obs, actions, old_log_probs = rollout.steps[:3]
    advantages, returns = gae(*rollout.steps[3:], config.discount, config.lam)
    together, found = config.minibatch // len(obs), []  # environments in a minibatch
    for _ in range(config.epochs):
        for envs in torch.randperm(obs.shape[1], device=obs.device).split(together):
            policy, values, _ = net(obs[:, envs], rollout.starts[:, envs], rollout.memory[envs])
            made = rollout.valid[:, envs]  # the rows in which a decision was made
            now = (policy.log_prob(actions[:, envs]), policy.entropy(), values)
            then = (c[:, envs] for c in (old_log_probs, advantages, returns))
            rows = (column[made] for column in (*now, *then))
            loss, diagnostics = ppo_loss(*rows, config, config.entropy * remaining)
            gradient_step(net, optimiser, loss, config.max_grad_norm)
            found.append(torch.stack([*diagnostics.values()]))
    return dict(zip(diagnostics, torch.stack(found).mean(0).tolist(), strict=True))


# %%
@dataclass(frozen=True)
class MemoryConfig(PPOConfig):
    """PPO on CartPole without velocities; ``memory`` is "lstm", or a number of frames."""

    env_id: str = POLE
    steps: int = knob(122_880, 4096, 2_000_000, "environment steps", step=4096)
    num_envs: int = 32
    horizon: int = knob(128, 1, 512, "steps of each environment between updates")
    discount: float = knob(0.99, 0.5, 1.0, "gamma", step=0.001)
    lam: float = knob(0.95, 0.0, 1.0, "lambda of the advantages", step=0.01)
    learning_rate: float = knob(2e-3, 1e-5, 1e-2, "of Adam at the start", step=1e-4)
    entropy: float = knob(0.0, 0.0, 0.1, "weight of the entropy bonus at the start", step=0.001)
    minibatch: int = knob(1024, 128, 4096, "steps a gradient step", step=128)
    reward_scale: float = 0.05
    workers: int = 1
    hidden: int = 64
    memory: str | int = "lstm"


# %%
def make_memory_net(config: MemoryConfig) -> nn.Module:
    if config.memory == "lstm":
        return LSTMNet(2, 2, config.hidden)
    return StackNet(2, 2, config.memory)


def train_memory(
    config: MemoryConfig,
    seed: int,
    state: dict | None = None,
    device: str = "cpu",
    update: Callable = memory_update,
) -> Iterator[Progress]:
    """PPO with a memory: the shared loop around the pieces above."""
    return train_on_policy(
        config, seed, state, device, update,
        make_envs=lambda config: make_vector(config.env_id, config.num_envs),
        make_net=lambda envs: make_memory_net(config),
        make_collector=MemoryCollector,
    )  # fmt: skip


# %%
def remembering_policy(net: nn.Module) -> Policy:
    """The likeliest action of a network with memory, for environments that start at the first call."""
    memory, device = None, next(net.parameters()).device

    @torch.no_grad()
    def policy(obs: np.ndarray) -> np.ndarray:
        nonlocal memory
        first = memory is None
        memory = net.blank(len(obs), device) if first else memory
        starts = torch.full((1, len(obs)), first, device=device)
        obs = torch.as_tensor(positions(obs), dtype=torch.float32, device=device)
        distribution, _, memory = net(obs[None], starts, memory)
        return distribution.logits[0].argmax(-1).cpu().numpy()

    return policy


# %% tags=["P5"]
memory_floor = random_returns(POLE, 1000, seed=0).mean()
memory_config = by_budget(smoke=MemoryConfig(steps=4096), laptop=MemoryConfig())
memory_run = watch(train_memory(memory_config, seed=1), floor=memory_floor)


def memory_net_of(config: MemoryConfig, weights: dict) -> nn.Module:
    """A network with memory and stored weights."""
    net = make_memory_net(config)
    net.load_state_dict(as_tensors(weights))
    return net


lstm_net = memory_net_of(memory_config, memory_run.state["net"])
lasted = episode_returns(remembering_policy(lstm_net), POLE, 100, SCORING + 1)
print(f"mean return {lasted.mean():.1f} over 100 fresh episodes, random play {memory_floor:.1f}")
print(f"trained in {memory_run.seconds:.0f} s, {memory_config.steps:,} environment steps")

# %% [markdown]
# *Mean return of the last hundred episodes, actions drawn from the policy, live.* And what would the others have made
# of it? The same PPO, budget and settings, with one frame, four frames, and the LSTM:

# %%
MEMORIES = {
    "one frame: no memory": "memory_none",
    "four frames": "memory_stack",
    "LSTM": "memory_lstm",
}
figure, axes = plt.subplots(figsize=(7.2, 3.2))
for label, name in MEMORIES.items():
    draw_runs(axes, "P5", name, label)
    stored = results.runs("P5", name)
    scores = [round(run["metrics"]["return"]) for run in stored]
    seconds = np.median([run["metrics"]["training_seconds"] for run in stored])
    print(f"{label:22s} 100 fresh episodes each: {scores}, {seconds:.0f} s")
finish_return_axes(axes, memory_floor)
plt.show()

# %% [markdown]
# *Mean return of the last hundred episodes while learning, mean and 95 % interval over three seeds. Without memory PPO
# stays far below the others however long it learns: it is the observation, not the method, that holds it back.*
# CAPTION_MEMORY_CURVES
#
# ### What the LSTM writes down
#
# Nobody told the network that velocities exist. Does it keep them? We let the trained agent play, record its LSTM's
# output $h$ together with the velocities that it was not shown, and fit a *linear* map from one to the other, on half
# of the carts. On the other half we ask how much of the velocities' variance the map explains ($R^2$; 1 is all of it).
# For comparison the same is tried with the positions themselves, and with an LSTM that has learned nothing yet.


# %%
def inner_life(
    net: LSTMNet, num_envs: int, steps: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Played greedily from the start: observations [T, N, 4], LSTM outputs [T, N, hidden], playing [T, N]."""
    stream = transitions(make_vector(POLE, num_envs), remembering_policy(net), WATCHING)
    rows, playing = [], np.ones(num_envs, bool)
    for step in islice(stream, steps):
        rows.append((step.obs, playing))
        playing = playing & ~(step.terminated | step.truncated)
    obs, alive = (np.stack(column) for column in zip(*rows, strict=True))
    starts = torch.zeros(len(obs), num_envs, dtype=torch.bool)
    with torch.no_grad():
        seen = torch.as_tensor(positions(obs), dtype=torch.float32)
        outputs, _ = net.remember(seen, starts, net.blank(num_envs, "cpu"))
    return obs, outputs.numpy(), alive


def read_out(inputs: np.ndarray, targets: np.ndarray, fit: np.ndarray) -> np.ndarray:
    """Least squares from ``inputs`` [M, I] to ``targets`` [M, J] over the rows ``fit``; the readings of all."""
    inputs = np.column_stack([inputs, np.ones(len(inputs))])
    return inputs @ np.linalg.lstsq(inputs[fit], targets[fit], rcond=None)[0]


# %% tags=["P5"]
obs, outputs, alive = inner_life(lstm_net, 32, by_budget(smoke=12, laptop=200))
now, steps = positions(obs), len(obs)
before = np.stack([now[np.maximum(np.arange(steps) - back, 0)] for back in range(4)], -1)
torch.manual_seed(0)
fresh_net = make_memory_net(memory_config)
with torch.no_grad():
    seen, starts = torch.as_tensor(now, dtype=torch.float32), torch.zeros(steps, 32).bool()
    untrained, _ = fresh_net.remember(seen, starts, fresh_net.blank(32, "cpu"))
sources = {
    "the present positions": now,
    "positions of four steps": before.reshape(steps, 32, -1),
    "an untrained LSTM": untrained.numpy(),
    "the trained LSTM": outputs,
}
hidden_truth = obs[..., [1, 3]][alive]  # [M, 2]: what the agent never saw
first_half = np.broadcast_to(np.arange(32) < 16, alive.shape)[alive]
readings = {}
for label, inputs in sources.items():
    readings[label] = read_out(inputs[alive], hidden_truth, first_half)
    wrong = (readings[label] - hidden_truth)[~first_half].var(0)
    found = 1 - wrong / hidden_truth[~first_half].var(0)
    print(f"R² from {label:24s} cart's velocity {found[0]:.2f}, pole's {found[1]:.2f}")

# %%
figure, axes = plt.subplots(figsize=(7.2, 2.8))
last_cart = np.broadcast_to(np.arange(32) == 31, alive.shape)[alive]
axes.plot(hidden_truth[last_cart, 1][:100], color=plots.INK, label="true, never shown")
axes.plot(
    readings["the trained LSTM"][last_cart, 1][:100], label="read from the LSTM", linewidth=1.4
)
axes.plot(
    readings["the present positions"][last_cart, 1][:100], ":", label="read from the positions"
)
axes.set(xlabel="step of the episode", ylabel="pole's velocity (rad/s)")
axes.legend(fontsize=8, ncols=3, loc="lower right")
plt.show()

# %% [markdown]
# *The pole's angular velocity along an episode that took no part in the fit: grey the truth, blue what a linear map
# reads from the LSTM, dotted what it reads from the present positions.*
# CAPTION_MEMORY_PROBE

# %% [markdown]
# ## Bodies
#
# A torque is a number, not a choice out of four. The standard bodies for continuous control are simulated by MuJoCo
# [(Todorov et al., 2012)](../book/bibliography.md#todorov2012), *multi-joint dynamics with contact*: rigid parts,
# joints, motors, friction. The source tells its readers to leave it alone, because it needed a licence and was hard to
# install; today it is free, its source is open, and it comes with `pip`.

# %%
gym.register_envs(gymnasium_robotics)  # the robot arm; the other bodies come with Gymnasium
BODIES = {
    "InvertedPendulum-v5": "keep the pole up",
    "InvertedDoublePendulum-v5": "keep both poles up",
    "Reacher-v5": "bring the fingertip to the dot",
    "Swimmer-v5": "swim to the right",
    "Hopper-v5": "hop to the right, stay up",
    "Walker2d-v5": "walk to the right, stay up",
    "HalfCheetah-v5": "run to the right",
    "Ant-v5": "walk to the right, stay up",
    "Humanoid-v5": "walk to the right, stay up",
    "FetchReach-v4": "bring the gripper to the dot",
}


def random_torques(env: gym.Env, seed: int) -> Callable[[object], np.ndarray]:
    """A policy that ignores what it sees."""
    env.action_space.seed(seed)
    return lambda obs: env.action_space.sample()


# %% tags=["P1"]
print(f"{'body':27s}{'observed':>10s}{'actions':>9s}{'decisions/s':>13s}{'at most':>9s}   task")
for env_id, task in BODIES.items():
    env = gym.make(env_id)
    observed = gym.spaces.flatdim(env.observation_space)
    actions, rate = env.action_space.shape[0], round(1 / env.unwrapped.dt)
    print(
        f"{env_id:27s}{observed:10d}{actions:9d}{rate:13d}{env.spec.max_episode_steps:9d}   {task}"
    )
    env.close()

# %% [markdown]
# *Numbers in an observation (positions, angles, velocities; the ant also feels its contacts), numbers in an action (a
# torque for each motor), decisions a second of simulated time, and the decisions after which the clock truncates an
# episode.* The arm of `FetchReach`
# [(Plappert et al., 2018)](../book/bibliography.md#plappert2018) sees 16 numbers: ten about itself, where its gripper is, and where it should be. The
# gallery shows each body after five random decisions.


# %% tags=["P1"]
def gallery(size: int, steps: int = 6) -> dict[str, np.ndarray]:
    """Every body after a few random decisions: name -> picture [size, size, 3]."""
    pictures = {}
    for env_id in BODIES:
        policy = random_torques(gym.make(env_id), seed=0)
        frames = record(env_id, policy, 0, steps, every=steps - 1, width=size, height=size)
        pictures[env_id] = frames[-1]
    return pictures


try:
    figure, cells = plt.subplots(2, 5, figsize=(9.5, 4.2))
    for axes, (env_id, picture) in zip(
        cells.flat, gallery(by_budget(64, 200)).items(), strict=True
    ):
        axes.imshow(picture)
        axes.set_title(env_id, fontsize=8)
        axes.axis("off")
    plt.show()
except RenderError as error:
    plt.close()
    print(error)

# %% [markdown]
# *From one joint to seventeen. The source's first and last step with MuJoCo is an arm that moves at random:*

# %% tags=["P1"]
try:
    arm = gym.make("FetchReach-v4")
    steps = by_budget(smoke=4, laptop=50)
    clip = record("FetchReach-v4", random_torques(arm, 0), 0, steps, width=240, height=240)
    display(show_clip(clip, 12, "FetchReach: one episode of random actions, at half speed."))
except RenderError as error:
    print(error)

# %% [markdown]
# Each decision costs this arm 1 until its gripper is within 5 cm of the dot. Random play gets there by luck only;
# chapter 7 returns to the arm with a method made for such rewards. Here we take bodies that are told more often how
# they do.

# %% [markdown]
# ## PPO with continuous actions
#
# PPO does not care what an action is. It needs its log-probability, its entropy, and a way to draw one. For torques the
# policy is a **Gaussian**: the network gives the mean of each torque, and one more parameter for each, the logarithm of
# its standard deviation, says how widely to try. That spread does not depend on the state; it shrinks when certainty
# pays. Torques are drawn independently, so the log-probability of an action is a *sum* over its components:
#
# $$
# \log \pi_\theta(a \mid s) = \sum_{j=1}^{A} \Big[ -\frac{(a_j - \mu_j(s))^2}{2 \sigma_j^2} - \log \sigma_j -
# \tfrac{1}{2} \log 2\pi \Big] .
# $$
#
# A Gaussian has no bounds, a motor has. The body gets the action *clipped* to what its motors can do; the rollout keeps
# the action that was drawn, because its log-probability is the one the ratio asks about.
#
# ### Numbers of a size that networks like
#
# Joint angles are tenths, joint speeds are tens. Without **observation normalisation** the speeds drown the angles. We
# keep the running mean and variance of everything seen, as chapter 1 does for its linear runner (its merge formula
# serves here too), subtract and divide. One thing has to be watched: the statistics must not change between playing and
# learning, or the same action gets another probability and the ratio no longer starts at 1. So they are renewed only
# before a rollout, from what the rollouts before it saw.
#
# **Reward normalisation** is for the critic. The advantages are normalised in any case, so the policy does not feel the
# scale of the rewards; but a critic that must output 200 moves there slowly, and its large errors eat up the length to
# which the common gradient is cut. Many codes divide by the running standard deviation of the discounted return. It is
# a scale, and a fixed one does as well where it is known: here `reward_scale`.


# %%
class Statistics(NamedTuple):
    """Count, mean [O] and summed squared deviations m2 [O] of observations."""

    count: torch.Tensor | float
    mean: torch.Tensor
    m2: torch.Tensor


class Normaliser(nn.Module):
    """(obs - mean) / deviation with the statistics of all it was shown; they are saved with the network."""

    def __init__(self, size: int) -> None:
        super().__init__()
        for name, shape in {"count": (), "mean": (size,), "m2": (size,)}.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    def show(self, obs: torch.Tensor) -> None:
        """Take observations [..., O] into the statistics (Chan, Golub and LeVeque 1983)."""
        shown = Statistics(*EVOLUTION.summary(obs.flatten(0, -2).double()))
        for old, new in zip(self.buffers(), EVOLUTION.merge_statistics(self, shown), strict=True):
            old.copy_(new)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        deviation = torch.where(self.m2 > 0, (self.m2 / self.count).sqrt(), 1.0)  # 1: not known yet
        return ((obs - self.mean) / deviation).float().clamp(-10, 10)


# %%
class GaussianNet(nn.Module):
    """A Gaussian policy over A torques and a value; the interface of ``PolicyNet``."""

    def __init__(
        self, obs_size: int, actions: int, hidden: int = 64, log_std: float = -1.0
    ) -> None:
        super().__init__()
        self.normalise = Normaliser(obs_size)
        self.policy = FOUNDATIONS.mlp(obs_size, hidden, hidden, actions)
        self.value = FOUNDATIONS.mlp(obs_size, hidden, hidden, 1)
        self.log_std = nn.Parameter(torch.full((actions,), log_std))
        initialise(self.policy, last_gain=0.01)
        initialise(self.value, last_gain=1.0)

    def forward(self, obs: torch.Tensor) -> tuple[Distribution, torch.Tensor]:
        obs = self.normalise(obs)
        each = Normal(self.policy(obs), self.log_std.exp(), validate_args=False)
        return Independent(each, 1, validate_args=False), self.value(obs)[..., 0]


# %%
class BodyCollector(Collector):
    """A collector that clips what the body gets, and before each rollout shows the last one to the normaliser."""

    seen: torch.Tensor | None = None

    def act(self, obs: np.ndarray) -> np.ndarray:
        return super().act(obs).clip(-1, 1)

    def collect(self, steps: int) -> Rollout:
        if self.seen is not None:
            self.net.normalise.show(self.seen)
        rollout = super().collect(steps)
        self.seen = rollout.obs
        return rollout


# %%
@dataclass(frozen=True)
class BodyConfig(PPOConfig):
    """PPO on a MuJoCo body whose torques lie between -1 and 1."""

    env_id: str = "HalfCheetah-v5"
    steps: int = knob(307_200, 4096, 5_000_000, "environment steps", step=4096)
    num_envs: int = 16
    horizon: int = knob(128, 1, 2048, "steps of each environment between updates")
    discount: float = knob(0.99, 0.5, 1.0, "gamma", step=0.001)
    lam: float = knob(0.95, 0.0, 1.0, "lambda of the advantages", step=0.01)
    learning_rate: float = knob(1e-3, 1e-5, 1e-2, "of Adam at the start", step=1e-4)
    entropy: float = knob(0.0, 0.0, 0.1, "weight of the entropy bonus at the start", step=0.001)
    epochs: int = knob(8, 1, 20, "passes over a rollout")
    minibatch: int = knob(512, 32, 8192, "steps a gradient step", step=32)
    reward_scale: float = 0.1
    log_std: float = knob(-1.0, -3.0, 1.0, "log of the standard deviation at the start")
    hidden: int = 64


# %%
def make_gaussian_net(config: BodyConfig, envs: VectorEnv) -> GaussianNet:
    sizes = envs.single_observation_space.shape[0], envs.single_action_space.shape[0]
    return GaussianNet(*sizes, config.hidden, config.log_std)


def train_body(
    config: BodyConfig, seed: int, state: dict | None = None, device: str = "cpu"
) -> Iterator[Progress]:
    """PPO with a Gaussian policy: the shared loop around the pieces above."""
    return train_on_policy(
        config, seed, state, device, ppo_update,
        make_net=lambda envs: make_gaussian_net(config, envs),
        make_collector=BodyCollector,
    )  # fmt: skip


# %% [markdown]
# ### Watch it learn to run
#
# The body is chapter 1's: `HalfCheetah-v5`, 17 numbers in, 6 torques out, 20 decisions a second, a thousand decisions
# an episode. Sixteen of them run side by side, in two processes.


# %% tags=["P7"]
def random_body_return(env_id: str, episodes: int, seed: int) -> float:
    """Mean return of uniformly random actions: the floor."""
    rng, space = np.random.default_rng(seed), gym.make(env_id).action_space
    flail = lambda obs: rng.uniform(space.low, space.high, (len(obs), *space.shape))
    return episode_returns(flail, env_id, episodes, seed).mean()


body_config = by_budget(smoke=BodyConfig(steps=4096, horizon=64), laptop=BodyConfig())
body_floor = random_body_return(body_config.env_id, 10, seed=0)
body_run = watch(train_body(body_config, seed=1), floor=body_floor)


# %% tags=["P7"]
def body_net_of(config: BodyConfig, weights: dict) -> GaussianNet:
    """A Gaussian policy with stored weights and statistics."""
    with closing(make_vector(config.env_id, 1)) as envs:
        net = make_gaussian_net(config, envs)
    net.load_state_dict(as_tensors(weights))
    return net


def mean_policy(net: GaussianNet) -> Policy:
    """The policy's mean action, without noise, within bounds."""

    @torch.no_grad()
    def policy(obs: np.ndarray) -> np.ndarray:
        obs = torch.as_tensor(obs, dtype=torch.float32, device=net.log_std.device)
        return net(obs)[0].mean.clamp(-1, 1).cpu().numpy()

    return policy


runner = mean_policy(body_net_of(body_config, body_run.state["net"]))
episodes = by_budget(smoke=2, laptop=20)
found = episode_returns(runner, body_config.env_id, episodes, SCORING + 1)
print(
    f"mean return {found.mean():,.0f} over {episodes} fresh episodes, random play {body_floor:,.0f}"
)
print(f"worst {found.min():,.0f}, best {found.max():,.0f}; trained in {body_run.seconds:.0f} s")

# %% [markdown]
# *Mean return of the last hundred episodes, noise included, live. Since episodes last a thousand steps, the mean lags
# behind: the agent of the moment is better than the curve says. The score is of the mean action, without noise.*

# %% tags=["P7"]
try:
    view = {"width": 320, "height": 200, "camera_name": "track"}
    steps = by_budget(smoke=6, laptop=160)
    clip = record("HalfCheetah-v5", runner, WATCHING, steps, **view)
    display(show_clip(clip, 20, "The first eight seconds of one episode, not a picked one."))
except RenderError as error:
    print(error)

# %%
figure, (curve, spread) = plt.subplots(1, 2, figsize=(9.5, 3.0), width_ratios=(1.6, 1))
draw_runs(curve, "P7", "ppo_body", "PPO, HalfCheetah")
finish_return_axes(curve, body_floor)
draw_runs(spread, "P7", "ppo_body", "PPO, HalfCheetah", curve="entropy")
spread.set(xlabel="environment steps (thousands)", ylabel="entropy (nats)")
plt.show()
scores = [round(run["metrics"]["return"]) for run in results.runs("P7", "ppo_body")]
print(f"20 fresh episodes each, without noise: {scores}")

# %% [markdown]
# *Left: mean return of the last hundred episodes, noise included, mean and 95 % interval over three seeds. Right: the
# policy's entropy, which for a Gaussian is the log of its spread and may well be negative.*
# CAPTION_BODY_CURVES

# %% [markdown]
# ## DDPG: a network in place of the max
#
# A DQN acts by $\max_a Q(s, a)$. Over all torques that is an optimisation problem of its own, at every step. **DDPG**
# (deep deterministic policy gradient, [Lillicrap et al., 2016](../book/bibliography.md#lillicrap2016)) trains a second
# network to solve it: an actor $\mu_\theta(s)$ whose one output is the action, trained to climb the critic's hill,
#
# $$
# \nabla_\theta J \approx \frac{1}{B} \sum_{i=1}^{B} \nabla_\theta\, Q_\omega\big(s_i, \mu_\theta(s_i)\big)
# = \frac{1}{B} \sum_{i=1}^{B} \nabla_a Q_\omega(s_i, a)\big|_{a = \mu_\theta(s_i)}\, \nabla_\theta\, \mu_\theta(s_i),
# $$
#
# the deterministic policy gradient of [Silver et al. (2014)](../book/bibliography.md#silver2014). No log-probability,
# no sampled return: the critic says which way the action should move, and the chain rule carries the message into the
# actor. The critic learns as in a DQN, with the actor in the place of the $\max$:
#
# $$
# y = r + \gamma\, \mathbb{1}[s' \text{ not terminal}]\; Q_{\omega^-}\big(s', \mu_{\theta^-}(s')\big).
# $$
#
# Three habits come along. Experience is *replayed*, since the targets ask about $\mu$'s action and not about the one
# that was taken: DDPG is off-policy. The target networks $\theta^-, \omega^-$ are not copied now and then but *follow*,
# $\theta^- \leftarrow (1 - \tau)\, \theta^- + \tau\, \theta$, a little after every update. And a deterministic actor
# explores nothing by itself, so noise is added to what it does. (The paper's noise is an Ornstein–Uhlenbeck process,
# which wanders instead of jumping. Plain Gaussian noise does as well
# [(Fujimoto et al., 2018)](../book/bibliography.md#fujimoto2018), and we use that.)

# %% [markdown]
# ### A pendulum too heavy for its motor
#
# `Pendulum-v1` hangs on a motor that cannot lift it in one go: it has to swing. Three numbers come in, the cosine and
# sine of the angle $\varphi$ and the angular velocity $\dot\varphi$; one torque $u$ goes out, 2 at most. Each step
# costs $\varphi^2 + 0.1\, \dot\varphi^2 + 0.001\, u^2$, where upright is $\varphi = 0$. Nothing ever terminates; the
# clock truncates after 200 steps, so every target bootstraps.
#
# Such a state fits on a page: an angle and a velocity. We can therefore solve the task exactly, by value iteration on a
# fine grid as in chapter 0, and hold what the networks learn against it.


# %%
def pendulum_step(
    angle: np.ndarray, speed: np.ndarray, torque: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One step of ``Pendulum-v1`` for whole arrays: next angle in [-π, π), next speed, reward."""
    reward = -(angle**2 + 0.1 * speed**2 + 0.001 * torque**2)
    speed = np.clip(speed + 0.05 * (15 * np.sin(angle) + 3 * torque), -8, 8)
    return (angle + 0.05 * speed + np.pi) % (2 * np.pi) - np.pi, speed, reward


class PendulumGrid(NamedTuple):
    """Angles [H] (once around) and speeds [W] on which values [H, W] are drawn."""

    angles: np.ndarray
    speeds: np.ndarray

    @staticmethod
    def of(size: int) -> "PendulumGrid":
        around = np.linspace(-np.pi, np.pi, size, endpoint=False)
        return PendulumGrid(around, np.linspace(-8, 8, size))

    def obs(self) -> torch.Tensor:
        """What the agent sees at each point: [H, W, 3]."""
        angle, speed = np.meshgrid(*self, indexing="ij")
        return torch.from_numpy(np.stack([np.cos(angle), np.sin(angle), speed], -1)).float()


# %%
def exact_pendulum(grid: PendulumGrid, discount: float, sweeps: int = 600) -> np.ndarray:
    """The optimal value on a grid by value iteration, bilinear between its points: [H, W]."""
    size = len(grid.angles)
    angle, speed = np.meshgrid(*grid, indexing="ij")
    torque = np.linspace(-2, 2, 9)[:, None, None]  # [A, 1, 1]
    next_angle, next_speed, reward = pendulum_step(angle, speed, torque)  # [A, H, W]
    row, column = (next_angle + np.pi) / (2 * np.pi) * size, (next_speed + 8) / 16 * (size - 1)
    row_low, column_low = np.floor(row).astype(int), np.floor(column).astype(int)
    row_share, column_share = row - row_low, column - column_low
    corners = []  # of the cell where each step ends: (places in the grid, weights), [A, H, W] each
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        places = (row_low + i) % size * size + np.minimum(column_low + j, size - 1)
        weights = np.abs(1 - i - row_share) * np.abs(1 - j - column_share)
        corners.append((places, discount * weights))
    values = np.zeros(size * size)
    for _ in range(sweeps):
        following = sum(weights * values[places] for places, weights in corners)
        values = (reward + following).max(0).ravel()
    return values.reshape(size, size)


# %% [markdown]
# ### Actor and critic
#
# The actor's last layer is a $\tanh$, so its output is a share of the largest torque, between $-1$ and $1$. The critic
# sees those shares beside the observation.


# %%
@dataclass(frozen=True)
class DDPGConfig:
    """DDPG (Lillicrap et al. 2016), one update for each environment step after the warm-up."""

    env_id: str = "Pendulum-v1"
    steps: int = knob(8000, 1000, 1_000_000, "environment steps", step=500)
    discount: float = knob(0.98, 0.5, 0.999, "gamma", step=0.001)
    learning_rate: float = knob(1e-3, 1e-5, 1e-2, "of Adam, for actor and critic", step=1e-4)
    follow: float = knob(0.01, 0.001, 1.0, "tau: how fast the targets follow", step=0.001)
    noise: float = knob(0.1, 0.0, 1.0, "of exploration, as a share of the largest action")
    batch_size: int = knob(128, 8, 1024, "transitions an update", step=8)
    hidden: int = 64
    warm_up: int = 1000
    num_envs: int = 4
    critics: int = 1

    def __post_init__(self) -> None:
        check_config(self)


# %%
class Continuous(NamedTuple):
    """What DDPG learns: actor, critics (one, later two), their followers and optimisers."""

    actor: nn.Module
    critics: nn.ModuleList
    target_actor: nn.Module
    target_critics: nn.ModuleList
    actor_optimiser: torch.optim.Optimizer
    critic_optimiser: torch.optim.Optimizer


def make_continuous(config: DDPGConfig, envs: VectorEnv, seed: int, device: str) -> Continuous:
    torch.manual_seed(seed)
    size, actions = envs.single_observation_space.shape[0], envs.single_action_space.shape[0]
    hidden = (config.hidden, config.hidden)
    actor = nn.Sequential(FOUNDATIONS.mlp(size, *hidden, actions), nn.Tanh()).to(device)
    critics = nn.ModuleList(
        FOUNDATIONS.mlp(size + actions, *hidden, 1) for _ in range(config.critics)
    )
    adam = lambda net: torch.optim.Adam(net.parameters(), config.learning_rate, fused=True)
    followers = copy.deepcopy(actor), copy.deepcopy(critics.to(device))
    return Continuous(actor, critics, *followers, adam(actor), adam(critics))


# %%
def q_value(critic: nn.Module, obs: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """Q(s, a). obs [..., O], actions [..., A] as shares of the largest -> [...]."""
    return critic(torch.cat([obs, actions], -1))[..., 0]


# %% [markdown]
# Here is the method: the targets, a step for the critic, a step for the actor, and the followers' small step. The
# actor's loss also leaves gradients in the critic's weights; they are wiped before the critic's next step.


# %%
@torch.no_grad()
def ddpg_targets(agent: Continuous, batch: Experience) -> torch.Tensor:
    """The targets y of a batch of tensors (Lillicrap et al. 2016, algorithm 1): [B]."""
    actions = agent.target_actor(batch.next_obs)
    next_values = q_value(agent.target_critics[0], batch.next_obs, actions)
    return batch.rewards + batch.discounts * next_values


def ddpg_update(agent: Continuous, batch: Experience, config: DDPGConfig, count: int) -> None:
    """One step of critic, actor and followers. count: updates so far."""
    targets = ddpg_targets(agent, batch)
    loss = F.mse_loss(q_value(agent.critics[0], batch.obs, batch.actions), targets)
    descend(agent.critic_optimiser, loss)
    descend(agent.actor_optimiser, actor_loss(agent, batch))
    follow_both(agent, config.follow)


def actor_loss(agent: Continuous, batch: Experience) -> torch.Tensor:
    """Minus what the (first) critic thinks of the actor's own actions."""
    return -q_value(agent.critics[0], batch.obs, agent.actor(batch.obs)).mean()


def descend(optimiser: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def follow_both(agent: Continuous, share: float) -> None:
    """Move the followers by ``share`` of the way, in place."""
    trail(agent.target_actor, agent.actor, 1 - share)
    trail(agent.target_critics, agent.critics, 1 - share)


# %% [markdown]
# Around it, the loop of chapter 0's DQN: four pendulums side by side, a replay, and as many updates as steps.


# %%
def explorer(
    agent: Continuous, config: DDPGConfig, state: dict, largest: float, rng: np.random.Generator
) -> Policy:
    """The actor's action with noise; even shares at random during the warm-up."""

    def policy(obs: np.ndarray) -> np.ndarray:
        if state["env_steps"] < config.warm_up:
            shares = rng.uniform(-1, 1, (len(obs), agent.actor[0][-1].out_features))
        else:
            shares = shares_of(agent.actor, obs)
            shares = (shares + config.noise * rng.standard_normal(shares.shape)).clip(-1, 1)
        return (largest * shares).astype(np.float32)

    return policy


def shares_of(actor: nn.Module, obs: np.ndarray) -> np.ndarray:
    """The actor's actions as shares of the largest. [N, O] -> [N, A]."""
    with torch.no_grad():
        obs = torch.as_tensor(obs, dtype=torch.float32, device=next(actor.parameters()).device)
        return actor(obs).cpu().numpy()


def experience_of(n_step: NStep, step: Transition, largest: float) -> Experience:
    """A vector step as rows of the replay: 32 bits a number, actions as shares."""
    rows = n_step(step._replace(actions=step.actions / largest))
    return Experience(*(column.astype(np.float32) for column in rows))


# %%
def train_ddpg(
    config: DDPGConfig,
    seed: int,
    state: dict | None = None,
    device: str = "cpu",
    update: Callable = ddpg_update,
) -> Iterator[Progress]:
    """DDPG (Lillicrap et al. 2016, algorithm 1). state: {"env_steps", "agent", "replay", "recent", "metrics"}."""
    state = {"env_steps": 0, "recent": []} if state is None else {**state}
    replay, n_step = Replay(config.steps), NStep(1, config.discount)
    with closing(make_vector(config.env_id, config.num_envs)) as envs:
        agent = make_continuous(config, envs, seed, device)
        if state["env_steps"]:
            for part, saved in zip(agent, as_tensors(state["agent"]), strict=True):
                part.load_state_dict(saved)
            replay.add(Experience(**state["replay"]))
        rng = np.random.default_rng([seed, state["env_steps"]])
        torch.manual_seed(int(rng.integers(2**31)))
        largest = float(envs.single_action_space.high[0])
        policy = explorer(agent, config, state, largest, rng)
        stream = transitions(envs, policy, int(rng.integers(2**31)))
        recent, playing = deque(state["recent"], maxlen=20), np.zeros(config.num_envs)
        while True:
            if state["env_steps"] < config.steps:
                for step in islice(stream, 1000 // config.num_envs):
                    replay.add(experience_of(n_step, step, largest))
                    count_returns(step, playing, recent)
                    state["env_steps"] += config.num_envs
                    if state["env_steps"] > config.warm_up:
                        ddpg_updates(agent, replay, config, state["env_steps"], rng, update)
                metrics = ddpg_metrics(agent, replay, recent or playing)
                state |= {"recent": list(recent), "metrics": metrics}
            now = lambda: ddpg_state(state, agent, replay)
            yield Progress(
                state["env_steps"], config.steps, state["metrics"], now, "environment steps"
            )
            if state["env_steps"] >= config.steps:
                return


# %%
def ddpg_updates(
    agent: Continuous,
    replay: Replay,
    config: DDPGConfig,
    env_steps: int,
    rng: np.random.Generator,
    update: Callable,
) -> None:
    """One update for each environment that has just made a step."""
    for i in range(config.num_envs):
        batch = as_tensors_of(replay.sample(config.batch_size, rng), agent)
        update(agent, batch, config, env_steps + i)


def as_tensors_of(rows: Experience, agent: Continuous) -> Experience:
    """Rows of the replay as tensors, where the agent lives."""
    device = next(agent.actor.parameters()).device
    return Experience(*(torch.from_numpy(column).to(device) for column in rows))


# %%
def count_returns(step: Transition, playing: np.ndarray, recent: deque) -> None:
    """Add a step's rewards to the returns of the episodes being played [N]; finished ones go to ``recent``."""
    playing += step.rewards
    done = step.terminated | step.truncated
    recent.extend(playing[done].tolist())
    playing[done] = 0


def ddpg_metrics(agent: Continuous, replay: Replay, returns: deque | np.ndarray) -> dict:
    """The mean of the returns, and the mean value of the states lately seen."""
    lately = replay.rows(np.arange(max(0, replay.added - 500), replay.added) % replay.capacity)
    with torch.no_grad():
        value = -actor_loss(agent, as_tensors_of(lately, agent)).item()
    return {"mean_return": float(np.mean(returns)), "value": value}


def ddpg_state(state: dict, agent: Continuous, replay: Replay) -> dict:
    """All that ``train_ddpg`` needs to go on, the replay oldest first."""
    places = np.arange(replay.added - len(replay), replay.added) % replay.capacity
    parts = [copy.deepcopy(part.state_dict()) for part in agent]
    return {**state, "agent": parts, "replay": replay.rows(places)._asdict()}


# %% tags=["P7"]
def actor_policy(actor: nn.Module, env_id: str) -> Policy:
    """The actor's own actions, without noise."""
    largest = gym.make(env_id).action_space.high[0]
    return lambda obs: largest * shares_of(actor, obs)


def actor_of(weights: dict) -> nn.Module:
    """An actor with stored weights; its sizes are theirs."""
    weights = as_tensors(weights)
    shapes = [tensor.shape for tensor in weights.values() if tensor.ndim == 2]
    actor = nn.Sequential(
        FOUNDATIONS.mlp(*(inputs for _, inputs in shapes), shapes[-1][0]), nn.Tanh()
    )
    actor.load_state_dict(weights)
    return actor


# %% tags=["P7"]
pendulum_floor = random_body_return("Pendulum-v1", 100, seed=0)
ddpg_config = by_budget(smoke=DDPGConfig(steps=1000, warm_up=900), laptop=DDPGConfig())
snapshots = {}


def remember_agent(progresses: Iterator[Progress]) -> Iterator[Progress]:
    for progress in progresses:
        snapshots[progress.step] = progress.state()["agent"]
        yield progress


ddpg_run = watch(remember_agent(train_ddpg(ddpg_config, seed=1)), floor=pendulum_floor)
swing_up = actor_policy(actor_of(ddpg_run.state["agent"][0]), "Pendulum-v1")
found = episode_returns(swing_up, "Pendulum-v1", 100, SCORING + 1)
print(f"mean return {found.mean():.0f} over 100 fresh episodes, random play {pendulum_floor:.0f}")
print(f"trained in {ddpg_run.seconds:.0f} s, {ddpg_config.steps:,} environment steps")

# %% [markdown]
# *Mean return of the last twenty episodes, exploration included, against environment steps, live; the dotted line is
# random play. Even the best return is far below 0: whoever starts at the bottom has to pay for the way up.*
#
# ### The value of every state
#
# The critic's judgement of the actor's own action, $V(s) = Q(s, \mu(s))$, drawn over all angles and speeds, as training
# proceeds; at the end the exact solution. The middle is upright and at rest.


# %%
def pendulum_path(policy: Policy, steps: int = 80) -> np.ndarray:
    """Angle and speed of one swing-up from rest at the bottom: [steps, 2]."""
    angle, speed, path = np.array([np.pi - 0.01]), np.zeros(1), []
    for _ in range(steps):
        path.append((angle[0], speed[0]))
        obs = np.stack([np.cos(angle), np.sin(angle), speed], -1)  # [1, 3]
        angle, speed, _ = pendulum_step(angle, speed, policy(obs)[:, 0])
    return np.array(path)


def draw_values(axes: plt.Axes, values: np.ndarray, path: np.ndarray, title: str) -> None:
    """Values [H, W] over angle and speed, with the path of a swing-up."""
    axes.imshow(
        values.T, origin="lower", extent=(-180, 180, -8, 8), aspect="auto", cmap="viridis",
        vmin=-250, vmax=0,
    )  # fmt: skip
    axes.plot(np.degrees(path[:, 0]), path[:, 1], ".", color="white", markersize=3)
    axes.set(xlabel="angle (degrees)", title=title, xticks=(-180, -90, 0, 90, 180))
    axes.grid(visible=False)


# %%
def agent_surface(parts: list[dict], grid: PendulumGrid) -> tuple[np.ndarray, np.ndarray, Policy]:
    """A snapshot's V [H, W], its actor's shares [H, W] and its policy."""
    actor, critic = actor_of(parts[0]), FOUNDATIONS.mlp(4, *(DDPGConfig.hidden,) * 2, 1)
    first = {k.removeprefix("0."): v for k, v in parts[1].items() if k.startswith("0.")}
    critic.load_state_dict(as_tensors(first))
    with torch.no_grad():
        shares = actor(grid.obs())
        values = q_value(critic, grid.obs(), shares)
    return values.numpy(), shares[..., 0].numpy(), actor_policy(actor, "Pendulum-v1")


def surface_picture(values: np.ndarray, path: np.ndarray, title: str) -> bytes:
    figure = Figure(figsize=(4.6, 3.3), dpi=72)
    axes = figure.subplots()
    draw_values(axes, values, path, title)
    axes.set_ylabel("angular velocity (rad/s)")
    figure.colorbar(axes.images[0], label="value")
    return plots.to_png(figure)


# %%
grid = PendulumGrid.of(by_budget(smoke=21, laptop=121))
pictures = []
for step, parts in snapshots.items():
    values, _, policy = agent_surface(parts, grid)
    title = f"after {step:,} environment steps"
    pictures.append(surface_picture(values, pendulum_path(policy), title))
show(scrubber(pictures, "picture", start=len(pictures) - 1, interval=600), pictures[-1])

# %% [markdown]
# *The learned value of every state; white dots are a swing-up from the bottom, a dot each step, with the actor of the
# moment.* At first the critic knows that hanging and spinning cost. Then value spreads from the upright position
# outward along the paths that lead there, and the actor, which climbs this hill, finds the swing. Held against the
# exact solution:

# %%
values, shares, policy = agent_surface(ddpg_run.state["agent"], grid)
exact = exact_pendulum(grid, ddpg_config.discount)
figure, panels = plt.subplots(1, 3, figsize=(10, 3.1), sharey=True)
draw_values(panels[0], exact, pendulum_path(policy), "exact value")
draw_values(panels[1], values, pendulum_path(policy), "learned value")
draw_values(panels[2], shares, pendulum_path(policy), "the actor's torque")
panels[2].images[0].set(cmap="PuOr", clim=(-1, 1))
panels[0].set_ylabel("angular velocity (rad/s)")
figure.colorbar(panels[1].images[0], ax=panels[:2], label="value", pad=0.02)
figure.colorbar(panels[2].images[0], ax=panels[2], label="share of the largest torque")
plt.show()
visited = np.abs(grid.speeds) <= 6
print(f"mean learned minus exact value {np.mean((values - exact)[:, visited]):+.1f}")
print(f"mean size of the difference {np.abs((values - exact)[:, visited]).mean():.1f}")
print(
    f"states in which the torque is above 95 % of the largest: {np.mean(np.abs(shares) > 0.95):.0%}"
)

# %% [markdown]
# *Left the solution by value iteration (a grid's blur makes it wrong by about 2 on average), middle what 8,000 steps of
# experience taught the critic, right the actor: orange pushes one way, violet the other. The ridge and the hollows are
# where they belong; the sharp edges, where one more swing becomes necessary, are worn smooth. The actor has learned to
# switch: nearly everywhere it pushes with all it has, one way or the other.*
# CAPTION_DDPG_SURFACE
#
# Change it yourself. With `noise` at 0 the actor explores by its own mistakes only; with `follow` at 1 the targets are
# the networks themselves.

# %%
figure = Figure(figsize=(7.2, 2.6))
axes = figure.subplots()
draw_runs(axes, "P7", "ddpg_pendulum", "default settings")
axes.axhline(pendulum_floor, color=plots.INK, linestyle=":", label="random policy")
axes.set(xlabel="environment steps (thousands)", ylabel="mean return of the last 20")
axes.legend(loc="lower right")
ddpg_panel = panel(train_ddpg, ddpg_config, floor=pendulum_floor, preview=plots.to_png(figure))

# %% [markdown]
# *Mean return of the last twenty episodes for the default settings, mean and 95 % interval over three seeds.*
#
# ## TD3: three small changes
#
# The actor climbs whatever hill the critic shows, errors included: where the critic is too kind, there the actor goes,
# and the next targets inherit the kindness. It is the overestimate of the $\max$ in chapter 0, with a network that
# seeks it out. **TD3** (twin delayed DDPG, [Fujimoto et al., 2018](../book/bibliography.md#fujimoto2018)) makes three
# changes:
#
# 1. **Two critics**, and the *smaller* of their two opinions in the target. Both have to be wrong in the same direction
#    for an error to survive. (Chapter 2's double DQN splits choosing from judging; here two judge.)
# 2. **Smoothing.** The target's action is blurred by a little clipped noise: similar actions should have similar
#    values, and a thin peak, which is more often an error than a discovery, gets averaged away.
# 3. **Delay.** Actor and followers move at every second update only, so that the critic's opinion settles before it is
#    acted on.


# %%
@dataclass(frozen=True)
class TD3Config(DDPGConfig):
    """TD3 (Fujimoto et al. 2018): DDPG and three numbers."""

    critics: int = 2  # <= CHANGED
    smoothing: float = knob(0.2, 0.0, 1.0, "noise on the target's action")  # <= CHANGED
    delay: int = knob(2, 1, 10, "critic updates for one of the actor")  # <= CHANGED


# %%
@torch.no_grad()
def td3_targets(agent: Continuous, batch: Experience, smoothing: float) -> torch.Tensor:
    """The targets y of a batch of tensors (Fujimoto et al. 2018, algorithm 1): [B]."""
    actions = agent.target_actor(batch.next_obs)
    blur = (smoothing * torch.randn_like(actions)).clamp(-0.5, 0.5)  # <= CHANGED
    actions = (actions + blur).clamp(-1, 1)  # <= CHANGED
    opinions = [q_value(critic, batch.next_obs, actions) for critic in agent.target_critics]
    next_values = torch.stack(opinions).amin(0)  # <= CHANGED
    return batch.rewards + batch.discounts * next_values


def td3_update(agent: Continuous, batch: Experience, config: TD3Config, count: int) -> None:
    """One step of both critics, and at every ``config.delay``-th count of actor and followers."""
    targets = td3_targets(agent, batch, config.smoothing)
    values = [q_value(critic, batch.obs, batch.actions) for critic in agent.critics]
    loss = sum(F.mse_loss(value, targets) for value in values)  # <= CHANGED
    descend(agent.critic_optimiser, loss)
    if count % config.delay == 0:  # <= CHANGED
        descend(agent.actor_optimiser, actor_loss(agent, batch))
        follow_both(agent, config.follow)


def train_td3(
    config: TD3Config, seed: int, state: dict | None = None, device: str = "cpu"
) -> Iterator[Progress]:
    """TD3 (Fujimoto et al. 2018, algorithm 1): the loop of DDPG around another update."""
    return train_ddpg(config, seed, state, device, td3_update)


# %% [markdown]
# Noise, clip and delay are the paper's. Do the two opinions lower the values? The pendulum knows the truth:

# %%
figure, (curve, excess) = plt.subplots(1, 2, figsize=(9.5, 3.0), width_ratios=(1.6, 1))
found = {}
for label, name in {"DDPG": "ddpg_pendulum", "TD3": "td3_pendulum"}.items():
    draw_runs(curve, "P7", name, label)
    stored = results.runs("P7", name)
    found[label] = [run["metrics"]["value_excess"] for run in stored]
    scores = [round(run["metrics"]["return"]) for run in stored]
    seconds = np.median([run["metrics"]["training_seconds"] for run in stored])
    print(f"{label:5s} 100 fresh episodes each: {scores}, trained in {seconds:.0f} s")
finish_return_axes(curve, pendulum_floor)
curve.set_ylabel("mean return of the last 20")
plots.bars(excess, found)
excess.axvline(0, color=plots.INK, linewidth=1)
excess.set(xlabel="learned minus exact value")
plt.show()

# %% [markdown]
# *Left: mean return of the last twenty episodes on the pendulum, noise included, mean and 95 % interval over three
# seeds. Right: how far the learned values lie above the exact ones, averaged over angles and speeds; each seed as a
# circle.*
# CAPTION_TD3_PENDULUM
#
# ### Bodies again
#
# `Reacher-v5` is an arm with two joints on a table. It sees its angles, their speeds and where the dot is, and pays for
# the distance from its fingertip and for effort, at each of 50 steps.

# %% tags=["P7"]
REACHER = DDPGConfig("Reacher-v5")
reacher_config = by_budget(smoke=replace(REACHER, steps=1000, warm_up=900), laptop=REACHER)
reacher_floor = random_body_return("Reacher-v5", 100, seed=0)
reacher_run = watch(train_ddpg(reacher_config, seed=1), floor=reacher_floor)
reach = actor_policy(actor_of(reacher_run.state["agent"][0]), "Reacher-v5")
found = episode_returns(reach, "Reacher-v5", 100, SCORING + 1)
print(f"mean return {found.mean():.1f} over 100 fresh episodes, random play {reacher_floor:.1f}")

# %% [markdown]
# *Mean return of the last twenty episodes, noise included, live.*


# %% tags=["P7"]
def clip_of_episodes(env_id: str, policy: Policy, episodes: int, steps: int, size: int) -> list:
    """Frames of several short episodes, one after the other."""
    view = {"width": size, "height": size}
    seeds = range(WATCHING, WATCHING + episodes)
    return [frame for seed in seeds for frame in record(env_id, policy, seed, steps, **view)]


try:
    frames = clip_of_episodes("Reacher-v5", reach, *by_budget((1, 3, 64), (4, 40, 200)))
    display(show_clip(frames, 25, "Four episodes, at half speed: fingertip to dot, and stay."))
except RenderError as error:
    print(error)

# %% [markdown]
# And the runner? PPO throws every rollout away after a few passes; DDPG and TD3 learn from each step over and over. The
# same body, three methods, measured two ways:

# %%
RUNNER = {
    "env_id": "HalfCheetah-v5",
    "steps": 40_000,
    "discount": 0.99,
    "hidden": 128,
    "follow": 0.005,
}
DDPG_RUNNER, TD3_RUNNER = DDPGConfig(**RUNNER), TD3Config(**RUNNER)
RUNNERS = {"PPO": "ppo_body", "DDPG": "ddpg_body", "TD3": "td3_body"}
figure, panels = plt.subplots(1, 2, figsize=(9.5, 3.2), sharey=True)
for label, name in RUNNERS.items():
    draw_runs(panels[0], "P7", name, label)
    draw_runs(panels[1], "P7", name, label, against="seconds")
    stored = results.runs("P7", name)
    scores = [round(run["metrics"]["return"]) for run in stored]
    print(f"{label:5s} 20 fresh episodes each, without noise: {scores}")
finish_return_axes(panels[0], body_floor)
panels[0].set(xscale="log", ylabel="mean return")
finish_return_axes(panels[1], body_floor, "seconds")
panels[1].set_ylabel("")
plt.show()

# %% [markdown]
# *Mean return on `HalfCheetah-v5` while learning, noise included, against environment steps (left, logarithmic) and
# seconds (right), mean and 95 % interval over three seeds.*
# CAPTION_RUNNERS

# %% [markdown]
# ## Spot the bug: a number that has to be 1
#
# Play a rollout, and before the first gradient step compute the log-probabilities of its actions once more. The policy
# has not changed, so every ratio must be 1. Where it is not, learning sees something else than playing saw. One line of
# code checks it, and it catches faults that no error message reports. Four of them:
#
# ```python
# policy, values, _ = net(obs, zeros, memory)     # 1 resets while playing, none while learning
# policy, values, _ = net(obs, starts, zeros)     # 2 each rollout begins with an empty memory
# normalise.show(rollout.obs)                     # 3 statistics renewed between playing and learning
# actions = actions.clip(-1, 1)                   # 4 stored: what the body got, not what was drawn
# ```

# %%
SPOILED = {
    "1 no resets": lambda rollout: rollout._replace(starts=torch.zeros_like(rollout.starts)),
    "2 memory lost": lambda rollout: rollout._replace(memory=torch.zeros_like(rollout.memory)),
}


@torch.no_grad()
def memory_log_ratios(net: nn.Module, rollout: Remembered) -> np.ndarray:
    """Mean size of log π_new / π_old over the environments, before any gradient step: [T]."""
    policy, *_ = net(rollout.steps.obs, rollout.starts, rollout.memory)
    differences = policy.log_prob(rollout.steps.actions) - rollout.steps.log_probs
    return ((differences * rollout.valid).abs().sum(1) / rollout.valid.sum(1)).numpy()


@torch.no_grad()
def body_log_ratios(net: GaussianNet, rollout: Rollout, actions: torch.Tensor) -> np.ndarray:
    """The same for a body's rollout, with ``actions`` in place of those it stores: [T]."""
    return (net(rollout.obs)[0].log_prob(actions) - rollout.log_probs).abs().mean(1).numpy()


# %%
short = {"vectorization_mode": "vector_entry_point", "max_episode_steps": 90}
with closing(gym.make_vec("CartPole-v1", 32, **short)) as envs:
    collector = MemoryCollector(envs, lstm_net, WATCHING, memory_config.reward_scale)
    rollout = [collector.collect(128) for _ in range(2)][1]
curves = {"right": memory_log_ratios(lstm_net, rollout)}
curves |= {f: memory_log_ratios(lstm_net, spoil(rollout)) for f, spoil in SPOILED.items()}
torch.manual_seed(0)
with closing(make_envs(replace(body_config, workers=1))) as envs:
    net = make_gaussian_net(replace(body_config, log_std=0.0), envs)
    collector = BodyCollector(envs, net, WATCHING, body_config.reward_scale)
    rollout = [collector.collect(64) for _ in range(2)][1]
    body_curves = {"right": body_log_ratios(net, rollout, rollout.actions)}
    clipped = body_log_ratios(net, rollout, rollout.actions.clamp(-1, 1))
    net.normalise.show(rollout.obs)
    body_curves["3 statistics renewed"] = body_log_ratios(net, rollout, rollout.actions)
    body_curves["4 clipped actions"] = clipped
figure, panels = plt.subplots(1, 2, figsize=(9.5, 3.0))
for axes, found, title in zip(panels, (curves, body_curves), ("LSTM", "Gaussian"), strict=True):
    for label, values in found.items():
        axes.plot(values, label=label)
    axes.set(xlabel="step of the rollout", ylabel="mean |log ratio|", title=title)
    axes.set_yscale("symlog", linthresh=1e-3)
    axes.legend(fontsize=8)
plt.show()

# %% [markdown]
# *Mean size of the log ratio before the first gradient step, along a rollout; it has to be 0, and blue is, up to
# rounding. Left: without resets learning goes wrong from the first end of an episode on (the clock ends them all in
# the same step here, after 90); without the first memory it goes wrong at once, and recovers as the LSTM finds its
# feet. Right: both faults spoil every step.* What the first two cost:

# %%
figure, axes = plt.subplots(figsize=(7.2, 3.0))
for label, name in {
    "right": "memory_lstm",
    "no resets": "memory_no_resets",
    "memory lost": "memory_lost",
}.items():
    draw_runs(axes, "P5", name, label)
finish_return_axes(axes, memory_floor)
plt.show()

# %% [markdown]
# *Mean return while learning, mean and 95 % interval over three seeds.*
# CAPTION_MEMORY_FAULTS
#
# ### Twins that are clones
#
# ```python
# critic = mlp(obs_size + actions, 64, 64, 1)
# critics = nn.ModuleList([critic, copy.deepcopy(critic)])
# ```
#
# Two critics, one initialisation. They see the same batches and the same targets, so their gradients are equal, and so
# are they, for ever. The smaller of two equal opinions is the opinion: TD3 has quietly become DDPG. Nothing shows in
# the losses. What shows it is the critics' disagreement:


# %%
def disagreement(clones: bool, rows: Experience, updates: int) -> list[float]:
    """Mean |Q1 - Q2| as TD3 learns from stored experience alone, every 20 updates."""
    with closing(make_vector("Pendulum-v1", 1)) as envs:
        agent = make_continuous(TD3Config(), envs, 0, "cpu")
    if clones:
        for nets in (agent.critics, agent.target_critics):
            nets[1].load_state_dict(nets[0].state_dict())
    replay, rng, found = Replay(len(rows.rewards)), np.random.default_rng(0), []
    replay.add(rows)
    for count in range(updates):
        batch = as_tensors_of(replay.sample(128, rng), agent)
        if count % 20 == 0:
            with torch.no_grad():
                first, second = (q_value(c, batch.obs, batch.actions) for c in agent.critics)
            found.append((first - second).abs().mean().item())
        td3_update(agent, batch, TD3Config(), count)
    return found


# %%
rows = Experience(**ddpg_run.state["replay"])
figure, axes = plt.subplots(figsize=(7.2, 2.6))
updates = by_budget(smoke=40, laptop=1500)
for label, clones in {"twins": False, "clones": True}.items():
    axes.plot(np.arange(0, updates, 20), disagreement(clones, rows, updates), label=label)
axes.set(xlabel="update", ylabel="mean |Q1 − Q2|")
axes.legend()
plt.show()

# %% [markdown]
# *How far the two critics disagree about the actions of a batch, while they learn from the replay of the run above.
# Twins differ by what chance gave them and keep differing; clones never do.*

# %% [markdown]
# ## Exercises
#
# **An LSTM for A2C.** The source asks for it. A2C takes one gradient step with the whole rollout, at a ratio of 1.
# Which settings turn `train_memory` into it? Compare rollouts of 16 and 128 steps.

# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
# One pass, one minibatch: the ratio is 1, nothing is clipped, and the gradient of ratio * A is that of A log π.
steps = by_budget(smoke=4096, laptop=122_880)
figure, axes = plt.subplots(figsize=(7.2, 2.6))
for horizon in (16, 128):
    a2c = replace(memory_config, steps=steps, epochs=1, horizon=horizon, minibatch=horizon * 32)
    curve = [(p.step, p.metrics["mean_return"]) for p in train_memory(a2c, seed=1)]
    axes.plot(*np.transpose(curve), label=f"A2C with an LSTM, {horizon} steps")
axes.axhline(memory_floor, color=plots.INK, linestyle=":", label="random policy")
axes.set(xlabel="environment steps", ylabel="mean return")
axes.legend(fontsize=8)
plt.show()
# EXERCISE_A2C

# %% [markdown]
# **How many frames?** Two positions make a difference, and a difference is a velocity. Are two frames enough? Are eight
# better?

# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
for frames in (1, 2, 4, 8):
    config = replace(memory_config, steps=by_budget(smoke=4096, laptop=61_440), memory=frames)
    *_, progress = train_memory(config, seed=1)
    print(f"{frames} frames: mean return {progress.metrics['mean_return']:.0f}")
# EXERCISE_FRAMES

# %% [markdown]
# **Which of the three?** Take TD3's changes away one at a time, on the pendulum. Which of them lowers the values?

# %% jupyter={"outputs_hidden": true, "source_hidden": true} mystnb={"code_prompt_hide": "Solution", "code_prompt_show": "Solution"} tags=["hide-cell"]
whole = by_budget(smoke=TD3Config(steps=1000, warm_up=900), laptop=TD3Config(steps=4000))
without = {
    "TD3": whole,
    "one critic": replace(whole, critics=1),
    "no smoothing": replace(whole, smoothing=0.0),
    "no delay": replace(whole, delay=1),
}
for label, config in without.items():
    *_, progress = train_td3(config, seed=1)
    values, _, policy = agent_surface(progress.state()["agent"], grid)
    excess = (values - exact)[:, visited].mean()
    score = episode_returns(policy, "Pendulum-v1", 50, SCORING).mean()
    print(f"{label:13s} return {score:6.0f}, learned minus exact value {excess:+6.1f}")
# EXERCISE_TD3

# %% [markdown]
# ## Summary
#
# - Where one observation is not the state, a policy needs the past: frames side by side, or a recurrent network. Reset
#   its memory where an episode starts, keep the memory that a rollout began with, and learn from whole sequences.
# - Before the first gradient step every ratio is 1. Check it, and a class of silent faults is gone.
# - PPO takes continuous actions by putting a Gaussian where the softmax was. Sum the log-probability over the torques,
#   clip what the body gets, and leave the normaliser alone between playing and learning.
# - DDPG replaces the $\max$ of a DQN by a network that climbs the critic. TD3 does not trust the critic that far: it takes
#   the smaller of two opinions, blurs the action it asks about, and lets the actor move at every second step.
#
# ## How the numbers were measured


# %%
def measure_memory(config: MemoryConfig, seed: int, spoil: Callable | None = None) -> Measured:
    """PPO with a memory; spoil: what a faulty learner sees of each rollout."""
    faulty = lambda net, optimiser, seen, *rest: memory_update(net, optimiser, spoil(seen), *rest)
    progress, curves = follow(train_memory(config, seed, update=faulty if spoil else memory_update))
    policy = remembering_policy(memory_net_of(config, progress.state()["net"]))
    found = episode_returns(policy, config.env_id, 100, SCORING + seed).mean()
    floor = {"return": random_returns(config.env_id, 100, seed).mean()}
    metrics = {"return": found, "training_seconds": curves["seconds"][-1]}
    return Measured(metrics, floor, curves)


def measure_body(config: BodyConfig, seed: int) -> Measured:
    """PPO on a body: the mean action's return over 20 fresh episodes."""
    progress, curves = follow(train_body(config, seed))
    policy = mean_policy(body_net_of(config, progress.state()["net"]))
    found = episode_returns(policy, config.env_id, 20, SCORING + seed).mean()
    floor = {"return": random_body_return(config.env_id, 10, seed)}
    metrics = {"return": found, "training_seconds": curves["seconds"][-1]}
    return Measured(metrics, floor, curves)


# %%
def measure_ddpg(config: DDPGConfig, seed: int) -> Measured:
    """DDPG, or TD3 where the config is TD3's; on the pendulum also how far its values exceed the exact ones."""
    train = train_td3 if isinstance(config, TD3Config) else train_ddpg
    progress, curves = follow(train(config, seed))
    parts, swinging = progress.state()["agent"], config.env_id == "Pendulum-v1"
    policy, episodes = actor_policy(actor_of(parts[0]), config.env_id), 100 if swinging else 20
    found = episode_returns(policy, config.env_id, episodes, SCORING + seed).mean()
    metrics = {"return": found, "training_seconds": curves["seconds"][-1]}
    if swinging:
        grid = PendulumGrid.of(121)
        excess = agent_surface(parts, grid)[0] - exact_pendulum(grid, config.discount)
        metrics["value_excess"] = excess[:, np.abs(grid.speeds) <= 6].mean()
    floor = {"return": random_body_return(config.env_id, episodes, seed)}
    return Measured(metrics, floor, curves)


# %%
THREE = (1, 2, 3)
RETURN, SECONDS = Metric("return", "return", "mean"), Metric("training_seconds", "s", "median")
MEASUREMENTS = [
    Measurement("P5", "memory_lstm", measure_memory, MemoryConfig(), THREE, (
        Metric("return", "return", "mean", "improves (LunarLander)"), SECONDS)),
    Measurement("P5", "memory_none", measure_memory, MemoryConfig(memory=1), THREE),
    Measurement("P5", "memory_stack", measure_memory, MemoryConfig(memory=4), THREE),
    Measurement("P5", "memory_no_resets", partial(measure_memory, spoil=SPOILED["1 no resets"]),
                MemoryConfig(), THREE),
    Measurement("P5", "memory_lost", partial(measure_memory, spoil=SPOILED["2 memory lost"]),
                MemoryConfig(), THREE),
    Measurement("P7", "ppo_body", measure_body, BodyConfig(), THREE, (RETURN, SECONDS)),
    Measurement("P7", "ddpg_pendulum", measure_ddpg, DDPGConfig(), THREE),
    Measurement("P7", "td3_pendulum", measure_ddpg, TD3Config(), THREE),
]  # fmt: skip

# %%
MEASUREMENTS += [
    Measurement("P7", "ddpg_reacher", measure_ddpg, REACHER, THREE),
    Measurement("P7", "ddpg_body", measure_ddpg, DDPG_RUNNER, THREE),
    Measurement("P7", "td3_body", measure_ddpg, TD3_RUNNER, THREE),
]  # fmt: skip
SHOWN = ("P1",)  # rows whose result is their figure
