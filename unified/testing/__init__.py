"""Tests that packages run on what they add: subclass them in a file of pytest."""
