#!/bin/bash
# Many machines under SLURM: one torchrun a machine, which starts a process a GPU.
#   sbatch recipes/launch/slurm.sh recipes/uni_perceiver_base_moe.yaml --engine.kind deepspeed --train.precision bf16
# The same command goes on from the newest complete checkpoint. Five minutes before its time is up the job's processes
# get SIGTERM: the run stops after the step that it makes, with a checkpoint, for which torchrun gives it 30 seconds.
#SBATCH --job-name=unified
#SBATCH --nodes=7
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --output=slurm-%j.txt
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 # otherwise processes that are started again find addresses of the last start
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# The run folder must lie where all machines see it; rank 0 writes, and all read when the run goes on.
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node gpu \
  --max-restarts 3 --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$first:29500" \
  train.py "$@"
