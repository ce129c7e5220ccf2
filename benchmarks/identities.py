"""Identities that a right implementation has to fulfil, on one synthetic layer; nothing is trained, no data is needed.

`python -m benchmarks.identities` takes seconds. The layer: weights 256 × 256 out of Student's t with 6 degrees of
freedom and unit variance; 4,096 inputs with eigenvalues 1/i in random directions, four columns twelve times as loud.
Three seeds; each row shows the mean over all cases, their range, and how many cases there were. The letters in brackets
are those of the list that the lines were taken from (`docs/benchmarks.md`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from benchmarks.passlines import PassLine, finish, table

if TYPE_CHECKING:
    from torch import Tensor

    from trimodal.core import Change
    from trimodal.methods import Method
    from trimodal.statistics import Moment

SEEDS = (0, 1, 2)
SIZE, TOKENS, LOUD = 256, 4096, 12.0
DAMPING = 1e-3
ENTROPY_SLACK, ENTROPY_BYTES = 1.01, 64


@dataclass(frozen=True)
class Check:
    """One line: the measured values of all cases, and the bound that every single one has to keep."""

    name: str
    values: tuple[float, ...]
    least: float | None = None
    most: float | None = None

    @property
    def row(self) -> tuple[str, ...]:
        mean = sum(self.values) / len(self.values)
        bounds = [f">= {self.least:g}"] if self.least is not None else []
        bounds += [f"<= {self.most:g}"] if self.most is not None else []
        spread = f"{min(self.values):.4g} … {max(self.values):.4g}"
        return self.name, f"{mean:.4g}", spread, str(len(self.values)), " and ".join(bounds)

    @property
    def lines(self) -> list[PassLine]:
        found = []
        if self.least is not None:
            found.append(PassLine(f"{self.name}, least", min(self.values), least=self.least))
        if self.most is not None:
            found.append(PassLine(f"{self.name}, most", max(self.values), most=self.most))
        return found


@dataclass(frozen=True)
class Layer:
    """W (m, n), its calibration inputs (tokens, n) and their moment."""

    weight: Tensor
    inputs: Tensor
    moment: Moment


def layer(seed: int) -> Layer:
    """The synthetic layer."""
    import torch

    from trimodal.statistics import Moment

    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    weight = normal(SIZE, SIZE) / normal(6, SIZE, SIZE).square().mean(0).sqrt() / math.sqrt(6 / 4)
    directions = torch.linalg.qr(normal(SIZE, SIZE))[0]
    loud = torch.ones(SIZE)
    loud[torch.randperm(SIZE, generator=random)[:4]] = LOUD
    inputs = normal(TOKENS, SIZE) @ (directions * (1.0 / torch.arange(1, SIZE + 1)).sqrt()).T * loud
    moment = Moment(SIZE)
    moment.update(inputs)
    return Layer(weight, inputs, moment)


def solved(method: Method, weight: Tensor, moment: Moment | None, bias: Tensor | None = None, **options: Any) -> Change:
    """What `method` makes of a single linear layer."""
    from trimodal.core import Place, Site
    from trimodal.methods.options import build_config

    assert method.solve is not None
    site = Site("layer", "text", 0, "down", "linear", tuple(weight.shape), bias=bias is not None)
    weights = {"layer.weight": weight} | ({} if bias is None else {"layer.bias": bias})
    return method.solve(Place("text.0.down", (site,)), weights, moment, build_config(method.config, options, method.name))


def decoded(change: Change) -> Tensor:
    """The weight that a change decodes to, by the module that a saved model uses."""
    from trimodal.layers import make_weight_store

    treatment = change.treatments["layer"]
    if treatment.kind == "low_rank":
        return treatment.tensors["second"] @ treatment.tensors["first"]
    weight: Tensor = make_weight_store(treatment.kind, treatment.options, treatment.tensors)()
    return weight.detach()


def relative(found: Tensor, expected: Tensor) -> float:
    """‖found − expected‖ / ‖expected‖."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def gain_over_rounding() -> Iterator[Check]:
    """(a) The error of GPTQ over that of rounding is Σ U_ii⁻² / tr C, U the factor of the inverse moment."""
    import torch

    from trimodal.maths.cholesky import inverse_root
    from trimodal.maths.error import quadratic_form
    from trimodal.methods.quantize import gptq, rtn

    for bits, ordered in product((6, 4), (True, False)):
        values = []
        for seed in SEEDS:
            case = layer(seed)
            second = case.moment.second
            order = torch.sort(second.diagonal(), descending=True).indices if ordered else torch.arange(SIZE)
            root, _ = inverse_root(second[order][:, order], 1e-6, TOKENS)
            predicted = float(root.diagonal().pow(-2).sum() / second.double().trace())
            ours = decoded(
                solved(
                    gptq.METHOD,
                    case.weight,
                    case.moment,
                    bits=bits,
                    clip="max",
                    damping=1e-6,
                    activation_order=ordered,
                )
            )
            rounded = decoded(solved(rtn.METHOD, case.weight, None, bits=bits, clip="max"))
            measured = quadratic_form(case.weight - ours, second) / quadratic_form(case.weight - rounded, second)
            values.append(measured / predicted)
        which = "loudest first" if ordered else "as they come"
        yield Check(f"(a) GPTQ/RTN over theory, {bits} bit, columns {which}", tuple(values), 0.95, 1.15)


