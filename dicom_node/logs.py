"""The log: structured, on standard error, and free of patient data.

The project's own events carry UIDs, counts and settings only. Libraries write values of data sets into their messages,
warnings and exceptions; of those only what happened and where gets through, never the words.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from dicom_node.settings import LogSettings
from engine.errors import MedregaError

_WITHHELD: Final = (
    "pydicom",
    "pynetdicom",
    "highdicom",
    "pylibjpeg",
    "fpdf",
    "celery.app.trace",
    "httpx",
    "httpcore",
    "py.warnings",
)
"""Loggers whose messages may hold values of a data set (f-strings, so there is no template to fall back on), or of a
query's URL."""

_QUIET: Final = (
    "pydicom",
    "pynetdicom",
    "highdicom",
    "pylibjpeg",
    "openjpeg",
    "libjpeg",
    "fpdf",
    "fontTools",
    "PIL",
    "celery",
    "kombu",
    "amqp",
    "sqlalchemy",
    "alembic",
    "httpx",
    "httpcore",
    "uvicorn",
)
"""Loggers that speak from WARNING on whatever the level: below it they print data sets, statements and parameters."""


def set_up_logging(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Route structlog, the standard library's loggers, warnings and uncaught exceptions into one log.

    A Celery worker needs ``worker_hijack_root_logger=False``, or it replaces this set-up by its own.

    Parameters
    ----------
    settings : LogSettings
    stream : text file, optional
        Standard error when left out.
    """
    stream = stream if stream is not None else sys.stderr
    console = settings.format == "console" or (settings.format == "auto" and stream.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _exception_without_values,
    ]
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=stream.isatty())
        if console
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    handler = _Handler(stream)
    handler.addFilter(_withhold)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _visible,
                *([_exception_in_words] if console else []),
                renderer,
            ],
        )
    )
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in _QUIET:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(max(level, logging.WARNING))
    # Withheld, their lines say nothing; what a refused connection or association means is logged by whoever asked.
    for name in ("pynetdicom.transport", "pynetdicom.acse"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    warnings.showwarning = _log_warning
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_thread


class _Handler(logging.StreamHandler[TextIO]):
    """Writes lines, and of one that cannot be written no more than where it came from."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        """Tell of a line that cannot be made; the library would print the exception, which may quote a data set."""
        with suppress(OSError, ValueError):
            self.stream.write(f"a line of {record.name} at line {record.lineno} could not be logged\n")


def _withhold(record: logging.LogRecord) -> bool:
    """Replace a library's words by the place they come from."""
    if record.name.startswith(_WITHHELD):
        said = f"{record.name}: {record.funcName} line {record.lineno}"
        if record.name == "celery.app.trace" and isinstance(record.args, dict):
            said = " ".join(str(record.args.get(key, "")) for key in ("name", "id", "description"))
        record.msg, record.args = said, None
    return True


def _exception_without_values(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:  # noqa: ARG001
    """Exceptions as types and places; the words only of the project's own, which hold no patient data."""
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    if isinstance(info, BaseException):
        info = (type(info), info, info.__traceback__)
    if info and info[1] is not None:
        event["exception"] = describe(info[1])
    return event


def _visible(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:  # noqa: ARG001
    """Control characters as escapes: what a peer sends is to be no line of its own, and no command of a terminal."""
    return {key: _escaped(value) for key, value in event.items()}


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isprintable() else "".join(map(_letter, value))
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_escaped(item) for item in value]
    return value


def _letter(letter: str) -> str:
    return letter if letter.isprintable() else letter.encode("unicode_escape").decode()


def _exception_in_words(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:  # noqa: ARG001
    """An exception as the console's renderer takes it: as text."""
    said, words = event.pop("exception", None), []
    while said:
        message = f": {said['message']}" if "message" in said else ""
        words.append(f"{said['type']}{message} at {' < '.join(reversed(said['trace']))}")
        said = said.get("cause")
    if words:
        event["exception"] = "\n  because of ".join(words)
    return event


def describe(error: BaseException) -> dict[str, Any]:
    """Say what went wrong without a value of a data set: types, places, and our own words.

    Parameters
    ----------
    error : BaseException

    Returns
    -------
    dict
        ``type``, ``message`` (for `MedregaError` and the system's own errors), ``trace``, ``cause``.
    """
    said: dict[str, Any] = {"type": type(error).__name__}
    if isinstance(error, MedregaError):
        said["message"] = str(error)
    elif isinstance(error, OSError) and error.strerror:
        said["message"] = error.strerror
    said["trace"] = [
        f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
    ][-8:]
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        said["cause"] = describe(cause)
    return said


def _log_warning(
    message: Warning | str,  # noqa: ARG001 - it may quote a value
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001
    line: str | None = None,  # noqa: ARG001
) -> None:
    logging.getLogger("warnings").warning("%s at %s:%d", category.__name__, Path(filename).name, lineno)


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger("medrega_pacs").critical("uncaught exception", exc_info=(kind, error, trace))


def _log_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None and arguments.exc_type is not SystemExit:
        _log_uncaught(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
