"""What comes of an interrupt: Ctrl-C, and SIGTERM."""

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator


__all__ = ["catch_interrupts", "handlers_kept", "ignore_interrupts"]

INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


def ignore_interrupts() -> None:
    """Lets nothing end this program; what its main thread alone may say."""
    if threading.current_thread() is threading.main_thread():
        for interrupt in INTERRUPTS:
            signal.signal(interrupt, signal.SIG_IGN)


def catch_interrupts() -> Callable[[], None]:
    """
    From now on none raises. What is returned waits for the first one, and has all others ignored: no exception strikes
    twice, wherever it may.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    # A signal that another thread is given wakes this one by what is written there, and would not by its handler.
    signal.set_wakeup_fd(writer.fileno())
    for interrupt in INTERRUPTS:
        signal.signal(interrupt, lambda *_: None)

    def wait() -> None:
        while reader.recv(1)[0] not in INTERRUPTS:
            pass
        ignore_interrupts()
        signal.set_wakeup_fd(-1)
        writer.close()

    return wait


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    """Has what ends this program do so in the end as it did before, whatever is set meanwhile."""
    before = {interrupt: signal.getsignal(interrupt) for interrupt in INTERRUPTS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for interrupt, handler in before.items():
                signal.signal(interrupt, handler)
