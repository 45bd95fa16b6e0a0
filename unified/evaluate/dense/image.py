"""Scores of restored images, and the input itself as the answer."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unified.evaluate.dense.baseline_maps import Floor, _size
from unified.evaluate.dense.scores import Answer, PictureMeans
from unified.evaluate.dense.targets import Truth

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


def _input_itself(spec: Any) -> Floor:
    """The picture as it is shown, at the size of the answer."""

    def answer(picture: Tensor) -> Answer:
        shown = picture[None].float() / 255
        if spec.scale > 1:
            height, width = _size(picture)
            shown = F.interpolate(shown, (spec.scale * height, spec.scale * width), mode="bicubic")
        return {"image": shown[0].clamp(0, 1)}

    return answer
