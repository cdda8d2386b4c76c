import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2r.evaluate.metrics import (
    average_precision,
    mean_average_precision,
    paired_bootstrap,
    positive_ranks,
    precision_at,
)
from d2r.evaluate.revisited import PROTOCOLS, Relevance, leave_one_out, relevance, same_label

KS = (1, 5, 10)


def judged(positives, junk=()):
    return Relevance(np.array(positives, np.int64), np.array(junk, np.int64))


def plain_scores(ranking, positives, junk, ks):
    """The protocol again, picture by picture: one pass, without shifted ranks or arrays."""
    wanted, ignored = set(positives), set(junk)
    place = hits = 0
    area = 0.0
    hit_places = []
    for image in ranking:
        if image in ignored:
            continue
        place += 1
        if image in wanted:
            before = hits / (place - 1) if place > 1 else 1.0
            hits += 1
            area += (before + hits / place) / 2 / len(wanted)
            hit_places.append(place)
    precisions = []
    for k in ks:
        cut = min(k, hit_places[-1]) if hits == len(wanted) else k
        precisions.append(sum(place <= cut for place in hit_places) / cut)
    return area, precisions


def shared_ground_truth(name):
    root = Path(__file__).resolve().parents[2]
    path = Path(os.environ.get("D2R_DATA") or root.parent / "shared" / "data") / "revisited" / f"gnd_{name}.json"
    if not path.is_file():
        pytest.skip(f"needs the shared data: {path}")
    return json.loads(path.read_text())


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ["roxford5k", "rparis6k"])
def test_scores_equal_a_plain_loop_on_the_real_ground_truth(name, protocol):
    truth = shared_ground_truth(name)
    images, gnd = len(truth["imlist"]), truth["gnd"]
    rng = np.random.default_rng([PROTOCOLS.index(protocol), images])
    scores = rng.random((images, len(gnd)))
    for query, entry in enumerate(gnd):  # better than chance, so that low and high precisions both occur
        lift = rng.random() * 2
        scores[entry["easy"] + entry["hard"] + entry["junk"], query] += lift
    rankings = np.argsort(-scores, axis=0)
    result = mean_average_precision(rankings, [relevance(g["easy"], g["hard"], g["junk"], protocol) for g in gnd], KS)

    expected_ap, expected_precision = [], []
    for query, entry in enumerate(gnd):
        positives = {"easy": ["easy"], "medium": ["easy", "hard"], "hard": ["hard"]}[protocol]
        junk = {"easy": ["junk", "hard"], "medium": ["junk"], "hard": ["junk", "easy"]}[protocol]
        wanted = [image for field in positives for image in entry[field]]
        ignored = [image for field in junk for image in entry[field]]
        if wanted:
            ap, precisions = plain_scores(rankings[:, query].tolist(), wanted, ignored, KS)
            expected_ap.append(ap)
            expected_precision.append(precisions)
            np.testing.assert_allclose(result.average_precision[query], ap, rtol=1e-12)
            np.testing.assert_allclose(result.precision[query], precisions, rtol=1e-12)
        else:
            assert math.isnan(result.average_precision[query])
    assert result.counted == len(expected_ap)
    assert result.map == pytest.approx(np.mean(expected_ap), rel=1e-12)
    np.testing.assert_allclose(result.mean_precision, np.mean(expected_precision, axis=0), rtol=1e-12)


def test_queries_of_oxford_without_easy_positives_are_left_out():
    gnd = shared_ground_truth("roxford5k")["gnd"]
    ranking = np.tile(np.arange(4993)[:, None], (1, 70))
    counted = {
        protocol: mean_average_precision(
            ranking, [relevance(g["easy"], g["hard"], g["junk"], protocol) for g in gnd]
        ).counted
        for protocol in PROTOCOLS
    }
    assert counted == {"easy": 68, "medium": 70, "hard": 70}


@given(st.permutations(range(12)), st.integers(1, 12), st.integers(1, 8), st.integers(0, 4))
def test_partial_rankings_equal_a_plain_loop(order, length, positives, junk):
    ranking = np.array(order[:length])
    relevant = judged(range(positives), range(8, 8 + junk))
    ranks = positive_ranks(ranking, relevant)
    area, precisions = plain_scores(ranking.tolist(), relevant.positives.tolist(), relevant.junk.tolist(), KS)
    assert average_precision(ranks, positives) == pytest.approx(area, rel=1e-12)
    np.testing.assert_allclose(precision_at(ranks, positives, KS), precisions, rtol=1e-12)


@given(st.permutations(range(40)), st.integers(10, 40), st.integers(1, 8))
def test_precision_of_a_partial_ranking_is_that_of_the_whole_one(order, length, positives):
    relevant = judged(range(positives))
    whole, part = (positive_ranks(np.array(order[:n]), relevant) for n in (40, length))
    np.testing.assert_array_equal(precision_at(part, positives, KS), precision_at(whole, positives, KS))


def test_average_precision_worked_by_hand():
    assert average_precision(np.array([0]), 1) == 1.0
    # precision falls from 1 to 1/2 before the second of two positives, at rank 2, and ends at 2/3
    assert average_precision(np.array([0, 2]), 2) == pytest.approx((1 + 1) / 4 + (1 / 2 + 2 / 3) / 4)
    # the first answer is wrong: the first trapezoid starts at 0 / 1
    assert average_precision(np.array([1]), 1) == pytest.approx((0 + 1 / 2) / 2)
    # a positive that was not returned takes its share of recall and adds nothing
    assert average_precision(np.array([0]), 2) == 0.5
    assert average_precision(np.empty(0, np.int64), 3) == 0.0


