import json
import shutil

import numpy as np
import pytest
from PIL import Image

from d2r.datasets.duplicates import near_duplicates
from d2r.evaluate.benchmark import BenchmarkError, load_benchmark
from d2r.images import read_image


def save(path, seed, size=(64, 48)):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(path, quality=95)


def names(benchmark, rows):
    return {benchmark.database[row].name for row in rows}


def test_sub_folders_are_instances_and_each_picture_a_query_to_the_others(tmp_path):
    for seed, name in enumerate(["a/1.jpg", "a/2.jpg", "a/3.jpg", "b/4.jpg", "b/5.jpg"]):
        save(tmp_path / name, seed)
    save(tmp_path.parent / "far" / "x.jpg", 9)
    benchmark = load_benchmark(tmp_path, distractors=tmp_path.parent / "far")
    assert benchmark.kind == "instances"
    assert [path.name for path in benchmark.database] == ["1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg", "x.jpg"]
    first = benchmark.relevance["all"][0]
    assert names(benchmark, first.positives) == {"2.jpg", "3.jpg"}
    assert names(benchmark, first.junk) == {"1.jpg"}
    assert len(benchmark.queries) == 5


def test_pictures_of_overlapping_instances_are_ignored(tmp_path):
    for seed, name in enumerate(["a/1.jpg", "a/2.jpg", "b/3.jpg", "c/4.jpg"]):
        save(tmp_path / name, seed)
    first = load_benchmark(tmp_path, overlapping=[("a", "b")]).relevance["all"][0]
    assert (first.positives.tolist(), first.junk.tolist()) == ([1], [0, 2])
    with pytest.raises(BenchmarkError, match="instance 'z' is not in the data set; there are: a, b, c"):
        load_benchmark(tmp_path, overlapping=[("a", "z")])


def test_test_pictures_are_queries_to_training_pictures_without_near_duplicates(tmp_path):
    for seed, name in enumerate(["train/a/1.jpg", "train/a/2.jpg", "train/b/3.jpg", "test/a/4.jpg"]):
        save(tmp_path / name, seed)
    save(tmp_path / "test" / "a" / "copy.jpg", 1, size=(80, 60))  # of train/a/2.jpg, scaled
    benchmark = load_benchmark(tmp_path)
    assert benchmark.kind == "split"
    assert benchmark.junk_pairs == 1
    judged = dict(zip([query.path.name for query in benchmark.queries], benchmark.relevance["all"], strict=True))
    assert judged["4.jpg"].positives.tolist() == [0, 1]
    assert judged["copy.jpg"].positives.tolist() == [0]
    assert judged["copy.jpg"].junk.tolist() == [1]


def test_a_revisited_folder_has_three_protocols_and_boxes(tmp_path):
    truth = {
        "imlist": ["one", "two", "three"],
        "qimlist": ["ask"],
        "gnd": [{"bbx": [1, 2, 30, 40], "easy": [0], "hard": [1], "junk": [2]}],
    }
    (tmp_path / "gnd_roxford5k.json").write_text(json.dumps(truth))
    with pytest.raises(BenchmarkError, match=r"4 pictures of gnd_roxford5k\.json are missing"):
        load_benchmark(tmp_path)
    for seed, name in enumerate([*truth["imlist"], *truth["qimlist"]]):
        save(tmp_path / "jpg" / f"{name}.jpg", seed)
    benchmark = load_benchmark(tmp_path)
    assert benchmark.kind == "revisited"
    assert list(benchmark.relevance) == ["easy", "medium", "hard"]
    assert list(benchmark.queries[0].box) == [1, 2, 30, 40]
    assert sorted(benchmark.relevance["hard"][0].junk.tolist()) == [0, 2]


def test_a_folder_that_is_no_data_set_says_what_it_needs(tmp_path):
    with pytest.raises(BenchmarkError, match="not a folder"):
        load_benchmark(tmp_path / "none")
    with pytest.raises(BenchmarkError, match="a sub-folder of pictures for each instance"):
        load_benchmark(tmp_path)


def test_near_duplicates_are_found_across_scale_and_compression_and_nothing_else(shared_data, tmp_path):
    photos = sorted((shared_data / "landmarks" / "test" / "taj-mahal").iterdir())
    again = tmp_path / "again.jpg"
    Image.fromarray(read_image(photos[0])).resize((300, 200)).save(again, quality=40)
    shutil.copy(photos[1], tmp_path / "same.jpg")
    (tmp_path / "broken.jpg").write_text("no picture")
    found = near_duplicates([again, tmp_path / "same.jpg", tmp_path / "broken.jpg"], photos)
    assert found == [(0, 0), (1, 1)]
