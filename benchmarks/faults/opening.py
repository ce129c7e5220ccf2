"""Models and recipes that others tried and that were refused, broken or changed on the way in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
import transformers as hf
from torch import Tensor, nn

import trimodal
from benchmarks.faults.trying import expect, refused
from benchmarks.faults.trying import trimodal as command
from trimodal.catalogue import list_recipes
from trimodal.errors import InputError
from trimodal.networks.tiny import write_miniature, write_miniature_data


class Shared(nn.Module):
    """One layer under two names, one block three times, one weight in two layers, an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        block = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.inp, self.layers = nn.Linear(16, 32), nn.ModuleList([block] * 3)
        self.alias, self.lstm = self.inp, nn.LSTM(32, 32, batch_first=True)
        self.out, self.again = nn.Linear(32, 16), nn.Linear(32, 16)
        self.again.weight = self.out.weight

    def forward(self, x: Tensor) -> Tensor:
        """y (batch, time, 16) of x (batch, time, 16)."""
        x = self.inp(x)
        for layer in self.layers:
            x = x + layer(x)
        x = self.lstm(x)[0]
        y: Tensor = self.out(x) + self.again(self.alias(x[..., :16]))
        return y

    def example(self) -> dict[str, Tensor]:
        return {"x": torch.zeros(1, 8, 16)}


def shared() -> nn.Module:
    """For a process that makes the model by its name."""
    return Shared()


def users_model_changed(folder: Path) -> str:
    net = Shared().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    kinds, chance = [type(part) for part in net.modules()], torch.get_rng_state()
    x = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = net(x)
    trimodal.inspect(lambda: net)
    for name in ("first", "second"):
        trimodal.compress(lambda: net, "int8", None, folder / name)
    now = net.state_dict()
    expect(all(torch.equal(value, now[name]) for name, value in before.items()), "the user's tensors have changed")
    expect([type(part) for part in net.modules()] == kinds and net.training, "the user's layers were replaced or switched")
    expect(torch.equal(chance, torch.get_rng_state()), "the user's random numbers go on elsewhere")
    loaded = trimodal.load(folder / "second", factory=lambda: net)
    with torch.no_grad():
        error = float((loaded(x) - y).norm() / y.norm())
    expect(error < 0.05, f"relative error {error:.3f} after loading")
    done = command("compress", "benchmarks.faults.opening:shared", "--recipe", "int8", "--data", "none", "-o", folder / "named")
    expect(done.code == 0, done.said)
    return f"model, flags and random numbers as before, twice; loaded with a relative error of {error:.4f}"


def packing_asked_for_by_the_recipe(folder: Path) -> str:
    net, data = write_miniature("bert", folder / "bert"), write_miniature_data(folder / "data", 12, ["text"])
    sizes = {}
    for name, pack in (("asked", None), ("plain", "plain")):
        result = trimodal.compress(str(net), "small", data, folder / name, pack=pack)  # type: ignore[arg-type]
        expect(result.plan.pack == ("plain" if pack else "entropy"), f"the plan says pack {result.plan.pack}")
        sizes[name] = result.verdict.size.weights_after_bytes
    expect((folder / "asked" / "model.trimodal").is_file(), "small wrote a plain file")
    wrong = {"steps": ["quantize.rtn"], "pack": "entropi"}
    try:
        trimodal.plan(str(net), wrong)
    except InputError as error:
        expect("did you mean 'entropy'" in str(error), str(error))
        return f"small: {sizes['asked']:,} bytes of weights, {sizes['plain']:,} with --pack plain"
    expect(False, "pack: entropi was taken")
    return ""


