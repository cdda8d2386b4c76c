import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from cluster_processes import kill, named, open_to_others
from d2r.describe import describe_query
from d2r.engine import Engine, SearchStopped
from d2r.features import make_extractor
from d2r.images import read_image
from d2r.index.catalogue import Layout, SegmentRow
from d2r.options import SearchOptions
from d2r.search import make_query
from d2r.serve.app import make_service_app
from d2r.serve.settings import ServiceSettings
from d2r.support.webserver import WebServer
from programs import join
from serving import TOKEN, wait_until

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.timeout(900)]

SHARDS = 2


@pytest.fixture(scope="module")
def pictures(photo_folder, tmp_path_factory):
    """The ten photographs, each twice under different names, so that every score occurs twice."""
    folder = tmp_path_factory.mktemp("twice")
    for path in sorted(photo_folder.rglob("*.*")):
        for copy in "ab":
            shutil.copy(path, folder / f"{copy}-{path.name}")
    return folder


@pytest.fixture(scope="module")
def served(pictures, tmp_path_factory):
    """An engine with five segments, and one that searches them on two shards."""
    from d2r.cluster.search import sharded

    paths = sorted(pictures.iterdir())
    with Engine.create(
        tmp_path_factory.mktemp("served") / "x.index", num_words=128, regions="whole", features="rootsift"
    ) as engine:
        for start in range(0, len(paths), 4):
            engine.add(paths[start : start + 4], workers=0)
        with sharded(engine.index, shards=SHARDS, threads=2, timeout_s=60.0) as cluster:
            yield engine, cluster


@pytest.fixture(scope="module")
def queries(pictures):
    extractor = make_extractor("rootsift")
    paths = [pictures / f"a-{name}" for name in ("pagoda-0.jpg", "pagoda-2.jpg", "other-0.PNG", "other-3.PNG")]
    return [describe_query(read_image(path), None, extractor, max_side=1024) for path in paths]


def results(answer):
    """All properties of each result."""
    return [
        [value.tolist() if isinstance(value, np.ndarray) else value for value in vars(result).values()]
        for result in answer.results
    ]


def test_a_shard_that_is_ready_compiles_nothing_for_its_first_question(served, queries):
    import ray

    engine, _ = served
    codebook = engine.index.codebook
    made = make_query(queries[0], codebook, verify=True)
    asked = made.descriptor, (made.keypoints, codebook.dim)
    folder, layout = engine.index.folder, engine.index.layout()

    @ray.remote(num_cpus=0)
    def compiled(query, keypoints, version, numbers):
        import asyncio

        from d2r.cluster.shard import Place, QueryKeypoints, Shard, ShardState
        from d2r.index import scoring as kernels
        from d2r.index.ranking import place_of
        from d2r.verify import geometry as matching

        def signatures():
            used = (
                kernels.score_postings(query.vectors.shape[1]),
                kernels.keep_best,
                matching.match_codes,
                matching.fit_transform,
            )
            return [len(one.dispatcher.signatures) for one in used]

        async def ask():
            shard, state = Shard(str(folder), 1024, 1), (version, ray.put(ShardState(version, numbers, {})))
            await shard.hold(state)
            ready = signatures()
            asked = (await shard._snapshot(state), query, 5, 0)
            shard._rank_all([asked])  # like rank, but without the batch of Ray Serve
            await shard.verify(state, (ray.put(QueryKeypoints(*keypoints)),), [Place(place_of(numbers[0], 0), 400)])
            return ready, signatures()

        return asyncio.run(ask())

    ready, asked_once = ray.get(compiled.remote(*asked, 1, tuple(row.id for row in layout.segments)))
    assert ready == asked_once
    assert set(ready) == {1}


@pytest.mark.parametrize(("top", "verify"), [(1, 0), (3, 2), (10, 100), (7, 5), (20, 0), (100, 3)])
def test_the_ranking_is_that_of_one_index_that_holds_everything(served, queries, top, verify):
    engine, cluster = served
    for query in queries:
        expected = engine.search_described(query, SearchOptions(top=top, verify=verify))
        answer = cluster.search_described(query, SearchOptions(top=top, verify=verify))
        assert results(answer) == results(expected)
        assert answer.missing == 0
        assert set(answer.seconds) == set(expected.seconds)


def test_an_expanded_query_is_answered_as_by_one_index(served, queries):
    engine, cluster = served
    for query in queries:
        for diffuse in (False, True):
            expected = engine.search_described(query, SearchOptions(top=10, expand=3, diffuse=diffuse))
            answer = cluster.search_described(query, SearchOptions(top=10, expand=3, diffuse=diffuse))
            assert results(answer) == results(expected)
            assert set(answer.seconds) == set(expected.seconds)


def test_queries_that_come_together_are_answered_each_its_own(served, queries):
    engine, cluster = served
    several = queries * 6
    with ThreadPoolExecutor(len(several)) as pool:
        answers = list(pool.map(lambda query: cluster.search_described(query, SearchOptions(top=5, verify=3)), several))
    expected = [results(engine.search_described(query, SearchOptions(top=5, verify=3))) for query in queries] * 6
    assert [results(answer) for answer in answers] == expected


