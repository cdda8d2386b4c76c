import os
import signal
import subprocess
import sys
import textwrap

import pytest

from d2r.workers import WorkerDied, default_workers, map_in_processes


def nothing():
    pass


def square_or_die(number):
    if number in (-1, -2):
        os.kill(os.getpid(), signal.SIGKILL)
    if number == -3:
        raise ValueError("minus three")
    return number * number


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
    next(results)
    assert len(read) <= 6
    results.close()


def test_no_items_give_no_results():
    assert run([], 2) == {}


def test_a_script_needs_no_main_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import operator
            from d2r.workers import map_in_processes
            print([result for _, result in map_in_processes(operator.neg, [1, 2, 3], workers=2, prepare=int)])
        """)
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "[-1, -2, -3]\n", done.stderr


def test_there_is_at_least_one_worker():
    assert 1 <= default_workers() <= (os.cpu_count() or 1)
