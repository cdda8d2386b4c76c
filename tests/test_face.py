"""What ``import d2r`` gives."""

import ast
import builtins
import json
import subprocess
import sys
from pathlib import Path

import pytest

import d2r


def test_import_loads_nothing_that_costs_time():
    heavy = {"cv2", "faiss", "numba", "numpy", "onnxruntime", "PIL", "sqlite3"}
    code = f"import sys, d2r; print(sorted({heavy} & set(sys.modules)), sorted(set(d2r.__all__) - set(dir(d2r))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "[] []\n"


def test_every_public_name_is_there_and_others_are_not():
    assert all(getattr(d2r, name) is not None for name in d2r.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = d2r.nothing


def test_every_public_exception_of_the_package_descends_from_one():
    bases = {}
    for file in Path(d2r.__file__).parent.rglob("*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                bases[node.name] = {ast.unparse(base) for base in node.bases}
    errors = {"D2RError"}
    while more := {name for name, above in bases.items() if above & errors} - errors:
        errors |= more
    built_in = {name for name in dir(builtins) if name.endswith(("Error", "Exception"))}
    raised = {name for name, above in bases.items() if above & (built_in | errors)}
    assert len(raised) > 30
    assert raised - errors == set()


def test_an_index_is_opened_or_made_searched_and_its_answer_goes_through_json_and_html(tmp_path, photo_folder):
    with pytest.raises(d2r.D2RError, match="not an index"):
        d2r.open(tmp_path / "new.index")
    query = photo_folder / "pagoda-0.jpg"
    options = {"regions": "whole", "features": "rootsift:top=300", "num_words": 64}
    with d2r.open(tmp_path / "new.index", create=True, **options) as engine:
        engine.sync(photo_folder, workers=0)
        answer = engine.search(query, d2r.SearchOptions(top=3), box=(60, 40, 300, 900))
    with d2r.open(tmp_path / "new.index", create=True) as engine:
        assert engine.recipe.features == "rootsift:top=300"
    assert [result.path for result in answer] == [result.path for result in answer.results]
    assert len(answer) == 3
    told = json.loads(json.dumps(answer.to_json()))
    assert [result["rank"] for result in told["results"]] == [1, 2, 3]
    assert told["results"][0]["path"] == str(query)
    assert told["query"]["box"][:2] == [60, 40]
    page = answer.to_html(query)
    assert "pagoda-0.jpg" in page
    assert page.lstrip().lower().startswith("<!doctype html>")


def test_two_pictures_are_matched_without_an_index(photo_folder):
    same = d2r.match(photo_folder / "pagoda-0.jpg", photo_folder / "pagoda-1.jpg", features="rootsift")
    assert same.inliers >= 8
    assert same.transform.shape == (2, 3)
    starts, ends = same.positions(same.inlier)
    placed = starts @ same.transform[:, :2].T + same.transform[:, 2]
    assert abs(placed - ends).max() < 60
    other = d2r.match(photo_folder / "pagoda-0.jpg", photo_folder / "deep" / "other-0.PNG", features="rootsift")
    assert other.inliers == 0
    assert other.transform is None
