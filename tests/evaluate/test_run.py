import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from d2r.asmk.codebook import Codebook
from d2r.cli.app import main
from d2r.engine import Engine
from d2r.evaluate.benchmark import load_benchmark
from d2r.evaluate.metrics import mean_average_precision
from d2r.evaluate.reproduce import EXPERIMENTS, reproduce
from d2r.evaluate.run import Setup, evaluate
from d2r.indexing.codebook import choose_words
from d2r.indexing.entry import Recipe
from d2r.options import SearchOptions
from d2r.support.version import package_version

RECIPE = Recipe("rmac:levels=3", "rootsift:top=200", 1024, 200)
IN_PROCESS = {"workers": 0, "max_pixels": 10**9, "progress": lambda *_: None}


@pytest.fixture(scope="module")
def instances(photo_folder, tmp_path_factory):
    """Two instances: three views of the pagoda, and two pictures with nothing in common; six distractors."""
    folder = tmp_path_factory.mktemp("instances")
    (folder / "set" / "pagoda").mkdir(parents=True)
    (folder / "set" / "others").mkdir()
    (folder / "far").mkdir()
    others = sorted(photo_folder.rglob("*.PNG"))
    for path in photo_folder.glob("*.jpg"):
        shutil.copy(path, folder / "set" / "pagoda")
    for path in others[:2]:
        shutil.copy(path, folder / "set" / "others")
    for path in others[2:]:
        shutil.copy(path, folder / "far")
    return folder


@pytest.fixture(scope="module")
def benchmark(instances):
    return load_benchmark(instances / "set", distractors=instances / "far")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def test_methods_find_the_views_of_one_building(benchmark, cache):
    setup = Setup(RECIPE, ("asmk*", "r-asmk*", "vlad", "d2r-asmk*(max)"), 64, verify=5)
    rows, _ = evaluate(benchmark, setup, cache, codebook=None, **IN_PROCESS)
    assert [(row.method, row.stage) for row in rows] == [
        *((name, "ranked") for name in setup.methods),
        *((name, "verified") for name in setup.methods),
    ]
    pagoda = [number for number, query in enumerate(benchmark.queries) if "pagoda" in query.path.name]
    for row in rows:
        assert row.scores["all"].average_precision[pagoda].min() > 0.9, row.method
    by_name = {row.method: row for row in rows[:4]}
    assert by_name["asmk*"].regions == "whole"
    assert by_name["asmk*"].regions_per_picture == 1
    assert by_name["r-asmk*"].regions_per_picture > 10
    assert by_name["r-asmk*"].descriptors_per_picture == 1
    assert by_name["d2r-asmk*(max)"].descriptors_per_picture == by_name["r-asmk*"].regions_per_picture
    assert by_name["d2r-asmk*(max)"].bytes_per_picture > 2 * by_name["r-asmk*"].bytes_per_picture


STAGES = {
    "ranked": SearchOptions(verify=0, expand=0),
    "verified": SearchOptions(verify=6, expand=0),
    "expanded": SearchOptions(verify=6, expand=2),
}


@pytest.mark.parametrize("features", [RECIPE.features, "rootsift:top=200+delf:top=200"], ids=["one-kind", "two-kinds"])
@pytest.mark.parametrize("stage", STAGES)
def test_what_is_measured_under_a_name_is_what_the_engine_answers(stage, features, benchmark, tmp_path, monkeypatch):
    """Compared picture by picture; both leave out the query itself."""
    rankings = []

    def keep(found, *rest):
        rankings.append(found)
        return mean_average_precision(found, *rest)

    monkeypatch.setattr("d2r.evaluate.run.mean_average_precision", keep)
    recipe = replace(RECIPE, regions="rmac:levels=1", features=features)
    setup = Setup(recipe, ("asmk*", "r-asmk*"), 64, verify=6, expand=2)
    rows, extraction = evaluate(benchmark, setup, tmp_path, codebook=None, **IN_PROCESS)
    row = next(number for number, row in enumerate(rows) if (row.method, row.stage) == ("r-asmk*", stage))
    measured = [[benchmark.database[picture] for picture in ranking] for ranking in rankings[row]]

    book = Codebook.load(next((tmp_path / "codebooks").glob("*-64-0.safetensors")))
    with Engine.create(tmp_path / "x.index", **asdict(recipe), codebook=book) as engine:
        engine.add(benchmark.database, workers=0)
        answered = []
        for query, description in zip(benchmark.queries, extraction.queries, strict=True):
            itself = engine.index.picture(str(query.path)).id
            answer = engine.search_described(description, replace(STAGES[stage], top=99), ignored=[itself])
            answered.append([Path(result.path) for result in answer])
    assert measured == answered
    assert all(len(ranking) > 3 for ranking in measured)


