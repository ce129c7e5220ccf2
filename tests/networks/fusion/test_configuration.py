"""The configuration refuses shapes that cannot be built, and survives a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimodal.networks.fusion import FusionConfig


@pytest.mark.parametrize(
    ("field", "value"), [("fusion", "middle"), ("image_size", 18), ("audio_width", 100), ("fusion_width", 20)]
)
def test_a_shape_that_cannot_be_built_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        FusionConfig(**{field: value})


def test_a_saved_configuration_reads_back(tmp_path: Path) -> None:
    config = FusionConfig(fusion="early", fusion_blocks=2, id2label={0: "0", 1: "7", 2: "12"})
    config.save_pretrained(tmp_path)
    again = FusionConfig.from_pretrained(tmp_path)
    assert (again.fusion, again.fusion_blocks, again.num_labels) == ("early", 2, 3)
    assert again.id2label == {0: "0", 1: "7", 2: "12"}
