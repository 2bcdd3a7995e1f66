"""Rotating log files that many processes can share: the public names."""

from __future__ import annotations

from .__version__ import __version__ as __version__
from .handlers import ConcurrentRotatingFileHandler, ConcurrentTimedRotatingFileHandler, LogFilenameType

__all__ = ["ConcurrentRotatingFileHandler", "ConcurrentTimedRotatingFileHandler", "LogFilenameType"]
