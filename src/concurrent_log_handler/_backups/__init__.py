"""What becomes of a file that was rotated: its name, its compression, its end, and who is told."""