def test_junk_moves_what_is_behind_it_up():
    relevant = judged([4, 7], junk=[1, 2, 9])
    np.testing.assert_array_equal(positive_ranks(np.array([1, 4, 2, 0, 7, 9]), relevant), [0, 2])


def test_precision_worked_by_hand():
    # two positives, the last one third: k is 3 from there on
    np.testing.assert_allclose(precision_at(np.array([0, 2]), 2, (1, 2, 5, 10)), [1, 1 / 2, 2 / 3, 2 / 3])
    # one of them was not returned: k stays
    np.testing.assert_allclose(precision_at(np.array([0]), 2, (1, 5, 10)), [1, 1 / 5, 1 / 10])
    np.testing.assert_array_equal(precision_at(np.empty(0, np.int64), 2, (1, 10)), [0, 0])


def test_protocols_sort_labels_into_positives_and_junk():
    sorted_labels = {p: relevance([1], [2], [3], p) for p in PROTOCOLS}
    assert {p: (set(r.positives.tolist()), set(r.junk.tolist())) for p, r in sorted_labels.items()} == {
        "easy": ({1}, {2, 3}),
        "medium": ({1, 2}, {3}),
        "hard": ({2}, {1, 3}),
    }
    with pytest.raises(ValueError, match="easy, medium, hard"):
        relevance([], [], [], "harder")


def test_queries_without_positives_are_left_out_and_counted():
    scores = mean_average_precision([np.array([0, 1]), np.array([0, 1])], [judged([0]), judged([])], ks=(1,))
    assert scores.counted == 1
    assert scores.map == 1.0
    np.testing.assert_array_equal(scores.average_precision, [1.0, np.nan])
    np.testing.assert_array_equal(scores.mean_precision, [1.0])
    with pytest.raises(ValueError, match="no query has a positive"):
        mean_average_precision([np.array([0])], [judged([])])


def test_an_array_and_a_list_of_rankings_score_the_same():
    rankings = np.array([[0, 2], [1, 1], [2, 0]])
    relevant = [judged([1]), judged([0, 2])]
    one, other = mean_average_precision(rankings, relevant), mean_average_precision(list(rankings.T), relevant)
    assert one.map == other.map
    np.testing.assert_array_equal(one.precision, other.precision)


def test_padding_of_a_short_ranking_is_a_wrong_answer():
    np.testing.assert_array_equal(positive_ranks(np.array([3, -1, -1]), judged([3, 5], [4])), [0])


def test_malformed_rankings_are_refused():
    with pytest.raises(ValueError, match="query 1: the ranking holds a picture twice"):
        mean_average_precision([np.array([0]), np.array([1, 2, 1])], [judged([0]), judged([1])])
    with pytest.raises(ValueError, match="twice"):
        positive_ranks(np.array([4, 1, 4]), judged([1], [4]))
    with pytest.raises(ValueError, match="2 rankings for 1 queries"):
        mean_average_precision(np.zeros((3, 2), int), [judged([0])])
    with pytest.raises(ValueError, match="1-D"):
        positive_ranks(np.zeros((2, 2), int), judged([0]))
    with pytest.raises(ValueError, match="at least 1"):
        precision_at(np.array([0]), 1, (0,))


def test_leave_one_out_over_labels():
    labels = ["castle", "castle", "fountain", "castle", "other"]
    relevant = leave_one_out(labels, queries=[1, 2])
    np.testing.assert_array_equal(relevant[0].positives, [0, 3])
    np.testing.assert_array_equal(relevant[0].junk, [1])
    assert len(relevant[1].positives) == 0
    assert len(leave_one_out(labels)) == 5
    # the query comes first in its own ranking, and is removed from it
    scores = mean_average_precision([np.array([1, 0, 3, 2, 4])], relevant[:1])
    assert scores.map == 1.0


def test_same_label_of_queries_from_outside():
    (relevant,) = same_label([7], [7, 8, 7, -1])
    np.testing.assert_array_equal(relevant.positives, [0, 2])
    assert len(relevant.junk) == 0


def test_bootstrap_pairs_queries():
    rng = np.random.default_rng(3)
    a = rng.random(50)
    shifted = paired_bootstrap(a + 0.1, a)
    assert shifted.mean == pytest.approx(0.1)
    assert (shifted.low, shifted.high) == pytest.approx((0.1, 0.1))  # a constant difference has no spread
    assert paired_bootstrap(a, a[::-1], seed=5) == paired_bootstrap(a, a[::-1], seed=5)


def test_bootstrap_interval_is_that_of_the_normal_distribution_for_many_queries():
    gap = np.random.default_rng(0).normal(0.02, 0.1, 2000)
    found = paired_bootstrap(gap, np.zeros(2000), samples=4000)
    error = 1.96 * gap.std() / math.sqrt(2000)
    assert (found.low, found.high) == pytest.approx((gap.mean() - error, gap.mean() + error), abs=3e-4)
    narrow = paired_bootstrap(gap, np.zeros(2000), samples=4000, level=0.5)
    assert found.low < narrow.low < narrow.high < found.high


def test_bootstrap_leaves_out_what_neither_counts():
    found = paired_bootstrap([0.5, np.nan, 0.25], [0.25, np.nan, 0.0])
    assert found.counted == 2
    assert found.mean == 0.25
    with pytest.raises(ValueError, match="not for the other"):
        paired_bootstrap([0.5, np.nan], [0.5, 0.5])
    with pytest.raises(ValueError, match="no query"):
        paired_bootstrap([np.nan], [np.nan])
    with pytest.raises(ValueError, match="shapes"):
        paired_bootstrap([0.5], [0.5, 0.5])
