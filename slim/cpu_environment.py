"""Settings a process needs before it imports Paddle to train on a CPU. Standard library only.

Measured with paddlepaddle 2.6.2 on an AMD processor: matrix products 2.5 (AVX2) to 4.4 (AVX-512) times faster.
"""

import ctypes
import functools
import os
import signal
import sys
import zlib
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def prepare(threads: int | None = None) -> None:
    """Bind zlib, choose MKL's instruction set, and set the number of threads unless the user's OMP_NUM_THREADS does.

    - Paddle's library exports zlib functions of its own. Where Python's zlib is a shared library that was never called,
      its first call after `import paddle` lands half in the one and half in the other and crashes; a call now binds it.
    - Paddle's bundled MKL of 2019 falls back to SSE on processors that are not Intel's. MKL_DEBUG_CPU_TYPE names the
      path to take: 7 AVX-512, 5 AVX2. It is read at the first matrix product.
    - glibc gives large blocks back to the kernel at every free, which clears their pages anew for every tensor of every
      step. Keeping them makes a step of the classifier a third shorter.
    """
    zlib_is_sound()
    _keep_freed_memory()
    path = _mkl_path(_cpu_info())
    if path:
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", path)
    if threads is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))


@functools.cache
def zlib_is_sound() -> bool:
    """Whether zlib can be called; False where Paddle came in before the first call and spoiled it.

    Then only a child process can try without taking this one down.
    """
    if "paddle" not in sys.modules:
        return _try_zlib()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)  # Paddle's handler would print a page about the crash
        os._exit(0 if _try_zlib() else 1)
    return os.waitpid(child, 0)[1] == 0


def _try_zlib() -> bool:
    return zlib.decompress(zlib.compress(b"paddle")) == b"paddle"


def _keep_freed_memory() -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc only
    if mallopt:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _cpu_info() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""  # not Linux: MKL chooses


def _mkl_path(cpu_info: str) -> str:
    """MKL_DEBUG_CPU_TYPE for the processor of this /proc/cpuinfo; "" where MKL's own choice is right."""
    if "AuthenticAMD" not in cpu_info:
        return ""
    flags: set[str] = set()
    for line in cpu_info.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            flags = set(value.split())
            break
    if {"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512cd"} <= flags:
        return "7"
    return "5" if {"avx2", "fma"} <= flags else ""
