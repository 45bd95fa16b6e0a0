"""recipes/launch: each file is read by what it is for."""

import subprocess
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from tiny import tiny_recipe

from unified.cli.flags import with_flags
from unified.config.recipe import Recipe
from unified.core.schema import build, read_yaml
from unified.pipeline.loader import check_split
from unified.train.engines.deepspeed import deepspeed_settings

LAUNCH = Path(__file__).parent.parent / "recipes" / "launch"
SETTINGS = [(0, "none"), *[(n, kind) for n in (1, 2, 3) for kind in ("none", "optimizer")], (3, "all")]


@pytest.mark.parametrize(("stage", "offload"), SETTINGS)
def test_deepspeed_accepts_its_settings(tmp_path: Path, stage: int, offload: str) -> None:
    from deepspeed.runtime.config import DeepSpeedConfig

    recipe = tiny_recipe(tmp_path, engine={"kind": "deepspeed", "zero": stage, "offload": offload})
    settings = deepspeed_settings(recipe)
    found = DeepSpeedConfig(settings).zero_config
    assert found.stage == stage
    assert (found.offload_optimizer is not None) == (offload != "none")
    assert (found.offload_param is not None) == (offload == "all")
    assert settings["gradient_clipping"] == (recipe.optim.clip if found.stage else 0)


@pytest.mark.parametrize("name", ["accelerate_one_node", "accelerate_many_nodes"])
def test_accelerate_reads_its_configurations(name: str) -> None:
    config = load_config_from_file(str(LAUNCH / f"{name}.yaml"))
    assert config.distributed_type == "MULTI_GPU"
    assert config.num_processes == 8 * config.num_machines
    assert not config.deepspeed_config


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_shell_and_may_be_run(path: Path) -> None:
    assert path.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert "torchrun" in path.read_text()


def test_the_kubernetes_job_is_one_and_starts_a_recipe_that_is_there(tmp_path: Path) -> None:
    job = yaml.safe_load((LAUNCH / "kubernetes.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    policy, worker = job["spec"]["elasticPolicy"], job["spec"]["pytorchReplicaSpecs"]["Worker"]
    assert policy["minReplicas"] == policy["maxReplicas"] == worker["replicas"]
    assert policy["maxRestarts"] > 0
    (container,) = worker["template"]["spec"]["containers"]
    assert container["name"] == "pytorch"
    launcher, script, recipe, *flags = container["command"]
    assert (launcher, script) == ("torchrun", "train.py")
    path = LAUNCH.parent.parent / recipe
    flags = flags[2:]  # --out FOLDER is of train.py itself
    found = with_flags(build(Recipe, read_yaml(path), path.name), flags, prog="train.py")
    assert found.engine.kind == "deepspeed"
    gpus = int(job["spec"]["nprocPerNode"])
    assert container["resources"]["limits"]["nvidia.com/gpu"] == gpus
    check_split(found, gpus * worker["replicas"])
    assert {"name": "TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "value": "1"} in container["env"], "restarts are refused"
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in worker["template"]["spec"]["volumes"]}


def test_every_file_is_tested() -> None:
    names = {path.stem for path in LAUNCH.glob("*.yaml")}
    settings = {"zero0", "zero3_offload_all", *(f"zero{n}{kind}" for n in (1, 2, 3) for kind in ("", "_offload"))}
    assert names == {*settings, "accelerate_one_node", "accelerate_many_nodes", "kubernetes"}
