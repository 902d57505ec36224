"""Starts the engine of ViZDoom:  python launcher.py <parent> <folder to work in> <engine> <its arguments>

Sets three properties that a process keeps across exec. The engine dies with its parent, even if that is killed. It ignores Ctrl-C,
which its parent may survive. It writes its settings file and its folder of saved games to the given folder instead of the working
directory.
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
        # The parent died before prctl took effect.
        sys.exit()
    os.chdir(sys.argv[2])
    os.execv(sys.argv[3], sys.argv[3:])
