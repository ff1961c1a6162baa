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
# # 07d · Imagination on Breakout

# %% tags=["remove-stderr"]
import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode
from torch import nn
from torch.distributions import Categorical
from torch.nn import functional as F

from rlbook_utils import plots
from rlbook_utils.checkpoint import as_tensors, random_state, restore_random
from rlbook_utils.config import by_budget, check_config, choice, knob
from rlbook_utils.definitions import load_chapter
from rlbook_utils.results import Measured, Measurement, Metric
from rlbook_utils.rollout import Policy, spread, transitions
from rlbook_utils.run import Progress

plots.use_style()
OPTIMISATION = load_chapter("ch06_policy_optimisation")

# %%
ACTION_NAMES = ("stay", "right", "left")
CODES = np.array(
    [1, 11, 12]
)  # the console's: FIRE, RIGHTFIRE, LEFTFIRE; only a serve needs the button
STICKY, FRAMES = 0.25, 4  # chance that a frame repeats the last action; frames a decision
TOP, SIDE, HEIGHT, WIDTH = 10, 2, 56, 36  # the court, in a screen of 70 x 40
BRIGHT = 40  # of 255: what is brighter counts as this bright, so that the ball is as bright as the bricks


class Breakout(AtariVectorEnv):
    """Games side by side; observations [N, 2, 56, 36] (uint8, at most 40) are the court at the last two decisions.

    Rewards: 1 a brick, whatever it counts, and -1 for a lost ball, which ends an episode (the game goes on). scores: of
    the whole games that have ended since somebody took them away, as the console counts.
    """

    def __init__(self, games: int) -> None:
        super().__init__(
            "breakout", games, num_threads=1, repeat_action_probability=STICKY, frameskip=FRAMES,
            full_action_space=True, img_height=70, img_width=40, stack_num=2, maxpool=False, noop_max=0,
            use_fire_reset=False, reward_clipping=False, life_loss_info=True, autoreset_mode=AutoresetMode.SAME_STEP,
        )  # fmt: skip
        self.running, self.scores = np.zeros(games), []
        self.first = np.full(games, np.nan)  # the score of each one's first game

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        seeds = None if seed is None else np.array(spread(seed, self.num_envs)) % 2**31
        obs, info = super().reset(seed=seeds, options=options)
        self.running[:] = 0
        return court(obs), info

    def step(self, actions: np.ndarray) -> tuple:
        obs, points, terminated, truncated, info = super().step(CODES[actions])
        self.running += points
        over = info["episode_frame_number"] == 0  # not where only a ball was lost
        self.scores += self.running[over].tolist()
        self.first = np.where(over & np.isnan(self.first), self.running, self.first)
        self.running[over] = 0
        if "final_obs" in info:
            info["final_obs"] = court(info["final_obs"])
        return court(obs), np.minimum(points, 1) - terminated, terminated, truncated, info


def court(screens: np.ndarray) -> np.ndarray:
    """The court without score and walls, its brightness cut: [..., 70, 40] -> [..., 56, 36]."""
    return np.minimum(screens[..., TOP : TOP + HEIGHT, SIDE : SIDE + WIDTH], BRIGHT)


# %%
PADDLE, FREE = (
    53,
    slice(21, 53),
)  # rows of the court: the paddle, and those between the bricks and it


def middle(rows: np.ndarray) -> np.ndarray:
    """Where the light of rows [N, 36] has its centre, in columns: [N]; 0 where all is dark."""
    return rows @ np.arange(WIDTH) / np.maximum(rows.sum(1), 1e-9)


def follower(obs: np.ndarray) -> np.ndarray:
    """A rule: keep the paddle under the ball. obs: [N, 2, 56, 36] -> actions [N]."""
    light = obs[:, 1, FREE].sum(1, dtype=float)  # [N, 36]
    gap = np.where(light.any(1), middle(light) - middle(obs[:, 1, PADDLE].astype(float)), 0)
    return np.where(gap > 1.5, 1, np.where(gap < -1.5, 2, 0))


