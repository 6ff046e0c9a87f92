"""One parser under libFuzzer, which keeps what reaches new code: ``guided.py TARGET CORPUS [options]``."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
warnings.simplefilter("ignore")  # the library's, of what is odd in a data set

OURS = ["dicom_node", "engine"]

with atheris.instrument_imports(include=OURS):
    from parser_targets import TARGETS


def main() -> None:
    """Fuzz until the time is over, or something is found."""
    name, corpus, *options = sys.argv[1:]
    target = TARGETS[name]
    for number, seed in enumerate(target.seeds()):
        Path(corpus, f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], corpus, *options], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
