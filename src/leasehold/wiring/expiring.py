"""An egress that can end one credential of a task while the task goes on (DESIGN 4, step 9)."""

from __future__ import annotations

from typing import Any

from envoy.config.listener.v3 import listener_pb2

from leasehold.node.egress import clusters
from leasehold.node.egress.model import Released, State, Upstream
from leasehold.node.egress.service import Egress, _Compartment
from leasehold.node.egress.xds import Key


class ExpiringEgress(Egress):
    """Adds ``end`` to what :class:`Egress` does for whole compartments."""

    def end(self, task: str, credential: str) -> None:
        """Deny the credential's routes, cut its hosts' open streams, and take cluster and secret from Envoy.

        In this order, one push each: no request finds a route without what the route needs.
        """
        compartment = self._compartments.get(task)
        if compartment is None:
            return
        over = [upstream for upstream in compartment.upstreams.values() if upstream.credential == credential]
        for upstream in over:
            compartment.states[upstream.name] = State.CLOSED
            compartment.released.pop(upstream.name, None)
            if upstream.name in compartment.opening:
                compartment.opening[upstream.name].cancel()  # whoever waits for it is told that access has ended
        tables: dict[Key, Any] = {}
        gone: dict[Key, None] = {}
        for upstream in over:
            tables |= self._table(compartment, upstream)
            gone |= clusters.withdraw(upstream)
        cut = _cut(compartment, over)
        compartment.listeners.update(cut)
        for changes in (tables, cut, gone):
            self._xds.update(changes)

    async def _release(self, compartment: _Compartment, upstream: Upstream, released: Released) -> None:
        """What has ended while Envoy was taking it on stays so."""
        await super()._release(compartment, upstream, released)
        if compartment.states[upstream.name] is State.CLOSED:
            compartment.released.pop(upstream.name, None)


def _cut(compartment: _Compartment, over: list[Upstream]) -> dict[Key, Any]:
    """The listeners with the filter chains of these upstreams changed: Envoy cuts what is open on a changed chain.

    A chain serves one name (all names of a port without TLS), so other credentials' streams there are cut too.
    """
    found: dict[Key, Any] = {}
    hosts = {(u.destination.port, u.destination.host) for u in over}
    for key, old in compartment.listeners.items():
        new = listener_pb2.Listener()
        new.CopyFrom(old)
        port = int(key[1].rpartition("/")[2])
        for chain in new.filter_chains:
            names = list(chain.filter_chain_match.server_names)
            if any(at == port and (not names or host in names) for at, host in hosts):
                chain.name += "'"
                found[key] = new
    return found
