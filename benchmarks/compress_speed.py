"""How long GPTQ takes, and how much memory: ours beside llm-compressor, on a decoder of 106 million parameters.

`python -m benchmarks.compress_speed`: 4 bits in groups of 128, all linear layers of a Llama-like decoder with random
weights (8 blocks, 768 wide) but the head, which both leave in float as llm-compressor's own recipes do; 128 samples of 512
tokens from a seeded generator. Both take each group's whole range (llm-compressor's preset is symmetric min-max; our own
default, a search for the range, costs more). Each run is a process of its own that loads the model from a folder; the tools take turns.
Memory is the largest that the process ever held (`ru_maxrss`), above that of a process that only imports the same tool and
loads the same model. llm-compressor needs its environment: `python -m benchmarks.peers llmcompressor`.

The floor is the arithmetic that any sequential GPTQ does, at the rate that this machine multiplies matrices of that size:
every block once as it was, for its layers' inputs, and once compressed, for the next block's; and xᵀx per layer's input,
of which half is needed. Solving, attention scores and the embedding are not counted.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.passlines import PassLine, finish, table
from benchmarks.peers import python_of

LAYERS, WIDTH, INNER, HEADS, VOCABULARY = 8, 768, 2048, 12, 32_000
SAMPLES, TOKENS, ROUNDS = 128, 512, 2
OURS, PEER = "trimodal", "llm-compressor"
LINEARS = [f"*.{role}" for role in ("query", "key", "value", "output", "up", "gate", "down")]
RECIPE = {"steps": [{"quantize.gptq": {"where": LINEARS, "bits": 4, "group": 128, "clip": "max"}}]}
PUBLISHED = "llm-compressor 0.14.0.1 measured earlier, 32 x 128 tokens: 24 s, 1,556 MB peak, 1,024 MB bare"


def write_model(folder: Path) -> None:
    """The model, and a tokenizer whose words `w0` … are the tokens 0 …"""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=HEADS, vocab_size=VOCABULARY, max_position_embeddings=2048, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", pad_token="w0").save_pretrained(folder)


def work(folder: Path, tokens: Path, what: str) -> None:
    """One run of ours, in this process: load, compress if that is wanted, and print what it took."""
    import torch

    from trimodal.compression import compress_
    from trimodal.core import Calibration, Plan, Sample, Source
    from trimodal.formats import open_model
    from trimodal.planning import plan_edits, read_recipe

    model = open_model(folder)
    for parameter in model.module.parameters():
        parameter.sum()  # a mapped file counts as memory only where it was read
    seconds, bits = 0.0, 0.0
    if what == "gptq":
        texts = [" ".join(f"w{token}" for token in row) for row in torch.load(tokens).tolist()]
        samples = [Sample(line, text=text) for line, text in enumerate(texts)]
        start = time.perf_counter()
        edits, _ = plan_edits(model.layout, read_recipe(RECIPE), True)
        plan = Plan(0, Source("", "", "", 0, 0), Calibration(len(samples), None, ("text",), "tokens"), edits, 0)
        compress_(model, plan, samples, samples)
        seconds = time.perf_counter() - start
        done = [site for site in model.layout.sites if site.stored == "quantized"]
        bits = 8 * sum(site.stored_bytes for site in done) / sum(site.rows * site.columns for site in done)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {"seconds": seconds, "peak_mib": peak / 1024, "threads": torch.get_num_threads(), "bits": bits}
    print(json.dumps(found))


def rate() -> float:
    """Operations per second of a matrix product as large as the forward pass's, the best of several."""
    import torch

    x, w = torch.randn(TOKENS * 8, WIDTH), torch.randn(WIDTH, INNER)
    seconds = math.inf
    for _ in range(20):
        start = time.perf_counter()
        x @ w
        seconds = min(seconds, time.perf_counter() - start)
    return 2 * x.shape[0] * WIDTH * INNER / seconds


def operations() -> float:
    """Of two forward passes through the blocks' linear layers, and half of xᵀx for each of their four inputs."""
    weights = LAYERS * (4 * WIDTH**2 + 3 * WIDTH * INNER)
    moments = LAYERS * (3 * WIDTH**2 + INNER**2)
    return SAMPLES * TOKENS * (2 * 2 * weights + moments)


def run(command: list[str | Path]) -> dict[str, float] | None:
    """The JSON of the last line that the command prints; None where it fails, after its last words."""
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
        return found
    except (IndexError, ValueError):
        print("\n".join((done.stderr or done.stdout).strip().splitlines()[-3:]))
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", nargs=3, metavar=("FOLDER", "TOKENS", "WHAT"), help="one run of ours, in this process")
    parser.add_argument("--without-peers", action="store_true", help="ours only")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each tool has its turn")
    chosen = parser.parse_args()
    if chosen.work:
        work(Path(chosen.work[0]), Path(chosen.work[1]), chosen.work[2])
        return
    import torch

    with tempfile.TemporaryDirectory() as name:
        folder, tokens = Path(name) / "model", Path(name) / "tokens.pt"
        write_model(folder)
        torch.save(torch.randint(VOCABULARY, (SAMPLES, TOKENS), generator=torch.Generator().manual_seed(0)), tokens)
        commands: dict[str, list[str | Path]] = {
            OURS: [sys.executable, "-m", "benchmarks.compress_speed", "--work", folder, tokens]
        }
        python = None if chosen.without_peers else python_of("llmcompressor")
        if python is not None:
            script = Path(__file__).parent / "peers" / "llmcompressor_speed.py"
            commands[PEER] = [python, script, folder, tokens]
        rows: list[tuple[str, ...]] = []
        seconds: dict[str, list[float]] = {tool: [] for tool in commands}
        above: dict[str, list[float]] = {tool: [] for tool in commands}
        for number in range(chosen.rounds):
            for tool, command in commands.items():
                bare, full = run([*command, "bare"]), run([*command, "gptq"])
                if bare is None or full is None:
                    continue
                seconds[tool].append(full["seconds"])
                above[tool].append(full["peak_mib"] - bare["peak_mib"])
                rows.append((tool, str(number), f"{full['seconds']:.1f}", f"{full['peak_mib']:,.0f}",
                             f"{bare['peak_mib']:,.0f}", f"{above[tool][-1]:,.0f}", f"{full['threads']:.0f}"))  # fmt: skip
                print(*rows[-1], sep="  ", flush=True)
    print()
    print(table(("tool", "round", "seconds", "peak MiB", "bare MiB", "above it", "threads"), rows))
    speed = rate()
    print(f"floor: {operations() / 1e12:.1f} Tera-operations at {speed / 1e9:.0f} G/s = {operations() / speed:.1f} s")
    if not seconds.get(PEER):
        print(f"no line: {PEER} did not run here (python -m benchmarks.peers llmcompressor). {PUBLISHED}")
        return
    faster = statistics.mean(seconds[PEER]) / statistics.mean(seconds[OURS])
    less = statistics.mean(above[OURS]) / statistics.mean(above[PEER])
    finish([
        PassLine("times faster than llm-compressor", faster, least=2.0),
        PassLine("memory above the bare model, as a share of llm-compressor's", less, most=0.5),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
