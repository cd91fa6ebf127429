# Every command of this project; CI runs these and nothing of its own.
PYTHON ?= python3
BIN := .venv/bin
SERVER := matyan_project frontier backend workers
SDK := client/src/matyan_client client/src/matyan_wire
OPTIONS ?=
COMMA := ,

.PHONY: help setup up demo test test-blobs test-browser test-cluster test-chaos check lint format bench bench-cluster docs clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: .venv/installed ## create .venv, install everything, prepare Django's tables
	@$(BIN)/python manage.py migrate --verbosity 0

.venv/installed: requirements.txt client/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ". Use: make PYTHON=python3.12 setup")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ./client
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --ignore-requires-python matyan-ui==0.3.2
	@touch .venv/installed

up: setup ## run everything in the foreground (Ctrl-C stops it); OPTIONS="--data-dir …"
	@exec $(BIN)/python manage.py up $(OPTIONS)

demo: setup ## train the example against a server and show what it found
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r examples/requirements.txt
	$(BIN)/python manage.py demo $(OPTIONS)

test: setup ## the default suite, about two minutes
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r examples/requirements.txt
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not chaos and not slow and not kafka and not fdb and not s3 and not azure and not browser" $(OPTIONS)

test-blobs: setup ## blob stores on S3 and Azure servers; needs Java, Maven, npm
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-azure.txt
	$(BIN)/python -m pytest -m "(s3 or azure) and not slow" --require=s3,azure $(OPTIONS)

test-browser: setup ## the web UI and the admin in Chromium, about four minutes; needs chromium and chromium-driver
	$(BIN)/python -m pytest -m browser --require=browser $(OPTIONS)

test-cluster: setup ## Kafka, FoundationDB (where FDB_HOME names one), compose.yaml, faults; needs Java, Maven, postgresql, redis-server
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "kafka or fdb" --require=kafka,postgresql,redis,s3$(if $(FDB_HOME),$(COMMA)fdb) $(OPTIONS)

test-chaos: setup ## processes killed under load, memory bounds: some minutes
	$(BIN)/python -m pytest -m "(chaos or slow) and not kafka and not fdb" $(OPTIONS)

check: setup lint ## formatting, lint, layers, types, settings, generated pages
	$(BIN)/python -m mypy $(SERVER) $(SDK)
	$(BIN)/python -m pyright -p client --pythonpath $(BIN)/python
	$(BIN)/python manage.py check
	$(BIN)/python manage.py makemigrations --check --dry-run --verbosity 0
	$(BIN)/python manage.py reference --check

lint: setup ## formatting, lint and layers only
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	PYTHONPATH=.:client/src $(BIN)/lint-imports

format: setup ## rewrite the code in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup ## one JSON line a figure; about two minutes
	@$(BIN)/python -m bench $(OPTIONS)

bench-cluster: setup ## ingestion on each store and log, 1 and 2 workers; some minutes
	@$(BIN)/python -m bench.cluster $(OPTIONS)

docs: setup ## regenerate the generated pages
	$(BIN)/python manage.py reference

clean: ## remove what the targets made, except data/
	rm -rf .venv .cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
