"""S* measured: every selection policy on the same candidates, scripted and with a real model."""
