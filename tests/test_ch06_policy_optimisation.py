"""Chapter 06, first half: on-policy methods and ACER against independent oracles, and their faults kept out."""

import contextlib
import dataclasses
import itertools

import gymnasium as gym
import numpy as np
import psutil
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv
from scipy.optimize import minimize
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.logger import Logger
from torch import nn
from torch.nn.utils import parameters_to_vector

from rlbook_utils.checkpoint import load_checkpoint, save_checkpoint
from rlbook_utils.definitions import load_chapter
from rlbook_utils.rollout import episode_returns, make_vector, spread

ch = load_chapter("ch06_policy_optimisation")
gym.register("ShortPole-v0", entry_point=CartPoleEnv, max_episode_steps=12)
TRIVIAL_RETURN = (
    42  # CartPole's mean return of pushing to the side where the pole leans; random pushes get 22
)


def last(progresses):
    *_, progress = progresses
    return progress


def some_rollout(steps=40, num_envs=6, seed=0, obs_size=4, actions=2):
    """Random numbers with terminations, truncations and both kinds of next value."""
    torch.manual_seed(seed)
    terminated, done = torch.rand(2, steps, num_envs) < 0.1
    values = torch.randn(steps, num_envs)
    next_values = torch.cat([values[1:], torch.randn(1, num_envs)])
    next_values = torch.where(done | terminated, torch.randn(steps, num_envs), next_values)
    return ch.Rollout(
        torch.randn(steps, num_envs, obs_size), torch.randint(actions, (steps, num_envs)),
        -torch.rand(steps, num_envs), torch.randn(steps, num_envs), values, next_values,
        terminated, done | terminated,
    )  # fmt: skip


# Environments and rollouts


def test_environments_over_processes_are_the_same_environments():
    rng = np.random.default_rng(0)
    one = make_vector("CartPole-v1", 5, same_step=True)
    with contextlib.closing(ch.WorkerEnvs("CartPole-v1", 5, workers=2)) as two:
        np.testing.assert_array_equal(one.reset(seed=3)[0], two.reset(seed=3)[0])
        finals = 0
        for _ in range(80):
            actions = rng.integers(2, size=5)
            *ours, info = one.step(actions)
            *theirs, other = two.step(actions)
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(a, b)
            for n in np.flatnonzero(ours[2] | ours[3]):
                np.testing.assert_array_equal(info["final_obs"][n], other["final_obs"][n])
                finals += 1
        children = [process.pid for process, _ in two.crew.members]
    assert finals > 10 and not any(map(psutil.pid_exists, children))


