"""compressed-tensors: a Hugging Face folder that vLLM and stock Transformers load, without trimodal.

    config.json          the model's own, with `quantization_config`: one scheme for weights, and in `ignore` every linear layer
                         that is floats, since a loader takes all others for coded
    model.safetensors    NAME.weight_packed int32 (out, words), NAME.weight_scale (out, groups), NAME.weight_shape int64 (2,), or
                         with quantized inputs NAME.weight int8 (out, in), NAME.weight_scale, and of a static range
                         NAME.input_scale, NAME.input_zero_point; every other tensor in its own type

The facts are those of compressed-tensors 0.20.1 with Transformers 5.23, tried in an environment without trimodal by
`benchmarks/compressed_tensors.py`. The loader decodes code · scale in the scale's type: float32 here, or float16 where the model is
float16 and every scale is a float16 number, for then the product is rounded once, as ours is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from trimodal.core import Check, json_text
from trimodal.errors import InputError
from trimodal.exporting.exporter import ExportedComponent, Exporter, ExportResult, ExportSource
from trimodal.exporting.layer_codes import InputCodes
from trimodal.exporting.tensor_scheme import CodableLayer, Scheme, choose_scheme, find_codable_layers
from trimodal.formats.plain_config import find_plain_config
from trimodal.formats.tensors import write_tensors
from trimodal.layers import close_layers_
from trimodal.maths.packing import pack_into_words, unpack_from_words
from trimodal.models.model import Model
from trimodal.models.tensors import unique_tensors
from trimodal.models.weighted import find_weighted_modules

NAME, WEIGHTS = "compressed-tensors", "model.safetensors"
_RECIPES = "recipes that can: int8, and int4-even (numbers that are evenly spaced, in groups)"
_VLLM_BITS, _VLLM_GROUPS = (4, 8), (32, 64, 128, None)
_FLOAT_INPUT = "its weight is floats here, and its input too"

_InputKind = tuple[int, bool] | None


def write_compressed_tensors(source: ExportSource, folder: Path) -> ExportResult:
    """Write weights and configuration into `folder`, which holds the model's other files already.

    Raises:
        InputError: stock Transformers cannot build the model, or no layer can be coded.
    """
    close_layers_(source.model.module)  # a stock class opens nothing
    config = _read_plain_config(source.model)
    layers, reasons = find_codable_layers(source.layers)
    called = find_weighted_modules(source.model.module)
    for path in [path for path in layers if type(_layer_at(source.model.module, path, called)) is not type(source.layers[path].layer)]:
        reasons[path] = "its class keeps the weight in a form of its own, which the format has no place for"
        del layers[path]
    if not layers:
        raise InputError(f"no layer of {source.model.name} can be coded as {NAME}: {_count_reasons(reasons)}; {_RECIPES}")
    scheme = choose_scheme(layers)
    for path in [path for path, layer in layers.items() if not scheme.fits(layer)]:
        reasons[path] = f"it does not fit into {_describe(scheme)}, in which the file is smallest; a file has one scheme"
        del layers[path]
    config = _mark_config(config, scheme, layers, source.model.module)
    (folder / "config.json").write_text(json_text(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    tensors = collect_tensors(source.model.module, layers, scheme)
    write_tensors(tensors, {"format": "pt"}, folder / WEIGHTS)
    check = check_decoded(folder / WEIGHTS, layers, scheme, source.model.module)
    float_inputs = {path: _FLOAT_INPUT for path in reasons if source.layers[path].input is not None}
    return ExportResult(
        (ExportedComponent("model", (WEIGHTS, "config.json"), {}, {}),), frozenset(layers), reasons, float_inputs,
        parameters=frozenset(tensors), notes=tuple(_list_notes(scheme, layers, source)), checks=(check,),
    )  # fmt: skip


def _layer_at(module: nn.Module, path: str, called: Collection[str]) -> nn.Module | None:
    """The layer at `path`, if it is among those that are `called`."""
    return module.get_submodule(path) if path in called else None


def make_quantization_config(
    scheme: Scheme, layers: Mapping[str, CodableLayer], module: nn.Module, prefixes: Sequence[str]
) -> dict[str, Any]:
    """What config.json says of the codes. Layers that quantize their inputs in another way than most have a group of their own, with
    the same weights. Names are given as they are, and without those of `prefixes` that a part's own class leaves out."""
    kinds: dict[_InputKind, list[str]] = {}
    for path, layer in layers.items():
        kinds.setdefault(_kind_of(layer.input), []).append(path)
    most = sorted(kinds, key=lambda kind: -sum(layers[path].rows * layers[path].columns for path in kinds[kind]))
    form = _form_of(scheme, layers)
    groups = {
        f"group_{n}": {
            "targets": list(_list_names(kinds[kind], prefixes)) if n else ["Linear"], "weights": _weight_args(scheme),
            "input_activations": None if kind is None else _input_args(*kind), "output_activations": None, "format": form,
        }
        for n, kind in enumerate(most)
    }  # fmt: skip
    linear = [path for path, layer in module.named_modules() if isinstance(layer, nn.Linear) and path not in layers]
    return {
        "quant_method": NAME, "format": form, "quantization_status": "compressed", "config_groups": groups,
        "ignore": list(_list_names(linear, prefixes)), "kv_cache_scheme": None, "global_compression_ratio": None,
    }  # fmt: skip


