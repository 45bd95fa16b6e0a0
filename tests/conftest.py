"""Shapes and types in the signatures of tensor code are checked in tests (and cost nothing elsewhere)."""

import os

import pytest

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
    "modalities.sequence",
    "model.network",
    "model.routing_attributes",
    "core.distributed",
    "core.types",
]
install_import_hook([f"unified.{name}" for name in CHECKED], "beartype.beartype")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with files that start processes: they take minutes, and one that comes last is waited for alone."""
    long = {item.path for item in items if item.get_closest_marker("distributed")}
    items.sort(key=lambda item: item.path not in long)
