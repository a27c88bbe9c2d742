"""Number of rows that a share or a count asks for."""

from __future__ import annotations

from numbers import Integral, Real

from hf_dlc.errors import UserTypeError


def rows_to_keep(keep: float | int, n_rows: int) -> int:
    """Number of rows that `keep` asks for out of `n_rows`: a float is a share of them, an int a count."""
    if isinstance(keep, Integral) and not isinstance(keep, bool):
        if keep < 1:
            raise ValueError(f"keep as a number of rows must be at least 1, got {keep}.")
        return int(keep)
    if not isinstance(keep, Real) or isinstance(keep, bool):
        raise UserTypeError(f"keep must be a float (share of the rows) or an int (number of rows), got {keep!r}.")
    if not 0 < keep <= 1:
        raise ValueError(f"keep as a share must be in (0, 1], got {keep}. Pass an int for a number of rows.")
    n_keep = round(n_rows * float(keep))
    if n_keep == 0:
        raise ValueError(f"keep={keep} of {n_rows} rows rounds to 0 rows. Pass a larger share or a number of rows.")
    return n_keep