def built_in_recipes_on_models_without_embeddings(folder: Path) -> str:
    convolutions = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1))
    vit = write_miniature("vit", folder / "vit")
    data = write_miniature_data(folder / "data", 330, ["image"])  # the recipe `demo` asks for 256 to calibrate
    for recipe in list_recipes():
        trimodal.plan(str(vit), recipe, data)
    for recipe in ("int8", "small"):
        trimodal.plan(lambda: convolutions, recipe)
    mine = {"steps": [{"quantize.rtn": {"where": "*embedding*", "bits": 4}}, {"quantize.rtn": {"where": "*"}}]}
    try:
        trimodal.plan(str(vit), mine)
        expect(False, "a pattern of a user's recipe that matches nothing was passed over")
    except InputError as error:
        expect("'*embedding*' matches nothing" in str(error), str(error))
    mine["steps"][0]["quantize.rtn"]["optional"] = True
    skipped = trimodal.plan(str(vit), mine).skipped
    expect(len(skipped) == 1, f"the plan tells of {len(skipped)} skipped steps")
    return f"{len(list_recipes())} recipes plan a ViT; `optional: true`: {skipped[0].step} ({skipped[0].method}) has nothing to do"


def forward_that_fails(folder: Path) -> str:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    oblong = hf.ViTForImageClassification(hf.ViTConfig(**sizes, image_size=(32, 48), patch_size=8))
    choices = hf.BertForMultipleChoice(hf.BertConfig(**sizes, vocab_size=50))
    oblong.save_pretrained(folder / "oblong")
    choices.save_pretrained(folder / "choices")
    expect(bool(trimodal.inspect(str(folder / "oblong")).macs), "operations of an oblong ViT are unknown")
    for model in (folder / "choices", "benchmarks.faults.opening:broken"):
        done = command("inspect", model, "--json")
        expect(done.code == 0, done.said)
        found = json.loads(done.out)
        expect(found["macs"] is None and bool(found["macs_note"]), f"operations {found['macs']}")
    return f"inspect goes on: {found['macs_note'][:110]}"


class Broken(Shared):
    """An example that its forward does not take."""

    def forward(self, x: Tensor) -> Tensor:
        raise LookupError("no such thing")


def broken() -> nn.Module:
    """For a process that makes the model by its name."""
    return Broken()


def processor_that_cannot_be_loaded(folder: Path) -> str:
    """A feature extractor or image processor whose package is missing; here of a class that needs what is not there."""
    net = write_miniature("clip", folder / "clip")
    kind = {"image_processor_type": "NobodysImageProcessor"}
    (net / "preprocessor_config.json").write_text(json.dumps(kind), encoding="utf-8")
    for words in (("inspect", net), ("compress", net, "--recipe", "int8", "--data", "none", "-o", folder / "out")):
        done = command(*words)
        expect(done.code == 0, done.said)
    kept = json.loads((folder / "out" / "preprocessor_config.json").read_text(encoding="utf-8"))
    expect(kept == kind, "the processor's file was not carried over")
    data = write_miniature_data(folder / "data", 12, ["image", "text"])
    done = command("compress", net, "--recipe", "int8", "--data", data, "-o", folder / "other")
    return refused(done, "its image processor cannot be loaded")


def modules_that_cannot_be_compressed(folder: Path) -> str:
    plain = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    with torch.device("meta"):
        hollow = nn.Linear(4, 4)
    cases: dict[str, Callable[[], nn.Module]] = {
        "TorchScript": lambda: torch.jit.script(plain), "has no size yet": lambda: nn.Sequential(nn.LazyLinear(8)),
        "meta": lambda: hollow, "no linear layer": lambda: nn.ParameterList([torch.ones(4, 4)]),
    }  # fmt: skip
    for words, factory in cases.items():
        try:
            trimodal.compress(factory, "int8", None, folder / "out")
        except InputError as error:
            expect(words in str(error) and "  " not in str(error), str(error))
        else:
            expect(False, f"{words}: was compressed")
    for name, wrapped in (("parallel", nn.DataParallel(plain)), ("compiled", torch.compile(plain, backend="eager"))):
        trimodal.compress(lambda net=wrapped: net, "int8", None, folder / name)  # type: ignore[misc]
        trimodal.load(folder / name, factory=lambda net=wrapped: net)  # type: ignore[misc]
    return f"{len(cases)} refused in a sentence; DataParallel and torch.compile are compressed as what is inside of them"


ENTRIES = {
    "1.8": users_model_changed,
    "1.15": packing_asked_for_by_the_recipe,
    "2.2": built_in_recipes_on_models_without_embeddings,
    "2.5": forward_that_fails,
    "2.6": processor_that_cannot_be_loaded,
    "2.10": modules_that_cannot_be_compressed,
}
