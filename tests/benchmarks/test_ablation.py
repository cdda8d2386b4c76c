from dataclasses import replace

import numpy as np
import pytest
from benchmarks.ablation.__main__ import main
from benchmarks.ablation.ablation import GLOBAL_VARIANTS, VARIANTS, ablate, describe_queries

from d2r.boxes import iou
from d2r.describe import describe_query
from d2r.evaluate.benchmark import Benchmark, QueryPicture, load_benchmark
from d2r.evaluate.run import Setup, evaluate
from d2r.features import RootSIFT
from d2r.images import read_image
from d2r.indexing.entry import Recipe
from local_features import write_features

RECIPE = Recipe("detector:threshold=0.1", "rootsift:top=200", 1024, 200)
IN_PROCESS = {"workers": 0, "max_pixels": 10**9, "progress": lambda *_: None}


@pytest.fixture(scope="module")
def benchmark(photo_folder, tmp_path_factory):
    """Three views of the pagoda, each a query to the others, among seven other pictures."""
    folder = tmp_path_factory.mktemp("ablation") / "set"
    (folder / "pagoda").mkdir(parents=True)
    for path in photo_folder.glob("*.jpg"):
        (folder / "pagoda" / path.name).write_bytes(path.read_bytes())
    return load_benchmark(folder, distractors=photo_folder / "deep")


def test_there_is_a_row_for_each_variant_and_the_first_is_what_evaluate_measures(benchmark, tmp_path):
    rows = ablate(benchmark, RECIPE, tmp_path, num_words=64, codebook=None, **IN_PROCESS)
    assert [row.method for row in rows] == [variant.name for variant in VARIANTS]
    plain, verified = evaluate(benchmark, Setup(RECIPE, ("r-asmk*",), 64, 100), tmp_path, codebook=None, **IN_PROCESS)[
        0
    ]
    for row, expected in ((rows[0], verified), (rows[1], plain)):
        np.testing.assert_array_equal(row.scores["all"].average_precision, expected.scores["all"].average_precision)
        assert row.bytes_per_picture == expected.bytes_per_picture
    by_name = {row.method: row for row in rows}
    assert by_name["64 bits"].bytes_per_picture < rows[0].bytes_per_picture < by_name["256 bits"].bytes_per_picture
    assert by_name["database augmentation, 5"].bytes_per_picture > rows[0].bytes_per_picture
    assert all(row.milliseconds > 0 for row in rows)


def test_features_with_a_map_have_rows_of_global_descriptors_too(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.ablation.ablation.VARIANTS", VARIANTS[:2])
    model = write_features(tmp_path / "toy.onnx", backbone=24)
    recipe = replace(RECIPE, features=f"delf:model={model},top=200")
    rows = ablate(benchmark, recipe, tmp_path, num_words=64, codebook=None, **IN_PROCESS)
    assert [row.method for row in rows] == [variant.name for variant in (*VARIANTS[:2], *GLOBAL_VARIANTS)]
    by_name = {row.method: row for row in rows}
    for name in ("GeM", "GeM, not verified", "R-MAC"):  # nine other pictures and the query itself
        row = by_name[name]
        assert (row.bytes_per_picture, row.descriptors_per_picture, row.regions) == (4 * 10, 1.0, "whole")
        assert (row.regions_per_picture, row.milliseconds > 0) == (1.0, True)
    regions = by_name["GeM of each region"]
    assert regions.descriptors_per_picture == regions.regions_per_picture == rows[0].regions_per_picture > 1
    every = round(10 * regions.regions_per_picture)  # and no more dimensions are learned from them
    assert regions.bytes_per_picture == pytest.approx(4 * min(24, every) * every / 10)
    for name in ("hybrid: sum with GeM", "late fusion with GeM"):
        assert by_name[name].bytes_per_picture == rows[0].bytes_per_picture + by_name["GeM"].bytes_per_picture
        assert by_name[name].descriptors_per_picture == 2.0


def test_the_command_says_which_rows_are_left_out(photo_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.ablation.ablation.VARIANTS", VARIANTS[:1])
    command = ["ablation", photo_folder, "--words", "16", "--workers", "0", "--out", tmp_path / "out"]
    command += ["--cache", tmp_path / "cache", "--features", "rootsift:top=50"]
    monkeypatch.setattr("sys.argv", [str(part) for part in command])
    main()
    out = capsys.readouterr().out
    assert "left out, the rows of global descriptors: rootsift:top=50 has no network whose map could be pooled" in out
    assert {path.suffix for path in (tmp_path / "out").iterdir()} >= {".json", ".csv"}


def test_queries_are_described_with_their_regions_once(photo_folder, tmp_path, monkeypatch):
    path = photo_folder / "pagoda-0.jpg"
    one = Benchmark("one", "instances", (path,), (QueryPicture(path, (60.0, 40.0, 300.0, 220.0)),), {})
    recipe = Recipe("rmac:levels=1", "rootsift:top=200", 1024, 200)
    arguments = (one, recipe, tmp_path / "queries")
    query = describe_queries(*arguments, **IN_PROCESS)[0]
    box = describe_query(read_image(path), (60, 40, 300, 220), RootSIFT(top=200), max_side=1024)
    np.testing.assert_array_equal(query.features.positions[query.regions == 0], box.features.positions)
    assert len(query.boxes) == 3
    assert iou(query.boxes[1:], query.boxes[:1]).min() > 0.4
    assert (query.boxes[1:, :2] >= [60, 40]).all()
    assert (query.boxes[1:, 2:] <= [300, 220]).all()
    monkeypatch.setattr("benchmarks.ablation.ablation.describe_query", lambda *_, **__: pytest.fail("described again"))
    again = describe_queries(*arguments, **IN_PROCESS)[0]
    np.testing.assert_array_equal(again.features.descriptors, query.features.descriptors)
