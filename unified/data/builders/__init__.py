"""Builders of shards: one file a source; each writes a folder that is complete or absent."""
