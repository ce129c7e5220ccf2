"""Loaders of other packages that stand on Transformers': sentence-transformers and PEFT, installed for the test alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import trimodal
from trimodal.networks.tiny import write_miniature

SENTENCES = """
import sys, torch
from safetensors.torch import save_file
if sys.argv[1] == "imported": import trimodal
from sentence_transformers import SentenceTransformer
found = SentenceTransformer(sys.argv[2], device="cpu").encode(["a red dog sings", "blue house"], convert_to_tensor=True)
save_file({"found": found.float().contiguous()}, sys.argv[3])
"""
ADAPTERS = """
import sys, torch, trimodal
from safetensors.torch import save_file
from peft import AutoPeftModel, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModel
whole = get_peft_model(AutoModel.from_pretrained(sys.argv[1]), LoraConfig(target_modules=["query"], r=2))
ids = {"input_ids": torch.tensor([[2, 9, 10, 3]])}
with torch.inference_mode():
    save_file({"found": whole.eval()(**ids).last_hidden_state.contiguous()}, sys.argv[2])
try:
    AutoPeftModel.from_pretrained(sys.argv[1])
except ValueError as error:
    print("refused:", error)
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sentence-transformers and peft, without what they need and this environment has."""
    folder = tmp_path_factory.mktemp("packages")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    names = ["sentence-transformers", "peft", "accelerate", "scikit-learn", "scipy", "joblib", "threadpoolctl"]
    done = subprocess.run([*command, *names], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot install: {done.stderr.strip().splitlines()[-1:]}")
    return folder


def run(packages: Path, script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(packages)]), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with a dense layer behind it, and what became of it in 8 bits (`out`)."""
    folder = tmp_path_factory.mktemp("encoder")
    source = write_miniature("bert", folder / "bert")
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense")]
    modules = [{"idx": i, "name": str(i), "path": p, "type": f"sentence_transformers.models.{k}"} for i, (p, k) in enumerate(kinds)]
    (source / "modules.json").write_text(json.dumps(modules))
    for name, content in {
        "1_Pooling": {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True},
        "2_Dense": {"in_features": 32, "out_features": 8, "bias": True, "activation_function": "torch.nn.modules.linear.Identity"},
    }.items():
        (source / name).mkdir()
        (source / name / "config.json").write_text(json.dumps(content))
    torch.manual_seed(0)
    save_file({"linear.weight": torch.randn(8, 32), "linear.bias": torch.randn(8)}, source / "2_Dense" / "model.safetensors")
    trimodal.compress(source, "int8", None, folder / "out")
    return folder


@pytest.mark.slow
def test_sentence_transformers(packages: Path, encoder: Path, tmp_path: Path) -> None:
    for name in ("bert", "out"):
        done = run(packages, SENTENCES, "imported", encoder / name, tmp_path / name)
        assert done.returncode == 0, done.stderr[-2000:]
    one, other = (load_file(tmp_path / name)["found"] for name in ("bert", "out"))
    assert one.shape == other.shape == (2, 8) and 0 < float((one - other).norm() / one.norm()) < 0.05
    stranger = run(packages, SENTENCES, "not", encoder / "out", tmp_path / "none")
    assert stranger.returncode and "put the line `import trimodal` before" in stranger.stderr


@pytest.mark.slow
def test_adapters(packages: Path, encoder: Path, tmp_path: Path) -> None:
    """A new adapter on a compressed model changes nothing yet; a folder that is no adapter is none of PEFT's."""
    done = run(packages, ADAPTERS, encoder / "out", tmp_path / "found")
    assert done.returncode == 0 and "refused:" in done.stdout, done.stderr[-2000:]
    with torch.inference_mode():
        expected = trimodal.load(encoder / "out")(input_ids=torch.tensor([[2, 9, 10, 3]])).last_hidden_state
    assert torch.allclose(load_file(tmp_path / "found")["found"], expected, atol=1e-6)
