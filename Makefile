# Two commands for a newcomer: `make demo` and `make test`. Each sets up .venv by itself.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
OUT ?= gpu-check-out

# The extension is rebuilt when any of these changes; Python files are used in place.
NATIVE := $(shell find csrc kernels cmake -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' -o -name '*.cmake')
CPP := $(shell find csrc kernels tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

export CMAKE_BUILD_PARALLEL_LEVEL ?= $(JOBS)

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format unit interpreter emulated ptxas-report bench compile-all gpu-check sanitize clean

help:
	@echo 'make demo         train a network on real data through tilewright, compare with torch, draw demo-out/'
	@echo 'make test         linters and every test that this machine can run'
	@echo 'make lint         ruff, mypy, clang-format        make format       apply the formatters'
	@echo 'make bench        pytest-benchmark over bench/    make compile-all  every Triton config for sm_80/90/100'
	@echo 'make emulated     the CUDA kernels on the host, checked      make ptxas-report  their registers and spills, by nvcc'
	@echo 'make gpu-check    tests, tuning and timings on a machine with a GPU, results into OUT=$(OUT)'
	@echo 'make sanitize     the CPU kernels under ASan and UBSan       make clean   remove what was built'

$(VENV)/.requirements: requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	@touch $@

$(VENV)/.installed: $(VENV)/.requirements pyproject.toml CMakeLists.txt $(NATIVE)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pip install --quiet --no-build-isolation --no-deps \
	  --config-settings=cmake.define.TILEWRIGHT_WERROR=ON --editable .
	@touch $@

setup: $(VENV)/.installed

demo: setup
	$(BIN)/python -m tilewright demo --out demo-out

test: lint unit interpreter emulated ptxas-report

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/python tools/check_device_code.py

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

unit: setup
	$(BIN)/python -m pytest tests -n $(JOBS) --dist worksteal -q --ignore=tests/emulator

# Triton decides at import between interpreting and compiling, so its interpreter gets a process of its own.
interpreter: setup
	TRITON_INTERPRET=1 $(BIN)/python -m pytest tests/triton/interpreter tests/contract -n $(JOBS) --dist worksteal -q

# The CUDA kernels compiled for the host, and the machine that runs them: never part of the package. That they were
# named keeps the contract tests of this process to them.
EMULATED := build/emulator
emulated: setup
	PATH="$(abspath $(BIN)):$$PATH" cmake -S . -B $(EMULATED) -G Ninja -DCMAKE_BUILD_TYPE=Release -DTILEWRIGHT_EMULATOR=ON \
	  -DTILEWRIGHT_WERROR=ON -DPython_EXECUTABLE=$(abspath $(BIN)/python)
	PATH="$(abspath $(BIN)):$$PATH" cmake --build $(EMULATED) --target _emulator emulator_tests
	TILEWRIGHT_EMULATOR=$(EMULATED) $(BIN)/python -m pytest tests/emulator tests/contract tests/cuda -n $(JOBS) --dist worksteal -q

# By nvcc, where there is one: what ptxas made of each kernel for sm_80 and sm_90a.
ptxas-report: setup
	$(BIN)/python tools/ptxas_report.py --jobs $(JOBS) --json build/ptxas-report.json

bench: setup
	$(BIN)/python -m pytest bench --benchmark-json build/bench.json

compile-all: setup
	$(BIN)/python -m tilewright compile --arch sm_80,sm_90,sm_100 --json build/compile-all.json

# Runs with the system's Python where that holds torch (a GPU machine without a network), else with .venv.
gpu-check:
	$(PYTHON) -c 'import torch' 2>/dev/null || $(MAKE) setup
	if $(PYTHON) -c 'import torch' 2>/dev/null; then $(PYTHON) tools/gpu_check.py --out $(OUT); \
	else $(BIN)/python tools/gpu_check.py --out $(OUT); fi

# The extension alone, built into a copy of the package. The virtual environment is taken by PYTHONPATH, because its
# own interpreter would find the editable install first. The sanitizers' runtimes must be loaded before all else.
# Leaks are not looked for: Python and torch keep memory until the process ends.
SANITIZED := build/sanitize
sanitize: setup
	rm -rf $(SANITIZED)/site
	mkdir -p $(SANITIZED)/site
	cp -rL python/tilewright $(SANITIZED)/site/
	rm -f $(SANITIZED)/site/tilewright/_C*.so
	PATH="$(abspath $(BIN)):$$PATH" cmake -S . -B $(SANITIZED)/cmake -G Ninja -DCMAKE_BUILD_TYPE=Release -DTILEWRIGHT_SANITIZE=ON \
	  -DTILEWRIGHT_WERROR=ON -DPython_EXECUTABLE=$(abspath $(BIN)/python) \
	  -DCMAKE_LIBRARY_OUTPUT_DIRECTORY=$(abspath $(SANITIZED)/site/tilewright)
	PATH="$(abspath $(BIN)):$$PATH" cmake --build $(SANITIZED)/cmake
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	PYTHONPATH="$(abspath $(SANITIZED)/site):$$($(BIN)/python -c 'import site; print(site.getsitepackages()[0])')" \
	  "$$($(BIN)/python -c 'import sys; print(sys._base_executable)')" -m pytest tests/cpu -q -n $(JOBS) -p no:cacheprovider

clean:
	rm -rf build dist demo-out $(OUT) .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	rm -rf $(VENV)
