# Targets for people; what they do is in lib/ and in the Snakefile.
#   make run      the whole chain on the embedded mock survey
#   make run PROFILE=challenge DATA=<folder>    the same on real galaxies
#   make lab      JupyterLab with every notebook
#   make test     the tests
#   make bench    speed and memory; SIZE=quick for some minutes
#   make predict MODEL=<training step> IMAGES=<folder or list> OUT=<folder>    a catalogue
PROFILE ?= mock
DATA ?=
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
# A variable as one word for the shell, which then takes no part of a path for a command.
quoted = '$(subst ','\'',$(value $(1)))'
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: run lab predict bench test test-all lint verify data kaggle weights docs report lock book rulegraph

run: $(READY)
	$(BIN)/python -m lib.workflow.steps chain --profile $(PROFILE) $(if $(value DATA),--data $(call quoted,DATA)) --cores $(CORES)

lab: $(READY)
	$(BIN)/jupyter lab --notebook-dir=notebooks

# Apply a trained network to images; VIEWS=8 averages rotations and mirrors.
predict: $(READY)
	$(BIN)/python -m lib.predict run --model $(call quoted,MODEL) --images $(call quoted,IMAGES) --out $(call quoted,OUT) \
	  $(if $(VIEWS),--views $(VIEWS)) --cores $(CORES)

# Speed and memory on this machine; SIZE is full, quick or tiny.
bench: $(READY)
	TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python tests/benchmarks/bench.py $(if $(SIZE),--size $(SIZE))

# As many processes as cores: more threads in each of them would only wait for one another.
ONE_THREAD := TF_NUM_INTRAOP_THREADS=1 OMP_NUM_THREADS=1

test: $(READY)
	$(ONE_THREAD) $(BIN)/python -m pytest -m "not slow" --numprocesses $(CORES) --dist loadfile

# With what is slow, or needs a browser or a SLURM.
test-all: $(READY)
	$(ONE_THREAD) $(BIN)/python -m pytest --numprocesses $(CORES) --dist loadfile

lint: $(READY)
	$(BIN)/ruff check lib tests notebooks
	$(BIN)/ruff format --check lib tests notebooks

verify: $(READY)
	$(BIN)/python -m lib.workflow.steps verify --profile $(PROFILE)

# The environment: uv where its wheel installs, pip as the fall-back. Both compile what they install:
# where Python may not keep compiled files, each kernel took 20 s to import TensorFlow, not 8.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) and "Python 3.11, 3.12 or 3.13 is needed (TensorFlow has no newer): make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv \
	  && $(BIN)/python -m uv pip install --compile-bytecode --python $(BIN)/python --requirement requirements.lock \
	  || $(BIN)/python -m pip install --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

# Download a survey's files (PROFILE=gz2 or challenge) to where its profile looks for them.
data: $(READY)
	$(BIN)/python -m lib.workflow.download --profile $(PROFILE) $(if $(value DATA),--data $(call quoted,DATA))

# Folders ready for `kaggle kernels push` (KAGGLE_USERNAME names the account).
kaggle: $(READY)
	$(BIN)/python -m lib.workflow.kaggle --profile $(PROFILE) --out build/kaggle

# Pre-train the bundled backbone anew, and compare: under an hour on a CPU, resumable.
weights: $(READY)
	$(MAKE) run PROFILE=weights

# Give the notebooks the outputs of finished runs (of real galaxies, where there is one), and keep what
# these have given: reports, figures, README's table of results.
docs: $(READY)
	$(MAKE) run PROFILE=mock
	$(BIN)/python -m lib.workflow.book

# Print a run's scores beside the paper's and write its page.
report: $(READY)
	$(BIN)/python -m lib.workflow.report runs/$(PROFILE)

# Pin every package anew from pyproject.toml's list.
lock:
	$(BIN)/python -m uv pip compile --universal --python-version 3.11 --extra test --upgrade \
	  --no-header --quiet pyproject.toml --output-file requirements.lock

# The book: notebooks, reports, guides and the API of lib as pages in build/book.
book: $(READY)
	$(BIN)/python -m sphinx --quiet --jobs auto --fail-on-warning --keep-going -c docs . build/book
	@echo "the book: build/book/index.html"

# The flow as a drawing, by Snakemake and Graphviz's `dot`.
rulegraph: $(READY)
	mkdir -p build
	$(BIN)/snakemake --cores 1 --rulegraph --forceall --config profile=mock > build/rulegraph.dot
	sed -e '/-> 0$$/d' -e '/label = "all"/d' build/rulegraph.dot | dot -Tsvg > figures/rulegraph.svg
