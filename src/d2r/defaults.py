"""Defaults of the library, every command, the service, its client and its page.

Imports nothing else, so that the command line can show these values without loading what uses them.
"""

from __future__ import annotations

from typing import Final

# How pictures are described, alike in an index, in learning its codebook and in an evaluation.
REGIONS: Final = "detector"
FEATURES: Final = "hardnet:model=hardnet-int8+delf"
MAX_SIDE: Final = 1024
"""Pictures and region crops are scaled down to this longer side, in pixels."""
VERIFY_FEATURES: Final = 700
"""Features of each kind per picture kept for spatial verification."""
MAX_PIXELS: Final = 150_000_000
"""Larger pictures are refused: a guard against hostile files, far above any camera."""

# Visual words.
MAX_WORDS: Final = 65536
"""At most this many visual words are learned for a collection, and this many for a collection of unknown size."""
FEATURES_PER_WORD: Final = 16
"""At least this many features to learn a word from: with fewer, a word is little more than one feature."""

# A search.
TOP: Final = 10
"""Results."""
VERIFY: Final = 100
"""Length of the shortlist for spatial verification."""
EXPAND: Final = 5
"""Verified results used in query expansion. More of them find more of a landmark, but drift if it has few pictures."""

# Groups of an index.
GROUP_INLIERS: Final = 15
"""Inliers that a link needs to group two pictures. More than verification requires: among the many pairs of a
collection a few match by chance, and one wrong link would merge two groups."""

# The service.
PORT: Final = 8765
