"""The service: HTTP, durable jobs, pages and commands around `evaluation`, `attacks` and `models`."""
