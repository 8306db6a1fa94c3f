"""The gateway of ModelServing: one OpenAI endpoint for every model of its namespace.

Pure modules (errors, headers, body, surface, sse, catalog, routing, queueing, demand, views)
import no kubernetes, no httpx, no uvicorn; the edges (kubernetes_api, upstream, main) are thin.
"""
