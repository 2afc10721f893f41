"""Gates: the parts of a layer that compute the controls of the memory."""
