"""Chapter 01: its mathematics against independent oracles, its agents against chance, its faults kept out."""

import contextlib
import dataclasses
import itertools
import os
import re
import signal
import sys
import time
from functools import partial
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import ray
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleEnv, CartPoleVectorEnv
from gymnasium.envs.mujoco.mujoco_env import MujocoEnv
from ray.cluster_utils import Cluster
from scipy import stats

from rlbook_utils.checkpoint import load_checkpoint, save_checkpoint
from rlbook_utils.definitions import load_chapter
from rlbook_utils.rollout import spread

ch = load_chapter("ch01_evolution")
PATIENCE = "RAY_raylet_start_wait_time_s"  # how long Ray waits for itself to start
RANDOM_RETURN = 22.5  # CartPole's mean return under random pushes


def pairs_of(items):
    return zip(items[::2], items[1::2], strict=True)


def last(progresses):
    *_, progress = progresses
    return progress


# Strings


def test_similarity_counts_places():
    texts = np.array([list("Hello World!"), list("hello world!"), list("!dlroW olleH")])
    np.testing.assert_allclose(ch.similarity(texts, "Hello World!"), [1, 10 / 12, 4 / 12])


def test_selection_is_in_proportion_to_fitness():
    fitness = np.array([0.0, 0.1, 0.3, 0.6])
    drawn = ch.select_in_proportion(fitness, 20_000, np.random.default_rng(0))
    counts = np.bincount(drawn.ravel(), minlength=4)
    assert drawn.shape == (2, 20_000) and counts[0] == 0
    assert stats.chisquare(counts[1:], 40_000 * fitness[1:]).pvalue > 1e-3
    even = ch.select_in_proportion(np.zeros(4), 20_000, np.random.default_rng(0))
    assert stats.chisquare(np.bincount(even.ravel())).pvalue > 1e-3


def test_string_operators_leave_parents_alone():
    rng = np.random.default_rng(0)
    mothers, fathers = np.full((50, 12), "m"), np.full((50, 12), "f")
    children = ch.cross_strings(mothers, fathers, rng)
    texts = ["".join(row) for row in children]
    assert all(re.fullmatch("m+f+|f+m+", text) for text in texts)
    for first, second in zip(texts[:50], texts[50:], strict=True):
        assert all({a, b} == {"m", "f"} for a, b in zip(first, second, strict=True))
    assert len({text.index("f") for text in texts[:50]}) > 5  # the cut moves
    mutated = ch.mutate_strings(mothers, 0.3, rng)
    assert (mothers == "m").all()
    assert stats.binomtest(int((mutated != "m").sum()), 600, 0.3 * 55 / 56).pvalue > 1e-3


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_hello_world_is_found(seed):
    progress = last(ch.evolve_strings(ch.StringConfig(), seed))
    assert (
        progress.state()["population"][0] == "Hello World!" and progress.step == progress.total < 60
    )
    again = last(ch.evolve_strings(ch.StringConfig(), seed, progress.state()))
    assert again.step == progress.step  # a finished run stays finished


def test_a_target_outside_the_alphabet_is_refused():
    with pytest.raises(ValueError, match="'naïve' leaves the alphabet"):
        ch.StringConfig(target="naïve")


# The network and its evaluation


def module_of(params):
    """The 4-25-10-2 network of a flat vector, built from PyTorch's own layers."""
    layers, start = [], 0
    for inputs, outputs in ((4, 25), (25, 10), (10, 2)):
        layer = torch.nn.Linear(inputs, outputs)
        for parameter in (layer.weight, layer.bias):
            parameter.data = params[start : start + parameter.numel()].reshape(parameter.shape)
            start += parameter.numel()
        layers += [layer, torch.nn.ReLU()]
    assert start == len(params) == 407
    return torch.nn.Sequential(*layers[:-1])


def some_params(count, seed=0):
    return torch.randn(count, ch.PARAMS, generator=torch.Generator().manual_seed(seed)) / 2


def test_batched_networks_agree_with_modules():
    params, obs = some_params(5), torch.randn(5, 7, 4)
    logits = ch.action_logits(ch.unpack(params), obs)
    assert logits.shape == (5, 7, 2)
    for i in range(5):
        torch.testing.assert_close(logits[i], module_of(params[i])(obs[i]), atol=1e-5, rtol=1e-5)
    assert (ch.greedy(logits) == logits.argmax(-1)).all()