def low_rank() -> Iterator[Check]:
    """(b) The eigen form is whitened SVD; (c) the error that it announces is the error it has."""
    import torch

    from trimodal.maths.lowrank import kept_energy, output_basis
    from trimodal.methods.factorize.eigen import fit_eigen_factors

    same, announced = [], []
    for seed, rank in product(SEEDS, (16, 64, 128)):
        case = layer(seed)
        second = case.moment.second.double()
        first, back, _ = fit_eigen_factors(case.weight, case.moment.second, rank)
        ours = back.double() @ first.double()
        whitening = torch.linalg.cholesky(second)
        u, s, v = torch.linalg.svd(case.weight.double() @ whitening)
        theirs = torch.linalg.solve_triangular(whitening, (u[:, :rank] * s[:rank]) @ v[:rank], upper=False, left=False)
        x = case.inputs.double()
        same.append(relative(x @ ours.T, x @ theirs.T))
        values, vectors = output_basis(case.weight, case.moment.second)
        kept = vectors[:, :rank]
        change = case.weight.double() - kept @ (kept.T @ case.weight.double())
        error = float((x @ change.T).square().sum() / (x @ case.weight.double().T).square().sum())
        announced.append(abs(1 - kept_energy(values, rank) - error))
    yield Check("(b) eigen form against whitened SVD, relative difference of outputs", tuple(same), most=1e-5)
    yield Check("(c) announced minus measured error of rank k", tuple(announced), most=1e-6)


def transforms() -> Iterator[Check]:
    """(h) Scaled and rotated coordinates give the same output; at 16 bits a stored weight is the weight."""
    import torch

    from trimodal.maths.transform import (
        hadamard,
        random_signs,
        rotate_columns,
        rotate_moment,
        rotation_block,
        unrotate_columns,
    )
    from trimodal.methods.quantize import awq, rotated, rtn

    scaling, turning, back, moment, stored = [], [], [], [], []
    for seed in SEEDS:
        case = layer(seed)
        x, plain = case.inputs, case.inputs @ case.weight.T
        c = awq.compute_column_scales(case.moment.square, 0.5).float()
        scaling.append(relative((x * c) @ (case.weight / c).T, plain))
        signs, block = random_signs(SIZE, seed), rotation_block(SIZE)
        turning.append(relative(rotate_columns(x, signs, block) @ rotate_columns(case.weight, signs, block).T, plain))
        back.append(relative(unrotate_columns(rotate_columns(case.weight, signs, block), signs, block), case.weight))
        turned = rotate_columns(x, signs, block)
        moment.append(relative(rotate_moment(case.moment.second, signs, block), turned.T @ turned / TOKENS))
        for method in (rtn.METHOD, awq.METHOD, rotated.METHOD):
            kept = decoded(solved(method, case.weight, case.moment, bits=16))
            stored.append(relative(x @ kept.T, plain) ** 2)
    eye = [float((hadamard(torch.eye(n), n) @ hadamard(torch.eye(n), n) - torch.eye(n)).abs().max()) for n in (8, 256)]
    yield Check("(h) scaled columns, change of the output", tuple(scaling), most=1e-5)
    yield Check("(h) rotation, change of the output", tuple(turning), most=1e-5)
    yield Check("(h) rotation there and back", tuple(back), most=1e-5)
    yield Check("(h) H H minus I", tuple(eye), most=1e-5)
    yield Check("(h) moment of rotated inputs", tuple(moment), most=1e-5)
    yield Check("(h) stored in 16 bits (rtn, awq, rotated), squared output error", tuple(stored), most=1e-5)


