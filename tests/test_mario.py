"""The Mario adapter: many games on one console against each alone, values against memory, and against another emulator."""

import itertools
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

from rlbook_utils import mario, workers
from rlbook_utils.rollout import transitions

try:
    mario.console()
except mario.MarioError as missing:
    pytestmark = pytest.mark.skip(reason=str(missing))

WAIT, RUN, HOP, LEFT = 0, 3, 4, 6  # wait; right, run; right, jump, run; left

# One way to the flag, found by random search from savestates: an action a decision, 284 of them.
FLAG = (
    "6253434414434342433326424445144143433444343414324434424536444444146344442624243212241134433131164324"
    "3341453412342344424444434442643453624443246433433564343344462413443224241234433443434434444324444444"
    "361355443336442334344314632314445544124341342234334444446434424436432433343435244323"
)  # fmt: skip

# What nes-py 8.2.1 with gym-super-mario-bros 7.4.0 made of these actions: x after each decision, death in frame 620.
NES_PY = {
    "actions": "04325133142546461134234144544340443244453442413443545644304464543230164064312214333145403005130423436345",
    "x": [
        40, 41, 44, 50, 57, 65, 76, 91, 109, 127, 145, 163, 181, 197, 213, 229, 243, 254, 266, 282, 300, 318,
        336, 354, 372, 390, 408, 426, 444, 462, 480, 498, 516, 534, 552, 570, 588, 606, 624, 642, 660, 678, 696, 714,
        722, 722, 722, 722, 722, 722, 722, 722, 722, 721, 720, 721, 722, 722, 722, 722, 720, 717, 716, 715, 718, 722,
        722, 722, 722, 721, 719, 719, 719, 717, 719, 722, 722, 722, 722, 722, 722, 722, 722, 722, 722, 722, 723, 725,
        727, 731, 733, 733, 735, 738, 743, 749, 757, 767, 778, 788, 798, 807, 818,
    ],
    "death": 620,
}  # fmt: skip


# Some view: every fifth row and sixth column, the brightest colour, [n, 224, 240, 3] -> [n, 42, 40].
# A lambda, so that it travels to the workers by value.
shrink = lambda screens: screens[:, 14::5, ::6].max(-1)


def fresh(**options):
    env = mario.MarioEnv(**options)
    env.reset(seed=0)
    return env


def memory(env):
    """The console's 2,048 bytes as they lie in the game's savestate."""
    return env.state[env.console.ram_at :][:2048]


def silent(state):
    """A savestate without the sound's noise generator (2 bytes): it runs on across games, and no game can hear it."""
    at = state.index(b"NREG\2\0\0\0") + 8
    return state[:at] + state[at + 2 :]


def plan(seed, decisions=80):
    """Actions mostly to the right."""
    return np.random.default_rng(seed).choice([0, 1, 2, 3, 4, 4, 5, 6], size=decisions)


def right_run():
    """A fixed way to the right, past x = 255, until Mario dies."""
    env = fresh(repeat=4)
    for t in range(400):
        yield env, *(outcome := env.step(HOP if t % 12 < 8 else RUN))
        if outcome[2]:
            return


# One game


def test_five_values_and_gymnasiums_own_checks():
    env = mario.MarioEnv(repeat=1)
    obs, info = env.reset(seed=3)
    assert obs.shape == (224, 240, 3) and obs.dtype == np.uint8
    assert info == {"x_pos": 40, "time": 400, "life": 2, "flag_get": False, "furthest": 40}
    obs, reward, terminated, truncated, info = env.step(RUN)
    assert isinstance(reward, float) and terminated is False and truncated is False
    assert env.observation_space.contains(obs)
    check_env(env, skip_render_check=True)


def test_every_button_is_the_one_of_its_name():
    """The joypad as the game reads it: right, left, down, up, start, select, B (run) and A (jump) from 1 to 128."""
    bits = {"right": 1, "left": 2, "down": 4, "up": 8, "run": 64, "jump": 128, "wait": 0}
    for action, name in enumerate(mario.ACTIONS):
        env = fresh(repeat=2)
        env.step(action)
        pressed = memory(env)[0x6FC]
        assert pressed == sum(bits[key] for key in name.split(", ")), name
    assert len(set(mario.ACTIONS)) == len(mario.BUTTONS) == 12


