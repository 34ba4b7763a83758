# make demo   trains and exports three sample rooms (examples/), fine-tunes and probes on them
# make test   linters, type checker and tests
# make docs   the documentation as pages, docs/_build/html/index.html; its notebook is run
# make bench  all benchmarks into benchmarks/results; a part: make bench BENCH="--quick --only rasteriser"
# All set up everything they need in .venv first, and do nothing twice.

PYTHON ?= $(firstword $(foreach v,3.11 3.12 3.13,$(shell command -v python$(v))) python3)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# What the fast setup of the demo says on the command line; see docs/backbones.md.
export FIT3D_BACKBONE_WEIGHTS ?= offline

# What torch loads on a GPU alone: 1.2 GB that a machine without one does without. With UV_TORCH_BACKEND=cpu in the
# environment uv takes torch's own build for CPUs, where its server can be reached.
GPU_ONLY := triton|nvidia-cusolver
HAS_GPU  := $(shell command -v nvidia-smi)

.PHONY: demo test lint docs system setup bench lock clean

setup: $(READY)

$(READY): requirements.txt pyproject.toml Makefile | system
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(if $(HAS_GPU),cp $< $(VENV)/requirements.txt,echo "No GPU here: leaving out $(subst |, and ,$(GPU_ONLY))"; \
	    grep -vE '^($(GPU_ONLY))==' $< > $(VENV)/requirements.txt)
	@# uv installs the same pinned files several times faster than pip; pip does where uv cannot be had. Compiling here
	@# is on all cores and once: where Python may not write bytecode (PYTHONDONTWRITEBYTECODE, as in many containers)
	@# every command would do it again, for half a minute.
	@if command -v uv >/dev/null || $(BIN)/python -m pip install -q uv; then \
	    UV=$$(command -v uv || echo $(BIN)/uv); \
	    echo "Installing the pinned requirements with uv"; \
	    $$UV pip install -q --compile-bytecode --python $(BIN)/python --no-deps -r $(VENV)/requirements.txt; \
	else \
	    echo "Installing the pinned requirements with pip"; \
	    $(BIN)/python -m pip install -q --no-deps -r $(VENV)/requirements.txt; \
	fi
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@

# Debian packages: a compiler builds two small requirements, ffmpeg serves ns-process-data, Chromium opens
# the viewer in a test. Without the last two their tests skip and say so.
system:
	@missing=""; \
	command -v g++ >/dev/null || missing="$$missing g++"; \
	command -v ffmpeg >/dev/null || missing="$$missing ffmpeg"; \
	command -v chromium >/dev/null || missing="$$missing chromium"; \
	test -z "$$missing" && exit 0; \
	sudo=""; test "$$(id -u)" = 0 || sudo="sudo -n"; \
	if command -v apt-get >/dev/null && { test -z "$$sudo" || sudo -n true 2>/dev/null; }; then \
	    echo "Installing$$missing"; \
	    $$sudo apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends $$missing >/dev/null \
	    || echo "Could not install$$missing; go on without"; \
	else \
	    echo "Not installed:$$missing (no root rights to install it here; see docs/installing.md)"; \
	fi

demo: $(READY)
	$(BIN)/python examples/demo.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest

# -E reads every page anew: a page that did not change may lead to one that did.
docs: $(READY)
	$(BIN)/sphinx-build -W --keep-going -q -E -c docs -b html -d docs/_build/doctrees . docs/_build/html
	@echo "Pages: docs/_build/html/index.html"

bench: $(READY)
	$(BIN)/python -m benchmarks $(BENCH)

# Rewrites requirements.txt. nerfstudio pins timm==0.6.7 (and imports it nowhere); the overrides give numpy 2 up to what
# numba takes, a scipy and a nuscenes-devkit that agree with it, and a pymeshlab that is there for Python 3.13.
lock: $(READY)
	$(BIN)/python -m pip install -q uv
	printf 'timm>=1.0.12\nnumpy>=2,<2.5\nscipy<1.18\nnuscenes-devkit>=1.2\npymeshlab>=2025.7\nprotobuf>=5,<7\n' > $(VENV)/overrides.txt
	$(BIN)/uv pip compile --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url \
	    --override $(VENV)/overrides.txt requirements.in -o requirements.txt

clean:
	rm -rf $(VENV) demo docs/_build docs/commands .mypy_cache .ruff_cache .pytest_cache
