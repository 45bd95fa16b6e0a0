"""The schema of recipes/*.yaml: frozen dataclasses whose defaults are the only place where a default is written."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Literal

from unified.config import RecipeError
from unified.task import Task


@dataclass(frozen=True)
class ImageSettings:
    """How images are read and embedded."""

    tokenizer: str = "image"
    """A folder in tokenizers/, or a path: size, resize mode, mean and standard deviation."""
    patch: int = 16
    positions: Literal["sincos", "learned"] = "sincos"
    position_scale: float = 1.0
    """Multiplies the grid of fixed positions: 160/224 keeps the positions of a 160-pixel model at 224 pixels."""
    grid: int = 14
    """Side of the table of learned positions; other grids interpolate it."""
    frames: int = 8
    """Rows of the learned table of temporal positions; an image uses the first."""


@dataclass(frozen=True)
class TextSettings:
    """How text is read and embedded."""

    tokenizer: str = "text"
    """A folder in tokenizers/, a path, or a tokenizer of the Hugging Face hub (`org/name`)."""
    max_length: int = 64
    """Tokens of a text, the end token included; longer texts are cut."""
    positions: int = 512
    """Rows of the learned table of positions."""


@dataclass(frozen=True)
class ExpertSettings:
    """Conditional experts: which linears of which layers have them, and what chooses among them (Uni-Perceiver-MoE)."""

    count: int = 8
    """Experts of each conditional linear."""
    top: int = 2
    """Experts that are chosen."""
    router: Literal["attribute", "task", "modality", "context", "token", "hash"] = "attribute"
    """What the choice looks at. The first three and `hash` (a fixed draw by attributes) do not look at the data: the
    weights of the experts are merged before the products, at the cost of a dense layer. `context` and `token` send
    each token to experts of its own."""
    layers: Literal["even", "odd", "all"] | Sequence[int] = "even"
    """Layers with experts: even numbers (0, 2, 4 …), odd ones, all, or a list."""
    linears: Sequence[Literal["qkv", "out", "up", "down"]] = ("qkv", "out", "up", "down")
    """What is conditional: fused queries, keys and values; attention output; both linears of the MLP."""
    shared_decisions: bool = True
    """`out` reuses the choice made for `qkv`, and `down` that for `up`; false: each linear has a router of its own."""
    noise: float = 1.0
    """Gate noise in training of routers that do not look at the data: standard deviation times the experts (V-MoE)."""
    bits: Sequence[str] = ()
    """Attributes after the eight published: `query`, `modality:NAME` or `family:NAME`; their weights start at 0."""
    hidden: int | None = None
    """Feed-forward width of one expert where tokens are sent to experts; null: `model.hidden`. With `model.hidden`
    divided by `top` the layer does the work of a dense one."""
    balance: float = 0.01
    """Weight of the load-balance loss (Switch Transformer) of routers that look at the data."""
    z_loss: float = 0.0
    """Weight of the squared log-sum of the gate's logits (ST-MoE), likewise."""
    bias_rate: float = 0.0
    """Step of the bias that balances the load without a loss (DeepSeek-V3), likewise; 0: no bias."""
    capacity: float | None = None
    """Most tokens of an expert in training, in multiples of an even share, likewise; the tokens with the lowest gates
    are left out. Shares are those of one pass of one process: other numbers of processes leave out other tokens. null:
    every token reaches its experts, as it always does outside of training."""


@dataclass(frozen=True)
class ModelSettings:
    """The shape of the network (reference arithmetic: Uni-Perceiver, CVPR 2022)."""

    width: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    """Width of the feed-forward layer."""
    layer_scale: float | None = 1e-3
    """Initial value of the learned scale of each residual branch; null: no scale."""
    drop_path: float = 0.0
    experts: ExpertSettings | None = None
    """Conditional experts; null: a dense network."""
    image: ImageSettings = field(default_factory=ImageSettings)
    text: TextSettings = field(default_factory=TextSettings)


