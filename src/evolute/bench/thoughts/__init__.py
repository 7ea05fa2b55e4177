"""The thought buffer measured: retrieval, learning over passes, methods beside one another."""
