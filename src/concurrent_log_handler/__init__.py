"""Rotating log files that many processes can share: the public names."""

from __future__ import annotations

from .handlers import (
    ConcurrentRotatingFileHandler,
    ConcurrentTimedRotatingFileHandler,
    LogFilenameType,
)

__all__ = ["ConcurrentRotatingFileHandler", "ConcurrentTimedRotatingFileHandler", "LogFilenameType"]
__version__ = "1.0.0"
