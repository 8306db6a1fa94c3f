"""What clients may say and are told: paths, bodies, headers, errors. Pure, all of it."""
