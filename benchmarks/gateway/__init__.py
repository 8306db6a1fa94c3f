"""The gateway beside other proxies, one core each: latency, throughput, streams, holding, soak."""
