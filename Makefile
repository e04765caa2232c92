# Everything needed is installed into .venv on first use; a second run reuses it.
# `make demo CT=image.nii.gz` takes a CT of yours (.nii.gz, .nrrd, .mha or a folder with one DICOM series).

PYTHON ?= python3
OUTPUT ?= demo-output
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: all demo test lint format types bench parity reproduce clean
all: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/python -m PartialSegLib demo $(if $(CT),"$(CT)") -o "$(OUTPUT)" $(DEMO_OPTIONS)

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile $(TEST_OPTIONS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(INSTALLED)
	$(BIN)/mypy

parity: $(INSTALLED)
	$(BIN)/python Testing/parity.py

bench: .venv/installed-bench
	$(BIN)/python Testing/benchmark.py

reproduce: $(INSTALLED)
	$(BIN)/python Testing/reproduce.py

clean:
	rm -rf .venv build *.egg-info

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "PartialSeg needs Python 3.11 or newer; try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[lint,test]"
	@touch $@

.venv/installed-bench: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[bench]"
	@touch $@
