"""The operator's arbitration beside other disciplines, in simulated time."""
