"""A package that adds to unified from outside."""
