"""Choosing the strength of an edit: which settings may be searched, in what order they are tried, what is chosen."""
