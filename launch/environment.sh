# shellcheck shell=bash
# Sourced by the scripts beside it: makes or reuses .venv and installs kdhash into it, with the extra that the variable `extra` names.
# Python 3.11 or newer; choose another one with PYTHON=python3.12.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  { echo "kdhash needs Python 3.11 or newer; set PYTHON to one (this is $("$python" --version))" >&2; exit 1; }
if [ ! -e .venv ]; then
  "$python" -m venv .venv ||
    { rm -rf .venv; echo "cannot make .venv; on Debian and Ubuntu install python3-venv" >&2; exit 1; }
fi
.venv/bin/python -m pip --version >/dev/null 2>&1 || { echo ".venv has no pip; remove it, and start this again" >&2; exit 1; }
# Again whenever the dependencies changed.
stamp=.venv/installed-${extra:-core}
if [ ! -f "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
  echo "installing kdhash into .venv ..."
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${extra:+[$extra]}"
  touch "$stamp"
fi
