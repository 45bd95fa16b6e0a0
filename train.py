"""The pretraining entry that python, torchrun, accelerate launch and deepspeed start: `python train.py RECIPE`."""

import os

# Loader processes share the cores with the threads of a step. Threads that spin while they wait, the default, then
# slow each other down many times over. Read when torch is imported, so it stands before the import below.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from unified.cli import train

if __name__ == "__main__":
    train()
