"""The broker: embedded by default, any Redis by URL, and never a password in words."""

import os
from pathlib import Path

import pytest
from certificates import Authority
from kombu.exceptions import OperationalError
from node_bench import node_settings
from redis_server import redis_server

from dicom_node.children import Child, Children, tethered
from dicom_node.queue.broker import (
    BrokerError,
    broker_url,
    celery_app,
    connect,
    describe,
    is_embedded,
    server_command,
    socket_path,
    wait_until_up,
)
from dicom_node.settings import Settings
from engine.errors import SettingsError


def test_without_a_url_the_node_brings_its_own_in_the_data_folder(tmp_path: Path) -> None:
    settings = node_settings(tmp_path)
    assert is_embedded(settings)
    assert broker_url(settings) == f"redis+socket://{tmp_path}/data/broker/valkey.sock"
    command = server_command(settings)
    assert command[command.index("--port") + 1] == "0"
    assert command[command.index("--appendonly") + 1] == "yes"


def test_a_long_data_path_gets_a_short_private_socket(tmp_path: Path) -> None:
    settings = node_settings(tmp_path, data={"path": tmp_path / ("long" * 20) / "data"})
    path = socket_path(settings)
    assert len(os.fsencode(path)) <= 100
    assert path == socket_path(settings)
    assert path.parent.stat().st_mode & 0o077 == 0
    path.parent.chmod(0o755)
    with pytest.raises(BrokerError):
        socket_path(settings)
    path.parent.rmdir()


def test_a_password_is_in_the_url_and_nowhere_else(tmp_path: Path) -> None:
    settings = node_settings(tmp_path, broker={"url": "redis://user:topsecret@127.0.0.1:1/2"})
    assert "topsecret" in broker_url(settings)
    assert describe(settings) == "redis://127.0.0.1:1/2"
    assert "topsecret" not in repr(settings)
    with pytest.raises(BrokerError) as caught:
        wait_until_up(settings, seconds=0.1)
    assert "topsecret" not in str(caught.value)


def test_another_kind_of_url_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        broker_url(node_settings(tmp_path, broker={"url": "amqp://host"}))


def test_the_embedded_server_comes_back_after_a_kill_with_what_it_had(tmp_path: Path) -> None:
    settings = node_settings(tmp_path)
    children = Children()
    children.add(Child("broker", tethered(server_command(settings)), ends_last=True))
    try:
        wait_until_up(settings)
        with connect(settings) as connection:
            connection.set("key", "value")
            connection.config_set("appendfsync", "always")
            connection.set("key", "synced")
        pid = children.pid("broker")
        assert pid is not None
        os.kill(pid, 9)
        wait_until_up(settings)
        with connect(settings) as connection:
            assert connection.get("key") == b"synced"
        assert children.pid("broker") not in (None, pid)
    finally:
        children.stop(5)
    with pytest.raises(BrokerError):
        wait_until_up(settings, seconds=0.1)


def test_celery_takes_json_alone_acknowledges_late_and_keeps_no_results(tmp_path: Path) -> None:
    conf = celery_app(node_settings(tmp_path), 7200).conf
    assert list(conf.accept_content) == ["json"]
    assert conf.task_acks_late
    assert conf.task_reject_on_worker_lost
    assert conf.worker_prefetch_multiplier == 1
    assert conf.result_backend is None
    assert conf.broker_transport_options["visibility_timeout"] == 7200


def answers(settings: Settings) -> bool:
    """Whether the broker is talked to, as the node looks at it and as Celery does, which come to the same."""
    said = ""
    try:
        wait_until_up(settings, seconds=0.01)
    except BrokerError as error:
        said = f"node: {error}"
    with celery_app(settings, 7200).connection_for_write() as connection:
        try:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=2)
        except OperationalError as error:
            said += f"Celery: {error}"
    assert ("node" in said) is ("Celery" in said)
    assert SECRET not in said
    return not said


SECRET = "geheim/@:ö"  # noqa: S105 - of a server that lives for a test


def test_a_redis_proves_who_it_is_and_asks_for_a_password(tmp_path: Path) -> None:
    authority, elsewhere = Authority(tmp_path / "authority"), Authority(tmp_path / "elsewhere", "elsewhere")
    files = {name: tmp_path / name for name in ("right", "wrong")}
    files["right"].write_text(f"{SECRET}\n", encoding="utf-8")
    files["wrong"].write_text("Geheim")

    def settings(port: int, scheme: str = "rediss", ca: Path | None = authority.ca, file: str = "right") -> Settings:
        url = f"{scheme}://127.0.0.1:{port}/0{f'?ssl_ca_certs={ca}' if ca else ''}"
        return node_settings(tmp_path, broker={"url": url, "password_file": files.get(file)})

    with redis_server(tmp_path, authority.issue("redis"), SECRET) as port:
        assert answers(settings(port))
        for wrong in ({"file": "wrong"}, {"file": ""}, {"ca": elsewhere.ca}, {"ca": None}):
            assert not answers(settings(port, **wrong)), wrong  # type: ignore[arg-type]
        assert not answers(settings(port, "redis", None))
    for certificate in (authority.issue("expired", days=-1), authority.issue("other", "DNS:other.example")):
        with redis_server(tmp_path, certificate, SECRET) as port:
            assert not answers(settings(port))
    with redis_server(tmp_path, authority.issue("old"), SECRET, "--tls-protocols", "TLSv1.1") as port:
        assert not answers(settings(port))
