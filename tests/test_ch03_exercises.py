"""Chapter 03's exercises and its bug boxes with Mario: memories, limits, pairs."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import nn

from rlbook_utils.definitions import load_chapter

ch = load_chapter("ch03_curiosity")
emulator = pytest.mark.skipif(not ch.can_play(), reason="Super Mario's emulator is not installed.")

N, T = 4, 12


def gru_net(seed=0):
    """A network whose policy has opinions: at birth all actions are almost equally likely, which hides every fault."""
    torch.manual_seed(seed)
    net = ch.CuriousGRUNet(ch.make_icm())
    nn.init.normal_(net.policy.weight, std=1.0)
    net.pixels.show(255 * torch.rand(32, 3 * 42**2))
    return net


def stacks(*shape, seed=1):
    return torch.randint(
        256, (*shape, 3, 42, 42), generator=torch.Generator().manual_seed(seed)
    ).float()


# The network


def cell_by_hand(net, inputs, memory):
    """One step of a GRU from its weights: inputs, memory [N, 256] -> [N, 256]."""
    gru = net.body[-1]
    from_input = inputs @ gru.weight_ih.T + gru.bias_ih
    from_memory = memory @ gru.weight_hh.T + gru.bias_hh
    (r, z, n), (hr, hz, hn) = from_input.chunk(3, 1), from_memory.chunk(3, 1)
    gate, keep = (r + hr).sigmoid(), (z + hz).sigmoid()
    return keep * memory + (1 - keep) * (n + gate * hn).tanh()


@torch.no_grad()
def test_the_sequence_is_the_gru_step_by_step_and_forgets_where_an_episode_starts():
    net, obs = gru_net(), stacks(T, N)
    starts = torch.zeros(T, N, dtype=torch.bool)
    starts[0, 1] = starts[5, 0] = starts[5, 2] = starts[9, 3] = True
    memory = torch.randn(N, 256)
    policy, values, after = net(obs, starts, memory)
    hidden = memory
    for t in range(T):
        hidden = torch.where(starts[t][:, None], 0.0, hidden)
        inputs = net.body[:-1](net.view(obs[t])[:, -1:])
        hidden = cell_by_hand(net, inputs, hidden)
        torch.testing.assert_close(values[t], net.value(hidden), atol=1e-5, rtol=1e-4)
        expected = net.policy(hidden).log_softmax(-1)
        torch.testing.assert_close(policy.logits[t], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after, hidden, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_start_cuts_off_the_past_and_only_there():
    net, obs = gru_net(), stacks(T, 2)
    starts = torch.zeros(T, 2, dtype=torch.bool)
    starts[6, 0] = True
    first = net(obs, starts, torch.zeros(2, 256))[1]
    second = net(obs, starts, torch.randn(2, 256))[1]  # another past
    differ = (first - second).abs().amax(-1) > 1e-6  # [T, 2]
    assert differ[:6, 0].all() and not differ[6:, 0].any()
    assert differ[:, 1].all()


@torch.no_grad()
def test_the_agent_sees_the_newest_picture_only_and_the_curiosity_all_three():
    net, obs = gru_net(), stacks(1, N)
    other = obs.clone()
    other[:, :, :2] = 255 - other[:, :, :2]
    nothing = torch.zeros(1, N, dtype=torch.bool)
    for seen, changed in zip(
        *(net(o, nothing, torch.zeros(N, 256))[1:] for o in (obs, other)), strict=True
    ):
        torch.testing.assert_close(seen, changed)
    features = [net.curiosity.encoder(net.view(o[0])) for o in (obs, other)]
    assert (features[0] - features[1]).abs().max() > 0.1
    newest = obs.clone()
    newest[:, :, 2] = 255 - newest[:, :, 2]
    assert (
        net(obs, nothing, torch.zeros(N, 256))[1] - net(newest, nothing, torch.zeros(N, 256))[1]
    ).abs().max() > 1e-4


# Playing and learning, in a small world that ends episodes by itself


class Flicker(VectorEnv):
    """Random pictures. Emulator n ends every n + 3 steps, the even ones by the clock; resets as MarioEnvs does."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, *_):
        self.num_envs, self.rng = N, np.random.default_rng(0)
        self.single_action_space = Discrete(12)

    def pictures(self):
        return self.rng.integers(256, size=(N, 3, 42, 42)).astype(np.uint8)

    def reset(self, *, seed=None, options=None):
        self.age = np.zeros(N, int)
        return self.pictures(), {}

    def step(self, actions):
        self.age += 1
        self.furthest = 40 + self.age
        done, clock = self.age == np.arange(N) + 3, np.arange(N) % 2 == 0
        last, final = self.pictures(), np.full(N, None, object)
        for n in np.flatnonzero(done):
            final[n] = last[n]
        obs = np.where(done[:, None, None, None], self.pictures(), last)
        self.age = np.where(done, 0, self.age)
        return obs, self.rng.random(N), done & ~clock, done & clock, {"final_obs": final}


