"""The training chapter: retriever and ranker, their losses and loop, and honest baselines."""
