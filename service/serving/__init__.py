"""Predictions: from a picture to logits, through a queue for each device."""
