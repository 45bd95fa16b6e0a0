"""The pretraining entry that python, torchrun, accelerate launch and deepspeed start: `python train.py RECIPE`."""

from unified.cli.train import train

if __name__ == "__main__":
    train()
