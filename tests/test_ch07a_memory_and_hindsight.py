"""Chapter 07a: hindsight and bandits against enumeration and loops, the wiring of the updates, resumes, measures."""

import functools
import itertools
import math
from contextlib import closing

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlbook_utils.checkpoint import load_checkpoint, save_checkpoint
from rlbook_utils.definitions import load_chapter
from rlbook_utils.exercises import check

torch.set_num_threads(1)
ch = load_chapter("ch07a_memory_and_hindsight")
TINY = {"cycles": 2, "arms": 2, "updates": 3, "batch_size": 16, "judged": 1}


def last(progresses):
    *_, progress = progresses
    return progress


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if torch.is_tensor(one) or isinstance(one, np.ndarray):
        return torch.equal(torch.as_tensor(one), torch.as_tensor(other))
    return one == other


def through_a_file(state, tmp_path):
    save_checkpoint(tmp_path / "run", state)
    return load_checkpoint(tmp_path / "run")["state"]


# Bit-flip: the world


def test_chance_of_success_against_all_sequences_of_flips():
    for bits in (2, 3, 4):
        solved = total = 0
        for goal in itertools.product((0, 1), repeat=bits):
            if not any(goal):
                continue
            for flips in itertools.product(range(bits), repeat=bits):
                state = [0] * bits
                total += 1
                for flip in flips:
                    state[flip] ^= 1
                    if tuple(state) == goal:
                        solved += 1
                        break
        assert ch.chance_of_success(bits) == pytest.approx(solved / total, rel=1e-9)


def test_no_blind_sequence_meets_more_goals_than_the_bound():
    for bits in (2, 3, 4):
        best = 0
        for flips in itertools.product(range(bits), repeat=bits):
            state, met = [0] * bits, set()
            for flip in flips:
                state[flip] ^= 1
                met.add(tuple(state))
            best = max(best, len(met - {(0,) * bits}))
        assert ch.blind_bound(bits) == pytest.approx(best / (2**bits - 1))
        assert ch.chance_of_success(bits) < ch.blind_bound(bits)


def some_film(bits=4, worlds=300, seed=0):
    rng = np.random.default_rng(seed)
    return ch.play_flips(ch.random_flips(rng), worlds, bits, rng), rng


def test_play_flips_against_one_world_at_a_time():
    film, _ = some_film()
    for world in range(300):
        state, playing = film.states[0, world].copy(), True
        assert (state != film.goals[world]).any()
        for t in range(4):
            assert film.alive[t, world] == playing
            if playing:
                state[film.actions[t, world]] ^= 1
            np.testing.assert_array_equal(film.states[t + 1, world], state)
            playing = playing and (state != film.goals[world]).any()
        assert film.solved[world] == (not playing)
    assert abs(film.solved.mean() - ch.chance_of_success(4)) < 0.1


def test_worlds_are_drawn_evenly_and_never_solved():
    states, goals = ch.draw_flips(40_000, 2, np.random.default_rng(0))
    distance = (states != goals).sum(1)
    assert distance.min() == 1
    for bits in (states, goals):
        np.testing.assert_allclose(bits.mean(0), 0.5, atol=0.01)


def test_the_rule_takes_as_many_steps_as_bits_are_wrong():
    rng = np.random.default_rng(0)
    film = ch.play_flips(ch.first_wrong, 500, 12, rng)
    assert film.solved.all()
    np.testing.assert_array_equal(film.alive.sum(0), (film.states[0] != film.goals).sum(1))


# Bit-flip: hindsight


@pytest.mark.parametrize("how", ["future", "final", "others"])
def test_relabelled_steps_keep_what_happened_and_are_judged_anew(how):
    film, rng = some_film()
    rows, own = (
        ch.as_rows(film, goals) for goals in (ch.RELABEL[how](film, rng), ch.own_goals(film))
    )
    for name in ("states", "actions", "next_states"):
        np.testing.assert_array_equal(getattr(rows, name), getattr(own, name))
    flipped = rows.states.copy()
    flipped[np.arange(len(flipped)), rows.actions] ^= 1
    np.testing.assert_array_equal(flipped, rows.next_states)
    there = (rows.next_states == rows.goals).all(1)
    np.testing.assert_array_equal(rows.terminated, there)
    np.testing.assert_array_equal(rows.rewards, there - 1.0)
    assert own.terminated.sum() == film.solved.sum()


def test_later_goals_lie_in_the_own_future():
    film, rng = some_film(bits=6, worlds=2000)
    goals = ch.later_goals(film, rng)
    seen = set()
    for world in range(2000):
        length = int(film.alive[:, world].sum())
        for t in range(length):
            ahead = film.states[t + 1 : length + 1, world]
            assert (ahead == goals[t, world]).all(1).any()
            if t == 0 and len(np.unique(ahead, axis=0)) == 6:
                seen |= set(np.flatnonzero((ahead == goals[t, world]).all(1)).tolist())
    assert seen == set(range(6))  # any of them, the next and the last included
    ends = ch.last_goals(film, rng)
    assert (ends[0] == film.states[film.alive.sum(0), np.arange(2000)]).all()


def test_others_goals_are_those_of_the_neighbour():
    film, _ = some_film(bits=10, worlds=50)
    mine = ch.later_goals(film, np.random.default_rng(3))
    theirs = ch.others_goals(film, np.random.default_rng(3))
    for world in range(50):
        np.testing.assert_array_equal(theirs[:, world], mine[:, world - 1])
    assert (
        ch.as_rows(film, theirs).terminated.mean() < 0.02 < ch.as_rows(film, mine).terminated.mean()
    )


class Kept:
    """A replay that keeps what it is given."""

    def __init__(self):
        self.rows = []

    def add(self, rows):
        self.rows.append(rows)


