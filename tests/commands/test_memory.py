"""Peak memory of the process tree."""

from __future__ import annotations

import subprocess
import sys
import time

from bathyscope.commands.memory import PeakMemory, tree_bytes

_CHILD = "import time; held = bytearray(80_000_000); print('ready', flush=True); time.sleep(30)"


def test_memory_of_children_counts_and_the_peak_stays() -> None:
    before = tree_bytes()
    with PeakMemory() as memory:
        child = subprocess.Popen([sys.executable, "-c", _CHILD], stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(0.8)
        child.kill()
        child.communicate()
        assert memory.mark() >= before + 80_000_000
        # After the mark only what is held now counts, but the total remembers.
        assert memory.mark() < before + 80_000_000
        assert memory.total_bytes >= before + 80_000_000
