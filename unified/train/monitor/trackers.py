"""Trackers of a run beside metrics.jsonl: what accelerate knows, such as tensorboard, trackio and wandb."""

import importlib.util
from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator
from accelerate.utils import LoggerType

from unified.config.recipe import Recipe
from unified.core.errors import RecipeError, nearest
from unified.core.locations import without_secrets
from unified.core.log import logger
from unified.train.monitor.recipe_diff import plain

EXTRAS = ("tensorboard", "trackio", "wandb")
"""Extras of this package that install a tracker."""
KNOWN = tuple(kind.value for kind in LoggerType if kind.value != "all")


def check_trackers(recipe: Recipe) -> None:
    """Refuse a tracker that is not there: accelerate would leave it out without a word."""
    for name in recipe.train.trackers:
        if name not in KNOWN:
            raise RecipeError(f"train.trackers: {name!r} is no tracker{nearest(name, list(KNOWN))}")
        if importlib.util.find_spec(name) is None:
            hint = f"pip install '.[{name}]' in the checkout of unified" if name in EXTRAS else f"pip install {name}"
            raise RecipeError(f"train.trackers: {name} is not installed; {hint}, or leave it out")


class Trackers:
    """Those of one run, which get its recipe and its records; where one fails the run goes on without any."""

    def __init__(self, accelerator: Accelerator, recipe: Recipe, run: str) -> None:
        self._accelerator, self._live = accelerator, bool(recipe.train.trackers)
        if self._live:
            try:
                accelerator.init_trackers(run, config=dict(_flat(without_secrets(plain(recipe)))))
            except Exception as error:
                named = ", ".join(recipe.train.trackers)
                raise RecipeError(
                    f"train.trackers: {named} could not begin ({type(error).__name__}: {error}); mend or leave it out"
                ) from error

    def log(self, record: Mapping[str, Any]) -> None:
        """The numbers of a record of metrics.jsonl."""
        if not self._live:
            return
        numbers = {n: value for n, value in record.items() if isinstance(value, int | float) and n != "step"}
        try:
            self._accelerator.log(numbers, step=record["step"])
        except Exception as error:  # noqa: BLE001 - whatever a service raises is no reason to lose a run
            self._live = False
            logger.warning(
                "step %d: a tracker failed (%s: %s); the run goes on without trackers, metrics.jsonl has all records",
                record["step"],
                type(error).__name__,
                error,
            )

    def finish(self) -> None:
        """End them; accelerate's own `end_training` would also end groups, without what DeepSpeed knows of them."""
        for tracker in self._accelerator.trackers:
            tracker.finish()


def _flat(value: Any, where: str = "") -> list[tuple[str, Any]]:
    """The keys of a recipe joined by dots; lists as text, as trackers take numbers and words only."""
    if isinstance(value, Mapping):
        return [pair for name, item in value.items() for pair in _flat(item, f"{where}.{name}" if where else name)]
    return [(where, value if isinstance(value, bool | int | float | str) else str(value))]
