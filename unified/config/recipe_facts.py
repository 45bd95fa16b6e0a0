"""What follows from a recipe alone: its families, label sets, and tasks whose queries are names."""

from unified.config.recipe import Recipe
from unified.config.task import Match, Task


def families(recipe: Recipe) -> list[str]:
    """The families of a recipe's tasks, in their order."""
    return list(dict.fromkeys(task.family or name for name, task in recipe.tasks.items()))


def label_sets(recipe: Recipe) -> dict[str, str]:
    """What names the label set of each task that picks from one."""
    answers = {name: task.answer.candidates for name, task in recipe.tasks.items() if isinstance(task.answer, Match)}
    return {name: reference for name, reference in answers.items() if reference not in ("batch", "vocabulary")}


def query_names(recipe: Recipe) -> dict[str, str]:
    """What names the queries, or the classes of objects, of each task that has them."""
    answers = {name: task.answer for name, task in recipe.tasks.items()}
    return {name: a.names for name, a in answers.items() if not isinstance(a, Match) and a.names is not None}


def made_of_names(task: Task) -> bool:
    """Whether a task's queries are made from names by the text encoder."""
    return not isinstance(task.answer, Match) and task.answer.from_names