def test_what_a_cycle_leaves_in_the_replay():
    film, _ = some_film(bits=5, worlds=40)
    replay = Kept()
    ch.remember(replay, film, ch.FlipConfig(bits=5, relabelled=3), 1, 0)
    own, *others = replay.rows
    assert len(others) == 3
    assert same(list(own), list(ch.as_rows(film, ch.own_goals(film))))
    for rows in others:
        flipped = rows.states.copy()
        flipped[np.arange(len(flipped)), rows.actions] ^= 1
        np.testing.assert_array_equal(flipped, rows.next_states)
        np.testing.assert_array_equal(rows.terminated, (rows.next_states == rows.goals).all(1))
        assert 0.1 < rows.terminated.mean() < 0.9
    assert (others[0].goals != others[1].goals).any()
    again = Kept()
    ch.remember(again, film, ch.FlipConfig(bits=5, relabelled=3), 1, 0)
    assert same([list(r) for r in replay.rows], [list(r) for r in again.rows])


def faulty(fault):
    film, _ = some_film(bits=5, worlds=40)
    replay, sound = Kept(), Kept()
    ch.remember(replay, film, ch.FlipConfig(bits=5, relabelled=1, fault=fault), 1, 0)
    ch.remember(sound, film, ch.FlipConfig(bits=5, relabelled=1), 1, 0)
    return film, replay.rows, sound.rows


def test_each_fault_is_in_its_place_and_nowhere_else():
    film, (own, other), (sound_own, sound) = faulty("last action")
    assert same(list(own), list(sound_own))
    lasts = film.actions[film.alive.sum(0) - 1, np.arange(40)]
    np.testing.assert_array_equal(other.actions, np.broadcast_to(lasts, film.actions.shape)[film.alive])  # fmt: skip
    assert same(list(other._replace(actions=sound.actions)), list(sound))

    _, (own, other), (sound_own, sound) = faulty("old end")
    assert same(list(own), list(sound_own))
    np.testing.assert_array_equal(other.terminated, own.terminated)
    assert same(list(other._replace(terminated=sound.terminated)), list(sound))

    film, (own, other), (sound_own, _) = faulty("live start")
    first = np.zeros(film.alive.shape, bool)
    first[0] = True
    first = first[film.alive]
    ends = film.states[film.alive.sum(0), np.arange(40)]
    for rows in (own, other):
        np.testing.assert_array_equal(rows.states[first], ends)
        np.testing.assert_array_equal(rows.states[~first], sound_own.states[~first])
        np.testing.assert_array_equal(rows.next_states, sound_own.next_states)


def test_as_printed_has_all_faults_and_none_has_none():
    assert all(ch.FlipConfig(fault="as printed").has(fault) for fault in ch.FAULTS)
    assert not any(ch.FlipConfig().has(fault) for fault in ch.FAULTS)
    assert [f for f in ch.FAULTS if ch.FlipConfig(fault="old end").has(f)] == ["old end"]


# Bit-flip: the update


def learner(**changes):
    torch.manual_seed(0)
    config = ch.FlipConfig(bits=3, discount=0.5, polyak=0.25, **changes)
    agent = ch.FlipAgent(config, "cpu")
    with torch.no_grad():
        for p in agent.target_net.parameters():
            p.add_(0.05 * torch.randn_like(p) - 0.05)
    film, rng = some_film(bits=3, worlds=40)
    return agent, ch.as_rows(film, ch.later_goals(film, rng))


def test_the_update_of_the_flip_agent():
    agent, rows = learner()
    slow = [p.clone() for p in agent.target_net.parameters()]
    expected = []
    for s, g, a, r, end, n in zip(*rows, strict=True):
        one = lambda net, state, goal: net(torch.tensor([*state, *goal]).float() * 2 - 1)
        target = r + (0 if end else 0.5 * one(agent.target_net, n, g).max().item())
        expected.append((one(agent.net, s, g)[a].item() - min(0.0, max(-2.0, target))) ** 2)
    assert ch.learn_flips(agent, rows) == pytest.approx(np.mean(expected), rel=1e-4)
    for old, now, fast in zip(
        slow, agent.target_net.parameters(), agent.net.parameters(), strict=True
    ):
        torch.testing.assert_close(now, old + 0.25 * (fast - old))


def test_targets_stay_between_the_worst_return_and_nothing():
    agent, rows = learner()
    with torch.no_grad():
        agent.target_net[2].bias += 10
        assert (ch.flip_targets(agent, rows) == 0).all()
        agent.target_net[2].bias -= 30
        targets = ch.flip_targets(agent, rows)
    assert targets.min() == -2 and (targets[torch.from_numpy(rows.terminated)] == 0).all()


def test_the_target_stands_still_only_where_the_fault_says_so():
    for fault, still in (("none", False), ("still target", True), ("as printed", True)):
        agent, rows = learner(fault=fault)
        before = [p.clone() for p in agent.target_net.parameters()]
        ch.learn_flips(agent, rows)
        assert same(before, list(agent.target_net.parameters())) == still


def test_the_agent_explores_as_often_as_it_says():
    agent, _ = learner()
    states, goals = ch.draw_flips(40_000, 3, np.random.default_rng(0))
    greedy = agent.act(states, goals, 0.0, np.random.default_rng(1))
    noisy = agent.act(states, goals, 0.3, np.random.default_rng(1))
    assert (greedy != noisy).mean() == pytest.approx(0.3 * 2 / 3, abs=0.01)
    with torch.no_grad():
        values = ch.values_of(agent.net, states, goals).numpy()
    np.testing.assert_array_equal(greedy, values.argmax(1))


def test_flip_training_resumes_exactly(tmp_path):
    config = ch.FlipConfig(bits=4, cycles=3, updates=3)
    whole, first = list(ch.train_flips(config, 1)), next(ch.train_flips(config, 1))
    start = through_a_file(first.state(), tmp_path)
    rest = list(ch.train_flips(config, 1, state=start))
    assert [p.step for p in rest] == [2, 3]
    for one, other in zip(whole[1:], rest, strict=True):
        assert one.metrics["loss"] == other.metrics["loss"]
        assert one.metrics["success"] == other.metrics["success"]
    assert same(whole[-1].state()["agent"], rest[-1].state()["agent"])


