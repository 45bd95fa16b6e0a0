"""What `benchmarks/gpu.sh` measures, most valuable first. Standard library alone, as the runner works without torch."""

from dataclasses import dataclass

ENGINE = ("torch", "numpy", "scipy", "transformers", "tokenizers", "accelerate", "PIL", "yaml", "jaxtyping")
"""Modules that a training step imports."""
RUN = (*ENGINE, "sklearn", "pycocotools")
"""Those that a whole run imports, for its evaluations."""


@dataclass(frozen=True)
class Section:
    """A file of this folder, and what it can be asked for."""

    name: str
    """Of the file, whose `measure(part, setting)` gives the numbers of a part."""
    about: str
    parts: tuple[str, ...]
    seconds: float
    """Limit of all parts together."""
    needs: tuple[str, ...] = ENGINE


KINDS = ("dense", "attribute", "token")
SECTIONS = (
    Section(
        "equality",
        "one step on the CPU and on the device: loss and gradients",
        tuple(f"{kind} {precision}" for precision in ("fp32", "bf16") for kind in (*KINDS, "queries")),
        90,
        (*ENGINE, "pycocotools"),
    ),
    Section("steps", "a training step of base size in bf16", (*KINDS, "clip"), 130),
    Section("compiled", "the step with torch.compile, and without", ("blocks", "encoder"), 100),
    Section("zero", "ZeRO-2 through DeepSpeed, one process", ("zero2",), 50, (*ENGINE, "deepspeed")),
    Section("feeding", "loader and copies at the speed of the step", ("loader", "copies", "run"), 70, RUN),
    Section("memory", "the largest batch that the estimate promises", KINDS, 60),
    Section("quickstart", "recipes/quickstart.yaml for 200 steps", ("run",), 60, RUN),
)  # fmt: skip
NAMES = tuple(section.name for section in SECTIONS)
