import dataclasses
import math

import pytest

from d2r.cluster.plan import (
    CATALOGUE_BYTES,
    MEASURED,
    POSTING_BYTES,
    QUERY_S,
    REGION_S,
    SCORED,
    SCORED_WORDS,
    VERIFY_BYTES,
    WORDS,
    PlanError,
    Request,
    make_plan,
)

SMALL = Request(pictures=1e6, regions=1, qps=1, latency_s=1.0)
LARGE = Request(pictures=1e8, regions=4, qps=50, latency_s=0.2)


def test_a_million_pictures_are_what_was_measured_of_a_million():
    made = make_plan(SMALL)
    assert made.shards == made.machines == 1
    assert made.bound == "memory"
    assert made.search_bytes == pytest.approx(14.2e9, rel=0.02)
    assert made.scored == pytest.approx(16.0e6, rel=0.03)


def test_memory_and_disk_are_those_of_their_parts():
    made = make_plan(LARGE)
    assert made.search_bytes == pytest.approx(made.postings * POSTING_BYTES.value + 4e8)
    assert made.disk_bytes - made.search_bytes == pytest.approx(1e8 * (VERIFY_BYTES.value + CATALOGUE_BYTES.value))
    assert made.scored / 1e8 == pytest.approx(SCORED.value * made.words * WORDS.value / SCORED_WORDS.value**2)


def test_what_is_planned_holds_what_was_asked_for():
    made = make_plan(LARGE)
    assert made.median_s <= LARGE.latency_s
    assert made.busy <= LARGE.busy
    assert made.search_bytes / made.shards <= 0.8 * LARGE.memory
    assert made.slow_s > made.median_s
    assert made.front_cores == math.ceil(50 * QUERY_S.value / LARGE.busy)


@pytest.mark.parametrize(
    ("change", "bound"),
    [
        ({}, "queries"),
        ({"qps": 0.1, "latency_s": 10.0}, "memory"),
        ({"qps": 0.1, "memory": 4e12}, "latency"),
    ],
)
def test_one_part_less_would_not_do(change, bound):
    request = dataclasses.replace(LARGE, **change)
    made = make_plan(request)
    assert made.bound == bound
    fewer = made.shards - 1
    if bound == "memory":
        assert made.search_bytes / fewer > 0.8 * request.memory
    if bound == "queries":
        assert made.busy * made.shards / fewer > request.busy
    if bound == "latency":
        assert made.median_s - made.scoring_s + made.scoring_s * made.shards / fewer > request.latency_s * 0.99


def test_ten_times_the_pictures_take_ten_times_the_machines():
    ten = make_plan(dataclasses.replace(LARGE, pictures=1e9))
    assert ten.shards / make_plan(LARGE).shards == pytest.approx(10, rel=0.1)


def test_replicas_share_the_queries():
    two = make_plan(dataclasses.replace(LARGE, replicas=2))
    assert two.machines == 2 * two.shards
    assert two.shards < make_plan(LARGE).shards
    assert two.busy <= LARGE.busy


def test_more_regions_take_longer_to_describe_and_more_memory():
    whole, nine = (make_plan(dataclasses.replace(SMALL, regions=regions)) for regions in (1, 9))
    assert nine.describing_core_hours - whole.describing_core_hours == pytest.approx(8e6 * REGION_S.value / 3600)
    assert nine.words / whole.words == pytest.approx(2.03, rel=0.01)  # as measured


def test_what_no_machine_can_do_is_refused():
    with pytest.raises(PlanError, match="cannot be answered in 50 ms"):
        make_plan(dataclasses.replace(LARGE, latency_s=0.05))


def test_every_constant_says_where_it_is_from():
    assert all(constant.value > 0 and constant.source and constant.unit for constant in MEASURED)


def test_the_command_prints_the_plan_and_what_it_rests_on(d2r):
    status, output, _ = d2r("plan", "--pictures", "100e6", "--regions", "4", "--qps", "50", "--latency", "200ms")
    assert status == 0
    made = make_plan(LARGE)
    assert f"{made.machines:,}  (32 cores, 256.0 GB each" in output
    assert f"{made.search_bytes / 1e12:,.1f} TB" in output
    for constant in MEASURED:
        assert constant.name in output
        assert constant.source in output


@pytest.mark.parametrize(
    ("option", "value"),
    [("--pictures", "many"), ("--pictures", "-3"), ("--latency", "5 h"), ("--memory", "0GB"), ("--latency", "1ms")],
)
def test_a_request_that_makes_no_sense_is_refused_by_its_name(d2r, option, value):
    given = {"--pictures": "1M", option: value}
    status, _, error = d2r("plan", *(part for pair in given.items() for part in pair))
    assert status == 2
    assert option in error


@pytest.mark.parametrize(("text", "pictures"), [("100e6", 1e8), ("100M", 1e8), ("2.5k", 2500.0), ("1000000", 1e6)])
def test_numbers_are_read_with_their_units(d2r, text, pictures):
    _, output, _ = d2r("plan", "--pictures", text, "--regions", "1")
    words = make_plan(Request(pictures=pictures, regions=1, qps=1, latency_s=1.0)).postings
    assert f"of {words:,.0f}" in output