def test_training_plays_and_learns_as_the_config_says(monkeypatch):
    """Counts of worlds, updates and rows; the same episodes and updates with and without hindsight; the falling rate."""
    for copies in (0, 2):
        config = ch.FlipConfig(bits=4, cycles=4, worlds=6, updates=5, batch_size=7, relabelled=copies)  # fmt: skip
        rates, sizes = [], []

        def spy(agent, rows, rates=rates, sizes=sizes):
            rates.append(agent.optimiser.param_groups[0]["lr"])
            sizes.append(len(rows.actions))
            return 0.0

        monkeypatch.setattr(ch, "learn_flips", spy)
        films = last(ch.train_flips(config, 1)).state()["films"]
        assert len(films) == 4 and films[0].goals.shape == (6, 4)
        assert sizes == [7] * 20
        np.testing.assert_allclose(rates[::5], 2e-3 * np.array([1, 0.75, 0.5, 0.25]))


def epsilons_of(monkeypatch):
    """A list to which each action of a flip agent adds its epsilon."""
    found, plain = [], ch.FlipAgent.act

    def spy(self, states, goals, epsilon, rng):
        found.append(epsilon)
        return plain(self, states, goals, epsilon, rng)

    monkeypatch.setattr(ch.FlipAgent, "act", spy)
    return found


def test_training_plays_with_the_epsilon_of_the_config(monkeypatch):
    found = epsilons_of(monkeypatch)
    monkeypatch.setattr(ch, "success_of", lambda agent, worlds, rng: 0.0)
    config = ch.FlipConfig(bits=4, cycles=2, worlds=6, updates=1, epsilon=0.37)
    last(ch.train_flips(config, 1))
    assert found == [0.37] * 2 * 4


def test_the_score_is_of_the_greedy_agent(monkeypatch):
    agent = ch.FlipAgent(ch.FlipConfig(bits=4, epsilon=0.37), "cpu")
    greedy = functools.partial(agent.act, epsilon=0.0, rng=np.random.default_rng(0))
    film = ch.play_flips(greedy, 50, 4, np.random.default_rng(1))
    found = epsilons_of(monkeypatch)
    monkeypatch.setattr(ch, "draw_flips", lambda *_: (film.states[0], film.goals))
    assert ch.success_of(agent, 50, np.random.default_rng(2)) == film.solved.mean()
    assert found == [0.0] * 4


def test_looking_at_the_score_does_not_disturb_the_training(monkeypatch):
    config = ch.FlipConfig(bits=4, cycles=2, updates=2)
    state = last(ch.train_flips(config, 1)).state()
    monkeypatch.setattr(ch, "success_of", lambda agent, worlds, rng: rng.random())
    assert same(state["agent"], last(ch.train_flips(config, 1)).state()["agent"])


def test_the_pictures_of_an_episode():
    agent = ch.FlipAgent(ch.FlipConfig(bits=4), "cpu")
    pictures = ch.flip_pictures(agent, 1)
    assert 2 <= len(pictures) <= 5 and all(p[1:4] == b"PNG" for p in pictures)


@pytest.mark.slow
def test_hindsight_learns_and_without_it_does_not():
    found = {}
    for relabelled in (0, 4):
        config = ch.FlipConfig(bits=15, cycles=60, relabelled=relabelled)
        found[relabelled] = [last(ch.train_flips(config, s)).metrics["success"] for s in (1, 2, 3)]
    assert max(found[0]) < 0.1 and min(found[4]) > 0.8


# FetchReach


@pytest.fixture(scope="module")
def reach_film():
    return ch.play_arms(ch.flailing(0), 2, 3)


def test_rewards_are_the_environments(reach_film):
    film = reach_film
    goals = np.random.default_rng(0).normal(film.achieved[1:], 0.04)
    with closing(gym.make("FetchReach-v4")) as env:
        pairs = zip(film.achieved[1:].reshape(-1, 3), goals.reshape(-1, 3), strict=True)
        theirs = [env.unwrapped.compute_reward(a, g, {}) for a, g in pairs]
    rows = ch.reach_rows(film, goals, 0.9)
    np.testing.assert_array_equal(rows.rewards, theirs)
    assert 0 < -np.mean(theirs) < 1


def test_an_episode_is_the_environments_and_a_used_arm_is_as_good_as_new(reach_film):
    with closing(gym.make("FetchReach-v4")) as env:
        ch.play_arms(ch.flailing(5), 1, 9, env)
        again = ch.play_arms(ch.flailing(0), 2, 3, env)
        assert all(same(one, other) for one, other in zip(again, reach_film, strict=True))
        seen, _ = env.reset(seed=ch.spread(3, 2)[0])
        for t in range(50):
            np.testing.assert_array_equal(reach_film.obs[t, 0], seen["observation"])
            np.testing.assert_array_equal(reach_film.achieved[t, 0], seen["achieved_goal"])
            seen, reward, *_, truncated, _ = env.step(reach_film.actions[t, 0].astype(np.float32))
            ours = ch.rewards_of(reach_film.achieved[t + 1, 0], reach_film.goals[0])
            assert ours == reward
        assert truncated and t + 1 == ch.DECISIONS
    assert (reach_film.achieved[0] != reach_film.achieved[-1]).any()
    np.testing.assert_allclose(reach_film.obs[..., :3], reach_film.achieved)


def test_rows_keep_their_own_action_and_what_followed(reach_film):
    film = reach_film
    goals = ch.later_places(film, np.random.default_rng(1))
    rows = ch.reach_rows(film, goals, 0.9)
    for t, arm in ((0, 0), (7, 1), (49, 1)):
        i = 2 * t + arm
        np.testing.assert_allclose(rows.actions[i], film.actions[t, arm], rtol=1e-6)
        np.testing.assert_allclose(rows.obs[i], [*film.obs[t, arm], *goals[t, arm]], rtol=1e-6)
        after = [*film.obs[t + 1, arm], *goals[t, arm]]
        np.testing.assert_allclose(rows.next_obs[i], after, rtol=1e-6)
    assert (rows.discounts == np.float32(0.9)).all()


