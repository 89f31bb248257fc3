"""Which architecture is in this file? Answered from the names and shapes of its tensors, and from the files beside it."""
