"""Worker processes: they answer, they end, and one that dies says so in one sentence within seconds."""

import os
import signal
import sys
import time

import cloudpickle
import pytest

from rlbook_utils.workers import PATIENCE, Crew, WorkerDied, spawn

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # as what a notebook's cell defines


def serve(connection, factor):
    while True:
        order = connection.recv()
        if order == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if order == "fail":
            raise ValueError("planted")
        if order == "sleep":
            time.sleep(600)
        connection.send(order * factor)


def count(connection, times):
    for i in range(times):
        connection.send(i)


def test_spawned_function_answers_and_ends_with_its_pipe():
    process, line = spawn(serve, 10)
    line.send(1)
    assert line.recv() == 10
    line.close()
    assert process.wait(10) == 0


def test_a_crew_answers_in_order_and_ends():
    with Crew(serve, [(1,), (2,), (3,)]) as crew:
        assert crew.ask([1, 1, 1]) == [1, 2, 3] and crew.ask(["a", "b", "c"]) == ["a", "bb", "ccc"]
        processes = [process for process, _ in crew.members]
    assert [process.poll() for process in processes] == [0, 0, 0]


def test_messages_come_until_the_last_worker_has_ended():
    with Crew(count, [(3,), (5,)]) as crew:
        assert sorted(crew.messages()) == [0, 0, 1, 1, 2, 2, 3, 4]


@pytest.mark.parametrize("order", ["die", "fail"])
def test_a_dead_worker_is_one_sentence_within_seconds(order):
    began, crew = time.perf_counter(), Crew(serve, [(1,), (2,)])
    with pytest.raises(WorkerDied, match="ended before its work was done") as caught, crew:
        crew.ask([3, order])
    assert time.perf_counter() - began < PATIENCE
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert [process.poll() is not None for process, _ in crew.members] == [True, True]


def test_a_worker_that_failed_is_told_from_one_that_is_done():
    def fail(connection):
        connection.send("hello")
        raise ValueError("planted")

    heard = []
    with pytest.raises(WorkerDied), Crew(fail, [()]) as crew:
        heard.extend(crew.messages())


def test_sending_to_a_dead_worker_says_so_too():
    with Crew(serve, [(1,)]) as crew:
        process, line = crew.members[0]
        process.kill()
        process.wait()
        with pytest.raises(WorkerDied):
            for _ in range(3):
                line.send("x" * 10**6)


@pytest.mark.slow
def test_a_worker_that_does_not_end_is_killed():
    crew = Crew(serve, [(1,)])
    crew.members[0][1].send("sleep")
    began = time.perf_counter()
    crew.close()
    assert crew.members[0][0].poll() == -signal.SIGKILL
    assert time.perf_counter() - began < 3 * PATIENCE
