"""An input with what must come of it, and what is wrong with what came of it."""

import re
import signal
from collections.abc import Callable
from typing import Any, NamedTuple


__all__ = ["Case", "Check", "fault_of"]

SECONDS = 10  # for one input, on a machine that is busy
LONGEST = 20_000  # characters of an error: it may show the line of a table

Check = Callable[[Any], str | None]


class Hang(BaseException):
    """Not one of the errors that anybody catches."""


class Case(NamedTuple):
    """
    An input.

    Args:
        name (`str`): what it is.
        run (`Callable`): reads it.
        check (`Callable`, *optional*): what is wrong with what comes back; without it, nothing may come back.
        named (`str`, *optional*): what an error must say, as a regular expression.
    """

    name: str
    run: Callable[[], Any]
    check: Check | None = None
    named: str = ""


def fault_of(case: Case) -> str | None:
    """What is wrong, if anything: an error that is none of ours or names nothing, a hang, or what the check says."""

    def stop(*_: Any) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        found = case.run()
    except Hang:
        return f"it takes over {SECONDS} s"
    except (ValueError, OSError) as error:
        said = " ".join(str(error).split())
        if not said or " object at 0x" in said or len(said) > LONGEST:
            return f"it says {said[:300]!r}"
        return None if re.search(case.named, said) else f"{case.named} is not named: {said[:300]!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:300]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return f"it passed and gave {found!r:.300}" if case.check is None else case.check(found)
