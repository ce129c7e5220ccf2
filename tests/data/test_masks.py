"""Masks as data: from files and rows to classes of pixels, at the size of what a model is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datafiles import write
from PIL import Image

from trimodal.data import check_media, count_mask_classes, digest_samples, load_masks, open_data, read_samples
from trimodal.errors import DataError

CLASSES = np.array([[0, 1], [2, 255]], dtype=np.uint8)
GROUND = np.zeros((2, 2, 3), dtype=np.uint8)


def read_one(mask: Any) -> Any:
    return read_samples(open_data([{"image": GROUND, "mask": mask}]))


def make_palette() -> Image.Image:
    image = Image.fromarray(CLASSES).convert("P")
    image.putdata(CLASSES.flatten().tolist())
    image.putpalette([7, 7, 7, 200, 0, 0, 0, 200, 0])
    return image


@pytest.mark.parametrize(
    "mask",
    [CLASSES, torch.from_numpy(CLASSES).long(), Image.fromarray(CLASSES), Image.fromarray(CLASSES.astype(np.uint16)), make_palette()],
)
def test_what_a_row_holds_becomes_classes(mask: Any) -> None:
    assert load_masks(read_one(mask), (2, 2)).tolist() == [[[0, 1], [2, -100]]]


def test_a_mask_follows_the_size_of_its_image() -> None:
    found = load_masks(read_one(CLASSES), (4, 4))
    assert found[0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, -100, -100], [2, 2, -100, -100]]
    assert load_masks(read_one(np.arange(16).reshape(4, 4)), (2, 2)).tolist() == [[[5, 7], [13, 15]]]  # the nearest, no mixture


def test_masks_in_files_are_named_digested_and_counted(folder: Path) -> None:
    Image.fromarray(GROUND).save(folder / "a.png")
    Image.fromarray(CLASSES).save(folder / "m.png")
    plain, masked = (read_samples(write(folder, line)) for line in ({"image": "a.png"}, {"image": "a.png", "mask": "m.png"}))
    assert count_mask_classes(masked) == 3 and count_mask_classes(plain) == 0
    assert digest_samples(plain) != digest_samples(masked)
    assert load_masks([*masked, *plain], (2, 2))[1].tolist() == [[-100, -100], [-100, -100]]


@pytest.mark.parametrize("content", [Image.fromarray(GROUND), Image.fromarray(CLASSES.astype(np.float32))])
def test_images_of_colours_and_fractions_are_no_masks(content: Image.Image) -> None:
    with pytest.raises(DataError, match=r"row 1: mask is .*; expected one channel whose values are classes"):
        read_one(content)


def test_a_broken_mask_is_told_by_its_line(folder: Path) -> None:
    Image.fromarray(GROUND).save(folder / "a.png")
    (folder / "m.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"line 1: mask .*m\.png cannot be decoded"):
        check_media(read_samples(write(folder, {"image": "a.png", "mask": "m.png"})))


def test_a_tensor_called_mask_is_the_forwards(tmp_path: Path) -> None:
    found = read_samples(open_data([{"x": torch.zeros(3), "mask": torch.ones(3), "label": 1}]))
    assert found[0].inputs is not None and set(found[0].inputs.load()) == {"x", "mask"} and found[0].mask is None