def test_later_places_are_later_and_its_own(reach_film):
    film, index = reach_film, set()
    for seed in range(5):
        places = ch.later_places(film, np.random.default_rng(seed))
        theirs = ch.others_places(film, np.random.default_rng(seed))
        np.testing.assert_array_equal(theirs[:, 0], places[:, 1])
        for t, arm in itertools.product(range(50), range(2)):
            found = [k for k in range(51) if (places[t, arm] == film.achieved[k, arm]).all()]
            assert max(found) > t
            index |= {k - t for k in found if k > t and t == 47}
    assert (places[-1] == film.achieved[-1]).all()
    assert index == {1, 2, 3}


def test_what_an_arms_cycle_leaves_in_the_replay(reach_film):
    replay, rng = Kept(), np.random.default_rng(0)
    ch.store_reach(replay, reach_film, ch.ReachConfig(relabelled=3), rng)
    own, *others = replay.rows
    assert len(others) == 3 and (own.rewards == -1).mean() > 0.5
    np.testing.assert_allclose(
        own.obs[:, 10:], np.tile(reach_film.goals, (50, 1)).astype(np.float32)
    )
    for rows in others:
        np.testing.assert_array_equal(rows.actions, own.actions)
        np.testing.assert_array_equal(rows.obs[:, :10], own.obs[:, :10])
        assert (rows.rewards == 0).mean() > (own.rewards == 0).mean()
    alone = Kept()
    ch.store_reach(alone, reach_film, ch.ReachConfig(relabelled=0), rng)
    assert len(alone.rows) == 1


def test_the_rule_reaches_and_random_pushes_do_not():
    assert ch.play_arms(ch.pushing(), 5, 3).solved.all()
    film = ch.play_arms(ch.flailing(1), 5, 3)
    assert film.solved.mean() < 0.5 and np.abs(film.actions).max() <= 1


def rows_of_arms(seed=0, count=32):
    rng = np.random.default_rng(seed)
    obs, next_obs = rng.normal(size=(2, count, 13))
    parts = (obs, rng.uniform(-1, 1, (count, 4)), -np.ones(count), np.full(count, 0.98), next_obs)
    return ch.Experience(*(part.astype(np.float32) for part in parts))


def test_the_arms_update_is_that_of_a_slow_learner():
    config = ch.ReachConfig(**TINY, effort=0.5)
    agent, slow = ch.ReachAgent(config, 1, "cpu"), ch.ReachAgent(config, 1, "cpu")
    for one in (agent, slow):
        one.scale = np.stack([np.full(13, 0.3), np.full(13, 2.0)]).astype(np.float32)
        with torch.no_grad():
            one.parts.target_critics[0][-1].bias += 0.7  # some targets are cut, some are not
    rows, parts = rows_of_arms(), slow.parts
    obs, after = ((torch.from_numpy(o) - 0.3) / 2 for o in (rows.obs, rows.next_obs))
    actions = torch.from_numpy(rows.actions)
    q = lambda critic, obs, actions: critic(torch.cat([obs, actions], 1))[:, 0]
    with torch.no_grad():
        values = q(parts.target_critics[0], after, parts.target_actor(after))
        targets = torch.minimum(-1 + 0.98 * values, torch.zeros(32)).maximum(torch.tensor(-50.0))
    loss = ((q(parts.critics[0], obs, actions) - targets) ** 2).mean()
    parts.critic_optimiser.zero_grad()
    loss.backward()
    parts.critic_optimiser.step()
    own = parts.actor(obs)
    parts.actor_optimiser.zero_grad()
    (0.5 * (own**2).mean() - q(parts.critics[0], obs, own).mean()).backward()
    parts.actor_optimiser.step()
    with torch.no_grad():
        for follower, leader in ((parts.target_actor, parts.actor), (parts.target_critics, parts.critics)):  # fmt: skip
            for one, other in zip(follower.parameters(), leader.parameters(), strict=True):
                one += config.follow * (other - one)
    assert ch.learn_reach(agent, rows) == pytest.approx(loss.item(), rel=1e-5)
    for ours, theirs in zip(agent.parts[:4], parts[:4], strict=True):
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_targets_of_the_arm_are_never_above_nothing(monkeypatch):
    config, seen = ch.ReachConfig(**TINY), []
    agent = ch.ReachAgent(config, 1, "cpu")
    with torch.no_grad():
        agent.parts.target_critics[0][-1].bias += 40
    plain = torch.nn.functional.mse_loss
    monkeypatch.setattr(ch.F, "mse_loss", lambda q, y: seen.append(y) or plain(q, y))
    ch.learn_reach(agent, rows_of_arms())
    with torch.no_grad():
        agent.parts.target_critics[0][-1].bias -= 400
    ch.learn_reach(agent, rows_of_arms())
    assert (seen[0] == 0).all() and torch.allclose(seen[1], torch.tensor(-50.0))


def test_exploring_arms_are_random_as_often_as_they_say():
    agent = ch.ReachAgent(ch.ReachConfig(noise=0.0, random_share=0.3), 1, "cpu")
    rng = np.random.default_rng(0)
    obs, goals = rng.normal(size=(20_000, 10)), rng.normal(size=(20_000, 3))
    moved = (agent.explore(rng)(obs, goals) != agent.act(obs, goals)).any(1)
    assert moved.mean() == pytest.approx(0.3, abs=0.015)
    noisy = ch.ReachAgent(ch.ReachConfig(noise=0.2, random_share=0.0), 1, "cpu")
    pushed = noisy.explore(rng)(obs, goals) - noisy.act(obs, goals)
    assert pushed.std() == pytest.approx(0.2, abs=0.02)


def test_arms_explore_in_training_and_not_in_the_score(monkeypatch):
    """Arms that explore push all the way to one side here: only such pushes are learned from, and none is judged."""
    judged, play = [], ch.play_arms

    def spy(act, arms, seed, env=None):
        film = play(act, arms, seed, env)
        judged.extend([film.actions] if seed[0] == ch.REACH_SCORING else [])
        return film

    monkeypatch.setattr(ch, "play_arms", spy)
    aside = lambda self, rng: lambda obs, goals: np.full((len(obs), 4), 1.0)
    monkeypatch.setattr(ch.ReachAgent, "explore", aside)
    state = last(ch.train_reach(ch.ReachConfig(**TINY), 1)).state()
    assert (state["replay"]["actions"] == 1).all()
    assert len(judged) == 2 and all((np.abs(actions) < 1).any() for actions in judged)


