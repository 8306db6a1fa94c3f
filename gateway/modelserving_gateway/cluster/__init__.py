"""The ModelServings: read from the Kubernetes API, and demand written to it."""