def test_a_new_segment_and_a_removed_picture_count_from_the_next_search(served, queries, pictures, tmp_path):
    engine, cluster = served
    new = Path(shutil.copy(pictures / "a-pagoda-0.jpg", tmp_path / "new.jpg"))
    before = len(engine.index.layout().segments)
    engine.add([new], workers=0)
    assert len(engine.index.layout().segments) == before + 1
    answer = cluster.search_described(queries[0], SearchOptions(top=3, verify=0))
    assert [Path(result.path).name for result in answer.results] == ["a-pagoda-0.jpg", "b-pagoda-0.jpg", "new.jpg"]
    engine.remove([pictures / "a-pagoda-0.jpg"])
    answer = cluster.search_described(queries[0], SearchOptions(top=3, verify=3))
    assert results(answer) == results(engine.search_described(queries[0], SearchOptions(top=3, verify=3)))
    assert Path(answer.results[0].path).name == "b-pagoda-0.jpg"
    engine.compact()  # moves every picture, and deletes the segments that were searched
    for query in queries:
        assert results(cluster.search_described(query)) == results(engine.search_described(query))
    engine.remove([new])
    engine.add([pictures / "a-pagoda-0.jpg"], workers=0)


def test_no_shard_finds_a_picture_whose_file_is_missing(served, queries, pictures):
    engine, cluster = served
    picture = pictures / "a-pagoda-0.jpg"
    away = picture.rename(picture.with_suffix(".away"))
    engine.add([picture], workers=0)
    for query in queries:
        answer = cluster.search_described(query, SearchOptions(top=20))
        assert "a-pagoda-0.jpg" not in {Path(result.path).name for result in answer.results}
        assert results(answer) == results(engine.search_described(query, SearchOptions(top=20)))
    away.rename(picture)
    engine.add([picture], workers=0)
    assert "a-pagoda-0.jpg" in {Path(result.path).name for result in cluster.search_described(queries[0]).results}


def test_a_lost_shard_is_marked_and_comes_back(served, queries, monkeypatch):
    engine, cluster = served
    for path in list(engine.index.pictures())[:8]:  # so that both shards have segments
        engine.remove([path.path])
        engine.add([path.path], workers=0)
    shards = cluster.ranker._shards
    placement = shards._current()
    counts = dict(enumerate(placement.pictures))
    assert sorted(counts.values()) == [8, 12]  # so that the number of missing pictures tells which
    shard_of = {row.id: placement.shard_of[row.segment] for row in engine.index.pictures()}

    def check(answer, query):
        """Return the shards missing from an answer; it must have nothing of these and everything of the others."""
        away = next(away for away in ((), (0,), (1,), (0, 1)) if answer.missing == sum(counts[one] for one in away))
        every = results(engine.search_described(query, SearchOptions(top=50, verify=0)))
        assert results(answer) == [row for row in every if shard_of[row[0]] not in away]
        return away

    name = f"ServeReplica:{shards._handles[0].deployment_name}"
    (process,) = named(name)
    kill(process)
    monkeypatch.setattr(shards, "_timeout_s", 0.5)  # less than a restart takes
    assert 0 in check(cluster.search_described(queries[0], SearchOptions(top=50, verify=0)), queries[0])
    monkeypatch.setattr(shards, "_timeout_s", 60.0)
    wait_until(
        lambda: check(cluster.search_described(queries[1], SearchOptions(top=50, verify=0)), queries[1]) == (), 600
    )
    assert named(name) != [process]
    for query in queries:
        assert results(cluster.search_described(query)) == results(engine.search_described(query))


def test_nothing_listens_to_other_machines(served):
    assert open_to_others() == set()


