"""A step that is not finite changes nothing on any engine, and the steps after it are what they are without it."""

from pathlib import Path

import pytest
from tiny import write_recipe

from tests.train.launched import launch

PLAIN = [
    *[f"{engine}/dense/skipped" for engine in ("ddp", "zero0", "zero1", "zero2", "zero3")],
    *["zero1_offload/dense/skipped", "zero2_offload/dense/skipped", "zero3_offload/dense/skipped"],
]
OTHERS = [
    *["ddp+chunks/token/skipped", "zero2+chunks/dense/skipped", "zero3+chunks/dense/skipped"],
    *["zero2/token/skipped", "zero3/attribute/skipped", "ddp+ep2/token/skipped", "zero2+ep2/token/skipped"],
    *["ddp+bf16/dense/skipped", "zero3+bf16/dense/skipped"],
]


@pytest.mark.faults
@pytest.mark.distributed
@pytest.mark.parametrize("cases", [PLAIN, OTHERS], ids=["plain", "others"])
def test_a_skipped_step_leaves_no_trace_on_any_engine(tmp_path: Path, cases: list[str]) -> None:
    write_recipe(tmp_path)
    for stage in range(4):
        whole = "  stage3_param_persistence_threshold: 40\n" if stage == 3 else ""
        settings = f"zero_optimization:\n  stage: {stage}\n{whole}"
        (tmp_path / f"zero{stage}.yaml").write_text(settings)
        (tmp_path / f"zero{stage}_offload.yaml").write_text(f"{settings}  offload_optimizer: {{device: cpu}}\n")
    assert launch(tmp_path, 2, cases) == {case: {"loss": [], "steep": []} for case in cases}
