import os
import pickle
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from onnx import TensorProto

from d2r.models import onnx as onnx_files
from d2r.regions.network import DetectorError, load_network
from detectors import METADATA, SIDE, write_detector
from programs import run

NOISE = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)


def test_a_network_gives_boxes_and_scores_of_each_picture(tmp_path):
    loaded = load_network(write_detector(tmp_path / "toy.onnx", scores=[0.5], by_red=True))
    assert (loaded.arch, loaded.side, loaded.batches) == ("toy", SIDE, True)
    assert loaded.bytes == (tmp_path / "toy.onnx").stat().st_size
    boxes, scores = loaded.run(NOISE)
    assert boxes.shape == (3, 1, 4)
    assert boxes.dtype == scores.dtype == np.float32
    np.testing.assert_allclose(scores[:, 0], 0.5 * NOISE[..., 0].mean(axis=(1, 2)) / 255, rtol=1e-5)


def test_a_network_that_takes_one_picture_gives_the_same_as_one_that_takes_many(tmp_path):
    many = load_network(write_detector(tmp_path / "many.onnx", by_red=True))
    one = load_network(write_detector(tmp_path / "one.onnx", by_red=True, batch=1))
    assert not one.batches
    for wanted, given in zip(many.run(NOISE), one.run(NOISE), strict=True):
        np.testing.assert_allclose(given, wanted, rtol=1e-6)


def test_a_network_is_loaded_once_and_again_when_its_file_changes(tmp_path):
    path = write_detector(tmp_path / "toy.onnx")
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(load_network, [path] * 20))
    assert len(set(map(id, loaded))) == 1
    write_detector(tmp_path / "other.onnx", scores=[0.1])
    shutil.move(tmp_path / "other.onnx", path)
    os.utime(path, (1, 1))
    again = load_network(path)
    assert again.sha256 != loaded[0].sha256
    assert again.run(NOISE)[1].max() < 0.2


def test_threads_can_run_one_network_at_the_same_time(tmp_path):
    loaded = load_network(write_detector(tmp_path / "toy.onnx", by_red=True))
    alone = [loaded.run(picture[None])[1].item() for picture in NOISE]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda k: loaded.run(NOISE[k % 3][None])[1].item(), range(60)))
    assert together == alone * 20


def test_the_number_of_threads_is_that_of_the_process_or_what_was_set(tmp_path, monkeypatch):
    path = write_detector(tmp_path / "toy.onnx")
    for threads in (1, 2):
        monkeypatch.setattr(onnx_files, "_threads", threads)
        options = load_network(path)._file._session.get_session_options()
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (threads, 1)


def test_a_process_that_runs_a_detector_does_not_import_torch(tmp_path):
    path = write_detector(tmp_path / "toy.onnx")
    code = (
        "import sys; import numpy as np; from d2r.regions import make_selector;"
        "assert 'onnxruntime' not in sys.modules;"
        f"print(len(make_selector('detector:model={path}').select(np.zeros((9, 9, 3), np.uint8))));"
        "assert not {'torch', 'torchvision'} & set(sys.modules)"
    )
    done = run(sys.executable, "-c", code)
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ({"metadata": {}}, r"metadata must say d2r = 'detector-1'; it has no such entry"),
        ({"metadata": {**METADATA, "d2r": "detector-2"}}, r"d2r = 'detector-1'; it says 'detector-2'"),
        ({"metadata": {"d2r": "detector-1", "side": "32"}}, "must name the architecture as arch"),
        ({"metadata": {**METADATA, "side": "wide"}}, "side as a number of pixels, not 'wide'"),
        ({"metadata": {**METADATA, "side": "0"}}, "side as a number of pixels, not '0'"),
        (
            {"metadata": {**METADATA, "side": "64"}},
            r"expected the inputs pictures uint8 \(\?, 64, 64, 3\); it has pictures uint8 \(\?, 32, 32, 3\)",
        ),
        ({"names": ("x", "boxes", "scores")}, r"expected the inputs pictures .*; it has x uint8"),
        (
            {"names": ("pictures", "boxes", "logits")},
            r"expected the outputs boxes float \(\?, \?, 4\), scores float \(\?, \?\); it has boxes .*, logits float",
        ),
        ({"boxes": [(0.0, 0.0, 1.0)]}, r"expected the outputs .*; it has boxes float \(\?, 1, 3\), scores"),
        ({"dtype": TensorProto.FLOAT}, r"it has pictures float \("),
        ({"batch": 4}, "takes exactly 4 pictures at once; expected one, or any number"),
    ],
)
def test_a_file_that_is_not_of_the_format_is_refused(tmp_path, written, problem):
    path = write_detector(tmp_path / "wrong.onnx", **written)
    with pytest.raises(DetectorError, match=rf"wrong\.onnx: .*{problem}"):
        load_network(path)


def test_a_file_that_is_missing_or_not_onnx_is_refused(tmp_path):
    with pytest.raises(DetectorError, match=r"none\.onnx: cannot be read: No such file"):
        load_network(tmp_path / "none.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(DetectorError, match=r"folder\.onnx: cannot be read: Is a directory"):
        load_network(tmp_path / "folder.onnx")
    for content in (b"", b"not a network", write_detector(tmp_path / "toy.onnx").read_bytes()[:200]):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(DetectorError, match=r"bad\.onnx: not "):
            load_network(tmp_path / "bad.onnx")


def test_results_that_are_not_finite_are_refused(tmp_path):
    loaded = load_network(write_detector(tmp_path / "toy.onnx", scores=[float("nan")]))
    with pytest.raises(DetectorError, match="not finite"):
        loaded.run(NOISE)


def test_an_error_crosses_from_a_worker_process():
    error = pickle.loads(pickle.dumps(DetectorError("x.onnx", "it is gone")))
    assert (str(error), error.name, error.reason) == ("x.onnx: it is gone", "x.onnx", "it is gone")
