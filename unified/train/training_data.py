"""What a run records of the data that it trains on."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from unified.config.labels import Labels
from unified.config.recipe import Recipe
from unified.core.training_record import TrainedShard, TrainedTask, TrainingRecord, names_hash
from unified.data.shards.contents import Contents
from unified.data.training_shards import describe_shards
from unified.hub.load import pinned, repository, training_record
from unified.pipeline.sources import TaskData
from unified.train.monitor.records import read_recipe


def record_training(
    recipe: Recipe, labels: Mapping[str, Labels], data: Mapping[str, TaskData], contents: Contents
) -> TrainingRecord:
    """Return the record of a recipe's data: all shards of all tasks, as every step may read any of them.

    Args:
        recipe: The recipe that is trained.
        labels: The label set of each task that has one, or the names of its queries.
        data: The opened shards of each task.
        contents: The content of the same shards.
    """
    shards: dict[str, TrainedShard] = {}
    tasks = []
    for name, task in recipe.tasks.items():
        found = describe_shards(data[name].shards.files, contents.shards[name])
        shards |= {shard.sha256: shard for shard in found}
        names = names_hash(labels[name].names) if name in labels else None
        read = tuple(dict.fromkeys(shard.sha256 for shard in found))
        inputs = tuple(task.inputs.items())
        tasks.append(TrainedTask(name, task.family or name, inputs, task.target, task.answer.kind, names, read))
    return TrainingRecord(tuple(shards.values()), tuple(tasks))


def record_before(recipe: Recipe, stored: TrainingRecord | None, resumed: bool, unchanged: bool) -> TrainingRecord:
    """Return the record of what the weights were trained on before this stretch of a run.

    Args:
        recipe: The recipe that is trained.
        stored: The record in the folder of the run.
        resumed: Whether the run goes on from a checkpoint.
        unchanged: Whether the data are those of that checkpoint.
    """
    nothing = TrainingRecord((), ())
    if resumed and stored is not None:
        return stored
    if resumed:
        known = unchanged and recipe.start is None
        return nothing if known else TrainingRecord((), (), ("the steps of this run before it kept a record",))
    if recipe.start is None:
        return nothing
    inherited = training_record(recipe.start.model)
    return inherited or TrainingRecord((), (), ("the model that this run started from has no record",))


def with_pinned_start(recipe: Recipe, out: Path) -> Recipe:
    """Return the recipe with the commit of the model on the hub that it starts from.

    A run that goes on keeps the commit that it began with: branches move.

    Args:
        recipe: The recipe that is trained.
        out: The folder of the run.
    """
    if recipe.start is None or repository(recipe.start.model) is None:
        return recipe
    stored = read_recipe(out / "recipe.yaml")
    began = None if stored is None or stored.start is None else stored.start.model
    if began is None or repository(began) != repository(recipe.start.model):
        began = pinned(recipe.start.model)
    return replace(recipe, start=replace(recipe.start, model=began))
