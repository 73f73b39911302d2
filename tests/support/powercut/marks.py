"""For the recorded program: note in the recording what it promised, and when."""

import ctypes


def mark(name: str, number: int) -> None:
    """Record that `name` holds for `number` from here on. RuntimeError when nothing records."""
    try:
        function = ctypes.CDLL(None).powercut_mark
    except AttributeError as error:
        raise RuntimeError("powercut: the recorder is not preloaded") from error
    function(name.encode(), ctypes.c_int64(number))
