"""The command `withstand`, and the client of a running service."""
