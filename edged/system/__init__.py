"""The machine and its service manager."""
