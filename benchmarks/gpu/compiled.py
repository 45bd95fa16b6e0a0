"""The bare step of a dense network with torch.compile and without: block by block, and the whole encoder.

On a CPU the graphs are captured and differentiated alone (`aot_eager`), as generating C++ takes minutes.
"""

import time
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException
from torch._dynamo.utils import counters
from torch._inductor.exc import InductorError

from benchmarks.gpu.setting import Setting, seconds_of
from benchmarks.step import draw, ours
from unified.train.precision import PRECISIONS


def measure(part: str, setting: Setting) -> dict[str, Any]:
    """Milliseconds of a step without and with compilation; torch's reason where it does not compile."""
    setting.free()
    model, run = ours(setting.shape, *draw(setting.shape), PRECISIONS[setting.precision], setting.device)
    eager = seconds_of(setting, run, seconds=2.0)
    counters.clear()
    torch.compiler.reset()
    backend = "inductor" if setting.device.type == "cuda" else "aot_eager"
    modules: list[Any] = list(model.encoder.blocks) if part == "blocks" else [model.encoder]
    for module in modules:
        module.compile(backend=backend)
    begin = time.perf_counter()
    try:
        run()
    except (TorchDynamoException, InductorError) as error:
        return {"eager ms": 1e3 * eager, "compiles": False, "reason": f"{type(error).__name__}: {error}"[:2000]}
    setting.wait()
    first = time.perf_counter() - begin
    seconds = seconds_of(setting, run, seconds=2.0)
    return {
        "eager ms": 1e3 * eager,
        "compiled ms": 1e3 * seconds,
        "compiled / eager": seconds / eager,
        "compiles": True,
        "backend": backend,
        "first step s": first,
        "graphs": counters["stats"]["unique_graphs"],
        "graph breaks": sum(counters["graph_break"].values()),
        "breaks": dict(counters["graph_break"].most_common(5)),
    }