@torch.no_grad()
def test_population_evaluation_agrees_with_a_loop():
    """The same native environment, its actions chosen one by one, its episodes counted by hand."""
    params, episodes = some_params(6, seed=3), 3
    ours = ch.evaluate_population(params, episodes, seed=11)
    envs = gym.make_vec("CartPole-v1", num_envs=18, vectorization_mode="vector_entry_point")
    obs, _ = envs.reset(seed=11)
    modules, lengths = [module_of(p) for p in params], np.zeros(18, int)
    for step in range(1, 501):
        actions = [
            int(modules[i // episodes](torch.from_numpy(obs[i])).argmax()) for i in range(18)
        ]
        obs, _, terminated, truncated, _ = envs.step(np.array(actions))
        over = (terminated | truncated) & (lengths == 0)
        lengths[over] = step
    np.testing.assert_array_equal(ours, lengths.reshape(6, 3))


@torch.no_grad()
def test_the_plain_loop_plays_what_the_network_says():
    env = gym.make("CartPole-v1")
    for seed, params in enumerate(some_params(4, seed=5)):
        module, (obs, _), steps, over = module_of(params), env.reset(seed=seed), 0, False
        while not over:
            obs, _, terminated, truncated, _ = env.step(int(module(torch.from_numpy(obs)).argmax()))
            steps, over = steps + 1, terminated or truncated
        assert ch.play_one(params, env, seed) == steps


def test_speeds_count_the_steps_of_equal_and_of_sixteenfold_work(monkeypatch):
    """With a clock that says one second for each of the three, a speed is a number of useful steps."""
    population, clock = some_params(6, seed=2), itertools.count()
    fake = SimpleNamespace(perf_counter=lambda: float(next(clock)))
    monkeypatch.setitem(ch.evaluation_speeds.__globals__, "time", fake)
    plain, equal, several = ch.evaluation_speeds(population, 3, seed=9, sample=4)
    env = gym.make("CartPole-v1")
    assert plain == sum(
        ch.play_one(params, env, start)
        for params, start in zip(population[:4], spread(9, 4), strict=True)
    )
    assert equal == ch.evaluate_population(population, 1, 9).sum()
    assert several == ch.evaluate_population(population, 3, 9).sum()


def test_plain_and_batched_evaluation_measure_the_same_thing():
    params = some_params(1, seed=8)
    env = gym.make("CartPole-v1")
    plain = [ch.play_one(params[0], env, seed) for seed in range(60)]
    batched = ch.evaluate_population(params, 60, seed=0)[0]
    assert stats.ks_2samp(plain, batched).pvalue > 1e-3


def test_a_policy_that_never_falls_ends_at_500():
    """Pitfall: waiting for termination alone never ends."""
    champion = torch.zeros(1, ch.PARAMS)  # pushes toward the side to which the pole is falling
    weights, _ = ch.unpack(torch.arange(407.0)[None])[0]
    first = {tuple(i): int(weights[0, i[0], i[1]]) for i in ((0, 2), (0, 3), (1, 2), (1, 3))}
    for (row, column), place in first.items():
        champion[0, place] = (1.0 if column == 2 else 0.5) * (1 if row == 0 else -1)
    (w2, _), (w3, _) = ch.unpack(torch.arange(407.0)[None])[1:]
    for unit in (0, 1):
        champion[0, int(w2[0, unit, unit])] = 1.0
        champion[0, int(w3[0, 1 - unit, unit])] = 1.0
    assert ch.evaluate_population(champion, 50, seed=0).mean() == 500


def test_sampling_follows_the_softmax():
    """Pitfall: log-probabilities passed as ``probs`` turn 0.88 / 0.12 into 0.06 / 0.94."""
    torch.manual_seed(0)
    logits = torch.log(torch.tensor([0.88, 0.12])).expand(20_000, 2)
    assert stats.binomtest(int(ch.sampled(logits).sum()), 20_000, 0.12).pvalue > 1e-3
    assert ch.inverted(logits).float().mean() > 0.9


# The genetic algorithm


def test_tournament_picks_the_two_best_of_its_entrants():
    fitness = np.random.default_rng(0).permutation(40).astype(float)
    mothers, fathers = ch.tournament(fitness, 4000, 0.1, np.random.default_rng(1))
    assert (fitness[mothers] > fitness[fathers]).all()  # hence never the same one twice
    # Of 4 entrants drawn without repeats from 40, the best has rank r (0 is best) with a known probability.
    ranks = 39 - fitness[mothers].astype(int)
    expected = np.array(
        [np.prod([(39 - r - i) / (39 - i) for i in range(3)]) * 4 / 40 for r in range(37)]
    )
    np.testing.assert_allclose(expected.sum(), 1)
    counts = np.bincount(ranks, minlength=37)
    assert stats.chisquare(np.append(counts[:20], counts[20:].sum()),
                           4000 * np.append(expected[:20], expected[20:].sum())).pvalue > 1e-3  # fmt: skip
    everyone = ch.tournament(fitness, 10, 1.0, np.random.default_rng(1))
    assert (np.argsort(-fitness)[:2] == everyone.T).all()


@pytest.mark.parametrize("sizes", [(407,), ch.CHROMOSOME_SIZES])
def test_crossover_cuts_each_chromosome_once(sizes):
    mothers, fathers = torch.zeros(30, 407), torch.ones(30, 407)
    children = ch.crossover(mothers, fathers, sizes, np.random.default_rng(0))
    assert children.shape == (60, 407) and torch.equal(children[:30], 1 - children[30:])
    cuts = set()
    for child in children[:30]:
        for chromosome in child.split(sizes):
            assert (chromosome.diff() != 0).sum() == 1 and chromosome[
                0
            ] == 0  # one switch, inside it
            cuts.add(int(chromosome.sum()))
    assert len(cuts) > 20


def test_mutation_returns_new_individuals():
    """Pitfall: mutating in place can change a parent that is still in the population."""
    parents = some_params(200)
    before = parents.clone()
    children = ch.mutate(parents, 0.02, np.random.default_rng(0))
    assert torch.equal(parents, before) and children.data_ptr() != parents.data_ptr()
    changed = children != parents
    assert stats.binomtest(int(changed.sum()), changed.numel(), 0.02).pvalue > 1e-3
    assert abs(children[changed].std() - 0.1) < 0.01
    assert torch.equal(ch.mutate(parents, 0.0, np.random.default_rng(0)), parents)


@pytest.mark.parametrize("mutation_rate", [0.0, 0.1])
def test_children_share_no_memory_with_their_parents(mutation_rate):
    adults, fitness = some_params(40), np.arange(40.0)
    kept, config = adults.clone(), ch.GAConfig(population=40, mutation_rate=mutation_rate)
    for operate in (
        lambda: ch.next_population(adults, fitness, config, np.random.default_rng(0)),
        lambda: ch.mutate(adults, mutation_rate, np.random.default_rng(0)),
        lambda: ch.crossover(adults[:20], adults[20:], (407,), np.random.default_rng(0)),
    ):
        operate().zero_()
        assert torch.equal(adults, kept)
    strings = np.full((50, 12), "m")
    for operate in (
        lambda: ch.mutate_strings(strings, mutation_rate, np.random.default_rng(0)),
        lambda: ch.cross_strings(strings[:25], strings[25:], np.random.default_rng(0)),
    ):
        operate()[:] = "x"
        assert (strings == "m").all()


def test_the_settings_reach_the_operators(monkeypatch):
    """Layers or one cut, greedy or sampled actions, the reader's own crossover: what ``evolve`` passes on."""
    chosen, cut = [], []
    evaluate = ch.evaluate_population

    def spy(params, episodes, seed, choose):
        chosen.append(choose)
        return evaluate(params, episodes, seed, choose)

    def cross(mothers, fathers, sizes, rng):
        cut.append(sizes)
        return torch.cat([mothers, fathers])

    monkeypatch.setitem(ch.evolve.__globals__, "evaluate_population", spy)
    for layerwise, sample_actions in itertools.product((False, True), repeat=2):
        change = {"layerwise": layerwise, "sample_actions": sample_actions}
        config = ch.GAConfig(population=20, generations=3, episodes=1, **change)
        last(ch.evolve(config, 1, cross=cross))
        assert set(cut) == {ch.CHROMOSOME_SIZES if layerwise else (407,)} and len(cut) == 2
        assert set(chosen) == {ch.sampled if sample_actions else ch.greedy} and len(chosen) == 3
        cut.clear(), chosen.clear()


SMALL = ch.GAConfig(population=100, generations=12, episodes=4)


@pytest.fixture(scope="module")
def evolved():
    return {seed: last(ch.evolve(SMALL, seed)) for seed in (1, 2, 3)}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_genetic_algorithm_learns(evolved, seed):
    state = evolved[seed].state()
    assert ch.score(ch.champion_of(state, seed), seed) > 10 * RANDOM_RETURN


def test_stored_fitness_belongs_to_the_stored_population(monkeypatch):
    """Pitfall: a 'best' taken from a generation that was bred after the evaluation."""
    evaluated = []

    def spy(params, *arguments):
        evaluated.append((params, evaluate(params, *arguments)))
        return evaluated[-1][1]

    evaluate = ch.evaluate_population
    monkeypatch.setitem(ch.evolve.__globals__, "evaluate_population", spy)
    for progress in ch.evolve(ch.GAConfig(population=30, generations=4, episodes=2), 1):
        population, returns = evaluated[-1]
        assert len(evaluated) == progress.step  # nothing is bred after the last evaluation
        assert progress.state()["population"] is population
        np.testing.assert_array_equal(progress.state()["fitness"], returns.mean(1))


@pytest.mark.parametrize("layerwise", [False, True])
def test_genetic_algorithm_resumes_exactly(tmp_path, layerwise):
    config = ch.GAConfig(population=40, generations=6, episodes=1, layerwise=layerwise)
    whole = [progress.state() for progress in ch.evolve(config, 5)]
    save_checkpoint(tmp_path / "ga.safetensors", whole[2], config=config)
    state = load_checkpoint(tmp_path / "ga.safetensors", config)["state"]
    rest = last(ch.evolve(config, 5, state)).state()
    assert torch.equal(whole[-1]["population"], rest["population"])
    assert whole[-1]["env_steps"] == rest["env_steps"]
    assert last(ch.evolve(config, 5, rest)).step == 6
    assert not torch.equal(last(ch.evolve(config, 6)).state()["population"], rest["population"])


# Evolution strategies


def test_es_step_estimates_the_smoothed_gradient():
    """On a quadratic the smoothed gradient is the gradient; the standardised step is known in closed form."""
    rng, size = np.random.default_rng(0), 12
    curvature, centre = rng.uniform(0.5, 2, size), rng.normal(size=size)
    height = lambda x: -(curvature * (x - centre) ** 2).sum(-1)
    config = ch.ESConfig(noise=0.1, step_size=0.3)
    parent, noise = np.zeros(size), rng.standard_normal((200_000, size))
    fitness = height(parent + config.noise * noise)
    step = ch.es_step(parent, noise, fitness, config) - parent
    gradient = 2 * curvature * centre
    expected = config.step_size * gradient / fitness.std()
    np.testing.assert_allclose(step, expected, rtol=0, atol=0.02 * np.linalg.norm(expected))
    shifted = ch.es_step(parent, noise, 5 * fitness + 1000, config) - parent
    np.testing.assert_allclose(shifted, step, rtol=1e-6)


def test_every_generation_of_the_strategy_draws_fresh_noise(monkeypatch):
    """Reused noise still solves the pole, so only a look at it tells."""
    seen = []
    evaluate, step = ch.evaluate_population, ch.es_step

    def spy(children, episodes, seed):
        seen.append({"children": children.numpy(), "seed": seed})
        return evaluate(children, episodes, seed)

    def step_spy(parent, noise, fitness, config):
        seen[-1] |= {"parent": parent, "noise": noise}
        return step(parent, noise, fitness, config)

    monkeypatch.setitem(ch.evolve_parent.__globals__, "evaluate_population", spy)
    monkeypatch.setitem(ch.evolve_parent.__globals__, "es_step", step_spy)
    config = ch.ESConfig(children=30, generations=5)
    for seed in (1, 2):
        last(ch.evolve_parent(config, seed))
    for each in seen:  # what was evaluated is what makes the step
        expected = each["parent"] + config.noise * each["noise"]
        np.testing.assert_allclose(each["children"], expected, atol=1e-5)
    noise = np.concatenate([each["noise"] for each in seen])  # [10 generations, 30 children]
    assert np.abs(np.corrcoef(noise)[~np.eye(300, dtype=bool)]).max() < 0.4
    assert len({each["seed"] for each in seen}) == len(seen) == 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_evolution_strategy_solves_the_pole(seed):
    parent = torch.from_numpy(last(ch.evolve_parent(ch.ESConfig(), seed)).state()["parent"]).float()
    assert ch.score(parent, seed) >= 475


def test_evolution_strategy_resumes_exactly():
    config = ch.ESConfig(children=20, generations=5)
    whole = [progress.state() for progress in ch.evolve_parent(config, 3)]
    rest = last(ch.evolve_parent(config, 3, whole[1])).state()
    np.testing.assert_array_equal(whole[-1]["parent"], rest["parent"])


# Search with shards

BODY = ch.SearchConfig(generations=4, horizon=40)


@pytest.fixture(scope="module")
def serial_log():
    return last(ch.search(BODY, 5)).state()["log"]


def test_merged_statistics_are_those_of_the_whole_sample():
    rng = np.random.default_rng(0)
    parts = [rng.normal(3, 2, (n, 4)) for n in (5, 1, 60)]
    merged = ch.Parent(None, 0.0, np.zeros(4), np.zeros(4))
    for part in parts:
        new = ch.Record(None, *ch.summary(part))
        merged = ch.Parent(None, *ch.merge_statistics(merged, new))
    whole = np.concatenate(parts)
    np.testing.assert_allclose(merged.mean, whole.mean(0))
    np.testing.assert_allclose(merged.m2 / merged.count, whole.var(0))


def test_records_survive_the_wire():
    rng = np.random.default_rng(0)
    record = ch.Record(rng.normal(size=(8, 2)), 160.0, rng.normal(size=17), rng.normal(size=17))
    back = ch.Record.unpack(np.frombuffer(record.pack().tobytes()), 8)
    assert all(np.array_equal(a, b) for a, b in zip(record, back, strict=True))


def test_folded_normalisation_is_the_normalised_policy():
    rng = np.random.default_rng(0)
    seen = rng.normal(2, 3, (50, 3))
    seen[:, 2] = 4.0  # never varies: it must not divide by zero, and carries no information
    parent = ch.Parent(
        rng.normal(size=(2, 3)), 50.0, seen.mean(0), ((seen - seen.mean(0)) ** 2).sum(0)
    )
    nudge, actions, observations = rng.normal(size=(2, 3)), [], iter(rng.normal(2, 3, (6, 3)))

    def step(action):
        actions.append(action)
        return next(observations), 1.5, False, len(actions) == 4, {}

    env = SimpleNamespace(reset=lambda seed: (next(observations), {}), step=step)
    total, obs = ch.play(parent, nudge, env, seed=0)
    deviation = seen.std(0)
    deviation[2] = np.inf
    expected = ((obs - parent.mean) / deviation) @ (parent.weights + nudge).T
    np.testing.assert_allclose(actions, expected)
    assert total == 6.0 and obs.shape == (4, 3)


@pytest.mark.parametrize("kept", [3, 8])
def test_update_agrees_with_a_loop(kept):
    config = dataclasses.replace(ch.SearchConfig(), kept=kept)
    rng = np.random.default_rng(1)
    parent = ch.first_parent(config)._replace(weights=rng.normal(size=(6, 17)))
    record = ch.Record(rng.normal(size=(8, 2)), 10.0, np.zeros(17), np.ones(17))
    generation, rows = 105, []
    for direction in range(8):
        noise = np.random.default_rng([7, generation, direction]).standard_normal((1, 6, 17))[0]
        rows.append((max(record.returns[direction]), *record.returns[direction], noise))
    rows = sorted(rows, key=lambda row: -row[0])[:kept]
    alpha = 0.03 + (0.006 - 0.03) * generation / 400
    deviation = np.std([value for row in rows for value in row[1:3]])
    step = (
        sum((plus - minus) * noise for _, plus, minus, noise in rows) * alpha / (kept * deviation)
    )
    updated = ch.update_parent(config, 7, generation, parent, record)
    np.testing.assert_allclose(updated.weights, parent.weights + step, rtol=1e-6)
    assert updated.count == 10 and not np.array_equal(updated.weights, parent.weights)


def test_no_two_draws_share_their_numbers():
    """Noise of every shard and generation, and episode seeds, come from streams of their own."""
    config = ch.SearchConfig()
    keys = [(g, s) for g in range(3) for s in range(8)]
    flat = np.array([ch.shard_noise(config, 1, *key, (6, 17)).ravel() for key in keys])
    assert np.abs(np.corrcoef(flat)[~np.eye(24, dtype=bool)]).max() < 0.5
    streams = [[1, *key] for key in keys] + [[1, *key, 1] for key in keys]
    firsts = [np.random.default_rng(stream).integers(2**62) for stream in streams]
    assert len(set(firsts)) == len(firsts)
    np.testing.assert_array_equal(flat[0], ch.shard_noise(config, 1, 0, 0, (6, 17)).ravel())


def test_the_search_moves_along_the_noise_that_it_played(monkeypatch, serial_log):
    """A generation, spied on: fresh directions, both sides of each, at the parent that the news make."""
    played, play = [], ch.play

    def spy(parent, nudge, env, seed):
        total, obs = play(parent, nudge, env, seed)
        played.append((parent, nudge, seed, total))
        return total, obs

    monkeypatch.setitem(ch.evaluate_shard.__globals__, "play", spy)
    log = last(ch.search(BODY, 5)).state()["log"]
    np.testing.assert_array_equal(log, serial_log)
    assert len(played) == 4 * 16 and len({seed for _, _, seed, _ in played}) == 4 * 16
    directions, weights = [], []
    for generation in range(4):
        now = played[16 * generation : 16 * generation + 16]
        assert len({each[0].weights.tobytes() for each in now}) == 1  # one parent
        weights.append(now[0][0].weights)
        for plus, minus in pairs_of(now):
            np.testing.assert_array_equal(plus[1], -minus[1])
            directions.append(plus[1].ravel() / BODY.noise)
        if generation:
            before = played[16 * generation - 16 : 16 * generation]
            rows = [(a[3], b[3], a[1] / BODY.noise) for a, b in pairs_of(before)]
            rows = sorted(rows, key=lambda row: -max(row[:2]))[: BODY.kept]
            share = (generation - 1) / BODY.generations
            alpha = BODY.step_size * (1 - share) + BODY.final_step_size * share
            deviation = np.std([total for row in rows for total in row[:2]])
            step = sum((a - b) * noise for a, b, noise in rows) * alpha / (BODY.kept * deviation)
            np.testing.assert_allclose(weights[-1] - weights[-2], step, rtol=1e-5)
    assert np.abs(np.corrcoef(directions)[~np.eye(32, dtype=bool)]).max() < 0.5
    assert np.std(directions) == pytest.approx(1, abs=0.1)


def test_champions_are_scored_on_episodes_that_did_not_choose_them(monkeypatch):
    asked = {"choose": [], "score": []}
    play = ch.play
    phase = "choose"
    spy = lambda parent, nudge, env, seed: (
        asked[phase].append(seed) or play(parent, nudge, env, seed)
    )
    monkeypatch.setitem(ch.body_score.__globals__, "play", spy)
    log = last(ch.search(dataclasses.replace(BODY, generations=20, horizon=10), 3)).state()["log"]
    asked["choose"].clear(), asked["score"].clear()
    phase = "choose"
    parent = ch.fastest_parent(BODY, 3, log)
    phase = "score"
    ch.body_score(parent, ch.make_body(BODY), (ch.SCORING, 3), 20)
    assert len(asked["choose"]) == 16 + 8 * 2 + 4 * 4 + 2 * 8 and len(asked["score"]) == 20
    assert not set(asked["choose"]) & set(asked["score"])
    assert len(set(asked["choose"])) == 15  # 1 + 2 + 4 + 8: fresh ones in every round


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_process_pool_gives_the_same_bits(serial_log, workers):
    log = last(ch.search(BODY, 5, evaluator=ch.PoolEvaluator, workers=workers)).state()["log"]
    np.testing.assert_array_equal(log, serial_log)


def striking(evaluator, strike):
    """An evaluator that loses a worker while it plays: after it was asked, before it is listened to."""

    class Striking(evaluator):
        struck = 0

        def listen(self, i, log):
            if len(log) == 2 and not self.struck:
                self.struck += 1
                strike(self)
            return super().listen(i, log)

    return Striking


def test_a_worker_killed_in_mid_generation_changes_nothing(serial_log):
    def strike(crew):
        os.kill(crew.members[1][0].pid, signal.SIGKILL)
        crew.victim = crew.members[1][0]

    crews = []
    evaluator = striking(ch.PoolEvaluator, strike)
    make = lambda *arguments: crews.append(evaluator(*arguments)) or crews[0]
    log = last(ch.search(BODY, 5, evaluator=make, workers=2)).state()["log"]
    np.testing.assert_array_equal(log, serial_log)
    assert crews[0].struck == 1 and crews[0].victim.returncode == -signal.SIGKILL
    assert crews[0].victim is not crews[0].members[1][0]
    assert all(process.returncode is not None for process, _ in crews[0].members)  # none is left


def test_a_worker_that_always_dies_is_reported(monkeypatch):
    def serve(connection, config, seed):
        connection.recv_bytes()
        os._exit(3)

    monkeypatch.setitem(ch.PoolEvaluator.start.__globals__, "serve", serve)
    with (
        contextlib.closing(ch.PoolEvaluator(BODY, 5, 2)) as crew,
        pytest.raises(RuntimeError, match="died three times"),
    ):
        crew.evaluate(ch.empty_log(BODY))


def test_a_search_resumes_from_scores_alone(tmp_path, serial_log):
    save_checkpoint(tmp_path / "log.safetensors", {"log": serial_log[:2]}, config=BODY)
    state = load_checkpoint(tmp_path / "log.safetensors", BODY)["state"]
    assert set(state) == {"log"}
    rest = last(ch.search(BODY, 5, state)).state()["log"]
    np.testing.assert_array_equal(rest, serial_log)
    assert last(ch.search(BODY, 5, {"log": rest})).step == BODY.generations
    *_, rebuilt = ch.parents_of(BODY, 5, np.vstack([rest, rest[:1]]))
    worker = ch.Worker(BODY, 5)
    worker.hear(rest)
    np.testing.assert_array_equal(rebuilt.weights, worker.parent.weights)


def test_messages_carry_scalars_and_statistics_only():
    """What is sent depends on the observations' size, never on the number of parameters."""
    sent = {}
    for env_id, actions, observations in (("HalfCheetah-v5", 6, 17), ("Swimmer-v5", 2, 8)):
        config = ch.SearchConfig(env_id, generations=6, horizon=10)
        assert ch.first_parent(config).weights.shape == (actions, observations)
        sent[env_id], with_parents = ch.traffic(config, seed=0)
        news, replies = 2 * 8 * (16 + 1 + 2 * observations), 8 * 8 * (2 + 1 + 2 * observations)
        assert replies <= sent[env_id] <= news + replies + 2 * 300  # 300: what wraps a message
        parents = 2 * 8 * (actions * observations + 1 + 2 * observations)
        assert replies + parents <= with_parents <= replies + parents + 2 * 400
    assert sent["HalfCheetah-v5"] - sent["Swimmer-v5"] == pytest.approx(
        8 * 2 * 9 * (8 + 2 * 5 / 6), rel=0.01
    )


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform == "darwin", reason="Ray runs a cluster of several nodes on Linux only."
)
def test_a_ray_cluster_loses_a_node_and_nothing_else(serial_log, monkeypatch):
    """Two real nodes on this machine, a worker on each; one is taken away in mid-generation."""
    monkeypatch.setenv(PATIENCE, "120")
    memory = {"object_store_memory": 10**8}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **memory})
    extra = cluster.add_node(num_cpus=1, **memory)
    seen = []

    def strike(crew):
        seen.append([node["Alive"] for node in ray.nodes()])
        cluster.add_node(num_cpus=1, **memory)
        cluster.remove_node(extra, allow_graceful=False)
        deadline = time.monotonic() + 90
        while all(node["Alive"] for node in ray.nodes()) and time.monotonic() < deadline:
            time.sleep(0.2)  # the cluster notices

    class Counting(striking(ch.RayEvaluator, strike)):
        def start(self):
            seen.append("worker")
            return super().start()

    try:
        evaluator = partial(Counting, address=cluster.address)
        log = last(ch.search(BODY, 5, evaluator=evaluator, workers=2)).state()["log"]
    finally:
        ray.shutdown()
        cluster.shutdown()
    np.testing.assert_array_equal(log, serial_log)
    assert seen == ["worker", "worker", [True, True], "worker"]  # two nodes; one worker replaced


