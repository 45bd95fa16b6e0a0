"""Evaluation specs: dataclasses read from recipes/eval/NAME.yaml or a path, or recognised in a data folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from unified.core.consent import check_commands
from unified.core.errors import RecipeError, nearest, quoted
from unified.core.folders import subfolders
from unified.core.paths import find
from unified.core.schema import build, read_yaml
from unified.core.text_files import read_text
from unified.core.version import check_format
from unified.data.shards.patterns import MANIFEST, read_manifest, several
from unified.evaluate.sources import COUNT, class_names, holds_class_folders
from unified.modalities import MODALITIES

FORMAT = 1
IMAGE = "png;jpg;jpeg;webp"
TRAIN_SHARE = 0.5
MOST_BEAMS, MOST_PIXELS = 1000, 10_000
TEST, TRAIN = ("test", "testing", "validation", "val", "valid", "dev"), ("train", "training")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What all kinds have in common."""

    data: str | Sequence[str]
    """A folder of shards, a pattern, several of them, or a folder of class folders."""
    inputs: dict[str, str] = field(default_factory=lambda: {IMAGE: MODALITIES.spatial})
    """Sample column -> modality."""
    limit: int | None = None
    """Evaluate a fixed choice of so many items; null: all."""
    cluster: str | None = None
    """Column whose equal values belong together (frames of a video, glyphs of a character): wider, honest intervals."""
    family: str | None = None
    """The task family as the model was trained on it: its temperature, where words are scored (needed where the model
    has several), and what routers look at that choose by task. null: the model's first."""
    unseen: bool = False
    """Class names and data set are both absent from pretraining. Only then is a row called zero-shot."""

    def __post_init__(self) -> None:
        if not self.data:
            raise RecipeError("data: nothing given; name a folder of shards or a pattern")
        if not self.inputs:
            raise RecipeError("inputs: nothing given; map a column to a modality, such as {png: image}")
        if self.limit is not None and self.limit < 1:
            raise RecipeError(f"limit: {self.limit}; expected a number of items from 1")

    @property
    def several(self) -> str | tuple[str, ...]:
        """`data` in hashable form."""
        return self.data if isinstance(self.data, str) else tuple(self.data)


