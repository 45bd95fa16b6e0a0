"""What `launched.launch` starts with torchrun: steps on one engine after another, in one process group.

`engine_cases.py FOLDER CASE...`, a case being `engine/model/what`; writes FOLDER/results<processes>.json.
"""

import faulthandler
import json
import math
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from accelerate.state import AcceleratorState
from safetensors.torch import save_file
from tiny import tensors_of, with_experts
from torch import Tensor

from unified.checkpoint import Writer
from unified.config.recipe import EngineSettings, Recipe
from unified.core import distributed
from unified.core.errors import NonFiniteError
from unified.core.schema import build as build_recipe
from unified.core.schema import read_yaml
from unified.core.types import IGNORE, Batch
from unified.modalities.text.length_buckets import by_length
from unified.pipeline.loader import StepLoader
from unified.pipeline.schedule import Slot
from unified.train.build import build
from unified.train.engines.accelerator import import_deepspeed, make_accelerator
from unified.train.engines.expert_parallel import ExpertShare
from unified.train.engines.zero import Sharded
from unified.train.step import StepModel
from unified.train.trainer import Trainer

VARY = ("retrieve colour caption hidden next", "next hidden", "retrieve", "colour caption", "next", "hidden colour")
"""The tasks of each step: some steps have no image, so that its embedding gets no gradient."""
SECONDS = 560


def steps_of(recipe: Recipe) -> tuple[str, ...]:
    """The tasks of each step: as above, or for other tasks all, pairs of them, and the last one alone."""
    names = list(recipe.tasks)
    if set(VARY[0].split()) == set(names):
        return VARY
    return " ".join(names), *(" ".join(pair) for pair in pairwise(names)), names[-1]


"""After so long each process says where it hangs, and ends."""


def recipe_of(folder: Path, engine: str, model: str) -> Recipe:
    recipe = build_recipe(Recipe, read_yaml(folder / "tiny.yaml"), "tiny.yaml")
    # With residual branches at 0.001 of their size all pictures look alike, and no loss depends on them.
    if model != "flat":
        recipe = replace(recipe, model=replace(recipe.model, layer_scale=None))
    if model == "attribute":
        recipe = with_experts(recipe)
    elif model in ("token", "context"):
        recipe = with_experts(recipe, model, balance=1.0, z_loss=0.1, bias_rate=0.01)
    name, *options = engine.split("+")
    precision = next((option for option in options if option in ("bf16", "fp16")), "fp32")
    train = replace(recipe.train, precision=precision, checkpoint_activations="recomputed" in options)
    settings = EngineSettings(
        kind="deepspeed" if name.startswith("zero") else name,  # type: ignore[arg-type]
        deepspeed=str(folder / f"{name}.yaml") if name.startswith("zero") else None,
        chunks=3 if "chunks" in options else 1,
        expert_parallel=next((int(option[2:]) for option in options if option.startswith("ep")), 1),
    )
    return replace(recipe, train=train, engine=settings)


def start(recipe: Recipe, folder: Path) -> tuple[Trainer, StepLoader]:
    AcceleratorState._reset_state(reset_partial_state=True)
    # fp16 is refused without a GPU for its speed alone; what it computes can be seen.
    accelerator = make_accelerator(replace(recipe, train=replace(recipe.train, precision="fp32")), folder)
    parts = build(recipe)
    loader = StepLoader(recipe, parts.tokenizers, parts.labels)
    return Trainer(recipe, accelerator, parts, loader.probe()), loader


def slots_of(loader: StepLoader, tasks: str) -> list[tuple[Slot, Batch]]:
    return [pair for pair in loader.probe() if pair[0].task in tasks.split()]


def curve(recipe: Recipe, folder: Path) -> Any:
    """Losses and norms of each step, the load of the experts, and a file of all tensors at the end."""
    trainer, loader = start(recipe, folder)
    if trainer.scale is not None:
        trainer.scale.value = 2.0**10  # the first scale overflows, which is a case of its own
    steps = [trainer.train_step(slots_of(loader, tasks)) for tasks in steps_of(recipe)]
    tensors = tensors_of(trainer)
    with trainer.engine.evaluated(trainer.ema) as model:
        right = model is None or all(model.state_dict()[n].equal(t) for n, t in tensors["ema"].items())
    trainer.engine.close()
    file = folder / f"{distributed.world_size()}_{uuid4().hex}.safetensors"
    if distributed.rank() == 0:
        save_file(
            {f"{group}/{name}": t.contiguous() for group, named in tensors.items() for name, t in named.items()}, file
        )
    return {
        "losses": [step.losses for step in steps],
        "norms": [step.norm for step in steps],
        "evaluated": right,
        "engine": type(trainer.engine.module).__name__,
        "kept": len(trainer.model.get_parameter("encoder.blocks.0.mlp.up.weight")),
        "experts": trainer.experts.record(),
        "tensors": str(file),
    }