def target() -> Iterator[Check]:
    """(i) Where the compressed model's inputs are the original's, the target is W itself and the codes are the same."""
    from trimodal.methods.quantize import gptq
    from trimodal.statistics import Moment

    moved, codes = [], []
    for seed in SEEDS:
        case = layer(seed)
        paired = Moment(SIZE)
        paired.update(case.inputs, case.inputs)
        moved += [float((gptq.correct_weight(case.weight, paired, s, 0.01) != case.weight).sum()) for s in (0.25, 1.0)]
        for bits in (4, 3):
            with_target = solved(gptq.METHOD, case.weight, paired, bits=bits, target=1.0)
            without = solved(gptq.METHOD, case.weight, case.moment, bits=bits)
            codes.append(float((decoded(with_target) != decoded(without)).sum()))
    yield Check("(i) equal inputs: weights of the target that differ from W", tuple(moved), most=0)
    yield Check("(i) equal inputs: decoded weights that differ with and without target", tuple(codes), most=0)


def diagonal_moment() -> Iterator[Check]:
    """Inputs without correlation leave nothing to make up: GPTQ is rounding."""
    import torch

    from trimodal.methods.quantize import gptq, rtn
    from trimodal.statistics import Moment

    values = []
    for seed, (bits, group) in product(SEEDS, ((4, "channel"), (3, 64), (2, 32))):
        case = layer(seed)
        moment = Moment(SIZE, TOKENS)
        moment.second = torch.diag(case.moment.square)
        ours = decoded(solved(gptq.METHOD, case.weight, moment, bits=bits, group=group))
        values.append(float((ours != decoded(solved(rtn.METHOD, case.weight, None, bits=bits, group=group))).sum()))
    yield Check("GPTQ on a diagonal C: weights that differ from rounding", tuple(values), most=0)


def storage() -> Iterator[Check]:
    """What is stored decodes to what was chosen, has the tensors that were announced, and encodes to itself."""
    from trimodal.core.storage import stored_bytes
    from trimodal.layers.stored import CodedWeight
    from trimodal.maths.codebook import TABLES, fit_codebook
    from trimodal.maths.grid import UNIFORM, fit_grid
    from trimodal.maths.integers import make_integer_grid

    wrong, again, sizes = [], [], []
    for seed in SEEDS:
        case = layer(seed)
        for columns, bits, group in product((256, 250), (2, 3, 4, 5, 8), ("tensor", "channel", 64)):
            weight = case.weight[:32, :columns]
            levels: list[Any] = [fit_grid(weight, bits, group, kind, "mse") for kind in UNIFORM]
            if bits <= 4:
                levels += [fit_codebook(weight, bits, group, grid, "mse") for grid in TABLES]
            if bits == 8:
                levels += [fit_grid(weight, 16, group), make_integer_grid(weight.abs().amax(0) / 100)]
            for one in levels:
                codes = one.encode(weight)
                options = {"shape": [32, columns], "dtype": "float32", **one.storage_options()}
                tensors = one.storage_tensors(codes)
                kept = CodedWeight(one.kind, options, tensors)()
                wrong.append(float((kept != one.decode(codes)).sum()))
                again.append(float((one.decode(one.encode(kept)) != kept).sum()))
                found = sum(t.numel() * t.element_size() for t in tensors.values())
                sizes.append(float(abs(found - stored_bytes(one.kind, options))))
    yield Check("stored grids, codebooks and integers: weights that decode otherwise", tuple(wrong), most=0)
    yield Check("stored grids, codebooks and integers: decoded weights that round elsewhere", tuple(again), most=0)
    yield Check("stored grids, codebooks and integers: bytes beside those announced", tuple(sizes), most=0)


def entropy_coding() -> Iterator[Check]:
    """(f) Streams come back to the byte, and are as short as the entropy of their bytes allows."""
    import torch

    from trimodal.maths.entropy_coding import decode_tensor, encode_tensor, shannon_entropy
    from trimodal.maths.grid import fit_grid
    from trimodal.maths.integers import make_integer_grid

    wrong, length = [], []
    for seed in SEEDS:
        case = layer(seed)
        weight = case.weight
        tensors = {
            f"integers, step {step}": make_integer_grid(torch.full((SIZE,), step)).encode(weight) for step in (2.0, 0.5, 0.1)
        }
        tensors |= {f"grid, {bits} bit": fit_grid(weight, bits, 64).encode(weight) for bits in (2, 3, 4, 8)}
        tensors["dead zone"] = make_integer_grid(torch.full((SIZE,), 3.0)).encode(weight)
        tensors["packed 3 bit"] = fit_grid(weight, 3, 64).storage_tensors(tensors["grid, 3 bit"])["codes"]
        tensors |= {str(t): weight.to(t) for t in (torch.float32, torch.float16, torch.bfloat16)}
        tensors["constant"], tensors["one"] = torch.zeros(64, 64, dtype=torch.int8), torch.ones(1, dtype=torch.int8)
        tensors["empty"] = torch.zeros(0, 8, dtype=torch.int8)
        tensors["places"] = torch.arange(SIZE, dtype=torch.int32) ** 2
        for tensor in tensors.values():
            stream = encode_tensor(tensor)
            back = decode_tensor(stream, tensor.dtype, tuple(tensor.shape))
            same = back.dtype == tensor.dtype and torch.equal(_bytes(back), _bytes(tensor))
            wrong.append(0.0 if same else 1.0)
            if tensor.dtype in (torch.int8, torch.uint8):
                least = shannon_entropy(tensor) * tensor.numel() / 8
                length.append(len(stream) / (ENTROPY_SLACK * least + ENTROPY_BYTES))
    yield Check("(f) entropy coder: tensors that do not come back to the byte", tuple(wrong), most=0)
    yield Check("(f) entropy coder: stream over 1.01 · entropy + 64 bytes", tuple(length), most=1.0)


