"""The match kernels against the plain equations of the paper, and the cases worked by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from d2r.asmk.codebook import Codebook, CodebookError
from d2r.asmk.codes import LocalCodes, pack_signs, unpack_signs
from d2r.asmk.kernels import (
    KERNELS,
    Aggregated,
    Assigned,
    Kernel,
    aggregate,
    aggregate_regions,
    assign,
    inverse_document_frequency,
    local_codes,
    match,
    normalisation,
    pool_codes,
    regional_similarity,
    selectivity,
    similarity,
)

# ---- The equations, implemented literally: float64, loops over regions, words and features, nothing from d2r. ----

Phi = dict[int, np.ndarray]


@dataclass
class Picture:
    """X: region, word and residual x - q(x) of each feature."""

    features: list[tuple[int, int, np.ndarray]]
    regions: int
    num_words: int
    dim: int


def q(x: np.ndarray, centroids: np.ndarray, count: int) -> list[int]:
    """The nearest words, closest first; of equal ones the lower number comes first."""
    distances = [sum((float(a) - float(b)) ** 2 for a, b in zip(x, word, strict=True)) for word in centroids]
    return sorted(range(len(centroids)), key=lambda c: (distances[c], c))[:count]


def picture(
    descriptors: np.ndarray,
    regions: np.ndarray,
    count: int,
    centroids: np.ndarray,
    nearest: int = 1,
    projection: np.ndarray | None = None,
    medians: np.ndarray | None = None,
) -> Picture:
    centroids = np.asarray(centroids, np.float64)
    P = np.eye(centroids.shape[1]) if projection is None else np.asarray(projection, np.float64)
    features = []
    for x, region in zip(np.asarray(descriptors, np.float64), regions, strict=True):
        for c in q(x, centroids, nearest):
            origin = P @ centroids[c] if medians is None else np.asarray(medians[c], np.float64)
            features.append((int(region), c, P @ x - origin))
    return Picture(features, count, len(centroids), centroids.shape[1])


def V(X: Picture, r: int, c: int) -> np.ndarray:
    total = np.zeros(X.dim)
    for region, word, residual in X.features:
        if region == r and word == c:
            total = total + residual
    return total


def is_zero(v: np.ndarray) -> bool:
    return float(np.linalg.norm(v)) < 1e-9


def unit(v: np.ndarray) -> np.ndarray:
    """V^: the zero vector stays zero, its word is absent."""
    return np.zeros_like(v) if is_zero(v) else v / np.linalg.norm(v)


def g_vlad(X: Picture, r: int) -> float:
    total = sum(float(V(X, r, c) @ V(X, r, c)) for c in range(X.num_words))
    return 1 / math.sqrt(total) if total > 0 else 0.0


def g_asmk(X: Picture, r: int) -> float:
    present = sum(not is_zero(V(X, r, c)) for c in range(X.num_words))
    return 1 / math.sqrt(present) if present else 0.0


def V_R(X: Picture, c: int) -> np.ndarray:
    return sum((g_vlad(X, r) * V(X, r, c) for r in range(X.regions)), np.zeros(X.dim)) / X.regions


def V_naive(X: Picture, c: int) -> np.ndarray:
    return sum((g_asmk(X, r) * unit(V(X, r, c)) for r in range(X.regions)), np.zeros(X.dim)) / X.regions


def b(v: np.ndarray) -> np.ndarray:
    """Signs divided by sqrt(D), so that their inner product is 1 - 2 h / D."""
    return np.array([1.0 if x > 0 else -1.0 for x in v]) / math.sqrt(len(v))


def embed(X: Picture, vector: Callable[[int], np.ndarray], finish: Callable[[np.ndarray], np.ndarray]) -> Phi:
    vectors = {c: vector(c) for c in range(X.num_words)}
    return {c: finish(v) for c, v in vectors.items() if not is_zero(v)}


def bow(X: Picture) -> Phi:
    counts = [sum(region == 0 and word == c for region, word, _ in X.features) for c in range(X.num_words)]
    return {c: np.array([float(n)]) for c, n in enumerate(counts) if n}


def plain(v: np.ndarray) -> np.ndarray:
    return v


PHI: dict[str, Callable[[Picture], Phi]] = {
    "bow": bow,
    "vlad": lambda X: embed(X, lambda c: V(X, 0, c), plain),
    "asmk": lambda X: embed(X, lambda c: V(X, 0, c), unit),
    "asmk*": lambda X: embed(X, lambda c: V(X, 0, c), b),
    "r-vlad": lambda X: embed(X, lambda c: V_R(X, c), plain),
    "naive-r-asmk": lambda X: embed(X, lambda c: V_naive(X, c), plain),
    "r-asmk": lambda X: embed(X, lambda c: V_R(X, c), unit),
    "r-asmk*": lambda X: embed(X, lambda c: V_R(X, c), b),
}
REGIONAL = ("r-vlad", "naive-r-asmk", "r-asmk", "r-asmk*")


def linear(name: str) -> bool:
    return name in ("bow", "vlad", "r-vlad")


def s(u: float, alpha: float = 3.0, tau: float = 0.0) -> float:
    return math.copysign(abs(u) ** alpha, u) if u > tau else 0.0


def M(x: Phi, y: Phi, sel: Callable[[float], float], w: list[float] | None = None) -> float:
    return sum((w[c] if w else 1.0) * sel(float(x[c] @ y[c])) for c in x if c in y)


def K(x: Phi, y: Phi, sel: Callable[[float], float], w: list[float] | None = None) -> float:
    own = M(x, x, sel, w) * M(y, y, sel, w)
    return M(x, y, sel, w) / math.sqrt(own) if own > 0 else 0.0


def selectivity_of(name: str) -> Callable[[float], float]:
    return (lambda u: u) if linear(name) else s


# ---- Random input. Multiples of 2^-12 (or 1/4), so that float32 holds every residual and every sum exactly. ----


@dataclass
class Photo:
    descriptors: np.ndarray
    regions: np.ndarray
    count: int


@dataclass
class Case:
    centroids: np.ndarray
    photos: list[Photo]

    @property
    def codebook(self) -> Codebook:
        return Codebook(self.centroids)

    def assigned(self, number: int = 0, nearest: int = 1) -> Assigned:
        photo = self.photos[number]
        return assign(self.codebook, photo.descriptors, photo.regions, photo.count, nearest)

    def plain(self, number: int = 0, nearest: int = 1) -> Picture:
        photo = self.photos[number]
        return picture(photo.descriptors, photo.regions, photo.count, self.centroids, nearest)


def units(rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
    values = rng.standard_normal((count, dim))
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def random_photo(rng: np.random.Generator, dim: int, most: int, count: int, coarse: bool) -> Photo:
    number = int(rng.integers(0, most + 1))
    descriptors = rng.integers(-4, 5, (number, dim)) / 4 if coarse else np.rint(units(rng, number, dim) * 4096) / 4096
    occupied = rng.permutation(count)[: rng.integers(1, count + 1)]  # the other regions are empty
    return Photo(descriptors.astype(np.float32), rng.choice(occupied, number).astype(np.int32), count)


def clear_of_ties(case: Case, nearest: int = 1) -> bool:
    """Say whether float32 distances order words as exact ones do."""
    for photo in case.photos:
        distances = ((photo.descriptors[:, None].astype(float) - case.centroids[None].astype(float)) ** 2).sum(axis=2)
        gaps = np.diff(np.sort(distances, axis=1), axis=1)[:, :nearest]
        if (gaps < 1e-5).any():
            return False
    return True


@st.composite
def cases(draw: st.DrawFn, photos: int = 1, least_regions: int = 1, coarse: bool | None = None) -> Case:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dim = draw(st.sampled_from([2, 8, 64, 100, 128]))
    words = draw(st.integers(1, 6))
    if coarse is None:
        coarse = draw(st.booleans())
    centroids = rng.integers(-4, 5, (words, dim)) / 4 if coarse else np.rint(units(rng, words, dim) * 2048) / 4096
    counts = [draw(st.integers(least_regions, 4)) for _ in range(photos)]
    most = draw(st.sampled_from([0, 1, 3, 25]))
    found = Case(centroids.astype(np.float32), [random_photo(rng, dim, most, count, coarse) for count in counts])
    if coarse and draw(st.booleans()):  # features on their words: residuals that are zero
        for photo in found.photos:
            some = rng.random(len(photo.descriptors)) < 0.7
            photo.descriptors[some] = found.centroids[rng.integers(0, words, some.sum())]
    assume(coarse or clear_of_ties(found))
    return found


def moderate(examples: int) -> settings:
    return settings(max_examples=examples, deadline=None, derandomize=True)


def before_signs(name: str, X: Picture, c: int) -> np.ndarray:
    return V(X, 0, c) if name == "asmk*" else V_R(X, c)


def doubtful(name: str, X: Picture) -> bool:
    """Say whether rounding decides a sign: a sum over regions that is nearly, but not exactly, zero."""
    if name != "r-asmk*":
        return False
    vectors = [V_R(X, c) for c in range(X.num_words)]
    return any((np.abs(v) < 1e-7).any() for v in vectors if not is_zero(v))


# ---- Phi(X_c) and K(X, Y) ----


@pytest.mark.parametrize("name", PHI)
@moderate(40)
@given(case=cases())
def test_every_embedding_is_the_equation(name: str, case: Case) -> None:
    X = case.plain()
    if name in REGIONAL and X.regions == 1:  # with one region it is the plain kernel, without the factor g
        name = {"r-vlad": "vlad", "naive-r-asmk": "asmk", "r-asmk": "asmk", "r-asmk*": "asmk*"}[name]
    expected = PHI[name](X)
    found = aggregate(case.assigned(), KERNELS[name])
    assert found.words.tolist() == sorted(expected)
    assert found.words.dtype == np.int32
    assert len(found) == len(expected)
    assert found.dim == (1 if name == "bow" else X.dim)
    if not name.endswith("*"):
        assert found.vectors.dtype == np.float32
        for word, vector in zip(found.words, found.vectors, strict=True):
            np.testing.assert_allclose(vector, expected[word], rtol=0, atol=2e-6 * max(1, np.abs(expected[word]).max()))
        return
    assert found.vectors.dtype == np.uint64
    assert found.vectors.shape == (len(expected), -(-X.dim // 64))
    for word, signs in zip(found.words, unpack_signs(found.vectors, X.dim), strict=True):
        # A plain sum is exact, so an exact zero is -1; a sum of scaled regions near zero may round to either side.
        sure = np.ones(X.dim, bool) if name == "asmk*" else np.abs(before_signs(name, X, word)) >= 1e-7
        np.testing.assert_array_equal(signs[sure], np.sign(expected[word])[sure])


@pytest.mark.parametrize("name", PHI)
@moderate(40)
@given(case=cases(photos=2))
def test_every_similarity_is_the_equation(name: str, case: Case) -> None:
    X, Y = case.plain(0), case.plain(1)
    assume(not doubtful(name, X) and not doubtful(name, Y))
    expected = K(PHI[name](X), PHI[name](Y), selectivity_of(name))
    kernel = KERNELS[name]
    x, y = aggregate(case.assigned(0), kernel), aggregate(case.assigned(1), kernel)
    assert similarity(x, y, kernel) == pytest.approx(expected, abs=1e-5)
    assert similarity(y, x, kernel) == pytest.approx(similarity(x, y, kernel), abs=1e-6)


@pytest.mark.parametrize("name", PHI)
@moderate(25)
@given(case=cases())
def test_a_picture_has_similarity_one_to_itself_unless_it_is_empty(name: str, case: Case) -> None:
    kernel = KERNELS[name]
    x = aggregate(case.assigned(), kernel)
    assert similarity(x, x, kernel) == pytest.approx(1.0 if len(x) else 0.0, abs=1e-6)


@pytest.mark.parametrize("name", ["asmk", "naive-r-asmk", "r-asmk", "r-asmk*"])
@moderate(25)
@given(
    case=cases(photos=2),
    alpha=st.sampled_from([1.0, 2.0, 3.0, 4.5]),
    tau=st.sampled_from([-math.inf, -0.1, 0.0, 0.11, 0.26]),
)
def test_alpha_and_tau_select_as_the_equation(name: str, case: Case, alpha: float, tau: float) -> None:
    X, Y = case.plain(0), case.plain(1)
    assume((X.regions > 1 and Y.regions > 1) or name == "asmk")
    assume(not doubtful(name, X) and not doubtful(name, Y))
    phi_x, phi_y = PHI[name](X), PHI[name](Y)
    inner = [float(one[c] @ other[c]) for one in (phi_x, phi_y) for other in (phi_x, phi_y) for c in one if c in other]
    assume(all(abs(u - tau) > 1e-5 for u in inner))  # at the threshold rounding decides
    kernel = Kernel(KERNELS[name].embedding, KERNELS[name].regional, alpha, tau)
    x, y = aggregate(case.assigned(0), kernel), aggregate(case.assigned(1), kernel)
    expected = K(phi_x, phi_y, lambda u: s(u, alpha, tau))
    assert similarity(x, y, kernel) == pytest.approx(expected, abs=2e-5)


def test_selectivity_keeps_the_sign_and_drops_what_is_not_above_tau() -> None:
    u = np.array([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0], np.float32)
    assert selectivity(u, Kernel("unit", alpha=3.0, tau=0.0)).tolist() == [0, 0, 0, 0.015625, 0.125, 1]
    assert selectivity(u, Kernel("unit", alpha=3.0, tau=-0.5)).tolist() == [0, 0, 0, 0.015625, 0.125, 1]
    assert selectivity(u, Kernel("unit", alpha=3.0, tau=-0.75)).tolist() == [0, -0.125, 0, 0.015625, 0.125, 1]
    assert selectivity(u, Kernel("unit", alpha=1.0, tau=0.25)).tolist() == [0, 0, 0, 0, 0.5, 1]
    assert selectivity(u, KERNELS["vlad"]).tolist() == u.tolist()


@pytest.mark.parametrize("name", PHI)
@moderate(20)
@given(case=cases(photos=3))
def test_idf_weights_enter_the_kernel_and_both_norms(name: str, case: Case) -> None:
    pictures = [case.plain(number) for number in range(3)]
    assume(not any(doubtful(name, X) for X in pictures))
    phis = [PHI[name](X) for X in pictures]
    counts = [sum(c in phi for phi in phis) for c in range(len(case.centroids))]
    w = [math.log(3 / n) if n else 0.0 for n in counts]
    kernel = KERNELS[name]
    found = [aggregate(case.assigned(number), kernel) for number in range(3)]
    weights = inverse_document_frequency(found, len(case.centroids))
    np.testing.assert_allclose(weights, w, atol=1e-6)
    assert weights.dtype == np.float32
    for i in range(3):
        for j in range(3):
            expected = K(phis[i], phis[j], selectivity_of(name), w)
            assert similarity(found[i], found[j], kernel, weights) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["bow", "vlad", "asmk*", "r-asmk"])
@moderate(20)
@given(case=cases(photos=1), nearest=st.integers(2, 4))
def test_multiple_assignment_puts_a_feature_into_its_nearest_words(name: str, case: Case, nearest: int) -> None:
    nearest = min(nearest, len(case.centroids))
    coarse = bool((case.centroids * 4 % 1 == 0).all())
    assume(coarse or clear_of_ties(case, nearest))
    X = case.plain(0, nearest)
    assume(X.regions > 1 or name != "r-asmk")
    assume(name != "bow" or len(X.features) == nearest * len(case.photos[0].descriptors))
    expected = PHI[name](X)
    assigned = case.assigned(0, nearest)
    assert assigned.words.tolist() == [word for _, word, _ in X.features]
    assert assigned.regions.tolist() == [region for region, _, _ in X.features]
    found = aggregate(assigned, KERNELS[name])
    assert found.words.tolist() == sorted(expected)
    vectors = unpack_signs(found.vectors, X.dim) / math.sqrt(X.dim) if name == "asmk*" else found.vectors
    for word, vector in zip(found.words, vectors, strict=True):
        np.testing.assert_allclose(vector, expected[word], rtol=2e-6, atol=2e-6)


@moderate(30)
@given(seed=st.integers(0, 2**32 - 1), dim=st.sampled_from([2, 8, 64, 128]), medians=st.booleans())
def test_original_asmk_star_projects_and_takes_residuals_to_the_median(seed: int, dim: int, medians: bool) -> None:
    rng = np.random.default_rng(seed)
    projection = np.linalg.qr(rng.standard_normal((dim, dim)))[0].astype(np.float32)
    centroids = (units(rng, 4, dim) / 2).astype(np.float32)
    middle = (units(rng, 4, dim) / 2).astype(np.float32) if medians else None
    photo = Photo(units(rng, 25, dim).astype(np.float32), rng.integers(0, 3, 25).astype(np.int32), 3)
    assume(clear_of_ties(Case(centroids, [photo])))
    X = picture(photo.descriptors, photo.regions, 3, centroids, 1, projection, middle)
    assigned = assign(Codebook(centroids, projection, middle), photo.descriptors, photo.regions, 3)
    for name in ("asmk*", "r-asmk*"):
        found = aggregate(assigned, KERNELS[name])
        assert found.words.tolist() == sorted(PHI[name](X))
        for word, signs in zip(found.words, unpack_signs(found.vectors, dim), strict=True):
            v = before_signs(name, X, word)
            sure = np.abs(v) > 3e-6  # the projection is computed in float32
            np.testing.assert_array_equal(signs[sure], np.where(v > 0, 1, -1)[sure])


@pytest.mark.parametrize("name", PHI)
def test_float32_descriptors_of_unit_length_give_the_similarity_of_the_equation(name: str) -> None:
    rng = np.random.default_rng(7)
    centroids = (units(rng, 8, 128) / 2).astype(np.float32)
    photos = [Photo(units(rng, 60, 128).astype(np.float32), rng.integers(0, 3, 60).astype(np.int32), 4) for _ in "ab"]
    case = Case(centroids, photos)
    x, y = (aggregate(case.assigned(number), KERNELS[name]) for number in range(2))
    expected = K(PHI[name](case.plain(0)), PHI[name](case.plain(1)), selectivity_of(name))
    assert abs(expected) > 1e-4
    assert similarity(x, y, KERNELS[name]) == pytest.approx(expected, abs=1e-5)


# ---- Regions ----


@pytest.mark.parametrize(
    ("regional", "name"), [("r-vlad", "vlad"), ("naive-r-asmk", "asmk"), ("r-asmk", "asmk"), ("r-asmk*", "asmk*")]
)
@moderate(25)
@given(case=cases(photos=2))
def test_with_one_region_the_regional_kernel_is_the_plain_one(regional: str, name: str, case: Case) -> None:
    photos = [Photo(photo.descriptors, np.zeros_like(photo.regions), 1) for photo in case.photos]
    case = Case(case.centroids, photos)
    x, y = (aggregate(case.assigned(number), KERNELS[regional]) for number in range(2))
    expected = [aggregate(case.assigned(number), KERNELS[name]) for number in range(2)]
    np.testing.assert_array_equal(x.words, expected[0].words)
    np.testing.assert_allclose(x.vectors, expected[0].vectors, rtol=1e-6)
    assert similarity(x, y, KERNELS[regional]) == pytest.approx(similarity(*expected, KERNELS[name]), abs=1e-6)


@moderate(40)
@given(case=cases(photos=2))
def test_plain_kernels_see_the_whole_picture_only(case: Case) -> None:
    photo = case.photos[0]
    whole = photo.regions == 0
    only = assign(case.codebook, photo.descriptors[whole])
    for name in ("bow", "vlad", "asmk", "asmk*"):
        first, second = aggregate(case.assigned(), KERNELS[name]), aggregate(only, KERNELS[name])
        np.testing.assert_array_equal(first.words, second.words)
        np.testing.assert_array_equal(first.vectors, second.vectors)


@moderate(40)
@given(case=cases(photos=2, least_regions=2))
def test_mean_vlad_similarity_of_the_regions_is_one_product_with_r_vlad(case: Case) -> None:
    vlad = KERNELS["vlad"]
    x = aggregate(case.assigned(0), vlad)
    stored = aggregate_regions(case.assigned(1), vlad)
    once = normalisation(x, vlad) * match(x, aggregate(case.assigned(1), KERNELS["r-vlad"]), vlad)
    assert regional_similarity(x, stored, vlad, "avg") == pytest.approx(once, abs=1e-5)


@pytest.mark.parametrize("name", ["bow", "vlad", "asmk", "asmk*"])
@moderate(25)
@given(case=cases(photos=2))
def test_regional_search_takes_the_largest_or_the_mean_of_the_regions(name: str, case: Case) -> None:
    X, Y = case.plain(0), case.plain(1)
    each = []
    for r in range(Y.regions):
        region = Picture([(0, c, v) for owner, c, v in Y.features if owner == r], 1, Y.num_words, Y.dim)
        each.append(K(PHI[name](X), PHI[name](region), selectivity_of(name)))
    kernel = KERNELS[name]
    x, stored = aggregate(case.assigned(0), kernel), aggregate_regions(case.assigned(1), kernel)
    assert len(stored) == Y.regions
    assert regional_similarity(x, stored, kernel, "max") == pytest.approx(max(each), abs=1e-5)
    assert regional_similarity(x, stored, kernel, "avg") == pytest.approx(sum(each) / Y.regions, abs=1e-5)


@pytest.mark.parametrize("name", REGIONAL)
def test_symmetric_kernel_takes_regions_on_both_sides(name: str) -> None:
    rng = np.random.default_rng(11)
    case = Case(
        (np.rint(units(rng, 5, 64) * 2048) / 4096).astype(np.float32),
        [Photo(units(rng, 40, 64).astype(np.float32), np.arange(40, dtype=np.int32) % 3, 3) for _ in "ab"],
    )
    kernel = KERNELS[name]
    x, y = aggregate(case.assigned(0), kernel), aggregate(case.assigned(1), kernel)
    expected = K(PHI[name](case.plain(0)), PHI[name](case.plain(1)), selectivity_of(name))
    assert similarity(x, y, kernel) == pytest.approx(expected, abs=1e-5)
    assert similarity(y, x, kernel) == pytest.approx(expected, abs=1e-5)
    one_sided = aggregate(case.assigned(0), KERNELS[{"r-vlad": "vlad", "r-asmk*": "asmk*"}.get(name, "asmk")])
    assert abs(similarity(one_sided, y, kernel) - expected) > 1e-3  # the regions of the query count


def test_a_region_without_features_counts_in_the_number_of_regions() -> None:
    codebook = Codebook(np.zeros((1, 2), np.float32))
    descriptors, regions = np.array([[3, 4], [0, 1]], np.float32), np.array([0, 1], np.int32)
    for name in ("r-vlad", "naive-r-asmk"):
        two = aggregate(assign(codebook, descriptors, regions, 2), KERNELS[name])
        four = aggregate(assign(codebook, descriptors, regions, 4), KERNELS[name])
        np.testing.assert_allclose(two.vectors, [[0.3, 0.9]], atol=1e-7)
        np.testing.assert_allclose(four.vectors, [[0.15, 0.45]], atol=1e-7)
    vlad = KERNELS["vlad"]
    stored = aggregate_regions(assign(codebook, descriptors, regions, 4), vlad)
    query = aggregate(assign(codebook, descriptors[1:]), vlad)
    assert regional_similarity(query, stored, vlad, "avg") == pytest.approx((0.8 + 1 + 0 + 0) / 4)
    assert regional_similarity(query, stored, vlad, "max") == pytest.approx(1.0)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("dim", [2, 100, 128])
def test_a_picture_without_features_is_empty_and_similar_to_nothing(name: str, count: int, dim: int) -> None:
    kernel = KERNELS[name]
    codebook = Codebook(np.eye(dim, dtype=np.float32)[:2])
    none = np.zeros((0, dim), np.float32)
    empty = aggregate(assign(codebook, none, np.zeros(0, np.int32), count), kernel)
    full = aggregate(assign(codebook, np.ones((3, dim), np.float32)), kernel)
    assert len(empty) == 0
    assert len(empty.vectors) == 0
    assert empty.vectors.dtype == full.vectors.dtype
    assert empty.vectors.shape[1] == full.vectors.shape[1]
    assert len(full) == 1
    assert normalisation(empty, kernel) == 0
    assert similarity(empty, full, kernel) == 0
    assert similarity(full, empty, kernel) == 0
    assert similarity(empty, empty, kernel) == 0


# ---- Cases worked by hand ----

WORKED = Codebook(np.array([[0.5, 0.5], [0, 0], [1, 0], [-0.5, -0.5], [0, 1]], np.float32))
WHOLE = np.array([[1, 0], [-1, 0], [1, 2]], np.float32)
BOTH = np.concatenate([WHOLE, np.array([[0, 2]], np.float32)])


def dense(x: Aggregated) -> list[list[float]]:
    table = np.zeros((WORKED.num_words, x.dim))
    table[x.words] = x.vectors
    return table.tolist()


def two_regions() -> Assigned:
    return assign(WORKED, BOTH, np.array([0, 0, 0, 1], np.int32), 2)


def test_worked_case_of_bow_and_vlad() -> None:
    assert assign(WORKED, WHOLE).words.tolist() == [2, 3, 4]
    assert dense(aggregate(assign(WORKED, WHOLE), KERNELS["bow"])) == [[0], [0], [1], [1], [1]]
    assert dense(aggregate(assign(WORKED, WHOLE), KERNELS["vlad"])) == [[0, 0], [0, 0], [0, 0], [-0.5, 0.5], [1, 1]]


def test_worked_case_of_asmk_and_its_signs() -> None:
    found = aggregate(assign(WORKED, WHOLE), KERNELS["asmk"])
    assert found.words.tolist() == [3, 4]
    np.testing.assert_allclose(found.vectors, [[-0.707107, 0.707107], [0.707107, 0.707107]], atol=5e-7)
    star = aggregate(assign(WORKED, WHOLE), KERNELS["asmk*"])
    assert star.words.tolist() == [3, 4]
    assert unpack_signs(star.vectors, 2).tolist() == [[-1, 1], [1, 1]]


def test_worked_case_of_r_vlad() -> None:
    found = aggregate(two_regions(), KERNELS["r-vlad"])
    assert found.words.tolist() == [3, 4]
    np.testing.assert_allclose(found.vectors, [[-0.158114, 0.158114], [0.316228, 0.816228]], atol=5e-7)


def test_worked_case_of_r_asmk_and_its_signs() -> None:
    found = aggregate(two_regions(), KERNELS["r-asmk"])
    assert found.words.tolist() == [3, 4]
    np.testing.assert_allclose(found.vectors, [[-0.707107, 0.707107], [0.361261, 0.932465]], atol=5e-7)
    star = aggregate(two_regions(), KERNELS["r-asmk*"])
    assert star.words.tolist() == [3, 4]
    assert unpack_signs(star.vectors, 2).tolist() == [[-1, 1], [1, 1]]


def test_worked_case_of_naive_r_asmk() -> None:
    found = aggregate(two_regions(), KERNELS["naive-r-asmk"])
    assert found.words.tolist() == [3, 4]
    # Region 0 has two words: each unit vector divided by sqrt(2), then by R = 2; region 1 adds (0, 1) / 2.
    np.testing.assert_allclose(found.vectors, [[-0.25, 0.25], [0.25, 0.75]], atol=1e-7)


# ---- Words: ties and zeros ----


@pytest.mark.parametrize("count", [1, 5, 19, 20, 21, 64])
@pytest.mark.parametrize("dim", [2, 8, 100, 128])
def test_equally_near_words_go_to_the_lower_numbered(count: int, dim: int) -> None:
    """On dyadic data, where distances are exact; faiss takes another path from 20 queries on."""
    rng = np.random.default_rng(dim * 100 + count)
    centroids = (rng.integers(-2, 3, (12, dim)) / 2).astype(np.float32)
    centroids[[5, 9, 11]] = centroids[[2, 2, 0]]  # duplicates
    descriptors = (rng.integers(-2, 3, (count, dim)) / 2).astype(np.float32)
    descriptors[0] = (centroids[3] + centroids[6]) / 2  # midway
    descriptors[-1] = centroids[2]
    for nearest in (1, 3, 12):
        expected = [q(x, centroids, nearest) for x in descriptors]
        assert Codebook(centroids).assign(descriptors, nearest).tolist() == expected
        assert assign(Codebook(centroids), descriptors, nearest=nearest).words.tolist() == np.ravel(expected).tolist()


@pytest.mark.parametrize("count", [3, 19, 20, 200])
def test_a_duplicated_word_is_never_used(count: int) -> None:
    rng = np.random.default_rng(count)
    first = units(rng, 33, 128).astype(np.float32)
    codebook = Codebook(np.concatenate([first, first[::-1]]))
    words = assign(codebook, units(rng, count, 128).astype(np.float32)).words
    assert words.max() < 33


@pytest.mark.parametrize("name", ["vlad", "asmk", "asmk*", "r-vlad", "naive-r-asmk", "r-asmk", "r-asmk*"])
def test_a_word_with_zero_residual_is_absent(name: str) -> None:
    codebook = Codebook(np.array([[0, 0], [4, 0], [0, 4]], np.float32))
    on_the_word = [[4, 0], [4, 0]]
    cancelling = [[0.5, 0.25], [-0.5, -0.25]]
    descriptors = np.array([*on_the_word, *cancelling, [0, 5]], np.float32)
    found = aggregate(assign(codebook, descriptors), KERNELS[name])
    assert found.words.tolist() == [2]
    if name in REGIONAL:  # also where the sums of the regions cancel
        descriptors = np.array([[1, 0], [0, 5], [-1, 0], [0, 5]], np.float32)
        found = aggregate(assign(codebook, descriptors, np.array([0, 0, 1, 1], np.int32), 2), KERNELS[name])
        assert found.words.tolist() == [2]


def test_a_word_with_zero_residual_does_not_count_in_the_norm_of_naive_r_asmk() -> None:
    codebook = Codebook(np.array([[0, 0], [4, 0]], np.float32))
    descriptors = np.array([[4, 0], [0, 1]], np.float32)
    found = aggregate(assign(codebook, descriptors, np.zeros(2, np.int32), 2), KERNELS["naive-r-asmk"])
    assert found.words.tolist() == [0]
    np.testing.assert_allclose(found.vectors, [[0, 0.5]])


@pytest.mark.parametrize("name", ["vlad", "asmk", "asmk*", "r-vlad", "naive-r-asmk", "r-asmk", "r-asmk*"])
@pytest.mark.parametrize("small", [2.0**-10, 2.0**-20, 2.0**-30])
def test_a_word_with_a_small_residual_is_present(name: str, small: float) -> None:
    codebook = Codebook(np.array([[0, 0], [4, 0]], np.float32))
    descriptors = np.array([[small, -small], [5, 3]], np.float32)
    for regions in ([0, 0], [0, 1]) if name in REGIONAL else ([0, 0],):
        found = aggregate(assign(codebook, descriptors, np.array(regions, np.int32), max(regions) + 1), KERNELS[name])
        assert found.words.tolist() == [0, 1]
        vectors = unpack_signs(found.vectors, 2) if name.endswith("*") else found.vectors
        np.testing.assert_array_equal(np.sign(vectors), [[1, -1], [1, 1]])


# ---- Signs ----


@moderate(40)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(0, 5), dim=st.integers(1, 260))
def test_packed_signs_come_back(seed: int, rows: int, dim: int) -> None:
    vectors = np.random.default_rng(seed).integers(-1, 2, (rows, dim)).astype(np.float32)
    codes = pack_signs(vectors)
    assert codes.shape == (rows, -(-dim // 64))
    assert codes.dtype == np.uint64
    np.testing.assert_array_equal(unpack_signs(codes, dim), np.where(vectors > 0, 1, -1))
    padding = np.unpackbits(codes.view(np.uint8), axis=1)[:, dim:]
    assert not padding.any()


@moderate(40)
@given(seed=st.integers(0, 2**32 - 1), dim=st.sampled_from([1, 2, 63, 64, 65, 100, 128, 256]))
def test_inner_product_of_signs_is_one_less_twice_the_share_of_bits_that_differ(seed: int, dim: int) -> None:
    rng = np.random.default_rng(seed)
    signs = np.where(rng.random((2, dim)) > 0.5, 1.0, -1.0)
    differ = sum(int(a != c) for a, c in zip(*signs, strict=True))
    x, y = (Aggregated(np.zeros(1, np.int32), pack_signs(row[None]), dim) for row in signs)
    linear_kernel = Kernel("sign", alpha=1.0, tau=-np.inf)
    assert match(x, y, linear_kernel) == pytest.approx(1 - 2 * differ / dim, abs=1e-6)
    assert match(x, y, linear_kernel) == pytest.approx(float(signs[0] @ signs[1]) / dim, abs=1e-6)


def test_norm_of_a_starred_picture_is_the_root_of_its_number_of_words() -> None:
    x = Aggregated(np.array([1, 4, 6], np.int32), pack_signs(np.random.default_rng(0).standard_normal((3, 100))), 100)
    assert normalisation(x, KERNELS["asmk*"]) == pytest.approx(3**-0.5)


def test_a_word_that_no_picture_has_weighs_nothing_and_one_that_all_have_neither() -> None:
    def holding(*words: int) -> Aggregated:
        return Aggregated(np.array(words, np.int32), np.ones((len(words), 1), np.float32), 1)

    weights = inverse_document_frequency([holding(0, 1), holding(1), holding(1, 3), holding(1)], 4)
    np.testing.assert_allclose(weights, [math.log(4), 0, 0, math.log(4)], rtol=1e-6)


def test_codes_of_words_with_one_feature_each_pool_to_the_starred_descriptor() -> None:
    rng = np.random.default_rng(5)
    words = rng.permutation(40)[:12].astype(np.int32)
    assigned = Assigned(
        words, rng.standard_normal((12, 70)).astype(np.float32), rng.standard_normal((40, 70)).astype(np.float32),
        np.zeros(12, np.int32), 1,
    )  # fmt: skip
    found, expected = pool_codes(local_codes(assigned, np.arange(12))), aggregate(assigned, KERNELS["asmk*"])
    np.testing.assert_array_equal(found.words, expected.words)
    np.testing.assert_array_equal(found.vectors, expected.vectors)
    assert found.dim == expected.dim == 70


def test_codes_of_one_word_pool_to_what_most_of_them_have() -> None:
    descriptors = np.array([[1, 1, -9], [2, -1, -9], [-3, 1, 9]], np.float32)
    assigned = Assigned(np.full(3, 4, np.int32), descriptors, None, np.zeros(3, np.int32), 1)
    local = local_codes(assigned, np.array([0, 1, 2]))
    np.testing.assert_array_equal(unpack_signs(pool_codes(local).vectors, 3), [[1, 1, -1]])
    np.testing.assert_array_equal(unpack_signs(pool_codes(local.take(np.array([1]))).vectors, 3), [[1, -1, -1]])
    assert len(pool_codes(LocalCodes.empty(3))) == 0


def test_descriptors_of_another_dimension_are_refused() -> None:
    with pytest.raises(CodebookError, match=r"\(3, 64\).*128 dimensions"):
        assign(Codebook(np.zeros((2, 128), np.float32)), np.zeros((3, 64), np.float32))


# ---- Input that compiled loops do not check ----

PROJECTED = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
BOOK = Codebook(np.random.default_rng(1).standard_normal((5, 16)).astype(np.float32))


def test_the_number_of_regions_is_asked_for_where_there_are_regions() -> None:
    with pytest.raises(ValueError, match="region_count"):
        assign(BOOK, PROJECTED, np.array([0, 1, 1]))
    assert assign(BOOK, PROJECTED).region_count == 1
    assert assign(BOOK, PROJECTED, region_count=4).region_count == 4


@pytest.mark.parametrize("regions", [[0, 1, 2], [-1, 0, 1], [0, 0, 2**31 - 1], [0, 0, 2**32], [-(2**40), 0, 0]])
def test_a_region_that_there_is_not_is_refused(regions: list[int]) -> None:
    with pytest.raises(ValueError, match="regions must be from 0 to 1"):
        assign(BOOK, PROJECTED, np.array(regions), 2)


@pytest.mark.parametrize("regions", [np.zeros(2, np.int32), np.zeros((3, 1), np.int32), np.zeros(3), np.zeros(3, "U1")])
def test_regions_of_another_shape_or_type_are_refused(regions: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"regions must be int32 \(3,\)"):
        assign(BOOK, PROJECTED, regions, 2)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.uint32, np.int32])
def test_regions_may_be_any_whole_numbers(dtype: type) -> None:
    found = assign(BOOK, PROJECTED, np.array([0, 1, 1], dtype), 2)
    assert found.regions.dtype == np.int32
    assert found.regions.tolist() == [0, 1, 1]


@pytest.mark.parametrize("count", [0, -1])
def test_a_picture_has_a_region(count: int) -> None:
    with pytest.raises(ValueError, match="region_count must be 1 or more"):
        assign(BOOK, PROJECTED[:0], np.zeros(0, np.int32), count)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.complex64, "O"])
def test_descriptors_that_are_no_floating_point_numbers_are_refused(dtype: str) -> None:
    with pytest.raises(CodebookError, match="floating-point numbers"):
        assign(BOOK, np.ones((3, 16), dtype))


def assigned_with(**other: object) -> Assigned:
    good = {"words": np.array([0, 4, 4], np.int32), "projected": PROJECTED, "origins": BOOK.centroids,
            "regions": np.array([0, 0, 1], np.int32), "region_count": 2}  # fmt: skip
    return Assigned(**good | other)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"words": np.array([0, 4, 5], np.int32)}, "words must be from 0 to 4"),
        ({"words": np.array([0, -1, 4], np.int32)}, "words must be from 0 to 4"),
        ({"words": np.array([0, -1, 4], np.int32), "origins": None}, "words must be from 0 to"),
        ({"words": np.array([0, 4], np.int32)}, "regions must be int32"),
        ({"words": np.array([0, 4, 4])}, "words must be int32"),
        ({"regions": np.array([0, 0, 2], np.int32)}, "regions must be from 0 to 1"),
        ({"regions": np.array([0, 0, 1.0])}, "regions must be int32"),
        ({"region_count": 0}, "region_count must be 1 or more"),
        ({"projected": PROJECTED[:2]}, "projected descriptors must be numbers of"),
        ({"projected": PROJECTED[0]}, "projected descriptors must be numbers of"),
        ({"projected": PROJECTED.astype(np.int32)}, "projected descriptors must be numbers of"),
        ({"origins": BOOK.centroids[:, :15].copy()}, "origins must be"),
    ],
)
def test_descriptors_whose_words_or_regions_do_not_fit_cannot_be_made(wrong: dict[str, object], reason: str) -> None:
    assert aggregate(assigned_with(), KERNELS["r-asmk*"]).words.tolist() == [0, 4]
    with pytest.raises(ValueError, match=reason):
        assigned_with(**wrong)
