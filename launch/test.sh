#!/usr/bin/env bash
# Installs kdhash with its test extra into .venv and runs linters, the type checker and the tests. Arguments go to pytest.
# KDHASH_EXTRAS=test,oracle adds PyTorch, with which converted networks are compared (1.2 GB as a CPU build, which on Linux wants
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu), and test,engines-test ClickHouse and PostgreSQL (600 MB); without them
# those tests skip.
extra=${KDHASH_EXTRAS:-test}
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
# Two processes, a file to one of them: what a file prepares is prepared once.
exec .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
