"""A swap of ours beside the same two Deployments scaled by hand, and what of it is our doing."""
