"""llm-compressor's GPTQ for `benchmarks.compress_speed`: W4 g128 of all linear layers but the head, or nothing (`bare`).

Called with the model's folder, the file of token ids, and `bare` or `gptq`. Prints one line of JSON. It needs a
processor even for samples that are tokens already, and a model that was loaded from a folder.
"""

from __future__ import annotations

import json
import resource
import sys
import time


def main() -> None:
    """Load, compress if that is wanted, and say what it took."""
    import torch
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import GPTQModifier
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, tokens, what = sys.argv[1:4]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for parameter in model.parameters():
        parameter.sum()  # a mapped file counts as memory only where it was read
    rows = torch.load(tokens)
    seconds = 0.0
    if what == "gptq":
        data = Dataset.from_dict({"input_ids": rows.tolist(), "attention_mask": torch.ones_like(rows).tolist()})
        start = time.perf_counter()
        oneshot(
            model=model, dataset=data, processor=AutoTokenizer.from_pretrained(folder),
            recipe=GPTQModifier(targets="Linear", scheme="W4A16", ignore=["lm_head"]),
            max_seq_length=rows.shape[1], num_calibration_samples=len(rows),
        )  # fmt: skip
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "peak_mib": peak / 1024, "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
