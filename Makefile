# Every target creates or refreshes the environment that it needs; `make help` lists them.
# VENV= (empty) uses the active environment, for example conda's, in place of .venv.
VENV ?= .venv
PYTHON ?= python3
PROFILE ?= quick
# more of pyproject.toml's extras: lorann takes a C++ compiler and four minutes
EXTRAS ?=
ARGS ?=
# a Milvus for those without Docker: data folder and port of `make milvus`
MILVUS_DATA ?= _build/milvus/data
MILVUS_PORT ?= 19530
# what `make serve` serves
BUNDLE ?= data/runs/$(PROFILE)/bundle

BIN := $(if $(VENV),$(VENV)/bin/)
RUN := $(if $(VENV),$(VENV)/bin/python,$(PYTHON))
PREFIX := $(if $(VENV),$(VENV),$(shell $(PYTHON) -c 'import sys; print(sys.prefix)'))
INSTALLED := $(PREFIX)/.nanorecsys-installed$(addprefix -,$(EXTRAS))
MILVUS := _build/milvus/env/bin/milvus-server
export PYTHONPATH := $(CURDIR)

.DEFAULT_GOAL := help
.PHONY: help install study lab book test serve milvus image lint clean lock

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  PROFILE=smoke|quick|medium|full|ml-20m|ml-32m   sizes of the study (quick)"
	@echo "  ARGS='-p chapter.name=value ...'         more arguments for nanorecsys run, pytest or the server"
	@echo "  BUNDLE=DIR                               what make serve serves (data/runs/PROFILE/bundle)"
	@echo "  MILVUS_DATA=DIR MILVUS_PORT=N            data folder (_build/milvus/data) and port (19530) of make milvus"
	@echo "  EXTRAS=lorann                            install LoRANN as well, one more index library; pip compiles it"
	@echo "  VENV=                                    use the active environment instead of .venv"

install: $(INSTALLED) ## create or refresh the environment (a few minutes at first)

$(INSTALLED): pyproject.toml constraints.txt
	@echo "install  puts the pinned packages into $(if $(VENV),$(VENV),the active environment); a few minutes at first"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "install  expected Python 3.11 or newer, got $$($(PYTHON) -V): make PYTHON=python3.11"; exit 1; }
	@$(if $(VENV),test -x $(RUN) || $(PYTHON) -m venv $(VENV))
	@$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[study,test]' -c constraints.txt
	@$(if $(EXTRAS),$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]' -c constraints.txt)
	@touch $@

study: $(INSTALLED) ## run the study's notebooks and build the book over the results
	@echo "study  runs profile $(PROFILE); unchanged chapters are skipped"
	@$(BIN)nanorecsys run $(PROFILE) $(ARGS)
	@$(BIN)nanorecsys book $(PROFILE)

lab: $(INSTALLED) ## open the notebooks in JupyterLab, with the kernel of this environment
	@echo "lab  opens notebooks/ in JupyterLab; a notebook run there writes to data/runs/by-hand"
	@$(BIN)jupyter lab --notebook-dir "$(CURDIR)" notebooks/01_data.ipynb $(ARGS)

book: $(INSTALLED) ## build the book over the published results, without running a notebook
	@echo "book  renders the published results"
	@$(BIN)nanorecsys book

test: $(INSTALLED) ## run every tier of tests, lint first
	@echo "test  runs every tier; seconds by tier at the end"
	@$(RUN) tests/tiers.py $(ARGS)

serve: $(INSTALLED) $(BUNDLE)/manifest.json ## start the server; builds its bundle first if there is none
	@echo "serve  starts the server over $(BUNDLE)"
	@$(RUN) -m server --bundle $(BUNDLE) $(ARGS)

$(BUNDLE)/manifest.json: | $(INSTALLED)
	@echo "serve  runs the chapters that a bundle is made from, profile $(PROFILE); unchanged ones are skipped"
	@$(BIN)nanorecsys run $(PROFILE) --only 01_data --only 02_training --only 03_export --only 04_ann
	@$(BIN)nanorecsys bundle $(PROFILE) --output $(BUNDLE)

milvus: $(MILVUS) ## run a Milvus server until Ctrl+C, for those who have no Docker
	@echo "milvus  answers at http://127.0.0.1:$(MILVUS_PORT) in a few seconds, and on every network of this machine"
	@$(MILVUS) --data $(MILVUS_DATA) --proxy-port $(MILVUS_PORT)

# an environment of its own: its packages are older than those of the study
$(MILVUS):
	@echo "milvus  installs the server into _build/milvus/env"
	@$(PYTHON) -m venv _build/milvus/env
	@_build/milvus/env/bin/python -m pip install --quiet --disable-pip-version-check milvus==2.3.5 'setuptools<80'

image: ## build the server's container image with docker, podman or buildah
	@for tool in docker podman buildah; do \
		if $$tool info >/dev/null 2>&1; then \
			format=; [ $$tool = docker ] || format='--format docker'; \
			echo "image  builds nanorecsys-server with $$tool"; \
			exec $$tool build $$format --file server/Containerfile --tag nanorecsys-server $(ARGS) .; \
		fi; \
	done; \
	echo "image  expected docker, podman or buildah, and none of them runs here"; exit 1

lint: $(INSTALLED) ## check style, format, types and that subpackages import only those below them
	@echo "lint  checks style, format, types and imports"
	@$(RUN) tests/tiers.py --lint

clean: ## remove the environment, runs and pages; downloads stay
	@echo "clean  removes .venv, data/runs, _build and caches"
	@rm -rf .venv data/runs _build .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis *.egg-info
	@find . -name __pycache__ -prune -exec rm -rf {} +

lock: ## resolve all packages in a fresh environment and write constraints.txt
	@echo "lock  resolves the tree in a fresh environment; a few minutes"
	@rm -rf _build/lock && $(PYTHON) -m venv _build/lock
	@_build/lock/bin/python -m pip install --quiet --disable-pip-version-check -e '.[study,test]'
	@{ echo "# Exact pins of the whole resolved tree (Python 3.11, Linux); \`make lock\` writes it again."; \
		_build/lock/bin/python -m pip list --format freeze --exclude-editable --exclude pip --exclude setuptools \
		| tr A-Z_ a-z- | sed 's/+cpu$$//'; } > constraints.txt
	@rm -rf _build/lock
