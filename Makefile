# From a clean clone: `make demo` shows the compiler at work, `make test` checks it.
# Both set up what they need first (.venv, MLIR's tools); see tools/setup.sh.

PY := .venv/bin/python
LIT := .venv/bin/python .venv/bin/lit

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all bench lint format types filecheck clean

help:
	@echo 'make setup     make .venv, install nkdsl into it, and get mlir-opt 22'
	@echo 'make demo      compile, check and time every program in examples/; emulate Intel AMX'
	@echo 'make test      lint, types, FileCheck tests, unit tests'
	@echo 'make test-all  the same, with slow tests and random hypothesis seeds'
	@echo 'make bench     measure the kernels and their peers; results in bench/results/'
	@echo 'make lint      ruff'
	@echo 'make format    let ruff rewrite the files'
	@echo 'make clean     remove everything that the other targets made, except results'

setup:
	@bash tools/setup.sh

demo: setup
	@set -e; for file in examples/*.mlir; do \
	  echo "== $$file"; \
	  $(PY) -m nkdsl run "$$file"; \
	done
	@echo '== examples/matmul_bf16.mlir, on the tiles of Intel AMX, emulated where this CPU has none'
	@about=$$($(PY) -m nkdsl targets sapphirerapids); \
	if echo "$$about" | grep -qE '^ +(runs|emulated) here +yes'; then \
	  $(PY) -m nkdsl run examples/matmul_bf16.mlir --target sapphirerapids --emulate; \
	else \
	  echo "skipped: $$(echo "$$about" | sed -n 's/^ *emulated here *//p')"; \
	fi

# The steps of a check, in the order of their cost. The unit tests come last, on all CPUs: their
# closing line is the last line of the output.
define run-lint
$(PY) -m ruff check .
$(PY) -m ruff format --check .
endef
define run-types
$(PY) -m mypy
endef
define run-filecheck
$(LIT) -sv --no-progress-bar tests/filecheck
endef

PYTEST := $(PY) -m pytest --numprocesses auto --dist worksteal

test: setup
	$(run-lint)
	$(run-types)
	$(run-filecheck)
	$(PYTEST) -m 'not slow'

test-all: setup
	$(run-lint)
	$(run-types)
	$(run-filecheck)
	HYPOTHESIS_PROFILE=random $(PYTEST)

lint: setup
	$(run-lint)

types: setup
	$(run-types)

filecheck: setup
	$(run-filecheck)

format: setup
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench:
	@bash tools/setup.sh --with-libxsmm
	@bash tools/peers.sh
	@mkdir -p bench/results
	$(PY) -m nkdsl bench micro --dtype f32 --json bench/results/micro-f32.json --picture bench/results/micro-f32.png
	$(PY) -m nkdsl bench micro --dtype f64 --json bench/results/micro-f64.json --picture bench/results/micro-f64.png
	$(PY) -m nkdsl bench blocks 64x96x256 128x128x128 33x47x65 127x255x511 --dtype f32 \
	  --json bench/results/blocks-f32.json --picture bench/results/blocks-f32.png
	$(PY) -m nkdsl bench gemm --dtype f32 --json bench/results/gemm-f32.json --picture bench/results/gemm-f32.png
	$(PY) -m nkdsl bench gemm --dtype f64 --sets squares --json bench/results/gemm-f64.json --picture bench/results/gemm-f64.png
	$(PY) -m nkdsl bench micro --dtype bf16 --json bench/results/micro-bf16.json --picture bench/results/micro-bf16.png
	$(PY) -m nkdsl bench micro --dtype u8s8 --json bench/results/micro-u8s8.json --picture bench/results/micro-u8s8.png
	$(PY) -m nkdsl bench gemm --dtype bf16 --json bench/results/gemm-bf16.json --picture bench/results/gemm-bf16.png
	$(PY) -m nkdsl bench gemm --dtype s8,u8s8 --json bench/results/gemm-s8.json --picture bench/results/gemm-s8.png
	$(PY) -m nkdsl bench mlp --dtype f32,bf16,u8s8,s8 --json bench/results/mlp.json --picture bench/results/mlp.png
	$(PY) -m nkdsl bench tiles --json bench/results/tiles.json
	$(PY) -m nkdsl.bench.readme README.md $(addprefix bench/results/, $(addsuffix .json, \
	  micro-f32 micro-f64 micro-bf16 micro-u8s8 gemm-f32 gemm-f64 gemm-bf16 gemm-s8 mlp tiles))

clean:
	rm -rf .venv .venv-peers build dist nkdsl.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
