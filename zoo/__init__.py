"""Small trained checkpoints, the test images they are measured on, and the recipes that made both."""
