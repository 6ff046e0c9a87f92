"""The log says what happened and never whose data it was."""

import io
import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Literal

import pytest
import structlog

from dicom_node.logs import set_up_logging
from dicom_node.settings import LogSettings
from engine.errors import NodeError

NAME = "ZZTOP^PHI"


@pytest.fixture
def restored() -> Iterator[None]:
    """Logging is process-wide; put back what the test changes."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level, warnings.showwarning, sys.excepthook, threading.excepthook)
    yield
    root.handlers, sys.excepthook, threading.excepthook = before[0], before[3], before[4]
    root.setLevel(before[1])
    warnings.showwarning = before[2]
    structlog.reset_defaults()


def captured(level: Literal["debug", "info"] = "debug") -> io.StringIO:
    stream = io.StringIO()
    set_up_logging(LogSettings(format="json", level=level), stream)
    return stream


@pytest.mark.usefixtures("restored")
def test_events_are_json_lines_with_time_level_and_fields() -> None:
    stream = captured()
    structlog.get_logger("node").info("study complete", study="1.2.3", images=4)
    record = json.loads(stream.getvalue())
    assert record["event"] == "study complete"
    assert (record["level"], record["study"], record["images"], record["logger"]) == ("info", "1.2.3", 4, "node")
    assert record["timestamp"].endswith("Z")


@pytest.mark.usefixtures("restored")
def test_words_of_dicom_libraries_are_withheld() -> None:
    stream = captured()
    logging.getLogger("pynetdicom.assoc").debug("Patient %s", NAME)
    logging.getLogger("pynetdicom.acse").error("Association Rejected")  # told by whoever asked for the association
    logging.getLogger("pynetdicom.assoc").error(f"Failed to decode {NAME}")
    logging.getLogger("celery.app.trace").error(
        "Task %(name)s[%(id)s] %(description)s: %(exc)s",
        {"name": "read", "id": "7", "description": "raised unexpected", "exc": f"ValueError('{NAME}')"},
    )
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert NAME not in stream.getvalue()
    assert [line["event"] for line in lines][1] == "read 7 raised unexpected"
    assert len(lines) == 2


@pytest.mark.usefixtures("restored")
def test_warnings_that_quote_a_value_are_named_only() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        stream = captured()
        warnings.warn(f"Invalid value for VR UI: '{NAME}'", stacklevel=1)
    assert "UserWarning" in stream.getvalue()
    assert NAME not in stream.getvalue()


@pytest.mark.usefixtures("restored")
def test_exceptions_keep_type_and_place_but_only_our_own_words() -> None:
    stream = captured()
    try:
        try:
            raise ValueError(NAME)
        except ValueError as error:
            raise NodeError("the spool cannot be written") from error
    except NodeError:
        structlog.get_logger("node").exception("delivery failed")
        logging.getLogger("other").exception("delivery failed")
    assert NAME not in stream.getvalue()
    for line in stream.getvalue().splitlines():
        exception = json.loads(line)["exception"]
        assert exception["message"] == "the spool cannot be written"
        assert exception["cause"]["type"] == "ValueError"
        assert exception["trace"][0].startswith("test_logs.py:")


@pytest.mark.usefixtures("restored")
def test_uncaught_exceptions_of_threads_are_logged_without_values() -> None:
    stream = captured()

    def fail() -> None:
        raise ValueError(NAME)

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    assert json.loads(stream.getvalue())["exception"]["type"] == "ValueError"
    assert NAME not in stream.getvalue()


@pytest.mark.usefixtures("restored")
def test_the_level_limits_and_the_console_format_is_for_people() -> None:
    stream = captured("info")
    structlog.get_logger().debug("not seen")
    assert stream.getvalue() == ""
    set_up_logging(LogSettings(format="console"), stream)
    structlog.get_logger().info("seen", count=2)
    assert "seen" in stream.getvalue()
    assert "count=2" in stream.getvalue()


HOSTILE = "A\x1b[2J\nforged line\r\x9b31m\u202eB\u2028C"


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("form", ["console", "json"])
def test_control_characters_reach_no_terminal_and_make_no_line(form: Literal["console", "json"]) -> None:
    stream = io.StringIO()
    set_up_logging(LogSettings(format=form), stream)
    structlog.get_logger("node").warning(HOSTILE, calling_aet=HOSTILE, more=[{"of": HOSTILE}], both={HOSTILE})
    logging.getLogger("library").error("refused %s", HOSTILE)
    text = stream.getvalue()
    assert text.count("\n") == 2
    assert all(letter.isprintable() for letter in text.replace("\n", ""))


@pytest.mark.usefixtures("restored")
def test_exceptions_are_words_at_a_terminal_too(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    set_up_logging(LogSettings(format="console"), stream)
    try:
        try:
            raise ValueError(NAME)
        except ValueError as error:
            raise NodeError("the spool cannot be written") from error
    except NodeError as error:
        structlog.get_logger("node").error("delivery failed", exc_info=error)
    assert "NodeError: the spool cannot be written at test_logs.py:" in stream.getvalue()
    assert "because of ValueError at test_logs.py:" in stream.getvalue()
    assert NAME not in stream.getvalue() + capsys.readouterr().err


@pytest.mark.usefixtures("restored")
def test_a_line_that_cannot_be_made_is_told_without_its_values(capsys: pytest.CaptureFixture[str]) -> None:
    stream = captured()

    class Odd:
        def __repr__(self) -> str:
            raise ValueError(NAME)

    structlog.get_logger("node").error("odd", value=Odd())
    assert "could not be logged" in stream.getvalue()
    assert NAME not in stream.getvalue() + capsys.readouterr().err
