# `make demo` and `make test` need Python 3.11, pip and make; each first creates .venv with what they run on.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNS ?= runs
EXPLORER := src/dynaconv/explore/page
CHROMIUM ?= /usr/bin/chromium

.PHONY: demo test lint types unit slow docs bench sanitize page explorer packages mobile litert gpu full env clean

demo: env
	$(BIN)/dynaconv demo --out $(RUNS)/demo

test: lint types unit

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: env
	$(BIN)/mypy

# Exported networks run in processes of their own: the runtimes start threads, and data loaders fork.
unit: env
	$(BIN)/pytest -n 2 -m "not slow and not gpu and not export and not browser"
	$(BIN)/pytest -n 2 -m "export and not slow and not gpu and not browser"

slow: env
	$(BIN)/pytest -m slow

# The documentation into site/, about a minute; open site/index.html, or for the search and the explorer run
# .venv/bin/mkdocs serve. The explorer is part of it if its page is built, or npm can build it.
docs: env
	@if test -f $(EXPLORER)/networks/index.json; then :; elif command -v npm > /dev/null; then $(MAKE) page; \
	else echo "The site has no explorer: its page is not built, and there is no npm to build it."; fi
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Time, memory and size of every network in every runtime, 40 minutes at most; called again, it goes on where it stopped.
# BENCH="--quick" takes some minutes; docs/benchmarks.md has the other options.
bench: env
	$(BIN)/python benchmarks/latency.py --out $(RUNS)/bench --folder $(RUNS)/bench/files $(BENCH)

# The native kernels with the address and undefined-behaviour sanitizers, over random layers. A fault ends pytest, with
# its message.
sanitize: env
	DYNACONV_CXXFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined -g -O1" \
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 $(BIN)/pytest -s -p no:cacheprovider tests/native/test_layers.py \
		tests/native/test_int8.py tests/native/test_mixtures.py tests/native/test_excitation.py tests/native/test_training.py \
		tests/native/test_warehouse.py tests/native/test_graph.py

# The explorer's page with its networks, into src/dynaconv/explore/page. Needs Node.js 20 or newer.
page: env
	cd explorer && npm ci --no-audit --no-fund && npm run build
	$(BIN)/python tools/export_explorer.py

# The page, and its tests in Chromium: /usr/bin/chromium, or the program that CHROMIUM names.
explorer: page
	CHROMIUM=$(CHROMIUM) $(BIN)/pytest -s -m browser

# The sdist and the wheels, with native kernels and without, into dist/; each is installed and run on its own.
packages: env
	$(BIN)/python tools/check_packages.py --out dist --torch-from "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

# ExecuTorch and ultralytics, which the other environments do without.
mobile: env
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt executorch ultralytics
	$(BIN)/pytest tests/export/test_executorch.py tests/conversion/test_ultralytics.py

# litert-torch needs versions of packages that others refuse.
litert:
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[models,litert]' pytest hypothesis
	$(BIN)/pytest -p no:anyio tests/export/test_litert.py

# The tests that need a CUDA device, then time on it of every family; without one, a sentence says so.
gpu: env
	$(BIN)/python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "make gpu needs a CUDA device that torch can use; this machine has none.")'
	$(BIN)/pytest -m gpu
	$(BIN)/python benchmarks/gpu.py --out $(RUNS)/gpu.md $(GPU)

# All checks above, for a maintainer before a release: some hours, most of them for `slow`. Writes docs/results/full.md.
full:
	$(PYTHON) tools/full_check.py --python $(PYTHON) $(FULL)

env: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dynaconv needs Python 3.11 or newer; run: make env PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache .hypothesis