def test_info_is_what_the_memory_says_also_beyond_255():
    seen = []
    for env, _, _, terminated, _, info in right_run():
        if not terminated:
            ram = memory(env)
            assert info["x_pos"] == 256 * ram[0x6D] + ram[0x86]
            assert info["time"] == int("".join(map(str, ram[0x7F8:0x7FB])))
            assert info["life"] == ram[0x75A]
        seen.append(info["x_pos"])
        assert info["furthest"] == max(40, *seen)
    assert max(seen) > 300 and np.abs(np.diff(seen)).max() < 40  # no jump where a byte runs over
    assert terminated and info["life"] == 2 and not info["flag_get"]


def test_a_game_is_that_of_another_emulator_one_frame_ahead():
    env, x, terminated = fresh(repeat=1, stuck=10**6), [40], False
    for action in np.repeat([int(action) for action in NES_PY["actions"]], 6):
        *_, terminated, _, info = env.step(action)
        x.append(info["x_pos"])
        if terminated:
            break
    assert len(x) == NES_PY["death"]  # frames 0 to 619
    assert x[5::6] == NES_PY["x"] and terminated


def test_rewards_are_pixels_less_ticks_less_death():
    rewards, x, clock = [], [40], [400]
    env, terminated = fresh(repeat=1), False
    for t in itertools.count():
        _, reward, terminated, _, info = env.step(HOP if t % 48 < 32 else RUN)
        rewards.append(reward)
        x.append(info["x_pos"])
        clock.append(info["time"])
        if terminated:
            break
    expected = np.diff(x) + np.diff(clock)
    np.testing.assert_array_equal(rewards[:-1], expected[:-1])
    assert rewards[-1] == -15 and clock[-1] < 398


def test_after_death_a_reset_begins_anew():
    *_, (env, _, reward, terminated, truncated, _) = right_run()
    assert terminated and not truncated and reward < 0
    with pytest.raises(ResetNeeded, match=r"^No game is on: call reset[^\n]*$"):
        env.step(RUN)
    obs, info = env.reset()
    first, start = mario.MarioEnv().reset()
    np.testing.assert_array_equal(obs, first)
    assert info == start
    for _ in range(5):
        *_, terminated, truncated, info = env.step(RUN)
        assert not terminated and not truncated
    assert info["x_pos"] > 50


def test_progress_is_that_of_the_whole_episode_and_standing_still_ends_it():
    env = fresh(repeat=6, stuck=5)
    for _ in range(8):
        *_, info = env.step(RUN)
    reached = info["furthest"]
    assert reached == info["x_pos"] > 100
    truncated, furthest = False, []
    while not truncated:
        *_, terminated, truncated, info = env.step(LEFT)  # it takes a while to turn
        furthest.append(info["furthest"])
        assert not terminated
    assert reached < furthest[-1] < reached + 60 and info["x_pos"] < furthest[-1]
    assert (
        furthest.count(furthest[-1]) == 6
    )  # the step that got there, and five that got no further


def test_a_repeated_action_is_the_frames_one_by_one():
    whole, single = fresh(repeat=6), fresh(repeat=1)
    for action in (3, 4, 4, 1, 6, 0):
        obs, reward, *_, info = whole.step(action)
        parts = [single.step(action) for _ in range(6)]
        np.testing.assert_array_equal(obs, parts[-1][0])
        assert reward == sum(part[1] for part in parts)
        assert info == parts[-1][4] and silent(whole.state) == silent(single.state)


def test_observations_and_infos_are_not_written_to_later():
    env = fresh()
    screen, info = env.reset()
    screen[:] = 0  # nor does what a caller does to them come back
    first, info = env.step(RUN)[0], env.step(RUN)[4]
    kept = first.copy(), dict(info)
    for _ in range(5):
        env.step(RUN)
    np.testing.assert_array_equal(first, kept[0])
    assert info == kept[1] and env.reset()[0].any()


def test_the_way_to_the_flag_ends_there():
    env = fresh()
    for number, action in enumerate(FLAG, 1):
        _, reward, terminated, truncated, info = env.step(int(action))
        assert terminated == info["flag_get"] == (number == len(FLAG)), number
        assert not truncated and (number < 270 or info["x_pos"] > 3000 or not terminated)
    assert info["x_pos"] == info["furthest"] == 3161 and reward > -15 and info["life"] == 2


