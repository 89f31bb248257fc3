"""The service: HTTP, durable jobs, pages and commands around `evaluation`, `attacks` and `models`."""

DATA_DIR, DATABASE = ".withstand", "withstand.db"
"""The folder in which all is kept unless another one is named, and the SQLite file in it."""
