import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import CancelledError
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from d2r.support.processes import WorkerDied, WorkerProcesses, WorkerStartError, default_workers, map_in_processes
from programs import LIMIT_S, running
from programs import run as run_program
from serving import wait_until


def nothing():
    pass


def square_or_die(number):
    if number in (-1, -2):
        os.kill(os.getpid(), signal.SIGKILL)
    if number == -3:
        raise ValueError("minus three")
    return number * number


def own_process(place, number):
    """Wait until two processes are working."""
    (place / str(os.getpid())).touch()
    end = time.monotonic() + LIMIT_S
    while len(list(place.iterdir())) < 2:
        assert time.monotonic() < end
        time.sleep(0.01)
    return os.getpid()


def get_process(number):
    return os.getpid()


def mark_process():
    os.environ["D2R_TEST_PREPARED"] = str(int(os.environ.get("D2R_TEST_PREPARED", "0")) + 1)


def times_prepared(number):
    return os.environ.get("D2R_TEST_PREPARED")


def end_by(how):
    if how == "exit":
        os._exit(7)
    os.kill(os.getpid(), how)


def end_at_first(place, how, number):
    """End the process at the first try of a number; return its square at the second."""
    tried = place / str(number)
    if not tried.exists():
        tried.touch()
        end_by(how)
    return number * number


def end_differently(place, number):
    end_at_first(place, signal.SIGKILL, number)
    end_by("exit")


def say_half(place, number):
    """Kill the process at the first try, when half of the result has been sent."""
    tried = place / str(number)
    if not tried.exists():
        tried.touch()

        def half(self, data, write=os.write):
            os.write(self.fileno(), bytes(data)[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

        Connection._send = half
    return bytes(100_000 + number)


def run(items, workers):
    return dict(map_in_processes(square_or_die, items, workers=workers, prepare=nothing))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_every_item_gets_its_result_in_order(workers):
    done = list(map_in_processes(square_or_die, range(20), workers=workers, prepare=nothing))
    assert done == [(number, number * number) for number in range(20)]


def test_only_the_items_that_kill_their_process_are_lost():
    items = [*range(7), -1, *range(7, 14), -2, *range(14, 18)]
    results = run(items, workers=2)
    assert {item for item, result in results.items() if isinstance(result, WorkerDied)} == {-1, -2}
    assert all(results[number] == number * number for number in range(18))
    assert len(results) == 20


@pytest.mark.parametrize(
    "items",
    [
        [-1, -2, *range(18)],
        [*range(18), -1, -2],
        [*range(9), -1, 9, -2, *range(10, 18)],
        [-1, *range(18), -2],
    ],
)
def test_every_other_item_gets_its_result_wherever_two_killers_stand(items):
    done = list(map_in_processes(square_or_die, items, workers=2, prepare=nothing))
    assert [item for item, _ in done] == items
    for item, result in done:
        if item < 0:
            assert isinstance(result, WorkerDied)
            assert str(result) == "was killed (SIGKILL), twice"
        else:
            assert result == item * item


@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_but_killers_is_reported_in_full(workers):
    done = list(map_in_processes(square_or_die, [-1, -2, -1], workers=workers, prepare=nothing))
    assert [item for item, _ in done] == [-1, -2, -1]
    assert all(isinstance(result, WorkerDied) for _, result in done)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, "exit"])
def test_an_item_whose_process_ends_once_is_tried_again(how, tmp_path):
    results = map_in_processes(partial(end_at_first, tmp_path, how), [1, 2], workers=2, prepare=nothing)
    assert list(results) == [(1, 1), (2, 4)]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (signal.SIGKILL, "was killed (SIGKILL), twice"),
        (signal.SIGTERM, "was killed (SIGTERM), twice"),
        (signal.SIGRTMIN + 1, f"was killed (signal {signal.SIGRTMIN + 1}), twice"),
        (signal.SIGSEGV, "crashed (SIGSEGV), twice"),
        ("exit", "ended with exit code 7, twice"),
    ],
)
def test_it_is_said_how_a_process_ended(how, said):
    ((_, result),) = map_in_processes(end_by, [how], workers=1, prepare=nothing)
    assert str(result) == said


