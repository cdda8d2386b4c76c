import sys

import numpy as np
import pytest
from onnx import TensorProto

from d2r.features.network import FeatureError, load_feature_network
from d2r.models import onnx as onnx_files
from d2r.models.onnx import find_file
from detectors import write_detector
from local_features import FIELD, METADATA, STRIDE, write_features
from programs import run

NOISE = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3), dtype=np.uint8)


def test_a_network_describes_each_cell_of_each_picture(tmp_path):
    path = write_features(tmp_path / "toy.onnx", dim=20, metadata={**METADATA, "licence": "CC0"})
    network = load_feature_network(path)
    assert (network.arch, network.stride, network.offset, network.field) == ("toy", STRIDE, STRIDE / 2, FIELD)
    assert (network.scales, network.threshold, network.dim, network.licence) == ((0.5, 1.0, 2.0), 0.01, 20, "CC0")
    assert network.bytes == path.stat().st_size
    descriptors, attention = network.run(NOISE)
    assert (descriptors.shape, attention.shape) == ((3, 4, 6, 20), (3, 4, 6))
    assert descriptors.dtype == attention.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(descriptors, axis=-1), 1.0, rtol=1e-5)
    alone = network.run(NOISE[1:2, :, :24])
    np.testing.assert_allclose(alone[0][0, :, :2], descriptors[1, :, :2], atol=1e-5)


def test_the_map_of_the_backbone_is_there_for_those_who_ask(tmp_path):
    network = load_feature_network(write_features(tmp_path / "toy.onnx", dim=20, backbone=20))
    assert network.channels == 20
    features = network.maps(NOISE)
    assert (features.shape, features.dtype) == ((3, 20, 4, 6), np.float32)
    descriptors, _ = network.run(NOISE)
    np.testing.assert_array_equal(features > 0, descriptors.transpose(0, 3, 1, 2) > 0)


def test_a_file_without_the_map_describes_and_says_how_to_get_it(tmp_path):
    network = load_feature_network(write_features(tmp_path / "toy.onnx"))
    assert network.channels is None
    assert network.run(NOISE)[0].any()
    with pytest.raises(FeatureError, match=r"toy\.onnx: it does not give the backbone's features: export it again"):
        network.maps(NOISE)


def test_the_shipped_network_gives_its_map():
    network = load_feature_network(find_file("delf-efficientnet-lite0", FeatureError))
    assert network.maps(NOISE[:1]).shape == (1, network.channels, 2, 3)
    assert network.channels == 672


def test_maps_that_the_format_does_not_allow_are_refused(tmp_path):
    for written, problem in (
        ({"lift": -1.0}, "features that are negative or not finite"),
        ({"lift": float("nan")}, "features that are negative or not finite"),
        ({"step": 4}, r"features .* for pictures \(3, 32, 48, 3\); expected \(3, 24, 4, 6\)"),
    ):
        network = load_feature_network(write_features(tmp_path / "toy.onnx", backbone=24, **written))
        with pytest.raises(FeatureError, match=rf"toy\.onnx: it gives {problem}"):
            network.maps(NOISE)


def test_a_cell_that_sees_nothing_is_described_by_zeros(tmp_path):
    network = load_feature_network(write_features(tmp_path / "toy.onnx"))
    descriptors, attention = network.run(np.full((1, 32, 32, 3), 0, np.uint8))
    assert not descriptors.any()
    assert not attention.any()


def test_detectors_and_local_features_have_the_threads_that_were_set(tmp_path, monkeypatch):
    path = write_features(tmp_path / "toy.onnx")
    assert load_feature_network(path) is load_feature_network(path)
    for threads in (1, 2):
        monkeypatch.setattr(onnx_files, "_threads", None)
        onnx_files.set_threads(threads)
        options = load_feature_network(path)._file._session.get_session_options()
        assert (options.intra_op_num_threads, options.enable_mem_pattern) == (threads, False)


def test_a_process_that_describes_pictures_does_not_import_torch(tmp_path):
    path = write_features(tmp_path / "toy.onnx")
    code = (
        "import sys; import numpy as np; from d2r.features import make_extractor;"
        "make_extractor('rootsift').extract([]); assert 'onnxruntime' not in sys.modules;"
        f"print(make_extractor('delf:model={path}').dim);"
        "assert not {'torch', 'torchvision'} & set(sys.modules)"
    )
    done = run(sys.executable, "-c", code)
    assert (done.returncode, done.stdout.strip()) == (0, "24"), done.stderr


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ({"metadata": {}}, r"not a file of local features .* d2r = 'local-features-1'; it has no such entry"),
        ({"metadata": {**METADATA, "d2r": "detector-1"}}, "it says 'detector-1'"),
        ({"metadata": {**METADATA, "arch": ""}}, "must name the architecture as arch"),
        ({"metadata": {**METADATA, "stride": "0"}}, "give stride as a number of pixels, not '0'"),
        ({"metadata": {**METADATA, "stride": "8.0"}}, r"give stride as a number of pixels, not '8\.0'"),
        ({"metadata": {**METADATA, "offset": "left"}}, "give offset as a number, not 'left'"),
        ({"metadata": {**METADATA, "threshold": "nan"}}, "give threshold as a number, not 'nan'"),
        ({"metadata": {**METADATA, "field": "-3"}}, "give field above 0, not -3"),
        ({"metadata": {**METADATA, "scales": "1,,2"}}, "give scales as numbers separated by commas, not ''"),
        ({"metadata": {**METADATA, "scales": "1,0"}}, "give scales above 0, not 0"),
        ({"names": ("x", "descriptors", "attention")}, r"expected the inputs pictures uint8 .*; it has x uint8"),
        ({"names": ("pictures", "descriptors", "weights")}, r"expected the outputs .*; it has .* weights float"),
        ({"dtype": TensorProto.FLOAT}, r"it has pictures float \("),
        ({"sides": ("N", 64, 64)}, "N, H and W of its input must be free"),
        ({"sides": (1, "H", "W")}, "N, H and W of its input must be free"),
        ({"named": False}, "the shape of its descriptors must name their dimensions"),
        ({"backbone": "C"}, "the shape of its features must name their channels"),
    ],
)
def test_a_file_that_is_not_of_the_format_is_refused(tmp_path, written, problem):
    path = write_features(tmp_path / "wrong.onnx", **written)
    with pytest.raises(FeatureError, match=rf"wrong\.onnx: .*{problem}"):
        load_feature_network(path)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FeatureError, match=r"none\.onnx: cannot be read: No such file"):
        load_feature_network(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a network")
    with pytest.raises(FeatureError, match=r"bad\.onnx: not an ONNX file that can be run"):
        load_feature_network(tmp_path / "bad.onnx")
    with pytest.raises(FeatureError, match=r"toy\.onnx: not a file of local features"):
        load_feature_network(write_detector(tmp_path / "toy.onnx"))


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ({"sign": -1.0}, "it gives an attention of -.*; expected 0 or more"),
        ({"length": 2.0}, "it gives a descriptor of length 2; expected 1"),
        ({"length": float("nan")}, "it gives values that are not finite"),
        ({"step": 4}, r"it gives descriptors .*; expected \(3, 4, 6, 24\) and \(3, 4, 6\)"),
    ],
)
def test_results_that_the_format_does_not_allow_are_refused(tmp_path, written, problem):
    network = load_feature_network(write_features(tmp_path / "toy.onnx", **written))
    with pytest.raises(FeatureError, match=rf"toy\.onnx: {problem}"):
        network.run(NOISE)