def test_rollout_holds_what_happened():
    """Played again, one environment at a time: rewards, ends, and the value of the last state of each episode."""
    torch.manual_seed(1)
    envs = make_vector("ShortPole-v0", 3, same_step=True)
    net = ch.make_net(envs)
    collector = ch.Collector(envs, net, 7, reward_scale=0.5)
    parts = [collector.collect(25), collector.collect(25)]
    rollout = ch.Rollout(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
    ends, returns = {"terminated": 0, "truncated": 0}, []
    for n in range(3):
        env = gym.make("ShortPole-v0")
        obs, _ = env.reset(seed=spread(7, 3)[n])
        total = 0
        for t in range(50):
            np.testing.assert_allclose(rollout.obs[t, n], obs, rtol=1e-6)
            obs, reward, terminated, truncated, _ = env.step(int(rollout.actions[t, n]))
            total += reward
            policy, value = net(torch.tensor(obs))
            assert rollout.rewards[t, n] == 0.5 * reward
            assert rollout.terminated[t, n] == terminated
            assert rollout.done[t, n] == (terminated or truncated)
            assert rollout.next_values[t, n].item() == pytest.approx(value.item(), abs=1e-5)
            ends["terminated"] += terminated
            ends["truncated"] += truncated and not terminated
            if terminated or truncated:
                returns.append(total)
                total = 0
                obs, _ = env.reset()
    assert min(ends.values()) >= 2
    assert sorted(r for r, _ in collector.recent) == sorted(returns)
    assert sum(cut for _, cut in collector.recent) == ends["truncated"]
    policy, values = net(rollout.obs)
    torch.testing.assert_close(policy.log_prob(rollout.actions), rollout.log_probs)
    torch.testing.assert_close(values, rollout.values)


def test_collector_refuses_reset_rows():
    envs = gym.make_vec("CartPole-v1", 2, vectorization_mode="sync")
    with pytest.raises(ValueError, match="SAME_STEP"):
        ch.Collector(envs, ch.make_net(envs), 0, 1.0)


# Advantages and losses against Stable-Baselines3


@pytest.mark.parametrize("discount, lam", [(0.99, 0.95), (0.9, 1.0), (1.0, 0.0)])
def test_gae_agrees_with_stable_baselines(discount, lam):
    """SB3 adds the discounted value of a truncated episode's last state to its reward."""
    rollout = some_rollout(seed=3)
    steps, num_envs = rollout.rewards.shape
    space = gym.spaces.Box(-1, 1, (4,))
    theirs = RolloutBuffer(steps, space, gym.spaces.Discrete(2), "cpu", lam, discount, num_envs)
    cut = rollout.done & ~rollout.terminated
    theirs.rewards = (rollout.rewards + discount * rollout.next_values * cut).numpy()
    theirs.values = rollout.values.numpy()
    starts = torch.cat([torch.zeros(1, num_envs), rollout.done[:-1].float()])
    theirs.episode_starts = starts.numpy()
    theirs.compute_returns_and_advantage(rollout.next_values[-1], rollout.done[-1].numpy())
    advantages, returns = ch.gae(*rollout[3:], discount, lam)
    assert cut.sum() > 5 and rollout.terminated.sum() > 5
    np.testing.assert_allclose(advantages, theirs.advantages, atol=1e-5)
    np.testing.assert_allclose(returns, theirs.returns, atol=1e-5)


def test_gae_masks():
    """Pitfalls: truncation taken for termination; a recursion that runs through an end."""
    rollout = some_rollout(seed=5)
    right, _ = ch.gae(*rollout[3:], 0.99, 0.95)
    fields = rollout._asdict()
    for wrong in ({"terminated": rollout.done}, {"done": rollout.terminated}):
        faulty, _ = ch.gae(*ch.Rollout(**{**fields, **wrong})[3:], 0.99, 0.95)
        assert (faulty - right).abs().max() > 0.5


def test_ppo_loss_agrees_with_stable_baselines():
    """Its own ``train`` on its own buffer, with old probabilities that differ from the present ones."""
    torch.manual_seed(0)
    theirs = PPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64, n_epochs=1, clip_range=0.15,
                 ent_coef=0.03, vf_coef=0.7, device="cpu", seed=0)  # fmt: skip
    theirs.set_logger(Logger(None, []))
    obs, actions = torch.randn(64, 4), torch.randint(2, (64,))
    with torch.no_grad():
        values, log_probs, entropies = theirs.policy.evaluate_actions(obs, actions)
    old, advantages, returns = log_probs + 0.3 * torch.randn(64), torch.randn(64), torch.randn(64)
    buffer = theirs.rollout_buffer
    buffer.reset()
    columns = {"observations": obs, "actions": actions, "log_probs": old, "advantages": advantages,
               "returns": returns, "values": values.flatten()}  # fmt: skip
    for name, column in columns.items():
        getattr(buffer, name)[:] = column.numpy().reshape(getattr(buffer, name).shape)
    buffer.full = True
    theirs.train()
    said = theirs.logger.name_to_value
    config = ch.PPOConfig(clip=0.15, value_weight=0.7)
    numbers = (log_probs, entropies, values.flatten(), old, advantages, returns)
    loss, found = ch.ppo_loss(*numbers, config, 0.03)
    assert loss.item() == pytest.approx(said["train/loss"], abs=1e-5)
    assert found["approx_kl"].item() == pytest.approx(said["train/approx_kl"], abs=1e-5)
    assert found["clip_fraction"].item() == pytest.approx(said["train/clip_fraction"], abs=1e-5)
    assert 0.1 < found["clip_fraction"] < 0.9
    assert found["entropy"].item() == pytest.approx(-said["train/entropy_loss"], abs=1e-5)


def test_explained_variance_agrees_with_stable_baselines():
    from stable_baselines3.common.utils import explained_variance

    values, returns = torch.randn(2, 500)
    returns = returns + 2 * values
    expected = explained_variance(values.numpy(), returns.numpy())
    assert ch.explained_variance(values, returns).item() == pytest.approx(expected, abs=1e-5)