def test_the_arms_training_resumes_exactly(tmp_path):
    config = ch.ReachConfig(**TINY | {"cycles": 3})
    whole, first = list(ch.train_reach(config, 1)), next(ch.train_reach(config, 1))
    start = through_a_file(first.state(), tmp_path)
    rest = list(ch.train_reach(config, 1, state=start))
    assert [p.step for p in rest] == [2, 3]
    one, other = whole[-1].state(), rest[-1].state()
    assert same(one["agent"], other["agent"]) and same(one["scale"], other["scale"])
    assert len(other["replay"]["rewards"]) == 3 * 2 * 50 * 5
    assert whole[-1].metrics["success"] == rest[-1].metrics["success"]
    assert (one["scale"][1] >= 0.01).all() and not same(one["scale"][0], np.zeros(13))


def test_a_stored_arm_plays_as_the_trained_one():
    config = ch.ReachConfig(**TINY)
    state = last(ch.train_reach(config, 1)).state()
    agent = ch.reach_agent(state, config)
    rng = np.random.default_rng(0)
    obs, goals = rng.normal(size=(6, 10)), rng.normal(size=(6, 3))
    other = ch.ReachAgent(config, 7, "cpu")
    other.scale = np.array(state["scale"])
    for part, saved in zip(other.parts, state["agent"], strict=True):
        part.load_state_dict(saved)
    np.testing.assert_array_equal(agent.act(obs, goals), other.act(obs, goals))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_hindsight_reaches(seed):
    config = ch.ReachConfig(judged=1)
    act = ch.reach_agent(last(ch.train_reach(config, seed)).state(), config).act
    assert ch.play_arms(act, 50, (ch.REACH_SCORING, seed)).solved.mean() >= 0.8


# Bandits


@functools.cache
def best_reward(arms, left):
    """The most reward on average from ``arms``, (won, lost) each: memoised recursion, for any number of arms."""
    if not left:
        return 0.0
    values = []
    for k, (won, lost) in enumerate(arms):
        p, rest = (won + 1) / (won + lost + 2), arms[:k] + arms[k + 1 :]
        win, lose = (tuple(sorted((*rest, arm))) for arm in ((won + 1, lost), (won, lost + 1)))
        values.append(p * (1 + best_reward(win, left - 1)) + (1 - p) * best_reward(lose, left - 1))
    return max(values)


def test_bayes_two_against_a_recursion():
    for horizon in (1, 2, 5, 12):
        best = best_reward(((0, 0), (0, 0)), horizon)
        assert ch.bayes_two(horizon)[0] == pytest.approx(best, rel=1e-12)
    assert ch.bayes_two(1)[0] == 0.5
    assert ch.bayes_two(2)[0] == pytest.approx(0.5 + 0.5 * 2 / 3 + 0.5 * 0.5)


def test_the_best_rule_earns_what_it_promises_and_the_others_less():
    rng, value, second = np.random.default_rng(0), *ch.bayes_two(30)
    rules = {
        "bayes": ch.bayes_rule(second),
        "ucb": ch.ucb,
        "thompson": ch.thompson,
        "greedy": ch.greedy,
        "random": ch.at_random,
        "index": ch.index_rule(ch.gittins(30)),
    }
    total = lambda rule: ch.regrets_of(rule, 2, 30, 10_000, rng).sum(1).mean()
    found = {name: total(rule) for name, rule in rules.items()}
    least = ch.least_regret(2, 30, value)
    assert found["bayes"] == pytest.approx(least, abs=0.08)
    assert found["random"] == pytest.approx(30 * (2 / 3 - 1 / 2), abs=0.1)
    assert found["greedy"] > least + 0.04 and found["index"] < least + 0.05
    assert found["ucb"] > found["thompson"] + 0.5 > least + 0.9


def test_gittins_in_its_smallest_cases():
    table = ch.gittins(4)
    assert table[1, 2, 1] == pytest.approx(3 / 5, abs=1e-3)
    # Two pulls left of an arm never tried: 1/2 - c + 1/2 (2/3 - c) = 0 gives c = 5/9.
    assert table[2, 0, 0] == pytest.approx(5 / 9, abs=1e-3)
    assert table[2, 0, 0] < table[3, 0, 0] < table[4, 0, 0]


def test_gittins_against_a_recursion():
    """The charge at which the best stopping rule, found by recursion, is just worth nothing."""

    def worth(charge, won, lost, left):
        if not left:
            return 0.0
        p = (won + 1) / (won + lost + 2)
        ahead = p * worth(charge, won + 1, lost, left - 1)
        return max(0.0, p - charge + ahead + (1 - p) * worth(charge, won, lost + 1, left - 1))

    table = ch.gittins(8)
    for left, won, lost in ((5, 0, 0), (3, 2, 1), (6, 0, 2), (4, 1, 3)):
        low, high = 0.0, 1.0
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if worth(middle, won, lost, left) > 1e-12 else (low, middle)
        assert table[left, won, lost] == pytest.approx(low, abs=2e-3)


def test_thompson_and_ucb_choose_as_they_say():
    rng = np.random.default_rng(0)
    won, lost = np.tile([3, 1], (40_000, 1)), np.tile([1, 1], (40_000, 1))
    share = (ch.thompson(won, lost, 5, rng) == 0).mean()
    draws = np.random.default_rng(1)
    expected = (draws.beta(4, 2, 40_000) > draws.beta(2, 2, 40_000)).mean()
    assert share == pytest.approx(expected, abs=0.01)
    assert (ch.ucb(np.array([[5, 0, 9]]), np.array([[0, 0, 1]]), 3, rng) == 1).all()
    scores = [3 / 4 + math.sqrt(2 * math.log(6) / 4), 1 / 2 + math.sqrt(2 * math.log(6) / 2)]
    assert (ch.ucb(won, lost, 5, rng) == np.argmax(scores)).all()
    won, lost = np.array([[36, 0]]), np.array([[4, 10]])  # 1.34 against 0.88
    assert (ch.ucb(won, lost, 5, rng) == 0).all() and (ch.ucb(won, lost, 5, rng, 9.0) == 1).all()
    assert (ch.greedy(np.array([[0, 3, 1]]), np.array([[0, 2, 0]]), 5, rng) == 2).all()


