"""What holds for every chapter: each row that the book promises is shown and measured, and training runs on a GPU unchanged."""

import re
from collections import defaultdict

import pytest
import torch

from rlbook_utils.definitions import CHAPTERS, load_chapter
from rlbook_utils.notebooks import read_script

ROWS = {
    "F": 5,
    "E": 9,
    "D": 10,
    "C": 9,
    "M": 6,
    "A": 10,
    "P": 8,
    "R": 10,
    "S": 2,
}  # the book's promises
UNFINISHED: set[str] = set()  # some of whose chapters are still to come
SCRIPTS = sorted(CHAPTERS.glob("ch*.py"))
ROW = re.compile(r"[A-Z]\d+")


def rows_of(path):
    """The rows that a chapter's cells are tagged with, and those that it measures or shows."""
    tags = {tag for cell in read_script(path).cells for tag in cell.metadata.get("tags", [])}
    chapter = load_chapter(path.stem)
    measured = {m.row for m in chapter.MEASUREMENTS if m.metrics}
    return {tag for tag in tags if ROW.fullmatch(tag)}, measured | set(
        getattr(chapter, "SHOWN", ())
    )


def test_every_row_has_its_cells_and_its_number():
    tagged, told = defaultdict(set), defaultdict(set)
    for path in SCRIPTS:
        for found, rows in zip((tagged, told), rows_of(path), strict=True):
            for row in rows:
                found[row[0]].add(row)
    for letter in tagged:
        promised = {f"{letter}{i}" for i in range(1, ROWS[letter] + 1)}
        assert tagged[letter] == told[letter], (
            "a row without a number or a figure, or without a cell"
        )
        if letter in UNFINISHED:
            assert tagged[letter] < promised, "finished: strike it off the list"
        else:
            assert tagged[letter] == promised, "a row without a cell"


TRAININGS = [  # chapter, training, config, its small settings
    ("ch00_foundations", "learn_grid", "GridConfig", {"episodes": 3}),
    ("ch00_foundations", "train_dqn", "DQNConfig", {"steps": 2000}),
    ("ch00_foundations", "train_policy", "GradientConfig", {"updates": 3}),
    ("ch00_foundations", "train_actor_critic", "ActorCriticConfig", {"steps": 4000}),
    ("ch01_evolution", "evolve", "GAConfig", {"population": 20, "generations": 3}),
    ("ch02_distributional_dqn", "train", "AgentConfig", {"steps": 5120}),
    ("ch03_curiosity", "train_sparse", "SparseConfig", {"steps": 800}),
    ("ch03_curiosity", "train_walkers", "RoomConfig", {"steps": 200}),
    ("ch03b_mario", "train_curious", "CuriousConfig", {"steps": 1024, "num_envs": 4}),
    ("ch04_multi_agent", "train_ring", "RingConfig", {"epochs": 3}),
    ("ch04b_mean_field", "train_mean_field", "MeanFieldConfig", {"rounds": 12}),
    ("ch04c_battle", "train_battle", "BattleConfig", {"battle_steps": 2000}),
    ("ch05_attention", "train_looking", "LookConfig", {"steps": 50}),
    ("ch05_attention", "train_digits", "RelationalConfig", {"steps": 3}),
    ("ch05b_relational_agents", "train_rooms", "RoomsConfig", {"random_steps": 5_000}),
    ("ch05c_relations", "train_match", "MatchConfig", {"random_steps": 5_000}),
    ("ch05c_relations", "train_alien", "AlienConfig", {"decisions": 80, "warm_up": 50}),
    ("ch07_meta_learning", "train_few", "FewConfig", {"iterations": 3}),
    ("ch07_meta_learning", "train_meta", "MetaConfig", {"iterations": 1, "tasks": 2}),
    ("ch07a_memory_and_hindsight", "train_flips", "FlipConfig", {"cycles": 2}),
    ("ch07a_memory_and_hindsight", "train_reach", "ReachConfig", {"cycles": 1, "judged": 1}),
    ("ch07a_memory_and_hindsight", "train_rl2", "RL2Config", {"updates": 2}),
    ("ch07b_minipacman", "train_pacman", "PacmanConfig", {"steps": 2048}),
    ("ch07c_imagination", "train_model", "ModelConfig", {"worlds": 8, "steps": 20, "updates": 2}),
    ("ch07d_breakout", "train_breakout", "BreakoutConfig", {"steps": 4096}),
    ("ch06_policy_optimisation", "train_a2c", "A2CConfig", {"steps": 4096}),
    ("ch06_policy_optimisation", "train_ppo", "PPOConfig", {"steps": 8192}),
    ("ch06_policy_optimisation", "train_acer", "ACERConfig", {"steps": 4096}),
    ("ch06_policy_optimisation", "train_memory", "MemoryConfig", {"steps": 4096}),
    ("ch06_policy_optimisation", "train_body", "BodyConfig", {"steps": 4096}),
    ("ch06_policy_optimisation", "train_ddpg", "DDPGConfig", {"steps": 2048}),
]


@pytest.mark.parametrize(
    ("chapter", "training", "config", "small"), TRAININGS, ids=[t[1] for t in TRAININGS]
)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="There is no GPU here.")
def test_training_runs_on_a_gpu_unchanged(chapter, training, config, small):
    ch = load_chapter(chapter)
    if training == "train_curious" and not ch.can_play():
        pytest.skip("Super Mario's emulator is not installed.")
    if training == "train_battle" and not ch.HAS_MAGENT:
        pytest.skip("MAgent2 is not installed.")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()  # by tests before this one
    *_, progress = getattr(ch, training)(getattr(ch, config)(**small), 1, device="cuda")
    assert torch.cuda.max_memory_allocated() > before, "nothing was done on the GPU"
    assert all(value == value for value in progress.metrics.values())
    assert progress.step >= progress.total
