"""Training frameworks under watch: one thin adapter each, the only importer of its framework; and zero code."""