@pytest.mark.parametrize(
    ("state", "pole", "kind", "x", "flag"),
    [(4, 3, 0x31, 3161, True), (4, 3, 0x31, 200, True), (8, 0, 0x31, 3154, False), (4, 0, 0x31, 3200, False),
     (5, 1, 0x31, 3250, False), (1, 3, 0x06, 3200, False), (8, 3, 0x06, 300, False)],
)  # fmt: skip
def test_the_flag_is_the_pole_and_nothing_else(state, pole, kind, x, flag):
    """Busy, or on a vine, or far to the right, or waiting before the pole: none of them is the flag."""
    ram = bytearray(2048)
    ram[0x0E], ram[0x1D], ram[0x1A], ram[0x6D], ram[0x86] = state, pole, kind, *divmod(x, 256)
    assert mario.has_flag(bytes(ram)) is flag
    assert mario.values_of(bytes(ram)) == {"x_pos": x, "time": 0, "life": 0, "flag_get": flag}


@pytest.mark.parametrize(
    ("state", "page", "dead"), [(8, 1, False), (8, 0, False), (11, 1, True), (6, 1, True), (8, 2, True)]
)  # fmt: skip
def test_death_is_dying_or_falling(state, page, dead):
    ram = bytearray(2048)
    ram[0x0E], ram[0xB5] = state, page  # page 0 is above the screen
    assert mario.is_dead(bytes(ram)) is dead


def test_a_way_through_a_pipe_passes_without_buttons_within_a_step():
    env = fresh()
    for action in (*FLAG[:73], 2):  # onto the fourth pipe
        env.step(int(action))
    before, by_hand, frames = env.info, env.state, 0
    _, reward, terminated, _, info = env.step(10)  # down
    env.console.machine.set_state(by_hand)
    for _ in range(6):
        by_hand, ram = env.console.frame(mario.BUTTONS[10])
    while ram[0x0E] != 8:  # until Mario can be moved again
        by_hand, ram = env.console.frame(mario.NOTHING)
        frames += 1
    assert silent(env.state) == silent(by_hand) and 60 < frames < 200
    assert before["x_pos"] > 900 and info["x_pos"] < 50  # in the cellar
    assert before["furthest"] <= info["furthest"] < 930 and -5 < reward < 20 and not terminated


# Many games on one console


def test_many_games_in_one_process_are_each_game_alone_bit_by_bit():
    plans = np.stack([plan(seed) for seed in range(6)])  # [6, decisions]
    alone = []
    for actions in plans:
        env, trace = fresh(), []
        for action in actions:
            screen, *outcome = env.step(action)
            trace.append(
                (env.state and silent(env.state), screen, outcome)
            )  # an end leaves no state
            if outcome[1]:
                break
        alone.append(trace)
    together, deaths = [fresh() for _ in plans], 0
    for t in range(plans.shape[1]):
        for env, actions, trace in zip(together, plans, alone, strict=True):
            if t < len(trace):
                screen, *outcome = env.step(actions[t])
                assert outcome == trace[t][2]
                assert (env.state and silent(env.state)) == trace[t][0]
                np.testing.assert_array_equal(screen, trace[t][1])
                deaths += outcome[1]
    assert deaths >= 1 and len({trace[20][0] for trace in alone}) == 6


def test_a_stored_game_goes_on_as_if_it_had_not_been_left():
    env = fresh()
    for action in plan(3, 30):
        env.step(action)
    stored, info = env.state, env.info
    first = [env.step(action) for action in plan(4, 20)]
    other = fresh()
    for _ in range(7):
        other.step(HOP)
    other.state, other.info, other.waited = stored, info, 0
    again = [other.step(action) for action in plan(4, 20)]
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one[0], two[0])
        assert one[1:3] == two[1:3] and one[4] == two[4]
    assert silent(env.state) == silent(other.state)


def test_threads_do_not_disturb_each_other():
    expected, traces = [], [[], []]
    for seed in (0, 1):
        env = fresh()
        expected.append([env.step(action)[4] for action in plan(seed, 15)])
    envs = [fresh(), fresh()]

    def play(n):
        traces[n] += [envs[n].step(action)[4] for action in plan(n, 15)]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=play, args=(n,)) for n in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert traces == expected


