"""The load test chapter: users, a load generator, a bench for servers, and queueing."""
