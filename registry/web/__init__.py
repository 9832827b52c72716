"""The registry's pages: rendered on the server, small, without a build step."""
