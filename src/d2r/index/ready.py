"""Compile what filling and searching an index call."""

from __future__ import annotations

from d2r.asmk.pooling import pool_residuals
from d2r.index.scoring import copy_live, count_live, keep_best, postings_of, score_postings, sort_postings
from d2r.verify.geometry import fit_transform, match_codes


def get_ready(bits: int) -> None:
    """Compile everything that indexing and searching call, or load it from the cache; later calls do nothing.

    Otherwise each function is compiled at its first use. Call this while nobody waits: in the background, or before a
    service says that it is ready.

    Args:
        bits: of the code of a visual word.
    """
    # In order of use, so that another thread never waits for something that is needed later.
    filling = (pool_residuals, sort_postings)
    searching = (score_postings(-(-bits // 64)), keep_best, match_codes, fit_transform)
    changing = (postings_of, count_live, copy_live)
    for function in (*filling, *searching, *changing):
        function.compile()
