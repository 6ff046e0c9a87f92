"""Decoding in a process of its own: what dies, hangs or grows there ends one frame, with its reason."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from engine_files import PYDICOM_FILES, image_dataset, store
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from engine.errors import UndecodableError
from engine.imaging import decode_frame
from engine.imaging.decoder import HEAD, Decoder
from engine.limits import Limits
from engine.study import Instance, load_instance

VALUES = (np.arange(64 * 48, dtype=np.uint16) * 7).reshape(64, 48)


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Decoder]:
    """A decoder of the test's own."""
    own = Decoder(60, 256 << 20)
    monkeypatch.setattr(Decoder, "of", lambda _limits: own)
    yield own
    own.close()


def compressed(path: Path, values: np.ndarray, syntax: str = JPEGLSLossless) -> Instance:
    dataset = image_dataset(values)
    encode = imagecodecs.jpegls_encode if syntax == JPEGLSLossless else imagecodecs.jpeg2k_encode
    dataset.PixelData = encapsulate([encode(values)])
    return load_instance(store(dataset, path, syntax))


def pid_of(decoder: Decoder) -> int:
    (process,) = decoder._idle
    return process._child.pid


def while_it_is_stopped(decoder: Decoder, instance: Instance, then: Callable[[int], None]) -> str:
    """Why a frame is not decoded by a process to which something happens in its midst."""
    decode_frame(instance, 1)
    pid = pid_of(decoder)
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(decode_frame, instance, 1)
        while decoder._idle:
            time.sleep(0.001)
        then(pid)
        with pytest.raises(UndecodableError) as caught:
            asked.result(60)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert (decode_frame(instance, 1).samples == VALUES).all()  # by the next one
    assert pid_of(decoder) != pid
    return str(caught.value)


def test_one_process_decodes_frame_after_frame(decoder, tmp_path):
    instance = compressed(tmp_path / "a.dcm", VALUES)
    assert (decode_frame(instance, 1).samples == VALUES).all()
    first = pid_of(decoder)
    assert (decode_frame(instance, 1).samples == VALUES).all()
    assert pid_of(decoder) == first


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_codec_that_crashes_ends_its_frame_alone(decoder, tmp_path, number):
    def crash(pid: int) -> None:
        os.kill(pid, number)
        os.kill(pid, signal.SIGCONT)

    said = while_it_is_stopped(decoder, compressed(tmp_path / "a.dcm", VALUES), crash)
    assert said == (
        f"the pixels cannot be decoded (the decoder ended on it with {number.name}, JPEG-LS Lossless Image Compression)"
    )


def test_codec_that_takes_too_long_is_killed(decoder, tmp_path):
    instance = compressed(tmp_path / "a.dcm", VALUES)
    decode_frame(instance, 1)
    decoder._idle[0]._seconds = 0.3
    said = while_it_is_stopped(decoder, instance, lambda _pid: None)
    assert "decoding takes longer than the limit of 0.3 s" in said


def test_codec_that_wants_too_much_memory_is_refused_it(tmp_path):
    values = np.zeros((3000, 3000), np.uint16)
    dataset = image_dataset(values)
    store(dataset, tmp_path / "plain.dcm")
    dataset = dcmread(tmp_path / "plain.dcm")
    dataset.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    dataset.save_as(tmp_path / "a.dcm")
    instance = load_instance(tmp_path / "a.dcm")
    little = replace(instance, limits=Limits(decode_bytes=12 << 20))
    with pytest.raises(UndecodableError, match="decoding needs more memory than the limit of 12 MiB"):
        decode_frame(little, 1)
    assert not decode_frame(instance, 1).samples.any()
    other = compressed(tmp_path / "b.dcm", values, JPEG2000Lossless)
    with pytest.raises(UndecodableError, match=r"the pixels cannot be decoded \(.*JPEG 2000"):
        decode_frame(replace(other, limits=little.limits), 1)
    small = replace(compressed(tmp_path / "c.dcm", VALUES), limits=little.limits)
    assert (decode_frame(small, 1).samples == VALUES).all()
    Decoder.of(little.limits).close()


