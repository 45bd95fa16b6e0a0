"""`python -m benchmarks [NAME…]`: all measurements, or those that are named."""

import sys

from benchmarks import (
    attention,
    checkpoints,
    classifier,
    expert_parallel,
    experts,
    gemm,
    loader,
    loop,
    merged,
    queries,
    remote,
    shard_files,
    step,
)
from benchmarks.measure import table

MEASUREMENTS = {
    "step": step.rows,
    "attention": attention.rows,
    "classifier": classifier.rows,
    "loader": loader.rows,
    "loop": loop.rows,
    "remote": remote.rows,
    "shards": shard_files.rows,
    "gemm": gemm.rows,
    "experts": experts.rows,
    "merged": merged.rows,
    "queries": queries.rows,
    "expert_parallel": expert_parallel.rows,
    "checkpoints": checkpoints.rows,
}


def main() -> None:
    """Run the measurements one after the other and print one table."""
    names = sys.argv[1:] or list(MEASUREMENTS)
    rows = []
    for name in names:
        if name not in MEASUREMENTS:
            sys.exit(f"{name!r} is not a measurement; there are: {', '.join(MEASUREMENTS)}")
        print(f"measuring {name} …", flush=True)
        rows += MEASUREMENTS[name]()
    print(table(rows))


if __name__ == "__main__":
    main()
