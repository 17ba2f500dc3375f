"""VeRi-776 (Liu et al., ICME and ECCV 2016): 576 vehicles to train on and 200 to look for, 20 cameras."""

from pathlib import Path

from reid.data.crops import Progress, ReidDataset, silent
from reid.data.layout import check_counts, read_market_layout

FOLDERS = ("image_train", "image_query", "image_test")
OFFICIAL = (37_778, 1_678, 11_579)
WHERE = "VeRi-776 is given for research by its authors (Liu et al., ECCV 2016), on request: ask there."
# A query's own copy in the gallery bears its camera, so the usual protocol leaves it out.
NOTICE = (
    "VeRi-776: vehicles filmed in streets, for research only; do not redistribute the images. Its queries "
    "lie in its gallery too: judge it by eval.protocol=cross_camera."
)


def load(root: Path, official: bool = True, progress: Progress = silent) -> ReidDataset:
    """Read VeRi-776 from `root/{image_train,image_query,image_test}`.

    It is judged image by image, as most papers do; its authors also ranked whole tracks.  `official=False`
    allows another number of images.

    Raises:
        DatasetError: the folders are missing, or the counts are not the official ones.
    """
    dataset = read_market_layout(
        "veri776", root, folders=FOLDERS, example="0001_c001_00016450_0.jpg", where_to_get=WHERE,
        notice=NOTICE,
    )  # fmt: skip
    if official:
        check_counts(dataset, OFFICIAL, "VeRi-776", market_layout=False)
    return dataset