def test_it_is_said_when_two_processes_ended_differently(tmp_path):
    ((_, result),) = map_in_processes(partial(end_differently, tmp_path), [1], workers=1, prepare=nothing)
    assert str(result) == "was killed (SIGKILL), then ended with exit code 7"


def test_a_process_that_is_killed_while_it_hands_over_a_result_is_not_waited_for(tmp_path):
    done = list(map_in_processes(partial(say_half, tmp_path), range(3), workers=2, prepare=nothing))
    assert [(number, len(result)) for number, result in done] == [(n, 100_000 + n) for n in range(3)]


def test_a_process_that_is_killed_while_it_is_handed_an_item_is_not_waited_for():
    workers = WorkerProcesses(1, nothing)
    try:
        process = workers.submit(os.getpid).result(LIMIT_S)
        os.kill(process, signal.SIGSTOP)  # it stops reading
        length = workers.submit(len, bytes(10_000_000))
        os.kill(process, signal.SIGKILL)
        assert length.result(LIMIT_S) == 10_000_000
    finally:
        workers.close()


def test_a_process_that_is_killed_between_two_items_costs_the_next_no_try(tmp_path):
    workers = WorkerProcesses(1, nothing)
    try:
        process = workers.submit(os.getpid).result(LIMIT_S)
        os.kill(process, signal.SIGKILL)
        os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)  # it is dead, but nobody has noticed yet
        assert workers.submit(end_at_first, tmp_path, signal.SIGKILL, 3).result(LIMIT_S) == 9
    finally:
        workers.close()


def test_closing_ends_what_is_under_way_and_leaves_nobody_waiting():
    workers = WorkerProcesses(1, nothing)
    workers.submit(os.getpid).result(LIMIT_S)
    begun, behind = workers.submit(time.sleep, 3000), workers.submit(pow, 2, 5)
    wait_until(begun.running)
    workers.close()
    for ended in (begun, behind):
        with pytest.raises(WorkerDied, match="was ended"):
            ended.result(LIMIT_S)
    with pytest.raises(CancelledError):
        workers.submit(pow, 2, 5).result(LIMIT_S)


def fail():
    raise OSError(28, "no room for the model", "model.onnx")


def test_processes_that_cannot_be_prepared_are_one_error_with_its_message():
    read = []
    items = (read.append(number) or number for number in range(100))
    results = map_in_processes(square_or_die, items, workers=2, prepare=fail)
    with pytest.raises(OSError, match=r"no room for the model: 'model\.onnx'") as caught:
        next(results)
    assert "in fail" in caught.value.__notes__[0]  # where it was raised
    assert len(read) <= 4
    assert list(results) == []


@pytest.mark.parametrize(("how", "said"), [(signal.SIGKILL, "was killed (SIGKILL), twice"), ("exit", "exit code 7")])
def test_processes_that_end_before_they_have_an_item_are_one_error(how, said):
    results = map_in_processes(square_or_die, range(100), workers=2, prepare=partial(end_by, how))
    with pytest.raises(WorkerStartError, match="do not start") as caught:
        next(results)
    assert said in str(caught.value)
    assert list(results) == []


def test_what_cannot_be_pickled_is_an_error_and_no_death():
    with pytest.raises(TypeError, match="pickle"):
        list(map_in_processes(nothing_that_can_be_sent, [1], workers=1, prepare=nothing))


def nothing_that_can_be_sent(number):
    return sys._getframe()


def test_an_exception_is_raised_also_among_items_that_kill_their_process():
    with pytest.raises(ValueError, match="minus three"):
        run([-1, -3, 4], 2)


def test_results_before_an_exception_are_given_first():
    results = map_in_processes(square_or_die, [5, -3], workers=1, prepare=nothing)
    assert next(results) == (5, 25)
    with pytest.raises(ValueError, match="minus three"):
        next(results)


