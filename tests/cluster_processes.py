"""The processes of a cluster, which all descend from the one that runs the tests."""

import os
import signal
from pathlib import Path

LISTENING = "0A"  # in /proc/net/tcp


def named(part):
    """Return the numbers of the processes below this one that have this in their command line."""
    found = []
    for process in _below(os.getpid()):
        try:
            line = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has just ended
        if part in line:
            found.append(process)
    return found


def kill(process):
    os.kill(process, signal.SIGKILL)


def open_to_others():
    """Return what processes below this one listen on beside the loopback address, as hexadecimal address and port."""
    sockets = {}
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = row.split()
            if fields[3] == LISTENING and not _is_loopback(fields[1]):
                sockets[f"socket:[{fields[9]}]"] = fields[1]
    own = set()
    for process in [os.getpid(), *_below(os.getpid())]:
        try:
            own |= {str(file.readlink()) for file in Path(f"/proc/{process}/fd").iterdir()}
        except OSError:
            continue
    return {address for socket, address in sockets.items() if socket in own}


def _is_loopback(address):
    host = address.partition(":")[0]
    return host in ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")


def _below(process):
    """Return all processes that descend from one."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text()
            except OSError:
                continue
            parents.setdefault(int(status.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found, todo = [], [process]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found
