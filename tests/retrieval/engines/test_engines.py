import subprocess
import sys

import numpy as np
import pytest

from kdhash.retrieval.engines import ENGINES, connect_engine, make_engine, open_engine
from kdhash.retrieval.engines.exact import ExactEngine
from kdhash.retrieval.mapped import DamagedFile


def test_names():
    with pytest.raises(ValueError, match=f"engine: 'milvus' is unknown; there are {', '.join(ENGINES)}"):
        make_engine("milvus", 64)
    with pytest.raises(ValueError, match="engine: 'exact' is no database; clickhouse and postgres are"):
        connect_engine("exact", "somewhere", "t")


def test_folders_that_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no manifest.json; the save method of an engine"):
        open_engine(tmp_path)
    engine = make_engine("faiss_flat", 64)
    engine.add([1, 2], np.eye(2, 8, dtype=np.uint8))
    engine.save(tmp_path / "saved")
    with pytest.raises(ValueError, match="saved was saved by the engine 'faiss_flat', not by 'exact'"):
        ExactEngine.open(tmp_path / "saved")
    file = tmp_path / "saved" / "codes.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedFile, match="codes.npy has changed since it was written"):
        open_engine(tmp_path / "saved")
    file.write_bytes(content[:-1])
    with pytest.raises(DamagedFile, match="codes.npy is truncated"):
        open_engine(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == [tmp_path / "saved"]


def test_the_command_starts_without_the_engines_packages():
    program = (
        "import sys; import kdhash.retrieval.engines.cli, kdhash.retrieval.engines\n"
        "heavy = {'jax', 'faiss', 'pyarrow', 'numba', 'chdb', 'clickhouse_connect', 'psycopg'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
