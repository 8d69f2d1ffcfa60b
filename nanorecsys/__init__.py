"""A reproducible study of serving a modern sequential recommender on two virtual CPUs."""
