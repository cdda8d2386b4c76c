"""A change to an index is made completely or not at all, wherever the process dies."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

# For each SQL statement of a change, kill a process before it, and check what is left.
_DYING = """
import os, shutil, sys
from pathlib import Path

place = Path(sys.argv[1])
sys.path += sys.argv[2:]

import d2r.index.catalogue as catalogue
from d2r.index import Index
from d2r.sources import PictureFile
from old_index import as_format_5
from test_index import created, put

made = place / "made.index"
with created(made) as index:
    put(index, range(3))
    put(index, range(3, 6))
as_format_5(made)
connect = catalogue.connect

def change(folder):
    with Index(folder) as index, index.writing() as writer:
        rows = list(index.pictures())
        writer.mark_missing(rows[:4])
        writer.compact()
        writer.put_back(writer.listing([PictureFile(row.path, row.size, row.mtime_ns) for row in rows[:2]]))
        writer.remove(rows[2:4])

def dying(folder, most):
    left = most
    def count(statement):
        nonlocal left
        left -= 1
        if left < 0:
            os._exit(9)
    def traced(file, *, write):
        connection = connect(file, write=write)
        if write:
            connection.set_trace_callback(count)
        return connection
    catalogue.connect = traced
    change(folder)

states, most, died = [], 0, True
while died:
    folder = place / str(most)
    shutil.copytree(made, folder)
    child = os.fork()
    if not child:
        try:
            dying(folder, most)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9), status
    died = status == 9
    with Index(folder) as index:
        assert index.check() == [], (most, index.check())
        size = index.size()
        assert len(list(index.aggregated())) == size.pictures
        with index.writing():
            pass  # cleans up, and upgrades an old index
        after = index.size()
        assert (after.pictures, after.missing, after.segments) == (size.pictures, size.missing, size.segments)
        assert len(list((folder / "segments").iterdir())) == size.segments
    if states[-1:] != [(size.pictures, size.missing)]:
        states.append((size.pictures, size.missing))
    shutil.rmtree(folder)
    most += 1
print(most > 20, states)
"""


@pytest.mark.timeout(600)
def test_whenever_a_process_dies_the_index_is_as_before_or_after_a_change_and_sound(tmp_path):
    memory = Path("/dev/shm")  # in memory, where available: syncing costs nothing there
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as place:
        here = Path(__file__).parent
        command = [sys.executable, "-c", _DYING, place, here, here.parent]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    # All six; four missing; two of these back; the other two removed. No other states.
    assert done.stdout == "True [(6, 0), (2, 4), (4, 2), (4, 0)]\n"
