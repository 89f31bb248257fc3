"""What decides the results of an evaluation; its hash is part of their address."""