def test_clip_takes_the_motive_away_and_leaves_the_way_back():
    ratios = torch.tensor([0.5, 0.9, 1.1, 1.5], requires_grad=True)
    for sign, expected in ((1.0, [1, 1, 1, 0]), (-1.0, [0, -1, -1, -1])):
        gain = ch.clipped_gain(ratios, torch.full((4,), sign), 0.2).sum()
        assert torch.autograd.grad(gain, ratios)[0].tolist() == expected


def test_a2c_loss_is_the_policy_gradient():
    """Against finite differences of the exact expectation in a state with three actions."""
    logits = torch.randn(3, dtype=torch.double, requires_grad=True)
    advantages = torch.tensor([1.0, -0.5, 0.2], dtype=torch.double)
    policy = torch.distributions.Categorical(logits=logits)
    probs = policy.probs.detach()
    config = ch.A2CConfig(value_weight=0.0)
    zero = torch.zeros(3, dtype=torch.double)
    grads = []
    for action in range(3):
        numbers = (policy.log_prob(torch.tensor([action])), zero, zero, advantages[[action]], zero)
        numbers = tuple(number[:1] for number in numbers)
        loss = ch.a2c_loss(*numbers, config, 0.0)
        grads.append(torch.autograd.grad(loss, logits, retain_graph=True)[0])
    found = -(probs[:, None] * torch.stack(grads)).sum(0)
    objective = lambda x: (torch.softmax(x, -1) * advantages).sum().item()
    for i in range(3):
        bump = 1e-5 * torch.eye(3, dtype=torch.double)[i]
        slope = (objective(logits + bump) - objective(logits - bump)) / 2e-5
        assert found[i].item() == pytest.approx(slope, abs=1e-7)


# A3C


def test_a3c_gradient_does_not_accumulate():
    """Pitfall: zero_grad(set_to_none=True) on the global model leaves the local gradients in place."""
    torch.manual_seed(0)
    net, rollout = ch.PolicyNet(4, 2), some_rollout()
    config = ch.A3CConfig(max_grad_norm=1e9)
    gradients = [ch.a3c_gradient(net, rollout, config, 1.0) for _ in range(3)]
    loss, _ = ch.a2c_rollout_loss(net, rollout, config, 1.0)
    loss.backward()
    expected = parameters_to_vector([p.grad for p in net.parameters()])
    for gradient in gradients:
        torch.testing.assert_close(gradient, expected)
    config = dataclasses.replace(config, max_grad_norm=0.01)
    assert ch.a3c_gradient(net, rollout, config, 1.0).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_the_printed_a3c_accumulates():
    right, printed = (ch.handed_over(clear, 60, seed=1)[:, 0] for clear in (True, False))
    assert printed[0] == pytest.approx(right[0]) and printed[-20:].mean() > 3 * right[-20:].mean()


class Pipe:
    """A connection that breaks after so many messages."""

    def __init__(self, messages):
        self.left = messages

    def send(self, message):
        self.left -= 1
        if not self.left:
            raise BrokenPipeError


def test_a3c_worker_moves_the_shared_model_and_keeps_its_own_copy(tmp_path):
    torch.manual_seed(0)
    net = ch.PolicyNet(4, 2)
    start = parameters_to_vector(net.parameters()).detach().clone()
    config = ch.A3CConfig("ShortPole-v0", num_envs=4, horizon=16, workers=2)
    shared = ch.map_shared(str(tmp_path), len(start), 2)
    shared.params.copy_(start)
    with pytest.raises(BrokenPipeError):
        ch.a3c_worker(Pipe(3), str(tmp_path), net, config, seed=0, rank=1)
    assert shared.counts.tolist() == [[0, 0, 0], [3 * 2 * 16, 3, 0]] and shared.adam_step == 3
    assert (shared.params - start).abs().max() > 1e-4
    assert shared.first.abs().max() > 0 and shared.second.max() > 0
    before = parameters_to_vector(net.parameters()).detach().clone()
    shared.params.add_(1)  # another worker writes
    torch.testing.assert_close(parameters_to_vector(net.parameters()), before)


