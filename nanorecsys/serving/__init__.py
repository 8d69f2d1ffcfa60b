"""What the study hands over to the server: bundle, encoder, ranker and retrieval, without torch."""
