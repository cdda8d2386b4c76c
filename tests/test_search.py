"""A search of a made-up collection: which pictures are ranked, verified and confirmed, and in which order."""

from dataclasses import replace

import numpy as np
import pytest

from d2r.asmk.kernels import Aggregated
from d2r.describe import Description
from d2r.features import Features
from d2r.index import PictureRow, StoreError
from d2r.options import SearchOptions
from d2r.search import Candidate, Query, Ranking, RankingChanged, SearchStopped, Verified, search


def picture(number):
    return PictureRow(number, f"/{number}.jpg", 0, 0, None, 100, 100, 1, 1, number, None)


def agreeing(inliers):
    found = np.arange(inliers, dtype=np.int32), np.zeros((inliers, 2), np.float32)
    return Verified(np.eye(2, 3), *found, kind=0, inliers=(inliers,))


class Collection:
    """Scores and inliers by number; an expanded query has other scores. It records its calls."""

    precise = (True,)

    def __init__(self, scores, inliers=(), expanded=None):
        self.scores, self.inliers, self.expanded = scores, dict(inliers), expanded
        self.verified, self.confirmed, self.changes = [], [], 0

    def rank(self, query, top):
        scores = self.expanded if query.keypoints == "expanded" else self.scores
        best = sorted(scores, key=lambda number: (-scores[number], number))[:top]
        return Ranking([Candidate(picture(number), scores[number]) for number in best], missing=len(self.verified))

    def verify(self, query, pictures, stopped):
        if self.changes:
            self.changes -= 1
            raise RankingChanged
        self.verified.append([one.id for one in pictures])
        return [None if self.inliers.get(one.id) is None else agreeing(self.inliers[one.id]) for one in pictures]

    def expand(self, query, confirmed):
        self.confirmed = [one.picture.id for one in confirmed]
        return replace(query, keypoints="expanded")

    def similarities(self, pictures):
        return np.array([[float(one.id + other.id == 7) for other in pictures] for one in pictures], np.float32)


@pytest.fixture
def query():
    whole = np.array([[0, 0, 10, 10]], np.float32)
    described = Description(10, 10, whole, np.ones(1, np.float32), Features.empty(4), np.zeros(0, np.int32))
    return Query(described, Aggregated(np.zeros(0, np.int32), np.zeros((0, 1), np.uint64), 64), keypoints="as it is")


def numbers(found):
    return [one.picture.id for one in found.candidates]


def test_the_verified_come_first_by_inliers_then_score_and_the_rest_by_score(query):
    collection = Collection({1: 0.9, 2: 0.8, 3: 0.7, 4: 0.6, 5: 0.5}, {1: 0, 2: 9, 3: 9, 4: 30, 5: 40})
    found = search(collection, query, SearchOptions(top=5, verify=3, expand=0))
    assert numbers(found) == [2, 3, 1, 4, 5]
    assert [one.inliers for one in found.candidates] == [9, 9, 0, None, None]
    assert collection.verified == [[1, 2, 3]]


def test_without_verification_nothing_is_verified_or_expanded(query):
    collection = Collection({1: 0.1, 2: 0.8}, {1: 50, 2: 50})
    assert numbers(search(collection, query, SearchOptions(verify=0))) == [2, 1]
    assert (collection.verified, collection.confirmed) == ([], [])


def test_more_pictures_are_verified_than_results_are_asked_for(query):
    collection = Collection({1: 0.9, 2: 0.8, 3: 0.7}, {1: 0, 2: 0, 3: 10})
    assert numbers(search(collection, query, SearchOptions(top=1, verify=3, expand=0))) == [3]


def test_a_query_is_expanded_by_the_confirmed_with_most_inliers_and_each_picture_is_verified_once(query):
    scores = {1: 0.9, 2: 0.8, 3: 0.7, 4: 0.1, 5: 0.05}
    inliers = {1: 11, 2: 12, 3: 40, 4: 13, 5: 8}
    collection = Collection(scores, inliers, expanded={1: 0.1, 2: 0.5, 3: 0.4, 4: 0.3, 5: 0.9})
    found = search(collection, query, SearchOptions(top=5, verify=3, expand=1))
    assert collection.confirmed == [3]
    assert collection.verified == [[1, 2, 3], [5]]  # of the best three of the second ranking two are known
    assert numbers(found) == [3, 2, 5, 1, 4]  # 2 and 3 are confirmed
    assert set(found.seconds) == {"search", "verify", "expand"}


def test_without_a_confirmed_result_the_order_is_that_of_verification(query):
    collection = Collection({1: 0.9, 2: 0.4}, {1: 0, 2: 11}, expanded={})
    found = search(collection, query, SearchOptions())
    assert (numbers(found), collection.confirmed, "expand" in found.seconds) == ([2, 1], [], False)


def test_diffusion_puts_what_is_like_a_confirmed_result_before_what_is_not(query):
    expanded = {3: 0.5, 2: 0.06, 4: 0.05}  # 4 is similar to 3
    collection = Collection({3: 0.5}, {3: 20, 2: 0, 4: 0}, expanded)
    assert numbers(search(collection, query, SearchOptions(diffuse=False))) == [3, 2, 4]
    assert numbers(search(collection, query, SearchOptions(diffuse=True))) == [3, 4, 2]


def test_what_is_ignored_takes_no_place_in_ranking_verification_or_expansion(query):
    collection = Collection({1: 0.9, 2: 0.8, 3: 0.7}, {1: 99, 2: 0, 3: 20}, expanded={1: 0.9, 2: 0.5, 3: 0.4})
    found = search(collection, query, SearchOptions(top=2, verify=2), ignored=[1])
    assert (numbers(found), collection.verified, collection.confirmed) == ([3, 2], [[2, 3]], [3])


def test_a_picture_that_was_removed_is_no_result(query):
    collection = Collection({1: 0.9, 2: 0.8}, {1: None, 2: 3})
    assert numbers(search(collection, query, SearchOptions())) == [2]


def test_a_ranking_that_changed_is_made_anew_but_not_for_ever(query):
    collection = Collection({1: 0.9}, {1: 3})
    collection.changes = 3
    assert numbers(search(collection, query, SearchOptions())) == [1]
    collection.changes = 1000
    with pytest.raises(StoreError, match="try again"):
        search(collection, query, SearchOptions())


def test_the_most_that_was_missing_is_told(query):
    collection = Collection({1: 0.9}, {1: 20}, expanded={1: 0.9, 2: 0.1})
    assert search(collection, query, SearchOptions()).missing == 1


def test_a_search_that_nobody_waits_for_ends(query):
    with pytest.raises(SearchStopped):
        search(Collection({1: 0.9}), query, SearchOptions(), stopped=lambda: True)
