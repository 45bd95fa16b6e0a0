"""Figures that explain a model, each with the numbers behind it as JSON."""