def _bytes(tensor: Tensor) -> Tensor:
    import torch

    return tensor.contiguous().view(-1).view(torch.uint8) if tensor.numel() else tensor.view(-1)


def closed_form() -> Iterator[Check]:
    """tr(Δ C Δᵀ) with the mean's terms is the error that is measured by running the layer."""
    import torch

    from trimodal.maths.error import bias_correction, output_error
    from trimodal.methods.quantize import gptq, rtn

    values = []
    for seed, (method, bits) in product(SEEDS, ((rtn.METHOD, 4), (rtn.METHOD, 2), (gptq.METHOD, 3))):
        case = layer(seed)
        from trimodal.statistics import Moment

        inputs = case.inputs + 0.1  # with a mean, so that the bias has something to correct
        moment = Moment(SIZE)
        moment.update(inputs)
        after = decoded(solved(method, case.weight, moment, bits=bits))
        x, output = inputs.double(), inputs.double() @ case.weight.double().T
        for shift in (torch.zeros(SIZE), -bias_correction(case.weight, after, moment.mean)):
            found = output - x @ after.double().T + shift.double()
            measured = float(found.square().sum() / output.square().sum())
            announced = output_error(case.weight, after, moment.second, moment.mean, shift)
            values.append(abs(announced - measured) / measured)
    yield Check("closed-form layer error against the measured one, relative", tuple(values), most=1e-5)


def pruning() -> Iterator[Check]:
    """(d) No mask is served better than by its exact refit, measured with the damping that it is solved with; (e) exact OBS
    that removes all has removed all there was."""
    import torch

    from trimodal.maths.masks import refit_weights
    from trimodal.methods.prune import magnitude, obs, sparsegpt

    updated, untouched, whole, left = [], [], [], []
    for seed, sparsity in product(SEEDS, (0.3, 0.5, 0.7)):
        case = layer(seed)
        second = case.moment.second.double()
        damped = second + DAMPING * second.diagonal().mean() * torch.eye(SIZE)
        for method, options, found in (
            (sparsegpt.METHOD, {"damping": DAMPING}, updated), (magnitude.METHOD, {"refit": False}, untouched)
        ):  # fmt: skip
            after = decoded(solved(method, case.weight, case.moment, sparsity=sparsity, **options))
            best = refit_weights(case.weight, after != 0, second, DAMPING)
            lost = [case.weight.double() - weight.double() for weight in (after, best)]
            errors = [float(torch.trace(delta @ damped @ delta.T)) for delta in lost]
            found.append(errors[0] / errors[1])
    for seed in SEEDS:
        case = layer(seed)
        second, weight = case.moment.second.double(), case.weight[:16].double()
        costs, order = obs.trace_removals(weight, torch.linalg.inv(second))
        whole.append(relative(costs.sum(), torch.trace(weight @ second @ weight.T)))
        left.append(float(obs.build_mask_from_traces(costs, order, weight.numel()).sum()))
    yield Check("(d) error of SparseGPT over that of its mask's exact refit", tuple(updated), least=1 - 1e-6)
    yield Check("(d) error of magnitude over that of its mask's exact refit", tuple(untouched), least=1 - 1e-6)
    yield Check("(e) exact OBS of all weights: summed costs against tr(W C Wᵀ), relative", tuple(whole), most=1e-6)
    yield Check("(e) exact OBS of all weights: weights left", tuple(left), most=0.0)


