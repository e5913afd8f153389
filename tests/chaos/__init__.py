"""Thousands of leases while providers fail and brokers are killed, and what is left then (DESIGN 6)."""