def test_shared_adam_is_adam(tmp_path):
    """Two optimisers over the same memory, taking turns, make the steps of a single ordinary one."""
    torch.manual_seed(0)
    gradients, plain = torch.randn(6, 10), torch.zeros(10)
    ordinary = torch.optim.Adam([plain], 0.01, eps=1e-5)
    views = [ch.map_shared(str(tmp_path), 10, 2) for _ in range(2)]
    optimisers = [ch.shared_adam(view, 0.01) for view in views]
    for gradient, (view, optimiser) in zip(
        gradients, itertools.cycle(zip(views, optimisers, strict=True)), strict=False
    ):
        plain.grad, view.params.grad = gradient, gradient
        ordinary.step()
        optimiser.step()
    torch.testing.assert_close(views[0].params, plain)


@pytest.mark.slow
def test_a3c_runs_in_real_processes_and_stops(monkeypatch):
    """Two workers; an edited cell reaches them; closing the generator ends them."""
    config = ch.A3CConfig("CartPole-v1", steps=100_000, num_envs=8, horizon=16, reward_scale=0.1)
    run = ch.train_a3c(config, 1)
    both = next(progress for progress in run if progress.metrics["staleness"] > 0)
    children = psutil.Process().children()
    assert len(children) >= 2
    state = both.state()
    assert state["shared"][3] == pytest.approx(state["updates"], abs=3)
    run.close()
    assert not any(child.is_running() and child.status() != "zombie" for child in children)
    edited = lambda net, rollout, config, remaining: torch.zeros_like(
        torch.nn.utils.parameters_to_vector(net.parameters())
    )
    monkeypatch.setattr(ch, "a3c_gradient", edited)
    torch.manual_seed(spread((1, 0), 1)[0])
    with contextlib.closing(make_vector("CartPole-v1", 1)) as envs:
        fresh = parameters_to_vector(ch.make_net(envs).parameters())
    still = last(ch.train_a3c(dataclasses.replace(config, steps=1000), 1)).state()["shared"][0]
    torch.testing.assert_close(still, fresh.detach())


def test_a3c_refuses_an_uneven_share():
    with pytest.raises(ValueError, match="evenly"):
        ch.A3CConfig(num_envs=5, workers=2)


# Trust region


def test_grid_bound_lies_below_and_touches():
    rng = np.random.default_rng(0)
    policy = ch.softmax(rng.normal(size=(12, 4)))
    found, advantages, _ = ch.grid_exact(policy)
    c = 4 * 0.9 * np.abs(advantages).max() / 0.01
    others = ch.softmax(np.log(policy) + rng.normal(size=(50, 12, 4)) * rng.choice([0.01, 1], 50)[:, None, None])  # fmt: skip
    returns = np.array([ch.grid_exact(other)[0] for other in others])
    assert (ch.minorant(policy, others, c) <= returns + 1e-9).all()
    assert ch.minorant(policy, policy[None], c)[0] == pytest.approx(found)
    direction = rng.normal(size=(12, 4))
    near = ch.softmax(np.log(policy) + np.array([-1, 1])[:, None, None] * 1e-4 * direction)
    slope = np.diff([ch.grid_exact(other)[0] for other in near])
    assert np.diff(ch.minorant(policy, near, c)) == pytest.approx(slope, rel=1e-3)
    # the exact return by playing: mean of discounted returns of many walks
    total, cells, alive, factor = np.zeros(20_000), np.full(20_000, 8), np.ones(20_000, bool), 1.0
    for _ in range(150):
        draws = (rng.random(20_000)[:, None] > policy[cells].cumsum(1)[:, :3]).sum(1)
        total += factor * alive * ch.FOUNDATIONS.GRID_REWARDS[cells, draws]
        cells = ch.FOUNDATIONS.NEXT_CELL[cells, draws]
        alive &= cells != 3
        factor *= 0.9
    assert total.mean() == pytest.approx(found, abs=4 * total.std() / 20_000**0.5)


def test_conjugate_gradient_and_fisher_product():
    torch.manual_seed(0)
    net, obs = ch.PolicyNet(3, 4, hidden=4), torch.randn(20, 3)
    nn.init.normal_(net.policy[-1].weight)
    params = list(net.policy.parameters())
    fisher = 0.0
    for row in obs:  # F = mean over states of the expected outer product of scores
        policy, _ = net(row)
        for action in range(4):
            log_prob = policy.log_prob(torch.tensor(action))
            score = parameters_to_vector(torch.autograd.grad(log_prob, params, retain_graph=True))
            fisher = fisher + policy.probs[action].detach() * torch.outer(score, score) / 20
    v = torch.randn(len(fisher))
    product = ch.fisher_product(net, obs, damping=0.1)
    torch.testing.assert_close(product(v), fisher @ v + 0.1 * v, atol=1e-5, rtol=1e-4)
    damped = fisher + 0.1 * torch.eye(len(v))
    x = ch.conjugate_gradient(product, v, iterations=60)
    torch.testing.assert_close(x, torch.linalg.solve(damped, v), atol=1e-3, rtol=1e-3)


