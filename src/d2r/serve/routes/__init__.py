"""The routes: each module returns a router with those of one kind."""
