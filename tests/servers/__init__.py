"""Real upstreams, on loopback, for tests, the story of ``make run`` and benchmarks.

Start with :class:`servers.upstreams.Upstreams` and :class:`servers.harness.Leasehold`.
"""
