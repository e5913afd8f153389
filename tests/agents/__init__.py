"""The real agents, run against stand-ins for the model APIs."""
