"""The gateway of ModelServing: one OpenAI endpoint for every model of its namespace.

The pure modules (errors, headers, body, surface, sse, departing, catalog, routing, queueing, demand,
views) do no I/O, which import-linter checks; the edges (kubernetes_api, upstream, main) are thin.
"""
