"""The gateway of ModelServing: one OpenAI endpoint for every model of its namespace.

Its pure modules (errors, headers, body, surface, sse, departing, catalog, routing, queueing,
demand, views) do no I/O, which import-linter checks; its edges (kubernetes_api, upstream, main)
are thin.
"""
