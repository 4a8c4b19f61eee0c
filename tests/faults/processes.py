"""Processes of the tests of faults: waited for, counted, and found when nobody should be left."""

import os
import time


def until(condition, seconds=120, processes=()):
    """Wait for `condition`; an error where it does not come, or a process ends before it does."""
    end = time.monotonic() + seconds
    while not condition():
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def alive(pid):
    """Whether a process of this id runs (a zombie does not)."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children(pid):
    """Process ids below `pid`, at any depth."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == pid:
            found += [int(entry), *children(int(entry))]
    return found
