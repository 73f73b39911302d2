"""How a session proves who it is. Each method gives at most a password; libpq does the rest."""
