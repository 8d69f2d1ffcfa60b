"""The load test chapter: a population, an open-loop generator, scenarios, and what they say of a server."""
