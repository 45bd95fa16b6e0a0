"""Record what a checkout computes, and compare two records bit for bit: for changes that are to change no result.

    python tests/same_results.py BEFORE                 in the checkout before the change
    python tests/same_results.py AFTER --before BEFORE  in the checkout after it

Both run the commands that users run, on the shards of `make quickstart` and of recipes/sharing_cpu.yaml, whose headers
say how they are built. BEFORE keeps its runs and exports: AFTER resumes and loads copies of them.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

ROOT = Path(__file__).parent.parent
STEPS, MORE = 20, 24
RUNS = ("quickstart", "quickstart_moe", "sharing_cpu")
TIMES = ("second", "wait", "time", "mfu", "memory", "traffic", "eta", "imbalance", "slowest")
RECORD = "record.json"


def main() -> int:
    """Record, and compare where there is something to compare with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--before", type=Path)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True)
    found = _runs(asked.out, asked.before) | _answers(asked.out, asked.before) | _converted(asked.out)
    (asked.out / RECORD).write_text(json.dumps(found, indent=1, sort_keys=True))
    if asked.before is None:
        return 0
    right = json.loads((asked.before / RECORD).read_text())
    different = [key for key in right if found.get(key) != right[key]]
    for key in right:
        print(f"{'DIFFERENT' if key in different else 'equal':10} {key}")
    return int(bool(different))


def _runs(out: Path, before: Path | None) -> dict[str, Any]:
    """Losses and checkpoints of short runs, of runs that go on, and of two processes under ZeRO 2."""
    found = {}
    for name in RUNS:
        flags = ["--data.workers", "0", "--train.log-every", "1", "--train.save-every", str(STEPS)]
        command = [ROOT / "train.py", ROOT / "recipes" / f"{name}.yaml", *flags]
        _run(*command, "--max-steps", STEPS, "--out", out / name)
        found[f"{name}: losses"] = _losses(out / name)
        found[f"{name}: weights"] = _tensors(out / name / "checkpoints" / f"step_{STEPS:08d}")
        again = out / f"{name}_resumed"
        shutil.copytree((before or out) / name, again)
        _run(*command, "--max-steps", MORE, "--out", again)
        found[f"{name}: losses of the run that goes on"] = _losses(again)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, ROOT / "train.py"]
    recipe = [ROOT / "recipes" / "quickstart_moe.yaml", "--engine.kind", "deepspeed", "--engine.zero", 2]
    _run(*torchrun, *recipe, *flags, "--max-steps", 4, "--out", out / "zero2")
    found["ZeRO 2: losses"] = _losses(out / "zero2")
    return found


def _answers(out: Path, before: Path | None) -> dict[str, Any]:
    """Evaluation, predictions, exports and folds of these runs."""
    unified = ["-m", "unified"]
    _run(*unified, "eval", out / "quickstart", "digits", "--shots", 0, 5, "--seeds", 2, "--out", out / "results.json")
    results = json.loads((out / "results.json").read_text())["results"]
    images = _images(out / "images")
    _run(*unified, "predict", out / "sharing_cpu", *images, "--out", out / "predicted")
    _run(*unified, "export", out / "quickstart", out / "exported")
    _run(*unified, "fold", out / "quickstart_moe", out / "folded")
    return {
        "evaluation": [{key: row[key] for key in ("dataset", "label", "metrics", "ci", "n")} for row in results],
        "predictions": _digest(*sorted((out / "predicted").rglob("*.json")), without=str(out)),
        "export": _tensors(out / "exported"),
        "fold": _tensors(out / "folded"),
        "features of the export": _features((before or out) / "exported"),
        "features of the fold": _features((before or out) / "folded"),
    }


def _converted(out: Path) -> dict[str, Any]:
    """An official checkpoint there and back."""
    sys.path.insert(0, str(ROOT))
    from tests import official_files as files

    state = files.fill(files.keys(64, 1, words=files.MERGED_WORDS), 1.0, "words")
    torch.save({"model": state}, out / "official.pth")
    convert = ["-m", "unified", "convert", "uni-perceiver"]
    _run(*convert, out / "official.pth", out / "converted", "--heads", 4, "--tokenizer", files.merges_file(out))
    _run(*convert, out / "converted", out / "back.pth", "--reverse")
    back = torch.load(out / "back.pth", weights_only=True)["model"]
    same = all(torch.equal(value, back[key]) for key, value in state.items())
    return {"official checkpoint there": _tensors(out / "converted"), "official checkpoint and back": same}


def _run(*command: object) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu"}
    environment |= {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": "/tmp/same_results_cache"}
    words = [str(word) for word in command]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    print("done:", " ".join(words[:6]), flush=True)


def _losses(run: Path) -> list[Any]:
    """All that a run told of its steps, without what the clock decides."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in record.items() if not any(word in key.lower() for word in TIMES)}
        for record in records
        if "lr" in record
    ]


def _tensors(folder: Path) -> list[str]:
    """Hashes of all tensors, whatever their names are."""
    files = sorted(folder.glob("*.safetensors"))
    tensors = [tensor for file in files for tensor in safetensors.torch.load_file(file).values()]
    assert tensors, folder
    return sorted(
        sha256(t.contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()[:16] for t in tensors
    )


def _features(folder: Path) -> str:
    """A hash of what the model makes of two texts and an image, in a process of its own."""
    code = (
        "import sys, hashlib, numpy, unified\n"
        "model, processor = unified.load(sys.argv[1])\n"
        "image = numpy.arange(28 * 28 * 3, dtype=numpy.uint8).reshape(28, 28, 3)\n"
        "parts = [model.embed(**processor(text=['a red square', 'two'])), model.embed(**processor(images=image))]\n"
        "print(hashlib.sha256(b''.join(p.detach().numpy().tobytes() for p in parts)).hexdigest())\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, str(folder)], env=environment, capture_output=True, text=True)
    return done.stdout.strip() or sys.exit(done.stderr[-3000:])


def _images(folder: Path) -> list[Path]:
    """Two pictures of the shards that sharing_cpu is trained on."""
    folder.mkdir()
    shard = sorted((ROOT / "data" / "dense" / "camvid" / "test").glob("*.tar"))[0]
    with tarfile.open(shard) as tar:
        names = [
            member for member in tar if Path(member.name).suffix in (".jpg", ".png") and member.name.count(".") == 1
        ]
        for member in names[:2]:
            (folder / Path(member.name).name).write_bytes(tar.extractfile(member).read())  # type: ignore[union-attr]
    return sorted(folder.iterdir())


def _digest(*files: Path, without: str) -> list[str]:
    """Hashes of text files, whose paths are those of each record."""
    assert files
    return [sha256(file.read_text().replace(without, "").encode()).hexdigest()[:16] for file in files]


if __name__ == "__main__":
    sys.exit(main())
