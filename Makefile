# Needs Python 3.11 or later and make; everything else is installed into .venv in this folder.
PYTHON ?= python3
VENV := .venv
PEERS := .venv-peers
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --quiet --disable-pip-version-check
KERNEL_TESTS := tests/test_kernels.py tests/test_plan_inference.py tests/test_training_kernel.py tests/test_caching_allocator.py \
	tests/test_trellis_kernel.py tests/test_order_kernel.py tests/test_spaces_encoded.py \
	tests/test_nas_palette.py tests/test_nas_batch.py tests/test_labels_kernel.py \
	tests/test_arena_kernel.py tests/test_arena_search.py tests/test_rules_kernel.py tests/test_remat_chain.py \
	tests/test_remat.py

FUZZ_SECONDS ?= 60
# Processes that share the tests: as many as there are cores.
WORKERS ?= auto

.PHONY: demo test lint format bench bench-table peers docs fuzz dist clean fresh help

help:
	@echo "make demo   what VGG-16, ResNet-50 and an ONNX file cost"
	@echo "make test   the whole suite, then the kernels uncompiled (coverage) and bounds-checked"
	@echo "make lint   ruff and mypy --strict"
	@echo "make bench  benchmarks; make bench-table writes their figures into the README"
	@echo "make fuzz   damaged files for every reader, 5,000 fixed ones and, with atheris, FUZZ_SECONDS=$(FUZZ_SECONDS) of search"
	@echo "make peers  the same questions put to other tools, into the README and docs/benchmarks.md"
	@echo "make docs   write the generated pages of docs/, and build the site of all of them in build/docs"
	@echo "make dist   build the wheel and the source distribution in dist/, and check them"
	@echo "make clean  remove caches and build products; make fresh removes .venv too"

demo: $(VENV)/.demo-stamp
	@$(PY) tools/demo.py

test: $(VENV)/.test-stamp
	@bash tools/install_browser.sh
	$(PY) -m pytest -q -n $(WORKERS) --maxprocesses=8 --dist=worksteal
	NUMBA_DISABLE_JIT=1 $(PY) -m pytest -q -n $(WORKERS) --maxprocesses=8 --dist=worksteal $(KERNEL_TESTS) --cov=cnnlive/_kernels --cov-report=term-missing --cov-fail-under=100
	NUMBA_BOUNDSCHECK=1 $(PY) -m pytest -q -n $(WORKERS) --maxprocesses=8 --dist=worksteal $(KERNEL_TESTS)

lint: $(VENV)/.lint-stamp
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy --strict

format: $(VENV)/.lint-stamp
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

bench: $(VENV)/.test-stamp
	@mkdir -p .benchmarks
	$(PY) -m pytest benchmarks --benchmark-enable --benchmark-only --benchmark-columns=min,median,iqr,rounds -q \
		--benchmark-json=.benchmarks/latest.json

bench-table: bench
	@$(PY) tools/bench_table.py .benchmarks/latest.json

docs: $(VENV)/.docs-stamp
	@$(PY) tools/build_docs.py

# Other tools bring pins of their own, so they live in an environment of theirs.
peers: $(PEERS)/.stamp
	$(PEERS)/bin/python -m benchmarks.peers --write

fuzz: $(VENV)/.fuzz-stamp
	$(PY) tools/fuzz.py --files 5000 --seed 1
	@$(PY) -c 'import atheris' 2>/dev/null || echo "atheris has no wheel for this platform: the guided search is left out"
	@! $(PY) -c 'import atheris' 2>/dev/null || $(PY) tools/fuzz.py --guided $(FUZZ_SECONDS)

dist: $(VENV)/.release-stamp
	rm -rf dist
	$(PY) -m build --outdir dist .
	$(PY) -m twine check --strict dist/*

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .coverage .numba_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

fresh: clean
	rm -rf $(VENV) $(PEERS)

# Stamps say what .venv holds, so that a second run installs nothing. pip reads dependency groups from 25.1 on.
$(VENV)/.pip-stamp:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"cnnlive needs Python 3.11 or later, and {sys.executable} is {v[0]}.{v[1]}; try make PYTHON=python3.12" if v < (3, 11) else 0)'
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) ..."
	@$(PIP) install --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.demo-stamp: pyproject.toml $(VENV)/.pip-stamp
	@$(PIP) install -e '.[onnx]'
	@touch $@

$(VENV)/.test-stamp: pyproject.toml $(VENV)/.pip-stamp
	@$(PIP) install -e . --group test --group nas-test
	@touch $@

$(VENV)/.fuzz-stamp: pyproject.toml $(VENV)/.pip-stamp
	@$(PIP) install -e . --group fuzz
	@touch $@

$(VENV)/.docs-stamp: pyproject.toml $(VENV)/.pip-stamp
	@$(PIP) install -e '.[onnx,tflite]' --group docs
	@touch $@

$(PEERS)/.stamp: pyproject.toml
	@$(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip --quiet --disable-pip-version-check install --upgrade 'pip>=25.1'
	@$(PEERS)/bin/python -m pip --quiet --disable-pip-version-check install -e . --group peers
	@touch $@

$(VENV)/.release-stamp: pyproject.toml $(VENV)/.pip-stamp
	@$(PIP) install --group release
	@touch $@

$(VENV)/.lint-stamp: pyproject.toml $(VENV)/.pip-stamp
	@$(PIP) install -e . --group lint
	@touch $@
