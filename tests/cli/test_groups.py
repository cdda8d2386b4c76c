"""`d2r group` and `d2r duplicates`, run as a user runs them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

VIEWS = {"pagoda-0.jpg", "pagoda-1.jpg", "pagoda-2.jpg"}


def test_groups_are_listed_and_shown_on_a_page(d2r, built_index, tmp_path):
    page = tmp_path / "groups.html"
    status, out, _ = d2r("group", built_index, "--html", page)
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "1  3 pictures"
    assert {Path(line).name for line in lines[1:4]} == VIEWS
    assert lines[4:] == ["3 of 10 pictures in 1 group", f"page: {page}"]
    html = page.read_text()
    assert all(name in html for name in VIEWS)
    assert html.count("data:image/jpeg") == 3


def test_groups_as_json_have_their_links(d2r, built_index):
    status, out, _ = d2r("group", built_index, "--json", "--least", "10")
    assert status == 0
    answer = json.loads(out)
    assert answer["pictures"] == 10
    (group,) = answer["groups"]
    assert {Path(path).name for path in group["pictures"]} == VIEWS
    for link in group["links"]:
        assert set(link["pictures"]) <= set(group["pictures"])
        assert link["inliers"] >= 10
        assert len(link["boxes"]) == 2
        assert len(link["transform"]) == 2


def test_a_copy_is_a_duplicate_and_another_view_is_not(d2r, engine, collection, tmp_path):
    status, out, _ = d2r("duplicates", tmp_path / "photos.index")
    assert (status, out) == (0, "0 of 10 pictures in 0 groups\n")
    shutil.copy(collection / "pagoda-1.jpg", collection / "again.jpg")
    engine.sync(collection, workers=0)
    page = tmp_path / "same.html"
    status, out, _ = d2r("duplicates", tmp_path / "photos.index", "--json", "--html", page)
    assert status == 0
    (group,) = json.loads(out)["groups"]
    assert {Path(path).name for path in group["pictures"]} == {"again.jpg", "pagoda-1.jpg"}
    assert "Near-duplicates" in page.read_text()
