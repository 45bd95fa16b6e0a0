#!/bin/sh
# All GPUs of this machine.
#   recipes/launch/one_node.sh recipes/uni_perceiver_base_moe.yaml --engine.kind deepspeed --train.precision bf16
# DeepSpeed's own launcher does the same: deepspeed train.py RECIPE --engine.kind deepspeed
set -eu
cd "$(dirname "$0")/../.."
exec torchrun --standalone --nproc-per-node gpu train.py "$@"
