"""What evaluations have found, read from the rows and tallies that are stored."""
