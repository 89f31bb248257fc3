"""What has been computed, and where it is found again."""
