"""Scores of restored images, and the input itself as the answer."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unified.answers.base import SceneExample
from unified.answers.map.image import IMAGE, ImageSpec
from unified.core.types import Sample
from unified.data.augment.geometric import Scene
from unified.data.augment.image_operators import RESHADE
from unified.data.samples.annotations import FACTS
from unified.evaluate.dense import normals
from unified.evaluate.dense.baseline_maps import Baselines, known_map, mean_maps, size_of
from unified.evaluate.dense.evaluation import DenseEvaluation
from unified.evaluate.dense.scores import Answer, PictureMeans
from unified.evaluate.dense.targets import Truth
from unified.evaluate.results import Metric
from unified.pipeline.dense_collate import SceneCollator

CEILING = 100.0
"""PSNR of equal pictures, which would be infinite, in dB."""


class PixelScores(PictureMeans):
    """PSNR in dB and SSIM, by torchmetrics; pixels that are not known are taken as right."""

    names = ("psnr", "ssim")

    def add(self, answer: Answer, truth: Truth) -> None:
        """Pictures (3, h, w) from 0 to 1."""
        from torchmetrics.functional.image import (  # takes seconds, and few evaluations need it
            peak_signal_noise_ratio,
            structural_similarity_index_measure,
        )

        assert truth.scene.values is not None
        assert truth.scene.valid is not None
        theirs = truth.scene.values[None].float()
        ours = torch.where(truth.scene.valid[None], answer["image"].cpu()[None].float(), theirs)
        psnr = min(float(peak_signal_noise_ratio(ours, theirs, data_range=1.0)), CEILING)
        ssim = structural_similarity_index_measure(ours, theirs, data_range=1.0)
        self.rows.append((psnr, float(ssim)))  # type: ignore[arg-type]


def _input_itself(spec: ImageSpec) -> Baselines:
    """The picture as it is shown, at the size of the answer."""

    def answer(picture: Tensor) -> Answer:
        shown = picture[None].float() / 255
        if spec.scale > 1:
            height, width = size_of(picture)
            shown = F.interpolate(shown, (spec.scale * height, spec.scale * width), mode="bicubic")
        return {"image": shown[0].clamp(0, 1)}

    return {"input itself": answer}


def _operated(collator: SceneCollator, sample: Sample, example: SceneExample, number: int) -> Truth:  # noqa: ARG001
    """The picture as the task's operator shows it, at the size of the task, and what it asks for."""
    (shown,), asked = collator.pictures([example], np.array([number]))
    return Truth(shown, Scene(shown, values=asked["map"][0], valid=asked["valid"][0]))


EVALUATION = DenseEvaluation(
    kind=IMAGE,
    scores=lambda _: PixelScores(),
    metrics=(Metric("psnr", "PSNR, dB", percent=False),),
    column=lambda spec: normals.COLUMN if spec.operator == RESHADE else FACTS,
    truth=_operated,
    untrained=_input_itself,
    fit=mean_maps("image", lambda mean: mean, lambda spec: spec.scale),
    nearest=known_map("image"),
)
