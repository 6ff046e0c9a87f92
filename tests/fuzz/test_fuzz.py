"""A few seconds of fuzzing with a fixed seed, and what longer runs have found. `make fuzz` is the long form."""

import random
import socket
import struct
import time
from pathlib import Path

import destinations
import edge
import handshakes
import pytest
from console_client import Console
from mutations import mutated
from parser_targets import NAMES, TARGETS

from dicom_node.routing.rules import parse_rules

pytestmark = pytest.mark.filterwarnings("ignore")  # the library's, of what is odd in a data set


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_stands_what_a_seed_makes_of_ordinary_bytes(name: str) -> None:
    target, chance = TARGETS[name], random.Random(1)  # noqa: S311 - to be repeated
    seeds = tuple(target.seeds())
    for seed in seeds:
        target.run(seed)
    for _ in range(30):
        target.run(mutated(chance.choice(seeds), chance, seeds))


@pytest.mark.parametrize(
    "content",
    ["name = [1]", "name = {}", 'name = "a"\nplan = [1]', 'name = "a"\ndestinations = [[1]]', "name = 1\nwhen = 2"],
)
def test_values_of_the_wrong_kind_are_faults_of_the_rules_and_no_crash(content: str) -> None:
    faults = parse_rules(f"[[routes]]\n{content}\n", NAMES)
    assert isinstance(faults, list)
    assert faults


def test_a_uid_that_comes_again_behind_the_last_one_counts_for_no_reader() -> None:
    def element(group: int, number: int, value: bytes) -> bytes:
        return struct.pack("<HH2sH", group, number, b"UI", len(value)) + value

    uids = element(8, 0x16, b"1.2\0") + element(8, 0x18, b"1.3\0") + element(0x20, 0xD, b"1.4\0")
    series, again = element(0x20, 0xE, b"1.5\0"), element(0x20, 0xE, b"1.")
    TARGETS["header"].run(b"\1" + uids + series + element(8, 0x50, b"") + again)


@pytest.mark.parametrize("unit", [" ", "a", "a ", "(", "<box>", "[1 ", "<ref>", '{"label": "', "<box>[1, 2, 3, 4]"])
def test_a_model_that_babbles_costs_no_more_than_a_moment(unit: str) -> None:
    begin = time.process_time()
    TARGETS["answers"].run((unit * (6000 // len(unit))).encode())
    assert time.process_time() - begin < 5  # one expression took a minute


def test_a_listener_stands_hostile_conversations_and_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    chance = random.Random(2)  # noqa: S311
    with edge.attacked(tmp_path) as batch:
        for _ in range(3):
            _, wrong = batch(chance, 20)
            assert not wrong


def test_a_listener_stands_hostile_handshakes(tmp_path: Path) -> None:
    with handshakes.attacked(tmp_path) as batch:
        for seed in (4, 5):
            _, wrong = batch(random.Random(seed), 20)  # noqa: S311
            assert not wrong


def test_a_browser_that_goes_within_a_form_is_no_error_of_the_console(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    console = Console(tmp_path)
    try:
        with socket.create_connection(("127.0.0.1", console.settings.console.port)) as connection:
            head = b"POST /sign-in HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 50\r\n"
            connection.sendall(head + b"Content-Type: application/x-www-form-urlencoded\r\n\r\nname=a")
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1000)
        assert console.client().get("/healthz/live").status_code == 200
    finally:
        console.close()
    assert "unexpected error" not in "".join(capfd.readouterr())


def test_a_sender_stands_hostile_destinations(tmp_path: Path) -> None:
    with destinations.attacking(tmp_path) as batch:
        _, wrong = batch(random.Random(3), 3)  # noqa: S311
        assert not wrong
