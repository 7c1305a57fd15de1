# For habit's sake: every target calls the launcher, which needs neither make nor anything else.

.DEFAULT_GOAL := help
.PHONY: help run test check bench docs lock

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile

run: ## Start everything on this machine, with samples
	./ordinaut dev

test: ## Run the whole suite
	./ordinaut test

check: ## Format, lint, imports, types, unit tests
	./ordinaut check

bench: ## Measure beside peers
	./ordinaut bench

docs: ## Serve the documentation
	./ordinaut docs

lock: ## Write the locks in requirements/ anew, after a change of pyproject.toml
	./ordinaut lock