def failing(times, then, calls):
    """``ray.init`` of a machine so busy that Ray does not start ``times`` times."""

    def init(*arguments, **settings):
        calls.append(arguments)
        if len(calls) <= times:
            raise Exception("The current node timed out during startup.\nThis could happen because")
        return then(*arguments, **settings)

    return init


@pytest.mark.slow
def test_ray_starts_by_itself_at_the_second_attempt_and_gives_the_same_bits(
    serial_log, monkeypatch, capsys
):
    calls = []
    monkeypatch.setenv(PATIENCE, "120")
    monkeypatch.setattr(ray, "init", failing(1, ray.init, calls))
    log = last(ch.search(BODY, 5, evaluator=ch.ray_or_pool, workers=2)).state()["log"]
    np.testing.assert_array_equal(log, serial_log)
    assert len(calls) == 2 and capsys.readouterr().out == "" and not ray.is_initialized()


def test_a_pool_takes_over_where_ray_does_not_start(serial_log, monkeypatch, capsys):
    calls, made = [], []
    pool = ch.PoolEvaluator
    monkeypatch.delenv(PATIENCE, raising=False)
    monkeypatch.setattr(ray, "init", failing(99, None, calls))
    monkeypatch.setitem(
        ch.ray_or_pool.__globals__,
        "PoolEvaluator",
        lambda *arguments: made.append(arguments) or pool(*arguments),
    )
    log = last(ch.search(BODY, 5, evaluator=ch.ray_or_pool, workers=2)).state()["log"]
    np.testing.assert_array_equal(log, serial_log)
    sentence = "Ray (local) did not start in time, tried twice; a process pool does its work.\n"
    assert capsys.readouterr().out == sentence and len(calls) == 2 and made == [(BODY, 5, 2)]
    assert float(os.environ[PATIENCE]) > 30  # Ray is given longer than it gives itself


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_body_learns_to_move(seed):
    config = ch.SearchConfig(generations=30, horizon=200)
    progress = last(ch.search(config, seed, evaluator=ch.PoolEvaluator, workers=2))
    best = ch.fastest_parent(config, seed, progress.state()["log"])
    reached = ch.body_score(best, ch.make_body(config), (10**7, seed), 5)
    assert reached > ch.random_body_return(config, 10, seed) + 150


