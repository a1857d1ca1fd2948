"""The demo page and the reference: static files, served by `server.transports.pages`."""
