"""Pages for people, rendered on the server from the templates in `service/web`."""