@pytest.mark.parametrize("change, message", [
    ({"shards": 3}, "8 directions do not fill 3 shards"),
    ({"noise": 0.5}, "noise is 0.5; it has to lie between"),
    ({"directions": 4, "shards": 4, "kept": 8}, "kept is 8, but there are 4 directions"),
])  # fmt: skip
def test_impossible_searches_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ch.SearchConfig(**change)


# The model of scaling, samples, and the chapter as a whole


METHODS = (
    "evolution, noise redrawn",
    "evolution, noise table",
    "gradient, one server",
    "gradient, ring",
)


@pytest.mark.parametrize("method", METHODS)
def test_model_scales_perfectly_where_nothing_is_in_the_way(method):
    """A policy of no parameters and very long, equal episodes: only the work counts."""
    even = {"evaluations": np.full(10, 2e6), "draw": 1e-8, "weigh": 1e-9}
    for workers in (1, 2, 360, 1440):
        seconds = ch.modelled_seconds(method, workers, even, 0)
        assert seconds == pytest.approx(1440 * 2e6 / workers, rel=1e-6)
    uneven = {**even, "evaluations": np.array([1e6, 3e6])}
    assert ch.modelled_seconds(method, 1440, uneven, 0) == pytest.approx(
        3e6, rel=1e-6
    )  # the slowest


