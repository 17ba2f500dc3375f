"""The data path as the published code has it: PIL and torchvision, image after image, and a DataLoader."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from reid.data import Crop
from reid.normalisation import IMAGENET


class PlainCrops(Dataset[tuple[torch.Tensor, int]]):
    """Each crop opened, decoded, resized and augmented each time it is read."""

    def __init__(
        self, crops: Sequence[Crop], height: int, width: int, flip: float, padding: int, erasing: float
    ) -> None:
        self.crops = crops
        self.transform = transforms.Compose(
            [
                transforms.Resize((height, width)),
                transforms.RandomHorizontalFlip(flip),
                transforms.Pad(padding),
                transforms.RandomCrop((height, width)),
                transforms.ToTensor(),
                transforms.Normalize(*IMAGENET),
                transforms.RandomErasing(erasing, (0.02, 0.4), (0.3, 1 / 0.3), IMAGENET.mean),
            ]
        )

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        crop = self.crops[index]
        with Image.open(crop.path) as image:
            return self.transform(image.convert("RGB")), crop.pid


def plain_loader(crops: PlainCrops, plan: list[torch.Tensor]) -> DataLoader[tuple[torch.Tensor, int]]:
    """The batches of a plan, in this process."""
    return DataLoader(crops, batch_sampler=[batch.tolist() for batch in plan])
