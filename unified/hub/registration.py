"""Registration of this package's models with transformers, without importing transformers for it.

`import unified` is to be quick, and the Auto classes and pipelines are to know its models afterwards, in whatever order
the two are imported. So imports are watched: when the outermost import of transformers or of this package has ended
and the Auto classes are there, the models are registered.
"""

import sys
import threading
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

AUTO = "transformers.models.auto.configuration_auto"
"""Imported by each of the Auto classes and by pipelines."""
WATCHED = ("transformers", "unified")


class _Watch(MetaPathFinder):
    """Finds no module itself: it counts the imports that are under way, and looks at what is there after the last."""

    def __init__(self) -> None:
        self._open = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in WATCHED:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next((spec for finder in others if (spec := finder.find_spec(fullname, path, target))), None)
        if spec is not None and spec.loader is not None:
            self._count(spec.loader)
        return spec

    def _count(self, loader: object) -> None:
        """Have the import that a loader makes counted."""
        run = loader.exec_module  # type: ignore[attr-defined]

        def exec_module(module: ModuleType) -> None:
            self._open.count = getattr(self._open, "count", 0) + 1
            try:
                run(module)
            finally:
                self._open.count -= 1
            if self._open.count == 0 and AUTO in sys.modules and self in sys.meta_path:
                sys.meta_path.remove(self)
                register()

        loader.exec_module = exec_module  # type: ignore[attr-defined]


def install() -> None:
    """Register the models now where the Auto classes are imported already, otherwise as soon as they are."""
    if AUTO in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _Watch())


def register() -> None:
    """Make the Auto classes and pipelines of transformers know this package's models."""
    from unified.hub.load import register as make_known  # not above: it imports torch, which takes seconds

    make_known()
