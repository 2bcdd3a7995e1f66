"""The way of a record to its file."""
