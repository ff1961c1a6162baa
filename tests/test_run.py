"""Run control: budgets, ranges, watching, stopping, checkpoints."""

import dataclasses
import os
import platform
import resource
import signal
import threading
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from rlbook_utils.checkpoint import (
    CheckpointError,
    as_tensors,
    load_checkpoint,
    random_state,
    restore_random,
    resume,
    save_checkpoint,
)
from rlbook_utils.config import budget, by_budget, check_config, choice, knob
from rlbook_utils.run import Progress, watch


@dataclass(frozen=True)
class Config:
    steps: int = knob(10, 1, 1000, "how many")
    rate: float = knob(0.5, 0.0, 1.0, "how fast")

    def __post_init__(self):
        check_config(self)


def count(config, seed, state=None, then=lambda step: None):
    step = state["step"] if state else 0
    while step < config.steps:
        step += 1
        then(step)
        yield Progress(step, config.steps, {"value": step * config.rate}, lambda: {"step": step})


def test_budget_is_one_of_three(monkeypatch):
    monkeypatch.setenv("RLBOOK_BUDGET", "smoke")
    assert (budget(), by_budget(smoke=1, laptop=2)) == ("smoke", 1)
    monkeypatch.setenv("RLBOOK_BUDGET", "full")
    assert by_budget(smoke=1, laptop=2) == 2
    monkeypatch.delenv("RLBOOK_BUDGET")
    assert budget() == "laptop"
    monkeypatch.setenv("RLBOOK_BUDGET", "huge")
    with pytest.raises(ValueError, match=r"'huge'.*smoke, laptop, full"):
        budget()


@pytest.mark.parametrize("field, value", [("rate", 1.01), ("rate", -0.1), ("steps", 0)])
def test_a_value_out_of_range_is_named(field, value):
    with pytest.raises(ValueError, match=rf"Config\.{field} is {value}; it has to lie between"):
        dataclasses.replace(Config(), **{field: value})


def test_a_name_that_is_no_choice_is_told_the_choices():
    @dataclass(frozen=True)
    class Scheme:
        reward: str = choice("spins", ("spins", "energy"))

        def __post_init__(self):
            check_config(self)

    assert Scheme("energy").reward == "energy" and Scheme().reward == "spins"
    with pytest.raises(ValueError) as caught:
        Scheme("fame")
    assert str(caught.value) == "Scheme.reward is 'fame'; it has to be one of spins, energy."


def test_a_fraction_of_a_whole_number_is_named():
    assert dataclasses.replace(Config(), steps=20.0).steps == 20
    with pytest.raises(ValueError, match=r"Config\.steps is 2\.5; it has to be a whole number"):
        dataclasses.replace(Config(), steps=2.5)


def test_watch_keeps_history_and_state():
    run = watch(count(Config(), seed=0))
    assert run.finished and run.steps == list(range(1, 11)) and run.state == {"step": 10}
    np.testing.assert_allclose(run["value"], 0.5 * np.arange(1, 11))


