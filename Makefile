# Each goal first installs what it needs; once that is there, this costs nothing noticeable.
.PHONY: help run test check coverage bench mutate crash chaos agents clean
.DEFAULT_GOAL := help

PYTHON := .venv/bin/python
SETUP := @command -v python3 >/dev/null || { echo "error: python3 is missing"; \
	echo "hint: apt-get install python3 python3-venv"; exit 1; }; python3 tools/setup.py

help: ## say what there is
	@sed -n 's/^\([a-z]*\): ## /\1 /p' Makefile | while read -r goal text; do printf 'make %-8s %s\n' "$$goal" "$$text"; done

run: ## show an agent that uses credentials which it cannot have
	$(SETUP) run
	@$(PYTHON) tools/story.py

test: ## run all tests
	$(SETUP) test
	@$(PYTHON) -m pytest

check: ## check style, types, the direction of imports, and the house rules
	$(SETUP) check
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@$(PYTHON) -m pytest tests/tidy

coverage: ## check that the security packages' own tests reach every branch
	$(SETUP) test
	@$(PYTHON) tools/coverage.py

bench: ## measure the budgets and write build/bench.json
	$(SETUP) bench
	@$(PYTHON) benchmarks/run.py

mutate: ## weaken the boundary on purpose, see whether tests notice, write build/mutate.json
	$(SETUP) mutate
	@$(PYTHON) tests/redteam/mutate.py

crash: ## kill a broker at every point of a lease, see what is left at real providers, write build/crash.json
	$(SETUP) crash
	@$(PYTHON) tests/crash/run.py

chaos: ## issue 10,000 leases while providers fail and brokers are killed, write build/chaos.json
	$(SETUP) chaos
	@$(PYTHON) tests/chaos/run.py

agents: ## run the real agents in a compartment against stand-ins for the model APIs
	$(SETUP) agents
	@PYTHONPATH=tests $(PYTHON) -m agents.run

clean: ## remove everything that was made
	@rm -rf .venv .venv-peers build tests/servers/node_modules src/*.egg-info
	@rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache .coverage
	@find src tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
