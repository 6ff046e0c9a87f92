"""Routing: which studies are read, by which plan, how soon, and where the results go."""
