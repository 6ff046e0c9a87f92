"""The sources and readings are those of the writer's tests."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "sr_writer"))
