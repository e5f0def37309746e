# Two commands: `make lab` opens JupyterLab on the course, `make test` runs every test. Each does the set-up it needs,
# once; `make help` lists the others. For GNU make 3.81 and later.

# The interpreter that builds .venv: Python 3.11, 3.12 or 3.13 with its venv module
PYTHON ?= python3
# One notebook instead of all: make run N=02
N ?=
# More flags for JupyterLab, or for grading: make lab FLAGS=--ip=0.0.0.0
FLAGS ?=
# Torch without CUDA, from PyTorch's own index: make lab TORCH=cpu. On Linux, 2 GB of disk instead of 6; kept until `make clean`
TORCH ?= $(shell cat .venv/.torch 2>/dev/null)
# What to grade or to score, and where marks and pages go
SUBMISSIONS ?= build/submitted
OUT ?= build/grading
# canvas or moodle, and the table of the class that it exports: marks in the form in which it imports them
FORMAT ?=
ROSTER ?=
# Of the challenge's warped digits: make challenge SEED=271828
SEED ?=
UV = uv==0.13.9

ifneq ($(filter-out cpu,$(TORCH)),)
$(error TORCH is $(TORCH); it can be cpu, or be left out)
endif
ifeq ($(TORCH)$(wildcard .venv/.torch),cpu)
ifneq ($(wildcard .venv/.installed),)
$(error .venv holds the torch of the lock file; to replace it, remove .venv first, and then type the same command again)
endif
endif

