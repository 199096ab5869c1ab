"""The table of seconds: at full size every part fits the next one, and LISA's runs count once for every noun."""

import jax
import pytest

from benchmarks import time_table
from benchmarks.time_table import COLUMNS, Options


@pytest.fixture
def seconds(monkeypatch) -> list[float]:
    """Nothing is computed: parts are put together by their shapes, and take 1, 2, 3 ... seconds."""
    taken = []

    def measured(turns, function, *arrays):
        taken.append(1.0 + len(taken))
        return taken[-1], jax.eval_shape(function, *arrays)

    monkeypatch.setattr(time_table, "measured", measured)
    monkeypatch.setattr(time_table, "drawn", lambda init, dtype: jax.eval_shape(init, jax.random.key(0)))
    return taken


def test_the_sums(seconds):
    lines = [line.strip("| ").split(" | ") for line in time_table.table(Options(model="7b"))]
    assert lines[0][5:] == [*COLUMNS, "all"]
    rows = {(cells[0], cells[4]): cells for cells in lines[2:]}
    assert rows["LISA-7B, paper", "?"][5:] == ["3.4", "1.9", "", "0.2", "", "5.5"]
    assert rows["GELLA-7B, paper", "?"][5:] == ["3.2", "0.7", "", "0.3", "", "4.2"]
    # LISA's encoders, decoder, pass and answer took 1, 2, 3 and 4 seconds; GELLA's four parts 5 to 8, then 9 and 10.
    assert rows["LISA, sizes of 7b", "given"][1:] == ["SAM", "21 x 329", "21", "given", "63", "1", "", "42", "", "106"]
    assert rows["LISA, sizes of 7b", "written"][5:] == ["84", "1", "", "42", "", "127"]
    assert rows["GELLA, sizes of 7b", "given"][1:] == ["800", "877", "21", "given", "9", "5", "6", "7", "8", "35"]
    assert rows["GELLA, sizes of 7b", "written"][5:] == ["10", "5", "6", "7", "8", "36"]
    assert len(seconds) == 10
