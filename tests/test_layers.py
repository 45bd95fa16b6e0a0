"""Imports go down the layers only; see docs/architecture.md."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "unified"
WORDS = {
    "core",
    "types",
    "task",
    "recipe",
    "model_settings",
    "bounds",
    "config",
    "log",
    "seed",
    "dist",
    "checkpoint",
    "paths",
    "errors",
    "stopwatch",
    "training_record",
    "transfers",
}
TENSORS = {"nn", "modalities", "answers"}
MEANING = {
    "card",
    "card_head",
    "clients",
    "configuration",
    "model",
    "model_inputs",
    "initial",
    "baselines",
    "queries",
    "query_spec",
    "asking",
    "readings",
    "object_readings",
    "views",
    "post_process",
    "processor",
    "publish",
    "processor_files",
    "processor_options",
    "hub",
    "export",
    "labels",
    "buckets",
    "language_loss",
    "layout",
    "conditions",
    "config_bounds",
    "metrics",
    "matching",
    "task_loss",
    "generation",
    "intervals",
    "small_samples",
    "result_files",
    "folding",
    "upcycling",
    "official",
    "parameters",
    "registration",
    "weight_files",
}
MOVEMENT = ["data", "evaluate", "train", "reports"]  # each may import only what stands to its left
LEVELS = {
    **dict.fromkeys(WORDS, 0),
    **dict.fromkeys(TENSORS, 1),
    **dict.fromkeys(MEANING, 2),
    **dict.fromkeys(MOVEMENT, 3),
}
ONLY_IN = {
    "webdataset": {"data"},
    "accelerate": {"train"},
    "deepspeed": {"train"},
    "tyro": {"cli"},
    "huggingface_hub": {"core", "export", "publish"},
}
FILES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem not in ("__init__", "__main__")
)


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the full name"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def may_import(importer: str, imported_part: str) -> bool:
    if importer == "cli" or importer == imported_part:
        return True
    above, below = LEVELS[importer], LEVELS[imported_part]
    if above == below == 3:
        return MOVEMENT.index(imported_part) < MOVEMENT.index(importer)
    return below < above or (above == below and above in (0, 2))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    importer = part(path)
    assert importer == "cli" or importer in LEVELS, f"{path}: name its layer in tests/test_layers.py"
    for name in imported(path):
        top, *rest = name.split(".")
        if top == "unified" and rest and rest[0] != "__version__":
            assert may_import(importer, rest[0]), f"{path}: imports {name}, which is not below {importer}"
        if top in ONLY_IN:
            assert importer in ONLY_IN[top], f"{path}: imports {top}, which belongs to {sorted(ONLY_IN[top])}"


def test_tensor_code_knows_no_tasks_and_no_collectives() -> None:
    for path in FILES:
        if part(path) == "nn":
            for name in imported(path):
                assert not name.startswith(("torch.distributed", "unified.task", "unified.recipe")), f"{path}: {name}"
