"""The page of groups: self-contained, safe with any file name, with its boxes in the right places."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser

from d2r.index import PictureRow
from d2r.mining.groups import Group
from d2r.report import groups as module
from d2r.report.groups import groups_page
from d2r.results import Link

BOX = (10.0, 20.0, 110.5, 90.0)


def row(number: int, path: str, width: int = 160, height: int = 120) -> PictureRow:
    return PictureRow(number, path, 1, 1, None, width, height, 9, 1, number, None)


def group(folder: Path, count: int, name: str = "view") -> Group:
    """Pictures of random colours, each linked to the first."""
    rng = np.random.default_rng(count)
    rows = []
    for number in range(count):
        path = folder / f"{name}-{number}.png"
        Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8)).resize((160, 120)).save(path)
        rows.append(row(number, os.fspath(path)))
    links = [Link(rows[0], one, 0.5, 99 - one.id, (100, 100), np.eye(2, 3), (BOX, BOX)) for one in rows[1:]]
    return Group(tuple(rows), tuple(links))


def page_of(*groups: Group, boxed: bool = True) -> str:
    return groups_page(
        groups, title="Groups", explanation="Each shares 15 points.", index_name="x.index", collection=40, boxed=boxed
    )


def said(html: str) -> str:
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL).split())


def test_a_page_says_how_many_pictures_are_in_how_many_groups(tmp_path: Path) -> None:
    text = said(page_of(group(tmp_path, 3), group(tmp_path, 2, "other")))
    assert "5 of 40 pictures are in 2 groups. Each shares 15 points." in text
    assert "Group 1 3 pictures, 2 confirmed pairs" in text
    assert "Group 2 2 pictures, 1 confirmed pair view" not in text
    assert text.count("view-") == 3
    assert "No two of the 40 pictures belong together." in said(page_of())


def test_each_picture_has_the_box_of_what_it_shares_unless_none_is_wanted(tmp_path: Path) -> None:
    html = page_of(group(tmp_path, 3))
    assert html.count('class="edge" d="M10 20L110.5 20L110.5 90L10 90Z"') == 3
    assert 'class="edge"' not in page_of(group(tmp_path, 3), boxed=False)


def test_a_picture_that_was_changed_has_no_box_and_one_that_is_gone_says_so(tmp_path: Path) -> None:
    made = group(tmp_path, 3)
    Image.new("RGB", (50, 40)).save(made.pictures[1].path)
    Path(made.pictures[2].path).unlink()
    html = page_of(made)
    assert html.count('class="edge"') == 1
    assert html.count("data:image/jpeg") == 2
    assert html.count('class="problem"') == 1


def test_a_large_group_shows_some_and_names_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CARDS", 2)
    monkeypatch.setattr(module, "MAX_GROUPS", 1)
    html = page_of(group(tmp_path, 4), group(tmp_path, 2, "other"))
    assert html.count("data:image/jpeg") == 2
    text = said(html)
    assert "and 2 more: view-2.png , view-3.png" in text
    assert "6 of 40 pictures are in 2 groups" in text
    assert "The smallest group is left out" in text


def test_names_are_text_and_not_markup(tmp_path: Path) -> None:
    made = group(tmp_path, 2, "<b>&\"'")
    html = page_of(made)
    assert "<b>&" not in html
    assert "&lt;b&gt;&amp;" in html


def test_the_page_is_styled_and_asks_for_nothing(tmp_path: Path, browser: Browser) -> None:
    file = tmp_path / "groups.html"
    file.write_text(page_of(group(tmp_path, 5)))
    window = browser.new_page(viewport={"width": 390, "height": 800})
    problems, asked = [], []
    window.on("console", lambda message: problems.append(message.text))
    window.on("request", lambda request: asked.append(request.url))
    window.goto(file.as_uri())
    assert problems == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert window.evaluate("document.documentElement.scrollWidth") <= 390
    assert window.locator(".mat").first.evaluate("mat => getComputedStyle(mat).overflow") == "hidden"
    window.close()