def merging() -> Iterator[Check]:
    """(g) Merging nothing changes nothing, and whatever is merged, every token goes on counting once."""
    import torch

    from trimodal.maths import merging as ways

    unchanged, counted = [], []
    for seed, (tokens, remove, protected) in product(SEEDS, ((197, 0, 1), (197, 40, 1), (197, 98, 1), (50, 25, 0), (9, 0, 2))):
        random = torch.Generator().manual_seed(seed)
        hidden = torch.randn(2, tokens, 16, generator=random)
        sizes = torch.randint(1, 4, (2, tokens), generator=random).float()
        target = ways.match_tokens(hidden, sizes, remove, protected)
        merged, total = ways.average_tokens(hidden, sizes, target, tokens - remove)
        counted.append(float((total.sum(1) - sizes.sum(1)).abs().max()))
        if not remove:
            unchanged.append(float((merged - hidden).abs().max()))
    yield Check("(g) no token merged: largest change", tuple(unchanged), most=0.0)
    yield Check("(g) sizes before minus after merging", tuple(counted), most=0.0)


def folding() -> Iterator[Check]:
    """(h) What was folded is gone, and the model computes what it did."""
    import torch

    from benchmarks.memory import planned_and_compressed
    from trimodal.formats.stock_load_check import collect_outputs
    from trimodal.loading.load import build_model
    from trimodal.networks.tiny import make_miniature, make_miniature_batch

    changed, left = [], []
    for seed, name in product(SEEDS, ("resnet", "clip", "llama", "vit")):
        module = make_miniature(name)
        random = torch.Generator().manual_seed(seed)
        for key, value in module.state_dict().items():
            if "norm" in key and value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=random) + 0.5)
        original = build_model(module.eval(), name)
        model, *_ = planned_and_compressed(original, [{"fold.exact": {}}], [], seed=seed)
        batch = make_miniature_batch(name, 3, seed=seed)
        before, after = collect_outputs(original.module, batch), collect_outputs(model.module, batch)
        changed += [relative(after[key], before[key]) for key in before]
        left.append(float(sum(isinstance(part, torch.nn.BatchNorm2d) for part in model.module.modules())))
    yield Check("(h) norms folded in four miniatures, change of the outputs", tuple(changed), most=1e-5)
    yield Check("(h) batch norms left after folding", tuple(left), most=0.0)


def distillation() -> Iterator[Check]:
    """(j) A student that is its teacher is pulled nowhere."""
    import torch

    from trimodal.training.distilling import embedding_distance, feature_distance, score_distance

    values = []
    for seed in SEEDS:
        teacher = torch.randn(32, 16, generator=torch.Generator().manual_seed(seed))
        distances = [lambda t, s: score_distance(t, s, 1.0), lambda t, s: score_distance(t, s, 4.0),
                     embedding_distance, feature_distance]  # fmt: skip
        for distance in distances:
            student = teacher.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(distance(teacher, student), student)
            values.append(float(gradient.abs().max()))
    yield Check("(j) distillation of a model from itself, largest gradient", tuple(values), most=1e-6)


def kernels() -> Iterator[Check]:
    """Tucker-2 with all directions is the kernel, and CP finds the terms that a kernel is a sum of."""
    import torch

    from trimodal.methods.factorize import cp, tucker

    exact, recovered = [], []
    for seed in SEEDS:
        case = layer(seed)
        whole = case.weight.view(SIZE, SIZE // 4, 4).double()
        for moment in (None, case.moment.second.double()):
            found = tucker.rebuild_tucker_weight(*tucker.fit_tucker_factors(whole, moment, (SIZE // 4, SIZE), 1))
            exact.append(relative(found, whole))
        random = torch.Generator().manual_seed(seed)
        terms = cp.rebuild_cp_weight([torch.randn(n, 3, generator=random, dtype=torch.float64) for n in (32, 24, 3, 3)])
        recovered.append(relative(cp.rebuild_cp_weight(cp.fit_cp_factors(terms, None, 3, 1000, 1e-9)), terms))
    yield Check("Tucker-2 at full ranks against the kernel, relative", tuple(exact), most=1e-6)
    yield Check("CP of rank 3 against a kernel that is a sum of three terms, relative", tuple(recovered), most=1e-3)


CHECKS = (
    gain_over_rounding, low_rank, entropy_coding, transforms, target, diagonal_moment, storage, closed_form, pruning, merging,
    folding, distillation, kernels,
)  # fmt: skip


def main() -> None:
    import torch

    checks = [check for part in CHECKS for check in part()]
    print(table(("identity", "mean", "range", "cases", "bound"), [check.row for check in checks]))
    print(f"seeds {', '.join(map(str, SEEDS))}; {torch.get_num_threads()} threads; torch {torch.__version__}")
    finish([line for check in checks for line in check.lines])


if __name__ == "__main__":
    main()
