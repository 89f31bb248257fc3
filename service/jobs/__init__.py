"""Durable evaluations: a database, a dispatcher, a process for each device."""
