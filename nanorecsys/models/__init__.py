"""The models that the chapters share: the retriever (user tower and item table) and the ranker."""
