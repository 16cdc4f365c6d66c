"""A `.npy` file written row by row."""

from pathlib import Path
from typing import Any

import numpy as np


class NpyStream:
    """A `.npy` file of rows that are not known in number beforehand: NumPy leaves room in the header for it."""

    def __init__(self, path: Path, dtype: Any, row: tuple[int, ...] = ()):
        self._file, self._dtype, self._row, self.count = open(path, "wb"), np.dtype(dtype), row, 0  # noqa: SIM115
        self._header()

    def _header(self) -> None:
        descr = np.lib.format.dtype_to_descr(self._dtype)
        shape = (self.count, *self._row)
        np.lib.format.write_array_header_1_0(
            self._file, {"descr": descr, "fortran_order": False, "shape": shape}
        )

    def write(self, rows: np.ndarray) -> None:
        """Appends rows [n, *row]."""
        if rows.dtype != self._dtype or rows.shape[1:] != self._row:
            raise ValueError(f"{self._file.name}: rows of {rows.dtype} {rows.shape[1:]}")
        self._file.write(np.ascontiguousarray(rows).data)
        self.count += len(rows)

    def close(self) -> None:
        if not self._file.closed:
            self._file.seek(0)
            self._header()
            self._file.close()
