"""Who may ask for what: API keys and their scopes; who changed what."""
