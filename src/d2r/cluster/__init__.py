"""Several machines, with Ray: describe pictures on all of them, and search an index in shards.

No other package imports this one; it needs the ``cluster`` extra.
"""
