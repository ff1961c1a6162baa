"""Episodes and transitions from Gymnasium's vector environments."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

Policy = Callable[[np.ndarray], np.ndarray]


class Transition(NamedTuple):
    """One step of N environments. Bootstrap from ``next_obs`` unless ``terminated``; an episode ends on either flag.

    obs, next_obs: [N, ...]; next_obs is the last observation of its own episode, never the first of the next.
    actions: [N, ...]. rewards, terminated, truncated: [N].
    valid: [N], False where the environment only reset itself; such rows belong in no loss and no replay buffer.
    """

    obs: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    next_obs: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    valid: np.ndarray


def spread(seed: int | Sequence[int], count: int) -> list[int]:
    """``count`` seeds for environments that no other run shares, nor this run's score.

    seed: a whole number, or several that name one use together, such as (seed, env_steps). Gymnasium gives environment
    i the seed ``seed + i``, so that runs with seeds 1 and 2 have all their environments but one in common.
    """
    named = np.random.SeedSequence(seed, spawn_key=(np.size(seed),))  # 1 and (1, 0) differ
    return named.generate_state(count).tolist()


class SpreadEnvs(SyncVectorEnv):
    """Environments stepped in turn, each with a seed of its own (``spread``)."""

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict | None = None
    ) -> tuple:
        """seed: of the run, or one of each environment."""
        seeds = spread(seed, self.num_envs) if np.ndim(seed) == 0 and seed is not None else seed
        return super().reset(seed=seeds, options=options)


def make_vector(
    env_id: str, num_envs: int, *, same_step: bool = False, **make: object
) -> VectorEnv:
    """``num_envs`` copies of an environment: its native vector version where it has one, else stepped in turn.

    same_step: reset in the very step that ends an episode, so that every step counts. make: passed to ``gym.make``.
    """
    if same_step:
        one = partial(gym.make, env_id, disable_env_checker=True, **make)
        return SpreadEnvs([one] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
    if gym.spec(env_id).vector_entry_point is not None:
        return gym.make_vec(env_id, num_envs, vectorization_mode="vector_entry_point", **make)
    return SpreadEnvs([partial(gym.make, env_id, **make)] * num_envs)


def transitions(envs: VectorEnv, policy: Policy, seed: int) -> Iterator[Transition]:
    """Endless transitions under ``policy(obs [N, ...]) -> actions [N, ...]``, in either same-step or next-step autoreset.

    With next-step autoreset (Gymnasium's default) the step after an end ignores its action and gives reward 0:
    it comes out with ``valid`` False. With same-step autoreset the true last observation is put back in place.
    """
    same_step = envs.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    obs, _ = envs.reset(seed=seed)
    resetting = np.zeros(envs.num_envs, bool)
    while True:
        actions = policy(obs)
        following, rewards, terminated, truncated, info = envs.step(actions)
        done = terminated | truncated
        next_obs = following
        if same_step and done.any():
            next_obs = following.copy()
            next_obs[done] = np.stack(info["final_obs"][done])
        yield Transition(obs, actions, rewards, next_obs, terminated, truncated, ~resetting)
        obs, resetting = following, done & (not same_step)


def episode_returns(policy: Policy, env_id: str, episodes: int, seed: int) -> np.ndarray:
    """The undiscounted return of one whole episode in each of ``episodes`` environments: [episodes].

    Each environment contributes its first episode, whatever its length, so short ones are not over-counted.
    """
    envs = make_vector(env_id, episodes)
    returns, playing = np.zeros(episodes), np.ones(episodes, bool)
    for step in transitions(envs, policy, seed):
        returns += np.where(playing, step.rewards, 0.0)
        playing &= ~(step.terminated | step.truncated)
        if not playing.any():
            break
    envs.close()
    return returns
