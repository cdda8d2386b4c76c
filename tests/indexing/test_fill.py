import os
import signal
from dataclasses import dataclass
from functools import partial

import pytest

from d2r.defaults import MAX_WORDS
from d2r.indexing.codebook import choose_words
from d2r.indexing.entry import enter_file, prepare_worker
from d2r.indexing.workers import LocalWorkers
from d2r.support.processes import map_in_processes


def enter_or_die(deadly, recipe, max_pixels, staging, codebook, file):
    if file.path.endswith(deadly):
        os.kill(os.getpid(), signal.SIGKILL)
    return enter_file(recipe, max_pixels, staging, codebook, file)


@dataclass(frozen=True)
class Deadly(LocalWorkers):
    """Worker processes that a picture has killed."""

    name: str = "pagoda-1.jpg"

    def entries(self, recipe, max_pixels, staging, codebook, files):
        function = partial(enter_or_die, self.name, recipe, max_pixels, staging, codebook)
        return map_in_processes(function, files, workers=1, prepare=prepare_worker)


def test_of_a_picture_whose_process_is_killed_it_is_said_that_it_was_and_the_next_run_has_it(engine, collection):
    for path in collection.glob("pagoda-*"):
        path.write_bytes(path.read_bytes() + b"\0")  # changed, but still a picture
    report = engine.sync(collection, workers=Deadly())
    reason = "the process that read it was killed (SIGKILL), twice"
    assert report.skipped == [(str(collection / "pagoda-1.jpg"), reason)]
    assert report.changed == 2
    report = engine.sync(collection, workers=0)
    assert (report.changed + report.added, report.skipped) == (1, [])


def fail():
    raise OSError(5, "the model cannot be read", "model.onnx")


def test_workers_that_cannot_be_prepared_end_the_run_with_their_message_and_change_nothing(engine, collection):
    for path in collection.glob("pagoda-*"):
        path.write_bytes(path.read_bytes() + b"\0")
    before = list(engine.index.pictures())
    with pytest.raises(OSError, match="the model cannot be read"):
        engine.sync(collection, workers=LocalWorkers(1, fail))
    assert list(engine.index.pictures()) == before


@pytest.mark.parametrize(
    ("pictures", "num_words"), [(1, 128), (60, 1024), (1_000, 4096), (1_103, 4096), (10_000, 16384), (10**6, MAX_WORDS)]
)
def test_words_grow_with_the_square_root_of_the_collection(pictures, num_words):
    assert choose_words(pictures) == num_words


def test_words_are_a_power_of_two_and_never_fall_with_more_pictures():
    chosen = [choose_words(pictures) for pictures in range(1, 5000, 7)]
    assert chosen == sorted(chosen)
    assert all(words & (words - 1) == 0 for words in chosen)
