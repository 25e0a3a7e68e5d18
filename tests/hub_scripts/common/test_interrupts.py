"""One interrupt is waited for, and those that come after it change nothing."""

import signal
import subprocess
import sys
from pathlib import Path


SCRIPT = """
import signal, threading, time
from hub_scripts.common.interrupts import catch_interrupts, handlers_kept

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has it ignored by what it starts in the background
threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])  # so that the other thread is given them
with handlers_kept():
    wait = catch_interrupts()
    print("waits", flush=True)
    wait()
    print("ends", flush=True)
    time.sleep(0.5)
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


def test_a_second_interrupt_changes_nothing_whichever_thread_is_given_it() -> None:
    root = Path(__file__).resolve().parents[3]
    with subprocess.Popen([sys.executable, "-c", SCRIPT], cwd=root, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline() == "waits\n"
        running.send_signal(signal.SIGINT)
        running.send_signal(signal.SIGTERM)
        assert running.stdout.readline() == "ends\n"
        running.send_signal(signal.SIGINT)
        assert running.communicate(timeout=20)[0] == "True\n" and running.returncode == 0
