# What is needed is installed into .venv on first use, for the demo less than for the tests; a second run
# reuses it.
# `make demo CT=image.nii.gz` takes a CT of yours (.nii.gz, .nrrd, .mha or a folder with one DICOM series).

PYTHON ?= python3
OUTPUT ?= demo-output
BIN := .venv/bin
DEMO := .venv/installed-demo
INSTALLED := .venv/installed

.PHONY: all demo test lint format types bench bench-field parity reproduce clean
all: $(INSTALLED)

demo: $(DEMO)
	$(BIN)/python -m PartialSegLib demo $(if $(CT),"$(CT)") -o "$(OUTPUT)" $(DEMO_OPTIONS)

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 3 --dist loadfile $(TEST_OPTIONS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(INSTALLED)
	$(BIN)/mypy

parity: $(INSTALLED)
	$(BIN)/python Testing/parity/parity.py

bench: .venv/installed-bench
	$(BIN)/python Testing/benchmarks/benchmark.py

# nnU-Net beside ours; takes hours on a CPU. FIELD_OPTIONS: --quick, --only, --cases, --resume and more.
bench-field: .venv/installed-bench .venv-field/installed
	PYTHONPATH="$(CURDIR)/Testing/support:$(CURDIR)/Testing/parity" \
		$(BIN)/python Testing/benchmarks/benchmark_field.py $(FIELD_OPTIONS)

reproduce: $(INSTALLED)
	$(BIN)/python Testing/reproduction/reproduce.py

clean:
	rm -rf .venv .venv-field build *.egg-info

$(DEMO): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "PartialSeg needs Python 3.11 or newer; try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[picture]"
	@touch $@

$(INSTALLED): $(DEMO)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[lint,test]"
	@touch $@

.venv/installed-bench: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[bench]"
	@touch $@

.venv-field/installed: Testing/benchmarks/field-requirements.txt Testing/benchmarks/field-peers.txt constraints.txt
	$(PYTHON) -m venv .venv-field
	.venv-field/bin/python -m pip install --quiet --constraint constraints.txt \
		--requirement Testing/benchmarks/field-requirements.txt
	.venv-field/bin/python -m pip install --quiet --no-deps --requirement Testing/benchmarks/field-peers.txt
	@touch $@
