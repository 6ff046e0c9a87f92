"""``python -m engine.imaging.decoding SECONDS BYTES``: the process that decodes compressed frames, one after another.

It is given codestreams of anyone's making. It opens no file, and what it answers is checked by who asked.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from engine.header import READ_ERRORS
from engine.imaging import codecs
from engine.imaging.decoder import HEAD

_GRACE_SECONDS: Final = 5
"""After its time a decoder ends by itself, should who asked be no more."""


def main(arguments: list[str]) -> None:
    """Decode frames until standard input ends."""
    seconds, memory = float(arguments[0]), int(arguments[1])
    incoming, outgoing = sys.stdin.buffer, sys.stdout.buffer
    codecs.load()
    _confine(memory)
    outgoing.write(b"\n")
    outgoing.flush()
    while head := incoming.read(HEAD.size):
        told, size = HEAD.unpack(head)
        signal.setitimer(signal.ITIMER_REAL, seconds + _GRACE_SECONDS)  # its default action ends the process
        try:
            answer, samples = _decode(json.loads(incoming.read(told)), incoming.read(size))
        except READ_ERRORS as error:
            answer, samples = {"error": type(error).__name__}, np.empty(0, np.uint8)
        words = json.dumps(answer).encode()
        outgoing.write(HEAD.pack(len(words), samples.nbytes) + words)
        outgoing.write(samples.data)
        outgoing.flush()
        signal.setitimer(signal.ITIMER_REAL, 0)


def _confine(memory: int) -> None:
    """No memory beyond the limit, no file written, no core left, and the first to go where the machine runs short."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with suppress(OSError):  # a container may keep it as it is
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most, hard = pages * resource.getpagesize() + memory, resource.getrlimit(resource.RLIMIT_AS)[1]
        if hard == resource.RLIM_INFINITY or most < hard:  # else who started the node has set a lower one
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _decode(request: dict[str, Any], codestream: bytes) -> tuple[dict[str, Any], npt.NDArray[Any]]:
    syntax = UID(request["syntax"])
    samples, meta = get_decoder(syntax).as_array(
        encapsulate([codestream]), index=0, raw=True, decoding_plugin=codecs.plugin_for(syntax), **request["options"]
    )
    samples = np.ascontiguousarray(samples)
    told = {"shape": samples.shape, "dtype": samples.dtype.str[1:], "bits": int(meta.get("bits_stored", 0))}
    return told, samples


if __name__ == "__main__":
    main(sys.argv[1:])
