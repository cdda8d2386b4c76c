"""The page of a search: self-contained, safe with any file name, with correct marks, usable by keyboard."""

from __future__ import annotations

import base64
import io
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from d2r.boxes import Box
from d2r.describe import Description
from d2r.features.base import Features
from d2r.images import Picture
from d2r.report import page
from d2r.report.page import MAX_LINES, search_page, write_page
from d2r.results import Answer, Result

BOX = (40.0, 30.0, 200.0, 150.0)
TURN = np.array([[0.8, -0.2, 30.0], [0.1, 0.9, 5.0]])
SVG_NAMESPACE = "http://www.w3.org/2000/svg"


def picture(seed: int, width: int = 320, height: int = 240) -> Picture:
    """Smooth blobs of colour, different for every seed."""
    coarse = np.random.default_rng(seed).integers(30, 230, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def saved(path: Path, seed: int = 1, width: int = 320, height: int = 240) -> str:
    Image.fromarray(picture(seed, width, height)).save(path, "JPEG")
    return os.fspath(path)


def found(path: str, *, inliers: int | None = 20, width: int = 320, height: int = 240) -> Result:
    """A result; its inliers are those of the query, transformed by TURN."""
    rng = np.random.default_rng(0)
    query_positions = rng.uniform((40, 30), (200, 150), (inliers or 0, 2)).astype(np.float32)
    return Result(
        id=1,
        path=path,
        score=0.1234,
        inliers=inliers,
        confirmed=None if inliers is None else inliers >= 12,
        kinds=None if inliers is None else {"rootsift": inliers},
        width=width,
        height=height,
        boxes=np.array([[0, 0, width, height], [10, 20, 110, 220]], np.float32),
        box_scores=np.ones(2, np.float32),
        transform=TURN if inliers else None,
        found=(60.0, 40.0, 210.0, 160.5) if inliers else None,
        query_positions=query_positions,
        positions=(query_positions @ TURN[:, :2].T + TURN[:, 2]).astype(np.float32),
    )


def answer(*results: Result, features: int = 30, box: Box | None = BOX) -> Answer:
    positions = np.random.default_rng(1).uniform((40, 30), (200, 150), (features, 2)).astype(np.float32)
    ones = np.ones(features, np.float32)
    described = Features(positions, ones, np.zeros((features, 4), np.float32), ones)
    region = np.array([box if box is not None else (0, 0, 320, 240)], np.float32)
    query = Description(320, 240, region, np.ones(1, np.float32), described, np.zeros(features, np.int32))
    return Answer(query, list(results), {"describe": 0.12, "search": 0.0004, "verify": 1.5})


def page_of(*results: Result, name: str = "query.jpg", features: int = 30, box: Box | None = BOX) -> str:
    return search_page(
        picture(0),
        answer(*results, features=features, box=box),
        query_name=name,
        index_name="photos.index",
        collection=103,
        box=box,
    )


class Reader(HTMLParser):
    """Every element with its attributes, and the visible text, including templates."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, name: str, **wanted: str) -> list[dict[str, str | None]]:
        """The attributes of the elements with a name and the given classes or values."""
        return [
            attributes
            for tag, attributes in self.elements
            if tag == name and all(attributes.get(key.rstrip("_")) == value for key, value in wanted.items())
        ]


def said(html: str) -> str:
    return " ".join(Reader(html).text.split())


def embedded(html: str) -> list[tuple[int, int]]:
    """The sizes of the embedded pictures."""
    return [Image.open(io.BytesIO(base64.b64decode(data))).size for data in re.findall(r"base64,([\w+/=]+)", html)]


def numbers(data: str | None) -> np.ndarray:
    """The points of SVG path data."""
    return np.array([float(number) for number in re.findall(r"-?[\d.]+", data or "")]).reshape(-1, 2)


def test_the_page_asks_for_nothing_outside_itself(tmp_path: Path) -> None:
    html = page_of(found(saved(tmp_path / "a.jpg")), found(saved(tmp_path / "b.jpg"), inliers=0))
    rest = html.replace(SVG_NAMESPACE, "")
    assert not re.search(r"(https?|ftp|file):|//\w|url\(|@import", re.sub(r"base64,[\w+/=]+", "", rest))
    for _, attributes in Reader(html).elements:
        for name in ("src", "href", "xlink:href", "action", "srcset", "poster"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))


def test_the_policy_lets_the_browser_load_nothing_and_names_the_inline_style_and_script(tmp_path: Path) -> None:
    html = page_of(found(saved(tmp_path / "a.jpg")))
    (policy,) = Reader(html).all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert (policy["content"] or "").startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in (policy["content"] or "")


def test_each_picture_is_embedded_once(tmp_path: Path) -> None:
    html = page_of(found(saved(tmp_path / "a.jpg", 1)), found(saved(tmp_path / "b.jpg", 2)))
    assert embedded(html) == [(320, 240)] * 3


def test_a_large_picture_is_embedded_small(tmp_path: Path) -> None:
    path = saved(tmp_path / "large.jpg", width=4000, height=3000)
    assert embedded(page_of(found(path, width=4000, height=3000)))[1] == (720, 540)


def test_names_cannot_bring_markup_into_the_page(tmp_path: Path) -> None:
    nasty = "<script>alert(1)<!-- \"'><img src=x onerror=alert(2)> &amp; .jpg"
    html = page_of(found(saved(tmp_path / nasty.replace("/", "_"))), name=nasty)
    read = Reader(html)
    assert len(read.all("script")) == 1
    assert read.all("img") == []
    assert not any(name.startswith("on") for _, attributes in read.elements for name in attributes)
    assert nasty in read.text
    assert any(nasty in (button["title"] or "") for button in read.all("button", class_="open"))


def test_names_that_are_not_utf_8_or_not_printable_are_shown_escaped(tmp_path: Path) -> None:
    path = os.fsdecode(os.path.join(os.fsencode(tmp_path), b"caf\xe9\n\x1b\xe2\x80\xaegpj.jpg"))
    html = page_of(found(saved(Path(path))), name=os.fsdecode(b"\xff.jpg"))
    assert r"caf\xe9\n\x1b\u202egpj.jpg" in said(html)
    assert r"\xff.jpg" in said(html)
    write_page(tmp_path / "page.html", html)
    assert (tmp_path / "page.html").read_text("utf-8") == html


def test_a_picture_that_is_gone_or_broken_is_a_frame_with_the_reason(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not a picture")
    html = page_of(found(os.fspath(tmp_path / "gone.jpg")), found(os.fspath(broken), inliers=None, width=0, height=0))
    assert "Cannot be read: No such file or directory." in said(html)
    assert "Not a picture in a supported format" in said(html)
    assert len(Reader(html).all("rect", class_="empty-frame")) == 2


def test_a_picture_above_the_limit_of_pixels_is_not_decoded(tmp_path: Path) -> None:
    result = found(saved(tmp_path / "a.jpg"))
    html = search_page(
        picture(0), answer(result), query_name="q", index_name="i", collection=1, box=BOX, max_pixels=320 * 240 - 1
    )
    assert "above the limit" in said(html)


def test_a_picture_of_another_size_than_was_indexed_is_told(tmp_path: Path) -> None:
    same, changed = saved(tmp_path / "same.jpg"), saved(tmp_path / "changed.jpg", width=240, height=320)
    assert "changed after it was indexed" not in said(page_of(found(same)))
    assert "changed after it was indexed" in said(page_of(found(changed)))


def test_a_picture_that_was_turned_after_it_was_indexed_is_not_stretched(tmp_path: Path) -> None:
    html = page_of(found(saved(tmp_path / "turned.jpg", width=240, height=320)))
    assert [image["preserveaspectratio"] for image in Reader(html).all("image")] == ["none", "xMidYMid"]


def test_the_box_is_drawn_on_the_query_and_where_the_transform_puts_it_on_the_result(tmp_path: Path) -> None:
    edges = Reader(page_of(found(saved(tmp_path / "a.jpg")))).all("path", class_="edge")
    corners = np.array([[40, 30], [200, 30], [200, 150], [40, 150]])
    np.testing.assert_allclose(numbers(edges[0]["d"]), corners)
    np.testing.assert_allclose(numbers(edges[1]["d"]), corners @ TURN[:, :2].T + TURN[:, 2], atol=0.051)


def test_without_a_box_what_was_found_is_outlined_on_the_result_only(tmp_path: Path) -> None:
    (edge,) = Reader(page_of(found(saved(tmp_path / "a.jpg")), box=None)).all("path", class_="edge")
    corners = [[60, 40], [210, 40], [210, 160.5], [60, 160.5]]
    np.testing.assert_allclose(numbers(edge["d"]), corners)


def test_regions_are_drawn_without_the_whole_picture(tmp_path: Path) -> None:
    read = Reader(page_of(found(saved(tmp_path / "a.jpg"))))
    assert [path["d"] for path in read.all("path", class_="")] == ["M10 20h100v200h-100z"]


@pytest.mark.parametrize("size", [(320, 240), (90, 300), (2000, 20)])
def test_lines_join_the_matched_points_of_the_two_pictures_as_they_are_placed(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    result = found(saved(tmp_path / "a.jpg", width=size[0], height=size[1]), inliers=10, width=size[0], height=size[1])
    html = page_of(result)
    for kind in ("beside", "below"):
        (drawing,) = re.findall(rf'<svg class="{kind}".*?</g>\s*<g class="ends">', html, re.DOTALL)
        read = Reader(drawing)
        places = [[float(inner[key] or 0) for key in ("x", "y", "width", "height")] for inner in read.all("svg")[1:]]
        (qx, qy, qw, qh), (rx, ry, rw, rh) = places
        scale = max(rw, rh) / max(size)
        np.testing.assert_allclose([qw / qh, rw / scale, rh / scale], [320 / 240, *size], rtol=0.01)
        starts = result.query_positions * (qw / 320) + [qx, qy]
        ends = result.positions * scale + [rx, ry]
        drawn = np.array([numbers(path["d"]).ravel() for path in read.all("path")])
        expected = np.concatenate([starts, ends], axis=1)
        assert len(drawn) == 10
        np.testing.assert_allclose(drawn[drawn[:, 1].argsort()], expected[expected[:, 1].argsort()], atol=0.2)
        assert (rx >= qx + qw) if kind == "beside" else (ry >= qy + qh)


def test_of_many_matched_points_an_even_choice_is_joined_and_that_is_told(tmp_path: Path) -> None:
    html = page_of(found(saved(tmp_path / "a.jpg"), inliers=1234))
    (drawing,) = re.findall(r'<g class="lines">.*?</g></g>', html[html.index('class="below"') :], re.DOTALL)
    tops = sorted(numbers(path["d"])[0, 1] for path in Reader(drawing).all("path"))
    assert len(tops) == MAX_LINES
    assert np.diff(tops).max() < 10
    assert "150 of the 1,234 inliers are joined by lines." in said(html)


def test_results_say_what_verification_found(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg")
    text = said(page_of(found(path, inliers=1214), found(path, inliers=0), found(path, inliers=None)))
    assert "1 of 3 results is confirmed." in text
    assert "confirmed, 1,214 inliers" in text
    assert "similar, no inliers" in text
    assert "not verified" in text


def test_results_without_verification_are_neither_outlined_nor_called_found(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg")
    html = page_of(found(path, inliers=None), found(path, inliers=None), box=None)
    assert "The 2 most similar pictures, not verified." in said(html)
    read = Reader(html)
    assert read.all("path", class_="edge") == []
    assert read.all("g", class_="lines") == []
    assert read.all("input", id="show-found") == []


def test_no_results_says_why_and_what_to_try() -> None:
    assert "shares a visual word" in said(page_of())
    assert "has no texture" in said(page_of(features=0))
    assert Reader(page_of()).all("dialog") == []


def test_the_header_tells_the_collection_and_the_time_of_each_stage() -> None:
    text = said(page_of())
    assert "103 pictures in photos.index" in text
    assert "1.6 s" in text
    assert "describe 120 ms" in text
    assert "search under 1 ms" in text
    assert "verify 1.5 s" in text


def test_a_page_replaces_the_file_at_once_or_leaves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "page.html"
    write_page(target, old := page_of())

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_page(target, page_of(name="new.jpg"))
    assert target.read_text() == old
    assert list(tmp_path.iterdir()) == [target]


def test_many_results_are_embedded_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MANY", 1)
    result = found(saved(tmp_path / "a.jpg", width=1000, height=750), width=1000, height=750)
    assert [side for side, _ in embedded(page_of(result))] == [320, page.LARGE_SIDE]
    assert [side for side, _ in embedded(page_of(result, result))] == [320, page.SMALL_SIDE, page.SMALL_SIDE]


def test_a_browser_opens_match_views_by_keyboard_without_errors_requests_or_sideways_scrolling(
    browser: Browser, tmp_path: Path
) -> None:
    long = "a-very-long-file-name-without-a-single-space-" * 4 + ".jpg"
    results = [
        found(saved(tmp_path / long, 1), inliers=300),
        found(saved(tmp_path / "narrow.jpg", 2, 60, 400), inliers=0, width=60, height=400),
        found(os.fspath(tmp_path / "gone.jpg"), inliers=None),
    ]
    write_page(tmp_path / "page.html", page_of(*results, name=long))

    window = browser.new_page(viewport={"width": 390, "height": 844})
    trouble: list[str] = []
    window.on("console", lambda message: trouble.append(message.text))
    window.on("pageerror", lambda error: trouble.append(str(error)))
    window.on("request", lambda request: trouble.append(request.url) if request.url.startswith("http") else None)
    window.goto((tmp_path / "page.html").as_uri())
    sideways = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not window.evaluate(sideways)

    first = window.locator(".open").first
    for _ in range(10):
        if first.evaluate("button => button === document.activeElement"):
            break
        window.keyboard.press("Tab")
    window.keyboard.press("Enter")
    dialog = window.get_by_role("dialog")
    assert dialog.is_visible()
    assert dialog.get_by_role("heading").inner_text().startswith("1 a-very-long")
    lines = dialog.locator(".below .lines path")
    assert lines.count() == MAX_LINES
    assert lines.first.is_visible()
    assert not dialog.locator(".beside").is_visible()
    assert dialog.evaluate("dialog => dialog.scrollWidth <= dialog.clientWidth")
    assert not window.evaluate(sideways)

    window.keyboard.press("ArrowRight")
    assert dialog.get_by_role("heading").inner_text() == "2 narrow.jpg"
    window.keyboard.press("Escape")
    assert not dialog.is_visible()
    # The browser reports the closing in a separate task, so the focus may move a moment after the dialog closes.
    expect(window.locator(".open").nth(1)).to_be_focused()

    outline = window.locator("#view-1 .found")
    assert outline.is_visible()
    window.get_by_label("query outline").uncheck()
    assert not outline.is_visible()
    window.get_by_label("regions", exact=True).check()
    assert window.locator("#view-1 .regions").is_visible()
    window.set_viewport_size({"width": 1280, "height": 900})
    first.click()
    assert dialog.locator(".beside .lines path").first.is_visible()
    assert trouble == []
    window.close()


def test_the_focused_card_has_an_outline_in_forced_colours_and_is_clear_of_the_toolbar(
    browser: Browser, tmp_path: Path
) -> None:
    results = [found(saved(tmp_path / f"{number}.jpg", number)) for number in range(12)]
    write_page(tmp_path / "page.html", page_of(*results))
    window = browser.new_page(viewport={"width": 1280, "height": 600}, forced_colors="active")
    window.goto((tmp_path / "page.html").as_uri())
    names = window.locator(".open")
    # The toolbar hides the name of the card above, which gets the focus next.
    names.nth(4).focus()
    names.nth(3).evaluate("name => window.scrollBy(0, name.getBoundingClientRect().top - 15)")
    window.keyboard.press("Shift+Tab")
    assert names.nth(3).evaluate("name => name === document.activeElement")
    top = names.nth(3).evaluate("name => name.closest('.card').getBoundingClientRect().top")
    assert top >= window.locator(".toolbar").evaluate("bar => bar.getBoundingClientRect().bottom")
    assert window.locator(".card .mat").nth(3).evaluate("mat => getComputedStyle(mat).outlineStyle") == "solid"
    window.close()
