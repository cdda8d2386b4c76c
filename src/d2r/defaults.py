"""What is used where nothing is said: by the library, every command, the service, its client and its page.

It imports nothing, so that the command line can show these values without loading what they are for.
"""

from __future__ import annotations

from typing import Final

# How pictures are described. A codebook is learned from, and an evaluation measures, what an index has.
REGIONS: Final = "detector"
FEATURES: Final = "hardnet+delf"
MAX_SIDE: Final = 1024
"""Pictures and region crops are scaled down to this longer side, in pixels."""
VERIFY_FEATURES: Final = 700
"""Features of each kind per picture that are kept for verification."""
MAX_PIXELS: Final = 150_000_000
"""Larger pictures are refused: a guard against hostile files, far above any camera."""

# Visual words.
MAX_WORDS: Final = 65536
"""Words that are learned for a collection, however large; and for one that is not known yet."""
FEATURES_PER_WORD: Final = 16
"""Features that a word is learned from, at least: of fewer a word is little more than one of them."""

# A search.
TOP: Final = 10
"""Results."""
VERIFY: Final = 100
"""Most similar pictures whose geometry is checked."""
EXPAND: Final = 5
"""Confirmed results that join the query. More find more of a landmark, and drift where it has few pictures."""

# Groups of an index.
GROUP_INLIERS: Final = 15
"""Agreeing points that a link needs to group two pictures. More than verification asks for: of the many pairs that a
whole collection has, a few agree by chance, and one wrong link would make two groups one."""

# The service.
PORT: Final = 8765
