# Two commands matter: `make book` and `make test`. Both set up .venv on first use.
PYTHON ?= python3
VENV := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help environment assets book test shots claims lint bench clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

environment: ## create .venv and install what the book and the tests need
	@$(PYTHON) tools/environment.py

assets: environment ## fetch MathJax and the widgets' JavaScript, so that the book opens offline
	@$(VENV) -m tools.assets

book: assets ## execute the notebooks and build the HTML (ARGS="--scale smoke" for a quick one)
	@$(VENV) -m tools.book $(ARGS)

test: assets ## run every test (ARGS="-k browser" to choose)
	@$(VENV) -m pytest $(ARGS)

shots: environment ## screenshots of every page of the built book: light, dark, phone; into shots/
	@$(VENV) -m tools.shots $(ARGS)

claims: environment ## train what the claims compare and record it; resumable (ARGS="--help")
	@$(VENV) -m wsl_core.claims measure $(ARGS)

lint: environment ## ruff: style and imports
	@$(VENV) -m ruff check .

bench: environment ## benchmarks, each as a ratio within one run
	@$(VENV) -m benchmarks $(ARGS)

clean: ## remove what can be made again, but for .venv and the training cache
	@rm -rf .book _build shots build dist .pytest_cache .ruff_cache assets/offline tools/web/node_modules
