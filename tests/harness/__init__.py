"""How the project gets a Kubernetes cluster to be tried on: Docker, node images, kind, tools.

Nothing here knows the product. Run it with `python -m tests.harness up`.
"""