@dataclass(frozen=True)
class OptimSettings:
    """AdamW with warm-up and cosine decay."""

    lr: float = 1e-3
    final_lr: float = 1e-6
    warmup: int = 100
    """Steps of linear warm-up."""
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-6
    weight_decay: float = 0.05
    """Of matrices; norms, biases, scales, embeddings and temperatures have none."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    layer_decay: float = 1.0
    """Learning-rate factor per layer below the top."""
    ema: float | None = None
    """Decay of the moving average of the weights; null: none is kept."""


@dataclass(frozen=True)
class DataSettings:
    """Reading and order of the data."""

    workers: int = 1
    """Loader processes; 0 loads in the training process."""
    prefetch: int = 4
    """Steps that each worker prepares ahead."""
    window: int | None = None
    """Samples among which order is shuffled, after the shuffle of shards; null: all of them."""
    max_bad_fraction: float = 0.001
    """Share of unreadable samples (replaced and counted) above which training stops."""
    allow_change: bool = False
    """Go on with a run although its shards have changed since it began."""
    cache_mb: int = 0
    """Memory of each loader process for decoded samples; worth it where all small pictures of a data set fit in."""
    shard_cache: str | None = None
    """Folder of a local disk for shards that are named by URL, shared by all processes of a machine; null:
    `$XDG_CACHE_HOME/unified/shards`, or `~/.cache/unified/shards`."""
    shard_cache_gb: float = 50.0
    """Most bytes there, in 10⁹; the shards that were used least recently go first."""
    prefetch_shards: int = 4
    """Remote shards that each process fetches before their first step is reached; 0: only when they are needed."""
    retries: int = 6
    """Attempts in a row without a new byte after which a remote shard is given up; waits between them double."""
    timeout: float = 30.0
    """Seconds without a connection or a byte after which an attempt at a remote shard is ended."""


@dataclass(frozen=True)
class MixingSettings:
    """How the weights of tasks become their shares of the slots."""

    temperature: float | None = None
    """Shares follow `sample_weight` times the samples of a task's data to the power of 1 / temperature: 1 is by size,
    higher ones are more even (Arivazhagan et al. 2019); null: by `sample_weight` alone."""
    alpha: float | None = None
    """Shares are drawn anew for every block, from a Dirichlet distribution around the weights: with n tasks of equal
    weight each has this parameter, so that lower ones vary more; null: they stay as they are."""
    block: int = 100
    """Steps of such a block."""


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
    expert_parallel: int = 1
    """Processes that share the experts which tokens are sent to; 1: every process has them all."""
    chunks: int = 1
    """Passes that the slots of a step are run in, one after the other, where activations of all do not fit, at most as
    many as there are slots. The result is the same, but that experts are balanced over a pass at a time."""


@dataclass(frozen=True)
class TrainSettings:
    """The loop."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """What products are computed in, over weights in fp32 (autocast); fp16, with a scale of the loss that adapts, is
    for GPUs without bf16."""
    checkpoint_activations: bool = False
    """Recompute activations in the backward pass, which saves memory and costs about a third more time."""
    log_every: int = 20
    eval_every: int | None = None
    save_every: int = 500
    keep_last: int = 2
    keep_every: int | None = None
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
    rate is half as large for 100 steps. A gate that is not finite always ends it: the weights are at fault then."""
    max_skipped: int = 10
    """Steps in a row that `skip` skips; where one more is not finite the run ends."""
    skip_steps: Sequence[str] = ()
    """Steps that are passed over, numbered as in metrics.jsonl: `1200`, or `1200-1210` with both ends. Their data are
    not read, and all other steps are what they are without it."""
    hang_seconds: float | None = 1800.0
    """Longest time of waiting for data, a forward or backward pass, an evaluation or a save, after which every process
    says where it is and ends; null: none. An evaluation of half an hour is rare, and a cluster that waits is dear."""

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
    """A run, an exported folder or a hub name (`org/name`). Experts begin as copies of what a dense model has there."""
    noise: float = 0.0
    """What tells such copies apart: standard deviation of Gaussian noise, in those of the copied matrix."""

    def __post_init__(self) -> None:
        if not 0 <= self.noise < math.inf:
            raise RecipeError(f"noise: expected at least 0, found {self.noise}")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run."""

    tasks: dict[str, Task]
    max_steps: int
    slots: int
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

    def __post_init__(self) -> None:
        if not self.tasks:
            raise RecipeError("tasks: a recipe needs at least one task; see recipes/quickstart.yaml")
        for expected, fits, names in RANGES:
            for name in names:
                if self.model.experts is not None or not name.startswith("model.experts."):
                    _check(name, attrgetter(name)(self), expected, fits)
        if self.model.experts is not None:
            _check_experts(self.model.experts, self.model)
        _check_expert_parallel(self.engine.expert_parallel, self.model.experts)
        if self.model.width % self.model.heads:
            raise RecipeError(f"model.heads: {self.model.heads} does not divide model.width {self.model.width}")
        if self.train.keep_every is not None and self.train.keep_every % self.train.save_every:
            raise RecipeError(
                f"train.keep_every: {self.train.keep_every} is not a multiple of train.save_every "
                f"{self.train.save_every}, so that few of these steps would be saved"
            )
        text = self.model.text
        if text.max_length > text.positions:
            raise RecipeError(
                f"model.text.max_length: {text.max_length} tokens do not fit in model.text.positions {text.positions}"
            )
        if self.mixing.alpha is not None and self.slots * self.mixing.block < len(self.tasks):
            raise RecipeError(f"mixing.block: too few steps for a slot of each of {len(self.tasks)} tasks")
        for name, task in self.tasks.items():
            for word in (name, task.family or name):
                if not word or "." in word:
                    raise RecipeError(f"tasks: {word!r} cannot name a task or a family; leave out the dots")


def _check_experts(experts: ExpertSettings, model: ModelSettings) -> None:
    """Refuse what conditional experts cannot be."""
    where = "model.experts"
    if experts.top > experts.count:
        raise RecipeError(f"{where}.top: {experts.top} of {experts.count} experts; expected 1 to {experts.count}")
    if experts.top == 1 and experts.count > 1 and experts.router != "hash":
        raise RecipeError(
            f"{where}.top: with one expert chosen its weight is always 1, so that no gradient tells the router what to "
            "choose; expected 2 or more, or the router `hash`, which learns nothing"
        )
    for key, found in (("linears", experts.linears), ("layers", experts.layers), ("bits", experts.bits)):
        if len(set(found)) < len(found) and not isinstance(found, str):
            raise RecipeError(f"{where}.{key}: one is named twice in {list(found)}")
    if not experts.linears or not experts.layers:
        raise RecipeError(f"{where}: no linears or no layers are left; leave `experts` out for a dense model")
    if not isinstance(experts.layers, str):
        beyond = [layer for layer in experts.layers if not 0 <= layer < model.depth]
        if beyond:
            raise RecipeError(f"{where}.layers: {beyond} are none of the layers 0 to {model.depth - 1}")
    by_token = experts.router in ("token", "context")
    if experts.hidden is not None and not (by_token and {"up", "down"} <= set(experts.linears)):
        raise RecipeError(
            f"{where}.hidden: the width of one expert is free only where tokens are sent to experts of both `up` and "
            f"`down`; found the router {experts.router!r} and {', '.join(experts.linears)}"
        )
    if experts.hidden is not None and not experts.shared_decisions:
        raise RecipeError(f"{where}.hidden: needs shared_decisions, as `down` follows the choice made for `up`")
    if experts.bits and experts.router not in ("attribute", "hash"):
        raise RecipeError(f"{where}.bits: only the routers attribute and hash look at bits; found {experts.router!r}")
    for key in ("capacity", "bias_rate", "z_loss"):
        if getattr(experts, key) and not by_token:
            raise RecipeError(f"{where}.{key}: for the routers token and context alone; found {experts.router!r}")


def _check_expert_parallel(size: int, experts: ExpertSettings | None) -> None:
    """Refuse to split experts that are not sent tokens, or not evenly."""
    where = f"engine.expert_parallel: {size}"
    if size > 1 and (experts is None or experts.router not in ("token", "context")):
        found = "a dense model" if experts is None else f"the router {experts.router!r}"
        raise RecipeError(
            f"{where} is for experts that tokens are sent to, by the routers token and context; found {found}. Other "
            "experts are parameters like any, which engine.zero 3 splits"
        )
    if experts is not None and experts.count % size:
        raise RecipeError(f"{where} does not divide model.experts.count {experts.count}")


Fits = Callable[[float], bool]
RANGES: tuple[tuple[str, Fits, tuple[str, ...]], ...] = (
    (
        "at least 1",
        lambda value: value >= 1,
        (
            *("max_steps", "slots", "data.prefetch", "data.window", "mixing.block"),
            *("model.width", "model.depth", "model.heads", "model.hidden"),
            *("model.image.patch", "model.image.grid", "model.image.frames"),
            *("model.text.max_length", "model.text.positions"),
            *("model.experts.count", "model.experts.top", "model.experts.hidden"),
            *("train.log_every", "train.eval_every", "train.save_every", "train.keep_last"),
            "train.keep_every",
            *("engine.expert_parallel", "engine.chunks"),
        ),
    ),
    (
        "at least 0",
        lambda value: 0 <= value < math.inf,
        (
            *("optim.lr", "optim.final_lr", "optim.warmup", "optim.weight_decay", "model.layer_scale"),
            *("data.workers", "data.cache_mb", "data.max_bad_fraction", "data.prefetch_shards", "data.retries"),
            "train.max_skipped",
            *("model.experts.noise", "model.experts.balance", "model.experts.z_loss", "model.experts.bias_rate"),
        ),
    ),
    (
        "above 0",
        lambda value: value > 0,
        (
            *("optim.eps", "optim.clip", "optim.layer_decay", "model.image.position_scale", "model.experts.capacity"),
            *("train.hang_seconds", "data.shard_cache_gb", "data.timeout", "mixing.temperature", "mixing.alpha"),
        ),
    ),
    ("at least 0 and below 1", lambda value: 0 <= value < 1, ("optim.betas", "optim.ema", "model.drop_path")),
)
"""What values must be, by key; null is in every range, as the type says where it may stand."""


def _check(name: str, value: Any, expected: str, fits: Fits) -> None:
    for number in value if isinstance(value, tuple) else (value,):
        if number is not None and not fits(number):
            raise RecipeError(f"{name}: expected {expected}, found {value}")
