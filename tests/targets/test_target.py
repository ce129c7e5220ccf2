"""What the built-in targets take, asked in the words of a stored site."""

from __future__ import annotations

import pytest

from trimodal.core.stored_site import Kept, StoredInput, StoredSite, StoredWeight
from trimodal.targets import Answer, LayerKind, list_targets, read_target

NAMES = (
    "compressed-tensors", "executorch-xnnpack", "gpu-int4", "litert", "onnxruntime-avx2", "onnxruntime-vnni", "openvino-avx2",
    "openvino-vnni", "transformersjs",
)  # fmt: skip
ROWS8 = StoredWeight(8, "channel", "positive", False, "float16")
GROUPS4 = StoredWeight(4, 64, "positive", False, "float16")
TABLE4 = StoredWeight(4, 64, "nf", False, "float16")
FLOAT_ZERO = StoredWeight(4, 64, "asymmetric", "float16", "float16")
STATIC, TOKEN = StoredInput(8, "static", (-1.0, 2.0)), StoredInput(8, "per token")


def _ask(name: str, layer: LayerKind, weight: StoredWeight | None, inputs: StoredInput | None = None, **rest: object) -> Answer:
    site = StoredSite("x", (128, 128), "float32", "quantized" if weight else "dense", 0, weight, inputs, **rest)  # type: ignore[arg-type]
    return read_target(name).answer_site(layer, site)


def test_names() -> None:
    assert tuple(list_targets()) == NAMES
    assert all(read_target(name).name == name for name in NAMES)


@pytest.mark.parametrize(
    ("name", "levels"),
    [  # 8 bits static, 8 bits per token, 8 bits alone, 4 bits in groups, a table, float zero-points
        ("onnxruntime-avx2", "native native native native decoded decoded"),
        ("onnxruntime-vnni", "native native native native decoded decoded"),
        ("transformersjs", "native native native native decoded decoded"),
        ("openvino-vnni", "native native native native decoded decoded"),
        ("openvino-avx2", "decoded native native native decoded decoded"),
        ("litert", "native native decoded refused refused refused"),
        ("executorch-xnnpack", "native native refused refused refused refused"),
        ("compressed-tensors", "decoded decoded decoded decoded refused refused"),
        ("gpu-int4", "refused native native native refused refused"),
    ],
)
def test_linear_layers(name: str, levels: str) -> None:
    asked = ((ROWS8, STATIC), (ROWS8, TOKEN), (ROWS8, None), (GROUPS4, None), (TABLE4, None), (FLOAT_ZERO, None))
    answers = [_ask(name, "linear", weight, inputs) for weight, inputs in asked]
    assert [answer.level for answer in answers] == levels.split()
    assert all(bool(answer.text) == (answer.level != "native") for answer in answers)
    assert all((answer.weight_type is None) == (answer.level == "refused") for answer in answers)


def test_codes_are_unsigned_where_signed_ones_saturate() -> None:
    types = {name: _ask(name, "linear", ROWS8, STATIC).weight_type for name in NAMES}
    assert types["onnxruntime-avx2"] == types["transformersjs"] == "u8"
    assert types["onnxruntime-vnni"] == types["openvino-vnni"] == types["litert"] == types["executorch-xnnpack"] == "s8"


@pytest.mark.parametrize(
    ("name", "part", "level"),
    [
        ("onnxruntime-avx2", {"scaled_columns": True}, "native"),
        ("onnxruntime-avx2", {"rotated_columns": 64}, "native"), ("litert", {"rotated_columns": 64}, "refused"),
        ("onnxruntime-avx2", {"correction_rank": 4}, "native"),
        ("onnxruntime-avx2", {"outliers": 3}, "decoded"),
        ("onnxruntime-avx2", {"kept": Kept(50, 100)}, "native"),
        ("compressed-tensors", {"scaled_columns": True}, "refused"),
        ("compressed-tensors", {"factor_of": "layer"}, "refused"),
        ("executorch-xnnpack", {"outliers": 3}, "refused"),
    ],
)
def test_parts_beside_the_codes(name: str, part: dict[str, object], level: str) -> None:
    inputs = TOKEN if name == "executorch-xnnpack" else None
    assert _ask(name, "linear", ROWS8, inputs, **part).level == level


