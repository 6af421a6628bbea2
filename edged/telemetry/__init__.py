"""What the operator learns of this device, and what it may be told to do."""
