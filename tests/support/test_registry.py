import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2r.features import EXTRACTORS, RootSIFT, make_extractor, same_descriptors
from d2r.regions import RMAC, SELECTORS, SelectiveSearch, Whole, make_selector
from d2r.support.registry import Registry, SpecError
from programs import D2R, run


@dataclass(frozen=True)
class Part:
    size: int = 3
    share: float = 0.5

    def __post_init__(self):
        if self.size < 1:
            raise ValueError("size must be 1 or more")


PARTS = Registry("parts", {"part": Part})


@pytest.mark.parametrize(
    ("spec", "part"),
    [("part", Part()), ("part:size=7", Part(7)), ("part:share=0.25, size=2", Part(2, 0.25)), (" part: ", Part())],
)
def test_a_specification_makes_the_part_it_describes(spec, part):
    assert PARTS.make(spec) == part


@pytest.mark.parametrize("part", [Part(), Part(9), Part(2, 0.125)])
def test_a_part_gives_back_a_specification_that_makes_it(part):
    assert PARTS.make(PARTS.spec(part)) == part


@settings(deadline=None, max_examples=50)
@given(size=st.integers(1, 10**12), share=st.floats(allow_nan=False))
def test_every_value_survives_its_specification(size, share):
    part = Part(size, share)
    assert PARTS.make(PARTS.spec(part)) == part


def test_only_options_that_differ_from_the_default_are_written():
    assert PARTS.spec(Part()) == "part"
    assert PARTS.spec(Part(4)) == "part:size=4"
    assert PARTS.spec(Part(4, 0.25)) == "part:size=4,share=0.25"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("other", "parts 'other' is not known; there are: part"),
        ("", "is not known"),
        ("part:weight=1", r"no option 'weight=1'; its options: size=\.\.\., share=\.\.\."),
        ("part:size", "no option 'size'"),
        ("part:=3", "no option '=3'"),
        ("part:Size=3", r"its options: size=\.\.\., share=\.\.\."),
        ("part:size=1.5", "size must be of type int, not '1.5'"),
        ("part:share=half", "share must be of type float, not 'half'"),
        ("part:size=", "size must be of type int, not ''"),
        ("part:size=big", "size must be of type int, not 'big'"),
        ("part:size=0", "size must be 1 or more"),
    ],
)
def test_a_wrong_specification_says_what_there_is(spec, message):
    with pytest.raises(SpecError, match=message):
        PARTS.make(spec)


def test_errors_name_every_part_and_a_part_without_options_says_so():
    with pytest.raises(SpecError, match=r"regions 'none' is not known; there are: .*rmac, selective-search, whole"):
        make_selector("none")
    with pytest.raises(SpecError, match=r"features 'none' is not known; there are: .*rootsift"):
        make_extractor("none")
    with pytest.raises(SpecError, match="regions 'whole' has no option 'levels=2'; its options: none"):
        make_selector("whole:levels=2")


def test_selectors_and_extractors_are_known_by_name():
    assert make_selector("whole") == Whole()
    assert make_selector("rmac:levels=2") == RMAC(2)
    assert make_selector("selective-search:top=2") == SelectiveSearch(2)
    assert make_extractor("rootsift:top=10,contrast=0.1") == RootSIFT(10, 0.1)
    assert SELECTORS.spec(RMAC(2)) == "rmac:levels=2"
    assert EXTRACTORS.spec(RootSIFT()) == "rootsift"
    for spec in ("rmac:levels=0", "rmac:levels=11", "selective-search:top=0"):
        with pytest.raises(SpecError):
            make_selector(spec)
    for spec in ("rootsift:top=0", "rootsift:contrast=-1", "rootsift:contrast=nan"):
        with pytest.raises(SpecError):
            make_extractor(spec)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("rootsift", "rootsift", True),
        ("rootsift", "rootsift:top=200,contrast=0.01", True),
        ("hardnet:sha256=ab", "hardnet:sha256=ab,top=500", True),
        ("delf:model=/a/b.onnx,sha256=ab,nms=4.0,scales=1", "delf:sha256=ab,model=/c.onnx,threshold=2", True),
        ("rootsift", "hardnet:sha256=ab", False),
        ("hardnet:sha256=ab", "hardnet:sha256=cd", False),
        ("hardnet:sha256=ab", "hardnet", False),
        ("delf:sha256=ab", "hardnet:sha256=ab", False),
        ("new:rotated=1", "new", False),
    ],
)
def test_descriptors_are_the_same_where_the_extractor_and_its_network_are(one, other, same):
    assert same_descriptors(one, other) is same
    assert same_descriptors(other, one) is same


