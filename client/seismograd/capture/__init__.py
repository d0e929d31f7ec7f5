"""The only importer of torch: hooks, norms, their way to the host, the catalog, the sampled probes."""
