"""Groups of pictures: which links join them, and which must not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d2r.defaults import GROUP_INLIERS
from d2r.engine import Engine
from d2r.images import read_image, shrink
from d2r.index import PictureRow
from d2r.mining.groups import duplicate_groups, find_links, instances
from d2r.results import Link

SAME = np.array([[1.0, 0, 0], [0, 1, 0]])


def moved(pixels: float) -> np.ndarray:
    return np.array([[1.0, 0, pixels], [0, 1, 0]])


def row(number: int, digest: bytes = b"", width: int = 100, height: int = 80) -> PictureRow:
    own = digest or bytes([number])
    return PictureRow(number, f"/photos/{number:02d}.jpg", 1, 1, own, width, height, 9, 1, number, None)


def link(first: int | PictureRow, second: int | PictureRow, inliers: int = 40, transform: np.ndarray = SAME) -> Link:
    one, other = (row(end) if isinstance(end, int) else end for end in (first, second))
    boxes = [(0.1 * end.width, 0.1 * end.height, 0.9 * end.width, 0.9 * end.height) for end in (one, other)]
    return Link(one, other, 0.5, inliers, (300, 200), transform, (boxes[0], boxes[1]))


def numbers(groups) -> list[list[int]]:
    return [sorted(picture.id for picture in group.pictures) for group in groups]


def test_linked_pictures_are_one_group_the_largest_group_first() -> None:
    links = [link(1, 2), link(3, 4), link(4, 5), link(2, 6), link(6, 7)]
    assert numbers(instances(links)) == [[1, 2, 6, 7], [3, 4, 5]]


def test_no_links_give_no_groups() -> None:
    assert instances([]) == []


def test_weak_links_do_not_group() -> None:
    assert numbers(instances([link(1, 2, GROUP_INLIERS - 1), link(3, 4, GROUP_INLIERS)])) == [[3, 4]]
    assert numbers(instances([link(1, 2, 9)], min_inliers=9)) == [[1, 2]]


def test_one_wrong_link_does_not_join_two_groups() -> None:
    groups = [link(1, 2, 50), link(2, 3, 50), link(4, 5, 50), link(5, 6, 50)]
    assert numbers(instances([*groups, link(3, 4, 20)])) == [[1, 2, 3], [4, 5, 6]]


def test_a_picture_of_two_things_does_not_join_their_groups() -> None:
    castle, tower = [link(1, 2, 50), link(2, 3, 50)], [link(4, 5, 50), link(5, 6, 50)]
    both = [link(3, 7, 40), link(2, 7, 35), link(4, 7, 30), link(5, 7, 25)]
    assert numbers(instances([*castle, *tower, *both])) == [[1, 2, 3, 7], [4, 5, 6]]


def test_links_of_two_pictures_of_each_join_groups_in_whatever_order_they_come() -> None:
    links = [link(1, 2, 50), link(3, 4, 50), link(1, 3, 20), link(2, 4, 19)]
    for order in (links, links[::-1]):
        assert numbers(instances(order)) == [[1, 2, 3, 4]]


def test_groups_that_grew_are_looked_at_again() -> None:
    """1-2 and 3-4 become one through 5-6, whose links are weaker than the link between the first two."""
    links = [link(1, 2, 90), link(3, 4, 90), link(5, 6, 90), link(1, 3, 30)]
    links += [link(1, 5, 20), link(2, 6, 20), link(4, 6, 18)]
    assert numbers(instances(links)) == [[1, 2, 3, 4, 5, 6]]


def test_the_picture_with_the_most_points_comes_first_and_the_strongest_link() -> None:
    (group,) = instances([link(1, 2, 30), link(2, 3, 60)])
    assert [picture.id for picture in group.pictures] == [2, 3, 1]
    assert [one.inliers for one in group.links] == [60, 30]


@pytest.mark.parametrize(
    ("transform", "size", "same"),
    [
        (SAME, (100, 80), True),
        (2 * SAME, (200, 160), True),  # rescaled
        (moved(2), (100, 80), True),
        (moved(20), (100, 80), False),  # the camera was moved
        (SAME, (50, 80), False),  # cropped
        (1.3 * SAME, (100, 80), False),  # closer
    ],
)
def test_near_duplicates_have_the_same_frame(transform: np.ndarray, size: tuple[int, int], same: bool) -> None:
    groups = duplicate_groups([link(row(1), row(2, b"", *size), 60, transform)])
    assert numbers(groups) == ([[1, 2]] if same else [])


def test_near_duplicates_share_enough_points_or_are_equal_files() -> None:
    assert duplicate_groups([link(1, 2, 9)]) == []
    assert numbers(duplicate_groups([link(1, 2, 10)])) == [[1, 2]]
    equal = link(row(1, b"x"), row(2, b"x"), 9)
    assert numbers(duplicate_groups([equal])) == [[1, 2]]


def test_pictures_with_the_same_banner_are_no_duplicates() -> None:
    banner = replace(link(1, 2, 150), boxes=((10.0, 70.0, 90.0, 80.0),) * 2)
    assert duplicate_groups([banner]) == []


# ---- On real photographs ----


@pytest.fixture(scope="module")
def copied(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ten photographs, a smaller and a cropped copy of one of them, and an index of all."""
    folder = tmp_path_factory.mktemp("copied")
    photos = folder / "photos"
    photos.mkdir()
    for path in photo_folder.rglob("*.*"):
        (photos / path.name).write_bytes(path.read_bytes())
    picture = read_image(photo_folder / "pagoda-0.jpg")
    Image.fromarray(shrink(picture, 280)).save(photos / "copy.jpg", quality=70)
    Image.fromarray(picture[:, : picture.shape[1] * 2 // 3]).save(photos / "cut.png")
    with Engine.create(folder / "index", num_words=64, regions="whole", features="rootsift") as engine:
        engine.sync(photos, workers=0)
    return folder


def names(groups) -> list[set[str]]:
    return [{Path(picture.path).name for picture in group.pictures} for group in groups]


def test_views_of_one_thing_are_a_group_and_only_copies_are_duplicates(copied: Path) -> None:
    steps = []
    with Engine.open(copied / "index") as engine:
        links = find_links(engine, top=8, progress=lambda *step: steps.append(step))
    assert steps[-1] == ("pairs", 12, 12)
    pairs = [(one.first.id, one.second.id) for one in links]
    assert len(set(pairs)) == len(pairs)
    assert all(first < second for first, second in pairs)
    assert names(instances(links)) == [{"pagoda-0.jpg", "pagoda-1.jpg", "pagoda-2.jpg", "copy.jpg", "cut.png"}]
    assert names(duplicate_groups(links)) == [{"pagoda-0.jpg", "copy.jpg"}]


def test_a_link_says_where_each_picture_has_what_they_share(copied: Path) -> None:
    with Engine.open(copied / "index") as engine:
        links = find_links(engine, top=8, progress=lambda *step: None)
    found = {frozenset(Path(end.path).name for end in (one.first, one.second)): one for one in links}
    cut = found[frozenset({"pagoda-0.jpg", "cut.png"})]
    ends = {Path(end.path).name: box for end, box in zip((cut.first, cut.second), cut.boxes, strict=True)}
    np.testing.assert_allclose(ends["pagoda-0.jpg"], ends["cut.png"], atol=3)
    width = cut.first.width if Path(cut.first.path).name == "cut.png" else cut.second.width
    assert width * 0.8 < ends["cut.png"][2] <= width
