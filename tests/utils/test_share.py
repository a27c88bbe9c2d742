from __future__ import annotations

import numpy as np
import pytest

from hf_dlc.utils.share import rows_to_keep


@pytest.mark.parametrize(
    ("keep", "rows", "expected"),
    [
        (0.5, 5, 2),  # 2.5 and 3.5 both go to the even neighbour
        (0.5, 7, 4),
        (0.3, 10, 3),
        (1.0, 10, 10),
        (1, 10, 1),
        (np.float32(0.5), 8, 4),
        (np.int64(3), 8, 3),
        (11, 10, 11),  # whether there are enough rows is not known here
    ],
)
def test_rows_to_keep(keep: float | int, rows: int, expected: int) -> None:
    n_keep = rows_to_keep(keep, rows)
    assert n_keep == expected
    assert type(n_keep) is int


@pytest.mark.parametrize("keep", [True, np.True_, "0.5", [1]])
def test_keep_of_wrong_type_is_refused(keep: object) -> None:
    with pytest.raises(TypeError, match="keep must be a float"):
        rows_to_keep(keep, 10)


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.0001, float("nan"), float("inf")])
def test_share_out_of_range_is_refused(keep: float) -> None:
    with pytest.raises(ValueError, match=r"keep as a share must be in \(0, 1\]"):
        rows_to_keep(keep, 10)


@pytest.mark.parametrize("keep", [0, -1, np.int64(0)])
def test_count_below_one_is_refused(keep: int) -> None:
    with pytest.raises(ValueError, match="keep as a number of rows must be at least 1"):
        rows_to_keep(keep, 10)


def test_share_that_rounds_to_no_row_is_refused() -> None:
    with pytest.raises(ValueError, match=r"keep=0.05 of 10 rows rounds to 0 rows. Pass a larger share"):
        rows_to_keep(0.05, 10)
