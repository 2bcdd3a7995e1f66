"""The self-check: real processes write into one rotating log, and what is left of it is counted."""
