"""The two ways a job can fail that are not a defect of the platform.

A message is one line: the object, the value found, and the cure. Jobs turn these classes into exit codes;
anything else keeps its traceback and exits with 1.
"""

from __future__ import annotations

__all__ = ["DataError", "RequestError"]


class RequestError(ValueError):
    """What was asked for cannot be done as asked: a misspelt key, a missing folder, an unreachable bucket."""

    exit_code = 2


class DataError(RuntimeError):
    """The data are incomplete or bad: an unreadable object, no usable trial, a wrong checksum."""

    exit_code = 3
