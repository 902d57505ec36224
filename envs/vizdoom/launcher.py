"""Starts the engine of ViZDoom as it should run:  python launcher.py <parent> <folder to work in> <engine> <its arguments>

Left to itself the engine outlives a parent that is killed, for good; it dies of a Ctrl-C that its parent means to survive;
and it leaves a settings file and a folder for saved games in the working directory. All three are settings of a process
that stay when it becomes another program.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""Linux's prctl.h."""

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        # It was killed before it could be asked to tell.
        sys.exit()
    os.chdir(sys.argv[2])
    os.execv(sys.argv[3], sys.argv[3:])
