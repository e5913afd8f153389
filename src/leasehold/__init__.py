"""Leasehold: a coding agent can use a credential without ever being able to have one."""

__version__ = "0.1.0"
