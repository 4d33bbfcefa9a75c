"""A run on shards that is cut inside an epoch and resumed: it ends with every bit of a run that was not."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dynaconv.errors import RunError
from dynaconv.train.data.pack import pack_folder
from dynaconv.train.run import fit, resume
from tests.messages import refuses
from tests.train.helpers import When, failing
from tests.train.test_kill import CONFIG, left_by, unlike


def pack(root: Path) -> str:
    """48 training and 8 test images of noise, in shards of at most 5."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 48), ("test", 8)):
        for index in range(count):
            path = root / "images" / split / ("even", "odd")[index % 2] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    pack_folder(root / "images", root / "shards", shard_images=5)
    return str(root / "shards")


# By images of one size, augmented as a batch, and as photographs one by one.
@pytest.mark.parametrize(
    ("augment", "workers"), [("Small", 0), ("Photo", 0), pytest.param("Photo", 2, marks=pytest.mark.slow)]
)
def test_a_run_on_shards_goes_on_inside_an_epoch(tmp_path: Path, augment: str, workers: int) -> None:
    data = {"name": f"wds/{pack(tmp_path)}", "batch_size": 8, "image_size": 32, "val_fraction": 0}
    data |= {"augment": augment, "num_workers": workers, "shuffle_buffer": 7}
    config = dataclasses.replace(CONFIG, data=data)
    fit(config, out=tmp_path / "whole")
    # Six steps an epoch, saved after every second one.
    with pytest.raises(OSError, match="power cut"):
        fit(config, out=tmp_path / "cut", callbacks=[When("on_train_batch_end", 9, failing(OSError("power cut")))])
    with refuses(RunError, "3 would read other images"):
        resume(tmp_path / "cut", overrides=["--data.num_workers=3"])
    resume(tmp_path / "cut")
    assert unlike(left_by(tmp_path / "whole"), left_by(tmp_path / "cut")) == []