@dataclass(frozen=True, kw_only=True)
class Classification(Evaluation):
    """Which class is it: by names alone, with k shots, and by probes on all of the training part."""

    target: str = "cls"
    """Column with the class, as a number or a name."""
    labels: str | Sequence[str] | None = None
    """A label set (`labels/NAME`, a path), or the names; null: those that come with the data."""
    zero_shot: Sequence[Literal["bare", "templates"]] = ("bare",)
    """Bare names as in Uni-Perceiver, or the mean over templates as in CLIP."""
    train: str | Sequence[str] | None = None
    """Labelled data for probes, apart from `data`."""
    train_share: float | None = None
    """Without `train`: this share of each class of `data`, at least one item, is labelled for probes, which are tested
    on the rest."""
    probes: Sequence[Literal["least_squares", "logistic", "knn"]] = ("least_squares",)
    """least_squares with each number of shots; logistic and knn on all of `train`."""
    baselines: Sequence[Literal["pixels", "untrained"]] = ()
    """The same probes on raw pixels, and on the model with fresh weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train is not None and self.train_share is not None:
            raise RecipeError("train and train_share exclude each other")
        if self.train_share is not None and not 0 < self.train_share < 1:
            raise RecipeError(f"train_share: {self.train_share}; expected a share between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Retrieval(Evaluation):
    """Find the text of an image, and the image of a text."""

    target: str = "txt"
    """Column with the text."""
    lines: bool = False
    """Each line of the target is a text of its own (five captions of an image)."""
    group: str | None = None
    """Column whose equal values are right answers to each other; null: equal texts are."""
    groups: Sequence[str] = ()
    """Folders whose manifests list further names of one group (pixel-equal characters)."""
    candidates: Sequence[str] = ()
    """Label sets to find an image's text among; empty: the texts of the data."""
    ks: Sequence[int] = (1, 5, 10)
    """R@k."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ks or min(self.ks) < 1:
            raise RecipeError(f"ks: {list(self.ks)}; expected numbers from 1")
        if self.lines and self.group:
            raise RecipeError("lines and group exclude each other: the lines of a target belong to its own image")


@dataclass(frozen=True, kw_only=True)
class Words(Evaluation):
    """What is scored token by token."""

    target: str = "txt"
    """Column with the text."""
    vocabulary: Literal["embedding", "encoder"] = "embedding"
    train: str | Sequence[str] | None = None
    """Training data: unigrams and n-grams of their texts are the baselines. null: no baseline, and the row says so."""

    @property
    def training(self) -> str | tuple[str, ...] | None:
        """`train` in hashable form."""
        return self.train if isinstance(self.train, str | None) else tuple(self.train)


@dataclass(frozen=True, kw_only=True)
class Masked(Words):
    """Guess hidden words of a text: perplexity and accuracy."""

    inputs: dict[str, str] = field(default_factory=lambda: {"txt": MODALITIES.language})
    mask_fraction: float = 0.15

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.mask_fraction <= 1:
            raise RecipeError(f"mask_fraction: expected a share above 0 and up to 1, got {self.mask_fraction:g}")


@dataclass(frozen=True, kw_only=True)
class Caption(Words):
    """Write the text of an image: perplexity with the right words before (teacher forcing), and exact matches."""

    group: str | None = None
    """Column whose equal values mark texts that are right for each other's image."""
    groups: Sequence[str] = ()
    """Folders whose manifests list further names of one group."""
    beams: Sequence[int] = (1,)
    """Widths of the search; 1 is greedy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(not 1 <= width <= MOST_BEAMS for width in self.beams):
            raise RecipeError(f"beams: {list(self.beams)}; expected numbers from 1 to {MOST_BEAMS}")


@dataclass(frozen=True, kw_only=True)
class Dense(Evaluation):
    """How well the queries of one of the model's tasks answer; what they read decides the metric."""

    task: str
    """One of the model's tasks with queries (config.json: queries.tasks)."""
    target: str | None = None
    """Column of the answer; null: the usual one of what is read (classes.png, depth.png, normals.png, edges.png)."""
    names: str | Sequence[str] | None = None
    """Other names than those that were trained, for queries that are made from names: a label set, or the names."""
    floor: str | Sequence[str] | None = None
    """Training data, for what answers would reach that nothing was learned for: the mean of all, the mean or the most
    frequent one at each place, and that of the nearest training picture. Pixels have the input itself as well,
    identities a small copy of the picture alone; these need no training data."""
    aspect: bool = False
    """Keep the aspect of pictures, which are squashed to the task's size otherwise, as in training."""
    flip: bool = False
    """Average with the answer about the mirrored picture."""
    window: tuple[int, int] | None = None
    """Height and width in pixels: pictures are shown in parts of this size, two thirds of one apart, and averaged."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window is not None and not all(1 <= side <= MOST_PIXELS for side in self.window):
            raise RecipeError(f"window: expected a height and a width from 1 to {MOST_PIXELS}, got {list(self.window)}")


@dataclass(frozen=True, kw_only=True)
class Robustness(Evaluation):
    """Classification by names of images that are changed more and more: accuracy at each strength of each change.

    Changes act on decoded images, before the tokenizer resizes them. Their strengths are exact, not drawn.
    """

    target: str = "cls"
    labels: str | Sequence[str] | None = None
    """As of `classification`, as is `target`."""
    prompt: Literal["bare", "templates"] = "bare"
    size_column: str | None = None
    """Column with the size in which each image was drawn, a number (json.em_px): one row for each of its values."""
    reference: float | None = None
    """The value of `size_column` whose images are changed in all other ways; null: those of all values."""
    size: Sequence[float] = (0.5, 0.75, 1.25, 1.5)
    """Factors by which images are enlarged about their centre."""
    shift: Sequence[float] = (0.05, 0.1, 0.15, 0.2)
    """Fractions of the side by which images are moved: the mean of right, left, down and up."""
    rotation: Sequence[float] = (10, 20, 30, 45)
    """Degrees by which images are turned: the mean of both ways."""
    contrast: Sequence[float] = (0.1, 0.25, 0.5, 1.5)
    """Factors of the distance of values to middle grey."""
    noise: Sequence[float] = (0.05, 0.1, 0.2, 0.4)
    """Standard deviations of added Gaussian noise, as fractions of white; the noise of a sample is always the same."""
    fill: Literal["border", "black", "white"] = "border"
    """What comes in from outside: the pixels at the border, or one value."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if list(self.inputs.values()) != [MODALITIES.spatial]:
            raise RecipeError(f"inputs: expected one image, got {self.inputs}. Hint: {{png: image}}")
        if self.reference is not None and self.size_column is None:
            raise RecipeError(f"reference: expected `size_column` beside it, got {self.reference} alone")
        limits = {"size": (0.01, 100), "shift": (0, 1), "rotation": (0, 180), "contrast": (0, 100), "noise": (0, 10)}
        for name, (low, high) in limits.items():
            if wrong := [value for value in getattr(self, name) if not low <= value <= high]:
                raise RecipeError(f"{name}: expected numbers from {low} to {high}, got {wrong[0]}")


KINDS: dict[str, type[Evaluation]] = {
    kind.__name__.lower(): kind for kind in (Classification, Retrieval, Masked, Caption, Dense, Robustness)
}
"""Of evaluations, as `kind` in a spec names them."""


@dataclass(frozen=True)
class Spec:
    """Named evaluations."""

    name: str
    evaluations: dict[str, Evaluation]


