"""One module per command, each with its `app`; `service.cli` imports a module when its command is used."""