def test_natural_step_keeps_its_limit():
    torch.manual_seed(0)
    for _ in range(5):
        net, obs = ch.PolicyNet(4, 3), torch.randn(200, 4)
        actions, advantages = torch.randint(3, (200,)), torch.randn(200)
        old = torch.log_softmax(net.policy(obs), -1).detach()
        found = ch.natural_step(net, obs, actions, advantages)
        new = torch.log_softmax(net.policy(obs), -1).detach()
        kl = (old.exp() * (old - new)).sum(-1).mean().item()
        assert kl == pytest.approx(found["kl"], abs=1e-5) and 0.001 < kl <= ch.MAX_KL
        rows = torch.arange(200)
        ratios = (new - old)[rows, actions].exp()
        assert (ratios * advantages).mean() > advantages.mean()


# ACER


def test_retrace_agrees_with_the_brute_force_sum():
    """Q_t + sum of discounted TD errors, each weighed by the product of truncated ratios up to it."""
    rng = np.random.default_rng(0)
    shape = (3, 15)
    rewards, next_values, q = rng.normal(size=(3, *shape))
    ratios = rng.exponential(size=shape)
    terminated, cut = rng.random((2, *shape)) < 0.12
    done = terminated | cut
    targets = np.empty(shape)
    for b in range(3):
        for t in range(15):
            targets[b, t], weight = q[b, t], 1.0
            for i in range(t, 15):
                if i > t:
                    weight *= 0.9 * min(1.0, ratios[b, i])
                bootstrap = 0.0 if terminated[b, i] else 0.9 * next_values[b, i]
                targets[b, t] += weight * (rewards[b, i] + bootstrap - q[b, i])
                if done[b, i]:
                    break
    columns = (rewards, next_values, q, ratios, terminated, done)
    found = ch.retrace(*map(torch.tensor, columns), 0.9)
    np.testing.assert_allclose(found, targets, atol=1e-10)
    assert (cut & ~terminated)[:, :-1].sum() > 2


def test_retrace_of_the_same_policy_is_the_return():
    """On-policy, with exact values, the sum telescopes to rewards plus V of the state after the last."""
    rewards, ones, no = torch.rand(1, 5), torch.ones(1, 5), torch.zeros(1, 5, dtype=torch.bool)
    values = torch.tensor([[3.0, 1.0, 4.0, 1.0, 5.0]])
    q = torch.cat([torch.zeros(1, 1), values[:, :-1]], 1)  # Q(s, a) = V(s) from the second step on
    found = ch.retrace(rewards, values, q, ones, no, no, 0.9)[0, 0]
    expected = sum(0.9**k * rewards[0, k] for k in range(5)) + 0.9**5 * 5.0
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("limit", [0.5, 2.0, 1e9])
def test_truncation_with_correction_is_unbiased(limit):
    torch.manual_seed(0)
    logits = torch.randn(6, 4, requires_grad=True)
    behaviour, q = torch.softmax(2 * torch.randn(6, 4), -1), torch.randn(6, 4)
    exact = torch.autograd.grad((torch.softmax(logits, -1) * q).sum(), logits)[0]
    found = 0.0
    for action in range(4):
        actions = torch.full((6,), action)
        gain = ch.acer_gain(logits, actions, behaviour, q, q[:, action], limit)
        assert gain.shape == (6,)  # pitfall: a column plus a row is a square
        found = found + torch.autograd.grad((behaviour[:, action] * gain).sum(), logits)[0]
    torch.testing.assert_close(found, exact, atol=1e-5, rtol=1e-4)


def test_correction_is_for_large_ratios_only():
    """1 - c / rho clipped at 0: without ratios above c, only the truncated part is left."""
    logits = torch.tensor([[1.0, -0.5]], requires_grad=True)
    probs, q = torch.softmax(logits, -1).detach(), torch.tensor([[5.0, -4.0]])
    value = (probs * q).sum(-1)  # as target it leaves nothing of the truncated part
    actions = torch.tensor([0])
    assert ch.acer_gain(logits, actions, probs, q, value, 2.0).item() == pytest.approx(0, abs=1e-6)
    assert ch.acer_gain(logits, actions, probs / 4, q, value, 2.0).abs().item() > 0.1


