"""API keys: who asks, and what each may."""
