"""Peers that compress a torch module: optimum-quanto, torchao, HQQ, bitsandbytes. See `embedding.py`.

Weights of linear layers; embeddings too where a peer can (torchao; its packed 4-bit layout is left out, since embedding these
texts with it takes over a quarter of an hour on two cores). Each peer saves what it makes with `torch.save`.
"""

from __future__ import annotations

from embedding import Forward, Job, torch_bytes, torch_forward, torch_model

GROUP = 64


def done(job: Job, model: object) -> tuple[Forward, int]:
    """What a row needs of a compressed module."""
    return torch_forward(model), torch_bytes(job, model)


def linears(model: object) -> list[tuple[object, str, object]]:
    """(parent, name, layer) of every linear layer."""
    from torch import nn

    return [
        (parent, name, child)
        for parent in model.modules()  # type: ignore[attr-defined]
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear)
    ]


def quanto(job: Job, bits: int) -> tuple[Forward, int]:
    """optimum-quanto: per channel at 8 bits, in groups (of 128 where they divide) at 4. With quantized inputs its
    embedding of these texts takes over half an hour on two cores; that row is left out."""
    from optimum.quanto import freeze, qint4, qint8, quantize

    model = torch_model(job)
    quantize(model, weights=qint8 if bits == 8 else qint4)
    freeze(model)
    return done(job, model)


def torchao(job: Job, bits: int, activations: bool = False) -> tuple[Forward, int]:
    """torchao: linear layers and embeddings; `activations` per token while it runs. The products of its integers are then
    taken in float64, which is exact: torch's own take over twenty minutes here, on a CPU without instructions for them."""
    import torch
    from torch import nn
    from torchao.quantization import (
        Int8DynamicActivationInt8WeightConfig,
        IntxWeightOnlyConfig,
        PerAxis,
        PerGroup,
        quantize_,
    )

    model = torch_model(job)
    granularity = PerAxis(0) if bits == 8 else PerGroup(GROUP)
    config = IntxWeightOnlyConfig(weight_dtype=getattr(torch, f"int{bits}"), granularity=granularity)
    quantize_(model, config, filter_fn=lambda module, name: isinstance(module, nn.Embedding))
    if activations:
        torch._int_mm = lambda a, b: (a.double() @ b.double()).to(torch.int32)  # type: ignore[assignment]
    quantize_(model, Int8DynamicActivationInt8WeightConfig() if activations else config)
    return done(job, model)


def hqq(job: Job, bits: int) -> tuple[Forward, int]:
    """HQQ: data-free, linear layers, asymmetric grid with a float zero-point per group."""
    import torch
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    model = torch_model(job)
    for parent, name, layer in linears(model):
        config = BaseQuantizeConfig(nbits=bits, group_size=GROUP, axis=1)
        setattr(parent, name, HQQLinear(layer, config, compute_dtype=torch.float32, device="cpu"))
    return done(job, model)


def bitsandbytes(job: Job, bits: int) -> tuple[Forward, int]:
    """bitsandbytes: linear layers, NF4 in blocks of 64 or int8 per row (with inputs in int8 too)."""
    import torch
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    model = torch_model(job)
    for parent, name, layer in linears(model):
        shape, bias = (layer.in_features, layer.out_features), layer.bias is not None  # type: ignore[attr-defined]
        if bits == 4:
            new = Linear4bit(*shape, bias=bias, compute_dtype=torch.float32, quant_type="nf4", compress_statistics=True)
        else:
            new = Linear8bitLt(*shape, bias=bias, has_fp16_weights=False, threshold=0.0)
        new.load_state_dict(layer.state_dict())  # type: ignore[attr-defined]
        setattr(parent, name, new.to("cpu"))
    return done(job, model)


def main() -> None:
    """All rows."""
    job = Job.from_arguments()
    job.row("optimum-quanto int8", "optimum-quanto", lambda: quanto(job, 8))
    job.row("optimum-quanto int4", "optimum-quanto", lambda: quanto(job, 4))
    job.row("torchao int8 + embeddings", "torchao", lambda: torchao(job, 8))
    job.row("torchao int4 g64 + embeddings", "torchao", lambda: torchao(job, 4))
    job.row("torchao int8 w+a per token", "torchao", lambda: torchao(job, 8, activations=True))
    job.row("HQQ int8 g64", "hqq", lambda: hqq(job, 8))
    job.row("HQQ int4 g64", "hqq", lambda: hqq(job, 4))
    job.row("bitsandbytes int8", "bitsandbytes", lambda: bitsandbytes(job, 8))
    job.row("bitsandbytes nf4", "bitsandbytes", lambda: bitsandbytes(job, 4))


if __name__ == "__main__":
    main()
