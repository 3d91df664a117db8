"""How the bundled starter model and its adapters were made."""
