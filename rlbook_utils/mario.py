"""Super Mario Bros. behind Gymnasium's API: any number of games on one console, in this process or over several.

The console is the fceumm core of stable-retro, of which a process may hold one. A game is a savestate (13 kB) that is
loaded before each decision and stored after it, so that games do not feel each other. The game's file comes from the
package gym-super-mario-bros, of which nothing is imported; rewards and values are those of that package.
"""

import threading
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from rlbook_utils.workers import Crew

ACTIONS = (
    "wait", "right", "right, jump", "right, run", "right, jump, run", "jump",
    "left", "left, jump", "left, run", "left, jump, run", "down", "up",
)  # fmt: skip
JOYPAD = ("run", None, "select", "start", "up", "down", "left", "right", "jump")  # the core's order
NOTHING, START, *BUTTONS = (
    np.array([key in names.split(", ") for key in JOYPAD], np.uint8)
    for names in ("", "start", *ACTIONS)
)
SCREEN = (224, 240, 3)  # without the 8 pixels at each edge that a television hides
BUSY = frozenset({0, 1, 2, 3, 4, 5, 7})  # in a pipe, on a vine, between areas


class MarioError(RuntimeError):
    """The emulator or its game is not installed here."""


class Console:
    """The one console of a process. ``start``: the savestate as World 1-1 begins; ``screen``: what is seen then.

    Raises MarioError where the emulator or the game is missing.
    """

    lock = threading.RLock()  # held from the loading of a game to its storing

    def __init__(self) -> None:
        try:
            from stable_retro import RetroEmulator

            (package,) = find_spec("gym_super_mario_bros").submodule_search_locations
            self.machine = RetroEmulator(str(Path(package, "_roms", "super-mario-bros.nes")))
            self.begin()
        except Exception as error:  # one of the two is not there, or not made for this machine
            self.machine = None  # so that another attempt can be made
            raise MarioError(
                f"Super Mario Bros. cannot be played here ({type(error).__name__}: {error}): it takes "
                "`pip install --only-binary :all: stable-retro==1.0.1`, which is made for Linux on x86-64 and macOS on arm64, "
                "and `pip install --no-deps gym-super-mario-bros==7.4.0`."
            ) from error

    def begin(self) -> None:
        """From power-on to Mario's first step. Raises RuntimeError if the game does not come so far."""
        ram = b"RAM\0\0\x08\0\0"  # name and size; 2,048 bytes follow
        self.ram_at = self.machine.get_state().index(ram) + len(ram)
        for _ in range(1000):
            if self.frame(START)[1][0x770] == 1:  # past the title
                break
            self.frame(NOTHING)
        if not any(self.frame(NOTHING)[1][0x0E] == 8 for _ in range(1000)):  # Mario can move
            raise RuntimeError("the game does not begin")
        self.start, _ = self.frame(NOTHING)  # an odd frame, as with nes-py: enemies move as there
        self.screen = self.machine.get_screen()

    def frame(self, buttons: np.ndarray) -> tuple[bytes, bytes]:
        """One frame with these buttons [9]: the savestate after it, and the console's memory, 2,048 bytes of that."""
        self.machine.set_button_mask(buttons, 0)
        self.machine.step()
        state = self.machine.get_state()
        return state, state[self.ram_at : self.ram_at + 2048]


console = cache(Console)  # the same whenever it is asked for


def is_dead(ram: bytes) -> bool:
    """Whether Mario is dying, dead, or below the screen."""
    return ram[0x0E] in (0x06, 0x0B) or ram[0xB5] > 1


def has_flag(ram: bytes) -> bool:
    """Whether Mario hangs on (0x1D is 3) the flag's pole (a thing of kind 0x31), not just anywhere near it."""
    return ram[0x1D] == 3 and 0x31 in ram[0x16:0x1B]


def values_of(ram: bytes) -> dict[str, int | bool]:
    """What the console's memory says; x in pixels from the left end of the area."""
    x, clock = 256 * ram[0x6D] + ram[0x86], int(ram[0x7F8:0x7FB].hex()[1::2])  # a digit a byte
    return {"x_pos": x, "time": clock, "life": ram[0x75A], "flag_get": has_flag(ram)}