def test_a_second_run_describes_nothing_again(benchmark, cache, monkeypatch):
    setup = Setup(RECIPE, ("asmk*",), 64, verify=0)
    first, _ = evaluate(benchmark, setup, cache, codebook=None, **IN_PROCESS)
    monkeypatch.setattr("d2r.indexing.entry.describe", lambda *_, **__: pytest.fail("described again"))
    second, _ = evaluate(benchmark, setup, cache, codebook=None, **IN_PROCESS)
    np.testing.assert_array_equal(first[0].scores["all"].average_precision, second[0].scores["all"].average_precision)


def test_fewer_regions_of_a_description_are_those_that_a_smaller_selector_chooses(benchmark, cache):
    """A sweep that describes once with the largest selector gives the same as describing with each."""
    setup = Setup(RECIPE, ("r-asmk*",), 64, verify=0)
    experiment = EXPERIMENTS["table1"]
    swept = reproduce(benchmark, experiment, RECIPE, cache, num_words=(64,), codebook=None, **IN_PROCESS)
    swept_row = next(row for row in swept if row.method == "r-asmk*")
    book = Codebook.load(next((cache / "codebooks").glob("*-64-0.safetensors")))
    small = Setup(Recipe("rmac:levels=2", RECIPE.features, 1024, 200), setup.methods, 64, verify=0)
    direct = evaluate(benchmark, small, cache, codebook=book, **IN_PROCESS)[0][0]
    assert swept_row.regions_per_picture == direct.regions_per_picture
    assert swept_row.bytes_per_picture == direct.bytes_per_picture
    np.testing.assert_array_equal(swept_row.scores["all"].average_precision, direct.scores["all"].average_precision)


def test_a_sweep_gives_the_baseline_once_and_a_row_for_each_selector(benchmark, cache):
    rows = reproduce(benchmark, EXPERIMENTS["fig4b"], RECIPE, cache, num_words=(64,), codebook=None, **IN_PROCESS)
    assert [(row.method, row.regions) for row in rows] == [
        ("asmk*", "whole"),
        *(("r-asmk*", f"rmac:levels={levels}") for levels in (1, 2, 3)),
        *(("r-asmk*", f"selective-search:top={top}") for top in (1, 2, 5, 10)),
    ]
    counts = [row.regions_per_picture for row in rows]
    assert counts[:4] == sorted(counts[:4])
    assert counts[4:] == sorted(counts[4:])


