# `make` alone lists what there is. What set-up makes lands in .venv and .jars,
# what a run writes in .data and executed.

PYTHON ?= python3
# Packages are run as `python -m …`: their scripts in .venv/bin name Python by its path,
# which does not survive every character of a folder's name.
BIN := .venv/bin
RUN := $(BIN)/python -m lib
UV := 0.13.9
STAMP := .venv/.ready

# Without the compiled modules every start of Python takes seconds longer.
unexport PYTHONDONTWRITEBYTECODE
# Packages of another installation would come before those of .venv.
unexport PYTHONPATH PYTHONHOME

# The certificates of a network of its own, by the one name that uv knows; pip and
# `lib.setup.jars` know all four.
ifneq ($(or $(SSL_CERT_FILE),$(PIP_CERT),$(REQUESTS_CA_BUNDLE),$(CURL_CA_BUNDLE)),)
export SSL_CERT_FILE := $(or $(SSL_CERT_FILE),$(PIP_CERT),$(REQUESTS_CA_BUNDLE),$(CURL_CA_BUNDLE))
endif

.DEFAULT_GOAL := help
.PHONY: help doctor setup packages installed demo recorded-run cluster marts dbt-docs lab test test-all \
	lint bench chaos figures slides \
	lock sbom docker-up docker-down docker-test docker-pin clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */\1\t/' \
		| awk -F'\t' '{ printf "  make %-12s %s\n", $$1, $$2 }'

# With this machine's Python before set-up: it needs no packages, only skips what does.
doctor:  ## say whether this machine is ready, before set-up too
	@if test -x $(BIN)/python; then python=$(BIN)/python; else python="$(PYTHON)"; fi; \
		$$python -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null || { \
		echo "FAIL python: $$python is not there, or older than 3.9 (needed: 3.11 to 3.13)"; \
		echo "     install Python 3.11-3.13, then make doctor PYTHON=python3.13"; \
		echo "not ready: python"; exit 1; }; \
		$$python -m lib doctor 2>&1 >/dev/null

setup: $(STAMP)  ## virtual environment, packages and jars (once, then a no-op)

$(STAMP): requirements.txt jars.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"error: Python {v[0]}.{v[1]} found, 3.11 to 3.13 needed: make setup PYTHON=python3.13")'
	@$(MAKE) --no-print-directory packages
	@$(BIN)/python -m lib.setup.jars fetch
	@$(MAKE) --no-print-directory installed
	@$(BIN)/python -m lib.cli.make_class_cache
	@if [ -d .git ] && [ -z "$$CI" ]; then $(BIN)/python -m pre_commit install >/dev/null 2>&1 || true; fi
	@touch $(STAMP)

# The part of set-up that reads requirements.txt alone: a layer of its own in the image.
packages:
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv \
		|| { echo "error: python3 -m venv failed: install your system's python3-venv package" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.txt

# … and the part that reads lib/.
installed:
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@$(BIN)/python -m compileall -q lib
	@$(BIN)/python -c 'import lib.cli.demo, lib.marts.dbt_runner, streamlit.web.cli'

demo: recorded-run setup  ## broker, stream, dashboard and live cards; Ctrl-C ends it, with the books
	@$(RUN) demo

# Before the first set-up, with this machine's Python: it needs no packages.
recorded-run:
	@test -e $(STAMP) || $(PYTHON) -m lib.setup.recorded_run || true

marts: setup  ## build and test the marts with dbt on the lake
	@$(RUN) marts

dbt-docs: setup  ## write the marts' documentation as one page below FRAUD_HOME
	@$(RUN) marts --docs

cluster: setup  ## three brokers, a Spark master and two workers, until Ctrl-C
	@$(RUN) cluster

lab: setup  ## open the notebooks in JupyterLab
	@$(BIN)/python -m jupyterlab --ip=127.0.0.1 --notebook-dir=notebooks

# Files of tests that run at the same time, each with a broker and a Spark of its own: one
# for each 4 GB of memory, one more than there are cores (it waits for a JVM now and then:
# on 2 cores three took 21:40 minutes and two 23:24), four at most.
WORKERS ?= $(shell $(PYTHON) -c 'import os; s = os.sysconf; print(max(1, min(4, \
	os.cpu_count() + 1, s("SC_PAGE_SIZE") * s("SC_PHYS_PAGES") >> 32)))')
AT_ONCE = --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

RUN_TESTS = FRAUD_HOME="$$PWD/.data/test" PLOTLY_RENDERER=plotly_mimetype+notebook \
	$(BIN)/python -m pytest $(AT_ONCE) --nbmake --overwrite --nbmake-timeout=600

test: setup lint  ## everything CI runs: lint, unit, integration, notebooks
	@rm -rf executed && cp -R notebooks executed
	@$(RUN_TESTS) -m "not slow" executed tests

test-all: setup lint  ## and what needs a cluster, an object store, a Thrift server
	@$(BIN)/python -m lib.setup.jars fetch --s3
	@rm -rf executed && cp -R notebooks executed
	@$(RUN_TESTS) executed tests

lint: setup  ## ruff over code and notebooks, the layers of lib/, sqlfluff over the models
	@$(BIN)/ruff format --check lib tests bench docs fixtures notebooks conftest.py
	@$(BIN)/ruff check lib tests bench docs fixtures notebooks conftest.py
	@$(BIN)/python -c 'from importlinter.cli import lint_imports_command as lint; lint()' \
		--no-cache --no-logo
	@cd dbt && ../$(BIN)/python -m sqlfluff lint --disable-progress-bar models tests snapshots

bench: setup  ## throughput of producer and stream on this machine
	@$(BIN)/python -m bench

chaos: setup  ## kill the pipeline a hundred times and count (40 minutes)
	@$(BIN)/python -m bench.chaos

figures: setup  ## docs/: demo.html, the walkthrough and the pictures, from real runs
	@PLOTLY_RENDERER=plotly_mimetype $(BIN)/python -m docs.figures

# Notebooks that `make test` has run and nobody has changed since are not run again.
slides: setup  ## docs/slides.html: the workshop's slides, one file without a network
	@PLOTLY_RENDERER=plotly_mimetype $(BIN)/python -m docs.figures.slides
	@echo "docs/slides.html: open it in a browser"

lock: setup  ## resolve requirements.txt and jars.lock anew
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header requirements.in -o requirements.txt
	@$(BIN)/python -m lib.setup.jars lock
	@$(BIN)/python -m docs.sbom

sbom: setup  ## the bill of materials, docs/sbom.json, from both locks
	@$(BIN)/python -m docs.sbom

PROFILE ?= default

docker-up:  ## the pipeline in containers (PROFILE=default or cluster)
	@docker/secrets.sh
	@COMPOSE_PROFILES=$(PROFILE) $(PYTHON) docker/up.py

docker-down:  ## stop the containers; the volumes stay
	@COMPOSE_PROFILES=default,cluster $(PYTHON) docker/up.py --down

docker-test: setup  ## both profiles for real, with crashes; needs Docker, or root to start it
	@$(BIN)/python -m docker.test $(if $(REQUIRED),--required)

docker-pin:  ## write the digest of each image behind its version in docker/.env
	@docker/pin.sh

clean:  ## remove packages, jars, data and what runs have left here
	@rm -rf .venv .jars .data executed artifacts docs/slides.html .pytest_cache .ruff_cache .hypothesis *.egg-info
