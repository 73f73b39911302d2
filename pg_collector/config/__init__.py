"""What the user decides: values in `model`, units in `units`, reading and checking in `load`."""
