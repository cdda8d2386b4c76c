"""Google Landmarks: retrieval mAP@100 and recognition GAP, as the Kaggle challenges define them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from d2r.evaluate.revisited import Rankings

NO_LANDMARK = -1
"""Predicted label of a picture without a predicted landmark."""


@dataclass(frozen=True, eq=False)
class LandmarkScores:
    """Retrieval scores of Q queries.

    Attributes:
        map: mean average precision over the counted queries, in [0, 1].
        average_precision: float64 (Q,), NaN for a query without positives.
        counted: number of queries with at least one positive; the others are left out of the mean.
    """

    map: float
    average_precision: NDArray[np.float64]
    counted: int


def retrieval_map(rankings: Rankings, positives: Sequence[ArrayLike], depth: int = 100) -> LandmarkScores:
    """Score retrieval by mean average precision over the first ``depth`` answers.

    With m positives, rel(k) = 1 if the k-th answer is a positive that was not answered before, and P(k) the precision
    among the first k:

        AP@depth = sum over k <= depth of P(k) rel(k) / min(m, depth)

    A repeated answer takes a place without credit; an empty ranking has AP 0.

    Args:
        rankings: integer (K, Q), or Q integer arrays of shape (K_q,), database indices, best first.
        positives: Q integer arrays (m_q,), the database indices of the query's landmark.
        depth: number of answers to evaluate.

    Raises:
        ValueError: there is not one ranking for each query, or no query has positives.
    """
    columns = list(rankings.T) if isinstance(rankings, np.ndarray) else list(rankings)
    if len(columns) != len(positives):
        raise ValueError(f"{len(columns)} rankings for {len(positives)} queries")
    ap = np.full(len(columns), np.nan)
    for query, (ranking, answers) in enumerate(zip(columns, positives, strict=True)):
        wanted = np.unique(np.asarray(answers, dtype=np.int64))
        if len(wanted):
            top = np.asarray(ranking[:depth], dtype=np.int64)
            first = np.zeros(len(top), dtype=bool)
            first[np.unique(top, return_index=True)[1]] = True
            ap[query] = _precision_sum(np.isin(top, wanted) & first) / min(len(wanted), depth)
    judged = ~np.isnan(ap)
    if not judged.any():
        raise ValueError("no query has a positive: there is nothing to measure")
    return LandmarkScores(map=float(ap[judged].mean()), average_precision=ap, counted=int(judged.sum()))


def micro_average_precision(scores: ArrayLike, correct: ArrayLike, positives: int) -> float:
    """Return micro average precision: the predictions of all queries pooled into one list, best score first.

    With rel(i) = 1 if the i-th prediction is right and P(i) the share of right ones among the first i:

        microAP = sum over i of P(i) rel(i) / positives

    Equal scores keep their given order.

    Args:
        scores: float (N,), confidences, comparable across queries.
        correct: bool (N,), whether each prediction is right.
        positives: number of predictions that could be right, at least 1.

    Raises:
        ValueError: the arrays differ in length, a score is NaN, or there are no positives.
    """
    confidence, right = np.asarray(scores, dtype=np.float64), np.asarray(correct, dtype=bool)
    if confidence.ndim != 1 or confidence.shape != right.shape:
        raise ValueError(f"scores of shape {confidence.shape} for predictions of shape {right.shape}")
    if np.isnan(confidence).any():
        raise ValueError("a score is NaN: predictions cannot be put in order")
    if positives < 1:
        raise ValueError("nothing could be predicted right: there is nothing to measure")
    return _precision_sum(right[np.argsort(-confidence, kind="stable")]) / positives


def global_average_precision(predicted: ArrayLike, scores: ArrayLike, labels: Sequence[ArrayLike]) -> float:
    """Return GAP, the score of landmark recognition.

    It is micro average precision with at most one prediction per picture. The sum is divided by the number of pictures
    that show a landmark, whether or not one was predicted. A prediction for a picture that shows none is wrong, and
    costs most when its score is high.

    Args:
        predicted: int (N,), the predicted label of each picture, :data:`NO_LANDMARK` for none.
        scores: float (N,), its confidence; ignored without a prediction. Pictures of equal confidence rank in the given
            order (the challenges order them by picture id).
        labels: N integer arrays, the true labels of each picture; empty if it shows no landmark.

    Raises:
        ValueError: the lengths differ, a confidence is NaN, or no picture shows a landmark.
    """
    claims, confidence = np.asarray(predicted, dtype=np.int64), np.asarray(scores, dtype=np.float64)
    if not claims.shape == confidence.shape == (len(labels),):
        raise ValueError(f"{claims.shape} predictions and {confidence.shape} scores for {len(labels)} pictures")
    truth = [np.asarray(label, dtype=np.int64).reshape(-1) for label in labels]
    correct = np.array([claim in true for claim, true in zip(claims, truth, strict=True)], dtype=bool)
    claimed = claims != NO_LANDMARK
    return micro_average_precision(confidence[claimed], correct[claimed], sum(len(true) > 0 for true in truth))


def _precision_sum(hits: NDArray[np.bool_]) -> float:
    """Return the sum over k of P(k) rel(k), given rel as bool (K,)."""
    places = np.flatnonzero(hits)
    return float((np.arange(1, len(places) + 1) / (places + 1)).sum())
