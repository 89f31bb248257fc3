"""One module per command, each with its `app`; `cli.main` imports a module when its command is used."""
