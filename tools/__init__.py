"""The command line `nki-oracle`: one module per command."""
