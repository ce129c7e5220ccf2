"""A real-size CLIP ViT-B/32 from its configuration (random weights), int8 and int4 mixed, through the command line.

`python -m benchmarks.clip` prints wall time, peak memory of the largest process, sizes on disk and the reload check.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.minilm import sentences
from benchmarks.passlines import PassLine, finish, table

SAMPLES = 128
RECIPE = """
calibration: {samples: 64}
steps:
  - quantize.rtn: {where: ["*embedding", "*.patch", "*projector", "*.0.*", "*.11.*"], bits: 8, clip: max}
  - quantize.gptq: {where: "*", bits: 4, group: 64}
"""


def write_model(folder: Path) -> None:
    """The model folder: configuration, random weights, image processor, a tokenizer trained on local text."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    torch.manual_seed(0)
    inner = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.BPEDecoder(suffix="</w>")
    special = ["<|startoftext|>", "<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=4096, special_tokens=special, end_of_word_suffix="</w>", show_progress=False
    )
    inner.train_from_iterator([text for texts in sentences().values() for text in texts], trainer)
    inner.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>",
        special_tokens=[(token, inner.token_to_id(token)) for token in special],
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=special[0], eos_token=special[1], pad_token=special[1], model_max_length=77
    )
    text = {
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = transformers.CLIPConfig(text_config=text)
    transformers.CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    transformers.CLIPImageProcessor().save_pretrained(folder)


def write_data(folder: Path) -> None:
    """Handwritten digits beside sentences."""
    from PIL import Image
    from sklearn.datasets import load_digits

    (folder / "images").mkdir(parents=True)
    texts = [text for module in sentences().values() for text in module]
    random.Random(0).shuffle(texts)
    lines = []
    for i, (digit, text) in enumerate(zip(load_digits().images[:SAMPLES], texts)):
        name = f"images/{i:04d}.png"
        Image.fromarray((digit * 15).astype("uint8")).resize((64, 64)).save(folder / name)
        lines.append(json.dumps({"image": name, "text": text}))
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n")


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        here = Path(scratch)
        model, data, recipe, out = here / "model", here / "data", here / "mixed.yaml", here / "out"
        write_model(model)
        write_data(data)
        recipe.write_text(RECIPE)
        start = time.perf_counter()
        command = [
            sys.executable,
            "-m",
            "trimodal.cli",
            "compress",
            str(model),
            "-r",
            str(recipe),
            "-d",
            str(data),
            "-o",
            str(out),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        if done.returncode:
            sys.exit(done.stderr)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        verdict = json.loads((out / "verdict.json").read_text())
    checks = {check["name"]: check for check in verdict["checks"]}
    difference = float(checks["outputs equal after reload"]["detail"].split("difference ")[1].split()[0])
    size, took = verdict["size"], verdict["seconds"]
    rows = [(name, f"{value:,.1f} s") for name, value in took.items()]
    rows += [("whole command", f"{seconds:,.1f} s"), ("peak memory of one process", f"{peak / 1e9:.2f} GB")]
    rows += [
        ("weights before", f"{size['weights_before_bytes']:,} bytes"),
        ("weights after", f"{size['weights_after_bytes']:,} bytes"),
    ]
    rows += [(f"{m['name']} ({m['samples']} samples)", f"{m['after']:.4f}") for m in verdict["metrics"]]
    print(table(("CLIP ViT-B/32, random weights, seed 0", ""), rows))
    print(
        "Random weights have no outliers: read the cosines as a check of the arithmetic, not as a forecast of accuracy."
    )
    finish([
        PassLine("minutes", seconds / 60, most=5.0),
        PassLine("peak GB", peak / 1e9, most=4.0),
        PassLine("largest output difference after reload", difference, most=0.0),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