def load_spec(reference: str | Path | Spec) -> Spec:
    """The spec that a reference names: a name in recipes/eval, a YAML path, or a data folder."""
    if isinstance(reference, Spec):
        return reference
    inside = Path(f"{reference}.yaml")
    try:
        # A name means the spec even where a folder of that name lies about; `./name` is the folder.
        path = find("recipes/eval", inside.name, ".yaml") if len(inside.parts) == 1 else Path(reference)
    except FileNotFoundError:
        path = Path(reference)
    if path.is_dir():
        return recognise(path)
    if path.suffix not in {".yaml", ".yml"} or not path.is_file():
        raise RecipeError(_unknown(reference))
    return _parse(read_yaml(path, "recipes/eval"), path)


def _unknown(reference: str | Path) -> str:
    known = [path.stem for path in find("recipes", "eval").glob("*.yaml")]
    return f"{reference}: neither a name in recipes/eval, a YAML file nor a data folder{nearest(str(reference), known)}"


def _parse(content: Mapping[str, Any], path: Path) -> Spec:
    for name in content:
        if name not in ("format", "evaluations"):
            raise RecipeError(
                f"{path}: {quoted(name)} is not a key of a spec{nearest(str(name), ['format', 'evaluations'])}"
            )
    check_format(content.get("format", FORMAT), FORMAT, str(path), RecipeError)
    given = content.get("evaluations")
    if not isinstance(given, Mapping) or not given:
        raise RecipeError(f"{path}: `evaluations` must name at least one evaluation")
    evaluations = {str(name): _evaluation(value, f"{path}: {name}") for name, value in given.items()}
    for name, evaluation in evaluations.items():
        train = getattr(evaluation, "train", None) or ()
        check_commands([*several(evaluation.data), *(several(train) if train else ())], f"{path}: {name}")
    return Spec(path.stem, evaluations)


def _evaluation(value: Any, where: str) -> Evaluation:
    if not isinstance(value, Mapping) or "kind" not in value:
        raise RecipeError(f"{where}: `kind` must be given; there are: {', '.join(KINDS)}")
    kind = KINDS.get(value["kind"]) if isinstance(value["kind"], str) else None
    if kind is None:
        raise RecipeError(
            f"{where}.kind: {quoted(value['kind'])} is no kind of evaluation{nearest(str(value['kind']), list(KINDS))}"
        )
    return build(kind, {name: item for name, item in value.items() if name != "kind"}, where)


def recognise(folder: Path) -> Spec:
    """The evaluation that fits a data folder: shards with a manifest, a CLIP_benchmark folder, or class folders.

    With a test and a train part, probes are fitted on the train part.
    """
    test, train = _part(folder, TEST), _part(folder, TRAIN)
    data = test or (folder if _holds_data(folder) else train)
    if data is None:
        raise RecipeError(
            f"{folder}: no data recognised; expected {MANIFEST}, {COUNT}, class folders with pictures, or a folder "
            f"`test` with one of these. unified shards build makes shards"
        )
    probes = str(train) if train is not None and test is not None else None
    return Spec(folder.name, {folder.name or "data": _recognised(data, probes)})


def _recognised(data: Path, train: str | None) -> Evaluation:
    kind_file = next((p / "dataset_type.txt" for p in (data, data.parent) if (p / "dataset_type.txt").is_file()), None)
    kind = read_text(kind_file).strip() if kind_file else None
    if kind == "multilabel":
        raise RecipeError(f"{kind_file}: multi-label data are not supported; classification and retrieval are")
    columns = read_manifest(data).get("columns", {}) if (data / MANIFEST).is_file() else None
    if kind == "retrieval":
        return Retrieval(data=str(data), lines=True)
    if columns is not None and "json" in columns and not {"cls", "txt"} & set(columns):
        raise RecipeError(
            f"{data}: annotated pictures, which many tasks may be asked about; write a spec that names one: "
            f"`evaluations: {{a: {{kind: dense, task: NAME, data: {data}}}}}`"
        )
    names = class_names(str(data))
    if names is None and columns is not None and "txt" in columns:
        images = set(columns) & set(IMAGE.split(";"))
        return Retrieval(data=str(data)) if images else Masked(data=str(data), train=train)
    probes: tuple[Any, ...] = ("least_squares", "logistic", "knn")
    templates: tuple[Any, ...] = ("bare", "templates") if isinstance(names, str) else ("bare",)
    share = None if train else TRAIN_SHARE
    return Classification(data=str(data), train=train, train_share=share, probes=probes, zero_shot=templates)


def _part(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of the parts that there is with data in it; case does not matter."""
    there = subfolders(folder)
    parts = (path for name in names for path in there if path.name.lower() == name)
    return next((path for path in parts if _holds_data(path)), None)


def _holds_data(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() or (folder / COUNT).is_file() or holds_class_folders(folder)