def test_model_orders_the_methods_as_their_traffic_says():
    free = {"evaluations": np.zeros(1), "draw": 1e-8, "weigh": 1e-9}
    seconds = {
        (m, n, d): ch.modelled_seconds(m, n, free, d)
        for m in METHODS
        for n in (18, 180)
        for d in (10**4, 10**6)
    }
    redrawn, table, server, ring = METHODS
    for workers in (18, 180):
        assert seconds[table, workers, 10**6] < seconds[redrawn, workers, 10**6]
    assert seconds[server, 180, 10**6] > 8 * seconds[server, 18, 10**6]  # one card for everybody
    assert seconds[ring, 180, 10**6] < 2 * seconds[ring, 18, 10**6]  # latency only
    assert seconds[server, 18, 10**6] > 50 * seconds[server, 18, 10**4]
    hub = lambda n: ch.modelled_seconds(table, n, free, 0)
    assert hub(180) > 2 * hub(18)  # our own hub saturates too


@pytest.mark.slow
def test_gradient_method_counts_its_steps():
    steps = ch.ppo_steps_to_solve(seed=1)
    assert 2000 <= steps < 200_000 and steps % 8 == 0


def test_first_success_counts_the_steps_so_far(monkeypatch):
    progresses = [
        SimpleNamespace(step=i, state=dict, metrics={"env_steps": 10 * i}) for i in (1, 2, 3)
    ]
    scores, seeds = iter([100, 480]), []
    spy = lambda params, seed: seeds.append(seed) or next(scores)
    monkeypatch.setitem(ch.first_success.__globals__, "score", spy)
    assert ch.first_success(iter(progresses), lambda state: None, 0) == 20
    spy = lambda params, seed: seeds.append(seed) or 474
    monkeypatch.setitem(ch.first_success.__globals__, "score", spy)
    assert ch.first_success(iter(progresses), lambda state: None, 1) == 30  # never: all its steps
    assert len(set(seeds)) == 2 + 3  # seed 1's first check is not seed 0's second


