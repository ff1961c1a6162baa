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
# # 04b · Battle: two armies, and what knowing your neighbours brings
#
# <!-- card: Mean-field Q-learning commands 16 and 64 soldiers, against a script that needs no learning. -->
#
# **What you will build.** A team of sixteen soldiers that shares one network and learns, in about three minutes, to beat
# a script that always hits the weakest enemy in reach; then two armies of sixty-four. A tournament between four ways to
# command, both sides, several seeds, tells what the mean field brings and what it does not.
#
# | | |
# |---|---|
# | **You need** | [Chapter 04](ch04_multi_agent.ipynb) for the mean action, chapter 00 for Q-learning with replay and target network. |
# | **Time** | About six minutes for all cells on two cores. |
# | **Memory** | About 1 GB. No GPU. |
# | **Budget** | `RLBOOK_BUDGET` is `laptop` unless you set it; the next cell shows it. |
#
# The chapter accompanies the last section of chapter 9 of [Zai and Brown (2020)](../book/bibliography.md#zai2020). Its
# game is the battle of MAgent, in which [Yang et al. (2018)](../book/bibliography.md#yang2018) tried mean-field
# Q-learning. Nothing of the printed program is used here; where it goes wrong, you will see the symptom.

# %%
import copy
import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, Protocol

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F

from rlbook_utils import plots, results
from rlbook_utils.checkpoint import as_tensors, load_checkpoint, random_state, restore_random
from rlbook_utils.config import budget, by_budget, check_config, knob
from rlbook_utils.exercises import check
from rlbook_utils.numbers import spread_of
from rlbook_utils.replay import Replay
from rlbook_utils.results import Measured, Measurement, Metric
from rlbook_utils.run import Progress, watch
from rlbook_utils.video import show_clip
from rlbook_utils.widgets import scrubber, show

plots.use_style()
HAS_MAGENT = importlib.util.find_spec("magent2") is not None

# %% tags=["remove-stderr"]
versions = f"torch {torch.__version__} · numpy {np.__version__}"
print(f"budget {budget()} · {results.cores()} cores · {versions}")
if not HAS_MAGENT:
    print("MAgent2 is missing: `pip install magent2==0.3.4` brings it; until then the stored results are shown.")

# %% [markdown]
# ## The field
#
# TODO-prose-field

# %%
class Field(NamedTuple):
    """A battlefield: soldiers a team, side of the square map, free columns between a team and the middle, clock."""

    soldiers: int
    side: int
    gap: int
    limit: int = 200


SKIRMISH = Field(soldiers=16, side=30, gap=1)  # the source's
WAR = Field(soldiers=64, side=40, gap=3, limit=400)  # that of Yang et al.
REACH = 6  # how far a soldier sees; so a view is 13 x 13 cells
VIEW = 2 * REACH + 1
MOVES = np.array([(0, -2), (-1, -1), (0, -1), (1, -1), (-2, 0), (-1, 0), (0, 0),
                  (1, 0), (2, 0), (-1, 1), (0, 1), (1, 1), (0, 2)])  # [13, (x, y)]: actions 0 to 12
HITS = np.array([(-1, -1), (0, -1), (1, -1), (-1, 0), (1, 0), (-1, 1), (0, 1), (1, 1)])  # 13 to 20
ACTIONS = len(MOVES) + len(HITS)
RED, BLUE = 0, 1  # fmt: skip


def line_up(field: Field) -> list[np.ndarray]:
    """Where each team starts: two squares of soldiers, every second cell, left and right of the middle: [N, (x, y)]."""
    width = 2 * int(np.sqrt(field.soldiers))
    middle, top = field.side // 2, (field.side - width) // 2
    across, down = np.meshgrid(np.arange(0, width, 2), np.arange(top, top + width, 2), indexing="ij")
    lefts = (middle - field.gap - width, middle + field.gap)
    return [np.stack([left + across, down], -1).reshape(-1, 2) for left in lefts]


# %%
def new_engine(field: Field) -> object:
    """MAgent2's grid world with the rules of its battle. Raises ImportError, naming the package, where it is missing."""
    if not HAS_MAGENT:
        raise ImportError("The battle needs MAgent2: `pip install magent2==0.3.4`.")
    from magent2.environments.battle import battle
    from magent2.gridworld import GridWorld

    rules = {**battle.default_reward_args, "minimap_mode": False, "seed": None}
    return GridWorld(battle.get_config(field.side, **rules), map_size=field.side)


