# make demo   toy world -> shards -> training -> scored tracker and submission zip, in ./demo
# make test   the whole test suite, in four processes: many tests wait for others
# make bench  how fast everything is, against its limits: a table, and bench.json
#             (make bench -- --quick shows only that it works)
# make bench-gpu  what has to be seen on a GPU, in at most eight minutes; needs no setup
# make vot    an environment with VOT's toolkit in .vot, for lorat-eval vot --toolkit .vot/env/bin/vot
# make lint   ruff (lint and format) and mypy
# Each sets up what it needs (.venv, the package, libturbojpeg where it may) and can be run again.

PYTHON ?= python3
VENV := .venv
BIN := $(abspath $(VENV)/bin)
DEMO := demo
READY := $(VENV)/.ready

.PHONY: demo test bench bench-gpu lint setup vot clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt tools/setup.sh
	PYTHON="$(PYTHON)" VENV="$(VENV)" sh tools/setup.sh
	touch $@

demo: $(READY)
	mkdir -p $(DEMO)
	PATH="$(BIN):$$PATH" sh tools/demo.sh $(DEMO)

test: $(READY)
	$(BIN)/python -m pytest -n 4 --dist loadfile --max-worker-restart=0 --durations=20

bench: $(READY)
	$(BIN)/python -m benchmarks.run --json bench.json $(filter --%,$(MAKECMDGOALS))

bench-gpu:
	PYTHON="$(PYTHON)" sh tools/bench_gpu.sh --json bench-gpu.json $(filter --%,$(MAKECMDGOALS))

--%:
	@:

vot:
	sh tools/vot.sh .vot "$(PYTHON)"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	sh tools/types.sh $(BIN)

clean:
	rm -rf $(DEMO) .links build *.egg-info
