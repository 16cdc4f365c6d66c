"""A JSON API over an index, and the search page that uses it."""
