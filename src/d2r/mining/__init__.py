"""What an index says of its own pictures: groups, duplicates and pairs."""
