"""Requests: admitted or refused, queued, formed into batches, answered. Takes and gives bytes; knows no transport."""