def test_evaluating_from_the_command_line_prints_a_table_and_writes_the_run(instances, tmp_path, monkeypatch, capsys):
    arguments = ["evaluate", instances / "set", "--distractors", instances / "far", "--words", "64", "--workers", "0"]
    arguments += ["--method", "asmk*", "--method", "bow", "--verify", "3", "--features", "rootsift:top=200"]
    arguments += ["--cache", tmp_path / "cache", "--out", tmp_path / "run.json", "--regions", "rmac:levels=1"]
    monkeypatch.setattr("sys.argv", ["d2r", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "set: 5 queries, 10 pictures" in text
    assert "| asmk* + verification" in text
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["setup"]["recipe"]["features"] == "rootsift:top=200"
    assert run["setup"]["words"] == 64
    assert [row["method"] for row in run["rows"]] == ["asmk*", "bow", "asmk*", "bow", "asmk*"]
    assert [row["stage"] for row in run["rows"]] == ["ranked", "ranked", "verified", "verified", "expanded"]
    assert len(run["rows"][0]["scores"]["all"]["average_precision"]) == 5


def test_reproducing_from_the_command_line_writes_tables_and_figures(instances, cache, tmp_path, monkeypatch, capsys):
    arguments = ["reproduce", "fig4b", "--dataset", instances / "set", "--words", "64", "--workers", "0"]
    arguments += ["--cache", cache, "--out", tmp_path, "--features", "rootsift:top=200"]
    monkeypatch.setattr("sys.argv", ["d2r", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    assert "instances set set: 5 queries, 5 pictures" in capsys.readouterr().out
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {f"fig4b-set.{ending}" for ending in ("md", "csv", "tex", "png", "svg", "json")}
    assert (tmp_path / "fig4b-set.csv").read_text().startswith("method,regions,words,mAP,change [95 %],mP@10")


@pytest.mark.parametrize(
    "arguments",
    [["evaluate", "SET", "--method", "magic"], ["reproduce", "table9", "--dataset", "SET"], ["dataset", "get", "x"]],
)
def test_unknown_names_are_usage_errors(instances, arguments, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["d2r", *(str(instances / "set") if a == "SET" else a for a in arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "is not known" in capsys.readouterr().err


def test_words_are_capped_by_the_descriptors_that_there_are_and_it_is_said(d2r, instances, tmp_path):
    """Learning too many words used to take minutes, without a message."""
    options = ["--words", "65536", "--features", "rootsift:top=50", "--regions", "whole", "--workers", "0"]
    arguments = ["evaluate", instances / "set", "--out", tmp_path / "run.json", "--cache", tmp_path / "cache", *options]
    for _ in range(2):  # the second run, from the cache, says so too
        status, out, err = d2r(*arguments)
        assert status == 0, err
        run = json.loads((tmp_path / "run.json").read_text())
        assert run["setup"]["words"] == 65536
        (words,) = {row["words"] for row in run["rows"]}
        assert words in (8, 16)
        assert f"{words} visual words; 65,536 need 1,048,576 features, 16 per word" in out
    reproduce = [
        "reproduce",
        "table2",
        "--dataset",
        instances / "set",
        "--out",
        tmp_path,
        "--cache",
        tmp_path / "cache",
    ]
    status, out, err = d2r(*reproduce, "--features", "rootsift:top=50", "--workers", "0")
    assert status == 0, err
    for size in (1024, 65536):
        assert f"{size:,} need {16 * size:,} features, 16 per word" in out


def test_without_options_evaluation_describes_pictures_as_an_index_does(d2r, instances, built_index, tmp_path):
    arguments = ["evaluate", instances / "set", "--out", tmp_path / "run.json", "--cache", tmp_path / "cache"]
    status, _, err = d2r(*arguments, "--workers", "0")
    assert status == 0, err
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["setup"]["words"] == choose_words(5)
    assert [(row["method"], row["stage"]) for row in run["rows"]] == [
        (method, stage) for stage in ("ranked", "verified", "expanded") for method in ("asmk*", "r-asmk*")
    ]
    book = Codebook.load(next((tmp_path / "cache" / "codebooks").iterdir()))
    with Engine.open(built_index) as engine:
        recipe = asdict(engine.recipe)
    assert asdict(book.origin) == {
        "features": recipe["features"], "regions": recipe["regions"], "max_side": recipe["max_side"],
        "pictures": 5, "version": package_version(),
    }  # fmt: skip


@pytest.mark.parametrize("command", [["evaluate", "SET"], ["reproduce", "fig5", "--dataset", "SET"]])
def test_words_of_other_features_are_refused_before_anything_is_described(
    d2r, instances, built_index, tmp_path, command
):
    arguments = [instances / "set" if one == "SET" else one for one in command]
    options = [
        "--codebook",
        built_index,
        "--features",
        "rootsift",
        "--cache",
        tmp_path / "cache",
        "--out",
        tmp_path / "o",
    ]
    status, _, err = d2r(*arguments, *options)
    assert status == 1
    assert "learned from hardnet:model=hardnet-int8,sha256=" in err
    assert "described by rootsift" in err
    assert not (tmp_path / "cache").exists()
