"""Four real processes give the numbers of one device: losses, gradients, batch statistics, codes. (Two: test_runs.py.)"""

import numpy as np

from tests.processes.starting import start, start_several, succeed

MODULE = "tests.processes.steps"


def test_four_processes_give_the_numbers_of_one_device(tmp_path):
    four, one = tmp_path / "four.npz", tmp_path / "one.npz"
    succeed([*start_several(4, MODULE, four), start(MODULE, one)])
    with np.load(four) as found, np.load(one) as expected:
        assert set(found) == set(expected)
        assert len(set(found)) > 30
        for name, value in found.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5, err_msg=name)
