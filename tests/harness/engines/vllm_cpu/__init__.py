"""The real vLLM 0.32 on a CPU: `dependencies` installs it, the Dockerfile starts it."""