def played(rollouts=2, seed=0):
    net = gru_net(seed)
    torch.manual_seed(seed)
    collector = ch.GRUCollector(Flicker(), net, seed)
    return net, collector, [collector.collect(T) for _ in range(rollouts)]


def ratios(net, seen, memory):
    policy, _, _ = net(seen.steps.obs, seen.starts, memory)
    return (policy.log_prob(seen.steps.actions) - seen.steps.log_probs).exp()


@torch.no_grad()
def test_learning_sees_the_probabilities_of_play_if_and_only_if_it_remembers_as_play_did():
    net, _, (_, seen) = played()
    assert (ratios(net, seen, seen.memory) - 1).abs().max() < 1e-4
    assert seen.memory.abs().max() > 0.01
    assert (ratios(net, seen, torch.zeros(N, 256)) - 1).abs().max() > 1e-2  # the memory lost
    deaf = seen._replace(starts=torch.zeros_like(seen.starts))
    assert (ratios(net, deaf, seen.memory) - 1).abs().max() > 1e-2  # ends not heard of


def test_starts_follow_ends_across_rollouts():
    _, collector, rollouts = played(3)
    done = torch.cat([seen.steps.done for seen in rollouts])
    starts = torch.cat([seen.starts for seen in rollouts])
    ends = torch.tensor([[(t + 1) % (n + 3) == 0 for n in range(N)] for t in range(3 * T)])
    torch.testing.assert_close(done, ends)
    torch.testing.assert_close(starts[1:], done[:-1])
    assert starts[0].all()
    torch.testing.assert_close(collector.starts, done[-1])


