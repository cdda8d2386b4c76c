"""How much memory this process may use."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def usable_memory() -> int:
    """Return the memory of the machine in bytes, or the limit of this process's control group if that is lower.

    A control group also counts the pages of mapped files, so at most this much of an index stays in memory.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with suppress(OSError):  # not Linux
        for line in _OWN.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            inner = Path(group.lstrip("/"))
            if controllers == "":  # version 2
                files = [_GROUPS / folder / "memory.max" for folder in (inner, *inner.parents)]
            elif "memory" in controllers.split(","):
                files = [_GROUPS / "memory" / folder / "memory.limit_in_bytes" for folder in (inner, *inner.parents)]
            else:
                continue
            for (
                file
            ) in files:  # each of the groups that hold it limits it; a container may see only its own, as the root
                with suppress(OSError, ValueError):  # not there, or "max"
                    limits.append(int(file.read_text()))
    return min(limits)