def test_ties_are_broken_evenly():
    found = ch.largest(np.tile([1.0, 0.0, 1.0], (20_000, 1)), np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(found, minlength=3) / 20_000, [0.5, 0, 0.5], atol=0.02)


def test_regret_is_what_the_best_arm_would_have_paid_more():
    """A rule that always pulls the first arm; and what a rule is told are its own wins and losses."""
    told = []

    def first(won, lost, left, rng):
        told.append((won.copy(), lost.copy(), left))
        return np.zeros(len(won), int)

    found = ch.regrets_of(first, 3, 20, 5_000, np.random.default_rng(0))
    means = np.random.default_rng(0).random((5_000, 3))
    np.testing.assert_allclose(found, np.tile(means.max(1, keepdims=True) - means[:, :1], (1, 20)))
    for t, (won, lost, left) in enumerate(told):
        assert left == 20 - t and not won[:, 1:].any() and not lost[:, 1:].any()
        assert (won[:, 0] + lost[:, 0] == t).all()
    assert np.corrcoef(told[-1][0][:, 0], means[:, 0])[0, 1] > 0.9


# RL²


def test_gae_against_its_definition():
    rng = np.random.default_rng(0)
    rewards, values = rng.random((6, 2)), rng.random((6, 2))
    found = ch.gae(torch.from_numpy(rewards), torch.from_numpy(values), 0.9, 0.7)
    following = np.vstack([values[1:], np.zeros((1, 2))])
    errors = rewards + 0.9 * following - values
    expected = [sum((0.9 * 0.7) ** k * errors[t + k] for k in range(6 - t)) for t in range(6)]
    np.testing.assert_allclose(found, expected)


def small_rl2(**changes):
    config = ch.RL2Config(**({"arms": 3, "horizon": 4, "hidden": 5, "bandits": 50} | changes))
    torch.manual_seed(0)
    net = ch.Recurrent(config)
    torch.nn.init.normal_(net.actor.weight)
    torch.nn.init.normal_(net.critic.weight)
    return config, net


class Spy(torch.nn.Module):
    """Notes what an agent is shown, and passes it on."""

    def __init__(self, net):
        super().__init__()
        self.net, self.critic, self.calls = net, net.critic, []

    def forward(self, now, memory=None):
        self.calls.append((now.clone(), memory))
        return self.net(now, memory)


def test_what_the_recurrent_agent_sees():
    """The last arm and its reward; an empty memory at the start of each trial; no trace of the means."""
    spy = Spy(small_rl2()[1])
    trial = ch.play_trial(spy, 3, 4, 50)
    seen, memories = [call[0][0] for call in spy.calls], [call[1] for call in spy.calls]
    torch.testing.assert_close(torch.stack(seen), trial.seen)
    assert not seen[0].any() and memories[0] is None and all(m.any() for m in memories[1:])
    for t in range(3):
        place = trial.arms[t] + 3 * (trial.rewards[t] == 0)  # won first, then lost
        torch.testing.assert_close(seen[t + 1], torch.eye(6)[place])
    assert set(trial.rewards.unique().tolist()) == {0.0, 1.0}
    assert trial.regrets.min() >= 0 and not trial.log_probs.requires_grad


def test_arms_pay_as_often_as_their_regret_says():
    """Where the regret is r, the pull paid with the chance of the best arm minus r."""
    torch.manual_seed(0)
    net = ch.Recurrent(ch.RL2Config(arms=2))
    trial = ch.play_trial(net, 2, 3, 40_000)
    torch.manual_seed(0)
    ch.Recurrent(ch.RL2Config(arms=2))
    means = torch.rand(40_000, 2)  # the first numbers that the trial draws
    for t in range(3):
        chance = means.gather(1, trial.arms[t][:, None])[:, 0]
        torch.testing.assert_close(trial.regrets[t], means.amax(1) - chance)
        for low in (0.0, 0.45, 0.9):
            some = (chance >= low) & (chance < low + 0.1)
            assert trial.rewards[t][some].mean() == pytest.approx(low + 0.05, abs=0.03)


def test_the_control_forgets():
    for remembers in (True, False):
        net = small_rl2(remembers=remembers)[1]
        seen = ch.play_trial(net, 3, 4, 50).seen
        other = seen.clone()
        other[1] = seen[1].roll(1, 1)  # another past
        assert torch.allclose(net(seen)[0][3], net(other)[0][3]) is not remembers
        assert not torch.allclose(net(seen)[0][1], net(other)[0][1])


def test_the_memory_starts_with_time_scales_from_two_pulls_to_the_trial():
    """Tallec and Ollivier's start, log u with u from 1 to T - 1, and in the gate that keeps.

    PyTorch's GRU has its gates in the order r, z, n, and h' = (1 - z) n + z h: z keeps, so its bias is positive. A memory
    to which nothing else happens shrinks by z = u / (1 + u) a pull, which is a time scale 1 / (1 - z) of 1 + u pulls.
    """
    torch.manual_seed(0)
    hidden, horizon = 400, 100
    memory = ch.Recurrent(ch.RL2Config(arms=2, horizon=horizon, hidden=hidden)).memory
    reset, keep, new = memory.bias_ih_l0.detach().chunk(3)
    scale = keep.exp()
    assert 1 <= scale.min() < 3 and horizon - 4 < scale.max() <= horizon - 1
    assert scale.mean() == pytest.approx(horizon / 2, rel=0.1)  # drawn evenly
    assert not memory.bias_hh_l0.detach().chunk(3)[1].any()
    assert max(reset.abs().max(), new.abs().max()) <= hidden**-0.5  # as PyTorch starts them
    with torch.no_grad():
        for name, part in memory.named_parameters():
            if "weight" in name:
                part.zero_()
            else:
                part[2 * hidden :] = 0
        kept = memory(torch.zeros(1, 1, 4), torch.ones(1, 1, hidden))[1][0, 0]
    torch.testing.assert_close(1 / (1 - kept), 1 + scale, rtol=1e-3, atol=0)


