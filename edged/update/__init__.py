"""Models over the air: decided, fetched, tried, watched, and gone back on by themselves."""
