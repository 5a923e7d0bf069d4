# SPDX-License-Identifier: Apache-2.0
# From a fresh clone, with python3 and g++: `make demo` and `make test`. Everything goes into .venv;
# to install into an environment of your own, `pip install .` instead.

PYTHON ?= python3
ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check --constraint constraints.txt
CPLUSPLUS := find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cu'

.PHONY: help demo test lint bench page check-cuda check-release build clean
.NOTPARALLEL:

help:
	@echo 'make demo           install, build, transfer a texture, print where the pictures and the table are'
	@echo 'make test           install, build, run the tests (ARGS="-k uv_splat" for some of them)'
	@echo 'make lint           ruff, mypy, clang-format'
	@echo 'make bench          the main benchmarks, into benchmarks/results (ARGS for python -m benchmarks.run)'
	@echo 'make check-cuda     compile every .cu for every architecture; fail on warnings and spills'
	@echo 'make check-release  sdist, wheel, clean install, tests outside the tree, ABI audit'
	@echo 'make page           docs/performance.md and the README table, from benchmarks/results'
	@echo 'make clean          remove what was built (rm -rf .venv for what was installed)'

demo: build
	$(PY) -m pose_kernels demo$(if $(ARGS), $(ARGS))

test: build $(VENV)/developing
	$(PY) -m pytest $(ARGS)

lint: $(VENV)/developing
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(CPLUSPLUS) | xargs $(VENV)/bin/clang-format --dry-run -Werror

bench: build $(VENV)/developing
	$(PY) -m benchmarks.run $(or $(ARGS),--quick --allocator warm --threads 2 --out)

check-cuda: $(VENV)/running
	$(PY) tools/check_cuda.py

check-release: $(VENV)/developing
	$(PY) tools/check_release.py $(ARGS)

page: build $(VENV)/developing
	$(PY) -m benchmarks.page $(ARGS)

# Compiles what changed, and nothing else.
build: $(VENV)/running
	$(PY) setup.py --quiet build_kernels --inplace
	@test -e $(VENV)/editable || \
	  { $(PIP) --quiet --no-build-isolation --no-deps --editable . && touch $(VENV)/editable; }

$(VENV)/running: constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed" if sys.version_info < (3, 10) else 0)'
	@$(PY) -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || \
	  { echo 'no virtual environment: on Debian and Ubuntu, apt-get install python3-venv'; exit 1; }
	@echo 'installing torch, numpy and pillow into $(VENV): minutes, the first time'
	$(PIP) torch numpy pillow setuptools
	@touch $@

$(VENV)/developing: $(VENV)/running | build
	@echo 'installing what the tests, the checks and the benchmarks need into $(VENV)'
	$(PIP) --quiet --no-build-isolation --editable '.[dev]'
	@touch $@

clean:
	rm -rf build dist *.egg-info pose_kernels/*.so pose_kernels/_build_info.json
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
