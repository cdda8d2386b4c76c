import os
import pickle
import signal

import pytest

from cluster_processes import kill, named
from d2r.engine import Engine
from d2r.indexing import fill as build
from d2r.regions import DetectorError
from d2r.sources import PictureFile
from d2r.support.processes import WorkerDied
from detectors import write_detector

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.timeout(900)]


def contents(folder):
    """Everything in an index about its pictures, and every byte of its segments."""
    with Engine.open(folder) as engine:
        rows = list(engine.index.pictures())
        segments = {
            file.relative_to(folder): file.read_bytes() for file in sorted((folder / "segments").rglob("*.npy"))
        }
        return rows, segments, engine.index.codebook.centroids.tobytes()


@pytest.fixture
def commit_each(monkeypatch):
    """Commit every picture separately, so that a build can be interrupted between any two."""
    monkeypatch.setattr(build, "_BATCH_BYTES", 1)


@pytest.mark.usefixtures("commit_each")
def test_a_build_that_is_interrupted_and_loses_a_worker_equals_the_local_one(collection, tmp_path):
    from d2r.cluster.describe import ClusterWorkers

    (collection / "deep" / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    made, local = tmp_path / "made.index", tmp_path / "local.index"
    with Engine.create(local, num_words=64, regions="whole", features="rootsift") as engine:
        expected = engine.sync(collection, workers=0)

    def stop(stage, done, total):
        if stage == "index" and done == 4:
            raise KeyboardInterrupt

    killed = []

    def lose(stage, done, total):
        if stage == "index" and done == 1:
            killed.extend(named("MapWorker(MapBatches(_Worker))"))
            kill(killed[0])

    with Engine.create(made, num_words=64, regions="whole", features="rootsift") as engine:
        with pytest.raises(KeyboardInterrupt):
            engine.sync(collection, workers=ClusterWorkers(), progress=stop)
        before = engine.index.size().pictures
        assert before in (3, 4)  # the broken one may be among the four
        report = engine.sync(collection, workers=ClusterWorkers(), progress=lose)
        assert engine.check() == []
    assert killed
    assert report.words_learned == 0
    # Nothing was described twice except the broken one, which is tried again.
    assert report.unchanged == before
    assert report.added == 10 - before
    assert report.skipped == expected.skipped
    assert contents(made) == contents(local)
    with Engine.open(made) as one, Engine.open(local) as other:
        for picture in collection.rglob("pagoda-*.jpg"):
            assert found(one, picture) == found(other, picture)


def found(engine, picture):
    return [(result.path, result.score, result.inliers) for result in engine.search(picture).results]


def test_gpus_look_for_landmarks_between_decoding_and_describing(collection, tmp_path, d2r, monkeypatch):
    from d2r.cluster import describe

    (collection / "deep" / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    detector = f"detector:model={write_detector(tmp_path / 'toy.onnx')}"
    with Engine.create(tmp_path / "local.index", num_words=64, regions=detector) as engine:
        engine.sync(collection, workers=0)
    pools = []
    make = describe._pool
    monkeypatch.setattr(describe, "_pool", lambda most: pools.append(most) or make(most))
    made = tmp_path / "made.index"
    status, output, error = d2r(
        "index", collection, "--out", made, "--regions", detector, "--codebook", tmp_path / "local.index", "--ray"
    )
    assert status == 0, error
    assert "10 added, 1 skipped" in output
    assert pools == [1, 1, 1]  # to decode, to look, to describe
    assert contents(made) == contents(tmp_path / "local.index")
    with Engine.open(made) as engine:
        boxes, _ = engine.index.regions(next(row for row in engine.index.pictures() if row.segment is not None))
    assert len(boxes) == 2  # the second is the detector's


def answer_or_die(file):
    if file.path == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    if file.path == "wrong":
        raise DetectorError("toy.onnx", "gone")
    return file.size + 1


def test_a_picture_that_kills_its_process_costs_no_other():
    import ray

    from d2r.cluster.describe import _Raised, _table, _Worker

    worker = _Worker([ray.put(pickle.dumps(answer_or_die))])
    files = [
        pickle.dumps(PictureFile(path, size, 0)) for size, path in enumerate(["one", "deadly", "two", "wrong", "three"])
    ]
    rows = [row for table in worker(_table([(file, file) for file in files])) for row in table.to_pylist()]
    assert [row["file"] for row in rows] == files
    results = [pickle.loads(row["result"]) for row in rows]
    assert results[::2] == [1, 3, 5]
    assert isinstance(results[1], WorkerDied)
    assert str(results[1]) == "was killed (SIGKILL), twice"
    assert isinstance(results[3], _Raised)
    assert "toy.onnx: gone" in str(results[3].error)
    # An outcome of an earlier stage passes through unchanged.
    settled = pickle.dumps(WorkerDied("before"))
    (table,) = worker(_table([(files[0], settled)]))
    assert table.to_pylist()[0]["result"] == settled


def test_what_is_not_a_fault_of_a_picture_ends_the_build(collection, tmp_path):
    from d2r.cluster.describe import ClusterWorkers

    model = write_detector(tmp_path / "toy.onnx")
    with Engine.create(tmp_path / "made.index", num_words=64, regions=f"detector:model={model}") as engine:
        model.unlink()
        with pytest.raises(DetectorError, match=r"toy\.onnx"):
            engine.sync(collection, workers=ClusterWorkers(detectors=0))