def play(envs: Breakout, policy: Policy, seed: int, longest: int = 27_000) -> np.ndarray:
    """The score of the first game of each environment, or what it has after ``longest`` decisions: [N]."""
    for _ in islice(transitions(envs, policy, seed), longest):
        if not np.isnan(envs.first).any():
            break
    return np.where(np.isnan(envs.first), envs.running, envs.first)


# %%
@dataclass(frozen=True)
class BreakoutConfig(OPTIMISATION.PPOConfig):
    """The actor-critic of chapter 06, with PPO's loss, on Breakout."""

    env_id: str = "breakout"
    steps: int = knob(300_000, 1_000, 50_000_000, "decisions of all games together", step=1000)
    num_envs: int = knob(16, 1, 256, "games side by side")
    horizon: int = knob(128, 1, 2048, "decisions of each game between updates")
    discount: float = knob(0.99, 0.5, 1.0, "gamma", step=0.001)
    lam: float = knob(0.95, 0.0, 1.0, "lambda of the advantages", step=0.01)
    learning_rate: float = knob(3e-3, 1e-5, 1e-2, "of Adam at the start", step=1e-4)
    reward_scale: float = 1.0


def conv_body(planes: int, units: int) -> nn.Sequential:
    """Courts [B, planes, 56, 36] -> features [B, units]."""
    return nn.Sequential(
        orthogonal(nn.Conv2d(planes, 16, 8, 4), 2**0.5), nn.ReLU(), orthogonal(nn.Conv2d(16, 32, 4, 2), 2**0.5), nn.ReLU(),
        nn.Flatten(), orthogonal(nn.Linear(32 * 5 * 3, units), 2**0.5), nn.ReLU(),
    )  # fmt: skip


def orthogonal(layer: nn.Module, gain: float) -> nn.Module:
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class BreakoutNet(nn.Module):
    """A policy and a value from two frames."""

    def __init__(self) -> None:
        super().__init__()
        self.body = conv_body(2, 256)
        self.policy, self.value = orthogonal(nn.Linear(256, 3), 0.01), orthogonal(nn.Linear(256, 1), 1)  # fmt: skip

    def forward(self, obs: torch.Tensor) -> tuple[Categorical, torch.Tensor]:
        """obs: [..., 2, 56, 36], of brightness 0 to 40."""
        features = self.body(obs.flatten(0, -4) / BRIGHT).unflatten(0, obs.shape[:-3])
        return Categorical(logits=self.policy(features)), self.value(features)[..., 0]


# %%
TRAINING, SCORING, PLAYING, MODELLING, IMAGINING, FLOORS = range(6)  # what a seed's games are for


class Games(OPTIMISATION.Collector):
    """A collector whose returns are the scores of whole games."""

    def __init__(self, envs: Breakout, *rest: object) -> None:
        super().__init__(envs, *rest)
        self.envs = envs

    def note_ends(self, rewards: np.ndarray, terminated: np.ndarray, done: np.ndarray) -> None:
        self.recent.extend([score, 0.0] for score in self.envs.scores)
        self.episodes += len(self.envs.scores)
        self.envs.scores.clear()


def train_breakout(
    config: BreakoutConfig, seed: int, state: dict | None = None, device: str = "cpu",
    update: Callable = OPTIMISATION.ppo_update, make_envs: Callable | None = None, make_net: Callable | None = None,
) -> Iterator[Progress]:  # fmt: skip
    """Learns Breakout; see ``train_on_policy`` of chapter 06. Resumed, it begins new games."""
    return OPTIMISATION.train_on_policy(
        config, seed, state, device, update, make_envs or (lambda config: Breakout(config.num_envs)),
        make_net or (lambda envs: BreakoutNet()), Games,
    )  # fmt: skip


# %%
class Memory(NamedTuple):
    """T decisions of N games, [T, N, ...]. frames: [T, N, 2, 56, 36] (uint8); after: the next frame [T, N, 56, 36]; lost: the ball."""

    frames: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    after: torch.Tensor
    lost: torch.Tensor