def test_an_interrupt_stops_after_the_unit_in_hand_and_loses_nothing():
    finished_units = []

    def press(step):
        if step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        finished_units.append(step)  # reached although the signal came before

    before = signal.getsignal(signal.SIGINT)
    run = watch(count(Config(), 0, then=press))
    assert run.steps == finished_units == [1, 2, 3, 4]
    assert run.state == {"step": 4} and not run.finished
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_interrupt_stops_at_once():
    def press(step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait(5)

    with pytest.raises(KeyboardInterrupt):
        watch(count(Config(), 0, then=press))


def test_a_stopped_run_continues_its_curve(tmp_path):
    path = tmp_path / "run.safetensors"
    stop = lambda step: step == 3 and os.kill(os.getpid(), signal.SIGINT)
    watch(count(Config(), 0, then=stop), save_to=path, config=Config())
    run = watch(count(Config(), 0, resume(path, Config())), save_to=path, config=Config())
    assert run.steps == list(range(1, 11)) and run.finished
    np.testing.assert_allclose(run["value"], 0.5 * np.arange(1, 11))


def test_checkpoint_round_trip(tmp_path):
    path = tmp_path / "deep" / "state.safetensors"
    layer = torch.nn.Linear(3, 2)
    optimiser = torch.optim.Adam(layer.parameters())
    layer(torch.ones(3)).sum().backward()
    optimiser.step()
    rng = np.random.default_rng(7)
    state = {
        "layer": layer.state_dict(),
        "optimiser": optimiser.state_dict(),  # whole numbers as keys, lists, tensors inside
        "rng": rng.bit_generator.state,
        "scores": np.arange(6.0).reshape(2, 3).T,  # not contiguous
        "name": "π",
        "none": None,
    }
    save_checkpoint(path, state, config=Config())
    back = load_checkpoint(path, Config())["state"]
    np.testing.assert_array_equal(back["scores"], state["scores"])
    assert back["name"] == "π" and back["none"] is None and back["rng"] == state["rng"]
    np.testing.assert_array_equal(back["layer"]["weight"], layer.weight.detach().numpy())
    moments = optimiser.state_dict()["state"][0]
    np.testing.assert_array_equal(back["optimiser"]["state"][0]["exp_avg"], moments["exp_avg"])
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("kept", [np.ones(3, np.float32), torch.ones(3)])
def test_a_state_stays_what_it_was_when_a_run_goes_on_from_it(kept):
    """Adam's ``load_state_dict`` takes tensors as they are and then writes into them."""
    weights = torch.nn.Parameter(torch.zeros(3))
    optimiser = torch.optim.Adam([weights])
    weights.sum().backward()
    optimiser.step()
    state = optimiser.state_dict()
    state["state"][0]["exp_avg"] = kept
    optimiser.load_state_dict(as_tensors(state))
    optimiser.step()
    assert (torch.as_tensor(kept) == 1).all()


def test_random_numbers_go_on_through_a_checkpoint(tmp_path):
    torch.manual_seed(3)
    rng = np.random.default_rng(4)
    torch.rand(7), rng.normal(size=5)
    save_checkpoint(tmp_path / "x.safetensors", {"random": random_state(rng)})
    expected = torch.rand(9), rng.normal(size=9)
    torch.manual_seed(0)
    fresh = np.random.default_rng(0)
    restore_random(load_checkpoint(tmp_path / "x.safetensors")["state"]["random"], fresh)
    assert torch.equal(torch.rand(9), expected[0])
    np.testing.assert_array_equal(fresh.normal(size=9), expected[1])
    restore_random(random_state())  # torch alone


def test_resume_starts_afresh_where_there_is_no_checkpoint(tmp_path):
    assert resume(tmp_path / "none.safetensors") is None
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_checkpoint(tmp_path / "none.safetensors")


def test_bad_checkpoints_get_one_sentence_and_stay(tmp_path):
    path = tmp_path / "run.safetensors"
    save_checkpoint(path, {"step": 1, "x": np.zeros(50)}, config=Config())
    with pytest.raises(
        CheckpointError, match=r"another run \(rate: 0.5 there, 0.25 here\); delete"
    ):
        load_checkpoint(path, Config(rate=0.25))
    save_checkpoint(path, {"step": 1, "x": np.zeros(50)}, config=Config(), seed=1)
    with pytest.raises(CheckpointError, match=r"another run \(seed: 1 there, 2 here\)"):
        resume(path, Config(), 2)
    assert resume(path, Config(), 1)["step"] == 1
    path.write_bytes(path.read_bytes()[:100])
    kept = path.read_bytes()
    with pytest.raises(CheckpointError, match="cannot be read"):
        resume(path, Config())
    assert path.read_bytes() == kept
    save_file({"x": np.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="not one that this book wrote"):
        resume(path)
    path.write_bytes(b"\x80\x04pickle?")
    with pytest.raises(CheckpointError, match="cannot be read"):
        resume(path)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="Only glibc is told to keep pages.")
def test_a_large_array_takes_the_pages_that_the_last_one_left() -> None:
    def new_pages() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(4_000_000)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    found = [
        new_pages() for _ in range(40)
    ]  # an array is 3,906 pages; the first ones find no place that fits
    assert sum(found[20:]) < 2 * 3906, found
