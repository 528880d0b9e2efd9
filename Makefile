# make demo   sets everything up and runs the main job on the default models
# make test   passes the tests
# make models trains the default models from nothing (hours)
# PYTHON=/path/to/python3.10 chooses the interpreter that .venv is made with.
.DEFAULT_GOAL := help
.PHONY: help env demo test fonts clean
export PYTHON

python := .venv/bin/python

help:
	@grep -E '^# (make|PYTHON)' Makefile | cut -c3-

env:
	@./environment.sh

demo: env
	@$(python) benchmarks/demo.py --out out/demo

test: env
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy artifact.py command.py ocr_models slim export lite_runtime benchmarks
	$(python) -m pytest

# Faces that the default models were trained with; the test split's own faces are in the repository.
fonts: env
	$(python) slim/fetch_fonts.py

include models.mk

clean:
	rm -rf out/demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
