"""The models that are timed, at their real size. Weights are random with a fixed seed, but for MiniLM's, which are the published ones.

Random weights have none of the loud channels of trained ones: cosines on them say that the arithmetic is right, and no more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trimodal.core import Sample
    from trimodal.models.model import Model

Inputs = Mapping[str, "Tensor"]
HALVED = [{method: {"where": "*", "sparsity": 0.5, "score": "magnitude"}} for method in ("prune.heads", "prune.neurons")]
MERGED = [{"merge.tokens": {"share": 0.5, "blocks": 3}}]
EMBEDDINGS = {"quantize.rtn": {"where": "*embedding*", "optional": True, "bits": 8, "group": "channel", "clip": "max"}}
INT8_FULL = [EMBEDDINGS, {"quantize.smooth": {"where": "*", "optional": True, "bits": 8, "fold_factors": "auto"}}]
"""The steps of the built-in recipe `int8-full`, but for folding batch norms, which most models have none of."""
INT8 = [EMBEDDINGS, {"quantize.smooth": {"where": "*", "optional": True, "bits": 8, "strength": 0.5, "fold_factors": "auto"}}]
"""The same without the search for the smoothing's strength, which finds nothing in random weights and takes minutes at these sizes."""
INT8_WEIGHTS = [{"quantize.rtn": {"where": "*", "optional": True, "bits": 8, "group": "channel", "clip": "max"}}]
"""The steps of the built-in recipe `int8`."""


@dataclass(frozen=True)
class Case:
    """A model that is timed.

    Attributes:
        name: what it is called in the table.
        make: the module, in eval mode.
        inputs: (samples, seed) -> keyword arguments of the forward, seeded.
        structure: steps that make it smaller, empty where the row is left out; `tokens`: steps that merge tokens.
        tokens_timed: length of the texts that are timed, where the inputs are texts of any length.
        judged: samples that fidelity is measured on.
        transformer: whether NNCF is told that it is one.
        calibration: how many samples are calibrated with.
        real: whether weights are those that were published.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[int, int], Inputs]
    structure: Sequence[Mapping[str, Any]] = ()
    tokens: Sequence[Mapping[str, Any]] = ()
    tokens_timed: int = 0
    judged: int = 8
    transformer: bool = True
    calibration: int = 8
    real: bool = False
    steps: Sequence[Mapping[str, Any]] = field(default_factory=lambda: INT8)

    def timed(self, batch: int) -> Inputs:
        """What is timed: `inputs`, or texts of `tokens_timed` tokens."""
        return make_texts(batch, 2, self.tokens_timed) if self.tokens_timed else self.inputs(batch, 2)


def make_images(samples: int, seed: int) -> Inputs:
    """`pixel_values` (samples, 3, 224, 224)."""
    import torch

    return {"pixel_values": torch.randn(samples, 3, 224, 224, generator=torch.Generator().manual_seed(seed))}


def make_texts(samples: int, seed: int, tokens: int = 128, words: int = 30000) -> Inputs:
    """`input_ids` and `attention_mask` (samples, tokens)."""
    import torch

    ids = torch.randint(1000, words, (samples, tokens), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def make_pairs(samples: int, seed: int) -> Inputs:
    """Images, and texts of 77 tokens, as CLIP takes them."""
    return {**make_texts(samples, seed, 77, 49000), **make_images(samples, seed)}


def make_sounds(name: str, shape: tuple[int, int]) -> Callable[[int, int], Inputs]:
    """Spectrograms (samples, *shape)."""

    def make(samples: int, seed: int) -> Inputs:
        import torch

        return {name: torch.randn(samples, *shape, generator=torch.Generator().manual_seed(seed))}

    return make


def make_sentences(samples: int, seed: int) -> Inputs:
    """Real sentences as MiniLM takes them, padded to the longest; other ones for other seeds."""
    from transformers import AutoTokenizer

    from benchmarks.minilm import model_folder, sentences

    texts = [text for name, group in sorted(sentences().items()) for text in group if (hash_of(name) % 2) == seed % 2]
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    chosen = texts[seed :: max(1, len(texts) // samples)][:samples]
    found = tokenizer(chosen, padding=True, truncation=True, max_length=64, return_tensors="pt")
    return {name: found[name] for name in ("input_ids", "attention_mask")}


def hash_of(name: str) -> int:
    """A number for a name, the same in every process."""
    import zlib

    return zlib.crc32(name.encode())


def seeded(kind: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    """A function that makes Transformers' class `kind` from `config` with seeded random weights."""

    def make() -> nn.Module:
        import torch
        import transformers

        torch.manual_seed(0)
        made: nn.Module = getattr(transformers, kind)(getattr(transformers, config)(**options)).eval()
        return made

    return make


