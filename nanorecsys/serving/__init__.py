"""What the study hands over to the server: the bundle, the encoder, the ranker and retrieval. It never imports torch."""