def test_an_exception_of_the_items_is_raised():
    def source():
        yield 1
        raise LookupError("no more items")

    with pytest.raises(LookupError, match="no more items"):
        list(map_in_processes(square_or_die, source(), workers=2, prepare=nothing))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_exception_of_the_function_is_raised_to_the_caller(workers):
    with pytest.raises(ValueError, match="minus three"):
        run([1, 2, -3, 4], workers)


def test_items_are_read_only_a_few_ahead():
    read = []

    def source():
        for number in range(100):
            read.append(number)
            yield number

    results = map_in_processes(square_or_die, source(), workers=2, prepare=nothing)
    assert read == []
    for done in range(1, 11):
        next(results)
        assert len(read) <= done + 4
    results.close()
    assert len(read) < 20


def test_without_workers_an_item_is_read_only_when_its_result_is_asked_for():
    read = []
    results = map_in_processes(square_or_die, (read.append(n) or n for n in range(9)), workers=0, prepare=nothing)
    assert (next(results), read) == ((0, 0), [0])
    assert (next(results), read) == ((1, 1), [0, 1])


def test_the_work_is_done_in_as_many_other_processes_as_asked_and_they_are_gone_afterwards(tmp_path):
    results = map_in_processes(partial(own_process, tmp_path), range(40), workers=2, prepare=nothing)
    processes = {next(results)[1] for _ in range(20)}
    assert len(processes) == 2
    assert os.getpid() not in processes
    results.close()  # as if the consumer stops early
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_processes_that_have_nothing_to_do_are_gone_too_when_they_are_closed(tmp_path):
    for _ in range(5):
        workers = WorkerProcesses(2, nothing)
        processes = {workers.submit(get_process, number).result() for number in range(8)}
        workers.close()
        for process in processes:
            with pytest.raises(ProcessLookupError):
                os.kill(process, 0)


def test_without_workers_everything_happens_in_this_process():
    assert {result for _, result in map_in_processes(get_process, [1, 2], workers=0, prepare=nothing)} == {os.getpid()}


@pytest.mark.parametrize("workers", [0, 1])
def test_each_process_is_prepared_once_before_its_first_item(workers, monkeypatch):
    monkeypatch.setenv("D2R_TEST_PREPARED", "0")
    done = list(map_in_processes(times_prepared, range(3), workers=workers, prepare=mark_process))
    assert [result for _, result in done] == ["1"] * 3


def test_no_items_give_no_results():
    assert run([], 2) == {}


def test_a_script_needs_no_main_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import operator
            from d2r.support.processes import map_in_processes
            print([result for _, result in map_in_processes(operator.neg, [1, 2, 3], workers=2, prepare=int)])
        """)
    )
    done = run_program(sys.executable, script)
    assert done.stdout == "[-1, -2, -3]\n", done.stderr


def test_a_script_may_give_a_function_of_its_own_without_a_main_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import os, signal
            from d2r.support.processes import map_in_processes
            print("started")
            def function(number):
                if number == 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                return -number
            for item, result in map_in_processes(function, [1, 2, 3], workers=2, prepare=lambda: None):
                print(item, result if isinstance(result, int) else type(result).__name__)
        """)
    )
    done = run_program(sys.executable, script)
    assert done.stdout == "started\n1 -1\n2 WorkerDied\n3 -3\n", done.stderr


def test_the_processes_end_when_the_program_is_killed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import os, signal
            from d2r.support.processes import map_in_processes
            for _, worker in map_in_processes(lambda _: os.getpid(), [1, 2], workers=1, prepare=int):
                print(worker, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
        """)
    )
    with running(sys.executable, script, stdout=subprocess.PIPE, text=True) as program:
        worker = int(program.stdout.readline())
        assert program.wait() == -signal.SIGKILL
        wait_until(lambda: not Path(f"/proc/{worker}").exists())


def test_there_is_at_least_one_worker():
    assert 1 <= default_workers() <= (os.cpu_count() or 1)
