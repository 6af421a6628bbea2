"""Watches heat, memory and storage, and decides what to give up before the kernel does."""
