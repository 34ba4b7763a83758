"""The C library's memory allocator, set up for a loop that needs the same large arrays again in every step."""

from __future__ import annotations

import ctypes
import os
import platform

from fit3d_ns.common.console import logger

# glibc's <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_KEPT = 32 << 20  # glibc accepts no more
_KEPT_IN_ALL = 1 << 30


def keep_freed_memory() -> bool:
    """Let freed arrays of up to 32 MB be used again instead of going back to the system; whether that was possible.

    By default glibc returns such arrays to the kernel, and the next step's arrays arrive page by page, each zeroed and
    mapped at its first touch: about 5 of 50 ms of a training step at 40,000 Gaussians. What is kept is what was in
    use at the same time, so the peak stays as it is. Set for the whole process, unless the user has set
    MALLOC_MMAP_THRESHOLD_ or MALLOC_TRIM_THRESHOLD_.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    if any(name in os.environ for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")):
        logger.debug("malloc's thresholds stay as you set them")
        return False
    mallopt = ctypes.CDLL(None).mallopt
    done = bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT_IN_ALL))
    logger.debug("malloc keeps freed arrays of up to %d MB: %s", _LARGEST_KEPT >> 20, "yes" if done else "refused")
    return done
