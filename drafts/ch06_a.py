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
# # 06 · Policy optimisation: actors, critics, and how far to step

# %%
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import nn
from torch.distributions import Categorical, Distribution
from torch.nn import functional as F

from rlbook_utils import plots, results
from rlbook_utils.config import budget, by_budget, check_config, knob
from rlbook_utils.definitions import load_chapter
from rlbook_utils.rollout import Policy, episode_returns, transitions
from rlbook_utils.run import Progress, as_tensors, watch
from rlbook_utils.workers import spawn

FOUNDATIONS = load_chapter("ch00_foundations")
plots.use_style()


# %%
class PolicyNet(nn.Module):
    """A policy over A discrete actions and a value, two networks side by side.

    The interface of every on-policy method here: obs [..., O] -> (a torch Distribution over actions, values [...]).
    """

    def __init__(self, obs_size: int, actions: int, hidden: int = 64) -> None:
        super().__init__()
        self.policy = FOUNDATIONS.mlp(obs_size, hidden, hidden, actions)
        self.value = FOUNDATIONS.mlp(obs_size, hidden, hidden, 1)
        initialise(self.policy, last_gain=0.01)
        initialise(self.value, last_gain=1.0)

    def forward(self, obs: torch.Tensor) -> tuple[Distribution, torch.Tensor]:
        policy = Categorical(logits=self.policy(obs), validate_args=False)
        return policy, self.value(obs)[..., 0]


def initialise(net: nn.Sequential, last_gain: float) -> None:
    """Orthogonal weights and zero biases; a small last gain makes the first policy almost even."""
    layers = [layer for layer in net if isinstance(layer, nn.Linear)]
    for layer in layers:
        nn.init.orthogonal_(layer.weight, last_gain if layer is layers[-1] else 2**0.5)
        nn.init.zeros_(layer.bias)


def make_net(envs: VectorEnv) -> nn.Module:
    """A fresh ``PolicyNet`` that fits the environments; seed torch before."""
    return PolicyNet(envs.single_observation_space.shape[0], int(envs.single_action_space.n))


# %%
class Rollout(NamedTuple):
    """T successive steps of N environments, as tensors [T, N, ...].

    log_probs, values: of the policy and the critic that played. next_values: the critic at the observation that
    followed, the last of its own episode where one ended. done: terminated or truncated.
    """

    obs: torch.Tensor
    actions: torch.Tensor
    log_probs: torch.Tensor
    rewards: torch.Tensor
    values: torch.Tensor
    next_values: torch.Tensor
    terminated: torch.Tensor
    done: torch.Tensor


# %%
def same_step_envs(env_id: str, num_envs: int) -> VectorEnv:
    """``num_envs`` copies that reset in the step that ends an episode, so that every step counts."""
    mode = {"autoreset_mode": AutoresetMode.SAME_STEP}
    return gym.make_vec(
        env_id, num_envs, vectorization_mode="sync", vector_kwargs=mode, disable_env_checker=True
    )


# %%
def serve_envs(connection, env_id: str, num_envs: int) -> None:
    """The life of a worker process: reset or step its environments whenever it is told to."""
    envs = same_step_envs(env_id, num_envs)
    while True:
        order, argument = connection.recv()
        connection.send(getattr(envs, order)(argument) if order == "step" else envs.reset(seed=argument))


class WorkerEnvs(VectorEnv):
    """``num_envs`` environments shared out evenly over processes that step in lockstep; the first share stays here."""

    def __init__(self, env_id: str, num_envs: int, workers: int) -> None:
        shares = [len(share) for share in np.array_split(range(num_envs), workers)]
        self.starts = np.cumsum([0, *shares])
        self.others = [spawn(serve_envs, env_id, share) for share in shares[1:]]
        self.own = same_step_envs(env_id, shares[0])
        self.num_envs, self.metadata = num_envs, self.own.metadata
        self.single_observation_space = self.own.single_observation_space
        self.single_action_space = self.own.single_action_space

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        for (_, connection), start in zip(self.others, self.starts[1:], strict=False):
            connection.send(("reset", seed + int(start)))
        parts = [self.own.reset(seed=seed), *(connection.recv() for _, connection in self.others)]
        return np.concatenate([obs for obs, _ in parts]), {}

    def step(self, actions: np.ndarray) -> tuple:
        mine, *theirs = np.split(actions, self.starts[1:-1])
        for (_, connection), share in zip(self.others, theirs, strict=True):
            connection.send(("step", share))
        parts = [self.own.step(mine), *(connection.recv() for _, connection in self.others)]
        *columns, infos = zip(*parts, strict=True)
        final_obs = np.full(self.num_envs, None, object)
        for start, info in zip(self.starts, infos, strict=False):
            for i in np.flatnonzero(info.get("_final_obs", ())):
                final_obs[start + i] = info["final_obs"][i]
        return *(np.concatenate(column) for column in columns), {"final_obs": final_obs}

    def close_extras(self, **kwargs: object) -> None:
        self.own.close()
        for process, connection in self.others:
            connection.close()
            process.wait()