@pytest.mark.parametrize("processes", [0, 2])
def test_games_are_the_single_games_stacks_ends_and_all(processes):
    actions = np.random.default_rng(0).choice([0, 1, 4, 6], size=(40, 3), p=[0.4, 0.1, 0.3, 0.2])
    alone, stacks = [mario.MarioEnv(4, stuck=4) for _ in range(3)], []
    for env in alone:
        stacks.append([shrink(env.reset()[0][None])[0]] * 3)
    ends = 0
    with closing(mario.MarioGames(3, shrink, processes, repeat=4, stuck=4)) as games:
        obs, info = games.reset(seed=0)
        np.testing.assert_array_equal(obs, stacks)
        assert info["x_pos"].tolist() == games.furthest.tolist() == [40, 40, 40]
        for row in actions:
            obs, rewards, terminated, truncated, info = games.step(row)
            assert obs.shape == (3, 3, 42, 40) and obs.dtype == np.uint8
            for i, env in enumerate(alone):
                screen, *outcome, details = env.step(row[i])
                assert outcome == [rewards[i], terminated[i], truncated[i]]
                assert details == {name: info[name][i] for name in details}
                assert games.furthest[i] == details["furthest"]
                stacks[i] = [*stacks[i][1:], shrink(screen[None])[0]]
                if terminated[i] or truncated[i]:
                    ends += 1
                    np.testing.assert_array_equal(info["final_obs"][i], stacks[i])
                    stacks[i] = [shrink(env.reset()[0][None])[0]] * 3
                else:
                    assert info["final_obs"][i] is None
                np.testing.assert_array_equal(obs[i], stacks[i])
    assert ends >= 3 and len(games.crew.members) == processes
    assert all(process.poll() is not None for process, _ in games.crew.members)


def test_fewer_games_than_workers():
    with closing(mario.MarioGames(1, shrink, 2)) as games:
        games.reset(seed=0)
        obs, *_ = games.step(np.array([3]))
        assert obs.shape == (1, 3, 42, 40) and len(games.crew.members) == 1


def test_what_was_answered_is_not_written_to_later():
    games = mario.MarioGames(2, shrink)
    obs, info = games.reset()
    kept = obs.copy(), info["x_pos"].copy()
    later, *_ = games.step(np.array([RUN, HOP]))
    for _ in range(5):
        games.step(np.array([RUN, HOP]))
    np.testing.assert_array_equal(obs, kept[0])
    np.testing.assert_array_equal(info["x_pos"], kept[1])
    obs[:] = later[:] = 0
    assert games.step(np.array([RUN, HOP]))[0][:, 0].any()


def test_a_transition_that_ends_an_episode_keeps_its_own_last_picture():
    rng = np.random.default_rng(1)
    stream = transitions(
        mario.MarioGames(2, shrink, repeat=4, stuck=3),
        lambda obs: rng.choice([0, 6], size=len(obs)),
        seed=0,
    )
    steps = [next(stream) for _ in range(12)]
    ended = 0
    for step, later in itertools.pairwise(steps):
        done = step.terminated | step.truncated
        ended += done.sum()
        np.testing.assert_array_equal(step.next_obs[~done], later.obs[~done])
        for n in np.flatnonzero(done):  # a stack overlaps with the one before, a fresh start not
            np.testing.assert_array_equal(step.next_obs[n, :2], step.obs[n, 1:])
            assert (later.obs[n, 0] == later.obs[n, 2]).all()
        assert step.valid.all()
    assert ended > 0


def test_a_game_with_a_negative_action_rests_and_goes_on_where_it_was():
    alone, games = fresh(repeat=6), mario.MarioGames(2, shrink)
    games.reset(seed=0)
    for action in (RUN, HOP, HOP):
        alone.step(action)
        obs, *_ = games.step(np.array([action, action]))
    before = obs[1].copy(), games.furthest[1]
    for _ in range(3):
        obs, rewards, terminated, truncated, _ = games.step(np.array([RUN, -1]))
        assert rewards[1] == 0 and not terminated[1] and not truncated[1]
        assert games.furthest[1] == before[1] and (obs[1] == before[0]).all()
    obs, *_ = games.step(np.array([RUN, RUN]))
    screen, *_, info = alone.step(RUN)
    np.testing.assert_array_equal(obs[1, -1], shrink(screen[None])[0])
    assert games.furthest[1] == info["furthest"]


# What can go wrong


