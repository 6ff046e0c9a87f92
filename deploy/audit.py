"""Asks for what is known against the pinned versions: ``make audit``.

Exit status 0 when all were looked up and nothing is known, 1 when something is, 2 when versions could not be looked up;
those are listed, to be held against advisories (https://osv.dev) by hand.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PINNED = Path(__file__).parent / "constraints.txt"


def asked() -> list[dict[str, Any]]:
    """What pip-audit finds, a record a package."""
    options = [
        "--requirement",
        str(PINNED),
        "--no-deps",
        "--disable-pip",
        "--progress-spinner",
        "off",
        "--format",
        "json",
    ]
    ended = subprocess.run(  # noqa: S603 - our own command line
        [sys.executable, "-m", "pip_audit", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        found: list[dict[str, Any]] = json.loads(ended.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = ended.stderr.strip().splitlines()[-1:]
        reason = f"the advisories are not reached: {last[0] if last else ended.returncode}"
        pins = (line.partition("==") for line in PINNED.read_text(encoding="utf-8").splitlines() if "==" in line)
        found = [{"name": f"{name} ({version})", "skip_reason": reason} for name, _, version in pins]
    return found


def main() -> int:
    """Print what is known; the exit status."""
    found = asked()
    known = [record for record in found if record.get("vulns")]
    left = [record for record in found if "skip_reason" in record]
    for record in known:
        for one in record["vulns"]:
            fixed = ", ".join(one["fix_versions"]) or "nowhere yet"
            print(f"{record['name']} {record['version']}: {one['id']} {' '.join(one['aliases'])}, mended in {fixed}")
    for record in left:
        print(f"not looked up: {record['name']}: {record['skip_reason']}")
    print(f"{len(found)} versions: {len(known)} with known vulnerabilities, {len(left)} that could not be looked up")
    return 1 if known else 2 if left else 0


if __name__ == "__main__":
    sys.exit(main())