def test_plain_numbers_are_taken_and_masks_alone_nowhere_as_they_are() -> None:
    for name in NAMES:
        assert _ask(name, "norm", None) == Answer("native")
        answer = _ask(name, "linear", None, kept=Kept(50, 100))
        graph = read_target(name).format in ("onnx", "openvino")
        assert answer.level == ("decoded" if graph else "refused")
        assert ("spread over the mask's places" if graph else "no sparse weights") in answer.text


def test_reasons_name_what_was_found_and_what_is_taken() -> None:
    target = read_target("gpu-int4")
    assert target.refuse_storage("linear", StoredWeight(4, 48, "asymmetric", "uint8", "float16"), shape=(100, 144)) == (
        "a linear layer: the grid is asymmetric, not positive or signed, scales per 48 columns, not per row or per 32, 64 or 128 columns, "
        "100 rows are no multiple of 64 and 144 columns are no multiple of 128"
    )
    assert target.refuse_storage("linear", GROUPS4, shape=(128, 128)) is None
    assert target.refuse_storage("embedding", ROWS8) == "gpu-int4 takes no quantized weight of an embedding"


def test_the_two_answers_exclude_each_other() -> None:
    target = read_target("onnxruntime-avx2")
    assert target.refuse_storage("linear", TABLE4) is None
    assert str(target.explain_decoding("linear", TABLE4)).startswith("a table of numbers is a Gather")
    groups = StoredWeight(8, 64, "positive", False, "float16")
    assert target.explain_decoding("linear", groups, STATIC) is None
    assert "fail when they are run" in str(target.refuse_storage("linear", groups, STATIC))
    assert "4-bit codes beside quantized inputs" in str(target.explain_decoding("linear", GROUPS4, STATIC))
    assert target.explain_decoding("linear", ROWS8, STATIC) is target.refuse_storage("linear", ROWS8, STATIC) is None


def test_fewer_bits_go_into_the_next_wider_type() -> None:
    answer = _ask("onnxruntime-avx2", "linear", StoredWeight(3, 64, "positive", False, "float16"))
    assert (answer.level, answer.weight_type) == ("native", "s4")
    assert answer.cautions[-1] == "codes of 3 bits are taken as 4-bit ones"
    assert _ask("compressed-tensors", "linear", StoredWeight(3, 64, "positive", False, "float16")).weight_type == "u3"


def test_inputs_that_no_operation_rounds_are_told_of() -> None:
    for name in ("onnxruntime-vnni", "openvino-vnni", "transformersjs"):
        assert "so the input stays in float" in " ".join(_ask(name, "linear", ROWS8, TOKEN).cautions)
        assert "stays in float" not in " ".join(_ask(name, "linear", ROWS8, STATIC).cautions)


def test_who_writes_codes_without_a_sign() -> None:
    assert [name for name in NAMES if read_target(name).unsigned] == ["onnxruntime-avx2", "transformersjs"]


def test_machines() -> None:
    avx2, vnni = read_target("onnxruntime-avx2"), read_target("onnxruntime-vnni")
    assert avx2.machine_fits(["avx2", "fma"]) and vnni.machine_fits(["avx2", "avx_vnni"]) and vnni.machine_fits(["avx2", "avx512_vnni"])
    assert vnni.explain_misfit(["avx2", "fma"]) == (
        "onnxruntime-vnni needs avx512_vnni or avx_vnni, and the processor has avx2 and fma"
    )
    assert "another target fits it better" in str(avx2.explain_misfit(["avx2", "avx512_vnni"]))
    assert read_target("litert").machine_fits([]) and read_target("transformersjs").machine_fits([])
