"""For authors of plugins: a new package, a draft of a table from a compiled module, and the conformance kit."""
