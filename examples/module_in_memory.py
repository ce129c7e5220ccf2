"""Compress a torch module that is in memory, with tensors that are in memory, and measure it with a metric of your own."""

import sys
import tempfile

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import trimodal

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 4))
inputs = torch.randn(400, 16)
truth = model(inputs).argmax(1)


def accuracy(module: nn.Module) -> Tensor:
    """1 or 0 for each input: whether its class is right."""
    return (module(inputs).argmax(1) == truth).float()


out = f"{sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()}/out"
loader = DataLoader(TensorDataset(inputs, truth), batch_size=32)
result = trimodal.compress(model, "int8-full", loader, out, evaluate=accuracy)
print(result, trimodal.load(out, factory=model)(inputs[:1]), sep="\n")
