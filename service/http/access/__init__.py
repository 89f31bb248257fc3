"""How requests carry keys, and which scope each request needs."""
