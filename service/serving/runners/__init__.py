"""What runs a batch: as it is, or as a captured graph on a stream of its own."""
