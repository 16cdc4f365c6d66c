#!/usr/bin/env bash
# Installs kdhash into .venv and runs the main job on handwritten digits: offline after the install, under three minutes on
# two cores. Prints the comparison table and the path of the report. Arguments go to the run: --config.bits=16
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
exec .venv/bin/python -m kdhash.main --config configs/quickstart.py --workdir runs/quickstart "$@"
