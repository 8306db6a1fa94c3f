"""What is measured, against whom. Each module is one `make bench-…` target."""
