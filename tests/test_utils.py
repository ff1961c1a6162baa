"""Rollouts, plots, video and widgets."""

import ast
import dataclasses
import pickle
import re
import time
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rlbook_utils import plots
from rlbook_utils.config import check_config, choice, knob
from rlbook_utils.definitions import CHAPTERS, load_chapter
from rlbook_utils.exercises import oracles
from rlbook_utils.notebooks import code_hash, read_script
from rlbook_utils.rollout import episode_returns, make_vector, spread, transitions
from rlbook_utils.run import Progress, Run, live_curve
from rlbook_utils.video import RenderError, record, show_clip
from rlbook_utils.widgets import Panel, image_slider, scrubber


class Count(gym.Env):
    """Observes how many steps it has made; ends after ``length`` of them, by truncation or termination."""

    observation_space = gym.spaces.Box(0, 100, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, length, truncates):
        self.length, self.truncates = length, truncates

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        end = self.steps == self.length
        obs = np.full(1, self.steps, np.float32)
        return obs, 1.0, end and not self.truncates, end and self.truncates, {}


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_transitions_end_episodes_properly(mode):
    makers = [lambda: Count(3, truncates=True), lambda: Count(2, truncates=False)]
    envs = SyncVectorEnv(makers, autoreset_mode=mode)
    stream = transitions(envs, lambda obs: np.zeros(2, int), seed=0)
    seen = [[], []]
    for _ in range(12):
        step = next(stream)
        for i in range(2):
            if step.valid[i]:
                row = (step.obs[i, 0], step.next_obs[i, 0], step.terminated[i], step.truncated[i])
                seen[i].append(row)
                assert step.rewards[i] == 1
    long = [(0, 1, False, False), (1, 2, False, False), (2, 3, False, True)]
    short = [(0, 1, False, False), (1, 2, True, False)]
    for rows, episode in zip(seen, (long, short), strict=True):
        assert rows == (episode * 6)[: len(rows)] and len(rows) >= 8


def test_episode_returns_agree_with_a_plain_loop():
    """The native vector CartPole, one environment at a time, against Gymnasium's single one."""
    policy = lambda obs: (obs[..., 2] + 0.3 * obs[..., 3] > 0).astype(int)
    ours = episode_returns(policy, "CartPole-v1", 200, seed=1)
    env, plain = gym.make("CartPole-v1"), []
    for seed in range(200):
        obs, _ = env.reset(seed=seed)
        total, done = 0.0, False
        while not done:
            obs, reward, terminated, truncated, _ = env.step(int(policy(obs)))
            total, done = total + reward, terminated or truncated
        plain.append(total)
    assert ours.shape == (200,) and ours.max() <= 500
    spread = np.hypot(np.std(ours), np.std(plain)) / np.sqrt(200)
    assert abs(ours.mean() - np.mean(plain)) < 4 * spread + 1e-9


def test_make_vector_takes_the_native_environment_where_there_is_one():
    assert type(make_vector("CartPole-v1", 3)).__name__ == "CartPoleVectorEnv"
    assert isinstance(make_vector("MountainCar-v0", 2), SyncVectorEnv)


def first_observations(envs, seed):
    return {tuple(row) for row in np.round(envs.reset(seed=seed)[0], 6).tolist()}


@pytest.mark.parametrize("same_step", [False, True])
def test_runs_share_no_environment(same_step):
    """Not seed + i, as Gymnasium does it: of 32 environments of seeds 1 and 2, 31 would begin alike."""
    runs = [
        first_observations(make_vector("LunarLander-v3", 32, same_step=same_step), s)
        for s in (1, 2, 3)
    ]
    assert [len(run) for run in runs] == [32] * 3 and len(set.union(*runs)) == 96
    plain = gym.make_vec("LunarLander-v3", 32, vectorization_mode="sync")
    assert len(first_observations(plain, 1) & first_observations(plain, 2)) == 31


def test_uses_of_one_seed_share_no_environment():
    uses = [1, 2, (1, 0), (1, 32_768), (2, 0), (2_000_003, 1), (1, 0, 0)]
    seeds = [seed for use in uses for seed in spread(use, 100)]
    assert len(set(seeds)) == 100 * len(uses) and all(0 <= seed < 2**32 for seed in seeds)
    assert spread(7, 10)[:4] == spread(7, 4) != spread(8, 4)


def test_environments_take_a_seed_each():
    envs = make_vector("LunarLander-v3", 3)
    together = envs.reset(seed=[11, 12, 13])[0]
    for row, seed in zip(together, (11, 12, 13), strict=True):
        np.testing.assert_array_equal(row, gym.make("LunarLander-v3").reset(seed=seed)[0])


