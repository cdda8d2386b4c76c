"""The routes: a module gives those of one kind, as a router over what they share."""
