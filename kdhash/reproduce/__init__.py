"""The tables of docs/results.md, each from nothing by one command: python -m kdhash.reproduce NAME."""
