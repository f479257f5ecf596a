"""An index over HTTP: a service and its page. Needs the extra `serve`."""
