"""Everything that only a GPU can tell: sections that `benchmarks/gpu.sh` runs, each in a process of its own."""
