"""An exported model as a web page: built by `make web`, served on this machine by `medistill web`."""