def test_the_service_answers_with_what_the_shards_find(served, pictures, tmp_path):
    engine, cluster = served
    server = WebServer(
        make_service_app(cluster, ServiceSettings(uploads=tmp_path / "uploads", token=TOKEN, workers=1)), grace_s=10
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        with httpx.Client(base_url=server.url, timeout=240) as client:
            wait_until(lambda: client.get("/v1/ready").status_code == 200, 240)
            data = (pictures / "b-pagoda-1.jpg").read_bytes()
            answer = client.post("/v1/search", params={"top": 4, "verify": 3}, content=data).json()
    finally:
        server.stop()
        join(thread)
    expected = engine.search(pictures / "b-pagoda-1.jpg", SearchOptions(top=4, verify=3))
    assert answer["missing"] == 0
    assert [found["inliers"] for found in answer["results"]] == [result.inliers for result in expected.results]
    assert [found["score"] for found in answer["results"]] == [round(result.score, 6) for result in expected.results]


# The following tests need no real shards.


class Answer:
    def __init__(self, value):
        self._value = value

    def result(self, timeout_s=None):
        if isinstance(self._value, Exception):
            raise self._value
        return self._value


class Method:
    def __init__(self, function):
        self._function = function

    def remote(self, *given):
        try:
            return Answer(self._function(*given))
        except Exception as error:
            return Answer(error)


class MadeUp:
    """A handle that answers from the index itself, or fails on request."""

    def __init__(self, engine):
        import ray

        from d2r.cluster.shard import Shard

        self.fails = {}
        self.asked = []
        shard = Shard.__new__(Shard)
        shard._folder, shard._max_side = engine.index.folder, engine.recipe.max_side
        shard._ranker, shard._snapshots = engine.index._ranker, {}
        self._shard = shard
        self._get = ray.get
        self.hold, self.rank, self.verify = (
            Method(lambda *given, name=name: self._answer(name, *given)) for name in ("hold", "rank", "verify")
        )

    def _answer(self, name, state, *given):
        self.asked.append(name)
        if self.fails.get(name):
            return self.fails[name].pop(0)
        snapshot = self._shard._load(self._get(state[1]))
        if name == "rank":
            return self._shard._rank_all([(snapshot, *given)])[0]
        if name == "verify":
            return self._shard._verify(snapshot.segments, self._get(given[0][0]), given[1])
        return None


@pytest.fixture
def made_up(pictures, tmp_path):
    from d2r.cluster.search import ClusterEngine, Shards

    paths = sorted(pictures.iterdir())
    with Engine.create(tmp_path / "x.index", num_words=64, regions="whole", features="rootsift") as engine:
        engine.add(paths[::2], workers=0)
        engine.add(paths[1::2], workers=0)
        handles = [MadeUp(engine), MadeUp(engine)]
        yield engine, ClusterEngine(engine.index, Shards(engine.index, handles)), handles


def without(engine, cluster, shard, query):
    shard_of = cluster.ranker._shards._current().shard_of
    rows = {row.id for row in engine.index.pictures() if shard_of[row.segment] == shard}
    return [
        row for row in results(engine.search_described(query, SearchOptions(top=50, verify=0))) if row[0] not in rows
    ]


def test_a_shard_that_is_lost_before_it_has_verified_is_left_out_whole(made_up, queries):
    engine, cluster, handles = made_up
    handles[1].fails["verify"] = [TimeoutError()]
    handles[1].fails["hold"] = [TimeoutError()]
    answer = cluster.search_described(queries[0], SearchOptions(top=5, verify=20, expand=0))
    found = {row[0] for row in results(answer)}
    assert len(found) == 5
    assert found <= {row[0] for row in without(engine, cluster, 1, queries[0])}
    assert answer.missing == 10
    # It is not asked again before it has answered, and costs no time until then.
    handles[1].asked.clear()
    assert cluster.search_described(queries[0], SearchOptions(top=5, verify=0)).missing == 10
    assert handles[1].asked == []
    assert handles[0].asked.count("rank") == 3


def test_a_shard_that_answers_again_is_asked_again(made_up, queries):
    engine, cluster, handles = made_up
    handles[0].fails["rank"] = [TimeoutError()]
    assert cluster.search_described(queries[0], SearchOptions(verify=0)).missing == 10
    answer = cluster.search_described(queries[0], SearchOptions(verify=0))
    assert answer.missing == 0
    assert results(answer) == results(engine.search_described(queries[0], SearchOptions(verify=0)))


def test_what_a_commit_moves_meanwhile_is_searched_anew(made_up, queries):
    engine, cluster, handles = made_up
    ask = handles[0].rank.remote

    def compact_first(*given):
        answer = ask(*given)
        if len(engine.index.layout().segments) > 1:
            engine.compact()
        return answer

    handles[0].rank.remote = compact_first
    answer = cluster.search_described(queries[0], SearchOptions(top=5, verify=2))
    assert results(answer) == results(engine.search_described(queries[0], SearchOptions(top=5, verify=2)))
    assert handles[0].asked.count("rank") + handles[1].asked.count("rank") >= 3


def test_a_segment_that_is_gone_without_a_commit_is_told(made_up, queries):
    from d2r.index import StoreError

    _, cluster, handles = made_up
    handles[0].fails["rank"] = [FileNotFoundError(2, "gone")]
    with pytest.raises(StoreError, match="d2r check"):
        cluster.search_described(queries[0])


def test_a_search_that_nobody_waits_for_is_given_up(made_up, queries):
    _, cluster, handles = made_up
    with pytest.raises(SearchStopped):
        cluster.search_described(queries[0], stopped=lambda: True)
    assert all("verify" not in handle.asked for handle in handles)


def layout(*postings):
    return Layout(tuple(SegmentRow(number, 10, count, 0, 0, {}) for number, count in enumerate(postings, 1)), {})


def test_segments_are_spread_evenly_and_stay_where_they_are():
    from d2r.cluster.search import assign_segments

    placed = assign_segments(layout(100, 90, 50, 40, 10, 10), 2, {})
    loads = [
        sum(count for number, count in enumerate((100, 90, 50, 40, 10, 10), 1) if placed[number] == shard)
        for shard in (0, 1)
    ]
    assert sorted(loads) == [150, 150]
    more = assign_segments(layout(100, 90, 50, 40, 10, 10, 5, 200), 2, placed)
    assert {number: more[number] for number in placed} == placed
    assert more[8] != more[7]
    assert assign_segments(layout(7), 3, {1: 2, 9: 0}) == {1: 2}
