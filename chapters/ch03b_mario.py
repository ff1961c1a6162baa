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

# %% tags=["remove-stderr"]
import copy
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.distributions import Categorical, Distribution

from rlbook_utils.checkpoint import as_tensors, random_state, restore_random
from rlbook_utils.config import choice, knob
from rlbook_utils.definitions import load_chapter
from rlbook_utils.mario import ACTIONS, MarioGames
from rlbook_utils.results import Measured, Measurement
from rlbook_utils.rollout import Policy, spread, transitions
from rlbook_utils.run import Progress

CURIOSITY = load_chapter("ch03_curiosity")
POLICIES = load_chapter("ch06_policy_optimisation")


# %%
def shrink(screens: np.ndarray) -> np.ndarray:
    """Screens [n, 224, 240, 3] -> grey pictures [n, 42, 40], bytes: means of 5 x 6 pixels, of three colours the brightest."""
    rows = screens[:, 14:].reshape(-1, 42, 5, 40 * 6 * 3).sum(2, dtype=np.uint16)
    rows = rows.reshape(-1, 42, 40, 6, 3)
    blocks = sum(rows[:, :, :, i] for i in range(6))  # [n, 42, 40, 3]
    red, green, blue = np.moveaxis(blocks, -1, 0)
    return (np.maximum(np.maximum(red, green), blue) // 30).astype(np.uint8)


# %%
PLACES = {"third_pipe": (736, 768), "first_pit": (1104, 1136), "second_pit": (1376, 1424)}  # x


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
    found |= {f"past_{name}": (reach > x).mean() for name, (_, x) in PLACES.items()}
    return {name: float(value) for name, value in (found | {"flag": flags.mean()}).items()}


# %%
COINS = {"all": tuple(range(12)), "right": (1, 2, 3, 4), "right_jump": (1, 2), "run_jump": (3, 4)}
SCORING = 2_000_003  # names the episodes of a score, beside the run's seed


def coin(name: str, seed: int) -> Policy:
    """One of a few actions, all equally likely, whatever there is to see."""
    rng = np.random.default_rng(spread((SCORING, seed, [*COINS].index(name)), 1)[0])
    return lambda obs: rng.choice(COINS[name], size=len(obs))


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


CURIOSITIES = {
    "icm": icm, "rnd": partial(CURIOSITY.RND, game_encoder, 288), "random_features": random_features, "pixels": pixels,
    "frozen_icm": icm, "motion": motion, "shuffled": icm, "game": icm, "both": icm,
}  # fmt: skip
NEVER_LEARN = ("frozen_icm", "motion", "game")
WEIGHTS = {"game": (0.0, 1.0), "both": (1.0, 1.0)}  # of surprise and game's reward; else (1, 0)


# %%
@dataclass(frozen=True)
class CuriousConfig(POLICIES.PPOConfig):
    """PPO of chapter 6, paid by a curiosity, by the game, or by both."""

    env_id: str = "Super Mario Bros."
    reward: str = choice("icm", CURIOSITIES)
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


class PlainNet(CuriousNet):
    """A ``CuriousNet`` that sees plain pictures."""

    def view(self, obs: torch.Tensor) -> torch.Tensor:
        return obs.float() / 255


# %%
class MarioCollector(POLICIES.Collector):
    """Chapter 6's collector; recent: [furthest x, 1 if at the flag else 0] of the last 100 episodes."""

    def __init__(self, games: MarioGames, net: nn.Module, seed: int, recent: list = ()) -> None:
        super().__init__(games, net, seed, reward_scale=1.0, recent=recent)
        self.games = games

    def note_ends(self, rewards: np.ndarray, terminated: np.ndarray, done: np.ndarray) -> None:
        self.recent.extend(np.stack([self.games.furthest, self.games.flags], 1)[done].tolist())


# %%
class Learner(NamedTuple):
    """What learns. sums: [2, N], discounted sums of either reward so far. first: [1, 3, 42, 40], how a game begins."""

    net: CuriousNet
    curiosity: nn.Module
    optimiser: torch.optim.Optimizer
    curiosity_optimiser: torch.optim.Optimizer
    sums: torch.Tensor
    first: torch.Tensor


def make_learner(config: CuriousConfig, games: MarioGames, device: str, make_net: Callable) -> Learner:  # fmt: skip
    """Two Adams: the policy's, as in chapter 6, and the curiosity's own, whose gradients are small against 1e-5."""
    net, curiosity = make_net().to(device), CURIOSITIES[config.reward]().to(device)
    acting = torch.optim.Adam(net.parameters(), config.learning_rate, eps=1e-5, fused=True)
    curious = torch.optim.Adam(curiosity.parameters(), config.curiosity_rate, eps=1e-8, fused=True)
    sums = torch.zeros(2, config.num_envs, dtype=torch.float64, device=device)
    first = torch.as_tensor(games.first[None], device=device)
    return Learner(net, curiosity, acting, curious, sums, first)


# %%
@torch.no_grad()
def surprises(learner: Learner, obs: torch.Tensor, actions: torch.Tensor, done: torch.Tensor) -> torch.Tensor:  # fmt: skip
    """Intrinsic rewards [T, N] of a rollout; the step that ends an episode pays nothing. obs: [T + 1, N, ...], normalised."""
    rows = [learner.curiosity.surprise(*step) for step in zip(obs[:-1], actions, obs[1:], strict=True)]  # fmt: skip
    return torch.stack(rows) * ~done


def in_own_scale(rewards: torch.Tensor, scale: nn.Module, sums: torch.Tensor, discount: float) -> torch.Tensor:  # fmt: skip
    """Rewards [T, N] over the deviation of their discounted sums so far (Burda et al. 2019b); sums [N] go on."""
    seen = []
    for row in rewards:
        sums.mul_(discount).add_(row)
        seen.append(sums.clone())
    scale.show(torch.stack(seen)[..., None])
    return (rewards / (scale.m2 / scale.count).sqrt().clamp(min=1e-8)).float()


# %%
END_COST = 71.5  # decisions from a death until Mario can move again


@torch.no_grad()
def curious_advantages(learner: Learner, rollout: NamedTuple, paid: torch.Tensor, config: CuriousConfig) -> tuple:  # fmt: skip
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


# %%
@torch.no_grad()
def weighted_advantages(learner: Learner, rollout: NamedTuple, surprise: torch.Tensor, config: CuriousConfig) -> tuple:  # fmt: skip
    """Weighted advantages [T, N] of both rewards, and the returns [T, N, 2] for the two values.

    The game's reward ends with its episode. A reward that weighs nothing gets its value's own output as its target.
    """
    (intrinsic, game), values = learner.net.scales, rollout.values
    paid = in_own_scale(surprise, intrinsic, learner.sums[0], config.discount)
    points = in_own_scale(rollout.rewards, game, learner.sums[1], config.game_discount)
    curious, curious_returns = curious_advantages(learner, rollout, paid, config)
    dials = (rollout.done, rollout.done, config.game_discount, config.lam)
    greedy, greedy_returns = POLICIES.gae(points, values[..., 1], rollout.next_values[..., 1], *dials)  # fmt: skip
    weights = torch.tensor(WEIGHTS.get(config.reward, (1.0, 0.0)), device=values.device)
    returns = torch.stack([curious_returns, greedy_returns], -1)
    return weights[0] * curious + weights[1] * greedy, torch.where(weights > 0, returns, values)


# %%
def improve_curiosity(learner: Learner, obs: torch.Tensor, actions: torch.Tensor, done: torch.Tensor, minibatch: int) -> dict[str, float]:  # fmt: skip
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
def learn_from(learner: Learner, rollout: NamedTuple, latest: np.ndarray, config: CuriousConfig, steps: int) -> dict[str, float]:  # fmt: skip
    """One update of everything, after ``steps`` decisions. latest: [N, ...], what followed the rollout's last step.

    While the agent warms up, its policy waits, and pixels and rewards find their scale.
    """
    warm = steps < config.warm_up * rollout.rewards.numel()
    if warm:
        learner.net.pixels.show(rollout.obs.flatten(2))
    latest = torch.as_tensor(latest, dtype=torch.float32, device=rollout.obs.device)
    obs = learner.net.view(torch.cat([rollout.obs, latest[None]]))  # [T + 1, N, ...]
    surprise = surprises(learner, obs, rollout.actions, rollout.done)
    if config.reward == "shuffled":
        surprise = surprise.flatten()[torch.randperm(surprise.numel())].view_as(surprise)
    found = {"surprise": surprise.mean().item(), "entropy": float(np.log(len(ACTIONS)))}
    advantages, returns = weighted_advantages(learner, rollout, surprise, config)
    if not warm:
        learner.optimiser.param_groups[0]["lr"] = config.learning_rate * (1 - steps / config.steps)
        columns = (*rollout[:3], advantages, returns)
        improved = POLICIES.ppo_epochs(learner.net, learner.optimiser, columns, config, config.entropy)  # fmt: skip
        found["entropy"] = improved["entropy"]
    if config.reward not in NEVER_LEARN:
        found |= improve_curiosity(learner, obs, rollout.actions, rollout.done, config.minibatch)
    return found


# %%
LEARNED = ("net", "curiosity", "optimiser", "curiosity_optimiser")


def train_curious(
    config: CuriousConfig,
    seed: int,
    state: dict | None = None,
    device: str = "cpu",
    make_net: Callable[[], CuriousNet] = CuriousNet,
) -> Iterator[Progress]:
    """PPO on surprise, on the game's reward or on both. The number of workers changes the time that it takes, nothing else.

    state: {"steps", "recent", "sums", "metrics", "random", and ``LEARNED``}; a resumed run begins new games.
    """
    state = {"steps": 0, "recent": []} | (state or {})
    start = spread((seed, state["steps"]), 1)[0]
    torch.manual_seed(start)
    with closing(MarioGames(config.num_envs, shrink, config.workers, stuck=config.stuck)) as games:
        learner = make_learner(config, games, device, make_net)
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


# %%
def score(net: nn.Module, seed: int, episodes: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Fresh episodes of the sampled policy: furthest x and whether at the flag, both [episodes]."""
    torch.manual_seed(spread((SCORING, seed), 1)[0])
    return play_out(POLICIES.sampled(net), episodes)


def net_of(state: dict, make_net: Callable[[], CuriousNet] = CuriousNet) -> CuriousNet:
    net = make_net()
    net.load_state_dict(as_tensors(state["net"]))
    return net


# %%
def curiosity_of(state: dict, reward: str = "icm") -> nn.Module:
    """The curiosity in a state of ``train_curious``."""
    curiosity = CURIOSITIES[reward]()
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


# %%
BEST_COIN = "run_jump"


def measure_coin(config: None, seed: int, name: str) -> Measured:
    """100 episodes of a coin."""
    reach, flags = play_out(coin(name, seed), 100)
    return Measured(ends_of(reach, flags), {}, {"reach": reach, "flags": flags.astype(float)})


def measure_curious(config: CuriousConfig, seed: int, make_net: Callable[[], CuriousNet] = CuriousNet) -> Measured:  # fmt: skip
    """Train, then play 100 fresh episodes; the baseline is the best coin. cpu_seconds: of the training, without workers.

    paid, visits: [33], sum of what was paid in each hundred pixels, and decisions there, by ``what_pays``.
    """
    began = time.process_time()
    progress, curves = POLICIES.follow(train_curious(config, seed, make_net=make_net))
    spent, state = time.process_time() - began, progress.state()
    net = net_of(state, make_net)
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
FULL, FIVE = CuriousConfig(), (1, 2, 3, 4, 5)
MEASUREMENTS = [
    Measurement("C4", f"coin_{name}", partial(measure_coin, name=name), None, FIVE)
    for name in COINS
]
MEASUREMENTS += [
    Measurement(row, reward, measure_curious, replace(FULL, reward=reward), FIVE)
    for row, rewards in {
        "C5": ("icm", "frozen_icm", "motion", "shuffled"), "C6": ("game", "both"), "C7": ("random_features", "rnd", "pixels"),
    }.items()
    for reward in rewards
]  # fmt: skip
SHOWN = ()
