# make demo | test | quality | bench — each works on a bare machine: without an active virtual environment it makes .venv first.
ifdef VIRTUAL_ENV
  BIN := $(VIRTUAL_ENV)/bin
else
  BIN := .venv/bin
endif
STAMP := $(BIN)/.anprompt-installed
SEEDS ?= 1
WORKERS ?= 2

.PHONY: demo test quality bench clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || python3 -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)  ## zero-shot and ANPrompt on the packaged toy world; SEEDS=3 for the mean of three runs
	$(BIN)/anprompt demo --seeds $(SEEDS)

test: $(STAMP)  ## everything but the slow tests; 'make test ARGS="-m slow"' runs those
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

quality: $(STAMP)  ## style and types
	$(BIN)/ruff check src tests tools benchmarks
	$(BIN)/ruff format --check src tests tools benchmarks
	$(BIN)/mypy

bench: $(STAMP)  ## speed and memory beside their targets, about five minutes on two cores; see docs/speed.md
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv anprompt-demo
