"""Gates: what makes the controls of the memory."""