@pytest.mark.parametrize("actions", [[12, 0], [0], [[0, 1]], 3])
def test_actions_that_are_none_are_told_in_one_sentence(actions):
    games = mario.MarioGames(2, shrink)
    games.reset()
    with pytest.raises(ValueError, match=r"^2 games take actions below 12, not [^\n]*\.$"):
        games.step(np.array(actions))


@pytest.mark.parametrize("action", [-1, 12])
def test_an_action_that_is_none_is_told_in_one_sentence(action):
    with pytest.raises(ValueError, match=rf"^An action is a number from 0 to 11, not {action}\.$"):
        fresh().step(action)


def test_a_step_before_the_first_reset_is_told():
    with pytest.raises(ResetNeeded, match="call reset"):
        mario.MarioEnv().step(RUN)


@pytest.mark.parametrize("module", ["stable_retro", "gym_super_mario_bros"])
def test_a_missing_emulator_is_one_sentence(module):
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from rlbook_utils import mario\n"
        "for make in (mario.MarioEnv, lambda: mario.MarioGames(2, None, 2)):\n"
        "    try: make()\n"
        "    except mario.MarioError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    first, second = done.stdout.splitlines()
    assert first == second and re.search(
        r"stable-retro==\S+`.*gym-super-mario-bros==\S+`\.$", first
    )
    assert first.startswith("Super Mario Bros. cannot be played here (") and not done.stderr


def test_another_core_or_another_game_is_one_sentence_and_the_next_attempt_is_free():
    code = (
        "import stable_retro\n"
        "from rlbook_utils import mario\n"
        "real = mario.Console.frame\n"
        "for start in (lambda self, buttons: (b'', bytes(2048)), lambda self, buttons: 1 / 0):\n"
        "    mario.Console.frame = start\n"
        "    try: mario.MarioEnv()\n"
        "    except mario.MarioError as error: print(error)\n"
        "mario.Console.frame = real\n"
        "print(mario.MarioEnv().reset()[1]['x_pos'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    hangs, fails, works = done.stdout.splitlines()
    assert "(RuntimeError: the game does not begin)" in hangs and "(ZeroDivisionError" in fails
    assert works == "40" and not done.stderr


def test_no_window_and_no_other_environment():
    code = (
        "import sys; from rlbook_utils.mario import MarioEnv; env = MarioEnv(); env.reset(); env.step(3);"
        "print([m for m in sys.modules if m.split('.')[0] in ('pyglet', 'gym', 'gym_super_mario_bros', 'nes_py')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "[]" and not found.stderr


def test_a_worker_that_dies_is_told_in_one_sentence_at_once():
    with closing(mario.MarioGames(2, shrink, 2)) as games:
        games.reset(seed=0)
        first, second = (process for process, _ in games.crew.members)
        second.kill()
        began = time.perf_counter()
        with pytest.raises(workers.WorkerDied, match=r"^A worker process ended before[^\n]*$"):
            for _ in range(3):
                games.step(np.array([RUN, RUN]))
        assert time.perf_counter() - began < 5
    assert first.poll() is not None and second.returncode == -signal.SIGKILL


def test_closing_does_not_wait_for_a_worker_that_hangs(monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE", 0.5)
    games = mario.MarioGames(2, shrink, 2)
    games.reset(seed=0)
    for process, _ in games.crew.members:
        process.send_signal(signal.SIGSTOP)  # it hears of nothing any more
    began = time.perf_counter()
    games.close()
    assert time.perf_counter() - began < 10
    assert all(process.returncode == -signal.SIGKILL for process, _ in games.crew.members)


@pytest.mark.parametrize(
    ("play", "home"),
    [(lambda t: 1, 40), (lambda t: 3, 40), (lambda t: 4 if t % 7 < 4 else 3, 1320)],
    ids=["walking", "running", "past the middle"],
)
def test_a_death_takes_53_to_60_decisions_and_leads_back_to_the_start_or_the_middle(play, home):
    env, over, t = mario.MarioEnv(), False, 0
    env.reset()
    while not over:
        over = env.step(play(t))[2]
        t += 1
    frames, places = 0, []
    while len(set(places)) < 2:  # until he has moved again
        _, ram = env.console.frame(mario.BUTTONS[1])
        frames += 1
        if frames > 60 and ram[0x0E] == 8:
            places.append(mario.values_of(ram)["x_pos"])
    assert places[0] == home and 53 <= frames / 6 <= 60
