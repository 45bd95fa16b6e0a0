#!/bin/sh
# Two processes on CPUs: what the tests run, and a rehearsal of a run on GPUs.
#   recipes/launch/cpu_2.sh recipes/quickstart.yaml --engine.kind deepspeed --engine.zero 3
set -eu
cd "$(dirname "$0")/../.."
export CUDA_VISIBLE_DEVICES="" DS_ACCELERATOR=cpu
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # more processes than cores wait for each other
exec torchrun --standalone --nproc-per-node 2 train.py "$@"
