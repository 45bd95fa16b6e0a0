"""All kinds of annotated pictures built from whole data sets, where these lie beside the repository."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from dense_sources import build, samples

from unified.data.samples import annotations
from unified.data.shards.verify import verify

DATA = Path(__file__).parents[4] / "shared" / "data"
CAMVID = "sky,building,pole,road,pavement,tree,sign,fence,car,pedestrian,bicyclist"
EMOJI = "file=path,skin_tone=attribute,gender=attribute,hair=attribute,concept=identity"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there")]


def built(kind: str, name: str, out: Path, **options: Any) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The manifest of a data set without a held-out part, and its decoded samples."""
    manifest = build(kind, DATA / name, out, **options)[""]
    assert verify(out).problems == []
    return manifest, samples(out)


def test_coco_mini(tmp_path: Path) -> None:
    manifest, found = built("coco", "coco_mini", tmp_path / "out")
    facts = [one["json"] for one in found.values()]
    assert len(facts) == 80
    assert sum(len(fact["captions"]) for fact in facts) == 400
    assert sum(len(fact["objects"]) for fact in facts) == 739  # those with keypoints are among them
    assert sum("points" in item for fact in facts for item in fact["objects"]) == 172
    assert sum(bool(item.get("points")) for fact in facts for item in fact["objects"]) == 86
    assert all(item["area"] > 0 for fact in facts for item in fact["objects"])
    assert all("mask" in item for fact in facts for item in fact["objects"])
    assert (len(manifest["classes"]), len(manifest["points"]), len(manifest["flip"])) == (80, 17, 8)


def test_coco128(tmp_path: Path) -> None:
    manifest, found = built("yolo", "coco128", tmp_path / "out")
    assert (len(found), len(manifest["classes"])) == (100, 133)
    things = set(manifest["classes"]) - set(manifest["stuff"])
    assert len(things) == 80
    items = [item for one in found.values() for item in one["json"]["objects"]]
    assert (len(items), sum("mask" in item for item in items)) == (751, 746)  # 736 of 741 boxes have a polygon
    assert {item["label"] for item in items} <= things
    classes = {name: number for number, name in enumerate(manifest["classes"])}
    agree: list[float] = []
    for one in found.values():  # the class map and the panoptic segments were drawn alike
        labels, parts = annotations.class_map(one, len(classes)), annotations.segments(one, classes)
        for label, mask in zip(parts.labels, annotations.decode_masks(one, parts.masks), strict=True):
            agree.append((labels[mask] == label).float().mean().item())
    assert sum(agree) / len(agree) > 0.99


def test_bccd(tmp_path: Path) -> None:
    manifest, found = built("voc", "bccd", tmp_path / "out", skip_bad=True)
    assert (len(found), manifest["classes"]) == (292, ["Platelets", "RBC", "WBC"])
    assert sorted(line.partition(":")[0] for line in manifest["skipped"]) == ["box without area"] * 2
    counts = Counter(item["label"] for one in found.values() for item in one["json"]["objects"])
    assert sum(counts.values()) > 3850


def test_camvid(tmp_path: Path) -> None:
    _, found = built("masks", "camvid", tmp_path / "out", classes=CAMVID, ignore=11)
    maps = torch.stack([annotations.class_map(one, 11) for one in found.values()])
    assert tuple(maps.shape) == (31, 360, 480)
    assert maps.unique().tolist() == list(range(-1, 11))
    assert (maps[:, :40] == 0).float().mean() > (maps[:, -40:] == 0).float().mean()  # the sky is above


def test_rgbd(tmp_path: Path) -> None:
    _, found = built("depth", "rgbd_7scenes", tmp_path / "out")
    assert len(found) == 60
    for one in list(found.values())[:10]:
        depth, valid = annotations.depth_map(one)
        assert 0.3 < depth[valid].median() < 5
        normals, there = annotations.normal_map(one)
        assert 0.3 < there.float().mean() < 1
        torch.testing.assert_close(normals[:, there].norm(dim=0), torch.ones(int(there.sum())))
        assert (there & ~valid).sum() == 0


def test_open_field(tmp_path: Path) -> None:
    manifest, found = built("keypoints", "dlc_openfield", tmp_path / "out")
    assert manifest["points"] == ["snout", "leftear", "rightear", "tailbase"]
    assert manifest["flip"] == [["leftear", "rightear"]]
    joints = torch.stack([annotations.joints(one, manifest["points"]) for one in found.values()])
    assert tuple(joints.shape) == (25, 4, 3)


def test_emoji(tmp_path: Path) -> None:
    manifest, found = built("attributes", "emoji_noto", tmp_path / "out", columns=EMOJI)
    assert (len(found), len({annotations.identity(one) for one in found.values()})) == (3235, 1509)
    names = manifest["attributes"]
    assert len([name for name in names if name.startswith("skin_tone")]) == 5
    answers = torch.stack([annotations.presence(one, names) for one in found.values()])
    assert int((answers[:, names.index("gender: female")] == 1).sum()) == 463


def test_boundaries(tmp_path: Path) -> None:
    _, found = built("boundaries", "bsds500", tmp_path / "out")
    assert len(found) == 90
    for one in found.values():
        edges = annotations.edge_map(one)
        assert 0.001 < edges.mean() < 0.2
        assert 3 < one["json"]["annotators"] < 10