def remember(net: nn.Module, games: int, steps: int, seed: int) -> Memory:
    """What a network's policy sees and does."""
    torch.manual_seed(spread((PLAYING, seed), 1)[0])
    played = transitions(Breakout(games), OPTIMISATION.sampled(net), spread((PLAYING, seed, 1), 1)[0])  # fmt: skip
    columns = [(step.obs, step.actions, step.rewards, step.next_obs[:, 1], step.terminated) for step in islice(played, steps)]  # fmt: skip
    return Memory(*(torch.from_numpy(np.stack(column)) for column in zip(*columns, strict=True)))


# %%
class CourtModel(nn.Module):
    """What each action would change in the court, and what it would bring: -1, 0 or 1."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.see = nn.Conv2d(3, channels, 6, 2, 2)  # [.., 28, 18]
        self.mix = nn.Conv2d(channels, channels, 3, padding=1)
        self.act = nn.Embedding(len(ACTION_NAMES), channels)
        self.join = nn.Conv2d(channels, channels, 3, padding=1)
        self.change = nn.Conv2d(channels, 4, 3, padding=1)  # of the four pixels in each place
        self.reward = nn.Sequential(
            nn.Conv2d(channels, 16, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 7 * 4, 64), nn.ReLU(), nn.Linear(64, 3)
        )  # fmt: skip
        nn.init.zeros_(self.change.weight)  # at first it copies
        nn.init.zeros_(self.change.bias)

    def forward(
        self, frames: torch.Tensor, actions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """frames: [B, 2, 56, 36], of brightness 0 to 1; actions: A for each, [B, A]. Changes [B, A, 56, 36] and logits [B, A, 3]."""
        moving = frames[:, 1:] - frames[:, :1]
        features = F.relu(self.mix(F.relu(self.see(torch.cat([frames, moving], 1)))))
        acts = self.act(actions)[..., None, None]  # [B, A, C, 1, 1]
        features = F.relu(self.join(features)[:, None] + acts).flatten(0, 1)  # [B · A, C, 28, 18]
        changes, rewards = F.pixel_shuffle(self.change(features), 2)[:, 0], self.reward(features)
        return changes.unflatten(0, actions.shape), rewards.unflatten(0, actions.shape)


def step_on(frames: torch.Tensor, changes: torch.Tensor) -> torch.Tensor:
    """The next pair: frames [B, 2, 56, 36] and changes [B, 56, 36] -> [B, 2, 56, 36]."""
    last = frames[:, 1]
    return torch.stack([last, last + changes], 1)


# %%
@dataclass(frozen=True)
class ModelConfig:
    """A model of the court, from what a half-trained actor-critic plays."""

    player: BreakoutConfig = BreakoutConfig(steps=100_000)
    games: int = knob(32, 2, 256, "games side by side to remember")
    steps: int = knob(1_000, 20, 10_000, "decisions of each game")
    updates: int = knob(1_500, 1, 100_000, "gradient steps", step=100)
    batch: int = knob(32, 8, 1_024, "decisions in a batch")
    learning_rate: float = knob(6e-3, 1e-5, 3e-2, "of Adam, at its highest", step=1e-3)
    alone: float = knob(0.7, 0.0, 1.0, "share of the training with one step; then three, on its own frames", step=0.05)  # fmt: skip
    rare: float = knob(0.25, 0.0, 2.0, "decisions with a reward added to a batch, as a share of it", step=0.05)  # fmt: skip
    max_grad_norm: float = 5.0

    def __post_init__(self) -> None:
        check_config(self)


CHAIN = 3  # steps of the model on its own frames, in training


def model_loss(
    model: CourtModel, memory: Memory, rows: torch.Tensor, steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses of the frames and of the rewards of ``steps`` decisions on from rows [B], all but the first from own frames.

    What follows a lost ball, and the frame that shows it gone, count in neither.
    """
    t, n = rows // memory.actions.shape[1], rows % memory.actions.shape[1]
    frames, going = memory.frames[t, n].float() / BRIGHT, torch.ones(len(rows), device=rows.device)
    frame_loss = reward_loss = 0.0
    for k in range(steps):
        changes, rewards = model(frames, memory.actions[t + k, n, None])
        surprise = F.cross_entropy(rewards[:, 0], memory.rewards[t + k, n].long() + 1, reduction="none")  # fmt: skip
        reward_loss = reward_loss + (surprise * going).mean() / steps
        going = going * ~memory.lost[t + k, n]
        frames = step_on(frames, changes[:, 0])
        error = (frames[:, 1] - memory.after[t + k, n].float() / BRIGHT).square().sum((1, 2))
        frame_loss = frame_loss + (error * going).mean() / steps
    return frame_loss, reward_loss


