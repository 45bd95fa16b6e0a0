"""The schema of recipes/*.yaml: frozen dataclasses whose defaults are the only place where a default is written."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Interval

from unified.config.model import ModelSettings, check_expert_parallel, check_experts, check_queries
from unified.config.task import Task
from unified.core.bounds import (
    AtLeastOne,
    Count,
    Fraction,
    NotNegative,
    Parts,
    Positive,
    Several,
    Steps,
    Whole,
)
from unified.core.consent import commands_of
from unified.core.errors import RecipeError
from unified.core.schema import check_bounds
from unified.modalities import MODALITIES


@dataclass(frozen=True)
class OptimSettings:
    """AdamW with warm-up and cosine decay."""

    lr: NotNegative = 1e-3
    final_lr: NotNegative = 1e-6
    warmup: Annotated[int, Interval(ge=0, le=10**12)] = 100
    """Steps of linear warm-up."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    eps: Positive = 1e-6
    weight_decay: NotNegative = 0.05
    """Of matrices; norms, biases, scales, embeddings and temperatures have none."""
    clip: Positive = 1.0
    """Largest norm of the gradient."""
    layer_decay: Positive = 1.0
    """Learning-rate factor per layer below the top."""
    ema: Fraction | None = None
    """Decay of the moving average of the weights; null: none is kept."""


@dataclass(frozen=True)
class DataSettings:
    """Reading and order of the data."""

    workers: Several = 1
    """Loader processes; 0 loads in the training process."""
    prefetch: Count = 4
    """Steps that each worker prepares ahead."""
    window: AtLeastOne | None = None
    """Samples among which order is shuffled, after the shuffle of shards; null: all of them."""
    max_bad_fraction: NotNegative = 0.001
    """Share of unreadable samples (replaced and counted) above which training stops."""
    allow_change: bool = False
    """Go on with a run although its shards have changed since it began."""
    cache_mb: Whole = 0
    """Memory of each loader process for decoded samples; worth it where all small pictures of a data set fit in."""
    shard_cache: str | None = None
    """Folder of a local disk for shards that are named by URL, shared by all processes of a machine; null:
    `$XDG_CACHE_HOME/unified/shards`, or `~/.cache/unified/shards`."""
    shard_cache_gb: Positive = 50.0
    """Most bytes there, in 10⁹; the shards that were used least recently go first."""
    prefetch_shards: Several = 4
    """Remote shards that each process fetches before their first step is reached; 0: only when they are needed."""
    retries: Several = 6
    """Attempts in a row without a new byte after which a remote shard is given up; waits between them double."""
    timeout: Positive = 30.0
    """Seconds without a connection or a byte after which an attempt at a remote shard is ended."""


@dataclass(frozen=True)
class MixingSettings:
    """How the weights of tasks become their shares of the slots."""

    temperature: Positive | None = None
    """Shares follow `sample_weight` times the samples of a task's data to the power of 1 / temperature: 1 is by size,
    higher ones are more even (Arivazhagan et al. 2019); null: by `sample_weight` alone."""


@dataclass(frozen=True)
class EngineSettings:
    """What runs the steps. A run goes on under any other engine."""

    kind: Literal["none", "ddp", "deepspeed"] | None = None
    """One process, DistributedDataParallel, or DeepSpeed with ZeRO; null: `none` in one process, `ddp` in more."""
    zero: Literal[0, 1, 2, 3] | None = None
    """Stage of ZeRO, for DeepSpeed; null: 2, or that of the file that `deepspeed` names."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """What ZeRO keeps in the memory of the host: moments and fp32 weights (`optimizer`), in stage 3 also the weights
    that are computed with (`all`)."""
    deepspeed: str | None = None
    """A YAML file with DeepSpeed's own keys; null: the one in recipes/launch for this stage and offload."""
    expert_parallel: Parts = 1
    """Processes that share the experts which tokens are sent to; 1: every process has them all."""
    chunks: Parts = 1
    """Passes that the slots of a step are run in, one after the other, where activations of all do not fit, at most as
    many as there are slots. The result is the same, but that experts are balanced over a pass at a time."""


