"""After `import unified` transformers knows its models, whichever of the two is imported first, and torch waits."""

import subprocess
import sys
from pathlib import Path

import pytest

import unified

ROOT = Path(__file__).parent.parent.parent
CHECK = "assert type(AutoConfig.for_model('unified')).__module__ == 'unified.model.config'"
QUICK = "assert 'torch' not in sys.modules"
FIRST_USED = {
    "transformers later": f"import unified, sys\n{QUICK}\nfrom transformers import AutoConfig\n{CHECK}",
    "transformers before": f"from transformers import AutoConfig\nimport unified\n{CHECK}",
    "a module of ours": f"import unified.model.processor\nfrom transformers import AutoConfig\n{CHECK}",
    "a name of ours": f"import unified\nunified.UnifiedModel\nfrom transformers import AutoConfig\n{CHECK}",
}


SLOW = ("a module of ours", "a name of ours")


@pytest.mark.parametrize(
    "order", [pytest.param(order, marks=pytest.mark.slow if order in SLOW else ()) for order in FIRST_USED]
)
def test_the_auto_classes_know_the_models(order: str) -> None:
    done = subprocess.run([sys.executable, "-c", FIRST_USED[order]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_all_that_is_offered_is_there_and_nothing_else() -> None:
    assert all(getattr(unified, name) is not None for name in unified.__all__)
    assert set(unified.__all__) <= set(dir(unified))
    with pytest.raises(AttributeError, match="has no attribute 'laod'"):
        _ = unified.laod  # type: ignore[attr-defined]