# %%
AHEAD = 5  # imagined steps of a test


def brightest(frames: torch.Tensor) -> torch.Tensor:
    """Row and column of the brightest pixel between bricks and paddle: [B, 56, 36] -> [B, 2]."""
    spot = frames[:, FREE].flatten(1).argmax(1)
    return torch.stack([spot // WIDTH, spot % WIDTH], 1)


@torch.no_grad()
def score_model(model: CourtModel, test: Memory) -> dict[str, float]:
    """By imagined step 1 to 5: the error left of a copy's, and the share of balls found within a pixel; rewards at step 1.

    Only stretches on which no ball is lost count. A ball is looked for between bricks and paddle, where there is one.
    """
    steps, games = test.actions.shape
    starts = torch.arange(0, (steps - AHEAD) * games, 7)
    t, n = starts // games, starts % games
    frames, going, found = test.frames[t, n].float() / BRIGHT, torch.ones(len(t), dtype=bool), {}
    first = frames[:, 1]
    for k in range(AHEAD):
        told = [model(*part) for part in zip(frames.split(256), test.actions[t + k, n, None].split(256), strict=True)]  # fmt: skip
        changes, rewards = (torch.cat(part)[:, 0] for part in zip(*told, strict=True))
        if k == 0:
            found |= score_rewards(rewards, test.rewards[t, n].long() + 1)
        going &= ~test.lost[t + k, n]
        frames, came = step_on(frames, changes), test.after[t + k, n].float() / BRIGHT
        errors = [(frame - came)[going].square().sum().item() for frame in (frames[:, 1], first)]
        found[f"error_{k + 1}"] = errors[0] / errors[1]
        seen = going & (came[:, FREE].flatten(1).amax(1) > 0.1)
        for name, frame in (("ball", frames[:, 1]), ("ball_copy", first)):
            near = (brightest(frame) - brightest(came)).abs().amax(1) <= 1
            found[f"{name}_{k + 1}"] = near[seen].float().mean().item()
    return found


def score_rewards(rewards: torch.Tensor, wanted: torch.Tensor) -> dict[str, float]:
    """Of each reward: how often it came, how many of these were foreseen, how many of the forecasts came true. rewards: [B, 3]."""
    told, found = rewards.argmax(1), {}
    for name, kind in (("lost", 0), ("nothing", 1), ("brick", 2)):
        came, said = wanted == kind, told == kind
        found |= {f"{name}_count": came.sum().item(), f"{name}_foreseen": (said & came).sum().item() / max(1, came.sum().item()),
                  f"{name}_true": (said & came).sum().item() / max(1, said.sum().item())}  # fmt: skip
    return found


# %%
def model_rate(done: float) -> float:
    """Of the highest learning rate: up along a line for a tenth of the training, then down along one."""
    return min(done / 0.1, (1 - done) / 0.9)


def train_model(
    config: ModelConfig, seed: int, state: dict | None = None, device: str = "cpu", player: nn.Module | None = None
) -> Iterator[Progress]:  # fmt: skip
    """Remember what a player does, then learn. state: {"update", "metrics", "model", "optimiser", "random"}."""
    player, began = player or learned_player(config.player, seed)[0], time.process_time()
    memory = Memory(*(part.to(device) for part in remember(player, config.games, config.steps, seed)))  # fmt: skip
    test = remember(player, config.games, by_budget(20, 200), seed + 1_000)
    torch.manual_seed(spread((MODELLING, seed), 1)[0])
    rows = torch.arange((config.steps - CHAIN) * config.games, device=device)
    rare, model = rows[memory.rewards.flatten()[: len(rows)] != 0], CourtModel().to(device)
    optimiser = torch.optim.Adam(model.parameters(), config.learning_rate)
    update, metrics = 0, {"ball_1": 0.0, "seconds": time.process_time() - began}
    if state:
        update, metrics = state["update"], dict(state["metrics"])
        model.load_state_dict(as_tensors(state["model"]))
        optimiser.load_state_dict(as_tensors(state["optimiser"]))
        restore_random(state["random"])
    while True:
        began, until = time.process_time(), min(update + 100, config.updates)
        while update < until:
            done = (update + 1) / (config.updates + 1)
            optimiser.param_groups[0]["lr"] = config.learning_rate * model_rate(done)
            drawn = torch.cat([draw(rows, config.batch), draw(rare, round(config.rare * config.batch))])  # fmt: skip
            losses = model_loss(model, memory, drawn, 1 if done < config.alone else CHAIN)
            OPTIMISATION.gradient_step(model, optimiser, sum(losses), config.max_grad_norm)
            metrics |= {"frame_loss": losses[0].item(), "reward_loss": losses[1].item()}
            update += 1
        metrics["seconds"] += time.process_time() - began
        metrics |= score_model(copy.deepcopy(model).cpu(), test)
        now = lambda update=update, metrics=dict(metrics): copy.deepcopy({
            "update": update, "metrics": metrics, "model": model.state_dict(),
            "optimiser": optimiser.state_dict(), "random": random_state(),
        })  # fmt: skip
        yield Progress(update, config.updates, dict(metrics), now, "updates")
        if update >= config.updates:
            return


def draw(among: torch.Tensor, count: int) -> torch.Tensor:
    """Rows drawn evenly, [count] of ``among`` [M]; none where there are none."""
    return among[torch.randint(len(among), (count,), device=among.device)] if len(among) else among


def model_of(state: dict) -> CourtModel:
    """The model of a stored training, for looking."""
    model = CourtModel()
    model.load_state_dict(as_tensors(state["model"]))
    return model.eval()


# %%
@dataclass(frozen=True)
class I2AConfig(BreakoutConfig):
    """The same actor-critic with imagination."""

    steps: int = knob(60_000, 1_000, 50_000_000, "decisions of all games together", step=1000)
    depth: int = knob(1, 1, 5, "imagined steps")
    films: str = choice("imagined", ("imagined", "empty"))
    distil_rate: float = knob(1e-3, 1e-5, 1e-2, "of Adam, for the rollout policy", step=1e-4)
    model: ModelConfig = ModelConfig()


class Films(NamedTuple):
    """D imagined steps for each of 3 actions of B frames, state-major. changes: [D, B · 3, 56, 36]; rewards: expected, [D, B · 3]."""

    changes: torch.Tensor
    rewards: torch.Tensor


class RolloutPolicy(nn.Module):
    """Who acts inside of imagination: a small network that learns to imitate the agent."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(2, 8, 8, 4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 13 * 8, 64), nn.ReLU(), nn.Linear(64, 3))  # fmt: skip

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """frames: [B, 2, 56, 36], of brightness 0 to 1. Log-probabilities [B, 3]."""
        return self.net(frames).log_softmax(-1)


@torch.no_grad()
def imagine(
    model: CourtModel, rollout_policy: RolloutPolicy, frames: torch.Tensor, depth: int
) -> Films:
    """The films of frames [B, 2, 56, 36]: first each of the three actions, then what the rollout policy draws."""
    actions = torch.arange(3, device=frames.device).expand(len(frames), 3)  # [B, 3]
    steps = []
    for step in range(depth):
        changes, rewards = (
            part.flatten(0, 1) for part in model(frames, actions)
        )  # [B · 3, ...], state-major
        steps.append((changes, rewards.softmax(-1) @ rewards.new_tensor([-1.0, 0.0, 1.0])))
        if step + 1 < depth:
            frames = step_on(
                frames.repeat_interleave(actions.shape[1], 0), changes
            )  # [B · 3, 2, 56, 36]
            actions = torch.multinomial(rollout_policy(frames).exp(), 1)  # [B · 3, 1]
    return Films(*map(torch.stack, zip(*steps, strict=True)))


# %%
PIXELS = HEIGHT * WIDTH


def packed(frames: torch.Tensor, films: Films) -> torch.Tensor:
    """Frames [B, 2, 56, 36] and their films in one row each: [B, 2 · 2016 + 3 · D · 2017]."""
    count, depth = len(frames), len(films.rewards)
    changes = films.changes.view(depth, count, -1).transpose(0, 1)  # [B, D, 3 · 2016]
    rewards = films.rewards.view(depth, count, 3).transpose(0, 1)  # [B, D, 3]
    return torch.cat([frames.flatten(1), changes.flatten(1), rewards.flatten(1)], 1)


def unpacked(rows: torch.Tensor, depth: int) -> tuple[torch.Tensor, Films]:
    """What ``packed`` has put together."""
    frames, changes, rewards = rows.split([2 * PIXELS, 3 * depth * PIXELS, 3 * depth], 1)
    changes = changes.reshape(-1, depth, 3, HEIGHT, WIDTH).transpose(0, 1).flatten(1, 2)
    rewards = rewards.reshape(-1, depth, 3).transpose(0, 1).flatten(1, 2)
    return frames.view(-1, 2, HEIGHT, WIDTH), Films(changes, rewards)


class ImaginingBreakout(Breakout):
    """Breakout that also shows what each action would bring: observations are rows of ``packed``. parts: the networks asked."""

    def __init__(self, model: CourtModel, rollout_policy: RolloutPolicy, config: I2AConfig, games: int) -> None:  # fmt: skip
        super().__init__(games)
        self.model, self.rollout_policy, self.config = model, rollout_policy, config

    def imagined(self, obs: np.ndarray) -> np.ndarray:
        """Courts [N, 2, 56, 36] -> rows [N, ...]."""
        device = next(self.model.parameters()).device
        frames = torch.from_numpy(obs).to(device).float() / BRIGHT
        if self.config.films == "imagined":
            films = imagine(self.model, self.rollout_policy, frames, self.config.depth)
        else:
            shape = (self.config.depth, 3 * len(frames))
            films = Films(frames.new_zeros(*shape, HEIGHT, WIDTH), frames.new_zeros(shape))
        return packed(frames, films).cpu().numpy()

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        obs, info = super().reset(seed=seed, options=options)
        return self.imagined(obs), info

    def step(self, actions: np.ndarray) -> tuple:
        obs, rewards, terminated, truncated, info = super().step(actions)
        rows = self.imagined(obs)
        if "final_obs" in info:  # after a lost ball nobody asks what it is worth
            last, info["final_obs"] = info["final_obs"], rows.copy()
            if truncated.any():
                info["final_obs"][truncated] = self.imagined(last[truncated])
        return rows, rewards, terminated, truncated, info


# %%
class Encoder(nn.Module):
    """A code for each film: convolutions on each imagined change, then an LSTM over the steps, the last one first."""

    def __init__(self, code: int = 64) -> None:
        super().__init__()
        self.look, self.read = conv_body(1, code), nn.LSTM(code + 1, code)

    def forward(self, films: Films) -> torch.Tensor:
        """Codes [B · 3, C]."""
        seen = self.look(films.changes.flatten(0, 1)[:, None]).unflatten(0, films.rewards.shape)
        steps = torch.cat([seen, films.rewards[..., None]], -1)  # [D, B · 3, C + 1]
        return self.read(steps.flip(0))[1][0][0]


class I2ANet(BreakoutNet):
    """A policy and a value from two frames and their films; films are scored with one vector, as in chapter 07c."""

    def __init__(self, depth: int, code: int = 64) -> None:
        super().__init__()
        self.depth, self.encoder = depth, Encoder(code)
        self.value = orthogonal(nn.Linear(256 + code, 1), 1)
        self.score = nn.Linear(code, 1, bias=False)

    def forward(self, rows: torch.Tensor) -> tuple[Categorical, torch.Tensor]:
        """rows: [..., F], of ``packed``."""
        frames, films = unpacked(rows.flatten(0, -2), self.depth)
        features = self.body(frames)  # [B, 256]
        codes = self.encoder(films).unflatten(0, (-1, 3))  # [B, 3, C]
        logits = self.policy(features) + self.score(codes)[..., 0]
        values = self.value(torch.cat([features, codes.mean(1)], 1))[:, 0]
        shape = rows.shape[:-1]
        return Categorical(logits=logits.unflatten(0, shape)), values.unflatten(0, shape)


# %%
def distil(rollout_policy: RolloutPolicy, optimiser: torch.optim.Optimizer, frames: torch.Tensor, probs: torch.Tensor) -> None:  # fmt: skip
    """One step of the rollout policy towards probabilities [B, 3] in frames [B, 2, 56, 36]."""
    loss = -(probs * rollout_policy(frames)).sum(-1).mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def i2a_update(rollout_policy: RolloutPolicy, distiller: torch.optim.Optimizer, net: I2ANet, *rest: object) -> dict[str, float]:  # fmt: skip
    """PPO's update, then the rollout policy's."""
    found, rollout = OPTIMISATION.ppo_update(net, *rest), rest[1]
    if net.depth > 1:
        for rows in rollout.obs:  # [N, F], one moment of all games
            with torch.no_grad():
                probs = net(rows)[0].probs
            distil(rollout_policy, distiller, unpacked(rows, net.depth)[0], probs)
    return found


def train_i2a(
    config: I2AConfig, seed: int, state: dict | None = None, device: str = "cpu", model: CourtModel | None = None
) -> Iterator[Progress]:  # fmt: skip
    """I2A on Breakout. state: that of ``train_breakout``, and {"model", "rollout_policy", "distiller"}."""
    torch.manual_seed(spread((IMAGINING, seed), 1)[0])
    model = model_of(state) if state else model or learned_model(config.model, seed)[0]
    model, rollout_policy = copy.deepcopy(model).to(device), RolloutPolicy().to(device)
    distiller = torch.optim.Adam(rollout_policy.parameters(), config.distil_rate)
    parts = {"model": model, "rollout_policy": rollout_policy, "distiller": distiller}
    if state:
        for name, part in parts.items():
            part.load_state_dict(as_tensors(state[name]))
    for progress in train_breakout(
        config, seed, state, device, partial(i2a_update, rollout_policy, distiller),
        lambda config: ImaginingBreakout(model, rollout_policy, config, config.num_envs),
        lambda envs: I2ANet(config.depth),
    ):  # fmt: skip
        now = lambda state=progress.state: (
            state() | {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
        )
        yield progress._replace(state=now)


# %%
@cache
def learned_player(config: BreakoutConfig, seed: int) -> tuple[BreakoutNet, float]:
    """An actor-critic that is trained here and now, once a process, and how many seconds that took."""
    began = time.process_time()
    *_, last = train_breakout(config, seed)
    return net_of(last.state()), time.process_time() - began


@cache
def learned_model(config: ModelConfig, seed: int) -> tuple[CourtModel, float]:
    """A model that is trained here and now, once a process, and how many seconds that took, without its player."""
    *_, last = train_model(config, seed)
    return model_of(last.state()), last.metrics["seconds"]


def net_of(state: dict) -> BreakoutNet:
    """The network of a stored training without imagination."""
    net = BreakoutNet()
    net.load_state_dict(as_tensors(state["net"]))
    return net


# %%
GAMES = 100  # of a score


def measure_floors(config: None, seed: int) -> Measured:
    """Scores of those who learn nothing."""
    rng = np.random.default_rng((FLOORS, seed))
    policies = {"random": lambda obs: rng.integers(3, size=len(obs)), "follower": follower}
    policies |= {name: lambda obs, action=action: np.full(len(obs), action) for action, name in enumerate(ACTION_NAMES)}  # fmt: skip
    return Measured({name: play(Breakout(GAMES), policy, spread((FLOORS, seed), 1)[0], 2_000).mean() for name, policy in policies.items()})  # fmt: skip


def measured(progresses: Iterator[Progress], envs: Breakout, net: nn.Module, seed: int) -> Measured:
    """Train to the end; curves by report; scores of the last network in whole fresh games."""
    curves, began = {"steps": [], "score": [], "seconds": []}, time.process_time()
    for progress in progresses:
        told = {"steps": progress.step, "score": progress.metrics["mean_return"], "seconds": time.process_time() - began}  # fmt: skip
        for name, curve in curves.items():
            curve.append(float(told[name]))
    state, seconds = progress.state(), curves["seconds"][-1]
    net.load_state_dict(as_tensors(state["net"]))
    if "rollout_policy" in state:
        envs.rollout_policy.load_state_dict(as_tensors(state["rollout_policy"]))
    torch.manual_seed(spread((SCORING, seed), 1)[0])
    scores = play(envs, OPTIMISATION.sampled(net), spread((SCORING, seed, 1), 1)[0])
    found = {"score": scores.mean(), "spread": scores.std(), "seconds": seconds, "speed": progress.step / seconds}  # fmt: skip
    found["parameters"] = sum(weight.numel() for weight in net.parameters())
    return Measured(found, curves=curves)


def measure_breakout(config: BreakoutConfig, seed: int, update: Callable = OPTIMISATION.ppo_update) -> Measured:  # fmt: skip
    return measured(train_breakout(config, seed, update=update), Breakout(GAMES), BreakoutNet(), seed)  # fmt: skip


def measure_a2c(config: BreakoutConfig, seed: int) -> Measured:
    """One pass, one gradient step a rollout: A2C as chapter 06 has it."""
    return measure_breakout(config, seed, OPTIMISATION.a2c_update)


def measure_model(config: ModelConfig, seed: int) -> Measured:
    player_seconds = learned_player(config.player, seed)[1]
    *_, last = train_model(config, seed)
    return Measured({name: value for name, value in last.metrics.items()} | {"player_seconds": player_seconds})  # fmt: skip


def measure_i2a(config: I2AConfig, seed: int) -> Measured:
    model, model_seconds = learned_model(config.model, seed)
    envs = ImaginingBreakout(model, RolloutPolicy(), config, GAMES)
    found = measured(train_i2a(config, seed), envs, I2ANet(config.depth), seed)
    return replace(found, metrics=found.metrics | {"model_seconds": model_seconds})


# %%
HEADLINE = "Breakout: {R10.score} points after 300,000 decisions"
SEEDS = (1, 2, 3)
MEASUREMENTS = [
    Measurement("R10", "floors", measure_floors, None, (1,)),
    Measurement("R10", "baseline", measure_breakout, BreakoutConfig(), SEEDS, (Metric("score", "points a game", source_says="450 (500,000 batches on a GPU)"), Metric("speed", "decisions/s, learning included", "median"))),
    Measurement("R10", "a2c", measure_a2c, BreakoutConfig(horizon=8, learning_rate=1e-3), SEEDS),
    Measurement("R10", "baseline_short", measure_breakout, BreakoutConfig(steps=60_000), SEEDS),
    Measurement("R10", "model", measure_model, ModelConfig(), SEEDS),
    *(Measurement("R10", f"i2a_{depth}", measure_i2a, I2AConfig(depth=depth), SEEDS) for depth in (1, 3, 5)),
    Measurement("R10", "i2a_empty", measure_i2a, I2AConfig(films="empty"), SEEDS),
]  # fmt: skip
SHOWN = ()