def test_leash_is_a_projection():
    torch.manual_seed(0)
    logits, average, g = torch.randn(3, 40, 4)
    g = 3 * g
    z = ch.leashed(g, logits, average, 0.3)
    moving = logits.clone().requires_grad_()
    policies = (torch.distributions.Categorical(logits=x) for x in (average, moving))
    k = torch.autograd.grad(torch.distributions.kl_divergence(*policies).sum(), moving)[0]
    assert ((k * z).sum(-1) <= 0.3 + 1e-5).all()
    free = (k * g).sum(-1) <= 0.3
    torch.testing.assert_close(z[free], g[free])
    assert 5 < free.sum() < 35
    for row in torch.nonzero(~free).flatten()[:5]:
        limit = {"type": "ineq", "fun": lambda x: 0.3 - k[row].numpy() @ x}
        distance = lambda x: ((x - g[row].numpy()) ** 2).sum()
        found = minimize(distance, np.zeros(4), constraints=limit, tol=1e-12).x
        np.testing.assert_allclose(z[row], found, atol=1e-3)


def test_average_policy_trails_in_place():
    """Pitfall: a Polyak average that rebinds a local name never moves."""
    slow, fast = nn.Linear(3, 2), nn.Linear(3, 2)
    expected = 0.9 * slow.weight.detach() + 0.1 * fast.weight.detach()
    ch.trail(slow, fast, 0.9)
    torch.testing.assert_close(slow.weight.detach(), expected)
    before = slow.weight.detach().clone()
    ch.rebinding_trail(slow, fast, 0.9)
    torch.testing.assert_close(slow.weight.detach(), before)
    distances = ch.average_distances(ch.trail, 300), ch.average_distances(ch.rebinding_trail, 300)
    assert distances[1][-1] > 2 * distances[0][-1]


def acer_parts(seed=0, **config):
    config = ch.ACERConfig("ShortPole-v0", num_envs=3, horizon=25, workers=1, **config)
    envs = make_vector("ShortPole-v0", 3, same_step=True)
    torch.manual_seed(seed)
    acer = ch.make_acer(config, envs, {"env_steps": 0}, "cpu")
    return config, acer, ch.TrajectoryCollector(envs, acer[0], 7, 1.0)


def test_trajectories_hold_what_happened():
    _, acer, collector = acer_parts()
    batch = collector.collect(150)
    assert batch.terminated.sum() >= 1 and (batch.done & ~batch.terminated).sum() >= 1
    assert batch.obs.shape == (3, 150, 4) and batch.probs.shape == (3, 150, 2)
    going_on = ~batch.done[:, :-1]
    np.testing.assert_array_equal(batch.next_obs[:, :-1][going_on], batch.obs[:, 1:][going_on])
    ended = batch.done[:, :-1]
    assert (np.abs(batch.obs[:, 1:][ended]) < 0.06).all()  # a fresh start
    assert np.abs(batch.next_obs[batch.terminated][:, 2]).min() > 0.2  # not: a pole that has fallen
    probs = torch.softmax(acer[0].policy(torch.tensor(batch.obs)), -1)
    np.testing.assert_allclose(batch.probs, probs.detach(), atol=1e-6)


def test_acer_update_follows_the_whole_gradient():
    """One SGD step against the gradient of the written-out loss, without leash."""
    config, (net, average, _), collector = acer_parts(delta=10.0, entropy=0.0, max_grad_norm=1e9)
    batch = ch.Trajectories(*map(torch.from_numpy, collector.collect(25)))
    nn.init.normal_(net.policy[-1].weight)  # the policy has moved on since
    before = copy_of(net)
    ch.acer_update(net, average, torch.optim.SGD(net.parameters(), 0.1), batch, config, 1.0)
    policy, q = before(batch.obs)
    after, next_q = before(batch.next_obs)
    rows = batch.actions[..., None]
    taken, ratios = q.gather(-1, rows)[..., 0], policy.probs / batch.probs
    next_values = (after.probs * next_q).sum(-1).detach()
    ends = (batch.terminated, batch.done)
    weights = ratios.gather(-1, rows)[..., 0].detach()
    targets = ch.retrace(
        batch.rewards, next_values, taken.detach(), weights, *ends, config.discount
    )
    gain = ch.acer_gain(
        policy.logits, batch.actions, batch.probs, q.detach(), targets, config.limit
    )
    loss = -gain.mean() + config.value_weight * (taken - targets).square().mean()
    loss.backward()
    for new, old in zip(net.q.parameters(), before.q.parameters(), strict=True):
        torch.testing.assert_close(
            new.detach(), old.detach() - 0.1 * old.grad, atol=1e-5, rtol=1e-3
        )
    for new, old in zip(net.policy.parameters(), before.policy.parameters(), strict=True):
        torch.testing.assert_close(
            new.detach(), old.detach() - 0.1 * old.grad, atol=1e-5, rtol=1e-3
        )


