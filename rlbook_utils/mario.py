"""Super Mario Bros. behind Gymnasium's API: one emulator, or several over processes.

The emulator's packages were written for the old ``gym`` and for NumPy 1, and are mended here, once: they find
Gymnasium where they import ``gym``, and they read the console's bytes as Python integers, which do not overflow.
"""

import sys
import time
from collections.abc import Callable
from functools import cache
from multiprocessing.connection import Connection

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from rlbook_utils.workers import spawn

RIGHT, LEFT, DOWN, UP, RUN, JUMP = 128, 64, 32, 16, 2, 1  # bits of the joypad
ACTIONS = {
    "wait": 0, "right": RIGHT, "right, jump": RIGHT | JUMP, "right, run": RIGHT | RUN,
    "right, jump, run": RIGHT | JUMP | RUN, "jump": JUMP, "left": LEFT, "left, jump": LEFT | JUMP,
    "left, run": LEFT | RUN, "left, jump, run": LEFT | JUMP | RUN, "down": DOWN, "up": UP,
}  # fmt: skip
BUTTONS = tuple(ACTIONS.values())
SCREEN = (240, 256, 3)


class MarioError(RuntimeError):
    """The emulator is not installed here."""


class MarioEnv(gym.Env):
    """World 1-1, from Mario's first step to his death or the flag. A step holds the same buttons for ``repeat`` frames.

    Observations are screens [240, 256, 3]. The reward is the package's, summed over the frames: pixels gained to
    the right, less ticks of the game's clock, less 15 for a death. Once Mario's furthest x has not grown for
    ``stuck`` steps, the episode is truncated. info: the package's values, and "furthest", the largest x so far.
    The game draws no random numbers: equal actions make equal episodes, whatever the seed.
    Raises MarioError where the emulator is not installed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 60}  # noqa: RUF012
    observation_space = Box(0, 255, SCREEN, np.uint8)

    def __init__(self, repeat: int = 6, stuck: int = 80, render_mode: str = "rgb_array") -> None:
        self.repeat, self.stuck, self.render_mode = repeat, stuck, render_mode
        self.action_space = Discrete(len(BUTTONS))
        self.console = _console_class()(target=(1, 1))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        super().reset(seed=seed)
        screen = self.console.reset()
        info = self.console._get_info()
        self.furthest, self.waited = info["x_pos"], 0
        return screen.copy(), info | {"furthest": self.furthest}

    def step(self, action: int) -> tuple:
        reward, before = 0.0, self.furthest
        for _ in range(self.repeat):
            frame_reward, terminated = self.console.play_frame(BUTTONS[action])
            reward += frame_reward
            self.furthest = max(self.furthest, self.console._x_position)
            if terminated:
                break
        self.waited = 0 if self.furthest > before else self.waited + 1
        truncated = self.waited >= self.stuck and not terminated
        info = self.console._get_info() | {"furthest": self.furthest}
        return self.console.screen.copy(), reward, terminated, truncated, info

    def render(self) -> np.ndarray:
        return self.console.screen.copy()

    def close(self) -> None:
        if self.console._env is not None:
            self.console.close()


@cache
def _console_class() -> type:
    """The emulator's own environment, mended. Raises MarioError, saying how to get it."""
    stand_in = {"gym": gym, "gym.spaces": gym.spaces}
    before = {name: sys.modules[name] for name in stand_in if name in sys.modules}
    sys.modules.update(stand_in)
    try:
        from gym_super_mario_bros import SuperMarioBrosEnv
        from nes_py._rom import ROM
    except Exception as error:  # not there, or there without its compiled library
        raise MarioError(
            f"Super Mario Bros. cannot be played here ({type(error).__name__}: {error}). Install the emulator with "
            "`pip install --no-deps -r requirements-mario.lock`; it is compiled in passing, which takes "
            "a C++ compiler (Debian, Ubuntu: apt install g++)."
        ) from error
    finally:
        for name in stand_in:
            del sys.modules[name]
        sys.modules.update(before)
    header = ROM.header.fget
    ROM.header = property(lambda rom: header(rom).astype(int))

    class Console(SuperMarioBrosEnv):
        def _ram_buffer(self) -> memoryview:
            return memoryview(super()._ram_buffer())  # whose items are Python's integers

        @property
        def _left_x_position(self) -> int:
            return (self.ram[0x86] - self.ram[0x71C]) % 256

        def play_frame(self, buttons: int) -> tuple[float, bool]:
            """The package's ``step`` without the dictionary that it would make of every frame."""
            self._frame_advance(buttons)
            reward, over = float(np.clip(self._get_reward(), *self.reward_range)), self._get_done()
            self._did_step(over)
            return reward, over

    return Console


