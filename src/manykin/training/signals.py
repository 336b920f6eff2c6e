"""Ctrl-C and SIGTERM: finish the step, save, then leave."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self


class Interrupted(KeyboardInterrupt):
    """Training was interrupted and saved; the message says how to go on."""

    exit_code = 130


class Signals:
    """While open, the first SIGINT or SIGTERM only sets :attr:`received`; a second one interrupts at once.

    Python delivers signals to the main thread; elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self.received = False
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            raise Interrupted("Interrupted at once: what was not saved before is lost.")
        self.received = True