def plugin(folder, name, lines, code):
    """Make a package look installed, with its entry points."""
    (folder / f"{name}.py").write_text(code)
    (folder / f"{name}-1.0.dist-info").mkdir()
    (folder / f"{name}-1.0.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (folder / f"{name}-1.0.dist-info" / "entry_points.txt").write_text(lines)


def test_the_documentation_adds_a_selector_and_an_extractor_that_an_index_is_made_and_searched_with(
    tmp_path, photo_folder
):
    text = (Path(__file__).parents[2] / "docs" / "extend.md").read_text()
    entries = "[d2r.features]\ngrid-sift = my_package:GridSIFT\n[d2r.regions]\nmiddle = my_package:Middle\n"
    plugin(tmp_path, "my_package", entries, re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    options = ["--features", "grid-sift:step=12", "--regions", "middle", "--words", "64", "--workers", "1"]
    made = run(*D2R, "index", photo_folder, "--out", tmp_path / "x.index", *options, env=environment)
    assert made.returncode == 0, made.stderr
    query = photo_folder / "pagoda-0.jpg"
    found = run(*D2R, "search", tmp_path / "x.index", query, "--json", "--top", "1", env=environment)
    assert found.returncode == 0, found.stderr
    (result,) = json.loads(found.stdout)["results"]
    assert result["path"] == str(query)
    assert len(result["regions"]) == 2
    without = run(*D2R, "search", tmp_path / "x.index", query)
    assert without.returncode == 2
    assert "features 'grid-sift' is not known; there are: delf, hardnet, rootsift" in without.stderr


def test_the_documentation_gives_objects_of_a_script_that_worker_processes_know_too(tmp_path, photo_folder):
    text = (Path(__file__).parents[2] / "docs" / "extend.md").read_text()
    classes, use = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    use = use.replace('"Pictures"', repr(str(photo_folder))).replace(
        '"castle.jpg"', repr(str(photo_folder / "pagoda-0.jpg"))
    )
    (tmp_path / "script.py").write_text(classes + use)
    for _ in range(2):  # created, then opened again
        done = run(sys.executable, "script.py", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, f"{photo_folder / 'pagoda-0.jpg'}\n"), done.stderr
    without = run(*D2R, "search", tmp_path / "grid.index", photo_folder / "pagoda-0.jpg")
    assert without.returncode == 2
    assert "features '__main__.GridSIFT' is not known here (it was given as an object: give it again" in without.stderr


def test_a_part_of_another_package_that_is_broken_is_named_and_a_name_of_ours_is_not_taken_over(tmp_path, monkeypatch):
    entries = "[d2r.parts]\nbroken = other_package:nothing\nplain = other_package:plain\npart = other_package:plain\n"
    plugin(tmp_path, "other_package", entries, "def plain(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    parts = Registry("parts", {"part": Part})
    with pytest.raises(SpecError, match="'broken' of other_package:nothing cannot be loaded"):
        parts.make("broken")
    with pytest.raises(SpecError, match="other_package:plain is not a dataclass"):
        parts.make("plain")
    assert parts.make("part") == Part()
    with pytest.raises(SpecError, match="there are: broken, part, plain"):
        parts.make("absent")
