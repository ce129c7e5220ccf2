"""The configuration of a multimodal model: what is wrong is told by the field to change."""

from __future__ import annotations

from typing import Any

import pytest

from trimodal.networks.multimodal import MultimodalConfig, Stream

SIGNAL: dict[str, Any] = {"modality": "signal"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fusion": "middle"}, "fusion is 'middle', expected one of early, late, hybrid, layerwise"),
        ({"tasks": ["segment"]}, "tasks has 'segment'"),
        ({"streams": {"lidar": {"modality": "radar"}}}, "streams.lidar.modality is 'radar'"),
        ({"streams": {"lidar": {**SIGNAL, "chanels": 3}}}, "streams.lidar has the field 'chanels'"),
        ({"streams": {"lidar": {**SIGNAL, "std": [1.0]}}}, "streams.lidar.std has 1 numbers"),
        ({"streams": {"front": {"modality": "image", "length": 30, "patch": 8}}}, "streams.front.length is 30"),
        ({"streams": {"front": {"modality": "image", "tower": {"hidden_size": 8}}}}, "streams.front.tower names no model_type"),
        ({"streams": {"labels": SIGNAL}}, "a stream is called 'labels'"),
        ({"streams": {"values": SIGNAL}}, "a stream is called 'values'"),
        ({"streams": [{"name": "a", **SIGNAL}, {"name": "a", **SIGNAL}]}, "streams has two of one name"),
        ({"streams": {"lidar": {**SIGNAL, "width": 20}}}, "streams.lidar.width is 20, expected a multiple of head_dim 16"),
        ({"exchange_at": [4]}, r"exchange_at is \[4\], expected depths from 0 to 3"),
        ({"contrast": ["a", "b"]}, "tasks has retrieve and fusion is 'hybrid'"),
        ({"contrast": ["a", "b"], "fusion": "late"}, "expected the names of two streams"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultimodalConfig(**settings)


def test_the_order_of_streams_survives_json() -> None:
    """JSON sorts names, and the rows of the fusion's table of kinds go by the order."""
    config = MultimodalConfig(streams={"zebra": SIGNAL, "ant": SIGNAL})
    again = MultimodalConfig.from_dict(config.to_dict())
    assert [stream.name for stream in again.list_streams()] == ["zebra", "ant"]


def test_arguments_are_called_as_transformers_calls_them() -> None:
    names = {
        name: Stream(name, modality, tower).input_name
        for name, modality, tower in (
            ("image", "image", None), ("text", "text", None), ("audio", "audio", None), ("front_camera", "image", None),
        )
    }  # fmt: skip
    assert names == {"image": "pixel_values", "text": "input_ids", "audio": "input_features", "front_camera": "front_camera"}
    assert Stream("audio", "audio", {"model_type": "wav2vec2"}).input_name == "input_values"
    assert Stream("text", "text").mask_name == "attention_mask" and Stream("lidar", "signal").mask_name == "lidar_mask"
