"""Other people's decoders with memories."""
