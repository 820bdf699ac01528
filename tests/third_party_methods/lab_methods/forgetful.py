"""A method that trains a router and does not save it."""

from __future__ import annotations

from lab_methods.moe import LabMoE


class Forgetful(LabMoE):
    """Leaves its router out of what it has learned."""

    name = "lab_forgetful"
    title = "Forgetful mixture"

    def learned(self, context, model):
        """Everything but the router."""
        return {n: t for n, t in super().learned(context, model).items() if not n.endswith(".cl_router")}
