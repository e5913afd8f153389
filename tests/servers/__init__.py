"""Real upstreams, on loopback, for tests, the story of ``make run`` and benchmarks.

- :class:`servers.upstreams.Upstreams`: ``with Upstreams() as up``; ``up.git``, ``up.pypi``, ``up.npm``, ``up.api``,
  ``up.grpc``, ``up.evil`` and ``up.dns`` start when first used. Each has ``host``, ``address``, ``port``, ``url``,
  ``credential``, ``recorded()`` and ``clear()``; ``up.operator_config(folder)`` writes the operator's file.
- :class:`servers.harness.Leasehold`: ``with Leasehold(up) as lh: lh.run("curl", up.api.url)`` runs the product, as
  root or as a person of :func:`servers.people.ordinary_user`, and raises when something is left behind.
- :func:`servers.encodings.find`: in which encodings a secret stands in a text.
- :func:`servers.direct.run`: a client without the product in between.

They need root, nginx, fcgiwrap, git, node, and ``npm ci`` in this folder.
"""
