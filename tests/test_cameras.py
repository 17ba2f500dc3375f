"""What a run makes of the cameras: batches balanced over them."""

from pathlib import Path

import pytest

from reid.data import Crop, DatasetError
from reid.engine.prepare import check_balanced


def test_a_set_without_two_cameras_of_anybody_is_not_balanced() -> None:
    crops = [Crop(Path(f"{number}.jpg"), number // 4, number // 4 % 2) for number in range(16)]
    with pytest.raises(DatasetError, match="balanced does not fit mine: nobody in it was seen by two"):
        check_balanced(crops, "mine")
    check_balanced([*crops, Crop(Path("last.jpg"), 0, 1)], "mine")
