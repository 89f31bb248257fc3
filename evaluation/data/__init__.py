"""Labelled pictures: found, matched with the classes of a model, decoded once."""
