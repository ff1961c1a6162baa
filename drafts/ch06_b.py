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

# %%
import copy
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
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
from rlbook_utils.config import budget, by_budget, check_config, knob
from rlbook_utils.definitions import load_chapter
from rlbook_utils.replay import Experience, NStep, Replay
from rlbook_utils.results import Measured, Measurement, Metric
from rlbook_utils.rollout import Policy, Transition, episode_returns, make_vector, transitions
from rlbook_utils.run import Progress, as_tensors, watch
from rlbook_utils.video import RenderError, record, show_clip
from rlbook_utils.widgets import panel, scrubber, show

FOUNDATIONS, EVOLUTION = load_chapter("ch00_foundations"), load_chapter("ch01_evolution")
mlp, OBS_SCALE = FOUNDATIONS.mlp, FOUNDATIONS.OBS_SCALE
plots.use_style()

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
# episode.* The arm of `FetchReach` sees 16 numbers: ten about itself, where its gripper is, and where it should be. The
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
    for axes, (env_id, picture) in zip(cells.flat, gallery(by_budget(64, 200)).items(), strict=True):
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
    steps: int = knob(10_000, 1000, 1_000_000, "environment steps", step=500)
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
    actor = nn.Sequential(mlp(size, *hidden, actions), nn.Tanh()).to(device)
    critics = nn.ModuleList(mlp(size + actions, *hidden, 1) for _ in range(config.critics))
    adam = lambda net: torch.optim.Adam(net.parameters(), config.learning_rate, fused=True)
    followers = copy.deepcopy(actor), copy.deepcopy(critics.to(device))
    return Continuous(actor, critics, *followers, adam(actor), adam(critics))


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
    follow(agent, config.follow)


def actor_loss(agent: Continuous, batch: Experience) -> torch.Tensor:
    """Minus what the (first) critic thinks of the actor's own actions."""
    return -q_value(agent.critics[0], batch.obs, agent.actor(batch.obs)).mean()


def descend(optimiser: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


@torch.no_grad()
def follow(agent: Continuous, share: float) -> None:
    """Move the followers by ``share`` of the way, in place."""
    for net, follower in ((agent.actor, agent.target_actor), (agent.critics, agent.target_critics)):
        for new, old in zip(net.parameters(), follower.parameters(), strict=True):
            old.lerp_(new, share)


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
                state |= {"recent": list(recent), "metrics": ddpg_metrics(agent, replay, recent)}
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


def count_returns(step: Transition, playing: np.ndarray, recent: deque) -> None:
    """Add a step's rewards to the returns of the episodes being played [N]; finished ones go to ``recent``."""
    playing += step.rewards
    done = step.terminated | step.truncated
    recent.extend(playing[done].tolist())
    playing[done] = 0


def ddpg_metrics(agent: Continuous, replay: Replay, recent: deque) -> dict[str, float]:
    """The mean return of the last twenty episodes, noise included, and the mean value of states lately seen."""
    lately = replay.rows(np.arange(max(0, replay.added - 500), replay.added) % replay.capacity)
    with torch.no_grad():
        value = -actor_loss(agent, as_tensors_of(lately, agent)).item()
    return {"mean_return": float(np.mean(recent or [np.nan])), "value": value}


def ddpg_state(state: dict, agent: Continuous, replay: Replay) -> dict:
    """All that ``train_ddpg`` needs to go on, the replay oldest first."""
    places = np.arange(replay.added - len(replay), replay.added) % replay.capacity
    parts = [copy.deepcopy(part.state_dict()) for part in agent]
    return {**state, "agent": parts, "replay": replay.rows(places)._asdict()}


# %% tags=["P7"]
WATCHING, SCORING = 1_000_003, 2_000_003  # seeds of the episodes to look at, and of those that score


def random_body_return(env_id: str, episodes: int, seed: int) -> float:
    """Mean return of uniformly random actions: the floor."""
    rng, space = np.random.default_rng(seed), gym.make(env_id).action_space
    flail = lambda obs: rng.uniform(space.low, space.high, (len(obs), *space.shape))
    return episode_returns(flail, env_id, episodes, seed).mean()


def actor_policy(actor: nn.Module, env_id: str) -> Policy:
    """The actor's own actions, without noise."""
    largest = gym.make(env_id).action_space.high[0]
    return lambda obs: largest * shares_of(actor, obs)


def actor_of(weights: dict) -> nn.Module:
    """An actor with stored weights; its sizes are theirs."""
    weights = as_tensors(weights)
    shapes = [tensor.shape for tensor in weights.values() if tensor.ndim == 2]
    actor = nn.Sequential(mlp(*(inputs for _, inputs in shapes), shapes[-1][0]), nn.Tanh())
    actor.load_state_dict(weights)
    return actor


# %% tags=["P7"]
pendulum_floor = random_body_return("Pendulum-v1", 100, seed=0)
ddpg_config = by_budget(smoke=DDPGConfig(steps=2000), laptop=DDPGConfig())
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
# random play. A perfect return is not 0: a pendulum that starts at the bottom has to pay for its way up, so the mean
# over all starts cannot rise much above −150.*
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
        vmin=-320, vmax=0,
    )  # fmt: skip
    axes.plot(np.degrees(path[:, 0]), path[:, 1], ".", color="white", markersize=3)
    axes.set(xlabel="angle (degrees)", title=title, xticks=(-180, -90, 0, 90, 180))
    axes.grid(visible=False)


# %%
def agent_surface(parts: list[dict], grid: PendulumGrid) -> tuple[np.ndarray, np.ndarray, Policy]:
    """A snapshot's V [H, W], its actor's shares [H, W] and its policy."""
    actor, critic = actor_of(parts[0]), mlp(4, *(DDPGConfig.hidden,) * 2, 1)
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
grid = PendulumGrid.of(by_budget(smoke=21, laptop=61))
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

# %% [markdown]
# *Left the solution by value iteration, middle what ten thousand steps of experience taught the critic, right the
# actor: orange pushes one way, violet the other. The actor has learned to switch: it pushes with the swing while the
# pendulum is low, and brakes near the top. No torque between needed most of the time: this is a problem for which the
# best policy is nearly all or nothing.*
# CAPTION_DDPG_SURFACE
#
# Change it yourself. With `noise` at 0 the actor explores by its own mistakes only; with `follow` at 1 the targets are
# the networks themselves.

# %%
figure = Figure(figsize=(7.2, 2.6))
axes = figure.subplots()
FOUNDATIONS.draw_stored(axes, "P7", "ddpg_pendulum", "mean_return", 1.0, "default settings")
axes.axhline(pendulum_floor, color=plots.INK, linestyle=":", label="random policy")
axes.set(xlabel="environment steps (thousands)", ylabel="mean return of the last 20")
axes.legend(loc="lower right")
ddpg_panel = panel(
    train_ddpg, ddpg_config, floor=pendulum_floor, preview=plots.to_png(figure)
)

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
        follow(agent, config.follow)


def train_td3(
    config: TD3Config, seed: int, state: dict | None = None, device: str = "cpu"
) -> Iterator[Progress]:
    """TD3 (Fujimoto et al. 2018, algorithm 1): the loop of DDPG around another update."""
    return train_ddpg(config, seed, state, device, td3_update)


# %% [markdown]
# Noise, clip and delay are the paper's. Side by side on the pendulum, and on a body of MuJoCo:
