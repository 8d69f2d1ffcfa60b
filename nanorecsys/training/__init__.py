"""The training chapter: the retriever and the ranker, their losses and loop, and honest baselines."""
