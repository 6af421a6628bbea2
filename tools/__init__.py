"""What is run by hand and by make; no part of edged."""
