"""Tensor operations of the attention families."""
