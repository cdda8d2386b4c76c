"""Networks by name: those that are shipped, added or known, and how to fetch them."""