def test_whole_trials_in_one_call_are_the_trials_pull_by_pull():
    for remembers in (True, False):
        net = small_rl2(remembers=remembers)[1]
        trial = ch.play_trial(net, 3, 4, 50)
        log_probs = net(trial.seen)[0].log_softmax(2).gather(2, trial.arms[..., None])[..., 0]
        torch.testing.assert_close(log_probs, trial.log_probs)


def test_the_loss_against_numbers_by_hand():
    config, net = small_rl2(discount=0.9, lam=0.7)
    trial = ch.play_trial(net, 3, 4, 50)
    old = trial.log_probs + torch.linspace(-0.5, 0.5, 200).view(4, 50)  # ratios from .6 to 1.6
    logits, values = (part.detach().numpy() for part in net(trial.seen)[:2])
    p = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    gains = ch.gae((trial.rewards - 0.5) / 10, torch.from_numpy(values), 0.9, 0.7).numpy()
    scaled = (gains - gains.mean()) / gains.std(ddof=1)
    chosen = np.take_along_axis(p, trial.arms.numpy()[..., None], 2)[..., 0]
    ratio = chosen / np.exp(old.numpy())
    low, high = scaled * np.maximum(ratio, 0.8), scaled * np.minimum(ratio, 1.2)  # PPO by cases
    gain, entropy = np.where(scaled > 0, high, low), -(p * np.log(p)).sum(2).mean()
    expected = -gain.mean() + 0.5 * (gains**2).mean() - 0.3 * entropy
    loss = ch.rl2_loss(net, trial._replace(log_probs=old), config, 0.3)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    loss.backward()
    assert all(part.grad.any() for part in net.parameters())
    # The values learn from their own error alone: advantages are constants.
    assert net.critic.bias.grad.item() == pytest.approx(-gains.mean(), rel=1e-3)


def test_regret_of_the_untrained_agent_is_chance():
    torch.manual_seed(0)
    net = ch.Recurrent(ch.RL2Config(arms=2, horizon=5, hidden=4))
    trial = ch.play_trial(net, 2, 5, 20_000)
    np.testing.assert_allclose(trial.regrets.mean(1), 2 / 3 - 1 / 2, atol=0.01)
    np.testing.assert_allclose(trial.rewards.mean(), 0.5, atol=0.01)


def test_each_trial_is_learned_from_as_often_as_the_config_says(monkeypatch):
    config = ch.RL2Config(arms=2, horizon=3, bandits=8, updates=4, hidden=4, epochs=3, parts=2)
    plain, seen, rates = ch.rl2_loss, [], []

    def spy(net, trial, config, entropy):
        seen.append(trial.arms.shape)
        rates.append(entropy)
        return plain(net, trial, config, entropy)

    monkeypatch.setattr(ch, "rl2_loss", spy)
    last(ch.train_rl2(config, 1))
    assert seen == [(3, 4)] * 4 * 3 * 2
    np.testing.assert_allclose(rates[::6], 0.02 * np.array([1, 0.75, 0.5, 0.25]))