# Every measurement, once and small

SIZES = {
    "genetic": {"population": 20, "generations": 2, "episodes": 2},
    "cartpole_es": {"children": 10, "generations": 2},
    "sweep": {"population": 20, "generations": 2, "episodes": 1},
    "halfcheetah": {"generations": 2, "horizon": 10},
    "traffic": {"generations": 2, "horizon": 10},
    "scaling": {"generations": 3, "horizon": 10},
}
USES = ("evolve", "evolve_parent", "search", "champion_of", "fastest_parent", "first_success", "score",
        "random_return_of", "random_body_return", "_on_step", "learn")  # fmt: skip


GENETIC = {"evolve", "champion_of", "score", "random_return_of"}
BEGINNINGS = {
    "genetic": GENETIC,
    "genetic_sampled": GENETIC,
    "genetic_layerwise": GENETIC,
    "sweep": {"evolve"},
    "cartpole_es": {"evolve_parent", "score", "random_return_of"},
    "halfcheetah": {"search", "fastest_parent", "measure_halfcheetah", "random_body_return"},
    "samples": {"evolve", "evolve_parent", "score", "learn", "_on_step"},
}


def small(measurement):
    """Its config, cut to a second's work."""
    sizes = SIZES.get(measurement.name.removesuffix("_sampled").removesuffix("_layerwise"), {})
    return dataclasses.replace(measurement.config, **sizes) if sizes else measurement.config


