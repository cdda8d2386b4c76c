"""What has to be compiled before an index can be filled and searched."""

from __future__ import annotations

from d2r.asmk.pooling import pool_residuals
from d2r.index.scoring import copy_live, count_live, keep_best, postings_of, score_postings, sort_postings
from d2r.verify.geometry import fit_map, match_codes


def get_ready(bits: int) -> None:
    """Compile all that indexing and searching call, or load what was compiled before; the next call does nothing.

    Any of it happens by itself at its first use. This is for doing it while nobody waits: beside something else, or
    before a service says that it is ready.

    Args:
        bits: of the code of a visual word.
    """
    # In the order of their use: what another thread waits for is not behind what is used later.
    filling = (pool_residuals, sort_postings)
    searching = (score_postings(-(-bits // 64)), keep_best, match_codes, fit_map)
    changing = (postings_of, count_live, copy_live)
    for function in (*filling, *searching, *changing):
        function.compile()