def collect_tensors(module: nn.Module, layers: Mapping[str, CodableLayer], scheme: Scheme) -> dict[str, Tensor]:
    """Every tensor of the file by its name: of `layers` codes and scales, of all others what `module` has."""
    found = {name: tensor.detach().cpu().contiguous() for name, tensor in unique_tensors(module).items()}
    plain = _form_of(scheme, layers) == "int-quantized"
    for path, layer in layers.items():
        dtype = found.pop(f"{path}.weight").dtype
        values = layer.read_values()
        if plain:
            found[f"{path}.weight"] = values
        else:
            found[f"{path}.weight_packed"] = pack_into_words(values, scheme.bits)
            found[f"{path}.weight_shape"] = torch.tensor(values.shape)
        found[f"{path}.weight_scale"] = _type_scales(layer.read_scales(scheme), dtype)
        if layer.input is not None and layer.input.static:
            half = 2 ** (layer.input.bits - 1)
            found[f"{path}.input_scale"] = torch.tensor([layer.input.scale], dtype=torch.float32)
            found[f"{path}.input_zero_point"] = torch.tensor([layer.input.zero - half], dtype=torch.int8)
    return found


def check_decoded(file: Path, layers: Mapping[str, CodableLayer], scheme: Scheme, module: nn.Module) -> Check:
    """Whether what was written into `file`, read back and decoded as the format's loader does, is `module` bit for bit."""
    unlike, wanted = [], unique_tensors(module)
    with safe_open(file, framework="pt") as opened:
        names = set(opened.keys())
        for name, tensor in wanted.items():
            path = name.removesuffix(".weight")
            found = _decode_layer(opened, path, scheme, tensor) if path in layers and name.endswith(".weight") else (
                opened.get_tensor(name) if name in names else None
            )  # fmt: skip
            if found is None or found.dtype != tensor.dtype or not torch.equal(found, tensor.cpu()):
                unlike.append(name)
    said = f"{unlike[0]} and {len(unlike) - 1} more are other numbers" if unlike else f"{len(wanted)} tensors read back, the same bits"
    return Check.from_outcome("decoded weights", not unlike, said)


def _decode_layer(opened: Any, path: str, scheme: Scheme, like: Tensor) -> Tensor:
    """code · scale (out, in) in the scale's type, then in that of `like`."""
    rows, columns = like.shape
    scale = opened.get_tensor(f"{path}.weight_scale")
    if f"{path}.weight_packed" in opened.keys():  # noqa: SIM118
        values = unpack_from_words(opened.get_tensor(f"{path}.weight_packed"), scheme.bits, columns)
    else:
        values = opened.get_tensor(f"{path}.weight")
    groups = values.to(scale.dtype).view(rows, scale.shape[1], -1)
    weight: Tensor = (groups * scale[:, :, None]).view(rows, columns)
    return weight.to(like.dtype)


def _read_plain_config(model: Model) -> dict[str, Any]:
    found = find_plain_config(model)
    if found.reason:
        raise InputError(
            f"{model.name} cannot be written as {NAME}, which only stock classes load: {found.reason}; "
            "keep the artifact, or export it to onnx"
        )
    return {**found.config, "architectures": [type(model.module).__name__]}


