"""Single pictures that someone looks at: explained, and tried turned, flipped and attacked."""