def make_whisper_encoder() -> nn.Module:
    """The encoder of Whisper-small."""
    import torch
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    torch.manual_seed(0)
    return WhisperEncoder(WhisperConfig(d_model=768, encoder_layers=12, encoder_attention_heads=12, encoder_ffn_dim=3072)).eval()


def load_minilm() -> nn.Module:
    """all-MiniLM-L6-v2 as it was published."""
    from transformers import AutoModel

    from benchmarks.minilm import model_folder

    made: nn.Module = AutoModel.from_pretrained(model_folder()).eval()
    return made


CASES: Mapping[str, Case] = {
    case.name: case
    for case in (
        Case("ViT-B/16", seeded("ViTForImageClassification", "ViTConfig", num_labels=1000), make_images, HALVED, MERGED),
        Case("CLIP ViT-B/32", seeded("CLIPModel", "CLIPConfig"), make_pairs, HALVED,
             [{"merge.tokens": {"where": "image", "share": 0.5, "blocks": 3}}]),
        Case("BERT-base", seeded("BertModel", "BertConfig"), make_texts, HALVED),
        Case("MiniLM", load_minilm, make_sentences, tokens_timed=32, judged=64, calibration=256, real=True, steps=INT8_FULL),
        Case("Whisper-small encoder", make_whisper_encoder, make_sounds("input_features", (80, 3000)), HALVED, MERGED, calibration=2),
        Case("AST", seeded("ASTForAudioClassification", "ASTConfig", num_labels=527), make_sounds("input_values", (1024, 128)), HALVED,
             MERGED, calibration=2),
        Case("ResNet-50", seeded("ResNetForImageClassification", "ResNetConfig", num_labels=1000), make_images,
             [{"prune.channels": {"where": "*.[12].channels", "sparsity": 0.5, "score": "magnitude"}}], transformer=False,
             steps=[{"fold.exact": {}}, *INT8_FULL]),
    )
}  # fmt: skip


def open_case(case: Case) -> Model:
    """The case's model, encoding samples by their number (`make_samples`)."""
    from trimodal.loading.load import build_model

    model = build_model(case.make(), case.name)
    known = case.inputs(case.calibration, 0)

    def encode(module: Any, processors: Any, loaded: Sequence[Any]) -> dict[str, Tensor]:
        rows = [json.loads(sample.target) for sample in loaded]
        return {name: value[rows] for name, value in known.items()}

    return replace(model, family=replace(model.family, encode=encode))


def _load_nothing() -> tuple[None, int]:
    return None, 16000


def make_samples(model: Model, count: int) -> list[Sample]:
    """Samples that stand for the rows of the calibration inputs; they hold what the model takes, in name only."""
    from trimodal.core import Media, Sample

    def make(number: int) -> Sample:
        held = {m: Media(f"{m} {number}", _load_nothing) for m in model.modalities if m != "text"}
        text = "text" if "text" in model.modalities else None
        return Sample(number + 1, held.get("image"), held.get("audio"), text, target=str(number))

    return [make(number) for number in range(count)]
