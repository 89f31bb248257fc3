"""Durable evaluations: a store, a queue, a dispatcher, a process for each device."""
