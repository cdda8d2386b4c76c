"""Augmentation of training pictures and their boxes, with torchvision."""

from __future__ import annotations

import torch
from torchvision.transforms import v2


def training_transforms(side: int) -> v2.Compose:
    """Return the transform of a picture of any size, uint8, and its boxes to a training picture of ``side`` x ``side``.

    Crops have an IoU of at least 0.3 with a box: landmarks are large, and a smaller crop of one shows only texture.
    Changing colours after scaling costs a quarter of the time.
    """
    return v2.Compose(
        [
            v2.RandomZoomOut(fill={torch.Tensor: 0, "others": 114}, side_range=(1.0, 2.0), p=0.3),
            v2.RandomIoUCrop(min_scale=0.4, sampler_options=[0.3, 0.5, 0.7, 0.9, 1.0]),
            v2.Resize((side, side), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ClampBoundingBoxes(),  # scaling rounds
            v2.SanitizeBoundingBoxes(),
            v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.4),
            v2.RandomGrayscale(0.05),
        ]
    )
