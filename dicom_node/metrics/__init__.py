"""Metrics for Prometheus: what the ledger knows, asked when they are read, and what only a process knows."""