def make_envs(config) -> VectorEnv:
    """The environments of a config, over ``config.workers`` processes."""
    if config.workers == 1:
        return same_step_envs(config.env_id, config.num_envs)
    return WorkerEnvs(config.env_id, config.num_envs, config.workers)


# %%
class Collector:
    """Plays a network in N same-step environments; each ``collect`` goes on where the last one stopped."""

    def __init__(self, envs: VectorEnv, net: nn.Module, seed: int, reward_scale: float) -> None:
        if envs.metadata["autoreset_mode"] != AutoresetMode.SAME_STEP:
            raise ValueError("The environments have to reset in the step that ends an episode.")
        self.net, self.reward_scale = net, reward_scale
        self.device = next(net.parameters()).device
        self.stream = transitions(envs, self.act, seed)
        self.playing, self.recent = np.zeros(envs.num_envs), deque(maxlen=100)

    @torch.no_grad()
    def act(self, obs: np.ndarray) -> np.ndarray:
        """Draw an action for every environment, and keep what the rollout needs of it."""
        obs = torch.as_tensor(obs, dtype=torch.float32, device=self.device)  # [N, O]
        policy, values = self.net(obs)
        actions = policy.sample()
        self.last = (obs, actions, policy.log_prob(actions), values)
        return actions.cpu().numpy()

    @torch.no_grad()
    def collect(self, steps: int) -> Rollout:
        """The next ``steps`` steps of every environment."""
        played, world, cut = [], [], []
        for t, step in enumerate(islice(self.stream, steps)):
            done = step.terminated | step.truncated
            played.append(self.last)
            world.append((step.rewards, step.terminated, done))
            cut += [(t, n, step.next_obs[n]) for n in np.flatnonzero(done & ~step.terminated)]
            self.playing += step.rewards
            self.recent.extend(self.playing[done].tolist())
            self.playing[done] = 0
        obs, actions, log_probs, values = (torch.stack(c) for c in zip(*played, strict=True))
        rewards, terminated, done = (
            torch.from_numpy(np.stack(c)).to(self.device) for c in zip(*world, strict=True)
        )
        rewards = rewards.float() * self.reward_scale
        next_values = torch.cat([values[1:], self.values_of(step.next_obs)[None]])  # [T, N]
        if cut:
            t, n, ends = zip(*cut, strict=True)
            next_values[list(t), list(n)] = self.values_of(np.stack(ends))
        return Rollout(obs, actions, log_probs, rewards, values, next_values, terminated, done)

    def values_of(self, obs: np.ndarray) -> torch.Tensor:
        return self.net(torch.as_tensor(obs, dtype=torch.float32, device=self.device))[1]