def idle(recipe: Recipe, folder: Path) -> Any:
    """Names of the tensors that a step of one task changes, by group, after a step of all: of the one that reads text
    alone where there is one, or of the last."""
    trainer, loader = start(recipe, folder)
    trainer.train_step(loader.probe())
    before = tensors_of(trainer)
    trainer.train_step(slots_of(loader, "next" if "next" in recipe.tasks else list(recipe.tasks)[-1]))
    after = tensors_of(trainer)
    trainer.engine.close()
    return {
        group: sorted(name for name in named if not torch.equal(named[name], after[group][name]))
        for group, named in before.items()
    }


def kept_gradients(recipe: Recipe, folder: Path) -> Any:
    """The curve where what DeepSpeed keeps of earlier steps is not cleared."""
    clear, Sharded._forget_gradients = Sharded._forget_gradients, lambda _self: None
    try:
        return curve(recipe, folder)
    finally:
        Sharded._forget_gradients = clear


def not_finite(recipe: Recipe, folder: Path) -> Any:
    """What changes, and what is said, where the loss is finite and its gradient is not."""
    return after_backward(recipe, folder, lambda backward, _: lambda loss: backward(loss * float("inf")))


def skipped(recipe: Recipe, folder: Path) -> Any:
    """What a step that is skipped changes, and whether later steps are those of a run that passed it over.

    One rank alone is at fault; one fault is in the loss, and one in its gradient.
    """

    def spoilt(run: Callable[..., Any], change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
        def scored(*arguments: Any, **options: Any) -> Any:
            found = run(*arguments, **options)
            return (
                replace(found, loss=change(found.loss)) if distributed.rank() == distributed.world_size() - 1 else found
            )

        return scored

    def steep(loss: Tensor) -> Tensor:
        loss.register_hook(lambda gradient: gradient * math.inf)
        return loss

    recipe = replace(recipe, train=replace(recipe.train, non_finite="skip"))
    score = StepModel._finish
    found: dict[str, Any] = {}
    curves = {}
    faults: dict[str, Callable[[Tensor], Tensor] | None] = {
        "none": None,
        "loss": lambda x: x * math.nan,
        "steep": steep,
    }
    for fault, change in faults.items():
        trainer, loader = start(recipe, folder)
        trainer.train_step(slots_of(loader, VARY[0]))
        if change is None:
            trainer.pass_over()
            trainer.skipped.add(2)
        else:
            before = tensors_of(trainer)
            StepModel._finish = spoilt(score, change)
            trainer.train_step(slots_of(loader, VARY[1]))
            StepModel._finish = score
            found[fault] = differing(before, tensors_of(trainer))
        losses = [trainer.train_step(slots_of(loader, tasks)).losses for tasks in VARY[2:]]
        curves[fault] = (losses, tensors_of(trainer), trainer.skipped.steps)
        trainer.engine.close()
    for fault in found:
        found[fault] += differing(curves["none"][1], curves[fault][1])
        found[fault] += [] if curves["none"][::2] == curves[fault][::2] else ["losses"]
    return found


def differing(one: dict[str, dict[str, Tensor]], two: dict[str, dict[str, Tensor]]) -> list[str]:
    """Names of the tensors that are not bit-equal."""
    return [
        f"{group}/{name}" for group, named in one.items() for name in named if not named[name].equal(two[group][name])
    ]


def bad_expert(recipe: Recipe, folder: Path) -> Any:
    """The same where one number is wrong, in the gradient of an expert of the last process."""

    def spoilt(backward: Callable[[Tensor], None], trainer: Trainer) -> Callable[[Tensor], None]:
        def run(loss: Tensor) -> None:
            backward(loss)
            if distributed.rank() == distributed.world_size() - 1:
                gradient = trainer.model.get_parameter("encoder.blocks.0.mlp.down.weight").grad
                assert gradient is not None
                gradient[-1, 0, 0] = float("nan")

        return run

    return after_backward(recipe, folder, spoilt)


def after_backward(recipe: Recipe, folder: Path, change: Callable[[Any, Trainer], Any]) -> Any:
    """What a step with another backward pass changes, and what is said."""
    trainer, loader = start(recipe, folder)
    trainer.train_step(loader.probe())
    before = tensors_of(trainer)
    trainer.engine.backward = change(trainer.engine.backward, trainer)  # type: ignore[method-assign]
    message = ""
    try:
        trainer.train_step(loader.probe())
    except NonFiniteError as error:
        message = str(error)
    after = tensors_of(trainer)
    trainer.engine.close()
    return {
        "message": message,
        "changed": [n for g, named in before.items() for n in named if not torch.equal(named[n], after[g][n])],
    }


def overflow(recipe: Recipe, folder: Path) -> Any:
    """What three steps change, by group: one with a scale that fp16 has no numbers for, and two that go on after it.

    `shares`: the norm of all parts over that of the whole gradient, in the steps that change something.
    """
    trainer, loader = start(recipe, folder)
    assert trainer.scale is not None
    trainer.scale.value = 2.0**10  # so that there are moments
    trainer.train_step(loader.probe())
    found: dict[str, Any] = {"changed": [], "norms": [], "scales": [], "shares": []}
    for scale in (2.0**40, 2.0**10, 1.0):
        trainer.scale.value = scale
        before = tensors_of(trainer)
        done = trainer.train_step(loader.probe(), norms_by_part=True)
        found["norms"].append(done.norm)
        if done.norms:
            found["shares"].append(math.hypot(*done.norms.values()) / done.norm)
        after = tensors_of(trainer)
        found["scales"].append(trainer.scale.value)
        groups = [g for g, named in before.items() if any(not torch.equal(t, after[g][n]) for n, t in named.items())]
        found["changed"].append(sorted(set(groups) - {"ema"}))
    trainer.engine.close()
    return found


def not_averaged(recipe: Recipe, folder: Path) -> Any:
    """The curve where the gradients of experts stay as the backward pass leaves them."""
    return with_average(recipe, folder, lambda _share, _gradients: None)


def own_average(recipe: Recipe, folder: Path) -> Any:
    """The curve where processes with the same experts do not add up their gradients."""
    return with_average(recipe, folder, lambda _share, found: [each.div_(distributed.world_size()) for each in found])


def with_average(recipe: Recipe, folder: Path, average: Callable[[ExpertShare, list[Tensor]], Any]) -> Any:
    before, ExpertShare.average = ExpertShare.average, average  # type: ignore[method-assign, assignment]
    try:
        return curve(recipe, folder)
    finally:
        ExpertShare.average = before  # type: ignore[method-assign]


def uneven(recipe: Recipe, folder: Path) -> Any:
    """A step where texts of rank 1 alone differ in length, so that it would encode them in two buckets."""
    recipe = replace(recipe, tasks={"next": replace(recipe.tasks["next"], batch=64 * distributed.world_size())})
    trainer, loader = start(recipe, folder)
    slots = loader.probe()
    text = slots[0][1].inputs["text"]
    short = slice(None, None, 1 + distributed.rank())
    text.mask[short, 3:] = False
    slots[0][1].target[short, 3:] = IGNORE
    slots = [(slot, replace(batch, asked=None)) for slot, batch in slots]  # other words are asked for now
    buckets = distributed.gather_objects(len(by_length(text) or [text]))
    result = trainer.train_step(slots)
    trainer.engine.close()
    return {"buckets": buckets, "finite": math.isfinite(result.norm)}


def resumed(recipe: Recipe, folder: Path) -> Any:
    """Losses of a whole run, and of runs that go on from its checkpoint and from all others that are there.

    `differ` names the tensors that a run which went on from its own checkpoint ends with other values of.
    """
    own = f"{distributed.world_size()}{Path(recipe.engine.deepspeed or 'none').stem}"
    vary = steps_of(recipe)
    half = len(vary) // 2
    trainer, loader = start(recipe, folder)
    losses = []
    for tasks in vary:
        losses.append(trainer.train_step(slots_of(loader, tasks)).losses)
        if trainer.step == half:
            trainer.save(Writer(folder / "resume" / own, keep_last=1), {})
    last = tensors_of(trainer)
    trainer.engine.close()
    found: dict[str, Any] = {"whole": losses, "from": {}}
    for source in sorted((folder / "resume").iterdir()):
        trainer, loader = start(recipe, folder)
        trainer.load(next(source.glob("step_*")))
        found["from"][source.name] = [trainer.train_step(slots_of(loader, tasks)).losses for tasks in vary[half:]]
        if source.name == own:
            after = tensors_of(trainer)
            found["differ"] = [n for g, named in last.items() for n in named if not torch.equal(named[n], after[g][n])]
        trainer.engine.close()
    return found


WHAT: dict[str, Callable[[Recipe, Path], Any]] = {
    "curve": curve,
    "idle": idle,
    "kept_gradients": kept_gradients,
    "not_finite": not_finite,
    "skipped": skipped,
    "bad_expert": bad_expert,
    "not_averaged": not_averaged,
    "own_average": own_average,
    "resumed": resumed,
    "overflow": overflow,
    "uneven": uneven,
}


def main() -> None:
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    torch.set_num_threads(1)
    import_deepspeed(cuda=False)  # before the group of any case, as each run does
    folder, *cases = sys.argv[1:]
    results: dict[str, Any] = {}
    for case in cases:
        engine, model, what = case.split("/")
        try:
            results[case] = WHAT[what](recipe_of(Path(folder), engine, model), Path(folder))
        except Exception:  # noqa: BLE001 - it goes into the report; the other rank would only tell of the network
            results[case] = {"error": traceback.format_exc()}
            print(f"{case}:\n{results[case]['error']}", file=sys.stderr, flush=True)
            break
    if distributed.rank() == 0:
        (Path(folder) / f"results{distributed.world_size()}.json").write_text(json.dumps(results))
    faulthandler.cancel_dump_traceback_later()
    distributed.leave()
    distributed.let_go()
    names = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]
    # A thread of gloo that outlives the interpreter aborts its process now and then.
    assert "pt_gloo_runloop" not in names, "groups are still held by something"


if __name__ == "__main__":
    main()
