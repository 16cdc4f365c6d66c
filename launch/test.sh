#!/usr/bin/env bash
# Installs kdhash with its test extra into .venv and runs linters, the type checker and the tests. Arguments go to pytest.
extra=test
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
exec .venv/bin/python -m pytest --cov --cov-report=term:skip-covered "$@"
