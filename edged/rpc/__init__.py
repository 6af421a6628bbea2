"""The gRPC front: translates between the wire and the services, and nothing else."""
