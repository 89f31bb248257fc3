"""Prediction services over real HTTP on loopback: ours, peers, and what the machine could do without HTTP."""
