"""Bodies of requests: files, pictures, forms, JSON."""
