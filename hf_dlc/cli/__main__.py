"""`python -m hf_dlc.cli`, and `accelerate launch -m hf_dlc.cli`."""

from __future__ import annotations

from .commands import main


if __name__ == "__main__":
    main()
