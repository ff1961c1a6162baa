"""Ours against what a reader would use instead: the same work, in one run, one thread each. Prints rates and ratios."""

import time
from collections.abc import Callable

import gymnasium as gym
import torch
from evotorch.neuroevolution import GymNE
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy

from rlbook_utils.definitions import load_chapter
from rlbook_utils.rollout import episode_returns

NETWORK = "Linear(obs_length, 25) >> ReLU() >> Linear(25, 10) >> ReLU() >> Linear(10, act_length)"
chapter = load_chapter("ch01_evolution")
distributions = load_chapter("ch02_distributional_dqn")


def rate(work: Callable[[], float], repeats: int = 3) -> float:
    """The best of ``repeats`` rates; ``work`` returns how much it did."""
    rates = []
    for _ in range(repeats):
        began = time.perf_counter()
        done = work()
        rates.append(done / (time.perf_counter() - began))
    return max(rates)


def compare(
    title: str, unit: str, ours: Callable[[], float], name: str, theirs: Callable[[], float]
) -> None:
    mine, other = rate(ours), rate(theirs)
    print(
        f"{title}: ours {mine:,.0f} {unit}, {name} {other:,.0f} {unit}, ratio {mine / other:.1f}",
        flush=True,
    )


def population_of_networks() -> None:
    """CartPole fitness of random networks, one episode an individual."""
    params = torch.randn(500, chapter.PARAMS, generator=torch.Generator().manual_seed(0)) / 2
    problem = GymNE("CartPole-v1", NETWORK, num_actors=0)

    def theirs() -> float:
        before = problem.status.get("total_interaction_count", 0)
        problem.evaluate(problem.generate_batch(100))
        return problem.status["total_interaction_count"] - before

    compare(
        "population on CartPole",
        "environment steps/s",
        lambda: chapter.evaluate_population(params, 16, seed=0).sum(),
        "EvoTorch",
        theirs,
    )


def evaluation_of_a_policy() -> None:
    """A hundred episodes of one Stable-Baselines3 policy."""
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=512, seed=0, device="cpu").learn(20_000)
    act = lambda obs: model.predict(obs, deterministic=True)[0]
    env = gym.make("CartPole-v1")
    compare(
        "100 evaluation episodes",
        "environment steps/s",
        lambda: episode_returns(act, "CartPole-v1", 100, seed=0).sum(),
        "evaluate_policy",
        lambda: sum(evaluate_policy(model, env, 10, return_episode_rewards=True, warn=False)[0]),
    )


def projection_of_a_batch() -> None:
    """C51's projection of 256 returns onto 51 atoms, against the usual index_add of two neighbours' shares."""
    generator, support = torch.Generator().manual_seed(0), torch.linspace(-10, 10, 51)
    probs = torch.rand(256, 51, generator=generator).softmax(-1)
    returns = 10 * torch.randn(256, 1, generator=generator) + 0.99 * support

    def ours() -> float:
        for _ in range(200):
            distributions.project(returns, probs, support)
        return 200 * 256

    def theirs() -> float:
        offsets = 51 * torch.arange(256)[:, None]
        for _ in range(200):
            places = (returns.clamp(-10, 10) + 10) / 0.4
            lower, upper = places.floor().long(), places.ceil().long()
            lower[(upper > 0) & (lower == upper)] -= 1
            upper[(lower < 50) & (lower == upper)] += 1
            projected = torch.zeros(256 * 51)
            projected.index_add_(0, (lower + offsets).ravel(), (probs * (upper - places)).ravel())
            projected.index_add_(0, (upper + offsets).ravel(), (probs * (places - lower)).ravel())
        return 200 * 256

    compare("C51 projection", "distributions/s", ours, "index_add", theirs)


if __name__ == "__main__":
    population_of_networks()
    evaluation_of_a_policy()
    projection_of_a_batch()