def test_the_learning_rate_of_rl2_falls(monkeypatch):
    rates, step = [], torch.optim.Adam.step

    def spy(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    config = ch.RL2Config(arms=2, horizon=3, bandits=8, updates=4, hidden=4, epochs=3, parts=2)
    last(ch.train_rl2(config, 1))
    expected = 2e-2 * np.repeat([1, 0.75, 0.5, 0.25], 3 * 2)
    np.testing.assert_allclose(rates, expected)


def test_rl2_resumes_exactly(tmp_path):
    config = ch.RL2Config(arms=2, horizon=4, bandits=8, updates=20, hidden=4)
    whole, first = list(ch.train_rl2(config, 1)), next(ch.train_rl2(config, 1))
    start = through_a_file(first.state(), tmp_path)
    rest = list(ch.train_rl2(config, 1, state=start))
    assert [p.step for p in rest] == [20]
    assert same(whole[-1].state()["net"], rest[-1].state()["net"])
    assert whole[-1].metrics["regret"] == rest[-1].metrics["regret"]


def test_a_probe_puts_pulls_of_the_first_arm_into_the_memory():
    told = []

    def spy(seen):
        told.append(seen)
        return torch.tensor([3.0, 3.0]).expand(*seen.shape[:2], 2), None, None

    assert ch.probe(spy, 2, 3) == pytest.approx(0.5)
    assert told[0].shape == (6, 20, 4) and not told[0][0].any()
    assert (told[0].sum(0) == torch.tensor([2.0, 0, 3, 0])).all()
    assert (told[0][1] != told[0][1][:1]).any()  # mixed orders


def test_the_pictures_of_a_trial():
    net = ch.Recurrent(ch.RL2Config(arms=2, hidden=4))
    pictures = ch.trial_pictures(net, 3, 0)
    assert len(pictures) == 3 and all(p[1:4] == b"PNG" for p in pictures)


@pytest.mark.slow
def test_a_memory_learns_and_one_that_forgets_does_not():
    """Two arms, 30 pulls: the least is 1.08, Thompson has 1.69, at random 5.0. About 15 CPU seconds a seed."""
    config = ch.RL2Config(arms=2, horizon=30, updates=200)
    for seed in (1, 2, 3):
        assert 1.0 < ch.measure_rl2(config, seed).metrics["regret"] < 1.5
    forgets = ch.replace(config, remembers=False)
    assert ch.measure_rl2(forgets, 1).metrics["regret"] > 2


# Measures


def test_flips_are_measured_small():
    found = ch.measure_flips(ch.FlipConfig(bits=3, cycles=30, worlds=16, updates=20), 1)
    assert len(found.curves["success"]) == len(found.curves["in training"]) == 30
    assert found.metrics["success"] > 0.9 > found.baselines["success"] == ch.chance_of_success(3)


def test_arms_are_measured_small(monkeypatch):
    counts, play = [], ch.play_arms

    def few(act, arms, seed, env=None):
        counts.append((arms, seed))
        return play(act, min(arms, 2), seed, env)

    monkeypatch.setattr(ch, "play_arms", few)
    found = ch.measure_reach(ch.ReachConfig(**TINY), 1)
    assert found.metrics["pushing"] == 1 and found.metrics["reached"] <= 1
    assert len(found.curves["success"]) == 2
    assert counts[-3:] == [(100, (ch.REACH_SCORING, 1))] * 3  # the same hundred for all three
    trained = {seed for arms, seed in counts[:-3]}
    assert len(trained) == len(counts) - 3 and (ch.REACH_SCORING, 1) not in trained


@pytest.mark.parametrize("arms", [2, 3])
def test_rules_are_measured_small(arms):
    found = ch.measure_bandits(ch.BanditConfig(arms, 10, 300), 1)
    assert ("least" in found.metrics) == ("bayes" in found.curves) == (arms == 2)
    for name, curve in found.curves.items():
        assert len(curve) == 10 and found.metrics[name] == pytest.approx(np.sum(curve))
    assert found.metrics["width"] in ch.UCB_WIDTHS


def test_rl2_is_measured_small(monkeypatch):
    counts, play = [], ch.play_trial

    def few(net, arms, horizon, bandits):
        counts.append((arms, horizon, bandits))
        return play(net, arms, horizon, min(bandits, 50))

    monkeypatch.setattr(ch, "play_trial", few)
    config = ch.RL2Config(arms=3, horizon=5, bandits=8, updates=20, hidden=4)
    found = ch.measure_rl2(config, 1)
    assert counts[-3:] == [(3, horizon, 20_000) for horizon in (5, 30, 200)]
    assert len(found.curves["regret"]) == 2 and len(found.curves["by_pull"]) == 5
    assert found.metrics["regret"] == pytest.approx(np.sum(found.curves["by_pull"]), rel=1e-4)
    assert set(found.metrics) == {"regret", "seconds", "regret_30", "regret_200"}
    net = ch.rl2_net(found.state, config)
    again = ch.judged_rl2(net, 3, 5, 1).sum(0).mean().item()
    assert found.metrics["regret"] == pytest.approx(again)


def test_every_setting_of_the_measurements_is_its_own():
    runs = {(m.row, m.name): m for m in ch.MEASUREMENTS}
    assert len(runs) == len(ch.MEASUREMENTS)
    settings = [(m.measure.__name__, m.config) for m in ch.MEASUREMENTS]
    assert len(set(settings)) == len(settings)
    for bits in ch.BITS:
        her, plain = runs["R5", f"her_{bits}"].config, runs["R5", f"plain_{bits}"].config
        assert her == ch.replace(plain, relabelled=4) and plain.relabelled == 0 and her.bits == bits
    for name in ("plain", "others"):
        assert runs["R5", f"reach_{name}"].seeds == runs["R5", "reach_her"].seeds
    assert runs["R5", "as_printed_20"].config.fault == "as printed"
    for name in ("rl2", "rl2_two"):
        forgets = runs["R3", f"{name}_forgets"].config
        assert ch.replace(forgets, remembers=True) == runs["R3", name].config
        for horizon in (*ch.OTHER_HORIZONS, 100):
            assert (forgets.arms, horizon) in ch.BANDIT_SIZES
    assert all(len(m.seeds) == 5 for m in ch.MEASUREMENTS)


# Exercises

ANSWERS = {
    "R5.1": "relabel", "R5.2": "chance", "R5.3": "arriving", "R3.1": "belief", "R3.2": "trying", "R3.3": "shifting",
}  # fmt: skip


@pytest.mark.parametrize("exercise", ANSWERS)
def test_solutions_are_right(exercise, capsys):
    check(exercise, getattr(ch, ANSWERS[exercise]))
    assert capsys.readouterr().out == f"{exercise}: right.\n"


WRONG = [
    ("R5.1", lambda t, goal: (*t[:5], goal), "reward is 0"),
    ("R5.1", lambda t, goal: (*ch.relabel(t, goal)[:4], t[4], goal), "The end follows"),
    ("R5.1", lambda t, goal: ch.relabel((t[0], 0, *t[2:]), goal), "they stay"),
    ("R5.1", lambda t, goal: (*ch.relabel(t, goal)[:5], t[5]), "The last entry"),
    ("R5.2", lambda bits, steps: ch.chance_of_success(bits), "sequences pass the goal"),
    ("R5.2", lambda bits, steps: math.factorial(bits) / bits**bits, "sequences pass the goal"),
    ("R5.3", lambda steps: 2 / (steps + 1), "not one share of all pairs"),
    ("R5.3", lambda steps: 1 / steps, "steps"),
    ("R3.1", lambda won, lost: won / max(won + lost, 1), "wins and"),
    ("R3.1", lambda won, lost: won / (won + lost) if won + lost else 0.5, "does not make certain"),
    ("R3.2", lambda won, lost, sure: ch.belief(won, lost) + max(sure, ch.belief(won, lost)), "you know more"),
    ("R3.2", lambda won, lost, sure: 1 + sure, "beside a sure"),
    ("R3.3", lambda one, two, pulls: pulls * (one + two) / 2, "coin flip"),
    ("R3.3", lambda one, two, pulls: pulls * max(one, two), "pulls earn"),
]  # fmt: skip


@pytest.mark.parametrize(("exercise", "answer", "hint"), WRONG)
def test_wrong_answers_get_a_hint(exercise, answer, hint, capsys):
    check(exercise, answer)
    said = capsys.readouterr().out
    assert said.startswith(f"{exercise}: not yet.") and hint in said and "raises" not in said


def test_a_policy_that_needs_no_memory_of_its_own_is_beaten_by_one_that_counts():
    """The exercise's win-stay, lose-shift against the least regret: what forgetting costs at best that way."""
    one, two = np.meshgrid(*[(np.arange(60) + 0.5) / 60] * 2)
    pairs = zip(one.ravel(), two.ravel(), strict=True)
    earned = np.mean([ch.shifting(a, b, 30) for a, b in pairs])
    assert ch.bayes_two(30)[0] - earned > 1
