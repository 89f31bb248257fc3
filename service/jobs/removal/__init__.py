"""Evaluations and models that go: on request, or once they are old or too large."""
