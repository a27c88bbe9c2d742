"""The program: `hf-dlc`, `python -m hf_dlc.cli`, and `accelerate launch -m hf_dlc.cli`."""

from __future__ import annotations

from .exits import one_line_for_ctrl_c


def main() -> None:
    """Run the command that the words of the command line name."""
    with one_line_for_ctrl_c("hf-dlc"):
        from .commands import main as run  # what it imports takes a second, in which people change their minds

        run()


if __name__ == "__main__":
    main()
