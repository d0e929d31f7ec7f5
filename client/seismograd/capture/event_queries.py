"""Leave to ask whether a CUDA event is done, while another thread captures a CUDA graph.

A capture that begins in the default mode, "global", is broken off when any thread of the process asks for an event
meanwhile, also for one that has nothing to do with it: somebody's `torch.cuda.graph` would fail because of us. The
driver lets a thread say that it takes no part in the captures of others (CUDA: cuThreadExchangeStreamCaptureMode), as
torch's own NCCL watchdog does. torch has no Python name for it. The driver is asked and not the runtime, which would
make a context on the first device, hundreds of megabytes, for a thread that has none.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import torch

# Captures of other threads do not concern this one.
_THREAD_LOCAL = 1
_CUDA = ("libcuda.so.1", "cuThreadExchangeStreamCaptureMode")
_HIP = ("libamdhip64.so", "hipThreadExchangeStreamCaptureMode")


class _Leave(threading.local):
    asked = False


_leave = _Leave()


def allow_event_queries(load: Callable[[str], Any] = ctypes.CDLL) -> None:
    """From now on this thread may ask for events whoever captures. For threads of ours only; never raises.

    Where the driver has no such function there is nothing that could be done. `load` opens a library.
    """
    if _leave.asked:
        return
    _leave.asked = True
    library, function = _CUDA if torch.version.hip is None else _HIP
    try:
        exchange = getattr(load(library), function)
        exchange(ctypes.byref(ctypes.c_int(_THREAD_LOCAL)))
    except (OSError, AttributeError):
        pass
