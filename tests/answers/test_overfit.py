"""Queries, decoder, pyramid and interpreter together learn four pictures of each kind of answer by heart."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from unified.answers.boxes import corners, overlap
from unified.answers.map.maps import (
    bin_centres,
    class_loss,
    density,
    density_loss,
    density_maps,
    direction_loss,
    directions,
    edge_loss,
    expected_value,
    heat_points,
    pixel_loss,
    pixels,
    place_loss,
    resized,
    sig_loss,
)
from unified.answers.masks import MaskWeights, class_mask_loss, class_scores
from unified.answers.regress.attributes import presence_loss
from unified.answers.regress.detections import boxes_of, detections, masks_of, panoptic
from unified.answers.regress.set_prediction import (
    ObjectQueries,
    Objects,
    SetWeights,
    identity_loss,
    point_loss,
    set_loss,
    triplet_loss,
)
from unified.core import seed
from unified.core.types import IGNORE
from unified.nn.queries.decoder import QueryDecoder
from unified.nn.queries.modules import Interpreter, Memory, PointEmbedding, Pyramid, grid_points

BATCH, GRID, FINE, ENCODER, WIDTH, CLASSES = 4, 8, 32, 48, 64, 3
STEPS, LR = 200, 5e-3
EVERYWHERE = torch.ones(BATCH, 1, FINE, FINE, dtype=torch.bool)


class Answering(nn.Module):
    """One task's queries before everything that tasks share, on states that an encoder might have made."""

    def __init__(self, queries: int, anchored: bool) -> None:
        super().__init__()
        self.content, self.place = nn.Embedding(queries, WIDTH), nn.Embedding(queries, WIDTH)
        self.anchor = nn.Embedding(queries, 2)
        self.rows = nn.Embedding(CLASSES, WIDTH)
        self.memory, self.point = Memory(ENCODER, WIDTH, 1), PointEmbedding(WIDTH)
        self.decoder = QueryDecoder(2, WIDTH, 4, 128)
        self.pyramid, self.read = Pyramid(ENCODER, WIDTH, 2), Interpreter(WIDTH)
        self.identity = nn.Linear(queries * WIDTH, 2)
        self.anchored = anchored
        for module in self.modules():  # as the model does
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        nn.init.uniform_(self.anchor.weight)

    def forward(self, states: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        place = self.point(self.anchor.weight) if self.anchored else self.place.weight
        content = self.content.weight.expand(BATCH, -1, -1)
        where = self.point(grid_points(GRID, GRID))[None]
        found = self.decoder(content, place[None], self.memory(states), where)
        return found, self.pyramid(states.unflatten(1, (GRID, GRID)))

    def objects(self, found: Tensor, features: Tensor) -> ObjectQueries:
        boxes = self.read.boxes(found, self.anchor.weight)
        return ObjectQueries(self.read.classes(found, self.rows.weight), boxes, self.read.maps(found, features))


def drawn(*shape: int, key: str) -> Tensor:
    return torch.rand(shape, generator=seed.torch_generator(0, key, *shape))


def encoder_states() -> Tensor:
    """Each position knows where it is, and each picture differs."""
    generator = seed.torch_generator(0, "states")
    own = torch.randn(BATCH, GRID * GRID, ENCODER, generator=generator)
    common = torch.randn(BATCH, 1, ENCODER, generator=generator)
    return own + common


def learn(
    queries: int, loss: Callable[[Answering, Tensor, Tensor, int], Tensor], *, anchored: bool = False
) -> Answering:
    """Train on the states after every layer, in the manner of deep supervision."""
    with seed.seeded(0, "answering"):
        made = Answering(queries, anchored)
    states = encoder_states()
    optimizer = torch.optim.AdamW(made.parameters(), lr=LR, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=STEPS + 1)
    for step in range(STEPS):
        found, features = made(states)
        total = torch.stack([loss(made, state, features, step).mean() for state in found[1:]]).sum()
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(made.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return made.eval()


@torch.no_grad()
def answers(made: Answering) -> tuple[Tensor, Tensor]:
    found, features = made(encoder_states())
    return found[-1], features


def squares() -> Tensor:
    """Labels: a background and two squares, elsewhere in each picture."""
    labels = torch.zeros(BATCH, FINE, FINE, dtype=torch.long)
    for b in range(BATCH):
        labels[b, 2 + 4 * b : 12 + 4 * b, 3:13] = 1
        labels[b, 4:16, 29 - 3 * b - 9 : 29 - 3 * b] = 2
    return labels


def mean_iou(found: Tensor, labels: Tensor) -> float:
    shares = [((found == c) & (labels == c)).sum() / ((found == c) | (labels == c)).sum() for c in range(CLASSES)]
    return float(torch.stack(shares).mean())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["softmax", "masks"])
def test_classes_of_pixels(kind: str) -> None:
    labels = squares()

    def loss(made: Answering, state: Tensor, features: Tensor, step: int) -> Tensor:
        maps = made.read.maps(state, features)
        if kind == "softmax":
            return class_loss(maps, labels)
        points = drawn(1, 400, 2, key=f"points {step}")
        return class_mask_loss(maps, made.read.presence(state), labels, points, MaskWeights(0.25, 5.0, 5.0))

    made = learn(CLASSES, loss)
    state, features = answers(made)
    maps = made.read.maps(state, features)
    size = (FINE, FINE)
    scores = resized(maps, size) if kind == "softmax" else class_scores(maps, made.read.presence(state), size)
    assert mean_iou(scores.argmax(1), labels) > 0.95


@pytest.mark.slow
def test_joints_by_heat_maps_and_directly() -> None:
    points = torch.cat([0.1 + 0.8 * drawn(BATCH, 5, 2, key="joints"), torch.full((BATCH, 5, 1), 2.0)], dim=-1)
    points[0, 0, 2] = 0
    made = learn(5, lambda made, state, features, _: place_loss(made.read.maps(state, features), points, 2.0))
    state, features = answers(made)
    distance = (heat_points(made.read.maps(state, features)) - points)[..., :2].norm(dim=-1)[points[..., 2] > 0]
    assert (distance < 0.05).float().mean() > 0.9
    made = learn(5, lambda made, state, *_: point_loss(made.read.boxes(state, made.anchor.weight)[..., :2], points))
    state, _ = answers(made)
    found = made.read.boxes(state, made.anchor.weight)[..., :2]
    assert (found - points[..., :2]).norm(dim=-1)[points[..., 2] > 0].mean() < 0.03


@pytest.mark.slow
def test_depth_directions_edges_pixels_and_density() -> None:
    states, size = encoder_states(), (FINE, FINE)
    coarse = (states[..., :3] + 0.2 * states[..., 3:6]).transpose(1, 2).unflatten(2, (GRID, GRID))
    smooth = resized(coarse, size)
    depth, centres = (smooth[:, :1] / 2).exp(), bin_centres(32, 0.1, 10.0, log=True)
    edges = (smooth[:, :1].abs() < 0.1).float()
    people = torch.cat(
        [drawn(BATCH, 6, 2, key="people"), (torch.arange(6) < torch.tensor([[1], [3], [4], [6]]))[..., None]], -1
    )
    crowd = density_maps(people, size, 1.5)

    def maps_of(made: Answering) -> Tensor:
        state, features = answers(made)
        return made.read.maps(state, features)

    def read(loss: Callable[[Tensor], Tensor], queries: int) -> Tensor:
        return maps_of(learn(queries, lambda made, state, features, _: loss(made.read.maps(state, features))))

    maps = read(lambda m: sig_loss(expected_value(m, centres, size), depth, EVERYWHERE, warm=True), 32)
    assert ((expected_value(maps, centres, size) - depth).abs() / depth).mean() < 0.1
    maps = read(lambda m: direction_loss(m, smooth, EVERYWHERE), 3)
    cosine = (directions(maps, size) * nn.functional.normalize(smooth, dim=1)).sum(1).clamp(-1, 1)
    assert cosine.arccos().rad2deg().median() < 15
    maps = read(lambda m: edge_loss(m, edges, EVERYWHERE), 1)
    marked = maps.sigmoid() > 0.5
    assert 2 * (marked & (edges > 0)).sum() / (marked.sum() + edges.sum()) > 0.75
    maps = read(
        lambda m: pixel_loss(
            pixels(m, 3),
            resized(coarse, (2 * FINE, 2 * FINE)),
            EVERYWHERE.repeat_interleave(2, 2).repeat_interleave(2, 3),
            1e-3,
        ),
        12,
    )
    assert (pixels(maps, 3) - resized(coarse, (2 * FINE, 2 * FINE))).abs().mean() < 0.15 * coarse.std()
    maps = read(lambda m: density_loss(m, crowd, EVERYWHERE, map_weight=100.0, count_weight=1.0), 1)
    assert (density(maps).sum((1, 2, 3)) - crowd.sum((1, 2, 3))).abs().max() < 0.5


@pytest.mark.slow
def test_objects_with_masks() -> None:
    labels = torch.tensor([[0, 1, 2], [1, 1, IGNORE], [2, IGNORE, IGNORE], [0, 2, 2]])
    low = 0.05 + 0.5 * drawn(BATCH, 3, 2, key="objects")
    boxes = torch.cat([low + 0.18, torch.full((BATCH, 3, 2), 0.36)], dim=-1)
    y = (torch.arange(FINE) + 0.5) / FINE
    x0, y0, x1, y1 = corners(boxes)[..., None, None].unbind(2)
    masks = (y > x0) & (y < x1) & (y[:, None] > y0) & (y[:, None] < y1)
    objects, weights = Objects(labels, boxes, masks), SetWeights(2.0, 5.0, 2.0, 5.0, 5.0)

    def loss(made: Answering, state: Tensor, features: Tensor, step: int) -> Tensor:
        return set_loss(made.objects(state, features), objects, weights, drawn(1, 400, 2, key=f"points {step}"))

    made = learn(12, loss, anchored=True)
    with torch.no_grad():
        found = made.objects(*answers(made))
    assert found.boxes is not None
    assert found.maps is not None
    best = detections(found.classes, 3)
    theirs, ours = corners(boxes), boxes_of(best.queries, found.boxes)
    shown, _ = masks_of(best.queries, found.maps, (FINE, FINE))
    hits, held = 0, 0
    for b in range(BATCH):
        for m in range(3):
            if labels[b, m] == IGNORE:
                continue
            held += 1
            share = overlap(ours[b], theirs[b, m].expand(3, 4))[0]
            inside = (shown[b] & masks[b, m]).sum((1, 2)) / (shown[b] | masks[b, m]).sum((1, 2))
            hits += int(
                ((share > 0.6) & (inside > 0.6) & (best.labels[b] == labels[b, m]) & (best.scores[b] > 0.3)).any()
            )
    assert hits >= held - 1
    numbers, parts = panoptic(
        found.classes[2], found.maps[2], (FINE, FINE), torch.ones(3, dtype=torch.bool), threshold=0.3, kept=0.5
    )
    assert [part.label for part in parts] == [2]
    assert (numbers.bool() == masks[2, 0]).float().mean() > 0.95


@pytest.mark.slow
def test_attributes_and_identities() -> None:
    target = torch.tensor([[1, 0, 1, -1.0, 0], [0, 0, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, -1, 1, 1]])
    ratio = torch.full((5,), 0.5)
    made = learn(5, lambda made, state, *_: presence_loss(made.read.presence(state), target, ratio))
    said = made.read.presence(answers(made)[0]) > 0
    assert (said == (target > 0))[target >= 0].all()
    who = torch.tensor([0, 1, 0, 1])

    def loss(made: Answering, state: Tensor, *_: object) -> Tensor:
        features = state.flatten(1)
        return identity_loss(made.identity(features), who) + triplet_loss(
            features, who, features, who, torch.arange(BATCH)
        )

    features = answers(learn(2, loss))[0].flatten(1)
    distance = torch.cdist(features, features)
    assert distance[0, 2] < min(distance[0, 1], distance[0, 3])
    assert distance[1, 3] < min(distance[1, 0], distance[1, 2])
