"""Checkpoints of Uni-Perceiver and Uni-Perceiver-MoE (fundamentalvision/Uni-Perceiver), read and written."""
