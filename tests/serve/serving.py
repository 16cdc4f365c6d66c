"""A server with the stand-in model, as a process: INDEX SECONDS_A_BATCH. Prints its port when it is ready."""

import sys

from kdhash.retrieval.index import open_index
from kdhash.serve.app import make_app
from kdhash.serve.guard import LOOPBACK
from kdhash.serve.server import listen, run_server
from tests.serve.stand_ins import ProjectionModel

if __name__ == "__main__":
    guard = make_app(open_index(sys.argv[1]), ProjectionModel(seconds=float(sys.argv[2])), hosts=LOOPBACK)
    listener = listen("127.0.0.1", 0)
    run_server(guard, listener, lambda: print(listener.getsockname()[1], flush=True))