@dataclass(frozen=True)
class TrainSettings:
    """The loop."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """What products are computed in, over weights in fp32 (autocast). auto: bf16 where the GPU, or a CPU with AMX or
    AVX512-bf16, multiplies it in hardware, fp16 on older GPUs with tensor cores, else fp32; a run keeps what it began
    with. fp16 has a scale of the loss that adapts, and is for GPUs alone."""
    checkpoint_activations: bool = False
    """Recompute activations in the backward pass, which saves memory and costs about a third more time."""
    compile: bool = False
    """Compile the blocks of the encoder (torch.compile): faster steps for a start of minutes, as every length of a
    sequence that is met first is compiled anew."""
    log_every: AtLeastOne = 20
    eval_every: AtLeastOne | None = None
    save_every: AtLeastOne = 500
    keep_last: Annotated[int, Interval(ge=1, le=10**6)] = 2
    keep_every: AtLeastOne | None = None
    """Besides the last ones, checkpoints of every so many steps (a multiple of `save_every`) are kept for good."""
    checkpoints: str = "checkpoints"
    """Where checkpoints go: a folder in that of the run, a path, or a URL of fsspec, of this run alone
    (`s3://bucket/run`)."""
    async_save: bool = False
    """Write checkpoints while training goes on, from a copy in the memory of the host that is kept for the next one.
    Off, as a run that is killed soon after a step to save would go back to the one before."""
    trackers: Sequence[str] = ()
    """Trackers of accelerate, such as `tensorboard`; metrics.jsonl is always written."""
    non_finite: Literal["stop", "skip"] = "stop"
    """What a step does whose loss or gradient is not finite: end the run, or change nothing, after which the learning
    rate is half as large for 100 steps. A gate that is not finite ends it in the end: the weights are at fault then."""
    max_skipped: Whole = 10
    """Steps in a row that `skip` skips; where one more is not finite the run ends."""
    skip_steps: Sequence[str] = ()
    """Steps that are passed over, numbered as in metrics.jsonl: `1200`, or `1200-1210` with both ends. Their data are
    not read, and all other steps are what they are without it."""
    hang_seconds: Positive | None = 1800.0
    """Longest time of the start, of waiting for data, a forward or backward pass, an evaluation or a save, after which
    every process says where it is and ends; null: none. An evaluation of half an hour is rare, and a cluster that waits
    is dear."""

    def __post_init__(self) -> None:
        self.passed_over()

    def passed_over(self) -> frozenset[int]:
        """The steps that `skip_steps` names, counted from 1."""
        return frozenset(step for text in self.skip_steps for step in _steps(text))


def _steps(text: str) -> range:
    first, dash, last = text.partition("-")
    if first.isdecimal() and (last if dash else first).isdecimal() and 0 < int(first) <= int(last or first):
        return range(int(first), int(last or first) + 1)
    raise RecipeError(f"skip_steps: expected numbers of steps such as 1200 or 1200-1210, found {text!r}")


@dataclass(frozen=True)
class StartSettings:
    """The weights that a new run begins with."""

    model: str
    """A run, an exported folder or a hub name (`org/name`, `org/name@revision`), of which the run keeps the commit.
    Experts begin as copies of what a dense model has there."""
    noise: NotNegative = 0.0
    """What tells such copies apart: standard deviation of Gaussian noise, in those of the copied matrix."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run."""

    tasks: dict[str, Task]
    max_steps: Steps
    slots: Parts
    """Slots (batches of one task each) of one optimizer step."""
    seed: int = 0
    model: ModelSettings = field(default_factory=ModelSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    data: DataSettings = field(default_factory=DataSettings)
    mixing: MixingSettings = field(default_factory=MixingSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    start: StartSettings | None = None
    """Begin with the weights of another model; null: with drawn ones."""
    evaluate: Sequence[str] = ()
    """Evaluation specs (names in recipes/eval, or paths) that run every `train.eval_every` steps."""

    @property
    def locations(self) -> list[str]:
        """The patterns of the data of its tasks: paths, addresses and commands."""
        data = [task.data for task in self.tasks.values()]
        return [name for names in data for name in ([names] if isinstance(names, str) else names)]

    @property
    def commands(self) -> list[str]:
        """The `pipe:` commands among the data of its tasks."""
        return commands_of(self.locations)

    def __post_init__(self) -> None:
        if not self.tasks:
            raise RecipeError("tasks: a recipe needs at least one task; see recipes/quickstart.yaml")
        check_bounds(self)
        if self.model.experts is not None:
            check_experts(self.model.experts, self.model)
        if self.model.queries is not None:
            check_queries(self.model.queries, self.model)
        check_expert_parallel(self.engine.expert_parallel, self.model.experts)
        if self.model.width % self.model.heads:
            raise RecipeError(f"model.heads: {self.model.heads} does not divide model.width {self.model.width}")
        if self.train.keep_every is not None and self.train.keep_every % self.train.save_every:
            raise RecipeError(
                f"train.keep_every: {self.train.keep_every} is not a multiple of train.save_every "
                f"{self.train.save_every}, so that few of these steps would be saved"
            )
        text, where = self.model.language, f"model.modalities.{MODALITIES.language}"
        if text.max_length > text.positions:
            raise RecipeError(
                f"{where}.max_length: {text.max_length} tokens do not fit in {where}.positions {text.positions}"
            )
        for name, task in self.tasks.items():
            for word in (name, task.family or name):
                if not word or "." in word:
                    raise RecipeError(f"tasks: {word!r} cannot name a task or a family; leave out the dots")