@torch.no_grad()
def test_memory_is_zero_after_an_end_and_carried_on_elsewhere():
    net, collector, rollouts = played(2)
    memory = torch.zeros(N, 256)
    for seen in rollouts:
        torch.testing.assert_close(seen.memory, memory, atol=1e-5, rtol=1e-4)
        for t in range(T):
            zeroed = torch.where(seen.starts[t][:, None], 0.0, memory)
            inputs = net.body[:-1](net.view(seen.steps.obs[t])[:, -1:])
            memory = cell_by_hand(net, inputs, zeroed)
    torch.testing.assert_close(collector.memory, memory, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_next_values_are_those_of_the_own_episodes_next_observation():
    net, envs = gru_net(), Flicker()
    torch.manual_seed(0)
    collector = ch.GRUCollector(envs, net, 0)
    transitions = []
    collector.stream = (transitions.append(step) or step for step in collector.stream)
    seen = collector.collect(T)
    memory = torch.zeros(N, 256)
    for t, step in enumerate(transitions):
        inputs = net.body[:-1](net.view(seen.steps.obs[t])[:, -1:])
        memory = cell_by_hand(net, inputs, torch.where(seen.starts[t][:, None], 0.0, memory))
        following = net.body[:-1](net.view(torch.from_numpy(step.next_obs).float())[:, -1:])
        expected = net.value(cell_by_hand(net, following, memory))
        torch.testing.assert_close(seen.steps.next_values[t], expected, atol=1e-5, rtol=1e-4)
    goes_on = ~seen.steps.done[:-1]
    nexts, values = seen.steps.next_values[:-1][goes_on], seen.steps.values[1:][goes_on]
    torch.testing.assert_close(nexts, values, atol=1e-5, rtol=1e-4)


CONFIG = ch.GRUConfig(steps=512, num_envs=N, horizon=T, minibatch=2 * T, warm_up=1)


def test_an_update_moves_every_part_of_the_agent_and_leaves_the_curiosity():
    net, _, (_, seen) = played()
    before = {name: p.clone() for name, p in net.named_parameters()}
    optimiser, sums = ch.adam_for(net, CONFIG), torch.zeros(2, N, dtype=torch.float64)
    advantages, returns = ch.curious_advantages(net, seen.steps, sums, CONFIG)
    assert advantages.shape == (T - 1, N) and returns.shape == (T - 1, N, 2)
    off = ch.improve_memory(net, optimiser, seen, advantages, returns, CONFIG)
    assert len(off) == CONFIG.epochs * N // 2  # two emulators in a minibatch
    assert off[0] < 1e-4 and max(off[1:]) > 1e-3
    for name, p in net.named_parameters():
        assert torch.equal(p, before[name]) == name.startswith("curiosity"), name


def test_minibatches_are_whole_emulators_and_columns_stay_together(monkeypatch):
    net, _, (_, seen) = played()
    minibatches, real = [], ch.POLICIES.ppo_loss
    monkeypatch.setattr(
        ch.POLICIES, "ppo_loss", lambda *rows: minibatches.append(rows) or real(*rows)
    )
    advantages = seen.steps.log_probs[:-1] + 1  # each column a mark of its step
    returns = seen.steps.log_probs[:-1, :, None].expand(-1, -1, 2)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.0)  # so that nothing moves
    ch.improve_memory(net, optimiser, seen, advantages, returns, CONFIG)
    assert len(minibatches) == CONFIG.epochs * 2
    for log_probs, _, values, old, advantages, returns, *_ in minibatches:
        assert len(old) == 2 * (T - 1) and values.shape == (2 * (T - 1), 2)
        torch.testing.assert_close(log_probs, old, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(advantages, old + 1)
        torch.testing.assert_close(returns, old[:, None].expand(-1, 2))


def test_the_gradient_goes_back_through_the_memory_but_not_beyond_an_episodes_start():
    net, obs = gru_net(), stacks(T, N).requires_grad_()
    starts = torch.zeros(T, N, dtype=torch.bool)
    starts[5, 0] = True
    net(obs, starts, torch.zeros(N, 256))[1][-1].sum().backward()
    felt = obs.grad.abs().amax((2, 3, 4)) > 0  # [T, N]
    assert felt[:, 1:].all() and felt[5:, 0].all() and not felt[:5, 0].any()


@pytest.mark.slow
def test_training_from_start_to_end(monkeypatch):
    monkeypatch.setitem(ch.train_gru.__globals__, "make_mario", Flicker)
    *_, last = ch.train_gru(CONFIG, seed=1)
    assert last.step >= CONFIG.steps and last.total == CONFIG.steps
    torch.manual_seed(1)
    fresh = ch.CuriousGRUNet(ch.make_icm())
    trained = last.state()["net"]
    for name, p in fresh.named_parameters():
        assert not torch.equal(p, trained[name]), name
    assert set(last.metrics) == {"furthest", "best", "off", "forward", "inverse"}
    again = [*ch.train_gru(CONFIG, seed=1)][-1].state()["net"]
    assert all(torch.equal(trained[name], again[name]) for name in trained)


# Limits


def test_given_up_against_a_count_by_hand():
    trace = np.array([40, 50, 50, 50, 60, 60, 60, 60, 60, 70])
    assert [ch.given_up(trace, limit) for limit in (1, 2, 3, 4, 5, 9)] == [50, 50, 60, 60, 70, 70]


@pytest.mark.slow
@emulator
def test_one_set_of_episodes_answers_for_every_limit():
    def press():
        rng = np.random.default_rng(3)
        return lambda obs: rng.integers(12, size=len(obs))

    traces = ch.traces_of(press(), 3, seed=0, stuck=24)
    for limit in (8, 16, 24):
        played = ch.furthest_reached(press(), 3, seed=0, stuck=limit)
        np.testing.assert_array_equal([ch.given_up(trace, limit) for trace in traces], played)


def test_cells_in_use():
    assert ch.cells_in_use(np.full(49, 7)) == pytest.approx(49)
    assert ch.cells_in_use(np.array([0, 5, 0])) == pytest.approx(1)
    assert ch.cells_in_use(np.array([3, 0, 3])) == pytest.approx(2)
    assert ch.cells_in_use(np.array([3, 1])) == pytest.approx(4 / 3**0.75)


# Bugs


@emulator
def test_the_sources_progress_is_nothing_while_mario_walks():
    x, progress = ch.walk_by_the_clock(30)
    assert (progress == 0).all() and x[-1] - x[0] > 150
    env = ch.MarioEnv()
    env.reset()
    found = [env.step(2 if t % 10 < 4 else 1)[4]["x_pos"] for t in range(30)]
    np.testing.assert_array_equal(x, found)  # six single frames are one decision


def test_paid_for_is_the_curiositys_reward_of_what_it_sees():
    torch.manual_seed(0)
    net = ch.CuriousNet(ch.make_icm())
    net.pixels.show(255 * torch.rand(32, 3 * 42**2))
    obs, next_obs = (stacks(5, seed=s) for s in (1, 2))
    actions = np.arange(5)
    found = ch.paid_for(net, obs.byte().numpy(), actions, next_obs.byte().numpy())
    with torch.no_grad():
        seen = [((o.flatten(1) - net.pixels.mean) / (net.pixels.m2 / net.pixels.count).sqrt()).clamp(-5, 5).float()
                for o in (obs, next_obs)]  # fmt: skip
        features = [net.curiosity.encoder(o.view(5, 3, 42, 42)) for o in seen]
        one_hot = torch.eye(12)[actions]
        predicted = net.curiosity.forward_model(torch.cat([features[0], one_hot], 1))
        expected = (predicted - features[1]).square().mean(1)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    nothing = np.zeros((0, 3, 42, 42), np.uint8)
    assert ch.paid_for(net, nothing, np.zeros(0, int), nothing).shape == (0,)
