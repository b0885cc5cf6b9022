# make venv | train | train-full | serve | test | matrix | lint | docs | notebooks | wheels | aarch64 | sanitize | stress | bench.
# Everything is installed into .venv and nowhere else.
# make venv CUDA=1 installs fbgemm-gpu's CUDA build instead of its CPU build.

PYTHON ?= python3.11
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
REQUIREMENTS := requirements/$(if $(CUDA),cuda,cpu).txt
INSTALLED := .venv/installed
# torchx starts torchrun and python by name.
TORCHX := PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/torchx
DEMO_FLAGS := --synthetic_rows 12000000 --validation_freq_within_epoch 500

.PHONY: venv train train-full serve test matrix lint docs notebooks wheels aarch64 sanitize stress bench clean

venv: $(INSTALLED)

$(INSTALLED): setup.py $(wildcard requirements/*.txt torchrec_pss/ops/csrc/*)
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet -r $(REQUIREMENTS)
	$(PIP) install --quiet --no-deps -c requirements/constraints.txt torchrec
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# One shared array of 4 bits an element, 1000 times smaller than the tables; results in runs/demo.
train: venv
	$(TORCHX) run -s local_cwd dist.ddp -j 1x2 --script examples/train_criteo.py -- \
		$(DEMO_FLAGS) --compression 1000 --bits 4 --output_dir runs/demo

# The same rows with TorchRec's full tables (2.2 GB), sharded model-parallel, by the same recipe; 9 GB of memory, results in runs/demo_full.
train-full: venv
	$(TORCHX) run -s local_cwd dist.ddp -j 1x2 --script examples/train_criteo.py -- \
		$(DEMO_FLAGS) --embedding full --output_dir runs/demo_full

# The model of make train, or of 200,000 rows if it was not run, behind HTTP on the loopback: a curl line is printed.
serve: venv
	@test -e runs/demo/model/model.json || $(BIN)/python -W ignore examples/train_criteo.py --synthetic_rows 200000 --synthetic_scale 0.01 \
		--epochs 1 --compression 100 --bits 4 --output_dir runs/demo
	$(BIN)/torchrec-pss export runs/demo --output runs/demo/model.pt2 --aoti
	$(BIN)/python -W ignore examples/serving/server.py runs/demo/model.pt2

# One thread a process, since a test that runs two of torch's beside another's two takes several times as long.
test: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n auto --maxprocesses 4 --dist worksteal

# The suite on the oldest TorchRec that is supported, on ours and on the newest; each lies alone in build/matrix. make matrix
# VERSIONS=1.9.2 ARGS="tests/test_planner.py" runs a part; the table of docs/project/parity.md is renewed by whole runs.
VERSIONS := 1.6.1,1.8.0,1.9.2
matrix: venv
	$(BIN)/python tests/matrix.py --versions $(VERSIONS) --json runs/matrix.json --doc docs/project/parity.md -- $(ARGS)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site in build/site, as any web server shows it: python3 -m http.server --directory build/site. No network is needed.
docs: venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# An sdist, and a wheel for this machine's generation of torch that any manylinux of its age takes, tried in an environment with torch alone.
WHEELS := build/wheels
wheels: venv
	rm -rf $(WHEELS)
	$(BIN)/python -m build --quiet --sdist --no-isolation --outdir $(WHEELS) .
	TORCHREC_PSS_FOR_THIS_TORCH=1 $(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir $(WHEELS)/here $(WHEELS)/*.tar.gz
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/auditwheel repair --exclude 'libtorch*' --exclude 'libc10*' --wheel-dir $(WHEELS) $(WHEELS)/here/*.whl
	$(BIN)/python tests/try_wheel.py $(WHEELS)/*.whl

# The C++ sources compiled for another processor, which needs g++-aarch64-linux-gnu; nothing of it is run.
TORCH_HEADERS = $(shell $(BIN)/python -c 'import torch.utils.cpp_extension as e; print(*("-I" + p for p in e.include_paths()))')
aarch64: venv
	for source in torchrec_pss/ops/csrc/*.cpp; do aarch64-linux-gnu-g++ -O1 -fopenmp -std=c++20 -Wno-psabi -fPIC $(TORCH_HEADERS) \
		-c $$source -o /dev/null || exit 1; done

# The kernels under AddressSanitizer and UndefinedBehaviorSanitizer, against the reference on 10,000 random configurations; the
# collections against TorchRec's on 20,000.
SANITIZED := build/sanitize
SANITIZER = LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 PYTHONPATH=$(SANITIZED)/lib $(BIN)/python
sanitize: venv
	TORCHREC_PSS_SANITIZE=1 $(BIN)/python setup.py --quiet build --build-base $(SANITIZED)/objects --build-lib $(SANITIZED)/lib
	$(SANITIZER) tests/compare_lookup.py --number 10000
	$(SANITIZER) -W ignore tests/compare_collections.py --number 20000

# Twenty kills at random moments, each resumed: the parameters must be those of an undisturbed run, to the bit.
stress: venv
	$(BIN)/python tests/kill_and_resume.py

bench: venv
	$(BIN)/python -m benchmarks.bench_lookup

# The tutorials of docs/tutorials, run again: outputs, and the pages of the site.
notebooks: venv
	$(BIN)/python -W ignore tests/notebooks.py

clean:
	rm -rf .venv build *.egg-info torchrec_pss/*.so
