"""What follows from a recipe alone: its families, label sets, and tasks whose queries are names."""

from unified.config.recipe import Recipe


def families(recipe: Recipe) -> list[str]:
    """The families of a recipe's tasks, in their order."""
    return list(dict.fromkeys(task.family or name for name, task in recipe.tasks.items()))


def label_sets(recipe: Recipe) -> dict[str, str]:
    """What names the label set of each task that picks from one."""
    named = {name: task.answer.label_set() for name, task in recipe.tasks.items()}
    return {name: reference for name, reference in named.items() if reference is not None}


def query_names(recipe: Recipe) -> dict[str, str]:
    """What names the queries, or the classes of objects, of each task that has them."""
    named = {name: task.answer.query_names() for name, task in recipe.tasks.items()}
    return {name: reference for name, reference in named.items() if reference is not None}
