# install | demo | demo-images | test | test-real | test-all | test-lower | notebooks | lint |
# docs | dist | audit | bench | clean
# PYTHON=/path/to/python3.12 chooses the interpreter, VENV=folder the environment.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV ?= .venv
PEER := benchmarks/.venv-peer
LOWER := build/venv-lower
PY := $(VENV)/bin/python
PIP := -m pip install -qq --disable-pip-version-check
RUN ?= runs/reviews
FASHION := /usr/share/datasets/fashion-mnist

.PHONY: help install demo demo-images test test-real test-all test-lower notebooks lint \
  docs dist audit bench clean

help:
	@echo "make install   make $(VENV) with the package, its tools and the demo's files"
	@echo "make demo      fine-tune on movie reviews, evaluate, export, predict ($(RUN))"
	@echo "make demo-images  the same on pictures: Fashion-MNIST if it is installed, else digits"
	@echo "make test      the fast tests"
	@echo "make test-real the tests on the real model and data"
	@echo "make test-all  all tests, with coverage"
	@echo "make test-lower  some tests with the oldest packages that pyproject.toml allows"
	@echo "make notebooks the notebooks, from top to bottom"
	@echo "make lint      ruff and mypy"
	@echo "make docs      the documentation as a site, site/index.html"
	@echo "make dist      sdist and wheel, checked, in dist/"
	@echo "make audit     what an installation brings: build/sbom.json, and known weaknesses"
	@echo "make bench     side by side with the Hugging Face Trainer"
	@echo "make clean     remove what building and testing left, not $(VENV) and not runs/"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml requirements-demo.txt
	@$(call make_venv,$(VENV))
	@echo "Installing TensorFlow and the rest into $(VENV): a few minutes, about 3 GB."
	@$(PY) $(PIP) -e '.[dev]'
	@$(PY) $(PIP) --no-deps -r requirements-demo.txt
	@touch $@
	@echo "Installed. Next: make demo, or: source $(VENV)/bin/activate"

demo: install
	$(PY) -m tf_finetune.main --config=configs/reviews.py --workdir=$(RUN)
	$(PY) -m tf_finetune.main --mode=predict --workdir=$(RUN) \
	  "A warm, funny and quietly moving film." \
	  "Two hours of my life that I will never get back." \
	  "The plot creaks, but the actors are a joy to watch."

demo-images: install
	@if [ -d $(FASHION) ]; then set=fashion_mnist; else set=digits; \
	  echo "$(FASHION) is not there: the demo takes scikit-learn's digits."; \
	  echo "For Fashion-MNIST run: sudo apt install dataset-fashion-mnist"; \
	fi; \
	echo "Pictures of $$set:"; \
	$(PY) examples/write_pictures.py $$set pictures/$$set; \
	$(PY) -m tf_finetune.main --config=configs/$$set.py --workdir=runs/$$set; \
	$(PY) -m tf_finetune.main --mode=predict --workdir=runs/$$set \
	  $$(find pictures/$$set -name "*00[1-3].png" | sort | head -5)

test: install
	$(PY) -m pytest -n 2 -m "not real and not slow"

test-real: install
	$(PY) -m pytest -n 2 -m "real and not slow"

test-all: install
	$(PY) -m pytest -n 2 --cov --cov-report=term

# Old packages have files for old Pythons alone: by the oldest.
test-lower: $(VENV)/.with-release
	$(VENV)/bin/uv venv -q --clear --no-python-downloads --python 3.11 $(LOWER)
	$(VENV)/bin/uv pip install -q --python $(LOWER)/bin/python --resolution lowest-direct \
	  -e '.[dev,litert,onnx,tune]'
	$(LOWER)/bin/python -m pytest -p no:cacheprovider -m "not real and not slow" $(LOWER_TESTS)

# Something of each package that we need: readers, runs, exports, tuning, reports.
LOWER_TESTS ?= tests/test_init.py tests/test_docs_examples.py tests/data/test_sources_tfds.py \
  tests/data/test_duplicates.py tests/data/pictures/test_paths.py tests/report/test_page.py \
  tests/results/test_label_audit.py tests/exports/test_every_format.py \
  tests/tuning/test_study.py::test_a_worse_trial_is_pruned_after_a_phase

notebooks: install
	$(PY) -m pytest --nbmake --nbmake-timeout=600 --durations=0 notebooks

lint: install
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

docs: $(VENV)/.with-docs
	@rm -rf site
	TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=-1 \
	  $(VENV)/bin/sphinx-build -q -E --fail-on-warning --keep-going -c docs \
	  -d build/doctrees . site
	@echo "The documentation is in site/index.html."

dist: $(VENV)/.with-release
	@rm -rf dist
	$(PY) -m build -o dist .
	$(VENV)/bin/twine check --strict dist/*

audit: $(VENV)/.with-release
	@VENV=$(VENV) .ci/audit

bench: install $(PEER)/.installed
	$(PY) benchmarks/text_vs_trainer.py

$(PEER)/.installed: benchmarks/requirements-peer.txt
	@$(call make_venv,$(PEER))
	@echo "Installing torch and transformers into $(PEER)."
	@$(PEER)/bin/python $(PIP) $(PEER_PIP) -r $<
	@touch $@

clean:
	rm -rf build dist site htmlcov .coverage .coverage.* .pytest_cache .ruff_cache .mypy_cache
	find tf_finetune tests benchmarks configs -name __pycache__ -type d -prune -exec rm -rf {} +

# An extra, beside what `install` brings.
$(VENV)/.with-%: $(VENV)/.installed
	@$(PY) $(PIP) -e '.[$*]'
	@touch $@

# An environment in folder $(1), by $PYTHON or the first interpreter that fits.
define make_venv
fits='import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; \
if [ ! -x $(1)/bin/python ]; then \
  for python in $(if $(PYTHON),"$(PYTHON)",python3.13 python3.12 python3.11 python3); do \
    if "$$python" -c "$$fits" 2>/dev/null; then found="$$python"; break; fi; \
    tried="$${tried:-} $$python ($$("$$python" --version 2>/dev/null || echo absent))"; \
  done; \
  if [ -z "$${found:-}" ]; then \
    echo "Python 3.11, 3.12 or 3.13 with venv is needed; tried:$$tried." >&2; \
    echo "Install one, or name it: make install PYTHON=/path/to/python3.12" >&2; \
    exit 2; \
  fi; \
  "$$found" -m venv $(1); \
elif ! $(1)/bin/python -c "$$fits" 2>/dev/null; then \
  echo "$(1) holds $$($(1)/bin/python --version 2>&1), not Python 3.11-3.13; remove it." >&2; \
  exit 2; \
fi
endef