def test_every_vector_environment_is_made_where_seeds_are_spread():
    """In functions; a cell may show Gymnasium's own. Chapters 02 and 03 still spread the seeds of their games themselves."""
    makers = {
        node.name
        for path in sorted(CHAPTERS.glob("ch*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and {"SyncVectorEnv", "AsyncVectorEnv", "make_vec"}
        & set(re.findall(r"\w+(?=\()", ast.unparse(node)))
    }
    assert makers <= {"make_freeway", "make_games"}


def luminance(colour):
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [
        0.2126,
        0.7152,
        0.0722,
    ]


@pytest.mark.parametrize("page", ["#FFFFFF", "#121212"])
def test_colours_stand_out_on_light_and_dark_pages(page):
    def contrast(colour):
        light, dark = sorted((luminance(colour), luminance(page)), reverse=True)
        return (light + 0.05) / (dark + 0.05)

    assert contrast(plots.INK) >= 4
    assert all(contrast(colour) >= 3 for colour in plots.COLOURS)


@dataclass(frozen=True)
class Config:
    generations: int = knob(60, 1, 1000, "how many")
    rate: float = knob(0.5, 0.0, 1.0, "how fast")
    way: str = choice("straight", ("straight", "winding"))
    twice: bool = False
    name: str = "no dial"

    def __post_init__(self):
        check_config(self)


def slowly(config, seed, state=None):
    step = state["step"] if state else 0
    if config.rate == 1.0:
        raise ValueError("A rate of 1 never works.")
    while step < config.generations:
        step += 1
        time.sleep(0.01)
        yield Progress(
            step, config.generations, {"value": step}, lambda: {"step": step}, "generation"
        )


def test_panel_trains_stops_continues_and_resets():
    panel = Panel(slowly, Config())
    assert set(panel.dials) == {"generations", "rate", "way", "twice"}
    panel.start()
    while not panel.run.steps:
        time.sleep(0.01)
    panel.stop()
    panel.wait()
    stopped = panel.run.steps[-1]
    assert (
        0 < stopped < 60
        and panel.status.value.startswith("Stopped")
        and panel.run.state == {"step": stopped}
    )
    panel.start()
    panel.wait()
    assert panel.run.steps == list(range(1, 61)) and panel.status.value.startswith("Done")
    assert panel.picture.value[:4] == b"\x89PNG"
    panel.dials["rate"].value = 0.25
    panel.start()
    panel.wait()
    assert len(panel.earlier) == 1 and panel.run.finished
    panel.reset()
    assert panel.dials["rate"].value == 0.5 and not panel.run.steps and not panel.earlier
    panel.dials["way"].value, panel.dials["twice"].value = "winding", True
    assert panel.config() == Config(way="winding", twice=True)


def test_panel_shows_an_error_and_keeps_what_was_learned():
    panel = Panel(slowly, Config(generations=5))
    panel.start()
    panel.wait()
    panel.dials["rate"].value = 1.0
    panel.start()
    panel.wait()
    assert "A rate of 1 never works." in panel.status.value
    assert panel.earlier[0].finished and not panel.train_button.disabled


def test_panel_draws_the_floor_that_it_is_given(monkeypatch):
    drawn = []

    def noted(run, **how):
        drawn.append(how)
        return live_curve(run, **how)

    monkeypatch.setattr("rlbook_utils.widgets.live_curve", noted)
    beside = {"metric": "value", "floor": 2.0, "floor_label": "a coin"}
    panel = Panel(slowly, Config(generations=3), **beside)
    panel.start()
    panel.wait()
    assert drawn and all(how == beside | {"earlier": []} for how in drawn)


def test_sliders_carry_every_picture_and_refuse_others():
    png = plots.to_png(live_curve(results_run()))
    box = image_slider({"a": png, "b": png, "c": png}, "dial", start=2)
    assert box.children[0].index == 2 and box.children[1].selected_index == 2
    assert len(scrubber([png] * 4, "step").children[1].children) == 4
    with pytest.raises(ValueError, match="start is 3, but there are 3 pictures"):
        image_slider({"a": png, "b": png, "c": png}, "dial", start=3)
    with pytest.raises(ValueError, match="there are 0 pictures"):
        scrubber([], "step")


def results_run():
    run = Run()
    run.add(Progress(1, 2, {"value": 1.0}, dict))
    return run


def test_clip_is_h264_in_the_page():
    frames = [np.full((40, 60, 3), shade, np.uint8) for shade in range(0, 200, 20)]
    html = show_clip(frames, fps=10, caption="Shades").data
    assert "data:video/mp4;base64," in html and "Shades" in html and len(html) < 20_000


def test_missing_renderer_is_one_sentence():
    with pytest.raises(RenderError, match=r"CartPole-v1 cannot be drawn here .*libosmesa6"):
        record("CartPole-v1", lambda obs: 0, 0, 5, width=320)


def test_code_hash_ignores_prose_and_sees_code():
    path = CHAPTERS / "ch01_evolution.py"
    notebook, changed = read_script(path), read_script(path)
    next(cell for cell in changed.cells if cell.cell_type == "markdown").source += " More."
    assert code_hash(notebook) == code_hash(changed)
    next(cell for cell in changed.cells if cell.cell_type == "code").source += "\npass"
    assert code_hash(notebook) != code_hash(changed)


def test_configs_are_frozen_and_say_what_they_do():
    chapter = load_chapter("ch01_evolution")
    for name in ("StringConfig", "GAConfig", "ESConfig", "SearchConfig"):
        config = getattr(chapter, name)()
        with pytest.raises(dataclasses.FrozenInstanceError):
            config.population = 3
        for field in dataclasses.fields(config):
            if field.metadata:
                assert (
                    field.metadata["help"]
                    and field.metadata["low"] <= field.default <= field.metadata["high"]
                )
        assert pickle.loads(pickle.dumps(dataclasses.asdict(config)))


@pytest.mark.parametrize("exercise", oracles())
def test_no_oracle_takes_what_is_not_a_number(exercise):
    with pytest.raises(Exception, match=r"\S"):
        oracles()[exercise](lambda *_, **__: float("nan"))