def _mark_config(
    config: Mapping[str, Any], scheme: Scheme, layers: Mapping[str, CodableLayer], module: nn.Module
) -> dict[str, Any]:
    """A configuration that tells of the codes, also in its parts: the class of one tower reads that part alone, and calls its layers by
    what stands behind the tower's own path."""
    base = getattr(module, "base_model_prefix", "")
    found = dict(config)
    for key in getattr(getattr(type(module), "config_class", None), "sub_configs", {}):
        said = getattr(getattr(module, "config", None), key, None)
        towers = [path for path, part in module.named_modules() if path and said is not None and getattr(part, "config", None) is said]
        if isinstance(found.get(key), dict):
            found[key] = {**found[key], "quantization_config": make_quantization_config(scheme, layers, module, towers[:1])}
    return {**found, "quantization_config": make_quantization_config(scheme, layers, module, [base] if base else [])}


def _form_of(scheme: Scheme, layers: Mapping[str, CodableLayer]) -> str:
    """The format's name for how codes lie in the file: plain int8 where products are of integers, else packed."""
    quantized = any(layer.input is not None for layer in layers.values())
    return "int-quantized" if quantized and scheme.bits == 8 else "pack-quantized"


def _weight_args(scheme: Scheme) -> dict[str, Any]:
    grouped = {"strategy": "group", "group_size": scheme.group} if scheme.group else {"strategy": "channel", "group_size": None}
    return {"num_bits": scheme.bits, "type": "int", "symmetric": True, **grouped, "dynamic": False}


def _input_args(bits: int, static: bool) -> dict[str, Any]:
    """Ranges that need not lie around 0: one for all that comes, or one for each token."""
    return {"num_bits": bits, "type": "int", "symmetric": False, "strategy": "tensor" if static else "token", "dynamic": not static}


def _kind_of(codes: InputCodes | None) -> _InputKind:
    return None if codes is None else (codes.bits, codes.static)


def _list_names(paths: Sequence[str], prefixes: Sequence[str]) -> Iterator[str]:
    for path in paths:
        yield path
        yield from (path.removeprefix(f"{prefix}.") for prefix in prefixes if path.startswith(f"{prefix}."))


def _type_scales(scale: Tensor, dtype: torch.dtype) -> Tensor:
    half = scale.half()
    return half if dtype is torch.float16 and torch.equal(half.float(), scale) else scale


def _describe(scheme: Scheme) -> str:
    return f"{scheme.bits} bits with a scale " + ("for each row" if scheme.group is None else f"for every {scheme.group} columns")


def _count_reasons(reasons: Mapping[str, str]) -> str:
    if not reasons:
        return "nothing of it is stored as codes; compress it first"
    counts: dict[str, int] = {}
    for reason in reasons.values():
        counts[reason] = counts.get(reason, 0) + 1
    return "; ".join(f"{count} layers: {reason}" for reason, count in sorted(counts.items(), key=lambda item: -item[1]))


def _list_notes(scheme: Scheme, layers: Mapping[str, CodableLayer], source: ExportSource) -> Iterator[str]:
    decoded = sum(codes.parameter.nbytes for path, codes in source.layers.items() if path not in layers)
    if decoded:
        yield f"{decoded / 1e6:.2f} MB of the file are weights that the artifact holds as codes and the format cannot"
    if scheme.bits not in _VLLM_BITS or scheme.group not in _VLLM_GROUPS:
        yield f"vLLM has kernels for 4 and 8 bits per row or in groups of 32, 64 and 128; this file has {_describe(scheme)}"
    if any(source.layers[path].store.dtype is torch.bfloat16 for path in layers):
        yield "Transformers rounds the scales to bfloat16, the model's type, unless it is told dequantize=True"
    yield "Transformers decodes the weights when it loads them: the file is small, but on a CPU it is not faster than floats"


EXPORTER = Exporter(
    NAME, "vLLM and stock Transformers: weights as integers in linear layers, inputs too", (), "", write_compressed_tensors,
    target=NAME, keeps_types=True,
)  # fmt: skip