@pytest.fixture
def first_observations(monkeypatch):
    """Every first observation and every seed of an environment here: (the function that asked for it, bytes)."""
    seen = []

    def spied(reset):
        def spy(self, *, seed=None, options=None):
            obs, info = reset(self, seed=seed, options=options)
            frame = sys._getframe(1)
            while frame and not (name := frame.f_code.co_name).startswith("measure_"):
                if name in USES:
                    break
                frame = frame.f_back
            if seed is not None:
                use = frame.f_code.co_name if frame else ""
                seen.extend((use, row.tobytes()) for row in np.atleast_2d(obs))
                seen.append((use, f"stream {seed}".encode()))  # whatever the number of carts
            return obs, info

        return spy

    for made in (CartPoleVectorEnv, CartPoleEnv, MujocoEnv):
        monkeypatch.setattr(made, "reset", spied(made.reset))
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("measurement", ch.MEASUREMENTS, ids=lambda m: m.name)
def test_a_measurement_finds_what_it_promises_on_streams_of_its_own(
    measurement, monkeypatch, first_observations
):
    """Neither two seeds nor a run, its selection, its score and its floor share an episode's beginning."""
    names = measurement.measure.__globals__
    monkeypatch.setitem(ch.SWEEPS, "population", (20,))
    monkeypatch.setitem(ch.SWEEPS, "tournament", (0.2,))
    monkeypatch.setitem(ch.SWEEPS, "mutation_rate", (0.01,))
    if measurement.name == "halfcheetah":
        monkeypatch.setitem(names, "PoolEvaluator", ch.SerialEvaluator)  # where the spy can see
    if measurement.row in ("E2", "E3"):  # timed episodes score nothing
        monkeypatch.setitem(names, "evaluation_speeds", lambda *arguments: (1.0, 2.0, 3.0))
    if measurement.name == "samples":  # solved at the first check
        score, returns = ch.score, ch.episode_returns
        monkeypatch.setitem(names, "score", lambda *a, **k: 475 + 0 * score(*a, **k))
        monkeypatch.setitem(
            names, "episode_returns", lambda *a: np.full(100, 475) + 0 * returns(*a)
        )
        monkeypatch.setitem(ch.DQN_SETTINGS, "gradient_steps", 1)
        monkeypatch.setitem(ch.PPO_SETTINGS, "n_epochs", 1)
    owners = {}
    for seed in (1, 2):
        found = measurement.measure(small(measurement), seed)
        assert {metric.name for metric in measurement.metrics} <= set(found.metrics)
        assert set(found.baselines) <= set(found.metrics)
        numbers = [*found.metrics.values(), *found.baselines.values()]
        assert np.isfinite(numbers).all() and all(map(len, found.curves.values()))
        for use, beginning in first_observations:
            owners.setdefault(beginning, set()).add((seed, use))
        first_observations.clear()
    shared = {frozenset(who) for who in owners.values() if len(who) > 1}
    if (
        measurement.name == "sweep"
    ):  # the same first generations for each value, but not for each seed
        assert all(len({seed for seed, _ in who}) == 1 for who in shared)
    else:
        assert not shared
    uses = {use for who in owners.values() for _, use in who}
    assert uses == BEGINNINGS.get(measurement.name, set())