class MarioEnv(gym.Env):
    """World 1-1, from Mario's first step to his death or the flag. A step holds the same buttons for ``repeat`` frames.

    Observations are screens [224, 240, 3]. The reward is the package's, summed over the frames: pixels gained to
    the right, less ticks of the game's clock, less 15 for a death. Once Mario's furthest x has not grown for
    ``stuck`` steps, the episode is truncated. A way through a pipe passes within a step, without buttons.
    info: ``values_of``, and "furthest", the largest x so far. The game draws no random numbers: equal actions make equal
    episodes, whatever the seed. Raises MarioError where the emulator is not installed.
    """

    observation_space = Box(0, 255, SCREEN, np.uint8)

    def __init__(self, repeat: int = 6, stuck: int = 80) -> None:
        self.repeat, self.stuck = repeat, stuck
        self.action_space, self.console = Discrete(len(ACTIONS)), console()
        self.state: bytes | None = None

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        super().reset(seed=seed)
        self.state, self.screen, self.waited = self.console.start, self.console.screen, 0
        self.info = values_of(self.state[self.console.ram_at :])
        self.info["furthest"] = self.info["x_pos"]
        return self.screen.copy(), self.info

    def step(self, action: int) -> tuple:
        if self.state is None:
            raise gym.error.ResetNeeded("No game is on: call reset, also after each end.")
        if not 0 <= action < len(ACTIONS):
            raise ValueError(f"An action is a number from 0 to {len(ACTIONS) - 1}, not {action}.")
        reward, before = 0.0, self.info["furthest"]
        with self.console.lock:
            self.console.machine.set_state(self.state)
            for _ in range(self.repeat):
                self.state, ram = self.console.frame(BUTTONS[action])
                while ram[0x0E] in BUSY and not has_flag(ram):
                    self.state, ram = self.console.frame(NOTHING)
                last, self.info = self.info, values_of(ram)
                x, ticks = self.info["x_pos"], last["time"] - self.info["time"]
                self.info["furthest"] = max(last["furthest"], x)
                gained = x - last["x_pos"] if abs(x - last["x_pos"]) <= 5 else 0  # a pipe is no way
                reward += max(gained - max(ticks, 0) - 25 * is_dead(ram), -15)
                if over := is_dead(ram) or has_flag(ram):
                    self.state = None
                    break
            self.screen = self.console.machine.get_screen()
        self.waited = 0 if self.info["furthest"] > before else self.waited + 1
        return self.screen, reward, over, self.waited >= self.stuck and not over, self.info


class MarioGames(VectorEnv):
    """N ``MarioEnv`` in lockstep; an observation is the last three pictures, [3, H, W] bytes.

    view: screens [n, 224, 240, 3] -> pictures [n, H, W]. workers: 0 plays all games in this process; more share them
    and call ``view``, so that only pictures travel. A game resets in the step that ends it; with a negative action it
    rests. info: ``MarioEnv``'s as arrays [N], of the ended game where one ended, and "final_obs".
    obs, furthest, flags: what was seen last, [N, 3, H, W], and the last info's "furthest" and "flag_get", [N].
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(
        self, num_envs: int, view: Callable, workers: int = 0, repeat: int = 6, stuck: int = 80
    ) -> None:
        first = view(console().screen[None])  # [1, H, W]; a missing emulator is told here
        self.first, self.view, self.num_envs = np.repeat(first, 3, axis=0), view, num_envs
        self.games = [MarioEnv(repeat, stuck) for _ in range(0 if workers else num_envs)]
        parts = np.array_split(range(num_envs), min(workers, num_envs)) if workers else []
        self.splits = [part[0] for part in parts[1:]]
        self.crew = Crew(_serve, [(len(part), view, 0, repeat, stuck) for part in parts])
        self.single_observation_space = Box(0, 255, self.first.shape, np.uint8)
        self.single_action_space = Discrete(len(ACTIONS))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        super().reset(seed=seed)
        if self.crew.members:
            return self._told(self.crew.ask([None] * len(self.crew.members)))
        for game in self.games:
            _, info = game.reset()
        self.infos = {name: np.full(self.num_envs, value) for name, value in info.items()}
        self.stacks = np.stack([self.first] * self.num_envs)
        return self._told([(self.stacks, self.infos)])

    def step(self, actions: np.ndarray) -> tuple:
        """actions: [N], each from 0 to 11, or negative for a game that rests."""
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or actions.max() >= len(ACTIONS):
            raise ValueError(f"{self.num_envs} games take actions below 12, not {actions}.")
        if self.crew.members:
            return self._told(self.crew.ask(np.split(actions, self.splits)))
        rewards, ends = np.zeros(self.num_envs), np.zeros((2, self.num_envs), bool)
        final = np.full(self.num_envs, None, object)
        for n in np.flatnonzero(actions >= 0):
            screen, rewards[n], *ends[:, n], info = self.games[n].step(actions[n])
            for name, value in info.items():
                self.infos[name][n] = value
            self.stacks[n, :-1], self.stacks[n, -1] = self.stacks[n, 1:], self.view(screen[None])[0]
            if ends[:, n].any():
                final[n] = self.stacks[n].copy()
                self.games[n].reset()
                self.stacks[n] = self.first
        return self._told([(self.stacks, rewards, *ends, self.infos | {"final_obs": final})])

    def _told(self, answers: list[tuple]) -> tuple:
        """Columns of several players, or of one, with their infos at last: as if one had answered."""
        *columns, infos = zip(*answers, strict=True)
        info = {name: np.concatenate([part[name] for part in infos]) for name in infos[0]}
        self.obs, *outcome = map(np.concatenate, columns)
        self.furthest, self.flags = info["furthest"], info["flag_get"]
        return self.obs, *outcome, info

    def close_extras(self, **kwargs: object) -> None:
        self.crew.close()


def _serve(connection: Connection, *arguments: object) -> None:
    """The life of a worker: actions [n] in (None: reset all), what followed out."""
    games = MarioGames(*arguments)
    while True:
        actions = connection.recv()
        connection.send(games.reset() if actions is None else games.step(actions))
