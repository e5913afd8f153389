"""kill -9 at every named point of a lease, and what is left then (DESIGN 6)."""