# Only modules are called, no console scripts: the first line of a script breaks where the tree's path holds a space.
VENV_PYTHON = .venv/bin/python
PIP = $(VENV_PYTHON) -m uv pip
COURSE = $(VENV_PYTHON) -m course_lib
# Tests start dozens of processes, which must not all compile the same modules: bytecode is kept, whatever the caller prefers
PYTEST = COURSE_SCALE=smoke OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(VENV_PYTHON) -m pytest -q
# One process per core, one thread each: more threads than cores wait for each other
PARALLEL = -n logical --maxprocesses 8 --dist loadscope --no-loadscope-reorder --durations 10 --durations-min 1
NOTEBOOKS = $(if $(wildcard notebooks/*.ipynb),--nbval-lax --nbval-current-env --nbval-cell-timeout=240 notebooks)
ONE = $(if $(N),--only $(N))

.PHONY: lab setup test test-browser test-slow test-network run notebooks results book sample release grade similar challenge bench lint format lock clean help

lab: .venv/.installed  ## open JupyterLab on your own copies of the notebooks; without a display, print its address
	$(COURSE) work
	$(VENV_PYTHON) -m jupyterlab --config=course_lib/lab/jupyter_lab_config.py \
	    $(if $(filter 0,$(shell id -u)),--allow-root) \
	    $(if $(DISPLAY)$(WAYLAND_DISPLAY)$(filter Darwin,$(shell uname)),,--no-browser) $(FLAGS)

setup: .venv/.installed  ## do the set-up, which every other command does where it is needed, and nothing else

test: lint  ## run every test that is quick and needs no network, and every notebook at smoke scale
	$(PYTEST) $(PARALLEL) tests $(NOTEBOOKS)

test-browser: .venv/.installed  ## use the course in JupyterLab and the website, in Chromium: pictures and failures are left in build/browser
	$(PYTEST) $(PARALLEL) -m browser -rs tests/browser

test-slow: .venv/.installed  ## run the tests that take minutes: every notebook's grading, a forger fifty times, large networks
	$(PYTEST) $(PARALLEL) -m slow tests

test-network: .venv/.installed  ## run the tests that fetch something for real
	$(PYTEST) -m network -rs

run: .venv/.installed  ## execute the notebooks headless into build/notebooks (N=02: one; COURSE_SCALE: how much)
	$(COURSE) run $(ONE)

notebooks: .venv/.installed  ## execute the notebooks in place, at lesson scale, for committing
	$(COURSE) run --in-place --scale lesson $(ONE)

results: .venv/.installed  ## bring README's tables and pictures in step with data/results and the notebooks
	$(COURSE) results

book: .venv/.installed  ## build the course as a website into build/book, with panels that answer without a kernel
	$(COURSE) book

sample: .venv/.installed  ## make a small class to try grading with, in build/sample, from copies that `make release` has made
	$(VENV_PYTHON) -m tests.sample_class build/sample $(ONE)

release: .venv/.installed  ## write the student copies of the notebooks into build/release (N=02: one)
	$(COURSE) release $(ONE)

grade: .venv/.installed  ## grade submissions: make grade SUBMISSIONS=folder-or-zip OUT=folder (N=02: one; FLAGS: see --help)
	$(COURSE) grade --submissions "$(SUBMISSIONS)" --out "$(OUT)" $(ONE) \
	    $(if $(FORMAT),--format $(FORMAT)) $(if $(ROSTER),--roster "$(ROSTER)") $(FLAGS)

similar: .venv/.installed  ## list pairs of submissions that are alike: make similar SUBMISSIONS=folder-or-zip OUT=folder
	$(COURSE) similar --submissions "$(SUBMISSIONS)" --out "$(OUT)" $(ONE) $(FLAGS)

challenge: .venv/.installed  ## score smallest files: make challenge SUBMISSIONS=folder-or-zip OUT=folder SEED=number (FLAGS: see --help)
	$(COURSE) challenge --submissions "$(SUBMISSIONS)" --out "$(OUT)" $(if $(SEED),--seed $(SEED)) $(FLAGS)

bench: .venv/.installed  ## run the benchmarks, at lesson scale, on real data
	$(VENV_PYTHON) -m pytest --confcutdir tests/benchmarks --timeout 1800 tests/benchmarks -s

lint: .venv/.installed  ## check style and format, notebooks too
	$(VENV_PYTHON) -m ruff check
	$(VENV_PYTHON) -m ruff format --check

format: .venv/.installed  ## mend style and format, as far as it goes by itself
	$(VENV_PYTHON) -m ruff check --fix
	$(VENV_PYTHON) -m ruff format

lock: .venv/.uv  ## renew requirements.lock: exact versions and hashes, for every Python and platform
	$(PIP) compile pyproject.toml --extra book --extra test --universal --python-version 3.11 --upgrade --generate-hashes \
	    --no-emit-index-url --custom-compile-command "make lock" --quiet --output-file requirements.lock

clean:  ## remove the environment and everything that was built; data and your own copies stay
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .benchmarks .hypothesis

help:  ## list the commands
	@sed -n -E 's/^([a-z-]+):[^#]*## /\1	/p' Makefile | expand -t 16

# A stamp is written last, so that an interrupted set-up is taken up again. It holds the tree's place, which the install
# of the project points to: a tree that has moved is installed once more.
ifneq ($(shell cat .venv/.installed 2>/dev/null),$(shell pwd -P))
.PHONY: .venv/.installed
endif

# Compiled once, here: an import of torch from its sources takes twice as long, and a sandbox can keep no bytecode
.venv/.installed: requirements.lock pyproject.toml | .venv/.uv
	rm -f $@
	sed -nE 's/^(torch|torchvision|triton|nvidia-[^=]*|cuda-[^=]*)==.*/\1/p' requirements.lock > .venv/.cuda
	$(PIP) install --python $(VENV_PYTHON) --require-hashes --compile-bytecode $(if $(TORCH),--excludes .venv/.cuda) -r requirements.lock
	$(if $(TORCH),@$(SMALL_TORCH))
	$(PIP) install --python $(VENV_PYTHON) --no-deps --no-build-isolation --editable .
	mkdir -p .venv/share/jupyter/lab/settings
	echo '{"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}}' \
	    > .venv/share/jupyter/lab/settings/overrides.json
	$(if $(TORCH),echo $(TORCH) > .venv/.torch,rm -f .venv/.torch)
	pwd -P > $@

# Its builds have hashes of their own, so the lock can only give their versions
SMALL_TORCH = $(PIP) install --python $(VENV_PYTHON) --no-deps --compile-bytecode --torch-backend $(TORCH) \
    $(shell sed -nE 's/^((torch|torchvision)==[0-9.]+).*/\1/p' requirements.lock) || { printf '%s\n' \
    "error: PyTorch's own package index gives no torch; try the same command again later, or take the torch of the usual index," \
    "which is 5 GB larger on Linux and no larger elsewhere: the same command with TORCH= in place of TORCH=$(TORCH)" >&2; exit 1; }

.venv/.uv:
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	    { echo 'error: $(PYTHON) is not Python 3.11, 3.12 or 3.13; name one that is: make PYTHON=python3.12' >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo 'error: $(PYTHON) has no venv module; on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	"$(PYTHON)" -m venv .venv
	$(VENV_PYTHON) -m pip install --quiet $(UV)
	touch $@
