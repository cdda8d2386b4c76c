"""The Revisited Oxford and Paris protocol (Radenovic et al., CVPR 2018), and search among labelled pictures.

It gives the same results as the evaluation code of the protocol's authors. For each query, junk pictures are removed
from the ranking, so that the pictures behind them move up. With r_j the 0-based rank of the j-th positive (j = 0, 1,
...) and P positives in the ground truth, average precision is the area under precision over recall by trapezoids of
width 1 / P:

    AP = (1 / P) sum_j (p0_j + p1_j) / 2,    p0_j = j / r_j  (1 where r_j = 0),    p1_j = (j + 1) / (r_j + 1)

Rankings hold database indices, best first: an integer array (images, queries) with one ranking per column, or a list of
1-D integer arrays, which may differ in length. A ranking may be partial (only the best K): a missing positive counts as
not found. It adds nothing to the sum but counts in P, and for precision at k it ranks behind all returned pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Indices: TypeAlias = NDArray[np.int64]
RankedIndices: TypeAlias = NDArray[np.integer]
Rankings: TypeAlias = RankedIndices | Sequence[RankedIndices]
Protocol: TypeAlias = Literal["easy", "medium", "hard"]

PROTOCOLS: Final[tuple[Protocol, ...]] = ("easy", "medium", "hard")


@dataclass(frozen=True, eq=False)
class Relevance:
    """The ground truth of one query.

    Attributes:
        positives: int64 (P,), database indices of the pictures to find.
        junk: int64 (J,), database indices of pictures that neither help nor hurt: they are removed from the ranking.
    """

    positives: Indices
    junk: Indices


def relevance(easy: ArrayLike, hard: ArrayLike, junk: ArrayLike, protocol: Protocol) -> Relevance:
    """Return the positives and the junk of one query under one of the three protocols.

    ========  ============  ============
    protocol  positives     junk
    ========  ============  ============
    easy      easy          junk, hard
    medium    easy, hard    junk
    hard      hard          junk, easy
    ========  ============  ============

    Args:
        easy: database indices of the pictures labelled easy; ``hard`` and ``junk`` likewise.
        hard: see ``easy``.
        junk: see ``easy``.
        protocol: "easy", "medium" or "hard".

    Raises:
        ValueError: the protocol is none of the three.
    """
    e, h, j = (np.asarray(part, dtype=np.int64).reshape(-1) for part in (easy, hard, junk))
    match protocol:
        case "easy":
            return Relevance(e, np.concatenate([j, h]))
        case "medium":
            return Relevance(np.concatenate([e, h]), j)
        case "hard":
            return Relevance(h, np.concatenate([j, e]))
        case _:
            raise ValueError(f"protocol {protocol!r}: it must be one of {', '.join(PROTOCOLS)}")


def same_label(query_labels: ArrayLike, labels: ArrayLike) -> list[Relevance]:
    """Judge queries from outside the database by labels: the positives have the query's label.

    Nothing is junk.

    Args:
        query_labels: (Q,), a label for each query; any comparable type, such as int or str.
        labels: (N,), a label for each database picture. Distractors take a label that no query has.

    Returns:
        Q relevances.
    """
    of_image = np.asarray(labels)
    nothing = np.empty(0, np.int64)
    return [Relevance(np.flatnonzero(of_image == label), nothing) for label in np.asarray(query_labels)]


def leave_one_out(labels: ArrayLike, queries: ArrayLike | None = None) -> list[Relevance]:
    """Judge database pictures that are queried in turn: the positives are the others with the same label.

    The query itself is junk.

    Args:
        labels: (N,), a label for each database picture. Distractors take a label that no query has.
        queries: (Q,), database indices of the queries; all N pictures when None.

    Returns:
        Q relevances. A query with a unique label has no positives.
    """
    of_image = np.asarray(labels)
    chosen = np.arange(len(of_image)) if queries is None else np.asarray(queries, dtype=np.int64)
    judged = same_label(of_image[chosen], of_image)
    return [
        Relevance(one.positives[one.positives != query], np.array([query], dtype=np.int64))
        for query, one in zip(chosen, judged, strict=True)
    ]
