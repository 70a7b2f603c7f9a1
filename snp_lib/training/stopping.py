"""Stopping a training before its end, at a checkpoint."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Stopped(RuntimeError):  # noqa: N818 - not an error
    """The training stopped at a checkpoint before its end: SIGTERM came, or its time was up."""

    def __init__(self, reason: str, moment: str, kept: str) -> None:
        super().__init__(f"stopped by {reason} {moment}; {kept}")


class StopRequests:
    """While entered, SIGTERM is noted in ``pending`` instead of ending the process at once.

    Python delivers signals to the main thread only; entered from another thread nothing is noted.
    """

    def __init__(self) -> None:
        self.pending = False
        self._before: Any = None
        self._entered = False

    @property
    def reason(self) -> str:
        return "SIGTERM" if self.pending else "its time limit"

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
            self._entered = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._entered:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if self._before is None else self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.pending = True
