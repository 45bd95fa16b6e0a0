#!/bin/sh
# All that only a GPU can tell, in at most nine minutes, without network and without installation (docs/gpu.md).
#   benchmarks/gpu.sh                                     results in benchmarks/results/gpu-DATE.json and .md
#   benchmarks/gpu.sh --only steps memory --out DIR/gpu.json
#   benchmarks/gpu.sh --device cpu --tiny                 every section at sizes that a CPU does in seconds
# PYTHON: the interpreter that has torch (default: python3). `make gpu-bundle` before, where packages are missing.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" -m benchmarks.gpu "$@"
