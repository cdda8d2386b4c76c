"""More machines than one, on Ray: describe pictures on all of them, and search an index in parts.

Nothing here is imported by the rest; it needs the ``cluster`` extra.
"""
