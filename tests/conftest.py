"""Shapes and types in the signatures of tensor code are checked in tests (and cost nothing elsewhere)."""

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from jaxtyping import install_import_hook

CHECKED = [
    "nn",
    "answers",
    "modalities.image",
    "modalities.text",
    "layout",
    "conditions",
    "model",
    "matching",
    "generation",
    "dist",
    "types",
]
install_import_hook([f"unified.{name}" for name in CHECKED], "beartype.beartype")