class Battle:
    """One battle. Teams are 0 (red, left) and 1 (blue, right); arrays hold one row per living soldier.

    positions: per team [N, (x, y)]. last_actions: per team [N], -1 before the first step. rng: decides who moves first.
    """

    def __init__(self, field: Field, rng: np.random.Generator) -> None:
        self.field, self.rng = field, rng
        self.engine = new_engine(field)
        self.teams = self.engine.get_handles()
        self.reset()

    def reset(self) -> None:
        self.engine.reset()
        self.steps = 0
        for team, cells in zip(self.teams, line_up(self.field), strict=True):
            self.engine.add_agents(team, method="custom", pos=self.rng.permutation(cells))
        self.last_actions = [np.full(self.field.soldiers, -1) for _ in self.teams]
        self._look_where()

    def _look_where(self) -> None:
        self.positions = [self.engine.get_pos(team) for team in self.teams]

    @property
    def alive(self) -> tuple[int, int]:
        return len(self.positions[RED]), len(self.positions[BLUE])

    @property
    def wiped_out(self) -> bool:
        return min(self.alive) == 0

    @property
    def over(self) -> bool:
        return self.wiped_out or self.steps >= self.field.limit

    def step(self, actions: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Carry out both teams' actions [N]; return rewards [N] and who still lives [N], for those who acted.

        The engine moves soldiers in the order in which actions were set, and within a team by their rows: a coin decides
        which team comes first, and a lot at the start of a battle the rows.
        """
        for team in self.rng.permutation(2):
            self.engine.set_action(self.teams[team], actions[team].astype(np.int32))
        self.engine.step()
        self.steps += 1
        rewards = [self.engine.get_reward(team) for team in self.teams]
        living = [self.engine.get_alive(team) for team in self.teams]
        self.engine.clear_dead()
        self.last_actions = [a[alive] for a, alive in zip(actions, living, strict=True)]
        self._look_where()
        return rewards, living

    def planes(self, team: int) -> np.ndarray:
        """What each soldier sees: walls, own side's health, enemy's health, in percent: [N, 3, VIEW, VIEW] (uint8)."""
        view = self.engine.get_observation(self.teams[team])[0][..., [0, 2, 4]]  # a copy
        return np.round(100 * view.transpose(0, 3, 1, 2)).astype(np.uint8)


# %%
def mean_actions(battle: Battle, team: int) -> np.ndarray:
    """Share of each action, one step ago, among comrades at most REACH steps away: [N, A]; zeros where there are none."""
    last, where = battle.last_actions[team], battle.positions[team]
    near = np.abs(where[:, None] - where[None]).sum(-1) <= REACH  # [N, N]
    np.fill_diagonal(near, False)
    one_hot = (last[:, None] == np.arange(ACTIONS)).astype(np.float32)  # [N, A]
    total = near.astype(np.float32) @ one_hot
    return total / np.maximum(total.sum(1, keepdims=True), 1)


def shuffled_actions(battle: Battle, team: int) -> np.ndarray:
    """The control: every soldier gets the mean action of some comrade, drawn by lot."""
    return battle.rng.permutation(mean_actions(battle, team))


def no_actions(battle: Battle, team: int) -> np.ndarray:
    """Independent Q-learning: nothing is known of the others' actions."""
    return np.zeros((battle.alive[team], ACTIONS), np.float32)


KNOWLEDGE = {"neighbours": mean_actions, "nothing": no_actions, "shuffled": shuffled_actions}

# %%
class Player(Protocol):
    """Whoever commands a team in several battles at once: actions [N] for each of them."""

    def __call__(self, battles: Sequence[Battle], team: int) -> list[np.ndarray]: ...


def random_player(battles: Sequence[Battle], team: int) -> list[np.ndarray]:
    return [battle.rng.integers(ACTIONS, size=battle.alive[team]) for battle in battles]


def chase(battle: Battle, team: int) -> np.ndarray:
    """Hit the weakest enemy in reach; else take the free cell nearest to the nearest enemy: [N]."""
    mine, theirs = battle.positions[team], battle.positions[1 - team]
    away = theirs[None] - mine[:, None]  # [N, M, (x, y)]
    distance = np.abs(away).max(-1) + 0.01 * np.abs(away).sum(-1)
    taken = np.ones((battle.field.side + 4,) * 2, bool)  # two cells of margin: nobody steps further
    taken[3:-3, 3:-3] = False
    taken[tuple(np.concatenate(battle.positions).T + 2)] = True
    cells = mine[:, None] + MOVES  # [N, 13, (x, y)]
    blocked = taken[cells[..., 0] + 2, cells[..., 1] + 2] & MOVES.any(1)
    left = theirs[distance.argmin(1)][:, None] - cells
    cost = np.abs(left).max(-1) + 0.01 * np.abs(left).sum(-1) + 1e3 * blocked
    actions = (cost + 1e-3 * battle.rng.random(cost.shape)).argmin(1)
    reachable = (away[:, :, None] == HITS).all(-1)  # [N, M, 8]
    health = battle.planes(1 - team)[:, 1, REACH, REACH]  # every enemy, in the middle of its own view
    weakest = np.where(reachable.any(-1), health, 1e3).argmin(1)
    can_hit = reachable.any((1, 2))
    which = reachable[np.arange(len(mine)), weakest].argmax(-1)
    return np.where(can_hit, len(MOVES) + which, actions)


def chaser(battles: Sequence[Battle], team: int) -> list[np.ndarray]:
    return [chase(battle, team) for battle in battles]


# %%
def fight(red: Player, blue: Player, field: Field, battles: int, seed: int | Sequence[int]) -> np.ndarray:
    """Survivors of both teams after each of ``battles``, all played side by side: [battles, 2]."""
    first, *lots = generators(seed, battles + 1)
    torch.manual_seed(int(first.integers(2**31)))  # for what the networks draw
    all_battles = [Battle(field, lot) for lot in lots]
    while still := [battle for battle in all_battles if not battle.over]:
        orders = zip(red(still, RED), blue(still, BLUE), strict=True)
        for battle, actions in zip(still, orders, strict=True):
            battle.step(actions)
    return np.array([battle.alive for battle in all_battles])


def generators(seed: int | Sequence[int], count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(count)]


# %%
class BattleQ(nn.Module):
    """Q(view, mean action, .): [M, 3, VIEW, VIEW] in percent and [M, A] -> [M, A]."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.eyes = nn.Linear(3 * VIEW * VIEW, hidden)
        self.both = nn.Linear(hidden + ACTIONS, hidden)
        self.values = nn.Linear(hidden, ACTIONS)

    def forward(self, planes: torch.Tensor, mean_action: torch.Tensor) -> torch.Tensor:
        seen = F.relu(self.eyes(0.01 * planes.float().flatten(1)))
        return self.values(F.relu(self.both(torch.cat([seen, mean_action], 1))))


def boltzmann(q_values: torch.Tensor, temperature: float) -> torch.Tensor:
    """Actions drawn with probability softmax(Q / temperature): [M] for q_values [M, A]."""
    noise = -torch.empty_like(q_values).exponential_().log()  # Gumbel noise: its argmax is such a draw
    return (q_values / temperature + noise).argmax(-1)


class Sight(NamedTuple):
    """What the soldiers of one team know. planes: [M, 3, VIEW, VIEW] (uint8). mean_action: [M, A]."""

    planes: np.ndarray
    mean_action: np.ndarray


def look(battle: Battle, team: int, knowledge: str) -> Sight:
    return Sight(battle.planes(team), KNOWLEDGE[knowledge](battle, team))


def orders(net: nn.Module, sights: Sequence[Sight], temperature: float) -> list[np.ndarray]:
    """One forward for all soldiers of all battles: their actions, battle by battle."""
    planes, mean_action = (torch.from_numpy(np.concatenate(x)) for x in zip(*sights, strict=True))
    with torch.no_grad():
        actions = boltzmann(net(planes, mean_action), temperature).numpy()
    return np.split(actions, np.cumsum([len(s.planes) for s in sights])[:-1])


def commander(net: nn.Module, knowledge: str, temperature: float) -> Player:
    return lambda battles, team: orders(net, [look(b, team, knowledge) for b in battles], temperature)


# %%
@dataclass(frozen=True)
class BattleConfig:
    field: Field = SKIRMISH
    knowledge: str = "neighbours"
    battle_steps: int = knob(160_000, 1_000, 1_000_000, "steps of battles in all")
    battles: int = knob(8, 1, 64, "battles side by side")
    chaser_share: float = knob(0.7, 0.0, 1.0, "share of battles against the chaser; the others are red against blue")
    temperature_start: float = knob(0.04, 0.001, 1.0, "of the Boltzmann policy, at first")
    temperature_end: float = knob(0.004, 0.001, 1.0, "and from the middle of the training on")
    discount: float = knob(0.9, 0.0, 0.999, "of the next step's value")
    reward_cap: float = knob(0.5, 0.1, 10.0, "a reward counts no more than this")
    turned: bool = True  # learn from every experience as seen from one of eight sides
    hidden: int = knob(64, 8, 512, "units of each hidden layer")
    batch: int = knob(512, 16, 4096, "experiences an update")
    capacity: int = knob(200_000, 1_000, 1_000_000, "experiences a team remembers")
    learning_rate: float = knob(1e-3, 1e-5, 1e-2, "Adam's, falling to a tenth")
    sync_every: int = knob(200, 1, 10_000, "updates between copies to the target network")

    def __post_init__(self) -> None:
        check_config(self)
        if self.knowledge not in KNOWLEDGE:
            raise ValueError(f"knowledge is {self.knowledge!r}; it can be {', '.join(KNOWLEDGE)}.")


class Deed(NamedTuple):
    """What a soldier saw, did, got, and saw next. ended: nothing follows."""

    planes: np.ndarray
    mean_action: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    next_planes: np.ndarray
    next_mean_action: np.ndarray
    ended: np.ndarray


def deeds(before: Sight, actions: np.ndarray, rewards: np.ndarray, living: np.ndarray, after: Sight, over: bool) -> Deed:
    """A team's experience of one step: [N] rows, of which those who died, or whose battle is won, have no next sight."""
    following = Sight(*map(np.zeros_like, before))
    if not over:
        for kept, new in zip(following, after, strict=True):
            kept[living] = new
    return Deed(*before, actions, rewards, *following, ~living | over)


# %%
def turned_actions() -> torch.Tensor:
    """What each action becomes when the field is turned: [8 sides, A]. Sides 4 to 7 are mirrored first."""
    sides = []
    for side in range(8):
        x, y = np.split(np.concatenate([MOVES, HITS]), 2, axis=1)
        y = -y if side >= 4 else y
        for _ in range(side % 4):
            x, y = y, -x  # a quarter turn to the left, with y downwards
        same = [(np.hstack([x, y])[part, None] == kind).all(-1) for part, kind in PARTS]
        sides.append(np.concatenate([same[0].argmax(1), len(MOVES) + same[1].argmax(1)]))
    return torch.tensor(np.array(sides))


PARTS = ((slice(len(MOVES)), MOVES), (slice(len(MOVES), None), HITS))
TURNED = turned_actions()


def turned_views(planes: torch.Tensor, side: int) -> torch.Tensor:
    """Views [M, 3, VIEW, VIEW] of the turned field."""
    return torch.rot90(planes.flip(-2) if side >= 4 else planes, side % 4, (-2, -1))


def turned(batch: Deed, side: int) -> Deed:
    """The same experience on a field turned to one of eight sides."""
    old = TURNED[side].argsort()  # which action has become this one
    return batch._replace(
        planes=turned_views(batch.planes, side),
        mean_action=batch.mean_action[:, old],
        actions=TURNED[side][batch.actions],
        next_planes=turned_views(batch.next_planes, side),
        next_mean_action=batch.next_mean_action[:, old],
    )


# %%
def mean_field_loss(net: nn.Module, target_net: nn.Module, batch: Deed, discount: float, temperature: float) -> torch.Tensor:
    """Squared TD error with the Boltzmann policy's own value of what follows (Yang et al. 2018, equations 8 to 10)."""
    with torch.no_grad():
        following = target_net(batch.next_planes, batch.next_mean_action)  # [B, A]
        value = (F.softmax(following / temperature, -1) * following).sum(-1)  # [B]
        targets = batch.rewards + discount * value * ~batch.ended
    taken = net(batch.planes, batch.mean_action).gather(1, batch.actions[:, None])[:, 0]
    return F.mse_loss(taken, targets)


class Team:
    """What one team learns with: its network, the target network, an optimiser and its experience."""

    def __init__(self, config: BattleConfig) -> None:
        self.net, self.target_net = BattleQ(config.hidden), BattleQ(config.hidden)
        self.target_net.load_state_dict(self.net.state_dict())
        self.optimiser = torch.optim.Adam(self.net.parameters(), config.learning_rate, fused=True)
        self.replay, self.updates = Replay(config.capacity), 0

    def learn(self, config: BattleConfig, rng: np.random.Generator, temperature: float, remaining: float) -> float:
        """One update on a batch; its loss."""
        batch = Deed(*map(torch.from_numpy, self.replay.sample(config.batch, rng)))
        if config.turned:
            batch = turned(batch, int(rng.integers(8)))
        self.optimiser.param_groups[0]["lr"] = config.learning_rate * max(remaining, 0.1)
        loss = mean_field_loss(self.net, self.target_net, batch, config.discount, temperature)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.updates += 1
        if self.updates % config.sync_every == 0:
            self.target_net.load_state_dict(self.net.state_dict())
        return loss.item()

    def state(self) -> dict:
        parts = (self.net, self.target_net, self.optimiser)
        return {"parts": [part.state_dict() for part in parts], "updates": self.updates}

    def load(self, state: dict) -> None:
        for part, kept in zip((self.net, self.target_net, self.optimiser), state["parts"], strict=True):
            part.load_state_dict(kept)
        self.updates = int(state["updates"])


# %%
class Duel:
    """A battle in training. In some the chaser leads one team (``scripted``); the others are red against blue."""

    def __init__(self, config: BattleConfig, rng: np.random.Generator) -> None:
        self.config, self.battle = config, Battle(config.field, rng)
        self.begin()

    def begin(self) -> None:
        self.battle.reset()
        rng = self.battle.rng
        self.scripted = int(rng.integers(2)) if rng.random() < self.config.chaser_share else None
        self.look()

    def look(self) -> None:
        self.sights = {team: look(self.battle, team, self.config.knowledge) for team in self.learners}

    @property
    def learners(self) -> list[int]:
        return [team for team in (RED, BLUE) if team != self.scripted]

    def step(self, actions: dict[int, np.ndarray]) -> dict[int, Deed]:
        """Both teams act; the learning teams' experience. actions: team -> [N]; the chaser adds its own."""
        if self.scripted is not None:
            actions[self.scripted] = chase(self.battle, self.scripted)
        before = self.sights
        rewards, living = self.battle.step([actions[RED], actions[BLUE]])
        if not self.battle.wiped_out:
            self.look()
        capped = [np.minimum(r, self.config.reward_cap) for r in rewards]
        return {
            team: deeds(before[team], actions[team], capped[team], living[team], self.sights[team], self.battle.wiped_out)
            for team in self.learners
        }


# %%
def temperature_at(config: BattleConfig, done: float) -> float:
    """From start to end over the first half of the training."""
    fallen = min(1.0, 2 * done)
    return config.temperature_start + fallen * (config.temperature_end - config.temperature_start)


def act_and_remember(teams: Sequence[Team], duels: Sequence[Duel], temperature: float) -> list[Duel]:
    """One step of every duel; the duels that are over with it."""
    actions: list[dict[int, np.ndarray]] = [{} for _ in duels]
    for team, learner in enumerate(teams):
        led = [i for i, duel in enumerate(duels) if team in duel.learners]
        found = orders(learner.net, [duels[i].sights[team] for i in led], temperature) if led else []
        for i, chosen in zip(led, found, strict=True):
            actions[i][team] = chosen
    for duel, chosen in zip(duels, actions, strict=True):
        for team, rows in duel.step(chosen).items():
            teams[team].replay.add(rows)
    return [duel for duel in duels if duel.battle.over]


# %%
def battle_progress(
    config: BattleConfig, steps: int, record: list, losses: list, teams: Sequence[Team], rng: np.random.Generator
) -> Progress:
    won, kills = np.mean(record, 0) if record else (0.0, 0.0)
    metrics = {"won against the chaser": won, "enemies killed": kills, "loss": np.mean(losses or [np.nan])}

    def state() -> dict:
        kept = {"steps": steps, "record": np.array(record, float), "random": random_state(rng)}
        return copy.deepcopy(kept | {"teams": [team.state() for team in teams]})

    return Progress(steps, config.battle_steps, metrics, state, "battle steps")


# %%
WARM_UP = 5_000  # experiences before a team learns
TRAINING, SCORING, TOURNAMENT = 1, 2, 3  # first part of every seed: no training shares a stream with a score


def train_battle(config: BattleConfig, seed: int, state: dict | None = None) -> Iterator[Progress]:
    """Mean-field Q-learning for both teams; yields how many of the last hundred battles with the chaser were won."""
    rng, *lots = generators((TRAINING, seed, state["steps"] if state else 0), config.battles + 1)
    torch.manual_seed(int(rng.integers(2**31)))
    teams = [Team(config) for _ in (RED, BLUE)]
    steps, record = 0, []  # record: (won, kills) of battles against the chaser
    if state:
        steps, record = state["steps"], [tuple(row) for row in np.asarray(state["record"]).reshape(-1, 2)]
        for team, kept in zip(teams, as_tensors(state["teams"]), strict=True):
            team.load(kept)
        restore_random(state["random"], rng)
    duels, every = [Duel(config, lot) for lot in lots], max(config.battles, config.battle_steps // 100)
    while steps < config.battle_steps:
        done = steps / config.battle_steps
        temperature = temperature_at(config, done)
        for duel in act_and_remember(teams, duels, temperature):
            if duel.scripted is not None:
                enemy, own = duel.battle.alive[duel.scripted], duel.battle.alive[1 - duel.scripted]
                record = [*record[-99:], (enemy == 0 and own > 0, config.field.soldiers - enemy)]
            duel.begin()
        losses = [t.learn(config, rng, temperature, 1 - done) for t in teams if len(t.replay) >= WARM_UP]
        steps += config.battles
        if steps % every < config.battles or steps >= config.battle_steps:
            yield battle_progress(config, steps, record, losses, teams, rng)


# %%
class Score(NamedTuple):
    """What came of many battles, for one side of them. Rates are shares of battles; a timeout is nobody's victory."""

    won: float
    lost: float
    kills: float
    losses: float


def score_of(survivors: np.ndarray, team: int, field: Field) -> Score:
    """survivors: [battles, 2], as ``fight`` returns them."""
    own, enemy = survivors[:, team], survivors[:, 1 - team]
    fallen = field.soldiers - np.array([enemy.mean(), own.mean()])
    return Score(np.mean((enemy == 0) & (own > 0)), np.mean((own == 0) & (enemy > 0)), *fallen)


def both_sides(first: Sequence[Player], second: Sequence[Player], field: Field, battles: int, seed: Sequence[int]) -> Score:
    """The first side's score, half of the battles as red and half as blue. first, second: who leads red, who blue."""
    as_red = fight(first[RED], second[BLUE], field, battles // 2, (*seed, RED))
    as_blue = fight(second[RED], first[BLUE], field, battles // 2, (*seed, BLUE))
    halves = score_of(as_red, RED, field), score_of(as_blue, BLUE, field)
    return Score(*np.mean(halves, 0))


# %%
RANDOM, CHASER = (random_player,) * 2, (chaser,) * 2
TEMPERATURE = 0.004  # at which learned teams fight in every table and figure


def nets_of(teams: Sequence[dict], hidden: int) -> list[nn.Module]:
    """Both teams' networks from their stored weights."""
    nets = [BattleQ(hidden) for _ in teams]
    for net, weights in zip(nets, as_tensors(list(teams)), strict=True):
        net.load_state_dict(weights)
    return nets


def commanders(nets: Sequence[nn.Module], knowledge: str, temperature: float = TEMPERATURE) -> tuple[Player, Player]:
    """Who leads red and who blue."""
    red, blue = (commander(net, knowledge, temperature) for net in nets)
    return red, blue


# %%
BATTLES, CLOCK = 200, 1000  # of each stored score; steps after which a battle ends undecided (MAgent2's own)


def measure_learner(config: BattleConfig, seed: int) -> Measured:
    """Train both teams; their battles against the chaser and against random soldiers."""
    began, curves = time.perf_counter(), {"won": [], "kills": []}
    for progress in train_battle(config, seed):
        curves["won"].append(progress.metrics["won against the chaser"])
        curves["kills"].append(progress.metrics["enemies killed"])
    seconds = time.perf_counter() - began
    last = [team["parts"][0] for team in progress.state()["teams"]]
    led = commanders(nets_of(last, config.hidden), config.knowledge)
    field = config.field._replace(limit=CLOCK)
    against = {
        name: both_sides(led, other, field, BATTLES, (SCORING, seed, i))._asdict()
        for i, (name, other) in enumerate({"chaser": CHASER, "random": RANDOM}.items())
    }
    found = {f"{what}_against_{name}": x for name, s in against.items() for what, x in s.items()}
    found |= {"training_seconds": seconds, "steps_per_second": progress.step / seconds}
    return Measured(found, curves=curves, state={"teams": last})


# %%
LEARNERS = ("mean_field", "independent", "shuffled")  # the rows of the tournament, each with its seeds
FIELDS = {"skirmish": SKIRMISH, "war": WAR}


@dataclass(frozen=True)
class TournamentConfig:
    field: str = "skirmish"
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    battles: int = knob(24, 2, 1000, "of each pair, half of them on either side")

    def __post_init__(self) -> None:
        check_config(self)


def stored_commanders(field: str, learner: str, seed: int) -> tuple[Player, Player]:
    """The teams that a stored run ended with. Raises FileNotFoundError saying how to make them."""
    name = f"{learner}_{field}"
    run = next((r for r in results.runs("M6", name) if r["seed"] == seed), None)
    if run is None:
        raise FileNotFoundError(f"M6/{name} has no seed {seed}; `make results ROW=M6` measures it.")
    path = results.run_path("M6", name, seed).with_suffix(".safetensors")
    config = run["config"]
    nets = nets_of(load_checkpoint(path)["state"]["teams"], config["hidden"])
    return commanders(nets, config["knowledge"])


def measure_tournament(config: TournamentConfig, seed: int) -> Measured:
    """Every learner's run with this seed against all runs of all learners, the chaser, and random soldiers."""
    field, found = FIELDS[config.field]._replace(limit=CLOCK), {}
    others = {name: [stored_commanders(config.field, name, s) for s in config.seeds] for name in LEARNERS}
    others |= {"chaser": [CHASER], "random": [RANDOM]}
    for i, learner in enumerate(LEARNERS):
        led = stored_commanders(config.field, learner, seed)
        for j, (name, rivals) in enumerate(others.items()):
            battles = config.battles * (len(config.seeds) // len(rivals))
            lots = [(TOURNAMENT, seed, i, j, k) for k in range(len(rivals))]
            scores = [both_sides(led, rival, field, battles, lot) for rival, lot in zip(rivals, lots, strict=True)]
            for what, x in Score(*np.mean(scores, 0))._asdict().items():
                found[f"{learner}_{what}_against_{name}"] = x
    return Measured(found)


# %%
HEADLINE = "Battle, 16 against 16: mean-field Q wins {M6.won_against_chaser} of its battles against the script"
FIVE, THREE = (1, 2, 3, 4, 5), (1, 2, 3)
WAR_CONFIG = BattleConfig(field=WAR, chaser_share=0.1, battle_steps=56_000)
WON = (
    Metric("won_against_chaser", "of the battles", "mean", "one team wins clearly"),
    Metric("kills_against_chaser", "of 16", "mean"),
    Metric("training_seconds", "s", "median"),
)
WON_WAR = (
    Metric("won_against_random", "of the battles, 64 against 64", "mean"),
    Metric("steps_per_second", "battle steps/s, 64 against 64", "median"),
)
KNOWN = {"mean_field": "neighbours", "independent": "nothing", "shuffled": "shuffled"}
MEASUREMENTS = [
    Measurement("M6", f"{name}_{field}", measure_learner, replace(config, knowledge=knowledge),
                FIVE if field == "skirmish" or metrics else THREE, metrics)
    for field, config, headlines in (("skirmish", BattleConfig(), WON), ("war", WAR_CONFIG, WON_WAR))
    for name, knowledge in KNOWN.items()
    for metrics in [headlines if name == "mean_field" else ()]
]  # fmt: skip
MEASUREMENTS += [
    Measurement("M6", "uncapped", measure_learner, BattleConfig(reward_cap=10.0), THREE),
    Measurement("M6", "unturned", measure_learner, BattleConfig(turned=False), THREE),
    Measurement("M6", "warm", measure_learner, BattleConfig(temperature_start=0.2, temperature_end=0.05), THREE),
    Measurement("M6", "tournament_skirmish", measure_tournament, TournamentConfig(), FIVE),
    Measurement("M6", "tournament_war", measure_tournament, TournamentConfig("war", seeds=THREE), THREE),
]
