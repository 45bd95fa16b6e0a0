"""Training checkpoints: engine-neutral folders of tensors by name that are complete or absent.

    step_00001234/
        weights.safetensors      one file a group of tensors, or several: of many ranks, or because it is large
        state.json               counters and settings
        manifest.json            every file with its size and hash; written last, and the folder is renamed after that

One run writes at a time, in a folder of its own (the lock of the run folder sees to it); any number of processes may
read. The folder may be one of an object store, see `unified/checkpoint/place.py`.
"""

from unified.checkpoint.manifest import NewerFormatError
from unified.checkpoint.place import Location
from unified.checkpoint.ranks import Writer
from unified.checkpoint.read import Checkpoint, Opened, listed, load, newest, opened, state, verify
from unified.checkpoint.stored import Lazy, Stored
from unified.checkpoint.write import prune, save
from unified.core.errors import CheckpointError

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Lazy",
    "Location",
    "NewerFormatError",
    "Opened",
    "Stored",
    "Writer",
    "listed",
    "load",
    "newest",
    "opened",
    "prune",
    "save",
    "state",
    "verify",
]
