"""Which models are here, which are loaded, and who answers for each."""