class MarioEnvs(VectorEnv):
    """N ``MarioEnv`` over processes, in lockstep; an observation is the last three pictures, [3, H, W] bytes.

    view: screens [n, 240, 256, 3] -> pictures [n, H, W]; the workers call it, so that only pictures travel.
    An environment resets in the step that ends its episode; with a negative action it rests. furthest: [N], the
    episodes' furthest x at the last step, ended ones included. seconds: what the first worker has spent on
    {"emulator", "view"} so far.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int,
        workers: int,
        view: Callable[[np.ndarray], np.ndarray],
        repeat: int = 6,
        stuck: int = 80,
    ) -> None:
        _console_class()  # a missing emulator is reported here, not by a worker that has died
        shares = [len(s) for s in np.array_split(range(num_envs), min(workers, num_envs))]
        self.splits, self.num_envs = np.cumsum(shares)[:-1], num_envs
        self.workers = [spawn(_serve, share, view, repeat, stuck) for share in shares]
        picture = view(np.zeros((1, *SCREEN), np.uint8))[0]
        self.single_observation_space = Box(0, 255, (3, *picture.shape), np.uint8)
        self.single_action_space = Discrete(len(BUTTONS))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        super().reset(seed=seed)
        obs, self.furthest = self._ask([None] * len(self.workers))[:2]
        return obs, {}

    def step(self, actions: np.ndarray) -> tuple:
        answers = self._ask(np.split(actions, self.splits))
        obs, self.furthest, rewards, terminated, truncated, final_obs = answers
        return obs, rewards, terminated, truncated, {"final_obs": final_obs}

    def _ask(self, orders: list) -> list[np.ndarray]:
        for (_, connection), order in zip(self.workers, orders, strict=True):
            connection.send(order)
        answers, seconds = zip(*(connection.recv() for _, connection in self.workers), strict=True)
        self.seconds = seconds[0]
        return [np.concatenate(column) for column in zip(*answers, strict=True)]

    def close_extras(self, **kwargs: object) -> None:
        for process, connection in self.workers:
            connection.close()
            process.wait()


def _serve(connection: Connection, count: int, view: Callable, repeat: int, stuck: int) -> None:
    """The life of a worker: actions [n] in (None: reset all), what followed out."""
    envs = [MarioEnv(repeat, stuck) for _ in range(count)]
    screens = np.empty((count, *SCREEN), np.uint8)
    seconds = {"emulator": 0.0, "view": 0.0}
    obs = None
    while True:
        actions = connection.recv()
        if actions is None:
            for i, env in enumerate(envs):
                screens[i], _ = env.reset()
            obs = np.repeat(view(screens)[:, None], 3, axis=1)  # [n, 3, H, W]
            connection.send(((obs, np.array([env.furthest for env in envs])), seconds))
            continue
        began = time.perf_counter()
        outcomes = []
        for i, (env, action) in enumerate(zip(envs, actions, strict=True)):
            if action < 0:
                outcomes.append((env.furthest, 0.0, False, False))
                continue
            screens[i], *outcome, info = env.step(action)
            outcomes.append((info["furthest"], *outcome))
        seconds["emulator"] += time.perf_counter() - began
        began = time.perf_counter()
        obs = np.concatenate([obs[:, 1:], view(screens)[:, None]], axis=1)
        seconds["view"] += time.perf_counter() - began
        furthest, rewards, terminated, truncated = map(np.array, zip(*outcomes, strict=True))
        final_obs = np.full(count, None, object)
        for i in np.flatnonzero(terminated | truncated):
            final_obs[i] = obs[i].copy()
            screens[i], _ = envs[i].reset()
            obs[i] = view(screens[i : i + 1])
        connection.send(((obs, furthest, rewards, terminated, truncated, final_obs), seconds))
