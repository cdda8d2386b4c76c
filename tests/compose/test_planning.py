"""The plan of the pictures: verified views of each instance, and backgrounds that are no query's answer."""

from __future__ import annotations

import dataclasses

import pytest

from d2r.compose.planning import plan_set
from d2r.compose.sources import read_instances
from d2r.datasets.ground_truth import ClutterError
from synthetic import SMALL, texture, write


def test_photographs_of_instances_are_left_out_of_the_backgrounds(sources):
    instances, backgrounds = sources
    plan = plan_set(SMALL, instances, [*backgrounds, *(instance.photos[0] for instance in instances)], 1)
    assert list(plan.backgrounds) == backgrounds


def test_a_photograph_that_shows_something_else_is_not_planted(sources, folder_of_views):
    folder = folder_of_views("castle", 40)
    odd = write(folder / "castle" / "odd.jpg", texture(41))
    plan = plan_set(dataclasses.replace(SMALL, views=6), read_instances(folder), sources[1], 1)
    assert len(plan.targets) == 1
    assert odd not in {part.photo for part in plan.targets[0].views}


def test_a_copy_of_the_query_is_no_other_viewpoint(sources, folder_of_views):
    folder = folder_of_views("castle", 40, views=(0,))
    (folder / "castle" / "copy.jpg").write_bytes((folder / "castle" / "0.jpg").read_bytes())
    with pytest.raises(ClutterError, match="no two of its photographs"):
        plan_set(SMALL, read_instances(folder), sources[1], 1)


def test_a_broken_photograph_among_several_does_not_cost_the_instance(sources, folder_of_views):
    folder = folder_of_views("castle", 40)
    (folder / "castle" / "3.jpg").write_bytes(b"not a picture")
    plan = plan_set(SMALL, read_instances(folder), sources[1], 1)
    assert [entry.path for entry in plan.skipped] == [str(folder / "castle" / "3.jpg")]
    assert len(plan.targets) == 1


def test_two_instances_of_one_name_are_refused(sources):
    instances, backgrounds = sources
    with pytest.raises(ClutterError, match="two instances are called 'thing0'"):
        plan_set(SMALL, [*instances, instances[0]], backgrounds, 1)