def copy_of(net):
    twin = ch.ACERNet(4, 2)
    twin.load_state_dict({name: value.clone() for name, value in net.state_dict().items()})
    return twin


# Learning


def test_the_trivial_policy_is_better_than_random_pushes():
    lean = lambda obs: (obs[:, 2] > 0).astype(int)
    assert episode_returns(lean, "CartPole-v1", 200, 0).mean() == pytest.approx(
        TRIVIAL_RETURN, abs=2
    )
    assert ch.random_returns("CartPole-v1", 200, 0).mean() < TRIVIAL_RETURN / 1.5


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ppo_learns_cartpole(seed):
    config = dataclasses.replace(ch.PPO_POLE, steps=30_000)
    first, *_, end = ch.train_ppo(config, seed)
    assert end.metrics["mean_return"] > TRIVIAL_RETURN + 80
    assert 0 < end.metrics["approx_kl"] < 0.05 and end.metrics["entropy"] < 0.69
    assert first.metrics["explained_variance"] < end.metrics["explained_variance"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a2c_learns_cartpole(seed):
    end = last(ch.train_a2c(dataclasses.replace(ch.A2C_POLE, steps=50_000), seed))
    assert end.metrics["mean_return"] > TRIVIAL_RETURN + 60


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a3c_learns_cartpole(seed):
    config = dataclasses.replace(ch.A3C_POLE, steps=80_000)
    net = ch.net_of(last(ch.train_a3c(config, seed)).state()["net"], "CartPole-v1")
    assert ch.score(net, "CartPole-v1", seed).mean() > TRIVIAL_RETURN + 60


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_acer_learns_cartpole(seed):
    end = last(ch.train_acer(dataclasses.replace(ch.ACER_POLE, steps=25_000), seed))
    assert end.metrics["mean_return"] > TRIVIAL_RETURN + 60


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_trpo_learns_cartpole(seed):
    config = dataclasses.replace(ch.TRPO_POLE, steps=30_000)
    end = last(ch.train_on_policy(config, seed, None, "cpu", ch.trpo_update))
    assert end.metrics["mean_return"] > TRIVIAL_RETURN + 60 and end.metrics["kl"] <= ch.MAX_KL


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a2c", "ppo", "acer", "a3c"])
def test_training_goes_on_where_it_stopped(name, tmp_path):
    """Half a run, through a checkpoint, and the other half: counters, weights and moments carry over."""
    small = {"env_id": "CartPole-v1", "steps": 8192, "num_envs": 8, "workers": 1}
    train, config = getattr(ch, f"train_{name}"), getattr(ch, f"{name.upper()}Config")(**small)
    run = train(config, 1)
    half = next(run)
    state = half.state()
    run.close()
    save_checkpoint(tmp_path / "run.safetensors", state, config=config)
    stored = load_checkpoint(tmp_path / "run.safetensors", config)["state"]
    end = last(train(config, 1, stored))
    assert 4096 <= half.step < end.step == 8192
    moments = end.state()["shared"][3:4] if name == "a3c" else end.state()["optimiser"]["state"][0]
    taken = moments[0] if name == "a3c" else moments["step"]
    before = state["shared"][3] if name == "a3c" else state["optimiser"]["state"][0]["step"]
    assert taken > before > 0
    again = last(train(config, 1, end.state()))  # a finished run reports and ends
    assert again.step == 8192 and again.metrics == end.metrics
    for key, weights in again.state()["net"].items():
        torch.testing.assert_close(weights, end.state()["net"][key], rtol=0, atol=0)
