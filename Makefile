# Two commands on a fresh machine: `make demo` and `make test`. Both set up their own .venv first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -q
# The pinned torch comes first and alone, so that nothing pulls another build of it.
TORCH  := $(VENV)/.torch
USE    := $(VENV)/.use
DEV    := $(VENV)/.dev
SITE   := $(VENV)/.site

# Trainers that headstart.integrations serves, packages that bring data or networks, each with what its tests need.
HOSTS  := lightning transformers skorch monai fastai nnunet aeon models
lightning_NEEDS    := lightning
transformers_NEEDS := transformers accelerate
skorch_NEEDS       := skorch
monai_NEEDS        := monai pytorch-ignite
fastai_NEEDS       := fastai
nnunet_NEEDS       := nnunetv2
aeon_NEEDS         := aeon
# numba, which aeon needs, trails numpy: these are not held at the pinned versions there.
aeon_FREE          := numpy|scipy|scikit-learn
models_NEEDS       := transformers monai timm torchvision

.PHONY: demo test test-all test-hosts $(HOSTS:%=test-host-%) lint format bench sweep docs dist clean

demo: $(USE)
	$(BIN)/headstart compare --out runs/demo

# Two workers whose threads do not spin while they wait for each other; JOBS=0 runs the tests in one process.
JOBS   ?= 2
PYTEST := OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

test: $(DEV)
	$(PYTEST)

test-all: $(DEV)
	$(PYTEST) --slow

# Each host in an environment of its own: their requirements need not agree.
test-hosts: $(HOSTS:%=test-host-%)

$(HOSTS:%=test-host-%): test-host-%: .venv-hosts/%/.ready
	.venv-hosts/$*/bin/python -m pytest tests/integrations/test_$*.py

.venv-hosts/%/.ready: constraints.txt pyproject.toml
	test -x .venv-hosts/$*/bin/python || $(PYTHON) -m venv .venv-hosts/$*
	grep -v -E '^($($*_FREE))==' constraints.txt > .venv-hosts/$*/constraints.txt
	.venv-hosts/$*/bin/python -m pip --disable-pip-version-check -q install -c .venv-hosts/$*/constraints.txt torch numpy
	.venv-hosts/$*/bin/python -m pip --disable-pip-version-check -q install -c .venv-hosts/$*/constraints.txt -e . pytest hypothesis $($*_NEEDS)
	touch $@

lint: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/check_sizes.py
	$(BIN)/python tools/recompute.py

format: $(DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(DEV)
	OMP_WAIT_POLICY=passive $(BIN)/python benchmarks/calibration.py --out docs/results
	OMP_WAIT_POLICY=passive $(BIN)/python benchmarks/growth.py --out docs/results

# The site, into site/. Whatever does not lead anywhere is an error. Its notebooks are run.
docs: $(SITE)
	NO_MKDOCS_2_WARNING=1 OMP_WAIT_POLICY=passive $(BIN)/mkdocs build --strict

# Goes on where it was stopped; what is finished lies in runs/sweep.jsonl.
sweep: $(DEV)
	OMP_WAIT_POLICY=passive $(BIN)/python benchmarks/sweep.py --out docs/results

# What is released: wheel and sdist, checked and tried in environments of their own. Takes minutes.
dist: $(DEV)
	$(PIP) install build twine
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python tools/check_wheel.py dist
	$(BIN)/python tools/smoke.py dist

clean:
	rm -rf $(VENV) .venv-hosts runs build dist site

$(TORCH): constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt torch numpy
	touch $@

$(USE): $(TORCH) pyproject.toml
	$(PIP) install -c constraints.txt -e ".[bench]"
	touch $@

$(DEV): $(USE)
	$(PIP) install -c constraints.txt -e ".[dev]"
	touch $@

$(SITE): $(DEV)
	$(PIP) install -c constraints.txt -e ".[docs]"
	touch $@
