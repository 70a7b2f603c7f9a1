# Two commands for a fresh machine with Python, make and git: `make book` and `make test`. `make help` lists the rest.

PYTHON ?= python3
PORT ?= 8000
# Which build of torch: cpu, cu130, auto …; empty leaves it to the package index.
TORCH ?=
# Chapters and test files that run at a time.
JOBS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)

VENV := .venv
BIN := $(VENV)/bin
SITE := _build/html
STAMP := $(VENV)/.installed-$(or $(TORCH),index)
TORCH_OPTIONS := $(if $(TORCH),--torch-backend=$(TORCH) --reinstall-package torch --reinstall-package torchvision)
# uv reads none of pip's settings; hand on a local folder of packages where there is one.
FIND_LINKS := $(if $(PIP_FIND_LINKS),UV_FIND_LINKS="$(PIP_FIND_LINKS)")

.PHONY: help env kernels book test serve clean
.DEFAULT_GOAL := help

help:
	@echo "make env     install the locked packages into $(VENV) (TORCH=cpu or TORCH=cu130 chooses the build of torch)"
	@echo "make kernels install Triton too, where torch came without: its interpreter tests the GPU kernels"
	@echo "make book    run every chapter from nothing at smoke scale, execute the published ones, build the pages"
	@echo "make test    style, types, unit tests, stored outputs of the chapters, built pages in a browser"
	@echo "make serve   show the built pages at http://localhost:$(PORT)/"
	@echo "make clean   remove what was built; runs/ and $(VENV) stay"

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, e.g. make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	$(FIND_LINKS) VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install $(TORCH_OPTIONS) -c constraints.txt -e ".[dev]"
	rm -f $(VENV)/.installed-*
	touch $@

kernels: env
	$(FIND_LINKS) VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install -e ".[kernels]"

book: env
	rm -rf _build/smoke
	SNP_RUNS_DIR="$(CURDIR)/_build/smoke" $(BIN)/snp reproduce --scale smoke --seeds 0,1 --jobs $(JOBS)
	SNP_RUNS_DIR="$(CURDIR)/_build/published" $(BIN)/snp reproduce --jobs $(JOBS)
	$(BIN)/jupyter-book build . -W -n --keep-going
	@echo "The book is built: $(CURDIR)/$(SITE)/index.html"

test: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy snp_lib
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist loadfile --nbval book/*.ipynb
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist worksteal --durations=12

serve:
	test -f $(SITE)/index.html || { echo "nothing is built yet; run make book"; exit 1; }
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory $(SITE) $(PORT)

clean:
	rm -rf _build