# %%
def gae(
    rewards: torch.Tensor,
    values: torch.Tensor,
    next_values: torch.Tensor,
    terminated: torch.Tensor,
    done: torch.Tensor,
    discount: float,
    lam: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantages and the returns they imply (Schulman et al. 2016, equation 16). All [T, N].

    The TD error is masked by ``terminated``, the recursion by ``done``.
    """
    td_errors = rewards + discount * next_values * ~terminated - values
    carry_on = discount * lam * (~done).float()
    advantages, later = torch.empty_like(td_errors), torch.zeros_like(td_errors[0])
    for t in reversed(range(len(td_errors))):
        later = td_errors[t] + carry_on[t] * later
        advantages[t] = later
    return advantages, advantages + values


# %%
@dataclass(frozen=True)
class PPOConfig:
    """PPO (Schulman et al. 2017). Learning rate and entropy bonus fall to 0 over the run."""

    env_id: str = "LunarLander-v3"
    steps: int = knob(500_000, 4096, 5_000_000, "environment steps", step=4096)
    num_envs: int = 32
    horizon: int = knob(128, 1, 2048, "steps of each environment between updates")
    discount: float = knob(0.995, 0.5, 1.0, "gamma", step=0.001)
    lam: float = knob(0.98, 0.0, 1.0, "lambda of the advantages", step=0.01)
    learning_rate: float = knob(1e-3, 1e-5, 1e-2, "of Adam at the start", step=1e-4)
    entropy: float = knob(0.01, 0.0, 0.1, "weight of the entropy bonus at the start", step=0.001)
    value_weight: float = 0.5
    max_grad_norm: float = 0.5
    reward_scale: float = 0.01
    workers: int = 2
    epochs: int = knob(4, 1, 20, "passes over a rollout")
    minibatch: int = knob(512, 32, 8192, "steps a gradient step", step=32)
    clip: float = knob(0.2, 0.01, 1.0, "epsilon: how far the ratio may move", step=0.01)

    def __post_init__(self) -> None:
        check_config(self)


# %%
def ppo_loss(
    log_probs: torch.Tensor,
    entropies: torch.Tensor,
    values: torch.Tensor,
    old_log_probs: torch.Tensor,
    advantages: torch.Tensor,
    returns: torch.Tensor,
    config: PPOConfig,
    entropy_weight: float,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The clipped objective with value loss and entropy bonus (Schulman et al. 2017, equation 9), and diagnostics.

    All tensors [B]: of the present policy and critic, then what the rollout says.
    """
    log_ratios = log_probs - old_log_probs
    ratios = log_ratios.exp()
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    clipped = ratios.clamp(1 - config.clip, 1 + config.clip)
    gain = torch.min(ratios * advantages, clipped * advantages).mean()
    value_loss = F.mse_loss(values, returns)
    loss = -gain + config.value_weight * value_loss - entropy_weight * entropies.mean()
    with torch.no_grad():
        diagnostics = {
            "approx_kl": (ratios - 1 - log_ratios).mean(),
            "clip_fraction": ((ratios - 1).abs() > config.clip).float().mean(),
            "entropy": entropies.mean(),
            "explained_variance": 1 - (returns - values).var() / returns.var(),
        }
    return loss, diagnostics


# %%
def ppo_update(
    net: nn.Module,
    optimiser: torch.optim.Optimizer,
    rollout: Rollout,
    config: PPOConfig,
    remaining: float,
) -> dict[str, float]:
    """``config.epochs`` passes over shuffled minibatches of a rollout; mean diagnostics. remaining: 1 falling to 0."""
    advantages, returns = gae(*rollout[3:], config.discount, config.lam)
    columns = (*rollout[:3], advantages, returns)  # each [T, N, ...]
    obs, actions, old_log_probs, advantages, returns = (c.flatten(0, 1) for c in columns)
    found = []
    for _ in range(config.epochs):
        for rows in torch.randperm(len(obs), device=obs.device).split(config.minibatch):
            policy, values = net(obs[rows])
            loss, diagnostics = ppo_loss(
                policy.log_prob(actions[rows]), policy.entropy(), values, old_log_probs[rows],
                advantages[rows], returns[rows], config, config.entropy * remaining,
            )  # fmt: skip
            gradient_step(net, optimiser, loss, config.max_grad_norm)
            found.append(torch.stack([*diagnostics.values()]))
    return dict(zip(diagnostics, torch.stack(found).mean(0).tolist(), strict=True))


def gradient_step(
    net: nn.Module, optimiser: torch.optim.Optimizer, loss: torch.Tensor, max_norm: float
) -> None:
    """One step of the optimiser, the gradient shortened to ``max_norm``."""
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), max_norm)
    optimiser.step()


# %%
def train_ppo(
    config: PPOConfig,
    seed: int,
    state: dict | None = None,
    device: str = "cpu",
    make_envs: Callable[[PPOConfig], VectorEnv] = make_envs,
    make_net: Callable[[VectorEnv], nn.Module] = make_net,
) -> Iterator[Progress]:
    """PPO (Schulman et al. 2017, algorithm 1). state: {"env_steps", "net", "optimiser", "recent", "metrics"}."""
    state = {"env_steps": 0, "recent": []} if state is None else {**state}
    torch.manual_seed(seed + state["env_steps"])
    with closing(make_envs(config)) as envs:
        net = make_net(envs).to(device)
        optimiser = torch.optim.Adam(net.parameters(), config.learning_rate, eps=1e-5, fused=True)
        if state["env_steps"]:
            net.load_state_dict(as_tensors(state["net"]))
            optimiser.load_state_dict(as_tensors(state["optimiser"]))
        collector = Collector(envs, net, seed + state["env_steps"], config.reward_scale)
        collector.recent.extend(state["recent"])
        while True:
            if state["env_steps"] < config.steps:
                began = time.perf_counter()
                remaining = 1 - state["env_steps"] / config.steps
                optimiser.param_groups[0]["lr"] = config.learning_rate * remaining
                rollout = collector.collect(config.horizon)
                diagnostics = ppo_update(net, optimiser, rollout, config, remaining)
                steps = config.num_envs * config.horizon
                state["env_steps"] += steps
                state["recent"] = list(collector.recent)
                state["metrics"] = {
                    "mean_return": float(np.mean(collector.recent or [0])),
                    **diagnostics,
                    "steps_per_second": steps / (time.perf_counter() - began),
                }
            now = lambda: {**state, "net": net.state_dict(), "optimiser": optimiser.state_dict()}
            yield Progress(state["env_steps"], config.steps, state["metrics"], now, "environment steps")
            if state["env_steps"] >= config.steps:
                return
