"""Metrics: who may read them, and where a host that only works gives them."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from dicom_node.settings.section import Port, Section, is_loopback


class MetricsSettings(Section):
    """Metrics for Prometheus, at `/metrics` of the console. They hold no patient data, but tell how busy a site is."""

    token_file: Path | None = Field(
        default=None,
        description="File that holds the bearer token that a scraper must send. Without one only this machine is "
        "answered, where it asks for localhost or 127.0.0.1.",
    )
    worker_host: str = Field(
        default="127.0.0.1", min_length=1, description="Address of worker_port. Other hosts need open_worker_port too."
    )
    worker_port: Port | None = Field(
        default=None,
        description="Where `medrega-pacs worker`, which has no console, gives the metrics of its own processes; none "
        "without.",
    )
    open_worker_port: bool = Field(
        default=False, description="Let whoever reaches worker_host read a worker's metrics: it asks for no token."
    )

    @model_validator(mode="after")
    def _closed_until_told(self) -> MetricsSettings:
        if self.worker_port is not None and not (is_loopback(self.worker_host) or self.open_worker_port):
            raise ValueError("other hosts can reach worker_host, and no token is asked there: open_worker_port = true")
        return self
