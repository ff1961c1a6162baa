"""Uniform experience replay and n-step returns. Prioritised replay is taught, and stands, in chapter 02."""

from typing import NamedTuple

import numpy as np

from rlbook_utils.rollout import Transition


class Experience(NamedTuple):
    """What a value method learns from, n steps at a time. B: batch.

    obs, next_obs: [B, ...], n steps apart (fewer at the end of an episode). actions: [B, ...], taken at obs.
    rewards: [B], the discounted sum of the rewards between the two.
    discounts: [B], the weight of the value at next_obs: discount^n, and 0 where the episode terminated.
    """

    obs: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    discounts: np.ndarray
    next_obs: np.ndarray


class NStep:
    """Successive transitions of N environments in, n-step experience out (Sutton and Barto 2018, section 7.1).

    An end of an episode flushes what is pending, with shorter sums; nothing crosses into the next episode.
    """

    def __init__(self, n: int, discount: float) -> None:
        if n < 1:
            raise ValueError(f"n is {n}; a return needs at least one step.")
        self.n, self.discount = n, discount
        self._pending: list[list[np.ndarray]] = []  # oldest first: obs, actions, rewards, waiting

    def __call__(self, step: Transition) -> Experience:
        """The experience that ``step`` completes; may be empty ([0, ...])."""
        done = step.terminated | step.truncated
        self._pending.append([step.obs, step.actions, np.zeros(len(done), np.float32), step.valid])
        parts = []
        for age, start in enumerate(reversed(self._pending)):
            obs, actions, rewards, waiting = start
            start[2] = rewards + np.float32(self.discount**age) * np.where(
                waiting, step.rewards, 0
            ).astype(np.float32)
            out = waiting & (done | (age + 1 == self.n))
            start[3] = waiting & ~out
            if out.any():
                discounts = self.discount ** (age + 1) * ~step.terminated[out]
                parts.append(
                    Experience(obs[out], actions[out], start[2][out], discounts.astype(np.float32), step.next_obs[out])
                )  # fmt: skip
        self._pending = self._pending[-(self.n - 1) :] if self.n > 1 else []
        if not parts:
            none = np.zeros(0, np.float32)
            return Experience(step.obs[:0], step.actions[:0], none, none, step.next_obs[:0])
        return Experience(*(np.concatenate(column) for column in zip(*parts, strict=True)))


class Replay:
    """The last ``capacity`` rows of any NamedTuple of arrays [B, ...], in arrays allocated once, at the first ``add``."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.added = capacity, 0
        self._rows: tuple[np.ndarray, ...] | None = None

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(self, rows: NamedTuple) -> np.ndarray:
        """Store rows, over the oldest where it is full. Returns the places they went to: [B]."""
        if self._rows is None:
            self._kind = type(rows)
            self._rows = tuple(np.empty((self.capacity, *r.shape[1:]), r.dtype) for r in rows)
        places = (self.added + np.arange(len(rows[0]))) % self.capacity
        for kept, new in zip(self._rows, rows, strict=True):
            kept[places] = new
        self.added += len(places)
        return places

    def rows(self, places: np.ndarray) -> NamedTuple:
        """The rows at ``places`` [B], copied, as the NamedTuple that was added."""
        return self._kind(*(kept[places] for kept in self._rows))

    def sample(self, size: int, rng: np.random.Generator) -> NamedTuple:
        """``size`` rows drawn evenly, with replacement."""
        return self.rows(rng.integers(len(self), size=size))
