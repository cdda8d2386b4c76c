"""Programs that tests run. None is waited for without a limit, and none outlives its test."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress

from cluster_processes import named

LIMIT_S = 240.0
D2R = (sys.executable, "-c", "from d2r.cli.app import main; main()")


@contextmanager
def running(*command, limit_s=LIMIT_S, **options):
    """Run a program; when the block or its time ends it is killed with all that it started, and so its pipes end."""
    command = [os.fspath(part) for part in command]
    more = options.pop("preexec_fn", None)

    def begin():
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # what a shell starts in the background ignores it
        if more is not None:
            more()

    process = subprocess.Popen(command, start_new_session=True, preexec_fn=begin, **options)

    def kill():
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    limit = threading.Timer(limit_s, kill)
    limit.start()
    try:
        yield process
    finally:
        limit.cancel()
        kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


def run(*command, **options):
    """Run a program to its end; returns what it printed, as text, with how it ended."""
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    with running(*command, **given) as process:
        out, err = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@contextmanager
def workers_held():
    """Stop the worker processes that there are below this process, so that what they have in hand stays in hand."""
    held = named("_work(line")
    assert held
    for process in held:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in held:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)


def join(*threads):
    """Wait for threads to end."""
    for thread in threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive()
