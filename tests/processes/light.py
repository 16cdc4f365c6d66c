"""python -m tests.processes.light MODULE ...: as python -m MODULE, where PyTorch is not installed. Others, such as tensorboardX,
would import it, which takes longer than all the rest."""

import runpy
import sys


class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, NoTorch())

if __name__ == "__main__":
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