def test_process_that_died_while_it_waited_costs_no_frame(decoder, tmp_path):
    instance = compressed(tmp_path / "a.dcm", VALUES)
    decode_frame(instance, 1)
    os.kill(pid_of(decoder), signal.SIGKILL)
    decoder._idle[0]._child.wait()
    assert (decode_frame(instance, 1).samples == VALUES).all()


def test_frames_of_several_threads_do_not_mix(decoder, tmp_path):
    instances = [compressed(tmp_path / f"{n}.dcm", VALUES + n) for n in range(4)]
    with ThreadPoolExecutor(8) as pool:
        frames = list(pool.map(lambda n: decode_frame(instances[n % 4], 1).samples, range(40)))
    assert all((frame == VALUES + n % 4).all() for n, frame in enumerate(frames))
    assert len(decoder._idle) <= (os.cpu_count() or 1)


ANSWERS = [
    (b'{"shape": [64, 48], "dtype": "O8", "bits": 16}', bytes(64 * 48)),
    (b'{"shape": [64, 49], "dtype": "u2", "bits": 16}', bytes(64 * 49 * 2)),
    (b'{"shape": [64, 48], "dtype": "u2", "bits": 16}', bytes(10)),
    (b"[]", b""),
    (b"5", b""),
    (b'{"error": "\\u001b[2J: ZZTOP"}', b""),
    (b"\xff\xfe", b""),
]


def test_what_a_codec_answers_that_has_been_taken_over_is_not_believed(decoder, tmp_path):
    instance = compressed(tmp_path / "a.dcm", VALUES)
    decode_frame(instance, 1)
    process = decoder._idle[0]
    answers = [HEAD.pack(len(words), len(samples)) + words + samples for words, samples in ANSWERS]
    for answer in [*answers, HEAD.pack(1 << 31, 1), HEAD.pack(1, 1 << 40)]:
        process.end()
        script = (
            "import sys; sys.stdout.buffer.write(bytes.fromhex(sys.argv[1])); sys.stdout.flush();"
            "sys.stdin.buffer.read()"
        )
        process._child = subprocess.Popen(
            [sys.executable, "-S", "-c", script, answer.hex()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        decoder._idle[:] = [process]
        with pytest.raises(UndecodableError, match="the decoder ended on it"):
            decode_frame(instance, 1)
        assert not decoder._idle


def test_process_that_decodes_knows_no_secrets_and_is_confined(decoder, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDREGA_PACS__BROKER__URL", "redis://:secret@host")
    decode_frame(compressed(tmp_path / "a.dcm", VALUES), 1)
    about = Path("/proc") / str(pid_of(decoder))
    assert b"secret" not in (about / "environ").read_bytes()
    limits = (about / "limits").read_text()
    for name in ("Max file size", "Max core file size"):
        line = next(line for line in limits.splitlines() if line.startswith(name))
        assert line.split()[-3] == "0"
    assert "unlimited" not in next(line for line in limits.splitlines() if line.startswith("Max address space"))
    assert (about / "oom_score_adj").read_text().strip() == "1000"


def test_decoders_end_with_whom_they_decode_for():
    script = (
        "from pathlib import Path; from engine.study import load_instance; from engine.imaging import decode_frame;"
        "from engine.imaging.decoder import Decoder; import os, signal, sys;"
        "one = load_instance(Path(sys.argv[1])); decode_frame(one, 1);"
        "print(Decoder.of(one.limits)._idle[0]._child.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = PYDICOM_FILES / "examples_jpeg2k.dcm"
    run = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    pid = int(run.stdout)
    deadline = time.monotonic() + 60
    while (Path("/proc") / str(pid)).exists() and time.monotonic() < deadline:
        if (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break  # nobody here waits for orphans
        time.sleep(0.01)
    else:
        assert not (Path("/proc") / str(pid)).exists()
