"""The operator's side: keys, publishing, plans."""
