"""One library context a thread, as wide as the caller's other parallel work."""

from __future__ import annotations

import ctypes
import os
import sys
import threading

from . import _library
from ._checks import require_integer


class _Context:
    """`threads` is a number, and the address of GOMP_parallel or None for threads of the library's own."""

    def __init__(self, threads):
        self._library = _library.load()
        self._process = os.getpid()
        num_threads, gomp_parallel = threads
        options = _library.ContextOptions(num_threads=num_threads)
        if gomp_parallel is not None:
            options.parallel_for = _address(self._library.openmp_parallel_for)
            options.parallel_for_state = gomp_parallel
        handle = ctypes.c_void_p()
        self._library.context_create(options, ctypes.byref(handle))
        self.handle = handle
        self.threads = threads

    def __del__(self):
        # After a fork the pool's threads do not exist in the child, and joining them would never end.
        if getattr(self, "handle", None) and self._process == os.getpid():
            self._library.context_destroy(self.handle)


_local = threading.local()
_num_threads = None
_gomp_parallel = None


def _address(function):
    return ctypes.cast(function, ctypes.c_void_p).value


def set_num_threads(num_threads):
    """Set how many threads attention runs on.

    Parameters
    ----------
    num_threads : int or None
        From 1 to 4096. ``None``, the initial state, follows ``torch.get_num_threads()`` when torch is loaded, and
        is as many as CPUs that this process may use when it is not.
    """
    global _num_threads
    _num_threads = None if num_threads is None else require_integer(num_threads, "num_threads", 1, 4097)


def use_openmp_threads():
    """Run on the threads of the OpenMP runtime that torch uses, instead of threads of the library's own.

    For hosts that bind each of those threads to a core: the process then seems to have the core of its main thread only.

    Returns
    -------
    bool
        Whether there is such a runtime.
    """
    global _gomp_parallel
    _gomp_parallel = _address(getattr(ctypes.CDLL(None), "GOMP_parallel", None))
    return _gomp_parallel is not None


def _wanted_threads():
    if _num_threads is not None:
        return _num_threads, _gomp_parallel
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch is not None else 0, _gomp_parallel


def get_num_threads():
    """How many threads attention called from this thread runs on."""
    return _library.load().context_num_threads(current())


def instruction_set():
    """The instruction set in use, such as ``"avx512bf16"``; environment variable ``MINFERENCE_ISA`` forces one."""
    return _library.load().context_isa(current()).decode()


def current():
    """This thread's context handle, made anew when the wanted number of threads has changed."""
    wanted = _wanted_threads()
    context = getattr(_local, "context", None)
    if context is None or context.threads != wanted:
        context = _local.context = _Context(wanted)
    return context.handle


def _forget_contexts():
    global _local
    _local = threading.local()


os.register_at_fork(after_in_child=_forget_contexts)
