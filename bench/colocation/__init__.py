"""What do several functions on one GPU cost each other? ``python -m bench.colocation`` says how that is measured."""
