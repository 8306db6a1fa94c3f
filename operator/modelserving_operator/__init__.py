"""The operator: keeps exactly one engine of each ModelServing on its GPU, and says why."""
