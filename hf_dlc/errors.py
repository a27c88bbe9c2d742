"""The base of our own errors."""

from __future__ import annotations


class DLCError(RuntimeError):
    """Something that is not a fault of the code; the message says what is wrong and what to do."""


class UserTypeError(TypeError):
    """A value of a type that cannot be used; the message says which types can."""


class UnevenPartsError(DLCError):
    """A layer got another number of rows than a multiple of the levels that stand side by side."""
