"""What a process of the node does about itself."""

import subprocess
import sys

_HOLES = """
import time
from dicom_node.process import give_memory_back

def resident():
    with open("/proc/self/status") as status:
        return int(status.read().partition("VmRSS:")[2].split()[0])

give_memory_back(0.05)
blocks = [bytes(1000) for _ in range(200_000)]
full = resident()
kept = blocks[::100]  # a block in use in every so many pages: the C library keeps the rest of them
del blocks
until = time.monotonic() + 20
while resident() > full - 100_000 and time.monotonic() < until:
    time.sleep(0.05)
print(full - resident())
"""


def test_memory_that_was_freed_is_given_back_though_pieces_between_are_in_use() -> None:
    done = subprocess.run([sys.executable, "-c", _HOLES], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) > 100_000  # KiB, of 195 000
