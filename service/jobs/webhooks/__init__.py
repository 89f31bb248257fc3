"""Calls to addresses of the users when evaluations have ended."""
