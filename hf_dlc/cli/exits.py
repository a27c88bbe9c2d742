"""Frame of every program: logging, and errors in one line."""

from __future__ import annotations

import atexit
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from hf_dlc.errors import DLCError, UserTypeError


Result = TypeVar("Result")

# Their messages say what is wrong, also where a library raises them.
_TELLING = (DLCError, UserTypeError, ImportError, MemoryError, OSError, ValueError)
# They log the address of every request, and with it the signatures that let others upload.
_TALKATIVE = {"httpx": logging.WARNING, "httpx2": logging.WARNING, "huggingface_hub.utils._http": logging.ERROR}
_MOST_SAID = 1_000  # lines that are known again


def run_program(act: Callable[[], Result], name: str = "", level: int = logging.INFO, again: str = "") -> Result:
    """
    Run a program. After its first Ctrl-C the process ignores others, so that its last line stays the last.

    Args:
        act (`Callable`):
            What the program does.
        name (`str`, *optional*):
            Name of the program, with which error messages begin.
        level (`int`, *optional*, defaults to `logging.INFO`):
            Level from which the main process logs; others log errors only.
        again (`str`, *optional*):
            What an interrupted program says of running it again.

    Returns:
        What `act` returned.

    Raises:
        SystemExit: With one line that says what is wrong and what to do, instead of an exception that is not a fault
            of this library.
    """
    from hf_dlc.execution.processes import process_state

    handler = logging.StreamHandler()
    handler.addFilter(_Once())
    level = level if process_state().is_main_process else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s", handlers=[handler])  # without effect where there are others
    for talkative, lowest in _TALKATIVE.items():
        logging.getLogger(talkative).setLevel(lowest)
    try:
        with one_line_for_ctrl_c(name, again):
            return act()
    except Exception as error:
        from datasets.exceptions import DatasetsError
        from yaml import YAMLError

        if not isinstance(error, (*_TELLING, DatasetsError, YAMLError)):
            raise
        sys.exit(_named(name) + " ".join(str(error).split()))


@contextmanager
def one_line_for_ctrl_c(name: str = "", again: str = "") -> Iterator[None]:
    """
    Let Ctrl-C end the program with one line in the place of a traceback, also while libraries are imported.

    Args:
        name (`str`, *optional*):
            Name of the program, with which the line begins.
        again (`str`, *optional*):
            What it says of running the program again.

    Raises:
        SystemExit: After Ctrl-C, with that line.
    """
    atexit.register(_ignore_ctrl_c)
    try:
        yield
    except KeyboardInterrupt:
        _ignore_ctrl_c()
        sys.exit(f"{_named(name)}interrupted. {again}".rstrip())


def _named(name: str) -> str:
    return f"{name}: " if name else ""


class _Once(logging.Filter):
    """
    Lets every line that informs pass once: a program may read the same rows, and choose from them, a hundred times.

    Warnings pass always. They may be of other rows, or of another attempt.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, Any, str], None] = {}  # the latest ones, oldest first

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is a new one."""
        line = record.name, record.msg, repr(record.args)  # not the message: a faulty record is the handler's to tell
        is_new = record.levelno >= logging.WARNING or line not in self._said
        self._said[line] = None
        if len(self._said) > _MOST_SAID:
            del self._said[next(iter(self._said))]
        return is_new


def _ignore_ctrl_c() -> None:
    """A second Ctrl-C would print a traceback over the message of the first, and one at the end over the results."""
    with suppress(ValueError):  # no thread but the main one may say so
        signal.signal(signal.SIGINT, signal.SIG_IGN)
