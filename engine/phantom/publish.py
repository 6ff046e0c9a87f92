"""A finished training run becomes the checkpoint that ships: identity, weights, tokenizer, ONNX graphs.

``python -m engine.phantom.publish RUN`` writes ``engine/phantom/checkpoint``.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Final

from engine.errors import ModelError
from engine.model.export import export

TARGET: Final = Path(__file__).with_name("checkpoint")
_FILES: Final = ("config.json", "tokenizer.model", "tokenizer_config.json", "added_tokens.json", "model.safetensors")


def publish(run: Path, target: Path, version: str) -> None:
    """Copy a run's checkpoint, name it as a commissioning model, and export it.

    Raises
    ------
    ModelError
        If the run has no complete checkpoint.
    """
    source = run / "checkpoint"
    missing = [name for name in _FILES if not (source / name).exists()]
    if missing:
        raise ModelError(f"{source} lacks {', '.join(missing)}", advice="Train first: make phantom-model.")
    target.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        shutil.copyfile(source / name, target / name)
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    config["medrega_pacs"] = {
        "name": "MedRegA phantom reader",
        "version": version,
        "manufacturer": "medrega-pacs",
        "commissioning": True,
    }
    (target / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    export(target)


def main() -> None:
    """Publish a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a training run")
    parser.add_argument("--target", type=Path, default=TARGET)
    parser.add_argument("--version", default="1")
    args = parser.parse_args()
    publish(args.run, args.target, args.version)


if __name__ == "__main__":
    main()
